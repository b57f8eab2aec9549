//! Real daemons that die, stop, stand still and are too few: who is in the view then, who gets their locks and when, and
//! how they come back. Times are printed; what is asserted leaves room for a busy machine, except where too early is
//! wrong: nobody gets a lock before the lease of whoever had it can be over.

mod support;

use std::fs;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use oarlock::blocking::Client;
use support::solo::Solo;
use support::{Dev, Held, Said, ask, lives, oarlock, signal, until};

/// A node renews its lease of 3 s every 750 ms, so when it dies, more than 2 s of it are left; less if it has just waited for
/// its disk.
const LEASE_LEFT: Duration = Duration::from_millis(1_500);
/// What is promised for a machine that is not busy with other things is half of this.
const BUSY: Duration = Duration::from_secs(10);

/// Waits at a node for a lock that somebody holds elsewhere.
fn waiting(dev: &Dev, node: char, name: &str) -> Child {
    let mut command = dev.at(node);
    command.args(["lock", "-w", "30s", name, "-c", "echo $OARLOCK_TOKEN"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    until("it waits", || dev.run(node, &["locks", "why", name]).out.contains("1 wait"));
    child
}

fn token(said: &Said) -> u64 {
    said.out.trim().parse().unwrap()
}

fn incarnation(dev: &Dev, node: char) -> u64 {
    dev.run(node, &["status", "-o", "json"]).json()["incarnation"].as_u64().unwrap()
}

fn all_well(dev: &Dev) -> bool {
    dev.all_well()
}

/// A node that is started by hand, as a service manager would.
fn serve(dev: &Dev, node: char) -> Held {
    let mut command = oarlock();
    command.args(["serve", "--config"]).arg(dev.cluster().join(format!("node-{node}/node.toml")));
    Held(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// X10, L5, L10: what a node held that was killed is granted elsewhere once its lease is over, with a greater token, and it
/// comes back by itself.
#[test]
fn a_killed_nodes_lock_is_granted_elsewhere_and_the_node_comes_back() {
    // A machine that is too busy for leases ends the runs of others as well; that is another test then.
    let quiet = (0..4).any(|_| a_killed_node_comes_back_alone());
    assert!(quiet, "others began again as well, each time");
}

/// Whether nobody else began again.
fn a_killed_node_comes_back_alone() -> bool {
    let dev = Dev::start();
    let first = token(&dev.run('a', &["lock", "x", "-c", "echo $OARLOCK_TOKEN"]).expect(0, &[]));
    let _held = ask(&dev, 'a', "holder", &["x"]);
    until("it is held", || dev.run('b', &["locks", "ls"]).out.contains("(holder)"));
    let next = waiting(&dev, 'b', "x");
    let (pid, killed) = (dev.pid('a'), Instant::now());
    signal(pid, "KILL");
    let said = Said::of(next.wait_with_output().unwrap()).expect(0, &[]);
    let took = killed.elapsed();
    println!("killed to granted elsewhere: {took:?}");
    assert!(took > LEASE_LEFT && took < BUSY, "{took:?}");
    assert!(token(&said) > first, "tokens grow over a change of views (R6)");
    until("it is back, and all is well", || all_well(&dev));
    println!("killed to back and all well: {:?}", killed.elapsed());
    let runs = (incarnation(&dev, 'a'), incarnation(&dev, 'b'));
    assert!(runs.0 >= 2, "{runs:?}");
    if runs != (2, 1) {
        println!("too busy: {runs:?}");
        return false;
    }
    assert!(dev.said().contains("node-a was killed by signal 9; it is started again"), "{}", dev.said());
    dev.run('a', &["lock", "-w", "5s", "x", "--", "true"]).expect(0, &[]);
    // How long it took is told to people as well.
    let log = fs::read_to_string(dev.cluster().join("node-b/log")).unwrap();
    assert!(!log.contains("this run has ended"), "{log}");
    true
}

/// L2, L6, I20: the node that leads the coordinator is lost, while programs of all nodes hold locks. Nobody else is put out or
/// freezes, no lock of theirs is lost or given to anybody else, and what the lost node held is granted elsewhere.
#[test]
fn the_loss_of_the_leader_costs_the_other_nodes_nothing() {
    for how in ["KILL", "STOP"] {
        let quiet = (0..4).any(|_| only_the_leader_is_lost(how));
        assert!(quiet, "after {how} others began again, or froze, each time");
    }
}

/// Whether that was so. On a machine that was so busy that nothing was decided for long nobody can say.
fn only_the_leader_is_lost(how: &str) -> bool {
    let dev = Dev::start_with(&["--keep"]);
    let lost = dev.leader();
    let others: Vec<char> = ['a', 'b', 'c'].into_iter().filter(|node| *node != lost).collect();
    let clients = others.iter().map(|node| Client::connect(dev.socket(*node)).unwrap());
    let spaces: Vec<_> = clients.map(|client| client.space("default").unwrap()).collect();
    let guards: Vec<_> = (spaces.iter().zip(&others))
        .map(|(space, node)| space.lock(format!("own-{node}")).acquire().unwrap())
        .collect();
    let mut held: Vec<_> =
        ['a', 'b', 'c'].iter().map(|node| ask(&dev, *node, "holder", &[&format!("job-{node}")])).collect();
    until("all are held", || dev.run(others[0], &["locks", "ls"]).out.matches("(holder)").count() == 3);
    let next = waiting(&dev, others[0], &format!("job-{lost}"));
    // A node may not have an answer while nobody leads.
    let renewals = || {
        let said = dev.run(others[1], &["coord", "show", "-o", "json"]);
        let all = (said.status == Some(0)).then(|| said.json())?["members"].as_array()?.clone();
        let of = |node: &char| all.iter().find(|m| m["node"] == format!("node-{node}"))?["renewals"].as_u64();
        others.iter().map(of).min()?
    };
    let (pid, engine, before) = (dev.pid(lost), dev.engine(lost), renewals());
    let began = Instant::now();
    signal(if how == "KILL" { pid } else { engine }, how);
    let so_far = before.max(renewals());
    until("leases are renewed again", || renewals() > so_far);
    let away = began.elapsed();
    let next = Said::of(next.wait_with_output().unwrap());
    println!(
        "{how} of {lost}: decided again after {away:?}, its lock is granted after {:?}",
        began.elapsed()
    );
    // One that begins again has no answer for a moment.
    let answers = |node: &char| !dev.run(*node, &["status", "-o", "json"]).out.is_empty();
    until("both answer", || others.iter().all(answers));
    let runs = (incarnation(&dev, others[0]), incarnation(&dev, others[1]));
    let log = |node: &char| fs::read_to_string(dev.cluster().join(format!("node-{node}/log"))).unwrap();
    let froze = others.iter().any(|node| log(node).contains("no majority has confirmed this node's lease"));
    let quiet = runs == (1, 1) && !froze;
    if quiet {
        next.expect(0, &[]);
        assert!(guards.iter().all(|guard| !guard.is_lost()), "a lock was lost");
        for (here, there) in [(0, 1), (1, 0)] {
            assert!(
                held[usize::from(others[here] as u8 - b'a')].0.try_wait().unwrap().is_none(),
                "it goes on"
            );
            for kind in ["own", "job"] {
                let name = format!("{kind}-{}", others[here]);
                dev.run(others[there], &["lock", "-n", &name, "--", "true"]).expect(75, &["OAR-2101"]);
            }
        }
    } else {
        println!("too busy: {runs:?}, frozen: {froze}");
    }
    if how == "STOP" {
        signal(engine, "CONT");
    }
    quiet
}

/// L5: a node that is stopped in order gives itself up, so nobody waits for its lease.
#[test]
fn a_stopped_nodes_locks_move_at_once() {
    // A busy machine may be slow; it is not slow three times in a row for as long as a lease that nobody renews.
    let took: Vec<Duration> =
        (0..3).map(|_| stopped_to_granted()).take_while(|took| *took >= LEASE_LEFT).collect();
    assert!(took.len() < 3, "{took:?}: that is as long as for a lease");
}

fn stopped_to_granted() -> Duration {
    let dev = Dev::start_with(&["--keep"]);
    let _held = ask(&dev, 'a', "holder", &["x"]);
    until("it is held", || dev.run('b', &["locks", "ls"]).out.contains("(holder)"));
    let next = waiting(&dev, 'b', "x");
    let (pid, stopped) = (dev.pid('a'), Instant::now());
    signal(pid, "TERM");
    Said::of(next.wait_with_output().unwrap()).expect(0, &[]);
    let took = stopped.elapsed();
    println!("stopped to granted elsewhere: {took:?}");
    until("it has ended", || !lives(pid));
    let log = fs::read_to_string(dev.cluster().join("node-a/log")).unwrap();
    assert!(log.contains("nobody can still hold a lock of this run"), "{log}");
    took
}

/// L1, L6: a node stands still for longer than its lease. Its programs know that their locks are lost before others get
/// them, although their node says nothing; and when it goes on it begins another run in the same process.
#[test]
fn a_node_that_stands_still_loses_its_locks_and_begins_another_run() {
    let dev = Dev::start();
    let (here, there) =
        (Client::connect(dev.socket('a')).unwrap(), Client::connect(dev.socket('b')).unwrap());
    let (here, there) = (here.space("default").unwrap(), there.space("default").unwrap());
    here.lock("x").acquire().unwrap().release().unwrap();
    let handle = here.handle("x");
    let guard = handle.acquire().unwrap();
    assert!(!guard.is_lost());
    let (keeper, pid) = (dev.pid('a'), dev.engine('a'));
    let began = Instant::now();
    signal(pid, "STOP");
    let (lost, granted) = thread::scope(|scope| {
        let next = scope.spawn(|| {
            let guard = there.lock("x").timeout(Duration::from_secs(30)).acquire().unwrap();
            let at = Instant::now();
            guard.release().unwrap();
            at
        });
        while !guard.is_lost() {
            assert!(began.elapsed() < BUSY, "it is never lost");
            thread::sleep(Duration::from_millis(1));
        }
        (Instant::now(), next.join().unwrap())
    });
    println!("still to lost: {:?}, to granted elsewhere: {:?}", lost - began, granted - began);
    assert!(lost < granted, "lost after {:?}, granted after {:?}", lost - began, granted - began);
    assert!(lost - began > LEASE_LEFT, "renewed every 750 ms");
    signal(pid, "CONT");
    let going = Instant::now();
    until("it is back", || all_well(&dev));
    println!("going on to all well: {:?}", going.elapsed());
    assert_eq!((dev.pid('a'), incarnation(&dev, 'a')), (keeper, 2), "another run, under the same keeper");
    dev.run('a', &["lock", "-w", "5s", "x", "--", "true"]).expect(0, &[]);
    assert!(!dev.said().contains("started again"), "`dev` had nothing to do: {}", dev.said());
}

/// L1, L6: one of three cannot know what the other two have granted. It grants nothing and says so; with a second one there
/// is a majority again.
#[test]
fn a_minority_grants_nothing_and_says_so_until_a_second_node_is_back() {
    let dev = Dev::start_with(&["--keep"]);
    let before = token(&dev.run('a', &["lock", "x", "-c", "echo $OARLOCK_TOKEN"]).expect(0, &[]));
    let killed = Instant::now();
    signal(dev.pid('b'), "KILL");
    signal(dev.pid('c'), "KILL");
    until("it says so", || dev.run('a', &["ok"]).status == Some(69));
    let alone = || {
        let said = dev.run('a', &["ok"]);
        said.status == Some(69) && said.err.contains("in no view")
    };
    until("its lease is over", alone);
    println!("two killed to out of the view: {:?}", killed.elapsed());
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        // What it owned a moment ago is no exception.
        for name in ["x", "y"] {
            dev.run('a', &["lock", "-w", "200ms", name, "--", "true"]).expect(69, &["OAR-2402", "no view"]);
        }
        dev.run('a', &["ok"]).expect(69, &["OAR-2402", "it does not hear node-b, node-c"]);
    }
    let back = Instant::now();
    let _second = serve(&dev, 'b');
    let works = || dev.run('a', &["lock", "-w", "200ms", "x", "--", "true"]).status == Some(0);
    until("two of three serve", works);
    println!("the second started to granted: {:?}", back.elapsed());
    let after = token(&dev.run('b', &["lock", "-w", "5s", "x", "-c", "echo $OARLOCK_TOKEN"]).expect(0, &[]));
    assert!(after > before, "tokens grow, though nobody remembers who was granted what (R6)");
    dev.run('a', &["status"]).expect(0, &["node-c is not in the view"]);
    let _third = serve(&dev, 'c');
    until("all are back", || all_well(&dev));
}

/// R6: all are killed at once, and begin again by themselves, with greater tokens.
#[test]
fn a_cluster_that_is_killed_begins_again_by_itself() {
    let dev = Dev::start();
    let tell =
        |node| token(&dev.run(node, &["lock", "-w", "20s", "x", "-c", "echo $OARLOCK_TOKEN"]).expect(0, &[]));
    let before = tell('a');
    let killed = Instant::now();
    ['a', 'b', 'c'].map(|node| dev.pid(node)).into_iter().for_each(|pid| signal(pid, "KILL"));
    until("all are back", || all_well(&dev));
    println!("all killed to all well: {:?}", killed.elapsed());
    assert!(tell('c') > before);
}

/// FT16: a coordinator that has forgotten what it promised would promise anew. Its file is named, whatever is wrong with it.
#[test]
fn a_damaged_or_missing_coordinators_file_is_refused_by_name() {
    let mut solo = Solo::new("");
    solo.start();
    assert_eq!(solo.end("TERM"), Some(0));
    let file = solo.path("data/raft.redb");
    let good = fs::read(&file).unwrap();
    fs::write(&file, b"not a database").unwrap();
    solo.serve().expect(78, &["OAR-1207", "raft.redb"]);
    fs::write(&file, &good[..good.len() / 2]).unwrap();
    solo.serve().expect(78, &["OAR-1207", "raft.redb"]);
    fs::remove_file(&file).unwrap();
    let state = fs::read_to_string(solo.path("data/state")).unwrap();
    solo.serve().expect(78, &["OAR-1207", "raft.redb", "it is missing, and this node has run before"]);
    assert!(!file.exists(), "nothing is made in its place");
    assert_eq!(fs::read_to_string(solo.path("data/state")).unwrap(), state, "a run that was refused is none");
    fs::write(&file, &good).unwrap();
    solo.start();
    solo.run(&["lock", "-n", "x", "--", "true"]).expect(0, &[]);
}
