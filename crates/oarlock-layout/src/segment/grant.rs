//! The grant word: everything about a resource that a caller must judge and change in one exchange (M1).
//!
//! ```text
//!    63        48 47   46   45   44  42 41 40 39    30 29    20 19    10 9      0
//!   ┌────────────┬────┬────┬────┬──────┬──┬──┬────────┬────────┬────────┬────────┐
//!   │ turn       │keep│shut│gate│ owned│EX│PW│ PR     │ CW     │ CR     │ NL     │
//!   └────────────┴────┴────┴────┴──────┴──┴──┴────────┴────────┴────────┴────────┘
//! ```
//!
//! *gate*: somebody waits, new grants go through the node. *shut*: the node recounts, and nobody else may change
//! the word. *keep*: what a release leaves unneeded stays owned (C15, M9). *turn*: changes in each recount and with
//! each reuse of the slot, so that no exchange prepared before succeeds after. It is not an epoch (M13).

use core::fmt;

use super::words::Counts;
use crate::mode::{Mode, join_option};

/// The grant word of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Grant(pub u64);

const COUNT_BITS: u32 = 10;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
const OWNED_SHIFT: u32 = 42;
const OWNED_MASK: u64 = 0b111 << OWNED_SHIFT;
/// No record at the master: less than NL (R12).
const OWNS_NOTHING: u64 = 7;
const GATE: u64 = 1 << 45;
const SHUT: u64 = 1 << 46;
const KEEP: u64 = 1 << 47;
const TURN_SHIFT: u32 = 48;

/// Where the count of each mode begins.
const SHIFT: [u32; 6] = [0, COUNT_BITS, 2 * COUNT_BITS, 3 * COUNT_BITS, 40, 41];

/// The bits in which the count of each mode lies.
const FIELD: [u64; 6] = {
    let mut table = [0; 6];
    let mut mode = 0;
    while mode < 6 {
        let mask = if Mode::ALL[mode].exclusive() { 1 } else { COUNT_MASK };
        table[mode] = mask << SHIFT[mode];
        mode += 1;
    }
    table
};

/// One holder of each mode.
const ONE: [u64; 6] = {
    let mut table = [0; 6];
    let mut mode = 0;
    while mode < 6 {
        table[mode] = 1 << SHIFT[mode];
        mode += 1;
    }
    table
};

/// As many callers of each mode as fit.
const FULL: [u64; 6] = {
    let mut table = [0; 6];
    let mut mode = 0;
    while mode < 6 {
        let most = if Mode::ALL[mode].exclusive() { 1 } else { Grant::CALLERS_MAX as u64 };
        table[mode] = most << SHIFT[mode];
        mode += 1;
    }
    table
};

const fn field(mode: Mode) -> u64 {
    FIELD[mode as usize]
}

/// For each mode: what must be zero in a word for a caller to take it. Conflicting counts, gate and shut.
const IN_THE_WAY: [u64; 6] = {
    let mut table = [GATE | SHUT; 6];
    let mut mode = 0;
    while mode < 6 {
        let mut other = 0;
        while other < 6 {
            if !Mode::ALL[mode].compatible(Mode::ALL[other]) {
                table[mode] |= field(Mode::ALL[other]);
            }
            other += 1;
        }
        mode += 1;
    }
    table
};

/// For each value of the owned bits: which modes it covers, a bit each.
const COVERED: [u8; 8] = {
    let mut table = [0; 8];
    let mut owned = 0;
    while owned < 6 {
        let mut mode = 0;
        while mode < 6 {
            if Mode::ALL[owned].covers(Mode::ALL[mode]) {
                table[owned] |= 1 << mode;
            }
            mode += 1;
        }
        owned += 1;
    }
    table
};

/// For each set of modes held (a bit each): their join as owned bits.
const NEED: [u8; 64] = {
    let mut table = [OWNS_NOTHING as u8; 64];
    let mut set = 1;
    while set < 64 {
        let mut join = Mode::NL;
        let mut mode = 0;
        while mode < 6 {
            if set & (1 << mode) != 0 {
                join = join.join(Mode::ALL[mode]);
            }
            mode += 1;
        }
        table[set] = join as u8;
        set += 1;
    }
    table
};

/// A count is at its bound: the node keeps such a lock in its own table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

impl Grant {
    /// Most callers of one shared mode that a word counts. One more place is the node's own, which stands for all locks
    /// that it keeps in its own table.
    pub const CALLERS_MAX: u32 = COUNT_MASK as u32 - 1;

    /// The word of a slot that has just been bound: nothing owned, gate shut, policy to keep.
    pub const fn bound(turn: u16) -> Grant {
        Grant((turn as u64) << TURN_SHIFT | KEEP | GATE | OWNS_NOTHING << OWNED_SHIFT)
    }

    /// Owned, or none if this node has no record at the master.
    pub const fn owned(self) -> Option<Mode> {
        Mode::from_number(((self.0 & OWNED_MASK) >> OWNED_SHIFT) as u8)
    }

    /// Somebody waits.
    pub const fn gate(self) -> bool {
        self.0 & GATE != 0
    }

    /// The node recounts.
    pub const fn shut(self) -> bool {
        self.0 & SHUT != 0
    }

    /// What is not needed any more stays owned.
    pub const fn keep(self) -> bool {
        self.0 & KEEP != 0
    }

    /// Which recount this is.
    pub const fn turn(self) -> u16 {
        (self.0 >> TURN_SHIFT) as u16
    }

    /// How many hold `mode`.
    pub const fn count(self, mode: Mode) -> u32 {
        ((self.0 & field(mode)) >> SHIFT[mode as usize]) as u32
    }

    /// All counts.
    pub fn counts(self) -> Counts {
        Counts(Mode::ALL.map(|mode| self.count(mode)))
    }

    /// Nobody holds anything.
    pub const fn unheld(self) -> bool {
        self.0 & ((1 << OWNED_SHIFT) - 1) == 0
    }

    /// The join of the modes held; none if nothing is.
    pub const fn need(self) -> Option<Mode> {
        Mode::from_number(self.need_number())
    }

    const fn need_number(self) -> u8 {
        let mut set = 0;
        let mut mode = 0;
        while mode < 6 {
            set |= ((self.0 & field(Mode::ALL[mode]) != 0) as usize) << mode;
            mode += 1;
        }
        NEED[set]
    }

    /// Does one holder of `mode` less, as in `after`, take need from what is owned to less (C15)?
    #[inline]
    pub const fn need_falls(self, mode: Mode, after: Grant) -> bool {
        let owned = ((self.0 & OWNED_MASK) >> OWNED_SHIFT) as u8;
        if after.unheld() {
            // Mostly it was the only one.
            return owned == mode as u8;
        }
        after.count(mode) == 0 && self.need_number() == owned && after.need_number() != owned
    }

    /// Does what is owned cover `mode`?
    pub const fn covers(self, mode: Mode) -> bool {
        COVERED[((self.0 & OWNED_MASK) >> OWNED_SHIFT) as usize] & (1 << mode as u8) != 0
    }

    /// Would `mode` stand beside all that is counted?
    pub const fn admits(self, mode: Mode) -> bool {
        self.0 & IN_THE_WAY[mode as usize] & !(GATE | SHUT) == 0
    }

    /// May a caller take `mode` by itself, as far as conflict, gate and shut go?
    pub const fn open_to(self, mode: Mode) -> bool {
        self.0 & IN_THE_WAY[mode as usize] == 0
    }

    /// With one more caller that holds `mode`.
    pub const fn with(self, mode: Mode) -> Result<Grant, Full> {
        if self.0 & field(mode) >= FULL[mode as usize] {
            return Err(Full);
        }
        Ok(Grant(self.0.wrapping_add(ONE[mode as usize])))
    }

    /// With what the node itself holds in `mode`: once for all locks in its own table.
    pub const fn with_own(self, mode: Mode) -> Result<Grant, Full> {
        let field = field(mode);
        if self.0 & field == field {
            return Err(Full);
        }
        Ok(Grant(self.0.wrapping_add(ONE[mode as usize])))
    }

    /// With one holder of `mode` less. A count of zero stays: a word is a claim, and a wrong one must not borrow
    /// from its neighbour.
    #[must_use]
    pub const fn without(self, mode: Mode) -> Grant {
        if self.0 & field(mode) == 0 {
            return self;
        }
        Grant(self.0.wrapping_sub(ONE[mode as usize]))
    }

    /// With other counts; what does not fit is cut to the bound.
    #[must_use]
    pub fn with_counts(self, counts: Counts) -> Grant {
        let mut bits = self.0 & !((1 << OWNED_SHIFT) - 1);
        for mode in Mode::ALL {
            let max = field(mode) >> SHIFT[mode as usize];
            bits |= u64::from(counts.of(mode)).min(max) << SHIFT[mode as usize];
        }
        Grant(bits)
    }

    /// With another owned mode.
    #[must_use]
    pub const fn with_owned(self, owned: Option<Mode>) -> Grant {
        let number = match owned {
            Some(mode) => mode as u64,
            None => OWNS_NOTHING,
        };
        Grant(self.0 & !OWNED_MASK | number << OWNED_SHIFT)
    }

    /// With the gate open or set.
    #[must_use]
    pub const fn with_gate(self, gate: bool) -> Grant {
        if gate { Grant(self.0 | GATE) } else { Grant(self.0 & !GATE) }
    }

    /// With the policy to keep or not.
    #[must_use]
    pub const fn with_keep(self, keep: bool) -> Grant {
        if keep { Grant(self.0 | KEEP) } else { Grant(self.0 & !KEEP) }
    }

    /// The word of the next recount: shut, in another turn.
    #[must_use]
    pub const fn shut_for(self, turn: u16) -> Grant {
        Grant(self.0 & !(0xffff << TURN_SHIFT) | SHUT | (turn as u64) << TURN_SHIFT)
    }

    /// The recount is over.
    #[must_use]
    pub const fn reopened(self) -> Grant {
        Grant(self.0 & !SHUT)
    }

    /// What the word should own at least: need and `floor`, never less than NL.
    pub fn target(self, floor: Option<Mode>) -> Mode {
        join_option(self.need(), floor).unwrap_or(Mode::NL)
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bit = |on, name| if on { name } else { "" };
        write!(
            f,
            "{:?} of {:?}{}{}{} turn {}",
            self.counts().0,
            self.owned(),
            bit(self.gate(), " gate"),
            bit(self.shut(), " shut"),
            bit(self.keep(), " keep"),
            self.turn()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_counts() -> impl Strategy<Value = Counts> {
        (0..=1023u32, 0..=1023u32, 0..=1023u32, 0..=1023u32, 0..=1u32, 0..=1u32)
            .prop_map(|(nl, cr, cw, pr, pw, ex)| Counts([nl, cr, cw, pr, pw, ex]))
    }

    fn any_mode() -> impl Strategy<Value = Mode> {
        (0..6usize).prop_map(|n| Mode::ALL[n])
    }

    #[test]
    fn a_new_slot_admits_nobody() {
        let word = Grant::bound(7);
        assert_eq!((word.owned(), word.gate(), word.keep(), word.turn()), (None, true, true, 7));
        assert!(word.unheld() && !word.shut());
        assert!(Mode::ALL.into_iter().all(|m| !word.covers(m) && !word.open_to(m)));
    }

    #[test]
    fn a_full_count_is_refused_and_an_empty_one_borrows_from_nobody() {
        let callers = Grant(0).with_counts(Counts([0, 0, 0, 1022, 0, 0]));
        assert_eq!(callers.with(Mode::PR), Err(Full));
        let full = callers.with_own(Mode::PR).unwrap();
        assert_eq!(full.with_own(Mode::PR), Err(Full));
        assert_eq!(full.with(Mode::CR).unwrap().count(Mode::CR), 1);
        assert_eq!(full.with(Mode::EX).unwrap().with(Mode::EX), Err(Full));
        assert_eq!(full.without(Mode::CR), full);
        let one = Grant(0).with(Mode::PW).unwrap();
        assert_eq!(one.without(Mode::EX), one);
    }

    proptest! {
        /// The dumb twin is `Counts`, which works with the table of modes directly.
        #[test]
        fn a_word_says_what_its_counts_say(
            counts in any_counts(),
            mode in any_mode(),
            owned in proptest::option::of(any_mode()),
            flags in 0..8u8,
            turn in any::<u16>(),
        ) {
            let word = Grant(0).with_owned(owned).with_gate(flags & 1 != 0).with_keep(flags & 2 != 0);
            let word = if flags & 4 != 0 { word.shut_for(turn) } else { word };
            let word = word.with_counts(counts);
            prop_assert_eq!(word.counts(), counts);
            prop_assert_eq!(word.owned(), owned);
            prop_assert_eq!(word.need(), counts.need());
            prop_assert_eq!(word.admits(mode), counts.admits(mode));
            prop_assert_eq!(word.open_to(mode), counts.admits(mode) && flags & 5 == 0);
            prop_assert_eq!(word.covers(mode), owned.is_some_and(|o| o.covers(mode)));
            prop_assert_eq!(word.unheld(), counts.total() == 0);
            if let Ok(more) = word.with(mode) {
                prop_assert_eq!(more.without(mode), word);
                prop_assert_eq!(more.counts(), counts.with(mode));
                let falls = more.need() == owned && word.need() != owned && owned.is_some();
                prop_assert_eq!(more.need_falls(mode, word), falls);
            }
            prop_assert_eq!(word.reopened().shut(), false);
            if flags & 4 != 0 {
                prop_assert_eq!(word.turn(), turn);
            }
        }
    }
}
