//! The lease of a node's run as its programs see it, also while the node stands still (L1, L6).
//!
//! ```text
//!   0          8          16         24
//!   │ magic    │ until    │ ¬until   │     little endian, nanoseconds of CLOCK_BOOTTIME
//! ```
//!
//! The node keeps these bytes in a file that programs may read and not write, and hands it to each with its welcome.

use crate::limit::{LEASE_ENDING, LEASE_FROZEN, LEASE_KILLING};
use crate::time::{Duration, Instant};

/// Bytes of the note.
pub const NOTE_BYTES: usize = 24;
/// How it begins. The last byte grows with each change of layout.
const MAGIC: [u8; 8] = *b"oarlease";

/// The note of a lease that lasts until then. Zero: there is none yet.
pub fn note(until: Instant) -> [u8; NOTE_BYTES] {
    let mut bytes = [0; NOTE_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&until.0.to_le_bytes());
    bytes[16..].copy_from_slice(&(!until.0).to_le_bytes());
    bytes
}

/// Reads a note. None: these bytes are none, or were read while they changed.
pub fn read(bytes: &[u8; NOTE_BYTES]) -> Option<Instant> {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    (bytes[..8] == MAGIC && number(8) == !number(16)).then(|| Instant(number(8)))
}

/// What the time that is left means for whoever holds a lock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Standing {
    /// All is well.
    Live,
    /// Nothing new is granted. If it is renewed nothing was lost; if not, what is done under a lock must end in time.
    AtRisk,
    /// As before, and the commands of `oarlock lock` are asked to end.
    Ending,
    /// As before, and they are killed.
    Killing,
    /// Every lock is lost: others may have it.
    Over,
}

impl Standing {
    /// Of a lease that lasts until then.
    pub fn of(until: Instant, now: Instant) -> Standing {
        match until.since(now) {
            Duration::ZERO => Standing::Over,
            left if left <= LEASE_KILLING => Standing::Killing,
            left if left <= LEASE_ENDING => Standing::Ending,
            left if left <= LEASE_FROZEN => Standing::AtRisk,
            _ => Standing::Live,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_reads_as_it_was_written_and_a_torn_one_does_not() {
        for until in [0, 1, 77_000_000_123, u64::MAX] {
            assert_eq!(read(&note(Instant(until))), Some(Instant(until)));
        }
        let (old, new) = (note(Instant(0x1111_2222)), note(Instant(0x1111_3333)));
        for cut in 9..23 {
            let mut torn = old;
            torn[..cut].copy_from_slice(&new[..cut]);
            let whole = torn == old || torn == new;
            assert_eq!(read(&torn).is_some(), whole, "cut after {cut} bytes");
        }
        assert_eq!(read(&[0; NOTE_BYTES]), None);
    }

    /// L6: the same steps as the node's own, and those that it leaves to programs.
    #[test]
    fn a_lease_that_nobody_renews_ends_in_four_steps() {
        let until = Instant::from_millis(10_000);
        let at = |ms| Standing::of(until, Instant::from_millis(ms));
        let steps = [
            (0, 8_799, Standing::Live),
            (8_800, 9_399, Standing::AtRisk),
            (9_400, 9_849, Standing::Ending),
            (9_850, 9_999, Standing::Killing),
            (10_000, 99_999, Standing::Over),
        ];
        for (from, to, standing) in steps {
            assert_eq!((at(from), at(to)), (standing, standing), "{from} to {to}");
        }
    }
}
