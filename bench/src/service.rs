//! The same work for every lock service: pairs on own keys, and one key that goes from hand to hand.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::machine::pin;
use crate::rounds::{Failure, Times};

/// One client of some lock service.
pub(crate) trait Locker: Send {
    /// Takes the exclusive lock on a key and waits for it.
    fn acquire(&mut self, key: &str) -> Result<(), Failure>;
    /// Gives back what was taken last, in the way a program of this service usually does.
    fn release(&mut self) -> Result<(), Failure>;
}

/// A client with its place.
pub(crate) struct Seat {
    /// The client.
    pub(crate) locker: Box<dyn Locker>,
    /// The CPU it is tied to, if it is.
    pub(crate) cpu: Option<usize>,
    /// Which machine it stands for. A handoff counts if it goes from one to another.
    pub(crate) node: usize,
    /// Keys of its own.
    pub(crate) keys: Vec<String>,
}

/// Acquires and releases own keys in all seats at once: pairs a second of all together, and the acquires'
/// median and 99th percentile.
pub(crate) fn pairs(seats: &mut [Seat], window: Duration) -> Result<Vec<f64>, Failure> {
    let stop = AtomicBool::new(false);
    let start = Barrier::new(seats.len());
    let results = together(seats, |seat| {
        let mut times = Times::default();
        let mut keys = 0..;
        let mut pair = |seat: &mut Seat| {
            let key = &seat.keys[keys.next().expect("endless") % seat.keys.len()];
            let began = Instant::now();
            seat.locker.acquire(key)?;
            let done = Instant::now();
            seat.locker.release()?;
            Ok::<_, Failure>((began, done))
        };
        // Once over all keys: what a service sets up at first use is no part of the rate.
        let warm = (0..seat.keys.len()).try_for_each(|_| pair(seat).map(drop));
        start.wait();
        warm?;
        let end = Instant::now() + window;
        loop {
            let (began, done) = pair(seat)?;
            if stop.load(Ordering::Relaxed) {
                return Ok(times);
            }
            times.push(done - began);
            if done >= end {
                stop.store(true, Ordering::Relaxed);
                return Ok(times);
            }
        }
    })?;
    let mut times = Times::default();
    results.into_iter().for_each(|more| times.extend(more));
    let count = times.count() as f64;
    let [p50, p99] = times.percentiles()?;
    Ok(vec![count / window.as_secs_f64(), p50, p99])
}

/// All seats want one key. The time of a handoff goes from the start of a release to the return of the next
/// holder's acquire. Those between nodes: median, 99th percentile, and how many a second; then pairs a second.
pub(crate) fn handoffs(seats: &mut [Seat], key: &str, window: Duration) -> Result<Vec<f64>, Failure> {
    const NOBODY: usize = usize::MAX;
    let stop = AtomicBool::new(false);
    let start = Barrier::new(seats.len());
    let base = Instant::now();
    // Written by the holder only, and read by the next: the lock under test orders them, or it is no lock.
    let (released_at, released_by) = (AtomicU64::new(0), AtomicUsize::new(NOBODY));
    let holders = AtomicUsize::new(0);
    let pairs = AtomicU64::new(0);
    let results = together(seats, |seat| {
        start.wait();
        let mut times = Times::default();
        let end = Instant::now() + window;
        while !stop.load(Ordering::Relaxed) {
            seat.locker.acquire(key)?;
            let now = Instant::now();
            if holders.fetch_add(1, Ordering::SeqCst) != 0 {
                return Err("two clients hold an exclusive lock".into());
            }
            let by = released_by.load(Ordering::SeqCst);
            if by != NOBODY && by != seat.node {
                let at = Duration::from_nanos(released_at.load(Ordering::SeqCst));
                times.push((now - base).saturating_sub(at));
            }
            pairs.fetch_add(1, Ordering::Relaxed);
            if now >= end {
                stop.store(true, Ordering::Relaxed);
            }
            released_by.store(seat.node, Ordering::SeqCst);
            holders.fetch_sub(1, Ordering::SeqCst);
            released_at.store(base.elapsed().as_nanos() as u64, Ordering::SeqCst);
            seat.locker.release()?;
        }
        Ok(times)
    })?;
    let mut times = Times::default();
    results.into_iter().for_each(|more| times.extend(more));
    let per_second = times.count() as f64 / window.as_secs_f64();
    let [p50, p99] = times.percentiles()?;
    let pairs = pairs.load(Ordering::Relaxed) as f64 / window.as_secs_f64();
    Ok(vec![p50, p99, per_second, pairs])
}

/// Runs `work` in every seat, each in its own thread on its CPU.
fn together<T: Send>(
    seats: &mut [Seat],
    work: impl Fn(&mut Seat) -> Result<T, Failure> + Sync,
) -> Result<Vec<T>, Failure> {
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for seat in seats {
            let (work, results) = (&work, &results);
            scope.spawn(move || {
                if let Some(cpu) = seat.cpu {
                    pin(cpu);
                }
                let result = work(seat);
                results.lock().expect("no panic").push(result);
            });
        }
    });
    results.into_inner().expect("no panic").into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Condvar};

    use super::*;

    /// A lock in this process, or none at all.
    struct Toy {
        held: Arc<(Mutex<bool>, Condvar)>,
        honest: bool,
    }

    impl Locker for Toy {
        fn acquire(&mut self, _key: &str) -> Result<(), Failure> {
            let mut held = self.held.0.lock().unwrap();
            while self.honest && *held {
                held = self.held.1.wait(held).unwrap();
            }
            *held = true;
            Ok(())
        }

        fn release(&mut self) -> Result<(), Failure> {
            *self.held.0.lock().unwrap() = false;
            self.held.1.notify_one();
            Ok(())
        }
    }

    fn seats(honest: bool) -> Vec<Seat> {
        let held = Arc::new((Mutex::new(false), Condvar::new()));
        let toy = |node| Seat {
            locker: Box::new(Toy { held: held.clone(), honest }),
            cpu: None,
            node,
            keys: vec!["a".into(), "b".into()],
        };
        (0..4).map(|n| toy(n % 2)).collect()
    }

    #[test]
    fn pairs_are_counted_over_all_seats() {
        let numbers = pairs(&mut seats(true)[..1], Duration::from_millis(30)).unwrap();
        assert!(numbers[0] > 100.0 && numbers[1] > 0.0 && numbers[2] >= numbers[1], "{numbers:?}");
    }

    #[test]
    fn handoffs_between_nodes_are_timed() {
        let numbers = handoffs(&mut seats(true), "k", Duration::from_millis(100)).unwrap();
        assert!(numbers[0] > 0.0 && numbers[3] >= numbers[2], "{numbers:?}");
    }

    #[test]
    fn a_service_that_does_not_exclude_is_no_peer() {
        let failure = handoffs(&mut seats(false), "k", Duration::from_millis(500)).unwrap_err();
        assert_eq!(failure, "two clients hold an exclusive lock");
    }
}
