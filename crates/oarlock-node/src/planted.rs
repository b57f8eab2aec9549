//! Deliberate bugs of a whole node: those of its lock room and of membership, and some of the hall.

use oarlock_cluster::planted::Bug as MemberBug;
#[cfg(feature = "planted")]
use oarlock_cluster::watermark::Shortcut;
use oarlock_deadlock::planted::Bug as SearchBug;
use oarlock_lock::planted::Bug as RoomBug;

/// A rule that a node leaves out on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Bug {
    /// One of the lock room.
    Room(RoomBug),
    /// One of membership.
    Member(MemberBug),
    /// One of the search for deadlocks.
    Search(SearchBug),
    /// Masters grant as soon as their own node has restated (L11).
    OpenEarly,
    /// Programs may do everything, whoever's they are (I22).
    AnyRight,
    /// What must be proven of runs that left keeps nobody from granting (L4).
    IgnoreFences,
    /// Programs are told that the lease lasts two seconds longer than it does (L1, L2).
    LongLease,
    /// What is said here is left out of the state that is read (L5).
    Lose(Lost),
    /// A run that is stopped gives itself up while its programs have only just been told (L5).
    StopUnheard,
    /// A run that ends gives the locks of its programs back at once (L5, X10).
    GiveBackAtEnd,
    /// A keeper says the last word of a run before its programs have heard that it is over (L5).
    GaspUnheard,
    /// Whoever has joined with the id of a member that left is taken for that member.
    OldMember,
    /// Masters wait only for the fences of runs that left with the view that is valid (L4).
    FencesOfThisView,
    /// A last word is taken for the run that is in the view, whichever it speaks for (L5).
    GaspOfAnyRun,
    /// A stamp is issued above the ceiling that all have acknowledged, by one (E5).
    OneAboveCeiling,
    /// Whoever hears that a deadlock was broken refuses its own part of it too (D7).
    WholeCircle,
}

/// What whoever goes on from a written state may have forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Lost {
    /// When the patience of each waiter ends.
    Deadlines,
    /// Who waits.
    Waiters,
    /// What masters know of shadows.
    Records,
    /// That statements are on their way which the master has not confirmed.
    Statements,
    /// What was sent to peers and is not acknowledged.
    Unacknowledged,
}

impl Lost {
    /// All of it.
    pub const ALL: [Lost; 5] =
        [Lost::Deadlines, Lost::Waiters, Lost::Records, Lost::Statements, Lost::Unacknowledged];
}

impl Bug {
    /// Every one of them.
    pub fn all() -> impl Iterator<Item = Bug> {
        let hall = [
            Bug::OpenEarly,
            Bug::AnyRight,
            Bug::IgnoreFences,
            Bug::LongLease,
            Bug::StopUnheard,
            Bug::GiveBackAtEnd,
            Bug::GaspUnheard,
            Bug::OldMember,
            Bug::FencesOfThisView,
            Bug::GaspOfAnyRun,
            Bug::OneAboveCeiling,
            Bug::WholeCircle,
        ];
        let members = MemberBug::ALL.map(Bug::Member);
        let search = SearchBug::ALL.map(Bug::Search);
        RoomBug::ALL
            .into_iter()
            .map(Bug::Room)
            .chain(hall)
            .chain(members)
            .chain(search)
            .chain(Lost::ALL.map(Bug::Lose))
    }

    /// A word for tables.
    pub fn name(self) -> alloc::string::String {
        match self {
            Bug::Room(bug) => alloc::format!("{bug:?}"),
            Bug::Member(bug) => alloc::format!("{bug:?}"),
            Bug::Search(bug) => alloc::format!("{bug:?}"),
            Bug::Lose(what) => alloc::format!("Lose{what:?}"),
            hall => alloc::format!("{hall:?}"),
        }
    }

    pub(crate) fn of_room(self) -> Option<RoomBug> {
        match self {
            Bug::Room(bug) => Some(bug),
            _ => None,
        }
    }

    #[cfg(feature = "planted")]
    pub(crate) fn of_clock(self) -> Option<Shortcut> {
        (self == Bug::OneAboveCeiling).then_some(Shortcut::OneAboveCeiling)
    }

    #[cfg(feature = "planted")]
    pub(crate) fn of_search(self) -> Option<SearchBug> {
        match self {
            Bug::Search(bug) => Some(bug),
            _ => None,
        }
    }

    pub(crate) fn of_member(self) -> Option<MemberBug> {
        match self {
            Bug::Member(bug) => Some(bug),
            _ => None,
        }
    }
}
