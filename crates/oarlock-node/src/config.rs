//! What a node is told at its start: the shared configuration and its own place in it.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;

use oarlock_circuit::Options;
use oarlock_layout::id::{Incarnation, NodeId};
use oarlock_layout::seal::PublicKey;
use oarlock_layout::stamp::Stamp;
use oarlock_layout::time::Duration;
use oarlock_lock::Order;

/// Everything a node is told at its start.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the cluster.
    pub cluster: String,
    /// This node: one of `nodes`.
    pub me: NodeId,
    /// The members as far as they are known at the start. What the registry says of them counts from when there is one.
    pub nodes: BTreeMap<NodeId, NodeConfig>,
    /// All lockspaces; their order gives them their ids.
    pub spaces: Vec<SpaceConfig>,
    /// Hash of what all members must agree on.
    pub shared: u64,
    /// This run, durably counted.
    pub incarnation: Incarnation,
    /// The highest number of the cluster clock ever stored here, 0 if none.
    pub ceiling: Stamp,
    /// All chance of this node comes from here.
    pub seed: u64,
    /// Engines of this node among which resources are shared. One, for now.
    pub shards: u16,
    /// How patient circuits are.
    pub circuits: Options,
    /// How long an unused resource keeps its record.
    pub forget_after: Duration,
    /// How old a wait is before it is looked whether it is part of a deadlock (D8).
    pub deadlock_after: Duration,
    /// A rule that is left out on purpose, to try checkers on.
    #[cfg(feature = "planted")]
    #[serde(skip)]
    pub bug: Option<crate::planted::Bug>,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Its name.
    pub name: String,
    /// Where its circuits listen.
    pub address: SocketAddr,
    /// Its public key.
    pub key: PublicKey,
}

/// Members whose order gives them their ids: those who found a cluster.
pub fn numbered(nodes: impl IntoIterator<Item = NodeConfig>) -> BTreeMap<NodeId, NodeConfig> {
    (0..).map(NodeId).zip(nodes).collect()
}

/// A lockspace.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpaceConfig {
    /// Its name.
    pub name: String,
    /// In which order its queues are granted.
    pub order: Order,
    /// Owned modes are kept after the last local release.
    pub retain: bool,
    /// Resources a node keeps of it at most.
    pub resources_max: u32,
}
