//! The external coordinator beside three real members of etcd.

use std::time::{Duration, Instant};

use oarlock_cluster::registry::{Command, FirstSpace, Founder, Order, Outcome, Refusal, SpaceSettings};
use oarlock_layout::codec::Wire;
use oarlock_layout::id::{Epoch, Incarnation, NodeId, SpaceId};
use oarlock_layout::seal::PublicKey;

use super::record::{Entry, Ticket};
use super::stage::{LONG, MEMBERS, Stage, TUNING, play};
use super::{External, Settings, Tuning};
use crate::coordinator::conformance::{self, Nodes};
use crate::coordinator::{Coordinator, Trouble};

const CLUSTER: [u8; 16] = [7; 16];

fn settings() -> SpaceSettings {
    SpaceSettings {
        order: Order::Passover,
        value: 64,
        retain: true,
        resources_max: 1 << 20,
        owner: 0,
        group: 0,
        mode: 0o660,
    }
}

fn init(cluster: [u8; 16]) -> Command {
    let founder =
        Founder { name: "n0".into(), address: ([127, 0, 0, 1], 7000).into(), key: PublicKey([1; 32]) };
    let spaces = vec![FirstSpace { name: "default".into(), settings: settings() }];
    Command::Init { cluster, members: vec![founder], spaces, above: Epoch(0) }
}

fn start() -> Command {
    let (key, incarnation) = (PublicKey([1; 32]), Incarnation(1));
    Command::Start { node: NodeId(0), key, incarnation, nonce: 5, fences: Vec::new() }
}

fn renew(number: u64) -> Command {
    Command::Renew { node: NodeId(0), incarnation: Incarnation(1), number }
}

fn space(id: u16) -> Command {
    Command::CreateSpace { id: SpaceId(id), name: format!("space{id}"), settings: settings() }
}

/// Refused, and an entry all the same.
fn idle(serial: u64) -> Command {
    Command::RevokeToken { serial }
}

async fn decide(engine: &External, command: &Command) -> Outcome {
    let begin = Instant::now();
    loop {
        match engine.propose(command).await {
            Ok(outcome) => return outcome,
            Err(Trouble::NoQuorum | Trouble::Unknown) if begin.elapsed() < LONG => {}
            Err(trouble) => panic!("{command:?}: {trouble}"),
        }
    }
}

async fn until_applied(engine: &External, steps: u64) {
    let mut applied = engine.applied();
    let there = applied.wait_for(|applied| applied.steps >= steps);
    let steps = tokio::time::timeout(LONG, there).await.expect("it gets there").unwrap().steps;
    println!("at step {steps}");
}

/// Until it has stopped; why.
async fn stopped(engine: &External) -> String {
    let begin = Instant::now();
    while begin.elapsed() < LONG {
        if let Err(Trouble::Stopped(why)) = engine.confirmed().await {
            assert!(matches!(engine.propose(&idle(1)).await, Err(Trouble::Stopped(_))));
            return why;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it goes on");
}

/// L2, and all else that is asked of every engine.
#[test]
fn the_coordinator_on_etcd_conforms() {
    play(conformance::play_all(Stage::new));
}

/// Its watch is cut without a word. It hears of what comes then by another member, or when it looks by itself.
#[test]
fn a_watch_goes_on_after_a_disconnect() {
    play(async {
        let stage = Stage::new().await;
        decide(&stage.at(0), &init(CLUSTER)).await;
        until_applied(&stage.at(2), 1).await;
        stage.cut(&[0, 1]);
        for serial in 1..=5 {
            decide(&stage.at(0), &idle(serial)).await;
        }
        assert_eq!(stage.at(2).applied().borrow().steps, 1);
        stage.heal();
        until_applied(&stage.at(2), 6).await;
        // And with the member that it watched gone for good.
        stage.kill_member(stage.asked_by(2));
        decide(&stage.at(0), &idle(6)).await;
        until_applied(&stage.at(2), 7).await;
    });
}

/// The connection stays, and nothing comes by it any more; the node itself proposes nothing.
#[test]
fn a_watch_that_is_deaf_is_left() {
    play(async {
        let stage = Stage::empty(Tuning { sweep: 4 * TUNING.sweep, ..TUNING }).await;
        (0..MEMBERS).for_each(|node| stage.start_node(node));
        decide(&stage.at(0), &init(CLUSTER)).await;
        until_applied(&stage.at(2), 1).await;
        // With its own member, and with whichever it turns to then.
        let mut serial = 0;
        for _ in 0..2 {
            let member = stage.asked_by(2);
            stage.part(2, member);
            for heard_by_watch in [false, true] {
                serial += 1;
                decide(&stage.at(0), &idle(serial)).await;
                let begin = Instant::now();
                until_applied(&stage.at(2), serial + 1).await;
                assert!(!heard_by_watch || begin.elapsed() < TUNING.sweep, "it is deaf still");
            }
            assert_ne!(stage.asked_by(2), member);
        }
        stage.heal();
    });
}

/// What a node has not seen may be compacted away: how the keys are now is enough.
#[test]
fn who_was_away_while_etcd_was_compacted_follows_again() {
    play(async {
        let stage = Stage::new().await;
        decide(&stage.at(0), &init(CLUSTER)).await;
        until_applied(&stage.at(2), 1).await;
        stage.cut(&[0, 1]);
        for serial in 1..=10 {
            decide(&stage.at(0), &idle(serial)).await;
        }
        let stranger = stage.stranger();
        stranger.compact().await;
        stage.heal();
        until_applied(&stage.at(2), 11).await;
        // Nor does it disturb those who are there.
        decide(&stage.at(2), &idle(11)).await;
        stranger.compact().await;
        decide(&stage.at(2), &idle(12)).await;
        until_applied(&stage.at(1), 13).await;
    });
}

/// One that was away while the entries that it lacks were cut takes over the registry as a whole, and so does a new one.
#[test]
fn who_was_away_for_long_takes_the_snapshot() {
    play(async {
        let stage = Stage::new().await;
        decide(&stage.at(0), &init(CLUSTER)).await;
        until_applied(&stage.at(2), 1).await;
        stage.cut(&[0, 1]);
        for id in 1..=20 {
            assert_eq!(decide(&stage.at(0), &space(id)).await, Outcome::Done);
        }
        for serial in 1..=3 * TUNING.snapshot_every {
            decide(&stage.at(serial as usize % 2), &idle(serial)).await;
        }
        let stranger = stage.stranger();
        let begin = Instant::now();
        let first = loop {
            let (entries, _) = stranger.keys("/oarlock/stage/log/", "/oarlock/stage/log0").await;
            assert!(!entries.is_empty(), "the log was cut to its end");
            if entries.len() < 2 * TUNING.snapshot_every as usize {
                break entries[0].0.clone();
            }
            assert!(begin.elapsed() < LONG, "nobody cuts the log");
        };
        assert!(!first.ends_with("log/00000000000000000001"), "nothing was cut");
        let (parts, _) = stranger.keys("/oarlock/stage/part/", "/oarlock/stage/part0").await;
        assert!(parts.len() > 1, "a snapshot of one part shows little");
        let wanted = stage.at(0).confirmed().await.unwrap();
        stage.heal();
        for again in [false, true] {
            if again {
                stage.kill_node(2);
                stage.start_node(2);
            }
            until_applied(&stage.at(2), 21 + 3 * TUNING.snapshot_every).await;
            assert_eq!(stage.at(2).confirmed().await.unwrap().snapshot(), wanted.snapshot());
        }
        assert_eq!(decide(&stage.at(2), &space(21)).await, Outcome::Done);
    });
}

/// A transaction that comes late, to a place that was cut since, must not begin a second log.
#[test]
fn a_place_that_was_cut_is_not_taken_again() {
    play(async {
        let stage = Stage::new().await;
        let engine = stage.at(0);
        decide(&engine, &init(CLUSTER)).await;
        for serial in 1..=3 * TUNING.snapshot_every {
            decide(&engine, &idle(serial)).await;
        }
        let stranger = stage.stranger();
        let log = ["/oarlock/stage/log/", "/oarlock/stage/log0"];
        let begin = Instant::now();
        while stranger.keys(log[0], log[1]).await.0.len() >= 2 * TUNING.snapshot_every as usize {
            assert!(begin.elapsed() < LONG, "nobody cuts the log");
        }
        let entry = Entry { ticket: Ticket { run: 1, count: 1 }, command: idle(1).to_bytes() };
        for last in [0, 1, 5, 40] {
            let late = engine.shared.attempt(last, &entry.to_bytes());
            let until = tokio::time::Instant::now() + LONG;
            assert!(!engine.shared.client.ask(&late, until).await.unwrap().succeeded, "behind entry {last}");
        }
        let entries = stranger.keys(log[0], log[1]).await.0;
        let taken = [1, 2, 6, 41].map(|index| format!("{}{index:020}", log[0]));
        assert!(entries.iter().all(|(key, _)| !taken.contains(key)), "{entries:?}");
    });
}

/// Where a snapshot follows each entry, one entry is left: without it nobody could tell that nothing was lost.
#[test]
fn the_end_of_the_log_is_never_cut() {
    play(async {
        let stage = Stage::empty(Tuning { snapshot_every: 1, ..TUNING }).await;
        (0..MEMBERS).for_each(|node| stage.start_node(node));
        decide(&stage.at(0), &init(CLUSTER)).await;
        let (stranger, mut cut_to_one) = (stage.stranger(), 0);
        for id in 1..=10 {
            assert_eq!(decide(&stage.at(id as usize % MEMBERS), &space(id)).await, Outcome::Done);
            // One that finds another's snapshot a moment old leaves it at that, so not each entry is cut at once.
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(10)).await;
                let (entries, _) = stranger.keys("/oarlock/stage/log/", "/oarlock/stage/log0").await;
                cut_to_one += usize::from(entries.len() == 1);
            }
            for node in 0..MEMBERS {
                assert_eq!(stage.at(node).confirmed().await.unwrap().spaces().count(), 1 + usize::from(id));
            }
        }
        assert!(cut_to_one > 0, "nobody cuts the log");
        stage.kill_node(0);
        stage.start_node(0);
        assert_eq!(stage.at(0).confirmed().await.unwrap().spaces().count(), 11);
        assert_eq!(stage.at(0).applied().borrow().steps, 11);
    });
}

/// A process of a node that ends and comes back knows all again, and proposes at once.
#[test]
fn a_node_that_starts_again_goes_on_where_the_order_is() {
    play(async {
        let stage = Stage::new().await;
        decide(&stage.at(0), &init(CLUSTER)).await;
        decide(&stage.at(0), &start()).await;
        for number in 1..=5 {
            stage.kill_node(1);
            stage.start_node(1);
            assert_eq!(decide(&stage.at(1), &renew(number)).await, Outcome::Done);
            assert_eq!(stage.at(1).applied().borrow().steps, number + 2);
        }
        let stopped = stage.at(1);
        stage.kill_node(1);
        assert!(matches!(stopped.propose(&renew(6)).await, Err(Trouble::Stopped(_))));
        assert!(matches!(stopped.confirmed().await, Err(Trouble::Stopped(_))));
    });
}

/// Whatever stands under the keys and was not written by us stops a node, which names the key.
#[test]
fn garbage_is_refused_by_the_name_of_its_key() {
    play(async {
        let stage = Stage::empty(TUNING).await;
        let stranger = stage.stranger();
        let entry = |command: &[u8]| {
            Entry { ticket: Ticket { run: 1, count: 1 }, command: command.to_vec() }.to_bytes()
        };
        // Each node proposes to make the cluster, so there are two entries.
        let [first, third, fourth] = [1, 3, 4].map(|index| format!("log/{index:020}"));
        let cases = [
            ("bytes", &third, b"garbage".to_vec(), &third),
            ("nothing", &third, Vec::new(), &third),
            ("command", &third, entry(b"no command"), &third),
            ("twice", &first, entry(&init(CLUSTER).to_bytes()), &first),
            ("gap", &fourth, entry(&idle(1).to_bytes()), &third),
            ("short", &"log/2".into(), entry(&idle(1).to_bytes()), &"log/2".into()),
            ("word", &"log/zero".into(), Vec::new(), &"log/zero".into()),
        ];
        for (name, key, value, named) in cases {
            let prefix = format!("/oarlock/{name}");
            let settings = |node| Settings { prefix: prefix.clone(), ..stage.settings(node, None) };
            let [watching, proposing] = [0, 1].map(|node| External::start(&settings(node)).unwrap());
            decide(&watching, &init(CLUSTER)).await;
            decide(&proposing, &init(CLUSTER)).await;
            stranger.put(&format!("{prefix}/{key}"), &value).await;
            let new = External::start(&settings(2)).unwrap();
            for engine in [watching, proposing, new] {
                let why = stopped(&engine).await;
                println!("{name}: {why}");
                assert!(why.contains(&format!("{prefix}/{named}")), "{why}");
            }
        }
    });
}

/// Entries that were decided are gone, or others: an etcd that was set back to a copy of itself.
#[test]
fn an_etcd_that_has_lost_what_it_decided_is_not_followed() {
    play(async {
        let stage = Stage::empty(TUNING).await;
        let stranger = stage.stranger();
        for (name, then) in [("lost", None), ("other", Some(idle(9)))] {
            let prefix = format!("/oarlock/{name}");
            let settings = Settings { prefix: prefix.clone(), ..stage.settings(0, None) };
            let engine = External::start(&settings).unwrap();
            decide(&engine, &init(CLUSTER)).await;
            decide(&engine, &idle(1)).await;
            let last = format!("{prefix}/log/00000000000000000002");
            stranger.delete(&last).await;
            if let Some(command) = then {
                let ticket = Ticket { run: 1, count: 1 };
                stranger.put(&last, &Entry { ticket, command: command.to_bytes() }.to_bytes()).await;
            }
            let why = stopped(&engine).await;
            assert!(why.contains(&last), "{why}");
        }
    });
}

/// A snapshot that is not what it says, or not there.
#[test]
fn a_damaged_snapshot_is_refused_by_the_name_of_its_key() {
    play(async {
        let stage = Stage::empty(TUNING).await;
        let stranger = stage.stranger();
        let head = "/oarlock/stage/snapshot";
        let first = External::start(&stage.settings(0, None)).unwrap();
        decide(&first, &init(CLUSTER)).await;
        for serial in 1..=2 * TUNING.snapshot_every {
            decide(&first, &idle(serial)).await;
        }
        let begin = Instant::now();
        let good = loop {
            let (found, _) = stranger.keys(head, "/oarlock/stage/snapshot0").await;
            let (entries, _) = stranger.keys("/oarlock/stage/log/", "/oarlock/stage/log0").await;
            if let [(_, value)] = &found[..]
                && !entries[0].0.ends_with("01")
            {
                break value.clone();
            }
            assert!(begin.elapsed() < LONG, "nobody writes a snapshot");
        };
        first.stop();
        let mut other_sum = good.clone();
        *other_sum.last_mut().unwrap() ^= 1;
        for bad in [Vec::new(), b"garbage".to_vec(), good[..good.len() - 1].to_vec(), other_sum] {
            stranger.put(head, &bad).await;
            let why = stopped(&External::start(&stage.settings(1, None)).unwrap()).await;
            assert!(why.contains(head), "{why}");
        }
        stranger.delete(head).await;
        let why = stopped(&External::start(&stage.settings(1, None)).unwrap()).await;
        assert!(why.contains("/oarlock/stage/log/00000000000000000001"), "{why}");
        stranger.put(head, &good).await;
        External::start(&stage.settings(1, None)).unwrap().confirmed().await.unwrap();
    });
}

/// It was decided, and nobody said so: the proposer finds its own entry, and makes no second one.
#[test]
fn a_proposal_whose_answer_is_lost_is_decided_once() {
    play(async {
        let stage = Stage::new().await;
        decide(&stage.at(0), &init(CLUSTER)).await;
        for id in 1..=3 {
            let member = stage.asked_by(0);
            stage.lose_answers(0, member);
            assert_eq!(stage.at(0).propose(&space(id)).await, Ok(Outcome::Done));
            assert_ne!(stage.asked_by(0), member);
            assert_eq!(stage.at(0).applied().borrow().steps, 1 + u64::from(id));
        }
    });
}

/// Places are taken one by one, whoever comes first, and none twice.
#[test]
fn of_many_proposers_at_once_each_gets_a_place() {
    play(async {
        let stage = Stage::new().await;
        decide(&stage.at(0), &init(CLUSTER)).await;
        decide(&stage.at(0), &start()).await;
        let each = 20;
        let one = async |node: usize| {
            let engine = stage.at(node);
            for serial in 1..=each {
                decide(&engine, &idle(serial)).await;
            }
        };
        let begin = Instant::now();
        tokio::join!(one(0), one(1), one(2), one(0));
        println!("{} entries in {:?}", 4 * each, begin.elapsed());
        for node in 0..MEMBERS {
            let engine = stage.at(node);
            engine.confirmed().await.unwrap();
            // Each was asked once, so it stands there once, unless an answer got lost.
            assert!(engine.applied().borrow().steps >= 2 + 4 * each);
        }
        let (entries, _) = stage.stranger().keys("/oarlock/stage/log/", "/oarlock/stage/log0").await;
        for pair in entries.windows(2) {
            let index = |key: &str| key.rsplit('/').next().unwrap().parse::<u64>().unwrap();
            assert_eq!(index(&pair[0].0) + 1, index(&pair[1].0));
        }
    });
}

/// Two clusters under one prefix, and an etcd where nothing of the own cluster is.
#[test]
fn another_cluster_under_the_same_prefix_is_noticed() {
    play(async {
        let stage = Stage::empty(TUNING).await;
        let other = [8; 16];
        let ours = External::start(&stage.settings(0, None)).unwrap();
        assert_eq!(decide(&ours, &init(CLUSTER)).await, Outcome::Done);
        // One that makes a cluster hears that there is one.
        let theirs = External::start(&stage.settings(1, None)).unwrap();
        assert_eq!(decide(&theirs, &init(other)).await, Outcome::Refused(Refusal::OtherCluster));
        // One that is in a cluster does not follow another's order.
        let member = External::start(&stage.settings(1, Some(other))).unwrap();
        let why = stopped(&member).await;
        assert!(why.contains("/oarlock/stage/log/") && why.contains(&"08".repeat(16)), "{why}");
        External::start(&stage.settings(2, Some(CLUSTER))).unwrap().confirmed().await.unwrap();
        let empty = Settings { prefix: "/oarlock/empty".into(), ..stage.settings(2, Some(CLUSTER)) };
        let why = stopped(&External::start(&empty).unwrap()).await;
        assert!(why.contains("/oarlock/empty/log/"), "{why}");
    });
}

/// Members of two etcds among the endpoints would decide two orders.
#[test]
fn endpoints_of_two_etcds_are_noticed() {
    play(async {
        let (one, two) = (Stage::empty(TUNING).await, Stage::empty(TUNING).await);
        let mut settings = one.settings(0, None);
        settings.endpoints.truncate(1);
        settings.endpoints.extend(two.settings(1, None).endpoints);
        let engine = External::start(&settings).unwrap();
        decide(&engine, &init(CLUSTER)).await;
        one.kill_member(0);
        let why = stopped(&engine).await;
        assert!(why.contains("another endpoint"), "{why}");
    });
}

/// L6: etcd's leader is killed, and whoever renews in time goes on: no renewal takes so long that its lease would freeze.
#[test]
fn the_loss_of_a_leader_of_etcd_freezes_no_lease() {
    play(async {
        let stage = Stage::empty(Tuning { part_bytes: TUNING.part_bytes, ..Tuning::default() }).await;
        (0..MEMBERS).for_each(|node| stage.start_node(node));
        decide(&stage.at(0), &init(CLUSTER)).await;
        decide(&stage.at(0), &start()).await;
        let mut number = 0;
        for _ in 0..2 {
            let leader = stage.leader().await;
            stage.kill_member(leader);
            // At nodes whose member lives, and at the one whose member it was.
            for node in 0..MEMBERS {
                let begin = Instant::now();
                number += 1;
                assert_eq!(decide(&stage.at(node), &renew(number)).await, Outcome::Done);
                println!("node {node} renewed after {:?}", begin.elapsed());
                assert!(begin.elapsed() < FREEZES_AFTER, "its lease would freeze meanwhile");
            }
            stage.start_member(leader);
            assert!(stage.at(leader).confirmed().await.unwrap().run(NodeId(0)).is_some(), "it was evicted");
        }
    });
}

/// A renewal goes out three quarters of a second after the one before, and the lease freezes 1.7 s after that (L10).
const FREEZES_AFTER: Duration = Duration::from_millis(950);

#[test]
fn settings_that_cannot_be_used_are_named() {
    play(async {
        let good = Settings {
            endpoints: vec!["http://127.0.0.1:1".into()],
            prefix: "/oarlock".into(),
            cluster: None,
            tuning: TUNING,
        };
        let refused = |settings: Settings| External::start(&settings).err().expect("it is refused");
        for prefix in ["", "/", "/oarlock/"] {
            let why = refused(Settings { prefix: prefix.into(), ..good.clone() });
            assert!(why.contains("prefix"), "{why}");
        }
        for endpoint in ["https://127.0.0.1:1", "127.0.0.1:1", "http://", "http://a b"] {
            let why = refused(Settings { endpoints: vec![endpoint.into()], ..good.clone() });
            assert!(why.contains(endpoint), "{why}");
        }
        assert!(refused(Settings { endpoints: Vec::new(), ..good.clone() }).contains("no endpoint"));
        // Nobody is there: it says so in time, and nothing else happens.
        let engine = External::start(&good).unwrap();
        assert_eq!(engine.confirmed().await.unwrap_err(), Trouble::NoQuorum);
        assert_eq!(engine.propose(&idle(1)).await.unwrap_err(), Trouble::Unknown);
    });
}
