//! Which evidence leads to which proposal, and when.

mod founding;

use founding::{cluster, renew, start};
use oarlock_cluster::Watch;
use oarlock_cluster::partition::NodeSet;
use oarlock_cluster::registry::{Basis, Command, Outcome, Registry, Role};
use oarlock_layout::id::{Incarnation, NodeId};
use oarlock_layout::limit::{LEASE, LEASE_DRIFT, RENEW, SILENT, VERDICT_HOLD};
use oarlock_layout::time::{Duration, Instant};

const A: NodeId = NodeId(0);

/// Node 0 of a cluster whose members all renew each [`RENEW`], but those that are told not to.
struct World {
    registry: Registry,
    watch: Watch,
    now: Instant,
    number: u64,
    still: NodeSet,
    away: bool,
    reports: Vec<(NodeId, NodeSet)>,
    /// What was proposed, and when; applied unless told otherwise.
    proposed: Vec<(Duration, Vec<(u16, Basis)>)>,
    lose_proposals: bool,
    /// Whose lease was shown to be over, and when.
    proven: Vec<(Duration, u16)>,
}

const T0: Instant = Instant::from_millis(1_000_000);

fn set(nodes: impl IntoIterator<Item = u16>) -> NodeSet {
    nodes.into_iter().map(NodeId).collect()
}

impl World {
    fn new(nodes: u16) -> World {
        let registry = cluster(nodes);
        let watch = Watch::new(T0, A, Incarnation(1), &registry);
        let mut world = World {
            registry,
            watch,
            now: T0,
            number: 0,
            still: NodeSet::EMPTY,
            away: false,
            reports: Vec::new(),
            proposed: Vec::new(),
            lose_proposals: false,
            proven: Vec::new(),
        };
        world.round();
        world
    }

    fn apply(&mut self, command: &Command) -> Outcome {
        let outcome = self.registry.apply(command);
        self.watch.handle_applied(self.now, &self.registry);
        outcome
    }

    /// All that happens each [`RENEW`].
    fn round(&mut self) {
        self.number += 1;
        for member in self.registry.view().members.clone() {
            if !self.away && !self.still.contains(member.node) {
                self.apply(&renew(member.node, member.incarnation.0, self.number));
            }
        }
        if !self.away && !self.still.contains(A) {
            self.watch.handle_answered(self.now);
        }
        for (from, silent) in self.reports.clone() {
            self.watch.handle_report(self.now, from, silent);
        }
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(command) = self.watch.poll_output() {
            if let Command::FenceProven { node, .. } = &command {
                self.proven.push((self.now.since(T0), node.0));
                assert_eq!(self.apply(&command), Outcome::Done);
                continue;
            }
            let Command::Evict { epoch, out, .. } = &command else { panic!("{command:?}") };
            assert_eq!(*epoch, self.registry.view().epoch);
            self.proposed.push((self.now.since(T0), out.iter().map(|o| (o.node.0, o.basis)).collect()));
            if !self.lose_proposals {
                assert_eq!(self.apply(&command), Outcome::Done);
            }
        }
    }

    fn run(&mut self, rounds: u32) {
        for _ in 0..rounds {
            let next = self.now + RENEW;
            while let Some(at) = self.watch.poll_timeout().filter(|at| *at < next) {
                self.now = self.now.max(at);
                self.watch.handle_timeout(self.now);
                self.drain();
                let again = self.watch.poll_timeout();
                assert!(again.is_none_or(|at| at > self.now), "a timeout that leads nowhere");
            }
            self.now = next;
            self.round();
        }
    }
}

/// L2, L10: at lease and drift after the last renewal that was applied here, and not before.
#[test]
fn who_renews_no_more_is_proposed_after_lease_and_drift() {
    let mut world = World::new(3);
    world.still = set([2]);
    world.run(10);
    let verdict = vec![(2, Basis::LeaseOver { renewal: 1 })];
    assert_eq!(world.proposed, [(LEASE + LEASE_DRIFT, verdict)]);
}

/// L2: a leader that is lost, or a coordinator that is away, evicts nobody: all have a whole lease from its return.
#[test]
fn while_the_registry_is_away_nobody_is_proposed() {
    let mut world = World::new(3);
    world.away = true;
    world.run(40);
    assert_eq!(world.proposed, []);
    (world.away, world.still) = (false, set([1]));
    let back = world.now + RENEW;
    world.run(10);
    assert_eq!(world.proposed.len(), 1);
    assert_eq!(world.proposed[0].0, (back + LEASE + LEASE_DRIFT).since(T0));
}

/// A node that cannot renew itself is no witness.
#[test]
fn who_is_not_answered_itself_proposes_nobody() {
    let mut world = World::new(3);
    world.still = set([0, 1]);
    world.run(20);
    assert_eq!(world.proposed, []);
}

/// After a restart of everything nobody is in the view who could evict the runs that it names: who waits does it, and
/// the refusals of its start are what tells it that the registry is there.
#[test]
fn who_waits_to_be_let_in_ends_the_leases_of_a_view_that_died() {
    let mut registry = cluster(2);
    let mut watch = Watch::new(T0, A, Incarnation(2), &registry);
    let (mut now, mut verdict) = (T0, None);
    while verdict.is_none() {
        let refused = registry.apply(&start(A, 2));
        assert!(!refused.changed() && now < T0 + 2 * LEASE, "{refused:?}");
        watch.handle_answered(now);
        verdict = watch.poll_output();
        now += Duration::from_millis(50);
    }
    assert!(now.since(T0) > LEASE + LEASE_DRIFT);
    assert_eq!(registry.apply(&verdict.unwrap()), Outcome::Done);
    assert_eq!(registry.apply(&start(A, 2)), Outcome::Done);
    assert_eq!(registry.view().members.len(), 1);
}

/// A lost proposal is repeated, and one member's return changes it.
#[test]
fn a_proposal_is_repeated_until_it_is_no_longer_so() {
    let mut world = World::new(4);
    (world.still, world.lose_proposals) = (set([2, 3]), true);
    world.run(6);
    let both = [(2, Basis::LeaseOver { renewal: 1 }), (3, Basis::LeaseOver { renewal: 1 })];
    assert!(
        world.proposed.len() >= 2 && world.proposed.iter().all(|(_, p)| *p == both),
        "{:?}",
        world.proposed
    );
    world.still = set([3]);
    world.run(1);
    world.proposed.clear();
    world.run(2);
    assert!(!world.proposed.is_empty() && world.proposed.iter().all(|(_, p)| *p == both[1..]));
}

/// L5: a surrendered run is proposed at once, whether or not the registry answers us.
#[test]
fn a_surrender_is_proposed_at_once() {
    let mut world = World::new(3);
    let before = world.now;
    world.apply(&Command::Surrender { node: NodeId(2), incarnation: Incarnation(1) });
    world.drain();
    assert_eq!(world.proposed, [(before.since(T0), vec![(2, Basis::Surrendered)])]);
    world.apply(&start(NodeId(2), 2));
    world.run(10);
    assert_eq!(world.proposed.len(), 1, "the new run is another");
}

/// L7: two that do not hear each other while both renew; ties fall on the higher id.
#[test]
fn a_silent_pair_that_renews_loses_one_of_it() {
    for one_way in [false, true] {
        let mut world = World::new(3);
        world.reports = vec![(NodeId(1), set([2])), (NodeId(2), if one_way { set([]) } else { set([1]) })];
        world.run(10);
        assert_eq!(world.proposed.len(), 1, "{:?}", world.proposed);
        let (at, verdict) = &world.proposed[0];
        assert_eq!(*verdict, [(2, Basis::Partition { kept: 2 })]);
        let noticed = RENEW;
        assert!(*at >= noticed + SILENT && *at <= noticed + SILENT + 2 * RENEW, "{at:?}");
        // L4: its lease may have gone on; that it is over is shown once it is, counted from its last renewal.
        let renewed = world.proposed[0].0.as_millis() / RENEW.as_millis() * RENEW.as_millis();
        let over = Duration::from_millis(renewed as u64) + LEASE + LEASE_DRIFT;
        assert_eq!(world.proven, [(over, 2)]);
        assert_eq!(world.registry.fences().count(), 0);
    }
}

/// L7: voters, then served volumes, weigh more than ids.
#[test]
fn ties_go_to_voters_and_then_to_servers() {
    let cut = vec![(NodeId(1), set([2])), (NodeId(2), set([1]))];
    let mut world = World::new(3);
    world.watch.handle_volumes(NodeId(2), 1);
    world.reports = cut.clone();
    world.run(10);
    assert_eq!(world.proposed[0].1, [(1, Basis::Partition { kept: 2 })]);
    let mut world = World::new(3);
    world.watch.handle_volumes(NodeId(2), 1);
    let seen = world.registry.member(NodeId(1)).unwrap().revision;
    world.apply(&Command::SetRole { node: NodeId(1), seen, role: Role::Voter });
    world.reports = cut;
    world.run(10);
    assert_eq!(world.proposed[0].1, [(2, Basis::Partition { kept: 2 })]);
}

/// L7: who is silent because it died is left to its lease, and who was paused is heard again.
#[test]
fn a_silent_member_that_renews_no_more_is_no_partition() {
    let mut world = World::new(3);
    world.still = set([2]);
    world.reports = vec![(A, set([2])), (NodeId(1), set([2]))];
    world.run(10);
    assert_eq!(world.proposed.len(), 1);
    assert_eq!(world.proposed[0].1, [(2, Basis::LeaseOver { renewal: 1 })]);

    let mut world = World::new(3);
    (world.still, world.reports) = (set([2]), vec![(A, set([2])), (NodeId(1), set([2]))]);
    world.run(3);
    world.still = NodeSet::EMPTY;
    world.run(1);
    world.reports = vec![(A, set([])), (NodeId(1), set([]))];
    world.run(20);
    assert_eq!(world.proposed, []);
}

/// L7: one fault shows in several places, a little later in some. All that is known by then decides, so that a node that
/// lost its links goes and not the first who missed it.
#[test]
fn a_pair_that_fell_silent_just_now_counts_in_the_choice() {
    let mut world = World::new(4);
    world.reports = vec![(NodeId(1), set([3]))];
    world.run(2);
    // Node 0 would be the worse choice of the pairs (0, 3) alone; now all miss node 0.
    world.reports = (1..4).map(|n| (NodeId(n), if n == 1 { set([3, 0]) } else { set([0]) })).collect();
    world.run(2);
    let (_, verdict) = &world.proposed[0];
    assert_eq!(verdict.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [0, 3]);
}

/// L7: after a verdict the next one about silent pairs waits, ended leases do not.
#[test]
fn verdicts_about_silence_are_held_down() {
    let mut world = World::new(5);
    world.reports = vec![(NodeId(3), set([4]))];
    world.run(6);
    assert_eq!(world.proposed.len(), 1);
    let first = world.proposed[0].0;
    world.reports = vec![(NodeId(2), set([3]))];
    world.run(2);
    world.still = set([1]);
    world.run(20);
    let (ended, hushed) = (&world.proposed[1], &world.proposed[2]);
    assert!(
        ended.0 < first + VERDICT_HOLD && matches!(ended.1[..], [(1, Basis::LeaseOver { .. })]),
        "{ended:?}"
    );
    assert_eq!(*hushed, (first + VERDICT_HOLD, vec![(3, Basis::Partition { kept: 2 })]));
}

/// L8: reports that stop coming are no evidence any more.
#[test]
fn a_report_that_is_not_repeated_is_forgotten() {
    let mut world = World::new(3);
    world.run(1);
    world.now += RENEW.saturating_sub(Duration::from_millis(1));
    world.watch.handle_report(world.now, NodeId(1), set([2]));
    world.now += Duration::from_millis(1);
    world.round();
    world.run(20);
    assert_eq!(world.proposed, []);
}
