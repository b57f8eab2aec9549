//! A foreign hand in a segment: writes what no program that keeps to the rules writes, arbitrary or nearly right.

// Taken as a file by the tests of several crates.
#![allow(dead_code)]

use std::cell::Cell;
use std::sync::Arc;

use oarlock_layout::flags::Flags;
use oarlock_layout::id::{LockId, SessionId, Slot};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::geometry::{
    BUFFER_CELLS, HEADER_CELLS, HOT_ENTRIES, area, entry, header, slot, tail,
};
use oarlock_layout::segment::{
    Claim, Entry, Grant, NoSlot, Notice, Place, Stage, State, Tally, Wake, Word, Words,
};
use oarlock_layout::token::{Fence, Token};
use oarlock_layout::value::Value;
use oarlock_shm::{Hub, Memory};

/// Numbers that a seed decides, or the bytes of an input.
pub(crate) struct Dice(Source);

enum Source {
    Seed(Cell<u64>),
    Bytes { bytes: Box<[u8]>, next: Cell<usize> },
}

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(Source::Seed(Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)))
    }

    /// Byte after byte; all is as large as it may be once there are none.
    pub(crate) fn of(bytes: &[u8]) -> Dice {
        Dice(Source::Bytes { bytes: bytes.into(), next: Cell::new(0) })
    }

    /// Are there bytes no more?
    pub(crate) fn is_over(&self) -> bool {
        matches!(&self.0, Source::Bytes { bytes, next } if next.get() >= bytes.len())
    }

    pub(crate) fn any(&self) -> u64 {
        let x = match &self.0 {
            Source::Seed(x) => x,
            Source::Bytes { .. } => return (0..8).fold(0, |all, _| all << 8 | self.byte()),
        };
        let mut now = x.get();
        now ^= now << 13;
        now ^= now >> 7;
        now ^= now << 17;
        x.set(now);
        now.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn byte(&self) -> u64 {
        let Source::Bytes { bytes, next } = &self.0 else { return self.any() & 0xff };
        let byte = bytes.get(next.get()).copied().unwrap_or(0xff);
        next.set(next.get() + 1);
        byte.into()
    }

    pub(crate) fn below(&self, n: u64) -> u64 {
        match &self.0 {
            Source::Seed(_) => (self.any() >> 32) % n,
            _ if self.is_over() => n - 1,
            _ if n <= 1 << 8 => self.byte() % n,
            _ if n <= 1 << 16 => (self.byte() << 8 | self.byte()) % n,
            _ => (self.any() >> 32) % n,
        }
    }

    pub(crate) fn mode(&self) -> Mode {
        Mode::ALL[self.below(6) as usize]
    }

    fn mode_option(&self) -> Option<Mode> {
        Mode::ALL.get(self.below(7) as usize).copied()
    }
}

const STAGES: [Stage; 14] = [
    Stage::Free,
    Stage::Trying,
    Stage::Waiting,
    Stage::Held,
    Stage::Raising,
    Stage::Lowering,
    Stage::Handed,
    Stage::Asking,
    Stage::Revoked,
    Stage::Cancelled,
    Stage::Refused,
    Stage::Ending,
    Stage::Kept,
    Stage::Finished,
];

/// The hand.
pub(crate) struct Hand {
    pub(crate) dice: Dice,
    memory: Arc<Memory>,
    /// Slots and areas in which it is interested: where all the others are.
    slots: u32,
    areas: u32,
}

impl Hand {
    pub(crate) fn new(memory: &Arc<Memory>, seed: u64) -> Hand {
        Hand::with(memory, Dice::new(seed))
    }

    fn with(memory: &Arc<Memory>, dice: Dice) -> Hand {
        let geometry = memory.geometry();
        let (slots, areas) = (geometry.slots.min(8), geometry.areas.min(4));
        Hand { dice, memory: Arc::clone(memory), slots, areas }
    }

    /// Writes one cell.
    pub(crate) fn write(&self) {
        let dice = &self.dice;
        let geometry = self.memory.geometry();
        let number = dice.below(self.slots.into()) as u32;
        let (slot, tail) = (geometry.slot(number), geometry.tail(number));
        let area = dice.below(self.areas.into()) as u32;
        // Mostly the entries that anybody looks at first.
        let hot = dice.below(4) != 0;
        let entries = if hot { HOT_ENTRIES / 4 } else { geometry.entries };
        let entry = geometry.entry(area, dice.below(entries.into()) as u32);
        let (cell, bits) = match dice.below(24) {
            0 => (dice.below(geometry.cells() as u64) as usize, dice.any()),
            1 => (dice.below(HEADER_CELLS as u64) as usize, dice.any() >> dice.below(64)),
            2 => (header::SLEEPING, dice.below(2)),
            3 => (
                geometry.bells() + dice.below((geometry.slot(0) - geometry.bells()) as u64) as usize,
                u64::MAX,
            ),
            4..=8 => (slot + slot::WORD, self.word(slot)),
            9 => (slot + slot::USERS, [0, u64::MAX, dice.any()][dice.below(3) as usize]),
            10 => (slot + dice.below(8) as usize, dice.any()),
            11 => (tail + tail::OFFERED, 1 << 63 | dice.any()),
            12 => (tail + tail::FENCE, dice.any()),
            13 | 14 => {
                // A block of a sequence that nobody has written.
                let buffer = dice.below(2) as usize * BUFFER_CELLS;
                self.memory.scribble(tail + tail::VERSION, dice.below(8));
                (geometry.value(number) + buffer, dice.any() >> dice.below(64))
            }
            15 => (geometry.area(area) + area::TOUCHED, u64::MAX),
            16 => (geometry.area(area) + area::SESSION, dice.below(4)),
            17 => (entry + dice.below(10) as usize, dice.any()),
            _ => {
                // Where it says it is, then what it says of itself.
                let generation = self.memory.peek(slot + slot::GENERATION);
                if dice.below(2) == 0 {
                    let flags = (dice.any() & 0xffff_ffff_0000_0000) | u64::from(number);
                    self.memory.scribble(entry + entry::SLOT, flags);
                    self.memory.scribble(entry + entry::SLOT_GENERATION, generation);
                    self.memory.scribble(slot + slot::USERS, u64::MAX);
                }
                let state = State(self.memory.peek(entry + entry::STATE));
                let generation = state.generation().wrapping_add(u64::from(dice.below(4) == 0));
                let stage = STAGES[dice.below(14) as usize];
                let state = State::new(generation, stage, dice.mode_option(), dice.mode_option());
                (entry + entry::STATE, state.0)
            }
        };
        self.memory.scribble(cell, bits);
    }

    /// A word that differs from the one that is there.
    fn word(&self, slot: usize) -> u64 {
        let dice = &self.dice;
        let word = Grant(self.memory.peek(slot + slot::WORD));
        let mode = dice.mode();
        let new = match dice.below(8) {
            0 | 1 => word.without(mode),
            2 | 3 => word.with(mode).unwrap_or(word),
            4 => word.with_gate(!word.gate()),
            5 => word.with_owned(dice.mode_option()),
            6 => Grant(word.0 & !((1 << 42) - 1)),
            _ => Grant(dice.any()),
        };
        new.0
    }
}

/// A hub in whose segment a foreign hand writes before each look, as another process can.
pub(crate) struct Haunted {
    pub(crate) hub: Hub,
    pub(crate) hand: Hand,
    /// Out of 256 looks, so many are preceded by a write.
    often: u64,
    /// What the hand does right before (true) and right after the node lowers what it owns.
    pub(crate) at_lower: Option<fn(&Memory, Slot, bool)>,
}

impl Haunted {
    pub(crate) fn new(hub: Hub, seed: u64, often: u64) -> Haunted {
        Haunted::with(hub, Dice::new(seed), often)
    }

    pub(crate) fn with(hub: Hub, dice: Dice, often: u64) -> Haunted {
        let hand = Hand::with(hub.memory(), dice);
        Haunted { hub, hand, often, at_lower: None }
    }

    fn hub(&self) -> &Hub {
        while self.hand.dice.below(256) < self.often {
            self.hand.write();
        }
        &self.hub
    }

    fn hub_mut(&mut self) -> &mut Hub {
        let _ = self.hub();
        &mut self.hub
    }
}

impl Words for Haunted {
    fn written(&self) -> Vec<u8> {
        self.hub().written()
    }
    fn find(&self, name: &Name) -> Option<Slot> {
        self.hub().find(name)
    }
    fn bind(&mut self, name: &Name) -> Result<Slot, NoSlot> {
        self.hub_mut().bind(name)
    }
    fn evict(&mut self, slot: Slot) -> bool {
        self.hub_mut().evict(slot)
    }
    fn bound(&self) -> u32 {
        self.hub().bound()
    }
    fn room(&self) -> u32 {
        self.hub().room()
    }
    fn look(&self, slot: Slot) -> Word {
        self.hub().look(slot)
    }
    fn set_gate(&mut self, slot: Slot) -> Word {
        self.hub_mut().set_gate(slot)
    }
    fn clear_gate(&mut self, slot: Slot) {
        self.hub_mut().clear_gate(slot);
    }
    fn lower(&mut self, slot: Slot, floor: Option<Mode>) -> Word {
        let at_lower = self.at_lower.unwrap_or(|_, _, _| {});
        at_lower(self.hub.memory(), slot, true);
        let word = self.hub_mut().lower(slot, floor);
        at_lower(self.hub.memory(), slot, false);
        word
    }
    fn raise(&mut self, slot: Slot, owned: Mode, fence: Fence) {
        self.hub_mut().raise(slot, owned, fence);
    }
    fn disown(&mut self, slot: Slot) {
        self.hub_mut().disown(slot);
    }
    fn set_keep(&mut self, slot: Slot, keep: bool) {
        self.hub_mut().set_keep(slot, keep);
    }
    fn admit(&mut self, slot: Slot, mode: Mode, claim: Claim) -> Option<Token> {
        self.hub_mut().admit(slot, mode, claim)
    }
    fn convert(&mut self, lock: LockId, to: Mode) -> Option<Token> {
        self.hub_mut().convert(lock, to)
    }
    fn drop(&mut self, lock: LockId) -> Option<Entry> {
        self.hub_mut().drop(lock)
    }
    fn entry(&self, lock: LockId) -> Option<Entry> {
        self.hub().entry(lock)
    }
    fn entries(&self, slot: Slot) -> Vec<Entry> {
        self.hub().entries(slot)
    }
    fn of_session(&self, session: SessionId) -> Vec<LockId> {
        self.hub().of_session(session)
    }
    fn notice(&mut self, slot: Slot, wanted: Mode, but: Option<LockId>) -> Vec<Notice> {
        self.hub_mut().notice(slot, wanted, but)
    }
    fn set_manner(&mut self, lock: LockId, flags: Flags) {
        self.hub_mut().set_manner(lock, flags);
    }
    fn hand_on(&mut self, lock: LockId, claim: Claim) -> bool {
        self.hub_mut().hand_on(lock, claim)
    }
    fn offer(&mut self, slot: Slot, waiter: Option<(LockId, Mode)>) {
        self.hub_mut().offer(slot, waiter);
    }
    fn taken(&mut self, slot: Slot) -> Option<LockId> {
        self.hub_mut().taken(slot)
    }
    fn refuse(&mut self, lock: LockId) -> bool {
        self.hub_mut().refuse(lock)
    }
    fn gone(&self, lock: LockId) -> bool {
        self.hub().gone(lock)
    }
    fn set_value_ready(&mut self, slot: Slot, ready: bool) {
        self.hub_mut().set_value_ready(slot, ready);
    }
    fn used(&mut self, slot: Slot) -> bool {
        self.hub_mut().used(slot)
    }
    fn attach(&mut self, session: SessionId, segment: u8) -> Option<Place> {
        self.hub_mut().attach(session, segment)
    }
    fn bury(&mut self, session: SessionId) {
        self.hub_mut().bury(session);
    }
    fn end(&mut self, session: SessionId) {
        self.hub_mut().end(session);
    }
    fn poll_bell(&mut self) -> Option<Slot> {
        self.hub_mut().poll_bell()
    }
    fn poll_wake(&mut self) -> Option<Wake> {
        self.hub_mut().poll_wake()
    }
    fn renew(&mut self, until: u64) {
        self.hub_mut().renew(until);
    }
    fn turn_epoch(&mut self) {
        self.hub_mut().turn_epoch();
    }
    fn fall_asleep(&mut self) -> bool {
        self.hub_mut().fall_asleep()
    }
    fn wake_up(&mut self) {
        self.hub_mut().wake_up();
    }
    fn tally(&self) -> Tally {
        self.hub().tally()
    }
    fn value(&self, slot: Slot) -> Value {
        self.hub().value(slot)
    }
    fn set_value(&mut self, slot: Slot, value: Value) {
        self.hub_mut().set_value(slot, value);
    }
    fn token(&self, slot: Slot) -> Token {
        self.hub().token(slot)
    }
    fn name(&self, slot: Slot) -> Name {
        self.hub().name(slot)
    }
}
