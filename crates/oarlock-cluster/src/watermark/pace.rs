//! How fast the clock runs here, and so how far ahead a ceiling must be.

use core::time::Duration;

use oarlock_layout::time::Instant;

use super::STRIDE_MAX;

/// Half of the shortest stride: a clock that hardly ever moves still asks for a ceiling only now and then.
const HALF_MIN: u64 = 1 << 9;

/// Measures how far the clock goes in a period, and how long it takes until a ceiling may be used.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pace {
    period: Duration,
    patience: Duration,
    /// The period under way: since when, and where the clock stood.
    since: Instant,
    from: u64,
    /// How far it went in the period before.
    before: u64,
    /// How long a raise took, the longest of late.
    delay: Duration,
    /// A raise is under way since then.
    asked: Option<Instant>,
}

impl Pace {
    pub(super) fn new(period: Duration, patience: Duration) -> Pace {
        assert!(!period.is_zero(), "a period has a length");
        let (since, delay) = (Instant(0), Duration::ZERO);
        Pace { period, patience, since, from: 0, before: 0, delay, asked: None }
    }

    /// A stamp is about to be issued. Other nodes' stamps move the clock as well, and count.
    pub(super) fn handle_issue(&mut self, now: Instant, clock: u64) {
        let passed = now.since(self.since);
        if passed < self.period {
            return;
        }
        // Of a longer time than a period, a period's share.
        let way = u128::from(clock.saturating_sub(self.from)) * self.period.as_nanos() / passed.as_nanos();
        (self.since, self.from, self.before) = (now, clock, way as u64);
    }

    /// The clock begins anew further ahead, which is no pace.
    pub(super) fn handle_jump(&mut self, clock: u64) {
        self.from = clock;
    }

    /// A raise begins.
    pub(super) fn handle_asked(&mut self, now: Instant) {
        self.asked.get_or_insert(now);
    }

    /// The raise was done by now. Noticed at the next issue, which for a node in haste is soon; who is in no haste is
    /// not believed to have waited longer than a few periods.
    pub(super) fn handle_granted(&mut self, now: Instant) {
        if let Some(asked) = self.asked.take() {
            let took = now.since(asked).min(self.period * 8);
            self.delay = took.max(self.delay * 7 / 8);
        }
    }

    /// How far the clock may go until a raise is done: its way in two periods and the time that a raise takes (or a
    /// silent member, which must be put out first).
    pub(super) fn half_stride(&self, clock: u64) -> u64 {
        let way = self.before.max(clock.saturating_sub(self.from));
        let horizon = self.period * 2 + self.delay + self.patience;
        let half = u128::from(way) * horizon.as_nanos() / self.period.as_nanos();
        half.clamp(HALF_MIN.into(), (STRIDE_MAX / 2).into()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Instant {
        Instant::from_millis(n)
    }

    #[test]
    fn half_a_stride_is_the_way_of_two_periods_and_a_raise() {
        let mut pace = Pace::new(Duration::from_millis(100), Duration::ZERO);
        assert_eq!(pace.half_stride(0), HALF_MIN);
        pace.handle_issue(ms(1_000), 0);
        pace.handle_issue(ms(1_100), 10_000);
        assert_eq!(pace.half_stride(10_000), 20_000);
        pace.handle_asked(ms(1_100));
        pace.handle_granted(ms(1_150));
        assert_eq!(pace.half_stride(10_000), 25_000);
        // A faster period counts before it is over, a jump does not.
        assert_eq!(pace.half_stride(30_000), 50_000);
        pace.handle_jump(1 << 40);
        assert_eq!(pace.half_stride(1 << 40), 25_000);
        assert_eq!(pace.half_stride(1 << 60), STRIDE_MAX / 2);
    }
}
