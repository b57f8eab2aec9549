//! What a storyboard is played on: a simulated cluster, or a real one.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use core::time::Duration;

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::limit::VALUE_BYTES;
use oarlock_layout::mode::Mode;
use oarlock_layout::time::Instant;
use oarlock_layout::token::Token;
use oarlock_layout::value::Value;

use crate::table::{Command, Link, Place, Promise, Resource};

/// A cluster, with a session for each flow that has a node. Flows are named by their place in the storyboard.
pub trait Stage {
    /// Why this command cannot be carried out here, if so. Asked of every command before the play begins.
    fn refuses(&self, command: &Command) -> Option<String>;

    /// The time, from whatever origin.
    fn now(&self) -> Instant;

    /// Carries out what a flow wants done. Answers come as [`News`].
    fn act(&mut self, action: Action) -> Result<(), String>;

    /// The value of a counter of a node.
    fn counter(&mut self, name: &str, node: Place) -> Result<u64, String>;

    /// What the checker of a promise has found so far.
    fn broken(&mut self, promise: Promise) -> Vec<String>;

    /// Lets time pass, until this moment or until there is news.
    fn pass(&mut self, until: Instant) -> Vec<News>;

    /// How long nothing may happen until it is certain that nothing ever will.
    fn patience(&self) -> Duration;

    /// How nodes and network are, for the report of a play that is stuck.
    fn remarks(&mut self) -> Vec<String>;

    /// Does somebody want the play to end here?
    fn interrupted(&self) -> bool {
        false
    }

    /// The play is over: everything is healed and given back, and all checkers say what they have found.
    fn end(&mut self) -> Vec<String>;
}

/// What a flow wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// A new lock.
    Lock {
        /// Who.
        flow: usize,
        /// The number of the lock in this session.
        handle: u32,
        /// On what.
        resource: Resource,
        /// In which mode.
        mode: Mode,
        /// How.
        flags: Flags,
        /// Give up after so many milliseconds; 0 is never.
        timeout_ms: u32,
    },
    /// Another mode.
    Convert {
        /// Who.
        flow: usize,
        /// Which lock.
        handle: u32,
        /// In which mode.
        mode: Mode,
        /// How.
        flags: Flags,
        /// Give up after so many milliseconds; 0 is never.
        timeout_ms: u32,
        /// A new value block.
        value: Option<Box<[u8; VALUE_BYTES]>>,
    },
    /// Gives a lock back.
    Unlock {
        /// Who.
        flow: usize,
        /// Which lock.
        handle: u32,
        /// A new value block.
        value: Option<Box<[u8; VALUE_BYTES]>>,
        /// Mark the block as not to be believed.
        invalidate: bool,
    },
    /// Withdraws what a lock waits for.
    Cancel {
        /// Who.
        flow: usize,
        /// Which lock.
        handle: u32,
    },
    /// The program of a flow, whose session was lost, opens another one as soon as its node serves.
    Attach {
        /// Who.
        flow: usize,
    },
    /// The program of a flow dies.
    Kill {
        /// Who.
        flow: usize,
    },
    /// A node stands still.
    Pause(Place),
    /// It goes on.
    Continue(Place),
    /// Nothing passes any more.
    Cut(Link),
    /// It passes again.
    Heal(Link),
    /// A node dies.
    KillNode(Place),
    /// The engine of a node dies, and its keeper does not.
    KillEngine(Place),
    /// A node is stopped in order.
    StopNode(Place),
    /// It is started again.
    StartNode(Place),
    /// The member at a node leaves for good.
    LeaveNode(Place),
    /// Another machine joins in its place.
    JoinNode(Place),
}

/// What a program was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct News {
    /// Whose program.
    pub flow: usize,
    /// What.
    pub what: Told,
}

/// The same, without who.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// A request succeeded.
    Granted {
        /// Which lock.
        handle: u32,
        /// The mode held now.
        mode: Mode,
        /// The token of the grant.
        token: Token,
        /// The value block, if it was read.
        value: Option<Box<Value>>,
    },
    /// A lock is given back.
    Released {
        /// Which lock.
        handle: u32,
    },
    /// A request failed.
    Failed {
        /// Which lock.
        handle: u32,
        /// Why.
        code: Code,
    },
    /// Somebody waits behind a lock.
    Blocking {
        /// Which lock.
        handle: u32,
        /// For which mode.
        wanted: Mode,
    },
    /// The session is over.
    Lost,
    /// Another one has begun.
    Attached,
}
