//! Recovery is idempotent (I21): whatever interrupts it at whichever barrier, what comes out is the table of a recovery that
//! nothing interrupted.
//!
//! ```text
//!   view 1: a b c d, many locks and waiters ── d dies ──► view 2: a b c ─────────────────────────────► table
//!                                                            │ after any step
//!                                                            ├─► view 3: a b c (nobody new) ─────────► the same table
//!                                                            └─► view 3: a b c d' ── after any step,
//!                                                                d' dies ──► view 4: a b c ──────────► the same table
//! ```
//!
//! The rooms are the real ones, and so are the barriers. A step is one message delivered, or one piece restated.

use std::collections::{BTreeMap, VecDeque};

use oarlock_cluster::Recovery;
use oarlock_cluster::recovery::Output as Step;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, Incarnation, LockId, NodeId, OwnerId, SessionId, SpaceId, TransactionId};
use oarlock_layout::message::barrier::Barrier;
use oarlock_layout::message::lock::Packet;
use oarlock_layout::message::look::{At, What};
use oarlock_layout::mode::Mode::{self, CR, EX, PR, PW};
use oarlock_layout::name::Name;
use oarlock_layout::segment::PlainWords;
use oarlock_layout::time::Instant;
use oarlock_layout::view::{Member, View};
use oarlock_lock::{Config, Lock, Lockspace, Output, Request};

const NOW: Instant = Instant(0);
const NODES: usize = 4;
const RESOURCES: u32 = 24;

enum Mail {
    Lock(Packet),
    Barrier(Barrier),
}

struct Node {
    run: u64,
    alive: bool,
    space: Lockspace,
    words: PlainWords,
    recovery: Recovery,
    restating: bool,
}

impl Node {
    fn new(me: u16, run: u64, alive: bool) -> Node {
        let space = Lockspace::new(Config::native(SpaceId(0), NodeId(me)));
        let (words, recovery) = (PlainWords::new(256), Recovery::new(NodeId(me)));
        Node { run, alive, space, words, recovery, restating: false }
    }
}

struct Cluster {
    nodes: Vec<Node>,
    /// By (from, to).
    lines: BTreeMap<(usize, usize), VecDeque<Mail>>,
    epoch: u32,
}

/// What each node knows of each resource, without the numbers that count views, grants and messages.
type Table = BTreeMap<(u32, usize), Vec<String>>;

fn name(number: u32) -> Name {
    Name::new(&number.to_be_bytes()).expect("a short name")
}

impl Cluster {
    fn form() -> Cluster {
        let nodes = (0..NODES as u16).map(|me| Node::new(me, 1, true)).collect();
        let mut cluster = Cluster { nodes, lines: BTreeMap::new(), epoch: 0 };
        cluster.decide();
        cluster.settle();
        cluster
    }

    /// The next view, of all that live; each of them enters it at once.
    fn decide(&mut self) {
        self.epoch += 1;
        let living = self.nodes.iter().enumerate().filter(|(_, node)| node.alive);
        let members = living
            .map(|(n, node)| Member { node: NodeId(n as u16), incarnation: Incarnation(node.run) })
            .collect();
        let view = View { epoch: Epoch(self.epoch), members };
        for n in (0..NODES).filter(|n| view.member(NodeId(*n as u16)).is_some()) {
            let node = &mut self.nodes[n];
            node.restating = false;
            let departed = node.space.handle_view(&view);
            node.recovery.handle_view(NOW, &view, departed);
            self.pump(n);
        }
    }

    fn die(&mut self, dead: usize) {
        self.nodes[dead] = Node::new(dead as u16, self.nodes[dead].run, false);
        self.lines.retain(|(from, to), _| *from != dead && *to != dead);
    }

    fn join(&mut self, new: usize) {
        self.nodes[new] = Node::new(new as u16, self.nodes[new].run + 1, true);
        let run = Incarnation(self.nodes[new].run);
        let living: Vec<usize> = (0..NODES).filter(|n| *n != new && self.nodes[*n].alive).collect();
        for other in living {
            self.nodes[other].recovery.handle_up(NodeId(new as u16), run);
            self.pump(other);
        }
    }

    fn send(&mut self, from: usize, to: usize, mail: Mail) {
        if self.nodes[to].alive {
            self.lines.entry((from, to)).or_default().push_back(mail);
        }
    }

    fn pump(&mut self, n: usize) {
        while let Some(step) = self.nodes[n].recovery.poll_output() {
            match step {
                Step::Say { to, barrier } => self.send(n, to.0.into(), Mail::Barrier(barrier)),
                Step::Restate => self.nodes[n].restating = true,
                Step::Open { departed } => {
                    let node = &mut self.nodes[n];
                    node.space.handle_open(NOW, &mut node.words, departed);
                }
                Step::Passed(_) => {}
            }
        }
        while let Some(output) = self.nodes[n].space.poll_output() {
            if let Output::Send { to, packet } = output {
                self.send(n, to.0.into(), Mail::Lock(packet));
            }
        }
    }

    /// One step, if there is any; which one is chosen by `turn`.
    fn step(&mut self, turn: usize) -> bool {
        let restating = (0..NODES).filter(|n| self.nodes[*n].restating).map(Err);
        let lines = self.lines.iter().filter(|(_, line)| !line.is_empty()).map(|(line, _)| Ok(*line));
        let all: Vec<Result<(usize, usize), usize>> = restating.chain(lines).collect();
        if all.is_empty() {
            return false;
        }
        match all[turn % all.len()] {
            Err(n) => {
                let node = &mut self.nodes[n];
                let more = node.space.restate(NOW, &mut node.words, 3);
                // What it says goes out before it says that this was all.
                self.pump(n);
                if !more {
                    self.nodes[n].restating = false;
                    self.nodes[n].recovery.handle_restated(NOW);
                }
                self.pump(n);
            }
            Ok((from, to)) => {
                let mail = self.lines.get_mut(&(from, to)).and_then(VecDeque::pop_front).expect("not empty");
                let run = Incarnation(self.nodes[from].run);
                let node = &mut self.nodes[to];
                match mail {
                    Mail::Lock(packet) => {
                        let heard =
                            node.space.handle_message(NOW, &mut node.words, NodeId(from as u16), packet);
                        heard.expect("all are honest");
                    }
                    Mail::Barrier(barrier) => {
                        let heard = node.recovery.handle_barrier(NOW, NodeId(from as u16), run, barrier);
                        heard.expect("all are honest");
                    }
                }
                self.pump(to);
            }
        }
        true
    }

    /// Steps until nothing is left to do. Returns how many there were.
    fn settle(&mut self) -> usize {
        let mut steps = 0;
        while self.step(steps * 7) {
            steps += 1;
            assert!(steps < 100_000, "it does not come to rest");
        }
        let open = |node: &Node| node.recovery.is_open() && node.recovery.epoch() == Epoch(self.epoch);
        assert!(self.nodes.iter().filter(|node| node.alive).all(open), "a view is not open at rest");
        steps
    }

    fn lock(&mut self, n: usize, number: u32, resource: u32, mode: Mode) {
        let request = Lock {
            lock: LockId::new(SessionId(n as u32 + 1), number),
            name: name(resource),
            mode,
            flags: Flags::empty(),
            timeout: None,
            owner: OwnerId(0),
            transaction: TransactionId(0),
        };
        let node = &mut self.nodes[n];
        node.space.handle_request(NOW, &mut node.words, Request::Lock(request));
        self.pump(n);
        self.settle();
    }

    /// Locks of all kinds at all nodes, those of d among them, and behind them waiters. The waiters of a resource are all at
    /// one node, whose queue has one order; where they were at several, the order of their statements would decide.
    fn fill(&mut self) {
        for resource in 0..RESOURCES {
            let at = |n: u32| ((resource + n) % 3) as usize;
            match resource % 6 {
                0 => self.lock(3, resource, resource, EX),
                1 => self.lock(at(0), resource, resource, EX),
                2 => (0..3).for_each(|n| self.lock(at(n), resource, resource, PR)),
                3 => {
                    self.lock(3, resource, resource, PR);
                    self.lock(at(1), resource, resource, CR);
                }
                4 => {
                    self.lock(at(0), resource, resource, PW);
                    self.lock(3, resource, resource, CR);
                }
                _ => self.lock(at(2), resource, resource, CR),
            }
            if resource % 4 != 3 {
                for (number, mode) in [(100, EX), (200, PR), (300, EX)] {
                    self.lock(at(1), number + resource, resource, mode);
                }
            }
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        for (n, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.alive) {
            for resource in 0..RESOURCES {
                let (rows, cut) = node.space.look(NOW, &node.words, &At::Resource(name(resource)));
                assert!(!cut);
                let rows = rows.into_iter().map(|row| match row.what {
                    What::Holder(it) => format!("{:?} holds {}, told {:?}", it.party.lock, it.mode, it.told),
                    What::Waiter(it) => {
                        format!("{:?} wants {}, holds {:?}", it.party.lock, it.wanted, it.held)
                    }
                    What::Shadow(it) => {
                        let head = it.head.map(|head| head.mode);
                        format!(
                            "owns {:?}, needs {:?}, wants {:?}, head {head:?}",
                            it.owned, it.need, it.told_conv
                        )
                    }
                    What::Master(it) => {
                        let head = it.head.map(|head| head.mode);
                        format!("head {head:?}, {:?} convert, {:?} wait", it.converting, it.waiting)
                    }
                    What::Branch(_) => unreachable!("no look at locks brings one"),
                    What::Record(it) => format!("{:?} has {:?} and wants {:?}", it.node, it.held, it.conv),
                });
                table.insert((resource, n), rows.collect());
            }
        }
        table
    }
}

/// The cluster just after d has died and before anybody has heard anything of view 2.
fn bereaved() -> Cluster {
    let mut cluster = Cluster::form();
    cluster.fill();
    cluster.die(3);
    cluster.decide();
    cluster
}

#[track_caller]
fn same(clean: &Table, other: &Table, when: &str) {
    for (place, rows) in clean {
        assert_eq!(Some(rows), other.get(place), "resource and node {place:?}, interrupted {when}");
    }
    assert_eq!(clean.len(), other.len());
}

fn clean() -> (Table, usize) {
    let mut cluster = bereaved();
    let steps = cluster.settle();
    let table = cluster.table();
    let text = format!("{table:?}");
    assert!(text.contains("holds EX") && text.contains("holds PR") && text.contains("wants EX"), "{text}");
    assert!(steps > 60, "{steps} steps are hardly a recovery");
    (table, steps)
}

/// I21: another view of the same members comes after any step.
#[test]
fn a_recovery_that_begins_again_at_any_step_ends_with_the_same_table() {
    let (table, steps) = clean();
    for cut in 0..=steps {
        let mut cluster = bereaved();
        (0..cut).for_each(|n| assert!(cluster.step(n * 7)));
        cluster.decide();
        cluster.settle();
        same(&table, &cluster.table(), &format!("after {cut} steps"));
    }
}

/// I21, FT17: a node joins after any step, and dies after any step of that view.
#[test]
fn a_node_that_joins_and_dies_in_a_recovery_leaves_the_same_table() {
    let (table, steps) = clean();
    let mut cuts = 0;
    for cut in (0..=steps).step_by(8) {
        for more in (0..).step_by(11) {
            let mut cluster = bereaved();
            (0..cut).for_each(|n| assert!(cluster.step(n * 7)));
            cluster.join(3);
            cluster.decide();
            let made = (0..more).take_while(|n| cluster.step(n * 5)).count();
            cluster.die(3);
            cluster.decide();
            cluster.settle();
            same(&table, &cluster.table(), &format!("after {cut} steps, then after {made}"));
            cuts += 1;
            if made < more {
                break;
            }
        }
    }
    assert!(cuts > 100, "{cuts} cuts");
}

/// The comparison is awake: a table in which a lock is missing is another one.
#[test]
fn a_lock_more_is_another_table() {
    let (table, _) = clean();
    let mut cluster = bereaved();
    cluster.settle();
    cluster.lock(0, 900, 5, CR);
    assert_ne!(table, cluster.table());
}
