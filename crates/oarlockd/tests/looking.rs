//! `oarlock locks …` and `node …` on a real cluster: what people see is what is.

mod support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use oarlock_layout::directory::master;
use oarlock_layout::id::{NodeId, SpaceId};
use support::{Dev, Held, Said, ask, until};

fn seen(dev: &Dev, what: &str, args: &[&str]) -> bool {
    dev.run('c', args).out.contains(what)
}

#[test]
fn ls_show_why_and_tree_agree_from_every_node() {
    let dev = Dev::start();
    let _writer = ask(&dev, 'a', "writer", &["orders/1"]);
    until("it is held", || seen(&dev, "(writer)", &["locks", "ls"]));
    let _second = ask(&dev, 'b', "second", &["orders/1"]);
    until("one waits", || seen(&dev, "(second)", &["locks", "why", "orders/1"]));
    let _third = ask(&dev, 'c', "third", &["-s", "orders/1"]);
    until("two wait", || seen(&dev, "(third)", &["locks", "why", "orders/1"]));
    for node in ['a', 'b', 'c'] {
        let why = dev.run(node, &["locks", "why", "orders/1"]).expect(
            0,
            &[
                "2 wait for orders/1",
                "held EX by node-a pid",
                "(writer)",
                "1. node-b",
                "wants EX",
                "2. node-c",
                "wants PR",
            ],
        );
        assert!(why.out.contains("decides"), "{}", why.out);
        dev.run(node, &["locks", "tree"])
            .expect(0, &["├─ waits", "└─ waits", "root blockers: node-a pid", "(2 behind it)"]);
        let list = dev.run(node, &["locks", "ls", "orders/", "-o", "json"]).expect(0, &[]).json();
        assert_eq!(list["v"], 1);
        let resource = &list["resources"][0];
        assert_eq!((resource["name"].as_str(), resource["openers"].as_u64()), (Some("orders/1"), Some(3)));
        assert_eq!(resource["holders"][0]["label"], "writer");
        assert!(resource["holders"][0]["fence"].as_str().unwrap().parse::<u64>().unwrap() > 0);
        assert_eq!(resource["waiters"].as_array().unwrap().len(), 2);
    }
    dev.run('a', &["locks", "ls", "nothing/"]).expect(0, &["RESOURCE"]);
    dev.run('a', &["locks", "ls", "-o", "name"]).expect(0, &["orders/1"]);
    dev.run('a', &["locks", "show", "orders/1"])
        .expect(0, &["what each node owns", "what the master believes", "value block"]);
    dev.run('a', &["locks", "why", "free"]).expect(0, &["free is free"]);
    let table = dev.run('a', &["locks", "ls", "--no-headers"]).expect(0, &[]).out;
    assert_eq!(table.lines().count(), 1, "{table}");
}

/// A program that waits for one resource while it holds another: the tree leads to the root.
#[test]
fn the_tree_finds_the_root_of_a_chain_over_three_nodes() {
    let dev = Dev::start();
    let _root = ask(&dev, 'a', "root", &["one"]);
    until("it is held", || seen(&dev, "(root)", &["locks", "ls"]));
    // One command inside another: two sessions, but each wait is seen at its place.
    let mut command = dev.at('b');
    let inner = format!("'{}' lock -q --label middle one -- sleep 60", env!("CARGO_BIN_EXE_oarlock"));
    let child = command.args(["lock", "-q", "--label", "middle", "two", "-c", &inner]).stderr(Stdio::null());
    let _middle = Held(child.spawn().unwrap());
    until("it waits", || seen(&dev, "1 waits for one", &["locks", "why", "one"]));
    let _last = ask(&dev, 'c', "last", &["two"]);
    until("another waits", || seen(&dev, "1 waits for two", &["locks", "why", "two"]));
    let tree = dev.run('c', &["locks", "tree"]).expect(0, &["one", "two", "(root)", "(middle)", "(last)"]);
    assert!(tree.out.contains("root blockers:"), "{}", tree.out);
}

#[test]
fn hot_counts_messages_and_watch_tells_changes() {
    let dev = Dev::start_with(&["--no-retain"]);
    let mut watch = dev.at('b');
    watch.args(["locks", "watch", "hot", "--every", "20ms", "--for", "4s", "-o", "json"]);
    let watch = watch.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut hot = dev.at('a');
    hot.args(["locks", "hot", "--for", "3s", "-o", "json"]);
    let hot = hot.stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    for round in 0..8 {
        let node = ['a', 'b', 'c'][round % 3];
        dev.run(node, &["lock", "hot/1", "--", "sleep", "0.1"]).expect(0, &[]);
    }
    let hot = Said::of(hot.wait_with_output().unwrap()).expect(0, &[]).json();
    let first = &hot["resources"][0];
    assert_eq!(first["name"], "hot/1", "{hot}");
    assert!(first["messages"].as_u64().unwrap() > 3, "{hot}");
    let lines = Said::of(watch.wait_with_output().unwrap()).expect(0, &[]).out;
    let events: Vec<String> = lines
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["event"].as_str().unwrap().to_owned())
        .collect();
    let count = |e: &str| events.iter().filter(|x| *x == e).count();
    assert!(count("granted") >= 6 && count("released") >= 6, "{events:?}");
}

#[test]
fn nodes_are_listed_with_their_circuits() {
    let dev = Dev::start();
    // A1: three nodes have three circuits, and both ends of each tell the same run.
    let mut ends = 0;
    for node in ['a', 'b', 'c'] {
        let list = dev.run(node, &["node", "ls", "-o", "json"]).expect(0, &[]).json();
        for member in list["members"].as_array().unwrap() {
            if member["this"] == false {
                assert_eq!(member["circuit"]["state"], "up", "{member}");
                assert_eq!(member["incarnation"], 1);
                ends += 1;
            }
        }
    }
    assert_eq!(ends, 6);
    dev.run('a', &["node", "show", "node-b"]).expect(0, &["circuit    up", "round trip", "keys"]);
    dev.run('a', &["node", "ls", "-o", "wide"]).expect(0, &["this node", "RESENT"]);
    dev.run('a', &["node", "show"]).expect(0, &["node-a", "none: this is the node that answers"]);
}

/// E5: after a start each node has announced a ceiling that all others have acknowledged, and knows a watermark.
#[test]
fn e5_the_clock_of_each_node_is_shown_with_a_watermark() {
    let dev = Dev::start();
    for node in ['a', 'b', 'c'] {
        let clock = || dev.run(node, &["clock", "show", "-o", "json"]).expect(0, &[]).json();
        until("all have acknowledged its ceiling", || clock()["ceiling"] == clock()["granted"]);
        let clock = clock();
        assert_ne!(clock["granted"], "0");
        assert!(clock["watermark"].is_string() && clock["others"].as_array().unwrap().len() == 2, "{clock}");
    }
    dev.run('a', &["clock", "show"]).expect(0, &["no clock of the cluster is beyond it", "HAS-ACKNOWLEDGED"]);
    dev.run('a', &["clock", "watch", "--for", "50ms"]).expect(0, &["may issue up to"]);
}

/// A question never waits longer than a second for a member that is gone, and says who is missing; what needs the member
/// waits as long as its lease may last.
#[test]
fn a_silent_member_is_missing_by_name() {
    let dev = Dev::start_with(&["--keep"]);
    // Node c decides about it: whoever will not wait gets no answer, and hears that.
    let nodes = || (0..3).map(NodeId);
    let of_c = |name: &String| master(SpaceId(0), name.as_bytes(), nodes()) == Some(NodeId(2));
    let silent = (0..).map(|i| format!("name-{i}")).find(of_c).unwrap();
    let stopped = Instant::now();
    support::signal(dev.engine('c'), "STOP");
    // On a machine so busy that it is out of the view by now, others have answered.
    let leased = || stopped.elapsed() < Duration::from_secs(2);
    let expect = |args: &[&str], status: i32, words: &[&str]| {
        let said = dev.run('a', args);
        if leased() {
            said.expect(status, words);
        }
    };
    expect(&["locks", "why", "x"], 0, &["not heard, so missing here: node-c"]);
    until("it is silent", || !dev.well('a'));
    expect(&["node", "ls"], 0, &["NO", "silent"]);
    expect(
        &["lock", "-w", "0.1", &silent, "--", "true"],
        75,
        &["OAR-2102", "not heard: node-c", "a member that is needed is silent"],
    );
    expect(&["lock", "-n", &silent, "--", "true"], 69, &["OAR-3101", "neither yes nor no"]);
    // L8: silent and heard again loses nothing.
    support::signal(dev.engine('c'), "CONT");
    let lost_nothing = leased();
    until("it is heard again", || dev.well('a'));
    if lost_nothing {
        assert_eq!(dev.counter('a', "circuit_down"), 0);
    }
    dev.run('c', &["lock", "-w", "5s", "x", "--", "true"]).expect(0, &[]);
    dev.run('a', &["lock", "-w", "5s", &silent, "--", "true"]).expect(0, &[]);
}

#[test]
fn a_stuck_daemon_does_not_hold_up_who_gave_a_time() {
    let dev = Dev::start_with(&["-n", "1"]);
    support::signal(dev.engine('a'), "STOP");
    dev.run('a', &["lock", "-w", "200ms", "x", "--", "true"]).expect(75, &["OAR-2102"]);
    support::signal(dev.engine('a'), "CONT");
    dev.run('a', &["lock", "-w", "5s", "x", "--", "true"]).expect(0, &[]);
}
