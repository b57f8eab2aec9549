//! Held locks in ordinary tables: by id, by slot and by session.
//!
//! Every operation on one lock costs the same with a million of them as with ten. Tables are looked up, never walked:
//! what is listed comes out of vectors and is sorted.

use alloc::vec::Vec;

use hashbrown::HashTable;

use super::words::{Claim, Entry};
use crate::id::{LockId, SessionId, Slot};

/// Held locks.
#[derive(Clone, Debug, Default)]
pub struct Locks {
    seed: u64,
    locks: HashTable<u32>,
    held: Vec<Option<Held>>,
    free: Vec<u32>,
    slots: HashTable<List<Slot>>,
    sessions: HashTable<List<SessionId>>,
}

#[derive(Clone, Debug)]
struct Held {
    entry: Entry,
    /// Where this lock stands in the list of its slot and in that of its session.
    in_slot: u32,
    in_session: u32,
}

/// Indexes into `held`.
#[derive(Clone, Debug)]
struct List<K> {
    of: K,
    locks: Vec<u32>,
}

impl Locks {
    /// None yet. The seed is for hashes, so that nobody outside can choose numbers that collide.
    pub fn with_seed(seed: u64) -> Locks {
        Locks { seed, ..Locks::default() }
    }

    fn index_of(&self, lock: LockId) -> Option<u32> {
        let held = &self.held;
        let is = |index: &u32| held[*index as usize].as_ref().is_some_and(|h| h.entry.claim.lock == lock);
        self.locks.find(mix(lock.0, self.seed), is).copied()
    }

    fn held(&self, index: u32) -> &Held {
        self.held[index as usize].as_ref().expect("a listed lock is held")
    }

    /// A held lock.
    pub fn get(&self, lock: LockId) -> Option<&Entry> {
        self.index_of(lock).map(|index| &self.held(index).entry)
    }

    /// A held lock, to change what is not looked up: its id, slot and session must stay.
    pub fn get_mut(&mut self, lock: LockId) -> Option<&mut Entry> {
        let index = self.index_of(lock)?;
        self.held[index as usize].as_mut().map(|h| &mut h.entry)
    }

    /// A lock goes on as another's, who was told nothing yet. Gives where it is; none if it is not held.
    pub fn hand_on(&mut self, lock: LockId, claim: Claim) -> Option<Slot> {
        assert!(self.get(claim.lock).is_none(), "lock {} is held already", claim.lock);
        let entry = self.remove(lock)?;
        self.insert(Entry { claim, told: None, ..entry });
        Some(entry.slot)
    }

    /// One more. Its id must not be in use.
    pub fn insert(&mut self, entry: Entry) {
        let (lock, seed) = (entry.claim.lock, self.seed);
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.held.push(None);
                self.held.len() as u32 - 1
            }
        };
        let in_slot = push(&mut self.slots, seed, entry.slot, |slot| slot.0.into(), index);
        let in_session = push(&mut self.sessions, seed, lock.session(), |session| session.0.into(), index);
        self.held[index as usize] = Some(Held { entry, in_slot, in_session });
        let held = &self.held;
        let rehash = |i: &u32| mix(held[*i as usize].as_ref().map_or(0, |h| h.entry.claim.lock.0), seed);
        self.locks.insert_unique(mix(lock.0, seed), index, rehash);
    }

    /// One less.
    pub fn remove(&mut self, lock: LockId) -> Option<Entry> {
        let index = self.index_of(lock)?;
        let seed = self.seed;
        self.locks.find_entry(mix(lock.0, seed), |i| *i == index).expect("it was found").remove();
        let Held { entry, in_slot, in_session } = self.held[index as usize].take().expect("a held lock");
        self.free.push(index);
        // The last of each list takes the place of the one that goes.
        if let Some(moved) = take(&mut self.slots, seed, entry.slot, |slot| slot.0.into(), in_slot) {
            self.held[moved as usize].as_mut().expect("a listed lock is held").in_slot = in_slot;
        }
        let session = lock.session();
        if let Some(moved) = take(&mut self.sessions, seed, session, |session| session.0.into(), in_session) {
            self.held[moved as usize].as_mut().expect("a listed lock is held").in_session = in_session;
        }
        Some(entry)
    }

    /// The locks of a slot, in no order.
    pub fn of_slot(&self, slot: Slot) -> impl Iterator<Item = &Entry> {
        let list = self.slots.find(mix(slot.0.into(), self.seed), |list| list.of == slot);
        list.into_iter().flat_map(|list| &list.locks).map(|index| &self.held(*index).entry)
    }

    /// Looks at each lock of a slot, in no order, and may change what is not looked up.
    pub fn each_of_slot(&mut self, slot: Slot, mut each: impl FnMut(&mut Entry)) {
        if let Some(list) = self.slots.find(mix(slot.0.into(), self.seed), |list| list.of == slot) {
            for index in &list.locks {
                each(&mut self.held[*index as usize].as_mut().expect("a listed lock is held").entry);
            }
        }
    }

    /// The locks of a session, in no order.
    pub fn of_session(&self, session: SessionId) -> impl Iterator<Item = &Entry> {
        let list = self.sessions.find(mix(session.0.into(), self.seed), |list| list.of == session);
        list.into_iter().flat_map(|list| &list.locks).map(|index| &self.held(*index).entry)
    }

    /// All, in no order.
    pub fn all(&self) -> impl Iterator<Item = &Entry> {
        self.held.iter().flatten().map(|held| &held.entry)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.locks.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.locks.is_empty()
    }
}

/// Appends to the list of a key; its place there.
fn push<K: Copy + PartialEq>(
    table: &mut HashTable<List<K>>,
    seed: u64,
    key: K,
    number: impl Fn(K) -> u64,
    index: u32,
) -> u32 {
    let rehash = |list: &List<K>| mix(number(list.of), seed);
    let list = table.entry(mix(number(key), seed), |list| list.of == key, rehash);
    let list = list.or_insert_with(|| List { of: key, locks: Vec::new() }).into_mut();
    list.locks.push(index);
    list.locks.len() as u32 - 1
}

/// Takes one out of the list of a key. The one that moved into its place, if any did.
fn take<K: Copy + PartialEq>(
    table: &mut HashTable<List<K>>,
    seed: u64,
    key: K,
    number: impl Fn(K) -> u64,
    place: u32,
) -> Option<u32> {
    let Ok(mut list) = table.find_entry(mix(number(key), seed), |list| list.of == key) else {
        unreachable!("a lock is listed under its keys");
    };
    list.get_mut().locks.swap_remove(place as usize);
    let moved = list.get().locks.get(place as usize).copied();
    if list.get().locks.is_empty() {
        list.remove();
    }
    moved
}

/// Numbers are given out one after the other; a table wants them spread (splitmix64 finaliser).
pub(super) fn mix(number: u64, seed: u64) -> u64 {
    let mut z = (number ^ seed).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
