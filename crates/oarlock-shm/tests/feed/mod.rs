//! A hub and programs that keep to the rules, in whose segment a foreign hand writes before each look of the node. What is
//! called and what is written follows from a seed or from the bytes of an input. Whatever comes, the node answers each
//! call after bounded work, believes of its own knowledge what it wrote and nothing else, and keeps the locks of its own
//! table apart.

// Used by the fuzz target and by ordinary tests.
#![allow(dead_code)]

#[path = "../hand/mod.rs"]
pub(crate) mod hand;

use std::collections::BTreeMap;
use std::sync::Arc;

use hand::{Dice, Haunted};
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, LockId, SessionId, SharedHandle, Slot};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::{Claim, Geometry, Words};
use oarlock_layout::token::Fence;
use oarlock_layout::value::Value;
use oarlock_shm::{Answer, Caller, Clock, First, Hold, Hub, Memory, Party, Taken, Ticket};

pub(crate) const GEOMETRY: Geometry = Geometry { slots: 12, areas: 6, entries: 64 };
pub(crate) struct Still;

impl Clock for Still {
    fn coarse(&self) -> u64 {
        1
    }
}

/// What the node itself knows of a slot.
struct Known {
    name: Name,
    owned: Option<Mode>,
    gate: bool,
    fence: Fence,
}

/// Plays one input: what the hand writes into the segment at first, then calls, with a write before some looks.
pub(crate) fn hub(bytes: &[u8]) {
    let dice = Dice::of(bytes);
    let often = [0, 8, 64, 200][dice.below(4) as usize];
    let writes = dice.below(64);
    let mut stage = Stage::new(Memory::private(GEOMETRY, 1), dice, often);
    (0..3).for_each(|_| stage.attach());
    (0..writes).for_each(|_| stage.words.hand.write());
    while !stage.words.hand.dice.is_over() {
        stage.step();
    }
}

/// A hub, and what must be true of it whatever stands in its segment.
pub(crate) struct Stage {
    words: Haunted,
    known: BTreeMap<Slot, Known>,
    /// Locks of sessions that map no segment.
    kept: BTreeMap<LockId, (Slot, Mode)>,
    callers: Vec<Caller<Still>>,
    holds: Vec<(usize, Hold)>,
    tickets: Vec<(usize, Ticket)>,
    serial: u64,
    next_session: u32,
    sessions: Vec<SessionId>,
}

impl Stage {
    pub(crate) fn new(memory: Arc<Memory>, dice: Dice, often: u64) -> Stage {
        let mut hub = Hub::new(memory);
        hub.renew(u64::MAX);
        Stage {
            words: Haunted::with(hub, dice, often),
            known: BTreeMap::new(),
            kept: BTreeMap::new(),
            callers: Vec::new(),
            holds: Vec::new(),
            tickets: Vec::new(),
            serial: 0,
            next_session: 100,
            sessions: Vec::new(),
        }
    }

    fn below(&self, n: u64) -> u64 {
        self.words.hand.dice.below(n)
    }

    fn mode(&self) -> Mode {
        self.words.hand.dice.mode()
    }

    fn slot(&self) -> Option<Slot> {
        let count = self.known.len() as u64;
        (count > 0).then(|| *self.known.keys().nth(self.below(count) as usize).unwrap())
    }

    fn name(&self) -> Name {
        let number = self.below(16);
        // Some too long for a slot.
        let length = if number.is_multiple_of(3) { 100 } else { 5 };
        Name::new(&vec![b'a' + number as u8; length]).unwrap()
    }

    /// A lock that may be anything: in an entry or not, of a session that lives or not.
    fn lock(&self) -> LockId {
        if self.below(2) == 0 || self.sessions.is_empty() {
            return LockId::new(SessionId(self.below(4) as u32), self.below(8) as u32);
        }
        let session = self.sessions[self.below(self.sessions.len() as u64) as usize];
        let entry = if self.below(8) == 0 { self.below(1 << 28) } else { self.below(4) };
        LockId::new(session, SharedHandle { segment: 0, entry: entry as u32 }.number())
    }

    /// One call of the node, or of a program.
    pub(crate) fn step(&mut self) {
        let call = self.below(40);
        match call {
            0..=2 => self.bind(),
            3 => self.attach(),
            4 => {
                if let Some(session) = self.sessions.pop() {
                    self.words.end(session);
                    let locks = self.words.of_session(session);
                    assert!(locks.len() <= GEOMETRY.entries as usize + self.kept.len());
                    locks.into_iter().for_each(|lock| self.forget_lock(lock));
                    self.words.bury(session);
                }
            }
            5 => {
                let _ = (self.words.tally(), self.words.fall_asleep());
                self.words.wake_up();
                self.words.turn_epoch();
            }
            6 | 7 => {
                // Whatever rings, the node has heard all after this many.
                let bound = 100 * GEOMETRY.slots;
                let mut heard = 0;
                while heard < bound
                    && let Some(slot) = self.words.hub.poll_bell()
                {
                    assert!(self.known.contains_key(&slot), "a bell of {slot:?}, which is not bound");
                    heard += 1;
                }
                assert!(heard < bound, "bells without end");
                while self.words.poll_wake().is_some() {}
            }
            8..=16 => self.caller(),
            17 => {
                let lock = self.lock();
                let _ = (self.words.refuse(lock), self.words.gone(lock), self.words.entry(lock));
                self.words.set_manner(lock, Flags::NOBAST);
            }
            18 | 19 => {
                let lock = self.lock();
                self.forget_lock(lock);
            }
            20 | 21 => {
                let (lock, to) = (self.lock(), self.mode());
                let done = self.words.convert(lock, to).is_some();
                if done && let Some(kept) = self.kept.get_mut(&lock) {
                    kept.1 = to;
                }
            }
            _ => {
                if let Some(slot) = self.slot() {
                    self.about(slot, call);
                }
            }
        }
        self.check();
    }

    fn bind(&mut self) {
        let name = self.name();
        let found = self.known.iter().find(|(_, known)| known.name == name).map(|(slot, _)| *slot);
        assert_eq!(self.words.find(&name), found, "names are the node's own");
        if found.is_none()
            && let Ok(slot) = self.words.bind(&name)
        {
            let known = Known { name, owned: None, gate: true, fence: Fence::default() };
            assert!(self.known.insert(slot, known).is_none(), "{slot:?} is bound twice");
        }
    }

    pub(crate) fn attach(&mut self) {
        let session = SessionId(self.next_session);
        if let Some(place) = self.words.attach(session, 0) {
            self.next_session += 1;
            self.sessions.push(session);
            self.callers.push(Caller::new(Arc::clone(self.words.hub.memory()), place, Still));
        }
    }

    fn forget_lock(&mut self, lock: LockId) {
        let dropped = self.words.drop(lock);
        if let Some((slot, mode)) = self.kept.remove(&lock) {
            let dropped = dropped.expect("the node's own table");
            assert_eq!((dropped.slot, dropped.mode), (slot, mode));
        }
    }

    fn about(&mut self, slot: Slot, call: u64) {
        let mode = self.mode();
        match call {
            22 => {
                self.words.set_gate(slot);
                self.known.get_mut(&slot).unwrap().gate = true;
            }
            23 | 24 => {
                self.words.clear_gate(slot);
                self.known.get_mut(&slot).unwrap().gate = false;
            }
            25 => {
                let floor = (self.below(2) == 0).then_some(mode);
                let owned = self.words.lower(slot, floor).owned;
                let known = self.known.get_mut(&slot).unwrap();
                match (known.owned, owned) {
                    (Some(before), Some(after)) => assert!(before.covers(after), "raised by {after}"),
                    (before, after) => assert_eq!(before, after),
                }
                known.owned = owned;
            }
            26 | 27 => {
                self.serial += 1;
                let fence = Fence::new(Epoch(1), self.serial);
                let known = self.known.get_mut(&slot).unwrap();
                // As a master does: never less than before.
                let owned = known.owned.map_or(mode, |owned| owned.join(mode));
                (known.owned, known.fence) = (Some(owned), fence);
                self.words.raise(slot, owned, fence);
            }
            28..=31 => {
                let lock = self.lock();
                let own = lock.entry().is_none();
                if own && self.kept.contains_key(&lock) {
                    return;
                }
                let flags = if own { Flags::empty() } else { Flags::QUIET };
                let granted =
                    self.words.admit(slot, mode, Claim { lock, flags, ..Claim::default() }).is_some();
                let owned = self.known[&slot].owned;
                assert!(!granted || owned.is_some_and(|owned| owned.covers(mode)), "more than is owned");
                if own && granted {
                    self.kept.insert(lock, (slot, mode));
                }
            }
            32 => {
                let lock = self.lock();
                self.words.offer(slot, Some((lock, mode)));
                let _ = self.words.taken(slot);
            }
            33 => self.words.offer(slot, None),
            34 => {
                let lock = self.lock();
                let told = self.words.notice(slot, mode, Some(lock)).len();
                assert!(told <= GEOMETRY.areas as usize * GEOMETRY.entries as usize + self.kept.len());
            }
            35 => {
                let value = self.words.value(slot);
                self.words
                    .set_value(slot, if self.below(4) == 0 { Value::NEVER } else { value.written([7; 64]) });
                self.words.set_value_ready(slot, self.below(2) == 0);
            }
            36 => {
                let _ = self.words.used(slot);
                self.words.set_keep(slot, self.below(2) == 0);
            }
            37 => {
                if self.words.evict(slot) {
                    self.known.remove(&slot);
                    assert!(self.kept.values().all(|(of, _)| *of != slot), "evicted under a lock");
                }
            }
            _ => {
                let entries = self.words.entries(slot);
                assert!(
                    entries.len() <= GEOMETRY.areas as usize * GEOMETRY.entries as usize + self.kept.len()
                );
                let own = |lock: &LockId| entries.iter().any(|entry| entry.claim.lock == *lock);
                let kept = self.kept.iter().filter(|(_, (of, _))| *of == slot);
                assert!(kept.clone().all(|(lock, _)| own(lock)), "a lock of the node's own table is missing");
            }
        }
    }

    /// A program that keeps to the rules, beside the hand that does not.
    fn caller(&mut self) {
        if self.callers.is_empty() {
            return;
        }
        let number = self.below(self.callers.len() as u64) as usize;
        let (mode, first) = (self.mode(), self.below(8) as u32);
        let first = if first < 4 { First::seat(first) } else { First::shared(first) };
        let name = self.name();
        let party = Party {
            flags: if self.below(2) == 0 { Flags::VALBLK } else { Flags::empty() },
            ..Party::default()
        };
        let wait = self.below(2) == 0;
        let caller = &self.callers[number];
        let taken = match self.below(10) {
            0..=3 => caller.find(name.as_bytes()).map(|spot| caller.acquire(spot, mode, &party, wait, first)),
            4 => Some(caller.ask(mode, &party, first)),
            _ => None,
        };
        match taken {
            Some(Taken::Held { hold, .. }) => return self.holds.push((number, hold)),
            Some(Taken::Wait(ticket)) => return self.tickets.push((number, ticket)),
            Some(_) => return,
            None => {}
        }
        if !self.tickets.is_empty() && self.below(2) == 0 {
            let (number, ticket) = self.tickets.swap_remove(self.below(self.tickets.len() as u64) as usize);
            let caller = &self.callers[number];
            match caller.look(ticket) {
                Answer::Held(hold) => {
                    if let Taken::Held { hold, .. } = caller.wake(hold) {
                        self.holds.push((number, hold));
                    }
                }
                _ => {
                    if let Some(hold) = caller.withdraw(ticket) {
                        self.holds.push((number, hold));
                    }
                    caller.close(ticket.entry);
                }
            }
        } else if !self.holds.is_empty() {
            let (number, hold) = self.holds.swap_remove(self.below(self.holds.len() as u64) as usize);
            let caller = &self.callers[number];
            let _ = (caller.holds(hold), caller.told(hold), caller.draw_token(hold), caller.value(hold));
            let _ = caller.write_value(hold, Some([9; 64]));
            let then = match self.below(4) {
                0 if hold.mode.covers(mode) => caller.lower(hold, mode),
                1 if mode.covers(hold.mode) => caller.raise(hold, mode),
                2 => {
                    if let Ok(ticket) = caller.ask_convert(hold, mode) {
                        self.tickets.push((number, ticket));
                    }
                    return;
                }
                _ => {
                    let _ = caller.release(hold);
                    return;
                }
            };
            if let Taken::Held { hold, .. } = then {
                self.holds.push((number, hold));
            }
        }
    }

    /// The node's own knowledge is what it was.
    fn check(&self) {
        let words = &self.words.hub;
        for (slot, known) in &self.known {
            let word = words.look(*slot);
            assert_eq!(word.owned, known.owned, "{slot:?}");
            assert!(word.gate || !known.gate, "the gate of {slot:?} is open");
            assert_eq!(words.token(*slot).fence, known.fence);
            assert_eq!(words.name(*slot), known.name);
            let own: Vec<Mode> =
                self.kept.values().filter(|(of, _)| of == slot).map(|(_, mode)| *mode).collect();
            for (i, a) in own.iter().enumerate() {
                assert!(word.counts.of(*a) > 0, "a lock in {a} is not counted");
                assert!(own[i + 1..].iter().all(|b| a.compatible(*b)), "{own:?} side by side in {slot:?}");
            }
        }
        for (lock, (slot, mode)) in &self.kept {
            let entry = words.entry(*lock).expect("the node's own table");
            assert_eq!((entry.slot, entry.mode), (*slot, *mode));
        }
    }
}
