use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use oarlock_layout::directory;
use oarlock_layout::id::{Epoch, NodeId, SpaceId, TransactionId};
use oarlock_layout::message::trace::{Sight, Trace, Traced, Verdict, WaitId};
use oarlock_layout::name::Name;
use oarlock_layout::stamp::Stamp;
use oarlock_layout::time::{Duration, Instant};

use crate::graph::Graph;
use crate::planted::{Bug, Planted};

/// Members answer in this time, or the pass goes on without them. After it, what is known without those who have not answered yet is looked
/// at: a slow member must not keep circles from being found in which it has no part.
pub const PATIENCE: Duration = Duration::from_millis(400);
/// After a pass that went on without somebody it waits so many times as long, up to the bound: a member that is slow, or far away, is
/// asked in vain only now and then. One that needs longer has as good as gone, and the view says so soon.
const PATIENCE_GROWS: u32 = 4;
/// The longest of these.
pub const PATIENCE_MAX: Duration = Duration::from_secs(4);
/// Between two passes: longer than any answer of the first was under way.
pub const CONFIRM: Duration = Duration::from_millis(40);
/// While the same waits are there and nothing is found, passes come further and further apart, up to this: programs that stand by for a lock
/// while they hold another wait so for days. Whatever else may close a circle is news at the node of somebody in it.
pub const PAUSE_MAX: Duration = Duration::from_secs(10);
/// The same as long as a transaction is among them: it may be granted something at a node where it does not wait, which is news to nobody.
pub const PAUSE_TRANSACTIONS_MAX: Duration = Duration::from_secs(1);
/// So many sights are put together; what is beyond them counts as whatever goes on.
const SIGHTS_MAX: usize = 1 << 18;
/// Resources and transactions in one question: what follows from them at a node goes into the same answer. The more, the fewer rounds;
/// with so many an answer of usual waits still fits.
const AT_ONCE: usize = 1024;
/// Where an answer does not fit, the same is asked again in smaller parts, down to this.
const AT_ONCE_MIN: usize = 16;

/// Something for the hall to carry on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Ask a member, perhaps this node itself.
    Ask {
        /// Whom.
        member: NodeId,
        /// What.
        trace: Trace,
    },
    /// Two passes have found this: tell the victim's node.
    Found(Verdict),
}

/// Waits of this node that are old enough and whose actors hold something as well, or that came to stand before others: in each circle there
/// is one of those.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Suspects {
    /// There are some.
    pub some: bool,
    /// Somebody waits here, suspect or not.
    pub any: bool,
    /// One of them was none in the pass before, or holds more than it did, or waits for less.
    pub fresh: bool,
}

/// How a pass begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Start {
    /// The cluster clock.
    pub stamp: Stamp,
    /// The view.
    pub epoch: Epoch,
    /// This node.
    pub me: NodeId,
    /// All members, this node among them.
    pub members: BTreeSet<NodeId>,
    /// The resources on which suspects wait, and what follows from those at this node.
    pub sights: Vec<Sight>,
}

/// What has been counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counters {
    /// Passes that were begun with waits that might be part of a circle.
    pub passes: u64,
    /// Questions that went to other nodes.
    pub asked: u64,
    /// Passes that another view ended, or that found nothing without somebody who did not answer.
    pub given_up: u64,
    /// Passes that found nothing where more was to be told than fits.
    #[serde(default)]
    pub cut: u64,
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
            ("deadlock_cut", "Passes that found nothing, and did not see all", self.cut),
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
    epoch: Epoch,
    me: NodeId,
    members: BTreeSet<NodeId>,
    /// When what is known is looked at without those who have not answered; none once that is done.
    early: Option<Instant>,
    /// Who is being asked, one question each.
    asking: BTreeMap<NodeId, Asked>,
    /// What else they are to be asked.
    due: BTreeMap<NodeId, Due>,
    /// Resources that others have to be asked about, and who has been, or will be.
    resources: BTreeMap<(SpaceId, Name), BTreeSet<NodeId>>,
    transactions: BTreeSet<TransactionId>,
    /// Those who have not answered in time.
    deaf: BTreeSet<NodeId>,
    /// The longest that an answer took.
    slowest: Duration,
    at_once: usize,
    /// Not all was told.
    cut: bool,
    graph: Graph,
}

#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    question: u64,
    at: Instant,
    until: Instant,
    what: Due,
}

/// What a member is to be asked.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Due {
    resources: Vec<(SpaceId, Name)>,
    transactions: Vec<TransactionId>,
}

impl Due {
    fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.transactions.is_empty()
    }

    fn len(&self) -> usize {
        self.resources.len() + self.transactions.len()
    }

    /// So much of it together, the last first.
    fn take(&mut self, most: usize) -> Due {
        let resources = self.resources.split_off(self.resources.len().saturating_sub(most));
        let most = most - resources.len();
        let transactions = self.transactions.split_off(self.transactions.len().saturating_sub(most));
        Due { resources, transactions }
    }

    fn put_back(&mut self, what: Due) {
        self.resources.extend(what.resources);
        self.transactions.extend(what.transactions);
    }
}

impl Pass {
    /// What a node sees, and who else must be asked because of it.
    fn add(&mut self, from: NodeId, sight: Sight) {
        let resource = (sight.space, sight.name.clone());
        let open = !sight.waits.is_empty() && (!sight.alone || sight.more);
        let new = open && !self.resources.contains_key(&resource);
        if new {
            self.resources.insert(resource.clone(), BTreeSet::new());
        }
        if let Some(asked) = self.resources.get_mut(&resource).filter(|_| !sight.more) {
            // It has told already who holds it there, and for what those wait.
            asked.insert(from);
        }
        if new {
            // The master knows who uses it.
            let master = directory::master(resource.0, resource.1.as_bytes(), self.members.iter().copied());
            for node in master.into_iter().chain([self.me, from]) {
                self.ask_about(&resource, node);
            }
        }
        for node in &sight.records {
            self.ask_about(&resource, *node);
        }
        for transaction in sight.holds.iter().map(|hold| hold.transaction).filter(|it| it.0 != 0) {
            if self.transactions.insert(transaction) {
                for node in self.members.difference(&self.deaf) {
                    self.due.entry(*node).or_default().transactions.push(transaction);
                }
                if !self.deaf.is_empty() {
                    self.graph.leave([transaction]);
                }
            }
        }
        self.graph.add(from, sight);
    }

    fn ask_about(&mut self, resource: &(SpaceId, Name), node: NodeId) {
        let Some(asked) = self.resources.get_mut(resource) else { return };
        if self.members.contains(&node) && !self.deaf.contains(&node) && asked.insert(node) {
            self.due.entry(node).or_default().resources.push(resource.clone());
        }
    }

    /// The pass goes on without this one: whatever it has, and waits for, is not known.
    fn do_without(&mut self, node: NodeId) {
        let asked = self.asking.remove(&node).map(|asked| asked.what);
        for what in asked.into_iter().chain(self.due.remove(&node)) {
            self.graph.leave(what.transactions);
        }
        self.deaf.insert(node);
    }
}

/// One node's search.
///
/// The calling contract: [`waits`](Search::waits) whenever somebody waits here, and [`news`](Search::news) when somebody has begun to or the like;
/// when [`poll_timeout`](Search::poll_timeout) has come, [`handle_timeout`](Search::handle_timeout), if that says so
/// [`look`](Search::look), and if that says so [`begin`](Search::begin). After each call drain [`poll_output`](Search::poll_output).
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    delay: Duration,
    /// When to look next; none while nobody waits, or a pass is under way.
    next: Option<Instant>,
    /// When there is another pass about the same waits.
    #[serde(default)]
    again: Option<Instant>,
    /// When what came last is old enough to be looked at.
    #[serde(default)]
    news: Option<Instant>,
    pause: Duration,
    /// How long members have for an answer.
    #[serde(default = "patience")]
    patience: Duration,
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

const fn patience() -> Duration {
    PATIENCE
}

impl Search {
    /// Waits that are younger than `delay` are nobody's business (D8).
    pub fn new(delay: Duration) -> Search {
        Search {
            delay,
            next: None,
            again: None,
            news: None,
            pause: delay,
            patience: PATIENCE,
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

    /// Somebody has begun to wait here, or has ended one of several waits: it is looked at soon, whenever the next pass would be.
    pub fn news(&mut self, now: Instant) {
        let at = now + self.delay;
        self.news = Some(at);
        if self.pass.is_none() {
            self.next = Some(self.next.map_or(at, |next| next.min(at)));
        }
    }

    /// The last pass has found somebody, and the next one is to find the same.
    pub fn confirms(&self) -> bool {
        !self.stood.is_empty()
    }

    /// When [`handle_timeout`](Search::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let Some(pass) = &self.pass else { return self.next };
        pass.asking.values().map(|asked| asked.until).chain(pass.early).min()
    }

    /// True: [`look`](Search::look) is due.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        if let Some(pass) = &mut self.pass {
            let late = pass.asking.iter().filter(|(_, asked)| asked.until <= now);
            let late: Vec<NodeId> = late.map(|(node, _)| *node).collect();
            let early = pass.early.take_if(|early| *early <= now).is_some();
            for node in &late {
                pass.do_without(*node);
            }
            if early {
                self.look_early();
            }
            if early || !late.is_empty() {
                self.go_on(now);
            }
        }
        self.pass.is_none() && self.next.is_some_and(|next| next <= now)
    }

    /// Who waits here. True: [`begin`](Search::begin) is due.
    pub fn look(&mut self, now: Instant, suspects: Suspects) -> bool {
        assert!(self.pass.is_none(), "one pass after the other");
        // What came shortly before is not old enough yet.
        self.news = self.news.filter(|news| *news > now);
        self.next = None;
        if !suspects.some {
            self.forget();
            self.pause = self.delay;
            self.again = None;
            self.next = suspects.any.then_some(now + self.delay);
            return false;
        }
        if let Some(again) = self.again.filter(|again| *again > now && !suspects.fresh) {
            self.next = Some(self.news.map_or(again, |news| news.min(again)));
            return false;
        }
        self.pause =
            if suspects.fresh { self.delay } else { (self.pause * 2).min(PAUSE_MAX.max(self.delay)) };
        true
    }

    /// Begins a pass.
    pub fn begin(&mut self, now: Instant, Start { stamp, epoch, me, members, sights }: Start) {
        assert!(self.pass.is_none(), "one pass after the other");
        self.counters.passes += 1;
        let mut pass = Pass {
            stamp,
            epoch,
            me,
            members,
            early: Some(now + PATIENCE),
            asking: BTreeMap::new(),
            due: BTreeMap::new(),
            resources: BTreeMap::new(),
            transactions: BTreeSet::new(),
            deaf: BTreeSet::new(),
            slowest: Duration::ZERO,
            at_once: AT_ONCE,
            cut: false,
            graph: Graph::new(),
        };
        sights.into_iter().for_each(|sight| pass.add(me, sight));
        self.pass = Some(pass);
        self.go_on(now);
    }

    /// An answer. One that was not asked for, comes too late, or is of another view changes nothing.
    pub fn handle_traced(&mut self, now: Instant, from: NodeId, traced: Traced) {
        let Some(pass) = &mut self.pass else { return };
        let is = |asked: &Asked| asked.question == traced.question && pass.epoch == traced.epoch;
        if !pass.asking.get(&from).is_some_and(is) {
            return;
        }
        let Asked { at, what, .. } = pass.asking.remove(&from).expect("just looked at");
        pass.slowest = pass.slowest.max(now.since(at));
        if traced.cut && what.len() > AT_ONCE_MIN && !traced.sights.is_empty() {
            pass.at_once = (pass.at_once.min(what.len()) / 4).max(AT_ONCE_MIN);
            pass.due.entry(from).or_default().put_back(what);
        } else {
            pass.cut |= traced.cut;
            pass.graph.leave(traced.left);
        }
        traced.sights.into_iter().for_each(|sight| pass.add(from, sight));
        self.go_on(now);
    }

    /// This member cannot be asked.
    pub fn handle_unreachable(&mut self, now: Instant, member: NodeId) {
        if let Some(pass) = &mut self.pass {
            pass.do_without(member);
            self.go_on(now);
        }
    }

    /// Another view is valid: whatever was seen is over.
    pub fn handle_view(&mut self, now: Instant) {
        let under_way = self.pass.take().is_some();
        self.counters.given_up += u64::from(under_way);
        if under_way || self.next.is_some() {
            // The queues of other masters may be others.
            self.next = Some(now + self.delay);
        }
        (self.pause, self.again, self.patience) = (self.delay, None, PATIENCE);
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

    /// Asks for what is not known yet, or says what is to be said.
    fn go_on(&mut self, now: Instant) {
        let pass = self.pass.as_mut().expect("a pass is under way");
        if pass.graph.len() > SIGHTS_MAX {
            pass.cut = true;
            let due = core::mem::take(&mut pass.due);
            due.into_values().for_each(|due| pass.graph.leave(due.transactions));
        }
        let Pass { due, asking, at_once, .. } = pass;
        for (member, due) in due.iter_mut().filter(|(_, due)| !due.is_empty()) {
            if asking.contains_key(member) {
                continue;
            }
            let what = due.take(*at_once);
            self.last += 1;
            self.counters.asked += u64::from(*member != pass.me);
            let trace = Trace {
                epoch: pass.epoch,
                question: self.last,
                stamp: pass.stamp,
                resources: what.resources.clone(),
                transactions: what.transactions.clone(),
            };
            asking.insert(*member, Asked { question: self.last, at: now, until: now + self.patience, what });
            self.outputs.push_back(Output::Ask { member: *member, trace });
        }
        if asking.is_empty() {
            self.conclude(now);
        }
    }

    /// Whatever is stuck without those who have not answered yet is so with them, and need not wait for them.
    fn look_early(&mut self) {
        let pass = self.pass.as_mut().expect("a pass is under way");
        let silent: Vec<NodeId> = pass.asking.keys().copied().collect();
        let asked = pass.asking.values().map(|asked| &asked.what).chain(pass.due.values());
        let unknown = asked.flat_map(|what| what.transactions.iter().copied());
        if pass.graph.is_tied_without(self.planted, unknown) {
            silent.into_iter().for_each(|node| pass.do_without(node));
        }
    }

    fn conclude(&mut self, now: Instant) {
        let pass = self.pass.take().expect("a pass is under way");
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
            let verdict = Verdict { epoch: pass.epoch, victim: knot.victim(), cycle: knot.cycle };
            self.outputs.push_back(Output::Found(verdict));
        }
        if pass.deaf.is_empty() {
            // Twice the longest answer, as the next pass may have another load to wait for.
            self.patience = (pass.slowest * 2).clamp(PATIENCE, PATIENCE_MAX);
        } else if !again {
            self.counters.given_up += 1;
            self.patience = (self.patience * PATIENCE_GROWS).min(PATIENCE_MAX);
        }
        self.counters.cut += u64::from(pass.cut && !again);
        if !pass.transactions.is_empty() {
            self.pause = self.pause.min(PAUSE_TRANSACTIONS_MAX.max(self.delay));
        }
        let pause = if again { CONFIRM.min(self.delay) } else { self.pause };
        self.again = Some(now + pause);
        self.next = Some(self.news.map_or(now + pause, |news| news.min(now + pause)));
    }
}
