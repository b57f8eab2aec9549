//! Another program in this very process: what passes into it, and how it begins (L5).
//!
//! Process, parent and children, the signal that comes when the parent dies, and every descriptor that is not closed stay as they
//! are. Memory and threads go.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::{SigSet, Signal};
use rustix::fs::{MemfdFlags, Mode, SealFlags};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// Nobody changes it any more, whoever has it.
const SEALS: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::WRITE).union(SealFlags::SEAL);

/// Where this program is, as it was named: if that is a link to the program of the day, whoever asks for the next one follows it
/// anew. The kernel knows only where it led when this process began.
pub fn this_program() -> io::Result<PathBuf> {
    let resolved = std::env::current_exe()?;
    let named = std::env::args_os().next().map(PathBuf::from).filter(|named| named.is_absolute());
    let is_it = |named: &PathBuf| named.canonicalize().is_ok_and(|it| it == resolved);
    Ok(named.filter(is_it).unwrap_or(resolved))
}

/// A file in memory for what another program says. It never fills, and ends where the program has stopped writing.
pub fn notepad() -> io::Result<OwnedFd> {
    Ok(rustix::fs::memfd_create("oarlock-said", MemfdFlags::CLOEXEC)?)
}

/// A file in memory with these bytes, which nobody else may open and nobody can change.
pub fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("oarlock-restart", flags)?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o600))?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&fd, rest))?;
        rest = &rest[written..];
    }
    rustix::fs::fcntl_add_seals(&fd, SEALS)?;
    Ok(fd)
}

/// The bytes of such a file, and of no other.
pub fn unsealed(fd: &OwnedFd) -> io::Result<Vec<u8>> {
    if !rustix::fs::fcntl_get_seals(fd)?.contains(SEALS) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is not sealed"));
    }
    let length = rustix::fs::fstat(fd)?.st_size as usize;
    let mut bytes = vec![0; length];
    let mut read = 0;
    while read < length {
        match rustix::io::retry_on_intr(|| rustix::io::pread(fd, &mut bytes[read..], read as u64))? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => read += n,
        }
    }
    Ok(bytes)
}

/// Lets descriptors pass into the program that comes next, or not.
pub fn pass(fds: &[BorrowedFd<'_>], pass: bool) -> io::Result<()> {
    let flags = if pass { FdFlags::empty() } else { FdFlags::CLOEXEC };
    fds.iter().try_for_each(|fd| Ok(fcntl_setfd(fd, flags)?))
}

/// Takes up a descriptor that was passed by its number. From here on it passes into no other program by itself.
///
/// To be called once for each number that the program before has named, before anything else opens descriptors.
pub fn take(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::Error::from_raw_os_error(rustix::io::Errno::BADF.raw_os_error()));
    }
    // SAFETY: the number is not negative, and the borrow ends with this line's call, which only asks the kernel whether it stands for
    // anything; if it does not, the answer is an error.
    fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) })?;
    // SAFETY: it is open, as the kernel has just said. The program that was here before has passed it on under this number to be
    // owned by whoever reads the number, and it was closed there with that program; in this one nobody else knows of it, since the
    // number stands in the parcel once (its reader refuses one that names a number twice).
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// The program at `path` takes the place of this one. Returns only if that cannot be; then nothing has changed.
///
/// Not by the standard library, which gives SIGPIPE back its deadly meaning before, and leaves it so if it fails.
pub fn replace(path: &Path, args: &[&std::ffi::OsStr]) -> io::Error {
    let words = || -> Result<(CString, Vec<CString>), std::ffi::NulError> {
        let all: Result<Vec<CString>, _> = std::iter::once(path.as_os_str())
            .chain(args.iter().copied())
            .map(|w| CString::new(w.as_bytes()))
            .collect();
        Ok((CString::new(path.as_os_str().as_bytes())?, all?))
    };
    match words() {
        Ok((path, words)) => match nix::unistd::execv(&path, &words) {
            Err(errno) => errno.into(),
            Ok(never) => {
                let never: Infallible = never;
                match never {}
            }
        },
        Err(e) => e.into(),
    }
}

/// The number of a descriptor, as the next program will know it.
pub fn number(fd: BorrowedFd<'_>) -> RawFd {
    fd.as_raw_fd()
}

/// Holds these signals back, or lets them come: one that arrives between two programs would act on the process by itself.
pub fn hold_back(numbers: &[i32], hold: bool) -> io::Result<()> {
    let mut set = SigSet::empty();
    for number in numbers {
        set.add(Signal::try_from(*number)?);
    }
    Ok(if hold { set.thread_block() } else { set.thread_unblock() }?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn what_is_sealed_stays_as_it_is_and_nothing_else_is_believed() {
        let fd = sealed(b"all that a run remembers").unwrap();
        assert_eq!(unsealed(&fd).unwrap(), b"all that a run remembers");
        assert!(rustix::io::pwrite(&fd, b"x", 0).is_err());
        assert!(rustix::fs::ftruncate(&fd, 3).is_err());
        assert_eq!(rustix::fs::fstat(&fd).unwrap().st_mode & 0o777, 0o600);
        let open =
            rustix::fs::memfd_create("other", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(unsealed(&open).is_err());
    }

    #[test]
    fn a_program_that_cannot_be_run_changes_nothing() {
        let (read, _write) = rustix::pipe::pipe().unwrap();
        pass(&[read.as_fd()], true).unwrap();
        assert_eq!(fcntl_getfd(&read).unwrap(), FdFlags::empty());
        let gone = replace(Path::new("/nonexistent/oarlock"), &[std::ffi::OsStr::new("engine")]);
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        pass(&[read.as_fd()], false).unwrap();
        assert_eq!(fcntl_getfd(&read).unwrap(), FdFlags::CLOEXEC);
        let number = number(read.as_fd());
        let again = take(std::os::fd::IntoRawFd::into_raw_fd(rustix::io::dup(&read).unwrap())).unwrap();
        assert_ne!(again.as_raw_fd(), number);
        assert!(take(-1).is_err() && take(1 << 20).is_err());
    }
}
