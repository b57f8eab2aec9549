//! Cells and fences under loom.
//!
//! An atomic of loom costs much more than a word, and a segment has thousands of cells. So a cell is a plain word until
//! a test says that it is *watched*; from then on it is one of loom's. Which cells those have to be is not guessed: a
//! cell notes whether two threads touched it while they raced and one of them changed it. A test adds all such cells to
//! those it watches and explores anew, until an exploration finds no more.
//!
//! A cell that is left plain then was private to a thread, or never changed. It has one value to be read, whatever the
//! order. A store that writes what stands there already is no change; with it goes what its order would have shown to
//! a reader, which can only let loom see more orders than there are.
//!
//! Loom orders a store anew against the *last* access to its cell only. If one thread has looked at a cell and another
//! looks and then changes it, loom never tries the change before the first look. So each watched cell has a *turnstile*
//! for each thread: its looks pass it, and so does whoever changes the cell. All fences pass one turnstile, so that
//! their order is tried, too. A turnstile is passed by a relaxed addition of nothing. That shows nothing to anybody that
//! sequentially consistent fences do not show already, and there are no others.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::{self, Relaxed, SeqCst};

use loom::thread::{ThreadId, current};

type Plain = std::sync::atomic::AtomicU64;
type Watched = loom::sync::atomic::AtomicU64;

thread_local! {
    // Loom runs all threads of a model in one thread of the system: these are the model's.
    static RACING: Cell<bool> = const { Cell::new(false) };
    static THREADS: RefCell<Vec<ThreadId>> = const { RefCell::new(Vec::new()) };
    static FENCES: RefCell<Option<Rc<Watched>>> = const { RefCell::new(None) };
}

/// From here on threads race.
pub(crate) fn race() {
    THREADS.take();
    FENCES.set(Some(Rc::new(Watched::new(0))));
    RACING.set(true);
}

/// The race is over.
pub(crate) fn rest() {
    RACING.set(false);
    FENCES.take();
}

/// A sequentially consistent fence.
pub(crate) fn fence() {
    if let Some(turnstile) = FENCES.with_borrow(Clone::clone) {
        turnstile.fetch_add(0, Relaxed);
    }
    loom::sync::atomic::fence(SeqCst);
}

/// The number of this thread among those that race.
fn me() -> usize {
    let me = current().id();
    THREADS.with_borrow_mut(|threads| {
        threads.iter().position(|thread| *thread == me).unwrap_or_else(|| {
            threads.push(me);
            threads.len() - 1
        })
    })
}

/// A cell.
#[derive(Debug)]
pub struct AtomicU64 {
    plain: Plain,
    watched: OnceLock<Box<Atomic>>,
    /// The first thread that touched it, from 1, and the bits below.
    notes: Plain,
}

const CHANGED: u64 = 1 << 32;
const SHARED: u64 = 1 << 33;

/// One of loom's, and the turnstiles of the threads that look at it.
#[derive(Debug)]
struct Atomic {
    cell: Watched,
    looks: Vec<Watched>,
}

impl Atomic {
    fn look(&self) -> &Watched {
        if RACING.get() {
            self.looks[me()].fetch_add(0, Relaxed);
        }
        &self.cell
    }

    fn change(&self) -> &Watched {
        if RACING.get() {
            let me = me();
            for (_, look) in self.looks.iter().enumerate().filter(|(thread, _)| *thread != me) {
                look.fetch_add(0, Relaxed);
            }
        }
        &self.cell
    }
}

impl AtomicU64 {
    pub(crate) fn new(bits: u64) -> AtomicU64 {
        AtomicU64 { plain: Plain::new(bits), watched: OnceLock::new(), notes: Plain::new(0) }
    }

    /// From here on this is one of loom's, for so many threads.
    pub(crate) fn watch(&self, threads: usize) {
        self.watched.get_or_init(|| {
            let cell = Watched::new(self.plain.load(SeqCst));
            Box::new(Atomic { cell, looks: (0..threads).map(|_| Watched::new(0)).collect() })
        });
    }

    /// Is this a cell that has to be watched, and was not?
    pub(crate) fn was_raced_for(&self) -> bool {
        self.watched.get().is_none() && self.notes.load(SeqCst) & (CHANGED | SHARED) == CHANGED | SHARED
    }

    fn note(&self, changed: bool) {
        if !RACING.get() {
            return;
        }
        let me = me() as u64 + 1;
        let mut notes = self.notes.load(SeqCst) | if changed { CHANGED } else { 0 };
        match notes as u32 as u64 {
            0 => notes |= me,
            first if first == me => {}
            _ => notes |= SHARED,
        }
        self.notes.store(notes, SeqCst);
    }

    pub(crate) fn load(&self, order: Ordering) -> u64 {
        if let Some(watched) = self.watched.get() {
            return watched.look().load(order);
        }
        self.note(false);
        self.plain.load(SeqCst)
    }

    pub(crate) fn store(&self, bits: u64, order: Ordering) {
        if let Some(watched) = self.watched.get() {
            return watched.change().store(bits, order);
        }
        self.note(self.plain.swap(bits, SeqCst) != bits);
    }

    pub(crate) fn swap(&self, bits: u64, order: Ordering) -> u64 {
        match self.watched.get() {
            Some(watched) => watched.change().swap(bits, order),
            None => self.exchange(|_| bits),
        }
    }

    pub(crate) fn fetch_add(&self, more: u64, order: Ordering) -> u64 {
        match self.watched.get() {
            Some(watched) => watched.change().fetch_add(more, order),
            None => self.exchange(|old| old.wrapping_add(more)),
        }
    }

    pub(crate) fn fetch_or(&self, more: u64, order: Ordering) -> u64 {
        match self.watched.get() {
            Some(watched) => watched.change().fetch_or(more, order),
            None => self.exchange(|old| old | more),
        }
    }

    pub(crate) fn compare_exchange(
        &self,
        from: u64,
        to: u64,
        taken: Ordering,
        not: Ordering,
    ) -> Result<u64, u64> {
        if let Some(watched) = self.watched.get() {
            return watched.change().compare_exchange(from, to, taken, not);
        }
        let result = self.plain.compare_exchange(from, to, SeqCst, SeqCst);
        self.note(result.is_ok() && from != to);
        result
    }

    fn exchange(&self, new: impl FnOnce(u64) -> u64) -> u64 {
        let old = self.plain.load(SeqCst);
        let new = new(old);
        self.plain.store(new, SeqCst);
        self.note(new != old);
        old
    }
}
