//! What leaves the room.

use oarlock_layout::code::Code;
#[cfg(doc)]
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, LockId, NodeId};
use oarlock_layout::message::lock::Packet;
use oarlock_layout::mode::Mode;
use oarlock_layout::token::Token;
use oarlock_layout::value::Value;

/// Something for the hall to carry on.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Output {
    /// To another node; never to this one.
    Send {
        /// Which node.
        to: NodeId,
        /// What.
        packet: Packet,
    },
    /// A request succeeded (AST).
    Granted(Granted),
    /// A lock is given back.
    Released {
        /// Which.
        lock: LockId,
    },
    /// A request failed; a convert leaves the lock as it was (AST).
    Failed {
        /// Which.
        lock: LockId,
        /// Why.
        code: Code,
    },
    /// Somebody waits behind a granted lock (BAST). Always after the `Granted` of the mode it blocks.
    Blocking {
        /// Which.
        lock: LockId,
        /// What is wanted.
        wanted: Mode,
    },
}

/// A lock is held in a mode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Granted {
    /// Which.
    pub lock: LockId,
    /// The mode held now.
    pub mode: Mode,
    /// The token of this grant.
    pub token: Token,
    /// The value block, if the call read it, or its validity is news.
    pub value: Option<Value>,
    /// The second choice was given.
    pub alternate: bool,
    /// Its program looks at the lock's entry in the segment by itself ([`Flags::QUIET`]).
    pub quiet: bool,
}

/// What a peer said that no honest peer says. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Violation {
    /// A message for a resource that this node does not master.
    #[error("this node is not the master of that resource")]
    NotMaster,
    /// A message from a node that does not master the resource.
    #[error("that node is not the master of the resource")]
    NotFromMaster,
    /// Nobody speaks under a view before all of its members are in it.
    #[error("it speaks under view {came}, this node is in view {ours}")]
    View {
        /// The view here.
        ours: Epoch,
        /// The view of the message.
        came: Epoch,
    },
    /// What two nodes owned before a view never conflicts.
    #[error("it says it owned {came} before this view, beside a mode that another member owned")]
    Overlaps {
        /// What it claims.
        came: Mode,
    },
    /// Only who was master before this view has something to hand over, once, while members restate.
    #[error("it hands over what it cannot have")]
    Handover,
    /// Not a member of the view.
    #[error("the sender is not a member of the view")]
    NotMember,
    /// Statements of a shadow are numbered one by one.
    #[error("statement {came} came where {expected} was next")]
    Ordinal {
        /// What was next.
        expected: u64,
        /// What came.
        came: u64,
    },
    /// It echoes a change that was never made.
    #[error("it has heard of change {came}, the last one made is {last}")]
    Future {
        /// The last one made.
        last: u64,
        /// What came.
        came: u64,
    },
    /// A shadow can lower what it holds, never raise it.
    #[error("it says it holds {came:?}, it was granted {granted:?}")]
    Overclaims {
        /// What it was granted.
        granted: Option<Mode>,
        /// What it claims.
        came: Option<Mode>,
    },
    /// A grant never takes away what is owned: that would be believed lower than it is (3.4 rule 9).
    #[error("it holds {held:?} and wants a mode that does not cover it")]
    Shrinks {
        /// What it holds.
        held: Option<Mode>,
    },
    /// A grant raises: a master that wants something back announces a head.
    #[error("it grants {came} where {owned:?} is owned")]
    Lowers {
        /// What is owned.
        owned: Option<Mode>,
        /// What came.
        came: Mode,
    },
    /// Serials grow, and have 44 bits (R6).
    #[error("it grants under serial {came}, the last one was {last}")]
    Serial {
        /// The last one.
        last: u64,
        /// What came.
        came: u64,
    },
    /// Only an owner of PW or EX can have written the value block.
    #[error("it sends a value block without having owned PW or EX")]
    ValueWithoutRight,
    /// There is no such shadow or record.
    #[error("there is no record of that resource")]
    NoRecord,
    /// Changes of a master are numbered one by one.
    #[error("change {came} came where {expected} was due")]
    Change {
        /// What was due.
        expected: u64,
        /// What came.
        came: u64,
    },
    /// It says it has heard a statement that was never made.
    #[error("it has heard statement {came}, the last one made is {last}")]
    UnheardOf {
        /// The last one made.
        last: u64,
        /// What came.
        came: u64,
    },
}
