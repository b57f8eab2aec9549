//! Flags of requests as libdlm numbers them, and what is refused before anything is sent (scenarios 3, 10, 22, 51).

use oarlock::Mode;
use rustix::io::Errno;

use crate::{LOCKSPACE_BYTES_MAX, RESOURCE_BYTES_MAX};

bitflags::bitflags! {
    /// How a lock is asked for. Bits that mean nothing here are ignored, as programs are used to.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct LockFlags: u32 {
        /// Do not wait.
        const NOQUEUE = 0x1;
        /// Only for unlock calls.
        const CANCEL = 0x2;
        /// Change the mode of a lock that is held.
        const CONVERT = 0x4;
        /// Read or write the value block.
        const VALBLK = 0x8;
        /// Queue behind conversions that wait already.
        const QUECVT = 0x10;
        /// Mark the value block as not to be believed.
        const IVVALBLK = 0x20;
        /// Rather be demoted to NL than refused.
        const CONVDEADLK = 0x40;
        /// Let the lock outlive the program.
        const PERSISTENT = 0x80;
        /// Never the victim of a deadlock.
        const NODLCKWT = 0x100;
        /// Not a reason for a deadlock.
        const NODLCKBLK = 0x200;
        /// A new NL lock past every queue.
        const EXPEDITE = 0x400;
        /// A request that fails without waiting tells whoever is in its way.
        const NOQUEUEBAST = 0x800;
        /// In front of those who wait.
        const HEADQUE = 0x1000;
        /// Past those who wait, where it fits.
        const NOORDER = 0x2000;
        /// Adopt a lock that a program has left behind.
        const ORPHAN = 0x4000;
        /// PR will do.
        const ALTPR = 0x8000;
        /// CW will do.
        const ALTCW = 0x1_0000;
        /// Only for unlock calls.
        const FORCEUNLOCK = 0x2_0000;
        /// Give up after a time.
        const TIMEOUT = 0x4_0000;
        /// Of the library's own calls that wait.
        const WAIT = 0x8000_0000;
    }
}

/// What may be said about giving a lock back.
const UNLOCK: LockFlags =
    LockFlags::CANCEL.union(LockFlags::VALBLK).union(LockFlags::IVVALBLK).union(LockFlags::FORCEUNLOCK);

/// A mode and flags that go together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// The mode.
    pub mode: Mode,
    /// The flags.
    pub flags: LockFlags,
}

impl Asked {
    /// From numbers. `value`: there is a block to read into and to write from.
    ///
    /// # Errors
    /// [`Errno::INVAL`].
    pub fn new(mode: u32, flags: u32, name: &[u8], lkid: u32, value: bool) -> Result<Asked, Errno> {
        use LockFlags as F;
        let flags = F::from_bits_truncate(flags);
        let mode =
            usize::try_from(mode).ok().and_then(|at| Mode::ALL.get(at)).copied().ok_or(Errno::INVAL)?;
        let converts = flags.contains(F::CONVERT);
        let wrong = name.len() > RESOURCE_BYTES_MAX
            || flags.contains(F::CANCEL)
            || !converts && flags.intersects(F::QUECVT | F::CONVDEADLK)
            || flags.contains(F::CONVDEADLK | F::NOQUEUE)
            || flags.contains(F::EXPEDITE)
                && (mode != Mode::NL || flags.intersects(F::CONVERT | F::NOQUEUE | F::QUECVT))
            || flags.contains(F::VALBLK) && !value
            || converts && lkid == 0;
        if wrong { Err(Errno::INVAL) } else { Ok(Asked { mode, flags }) }
    }

    /// Whether the mode that is held now can be changed like this (10): QUECVT is for conversions upward.
    ///
    /// # Errors
    /// [`Errno::INVAL`].
    pub fn check_from(&self, held: Mode) -> Result<(), Errno> {
        if self.flags.contains(LockFlags::QUECVT) && held.covers(self.mode) {
            Err(Errno::INVAL)
        } else {
            Ok(())
        }
    }

    /// The second choice.
    pub fn alternate(&self) -> Option<Mode> {
        let choices = [(LockFlags::ALTPR, Mode::PR), (LockFlags::ALTCW, Mode::CW)];
        choices
            .into_iter()
            .find(|(flag, mode)| self.flags.contains(*flag) && self.mode != *mode)
            .map(|it| it.1)
    }
}

/// Flags of an unlock call that go together.
///
/// # Errors
/// [`Errno::INVAL`].
pub fn unlock(flags: u32) -> Result<LockFlags, Errno> {
    let flags = LockFlags::from_bits(flags).ok_or(Errno::INVAL)?;
    let both = LockFlags::CANCEL | LockFlags::FORCEUNLOCK;
    if UNLOCK.contains(flags) && !flags.contains(both) { Ok(flags) } else { Err(Errno::INVAL) }
}

/// The name of a lockspace: 1 to 64 bytes of text. What follows a `/` would be taken for the name of a resource.
///
/// # Errors
/// [`Errno::INVAL`].
pub fn space_name(name: &[u8]) -> Result<&str, Errno> {
    let name = std::str::from_utf8(name).map_err(|_| Errno::INVAL)?;
    let fits = (1..=LOCKSPACE_BYTES_MAX).contains(&name.len()) && !name.contains('/');
    if fits { Ok(name) } else { Err(Errno::INVAL) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(mode: u32, flags: LockFlags) -> Result<Asked, Errno> {
        Asked::new(mode, flags.bits(), b"r", 7, true)
    }

    /// Scenarios 3, 10, 22 and 51.
    #[test]
    fn what_makes_no_sense_is_refused() {
        use LockFlags as F;
        let wrong = [
            (6, F::empty()),
            (0, F::CANCEL),
            (5, F::QUECVT),
            (5, F::CONVDEADLK),
            (5, F::CONVERT | F::CONVDEADLK | F::NOQUEUE),
            (1, F::EXPEDITE),
            (0, F::EXPEDITE | F::CONVERT),
            (0, F::EXPEDITE | F::NOQUEUE),
        ];
        for (mode, flags) in wrong {
            assert_eq!(asked(mode, flags), Err(Errno::INVAL), "{mode} {flags:?}");
        }
        for (mode, flags) in
            [(0, F::EXPEDITE), (0, F::EXPEDITE | F::VALBLK), (5, F::CONVERT | F::QUECVT), (5, F::WAIT)]
        {
            assert!(asked(mode, flags).is_ok(), "{mode} {flags:?}");
        }
        assert!(Asked::new(5, F::VALBLK.bits(), b"r", 0, false).is_err());
        assert!(Asked::new(5, F::CONVERT.bits(), b"r", 0, true).is_err());
        assert!(
            Asked::new(5, 0, &[b'x'; 65], 0, true).is_err() && Asked::new(5, 0, &[0; 64], 0, true).is_ok()
        );
    }

    #[test]
    fn quecvt_is_for_the_way_up() {
        let to = |mode| asked(mode, LockFlags::CONVERT | LockFlags::QUECVT).unwrap();
        assert!(to(3).check_from(Mode::CW).is_ok() && to(2).check_from(Mode::PR).is_ok());
        assert!(to(3).check_from(Mode::PR).is_err() && to(1).check_from(Mode::EX).is_err());
    }

    #[test]
    fn the_second_choice_is_another_mode() {
        let both = LockFlags::ALTPR | LockFlags::ALTCW;
        assert_eq!(asked(3, both).unwrap().alternate(), Some(Mode::CW));
        assert_eq!(asked(2, both).unwrap().alternate(), Some(Mode::PR));
        assert_eq!(asked(3, LockFlags::ALTPR).unwrap().alternate(), None);
    }

    #[test]
    fn an_unlock_has_four_flags_of_which_two_exclude_each_other() {
        for flags in [0, 2, 8, 0x28, 0x2_0000, 0x2_0008] {
            assert!(unlock(flags).is_ok(), "{flags:#x}");
        }
        for flags in [1, 4, 0x2_0002, 0x8000_0000, 1 << 30] {
            assert_eq!(unlock(flags), Err(Errno::INVAL), "{flags:#x}");
        }
    }

    #[test]
    fn a_lockspace_has_a_name_without_a_slash() {
        assert_eq!(space_name(b"lvm_vg0"), Ok("lvm_vg0"));
        for name in [&b""[..], b"a/b", &[b'x'; 65], b"\xff"] {
            assert_eq!(space_name(name), Err(Errno::INVAL));
        }
    }
}
