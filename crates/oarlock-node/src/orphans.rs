//! Locks that outlive their session: how they are left behind, adopted, and purged (scenarios 37 to 40).
//!
//! That a lock is to stay is a flag of its last grant, which the lock room and its counts keep. So what is left of a session after its
//! end are orphans: the hall remembers whose they were. Whoever adopts one has a lock like any other, by a number of its own.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{LockId, SessionId, SpaceId};
use oarlock_layout::limit::ORPHANS_MAX;
use oarlock_layout::message::session::LockRequest;
use oarlock_layout::mode::Mode;
use oarlock_layout::time::Instant;
use oarlock_lock::{Adopt, Request};

use crate::node::{Node, Space};
use crate::session::Session;

/// A lock that nobody has.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Orphan {
    /// Where it is held.
    pub(crate) space: SpaceId,
    /// The process whose it was, 0 if not known.
    pub(crate) pid: u32,
    /// What that called itself.
    pub(crate) label: String,
}

/// The locks of a node that have outlived the session that had them.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Orphans(BTreeMap<LockId, Orphan>);

impl Orphans {
    pub(crate) fn get(&self, lock: LockId) -> Option<&Orphan> {
        self.0.get(&lock)
    }

    /// No further locks may be granted that would stay.
    pub(crate) fn are_many(&self) -> bool {
        self.0.len() >= ORPHANS_MAX
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Is all of it about lockspaces that are there?
    pub(crate) fn fit(&self, spaces: usize) -> bool {
        self.0.values().all(|orphan| usize::from(orphan.space.0) < spaces)
    }
}

impl Node {
    /// The locks of a session that was closed are taken from it. What was granted to outlive it waits for somebody who adopts it
    /// (37); all else goes, as by force.
    pub(crate) fn leave_behind(&mut self, now: Instant, session: SessionId, ended: &Session) {
        let mut spaces: Vec<SpaceId> = ended.locks.values().chain(&ended.attached).copied().collect();
        spaces.sort();
        spaces.dedup();
        for space in spaces {
            let Space { locks, words } = &mut self.spaces[usize::from(space.0)];
            locks.handle_request(now, words.as_mut(), Request::End(session));
            let stays = |lock: &LockId| lock.entry().is_none() && words.entry(*lock).is_some();
            for lock in words.of_session(session).into_iter().filter(stays) {
                let orphan = Orphan { space, pid: ended.pid, label: ended.label.clone() };
                self.orphans.0.insert(lock, orphan);
            }
            if ended.detached {
                words.bury(session);
            }
        }
    }

    /// What may be adopted: held on this resource in just this mode, and nobody's.
    pub(crate) fn orphan(&self, m: &LockRequest) -> Result<LockId, (Code, String)> {
        let words = &self.spaces[usize::from(m.space.0)].words;
        let held = words.find(&m.name).map_or(Vec::new(), |slot| words.entries(slot));
        let mut other: Option<Mode> = None;
        for entry in held.iter().filter(|entry| self.orphans.get(entry.claim.lock).is_some()) {
            if entry.mode == m.mode {
                return Ok(entry.claim.lock);
            }
            other = Some(entry.mode);
        }
        Err(match other {
            None => (Code::NoOrphan, "nobody has left a lock on this resource behind at this node".into()),
            Some(mode) => {
                (Code::OrphanMode, format!("what was left behind here is held in {mode}, not in {}", m.mode))
            }
        })
    }

    /// A session takes an orphan over (38).
    pub(crate) fn adopt(&mut self, now: Instant, lock: LockId, orphan: LockId, m: LockRequest) {
        self.orphans.0.remove(&orphan);
        let known = self.sessions.get_mut(lock.session()).expect("a session that asks is open");
        known.locks.insert(lock.handle(), m.space);
        let flags = m.flags - Flags::ORPHAN;
        let request = Adopt { orphan, lock, flags, owner: m.owner, transaction: m.transaction };
        self.ask_room(now, m.space, Request::Adopt(request));
    }

    /// Gives back the orphans of this node whose resources' names begin like this, and that this process left behind if one is
    /// named; as by force, so that those in EX and PW spoil the value block (40). Tells how many.
    pub fn purge(&mut self, now: Instant, space: SpaceId, prefix: &[u8], pid: Option<u32>) -> usize {
        let Space { locks, words } = &mut self.spaces[usize::from(space.0)];
        let theirs = self
            .orphans
            .0
            .iter()
            .filter(|(_, orphan)| orphan.space == space && pid.is_none_or(|pid| orphan.pid == pid));
        let named = |lock: LockId| {
            words.entry(lock).is_some_and(|entry| words.name(entry.slot).as_bytes().starts_with(prefix))
        };
        let purged: Vec<LockId> = theirs.map(|(lock, _)| *lock).filter(|lock| named(*lock)).collect();
        for lock in &purged {
            self.orphans.0.remove(lock);
            locks.handle_request(now, words.as_mut(), Request::Drop(*lock));
        }
        purged.len()
    }
}
