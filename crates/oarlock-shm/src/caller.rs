//! The caller's side: one session's locks in one segment (M1).
//!
//! ```text
//!             acquire                          release
//!   Free ──► Trying ──► word + m ──► Held ──► Lowering ──► word - m ──► Free
//!              │  ▲                   │ ▲         └─ shut ──► Handed (the node does the rest)
//!       conflict │ Revoked             │ │ raise, lower
//!              ▼  │                   ▼ │
//!            Waiting ──────────────► Asking            (the node, or a releaser, answers)
//! ```
//!
//! The rule behind every order: an entry never claims more than the word grants. Up: the word first, then the entry.
//! Down: the entry first, then the word. So a death between any two instructions leaves a count that is too high, never
//! one that is too low, and the node can put it right.
//!
//! Nothing here waits for anybody, allocates, or calls the kernel. The clock is looked at once for each grant, after
//! the commit (L1).

use std::sync::Arc;

use oarlock_layout::flags::Flags;
use oarlock_layout::mode::Mode;
use oarlock_layout::segment::geometry::{area, entry, header, slot, tail};
use oarlock_layout::segment::{Grant, Place, Stage, State};
use oarlock_layout::token::{Fence, Token};

use crate::cells::{Own, exchange_grant, exchange_state, grant, state};
use crate::handover::Passed;
use crate::memory::{Line, Memory};
use crate::names::{Spot, VALUE_READY};
use crate::outcome::{Answer, Gone, Hold, How, Loss, Missed, Party, Taken, Ticket};
use crate::planted::{Bug, planted};
use crate::search::{self, First};
use crate::sync::{AtomicU64, FIELD, LOOK, Place as At, SHOW, TAKE, fence_after_exchange};

mod frozen;

/// CLOCK_MONOTONIC_COARSE, in nanoseconds.
pub trait Clock {
    /// Now, within a tick of the kernel.
    fn coarse(&self) -> u64;
}

/// One session's access to one segment. Threads may share it.
pub struct Caller<C> {
    memory: Arc<Memory>,
    place: Place,
    /// Where the session's area begins.
    area_line: usize,
    /// Its bit in a slot's users.
    users: u64,
    clock: C,
    /// Until then it yields to nobody, in nanoseconds of the clock.
    #[cfg(not(any(loom, shuttle)))]
    stays_until: AtomicU64,
}

/// A yield that took longer went to a stranger.
#[cfg(not(any(loom, shuttle)))]
const LATE: std::time::Duration = std::time::Duration::from_micros(200);
/// How long nobody is yielded to then, in nanoseconds.
#[cfg(not(any(loom, shuttle)))]
const STAY: u64 = 1_000_000_000;

/// What a grant looks at again after its commit. Found before the first exchange: each one empties the processor, and to
/// find a cell only then would cost as much as the exchange itself.
#[derive(Clone, Copy)]
struct Vital<'a> {
    /// The line of the header that has the epoch and the lease.
    header: &'a Line,
    session: &'a AtomicU64,
}

impl<C: Clock> Caller<C> {
    /// What the node has assigned to a session.
    pub fn new(memory: Arc<Memory>, place: Place, clock: C) -> Caller<C> {
        let area_line = memory.area_line(place.area);
        Caller {
            memory,
            place,
            area_line,
            users: 1 << (place.area % 64),
            clock,
            #[cfg(not(any(loom, shuttle)))]
            stays_until: AtomicU64::new(0),
        }
    }

    /// The segment.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// The slot of a name, if callers can find it.
    #[inline]
    pub fn find(&self, name: &[u8]) -> Option<Spot> {
        self.memory.find(name)
    }

    /// Can anything that is held here still be believed?
    #[inline]
    pub fn living(&self) -> Result<(), Loss> {
        self.living_at(self.vital(), self.clock.coarse())
    }

    #[inline(always)]
    fn vital(&self) -> Vital<'_> {
        let header = self.memory.line(header::EPOCH / 8);
        Vital { header, session: &self.memory.line(self.area_line)[area::SESSION] }
    }

    /// Up to when that is so, as it stands now, in nanoseconds of its clock.
    pub fn lease_until(&self) -> u64 {
        self.vital().header[header::LEASE_UNTIL % 8].load(LOOK)
    }

    /// Can anything new be granted?
    #[inline(always)]
    fn grants_at(&self, vital: Vital<'_>, now: u64) -> Result<(), How> {
        if vital.header[header::EPOCH % 8].load(LOOK) != self.place.epoch {
            return Err(How::Lost(Loss::Epoch));
        }
        if vital.session.load(LOOK) != self.place.session_word {
            return Err(How::Lost(Loss::Session));
        }
        let until = if planted(Bug::NoFreeze) { header::LEASE_UNTIL } else { header::GRANT_UNTIL };
        if now >= vital.header[until % 8].load(LOOK) && !planted(Bug::NoLease) {
            return Err(self.at_risk(vital, now));
        }
        Ok(())
    }

    #[inline(always)]
    fn living_at(&self, vital: Vital<'_>, now: u64) -> Result<(), Loss> {
        if vital.header[header::EPOCH % 8].load(LOOK) != self.place.epoch {
            return Err(Loss::Epoch);
        }
        if vital.session.load(LOOK) != self.place.session_word {
            return Err(Loss::Session);
        }
        if now >= vital.header[header::LEASE_UNTIL % 8].load(LOOK) && !planted(Bug::NoLease) {
            return Err(Loss::Lease);
        }
        Ok(())
    }

    // ----- acquire --------------------------------------------------------------------------------------

    /// Takes a lock. `wait`: if it cannot be had at once, the entry is left waiting and the node is to be asked.
    /// `first` is the entry to try first.
    #[inline(always)]
    pub fn acquire(&self, spot: Spot, mode: Mode, party: &Party, wait: bool, first: First) -> Taken {
        match self.attempt(spot, mode, party, wait, first) {
            Ok((hold, knock)) => Taken::Held { hold, knock },
            Err(Missed { how: How::Frozen, .. }) if wait => self.wait_for_renewal(spot, mode, party, first),
            Err(missed) => self.missed(missed, mode, wait),
        }
    }

    /// The first part of [`acquire`](Caller::acquire): the lock, and whether to knock at the node; or what
    /// [`missed`](Caller::missed) makes an answer of.
    ///
    /// Apart, because an outcome that a function writes into memory is read back from there in other pieces than it was
    /// written in, and that costs as much as an exchange.
    #[inline(always)]
    pub fn attempt(
        &self,
        spot: Spot,
        mode: Mode,
        party: &Party,
        wait: bool,
        first: First,
    ) -> Result<(Hold, bool), Missed> {
        let line = self.memory.slot(spot.slot);
        let vital = self.vital();
        let Some((own, number, trying)) = self.claim(spot, mode, party, first) else {
            return Err(Missed { entry: 0, state: State(0), how: How::NoRoom });
        };
        let missed = |how| Err(Missed { entry: number, state: trying, how });
        let word = &line[slot::WORD];
        let values = party.flags.contains(Flags::VALBLK);
        loop {
            let now = grant(word);
            if line[slot::USERS].load(LOOK) & self.users == 0 {
                line[slot::USERS].fetch_or(self.users, TAKE);
                continue;
            }
            if state(&own[entry::STATE]) != trying && !planted(Bug::NoCheckAfterLoad) {
                return missed(How::TurnedDown);
            }
            if line[slot::GENERATION].load(LOOK) != spot.generation && !planted(Bug::NoSlotGeneration) {
                self.free(own, trying);
                return missed(How::Moved);
            }
            if vital.session.load(LOOK) != self.place.session_word {
                self.free(own, trying);
                return missed(How::Lost(Loss::Session));
            }
            let readable = !values
                || (line[slot::TAG].load(LOOK) & VALUE_READY != 0 && now.owned().is_some_and(readable_under));
            if !now.open_to(mode) || !now.covers(mode) || !readable {
                if !wait {
                    self.free(own, trying);
                    let covered = now.covers(mode) && readable;
                    return missed(if covered { How::Busy } else { How::NotOwned });
                }
                // Who finds somebody in the way sets the gate in the word that it judged: its place counts from here.
                let gate = now.gate() || now.shut() || planted(Bug::NoGateByFinder);
                if !gate && exchange_grant(word, now, now.with_gate(true)).is_err() {
                    continue;
                }
                return missed(How::Waits);
            }
            let Ok(then) = now.with(mode) else {
                self.free(own, trying);
                return missed(How::NoRoom);
            };
            if planted(Bug::TokenBeforeCommit) {
                let local = &self.memory.tail(spot.slot)[tail::LOCAL];
                local.store(local.load(FIELD) + 1, FIELD);
            }
            if exchange_grant(word, now, then).is_ok() {
                break;
            }
        }
        let held = trying.at(Stage::Held);
        if planted(Bug::CommitByStore) {
            own[entry::STATE].store(held.0, SHOW);
        } else if exchange_state(&own[entry::STATE], trying, held).is_err() {
            // The node has taken the attempt back and left it out of its count: the word is not ours to touch.
            return missed(How::TurnedDown);
        }
        match self.committed(own, line, vital, spot, mode, number, held) {
            Ok(knock) => Ok((Hold { entry: number, mode, spot, state: held }, knock)),
            Err(how) => missed(how),
        }
    }

    /// What an attempt comes to that did not get the lock.
    #[cold]
    pub fn missed(&self, missed: Missed, mode: Mode, wait: bool) -> Taken {
        let Missed { entry, state, how } = missed;
        let own = self.memory.own(self.area_line, entry);
        match how {
            How::TurnedDown => self.turned_down(own, entry, state, mode, wait),
            How::Waits => self.wait(own, entry, state, mode),
            How::Busy => Taken::Busy,
            How::NotOwned | How::Frozen => Taken::NotOwned,
            How::Moved => Taken::Moved,
            How::NoRoom => Taken::NoRoom,
            How::Lost(loss) => Taken::Lost(loss),
        }
    }

    /// The looks that come after a commit: what was granted counts only if nothing has ended meanwhile. True: knock.
    #[expect(clippy::too_many_arguments, reason = "a hold that is passed as one may end up in memory")]
    #[inline(always)]
    fn committed(
        &self,
        own: Own<'_>,
        line: &Line,
        vital: Vital<'_>,
        spot: Spot,
        mode: Mode,
        number: u32,
        held: State,
    ) -> Result<bool, How> {
        fence_after_exchange(At::Commit);
        let now = self.clock.coarse();
        if let Err(how) = self.grants_at(vital, now) {
            self.give_back(number, mode, spot, held);
            return Err(how);
        }
        if line[slot::GENERATION].load(LOOK) != spot.generation && !planted(Bug::NoSlotGeneration) {
            self.give_back(number, mode, spot, held);
            return Err(How::Moved);
        }
        set(&own[entry::SINCE], now);
        add_one(&own[entry::GRANTS]);
        // Whoever came between the word and the commit has been told nothing yet (M5).
        Ok(grant(&line[slot::WORD]).gate() && !planted(Bug::NoGateReread) && self.memory.ring(spot.slot))
    }

    #[cold]
    #[inline(always)]
    fn give_back(&self, entry: u32, mode: Mode, spot: Spot, state: State) {
        let _ = self.release_apart(Hold { entry, mode, spot, state });
    }

    /// Asks the node for a lock on a resource that has no slot yet: an entry that waits.
    pub fn ask(&self, mode: Mode, party: &Party, first: First) -> Taken {
        let spot = Spot { slot: u32::MAX, generation: 0 };
        let Some((own, number, trying)) = self.claim(spot, mode, party, first) else { return Taken::NoRoom };
        // Nobody would answer.
        if self.vital().session.load(LOOK) != self.place.session_word {
            self.free(own, trying);
            return Taken::Lost(Loss::Session);
        }
        self.wait(own, number, trying, mode)
    }

    /// Takes an entry and writes down what it is about.
    #[inline(always)]
    fn claim(&self, spot: Spot, mode: Mode, party: &Party, first: First) -> Option<(Own<'_>, u32, State)> {
        // The entry of this thread is nearly always free, and hot.
        if let Some(number) = first.own() {
            let own = self.memory.own(self.area_line, number);
            let free = state(&own[entry::STATE]);
            if free.stage() == Some(Stage::Free) {
                // A free entry changes by nobody but who takes it, and that is this thread alone. Whoever sees the word
                // that counts this attempt sees this store.
                // Its page counts as used without a note.
                let trying = free.to(Stage::Trying, Some(mode), None);
                own[entry::STATE].store(trying.0, SHOW);
                describe(own, spot, party);
                return Some((own, number, trying));
            }
        }
        self.claim_another(spot, mode, party, first)
    }

    #[cold]
    fn claim_another(
        &self,
        spot: Spot,
        mode: Mode,
        party: &Party,
        first: First,
    ) -> Option<(Own<'_>, u32, State)> {
        search::reach(self.memory.geometry(), spot.slot, first).find_map(|number| {
            let own = self.memory.own(self.area_line, number);
            self.try_claim(own, number, spot, mode, party).map(|trying| (own, number, trying))
        })
    }

    #[inline(always)]
    fn try_claim(&self, own: Own<'_>, number: u32, spot: Spot, mode: Mode, party: &Party) -> Option<State> {
        let free = state(&own[entry::STATE]);
        if free.stage() != Some(Stage::Free) {
            return None;
        }
        let trying = free.to(Stage::Trying, Some(mode), None);
        search::touch(&self.memory, self.place.area, number);
        exchange_state(&own[entry::STATE], free, trying).ok()?;
        describe(own, spot, party);
        Some(trying)
    }

    /// The attempt was taken back by the node.
    #[cold]
    fn turned_down(&self, own: Own<'_>, number: u32, trying: State, mode: Mode, wait: bool) -> Taken {
        let revoked = state(&own[entry::STATE]);
        if revoked.stage() != Some(Stage::Revoked) || revoked.generation() != trying.next_generation() {
            return Taken::Lost(Loss::Session);
        }
        // An attempt of an ended session must not end up waiting for an answer that nobody gives.
        if self.vital().session.load(LOOK) != self.place.session_word {
            self.free(own, revoked);
            return Taken::Lost(Loss::Session);
        }
        if wait {
            self.wait(own, number, revoked, mode)
        } else {
            self.free(own, revoked);
            Taken::Busy
        }
    }

    /// From trying or revoked to waiting.
    fn wait(&self, own: Own<'_>, number: u32, mut from: State, mode: Mode) -> Taken {
        loop {
            let waiting = from.to(Stage::Waiting, Some(mode), None);
            match exchange_state(&own[entry::STATE], from, waiting) {
                Ok(()) => return Taken::Wait(Ticket { entry: number, state: waiting }),
                Err(now) if now.stage() == Some(Stage::Revoked) && from.stage() == Some(Stage::Trying) => {
                    from = now
                }
                Err(_) => return Taken::Lost(Loss::Session),
            }
        }
    }

    /// Gives an entry back that claims nothing. If the node was quicker, so be it.
    fn free(&self, own: Own<'_>, from: State) {
        let mut from = from;
        while let Err(now) = exchange_state(&own[entry::STATE], from, from.freed()) {
            if now.stage() != Some(Stage::Revoked) || from.stage() == Some(Stage::Revoked) {
                return;
            }
            from = now;
        }
    }

    // ----- release and down -----------------------------------------------------------------------------

    /// [`release`](Caller::release) as a call, for places where it would be too much. It is told the parts of the hold one
    /// by one: a hold whose address is taken lies in memory, and to read back there what was just written in pieces costs as
    /// much as an exchange.
    #[inline(always)]
    pub fn release_apart(&self, hold: Hold) -> Result<bool, Gone> {
        let Hold { entry, mode, spot: Spot { slot, generation }, state } = hold;
        self.release_parts(entry, mode, slot, generation, state)
    }

    #[inline(never)]
    fn release_parts(
        &self,
        entry: u32,
        mode: Mode,
        slot: u32,
        generation: u64,
        state: State,
    ) -> Result<bool, Gone> {
        self.release(Hold { entry, mode, spot: Spot { slot, generation }, state })
    }

    /// Gives a lock back. True: knock at the node.
    #[inline(always)]
    pub fn release(&self, hold: Hold) -> Result<bool, Gone> {
        let own = self.memory.own(self.area_line, hold.entry);
        let word = &self.memory.slot(hold.spot.slot)[slot::WORD];
        let lowering = hold.state.at(Stage::Lowering);
        // Seen before the entry says that the lock goes down: if it is the same afterwards, nobody has settled the entry
        // in between, since that turns the word.
        let mut now = grant(word);
        if exchange_state(&own[entry::STATE], hold.state, lowering).is_err() {
            return self.release_kept(own, hold.spot.slot, hold.state);
        }
        if !now.gate() && !now.shut() {
            let less = now.without(hold.mode);
            if exchange_grant(word, now, less).is_ok() {
                return Ok(self.lowered(own, hold.spot.slot, hold.mode, now, less, lowering));
            }
            now = grant(word);
            if state(&own[entry::STATE]) != lowering {
                return Ok(self.finished(own));
            }
        }
        Ok(self.release_slowly(own, hold.spot.slot, hold.mode, now, lowering))
    }

    /// The word has been exchanged. True: knock.
    #[inline(always)]
    fn lowered(
        &self,
        own: Own<'_>,
        slot: u32,
        mode: Mode,
        before: Grant,
        after: Grant,
        lowering: State,
    ) -> bool {
        // The entry names the slot until after the bell, so that a death in between is seen.
        let knock = self.considered(own, slot, mode, before, after);
        // Whatever the node made of it meanwhile, nobody else lets this entry go while its program lives.
        own[entry::STATE].store(lowering.freed().0, SHOW);
        knock
    }

    /// Gives back what somebody waits for, or what others take and give back just now. `now`: the word as it was last.
    #[cold]
    #[inline(never)]
    fn release_slowly(&self, own: Own<'_>, slot: u32, mode: Mode, mut now: Grant, lowering: State) -> bool {
        let word = &self.memory.slot(slot)[slot::WORD];
        let mut from = mode;
        let mut waiter = None;
        let (before, after) = loop {
            if now.shut() && !planted(Bug::NoShut) {
                return self.hand_to_the_node(own, slot, lowering);
            }
            let less = now.without(from);
            let passed = if now.gate() { self.memory.pass_on(slot, word, now, less) } else { None };
            match passed {
                Some(Passed::Over(after, to)) => {
                    add_one(&own[entry::HANDED_OVER]);
                    waiter = Some(to);
                    break (now, after);
                }
                // The word counts the waiter's mode, and the waiter has gone: that is what is given back now.
                Some(Passed::Nowhere(mode)) => from = mode,
                Some(Passed::Retry) => {}
                None if exchange_grant(word, now, less).is_ok() => break (now, less),
                None => {}
            }
            now = grant(word);
            if state(&own[entry::STATE]) != lowering {
                return self.finished(own);
            }
        };
        let knock = self.lowered(own, slot, from, before, after, lowering);
        // After the bell: the waiter finds that it has been rung, and need not knock before it goes on.
        #[cfg(not(any(loom, shuttle)))]
        if let Some((area, number)) = waiter {
            self.wake_waiter(area, number);
        }
        #[cfg(any(loom, shuttle))]
        let _ = waiter;
        knock
    }

    /// Counts that need fell (C15), and rings if somebody waits or what is not needed shall not be kept.
    #[inline(always)]
    fn considered(&self, own: Own<'_>, slot: u32, mode: Mode, before: Grant, after: Grant) -> bool {
        let falls = before.need_falls(mode, after);
        if falls {
            add_one(&own[entry::CONSIDERED]);
        }
        (before.gate() || (falls && !before.keep())) && self.memory.ring(slot)
    }

    /// Wakes the next holder, and makes room for it unless that has cost a scheduler's slice lately: somebody else wants this
    /// processor then, and the node is to be knocked at.
    #[cfg(not(any(loom, shuttle)))]
    #[cold]
    fn wake_waiter(&self, area: u32, number: u32) {
        let now = self.clock.coarse();
        let yields = now >= self.stays_until.load(FIELD);
        if self.memory.wake_waiter(area, number, yields) > LATE {
            self.stays_until.store(now.saturating_add(STAY), FIELD);
        }
    }

    /// A lock that the node keeps in its own table is given back by the node.
    #[cold]
    fn release_kept(&self, own: Own<'_>, slot: u32, held: State) -> Result<bool, Gone> {
        let kept = state(&own[entry::STATE]);
        if kept.stage() != Some(Stage::Kept) || kept.generation() != held.generation() {
            return Err(Gone);
        }
        let handed = kept.to(Stage::Handed, kept.mode(), None);
        exchange_state(&own[entry::STATE], kept, handed).map_err(|_| Gone)?;
        Ok(self.memory.ring(slot))
    }

    /// Leaves a release to the node, which is counting.
    #[cold]
    fn hand_to_the_node(&self, own: Own<'_>, slot: u32, lowering: State) -> bool {
        let handed = lowering.to(Stage::Handed, lowering.mode(), None);
        match exchange_state(&own[entry::STATE], lowering, handed) {
            Ok(()) => self.memory.ring(slot),
            Err(_) => self.finished(own),
        }
    }

    /// The node has finished a release.
    #[cold]
    fn finished(&self, own: Own<'_>) -> bool {
        let now = state(&own[entry::STATE]);
        if now.stage() == Some(Stage::Finished) {
            let _ = exchange_state(&own[entry::STATE], now, now.freed());
        }
        false
    }

    /// Takes a weaker mode that the one held covers. `Busy`: the node must be asked.
    pub fn lower(&self, hold: Hold, to: Mode) -> Taken {
        debug_assert!(hold.mode.covers(to));
        let own = self.memory.own(self.area_line, hold.entry);
        let from = hold.mode;
        let lowering = hold.state.to(Stage::Lowering, Some(from), Some(to));
        if exchange_state(&own[entry::STATE], hold.state, lowering).is_err() {
            return self.not_by_itself(own, hold);
        }
        let told = untell(own, lowering);
        let held = lowering.to(Stage::Held, Some(to), None);
        let word = &self.memory.slot(hold.spot.slot)[slot::WORD];
        loop {
            let now = grant(word);
            if state(&own[entry::STATE]) != lowering {
                break;
            }
            let then = now.without(from).with(to);
            let (false, Ok(then)) = (now.shut() && !planted(Bug::NoShut), then) else {
                own[entry::TOLD].fetch_or(told, TAKE);
                if exchange_state(&own[entry::STATE], lowering, hold.state).is_err() {
                    break;
                }
                return Taken::Busy;
            };
            if exchange_grant(word, now, then).is_ok() {
                let knock = self.considered(own, hold.spot.slot, from, now, then);
                add_one(&own[entry::GRANTS]);
                let _ = exchange_state(&own[entry::STATE], lowering, held);
                return Taken::Held { hold: Hold { mode: to, state: held, ..hold }, knock };
            }
        }
        // The node has finished it, or the session.
        match state(&own[entry::STATE]) {
            now if now == held => Taken::Held { hold: Hold { mode: to, state: held, ..hold }, knock: false },
            _ => Taken::Lost(Loss::Session),
        }
    }

    /// Why a held entry does not change by exchange: the node keeps the lock in its own table, or it is gone.
    #[cold]
    fn not_by_itself(&self, own: Own<'_>, hold: Hold) -> Taken {
        let now = state(&own[entry::STATE]);
        let kept = now.stage() == Some(Stage::Kept) && now.generation() == hold.state.generation();
        if kept { Taken::Busy } else { Taken::Lost(Loss::Session) }
    }

    // ----- up -------------------------------------------------------------------------------------------

    /// Takes a stronger mode, if it stands alone and is owned. `Busy` or `NotOwned`: the node must be asked.
    pub fn raise(&self, hold: Hold, to: Mode) -> Taken {
        debug_assert!(to.covers(hold.mode));
        let own = self.memory.own(self.area_line, hold.entry);
        let from = hold.mode;
        let raising = hold.state.to(Stage::Raising, Some(from), Some(to));
        if exchange_state(&own[entry::STATE], hold.state, raising).is_err() {
            return self.not_by_itself(own, hold);
        }
        let told = untell(own, raising);
        let line = self.memory.slot(hold.spot.slot);
        let word = &line[slot::WORD];
        loop {
            let now = grant(word);
            let less = now.without(from);
            let blocked = !less.open_to(to);
            if state(&own[entry::STATE]) != raising {
                break;
            }
            let then = less.with(to);
            if blocked || !now.covers(to) || then.is_err() {
                own[entry::TOLD].fetch_or(told, TAKE);
                if exchange_state(&own[entry::STATE], raising, hold.state).is_err() {
                    break;
                }
                return if now.covers(to) { Taken::Busy } else { Taken::NotOwned };
            }
            if exchange_grant(word, now, then.expect("looked at above")).is_ok() {
                let held = raising.to(Stage::Held, Some(to), None);
                if exchange_state(&own[entry::STATE], raising, held).is_err() {
                    break;
                }
                return self.raised(Hold { mode: to, state: held, ..hold }, from, told);
            }
        }
        // The node has settled it by the old mode.
        own[entry::TOLD].fetch_or(told, TAKE);
        match state(&own[entry::STATE]) {
            now if now == hold.state => Taken::Busy,
            _ => Taken::Lost(Loss::Session),
        }
    }

    /// `from`: the mode before; `told`: what was wanted of that.
    fn raised(&self, hold: Hold, from: Mode, told: u64) -> Taken {
        fence_after_exchange(At::Commit);
        let line = self.memory.slot(hold.spot.slot);
        match self.grants_at(self.vital(), self.clock.coarse()) {
            Ok(()) => {}
            Err(How::Lost(loss)) => return Taken::Lost(loss),
            Err(_) => return self.lower_again(hold, from, told),
        }
        add_one(&self.memory.own(self.area_line, hold.entry)[entry::GRANTS]);
        let knock = grant(&line[slot::WORD]).gate()
            && !planted(Bug::NoGateReread)
            && self.memory.ring(hold.spot.slot);
        Taken::Held { hold, knock }
    }

    // ----- what is asked of the node --------------------------------------------------------------------

    /// Leaves a change of mode to the node; the lock is held as before until it answers.
    pub fn ask_convert(&self, hold: Hold, to: Mode) -> Result<Ticket, Gone> {
        let own = self.memory.own(self.area_line, hold.entry);
        let asking = hold.state.to(Stage::Asking, Some(hold.mode), Some(to));
        if exchange_state(&own[entry::STATE], hold.state, asking).is_err() {
            let kept = hold.state.to(Stage::Kept, Some(hold.mode), None);
            // One that the node keeps stays so while it is asked about.
            return if state(&own[entry::STATE]) == kept {
                Ok(Ticket { entry: hold.entry, state: kept })
            } else {
                Err(Gone)
            };
        }
        Ok(Ticket { entry: hold.entry, state: asking })
    }

    /// What the node is asked about a lock that is held, and that stays so until it answers.
    pub fn ticket(&self, hold: Hold) -> Ticket {
        Ticket { entry: hold.entry, state: hold.state }
    }

    /// What has become of it.
    pub fn look(&self, ticket: Ticket) -> Answer {
        let own = self.memory.own(self.area_line, ticket.entry);
        let now = state(&own[entry::STATE]);
        match now.stage() {
            // On its way down the node is between the entry and the word.
            Some(Stage::Waiting | Stage::Asking | Stage::Lowering) => Answer::Waiting(now),
            Some(Stage::Held | Stage::Kept) => {
                let slot = own[entry::SLOT].load(FIELD) as u32;
                let generation = own[entry::SLOT_GENERATION].load(FIELD);
                let Some(mode) = now.mode() else { return Answer::Lost };
                if slot >= self.memory.geometry().slots {
                    // Nobody who grants leaves it so.
                    return Answer::Lost;
                }
                let state = now.to(Stage::Held, Some(mode), None);
                Answer::Held(Hold { entry: ticket.entry, mode, spot: Spot { slot, generation }, state })
            }
            Some(Stage::Refused) => Answer::Refused,
            _ => Answer::Lost,
        }
    }

    /// What follows a grant of the node or of a releaser: the looks of a commit. Only for those who do not hear of it by
    /// message. A releaser looks at no clock, so what it hands over while the lease is at risk is believed only once the lease
    /// was renewed: [`Taken::Frozen`], look again.
    pub fn wake(&self, hold: Hold) -> Taken {
        fence_after_exchange(At::Commit);
        let frozen = match self.grants_at(self.vital(), self.clock.coarse()) {
            Ok(()) => false,
            Err(How::Lost(loss)) => return Taken::Lost(loss),
            Err(_) => true,
        };
        let gate = grant(&self.memory.slot(hold.spot.slot)[slot::WORD]).gate();
        let knock = gate && self.memory.ring(hold.spot.slot);
        if frozen { Taken::Frozen { hold, knock } } else { Taken::Held { hold, knock } }
    }

    /// Withdraws a lock that waits. The lock it holds instead, if the answer was quicker (R9).
    ///
    /// A change of mode is not withdrawn here: the node may have counted the new mode already, and the entry must not claim
    /// the old one before it has taken that back. Its program asks the node, and looks until the node has answered.
    pub fn withdraw(&self, ticket: Ticket) -> Option<Hold> {
        let own = self.memory.own(self.area_line, ticket.entry);
        loop {
            let now = state(&own[entry::STATE]);
            let to = match now.stage() {
                Some(Stage::Waiting) => now.to(Stage::Cancelled, now.mode(), None),
                Some(Stage::Held | Stage::Kept) if ticket.state.stage() == Some(Stage::Waiting) => {
                    return match self.look(ticket) {
                        Answer::Held(hold) => Some(hold),
                        _ => None,
                    };
                }
                _ => return None,
            };
            if exchange_state(&own[entry::STATE], now, to).is_ok() {
                return None;
            }
        }
    }

    /// The node has answered a lock that it refused or that was withdrawn: the entry is free.
    pub fn close(&self, entry: u32) {
        let own = self.memory.own(self.area_line, entry);
        let now = state(&own[entry::STATE]);
        if matches!(now.stage(), Some(Stage::Refused | Stage::Cancelled)) {
            let _ = exchange_state(&own[entry::STATE], now, now.freed());
        }
    }

    // ----- about a lock that is held --------------------------------------------------------------------

    /// Is it held still? Not if the session is over.
    pub fn holds(&self, hold: Hold) -> bool {
        let now = state(&self.memory.own(self.area_line, hold.entry)[entry::STATE]);
        now.generation() == hold.state.generation() && now.claims().is_some()
    }

    /// The token of a grant, drawn when it is first asked for. None if the lock was not held any more: what was drawn
    /// then may be newer than what its next holder has (R6).
    ///
    /// Exclusive grants whose token nobody asks for raise no count. The exchange is one that a program which lost the lock
    /// cannot turn back: a store that it prepared while it held the lock would.
    pub fn draw_token(&self, hold: Hold) -> Option<Token> {
        let tail = self.memory.tail(hold.spot.slot);
        let local = if planted(Bug::TokenBeforeCommit) || !hold.mode.exclusive() {
            tail[tail::LOCAL].load(LOOK)
        } else {
            tail[tail::LOCAL].fetch_add(1, TAKE).wrapping_add(1)
        };
        // No fence: whoever could see an older state than that of the next holder would draw before it.
        let fence = Fence::from_number(tail[tail::FENCE].load(LOOK));
        (self.holds(hold) && self.living().is_ok()).then_some(Token { fence, local })
    }

    /// The value block as a grant shows it; none if it was written too often to be read.
    pub fn value(&self, hold: Hold) -> Option<oarlock_layout::value::Value> {
        self.memory.read_block(hold.spot.slot)
    }

    /// Writes the value block, or marks it as not to be believed. Only under PW or EX, before the lock is lowered. False:
    /// the node has to do it.
    pub fn write_value(&self, hold: Hold, bytes: Option<[u8; oarlock_layout::limit::VALUE_BYTES]>) -> bool {
        let ready = self.memory.slot(hold.spot.slot)[slot::TAG].load(LOOK) & VALUE_READY != 0;
        if !hold.mode.writes_value() || !ready || !self.holds(hold) {
            return false;
        }
        let Some(old) = self.memory.read_block(hold.spot.slot) else { return false };
        let new = match bytes {
            Some(bytes) => old.written(bytes),
            None => old.invalidated(),
        };
        self.memory.write_block(hold.spot.slot, &new);
        true
    }

    /// Modes that others want and that this lock is in the way of, a bit each, since its grant or last change.
    pub fn told(&self, hold: Hold) -> u8 {
        let told = self.memory.own(self.area_line, hold.entry)[entry::TOLD].load(LOOK);
        if told >> 8 == hold.state.generation() & (u64::MAX >> 8) { told as u8 } else { 0 }
    }

    /// Sleeps until a waiting entry changes, for `timeout` at most.
    #[cfg(not(any(loom, shuttle)))]
    pub fn sleep(&self, ticket: Ticket, seen: State, timeout: std::time::Duration) {
        let first = self.memory.geometry().entry(self.place.area, ticket.entry);
        self.memory[first + entry::SLEEPS_ON].store(crate::futex::processor(), FIELD);
        self.memory.sleep(first + entry::STATE, seen.futex(), timeout);
    }
}

/// What an entry that has been taken is about.
#[inline(always)]
fn describe(own: Own<'_>, spot: Spot, party: &Party) {
    let slot_and_flags = u64::from(spot.slot) | u64::from(party.flags.bits()) << 32;
    set(&own[entry::SLOT], slot_and_flags);
    set(&own[entry::SLOT_GENERATION], spot.generation);
    set(&own[entry::OWNER], party.owner);
    set(&own[entry::TRANSACTION], party.transaction);
}

/// Writes a cell unless it reads so already: a thread mostly takes the same lock again, and what it stores has to leave
/// the processor before the next exchange.
#[inline(always)]
fn set(cell: &AtomicU64, bits: u64) {
    if cell.load(FIELD) != bits {
        cell.store(bits, FIELD);
    }
}

/// What others want is forgotten by a change of mode (scenario 57). What was there, for a change that comes to nothing.
fn untell(own: Own<'_>, state: State) -> u64 {
    let generation = state.generation() << 8;
    let told = own[entry::TOLD].swap(generation, TAKE);
    if told & !0xff == generation { told & 0xff } else { 0 }
}

/// Counts in a cell that only the owner of its entry writes.
#[inline(always)]
fn add_one(cell: &AtomicU64) {
    cell.store(cell.load(FIELD).wrapping_add(1), FIELD);
}

/// May the value block be read under this owned mode without asking? Only while no other node can write (R5 e).
pub(crate) fn readable_under(owned: Mode) -> bool {
    !matches!(owned, Mode::NL | Mode::CR)
}
