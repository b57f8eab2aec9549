//! Stamps of the cluster logical clock (E1-E4) and the trait through which circuits use the clock.

use core::fmt;

/// A value of the cluster logical clock. Unique together with the node that issued it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp(pub u64);

impl Stamp {
    /// Until ceilings are announced (E5, E6), a stamp from an authenticated peer is believed up to here.
    pub const MAX: Stamp = Stamp(1 << 62);
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.0)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A peer sent a stamp that no honest clock can have reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stamp {stamp} is beyond {max}, which no clock of this cluster has reached")]
pub struct AbsurdStamp {
    /// What came.
    pub stamp: Stamp,
    /// The highest that would have been believed.
    pub max: Stamp,
}

/// A node's logical clock, as the circuits see it: they stamp what they transmit and report what they hear.
///
/// It is an argument of the circuit calls, as `now` is, because the clock belongs to another room.
pub trait Clock {
    /// The next stamp: larger than every stamp issued or heard before (E1). Called once per frame at the
    /// moment it is sealed, retransmissions included (E2).
    fn stamp(&mut self) -> Stamp;

    /// Moves the clock to at least `stamp`, before the frame's content is looked at and even if the content
    /// turns out stale or duplicate (E3).
    fn hear(&mut self, stamp: Stamp) -> Result<(), AbsurdStamp>;
}
