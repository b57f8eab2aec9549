//! The coordinator of nodes in one process: a registry that decides at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use oarlock_cluster::Registry;
use oarlock_cluster::registry::{Command, FirstSpace, Founder, Order, Outcome, SpaceSettings};
use oarlock_layout::id::Epoch;
use oarlock_layout::limit::VALUE_BYTES;
use oarlock_node::{NodeConfig, SpaceConfig};

/// The registry of a cluster that these nodes have founded, with one lockspace.
pub(crate) fn founded(nodes: &[NodeConfig], space: &SpaceConfig) -> Registry {
    let founder =
        |node: &NodeConfig| Founder { name: node.name.clone(), address: node.address, key: node.key };
    let settings = SpaceSettings {
        order: Order::Passover,
        value: VALUE_BYTES as u16,
        retain: space.retain,
        resources_max: space.resources_max,
        owner: 0,
        group: 0,
        mode: 0o660,
    };
    let spaces = vec![FirstSpace { name: space.name.clone(), settings }];
    let mut registry = Registry::new();
    let founding = Command::found("bench", nodes.iter().map(founder).collect(), spaces, Epoch(0));
    assert_eq!(registry.apply(&founding), Outcome::Done, "a sound founding");
    registry
}

/// A registry for nodes on several threads. Whoever looks for changes reads one word: that is on the measured path.
pub(crate) struct Shared {
    registry: Mutex<Registry>,
    revision: AtomicU64,
}

impl Shared {
    pub(crate) fn new(registry: Registry) -> Shared {
        let revision = AtomicU64::new(registry.revision());
        Shared { registry: Mutex::new(registry), revision }
    }

    /// Changes so far.
    pub(crate) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

    /// What there is now.
    pub(crate) fn look(&self) -> Registry {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Applies a command; returns what came of it.
    pub(crate) fn decide(&self, command: &Command) -> Outcome {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = registry.apply(command);
        self.revision.store(registry.revision(), Ordering::Relaxed);
        outcome
    }
}
