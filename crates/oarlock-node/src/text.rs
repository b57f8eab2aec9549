//! Sentences for programs and people about why a request failed.

use alloc::format;
use alloc::string::String;

use oarlock_layout::code::Code;

/// What is said of a lock request that failed in the lock room.
pub(crate) fn lock_failure(code: Code) -> String {
    match code {
        Code::Busy => "somebody holds it in a mode that conflicts, or waits for it already".into(),
        Code::TimedOut => "it was not granted within the time given".into(),
        Code::Cancelled => "the request was withdrawn".into(),
        Code::NotOwned => {
            "this node does not own enough of the resource to answer without asking another node".into()
        }
        Code::NoSuchLock => "the session has no lock of that number".into(),
        Code::InFlight => "another operation of this lock is under way, or its number is in use".into(),
        Code::BadFlags => "these request flags do not go together, or not with this mode".into(),
        Code::BadConversion => "a lock cannot be converted this way".into(),
        Code::Deadlock => {
            "it would wait behind a conversion that waits for the mode this lock holds; release or lower it"
                .into()
        }
        Code::SpaceFull => {
            "the lockspace has as many resources in use on this node as resources_max allows".into()
        }
        Code::TooManyWaiters => "too many requests wait for this resource on this node".into(),
        Code::TokensExhausted => {
            "the fencing numbers of this epoch are used up; restart one node to begin a new one".into()
        }
        Code::NotServing => "the node is not in a view yet".into(),
        other => format!("{other}"),
    }
}
