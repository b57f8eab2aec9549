//! A few members with disks and channels, small enough that every step can be chosen from outside.
//!
//! Channels behave as circuits promise: per pair of runs, in order, exactly once, and gone as soon as a newer
//! run of the peer is up. What a dead run had already sent may still arrive until then.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use oarlock_cluster::{Form, Forming, FormingConfig, Output, Phase};
use oarlock_layout::id::{Epoch, Incarnation, NodeId};
use oarlock_layout::time::Instant;
use oarlock_layout::view::View;

/// What a channel brings: the news that the circuit is up comes first.
#[derive(Clone, Debug)]
enum Arrival {
    Up(Incarnation),
    RefusedBy,
    Form(Form),
}

#[derive(Debug, Default)]
struct Disk {
    stored: Epoch,
    clean: bool,
    boots: u64,
}

/// One member: its disk outlives its runs.
struct Member {
    disk: Disk,
    run: Option<Run>,
}

struct Run {
    forming: Forming,
    incarnation: Incarnation,
    storing: VecDeque<Epoch>,
    /// Runs of peers with which it shook hands last; the news may still be on its way to the room.
    met: BTreeMap<NodeId, Incarnation>,
    /// Runs of peers with which it shares a circuit, as the room was told.
    up: BTreeMap<NodeId, Incarnation>,
    pins: BTreeMap<NodeId, Incarnation>,
    refused: BTreeSet<(NodeId, Incarnation)>,
    grants_from: Option<Instant>,
}

/// Everything that can happen next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Step {
    /// Two live runs shake hands, or one turns the other away.
    Meet(NodeId, NodeId),
    /// The next thing on a channel arrives.
    Deliver(NodeId, NodeId),
    /// The oldest write of a node reaches its disk.
    Store(NodeId),
}

/// The members and what is under way between them.
pub(crate) struct World {
    pub(crate) now: Instant,
    members: BTreeMap<NodeId, Member>,
    channels: BTreeMap<(NodeId, NodeId), VecDeque<Arrival>>,
    /// Every view ever served, with the runs that served it.
    pub(crate) served: BTreeMap<Epoch, (View, BTreeSet<(NodeId, Incarnation)>)>,
    /// A pinned circuit ends at once (true) or lives on until its keys do (false).
    pub(crate) pins_cut: bool,
}

impl World {
    pub(crate) fn new(nodes: u16) -> World {
        let member = || Member { disk: Disk { clean: true, ..Disk::default() }, run: None };
        World {
            now: Instant::from_millis(0),
            members: (0..nodes).map(|n| (NodeId(n), member())).collect(),
            channels: BTreeMap::new(),
            served: BTreeMap::new(),
            pins_cut: true,
        }
    }

    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.members.keys().copied().collect()
    }

    pub(crate) fn alive(&self, node: NodeId) -> bool {
        self.members[&node].run.is_some()
    }

    pub(crate) fn forming(&self, node: NodeId) -> &Forming {
        &self.members[&node].run.as_ref().expect("a live node").forming
    }

    pub(crate) fn grants_from(&self, node: NodeId) -> Option<Instant> {
        self.members[&node].run.as_ref().expect("a live node").grants_from
    }

    pub(crate) fn stored(&self, node: NodeId) -> Epoch {
        self.members[&node].disk.stored
    }

    pub(crate) fn start(&mut self, node: NodeId) {
        let nodes = self.nodes();
        let member = self.members.get_mut(&node).expect("a member");
        assert!(member.run.is_none(), "a data directory has one user");
        member.disk.boots += 1;
        let incarnation = Incarnation(member.disk.boots);
        let config = FormingConfig {
            me: node,
            incarnation,
            members: nodes,
            stored: member.disk.stored,
            clean: member.disk.clean,
        };
        member.run = Some(Run {
            forming: Forming::new(self.now, config),
            incarnation,
            storing: VecDeque::new(),
            met: BTreeMap::new(),
            up: BTreeMap::new(),
            pins: BTreeMap::new(),
            refused: BTreeSet::new(),
            grants_from: None,
        });
        self.drain(node);
    }

    /// The run ends; what it sent may still arrive, what was sent to it may not.
    pub(crate) fn crash(&mut self, node: NodeId) {
        let member = self.members.get_mut(&node).expect("a member");
        // A write that was under way may or may not have reached the disk: here it has not.
        member.run = None;
        self.channels.retain(|(_, to), _| *to != node);
    }

    /// Nobody holds a lock of this run, so it leaves the mark if it may.
    pub(crate) fn stop_cleanly(&mut self, node: NodeId) {
        let clean = self.alive(node) && self.forming(node).may_leave_clean(self.now);
        self.crash(node);
        self.members.get_mut(&node).expect("a member").disk.clean |= clean;
    }

    /// All that can happen now, in a stated order.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for a in self.nodes() {
            for b in self.nodes() {
                if a < b && self.can_meet(a, b) {
                    steps.push(Step::Meet(a, b));
                }
                let waiting = self.channels.get(&(a, b)).is_some_and(|q| !q.is_empty());
                if waiting && self.alive(b) {
                    steps.push(Step::Deliver(a, b));
                }
            }
            if self.members[&a].run.as_ref().is_some_and(|r| !r.storing.is_empty()) {
                steps.push(Step::Store(a));
            }
        }
        steps
    }

    fn can_meet(&self, a: NodeId, b: NodeId) -> bool {
        let (Some(ra), Some(rb)) = (&self.members[&a].run, &self.members[&b].run) else { return false };
        let fresh = |r: &Run, peer, run| r.met.get(&peer) != Some(&run) && !r.refused.contains(&(peer, run));
        fresh(ra, b, rb.incarnation) || fresh(rb, a, ra.incarnation)
    }

    pub(crate) fn take(&mut self, step: Step) {
        match step {
            Step::Meet(a, b) => self.meet(a, b),
            Step::Deliver(from, to) => self.deliver(from, to),
            Step::Store(node) => {
                let member = self.members.get_mut(&node).expect("a member");
                let run = member.run.as_mut().expect("a live node");
                let epoch = run.storing.pop_front().expect("a write under way");
                member.disk.stored = member.disk.stored.max(epoch);
                member.disk.clean = false;
                run.forming.handle_stored(self.now, epoch);
                self.drain(node);
            }
        }
    }

    fn meet(&mut self, a: NodeId, b: NodeId) {
        for (host, guest) in [(a, b), (b, a)] {
            let run = self.members[&guest].run.as_ref().expect("a live node").incarnation;
            let host_run = self.members[&host].run.as_ref().expect("a live node");
            if host_run.pins.get(&guest).is_some_and(|pinned| *pinned != run) {
                let host_incarnation = host_run.incarnation;
                let guest_run = self.members.get_mut(&guest).expect("a member").run.as_mut().expect("live");
                guest_run.refused.insert((host, host_incarnation));
                self.channels.insert((host, guest), [Arrival::RefusedBy].into());
                // The host remembers too, so that the two do not meet again and again.
                let host_run = self.members.get_mut(&host).expect("a member").run.as_mut().expect("live");
                host_run.refused.insert((guest, run));
                return;
            }
        }
        for (host, guest) in [(a, b), (b, a)] {
            let run = self.members[&guest].run.as_ref().expect("a live node").incarnation;
            let host_run = self.members.get_mut(&host).expect("a member").run.as_mut().expect("live");
            if host_run.met.insert(guest, run) != Some(run) {
                // Whatever an older run had on its way is now void.
                self.channels.insert((guest, host), [Arrival::Up(run)].into());
            }
        }
    }

    fn deliver(&mut self, from: NodeId, to: NodeId) {
        let arrival = self.channels.get_mut(&(from, to)).and_then(VecDeque::pop_front).expect("an arrival");
        let run = self.members.get_mut(&to).expect("a member").run.as_mut().expect("a live node");
        match arrival {
            Arrival::Up(incarnation) => {
                run.up.insert(from, incarnation);
                run.forming.handle_up(self.now, from, incarnation);
            }
            Arrival::RefusedBy => run.forming.handle_refused_by(self.now, from),
            Arrival::Form(form) => {
                let text = format!("{form:?}");
                run.forming
                    .handle_form(self.now, from, form)
                    .unwrap_or_else(|e| panic!("{from:?} to {to:?}: {text}: {e}"));
            }
        }
        self.drain(to);
    }

    /// Carries out what a node asks for.
    fn drain(&mut self, node: NodeId) {
        let runs: BTreeMap<NodeId, Incarnation> =
            self.members.iter().filter_map(|(n, m)| Some((*n, m.run.as_ref()?.incarnation))).collect();
        let member = self.members.get_mut(&node).expect("a member");
        let run = member.run.as_mut().expect("a live node");
        while let Some(output) = run.forming.poll_output() {
            match output {
                Output::Send { to, form } => {
                    // A message travels on the circuit the sender knows. If that run of the receiver is over
                    // or was cut off by a pin, the message ends there.
                    if run.up.get(&to).is_some_and(|up| runs.get(&to) == Some(up)) {
                        self.channels.entry((node, to)).or_default().push_back(Arrival::Form(form));
                    }
                }
                Output::Store { epoch } => run.storing.push_back(epoch),
                Output::Serve { view, grants_from } => {
                    run.grants_from = Some(grants_from);
                    for member in &view.members {
                        run.pins.insert(member.node, member.incarnation);
                    }
                    let me = (node, run.incarnation);
                    assert_eq!(view.member(node).map(|m| m.incarnation), Some(run.incarnation));
                    let (first, servers) =
                        self.served.entry(view.epoch).or_insert_with(|| (view.clone(), BTreeSet::new()));
                    assert_eq!(*first, view, "two views share an epoch");
                    assert!(servers.insert(me), "{me:?} serves the same view twice");
                    if self.pins_cut {
                        let pins = &run.pins;
                        run.up.retain(|peer, up| pins.get(peer) == Some(up));
                        run.met.retain(|peer, met| pins.get(peer) == Some(met));
                        let met = &run.met;
                        self.channels.retain(|(from, to), _| *to != node || met.contains_key(from));
                    }
                }
            }
        }
    }

    /// Lets everything happen that can, choosing by `choose(n) < n`.
    pub(crate) fn run_to_rest(&mut self, mut choose: impl FnMut(usize) -> usize) {
        for _ in 0..100_000 {
            let steps = self.steps();
            if steps.is_empty() {
                return;
            }
            self.take(steps[choose(steps.len())]);
            self.check();
        }
        panic!("the members never come to rest");
    }

    /// What must hold after every step (L3).
    pub(crate) fn check(&self) {
        let mut last = Epoch(0);
        let mut ever: BTreeSet<(NodeId, Incarnation)> = BTreeSet::new();
        for (epoch, (_, servers)) in &self.served {
            assert!(*epoch > last, "epochs rise");
            last = *epoch;
            for run in servers {
                assert!(ever.insert(*run), "{run:?} served two views");
            }
        }
        let live: BTreeSet<Epoch> =
            self.members.values().filter_map(|m| m.run.as_ref()?.forming.view()).map(|v| v.epoch).collect();
        assert!(live.len() <= 1, "live runs serve different views: {live:?}");
        for (node, member) in &self.members {
            let Some(view) = member.run.as_ref().and_then(|r| r.forming.view()) else { continue };
            for named in &view.members {
                let disk = &self.members[&named.node].disk;
                assert!(disk.stored >= view.epoch, "{node:?} serves what {named:?} has not stored");
            }
        }
    }

    /// The view that every member serves, if they all serve one.
    pub(crate) fn common_view(&self) -> Option<View> {
        let mut views = self.nodes().into_iter().map(|n| {
            let forming = self.members[&n].run.as_ref().map(|r| &r.forming)?;
            (forming.phase() == Phase::Serving).then(|| forming.view().cloned()).flatten()
        });
        let first = views.next()??;
        views.all(|v| v.as_ref() == Some(&first)).then_some(first)
    }
}
