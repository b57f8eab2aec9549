//! Ends what a part of `ci` has started when it takes far too long.
//!
//! A program that hangs would otherwise hold up everything behind it until somebody outside loses patience, and the
//! table that says which part it was would never be printed.

use std::fs;
use std::process::{self, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Kills every process below one, but not that one, once the time is over, and whatever is started there after that,
/// until it is called off.
pub(crate) struct Watchdog {
    call_off: Sender<()>,
    thread: JoinHandle<bool>,
}

impl Watchdog {
    /// From now on so long, over what this process starts.
    pub(crate) fn start(limit: Duration) -> Watchdog {
        Watchdog::over(process::id(), limit)
    }

    /// Over what another process starts.
    fn over(root: u32, limit: Duration) -> Watchdog {
        let (call_off, called_off) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut wait = limit;
            let mut bitten = false;
            while called_off.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                kill(&below(root));
                bitten = true;
                wait = Duration::from_millis(200);
            }
            bitten
        });
        Watchdog { call_off, thread }
    }

    /// The part is over. True if it had to be ended.
    pub(crate) fn call_off(self) -> bool {
        drop(self.call_off);
        self.thread.join().unwrap_or(true)
    }
}

/// All descendants of a process.
fn below(root: u32) -> Vec<u32> {
    let all: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(all.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

/// The parent stands behind the name in parentheses, which may contain anything, and the state.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn kill(pids: &[u32]) {
    if pids.is_empty() {
        return;
    }
    let mut command = Command::new("kill");
    command.arg("-KILL").args(pids.iter().map(u32::to_string)).stdin(Stdio::null()).stderr(Stdio::null());
    // Some may have ended by themselves meanwhile.
    let _ = command.status();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// Over a process of the test's own: below this one are also the children of other tests.
    #[test]
    fn what_hangs_is_ended_with_its_children_and_what_ends_in_time_is_left_alone() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "true; echo $?"]).stdout(Stdio::piped());
        let child = shell.spawn().expect("it starts");
        let dog = Watchdog::over(child.id(), Duration::from_secs(60));
        assert_eq!(child.wait_with_output().expect("it ends").stdout, b"0\n");
        assert!(!dog.call_off());

        let begin = Instant::now();
        let mut shell = Command::new("sh");
        shell.args(["-c", "sh -c 'sleep 600 & sleep 600'; echo $?"]).stdout(Stdio::piped());
        let child = shell.spawn().expect("it starts");
        let dog = Watchdog::over(child.id(), Duration::from_millis(100));
        // Output ends only when the last process that has the pipe is gone; the outer shell is not killed and tells.
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success());
        assert_eq!(output.stdout, b"137\n", "the inner shell is killed");
        assert!(dog.call_off());
        assert!(begin.elapsed() < Duration::from_secs(300));
    }
}
