//! A node's state in writing (L5): who reads it is the same run, and bytes that are anything else are an error.

use oarlock_layout::flags::Flags;
use oarlock_layout::id::{LockId, OwnerId, SpaceId, TransactionId};
use oarlock_layout::message::look::At;
use oarlock_layout::message::session::{LockRequest, Reply, Request};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::{PlainWords, Words};
use oarlock_layout::time::Duration;
use oarlock_node::{Config, Node, Unreadable, whose};
use stage::*;
use xxhash_rust::xxh3::xxh3_64;

mod stage;

const HEAD_BYTES: usize = 32;

fn wait_for(cluster: &mut Cluster, at: (usize, oarlock_layout::id::SessionId), ms: u32) {
    let request = LockRequest {
        handle: 9,
        space: SpaceId(0),
        name: Name::new(b"jobs/nightly").unwrap(),
        mode: Mode::PR,
        flags: Flags::VALBLK,
        timeout_ms: ms,
        owner: OwnerId(3),
        transaction: TransactionId(4),
    };
    cluster.say(at, &Request::Lock(request));
}

/// L5: what a run holds, waits for and has said is what the next process holds, waits for and has said: the lock stays granted, the waiter
/// gets it, and one whose patience ends hears of it when it would have.
#[test]
fn locks_waiters_and_deadlines_outlive_the_engine() {
    let mut cluster = serving(3);
    let (holder, waiter) = (cluster.session(0, 1), cluster.session(1, 2));
    let (hasty, stranger) = (cluster.session(2, 3), cluster.session(2, 4));
    cluster.lock(holder, 7, Mode::EX);
    assert!(matches!(cluster.reply(holder), Reply::Granted(_)));
    wait_for(&mut cluster, waiter, 0);
    wait_for(&mut cluster, hasty, 400);
    cluster.run(Duration::from_millis(50));
    while cluster.heard(holder).is_some() {}
    let before = cluster.events.len();
    for n in 0..3 {
        let bytes = cluster.rewrite(n);
        assert!(cluster.node(n).write() == bytes, "who reads it writes the same");
        let who = whose(&bytes).unwrap();
        assert_eq!((who.me.0, who.incarnation.0, who.cluster.as_str()), (n as u16, 1, "harbour"));
        assert_eq!(who.spaces, ["default"]);
    }
    cluster.run(Duration::from_millis(300));
    assert!(cluster.heard(waiter).is_none() && cluster.heard(hasty).is_none());
    cluster.run(Duration::from_millis(100));
    assert!(matches!(cluster.reply(hasty), Reply::Failed { handle: 9, .. }));
    cluster.say(holder, &Request::Unlock { handle: 7, value: None, invalidate: false });
    assert!(matches!(cluster.reply(holder), Reply::Released { handle: 7 }));
    let Reply::Granted(granted) = cluster.reply(waiter) else { panic!("it waits") };
    assert_eq!((granted.handle, granted.mode), (9, Mode::PR));
    // Its next session is still a session, and leases go on being renewed.
    cluster.lock(stranger, 1, Mode::CR);
    assert!(matches!(cluster.reply(stranger), Reply::Granted(_)));
    cluster.run(Duration::from_secs(8));
    assert_eq!(cluster.events[before..], [] as [String; 0], "nobody has noticed anything");
}

/// A question whose answers are on their way is answered.
#[test]
fn a_question_outlives_the_engine() {
    let mut cluster = serving(3);
    let at = cluster.session(1, 5);
    cluster.lock(at, 1, Mode::EX);
    let now = cluster.now;
    cluster.mute = Some(2);
    cluster.node(0).look(now, 6, SpaceId(0), At::All);
    cluster.settle();
    cluster.rewrite(0);
    cluster.mute = None;
    cluster.run(Duration::from_secs(1));
    let seen = cluster.looked.pop().expect("it is answered");
    assert!(seen.iter().all(|(_, seen)| seen.is_some()), "{seen:?}");
    let party = LockId::new(at.1, 1);
    assert!(format!("{seen:?}").contains(&format!("{:?}", party.handle())));
}

/// A node with everything in it, as small as it can be.
fn small() -> (Config, Vec<u8>) {
    let mut cluster = serving(2);
    let (holder, waiter) = (cluster.session(0, 1), cluster.session(1, 2));
    cluster.lock(holder, 7, Mode::EX);
    wait_for(&mut cluster, waiter, 900);
    let now = cluster.now;
    cluster.mute = Some(1);
    cluster.node(0).look(now, 6, SpaceId(0), At::All);
    cluster.run(Duration::from_millis(2));
    let bytes = cluster.node(0).write();
    (cluster.config(0, &[0, 1]), bytes)
}

fn read(config: &Config, bytes: &[u8]) -> Result<Node, Unreadable> {
    let seal = Box::new(seal_of(0, 1));
    Node::read(config.clone(), seal, vec![Box::new(PlainWords::new(1)) as Box<dyn Words + Send>], bytes)
}

fn why(result: Result<Node, Unreadable>) -> Unreadable {
    result.err().expect("not to be read")
}

#[test]
fn every_truncation_and_every_flipped_bit_is_an_error_with_a_name() {
    let (config, bytes) = small();
    assert!(read(&config, &bytes).is_ok());
    for length in 0..bytes.len() {
        let short = why(read(&config, &bytes[..length]));
        let named = if length < HEAD_BYTES { Unreadable::NotOurs } else { Unreadable::Damaged };
        assert_eq!(short, named, "{length} bytes");
        assert_eq!(whose(&bytes[..length]), Err(named));
    }
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let why = why(read(&config, &flipped));
        match bit / 8 {
            0..8 => assert_eq!(why, Unreadable::NotOurs),
            8..12 => assert!(matches!(why, Unreadable::Format { ours: 1, .. }), "{why}"),
            _ => assert_eq!(why, Unreadable::Damaged),
        }
    }
    assert_eq!(why(read(&config, &[&bytes[..], b"x"].concat())), Unreadable::Damaged);
}

/// Bytes whose checksum is right were written by somebody, perhaps by a version that means something else: whatever they say, reading
/// them ends in an error or in a node.
#[test]
fn whatever_somebody_writes_is_read_without_a_panic() {
    let (config, bytes) = small();
    let mend = |mut bytes: Vec<u8>| {
        let sum = xxh3_64(&[&bytes[..24], &bytes[HEAD_BYTES..]].concat());
        bytes[24..HEAD_BYTES].copy_from_slice(&sum.to_le_bytes());
        bytes
    };
    assert_eq!(mend(bytes.clone()), bytes);
    let (mut refused, mut read_all) = (0, 0);
    for bit in HEAD_BYTES * 8..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match read(&config, &mend(flipped)) {
            Ok(node) => read_all += usize::from(!node.write().is_empty()),
            Err(Unreadable::Content(_) | Unreadable::Other(_)) => refused += 1,
            Err(other) => panic!("bit {bit}: {other}"),
        }
    }
    // A name of a field, a length, a kind: most of the bytes. The others are numbers, which may be any.
    assert!(refused > 4 * read_all && read_all > 1_000, "{refused} refused, {read_all} read");
}

#[test]
fn the_state_of_another_is_refused() {
    let (config, bytes) = small();
    let refused = |change: &dyn Fn(&mut Config)| {
        let mut other = config.clone();
        change(&mut other);
        why(read(&other, &bytes))
    };
    assert_eq!(refused(&|c| c.cluster = "haven".into()), Unreadable::Other("cluster"));
    assert_eq!(refused(&|c| c.me.0 = 1), Unreadable::Other("node"));
    assert_eq!(refused(&|c| c.incarnation.0 += 1), Unreadable::Other("run"));
    assert_eq!(refused(&|c| c.shared += 1), Unreadable::Other("shared configuration"));
    assert_eq!(refused(&|c| c.spaces[0].retain = false), Unreadable::Other("set of lockspaces"));
    // What a later version adds and this one does not know must not be passed over.
    let at = bytes.windows(7).rposition(|it| it == b"\x66frozen").expect("a field of that name");
    let mut renamed = bytes.clone();
    renamed[at + 1..at + 7].copy_from_slice(b"frazen");
    let sum = xxh3_64(&[&renamed[..24], &renamed[HEAD_BYTES..]].concat());
    renamed[24..HEAD_BYTES].copy_from_slice(&sum.to_le_bytes());
    let Unreadable::Content(text) = why(read(&config, &renamed)) else { panic!("another error") };
    assert!(text.contains("frazen"), "{text}");
}

/// What waits to be carried out would be said twice or never.
#[test]
#[should_panic(expected = "outputs wait")]
fn a_node_with_something_to_say_is_not_written_down() {
    let mut cluster = serving(1);
    let at = cluster.session(0, 1);
    let (now, request) = (cluster.now, lock_request(1, Mode::EX));
    let packet = oarlock_layout::codec::Wire::to_bytes(&request);
    cluster.node(0).handle_session_packet(now, at.1, &packet);
    cluster.node(0).write();
}

/// A9, L5: what was seen before the engine was replaced is a replay after it, and a peer opens what the next one seals.
#[test]
fn packets_that_were_seen_stay_seen() {
    let mut cluster = serving(2);
    let counted = |cluster: &mut Cluster, what: &str| {
        let found = cluster.node(0).counters().into_iter().find(|counter| counter.name == what);
        found.unwrap_or_else(|| panic!("no counter {what}")).value
    };
    cluster.rewrite(0);
    let (received, replayed) =
        (counted(&mut cluster, "datagrams_received"), counted(&mut cluster, "replayed"));
    let (from, mut datagram) = cluster.last[&0].clone();
    let now = cluster.now;
    cluster.node(0).handle_datagram(now, address(from), &mut datagram);
    assert_eq!(counted(&mut cluster, "replayed"), replayed + 1);
    assert_eq!(counted(&mut cluster, "datagrams_received"), received);
    let before = cluster.events.len();
    cluster.run(Duration::from_secs(2));
    assert!(counted(&mut cluster, "datagrams_received") > received + 10);
    assert_eq!(cluster.events[before..], [] as [String; 0]);
}
