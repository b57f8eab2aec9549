//! Daemons in namespaces.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use oarlock::blocking::Client;
use oarlock_chaos::cluster::Freezer;
use oarlockd::host::child::descendants;
use serde_json::Value;

use super::{ETCD, ETCDS, Net, address};
use crate::support::run;

/// Where circuits listen in each namespace.
const PORT: u16 = 7401;
/// A cluster of which all was killed waits for the leases of the last views first, and machines are busy.
const WELL_MAX: Duration = Duration::from_secs(60);

/// Who decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Coordinator {
    Raft,
    Etcd,
}

/// One daemon in each namespace. All are killed when this is dropped.
pub(crate) struct Cluster<'a> {
    net: &'a Net,
    dir: tempfile::TempDir,
    daemons: Vec<Option<Child>>,
    freezer: Option<Freezer>,
    etcd: Vec<Child>,
}

impl<'a> Cluster<'a> {
    pub(crate) fn new(net: &'a Net, coordinator: Coordinator) -> Cluster<'a> {
        let dir = tempfile::Builder::new().prefix("oar").tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        run(["key", "secret", "--out", &path("secret")]).expect(0, &[]);
        let mut rest = String::new();
        for node in 0..net.nodes {
            fs::create_dir(path(&node.to_string())).unwrap();
            let key = run(["key", "new", "--out", &path(&format!("{node}/key"))]).expect(0, &[]);
            let (key, address) = (key.out.trim().to_owned(), address(node as u8 + 1));
            rest += &format!(
                "\n[[member]]\nname = \"n{node}\"\naddress = \"{address}:{PORT}\"\npublic_key = \"{key}\"\n"
            );
        }
        let engine = match coordinator {
            Coordinator::Raft => "raft",
            Coordinator::Etcd => {
                let endpoints: Vec<String> = (0..ETCDS).map(|member| etcd_url(member, 2379)).collect();
                rest += &format!("\n[coordinator.etcd]\nendpoints = {endpoints:?}\n");
                "etcd"
            }
        };
        for node in 0..net.nodes {
            let text = format!(
                "[node]\nname = \"n{node}\"\nsocket = \"sock\"\ndata_dir = \"data\"\nkey_file = \"key\"\n\n\
                 [cluster]\nname = \"net\"\nsecret_file = \"../secret\"\ncoordinator = \"{engine}\"\n{rest}"
            );
            fs::write(path(&format!("{node}/node.toml")), text).unwrap();
        }
        let daemons = (0..net.nodes).map(|_| None).collect();
        let etcd = match coordinator {
            Coordinator::Raft => Vec::new(),
            Coordinator::Etcd => (0..ETCDS).map(|member| etcd(net, &dir, member)).collect(),
        };
        let freezer = Freezer::new(&net.tag);
        Cluster { net, dir, daemons, freezer, etcd }
    }

    pub(crate) fn count(&self) -> usize {
        self.net.nodes
    }

    fn path(&self, node: usize, name: &str) -> PathBuf {
        self.dir.path().join(node.to_string()).join(name)
    }

    pub(crate) fn sockets(&self) -> Vec<PathBuf> {
        (0..self.count()).map(|node| self.path(node, "sock")).collect()
    }

    pub(crate) fn start(&mut self, node: usize) {
        let log = OpenOptions::new().create(true).append(true).open(self.path(node, "log")).unwrap();
        let mut command = self.net.command(node, env!("CARGO_BIN_EXE_oarlock"));
        command.arg("serve").arg("--config").arg(self.path(node, "node.toml"));
        command.env_remove("OARLOCK_LOG").env("NO_COLOR", "1").process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.daemons[node] = Some(command.spawn().unwrap());
    }

    /// SIGKILL to all of it.
    pub(crate) fn kill(&mut self, node: usize) {
        if let Some(mut daemon) = self.daemons[node].take() {
            signal_group(&daemon, "KILL");
            let _ = daemon.wait();
        }
    }

    /// It does not run any more. False: that cannot be on this machine.
    pub(crate) fn pause(&self, node: usize, frozen: bool) -> bool {
        let daemon = self.daemons[node].as_ref().unwrap();
        if !frozen {
            signal_group(daemon, "STOP");
            return true;
        }
        let Some(freezer) = &self.freezer else { return false };
        freezer.freeze(&[descendants(daemon.id()), vec![daemon.id()]].concat()).is_ok()
    }

    pub(crate) fn resume(&self, node: usize) {
        signal_group(self.daemons[node].as_ref().unwrap(), "CONT");
        if let Some(freezer) = &self.freezer {
            freezer.thaw().unwrap();
        }
    }

    fn status(&self, node: usize) -> Option<Value> {
        let client = Client::connect(self.path(node, "sock")).ok()?;
        serde_json::from_str(&client.ask(r#"{"ask":"status"}"#).ok()?).ok()
    }

    /// Who is in the view at a node, if it grants locks under it.
    pub(crate) fn view(&self, node: usize) -> Option<Vec<usize>> {
        self.status(node).as_ref().and_then(view)
    }

    /// Whether a node was ever without a renewal for so long that it granted nothing new.
    pub(crate) fn could_not_renew(&self, node: usize) -> bool {
        let said = fs::read_to_string(self.path(node, "log")).unwrap_or_default();
        said.contains("no majority has confirmed this node's lease")
    }

    /// Whether a run of a node has ever lost its lease.
    pub(crate) fn has_lost_leases(&self, node: usize) -> bool {
        fs::read_to_string(self.path(node, "log")).unwrap_or_default().contains("the lease is over")
    }

    /// Which member of etcd leads, by what it said last.
    pub(crate) fn etcd_leader(&self) -> usize {
        let term = |member: &usize| {
            let log = self.dir.path().join(format!("etcd{member}.log"));
            let log = fs::read_to_string(log).unwrap_or_default();
            let terms = log.lines().filter_map(|line| {
                let (_, rest) = line.split_once("became leader at term ")?;
                rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
            });
            terms.max()
        };
        let leader = (0..self.etcd.len()).max_by_key(term).expect("there is an etcd");
        assert!(term(&leader).is_some(), "nobody says that it leads");
        leader
    }

    /// The number of the view at a node.
    pub(crate) fn epoch(&self, node: usize) -> Option<u64> {
        self.status(node)?["epoch"].as_u64()
    }

    /// Until these are the view at a node, and it grants locks under it.
    #[track_caller]
    pub(crate) fn until_view(&self, node: usize, members: &[usize], patience: Duration, what: &str) {
        let end = Instant::now() + patience;
        loop {
            let status = self.status(node);
            if status.as_ref().and_then(view).is_some_and(|view| view == members) {
                return;
            }
            let ended = Instant::now() > end;
            assert!(!ended, "{what}: {members:?} is not the view of {node}: {status:?}{}", self.logs());
            sleep(Duration::from_millis(20));
        }
    }

    /// Until all are in, and hear each other.
    #[track_caller]
    pub(crate) fn until_all_well(&self) {
        let all: Vec<usize> = (0..self.count()).collect();
        for node in &all {
            self.until_view(*node, &all, WELL_MAX, "all well");
        }
        let end = Instant::now() + WELL_MAX;
        while !all.iter().all(|node| self.status(*node).is_some_and(|it| it["healthy"] == true)) {
            assert!(Instant::now() < end, "not all hear each other{}", self.logs());
            sleep(Duration::from_millis(20));
        }
    }

    /// The last lines of all logs.
    pub(crate) fn logs(&self) -> String {
        let mut text = String::new();
        for node in 0..self.count() {
            let log = fs::read_to_string(self.path(node, "log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            for line in &lines[lines.len().saturating_sub(25)..] {
                text += &format!("\n  n{node}: {line}");
            }
        }
        text
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        if let Some(freezer) = &self.freezer {
            let _ = freezer.thaw();
        }
        (0..self.count()).for_each(|node| self.kill(node));
        for etcd in &mut self.etcd {
            let _ = etcd.kill();
            let _ = etcd.wait();
        }
    }
}

fn view(status: &Value) -> Option<Vec<usize>> {
    let all = status["members"].as_array().unwrap().iter().enumerate();
    let view = all.filter(|(_, m)| m["in_view"] == true).map(|(at, _)| at).collect();
    (status["granting"] == true).then_some(view)
}

fn signal_group(daemon: &Child, name: &str) {
    let status =
        Command::new("kill").args([&format!("-{name}"), "--", &format!("-{}", daemon.id())]).status();
    assert!(status.unwrap().success(), "kill -{name} -{}", daemon.id());
}

fn etcd_url(member: usize, port: u16) -> String {
    format!("http://{}:{port}", address(ETCD + member as u8))
}

/// A member of etcd, with the times that nodes want of it.
fn etcd(net: &Net, dir: &tempfile::TempDir, member: usize) -> Child {
    let log = File::create(dir.path().join(format!("etcd{member}.log"))).unwrap();
    let (client, peer) = (etcd_url(member, 2379), etcd_url(member, 2380));
    let all: Vec<String> = (0..ETCDS).map(|n| format!("m{n}={}", etcd_url(n, 2380))).collect();
    let mut command = net.command(net.etcd(member), "etcd");
    command.arg(format!("--name=m{member}"));
    command.arg(format!("--data-dir={}", dir.path().join(format!("etcd{member}")).display()));
    command.arg(format!("--listen-client-urls={client}")).arg(format!("--advertise-client-urls={client}"));
    command.arg(format!("--listen-peer-urls={peer}")).arg(format!("--initial-advertise-peer-urls={peer}"));
    command.arg(format!("--initial-cluster={}", all.join(",")));
    command.args(["--heartbeat-interval=50", "--election-timeout=250", "--pre-vote=true"]);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}
