//! When a flow takes its next step: a little later, from a stream of its own. One flow drawing more numbers shifts
//! no other (S4).

use core::time::Duration;

/// The stream of one flow.
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

/// Flows are as quick as programs are: from a microsecond to a millisecond.
const DELAY_US_MAX: u64 = 1000;

impl Chance {
    pub(crate) fn new(seed: u64, flow: &str) -> Chance {
        // The name, not the place in the file, so that a flow more shifts no other either.
        let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Chance(flow.bytes().fold(0xcbf2_9ce4_8422_2325, fold) ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(crate) fn delay(&mut self) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Duration::from_micros(1 + (x ^ (x >> 31)) % DELAY_US_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_follow_from_the_seed_and_the_name() {
        let delays = |seed, flow| {
            let mut chance = Chance::new(seed, flow);
            [(); 4].map(|()| chance.delay())
        };
        assert_eq!(delays(7, "a"), delays(7, "a"));
        assert_ne!(delays(7, "a"), delays(7, "b"));
        assert_ne!(delays(7, "a"), delays(8, "a"));
        assert!(delays(1, "x").iter().all(|d| (1..=DELAY_US_MAX).contains(&(d.as_micros() as u64))));
    }
}
