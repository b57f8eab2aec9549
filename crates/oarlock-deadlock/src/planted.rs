//! Deliberate bugs of the search. Each is a rule left out; a general checker that does not know of it must notice.
//!
//! In a build without the `planted` feature there are none, and what asks for one is a constant.

/// A rule that is left out on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Bug {
    /// What one pass has found is believed (D6).
    OnePass,
    /// Whoever waits for several things is stuck as soon as one of them does not come (D4).
    AnyWait,
    /// Places in queues keep nobody waiting (D3).
    NoPlaces,
    /// Waits that no search should count are counted (NODLCKWT).
    ExcusedCounted,
    /// Nobody is told what was found.
    Silent,
    /// Whoever waits for something that was left out of an answer is stuck with what was told.
    CutCounted,
}

impl Bug {
    /// Every one of them.
    pub const ALL: [Bug; 6] =
        [Bug::OnePass, Bug::AnyWait, Bug::NoPlaces, Bug::ExcusedCounted, Bug::Silent, Bug::CutCounted];
}

/// Which bug is planted, if any.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Planted {
    #[cfg(feature = "planted")]
    bug: Option<Bug>,
}

impl Planted {
    /// A search with one, or none.
    #[cfg(feature = "planted")]
    pub const fn new(bug: Option<Bug>) -> Planted {
        Planted { bug }
    }

    /// Is this rule left out?
    #[cfg(feature = "planted")]
    pub(crate) fn has(self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Is this rule left out? Never, in this build.
    #[cfg(not(feature = "planted"))]
    pub(crate) const fn has(self, _bug: Bug) -> bool {
        false
    }
}
