//! Deliberate bugs. Each is a rule left out; a general checker that does not know of it must notice.
//!
//! In a build without the `planted` feature there are none, and [`Planted::has`] is a constant.

/// A rule that is left out on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Bug {
    /// The master applies statements that it should discard (3.9, first row).
    NoSequenceCheck,
    /// The master discards a stale statement, but believes its `held` where that is lower (3.9).
    StaleLowers,
    /// A shadow drops a grant it no longer wants without telling (3.9).
    DropUnwantedGrant,
    /// A shadow believes its request still queued after a grant (3.9, X3).
    KeepTold,
    /// The master counts a shadow's own mode as a conflict (3.9).
    OwnHeldBlocks,
    /// A shadow does not give retained modes to the head (3.9).
    KeepRetained,
    /// A value in a discarded statement is not sent again (R5 d).
    LoseStaleValue,
    /// A CR or NL owner reads its own copy of the value (R5 e).
    ReadUnderCr,
    /// The serial starts again with each new record (R6 b).
    SerialPerResource,
    /// A shadow that hears of a head tells nobody that the head has gone (X5).
    ForgetHeadGone,
    /// A cancelled request may be granted as well (R9).
    CancelAndGrant,
    /// NL is granted without telling the master (R12).
    NlWithoutRecord,
    /// Blocking notices are not given to holders when a head arrives (I5).
    NoNotice,
}

impl Bug {
    /// Every one of them.
    pub const ALL: [Bug; 13] = [
        Bug::NoSequenceCheck,
        Bug::StaleLowers,
        Bug::DropUnwantedGrant,
        Bug::KeepTold,
        Bug::OwnHeldBlocks,
        Bug::KeepRetained,
        Bug::LoseStaleValue,
        Bug::ReadUnderCr,
        Bug::SerialPerResource,
        Bug::ForgetHeadGone,
        Bug::CancelAndGrant,
        Bug::NlWithoutRecord,
        Bug::NoNotice,
    ];
}

/// Which bug is planted, if any.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Planted {
    #[cfg(feature = "planted")]
    bug: Option<Bug>,
}

impl Planted {
    /// A room without planted bugs.
    pub const NONE: Planted = Planted {
        #[cfg(feature = "planted")]
        bug: None,
    };

    /// A room with one.
    #[cfg(feature = "planted")]
    pub const fn new(bug: Bug) -> Planted {
        Planted { bug: Some(bug) }
    }

    /// Is this rule left out?
    #[cfg(feature = "planted")]
    pub fn has(self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Is this rule left out? Never, in this build.
    #[cfg(not(feature = "planted"))]
    pub const fn has(self, _bug: Bug) -> bool {
        false
    }
}
