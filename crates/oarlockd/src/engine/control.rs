//! What the console wants of the engine, and what the engine passes to the console. Documents are made on
//! the console's thread: a question never delays a grant.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use oarlock_cluster::recovery::{Failover, Gate};
use oarlock_cluster::registry::{Command, Outcome, Registry};
use oarlock_layout::code::Code;
use oarlock_layout::id::{NodeId, SessionId, SpaceId};
use oarlock_layout::message::look::{At, Seen};
use oarlock_layout::message::trace::Broken;
use oarlock_layout::stamp::Stamp;
use oarlock_layout::time::Instant;
use oarlock_layout::view::View;
use oarlock_node::branch::Step;
use oarlock_node::rights::Permit;
use oarlock_node::{Counter, Status};

use super::events::Noted;
use crate::coordinator::Trouble;
use crate::coordinator::raft::Standing;
use crate::host::wake::Wake;

/// A question of a person that came over a session.
#[derive(Debug)]
pub struct Asked {
    /// From which session.
    pub session: SessionId,
    /// The session's number for it.
    pub request: u32,
    /// JSON.
    pub question: String,
    /// What whoever asks may do.
    pub permit: Permit,
}

/// Takes the names of the members, and what they saw.
pub type Looked = Box<dyn FnOnce(BTreeMap<NodeId, String>, Vec<(NodeId, Option<Seen>)>) + Send>;

/// A node at one instant.
#[derive(Debug)]
pub struct Snapshot {
    /// Which lockspaces have a segment.
    pub segments: Vec<bool>,
    /// The instant, on the engine's clock.
    pub now: Instant,
    /// When the engine began, on the same clock.
    pub began: Instant,
    /// How the node is.
    pub status: Status,
    /// What it counted.
    pub counters: Vec<Counter>,
    /// The view that is valid at it; of epoch 0 before the first.
    pub view: View,
    /// How the last views came into effect, the newest last.
    pub failovers: Vec<Failover>,
    /// Deadlocks that were broken, and when this node heard of it, the newest last.
    pub deadlocks: Vec<(Instant, Broken)>,
    /// The barrier at which the newest waits, and for whom.
    pub waits: Option<(Gate, Vec<NodeId>)>,
    /// The registry as it is here; none before it was read.
    pub registry: Option<Arc<Registry>>,
    /// Who leads and votes in the coordinator, as far as the node knows.
    pub standing: Standing,
}

/// What goes back to a session that asked.
#[derive(Debug)]
pub enum Answer {
    /// JSON.
    Document(String),
    /// No.
    Denied(Code, String),
}

/// What came of a command, with the registry to which it was applied or a later one.
pub type Proposed = Result<(Outcome, Arc<Registry>), Trouble>;

/// Stamps, or none: the run has ended, or the clock has come to its end.
pub(crate) type Issued = Option<Vec<Stamp>>;

/// Branches, with how often each is open; or why not.
pub(crate) type Branched = Result<Vec<(String, u32)>, (Code, String)>;

/// What the console wants.
pub enum Control {
    /// How is the node?
    Snapshot(tokio::sync::oneshot::Sender<Snapshot>),
    /// What do all members see?
    Look {
        /// Of which lockspace.
        space: SpaceId,
        /// What of it.
        at: At,
        /// Called with the answers.
        reply: Looked,
    },
    /// Put into the order what somebody asks for.
    Propose {
        /// What.
        command: Command,
        /// The same for the log.
        text: String,
        /// Takes what came of it.
        reply: tokio::sync::oneshot::Sender<Proposed>,
    },
    /// Hear nothing of these any more, and all others again.
    Deafen {
        /// Where they send from.
        from: BTreeSet<SocketAddr>,
        /// Told when it is so.
        reply: tokio::sync::oneshot::Sender<()>,
    },
    /// Send this datagram to a machine that is no member.
    Transmit {
        /// Where to.
        to: SocketAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// End the run, and then the membership. The engine answers by itself.
    Leave {
        /// Who asked.
        session: SessionId,
        /// Its number for the question.
        request: u32,
        /// What it hears once the membership has ended.
        document: String,
    },
    /// Agree on new keys with every peer: this node proves itself with another key of its own from now on.
    RenewKeys,
    /// Is the run in the view, and since when are the oldest keys of a circuit in use over which a peer is heard?
    OldestKeys(tokio::sync::oneshot::Sender<(bool, Option<Instant>)>),
    /// Issue so many stamps, in order, once the ceiling permits it.
    Stamp {
        /// How many.
        count: u32,
        /// Takes them. Whoever does not wait any more has dropped the other half.
        reply: tokio::sync::oneshot::Sender<Issued>,
    },
    /// Write down what the next program would get, for a rehearsal.
    Rehearse(tokio::sync::oneshot::Sender<super::Rehearsal>),
    /// Let the next program take the place of this one, with all locks kept. The engine answers, whichever it is by then.
    Restart {
        /// Who asked, and its number for the question.
        asked_by: (SessionId, u32),
        /// What the next program has tried: it is to find the same.
        sight: super::Sight,
    },
    /// Give back locks of this node that outlived their programs.
    Purge {
        /// In which lockspace.
        space: SpaceId,
        /// How the names of their resources begin.
        prefix: Vec<u8>,
        /// Which process left them behind.
        pid: Option<u32>,
        /// Takes how many there were.
        reply: tokio::sync::oneshot::Sender<usize>,
    },
    /// Open or close a part of a lockspace at this node, or look for it.
    Branch {
        /// Of which lockspace.
        space: SpaceId,
        /// What is to be done.
        step: Step,
        /// Takes what came of it.
        reply: tokio::sync::oneshot::Sender<Branched>,
    },
    /// What happened?
    Events {
        /// Only what has a number above this.
        after: u64,
        /// Takes the number of the oldest that is remembered, and those that were asked for.
        reply: tokio::sync::oneshot::Sender<(u64, Vec<Noted>)>,
    },
    /// Tell this to a session.
    Answer {
        /// Which.
        session: SessionId,
        /// Its number for the question.
        request: u32,
        /// What.
        answer: Answer,
    },
}

/// The console's end of the line to the engine.
#[derive(Clone)]
pub struct Link {
    sender: Sender<Control>,
    wake: Wake,
}

impl Link {
    /// A line that rings `wake`.
    pub fn new(sender: Sender<Control>, wake: Wake) -> Link {
        Link { sender, wake }
    }

    /// Passes it on. An engine that has ended hears nothing, and needs nothing.
    pub fn send(&self, control: Control) {
        if self.sender.send(control).is_ok() {
            self.wake.ring();
        }
    }
}
