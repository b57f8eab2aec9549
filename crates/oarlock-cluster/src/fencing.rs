//! Fences: how it comes to be certain that a run which was put out can do no harm any more (L4).
//!
//! ```text
//!                        ┌─────────┐                       ┌───────┐
//!   a registry applied ─►│         │──► Prove, a charge ──►│ Fence │   the world's: a program, a register, or none
//!   what came of it    ─►│ Fencing │◄── proven or failed ──┤       │
//!   time               ─►│         │                       └───────┘
//!                        └────┬────┘
//!                             └──► Propose   FenceProven, or FenceFailed: it is the next member's turn
//! ```
//!
//! A grant is exclusive among members of the view. What a program does under it to something that knows no views (a disk,
//! a database) is exclusive only if whoever left is kept away from that thing before others are granted what it had. The
//! lease keeps away a node that keeps time; a fence also one that stood still at the wrong moment.
//!
//! # Who does it
//!
//! The registry says whose turn it is ([`Registry::fencer`]): one member in the view at a time, the next after each failure
//! or when it is put out itself. So a fence outlives whoever ran it, and one broken member holds nothing up. Two members may
//! still run it against the same node for a moment: one that is put out, or that was slow to say what came of it, and its successor.
//! So what a fence does must do no harm when it is done twice.
//!
//! # What there is
//!
//! * [`LeaseOnly`]: none. The end of the lease is all that is waited for, and every verdict says so by naming no fence.
//! * The daemon's command: an outside program must exit with 0.
//! * The simulator's registers: stores that remember the highest epoch of a fence and refuse who is below.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;

use oarlock_layout::id::{Epoch, Incarnation, NodeId};
use oarlock_layout::limit::{LABEL_BYTES_MAX, RENEW};
use oarlock_layout::time::{Duration, Instant};

use crate::registry::{Command, Need, Registry};

/// How long the first member waits after a failure before the next tries.
pub const BACK_OFF_MIN: Duration = Duration::from_millis(250);
/// The longest wait between two tries: a fence that works again is noticed soon, for everything waits for it.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(4);

/// A run that is to be fenced.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Charge {
    /// Which node.
    pub node: NodeId,
    /// Which run of it; all earlier ones with it.
    pub incarnation: Incarnation,
    /// The first view without it: what a grant of that view or a later one may count on.
    pub epoch: Epoch,
    /// How often it had failed before.
    pub tries: u32,
}

/// What keeps a departed run from doing harm. Implemented by the world.
pub trait Fence {
    /// What must be proven of every run that is put out, beside its lease. Empty: the lease is all there is.
    fn needs(&self) -> Vec<Need>;

    /// Begins to bring it about that the run, and every earlier one of its node, can do no harm any more. People call the node
    /// `name`.
    ///
    /// It may be asked again for the same run, also while it is at it, and also at another member. Each charge is answered once.
    fn begin(&mut self, now: Instant, charge: Charge, name: &str);

    /// What came of a charge: it is proven and will stay so whatever dies, or why not.
    fn poll(&mut self, now: Instant) -> Option<(Charge, Result<(), String>)>;

    /// Nothing need be proven of the run any more: a person has confirmed it, or another member's fence has done it. The node may be back
    /// with its next run, which what is still being done about this one must not hit. Returns whether anything was, and ends now.
    fn withdraw(&mut self, _node: NodeId, _incarnation: Incarnation) -> bool {
        false
    }
}

/// No fence: only the lease. A node that stands still between its grant and its use may act late.
///
/// Nothing is asked of it, unless the cluster had a fence when somebody was put out and has none any more: then it fails, and a person must
/// confirm what no program can.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LeaseOnly {
    charges: VecDeque<Charge>,
}

impl Fence for LeaseOnly {
    fn needs(&self) -> Vec<Need> {
        Vec::new()
    }

    fn begin(&mut self, _: Instant, charge: Charge, _: &str) {
        self.charges.push_back(charge);
    }

    fn poll(&mut self, _: Instant) -> Option<(Charge, Result<(), String>)> {
        self.charges.pop_front().map(|charge| (charge, Err("this cluster has no fence any more".into())))
    }
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Give this to the [`Fence`]; say what came of it.
    Prove(Charge),
    /// Give this to the coordinator.
    Propose(Command),
}

/// Where this node stands with one run.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
enum Work {
    /// It is this node's turn from then on.
    Due(Instant),
    /// The fence is at it.
    Running,
    /// It is proven; said at that moment (again), until the registry has it.
    Proven(Instant),
    /// It failed, likewise.
    Failed { tried: u32, why: String, say: Instant },
    /// It is another's turn.
    Watching,
}

/// One run's part in fencing others. See the [module](self).
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fencing {
    me: NodeId,
    incarnation: Incarnation,
    runs: BTreeMap<(NodeId, Incarnation), (Epoch, u32, Work)>,
    #[serde(with = "oarlock_layout::written::drained")]
    outputs: VecDeque<Output>,
}

impl Fencing {
    /// Nothing to fence yet.
    pub const fn new(me: NodeId, incarnation: Incarnation) -> Fencing {
        Fencing { me, incarnation, runs: BTreeMap::new(), outputs: VecDeque::new() }
    }

    /// Commands were applied here, or a snapshot restored.
    pub fn handle_applied(&mut self, now: Instant, registry: &Registry) {
        let is_in = registry.run(self.me) == Some(self.incarnation);
        let mut before = core::mem::take(&mut self.runs);
        for fence in registry.fences().filter(|fence| fence.needs.contains(&Need::Program)) {
            let (run, tries) = ((fence.node, fence.incarnation), fence.tries);
            let mine = is_in && registry.fencer(fence) == Some(self.me);
            let anew = || if mine { Work::Due(now + back_off(tries)) } else { Work::Watching };
            let work = match before.remove(&run) {
                // What it has begun it ends, whoever's turn it is by now: what comes of it is true.
                Some((_, _, work @ (Work::Running | Work::Proven(_)))) => work,
                Some((_, _, work @ Work::Failed { tried, .. })) if tried == tries => work,
                Some((_, last, work @ Work::Due(_))) if last == tries && mine => work,
                _ => anew(),
            };
            self.runs.insert(run, (fence.epoch, tries, work));
        }
        self.settle(now);
    }

    /// What came of a charge.
    pub fn handle_fenced(&mut self, now: Instant, charge: Charge, outcome: Result<(), String>) {
        if let Some((_, tries, work)) = self.runs.get_mut(&(charge.node, charge.incarnation)) {
            // The turn may have passed on meanwhile; a failure counts for the turn that it was.
            *work = match outcome {
                Ok(()) => Work::Proven(now),
                Err(why) => Work::Failed { tried: charge.tries.min(*tries), why: short(why), say: now },
            };
        }
        self.settle(now);
    }

    /// The moment of [`poll_timeout`](Fencing::poll_timeout) has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.settle(now);
    }

    /// What is to be done next, until it is `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`handle_timeout`](Fencing::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Instant> {
        let at = self.runs.values().filter_map(|(_, _, work)| match work {
            Work::Due(at) | Work::Proven(at) | Work::Failed { say: at, .. } => Some(*at),
            Work::Running | Work::Watching => None,
        });
        at.min()
    }

    fn settle(&mut self, now: Instant) {
        let by = self.me;
        for ((node, incarnation), (epoch, tries, work)) in &mut self.runs {
            let (node, incarnation, epoch, tries) = (*node, *incarnation, *epoch, *tries);
            match work {
                Work::Due(at) if *at <= now => {
                    *work = Work::Running;
                    self.outputs.push_back(Output::Prove(Charge { node, incarnation, epoch, tries }));
                }
                // A proposal may be lost: it is made again until the registry has it.
                Work::Proven(say) if *say <= now => {
                    *say = now + RENEW;
                    let (need, by_hand, who) = (Need::Program, false, None);
                    let command = Command::FenceProven { node, incarnation, need, by, by_hand, who };
                    self.outputs.push_back(Output::Propose(command));
                }
                Work::Failed { tried, why, say } if *say <= now => {
                    *say = now + RENEW;
                    let (tried, why) = (*tried, why.clone());
                    let command = Command::FenceFailed { node, incarnation, tried, by, why };
                    self.outputs.push_back(Output::Propose(command));
                }
                _ => {}
            }
        }
    }
}

/// How long to wait before the next try.
fn back_off(tries: u32) -> Duration {
    match tries.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => (BACK_OFF_MIN * (1 << doublings.min(7))).min(BACK_OFF_MAX),
    }
}

/// As much of a reason as a record has room for.
fn short(mut why: String) -> String {
    why.retain(|c| !c.is_control());
    let mut end = why.len().min(LABEL_BYTES_MAX);
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    why.truncate(end);
    why
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_come_ever_later_and_reasons_fit_their_record() {
        let waits: Vec<_> = (0..12).map(|tries| back_off(tries).as_millis()).collect();
        assert_eq!(waits[..5], [0, 250, 500, 1_000, 2_000]);
        assert!(waits.windows(2).all(|two| two[0] <= two[1]) && waits[11] == 4_000, "{waits:?}");
        assert_eq!(short("exit status 1\n".into()), "exit status 1");
        let long = short("\u{e9}".repeat(60));
        assert!(long.len() <= LABEL_BYTES_MAX && long.chars().all(|c| c == '\u{e9}'), "{long}");
    }

    #[test]
    fn without_a_fence_nothing_is_asked_for_and_nothing_is_proven() {
        let mut none = LeaseOnly::default();
        assert_eq!((none.needs(), none.poll(Instant(0))), (Vec::new(), None));
        let charge = Charge { node: NodeId(2), incarnation: Incarnation(1), epoch: Epoch(4), tries: 0 };
        none.begin(Instant(0), charge, "node-c");
        let (of, outcome) = none.poll(Instant(0)).unwrap();
        assert!(of == charge && outcome.is_err() && none.poll(Instant(0)).is_none());
    }
}
