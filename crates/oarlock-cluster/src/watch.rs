//! From evidence to a proposed verdict, at any member (L5, L7, L8, L10, I20).
//!
//! ```text
//!   a command was applied here ──►┌───────┐
//!   the registry answered us   ──►│       │──► Evict   to the coordinator, who makes it one of all proposals,
//!   a member's report          ──►│ Watch │            if it still holds when it is applied
//!   served volumes             ──►│       │
//!   time                       ──►└───────┘──► FenceProven   that the lease of an evicted run is over
//! ```
//!
//! Nobody acts on a suspicion: what leaves here is a proposal that names what it rests on, and the registry
//! refuses it if that has changed. Every member watches; the first proposal that applies makes the others late.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use oarlock_layout::id::{Incarnation, NodeId};
use oarlock_layout::limit::{LEASE, LEASE_DRIFT, RENEW, SILENT, VERDICT_HOLD};
use oarlock_layout::time::{Duration, Instant};
use oarlock_layout::view::View;

use crate::partition::{NodeSet, Weight, largest};
use crate::planted::{Bug, Left};
use crate::registry::{Basis, Command, Need, Out, Registry, Role};

/// A longer time without an answer means that the registry was away: nobody else could renew either.
const ANSWER_GAP: Duration = RENEW.saturating_mul(2);
/// A report that was not repeated for so long says nothing any more: members report at each change and at least twice
/// in this time. No longer than what a pair must be silent, so that one report alone never leads to a verdict.
const REPORT_LIFE: Duration = SILENT;

/// Watches the members of the view and proposes who is to be put out of it.
///
/// *Inputs* are the `handle_` methods; after each, drain [`poll_output`](Watch::poll_output), then sleep until
/// [`poll_timeout`](Watch::poll_timeout). Time is CLOCK_BOOTTIME of this node (L9).
///
/// Four verdicts are proposed:
///
/// * **A lease is over** (L2): lease and drift have passed here since the member's last renewal was *applied* here, and
///   the registry has answered this node all that time. If it was away, everybody gets a whole lease from its return:
///   the loss of the coordinator's leader evicts nobody.
/// * **Surrendered** (L5): at once.
/// * **Partition** (L7): two members are silent to each other although both have renewed since, and still are a silent
///   time after that. All that are not in the [`largest`] set that hears each other go in one view; then such
///   verdicts wait for [`VERDICT_HOLD`]. A member that died is silent too, but renews no more: it is left to its lease.
///   One that was paused is heard again as soon as it renews.
/// * **Outvoted** (L7, I20): by a run that waits to be let in. It and others that wait, with those of the view whom they hear, are a
///   set that hears each other and is larger than what the view could come to as it is, and have been for lease and drift, while the
///   members in their way have renewed. Those go, so that the larger set comes in; then such verdicts wait as after a partition.
///
/// And one proof: if a run was put out whose lease might go on, that lease and drift have passed since its last renewal was
/// applied here. That needs no answers of the registry: whoever has applied the eviction has applied every renewal
/// that came before it, and none comes after.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    me: NodeId,
    incarnation: Incarnation,
    view: View,
    members: BTreeMap<NodeId, Watched>,
    /// Begin of the time without gaps in which the registry answered, and the last answer.
    answered: Option<(Instant, Instant)>,
    reports: BTreeMap<NodeId, Report>,
    /// Of runs that wait to be let in, this one included.
    #[serde(default)]
    waiting: BTreeMap<NodeId, Report>,
    /// Who of the view is in the way of a larger set that waits, and since when.
    #[serde(default)]
    outvoted: Option<(NodeSet, Instant)>,
    /// All members that vote, in the view or not.
    #[serde(default)]
    voters: NodeSet,
    /// Members that are not let in before a program has fenced an earlier run of theirs: whom they do not hear is in nobody's way.
    #[serde(default)]
    barred: NodeSet,
    /// Silent pairs, lower id first.
    pairs: BTreeMap<(NodeId, NodeId), Pair>,
    volumes: BTreeMap<NodeId, u32>,
    /// Evicted runs whose lease may go on.
    ending: BTreeMap<(NodeId, Incarnation), Ending>,
    held_until: Instant,
    /// What was proposed last under this view, and when.
    proposed: Option<(Vec<Out>, Instant)>,
    wake: Option<Instant>,
    #[serde(with = "oarlock_layout::written::drained")]
    outputs: VecDeque<Command>,
    #[serde(skip)]
    left: Left,
}

#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Watched {
    incarnation: Incarnation,
    renewal: u64,
    /// When that renewal was applied here.
    applied: Instant,
    surrendered: bool,
    voter: bool,
}

#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Ending {
    /// When to say that it is over: the first time when it is, and again while nobody was heard.
    say: Instant,
}

#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Report {
    silent: NodeSet,
    at: Instant,
}

/// Since when each of a silent pair is known to live.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    renewed: [Option<Instant>; 2],
}

impl Pair {
    /// When the pair has been silent for long enough while both hold leases.
    fn due(&self) -> Option<Instant> {
        let [a, b] = self.renewed;
        Some(a?.max(b?) + SILENT)
    }
}

impl Watch {
    /// Begins to watch, as run `incarnation` of `me`, which need not be in the view: whoever waits to be let in watches as
    /// well, for there may be nobody else. All renewals count as applied now.
    pub fn new(now: Instant, me: NodeId, incarnation: Incarnation, registry: &Registry) -> Watch {
        let mut watch = Watch {
            me,
            incarnation,
            view: View::default(),
            members: BTreeMap::new(),
            answered: None,
            reports: BTreeMap::new(),
            waiting: BTreeMap::new(),
            outvoted: None,
            voters: NodeSet::EMPTY,
            barred: NodeSet::EMPTY,
            pairs: BTreeMap::new(),
            volumes: BTreeMap::new(),
            ending: BTreeMap::new(),
            held_until: now,
            proposed: None,
            wake: None,
            outputs: VecDeque::new(),
            left: Left::default(),
        };
        watch.handle_applied(now, registry);
        watch
    }

    #[cfg(feature = "planted")]
    pub(crate) const fn leave(&mut self, left: Left) {
        self.left = left;
    }

    /// A command was applied here, or a snapshot restored. If several were, once is enough: what happened in between counts
    /// from now.
    pub fn handle_applied(&mut self, now: Instant, registry: &Registry) {
        if registry.view().epoch != self.view.epoch {
            let news = registry.history().iter().filter(|c| c.view.epoch > self.view.epoch);
            let mut out = news.flat_map(|change| &change.out);
            if out.any(|run| matches!(run.basis, Basis::Partition { .. } | Basis::Outvoted { .. })) {
                self.held_until = now + VERDICT_HOLD;
            }
            self.view = registry.view().clone();
            self.proposed = None;
        }
        let before = core::mem::take(&mut self.members);
        for member in self.view.members.clone() {
            let record = registry.member(member.node).expect("the view names members");
            let watched = before.get(&member.node).filter(|w| w.incarnation == member.incarnation);
            let applied = match watched {
                Some(watched) if watched.renewal == record.renewal => watched.applied,
                Some(_) => {
                    self.renewed(now, member.node);
                    now
                }
                None => {
                    // Another run: what was said of and by the earlier one says nothing.
                    self.reports.remove(&member.node);
                    self.pairs.retain(|(a, b), _| *a != member.node && *b != member.node);
                    now
                }
            };
            let watched = Watched {
                incarnation: member.incarnation,
                renewal: record.renewal,
                applied,
                surrendered: record.surrendered,
                voter: record.role == Role::Voter,
            };
            self.members.insert(member.node, watched);
        }
        self.barred =
            registry.fences().filter(|fence| fence.needs.contains(&Need::Program)).map(|f| f.node).collect();
        self.voters = registry.members().filter(|m| m.role == Role::Voter).map(|m| m.node).collect();
        self.note_endings(now, registry, &before);
        self.evaluate(now);
    }

    fn note_endings(&mut self, now: Instant, registry: &Registry, before: &BTreeMap<NodeId, Watched>) {
        let known = core::mem::take(&mut self.ending);
        for fence in registry.fences().filter(|f| f.needs.contains(&Need::Lease)) {
            let run = (fence.node, fence.incarnation);
            let watched = before.get(&fence.node).filter(|w| w.incarnation == fence.incarnation);
            // Of several commands that were shown at once the first may have been a renewal.
            let last = registry.member(fence.node).map(|member| (member.entered, member.renewal));
            let watched = watched.filter(|w| last == Some((w.incarnation, w.renewal)));
            let over = watched.map_or(now, |w| w.applied) + LEASE + LEASE_DRIFT;
            let ending = known.get(&run).copied().unwrap_or(Ending { say: over });
            self.ending.insert(run, ending);
        }
    }

    fn renewed(&mut self, now: Instant, node: NodeId) {
        for ((a, b), pair) in &mut self.pairs {
            for (end, renewed) in [a, b].into_iter().zip(&mut pair.renewed) {
                if *end == node {
                    renewed.get_or_insert(now);
                }
            }
        }
    }

    /// A command that this node proposed was applied here, whatever came of it: the registry is there. A member's
    /// renewals say so each [`RENEW`]; whoever is not in the view repeats its start as often.
    pub fn handle_answered(&mut self, now: Instant) {
        self.answered = match self.answered {
            Some((since, last)) if now.since(last) <= ANSWER_GAP => Some((since, now)),
            _ => Some((now, now)),
        };
        self.evaluate(now);
    }

    /// Member `from` says to whom its circuits are silent; nobody else is. Our own say counts like any other.
    pub fn handle_report(&mut self, now: Instant, from: NodeId, silent: NodeSet) {
        if self.members.contains_key(&from) {
            self.reports.insert(from, Report { silent, at: now });
            self.evaluate(now);
        }
    }

    /// A run of `from` that is not in the view says to whom of all members its circuits are silent; our own say counts like any
    /// other. It counts as long as no run of that node is in the view.
    pub fn handle_waiting(&mut self, now: Instant, from: NodeId, silent: NodeSet) {
        self.waiting.insert(from, Report { silent, at: now });
        self.evaluate(now);
    }

    /// How many volumes a member serves; decides where sets are equal otherwise.
    pub fn handle_volumes(&mut self, node: NodeId, volumes: u32) {
        self.volumes.insert(node, volumes);
    }

    /// The moment of [`poll_timeout`](Watch::poll_timeout) has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.evaluate(now);
    }

    /// The next proposal: an [`Evict`](Command::Evict) without fences, to which whoever knows the volumes at stake adds
    /// them, or a [`FenceProven`](Command::FenceProven).
    pub fn poll_output(&mut self) -> Option<Command> {
        self.outputs.pop_front()
    }

    /// Which other member of the view has waited longest for a renewal that was applied here, and since when.
    pub fn longest_unrenewed(&self) -> Option<(NodeId, Instant)> {
        let others = self.members.iter().filter(|(node, _)| **node != self.me);
        others.map(|(node, watched)| (*node, watched.applied)).min_by_key(|(_, applied)| *applied)
    }

    /// When to call [`handle_timeout`](Watch::handle_timeout).
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.wake
    }

    fn evaluate(&mut self, now: Instant) {
        self.wake = None;
        self.note_silence(now);
        let mut out = self.surrendered();
        if let Some(since) = self.answered_since(now) {
            self.add_ended_leases(now, since, &mut out);
            self.add_partitioned(now, &mut out);
            self.add_outvoted(now, &mut out);
        } else {
            // What was so meanwhile nobody has looked at.
            self.outvoted = None;
        }
        out.sort_unstable_by_key(|run| run.node);
        self.propose(now, out);
        self.prove_ends(now);
    }

    /// Only a member of the view is believed.
    fn prove_ends(&mut self, now: Instant) {
        let (by, mine) = (self.me, self.incarnation);
        if self.members.get(&by).is_none_or(|w| w.incarnation != mine || w.surrendered) {
            return;
        }
        for ((node, incarnation), ending) in &mut self.ending {
            let (node, incarnation, need) = (*node, *incarnation, Need::Lease);
            if now >= ending.say {
                ending.say = now + RENEW;
                let (by_hand, who) = (false, None);
                let command = Command::FenceProven { node, incarnation, need, by, by_hand, who };
                self.outputs.push_back(command);
            }
            self.wake = Some(self.wake.map_or(ending.say, |wake| wake.min(ending.say)));
        }
    }

    /// Only a run that waits itself, and is in the larger set, says so: it knows of all in it.
    fn add_outvoted(&mut self, now: Instant, out: &mut Vec<Out>) {
        let noted = self.outvoted.take();
        self.waiting.retain(|_, report| now < report.at + REPORT_LIFE);
        if self.members.contains_key(&self.me) || !self.waiting.contains_key(&self.me) {
            return;
        }
        let inside: NodeSet =
            self.members.keys().copied().filter(|n| !out.iter().any(|o| o.node == *n)).collect();
        let comes = |node: &NodeId| !self.members.contains_key(node) && !self.barred.contains(*node);
        let newcomers = || self.waiting.iter().filter(|(node, _)| comes(node));
        let weight = |node: NodeId| {
            let volumes = self.volumes.get(&node).copied().unwrap_or(0);
            (node, Weight { voter: self.voters.contains(node), volumes })
        };
        let mut silent: BTreeMap<NodeId, NodeSet> = BTreeMap::new();
        for (a, b) in self.pairs.keys() {
            silent.entry(*a).or_default().insert(*b);
        }
        silent.extend(newcomers().map(|(node, report)| (*node, report.silent)));
        let all = inside.iter().chain(newcomers().map(|(node, _)| *node)).map(weight).collect();
        let kept = largest(&all, &silent);
        // Whoever hears all who are in comes in without this.
        let fits = newcomers().filter(|(_, report)| report.silent.and(inside).is_empty());
        let fits = largest(&fits.map(|(node, _)| weight(*node)).collect(), &silent);
        let gone: NodeSet = inside.iter().filter(|node| !kept.contains(*node)).collect();
        if !kept.contains(self.me) || kept.len() <= inside.len() + fits.len() {
            return;
        }
        let since = noted.filter(|(before, _)| *before == gone).map_or(now, |(_, since)| since);
        self.outvoted = Some((gone, since));
        let due = (since + LEASE + LEASE_DRIFT).max(self.held_until);
        if now < due {
            return self.wake_at(due);
        }
        // Who has died is left to its lease.
        if gone.iter().all(|node| self.members[&node].applied > since) {
            let basis = Basis::Outvoted { kept: kept.len() as u16 };
            out.extend(gone.iter().map(|node| run(node, &self.members[&node], basis)));
        }
    }

    /// Keeps the list of silent pairs. One direction is enough: a link that carries nothing back is none.
    fn note_silence(&mut self, now: Instant) {
        self.reports.retain(|_, report| now < report.at + REPORT_LIFE);
        if let Some(first) = self.reports.values().map(|r| r.at).min() {
            self.wake_at(first + REPORT_LIFE);
        }
        let says = |from, of| self.reports.get(&from).is_some_and(|r| r.silent.contains(of));
        let mut pairs = BTreeMap::new();
        for a in self.members.keys() {
            for b in self.members.range(*a..).map(|(b, _)| b).filter(|b| *b != a) {
                if says(*a, *b) || says(*b, *a) {
                    pairs.insert((*a, *b), self.pairs.get(&(*a, *b)).copied().unwrap_or_default());
                }
            }
        }
        self.pairs = pairs;
    }

    fn surrendered(&self) -> Vec<Out> {
        let gone = self.members.iter().filter(|(_, watched)| watched.surrendered);
        gone.map(|(node, watched)| run(*node, watched, Basis::Surrendered)).collect()
    }

    /// Since when the registry has answered without a gap, if it still does.
    fn answered_since(&self, now: Instant) -> Option<Instant> {
        self.answered.filter(|(_, last)| now.since(*last) <= ANSWER_GAP).map(|(since, _)| since)
    }

    fn add_ended_leases(&mut self, now: Instant, since: Instant, out: &mut Vec<Out>) {
        let me = (self.me, self.incarnation);
        let others = self.members.iter().filter(|(n, w)| (**n, w.incarnation) != me && !w.surrendered);
        let patience = if self.left.out(Bug::EvictEarly) { LEASE / 2 } else { LEASE + LEASE_DRIFT };
        let mut first = None;
        for (node, watched) in others {
            let over = watched.applied.max(since) + patience;
            if now >= over {
                out.push(run(*node, watched, Basis::LeaseOver { renewal: watched.renewal }));
            } else {
                first = Some(first.map_or(over, |f: Instant| f.min(over)));
            }
        }
        if let Some(first) = first {
            self.wake_at(first);
        }
    }

    fn add_partitioned(&mut self, now: Instant, out: &mut Vec<Out>) {
        let goes = |node: &NodeId, out: &[Out]| out.iter().any(|o| o.node == *node);
        let pairs = self.pairs.iter().filter(|((a, b), _)| !goes(a, out) && !goes(b, out));
        let Some(due) = pairs.filter_map(|(_, pair)| pair.due()).min() else { return };
        let due = due.max(self.held_until);
        if now < due {
            return self.wake_at(due);
        }
        let weight = |(node, watched): (&NodeId, &Watched)| {
            let volumes = self.volumes.get(node).copied().unwrap_or(0);
            (*node, Weight { voter: watched.voter, volumes })
        };
        let members = self.members.iter().filter(|(n, _)| !goes(n, out)).map(weight).collect();
        // Every silent pair counts, also one that was noticed just now: one fault shows in many places, a little
        // later in some of them.
        let mut silent: BTreeMap<NodeId, NodeSet> = BTreeMap::new();
        for (a, b) in self.pairs.keys() {
            silent.entry(*a).or_default().insert(*b);
        }
        let kept = largest(&members, &silent);
        let basis = Basis::Partition { kept: kept.len() as u16 };
        let stays = |node: NodeId| kept.contains(node) != self.left.out(Bug::KeepFewer);
        let rest = members.keys().filter(|n| !stays(**n));
        out.extend(rest.map(|node| run(*node, &self.members[node], basis)));
    }

    /// Proposes once for each thing seen, and again each [`RENEW`] while it stays so: proposals get lost.
    fn propose(&mut self, now: Instant, out: Vec<Out>) {
        if out.is_empty() {
            self.proposed = None;
            return;
        }
        let last = self.proposed.as_ref().filter(|(said, _)| *said == out).map(|(_, at)| *at + RENEW);
        match last {
            Some(again) if now < again => self.wake_at(again),
            _ => {
                self.wake_at(now + RENEW);
                self.proposed = Some((out.clone(), now));
                self.outputs.push_back(Command::Evict { epoch: self.view.epoch, out, note: None });
            }
        }
    }

    fn wake_at(&mut self, at: Instant) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

fn run(node: NodeId, watched: &Watched, basis: Basis) -> Out {
    Out { node, incarnation: watched.incarnation, basis, fences: Vec::new() }
}
