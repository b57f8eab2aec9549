//! What people and monitors see of a node.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;

use oarlock_circuit::CircuitStatus;
use oarlock_cluster::Watermark;
use oarlock_cluster::watermark::{Counters as ClockCounters, Other};
use oarlock_layout::code::Code;
use oarlock_layout::id::{Epoch, Incarnation, NodeId};
use oarlock_layout::message::form::Phase;
use oarlock_layout::segment::Tally;
use oarlock_layout::stamp::{HighWatermark, Stamp};
use oarlock_layout::time::Duration;

/// A node at one instant.
#[derive(Clone, Debug)]
pub struct Status {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of this node.
    pub node: String,
    /// Its id.
    pub me: NodeId,
    /// This run.
    pub incarnation: Incarnation,
    /// Where it stands.
    pub phase: Phase,
    /// The view it serves in, 0 if none.
    pub epoch: Epoch,
    /// Masters here grant.
    pub open: bool,
    /// How much of the lease is left; none without one.
    pub lease_left: Option<Duration>,
    /// Why it does not serve, or what is wrong although it does. Empty: all is well.
    pub problems: Vec<(Code, String)>,
    /// All members, this node included, by id.
    pub members: Vec<MemberStatus>,
    /// All lockspaces, by id.
    pub spaces: Vec<SpaceStatus>,
    /// Programs attached.
    pub sessions: usize,
    /// The cluster clock, as it stands here.
    pub clock: ClockStatus,
}

impl Status {
    /// Serving in a view, and granting under it.
    pub fn can_serve(&self) -> bool {
        self.phase == Phase::Serving && self.open
    }

    /// The same, and every member is in the view and heard.
    pub fn is_well(&self) -> bool {
        self.can_serve() && self.members.iter().all(|m| m.in_view && (m.is_me || m.heard))
    }
}

/// A member as this node sees it.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Where its circuits listen.
    pub address: SocketAddr,
    /// It is this node.
    pub is_me: bool,
    /// The view names a run of it.
    pub in_view: bool,
    /// It is heard, both ways.
    pub heard: bool,
    /// Silent for so long.
    pub silent_for: Option<Duration>,
    /// Its circuit; none for this node.
    pub circuit: Option<CircuitStatus>,
}

/// The cluster clock at this node.
#[derive(Clone, Debug)]
pub struct ClockStatus {
    /// The view in which ceilings count, 0 if there is none.
    pub epoch: Epoch,
    /// The largest stamp issued or heard.
    pub stamp: Stamp,
    /// At or above every clock of the cluster; none while this node is in no view, or has not heard everybody in it.
    pub watermark: Option<HighWatermark>,
    /// What it has announced.
    pub ceiling: Option<Stamp>,
    /// Up to here it may issue stamps.
    pub granted: Stamp,
    /// What is durable.
    pub stored: Stamp,
    /// What the other members have announced and acknowledged.
    pub others: Vec<Other>,
    /// What was counted.
    pub counters: ClockCounters,
}

impl ClockStatus {
    pub(crate) fn new(clock: &Watermark) -> ClockStatus {
        ClockStatus {
            epoch: clock.epoch(),
            stamp: clock.last(),
            watermark: clock.high_watermark(),
            ceiling: clock.ceiling(),
            granted: clock.granted(),
            stored: clock.stored(),
            others: clock.others().to_vec(),
            counters: clock.counters(),
        }
    }
}

/// A lockspace at this node.
#[derive(Clone, Debug)]
pub struct SpaceStatus {
    /// Its name.
    pub name: String,
    /// Resources with a record here.
    pub resources: usize,
    /// Resources this node masters.
    pub mastered: usize,
    /// Locks that wait here.
    pub waiting: usize,
    /// What it has counted.
    pub counters: oarlock_lock::Counters,
    /// What its programs did by themselves.
    pub tally: Tally,
}

/// A number that only grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counter {
    /// Its name; exported as `oarlock_<name>_total`.
    pub name: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// How much.
    pub value: u64,
}
