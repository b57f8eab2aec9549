//! A `dev` cluster for a test, with its own directory and its own environment: nothing of this user's other
//! clusters is seen, and nothing is left behind, whatever the test does.
#![allow(dead_code, unreachable_pub)]

pub mod solo;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The binary under test.
pub fn oarlock() -> Command {
    // Whoever runs the tests may ignore some signals, and what is ignored from the beginning no program can be told.
    let mut command = Command::new("env");
    command.args(["--default-signal", env!("CARGO_BIN_EXE_oarlock")]);
    // A user's own settings must not decide a test, nor clusters be found that the user or another checkout's tests
    // run.
    command.env_remove("OARLOCK_SOCKET").env_remove("OARLOCK_LOG").env("NO_COLOR", "1");
    command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_PID").env_remove("WATCHDOG_USEC");
    command.env("XDG_RUNTIME_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("nobody-makes-this"));
    command.stdin(Stdio::null());
    command
}

/// What a finished command said.
pub struct Said {
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    pub fn of(output: Output) -> Said {
        Said {
            status: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Fails unless the status is as expected and every word was said, on either stream.
    #[track_caller]
    pub fn expect(self, status: i32, words: &[&str]) -> Said {
        assert_eq!(self.status, Some(status), "stdout: {}\nstderr: {}", self.out, self.err);
        for word in words {
            let said = self.out.contains(word) || self.err.contains(word);
            assert!(said, "`{word}` was not said.\nstdout: {}\nstderr: {}", self.out, self.err);
        }
        self
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }
}

/// Runs to the end.
pub fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Said {
    Said::of(oarlock().args(args).output().expect("oarlock runs"))
}

/// Waits until `holds` is true.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A running `oarlock dev`.
pub struct Dev {
    pub dir: tempfile::TempDir,
    pub child: Child,
}

impl Dev {
    pub fn start() -> Dev {
        Dev::start_with(&[])
    }

    pub fn start_with(args: &[&str]) -> Dev {
        let dir = tempfile::Builder::new().prefix("oar").tempdir().unwrap();
        let said = fs::File::create(dir.path().join("said")).unwrap();
        let cluster = dir.path().join("c");
        let mut command = oarlock();
        command.env("XDG_RUNTIME_DIR", dir.path());
        command.arg("dev").arg("--dir").arg(&cluster).args(args);
        command.stdout(said.try_clone().unwrap()).stderr(said);
        let child = command.spawn().unwrap();
        let mut dev = Dev { dir, child };
        until("the cluster serves", || {
            assert!(dev.child.try_wait().unwrap().is_none(), "dev ended: {}", dev.said());
            dev.said().contains("nodes up in")
        });
        dev
    }

    pub fn said(&self) -> String {
        fs::read_to_string(self.dir.path().join("said")).unwrap_or_default()
    }

    pub fn cluster(&self) -> PathBuf {
        self.dir.path().join("c")
    }

    pub fn socket(&self, node: char) -> PathBuf {
        self.cluster().join(format!("node-{node}/oarlock.sock"))
    }

    /// A command that talks to one of the nodes.
    pub fn at(&self, node: char) -> Command {
        let mut command = oarlock();
        command.env("OARLOCK_SOCKET", self.socket(node));
        command
    }

    /// Runs such a command to its end.
    pub fn run(&self, node: char, args: &[&str]) -> Said {
        Said::of(self.at(node).args(args).output().unwrap())
    }

    /// The keeper of a node. If it is killed, the whole node dies.
    pub fn pid(&self, node: char) -> i32 {
        let config = self.cluster().join(format!("node-{node}/node.toml"));
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
            let mut words = line.split(|b| *b == 0);
            if words.any(|w| w == b"serve") && words.any(|w| w == config.as_os_str().as_encoded_bytes()) {
                return entry.file_name().to_str().unwrap().parse().unwrap();
            }
        }
        panic!("node-{node} does not run");
    }

    /// The other process of a node: what `pid` keeps.
    pub fn engine(&self, node: char) -> i32 {
        engine_of(self.pid(node))
    }

    /// Whether a node grants locks and hears every member.
    pub fn well(&self, node: char) -> bool {
        let said = self.run(node, &["status", "-o", "json"]);
        said.status == Some(0) && said.json()["healthy"] == true && said.json()["granting"] == true
    }

    /// The same of all three.
    pub fn all_well(&self) -> bool {
        ['a', 'b', 'c'].into_iter().all(|node| self.well(node))
    }

    /// `oarlock dev` with these words, for this cluster.
    pub fn order(&self, words: &[&str]) -> Said {
        let mut command = oarlock();
        command.arg("dev").args(words).arg("--dir").arg(self.cluster());
        Said::of(command.output().unwrap())
    }

    /// The node that leads the coordinator.
    pub fn leader(&self) -> char {
        let mut leader = None;
        until("somebody leads", || {
            let said = self.run('a', &["coord", "show", "-o", "json"]).expect(0, &[]).json();
            leader = said["coordinator"]["leader"].as_str().and_then(|name| name.chars().last());
            leader.is_some()
        });
        leader.unwrap()
    }

    /// A counter of a node.
    pub fn counter(&self, node: char, name: &str) -> u64 {
        let said = self.run(node, &["metrics", "-o", "json"]).expect(0, &[]);
        let counters = said.json()["counters"].as_array().unwrap().clone();
        let found = counters.iter().find(|c| c["name"] == name);
        found.unwrap_or_else(|| panic!("no counter {name}"))["value"].as_u64().unwrap()
    }

    pub fn stop(&mut self) -> Option<i32> {
        signal(self.child.id() as i32, "TERM");
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < end, "dev does not stop: {}", self.said());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("dev said:\n{}", self.said());
            for node in ["a", "b", "c"] {
                let log = fs::read_to_string(self.cluster().join(format!("node-{node}/log")));
                eprintln!("node-{node} logged:\n{}", log.unwrap_or_default());
            }
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            signal(self.child.id() as i32, "TERM");
            let _ = self.child.wait();
        }
    }
}

/// A command that is killed at the end of a test.
pub struct Held(pub Child);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Takes or waits for a lock, until dropped.
pub fn ask(dev: &Dev, node: char, label: &str, args: &[&str]) -> Held {
    let mut command = dev.at(node);
    command.args(["lock", "-q", "--label", label]).args(args).args(["--", "sleep", "60"]);
    Held(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// The engine that a keeper has started, as soon as it has.
#[track_caller]
pub fn engine_of(keeper: i32) -> i32 {
    let mut engine = None;
    until("the keeper has an engine", || {
        let children =
            fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap_or_default();
        engine = children.split_whitespace().next().and_then(|pid| pid.parse().ok());
        engine.is_some()
    });
    engine.unwrap()
}

/// Sends a signal to one process.
pub fn signal(pid: i32, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().unwrap();
    assert!(status.success(), "kill -{name} {pid}");
}

/// Whether a process runs (a zombie does not).
pub fn lives(pid: i32) -> bool {
    // Every thread counts: the first may have ended, and the others hold what the process has open.
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.into_iter().any(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    })
}

/// Reads a number that a child writes to a file.
#[track_caller]
pub fn pid_in(path: &Path) -> i32 {
    let mut pid = 0;
    until("a pid is written", || {
        pid = fs::read_to_string(path).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0);
        pid != 0
    });
    pid
}
