//! `Words`, the trait by which the lock room sees a segment.

use oarlock_layout::flags::Flags;
use oarlock_layout::id::{LockId, SessionId, Slot};
use oarlock_layout::limit::LEASE_FROZEN;
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::geometry::{entry, header, slot, tail};
use oarlock_layout::segment::{Claim, Entry, NoSlot, Notice, Place as Seat, Stage, Tally, Wake, Word, Words};
use oarlock_layout::token::{Fence, Token};
use oarlock_layout::value::Value;

use super::Hub;
use crate::cells::state;
use crate::handover::Offer;
use crate::names::VALUE_READY;
use crate::planted::{Bug, planted};
use crate::search;
use crate::sync::{FIELD, Place as At, SHOW, fence};

/// Bells of slots that bear no name, answered in vain in one call: whoever rings them must not keep others waiting.
const MISSES_MAX: u32 = 256;

impl Words for Hub {
    fn find(&self, name: &Name) -> Option<Slot> {
        self.find_slot(name)
    }

    fn bind(&mut self, name: &Name) -> Result<Slot, NoSlot> {
        assert!(self.find_slot(name).is_none(), "{name:?} has a slot already");
        let max = self.memory.geometry().slots;
        self.bind_slot(name).ok_or(NoSlot(max))
    }

    fn evict(&mut self, slot: Slot) -> bool {
        self.evict_slot(slot)
    }

    fn bound(&self) -> u32 {
        self.names.len() as u32
    }

    fn room(&self) -> u32 {
        self.memory.geometry().slots
    }

    fn look(&self, slot: Slot) -> Word {
        self.view(slot, self.word(slot))
    }

    fn set_gate(&mut self, slot: Slot) -> Word {
        self.place_mut(slot).gate = true;
        let word = match self.update(slot, |word| Some(word.with_gate(true))) {
            Ok((_, word)) | Err(word) => word,
        };
        fence(At::Gate);
        self.view(slot, word)
    }

    fn clear_gate(&mut self, slot: Slot) {
        let place = self.place_mut(slot);
        place.gate = false;
        // Who comes from now on does not ring, and was told nothing.
        place.untell();
        let _ = self.update(slot, |word| word.gate().then(|| word.with_gate(false)));
    }

    fn lower(&mut self, slot: Slot, floor: Option<Mode>) -> Word {
        let owned = self.place(slot).owned;
        let stale = planted(Bug::StaleNeed).then(|| self.word(slot).target(floor));
        let lowered = self.update(slot, |word| {
            let owned = owned?;
            let target = match stale.unwrap_or_else(|| word.target(floor)) {
                target if owned.covers(target) => target,
                // Some counts are not to be believed: nobody was let into a mode that is not owned.
                _ => {
                    let held = Mode::ALL.into_iter().filter(|mode| word.count(*mode) > 0).chain(floor);
                    held.filter(|mode| owned.covers(*mode)).fold(Mode::NL, Mode::join)
                }
            };
            Some(word.with_owned(Some(target)))
        });
        let word = match lowered {
            Ok((_, word)) => {
                self.place_mut(slot).owned = word.owned();
                word
            }
            Err(word) => word,
        };
        self.view(slot, word)
    }

    fn raise(&mut self, slot: Slot, owned: Mode, fence: Fence) {
        let place = self.place_mut(slot);
        assert!(fence >= place.fence, "fence went back from {:?} to {fence:?}", place.fence);
        place.owned = Some(owned);
        place.fence = fence;
        // Before what it allows: whoever takes the lock finds at least this fence.
        self.memory.tail(slot.0)[tail::FENCE].store(fence.number(), SHOW);
        let _ = self.update(slot, Some);
    }

    fn disown(&mut self, slot: Slot) {
        self.place_mut(slot).owned = None;
        let _ = self.update(slot, Some);
    }

    fn set_keep(&mut self, slot: Slot, keep: bool) {
        if self.place(slot).keep != keep {
            self.place_mut(slot).keep = keep;
            let _ = self.update(slot, Some);
        }
    }

    fn admit(&mut self, slot: Slot, mode: Mode, claim: Claim) -> Option<Token> {
        self.admit_lock(slot, mode, claim)
    }

    fn convert(&mut self, lock: LockId, to: Mode) -> Option<Token> {
        self.convert_lock(lock, to)
    }

    fn drop(&mut self, lock: LockId) -> Option<Entry> {
        self.drop_lock(lock)
    }

    fn entry(&self, lock: LockId) -> Option<Entry> {
        self.held(lock)
    }

    fn entries(&self, slot: Slot) -> Vec<Entry> {
        self.held_on(slot)
    }

    fn of_session(&self, session: SessionId) -> Vec<LockId> {
        let mut locks: Vec<LockId> = self.kept.of_session(session).map(|entry| entry.claim.lock).collect();
        if let Some(number) = self.areas.number(session) {
            let held = search::touched(&self.memory, number).filter(|entry| {
                let now = state(&self.cells((number, *entry))[entry::STATE]);
                now.stage() == Some(Stage::Ending) || now.claims().is_some()
            });
            locks.extend(held.filter_map(|entry| self.lock_of((number, entry))));
        }
        locks.sort_unstable();
        locks.dedup();
        locks
    }

    fn notice(&mut self, slot: Slot, wanted: Mode, but: Option<LockId>) -> Vec<Notice> {
        self.notify(slot, wanted, but)
    }

    fn set_manner(&mut self, lock: LockId, flags: Flags) {
        self.set_lock_manner(lock, flags);
    }

    fn hand_on(&mut self, lock: LockId, claim: Claim) -> bool {
        // An entry of a segment goes with its program's place there.
        if lock.entry().is_some() {
            return false;
        }
        let Some(slot) = self.kept.hand_on(lock, claim) else { return false };
        self.place_mut(slot).untell();
        true
    }

    fn offer(&mut self, slot: Slot, waiter: Option<(LockId, Mode)>) {
        self.offer_to(slot, waiter);
    }

    fn taken(&mut self, slot: Slot) -> Option<LockId> {
        let lock = self.was_taken(slot)?;
        self.place_mut(slot).rare().offered = None;
        self.place_mut(slot).untell();
        self.memory.tail(slot.0)[tail::OFFERED].store(Offer::NONE.0, SHOW);
        Some(lock)
    }

    fn refuse(&mut self, lock: LockId) -> bool {
        self.refuse_lock(lock)
    }

    fn gone(&self, lock: LockId) -> bool {
        let waits = |place| {
            let stage = state(&self.cells(place)[entry::STATE]).stage();
            matches!(stage, Some(Stage::Waiting | Stage::Asking | Stage::Kept))
        };
        self.entry_of(lock).is_some_and(|place| !waits(place))
    }

    fn set_value_ready(&mut self, slot: Slot, ready: bool) {
        if self.place(slot).value_ready != ready {
            self.place_mut(slot).value_ready = ready;
            let tag = &self.memory.slot(slot.0)[slot::TAG];
            let bits = tag.load(FIELD) & !VALUE_READY;
            tag.store(bits | u64::from(ready), SHOW);
        }
    }

    fn used(&mut self, slot: Slot) -> bool {
        if self.memory.slot(slot.0)[slot::USERS].load(FIELD) == 0 {
            return false;
        }
        // Bits are cleared with the word shut, in a new turn: a claim that raced with it fails (M4).
        let place = self.place_mut(slot);
        place.turn = place.turn.wrapping_add(1);
        let turn = place.turn;
        if self.update(slot, |word| word.unheld().then(|| word.shut_for(turn))).is_ok() {
            self.memory.slot(slot.0)[slot::USERS].store(0, SHOW);
            let _ = self.update(slot, Some);
        }
        true
    }

    fn attach(&mut self, session: SessionId, segment: u8) -> Option<Seat> {
        self.attach_session(session, segment)
    }

    fn bury(&mut self, session: SessionId) {
        if let Some(number) = self.areas.bury(session) {
            self.settle(number);
        }
    }

    fn end(&mut self, session: SessionId) {
        self.end_session(session);
    }

    fn poll_bell(&mut self) -> Option<Slot> {
        let slots = self.places.len() as u32;
        // None is then said with bells left, for which the node does not fall asleep.
        for _ in 0..MISSES_MAX {
            let number = match self.rung.pop_front() {
                Some(number) => number,
                None => self.ears.next(&self.memory, slots)?,
            };
            if self.places.get(number as usize).is_some_and(Option::is_some) {
                let slot = Slot(number);
                // Somebody may have come who was told nothing yet.
                self.place_mut(slot).untell();
                self.finish_handed(slot);
                return Some(slot);
            }
        }
        None
    }

    fn poll_wake(&mut self) -> Option<Wake> {
        self.wakes.pop_front()
    }

    fn renew(&mut self, until: u64) {
        // In this order: whoever is granted something by the second finds the first.
        self.memory[header::LEASE_UNTIL].store(until, SHOW);
        let frozen = until.saturating_sub(LEASE_FROZEN.as_nanos() as u64);
        self.memory[header::GRANT_UNTIL].store(frozen, SHOW);
    }

    fn turn_epoch(&mut self) {
        self.memory.turn_epoch();
    }

    fn fall_asleep(&mut self) -> bool {
        self.rung.is_empty() && self.ears.is_idle() && self.memory.fall_asleep()
    }

    fn wake_up(&mut self) {
        self.memory.wake_up();
    }

    fn tally(&self) -> Tally {
        self.sums()
    }

    fn value(&self, slot: Slot) -> Value {
        self.memory.read_block_or_spoilt(slot.0)
    }

    fn set_value(&mut self, slot: Slot, value: Value) {
        if value == Value::NEVER {
            self.memory.clear_block(slot.0);
        } else {
            self.memory.write_block(slot.0, &value);
        }
    }

    fn token(&self, slot: Slot) -> Token {
        self.current(slot)
    }

    fn name(&self, slot: Slot) -> Name {
        self.place(slot).name.clone()
    }

    fn written(&self) -> Vec<u8> {
        self.write()
    }
}
