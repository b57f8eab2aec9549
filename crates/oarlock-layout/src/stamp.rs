//! Stamps of the cluster logical clock (E1-E4), its two watermarks (E5, CK4), and the trait through which circuits use it.

use core::fmt;

use crate::id::{Epoch, NodeId};
use crate::limit::{EPOCH_BITS, STAMPS_PER_VIEW};

/// A value of the cluster logical clock. Unique together with the node that issued it.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct Stamp(pub u64);

impl Stamp {
    /// The end: no clock goes beyond it and no ceiling is believed beyond it, so that no sum of two ever wraps.
    pub const MAX: Stamp = Stamp(1 << 62);
}

const _: () =
    assert!(STAMPS_PER_VIEW.ilog2() + EPOCH_BITS + 6 <= Stamp::MAX.0.ilog2(), "epochs end before stamps");

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

/// At or above every clock of the cluster, at every moment (E5): where a clock that begins may begin.
///
/// Not to be mixed up with a [`StableWatermark`], which is below what is still to come. They have no conversion.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HighWatermark(pub Stamp);

/// Nothing can commit at or below it any more (CK4): what may be read without waiting. Nobody computes it yet; it
/// has a type so that it is never taken for a [`HighWatermark`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StableWatermark(pub Stamp);

/// What every frame says of its sender's clock (E2, E5). It is a state, not an event: whichever frame is lost, late or
/// repeated, the next one says it all again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Reading {
    /// The clock when the frame was sealed.
    pub stamp: Stamp,
    /// The sender issues nothing above this in its view, nor anything above what all members have acknowledged of it.
    pub ceiling: Stamp,
    /// The highest ceiling of the receiver, of the same view, that the sender has heard and made durable.
    pub acked: Stamp,
    /// The view in which ceilings were announced and heard; 0 if the sender announces none.
    pub epoch: Epoch,
}

impl Reading {
    /// A clock that says nothing of ceilings.
    pub const fn bare(stamp: Stamp) -> Reading {
        Reading { stamp, ceiling: Stamp(0), acked: Stamp(0), epoch: Epoch(0) }
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

/// A node's logical clock, as the circuits see it: they say on each frame what it reads and report what they hear.
///
/// It is an argument of the circuit calls, as `now` is, because the clock belongs to another room.
pub trait Clock {
    /// What a frame to this peer shall say. Called once per frame at the moment it is sealed, retransmissions
    /// included (E2).
    fn reading(&mut self, to: NodeId) -> Reading;

    /// Moves the clock to at least the stamp, before the frame's content is looked at and even if the content
    /// turns out stale or duplicate (E3).
    fn hear(&mut self, from: NodeId, reading: &Reading) -> Result<(), AbsurdStamp>;
}
