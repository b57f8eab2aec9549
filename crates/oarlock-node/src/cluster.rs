//! This run in the cluster: what the coordinator decided, who is in the view, and the way from a view to the first grant.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use oarlock_circuit::{Class, SendError};
use oarlock_cluster::membership::{Identity, Output as Part};
use oarlock_cluster::partition::NodeSet;
use oarlock_cluster::recovery::{Failover, Gate, Output as Step};
use oarlock_cluster::registry::{Command, MemberRecord, Outcome};
use oarlock_cluster::{Membership, Recovery, Registry, lease};
use oarlock_layout::id::{Epoch, Incarnation, NodeId};
use oarlock_layout::limit::{LEASE_FROZEN, NODES_MAX, RESTATE_BACKLOG_BYTES};
use oarlock_layout::message::barrier::{Barrier, Report};
use oarlock_layout::message::peer::PeerMessage;
use oarlock_layout::seal::MAC_BYTES;
use oarlock_layout::stamp::HighWatermark;
use oarlock_layout::time::{Duration, Instant};
use oarlock_layout::view::View;

use crate::config::{Config, NodeConfig};
use crate::event::Event;
use crate::node::{Node, Output, Space, peer};
use crate::planted::Bug as Planted;

/// Resources that state anew before something else has a turn.
const RESTATE_AT_ONCE: u32 = 512;

/// Ends of runs that are remembered, so that each is told once: a gasp is said several times, for it may be lost.
const GIVEN_UP_MAX: usize = NODES_MAX;

/// Makes the nonces of a run from its seed.
const NONCES: u64 = 0x6e6f_6e63_6573_0000;

impl Node {
    // ----- the coordinator ------------------------------------------------------------------------------

    /// The coordinator has applied commands at this node. Several may be shown at once.
    pub fn handle_applied(&mut self, now: Instant, registry: &Registry) {
        if registry.revision() < self.since {
            return;
        }
        // Also after the end of the run: its coordinator goes on for a while, and a node that left is a stranger to it as well.
        self.follow_members(now, registry);
        if self.ended {
            return;
        }
        self.fences_applied(now, registry);
        match &mut self.membership {
            Some(membership) => membership.handle_applied(now, registry),
            None if registry.members().any(|member| member.node == self.config.me) => {
                let me = Identity {
                    node: self.config.me,
                    key: self.key,
                    incarnation: self.config.incarnation,
                    nonce: self.config.seed ^ NONCES,
                };
                let membership = Membership::new(now, me, registry);
                #[cfg(feature = "planted")]
                let membership = membership.with_bug(self.config.bug.and_then(Planted::of_member));
                #[cfg(feature = "planted")]
                self.replant();
                let mut membership = membership;
                membership.set_fences(self.fence_needs());
                for (peer, run) in &self.runs {
                    membership.handle_heard(now, *peer, *run);
                }
                for (peer, _) in self.hearing.silent() {
                    membership.handle_silent(now, peer);
                }
                for (node, run) in self.given_up.clone() {
                    membership.handle_given_up(now, node, run);
                }
                self.membership = Some(membership);
            }
            None => {}
        }
    }

    /// What the registry was before this revision of it is history to this node, which joined then. It applies the order from the
    /// beginning like everybody; but who was a member before must not be taken for who is, nor the owner of its id for itself.
    pub const fn follow_from(&mut self, revision: u64) {
        self.since = revision;
    }

    /// Once there is a cluster, its registry says who the members are: circuits to those who joined begin, those to who left end.
    fn follow_members(&mut self, now: Instant, registry: &Registry) {
        if registry.cluster().is_none() {
            return;
        }
        let me = self.config.me;
        let gone = |node: &NodeId| *node != me && registry.member(*node).is_none_or(|member| member.left);
        let gone: Vec<NodeId> = self.config.nodes.keys().copied().filter(gone).collect();
        for node in gone {
            self.circuits.remove_peer(node);
            // A silence that nobody would ever hear the end of.
            self.hearing.handle_heard(now, node);
            self.next_keys.remove(&node);
            if let Some(member) = self.config.nodes.remove(&node) {
                self.event(Event::MemberGone { node: member.name });
            }
        }
        for record in registry.members().filter(|member| member.node != me) {
            // The key is the member. Where it listens the configuration may know better: machines move.
            let old = self.has_bug(Planted::OldMember) && self.config.nodes.contains_key(&record.node);
            if old || self.follow_keys(record) {
                continue;
            }
            let member = NodeConfig { name: record.name.clone(), address: record.address, key: record.key };
            self.circuits.add_peer(now, peer(record.node, &member));
            if let Some(next) = &record.next {
                self.circuits.set_keys(record.node, record.key, Some(next.key));
                self.next_keys.insert(record.node, next.key);
            }
            self.hearing.handle_heard(now, record.node);
            self.config.nodes.insert(record.node, member);
            self.event(Event::MemberNew { node: record.name.clone(), address: record.address });
        }
    }

    /// Takes over the keys of a member, if it is one that this node knows already.
    fn follow_keys(&mut self, record: &MemberRecord) -> bool {
        let node = record.node;
        let next = record.next.as_ref().map(|next| next.key);
        let was_next = self.next_keys.get(&node).copied();
        let Some(known) = self.config.nodes.get_mut(&node) else { return false };
        // What it has changed to while this node did not run, the configuration does not say.
        let changed = known.name == record.name && record.made.is_some();
        if known.key != record.key && was_next != Some(record.key) && !changed {
            return false;
        }
        let (retires, announces) = (known.key != record.key, next.is_some() && next != was_next);
        if retires || next != was_next {
            known.key = record.key;
            match next {
                Some(next) => _ = self.next_keys.insert(node, next),
                None => _ = self.next_keys.remove(&node),
            }
            self.circuits.set_keys(node, record.key, next);
            let name = record.name.clone();
            if retires && was_next.is_some() {
                self.event(Event::KeyTaken { node: name.clone() });
            }
            if announces {
                self.event(Event::KeyAnnounced { node: name });
            }
        }
        true
    }

    /// This node proves itself with another key from now on: all circuits agree on new keys, and go on meanwhile.
    pub fn renew_keys(&mut self, now: Instant) {
        self.circuits.renew_keys(now);
    }

    /// Whether this run is, or was, in a view. What it asks to be let in by is of no interest any more then.
    pub fn has_entered(&self) -> bool {
        self.membership.as_ref().is_some_and(|membership| membership.lease().is_some())
    }

    /// Since when the oldest keys of a circuit are in use over which a peer is heard.
    pub fn oldest_keys(&self) -> Option<Instant> {
        let all = self.config.nodes.keys().filter_map(|node| self.circuits.status(*node));
        let heard = all.filter(|it| it.incarnation.is_some() && it.silent_since.is_none());
        heard.filter_map(|it| it.keyed_at).min()
    }

    /// What came of a command that this node proposed: it has been applied here.
    pub fn handle_answer(&mut self, now: Instant, command: &Command, outcome: Outcome) {
        if let Some(membership) = self.membership.as_mut().filter(|_| !self.ended) {
            membership.handle_answer(now, command, outcome);
        }
    }

    /// Whoever names this secret speaks for the end of this run (L5): as soon as the run is in the view, and not before, every
    /// member hears a code of it. A clone of this node, which has its key and its number, is never let in beside it, and
    /// so cannot speak for it. To be called before anything is handed in. Said by
    /// [`encode_gasp`](oarlock_layout::message::frame::encode_gasp).
    pub fn pledge(&mut self, secret: &[u8; MAC_BYTES]) {
        let Config { me, incarnation, .. } = self.config;
        self.pledge = Some(self.circuits.pledge(me, incarnation, secret));
    }

    /// An earlier run of this node has ended, and nobody can act under a lock of it any more: whoever watched it says so, on
    /// this machine. Others need not wait for its lease (L5).
    ///
    /// # Panics
    /// If it is no earlier run.
    pub fn handle_given_up(&mut self, now: Instant, incarnation: Incarnation) {
        assert!(incarnation < self.config.incarnation, "run {incarnation} is not over for this one");
        self.given_up(now, self.config.me, incarnation);
    }

    /// Why this run is not let into the cluster, if it is not.
    pub fn not_let_in(&self) -> Option<String> {
        self.refused.as_ref().map(ToString::to_string)
    }

    /// How the last views came into effect at this node, the newest last.
    pub fn failovers(&self) -> impl DoubleEndedIterator<Item = &Failover> {
        self.recovery.failovers()
    }

    /// The barriers between a view and its first grant.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    #[cfg(feature = "planted")]
    pub(crate) fn has_bug(&self, bug: Planted) -> bool {
        self.config.bug == Some(bug)
    }

    /// What is planted is not written.
    #[cfg(feature = "planted")]
    pub(crate) fn replant(&mut self) {
        self.clock.take(self.config.bug.and_then(Planted::of_clock));
        self.deadlocks.search.plant(self.config.bug.and_then(Planted::of_search));
    }

    #[cfg(not(feature = "planted"))]
    pub(crate) const fn has_bug(&self, _bug: Planted) -> bool {
        false
    }

    // ----- what others say ------------------------------------------------------------------------------

    pub(crate) fn tell_pledge(&mut self, now: Instant, peer: NodeId) {
        let is_in = self.membership.as_ref().is_some_and(|m| m.lease().is_some());
        if let Some(code) = self.pledge.filter(|_| is_in) {
            self.say(now, peer, &PeerMessage::Pledge(code));
        }
    }

    pub(crate) fn pledged(&mut self, from: NodeId, code: [u8; MAC_BYTES]) {
        if let Some(run) = self.runs.get(&from) {
            self.pledges.handle_pledge(from, *run, code);
        }
    }

    /// Somebody says that a run has ended. Whoever cannot prove it is not worth a word: the datagram may come from anybody.
    pub(crate) fn gasp(&mut self, now: Instant, node: NodeId, run: Incarnation, code: &[u8; MAC_BYTES]) {
        if self.ended || !self.pledges.proves(node, run, code) {
            return;
        }
        let named = self.recovery.view().member(node).filter(|_| self.has_bug(Planted::GaspOfAnyRun));
        let run = named.map_or(run, |member| member.incarnation);
        if self.given_up(now, node, run) {
            self.event(Event::GivenUp { node: self.node_name(node), incarnation: run });
        }
    }

    /// False: that was known.
    fn given_up(&mut self, now: Instant, node: NodeId, run: Incarnation) -> bool {
        if self.given_up.contains(&(node, run)) {
            return false;
        }
        self.given_up.push((node, run));
        if self.given_up.len() > GIVEN_UP_MAX {
            self.given_up.remove(0);
        }
        if let Some(membership) = &mut self.membership {
            membership.handle_given_up(now, node, run);
        }
        true
    }

    pub(crate) fn barrier(&mut self, now: Instant, from: NodeId, barrier: Barrier) {
        let Some(run) = self.runs.get(&from).copied() else { return };
        if let Err(misdeed) = self.recovery.handle_barrier(now, from, run, barrier) {
            self.violation(from, misdeed.to_string());
        }
    }

    pub(crate) fn report(&mut self, now: Instant, from: NodeId, report: Report) {
        let nodes = || (0..NODES_MAX as u16).map(NodeId).filter(|node| report.silent >> node.0 & 1 == 1);
        let silent: NodeSet = nodes().collect();
        // Of a run that is in the view it counts as evidence about members, of another one about what it waits for.
        let (Some(membership), Some(run)) = (&mut self.membership, self.runs.get(&from)) else { return };
        if membership.view().member(from).map(|member| member.incarnation) == Some(*run) {
            membership.handle_report(now, from, silent);
        } else {
            membership.handle_waiting(now, from, silent);
        }
    }

    /// Nothing is done under a lease that is over, and nothing new granted under one that is at risk, whatever the node was
    /// about when it stood still (L1, L6).
    pub(crate) fn look_at_lease(&mut self, now: Instant) {
        let left = if self.frozen { Duration::ZERO } else { LEASE_FROZEN };
        if self.lease.since(now) > left || self.lease == Instant(0) || self.ended {
            return;
        }
        if self.lease <= now {
            // What was done and not told yet is not told.
            self.outputs.retain(|output| !matches!(output, Output::Reply { .. }));
        }
        if let Some(membership) = &mut self.membership {
            membership.handle_timeout(now);
        }
        self.drain_cluster(now);
    }

    /// The clock by which programs judge the lease in segments has fallen behind that of this node by more than the margin
    /// of a lease: the machine was suspended (L9). What they granted themselves since may rest on a lease that was over, so
    /// nothing of it is believed, and the run ends. Nothing happens to a run that has had no lease.
    pub fn handle_suspended(&mut self, now: Instant, by: Duration) {
        self.look_at_lease(now);
        if self.ended || self.lease == Instant(0) {
            return;
        }
        self.event(Event::Suspended { by });
        self.end(now, "the machine was suspended");
    }

    // ----- what follows ---------------------------------------------------------------------------------

    /// Carries what membership and recovery have to say. Returns whether anything moved.
    pub(crate) fn drain_cluster(&mut self, now: Instant) -> bool {
        let mut moved = false;
        if self.ended {
            // Whatever they have to say belongs to a run that is over.
            return false;
        }
        while let Some(output) = self.membership.as_mut().and_then(Membership::poll_output) {
            moved = true;
            self.part(now, output);
        }
        let shown = self.membership.as_ref().filter(|m| m.view().epoch == self.clock.epoch());
        if let Some(membership) = shown {
            // It is a bound in this view, and in no earlier one.
            self.clock.handle_bound(now, membership.watermark());
        }
        let until = self.membership.as_ref().and_then(|m| m.lease()).map(|lease| lease.lease_until());
        if let Some(until) = until.filter(|until| *until > self.lease && !self.ended) {
            moved = true;
            self.lease = until;
            let more = if self.has_bug(Planted::LongLease) { Duration::from_secs(2) } else { Duration::ZERO };
            self.outputs.push_back(Output::Lease { until: until + more });
        }
        while let Some(step) = self.recovery.poll_output() {
            moved = true;
            self.step(now, step);
        }
        moved |= self.drain_fencing();
        moved | self.restate(now)
    }

    fn part(&mut self, now: Instant, output: Part) {
        match output {
            Part::Propose(command) => {
                // With the lease the room for stamps is renewed: often enough, and again until it is there.
                let renews = matches!(command, Command::Renew { .. });
                self.outputs.push_back(Output::Propose(command));
                if let Some(to) = self.clock.bound_wanted().filter(|_| renews) {
                    self.outputs.push_back(Output::Propose(Command::RaiseWatermark { to }));
                }
            }
            Part::Report(silent) => self.tell_members(now, &report_of(silent)),
            Part::Waits(silent) => {
                let heard = |node: &NodeId| self.hearing.silent_since(*node).is_none();
                let others: Vec<NodeId> = self.runs.keys().copied().filter(heard).collect();
                for node in others {
                    // It is said again soon.
                    let _ = self.send(now, node, Class::Lock, &report_of(silent));
                }
            }
            Part::View(view) => self.view(now, &view),
            Part::Entered(_) => {
                let others: Vec<NodeId> = self.runs.keys().copied().collect();
                others.into_iter().for_each(|peer| self.tell_pledge(now, peer));
                // The view that named this run for the first time was shown before the run knew that it is in.
                let view = self.membership.as_ref().expect("it has just spoken").view().clone();
                self.view(now, &view);
            }
            Part::Lease(lease::Output::Lost) => {
                self.event(Event::LeaseLost);
                self.end(now, "the node is not in the cluster any more");
            }
            Part::Lease(lease::Output::Frozen) => self.freeze(now, true),
            Part::Lease(lease::Output::Thawed) => self.freeze(now, false),
            Part::Lease(lease::Output::Renew { .. }) => unreachable!("proposed as a command"),
            Part::Refused(why) => {
                self.event(Event::NotLetIn { why: why.to_string() });
                self.refused = Some(why);
            }
        }
    }

    /// The view that is valid here; 0 before the first.
    pub(crate) fn epoch(&self) -> Epoch {
        self.recovery.view().epoch
    }

    fn view(&mut self, now: Instant, view: &View) {
        let me = &self.config;
        let mine = view.member(me.me).is_some_and(|member| member.incarnation == me.incarnation);
        let entered = self.membership.as_ref().is_some_and(|m| m.lease().is_some());
        if self.ended || !mine || !entered || view.epoch <= self.epoch() {
            return;
        }
        let mut departed = false;
        for Space { locks, .. } in &mut self.spaces {
            departed |= locks.handle_view(view);
        }
        (self.restating, self.restated) = (false, false);
        self.outputs.push_back(Output::Store { epoch: view.epoch });
        self.event(Event::View { epoch: view.epoch, members: view.members.len() });
        // The floor is that of the newest view. If this is another, the newest one comes at once, and clocks may skip views.
        if let Some(membership) = self.membership.as_ref().filter(|m| m.view().epoch == view.epoch) {
            self.clock.handle_view(now, view, HighWatermark(membership.floor()));
            self.clock.handle_bound(now, membership.watermark());
        }
        self.deadlocks.search.handle_view(now);
        self.recovery.handle_view(now, view, departed);
    }

    fn step(&mut self, now: Instant, step: Step) {
        match step {
            Step::Say { to, barrier } => {
                // Without a circuit there is nobody to tell; the circuit's coming up tells it anew.
                self.say(now, to, &PeerMessage::Barrier(barrier));
            }
            Step::Restate => self.restating = true,
            Step::Open { departed } if !self.has_bug(Planted::OpenEarly) => self.open(now, departed),
            Step::Passed(Gate::Stated) if self.has_bug(Planted::OpenEarly) => self.open(now, true),
            Step::Open { .. } | Step::Passed(_) => {}
        }
    }

    fn open(&mut self, now: Instant, departed: bool) {
        self.tell_departed(now);
        for Space { locks, words } in &mut self.spaces {
            locks.handle_open(now, words.as_mut(), departed);
        }
        let epoch = self.epoch();
        self.event(Event::Serving { epoch });
    }

    /// States the next resources anew, as long as what is said finds room in the circuits. Returns whether any did.
    fn restate(&mut self, now: Instant) -> bool {
        if !self.restating || self.ended {
            return false;
        }
        let full = |node: NodeId| self.circuits.backlog(node) > RESTATE_BACKLOG_BYTES;
        if self.recovery.view().nodes().any(full) {
            // It goes on when somebody has acknowledged.
            return false;
        }
        for Space { locks, words } in &mut self.spaces {
            if locks.restate(now, words.as_mut(), RESTATE_AT_ONCE) {
                return true;
            }
        }
        self.restating = false;
        self.restated = true;
        true
    }

    fn freeze(&mut self, now: Instant, frozen: bool) {
        self.frozen = frozen;
        for Space { locks, words } in &mut self.spaces {
            locks.handle_frozen(now, words.as_mut(), frozen);
        }
        self.event(if frozen { Event::Frozen } else { Event::Thawed });
    }

    fn tell_members(&mut self, now: Instant, message: &PeerMessage) {
        let members = self.membership.iter().flat_map(|m| m.view().nodes());
        let others: Vec<NodeId> = members.filter(|node| *node != self.config.me).collect();
        for node in others {
            self.say(now, node, message);
        }
    }

    /// To a member, if there is a circuit.
    fn say(&mut self, now: Instant, to: NodeId, message: &PeerMessage) {
        match self.send(now, to, Class::Lock, message) {
            Ok(()) | Err(SendError::NotUp(_) | SendError::NoSuchPeer(_)) => {}
            Err(SendError::Full { peer, .. }) => self.overwhelmed(now, peer),
            Err(error @ SendError::TooLong(_)) => panic!("these are short: {error}"),
        }
    }

    /// What a member must be told cannot be kept any more.
    pub(crate) fn overwhelmed(&mut self, now: Instant, peer: NodeId) {
        let node = self.node_name(peer);
        self.event(Event::Overwhelmed { node });
        self.end(now, "a member was silent for too long");
    }
}

fn report_of(nodes: NodeSet) -> PeerMessage {
    let silent = nodes.iter().fold(0, |bits, node| bits | 1 << node.0);
    PeerMessage::Report(Report { silent })
}
