//! Locks that outlive their session: how they are left behind, adopted, and purged (scenarios 37 to 40).
//!
//! The lock room knows a lock by the number that its first session gave it, for as long as it lives. Whoever adopts it calls it
//! by a number of its own; the hall translates, in [`Node::lock_of`] on the way in and [`Orphans::whose`] on the way out.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{LockId, SessionId, SpaceId};
use oarlock_layout::limit::ORPHANS_MAX;
use oarlock_layout::message::session::{Granted, LockRequest, Reply};
use oarlock_layout::mode::Mode;
use oarlock_layout::time::Instant;

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

/// The locks of a node that have outlived the session that made them.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Orphans {
    orphans: BTreeMap<LockId, Orphan>,
    /// Those that were adopted: by whom, and under which number.
    adopted: BTreeMap<LockId, (SessionId, u32)>,
}

impl Orphans {
    pub(crate) fn get(&self, lock: LockId) -> Option<&Orphan> {
        self.orphans.get(&lock)
    }

    /// No more of them may be left behind.
    pub(crate) fn are_many(&self) -> bool {
        self.orphans.len() >= ORPHANS_MAX
    }

    pub(crate) fn len(&self) -> usize {
        self.orphans.len()
    }

    /// The session that has a lock now, and its number for it.
    pub(crate) fn whose(&self, lock: LockId) -> (SessionId, u32) {
        self.adopted.get(&lock).copied().unwrap_or((lock.session(), lock.handle()))
    }

    /// A lock is gone.
    pub(crate) fn forget(&mut self, lock: LockId) {
        self.orphans.remove(&lock);
        self.adopted.remove(&lock);
    }

    /// Is all of it about lockspaces that are there, and sessions that have what was adopted?
    pub(crate) fn fits(&self, spaces: usize, has: impl Fn(SessionId, u32, LockId) -> bool) -> bool {
        self.orphans.values().all(|orphan| usize::from(orphan.space.0) < spaces)
            && self.adopted.iter().all(|(lock, (session, handle))| has(*session, *handle, *lock))
    }
}

impl Node {
    /// What the lock room calls a lock of a session.
    pub(crate) fn lock_of(&self, session: SessionId, handle: u32) -> LockId {
        let adopted = self.sessions.get(session).and_then(|known| known.adopted.get(&handle));
        adopted.copied().unwrap_or(LockId::new(session, handle))
    }

    /// The locks of a session that was closed are taken from it. What was granted to outlive it waits for somebody who adopts it
    /// (37); all else goes, as by force.
    pub(crate) fn leave_behind(&mut self, now: Instant, session: SessionId, ended: &Session) {
        let orphan = |space: SpaceId| Orphan { space, pid: ended.pid, label: ended.label.clone() };
        for (handle, lock) in &ended.adopted {
            let space = ended.locks[handle];
            let Space { locks, words } = &mut self.spaces[usize::from(space.0)];
            self.orphans.adopted.remove(lock);
            let stays = words.entry(*lock).is_some_and(|entry| entry.claim.flags.contains(Flags::PERSISTENT));
            let request = match stays {
                // A change of mode that it waits for is withdrawn; the lock stands as before.
                true => oarlock_lock::Request::Cancel(*lock),
                false => oarlock_lock::Request::Drop(*lock),
            };
            locks.handle_request(now, words.as_mut(), request);
            if stays {
                self.orphans.orphans.insert(*lock, orphan(space));
            }
        }
        let mut spaces: Vec<SpaceId> = ended.locks.values().chain(&ended.attached).copied().collect();
        spaces.sort();
        spaces.dedup();
        for space in spaces {
            let Space { locks, words } = &mut self.spaces[usize::from(space.0)];
            locks.handle_request(now, words.as_mut(), oarlock_lock::Request::End(session));
            for lock in words.of_session(session) {
                self.orphans.orphans.insert(lock, orphan(space));
            }
            if ended.detached {
                words.bury(session);
            }
        }
    }

    /// A session takes an orphan over: of this name, in this mode. It is held all the time, so nobody else is asked. What the
    /// request says about notices, deadlocks and outliving counts from now on.
    pub(crate) fn adopt(&mut self, session: SessionId, m: &LockRequest) -> Result<(), (Code, String)> {
        let words = &mut self.spaces[usize::from(m.space.0)].words;
        let held = words.find(&m.name).map_or(Vec::new(), |slot| words.entries(slot));
        let orphans = || held.iter().filter(|entry| self.orphans.get(entry.claim.lock).is_some());
        let Some(found) = orphans().find(|entry| entry.mode == m.mode) else {
            let modes: Vec<Mode> = orphans().map(|entry| entry.mode).collect();
            return Err(match modes.first() {
                None => {
                    (Code::NoOrphan, "nobody has left a lock on this resource behind at this node".into())
                }
                Some(mode) => (
                    Code::OrphanMode,
                    format!("what was left behind here is held in {mode}, not in {}", m.mode),
                ),
            });
        };
        let (lock, mode, token, told) = (found.claim.lock, found.mode, found.token, found.told);
        words.set_manner(lock, m.flags);
        self.orphans.orphans.remove(&lock);
        self.orphans.adopted.insert(lock, (session, m.handle));
        let known = self.sessions.get_mut(session).expect("a session that asks is open");
        known.locks.insert(m.handle, m.space);
        known.adopted.insert(m.handle, lock);
        let handle = m.handle;
        self.reply(session, &Reply::Granted(Granted { handle, mode, token, value: None, alternate: false }));
        // Nobody was there to hear it.
        if let Some(wanted) = told.filter(|_| !m.flags.contains(Flags::NOBAST)) {
            self.reply(session, &Reply::Blocking { handle, wanted });
        }
        Ok(())
    }

    /// Gives back the orphans of this node whose resources' names begin like this, and that this process left behind if one is
    /// named; as by force, so that those in EX and PW spoil the value block (40). Tells how many.
    pub fn purge(&mut self, now: Instant, space: SpaceId, prefix: &[u8], pid: Option<u32>) -> usize {
        let Space { locks, words } = &mut self.spaces[usize::from(space.0)];
        let theirs = self
            .orphans
            .orphans
            .iter()
            .filter(|(_, orphan)| orphan.space == space && pid.is_none_or(|pid| orphan.pid == pid));
        let named = |lock: LockId| {
            words.entry(lock).is_some_and(|entry| words.name(entry.slot).as_bytes().starts_with(prefix))
        };
        let purged: Vec<LockId> = theirs.map(|(lock, _)| *lock).filter(|lock| named(*lock)).collect();
        for lock in &purged {
            self.orphans.forget(*lock);
            locks.handle_request(now, words.as_mut(), oarlock_lock::Request::Drop(*lock));
        }
        purged.len()
    }
}
