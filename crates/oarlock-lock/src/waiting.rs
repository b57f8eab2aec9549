//! Local requests that wait, in their two queues.

use alloc::collections::VecDeque;

use oarlock_layout::flags::Flags;
use oarlock_layout::id::{LockId, OwnerId, TransactionId};
use oarlock_layout::message::lock::Kind;
use oarlock_layout::mode::Mode;
use oarlock_layout::time::Instant;

/// A local request that was not granted at once.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Waiting {
    pub(crate) lock: LockId,
    pub(crate) mode: Mode,
    pub(crate) alternate: Option<Mode>,
    /// The mode it holds meanwhile, if it converts.
    pub(crate) from: Option<Mode>,
    pub(crate) flags: Flags,
    pub(crate) owner: OwnerId,
    pub(crate) transaction: TransactionId,
    pub(crate) since: Instant,
    pub(crate) deadline: Option<Instant>,
    /// Its number among the queued requests of this shadow.
    pub(crate) attempt: u64,
    /// The last statement made before it came, if it uses the value block: an answer to that one or an
    /// earlier one may be older than the request, and older than a write that was over before it (R5 e).
    pub(crate) asked_after: u64,
}

impl Waiting {
    pub(crate) fn kind(&self) -> Kind {
        if self.from.is_some() { Kind::Convert } else { Kind::New }
    }

    /// A convert that asks for no more than it has waits for nobody but an answer of the master (C11).
    pub(crate) fn in_place(&self) -> bool {
        self.from.is_some_and(|from| from.covers(self.mode))
    }

    pub(crate) fn is_try(&self) -> bool {
        self.flags.contains(Flags::NOQUEUE)
    }
}

/// The two queues of a shadow. Converts come before newcomers; both are one list when scanned.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Queues {
    pub(crate) converts: VecDeque<Waiting>,
    pub(crate) waits: VecDeque<Waiting>,
}

impl Queues {
    pub(crate) fn is_empty(&self) -> bool {
        self.converts.is_empty() && self.waits.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.converts.len() + self.waits.len()
    }

    pub(crate) fn first(&self) -> Option<&Waiting> {
        self.converts.front().or(self.waits.front())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.converts.iter().chain(&self.waits)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Waiting> {
        self.converts.iter_mut().chain(&mut self.waits)
    }

    /// Queues at the tail of its own queue, or at the front with HEADQUE (scenario 6). What may pass every
    /// queue and only waits for an answer goes to the very front (C11, scenario 3).
    pub(crate) fn push(&mut self, entry: Waiting) {
        if entry.in_place() || entry.flags.contains(Flags::EXPEDITE) {
            self.converts.push_front(entry);
            return;
        }
        let queue = match entry.kind() {
            Kind::Convert => &mut self.converts,
            Kind::New => &mut self.waits,
        };
        if entry.flags.contains(Flags::HEADQUE) {
            queue.push_front(entry);
        } else {
            queue.push_back(entry);
        }
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Waiting> {
        match index.checked_sub(self.converts.len()) {
            None => self.converts.get(index),
            Some(index) => self.waits.get(index),
        }
    }

    pub(crate) fn remove_at(&mut self, index: usize) -> Option<Waiting> {
        match index.checked_sub(self.converts.len()) {
            None => self.converts.remove(index),
            Some(index) => self.waits.remove(index),
        }
    }

    pub(crate) fn remove(&mut self, lock: LockId) -> Option<Waiting> {
        let index = self.iter().position(|e| e.lock == lock)?;
        self.remove_at(index)
    }

    /// Would this convert and one that waits already wait for each other (D9, scenarios 50, 53)? Those ahead
    /// of it wait for its granted mode; it waits for its place behind them.
    pub(crate) fn conversion_deadlock(&self, entry: &Waiting) -> bool {
        let Some(held) = entry.from else { return false };
        if entry.in_place() || entry.flags.intersects(Flags::NOQUEUE | Flags::NODLCKWT) {
            return false;
        }
        let front = entry.flags.contains(Flags::HEADQUE);
        self.converts.iter().filter(|e| !e.in_place() && !e.is_try()).any(|other| {
            if front {
                other.from.is_some_and(|held| !held.compatible(entry.mode))
            } else {
                !other.mode.compatible(held)
            }
        })
    }
}
