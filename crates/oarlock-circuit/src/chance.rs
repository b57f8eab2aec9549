//! All chance of the room: a small generator that follows from a seed.

use core::time::Duration;

/// SplitMix64: one word of state, every seed is good. It spreads attempts over time and draws numbers that
/// need not be secret; nothing here protects anything against who knows the cluster secret.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `around` give or take a quarter: two nodes that once acted at the same moment do not again.
    pub(crate) fn jitter(&mut self, around: Duration) -> Duration {
        let part = (self.next() % 512) as u32;
        around * 3 / 4 + around * part / 1024
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_a_quarter() {
        let mut chance = Chance::new(1);
        let around = Duration::from_millis(1000);
        let all: Vec<Duration> = (0..1000).map(|_| chance.jitter(around)).collect();
        assert!(all.iter().all(|d| d.as_millis() >= 750 && d.as_millis() < 1250));
        assert!(all.iter().any(|d| d.as_millis() < 800) && all.iter().any(|d| d.as_millis() > 1200));
    }
}
