//! This node's part in searches for deadlocks: what it sees, whom it asks, and what it does about what was found (D1 to D8).

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use oarlock_circuit::Class;
use oarlock_deadlock::{Output, Search, Suspects};
use oarlock_layout::id::{LockId, NodeId, OwnerId, SessionId, Slot, SpaceId, TransactionId};
use oarlock_layout::message::peer::PeerMessage;
use oarlock_layout::message::trace::{Actor, Broken, Hold, Link, ROWS_MAX, Sight, Trace, Traced, Verdict};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::stamp::Stamp;
use oarlock_layout::time::{Duration, Instant};
use oarlock_lock::Waiter;

use crate::node::{Node, Space};

/// Deadlocks that are remembered, for those who ask.
const REMEMBERED: usize = 64;

/// What a node has to do with deadlocks.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Deadlocks {
    pub(crate) search: Search,
    /// When the last pass looked at what waits here.
    looked: Option<Instant>,
    /// Those that were broken, with the time at which this node heard of it; the newest last.
    broken: VecDeque<Heard>,
    /// What victims are to be told, until they are, which is before anybody writes this down.
    #[serde(skip)]
    texts: BTreeMap<(SpaceId, LockId), String>,
}

#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Heard(Instant, #[serde(with = "oarlock_layout::written::wire")] Broken);

impl Deadlocks {
    /// Another process goes on with the node, and its configuration says so.
    pub(crate) fn after(self, delay: Duration) -> Deadlocks {
        Deadlocks { search: self.search.after(delay), ..self }
    }

    pub(crate) fn new(delay: Duration) -> Deadlocks {
        Deadlocks {
            search: Search::new(delay),
            looked: None,
            broken: VecDeque::new(),
            texts: BTreeMap::new(),
        }
    }

    fn remember(&mut self, now: Instant, broken: Broken) {
        if self.broken.len() >= REMEMBERED {
            self.broken.pop_front();
        }
        self.broken.push_back(Heard(now, broken));
    }
}

/// Where the actors of a node wait.
#[derive(Default)]
struct Waits(BTreeMap<Actor, Vec<(SpaceId, Slot)>>);

/// What is put together for an answer.
#[derive(Default)]
struct Gathering {
    /// Whose waits are told.
    wanted: BTreeSet<Actor>,
    /// Resources with somebody waiting or holding here, and those that only the master here knows.
    slots: BTreeMap<(SpaceId, Name), Vec<Hold>>,
    queue: Vec<(SpaceId, Name)>,
}

impl Node {
    /// Deadlocks that were broken anywhere, as far as this node has heard of them and remembers: the last of them last.
    pub fn deadlocks(&self) -> impl Iterator<Item = (Instant, &Broken)> {
        self.deadlocks.broken.iter().map(|Heard(at, broken)| (*at, broken))
    }

    /// What a victim is told.
    pub(crate) fn verdict_in_words(&mut self, space: SpaceId, lock: LockId) -> Option<String> {
        self.deadlocks.texts.remove(&(space, lock))
    }

    /// Somebody may have begun to wait.
    pub(crate) fn look_for_waits(&mut self, now: Instant) {
        if self.spaces.iter().any(|space| space.locks.has_waiters()) {
            self.deadlocks.search.waits(now);
        }
    }

    /// The time of the search has come.
    pub(crate) fn search(&mut self, now: Instant) {
        if !self.deadlocks.search.handle_timeout(now) {
            return;
        }
        let waits = self.waits();
        let any = !waits.0.is_empty();
        let view = self.recovery.view();
        let members: BTreeSet<NodeId> = view.nodes().collect();
        // While locks are being recovered nothing that is seen means anything.
        let (old, fresh) = match self.recovery.is_open() {
            true => self.suspects(now, &waits),
            false => Default::default(),
        };
        self.deadlocks.looked = Some(now);
        // Where the clock may not go on, its last reading must do: then ages and numbers tell waits apart.
        let mut stamp = self.clock.last().max(Stamp(1));
        if !old.is_empty() {
            stamp = self.clock.issue(now).unwrap_or(stamp);
            self.see_waiters(now, stamp);
        }
        let mut gathering = Gathering::default();
        for actor in old {
            gathering.want(actor, &waits, self);
        }
        let (sights, cut) = self.gather(gathering, &waits, usize::MAX);
        // With less than there is to see, the rest would be mistaken for somebody who waits for nothing.
        let sights = if cut { Vec::new() } else { sights };
        let me = self.config.me;
        self.deadlocks.search.begin(now, stamp, me, members, Suspects { sights, any, fresh });
    }

    /// Carries what the search has to say. Returns whether anything moved.
    pub(crate) fn drain_search(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while let Some(output) = self.deadlocks.search.poll_output() {
            moved = true;
            match output {
                Output::Ask { members, trace } => {
                    let me = self.config.me;
                    for node in members.into_iter().filter(|node| *node != me) {
                        // A member without a circuit cannot be asked, and the pass ends without its answer.
                        let _ = self.send(now, node, Class::Bulk, &PeerMessage::Trace(trace.clone()));
                    }
                    self.see_waiters(now, trace.stamp);
                    let traced = self.traced(&trace);
                    self.deadlocks.search.handle_traced(now, self.config.me, traced);
                }
                Output::Found(mut verdict) => {
                    let own = verdict.cycle.iter_mut().filter(|link| link.node == self.config.me);
                    own.for_each(|link| self.name_party(&mut link.party));
                    let node = verdict.victim.node;
                    if node == self.config.me {
                        self.verdict(now, verdict);
                    } else {
                        // If it is lost, the next passes find the same.
                        let _ = self.send(now, node, Class::Bulk, &PeerMessage::Verdict(verdict));
                    }
                }
            }
        }
        moved
    }

    /// Another member searches.
    pub(crate) fn trace(&mut self, now: Instant, from: NodeId, trace: &Trace) {
        if trace.resources.iter().any(|(space, _)| self.spaces.len() <= usize::from(space.0)) {
            return self.violation(from, "it asks about a lockspace that there is not".into());
        }
        self.see_waiters(now, trace.stamp);
        let traced = self.traced(trace);
        // Whoever asked has gone if this fails; nobody misses the answer.
        let _ = self.send(now, from, Class::Bulk, &PeerMessage::Traced(traced));
    }

    /// An answer. What it tells of a lockspace that there is not would be asked for next, of this node too.
    pub(crate) fn was_traced(&mut self, now: Instant, from: NodeId, traced: Traced) {
        if traced.sights.iter().any(|sight| self.spaces.len() <= usize::from(sight.space.0)) {
            return self.violation(from, "it tells of waits in a lockspace that there is not".into());
        }
        self.deadlocks.search.handle_traced(now, from, traced);
    }

    /// A wait of this node is to be refused.
    pub(crate) fn verdict(&mut self, now: Instant, verdict: Verdict) {
        let Verdict { victim, cycle } = verdict;
        let Some(Space { locks, words }) = self.spaces.get_mut(usize::from(victim.space.0)) else { return };
        // Two members may have found it, or it has been resolved since.
        let Some(waited) = locks.handle_verdict(now, words.as_mut(), &victim) else { return };
        self.deadlocks.texts.insert((victim.space, victim.lock), self.in_words(&cycle));
        let waited_us = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        let broken = Broken { victim, waited_us, cycle };
        let others: Vec<NodeId> =
            self.recovery.view().nodes().filter(|node| *node != self.config.me).collect();
        for node in others {
            // For people: nothing depends on it.
            let _ = self.send(now, node, Class::Bulk, &PeerMessage::Broken(broken.clone()));
        }
        self.deadlocks.remember(now, broken);
    }

    /// A wait of another node was refused.
    pub(crate) fn broken(&mut self, now: Instant, broken: Broken) {
        #[cfg(feature = "planted")]
        if self.has_bug(crate::planted::Bug::WholeCircle) {
            for link in broken.cycle.iter().filter(|link| link.node == self.config.me) {
                let Space { locks, words } = &mut self.spaces[usize::from(link.space.0)];
                locks.refuse(now, words.as_mut(), link.party.lock);
            }
        }
        self.deadlocks.remember(now, broken);
    }

    // ----- what is seen ---------------------------------------------------------------------------------------

    /// A search of this stamp looks at all waits.
    fn see_waiters(&mut self, now: Instant, stamp: Stamp) {
        for Space { locks, .. } in &mut self.spaces {
            locks.see_waiters(now, stamp);
        }
    }

    fn waits(&self) -> Waits {
        let mut waits = Waits::default();
        for (space, Space { locks, .. }) in (0..).map(SpaceId).zip(&self.spaces) {
            for waiter in locks.waiters() {
                waits.0.entry(self.actor(&waiter)).or_default().push((space, waiter.slot));
            }
        }
        waits
    }

    fn actor(&self, waiter: &Waiter) -> Actor {
        Actor::of(self.config.me, waiter.lock, waiter.owner, waiter.transaction)
    }

    /// Actors with a wait that is old enough who hold something as well. In a circle that goes over two resources somebody waits for one
    /// and holds the other, and in one that does not, somebody holds what it waits for. True: one of those waits was too young when it was
    /// last looked.
    fn suspects(&self, now: Instant, waits: &Waits) -> (BTreeSet<Actor>, bool) {
        let delay = self.deadlocks.search.delay();
        let mut holders: BTreeMap<SessionId, BTreeSet<OwnerId>> = BTreeMap::new();
        let (mut suspects, mut fresh) = (BTreeSet::new(), false);
        if waits.0.is_empty() {
            return (suspects, fresh);
        }
        for Space { locks, words } in &self.spaces {
            for waiter in locks.waiters().filter(|waiter| !waiter.excused && waiter.since + delay <= now) {
                let actor = self.actor(&waiter);
                let holds = match actor {
                    Actor::Transaction(_) => true,
                    // Only a convert holds something.
                    Actor::Lock(_, lock) => words.entry(lock).is_some_and(|entry| entry.mode != Mode::NL),
                    Actor::Owner(_, session, owner) => {
                        let of_session = || self.owners_that_hold(session);
                        holders.entry(session).or_insert_with(of_session).contains(&owner)
                    }
                };
                if holds {
                    fresh |= self.deadlocks.looked.is_none_or(|looked| waiter.since + delay > looked);
                    suspects.insert(actor);
                }
            }
        }
        (suspects, fresh)
    }

    /// Owners within a session who hold something that could be in anybody's way.
    fn owners_that_hold(&self, session: SessionId) -> BTreeSet<OwnerId> {
        let held = self.spaces.iter().flat_map(|Space { words, .. }| {
            words.of_session(session).into_iter().filter_map(|lock| words.entry(lock))
        });
        held.filter(|entry| entry.mode != Mode::NL).map(|entry| entry.claim.owner).collect()
    }

    fn traced(&self, trace: &Trace) -> Traced {
        let waits = self.waits();
        let mut gathering = Gathering::default();
        for (space, name) in &trace.resources {
            gathering.visit(*space, name.clone());
        }
        for transaction in &trace.transactions {
            gathering.want(Actor::Transaction(*transaction), &waits, self);
        }
        let (mut sights, cut) = self.gather(gathering, &waits, ROWS_MAX);
        for wait in sights.iter_mut().flat_map(|sight| &mut sight.waits) {
            self.name_party(&mut wait.party);
        }
        Traced { question: trace.question, cut, sights }
    }

    /// Everything from there on, as far as it goes at this node. Nobody is named yet: next to none of them is ever told.
    fn gather(&self, mut gathering: Gathering, waits: &Waits, most: usize) -> (Vec<Sight>, bool) {
        while let Some((space, name)) = gathering.queue.pop() {
            if gathering.slots.len() > most {
                return (Vec::new(), true);
            }
            let Space { locks, words } = &self.spaces[usize::from(space.0)];
            let Some(slot) = words.find(&name) else { continue };
            let mut holds = locks.holds(words.as_ref(), slot);
            holds.retain(|hold| {
                let actor = Actor::of(self.config.me, hold.lock, hold.owner, hold.transaction);
                gathering.want(actor, waits, self);
                // Whoever waits for nothing will give back what it holds. A transaction may wait elsewhere.
                waits.0.contains_key(&actor) || matches!(actor, Actor::Transaction(_))
            });
            gathering.slots.insert((space, name), holds);
        }
        let Gathering { wanted, slots, .. } = gathering;
        let mut cut = false;
        let me = self.config.me;
        let wanted = |lock: LockId, owner: OwnerId, transaction: TransactionId| {
            wanted.contains(&Actor::of(me, lock, owner, transaction))
        };
        let mut sights = Vec::with_capacity(slots.len());
        for ((space, name), holds) in slots {
            let Space { locks, words } = &self.spaces[usize::from(space.0)];
            let (sight, less) = locks.sight(words.as_ref(), &name, most, holds, &wanted);
            cut |= less;
            if !sight.holds.is_empty() || !sight.waits.is_empty() || !sight.order.is_empty() {
                sights.push(sight);
            }
        }
        (sights, cut)
    }

    /// The circle, for whoever was refused: its own wait first.
    fn in_words(&self, cycle: &[Link]) -> String {
        let mut text =
            String::from("it was one of locks that wait for each other in a circle, and the youngest:");
        for (at, link) in cycle.iter().enumerate() {
            let next = &cycle[(at + 1) % cycle.len()];
            let who = |link: &Link| {
                let node = self.node_name(link.node);
                match link.party.label.is_empty() {
                    true => format!("{node} pid {}", link.party.pid),
                    false => format!("{node} pid {} ({})", link.party.pid, link.party.label),
                }
            };
            let wanted = match link.held {
                Some(held) => format!("has {held} on {}, wants {}", link.name, link.wanted),
                None => format!("wants {} on {}", link.wanted, link.name),
            };
            let why = match link.behind {
                Some(mode) => format!("which {} has in {mode}", who(next)),
                None => format!("behind {}", who(next)),
            };
            text += &format!("\n  {} {wanted}, {why}", who(link));
        }
        text
    }
}

impl Gathering {
    /// Somebody whose waits matter.
    fn want(&mut self, actor: Actor, waits: &Waits, node: &Node) {
        let Some(places) = waits.0.get(&actor) else { return };
        if !self.wanted.insert(actor) {
            return;
        }
        for (space, slot) in places {
            let name = node.spaces[usize::from(space.0)].words.name(*slot);
            self.visit(*space, name);
        }
    }

    fn visit(&mut self, space: SpaceId, name: Name) {
        let key = (space, name);
        if !self.slots.contains_key(&key) {
            self.slots.insert(key.clone(), Vec::new());
            self.queue.push(key);
        }
    }
}
