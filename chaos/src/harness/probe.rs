//! How long it takes until the locks of a killed program are free for somebody at another node.

use std::io::{BufRead, BufReader};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use oarlock::blocking::{Client, Guard};
use oarlock_sim::Random;

use crate::cluster::{Cluster, NODES, Process};

/// How often a holder looks whether its lease is over.
const LOOK: Duration = Duration::from_millis(20);

/// The role in which this program holds a lock until it is killed, or until the lock is lost.
pub fn hold(args: &[String]) -> oarlock::Result<()> {
    let [socket, name] = args else { panic!("hold SOCKET NAME") };
    let client = Client::builder().label("chaos holder").connect(socket)?;
    let guard = client.space("default")?.lock(name).acquire()?;
    println!("held");
    thread::spawn(|| {
        // The harness, and with it the other end of the input, is gone.
        let _ = std::io::stdin().lines().next();
        std::process::exit(0);
    });
    while guard.wait_lost(LOOK).is_none() {}
    println!("lost");
    Ok(())
}

/// A program that holds a lock.
pub(super) struct Holder {
    pub(super) process: Process,
    output: BufReader<ChildStdout>,
}

impl Holder {
    /// Starts it at a node, and waits until it has its lock.
    pub(super) fn start(cluster: &Cluster, node: usize, name: &str) -> Result<Holder, String> {
        let mut command = Command::new(std::env::current_exe().map_err(|e| e.to_string())?);
        command.arg("hold").arg(cluster.places[node].socket()).arg(name);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
        let output = BufReader::new(child.stdout.take().expect("piped above"));
        let mut holder = Holder { process: Process::of(child), output };
        match &*holder.says()? {
            "held\n" => Ok(holder),
            other => Err(format!("the holder of {name} at node {node} did not get its lock: {other:?}")),
        }
    }

    /// Its next line; empty if it has ended.
    pub(super) fn says(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.output.read_line(&mut line).map_err(|e| e.to_string())?;
        Ok(line)
    }
}

/// Somebody who waits for a lock that is held. Dropping it gives the lock back.
pub(super) struct Waiter {
    name: String,
    answer: Receiver<oarlock::Result<(Instant, Guard)>>,
}

impl Waiter {
    /// Asks, and goes on when the request is surely queued.
    pub(super) fn start(cluster: &Cluster, node: usize, name: &str) -> Result<Waiter, String> {
        let client = cluster.client(node, "chaos waiter").map_err(|e| e.to_string())?;
        let space = client.space("default").map_err(|e| e.to_string())?;
        let (granted, answer) = channel();
        let request = space.lock(name).timeout(Duration::from_secs(20));
        thread::spawn(move || {
            let outcome = request.acquire().map(|guard| (Instant::now(), guard));
            let _ = granted.send(outcome);
        });
        thread::sleep(Duration::from_millis(150));
        if answer.try_recv().is_ok() {
            return Err(format!("{name} was granted while it was held"));
        }
        Ok(Waiter { name: name.into(), answer })
    }

    /// When it was granted.
    pub(super) fn granted(self) -> Result<(Instant, Guard), String> {
        let answer = self.answer.recv().expect("the thread answers");
        answer.map_err(|error| format!("{}: {error}", self.name))
    }
}

/// Kills a holder while somebody waits. Returns the time from the kill to the grant.
pub(super) fn freed_after(cluster: &Cluster, random: &mut Random, turn: usize) -> Result<Duration, String> {
    let holder = random.below(NODES as u64) as usize;
    let waiter = (holder + 1 + random.below(NODES as u64 - 1) as usize) % NODES;
    let name = format!("probe/{turn}");
    let mut program = Holder::start(cluster, holder, &name)?;
    let request = Waiter::start(cluster, waiter, &name)?;
    let killed = Instant::now();
    program.process.kill();
    let (at, guard) = request.granted()?;
    guard.release().map_err(|e| e.to_string())?;
    Ok(at - killed)
}
