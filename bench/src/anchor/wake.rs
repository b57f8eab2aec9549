//! One wake-up of a process that sleeps on a word which it shares with another.
#![expect(unsafe_code, reason = "memory that two processes share")]

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mm::{MapFlags, ProtFlags};
use rustix::thread::futex;

use crate::program::monotonic;
use crate::rounds::{Failure, Times};

/// Two cells that processes share: whose turn it is, and when it was given.
pub(crate) struct Cells(*const AtomicU64);

const BYTES: usize = 4096;
/// The turn of nobody: the round is over.
const STOP: u32 = u32::MAX;

impl Cells {
    /// Those of a file, which is made if it is not there.
    pub(crate) fn of(path: &Path) -> Result<Cells, Failure> {
        let failed = |e: std::io::Error| format!("{}: {e}", path.display());
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
        file.set_len(BYTES as u64).map_err(failed)?;
        let (rights, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at a place that the kernel chooses overlaps nothing of ours.
        let first = unsafe { rustix::mm::mmap(std::ptr::null_mut(), BYTES, rights, flags, &file, 0) };
        Ok(Cells(first.map_err(|e| failed(e.into()))?.cast_const().cast()))
    }

    fn turn(&self) -> &AtomicU32 {
        // SAFETY: the first four bytes of a mapping that is as large as its file, aligned to a page, never cut short and
        // there until `self` is dropped. Every process reaches them by atomic instructions.
        unsafe { &*self.0.cast() }
    }

    fn given(&self) -> &AtomicU64 {
        // SAFETY: as above, the second eight bytes.
        unsafe { &*self.0.add(1) }
    }

    /// Begins a round, while nobody plays.
    pub(crate) fn begin(&self) {
        self.turn().store(0, Ordering::SeqCst);
    }

    /// Plays one of two parts until the time is up. When the other had woken this one, in nanoseconds of the clock that all
    /// processes share, and how long that took. Each sleeps for `pause` before it wakes the other, as a holder of a lock
    /// does that works meanwhile.
    pub(crate) fn play(&self, me: u32, pause: Duration, window: Duration) -> Result<Vec<u64>, Failure> {
        let (turn, given, flags) = (self.turn(), self.given(), futex::Flags::empty());
        let end = Instant::now() + window;
        let mut times = Vec::new();
        loop {
            let mut slept = false;
            let now = loop {
                // Whose turn it is stands in the low bit.
                let now = turn.load(Ordering::SeqCst);
                if now == STOP || now & 1 == me {
                    break now;
                }
                slept |= futex::wait(turn, flags, now, None).is_ok();
            };
            if slept {
                times.push(monotonic().saturating_sub(given.load(Ordering::SeqCst)));
            }
            if now == STOP {
                return Ok(times);
            }
            let next = if Instant::now() >= end { STOP } else { now + 1 };
            thread::sleep(pause);
            given.store(monotonic(), Ordering::SeqCst);
            turn.store(next, Ordering::SeqCst);
            futex::wake(turn, flags, 1).map_err(|e| format!("futex: {e}"))?;
            if next == STOP {
                return Ok(times);
            }
        }
    }
}

impl Drop for Cells {
    fn drop(&mut self) {
        // SAFETY: the mapping that `of` made; no reference into it outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.0.cast_mut().cast(), BYTES) };
    }
}

/// Median and 99th percentile in microseconds of what both players counted.
pub(crate) fn percentiles(counted: &[Vec<u64>]) -> Result<Vec<f64>, Failure> {
    let mut times = Times::default();
    counted.iter().flatten().for_each(|time| times.push(Duration::from_nanos(*time)));
    times.percentiles().map(Vec::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_who_share_a_file_wake_each_other_until_the_time_is_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cells");
        let window = Duration::from_millis(30);
        let play = |me| {
            let cells = Cells::of(&path).unwrap();
            cells.play(me, Duration::from_micros(50), window).unwrap()
        };
        Cells::of(&path).unwrap().begin();
        let counted = thread::scope(|scope| {
            let other = scope.spawn(|| play(1));
            [play(0), other.join().unwrap()]
        });
        assert!(counted.iter().all(|times| times.len() > 5), "{counted:?}");
        let [p50, p99] = percentiles(&counted).unwrap()[..] else { panic!("two numbers") };
        assert!(p50 > 0.1 && p99 >= p50, "{p50} {p99}");
    }
}
