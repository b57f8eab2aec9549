//! What of a configuration a run cannot change. Everything else counts from the next start, also from one that keeps all locks.

use super::{Config, Shared};
use crate::host::key;

impl Config {
    /// By key: what must read the same when another engine goes on with a run.
    pub fn fixed(&self) -> Vec<(String, String)> {
        let etcd = self.etcd.as_ref().map_or("raft".into(), |etcd| format!("etcd {}", etcd.prefix));
        let spaces = self
            .spaces
            .iter()
            .map(|it| format!("{} {} {} {}", it.name, it.order.name(), it.retain, it.resources_max));
        let fences: Vec<&str> = self.fencing.iter().map(|it| it.name.as_str()).collect();
        let all = [
            ("[cluster] name", self.cluster.clone()),
            ("[node] name", self.name().into()),
            ("[node] listen", self.listen.to_string()),
            ("[node] socket", self.socket.display().to_string()),
            ("[node] data_dir", self.data_dir.display().to_string()),
            ("[node] key_file", key::print(&self.node.key)),
            ("[circuit] offload", self.offload.to_string()),
            ("[node] segments", self.segments.to_string()),
            ("[node] shards", self.shards.to_string()),
            ("[cluster] coordinator", etcd),
            ("[[space]]", spaces.collect::<Vec<_>>().join("; ")),
            ("[fencing] order", fences.join(" ")),
            // Members, owners and rights among others.
            ("what all members agree on", Shared::of(self).to_string()),
        ];
        all.into_iter().map(|(key, value)| (key.into(), value)).collect()
    }
}
