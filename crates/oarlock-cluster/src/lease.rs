//! The membership lease of this node's run (L1, L2, L6).
//!
//! ```text
//!            sent                                                        lease_until = sent + lease − margin
//!             │                                                                                     │
//!     live ───┴───────────────────────────────► frozen ──────────────────────────────────────────► lost
//!                                               − 40 %
//!                                               no new grants
//!     ◄────────────────────────── a renewal is confirmed ──────────────────────────────────────┘
//! ```
//!
//! What else happens before the end happens where the locks are held, also while this node stands still: programs look at
//! the time themselves, are told "at risk" when it freezes, and commands under `oarlock lock` are ended in time.

use alloc::collections::VecDeque;

use oarlock_layout::limit::{LEASE, LEASE_FROZEN, LEASE_MARGIN, RENEW};
use oarlock_layout::time::{Duration, Instant};

use crate::planted::{Bug, Left};

/// How far a lease is from its end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub enum Standing {
    /// All is well.
    Live,
    /// No new grants; whoever holds a lock sees that it is at risk.
    Frozen,
    /// Over. Locks are gone whatever the registry decides later; only a new run returns.
    Lost,
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// Propose the renewal with this number for this run.
    Renew {
        /// Rises by one each time.
        number: u64,
    },
    /// Grant nothing new.
    Frozen,
    /// A renewal came in time: go on as if nothing had been.
    Thawed,
    /// Every lock of this run is lost. Said once.
    Lost,
}

/// The lease of one run, from its entry into a view to its end.
///
/// *Inputs* are the `handle_` methods; after each, drain [`poll_output`](Lease::poll_output), then sleep until
/// [`poll_timeout`](Lease::poll_timeout). Time is CLOCK_BOOTTIME of this node, which goes on while the machine is
/// suspended (L9).
///
/// A renewal counts only once it was *applied* by the registry, and then from the moment it was *sent*: in between, a
/// cut-off leader may have said anything (L2). Why that is enough is told in [`registry`](crate::registry).
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    until: Instant,
    standing: Standing,
    /// Renewals not confirmed yet, oldest first, with the moment they were sent.
    sent: VecDeque<(u64, Instant)>,
    last_number: u64,
    next_renewal: Instant,
    #[serde(with = "oarlock_layout::written::drained")]
    outputs: VecDeque<Output>,
    #[serde(skip)]
    left: Left,
}

impl Lease {
    /// The lease of a run that the registry has let in, asked for at `sent`: the first time, if several times.
    ///
    /// If that was too long ago, the lease is over before it began, and says so.
    pub fn new(now: Instant, sent: Instant) -> Lease {
        let mut lease = Lease {
            until: end(sent),
            standing: Standing::Live,
            sent: VecDeque::new(),
            last_number: 0,
            next_renewal: now,
            outputs: VecDeque::new(),
            left: Left::default(),
        };
        lease.handle_timeout(now);
        lease
    }

    pub(crate) const fn leave(&mut self, left: Left) {
        self.left = left;
    }

    /// Until when anything may be believed that rests on this lease; for the segments (L1). Never falls, but for an
    /// eviction.
    pub const fn lease_until(&self) -> Instant {
        self.until
    }

    /// How far it is from its end, as of the last input.
    pub const fn standing(&self) -> Standing {
        self.standing
    }

    /// The registry has applied this run's renewal `number`. Told late, twice or out of order, it does no harm.
    pub fn handle_renewed(&mut self, now: Instant, number: u64) {
        // What the clock says comes first: a confirmation that arrives after the end does not undo it.
        self.handle_timeout(now);
        // A lost lease has nothing outstanding that could be confirmed.
        let at_least = self.left.out(Bug::RenewalAtLeast);
        let meant = |n: u64| n == number || (at_least && n > number);
        let Some((_, sent)) = self.sent.iter().find(|(n, _)| meant(*n)) else { return };
        let from = if self.left.out(Bug::RenewalFromAnswer) { now } else { *sent };
        self.until = self.until.max(end(from));
        self.sent.retain(|(n, _)| *n > number);
        self.settle(now);
    }

    /// The registry has put this run out of the view, or taken its surrender.
    pub fn handle_evicted(&mut self, now: Instant) {
        self.until = self.until.min(now);
        self.settle(now);
    }

    /// The moment of [`poll_timeout`](Lease::poll_timeout) has come. Calling at another moment does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.settle(now);
        if self.standing == Standing::Lost || now < self.next_renewal {
            return;
        }
        // After a pause one renewal is enough: an older one would count from the same moment.
        self.next_renewal = now + RENEW;
        self.last_number += 1;
        // Whatever was sent a lease ago would be over when confirmed, so this stays short.
        self.sent.retain(|(_, sent)| end(*sent) > now);
        self.sent.push_back((self.last_number, now));
        self.outputs.push_back(Output::Renew { number: self.last_number });
        if self.left.out(Bug::RenewalUnconfirmed) {
            self.handle_renewed(now, self.last_number);
        }
    }

    /// What is to be done next, until it is `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`handle_timeout`](Lease::handle_timeout); never again once the lease is lost.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let next = match self.standing {
            Standing::Live => before(self.until, LEASE_FROZEN),
            Standing::Frozen => self.until,
            Standing::Lost => return None,
        };
        Some(next.min(self.next_renewal))
    }

    fn settle(&mut self, now: Instant) {
        if self.standing == Standing::Lost {
            return;
        }
        let standing = match self.until {
            until if now >= until => Standing::Lost,
            until if now >= before(until, LEASE_FROZEN) => Standing::Frozen,
            _ => Standing::Live,
        };
        let steps = [(Standing::Frozen, Output::Frozen), (Standing::Lost, Output::Lost)];
        // After a pause both steps may be due at once; each is said, in order.
        let due = steps.iter().filter(|(step, _)| self.standing < *step && *step <= standing);
        self.outputs.extend(due.map(|(_, output)| *output));
        if standing == Standing::Live && self.standing != Standing::Live {
            self.outputs.push_back(Output::Thawed);
        }
        self.standing = standing;
        if standing == Standing::Lost {
            self.sent.clear();
            self.outputs.retain(|output| !matches!(output, Output::Renew { .. }));
        }
    }
}

/// When a lease ends that was asked for at `sent`.
fn end(sent: Instant) -> Instant {
    sent + LEASE.saturating_sub(LEASE_MARGIN)
}

const fn before(until: Instant, by: Duration) -> Instant {
    Instant(until.0.saturating_sub(by.as_nanos() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const T: fn(u64) -> Instant = |ms| Instant::from_millis(100_000 + ms);

    fn drain(lease: &mut Lease) -> Vec<Output> {
        core::iter::from_fn(|| lease.poll_output()).collect()
    }

    /// Runs to `to` by its own timeouts; what it says, and when, in milliseconds. Renewals left out.
    fn run(lease: &mut Lease, to: u64) -> Vec<(u64, Output)> {
        let mut said = Vec::new();
        while let Some(at) = lease.poll_timeout().filter(|at| *at <= T(to)) {
            lease.handle_timeout(at);
            let ms = at.since(T(0)).as_millis() as u64;
            let outputs = drain(lease).into_iter().filter(|o| !matches!(o, Output::Renew { .. }));
            said.extend(outputs.map(|o| (ms, o)));
        }
        said
    }

    /// L6: the two steps at their fixed times, each once.
    #[test]
    fn a_lease_that_nobody_confirms_freezes_and_ends() {
        let mut lease = Lease::new(T(0), T(0));
        assert_eq!(run(&mut lease, 60_000), [(1_700, Output::Frozen), (2_900, Output::Lost)]);
        assert_eq!((lease.standing(), lease.poll_timeout()), (Standing::Lost, None));
    }

    /// L2: the lease counts from the sending of what was confirmed, whenever that is heard.
    #[test]
    fn a_renewal_counts_from_its_sending() {
        let mut lease = Lease::new(T(0), T(0));
        assert_eq!(drain(&mut lease), [Output::Renew { number: 1 }]);
        run(&mut lease, 1_600);
        lease.handle_renewed(T(1_650), 2);
        assert_eq!(lease.lease_until(), end(T(750)));
        lease.handle_renewed(T(1_660), 1);
        lease.handle_renewed(T(1_660), 2);
        lease.handle_renewed(T(1_660), 99);
        assert_eq!(lease.lease_until(), end(T(750)), "older, repeated and invented ones change nothing");
    }

    /// L6: in time means back to live; the next risk is said again.
    #[test]
    fn a_renewal_in_time_thaws_and_the_next_risk_is_told_again() {
        let mut lease = Lease::new(T(0), T(0));
        assert_eq!(run(&mut lease, 2_800).len(), 1);
        lease.handle_renewed(T(2_850), 4);
        assert_eq!(drain(&mut lease), [Output::Thawed]);
        assert_eq!(lease.standing(), Standing::Live);
        assert_eq!(run(&mut lease, 60_000).len(), 2);
    }

    /// L6: a late confirmation of an early sending may not be enough to be live.
    #[test]
    fn a_renewal_may_lead_back_half_the_way() {
        let mut lease = Lease::new(T(0), T(0));
        run(&mut lease, 2_800);
        lease.handle_renewed(T(2_850), 2);
        assert_eq!((lease.standing(), lease.lease_until()), (Standing::Frozen, end(T(750))));
        assert_eq!(drain(&mut lease), []);
    }

    /// L6: from lost there is no way back, and nothing is renewed any more.
    #[test]
    fn what_is_lost_stays_lost() {
        let mut lease = Lease::new(T(0), T(0));
        run(&mut lease, 2_800);
        drain(&mut lease);
        lease.handle_renewed(T(2_900), 4);
        assert_eq!(lease.standing(), Standing::Lost, "the clock came first");
        lease.handle_timeout(T(10_000));
        assert_eq!(drain(&mut lease), [Output::Lost]);
    }

    /// A pause over the whole lease: all steps are said at once, and no renewal is.
    #[test]
    fn after_a_pause_all_that_is_due_is_said_in_order() {
        let mut lease = Lease::new(T(0), T(0));
        drain(&mut lease);
        lease.handle_renewed(T(9_000), 1);
        let all = [Output::Frozen, Output::Lost];
        assert_eq!(drain(&mut lease), all);
        let mut late = Lease::new(T(9_000), T(0));
        assert_eq!(drain(&mut late), all, "let in too late");
    }

    #[test]
    fn an_evicted_run_is_lost_at_once() {
        let mut lease = Lease::new(T(0), T(0));
        drain(&mut lease);
        lease.handle_evicted(T(100));
        assert_eq!((lease.standing(), lease.lease_until()), (Standing::Lost, T(100)));
        lease.handle_renewed(T(110), 1);
        assert_eq!((lease.standing(), lease.lease_until()), (Standing::Lost, T(100)));
    }

    proptest! {
        /// L2 and L6 under any order, loss and repetition of confirmations: the lease ends when the newest confirmed
        /// sending says, renewals in flight stay few, and lost is for good.
        #[test]
        fn only_the_newest_sending_that_was_confirmed_counts(
            steps in proptest::collection::vec((0u64..1_500, 0usize..8, any::<bool>()), 1..200)
        ) {
            let mut lease = Lease::new(T(0), T(0));
            prop_assert_eq!(drain(&mut lease), [Output::Renew { number: 1 }]);
            let (mut now, mut sent, mut newest) = (0, vec![T(0), T(0)], T(0));
            let mut lost = false;
            for (wait, back, confirm) in steps {
                now += wait;
                let was_over = T(now) >= end(newest);
                if confirm {
                    let number = sent.len().saturating_sub(1 + back).max(1);
                    lease.handle_renewed(T(now), number as u64);
                    if !was_over {
                        newest = newest.max(sent[number]);
                    }
                } else {
                    lease.handle_timeout(T(now));
                }
                for output in drain(&mut lease) {
                    prop_assert!(!lost, "nothing is said after the end");
                    match output {
                        Output::Renew { number } => {
                            prop_assert_eq!(number as usize, sent.len());
                            sent.push(T(now));
                        }
                        Output::Lost => lost = true,
                        _ => {}
                    }
                }
                prop_assert_eq!(lost, T(now) >= end(newest));
                prop_assert_eq!(lost, lease.standing() == Standing::Lost);
                prop_assert_eq!(lease.lease_until(), end(newest));
                if !lost {
                    prop_assert!(lease.poll_timeout().is_some_and(|at| at > T(now)));
                }
                prop_assert!(lease.sent.len() <= 5);
            }
        }
    }
}
