//! Ids are types, not integers: a node number never lands where a session number belongs.

use core::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id! {
    /// A member's place in the shared configuration, counted from 0. Lower ids win ties (A1, D7).
    NodeId(u16), "n"
}
id! {
    /// One run of a node, told apart from its earlier runs: the boot counter kept in its data directory.
    /// Grows by one with each start; 0 means "not known".
    Incarnation(u64), "i"
}
id! {
    /// The number of a view. Only grows; 20 bits are used, because it is the top of every token (R6).
    Epoch(u32), "e"
}
id! {
    /// A lockspace's place in the shared configuration, counted from 0 (`default` is always 0).
    SpaceId(u16), "s"
}
id! {
    /// One attachment of a program to its node: the unit that ends, not the process (M12).
    /// Numbers are not reused while a node runs.
    SessionId(u32), "c"
}
id! {
    /// Who stands behind a lock, as the application sees it (a task, a connection); 0 if it does not say: then it is whoever else of the
    /// session does not. Numbers from 2^63 on are made up by libraries, and shown to nobody.
    OwnerId(u64), "o"
}

impl OwnerId {
    /// Nobody knows to whom it belongs: for a search for deadlocks the lock is by itself.
    pub const APART: OwnerId = OwnerId(1 << 63);

    /// A thread of a program, as its library counts them, from 1.
    pub const fn thread(number: u64) -> OwnerId {
        OwnerId(OwnerId::APART.0 | number)
    }

    /// What an application may say.
    pub const fn named(number: u64) -> OwnerId {
        OwnerId(number & !OwnerId::APART.0)
    }

    /// What people are to see of it.
    pub const fn shown(self) -> u64 {
        if self.0 < OwnerId::APART.0 { self.0 } else { 0 }
    }
}
id! {
    /// The transaction a lock belongs to; 0 if none. The deadlock search groups by it (C19).
    TransactionId(u64), "t"
}
id! {
    /// A resource's place in one node's [`Words`](crate::segment::Words).
    Slot(u32), "w"
}

/// One lock for as long as it lives: the session that made it and the number that session gave it.
///
/// The caller chooses the lower half, so a request can be cancelled before it was answered.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct LockId(pub u64);

impl LockId {
    /// Puts a session and its own number for the lock together.
    pub const fn new(session: SessionId, handle: u32) -> LockId {
        LockId(((session.0 as u64) << 32) | handle as u64)
    }

    /// The session that made the lock.
    pub const fn session(self) -> SessionId {
        SessionId((self.0 >> 32) as u32)
    }

    /// The number the session gave it.
    pub const fn handle(self) -> u32 {
        self.0 as u32
    }

    /// Its entry in the segment, if it has one.
    pub const fn entry(self) -> Option<u32> {
        match SharedHandle::of(self.handle()) {
            Some(shared) => Some(shared.entry),
            None => None,
        }
    }
}

/// The number of a lock that has an entry in a segment: the program does not choose it.
///
/// ```text
///    31 30   28 27                0
///   ┌──┬───────┬─────────────────┐
///   │ 1│ segment│ entry           │
///   └──┴───────┴─────────────────┘
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SharedHandle {
    /// Which of the session's segments, in the order in which it asked for them.
    pub segment: u8,
    /// Which entry of its area there.
    pub entry: u32,
}

impl SharedHandle {
    /// Segments that a session may have.
    pub const SEGMENTS_MAX: u8 = 8;
    const MARK: u32 = 1 << 31;
    const SHIFT: u32 = 28;

    /// As a number.
    pub const fn number(self) -> u32 {
        assert!(self.segment < SharedHandle::SEGMENTS_MAX && self.entry < 1 << SharedHandle::SHIFT);
        SharedHandle::MARK | (self.segment as u32) << SharedHandle::SHIFT | self.entry
    }

    /// From a number; none if that is one the program chose.
    pub const fn of(number: u32) -> Option<SharedHandle> {
        if number & SharedHandle::MARK == 0 {
            return None;
        }
        let segment = (number >> SharedHandle::SHIFT & 7) as u8;
        Some(SharedHandle { segment, entry: number & ((1 << SharedHandle::SHIFT) - 1) })
    }
}

impl fmt::Debug for LockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.session().0, self.handle())
    }
}

impl fmt::Display for LockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_id_gives_back_its_halves() {
        let id = LockId::new(SessionId(7), u32::MAX);
        assert_eq!((id.session(), id.handle()), (SessionId(7), u32::MAX));
        assert_eq!(format!("{id}"), "7.4294967295");
    }

    #[test]
    fn a_lock_in_a_segment_is_told_from_one_that_the_program_numbered() {
        let shared = SharedHandle { segment: 7, entry: 16_383 };
        assert_eq!(SharedHandle::of(shared.number()), Some(shared));
        assert_eq!(LockId::new(SessionId(1), shared.number()).entry(), Some(16_383));
        assert_eq!(LockId::new(SessionId(1), i32::MAX as u32).entry(), None);
    }
}
