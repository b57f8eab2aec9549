//! The segments of a node, and how long programs may believe what they grant themselves there.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use oarlock_layout::limit::LEASE;
use oarlock_layout::segment::Wake;
use oarlock_layout::segment::geometry::entry;
use oarlock_layout::time::Instant;
use oarlock_shm::Memory;

/// How often the lease is renewed: three renewals may come late before it is over.
const RENEW: Duration = Duration::from_millis(750);
/// Programs look at a clock that stands still between two ticks of the kernel. A tick is 10 ms at most.
const MARGIN: Duration = Duration::from_millis(20);

/// The segment of a lockspace.
pub struct Segment {
    /// What the node maps.
    pub memory: Arc<Memory>,
    /// What programs get.
    pub fd: OwnedFd,
}

impl Segment {
    /// Wakes whoever sleeps on an entry.
    pub(super) fn wake(&self, wake: Wake) {
        self.memory.wake(self.memory.geometry().entry(wake.area, wake.entry) + entry::STATE);
    }
}

/// This node's lease, by the engine's own clock, which also runs while the machine sleeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lease {
    until: Instant,
    due: Instant,
}

impl Lease {
    /// Renewed at `now`. Also until when programs may believe, by their clock, which read `monotonic` not before that.
    pub(super) fn renewed(now: Instant, monotonic: u64) -> (Lease, u64) {
        let last = LEASE.saturating_sub(MARGIN);
        (Lease { until: now + last, due: now + RENEW }, monotonic + last.as_nanos() as u64)
    }

    /// When to renew it.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// For how long it has been over.
    pub(super) fn over(&self, now: Instant) -> Option<Duration> {
        (self.until <= now).then(|| now.since(self.until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_over_for_the_node_no_later_than_for_its_programs() {
        let now = Instant(5_000_000_000);
        let (lease, until) = Lease::renewed(now, 1_000_000_000);
        assert_eq!(lease.due(), now + RENEW);
        let left = Duration::from_nanos(until - 1_000_000_000);
        assert!(left < LEASE && LEASE < left + 2 * MARGIN);
        assert_eq!(lease.over(now + (left - Duration::from_nanos(1))), None);
        assert_eq!(lease.over(now + left), Some(Duration::ZERO));
        assert_eq!(lease.over(now + LEASE), Some(MARGIN));
    }
}
