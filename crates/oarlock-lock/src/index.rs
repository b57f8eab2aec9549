//! Where each actor waits: a search for deadlocks asks for some of them, and must not walk over all who wait.

use alloc::collections::{BTreeMap, BTreeSet};

use oarlock_layout::id::{LockId, NodeId, Slot};
use oarlock_layout::message::trace::Actor;

use crate::waiting::Waiting;

/// Those who wait for others, and not only for an answer.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Index {
    /// This and the next are made again from the queues by whoever reads the state.
    #[serde(skip)]
    places: BTreeMap<(Actor, LockId), Slot>,
    /// Where somebody waits whom no search has seen.
    #[serde(skip)]
    pub(crate) unseen: BTreeSet<Slot>,
    /// How many have begun to wait.
    pub(crate) begun: u64,
    /// How many waits have ended of which the actor still waits for something else: it may hold more than it did, or wait for less.
    pub(crate) turned: u64,
}

impl Index {
    /// Nobody waits here; what was counted stays.
    pub(crate) fn clear(&mut self) {
        self.places.clear();
        self.unseen.clear();
    }

    /// Somebody waits, and has been counted.
    pub(crate) fn resume(&mut self, me: NodeId, entry: &Waiting, slot: Slot) {
        let begun = self.begun;
        self.begin(me, entry, slot);
        self.begun = begun;
    }

    pub(crate) fn begin(&mut self, me: NodeId, entry: &Waiting, slot: Slot) {
        if entry.waits_for_an_answer() {
            return;
        }
        self.places.insert((actor(me, entry), entry.lock), slot);
        self.unseen.insert(slot);
        self.begun += 1;
    }

    pub(crate) fn end(&mut self, me: NodeId, entry: &Waiting) {
        let actor = actor(me, entry);
        if self.places.remove(&(actor, entry.lock)).is_some() && self.of(actor).next().is_some() {
            self.turned += 1;
        }
    }

    /// Where an actor waits; twice on the same resource if it does so with two locks.
    pub(crate) fn of(&self, actor: Actor) -> impl Iterator<Item = Slot> + '_ {
        let range = (actor, LockId(0))..=(actor, LockId(u64::MAX));
        self.places.range(range).map(|(_, slot)| *slot)
    }
}

fn actor(me: NodeId, entry: &Waiting) -> Actor {
    Actor::of(me, entry.lock, entry.owner, entry.transaction)
}
