//! Clusters of real daemons that begin with one node, or with three, and whose members come and go.

mod support;

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use oarlock_layout::code::Code;
use oarlock_layout::message::frame::{Datagram, VERSION};
use oarlock_layout::message::join::{JOIN_BYTES, is_question};
use oarlock_layout::seal::PublicKey;
use oarlockd::host::token::Token;
use support::solo::Solo;
use support::{Dev, Said, ask, lives, oarlock, signal, until};

/// A machine of its own: a directory with a configuration, and a node that may run.
struct Machine {
    dir: tempfile::TempDir,
    name: String,
    address: SocketAddr,
    child: Option<Child>,
}

impl Machine {
    fn new(name: &str) -> Machine {
        let dir = tempfile::Builder::new().prefix("oar").tempdir().unwrap();
        let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let machine = Machine { dir, name: name.into(), address, child: None };
        machine.configure("");
        machine
    }

    fn configure(&self, more: &str) {
        let text = format!(
            "[node]\nname = \"{}\"\nlisten = \"{}\"\nsocket = \"sock\"\ndata_dir = \"data\"\n{more}",
            self.name, self.address
        );
        fs::write(self.config(), text).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("node.toml")
    }

    fn data(&self, file: &str) -> PathBuf {
        self.dir.path().join("data").join(file)
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = oarlock();
        command.arg(verb).arg("--config").arg(self.config());
        command
    }

    fn serve(&mut self) {
        let log = fs::File::create(self.dir.path().join("log")).unwrap();
        let mut command = self.command("serve");
        command.stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        until("the node's socket is there", || self.dir.path().join("sock").exists());
    }

    fn run(&self, args: &[&str]) -> Said {
        let socket = self.dir.path().join("sock");
        Said::of(oarlock().env("OARLOCK_SOCKET", socket).args(args).output().unwrap())
    }

    fn join(&self, token: &str) -> Said {
        Said::of(self.command("join").arg(token).output().unwrap())
    }

    /// How the node ended.
    fn ended(&mut self) -> Option<i32> {
        let child = self.child.as_mut().expect("it was started");
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < end, "{} does not end", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            eprintln!("{} logged:\n{log}", self.name);
        }
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The members in the view, and who votes, as somebody tells.
fn standing(said: &Said) -> (usize, usize) {
    if said.status != Some(0) {
        return (0, 0);
    }
    let status = said.json();
    let members = status["members"].as_array().unwrap();
    let all_in = members.iter().filter(|m| m["in_view"] == true && m["heard"] == true).count();
    let whole = all_in == members.len() && status["serving"] == true;
    (if whole { all_in } else { 0 }, status["coordinator"]["voters"].as_array().unwrap().len())
}

fn token(said: Said) -> String {
    let text = said.expect(0, &["oarlock join"]).out.trim().to_owned();
    assert!(text.starts_with("oarlock1-") && !text.contains(char::is_whitespace), "{text}");
    text
}

/// A cluster that begins with one machine.
fn founded() -> Machine {
    let mut a = Machine::new("node-a");
    let said = Said::of(a.command("init").args(["--cluster", "harbour"]).output().unwrap());
    said.expect(0, &["harbour", "oarlock serve", "oarlock token create"]);
    a.serve();
    until("it serves", || standing(&a.run(&["status", "-o", "json"])) == (1, 1));
    a
}

/// 49: a node joins a cluster that others founded and that is at work, follows, votes, and leaves again. What is held stays
/// held all the while, and the key of who has left is of no use.
#[test]
fn a_fourth_node_joins_and_leaves_while_a_lock_is_held() {
    let dev = Dev::start();
    let held = ask(&dev, 'a', "keeper", &["held"]);
    let busy = |node: char| dev.run(node, &["lock", "-n", "held", "--", "true"]).status == Some(75);
    until("the lock is held", || busy('b'));
    let mut d = Machine::new("node-d");
    let token = token(dev.run('b', &["token", "create", "node-d"]));
    dev.run('c', &["token", "ls"]).expect(0, &["node-d"]);
    d.join(&token).expect(0, &["node-d is member 3", "oarlock serve"]);
    for (file, expected) in
        [("", 0o700), ("node.key", 0o600), ("cluster.secret", 0o600), ("cluster.toml", 0o600)]
    {
        assert_eq!(mode(&d.data(file)), expected, "{file}");
    }
    assert!(!dev.run('c', &["token", "ls"]).expect(0, &[]).out.contains("node-d"), "a token is used up");
    // Asked again before it has served, it hears the same again; but it knows that it is a member.
    d.join(&token).expect(78, &["OAR-1209"]);
    d.serve();
    until("it is in, and votes", || standing(&d.run(&["status", "-o", "json"])) == (4, 4));
    until("the others see it", || standing(&dev.run('a', &["status", "-o", "json"])) == (4, 4));
    d.run(&["lock", "-n", "held", "--", "true"]).expect(75, &[]);
    d.run(&["lock", "free", "--", "true"]).expect(0, &[]);
    dev.run('c', &["lock", "free", "--", "true"]).expect(0, &[]);

    // It is stopped and started again like any other, and finds the others by what it keeps.
    signal(d.child.as_ref().unwrap().id() as i32, "TERM");
    assert_eq!(d.ended(), Some(0));
    d.serve();
    until("it is in again", || standing(&d.run(&["status", "-o", "json"])) == (4, 4));

    d.run(&["leave"]).expect(2, &["--yes"]);
    d.run(&["leave", "--dry-run"]).expect(0, &["its key is accepted no more"]);
    d.run(&["leave", "--yes"]).expect(0, &["node-d has left the cluster"]);
    assert_eq!(d.ended(), Some(0));
    for node in ['a', 'b', 'c'] {
        until("three are left", || standing(&dev.run(node, &["status", "-o", "json"])) == (3, 3));
    }
    let again = Said::of(d.command("serve").output().unwrap());
    again.expect(78, &["OAR-1210"]);
    // As if it had not heard that it left: everybody refuses it.
    fs::remove_file(d.data("left")).unwrap();
    d.serve();
    until("its key is refused", || {
        let refused = d.run(&["status", "-o", "json"]);
        refused.out.contains("OAR-5101") || d.child.as_mut().unwrap().try_wait().unwrap().is_some()
    });
    assert!(busy('b') && busy('c'), "what is held stays held");
    assert!(lives(held.0.id() as i32));
}

/// From nothing: one node, then two, then one again. The one that is left decides alone.
#[test]
fn a_cluster_begins_with_one_node_and_grows() {
    let mut a = founded();
    assert_eq!(mode(&a.data("cluster.secret")), 0o600);
    a.run(&["leave", "--yes"]).expect(1, &["OAR-3203", "the only member"]);
    let mut b = Machine::new("node-b");
    let made = a.run(&["token", "create", "node-b", "--ttl", "5m", "-o", "json"]).expect(0, &[]).json();
    assert_eq!((made["seconds"].as_u64(), made["node"].as_str()), (Some(300), Some("node-b")));
    b.join(made["token"].as_str().unwrap()).expect(0, &[]);
    b.serve();
    until("both vote", || standing(&b.run(&["status", "-o", "json"])) == (2, 2));
    // Who founded may leave as well: the other one leads, and decides alone.
    a.run(&["leave", "--yes"]).expect(0, &["node-a has left"]);
    assert_eq!(a.ended(), Some(0));
    until("one is left", || standing(&b.run(&["status", "-o", "json"])) == (1, 1));
    b.run(&["lock", "x", "--", "true"]).expect(0, &[]);
    // And it lets others in, who never met the founder.
    let mut c = Machine::new("node-c");
    c.join(&token(b.run(&["token", "create", "node-c"]))).expect(0, &[]);
    c.serve();
    until("both vote", || standing(&c.run(&["status", "-o", "json"])) == (2, 2));
}

/// L5: who founded alone knew nobody when it started. Its last word goes to those who have joined since.
#[test]
fn the_last_word_of_a_founder_reaches_those_who_joined() {
    let a = founded();
    let join = |name: &str, voters: usize| {
        let mut it = Machine::new(name);
        it.join(&token(a.run(&["token", "create", name]))).expect(0, &[]);
        it.serve();
        until("all vote", || standing(&it.run(&["status", "-o", "json"])) == (voters, voters));
        it
    };
    let (b, c) = (join("node-b", 2), join("node-c", 3));
    let keeper = a.child.as_ref().unwrap().id() as i32;
    signal(support::engine_of(keeper), "KILL");
    for it in [&b, &c] {
        until("it hears that", || {
            it.run(&["events"]).out.contains("run 1 of node-a has died and is given up")
        });
    }
}

/// A machine is lost for good: once it is out of the view, another member ends its membership, and another machine takes its place,
/// under its name and with an empty data directory. The lost one is a stranger if it comes back.
#[test]
fn a_machine_that_is_lost_is_replaced_while_the_others_run() {
    let a = founded();
    let join = |name: &str, voters: usize| {
        let mut it = Machine::new(name);
        it.join(&token(a.run(&["token", "create", name]))).expect(0, &[]);
        it.serve();
        until("all vote", || standing(&it.run(&["status", "-o", "json"])) == (voters, voters));
        it
    };
    let _b = join("node-b", 2);
    let mut lost = join("node-c", 3);
    let remove = |name: &str, more: &[&str]| a.run(&[&["node", "remove", name], more].concat());
    remove("node-c", &["--yes"]).expect(1, &["OAR-3203", "is in the view", "oarlock leave"]);
    remove("node-a", &["--yes"]).expect(1, &["OAR-3203", "oarlock leave"]);
    remove("node-x", &["--yes"]).expect(2, &["OAR-1001", "node-x"]);
    signal(lost.child.as_ref().unwrap().id() as i32, "KILL");
    lost.ended();
    let is_out = || {
        let status = a.run(&["status", "-o", "json"]);
        let members = (status.status == Some(0)).then(|| status.json()["members"].clone());
        let members = members.as_ref().and_then(|it| it.as_array()).cloned().unwrap_or_default();
        members.iter().any(|it| it["node"] == "node-c" && it["in_view"] == false)
    };
    until("it is out of the view", is_out);
    remove("node-c", &[]).expect(2, &["--yes"]);
    remove("node-c", &["--dry-run"]).expect(0, &["its key is accepted no more"]);
    remove("node-c", &["--yes"]).expect(0, &["node-c has left the cluster"]);
    until("two are left", || standing(&a.run(&["status", "-o", "json"])) == (2, 2));
    let _c = join("node-c", 3);
    lost.serve();
    until("it is a stranger", || {
        lost.run(&["status", "-o", "json"]).out.contains("OAR-5101")
            || lost.child.as_mut().unwrap().try_wait().unwrap().is_some()
    });
    until("three are in", || standing(&a.run(&["status", "-o", "json"])) == (3, 3));
}

/// A founder whose membership has ended is a stranger, and calls if its machine comes back. That nobody joined what they founded
/// makes no other founder believe that its own directory is lost (OAR-1213).
#[test]
fn a_founder_that_was_removed_and_comes_back_stops_no_other() {
    let dev = Dev::start_with(&["--nodes", "4", "--keep"]);
    signal(dev.pid('d'), "KILL");
    let remove = ["node", "remove", "node-d", "--yes"];
    until("it is removed", || dev.run('a', &remove).status == Some(0));
    let all_well =
        || ['a', 'b', 'c'].iter().all(|node| standing(&dev.run(*node, &["status", "-o", "json"])) == (3, 3));
    until("three are left, and serve", all_well);
    let mut back = oarlock();
    back.args(["serve", "--dev", "--config"]).arg(dev.cluster().join("node-d/node.toml"));
    let mut back = back.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let refused = |node: char| dev.run(node, &["events"]).out.contains("OAR-5101");
    until("it has called and was refused", || ['a', 'b', 'c'].into_iter().all(refused));
    assert!(all_well(), "{}", dev.said());
    for node in ['a', 'b', 'c'] {
        let said = dev.run(node, &["status", "-o", "json"]).expect(0, &[]);
        assert_eq!(said.json()["incarnation"], 1, "node-{node} began anew");
    }
    let _ = back.kill();
    let _ = back.wait();
}

/// A cluster that began anew from a backup tells whoever joins which beginning it is of: circuits compare that.
#[test]
fn a_cluster_that_was_restored_lets_others_join() {
    let mut a = founded();
    let copy = a.dir.path().join("copy");
    a.run(&["coord", "backup", copy.to_str().unwrap()]).expect(0, &[]);
    signal(a.child.as_ref().unwrap().id() as i32, "TERM");
    assert_eq!(a.ended(), Some(0));
    let mut restore = oarlock();
    restore.args(["coord", "restore", "--yes", "--config"]).arg(a.config()).arg(&copy);
    Said::of(restore.output().unwrap()).expect(0, &["node-a is restored"]);
    a.serve();
    until("it serves", || standing(&a.run(&["status", "-o", "json"])) == (1, 1));
    let mut b = Machine::new("node-b");
    b.join(&token(a.run(&["token", "create", "node-b"]))).expect(0, &[]);
    let restored = |machine: &Machine| {
        let state = fs::read_to_string(machine.data("state")).unwrap();
        state.lines().find(|line| line.starts_with("restored ")).expect("it has that line").to_owned()
    };
    assert_eq!(restored(&b), restored(&a));
    assert_ne!(restored(&b), "restored 0000000000000000");
    for _ in 0..2 {
        b.serve();
        until("both vote", || standing(&b.run(&["status", "-o", "json"])) == (2, 2));
        signal(b.child.as_ref().unwrap().id() as i32, "TERM");
        assert_eq!(b.ended(), Some(0));
    }
}

#[test]
fn a_node_without_a_cluster_is_told_what_to_do() {
    let a = Machine::new("node-a");
    Said::of(a.command("serve").output().unwrap()).expect(78, &["OAR-1208", "oarlock init", "oarlock join"]);
    let init =
        |machine: &Machine, args: &[&str]| Said::of(machine.command("init").args(args).output().unwrap());
    init(&a, &["--cluster", "no name"]).expect(2, &["OAR-1001", "no name"]);
    init(&a, &["--address", "0.0.0.0:7401"]).expect(2, &["OAR-1001", "no machine's address"]);
    init(&a, &[]).expect(0, &[]);
    init(&a, &[]).expect(78, &["OAR-1209"]);
    a.configure("[[space]]\nname = \"late\"\n");
    Said::of(a.command("serve").output().unwrap()).expect(78, &["OAR-1201", "lockspaces", "[[space]]"]);
    // A configuration that founds a cluster itself.
    let b = Machine::new("node-b");
    b.configure("[cluster]\nname = \"c\"\nsecret_file = \"secret\"\n");
    init(&b, &[]).expect(78, &["OAR-1209", "[[member]]"]);
}

/// Every way in which a token can be wrong has its own answer, and none of them makes a member.
#[test]
fn bad_tokens_are_refused_each_with_its_reason() {
    let a = founded();
    let b = Machine::new("node-b");
    let create = |name: &str, ttl: &str| a.run(&["token", "create", name, "--ttl", ttl]);
    create("node-b", "16m").expect(2, &["OAR-1001", "15 min"]);
    create("node-b", "0s").expect(2, &["OAR-1001"]);
    create("node b", "1m").expect(2, &["OAR-1001", "node b"]);
    create("node-a", "1m").expect(1, &["OAR-1505"]);

    let good = token(create("node-b", "5m"));
    b.join(&good[..good.len() - 1]).expect(2, &["OAR-1501"]);
    b.join("oarlock1-").expect(2, &["OAR-1501"]);
    b.join(&token(create("node-x", "5m"))).expect(2, &["OAR-1502", "node-x", "node-b"]);

    let revoked = token(create("node-b", "5m"));
    a.run(&["token", "revoke", "3"]).expect(0, &[]);
    a.run(&["token", "revoke", "3"]).expect(0, &["out no more"]);
    a.run(&["token", "revoke", "9"]).expect(2, &["never been"]);
    b.join(&revoked).expect(77, &["OAR-1503"]);

    let short = token(create("node-b", "1s"));
    until("its time is over", || {
        a.run(&["token", "ls", "--no-headers", "-o", "json"]).out.contains("\"seconds\":0")
            || a.run(&["token", "ls", "-o", "json"]).json()["tokens"]
                .as_array()
                .unwrap()
                .iter()
                .any(|t| t["seconds"] == 0)
    });
    b.join(&short).expect(77, &["OAR-1504", "expired"]);

    let read = Token::parse(&good).unwrap();
    let with = |change: &dyn Fn(&mut Token)| {
        let mut token = read.clone();
        change(&mut token);
        token.print()
    };
    b.join(&with(&|t| t.secret[0] ^= 1)).expect(77, &["OAR-1503"]);
    b.join(&with(&|t| t.cluster[0] ^= 1)).expect(1, &["OAR-1506"]);
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent = with(&|t| t.address = nobody.local_addr().unwrap());
    let unanswered = Said::of(b.command("join").args(["--timeout", "1s", &silent]).output().unwrap());
    unanswered.expect(69, &["OAR-1507"]);
    // The id of the token is right, but not its key: it names a member that is none.
    b.join(&with(&|t| t.key = PublicKey([9; 32]))).expect(1, &["OAR-5101", "another key"]);
    assert_eq!(a.run(&["node", "ls", "-o", "name"]).out.trim(), "node-a", "nobody has become a member");
    assert!(!b.data("cluster.toml").exists());

    // Nothing is asked for a directory in which no run may begin: the token stays good.
    fs::write(b.data("disowned"), "node-a knows better\n").unwrap();
    b.join(&good).expect(78, &["OAR-1213", "node-a knows better"]);
    fs::remove_file(b.data("disowned")).unwrap();

    // Two tokens for one name: the first that is used takes the name.
    let second = token(create("node-b", "5m"));
    b.join(&good).expect(0, &[]);
    let other = Machine::new("node-b");
    other.join(&good).expect(1, &["OAR-1505"]);
    other.join(&second).expect(1, &["OAR-1505"]);
}

/// A founder that was alone and has lost its data directory would found its cluster again, beside the members that have joined: it
/// listens before, hears one of them, grants nothing, and begins no run in that directory any more.
#[test]
fn a_sole_founder_without_its_directory_grants_nothing_that_its_joiners_hold() {
    let mut a = Solo::new("");
    a.start();
    let mut b = Machine::new("node-b");
    b.join(&token(a.run(&["token", "create", "node-b"]))).expect(0, &[]);
    b.serve();
    until("both vote", || standing(&a.run(&["status", "-o", "json"])) == (2, 2));
    a.end("KILL");
    fs::remove_dir_all(a.path("data")).unwrap();
    let granted = std::thread::scope(|scope| {
        let tries = scope.spawn(|| {
            (0..100).any(|_| {
                std::thread::sleep(Duration::from_millis(50));
                a.run(&["lock", "-n", "x", "--", "true"]).status == Some(0)
            })
        });
        a.serve().expect(78, &["OAR-1213", "node 1 has joined this cluster"]);
        tries.join().unwrap()
    });
    assert!(!granted, "it serves beside the cluster that there is");
    a.serve().expect(78, &["OAR-1213", "node 1 has joined this cluster"]);
    // Nobody hears of a cluster where there is none.
    fs::remove_dir_all(a.path("data")).unwrap();
    drop(b);
    a.start();
}

/// Whoever speaks another version is told which one is spoken here, in as few words as possible.
#[test]
fn another_version_is_named_at_both_ends() {
    let a = founded();
    let b = Machine::new("node-b");
    let good = token(a.run(&["token", "create", "node-b"]));

    let member = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut elsewhere = Token::parse(&good).unwrap();
    elsewhere.address = member.local_addr().unwrap();
    let said = std::thread::scope(|scope| {
        let joining = scope.spawn(|| b.join(&elsewhere.print()));
        let mut question = [0; 2 * JOIN_BYTES];
        let (n, from) = member.recv_from(&mut question).unwrap();
        assert!(is_question(&question[..n]));
        // A real member of a version of the future answers like this one, but for the version.
        let real = UdpSocket::bind("127.0.0.1:0").unwrap();
        real.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        question[2] = VERSION + 1;
        real.send_to(&question[..n], a.address).unwrap();
        let mut answer = [0; 2 * JOIN_BYTES];
        let m = real.recv(&mut answer).unwrap();
        assert!(m < n, "{m} bytes for {n}");
        let Ok(Datagram::Refusal { version: VERSION, code, .. }) = Datagram::decode(&answer[..m]) else {
            panic!("not a refusal")
        };
        assert_eq!(Code::from_number(code), Some(Code::PeerVersion));
        answer[2] = VERSION + 7;
        member.send_to(&answer[..m], from).unwrap();
        joining.join().unwrap()
    });
    said.expect(1, &["OAR-5102", &format!("version {}", VERSION + 7), &format!("this one {VERSION}")]);
}
