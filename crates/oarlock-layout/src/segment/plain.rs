//! `Words` over plain memory: nobody but its owner touches it. The dumb twin of every faster one.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::words::{Claim, Counts, Entry, NoSlot, Notice, Word, Words};
use crate::flags::Flags;
use crate::id::{LockId, SessionId, Slot};
use crate::limit::RESOURCES_MAX_DEFAULT;
use crate::mode::{Mode, join_option};
use crate::name::Name;
use crate::token::{Fence, Token};
use crate::value::Value;

/// Held locks in ordinary maps.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PlainWords {
    names: BTreeMap<Name, Slot>,
    slots: Vec<Option<Place>>,
    free: Vec<Slot>,
    entries: BTreeMap<LockId, Entry>,
    max: u32,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Place {
    name: Name,
    word: Word,
    keep: bool,
    token: Token,
    value: Value,
    locks: Vec<LockId>,
}

impl Default for PlainWords {
    fn default() -> PlainWords {
        PlainWords::new(RESOURCES_MAX_DEFAULT)
    }
}

impl PlainWords {
    /// Room for `max` resources.
    pub fn new(max: u32) -> PlainWords {
        PlainWords {
            names: BTreeMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            entries: BTreeMap::new(),
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
}

impl Place {
    fn next_token(&mut self, mode: Mode) -> Token {
        if mode.exclusive() {
            self.token.local += 1;
        }
        self.token
    }
}

impl Words for PlainWords {
    fn find(&self, name: &Name) -> Option<Slot> {
        self.names.get(name).copied()
    }

    fn bind(&mut self, name: &Name) -> Result<Slot, NoSlot> {
        assert!(!self.names.contains_key(name), "{name:?} has a slot already");
        if self.bound() >= self.max {
            return Err(NoSlot(self.max));
        }
        let place = Place {
            name: name.clone(),
            word: Word { counts: Counts::default(), owned: None, gate: true },
            keep: true,
            token: Token::default(),
            value: Value::NEVER,
            locks: Vec::new(),
        };
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                Slot(self.slots.len() as u32 - 1)
            }
        };
        self.slots[slot.0 as usize] = Some(place);
        self.names.insert(name.clone(), slot);
        Ok(slot)
    }

    fn evict(&mut self, slot: Slot) -> bool {
        if !self.place(slot).locks.is_empty() {
            return false;
        }
        let place = self.slots[slot.0 as usize].take().expect("a bound slot");
        self.names.remove(&place.name);
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
        let place = self.place_mut(slot);
        assert!(place.locks.is_empty(), "{:?} is disowned with locks held", place.name);
        place.word.owned = None;
    }

    fn set_keep(&mut self, slot: Slot, keep: bool) {
        self.place_mut(slot).keep = keep;
    }

    fn admit(&mut self, slot: Slot, mode: Mode, claim: Claim) -> Option<Token> {
        assert!(!self.entries.contains_key(&claim.lock), "lock {} is held already", claim.lock);
        let place = self.slots[slot.0 as usize].as_mut().expect("a bound slot");
        let word = &mut place.word;
        if !word.owned.is_some_and(|owned| owned.covers(mode)) || !word.counts.admits(mode) {
            return None;
        }
        word.counts = word.counts.with(mode);
        let token = place.next_token(mode);
        place.locks.push(claim.lock);
        self.entries.insert(claim.lock, Entry { claim, slot, mode, token, told: None });
        Some(token)
    }

    fn convert(&mut self, lock: LockId, to: Mode) -> Option<Token> {
        let entry = self.entries.get_mut(&lock)?;
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
        Some(entry.token)
    }

    fn drop(&mut self, lock: LockId) -> Option<Entry> {
        let entry = self.entries.remove(&lock)?;
        let place = self.place_mut(entry.slot);
        place.word.counts = place.word.counts.without(entry.mode);
        place.locks.retain(|l| *l != lock);
        Some(entry)
    }

    fn entry(&self, lock: LockId) -> Option<Entry> {
        self.entries.get(&lock).copied()
    }

    fn entries(&self, slot: Slot) -> Vec<Entry> {
        let mut entries: Vec<Entry> = self.place(slot).locks.iter().map(|lock| self.entries[lock]).collect();
        entries.sort_by_key(|e| e.claim.lock);
        entries
    }

    fn of_session(&self, session: SessionId) -> Vec<LockId> {
        let range = LockId::new(session, 0)..=LockId::new(session, u32::MAX);
        self.entries.range(range).map(|(lock, _)| *lock).collect()
    }

    fn notice(&mut self, slot: Slot, wanted: Mode, but: Option<LockId>) -> Vec<Notice> {
        let mut notices = Vec::new();
        let locks = self.place(slot).locks.clone();
        for lock in locks {
            let entry = self.entries.get_mut(&lock).expect("a counted lock has an entry");
            if Some(lock) == but || entry.mode.compatible(wanted) || entry.claim.flags.contains(Flags::NOBAST)
            {
                continue;
            }
            let join = join_option(entry.told, Some(wanted));
            if join != entry.told {
                entry.told = join;
                notices.push(Notice { lock, wanted: join.expect("a join with some mode") });
            }
        }
        notices.sort_by_key(|n| n.lock);
        notices
    }

    fn silence(&mut self, lock: LockId) {
        if let Some(entry) = self.entries.get_mut(&lock) {
            entry.claim.flags |= Flags::NOBAST;
        }
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
}
