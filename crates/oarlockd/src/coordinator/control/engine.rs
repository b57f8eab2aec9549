//! The engine of a node's coordinator, whichever it is.

use std::sync::Arc;
use std::time::Duration;

use oarlock_cluster::registry::{Command, Outcome, Registry};
use oarlock_layout::id::NodeId;
use oarlock_layout::message::raft::{Answer, Call};
use tokio::sync::watch;

use super::founding;
use crate::coordinator::etcd::External;
use crate::coordinator::raft::{Embedded, Misdeed, Standing};
use crate::coordinator::{Applied, Coordinator, Trouble};

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(100);

/// One of the two. Clones are the same one.
#[derive(Clone)]
pub(super) enum Either {
    /// The members decide among themselves.
    Raft(Embedded),
    /// etcd decides.
    Etcd(External),
}

impl Coordinator for Either {
    async fn propose(&self, command: &Command) -> Result<Outcome, Trouble> {
        match self {
            Either::Raft(engine) => engine.propose(command).await,
            Either::Etcd(engine) => engine.propose(command).await,
        }
    }

    async fn confirmed(&self) -> Result<Arc<Registry>, Trouble> {
        match self {
            Either::Raft(engine) => engine.confirmed().await,
            Either::Etcd(engine) => engine.confirmed().await,
        }
    }

    fn applied(&self) -> watch::Receiver<Applied> {
        match self {
            Either::Raft(engine) => engine.applied(),
            Either::Etcd(engine) => engine.applied(),
        }
    }
}

impl Either {
    /// Answers a call of another node's coordinator.
    pub(super) async fn handle(&self, from: NodeId, call: Call) -> Result<Answer, Misdeed> {
        match self {
            Either::Raft(engine) => engine.handle(from, call).await,
            // A member with another engine differs in its shared configuration, and has no circuit.
            Either::Etcd(_) => Err(Misdeed::NotAsked),
        }
    }

    /// Waits until who leads and votes is not as `last` any more.
    pub(super) async fn standing_after(&self, last: &Standing) -> Standing {
        match self {
            Either::Raft(engine) => engine.standing_after(last).await,
            Either::Etcd(engine) => {
                let outside = Some(engine.outside_after(last.outside.as_ref()).await);
                Standing { outside, ..Standing::default() }
            }
        }
    }

    /// Waits until it takes no part any more, and says why.
    pub(super) async fn failed(&self) -> String {
        match self {
            Either::Raft(engine) => engine.failed().await,
            Either::Etcd(engine) => engine.failed().await,
        }
    }

    /// Waits until what is applied here is no older than what was decided when this was called, where it may be much older:
    /// etcd's order is read from its beginning.
    pub(super) async fn caught_up(&self) {
        while let Either::Etcd(engine) = self {
            match engine.confirmed().await {
                Ok(_) | Err(Trouble::Stopped(_)) => return,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Begins the cluster that `founding` describes, if there is none.
    pub(super) async fn found(&self, founding: &Command) -> Result<(), String> {
        match self {
            Either::Raft(engine) => founding::found(engine, founding).await,
            Either::Etcd(engine) => founding::found_outside(engine, founding).await,
        }
    }

    /// Makes voters and followers those of the registry, where the members decide. Where etcd does, only the registry says who
    /// votes, and nobody is asked.
    pub(super) async fn follow(&self, registry: &Registry) -> Result<(), Trouble> {
        match self {
            Either::Raft(engine) => founding::follow(engine, registry).await,
            Either::Etcd(engine) => founding::promote(engine, registry, |_| true).await,
        }
    }

    /// Lets a node that joined stand for election.
    pub(super) fn campaign(&self) {
        match self {
            Either::Raft(engine) => engine.campaign(),
            Either::Etcd(_) => {}
        }
    }

    /// Lets another member lead, if this one does.
    pub(super) async fn step_down(&self) {
        match self {
            Either::Raft(engine) => engine.step_down().await,
            Either::Etcd(_) => {}
        }
    }

    /// Ends it.
    pub(super) async fn stop(&self) {
        match self {
            Either::Raft(engine) => engine.stop().await,
            Either::Etcd(engine) => engine.stop(),
        }
    }
}
