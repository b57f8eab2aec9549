//! Replays the inputs that the fuzzers kept, and hostile ones made here, through every decoder.
//!
//! Goal: whatever a peer or a program sends, a decoder neither panics nor takes memory that its input does
//! not justify: at most twice the input and 64 KiB. The allocator of this program counts.

mod any;
mod feed;
mod samples;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::path::Path;

use oarlock_layout::codec::Wire;
use proptest::prelude::*;

thread_local! {
    /// Bytes this thread has allocated and not freed, and the most there ever were.
    static LIVE: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// The system's allocator with a count per thread.
struct Counting;

// SAFETY: every call is passed on to `System` unchanged; the count is a `Cell` of this thread without a
// destructor, so touching it allocates nothing.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: the caller keeps the contract of `System.alloc`.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (live, most) = LIVE.get();
        let live = live.wrapping_add(layout.size());
        LIVE.set((live, most.max(live)));
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: the caller keeps the contract of `System.dealloc`.
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let (live, most) = LIVE.get();
        // What another thread allocated may be freed here.
        LIVE.set((live.saturating_sub(layout.size()), most));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes `f` had allocated at any moment.
fn peak(f: impl FnOnce()) -> usize {
    let (live, _) = LIVE.get();
    LIVE.set((live, live));
    f();
    let (_, most) = LIVE.get();
    most - live
}

/// Gives bytes to every decoder and bounds what it takes; the copy made for comparison counts as well.
fn feed_all(bytes: &[u8]) {
    let bound = 2 * bytes.len() + (64 << 10);
    for (name, feed) in feed::TARGETS {
        let peak = peak(|| feed(bytes));
        assert!(peak <= bound, "{name}: {peak} bytes taken for {} of input, {bound} allowed", bytes.len());
    }
}

/// Files of one target's corpus.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    entries.map(|e| fs::read(e.expect("an entry").path()).expect("a readable file")).collect()
}

#[test]
fn every_input_of_the_corpus_is_taken_or_refused() {
    for (target, feed) in feed::TARGETS {
        let inputs = corpus(target);
        assert!(!inputs.is_empty(), "{target}: the corpus lacks seeds; see examples/seeds.rs");
        for input in inputs {
            feed(&input);
            feed_all(&input);
        }
    }
}

#[test]
fn a_length_field_cannot_inflate_memory() {
    // Every four bytes of every message become the largest length there is, then the largest believable one.
    for conversation in samples::conversations() {
        for (_, bytes) in conversation.messages {
            for at in 0..bytes.len().saturating_sub(3) {
                let mut bytes = bytes.clone();
                bytes[at..at + 4].fill(0xff);
                feed_all(&bytes);
                // The largest that the bytes behind it allow: as many items as there are bytes.
                bytes.resize(bytes.len() + 5_000, 0);
                let left = bytes.len() - at - 4;
                bytes[at..at + 4].copy_from_slice(&(left.min(4_096) as u32).to_le_bytes());
                feed_all(&bytes);
            }
        }
    }
}

#[test]
fn the_count_sees_what_a_decoder_takes() {
    assert_eq!(peak(|| drop(vec![0u8; 1 << 20])), 1 << 20);
}

proptest! {
    #[test]
    fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        feed_all(&bytes);
    }

    #[test]
    fn a_message_cut_and_mended_is_taken_or_refused(
        message in any::peer(), at in any::<usize>(), tail in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = message.to_bytes();
        bytes.truncate(at % (bytes.len() + 1));
        bytes.extend(tail);
        feed_all(&bytes);
    }
}
