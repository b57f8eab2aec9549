//! Sleeping on a cell and waking who sleeps: the other place that needs `unsafe`.

use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use rustix::thread::futex;

/// The half of a cell that the kernel compares: the low one, where the stage of an entry is.
fn half(cell: &AtomicU64) -> &AtomicU32 {
    let first: *const AtomicU32 = std::ptr::from_ref(cell).cast();
    let low = if cfg!(target_endian = "little") { first } else { first.wrapping_add(1) };
    // SAFETY: `low` points to four aligned bytes within the eight of `cell`, for as long as `cell` is borrowed. Both
    // halves and the whole are reached by atomic instructions only. This reference is given to the kernel and is not
    // read here; the kernel's compare reads four bytes of what the hardware keeps whole in eight.
    unsafe { &*low }
}

/// Sleeps until the low half of the cell is no longer `expected`, for `timeout` at most. May wake without reason.
pub(crate) fn wait(cell: &AtomicU64, expected: u32, timeout: Duration) {
    let timeout = futex::Timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // Changed already, interrupted, time is up: the caller looks in every case.
    let _ = futex::wait(half(cell), futex::Flags::empty(), expected, Some(&timeout));
}

/// Wakes everybody who sleeps on the cell. Did anybody?
pub(crate) fn wake(cell: &AtomicU64) -> bool {
    futex::wake(half(cell), futex::Flags::empty(), u32::MAX >> 1).is_ok_and(|woken| woken != 0)
}

/// On which processor this thread runs, for now. By the C library, as the clock: tools that run programs know its way.
pub(crate) fn processor() -> u64 {
    nix::sched::sched_getcpu().map_or(u64::MAX, |number| number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::Ordering::SeqCst;

    #[test]
    fn a_sleeper_wakes_and_a_change_that_came_before_is_not_slept_over() {
        let cell = Arc::new(AtomicU64::new(5 << 32 | 1));
        wait(&cell, 2, Duration::from_secs(100));
        let theirs = Arc::clone(&cell);
        let sleeper = std::thread::spawn(move || {
            while theirs.load(SeqCst) as u32 == 1 {
                wait(&theirs, 1, Duration::from_secs(100));
            }
        });
        std::thread::sleep(Duration::from_millis(5));
        cell.store(5 << 32 | 3, SeqCst);
        wake(&cell);
        sleeper.join().unwrap();
        wait(&cell, 3, Duration::from_millis(1));
    }
}
