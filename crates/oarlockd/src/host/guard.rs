//! A guard over a command's process group: if this process is killed, the group is killed too.
//!
//! The kernel can bind the life of *one* child to ours ([`child::spawn_bound`](super::child::spawn_bound)). What
//! that child has started lives on, and works under a lock that is gone. So a copy of this process stands
//! by, does nothing but wait for a pipe to close, and then kills the group.
//!
//! ```text
//!   oarlock lock ──┬── command (a group of its own) ── whatever it starts
//!        │  pipe   │
//!        └─────────┴── guard:  end of file ─► kill the group;  one byte ─► go in peace
//! ```
//!
//! The copy also keeps the session's socket open. That is wanted: the node hears the hang-up, and gives the
//! lock to somebody else, only after the group is dead.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags, RawDir};
use rustix::process::{Pid, Signal};

/// How long the guard waits for killed processes to be gone before it lets go of the socket.
const GONE_MAX_MS: u32 = 1000;

/// The living end of the pipe. Dropped without [`dismiss`](Guard::dismiss), it is as if this process died.
pub struct Guard {
    pipe: OwnedFd,
}

impl Guard {
    /// Sets a guard over the process group led by `leader`.
    pub fn over(leader: u32) -> io::Result<Guard> {
        let group = Pid::from_raw(leader as i32).ok_or(io::ErrorKind::InvalidInput)?;
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let (read_end, write_end) = (read.as_raw_fd(), write.as_raw_fd());
        // SAFETY: after a fork, only async-signal-safe work is allowed in the child, because another thread
        // may have held a lock (of the allocator, say) at that moment. `stand` is all the child ever runs: it
        // makes system calls directly through rustix or through libc's bare wrappers (close, _exit), takes
        // only integers, allocates nothing, and never returns, so no destructor of this process runs twice.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => stand(read_end, write_end, group),
            _ => Ok(Guard { pipe: write }),
        }
    }

    /// The command has ended by itself: nothing is to be killed.
    pub fn dismiss(self) {
        // If the guard is gone there is nobody to tell.
        let _ = rustix::io::write(&self.pipe, b"d");
    }
}

/// The life of the guard.
fn stand(read_end: RawFd, write_end: RawFd, group: Pid) -> ! {
    // A group of its own: whoever kills ours must not kill the guard with it.
    let _ = rustix::process::setpgid(None, None);
    // Somebody may wait for the end of our output, or for the pipe's.
    for fd in [0, 1, 2, write_end] {
        // SAFETY: close takes an integer; these descriptors are the child's own copies, which nothing in the
        // child uses again.
        unsafe { libc::close(fd) };
    }
    let mut byte = [0u8; 1];
    loop {
        // SAFETY: `read_end` is open in this process and stays so until `_exit`.
        let fd = unsafe { rustix::fd::BorrowedFd::borrow_raw(read_end) };
        match rustix::io::read(fd, &mut byte) {
            Ok(0) => break,
            Err(rustix::io::Errno::INTR) => {}
            // Dismissed, or nothing to read from: nobody is to be killed for that.
            Ok(_) | Err(_) => leave(),
        }
    }
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
    for _ in 0..GONE_MAX_MS {
        if rustix::process::test_kill_process_group(group).is_err() || all_ended(group) == Some(true) {
            break;
        }
        let pause = rustix::thread::Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        let _ = rustix::thread::nanosleep(&pause);
    }
    leave()
}

/// Whether the members of a group that are left have ended and only wait to be reaped: their parent is gone, and the
/// first process of a container often takes its time. Signals still find them. Nothing if it cannot be told.
///
/// Runs after a fork: it allocates nothing.
fn all_ended(group: Pid) -> Option<bool> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let proc = rustix::fs::open(c"/proc", flags | OFlags::DIRECTORY, Mode::empty()).ok()?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(&proc, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.ok()?;
        let name = entry.file_name();
        if !name.to_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        // A process that cannot be looked at has just been reaped.
        let Some(stat) = read_stat(&proc, name) else { continue };
        let (state, its) = state_and_group(stat.0.get(..stat.1)?)?;
        if its == group.as_raw_nonzero().get() && !matches!(state, b'Z' | b'X') {
            return Some(false);
        }
    }
    Some(true)
}

/// The beginning of `/proc/PID/stat`, and how long it is.
fn read_stat(proc: &OwnedFd, name: &CStr) -> Option<([u8; 256], usize)> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(proc, name, flags | OFlags::DIRECTORY, Mode::empty()).ok()?;
    let file = rustix::fs::openat(&dir, c"stat", flags, Mode::empty()).ok()?;
    let mut bytes = [0; 256];
    let length = rustix::io::read(&file, &mut bytes).ok()?;
    Some((bytes, length))
}

/// State and process group stand behind the name in parentheses, which may contain anything.
fn state_and_group(stat: &[u8]) -> Option<(u8, i32)> {
    let behind = &stat[stat.iter().rposition(|b| *b == b')')? + 1..];
    let mut words = behind.split(|b| *b == b' ').filter(|word| !word.is_empty());
    let state = *words.next()?.first()?;
    let digits = words.nth(1)?;
    digits
        .iter()
        .try_fold(0i32, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i32::from(digit - b'0')))
        .map(|group| (state, group))
}

fn leave() -> ! {
    // SAFETY: `_exit` ends the process without running anything of this process's: no destructors, no
    // buffers written a second time.
    unsafe { libc::_exit(0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::Command;
    use std::time::{Duration, Instant};

    fn family() -> std::process::Child {
        Command::new("sh").args(["-c", "sleep 61; true"]).process_group(0).spawn().unwrap()
    }

    #[test]
    fn a_guard_kills_the_group_when_its_pipe_closes() {
        let mut shell = family();
        let guard = Guard::over(shell.id()).unwrap();
        assert!(shell.try_wait().unwrap().is_none());
        drop(guard);
        assert_eq!(shell.wait().unwrap().signal(), Some(9));
    }

    /// The shell is killed and nobody reaps it: the group still takes signals, and is over all the same.
    #[test]
    fn what_only_waits_to_be_reaped_has_ended() {
        let mut shell = family();
        let group = Pid::from_child(&shell);
        assert_eq!(all_ended(group), Some(false));
        rustix::process::kill_process_group(group, Signal::KILL).unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        while all_ended(group) == Some(false) {
            assert!(Instant::now() < end, "the group does not end");
        }
        assert!(rustix::process::test_kill_process_group(group).is_ok(), "it was not reaped");
        assert_eq!(all_ended(group), Some(true));
        shell.wait().unwrap();
    }

    #[test]
    fn a_name_may_look_like_the_rest() {
        assert_eq!(state_and_group(b"7 (a) Z 1 9) S 1 42 42 0"), Some((b'S', 42)));
        assert_eq!(state_and_group(b"7 (a"), None);
        assert_eq!(state_and_group(b"7 (a) S 1 -1 0"), None);
    }

    #[test]
    fn a_dismissed_guard_kills_nobody() {
        let mut shell = family();
        Guard::over(shell.id()).unwrap().dismiss();
        let end = Instant::now() + Duration::from_millis(100);
        while Instant::now() < end {
            assert!(shell.try_wait().unwrap().is_none());
            std::thread::sleep(Duration::from_millis(5));
        }
        rustix::process::kill_process_group(Pid::from_child(&shell), Signal::KILL).unwrap();
        shell.wait().unwrap();
    }
}
