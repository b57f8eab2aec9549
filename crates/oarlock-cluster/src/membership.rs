//! One run's part in a cluster whose views change: it asks to be let in, renews its lease, says whom it hears, and
//! proposes who is to go.
//!
//! ```text
//!                              ┌───────────────┐
//!   a registry as applied  ──► │               │──► Propose   a command, to the coordinator
//!   what came of a command ──► │  Membership   │──► Report    who is silent to this node, to all members
//!   silent, heard, reports ──► │  ├─ Lease     │──► View      another view is valid
//!   which fences there are ──► │  └─ Watch     │──► Lease     frozen, thawed, children, lost
//!   which runs have ended,     │               │
//!   time                   ──► │               │──► Refused   it is not let in, and why
//!                              └───────────────┘
//!
//!        waiting ──a Start of its own is applied──► in ──the view names it no more, or its lease ends──► lost, for good
//! ```
//!
//! # From when the first lease counts
//!
//! From the sending of the `Start` that let the run in (L2). Several may be under way, because each may be lost; so each
//! has a nonce of its own, and the registry says which one it was. A run that is in by a nonce of nobody's here is let in
//! as somebody else: a clone of this node has its key and its number.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use oarlock_layout::id::{Epoch, Incarnation, NodeId};
use oarlock_layout::limit::{LEASE, RENEW, SILENT};
use oarlock_layout::seal::PublicKey;
use oarlock_layout::stamp::Stamp;
use oarlock_layout::time::{Duration, Instant};
use oarlock_layout::view::View;

use crate::lease::{Lease, Output as LeaseOutput, Standing};
use crate::partition::NodeSet;
use crate::planted::Left;
use crate::registry::{CUT_OFF_MAX, Command, FENCES_PER_NODE_MAX, Fence, Need, Outcome, Refusal, Registry};
use crate::watch::Watch;

/// Reports are repeated this often: what was said a silent time ago says nothing any more.
const REPORT_EVERY: Duration = SILENT.checked_div(2).expect("not zero");

/// For how long the registry is told that a run has ended. After that its lease is over by itself.
const GIVEN_UP_MAX: Duration = LEASE.saturating_mul(2);

/// For how long a node must hear all members before its next run asks to be let in, if it was put out `times` in a row because
/// somebody did not hear it: a silent time, and twice as long with each further verdict. Each of them stops all new grants until
/// a lease is over, so a link that comes and goes must not bring one about again and again.
pub fn hold_of(times: u32) -> Duration {
    match times.min(CUT_OFF_MAX) {
        0 => Duration::ZERO,
        times => SILENT.saturating_mul(1 << (times - 1)),
    }
}

/// Who this run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The member.
    pub node: NodeId,
    /// Its key.
    pub key: PublicKey,
    /// This run of it; above every one that was in a view.
    pub incarnation: Incarnation,
    /// Chosen at random by this run; its attempts to be let in count up from here.
    pub nonce: u64,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Give this to the coordinator; say what came of it.
    Propose(Command),
    /// Tell all members of the view to whom this node's circuits are silent.
    Report(NodeSet),
    /// This run waits to be let in: tell all nodes to whom of them its circuits are silent.
    Waits(NodeSet),
    /// This view is valid now.
    View(View),
    /// This run is in, from this view on.
    Entered(Epoch),
    /// The lease of this run comes nearer to its end, or further from it.
    Lease(LeaseOutput),
    /// It is not let in, and asks no more.
    Refused(Refusal),
}

/// How the registry is told of the end of a run.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Telling {
    next: Instant,
    until: Instant,
}

/// Where this run stands.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
enum Part {
    /// When each attempt to be let in was sent, and when comes the next.
    Waiting {
        sent: Vec<Instant>,
        next: Instant,
        /// When it asks the registry for a sign of life, while a member of the view is not heard.
        probe: Instant,
    },
    In(Lease),
    /// It was in, or must not be.
    Out,
}

/// One run's part in the cluster. See the [module](self).
///
/// *Inputs* are the `handle_` methods; after each, drain [`poll_output`](Membership::poll_output), then sleep until
/// [`poll_timeout`](Membership::poll_timeout). Time is CLOCK_BOOTTIME of this node (L9).
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    me: Identity,
    part: Part,
    watch: Watch,
    view: View,
    /// Of the registry: where the stamps of the view begin, and how far they may go for now.
    stamps: (Stamp, Stamp),
    /// Of the registry: by whose attempt the last run of this node was let in.
    nonce: Option<u64>,
    /// Whom this node's circuits do not hear any more.
    silent: BTreeSet<NodeId>,
    /// The last run of each node that this one has ever heard.
    heard: BTreeMap<NodeId, Incarnation>,
    /// Since when without a gap it hears whom it hears.
    #[serde(default)]
    heard_since: BTreeMap<NodeId, Instant>,
    /// Since when it hears every member of the view.
    #[serde(default)]
    whole_since: Option<Instant>,
    /// Of the registry: how often in a row this node was put out because it was not heard.
    #[serde(default)]
    cut_off: u32,
    /// Of the registry: all members but this one.
    #[serde(default)]
    others: NodeSet,
    reported: Option<(NodeSet, Instant)>,
    /// Runs that have certainly ended, of which the registry does not know it yet, and how it is told.
    given_up: BTreeMap<(NodeId, Incarnation), Telling>,
    /// What must be proven of a run that is put out, beside its lease.
    fences: Vec<Need>,
    #[serde(with = "oarlock_layout::written::drained")]
    outputs: VecDeque<Output>,
    #[serde(skip)]
    left: Left,
}

impl Membership {
    /// Begins to take part, with the registry as this node has applied it so far.
    pub fn new(now: Instant, me: Identity, registry: &Registry) -> Membership {
        let mut membership = Membership {
            me,
            part: Part::Waiting { sent: Vec::new(), next: now, probe: now + RENEW },
            watch: Watch::new(now, me.node, me.incarnation, registry),
            view: View::default(),
            stamps: (Stamp(0), Stamp(0)),
            nonce: None,
            silent: BTreeSet::new(),
            heard: BTreeMap::new(),
            heard_since: BTreeMap::new(),
            whole_since: None,
            cut_off: 0,
            others: NodeSet::EMPTY,
            reported: None,
            given_up: BTreeMap::new(),
            fences: Vec::new(),
            outputs: VecDeque::new(),
            left: Left::default(),
        };
        membership.handle_applied(now, registry);
        membership
    }

    /// From now on this rule is left out.
    #[cfg(feature = "planted")]
    #[must_use]
    pub fn with_bug(mut self, bug: Option<crate::planted::Bug>) -> Membership {
        self.left = Left::new(bug);
        self.watch.leave(self.left);
        if let Part::In(lease) = &mut self.part {
            lease.leave(self.left);
        }
        self
    }

    /// Commands were applied here, or a snapshot restored. Several may be shown at once.
    pub fn handle_applied(&mut self, now: Instant, registry: &Registry) {
        self.watch.handle_applied(now, registry);
        self.stamps = (registry.floor(), registry.watermark());
        self.given_up.retain(|(node, incarnation), _| !knows_ended(registry, *node, *incarnation));
        if *registry.view() != self.view {
            self.view = registry.view().clone();
            self.reported = None;
            self.outputs.push_back(Output::View(self.view.clone()));
        }
        let mine = registry.run(self.me.node) == Some(self.me.incarnation);
        self.others = registry.members().map(|m| m.node).filter(|node| *node != self.me.node).collect();
        let record = registry.member(self.me.node);
        self.nonce = record.and_then(|member| member.nonce);
        self.cut_off = record.and_then(|member| member.cut_off).unwrap_or(0);
        let let_in = self.was_let_in();
        match (&mut self.part, let_in) {
            (Part::Waiting { .. }, Some(sent)) if mine => {
                let mut lease = Lease::new(now, sent);
                lease.leave(self.left);
                self.part = Part::In(lease);
                self.reported = None;
                self.outputs.push_back(Output::Entered(self.view.epoch));
            }
            (Part::Waiting { .. }, None) if mine => self.refuse(Refusal::OldRun {
                node: self.me.node,
                incarnation: self.me.incarnation,
                entered: self.me.incarnation,
            }),
            (Part::In(lease), _) if !mine => lease.handle_evicted(now),
            // As good as the answer, which may be lost with whoever led and was to give it.
            (Part::In(lease), _) => {
                let applied = registry.member(self.me.node).map_or(0, |member| member.renewal);
                lease.handle_renewed(now, applied);
            }
            _ => {}
        }
        self.settle(now);
    }

    /// What came of a command that this node proposed: it has been applied here.
    pub fn handle_answer(&mut self, now: Instant, command: &Command, outcome: Outcome) {
        self.watch.handle_answered(now);
        let let_in = self.was_let_in().is_some();
        match (command, outcome, &mut self.part) {
            (
                Command::Renew { node, incarnation, number },
                Outcome::Done | Outcome::Already,
                Part::In(lease),
            ) if (*node, *incarnation) == (self.me.node, self.me.incarnation) => {
                lease.handle_renewed(now, *number);
            }
            // The run before is in still: it will be put out, or surrendered, and then this one is asked for again.
            (
                Command::Start { .. },
                Outcome::Refused(Refusal::StillIn { .. } | Refusal::FencesPending(_)),
                _,
            ) => {}
            // It was let in and put out before it heard of either: what is repeated comes after that.
            (
                Command::Start { node, .. },
                Outcome::Refused(Refusal::OldRun { entered, .. }),
                Part::Waiting { .. },
            ) if *node == self.me.node
                && entered == self.me.incarnation
                && let_in
                && self.view.member(*node).is_none_or(|m| m.incarnation != entered) =>
            {
                self.part = Part::Out;
                self.outputs.push_back(Output::Lease(LeaseOutput::Lost));
            }
            (Command::Start { node, .. }, Outcome::Refused(why), Part::Waiting { .. })
                if *node == self.me.node =>
            {
                self.refuse(why);
            }
            _ => {}
        }
        self.settle(now);
    }

    /// A circuit went silent.
    pub fn handle_silent(&mut self, now: Instant, peer: NodeId) {
        self.silent.insert(peer);
        self.heard_since.remove(&peer);
        self.settle(now);
    }

    /// A run of a node is heard, for the first time or again: one that the view names, or one that wants to be let in.
    pub fn handle_heard(&mut self, now: Instant, peer: NodeId, incarnation: Incarnation) {
        self.silent.remove(&peer);
        self.heard.insert(peer, incarnation);
        self.heard_since.entry(peer).or_insert(now);
        self.settle(now);
    }

    /// A member says to whom its circuits are silent.
    pub fn handle_report(&mut self, now: Instant, from: NodeId, silent: NodeSet) {
        self.watch.handle_report(now, from, silent);
        self.settle(now);
    }

    /// A run that is not in the view says to whom of all nodes its circuits are silent.
    pub fn handle_waiting(&mut self, now: Instant, from: NodeId, silent: NodeSet) {
        self.watch.handle_waiting(now, from, silent);
        self.settle(now);
    }

    /// A run, of another node or an earlier one of this, has certainly ended, and nobody can act under a lock of it any more:
    /// it is proven by what it pledged, or this node's keeper saw it. The registry is told until it knows (L5).
    pub fn handle_given_up(&mut self, now: Instant, node: NodeId, incarnation: Incarnation) {
        let itself = (node, incarnation) == (self.me.node, self.me.incarnation);
        if !itself {
            self.given_up
                .entry((node, incarnation))
                .or_insert(Telling { next: now, until: now + GIVEN_UP_MAX });
            self.settle(now);
        }
    }

    /// What must be proven of whoever is put out, beside its lease (L4).
    ///
    /// # Panics
    /// If there are more fences than a run may have.
    pub fn set_fences(&mut self, fences: Vec<Need>) {
        assert!(fences.len() <= FENCES_PER_NODE_MAX, "{} fences for one run", fences.len());
        self.fences = fences;
    }

    /// The moment of [`poll_timeout`](Membership::poll_timeout) has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.watch.handle_timeout(now);
        self.settle(now);
    }

    /// What is to be done next, until it is `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`handle_timeout`](Membership::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Instant> {
        let mine = match &self.part {
            Part::Waiting { next, probe, .. } => Some(match self.ready_at() {
                Some(at) if at <= *next => *next,
                Some(at) => at.min(*probe),
                None => *probe,
            }),
            Part::In(lease) => lease.poll_timeout(),
            Part::Out => None,
        };
        let report = self.reports().then(|| self.reported.map_or(Instant(0), |(_, at)| at + REPORT_EVERY));
        let given_up = self.given_up.values().map(|telling| telling.next).min();
        [mine, self.watch.poll_timeout(), report, given_up].into_iter().flatten().min()
    }

    /// The lease of this run, once it is in; also after it has ended.
    pub const fn lease(&self) -> Option<&Lease> {
        match &self.part {
            Part::In(lease) => Some(lease),
            Part::Waiting { .. } | Part::Out => None,
        }
    }

    /// The view that is valid here.
    pub const fn view(&self) -> &View {
        &self.view
    }

    /// Which other member of the view has waited longest for a renewal of its lease, as far as this node has applied them, and since
    /// when.
    pub fn longest_unrenewed(&self) -> Option<(NodeId, Instant)> {
        self.watch.longest_unrenewed()
    }

    /// No stamp of an earlier view is above this, and none of this view is below ([`Registry::floor`]).
    pub const fn floor(&self) -> Stamp {
        self.stamps.0
    }

    /// No ceiling may be announced above this for now ([`Registry::watermark`]).
    pub const fn watermark(&self) -> Stamp {
        self.stamps.1
    }

    /// Members of the view that this node does not hear; a newcomer waits for them (L7).
    pub fn unheard(&self) -> impl Iterator<Item = NodeId> + '_ {
        let others = self.view.members.iter().filter(|member| member.node != self.me.node);
        // A later run than the view names is as good: the earlier one is gone.
        let heard = |node: &NodeId| self.heard.get(node).copied();
        let unheard = others.filter(move |member| {
            self.silent.contains(&member.node)
                || heard(&member.node).is_none_or(|run| run < member.incarnation)
        });
        unheard.map(|member| member.node)
    }

    /// For how much longer this run waits before it asks to be let in, though it hears every member of the view: how often in a row it
    /// was put out because somebody did not hear it ([`hold_of`]), and the time that is left.
    pub fn held_back(&self, now: Instant) -> Option<(u32, Duration)> {
        let ready = self.ready_at().filter(|_| matches!(self.part, Part::Waiting { .. }))?;
        (now < ready).then(|| (self.cut_off, ready.since(now)))
    }

    // ----- what follows ---------------------------------------------------------------------------------------

    /// When the attempt was sent by which the last run of this node was let in, if that was one of this run.
    fn was_let_in(&self) -> Option<Instant> {
        let Part::Waiting { sent, .. } = &self.part else { return None };
        sent.get(self.nonce?.wrapping_sub(self.me.nonce) as usize).copied()
    }

    /// Only a member is believed about members, and only who waits about itself.
    fn reports(&self) -> bool {
        match &self.part {
            Part::In(lease) => lease.standing() != Standing::Lost,
            Part::Waiting { .. } => !self.others.is_empty(),
            Part::Out => false,
        }
    }

    /// All whom this run does not hear, in the view or not.
    fn deaf_to(&self) -> NodeSet {
        let unheard = |node: &NodeId| self.silent.contains(node) || !self.heard.contains_key(node);
        self.others.iter().filter(unheard).chain(self.unheard()).collect()
    }

    /// From when on it may ask to be let in, if it hears every member of the view.
    fn ready_at(&self) -> Option<Instant> {
        let hold = hold_of(self.cut_off);
        // An empty view has nobody whom a bad link would trouble.
        let hold = if self.view.members.is_empty() { hold.min(SILENT.saturating_mul(2)) } else { hold };
        // Each link counts for itself: whoever was kept out by one member need not begin anew with the others when that is gone.
        let links = self.view.nodes().filter(|node| *node != self.me.node);
        let since = links.filter_map(|node| self.heard_since.get(&node)).max();
        self.whole_since.map(|whole| *since.unwrap_or(&whole) + hold)
    }

    fn settle(&mut self, now: Instant) {
        let whole = self.unheard().next().is_none();
        self.whole_since = whole.then(|| self.whole_since.unwrap_or(now));
        self.ask(now);
        if let Part::In(lease) = &mut self.part {
            lease.handle_timeout(now);
            while let Some(output) = lease.poll_output() {
                self.outputs.push_back(match output {
                    LeaseOutput::Renew { number } => Output::Propose(Command::Renew {
                        node: self.me.node,
                        incarnation: self.me.incarnation,
                        number,
                    }),
                    other => Output::Lease(other),
                });
            }
        }
        self.given_up.retain(|_, telling| now < telling.until);
        for ((node, incarnation), telling) in &mut self.given_up {
            if telling.next <= now {
                telling.next = now + RENEW;
                let (node, incarnation) = (*node, *incarnation);
                self.outputs.push_back(Output::Propose(Command::Surrender { node, incarnation }));
            }
        }
        self.report(now);
        while let Some(command) = self.watch.poll_output() {
            self.outputs.push_back(Output::Propose(self.fenced(command)));
        }
    }

    /// Asks to be let in, as soon as it hears all members for long enough ([`hold_of`]), and again as often as members renew.
    fn ask(&mut self, now: Instant) {
        let all = self.ready_at().is_some_and(|at| at <= now);
        let Part::Waiting { sent, next, probe } = &mut self.part else { return };
        let Identity { node, incarnation, .. } = self.me;
        if !all {
            // Whom it does not hear may be dead, and nobody left in the view to say so: then those who wait must, and they
            // may only while the registry answers them. This is refused, which is an answer.
            if *probe <= now {
                *probe = now + RENEW;
                self.outputs.push_back(Output::Propose(Command::Renew { node, incarnation, number: 0 }));
            }
            return;
        }
        if now < *next {
            return;
        }
        *next = now + RENEW;
        let Identity { node, key, incarnation, nonce } = self.me;
        let nonce = nonce.wrapping_add(sent.len() as u64);
        sent.push(now);
        let fences = self.fences.clone();
        self.outputs.push_back(Output::Propose(Command::Start { node, key, incarnation, nonce, fences }));
    }

    fn refuse(&mut self, why: Refusal) {
        self.part = Part::Out;
        self.outputs.push_back(Output::Refused(why));
    }

    fn report(&mut self, now: Instant) {
        if !self.reports() {
            return;
        }
        let waits = matches!(self.part, Part::Waiting { .. });
        let silent: NodeSet = if waits { self.deaf_to() } else { self.unheard().collect() };
        if self.reported.is_some_and(|(said, at)| said == silent && now < at + REPORT_EVERY) {
            return;
        }
        self.reported = Some((silent, now));
        if waits {
            self.watch.handle_waiting(now, self.me.node, silent);
            return self.outputs.push_back(Output::Waits(silent));
        }
        self.watch.handle_report(now, self.me.node, silent);
        self.outputs.push_back(Output::Report(silent));
    }

    fn fenced(&self, command: Command) -> Command {
        match command {
            Command::Evict { epoch, mut out, note } => {
                out.iter_mut().for_each(|run| run.fences.clone_from(&self.fences));
                Command::Evict { epoch, out, note }
            }
            other => other,
        }
    }
}

/// Whether nobody waits for the lease of a run any more.
fn knows_ended(registry: &Registry, node: NodeId, incarnation: Incarnation) -> bool {
    let Some(member) = registry.member(node) else { return true };
    match registry.run(node) {
        Some(run) if run == incarnation => member.surrendered,
        _ => {
            // Put out with its lease going on, or not let in yet: whether it was asked for nobody knows.
            let waits =
                |f: &Fence| (f.node, f.incarnation) == (node, incarnation) && f.needs.contains(&Need::Lease);
            incarnation <= member.entered && !registry.fences().any(waits)
        }
    }
}
