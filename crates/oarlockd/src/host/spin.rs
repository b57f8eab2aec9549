//! Waiting: look again for a moment, then sleep.
//!
//! Waking a sleeping thread on another CPU costs about as much as a whole exchange over loopback. Whoever
//! expects an answer soon does better to look again for a moment. But time spent looking is taken from others,
//! so: it yields instead of burning; it keeps a credit that grows when something came and shrinks when
//! nothing did; and one yield that returns late (somebody else needed the CPU) forbids it for a while.

use std::io;
use std::thread;
use std::time::Duration;

use oarlock_layout::time::Instant;

use super::clock;
use super::poll::{Poll, Ready};

/// How long to look before sleeping. A little more than one exchange with a peer that does the same.
const LOOK: Duration = Duration::from_micros(50);
/// A yield that takes longer gave the CPU to somebody who needed it.
const LATE: Duration = Duration::from_micros(200);
const CREDIT_MAX: i32 = 8;
/// Without credit, one wait in so many still looks: conditions change.
const PROBE_EACH: u32 = 32;
const BAN_MIN: Duration = Duration::from_millis(5);
const BAN_MAX: Duration = Duration::from_secs(1);
/// So many punctual yields in a row forget that there was ever a late one.
const FORGIVE: u32 = 20_000;

/// What the waits did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Waits that slept.
    pub sleeps: u64,
    /// Waits that looked first.
    pub spins: u64,
    /// Of these, those that did not need to sleep.
    pub hits: u64,
}

/// When to look and when to sleep. Pure: told what time it is.
#[derive(Debug, Default)]
struct Policy {
    credit: i32,
    since_probe: u32,
    banned_until: Instant,
    ban: Duration,
    punctual: u32,
}

impl Policy {
    fn may_look(&mut self, now: Instant) -> bool {
        if now < self.banned_until {
            return false;
        }
        if self.credit > 0 {
            return true;
        }
        self.since_probe += 1;
        self.since_probe.is_multiple_of(PROBE_EACH)
    }

    fn looked(&mut self, hit: bool) {
        self.credit = if hit { (self.credit + 1).min(CREDIT_MAX) } else { (self.credit - 2).max(0) };
    }

    /// A yield took so long. `false`: stop looking.
    fn yielded(&mut self, now: Instant, took: Duration) -> bool {
        if took <= LATE {
            self.punctual += 1;
            if self.punctual >= FORGIVE {
                self.ban = Duration::ZERO;
                self.punctual = 0;
            }
            return true;
        }
        self.ban = (self.ban * 2).clamp(BAN_MIN, BAN_MAX);
        self.banned_until = now + self.ban;
        self.punctual = 0;
        false
    }
}

/// A way to wait.
#[derive(Debug)]
pub struct Spin {
    policy: Option<Policy>,
    counts: Counts,
}

impl Spin {
    /// Looks first if `on`, else always sleeps at once.
    pub fn new(on: bool) -> Spin {
        Spin { policy: on.then(Policy::default), counts: Counts::default() }
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Waits as [`Poll::wait`] does.
    pub fn wait(
        &mut self,
        poll: &mut dyn Poll,
        timeout: Option<Duration>,
        out: &mut Vec<Ready>,
    ) -> io::Result<()> {
        if self.look(poll, timeout, out)? {
            return Ok(());
        }
        self.counts.sleeps += 1;
        poll.wait(timeout, out)
    }

    /// Looks for a moment; whether something came.
    fn look(
        &mut self,
        poll: &mut dyn Poll,
        timeout: Option<Duration>,
        out: &mut Vec<Ready>,
    ) -> io::Result<bool> {
        let Some(policy) = &mut self.policy else { return Ok(false) };
        let began = clock::now();
        if timeout.is_some_and(|t| t <= LOOK) || !policy.may_look(began) {
            return Ok(false);
        }
        self.counts.spins += 1;
        let mut before = began;
        loop {
            poll.wait(Some(Duration::ZERO), out)?;
            if !out.is_empty() {
                self.counts.hits += 1;
                policy.looked(true);
                return Ok(true);
            }
            if before.since(began) >= LOOK {
                break;
            }
            thread::yield_now();
            let now = clock::now();
            if !policy.yielded(now, now.since(before)) {
                break;
            }
            before = now;
        }
        policy.looked(false);
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_earns_credit_and_failure_spends_it() {
        let mut p = Policy::default();
        let now = Instant::from_millis(1);
        assert!(!p.may_look(now), "no credit at first");
        for _ in 0..20 {
            p.looked(true);
        }
        let mut looks = 0;
        while p.may_look(now) && p.credit > 0 {
            p.looked(false);
            looks += 1;
        }
        assert_eq!(looks, CREDIT_MAX / 2);
        let tries = (0..10 * PROBE_EACH).filter(|_| p.may_look(now)).count();
        assert_eq!(tries, 10, "without credit only one in {PROBE_EACH} looks");
    }

    #[test]
    fn a_late_yield_bans_longer_each_time_until_forgiven() {
        let mut p = Policy::default();
        p.looked(true);
        let mut now = Instant::from_millis(1);
        let mut bans = Vec::new();
        for _ in 0..10 {
            assert!(p.may_look(now));
            assert!(!p.yielded(now, Duration::from_millis(3)));
            assert!(!p.may_look(now));
            bans.push(p.banned_until.since(now));
            now = p.banned_until;
        }
        assert_eq!((bans[0], bans[1], bans[9]), (BAN_MIN, BAN_MIN * 2, BAN_MAX));
        for _ in 0..FORGIVE {
            assert!(p.yielded(now, Duration::from_micros(1)));
        }
        p.yielded(now, Duration::from_millis(3));
        assert_eq!(p.banned_until.since(now), BAN_MIN);
    }
}
