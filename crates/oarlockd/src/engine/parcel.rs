//! What one engine leaves to the program that takes its place in the same process, with all locks kept (L5).
//!
//! ```text
//!   "oarparcl" │ format 4 │ CBOR of a `Parcel`: numbers of descriptors, what the engine remembers, the node, the words
//! ```
//!
//! It lies in a sealed file in memory and is read twice: by the new program as a rehearsal, which touches nothing, and by the same
//! program in this process. Of the format the same is true as of the node's own (`oarlock_node::Node::write`): fields have names, and
//! one that is missing or not known is an error.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};

use oarlock_layout::id::{Incarnation, NodeId, SessionId};
use oarlock_layout::seal::MAC_BYTES;
use oarlock_layout::segment::geometry::MAGIC as SEGMENT;
use oarlock_layout::time::Instant;
use oarlock_layout::written;
use serde::{Deserialize, Serialize};

use super::events::Noted;
use super::sessions;
use crate::host::{child, exec};
use crate::keeper;

const MAGIC: [u8; 8] = *b"oarparcl";
/// What fields mean. Which there are, their names tell.
const FORMAT: u32 = 1;
const HEAD_BYTES: usize = 12;

/// Bytes as bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bytes(#[serde(with = "written::bytes")] pub Vec<u8>);

/// Everything that goes along.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parcel {
    /// The version of the program that wrote it.
    pub version: String,
    /// How segments begin, which are not written anew.
    segment: u64,
    /// What engine and keeper say to each other; the keeper stays what it is.
    line: u32,
    /// The keeper, without which no engine goes on.
    pub parent: i32,
    /// Of the configuration, by key: what must be the same.
    pub fixed: Vec<(String, String)>,
    /// Which beginning of the cluster the data directory is of, if not of the founding.
    pub restored: Option<u64>,
    /// What is passed on, by number.
    pub descriptors: Descriptors,
    /// What the engine itself remembers.
    pub(super) memory: Memory,
    /// What the node remembers.
    pub node: Bytes,
    /// What it knows of held locks, by lockspace.
    pub words: Vec<Bytes>,
}

/// Numbers of descriptors that pass into the next program. Those of sessions stand with them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Descriptors {
    pub(super) datagrams: RawFd,
    pub(super) door: [RawFd; 2],
    pub(super) data: RawFd,
    pub(super) lease: [RawFd; 2],
    pub(super) segments: Vec<Option<RawFd>>,
    pub(super) signals: Vec<(i32, RawFd)>,
    pub(super) api: Option<(SocketAddr, RawFd)>,
}

/// What an engine remembers beside its node.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Memory {
    /// When nobody began to serve.
    pub(super) since: Instant,
    /// Who asked for the restart; nobody if it is only rehearsed.
    pub(super) asked_by: Option<(SessionId, u32)>,
    pub(super) began: Instant,
    pub(super) next_ticket: u64,
    pub(super) orphans: Vec<(Instant, SessionId)>,
    pub(super) laid: Option<Vec<SocketAddr>>,
    pub(super) word: (NodeId, Incarnation, [u8; MAC_BYTES]),
    pub(super) registry: Option<Bytes>,
    /// What the node has proposed and heard nothing of.
    pub(super) proposed: Vec<Bytes>,
    /// Questions of sessions that the console has not answered.
    pub(super) asked: BTreeSet<(SessionId, u32)>,
    pub(super) events: (Vec<Noted>, u64),
    pub(super) clocks: Option<u64>,
    pub(super) sessions: sessions::Written,
}

/// The descriptors themselves, taken up.
pub struct Taken {
    pub(crate) datagrams: OwnedFd,
    pub(crate) door: [OwnedFd; 2],
    pub(crate) data: OwnedFd,
    pub(crate) lease: [OwnedFd; 2],
    pub(crate) segments: Vec<Option<OwnedFd>>,
    pub(crate) signals: Vec<(i32, OwnedFd)>,
    pub(crate) api: Option<(SocketAddr, OwnedFd)>,
}

impl Parcel {
    pub(super) fn new(
        (fixed, restored): (Vec<(String, String)>, Option<u64>),
        descriptors: Descriptors,
        memory: Memory,
        node: Vec<u8>,
        words: Vec<Vec<u8>>,
    ) -> Parcel {
        Parcel {
            version: env!("CARGO_PKG_VERSION").into(),
            segment: SEGMENT,
            line: keeper::WORDS,
            parent: child::parent(),
            fixed,
            restored,
            descriptors,
            memory,
            node: Bytes(node),
            words: words.into_iter().map(Bytes).collect(),
        }
    }

    /// As it lies in the file.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(2 * self.node.0.len() + (64 << 10));
        bytes.extend(MAGIC);
        bytes.extend(FORMAT.to_le_bytes());
        cbor4ii::serde::to_vec(bytes, self).expect("there is memory for it")
    }

    /// Reads one.
    ///
    /// # Errors
    /// For people: why this program cannot go on from it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Parcel, String> {
        let (head, body) = bytes.split_at_checked(HEAD_BYTES).ok_or("it is too short")?;
        if head[..8] != MAGIC {
            return Err("it is no state of an engine".into());
        }
        let came = u32::from_le_bytes(head[8..].try_into().expect("four bytes"));
        if came != FORMAT {
            return Err(format!("it is written in format {came}, and this version reads format {FORMAT}"));
        }
        let parcel: Parcel = cbor4ii::serde::from_slice(body)
            .map_err(|e| format!("it is not as this version writes it: {e}"))?;
        if parcel.segment != SEGMENT {
            return Err("its segments are of another layout".into());
        }
        if parcel.line != keeper::WORDS {
            let (theirs, ours) = (parcel.line, keeper::WORDS);
            return Err(format!("the keeper speaks line {theirs}, and this version line {ours}"));
        }
        let numbers = parcel.numbers();
        let one = numbers.iter().collect::<BTreeSet<_>>().len() == numbers.len();
        if one { Ok(parcel) } else { Err("it names a descriptor twice".into()) }
    }

    /// When the program before stopped serving.
    pub fn since(&self) -> Instant {
        self.memory.since
    }

    /// Whether a lockspace has a segment.
    pub fn has_segment(&self, space: usize) -> bool {
        self.descriptors.segments.get(space).is_some_and(Option::is_some)
    }

    /// Where pages were served over HTTP.
    pub fn api(&self) -> Option<SocketAddr> {
        self.descriptors.api.as_ref().map(|(at, _)| *at)
    }

    /// The last word that was pledged: node, run, secret.
    pub fn word(&self) -> (NodeId, Incarnation, [u8; MAC_BYTES]) {
        self.memory.word
    }

    fn numbers(&self) -> Vec<RawFd> {
        let Descriptors { datagrams, door, data, lease, segments, signals, api } = &self.descriptors;
        let mut numbers = vec![*datagrams, *data];
        numbers.extend(door.iter().chain(lease));
        numbers.extend(segments.iter().flatten());
        numbers.extend(signals.iter().map(|(_, fd)| fd));
        numbers.extend(api.iter().map(|(_, fd)| fd));
        numbers.extend(self.memory.sessions.numbers());
        numbers
    }

    /// What goes beside the node has its own readers: whether they could read it.
    pub fn check(&self) -> Result<(), String> {
        self.memory.registry().map_err(|e| format!("the registry: {e}"))?;
        self.memory.commands().map_err(|e| format!("a proposal: {e}"))?;
        Ok(())
    }
}

impl Memory {
    /// The registry as it was applied last.
    pub(super) fn registry(&self) -> Result<Option<oarlock_cluster::Registry>, String> {
        let read = |it: &Bytes| oarlock_cluster::Registry::restore(&it.0).map_err(|e| e.to_string());
        self.registry.as_ref().map(read).transpose()
    }

    /// Proposals without an answer.
    pub(super) fn commands(&self) -> Result<Vec<oarlock_cluster::registry::Command>, String> {
        let read =
            |it: &Bytes| oarlock_cluster::registry::Command::from_bytes(&it.0).map_err(|e| e.to_string());
        self.proposed.iter().map(read).collect()
    }
}

impl Descriptors {
    /// Takes them up, once.
    pub fn take(&self) -> std::io::Result<Taken> {
        let two = |[a, b]: [RawFd; 2]| Ok::<_, std::io::Error>([exec::take(a)?, exec::take(b)?]);
        Ok(Taken {
            datagrams: exec::take(self.datagrams)?,
            door: two(self.door)?,
            data: exec::take(self.data)?,
            lease: two(self.lease)?,
            segments: self
                .segments
                .iter()
                .map(|fd| fd.map(exec::take).transpose())
                .collect::<Result<_, _>>()?,
            signals: self
                .signals
                .iter()
                .map(|(number, fd)| Ok((*number, exec::take(*fd)?)))
                .collect::<std::io::Result<_>>()?,
            api: self.api.map(|(at, fd)| Ok::<_, std::io::Error>((at, exec::take(fd)?))).transpose()?,
        })
    }
}
