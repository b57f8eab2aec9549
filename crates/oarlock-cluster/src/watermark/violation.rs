//! What an honest clock never says.

use oarlock_layout::id::NodeId;
use oarlock_layout::stamp::Stamp;

/// A peer's misdeed (CK7). Nothing was believed of the reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Its clock is beyond every ceiling that this node has heard and therefore acknowledged.
    #[error("the clock of node {from} stands at {stamp}, beyond the watermark {max}")]
    BeyondCeilings {
        /// Who said it.
        from: NodeId,
        /// Where its clock stands.
        stamp: Stamp,
        /// No clock can be beyond this.
        max: Stamp,
    },
    /// A ceiling further ahead than a stride: it would wear out the clocks of all.
    #[error("node {from} announces a ceiling of {ceiling}; {max} is the highest that it may")]
    CeilingTooFar {
        /// Who said it.
        from: NodeId,
        /// What it announces.
        ceiling: Stamp,
        /// The highest that would have been believed.
        max: Stamp,
    },
    /// It acknowledges what was never said: its acknowledgements are worth nothing.
    #[error("node {from} acknowledges a ceiling of {acked}, the highest announced to it is {announced}")]
    NeverAnnounced {
        /// Who said it.
        from: NodeId,
        /// What it acknowledges.
        acked: Stamp,
        /// The highest ceiling announced to it in this view.
        announced: Stamp,
    },
    /// Beyond the end of all clocks.
    #[error("node {from} speaks of {stamp}, and all clocks end at {end}")]
    PastTheEnd {
        /// Who said it.
        from: NodeId,
        /// Of which stamp.
        stamp: Stamp,
        /// The end.
        end: Stamp,
    },
}

impl Violation {
    /// Who did it.
    pub const fn from(&self) -> NodeId {
        match self {
            Violation::BeyondCeilings { from, .. }
            | Violation::CeilingTooFar { from, .. }
            | Violation::NeverAnnounced { from, .. }
            | Violation::PastTheEnd { from, .. } => *from,
        }
    }
}
