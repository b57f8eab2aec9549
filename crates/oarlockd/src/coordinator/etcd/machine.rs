//! What the order does to the registry of this node.
//!
//! Entries come from three sides: by the watch, with a read, and with the answer to an own proposal. Each is offered here, and
//! taken if it is the next one; so it does not matter who is first.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oarlock_cluster::registry::{ClusterId, Command, Outcome, Registry};
use oarlock_layout::codec::Wire;
use tokio::sync::{Notify, watch};

use super::Failure;
use super::record::{Entry, Keys, Ticket, shown};
use super::wire::KeyValue;
use crate::coordinator::Applied;

/// Outcomes that are remembered for whoever proposed them and has not asked yet.
const OUTCOMES_MAX: usize = 4096;

/// The registry, and how far it has come.
pub(super) struct Machine {
    keys: Keys,
    /// Whose order it must be, if that is known.
    cluster: Option<ClusterId>,
    state: Mutex<State>,
    applied: watch::Sender<Applied>,
    /// It applies nothing any more.
    ended: Notify,
}

#[derive(Default)]
struct State {
    registry: Registry,
    /// The last entry that was applied; 0: none.
    last: u64,
    /// When etcd took it; 0: not known.
    last_revision: i64,
    /// The last snapshot that is known of.
    snapshot: u64,
    outcomes: VecDeque<(Ticket, Outcome)>,
    stopped: Option<String>,
}

/// What came of entries that were offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Offered {
    /// All of them are applied now.
    Applied {
        /// Some were not before.
        news: bool,
    },
    /// Some before them are not known here.
    Gap,
}

impl Machine {
    pub(super) fn new(keys: Keys, cluster: Option<ClusterId>) -> Machine {
        let applied = watch::Sender::new(Applied::default());
        Machine { keys, cluster, state: Mutex::default(), applied, ended: Notify::new() }
    }

    pub(super) fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    /// The last entry that was applied; 0: none.
    pub(super) fn last(&self) -> u64 {
        self.state().last
    }

    /// The last snapshot that is known of; 0: none.
    pub(super) fn snapshot(&self) -> u64 {
        self.state().snapshot
    }

    /// There is a snapshot up to that entry.
    pub(super) fn note_snapshot(&self, index: u64) {
        let mut state = self.state();
        state.snapshot = state.snapshot.max(index);
    }

    /// The registry, and the last entry that is in it.
    pub(super) fn registry(&self) -> (u64, Registry) {
        let state = self.state();
        (state.last, state.registry.clone())
    }

    /// What came of a proposal. None if it was not applied, or not one by one.
    pub(super) fn outcome(&self, ticket: Ticket) -> Option<Outcome> {
        let state = self.state();
        state.outcomes.iter().rev().find(|(of, _)| *of == ticket).map(|(_, outcome)| *outcome)
    }

    /// Applies nothing any more, for the reason given first.
    pub(super) fn stop(&self, why: &str) {
        self.state().stopped.get_or_insert_with(|| why.into());
        self.ended.notify_one();
    }

    /// Waits until it applies nothing any more, and says why. One waits at a time.
    pub(super) async fn ended(&self) -> String {
        loop {
            if let Some(why) = self.stopped() {
                return why;
            }
            self.ended.notified().await;
        }
    }

    /// Why it applies nothing any more.
    pub(super) fn stopped(&self) -> Option<String> {
        self.state().stopped.clone()
    }

    /// Takes up whatever follows what is known.
    pub(super) fn offer(&self, entries: &[KeyValue]) -> Result<Offered, Failure> {
        let mut state = self.state();
        let mut news = false;
        for kv in entries {
            if let Some(why) = &state.stopped {
                return Err(Failure::Broken(why.clone()));
            }
            let index = self.keys.index(&kv.key)?;
            if kv.version != 1 {
                return Err(broken(&kv.key, "an entry was written over"));
            }
            if index > state.last + 1 {
                return Ok(Offered::Gap);
            }
            if index == state.last && ![0, kv.mod_revision].contains(&state.last_revision) {
                return Err(broken(&kv.key, "another entry stands where one was applied"));
            }
            if index == state.last + 1 {
                self.apply(&mut state, kv)?;
                news = true;
            }
        }
        Ok(Offered::Applied { news })
    }

    /// The same with the answer to a read of the log from entry `from` on, which was the last one applied then.
    pub(super) fn offer_read(&self, from: u64, entries: &[KeyValue]) -> Result<Offered, Failure> {
        let mut before = None;
        for kv in entries {
            let index = self.keys.index(&kv.key)?;
            if let Some(missing) = before.map(|before| before + 1).filter(|next| *next != index) {
                return Err(broken(
                    &self.keys.entry(missing),
                    "an entry is missing, and a later one is there",
                ));
            }
            before = Some(index);
        }
        if before.is_none() && from > 0 {
            // Whoever cuts the log leaves its end.
            return Err(broken(&self.keys.entry(from), "etcd has lost an entry that it had decided"));
        }
        self.offer(entries)
    }

    /// Everything that etcd has was read once: is it what it must be?
    pub(super) fn whole(&self) -> Result<(), Failure> {
        match self.cluster {
            Some(cluster) if self.state().registry.cluster().is_none() => Err(broken(
                &self.keys.log()[0],
                format_args!(
                    "nothing of the cluster {:032x} is there; endpoints or prefix are others than before, or etcd has lost \
                     what it kept",
                    u128::from_be_bytes(cluster)
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Takes over a registry as a whole, unless it is older than the own.
    pub(super) fn replace(&self, index: u64, registry: Registry) -> Result<(), Failure> {
        let mut state = self.state();
        state.snapshot = state.snapshot.max(index);
        if index > state.last && state.stopped.is_none() {
            self.ours(&registry)?;
            (state.registry, state.last, state.last_revision) = (registry, index, 0);
            self.show(&state);
        }
        Ok(())
    }

    fn apply(&self, state: &mut State, kv: &KeyValue) -> Result<(), Failure> {
        // Whoever cannot read a command cannot know what the others make of it, and must not go on.
        let entry = Entry::from_bytes(&kv.value).map_err(|e| broken(&kv.key, e))?;
        let command = Command::from_bytes(&entry.command).map_err(|e| broken(&kv.key, e))?;
        let outcome = state.registry.apply(&command);
        self.ours(&state.registry)?;
        if state.outcomes.len() == OUTCOMES_MAX {
            state.outcomes.pop_front();
        }
        state.outcomes.push_back((entry.ticket, outcome));
        state.last += 1;
        state.last_revision = kv.mod_revision;
        self.show(state);
        Ok(())
    }

    /// Two clusters under one prefix would be one.
    fn ours(&self, registry: &Registry) -> Result<(), Failure> {
        match (self.cluster, registry.cluster()) {
            (Some(ours), Some(other)) if ours != other => Err(Failure::Broken(format!(
                "{}: the order belongs to the cluster {:032x}, and this node to {:032x}; endpoints or prefix are others than before",
                shown(&self.keys.log()[0]),
                u128::from_be_bytes(other),
                u128::from_be_bytes(ours)
            ))),
            _ => Ok(()),
        }
    }

    fn show(&self, state: &State) {
        let registry = Arc::new(state.registry.clone());
        self.applied.send_replace(Applied { steps: state.last, registry });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What etcd keeps under a key is not what was written there.
pub(super) fn broken(key: &[u8], what: impl std::fmt::Display) -> Failure {
    Failure::Broken(format!("{}: {what}", shown(key)))
}
