//! The library's types, and our records of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use oarlock_layout::id::NodeId;
use oarlock_layout::message::raft::{Ballot, Leadership, LogEntry, LogId, Payload, Voters, VotersAt};
use openraft::impls::leader_id_adv::LeaderId;
use openraft::{EmptyNode, EntryPayload, Membership, StoredMembership};

openraft::declare_raft_types!(
    /// What the library is told to use.
    pub(super) Types:
        D = Bytes,
        R = (),
        NodeId = u64,
        Node = EmptyNode,
);

pub(super) type Id = openraft::LogId<LeaderId<u64, u64>>;
pub(super) type Vote = openraft::impls::Vote<LeaderId<u64, u64>>;
pub(super) type Entry = openraft::Entry<LeaderId<u64, u64>, EntryPayload<Bytes, u64, EmptyNode>>;
pub(super) type Members = StoredMembership<LeaderId<u64, u64>, u64, EmptyNode>;
pub(super) type SnapshotMeta = openraft::storage::SnapshotMeta<LeaderId<u64, u64>, u64, EmptyNode>;
pub(super) type Snapshot = openraft::storage::Snapshot<LeaderId<u64, u64>, u64, EmptyNode, Vec<u8>>;

/// A command as it is carried.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a command of {} bytes", self.0.len())
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Node ids are ours, and have sixteen bits.
pub(super) fn node(id: u64) -> NodeId {
    NodeId(u16::try_from(id).expect("a node id of ours"))
}

fn leadership(leader: LeaderId<u64, u64>) -> Leadership {
    Leadership { term: leader.term, node: node(leader.node_id) }
}

fn leader(leadership: Leadership) -> LeaderId<u64, u64> {
    LeaderId { term: leadership.term, node_id: leadership.node.0.into() }
}

pub(super) fn log_id(id: Id) -> LogId {
    LogId { leadership: leadership(id.leader_id), index: id.index }
}

pub(super) fn id(log_id: LogId) -> Id {
    Id::new(leader(log_id.leadership), log_id.index)
}

pub(super) fn ballot(vote: &Vote) -> Ballot {
    Ballot { leadership: leadership(vote.leader_id), committed: vote.committed }
}

pub(super) fn vote(ballot: Ballot) -> Vote {
    Vote { leader_id: leader(ballot.leadership), committed: ballot.committed }
}

fn voters(members: &Membership<u64, EmptyNode>) -> Voters {
    let configs = members.get_joint_config().iter().map(|set| set.iter().map(|id| node(*id)).collect());
    Voters { configs: configs.collect(), nodes: members.nodes().map(|(id, _)| node(*id)).collect() }
}

fn membership(voters: &Voters) -> Membership<u64, EmptyNode> {
    let set = |nodes: &Vec<NodeId>| nodes.iter().map(|node| u64::from(node.0)).collect::<BTreeSet<_>>();
    let nodes = voters.nodes.iter().map(|node| (u64::from(node.0), EmptyNode::new()));
    let nodes: BTreeMap<_, _> = nodes.collect();
    Membership::new_with_defaults(voters.configs.iter().map(set).collect(), nodes.into_keys())
}

pub(super) fn voters_at(members: &Members) -> VotersAt {
    VotersAt { id: members.log_id().map(log_id), voters: voters(members.membership()) }
}

pub(super) fn members(voters: &VotersAt) -> Members {
    Members::new(voters.id.map(id), membership(&voters.voters))
}

pub(super) fn record(entry: &Entry) -> LogEntry {
    let payload = match &entry.payload {
        EntryPayload::Blank => Payload::Blank,
        EntryPayload::Normal(bytes) => Payload::Command(bytes.0.clone()),
        EntryPayload::Membership(members) => Payload::Voters(voters(members)),
    };
    LogEntry { id: log_id(entry.log_id), payload }
}

pub(super) fn entry(record: LogEntry) -> Entry {
    let payload = match record.payload {
        Payload::Blank => EntryPayload::Blank,
        Payload::Command(bytes) => EntryPayload::Normal(Bytes(bytes)),
        Payload::Voters(voters) => EntryPayload::Membership(membership(&voters)),
    };
    Entry { log_id: id(record.id), payload }
}
