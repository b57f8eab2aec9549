//! One program's socket at its node.

use crate::queue::Time;
use crate::random::Random;
use crate::swarm::MS;

/// What is put into one end comes out of the other a moment later, in order, packet by packet. Unlike a real
/// one it is never full.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Socket {
    to_node: Time,
    to_program: Time,
}

impl Socket {
    /// A socket on which nothing is under way.
    pub(crate) fn new(now: Time) -> Socket {
        Socket { to_node: now, to_program: now }
    }

    /// When the node gets what the program puts in now.
    pub(crate) fn reaches_node(&mut self, now: Time, random: &mut Random) -> Time {
        next(&mut self.to_node, now, random)
    }

    /// When the program gets what the node puts in now.
    pub(crate) fn reaches_program(&mut self, now: Time, random: &mut Random) -> Time {
        next(&mut self.to_program, now, random)
    }
}

/// Short, now and then not; never before what was put in earlier.
fn next(last: &mut Time, now: Time, random: &mut Random) -> Time {
    let delay = if random.chance(10) { random.spread(100_000, MS) } else { random.between(4_000, 40_000) };
    *last = (*last + 1).max(now + delay);
    *last
}
