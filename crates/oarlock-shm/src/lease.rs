//! The note in which a node says until when its lease lasts: a file in memory that every program of the node can look at,
//! whatever becomes of the node, and that no program can write (L1, L6).
//!
//! A look is a system call that asks nobody. Segments have the same time in their header, for grants; this is for those who
//! have a place in none, and for what a program does seldom.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oarlock_layout::lease::{self, NOTE_BYTES, Standing};
use oarlock_layout::time::Instant;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;

/// Looks at a note that changes again and again, before it counts as one that cannot be read.
const LOOKS_MAX: u32 = 100;

/// The node's side.
#[derive(Debug)]
pub struct LeaseNote {
    file: OwnedFd,
    /// The same file, open for reading only: what programs get.
    shown: OwnedFd,
}

impl LeaseNote {
    /// A note of no lease yet.
    pub fn create() -> Result<LeaseNote, Errno> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("oarlock-lease", flags)?;
        rustix::fs::ftruncate(&file, NOTE_BYTES as u64)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        // Whoever opens it anew by its descriptor may read it, and that is all.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o444))?;
        let number = std::os::fd::AsRawFd::as_raw_fd(&file);
        let path = format!("/proc/self/fd/{number}");
        let shown = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let note = LeaseNote { file, shown };
        note.write(Instant(0))?;
        Ok(note)
    }

    /// Both descriptors of the note: what the node writes, and what programs get.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.file.as_fd(), self.shown.as_fd()]
    }

    /// The note that has these [`descriptors`](LeaseNote::descriptors), in the program that takes the run over.
    pub fn resume([file, shown]: [OwnedFd; 2]) -> LeaseNote {
        LeaseNote { file, shown }
    }

    /// The lease lasts until then.
    pub fn write(&self, until: Instant) -> Result<(), Errno> {
        match rustix::io::pwrite(&self.file, &lease::note(until), 0)? {
            NOTE_BYTES => Ok(()),
            _ => Err(Errno::IO),
        }
    }
}

/// What programs get.
impl AsFd for LeaseNote {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shown.as_fd()
    }
}

/// A program's side.
#[derive(Debug)]
pub struct LeaseSight {
    file: OwnedFd,
    /// What this program's clock is ahead of the node's, in nanoseconds.
    ahead: i64,
}

impl LeaseSight {
    /// Looks at the note of a node whose clock read `now` between `asked` and `heard` of this program's clock. None: this is
    /// no note.
    ///
    /// In a time namespace clocks are apart by a fixed time. It is not known exactly then; the end is taken for earlier
    /// by at most what the node took to answer.
    pub fn open(file: OwnedFd, asked: Instant, now: Instant, heard: Instant) -> Option<LeaseSight> {
        let same = (asked..=heard).contains(&now);
        let ahead = if same { 0 } else { asked.0.wrapping_sub(now.0) as i64 };
        let sight = LeaseSight { file, ahead };
        sight.read().map(|_| sight)
    }

    fn read(&self) -> Option<Instant> {
        let mut bytes = [0; NOTE_BYTES];
        (0..LOOKS_MAX).find_map(|_| match rustix::io::pread(&self.file, &mut bytes, 0) {
            Ok(NOTE_BYTES) => lease::read(&bytes),
            _ => None,
        })
    }

    /// Until when the lease lasts, as it stands now, on this program's CLOCK_BOOTTIME. None: the node has had none yet. One
    /// that cannot be read is over.
    pub fn until(&self) -> Option<Instant> {
        match self.read() {
            Some(Instant(0)) => None,
            Some(until) => Some(Instant(until.0.saturating_add_signed(self.ahead))),
            None => Some(Instant(0)),
        }
    }

    /// What that means at `now`.
    pub fn standing(&self, now: Instant) -> Standing {
        self.until().map_or(Standing::Live, |until| Standing::of(until, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(note: &LeaseNote, asked: u64, now: u64, heard: u64) -> LeaseSight {
        let file = note.as_fd().try_clone_to_owned().unwrap();
        LeaseSight::open(file, Instant(asked), Instant(now), Instant(heard)).unwrap()
    }

    #[test]
    fn what_the_node_writes_its_programs_see_and_cannot_write() {
        let note = LeaseNote::create().unwrap();
        let sight = sight(&note, 1, 2, 3);
        assert_eq!((sight.until(), sight.standing(Instant(9))), (None, Standing::Live));
        for until in [7, 8, 90_000_000_000] {
            note.write(Instant(until)).unwrap();
            assert_eq!(sight.until(), Some(Instant(until)));
        }
        assert_eq!(sight.standing(Instant(90_000_000_000)), Standing::Over);
        assert!(rustix::io::pwrite(&sight.file, b"x", 0).is_err(), "it is open for reading only");
        if !rustix::process::geteuid().is_root() {
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&sight.file));
            assert!(
                rustix::fs::open(path, OFlags::RDWR, Mode::empty()).is_err(),
                "nor can it be opened anew"
            );
        }
        assert!(rustix::fs::ftruncate(&note.file, 0).is_err(), "it stays as long as it is");
    }

    #[test]
    fn another_clock_is_taken_for_ahead_by_as_much_as_it_may_be() {
        let note = LeaseNote::create().unwrap();
        note.write(Instant(5_000)).unwrap();
        assert_eq!(sight(&note, 1_000, 1_010, 1_020).until(), Some(Instant(5_000)), "the same clock");
        assert_eq!(sight(&note, 11_000, 1_010, 11_020).until(), Some(Instant(14_990)), "ahead");
        assert_eq!(sight(&note, 100, 1_010, 120).until(), Some(Instant(4_090)), "behind");
        assert_eq!(sight(&note, 0, 9_000, 20).until(), Some(Instant(0)), "over before it began to count");
    }

    #[test]
    fn what_is_no_note_is_not_taken_for_one() {
        let file = rustix::fs::memfd_create("other", MemfdFlags::CLOEXEC).unwrap();
        assert!(LeaseSight::open(file, Instant(0), Instant(0), Instant(0)).is_none());
    }
}
