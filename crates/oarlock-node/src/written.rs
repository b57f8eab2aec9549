//! A node's state in writing, so that another process on the same machine goes on with its run.
//!
//! ```text
//!   head   magic 8 │ format 4 │ length of whose 4 │ length of the rest 8 │ xxh3 of all the others 8
//!   whose  cluster, node, run, lockspaces            ─┐ CBOR (RFC 8949), little of it: maps by the names of fields,
//!   rest   everything the rooms remember             ─┘ lists, numbers, bytes
//! ```
//!
//! Nobody but the two processes ever has these bytes, and they hold the keys of circuits. What is written is the state and not a
//! report of it: a node that goes on from it does what the first would have done, datagram for datagram, with the exceptions
//! of which `oarlock_circuit` tells.
//!
//! # Versions
//!
//! Fields have names, and one that is missing or not known is an error. So a later version notices by itself that a room has
//! changed. It may give a new field a value for the case that it is missing, and then reads what an older one wrote. The format's number
//! is raised when a field keeps its name and means something else.
//!
//! # What is not here
//!
//! Held locks and everything else behind [`Words`], the seal with the node's own key, sockets, and the coordinator with its
//! registry.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use oarlock_circuit::Circuits;
use oarlock_cluster::registry::{self, Need, Refusal};
use oarlock_cluster::{Fencing, Hearing, Membership, Pledges, Recovery, Watermark};
use oarlock_layout::id::{Incarnation, NodeId, SessionId, SpaceId};
use oarlock_layout::limit::SPACES_MAX;
use oarlock_layout::seal::{MAC_BYTES, PublicKey, Seal};
use oarlock_layout::segment::Words;
use oarlock_layout::time::Instant;
use oarlock_layout::written::Contradiction;
use oarlock_lock::Lockspace;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::branch::Branches;
use crate::config::Config;
use crate::deadlock::Deadlocks;
use crate::fencing::Fences;
use crate::node::{Node, Space, lock_config};
use crate::orphans::Orphans;
use crate::question::Questions;
use crate::rights::Access;
use crate::session::Sessions;

const MAGIC: [u8; 8] = *b"oarstate";
/// What fields mean. Which there are, their names tell.
const FORMAT: u32 = 1;
const HEAD_BYTES: usize = 32;
const CHECKED: usize = 24;

/// Whose state some bytes are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Whose {
    /// Name of the cluster.
    pub cluster: String,
    /// Which member.
    pub me: NodeId,
    /// Which run of it. It goes on: whoever reads this counts no new one.
    pub incarnation: Incarnation,
    /// Names of the lockspaces, in the order of their ids.
    pub spaces: Vec<String>,
}

/// Why bytes are no state from which this program may go on. Nothing was changed; a new run can begin.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unreadable {
    /// Too short, or something else altogether.
    #[error("the bytes are no state of a node")]
    NotOurs,
    /// Written by a version for which the fields mean something else.
    #[error("the state is written in format {came}; this version reads format {ours}")]
    Format {
        /// Theirs.
        came: u32,
        /// Ours.
        ours: u32,
    },
    /// Some of it is missing or changed.
    #[error("the state is damaged: its length or its checksum does not fit")]
    Damaged,
    /// It is what somebody wrote, and not what this version writes.
    #[error("the state is not as this version writes it: {0}")]
    Content(String),
    /// It is another's.
    #[error("the state is of another {0}")]
    Other(&'static str),
}

impl From<Contradiction> for Unreadable {
    fn from(contradiction: Contradiction) -> Unreadable {
        Unreadable::Content(contradiction.to_string())
    }
}

/// All that the hall remembers.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    config: Cow<'a, Config>,
    since: u64,
    key: PublicKey,
    next_keys: Cow<'a, BTreeMap<NodeId, PublicKey>>,
    clock: Cow<'a, Watermark>,
    circuits: oarlock_circuit::Written<'a>,
    hearing: Cow<'a, Hearing>,
    runs: Cow<'a, BTreeMap<NodeId, Incarnation>>,
    pledge: Option<[u8; MAC_BYTES]>,
    pledges: Cow<'a, Pledges>,
    given_up: Cow<'a, [(NodeId, Incarnation)]>,
    membership: Option<Cow<'a, Membership>>,
    refused: Option<Refusal>,
    recovery: Cow<'a, Recovery>,
    fencing: Cow<'a, Fencing>,
    fence_needs: Cow<'a, [Need]>,
    fences_pending: Cow<'a, [registry::Fence]>,
    restating: bool,
    restated: bool,
    frozen: bool,
    lease: Instant,
    spaces: Vec<Cow<'a, Lockspace>>,
    accesses: Cow<'a, [Access]>,
    sessions: Cow<'a, Sessions>,
    #[serde(default)]
    orphans: Cow<'a, Orphans>,
    #[serde(default)]
    branches: Cow<'a, Branches>,
    left: Cow<'a, BTreeMap<SessionId, u32>>,
    questions: Cow<'a, Questions>,
    deadlocks: Cow<'a, Deadlocks>,
    ended: bool,
}

/// Head, format, length and checksum are looked at; of the rest only who it is.
///
/// # Errors
/// See [`Unreadable`].
pub fn whose(bytes: &[u8]) -> Result<Whose, Unreadable> {
    let (whose, _) = parts(bytes)?;
    parse(whose)
}

fn parts(bytes: &[u8]) -> Result<(&[u8], &[u8]), Unreadable> {
    let (head, body) = bytes.split_at_checked(HEAD_BYTES).ok_or(Unreadable::NotOurs)?;
    let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    if head[..8] != MAGIC {
        return Err(Unreadable::NotOurs);
    }
    let (came, whose) = (number(8) as u32, number(8) >> 32);
    if came != FORMAT {
        return Err(Unreadable::Format { came, ours: FORMAT });
    }
    let fits = whose.checked_add(number(16)) == Some(body.len() as u64);
    if !fits || checksum(&head[..CHECKED], body) != number(CHECKED) {
        return Err(Unreadable::Damaged);
    }
    Ok(body.split_at(whose as usize))
}

fn checksum(head: &[u8], body: &[u8]) -> u64 {
    let mut sum = Xxh3::new();
    sum.update(head);
    sum.update(body);
    sum.digest()
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Unreadable> {
    cbor4ii::serde::from_slice(bytes).map_err(|error| Unreadable::Content(error.to_string()))
}

fn put(value: &impl Serialize, bytes: Vec<u8>) -> Vec<u8> {
    cbor4ii::serde::to_vec(bytes, value).expect("there is memory for it")
}

impl Node {
    /// All that this run remembers. It may go on here if nobody goes on from the bytes; if somebody does, that one *is* the run,
    /// and this node must not say another word: two would seal different packets under one number.
    ///
    /// The bytes hold the keys of circuits, for which nothing is written to a disk.
    ///
    /// # Panics
    /// If outputs wait: [`poll_output`](Node::poll_output) to `None` before, and carry them out.
    pub fn write(&self) -> Vec<u8> {
        assert!(self.outputs.is_empty(), "outputs wait while the node is written down");
        let whose = Whose {
            cluster: self.config.cluster.clone(),
            me: self.config.me,
            incarnation: self.config.incarnation,
            spaces: self.config.spaces.iter().map(|space| space.name.clone()).collect(),
        };
        let rest = Written {
            config: Cow::Borrowed(&self.config),
            since: self.since,
            key: self.key,
            next_keys: Cow::Borrowed(&self.next_keys),
            clock: Cow::Borrowed(&self.clock),
            circuits: self.circuits.write(),
            hearing: Cow::Borrowed(&self.hearing),
            runs: Cow::Borrowed(&self.runs),
            pledge: self.pledge,
            pledges: Cow::Borrowed(&self.pledges),
            given_up: Cow::Borrowed(&self.given_up),
            membership: self.membership.as_ref().map(Cow::Borrowed),
            refused: self.refused,
            recovery: Cow::Borrowed(&self.recovery),
            fencing: Cow::Borrowed(&self.fencing.room),
            fence_needs: Cow::Borrowed(&self.fencing.needs),
            fences_pending: Cow::Borrowed(&self.fencing.pending),
            restating: self.restating,
            restated: self.restated,
            frozen: self.frozen,
            lease: self.lease,
            spaces: self.spaces.iter().map(|space| Cow::Borrowed(&space.locks)).collect(),
            accesses: Cow::Borrowed(&self.accesses),
            sessions: Cow::Borrowed(&self.sessions),
            orphans: Cow::Borrowed(&self.orphans),
            branches: Cow::Borrowed(&self.branches),
            left: Cow::Borrowed(&self.left),
            questions: Cow::Borrowed(&self.questions),
            deadlocks: Cow::Borrowed(&self.deadlocks),
            ended: self.ended,
        };
        let mut bytes = Vec::with_capacity(1 << 16);
        bytes.resize(HEAD_BYTES, 0);
        bytes = put(&whose, bytes);
        let whose_bytes = (bytes.len() - HEAD_BYTES) as u32;
        bytes = put(&rest, bytes);
        let rest_bytes = (bytes.len() - HEAD_BYTES) as u64 - u64::from(whose_bytes);
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[12..16].copy_from_slice(&whose_bytes.to_le_bytes());
        bytes[16..CHECKED].copy_from_slice(&rest_bytes.to_le_bytes());
        let sum = checksum(&bytes[..CHECKED], &bytes[HEAD_BYTES..]);
        bytes[CHECKED..HEAD_BYTES].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The node that was written. `words` and `seal` must be as they were then, and nothing is called on them. It goes on as after
    /// any input.
    ///
    /// `config` says whom the caller expects: cluster, node, run, lockspaces and what all members agree on must be the same. Of the rest only
    /// the delay of the search for deadlocks counts. Members have come and gone since the start, and what is on its way was cut as the patience of then had it.
    ///
    /// # Errors
    /// See [`Unreadable`].
    ///
    /// # Panics
    /// If `words` has not one entry for each lockspace of `config`.
    pub fn read(
        config: Config,
        seal: Box<dyn Seal + Send>,
        words: Vec<Box<dyn Words + Send>>,
        bytes: &[u8],
    ) -> Result<Node, Unreadable> {
        assert_eq!(words.len(), config.spaces.len(), "one Words for each lockspace");
        let (_, rest) = parts(bytes)?;
        let written: Written<'_> = parse(rest)?;
        same(&config, &written.config)?;
        let deadlock_after = config.deadlock_after;
        #[cfg(feature = "planted")]
        let config = Config { bug: config.bug, deadlock_after, ..written.config.into_owned() };
        #[cfg(not(feature = "planted"))]
        let config = Config { deadlock_after, ..written.config.into_owned() };
        if written.spaces.len() != words.len() || written.accesses.len() != words.len() {
            return Err(Contradiction("lockspaces are missing").into());
        }
        let mut spaces = Vec::new();
        for (index, (locks, words)) in written.spaces.into_iter().zip(words).enumerate() {
            let locks = locks.into_owned();
            locks.check(&lock_config(&config, index))?;
            let locks = locks.resume();
            #[cfg(feature = "planted")]
            let locks = locks.replant(config.bug.and_then(crate::planted::Bug::of_room));
            spaces.push(Space { locks, words });
        }
        let there = |space: &SpaceId| usize::from(space.0) < spaces.len();
        if !written.sessions.spaces().all(there) {
            return Err(Contradiction("a session has locks in a lockspace that is not there").into());
        }
        if !written.orphans.fit(spaces.len()) {
            return Err(Contradiction("orphans are where nothing is").into());
        }
        if !written.branches.fit(spaces.len()) {
            return Err(Contradiction("branches are of lockspaces that are not there").into());
        }
        let circuits = Circuits::read(
            oarlock_circuit::Config {
                me: config.me,
                incarnation: config.incarnation,
                cluster: config.cluster.clone(),
                shared: config.shared,
                peers: Vec::new(),
                seed: config.seed,
                options: config.circuits,
            },
            seal,
            written.circuits,
        )?;
        let membership = written.membership.map(Cow::into_owned);
        #[cfg(feature = "planted")]
        let membership =
            membership.map(|it| it.with_bug(config.bug.and_then(crate::planted::Bug::of_member)));
        let deadlocks = written.deadlocks.into_owned().after(config.deadlock_after);
        #[cfg_attr(not(feature = "planted"), expect(unused_mut, reason = "nothing is lost"))]
        let mut node = Node {
            config,
            since: written.since,
            key: written.key,
            next_keys: written.next_keys.into_owned(),
            clock: written.clock.into_owned(),
            circuits,
            hearing: written.hearing.into_owned(),
            runs: written.runs.into_owned(),
            pledge: written.pledge,
            pledges: written.pledges.into_owned(),
            given_up: written.given_up.into_owned(),
            membership,
            refused: written.refused,
            recovery: written.recovery.into_owned(),
            fencing: Fences {
                room: written.fencing.into_owned(),
                needs: written.fence_needs.into_owned(),
                pending: written.fences_pending.into_owned(),
            },
            restating: written.restating,
            restated: written.restated,
            frozen: written.frozen,
            lease: written.lease,
            spaces,
            accesses: written.accesses.into_owned().into(),
            sessions: written.sessions.into_owned(),
            orphans: written.orphans.into_owned(),
            branches: written.branches.into_owned(),
            left: written.left.into_owned(),
            questions: written.questions.into_owned(),
            deadlocks,
            ended: written.ended,
            outputs: VecDeque::new(),
        };
        #[cfg(feature = "planted")]
        node.replant();
        #[cfg(feature = "planted")]
        node.lose();
        Ok(node)
    }

    #[cfg(feature = "planted")]
    fn lose(&mut self) {
        use crate::planted::{Bug, Lost};
        let Some(Bug::Lose(what)) = self.config.bug else { return };
        for Space { locks, .. } in &mut self.spaces {
            match what {
                Lost::Deadlines => locks.lose_deadlines(),
                Lost::Waiters => locks.lose_waiters(),
                Lost::Records => locks.lose_records(),
                Lost::Statements => locks.lose_statements(),
                Lost::Unacknowledged => {}
            }
        }
        if what == Lost::Unacknowledged {
            self.circuits.lose_unacknowledged();
        }
    }

    /// Whether a handshake that this node has begun waits for its answer: the one thing that is not kept, and begun again.
    pub fn is_greeting(&self) -> bool {
        self.circuits.is_greeting()
    }

    /// What is not written, for whoever goes on in the same process.
    pub fn into_parts(self) -> (Box<dyn Seal + Send>, Vec<Box<dyn Words + Send>>) {
        (self.circuits.into_seal(), self.spaces.into_iter().map(|space| space.words).collect())
    }
}

/// Is it the run that is expected, and does it hold to what it held to?
fn same(expected: &Config, written: &Config) -> Result<(), Unreadable> {
    let rules: [(bool, &'static str); 6] = [
        (expected.cluster == written.cluster, "cluster"),
        (expected.me == written.me && written.nodes.contains_key(&written.me), "node"),
        (expected.incarnation == written.incarnation, "run"),
        (expected.shared == written.shared, "shared configuration"),
        (expected.spaces == written.spaces && written.spaces.len() <= SPACES_MAX, "set of lockspaces"),
        (expected.shards == written.shards, "number of engines"),
    ];
    rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, what)| Err(Unreadable::Other(what)))
}
