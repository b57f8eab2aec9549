//! A segment into which a foreign hand writes: before each call, or all the time from another thread. The node's side
//! answers every call after bounded work, believes of its own knowledge what it wrote and nothing else, and keeps the
//! locks of its own table apart. The callers' side says something and comes back.
//!
//! `OARLOCK_HOSTILE_SEEDS=N` plays so many seeds instead of a few.

mod hand;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hand::{Hand, Haunted};
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, LockId, SessionId, SharedHandle, Slot};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::geometry::entry;
use oarlock_layout::segment::{Claim, Geometry, Words};
use oarlock_layout::token::Fence;
use oarlock_layout::value::Value;
use oarlock_shm::{Answer, Caller, Clock, First, Hold, Hub, Memory, Party, Taken, Ticket};

const GEOMETRY: Geometry = Geometry { slots: 12, areas: 6, entries: 64 };
/// No single call needs as long, on any machine and whoever else runs there.
const LONG: Duration = Duration::from_secs(5);

struct Still;

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

/// A hub, and what must be true of it whatever stands in its segment.
struct Stage {
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
    fn new(memory: Arc<Memory>, seed: u64, often: u64) -> Stage {
        let mut hub = Hub::new(memory);
        hub.renew(u64::MAX);
        Stage {
            words: Haunted::new(hub, seed, often),
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
    fn step(&mut self) {
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

    fn attach(&mut self) {
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

fn seeds(usual: u64) -> u64 {
    std::env::var("OARLOCK_HOSTILE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

#[test]
fn whatever_is_written_between_two_calls_the_node_knows_what_it_knew() {
    for seed in 0..seeds(400) {
        let often = [8, 64, 200][seed as usize % 3];
        let mut stage = Stage::new(Memory::private(GEOMETRY, seed), seed, often);
        for _ in 0..3 {
            stage.attach();
        }
        for _ in 0..400 {
            stage.step();
        }
    }
}

/// The same while another thread writes without a pause.
#[test]
fn whatever_is_written_during_a_call_it_returns() {
    let over = AtomicBool::new(false);
    for seed in 0..seeds(6) {
        let memory = Memory::private(GEOMETRY, seed);
        over.store(false, Ordering::Relaxed);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let hand = Hand::new(&memory, seed + 1_000);
                while !over.load(Ordering::Relaxed) {
                    hand.write();
                }
            });
            let guard = Over(&over);
            let mut stage = Stage::new(Arc::clone(&memory), seed, 8);
            let mut longest = Duration::ZERO;
            for _ in 0..20_000 {
                let began = Instant::now();
                stage.step();
                longest = longest.max(began.elapsed());
            }
            assert!(longest < LONG, "one call took {longest:?}");
            drop(guard);
        });
    }
}

/// Ends the writer also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A session that changes what its entries say after its end must not keep its place for ever.
#[test]
fn places_whose_entries_lie_are_not_lost() {
    let memory = Memory::private(GEOMETRY, 1);
    let mut hub = Hub::new(Arc::clone(&memory));
    hub.renew(u64::MAX);
    let name = Name::new(b"r").unwrap();
    let slot = hub.bind(&name).unwrap();
    hub.raise(slot, Mode::EX, Fence::new(Epoch(1), 1));
    for number in 0..100 {
        let session = SessionId(number);
        let place = hub.attach(session, 0).expect("a place");
        hub.clear_gate(slot);
        let caller = Caller::new(Arc::clone(&memory), place, Still);
        let spot = caller.find(name.as_bytes()).unwrap();
        let Taken::Held { hold, .. } =
            caller.acquire(spot, Mode::PR, &Party::default(), false, First::seat(0))
        else {
            panic!("it is free");
        };
        hub.end(session);
        // Another program, whose session goes on, maps the same segment.
        memory.scribble(GEOMETRY.entry(place.area, hold.entry) + entry::SLOT, u64::MAX);
        for lock in hub.of_session(session) {
            hub.drop(lock);
        }
        hub.bury(session);
    }
}

/// Bells of slots that bear no name are answered some at a time.
#[test]
fn whoever_rings_for_what_is_gone_does_not_keep_the_node() {
    let geometry = Geometry { slots: 2_000, ..GEOMETRY };
    let memory = Memory::private(geometry, 1);
    let mut hub = Hub::new(Arc::clone(&memory));
    let name = |n: u32| Name::new(&n.to_le_bytes()).unwrap();
    let slots: Vec<Slot> = (0..2_000).map(|n| hub.bind(&name(n)).unwrap()).collect();
    let last = slots[1_999];
    assert!(slots[..1_999].iter().all(|slot| hub.evict(*slot)));
    (geometry.bells()..geometry.slot(0)).for_each(|cell| memory.scribble(cell, u64::MAX));
    let mut calls = 1;
    while hub.poll_bell() != Some(last) {
        assert!(!hub.fall_asleep(), "the last bell waits");
        calls += 1;
    }
    assert!((4..10).contains(&calls), "{calls} calls");
}
