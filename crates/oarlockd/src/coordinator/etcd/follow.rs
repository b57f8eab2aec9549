//! The task that follows the order: it reads what is there, and watches what comes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::machine::Offered;
use super::wire::{KeyValue, NO_DELETES, WatchCreateRequest, WatchRequest};
use super::{Failure, Shared};

/// Before everything is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// Follows until this node stops. Whatever ends a watch, the next begins with a read of the log, so nothing is missed:
/// neither what came meanwhile nor what was compacted.
pub(super) async fn follow(shared: Arc<Shared>) {
    let mut said = String::new();
    loop {
        let Err(failure) = shared.follow_once().await;
        match failure {
            Failure::Broken(why) => {
                tracing::error!(%why, "the coordinator of this node has stopped");
                shared.machine.stop(&why);
                return;
            }
            Failure::Silent(why) => {
                // Once each, and not twenty times a second.
                if why != said {
                    tracing::warn!(%why, "etcd is not followed at this moment");
                    said = why;
                }
            }
        }
        sleep(PAUSE).await;
    }
}

impl Shared {
    async fn follow_once(&self) -> Result<Infallible, Failure> {
        let (revision, _) = self.catch_up(Instant::now() + self.tuning.patience).await?;
        let mut watching = self.client.watch(self.from(revision.saturating_add(1))).await?;
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                answer = watching.next() => {
                    let events = answer?.events;
                    let entries: Vec<KeyValue> = events.into_iter().filter_map(|event| event.kv).collect();
                    if !entries.is_empty() {
                        heard = Instant::now();
                    }
                    if self.machine.offer(&entries)? == Offered::Gap {
                        return Err(Failure::Silent("the watch has left something out".into()));
                    }
                }
                () = sleep_until(heard + self.tuning.sweep) => {
                    heard = Instant::now();
                    // A connection that was cut says nothing, like one where nothing happens.
                    let (_, news) = self.catch_up(heard + self.tuning.patience).await?;
                    if news {
                        watching.leave();
                        return Err(Failure::Silent("the watch says nothing, and there is something".into()));
                    }
                }
                () = self.many.notified() => {
                    if let Err(failure @ Failure::Broken(_)) = self.write_snapshot().await {
                        return Err(failure);
                    }
                }
            }
        }
    }

    /// All entries that are put from a revision on.
    fn from(&self, start_revision: i64) -> WatchRequest {
        let [key, range_end] = self.keys.log();
        let filters = vec![NO_DELETES];
        let create = WatchCreateRequest { key, range_end, start_revision, filters, fragment: true };
        WatchRequest { create: Some(create) }
    }
}
