//! A daemon as a process: started, stopped, paused, killed, looked at.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A process that is killed when this is dropped. One that keeps another, as a daemon its engine, is taken together with it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    keeps: bool,
}

/// What a process takes of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Footprint {
    /// Memory in use, in KiB.
    pub memory_kib: u64,
    /// Open descriptors.
    pub descriptors: usize,
}

impl Process {
    /// Runs `oarlock serve`; what it says is added to `log`.
    pub fn serve(oarlock: &Path, config: &Path, log: &Path) -> io::Result<Process> {
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = dying_with_us(oarlock);
        command.arg("serve").arg("--config").arg(config).env_remove("OARLOCK_LOG").env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Process { child: command.spawn()?, keeps: true })
    }

    /// Takes care of a child.
    pub fn of(child: Child) -> Process {
        Process { child, keeps: false }
    }

    /// The child, to talk to it.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The process that it keeps, if one runs now.
    pub fn kept(&self) -> Option<u32> {
        let of = self.child.id();
        let children = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).ok()?;
        children.split_whitespace().next().filter(|_| self.keeps)?.parse().ok()
    }

    /// SIGKILL to the process that it keeps, of which it goes on to start another. False: there is none now.
    pub fn kill_kept(&self) -> bool {
        self.kept().is_some_and(|pid| send(pid, Signal::KILL))
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL, and nothing of it is left when this returns.
    pub fn kill(&mut self) {
        let kept = self.kept();
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The kernel kills it with its keeper, a moment later.
        while kept.is_some_and(runs) {
            sleep(Duration::from_millis(1));
        }
    }

    /// SIGTERM.
    pub fn ask_to_stop(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGTERM, and up to `patience` to end.
    pub fn terminate(&mut self, patience: Duration) -> Option<ExitStatus> {
        self.signal(Signal::TERM);
        self.wait(patience)
    }

    /// Waits for its end.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + patience;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                _ if Instant::now() >= end => return None,
                _ => sleep(Duration::from_millis(5)),
            }
        }
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        // In this order, or another would be started.
        self.signal(Signal::STOP);
        self.signal_kept(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal_kept(Signal::CONT);
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        // It may have ended; as it was not waited for, its number is still its own.
        send(self.child.id(), signal);
    }

    fn signal_kept(&self, signal: Signal) {
        if let Some(pid) = self.kept() {
            send(pid, signal);
        }
    }

    /// What it takes now, or what it keeps; zeros if that has ended.
    pub fn footprint(&self) -> Footprint {
        let proc = PathBuf::from(format!("/proc/{}", self.kept().unwrap_or(self.child.id())));
        let status = fs::read_to_string(proc.join("status")).unwrap_or_default();
        let memory = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        let memory_kib = memory.and_then(|m| m.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0);
        let descriptors = fs::read_dir(proc.join("fd")).map_or(0, Iterator::count);
        Footprint { memory_kib, descriptors }
    }
}

fn send(pid: u32, signal: Signal) -> bool {
    let pid = Pid::from_raw(pid as i32).expect("a process has a number");
    kill_process(pid, signal).is_ok()
}

/// A zombie does not.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// A command that the kernel kills when we end, however we end, if the machine has the tool for it. Without it
/// a killed harness leaves its daemons behind.
fn dying_with_us(program: &Path) -> Command {
    let tool = Path::new("/usr/bin/setpriv");
    if !tool.exists() {
        return Command::new(program);
    }
    // It becomes the program: the process number stays.
    let mut command = Command::new(tool);
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Process {
        Process::of(Command::new("sleep").arg("60").spawn().unwrap())
    }

    #[test]
    fn a_process_is_seen_and_gone_when_dropped() {
        let mut process = sleeper();
        assert!(process.is_alive());
        let footprint = process.footprint();
        assert!(footprint.memory_kib > 0 && footprint.descriptors > 0, "{footprint:?}");
        let pid = process.pid();
        drop(process);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn what_is_kept_goes_with_its_keeper() {
        let script = "sleep 60 & echo $!; wait";
        let child = Command::new("sh").args(["-c", script]).stdout(Stdio::null()).spawn().unwrap();
        let mut process = Process { child, keeps: true };
        while process.kept().is_none() {
            sleep(Duration::from_millis(1));
        }
        let kept = process.kept().unwrap();
        let stat = |pid: u32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        process.pause();
        while !(stat(kept).contains(") T ") && stat(process.pid()).contains(") T ")) {
            sleep(Duration::from_millis(1));
        }
        process.resume();
        assert!(process.kill_kept() && process.wait(Duration::from_secs(5)).is_some());
        assert!(!runs(kept) && !process.kill_kept());
    }

    #[test]
    fn a_paused_process_ends_only_after_it_goes_on() {
        let mut process = sleeper();
        process.pause();
        // Of two signals that find a process running, SIGTERM would come first.
        let stat = format!("/proc/{}/stat", process.pid());
        while !fs::read_to_string(&stat).unwrap().contains(") T ") {
            sleep(Duration::from_millis(1));
        }
        assert_eq!(process.terminate(Duration::from_millis(100)), None);
        process.resume();
        assert!(process.wait(Duration::from_secs(5)).is_some());
    }
}
