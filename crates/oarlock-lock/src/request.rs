//! What programs ask, and the checks that need no state.

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{LockId, OwnerId, SessionId, TransactionId};
use oarlock_layout::limit::VALUE_BYTES;
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::time::Duration;

/// A program's request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// A new lock.
    Lock(Lock),
    /// Another mode for a granted lock.
    Convert(Convert),
    /// Give a lock back.
    Unlock(Unlock),
    /// Withdraw what the lock waits for. A granted lock is not touched (scenario 19).
    Cancel(LockId),
    /// The session ended: all its locks go, as by force (scenarios 35, 36), but those that were granted to outlive it (37).
    End(SessionId),
    /// This lock goes as those of a session that ended, whatever it was granted for: an orphan that is purged (40).
    Drop(LockId),
    /// A lock that outlived its session goes on as another's (38).
    Adopt(Adopt),
}

/// A lock that goes on as another's. It is held all the time, so nobody is asked, and its value block is not read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Adopt {
    /// As it was known.
    pub orphan: LockId,
    /// As it is known from here on: an id not in use, and no entry of a segment.
    pub lock: LockId,
    /// How a request for it would have been made.
    pub flags: Flags,
    /// As the program gave it.
    pub owner: OwnerId,
    /// As the program gave it.
    pub transaction: TransactionId,
}

/// A new lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lock {
    /// Its id, not in use.
    pub lock: LockId,
    /// On which resource.
    pub name: Name,
    /// In which mode.
    pub mode: Mode,
    /// How.
    pub flags: Flags,
    /// Fail after waiting so long.
    pub timeout: Option<Duration>,
    /// As the program gave it.
    pub owner: OwnerId,
    /// As the program gave it.
    pub transaction: TransactionId,
}

/// Another mode for a granted lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Convert {
    /// Which lock.
    pub lock: LockId,
    /// Which mode.
    pub mode: Mode,
    /// How.
    pub flags: Flags,
    /// Fail after waiting so long.
    pub timeout: Option<Duration>,
    /// Written to the value block if this leaves PW or EX (scenario 27).
    pub value: Option<[u8; VALUE_BYTES]>,
}

/// Give a lock back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unlock {
    /// Which lock.
    pub lock: LockId,
    /// Written to the value block if it is held in PW or EX.
    pub value: Option<[u8; VALUE_BYTES]>,
    /// Marks the value block as not to be believed, if it is held in PW or EX (scenario 31).
    pub invalidate: bool,
}

impl Lock {
    /// Scenarios 3, 10, 22.
    pub(crate) fn check(&self) -> Result<(), Code> {
        let f = self.flags;
        let expedite = f.contains(Flags::EXPEDITE)
            && (self.mode != Mode::NL || f.intersects(Flags::NOQUEUE | Flags::LOCAL));
        let both = f.contains(Flags::ALTPR | Flags::ALTCW) || f.contains(Flags::LIKELYPW | Flags::LIKELYEX);
        // Who has no entry to look at must be told.
        let deaf = f.contains(Flags::QUIET) && self.lock.entry().is_none();
        // An entry goes with its program's place in the segment. Orphans are the hall's business.
        let stays = f.contains(Flags::PERSISTENT) && self.lock.entry().is_some() || f.contains(Flags::ORPHAN);
        if expedite || both || deaf || stays || f.contains(Flags::QUECVT) {
            Err(Code::BadFlags)
        } else {
            Ok(())
        }
    }
}

impl Convert {
    /// Scenarios 3, 10: `from` is the mode held now.
    pub(crate) fn check(&self, from: Mode) -> Result<(), Code> {
        let f = self.flags;
        if f.intersects(Flags::EXPEDITE | Flags::LOCAL | Flags::QUIET | Flags::ORPHAN)
            || f.contains(Flags::ALTPR | Flags::ALTCW)
            || f.contains(Flags::LIKELYPW | Flags::LIKELYEX)
            || f.contains(Flags::PERSISTENT) && self.lock.entry().is_some()
        {
            return Err(Code::BadFlags);
        }
        // QUECVT makes sense on the way up only; PR to CW and back count as up.
        if f.contains(Flags::QUECVT) && from.covers(self.mode) {
            return Err(Code::BadFlags);
        }
        Ok(())
    }
}

/// The mode that flags say is likely to be wanted next (C20).
pub(crate) fn likely(flags: Flags) -> Option<Mode> {
    if flags.contains(Flags::LIKELYEX) {
        Some(Mode::EX)
    } else if flags.contains(Flags::LIKELYPW) {
        Some(Mode::PW)
    } else {
        None
    }
}

/// The second choice that flags name (R8).
pub(crate) fn alternate(flags: Flags) -> Option<Mode> {
    if flags.contains(Flags::ALTPR) {
        Some(Mode::PR)
    } else if flags.contains(Flags::ALTCW) {
        Some(Mode::CW)
    } else {
        None
    }
}
