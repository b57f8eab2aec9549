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

/// The process that started this one; 0 if it cannot be seen from here.
pub fn parent() -> i32 {
    rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get())
}

/// Binds this process to its parent anew, which another program has started it under this number: not every kernel keeps that when a
/// program is executed. An error if that parent has died.
pub fn stay_bound(parent: i32, signal: Signal) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(signal))?;
    match self::parent() == parent {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error())),
    }
}

/// A descriptor that becomes readable when the process ends.
pub fn watch(pid: u32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid as i32).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Whether this process is in the foreground group of its terminal. Not asked of standard input: a command may
/// read its input from elsewhere and still open the terminal, to ask for a password for instance.
pub fn is_foreground() -> bool {
    let terminal = std::fs::File::open("/dev/tty");
    terminal
        .is_ok_and(|t| rustix::termios::tcgetpgrp(t).is_ok_and(|group| group == rustix::process::getpgrp()))
}

/// A child and what it started.
pub struct Family {
    child: u32,
    group: bool,
}

impl Family {
    /// The family of a child of this process; `group` if the child leads a process group of its own.
    ///
    /// From here on this process also inherits descendants whose own parents end, so that none gets out of
    /// its sight.
    pub fn new(child: u32, group: bool) -> Family {
        // Fails only on kernels far older than those we run on; then orphans are missed, nothing worse.
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        Family { child, group }
    }

    /// A child that leads a process group of its own, and who else is in that.
    pub const fn group(child: u32) -> Family {
        Family { child, group: true }
    }

    /// Passes a signal on: to the child's group if it leads one, else to the child.
    pub fn signal(&self, signal: Signal) {
        let Some(pid) = Pid::from_raw(self.child as i32) else { return };
        let send = |signal| {
            // A process that is gone needs no signal.
            let _ = match self.group {
                true => rustix::process::kill_process_group(pid, signal),
                false => rustix::process::kill_process(pid, signal),
            };
        };
        send(signal);
        if [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM].contains(&signal) {
            // A stopped process would hear of it only when somebody continues it. That may be nobody: a group
            // of its own is stopped when it reads from the terminal.
            send(Signal::CONT);
        }
    }

    /// Kills the child, its group and all descendants, also those that left the group.
    pub fn kill_all(&self) {
        if self.group {
            self.signal(Signal::KILL);
        }
        // A process may start another while we look: look until none is left.
        for _ in 0..16 {
            let living = descendants(std::process::id());
            if living.is_empty() {
                return;
            }
            for pid in living {
                if let Some(pid) = Pid::from_raw(pid as i32) {
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// All living descendants of a process, by what /proc says of parents. Zombies do no more harm.
pub fn descendants(of: u32) -> Vec<u32> {
    let mut parents: Vec<(u32, u32)> = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // "pid (comm) state ppid …": the command may contain anything, so begin behind its last bracket.
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let mut fields = rest.split(' ');
        let (Some(state), Some(parent)) = (fields.next(), fields.next()) else { continue };
        if !matches!(state, "Z" | "X")
            && let Ok(parent) = parent.parse()
        {
            parents.push((pid, parent));
        }
    }
    let mut found = vec![of];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.remove(0);
    found
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
    fn descendants_are_seen_even_if_they_hide_in_a_session_of_their_own() {
        let script = "setsid sleep 61 & sleep 62 & wait";
        let mut child = Command::new("sh").args(["-c", script]).process_group(0).spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(5);
        // The shell and two sleeps; `setsid` may be a step in between.
        while descendants(child.id()).len() < 2 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        let seen = descendants(child.id());
        assert_eq!(seen.len(), 2, "{seen:?}");
        for pid in seen.iter().chain([&child.id()]) {
            let _ = rustix::process::kill_process(Pid::from_raw(*pid as i32).unwrap(), Signal::KILL);
        }
        child.wait().unwrap();
    }

    #[test]
    fn the_end_of_a_child_can_be_waited_for() {
        let mut child = spawn_bound(Command::new("sleep").arg("60"), Signal::KILL).unwrap();
        let fd = watch(child.id()).unwrap();
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap(), 0);
        Family { child: child.id(), group: false }.signal(Signal::TERM);
        assert_eq!(poll(&mut fds, None).unwrap(), 1);
        assert!(!child.wait().unwrap().success());
    }
}
