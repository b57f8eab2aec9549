//! The clock that every process of this machine shares: stamps of different clients can be compared.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_MONOTONIC.
pub fn now() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(t.tv_sec).expect("a machine that runs has a time since its start");
    seconds * 1_000_000_000 + t.tv_nsec as u64
}
