//! Two loads from a table, the second where the first says: what any lookup by name costs that has an index.

use std::hint::black_box;
use std::time::Duration;

use super::robust::timed;
use crate::rounds::Failure;

/// Words of a cache line.
const LINE: usize = 8;

/// A table of cache lines, and an order in which to start.
pub(crate) struct Table {
    words: Vec<u64>,
    order: Vec<u64>,
}

impl Table {
    /// Of so many bytes; each of its lines names another one.
    pub(crate) fn new(bytes: usize) -> Table {
        let lines = bytes / (LINE * size_of::<u64>());
        let mut words = vec![0; lines * LINE];
        for (at, next) in shuffled(lines as u64, 1).into_iter().enumerate() {
            words[at * LINE] = next;
        }
        Table { words, order: shuffled(lines as u64, 2) }
    }

    /// Nanoseconds of a pair of loads; none begins before the one before it has ended.
    pub(crate) fn pairs(&self, window: Duration) -> Result<Vec<f64>, Failure> {
        // The compiler does not know that nothing is left of what was loaded.
        let nothing = black_box(0);
        let (mut last, mut starts) = (0, self.order.iter().cycle());
        let one = || {
            let start = starts.next().expect("endless") + (last & nothing);
            last = self.words[self.words[start as usize * LINE] as usize * LINE];
            true
        };
        Ok(vec![timed(window, one)?])
    }
}

/// Numbers from 0, in an order without a pattern that is the same in each run.
pub(crate) fn shuffled(count: u64, seed: u64) -> Vec<u64> {
    let mut numbers: Vec<u64> = (0..count).collect();
    let mut state = seed;
    for at in (1..numbers.len()).rev() {
        // splitmix64: good enough to defeat a prefetcher.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut random = state;
        random = (random ^ random >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        random = (random ^ random >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        random ^= random >> 31;
        numbers.swap(at, (random % (at as u64 + 1)) as usize);
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes_once_and_not_in_its_place() {
        let numbers = shuffled(10_000, 7);
        assert!(numbers.iter().enumerate().filter(|(at, n)| *at as u64 == **n).count() < 20);
        let mut sorted = numbers;
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..10_000));
    }

    #[test]
    fn a_table_that_no_cache_holds_is_slower() {
        let window = Duration::from_millis(20);
        let (small, large) = (Table::new(16 << 10), Table::new(64 << 20));
        let (small, large) = (small.pairs(window).unwrap()[0], large.pairs(window).unwrap()[0]);
        assert!(large > 2.0 * small, "{small} and {large} ns");
    }
}
