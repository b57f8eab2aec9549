//! Shortcuts that look harmless, to see that somebody notices. Never in a release.

use super::{Stamp, Watermark};

/// A rule that a clock leaves out on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shortcut {
    /// A ceiling is used as soon as it is announced: "they will hear of it in a moment".
    NotAwaited,
    /// A clock ticks when it hears, as the textbook has it: messages alone drive it above all ceilings.
    TickOnReceive,
    /// One stamp is issued above the ceiling that all have acknowledged: one comparison is wrong by one.
    OneAboveCeiling,
}

impl Watermark {
    /// From now on with this shortcut, or without any.
    pub const fn take(&mut self, shortcut: Option<Shortcut>) {
        self.shortcut = shortcut;
    }

    /// The same, when it is built.
    #[must_use]
    pub fn with_shortcut(mut self, shortcut: Option<Shortcut>) -> Watermark {
        self.shortcut = shortcut;
        self
    }

    pub(super) fn awaits(&self) -> bool {
        self.shortcut != Some(Shortcut::NotAwaited)
    }

    pub(super) fn goes_one_above(&self) -> bool {
        self.granted > Stamp(0) && self.shortcut == Some(Shortcut::OneAboveCeiling)
    }

    pub(super) fn tick_on_receive(&mut self) {
        if self.shortcut == Some(Shortcut::TickOnReceive) {
            self.clock.0 += 1;
        }
    }
}
