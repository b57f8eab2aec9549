//! Whoever is in does not keep out a larger set of those who wait and hear each other (L7, I20).

mod founding;

use std::collections::BTreeSet;

use founding::{joined, key};
use oarlock_cluster::lease::Output as Step;
use oarlock_cluster::membership::{Identity, Output};
use oarlock_cluster::registry::{Basis, Command, Registry};
use oarlock_cluster::{Membership, partition::NodeSet};
use oarlock_layout::id::{Incarnation, NodeId};
use oarlock_layout::time::{Duration, Instant};
use proptest::prelude::*;

/// A process that has lost its lease is there again so soon.
const RESTART: u64 = 300;
/// A circuit to another run is up so soon.
const CIRCUIT: u64 = 50;
const STEP: u64 = 25;

#[derive(Clone)]
struct Run {
    incarnation: u64,
    /// None while it is dead: until then, or for good.
    membership: Option<Membership>,
    again: Option<u64>,
    /// Who has a circuit to it.
    hears: BTreeSet<u16>,
    silent_since: Vec<Option<u64>>,
}

/// Nodes that all reach the coordinator, and hear each other where there is a link.
struct World {
    now: u64,
    registry: Registry,
    runs: Vec<Run>,
    cut: BTreeSet<(u16, u16)>,
    outvoted: usize,
}

fn at(ms: u64) -> Instant {
    Instant::from_millis(1_000_000 + ms)
}

impl World {
    fn new(nodes: u16) -> World {
        let run = Run {
            incarnation: 0,
            membership: None,
            again: Some(0),
            hears: BTreeSet::new(),
            silent_since: vec![None; nodes.into()],
        };
        let runs = vec![run; nodes.into()];
        World { now: 0, registry: joined(nodes), runs, cut: BTreeSet::new(), outvoted: 0 }
    }

    fn cut(&mut self, a: u16, b: u16) {
        self.cut.insert((a.min(b), a.max(b)));
    }

    fn linked(&self, a: u16, b: u16) -> bool {
        a != b && !self.cut.contains(&(a.min(b), a.max(b)))
    }

    fn kill(&mut self, node: u16, again: Option<u64>) {
        let run = &mut self.runs[usize::from(node)];
        (run.membership, run.again) = (None, again.map(|ms| self.now + ms));
        run.hears.clear();
        run.silent_since.fill(None);
    }

    fn members(&self) -> Vec<u16> {
        self.registry.view().nodes().map(|node| node.0).collect()
    }

    fn apply(&mut self, command: &Command, by: u16) {
        let outcome = self.registry.apply(command);
        if let Command::Evict { out, .. } = command
            && outcome.changed()
        {
            self.outvoted += usize::from(out.iter().any(|it| matches!(it.basis, Basis::Outvoted { .. })));
        }
        for run in &mut self.runs {
            if let Some(membership) = &mut run.membership {
                membership.handle_applied(at(self.now), &self.registry);
            }
        }
        if let Some(membership) = &mut self.runs[usize::from(by)].membership {
            membership.handle_answer(at(self.now), command, outcome);
        }
    }

    fn circuits(&mut self) {
        let nodes = self.runs.len() as u16;
        for (a, b) in (0..nodes).flat_map(|a| (0..nodes).map(move |b| (a, b))).filter(|(a, b)| a != b) {
            let (up, linked) = (self.runs[usize::from(b)].membership.is_some(), self.linked(a, b));
            let incarnation = Incarnation(self.runs[usize::from(b)].incarnation);
            let now = self.now;
            let run = &mut self.runs[usize::from(a)];
            let Some(membership) = &mut run.membership else { continue };
            let since = &mut run.silent_since[usize::from(b)];
            if up && linked {
                if run.hears.insert(b) || since.is_some() {
                    membership.handle_heard(at(now), NodeId(b), incarnation);
                }
                *since = None;
            } else if run.hears.contains(&b) {
                let since = *since.get_or_insert(now);
                if now - since >= 1_000 {
                    membership.handle_silent(at(now), NodeId(b));
                    run.hears.remove(&b);
                }
            }
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        for node in 0..self.runs.len() {
            let (now, id) = (self.now, node as u16);
            let run = &mut self.runs[node];
            if run.again.is_some_and(|again| again <= now) {
                run.incarnation += 1;
                let me = Identity {
                    node: NodeId(id),
                    key: key(id),
                    incarnation: Incarnation(run.incarnation),
                    nonce: run.incarnation << 32,
                };
                (run.membership, run.again) = (Some(Membership::new(at(now), me, &self.registry)), None);
                // Its peers hear of another run.
                for other in self.runs.iter_mut().enumerate().filter(|(n, _)| *n != node) {
                    other.1.hears.remove(&id);
                }
            }
        }
        if self.now.is_multiple_of(CIRCUIT) {
            self.circuits();
        }
        for node in 0..self.runs.len() as u16 {
            let now = self.now;
            if let Some(membership) = &mut self.runs[usize::from(node)].membership
                && membership.poll_timeout().is_some_and(|due| due <= at(now))
            {
                membership.handle_timeout(at(now));
            }
            while let Some(output) =
                self.runs[usize::from(node)].membership.as_mut().and_then(Membership::poll_output)
            {
                self.take(node, output);
            }
        }
    }

    fn take(&mut self, node: u16, output: Output) {
        let others = || (0..self.runs.len() as u16).filter(|other| self.linked(node, *other));
        match output {
            Output::Propose(command) => self.apply(&command, node),
            Output::Report(silent) => {
                let to: Vec<u16> = others().filter(|it| self.registry.run(NodeId(*it)).is_some()).collect();
                self.say(node, &to, silent);
            }
            Output::Waits(silent) => {
                let to: Vec<u16> = others().collect();
                self.say(node, &to, silent);
            }
            Output::Lease(Step::Lost) | Output::Refused(_) => self.kill(node, Some(RESTART)),
            _ => {}
        }
    }

    fn say(&mut self, from: u16, to: &[u16], silent: NodeSet) {
        let run = Incarnation(self.runs[usize::from(from)].incarnation);
        for to in to {
            let Some(membership) = &mut self.runs[usize::from(*to)].membership else { continue };
            if membership.view().member(NodeId(from)).map(|member| member.incarnation) == Some(run) {
                membership.handle_report(at(self.now), NodeId(from), silent);
            } else {
                membership.handle_waiting(at(self.now), NodeId(from), silent);
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        for _ in 0..time.as_millis() as u64 / STEP {
            self.step();
        }
    }

    #[track_caller]
    fn until(&mut self, seconds: u64, members: &[u16]) {
        let begin = self.now;
        while self.members() != members {
            assert!(self.now - begin < seconds * 1_000, "{:?} are in after {seconds} s", self.members());
            self.step();
        }
    }
}

/// L7: the third was put out, its links are broken; the two that are in die together, and it comes in alone. They come
/// back, hear each other and not the third, and are two of three.
#[test]
fn two_that_come_back_are_not_kept_out_by_the_one_that_was_put_out() {
    let mut world = World::new(3);
    world.until(5, &[0, 1, 2]);
    world.pass(Duration::from_secs(2));
    world.cut(0, 2);
    world.cut(1, 2);
    world.until(10, &[0, 1]);
    world.pass(Duration::from_secs(12));
    world.kill(0, Some(6_000));
    world.kill(1, Some(6_000));
    world.until(10, &[2]);
    world.until(30, &[0, 1]);
    assert_eq!(world.outvoted, 1);
    // And so it stays.
    for _ in 0..60 {
        world.pass(Duration::from_secs(1));
        assert_eq!(world.members(), [0, 1]);
    }
    world.cut.clear();
    world.until(10, &[0, 1, 2]);
}

/// Whoever is in stays in against as many who wait.
#[test]
fn as_many_who_wait_outvote_nobody() {
    let mut world = World::new(4);
    for (a, b) in [(0, 2), (0, 3), (1, 2), (1, 3)] {
        world.cut(a, b);
    }
    world.pass(Duration::from_secs(20));
    let members = world.members();
    assert_eq!(members.len(), 2, "{members:?}");
    world.pass(Duration::from_secs(120));
    assert_eq!((world.members(), world.outvoted), (members, 0));
}

/// The largest set of living nodes in which all hear each other, by looking at each.
fn majority(world: &World) -> usize {
    let nodes = world.runs.len() as u16;
    let whole = |set: u32| {
        let has = |n: u16| set >> n & 1 == 1;
        (0..nodes).all(|a| !has(a) || (0..nodes).all(|b| a == b || !has(b) || world.linked(a, b)))
    };
    let alive: u32 = (0..nodes)
        .filter(|n| {
            world.runs[usize::from(*n)].membership.is_some() || world.runs[usize::from(*n)].again.is_some()
        })
        .map(|n| 1 << n)
        .sum();
    let sets = (0u32..1 << nodes).filter(|set| set & !alive == 0 && whole(*set));
    sets.map(|set| set.count_ones() as usize).max().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// I20: whatever was cut and killed, if more than half hear each other once all is quiet, more than half are in soon, and nobody
    /// is put out after that.
    #[test]
    fn more_than_half_that_hear_each_other_come_in(
        nodes in 3u16..=5,
        (faulty, cuts) in (0u16..5, proptest::collection::vec(0u8..6, 10)),
        delays in proptest::collection::vec(0u64..6_000, 5),
        early in any::<bool>(),
        kills in proptest::collection::vec((0u16..5, 0u64..9_000, 0u64..9_000), 0..5),
    ) {
        let mut world = World::new(nodes);
        for (run, delay) in world.runs.iter_mut().zip(&delays) {
            run.again = Some(*delay);
        }
        if !early {
            world.pass(Duration::from_secs(8));
        }
        // Fewer than half lose most of their links to the others, wherever in the order of ids they are.
        let few = (nodes - 1) / 2;
        let bad = |node: u16| (node + faulty) % nodes < few;
        let pairs = (0..nodes).flat_map(|a| (a + 1..nodes).map(move |b| (a, b)));
        for ((a, b), cut) in pairs.zip(cuts) {
            if bad(a) != bad(b) && cut > 0 {
                world.cut(a, b);
            }
        }
        for (node, after, again) in kills {
            world.pass(Duration::from_millis(after));
            if node < nodes {
                world.kill(node, (again < 8_000).then_some(again));
            }
        }
        world.pass(Duration::from_secs(90));
        if 2 * majority(&world) > usize::from(nodes) {
            let members = world.members();
            prop_assert!(2 * members.len() > usize::from(nodes), "{:?} of {nodes} are in, cut: {:?}", members, world.cut);
            world.pass(Duration::from_secs(30));
            prop_assert_eq!(world.members(), members);
        }
    }
}
