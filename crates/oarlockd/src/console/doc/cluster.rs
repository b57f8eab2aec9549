//! Documents about the cluster: how views came into effect, what the coordinator keeps, what was changed by hand.

use serde::{Deserialize, Serialize};

/// How the last views came into effect at a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failovers {
    /// Version of all documents.
    pub v: u32,
    /// Name of the node that answers.
    pub node: String,
    /// The oldest first.
    pub failovers: Vec<Failover>,
}

/// How one view came into effect at a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failover {
    /// Which view.
    pub epoch: u32,
    /// Since when it is valid at the node, as RFC 3339 has it.
    pub at: String,
    /// For how long.
    pub age_us: u64,
    /// `granting`, `under_way`, or `overtaken` if another view came before masters granted.
    pub state: String,
    /// Runs that left, as the node knew them.
    pub out: Vec<Departed>,
    /// Runs that came.
    pub entered: Vec<Run>,
    /// The barriers passed so far, in order.
    pub barriers: Vec<Passed>,
    /// The barrier that took longest.
    pub slowest: Option<String>,
    /// What is waited for, while it is under way.
    pub waits: Option<Waits>,
    /// How long after the beginning masters granted again.
    pub granted_us: Option<u64>,
}

/// One run of a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Which node.
    pub node: String,
    /// Which run of it.
    pub incarnation: u64,
}

/// A run that is out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Departed {
    /// Which.
    #[serde(flatten)]
    pub run: Run,
    /// `lease_over`, `surrendered`, `partition` or `by_hand`; none if the registry does not remember it any more.
    pub basis: Option<String>,
    /// The same for people.
    pub why: String,
}

/// A barrier that was passed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Passed {
    /// `arrived`, `stated`, `restated` or `fenced`.
    pub barrier: String,
    /// How long after the view was valid.
    pub after_us: u64,
    /// How long after the barrier before it.
    pub step_us: u64,
    /// The member that was last to do its part; none where there is nothing to do for members.
    pub last: Option<String>,
}

/// What a view waits for before masters grant.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Waits {
    /// At which barrier.
    pub barrier: String,
    /// Members whose part is missing.
    pub missing: Vec<String>,
}
