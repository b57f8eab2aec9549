//! What went wrong, as C hears it.

use std::borrow::Cow;
use std::ffi::{CStr, c_int};

use oarlock::{Error, Kind};

use crate::abi::*;

/// An error code with what is known about it.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The code.
    pub rc: c_int,
    /// The number of `oarlock explain`, or 0.
    pub number: u16,
    /// For people.
    pub text: Cow<'static, str>,
}

/// What a function gives to C, or why not.
pub type Outcome<T> = Result<T, Fault>;

impl Fault {
    /// One that the library did not make.
    pub fn new(rc: c_int, text: impl Into<Cow<'static, str>>) -> Fault {
        Fault { rc, number: 0, text: text.into() }
    }

    /// The caller's fault.
    pub fn usage(text: impl Into<Cow<'static, str>>) -> Fault {
        Fault::new(OAR_E_USAGE, text)
    }

    /// The lock is at something else.
    pub fn in_flight() -> Fault {
        Fault::new(OAR_E_IN_FLIGHT, "another operation of this lock is under way")
    }

    /// A request was withdrawn.
    pub fn cancelled() -> Fault {
        Fault::new(OAR_E_CANCELLED, "the request was withdrawn by oar_cancel()")
    }

    /// The handle is the parent's.
    pub fn forked() -> Fault {
        Fault::new(
            OAR_E_FORKED,
            "the handle belongs to the parent of this process; connect again in the child",
        )
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault { rc: rc(error.kind()), number: error.code().number(), text: error.to_string().into() }
    }
}

fn rc(kind: Kind) -> c_int {
    match kind {
        Kind::Busy => OAR_E_BUSY,
        Kind::TimedOut => OAR_E_TIMED_OUT,
        Kind::NotOwned => OAR_E_NOT_OWNED,
        Kind::Deadlock => OAR_E_DEADLOCK,
        Kind::Lost => OAR_E_LOST,
        Kind::AtRisk => OAR_E_AT_RISK,
        Kind::Cancelled => OAR_E_CANCELLED,
        Kind::Usage => OAR_E_USAGE,
        Kind::InFlight => OAR_E_IN_FLIGHT,
        Kind::NotServing => OAR_E_NOT_SERVING,
        Kind::Fenced => OAR_E_FENCED,
        Kind::NoDaemon => OAR_E_NO_DAEMON,
        Kind::Denied => OAR_E_DENIED,
        Kind::Version => OAR_E_VERSION,
        Kind::UnknownSpace => OAR_E_UNKNOWN_SPACE,
        Kind::Limit => OAR_E_LIMIT,
        Kind::Malformed => OAR_E_MALFORMED,
        Kind::Forked => OAR_E_FORKED,
        _ => OAR_E_FAILED,
    }
}

/// A sentence for each code.
pub fn sentence(rc: c_int) -> &'static CStr {
    match rc {
        0 => c"success",
        OAR_E_BUSY => c"somebody holds the lock in a mode that conflicts, or waits for it already",
        OAR_E_TIMED_OUT => c"the lock was not granted in time",
        OAR_E_NOT_OWNED => c"this node cannot tell without asking another one",
        OAR_E_DEADLOCK => c"holders wait for each other, and this request was refused",
        OAR_E_LOST => c"the lock is lost",
        OAR_E_AT_RISK => c"the lock is lost soon, unless the node renews its lease",
        OAR_E_CANCELLED => c"the request was withdrawn",
        OAR_E_USAGE => c"the call makes no sense",
        OAR_E_IN_FLIGHT => c"another operation of the lock is under way",
        OAR_E_NOT_SERVING => c"the node does not grant locks",
        OAR_E_FENCED => c"the node is kept out until an earlier run of it is fenced",
        OAR_E_NO_DAEMON => c"no daemon answers",
        OAR_E_DENIED => c"this user may not do that",
        OAR_E_VERSION => c"daemon and library speak different versions",
        OAR_E_UNKNOWN_SPACE => c"there is no such lockspace",
        OAR_E_LIMIT => c"a bound was reached",
        OAR_E_MALFORMED => c"the daemon sent what no honest daemon sends",
        OAR_E_FORKED => c"the handle belongs to the parent of this process",
        OAR_E_FAILED => c"the operation failed",
        OAR_E_INTERNAL => c"the library has a fault",
        _ => c"no code of this library",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_code_has_a_sentence_of_its_own() {
        let sentences: BTreeSet<&CStr> = (OAR_E_INTERNAL..=0).map(sentence).collect();
        assert_eq!(sentences.len(), 21);
        assert!(!sentences.contains(sentence(1)) && sentence(1) == sentence(OAR_E_INTERNAL - 1));
    }
}
