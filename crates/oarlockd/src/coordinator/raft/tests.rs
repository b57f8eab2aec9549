//! The embedded coordinator on disks that stay and a network that does not.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oarlock_cluster::registry::Command;
use oarlock_layout::codec::Wire;
use oarlock_layout::id::NodeId;
use oarlock_layout::message::raft::{Answer, Ballot, Call, Leadership, LogId, Voters, VotersAt};
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::line::Answering;
use super::machine::{Machine, Shown};
use super::store::Store;
use super::types::Types;
use super::{Embedded, Line, Tuning};
use crate::coordinator::conformance::{self, Nodes};
use crate::coordinator::{Coordinator, Trouble};

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(future)
}

/// As in earnest, but with less patience, and snapshots more often.
const TUNING: Tuning = Tuning { patience: Duration::from_millis(800), snapshot_every: 40, ..Tuning::EARNEST };

/// The loss of a leader costs no lease its renewal (L6).
const ELECTION: Duration = Duration::from_millis(500);

/// Nodes in one process, and who of them hears whom.
struct Net {
    directory: TempDir,
    nodes: Mutex<Vec<Option<Embedded>>>,
    /// Those who hear each other; none: all.
    together: Mutex<Option<Vec<usize>>>,
    /// A node that hears nobody.
    deaf: Mutex<Option<usize>>,
}

impl Net {
    fn passes(&self, from: usize, to: usize) -> bool {
        let together = self.together.lock().unwrap();
        let deaf = *self.deaf.lock().unwrap() == Some(to);
        !deaf && together.as_ref().is_none_or(|set| set.contains(&from) && set.contains(&to))
    }

    fn node(&self, node: usize) -> Option<Embedded> {
        self.nodes.lock().unwrap()[node].clone()
    }

    fn file(&self, node: usize) -> PathBuf {
        self.directory.path().join(format!("{node}.redb"))
    }
}

/// The line of one node.
struct From {
    net: Arc<Net>,
    me: usize,
}

impl Line for From {
    fn call(&self, to: NodeId, call: Call, patience: Duration) -> Answering {
        let (net, me, to) = (Arc::clone(&self.net), self.me, usize::from(to.0));
        Box::pin(async move {
            let talk = async {
                // What arrives is bytes.
                let call = Call::from_bytes(&call.to_bytes()).expect("we read what we write");
                tokio::task::yield_now().await;
                if !net.passes(me, to) {
                    return std::future::pending().await;
                }
                let Some(node) = net.node(to) else { return std::future::pending().await };
                let from = NodeId(me as u16);
                let answer = node.handle(from, call).await.expect("an honest node");
                if !net.passes(to, me) {
                    return std::future::pending().await;
                }
                Answer::from_bytes(&answer.to_bytes()).expect("we read what we write")
            };
            tokio::time::timeout(patience, talk).await.ok()
        })
    }
}

/// Three voters.
struct Three(Arc<Net>);

impl Three {
    async fn new() -> Three {
        let three = Three::of(3);
        for node in 0..3 {
            three.start(node).await;
        }
        let first = three.0.node(0).unwrap();
        first.begin(&BTreeSet::from([NodeId(0)])).await.unwrap();
        three.leader().await;
        for node in 1..3 {
            first.add_learner(NodeId(node)).await.unwrap();
        }
        // On a busy machine another may lead before all have voted on it, and then nobody knows what became of it.
        let voters = (0..3).map(NodeId).collect();
        for _ in 0..20 {
            let leader = three.leader().await;
            match three.at(leader).set_voters(&voters).await {
                Err(Trouble::Unknown) => tokio::time::sleep(ELECTION).await,
                answer => return answer.map(|()| three).unwrap(),
            }
        }
        panic!("nobody could say who votes")
    }

    fn of(nodes: usize) -> Three {
        let nodes = Mutex::new((0..nodes).map(|_| None).collect());
        let directory = TempDir::new().unwrap();
        Three(Arc::new(Net { directory, nodes, together: Mutex::new(None), deaf: Mutex::new(None) }))
    }
}

impl Nodes for Three {
    type Engine = Embedded;

    const ELECTION: Duration = ELECTION;

    fn at(&self, node: usize) -> Embedded {
        self.0.node(node).expect("it lives")
    }

    async fn leader(&self) -> usize {
        for _ in 0..2_000 {
            let nodes = self.0.nodes.lock().unwrap().clone();
            let leads = |(n, node): (usize, &Option<Embedded>)| {
                node.as_ref().is_some_and(|node| node.standing().leader == Some(NodeId(n as u16)))
            };
            let leaders: Vec<usize> =
                nodes.iter().enumerate().filter(|(n, node)| leads((*n, node))).map(|(n, _)| n).collect();
            if let [leader] = leaders[..] {
                return leader;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("nobody leads");
    }

    fn cut(&self, together: &[usize]) {
        *self.0.together.lock().unwrap() = Some(together.to_vec());
    }

    fn deafen(&self, node: usize) {
        *self.0.deaf.lock().unwrap() = Some(node);
    }

    fn heal(&self) {
        *self.0.together.lock().unwrap() = None;
        *self.0.deaf.lock().unwrap() = None;
    }

    async fn kill(&self, node: usize) {
        let gone = self.0.nodes.lock().unwrap()[node].take().expect("it lives");
        gone.stop().await;
    }

    async fn start(&self, node: usize) {
        let line = Arc::new(From { net: Arc::clone(&self.0), me: node });
        let file = self.0.file(node);
        // The file is let go when the last task of the run before has ended.
        let mut tries = 0;
        let engine = loop {
            match Embedded::start(NodeId(node as u16), &file, line.clone(), TUNING).await {
                Ok(engine) => break engine,
                Err(why) if tries < 500 => {
                    tries += 1;
                    assert!(why.contains("already open"), "{why}");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(why) => panic!("{why}"),
            }
        };
        self.0.nodes.lock().unwrap()[node] = Some(engine);
    }
}

/// L2, and all else that is asked of every engine.
#[test]
fn the_embedded_coordinator_conforms() {
    run(conformance::play_all(Three::new));
}

/// L6, by a clock that waits for disks and processors: what the elections themselves take, of which none may take longer.
#[test]
fn an_election_takes_half_a_second_at_most() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let three = Three::new().await;
        for _ in 0..40 {
            let leader = three.leader().await;
            let begin = tokio::time::Instant::now();
            three.kill(leader).await;
            three.leader().await;
            let took = begin.elapsed();
            println!("another leads after {took:?}");
            assert!(took <= ELECTION, "{took:?}");
            three.start(leader).await;
            // It knows whom it follows before it is its turn again.
            while three.at(leader).confirmed().await.is_err() {}
        }
    });
}

struct Build;

impl StoreBuilder<Types, Store, Machine, TempDir> for Build {
    async fn build(&self) -> Result<(TempDir, Store, Machine), openraft::StorageError<Types>> {
        let directory = TempDir::new().unwrap();
        let store = Store::open(&directory.path().join("coordinator.redb")).unwrap();
        Ok((directory, store.clone(), Machine::new(store, Shown::new())))
    }
}

/// A node that joined comes by a time in which another one of its number decided alone, and does not take itself for that one.
#[test]
fn who_may_not_stand_for_election_does_not_lead_even_where_it_is_the_only_voter() {
    run(async {
        let alone = Three::of(1);
        alone.start(0).await;
        alone.at(0).begin(&BTreeSet::from([NodeId(0)])).await.unwrap();
        alone.leader().await;
        alone.kill(0).await;
        let net = &alone.0;
        let line = Arc::new(From { net: Arc::clone(net), me: 0 });
        let silent = Tuning { campaigns: false, ..TUNING };
        let it = loop {
            match Embedded::start(NodeId(0), &net.file(0), line.clone(), silent).await {
                Ok(it) => break it,
                Err(why) => assert!(why.contains("already open"), "{why}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        // One that may does so within a heartbeat.
        tokio::time::sleep(10 * TUNING.heartbeat).await;
        assert_eq!(it.standing().voters, [NodeId(0)]);
        assert!(!it.leads());
        it.campaign();
        net.nodes.lock().unwrap()[0] = Some(it);
        alone.leader().await;
    });
}

/// The library's own idea of what a log must do.
#[test]
fn the_log_does_what_the_library_wants() {
    run(Suite::test_all(Build)).unwrap();
}

/// One that was away while the entries that it lacks were dropped gets the registry as a whole, and goes on from there.
#[test]
fn who_was_away_for_long_gets_a_snapshot() {
    run(async {
        let three = Three::new().await;
        let leader = three.leader().await;
        let away = (leader + 1) % 3;
        three.kill(away).await;
        let engine = three.at(leader);
        for serial in 1..=3 * TUNING.snapshot_every {
            // Refused, and an entry all the same.
            let _ = engine.propose(&Command::RevokeToken { serial }).await.unwrap();
        }
        three.start(away).await;
        let steps = engine.applied().borrow().steps;
        let mut applied = three.at(away).applied();
        applied.wait_for(|applied| applied.steps >= steps).await.unwrap();
        assert!(three.at(away).begins_at() > 0, "it has the first entries, so nobody sent it a snapshot");
        assert_eq!(
            three.at(away).confirmed().await.unwrap().snapshot(),
            engine.confirmed().await.unwrap().snapshot()
        );
        // And from its own disk, when it comes back again.
        three.kill(away).await;
        three.start(away).await;
        three.at(away).confirmed().await.unwrap();
    });
}

/// A part that does not follow the one before is not taken for one that does.
#[test]
fn parts_of_a_snapshot_come_in_order_or_not_at_all() {
    run(async {
        let three = Three::of(1);
        three.start(0).await;
        let engine = three.at(0);
        let leadership = Leadership { term: 1, node: NodeId(2) };
        let part = |offset: u32, bytes: &[u8]| Call::Install {
            ballot: Ballot { leadership, committed: true },
            last: Some(LogId { leadership, index: 9 }),
            voters: VotersAt {
                id: None,
                voters: Voters { configs: vec![vec![NodeId(2)]], nodes: vec![NodeId(2)] },
            },
            offset,
            total: 12,
            bytes: bytes.to_vec(),
        };
        assert_eq!(
            engine.handle(NodeId(2), part(4, b"5678")).await,
            Ok(Answer::Unable),
            "nothing came before"
        );
        let arrived = |answer| matches!(answer, Ok(Answer::Installed(_)));
        assert!(arrived(engine.handle(NodeId(2), part(0, b"1234")).await));
        assert_eq!(engine.handle(NodeId(2), part(8, b"9abc")).await, Ok(Answer::Unable), "one is missing");
        assert!(arrived(engine.handle(NodeId(2), part(4, b"5678")).await));
        assert_eq!(
            engine.handle(NodeId(2), part(4, b"5678")).await,
            Ok(Answer::Unable),
            "it was there already"
        );
    });
}
