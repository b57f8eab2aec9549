//! The six lock modes, their one compatibility table, and what follows from it.
//!
//! Wanted down, held elsewhere across; `y` may stand side by side:
//!
//! ```text
//!        NL  CR  CW  PR  PW  EX
//!    NL   y   y   y   y   y   y
//!    CR   y   y   y   y   y   .
//!    CW   y   y   y   .   .   .
//!    PR   y   y   .   y   .   .
//!    PW   y   y   .   .   .   .
//!    EX   y   .   .   .   .   .
//! ```
//!
//! Modes are a lattice, not a line: CW and PR are incomparable and their join is PW. That is why [`Mode`]
//! has no `Ord`; use [`Mode::covers`] and [`Mode::join`] (US 6,574,654; "VAXcluster Principles" ch. 6).

use core::fmt;
use core::str::FromStr;

/// A lock mode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[repr(u8)]
pub enum Mode {
    /// Null: stands with everything; keeps the resource and its value block alive.
    NL = 0,
    /// Concurrent read: reads, and lets others write.
    CR = 1,
    /// Concurrent write: writes, and lets others write.
    CW = 2,
    /// Protected read: reads, nobody writes.
    PR = 3,
    /// Protected write: writes, others may at most read unprotected.
    PW = 4,
    /// Exclusive: nobody else, but for NL.
    EX = 5,
}

use Mode::{CR, CW, EX, NL, PR, PW};

/// Row: bit i set = stands beside mode i.
const COMPATIBLE: [u8; 6] = [
    0b11_1111, // NL
    0b01_1111, // CR
    0b00_0111, // CW
    0b00_1011, // PR
    0b00_0011, // PW
    0b00_0001, // EX
];

impl Mode {
    /// All modes, in the order of their numbers (which is not an order of strength).
    pub const ALL: [Mode; 6] = [NL, CR, CW, PR, PW, EX];

    /// May both be granted at once, to two different holders?
    pub const fn compatible(self, other: Mode) -> bool {
        COMPATIBLE[self as usize] & (1 << other as u8) != 0
    }

    /// Whoever holds `self` also has every right of `other` and excludes at least as much.
    pub const fn covers(self, other: Mode) -> bool {
        COMPATIBLE[self as usize] & !COMPATIBLE[other as usize] == 0
    }

    /// The weakest mode that covers both.
    pub const fn join(self, other: Mode) -> Mode {
        if self.covers(other) {
            self
        } else if other.covers(self) {
            other
        } else {
            // The only incomparable pair is CW and PR.
            PW
        }
    }

    /// May the holder write the value block when leaving this mode (scenario 27)?
    pub const fn writes_value(self) -> bool {
        matches!(self, PW | EX)
    }

    /// Does this mode exclude every other holder that could change anything? Such grants raise the local
    /// part of the token (R6).
    pub const fn exclusive(self) -> bool {
        matches!(self, PW | EX)
    }

    /// The mode with number `number`, if there is one.
    pub const fn from_number(number: u8) -> Option<Mode> {
        match number {
            0 => Some(NL),
            1 => Some(CR),
            2 => Some(CW),
            3 => Some(PR),
            4 => Some(PW),
            5 => Some(EX),
            _ => None,
        }
    }

    /// The strongest mode that stands beside `self`: what a blocking holder may keep.
    /// CW and PR have two candidates each way; the answer is the one that equals `self`.
    pub const fn strongest_beside(self) -> Mode {
        match self {
            NL => EX,
            CR => PW,
            CW => CW,
            PR => PR,
            PW => CR,
            EX => NL,
        }
    }

    /// Two letters, as people write it.
    pub const fn name(self) -> &'static str {
        match self {
            NL => "NL",
            CR => "CR",
            CW => "CW",
            PR => "PR",
            PW => "PW",
            EX => "EX",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What was given is not one of the six modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a lock mode; the modes are NL, CR, CW, PR, PW and EX")]
pub struct UnknownMode;

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Mode, UnknownMode> {
        Mode::ALL.into_iter().find(|m| m.name().eq_ignore_ascii_case(text)).ok_or(UnknownMode)
    }
}

/// Joins an optional mode with another: `None` means "nothing at all", less than NL (R12).
pub fn join_option(a: Option<Mode>, b: Option<Mode>) -> Option<Mode> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.join(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_mode() -> impl Strategy<Value = Mode> {
        (0u8..6).prop_map(|n| Mode::from_number(n).unwrap())
    }

    /// The table as people print it, written down a second time on purpose: the dumb twin.
    const PRINTED: [&str; 6] = ["yyyyyy", "yyyyy.", "yyy...", "yy.y..", "yy....", "y....."];

    /// 3.2: one table decides, and this is it.
    #[test]
    fn the_table_is_the_printed_one() {
        for wanted in Mode::ALL {
            for held in Mode::ALL {
                let printed = PRINTED[wanted as usize].as_bytes()[held as usize] == b'y';
                assert_eq!(wanted.compatible(held), printed, "{wanted} beside {held}");
            }
        }
    }

    #[test]
    fn cw_and_pr_are_incomparable_and_join_at_pw() {
        assert!(!CW.covers(PR) && !PR.covers(CW));
        assert_eq!(CW.join(PR), PW);
        assert_eq!(PR.join(CW), PW);
    }

    #[test]
    fn names_round_trip_and_unknown_ones_are_refused() {
        for mode in Mode::ALL {
            assert_eq!(mode.name().to_lowercase().parse(), Ok(mode));
            assert_eq!(Mode::from_number(mode as u8), Some(mode));
        }
        assert_eq!("XX".parse::<Mode>(), Err(UnknownMode));
        assert_eq!(Mode::from_number(6), None);
    }

    proptest! {
        #[test]
        fn compatibility_is_symmetric(a in any_mode(), b in any_mode()) {
            prop_assert_eq!(a.compatible(b), b.compatible(a));
        }

        /// C1: whatever stands beside the covering mode stands beside the covered one.
        #[test]
        fn a_cover_excludes_at_least_as_much(a in any_mode(), b in any_mode(), c in any_mode()) {
            if a.covers(b) && a.compatible(c) {
                prop_assert!(b.compatible(c));
            }
        }

        #[test]
        fn cover_is_a_partial_order(a in any_mode(), b in any_mode(), c in any_mode()) {
            prop_assert!(a.covers(a));
            if a.covers(b) && b.covers(a) { prop_assert_eq!(a, b); }
            if a.covers(b) && b.covers(c) { prop_assert!(a.covers(c)); }
        }

        /// 3.2: and it is unique, because cover is a lattice.
        #[test]
        fn join_is_the_least_cover(a in any_mode(), b in any_mode(), c in any_mode()) {
            let j = a.join(b);
            prop_assert!(j.covers(a) && j.covers(b));
            if c.covers(a) && c.covers(b) { prop_assert!(c.covers(j)); }
            prop_assert_eq!(j, b.join(a));
            prop_assert_eq!(a.join(b).join(c), a.join(b.join(c)));
        }

        #[test]
        fn the_strongest_beside_is_beside_and_strongest(a in any_mode(), b in any_mode()) {
            let s = a.strongest_beside();
            prop_assert!(s.compatible(a));
            if b.compatible(a) && b.covers(s) { prop_assert_eq!(b, s); }
        }
    }
}
