//! The embedded coordinator: Raft by `openraft`, its log in one file of this node.
//!
//! ```text
//!   propose ──► leader here? ──yes──► into the log ──► a majority has stored it ──► applied here ──► outcome
//!                    │ no                                                               ▲
//!                    └──► Propose over a Line ──► leader there ── its place in the log ─┘
//! ```
//!
//! A leader that is cut off answers nothing: what it puts into its log is not decided before a majority has stored it, and
//! what it read counts only when a majority has said afterwards that it still leads (L2).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oarlock_cluster::registry::{Command, Outcome, Registry};
use oarlock_layout::id::NodeId;
use oarlock_layout::message::raft::{Answer, Ballot, Call, LogId};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{
    ClientWriteError, ForwardToLeader, InitializeError, LinearizableReadError, RaftError,
};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest};
use openraft::{ChangeMembers, Config, EmptyNode, Instant as _, ReadPolicy, SnapshotPolicy};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use self::line::Lines;
use self::machine::{Machine, Shown};
use self::store::Store;
use self::types::{Bytes, Snapshot, SnapshotMeta, Types};
use super::{Applied, Coordinator, Outside, Trouble};

pub use self::line::{Answering, Line};
pub use self::misdeed::Misdeed;

mod line;
mod machine;
mod misdeed;
mod store;
mod types;

#[cfg(test)]
pub(super) use self::disk_tests::Disk;

#[cfg(test)]
mod disk_tests;
#[cfg(test)]
mod tests;

/// How long things take, and how much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// How often a leader says that it lives.
    pub heartbeat: Duration,
    /// Whoever hears nothing of it for the longer of these, and then for a time between both, asks whether it may lead.
    pub election: [Duration; 2],
    /// A command is decided in this time, or its proposer hears that it does not know.
    pub patience: Duration,
    /// Entries after which the registry is written down as a whole; a quarter as many are kept for members that are behind.
    pub snapshot_every: u64,
    /// It may stand for election from the start. One that joined does only once [told to](Embedded::campaign).
    pub campaigns: bool,
    /// How long whoever would found a cluster listens before, for members that know one.
    pub listen: Duration,
}

impl Tuning {
    /// A change of leaders takes half a second at most: a lease that is renewed in time must not freeze meanwhile (L6).
    pub const EARNEST: Tuning = Tuning {
        heartbeat: Duration::from_millis(40),
        election: [Duration::from_millis(120), Duration::from_millis(160)],
        patience: Duration::from_millis(2_000),
        snapshot_every: 2_000,
        campaigns: true,
        listen: Duration::ZERO,
    };
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning::EARNEST
    }
}

/// One part of a snapshot is answered in this time, over any network.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(4);
/// Between two questions who leads.
const PAUSE: Duration = Duration::from_millis(30);

/// The embedded coordinator of this node. Clones are the same one.
#[derive(Clone)]
pub struct Embedded {
    me: NodeId,
    raft: openraft::Raft<Types, Machine>,
    line: Arc<dyn Line>,
    shown: Arc<Shown>,
    patience: Duration,
    listen: Duration,
    /// Who has said nothing for this long may be gone.
    silent: Duration,
    parts: Arc<Mutex<Option<Parts>>>,
}

/// A snapshot that arrives.
struct Parts {
    ballot: Ballot,
    last: Option<LogId>,
    total: u32,
    bytes: Vec<u8>,
}

/// A node that lacks no more entries than these has them within a moment.
const CAUGHT_UP: u64 = 100;

/// Makes the file of a node that has none yet, and looks through one that is there. It must be of this beginning of the
/// cluster.
///
/// # Errors
/// For people: the name of the file, and what of it cannot be used.
pub fn prepare(file: &Path, restoration: Option<u64>) -> Result<(), String> {
    let of = Store::open(file).and_then(|store| store.restoration()).map_err(|e| e.to_string())?;
    match of == restoration {
        true => Ok(()),
        false => Err(format!(
            "{}: it and `state` beside it are not of one beginning of the cluster: a restore was cut short, or one of them was \
             put there by hand",
            file.display()
        )),
    }
}

/// Makes the file of a node that joins a cluster of this beginning, with nothing in it.
///
/// # Errors
/// For people: the name of the file, and what of it cannot be used.
pub fn prepare_newcomer(file: &Path, restoration: Option<u64>) -> Result<(), String> {
    let made = Store::open(file).and_then(|store| restoration.map_or(Ok(()), |it| store.begin_of(it)));
    made.map_err(|e| e.to_string())?;
    prepare(file, restoration)
}

/// Makes a file with which this node takes part in a cluster that begins anew with `registry`, as every other voter does with
/// the same one. What was there is kept beside it; returns where.
///
/// # Errors
/// For people: why not. Then nothing has changed.
pub fn begin_anew(file: &Path, registry: &Registry) -> Result<Option<PathBuf>, String> {
    Store::begin_anew(file, registry).map_err(|e| format!("{}: {e}", file.display()))
}

/// Who votes, who leads.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// The leader, if this node knows one.
    pub leader: Option<NodeId>,
    /// Those who vote, ascending.
    pub voters: Vec<NodeId>,
    /// Those who only follow, ascending.
    pub learners: Vec<NodeId>,
    /// With a coordinator outside of the cluster nobody here leads or votes.
    pub outside: Option<Outside>,
}

impl Embedded {
    /// Starts the coordinator of node `me`, with what `file` keeps.
    ///
    /// # Errors
    /// For people: what of the file cannot be used.
    pub async fn start(
        me: NodeId,
        file: &Path,
        line: Arc<dyn Line>,
        tuning: Tuning,
    ) -> Result<Embedded, String> {
        let store = Store::open(file).map_err(|e| e.to_string())?;
        Embedded::start_on(me, store, line, tuning).await
    }

    async fn start_on(
        me: NodeId,
        store: Store,
        line: Arc<dyn Line>,
        tuning: Tuning,
    ) -> Result<Embedded, String> {
        let shown = Shown::new();
        let machine = Machine::new(store.clone(), Arc::clone(&shown));
        let ms = |time: Duration| time.as_millis() as u64;
        let config = Config {
            cluster_name: "oarlock".into(),
            heartbeat_interval: ms(tuning.heartbeat),
            election_timeout_min: ms(tuning.election[0]),
            election_timeout_max: ms(tuning.election[1]),
            max_payload_entries: oarlock_layout::message::raft::ENTRIES_MAX as u64,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(tuning.snapshot_every),
            max_in_snapshot_log_to_keep: tuning.snapshot_every / 4,
            enable_elect: tuning.campaigns,
            enable_pre_vote: Some(true),
            // One that comes back quickly must not lead as before: what it decided last it may not know.
            enable_leader_restore: Some(false),
            install_snapshot_timeout: ms(SNAPSHOT_PATIENCE),
            backoff: "50ms".into(),
            ..Config::default()
        };
        let config = config.validate().map_err(|e| e.to_string())?;
        let lines = Lines(Arc::clone(&line));
        let raft = openraft::Raft::new(me.0.into(), Arc::new(config), lines, store, machine).await;
        let raft = raft.map_err(|e| e.to_string())?;
        let (patience, listen, silent) = (tuning.patience, tuning.listen, tuning.election[1]);
        Ok(Embedded { me, raft, line, shown, patience, listen, silent, parts: Arc::default() })
    }

    /// Has a cluster begun here, or been heard of? Then the file is not empty.
    ///
    /// # Errors
    /// [`Trouble::Stopped`].
    pub async fn has_begun(&self) -> Result<bool, Trouble> {
        self.raft.is_initialized().await.map_err(|why| Trouble::Stopped(why.to_string()))
    }

    /// [`Tuning::listen`].
    pub const fn listen(&self) -> Duration {
        self.listen
    }

    /// Makes a new cluster with these voters, this node among them. Each of them may do so, if it names the same: it is
    /// the same first entry then. Nothing comes of it where a cluster has begun already.
    ///
    /// # Errors
    /// [`Trouble::Stopped`].
    pub async fn begin(&self, voters: &BTreeSet<NodeId>) -> Result<(), Trouble> {
        let voters: BTreeSet<u64> = voters.iter().map(|node| node.0.into()).collect();
        match self.raft.initialize(voters).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(why) => Err(Trouble::Stopped(why.to_string())),
        }
    }

    /// Waits until it takes no part any more, and says why.
    pub async fn failed(&self) -> String {
        let mut metrics = self.raft.metrics();
        loop {
            if let Err(why) = &metrics.borrow_watched().running_state {
                return why.to_string();
            }
            if metrics.changed().await.is_err() {
                return "it has ended without a word".into();
            }
        }
    }

    /// Lets a node follow, without a vote. Only where this node leads.
    ///
    /// # Errors
    /// [`Trouble::Unknown`] if another leads, or if it takes too long; [`standing`](Embedded::standing) tells.
    pub async fn add_learner(&self, node: NodeId) -> Result<(), Trouble> {
        let added = self.raft.add_learner(node.0.into(), EmptyNode::new(), false);
        self.decided(timeout(self.patience, added).await).map(|_| ())
    }

    /// Has a node that follows nearly all of the log? Only where this node leads.
    pub fn has_caught_up(&self, node: NodeId) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let stored = metrics.replication.as_ref().and_then(|all| all.get(&node.0.into()).copied().flatten());
        let last = metrics.last_log_index.unwrap_or_default();
        stored.is_some_and(|id| last.saturating_sub(id.index) <= CAUGHT_UP)
    }

    /// Changes who votes; those who vote no more go altogether. Only where this node leads.
    ///
    /// # Errors
    /// [`Trouble::Unknown`] if another leads, or if it takes too long: it may be halfway. To say it again completes it.
    pub async fn set_voters(&self, voters: &BTreeSet<NodeId>) -> Result<(), Trouble> {
        let voters: BTreeSet<u64> = voters.iter().map(|node| node.0.into()).collect();
        self.decided(timeout(self.patience, self.raft.change_membership(voters, false)).await).map(|_| ())
    }

    /// Which of these nodes answer this one from now on, itself included? Waits until that is a majority of them, for as long as one
    /// that lives takes at most: whoever answered a moment before may have died since. None where it does not lead.
    pub async fn hear(&self, nodes: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let asked = Instant::now();
        loop {
            let waited = asked.elapsed();
            let heard: BTreeSet<NodeId> = {
                let metrics = self.raft.metrics();
                let metrics = metrics.borrow_watched();
                let Some(answers) = &metrics.heartbeat else { return BTreeSet::new() };
                let answered = |node: &&NodeId| {
                    let last = answers.get(&node.0.into()).copied().flatten();
                    **node == self.me || last.is_some_and(|last| last.elapsed() < waited)
                };
                nodes.iter().filter(answered).copied().collect()
            };
            if 2 * heard.len() > nodes.len() || waited > self.silent {
                return heard;
            }
            tokio::time::sleep(self.silent / 16).await;
        }
    }

    /// Lets nodes go that follow without a vote. Only where this node leads.
    ///
    /// # Errors
    /// [`Trouble::Unknown`] if another leads, or if it takes too long.
    pub async fn remove_learners(&self, nodes: &BTreeSet<NodeId>) -> Result<(), Trouble> {
        let nodes: BTreeSet<u64> = nodes.iter().map(|node| node.0.into()).collect();
        let change = ChangeMembers::RemoveNodes(nodes);
        self.decided(timeout(self.patience, self.raft.change_membership(change, false)).await).map(|_| ())
    }

    /// Asks another voter to lead from now on. Only where this node leads; it may not come to it.
    ///
    /// # Errors
    /// [`Trouble::Stopped`].
    pub async fn hand_over(&self, to: NodeId) -> Result<(), Trouble> {
        let asked = self.raft.trigger().transfer_leader(to.0.into()).await;
        asked.map_err(|why| Trouble::Stopped(why.to_string()))
    }

    /// Lets another voter lead that answers, if this node leads, and waits until it is so; but no longer than whoever heard nothing
    /// any more would wait before they elect one.
    pub async fn step_down(&self) {
        if !self.leads() {
            return;
        }
        let heard = self.hear(&self.standing().voters.into_iter().collect()).await;
        let stored = |node: &&NodeId| {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let stored =
                metrics.replication.as_ref().and_then(|all| all.get(&node.0.into()).copied().flatten());
            stored.map(|id| id.index)
        };
        let Some(next) = heard.iter().filter(|node| **node != self.me).max_by_key(stored) else { return };
        let until = Instant::now() + 2 * self.silent;
        while Instant::now() < until {
            let standing = self.standing();
            let leads = standing.leader == Some(self.me);
            // While nobody leads, the next may need this node's vote.
            if standing.leader.is_some() && !leads {
                return;
            }
            // Whoever lacks the newest entry does not try. A moment later it has it.
            if leads && self.hand_over(*next).await.is_err() {
                return;
            }
            let _ = timeout(PAUSE, self.standing_after(&standing)).await;
        }
    }

    /// Waits until it is not as `last` any more.
    pub async fn standing_after(&self, last: &Standing) -> Standing {
        let mut metrics = self.raft.server_metrics();
        loop {
            metrics.borrow_watched();
            let now = self.standing();
            if now != *last {
                return now;
            }
            if metrics.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Which node this is.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// Does this node lead, as far as it knows?
    pub fn leads(&self) -> bool {
        self.standing().leader == Some(self.me)
    }

    /// Who votes, who leads.
    pub fn standing(&self) -> Standing {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let members = &metrics.membership_config;
        let voters: Vec<NodeId> = members.voter_ids().map(types::node).collect();
        let learners = members.nodes().map(|(id, _)| types::node(*id)).filter(|id| !voters.contains(id));
        let leader = metrics.current_leader.map(types::node);
        Standing { leader, learners: learners.collect(), voters, outside: None }
    }

    /// The first entry that the log of this node still has.
    #[cfg(test)]
    fn begins_at(&self) -> u64 {
        self.raft.metrics().borrow_watched().purged.map_or(0, |purged| purged.index + 1)
    }

    /// It may stand for election from now on.
    ///
    /// A node that joined hears the log from its beginning, and comes by a time in which another node of its number voted, perhaps
    /// alone. It must not take itself for that one.
    pub fn campaign(&self) {
        self.raft.runtime_config().elect(true);
    }

    /// Ends it; what it has not decided it does not decide any more.
    pub async fn stop(&self) {
        let _ = self.raft.shutdown().await;
    }

    // ----- what others ask ------------------------------------------------------------------------------------

    /// Answers a call of node `from`, which has proven that it is.
    ///
    /// # Errors
    /// What no honest node sends; nothing came of it.
    pub async fn handle(&self, from: NodeId, call: Call) -> Result<Answer, Misdeed> {
        misdeed::check(self.me, from, &call)?;
        Ok(self.answer(call).await)
    }

    async fn answer(&self, call: Call) -> Answer {
        match call {
            Call::Append { ballot, previous, entries, commit } => {
                let request = AppendEntriesRequest {
                    vote: types::vote(ballot),
                    prev_log_id: previous.map(types::id),
                    entries: entries.into_iter().map(types::entry).collect(),
                    leader_commit: commit.map(types::id),
                };
                match self.raft.append_entries(request).await {
                    Ok(AppendEntriesResponse::Success) => Answer::Stored,
                    Ok(AppendEntriesResponse::PartialSuccess(id)) => {
                        Answer::StoredUpTo(id.map(types::log_id))
                    }
                    Ok(AppendEntriesResponse::Conflict) => Answer::Conflict,
                    Ok(AppendEntriesResponse::HigherVote(vote)) => Answer::Higher(types::ballot(&vote)),
                    Err(_) => Answer::Unable,
                }
            }
            Call::Vote { ballot, last, transfer, pre } => {
                let mut request = VoteRequest::new(types::vote(ballot), last.map(types::id));
                request.leadership_transfer = transfer;
                let voted =
                    if pre { self.raft.pre_vote(request).await } else { self.raft.vote(request).await };
                match voted {
                    Ok(voted) => Answer::Voted {
                        ballot: types::ballot(&voted.vote),
                        granted: voted.vote_granted,
                        last: voted.last_log_id.map(types::log_id),
                    },
                    Err(_) => Answer::Unable,
                }
            }
            Call::Install { ballot, last, voters, offset, total, bytes } => {
                // A leader that is one no more must not disturb what comes from the one that is.
                let followed = self.raft.metrics().borrow_watched().vote;
                if followed > types::vote(ballot) {
                    return Answer::Higher(types::ballot(&followed));
                }
                match self.assemble(ballot, last, offset, total, &bytes) {
                    Err(()) => Answer::Unable,
                    Ok(None) => Answer::Installed(ballot),
                    Ok(Some(_)) if self.contradicts(last) => Answer::Unable,
                    Ok(Some(snapshot)) => {
                        let meta = SnapshotMeta {
                            last_log_id: last.map(types::id),
                            last_membership: types::members(&voters),
                        };
                        let snapshot = Snapshot { meta, snapshot };
                        match self.raft.install_full_snapshot(types::vote(ballot), snapshot).await {
                            Ok(answer) => Answer::Installed(types::ballot(&answer.vote)),
                            Err(_) => Answer::Unable,
                        }
                    }
                }
            }
            Call::Transfer { ballot, to, last } => {
                let request =
                    TransferLeaderRequest::new(types::vote(ballot), to.0.into(), last.map(types::id));
                match self.raft.handle_transfer_leader(request).await {
                    Ok(Ok(())) => Answer::Trying,
                    _ => Answer::Unable,
                }
            }
            Call::Propose { command } => self.lead(command).await,
            Call::Confirm => self.read_here().await,
        }
    }

    /// Is something else decided here at that place? The library takes that for its own mistake, and it may be a node of
    /// another cluster.
    fn contradicts(&self, last: Option<LogId>) -> bool {
        let committed = self.raft.metrics().borrow_watched().local_committed;
        let decided = committed.map(types::log_id).zip(last);
        decided.is_some_and(|(committed, last)| last > committed && last.index <= committed.index)
    }

    /// Takes up one part of a snapshot; the whole, once it is there. Parts come in order, or it begins anew.
    fn assemble(
        &self,
        ballot: Ballot,
        last: Option<LogId>,
        offset: u32,
        total: u32,
        part: &[u8],
    ) -> Result<Option<Vec<u8>>, ()> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if offset == 0 {
            *parts = Some(Parts { ballot, last, total, bytes: Vec::new() });
        }
        let fits = |parts: &&mut Parts| {
            (parts.ballot, parts.last, parts.total, parts.bytes.len())
                == (ballot, last, total, offset as usize)
        };
        let arriving = parts.as_mut().filter(fits).ok_or(())?;
        arriving.bytes.extend_from_slice(part);
        let whole = arriving.bytes.len() == total as usize;
        Ok(if whole { parts.take().map(|parts| parts.bytes) } else { None })
    }

    // ----- where this node leads ------------------------------------------------------------------------------

    async fn lead(&self, command: Vec<u8>) -> Answer {
        match timeout(self.patience, self.raft.client_write(Bytes(command))).await {
            Ok(Ok(written)) => Answer::At(types::log_id(written.log_id)),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => not_leader(&to),
            // Its entry may be decided already, or by whoever leads next.
            Ok(Err(_)) | Err(_) => Answer::Unsure,
        }
    }

    async fn read_here(&self) -> Answer {
        match timeout(self.patience, self.raft.ensure_linearizable(ReadPolicy::ReadIndex)).await {
            Ok(Ok(read)) => Answer::At(types::log_id(*read.log_id())),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to)))) => not_leader(&to),
            _ => Answer::Unable,
        }
    }

    fn decided<T, E>(
        &self,
        done: Result<Result<T, RaftError<Types, E>>, tokio::time::error::Elapsed>,
    ) -> Result<T, Trouble> {
        match done {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(RaftError::Fatal(why))) => Err(Trouble::Stopped(why.to_string())),
            // Of two steps the first may have been done.
            Ok(Err(RaftError::APIError(_))) | Err(_) => Err(Trouble::Unknown),
        }
    }

    // ----- from anywhere --------------------------------------------------------------------------------------

    fn running(&self) -> Result<(), Trouble> {
        let metrics = self.raft.metrics();
        let state = metrics.borrow_watched().running_state.clone();
        state.map_err(|why| Trouble::Stopped(why.to_string()))
    }

    /// Asks whoever leads until it is answered, and waits until this node has applied as much.
    async fn ask(&self, call: &Call) -> Result<types::Id, Trouble> {
        let until = Instant::now() + self.patience;
        let mut hint = None;
        while Instant::now() < until {
            self.running()?;
            let leader = hint.take().or_else(|| self.standing().leader);
            let answer = match leader {
                Some(leader) if leader == self.me => {
                    timeout_at(until, self.answer(call.clone())).await.unwrap_or(Answer::Unsure)
                }
                Some(leader) => {
                    let patience = until.saturating_duration_since(Instant::now());
                    tokio::select! {
                        // What got no answer may have arrived.
                        answer = self.line.call(leader, call.clone(), patience) => answer.unwrap_or(Answer::Unsure),
                        () = self.deposed() => Answer::Unsure,
                    }
                }
                None => Answer::NotLeader(None),
            };
            match answer {
                Answer::At(id) => {
                    self.wait_for(id.index, until).await?;
                    return Ok(types::id(id));
                }
                Answer::NotLeader(other) => {
                    hint = other;
                    tokio::time::sleep(PAUSE).await;
                }
                // To ask twice harms nothing.
                Answer::Unsure if matches!(call, Call::Propose { .. }) => return Err(Trouble::Unknown),
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
        Err(Trouble::NoQuorum)
    }

    /// Until this node follows somebody else than now: who was asked may be gone.
    async fn deposed(&self) {
        let mut metrics = self.raft.server_metrics();
        let leader = metrics.borrow_watched().current_leader;
        while metrics.borrow_watched().current_leader == leader {
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    async fn wait_for(&self, index: u64, until: Instant) -> Result<(), Trouble> {
        let mut applied = self.shown.applied();
        let there = applied.wait_for(|applied| applied.steps > index);
        match timeout_at(until, there).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Trouble::Unknown),
        }
    }
}

impl Coordinator for Embedded {
    async fn propose(&self, command: &Command) -> Result<Outcome, Trouble> {
        let command = command.to_bytes();
        misdeed::readable(&command).map_err(|why| Trouble::Invalid(why.to_string()))?;
        let id = self.ask(&Call::Propose { command }).await?;
        // A node that was far behind may have taken over the registry as a whole.
        self.shown.outcome(id).ok_or(Trouble::Unknown)
    }

    async fn confirmed(&self) -> Result<Arc<Registry>, Trouble> {
        self.ask(&Call::Confirm).await?;
        Ok(Arc::clone(&self.shown.applied().borrow().registry))
    }

    fn applied(&self) -> watch::Receiver<Applied> {
        self.shown.applied()
    }
}

fn not_leader(to: &ForwardToLeader<Types>) -> Answer {
    Answer::NotLeader(to.leader_id.map(types::node))
}
