//! Children that do not outlive their parent, whatever it dies of.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, Signal};

/// Starts `command` so that the kernel sends it `signal` when this thread ends, even by SIGKILL.
///
/// The kernel watches the *thread* that started the child: call this from one that lives as long as the
/// process.
pub fn spawn_bound(command: &mut Command, signal: Signal) -> io::Result<Child> {
    let parent = rustix::process::getpid();
    let before_exec = move || {
        rustix::process::set_parent_process_death_signal(Some(signal))?;
        // If the parent died before the line above, nobody will ever send the signal.
        if rustix::process::getppid() != Some(parent) {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error()));
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe work is allowed, because another thread may have
    // held any lock at the moment of the fork. The closure makes two system calls (prctl, getppid) through
    // rustix, which issues them directly: no allocation, no lock, no shared state. Its captures are two
    // integers. The error paths build an `io::Error` from a number, which does not allocate either.
    unsafe { command.pre_exec(before_exec) };
    command.spawn()
}

/// A descriptor that becomes readable when the process ends.
pub fn watch(pid: u32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid as i32).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Sends a signal to a process or, if it leads one, to its group.
pub fn signal(pid: u32, group: bool, signal: Signal) {
    let Some(pid) = Pid::from_raw(pid as i32) else { return };
    // A process that is gone needs no signal.
    let _ = match group {
        true => rustix::process::kill_process_group(pid, signal),
        false => rustix::process::kill_process(pid, signal),
    };
}

/// Lets a descriptor pass into children started from here on.
pub fn inherit(fd: impl AsFd) -> io::Result<()> {
    Ok(fcntl_setfd(fd, FdFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};
    use std::time::{Duration, Instant};

    #[test]
    fn a_child_dies_with_the_thread_that_started_it() {
        let child =
            std::thread::spawn(|| spawn_bound(Command::new("sleep").arg("60"), Signal::KILL).unwrap());
        let mut child = child.join().unwrap();
        let end = Instant::now() + Duration::from_secs(5);
        while child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "the child lives on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn the_end_of_a_child_can_be_waited_for() {
        let mut child = spawn_bound(Command::new("sleep").arg("60"), Signal::KILL).unwrap();
        let fd = watch(child.id()).unwrap();
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap(), 0);
        signal(child.id(), false, Signal::TERM);
        assert_eq!(poll(&mut fds, None).unwrap(), 1);
        assert!(!child.wait().unwrap().success());
    }
}
