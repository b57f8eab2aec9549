//! What an honest peer never sends while a view forms.

use oarlock_layout::id::{Epoch, Incarnation, NodeId};

/// A peer's misdeed. Nothing was changed by the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The sender is not in the configuration.
    #[error("node {from} is not a member of this cluster")]
    NotAMember {
        /// Who sent it.
        from: NodeId,
    },
    /// A message on a circuit that was never reported up.
    #[error("node {from} speaks about forming before its circuit is up")]
    Unannounced {
        /// Who sent it.
        from: NodeId,
    },
    /// Only the member with the lowest id proposes and commits.
    #[error("node {from} acts as proposer, but that is the part of node {lowest}")]
    NotTheProposer {
        /// Who sent it.
        from: NodeId,
        /// Who may.
        lowest: NodeId,
    },
    /// A proposed view lists other members than the configuration.
    #[error("the view of epoch {epoch} lists other members than the configuration")]
    OtherMembers {
        /// Of the proposed view.
        epoch: Epoch,
    },
    /// A proposed view names a run of this node or of the proposer that is not the one on this circuit.
    #[error("the view of epoch {epoch} names run {named} of node {node}, the circuit is with run {actual}")]
    OtherRun {
        /// Of the proposed view.
        epoch: Epoch,
        /// Whose run.
        node: NodeId,
        /// The run it names.
        named: Incarnation,
        /// The run that is there.
        actual: Incarnation,
    },
    /// A proposed epoch is not above everything this node has stored: tokens could repeat (R6).
    #[error("epoch {proposed} is proposed although {stored} is stored here")]
    EpochNotHigher {
        /// What came.
        proposed: Epoch,
        /// What is stored here.
        stored: Epoch,
    },
    /// An epoch that does not fit the top of a token (R6).
    #[error("epoch {epoch} does not fit a token")]
    EpochTooLarge {
        /// What came.
        epoch: Epoch,
    },
    /// A commit of a view that this node has not accepted.
    #[error("epoch {epoch} is committed, but this node has not accepted it")]
    NotAccepted {
        /// What came.
        epoch: Epoch,
    },
    /// An answer to a proposal that was never made.
    #[error("epoch {epoch} is accepted, but it was not proposed")]
    NotProposed {
        /// What came.
        epoch: Epoch,
    },
}
