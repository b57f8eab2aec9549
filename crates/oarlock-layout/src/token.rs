//! Fencing tokens: every grant carries one, and they grow.

use core::fmt;

use crate::id::Epoch;
use crate::limit::{EPOCH_BITS, SERIAL_BITS};

/// The token of a grant: (view epoch, master's serial | local count), compared in that order (R6).
///
/// ```text
///    hi, 64 bits: the fence                      lo, 64 bits
///    ┌──────────┬─────────────────────────────┐  ┌──────────────────────────┐
///    │ epoch 20 │ serial 44                   │  │ local count              │
///    └──────────┴─────────────────────────────┘  └──────────────────────────┘
/// ```
///
/// Of two PW or EX grants of one resource the later has the larger token. Shared grants carry the current
/// value unraised: not below any earlier exclusive one, below every later one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Token {
    /// What storage checks.
    pub fence: Fence,
    /// Counts exclusive grants under one fence; raised without a message.
    pub local: u64,
}

/// The first 64 bits of a [`Token`]: view epoch and the serial of the `Grant` message it rests on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Fence(u64);

impl Fence {
    /// Puts epoch and serial together.
    ///
    /// # Panics
    /// If either does not fit its bits: both are counted on this node, and exhaustion is refused long before.
    pub fn new(epoch: Epoch, serial: u64) -> Fence {
        assert!(u64::from(epoch.0) < 1 << EPOCH_BITS, "epoch {epoch:?} does not fit {EPOCH_BITS} bits");
        assert!(serial < 1 << SERIAL_BITS, "serial {serial} does not fit {SERIAL_BITS} bits");
        Fence((u64::from(epoch.0) << SERIAL_BITS) | serial)
    }

    /// From the number that storage or an environment variable carries.
    pub const fn from_number(number: u64) -> Fence {
        Fence(number)
    }

    /// The number that storage compares.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The view epoch of the grant.
    pub const fn epoch(self) -> Epoch {
        Epoch((self.0 >> SERIAL_BITS) as u32)
    }

    /// The master's serial.
    pub const fn serial(self) -> u64 {
        self.0 & ((1 << SERIAL_BITS) - 1)
    }
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch().0, self.serial())
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}.{}", self.fence, self.local)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.fence, self.local)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_grow_by_epoch_then_serial_then_local_count() {
        let t = |e, s, local| Token { fence: Fence::new(Epoch(e), s), local };
        let rising = [t(1, 5, 9), t(1, 6, 0), t(1, 6, 1), t(2, 0, 0)];
        assert!(rising.windows(2).all(|w| w[0] < w[1]));
        assert_eq!((rising[3].fence.epoch(), rising[1].fence.serial()), (Epoch(2), 6));
        assert_eq!(Fence::from_number(rising[2].fence.number()), rising[2].fence);
    }
}
