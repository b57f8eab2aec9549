//! How the library's calls go to other nodes, and what arrives of theirs.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use oarlock_layout::id::NodeId;
use oarlock_layout::message::raft::{Answer, Call, PART_BYTES_MAX};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, VoteRequest,
    VoteResponse,
};
use openraft::{EmptyNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2};

use super::types::{self, Snapshot, Types, Vote};

/// Entries are stored in this time: two forced writes on a slow disk, and the way there and back.
const APPEND_PATIENCE: Duration = Duration::from_secs(1);

/// The answer to a call, if one comes.
pub type Answering = Pin<Box<dyn Future<Output = Option<Answer>> + Send>>;

/// Carries calls to other nodes. It need not be reliable: what gets no answer is asked again.
pub trait Line: Send + Sync + 'static {
    /// Asks `to`, and waits no longer than `patience`. The call arrives at most once.
    fn call(&self, to: NodeId, call: Call, patience: Duration) -> Answering;
}

/// Lines to all others.
#[derive(Clone)]
pub(super) struct Lines(pub(super) Arc<dyn Line>);

impl RaftNetworkFactory<Types> for Lines {
    type Network = LineTo;

    async fn new_client(&mut self, target: u64, _: &EmptyNode) -> LineTo {
        LineTo { line: Arc::clone(&self.0), to: types::node(target) }
    }
}

/// The line to one other.
pub(super) struct LineTo {
    line: Arc<dyn Line>,
    to: NodeId,
}

impl LineTo {
    async fn ask(&self, call: Call, patience: Duration) -> Result<Answer, NetworkError<Types>> {
        match self.line.call(self.to, call, patience).await {
            Some(Answer::Unable | Answer::Unsure) | None => Err(self.failed("it does not answer")),
            Some(answer) => Ok(answer),
        }
    }

    /// Not "unreachable", after which the library would wait longer and longer: one answer may be lost at any time.
    fn failed(&self, why: &str) -> NetworkError<Types> {
        NetworkError::new(&io::Error::other(format!("node {}: {why}", self.to)))
    }

    fn strange(&self, answer: &Answer) -> NetworkError<Types> {
        self.failed(&format!("it answers another question: {answer:?}"))
    }

    async fn poll(
        &self,
        rpc: VoteRequest<Types>,
        pre: bool,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let call = Call::Vote {
            ballot: types::ballot(&rpc.vote),
            last: rpc.last_log_id.map(types::log_id),
            transfer: rpc.leadership_transfer,
            pre,
        };
        match self.ask(call, option.soft_ttl()).await? {
            Answer::Voted { ballot, granted, last } => {
                Ok(VoteResponse::new(types::vote(ballot), last.map(types::id), granted))
            }
            other => Err(self.strange(&other).into()),
        }
    }

    async fn install(
        &self,
        vote: Vote,
        snapshot: &Snapshot,
        option: &RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let mut offset = 0;
        loop {
            let end = (offset + PART_BYTES_MAX).min(snapshot.snapshot.len());
            let call = Call::Install {
                ballot: types::ballot(&vote),
                last: snapshot.meta.last_log_id.map(types::log_id),
                voters: types::voters_at(&snapshot.meta.last_membership),
                offset: offset as u32,
                total: snapshot.snapshot.len() as u32,
                bytes: snapshot.snapshot[offset..end].to_vec(),
            };
            match self.ask(call, option.soft_ttl()).await? {
                Answer::Higher(ballot) => return Ok(SnapshotResponse::new(types::vote(ballot))),
                Answer::Installed(ballot) if end == snapshot.snapshot.len() => {
                    return Ok(SnapshotResponse::new(types::vote(ballot)));
                }
                Answer::Installed(_) => offset = end,
                other => return Err(self.strange(&other).into()),
            }
        }
    }
}

impl RaftNetworkV2<Types> for LineTo {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let call = Call::Append {
            ballot: types::ballot(&rpc.vote),
            previous: rpc.prev_log_id.map(types::log_id),
            entries: rpc.entries.iter().map(types::record).collect(),
            commit: rpc.leader_commit.map(types::log_id),
        };
        // Entries are forced to a disk before they are answered; a sign of life is not.
        let patience = if rpc.entries.is_empty() { option.soft_ttl() } else { APPEND_PATIENCE };
        match self.ask(call, patience).await? {
            Answer::Stored => Ok(AppendEntriesResponse::Success),
            Answer::StoredUpTo(id) => Ok(AppendEntriesResponse::PartialSuccess(id.map(types::id))),
            // Before the first entry nothing stands that could be another.
            Answer::Conflict if rpc.prev_log_id.is_some() => Ok(AppendEntriesResponse::Conflict),
            Answer::Higher(ballot) => Ok(AppendEntriesResponse::HigherVote(types::vote(ballot))),
            other => Err(self.strange(&other).into()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.poll(rpc, false, option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.poll(rpc, true, option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            closed = cancel => Err(closed.into()),
            installed = self.install(vote, &snapshot, &option) => installed,
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<openraft::raft::TransferLeaderResponse<Types>, RPCError<Types>> {
        let call = Call::Transfer {
            ballot: types::ballot(req.from_leader()),
            to: types::node(*req.to_node_id()),
            last: req.last_log_id().copied().map(types::log_id),
        };
        match self.ask(call, option.soft_ttl()).await? {
            Answer::Trying => Ok(Ok(())),
            other => Err(self.strange(&other).into()),
        }
    }
}
