//! Peers that are not what they should be, on real sockets: packets sent again, garbage, other versions, a
//! member that lost its state, and a member that is one and has gone mad. Each is refused and counted, and
//! disturbs nobody: other nodes' programs get their locks all the time.
//!
//! Wrong keys and wrong secrets are in `daemon.rs`.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use oarlock::Kind;
use oarlock::blocking::Client;
use oarlock_chaos::cluster::Cluster;
use oarlock_chaos::proxy::Recorded;
use oarlock_layout::code::Code;
use oarlock_layout::directory::master;
use oarlock_layout::id::{NodeId, SpaceId};
use oarlock_layout::message::frame::{self, Datagram, Foreign};
use oarlock_sim::Random;

mod mad;

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const PATIENCE: Duration = Duration::from_secs(20);
/// A node that is kept busy by bad company may be slower, but not by this.
const WORST: Duration = Duration::from_secs(2);

fn cluster() -> Cluster {
    Cluster::new(Path::new(env!("CARGO_BIN_EXE_oarlock")), 1).unwrap()
}

fn serving() -> Cluster {
    let mut cluster = cluster();
    cluster.start_all().unwrap();
    cluster.wait_until_serving(PATIENCE).unwrap();
    cluster
}

/// A program at each of some nodes; they hand an exclusive lock to each other all the time.
struct Going {
    stop: Arc<AtomicBool>,
    grants: Arc<AtomicU64>,
    thread: JoinHandle<Duration>,
}

impl Going {
    fn at(cluster: &Cluster, nodes: &[usize]) -> Going {
        // One of the nodes decides, so the others are not needed.
        let members = || (0..3).map(NodeId);
        let decided = |name: &String| {
            let by = master(SpaceId(0), name.as_bytes(), members()).unwrap();
            nodes.contains(&usize::from(by.0))
        };
        let name = (0..).map(|n| format!("going/{n}")).find(decided).unwrap();
        let clients: Vec<Client> = nodes.iter().map(|n| cluster.client(*n, "going").unwrap()).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let grants = Arc::new(AtomicU64::new(0));
        let (stopped, granted) = (Arc::clone(&stop), Arc::clone(&grants));
        let thread = thread::spawn(move || {
            let mut worst = Duration::ZERO;
            while !stopped.load(Ordering::Relaxed) {
                for client in &clients {
                    let asked = Instant::now();
                    let guard = client.space("default").unwrap().lock(&name).acquire().unwrap();
                    worst = worst.max(asked.elapsed());
                    granted.fetch_add(1, Ordering::Relaxed);
                    guard.release().unwrap();
                }
                thread::sleep(Duration::from_millis(2));
            }
            worst
        });
        Going { stop, grants, thread }
    }

    #[track_caller]
    fn end(self) {
        let more = self.grants.load(Ordering::Relaxed) + 50;
        until("locks are granted", || self.grants.load(Ordering::Relaxed) > more);
        self.stop.store(true, Ordering::Relaxed);
        let worst = self.thread.join().unwrap();
        assert!(worst < WORST, "the slowest grant took {worst:?}");
    }
}

type Counters = BTreeMap<String, u64>;

/// What was counted since, of some counters together.
fn since(cluster: &Cluster, node: usize, before: &Counters, names: &[&str]) -> u64 {
    let now = cluster.counters(node).unwrap();
    names.iter().map(|name| now[*name] - before[*name]).sum()
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// All is as if nothing had happened: no circuit went down or silent, nobody was accused.
#[track_caller]
fn undisturbed(cluster: &mut Cluster, before: &[Counters]) {
    assert_eq!(cluster.fallen(), Vec::<&str>::new(), "{}", cluster.logs());
    for (node, before) in before.iter().enumerate() {
        let status = cluster.status(node).unwrap();
        assert_eq!(status["healthy"], true, "{status}");
        for name in ["circuit_down", "silences", "violations", "lock_violations"] {
            assert_eq!(since(cluster, node, before, &[name]), 0, "{name}\n{}", cluster.logs());
        }
    }
}

fn all_counters(cluster: &Cluster) -> Vec<Counters> {
    (0..3).map(|node| cluster.counters(node).unwrap()).collect()
}

/// FT13: packets that were caught on the wire, handshakes too, and are sent again: at once, a second time, and
/// to later runs of the same nodes with other keys.
#[test]
fn packets_sent_again_are_counted_and_change_nothing() {
    let mut cluster = cluster();
    cluster.proxy.record();
    cluster.start_all().unwrap();
    cluster.wait_until_serving(PATIENCE).unwrap();
    let going = Going::at(&cluster, &[A, B, C]);
    until("enough was recorded", || cluster.proxy.counts().taken > 1_500);
    let recorded = cluster.proxy.recorded();
    let hellos = |recorded: &[Recorded], to| {
        recorded.iter().filter(|d| d.to == to && d.bytes[3] == frame::Kind::Hello as u8).count()
    };
    assert!((0..3).map(|to| hellos(&recorded, to)).sum::<usize>() >= 3, "no handshake was recorded");

    let before = all_counters(&cluster);
    for _ in 0..2 {
        for datagram in &recorded {
            cluster.proxy.inject(datagram.clone());
        }
    }
    let refused =
        ["replayed", "no_such_key", "hellos_replayed", "hellos_dropped", "replies_stray", "cookies_sent"];
    for (node, before) in before.iter().enumerate() {
        let sent = 2 * recorded.iter().filter(|d| d.to == node).count() as u64;
        until("every packet is counted as refused", || {
            since(&cluster, node, before, &refused) >= sent * 9 / 10
        });
        let replayed = since(&cluster, node, before, &["replayed"]);
        assert!(replayed > 100, "{replayed} of {sent} were known to be replays");
    }
    going.end();
    undisturbed(&mut cluster, &before);

    // The same nodes, one run later: the old packets name keys that nobody has, and runs that are over.
    (0..3).for_each(|node| cluster.daemon(node).kill());
    cluster.start_all().unwrap();
    cluster.wait_until_serving(PATIENCE).unwrap();
    let before = all_counters(&cluster);
    let going = Going::at(&cluster, &[A, B, C]);
    recorded.iter().for_each(|datagram| cluster.proxy.inject(datagram.clone()));
    let refused = [&refused[..], &["refused_restarted", "bad_tag"]].concat();
    for (node, before) in before.iter().enumerate() {
        let sent = recorded.iter().filter(|d| d.to == node).count() as u64;
        until("old packets are counted as refused", || {
            since(&cluster, node, before, &refused) >= sent * 9 / 10
        });
    }
    going.end();
    undisturbed(&mut cluster, &before);
}

/// A thousand datagrams a second for five seconds: noise, noise that begins like ours, real packets with
/// changed bits; from a stranger, and from the addresses of members.
#[test]
fn a_flood_of_garbage_is_counted_and_delays_nobody() {
    let mut cluster = serving();
    let taken = cluster.proxy.counts().taken;
    cluster.proxy.record();
    let going = Going::at(&cluster, &[A, B, C]);
    until("enough was recorded", || cluster.proxy.counts().taken > 300 + taken);
    let recorded: Vec<Recorded> = cluster.proxy.recorded().into_iter().filter(|d| d.to == A).collect();
    let before = all_counters(&cluster);

    let mut random = Random::new(5);
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < Duration::from_secs(5) {
        // Ten at a time keep the pace without a sleep for each.
        for _ in 0..10 {
            let mut bytes = match random.below(3) {
                0 => (0..random.below(1_400)).map(|_| random.below(256) as u8).collect(),
                1 => {
                    let mut bytes: Vec<u8> =
                        (0..random.between(24, 300)).map(|_| random.below(256) as u8).collect();
                    bytes[..4].copy_from_slice(&frame::start(frame::Kind::Hello));
                    bytes[3] = random.between(1, 5) as u8;
                    bytes
                }
                _ => random.pick(&recorded).bytes.clone(),
            };
            if !bytes.is_empty() {
                let bit = random.below(bytes.len() as u64 * 8) as usize;
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            match random.chance(500) {
                true => drop(stranger.send_to(&bytes, cluster.places[A].listen).unwrap()),
                false => cluster.proxy.inject(Recorded { from: B, to: A, bytes }),
            }
            sent += 1;
        }
        thread::sleep(Duration::from_millis(10).saturating_sub(Duration::from_micros(300)));
    }
    let counted = [
        "foreign",
        "no_such_key",
        "bad_tag",
        "replayed",
        "refused_secret",
        "refused_version",
        "replies_stray",
        "hellos_dropped",
        "hellos_replayed",
        "cookies_sent",
    ];
    until("garbage is counted", || since(&cluster, A, &before[A], &counted) >= sent * 8 / 10);
    assert!(sent > 1_000, "{sent} in five seconds are no flood");
    going.end();
    undisturbed(&mut cluster, &before);
}

/// Whatever a stranger or a member's address says in another version gets a refusal that both versions can read.
#[test]
fn a_hello_of_another_version_is_answered_and_counted() {
    let mut cluster = cluster();
    cluster.proxy.record();
    cluster.start_all().unwrap();
    cluster.wait_until_serving(PATIENCE).unwrap();
    let recorded = cluster.proxy.recorded();
    let real = recorded.iter().find(|d| d.bytes[3] == frame::Kind::Hello as u8).expect("a handshake").clone();
    let going = Going::at(&cluster, &[A, B, C]);
    let before = all_counters(&cluster);
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.set_read_timeout(Some(PATIENCE)).unwrap();
    for version in [frame::VERSION - 1, frame::VERSION + 1, u8::MAX] {
        let mut hello = real.bytes.clone();
        hello[2] = version;
        stranger.send_to(&hello, cluster.places[real.to].listen).unwrap();
        let mut answer = [0; 2_000];
        let length = stranger.recv(&mut answer).unwrap();
        assert!(length <= hello.len(), "an answer longer than its question amplifies");
        match Datagram::decode(&answer[..length]) {
            Ok(Datagram::Refusal { version, code, .. }) => {
                assert_eq!((version, Code::from_number(code)), (frame::VERSION, Some(Code::PeerVersion)));
            }
            other => panic!("{other:?}"),
        }
        cluster.proxy.inject(Recorded { bytes: hello.clone(), ..real.clone() });
        assert!(matches!(Datagram::decode(&hello), Err(Foreign::Version { .. })));
    }
    until("all six are counted", || since(&cluster, real.to, &before[real.to], &["refused_version"]) == 6);
    let log = std::fs::read_to_string(cluster.places[real.to].log()).unwrap();
    assert!(log.contains("OAR-5102"), "{log}");
    going.end();
    undisturbed(&mut cluster, &before);
}

/// L3 and FT16: a node that comes back with an empty data directory has the number of its first run again, and is not let
/// in: it may have promised what it does not know any more. What it held is granted to others all the same.
#[test]
fn a_member_that_lost_its_state_is_not_let_in_and_its_locks_are_granted_to_others() {
    let mut cluster = serving();
    let name = (0..).map(|n| format!("kept/{n}"));
    let of_a = |name: &String| master(SpaceId(0), name.as_bytes(), (0..3).map(NodeId)) == Some(NodeId(0));
    let name = name.into_iter().find(of_a).unwrap();
    let holder = cluster.client(B, "holder").unwrap();
    let guard = holder.space("default").unwrap().lock(&name).acquire().unwrap();
    let (fence, killed) = (guard.fence(), Instant::now());

    cluster.daemon(B).kill();
    assert_eq!(guard.wait_lost(PATIENCE).expect("its node is gone").kind(), Kind::Lost);
    std::fs::remove_dir_all(cluster.places[B].dir.join("data")).unwrap();
    cluster.start(B).unwrap();
    for node in [A, C] {
        let other = cluster.client(node, "other").unwrap();
        let space = other.space("default").unwrap();
        let guard = space.lock(&name).timeout(PATIENCE).acquire().unwrap();
        println!("killed to granted at {node}: {:?}", killed.elapsed());
        assert!(killed.elapsed() > Duration::from_secs(2), "its lease went on");
        assert!(guard.fence() > fence);
    }
    let going = Going::at(&cluster, &[A, C]);
    // It is told so, stops, and does not begin again: its runs would soon have higher numbers than the one that is known.
    for again in 0..2 {
        until("it has stopped", || !cluster.fallen().is_empty());
        let log = cluster.logs();
        assert!(log.contains("OAR-1213"), "{log}");
        if again == 0 {
            cluster.start(B).unwrap();
        }
    }
    for node in [A, C] {
        let status = cluster.status(node).unwrap();
        assert!(status["healthy"] == false && status["members"][B]["in_view"] == false, "{status}");
    }
    going.end();
    cluster.kill(B);
    assert_eq!(cluster.fallen(), Vec::<&str>::new(), "{}", cluster.logs());
}

/// A member with the right key that seals nonsense: first random bytes, then its own messages with changed
/// bytes in them. Nothing it says takes a node down or keeps the others from each other.
#[test]
fn a_member_that_goes_mad_is_counted_and_the_others_go_on() {
    let mut cluster = cluster();
    cluster.start(A).unwrap();
    cluster.start(C).unwrap();
    let mad = mad::Member::start(&cluster, B);
    for node in [A, C] {
        until("the others serve", || {
            cluster.status(node).is_ok_and(|s| s["healthy"] == true && s["granting"] == true)
        });
    }
    let going = Going::at(&cluster, &[A, C]);
    until("it gets locks while it is sane", || mad.grants() > 20);
    for (madness, counted) in [
        (mad::Madness::Bodies, &["violations"][..]),
        (mad::Madness::Changes, &["violations", "lock_violations", "absurd_stamps"][..]),
    ] {
        let before = all_of(&cluster, &[A, C]);
        mad.go(madness);
        thread::sleep(Duration::from_secs(2));
        for (node, before) in &before {
            until("it is counted", || since(&cluster, *node, before, counted) > 10);
            let log = std::fs::read_to_string(cluster.places[*node].log()).unwrap();
            assert!(log.contains("refused b") || log.contains("b misbehaves"), "{log}");
        }
        mad.go(mad::Madness::None);
    }
    going.end();
    mad.end();
    assert_eq!(cluster.fallen(), Vec::<&str>::new(), "{}", cluster.logs());
}

fn all_of(cluster: &Cluster, nodes: &[usize]) -> Vec<(usize, Counters)> {
    nodes.iter().map(|node| (*node, cluster.counters(*node).unwrap())).collect()
}
