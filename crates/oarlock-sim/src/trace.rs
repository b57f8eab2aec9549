//! One number for a whole run: if two runs of a seed differ in any byte or at any moment, it differs.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::queue::Time;

/// What is recorded, so that equal bytes of different kinds do not look alike.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    Datagram = 1,
    Arrival = 2,
    Timer = 3,
    Request = 4,
    Reply = 5,
    Store = 6,
    Event = 7,
    Fault = 8,
    Start = 9,
    End = 10,
    Caller = 11,
    Decided = 12,
    HandOver = 13,
}

/// The hash of everything so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Trace(pub u64);

impl Trace {
    pub(crate) fn record(&mut self, at: Time, kind: Kind, who: u32, bytes: &[u8]) {
        // The place in the chain is the seed, so order matters.
        let chain = self.0.rotate_left(17) ^ at ^ (u64::from(who) << 40) ^ ((kind as u64) << 56);
        self.0 = xxh3_64_with_seed(bytes, chain.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
