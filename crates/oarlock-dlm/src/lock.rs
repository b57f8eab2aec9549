//! A lock as the table knows it.

use std::sync::Arc;

use oarlock::{Guard, Mode, Withdrawal};

use crate::queue::Waiting;
use crate::runner::Task;
use crate::{Block, Report};

pub(crate) struct Lock<U> {
    /// Whom to call: as the last call that was accepted said.
    pub(crate) user: U,
    /// They want to hear that others want it.
    pub(crate) notices: bool,
    /// The same before the change of mode that is under way.
    pub(crate) before: Option<(U, bool)>,
    /// What the last operation came to.
    pub(crate) last: Report,
    /// What is held. A change of mode under way and the watch have it as well.
    pub(crate) guard: Option<Arc<Guard>>,
    /// In which mode, when somebody last looked.
    pub(crate) mode: Mode,
    /// Hears of others who want it.
    pub(crate) watch: Option<Task>,
    pub(crate) doing: Option<Doing>,
}

/// An operation under way. There is one at a time.
#[derive(Default)]
pub(crate) struct Doing {
    /// Withdraws it.
    pub(crate) withdrawal: Withdrawal,
    /// Whoever is to be called is.
    pub(crate) calls: bool,
    /// Threads that wait for it.
    pub(crate) waiting: Vec<Arc<Waiting>>,
    /// It moves the value block.
    pub(crate) value: bool,
    /// It was withdrawn, which makes this its status.
    pub(crate) cancelled: Option<i32>,
    /// The lock is to be given back as soon as it is settled.
    pub(crate) ending: Option<Ending>,
    /// It is being given back.
    pub(crate) leaves: bool,
}

/// What giving back does to the value block.
#[derive(Clone, Copy, Default)]
pub(crate) struct Ending {
    pub(crate) value: Option<Block>,
    pub(crate) invalidate: bool,
}

impl Ending {
    /// Says it to what is about to be given back, or converted downward: invalidation wins (31). From lower modes nothing is
    /// written.
    pub(crate) fn say_to(self, guard: &Guard) {
        if !guard.mode().writes_value() {
            return;
        }
        // What fails here does so again, and is told, when the lock is given back.
        let _ = match self {
            Ending { invalidate: true, .. } => guard.invalidate_value(),
            Ending { value: Some(block), .. } => guard.set_value(&block),
            Ending { .. } => Ok(()),
        };
    }
}

/// What is to be given back, taken out of the table.
pub(crate) struct Departure {
    pub(crate) guard: Arc<Guard>,
    pub(crate) watch: Option<Task>,
    pub(crate) ending: Ending,
}

impl<U> Lock<U> {
    /// One that is about to be asked for.
    pub(crate) fn new(user: U, notices: bool, lkid: u32) -> Lock<U> {
        Lock {
            user,
            notices,
            before: None,
            last: Report::new(lkid, 0),
            guard: None,
            mode: Mode::NL,
            watch: None,
            doing: None,
        }
    }

    /// Is it being given back, or will be?
    pub(crate) fn is_leaving(&self) -> bool {
        self.doing.as_ref().is_some_and(|doing| doing.leaves || doing.ending.is_some())
    }

    /// Takes out what is held, to give it back.
    pub(crate) fn depart(&mut self, ending: Ending) -> Option<Departure> {
        let guard = self.guard.take()?;
        Some(Departure { guard, watch: self.watch.take(), ending })
    }
}
