//! What may stand in a configuration file, and nothing else.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) node: Node,
    pub(super) cluster: Option<Cluster>,
    #[serde(default)]
    pub(super) member: Vec<Member>,
    #[serde(default)]
    pub(super) space: Vec<Space>,
    #[serde(default)]
    pub(super) coordinator: Engines,
    #[serde(default)]
    pub(super) circuit: Circuit,
    #[serde(default)]
    pub(super) fencing: super::fencing::Section,
    #[serde(default)]
    pub(super) log: Log,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    pub(super) name: Spanned<String>,
    pub(super) listen: Option<Spanned<String>>,
    pub(super) api: Option<Spanned<String>>,
    pub(super) socket: Option<PathBuf>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) shards: Option<Spanned<u16>>,
    #[serde(default = "yes")]
    pub(super) spin: bool,
    #[serde(default = "yes")]
    pub(super) segments: bool,
    pub(super) operators: Option<String>,
    pub(super) deadlock_search: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cluster {
    pub(super) name: Spanned<String>,
    pub(super) secret_file: PathBuf,
    #[serde(default)]
    pub(super) coordinator: Engine,
}

/// Who decides what the cluster agrees on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Engine {
    /// The members among themselves.
    #[default]
    Raft,
    /// etcd.
    Etcd,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Engines {
    pub(super) etcd: Option<Spanned<Etcd>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Etcd {
    pub(super) endpoints: Vec<String>,
    pub(super) prefix: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Member {
    pub(super) name: Spanned<String>,
    pub(super) address: Spanned<String>,
    pub(super) public_key: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Space {
    pub(super) name: Spanned<String>,
    #[serde(default)]
    pub(super) order: Order,
    pub(super) value: Option<Spanned<u64>>,
    #[serde(default = "yes")]
    pub(super) retain: bool,
    pub(super) resources_max: Option<Spanned<u32>>,
    pub(super) owner: Option<Spanned<String>>,
    pub(super) group: Option<Spanned<String>>,
    pub(super) mode: Option<Spanned<String>>,
    pub(super) nodes: Option<Spanned<Vec<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Circuit {
    #[serde(default = "yes")]
    pub(super) offload: bool,
}

impl Default for Circuit {
    fn default() -> Circuit {
        Circuit { offload: true }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    #[serde(default)]
    pub(super) level: Level,
}

/// In which order waiters of a lockspace are served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// A waiter may pass others that wait for a mode incompatible with it, within bounds.
    #[default]
    Passover,
    /// Nobody passes anybody.
    Strict,
}

impl Order {
    /// As it is written in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Order::Passover => "passover",
            Order::Strict => "strict",
        }
    }
}

/// How much is logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// What a person must look at.
    Error,
    /// What a person should look at.
    Warn,
    /// What changed.
    #[default]
    Info,
    /// Why it changed.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    /// As it is written in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }
}

const fn yes() -> bool {
    true
}
