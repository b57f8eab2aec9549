//! `Words` that callers change in the middle of a step of the room, as they will when they share the counts (M8).

use oarlock_layout::flags::Flags;
use oarlock_layout::id::{LockId, SessionId, Slot};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::{Claim, Entry, NoSlot, Notice, PlainWords, Word, Words};
use oarlock_layout::token::{Fence, Token};
use oarlock_layout::value::Value;

/// A change that a caller makes by itself.
pub(crate) struct Intrusion {
    name: Name,
    slot: Slot,
    what: What,
    /// Before which operation of the room; counts down.
    at: u8,
    /// It happened.
    pub(crate) done: Option<Done>,
}

pub(crate) enum What {
    Take(Mode, Claim),
    Drop(LockId),
}

#[derive(Clone, Copy)]
pub(crate) struct Done {
    pub(crate) token: Option<Token>,
    /// The caller found the gate set, or the policy not to keep, and rings.
    pub(crate) rings: bool,
}

impl Intrusion {
    pub(crate) fn new(name: Name, slot: Slot, at: u8, what: What) -> Intrusion {
        Intrusion { name, slot, what, at, done: None }
    }

    fn strike(&mut self, words: &mut PlainWords) {
        if words.find(&self.name) != Some(self.slot) {
            return;
        }
        let word = words.look(self.slot);
        match &self.what {
            What::Take(mode, claim) => {
                let covered = word.owned.is_some_and(|owned| owned.covers(*mode));
                if !word.gate && covered && word.counts.admits(*mode) {
                    let token = words.admit(self.slot, *mode, *claim);
                    self.done = Some(Done { token, rings: false });
                }
            }
            What::Drop(lock) => {
                if words.drop(*lock).is_some() {
                    self.done = Some(Done { token: None, rings: word.gate || !words.keep(self.slot) });
                }
            }
        }
    }
}

/// The room's view of its words, with one intrusion.
pub(crate) struct Intruder<'a> {
    words: std::cell::RefCell<&'a mut PlainWords>,
    intrusion: std::cell::RefCell<&'a mut Intrusion>,
    made: std::cell::Cell<u8>,
}

impl<'a> Intruder<'a> {
    /// No step of the room that is explored makes more operations than this.
    pub(crate) const CALLS: u8 = 24;

    pub(crate) fn new(words: &'a mut PlainWords, intrusion: &'a mut Intrusion) -> Intruder<'a> {
        Intruder { words: words.into(), intrusion: intrusion.into(), made: 0.into() }
    }

    /// One operation of the room is about to happen.
    fn tick(&self) {
        self.made.set(self.made.get() + 1);
        assert!(self.made.get() < Intruder::CALLS, "a step makes more operations than are intruded upon");
        let mut intrusion = self.intrusion.borrow_mut();
        if intrusion.at > 0 {
            intrusion.at -= 1;
            if intrusion.at == 0 {
                intrusion.strike(&mut self.words.borrow_mut());
            }
        }
    }

    fn with<R>(&self, operation: impl FnOnce(&mut PlainWords) -> R) -> R {
        self.tick();
        operation(&mut self.words.borrow_mut())
    }
}

impl Words for Intruder<'_> {
    fn written(&self) -> Vec<u8> {
        self.words.borrow().written()
    }

    fn find(&self, name: &Name) -> Option<Slot> {
        self.words.borrow().find(name)
    }

    fn bind(&mut self, name: &Name) -> Result<Slot, NoSlot> {
        self.with(|words| words.bind(name))
    }

    fn evict(&mut self, slot: Slot) -> bool {
        self.with(|words| words.evict(slot))
    }

    fn bound(&self) -> u32 {
        self.words.borrow().bound()
    }

    fn room(&self) -> u32 {
        self.words.borrow().room()
    }

    fn look(&self, slot: Slot) -> Word {
        self.with(|words| words.look(slot))
    }

    fn set_gate(&mut self, slot: Slot) -> Word {
        self.with(|words| words.set_gate(slot))
    }

    fn clear_gate(&mut self, slot: Slot) {
        self.with(|words| words.clear_gate(slot));
    }

    fn lower(&mut self, slot: Slot, floor: Option<Mode>) -> Word {
        self.with(|words| words.lower(slot, floor))
    }

    fn raise(&mut self, slot: Slot, owned: Mode, fence: Fence) {
        self.with(|words| words.raise(slot, owned, fence));
    }

    fn disown(&mut self, slot: Slot) {
        self.with(|words| words.disown(slot));
    }

    fn set_keep(&mut self, slot: Slot, keep: bool) {
        self.with(|words| words.set_keep(slot, keep));
    }

    fn admit(&mut self, slot: Slot, mode: Mode, claim: Claim) -> Option<Token> {
        self.with(|words| words.admit(slot, mode, claim))
    }

    fn convert(&mut self, lock: LockId, to: Mode) -> Option<Token> {
        self.with(|words| words.convert(lock, to))
    }

    fn drop(&mut self, lock: LockId) -> Option<Entry> {
        self.with(|words| words.drop(lock))
    }

    fn entry(&self, lock: LockId) -> Option<Entry> {
        self.words.borrow().entry(lock)
    }

    fn entries(&self, slot: Slot) -> Vec<Entry> {
        self.with(|words| words.entries(slot))
    }

    fn of_session(&self, session: SessionId) -> Vec<LockId> {
        self.words.borrow().of_session(session)
    }

    fn notice(&mut self, slot: Slot, wanted: Mode, but: Option<LockId>) -> Vec<Notice> {
        self.with(|words| words.notice(slot, wanted, but))
    }

    fn set_manner(&mut self, lock: LockId, flags: Flags) {
        self.with(|words| words.set_manner(lock, flags));
    }

    fn hand_on(&mut self, lock: LockId, claim: Claim) -> bool {
        self.with(|words| words.hand_on(lock, claim))
    }

    fn value(&self, slot: Slot) -> Value {
        self.words.borrow().value(slot)
    }

    fn set_value(&mut self, slot: Slot, value: Value) {
        self.with(|words| words.set_value(slot, value));
    }

    fn token(&self, slot: Slot) -> Token {
        self.words.borrow().token(slot)
    }

    fn name(&self, slot: Slot) -> Name {
        self.words.borrow().name(slot)
    }
}
