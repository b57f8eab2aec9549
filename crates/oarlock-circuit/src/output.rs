//! What leaves the room.

use alloc::vec::Vec;
use core::net::SocketAddr;

use oarlock_layout::code::Code;
use oarlock_layout::id::{Incarnation, NodeId};
use oarlock_layout::limit::MESSAGE_BYTES_MAX;
use oarlock_layout::message::frame::Class;
use oarlock_layout::seal::MAC_BYTES;

/// Something the circuits want done or known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Datagrams for the network.
    Transmit(Transmit),
    /// The next message of a peer.
    Deliver {
        /// Who sent it.
        from: NodeId,
        /// In which class. Only messages of one class are in order with each other.
        class: Class,
        /// The message.
        message: Vec<u8>,
    },
    /// There is a circuit to this run of the peer; messages can be sent.
    Up {
        /// The peer.
        peer: NodeId,
        /// Which run.
        incarnation: Incarnation,
    },
    /// The circuit has ended, because another run of the peer is there ([`Output::Up`] for that one follows), or because it is no
    /// peer any more.
    Down {
        /// The peer.
        peer: NodeId,
        /// The run that is gone.
        incarnation: Incarnation,
        /// Messages to it of which nobody knows whether they arrived.
        unknown: usize,
    },
    /// The peer has not answered for the silent time, or says that it does not hear us. Evidence, no verdict:
    /// sending goes on and nothing is lost. Once per silence (L8).
    Silent {
        /// The peer.
        peer: NodeId,
    },
    /// A silence is over.
    Heard {
        /// The peer.
        peer: NodeId,
    },
    /// Somebody says that a run has ended, with a secret from which this code follows. Whether it is the one that the run has
    /// pledged, others know (L5).
    Gasp {
        /// Whose.
        node: NodeId,
        /// Which run.
        incarnation: Incarnation,
        /// As [`Circuits::pledge`](crate::Circuits::pledge) makes it.
        code: [u8; MAC_BYTES],
    },
    /// The peer refuses us. Once per change of the reason.
    RefusedBy {
        /// The peer.
        peer: NodeId,
        /// Why.
        code: Code,
    },
    /// We refused somebody. At most one in a while for each node and reason; the counters are exact.
    Refused {
        /// Where it came from.
        from: SocketAddr,
        /// Who it says it is, as far as we know.
        node: Option<NodeId>,
        /// Why.
        code: Code,
    },
}

/// One or several datagrams to one address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// `Some(n)`: `bytes` is a train of datagrams of `n` bytes each; only the last may be shorter. A kernel
    /// with segmentation offload takes it whole, any other gets the pieces.
    pub segment: Option<usize>,
}

impl Transmit {
    /// The datagrams one by one.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks(self.segment.unwrap_or(self.bytes.len()).max(1))
    }
}

/// Why a message was not taken for sending. Nothing was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    /// No member has this id, or it is this one.
    #[error("node {0} is no peer of this node")]
    NoSuchPeer(NodeId),
    /// Longer than a message may be.
    #[error("a message of {0} bytes; at most {MESSAGE_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// There has never been a circuit to this peer since we started.
    #[error("no circuit to node {0} yet")]
    NotUp(NodeId),
    /// Too much waits to be acknowledged; the backlog should have been looked at earlier.
    #[error("{backlog} bytes to node {peer} are not acknowledged yet")]
    Full {
        /// The peer.
        peer: NodeId,
        /// How much waits.
        backlog: usize,
    },
}
