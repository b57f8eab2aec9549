//! What the clients of a cluster saw: the only thing the checkers look at.
//!
//! ```text
//!   simulated processes ──┐                           ┌── exclusion  value  tokens
//!                         ├──► Event, Event, Event ──►│   order  answers  liveness
//!   real processes, JSON ─┘    (one sequence)         └── findings
//! ```
//!
//! An event is recorded by the client at the moment it acts: *before* it sends a request, and *after* it has
//! received an answer. A lock is therefore held at least from its `Granted` to the next thing the client asks
//! about it, and two such spans that overlap in conflicting modes are a violation whatever happened inside
//! the cluster. All clients use one clock, which one machine (or one simulation) can offer.

mod ledger;
mod lines;

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::limit::VALUE_BYTES;
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::token::Token;
use oarlock_layout::value::Value;

pub use ledger::{Held, Ledger, Lock, LockKey, Pending, PendingKind, Resource, meet};
pub use lines::{LineError, read_lines, write_line};

/// Number of a client in a history; never reused, not even after its death.
pub type Client = u32;

/// The bytes of a value block.
pub type Block = [u8; VALUE_BYTES];

/// Something that happened, as a client or the one who runs the clients knows it.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// Nanoseconds on the clock that all clients share.
    pub at: u64,
    /// What happened.
    pub what: What,
}

/// What happened.
#[derive(Clone, PartialEq, Debug)]
pub enum What {
    /// A client has a session.
    Opened {
        /// Who.
        client: Client,
        /// At which node.
        node: u16,
    },
    /// A client is about to send a request.
    Asked {
        /// Who.
        client: Client,
        /// Its number for the lock.
        handle: u32,
        /// What it asks.
        ask: Ask,
    },
    /// A client has received something.
    Told {
        /// Who.
        client: Client,
        /// Its number for the lock.
        handle: u32,
        /// What it was told.
        told: Told,
    },
    /// A session is over, and with it the client's belief in its locks.
    Ended {
        /// Who.
        client: Client,
        /// How.
        how: End,
    },
    /// Something about the whole run.
    Mark(Mark),
}

/// What a client asks.
#[derive(Clone, PartialEq, Debug)]
pub enum Ask {
    /// A new lock.
    Lock {
        /// Index into [`Rules::strict`].
        space: u16,
        /// Which resource.
        name: Name,
        /// Which mode.
        mode: Mode,
        /// How.
        flags: Flags,
        /// Give up after so many milliseconds, 0 is never.
        timeout_ms: u32,
    },
    /// Another mode for a held lock.
    Convert {
        /// Which mode.
        mode: Mode,
        /// How.
        flags: Flags,
        /// Give up after so many milliseconds, 0 is never.
        timeout_ms: u32,
        /// A new value block.
        value: Option<Box<Block>>,
    },
    /// Give the lock back, held or not.
    Unlock {
        /// A new value block.
        value: Option<Box<Block>>,
        /// Mark the block as not to be believed.
        invalidate: bool,
    },
    /// Withdraw what the lock waits for.
    Cancel,
}

/// What a client is told.
#[derive(Clone, PartialEq, Debug)]
pub enum Told {
    /// A request succeeded.
    Granted {
        /// The mode held now.
        mode: Mode,
        /// The token of the grant, if it has been drawn: who takes a lock in a segment draws it when it wants one.
        token: Option<Token>,
        /// The value block, if it was read.
        value: Option<Box<Value>>,
        /// The second choice was given.
        alternate: bool,
    },
    /// The lock is given back.
    Released,
    /// A request failed.
    Failed {
        /// Why.
        code: Code,
    },
    /// The token of the grant, drawn later.
    Token {
        /// The token.
        token: Token,
    },
    /// Somebody waits behind the lock.
    Blocking {
        /// For which mode.
        wanted: Mode,
    },
}

/// How a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The process was killed or hung up, whatever it held.
    Died,
    /// The node said that all locks of the session are lost, or the node's end of the socket is gone.
    Lost,
}

/// Something about the whole run, said by whoever runs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// Faults of nodes or of the network may happen from here on.
    Storm,
    /// All such faults are over; clients may still die.
    Calm,
    /// From here on clients give back what they hold when they are told that it blocks somebody, and only then.
    Polite,
    /// The polite phase has lasted long enough for every notice to arrive and to be followed.
    PoliteEnd,
    /// All clients have given back all they held, and long enough ago for every answer to arrive.
    Drained,
    /// This node was put out of the view, or any was if it is not known which: what others know of blocks that it may
    /// have written is not to be believed.
    NodeGone(Option<u16>),
    /// Every node was stopped and started again: all sessions have ended, nothing of what was held counts.
    NewCluster,
}

/// What the checkers must know besides the events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    /// How many nodes there are.
    pub nodes: u16,
    /// For each lockspace: is its order strict (R1)?
    pub strict: Vec<bool>,
    /// How long a request may be on its way from a client into its node, in nanoseconds.
    pub local_delay: u64,
    /// How long a node's statement may be on its way to another while the network is calm.
    pub calm_delay: u64,
    /// How long after the end of all faults their traces may last (retransmission pauses, late deliveries).
    pub settle: u64,
    /// How long after its death a session's last requests may still be acted upon.
    pub linger: u64,
    /// How far the clock of a node may leap ahead at once (FT14).
    pub leap: u64,
    /// Lockspaces are given to some, and others may be refused (I22).
    pub given: bool,
}

impl Rules {
    /// Nanoseconds after which a request with this timeout may have been given up at its node: clocks of nodes run up to two per cent
    /// fast, and some leap.
    pub fn patience(&self, timeout_ms: u32) -> u64 {
        (u64::from(timeout_ms) * 950_000).saturating_sub(self.leap)
    }

    /// Figures for simulated clusters: pauses of nodes last at most 10 s there.
    pub fn simulated(nodes: u16, strict: Vec<bool>) -> Rules {
        Rules {
            nodes,
            strict,
            local_delay: 2_000_000,
            calm_delay: 300_000_000,
            settle: 2_000_000_000,
            linger: 15_000_000_000,
            leap: 0,
            given: false,
        }
    }

    /// Figures for real processes on one machine, whose scheduler may keep anybody waiting.
    pub fn real(nodes: u16, strict: Vec<bool>) -> Rules {
        Rules {
            nodes,
            strict,
            local_delay: 250_000_000,
            calm_delay: 1_500_000_000,
            settle: 5_000_000_000,
            linger: 15_000_000_000,
            leap: 0,
            given: false,
        }
    }
}
