//! One step after the other: what callers and the node do to a segment, in the order in which it is written here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, LockId, SessionId, SharedHandle, Slot};
use oarlock_layout::limit::{LEASE_FROZEN, NAME_BYTES_MAX, VALUE_BYTES};
use oarlock_layout::mode::Mode::{self, *};
use oarlock_layout::name::Name;
use oarlock_layout::segment::{Claim, Geometry, Grant, Stage as EntryStage, State, Words};
use oarlock_layout::token::Fence;
use oarlock_shm::{Answer, Caller, Clock, First, Hold, Hub, Loss, Memory, Party, Spot, Taken, Ticket};

#[derive(Clone, Default)]
struct TestClock(Arc<AtomicU64>);

impl Clock for TestClock {
    fn coarse(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Stage {
    hub: Hub,
    looker: u32,
    clock: TestClock,
}

const LEASE: u64 = 10_000_000_000;

impl Stage {
    fn new() -> Stage {
        let memory = Memory::private(Geometry { slots: 100, areas: 70, entries: 64 }, 3);
        let mut hub = Hub::new(memory);
        hub.renew(LEASE);
        Stage { hub, looker: 1_000, clock: TestClock::default() }
    }

    fn session(&mut self, number: u32) -> Caller<TestClock> {
        let place = self.hub.attach(SessionId(number), 0).unwrap();
        Caller::new(Arc::clone(self.hub.memory()), place, self.clock.clone())
    }

    /// A resource that this node owns in `mode`, open to callers.
    fn owned(&mut self, name: &str, mode: Mode) -> (Slot, Spot) {
        let slot = self.hub.bind(&Name::new(name.as_bytes()).unwrap()).unwrap();
        self.hub.raise(slot, mode, Fence::new(Epoch(1), 1));
        self.hub.clear_gate(slot);
        self.looker += 1;
        let spot = self.session(self.looker).find(name.as_bytes()).unwrap();
        (slot, spot)
    }

    fn counts(&self, slot: Slot) -> [u32; 6] {
        self.hub.look(slot).counts.0
    }

    fn admit(&mut self, slot: Slot, session: u32, ticket: Ticket, mode: Mode) -> bool {
        let handle = SharedHandle { segment: 0, entry: ticket.entry };
        let lock = LockId::new(SessionId(session), handle.number());
        let flags = Flags::QUIET;
        self.hub.admit(slot, mode, Claim { lock, flags, ..Claim::default() }).is_some()
    }
}

fn held(taken: Taken) -> Hold {
    match taken {
        Taken::Held { hold, .. } => hold,
        other => panic!("{other:?}"),
    }
}

fn waits(taken: Taken) -> Ticket {
    match taken {
        Taken::Wait(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

const PARTY: Party = Party { owner: 1, transaction: 2, flags: Flags::empty() };

/// M1, C1: the caller alone; M9: a release that leaves more owned than needed is counted.
#[test]
fn a_lock_that_the_node_owns_is_taken_and_given_back_by_the_caller() {
    let mut stage = Stage::new();
    let (slot, spot) = stage.owned("r", EX);
    let caller = stage.session(1);
    let hold = held(caller.acquire(spot, EX, &PARTY, true, First::seat(0)));
    assert_eq!(stage.counts(slot), [0, 0, 0, 0, 0, 1]);
    let entries = stage.hub.entries(slot);
    assert_eq!((entries.len(), entries[0].mode, entries[0].fast), (1, EX, true));
    assert_eq!((entries[0].claim.owner.0, entries[0].claim.transaction.0), (1, 2));
    assert_eq!(caller.release(hold), Ok(false));
    assert_eq!(stage.counts(slot), [0; 6]);
    assert!(stage.hub.entries(slot).is_empty());
    let tally = stage.hub.tally();
    assert_eq!((tally.grants, tally.considered, tally.handed_over), (1, 1, 0));
}

#[test]
fn who_does_not_wait_hears_why_and_leaves_no_trace() {
    let mut stage = Stage::new();
    let (slot, spot) = stage.owned("r", PR);
    let (one, two) = (stage.session(1), stage.session(2));
    assert_eq!(one.acquire(spot, EX, &PARTY, false, First::seat(0)), Taken::NotOwned);
    stage.hub.raise(slot, EX, Fence::new(Epoch(1), 2));
    let hold = held(one.acquire(spot, EX, &PARTY, false, First::seat(0)));
    assert_eq!(two.acquire(spot, PR, &PARTY, false, First::seat(0)), Taken::Busy);
    assert!(!stage.hub.look(slot).gate);
    one.release(hold).unwrap();
    held(two.acquire(spot, PR, &PARTY, false, First::seat(0)));
}

/// M10: who finds somebody in the way sets the gate. M4: the node finds its entry from the slot.
#[test]
fn a_waiter_sets_the_gate_and_the_releaser_rings() {
    let mut stage = Stage::new();
    let (slot, spot) = stage.owned("r", EX);
    let (one, two, three) = (stage.session(1), stage.session(2), stage.session(3));
    let hold = held(one.acquire(spot, EX, &PARTY, true, First::seat(0)));
    let ticket = waits(two.acquire(spot, EX, &PARTY, true, First::seat(0)));
    assert!(stage.hub.look(slot).gate);
    waits(three.acquire(spot, NL, &PARTY, true, First::seat(0)));
    assert!(!stage.admit(slot, 2, ticket, EX));
    assert!(stage.hub.fall_asleep());
    assert_eq!(one.release(hold), Ok(true), "the node sleeps");
    stage.hub.wake_up();
    assert_eq!(stage.hub.poll_bell(), Some(slot));
    assert!(stage.admit(slot, 2, ticket, EX));
    let wake = stage.hub.poll_wake().unwrap();
    assert_eq!(wake.entry, ticket.entry);
    let Answer::Held(hold) = two.look(ticket) else { panic!() };
    let hold = held(two.wake(hold));
    assert_eq!(two.draw_token(hold).unwrap().local, 1);
    two.release(hold).unwrap();
    assert_eq!(stage.counts(slot), [0; 6]);
}

/// M10.
#[test]
fn a_releaser_hands_over_to_the_waiter_that_was_offered() {
    let mut stage = Stage::new();
    let (slot, spot) = stage.owned("r", EX);
    let (one, two) = (stage.session(1), stage.session(2));
    let hold = held(one.acquire(spot, EX, &PARTY, true, First::seat(0)));
    let ticket = waits(two.acquire(spot, PR, &PARTY, true, First::seat(0)));
    let lock = LockId::new(SessionId(2), SharedHandle { segment: 0, entry: ticket.entry }.number());
    stage.hub.set_gate(slot);
    stage.hub.offer(slot, Some((lock, PR)));
    assert_eq!(stage.hub.taken(slot), None);
    one.release(hold).unwrap();
    assert_eq!(stage.counts(slot), [0, 0, 0, 1, 0, 0]);
    let Answer::Held(hold) = two.look(ticket) else { panic!() };
    assert_eq!(hold.mode, PR);
    assert!(!stage.hub.refuse(lock), "it was granted");
    two.release(hold).unwrap();
    assert_eq!(stage.hub.poll_bell(), Some(slot));
    assert_eq!(stage.hub.taken(slot), Some(lock), "although it is over");
    assert_eq!(stage.hub.taken(slot), None);
    assert_eq!(stage.hub.tally().handed_over, 1);
}

/// R9.
#[test]
fn a_cancelled_wait_is_not_granted_and_a_granted_one_not_cancelled() {
    let mut stage = Stage::new();
    let (slot, spot) = stage.owned("r", EX);
    let (one, two) = (stage.session(1), stage.session(2));
    let hold = held(one.acquire(spot, EX, &PARTY, true, First::seat(0)));
    let ticket = waits(two.acquire(spot, EX, &PARTY, true, First::seat(0)));
    assert_eq!(two.withdraw(ticket), None);
    one.release(hold).unwrap();
    assert!(!stage.admit(slot, 2, ticket, EX), "it was withdrawn");
    assert_eq!(stage.counts(slot), [0; 6]);
    two.close(ticket.entry);
    let ticket = waits(two.acquire(spot, EX, &PARTY, true, First::seat(0)));
    assert!(stage.admit(slot, 2, ticket, EX));
    let hold = two.withdraw(ticket).expect("the grant was quicker");
    two.release(hold).unwrap();
    assert_eq!(stage.counts(slot), [0; 6]);
}

#[test]
fn conversions_move_counts_and_the_strange_pair_asks() {
    let mut stage = Stage::new();
    let (slot, spot) = stage.owned("r", EX);
    let (one, two) = (stage.session(1), stage.session(2));
    let hold = held(one.acquire(spot, EX, &PARTY, true, First::seat(0)));
    let hold = held(one.lower(hold, PR));
    let other = held(two.acquire(spot, PR, &PARTY, true, First::seat(0)));
    assert_eq!(stage.counts(slot), [0, 0, 0, 2, 0, 0]);
    assert_eq!(one.raise(hold, EX), Taken::Busy);
    two.release(other).unwrap();
    let hold = held(one.raise(hold, EX));
    assert_eq!(stage.counts(slot), [0, 0, 0, 0, 0, 1]);
    let ticket = one.ask_convert(hold, CW).unwrap();
    let lock = LockId::new(SessionId(1), SharedHandle { segment: 0, entry: ticket.entry }.number());
    assert!(stage.hub.convert(lock, CW).is_some());
    let Answer::Held(hold) = one.look(ticket) else { panic!() };
    assert_eq!((hold.mode, stage.counts(slot)), (CW, [0, 0, 1, 0, 0, 0]));
}

#[test]
fn the_lease_the_epoch_and_the_session_end_belief() {
    let mut stage = Stage::new();
    let (slot, spot) = stage.owned("r", EX);
    let (one, two) = (stage.session(1), stage.session(2));
    let hold = held(one.acquire(spot, PR, &PARTY, true, First::seat(0)));
    stage.clock.0.store(LEASE, Ordering::Relaxed);
    assert_eq!(one.acquire(spot, PR, &PARTY, true, First::seat(0)), Taken::Lost(Loss::Lease));
    assert_eq!(one.draw_token(hold), None);
    stage.clock.0.store(0, Ordering::Relaxed);
    stage.hub.end(SessionId(1));
    assert_eq!(one.acquire(spot, PR, &PARTY, true, First::seat(0)), Taken::Lost(Loss::Session));
    assert!(one.release(hold).is_err() && !one.holds(hold));
    let locks = stage.hub.of_session(SessionId(1));
    assert_eq!((locks.len(), stage.counts(slot)), (1, [0, 0, 0, 1, 0, 0]));
    assert_eq!(stage.hub.drop(locks[0]).unwrap().mode, PR);
    assert_eq!(stage.counts(slot), [0; 6]);
    stage.hub.turn_epoch();
    assert_eq!(two.acquire(spot, PR, &PARTY, true, First::seat(0)), Taken::Lost(Loss::Epoch));
    assert_eq!(stage.counts(slot), [0; 6], "what was taken is given back");
}

/// L6, M10: from when the lease is at risk nothing new is believed, whoever grants it, and what is held stays so. Who waits
/// is granted once it is renewed, in the same epoch, before whoever comes then.
#[test]
fn nothing_new_is_granted_while_the_lease_is_at_risk_and_what_is_held_stays() {
    let frozen = LEASE - LEASE_FROZEN.as_nanos() as u64;
    let mut stage = Stage::new();
    let (slot, spot) = stage.owned("r", EX);
    let (one, two, three) = (stage.session(1), stage.session(2), stage.session(3));
    let at = |stage: &Stage, time| stage.clock.0.store(time, Ordering::Relaxed);
    at(&stage, frozen - 1);
    let hold = held(one.acquire(spot, PR, &PARTY, true, First::seat(0)));
    let other = held(three.acquire(spot, CR, &PARTY, true, First::seat(0)));
    at(&stage, frozen);
    assert!(one.frozen() && one.living().is_ok() && one.holds(hold));
    // Who does not wait hears that it is not to be had here, and leaves nothing.
    assert_eq!(two.acquire(spot, PR, &PARTY, false, First::seat(0)), Taken::NotOwned);
    assert_eq!((stage.counts(slot), stage.hub.look(slot).gate), ([0, 1, 0, 1, 0, 0], false));
    // A way up is no better, a way down and a release are.
    assert!(one.release(hold).is_ok());
    let Taken::Frozen { hold: other, .. } = three.raise(other, PW) else { panic!("it was raised") };
    assert_eq!((other.mode, stage.counts(slot)), (CR, [0, 1, 0, 0, 0, 0]));
    let hold = held(three.lower(other, NL));
    // Who waits has set the gate before anybody else can come.
    let ticket = waits(two.acquire(spot, EX, &PARTY, true, First::seat(0)));
    assert!(stage.hub.look(slot).gate);
    assert!(!matches!(two.look(ticket), Answer::Held(_)), "it is not granted");
    stage.hub.renew(2 * LEASE);
    assert!(!two.frozen());
    assert_eq!(one.acquire(spot, PR, &PARTY, false, First::seat(0)), Taken::Busy, "nobody overtakes");
    assert!(stage.admit(slot, 2, ticket, EX));
    let Answer::Held(granted) = two.look(ticket) else { panic!("it was admitted") };
    let granted = held(two.wake(granted));
    // What was handed over while it is at risk is counted, and believed once it is renewed.
    at(&stage, LEASE + frozen);
    assert!(matches!(two.wake(granted), Taken::Frozen { hold, .. } if hold == granted));
    stage.hub.renew(3 * LEASE);
    assert!(matches!(two.wake(granted), Taken::Held { .. }));
    at(&stage, 3 * LEASE);
    assert_eq!(two.wake(granted), Taken::Lost(Loss::Lease));
    assert!(two.release(granted).is_ok() && three.release(hold).is_ok());
}

/// M7: in its slot, or in as many granules as it needs.
#[test]
fn a_name_of_any_length_is_found() {
    let mut stage = Stage::new();
    let name = |length: usize| "oarlock/".repeat(32)[..length].to_owned();
    let caller = stage.session(1);
    for length in 1..=NAME_BYTES_MAX {
        let slot = stage.hub.bind(&Name::new(name(length).as_bytes()).unwrap()).unwrap();
        let spot = caller.find(name(length).as_bytes());
        assert_eq!(spot.map(|spot| spot.slot), Some(slot.0), "{length} bytes");
        assert!(stage.hub.evict(slot));
        assert_eq!(caller.find(name(length).as_bytes()), None, "{length} bytes");
    }
}

/// M7.
#[test]
fn a_slot_that_changed_hands_is_not_taken_for_the_old_name() {
    let mut stage = Stage::new();
    let (slot, spot) = stage.owned("old", EX);
    let caller = stage.session(1);
    assert!(stage.hub.evict(slot));
    assert_eq!(caller.find(b"old"), None);
    assert_eq!(caller.acquire(spot, EX, &PARTY, true, First::seat(0)), Taken::Moved);
    let (again, new) = stage.owned("new", EX);
    assert_eq!(again, slot);
    assert_eq!(caller.acquire(spot, EX, &PARTY, true, First::seat(0)), Taken::Moved);
    let hold = held(caller.acquire(new, EX, &PARTY, true, First::seat(0)));
    assert!(!stage.hub.evict(slot));
    caller.release(hold).unwrap();
}

#[test]
fn a_full_count_is_kept_by_the_node() {
    let mut stage = Stage::new();
    let (slot, spot) = stage.owned("r", EX);
    let first = stage.session(500);
    let writer = held(first.acquire(spot, EX, &PARTY, true, First::seat(0)));
    let callers: Vec<_> = (1..=60).map(|n| (n, stage.session(n))).collect();
    let mut tickets = Vec::new();
    for (n, caller) in &callers {
        for hint in 0..20 {
            tickets.push((*n, caller, waits(caller.acquire(spot, PR, &PARTY, true, First::shared(hint)))));
        }
    }
    first.release(writer).unwrap();
    for (session, _, ticket) in &tickets {
        assert!(stage.admit(slot, *session, *ticket, PR));
    }
    assert_eq!(stage.counts(slot), [0, 0, 0, 1_200, 0, 0]);
    assert_eq!(stage.hub.entries(slot).len(), 1_200);
    for (n, (_, caller, ticket)) in tickets.iter().enumerate() {
        let Answer::Held(hold) = caller.look(*ticket) else { panic!() };
        if n % 2 == 0 {
            // R9: whoever comes too late to withdraw holds it, in whichever table, and gives it back.
            assert_eq!(caller.withdraw(*ticket), Some(hold), "{n}");
        }
        caller.release(hold).unwrap();
    }
    while stage.hub.poll_bell().is_some() {}
    assert_eq!(stage.counts(slot), [0; 6]);
    assert!(stage.hub.entries(slot).is_empty());
}

/// M6.
#[test]
fn values_pass_from_writer_to_reader() {
    let mut stage = Stage::new();
    let (slot, spot) = stage.owned("r", EX);
    let party = Party { flags: Flags::VALBLK, ..PARTY };
    let (one, two) = (stage.session(1), stage.session(2));
    assert_eq!(
        one.acquire(spot, EX, &party, false, First::seat(0)),
        Taken::NotOwned,
        "the master must know first"
    );
    stage.hub.set_value_ready(slot, true);
    let hold = held(one.acquire(spot, EX, &party, true, First::seat(0)));
    assert!(one.write_value(hold, Some([7; VALUE_BYTES])));
    one.release(hold).unwrap();
    let hold = held(two.acquire(spot, PR, &party, true, First::seat(0)));
    assert_eq!(two.value(hold).unwrap().bytes, [7; VALUE_BYTES]);
    assert_eq!(stage.hub.value(slot).sequence, 1);
    assert!(!two.write_value(hold, Some([8; VALUE_BYTES])), "PR does not write");
}

#[test]
fn a_change_of_mode_that_was_asked_for_stays_asked_until_the_node_answers() {
    let mut stage = Stage::new();
    let (slot, spot) = stage.owned("r", EX);
    let caller = stage.session(1);
    let hold = held(caller.acquire(spot, PR, &PARTY, true, First::seat(0)));
    let ticket = caller.ask_convert(hold, EX).unwrap();
    assert_eq!(caller.withdraw(ticket), None);
    assert!(matches!(caller.look(ticket), Answer::Waiting(_)), "its program does not take the old mode back");
    assert!(caller.release(hold).is_err());
    let lock = LockId::new(SessionId(1), SharedHandle { segment: 0, entry: ticket.entry }.number());
    assert!(stage.hub.refuse(lock));
    let Answer::Held(hold) = caller.look(ticket) else { panic!() };
    assert_eq!(hold.mode, PR);
    caller.release(hold).unwrap();
    assert_eq!(stage.counts(slot), [0; 6]);
}

#[test]
fn whoever_takes_a_segment_over_counts_anew() {
    let mut stage = Stage::new();
    let (slot, spot) = stage.owned("r", EX);
    let (one, two) = (stage.session(1), stage.session(2));
    held(one.acquire(spot, PR, &PARTY, true, First::seat(0)));
    held(two.acquire(spot, CR, &PARTY, true, First::seat(0)));
    // A count that no entry stands for: its owner died between the word and its entry, and the node with it.
    let memory = stage.hub.memory().copy();
    let word = memory.geometry().slot(slot.0);
    let phantom = Grant(memory.peek(word)).with(PR).unwrap();
    memory.scribble(word, phantom.0);
    let area = |session: u32, area: u32| (area, SessionId(session), 0);
    let name = |_| Some(Name::new(b"r").unwrap());
    // Areas are given out in order: the first went to whoever looked the name up.
    let mut hub = Hub::adopt(memory, &[area(7, 0), area(1, 1)], |dead| SessionId(100 + dead), name);
    assert_eq!(hub.look(slot).counts.0, [0, 1, 0, 1, 0, 0]);
    let locks = hub.of_session(SessionId(102));
    assert_eq!((locks.len(), hub.drop(locks[0]).map(|entry| entry.mode)), (1, Some(CR)));
    assert_eq!(hub.look(slot).counts.0, [0, 0, 0, 1, 0, 0]);
    assert_eq!(hub.entries(slot).len(), 1);
}

#[test]
fn a_recount_moves_every_waiter_on_and_wakes_it() {
    let mut stage = Stage::new();
    let (slot, spot) = stage.owned("r", EX);
    let (one, two, three) = (stage.session(1), stage.session(2), stage.session(3));
    let hold = held(one.acquire(spot, EX, &PARTY, true, First::seat(0)));
    let ticket = waits(two.acquire(spot, EX, &PARTY, true, First::seat(0)));
    waits(three.acquire(spot, EX, &PARTY, true, First::seat(0)));
    // Nobody is offered. The third dies in an attempt: its entry says so, and the word may count it or not.
    let geometry = stage.hub.memory().geometry();
    let cell = geometry.entry(3, 0);
    let waiting = State(stage.hub.memory().peek(cell));
    stage.hub.memory().scribble(cell, waiting.to(EntryStage::Trying, Some(EX), None).0);
    let Answer::Waiting(before) = two.look(ticket) else { panic!() };
    stage.hub.end(SessionId(3));
    let Answer::Waiting(after) = two.look(ticket) else { panic!() };
    assert_eq!(after.generation(), before.generation() + 1, "a releaser that stood still must not grant it");
    assert_eq!(stage.hub.poll_wake().map(|wake| wake.entry), Some(ticket.entry));
    assert_eq!(stage.counts(slot), [0, 0, 0, 0, 0, 1]);
    one.release(hold).unwrap();
    assert!(stage.admit(slot, 2, ticket, EX));
}

#[test]
fn who_asks_after_its_session_ended_does_not_wait_for_an_answer() {
    let mut stage = Stage::new();
    let caller = stage.session(1);
    stage.hub.end(SessionId(1));
    assert_eq!(caller.ask(EX, &PARTY, First::seat(0)), Taken::Lost(Loss::Session));
    assert_eq!(caller.ask(EX, &PARTY, First::seat(0)), Taken::Lost(Loss::Session), "and leaves no trace");
}

#[test]
fn an_area_that_is_used_again_has_nothing_of_its_last_session() {
    let mut stage = Stage::new();
    let first = stage.hub.attach(SessionId(1), 0).unwrap();
    let caller = Caller::new(Arc::clone(stage.hub.memory()), first, stage.clock.clone());
    assert_eq!(waits(caller.ask(EX, &PARTY, First::seat(0))).entry, 0);
    stage.hub.end(SessionId(1));
    // Its program has not seen that yet, takes the entry once more, and is killed.
    let cell = stage.hub.memory().geometry().entry(first.area, 0);
    let free = State(stage.hub.memory().peek(cell));
    stage.hub.memory().scribble(cell, free.to(EntryStage::Waiting, Some(EX), None).0);
    stage.hub.bury(SessionId(1));
    let second = stage.hub.attach(SessionId(2), 0).unwrap();
    assert_eq!(second.area, first.area);
    let left = State(stage.hub.memory().peek(cell));
    assert_eq!(left.stage(), Some(EntryStage::Free));
    assert!(left.generation() > free.generation());
}

#[test]
fn who_came_while_the_gate_was_open_is_told_when_it_is_set_again() {
    let mut stage = Stage::new();
    let (slot, spot) = stage.owned("r", EX);
    let caller = stage.session(1);
    stage.hub.set_gate(slot);
    assert!(stage.hub.notice(slot, EX, None).is_empty(), "nobody is here");
    // Who waited gives up.
    stage.hub.clear_gate(slot);
    let hold = held(caller.acquire(spot, PR, &PARTY, true, First::seat(0)));
    stage.hub.set_gate(slot);
    assert_eq!(stage.hub.notice(slot, EX, None).len(), 1, "it was told nothing yet");
    assert_ne!(caller.told(hold), 0);
}

#[test]
fn a_lock_that_waits_anew_is_not_granted_for_the_one_that_was_handed_over() {
    let mut stage = Stage::new();
    let (slot, spot) = stage.owned("r", EX);
    let (one, two) = (stage.session(1), stage.session(2));
    let hold = held(one.acquire(spot, EX, &PARTY, true, First::seat(0)));
    let first = waits(two.acquire(spot, PR, &PARTY, true, First::seat(0)));
    let lock = LockId::new(SessionId(2), SharedHandle { segment: 0, entry: first.entry }.number());
    stage.hub.offer(slot, Some((lock, PR)));
    // The releaser grants it, it is given back, and its program asks for another mode in the same entry: all that before
    // the node looks.
    one.release(hold).unwrap();
    let Answer::Held(hold) = two.look(first) else { panic!() };
    two.release(hold).unwrap();
    let again = waits(two.acquire(spot, EX, &PARTY, true, First::seat(0)));
    assert_eq!(again.entry, first.entry);
    assert!(!stage.admit(slot, 2, first, PR), "that one was granted");
    assert!(matches!(two.look(again), Answer::Waiting(_)));
    assert_eq!(stage.hub.taken(slot), Some(lock));
    assert!(stage.admit(slot, 2, again, EX));
}

#[test]
fn a_refused_change_of_mode_does_not_hide_that_the_lock_was_handed_over() {
    let mut stage = Stage::new();
    let (slot, spot) = stage.owned("r", EX);
    let (one, two) = (stage.session(1), stage.session(2));
    let hold = held(one.acquire(spot, EX, &PARTY, true, First::seat(0)));
    let ticket = waits(two.acquire(spot, PR, &PARTY, true, First::seat(0)));
    let lock = LockId::new(SessionId(2), SharedHandle { segment: 0, entry: ticket.entry }.number());
    stage.hub.offer(slot, Some((lock, PR)));
    one.release(hold).unwrap();
    let Answer::Held(hold) = two.look(ticket) else { panic!() };
    two.ask_convert(hold, CW).unwrap();
    assert!(stage.hub.refuse(lock));
    assert_eq!(stage.hub.taken(slot), Some(lock), "its request waits for an answer still");
}

#[test]
fn a_lock_that_waits_anew_is_not_refused_for_the_one_that_was_handed_over() {
    let mut stage = Stage::new();
    let (slot, spot) = stage.owned("r", EX);
    let (one, two) = (stage.session(1), stage.session(2));
    let hold = held(one.acquire(spot, EX, &PARTY, true, First::seat(0)));
    let first = waits(two.acquire(spot, PR, &PARTY, true, First::seat(0)));
    let lock = LockId::new(SessionId(2), SharedHandle { segment: 0, entry: first.entry }.number());
    stage.hub.offer(slot, Some((lock, PR)));
    one.release(hold).unwrap();
    let Answer::Held(hold) = two.look(first) else { panic!() };
    two.release(hold).unwrap();
    let again = waits(two.acquire(spot, EX, &PARTY, true, First::seat(0)));
    assert_eq!(again.entry, first.entry);
    assert!(!stage.hub.refuse(lock), "it was granted");
    assert!(matches!(two.look(again), Answer::Waiting(_)));
    assert_eq!(stage.hub.taken(slot), Some(lock));
    assert!(stage.hub.refuse(lock));
    assert_eq!(two.look(again), Answer::Refused);
}

#[test]
fn whoever_takes_a_segment_over_never_shows_a_word_that_counts_too_little() {
    let mut stage = Stage::new();
    let (slot, spot) = stage.owned("r", EX);
    let (dead, _also_dead, living) = (stage.session(1), stage.session(2), stage.session(3));
    held(living.acquire(spot, EX, &PARTY, true, First::seat(0)));
    waits(dead.acquire(spot, EX, &PARTY, true, First::seat(0)));
    // One died in an attempt: as soon as its area is looked at, the word is counted anew. The holder's comes later.
    let memory = stage.hub.memory().copy();
    let geometry = memory.geometry();
    let waiting = State(memory.peek(geometry.entry(1, 0)));
    memory.scribble(geometry.entry(1, 0), waiting.to(EntryStage::Trying, Some(EX), None).0);
    let look = |dead| {
        assert_eq!(Grant(memory.peek(geometry.slot(slot.0))).count(EX), 1, "at area {dead}");
        SessionId(100 + dead)
    };
    let name = |_| Some(Name::new(b"r").unwrap());
    let hub = Hub::adopt(Arc::clone(&memory), &[(0, SessionId(1_001), 0), (3, SessionId(3), 0)], look, name);
    assert_eq!(hub.look(slot).counts.0, [0, 0, 0, 0, 0, 1]);
}

#[test]
fn a_change_of_mode_down_is_not_answered_before_the_word_says_so() {
    let mut stage = Stage::new();
    let (slot, spot) = stage.owned("r", EX);
    let caller = stage.session(1);
    let ticket =
        caller.ask_convert(held(caller.acquire(spot, EX, &PARTY, true, First::seat(0))), PR).unwrap();
    // As the node leaves the entry while it changes the word: who released PR now would find none counted.
    let memory = Arc::clone(stage.hub.memory());
    let cell = memory.geometry().entry(1, 0);
    let asking = State(memory.peek(cell));
    memory.scribble(cell, asking.to(EntryStage::Lowering, Some(EX), Some(PR)).0);
    assert!(matches!(caller.look(ticket), Answer::Waiting(_)));
    memory.scribble(cell, asking.0);
    let lock = LockId::new(SessionId(1), SharedHandle { segment: 0, entry: ticket.entry }.number());
    assert!(stage.hub.convert(lock, PR).is_some());
    let Answer::Held(hold) = caller.look(ticket) else { panic!() };
    assert_eq!((hold.mode, stage.counts(slot)), (PR, [0, 0, 0, 1, 0, 0]));
    caller.release(hold).unwrap();
    assert_eq!(stage.counts(slot), [0; 6]);
}

/// Two was handed over to, has given the lock back, and waits with another one in the same entry; the node has not heard.
fn handed_over_and_gone() -> (Stage, Slot, Spot, Caller<TestClock>, Ticket, LockId) {
    let mut stage = Stage::new();
    let (slot, spot) = stage.owned("r", EX);
    let (one, two) = (stage.session(1), stage.session(2));
    let hold = held(one.acquire(spot, EX, &PARTY, true, First::seat(0)));
    let ticket = waits(two.acquire(spot, EX, &PARTY, true, First::seat(0)));
    let lock = LockId::new(SessionId(2), SharedHandle { segment: 0, entry: ticket.entry }.number());
    stage.hub.set_gate(slot);
    stage.hub.offer(slot, Some((lock, EX)));
    one.release(hold).unwrap();
    let Answer::Held(hold) = two.look(ticket) else { panic!() };
    two.release(hold).unwrap();
    let ticket = waits(two.acquire(spot, PR, &PARTY, true, First::seat(0)));
    (stage, slot, spot, two, ticket, lock)
}

#[test]
fn a_lock_that_was_handed_over_is_not_granted_to_the_next_in_its_entry() {
    let (mut stage, slot, _, two, ticket, lock) = handed_over_and_gone();
    assert!(!stage.admit(slot, 2, ticket, EX), "it waits for PR, and its request has not come yet");
    assert!(!stage.hub.refuse(lock), "what is refused was granted, and another waits");
    assert!(matches!(two.look(ticket), Answer::Waiting(_)));
    assert_eq!(stage.hub.taken(slot), Some(lock));
    assert!(stage.admit(slot, 2, ticket, PR));
    assert_eq!(stage.counts(slot), [0, 0, 0, 1, 0, 0]);
}

#[test]
fn a_recount_does_not_offer_the_next_in_the_entry_of_a_lock_that_was_handed_over() {
    let (mut stage, slot, spot, _two, _, lock) = handed_over_and_gone();
    let three = stage.session(3);
    waits(three.acquire(spot, PR, &PARTY, true, First::seat(0)));
    let memory = Arc::clone(stage.hub.memory());
    let cell = memory.geometry().entry(3, 0);
    let waiting = State(memory.peek(cell));
    memory.scribble(cell, waiting.to(EntryStage::Trying, Some(PR), None).0);
    stage.hub.end(SessionId(3));
    assert_eq!(stage.hub.taken(slot), Some(lock), "the node hears that it was granted");
}

/// R5: a writer that keeps to the rules, and a node that reads the block beside it.
#[test]
fn a_block_that_is_written_all_the_time_is_never_said_to_be_none() {
    let mut stage = Stage::new();
    let (slot, spot) = stage.owned("r", EX);
    stage.hub.set_value_ready(slot, true);
    let party = Party { flags: Flags::VALBLK, ..PARTY };
    let one = stage.session(1);
    let hold = held(one.acquire(spot, EX, &party, true, First::seat(0)));
    assert!(one.write_value(hold, Some([7; VALUE_BYTES])));
    one.release(hold).unwrap();
    let over = std::sync::atomic::AtomicBool::new(false);
    let (mut never, mut all) = (0u64, 0u64);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let hold = held(one.acquire(spot, PW, &party, true, First::seat(0)));
                one.write_value(hold, Some([8; VALUE_BYTES]));
                one.release(hold).unwrap();
            }
        });
        let end = std::time::Instant::now() + std::time::Duration::from_secs(1);
        while std::time::Instant::now() < end {
            all += 1;
            let value = stage.hub.value(slot);
            never += u64::from(value.valid && value.sequence == 0);
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(never, 0, "of {all}");
}

/// L5: the node's side goes on from what it wrote down, while callers go on in the segment and see nothing of it.
#[test]
fn a_node_goes_on_from_what_it_wrote_down() {
    let mut stage = Stage::new();
    let (x, x_spot) = stage.owned("x", EX);
    let long = "a name that does not fit into a slot, so that granules are given out for it";
    let (y, y_spot) = stage.owned(long, PR);
    let (one, two) = (stage.session(1), stage.session(2));
    let hold = held(one.acquire(x_spot, EX, &PARTY, true, First::seat(0)));
    let _shared = held(two.acquire(y_spot, PR, &PARTY, true, First::seat(0)));
    let ticket = waits(two.acquire(x_spot, EX, &PARTY, true, First::seat(1)));
    // One of a program that maps no segment: it stands in the node's own table.
    let kept = LockId::new(SessionId(9), 7);
    assert!(stage.hub.admit(y, PR, Claim { lock: kept, ..Claim::default() }).is_some());
    stage.hub.notice(y, EX, None);
    let written = stage.hub.written();
    let memory = Arc::clone(stage.hub.memory());
    // While nobody stands behind the segment.
    assert!(one.release(hold).is_ok());
    let mut again = Hub::resume(Arc::clone(&memory), &written).unwrap();
    assert_eq!(again.written(), written, "what was read is what was written");
    std::mem::swap(&mut stage.hub, &mut again);
    assert_eq!(stage.hub.find(&Name::new(b"x").unwrap()), Some(x));
    assert_eq!(stage.hub.find(&Name::new(long.as_bytes()).unwrap()), Some(y));
    assert_eq!(stage.counts(y)[PR as usize], 2);
    assert_eq!(stage.hub.entry(kept).map(|entry| entry.mode), Some(PR));
    assert_eq!(stage.hub.notice(y, EX, None), [], "all have been told");
    assert!(stage.admit(x, 2, ticket, EX), "the release came while nobody was there");
    assert!(stage.hub.drop(kept).is_some());
    // Places go on being nobody else's.
    let _third = stage.session(3);
    stage.hub.end(SessionId(2));
    assert_eq!(stage.hub.of_session(SessionId(2)).len(), 2);
    // Half of it, or of another segment.
    (0..written.len()).step_by(7).for_each(|end| {
        assert!(Hub::resume(Arc::clone(&memory), &written[..end]).is_err(), "{end}");
    });
    let other = Memory::private(Geometry { slots: 100, areas: 70, entries: 64 }, 4);
    assert!(Hub::resume(other, &written).is_err());
}
