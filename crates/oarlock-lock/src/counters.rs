//! What is counted: every mechanism has a number that tests assert and people watch (Z6).

use crate::waits::Waits;

/// What brought a grant to a program about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum How {
    /// What the node owned already: it was granted at once, without a message.
    Retained,
    /// It waited, and a program of this node gave something back or ceased to wait.
    #[default]
    Local,
    /// It waited for a message of the master, which may be this node itself.
    Master,
    /// It waited, and was granted past a nearer request of this node that did not fit.
    Passover,
}

impl How {
    /// All, in the order of [`Counters::grants`].
    pub const ALL: [How; 4] = [How::Retained, How::Local, How::Master, How::Passover];

    /// One word for people.
    pub const fn name(self) -> &'static str {
        match self {
            How::Retained => "retained",
            How::Local => "local",
            How::Master => "master",
            How::Passover => "passover",
        }
    }
}

/// Counters of one lockspace on one node. Messages to oneself are function calls and count as none (C3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counters {
    /// Locks granted to programs of this node, conversions included.
    pub local_grants: u64,
    /// Of these, granted without waiting for any message.
    pub covered_grants: u64,
    /// Statements sent.
    pub info_sent: u64,
    /// Of these, statements that ask for a stronger mode (C2).
    pub upgrade_sent: u64,
    /// Statements discarded because the master had moved on (3.6).
    pub info_stale: u64,
    /// Grants sent by masters here.
    pub grant_sent: u64,
    /// Grants received.
    pub grant_received: u64,
    /// Of these, for requests that had been withdrawn (X1).
    pub grant_unwanted: u64,
    /// Refusals sent by masters here.
    pub deny_sent: u64,
    /// Head notices sent.
    pub head_sent: u64,
    /// Heads that went away, as heard (X4).
    pub head_cleared: u64,
    /// Local requests held back because of a head (C13).
    pub head_refusals: u64,
    /// Grants past a nearer request that did not fit (C9, C10).
    pub passover_grants: u64,
    /// Grants of more than was wanted, because the request hinted at it and nobody else was there (C20).
    pub anticipatory_granted: u64,
    /// Releases after which less was needed than owned (C15).
    pub proactive_considered: u64,
    /// Of these, those after which the node lowered what it owns (C16).
    pub proactive_done: u64,
    /// Records given up.
    pub forget_sent: u64,
    /// Shadows that stated anew under another view (X11).
    pub restated: u64,
    /// Resources handed over to the master of another view.
    pub handover_sent: u64,
    /// Conversions refused because they would wait for each other (D9).
    pub deadlock_victims: u64,
    /// Blocking notices given to programs.
    pub notices: u64,
    /// Messages of an epoch that is over (X11).
    pub stale_epoch: u64,
    /// Bytes that no honest peer sends.
    pub violations: u64,
    /// Messages a master here and the shadow beside it exchanged without a circuit.
    pub messages_inside: u64,
    /// The grants by what brought each about, in the order of [`How::ALL`]; together `local_grants`.
    pub grants: [u64; How::ALL.len()],
    /// How long those of them had waited that were not granted at once.
    pub waits: Waits,
}

impl Counters {
    /// Messages sent to other nodes.
    pub const fn messages_sent(&self) -> u64 {
        self.info_sent
            + self.grant_sent
            + self.deny_sent
            + self.head_sent
            + self.forget_sent
            + self.handover_sent
    }

    /// The same by type.
    pub fn messages_by_type(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("info", self.info_sent),
            ("grant", self.grant_sent),
            ("deny", self.deny_sent),
            ("head", self.head_sent),
            ("forget", self.forget_sent),
            ("handover", self.handover_sent),
        ]
        .into_iter()
    }

    /// The grants by what brought each about.
    pub fn grants_by_how(&self) -> impl Iterator<Item = (&'static str, u64)> {
        How::ALL.map(How::name).into_iter().zip(self.grants)
    }

    /// Name, explanation and value of each plain count, in the order above.
    pub fn list(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        [
            ("local_grants", "Locks granted to programs of this node", self.local_grants),
            ("covered_grants", "Grants that waited for no message", self.covered_grants),
            ("info_sent", "Statements sent to masters", self.info_sent),
            ("upgrade_sent", "Statements that asked for a stronger mode", self.upgrade_sent),
            ("info_stale", "Statements discarded because the master had moved on", self.info_stale),
            ("grant_sent", "Grants sent to shadows", self.grant_sent),
            ("grant_received", "Grants received from masters", self.grant_received),
            ("grant_unwanted", "Grants for requests that had been withdrawn", self.grant_unwanted),
            ("deny_sent", "Refusals sent to shadows", self.deny_sent),
            ("head_sent", "Head notices sent to shadows", self.head_sent),
            ("head_cleared", "Heads that went away", self.head_cleared),
            ("head_refusals", "Local requests held back because of a head", self.head_refusals),
            ("passover_grants", "Grants past a nearer request that did not fit", self.passover_grants),
            (
                "anticipatory_granted",
                "Grants of more than was wanted, as the request hinted",
                self.anticipatory_granted,
            ),
            ("proactive_considered", "Releases that left less needed than owned", self.proactive_considered),
            ("proactive_done", "Owned modes lowered without being asked", self.proactive_done),
            ("forget_sent", "Records given up or confirmed gone", self.forget_sent),
            ("restated", "Shadows that stated anew under another view", self.restated),
            ("handover_sent", "Resources handed over to another master", self.handover_sent),
            ("deadlock_victims", "Conversions refused as deadlocks", self.deadlock_victims),
            ("blocking_notices", "Blocking notices given to programs", self.notices),
            ("stale_epoch", "Lock messages of an epoch that is over", self.stale_epoch),
            ("lock_violations", "Lock messages that no honest peer sends", self.violations),
            (
                "lock_messages_inside",
                "Messages between a master and the shadow beside it",
                self.messages_inside,
            ),
        ]
        .into_iter()
    }
}
