//! A robust mutex of the C library for processes, and a look at the coarse clock: what a lock costs that outlives the
//! death of its holder, and the lease that ours looks at beside it.
#![expect(unsafe_code, reason = "no safe wrapper has robust mutexes")]

use std::cell::UnsafeCell;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use crate::machine::thread_cpu;
use crate::rounds::Failure;

/// Pairs between two looks at the clock that ends a round.
const BETWEEN_LOOKS: u32 = 5_000;

/// The mutex, at an address that stays.
struct Robust(Box<UnsafeCell<libc::pthread_mutex_t>>);

impl Robust {
    fn new() -> Result<Robust, Failure> {
        let mutex = Box::new(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER));
        let mut attributes = MaybeUninit::uninit();
        let attributes = attributes.as_mut_ptr();
        // SAFETY: the attributes are made by the first call before any other looks at them, and unmade by the last; the
        // mutex is of this type, not in use, and not moved while it lives, because it is in a box.
        let results = unsafe {
            [
                libc::pthread_mutexattr_init(attributes),
                libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED),
                libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST),
                libc::pthread_mutex_init(mutex.get(), attributes),
                libc::pthread_mutexattr_destroy(attributes),
            ]
        };
        match results {
            [0, 0, 0, 0, 0] => Ok(Robust(mutex)),
            _ => Err(format!("a robust mutex cannot be made: {results:?}")),
        }
    }

    #[inline(always)]
    fn pair(&self) -> bool {
        // SAFETY: made by `new` and alive; taken and given back by this thread, in this order.
        unsafe {
            libc::pthread_mutex_lock(self.0.get()) == 0 && libc::pthread_mutex_unlock(self.0.get()) == 0
        }
    }
}

impl Drop for Robust {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and nobody holds it: `pair` has given it back.
        unsafe { libc::pthread_mutex_destroy(self.0.get()) };
    }
}

#[inline(always)]
pub(super) fn coarse() -> libc::time_t {
    let mut at = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the call writes the whole of what it is given, or fails, which it does not with a clock that Linux has.
    unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, at.as_mut_ptr());
        at.assume_init().tv_sec
    }
}

/// Nanoseconds of lock, look at the clock, unlock; and those of the mutex alone.
pub(crate) fn pairs(window: Duration) -> Result<Vec<f64>, Failure> {
    let mutex = Robust::new()?;
    let with_clock = timed(window / 2, || mutex.pair() && black_box(coarse()) >= 0)?;
    let alone = timed(window / 2, || mutex.pair())?;
    Ok(vec![with_clock, alone])
}

/// Nanoseconds of something that is much shorter than a look at a clock, and never waits: those that the thread had,
/// whatever strangers had meanwhile.
pub(crate) fn timed(window: Duration, mut one: impl FnMut() -> bool) -> Result<f64, Failure> {
    let (began, start) = (Instant::now(), thread_cpu());
    let mut done = 0u64;
    loop {
        let mut fine = true;
        for _ in 0..BETWEEN_LOOKS {
            fine &= one();
        }
        if !fine {
            return Err("one of many failed".into());
        }
        done += u64::from(BETWEEN_LOOKS);
        if began.elapsed() >= window {
            return Ok((thread_cpu() - start).as_nanos() as f64 / done as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_robust_mutex_is_taken_and_given_back_and_costs_time() {
        let mutex = Robust::new().unwrap();
        // A second pair would hang, or fail, if the first were not over.
        assert!(mutex.pair() && mutex.pair());
        let times = pairs(Duration::from_millis(10)).unwrap();
        assert!(times.iter().all(|ns| *ns > 1.0), "{times:?}");
    }
}
