//! What time it is. The only place of the daemon that looks.

use oarlock_layout::time::Instant;
use rustix::time::{ClockId, clock_gettime};

/// Now, on a clock that also runs while the machine sleeps: a node that was suspended must notice that time
/// has passed, or it would believe that nobody has been silent.
pub fn now() -> Instant {
    let at = clock_gettime(ClockId::Boottime);
    Instant(at.tv_sec as u64 * 1_000_000_000 + at.tv_nsec as u64)
}

/// Nanoseconds of CLOCK_MONOTONIC, the clock by which programs judge a lease (L1): the kernel has a quick reading of
/// it, and none of [`now`]'s.
pub fn monotonic() -> u64 {
    let at = clock_gettime(ClockId::Monotonic);
    at.tv_sec as u64 * 1_000_000_000 + at.tv_nsec as u64
}

/// Seconds since 1970, for people. Never decides anything.
pub fn wall_seconds() -> u64 {
    clock_gettime(ClockId::Realtime).tv_sec.max(0) as u64
}

/// Milliseconds since 1970, for people. Never decides anything.
pub fn wall_millis() -> u64 {
    let at = clock_gettime(ClockId::Realtime);
    at.tv_sec.max(0) as u64 * 1_000 + at.tv_nsec as u64 / 1_000_000
}

#[cfg(test)]
mod tests {
    #[test]
    fn time_does_not_go_back() {
        let a = super::now();
        assert!(super::now() >= a);
        let a = super::monotonic();
        assert!(super::monotonic() >= a);
        assert!(super::wall_seconds() > 1_700_000_000);
    }
}
