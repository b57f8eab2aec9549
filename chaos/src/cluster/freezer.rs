//! Stops a process by the kernel's freezer: no signal reaches it, so it cannot tell that it stood still.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// A group of processes that stand still together.
#[derive(Debug)]
pub struct Freezer {
    dir: PathBuf,
    /// The file that stops them, and what to write into it.
    file: &'static str,
    words: [&'static str; 2],
}

impl Freezer {
    /// Makes one, if the machine lets us.
    pub fn new(name: &str) -> Option<Freezer> {
        let first = ("/sys/fs/cgroup/freezer", "freezer.state", ["FROZEN", "THAWED"]);
        let second = ("/sys/fs/cgroup", "cgroup.freeze", ["1", "0"]);
        [first, second].into_iter().find_map(|(root, file, words)| {
            let dir = Path::new(root).join(format!("oarlock-chaos-{}-{name}", std::process::id()));
            fs::create_dir(&dir).ok()?;
            // A directory in which nothing can be frozen is none of ours to keep: dropping it removes it.
            let freezer = Freezer { dir, file, words };
            freezer.dir.join(file).exists().then_some(freezer)
        })
    }

    /// Stops processes.
    pub fn freeze(&self, pids: &[u32]) -> io::Result<()> {
        for pid in pids {
            fs::write(self.dir.join("cgroup.procs"), pid.to_string())?;
        }
        fs::write(self.dir.join(self.file), self.words[0])
    }

    /// Lets all of them run.
    pub fn thaw(&self) -> io::Result<()> {
        fs::write(self.dir.join(self.file), self.words[1])
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = self.thaw();
        // Fails as long as somebody is in it, and whoever was killed is for a moment.
        for _ in 0..20 {
            if fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            sleep(Duration::from_millis(5));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Process;
    use std::process::Command;

    /// Where the machine has none, or keeps it to itself, nothing can be shown.
    #[test]
    fn what_is_frozen_stands_still_and_can_be_killed_after_it_is_thawed() {
        let Some(freezer) = Freezer::new("test") else { return };
        let script = "while :; do echo x; sleep 0.01; done";
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("output");
        let file = fs::File::create(&output).unwrap();
        let mut process = Process::of(Command::new("sh").args(["-c", script]).stdout(file).spawn().unwrap());
        let length = || fs::metadata(&output).unwrap().len();
        while length() == 0 {
            sleep(Duration::from_millis(5));
        }
        freezer.freeze(&[process.pid()]).unwrap();
        sleep(Duration::from_millis(50));
        let before = length();
        sleep(Duration::from_millis(100));
        assert_eq!(length(), before);
        freezer.thaw().unwrap();
        while length() == before {
            sleep(Duration::from_millis(5));
        }
        process.kill();
    }
}
