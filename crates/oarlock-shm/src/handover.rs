//! Hand-over: a releaser gives the word to the waiter that the node has named (M10).

#[cfg(not(any(loom, shuttle)))]
use std::time::{Duration, Instant};

use oarlock_layout::mode::Mode;
use oarlock_layout::segment::geometry::{entry, tail};
use oarlock_layout::segment::{Grant, Stage, State};

use crate::cells::{exchange_grant, exchange_state, state};
use crate::memory::Memory;
#[cfg(not(any(loom, shuttle)))]
use crate::sync::FIELD;
use crate::sync::{AtomicU64, LOOK};

/// What came of an attempt to hand over.
pub(crate) enum Passed {
    /// The waiter in this area and entry holds, and the word says so.
    Over(Grant, (u32, u32)),
    /// The word counts this mode for a waiter who has gone.
    Nowhere(Mode),
    /// The word moved.
    Retry,
}

impl Memory {
    /// Hands over to the waiter that the node has named, if there is one who fits (M10).
    #[cold]
    pub(crate) fn pass_on(&self, slot: u32, word: &AtomicU64, now: Grant, less: Grant) -> Option<Passed> {
        let offer = Offer(self.tail(slot)[tail::OFFERED].load(LOOK));
        let (area, number) = offer.place(self.geometry())?;
        let theirs = self.entry(area, number);
        let waiting = state(&theirs[entry::STATE]);
        if waiting.stage() != Some(Stage::Waiting) || !offer.names(waiting) {
            return None;
        }
        let mode = waiting.mode()?;
        if !now.covers(mode) || !less.admits(mode) {
            return None;
        }
        let then = less.with(mode).ok()?;
        if exchange_grant(word, now, then).is_err() {
            return Some(Passed::Retry);
        }
        let held = waiting.to(Stage::Held, Some(mode), None);
        if exchange_state(&theirs[entry::STATE], waiting, held).is_err() {
            return Some(Passed::Nowhere(mode));
        }
        Some(Passed::Over(then, (area, number)))
    }

    /// Wakes whoever sleeps on an entry. If that is on this processor and `yields` says so, it goes on before this thread does.
    /// How long that took.
    #[cfg(not(any(loom, shuttle)))]
    #[cold]
    pub(crate) fn wake_waiter(&self, area: u32, number: u32, yields: bool) -> Duration {
        let first = self.geometry().entry(area, number);
        let woken = self.wake(first + entry::STATE);
        let here = || self[first + entry::SLEEPS_ON].load(FIELD) == crate::futex::processor();
        if !(woken && yields && here()) {
            return Duration::ZERO;
        }
        let begin = Instant::now();
        rustix::thread::sched_yield();
        begin.elapsed()
    }
}

/// The waiter that the node names in a tail: area, entry, and the low bits of its state word, so that a later lock in the
/// same entry is not meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Offer(pub(crate) u64);

impl Offer {
    const STATE_BITS: u32 = 37;
    const STATE_MASK: u64 = (1 << Offer::STATE_BITS) - 1;

    /// Nobody.
    pub(crate) const NONE: Offer = Offer(0);

    pub(crate) fn new(area: u32, entry: u32, state: State) -> Offer {
        Offer(
            1 << 63
                | u64::from(area) << (Offer::STATE_BITS + 14)
                | u64::from(entry) << Offer::STATE_BITS
                | state.0 & Offer::STATE_MASK,
        )
    }

    fn place(self, geometry: oarlock_layout::segment::Geometry) -> Option<(u32, u32)> {
        let area = (self.0 >> (Offer::STATE_BITS + 14) & 0xfff) as u32;
        let entry = (self.0 >> Offer::STATE_BITS & 0x3fff) as u32;
        (self.0 >> 63 == 1 && area < geometry.areas && entry < geometry.entries).then_some((area, entry))
    }

    fn names(self, state: State) -> bool {
        self.0 & Offer::STATE_MASK == state.0 & Offer::STATE_MASK
    }
}
