//! Who wants to be woken when something changes, and what must happen after the session's mutex is free.

use std::task::Waker;

use oarlock_layout::message::session::Request;

/// The registered wakers of one lock or call. Each waiter has a key of its own, so registering again
/// replaces and leaving removes; the list is as long as there are living waiters.
#[derive(Default)]
pub(crate) struct Wakers(Vec<(u64, Waker)>);

impl Wakers {
    /// Registers or replaces. What was there before comes back, to be dropped outside the mutex.
    pub(crate) fn set(&mut self, key: u64, waker: Waker) -> Option<Waker> {
        match self.0.iter_mut().find(|(k, _)| *k == key) {
            Some((_, old)) => Some(std::mem::replace(old, waker)),
            None => {
                self.0.push((key, waker));
                None
            }
        }
    }

    /// Takes a waiter off the list.
    pub(crate) fn remove(&mut self, key: u64) -> Option<Waker> {
        let at = self.0.iter().position(|(k, _)| *k == key)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Is nobody registered?
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Moves all of them to where they are woken. They register again if they still wait.
    pub(crate) fn take(&mut self, effects: &mut Effects) {
        effects.wake.extend(self.0.drain(..).map(|(_, waker)| waker));
    }

    /// One of them, to be woken and to stay on the list.
    pub(crate) fn first(&self) -> Option<Waker> {
        self.0.first().map(|(_, waker)| waker.clone())
    }
}

/// What a change of the table leads to. Wakers are foreign code, and so are their destructors: they run
/// only after the mutex is free, so that whoever is woken may call straight back into the library (64).
#[derive(Default)]
pub(crate) struct Effects {
    /// Wake these.
    pub(crate) wake: Vec<Waker>,
    /// Send these, in this order.
    pub(crate) send: Vec<Request>,
}
