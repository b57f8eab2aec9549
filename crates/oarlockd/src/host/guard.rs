//! A guard over a command: if this process is killed, or stands still when the lease of the node ends, the command is killed.
//!
//! The kernel can bind the life of *one* child to ours ([`child::spawn_bound`](super::child::spawn_bound)). What
//! that child has started lives on, and works under a lock that is gone. And a process that is stopped ends nobody, while its lease
//! runs out like any other. So a copy of this process stands by and does nothing but wait for its pipe to close, or for the last
//! moment at which a command under that lease may live (L6).
//!
//! ```text
//!   oarlock lock ──┬── command (a group of its own) ── whatever it starts
//!        │  pipe   │
//!        └─────────┴── guard:  end of file ─► kill the group;  "d" ─► go in peace
//!                              lease − 5 % ─► kill all that `oarlock lock` has started, and say so
//! ```
//!
//! The guard stands before the command begins, which names its group to it before it is executed ("g"): there is no moment in which it
//! works unguarded. At a terminal the command shares our group, which is not the guard's to kill: then it is the descendants alone.
//!
//! The copy also keeps the session's socket open. That is wanted: the node hears the hang-up, and gives the
//! lock to somebody else, only after the group is dead.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use oarlock_layout::limit::LEASE_KILLING;
use oarlock_shm::LeaseSight;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, RawDir};
use rustix::process::{Pid, Signal};

/// Said to the guard: here is a group, its number behind it.
const GROUP: u8 = b'g';
/// Said to the guard: nobody is to be killed.
const DISMISSED: u8 = b'd';
/// How long the guard waits for killed processes to be gone before it lets go of the socket.
const GONE_MAX_MS: u32 = 1000;
/// How often it is looked for descendants that were started while others were killed.
const ROUNDS: u32 = 16;
/// More parents above a process than anybody has.
const PARENTS_MAX: u32 = 4096;
/// The node may have no lease yet, or renew it: the guard looks again after that long at the latest.
const LOOK_MAX: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// The living end of the pipe. Dropped without [`dismiss`](Guard::dismiss), it is as if this process died.
pub struct Guard {
    pipe: OwnedFd,
}

impl Guard {
    /// Sets a guard over all that this process starts from now on; `lease` is the lease that they work under.
    pub fn over(lease: &LeaseSight) -> io::Result<Guard> {
        Guard::below(rustix::process::getpid(), lease)
    }

    /// Over all that another process starts, and what is bound to it.
    fn below(parent: Pid, lease: &LeaseSight) -> io::Result<Guard> {
        let (its, ours) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )?;
        let (its_end, our_end) = (its.as_raw_fd(), ours.as_raw_fd());
        // SAFETY: after a fork, only async-signal-safe work is allowed in the child, because another thread
        // may have held a lock (of the allocator, say) at that moment. `stand` is all the child ever runs: it
        // makes system calls directly through rustix or through libc's bare wrappers (close, _exit), reads the clock and
        // the note of the lease by nothing else, takes only integers and a reference to two of them, allocates nothing,
        // and never returns, so no destructor of this process runs twice.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => stand(its_end, our_end, parent, lease),
            _ => Ok(Guard { pipe: ours }),
        }
    }

    /// The command will not be executed unless the guard is there. If it is to lead a group of its own, it names that to the guard
    /// before.
    pub fn bind(&self, command: &mut Command, leads: bool) {
        let pipe = self.pipe.as_raw_fd();
        let tell = move || {
            let leader = if leads { rustix::process::getpid().as_raw_nonzero().get() } else { 0 };
            let pid = leader.to_le_bytes();
            let said = [GROUP, pid[0], pid[1], pid[2], pid[3]];
            // SAFETY: the child has a copy of every descriptor of its parent until it executes, and the parent, which is in
            // `spawn` meanwhile, keeps this one: `self` outlives the command's start.
            let pipe = unsafe { BorrowedFd::borrow_raw(pipe) };
            match rustix::net::send(pipe, &said, rustix::net::SendFlags::NOSIGNAL)? {
                5 => Ok(()),
                _ => Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())),
            }
        };
        if leads {
            command.process_group(0);
        }
        // SAFETY: between fork and exec only async-signal-safe work is allowed. The closure makes two system calls (getpid,
        // send) through rustix, which issues them directly: no allocation, no lock, no shared state. Its capture is an
        // integer, and its errors are built from numbers.
        unsafe { command.pre_exec(tell) };
    }

    /// The command has ended by itself: nothing is to be killed.
    pub fn dismiss(self) {
        // If the guard is gone there is nobody to tell.
        let _ = rustix::io::write(&self.pipe, &[DISMISSED]);
    }

    /// Whether the guard has ended the command, because nobody else did when the lease was about to be over.
    pub fn has_killed(&self) -> bool {
        let mut byte = [0u8; 1];
        let said = rustix::net::recv(&self.pipe, &mut byte, rustix::net::RecvFlags::DONTWAIT);
        said.is_ok_and(|(length, _)| length == 1)
    }
}

/// The life of the guard.
fn stand(its_end: RawFd, our_end: RawFd, parent: Pid, lease: &LeaseSight) -> ! {
    let mut group = None;
    // A group of its own: whoever kills or stops ours must not do it to the guard.
    let _ = rustix::process::setpgid(None, None);
    // Somebody may wait for the end of our output, or for the pipe's.
    for fd in [0, 1, 2, our_end] {
        // SAFETY: close takes an integer; these descriptors are the child's own copies, which nothing in the
        // child uses again.
        unsafe { libc::close(fd) };
    }
    // SAFETY: `its_end` is open in this process and stays so until `_exit`.
    let pipe = unsafe { BorrowedFd::borrow_raw(its_end) };
    let mut byte = [0u8; 1];
    loop {
        let mut left = LOOK_MAX;
        if let Some(until) = lease.until() {
            let kill_in = until.since(super::clock::now()).saturating_sub(LEASE_KILLING);
            if kill_in.is_zero() {
                // Said first: whoever sees the command dead must find why.
                let _ = rustix::net::send(pipe, b"k", rustix::net::SendFlags::NOSIGNAL);
                // From now on no command begins; one that did so just before has named its group.
                let _ = rustix::net::shutdown(pipe, rustix::net::Shutdown::Both);
                while let Ok(1) = rustix::io::read(pipe, &mut byte) {
                    if byte == [GROUP] {
                        group = group_in(pipe).unwrap_or(group);
                    }
                }
                kill(group);
                kill_below(parent);
                see_gone(group);
                leave()
            }
            left = Timespec { tv_sec: kill_in.as_secs() as i64, tv_nsec: kill_in.subsec_nanos().into() };
        }
        match poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&left)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            // Reading says what there is.
            Ok(_) | Err(_) => {}
        }
        match rustix::io::read(pipe, &mut byte) {
            Ok(0) => break,
            Err(rustix::io::Errno::INTR) => {}
            // In one piece: it was sent so.
            Ok(_) if byte == [GROUP] => match group_in(pipe) {
                Some(named) => group = named,
                None => break,
            },
            // Dismissed, or nothing to read from: nobody is to be killed for that.
            Ok(_) | Err(_) => leave(),
        }
    }
    kill(group);
    see_gone(group);
    leave()
}

/// The number of a group that is said, which may be none.
fn group_in(pipe: BorrowedFd<'_>) -> Option<Option<Pid>> {
    let mut number = [0u8; 4];
    match rustix::io::read(pipe, &mut number) {
        Ok(4) => Some(Pid::from_raw(i32::from_le_bytes(number))),
        _ => None,
    }
}

fn kill(group: Option<Pid>) {
    let _ = group.map(|group| rustix::process::kill_process_group(group, Signal::KILL));
}

/// Waits until the group is gone.
fn see_gone(group: Option<Pid>) {
    let Some(group) = group else { return };
    for _ in 0..GONE_MAX_MS {
        if rustix::process::test_kill_process_group(group).is_err() || all_ended(group) == Some(true) {
            break;
        }
        pause();
    }
}

fn pause() {
    let pause = rustix::thread::Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    let _ = rustix::thread::nanosleep(&pause);
}

/// Kills whatever descends from our parent, but not us: also what has left the group of the command. Orphans are its children too
/// ([`Family::new`](super::child::Family::new)).
///
/// Runs after a fork: it allocates nothing.
fn kill_below(parent: Pid) {
    let (above, me) = (parent.as_raw_nonzero().get(), rustix::process::getpid().as_raw_nonzero().get());
    // A process may start another while we look: look until none is left.
    for _ in 0..ROUNDS {
        let mut any = false;
        let looked = each_process(|proc, name, stat| {
            let pid = number(name.to_bytes())?;
            if pid == me || pid == above || matches!(stat.state, b'Z' | b'X') {
                return Some(());
            }
            let (mut up, mut steps) = (stat.parent, 0);
            while up > 1 && up != above && steps < PARENTS_MAX {
                let mut digits = [0; 12];
                // One that is gone has no children any more: they are ours by the next round.
                let Some(next) = read_stat(proc, decimal(up, &mut digits)?) else { break };
                (up, steps) = (next.parent, steps + 1);
            }
            if up == above {
                any = true;
                let _ = rustix::process::kill_process(Pid::from_raw(pid)?, Signal::KILL);
            }
            Some(())
        });
        if !any || looked.is_none() {
            return;
        }
        pause();
    }
}

/// Whether the members of a group that are left have ended and only wait to be reaped: their parent is gone, and the
/// first process of a container often takes its time. Signals still find them. Nothing if it cannot be told.
///
/// Runs after a fork: it allocates nothing.
fn all_ended(group: Pid) -> Option<bool> {
    let mut all = true;
    each_process(|_, _, stat| {
        all &= stat.group != group.as_raw_nonzero().get() || matches!(stat.state, b'Z' | b'X');
        Some(())
    })?;
    Some(all)
}

/// What `/proc` says of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stat {
    state: u8,
    parent: i32,
    group: i32,
}

/// Shows every process that can be looked at. Nothing if `/proc` cannot be read, or `show` said so.
fn each_process(mut show: impl FnMut(&OwnedFd, &CStr, Stat) -> Option<()>) -> Option<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let proc = rustix::fs::open(c"/proc", flags | OFlags::DIRECTORY, Mode::empty()).ok()?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(&proc, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.ok()?;
        let name = entry.file_name();
        if name.to_bytes().iter().all(u8::is_ascii_digit)
            // A process that cannot be looked at has just been reaped.
            && let Some(stat) = read_stat(&proc, name)
        {
            show(&proc, name, stat)?;
        }
    }
    Some(())
}

/// The beginning of `/proc/PID/stat`.
fn read_stat(proc: &OwnedFd, name: &CStr) -> Option<Stat> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(proc, name, flags | OFlags::DIRECTORY, Mode::empty()).ok()?;
    let file = rustix::fs::openat(&dir, c"stat", flags, Mode::empty()).ok()?;
    let mut bytes = [0; 256];
    let length = rustix::io::read(&file, &mut bytes).ok()?;
    stat_of(bytes.get(..length)?)
}

/// State, parent and process group stand behind the name in parentheses, which may contain anything.
fn stat_of(stat: &[u8]) -> Option<Stat> {
    let behind = &stat[stat.iter().rposition(|b| *b == b')')? + 1..];
    let mut words = behind.split(|b| *b == b' ').filter(|word| !word.is_empty());
    let state = *words.next()?.first()?;
    let (parent, group) = (number(words.next()?)?, number(words.next()?)?);
    Some(Stat { state, parent, group })
}

fn number(digits: &[u8]) -> Option<i32> {
    digits.iter().try_fold(0i32, |sum, digit| {
        let digit = digit.is_ascii_digit().then(|| i32::from(digit - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// A number as a name in `/proc`, without an allocator.
fn decimal(mut number: i32, digits: &mut [u8; 12]) -> Option<&CStr> {
    let mut at = digits.len() - 1;
    digits[at] = 0;
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).ok()?;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    CStr::from_bytes_with_nul(&digits[at..]).ok()
}

fn leave() -> ! {
    // SAFETY: `_exit` ends the process without running anything of this process's: no destructors, no
    // buffers written a second time.
    unsafe { libc::_exit(0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::process::ExitStatusExt;
    use std::time::{Duration, Instant};

    use oarlock_shm::LeaseNote;

    /// A lease that lasts for so long from now.
    fn lease(left: Duration) -> (LeaseNote, LeaseSight) {
        let (note, now) = (LeaseNote::create().unwrap(), super::super::clock::now());
        note.write(now + left).unwrap();
        let sight = LeaseSight::open(note.as_fd().try_clone_to_owned().unwrap(), now, now, now).unwrap();
        (note, sight)
    }

    const LONG: Duration = Duration::from_secs(600);

    fn family() -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 61; true"]);
        command
    }

    /// One at a time: a guard is a copy of this process, and would keep the pipe of another test's guard open.
    fn alone() -> std::sync::MutexGuard<'static, ()> {
        static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
        ALONE.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Below nobody: the children of other tests are below this process.
    fn set(lease: &LeaseSight) -> io::Result<Guard> {
        Guard::below(Pid::from_raw(i32::MAX).unwrap(), lease)
    }

    fn guarded(lease: &LeaseSight) -> (Guard, std::process::Child) {
        let guard = set(lease).unwrap();
        let mut command = family();
        guard.bind(&mut command, true);
        let child = command.spawn().unwrap();
        (guard, child)
    }

    #[test]
    fn a_guard_kills_the_group_when_its_pipe_closes() {
        let _alone = alone();
        let (guard, mut shell) = guarded(&lease(LONG).1);
        assert!(shell.try_wait().unwrap().is_none());
        drop(guard);
        assert_eq!(shell.wait().unwrap().signal(), Some(9));
    }

    /// Whoever is killed as soon as the command runs is not too early for the guard: the group is named before that.
    #[test]
    fn a_command_never_works_unguarded() {
        let _alone = alone();
        for _ in 0..20 {
            let guard = set(&lease(LONG).1).unwrap();
            let mut command = Command::new("sh");
            // A child of its own, which no bond of the kernel reaches; the end of its output is the end of it.
            command.args(["-c", "sleep 61 & echo; wait"]).stdout(std::process::Stdio::piped());
            guard.bind(&mut command, true);
            let mut shell = command.spawn().unwrap();
            drop(guard);
            let mut output = shell.stdout.take().unwrap();
            let begin = Instant::now();
            std::io::Read::read_to_end(&mut output, &mut Vec::new()).unwrap();
            assert!(begin.elapsed() < Duration::from_secs(30), "it lives on");
            assert_eq!(shell.wait().unwrap().signal(), Some(9));
        }
    }

    /// A process that stood still until the lease was about to be over has no guard any more, and starts nothing.
    #[test]
    fn nothing_begins_once_the_guard_has_given_up() {
        let _alone = alone();
        for leads in [false, true] {
            let guard = set(&lease(Duration::ZERO).1).unwrap();
            let end = Instant::now() + Duration::from_secs(10);
            let mut command = Command::new("true");
            guard.bind(&mut command, leads);
            while let Ok(mut child) = command.spawn() {
                assert!(Instant::now() < end, "it is started");
                let _ = child.wait();
            }
            assert!(guard.has_killed(), "and it is said why");
        }
    }

    /// The shell is killed and nobody reaps it: the group still takes signals, and is over all the same.
    #[test]
    fn what_only_waits_to_be_reaped_has_ended() {
        let mut shell = family().process_group(0).spawn().unwrap();
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
        assert_eq!(stat_of(b"7 (a) Z 1 9) S 1 42 42 0"), Some(Stat { state: b'S', parent: 1, group: 42 }));
        for bad in [&b"7 (a"[..], b"7 (a) S 1 -1 0", b"7 (a) S 99999999999 1 0"] {
            assert_eq!(stat_of(bad), None);
        }
    }

    #[test]
    fn a_number_is_a_name_without_an_allocator() {
        for (number, text) in [(0, c"0"), (7, c"7"), (4_194_304, c"4194304"), (i32::MAX, c"2147483647")] {
            assert_eq!(decimal(number, &mut [b'x'; 12]), Some(text));
            assert_eq!(super::number(text.to_bytes()), Some(number));
        }
    }

    /// L6: at the last moment of the lease the guard ends the command by itself, and says that it was it.
    #[test]
    fn a_guard_kills_the_group_when_the_lease_is_about_to_be_over() {
        let _alone = alone();
        let left = Duration::from_secs(1);
        let (note, sight) = lease(left);
        let until = super::super::clock::now() + left;
        let (guard, mut shell) = guarded(&sight);
        let renewed = until + left;
        note.write(renewed).unwrap();
        assert_eq!(shell.wait().unwrap().signal(), Some(9));
        let now = super::super::clock::now();
        assert!(now > until && now + LEASE_KILLING >= renewed, "a renewal counts");
        assert!(guard.has_killed());
    }

    #[test]
    fn a_dismissed_guard_kills_nobody() {
        let _alone = alone();
        let (guard, mut shell) = guarded(&lease(LONG).1);
        guard.dismiss();
        let end = Instant::now() + Duration::from_millis(100);
        while Instant::now() < end {
            assert!(shell.try_wait().unwrap().is_none());
            std::thread::sleep(Duration::from_millis(5));
        }
        rustix::process::kill_process_group(Pid::from_child(&shell), Signal::KILL).unwrap();
        shell.wait().unwrap();
    }
}
