//! Stamps of the cluster clock on real daemons: they follow the locks, none comes twice whatever dies, and nobody issues any who may
//! not know what the others do.

mod support;

use std::sync::Mutex;
use std::thread;

use oarlock::Token;
use oarlock::blocking::Client;
use support::{Dev, until};

const NODES: [char; 3] = ['a', 'b', 'c'];
/// As many as may be asked for at once: some of these, and the ceiling must be raised.
const MANY: &str = "4096";

/// Stamps of a node, in the order in which it issued them.
fn stamps(dev: &Dev, node: char, count: &str) -> Vec<(u64, u16)> {
    let said = dev.run(node, &["clock", "stamp", "-n", count]).expect(0, &[]);
    let stamp = |line: &str| {
        let (number, id) = line.split_once('.').unwrap_or_else(|| panic!("{line:?}"));
        (number.parse().unwrap(), id.parse().unwrap())
    };
    said.out.lines().map(stamp).collect()
}

fn highest(all: &[(u64, u16)]) -> (u64, u16) {
    *all.iter().max().expect("there are some")
}

/// E1, E3: whoever has the lock after somebody gets stamps above his, at whichever node.
#[test]
fn stamps_follow_the_locks() {
    let dev = Dev::start();
    let taken: Mutex<Vec<(Token, (u64, u16))>> = Mutex::default();
    thread::scope(|scope| {
        for node in NODES {
            let (dev, taken) = (&dev, &taken);
            scope.spawn(move || {
                let space = Client::connect(dev.socket(node)).unwrap().space("default").unwrap();
                for round in 0..25 {
                    let guard = space.lock("stamped").acquire().unwrap();
                    // One node is far busier than the others: its clock runs ahead, and theirs must follow.
                    let count = if node == 'a' && round % 5 == 0 { MANY } else { "2" };
                    let stamps = stamps(dev, node, count);
                    let mut taken = taken.lock().unwrap();
                    taken.extend(stamps.into_iter().map(|stamp| (guard.token(), stamp)));
                    drop(taken);
                    guard.release().unwrap();
                }
            });
        }
    });
    let mut taken = taken.into_inner().unwrap();
    taken.sort_by_key(|(token, _)| *token);
    let ids: Vec<u16> = taken.iter().map(|(_, (_, id))| *id).collect();
    assert!(ids.windows(2).filter(|two| two[0] != two[1]).count() > 10, "it hardly went from node to node");
    for two in taken.windows(2) {
        let ((before, first), (after, second)) = (two[0], two[1]);
        assert!(second.0 > first.0, "{second:?} under {after:?} comes after {first:?} under {before:?}");
    }
}

/// E5, E6, E8: after the death of one, and after the death of all, stamps go on above every one that was issued.
#[test]
fn no_stamp_comes_twice_whatever_dies() {
    let dev = Dev::start();
    let mut all = Vec::new();
    for _ in 0..4 {
        for node in NODES {
            let more = stamps(&dev, node, MANY);
            assert!(more.windows(2).all(|two| two[0] < two[1]), "those of {node} do not rise");
            all.extend(more);
        }
    }
    let raises = dev.run('a', &["clock", "show", "-o", "json"]).json()["raises"].as_u64().unwrap();
    assert!(raises > 1, "so many stamps need more than one ceiling: {raises}");

    dev.order(&["break", "node-a"]).expect(0, &[]);
    dev.order(&["heal"]).expect(0, &[]);
    until("all are well", || dev.all_well());
    let after_one = stamps(&dev, 'a', "10");
    let own = all.iter().filter(|(_, id)| *id == after_one[0].1).copied().collect::<Vec<_>>();
    assert!(after_one[0] > highest(&own), "{:?} is not above {:?}", after_one[0], highest(&own));
    all.extend(after_one);

    for node in NODES {
        dev.order(&["break", &format!("node-{node}")]).expect(0, &[]);
    }
    dev.order(&["heal"]).expect(0, &[]);
    until("all are well again", || dev.all_well());
    for node in NODES {
        let after_all = stamps(&dev, node, "10");
        assert!(after_all[0].0 > highest(&all).0, "{:?} is not above {:?}", after_all[0], highest(&all));
    }
}

/// E7, E9: a member that stands still stops the stamps of the others no longer than it stays in the view; who is cut off from the
/// majority gets none.
#[test]
fn who_stands_still_stops_nobody_for_long_and_a_minority_gets_none() {
    let dev = Dev::start();
    let before = stamps(&dev, 'a', MANY);
    dev.order(&["pause", "node-c"]).expect(0, &[]);
    let mut all = before;
    for _ in 0..8 {
        until("stamps go on", || dev.run('a', &["clock", "stamp"]).status == Some(0));
        until("many stamps are issued", || {
            let said = dev.run('a', &["clock", "stamp", "-n", MANY, "-o", "json"]);
            if said.status != Some(0) {
                return false;
            }
            let stamps = said.json()["stamps"].as_array().unwrap().clone();
            let number = |text: &str| text.split_once('.').unwrap().0.parse::<u64>().unwrap();
            let first = number(stamps[0].as_str().unwrap());
            assert!(first > highest(&all).0, "{first} is not above {:?}", highest(&all));
            all.push((number(stamps[4095].as_str().unwrap()), 0));
            true
        });
    }
    dev.order(&["pause", "node-b"]).expect(0, &[]);
    // What was acknowledged may be used up, as long as the run lasts.
    until("a minority issues none", || match dev.run('a', &["clock", "stamp", "-n", MANY]) {
        said if said.status == Some(0) => {
            let first: u64 = said.out.split_once('.').expect("a stamp").0.parse().unwrap();
            assert!(first > highest(&all).0, "{first} is not above {:?}", highest(&all));
            let last = said.out.lines().last().expect("a stamp").split_once('.').expect("a stamp").0;
            all.push((last.parse().unwrap(), 0));
            false
        }
        // Asked of a run that ended meanwhile, or of none.
        said => {
            said.expect(69, &["OAR-"]);
            true
        }
    });
    until("the next run issues none either", || {
        dev.run('a', &["clock", "stamp"]).expect(69, &["OAR-"]).err.contains("OAR-2402")
    });
    dev.order(&["heal"]).expect(0, &[]);
    until("all are well", || dev.all_well());
    for node in NODES {
        let (first, _) = stamps(&dev, node, "1")[0];
        assert!(first > highest(&all).0, "{first} at {node} is not above {:?}", highest(&all));
    }
}

#[test]
fn too_many_and_none_are_refused() {
    let dev = Dev::start();
    dev.run('a', &["clock", "stamp", "-n", "0"]).expect(2, &["OAR-1001", "at least 1"]);
    dev.run('a', &["clock", "stamp", "-n", "4097"]).expect(2, &["OAR-1001", "at most 4096"]);
    let said = dev.run('b', &["clock", "stamp", "-n", "3", "-o", "json"]).expect(0, &[]).json();
    assert_eq!((said["stamps"].as_array().unwrap().len(), &said["node"]), (3, &"node-b".into()));
}
