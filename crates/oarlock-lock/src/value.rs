//! Which calls read the value block and which write it (scenarios 26 to 28).

use oarlock_layout::mode::Mode;
use oarlock_layout::value::Value;

/// What a grant or convert with VALBLK does with the block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    Read,
    Write,
    Nothing,
}

/// From a mode (none for a new lock) to a mode. This is the one place where the numbers of modes order them,
/// because the manuals say "higher" and mean the number: CW to PR reads and PR to CW does nothing.
pub(crate) fn effect(from: Option<Mode>, to: Mode) -> Effect {
    use Mode::{EX, NL, PW};
    match from {
        None | Some(NL) => Effect::Read,
        Some(EX) => Effect::Write,
        Some(PW) if to == EX => Effect::Read,
        Some(PW) => Effect::Write,
        Some(from) if to as u8 >= from as u8 => Effect::Read,
        Some(_) => Effect::Nothing,
    }
}

/// May a shadow that owns `owned` read the block from its own copy? Only where no other node can be writing
/// (R5 e): CR and NL stand beside a writer.
pub(crate) fn readable_under(owned: Mode) -> bool {
    matches!(owned, Mode::CW | Mode::PR | Mode::PW | Mode::EX)
}

/// The newer of two blocks of one life of a resource.
pub(crate) fn newer(one: Value, other: Value) -> Value {
    if other.sequence > one.sequence { other } else { one }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Mode::*;

    #[test]
    fn the_table_of_scenarios_26_to_28() {
        for to in Mode::ALL {
            assert_eq!(effect(None, to), Effect::Read, "new {to}");
            assert_eq!(effect(Some(NL), to), Effect::Read, "NL to {to}");
            assert_eq!(effect(Some(EX), to), Effect::Write, "EX to {to}, EX included");
        }
        assert_eq!(effect(Some(PW), EX), Effect::Read);
        for to in [NL, CR, CW, PR, PW] {
            assert_eq!(effect(Some(PW), to), Effect::Write, "PW to {to}");
        }
        for (from, to) in [(CR, CR), (CW, CW), (PR, PR), (CW, PR), (CR, EX), (PR, PW)] {
            assert_eq!(effect(Some(from), to), Effect::Read, "{from} to {to}");
        }
        for (from, to) in [(PR, CW), (PR, CR), (CW, CR), (CR, NL), (PR, NL)] {
            assert_eq!(effect(Some(from), to), Effect::Nothing, "{from} to {to}");
        }
    }
}
