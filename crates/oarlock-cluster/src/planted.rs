//! Rules of membership that can be left out, one at a time, to see that somebody notices. Never in a release.

/// A rule that a member leaves out on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Bug {
    /// A renewal counts as soon as it is asked for: as if a leader that is none any more had answered (L2).
    RenewalUnconfirmed,
    /// A renewal counts from when its confirmation is heard, not from when it was sent (L2).
    RenewalFromAnswer,
    /// The lease of another is taken for over after half of it (L2).
    EvictEarly,
    /// Of members that do not hear each other those go that should stay (L7).
    KeepFewer,
    /// A confirmation counts for the next renewal that is under way, if the one that it names is not (L2).
    RenewalAtLeast,
}

impl Bug {
    /// Every one of them.
    pub const ALL: [Bug; 5] = [
        Bug::RenewalUnconfirmed,
        Bug::RenewalFromAnswer,
        Bug::EvictEarly,
        Bug::KeepFewer,
        Bug::RenewalAtLeast,
    ];
}

/// What a part of a member leaves out: nothing, but in builds with the feature `planted`. It is not written down.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Left {
    #[cfg(feature = "planted")]
    bug: Option<Bug>,
}

impl Left {
    #[cfg(feature = "planted")]
    pub(crate) const fn new(bug: Option<Bug>) -> Left {
        Left { bug }
    }

    #[cfg(feature = "planted")]
    pub(crate) fn out(self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    #[cfg(not(feature = "planted"))]
    pub(crate) const fn out(self, _: Bug) -> bool {
        false
    }
}
