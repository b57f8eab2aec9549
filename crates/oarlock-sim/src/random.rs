//! Chance from a seed: the same numbers on every machine, for ever. No floating point anywhere.

/// Xoshiro256++ (Blackman and Vigna), seeded by splitmix64.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// All that follows from `seed`.
    pub fn new(seed: u64) -> Random {
        let mut z = seed;
        let mut next = || {
            z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut x = z;
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            x ^ (x >> 31)
        };
        Random { state: [next(), next(), next(), next()] }
    }

    /// An independent stream, so that one part drawing more numbers does not shift all others.
    pub fn fork(&mut self) -> Random {
        Random::new(self.bits())
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number below `n`, which is not 0. The bias of the multiplication is below 2^-32 for our sizes.
    pub fn below(&mut self, n: u64) -> u64 {
        debug_assert!(n > 0);
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// From `low` to `high`, each order of magnitude equally likely: short times are common, long ones happen.
    pub fn spread(&mut self, low: u64, high: u64) -> u64 {
        debug_assert!(low > 0);
        let (from, to) = (low.ilog2(), high.ilog2());
        let exponent = self.between(from.into(), to.into());
        let base = 1u64 << exponent;
        (base + self.below(base)).clamp(low, high)
    }

    /// True in `permille` of thousand cases.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// An index, by weights that are not all 0.
    pub fn weighted(&mut self, weights: &[u64]) -> usize {
        let mut n = self.below(weights.iter().sum());
        for (index, weight) in weights.iter().enumerate() {
            match n.checked_sub(*weight) {
                Some(rest) => n = rest,
                None => return index,
            }
        }
        unreachable!("below the sum of the weights")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_of_a_seed_never_changes() {
        // A seed in a bug report must mean the same run in every later version of this file.
        let mut random = Random::new(42);
        let first: Vec<u64> = (0..3).map(|_| random.bits()).collect();
        assert_eq!(first, [15021278609987233951, 5881210131331364753, 18149643915985481100]);
    }

    #[test]
    fn ranges_are_kept_and_reached() {
        let mut random = Random::new(1);
        let mut seen = [false; 6];
        for _ in 0..1000 {
            seen[random.between(2, 5) as usize] = true;
            assert!((10..=1000).contains(&random.spread(10, 1000)));
            assert_ne!(random.weighted(&[1, 0, 3]), 1);
        }
        assert_eq!(seen, [false, false, true, true, true, true]);
    }
}
