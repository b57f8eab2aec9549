//! What the order does to the registry of this node.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{Stream, StreamExt};
use oarlock_cluster::registry::{Command, Outcome, Registry};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use tokio::sync::watch;

use super::store::Store;
use super::types::{Id, Members, Snapshot, SnapshotMeta, Types};
use crate::coordinator::Applied;

/// Outcomes that are remembered for whoever proposed them and has not asked yet.
const OUTCOMES_MAX: usize = 4096;

/// What others see of the machine.
pub(super) struct Shown {
    applied: watch::Sender<Applied>,
    outcomes: Mutex<Outcomes>,
}

/// What came of the last commands, by their places in the log.
#[derive(Default)]
struct Outcomes {
    last: VecDeque<(Id, Outcome)>,
}

impl Shown {
    pub(super) fn new() -> Arc<Shown> {
        Arc::new(Shown { applied: watch::Sender::new(Applied::default()), outcomes: Mutex::default() })
    }

    pub(super) fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    /// What came of the command at a place that has been applied. None if another command came to stand there, or if it
    /// was not applied one by one.
    pub(super) fn outcome(&self, id: Id) -> Option<Outcome> {
        let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes.last.iter().rev().find(|(at, _)| *at == id).map(|(_, outcome)| *outcome)
    }

    fn note(&self, id: Id, outcome: Outcome) {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        if outcomes.last.len() == OUTCOMES_MAX {
            outcomes.last.pop_front();
        }
        outcomes.last.push_back((id, outcome));
    }
}

/// The registry, and how far it has come.
pub(super) struct Machine {
    registry: Registry,
    last: Option<Id>,
    members: Members,
    store: Store,
    shown: Arc<Shown>,
}

impl Machine {
    pub(super) fn new(store: Store, shown: Arc<Shown>) -> Machine {
        Machine { registry: Registry::new(), last: None, members: Members::default(), store, shown }
    }

    fn show(&self) {
        let steps = self.last.map_or(0, |last| last.index + 1);
        self.shown.applied.send_replace(Applied { steps, registry: Arc::new(self.registry.clone()) });
    }

    fn replace(&mut self, meta: &SnapshotMeta, bytes: &[u8]) -> io::Result<()> {
        self.registry = match bytes {
            // The library's own trials install one of nothing; no node sends it.
            [] if cfg!(test) => Registry::new(),
            _ => Registry::restore(bytes).map_err(|e| io::Error::other(format!("a snapshot: {e}")))?,
        };
        (self.last, self.members) = (meta.last_log_id, meta.last_membership.clone());
        self.show();
        Ok(())
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<Id>, Members)> {
        Ok((self.last, self.members.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(bytes) => {
                    // Whoever cannot read a command cannot know what the others make of it, and must not go on.
                    let command = Command::from_bytes(&bytes.0).map_err(|e| {
                        io::Error::other(format!("command {} of the order: {e}", entry.log_id.index))
                    })?;
                    self.shown.note(entry.log_id, self.registry.apply(&command));
                }
                EntryPayload::Membership(members) => {
                    self.members = Members::new(Some(entry.log_id), members);
                }
            }
            self.last = Some(entry.log_id);
            self.show();
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let meta = SnapshotMeta { last_log_id: self.last, last_membership: self.members.clone() };
        Builder { meta, registry: self.registry.clone(), store: self.store.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Vec<u8>) -> io::Result<()> {
        self.replace(meta, &snapshot)?;
        self.store.keep_snapshot(meta, &snapshot).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        self.store.current_snapshot()
    }
}

/// The registry as it was at one time.
pub(super) struct Builder {
    meta: SnapshotMeta,
    registry: Registry,
    store: Store,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let bytes = self.registry.snapshot();
        self.store.keep_snapshot(&self.meta, &bytes).await?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: bytes })
    }
}
