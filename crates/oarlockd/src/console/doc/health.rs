//! How well a node is.

use serde::{Deserialize, Serialize};

/// How well a node is, matter by matter.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Health {
    /// Version of all documents.
    pub v: u32,
    /// Name of the node that answers.
    pub node: String,
    /// Name of its cluster.
    pub cluster: String,
    /// The worst of all.
    pub grade: Grade,
    /// One after the other.
    pub matters: Vec<Matter>,
}

/// How well one matter is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Matter {
    /// What it is about.
    pub matter: String,
    /// How it is.
    pub grade: Grade,
    /// What `oarlock explain` knows about it, if it is not well.
    pub code: Option<String>,
    /// What was found.
    pub found: String,
}

/// From good to bad.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Ok,
    /// The node serves, but somebody should look at it.
    Warn,
    /// The node does not serve, or soon may not.
    Bad,
}

impl Grade {
    /// As people see it.
    pub const fn name(self) -> &'static str {
        match self {
            Grade::Ok => "ok",
            Grade::Warn => "WARN",
            Grade::Bad => "BAD",
        }
    }
}
