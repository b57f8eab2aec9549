//! What time it is. The only place of the daemon that looks.

use oarlock_layout::limit::LEASE_MARGIN;
use oarlock_layout::time::{Duration, Instant};
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

/// Both clocks, and the first one again: what lies between the two looks is how long the reading took.
pub fn both() -> (Instant, u64, Instant) {
    let before = now();
    (before, monotonic(), now())
}

/// How often it is looked how far the clocks are apart. After a suspension that counts, that long has passed.
const LOOK: Duration = Duration::from_millis(50);
/// A reading that took longer was interrupted, and says nothing.
const READING_MAX: Duration = Duration::from_millis(10);

/// Watches how far the clock of leases ([`now`]) has run ahead of that of segments ([`monotonic`]): a machine that is
/// suspended stops the second one (L9).
#[derive(Debug, Default)]
pub struct Apart {
    looked: Instant,
    /// By how much the first was ahead when it was looked for the first time.
    at_first: Option<u64>,
}

impl Apart {
    /// By how much the first was ahead when it was looked for the first time, if it was.
    pub fn at_first(&self) -> Option<u64> {
        self.at_first
    }

    /// Goes on watching from what was seen [`at first`](Apart::at_first) by the program before this one in the same process.
    pub fn resume(at_first: Option<u64>) -> Apart {
        Apart { looked: Instant::default(), at_first }
    }

    /// By how much more they are apart than at first, if that is more than the margin of a lease. Counted from here on then.
    pub fn look(&mut self, at: Instant, read: impl Fn() -> (Instant, u64, Instant)) -> Option<Duration> {
        if at.since(self.looked) < LOOK {
            return None;
        }
        let mut readings = (0..4).map(|_| read());
        let (boot, monotonic, _) = readings.find(|(from, _, to)| to.since(*from) <= READING_MAX)?;
        self.looked = at;
        let ahead = boot.0.saturating_sub(monotonic);
        let at_first = *self.at_first.get_or_insert(ahead);
        let by = Duration::from_nanos(ahead.abs_diff(at_first));
        if by <= LEASE_MARGIN {
            return None;
        }
        self.at_first = Some(ahead);
        Some(by)
    }
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

    /// L9: what a suspension does to the two clocks is seen once, and what only interrupts a reading is not taken for one.
    #[test]
    fn a_suspension_is_seen_once_and_an_interruption_is_none() {
        use super::{Apart, Duration, Instant};
        use std::cell::Cell;

        let (boot, monotonic, slow) = (Cell::new(1_000_000), Cell::new(600_000), Cell::new(0));
        let ms = |ms| Instant(ms * 1_000_000);
        let read = || {
            let from = boot.get();
            for clock in [&boot, &monotonic] {
                clock.set(clock.get() + slow.get());
            }
            (ms(from), monotonic.get() * 1_000_000, ms(boot.get()))
        };
        let pass = |time: u64, asleep: u64| {
            boot.set(boot.get() + time + asleep);
            monotonic.set(monotonic.get() + time);
        };
        let mut apart = Apart::default();
        let mut look = || apart.look(ms(boot.get()), read);
        assert_eq!(look(), None);
        for _ in 0..100 {
            pass(750, 0);
            assert_eq!(look(), None);
        }
        pass(60, 90);
        assert_eq!(look(), None, "within the margin");
        pass(60, 20);
        assert_eq!(look(), Some(Duration::from_millis(110)), "together it is more");
        pass(60, 0);
        assert_eq!(look(), None, "told once");
        // Stopped between two looks at clocks: all of it lies within the reading.
        slow.set(5_000);
        pass(60, 0);
        assert_eq!(look(), None);
        slow.set(0);
        pass(60, 3_600_000);
        assert_eq!(look(), Some(Duration::from_secs(3_600)));
    }
}
