//! A segment into which a foreign hand writes: before each call, or all the time from another thread. The node's side
//! answers every call after bounded work, believes of its own knowledge what it wrote and nothing else, and keeps the
//! locks of its own table apart. The callers' side says something and comes back.
//!
//! `OARLOCK_HOSTILE_SEEDS=N` plays so many seeds instead of a few.

mod feed;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use feed::hand::{Dice, Hand};
use feed::{GEOMETRY, Stage, Still};
use oarlock_layout::id::{Epoch, SessionId, Slot};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::geometry::entry;
use oarlock_layout::segment::{Geometry, Words};
use oarlock_layout::token::Fence;
use oarlock_shm::{Caller, First, Hub, Memory, Party, Taken};

/// No single call needs as long, on any machine and whoever else runs there.
const LONG: Duration = Duration::from_secs(5);

fn seeds(usual: u64) -> u64 {
    std::env::var("OARLOCK_HOSTILE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

/// Those that concern the hub alone; the others are played by the tests of the lock room and the node.
#[test]
fn every_input_of_the_corpus_is_survived() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/segment");
    let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut played = 0;
    for entry in entries {
        let bytes = fs::read(entry.expect("an entry").path()).expect("a readable file");
        if let Some((b'h', bytes)) = bytes.split_first() {
            feed::hub(bytes);
            played += 1;
        }
    }
    assert!(played > 0, "the corpus is empty");
}

#[test]
fn whatever_is_written_between_two_calls_the_node_knows_what_it_knew() {
    for seed in 0..seeds(400) {
        let often = [8, 64, 200][seed as usize % 3];
        let mut stage = Stage::new(Memory::private(GEOMETRY, seed), Dice::new(seed), often);
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
            let mut stage = Stage::new(Arc::clone(&memory), Dice::new(seed), 8);
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
