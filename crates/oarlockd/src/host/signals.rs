//! Signals as bytes in a pipe, so that they are waited for like everything else.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::low_level::pipe;

/// From now on a file that may not grow any more (`ulimit -f`) is an error for whoever writes to it, as a full disk is. By itself the
/// kernel ends the process, also for a file in memory. Programs that this one starts have the signal as it was at first.
pub fn outlive_file_limits() -> io::Result<()> {
    signal_hook::flag::register(libc::SIGXFSZ, Arc::default()).map(|_| ())
}

/// A pipe per signal, so that no signal hides another.
pub struct Signals {
    pipes: Vec<(i32, OwnedFd)>,
}

impl Signals {
    /// From now on these signals no longer act on the process by themselves.
    pub fn catch(numbers: &[i32]) -> io::Result<Signals> {
        let mut pipes = Vec::with_capacity(numbers.len());
        for &number in numbers {
            let (read, write) = rustix::pipe::pipe_with(
                rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK,
            )?;
            pipe::register(number, write)?;
            pipes.push((number, read));
        }
        Ok(Signals { pipes })
    }

    /// The same in a program that has taken another's place in this process: these are the pipes of that one, and what it did not
    /// take out of them any more came. So did what the kernel has held back.
    pub fn resume(pipes: Vec<(i32, OwnedFd)>) -> io::Result<Signals> {
        let numbers: Vec<i32> = pipes.iter().map(|(number, _)| *number).collect();
        let signals = Signals::catch(&numbers)?;
        for number in (Signals { pipes }).take() {
            signal_hook::low_level::raise(number)?;
        }
        super::exec::hold_back(&numbers, false)?;
        Ok(signals)
    }

    /// What to watch: (signal, descriptor).
    pub fn watched(&self) -> impl Iterator<Item = (i32, BorrowedFd<'_>)> {
        self.pipes.iter().map(|(number, fd)| (*number, fd.as_fd()))
    }

    /// Whether one came since they were last taken; takes none.
    pub fn pending(&self) -> bool {
        let mut fds: Vec<PollFd<'_>> =
            self.pipes.iter().map(|(_, fd)| PollFd::new(fd, PollFlags::IN)).collect();
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(n) if n > 0)
    }

    /// The signals that came since the last call, each once.
    pub fn take(&self) -> Vec<i32> {
        let mut came = Vec::new();
        for (number, fd) in &self.pipes {
            let mut buffer = [0u8; 64];
            let mut any = false;
            while matches!(rustix::io::read(fd, &mut buffer), Ok(n) if n > 0) {
                any = true;
            }
            if any {
                came.push(*number);
            }
        }
        came
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_between_two_programs_is_not_lost() {
        use signal_hook::consts::{SIGPROF, SIGVTALRM};
        let before = Signals::catch(&[SIGVTALRM, SIGPROF]).unwrap();
        signal_hook::low_level::raise(SIGVTALRM).unwrap();
        super::super::exec::hold_back(&[SIGVTALRM, SIGPROF], true).unwrap();
        // To this thread, so that no other one of the test's takes it.
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGPROF).unwrap();
        let after = Signals::resume(before.pipes).unwrap().take();
        assert_eq!(after, [SIGVTALRM, SIGPROF]);
    }

    #[test]
    fn a_caught_signal_is_told_once() {
        let signals = Signals::catch(&[signal_hook::consts::SIGURG, signal_hook::consts::SIGWINCH]).unwrap();
        assert!(signals.take().is_empty());
        signal_hook::low_level::raise(signal_hook::consts::SIGURG).unwrap();
        signal_hook::low_level::raise(signal_hook::consts::SIGURG).unwrap();
        assert!(signals.pending() && signals.pending());
        assert_eq!(signals.take(), [signal_hook::consts::SIGURG]);
        assert!(signals.take().is_empty());
    }
}
