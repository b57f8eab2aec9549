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
    /// What kept it from doing harm: `lease only`, `fenced by node-b`, `confirmed by hand at node-a`, `not fenced yet`. None
    /// if it gave itself up, or nobody remembers.
    #[serde(default)]
    pub fence: Option<String>,
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
    /// At `fenced`: for what, in sentences.
    #[serde(default)]
    pub fences: Vec<String>,
}

/// Who decides what the cluster agrees on, as far as a node knows.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Coordinator {
    /// Which engine: `raft` or `etcd`.
    pub engine: String,
    /// Who leads, if the node knows one.
    pub leader: Option<String>,
    /// Who votes.
    pub voters: Vec<String>,
    /// Who only follows.
    pub learners: Vec<String>,
    /// Which member of etcd the node asks first; none where the members decide.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Whether a majority of etcd answered last time.
    #[serde(default)]
    pub answers: Option<bool>,
}

/// An evicted run of which not everything is proven: what it had is granted to nobody.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fence {
    /// Which.
    #[serde(flatten)]
    pub run: Run,
    /// The first view without it.
    pub epoch: u32,
    /// What is missing.
    pub needs: Vec<Need>,
    /// The member whose turn it is to run the fence command, if one is wanted and somebody is there.
    #[serde(default)]
    pub turn: Option<String>,
    /// How often that has failed.
    #[serde(default)]
    pub tries: u32,
    /// The last failure.
    #[serde(default)]
    pub failed: Option<String>,
    /// All of it in a sentence, with what a person can do.
    #[serde(default)]
    pub text: String,
}

/// One thing that must be proven of an evicted run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Need {
    /// `lease`, `client`, `tail` or `program`.
    pub need: String,
    /// The same for people.
    pub text: String,
}

/// What the coordinator keeps, as a node has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Registry {
    /// Version of all documents.
    pub v: u32,
    /// Name of the node that answers: what it has may be behind.
    pub node: String,
    /// The name of the cluster that no other has, in hexadecimal digits; none before it was founded.
    pub cluster_id: Option<String>,
    /// Changes so far.
    pub revision: u64,
    /// The view.
    pub epoch: u32,
    /// No clock of the cluster has gone beyond this; a string, as fences are.
    pub watermark: String,
    /// Who decides.
    pub coordinator: Coordinator,
    /// Who may be in views.
    pub members: Vec<MemberRecord>,
    /// The last views and what made them, oldest first.
    pub views: Vec<Verdict>,
    /// What is still to be proven of runs that are out.
    pub fences: Vec<Fence>,
}

/// A member in the registry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Its name.
    pub node: String,
    /// Its id.
    pub id: u16,
    /// `voter` or `learner`.
    pub role: String,
    /// Where its circuits listen.
    pub address: String,
    /// The run of it that is in the view; none if it is out.
    pub view_run: Option<u64>,
    /// The latest run that entered a view; 0 if none ever did.
    pub entered: u64,
    /// Renewals of that run's lease.
    pub renewals: u64,
    /// That run gave itself up.
    pub surrendered: bool,
    /// It is to get no new work.
    pub drained: bool,
}

/// A view and what made it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Verdict {
    /// Its number.
    pub epoch: u32,
    /// Who is in it.
    pub members: Vec<Run>,
    /// Who was put out.
    pub out: Vec<Departed>,
    /// Who came in.
    pub entered: Vec<Run>,
    /// What whoever asked for it had to say.
    pub note: Option<String>,
}

/// A copy of what the coordinator keeps.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Backup {
    /// Version of all documents.
    pub v: u32,
    /// Name of the node that answers.
    pub node: String,
    /// The name of the cluster that no other has, in hexadecimal digits.
    pub cluster_id: String,
    /// Changes so far.
    pub revision: u64,
    /// The view.
    pub epoch: u32,
    /// A majority has confirmed that nothing newer was decided. Else it is what that node has.
    pub confirmed: bool,
    /// The bytes of the file, in hexadecimal digits.
    pub hex: String,
}

/// What came of a change that somebody asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Changed {
    /// Version of all documents.
    pub v: u32,
    /// Name of the node that was asked.
    pub node: String,
    /// False if it was so already.
    pub changed: bool,
    /// The view with it.
    pub epoch: u32,
    /// Who is in that.
    pub members: Vec<Run>,
    /// What is still to be proven of runs that are out.
    pub fences: Vec<Fence>,
}

/// What happened at a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Events {
    /// Version of all documents.
    pub v: u32,
    /// Name of the node that answers.
    pub node: String,
    /// Number of the oldest event that it remembers.
    pub first: u64,
    /// Those that were asked for, the oldest first.
    pub events: Vec<Event>,
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one with each, from 1 on in each run of the node.
    pub number: u64,
    /// When, as RFC 3339 has it.
    pub at: String,
    /// `info`, `warn` or `error`.
    pub level: String,
    /// Its code, if it has one.
    pub code: Option<String>,
    /// For people.
    pub text: String,
}

/// Whom a node of `oarlock dev` does not hear any more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Deafened {
    /// Version of all documents.
    pub v: u32,
    /// Name of the node that answers.
    pub node: String,
    /// Of these members it hears nothing.
    pub from: Vec<String>,
}

/// Orphans that were given back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Purged {
    /// Version of all documents.
    pub v: u32,
    /// Name of the node that answers.
    pub node: String,
    /// Name of the lockspace.
    pub space: String,
    /// How many there were.
    pub purged: u64,
}

/// Branches of a lockspace, as open at one node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Branches {
    /// Version of all documents.
    pub v: u32,
    /// Name of the node that answers.
    pub node: String,
    /// Name of the lockspace.
    pub space: String,
    /// Those that were asked about, in order of their names.
    pub branches: Vec<Branch>,
    /// Members that did not answer in time, if all were asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unanswered: Vec<String>,
    /// Members that have more of them than they said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cut: Vec<String>,
}

/// A part of a lockspace that programs of a node have opened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Branch {
    /// Its name.
    pub name: String,
    /// How often it was opened at the node that answers, and not closed; 0 if it has just gone, or is open elsewhere only.
    pub opened: u32,
    /// The nodes that have it open, if all were asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<BranchNode>>,
}

/// A node that has a branch open.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BranchNode {
    /// Its name.
    pub node: String,
    /// Its number.
    pub id: u16,
}

/// A join token that was made. The only document with a secret in it: the token itself is shown once, and never again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewToken {
    /// Version of all documents.
    pub v: u32,
    /// Its number.
    pub serial: u64,
    /// The name of the node that it lets in.
    pub node: String,
    /// What is to be given to `oarlock join`.
    pub token: String,
    /// For how long it is good.
    pub seconds: u64,
    /// The member that the node will ask.
    pub member: String,
    /// And where.
    pub address: String,
}

/// Join tokens that are out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tokens {
    /// Version of all documents.
    pub v: u32,
    /// Name of the node that answers.
    pub node: String,
    /// The oldest first.
    pub tokens: Vec<Token>,
}

/// A join token that is out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Token {
    /// Its number.
    pub serial: u64,
    /// The name of the node that it lets in.
    pub node: String,
    /// For how long it is still good, by the clock of the node that answers; 0 if it is over.
    pub seconds: u64,
}

/// A join token that was taken back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Revoked {
    /// Version of all documents.
    pub v: u32,
    /// Its number.
    pub serial: u64,
    /// False if it was out no more.
    pub changed: bool,
}

/// A node whose engine has begun anew and kept all locks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Restarted {
    /// Version of all documents.
    pub v: u32,
    /// Its name.
    pub node: String,
    /// Its run, which goes on.
    pub incarnation: u64,
    /// The version of the program before.
    pub before: String,
    /// The version of the program that serves now.
    pub now: String,
    /// For how long nobody served, in microseconds.
    pub stood_still_us: u64,
    /// Sessions that went on.
    pub sessions: u64,
}

/// A node that has left its cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Left {
    /// Version of all documents.
    pub v: u32,
    /// Its name.
    pub node: String,
    /// The name of the cluster.
    pub cluster: String,
}
