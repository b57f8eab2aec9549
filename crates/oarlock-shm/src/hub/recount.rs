//! What a death or the end of a session leaves, and how it is put right (M1, M12).
//!
//! An entry that was held says what it counted, and is taken away by one exchange. All others are ambiguous: whether
//! their exchange with the word came before or after the end, nobody can tell. So the words concerned are shut, in the
//! next turn, and their entries counted anew. A process that stood still meanwhile and goes on finds another turn in the
//! word or another state in its entry, and takes the slow way.

use std::collections::BTreeSet;

use oarlock_layout::id::{SessionId, Slot};
use oarlock_layout::mode::Mode;
use oarlock_layout::segment::geometry::{area, entry, header, slot, tail};
use oarlock_layout::segment::{Counts, Grant, Place as Seat, Stage, State, Tally, Wake, Words as _};

use super::locks::{EXCHANGES_MAX, named};
use super::{Hub, Place};
use std::sync::Arc;

use oarlock_layout::name::Name;

use crate::cells::{exchange_state, grant, state};
use crate::handover::Offer;
use crate::memory::Memory;
use crate::planted::{Bug, planted};
use crate::search;
use crate::sync::{FIELD, LOOK, Place as At, SHOW, fence};

impl Hub {
    // ----- sessions -------------------------------------------------------------------------------------

    pub(super) fn attach_session(&mut self, session: SessionId, segment: u8) -> Option<Seat> {
        let number = match self.areas.take(session, segment) {
            Some(number) => number,
            None => {
                self.reclaim();
                self.areas.take(session, segment)?
            }
        };
        self.sweep(number);
        let word = &self.memory.area(number)[area::SESSION];
        let session_word = word.load(FIELD).wrapping_add(1);
        word.store(session_word, SHOW);
        Some(Seat { area: number, session_word, epoch: self.memory[header::EPOCH].load(LOOK) })
    }

    /// Gives an area free if nothing of its last session is left.
    pub(super) fn settle(&mut self, number: u32) {
        if self.areas.settle(number) {
            self.sweep(number);
        }
    }

    /// What the program of an area's last session claimed after that had ended, it claims no more: it is certainly gone.
    /// It may have counted it, too, and not have come to give it back.
    fn sweep(&mut self, number: u32) {
        let mut unsure = BTreeSet::new();
        for entry in search::touched(&self.memory, number) {
            let own = self.cells((number, entry));
            let left = state(&own[entry::STATE]);
            if left.stage() != Some(Stage::Free) {
                unsure.insert(named(own).0);
                own[entry::STATE].store(left.freed().0, SHOW);
            }
        }
        self.recount(&unsure);
    }

    /// The node has dropped all that it found of a session before it buried it. What is left in such an area is what a
    /// foreign hand made of its entries meanwhile.
    fn reclaim(&mut self) {
        let Some((number, session)) = self.areas.lingering() else { return };
        // Not what is in the node's own table: what of that is left is there to stay.
        for lock in self.of_session(session).into_iter().filter(|lock| lock.entry().is_some()) {
            self.drop_lock(lock);
        }
        if let Some(area) = self.areas.get_mut(number) {
            area.ending = 0;
            self.settle(number);
        }
    }

    /// Ends a session: from here on nothing it does counts.
    pub(super) fn end_session(&mut self, session: SessionId) {
        let Some(number) = self.areas.number(session) else { return };
        let Some(area) = self.areas.get_mut(number).filter(|area| area.live) else { return };
        area.live = false;
        let word = &self.memory.area(number)[area::SESSION];
        word.store(word.load(FIELD).wrapping_add(1), SHOW);
        fence(At::Turn);
        let ambiguous = self.end_entries(number);
        self.recount(&ambiguous);
        self.settle(number);
    }

    /// Takes every entry of an area from its program. The slots whose words may count what no entry says.
    fn end_entries(&mut self, number: u32) -> BTreeSet<u32> {
        let mut ambiguous = BTreeSet::new();
        let mut ending = 0;
        let entries: Vec<u32> = search::touched(&self.memory, number).collect();
        for entry in entries {
            let place = (number, entry);
            for _ in 0..EXCHANGES_MAX {
                let now = state(&self.cells(place)[entry::STATE]);
                if now.stage() == Some(Stage::Free) {
                    break;
                }
                let (to, unsure) = ended(now);
                let (slot, _) = named(self.cells(place));
                if exchange_state(&self.cells(place)[entry::STATE], now, to).is_err() {
                    continue;
                }
                ending += u32::from(to.stage() == Some(Stage::Ending));
                if unsure && !planted(Bug::EndKeepsTurn) {
                    ambiguous.insert(slot);
                }
                self.ended_on(place, slot, now);
                break;
            }
        }
        self.areas.get_mut(number).expect("an area in use").ending = ending;
        ambiguous
    }

    /// What the end of one entry means for its slot.
    fn ended_on(&mut self, place: (u32, u32), slot: u32, was: State) {
        if self.places.get(slot as usize).is_none_or(Option::is_none) {
            return;
        }
        let number = Slot(slot);
        let lock = self.lock_of(place);
        if self.place(number).offered().is_some_and(|(offered, _)| Some(offered) == lock) {
            self.place_mut(number).rare().offered = None;
            self.memory.tail(slot)[tail::OFFERED].store(Offer::NONE.0, SHOW);
        }
        // A writer that died on its way out wrote what nobody has taken over yet (M6, 35).
        if was.stage() == Some(Stage::Lowering) && was.mode().is_some_and(Mode::writes_value) {
            self.spoilt.insert(slot);
        }
    }

    /// Marks the block of a writer that died, while the slot is shut. Not if somebody can write it: he was granted it after
    /// that one's last word, which was whole.
    fn spoil(&mut self, slot: Slot, counts: &Counts) {
        let writer = |mode: Mode| mode.writes_value() && counts.of(mode) > 0;
        if self.spoilt.remove(&slot.0) && !Mode::ALL.into_iter().any(writer) {
            let value = self.memory.read_block_or_spoilt(slot.0);
            self.memory.write_block(slot.0, &value.invalidated());
        }
    }

    // ----- counting anew --------------------------------------------------------------------------------

    /// Counts what is held on these slots.
    pub(super) fn recount(&mut self, slots: &BTreeSet<u32>) {
        let bound = |slot: &&u32| self.places.get(**slot as usize).is_some_and(Option::is_some);
        let slots: Vec<Slot> = slots.iter().filter(bound).map(|slot| Slot(*slot)).collect();
        // First all are shut, then entries are looked at: an exchange that came before is seen in them, and none comes
        // after.
        for slot in &slots {
            self.shut(*slot);
        }
        for slot in &slots {
            let counts = self.count_entries(*slot);
            self.spoil(*slot, &counts);
            self.publish(*slot, counts);
        }
    }

    fn shut(&mut self, slot: Slot) {
        let place = self.place_mut(slot);
        if !planted(Bug::KeepTurn) {
            place.turn = place.turn.wrapping_add(1);
        }
        let turn = place.turn;
        let gate_only = planted(Bug::NoShut);
        let shut = |word: Grant| {
            let next = word.shut_for(turn);
            Some(if gate_only { next.reopened().with_gate(true) } else { next })
        };
        let _ = self.update(slot, shut);
    }

    fn publish(&mut self, slot: Slot, mut counts: Counts) {
        for mode in Mode::ALL {
            counts.0[mode as usize] += u32::from(self.place(slot).kept(mode) > 0);
        }
        let cell = &self.memory.slot(slot.0)[slot::WORD];
        let word = self.place(slot).own(grant(cell)).with_counts(counts);
        cell.store(word.0, SHOW);
        self.rung.push_back(slot.0);
    }

    /// One pass over the entries that name a slot: each is brought to rest and counted by what its owner may act under.
    fn count_entries(&mut self, slot: Slot) -> Counts {
        let mut counts = Counts::default();
        let generation = self.place(slot).generation;
        for place in self.reach(slot) {
            for _ in 0..EXCHANGES_MAX {
                let own = self.cells(place);
                let now = state(&own[entry::STATE]);
                let (number, named) = named(own);
                if now.stage() == Some(Stage::Free) || number != slot.0 {
                    break;
                }
                let to = if named == generation { rested(now) } else { strange(now) };
                let restamps = self.restamps(now);
                let to = if restamps { now.next(Stage::Waiting, now.mode(), None) } else { to };
                if to != now && exchange_state(&self.cells(place)[entry::STATE], now, to).is_err() {
                    continue;
                }
                if restamps {
                    self.offer_anew(slot, place, now, to);
                    // Whoever granted it may have died before it woke it.
                    self.wakes.push_back(Wake { area: place.0, entry: place.1 });
                }
                self.uncount_handed(place, now);
                if named == generation {
                    counts = counted(counts, now, to);
                }
                break;
            }
        }
        counts
    }

    /// A lock in the node's own table whose release was left to the node.
    fn uncount_handed(&mut self, place: (u32, u32), was: State) {
        if was.stage() == Some(Stage::Handed)
            && let Some(lock) = self.lock_of(place)
            && let Some(kept) = self.kept.remove(lock)
        {
            let left = &mut self.place_mut(kept.slot).rare().kept[kept.mode as usize];
            *left = left.saturating_sub(1);
        }
    }

    /// Is this a waiter to whom a releaser may be handing over at this moment? The count is made without either, so that
    /// releaser's exchange must fail. It may mean a waiter that is no longer offered: every one that waits is meant.
    fn restamps(&self, now: State) -> bool {
        now.stage() == Some(Stage::Waiting) && !planted(Bug::NoRestamp)
    }

    fn offer_anew(&mut self, slot: Slot, place: (u32, u32), was: State, state: State) {
        let lock = self.lock_of(place).expect("an area in use");
        // Another state: that lock was handed over, and what waits here now is a later one.
        if self.place(slot).offered() != Some((lock, was)) {
            return;
        }
        self.place_mut(slot).rare().offered = Some((lock, state));
        let offer = Offer::new(place.0, place.1, state);
        self.memory.tail(slot.0)[tail::OFFERED].store(offer.0, SHOW);
    }

    // ----- taking over ----------------------------------------------------------------------------------

    /// The hub of a segment that another run of the node left, perhaps in the middle of a recount. `alive`: which session
    /// has which area; all other areas are those of ended sessions, whose locks [`Words::of_session`] lists by the
    /// number that `dead` gives to their area.
    ///
    /// What stood in the old node's own table and nowhere else is gone: owned modes and gates are taken as the words say.
    ///
    /// [`Words::of_session`]: oarlock_layout::segment::Words::of_session
    pub fn adopt(
        memory: Arc<Memory>,
        alive: &[(u32, SessionId, u8)],
        dead: impl Fn(u32) -> SessionId,
        name_of: impl Fn(u32) -> Option<Name>,
    ) -> Hub {
        let mut hub = Hub::new(memory);
        hub.directory = super::directory::Directory::adopt(&hub.memory);
        hub.adopt_slots(name_of);
        // What the other run had begun with a word and not yet with its entry leaves no trace: all are counted anew.
        let all: BTreeSet<u32> = (0..hub.places.len() as u32).collect();
        let mut ended = Vec::new();
        for number in 0..hub.memory.geometry().areas {
            let used = hub.memory.area(number)[area::SESSION].load(LOOK) != 0;
            let live = alive.iter().find(|(area, ..)| *area == number);
            if !used {
                continue;
            }
            let (session, segment) =
                live.map_or((dead(number), 0), |(_, session, segment)| (*session, *segment));
            hub.areas.adopt(number, session, segment);
            if live.is_none() {
                ended.push(session);
            }
        }
        // Not before every area is known: the end of a session counts anew, and must miss no holder.
        for session in ended {
            hub.end_session(session);
        }
        hub.recount(&all);
        hub
    }

    fn adopt_slots(&mut self, name_of: impl Fn(u32) -> Option<Name>) {
        for number in 0..self.memory.geometry().slots {
            let line = self.memory.slot(number);
            let generation = line[slot::GENERATION].load(LOOK);
            if generation == 0 {
                break;
            }
            self.places.push(None);
            let Some(name) = (generation & 1 == 1).then(|| name_of(number)).flatten() else {
                self.free.push(number);
                continue;
            };
            let word = grant(&line[slot::WORD]);
            let fence =
                oarlock_layout::token::Fence::from_number(self.memory.tail(number)[tail::FENCE].load(LOOK));
            let value_ready = line[slot::TAG].load(LOOK) & crate::names::VALUE_READY != 0;
            self.places[number as usize] = Some(Place {
                name,
                generation,
                fence,
                turn: word.turn(),
                owned: word.owned(),
                gate: word.gate(),
                keep: word.keep(),
                told: 0,
                value_ready,
                granule: None,
                rare: None,
            });
            self.index(number);
        }
    }

    // ----- sums -----------------------------------------------------------------------------------------

    pub(super) fn sums(&self) -> Tally {
        let mut sums = Tally { attached: self.areas.live(), ..Tally::default() };
        for number in 0..self.areas.ever() {
            for entry in search::touched(&self.memory, number) {
                let own = self.cells((number, entry));
                let count = |cell: usize| own[cell].load(FIELD);
                sums.grants = sums.grants.wrapping_add(count(entry::GRANTS));
                sums.considered = sums.considered.wrapping_add(count(entry::CONSIDERED));
                sums.handed_over = sums.handed_over.wrapping_add(count(entry::HANDED_OVER));
            }
        }
        sums
    }
}

/// What an entry becomes when its session ends, and whether its word may say something else.
fn ended(now: State) -> (State, bool) {
    let ending = |mode| now.to(Stage::Ending, mode, None);
    match now.stage() {
        Some(Stage::Held | Stage::Kept | Stage::Asking | Stage::Ending) => (ending(now.mode()), false),
        Some(Stage::Raising) => (ending(now.mode()), true),
        Some(Stage::Lowering) if now.target().is_some() => (ending(now.target()), true),
        Some(Stage::Waiting | Stage::Refused | Stage::Cancelled | Stage::Revoked | Stage::Finished) => {
            (now.freed(), false)
        }
        _ => (now.freed(), true),
    }
}

/// What an entry becomes in a recount.
fn rested(now: State) -> State {
    match now.stage() {
        Some(Stage::Trying) => now.next(Stage::Revoked, now.mode(), None),
        Some(Stage::Raising) => now.to(Stage::Held, now.mode(), None),
        Some(Stage::Lowering) if now.target().is_some() => now.to(Stage::Held, now.target(), None),
        // Its owner comes by and lets it go: another thread of that program must not find it free before.
        Some(Stage::Lowering) => now.to(Stage::Finished, None, None),
        Some(Stage::Handed) | None => now.freed(),
        _ => now,
    }
}

/// The same for one that names an earlier resource in this slot: it claims nothing.
fn strange(now: State) -> State {
    match now.stage() {
        Some(Stage::Trying | Stage::Held | Stage::Raising) => now.next(Stage::Revoked, now.mode(), None),
        _ => now,
    }
}

fn counted(counts: Counts, was: State, now: State) -> Counts {
    let mode = match was.stage() {
        Some(Stage::Lowering) if planted(Bug::CountByOldMode) => was.mode(),
        Some(Stage::Raising) if planted(Bug::CountByOldMode) => was.target(),
        _ => match now.stage() {
            Some(Stage::Held | Stage::Asking | Stage::Ending) => now.mode(),
            _ => None,
        },
    };
    mode.map_or(counts, |mode| counts.with(mode))
}
