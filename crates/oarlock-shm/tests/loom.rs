//! Every order that C11 permits, in small runs under loom: what holds in all of them, and which rule makes it hold.
//!
//! `RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test -p oarlock-shm --features planted --test loom`
//!
//! Each scenario is a few operations of one or two programs and of the node. All cells of the segment for which they race
//! are atomics of loom (`src/watch.rs` says how they are found). A scenario must hold, and must fail with each of
//! the rules left out that stand in its last line; every fence of `src/sync.rs` stands in one of them.
//!
//! Where a scenario says how often threads are preempted at most, runs with more of that are left out.
//! `OARLOCK_LOOM_MORE` is added to these numbers. `--nocapture` shows how many runs there were and what failed.

#![cfg(all(loom, feature = "planted"))]

mod stage;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use loom::thread::spawn;
use oarlock_layout::id::{LockId, SessionId, Slot};
use oarlock_layout::limit::VALUE_BYTES;
use oarlock_layout::mode::Mode::{self, *};
use oarlock_layout::segment::Words;
use oarlock_layout::value::Value;
use oarlock_shm::planted::{Bug, Place, plant};
use oarlock_shm::{Answer, First, Memory, Taken};
use stage::{PARTY, Stage, held, hold_of, lock_of, waits};

// ----- exploring ----------------------------------------------------------------------------------------

thread_local! {
    static WATCHED: RefCell<BTreeSet<usize>> = const { RefCell::new(BTreeSet::new()) };
    static RACED: RefCell<Option<Arc<Memory>>> = const { RefCell::new(None) };
    static GREW: Cell<bool> = const { Cell::new(false) };
    static RUNS: Cell<u64> = const { Cell::new(0) };
}

/// Left an exploration to begin it anew.
struct Anew;

/// From here on so many race: programs, and the node.
fn race(threads: usize, stage: &Stage) {
    WATCHED.with_borrow(|watched| stage.memory().race(threads, watched.iter().copied()));
    RACED.set(Some(Arc::clone(stage.memory())));
}

/// The race is over; true if cells were raced for that loom did not order.
fn rest() {
    if let Some(memory) = RACED.take() {
        let more = memory.rest();
        GREW.set(GREW.get() || !more.is_empty());
        WATCHED.with_borrow_mut(|watched| watched.extend(more));
    }
}

/// Explores a scenario with a rule left out, or none. How many runs there were, or what failed.
fn explore(bug: Option<Bug>, preemptions: Option<usize>, scenario: fn()) -> Result<u64, String> {
    plant(bug);
    WATCHED.take();
    loop {
        GREW.set(false);
        RUNS.set(0);
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = preemptions.map(|preemptions| preemptions + more());
        builder.max_branches = 10_000;
        let run = move || {
            if GREW.get() {
                resume_unwind(Box::new(Anew));
            }
            RUNS.set(RUNS.get() + 1);
            scenario();
        };
        let result = catch_unwind(AssertUnwindSafe(|| builder.check(run)));
        rest();
        if GREW.get() {
            continue;
        }
        return result.map(|()| RUNS.get()).map_err(text);
    }
}

fn more() -> usize {
    std::env::var("OARLOCK_LOOM_MORE").map_or(0, |more| more.parse().expect("a number in OARLOCK_LOOM_MORE"))
}

fn text(payload: Box<dyn Any + Send>) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_string()
}

/// Holds as it is, and fails as said with each of these rules left out.
fn check(preemptions: Option<usize>, scenario: fn(), breaks: &[(Bug, &str)]) {
    let begin = std::time::Instant::now();
    match explore(None, preemptions, scenario) {
        Ok(runs) => {
            println!("held: {runs} runs, {} cells, {:?}", WATCHED.with_borrow(BTreeSet::len), begin.elapsed())
        }
        Err(why) => panic!("{why}"),
    }
    for (bug, expected) in breaks {
        let begin = std::time::Instant::now();
        match explore(Some(*bug), preemptions, scenario) {
            Ok(runs) => panic!("{bug:?} is left out, and nothing fails in {runs} runs"),
            Err(why) => {
                assert!(why.contains(expected), "{bug:?} fails, but not as expected: {why}");
                println!("{bug:?}: after {} runs, {:?}: {why}", RUNS.get(), begin.elapsed());
            }
        }
    }
}

const COMMIT: Bug = Bug::Fence(Place::Commit);
const TURN: Bug = Bug::Fence(Place::Turn);
const GATE: Bug = Bug::Fence(Place::Gate);

// ----- a grant against what ends it -----------------------------------------------------------------------

const UNTOLD: &str = "is believed, and nobody is told that it is lost";

/// M2.
#[test]
fn a_grant_is_told_lost_or_finds_the_epoch_turned() {
    let scenario = || {
        let mut stage = Stage::new(1);
        let (slot, spot) = stage.owned("r", EX);
        let one = stage.session(1);
        race(2, &stage);
        let caller = spawn(move || one.acquire(spot, EX, &PARTY, true, First::seat(0)));
        stage.hub.turn_epoch();
        let told = stage.hub.entries(slot);
        let taken = caller.join().unwrap();
        rest();
        assert!(hold_of(taken).is_none() || !told.is_empty(), "it {UNTOLD}");
    };
    check(Some(3), scenario, &[(COMMIT, UNTOLD), (TURN, UNTOLD)]);
}

/// The releaser, not the waiter, has written down that the waiter holds.
#[test]
fn a_grant_by_a_releaser_is_told_lost_or_finds_the_epoch_turned() {
    let scenario = || {
        let mut stage = Stage::new(1);
        let (slot, spot) = stage.owned("r", EX);
        let (one, two) = (stage.session(1), stage.session(2));
        let hold = held(one.acquire(spot, EX, &PARTY, true, First::seat(0)));
        let ticket = waits(two.acquire(spot, EX, &PARTY, true, First::seat(0)));
        let lock = lock_of(2, ticket.entry);
        stage.hub.set_gate(slot);
        stage.hub.offer(slot, Some((lock, EX)));
        race(3, &stage);
        let releaser = spawn(move || one.release(hold).is_ok());
        let waiter = spawn(move || match two.look(ticket) {
            Answer::Held(hold) => hold_of(two.wake(hold)),
            _ => None,
        });
        stage.hub.turn_epoch();
        let told = stage.hub.entries(slot);
        assert!(releaser.join().unwrap());
        let hold = waiter.join().unwrap();
        rest();
        assert!(hold.is_none() || told.iter().any(|entry| entry.claim.lock == lock), "it {UNTOLD}");
    };
    check(Some(3), scenario, &[(COMMIT, UNTOLD), (TURN, UNTOLD)]);
}

const UNCOUNTED: &str = "is believed, and the session has ended without it";
const MISCOUNT: &str = "the word counts what no entry holds";

#[test]
fn a_grant_is_taken_over_by_the_node_or_finds_its_session_ended() {
    let scenario = || {
        let mut stage = Stage::new(1);
        let (slot, spot) = stage.owned("r", EX);
        let one = stage.session(1);
        race(2, &stage);
        let caller = spawn(move || one.acquire(spot, EX, &PARTY, true, First::seat(0)));
        stage.hub.end(SessionId(1));
        let left = stage.hub.of_session(SessionId(1));
        let taken = caller.join().unwrap();
        rest();
        assert!(hold_of(taken).is_none() || !left.is_empty(), "it {UNCOUNTED}");
        stage.at_rest(slot);
    };
    let breaks = [(COMMIT, UNCOUNTED), (TURN, UNCOUNTED), (Bug::EndKeepsTurn, MISCOUNT)];
    check(Some(3), scenario, &breaks);
}

/// Somebody changes the word meanwhile, so that what was read before the entry went down is of no use.
#[test]
fn a_release_leaves_no_count_when_its_session_ends() {
    let scenario = || {
        let mut stage = Stage::new(2);
        let (slot, spot) = stage.owned("r", EX);
        let (one, two) = (stage.session(1), stage.session(2));
        let hold = held(one.acquire(spot, EX, &PARTY, true, First::seat(0)));
        race(2, &stage);
        let caller = spawn(move || one.release(hold).is_ok());
        stage.hub.end(SessionId(1));
        for lock in stage.hub.of_session(SessionId(1)) {
            stage.hub.drop(lock);
        }
        let _ = two.acquire(spot, NL, &PARTY, false, First::seat(0));
        caller.join().unwrap();
        rest();
        for lock in stage.hub.of_session(SessionId(1)) {
            stage.hub.drop(lock);
        }
        assert!(stage.at_rest(slot).iter().all(|(_, mode)| *mode == NL));
    };
    check(Some(3), scenario, &[(Bug::EndKeepsTurn, MISCOUNT)]);
}

// ----- notices and bells ----------------------------------------------------------------------------------

const UNHEARD: &str = "is in the way, was told nothing and does not ring";

#[test]
fn a_holder_is_told_what_is_wanted_or_rings() {
    let scenario = || {
        let mut stage = Stage::new(1);
        let (slot, spot) = stage.owned("r", EX);
        let one = stage.session(1);
        race(2, &stage);
        let caller = spawn(move || one.acquire(spot, PR, &PARTY, true, First::seat(0)));
        stage.hub.set_gate(slot);
        let told = stage.hub.notice(slot, EX, None);
        let taken = caller.join().unwrap();
        rest();
        let heard = !told.is_empty() || stage.hub.poll_bell() == Some(slot);
        assert!(hold_of(taken).is_none() || heard, "it {UNHEARD}");
    };
    check(Some(3), scenario, &[(COMMIT, UNHEARD), (GATE, UNHEARD), (Bug::NoGateReread, UNHEARD)]);
}

/// The gate is set by the program that finds somebody in its way, before the node hears of it.
#[test]
fn a_holder_in_the_way_of_one_who_waits_is_told_or_rings() {
    let scenario = || {
        let mut stage = Stage::new(1);
        let (slot, spot) = stage.owned("r", EX);
        let (one, two) = (stage.session(1), stage.session(2));
        race(2, &stage);
        let caller = spawn(move || one.acquire(spot, PR, &PARTY, true, First::seat(0)));
        let waits = matches!(two.acquire(spot, EX, &PARTY, true, First::seat(0)), Taken::Wait(_));
        let told = stage.hub.notice(slot, EX, None);
        let taken = caller.join().unwrap();
        rest();
        let heard = !told.is_empty() || stage.hub.poll_bell() == Some(slot);
        assert!(!waits || hold_of(taken).is_none() || heard, "it {UNHEARD}");
    };
    check(Some(3), scenario, &[(COMMIT, UNHEARD), (GATE, UNHEARD), (Bug::NoGateReread, UNHEARD)]);
}

/// A search for deadlocks looks at holders and tells them nothing.
#[test]
fn a_holder_is_found_behind_the_gate_or_rings() {
    let scenario = || {
        let mut stage = Stage::new(1);
        let (slot, spot) = stage.owned("r", EX);
        let one = stage.session(1);
        race(2, &stage);
        let caller = spawn(move || one.acquire(spot, PR, &PARTY, true, First::seat(0)));
        stage.hub.set_gate(slot);
        let found = stage.hub.entries(slot);
        let taken = caller.join().unwrap();
        rest();
        let heard = !found.is_empty() || stage.hub.poll_bell() == Some(slot);
        assert!(hold_of(taken).is_none() || heard, "it {UNHEARD}");
    };
    check(Some(3), scenario, &[(COMMIT, UNHEARD), (GATE, UNHEARD)]);
}

#[test]
fn a_raised_lock_is_told_what_is_wanted_or_rings() {
    let scenario = || {
        let mut stage = Stage::new(1);
        let (slot, spot) = stage.owned("r", EX);
        let one = stage.session(1);
        let hold = held(one.acquire(spot, CR, &PARTY, true, First::seat(0)));
        race(2, &stage);
        let caller = spawn(move || one.raise(hold, PW));
        stage.hub.set_gate(slot);
        // CR is not in its way, and PW is.
        let told = stage.hub.notice(slot, PR, None);
        let taken = caller.join().unwrap();
        rest();
        let heard = !told.is_empty() || stage.hub.poll_bell() == Some(slot);
        assert!(hold_of(taken).is_none() || heard, "it {UNHEARD}");
        stage.at_rest(slot);
    };
    check(Some(3), scenario, &[(COMMIT, UNHEARD), (GATE, UNHEARD), (Bug::NoGateReread, UNHEARD)]);
}

const ASLEEP: &str = "the node sleeps over a bell";

#[test]
fn who_rings_knocks_at_a_node_that_sleeps() {
    let scenario = || {
        let mut stage = Stage::new(1);
        let (slot, spot) = stage.owned("r", EX);
        let one = stage.session(1);
        let hold = held(one.acquire(spot, EX, &PARTY, true, First::seat(0)));
        stage.hub.set_gate(slot);
        race(2, &stage);
        let caller = spawn(move || one.release(hold));
        let sleeps = stage.hub.fall_asleep();
        let knocks = caller.join().unwrap();
        rest();
        assert!(!sleeps || knocks == Ok(true), "{ASLEEP}");
    };
    check(None, scenario, &[(Bug::Fence(Place::Ring), ASLEEP), (Bug::Fence(Place::Sleep), ASLEEP)]);
}

/// A release sees the gate, or the one who waits finds nobody in the way.
#[test]
fn who_finds_somebody_in_the_way_is_rung_for() {
    let scenario = || {
        let mut stage = Stage::new(1);
        let (slot, spot) = stage.owned("r", EX);
        let (one, two) = (stage.session(1), stage.session(2));
        let hold = held(one.acquire(spot, EX, &PARTY, true, First::seat(0)));
        race(2, &stage);
        let releaser = spawn(move || one.release(hold).is_ok());
        let taken = two.acquire(spot, EX, &PARTY, true, First::seat(0));
        assert!(releaser.join().unwrap());
        rest();
        let rung = stage.hub.poll_bell() == Some(slot);
        match taken {
            Taken::Held { .. } => {}
            Taken::Wait(_) => assert!(rung && stage.hub.look(slot).gate, "{UNHEARD}"),
            other => panic!("{other:?}"),
        }
    };
    check(None, scenario, &[(Bug::NoGateByFinder, UNHEARD)]);
}

// ----- what is owned --------------------------------------------------------------------------------------

#[test]
fn what_is_owned_is_never_lowered_below_what_is_held() {
    let scenario = || {
        let mut stage = Stage::new(1);
        let (slot, spot) = stage.owned("r", EX);
        let one = stage.session(1);
        race(2, &stage);
        let caller = spawn(move || one.acquire(spot, PR, &PARTY, true, First::seat(0)));
        let lowered = stage.hub.lower(slot, None).owned.unwrap();
        let taken = caller.join().unwrap();
        rest();
        assert!(hold_of(taken).is_none() || lowered.covers(PR), "it holds what the node does not own");
        stage.at_rest(slot);
    };
    check(None, scenario, &[(Bug::StaleNeed, "does not own")]);
}

// ----- tokens ---------------------------------------------------------------------------------------------

/// Its exchange and its looks at what it holds are ordered without a fence: who draws after the next holder has seen that
/// it holds no more.
#[test]
fn a_token_that_is_drawn_is_older_than_those_of_later_holders() {
    let scenario = || {
        let mut stage = Stage::new(1);
        let (_, spot) = stage.owned("r", EX);
        let (one, two, three) = (stage.session(1), stage.session(2), stage.session(3));
        race(2, &stage);
        let caller = spawn(move || {
            hold_of(one.acquire(spot, EX, &PARTY, false, First::seat(0)))
                .and_then(|hold| one.draw_token(hold))
        });
        stage.hub.end(SessionId(1));
        for lock in stage.hub.of_session(SessionId(1)) {
            stage.hub.drop(lock);
        }
        // Twice: a count that is turned back by one would only stand still.
        let later = [0; 2].map(|_| {
            let hold = hold_of(two.acquire(spot, EX, &PARTY, false, First::seat(0)))?;
            let token = two.draw_token(hold);
            two.release(hold).unwrap();
            token
        });
        let first = caller.join().unwrap();
        rest();
        let hold = held(three.acquire(spot, EX, &PARTY, false, First::seat(0)));
        let third = three.draw_token(hold);
        let tokens: Vec<_> = [first].into_iter().chain(later).chain([third]).flatten().collect();
        let grow = tokens.windows(2).all(|two| (two[0].fence, two[0].local) < (two[1].fence, two[1].local));
        assert!(grow, "a token is not newer than that of an earlier holder: {tokens:?}");
    };
    check(Some(2), scenario, &[(Bug::TokenBeforeCommit, "not newer")]);
}

// ----- value blocks ---------------------------------------------------------------------------------------

const TORN: &str = "a value is torn";

fn whole(read: Option<Value>) {
    let whole = read.is_none_or(|value| value.valid && value.bytes == bytes(value.sequence as u8));
    assert!(whole, "{TORN}: {read:?}");
}

#[test]
fn a_value_that_a_program_writes_is_read_whole() {
    let scenario = || {
        let mut stage = Stage::new(1);
        let (slot, spot) = stage.owned("r", EX);
        stage.hub.set_value_ready(slot, true);
        let (one, two) = (stage.session(1), stage.session(2));
        let writer = held(one.acquire(spot, PW, &PARTY, true, First::seat(0)));
        let reader = held(two.acquire(spot, CR, &PARTY, true, First::seat(0)));
        assert!(one.write_value(writer, Some(bytes(1))));
        race(2, &stage);
        let caller = spawn(move || (2..4).all(|n| one.write_value(writer, Some(bytes(n)))));
        let read = two.value(reader);
        assert!(caller.join().unwrap());
        rest();
        whole(read);
    };
    // It reads before it writes, and the fence of its reading stands in for that of its writing.
    check(Some(3), scenario, &[(Bug::Fence(Place::Read), TORN)]);
}

#[test]
fn a_value_that_the_node_writes_is_read_whole() {
    let scenario = || {
        let mut stage = Stage::new(1);
        let (slot, spot) = stage.owned("r", EX);
        let one = stage.session(1);
        let reader = held(one.acquire(spot, CR, &PARTY, true, First::seat(0)));
        let value = |n| Value { sequence: n, valid: true, bytes: bytes(n as u8) };
        stage.hub.set_value(slot, value(1));
        race(2, &stage);
        let caller = spawn(move || one.value(reader));
        stage.hub.set_value(slot, value(2));
        stage.hub.set_value(slot, value(3));
        let read = caller.join().unwrap();
        rest();
        whole(read);
    };
    check(Some(3), scenario, &[(Bug::Fence(Place::Write), TORN), (Bug::Fence(Place::Read), TORN)]);
}

fn bytes(n: u8) -> [u8; VALUE_BYTES] {
    let mut bytes = [0; VALUE_BYTES];
    bytes[0] = n;
    bytes
}

#[test]
fn a_grant_sees_the_value_that_the_last_holder_wrote() {
    let scenario = || {
        let mut stage = Stage::new(1);
        let (slot, spot) = stage.owned("r", EX);
        stage.hub.set_value_ready(slot, true);
        let (one, two) = (stage.session(1), stage.session(2));
        let writer = held(one.acquire(spot, EX, &PARTY, true, First::seat(0)));
        race(2, &stage);
        let caller = spawn(move || one.write_value(writer, Some(bytes(1))) && one.release(writer).is_ok());
        let taken = two.acquire(spot, PR, &PARTY, false, First::seat(0));
        let read = hold_of(taken).and_then(|hold| two.value(hold));
        assert!(caller.join().unwrap());
        rest();
        assert!(hold_of(taken).is_none() || read.is_some_and(|value| value.bytes == bytes(1)));
        stage.at_rest(slot);
    };
    check(None, scenario, &[]);
}

// ----- slots that change hands ----------------------------------------------------------------------------

/// Two names that lie in the same place of the index, with the same fingerprint: the index does not tell them apart.
fn alike() -> (&'static str, &'static str) {
    static NAMES: std::sync::OnceLock<(String, String)> = std::sync::OnceLock::new();
    let (one, two) = NAMES.get_or_init(|| {
        let key = |name: &str| {
            let hash = xxhash_rust::xxh3::xxh3_64_with_seed(name.as_bytes(), stage::SEED);
            (hash & 63, hash >> 56)
        };
        let mut seen = std::collections::BTreeMap::new();
        let mut names = (0..).map(|n| format!("n{n}"));
        names
            .find_map(|name| seen.insert(key(&name), name.clone()).map(|other| (other, name)))
            .expect("there are more names than places")
    });
    (one, two)
}

#[test]
fn a_name_that_is_found_is_that_of_its_generation() {
    let scenario = || {
        let (before, after) = alike();
        let mut stage = Stage::new(1);
        let (slot, spot) = stage.owned(before, EX);
        let one = stage.session(1);
        race(2, &stage);
        let caller = spawn(move || one.find(after.as_bytes()));
        assert!(stage.hub.evict(slot));
        stage.owned(after, EX);
        let found = caller.join().unwrap();
        rest();
        assert!(
            found.is_none_or(|found| found.generation == spot.generation + 2),
            "it is another's: {found:?}"
        );
    };
    check(
        Some(2),
        scenario,
        &[
            (Bug::Fence(Place::Name), "another's"),
            (Bug::Fence(Place::Rename), "another's"),
            (Bug::NoSlotGeneration, "another's"),
        ],
    );
}

#[test]
fn a_handle_of_an_evicted_name_takes_nothing_of_the_next() {
    let scenario = || {
        let mut stage = Stage::new(1);
        let (slot, spot) = stage.owned("a", EX);
        let one = stage.session(1);
        race(2, &stage);
        let caller = spawn(move || one.acquire(spot, EX, &PARTY, true, First::seat(0)));
        let evicted = stage.hub.evict(slot);
        if evicted {
            stage.owned("b", EX);
        }
        let taken = caller.join().unwrap();
        rest();
        assert!(!evicted || hold_of(taken).is_none(), "a handle took another's");
        stage.at_rest(slot);
    };
    check(Some(3), scenario, &[(Bug::NoSlotGeneration, "another's")]);
}

#[test]
fn a_claim_is_seen_by_the_node_although_it_forgets_who_used_the_slot() {
    let scenario = || {
        let mut stage = Stage::new(1);
        let (slot, spot) = stage.owned("r", EX);
        let one = stage.session(1);
        let hold = held(one.acquire(spot, EX, &PARTY, true, First::seat(0)));
        assert_eq!(one.release(hold), Ok(false));
        race(2, &stage);
        let caller = spawn(move || one.acquire(spot, EX, &PARTY, true, First::seat(0)));
        assert!(stage.hub.used(slot));
        let taken = caller.join().unwrap();
        rest();
        assert_eq!(stage.at_rest(slot).len(), usize::from(hold_of(taken).is_some()));
    };
    check(Some(3), scenario, &[]);
}

// ----- counting anew --------------------------------------------------------------------------------------

const MISBELIEF: &str = "what is believed is not what is counted";

/// How an attempt takes its entry makes no difference.
fn attempt_during_a_recount(first: First) {
    let mut stage = Stage::new(1);
    let (slot, spot) = stage.owned("r", EX);
    let (one, three) = (stage.session(1), stage.session(3));
    let theirs = held(three.acquire(spot, PR, &PARTY, true, First::seat(0)));
    // Its exchange had not come: the word that is published is the one that was there before.
    stage.die_trying(3, theirs, false);
    race(2, &stage);
    let caller = spawn(move || one.acquire(spot, PR, &PARTY, true, first));
    stage.hub.end(SessionId(3));
    let hold = hold_of(caller.join().unwrap());
    rest();
    assert_eq!(stage.at_rest(slot).len(), usize::from(hold.is_some()), "{MISBELIEF}");
}

#[test]
fn an_attempt_during_a_recount_is_counted_or_taken_back() {
    let breaks = [(Bug::KeepTurn, MISCOUNT), (Bug::NoCheckAfterLoad, MISCOUNT)];
    check(Some(3), || attempt_during_a_recount(First::seat(0)), &breaks);
    check(Some(3), || attempt_during_a_recount(First::shared(0)), &breaks);
}

#[test]
fn two_who_exclude_each_other_do_not_both_hold_after_a_recount() {
    let scenario = || {
        let mut stage = Stage::new(1);
        let (slot, spot) = stage.owned("r", EX);
        let (one, two, three) = (stage.session(1), stage.session(2), stage.session(3));
        let theirs = held(three.acquire(spot, PR, &PARTY, true, First::seat(0)));
        stage.die_trying(3, theirs, true);
        race(2, &stage);
        let caller = spawn(move || one.acquire(spot, PR, &PARTY, true, First::seat(0)));
        stage.hub.end(SessionId(3));
        let other =
            hold_of(two.acquire(spot, EX, &PARTY, false, First::seat(0))).map(|hold| lock_of(2, hold.entry));
        let taken = hold_of(caller.join().unwrap()).map(|hold| lock_of(1, hold.entry));
        rest();
        let believed: Vec<LockId> = taken.into_iter().chain(other).collect();
        let counted: Vec<LockId> = stage.at_rest(slot).into_iter().map(|(lock, _)| lock).collect();
        assert_eq!(counted, believed, "{MISBELIEF}");
    };
    check(Some(2), scenario, &[(Bug::CommitByStore, MISBELIEF)]);
}

#[test]
fn a_release_during_a_recount_is_counted_once() {
    let scenario = || {
        let mut stage = Stage::new(1);
        let (slot, spot) = stage.owned("r", EX);
        let (one, three) = (stage.session(1), stage.session(3));
        let mine = held(one.acquire(spot, PR, &PARTY, true, First::seat(0)));
        let theirs = held(three.acquire(spot, PR, &PARTY, true, First::seat(0)));
        stage.die_trying(3, theirs, true);
        race(2, &stage);
        let caller = spawn(move || one.release(mine).is_ok());
        stage.hub.end(SessionId(3));
        assert!(caller.join().unwrap());
        rest();
        assert!(stage.at_rest(slot).is_empty(), "it was given back");
    };
    check(Some(3), scenario, &[(Bug::NoShut, MISCOUNT)]);
}

fn conversion_during_a_recount(from: Mode, to: Mode) {
    let mut stage = Stage::new(1);
    let (slot, spot) = stage.owned("r", EX);
    let (one, three) = (stage.session(1), stage.session(3));
    let mine = held(one.acquire(spot, from, &PARTY, true, First::seat(0)));
    let theirs = held(three.acquire(spot, NL, &PARTY, true, First::seat(0)));
    stage.die_trying(3, theirs, true);
    race(2, &stage);
    let caller = spawn(move || {
        let taken = if from.covers(to) { one.lower(mine, to) } else { one.raise(mine, to) };
        match taken {
            Taken::Held { hold, .. } => hold,
            Taken::Busy => mine,
            other => panic!("{other:?}"),
        }
    });
    stage.hub.end(SessionId(3));
    let hold = caller.join().unwrap();
    rest();
    assert_eq!(stage.at_rest(slot), [(lock_of(1, hold.entry), hold.mode)], "{MISBELIEF}");
}

#[test]
fn a_way_up_during_a_recount_is_counted_by_what_came_of_it() {
    check(Some(3), || conversion_during_a_recount(CR, EX), &[(Bug::CountByOldMode, MISCOUNT)]);
}

#[test]
fn a_way_down_during_a_recount_is_counted_by_what_came_of_it() {
    check(
        Some(2),
        || conversion_during_a_recount(EX, CR),
        &[(Bug::CountByOldMode, MISCOUNT), (Bug::NoShut, MISCOUNT)],
    );
}

/// The program gives the lock back as soon as it sees the new mode.
#[test]
fn a_way_down_that_the_node_goes_leaves_no_count() {
    let scenario = || {
        let mut stage = Stage::new(1);
        let (slot, spot) = stage.owned("r", EX);
        let one = Arc::new(stage.session(1));
        let hold = held(one.acquire(spot, PW, &PARTY, true, First::seat(0)));
        let ticket = one.ask_convert(hold, CW).unwrap();
        let release = move |program: &stage::Program| match program.look(ticket) {
            Answer::Held(hold) => program.release(hold).is_ok(),
            other => panic!("{other:?}"),
        };
        race(2, &stage);
        let program = Arc::clone(&one);
        let caller = spawn(move || !matches!(program.look(ticket), Answer::Waiting(_)) && release(&program));
        assert!(stage.hub.convert(lock_of(1, hold.entry), CW).is_some());
        let released = caller.join().unwrap();
        rest();
        assert!(released || release(&one));
        assert!(stage.at_rest(slot).is_empty());
    };
    check(None, scenario, &[]);
}

// ----- who waits ------------------------------------------------------------------------------------------

#[test]
fn a_waiter_is_granted_or_withdrawn_and_not_both() {
    let scenario = || {
        let mut stage = Stage::new(1);
        let (slot, spot) = stage.owned("r", EX);
        let (one, two) = (stage.session(1), stage.session(2));
        let hold = held(one.acquire(spot, EX, &PARTY, true, First::seat(0)));
        let ticket = waits(two.acquire(spot, EX, &PARTY, true, First::seat(0)));
        one.release(hold).unwrap();
        let lock = lock_of(2, ticket.entry);
        race(2, &stage);
        let caller = spawn(move || two.withdraw(ticket));
        let granted = stage.admit(slot, lock, EX);
        let hold = caller.join().unwrap();
        rest();
        assert_eq!(granted, hold.is_some(), "the node and the waiter disagree");
        assert_eq!(stage.at_rest(slot).len(), usize::from(granted));
    };
    check(None, scenario, &[(Bug::GrantByStore, "disagree")]);
}

/// One program gives back what it holds, and hands it over to another that waits, while the node does something, too.
/// Whether the waiter was granted.
fn hand_over<R>(withdraws: bool, node: impl FnOnce(&mut Stage, Slot, LockId) -> R) -> (bool, R) {
    let mut stage = Stage::new(1);
    let (slot, spot) = stage.owned("r", EX);
    let three = stage.session(3);
    let theirs = held(three.acquire(spot, NL, &PARTY, true, First::seat(0)));
    stage.die_trying(3, theirs, false);
    let (one, two) = (stage.session(1), Arc::new(stage.session(2)));
    let hold = held(one.acquire(spot, EX, &PARTY, true, First::seat(0)));
    let ticket = waits(two.acquire(spot, PR, &PARTY, true, First::seat(0)));
    let lock = lock_of(2, ticket.entry);
    stage.hub.set_gate(slot);
    stage.hub.offer(slot, Some((lock, PR)));
    race(3, &stage);
    let releaser = spawn(move || one.release(hold).is_ok());
    let waiter = withdraws.then(|| {
        let two = Arc::clone(&two);
        spawn(move || two.withdraw(ticket).is_some())
    });
    let said = node(&mut stage, slot, lock);
    assert!(releaser.join().unwrap());
    let granted = waiter.map(|waiter| waiter.join().unwrap());
    rest();
    let granted = granted.unwrap_or_else(|| matches!(two.look(ticket), Answer::Held(_)));
    let locks = stage.at_rest(slot);
    assert_eq!(locks.len(), usize::from(granted), "{MISCOUNT}");
    (granted, said)
}

fn recount(stage: &mut Stage, _: Slot, _: LockId) {
    stage.hub.end(SessionId(3));
}

#[test]
fn a_hand_over_during_a_recount_is_counted_or_fails() {
    check(Some(3), || _ = hand_over(false, recount), &[(Bug::NoRestamp, MISCOUNT)]);
}

#[test]
fn a_hand_over_to_one_who_withdraws_is_counted_or_fails() {
    let scenario = || {
        hand_over(true, |_, _, _| ());
    };
    check(Some(3), scenario, &[]);
}

#[test]
fn a_hand_over_to_one_who_withdraws_during_a_recount_is_counted_or_fails() {
    check(Some(2), || _ = hand_over(true, recount), &[(Bug::NoRestamp, MISCOUNT)]);
}

#[test]
fn an_offer_that_was_taken_back_is_not_followed() {
    let scenario = || {
        let (granted, told) = hand_over(false, |stage, slot, _| {
            stage.hub.offer(slot, None);
            stage.hub.taken(slot).is_some()
        });
        assert_eq!(granted, told, "a releaser grants behind the node's back");
    };
    check(Some(3), scenario, &[(Bug::NoRecall, "back")]);
}

#[test]
fn the_node_and_a_releaser_do_not_both_grant_a_waiter() {
    let scenario = || {
        let (granted, said) = hand_over(false, |stage, slot, lock| stage.admit(slot, lock, PR));
        assert!(granted || !said, "the node has granted what is not held");
    };
    check(None, scenario, &[]);
}

/// A releaser hands over while the node is about to grant; the waiter gives back and takes another lock in the same entry.
#[test]
fn the_node_does_not_rename_an_entry_that_was_taken_anew() {
    let scenario = || {
        let mut stage = Stage::new(2);
        let (slot, spot) = stage.owned("r", EX);
        let (other, elsewhere) = stage.owned("s", EX);
        let (one, two) = (stage.session(1), stage.session(2));
        let hold = held(one.acquire(spot, EX, &PARTY, true, First::seat(0)));
        let ticket = waits(two.acquire(spot, PR, &PARTY, true, First::seat(0)));
        let lock = lock_of(2, ticket.entry);
        stage.hub.set_gate(slot);
        stage.hub.offer(slot, Some((lock, PR)));
        let hold = held(one.lower(hold, PR));
        race(2, &stage);
        let programs = spawn(move || {
            one.release(hold).unwrap();
            let Answer::Held(hold) = two.look(ticket) else { return None };
            let Taken::Held { hold, .. } = two.wake(hold) else { return None };
            two.release(hold).unwrap();
            hold_of(two.acquire(elsewhere, EX, &PARTY, false, First::seat(0)))
        });
        stage.admit(slot, lock, PR);
        let taken = programs.join().unwrap();
        rest();
        let locks = stage.at_rest(other);
        assert_eq!(locks.len(), usize::from(taken.is_some()), "{MISCOUNT}");
    };
    check(Some(2), scenario, &[]);
}

/// Dies when it looks at the clock: after its commit, before it looks whether its session has ended.
struct Dies;

impl oarlock_shm::Clock for Dies {
    fn coarse(&self) -> u64 {
        resume_unwind(Box::new("dies"))
    }
}

#[test]
fn an_attempt_whose_session_ends_and_whose_program_dies_leaves_no_count() {
    let scenario = || {
        let mut stage = Stage::new(1);
        let (slot, spot) = stage.owned("r", EX);
        let place = stage.hub.attach(SessionId(1), 0).unwrap();
        let one = oarlock_shm::Caller::new(Arc::clone(stage.memory()), place, Dies);
        race(2, &stage);
        let caller = spawn(move || {
            let _ = catch_unwind(AssertUnwindSafe(|| one.acquire(spot, EX, &PARTY, true, First::seat(0))));
        });
        stage.hub.end(SessionId(1));
        for lock in stage.hub.of_session(SessionId(1)) {
            stage.hub.drop(lock);
        }
        caller.join().unwrap();
        rest();
        stage.hub.bury(SessionId(1));
        assert!(stage.at_rest(slot).is_empty());
    };
    check(Some(3), scenario, &[]);
}
