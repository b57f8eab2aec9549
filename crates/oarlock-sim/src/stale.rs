//! Nodes that come back with less than they had, or are put out by hand (FT16, FT27).
//!
//! ```text
//!   its disk now:   run 9, ceiling c, registry r          OldCopy: run 6, an older ceiling, an older registry
//!                                                         Wiped:   run 0, nothing, the registry as it was founded
//! ```
//!
//! A run whose number was used before is not let in. Whoever runs it starts it again and again, and each start counts one up,
//! until it is a run that nobody has seen.

use oarlock_cluster::registry::{Basis, Command, Out};

use crate::swarm::{FaultKind, MS, S};
use crate::world::{Happening, World};

impl World {
    /// A node dies and comes back with an old disk, or an empty one.
    pub(crate) fn turn_back(&mut self, kind: FaultKind, node: u16) {
        let now = self.queue.now();
        if self.is_away(node) {
            return;
        }
        self.cover(kind, &[node]);
        self.end(node);
        let wiped = kind == FaultKind::Wiped;
        self.hosts[usize::from(node)].turn_back(wiped);
        self.coordinator.turn_back(node, wiped);
        let back = now + self.fault_random.spread(10 * MS, 3 * S);
        self.queue.push(back, Happening::Start { node });
        // If it cannot come back by itself somebody sees to it.
        let seen_to = back + self.fault_random.between(S / 2, 3 * S);
        self.queue.push(seen_to, Happening::SetRight { node });
    }

    /// A run with an old number was not let in. Its service starts another, which is one further.
    pub(crate) fn not_let_in(&mut self, node: u16) {
        let at = self.queue.now() + self.local_delay();
        let run = self.hosts[usize::from(node)].disk.run();
        self.queue.push(at, Happening::Again { node, run });
    }

    /// Whoever cares for a node counts its runs up to where they were.
    pub(crate) fn set_right(&mut self, node: u16) {
        if self.hosts[usize::from(node)].stale {
            self.end(node);
            let host = &mut self.hosts[usize::from(node)];
            host.disk.raise_run(host.starts);
            host.stale = false;
            self.start(node);
        }
    }

    /// A person puts out a node, and does not ask how it is.
    pub(crate) fn put_out(&mut self, node: u16) {
        let now = self.queue.now();
        let nodes = self.options.nodes;
        let by = (0..nodes).find(|n| self.reaches_majority(*n));
        let (Some(by), Some(incarnation)) = (by, self.coordinator.decided(node).incarnation()) else {
            return;
        };
        self.cover(FaultKind::ByHand, &[node]);
        let out = vec![Out {
            node: oarlock_layout::id::NodeId(node),
            incarnation,
            basis: Basis::ByHand,
            fences: self.fences.needs(),
        }];
        let epoch = self.coordinator.decided(node).epoch;
        let command = Command::Evict { epoch, out, note: None };
        let run = self.hosts[usize::from(by)].disk.run();
        self.health.touch(node, now);
        self.queue.push(now, Happening::Decide { node: by, run, command });
    }
}
