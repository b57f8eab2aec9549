//! The node processes of a `dev` cluster.

use std::fs::{self, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use oarlock_layout::code::Code;
use rustix::process::Signal;

use super::super::session::Session;
use super::etcd::Etcd;
use super::place::Place;
use crate::console::doc::{Question, Status};
use crate::host::child;
use crate::host::signals::Signals;
use crate::problem::{Problem, Result};

/// A cluster that does not serve by then will not. After a crash of all of it a lease of 3 s is waited out first.
const SERVING_MAX: Duration = Duration::from_secs(20);
/// A node opens its socket in milliseconds, unless the machine is very busy.
const LISTENING_MAX: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A node tells its sessions and waits a little for them to end.
const STOP_MAX: Duration = Duration::from_secs(8);

struct Node {
    name: String,
    child: Child,
    ended: Option<OwnedFd>,
    status: Option<ExitStatus>,
    started: Instant,
}

/// A node that ended.
pub(super) struct Dead {
    pub(super) name: String,
    pub(super) how: String,
    pub(super) lived: Duration,
}

/// All of them. Killed when dropped.
pub(crate) struct Nodes<'a> {
    place: &'a Place,
    nodes: Vec<Node>,
    /// What they rely on, if so; the last to go.
    etcd: Option<Etcd>,
}

impl<'a> Nodes<'a> {
    pub(super) fn spawn(place: &'a Place, etcd: Option<Etcd>) -> Result<Nodes<'a>> {
        let failed = |e: std::io::Error| Problem::io(Code::Failed, "cannot start a node", &e);
        // Each node keeps the directory locked for as long as it runs, also when `dev` is killed.
        place.marker.as_ref().map_or(Ok(()), child::inherit).map_err(failed)?;
        let mut nodes = Nodes { place, nodes: Vec::new(), etcd };
        for name in &place.names {
            nodes.nodes.push(nodes.start(name).map_err(failed)?);
        }
        Ok(nodes)
    }

    /// A node that has ended begins another run.
    pub(super) fn start_again(&mut self, name: &str) -> Result<()> {
        let node = self.start(name).map_err(|e| Problem::io(Code::Failed, "cannot start a node", &e))?;
        let place = self.nodes.iter_mut().find(|n| n.name == name).expect("it was there");
        *place = node;
        Ok(())
    }

    fn start(&self, name: &str) -> std::io::Result<Node> {
        let exe = std::env::current_exe()?;
        let log = OpenOptions::new().create(true).append(true).open(self.place.log(name))?;
        let mut command = Command::new(&exe);
        command.args(["serve", "--dev", "--config"]).arg(self.place.config(name));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A manager that started `dev` did not start these.
        command.env_remove("NOTIFY_SOCKET");
        // Ctrl-C is for `dev`, which then stops the nodes in good order.
        command.process_group(0);
        let child = child::spawn_bound(&mut command, Signal::TERM)?;
        let ended = Some(child::watch(child.id())?);
        Ok(Node { name: name.into(), child, ended, status: None, started: Instant::now() })
    }

    /// Waits until every node answers on its socket.
    pub(super) fn wait_until_listening(&mut self, signals: &Signals) -> Result<()> {
        let end = Instant::now() + LISTENING_MAX;
        loop {
            self.check_living()?;
            let open = |n: &Node| crate::host::door::connect(&self.place.socket(&n.name)).is_ok();
            if self.nodes.iter().all(open) {
                return Ok(());
            }
            // Somebody is in a hurry: let `wait_until_serving` see the same signal.
            if Instant::now() > end || signals.pending() {
                return Ok(());
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until every node serves and hears all. The epoch, or `None` if a signal came first.
    pub(super) fn wait_until_serving(&mut self, signals: &Signals) -> Result<Option<u32>> {
        let end = Instant::now() + SERVING_MAX;
        let mut last = None;
        loop {
            if signals.pending() {
                return Ok(None);
            }
            self.check_living()?;
            let mut epochs = Vec::new();
            for node in &self.nodes {
                let asked = Session::open(&self.place.socket(&node.name), "oarlock dev")
                    .and_then(|mut s| s.document::<Status>(&Question::Status));
                match asked {
                    Ok(status) if status.healthy => epochs.push(status.epoch),
                    Ok(status) => last = Some(super::super::status::unhealthy(&status)),
                    Err(problem) => last = Some(problem),
                }
            }
            if epochs.len() == self.nodes.len() {
                return Ok(epochs.into_iter().max());
            }
            if Instant::now() > end {
                let why = last.map_or(String::new(), |p| format!("{}: {}", p.what, p.why));
                return Err(Problem::new(Code::NotServing, "the cluster did not form").because(why));
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// A node that ends while the cluster starts, with what it said.
    fn check_living(&mut self) -> Result<()> {
        let Some(dead) = self.reap().into_iter().next() else { return Ok(()) };
        let log = self.log_of(&dead.name);
        let code = log.split_whitespace().find_map(crate::explain::parse_strict).unwrap_or(Code::Failed);
        Err(Problem::new(code, format!("{} {} while starting", dead.name, dead.how)).because(log))
    }

    /// The nodes that ended since the last look.
    pub(super) fn reap(&mut self) -> Vec<Dead> {
        let mut dead = Vec::new();
        for node in self.nodes.iter_mut().filter(|n| n.status.is_none()) {
            if let Ok(Some(status)) = node.child.try_wait() {
                node.status = Some(status);
                node.ended = None;
                let how = match (status.signal(), status.code()) {
                    (Some(signal), _) => format!("was killed by signal {signal}"),
                    (None, Some(code)) => format!("ended with status {code}"),
                    (None, None) => "ended".into(),
                };
                dead.push(Dead { name: node.name.clone(), how, lived: node.started.elapsed() });
            }
        }
        dead
    }

    /// How many are left.
    pub(super) fn living(&self) -> usize {
        self.nodes.iter().filter(|n| n.status.is_none()).count()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Where they live.
    pub(super) fn place(&self) -> &'a Place {
        self.place
    }

    pub(super) fn name(&self, node: usize) -> &str {
        &self.nodes[node].name
    }

    /// Whether a node has not ended.
    pub(super) fn is_up(&self, node: usize) -> bool {
        self.nodes[node].status.is_none()
    }

    /// Kills all of a node. It is not among those that [`reap`](Nodes::reap) finds.
    pub(super) fn kill(&mut self, node: usize) {
        self.signal_one(node, Signal::KILL);
        let node = &mut self.nodes[node];
        node.status = node.child.wait().ok();
        node.ended = None;
    }

    /// Asks a node to stop in order.
    pub(super) fn stop_one(&self, node: usize) {
        if let Some(keeper) = self.keeper(node) {
            let _ = rustix::process::kill_process(keeper, Signal::TERM);
        }
    }

    /// Whether a node has ended by now, whoever looks first.
    pub(super) fn has_ended(&mut self, node: usize) -> bool {
        let node = &mut self.nodes[node];
        if let Ok(Some(status)) = node.child.try_wait() {
            node.status = Some(status);
            node.ended = None;
        }
        node.status.is_some()
    }

    /// Kills the engine that a node's keeper has started. False if there is none.
    pub(super) fn kill_engine(&mut self, node: usize) -> bool {
        let Some(keeper) = self.keeper(node) else { return false };
        let keeper = keeper.as_raw_nonzero();
        let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"));
        let first = children.ok().and_then(|pids| pids.split_whitespace().next()?.parse().ok());
        let engine = first.and_then(rustix::process::Pid::from_raw);
        engine.is_some_and(|engine| rustix::process::kill_process(engine, Signal::KILL).is_ok())
    }

    fn keeper(&self, node: usize) -> Option<rustix::process::Pid> {
        rustix::process::Pid::from_raw(self.nodes[node].child.id() as i32)
    }

    /// Sends a signal to all processes of a node.
    pub(super) fn signal_one(&self, node: usize, signal: Signal) {
        let node = &self.nodes[node];
        if let Some(pid) = rustix::process::Pid::from_raw(node.child.id() as i32) {
            let _ = rustix::process::kill_process_group(pid, signal);
        }
    }

    /// Starts etcd again if it has ended. True if so.
    pub(super) fn revive_etcd(&mut self) -> Result<bool> {
        self.etcd.as_mut().map_or(Ok(false), Etcd::revive)
    }

    /// Lets go of etcd, for other nodes.
    pub(super) fn release_etcd(&mut self) -> Option<Etcd> {
        self.etcd.take()
    }

    /// Descriptors that tell when a node or etcd ends.
    pub(super) fn watched(&self) -> impl Iterator<Item = &OwnedFd> {
        self.nodes.iter().filter_map(|n| n.ended.as_ref()).chain(self.etcd.iter().map(Etcd::watched))
    }

    /// The last lines a node has written.
    pub(super) fn log_of(&self, name: &str) -> String {
        let text = fs::read_to_string(self.place.log(name)).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n       ")
    }

    /// Stops all in good order, and with force whoever does not hear.
    pub(super) fn stop(mut self) -> Result<()> {
        self.signal(Signal::TERM);
        // Who was stopped would not hear of it.
        (0..self.nodes.len())
            .filter(|node| self.is_up(*node))
            .for_each(|node| self.signal_one(node, Signal::CONT));
        let end = Instant::now() + STOP_MAX;
        while self.living() > 0 && Instant::now() < end {
            self.reap();
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        for node in self.nodes.iter().filter(|n| n.status.is_none()) {
            if let Some(pid) = rustix::process::Pid::from_raw(node.child.id() as i32) {
                let _ = rustix::process::kill_process(pid, signal);
            }
        }
    }
}

impl Drop for Nodes<'_> {
    fn drop(&mut self) {
        (0..self.nodes.len())
            .filter(|node| self.is_up(*node))
            .for_each(|node| self.signal_one(node, Signal::KILL));
        for node in self.nodes.iter_mut().filter(|n| n.status.is_none()) {
            let _ = node.child.wait();
        }
    }
}
