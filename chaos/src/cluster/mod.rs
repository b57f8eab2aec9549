//! A cluster of real daemons in a directory that vanishes, with a proxy between them.

mod chronicle;
mod daemon;
pub mod files;
mod freezer;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use oarlock::blocking::Client;
use serde_json::Value;
use tempfile::TempDir;

pub use chronicle::{Chronicle, ViewTold};
pub use daemon::{Footprint, Process};
pub use files::{Member, Place};
pub use freezer::Freezer;

use crate::proxy::Proxy;

/// Names of the nodes, in the order of their ids.
pub const NAMES: [&str; 3] = ["a", "b", "c"];
/// How many nodes there are.
pub const NODES: usize = NAMES.len();

/// Three daemons.
#[derive(Debug)]
pub struct Cluster {
    // The daemons end before their directory goes.
    daemons: [Option<Process>; NODES],
    /// Those that somebody has asked to end.
    leaving: [bool; NODES],
    /// One for each, where the machine has such a thing.
    freezers: [Option<Freezer>; NODES],
    /// All weather between the nodes.
    pub proxy: Proxy,
    /// What they know of each other.
    pub members: Vec<Member>,
    /// Where each lives.
    pub places: Vec<Place>,
    /// The binary they run.
    pub oarlock: PathBuf,
    dir: TempDir,
}

impl Cluster {
    /// Makes keys and files; starts nothing.
    pub fn new(oarlock: &Path, seed: u64) -> io::Result<Cluster> {
        let dir = tempfile::Builder::new().prefix("oarlock-chaos-").tempdir()?;
        let secret_file = dir.path().join("secret");
        files::new_secret(oarlock, &secret_file)?;
        let (mut places, mut keys) = (Vec::new(), Vec::new());
        for name in NAMES {
            let dir = dir.path().join(name);
            std::fs::create_dir(&dir)?;
            let key_file = dir.join("key");
            keys.push(files::new_key(oarlock, &key_file)?);
            places.push(Place {
                dir,
                listen: files::free_address()?,
                key_file,
                secret_file: secret_file.clone(),
            });
        }
        let real: Vec<_> = places.iter().map(|p| p.listen).collect();
        let proxy = Proxy::open(seed, &real)?;
        let members: Vec<Member> = NAMES
            .iter()
            .zip(keys)
            .zip(proxy.addresses())
            .map(|((name, public_key), address)| Member {
                name: (*name).into(),
                address: *address,
                public_key,
            })
            .collect();
        for (name, place) in NAMES.iter().zip(&places) {
            place.write_config(name, &members)?;
        }
        let daemons = [const { None }; NODES];
        // Each call makes another cluster: names in the freezer must not meet.
        let label = dir.path().file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let freezers = NAMES.map(|name| Freezer::new(&format!("{label}-{name}")));
        Ok(Cluster {
            daemons,
            leaving: [false; NODES],
            freezers,
            proxy,
            members,
            places,
            oarlock: oarlock.into(),
            dir,
        })
    }

    /// The directory of all of it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Leaves the directory where it is, for somebody to look at.
    pub fn keep(&mut self) {
        self.dir.disable_cleanup(true);
    }

    /// Starts a node.
    pub fn start(&mut self, node: usize) -> io::Result<()> {
        let place = &self.places[node];
        self.daemons[node] = Some(Process::serve(&self.oarlock, &place.config(), &place.log())?);
        self.leaving[node] = false;
        Ok(())
    }

    /// SIGKILL. The node stays away until it is started again.
    pub fn kill(&mut self, node: usize) {
        if let Some(freezer) = &self.freezers[node] {
            // What is frozen does not die.
            let _ = freezer.thaw();
        }
        self.daemons[node] = None;
    }

    /// SIGKILL to the engine of a node only. Its keeper gives the run up and starts another. False: none runs now.
    pub fn kill_engine(&mut self, node: usize) -> bool {
        self.daemon(node).kill_kept()
    }

    /// SIGTERM. [`has_left`](Cluster::has_left) tells when it has ended.
    pub fn ask_to_stop(&mut self, node: usize) {
        self.leaving[node] = true;
        self.daemon(node).ask_to_stop();
    }

    /// Whether a node that was asked to stop has ended.
    pub fn has_left(&mut self, node: usize) -> bool {
        let ended = self.daemons[node].as_mut().is_none_or(|d| !d.is_alive());
        if ended {
            self.daemons[node] = None;
        }
        ended
    }

    /// Stops a node from running, by the kernel's freezer. False: this machine has none.
    pub fn freeze(&mut self, node: usize) -> bool {
        let daemon = self.daemon(node);
        let pids: Vec<u32> = [Some(daemon.pid()), daemon.kept()].into_iter().flatten().collect();
        self.freezers[node].as_ref().is_some_and(|freezer| freezer.freeze(&pids).is_ok())
    }

    /// Lets a node run that was paused or frozen.
    pub fn resume(&mut self, node: usize) {
        if let Some(freezer) = &self.freezers[node] {
            let _ = freezer.thaw();
        }
        if let Some(daemon) = &self.daemons[node] {
            daemon.resume();
        }
    }

    /// Starts all nodes.
    pub fn start_all(&mut self) -> io::Result<()> {
        (0..NODES).try_for_each(|node| self.start(node))
    }

    /// The process of a node that was started.
    pub fn daemon(&mut self, node: usize) -> &mut Process {
        self.daemons[node].as_mut().expect("started before")
    }

    /// Nodes that have ended though nobody ended them.
    pub fn fallen(&mut self) -> Vec<&'static str> {
        let dead = |d: &mut Option<Process>| d.as_mut().is_some_and(|d| !d.is_alive());
        let staying =
            NAMES.into_iter().zip(&mut self.daemons).zip(self.leaving).filter(|(_, leaves)| !leaves);
        staying.filter_map(|((name, d), _)| dead(d).then_some(name)).collect()
    }

    /// A session with a node.
    pub fn client(&self, node: usize, label: &str) -> oarlock::Result<Client> {
        Client::builder().label(label).connect(self.places[node].socket())
    }

    /// The answer to a question of people.
    pub fn ask(&self, node: usize, question: &Value) -> oarlock::Result<Value> {
        let text = self.client(node, "chaos asks")?.ask(&question.to_string())?;
        Ok(serde_json::from_str(&text).expect("a daemon answers in JSON"))
    }

    /// How a node says it is.
    pub fn status(&self, node: usize) -> oarlock::Result<Value> {
        self.ask(node, &serde_json::json!({"ask": "status"}))
    }

    /// All counters of a node.
    pub fn counters(&self, node: usize) -> oarlock::Result<BTreeMap<String, u64>> {
        let said = self.ask(node, &serde_json::json!({"ask": "counters"}))?;
        let list = said["counters"].as_array().expect("a list of counters");
        Ok(list
            .iter()
            .map(|c| {
                let name = c["name"].as_str().expect("a counter has a name");
                (name.to_owned(), c["value"].as_u64().expect("a counter has a value"))
            })
            .collect())
    }

    /// Waits until every node says that it is well and grants locks. Returns the epoch.
    pub fn wait_until_serving(&mut self, patience: Duration) -> Result<u64, String> {
        let end = Instant::now() + patience;
        loop {
            let states: Vec<_> = (0..NODES).map(|node| self.status(node)).collect();
            let well = |s: &Value| s["healthy"] == true && s["granting"] == true;
            if states.iter().all(|s| s.as_ref().is_ok_and(well)) {
                return Ok(states[0].as_ref().expect("all are well")["epoch"].as_u64().unwrap_or(0));
            }
            let fallen = self.fallen();
            if !fallen.is_empty() {
                return Err(format!("node {} ended: {}", fallen.join(", "), self.logs()));
            }
            if Instant::now() >= end {
                return Err(format!("the cluster does not serve: {states:?}"));
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// The last lines of every log, and before them what a daemon said that did not believe itself any more.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for (name, place) in NAMES.iter().zip(&self.places) {
            let log = std::fs::read_to_string(place.log()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines.len().saturating_sub(15);
            let panic = lines[..last].iter().rposition(|line| line.contains("panicked at"));
            let panic = panic.map_or(0..0, |at| at..(at + 3).min(last));
            for line in lines[panic].iter().chain(&lines[last..]) {
                text += &format!("\n  {name}: {line}");
            }
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // What is frozen does not die, and whoever waits for its end would wait for ever.
        self.freezers.iter().flatten().for_each(|freezer| _ = freezer.thaw());
    }
}
