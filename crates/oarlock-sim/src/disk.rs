//! What a machine's disk keeps: the numbers that outlive a run, and nothing else.

use oarlock_layout::id::Epoch;
use oarlock_layout::stamp::Stamp;

use crate::queue::Time;
use crate::random::Random;
use crate::swarm::MS;

/// Stands for the daemon's data directory. A store is whole or did not happen; when it happens is for the world
/// to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Disk {
    run: u64,
    stored: Epoch,
    ceiling: Stamp,
}

impl Disk {
    /// A run begins: raises the number of runs.
    pub(crate) fn begin(&mut self) {
        self.run += 1;
    }

    /// Which run this is, or was the last one.
    pub(crate) fn run(&self) -> u64 {
        self.run
    }

    /// Somebody sets the number of runs.
    pub(crate) fn raise_run(&mut self, run: u64) {
        self.run = self.run.max(run);
    }

    /// The epoch stored last.
    pub(crate) fn stored(&self) -> Epoch {
        self.stored
    }

    /// An epoch is on the disk.
    pub(crate) fn store(&mut self, epoch: Epoch) {
        self.stored = epoch;
    }

    /// The number of the cluster clock stored last.
    pub(crate) fn ceiling(&self) -> Stamp {
        self.ceiling
    }

    /// A number of the cluster clock is on the disk.
    pub(crate) fn store_ceiling(&mut self, ceiling: Stamp) {
        self.ceiling = ceiling;
    }

    /// Nothing is left of the clock, or one disk is from a cluster that was further: above all that a coordinator gives at once.
    pub(crate) fn misremember(&mut self, how: u64, one: bool) {
        match how {
            0 => self.ceiling = Stamp(0),
            1 if one => self.ceiling.0 += 1 << 40,
            _ => {}
        }
    }
}

/// How long it takes to make an epoch durable.
pub(crate) fn write_time(random: &mut Random) -> Time {
    random.spread(100_000, 20 * MS)
}
