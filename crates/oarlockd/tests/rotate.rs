//! Real daemons that change their keys while programs lock and unlock: no lock is lost, no circuit ends, no run is another one
//! afterwards, and whoever comes with a key of before is refused. A node that dies at any step goes on from there.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use oarlock::Mode;
use oarlock::blocking::Client;
use serde_json::Value;
use support::{Dev, Held, lives, oarlock, run, signal, until};

const NODES: [char; 3] = ['a', 'b', 'c'];
/// A lock that nobody keeps for longer than 2 ms, on a machine that has other things to do.
const GRANT_MAX: Duration = Duration::from_secs(5);

/// Programs at all nodes, which are after the same few locks all the while. None of them puts up with anything.
struct Load {
    stop: Arc<AtomicBool>,
    programs: Vec<JoinHandle<(u64, Duration)>>,
}

impl Load {
    fn start(dev: &Dev) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let program = |(node, at): (char, u64)| {
            let (socket, stop) = (dev.socket(node), Arc::clone(&stop));
            thread::spawn(move || {
                let client = Client::builder().label("load").connect(socket).unwrap();
                let space = client.space("default").unwrap();
                let own = space.lock(format!("own/{node}{at}")).mode(Mode::EX).acquire().unwrap();
                let (mut count, mut longest) = (0, Duration::ZERO);
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let name = format!("shared/{}", (count + at) % 3);
                    let guard = space.lock(name).mode(Mode::EX).timeout(GRANT_MAX).acquire();
                    let guard = guard.unwrap_or_else(|e| panic!("{node} after {:?}: {e}", began.elapsed()));
                    longest = longest.max(began.elapsed());
                    thread::sleep(Duration::from_millis(count % 3));
                    assert!(guard.lost_now().is_none(), "{node} has lost a lock");
                    guard.release().unwrap();
                    assert!(own.lost_now().is_none(), "{node} has lost the lock that it kept");
                    count += 1;
                }
                own.release().unwrap();
                (count, longest)
            })
        };
        let programs = NODES.into_iter().flat_map(|node| [(node, 0), (node, 1)]).map(program).collect();
        Load { stop, programs }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for program in self.programs {
            let (count, longest) = program.join().expect("no program was disturbed");
            println!("{count} locks, the longest wait was {longest:?}");
            assert!(count > 20, "a program had its lock {count} times");
        }
    }
}

fn keys(dev: &Dev, node: char) -> Value {
    dev.run(node, &["key", "show", "-o", "json"]).expect(0, &[]).json()
}

/// How a member is known at a node: its key, and the next.
fn known(dev: &Dev, at: char, node: char) -> (String, Option<String>) {
    let seen = keys(dev, at);
    let name = format!("node-{node}");
    let members = seen["members"].as_array().unwrap();
    let member = members.iter().find(|it| it["node"] == *name).unwrap();
    let text = |value: &Value| value.as_str().map(String::from);
    (text(&member["public_key"]).unwrap(), text(&member["next"]))
}

fn phase(dev: &Dev, node: char) -> Option<String> {
    let said = dev.run(node, &["key", "show", "-o", "json"]);
    if said.status != Some(0) {
        return Some("not there".into());
    }
    said.json()["rotation"]["phase"].as_str().map(String::from)
}

fn incarnation(dev: &Dev, node: char) -> u64 {
    dev.run(node, &["status", "-o", "json"]).json()["incarnation"].as_u64().unwrap()
}

fn place(dev: &Dev, node: char, name: &str) -> PathBuf {
    dev.cluster().join(format!("node-{node}")).join(name)
}

/// Kills all of a node, and gives the word when nothing of it lives.
fn kill(dev: &Dev, node: char) {
    dev.order(&["break", &format!("node-{node}")]).expect(0, &[]);
}

fn heal(dev: &Dev) {
    dev.order(&["heal"]).expect(0, &[]);
    until("all are well again", || dev.all_well());
}

/// FT27: each node changes its key while programs lock and unlock everywhere, and nobody but the log notices.
#[test]
fn ft27_every_node_changes_its_key_under_load_and_nothing_else_changes() {
    let dev = Dev::start();
    let before: Vec<u64> = NODES.iter().map(|node| incarnation(&dev, *node)).collect();
    let downs = |name: &str| NODES.iter().map(|node| dev.counter(*node, name)).sum::<u64>();
    let (down, rekeys) = (downs("circuit_down"), downs("rekeys"));
    let load = Load::start(&dev);
    let mut retired = Vec::new();
    // The second time round the key is in another file.
    for node in NODES.into_iter().chain(['b']) {
        let key = keys(&dev, node)["public_key"].as_str().unwrap().to_owned();
        let said = dev.run(node, &["key", "rotate", "-o", "json"]).expect(0, &[]).json();
        assert_eq!(said["rotation"], Value::Null);
        let now = said["public_key"].as_str().unwrap().to_owned();
        assert_ne!(now, key);
        assert!(said["made"].as_u64().is_some(), "{said}");
        for at in NODES {
            until("it is known everywhere", || known(&dev, at, node) == (now.clone(), None));
        }
        retired.push(key);
        let files = |name: &str| place(&dev, node, name).exists();
        assert!(files("data/rotated.key") && !files("data/rotated.key.old") && !files("node.key"));
    }
    load.stop();
    let after: Vec<u64> = NODES.iter().map(|node| incarnation(&dev, *node)).collect();
    assert_eq!(after, before, "runs go on");
    assert_eq!(downs("circuit_down"), down, "no circuit ended");
    // Each change makes at least two circuits agree on new keys, and both ends count it.
    assert!(downs("rekeys") >= rekeys + 4 * 4, "{} after {rekeys}", downs("rekeys"));
    for node in NODES {
        let events = dev.run(node, &["events", "--last", "1000"]).out;
        assert!(!events.contains("is silent") && !events.contains("are lost"), "{events}");
        assert!(events.contains("has changed its key"), "{events}");
    }
    // What every node finds at its next start is enough.
    for node in NODES {
        kill(&dev, node);
        heal(&dev);
    }
    for node in NODES {
        let (key, next) = known(&dev, 'a', node);
        assert!(!retired.contains(&key) && next.is_none());
    }
}

/// Whoever has stolen the key of before is a stranger.
#[test]
fn a_retired_key_opens_nothing() {
    let dev = Dev::start();
    let stolen = fs::read(place(&dev, 'b', "node.key")).unwrap();
    dev.run('b', &["key", "rotate"]).expect(0, &["node-b has changed its key", "no circuit was broken"]);
    let good = fs::read(place(&dev, 'b', "data/rotated.key")).unwrap();
    kill(&dev, 'b');
    fs::write(place(&dev, 'b', "data/rotated.key"), &stolen).unwrap();
    let mut intruder = oarlock();
    intruder.args(["serve", "--config"]).arg(place(&dev, 'b', "node.toml"));
    let log = fs::File::create(place(&dev, 'b', "intruder.log")).unwrap();
    let intruder = Held(intruder.stdout(Stdio::null()).stderr(log).spawn().unwrap());
    until("it is refused", || {
        dev.run('a', &["events", "--last", "100"]).out.contains("OAR-5101")
            && dev.run('c', &["events", "--last", "100"]).out.contains("OAR-5101")
    });
    assert!(!dev.well('b'));
    signal(intruder.0.id() as i32, "TERM");
    until("it has ended", || !lives(intruder.0.id() as i32));
    fs::write(place(&dev, 'b', "data/rotated.key"), &good).unwrap();
    heal(&dev);
}

/// Killed at each step, a node goes on by itself from there.
#[test]
fn a_change_that_is_cut_short_at_any_step_goes_on_at_the_next_start() {
    let dev = Dev::start();
    // Made, and the cluster has not heard of it.
    kill(&dev, 'b');
    let next = place(&dev, 'b', "data/rotated.key.next");
    let made = run(["key", "new", "--out", next.to_str().unwrap()]).expect(0, &[]).out.trim().to_owned();
    heal(&dev);
    until("it is changed", || phase(&dev, 'b').is_none() && known(&dev, 'a', 'b') == (made.clone(), None));

    // Announced: a member of the view has not heard of it yet, and then goes out of the view with that.
    let third = dev.engine('c');
    signal(third, "STOP");
    dev.run('b', &["key", "rotate", "--no-wait"]).expect(0, &["node-b"]);
    until("it is announced", || known(&dev, 'a', 'b').1.is_some());
    let announced = known(&dev, 'a', 'b').1.unwrap();
    assert_eq!(phase(&dev, 'b').as_deref(), Some("announced"));
    signal(dev.engine('b'), "KILL");
    // Used: all of the view know it, and the third is not in the view.
    kill(&dev, 'c');
    until("it is used", || phase(&dev, 'b').as_deref() == Some("used"));
    assert_eq!(keys(&dev, 'b')["public_key"], *announced);
    assert_eq!(known(&dev, 'a', 'b').1.as_deref(), Some(announced.as_str()), "the one before is still good");
    let waits = dev.run('b', &["key", "show"]).expect(0, &["waits until node-c know it"]);
    assert!(waits.out.contains(&made), "{}", waits.out);
    signal(dev.engine('b'), "KILL");
    until("it is there again", || phase(&dev, 'b').as_deref() == Some("used"));
    // A member that was away all the while knows only the one before, and is let in.
    heal(&dev);
    until("it is changed", || {
        phase(&dev, 'b').is_none() && known(&dev, 'c', 'b') == (announced.clone(), None)
    });

    // Taken, and the key before is still there.
    kill(&dev, 'b');
    let old = place(&dev, 'b', "data/rotated.key.old");
    run(["key", "new", "--out", old.to_str().unwrap()]).expect(0, &[]);
    heal(&dev);
    until("it is gone", || phase(&dev, 'b').is_none() && !old.exists());
    assert_eq!(known(&dev, 'a', 'b'), (announced, None));
}

/// A node's own disk must take the key before anybody hears of it, and only operators may ask.
#[test]
fn a_key_that_cannot_be_kept_is_not_announced() {
    let dev = Dev::start();
    let beside = place(&dev, 'a', "data/rotated.key.next.new");
    fs::create_dir(&beside).unwrap();
    let said =
        dev.run('a', &["key", "rotate"]).expect(78, &["OAR-1206", "rotated.key.next", "Is a directory"]);
    assert_eq!(said.err.matches("OAR-1206").count(), 1, "{}", said.err);
    assert_eq!(phase(&dev, 'a'), None);
    assert_eq!(known(&dev, 'b', 'a').1, None);
    fs::remove_dir(&beside).unwrap();
    let token = dev.run('a', &["token", "create", "node-d"]).expect(0, &[]);
    drop(token);
    dev.run('a', &["key", "rotate"])
        .expect(0, &["join tokens that were made at node-a", "has changed its key"]);
}
