//! The lock value block: a few bytes kept with the resource (LVB).

use core::fmt;

use crate::id::Epoch;
use crate::limit::VALUE_BYTES;

/// The last number a block can have. Honest writers never get there; one that was led there by a dishonest one writes blocks
/// that are no news to others, but nothing breaks.
pub const SEQUENCE_MAX: u64 = (1 << 62) - 1;

/// A resource's value block (R5): bytes, a sequence that grows by one with each write or invalidation, and
/// whether the bytes can be believed.
///
/// Sequence 0 means the resource never had a block: zeros, valid (scenario 30).
#[derive(Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Value {
    /// Grows with each write or invalidation; never falls while the resource lives.
    pub sequence: u64,
    /// False from the death of a writer until the next write (scenario 35).
    pub valid: bool,
    /// The block.
    #[serde(with = "crate::written::bytes")]
    pub bytes: [u8; VALUE_BYTES],
}

impl Value {
    /// The block of a resource that never had one.
    pub const NEVER: Value = Value { sequence: 0, valid: true, bytes: [0; VALUE_BYTES] };

    const fn next(&self) -> u64 {
        if self.sequence < SEQUENCE_MAX { self.sequence + 1 } else { SEQUENCE_MAX }
    }

    /// The block after a write of `bytes`.
    #[must_use]
    pub const fn written(&self, bytes: [u8; VALUE_BYTES]) -> Value {
        Value { sequence: self.next(), valid: true, bytes }
    }

    /// The block after its writer died or said so: bytes kept, not to be believed. A resource that never
    /// had a block keeps having none (scenario 35).
    #[must_use]
    pub const fn invalidated(&self) -> Value {
        if self.sequence == 0 {
            return *self;
        }
        Value { sequence: self.next(), valid: false, bytes: self.bytes }
    }

    /// The block after a node left that may have written it, nobody knows how often: its bytes are the last that others
    /// know. Also where nobody knows of any block. The view in which it is doubted is the upper part of its sequence: no
    /// program has ever seen one as high, whatever those had who left.
    #[must_use]
    pub fn doubted(&self, epoch: Epoch) -> Value {
        let doubted = u64::from(epoch.0) << 40;
        let sequence = if doubted > self.sequence { doubted } else { self.next() };
        Value { sequence, valid: false, bytes: self.bytes }
    }
}

impl Default for Value {
    fn default() -> Value {
        Value::NEVER
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}{}", self.sequence, if self.valid { "" } else { "!" })
    }
}
