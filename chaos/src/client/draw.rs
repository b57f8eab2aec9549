//! What a worker wishes for next. All chance of a worker is here.

use std::time::Duration;

use oarlock_layout::flags::Flags;
use oarlock_layout::limit::VALUE_BYTES;
use oarlock_layout::mode::Mode;
use oarlock_sim::Random;
use oarlock_sim::history::Block;

use super::RESOURCES;

/// A new lock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub(super) rank: u64,
    pub(super) mode: Mode,
    pub(super) flags: Flags,
    /// 0 waits for ever.
    pub(super) timeout_ms: u32,
}

/// Another mode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) mode: Mode,
    /// NOQUEUE, NOQUEUEBAST, QUECVT, HEADQUE and FRESH; the rest follows from the lock.
    pub(super) flags: Flags,
    pub(super) timeout_ms: u32,
}

/// A request that waits while its worker holds something must end soon: the worker hears no notices meanwhile.
pub(super) const PATIENCE_MS_MAX: u64 = 1_200;

/// Draws everything from one stream.
pub(super) struct Draw {
    random: Random,
    client: u32,
    writes: u32,
}

impl Draw {
    pub(super) fn new(seed: u64, client: u32) -> Draw {
        Draw { random: Random::new(seed), client, writes: 0 }
    }

    pub(super) fn chance(&mut self, permille: u64) -> bool {
        self.random.chance(permille)
    }

    /// Short times are common, long ones happen.
    pub(super) fn micros(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_micros(self.random.spread(low, high))
    }

    fn mode(&mut self) -> Mode {
        match self.random.below(100) {
            0..4 => Mode::NL,
            4..16 => Mode::CR,
            16..28 => Mode::CW,
            28..52 => Mode::PR,
            52..66 => Mode::PW,
            _ => Mode::EX,
        }
    }

    /// A new lock, for somebody who holds one of rank `above` already or nothing.
    pub(super) fn wish(&mut self, above: Option<u64>) -> Wish {
        let random = &mut self.random;
        // Low ranks are hot.
        let rank = random.below(RESOURCES).min(random.below(RESOURCES));
        let mode = self.mode();
        let mut wish = Wish { rank, mode, flags: self.flags(mode), timeout_ms: 0 };
        if above.is_some_and(|held| held >= rank) {
            // Waiting against the order of ranks could close a circle; trying cannot.
            let waiting = Flags::EXPEDITE | Flags::HEADQUE | Flags::NOORDER | Flags::LOCAL;
            wish.flags = (wish.flags - waiting) | Flags::NOQUEUE;
        }
        if !wish.flags.intersects(Flags::NOQUEUE | Flags::LOCAL) {
            let random = &mut self.random;
            wish.timeout_ms = match above {
                Some(_) => random.spread(10, PATIENCE_MS_MAX) as u32,
                None if random.chance(250) => random.spread(4, 500) as u32,
                None if random.chance(700) => random.between(2_000, 8_000) as u32,
                None => 0,
            };
        }
        wish
    }

    fn flags(&mut self, mode: Mode) -> Flags {
        let random = &mut self.random;
        let mut flags = Flags::empty();
        let mut toss = |permille, flag| {
            if random.chance(permille) {
                flags |= flag;
            }
        };
        toss(500, Flags::VALBLK);
        toss(20, Flags::NOBAST);
        if mode.exclusive() {
            toss(60, Flags::FRESH);
        }
        let kind = match random.below(100) {
            0..10 => Flags::NOQUEUE,
            10..15 => Flags::NOQUEUE | Flags::NOQUEUEBAST,
            15..27 => Flags::NOQUEUE | Flags::LOCAL,
            27..29 => Flags::HEADQUE,
            29..31 => Flags::NOORDER,
            31..35 if mode == Mode::CW => Flags::ALTPR,
            31..35 if mode == Mode::PR => Flags::ALTCW,
            31..60 if mode == Mode::NL => Flags::EXPEDITE,
            _ => Flags::empty(),
        };
        if kind.contains(Flags::LOCAL) {
            // FRESH asks the master, which LOCAL forbids.
            flags -= Flags::FRESH;
        }
        flags | kind
    }

    /// Another mode for a lock held in `held`.
    pub(super) fn change(&mut self, held: Mode) -> Change {
        let mode = self.mode();
        let upward = !held.covers(mode);
        let random = &mut self.random;
        let mut flags = Flags::empty();
        let mut timeout_ms = 0;
        if upward {
            flags |= match random.below(100) {
                0..15 => Flags::NOQUEUE,
                15..20 => Flags::NOQUEUE | Flags::NOQUEUEBAST,
                20..35 => Flags::QUECVT,
                35..37 => Flags::HEADQUE,
                _ => Flags::empty(),
            };
            if !flags.contains(Flags::NOQUEUE) {
                timeout_ms = random.spread(10, PATIENCE_MS_MAX) as u32;
            }
            if mode.exclusive() && random.chance(40) {
                flags |= Flags::FRESH;
            }
        }
        Change { mode, flags, timeout_ms }
    }

    /// A block that nobody else writes, in which halves of two different blocks would be noticed.
    pub(super) fn block(&mut self) -> Box<Block> {
        self.writes += 1;
        let mut block = Box::new([0; VALUE_BYTES]);
        for (n, chunk) in block.chunks_exact_mut(8).enumerate() {
            let word = (u64::from(self.client) << 32 | u64::from(self.writes)).wrapping_mul(2 * n as u64 + 1);
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_in_a_circle_and_whoever_holds_waits_shortly() {
        let mut draw = Draw::new(1, 1);
        for _ in 0..5_000 {
            let wish = draw.wish(Some(7));
            let tries = wish.flags.intersects(Flags::NOQUEUE | Flags::LOCAL);
            assert!(tries || wish.rank > 7, "{wish:?}");
            assert!(tries || (1..=PATIENCE_MS_MAX).contains(&wish.timeout_ms.into()), "{wish:?}");
        }
    }

    #[test]
    fn every_mode_and_manner_is_wished_for() {
        let mut draw = Draw::new(2, 1);
        let wishes: Vec<Wish> = (0..20_000).map(|_| draw.wish(None)).collect();
        for mode in Mode::ALL {
            assert!(wishes.iter().any(|w| w.mode == mode), "{mode}");
        }
        let manners = [
            Flags::NOQUEUE,
            Flags::NOQUEUEBAST,
            Flags::LOCAL,
            Flags::HEADQUE,
            Flags::NOORDER,
            Flags::ALTPR,
            Flags::ALTCW,
            Flags::EXPEDITE,
            Flags::FRESH,
            Flags::VALBLK,
            Flags::NOBAST,
        ];
        for flag in manners {
            assert!(wishes.iter().any(|w| w.flags.contains(flag)), "{flag:?}");
        }
        assert!(wishes.iter().any(|w| w.timeout_ms > 0) && wishes.iter().any(|w| w.timeout_ms == 0));
    }

    #[test]
    fn only_upward_changes_queue() {
        let mut draw = Draw::new(3, 1);
        let mut upward = 0;
        for held in Mode::ALL {
            for _ in 0..2_000 {
                let change = draw.change(held);
                upward += u32::from(!held.covers(change.mode));
                assert!(!held.covers(change.mode) || change.flags.is_empty(), "{held} {change:?}");
            }
        }
        assert!(upward > 1_000);
    }
}
