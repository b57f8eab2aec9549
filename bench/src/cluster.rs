//! Real daemons, each a process with a socket for programs and one for its peers.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use oarlock::blocking::Client;
use oarlock_layout::directory;
use oarlock_layout::id::{NodeId, SpaceId};
use oarlockd::host::key::{Secret, print};

use crate::machine::{self, Cpus, pin};
use crate::rounds::Failure;

/// Nodes of the usual cluster. Clients sit at the first two, one on each CPU; the third only decides.
pub(crate) const NODES: usize = 3;
/// Lockspace that keeps what it owns, as people use it.
pub(crate) const RETAINING: &str = "default";
/// Lockspace without retention: every acquire asks the master.
pub(crate) const FORGETFUL: &str = "forgetful";

/// Lockspace in which those of libdlm live.
pub(crate) const DLM: &str = "dlm";

/// A running cluster; ends when dropped.
pub(crate) struct Cluster {
    children: Vec<Child>,
    metrics: Vec<String>,
    directory: tempfile::TempDir,
}

/// The program under test: the one beside this program. If cargo runs us, it is made sure that it is of today.
pub(crate) fn binary() -> Result<PathBuf, Failure> {
    static BINARY: OnceLock<Result<PathBuf, Failure>> = OnceLock::new();
    BINARY.get_or_init(find_binary).clone()
}

fn find_binary() -> Result<PathBuf, Failure> {
    let me = std::env::current_exe().map_err(|e| format!("where this program is: {e}"))?;
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--package", "oarlockd", "--bin", "oarlock"]);
        if me.parent().and_then(Path::file_name).is_some_and(|directory| directory == "release") {
            build.arg("--release");
        }
        // What cargo tells us about this package would be news to it, and it would build everything again.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
                build.env_remove(&*name);
            }
        }
        let status = build.stdin(Stdio::null()).status().map_err(|e| format!("cargo: {e}"))?;
        if !status.success() {
            return Err(format!("the daemon could not be built: {status}"));
        }
    }
    // A test of this program lies one directory deeper.
    let tested = me.parent().is_some_and(|directory| directory.ends_with("deps"));
    let binary = if tested {
        me.parent().expect("just looked at").with_file_name("oarlock")
    } else {
        me.with_file_name("oarlock")
    };
    match binary.is_file() {
        true => Ok(binary),
        false => Err("there is no oarlock beside this program; cargo xtask bench builds both".into()),
    }
}

impl Cluster {
    /// Starts the daemons and waits until they serve. With `spin` their engines look for work before they
    /// sleep, as is the default; without, they sleep at once.
    pub(crate) fn start(cpus: Cpus, spin: bool) -> Result<Cluster, Failure> {
        Cluster::of(cpus, NODES, "", spin)
    }

    /// One node that decides everything by itself, with room for so many resources that none is given up for another.
    pub(crate) fn lone(cpus: Cpus, resources: u32) -> Result<Cluster, Failure> {
        Cluster::of(cpus, 1, &format!("resources_max = {}\n", resources * 2), true)
    }

    /// As many nodes; `space` goes into the definition of the lockspace that retains.
    fn of(cpus: Cpus, nodes: usize, space: &str, spin: bool) -> Result<Cluster, Failure> {
        let directory = tempfile::tempdir().map_err(|e| format!("a directory for the nodes: {e}"))?;
        let metrics = configure(directory.path(), nodes, space, spin)?;
        let binary = binary()?;
        let mut cluster = Cluster { children: Vec::new(), metrics, directory };
        for node in 0..nodes {
            let at = cluster.directory.path().join(name(node));
            let log = fs::File::create(at.join("log")).map_err(|e| format!("a log: {e}"))?;
            let mut command = Command::new(&binary);
            command.arg("serve").arg("--config").arg(at.join("node.toml"));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
            // A child runs where its parent does: the node plays a machine together with its clients.
            let spawned = thread::scope(|scope| {
                let spawn = || {
                    pin(cpu_of(cpus, node));
                    command.spawn()
                };
                scope.spawn(spawn).join().expect("no panic")
            });
            cluster.children.push(spawned.map_err(|e| format!("starting {}: {e}", binary.display()))?);
        }
        cluster.wait_until_serving()?;
        Ok(cluster)
    }

    fn wait_until_serving(&mut self) -> Result<(), Failure> {
        let end = Instant::now() + Duration::from_secs(20);
        for node in 0..self.children.len() {
            loop {
                let serves = || -> oarlock::Result<()> {
                    let space = Client::connect(self.socket(node))?.space(RETAINING)?;
                    space.lock("bench/ready").timeout(Duration::from_secs(5)).acquire()?.release()
                };
                let Err(why) = serves() else { break };
                if Instant::now() > end {
                    return Err(format!("{} does not serve: {why}\n{}", name(node), self.log(node)));
                }
                if let Ok(Some(status)) = self.children[node].try_wait() {
                    return Err(format!("{} ended ({status})\n{}", name(node), self.log(node)));
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    fn log(&self, node: usize) -> String {
        fs::read_to_string(self.directory.path().join(name(node)).join("log")).unwrap_or_default()
    }

    /// Where programs of a node connect.
    pub(crate) fn socket(&self, node: usize) -> PathBuf {
        self.directory.path().join(name(node)).join("oarlock.sock")
    }

    /// A space of a node, in a session of its own.
    pub(crate) fn space(&self, node: usize, space: &str) -> Result<oarlock::blocking::Space, Failure> {
        let open = || Client::connect(self.socket(node))?.space(space);
        open().map_err(|e| e.to_string())
    }

    /// The process of a node.
    pub(crate) fn process(&self, node: usize) -> u32 {
        self.children[node].id()
    }

    /// CPU seconds of all daemons so far.
    pub(crate) fn cpu_seconds(&self) -> Result<f64, Failure> {
        self.children.iter().map(|child| machine::process_seconds(child.id())).sum()
    }

    /// A counter, summed over all nodes.
    pub(crate) fn counter(&self, name: &str) -> Result<f64, Failure> {
        let name = format!("oarlock_{name}_total");
        self.metrics.iter().map(|address| read_counter(address, &name)).sum()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in &self.children {
            let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
            // One that has ended already needs no signal.
            let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::TERM));
        }
        for child in &mut self.children {
            let end = Instant::now() + Duration::from_secs(5);
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < end {
                thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The CPU a node shares with its clients.
pub(crate) fn cpu_of(cpus: Cpus, node: usize) -> usize {
    if node.is_multiple_of(2) { cpus.0 } else { cpus.1 }
}

/// Keys that a node masters. `space` counts from 0 in the order of the configuration.
pub(crate) fn keys(space: u16, master: usize, owner: usize, count: usize) -> Vec<String> {
    let members = || (0..NODES as u16).map(NodeId);
    (0u32..)
        .map(|n| format!("bench/{owner}/{n:06}"))
        .filter(|key| {
            directory::master(SpaceId(space), key.as_bytes(), members()) == Some(NodeId(master as u16))
        })
        .take(count)
        .collect()
}

fn name(node: usize) -> String {
    format!("node-{}", char::from(b'a' + node as u8))
}

/// Writes keys and configurations; returns where each node serves its metrics.
fn configure(directory: &Path, nodes: usize, space: &str, spin: bool) -> Result<Vec<String>, Failure> {
    let io = |e: std::io::Error| format!("preparing the nodes: {e}");
    let secret = directory.join("cluster.secret");
    Secret::generate().write_new(&secret).map_err(|e| e.to_string())?;
    // All held at once, or the same port would be given twice. They are free again when the daemons start.
    let any = ("127.0.0.1", 0);
    let udp: Vec<UdpSocket> =
        (0..nodes).map(|_| UdpSocket::bind(any)).collect::<Result<_, _>>().map_err(io)?;
    let tcp: Vec<TcpListener> =
        (0..nodes).map(|_| TcpListener::bind(any)).collect::<Result<_, _>>().map_err(io)?;
    let mut members = String::new();
    for (node, socket) in udp.iter().enumerate() {
        fs::create_dir(directory.join(name(node))).map_err(io)?;
        let key = Secret::generate();
        key.write_new(&directory.join(name(node)).join("node.key")).map_err(|e| e.to_string())?;
        members += &format!(
            "\n[[member]]\nname = \"{}\"\naddress = \"{}\"\npublic_key = \"{}\"\n",
            name(node),
            socket.local_addr().map_err(io)?,
            print(&key.public())
        );
    }
    let mut metrics = Vec::new();
    for (node, listener) in tcp.iter().enumerate() {
        let api = listener.local_addr().map_err(io)?.to_string();
        let text = format!(
            "[node]\nname = \"{}\"\napi = \"{api}\"\nsocket = \"oarlock.sock\"\ndata_dir = \"data\"\n\
             key_file = \"node.key\"\nspin = {spin}\n\n[cluster]\nname = \"bench\"\n\
             secret_file = \"../cluster.secret\"\n{members}\n[[space]]\nname = \"{RETAINING}\"\n{space}\n\
             [[space]]\nname = \"{FORGETFUL}\"\nretain = false\n\
             [[space]]\nname = \"{DLM}\"\norder = \"strict\"\n{space}",
            name(node)
        );
        fs::write(directory.join(name(node)).join("node.toml"), text).map_err(io)?;
        metrics.push(api);
    }
    Ok(metrics)
}

fn read_counter(address: &str, name: &str) -> Result<f64, Failure> {
    let fetch = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = fetch().map_err(|e| format!("metrics of {address}: {e}"))?;
    sum_of(&text, name).ok_or_else(|| format!("{address} has no counter {name}"))
}

/// Adds up the samples of a counter, whatever their labels.
fn sum_of(text: &str, name: &str) -> Option<f64> {
    let value = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let bare = series.split('{').next()?;
        if bare == name { value.parse().ok() } else { None }
    };
    text.lines().filter_map(value).reduce(|a: f64, b| a + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_with_and_without_labels() {
        let text = "# HELP a_total x\na_total 3\na_total{peer=\"b\"} 4\nab_total 9\n";
        assert_eq!(sum_of(text, "a_total"), Some(7.0));
        assert_eq!(sum_of(text, "b_total"), None);
    }

    #[test]
    fn keys_have_the_master_that_was_asked_for() {
        let members = || (0..NODES as u16).map(NodeId);
        for master in 0..NODES {
            let keys = keys(1, master, 7, 5);
            assert_eq!(keys.len(), 5);
            for key in keys {
                let found = directory::master(SpaceId(1), key.as_bytes(), members()).unwrap();
                assert_eq!(found.0 as usize, master);
            }
        }
    }
}
