//! How long granted requests had waited: a few counts instead of a list of times.

use core::time::Duration;

/// Upper bounds, in microseconds: from an answer of a master nearby to what no program should have to wait for.
const BOUNDS_US: [u64; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// How long requests had waited that were not granted at once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waits {
    within: [u64; BOUNDS_US.len()],
    longer: u64,
    sum: Duration,
}

impl Waits {
    /// One that waited so long was granted.
    pub(crate) fn add(&mut self, time: Duration) {
        let place = BOUNDS_US.partition_point(|bound| Duration::from_micros(*bound) < time);
        *self.within.get_mut(place).unwrap_or(&mut self.longer) += 1;
        self.sum = self.sum.saturating_add(time);
    }

    /// Upper bounds, and how many waited no longer than each but longer than the one before. The last has no bound.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let bounds = BOUNDS_US.into_iter().map(|bound| Some(Duration::from_micros(bound)));
        bounds.zip(self.within).chain([(None, self.longer)])
    }

    /// How many waited.
    pub fn count(&self) -> u64 {
        self.within.iter().sum::<u64>() + self.longer
    }

    /// How long all of them together.
    pub fn sum(&self) -> Duration {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_has_one_bucket_and_a_bound_belongs_below() {
        assert!(BOUNDS_US.is_sorted());
        let (mut waits, us) = (Waits::default(), Duration::from_micros);
        for time in
            [us(0), us(100), Duration::from_nanos(100_001), us(60_000_000), us(60_000_001), Duration::MAX]
        {
            waits.add(time);
        }
        let some: Vec<_> = waits.buckets().filter(|(_, n)| *n > 0).collect();
        let want = [(Some(us(100)), 2), (Some(us(250)), 1), (Some(us(60_000_000)), 1), (None, 2)];
        assert_eq!((some, waits.count(), waits.sum()), (want.to_vec(), 6, Duration::MAX));
    }
}
