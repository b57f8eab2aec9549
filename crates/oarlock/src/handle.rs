//! Resources that are locked again and again: the name is looked up once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use oarlock_layout::flags::Flags;
use oarlock_layout::mode::Mode;
use oarlock_layout::token::Token;
use oarlock_shm::{Hold, Missed, Party, Spot, Taken};

use crate::segment::{self, Segment};
use crate::wish::{SpaceRef, Whose, Wish};

/// A name, and where it was found.
pub(crate) struct Opened {
    pub(crate) wish: Wish,
    /// Where this process can grant itself, once that is known.
    segment: OnceLock<Arc<Segment>>,
    /// Slot and generation in one, so that they are of one look; zero if it was not found yet.
    spot: AtomicU64,
}

const SLOT_BITS: u32 = 24;

impl Opened {
    pub(crate) fn new(space: &SpaceRef, name: &[u8], whose: Whose) -> Opened {
        Opened { wish: Wish::new(space, name, whose), segment: OnceLock::new(), spot: AtomicU64::new(0) }
    }

    /// Takes the lock in this process, if nobody needs to be asked.
    #[inline(always)]
    pub(crate) fn take(&self, mode: Mode) -> Option<Here<'_>> {
        let segment = match self.segment.get() {
            Some(segment) => &**segment,
            None => self.attached()?,
        };
        // Whoever asks the node hears why.
        if !segment.is_mine() || segment.is_over() {
            return None;
        }
        let bits = self.spot.load(Ordering::Relaxed);
        let spot = match bits {
            0 => self.find(segment)?,
            bits => Spot { slot: bits as u32 & ((1 << SLOT_BITS) - 1), generation: bits >> SLOT_BITS },
        };
        let me = segment::me();
        let party = Party { owner: self.wish.whose.owner(me).0, ..Party::default() };
        match segment.caller.attempt(spot, mode, &party, false, me.first) {
            Ok((hold, knock)) => {
                if knock {
                    self.wish.space.knock();
                }
                if !segment.guard(hold.entry) {
                    segment.too_late(hold);
                    return None;
                }
                Some(Here { space: &self.wish.space, segment, hold, token: OnceLock::new() })
            }
            Err(missed) => {
                self.missed(segment, missed, mode);
                None
            }
        }
    }

    /// Whoever is asked then answers everything else.
    #[cold]
    #[inline(never)]
    fn missed(&self, segment: &Segment, missed: Missed, mode: Mode) {
        if let Taken::Moved = segment.caller.missed(missed, mode, false) {
            self.spot.store(0, Ordering::Relaxed);
        }
    }

    #[cold]
    fn attached(&self) -> Option<&Segment> {
        let segment = self.wish.space.segment()?;
        Some(self.segment.get_or_init(|| Arc::clone(segment)))
    }

    #[cold]
    fn find(&self, segment: &Segment) -> Option<Spot> {
        let spot = segment.caller.find(&self.wish.name)?;
        if spot.slot < 1 << SLOT_BITS && spot.generation < 1 << (64 - SLOT_BITS) {
            self.spot.store(spot.generation << SLOT_BITS | u64::from(spot.slot), Ordering::Relaxed);
        }
        Some(spot)
    }

    /// The same as a request of its own, for when somebody must be asked.
    pub(crate) fn wish(&self, mode: Mode, tries: bool) -> Wish {
        let mut wish = self.wish.clone();
        wish.manner.mode = mode;
        if tries {
            wish.manner.flags |= Flags::NOQUEUE | Flags::LOCAL;
        }
        wish
    }
}

/// A lock that was taken in this process by a handle. Dropping it gives the lock back.
pub(crate) struct Here<'a> {
    space: &'a SpaceRef,
    segment: &'a Segment,
    hold: Hold,
    token: OnceLock<Token>,
}

impl Here<'_> {
    #[inline(always)]
    pub(crate) fn mode(&self) -> Mode {
        self.hold.mode
    }

    pub(crate) fn token(&self) -> Token {
        *self.token.get_or_init(|| self.segment.caller.draw_token(self.hold).unwrap_or_default())
    }

    pub(crate) fn is_lost(&self) -> bool {
        let gone = match self.segment.caller.living() {
            Err(loss) => Some(Some(loss)),
            Ok(()) => (!self.segment.caller.holds(self.hold)).then_some(None),
        };
        if let Some(loss) = gone
            && !self.segment.is_over()
            && self.segment.is_mine()
        {
            // What is known here the session is to know: it hangs up when its guards have gone.
            self.space.session.lose(loss);
        }
        gone.is_some() || self.segment.is_over()
    }

    pub(crate) fn blocks(&self) -> Option<Mode> {
        let told = self.segment.caller.told(self.hold);
        Mode::ALL
            .into_iter()
            .filter(|mode| told & (1 << *mode as u8) != 0 && !mode.compatible(self.hold.mode))
            .reduce(Mode::join)
    }
}

impl Drop for Here<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if !self.segment.is_mine() {
            return;
        }
        self.segment.unguard(self.hold.entry);
        if let Ok(true) = self.segment.caller.release_apart(self.hold) {
            self.space.knock();
        }
        if self.segment.is_over() {
            self.space.session.acknowledge();
        }
    }
}

/// Result of a handle's attempt: here, or by a guard of the ordinary kind.
pub(crate) enum Taking<'a, G> {
    Here(Here<'a>),
    There(There<G>),
}

/// A guard of the ordinary kind. Its end is apart, so that the end of a handle's guard is small enough to be put where that
/// guard is dropped. What is taken and given back in one place then never lies in memory: to read it from there, in
/// other pieces than it was written in, costs as much as an exchange.
pub(crate) struct There<G>(Option<Box<G>>);

impl<G> There<G> {
    pub(crate) fn new(guard: G) -> There<G> {
        There(Some(Box::new(guard)))
    }

    pub(crate) fn guard(&self) -> &G {
        self.0.as_ref().expect("taken only by drop")
    }

    #[cold]
    #[inline(never)]
    fn end(guard: Option<Box<G>>) {
        drop(guard);
    }
}

impl<G> Drop for There<G> {
    #[inline(always)]
    fn drop(&mut self) {
        There::end(self.0.take());
    }
}
