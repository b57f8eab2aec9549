//! A fenced register: what locks protect, in the smallest form that can be harmed (L4).
//!
//! ```text
//!   a program, holding a lock ── write(resource, token, node, run) ──►┐ ┌─ last token of each resource
//!   whoever's turn it is      ── fence(node, run, epoch) ────────────►├─┤
//!                             ◄─ durable ─────────────────────────────┘ └─ highest fence of each node, in memory and on disk
//! ```
//!
//! It knows no lock, no lease and no view. It remembers the highest fence of each node and refuses every write from below it, and
//! of each resource the highest token. When it dies, it is left with what is on its disk.

use std::collections::BTreeMap;

use oarlock_layout::id::Epoch;
use oarlock_layout::token::Token;

/// A run of a node, as registers know it.
pub(crate) type Run = (u16, u64);

/// What a program writes under a lock.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    /// Which resource, as the names of the run are numbered.
    pub resource: usize,
    /// Of the grant.
    pub token: Token,
    /// At which node the program attached.
    pub by: Run,
}

/// Why a write changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    /// Its node is fenced.
    Fenced,
    /// Somebody has written under a later grant.
    Stale,
}

/// The highest fences, by node.
type Fences = BTreeMap<u16, (u64, Epoch)>;

/// One of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Register {
    fenced: Fences,
    disk: Fences,
    values: BTreeMap<usize, Token>,
}

impl Register {
    /// A fence has come. It holds from here on, and for good once it is [stored](Register::store).
    pub(crate) fn fence(&mut self, (node, run): Run, epoch: Epoch) {
        raise(&mut self.fenced, node, run, epoch);
    }

    /// It is on the disk.
    pub(crate) fn store(&mut self, (node, run): Run, epoch: Epoch) {
        raise(&mut self.disk, node, run, epoch);
    }

    /// Death and restart: what was in memory only is gone.
    pub(crate) fn crash(&mut self) {
        self.fenced.clone_from(&self.disk);
    }

    /// Changes the value of a resource, or says why not. `below`: also from below a fence, which is a planted bug.
    pub(crate) fn write(&mut self, write: &Write, below: bool) -> Result<(), Refused> {
        let (node, run) = write.by;
        if !below && self.fenced.get(&node).is_some_and(|(fenced, _)| run <= *fenced) {
            return Err(Refused::Fenced);
        }
        if self.values.get(&write.resource).is_some_and(|last| write.token < *last) {
            return Err(Refused::Stale);
        }
        self.values.insert(write.resource, write.token);
        Ok(())
    }
}

fn raise(fences: &mut Fences, node: u16, run: u64, epoch: Epoch) {
    let known = fences.entry(node).or_default();
    *known = (*known).max((run, epoch));
}

#[cfg(test)]
mod tests {
    use oarlock_layout::token::Fence;

    use super::*;

    fn write(run: u64, serial: u64) -> Write {
        let token = Token { fence: Fence::new(Epoch(1), serial), local: 0 };
        Write { resource: 7, token, by: (2, run) }
    }

    /// L4: the highest fence counts, whatever comes late; a later run of the node is free.
    #[test]
    fn whoever_is_below_a_fence_changes_nothing() {
        let mut register = Register::default();
        assert_eq!(register.write(&write(1, 1), false), Ok(()));
        register.fence((2, 3), Epoch(9));
        register.fence((2, 1), Epoch(4));
        for run in 1..=3 {
            assert_eq!(register.write(&write(run, 2), false), Err(Refused::Fenced));
        }
        assert_eq!(register.write(&write(4, 3), false), Ok(()));
        assert_eq!(register.write(&write(4, 2), false), Err(Refused::Stale));
        assert_eq!(register.write(&write(3, 4), true), Ok(()), "as it is planted");
    }

    /// L4: a fence that is not on the disk does not outlive the register.
    #[test]
    fn only_what_is_stored_outlives_a_crash() {
        let mut register = Register::default();
        register.fence((2, 1), Epoch(9));
        register.crash();
        assert_eq!(register.write(&write(1, 1), false), Ok(()));
        register.fence((2, 1), Epoch(9));
        register.store((2, 1), Epoch(9));
        register.crash();
        assert_eq!(register.write(&write(1, 2), false), Err(Refused::Fenced));
    }
}
