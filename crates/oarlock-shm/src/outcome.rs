//! What a caller asks for, and what comes of it.

use oarlock_layout::flags::Flags;
use oarlock_layout::mode::Mode;
use oarlock_layout::segment::State;

use crate::names::Spot;

/// Who stands behind a lock, and how it wants to be treated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Party {
    /// As the program gave it.
    pub owner: u64,
    /// As the program gave it.
    pub transaction: u64,
    /// [`Flags::VALBLK`] and those of [`MANNER`](oarlock_layout::segment::MANNER) matter here.
    pub flags: Flags,
}

/// A lock that is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hold {
    /// Its entry.
    pub entry: u32,
    /// In which mode.
    pub mode: Mode,
    /// On which resource.
    pub spot: Spot,
    /// The state word of its entry while it is held so.
    pub(crate) state: State,
}

/// A lock or a change of mode that the node was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// Its entry.
    pub entry: u32,
    /// The generation it had when it began to wait; the node may have moved it on since.
    pub(crate) state: State,
}

/// Why there is nothing to be had from this segment any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// The node lost its lease or ended its run (M13).
    Epoch,
    /// The session is over (M12).
    Session,
    /// The node has not renewed its lease in time (L1).
    Lease,
}

/// What came of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Taken {
    /// It is held. `knock`: the node sleeps and must be woken, because somebody waits behind this lock.
    Held {
        /// The lock.
        hold: Hold,
        /// Knock at the node.
        knock: bool,
    },
    /// The node must be asked; the entry waits for its answer.
    Wait(Ticket),
    /// A holder or a waiter of this node is in the way. Only for those who do not wait.
    Busy,
    /// Only the node can tell: because only the master can, or because the node's lease is at risk. Only for those who do
    /// not wait.
    NotOwned,
    /// The node's lease is at risk, and until it is renewed nothing new is granted (L6). What is held meanwhile is this: a
    /// lock that changes its mode is held as before, or in the mode asked for if it cannot be lowered here; one that was
    /// waited for is counted, and is not to be believed before another look at it says so.
    Frozen {
        /// The lock.
        hold: Hold,
        /// Knock at the node.
        knock: bool,
    },
    /// The slot bears another name by now: look it up again.
    Moved,
    /// Every entry in reach is in use, or the count is full: ask the node for a lock without an entry.
    NoRoom,
    /// Nothing is granted here any more.
    Lost(Loss),
}

/// An attempt that did not get the lock, before anything was made of it.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Missed {
    pub(crate) entry: u32,
    pub(crate) state: State,
    pub(crate) how: How,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum How {
    /// The node has taken the attempt back.
    TurnedDown,
    /// Somebody is in the way, and the entry is to wait.
    Waits,
    Busy,
    NotOwned,
    Moved,
    NoRoom,
    Frozen,
    Lost(Loss),
}

/// What became of a waiting lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Answer {
    /// Nothing yet: sleep while the entry reads so.
    Waiting(State),
    /// It is held.
    Held(Hold),
    /// The node said no; its reason comes by message.
    Refused,
    /// The session is over.
    Lost,
}

/// A lock that cannot be given back or changed, because it is not held any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gone;
