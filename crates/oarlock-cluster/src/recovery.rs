//! The barriers between a view and the first grant under it (X9 to X11, L4, L11).
//!
//! ```text
//!   a view is valid here
//!     │ Arrived ─► all                    nothing of an earlier view is listened to any more
//!     ▼
//!   everybody is in it                    until then shadows and masters say nothing
//!     │ shadows state anew to the new masters; Restated ─► all, behind what was stated
//!     ▼
//!   everybody has restated                masters know all there is: they grant what goes beside all that members own and
//!     │                                   departed runs can have had
//!     ▼
//!   what departed runs had is fenced      nobody who left can act under a lock any more: masters grant everything
//! ```
//!
//! Each member passes each barrier by itself; what another says about a view that this one has not heard of yet is kept. A
//! further view, in the middle of this, begins at the top: what was said under the one before counts for nothing, so nothing
//! half built is ever granted from (48).
//!
//! The times of the last views stand in [`Recovery::failovers`], with whom each barrier waited for last.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use oarlock_layout::departed::{Departed, Lost};
use oarlock_layout::id::{Epoch, Incarnation, NodeId};
use oarlock_layout::message::barrier::{Barrier, Step};
use oarlock_layout::time::Instant;
use oarlock_layout::view::{Member, View};

/// Views whose times are remembered.
pub const FAILOVERS_MAX: usize = 16;

/// Masters that left that are remembered ([`Departed::lost`]), for each run of which something is to be proven.
pub const LOST_MAX: usize = 512;

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// To a member, in order with lock messages.
    Say {
        /// Which member.
        to: NodeId,
        /// What.
        barrier: Barrier,
    },
    /// All members are in the view: state everything anew, then call [`Recovery::handle_restated`].
    Restate,
    /// Masters grant from now on.
    Open {
        /// Some member knew a run that is not in this view.
        departed: bool,
    },
    /// A barrier was passed.
    Passed(Gate),
}

/// The barriers, in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Gate {
    /// All members are in the view.
    Arrived,
    /// This node has stated everything anew.
    Stated,
    /// All members have: masters grant from now on.
    Restated,
    /// Of departed runs nothing is left to prove: what they had is granted as well.
    Fenced,
}

impl Gate {
    /// All, in order.
    pub const ALL: [Gate; 4] = [Gate::Arrived, Gate::Stated, Gate::Restated, Gate::Fenced];

    /// One word for people.
    pub const fn name(self) -> &'static str {
        match self {
            Gate::Arrived => "arrived",
            Gate::Stated => "stated",
            Gate::Restated => "restated",
            Gate::Fenced => "fenced",
        }
    }
}

/// How a view came into effect at this node.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failover {
    /// Which view.
    pub epoch: Epoch,
    /// Runs that left, as this node knew them.
    pub out: Vec<Member>,
    /// Runs that came.
    pub entered: Vec<Member>,
    /// When the view was valid here.
    pub began: Instant,
    /// When each barrier was passed, and which member was the last to do its part.
    pub passed: [Option<(Instant, Option<NodeId>)>; Gate::ALL.len()],
    /// Another view came before this one was open.
    pub overtaken: bool,
}

impl Failover {
    /// When masters here began to grant.
    pub fn opened(&self) -> Option<Instant> {
        self.passed[Gate::Restated as usize].map(|(at, _)| at)
    }
}

/// What a peer's misdeed was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Misdeed {
    /// It has restated under a view in which it has not arrived.
    #[error("it has restated under view {epoch}, in which it never arrived")]
    NotArrived {
        /// Which view.
        epoch: Epoch,
    },
    /// It has restated under a view in which this node is not.
    #[error("it has restated under view {came}, this node is in view {ours}")]
    Ahead {
        /// The view here.
        ours: Epoch,
        /// What it said.
        came: Epoch,
    },
}

/// The state, for explorers: everything that decides what happens next. Who was last and when things happened is a record of it.
impl core::hash::Hash for Recovery {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        (self.me, &self.view, self.passed, &self.peers).hash(state);
        (self.departed, self.told, self.unsettled, self.opened, self.stated, &self.known).hash(state);
    }
}

/// How far a member has come, as it said.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Peer {
    incarnation: Incarnation,
    epoch: Epoch,
    restated: bool,
}

/// The way of one node through the barriers of each view. See the [module](self).
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recovery {
    me: NodeId,
    view: View,
    /// The barriers passed so far.
    passed: usize,
    peers: BTreeMap<NodeId, Peer>,
    /// As its lock rooms say: this node knew a run that has left since it was last open.
    departed: bool,
    /// Another member said so, under this view or one that was overtaken, since masters here were last open.
    told: bool,
    /// The view before was not open here, or at a member that said so.
    unsettled: bool,
    /// The last view that was open here.
    opened: Epoch,
    /// This node has stated everything anew.
    stated: bool,
    /// What is known of runs that left.
    known: Departed,
    /// The last member that did its part.
    last: Option<NodeId>,
    failovers: VecDeque<Failover>,
    #[serde(with = "oarlock_layout::written::drained")]
    outputs: VecDeque<Output>,
}

impl Recovery {
    /// In no view yet.
    pub const fn new(me: NodeId) -> Recovery {
        Recovery {
            me,
            view: View { epoch: Epoch(0), members: Vec::new() },
            passed: 0,
            peers: BTreeMap::new(),
            departed: false,
            told: false,
            unsettled: false,
            opened: Epoch(0),
            stated: false,
            known: Departed { pending: BTreeSet::new(), unknown: BTreeSet::new(), lost: BTreeSet::new() },
            last: None,
            failovers: VecDeque::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Another view is valid, with this run in it; of whom something is to be proven has been said before ([`Recovery::handle_fences`]).
    /// `departed`: this node knew a run that has left since it was last open.
    pub fn handle_view(&mut self, now: Instant, view: &View, departed: bool) {
        assert!(view.epoch > self.view.epoch, "views follow each other");
        let open = self.is_open();
        if let Some(failover) = self.failovers.back_mut() {
            failover.overtaken = !open;
        }
        let old = core::mem::replace(&mut self.view, view.clone());
        self.unsettled = !open && !old.members.is_empty();
        let missing = |of: &View, from: &View| {
            from.members.iter().filter(|m| of.member(m.node) != Some(m)).copied().collect()
        };
        self.failovers.push_back(Failover {
            epoch: view.epoch,
            out: missing(view, &old),
            entered: missing(&old, view),
            began: now,
            passed: [None; Gate::ALL.len()],
            overtaken: false,
        });
        if self.failovers.len() > FAILOVERS_MAX {
            self.failovers.pop_front();
        }
        (self.passed, self.stated, self.last) = (0, false, None);
        self.departed = departed;
        let left = |run: &&Member| view.member(run.node) != Some(run);
        let lost = self.known.pending.iter().filter(left).filter_map(|run| Lost::between(&old, view, *run));
        self.known.lost.extend(lost);
        self.bound_lost();
        // What was to be said under the view before is of no use to anybody.
        self.outputs.clear();
        self.say_to_all(Step::Arrived);
        self.settle(now);
    }

    /// A circuit to a run of a peer has come up: what it was told before, if anything, went to nobody.
    pub fn handle_up(&mut self, peer: NodeId, incarnation: Incarnation) {
        if self.peers.get(&peer).is_some_and(|known| known.incarnation != incarnation) {
            self.peers.remove(&peer);
        }
        if self.view.member(peer).is_none_or(|member| member.incarnation != incarnation) {
            return;
        }
        self.say(peer, Step::Arrived);
        if self.stated {
            self.known_steps().into_iter().for_each(|step| self.say(peer, step));
            self.say(peer, self.restated());
        }
    }

    /// A peer says how far it is. `incarnation` is the run at the other end of the circuit.
    ///
    /// # Errors
    /// What no honest peer says; nothing was changed.
    pub fn handle_barrier(
        &mut self,
        now: Instant,
        from: NodeId,
        incarnation: Incarnation,
        barrier: Barrier,
    ) -> Result<(), Misdeed> {
        let Barrier { epoch, step } = barrier;
        let known = self.peers.get(&from).filter(|peer| peer.incarnation == incarnation).copied();
        match step {
            Step::Arrived => {
                // It comes twice if the circuit came up in between.
                if known.is_none_or(|peer| peer.epoch < epoch) {
                    self.peers.insert(from, Peer { incarnation, epoch, restated: false });
                }
            }
            Step::Lost(_) | Step::Unknown(_) if epoch > self.view.epoch => {
                return Err(Misdeed::Ahead { ours: self.view.epoch, came: epoch });
            }
            Step::Lost(_) | Step::Unknown(_) if epoch < self.view.epoch => return Ok(()),
            Step::Lost(_) | Step::Unknown(_) if known.is_none_or(|peer| peer.epoch != epoch) => {
                return Err(Misdeed::NotArrived { epoch });
            }
            Step::Lost(lost) if self.known.pending.contains(&lost.run) => {
                self.known.lost.insert(lost);
                self.bound_lost();
            }
            Step::Unknown(run) if self.known.pending.contains(&run) => drop(self.known.unknown.insert(run)),
            // Its fence is up by what this node has heard.
            Step::Lost(_) | Step::Unknown(_) => {}
            Step::Restated { departed, unsettled } => {
                if epoch > self.view.epoch {
                    return Err(Misdeed::Ahead { ours: self.view.epoch, came: epoch });
                }
                match known {
                    Some(peer) if peer.epoch == epoch => {
                        self.peers.insert(from, Peer { restated: true, ..peer });
                        self.told |= departed && epoch > self.opened;
                        self.unsettled |= unsettled && epoch == self.view.epoch;
                    }
                    Some(peer) if peer.epoch > epoch => return Ok(()),
                    _ => return Err(Misdeed::NotArrived { epoch }),
                }
            }
        }
        if epoch == self.view.epoch && self.view.member(from).is_some() {
            self.last = Some(from);
        }
        self.settle(now);
        Ok(())
    }

    /// This node has said everything that [`Output::Restate`] asked for.
    pub fn handle_restated(&mut self, now: Instant) {
        assert!(self.passed == Gate::Stated as usize && !self.stated, "nobody asked for it");
        self.stated = true;
        // All members are in this view: what they said under those before has been heard.
        self.departed |= self.told;
        self.known_steps().into_iter().for_each(|step| self.say_to_all(step));
        self.say_to_all(self.restated());
        self.last = None;
        self.settle(now);
    }

    /// Something is still to be proven of these runs that left, or that leave with the next view, and of no others (L4).
    pub fn handle_fences(&mut self, now: Instant, pending: &BTreeSet<Member>) {
        self.known.pending.clone_from(pending);
        self.known.unknown.retain(|run| pending.contains(run));
        self.known.lost.retain(|lost| pending.contains(&lost.run));
        self.settle(now);
    }

    /// What is known of runs that left: all there is once masters grant under the view.
    pub const fn known(&self) -> &Departed {
        &self.known
    }

    /// What is to be done next, until it is `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        if matches!(output, Some(Output::Open { .. })) {
            (self.opened, self.told) = (self.view.epoch, false);
        }
        output
    }

    /// The view that is valid here; of epoch 0 before the first.
    pub const fn view(&self) -> &View {
        &self.view
    }

    /// The view that is valid here; 0 before the first.
    pub fn epoch(&self) -> Epoch {
        self.view.epoch
    }

    /// Do masters here grant? They do when they have been told, not as soon as the last barrier is passed.
    pub fn is_open(&self) -> bool {
        self.opened == self.view.epoch && self.opened > Epoch(0)
    }

    /// May lock messages of the view be said?
    pub fn may_speak(&self) -> bool {
        self.passed > Gate::Arrived as usize
    }

    /// The barrier that is waited at, and the members whose part is missing, lowest first.
    pub fn waits(&self) -> Option<(Gate, Vec<NodeId>)> {
        let gate = *Gate::ALL.get(self.passed)?;
        let missing = self.others().filter(|member| !self.has_done(gate, member)).map(|member| member.node);
        Some((gate, missing.collect()))
    }

    /// How the last views came into effect here, the newest last.
    pub fn failovers(&self) -> impl DoubleEndedIterator<Item = &Failover> {
        self.failovers.iter()
    }

    // ----- what follows ---------------------------------------------------------------------------------------

    fn say(&mut self, to: NodeId, step: Step) {
        self.outputs.push_back(Output::Say { to, barrier: Barrier { epoch: self.view.epoch, step } });
    }

    fn say_to_all(&mut self, step: Step) {
        let barrier = Barrier { epoch: self.view.epoch, step };
        let others = self.view.members.iter().filter(|member| member.node != self.me);
        self.outputs.extend(others.map(|member| Output::Say { to: member.node, barrier }));
    }

    fn known_steps(&self) -> Vec<Step> {
        let lost = self.known.lost.iter().map(|lost| Step::Lost(*lost));
        lost.chain(self.known.unknown.iter().map(|run| Step::Unknown(*run))).collect()
    }

    /// All members have said what they know of departed runs. Of whom nobody has said anything, or if somebody may not have heard all
    /// there was to know under the view before, nothing is known.
    fn admit_ignorance(&mut self) {
        let Departed { pending, unknown, lost } = &mut self.known;
        let told = |run: &Member| lost.iter().any(|lost| lost.run == *run);
        let left = pending.iter().filter(|run| self.view.member(run.node) != Some(run));
        unknown.extend(left.filter(|run| self.unsettled || !told(run)));
    }

    /// So many views may follow each other while a fence fails. Then nothing is known.
    fn bound_lost(&mut self) {
        if self.known.lost.len() > LOST_MAX {
            self.known.unknown.extend(self.known.lost.iter().map(|lost| lost.run));
            self.known.lost.clear();
        }
    }

    const fn restated(&self) -> Step {
        Step::Restated { departed: self.departed, unsettled: self.unsettled }
    }

    fn others(&self) -> impl Iterator<Item = &Member> {
        self.view.members.iter().filter(|member| member.node != self.me)
    }

    fn has_done(&self, gate: Gate, member: &Member) -> bool {
        let peer = self.peers.get(&member.node);
        let there =
            peer.is_some_and(|it| it.incarnation == member.incarnation && it.epoch == self.view.epoch);
        match gate {
            Gate::Arrived => there,
            Gate::Restated => there && peer.is_some_and(|it| it.restated),
            Gate::Stated | Gate::Fenced => true,
        }
    }

    fn settle(&mut self, now: Instant) {
        while let Some(gate) = Gate::ALL.get(self.passed).copied() {
            let here = match gate {
                Gate::Stated => self.stated,
                Gate::Fenced => self.known.pending.is_empty(),
                Gate::Arrived | Gate::Restated => !self.view.members.is_empty(),
            };
            if !here || !self.others().all(|member| self.has_done(gate, member)) {
                return;
            }
            self.passed += 1;
            let failover = self.failovers.back_mut().expect("there is a view");
            failover.passed[gate as usize] = Some((now, self.last));
            self.outputs.push_back(Output::Passed(gate));
            match gate {
                Gate::Arrived => self.outputs.push_back(Output::Restate),
                Gate::Restated => {
                    self.admit_ignorance();
                    self.outputs.push_back(Output::Open { departed: self.departed || self.told });
                }
                Gate::Stated | Gate::Fenced => {}
            }
        }
    }
}
