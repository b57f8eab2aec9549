//! The etcd of a `dev` cluster that relies on one: a process on 127.0.0.1, with its data in the directory of the cluster.

use std::fs::{self, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use oarlock_layout::code::Code;
use rustix::process::Signal;

use super::place::Place;
use crate::host::child;
use crate::problem::{Problem, Result};

/// The program.
const PROGRAM: &str = "etcd";
/// Its directory, in that of the cluster.
pub(super) const DIR: &str = "etcd";
/// It opens its ports in that time, on however busy a machine.
const LISTENING_MAX: Duration = Duration::from_secs(20);
/// Ports are chosen, then released, then taken; somebody else may come in between.
const PORT_TRIES: u32 = 3;

/// One that runs. Killed when dropped.
pub(super) struct Etcd {
    dir: PathBuf,
    client: SocketAddr,
    peer: SocketAddr,
    child: Child,
    ended: OwnedFd,
}

impl Etcd {
    /// Starts one, and waits until it takes connections.
    pub(super) fn start(place: &Place) -> Result<Etcd> {
        let dir = place.dir.join(DIR);
        fs::create_dir(&dir).map_err(|e| failed(&e))?;
        let mut tries = 1;
        loop {
            let (client, peer) = two_ports().map_err(|e| failed(&e))?;
            let (child, ended) = spawn(&dir, client, peer)?;
            let mut etcd = Etcd { dir: dir.clone(), client, peer, child, ended };
            match etcd.wait_until_listening() {
                Ok(()) => return Ok(etcd),
                Err(problem) if tries == PORT_TRIES => return Err(problem),
                Err(_) => tries += 1,
            }
        }
    }

    /// Where nodes reach it.
    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.client)
    }

    /// A descriptor that tells when it ends.
    pub(super) fn watched(&self) -> &OwnedFd {
        &self.ended
    }

    /// If it has ended, starts it again with what it has kept. True if so.
    pub(super) fn revive(&mut self) -> Result<bool> {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            return Ok(false);
        }
        (self.child, self.ended) = spawn(&self.dir, self.client, self.peer)?;
        self.wait_until_listening()?;
        Ok(true)
    }

    fn wait_until_listening(&mut self) -> Result<()> {
        let end = Instant::now() + LISTENING_MAX;
        while TcpStream::connect(self.client).is_err() {
            let ended = matches!(self.child.try_wait(), Ok(Some(_)));
            if ended || Instant::now() > end {
                let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(5)..].join("\n       ");
                return Err(Problem::new(Code::Failed, "etcd does not come up").because(last));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn failed(e: &io::Error) -> Problem {
    Problem::io(Code::Failed, "cannot start etcd", e)
}

fn two_ports() -> io::Result<(SocketAddr, SocketAddr)> {
    // Both held at once, or the same would be given twice.
    let any = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let (client, peer) = (any()?, any()?);
    Ok((client.local_addr()?, peer.local_addr()?))
}

fn spawn(dir: &Path, client: SocketAddr, peer: SocketAddr) -> Result<(Child, OwnedFd)> {
    let log = OpenOptions::new().create(true).append(true).open(dir.join("log")).map_err(|e| failed(&e))?;
    let mut command = Command::new(PROGRAM);
    command.arg("--data-dir").arg(dir.join("data"));
    let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
    for (name, value) in [
        ("--name", "dev"),
        ("--listen-client-urls", &client),
        ("--advertise-client-urls", &client),
        ("--listen-peer-urls", &peer),
        ("--initial-advertise-peer-urls", &peer),
        ("--initial-cluster", &format!("dev={peer}")),
        // As docs/operating.md says that it should be.
        ("--heartbeat-interval", "50"),
        ("--election-timeout", "250"),
        ("--auto-compaction-retention", "1h"),
    ] {
        command.arg(format!("{name}={value}"));
    }
    // Its own settings in our surroundings would mix with these.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ETCD_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).stdout(log.try_clone().map_err(|e| failed(&e))?).stderr(log);
    command.process_group(0);
    let child = child::spawn_bound(&mut command, Signal::KILL).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Problem::new(Code::Failed, "there is no program `etcd` here")
            .because("--coordinator etcd starts one for the cluster")
            .try_next("apt-get install etcd-server, or oarlock dev without --coordinator etcd"),
        _ => failed(&e),
    })?;
    let ended = child::watch(child.id()).map_err(|e| failed(&e))?;
    Ok((child, ended))
}
