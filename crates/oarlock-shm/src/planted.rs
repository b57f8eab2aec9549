//! Rules that can be left out, one at a time, to see that a proof notices. Without the feature `planted` none can.

pub use crate::sync::Place;

/// A rule left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// M1: the commit stores "held" instead of exchanging it.
    CommitByStore,
    /// M1: the own entry is not looked at again after the word was loaded.
    NoCheckAfterLoad,
    /// M1: the turn stays the same in a recount.
    KeepTurn,
    /// M1: a recount counts a way down by its old mode and a way up by its new one.
    CountByOldMode,
    /// M1: a recount publishes with the gate alone; callers may change the word meanwhile.
    NoShut,
    /// M5: the gate is not looked at again after the commit.
    NoGateReread,
    /// M7: the generation of the slot is not compared.
    NoSlotGeneration,
    /// M8: what is owned is lowered to a need that was computed before.
    StaleNeed,
    /// M10: whoever finds a conflict leaves the gate open.
    NoGateByFinder,
    /// M10: a recount leaves the offered waiter's entry as it was.
    NoRestamp,
    /// M10: an offer is taken back without moving its waiter on.
    NoRecall,
    /// M12: the end of a session leaves the words of its attempts in the same turn.
    EndKeepsTurn,
    /// R6 d: the token count is raised by load and store, before the commit.
    TokenBeforeCommit,
    /// R9: the node grants a waiting lock by a store, whatever its caller did meanwhile.
    GrantByStore,
    /// L1: nobody compares the lease with the clock.
    NoLease,
    /// L6: grants look at the end of the lease, and not at the moment from which it is at risk.
    NoFreeze,
    /// M2: a fence is left out.
    Fence(Place),
}

impl Bug {
    /// All but the fences, by name.
    pub const NAMED: [(&'static str, Bug); 16] = [
        ("commit-by-store", Bug::CommitByStore),
        ("no-check-after-load", Bug::NoCheckAfterLoad),
        ("keep-turn", Bug::KeepTurn),
        ("count-by-old-mode", Bug::CountByOldMode),
        ("no-shut", Bug::NoShut),
        ("no-gate-reread", Bug::NoGateReread),
        ("no-slot-generation", Bug::NoSlotGeneration),
        ("stale-need", Bug::StaleNeed),
        ("no-gate-by-finder", Bug::NoGateByFinder),
        ("no-restamp", Bug::NoRestamp),
        ("no-recall", Bug::NoRecall),
        ("end-keeps-turn", Bug::EndKeepsTurn),
        ("token-before-commit", Bug::TokenBeforeCommit),
        ("grant-by-store", Bug::GrantByStore),
        ("no-lease", Bug::NoLease),
        ("no-freeze", Bug::NoFreeze),
    ];

    /// The fences, by name.
    pub const FENCES: [(&'static str, Bug); 9] = [
        ("fence-commit", Bug::Fence(Place::Commit)),
        ("fence-turn", Bug::Fence(Place::Turn)),
        ("fence-gate", Bug::Fence(Place::Gate)),
        ("fence-ring", Bug::Fence(Place::Ring)),
        ("fence-sleep", Bug::Fence(Place::Sleep)),
        ("fence-write", Bug::Fence(Place::Write)),
        ("fence-read", Bug::Fence(Place::Read)),
        ("fence-name", Bug::Fence(Place::Name)),
        ("fence-rename", Bug::Fence(Place::Rename)),
    ];

    /// The bug of this name.
    pub fn named(name: &str) -> Option<Bug> {
        Bug::NAMED.iter().chain(&Bug::FENCES).find(|(n, _)| *n == name).map(|(_, bug)| *bug)
    }

    #[cfg(feature = "planted")]
    fn code(self) -> u8 {
        let all = Bug::NAMED.iter().chain(&Bug::FENCES);
        let place = all.map(|(_, bug)| *bug).position(|bug| bug == self).expect("every bug is listed");
        place as u8 + 1
    }
}

/// The bug that is planted, 0 for none: in this process, or in the one thread in which a checker of orders runs a model.
/// Not a checker's atomic: it orders nothing.
#[cfg(all(feature = "planted", not(any(loom, shuttle))))]
static PLANTED: core::sync::atomic::AtomicU8 = core::sync::atomic::AtomicU8::new(0);

#[cfg(all(feature = "planted", any(loom, shuttle)))]
std::thread_local! {
    static PLANTED: core::cell::Cell<u8> = const { core::cell::Cell::new(0) };
}

/// Leaves a rule out from here on, everywhere in this process; none leaves out nothing.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    let code = bug.map_or(0, Bug::code);
    #[cfg(not(any(loom, shuttle)))]
    PLANTED.store(code, core::sync::atomic::Ordering::Relaxed);
    #[cfg(any(loom, shuttle))]
    PLANTED.set(code);
}

#[cfg(feature = "planted")]
#[inline(always)]
pub(crate) fn planted(bug: Bug) -> bool {
    #[cfg(not(any(loom, shuttle)))]
    let code = PLANTED.load(core::sync::atomic::Ordering::Relaxed);
    #[cfg(any(loom, shuttle))]
    let code = PLANTED.get();
    code != 0 && code == bug.code()
}

#[cfg(not(feature = "planted"))]
#[inline(always)]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}
