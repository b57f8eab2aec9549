//! Whether to hint at a stronger mode, as history has it (C21).

use std::sync::atomic::{AtomicU8, Ordering};

use oarlock_layout::mode::Mode;

/// How often a kind of lock turned out to need a stronger mode in the end.
///
/// A hint ([`likely`](crate::LockRequest::likely)) that comes true saves a message and its answer; one that does not costs
/// others as much when they come first. So whoever asks keeps count, one habit for each kind of work that behaves alike, and
/// gives what it says to its requests. All threads of a program may share it.
///
/// ```no_run
/// # fn example(space: &oarlock::blocking::Space, changes: impl Fn() -> bool) -> oarlock::Result<()> {
/// use oarlock::{Habit, Mode};
/// static ROWS: Habit = Habit::new(Mode::EX);
/// let guard = space.lock("row/7").mode(Mode::PR).likely(ROWS.says()).acquire()?;
/// let change = changes();
/// ROWS.note(change);
/// if change {
///     guard.convert(Mode::EX)?; // without a message, if nobody else was there
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Habit {
    stronger: Mode,
    /// A mean of what was noted, the latest counting most: from 0, never, to [`ALWAYS`].
    mean: AtomicU8,
}

const ALWAYS: u8 = 64;
/// What a note counts: a quarter, so that three or four in a row decide whatever was before.
const WEIGHT: u8 = 4;
/// More often than not.
const HALF: u8 = ALWAYS / 2;

impl Habit {
    /// Nothing was noted yet, so it says nothing. `stronger`: PW or EX.
    pub const fn new(stronger: Mode) -> Habit {
        Habit { stronger, mean: AtomicU8::new(0) }
    }

    /// What is likely to be wanted next, if that is more likely than not.
    pub fn says(&self) -> Option<Mode> {
        (self.mean.load(Ordering::Relaxed) > HALF).then_some(self.stronger)
    }

    /// Notes whether the stronger mode was needed this time. Once for each lock, when that is known.
    pub fn note(&self, needed: bool) {
        let next = |mean: u8| match needed {
            true => mean + (ALWAYS - mean).div_ceil(WEIGHT),
            false => mean - mean.div_ceil(WEIGHT),
        };
        // Two that note at once: one of them counts, which is as good.
        let mean = self.mean.load(Ordering::Relaxed);
        self.mean.store(next(mean), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many locks were hinted at, when each needs the stronger mode as `needs` says.
    fn hinted(habit: &Habit, locks: u32, mut needs: impl FnMut(u32) -> bool) -> (u32, u32) {
        let (mut hints, mut right) = (0, 0);
        for n in 0..locks {
            let (says, needed) = (habit.says().is_some(), needs(n));
            hints += u32::from(says);
            right += u32::from(says == needed);
            habit.note(needed);
        }
        (hints, right)
    }

    /// C21: who only reads hints at nothing, who always writes afterwards hints always, whatever was before.
    #[test]
    fn the_rate_of_hints_follows_history() {
        let habit = Habit::new(Mode::EX);
        assert_eq!(hinted(&habit, 1_000, |_| false).0, 0, "nothing was noted that speaks for it");
        assert!(hinted(&habit, 1_000, |_| true).0 >= 996);
        assert!(hinted(&habit, 1_000, |_| false).0 <= 4);
        assert_eq!(habit.says(), None);
        hinted(&habit, 10, |_| true);
        assert_eq!(habit.says(), Some(Mode::EX));
    }

    /// One that does not come true in between changes nothing, and of mixed work more is guessed right than by always saying the same
    /// only if it comes in runs.
    #[test]
    fn a_single_exception_does_not_count_and_runs_are_followed() {
        let habit = Habit::new(Mode::PW);
        hinted(&habit, 20, |_| true);
        habit.note(false);
        assert_eq!(habit.says(), Some(Mode::PW));
        let (_, right) = hinted(&habit, 1_000, |n| n / 50 % 2 == 0);
        assert!(right > 900, "{right} of 1000");
        let (_, right) = hinted(&habit, 1_000, |n| n % 10 != 0);
        assert!(right >= 890, "{right} of 1000");
    }
}
