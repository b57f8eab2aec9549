//! Real nodes that rely on a real etcd.

mod support;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::solo::Solo;
use support::{Dev, Said, ask, signal, until};

/// The process of the cluster's etcd.
fn etcd(dev: &Dev) -> i32 {
    let data = dev.cluster().join("etcd/data");
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        if line.split(|b| *b == 0).any(|word| word == data.as_os_str().as_encoded_bytes()) {
            return entry.file_name().to_str().unwrap().parse().unwrap();
        }
    }
    panic!("etcd does not run");
}

fn endpoint(dev: &Dev) -> String {
    let said = dev.run('a', &["status", "-o", "json"]).expect(0, &[]).json();
    said["coordinator"]["endpoint"].as_str().unwrap().to_owned()
}

/// Which runs are in the view, and which view that is.
fn view(dev: &Dev) -> (u64, Vec<u64>) {
    let said = dev.run('a', &["status", "-o", "json"]).expect(0, &[]).json();
    let runs = said["members"].as_array().unwrap().iter().map(|m| m["view_run"].as_u64().unwrap());
    (said["epoch"].as_u64().unwrap(), runs.collect())
}

/// A process that is killed when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Three members of one etcd, and three nodes that know all of them.
struct Trio {
    dir: tempfile::TempDir,
    members: Vec<Option<Running>>,
    nodes: Vec<Running>,
}

impl Trio {
    fn start() -> Trio {
        let dir = tempfile::Builder::new().prefix("oar").tempdir().unwrap();
        // Held together, so that none is given twice.
        let free: Vec<TcpListener> =
            (0..6).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
        let urls: Vec<String> =
            free.iter().map(|it| format!("http://{}", it.local_addr().unwrap())).collect();
        drop(free);
        let (clients, peers) = urls.split_at(3);
        let all: Vec<String> = peers.iter().enumerate().map(|(n, url)| format!("m{n}={url}")).collect();
        let mut trio = Trio { dir, members: Vec::new(), nodes: Vec::new() };
        for n in 0..3 {
            let log = fs::File::create(trio.path(&format!("etcd-{n}.log"))).unwrap();
            let mut command = Command::new("etcd");
            command.arg(format!("--name=m{n}")).arg("--data-dir").arg(trio.path(&format!("etcd-{n}")));
            command.arg(format!("--listen-client-urls={}", clients[n]));
            command.arg(format!("--advertise-client-urls={}", clients[n]));
            command.arg(format!("--listen-peer-urls={}", peers[n]));
            command.arg(format!("--initial-advertise-peer-urls={}", peers[n]));
            command.arg(format!("--initial-cluster={}", all.join(",")));
            command.args(["--heartbeat-interval=50", "--election-timeout=250", "--pre-vote=true"]);
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
            trio.members.push(Some(Running(command.spawn().unwrap())));
        }
        let secret = trio.path("secret");
        support::run(["key", "secret", "--out", secret.to_str().unwrap()]).expect(0, &[]);
        let mut members = String::new();
        for n in 0..3 {
            fs::create_dir(trio.path(&n.to_string())).unwrap();
            let key = trio.path(&format!("{n}/key"));
            let key = support::run(["key", "new", "--out", key.to_str().unwrap()]).expect(0, &[]).out;
            let (port, key) = (support::solo::free_port(), key.trim().to_owned());
            members += &format!(
                "\n[[member]]\nname = \"n{n}\"\naddress = \"127.0.0.1:{port}\"\npublic_key = \"{key}\"\n"
            );
        }
        for n in 0..3 {
            let text = format!(
                "[node]\nname = \"n{n}\"\nsocket = \"sock\"\ndata_dir = \"data\"\nkey_file = \"key\"\n\
                 [cluster]\nname = \"trio\"\nsecret_file = \"../secret\"\ncoordinator = \"etcd\"\n\
                 [coordinator.etcd]\nendpoints = {clients:?}\n{members}"
            );
            let config = trio.path(&format!("{n}/node.toml"));
            fs::write(&config, text).unwrap();
            let log = fs::File::create(trio.path(&format!("{n}/log"))).unwrap();
            let mut command = support::oarlock();
            command.args(["serve", "--config"]).arg(&config).stderr(log);
            trio.nodes.push(Running(command.spawn().unwrap()));
        }
        until("all are well", || (0..3).all(|n| trio.status(n).is_some_and(|it| it["healthy"] == true)));
        trio
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, node: usize, args: &[&str]) -> Said {
        let mut command = support::oarlock();
        command.env("OARLOCK_SOCKET", self.path(&format!("{node}/sock"))).args(args);
        Said::of(command.output().unwrap())
    }

    fn status(&self, node: usize) -> Option<Value> {
        let said = self.run(node, &["status", "-o", "json"]);
        (said.status == Some(0)).then(|| said.json())
    }

    /// Which member of etcd leads, by what it said last.
    fn leader(&self) -> usize {
        let logs: Vec<String> =
            (0..3).map(|n| fs::read_to_string(self.path(&format!("etcd-{n}.log"))).unwrap()).collect();
        let term = |log: &str| {
            let lines = log.lines().filter(|line| line.contains("became leader at term "));
            let terms = lines.filter_map(|line| {
                let (_, rest) = line.split_once("became leader at term ")?;
                rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
            });
            terms.max()
        };
        let leader = (0..3).max_by_key(|n| term(&logs[*n])).unwrap();
        assert!(term(&logs[leader]).is_some(), "nobody says that it leads: {}", logs[0]);
        leader
    }
}

/// L2, L6: whichever member of etcd leads is killed for good. Nobody is put out, and what is held stays held.
#[test]
fn the_loss_of_the_leader_of_etcd_evicts_nobody() {
    let mut trio = Trio::start();
    let mut command = support::oarlock();
    command.env("OARLOCK_SOCKET", trio.path("0/sock"));
    command.args(["lock", "-q", "--label", "holder", "x", "--", "sleep", "60"]).stdout(Stdio::null());
    let _held = Running(command.spawn().unwrap());
    until("it is held", || trio.run(1, &["locks", "ls"]).out.contains("(holder)"));
    let view = |trio: &Trio| {
        let status = trio.status(1).unwrap();
        let runs = status["members"].as_array().unwrap().iter().map(|m| m["view_run"].clone());
        (status["epoch"].clone(), runs.collect::<Vec<_>>())
    };
    let before = view(&trio);
    let killed = Instant::now();
    let leader = trio.leader();
    trio.members[leader] = None;
    let renewals = |trio: &Trio| {
        let said = trio.run(1, &["coord", "show", "-o", "json"]).expect(0, &[]).json();
        said["members"].as_array().unwrap().iter().map(|m| m["renewals"].as_u64().unwrap()).min().unwrap()
    };
    let so_far = renewals(&trio);
    until("leases are renewed again", || renewals(&trio) > so_far);
    let away = killed.elapsed();
    println!("etcd decided again after {away:?}");
    until("leases are renewed again", || renewals(&trio) > so_far + 1);
    // On a machine so busy that nothing was decided for nearly a lease, nobody can say.
    if away < Duration::from_millis(2_500) {
        assert_eq!(view(&trio), before, "etcd decided again after {away:?}");
        trio.run(2, &["lock", "-n", "x", "--", "true"]).expect(75, &["OAR-2101"]);
    }
}

/// L2, L6: etcd is killed and comes back. Nobody is put out, and what is held stays held.
#[test]
fn a_restart_of_etcd_evicts_nobody() {
    /// A lease that was renewed a moment before the kill is not over by then, on however busy a machine.
    const SOON: Duration = Duration::from_millis(1_200);
    let dev = Dev::start_with(&["--coordinator", "etcd"]);
    dev.run('b', &["coord", "show"]).expect(0, &["coordinator  etcd, by http://", "which answers"]);
    dev.run('c', &["status"]).expect(0, &["etcd     http://"]);
    for attempt in 1.. {
        let _held = ask(&dev, 'a', "holder", &["x"]);
        until("it is held", || dev.run('b', &["locks", "ls"]).out.contains("(holder)"));
        let before = view(&dev);
        let (pid, killed) = (etcd(&dev), Instant::now());
        signal(pid, "KILL");
        until("it is back", || dev.said().matches("etcd has ended; it is started again").count() == attempt);
        let away = killed.elapsed();
        // Renewals have been decided since.
        let renewals = || {
            let said = dev.run('a', &["coord", "show", "-o", "json"]).expect(0, &[]).json();
            said["members"].as_array().unwrap().iter().map(|m| m["renewals"].as_u64().unwrap()).min().unwrap()
        };
        let so_far = renewals();
        until("leases are renewed again", || renewals() > so_far + 1);
        if away > SOON && attempt < 5 {
            // Too busy to say anything. Whoever was put out comes back.
            until("all are well", || dev.all_well());
            continue;
        }
        println!("etcd was away for {away:?}");
        assert_eq!(view(&dev), before, "etcd was away for {away:?}");
        dev.run('b', &["lock", "-n", "x", "--", "true"]).expect(75, &["OAR-2101"]);
        break;
    }
    dev.run('a', &["health"]).expect(0, &["etcd by http://"]);
}

/// Without etcd nothing is granted for longer than a lease, and it is said why; with it all goes on, with greater tokens.
#[test]
fn without_etcd_nothing_is_granted_and_with_it_all_goes_on() {
    let dev = Dev::start_with(&["--coordinator", "etcd"]);
    let token = |node| {
        let said = dev.run(node, &["lock", "-w", "20s", "x", "-c", "echo $OARLOCK_TOKEN"]).expect(0, &[]);
        said.out.trim().parse::<u64>().unwrap()
    };
    let before = token('a');
    let pid = etcd(&dev);
    signal(pid, "STOP");
    until("it says so", || dev.run('a', &["health"]).out.contains("no majority of etcd answers node-a"));
    until("nothing is granted", || {
        dev.run('a', &["lock", "-w", "100ms", "x", "--", "true"]).status == Some(69)
    });
    dev.run('a', &["node", "drain", "node-b"]).expect(69, &["OAR-3201", "etcd"]);
    dev.run('b', &["status"]).expect(0, &["does NOT answer"]);
    signal(pid, "CONT");
    until("all are well", || dev.all_well());
    assert!(token('b') > before);
    // Nobody leads and nobody votes, and yet a change is decided.
    dev.run('a', &["node", "drain", "node-b"]).expect(0, &["view "]);
    // All of it ends and begins again with what etcd has kept.
    let before = token('c');
    for node in ["node-a", "node-b", "node-c"] {
        dev.order(&["break", node]).expect(0, &[]);
    }
    dev.order(&["heal"]).expect(0, &[]);
    until("all are well", || dev.all_well());
    assert!(token('a') > before);
    dev.run('c', &["node", "show", "node-b"]).expect(0, &["drained"]);
}

/// L7: who was put out because two do not hear each other is not let in before they do. A new run reads the order from its
/// beginning, and hears everybody in the first views; what it reads on the way must not count.
#[test]
fn a_node_that_is_cut_off_is_not_let_in_by_what_is_long_over() {
    let dev = Dev::start_with(&["--coordinator", "etcd"]);
    let revision = || {
        let said = dev.run('a', &["coord", "show", "-o", "json"]).expect(0, &[]).json();
        said["revision"].as_u64().unwrap()
    };
    // More than is read at once.
    until("there is a past", || revision() > 80);
    dev.order(&["cut", "node-a", "node-b"]).expect(0, &[]);
    until("node-b is out", || view(&dev).1[1] == 0);
    let out = view(&dev);
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        assert_eq!(view(&dev), out);
        std::thread::sleep(Duration::from_millis(50));
    }
    dev.order(&["heal"]).expect(0, &[]);
    until("all are well", || dev.all_well());
}

/// FT16: a node that was in a view founds nothing where etcd has nothing, and one cluster does not become another.
#[test]
fn what_is_not_the_cluster_that_it_was_is_refused() {
    let etcd = |endpoint: &str, prefix: &str| {
        format!("[coordinator.etcd]\nendpoints = [\"{endpoint}\"]\nprefix = \"{prefix}\"\n")
    };
    let dev = Dev::start_with(&["-n", "1", "--coordinator", "etcd"]);
    let endpoint = endpoint(&dev);
    let mut solo = Solo::new("");
    let raft = solo.read();
    let with = |prefix: &str| {
        let text =
            raft.replace("secret_file = \"secret\"\n", "secret_file = \"secret\"\ncoordinator = \"etcd\"\n");
        text + &etcd(&endpoint, prefix)
    };
    // Somebody else's.
    solo.write(&with("/oarlock/dev"));
    solo.serve().expect(69, &["OAR-2405", "another cluster under this prefix"]);
    solo.write(&with("/oarlock/mine"));
    solo.start();
    solo.run(&["lock", "x", "--", "true"]).expect(0, &[]);
    assert_eq!(solo.end("TERM"), Some(0));
    solo.write(&with("/oarlock/other"));
    solo.serve().expect(69, &["OAR-2405", "endpoints or prefix are others than before"]);
    solo.write(&with("/oarlock/dev"));
    solo.serve().expect(69, &["OAR-2405", "the order belongs to the cluster", "and this node to"]);
    // Its own coordinator has promised nothing so far.
    solo.write(&raft);
    solo.serve().expect(78, &["OAR-1207", "raft.redb"]);
    solo.write(&with("/oarlock/mine"));
    solo.start();
    solo.run(&["lock", "x", "--", "true"]).expect(0, &[]);
    solo.end("TERM");

    let mut other = Solo::new("");
    other.start();
    other.end("TERM");
    let text = other
        .read()
        .replace("secret_file = \"secret\"\n", "secret_file = \"secret\"\ncoordinator = \"etcd\"\n");
    other.write(&(text + &etcd(&endpoint, "/oarlock/more")));
    other.serve().expect(78, &["OAR-1207", "of a cluster that decides by itself"]);
}

#[test]
fn a_configuration_without_an_etcd_to_rely_on_is_refused() {
    let solo = Solo::new("");
    let good = solo.read();
    let set = |coordinator: &str, section: &str| {
        let text = good.replace("[cluster]\n", &format!("[cluster]\ncoordinator = \"{coordinator}\"\n"));
        solo.write(&(text + section));
        support::run(["config", "check", solo.config().to_str().unwrap()])
    };
    set("etcd", "").expect(78, &["OAR-1201", "[coordinator.etcd] is missing", "endpoints ="]);
    let section = "[coordinator.etcd]\nendpoints = [\"http://127.0.0.1:2379\"]\n";
    set("raft", section).expect(78, &["OAR-1201", "the members decide by themselves"]);
    set("zookeeper", section).expect(78, &["OAR-1201", "unknown value `zookeeper`"]);
    set("etcd", "[coordinator.etcd]\nendpoints = []\n").expect(78, &["no endpoint of etcd is given"]);
    let tls = "[coordinator.etcd]\nendpoints = [\"https://127.0.0.1:2379\"]\n";
    set("etcd", tls).expect(78, &["only http:// is known so far"]);
    set("etcd", "[coordinator.etcd]\nendpoint = []\n").expect(78, &["OAR-1202", "did you mean `endpoints`?"]);
    set("etcd", section).expect(0, &["makes sense"]);
    let shown = support::run(["config", "show", solo.config().to_str().unwrap()]);
    shown.expect(0, &["coordinator = \"etcd\"", "prefix = \"/oarlock/alone\""]);
    let shared = |said: Said| said.json()["parts"]["[cluster]"].clone();
    let check = || support::run(["config", "check", solo.config().to_str().unwrap(), "-o", "json"]);
    let with = shared(check());
    set("raft", "").expect(0, &[]);
    assert_ne!(shared(check()), with, "members compare who decides");
}

#[test]
fn without_the_program_it_is_said_what_to_install() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_oarlock"));
    command.args(["dev", "-n", "1", "--coordinator", "etcd", "--dir"]).arg(dir.path().join("c"));
    let said = Said::of(command.env("PATH", "/nowhere").output().unwrap());
    said.expect(1, &["there is no program `etcd` here", "apt-get install etcd-server"]);
    assert!(!dir.path().join("c").exists(), "nothing is left");
}

/// A machine joins a cluster whose order etcd keeps, with the same token as elsewhere, and another takes the place of a lost one.
#[test]
fn a_machine_joins_a_cluster_that_relies_on_an_etcd_and_is_replaced() {
    let dev = Dev::start_with(&["--coordinator", "etcd"]);
    let endpoint = endpoint(&dev);
    let machine = |name: &str| {
        let dir = tempfile::Builder::new().prefix("oar").tempdir().unwrap();
        let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let text = format!(
            "[node]\nname = \"{name}\"\nlisten = \"{free}\"\nsocket = \"sock\"\ndata_dir = \"data\"\n"
        );
        fs::write(dir.path().join("node.toml"), text).unwrap();
        dir
    };
    let command = |dir: &tempfile::TempDir, verb: &str| {
        let mut command = support::oarlock();
        command.arg(verb).arg("--config").arg(dir.path().join("node.toml"));
        command
    };
    let token = |name: &str| dev.run('a', &["token", "create", name]).expect(0, &[]).out.trim().to_owned();
    let join =
        |dir: &tempfile::TempDir, token: &str| Said::of(command(dir, "join").arg(token).output().unwrap());
    let serve = |dir: &tempfile::TempDir| {
        let log = fs::File::create(dir.path().join("log")).unwrap();
        Running(command(dir, "serve").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    };
    let at = |dir: &tempfile::TempDir, args: &[&str]| {
        let socket = dir.path().join("sock");
        Said::of(support::oarlock().env("OARLOCK_SOCKET", socket).args(args).output().unwrap())
    };
    let in_view = |name: &str| {
        let said = dev.run('a', &["status", "-o", "json"]);
        let members = (said.status == Some(0)).then(|| said.json()["members"].as_array().unwrap().clone());
        members.unwrap_or_default().iter().any(|it| it["node"] == name && it["in_view"] == true)
    };

    let first = machine("node-d");
    let used = token("node-d");
    let prefix = "\"/oarlock/dev\"";
    join(&first, &used).expect(1, &["relies on an etcd", prefix]);
    let file = first.path().join("node.toml");
    let outside = format!("[coordinator.etcd]\nendpoints = [\"{endpoint}\"]\n");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}{outside}prefix = \"/elsewhere\"\n")).unwrap();
    join(&first, &used).expect(1, &["/elsewhere", prefix]);
    fs::write(&file, format!("{text}{outside}")).unwrap();
    join(&first, &used).expect(0, &["node-d is member 3"]);
    let running = serve(&first);
    until("it is in", || in_view("node-d") && at(&first, &["ok"]).status == Some(0));
    at(&first, &["lock", "x", "--", "true"]).expect(0, &[]);
    until("every founder may leave", || !dev.run('a', &["coord", "show"]).out.contains("learner"));
    dev.run('a', &["lock", "x", "--", "true"]).expect(0, &[]);

    drop(running);
    until("it is out", || !in_view("node-d"));
    dev.run('b', &["node", "remove", "node-d", "--yes"]).expect(0, &["node-d has left"]);
    let second = machine("node-d");
    let file = second.path().join("node.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}{outside}")).unwrap();
    join(&second, &token("node-d")).expect(0, &[]);
    let mut running = serve(&second);
    until("it is in", || in_view("node-d") && at(&second, &["ok"]).status == Some(0));
    at(&second, &["leave", "--yes"]).expect(0, &["node-d has left"]);
    until("it ends", || running.0.try_wait().unwrap().is_some());
    dev.run('a', &["lock", "x", "--", "true"]).expect(0, &[]);
}

/// There is nothing of the members' to be put back.
#[test]
fn a_restore_is_not_for_a_cluster_that_relies_on_an_etcd() {
    let dev = Dev::start_with(&["--coordinator", "etcd"]);
    let copy = dev.dir.path().join("copy");
    let copy = copy.to_str().unwrap();
    dev.run('a', &["coord", "backup", copy]).expect(0, &[]);
    let config = dev.cluster().join("node-a/node.toml");
    let mut restore = support::oarlock();
    restore.args(["coord", "restore", "--yes", copy, "--config"]).arg(config);
    Said::of(restore.output().unwrap()).expect(1, &["OAR-1212", "etcd"]);
    dev.run('a', &["ok"]).expect(0, &[]);
}
