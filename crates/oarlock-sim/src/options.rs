//! What every seed of a batch has in common.

use oarlock_layout::seal::{PublicKey, Seal};

/// Makes the cryptography of a node from its index and a seed.
pub type MakeSeal = fn(u16, u64) -> (Box<dyn Seal + Send>, PublicKey);

/// How large a run is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Simulated seconds; a run has 34 at least, or the parts after the storm had no storm before them.
    pub seconds: u64,
    /// Machines.
    pub nodes: u16,
    /// Programs, besides those that keep value blocks alive.
    pub processes: usize,
    /// Faults of nodes and of the network happen.
    pub faults: bool,
    /// Resources per lockspace; drawn by the seed if none is given.
    pub resources: Option<u64>,
    /// Programs close circles of waits in each seed.
    pub circles: bool,
    /// Nodes have segments; drawn by the seed if it is not given.
    pub segments: Option<bool>,
    /// What locks protect are registers that fence departed nodes; drawn by the seed if it is not given.
    pub fences: Option<bool>,
    /// Lockspaces are given to some (I22); drawn by the seed if it is not given.
    pub rights: Option<bool>,
    /// The storm ends for a majority only, and the others stay broken; drawn by the seed if it is not given.
    pub liveness: Option<bool>,
    /// What stays broken is one node that does not hear two others, and is heard by a majority.
    pub torn: bool,
    /// Engines are handed over now and then; as the seed draws if it is not given.
    pub handovers: Option<bool>,
    /// After so many events each, one node after the other is written down and read again between two of its steps. Nobody may
    /// be able to tell.
    pub rewrite: Option<u64>,
    /// Keep every event that clients saw.
    pub keep_history: bool,
    /// End the run when the first finding is there.
    pub stop_at_first: bool,
    /// Other cryptography than the simulator's keyed checksum.
    pub crypto: Option<MakeSeal>,
    /// A rule that all nodes leave out.
    #[cfg(feature = "planted")]
    pub bug: Option<oarlock_node::Bug>,
    /// A rule that all registers leave out.
    #[cfg(feature = "planted")]
    pub register_bug: Option<RegisterBug>,
}

/// A rule that fenced registers leave out on purpose (L4).
#[cfg(feature = "planted")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegisterBug {
    /// A fence is called durable before it is on the disk.
    FenceNotDurable,
    /// A write from below the fence is taken.
    WriteBelowFence,
}

#[cfg(feature = "planted")]
impl RegisterBug {
    /// Every one of them.
    pub const ALL: [RegisterBug; 2] = [RegisterBug::FenceNotDurable, RegisterBug::WriteBelowFence];
}

impl Default for Options {
    /// The standard load: five nodes, forty programs, sixty seconds.
    fn default() -> Options {
        Options {
            seconds: 60,
            nodes: 5,
            processes: 40,
            faults: true,
            resources: None,
            circles: false,
            segments: None,
            fences: None,
            rights: None,
            liveness: None,
            torn: false,
            handovers: None,
            rewrite: None,
            keep_history: false,
            stop_at_first: true,
            crypto: None,
            #[cfg(feature = "planted")]
            bug: None,
            #[cfg(feature = "planted")]
            register_bug: None,
        }
    }
}
