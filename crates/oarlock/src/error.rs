//! What went wrong, in words for people and in a kind that a program can match.

use std::fmt;

use oarlock_layout::code::Code;
use oarlock_layout::message::session::Failure;

/// Result of an operation of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation did not do what it was asked.
///
/// Match on [`kind`](Error::kind); print the error itself for people: it says what failed, why, and what
/// may help.
///
/// ```
/// # fn handle(error: oarlock::Error) {
/// use oarlock::Kind;
/// match error.kind() {
///     Kind::Busy | Kind::TimedOut => println!("somebody else has it: {error}"),
///     Kind::Lost => println!("stop writing at once: {error}"),
///     _ => println!("{error}"),
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    code: Code,
    what: String,
    why: String,
}

/// What sort of thing went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// Somebody holds the lock and the request did not want to wait.
    Busy,
    /// The lock was not granted in time.
    TimedOut,
    /// This node cannot tell without asking another one; only [`try_acquire`] answers so.
    ///
    /// [`try_acquire`]: crate::LockRequest::try_acquire
    NotOwned,
    /// Granting would have closed a circle of conversions; this one, the later, was refused. The lock
    /// stands as before. Convert down or release it, so that the other one can proceed.
    Deadlock,
    /// The lock was held and is gone: the daemon died, or its node was taken out of the cluster. Whoever
    /// gets it next may already be at work.
    Lost,
    /// The lock is held still, and soon lost: the node has not renewed its lease. If it does in time nothing was lost.
    AtRisk,
    /// The request was withdrawn before it was granted.
    Cancelled,
    /// The request makes no sense: a name too long, flags that exclude each other, an impossible conversion.
    Usage,
    /// Another operation on the same lock is under way.
    InFlight,
    /// The daemon runs but its cluster does not grant locks, or not at this node.
    NotServing,
    /// The daemon runs, and is not let into its cluster before an earlier run of its node is fenced.
    Fenced,
    /// No daemon answers.
    NoDaemon,
    /// This user may not talk to the daemon, or may not do that in the lockspace.
    Denied,
    /// Daemon and library speak different versions.
    Version,
    /// The daemon does not know the lockspace.
    UnknownSpace,
    /// There is no lock to adopt on this resource, or none in this mode.
    NoOrphan,
    /// A branch of a lockspace is there already, is not there, or is in use.
    Branch,
    /// A bound was reached; which one, the message says.
    Limit,
    /// The daemon sent what no honest daemon sends; the session was ended.
    Malformed,
    /// The handle was opened by the parent of this process. Locks do not pass through `fork`.
    Forked,
    /// Something else; the message says what.
    Failed,
}

impl Error {
    /// `what` was tried and did not work, `why` says the reason.
    pub(crate) fn new(code: Code, what: impl Into<String>, why: impl Into<String>) -> Error {
        Error(Box::new(Inner { code, what: what.into(), why: why.into() }))
    }

    /// The daemon refused `what`.
    pub(crate) fn from_failure(what: impl Into<String>, failure: Failure) -> Error {
        Error::new(failure.code, what, failure.text)
    }

    /// What sort of error this is.
    pub fn kind(&self) -> Kind {
        match self.0.code {
            Code::Busy => Kind::Busy,
            Code::TimedOut => Kind::TimedOut,
            Code::NotOwned => Kind::NotOwned,
            Code::Deadlock => Kind::Deadlock,
            Code::Lost => Kind::Lost,
            Code::AtRisk => Kind::AtRisk,
            Code::Cancelled => Kind::Cancelled,
            Code::InFlight => Kind::InFlight,
            Code::NotServing
            | Code::Refused
            | Code::TokensExhausted
            | Code::MemberSilent
            | Code::CoordinatorStopped => Kind::NotServing,
            Code::Fenced => Kind::Fenced,
            Code::NoDaemon => Kind::NoDaemon,
            Code::SocketDenied | Code::SpaceDenied | Code::NotOperator => Kind::Denied,
            Code::SessionVersion => Kind::Version,
            Code::UnknownSpace => Kind::UnknownSpace,
            Code::NoOrphan | Code::OrphanMode => Kind::NoOrphan,
            Code::BranchExists | Code::BranchInUse | Code::UnknownBranch => Kind::Branch,
            Code::SpaceFull
            | Code::TooManyWaiters
            | Code::TooManyLocks
            | Code::TooManySessions
            | Code::NoSegment
            | Code::TooManyKept
            | Code::OutOfDescriptors => Kind::Limit,
            Code::SessionMalformed => Kind::Malformed,
            Code::SessionForked => Kind::Forked,
            Code::Usage
            | Code::BadConversion
            | Code::BadFlags
            | Code::BadName
            | Code::BadMode
            | Code::BadDuration
            | Code::NoSuchLock
            | Code::SocketPathTooLong => Kind::Usage,
            _ => Kind::Failed,
        }
    }

    /// The stable code, as printed (`OAR-2101`) and explained by `oarlock explain`.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What was tried.
    pub fn what(&self) -> &str {
        &self.0.what
    }

    /// Why it did not work.
    pub fn why(&self) -> &str {
        &self.0.why
    }

    /// What may help, if there is something to say in general.
    pub fn next(&self) -> Option<&'static str> {
        Some(match self.kind() {
            Kind::Busy => "wait for it, or see who holds it with `oarlock locks why`",
            Kind::TimedOut => "wait longer, or see who holds it with `oarlock locks why`",
            Kind::NotOwned => "use acquire() with no_queue(), which asks the other nodes",
            Kind::Deadlock => "convert down or release what you hold, then ask again",
            Kind::Lost => "stop using what the lock protected, then connect again",
            Kind::AtRisk => {
                "bring what the lock protects to an end within a second, or wait whether it is lost"
            }
            Kind::InFlight => "wait for the operation under way",
            Kind::NotServing => "see `oarlock status` for what the node waits for",
            Kind::Fenced => "see `oarlock status` for the fence, and use another node meanwhile",
            Kind::NoDaemon => "start one with `oarlock serve`, or try `oarlock dev`",
            Kind::Denied if self.0.code == Code::SpaceDenied => {
                "see `oarlock space ls` for what is given to whom"
            }
            Kind::Denied => "run as the daemon's user, or join its group",
            Kind::Version => "use the library and the daemon of one release",
            Kind::UnknownSpace => "add the lockspace to the configuration of every node, or use \"default\"",
            Kind::Forked => "connect again in the child",
            Kind::Malformed => "check that the socket belongs to an Oarlock daemon",
            Kind::NoOrphan => "see `oarlock locks ls` for what was left behind, and in which mode",
            Kind::Branch => "see `oarlock dlm ls` for the branches that are open at this node",
            Kind::Cancelled | Kind::Usage | Kind::Limit | Kind::Failed => return None,
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.0.what, self.0.why, self.0.code)?;
        match self.next() {
            Some(next) => write!(f, "; {next}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self})", self.kind())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_why_and_what_next() {
        let error = Error::new(Code::Busy, "EX on \"x\" was not granted", "held by another session");
        assert_eq!(
            error.to_string(),
            "EX on \"x\" was not granted: held by another session (OAR-2101); \
             wait for it, or see who holds it with `oarlock locks why`"
        );
        assert_eq!(error.kind(), Kind::Busy);
    }

    /// Every code that a session can carry sorts into a kind a program can act on.
    #[test]
    fn lock_codes_have_kinds_of_their_own() {
        for code in Code::ALL.iter().filter(|c| (2100..2500).contains(&c.number())) {
            let kind = Error::new(*code, "", "").kind();
            assert_ne!(kind, Kind::Failed, "{code:?}");
        }
    }
}
