//! How long it takes until the locks of a killed program are free for somebody at another node.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use oarlock::blocking::Client;
use oarlock_sim::Random;

use crate::cluster::{Cluster, NODES, Process};

/// The role in which this program holds a lock until it is killed.
pub fn hold(args: &[String]) -> oarlock::Result<()> {
    let [socket, name] = args else { panic!("hold SOCKET NAME") };
    let client = Client::builder().label("chaos holder").connect(socket)?;
    let _guard = client.space("default")?.lock(name).acquire()?;
    println!("held");
    // Ends when it is killed, or when the harness and with it the other end of the input is gone.
    let _ = std::io::stdin().lines().next();
    Ok(())
}

/// Kills a holder while somebody waits. Returns the time from the kill to the grant.
pub(super) fn freed_after(cluster: &Cluster, random: &mut Random, turn: usize) -> Result<Duration, String> {
    let holder = random.below(NODES as u64) as usize;
    let waiter = (holder + 1 + random.below(NODES as u64 - 1) as usize) % NODES;
    let name = format!("probe/{turn}");
    let mut command = Command::new(std::env::current_exe().map_err(|e| e.to_string())?);
    command.arg("hold").arg(cluster.places[holder].socket()).arg(&name);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
    let mut line = String::new();
    let output = child.stdout.take().expect("piped above");
    let mut process = Process::of(child);
    BufReader::new(output).read_line(&mut line).map_err(|e| e.to_string())?;
    if line != "held\n" {
        return Err(format!("the holder of {name} at node {holder} did not get its lock"));
    }
    let client = cluster.client(waiter, "chaos waiter").map_err(|e| e.to_string())?;
    let space = client.space("default").map_err(|e| e.to_string())?;
    let (granted, answer) = channel();
    let request = space.lock(&name).timeout(Duration::from_secs(20));
    thread::spawn(move || {
        let outcome = request.acquire().map(|guard| {
            let at = Instant::now();
            (at, guard.release())
        });
        let _ = granted.send(outcome);
    });
    // Long enough for the waiter to be queued.
    thread::sleep(Duration::from_millis(150));
    if answer.try_recv().is_ok() {
        return Err(format!("{name} was granted while it was held"));
    }
    let killed = Instant::now();
    process.kill();
    let (at, released) = answer.recv().expect("the thread answers").map_err(|e| e.to_string())?;
    released.map_err(|e| e.to_string())?;
    Ok(at - killed)
}
