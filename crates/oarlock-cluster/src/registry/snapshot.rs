//! The whole registry as bytes, for a node that was away too long and for backups.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use oarlock_layout::codec::{Malformed, Reader, Writer};
use oarlock_layout::id::SpaceId;
use oarlock_layout::limit::NODES_MAX;
use oarlock_layout::stamp::Stamp;
use oarlock_layout::view::View;

use super::Registry;
use super::fields::{Field, record};
use super::record::{Change, ClusterId, Fence, MemberRecord, Proof, Space, Token};

/// Longest snapshot: what the bounds of all records come to is below.
pub const SNAPSHOT_BYTES_MAX: usize = 4 << 20;

record! {
    /// As it travels.
    struct Snapshot, "snapshot", at most 1, {
        /// None before there is a cluster.
        1 => cluster: Option<ClusterId>,
        /// Changes so far.
        2 => revision: u64,
        /// By id.
        3 => members: Vec<MemberRecord>,
        /// By serial.
        4 => tokens: Vec<Token>,
        /// Of the last token ever made.
        5 => last_token: u64,
        /// Who is in.
        6 => view: View,
        /// Oldest first.
        7 => history: Vec<Change>,
        /// By node and run.
        8 => fences: Vec<Fence>,
        /// By id.
        9 => spaces: Vec<Space>,
        /// Highest id ever given.
        10 => last_space: SpaceId,
        /// No clock has gone beyond.
        11 => watermark: Stamp,
        /// No clock of an earlier view has gone beyond.
        12 => floor: Stamp,
        /// Which beginning, if not the founding.
        13 => restoration: Option<u64>,
        /// Oldest first.
        20 => proofs: Vec<Proof>,
    }
}

/// Why bytes are no snapshot that this version may go on from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RestoreError {
    /// They do not read as one, or hold something of a later version that must not be ignored.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// They read well, and contradict themselves.
    #[error("the snapshot contradicts itself: {0}")]
    Contradiction(&'static str),
}

impl Registry {
    /// All of it. Equal registries have equal bytes.
    pub fn snapshot(&self) -> Vec<u8> {
        let snapshot = Snapshot {
            cluster: self.cluster,
            revision: self.revision,
            members: self.members.values().cloned().collect(),
            tokens: self.tokens.values().cloned().collect(),
            last_token: self.last_token,
            view: self.view.clone(),
            history: self.history.clone(),
            fences: self.fences.values().cloned().collect(),
            spaces: self.spaces.values().cloned().collect(),
            last_space: self.last_space,
            watermark: self.watermark,
            floor: self.floor,
            restoration: self.restoration,
            proofs: self.proofs.clone(),
        };
        let mut bytes = Vec::new();
        snapshot.put(&mut Writer::new(&mut bytes));
        assert!(bytes.len() <= SNAPSHOT_BYTES_MAX, "the bounds of the records keep a snapshot below its own");
        bytes
    }

    /// The registry that [`snapshot`](Registry::snapshot) was taken of.
    ///
    /// # Errors
    /// See [`RestoreError`]. A node that cannot restore must not serve.
    pub fn restore(bytes: &[u8]) -> Result<Registry, RestoreError> {
        if bytes.len() > SNAPSHOT_BYTES_MAX {
            let (value, max) = (bytes.len() as u64, SNAPSHOT_BYTES_MAX as u64);
            return Err(Malformed::TooMany { field: "size of a snapshot", value, max }.into());
        }
        let mut r = Reader::new(bytes);
        let s = Snapshot::take(&mut r, "snapshot")?;
        r.end().map_err(RestoreError::from)?;
        let registry = Registry {
            cluster: s.cluster,
            revision: s.revision,
            members: by(s.members, |m| m.node, "members are out of order")?,
            tokens: by(s.tokens, |t| t.serial, "join tokens are out of order")?,
            last_token: s.last_token,
            view: s.view,
            history: s.history,
            fences: by(s.fences, |f| (f.node, f.incarnation), "fences are out of order")?,
            spaces: by(s.spaces, |s| s.id, "lockspaces are out of order")?,
            last_space: s.last_space,
            watermark: s.watermark,
            floor: s.floor,
            restoration: s.restoration,
            proofs: s.proofs,
        };
        match registry.contradiction() {
            Some(what) => Err(RestoreError::Contradiction(what)),
            None => Ok(registry),
        }
    }

    /// What no sequence of commands leads to; checked wherever a registry comes from bytes.
    fn contradiction(&self) -> Option<&'static str> {
        let ascending = self.view.members.windows(2).all(|w| w[0].node < w[1].node);
        let entered = |m: &oarlock_layout::view::Member| {
            self.members.get(&m.node).is_some_and(|r| !r.left && r.entered == m.incarnation)
        };
        let known = |f: &Fence| self.members.get(&f.node).is_some_and(|r| f.incarnation <= r.entered);
        let rules: [(bool, &'static str); 10] = [
            (self.members.keys().all(|n| usize::from(n.0) < NODES_MAX), "a node id is too large"),
            (ascending, "members of the view are out of order"),
            (super::fits(self.view.epoch), "the epoch does not fit a token"),
            (self.view.members.iter().all(entered), "the view names a run that never entered"),
            (
                self.history.last().is_none_or(|c| c.view == self.view),
                "the view is not the last of the history",
            ),
            (self.fences.values().all(known), "a fence names a run that never entered"),
            (self.fences.values().all(|f| !f.needs.is_empty()), "a fence needs nothing"),
            (self.tokens.keys().all(|t| *t <= self.last_token), "a join token is from the future"),
            (self.spaces.keys().all(|s| *s <= self.last_space), "a lockspace is from the future"),
            (self.floor <= self.watermark && self.watermark <= Stamp::MAX, "the watermark is out of range"),
        ];
        rules.iter().find(|(holds, _)| !holds).map(|(_, what)| *what)
    }
}

/// Items by key, which must ascend: each once, and only one way to write them.
fn by<K: Ord + Copy, T>(
    items: Vec<T>,
    key: impl Fn(&T) -> K,
    otherwise: &'static str,
) -> Result<BTreeMap<K, T>, RestoreError> {
    if items.windows(2).all(|w| key(&w[0]) < key(&w[1])) {
        Ok(items.into_iter().map(|item| (key(&item), item)).collect())
    } else {
        Err(RestoreError::Contradiction(otherwise))
    }
}
