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
    /// The node is in a view.
    Serving {
        /// Which.
        epoch: Epoch,
        /// Nothing is granted for so long.
        wait: Duration,
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
            Event::Serving { epoch, wait } if wait.is_zero() => write!(f, "serving in view {epoch}"),
            Event::Serving { epoch, wait } => write!(
                f,
                "serving in view {epoch}; grants begin in {:.1} s, because not every member stopped cleanly",
                wait.as_secs_f64()
            ),
            Event::Violation { node, what } => write!(f, "{node} misbehaves: {what}"),
            Event::Overwhelmed { node } => write!(
                f,
                "too much waits to be told to {node}, which has been silent for long; this node ends its run"
            ),
        }
    }
}
