//! The external coordinator: etcd decides the order, every node applies it.
//!
//! ```text
//!   propose ──► "put log/<next>, if it is not there" ──► etcd ──► applied here ──► outcome
//!                      ▲ lost to another: apply that one, try the next place
//!   confirmed ──► read the log from the last entry applied, by a quorum ──► applied here ──► registry
//!   watch ──────► whatever others put there
//! ```
//!
//! A renewal counts for its sender when etcd has committed it, which a quorum of etcd's members did after they were asked
//! (L2). No lease of etcd takes part, and no member answers from its memory: each read is one that a quorum confirms.
//!
//! # One order
//!
//! An entry is put by a transaction with two conditions: its key is not there, and that of the entry before it is (of the
//! first: no snapshot is). So each place is taken once, and there is no gap. The log is cut only below a snapshot, and never
//! to its end; so a transaction that comes late, to a place that was cut since, finds no entry before it and fails. A proposal
//! that lost its place to another is dead, and may safely be made again for the next place.
//!
//! # Whatever etcd says is input
//!
//! A key or a value that we did not write stops this node, with the name of the key: it cannot know what the others make of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oarlock_cluster::registry::{ClusterId, Command, Outcome, Registry};
use oarlock_layout::codec::Wire;
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

use self::client::Client;
use self::machine::{Machine, Offered, broken};
use self::record::{Entry, Keys, Ticket};
use self::wire::{Compare, KeyValue, RangeRequest, RequestOp, TxnRequest};
use super::{Applied, Coordinator, Outside, Trouble};
use crate::host::random;

mod client;
mod follow;
mod machine;
mod record;
mod snapshot;
mod wire;

#[cfg(test)]
mod stage;
#[cfg(test)]
mod tests;

/// How long things take, and how much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// A command is decided in this time, or its proposer hears that it does not know.
    pub patience: Duration,
    /// One member of etcd answers in this time, or another is asked.
    pub each: Duration,
    /// If the watch says nothing for so long, it is checked whether there is nothing.
    pub sweep: Duration,
    /// Entries after which the registry is written down as a whole; a quarter as many are kept for nodes that are behind.
    pub snapshot_every: u64,
    /// Bytes of a snapshot under one key: etcd takes no more than 1.5 MiB in one request.
    pub part_bytes: usize,
}

impl Default for Tuning {
    fn default() -> Tuning {
        let ms = Duration::from_millis;
        Tuning {
            patience: ms(2_000),
            each: ms(400),
            sweep: ms(1_000),
            snapshot_every: 2_000,
            part_bytes: 512 << 10,
        }
    }
}

/// Where the order is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The members of one etcd; the first is asked first.
    pub endpoints: Vec<String>,
    /// Under which keys. One cluster each.
    pub prefix: String,
    /// Whose order it must be. None only for a node that is in no cluster yet.
    pub cluster: Option<ClusterId>,
    /// How long things take.
    pub tuning: Tuning,
}

/// Entries that are read at once.
const ENTRIES_MAX: i64 = 32;

/// Why etcd was of no use.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Failure {
    /// It did not answer in time, or not with yes or no; what it said last.
    Silent(String),
    /// It has something that must not be there. This node stops.
    Broken(String),
}

/// The coordinator of this node that relies on etcd. Clones are the same one.
#[derive(Clone)]
pub struct External {
    shared: Arc<Shared>,
    _follower: Arc<Follower>,
}

/// What the calls and the task that follows have in common.
struct Shared {
    client: Client,
    keys: Keys,
    machine: Machine,
    tuning: Tuning,
    /// This run, and how often it has proposed.
    run: u64,
    proposed: AtomicU64,
    /// One proposal at a time: those of one node must not take places from each other.
    turn: Mutex<()>,
    /// So many entries have come that a snapshot is wanted.
    many: Notify,
    /// Did etcd answer when it was last asked for the whole order?
    answers: watch::Sender<bool>,
}

/// The task that follows the order ends with the last clone.
struct Follower(AbortHandle);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl External {
    /// Starts to follow the order. It need not be reachable yet. Wants to be called in a runtime.
    ///
    /// # Errors
    /// For people: what cannot be used of the settings.
    pub fn start(settings: &Settings) -> Result<External, String> {
        let Settings { endpoints, prefix, cluster, tuning } = settings;
        check(endpoints, prefix)?;
        let keys = Keys::new(prefix);
        let shared = Arc::new(Shared {
            client: Client::new(endpoints, tuning.each)?,
            machine: Machine::new(keys.clone(), *cluster),
            keys,
            tuning: *tuning,
            run: random::seed(),
            proposed: AtomicU64::new(0),
            turn: Mutex::new(()),
            many: Notify::new(),
            answers: watch::Sender::new(false),
        });
        let follower = tokio::spawn(follow::follow(Arc::clone(&shared)));
        Ok(External { shared, _follower: Arc::new(Follower(follower.abort_handle())) })
    }

    /// Ends it. What is under way is decided by etcd or not; nobody here hears of it.
    pub fn stop(&self) {
        self.shared.machine.stop("it was told to");
        self._follower.0.abort();
    }

    /// Which member of etcd is asked first at this moment.
    pub fn endpoint(&self) -> &str {
        self.shared.client.endpoint()
    }

    /// Waits until it takes no part any more, and says why.
    pub async fn failed(&self) -> String {
        self.shared.machine.ended().await
    }

    /// How etcd is, as far as this node knows.
    pub fn outside(&self) -> Outside {
        let answers = *self.shared.answers.borrow();
        Outside { endpoint: self.endpoint().into(), answers }
    }

    /// Waits until that is not as `last` any more.
    pub async fn outside_after(&self, last: Option<&Outside>) -> Outside {
        let mut answers = self.shared.answers.subscribe();
        if last.is_none() {
            // That nothing was asked yet is no silence.
            let _ = timeout(self.shared.tuning.sweep, answers.wait_for(|answers| *answers)).await;
        }
        loop {
            answers.borrow_and_update();
            let now = self.outside();
            if last != Some(&now) {
                return now;
            }
            // Another endpoint may be asked first without anything having failed.
            let _ = timeout(self.shared.tuning.sweep, answers.changed()).await;
        }
    }
}

/// Whether these can be settings: what is wrong with them, for people.
///
/// # Errors
/// The same texts as [`External::start`]'s.
pub fn check(endpoints: &[String], prefix: &str) -> Result<(), String> {
    if prefix.is_empty() || prefix.ends_with('/') {
        return Err(format!("\"{prefix}\" cannot be a prefix of keys: it is empty, or ends with a stroke"));
    }
    if endpoints.is_empty() {
        return Err("no endpoint of etcd is given".into());
    }
    endpoints.iter().try_for_each(|endpoint| client::endpoint(endpoint).map(|_| ()))
}

impl Coordinator for External {
    async fn propose(&self, command: &Command) -> Result<Outcome, Trouble> {
        let shared = &self.shared;
        let command = command.to_bytes();
        Command::from_bytes(&command).map_err(|why| Trouble::Invalid(why.to_string()))?;
        let until = Instant::now() + shared.tuning.patience;
        // Nothing was sent yet.
        let _turn = timeout_at(until, shared.turn.lock()).await.map_err(|_| Trouble::NoQuorum)?;
        shared.propose(command, until).await.map_err(|failure| shared.trouble(failure, Trouble::Unknown))
    }

    async fn confirmed(&self) -> Result<Arc<Registry>, Trouble> {
        let shared = &self.shared;
        let until = Instant::now() + shared.tuning.patience;
        shared.catch_up(until).await.map_err(|failure| shared.trouble(failure, Trouble::NoQuorum))?;
        Ok(Arc::clone(&shared.machine.applied().borrow().registry))
    }

    fn applied(&self) -> watch::Receiver<Applied> {
        self.shared.machine.applied()
    }
}

impl Shared {
    /// Puts a command where the log ends, wherever that is by then.
    async fn propose(&self, command: Vec<u8>, until: Instant) -> Result<Outcome, Failure> {
        let ticket = Ticket { run: self.run, count: self.proposed.fetch_add(1, Ordering::Relaxed) };
        let value = Entry { ticket, command }.to_bytes();
        while Instant::now() < until {
            self.running()?;
            let last = self.machine.last();
            let key = self.keys.entry(last + 1);
            let answer = self.client.ask(&self.attempt(last, &value), until).await?;
            let offered = if answer.succeeded {
                let mod_revision = answer.header.unwrap_or_default().revision;
                self.machine.offer(&[KeyValue { key, mod_revision, version: 1, value: value.clone() }])?
            } else {
                // Taken: by another, or by this very proposal when nobody heard the answer.
                let read = answer.responses.into_iter().next().and_then(|read| read.range);
                self.machine.offer_read(last, &read.unwrap_or_default().kvs)?
            };
            if let Some(outcome) = self.machine.outcome(ticket) {
                if self.machine.last() >= self.machine.snapshot() + self.tuning.snapshot_every {
                    self.many.notify_one();
                }
                return Ok(outcome);
            }
            match offered {
                // It is in the order, and this node has taken over a registry that it is in.
                _ if answer.succeeded => break,
                Offered::Gap => self.leap(last, until).await?,
                // Nothing has taken the place, and yet it was refused: there was a log once.
                Offered::Applied { .. } if self.machine.last() == last => self.leap(last, until).await?,
                Offered::Applied { .. } => {}
            }
        }
        Err(Failure::Silent("others were always faster".into()))
    }

    /// Puts the entry behind `last`; reads what is there if it cannot.
    fn attempt(&self, last: u64, value: &[u8]) -> TxnRequest {
        let key = self.keys.entry(last + 1);
        let before = match last {
            0 => Compare::absent(self.keys.head()),
            _ => Compare::present(self.keys.entry(last)),
        };
        TxnRequest {
            compare: vec![Compare::absent(key.clone()), before],
            success: vec![RequestOp::put(key, value.to_vec())],
            failure: vec![RequestOp::range(self.log_from(last))],
        }
    }

    fn log_from(&self, index: u64) -> RangeRequest {
        let [_, range_end] = self.keys.log();
        RangeRequest { key: self.keys.entry(index), range_end, limit: ENTRIES_MAX }
    }

    /// Applies everything that was decided before this call: a quorum confirms the read that finds nothing newer. Answers
    /// with etcd's revision then, and whether anything was new.
    async fn catch_up(&self, until: Instant) -> Result<(i64, bool), Failure> {
        let read = self.read_up(until).await;
        let answers = !matches!(read, Err(Failure::Silent(_)));
        self.answers.send_if_modified(|before| std::mem::replace(before, answers) != answers);
        read
    }

    async fn read_up(&self, until: Instant) -> Result<(i64, bool), Failure> {
        let mut news = false;
        loop {
            self.running()?;
            let last = self.machine.last();
            let read = self.client.ask(&self.log_from(last), until).await?;
            match self.machine.offer_read(last, &read.kvs)? {
                Offered::Applied { news: some } => {
                    news |= some;
                    if !read.more {
                        self.machine.whole()?;
                        return Ok((read.header.unwrap_or_default().revision, news));
                    }
                }
                Offered::Gap => {
                    self.leap(last, until).await?;
                    news = true;
                }
            }
        }
    }

    /// Takes over the registry as a whole, where the entry behind `last` is gone.
    async fn leap(&self, last: u64, until: Instant) -> Result<(), Failure> {
        self.restore(until).await?;
        if self.machine.last() > last {
            return Ok(());
        }
        let wanted = self.keys.entry(last + 1);
        Err(broken(&wanted, "an entry is missing, and the snapshot does not go so far"))
    }

    fn running(&self) -> Result<(), Failure> {
        self.machine.stopped().map_or(Ok(()), |why| Err(Failure::Broken(why)))
    }

    /// What a caller hears, who hears `silent` if etcd said nothing. Something broken stops this node.
    fn trouble(&self, failure: Failure, silent: Trouble) -> Trouble {
        match failure {
            Failure::Silent(_) => silent,
            Failure::Broken(why) => {
                self.machine.stop(&why);
                Trouble::Stopped(self.machine.stopped().unwrap_or(why))
            }
        }
    }
}
