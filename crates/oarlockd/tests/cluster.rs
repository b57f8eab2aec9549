//! Looking at views, and changing them by hand, on real nodes.

mod support;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Dev, signal, until};

/// A node renews its lease of 3 s every 750 ms, so when it dies, more than 2 s of it are left; less if it has just waited for
/// its disk.
const LEASE_LEFT: Duration = Duration::from_millis(1_500);

/// The document of the newest view at a node.
fn last(dev: &Dev, node: char) -> Value {
    dev.run(node, &["failover", "show", "-o", "json"]).expect(0, &[]).json()
}

fn named<'a>(of: &'a Value, node: &str) -> Option<&'a Value> {
    of.as_array().unwrap().iter().find(|it| it["node"] == node)
}

/// A3: what a killed node cost is told barrier by barrier, with who was last, and why it is out.
#[test]
fn the_way_from_a_killed_node_to_the_next_grant_is_a_timeline() {
    let dev = Dev::start_with(&["--keep"]);
    let before = dev.run('a', &["coord", "show", "-o", "json"]).expect(0, &[]).json();
    assert_eq!(before["members"].as_array().unwrap().len(), 3);
    assert!(before["members"].as_array().unwrap().iter().all(|m| m["role"] == "voter" && m["view_run"] == 1));
    assert_eq!(before["cluster_id"].as_str().unwrap().len(), 32);
    let status = dev.run('a', &["status", "-o", "json"]).expect(0, &[]).json();
    assert_eq!(status["coordinator"]["voters"].as_array().unwrap().len(), 3);
    assert_eq!(status["coordinator"]["leader"], before["coordinator"]["leader"]);
    dev.run('a', &["status"]).expect(0, &["3 of 3 in the view, 3 heard", "3/3 voters heard"]);

    signal(dev.pid('c'), "KILL");
    until("node-c is out and locks are granted", || {
        let it = last(&dev, 'a');
        it["state"] == "granting" && named(&it["out"], "node-c").is_some()
    });
    let it = last(&dev, 'a');
    assert_eq!(it["v"], 1);
    let out = named(&it["out"], "node-c").unwrap();
    assert!(["lease_over", "partition"].contains(&out["basis"].as_str().unwrap()), "{it}");
    let barriers: Vec<&str> =
        it["barriers"].as_array().unwrap().iter().map(|b| b["barrier"].as_str().unwrap()).collect();
    assert_eq!(barriers, ["arrived", "stated", "restated", "fenced"]);
    let times: Vec<u64> =
        it["barriers"].as_array().unwrap().iter().map(|b| b["after_us"].as_u64().unwrap()).collect();
    assert!(times.is_sorted() && it["granted_us"].as_u64() == times.last().copied(), "{it}");
    for barrier in [0, 2] {
        let last = it["barriers"][barrier]["last"].as_str().unwrap();
        assert!(["node-a", "node-b"].contains(&last), "{it}");
    }
    let epoch = it["epoch"].to_string();
    dev.run('a', &["failover", "show", &epoch]).expect(0, &["node-c (run 1)", "← slowest", "masters grant"]);
    dev.run('a', &["failover", "ls", "--where", &format!("epoch={epoch}"), "-o", "name"])
        .expect(0, &[&epoch]);
    dev.run('a', &["failover", "ls", "-o", "wide"]).expect(0, &["RESTATED", "granting", "node-c"]);
    dev.run('a', &["failover", "show", "9999"]).expect(2, &["OAR-1001", "it remembers"]);

    dev.run('a', &["node", "ls"]).expect(0, &["VIEW", "OUT"]);
    dev.run('a', &["status"]).expect(0, &["2 of 3 in the view", "out: node-c", "2/3 voters heard"]);
    dev.run('a', &["coord", "show"]).expect(0, &["node-c (run 1): ", "node-a, node-b"]);
    dev.run('a', &["events"]).expect(0, &["OAR-3101 node-c is silent", "serving in view"]);
    let events = dev.run('a', &["events", "-o", "json"]).expect(0, &[]).out;
    let numbers: Vec<u64> = events
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["number"].as_u64().unwrap())
        .collect();
    assert!(numbers[0] == 1 && numbers.windows(2).all(|w| w[1] == w[0] + 1), "{numbers:?}");
    assert_eq!(dev.run('a', &["events", "-n", "2"]).expect(0, &[]).out.lines().count(), 2);
}

/// A node that stands still is put out by hand: what it held is free once its lease is over, and it comes back as another run.
#[test]
fn a_node_that_hangs_is_put_out_by_hand_and_comes_back() {
    let dev = Dev::start_with(&["--keep"]);
    let asked = dev.run('a', &["node", "evict", "node-c"]);
    asked.expect(2, &["OAR-1001", "nothing was changed", "--yes"]);
    dev.run('a', &["node", "evict", "node-c", "--dry-run"])
        .expect(0, &["run 1 of node-c", "once its lease is over"]);
    dev.run('a', &["node", "evict", "node-d", "--yes"])
        .expect(2, &["there is no member", "node-a, node-b, node-c"]);
    dev.run('c', &["node", "evict", "node-c", "--yes"]).expect(1, &["OAR-3203", "cannot put itself out"]);

    let held = support::ask(&dev, 'c', "job", &["backup"]);
    until("it is held", || dev.run('a', &["locks", "ls", "-o", "name"]).out.contains("backup"));
    let c = dev.engine('c');
    signal(c, "STOP");
    let said = dev
        .run('a', &["node", "evict", "node-c", "--yes", "-o", "json"])
        .expect(0, &["goes out of view"])
        .json();
    assert_eq!(said["changed"], true);
    assert_eq!(said["members"].as_array().unwrap().len(), 2, "{said}");
    assert_eq!(said["fences"][0]["needs"][0]["need"], "lease", "{said}");
    dev.run('b', &["lock", "-w", "10", "backup", "--", "true"]).expect(0, &[]);
    assert_eq!(last(&dev, 'a')["out"][0]["basis"], "by_hand");
    dev.run('a', &["coord", "show"]).expect(0, &["somebody put it out by hand", "asked at node-a"]);
    dev.run('a', &["events"]).expect(0, &["somebody asks to put run 1 of node-c out of view"]);
    // Whoever says it again changes nothing.
    dev.run('a', &["node", "evict", "node-c", "--yes"])
        .expect(0, &["node-c is not in view", "nothing is to be done"]);
    dev.run('a', &["node", "unfence", "node-c", "--yes"]).expect(0, &["nothing is to be proven of node-c"]);

    signal(c, "CONT");
    until("it is back as another run", || {
        let members = dev.run('a', &["node", "ls", "-o", "json"]).expect(0, &[]).json()["members"].clone();
        named(&members, "node-c").is_some_and(|m| m["view_run"].as_u64() > Some(1))
    });
    drop(held);
}

/// A person who knows better than the cluster need not wait for the end of a lease.
#[test]
fn a_fence_is_lifted_by_hand() {
    // Once its lease is over there is no fence left to lift. A busy machine may be as slow as that; then that was another test.
    for _ in 0..5 {
        let (dev, before) = (Dev::start_with(&["--keep"]), Instant::now());
        signal(dev.pid('c'), "KILL");
        let evicted = dev.run('a', &["node", "evict", "node-c", "--yes"]);
        let refused = dev.run('b', &["node", "unfence", "node-c"]);
        refused.expect(2, &["DANGER", "nothing was changed"]);
        let lifted = dev.run('b', &["node", "unfence", "node-c", "--yes", "-o", "json"]);
        if before.elapsed() > LEASE_LEFT {
            println!("too late: {:?}", before.elapsed());
            continue;
        }
        evicted.expect(0, &["fence: node-c (run 1)", "the end of its lease"]);
        let said = lifted.expect(0, &["DANGER"]).json();
        assert_eq!(
            (said["changed"].as_bool(), &said["fences"]),
            (Some(true), &Value::Array(vec![])),
            "{said}"
        );
        dev.run('b', &["lock", "-w", "1", "x", "--", "true"]).expect(0, &[]);
        return;
    }
    panic!("never before the end of its lease");
}

#[test]
fn a_drain_is_a_mark_that_every_node_shows() {
    let dev = Dev::start();
    dev.run('a', &["node", "drain", "node-b"]).expect(0, &["view "]);
    dev.run('a', &["node", "drain", "node-b"]).expect(0, &["it was so already"]);
    for node in ['a', 'b', 'c'] {
        until("it shows the mark", || {
            let drained = ["node", "ls", "--where", "drained=yes", "-o", "name"];
            dev.run(node, &drained).out.trim() == "node-b"
        });
    }
    dev.run('c', &["node", "undrain", "node-b"]).expect(0, &[]);
    until("the mark is gone", || !dev.run('a', &["node", "show", "node-b"]).out.contains("drained"));
}

/// Without a majority nothing is decided, and whoever asks hears that instead of waiting.
#[test]
fn without_a_majority_a_change_is_refused_with_its_own_status() {
    let dev = Dev::start_with(&["--keep"]);
    for node in ['b', 'c'] {
        signal(dev.engine(node), "STOP");
    }
    until("nobody leads any more", || {
        let said = dev.run('a', &["node", "drain", "node-b"]);
        // A leader that has not noticed yet does not know what becomes of it.
        assert!([Some(69), Some(80)].contains(&said.status), "{}{}", said.out, said.err);
        said.err.contains("OAR-3201")
    });
    for node in ['b', 'c'] {
        signal(dev.engine(node), "CONT");
    }
}

#[test]
fn events_are_followed_as_they_come() {
    let dev = Dev::start_with(&["--keep"]);
    let mut command = dev.at('a');
    command.args(["events", "-f", "-n", "0", "-o", "json"]).stdout(std::process::Stdio::piped());
    let mut follower = support::Held(command.spawn().unwrap());
    let out = follower.0.stdout.take().unwrap();
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::BufRead::lines(std::io::BufReader::new(out)).map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    // Whoever follows is told what comes from then on; when that begins, nobody says.
    let line = ["drain", "undrain"].into_iter().cycle().take(20).find_map(|verb| {
        dev.run('a', &["node", verb, "node-b"]).expect(0, &[]);
        lines.recv_timeout(Duration::from_secs(1)).ok()
    });
    let line = line.expect("it is told");
    let event: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((event["v"].as_u64(), event["node"].as_str()), (Some(1), Some("node-a")), "{line}");
    assert!(line.contains("drain node-b"), "{line}");
}
