//! A larger part that is locked out by one node that is in, and outvotes it (L7, I20).
//!
//! ```text
//!   view {a, b, c, d, e}     b and c die, and the ways between them and a break
//!   view {a, d, e}           their leases are over; they come back, hear d and e, and not a: nobody lets them in
//!   view {d, e}              they have waited for lease and drift: a is in the way of four that hear each other
//!   view {b, c, d, e}        a comes back when the ways are whole again
//! ```

use crate::network::{Disturbance, Weather};
use crate::queue::Time;
use crate::swarm::{FaultKind, MS, S};
use crate::world::{Happening, World};

/// So long two nodes do not hear a third: the lease of the runs that died, then what those of the view need to be outvoted, and
/// what it takes until the others are in.
const LOCKED_OUT: Time = 13 * S;

impl World {
    /// Two nodes die, and do not hear this one when they come back, which is in the view. All others hear each other, and wait
    /// for it to go, which takes them seconds in which nothing else goes wrong. Once in a run.
    pub(crate) fn lock_out(&mut self, now: Time, node: u16) {
        let nodes = self.options.nodes;
        let until = now + LOCKED_OUT;
        let is_in = self.coordinator.is_in(node, self.hosts[usize::from(node)].disk.run());
        if nodes < 5 || !is_in || until > self.plan.storm_end || self.health.quiet_until > 0 {
            return;
        }
        self.health.quiet_until = until;
        self.cover(FaultKind::LockOut, &[node]);
        let first = self.fault_random.below(u64::from(nodes) - 1) as u16;
        let far = [0, 1].map(|n| (node + 1 + (first + n) % (nodes - 1)) % nodes);
        let mut links = self.network.all_links();
        links.retain(|(a, b)| *a == node && far.contains(b) || *b == node && far.contains(a));
        for dead in far {
            self.end(dead);
            let back = now + self.fault_random.between(3_600 * MS, 4_400 * MS);
            self.queue.push(back, Happening::Start { node: dead });
        }
        far.iter().chain([&node]).for_each(|end| self.health.touch_around(*end, until));
        let weather = Weather { lost: 1000, delay: (0, 0), late: 0, ..Weather::FINE };
        self.disturb(now, Disturbance { links, weather, flap: 0 }, LOCKED_OUT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    /// The scene by itself: no other fault, so it must come to its end whatever the seed.
    #[test]
    fn whoever_is_locked_out_by_one_node_outvotes_it() {
        for seed in 1..=3 {
            let options = Options { faults: false, seconds: 40, liveness: Some(false), ..Options::default() };
            let mut world = World::new(seed, options);
            let node = seed as u16;
            world.queue.push(6 * S, Happening::Ambush { kind: FaultKind::LockOut, node });
            let (report, _) = world.run();
            assert_eq!(report.findings, [], "seed {seed}");
            assert!(report.load.outvoted > 0, "seed {seed}: nobody was outvoted");
        }
    }
}
