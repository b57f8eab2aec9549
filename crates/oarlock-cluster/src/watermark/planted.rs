//! Two shortcuts that look harmless, to see that somebody notices. Never in a release.

use super::Watermark;

/// A rule that a clock leaves out on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shortcut {
    /// A ceiling is used as soon as it is announced: "they will hear of it in a moment".
    NotAwaited,
    /// A clock ticks when it hears, as the textbook has it: messages alone drive it above all ceilings.
    TickOnReceive,
}

impl Watermark {
    /// From now on with this shortcut.
    #[must_use]
    pub fn with_shortcut(mut self, shortcut: Option<Shortcut>) -> Watermark {
        self.shortcut = shortcut;
        self
    }

    pub(super) fn awaits(&self) -> bool {
        self.shortcut != Some(Shortcut::NotAwaited)
    }

    pub(super) fn tick_on_receive(&mut self) {
        if self.shortcut == Some(Shortcut::TickOnReceive) {
            self.clock.0 += 1;
        }
    }
}
