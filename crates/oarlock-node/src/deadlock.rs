//! This node's part in searches for deadlocks: what it sees, whom it asks, and what it does about what was found (D1 to D8).

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use oarlock_circuit::Class;
use oarlock_deadlock::{Output, Search, Start, Suspects};
use oarlock_layout::codec::Wire;
use oarlock_layout::id::{LockId, NodeId, OwnerId, SessionId, Slot, SpaceId, TransactionId};
use oarlock_layout::limit::MESSAGE_BYTES_MAX;
use oarlock_layout::message::peer::PeerMessage;
use oarlock_layout::message::trace::{
    ASKED_MAX, Actor, Broken, Hold, Link, ROWS_MAX, SIGHTS_BYTES_MAX, Sight, Trace, Traced, Verdict,
};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::stamp::Stamp;
use oarlock_layout::time::{Duration, Instant};
use oarlock_lock::{Rank, Waiter};

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
    /// How many had begun to wait, and how many waits had ended of whoever still waits, when that was last asked.
    #[serde(default)]
    turns: (u64, u64),
    /// The second of these when the last pass looked.
    #[serde(default)]
    turned: u64,
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
            turns: (0, 0),
            turned: 0,
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

/// Messages of a search that are longer than this go with what is large: a dozen datagrams hold up no grant.
const LOCK_BYTES_MAX: usize = 16 << 10;

/// What is put together for an answer.
#[derive(Default)]
struct Gathering {
    /// Whose waits are told.
    ranks: BTreeMap<Actor, Rank>,
    /// Resources with somebody waiting or holding here, and those that only the master here knows: as they came, which is those that were
    /// asked for, then those for which holders of these wait, and so on.
    places: Vec<Place>,
    known: BTreeSet<(SpaceId, Name)>,
    /// So many of them have been looked at.
    done: usize,
}

/// A resource that somebody asks about, or that follows from one.
struct Place {
    space: SpaceId,
    name: Name,
    holds: Vec<Hold>,
    /// It was asked for, or a holder of one that was waits for it, or a transaction that was.
    near: bool,
    /// It was asked for.
    asked: bool,
}

/// How much goes into an answer.
#[derive(Clone, Copy)]
pub(crate) struct Room {
    /// Resources, and holders and waiters of each.
    pub(crate) rows: usize,
    /// All of it.
    pub(crate) bytes: usize,
}

impl Room {
    /// For this node itself.
    pub(crate) const ALL: Room = Room { rows: usize::MAX, bytes: usize::MAX };
    /// For another, in one message.
    pub(crate) const MESSAGE: Room = Room { rows: ROWS_MAX, bytes: SIGHTS_BYTES_MAX };
}

/// Beside the sights of an answer stand transactions and a few numbers.
const _: () =
    assert!(Room::MESSAGE.bytes + ASKED_MAX * 8 + 64 <= MESSAGE_BYTES_MAX, "an answer is one message");

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
        let turns = self.turns();
        if core::mem::replace(&mut self.deadlocks.turns, turns) != turns {
            self.deadlocks.search.news(now);
        }
    }

    fn turns(&self) -> (u64, u64) {
        let turns = self.spaces.iter().map(|space| space.locks.turns());
        turns.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    }

    /// The time of the search has come.
    pub(crate) fn search(&mut self, now: Instant) {
        if !self.deadlocks.search.handle_timeout(now) {
            return;
        }
        // While locks are being recovered nothing that is seen means anything.
        let (old, mut fresh) = match self.recovery.is_open() {
            true => self.suspects(now),
            false => Default::default(),
        };
        let turned = self.turns().1;
        fresh |= core::mem::replace(&mut self.deadlocks.turned, turned) != turned;
        let any = self.spaces.iter().any(|space| space.locks.has_waiters());
        self.deadlocks.looked = Some(now);
        if !self.deadlocks.search.look(now, Suspects { some: !old.is_empty(), any, fresh }) {
            return;
        }
        // Where the clock may not go on, its last reading must do: then ages and numbers tell waits apart.
        let last = self.clock.last().max(Stamp(1));
        let stamp = self.clock.issue(now).unwrap_or(last);
        self.see_waiters(now, stamp);
        let mut gathering = Gathering::default();
        for actor in old {
            gathering.want(actor, Rank::Wanted, true, self);
        }
        let (sights, _) = self.gather(gathering, Room::ALL);
        let view = self.recovery.view();
        let (epoch, members) = (view.epoch, view.nodes().collect());
        let me = self.config.me;
        self.deadlocks.search.begin(now, Start { stamp, epoch, me, members, sights });
    }

    /// Carries what the search has to say. Returns whether anything moved.
    pub(crate) fn drain_search(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while let Some(output) = self.deadlocks.search.poll_output() {
            moved = true;
            match output {
                Output::Ask { member, trace } if member == self.config.me => {
                    self.see_waiters(now, trace.stamp);
                    let traced = self.traced(&trace, Room::ALL);
                    self.deadlocks.search.handle_traced(now, member, traced);
                }
                Output::Ask { member, trace } => {
                    if !self.say_of_search(now, member, &PeerMessage::Trace(trace)) {
                        self.deadlocks.search.handle_unreachable(now, member);
                    }
                }
                Output::Found(mut verdict) => {
                    let own = verdict.cycle.iter_mut().filter(|link| link.node == self.config.me);
                    own.for_each(|link| self.name_party(&mut link.party));
                    let node = verdict.victim.node;
                    if node == self.config.me {
                        self.verdict(now, verdict);
                    } else {
                        // If it is lost, the next passes find the same.
                        self.say_of_search(now, node, &PeerMessage::Verdict(verdict));
                    }
                }
            }
        }
        moved
    }

    /// Sends something of a search; false if there is no way. A search must not wait behind what is large, and not hold up locks.
    fn say_of_search(&mut self, now: Instant, to: NodeId, message: &PeerMessage) -> bool {
        let bytes = message.to_bytes();
        let class = if bytes.len() <= LOCK_BYTES_MAX { Class::Lock } else { Class::Bulk };
        self.circuits.send(now, to, class, &bytes).is_ok()
    }

    /// Another member searches.
    pub(crate) fn trace(&mut self, now: Instant, from: NodeId, trace: &Trace) {
        if trace.resources.iter().any(|(space, _)| self.spaces.len() <= usize::from(space.0)) {
            return self.violation(from, "it asks about a lockspace that there is not".into());
        }
        // What one view shows is not to be put together with what another does. Whoever is behind begins anew when it hears of the view.
        if trace.epoch != self.recovery.view().epoch {
            return;
        }
        let traced = self.answer(now, trace);
        // Whoever asked has gone if this fails; nobody misses the answer.
        self.say_of_search(now, from, &PeerMessage::Traced(traced));
    }

    pub(crate) fn answer(&mut self, now: Instant, trace: &Trace) -> Traced {
        if !self.recovery.is_open() {
            // Its masters do not know yet what there is: for all that can be said here everybody may go on.
            let (epoch, question, left) = (trace.epoch, trace.question, trace.transactions.clone());
            return Traced { epoch, question, cut: true, left, sights: Vec::new() };
        }
        self.see_waiters(now, trace.stamp);
        self.traced(trace, Room::MESSAGE)
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
        let Verdict { epoch, victim, cycle } = verdict;
        if epoch != self.recovery.view().epoch {
            return;
        }
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

    /// On which resources an actor waits at this node, on one as often as it has locks that wait there.
    fn waits_of(&self, actor: Actor) -> impl Iterator<Item = (SpaceId, Slot)> + '_ {
        (0..).map(SpaceId).zip(&self.spaces).flat_map(move |(space, Space { locks, .. })| {
            locks.waits_of(actor).map(move |slot| (space, slot))
        })
    }

    fn actor(&self, waiter: &Waiter) -> Actor {
        Actor::of(self.config.me, waiter.lock, waiter.owner, waiter.transaction)
    }

    /// Actors with a wait that is old enough who hold something as well. In a circle that goes over two resources somebody waits for one
    /// and holds the other, and in one that does not, somebody holds what it waits for. One that is closed by a wait before others, of
    /// somebody who need not hold anything, is looked for by whoever waits so, when it comes. True: one of those waits was too young when it was
    /// last looked.
    fn suspects(&self, now: Instant) -> (BTreeSet<Actor>, bool) {
        let delay = self.deadlocks.search.delay();
        let mut holders: BTreeMap<SessionId, BTreeSet<OwnerId>> = BTreeMap::new();
        let (mut suspects, mut fresh) = (BTreeSet::new(), false);
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
                let new = self.deadlocks.looked.is_none_or(|looked| waiter.since + delay > looked);
                let jumped = waiter.jumped && (new || self.deadlocks.search.confirms());
                if holds || jumped {
                    fresh |= new;
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

    pub(crate) fn traced(&self, trace: &Trace, room: Room) -> Traced {
        let mut gathering = Gathering::default();
        for transaction in &trace.transactions {
            gathering.want(Actor::Transaction(*transaction), Rank::Asked, true, self);
        }
        for (space, name) in &trace.resources {
            gathering.visit(*space, name.clone(), true, true);
        }
        let (sights, cut) = self.gather(gathering, room);
        let mut left = Vec::new();
        if cut {
            let told = sights.iter().flat_map(|sight| &sight.waits).map(|wait| wait.party.transaction);
            let told: BTreeSet<TransactionId> = told.collect();
            let asked = trace.transactions.iter().filter(|it| !told.contains(it));
            let waits = |it: &&TransactionId| self.waits_of(Actor::Transaction(**it)).next().is_some();
            left.extend(asked.filter(waits).copied());
        }
        Traced { epoch: trace.epoch, question: trace.question, cut, left, sights }
    }

    /// Everything from there on, as far as it goes at this node and there is room for it, and whether something near is missing.
    /// Whatever is missing can only let others seem to go on: who holds is told without it, and of who waits it is told for how many things.
    fn gather(&self, mut gathering: Gathering, room: Room) -> (Vec<Sight>, bool) {
        let me = self.config.me;
        let of = |hold: &Hold| Actor::of(me, hold.lock, hold.owner, hold.transaction);
        while let Some(place) = gathering.places.get(gathering.done) {
            if gathering.done >= room.rows {
                break;
            }
            let (space, near) = (place.space, place.asked);
            let Space { locks, words } = &self.spaces[usize::from(space.0)];
            let at = gathering.done;
            gathering.done += 1;
            let Some(slot) = words.find(&gathering.places[at].name) else { continue };
            let mut holds = locks.holds(words.as_ref(), slot);
            holds.retain(|hold| {
                // Whoever waits for nothing will give back what it holds. A transaction may wait elsewhere.
                let waits = self.waits_of(of(hold)).next().is_some();
                if waits {
                    gathering.want(of(hold), Rank::Wanted, near, self);
                }
                waits || hold.transaction != TransactionId(0)
            });
            gathering.places[at].holds = holds;
        }
        let Gathering { ranks, places, done, .. } = gathering;
        let mut cut = places[done..].iter().any(|place| place.near);
        let mut less = done < places.len();
        let rank = |lock: LockId, owner: OwnerId, transaction: TransactionId| {
            ranks.get(&Actor::of(me, lock, owner, transaction)).copied().unwrap_or(Rank::Other)
        };
        let mut sights = Vec::with_capacity(done);
        let mut bytes = room.bytes;
        for Place { space, name, holds, near, .. } in places.into_iter().take(done) {
            let Space { locks, words } = &self.spaces[usize::from(space.0)];
            let mut rows = room.rows;
            let (sight, missing, size) = loop {
                let (mut sight, missing) = locks.sight(words.as_ref(), &name, rows, holds.clone(), &rank);
                for wait in &mut sight.waits {
                    let party = &wait.party;
                    let actor = Actor::of(me, party.lock, party.owner, party.transaction);
                    wait.of = u32::try_from(self.waits_of(actor).count()).unwrap_or(u32::MAX);
                }
                if room.bytes == usize::MAX {
                    // Nobody is named yet: next to none of them is ever told.
                    break (sight, missing, 0);
                }
                sight.waits.iter_mut().for_each(|wait| self.name_party(&mut wait.party));
                let size = sight.to_bytes().len();
                // What is near goes in with less of it, if there is no other way.
                if size <= bytes || !near || rows <= 1 {
                    break (sight, missing, size);
                }
                rows = (sight.waits.len().max(sight.holds.len()) / 4).max(1);
            };
            if size > bytes {
                (cut, less) = (cut | near, true);
                continue;
            }
            (cut, less) = (cut | missing, less | missing);
            let is_empty = sight.holds.is_empty() && sight.waits.is_empty();
            if !is_empty || !sight.order.is_empty() || !sight.records.is_empty() {
                bytes -= size;
                sights.push(sight);
            }
        }
        if less {
            let told: BTreeSet<(SpaceId, Name)> =
                sights.iter().map(|it| (it.space, it.name.clone())).collect();
            let is_told = |(space, slot): (SpaceId, Slot)| {
                told.contains(&(space, self.spaces[usize::from(space.0)].words.name(slot)))
            };
            for sight in &mut sights {
                sight.more = !sight.holds.iter().all(|hold| self.waits_of(of(hold)).all(is_told));
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
    fn want(&mut self, actor: Actor, rank: Rank, near: bool, node: &Node) {
        if self.ranks.contains_key(&actor) {
            return;
        }
        self.ranks.insert(actor, rank);
        for (space, slot) in node.waits_of(actor) {
            self.visit(space, node.spaces[usize::from(space.0)].words.name(slot), near, false);
        }
    }

    fn visit(&mut self, space: SpaceId, name: Name, near: bool, asked: bool) {
        if self.known.insert((space, name.clone())) {
            self.places.push(Place { space, name, holds: Vec::new(), near, asked });
        }
    }
}
