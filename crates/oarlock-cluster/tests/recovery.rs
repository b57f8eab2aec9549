//! The barriers between a view and the first grant under it: step by step, and in storms of views, deaths and slow messages.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use oarlock_cluster::recovery::{FAILOVERS_MAX, Gate, Misdeed, Output, Recovery};
use oarlock_layout::departed::{Departed, Lost};
use oarlock_layout::id::{Epoch, Incarnation, NodeId};
use oarlock_layout::message::barrier::{Barrier, Step};
use oarlock_layout::time::Instant;
use oarlock_layout::view::{Member, View};

fn member(node: u16, run: u64) -> Member {
    Member { node: NodeId(node), incarnation: Incarnation(run) }
}

fn view(epoch: u32, members: &[(u16, u64)]) -> View {
    View { epoch: Epoch(epoch), members: members.iter().map(|(node, run)| member(*node, *run)).collect() }
}

fn ms(ms: u64) -> Instant {
    Instant::from_millis(ms)
}

fn said(room: &mut Recovery) -> Vec<Output> {
    std::iter::from_fn(|| room.poll_output()).collect()
}

fn hear(room: &mut Recovery, at: u64, from: u16, epoch: u32, step: Step) -> Result<(), Misdeed> {
    room.handle_barrier(ms(at), NodeId(from), Incarnation(1), Barrier { epoch: Epoch(epoch), step })
}

const RESTATED: Step = Step::Restated { departed: false, unsettled: false };

fn runs(runs: &[(u16, u64)]) -> BTreeSet<Member> {
    runs.iter().map(|(node, run)| member(*node, *run)).collect()
}

/// X11, L11: nothing is said before all are in the view, nothing is granted before all have restated, and the record names
/// when and by whom.
#[test]
fn each_barrier_waits_for_everybody() {
    let mut room = Recovery::new(NodeId(0));
    room.handle_fences(ms(0), &runs(&[(3, 1)]));
    room.handle_view(ms(0), &view(5, &[(0, 1), (1, 1), (2, 1)]), false);
    assert_eq!(said(&mut room).len(), 2, "both are told");
    hear(&mut room, 10, 2, 5, Step::Arrived).unwrap();
    assert_eq!((said(&mut room).len(), room.may_speak()), (0, false));
    assert_eq!(room.waits(), Some((Gate::Arrived, vec![NodeId(1)])));
    hear(&mut room, 20, 1, 5, Step::Arrived).unwrap();
    assert_eq!(said(&mut room), [Output::Passed(Gate::Arrived), Output::Restate]);
    assert!(room.may_speak());
    hear(&mut room, 21, 1, 5, RESTATED).unwrap();
    hear(&mut room, 22, 2, 5, Step::Restated { departed: true, unsettled: false }).unwrap();
    assert_eq!((said(&mut room), room.is_open()), (vec![], false), "this node has not restated");
    room.handle_restated(ms(30));
    let gates = said(&mut room);
    // That one member knew somebody who has left is enough.
    let open = [Output::Passed(Gate::Restated), Output::Open { departed: true }];
    assert_eq!((gates.len(), &gates[3..]), (5, &open[..]), "two are told, and two barriers passed");
    assert_eq!(room.waits(), Some((Gate::Fenced, vec![])), "the fences are missing");
    room.handle_fences(ms(40), &runs(&[]));
    assert_eq!(said(&mut room), [Output::Passed(Gate::Fenced)]);
    let failover = room.failovers().next_back().unwrap();
    assert_eq!(failover.passed[Gate::Arrived as usize], Some((ms(20), Some(NodeId(1)))));
    assert_eq!(failover.passed[Gate::Fenced as usize], Some((ms(40), None)));
    assert_eq!((failover.opened(), failover.overtaken), (Some(ms(30)), false));
}

/// 48: a view in the middle of another begins at the top.
#[test]
fn a_view_in_the_middle_begins_at_the_top() {
    let mut room = Recovery::new(NodeId(0));
    room.handle_view(ms(0), &view(5, &[(0, 1), (1, 1), (2, 1)]), false);
    for from in [1, 2] {
        hear(&mut room, 1, from, 5, Step::Arrived).unwrap();
    }
    said(&mut room);
    room.handle_restated(ms(2));
    hear(&mut room, 2, 1, 5, RESTATED).unwrap();
    room.handle_view(ms(3), &view(6, &[(0, 1), (1, 1)]), true);
    assert_eq!(said(&mut room).len(), 1, "only the new view is spoken of");
    hear(&mut room, 4, 1, 6, Step::Arrived).unwrap();
    assert!(!room.is_open(), "what was restated under view 5 counts for nothing");
    said(&mut room);
    room.handle_restated(ms(5));
    hear(&mut room, 6, 1, 6, RESTATED).unwrap();
    assert!(said(&mut room).contains(&Output::Open { departed: true }));
    assert!(room.failovers().next().unwrap().overtaken);
}

/// 44, 48: one that was open has done its part towards the dead and says no more of them. Whoever was not has heard of them and
/// goes on to say so, whether it heard before the next view or after it, and even if only its masters had not been told yet.
#[test]
fn what_others_knew_of_the_dead_is_remembered_until_masters_are_open() {
    let knew = Step::Restated { departed: true, unsettled: false };
    for how in ["before", "late", "untold"] {
        let mut room = Recovery::new(NodeId(0));
        room.handle_view(ms(0), &view(5, &[(0, 1), (1, 1), (2, 1)]), false);
        for from in [1, 2] {
            hear(&mut room, 1, from, 5, Step::Arrived).unwrap();
        }
        said(&mut room);
        room.handle_restated(ms(2));
        if how != "late" {
            hear(&mut room, 3, 1, 5, knew).unwrap();
        }
        said(&mut room);
        if how == "untold" {
            // The last member restates at the same moment at which the next view comes.
            hear(&mut room, 4, 2, 5, RESTATED).unwrap();
        }
        room.handle_view(ms(4), &view(6, &[(0, 1), (1, 1), (2, 1)]), false);
        assert!(room.failovers().any(|it| it.epoch == Epoch(5) && it.overtaken), "{how}");
        if how == "late" {
            hear(&mut room, 5, 1, 5, knew).unwrap();
        }
        for from in [1, 2] {
            hear(&mut room, 6, from, 6, Step::Arrived).unwrap();
        }
        said(&mut room);
        room.handle_restated(ms(7));
        let says = |output: &Output| match output {
            Output::Say { barrier, .. } => barrier.step == Step::Restated { departed: true, unsettled: true },
            _ => false,
        };
        assert_eq!(said(&mut room).iter().filter(|it| says(it)).count(), 2, "{how}");
        for from in [1, 2] {
            hear(&mut room, 8, from, 6, RESTATED).unwrap();
        }
        assert!(said(&mut room).contains(&Output::Open { departed: true }), "{how}");
        // From then on it is settled.
        room.handle_view(ms(9), &view(7, &[(0, 1)]), false);
        said(&mut room);
        room.handle_restated(ms(10));
        assert!(said(&mut room).contains(&Output::Open { departed: false }), "{how}");
    }
}

/// A member that is ahead is remembered; one that was replaced by a later run of itself is not taken for it.
#[test]
fn what_a_member_said_early_counts_and_what_an_earlier_run_said_does_not() {
    let mut room = Recovery::new(NodeId(0));
    hear(&mut room, 0, 1, 7, Step::Arrived).unwrap();
    room.handle_view(ms(1), &view(7, &[(0, 1), (1, 1)]), false);
    assert!(room.may_speak());
    room.handle_view(ms(2), &view(8, &[(0, 1), (1, 2)]), true);
    hear(&mut room, 3, 1, 8, Step::Arrived).unwrap();
    assert!(!room.may_speak(), "that was run 1, the view names run 2");
    said(&mut room);
    room.handle_up(NodeId(1), Incarnation(2));
    assert_eq!(said(&mut room).len(), 1, "the new run is told");
    let barrier = Barrier { epoch: Epoch(8), step: Step::Arrived };
    room.handle_barrier(ms(4), NodeId(1), Incarnation(2), barrier).unwrap();
    assert!(room.may_speak());
}

#[test]
fn what_no_honest_member_says_is_named() {
    let mut room = Recovery::new(NodeId(0));
    room.handle_view(ms(0), &view(5, &[(0, 1), (1, 1)]), false);
    assert_eq!(hear(&mut room, 1, 1, 5, RESTATED), Err(Misdeed::NotArrived { epoch: Epoch(5) }));
    let ahead = Misdeed::Ahead { ours: Epoch(5), came: Epoch(6) };
    assert_eq!(hear(&mut room, 1, 1, 6, RESTATED), Err(ahead));
    hear(&mut room, 2, 1, 6, Step::Arrived).unwrap();
    hear(&mut room, 3, 1, 5, RESTATED).expect("said before it went on");
    for epoch in 6..60 {
        room.handle_view(ms(epoch), &view(epoch as u32, &[(0, 1)]), false);
    }
    assert_eq!(room.failovers().count(), FAILOVERS_MAX);
}

/// A small generator (splitmix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

// ----- storms -------------------------------------------------------------------------------------------------

/// Members that hear of views at their own time; what they say to each other arrives in order, some time.
struct Storm {
    chance: Chance,
    views: Vec<View>,
    nodes: BTreeMap<Member, Node>,
    channels: BTreeMap<(Member, Member), VecDeque<Barrier>>,
    runs: u64,
    opened: u32,
    overtaken: u32,
    /// Who has opened which view.
    open: BTreeSet<(usize, Member)>,
    marked: u32,
}

struct Node {
    room: Recovery,
    /// Index of the view it has heard of.
    at: Option<usize>,
    /// `Restate` was asked for and is not done.
    restating: bool,
    departed: bool,
}

impl Storm {
    fn new(seed: u64) -> Storm {
        let mut storm = Storm {
            chance: Chance(seed),
            views: Vec::new(),
            nodes: BTreeMap::new(),
            channels: BTreeMap::new(),
            runs: 0,
            opened: 0,
            overtaken: 0,
            open: BTreeSet::new(),
            marked: 0,
        };
        storm.decide();
        storm
    }

    /// The coordinator decides another view: some go, some come.
    fn decide(&mut self) {
        let mut members = self.views.last().map_or(Vec::new(), |v| v.members.clone());
        let chance = &mut self.chance;
        members.retain(|_| chance.below(4) != 0);
        let left: Vec<Member> = self.nodes.keys().copied().collect();
        for gone in left.iter().filter(|m| !members.contains(m)) {
            self.nodes.remove(gone);
        }
        for node in 0..4 {
            let missing = members.iter().all(|m| m.node != NodeId(node));
            if missing && (self.chance.below(2) == 0 || (node == 3 && members.is_empty())) {
                self.runs += 1;
                let new = member(node, self.runs);
                members.push(new);
                self.nodes.insert(
                    new,
                    Node { room: Recovery::new(NodeId(node)), at: None, restating: false, departed: false },
                );
            }
        }
        members.sort_by_key(|m| m.node);
        self.views.push(View { epoch: Epoch(self.views.len() as u32 + 1), members });
        let all: Vec<Member> = self.nodes.keys().copied().collect();
        for a in &all {
            for b in all.iter().filter(|b| b.node != a.node) {
                // Circuits come up before a run is let in.
                if let Entry::Vacant(place) = self.channels.entry((*a, *b)) {
                    place.insert(VecDeque::new());
                    self.nodes.get_mut(a).unwrap().room.handle_up(b.node, b.incarnation);
                    self.collect(*a);
                }
            }
        }
    }

    fn collect(&mut self, who: Member) {
        let node = self.nodes.get_mut(&who).unwrap();
        while let Some(output) = node.room.poll_output() {
            let view = node.at.map(|at| &self.views[at]);
            match output {
                Output::Say { to, barrier } => {
                    let to = view.and_then(|v| v.member(to)).copied().expect("only members are spoken to");
                    assert_eq!(Some(barrier.epoch), view.map(|v| v.epoch));
                    if let Some(channel) = self.channels.get_mut(&(who, to)) {
                        channel.push_back(barrier);
                    }
                }
                Output::Restate => node.restating = true,
                Output::Passed(_) => {}
                Output::Open { departed } => {
                    self.opened += 1;
                    self.settles(who, departed);
                    let node = &self.nodes[&who];
                    // The promise: every member is in this very view, or beyond, and has restated under it.
                    let (at, epoch) = (node.at.unwrap(), node.room.epoch());
                    for other in self.views[at].members.clone() {
                        let Some(other) = self.nodes.get(&other) else { continue };
                        let beyond = other.at > Some(at);
                        let restated = other
                            .room
                            .failovers()
                            .any(|f| f.epoch == epoch && f.passed[Gate::Stated as usize].is_some());
                        assert!(
                            beyond || other.at == Some(at),
                            "a member is not in the view that was opened"
                        );
                        assert!(restated, "a member has not restated under {epoch:?}");
                    }
                    return self.collect(who);
                }
            }
        }
    }

    /// A run that left while it was open somewhere counts until there is a view that all its members have opened; and after
    /// that no departure does.
    fn settles(&mut self, who: Member, departed: bool) {
        let at = self.nodes[&who].at.expect("it is in a view");
        let left = |n: &usize| {
            let was_open = |m: &&Member| self.open.iter().any(|(at, it)| at < n && it == *m);
            let mut old = self.views[n - 1].members.iter().filter(was_open);
            // If nobody is left who was open before, nothing is left that could be believed too much.
            let stays = old.clone().any(|m| self.views[at].members.contains(m));
            stays && old.any(|m| !self.views[*n].members.contains(m))
        };
        let whole = |n: &usize| self.views[*n].members.iter().all(|m| self.open.contains(&(*n, *m)));
        let settled = (0..at).rev().find(whole).unwrap_or(0);
        let unsettled = (settled + 1..=at).any(|n| left(&n));
        assert!(departed || !unsettled, "seen from {who:?} nobody left between {settled} and {at}");
        self.marked += u32::from(departed);
        self.open.insert((at, who));
    }

    fn step(&mut self, views: bool) {
        let all: Vec<Member> = self.nodes.keys().copied().collect();
        let who = all[self.chance.below(all.len())];
        let now = ms(1);
        match self.chance.below(100) {
            0 if views => self.decide(),
            1..6 => {
                let last = self.views.len() - 1;
                let node = self.nodes.get_mut(&who).unwrap();
                let next = node.at.map_or(0, |at| at + 1);
                // It may hear of several at once.
                let Some(at) = (next..=last).rev().find(|at| self.views[*at].members.contains(&who)) else {
                    return;
                };
                let at = if self.chance.below(2) == 0 {
                    (next..=at).find(|at| self.views[*at].members.contains(&who)).unwrap()
                } else {
                    at
                };
                self.overtaken += u32::from(node.at.is_some() && !node.room.is_open());
                let before = node.at.replace(at);
                node.restating = false;
                // As its lock rooms say: whoever left since it was last open.
                let old = before.map_or(&[][..], |old| &self.views[old].members);
                let gone = old.iter().any(|m| !self.views[at].members.contains(m));
                let departed = gone || node.departed && !node.room.is_open();
                node.departed = departed;
                node.room.handle_view(now, &self.views[at].clone(), departed);
                self.collect(who);
            }
            6..12 => {
                let node = self.nodes.get_mut(&who).unwrap();
                if std::mem::take(&mut node.restating) {
                    node.room.handle_restated(now);
                    self.collect(who);
                }
            }
            _ => {
                let to = all[self.chance.below(all.len())];
                let barrier = self.channels.get_mut(&(who, to)).and_then(VecDeque::pop_front);
                if let (Some(barrier), Some(node)) = (barrier, self.nodes.get_mut(&to)) {
                    let room = &mut node.room;
                    room.handle_barrier(now, who.node, who.incarnation, barrier).expect("all are honest");
                    self.collect(to);
                }
            }
        }
    }

    /// No more views: everybody gets to the end.
    fn rest(&mut self) {
        for _ in 0..200_000 {
            let last = self.views.len() - 1;
            if self.views[last]
                .members
                .iter()
                .all(|m| self.nodes.get(m).is_some_and(|n| n.at == Some(last) && n.room.is_open()))
            {
                return;
            }
            self.step(false);
        }
        panic!("somebody never gets to the end");
    }
}

/// X11, L11, 48: in storms of views that cross each other nobody opens before everybody has restated, and once views cease
/// to change all open.
#[test]
fn in_storms_of_views_nobody_opens_early_and_everybody_in_the_end() {
    let (mut opened, mut overtaken, mut marked) = (0, 0, 0);
    for seed in 0..300 {
        let mut storm = Storm::new(seed);
        for _ in 0..2_000 {
            storm.step(true);
        }
        storm.rest();
        opened += storm.opened;
        overtaken += storm.overtaken;
        marked += storm.marked;
    }
    println!(
        "{opened} times a member opened a view, {marked} times beside departures, {overtaken} times another came before"
    );
    assert!(overtaken > 2_000 && marked > 500 && opened - marked > 500, "{opened} {overtaken} {marked}");
}

/// L4: what masters took with them that left counts for every run that is still to be fenced, and is told to whoever joins. A view that
/// was not open everywhere leaves nobody who knows.
#[test]
fn what_departed_masters_knew_is_lost_for_all_members() {
    let (left, later) = (member(3, 1), member(2, 1));
    let lost = |members: u64, masters: u64, run: Member| Lost { members, masters, run };
    let mut room = Recovery::new(NodeId(0));
    room.handle_view(ms(0), &view(5, &[(0, 1), (2, 1), (3, 1)]), false);
    pass(&mut room, 5, &[2, 3], RESTATED);
    // The coordinator is a view ahead: node 2 is in until then.
    room.handle_fences(ms(1), &BTreeSet::from([left, later]));
    room.handle_view(ms(1), &view(6, &[(0, 1), (2, 1)]), true);
    assert_eq!(room.known().lost, BTreeSet::from([lost(0b1101, 0b1000, left)]));
    pass(&mut room, 6, &[2], RESTATED);
    assert!(room.known().unknown.is_empty() && room.is_open());
    room.handle_view(ms(2), &view(7, &[(0, 1), (1, 1)]), true);
    let all =
        BTreeSet::from([lost(0b1101, 0b1000, left), lost(0b0101, 0b0100, left), lost(0b0101, 0b0100, later)]);
    assert_eq!(room.known().lost, all);
    hear(&mut room, 2, 1, 7, Step::Arrived).unwrap();
    said(&mut room);
    room.handle_restated(ms(3));
    let told: Vec<Barrier> = said(&mut room)
        .into_iter()
        .filter_map(|it| if let Output::Say { barrier, .. } = it { Some(barrier) } else { None })
        .collect();
    assert_eq!(told.len(), 4, "three before it has restated: {told:?}");

    // Who joined knows as much by then, and no more is asked of it.
    let mut joined = Recovery::new(NodeId(1));
    joined.handle_fences(ms(2), &BTreeSet::from([left, later]));
    joined.handle_view(ms(2), &view(7, &[(0, 1), (1, 1)]), false);
    let early = joined.handle_barrier(ms(2), NodeId(0), Incarnation(1), told[0]);
    assert_eq!(early, Err(Misdeed::NotArrived { epoch: Epoch(7) }));
    hear(&mut joined, 3, 0, 7, Step::Arrived).unwrap();
    said(&mut joined);
    joined.handle_restated(ms(3));
    told.iter().for_each(|barrier| hear(&mut joined, 4, 0, 7, barrier.step).unwrap());
    assert_eq!((joined.known().lost.clone(), said(&mut joined).len()), (all, 4));
    assert!(joined.is_open() && joined.known().unknown.is_empty());

    // A run of which nobody says anything may have had anything; so may all if somebody was not open before.
    for (unsettled, known) in [(false, 0), (true, 1)] {
        let mut room = Recovery::new(NodeId(0));
        room.handle_fences(ms(0), &BTreeSet::from([left]));
        room.handle_view(ms(0), &view(5, &[(0, 1), (2, 1)]), false);
        if known == 1 {
            hear(&mut room, 1, 2, 5, Step::Arrived).unwrap();
            hear(&mut room, 1, 2, 5, Step::Lost(lost(0b1101, 0b1000, left))).unwrap();
        }
        pass(&mut room, 5, &[2], Step::Restated { departed: true, unsettled });
        assert_eq!(room.known().unknown, BTreeSet::from([left]), "{unsettled}");
        room.handle_fences(ms(9), &BTreeSet::new());
        assert_eq!(room.known(), &Departed::default());
    }
}

/// All others arrive and say this, and this node restates.
fn pass(room: &mut Recovery, epoch: u32, others: &[u16], restated: Step) {
    for other in others {
        hear(room, 1, *other, epoch, Step::Arrived).unwrap();
    }
    said(room);
    room.handle_restated(ms(1));
    for other in others {
        hear(room, 1, *other, epoch, restated).unwrap();
    }
    said(room);
}
