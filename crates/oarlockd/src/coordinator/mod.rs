//! The coordinator: an engine that agrees with its like on other nodes on one order of commands, and applies them to the
//! [`Registry`] of this node.
//!
//! ```text
//!   propose(command) ──► engine ──► one order, the same everywhere ──► Registry::apply ──► Registry, shown
//!                          ▲ │
//!         calls of others ─┘ └─► calls to others (Line)
//! ```
//!
//! Only low-rate truth goes here, never a lock. No engine's own types leave the module of that engine.

use std::sync::Arc;

use oarlock_cluster::registry::{Command, Outcome, Registry};
use tokio::sync::watch;

pub mod backup;
#[cfg(test)]
mod conformance;
pub mod control;
pub mod etcd;
pub mod raft;

/// Why a command was not decided, or nothing can be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Trouble {
    /// No majority of voters was reached in time; nothing came of it.
    #[error("no majority of the voters answers")]
    NoQuorum,
    /// The view in which it was to be is not the newest any more; nothing came of it.
    #[error("the view has changed meanwhile")]
    Behind,
    /// It went on its way, and whether it was applied is not known. Its condition makes it safe to say it again.
    #[error("whether it was decided is not known; it is safe to ask again")]
    Unknown,
    /// The command is too long, or names what cannot be named: nobody could read it.
    #[error("the command cannot be said: {0}")]
    Invalid(String),
    /// This node takes no part any more.
    #[error("the coordinator of this node has stopped: {0}")]
    Stopped(String),
}

/// How a coordinator outside of the cluster is, as far as this node knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outside {
    /// Which of its members is asked first.
    pub endpoint: String,
    /// A majority of it has answered last time.
    pub answers: bool,
}

/// What this node has applied.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// Commands and whatever else stood in the order, so far. Rises by one with each.
    pub steps: u64,
    /// What came of them.
    pub registry: Arc<Registry>,
}

/// Agrees on one order of commands.
pub trait Coordinator {
    /// Puts a command into the order. Answers once it was applied *here*, with what came of it.
    ///
    /// # Errors
    /// [`Trouble`]. It may be asked again: a command says by itself whether it is still wanted.
    fn propose(&self, command: &Command) -> impl Future<Output = Result<Outcome, Trouble>> + Send;

    /// The registry with everything that was decided before this call: a majority confirmed after it that nothing newer was.
    ///
    /// # Errors
    /// [`Trouble`].
    fn confirmed(&self) -> impl Future<Output = Result<Arc<Registry>, Trouble>> + Send;

    /// The registry as it is here, which may be behind; it changes with each command applied.
    fn applied(&self) -> watch::Receiver<Applied>;
}
