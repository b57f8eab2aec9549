//! What the embedded coordinator says between nodes, and what it keeps on disk.
//!
//! The consensus is a library's; these are its records in our own bytes, so that what is on disk and on the wire does not
//! follow another project's releases. A [`Command`](Payload::Command) is carried as bytes: its own fields are numbered and
//! may grow while nodes of two versions run together.

use alloc::vec::Vec;

use crate::codec::{Malformed, Reader, Wire, Writer};
use crate::id::NodeId;
use crate::limit::NODES_MAX;

/// Entries in one [`Call::Append`].
pub const ENTRIES_MAX: usize = 6;
/// Bytes of one command.
pub const COMMAND_BYTES_MAX: usize = 160 << 10;
/// Bytes of one part of a snapshot.
pub const PART_BYTES_MAX: usize = 512 << 10;
/// Bytes of a whole snapshot.
pub const SNAPSHOT_BYTES_MAX: usize = 4 << 20;
/// Sets of voters that count at once: two while they change.
const CONFIGS_MAX: usize = 4;
/// What a call says beside commands and parts of snapshots is far below: places in the log, and sets of voters.
const HEAD_BYTES_MAX: usize = 16 << 10;

const _: () = assert!(
    ENTRIES_MAX * COMMAND_BYTES_MAX + HEAD_BYTES_MAX < crate::limit::MESSAGE_BYTES_MAX
        && PART_BYTES_MAX + HEAD_BYTES_MAX < crate::limit::MESSAGE_BYTES_MAX,
    "a call fits a message"
);

/// Who leads, and since when.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Leadership {
    /// Elections so far.
    pub term: u64,
    /// Who was elected.
    pub node: NodeId,
}

/// A place in the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LogId {
    /// Who put it there.
    pub leadership: Leadership,
    /// Counted from 0.
    pub index: u64,
}

/// A promise to follow nobody of an earlier term.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ballot {
    /// Whom.
    pub leadership: Leadership,
    /// A quorum has promised it.
    pub committed: bool,
}

/// Who votes, and who only follows.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Voters {
    /// Sets of voters, each ascending. There are two while they change; then both must agree.
    pub configs: Vec<Vec<NodeId>>,
    /// Everybody, ascending.
    pub nodes: Vec<NodeId>,
}

/// What stands in the log.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Payload {
    /// Nothing: a new leader's first entry.
    Blank,
    /// A change of the registry.
    Command(Vec<u8>),
    /// A change of who votes.
    Voters(Voters),
}

/// One entry of the log.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct LogEntry {
    /// Where.
    pub id: LogId,
    /// What.
    pub payload: Payload,
}

/// The voters of a place in the log.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct VotersAt {
    /// Where they were changed last.
    pub id: Option<LogId>,
    /// Who they are.
    pub voters: Voters,
}

/// What one node asks another.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Call {
    /// The leader's entries, or only that it lives.
    Append {
        /// Its own.
        ballot: Ballot,
        /// What stands before the entries.
        previous: Option<LogId>,
        /// In order.
        entries: Vec<LogEntry>,
        /// Up to here a quorum has stored it.
        commit: Option<LogId>,
    },
    /// A candidate wants to lead.
    Vote {
        /// What it would be.
        ballot: Ballot,
        /// The end of its log.
        last: Option<LogId>,
        /// The leader itself wants it.
        transfer: bool,
        /// Only asks whether it would be.
        pre: bool,
    },
    /// A part of a snapshot: what an entry says that is no longer in the leader's log.
    Install {
        /// The leader's.
        ballot: Ballot,
        /// The last entry that it covers.
        last: Option<LogId>,
        /// Who votes there.
        voters: VotersAt,
        /// Where this part begins.
        offset: u32,
        /// Bytes of the whole.
        total: u32,
        /// The part.
        bytes: Vec<u8>,
    },
    /// The leader asks a follower to lead.
    Transfer {
        /// The leader's.
        ballot: Ballot,
        /// Who is to lead.
        to: NodeId,
        /// What it must have stored.
        last: Option<LogId>,
    },
    /// Whoever leads is to put this into the log.
    Propose {
        /// The command.
        command: Vec<u8>,
    },
    /// Whoever leads is to say how far one must have applied to see everything that was decided before this call.
    Confirm,
}

/// What the other one answers.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Answer {
    /// To [`Call::Append`]: stored.
    Stored,
    /// To [`Call::Append`]: stored up to here.
    StoredUpTo(Option<LogId>),
    /// To [`Call::Append`]: something else stands before.
    Conflict,
    /// To [`Call::Append`] and [`Call::Install`]: somebody of a later term is followed.
    Higher(Ballot),
    /// To [`Call::Vote`].
    Voted {
        /// Whom this node follows now.
        ballot: Ballot,
        /// Yes or no.
        granted: bool,
        /// The end of this node's log.
        last: Option<LogId>,
    },
    /// To [`Call::Install`]: this part is there; of the last one: the snapshot is in use.
    Installed(Ballot),
    /// To [`Call::Transfer`]: it will try.
    Trying,
    /// To [`Call::Propose`] and [`Call::Confirm`]: the place in the log to wait for.
    At(LogId),
    /// To [`Call::Propose`] and [`Call::Confirm`]: somebody else leads, if that is known.
    NotLeader(Option<NodeId>),
    /// Whoever was asked cannot answer, and nothing came of it.
    Unable,
    /// The same, but something may still come of it.
    Unsure,
}

// ---- bytes ---------------------------------------------------------------------------------------------------

impl Wire for Leadership {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u64(self.term);
        out.u16(self.node.0);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Leadership, Malformed> {
        Ok(Leadership { term: r.u64()?, node: NodeId(r.u16()?) })
    }
}

impl Wire for LogId {
    fn encode(&self, out: &mut Writer<'_>) {
        self.leadership.encode(out);
        out.u64(self.index);
    }

    fn decode(r: &mut Reader<'_>) -> Result<LogId, Malformed> {
        Ok(LogId { leadership: Leadership::decode(r)?, index: r.u64()? })
    }
}

impl Wire for Ballot {
    fn encode(&self, out: &mut Writer<'_>) {
        self.leadership.encode(out);
        out.bool(self.committed);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Ballot, Malformed> {
        Ok(Ballot { leadership: Leadership::decode(r)?, committed: r.bool("committed")? })
    }
}

fn put_nodes(nodes: &[NodeId], out: &mut Writer<'_>) {
    out.u32(nodes.len() as u32);
    nodes.iter().for_each(|node| out.u16(node.0));
}

fn take_nodes(r: &mut Reader<'_>) -> Result<Vec<NodeId>, Malformed> {
    let n = r.count("voters", NODES_MAX)?;
    let nodes = (0..n).map(|_| Ok(NodeId(r.u16()?))).collect::<Result<Vec<_>, Malformed>>()?;
    if !nodes.is_sorted_by(|a, b| a < b) {
        return Err(Malformed::Unknown { field: "order of voters", value: 0 });
    }
    Ok(nodes)
}

impl Wire for Voters {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u8(self.configs.len() as u8);
        self.configs.iter().for_each(|config| put_nodes(config, out));
        put_nodes(&self.nodes, out);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Voters, Malformed> {
        let n = usize::from(r.u8()?);
        if n > CONFIGS_MAX {
            let (value, max) = (n as u64, CONFIGS_MAX as u64);
            return Err(Malformed::TooMany { field: "sets of voters", value, max });
        }
        let configs = (0..n).map(|_| take_nodes(r)).collect::<Result<Vec<_>, Malformed>>()?;
        let nodes = take_nodes(r)?;
        match configs.iter().flatten().find(|voter| !nodes.contains(voter)) {
            Some(stranger) => Err(Malformed::Unknown { field: "voter", value: stranger.0.into() }),
            None => Ok(Voters { configs, nodes }),
        }
    }
}

impl Wire for VotersAt {
    fn encode(&self, out: &mut Writer<'_>) {
        put_id(self.id.as_ref(), out);
        self.voters.encode(out);
    }

    fn decode(r: &mut Reader<'_>) -> Result<VotersAt, Malformed> {
        Ok(VotersAt { id: take_id(r)?, voters: Voters::decode(r)? })
    }
}

fn put_id(id: Option<&LogId>, out: &mut Writer<'_>) {
    out.option(id, |out, id| id.encode(out));
}

fn take_id(r: &mut Reader<'_>) -> Result<Option<LogId>, Malformed> {
    r.option("place in the log", LogId::decode)
}

impl Wire for LogEntry {
    fn encode(&self, out: &mut Writer<'_>) {
        self.id.encode(out);
        match &self.payload {
            Payload::Blank => out.u8(0),
            Payload::Command(bytes) => {
                out.u8(1);
                out.bytes(bytes);
            }
            Payload::Voters(voters) => {
                out.u8(2);
                voters.encode(out);
            }
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<LogEntry, Malformed> {
        let id = LogId::decode(r)?;
        let payload = match r.u8()? {
            0 => Payload::Blank,
            1 => Payload::Command(r.bytes("command", COMMAND_BYTES_MAX)?.to_vec()),
            2 => Payload::Voters(Voters::decode(r)?),
            n => return Err(Malformed::Unknown { field: "kind of entry", value: n.into() }),
        };
        Ok(LogEntry { id, payload })
    }
}

impl Wire for Call {
    fn encode(&self, out: &mut Writer<'_>) {
        match self {
            Call::Append { ballot, previous, entries, commit } => {
                out.u8(1);
                ballot.encode(out);
                put_id(previous.as_ref(), out);
                out.u32(entries.len() as u32);
                entries.iter().for_each(|entry| entry.encode(out));
                put_id(commit.as_ref(), out);
            }
            Call::Vote { ballot, last, transfer, pre } => {
                out.u8(2);
                ballot.encode(out);
                put_id(last.as_ref(), out);
                out.bool(*transfer);
                out.bool(*pre);
            }
            Call::Install { ballot, last, voters, offset, total, bytes } => {
                out.u8(3);
                ballot.encode(out);
                put_id(last.as_ref(), out);
                voters.encode(out);
                out.u32(*offset);
                out.u32(*total);
                out.bytes(bytes);
            }
            Call::Transfer { ballot, to, last } => {
                out.u8(4);
                ballot.encode(out);
                out.u16(to.0);
                put_id(last.as_ref(), out);
            }
            Call::Propose { command } => {
                out.u8(5);
                out.bytes(command);
            }
            Call::Confirm => out.u8(6),
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Call, Malformed> {
        Ok(match r.u8()? {
            1 => {
                let (ballot, previous) = (Ballot::decode(r)?, take_id(r)?);
                let n = r.count("entries", ENTRIES_MAX)?;
                let entries = (0..n).map(|_| LogEntry::decode(r)).collect::<Result<Vec<_>, Malformed>>()?;
                Call::Append { ballot, previous, entries, commit: take_id(r)? }
            }
            2 => Call::Vote {
                ballot: Ballot::decode(r)?,
                last: take_id(r)?,
                transfer: r.bool("transfer")?,
                pre: r.bool("pre")?,
            },
            3 => {
                let (ballot, last, voters) = (Ballot::decode(r)?, take_id(r)?, VotersAt::decode(r)?);
                let (offset, total) = (r.u32()?, r.u32()?);
                let bytes = r.bytes("part of a snapshot", PART_BYTES_MAX)?.to_vec();
                let end = u64::from(offset) + bytes.len() as u64;
                for (field, value, max) in [
                    ("size of a snapshot", total.into(), SNAPSHOT_BYTES_MAX as u64),
                    ("end of a part of a snapshot", end, total.into()),
                ] {
                    if value > max {
                        return Err(Malformed::TooMany { field, value, max });
                    }
                }
                Call::Install { ballot, last, voters, offset, total, bytes }
            }
            4 => Call::Transfer { ballot: Ballot::decode(r)?, to: NodeId(r.u16()?), last: take_id(r)? },
            5 => Call::Propose { command: r.bytes("command", COMMAND_BYTES_MAX)?.to_vec() },
            6 => Call::Confirm,
            n => return Err(Malformed::Unknown { field: "call", value: n.into() }),
        })
    }
}

impl Wire for Answer {
    fn encode(&self, out: &mut Writer<'_>) {
        match self {
            Answer::Stored => out.u8(1),
            Answer::StoredUpTo(id) => {
                out.u8(2);
                put_id(id.as_ref(), out);
            }
            Answer::Conflict => out.u8(3),
            Answer::Higher(ballot) => {
                out.u8(4);
                ballot.encode(out);
            }
            Answer::Voted { ballot, granted, last } => {
                out.u8(5);
                ballot.encode(out);
                out.bool(*granted);
                put_id(last.as_ref(), out);
            }
            Answer::Installed(ballot) => {
                out.u8(6);
                ballot.encode(out);
            }
            Answer::Trying => out.u8(7),
            Answer::At(id) => {
                out.u8(8);
                id.encode(out);
            }
            Answer::NotLeader(leader) => {
                out.u8(9);
                out.option(leader.as_ref(), |out, node| out.u16(node.0));
            }
            Answer::Unable => out.u8(10),
            Answer::Unsure => out.u8(11),
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Answer, Malformed> {
        Ok(match r.u8()? {
            1 => Answer::Stored,
            2 => Answer::StoredUpTo(take_id(r)?),
            3 => Answer::Conflict,
            4 => Answer::Higher(Ballot::decode(r)?),
            5 => Answer::Voted { ballot: Ballot::decode(r)?, granted: r.bool("granted")?, last: take_id(r)? },
            6 => Answer::Installed(Ballot::decode(r)?),
            7 => Answer::Trying,
            8 => Answer::At(LogId::decode(r)?),
            9 => Answer::NotLeader(r.option("leader", |r| Ok(NodeId(r.u16()?)))?),
            10 => Answer::Unable,
            11 => Answer::Unsure,
            n => return Err(Malformed::Unknown { field: "answer", value: n.into() }),
        })
    }
}
