//! Sentences for programs and people about why a request failed.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use oarlock_layout::code::Code;

use crate::rights::{Access, Denied, Permit, Right};

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

/// What is said to whoever has not the right. `name` is the lockspace's, if it is about one.
pub fn denial(
    permit: &Permit,
    denied: Denied,
    name: impl Fn(oarlock_layout::id::SpaceId) -> String,
) -> (Code, String) {
    let uid = permit.who.uid;
    match denied {
        Denied::Operator => {
            let text = format!(
                "uid {uid} is neither root, nor the user as whom the node runs, nor of the group that `operators` in [node] names"
            );
            (Code::NotOperator, text)
        }
        Denied::Node(space) => {
            let text = format!("lockspace {} is for programs of other nodes", name(space));
            (Code::SpaceDenied, text)
        }
        Denied::Space(space, right) => {
            let Access { owner, group, mode, .. } = &permit.accesses[usize::from(space.0)];
            let (wish, bits) = match right {
                Right::Look => ("look at", "r"),
                Right::Read => ("take locks to read in", "r"),
                Right::Share => ("map the segment of", "r and w"),
                _ => ("take locks to write in", "r and w"),
            };
            let text = format!(
                "uid {uid} may not {wish} lockspace {}, which needs {bits}: it is owner {owner}'s, group {group}'s, mode {mode:04o}",
                name(space)
            );
            (Code::SpaceDenied, text)
        }
    }
}

/// Names, and how many there are that are not named.
pub fn names(names: &[&str], hidden: usize) -> String {
    let hidden = (hidden > 0).then(|| format!("{hidden} that this user may not look at"));
    let all: Vec<&str> = names.iter().copied().chain(hidden.as_deref()).collect();
    all.join(", ")
}
