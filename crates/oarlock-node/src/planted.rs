//! Deliberate bugs of a whole node: those of its lock room, and some of the hall.

use oarlock_lock::planted::Bug as RoomBug;

/// A rule that a node leaves out on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Bug {
    /// One of the lock room.
    Room(RoomBug),
    /// Masters grant as soon as their own node has restated (L11).
    OpenEarly,
    /// What must be proven of runs that left keeps nobody from granting (L4).
    IgnoreFences,
    /// Programs are told that the lease lasts two seconds longer than it does (L1, L2).
    LongLease,
}

impl Bug {
    /// Every one of them.
    pub fn all() -> impl Iterator<Item = Bug> {
        let hall = [Bug::OpenEarly, Bug::IgnoreFences, Bug::LongLease];
        RoomBug::ALL.into_iter().map(Bug::Room).chain(hall)
    }

    /// A word for tables.
    pub fn name(self) -> alloc::string::String {
        match self {
            Bug::Room(bug) => alloc::format!("{bug:?}"),
            hall => alloc::format!("{hall:?}"),
        }
    }

    pub(crate) fn of_room(self) -> Option<RoomBug> {
        match self {
            Bug::Room(bug) => Some(bug),
            _ => None,
        }
    }
}
