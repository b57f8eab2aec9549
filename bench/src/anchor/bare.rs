//! Bare exchanges: what is left of a covered pair when everything is left out that the processor does not need long for.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use super::robust::coarse;

/// A word and an entry, each in a line of its own, as one thread has them.
#[derive(Default)]
pub(crate) struct Bare {
    word: Line,
    entry: Line,
}

#[derive(Default)]
#[repr(align(128))]
struct Line(AtomicU64);

impl Bare {
    /// Two exchanges of each in the order of a pair, and between them a look at the coarse clock. False if anything was
    /// not as it was left.
    pub(crate) fn pair(&self) -> bool {
        let exchange = |line: &Line, by: u64| {
            let now = line.0.load(Ordering::Acquire);
            let then = now.wrapping_add(by);
            line.0.compare_exchange(now, then, Ordering::AcqRel, Ordering::Acquire).is_ok()
        };
        let up = exchange(&self.word, 1) && exchange(&self.entry, 1);
        let looked = black_box(coarse()) >= 0;
        let down = exchange(&self.entry, 1) && exchange(&self.word, 1u64.wrapping_neg());
        up && looked && down
    }
}
