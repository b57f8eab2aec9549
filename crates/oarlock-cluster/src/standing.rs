//! What this node knows of its peers while a view forms, in words for people.

use core::fmt;

use oarlock_layout::id::{Epoch, Incarnation, NodeId};
use oarlock_layout::message::form::Phase;

/// What is known of one peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct PeerStanding {
    /// The run with which a circuit came up last; none if none ever did.
    pub run: Option<Incarnation>,
    /// What that run said of itself; none until it has spoken.
    pub said: Option<Said>,
    /// It serves a view that names an earlier run of this node, and says so at the door (L3).
    pub refuses_us: bool,
}

/// What a run said of itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Said {
    /// Where it stands.
    pub phase: Phase,
    /// The highest epoch it has promised to keep.
    pub stored: Epoch,
    /// It stopped cleanly last time.
    pub clean: bool,
}

/// One reason why this node does not serve yet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Wait {
    /// No circuit to a run of this member yet.
    Missing(NodeId),
    /// The member serves a view that names an earlier run of this node.
    RefusedBy(NodeId),
    /// The member serves a view that this run is not in, and has not refused us at its door yet.
    Serves(NodeId, Epoch),
    /// All members are there; the member with the lowest id proposes.
    Proposer(NodeId),
    /// A proposed view waits for this member to make it durable and accept.
    Accept(NodeId, Epoch),
    /// A proposed view waits for the own disk.
    Disk(Epoch),
    /// A view was accepted here and waits for the others.
    Commit(Epoch),
    /// Every epoch that fits a token is used up.
    EpochsExhausted,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wait::Missing(node) => write!(f, "node {node} has not been heard yet"),
            Wait::RefusedBy(node) => write!(
                f,
                "node {node} still serves with an earlier run of this node; \
                 this version needs a restart of the whole cluster"
            ),
            Wait::Serves(node, epoch) => write!(
                f,
                "node {node} serves view {epoch}, which does not name this run; \
                 this version needs a restart of the whole cluster"
            ),
            Wait::Proposer(node) => write!(f, "all members are there; node {node} is to propose a view"),
            Wait::Accept(node, epoch) => write!(f, "node {node} has not accepted view {epoch} yet"),
            Wait::Disk(epoch) => write!(f, "epoch {epoch} is being written to disk"),
            Wait::Commit(epoch) => write!(f, "view {epoch} is accepted here; the others are still at it"),
            Wait::EpochsExhausted => {
                f.write_str("all epochs are used up; tokens could not grow any further in this cluster")
            }
        }
    }
}
