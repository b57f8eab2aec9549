//! A peer's server: installed if missing, run in a directory of its own, ended by its own process id.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::rounds::Failure;

/// A server that runs; ends when dropped.
pub(crate) struct Server {
    child: Child,
    /// Where it listens on 127.0.0.1.
    pub(crate) port: u16,
    end: Signal,
    _directory: tempfile::TempDir,
}

impl Server {
    /// Starts `command` and waits until it listens. `end` is the signal after which it stops at once.
    pub(crate) fn start(
        mut command: Command,
        port: u16,
        end: Signal,
        directory: tempfile::TempDir,
    ) -> Result<Server, Failure> {
        let log = fs::File::create(directory.path().join("log")).map_err(|e| format!("its log: {e}"))?;
        let errors = log.try_clone().map_err(|e| format!("its log: {e}"))?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = command.spawn().map_err(|e| format!("starting it: {e}"))?;
        let mut server = Server { child, port, end, _directory: directory };
        let patience = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = matches!(server.child.try_wait(), Ok(Some(_)));
            if ended || Instant::now() > patience {
                let log = fs::read_to_string(server._directory.path().join("log")).unwrap_or_default();
                return Err(format!("it does not listen; its log says\n{log}"));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, self.end);
        }
        let patience = Instant::now() + Duration::from_secs(10);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < patience {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory for a server's data.
pub(crate) fn directory() -> Result<tempfile::TempDir, Failure> {
    tempfile::tempdir().map_err(|e| format!("a directory for its data: {e}"))
}

/// A port that is free at this moment.
pub(crate) fn port() -> Result<u16, Failure> {
    let free = || TcpListener::bind(("127.0.0.1", 0))?.local_addr();
    Ok(free().map_err(|e| format!("a free port: {e}"))?.port())
}

/// Finds a program, and installs the packages that have it if it is nowhere.
pub(crate) fn program(name: &str, packages: &[&str]) -> Result<PathBuf, Failure> {
    if let Some(path) = find(name) {
        return Ok(path);
    }
    // Only these; a package must not start a service of its own that would disturb what is measured.
    let update = Command::new("apt-get")
        .args(["update", "--quiet"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    let install = Command::new("apt-get")
        .args(["install", "--quiet", "--yes", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("RUNLEVEL", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    if !matches!((&update, &install), (Ok(a), Ok(b)) if a.success() && b.success()) {
        return Err(format!("cannot install {}: it takes apt-get and root", packages.join(" ")));
    }
    find(name).ok_or_else(|| format!("{} did not bring {name}", packages.join(" ")))
}

/// Looks in the path, and where Debian keeps the programs of PostgreSQL's server.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let postgres = versions.map(|version| version.path().join("bin"));
    usual.chain(postgres).map(|directory: PathBuf| directory.join(name)).find(|p| Path::is_file(p))
}
