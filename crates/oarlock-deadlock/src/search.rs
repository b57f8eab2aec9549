//! When to ask whom, and when a knot counts.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;

use oarlock_layout::id::{NodeId, SpaceId, TransactionId};
use oarlock_layout::message::trace::{Sight, Trace, Traced, Verdict, WaitId};
use oarlock_layout::name::Name;
use oarlock_layout::stamp::Stamp;
use oarlock_layout::time::{Duration, Instant};

use crate::graph::Graph;
use crate::planted::{Bug, Planted};

/// Members answer in this time, or the pass is given up.
pub const PATIENCE: Duration = Duration::from_millis(400);
/// Between two passes: longer than any answer of the first was under way.
pub const CONFIRM: Duration = Duration::from_millis(40);
/// While the same waits are there and nothing is found, passes come further and further apart, up to this: a circle may also be closed by a
/// grant elsewhere.
pub const PAUSE_MAX: Duration = Duration::from_millis(400);
/// So many sights are put together; whoever sees more gives up, and says so in a counter.
const SIGHTS_MAX: usize = 1 << 18;
/// Resources in one question: what follows from them at a node goes into the same answer.
const AT_ONCE: usize = 256;

/// Something for the hall to carry on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Ask these, this node itself perhaps among them.
    Ask {
        /// Whom.
        members: BTreeSet<NodeId>,
        /// What.
        trace: Trace,
    },
    /// Two passes have found this: tell the victim's node.
    Found(Verdict),
}

/// What this node sees of waits that are old enough and whose actors hold something as well: in each circle there is one of those.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Suspects {
    /// The resources on which they wait, and what follows from those at this node.
    pub sights: Vec<Sight>,
    /// Somebody waits here, suspect or not.
    pub any: bool,
    /// One of the suspects was none in the pass before.
    pub fresh: bool,
}

/// What has been counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counters {
    /// Passes that were begun with waits that might be part of a circle.
    pub passes: u64,
    /// Questions that went to other nodes.
    pub asked: u64,
    /// Passes that were given up: somebody did not answer, another view came, or there was too much to see.
    pub given_up: u64,
    /// Knots of waits that were stuck in two passes.
    pub found: u64,
    /// Knots that were not there any more, or not the same, when they were looked at again.
    pub unconfirmed: u64,
}

impl Counters {
    /// Name, meaning and value of each.
    pub fn list(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        [
            ("deadlock_passes", "Passes of the search for deadlocks that this node began", self.passes),
            ("deadlock_asked", "Questions of these that went to other nodes", self.asked),
            (
                "deadlock_given_up",
                "Passes that somebody did not answer, or a change of the view ended",
                self.given_up,
            ),
            ("deadlock_found", "Deadlocks that two passes found", self.found),
            ("deadlock_unconfirmed", "Deadlocks that only one pass found", self.unconfirmed),
        ]
        .into_iter()
    }
}

/// A pass that is under way.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Pass {
    stamp: Stamp,
    question: u64,
    members: BTreeSet<NodeId>,
    missing: BTreeSet<NodeId>,
    until: Instant,
    /// Somebody said less than there was to say.
    cut: bool,
    resources: BTreeSet<(SpaceId, Name)>,
    transactions: BTreeSet<TransactionId>,
    graph: Graph,
}

/// One node's search.
///
/// The calling contract: [`waits`](Search::waits) whenever somebody waits here; when [`poll_timeout`](Search::poll_timeout) has come,
/// [`handle_timeout`](Search::handle_timeout), and if that says so, [`begin`](Search::begin). After each call drain
/// [`poll_output`](Search::poll_output).
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    delay: Duration,
    /// When the next pass begins; none while nobody waits, or one is under way.
    next: Option<Instant>,
    pause: Duration,
    pass: Option<Pass>,
    /// The waits that were stuck in the last pass, if it found somebody to refuse in the next one.
    #[serde(default)]
    stood: BTreeSet<WaitId>,
    /// How many knots they made.
    #[serde(default)]
    knots: u64,
    last: u64,
    counters: Counters,
    #[serde(with = "oarlock_layout::written::drained")]
    outputs: VecDeque<Output>,
    #[serde(skip)]
    planted: Planted,
}

impl Search {
    /// Waits that are younger than `delay` are nobody's business (D8).
    pub fn new(delay: Duration) -> Search {
        Search {
            delay,
            next: None,
            pause: delay,
            pass: None,
            stood: BTreeSet::new(),
            knots: 0,
            last: 0,
            counters: Counters::default(),
            outputs: VecDeque::new(),
            planted: Planted::default(),
        }
    }

    /// The same with a bug.
    #[cfg(feature = "planted")]
    pub fn plant(&mut self, bug: Option<Bug>) {
        self.planted = Planted::new(bug);
    }

    /// The same with another delay.
    #[must_use]
    pub fn after(self, delay: Duration) -> Search {
        Search { delay, ..self }
    }

    /// How old a wait must be.
    pub const fn delay(&self) -> Duration {
        self.delay
    }

    /// Somebody waits here.
    pub fn waits(&mut self, now: Instant) {
        if self.next.is_none() && self.pass.is_none() {
            self.next = Some(now + self.delay);
        }
    }

    /// When [`handle_timeout`](Search::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.pass.as_ref().map(|pass| pass.until).or(self.next)
    }

    /// True: [`begin`](Search::begin) is due.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        if self.pass.as_ref().is_some_and(|pass| pass.until <= now) {
            self.give_up(now);
        }
        self.pass.is_none() && self.next.is_some_and(|next| next <= now)
    }

    /// Begins a pass among these members.
    pub fn begin(
        &mut self,
        now: Instant,
        stamp: Stamp,
        me: NodeId,
        members: BTreeSet<NodeId>,
        Suspects { sights, any, fresh }: Suspects,
    ) {
        assert!(self.pass.is_none(), "one pass after the other");
        self.next = None;
        if sights.is_empty() {
            self.forget();
            self.pause = self.delay;
            if any {
                self.next = Some(now + self.delay);
            }
            return;
        }
        self.pause = if fresh { self.delay } else { (self.pause * 2).min(PAUSE_MAX.max(self.delay)) };
        self.counters.passes += 1;
        self.last += 1;
        let mut pass = Pass {
            stamp,
            question: self.last,
            members,
            missing: BTreeSet::new(),
            until: now + PATIENCE,
            cut: false,
            resources: BTreeSet::new(),
            transactions: BTreeSet::new(),
            graph: Graph::new(),
        };
        sights.into_iter().for_each(|sight| pass.graph.add(me, sight));
        self.pass = Some(pass);
        self.go_on(now);
    }

    /// An answer. One that was not asked for, or comes too late, changes nothing.
    pub fn handle_traced(&mut self, now: Instant, from: NodeId, traced: Traced) {
        let Some(pass) = &mut self.pass else { return };
        if pass.question != traced.question || !pass.missing.remove(&from) {
            return;
        }
        pass.cut |= traced.cut;
        for sight in traced.sights {
            pass.graph.add(from, sight);
        }
        if pass.missing.is_empty() {
            self.go_on(now);
        }
    }

    /// Another view is valid: whatever was seen is over.
    pub fn handle_view(&mut self, now: Instant) {
        if self.pass.is_some() {
            self.give_up(now);
        }
        self.forget();
    }

    /// The next thing to carry on.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What has been counted.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    fn forget(&mut self) {
        self.counters.unconfirmed += core::mem::take(&mut self.knots);
        self.stood.clear();
    }

    fn give_up(&mut self, now: Instant) {
        self.counters.given_up += 1;
        self.pass = None;
        self.next = Some(now + self.delay);
    }

    /// Asks for what is not known yet, or says what is to be said.
    fn go_on(&mut self, now: Instant) {
        let pass = self.pass.as_mut().expect("a pass is under way");
        let resources: Vec<(SpaceId, Name)> =
            pass.graph.open().filter(|it| !pass.resources.contains(it)).take(AT_ONCE).cloned().collect();
        let transactions = pass.graph.transactions().into_iter();
        let transactions: Vec<TransactionId> =
            transactions.filter(|it| !pass.transactions.contains(it)).take(AT_ONCE).collect();
        if pass.graph.len() > SIGHTS_MAX {
            return self.give_up(now);
        }
        if resources.is_empty() && transactions.is_empty() {
            return self.conclude(now);
        }
        pass.resources.extend(resources.iter().cloned());
        pass.transactions.extend(transactions.iter().copied());
        pass.missing = pass.members.clone();
        self.last += 1;
        pass.question = self.last;
        pass.until = now + PATIENCE;
        let trace = Trace { question: pass.question, stamp: pass.stamp, resources, transactions };
        self.counters.asked += pass.members.len() as u64 - 1;
        self.outputs.push_back(Output::Ask { members: pass.members.clone(), trace });
    }

    fn conclude(&mut self, now: Instant) {
        let pass = self.pass.take().expect("a pass is under way");
        if pass.cut {
            // Whoever seems to wait for stuck ones only may wait for others too.
            return self.give_up(now);
        }
        // Whoever began to wait since may go on, for all that is known: so nobody can keep others in their knot by asking again and again.
        let stood = core::mem::take(&mut self.stood);
        let among = (!self.planted.has(Bug::OnePass)).then_some(&stood);
        let knots = pass.graph.knots_among(self.planted, among);
        let (before, found) = (core::mem::take(&mut self.knots), knots.len() as u64);
        self.counters.found += found;
        self.counters.unconfirmed += before.saturating_sub(found);
        if knots.is_empty() {
            self.knots = pass.graph.knots_with(self.planted).len() as u64;
            self.stood = if self.knots > 0 { pass.graph.stuck_with(self.planted) } else { BTreeSet::new() };
        }
        let again = found > 0 || self.knots > 0;
        for knot in knots.into_iter().filter(|_| !self.planted.has(Bug::Silent)) {
            let verdict = Verdict { victim: knot.victim(), cycle: knot.cycle };
            self.outputs.push_back(Output::Found(verdict));
        }
        self.next = Some(now + if again { CONFIRM.min(self.delay) } else { self.pause });
    }
}
