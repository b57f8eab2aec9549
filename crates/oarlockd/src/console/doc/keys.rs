//! Keys, as documents. Only public halves and fingerprints are in them.

use serde::{Deserialize, Serialize};

/// The keys of a cluster as a node has them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Keys {
    /// [`VERSION`](super::VERSION).
    pub v: u32,
    /// The node that answers.
    pub node: String,
    /// The public half of the key with which it proves itself, as key files have it.
    pub public_key: String,
    /// When that was made, in seconds since 1970; none for a node's first key.
    pub made: Option<u64>,
    /// Tells one cluster secret from another, and says nothing about it.
    pub secret: String,
    /// How far the change of this node's key is; none if it is not being changed.
    pub rotation: Option<Rotation>,
    /// By which keys members are let in.
    pub members: Vec<MemberKey>,
    /// Join tokens that are out.
    pub tokens: usize,
}

/// A change of a node's key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rotation {
    /// `made`: the next key is on this disk. `announced`: the cluster knows it. `used`: this node proves itself with it. `taken`:
    /// the one before is good for nothing any more.
    pub phase: String,
    /// The public half of the key that comes, or has come.
    pub public_key: String,
    /// What it waits for, for people; empty if for nothing.
    pub waits: String,
    /// What went wrong last, if it does not go on.
    pub problem: Option<String>,
}

/// How a member is known.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberKey {
    /// Its name.
    pub node: String,
    /// The public half of its key.
    pub public_key: String,
    /// When that was made, in seconds since 1970; none for a member's first key.
    pub made: Option<u64>,
    /// The key to which it changes; it is let in by either.
    pub next: Option<String>,
    /// Members that have not said yet that they know that one.
    pub unaware: Vec<String>,
}
