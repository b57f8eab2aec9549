//! A logical clock without ceilings (E1-E4).

use oarlock_layout::id::NodeId;
use oarlock_layout::stamp::{AbsurdStamp, Clock, Reading, Stamp};

/// A scalar logical clock: every stamp it issues is larger than all it has issued or heard before.
///
/// It counts events, not time, so it needs no timer. What makes two idle nodes agree within a probe period
/// is that circuits exchange a stamped frame at least that often (E4).
///
/// It is for circuits that are used alone. A node has a [`Watermark`](crate::Watermark), whose clock keeps below ceilings.
///
/// ```
/// use oarlock_cluster::LogicalClock;
/// use oarlock_layout::id::NodeId;
/// use oarlock_layout::stamp::{Clock, Reading, Stamp};
///
/// let mut clock = LogicalClock::new();
/// let first = clock.stamp();
/// clock.hear(NodeId(1), &Reading::bare(Stamp(40))).unwrap();
/// assert!(first < Stamp(40) && clock.stamp() == Stamp(41));
/// ```
#[derive(Clone, Debug, Default)]
pub struct LogicalClock {
    last: Stamp,
    clock_jumps: u64,
}

impl LogicalClock {
    /// A clock that has issued and heard nothing.
    pub const fn new() -> LogicalClock {
        LogicalClock { last: Stamp(0), clock_jumps: 0 }
    }

    /// The largest stamp issued or heard so far, without issuing one.
    pub const fn last(&self) -> Stamp {
        self.last
    }

    /// How often a peer's stamp moved this clock forward.
    pub const fn clock_jumps(&self) -> u64 {
        self.clock_jumps
    }

    /// The next stamp: larger than every one issued or heard before (E1).
    ///
    /// # Panics
    /// After 2^64 stamps: at a thousand million frames a second that is five centuries. Peers stop believing
    /// stamps at [`Stamp::MAX`] long before.
    pub fn stamp(&mut self) -> Stamp {
        self.last = Stamp(self.last.0.checked_add(1).expect("fewer than 2^64 stamps in one run"));
        self.last
    }
}

impl Clock for LogicalClock {
    fn reading(&mut self, _: NodeId) -> Reading {
        Reading::bare(self.stamp())
    }

    fn hear(&mut self, _: NodeId, &Reading { stamp, .. }: &Reading) -> Result<(), AbsurdStamp> {
        // The bound is what keeps one broken peer from driving every clock to its end.
        if stamp > Stamp::MAX {
            return Err(AbsurdStamp { stamp, max: Stamp::MAX });
        }
        if stamp > self.last {
            self.last = stamp;
            self.clock_jumps += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hear(clock: &mut LogicalClock, stamp: Stamp) -> Result<(), AbsurdStamp> {
        clock.hear(NodeId(1), &Reading::bare(stamp))
    }

    #[test]
    fn stamps_rise_and_no_two_are_equal() {
        // E1.
        let mut clock = LogicalClock::new();
        let stamps: Vec<Stamp> = (0..1_000).map(|_| clock.stamp()).collect();
        assert!(stamps.windows(2).all(|w| w[0] < w[1]));
    }

    #[test]
    fn hearing_the_past_changes_nothing() {
        // E3: only a larger stamp moves the clock.
        let mut clock = LogicalClock::new();
        hear(&mut clock, Stamp(10)).unwrap();
        hear(&mut clock, Stamp(10)).unwrap();
        hear(&mut clock, Stamp(3)).unwrap();
        assert_eq!((clock.last(), clock.clock_jumps()), (Stamp(10), 1));
    }

    #[test]
    fn an_absurd_stamp_is_refused_and_leaves_the_clock_alone() {
        // E3, E6: believed up to 2^62 and not one further.
        let mut clock = LogicalClock::new();
        let absurd = Stamp(Stamp::MAX.0 + 1);
        assert_eq!(hear(&mut clock, absurd), Err(AbsurdStamp { stamp: absurd, max: Stamp::MAX }));
        assert_eq!(clock.last(), Stamp(0));
        assert_eq!(hear(&mut clock, Stamp::MAX), Ok(()));
        assert!(clock.stamp() > Stamp::MAX, "its own stamps go on rising");
    }

    proptest! {
        /// E1 and E3 over a random run of a few nodes: along every message and every node, stamps rise.
        #[test]
        fn a_message_is_stamped_before_whatever_follows_its_receipt(
            steps in proptest::collection::vec((0usize..4, 0usize..4, any::<bool>()), 1..200)
        ) {
            let mut clocks = vec![LogicalClock::new(); 4];
            let mut in_flight: Vec<(usize, Stamp)> = Vec::new();
            for (from, to, deliver) in steps {
                let last = clocks[from].last();
                let stamp = clocks[from].stamp();
                prop_assert!(stamp > last);
                in_flight.push((to, stamp));
                if deliver {
                    let (at, heard) = in_flight.swap_remove(stamp.0 as usize % in_flight.len());
                    hear(&mut clocks[at], heard).unwrap();
                    prop_assert!(clocks[at].stamp() > heard);
                }
            }
        }
    }
}
