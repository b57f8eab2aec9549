//! The part of the configuration that must be the same on every member, as one number that circuits
//! exchange and compare.
//!
//! ```text
//!     63          48 47          32 31          16 15           0
//!    ┌──────────────┬──────────────┬──────────────┬──────────────┐
//!    │   cluster    │   members    │  lockspaces  │  all of it   │
//!    └──────────────┴──────────────┴──────────────┴──────────────┘
//! ```
//!
//! Four hashes side by side instead of one: whoever sees two numbers that differ can name the part that
//! differs. Two different members lists that share their 16 bits still differ in the last 16.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

use super::{Config, Given};

/// The number, and its parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shared(pub u64);

impl Shared {
    pub(super) fn of(config: &Config) -> Shared {
        // One line per fact; names cannot contain spaces or line ends, so no two configurations look alike.
        let mut cluster = format!("cluster {}\n", config.cluster);
        // Members reach etcd by endpoints of their own, but its order must be the same one.
        if let Some(etcd) = &config.etcd {
            cluster += &format!("etcd {}\n", etcd.prefix);
        }
        let mut members = String::new();
        for m in &config.members {
            members += &format!("member {} {} {}\n", m.name, m.address, crate::host::key::print(&m.key));
        }
        let mut spaces = String::new();
        for s in &config.spaces {
            spaces += &format!("space {} {} {} {}", s.name, s.order.name(), s.retain, s.resources_max);
            // To whom it is given is said only if it was: a cluster that does not say can be upgraded node by node.
            if s.given != Given::default() {
                let Given { owner, group, mode, nodes } = &s.given;
                let named = |name: &Option<String>| name.clone().unwrap_or_default();
                let nodes = nodes.as_ref().map_or("-".into(), |nodes| nodes.join(","));
                spaces += &format!(" given :{}:{}:{mode:03o}:{nodes}", named(owner), named(group));
            }
            spaces.push('\n');
        }
        // What a verdict asks for must be the same whoever passes it. How a member brings it about is its own affair.
        let fencing: String = config.fencing.iter().map(|it| format!("fence {}\n", it.name)).collect();
        let part = |text: &str| xxh3_64(text.as_bytes()) & 0xffff;
        let all = [cluster.as_str(), &members, &spaces, &fencing].concat();
        Shared(
            part(&cluster) << 48 | part(&members) << 32 | part(&spaces) << 16 | xxh3_64(all.as_bytes()) >> 48,
        )
    }

    /// The parts, by the key that they come from.
    pub fn parts(self) -> [(&'static str, u16); 3] {
        [
            ("[cluster]", (self.0 >> 48) as u16),
            ("[[member]]", (self.0 >> 32) as u16),
            ("[[space]]", (self.0 >> 16) as u16),
        ]
    }

    /// The keys in which two configurations differ; empty if they are the same.
    pub fn differing(self, other: Shared) -> Vec<&'static str> {
        if self == other {
            return Vec::new();
        }
        let pairs = self.parts().into_iter().zip(other.parts());
        let keys: Vec<_> = pairs.filter(|(a, b)| a.1 != b.1).map(|(a, _)| a.0).collect();
        // Only the overall part differs: what has no part of its own (or, once in 65,536, two texts that share theirs).
        if keys.is_empty() { vec!["[fencing] order"] } else { keys }
    }
}

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
