//! The documents: what the daemon answers to a question, and what `-o json` prints. Both ends of the socket
//! use these types, so a key cannot be spelt in two ways.
//!
//! Rules: every document carries `"v":1`; keys are never renamed; durations are numbers with the unit in the
//! key; 64-bit numbers that programs compare (fences) are strings, because many readers of JSON round them.

mod cluster;
mod health;
mod keys;

use oarlock_node::branch::Step;
use oarlock_node::rights::Kind;
use serde::{Deserialize, Serialize};

pub use cluster::*;
pub use health::*;
pub use keys::*;

/// Version of all documents.
pub const VERSION: u32 = 1;

/// A question, as a command sends it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum Question {
    /// How is this node?
    Status,
    /// What do its counters say?
    Counters,
    /// What does the cluster see of the resources of a lockspace?
    Locks {
        /// Name of the lockspace.
        space: String,
        /// Only resources that somebody waits for.
        #[serde(default)]
        waiting: bool,
        /// Only this one; printed form of a name.
        #[serde(default)]
        name: Option<String>,
    },
    /// Locks of this node that outlived their programs are to be given back.
    Purge {
        /// Name of the lockspace.
        space: String,
        /// Only on resources whose names begin like this; printed form of a name.
        #[serde(default)]
        prefix: Option<String>,
        /// Only what this process left behind.
        #[serde(default)]
        pid: Option<u32>,
    },
    /// Which parts of a lockspace are open at which nodes?
    Branches {
        /// Name of the lockspace.
        space: String,
        /// Only this one.
        #[serde(default)]
        branch: Option<String>,
    },
    /// A part of a lockspace is to be opened or closed at this node, or looked for.
    Branch {
        /// Name of the lockspace.
        space: String,
        /// What is to be done.
        step: Step,
    },
    /// How well is this node, matter by matter?
    Health {
        /// A wait that lasts longer is stuck.
        stuck_ms: u64,
    },
    /// Of these members nothing is to be heard any more, and of all others again. Only a node of `oarlock dev` does so.
    Deafen {
        /// Their names.
        from: Vec<String>,
    },
    /// How did the last views come into effect here?
    Failovers,
    /// Which deadlocks were broken, as far as this node remembers?
    Deadlocks,
    /// What does the coordinator keep?
    Registry,
    /// A copy of what the coordinator keeps, to be kept elsewhere.
    Backup {
        /// As this node has it, whatever the others know.
        #[serde(default)]
        here: bool,
    },
    /// Put this run of a member out of the view.
    Evict {
        /// Name of the member.
        node: String,
        /// Its run, as whoever asks has seen it.
        incarnation: u64,
        /// The view, likewise.
        epoch: u32,
    },
    /// Mark a member: it is to get no new work, or it works again.
    Drain {
        /// Name of the member.
        node: String,
        /// Which of the two.
        drained: bool,
    },
    /// Somebody vouches for it that a run that is out cannot act any more.
    Unfence {
        /// Name of the node.
        node: String,
        /// Which run of it.
        incarnation: u64,
    },
    /// Make a join token.
    CreateToken {
        /// For a node of this name.
        node: String,
        /// Good for so long.
        seconds: u64,
    },
    /// Which join tokens are out?
    Tokens,
    /// Take a join token back.
    RevokeToken {
        /// Its number.
        serial: u64,
    },
    /// This node is to leave its cluster, and to end.
    Leave,
    /// A node that is lost is to be no member any more.
    Remove {
        /// Name of the member.
        node: String,
    },
    /// Give me so many stamps of the cluster clock.
    Stamp {
        /// How many; at most [`STAMPS_MAX`].
        count: u32,
    },
    /// Which keys are pinned, and how far is the change of this node's?
    Keys,
    /// Change this node's key.
    RotateKey,
    /// The engine of this node is to begin anew and to keep all locks.
    Restart,
    /// What happened at this node?
    Events {
        /// Only what has a number above this.
        #[serde(default)]
        after: u64,
    },
}

impl Question {
    /// What it is to the table of rights. A new question does not compile before somebody has decided that.
    pub const fn kind(&self) -> Kind {
        match self {
            Question::Status => Kind::Status,
            Question::Counters => Kind::Counters,
            Question::Locks { .. } => Kind::Locks,
            Question::Purge { .. } => Kind::Purge,
            Question::Branches { .. } | Question::Branch { step: Step::List | Step::Find { .. }, .. } => {
                Kind::Branches
            }
            Question::Branch { .. } => Kind::Branch,
            Question::Health { .. } => Kind::Fitness,
            Question::Deafen { .. } => Kind::Deafen,
            Question::Failovers => Kind::Failovers,
            Question::Deadlocks => Kind::Deadlocks,
            Question::Registry => Kind::Registry,
            Question::Evict { .. } => Kind::Evict,
            Question::Drain { .. } => Kind::Drain,
            Question::Unfence { .. } => Kind::Unfence,
            Question::CreateToken { .. } => Kind::CreateToken,
            Question::Tokens => Kind::Tokens,
            Question::RevokeToken { .. } => Kind::RevokeToken,
            Question::Leave => Kind::Leave,
            Question::Remove { .. } => Kind::Remove,
            Question::Stamp { .. } => Kind::Stamp,
            Question::Keys => Kind::Keys,
            Question::RotateKey => Kind::RotateKey,
            Question::Restart => Kind::Restart,
            Question::Backup { .. } => Kind::Backup,
            Question::Events { .. } => Kind::Events,
        }
    }

    /// Whether nothing comes of it but the answer: then whoever does not know what became of the question may ask again.
    pub const fn only_looks(&self) -> bool {
        match self {
            Question::Status
            | Question::Counters
            | Question::Locks { .. }
            | Question::Branches { .. }
            | Question::Branch { step: Step::List | Step::Find { .. }, .. }
            | Question::Health { .. }
            | Question::Failovers
            | Question::Deadlocks
            | Question::Registry
            | Question::Backup { .. }
            | Question::Tokens
            | Question::Keys
            | Question::Events { .. } => true,
            Question::Deafen { .. }
            | Question::Purge { .. }
            | Question::Branch { .. }
            | Question::Evict { .. }
            | Question::Drain { .. }
            | Question::Unfence { .. }
            | Question::CreateToken { .. }
            | Question::RevokeToken { .. }
            | Question::Leave
            | Question::Remove { .. }
            | Question::Stamp { .. }
            | Question::RotateKey
            | Question::Restart => false,
        }
    }
}

/// How a node is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// [`VERSION`].
    pub v: u32,
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the node that answers.
    pub node: String,
    /// Version of its program.
    pub version: String,
    /// Where programs attach to it.
    #[serde(default)]
    pub socket: String,
    /// Where its circuits listen, which is not its member's address if that is translated on the way.
    #[serde(default)]
    pub listen: String,
    /// Where it serves metrics and readiness over HTTP, if anywhere.
    #[serde(default)]
    pub api: Option<String>,
    /// `forming`, `serving` or `refused`.
    pub phase: String,
    /// It grants locks.
    pub serving: bool,
    /// It grants locks and hears every member.
    pub healthy: bool,
    /// Epoch of its view, 0 if it has none.
    pub epoch: u32,
    /// Locks are granted: what was held before the view is known, and the lease of the node is far from its end.
    #[serde(default)]
    pub granting: bool,
    /// Which run of the node this is.
    pub incarnation: u64,
    /// Since when the daemon runs, in seconds.
    pub uptime_s: u64,
    /// The shared part of the configuration, as one number in hexadecimal digits.
    pub shared: String,
    /// What is not as it should be.
    pub reasons: Vec<Reason>,
    /// All members, this one included.
    pub members: Vec<Member>,
    /// The lockspaces that whoever asked may look at.
    pub spaces: Vec<Space>,
    /// How many there are besides.
    #[serde(default)]
    pub hidden_spaces: u64,
    /// Programs attached to this node.
    pub sessions: u64,
    /// Who decides what the cluster agrees on.
    #[serde(default)]
    pub coordinator: Coordinator,
    /// What keeps a node that is out from doing harm: `lease only`, or the commands that fence it.
    #[serde(default)]
    pub fencing: String,
    /// What is still to be proven of runs that are out; until then masters grant nothing.
    #[serde(default)]
    pub fences: Vec<Fence>,
    /// The cluster clock; none from a node that is older than this.
    #[serde(default)]
    pub clock: Option<Clock>,
}

/// The cluster clock at a node. Stamps are strings: they have 64 bits, and programs compare them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Clock {
    /// [`VERSION`].
    pub v: u32,
    /// Name of the node that answers.
    pub node: String,
    /// Epoch of the view in which ceilings count, 0 if there is none.
    pub epoch: u32,
    /// The largest stamp issued or heard here.
    pub stamp: String,
    /// At or above every clock of the cluster, if it is known.
    pub watermark: Option<String>,
    /// What this node has announced.
    pub ceiling: String,
    /// Up to here it may issue stamps: all members have acknowledged it.
    pub granted: String,
    /// What is durable; the next run begins above it.
    pub stored: String,
    /// Stamps issued.
    pub issued: u64,
    /// Ceilings announced.
    pub raises: u64,
    /// Numbers made durable.
    pub stores: u64,
    /// How often somebody had to wait for a stamp.
    pub waits: u64,
    /// The other members of the view.
    pub others: Vec<ClockMember>,
}

impl Clock {
    /// The clock of a node, empty if the node is too old to have told of one.
    pub fn of(status: &Status) -> Clock {
        let zero = || String::from("0");
        status.clock.clone().unwrap_or_else(|| Clock {
            v: VERSION,
            node: status.node.clone(),
            epoch: 0,
            stamp: zero(),
            watermark: None,
            ceiling: zero(),
            granted: zero(),
            stored: zero(),
            issued: 0,
            raises: 0,
            stores: 0,
            waits: 0,
            others: Vec::new(),
        })
    }
}

/// So many stamps may be asked for at once.
pub const STAMPS_MAX: u32 = 4096;

/// Stamps that nobody else has or will have, each above all that were issued before it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Stamps {
    /// [`VERSION`].
    pub v: u32,
    /// Name of the node that issued them.
    pub node: String,
    /// Its number, which follows the point in each of them. Two nodes may issue one number; what is ordered by locks or messages never
    /// has the same.
    pub id: u16,
    /// In order: `NUMBER.NODE`.
    pub stamps: Vec<String>,
}

/// What another member has said of its clock in this view.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClockMember {
    /// Its name.
    pub node: String,
    /// What it has announced, if it has been heard.
    pub ceiling: Option<String>,
    /// What it has acknowledged of this node's ceilings.
    pub acked: String,
}

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reason {
    /// Stable, such as `OAR-3101`.
    pub code: String,
    /// For people.
    pub text: String,
}

/// A member as this node sees it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub node: String,
    /// Its id.
    pub id: u16,
    /// Where its circuits listen.
    pub address: String,
    /// It is the node that answers.
    pub this: bool,
    /// The view names a run of it.
    #[serde(default)]
    pub in_view: bool,
    /// Which; 0 if none.
    #[serde(default)]
    pub view_run: u64,
    /// It is to get no new work.
    #[serde(default)]
    pub drained: bool,
    /// It is this node, or was heard within the silent time.
    pub heard: bool,
    /// Which run of it the circuit leads to; 0 if there is none.
    pub incarnation: u64,
    /// The circuit; none to itself.
    pub circuit: Option<Circuit>,
}

/// A circuit, from this node's end.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, Default)]
pub struct Circuit {
    /// `up`, `silent`, `opening` or `refused`.
    pub state: String,
    /// For how long nothing has been heard; 0 if it is not silent.
    pub silent_ms: u64,
    /// Smoothed round trip.
    pub rtt_us: u64,
    /// Age of the keys in use.
    pub key_age_s: u64,
    /// Messages sent and not yet acknowledged, in bytes.
    pub backlog_bytes: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams received.
    pub received: u64,
    /// Fragments sent again.
    pub resent: u64,
    /// Fragments that came twice.
    pub duplicates: u64,
    /// Why it is not up, if that is known.
    #[serde(default)]
    pub why: Option<String>,
}

/// A lockspace on this node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Space {
    /// Its name.
    pub name: String,
    /// `passover` or `strict`.
    pub order: String,
    /// Nodes keep what they own after the last local use.
    pub retain: bool,
    /// Resources here.
    pub resources: u64,
    /// The most there may be.
    pub resources_max: u64,
    /// Resources this node decides about.
    pub mastered: u64,
    /// Locks of programs of this node that wait.
    pub waiting: u64,
    /// Locks that the node has granted to its programs so far.
    pub grants: u64,
    /// Of these, without waiting for a message.
    pub covered_grants: u64,
    /// It has a segment, in which programs may grant themselves.
    #[serde(default)]
    pub segment: bool,
    /// Sessions that may do so now.
    #[serde(default)]
    pub attached_sessions: u64,
    /// Locks that programs have granted themselves so far; none of them is among `grants`.
    #[serde(default)]
    pub fast_grants: u64,
    /// Releases of these after which less was needed than owned.
    #[serde(default)]
    pub fast_considered: u64,
    /// Releases of these that handed over to a waiter.
    #[serde(default)]
    pub fast_handed_over: u64,
    /// Lock messages sent to other nodes so far.
    pub messages: u64,
    /// Whose it is at this node.
    #[serde(default)]
    pub owner: String,
    /// Which group it is given to.
    #[serde(default)]
    pub group: String,
    /// What for, in octal digits as of a file.
    #[serde(default)]
    pub mode: String,
    /// Members whose programs may use it; none: all.
    #[serde(default)]
    pub nodes: Option<Vec<String>>,
    /// What whoever asked may do in it at this node: `rw`, `r`, `look` or `-`.
    #[serde(default)]
    pub yours: String,
}

/// A counter.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Counter {
    /// Its name, without `oarlock_` and `_total`.
    pub name: String,
    /// What it counts.
    pub help: String,
    /// How often.
    pub value: u64,
}

/// All counters.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Counters {
    /// [`VERSION`].
    pub v: u32,
    /// Name of the node that answers.
    pub node: String,
    /// One each.
    pub counters: Vec<Counter>,
}

/// What the cluster sees of the resources of a lockspace.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Locks {
    /// [`VERSION`].
    pub v: u32,
    /// Name of the lockspace.
    pub space: String,
    /// What is still to be proven of the nodes that left and that some of these locks wait for, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits: Vec<String>,
    /// Members that did not answer in time: what they hold is missing here.
    pub unanswered: Vec<String>,
    /// Members that left rows off.
    pub cut: Vec<String>,
    /// In order of names.
    pub resources: Vec<Resource>,
}

/// A resource.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Resource {
    /// Its name, printed.
    pub name: String,
    /// The node that decides, if it answered.
    pub master: Option<String>,
    /// Nodes that left and may still use it: what does not go beside what they had waits until it is proven that they cannot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub departed: Vec<String>,
    /// What the first waiter waits for, as the master announced it.
    pub head: Option<Head>,
    /// Sessions with a lock on it, granted or waiting, on the nodes that answered.
    pub openers: u32,
    /// Locks on it, granted or waiting, as the nodes told the master with what they last said to it; a grant that
    /// costs no message is not among them. Nodes decide by this number whether to keep what nobody needs.
    #[serde(default)]
    pub openers_told: u32,
    /// The value block.
    pub value: Option<ValueBlock>,
    /// Locks granted to programs.
    pub holders: Vec<Holder>,
    /// Locks that wait, in the order in which they will probably be served.
    pub waiters: Vec<Waiter>,
    /// What each node owns.
    pub nodes: Vec<Owned>,
    /// What the master believes of each node.
    pub records: Vec<Record>,
}

/// The first waiter.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Head {
    /// Grows with each new first waiter.
    pub number: u64,
    /// What it waits for.
    pub mode: String,
    /// `convert` or `wait`.
    pub queue: String,
}

/// A value block.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ValueBlock {
    /// Grows with each write.
    pub sequence: u64,
    /// Whether it is believed.
    pub valid: bool,
}

/// Who stands behind a lock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Party {
    /// Node of the program.
    pub node: String,
    /// The lock's id on that node.
    pub lock: String,
    /// Process, 0 if it is not known.
    pub pid: u32,
    /// What the program calls itself.
    pub label: String,
    /// Owner as the program gave it, 0 if it did not.
    pub owner: u64,
    /// Transaction as the program gave it, 0 if it did not.
    pub transaction: u64,
}

/// A granted lock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Holder {
    /// Who.
    #[serde(flatten)]
    pub party: Party,
    /// Held mode.
    pub mode: String,
    /// For how long.
    pub age_us: u64,
    /// First 64 bits of the token.
    pub fence: String,
    /// Local part of the token.
    pub local: u64,
    /// It was told that it blocks somebody who wants this.
    pub told: Option<String>,
    /// Its program granted it to itself.
    #[serde(default)]
    pub fast: bool,
}

/// A waiting lock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Waiter {
    /// Who.
    #[serde(flatten)]
    pub party: Party,
    /// Wanted mode.
    pub wanted: String,
    /// Mode held meanwhile, if it converts.
    pub held: Option<String>,
    /// `convert` or `wait`.
    pub queue: String,
    /// For how long.
    pub age_us: u64,
    /// How many will probably be served before it.
    pub ahead: u32,
}

/// What a node owns.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Owned {
    /// Which node.
    pub node: String,
    /// Owned mode.
    pub owned: Option<String>,
    /// Join of what its programs hold.
    pub need: Option<String>,
    /// It owns more than its programs need.
    pub retained: bool,
    /// What it last told the master that it holds.
    pub told_held: Option<String>,
    /// What it last told the master that it wants.
    pub told_wanted: Option<String>,
    /// Statements sent to the master.
    pub statements: u64,
    /// Changes heard from the master.
    pub changes: u64,
    /// Last statement that the master said it heard.
    pub acknowledged: u64,
    /// Fence of the last grant.
    pub fence: String,
}

/// What the master believes of a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Which node.
    pub node: String,
    /// What it holds.
    pub held: Option<String>,
    /// What it wants.
    pub wanted: Option<String>,
    /// Changes the master made of its own accord.
    pub changes: u64,
    /// Last statement heard.
    pub acknowledged: u64,
    /// Number of the head it said it really blocks.
    pub busy: u64,
}

/// Deadlocks that were broken in the cluster, as far as a node has heard of them and remembers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Deadlocks {
    /// [`VERSION`].
    pub v: u32,
    /// Name of the node that answers.
    pub node: String,
    /// The oldest first.
    pub deadlocks: Vec<Deadlock>,
    /// How many there are besides in lockspaces that this user may not look at.
    pub hidden: u64,
}

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Deadlock {
    /// When the node heard of it, as RFC 3339 has it.
    pub at: String,
    /// How long ago that is.
    pub age_us: u64,
    /// How long the wait had lasted that was refused.
    pub waited_us: u64,
    /// Why that one.
    pub why: String,
    /// The circle of waits, each for the next and the last for the first. The first is the one that was refused.
    pub cycle: Vec<DeadlockWait>,
}

/// One wait of a circle.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeadlockWait {
    /// Whose.
    #[serde(flatten)]
    pub party: Party,
    /// In which lockspace.
    pub space: String,
    /// On which resource.
    pub resource: String,
    /// Wanted mode.
    pub wanted: String,
    /// Mode held meanwhile, if it converts.
    pub held: Option<String>,
    /// The mode in which the next one holds the resource; none if the next one only stands before this one in its queue.
    pub next_holds: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_strict_and_short() {
        let text = serde_json::to_string(&Question::Status).unwrap();
        assert_eq!(text, r#"{"ask":"status"}"#);
        let q: Question = serde_json::from_str(r#"{"ask":"locks","space":"default","name":"a"}"#).unwrap();
        assert_eq!(q, Question::Locks { space: "default".into(), waiting: false, name: Some("a".into()) });
        assert!(serde_json::from_str::<Question>(r#"{"ask":"nonsense"}"#).is_err());
        assert!(serde_json::from_str::<Question>(r#"{"ask":"locks","space":"x","wait":true}"#).is_err());
    }
}
