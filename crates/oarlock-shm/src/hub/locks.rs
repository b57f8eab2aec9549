//! Held locks: in entries of the segment, and in the node's own table.
//!
//! A session that maps the segment has an entry for each lock, and the word counts it. All others are counted in the
//! node's own table, and the word counts one in each mode that has any: as much as callers need to see. The same table
//! takes the locks of entries whose count in the word is full; those entries say "kept".

use oarlock_layout::flags::Flags;
use oarlock_layout::id::{LockId, OwnerId, SharedHandle, Slot, TransactionId};
use oarlock_layout::mode::Mode;
use oarlock_layout::segment::geometry::{entry, slot, tail};
use oarlock_layout::segment::{Claim, Entry, MANNER, Notice, Stage, State, Wake};
use oarlock_layout::time::Instant;
use oarlock_layout::token::Token;

use super::Hub;
use crate::cells::{Own, exchange_state, state};
use crate::handover::Offer;
use crate::planted::{Bug, planted};
use crate::search;
use crate::sync::{FIELD, LOOK, Place as At, SHOW, TAKE, fence};

/// Beside the flags of a request: the node granted this lock, not its program.
const SLOW: u32 = 1 << 31;
/// How often an entry is exchanged in vain before its session counts as one that does not keep to the rules.
pub(super) const EXCHANGES_MAX: u32 = 64;

/// Which slot and slot generation an entry names.
pub(super) fn named(own: Own<'_>) -> (u32, u64) {
    (own[entry::SLOT].load(LOOK) as u32, own[entry::SLOT_GENERATION].load(LOOK))
}

fn flags(own: Own<'_>) -> u32 {
    (own[entry::SLOT].load(FIELD) >> 32) as u32
}

impl Hub {
    // ----- finding entries ------------------------------------------------------------------------------

    /// The entry of a lock: area and number.
    pub(super) fn entry_of(&self, lock: LockId) -> Option<(u32, u32)> {
        let number = lock.entry().filter(|number| *number < self.memory.geometry().entries)?;
        self.areas.number(lock.session()).map(|area| (area, number))
    }

    pub(super) fn cells(&self, place: (u32, u32)) -> Own<'_> {
        self.memory.entry(place.0, place.1)
    }

    pub(super) fn lock_of(&self, place: (u32, u32)) -> Option<LockId> {
        let area = self.areas.get(place.0)?;
        let handle = SharedHandle { segment: area.segment, entry: place.1 };
        Some(LockId::new(area.session, handle.number()))
    }

    /// Every entry in which a lock on this slot can be, whatever it says.
    pub(super) fn reach(&self, slot: Slot) -> Vec<(u32, u32)> {
        let users = self.memory.slot(slot.0)[slot::USERS].load(LOOK);
        let geometry = self.memory.geometry();
        let in_area = |area| {
            // An entry that waited for a slot not yet bound lies where those without a slot do.
            search::every(geometry, slot.0).map(move |number| (area, number))
        };
        self.areas.of_users(users).flat_map(in_area).collect()
    }

    /// The entries that name this slot as it is now, with their state.
    pub(super) fn naming(&self, slot: Slot) -> Vec<((u32, u32), State)> {
        let generation = self.place(slot).generation;
        let reach = self.reach(slot).into_iter();
        let look = |place| {
            let own = self.cells(place);
            let state = state(&own[entry::STATE]);
            (state.stage() != Some(Stage::Free) && named(own) == (slot.0, generation))
                .then_some((place, state))
        };
        reach.filter_map(look).collect()
    }

    /// What a held lock in an entry is; none if none is held there, or what it says cannot be.
    fn read(&self, place: (u32, u32), state: State) -> Option<Entry> {
        let mode = match state.stage()? {
            Stage::Ending => state.mode(),
            // In the node's own table.
            Stage::Kept => return None,
            _ => state.claims(),
        }?;
        let own = self.cells(place);
        let (number, generation) = named(own);
        let there = self.places.get(number as usize)?.as_ref()?;
        if there.generation != generation {
            return None;
        }
        let bits = flags(own);
        let claim = Claim {
            lock: self.lock_of(place)?,
            owner: OwnerId(own[entry::OWNER].load(FIELD)),
            transaction: TransactionId(own[entry::TRANSACTION].load(FIELD)),
            flags: Flags::from_bits_truncate(bits),
            since: Instant(own[entry::SINCE].load(FIELD)),
        };
        let slot = Slot(number);
        let told = join(told(own, state));
        Some(Entry { claim, slot, mode, token: self.current(slot), told, fast: bits & SLOW == 0 })
    }

    // ----- the rules of `Words` -------------------------------------------------------------------------

    pub(super) fn held(&self, lock: LockId) -> Option<Entry> {
        if let Some(kept) = self.kept.get(lock) {
            return Some(*kept);
        }
        let place = self.entry_of(lock)?;
        self.read(place, state(&self.cells(place)[entry::STATE]))
    }

    pub(super) fn held_on(&self, slot: Slot) -> Vec<Entry> {
        let inside = self.naming(slot).into_iter().filter_map(|(place, state)| self.read(place, state));
        let mut entries: Vec<Entry> = self.kept.of_slot(slot).copied().chain(inside).collect();
        entries.sort_unstable_by_key(|entry| entry.claim.lock);
        entries
    }

    pub(super) fn admit_lock(&mut self, slot: Slot, mode: Mode, claim: Claim) -> Option<Token> {
        if !self.place(slot).owned.is_some_and(|owned| owned.covers(mode)) {
            return None;
        }
        let token = match claim.lock.entry() {
            None => self.keep(slot, mode, claim)?,
            Some(_) => self.admit_entry(slot, mode, claim)?,
        };
        self.place_mut(slot).untell();
        Some(token)
    }

    /// Counts a lock in the node's own table.
    fn keep(&mut self, slot: Slot, mode: Mode, claim: Claim) -> Option<Token> {
        assert!(self.kept.get(claim.lock).is_none(), "lock {} is held already", claim.lock);
        if !self.count_own(slot, mode) {
            return None;
        }
        let token = self.draw(slot, mode);
        self.kept.insert(Entry { claim, slot, mode, token, told: None, fast: false });
        Some(token)
    }

    /// One more of the node's own. False if it does not fit.
    fn count_own(&mut self, slot: Slot, mode: Mode) -> bool {
        // The word counts the first; while it does, nothing that conflicts can come.
        let first = self.place(slot).kept(mode) == 0;
        let fits = match first {
            true => self
                .update(slot, |word| word.admits(mode).then(|| word.with_own(mode).ok()).flatten())
                .is_ok(),
            false => self.word(slot).admits(mode),
        };
        if fits {
            self.place_mut(slot).rare().kept[mode as usize] += 1;
        }
        fits
    }

    fn uncount_own(&mut self, slot: Slot, mode: Mode) {
        let kept = &mut self.place_mut(slot).rare().kept[mode as usize];
        *kept -= 1;
        if *kept == 0 {
            let _ = self.update(slot, |word| Some(word.without(mode)));
        }
    }

    /// Grants a waiting entry: the word first, then the entry (M1). None if it does not fit, or waits no more (R9).
    fn admit_entry(&mut self, slot: Slot, mode: Mode, claim: Claim) -> Option<Token> {
        let place = self.entry_of(claim.lock)?;
        let waiting = state(&self.cells(place)[entry::STATE]);
        if waiting.stage() != Some(Stage::Waiting) {
            return None;
        }
        // A releaser may have granted what was asked for, and its program wait for something else in the same entry by now.
        if self
            .place(slot)
            .offered()
            .is_some_and(|(offered, state)| offered == claim.lock && state != waiting)
        {
            return None;
        }
        let generation = self.place(slot).generation;
        let users = 1 << (place.0 % 64);
        self.memory.slot(slot.0)[slot::USERS].fetch_or(users, TAKE);
        // The entry of one that is offered says so already, and is not to be touched: a releaser may grant it at any time, and
        // its program be at another lock by then. One that is not waits until the node has answered.
        if self.place(slot).offered().is_none_or(|(offered, _)| offered != claim.lock) {
            let own = self.cells(place);
            let bits = u64::from(flags(own) | SLOW);
            own[entry::SLOT].store(u64::from(slot.0) | bits << 32, FIELD);
            own[entry::SLOT_GENERATION].store(generation, FIELD);
            own[entry::SINCE].store(claim.since.0, FIELD);
        }
        let mut full = false;
        let counted = self.update(slot, |word| {
            let more = word.admits(mode).then(|| word.with(mode));
            full = matches!(more, Some(Err(_)));
            more?.ok()
        });
        if counted.is_err() && !(full && self.count_own(slot, mode)) {
            return None;
        }
        let stage = if counted.is_ok() { Stage::Held } else { Stage::Kept };
        let held = waiting.to(stage, Some(mode), None);
        if planted(Bug::GrantByStore) {
            self.cells(place)[entry::STATE].store(held.0, SHOW);
        } else if exchange_state(&self.cells(place)[entry::STATE], waiting, held).is_err() {
            match stage {
                Stage::Held => drop(self.update(slot, |word| Some(word.without(mode)))),
                _ => self.uncount_own(slot, mode),
            }
            return None;
        }
        self.forget_offer(slot, claim.lock);
        self.wakes.push_back(Wake { area: place.0, entry: place.1 });
        // A program that looks for itself draws its token when it wants one.
        let token =
            if claim.flags.contains(Flags::QUIET) { self.current(slot) } else { self.draw(slot, mode) };
        if stage == Stage::Kept {
            self.kept.insert(Entry { claim, slot, mode, token, told: None, fast: false });
        }
        Some(token)
    }

    pub(super) fn convert_lock(&mut self, lock: LockId, to: Mode) -> Option<Token> {
        let old = self.held(lock)?;
        if !self.place(old.slot).owned.is_some_and(|owned| owned.covers(to)) {
            return None;
        }
        let kept = self.kept.get(lock).is_some();
        let token = if kept { self.convert_kept(old, to)? } else { self.convert_entry(old, to)? };
        self.place_mut(old.slot).untell();
        Some(token)
    }

    fn convert_kept(&mut self, old: Entry, to: Mode) -> Option<Token> {
        let (slot, from) = (old.slot, old.mode);
        if from != to {
            let others = self.view(slot, self.word(slot)).counts.without(from);
            if !others.admits(to) {
                return None;
            }
            self.swap_own(slot, from, to)?;
        }
        // A way down is no new grant: it keeps the token it has.
        let token = if !from.covers(to) || from == to { self.draw(slot, to) } else { old.token };
        let entry = self.kept.get_mut(old.claim.lock).expect("it was looked up");
        (entry.mode, entry.token, entry.told) = (to, token, None);
        if let Some(place) = self.entry_of(old.claim.lock) {
            let own = self.cells(place);
            let now = state(&own[entry::STATE]);
            let _ = exchange_state(&own[entry::STATE], now, now.to(Stage::Kept, Some(to), None));
        }
        Some(token)
    }

    /// One of the node's own goes from one mode to another, in one exchange. None if a caller was quicker.
    fn swap_own(&mut self, slot: Slot, from: Mode, to: Mode) -> Option<()> {
        let (last, first) = (self.place(slot).kept(from) == 1, self.place(slot).kept(to) == 0);
        self.update(slot, |word| {
            let less = if last { word.without(from) } else { word };
            match first {
                true => less.admits(to).then(|| less.with_own(to).ok()).flatten(),
                false => Some(less),
            }
        })
        .ok()?;
        let kept = &mut self.place_mut(slot).rare().kept;
        kept[from as usize] -= 1;
        kept[to as usize] += 1;
        Some(())
    }

    fn convert_entry(&mut self, old: Entry, to: Mode) -> Option<Token> {
        let (slot, from) = (old.slot, old.mode);
        let place = self.entry_of(old.claim.lock)?;
        let asking = state(&self.cells(place)[entry::STATE]);
        if asking.stage() != Some(Stage::Asking) {
            return None;
        }
        let held = asking.to(Stage::Held, Some(to), None);
        let exchange =
            |hub: &Hub, from, to| exchange_state(&hub.cells(place)[entry::STATE], from, to).is_ok();
        if from.covers(to) {
            // Down: the entry first. Not held yet, or its program could give back what the word does not count so far.
            let lowering = asking.to(Stage::Lowering, Some(from), Some(to));
            if !exchange(self, asking, lowering) {
                return None;
            }
            let less = |word: oarlock_layout::segment::Grant| {
                let less = word.without(from);
                Some(less.with(to).unwrap_or(less))
            };
            let _ = self.update(slot, less);
            let _ = exchange(self, lowering, held);
        } else {
            // Up: the word first, with the gate set, so that the way back is free if the caller withdraws.
            let counted = self.update(slot, |word| {
                let less = word.without(from);
                less.admits(to).then(|| less.with(to).ok()).flatten().map(|more| more.with_gate(true))
            });
            counted.ok()?;
            if !exchange(self, asking, held) {
                let back = |word: oarlock_layout::segment::Grant| {
                    let less = word.without(to);
                    Some(less.with(from).unwrap_or(less))
                };
                let _ = self.update(slot, back);
                self.rung.push_back(slot.0);
                return None;
            }
        }
        self.cells(place)[entry::TOLD].store(asking.generation() << 8, FIELD);
        self.wakes.push_back(Wake { area: place.0, entry: place.1 });
        // A way down is no new grant.
        let down = from.covers(to) && from != to;
        Some(if down { self.current(slot) } else { self.draw(slot, to) })
    }

    pub(super) fn drop_lock(&mut self, lock: LockId) -> Option<Entry> {
        if let Some(old) = self.kept.remove(lock) {
            self.uncount_own(old.slot, old.mode);
            if let Some(place) = self.entry_of(lock) {
                let own = self.cells(place);
                let now = state(&own[entry::STATE]);
                match now.stage() {
                    Some(Stage::Ending) => self.release_entry(place),
                    _ => own[entry::STATE].store(now.next(Stage::Refused, None, None).0, SHOW),
                }
            }
            return Some(old);
        }
        let place = self.entry_of(lock)?;
        let now = state(&self.cells(place)[entry::STATE]);
        let old = self.read(place, now)?;
        // The entry first, as in every way down. If the word went first, another could take the lock before a node that
        // dies in between is followed by one that counts both.
        if now.stage() == Some(Stage::Ending) {
            self.release_entry(place);
        } else {
            // Its program lets go of the entry when it hears of it: until then no other lock there has this number.
            let dropped = now.next(Stage::Refused, None, None);
            exchange_state(&self.cells(place)[entry::STATE], now, dropped).ok()?;
        }
        let _ = self.update(old.slot, |word| Some(word.without(old.mode)));
        Some(old)
    }

    /// An entry that the node is done with.
    pub(super) fn release_entry(&mut self, place: (u32, u32)) {
        let own = self.cells(place);
        let now = state(&own[entry::STATE]);
        let ending = now.stage() == Some(Stage::Ending);
        own[entry::STATE].store(now.freed().0, SHOW);
        if ending && let Some(area) = self.areas.get_mut(place.0) {
            area.ending = area.ending.saturating_sub(1);
            self.settle(place.0);
        }
    }

    /// Finishes releases that callers left to the node while it counted.
    pub(super) fn finish_handed(&mut self, slot: Slot) {
        for (place, state) in self.naming(slot) {
            if state.stage() != Some(Stage::Handed) {
                continue;
            }
            let lock = self.lock_of(place).expect("an area in use");
            if let Some(kept) = self.kept.remove(lock) {
                self.uncount_own(kept.slot, kept.mode);
            } else if let Some(mode) = state.mode() {
                let _ = self.update(slot, |word| Some(word.without(mode)));
            }
            self.cells(place)[entry::STATE].store(state.freed().0, SHOW);
        }
    }

    // ----- notices --------------------------------------------------------------------------------------

    pub(super) fn notify(&mut self, slot: Slot, wanted: Mode, but: Option<LockId>) -> Vec<Notice> {
        let place = self.place_mut(slot);
        let known = Mode::ALL.into_iter().any(|m| place.told & (1 << m as u8) != 0 && m.covers(wanted));
        let told_but = place.rare.as_ref().and_then(|rare| rare.told_but);
        if known || but.is_some_and(|but| told_but == Some((wanted, but))) {
            return Vec::new();
        }
        match but {
            None => place.told |= 1 << wanted as u8,
            Some(but) => place.rare().told_but = Some((wanted, but)),
        }
        let mut notices = Vec::new();
        self.kept.each_of_slot(slot, |entry| notices.extend(entry.notify(wanted, but)));
        // The gate is set; whoever commits after this look sees it and rings (M5).
        fence(At::Gate);
        for (place, state) in self.naming(slot) {
            notices.extend(self.notify_entry(place, state, wanted, but));
        }
        notices.sort_unstable_by_key(|notice| notice.lock);
        notices
    }

    /// Writes down in an entry that somebody wants something, and says so if it is news: the mark is what counts, the
    /// message only a hint to look.
    fn notify_entry(
        &self,
        place: (u32, u32),
        state: State,
        wanted: Mode,
        but: Option<LockId>,
    ) -> Option<Notice> {
        let mut entry = self.read(place, state)?;
        let notice = entry.notify(wanted, but)?;
        let mark = &self.cells(place)[entry::TOLD];
        let before = mark.load(LOOK);
        let after = state.generation() << 8 | u64::from(told(self.cells(place), state)) | 1 << wanted as u8;
        // Its program clears the mark when it converts: then it is told anew when the node hears of that.
        mark.compare_exchange(before, after, TAKE, LOOK).ok()?;
        Some(notice)
    }

    pub(super) fn set_lock_manner(&mut self, lock: LockId, flags: Flags) {
        let changed = |old: Flags| (old - MANNER) | (flags & MANNER);
        if let Some(entry) = self.kept.get_mut(lock) {
            entry.claim.flags = changed(entry.claim.flags);
        } else if let Some(place) = self.entry_of(lock) {
            let own = self.cells(place);
            let cell = own[entry::SLOT].load(FIELD);
            let bits = (cell >> 32) as u32;
            let new = changed(Flags::from_bits_truncate(bits)).bits() | bits & SLOW;
            own[entry::SLOT].store(cell & 0xffff_ffff | u64::from(new) << 32, FIELD);
        }
    }

    // ----- hand-over and refusal ------------------------------------------------------------------------

    pub(super) fn offer_to(&mut self, slot: Slot, waiter: Option<(LockId, Mode)>) {
        let new = waiter.and_then(|(lock, mode)| {
            let place = self.entry_of(lock)?;
            let state = state(&self.cells(place)[entry::STATE]);
            (state.stage() == Some(Stage::Waiting) && state.mode() == Some(mode))
                .then_some((lock, place, state))
        });
        let old = self.place(slot).offered();
        if old == new.map(|(lock, _, state)| (lock, state)) {
            return;
        }
        if let Some((lock, state)) = old
            && self.recall(lock, state).is_err()
            && self.was_taken(slot).is_some()
        {
            // First that one is told of.
            return;
        }
        let offer = match new {
            None => Offer::NONE,
            Some((_, place, state)) => {
                // The releaser grants it as it stands: it must be found from the slot before.
                let own = self.cells(place);
                let bits = u64::from(flags(own) | SLOW);
                own[entry::SLOT].store(u64::from(slot.0) | bits << 32, FIELD);
                own[entry::SLOT_GENERATION].store(self.place(slot).generation, FIELD);
                self.memory.slot(slot.0)[slot::USERS].fetch_or(1 << (place.0 % 64), TAKE);
                Offer::new(place.0, place.1, state)
            }
        };
        self.place_mut(slot).rare().offered = new.map(|(lock, _, state)| (lock, state));
        self.memory.tail(slot.0)[tail::OFFERED].store(offer.0, SHOW);
    }

    /// A releaser may have read the old offer and be about to follow it: the waiter moves on to its next generation, so
    /// that one's last exchange fails, and it takes back what it has counted.
    fn recall(&self, lock: LockId, state: State) -> Result<(), State> {
        let Some(place) = self.entry_of(lock) else { return Ok(()) };
        if planted(Bug::NoRecall) {
            return Ok(());
        }
        let moved = state.next(Stage::Waiting, state.mode(), None);
        exchange_state(&self.cells(place)[entry::STATE], state, moved)
    }

    /// The node itself has answered a waiter: whatever was offered to it is void.
    fn forget_offer(&mut self, slot: Slot, lock: LockId) {
        if self.place(slot).offered().is_some_and(|(offered, _)| offered == lock) {
            self.place_mut(slot).rare().offered = None;
            self.memory.tail(slot.0)[tail::OFFERED].store(Offer::NONE.0, SHOW);
        }
    }

    /// Has the offered waiter been granted by a releaser? It may have given the lock back since.
    pub(super) fn was_taken(&self, slot: Slot) -> Option<LockId> {
        let (lock, offered) = self.place(slot).offered()?;
        let now = state(&self.cells(self.entry_of(lock)?)[entry::STATE]);
        let waits = now.generation() == offered.generation()
            && matches!(now.stage(), Some(Stage::Waiting | Stage::Cancelled | Stage::Refused));
        (!waits).then_some(lock)
    }

    /// Has a releaser granted what this lock waited for, and nobody has told of it?
    fn handed_over(&self, place: (u32, u32), lock: LockId) -> bool {
        let (slot, _) = named(self.cells(place));
        let bound = self.places.get(slot as usize).is_some_and(Option::is_some);
        bound && self.was_taken(Slot(slot)) == Some(lock)
    }

    pub(super) fn refuse_lock(&mut self, lock: LockId) -> bool {
        let Some(place) = self.entry_of(lock) else { return true };
        for _ in 0..EXCHANGES_MAX {
            let now = state(&self.cells(place)[entry::STATE]);
            let to = match now.stage() {
                // What waits there by now is something else.
                Some(Stage::Waiting) if self.handed_over(place, lock) => return false,
                Some(Stage::Waiting) => now.to(Stage::Refused, now.mode(), None),
                Some(Stage::Asking) => now.to(Stage::Held, now.mode(), None),
                // Withdrawn by its program already, or never asked for.
                Some(Stage::Cancelled) | None => return true,
                Some(_) => return !self.handed_over(place, lock),
            };
            if exchange_state(&self.cells(place)[entry::STATE], now, to).is_ok() {
                let (slot, _) = named(self.cells(place));
                // One that asks for another mode was granted before, perhaps by a releaser of whom nobody has heard.
                let waited = now.stage() == Some(Stage::Waiting);
                if waited && self.places.get(slot as usize).is_some_and(Option::is_some) {
                    self.forget_offer(Slot(slot), lock);
                }
                self.wakes.push_back(Wake { area: place.0, entry: place.1 });
                return true;
            }
        }
        true
    }
}

/// What an entry was told since its last grant or change, a bit for each mode.
fn told(own: Own<'_>, state: State) -> u8 {
    let told = own[entry::TOLD].load(LOOK);
    if told >> 8 == state.generation() & (u64::MAX >> 8) { told as u8 } else { 0 }
}

fn join(bits: u8) -> Option<Mode> {
    Mode::ALL.into_iter().filter(|mode| bits >> *mode as u8 & 1 != 0).reduce(Mode::join)
}
