//! A file with which a cluster begins anew, from a copy of its registry.
//!
//! Every voter makes the same one, as if all had taken over the same snapshot: so they need not agree on where the log begins.

use std::io;
use std::path::{Path, PathBuf};

use oarlock_cluster::registry::{Registry, Role};
use oarlock_layout::codec::Writer;
use oarlock_layout::id::NodeId;
use oarlock_layout::message::raft::{Leadership, Voters};

use super::*;

/// Of which beginning of the cluster the file is; missing if of the founding.
const RESTORATION: &str = "restoration";

impl Store {
    /// Of which beginning it is, if not of the founding.
    pub(in crate::coordinator::raft) fn restoration(&self) -> io::Result<Option<u64>> {
        let Some(bytes) = self.mark(RESTORATION)? else { return Ok(None) };
        let number = bytes.try_into().map_err(|_| self.failed("restoration has another length"))?;
        Ok(Some(u64::from_le_bytes(number)))
    }

    /// Notes of which beginning a log is that is still empty.
    pub(in crate::coordinator::raft) fn begin_of(&self, restoration: u64) -> io::Result<()> {
        self.write(|txn| {
            let number = sealed(&restoration.to_le_bytes());
            txn.open_table(MARKS)?.insert(RESTORATION, number.as_slice())?;
            Ok(())
        })
    }

    /// Makes a file that begins with `registry`, in the place of whatever is at `path`, which is kept beside it, unless something
    /// from before an earlier beginning anew is kept there. Returns where.
    /// The file is whole, or nothing has changed.
    pub(in crate::coordinator::raft) fn begin_anew(
        path: &Path,
        registry: &Registry,
    ) -> io::Result<Option<PathBuf>> {
        let beside = path.with_extension("anew");
        let made = Store::make_anew(&beside, registry);
        let placed = made.and_then(|()| put_in_place(&beside, path));
        if placed.is_err() {
            // It may not be there at all.
            let _ = std::fs::remove_file(&beside);
        }
        placed
    }

    fn make_anew(beside: &Path, registry: &Registry) -> io::Result<()> {
        match std::fs::remove_file(beside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let store = Store::on(Database::create(beside).map_err(io::Error::other)?, beside)?;
        let voters: Vec<NodeId> =
            registry.members().filter(|m| m.role == Role::Voter).map(|m| m.node).collect();
        let first = *voters.first().ok_or_else(|| io::Error::other("the registry has no voters"))?;
        // As if that one had been elected once, and had decided one thing.
        let leadership = Leadership { term: 1, node: first };
        let last = LogId { leadership, index: 0 };
        let nodes = registry.members().map(|m| m.node).collect();
        let voters = VotersAt { id: Some(last), voters: Voters { configs: vec![voters], nodes } };
        let mut snapshot = Vec::new();
        let mut out = Writer::new(&mut snapshot);
        out.option(Some(&last), |out, id| id.encode(out));
        voters.encode(&mut out);
        out.raw(&registry.snapshot());
        let restoration = registry.restoration().expect("it begins anew").to_le_bytes();
        let marks = [
            ("ballot", Ballot { leadership, committed: true }.to_bytes()),
            ("snapshot", snapshot),
            ("purged", last.to_bytes()),
            ("committed", last.to_bytes()),
            (RESTORATION, restoration.to_vec()),
        ];
        store.write(|txn| {
            let mut table = txn.open_table(MARKS)?;
            for (name, bytes) in &marks {
                table.insert(*name, sealed(bytes).as_slice())?;
            }
            Ok(())
        })?;
        store.fits_together()
    }
}

fn put_in_place(beside: &Path, path: &Path) -> io::Result<Option<PathBuf>> {
    let before = path.with_extension("before");
    let kept = match std::fs::hard_link(path, &before) {
        Ok(()) => Some(before),
        // Of an earlier beginning anew: what the cluster had before that is kept there, and nowhere else.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Some(before),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    std::fs::rename(beside, path)?;
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    std::fs::File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(kept)
}
