//! `Words` over plain memory: nobody but its owner touches it. The dumb twin of every faster one.
//!
//! ```text
//!   names ──hash──► slots[n] { word, value, token }
//!   lock, slot, session ──hash──► held locks
//! ```

mod written;

use alloc::vec::Vec;
use core::hash::{Hash, Hasher};

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::locks::Locks;
use super::words::{Claim, Counts, Entry, MANNER, NoSlot, Notice, Word, Words};
use crate::codec::Wire;
use crate::flags::Flags;
use crate::id::{LockId, SessionId, Slot};
use crate::limit::RESOURCES_MAX_DEFAULT;
use crate::mode::{Mode, join_option};
use crate::name::Name;
use crate::token::{Fence, Token};
use crate::value::Value;

/// Held locks in ordinary tables.
#[derive(Clone, Debug)]
pub struct PlainWords {
    seed: u64,
    names: HashTable<Slot>,
    slots: Vec<Option<Place>>,
    free: Vec<Slot>,
    locks: Locks,
    max: u32,
}

#[derive(Clone, Debug)]
struct Place {
    name: Name,
    word: Word,
    keep: bool,
    token: Token,
    value: Value,
    /// Every lock here that blocks one of these modes (a bit each) has been told so; and the same but for one
    /// lock. A queue of thousands asks again and again, and the answer is mostly that there is no news.
    told: u8,
    told_but: Option<(Mode, LockId)>,
}

impl Default for PlainWords {
    fn default() -> PlainWords {
        PlainWords::new(RESOURCES_MAX_DEFAULT)
    }
}

impl PlainWords {
    /// Room for `max` resources.
    pub fn new(max: u32) -> PlainWords {
        PlainWords::with_seed(max, 0)
    }

    /// The same with a seed for its hashes, so that nobody outside can choose names that collide.
    pub fn with_seed(max: u32, seed: u64) -> PlainWords {
        PlainWords {
            seed,
            names: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            locks: Locks::with_seed(seed),
            max,
        }
    }

    /// Whether retention policy says "keep" (for tests of C15).
    pub fn keep(&self, slot: Slot) -> bool {
        self.place(slot).keep
    }

    fn place(&self, slot: Slot) -> &Place {
        self.slots[slot.0 as usize].as_ref().expect("a bound slot")
    }

    fn place_mut(&mut self, slot: Slot) -> &mut Place {
        self.slots[slot.0 as usize].as_mut().expect("a bound slot")
    }

    fn name_hash(&self, name: &Name) -> u64 {
        xxh3_64_with_seed(name.as_bytes(), self.seed)
    }

    /// Lets the name of a slot, if it has one, be found.
    fn index(&mut self, slot: Slot) {
        let (seed, slots) = (self.seed, &self.slots);
        let hash = |slot: &Slot| {
            let place = slots[slot.0 as usize].as_ref();
            place.map_or(0, |place| xxh3_64_with_seed(place.name.as_bytes(), seed))
        };
        if slots[slot.0 as usize].is_some() {
            self.names.insert_unique(hash(&slot), slot, hash);
        }
    }

    /// Everybody on a slot is to be told anew.
    fn untell(&mut self, slot: Slot) {
        let place = self.place_mut(slot);
        (place.told, place.told_but) = (0, None);
    }
}

impl Place {
    fn next_token(&mut self, mode: Mode) -> Token {
        if mode.exclusive() {
            self.token.local += 1;
        }
        self.token
    }
}

/// What is held and owned, not where in memory it happens to lie.
impl Hash for PlainWords {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for (slot, place) in self.slots.iter().enumerate() {
            let Some(place) = place else { continue };
            (slot, &place.name, place.word, place.keep, place.token, place.value).hash(state);
            // Who has been told decides who is told next.
            (place.told, place.told_but).hash(state);
            self.entries(Slot(slot as u32)).hash(state);
        }
        self.free.hash(state);
    }
}

impl Words for PlainWords {
    fn find(&self, name: &Name) -> Option<Slot> {
        self.names.find(self.name_hash(name), |slot| self.place(*slot).name == *name).copied()
    }

    fn bind(&mut self, name: &Name) -> Result<Slot, NoSlot> {
        assert!(self.find(name).is_none(), "{name:?} has a slot already");
        if self.bound() >= self.max {
            return Err(NoSlot(self.max));
        }
        let place = Place {
            name: name.clone(),
            word: Word { counts: Counts::default(), owned: None, gate: true },
            keep: true,
            token: Token::default(),
            value: Value::NEVER,
            told: 0,
            told_but: None,
        };
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                Slot(self.slots.len() as u32 - 1)
            }
        };
        self.slots[slot.0 as usize] = Some(place);
        self.index(slot);
        Ok(slot)
    }

    fn evict(&mut self, slot: Slot) -> bool {
        if self.locks.of_slot(slot).next().is_some() {
            return false;
        }
        let place = self.slots[slot.0 as usize].take().expect("a bound slot");
        let hash = self.name_hash(&place.name);
        self.names.find_entry(hash, |s| *s == slot).expect("a bound slot has a name").remove();
        self.free.push(slot);
        true
    }

    fn bound(&self) -> u32 {
        self.names.len() as u32
    }

    fn room(&self) -> u32 {
        self.max
    }

    fn look(&self, slot: Slot) -> Word {
        self.place(slot).word
    }

    fn set_gate(&mut self, slot: Slot) -> Word {
        let word = &mut self.place_mut(slot).word;
        word.gate = true;
        *word
    }

    fn clear_gate(&mut self, slot: Slot) {
        self.place_mut(slot).word.gate = false;
    }

    fn lower(&mut self, slot: Slot, floor: Option<Mode>) -> Word {
        let word = &mut self.place_mut(slot).word;
        if let Some(owned) = word.owned {
            // What is owned is never less than NL: only `disown` gives up the record itself.
            let target = join_option(word.counts.need(), floor).unwrap_or(Mode::NL);
            if owned.covers(target) {
                word.owned = Some(target);
            }
        }
        *word
    }

    fn raise(&mut self, slot: Slot, owned: Mode, fence: Fence) {
        let place = self.place_mut(slot);
        place.word.owned = Some(owned);
        assert!(fence >= place.token.fence, "fence went back from {:?} to {fence:?}", place.token.fence);
        place.token.fence = fence;
    }

    fn disown(&mut self, slot: Slot) {
        let held = self.locks.of_slot(slot).next().is_some();
        let place = self.place_mut(slot);
        assert!(!held, "{:?} is disowned with locks held", place.name);
        place.word.owned = None;
    }

    fn set_keep(&mut self, slot: Slot, keep: bool) {
        self.place_mut(slot).keep = keep;
    }

    fn admit(&mut self, slot: Slot, mode: Mode, claim: Claim) -> Option<Token> {
        assert!(self.locks.get(claim.lock).is_none(), "lock {} is held already", claim.lock);
        let place = self.place_mut(slot);
        let word = &mut place.word;
        if !word.owned.is_some_and(|owned| owned.covers(mode)) || !word.counts.admits(mode) {
            return None;
        }
        word.counts = word.counts.with(mode);
        let token = place.next_token(mode);
        self.locks.insert(Entry { claim, slot, mode, token, told: None, fast: false });
        self.untell(slot);
        Some(token)
    }

    fn convert(&mut self, lock: LockId, to: Mode) -> Option<Token> {
        let entry = self.locks.get_mut(lock)?;
        let place = self.slots[entry.slot.0 as usize].as_mut().expect("a bound slot");
        let others = place.word.counts.without(entry.mode);
        if !place.word.owned.is_some_and(|owned| owned.covers(to)) || !others.admits(to) {
            return None;
        }
        place.word.counts = others.with(to);
        // A way down is no new grant: it keeps the token it has.
        if !entry.mode.covers(to) || to == entry.mode {
            entry.token = place.next_token(to);
        }
        entry.mode = to;
        entry.told = None;
        (place.told, place.told_but) = (0, None);
        Some(entry.token)
    }

    fn drop(&mut self, lock: LockId) -> Option<Entry> {
        let entry = self.locks.remove(lock)?;
        let word = &mut self.place_mut(entry.slot).word;
        word.counts = word.counts.without(entry.mode);
        Some(entry)
    }

    fn entry(&self, lock: LockId) -> Option<Entry> {
        self.locks.get(lock).copied()
    }

    fn entries(&self, slot: Slot) -> Vec<Entry> {
        let mut entries: Vec<Entry> = self.locks.of_slot(slot).copied().collect();
        entries.sort_unstable_by_key(|e| e.claim.lock);
        entries
    }

    fn of_session(&self, session: SessionId) -> Vec<LockId> {
        let mut locks: Vec<LockId> = self.locks.of_session(session).map(|e| e.claim.lock).collect();
        locks.sort_unstable();
        locks
    }

    fn notice(&mut self, slot: Slot, wanted: Mode, but: Option<LockId>) -> Vec<Notice> {
        let place = self.slots[slot.0 as usize].as_mut().expect("a bound slot");
        let known = Mode::ALL.into_iter().any(|m| place.told & (1 << m as u8) != 0 && m.covers(wanted));
        if known || but.is_some_and(|but| place.told_but == Some((wanted, but))) {
            return Vec::new();
        }
        match but {
            None => place.told |= 1 << wanted as u8,
            Some(but) => place.told_but = Some((wanted, but)),
        }
        let mut notices = Vec::new();
        self.locks.each_of_slot(slot, |entry| notices.extend(entry.notify(wanted, but)));
        notices.sort_unstable_by_key(|n| n.lock);
        notices
    }

    fn set_manner(&mut self, lock: LockId, flags: Flags) {
        if let Some(entry) = self.locks.get_mut(lock) {
            entry.claim.flags = (entry.claim.flags - MANNER) | (flags & MANNER);
        }
    }

    fn hand_on(&mut self, lock: LockId, claim: Claim) -> bool {
        let Some(slot) = self.locks.hand_on(lock, claim) else { return false };
        self.untell(slot);
        true
    }

    fn value(&self, slot: Slot) -> Value {
        self.place(slot).value
    }

    fn set_value(&mut self, slot: Slot, value: Value) {
        self.place_mut(slot).value = value;
    }

    fn token(&self, slot: Slot) -> Token {
        self.place(slot).token
    }

    fn name(&self, slot: Slot) -> Name {
        self.place(slot).name.clone()
    }

    fn written(&self) -> Vec<u8> {
        self.to_bytes()
    }
}

impl Default for Claim {
    fn default() -> Claim {
        Claim {
            lock: LockId(0),
            owner: Default::default(),
            transaction: Default::default(),
            flags: Flags::empty(),
            since: Default::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Epoch;
    use Mode::*;

    fn lock(n: u32) -> LockId {
        LockId::new(SessionId(1), n)
    }

    fn claim(n: u32) -> Claim {
        Claim { lock: lock(n), ..Claim::default() }
    }

    fn owned(mode: Mode) -> (PlainWords, Slot) {
        let mut words = PlainWords::new(4);
        let slot = words.bind(&Name::new(b"r").unwrap()).unwrap();
        words.raise(slot, mode, Fence::new(Epoch(1), 1));
        (words, slot)
    }

    #[test]
    fn admits_up_to_owned_and_no_further() {
        let (mut words, slot) = owned(PR);
        assert!(words.admit(slot, PR, claim(1)).is_some());
        assert!(words.admit(slot, CR, claim(2)).is_some());
        assert!(words.admit(slot, CW, claim(3)).is_none());
        assert!(words.admit(slot, EX, claim(3)).is_none());
        assert_eq!(words.look(slot).counts.need(), Some(PR));
    }

    #[test]
    fn lowering_computes_need_from_the_counts_it_replaces() {
        let (mut words, slot) = owned(EX);
        words.admit(slot, PR, claim(1));
        assert_eq!(words.lower(slot, None).owned, Some(PR));
        words.drop(lock(1));
        assert_eq!(words.lower(slot, Some(CR)).owned, Some(CR));
        assert_eq!(words.lower(slot, Some(EX)).owned, Some(CR), "never raises");
        assert_eq!(words.lower(slot, None).owned, Some(NL));
    }

    #[test]
    fn exclusive_grants_raise_the_local_count_and_shared_ones_carry_it() {
        let (mut words, slot) = owned(EX);
        let first = words.admit(slot, EX, claim(1)).unwrap();
        words.drop(lock(1));
        let shared = words.admit(slot, PR, claim(2)).unwrap();
        words.drop(lock(2));
        let second = words.admit(slot, EX, claim(3)).unwrap();
        assert!(first == shared && shared < second);
        assert_eq!(words.convert(lock(3), PR), Some(second), "a way down is no new grant");
        assert!(words.convert(lock(3), EX).unwrap() > second);
    }

    #[test]
    fn a_holder_is_told_once_per_stronger_wish() {
        // Scenarios 57 to 59.
        let (mut words, slot) = owned(PR);
        words.admit(slot, PR, claim(1));
        assert_eq!(words.notice(slot, PW, None).len(), 1);
        assert_eq!(words.notice(slot, PW, None).len(), 0);
        assert_eq!(words.notice(slot, EX, None)[0].wanted, EX);
        assert_eq!(words.notice(slot, CW, None).len(), 0);
        words.convert(lock(1), CR);
        assert_eq!(words.notice(slot, PW, None).len(), 0, "CR stands beside PW");
        assert_eq!(words.notice(slot, EX, Some(lock(1))).len(), 0, "the asker itself");
        assert_eq!(words.notice(slot, EX, None).len(), 1);
    }

    #[test]
    fn a_slot_with_a_lock_stays_and_a_full_table_says_so() {
        let (mut words, slot) = owned(NL);
        words.admit(slot, NL, claim(1));
        assert!(!words.evict(slot), "an NL lock keeps its value block alive (33)");
        for n in 0..3u8 {
            words.bind(&Name::new(&[n]).unwrap()).unwrap();
        }
        assert_eq!(words.bind(&Name::new(b"one more").unwrap()), Err(NoSlot(4)));
        words.drop(lock(1));
        assert!(words.evict(slot));
        assert_eq!(words.find(&Name::new(b"r").unwrap()), None);
        assert!(words.bind(&Name::new(b"one more").unwrap()).is_ok());
    }

    #[test]
    fn lists_stay_whole_however_locks_come_and_go() {
        // Against a plain list of what should be there.
        let mut words = PlainWords::with_seed(8, 7);
        let slots: Vec<Slot> = (0..3u8).map(|n| words.bind(&Name::new(&[n]).unwrap()).unwrap()).collect();
        slots.iter().for_each(|slot| words.raise(*slot, PR, Fence::new(Epoch(1), 1)));
        let mut there: Vec<(LockId, Slot)> = Vec::new();
        let mut random = 1u64;
        for step in 0..2_000u32 {
            random = super::super::locks::mix(random, step.into());
            if random % 5 < 3 {
                let lock = LockId::new(SessionId((random >> 8) as u32 % 4), step);
                let slot = slots[(random >> 16) as usize % 3];
                assert!(words.admit(slot, PR, Claim { lock, ..Claim::default() }).is_some());
                there.push((lock, slot));
            } else if !there.is_empty() {
                let (lock, slot) = there.swap_remove((random >> 8) as usize % there.len());
                assert_eq!(words.drop(lock).map(|e| e.slot), Some(slot));
                assert!(words.entry(lock).is_none() && words.drop(lock).is_none());
            }
            there.sort_unstable();
            let session = SessionId((random >> 32) as u32 % 4);
            let of_session: Vec<LockId> =
                there.iter().map(|(lock, _)| *lock).filter(|lock| lock.session() == session).collect();
            assert_eq!(words.of_session(session), of_session);
            let slot = slots[(random >> 40) as usize % 3];
            let of_slot: Vec<LockId> = there.iter().filter(|(_, s)| *s == slot).map(|(l, _)| *l).collect();
            assert_eq!(words.entries(slot).iter().map(|e| e.claim.lock).collect::<Vec<_>>(), of_slot);
            assert_eq!(words.look(slot).counts.total() as usize, of_slot.len());
        }
    }

    #[test]
    fn a_newcomer_is_told_although_all_before_it_were() {
        let (mut words, slot) = owned(PR);
        words.admit(slot, PR, claim(1));
        assert_eq!(words.notice(slot, EX, None).len(), 1);
        words.admit(slot, PR, claim(2));
        assert_eq!(words.notice(slot, EX, None)[0].lock, lock(2));
        assert_eq!(words.notice(slot, EX, Some(lock(1))).len(), 0);
        words.convert(lock(1), CR);
        assert_eq!(words.notice(slot, EX, Some(lock(2)))[0].lock, lock(1));
        // CW has heard of PR; that is not yet to have heard of PW, although PW is the join of both.
        let (mut words, slot) = owned(CW);
        words.admit(slot, CW, claim(1));
        words.notice(slot, CW, None);
        assert_eq!(words.notice(slot, PR, None).len(), 1);
        assert_eq!(words.notice(slot, PW, None)[0].wanted, PW);
    }
}
