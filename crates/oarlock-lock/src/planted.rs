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
    /// A shadow honours the head before the request that was just granted to it (X8).
    HeadFirst,
    /// A shadow gives to the head what a convert of its own, or a request already granted, waits for.
    PlayBall,
    /// A shadow keeps from the head what anybody of its own waits for, whoever comes first.
    KeepForAll,
    /// A shadow asks for PR while it still owns CW (rule 9).
    KeepIncomparable,
    /// The master refuses a try because of a mode that may be retained only (R2).
    TryByRetention,
    /// The master forgets a record although a change of its own is on the way (R12).
    StaleForget,
    /// A shadow gives up its record without looking at the counts behind the gate (M8).
    ForgetUncounted,
    /// The first use of the value block is not told to the master (R5 c).
    SilentUse,
    /// A grant's block replaces a newer one (R5 d).
    OldBlock,
    /// Two converts that wait for each other do so for ever (D9).
    NoDeadlock,
    /// The master answers a question that came with a wish before the wish.
    AnswerAlone,
    /// Messages of an earlier view are believed (X11, I10).
    StaleEpoch,
    /// The block of a writer that left the view is served as if it were the newest (R5 b, c).
    KeepDeadWritersBlock,
    /// A shadow takes a new master for one that has heard it already (L11).
    ToldAlready,
    /// Grants of a new view carry the epoch of the first (R6).
    TokenReset,
    /// Whoever has entered a view still listens to grants of the one before (L11).
    OldGrants,
    /// A master grants as soon as its own node has restated, and not all have (L11, 48).
    HalfBuilt,
    /// What the master of the view before hands over about blocks is thrown away (44).
    HeirForgets,
    /// A handover that arrives late is thrown away like any old message (44).
    LateHandover,
    /// Only who left with the last view counts, although the one before it was never open (48).
    DepartedOnce,
    /// A shadow that owns NL does not say so to a new master (X11).
    NlUnstated,
    /// Whenever somebody has left every block is marked, whoever still stands beside it (43).
    MarkAlways,
    /// A shadow that was giving its record up takes itself for its owner in the next view (X9).
    OldTombstone,
    /// What is written between entering a view and the first statement under it is not told (R5).
    WriteUnheard,
    /// A master lets records go before all have restated (48).
    ForgetAtOnce,
    /// A node states anew before all are in the view (L11).
    SpeaksEarly,
    /// A master does not say what runs that left may still act under (L4).
    RemainsForgotten,
    /// What masters that left decided about is taken for free (L4).
    LostForgotten,
    /// What nobody knows anything of is taken for free (L4).
    UnknownForgotten,
    /// Everything waits until a run that left is fenced, whatever it had (L4).
    AllUnknown,
    /// A run that is followed by another of its node counts as if it had stayed (44).
    SameNode,
    /// What a request says is likely to be wanted next is granted whoever else is there (C20).
    LikelyUnchecked,
}

impl Bug {
    /// Every one of them.
    pub const ALL: [Bug; 45] = [
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
        Bug::HeadFirst,
        Bug::PlayBall,
        Bug::KeepForAll,
        Bug::KeepIncomparable,
        Bug::TryByRetention,
        Bug::StaleForget,
        Bug::ForgetUncounted,
        Bug::SilentUse,
        Bug::OldBlock,
        Bug::NoDeadlock,
        Bug::AnswerAlone,
        Bug::StaleEpoch,
        Bug::KeepDeadWritersBlock,
        Bug::ToldAlready,
        Bug::TokenReset,
        Bug::OldGrants,
        Bug::HalfBuilt,
        Bug::HeirForgets,
        Bug::LateHandover,
        Bug::DepartedOnce,
        Bug::NlUnstated,
        Bug::MarkAlways,
        Bug::OldTombstone,
        Bug::WriteUnheard,
        Bug::ForgetAtOnce,
        Bug::SpeaksEarly,
        Bug::RemainsForgotten,
        Bug::LostForgotten,
        Bug::UnknownForgotten,
        Bug::AllUnknown,
        Bug::SameNode,
        Bug::LikelyUnchecked,
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
