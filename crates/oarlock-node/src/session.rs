//! The programs of this node, one session each (M12).

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use oarlock_layout::id::{SessionId, SharedHandle, SpaceId};

use crate::rights::Who;

/// One attachment of a program.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Session {
    /// Process that opened it, 0 if not known.
    pub(crate) pid: u32,
    /// Whose process that is.
    pub(crate) who: Who,
    /// What it calls itself.
    pub(crate) label: String,
    /// It has said hello.
    pub(crate) greeted: bool,
    /// Its locks, held or waiting, by its own number for them. Those in entries of a segment are not among them.
    pub(crate) locks: BTreeMap<u32, SpaceId>,
    /// The lockspaces in whose segments it has a place, in the order in which it asked for them.
    pub(crate) attached: Vec<SpaceId>,
    /// It says that it touches no segment any more.
    pub(crate) detached: bool,
}

impl Session {
    /// The lockspace of one of its locks.
    pub(crate) fn space_of(&self, handle: u32) -> Option<SpaceId> {
        match SharedHandle::of(handle) {
            Some(shared) => self.attached.get(usize::from(shared.segment)).copied(),
            None => self.locks.get(&handle).copied(),
        }
    }
}

/// All sessions of a node.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sessions {
    sessions: BTreeMap<SessionId, Session>,
}

impl Sessions {
    pub(crate) fn open(&mut self, id: SessionId, pid: u32, who: Who) {
        let old = self.sessions.insert(id, Session { pid, who, ..Session::default() });
        assert!(old.is_none(), "session {id} is opened twice; numbers are not reused");
    }

    pub(crate) fn get(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions.get_mut(&id)
    }

    pub(crate) fn close(&mut self, id: SessionId) -> Option<Session> {
        self.sessions.remove(&id)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.sessions.keys().copied()
    }

    /// Lockspaces that any of them has to do with.
    pub(crate) fn spaces(&self) -> impl Iterator<Item = &SpaceId> + '_ {
        self.sessions.values().flat_map(|session| session.locks.values().chain(&session.attached))
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }
}
