//! Deliberate bugs of a whole node: those of its lock room, and one of the hall.

use oarlock_layout::message::form::Phase;
use oarlock_layout::time::Instant;
use oarlock_lock::planted::Bug as RoomBug;

use crate::node::Node;

/// A rule that a node leaves out on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Bug {
    /// One of the lock room.
    Room(RoomBug),
    /// Members do not insist on the runs that their view names, and a node that comes back alone serves that view
    /// again: a master with an empty table (L3).
    EmptyMaster,
}

impl Bug {
    /// Every one of them.
    pub fn all() -> impl Iterator<Item = Bug> {
        RoomBug::ALL.into_iter().map(Bug::Room).chain([Bug::EmptyMaster])
    }

    /// A word for tables.
    pub fn name(self) -> alloc::string::String {
        match self {
            Bug::Room(bug) => alloc::format!("{bug:?}"),
            Bug::EmptyMaster => "EmptyMaster".into(),
        }
    }

    pub(crate) fn of_room(self) -> Option<RoomBug> {
        match self {
            Bug::Room(bug) => Some(bug),
            Bug::EmptyMaster => None,
        }
    }
}

impl Node {
    /// With [`Bug::EmptyMaster`], a node that should be refused goes on as if nothing had happened.
    pub(crate) fn come_back(&mut self, now: Instant) {
        if self.config.bug == Some(Bug::EmptyMaster) && self.forming.phase() == Phase::Refused {
            self.forming.serve_uninvited(now);
        }
    }
}
