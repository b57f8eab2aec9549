//! A lockspace in writing, for the process that goes on with the run.
//!
//! All of [`Lockspace`] is written as it stands, by its fields: masters with what they know of shadows, shadows with what they
//! own and have told, queues with their deadlines, what was handed over from the view before, counters. Only what leaves
//! (outputs, and messages between a master and the shadow beside it) must have left. Held locks are not here at all: they
//! live behind [`Words`](oarlock_layout::segment::Words).

use oarlock_layout::id::Slot;
use oarlock_layout::written::Contradiction;

use crate::config::Config;
use crate::space::Lockspace;

impl Lockspace {
    /// Whether what was read can be the state of this lockspace: what would be our own mistake anywhere else is the writer's
    /// here.
    ///
    /// # Errors
    /// What cannot be.
    pub fn check(&self, config: &Config) -> Result<(), Contradiction> {
        if self.config() != config {
            return Err(Contradiction("a lockspace is another one, or behaves otherwise"));
        }
        let there = |slot: Slot| self.shadow(slot).is_some();
        let places = self.shadows.iter().enumerate();
        let misplaced = |(place, it): (usize, &Option<crate::shadow::Shadow>)| {
            it.as_ref().is_some_and(|shadow| shadow.slot.0 as usize != place)
        };
        if places.into_iter().any(misplaced) {
            return Err(Contradiction("a shadow lies in a slot that is not its own"));
        }
        if !self.waiting.values().all(|slot| there(*slot)) || !self.resting().all(there) {
            return Err(Contradiction("something waits for a resource that is not there"));
        }
        Ok(())
    }

    /// The same with what is not written because it follows from the rest. Whoever has read a state and checked it does this first.
    #[must_use]
    pub fn resume(mut self) -> Lockspace {
        let me = self.config().me;
        self.index.clear();
        for shadow in self.shadows.iter().flatten() {
            shadow.rare.queues.waiters().for_each(|entry| self.index.resume(me, entry, shadow.slot));
        }
        self
    }

    /// The same with a rule left out: what is planted is not written.
    #[cfg(feature = "planted")]
    #[must_use]
    pub fn replant(mut self, bug: Option<crate::planted::Bug>) -> Lockspace {
        self.planted = bug.map_or(crate::planted::Planted::NONE, crate::planted::Planted::new);
        self
    }
}

/// What somebody may forget who writes all this by hand, to see that it is missed.
#[cfg(feature = "planted")]
impl Lockspace {
    /// Nobody's patience ends.
    pub fn lose_deadlines(&mut self) {
        self.deadlines.clear();
    }

    /// Nobody waits.
    pub fn lose_waiters(&mut self) {
        self.waiting.clear();
        self.deadlines.clear();
        self.index.clear();
        self.shadows.iter_mut().flatten().for_each(|shadow| shadow.rare.queues = Default::default());
    }

    /// No master knows anything.
    pub fn lose_records(&mut self) {
        drop(self.masters.take());
    }

    /// What no master has confirmed was never stated.
    pub fn lose_statements(&mut self) {
        self.shadows.iter_mut().flatten().for_each(|shadow| shadow.n = shadow.a);
    }
}
