//! What happens next: a queue ordered by time, then by the order of arrival.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Simulated nanoseconds since the run began.
pub type Time = u64;

/// A queue of things to come.
#[derive(Debug)]
pub struct Queue<T> {
    heap: BinaryHeap<Reverse<(Time, u64, usize)>>,
    /// Entries live apart, so that the heap moves small things.
    entries: Vec<Option<T>>,
    free: Vec<usize>,
    ordinal: u64,
    now: Time,
}

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue { heap: BinaryHeap::new(), entries: Vec::new(), free: Vec::new(), ordinal: 0, now: 0 }
    }
}

impl<T> Queue<T> {
    /// The time of what happened last.
    pub fn now(&self) -> Time {
        self.now
    }

    /// How much is to come.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Is nothing to come?
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Something will happen at `at`; in the past means now, after all that was already to happen now.
    pub fn push(&mut self, at: Time, what: T) {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.entries.push(None);
                self.entries.len() - 1
            }
        };
        self.entries[index] = Some(what);
        self.ordinal += 1;
        self.heap.push(Reverse((at.max(self.now), self.ordinal, index)));
    }

    /// The next thing, if it is not after `until`.
    pub fn pop(&mut self, until: Time) -> Option<T> {
        if self.heap.peek()?.0.0 > until {
            return None;
        }
        let Reverse((at, _, index)) = self.heap.pop().expect("peeked");
        self.now = at;
        self.free.push(index);
        self.entries[index].take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_happen_by_time_and_then_in_order_of_arrival() {
        let mut queue = Queue::default();
        for (at, what) in [(5, 'c'), (1, 'a'), (5, 'd'), (3, 'b'), (9, 'e')] {
            queue.push(at, what);
        }
        let mut order = String::new();
        while let Some(what) = queue.pop(5) {
            order.push(what);
            if what == 'b' {
                queue.push(0, 'B');
            }
        }
        assert_eq!((order.as_str(), queue.now()), ("abBcd", 5));
    }
}
