//! How a static list of members becomes a view (L3; protocol T, "Forming with static views").
//!
//! ```text
//!     lowest id                                            every other member
//!     ─────────                                            ──────────────────
//!     ◄──────────────── Standing(forming, stored, clean) ──────────────────►    on every circuit
//!     all there, none serves
//!     epoch := highest stored + 1
//!     Store, durable
//!     ── Propose(view, wait) ─────────────────────────────────────────────►
//!                                                          circuits to all it names
//!                                                          Store, durable
//!     ◄─────────────────────────────────────────────────────── Accept(epoch) ──
//!     all accepted: serve
//!     ── Commit(epoch) ───────────────────────────────────────────────────►
//!                                                          serve
//! ```
//!
//! Why it is safe. A view is served only after *every* member has stored its epoch in the very run that the
//! view names. So (1) whoever proposes later hears of that epoch from whomever it asks and goes higher: at
//! most one view per epoch, and epochs rise. (2) A node that serves never accepts again: no run is ever in
//! two views, and as long as one run of a view lives, no other view can be completed. (3) The proposer makes
//! an epoch durable before it proposes it, so that even two proposals never share one.
//!
//! Why it ends. A run that dies during forming is replaced by a higher one; the proposer notices when the
//! circuit to the new run comes up, and starts again. If the proposer dies after only some members heard the
//! commit, the others learn it from any member that serves the view they have accepted.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use oarlock_layout::id::{Epoch, Incarnation, NodeId};
use oarlock_layout::limit::{EPOCH_BITS, LEASE, NODES_MAX};
use oarlock_layout::message::form::{Form, Phase};
use oarlock_layout::time::Instant;
use oarlock_layout::view::{Member, View};

use crate::standing::{PeerStanding, Said, Wait};
use crate::violation::Violation;

/// What a node brings to the forming of a view.
#[derive(Clone, Debug)]
pub struct FormingConfig {
    /// This node.
    pub me: NodeId,
    /// This run of it.
    pub incarnation: Incarnation,
    /// All members of the static configuration, this node included, in any order.
    pub members: Vec<NodeId>,
    /// The epoch found in the data directory; 0 if it was never in a view.
    pub stored: Epoch,
    /// The last run stopped cleanly. A node that was never in a view counts as clean whatever this says.
    pub clean: bool,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send this on the circuit to a peer (which is up).
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        form: Form,
    },
    /// Make the epoch durable and clear the clean mark, then call [`Forming::handle_stored`].
    Store {
        /// Which epoch.
        epoch: Epoch,
    },
    /// The view is agreed: pin the circuits to the runs it names and hand it to the rooms.
    Serve {
        /// The view.
        view: View,
        /// Nothing may be granted before.
        grants_from: Instant,
    },
}

/// Turns a static list of members into one view, and stays in it.
///
/// *Inputs* are the `handle_` methods; after each, drain [`poll_output`](Forming::poll_output) to `None`, then
/// sleep until [`poll_timeout`](Forming::poll_timeout). `phase`, `view`, `standing` and `waits` only look.
///
/// A node that serves never leaves its view. A peer that comes back as another run is turned away by the
/// circuits, which the hall pins when it sees [`Output::Serve`].
#[derive(Debug)]
pub struct Forming {
    me: NodeId,
    incarnation: Incarnation,
    clean: bool,
    began: Instant,
    /// Ascending; this node included.
    members: Vec<NodeId>,
    peers: BTreeMap<NodeId, PeerStanding>,
    /// Highest epoch for which a `Store` went out: no lower one may ever be accepted or proposed again.
    promised: Epoch,
    /// Highest epoch known to be on disk.
    durable: Epoch,
    /// The view this node proposed and collects acceptances for (lowest id only).
    proposal: Option<Proposal>,
    /// A proposed view that names a run to which there is no circuit yet.
    proposed: Option<Candidate>,
    /// A proposed view whose epoch is not on disk yet.
    storing: Option<Candidate>,
    /// The view accepted last in this run. Kept until served or replaced, for the commit may come from others.
    accepted: Option<Candidate>,
    view: Option<View>,
    grants_from: Instant,
    waiting_to_grant: bool,
    told: Option<(Phase, Epoch)>,
    outputs: VecDeque<Output>,
}

#[derive(Clone, Debug)]
struct Candidate {
    view: View,
    wait: bool,
}

#[derive(Clone, Debug)]
struct Proposal {
    candidate: Candidate,
    accepts: BTreeSet<NodeId>,
}

impl Forming {
    /// A node that has just started.
    ///
    /// # Panics
    /// If `members` does not name `me`, names somebody twice, or has more than
    /// [`NODES_MAX`](oarlock_layout::limit::NODES_MAX) entries: the configuration was to be checked before.
    pub fn new(now: Instant, config: FormingConfig) -> Forming {
        let mut members = config.members;
        members.sort_unstable();
        assert!(members.windows(2).all(|w| w[0] != w[1]), "a member is listed twice: {members:?}");
        assert!(members.contains(&config.me), "node {} is not among the members", config.me);
        assert!(members.len() <= NODES_MAX, "{} members, {NODES_MAX} are allowed", members.len());
        let peers =
            members.iter().filter(|n| **n != config.me).map(|n| (*n, PeerStanding::default())).collect();
        let mut forming = Forming {
            me: config.me,
            incarnation: config.incarnation,
            clean: config.clean || config.stored == Epoch(0),
            began: now,
            members,
            peers,
            promised: config.stored,
            durable: config.stored,
            proposal: None,
            proposed: None,
            storing: None,
            accepted: None,
            view: None,
            grants_from: now,
            waiting_to_grant: false,
            told: None,
            outputs: VecDeque::new(),
        };
        // A cluster of one forms at once: there is nobody to wait for.
        forming.settle(now);
        forming
    }

    /// A circuit to a run of `peer` is up; another run than before if it was up before.
    pub fn handle_up(&mut self, now: Instant, peer: NodeId, incarnation: Incarnation) {
        let Some(standing) = self.peers.get_mut(&peer) else { return };
        if standing.run.is_some_and(|known| known > incarnation) {
            // Circuits never go back to an older run; were it so, the newer one still counts.
            return;
        }
        *standing = PeerStanding { run: Some(incarnation), said: None, refuses_us: false };
        if peer == self.proposer() {
            // It would send its acceptance to a run that never proposed the view.
            self.storing = None;
            self.proposed = None;
        }
        let standing = self.own_standing();
        self.outputs.push_back(Output::Send { to: peer, form: standing });
        self.settle(now);
    }

    /// `peer` turned us away at its door: it serves a view that names an earlier run of this node.
    pub fn handle_refused_by(&mut self, now: Instant, peer: NodeId) {
        let Some(standing) = self.peers.get_mut(&peer) else { return };
        standing.refuses_us = true;
        self.settle(now);
    }

    /// A message from a peer whose circuit is up.
    pub fn handle_form(&mut self, now: Instant, from: NodeId, form: Form) -> Result<(), Violation> {
        let standing = self.peers.get_mut(&from).ok_or(Violation::NotAMember { from })?;
        let run = standing.run.ok_or(Violation::Unannounced { from })?;
        match form {
            Form::Standing { phase, stored, clean } => {
                standing.said = Some(Said { phase, stored, clean });
            }
            Form::Propose { view, wait } => self.handle_propose(from, run, Candidate { view, wait })?,
            Form::Accept { epoch } => self.handle_accept(now, from, epoch)?,
            Form::Commit { epoch } => self.handle_commit(now, from, epoch)?,
        }
        self.settle(now);
        Ok(())
    }

    fn handle_propose(&mut self, from: NodeId, run: Incarnation, new: Candidate) -> Result<(), Violation> {
        let epoch = new.view.epoch;
        self.check_proposer(from)?;
        if u64::from(epoch.0) >> EPOCH_BITS != 0 {
            return Err(Violation::EpochTooLarge { epoch });
        }
        if !new.view.nodes().eq(self.members.iter().copied()) {
            return Err(Violation::OtherMembers { epoch });
        }
        for (node, actual) in [(self.me, self.incarnation), (from, run)] {
            let named = new.view.member(node).expect("the members are ours").incarnation;
            if named != actual {
                return Err(Violation::OtherRun { epoch, node, named, actual });
            }
        }
        if self.view.is_some() {
            // The proposer has an old picture of this node, which is no misdeed; give it the new one.
            let standing = self.own_standing();
            self.outputs.push_back(Output::Send { to: from, form: standing });
            return Ok(());
        }
        let known = self.proposed.as_ref().map_or(self.promised, |c| c.view.epoch);
        if epoch <= known {
            return Err(Violation::EpochNotHigher { proposed: epoch, stored: known });
        }
        self.proposed = Some(new);
        Ok(())
    }

    /// A proposal is accepted once this node has a circuit to every run that it names: whoever serves a view
    /// must be able to talk to all of it.
    fn take_up_proposal(&mut self) {
        let Some(proposed) = &self.proposed else { return };
        let run = |m: &Member| self.peers.get(&m.node).map_or(Some(self.incarnation), |peer| peer.run);
        let members = &proposed.view.members;
        if members.iter().any(|m| run(m) > Some(m.incarnation)) {
            // It names a run that is known here to be over. The proposer will hear of the newer one too and
            // start again; completing this view would only make that member a stranger to it.
            self.proposed = None;
        } else if members.iter().all(|m| run(m) == Some(m.incarnation)) {
            let epoch = proposed.view.epoch;
            self.promised = epoch;
            self.storing = self.proposed.take();
            self.outputs.push_back(Output::Store { epoch });
        }
    }

    fn handle_accept(&mut self, now: Instant, from: NodeId, epoch: Epoch) -> Result<(), Violation> {
        if epoch > self.promised || self.me != self.proposer() {
            return Err(Violation::NotProposed { epoch });
        }
        // An acceptance of a proposal that was given up meanwhile means nothing any more.
        if let Some(proposal) = self.proposal.as_mut().filter(|p| p.candidate.view.epoch == epoch) {
            proposal.accepts.insert(from);
            self.commit_if_complete(now);
        }
        Ok(())
    }

    fn handle_commit(&mut self, now: Instant, from: NodeId, epoch: Epoch) -> Result<(), Violation> {
        self.check_proposer(from)?;
        if let Some(view) = &self.view {
            // Learned from another member before the commit arrived.
            return if view.epoch == epoch { Ok(()) } else { Err(Violation::NotAccepted { epoch }) };
        }
        let accepted = self.accepted.take_if(|c| c.view.epoch == epoch);
        let candidate = accepted.ok_or(Violation::NotAccepted { epoch })?;
        self.serve(now, candidate);
        Ok(())
    }

    fn check_proposer(&self, from: NodeId) -> Result<(), Violation> {
        let lowest = self.proposer();
        if from == lowest { Ok(()) } else { Err(Violation::NotTheProposer { from, lowest }) }
    }

    /// What [`Output::Store`] asked for is on disk.
    pub fn handle_stored(&mut self, now: Instant, epoch: Epoch) {
        assert!(epoch <= self.promised, "epoch {epoch} is durable, but only {} was asked for", self.promised);
        self.durable = self.durable.max(epoch);
        if let Some(candidate) = self.storing.take_if(|c| c.view.epoch == epoch) {
            self.accepted = Some(candidate.clone());
            if self.me == self.proposer() {
                let proposal = self.proposal.as_mut().expect("the proposer stores what it proposes");
                proposal.accepts.insert(self.me);
                self.send_to_others(&Form::Propose { view: candidate.view, wait: candidate.wait });
                self.commit_if_complete(now);
            } else {
                self.outputs.push_back(Output::Send { to: self.proposer(), form: Form::Accept { epoch } });
            }
        }
        self.settle(now);
    }

    /// The time of [`poll_timeout`](Forming::poll_timeout) has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now >= self.grants_from {
            self.waiting_to_grant = false;
        }
    }

    /// The next thing to do, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`handle_timeout`](Forming::handle_timeout): the moment from which a new view may grant.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.waiting_to_grant.then_some(self.grants_from)
    }

    /// Where this node stands.
    pub fn phase(&self) -> Phase {
        if self.view.is_some() {
            Phase::Serving
        } else if self.peers.iter().any(|(node, peer)| self.serves_without_us(*node, peer).is_some()) {
            Phase::Refused
        } else {
            Phase::Forming
        }
    }

    /// The view this node serves.
    pub fn view(&self) -> Option<&View> {
        self.view.as_ref()
    }

    /// From when the view may grant; in the past if nothing is to be waited for.
    pub fn grants_from(&self) -> Option<Instant> {
        self.view.is_some().then_some(self.grants_from)
    }

    /// May a run that ends now, with nobody who could act under a lock of it, leave the clean mark? Not if the
    /// run before left none and ended less than a lease time ago: somebody may still act under a lock of that
    /// one, and the next view must wait for him. When exactly it ended is not known, but before this one began.
    pub fn may_leave_clean(&self, now: Instant) -> bool {
        self.clean || now.since(self.began) >= LEASE
    }

    /// The highest epoch that is on disk here.
    pub fn stored(&self) -> Epoch {
        self.durable
    }

    /// What is known of a peer; none for this node itself and for strangers.
    pub fn standing(&self, peer: NodeId) -> Option<PeerStanding> {
        self.peers.get(&peer).copied()
    }

    /// Why this node does not serve yet; empty if it does.
    pub fn waits(&self) -> Vec<Wait> {
        if self.view.is_some() {
            return Vec::new();
        }
        let mut waits: Vec<Wait> =
            self.peers.iter().filter_map(|(node, peer)| self.serves_without_us(*node, peer)).collect();
        let missing = self.peers.iter().filter(|(_, p)| p.said.is_none() && !p.refuses_us);
        waits.extend(missing.map(|(node, _)| Wait::Missing(*node)));
        if !waits.is_empty() {
            return waits;
        }
        match (&self.storing, &self.proposal, &self.accepted) {
            (Some(candidate), ..) => waits.push(Wait::Disk(candidate.view.epoch)),
            (None, Some(proposal), _) => {
                let epoch = proposal.candidate.view.epoch;
                let absent = self.members.iter().filter(|n| !proposal.accepts.contains(n));
                waits.extend(absent.map(|n| Wait::Accept(*n, epoch)));
            }
            (None, None, Some(candidate)) => waits.push(Wait::Commit(candidate.view.epoch)),
            (None, None, None) if self.next_epoch().is_none() => waits.push(Wait::EpochsExhausted),
            (None, None, None) => waits.push(Wait::Proposer(self.proposer())),
        }
        waits
    }

    /// The peer serves a view that this run is not in.
    fn serves_without_us(&self, node: NodeId, peer: &PeerStanding) -> Option<Wait> {
        if peer.refuses_us {
            return Some(Wait::RefusedBy(node));
        }
        let said = peer.said.filter(|s| s.phase == Phase::Serving)?;
        let ours = self.accepted.as_ref().is_some_and(|c| c.view.epoch == said.stored);
        (!ours).then_some(Wait::Serves(node, said.stored))
    }

    fn proposer(&self) -> NodeId {
        self.members[0]
    }

    /// One above everything that anybody has stored; none if no epoch is left.
    fn next_epoch(&self) -> Option<Epoch> {
        let heard = self.peers.values().filter_map(|p| p.said).map(|s| s.stored);
        let next = heard.fold(self.promised, Epoch::max).0.checked_add(1)?;
        (u64::from(next) >> EPOCH_BITS == 0).then_some(Epoch(next))
    }

    fn own_standing(&self) -> Form {
        // What is promised counts, not only what is on disk: an epoch that may reach the disk is used up.
        Form::Standing { phase: self.phase(), stored: self.promised, clean: self.clean }
    }

    fn send_to_others(&mut self, form: &Form) {
        for (to, _) in self.peers.iter().filter(|(_, peer)| peer.run.is_some()) {
            self.outputs.push_back(Output::Send { to: *to, form: form.clone() });
        }
    }

    /// Draws every conclusion that the last input allows.
    fn settle(&mut self, now: Instant) {
        self.learn_commit(now);
        self.take_up_proposal();
        self.drop_outlived_proposal();
        self.propose();
        let standing = (self.phase(), self.promised);
        if self.told != Some(standing) {
            self.told = Some(standing);
            let form = self.own_standing();
            self.send_to_others(&form);
        }
    }

    /// The proposer may have died between one commit and the next: a member that serves the view accepted
    /// here is proof that all have accepted it.
    fn learn_commit(&mut self, now: Instant) {
        if self.view.is_some() {
            return;
        }
        let peers = &self.peers;
        let served = |epoch| {
            let mut said = peers.values().filter_map(|p| p.said);
            said.any(|s| s.phase == Phase::Serving && s.stored == epoch)
        };
        if let Some(candidate) = self.accepted.take_if(|c| served(c.view.epoch)) {
            self.serve(now, candidate);
        }
    }

    /// Every peer is there, has spoken, and neither serves nor refuses us.
    fn all_ready(&self) -> bool {
        self.peers.values().all(|peer| {
            !peer.refuses_us
                && peer.run.is_some()
                && peer.said.is_some_and(|said| said.phase != Phase::Serving)
        })
    }

    /// A proposal whose members changed can no longer be accepted by all the runs it names.
    fn drop_outlived_proposal(&mut self) {
        let Some(proposal) = &self.proposal else { return };
        let same_run = |m: &Member| m.node == self.me || self.peers[&m.node].run == Some(m.incarnation);
        if !self.all_ready() || !proposal.candidate.view.members.iter().all(same_run) {
            self.proposal = None;
            self.storing = None;
            self.accepted = None;
        }
    }

    fn propose(&mut self) {
        let free = self.view.is_none() && self.proposal.is_none();
        if self.me != self.proposer() || !free || !self.all_ready() {
            return;
        }
        let Some(epoch) = self.next_epoch() else { return };
        let run = |node: &NodeId| match self.peers.get(node) {
            Some(peer) => peer.run.expect("all are ready"),
            None => self.incarnation,
        };
        let members = self.members.iter().map(|n| Member { node: *n, incarnation: run(n) }).collect();
        let unclean = self.peers.values().filter_map(|p| p.said).any(|s| !s.clean);
        let candidate = Candidate { view: View { epoch, members }, wait: unclean || !self.clean };
        self.promised = epoch;
        self.storing = Some(candidate.clone());
        self.proposal = Some(Proposal { candidate, accepts: BTreeSet::new() });
        // The own disk first: were the proposal sent at once and this run to die, the next one might
        // propose another view under the same epoch.
        self.outputs.push_back(Output::Store { epoch });
    }

    fn commit_if_complete(&mut self, now: Instant) {
        let complete = |p: &mut Proposal| p.accepts.len() == self.members.len();
        let Some(proposal) = self.proposal.take_if(complete) else { return };
        self.send_to_others(&Form::Commit { epoch: proposal.candidate.view.epoch });
        self.serve(now, proposal.candidate);
    }

    /// What L3 forbids, for checkers to notice: this run serves the view that a peer serves, although that view names
    /// an earlier run of this node and all tables here are empty.
    #[cfg(feature = "planted")]
    pub fn serve_uninvited(&mut self, now: Instant) {
        let serving = self.peers.values().filter_map(|p| p.said).find(|s| s.phase == Phase::Serving);
        let runs: Option<Vec<Member>> = (self.members.iter())
            .map(|node| {
                let run = self.peers.get(node).map_or(Some(self.incarnation), |peer| peer.run);
                run.map(|incarnation| Member { node: *node, incarnation })
            })
            .collect();
        let (Some(said), Some(members), None) = (serving, runs, &self.view) else { return };
        (self.promised, self.durable) = (self.promised.max(said.stored), self.durable.max(said.stored));
        self.serve(now, Candidate { view: View { epoch: said.stored, members }, wait: false });
        self.settle(now);
    }

    fn serve(&mut self, now: Instant, candidate: Candidate) {
        assert!(self.view.is_none(), "a run serves one view only (L3)");
        assert!(candidate.view.epoch <= self.durable, "a view is served before its epoch is on disk");
        (self.accepted, self.proposed) = (None, None);
        self.grants_from = if candidate.wait { now + LEASE } else { now };
        self.waiting_to_grant = candidate.wait;
        self.outputs.push_back(Output::Serve { view: candidate.view.clone(), grants_from: self.grants_from });
        self.view = Some(candidate.view);
    }
}
