//! The state word of an entry: what one lock claims (M1).
//!
//! ```text
//!    63                                                       10 9     7 6    4 3     0
//!   ┌───────────────────────────────────────────────────────────┬───────┬──────┬───────┐
//!   │ generation                                                │ target│ mode │ state │
//!   └───────────────────────────────────────────────────────────┴───────┴──────┴───────┘
//! ```
//!
//! It is changed by compare-exchange, but where only one can change it at all: a free entry of a thread's own is taken, and
//! a lock that is given back is let go of, by a store. The generation grows whenever the entry becomes free and whenever the node
//! takes something back, so that an exchange prepared before fails after. The low half is what waiters sleep on.

use core::fmt;

use crate::mode::Mode;

/// Where an entry stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Stage {
    /// Nobody's.
    Free = 0,
    /// Its owner is about to count `mode` in the word, or has just done so. Claims nothing.
    Trying = 1,
    /// The node was asked for `mode`; the owner sleeps. Claims nothing.
    Waiting = 2,
    /// `mode` is held.
    Held = 3,
    /// `mode` is held; its owner is about to count `target` in its place. Claims `mode`.
    Raising = 4,
    /// The word still counts `mode`; the holder has no more than `target`, or nothing.
    Lowering = 5,
    /// The same, left to the node.
    Handed = 6,
    /// `mode` is held; the node was asked for `target`.
    Asking = 7,
    /// The node took an attempt back. Claims nothing.
    Revoked = 8,
    /// The owner withdrew what it waited for; the node has not heard of it yet. Claims nothing.
    Cancelled = 9,
    /// The node said no. Claims nothing.
    Refused = 10,
    /// The session is over; `mode` is counted until the node takes it away.
    Ending = 11,
    /// `mode` is held and counted in the node's own table, not in the word.
    Kept = 12,
    /// The node has finished a release; its owner has yet to let the entry go.
    Finished = 13,
}

const STAGES: [Stage; 14] = [
    Stage::Free,
    Stage::Trying,
    Stage::Waiting,
    Stage::Held,
    Stage::Raising,
    Stage::Lowering,
    Stage::Handed,
    Stage::Asking,
    Stage::Revoked,
    Stage::Cancelled,
    Stage::Refused,
    Stage::Ending,
    Stage::Kept,
    Stage::Finished,
];

/// No mode at all, where a mode may stand.
const NO_MODE: u64 = 7;
const STAGE_MASK: u64 = 0xf;
const MODE_SHIFT: u32 = 4;
const TARGET_SHIFT: u32 = 7;
const GENERATION_SHIFT: u32 = 10;

/// The state word of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct State(pub u64);

impl State {
    /// A state word.
    pub const fn new(generation: u64, stage: Stage, mode: Option<Mode>, target: Option<Mode>) -> State {
        State(
            generation << GENERATION_SHIFT
                | number(target) << TARGET_SHIFT
                | number(mode) << MODE_SHIFT
                | stage as u64,
        )
    }

    /// An entry that is nobody's.
    pub const fn free(generation: u64) -> State {
        State::new(generation, Stage::Free, None, None)
    }

    /// Where it stands; none if no such stage exists, which only a foreign hand can write.
    pub const fn stage(self) -> Option<Stage> {
        let number = (self.0 & STAGE_MASK) as usize;
        if number < STAGES.len() { Some(STAGES[number]) } else { None }
    }

    /// The mode it is about.
    pub const fn mode(self) -> Option<Mode> {
        Mode::from_number((self.0 >> MODE_SHIFT & 7) as u8)
    }

    /// The mode it goes to.
    pub const fn target(self) -> Option<Mode> {
        Mode::from_number((self.0 >> TARGET_SHIFT & 7) as u8)
    }

    /// Its generation.
    pub const fn generation(self) -> u64 {
        self.0 >> GENERATION_SHIFT
    }

    /// The generation that follows.
    pub const fn next_generation(self) -> u64 {
        (self.generation() + 1) & (u64::MAX >> GENERATION_SHIFT)
    }

    /// The same generation in another stage.
    #[must_use]
    pub const fn to(self, stage: Stage, mode: Option<Mode>, target: Option<Mode>) -> State {
        State::new(self.generation(), stage, mode, target)
    }

    /// The next generation in another stage.
    #[must_use]
    pub const fn next(self, stage: Stage, mode: Option<Mode>, target: Option<Mode>) -> State {
        State::new(self.next_generation(), stage, mode, target)
    }

    /// The same in another stage.
    #[must_use]
    pub const fn at(self, stage: Stage) -> State {
        State(self.0 & !STAGE_MASK | stage as u64)
    }

    /// Free, in the next generation.
    #[must_use]
    pub const fn freed(self) -> State {
        let next = (self.0 | ((1 << GENERATION_SHIFT) - 1)).wrapping_add(1);
        State(next | State::free(0).0)
    }

    /// The mode that the holder may act under; none if it may not act.
    pub const fn claims(self) -> Option<Mode> {
        match self.stage() {
            Some(Stage::Held | Stage::Raising | Stage::Asking | Stage::Kept) => self.mode(),
            Some(Stage::Lowering | Stage::Handed) => self.target(),
            _ => None,
        }
    }

    /// The half that waiters sleep on: stage, modes and the low bits of the generation.
    pub const fn futex(self) -> u32 {
        self.0 as u32
    }
}

const fn number(mode: Option<Mode>) -> u64 {
    match mode {
        Some(mode) => mode as u64,
        None => NO_MODE,
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.stage() {
            Some(stage) => write!(f, "{stage:?}")?,
            None => write!(f, "stage {}", self.0 & 0xf)?,
        }
        if let Some(mode) = self.mode() {
            write!(f, "({mode:?}")?;
            if let Some(target) = self.target() {
                write!(f, " to {target:?}")?;
            }
            f.write_str(")")?;
        }
        write!(f, "#{}", self.generation())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_gives_back_what_was_put_in() {
        for stage in STAGES {
            for mode in Mode::ALL.map(Some).into_iter().chain([None]) {
                let state = State::new(77, stage, mode, Some(Mode::CW));
                assert_eq!(state.stage(), Some(stage));
                assert_eq!((state.mode(), state.target(), state.generation()), (mode, Some(Mode::CW), 77));
                assert_eq!(state.freed(), State::free(78));
            }
        }
        assert_eq!(State(14).stage(), None);
        let last = State::new((1 << 54) - 1, Stage::Held, None, None);
        assert_eq!(last.freed(), State::free(0), "generations wrap after years, and within their bits");
    }

    #[test]
    fn an_entry_claims_the_weaker_of_two_modes() {
        let state = |stage| State::new(1, stage, Some(Mode::EX), Some(Mode::CR));
        assert_eq!(state(Stage::Lowering).claims(), Some(Mode::CR));
        assert_eq!(state(Stage::Handed).claims(), Some(Mode::CR));
        assert_eq!(state(Stage::Held).claims(), Some(Mode::EX));
        for stage in [Stage::Trying, Stage::Waiting, Stage::Revoked, Stage::Ending, Stage::Free] {
            assert_eq!(state(stage).claims(), None, "{stage:?}");
        }
    }

    #[test]
    fn sleepers_see_every_change_of_stage() {
        let waiting = State::new(5, Stage::Waiting, Some(Mode::EX), None);
        assert_ne!(waiting.futex(), waiting.to(Stage::Held, Some(Mode::EX), None).futex());
        assert_ne!(waiting.futex(), waiting.next(Stage::Waiting, Some(Mode::EX), None).futex());
    }
}
