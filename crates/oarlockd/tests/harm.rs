//! `oarlock dev break`, `pause`, `cut` and `heal` on a running cluster, and what nodes say about themselves then.

mod support;

use std::fs;
use std::process::Command;
use std::time::Instant;

use oarlock::blocking::Client;
use oarlock_layout::code::Code;
use serde_json::Value;
use support::solo::Solo;
use support::{Dev, Said, ask, lives, oarlock, signal, until};

fn member(dev: &Dev, at: char, of: &str) -> Value {
    let status = dev.run(at, &["status", "-o", "json"]).expect(0, &[]).json();
    let members = status["members"].as_array().unwrap();
    members.iter().find(|m| m["node"] == of).unwrap().clone()
}

fn takes(dev: &Dev, node: char, name: &str) -> bool {
    dev.run(node, &["lock", "-w", "1s", name, "--", "true"]).status == Some(0)
}

/// Of node-a and node-b one must go, and node-a has the lower number. False if the machine was so busy that leases were over:
/// then whoever comes first is in.
fn node_b_goes(dev: &Dev) -> bool {
    let out = |node: &str| member(dev, 'c', node)["in_view"] == false;
    until("one of them goes", || out("node-a") != out("node-b"));
    if out("node-b") {
        return true;
    }
    let lost = |node: &str| {
        let log = fs::read_to_string(dev.cluster().join(node).join("log")).unwrap();
        log.contains("no majority has confirmed this node's lease")
    };
    assert!(lost("node-a") || lost("node-c"), "node-a goes, though it has the lower number");
    false
}

/// A broken node stays down, the others put it out and go on; whoever asks a node whether it serves hears that it does,
/// and `health` has the warning.
#[test]
fn a_broken_node_stays_down_until_it_is_healed() {
    let dev = Dev::start();
    dev.run('a', &["health"]).expect(0, &["serving", "3 of 3 voters heard", "all 3 are in the view"]);
    let _held = ask(&dev, 'c', "victim", &["x"]);
    until("it is held", || dev.run('a', &["locks", "ls"]).out.contains("(victim)"));
    let pid = dev.pid('c');
    dev.order(&["break", "node-c"]).expect(0, &["node-c is killed", "oarlock dev heal node-c"]);
    assert!(!lives(pid));
    dev.order(&["break", "node-c"]).expect(1, &["OAR-3203", "node-c is down already"]);
    dev.order(&["pause", "node-c"]).expect(1, &["OAR-3203", "node-c is down"]);
    until("it is out", || member(&dev, 'a', "node-c")["in_view"] == false);
    dev.run('b', &["lock", "-w", "10s", "x", "--", "true"]).expect(0, &[]);
    dev.run('a', &["ok"]).expect(0, &["ok"]);
    let said = dev.run('a', &["health", "detail"]);
    said.expect(1, &["OAR-3104", "not in the view: node-c", "oarlock node ls; then look at that machine"]);
    let said = dev.run('a', &["health", "-o", "json"]).expect(1, &[]).json();
    assert_eq!((&said["grade"], said["matters"].as_array().unwrap().len()), (&"warn".into(), 10), "{said}");
    assert!(!dev.said().contains("started again"), "nobody started it: {}", dev.said());
    // Once two are gone, the third cannot serve, and says so.
    dev.order(&["break", "node-b"]).expect(0, &[]);
    until("it does not serve", || dev.run('a', &["ok"]).status == Some(69));
    // Whoever asks just as its run ends hears that instead.
    until("health says why", || {
        let said = dev.run('a', &["health"]);
        assert_eq!(said.status, Some(69), "{}{}", said.out, said.err);
        said.out.contains("BAD") && said.out.contains("quorum")
    });

    dev.order(&["heal"]).expect(0, &["node-b is started again", "node-c is started again"]);
    until("all are well", || dev.all_well());
    dev.order(&["heal"]).expect(0, &["nothing is to be healed"]);
    dev.order(&["break", "node-d"]).expect(2, &["OAR-1001", "there is no node `node-d`", "node-a, node-b"]);
    dev.order(&["cut", "node-a", "node-a"]).expect(1, &["a node always hears itself"]);
}

/// A node that begins again has no quorum yet, which is no fault; one that has none for long has.
#[test]
fn a_node_that_begins_again_says_that_it_starts() {
    let mut solo = Solo::new("");
    solo.start();
    assert_eq!(solo.end("KILL"), None);
    let begin = Instant::now();
    solo.launch();
    let mut starting = 0;
    until("it is well", || {
        let said = solo.run(&["health", "-o", "json"]);
        if said.status == Some(69) && said.out.is_empty() {
            return false;
        }
        let health = said.json();
        let matters = health["matters"].as_array().unwrap();
        let quorum = matters.iter().find(|it| it["matter"] == "quorum").unwrap().clone();
        assert!(quorum["grade"] != "bad" || begin.elapsed().as_secs() >= 5, "{quorum}");
        starting += u32::from(quorum["found"].as_str().unwrap().starts_with("starting: "));
        quorum["grade"] == "ok"
    });
    assert!(starting > 0, "it never said that it starts");

    let dev = Dev::start_with(&["--keep"]);
    for node in ["node-b", "node-c"] {
        dev.order(&["break", node]).expect(0, &[]);
    }
    until("it says that there is none", || {
        let said = dev.run('a', &["health"]).out;
        said.lines().any(|line| line.contains("quorum") && line.contains("BAD"))
    });
}

/// L7, FT5: two that do not hear each other are not left so; and a cut outlives a run of a node.
#[test]
fn a_cut_stays_until_it_is_healed_whatever_runs_meanwhile() {
    let dev = Dev::start();
    dev.order(&["cut", "node-b", "node-a"]).expect(0, &["node-b and node-a do not hear each other any more"]);
    if !node_b_goes(&dev) {
        return;
    }
    until("the two others go on", || takes(&dev, 'a', "x") && takes(&dev, 'c', "x"));
    assert!(member(&dev, 'a', "node-b")["heard"] == false);
    let before = dev.pid('b');
    signal(before, "KILL");
    until("another run of it answers", || {
        dev.said().contains("node-b was killed by signal 9") && dev.run('b', &["status"]).status == Some(0)
    });
    until("it hears node-c", || member(&dev, 'b', "node-c")["heard"] == true);
    assert!(member(&dev, 'b', "node-a")["heard"] == false, "a new run is as deaf");
    dev.order(&["heal", "node-a"]).expect(0, &["node-b hears node-a again", "node-a hears node-b again"]);
    // It was put out for silence, and is not let in the moment that it hears everybody.
    let mut told = false;
    until("it says for how much longer it waits", || {
        let said = dev.run('b', &["status"]).out;
        told = said.contains("it was put out because it was not heard") && said.contains(" s more");
        told || said.contains("healthy")
    });
    assert!(told, "it is in, and has said nothing of the time before");
    until("all are well", || dev.all_well());
}

/// FT6: only one way. The other node is heard, and yet one of the two must go.
#[test]
fn a_cut_of_one_way_is_a_cut() {
    let dev = Dev::start();
    dev.order(&["cut", "node-a", "node-b", "--one-way"]).expect(0, &["node-b does not hear node-a any more"]);
    if !node_b_goes(&dev) {
        return;
    }
    until("the two others go on", || takes(&dev, 'a', "x") && takes(&dev, 'c', "x"));
    let deaf = |node: char| {
        let log = fs::read_to_string(dev.cluster().join(format!("node-{node}/log"))).unwrap();
        log.contains("1 members are not heard")
    };
    assert!(deaf('b') && !deaf('a'), "the one that is cut off hears as ever");
    dev.order(&["heal"]).expect(0, &["node-b hears node-a again"]);
    until("all are well", || dev.all_well());
}

/// L1: a node that stands still; whoever is told something meanwhile is told when it goes on.
#[test]
fn a_paused_node_goes_on_when_it_is_healed() {
    let dev = Dev::start();
    let pid = dev.pid('b');
    dev.order(&["pause", "node-b"]).expect(0, &["node-b stands still"]);
    dev.order(&["pause", "node-b"]).expect(1, &["stands still already"]);
    dev.order(&["cut", "node-a", "node-b", "--one-way"]).expect(0, &[]);
    until("the others put it out", || member(&dev, 'a', "node-b")["in_view"] == false);
    until("they go on", || takes(&dev, 'a', "x"));
    let said = dev.order(&["heal", "node-b"]);
    said.expect(0, &["node-b goes on", "node-b hears node-a again"]);
    until("all are well", || dev.all_well());
    assert_eq!(dev.pid('b'), pid, "another run of the same process");
    // One that is broken while it stands does not stand any more.
    dev.order(&["pause", "node-b"]).expect(0, &[]);
    dev.order(&["break", "node-b"]).expect(0, &[]);
    let said = dev.order(&["heal"]).expect(0, &["node-b is started again"]);
    assert!(!said.out.contains("goes on"), "{}", said.out);
    until("all are well", || dev.all_well());
}

/// Orders find the cluster by themselves, as other commands do, and end with it.
#[test]
fn orders_find_the_running_cluster() {
    let mut dev = Dev::start_with(&["-n", "1"]);
    let order = |words: &[&str]| {
        let mut command: Command = oarlock();
        command.env("XDG_RUNTIME_DIR", dev.dir.path()).arg("dev").args(words);
        Said::of(command.output().unwrap())
    };
    order(&["break", "node-a"]).expect(0, &["node-a is killed"]);
    dev.run('a', &["ok"]).expect(69, &["OAR-1101"]);
    order(&["heal"]).expect(0, &["node-a is started again"]);
    until("it serves", || dev.run('a', &["ok"]).status == Some(0));
    // Options of a cluster mean nothing to one that runs.
    order(&["-n", "2", "heal"]).expect(2, &["OAR-1001"]);
    order(&["pause", "node-a"]).expect(0, &[]);
    assert_eq!(dev.stop(), Some(0), "one that stands still is stopped as well");
    assert!(!dev.cluster().exists());
    let mut command = oarlock();
    command.env("XDG_RUNTIME_DIR", dev.dir.path()).args(["dev", "heal"]);
    Said::of(command.output().unwrap()).expect(69, &["OAR-1101", "no `oarlock dev` of yours is running"]);
}

/// What lets `dev` cut its nodes off does nothing to any other node.
#[test]
fn a_node_that_is_no_node_of_dev_hears_whom_it_hears() {
    let mut solo = Solo::new("");
    solo.start();
    let client = Client::connect(solo.socket()).unwrap();
    let error = client.ask(r#"{"ask":"deafen","from":["solo"]}"#).unwrap_err();
    assert_eq!(error.code(), Code::ChangeRefused, "{error}");
    let dev = Dev::start_with(&["-n", "1"]);
    let client = Client::connect(dev.socket('a')).unwrap();
    let error = client.ask(r#"{"ask":"deafen","from":["node-z"]}"#).unwrap_err();
    assert_eq!(error.code(), Code::Usage, "{error}");
    client.ask(r#"{"ask":"deafen","from":[]}"#).unwrap();
}

/// Somebody who waits for long is a matter, however long is long.
#[test]
fn a_wait_that_lasts_is_told() {
    let dev = Dev::start_with(&["-n", "1"]);
    let _held = ask(&dev, 'a', "holder", &["x"]);
    until("it is held", || dev.run('a', &["locks", "ls"]).out.contains("(holder)"));
    let _waits = ask(&dev, 'a', "waiter", &["x"]);
    until("it waits", || dev.run('a', &["locks", "why", "x"]).out.contains("1 wait"));
    dev.run('a', &["health"]).expect(0, &["1 waiting"]);
    until("it is told", || dev.run('a', &["health", "--stuck", "10ms"]).status == Some(1));
    dev.run('a', &["health", "--stuck", "10ms"]).expect(1, &["OAR-3105", "default/x", "waits"]);
    dev.run('a', &["health", "--stuck", "soon"]).expect(2, &["OAR-2111"]);
}
