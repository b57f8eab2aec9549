//! What a lockspace is told at its start.

use oarlock_layout::id::{NodeId, SpaceId};
use oarlock_layout::time::Duration;

/// In which order queued requests are granted (R1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
pub enum Order {
    /// When a head is granted, every queued request that fits is granted with it, also past others that do
    /// not fit (C9, C10). The default of native lockspaces.
    #[default]
    Passover,
    /// A scan stops at the first request that does not fit. What libdlm programs expect.
    Strict,
}

/// A lockspace as the shared configuration describes it, seen from one node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Which lockspace.
    pub space: SpaceId,
    /// Which node this is.
    pub me: NodeId,
    /// Queue order.
    pub order: Order,
    /// Keep owned modes after the last local release (C14). Off: every release is told to the master.
    pub retain: bool,
    /// How long a resource that nobody here uses and that owns nothing above NL keeps its record at the
    /// master before it is forgotten.
    pub forget_after: Duration,
}

impl Config {
    /// The defaults of a native lockspace.
    pub const fn native(space: SpaceId, me: NodeId) -> Config {
        Config { space, me, order: Order::Passover, retain: true, forget_after: Duration::from_secs(10) }
    }
}
