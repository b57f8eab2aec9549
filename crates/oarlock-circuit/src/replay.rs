//! Which packet numbers were seen under one key.

/// Words of the bitmap. One more than the window needs, so that a word can be cleared before it is used.
const WORDS: usize = 128;
/// How far behind the newest packet a late one may be: WireGuard's figure, 8,192 less one word of 64.
pub const REPLAY_WINDOW: u64 = (WORDS as u64 - 1) * 64;

/// A sliding window over packet numbers.
///
/// Consulted before a packet is opened, to save the work; *changed* only after its tag was verified. Were it
/// changed earlier, anybody could shut out genuine packets by sending a large number.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayWindow {
    /// One more than the largest number seen.
    next: u64,
    #[serde(with = "oarlock_layout::written::array")]
    seen: [u64; WORDS],
}

impl Default for ReplayWindow {
    fn default() -> ReplayWindow {
        ReplayWindow { next: 0, seen: [0; WORDS] }
    }
}

impl ReplayWindow {
    /// The packet may be opened: it is new as far as the window tells.
    pub fn may_be_new(&self, number: u64) -> bool {
        if number >= self.next {
            return true;
        }
        if self.next - number > REPLAY_WINDOW {
            return false; // too old to know
        }
        self.seen[word(number)] & bit(number) == 0
    }

    /// Remembers an authentic packet; false if it had been seen or is too old to know.
    pub fn note(&mut self, number: u64) -> bool {
        if !self.may_be_new(number) || number == u64::MAX {
            return false;
        }
        if number >= self.next {
            // Words between the newest and this one belonged to numbers long gone.
            let newest = self.next.saturating_sub(1) / 64;
            let ahead = (number / 64 - newest).min(WORDS as u64);
            for i in 1..=ahead {
                self.seen[((newest + i) % WORDS as u64) as usize] = 0;
            }
            self.next = number + 1;
        }
        self.seen[word(number)] |= bit(number);
        true
    }
}

fn word(number: u64) -> usize {
    (number / 64 % WORDS as u64) as usize
}

fn bit(number: u64) -> u64 {
    1 << (number % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_window_reaches_back_8128_packets_and_no_further() {
        assert_eq!(REPLAY_WINDOW, 8128);
        let mut window = ReplayWindow::default();
        assert!(window.note(10_000));
        assert!(window.may_be_new(10_001 - REPLAY_WINDOW));
        assert!(!window.may_be_new(10_000 - REPLAY_WINDOW));
        assert!(window.note(10_001 - REPLAY_WINDOW));
        assert!(!window.note(10_001 - REPLAY_WINDOW));
    }

    #[test]
    fn the_last_number_is_never_used() {
        let mut window = ReplayWindow::default();
        assert!(!window.note(u64::MAX));
        assert!(window.note(u64::MAX - 1));
    }

    proptest! {
        /// The twin is a set of all numbers ever seen.
        #[test]
        fn the_window_agrees_with_a_set(
            steps in prop::collection::vec((0u64..4, 0u64..20_000), 1..400)
        ) {
            let (mut window, mut seen, mut next) = (ReplayWindow::default(), BTreeSet::new(), 0u64);
            for (kind, n) in steps {
                let number = match kind {
                    0 => next + n % 3,
                    1 => next + n,
                    2 => next.saturating_sub(n % 100),
                    _ => next.saturating_sub(n),
                };
                let fresh = number + REPLAY_WINDOW >= next && !seen.contains(&number);
                prop_assert_eq!(window.may_be_new(number), fresh);
                prop_assert_eq!(window.note(number), fresh);
                if fresh {
                    seen.insert(number);
                    next = next.max(number + 1);
                }
            }
        }
    }
}
