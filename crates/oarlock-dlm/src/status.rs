//! What a completion tells: a status, and what else is known of it.

use oarlock::{Error, Kind};
use rustix::io::Errno;

use crate::Block;

/// The request was withdrawn.
pub const CANCELLED: i32 = 0x10001;
/// The lock is given back.
pub const UNLOCKED: i32 = 0x10002;
/// Nothing is known yet.
pub const IN_PROGRESS: i32 = 0x10003;

/// A conversion deadlock has cost the lock its mode for a while.
pub const DEMOTED: u8 = 1;
/// The value block is not to be believed.
pub const VALUE_NOT_VALID: u8 = 2;
/// The second choice was granted.
pub const ALTERNATE_MODE: u8 = 4;

/// What came of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// Which lock.
    pub lkid: u32,
    /// 0, or why not.
    pub status: i32,
    /// [`DEMOTED`], [`VALUE_NOT_VALID`], [`ALTERNATE_MODE`].
    pub flags: u8,
    /// The value block, if it was read.
    pub value: Option<Block>,
}

impl Report {
    pub(crate) fn new(lkid: u32, status: i32) -> Report {
        Report { lkid, status, flags: 0, value: None }
    }
}

/// The status of a request that was refused.
pub(crate) fn of(error: &Error) -> i32 {
    match error.kind() {
        Kind::Cancelled => CANCELLED,
        _ => errno_of(error).raw_os_error(),
    }
}

/// The number of an error for whoever called.
pub fn errno_of(error: &Error) -> Errno {
    match error.kind() {
        Kind::Busy | Kind::NotOwned => Errno::AGAIN,
        Kind::Deadlock => Errno::DEADLK,
        Kind::TimedOut => Errno::TIMEDOUT,
        Kind::Usage => Errno::INVAL,
        Kind::InFlight => Errno::BUSY,
        Kind::Limit => Errno::NOMEM,
        Kind::Denied => Errno::PERM,
        // There is nobody who would decide, so nothing to attach to.
        Kind::NoDaemon | Kind::NotServing | Kind::Fenced => Errno::UNATCH,
        Kind::Version => Errno::BADE,
        // Ended sessions, lockspaces that there are not, forks.
        _ => Errno::NOTCONN,
    }
}

/// The status when the session is over: nobody can tell any more what came of it.
pub(crate) fn when_over(error: &Error) -> i32 {
    match error.kind() {
        Kind::NoDaemon | Kind::NotServing | Kind::Fenced => Errno::NOTCONN.raw_os_error(),
        _ => of(error),
    }
}
