//! What happened that an operator should be able to read.

use alloc::string::String;
use core::fmt;
use core::net::SocketAddr;

use oarlock_layout::code::Code;
use oarlock_layout::id::{Epoch, Incarnation};
use oarlock_layout::time::Duration;

/// Something for the log. Names are those of the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A circuit to a run of a member exists.
    Up {
        /// Member.
        node: String,
        /// Its run.
        incarnation: Incarnation,
    },
    /// A member came back as another run.
    Replaced {
        /// Member.
        node: String,
        /// The run that is gone.
        incarnation: Incarnation,
        /// Messages to it whose fate is not known.
        unknown: usize,
    },
    /// A member is not heard.
    Silent {
        /// Member.
        node: String,
    },
    /// It is heard again.
    Heard {
        /// Member.
        node: String,
        /// For how long it was not.
        after: Duration,
    },
    /// A member refuses this node.
    RefusedBy {
        /// Member.
        node: String,
        /// Why.
        code: Code,
    },
    /// Somebody was refused.
    Refused {
        /// From where it came.
        from: SocketAddr,
        /// The member it claims to be, if it does.
        node: Option<String>,
        /// Why.
        code: Code,
    },
    /// A run of a member has died, and nobody acts under its locks any more: others need not wait for its lease.
    GivenUp {
        /// Member.
        node: String,
        /// Which run.
        incarnation: Incarnation,
    },
    /// Another view is valid, with this run in it.
    View {
        /// Which.
        epoch: Epoch,
        /// How many members it has.
        members: usize,
    },
    /// All members have stated anew: masters here grant.
    Serving {
        /// Under which view.
        epoch: Epoch,
    },
    /// The lease of this run comes to its end: nothing new is granted until it is renewed.
    Frozen,
    /// It was renewed.
    Thawed,
    /// It is over.
    LeaseLost,
    /// The machine was suspended: clocks by which programs judge the lease stood still meanwhile (L9).
    Suspended {
        /// For how long.
        by: Duration,
    },
    /// This run is not let in.
    NotLetIn {
        /// Why.
        why: String,
    },
    /// A node has become a member.
    MemberNew {
        /// Its name.
        node: String,
        /// Where its circuits listen.
        address: SocketAddr,
    },
    /// A node is no member any more.
    MemberGone {
        /// Its name.
        node: String,
    },
    /// A member is about to change its key; both are good until it has.
    KeyAnnounced {
        /// Its name.
        node: String,
    },
    /// A member has changed its key; the one before is good for nothing.
    KeyTaken {
        /// Its name.
        node: String,
    },
    /// An authenticated member sent what no honest member sends.
    Violation {
        /// Member.
        node: String,
        /// What.
        what: String,
    },
    /// A member has been silent for so long that what is to be told to it cannot be kept any more.
    Overwhelmed {
        /// Member.
        node: String,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Up { node, incarnation } => write!(f, "circuit to {node} (run {incarnation}) is up"),
            Event::Replaced { node, incarnation, unknown } => write!(
                f,
                "{node} is another run now; run {incarnation} is gone, {unknown} messages to it are unaccounted for"
            ),
            Event::Silent { node } => {
                write!(f, "{node} is silent; requests that need it wait, nothing is granted in its place")
            }
            Event::Heard { node, after } => {
                write!(f, "{node} is heard again after {:.1} s; nothing was lost", after.as_secs_f64())
            }
            Event::RefusedBy { node, code } => write!(f, "{node} refuses this node ({code})"),
            Event::Refused { from, node: Some(node), code } => {
                write!(f, "refused {node} at {from} ({code})")
            }
            Event::Refused { from, node: None, code } => write!(f, "refused somebody at {from} ({code})"),
            Event::View { epoch, members } => {
                write!(f, "view {epoch} is valid, with {members} members; what is held is stated anew")
            }
            Event::GivenUp { node, incarnation } => write!(
                f,
                "run {incarnation} of {node} has died and is given up: nobody acts under its locks any more"
            ),
            Event::Serving { epoch } => write!(f, "serving in view {epoch}"),
            Event::Frozen => {
                f.write_str("no majority has confirmed this node's lease for long; nothing new is granted")
            }
            Event::Thawed => f.write_str("the lease is renewed; locks are granted again"),
            Event::LeaseLost => {
                f.write_str("the lease is over, or others have put this node out; all its locks are lost")
            }
            Event::Suspended { by } => {
                write!(
                    f,
                    "the machine was suspended for {:.1} s; all locks of this node are lost",
                    by.as_secs_f64()
                )
            }
            Event::NotLetIn { why } => write!(f, "this node is not let in: {why}"),
            Event::MemberNew { node, address } => {
                write!(f, "{node} at {address} is a member of the cluster now")
            }
            Event::MemberGone { node } => {
                write!(f, "{node} is no member of the cluster any more; its key is not accepted from now on")
            }
            Event::KeyAnnounced { node } => {
                write!(f, "{node} is about to change its key; it is let in by either until it has")
            }
            Event::KeyTaken { node } => {
                write!(f, "{node} has changed its key; the one before is not accepted from now on")
            }
            Event::Violation { node, what } => write!(f, "{node} misbehaves: {what}"),
            Event::Overwhelmed { node } => write!(
                f,
                "too much waits to be told to {node}, which has been silent for long; this node ends its run"
            ),
        }
    }
}
