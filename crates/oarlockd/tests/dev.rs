//! `oarlock dev`: up, found, restarted, removed.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use support::solo::serve;
use support::{Dev, Held, Said, ask, lives, oarlock, signal, until};

#[test]
fn three_nodes_come_up_and_everything_goes_with_them() {
    let mut dev = Dev::start();
    for node in ['a', 'b', 'c'] {
        dev.run(node, &["ok"]).expect(0, &["ok"]);
        let status = dev.run(node, &["status", "-o", "json"]).expect(0, &[]).json();
        assert_eq!(status["v"], 1);
        assert!(status["epoch"].as_u64() > Some(0), "{status}");
        assert_eq!(status["members"].as_array().unwrap().len(), 3);
        assert_eq!(status["node"], format!("node-{node}"));
    }
    let pids = ['a', 'b', 'c'].map(|n| dev.pid(n));
    // What it says to try works as it is printed.
    assert!(dev.said().contains("lock hello -- sleep 30"), "{}", dev.said());
    assert_eq!(dev.stop(), Some(0));
    assert!(!dev.cluster().exists(), "everything is removed");
    assert!(pids.iter().all(|p| !lives(*p)));
    let left: Vec<_> = fs::read_dir(dev.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["said"], "also the note for other commands");
}

#[test]
fn other_commands_of_the_user_find_it_and_a_second_one_stays_unnamed() {
    let mut first = Dev::start_with(&["-n", "1"]);
    let find = || {
        let mut command = oarlock();
        command.env("XDG_RUNTIME_DIR", first.dir.path());
        Said::of(command.args(["status", "-o", "json"]).output().unwrap())
    };
    assert_eq!(find().expect(0, &[]).json()["cluster"], "dev");
    // A second one in the same runtime directory.
    let dir = tempfile::Builder::new().prefix("oar").tempdir().unwrap();
    let mut second = oarlock();
    second.env("XDG_RUNTIME_DIR", first.dir.path());
    let file = fs::File::create(dir.path().join("said")).unwrap();
    second.args(["dev", "-n", "1", "--dir"]).arg(dir.path().join("c")).stdout(file);
    let mut second = second.spawn().unwrap();
    until("the second one is up", || {
        fs::read_to_string(dir.path().join("said")).unwrap().contains("must be named")
    });
    find().expect(0, &[]);
    signal(second.id() as i32, "TERM");
    assert!(second.wait().unwrap().success());
    find().expect(0, &[]);
    first.stop();
    find_nobody(&first);
}

/// In /tmp anybody can make the directory first, with links to files of this user in it.
#[test]
fn a_note_is_not_written_where_others_may_write() {
    let dir = tempfile::Builder::new().prefix("oar").tempdir().unwrap();
    let (ours, precious) = (dir.path().join("oarlock"), dir.path().join("precious"));
    fs::create_dir(&ours).unwrap();
    fs::set_permissions(&ours, fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(&precious, "precious").unwrap();
    for link in ["dev.json.new", "dev.json", "dev.lock"] {
        std::os::unix::fs::symlink(&precious, ours.join(link)).unwrap();
    }
    let said = fs::File::create(dir.path().join("said")).unwrap();
    let mut command = oarlock();
    command.env("XDG_RUNTIME_DIR", dir.path()).args(["dev", "-n", "1", "--dir"]).arg(dir.path().join("c"));
    let mut dev = command.stdout(said).spawn().unwrap();
    until("it serves", || fs::read_to_string(dir.path().join("said")).unwrap().contains("must be named"));
    signal(dev.id() as i32, "TERM");
    assert!(dev.wait().unwrap().success());
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    assert_eq!(fs::read_dir(&ours).unwrap().count(), 3, "nothing made and nothing removed");
}

#[test]
fn a_second_one_in_the_same_directory_is_refused_and_the_first_goes_on() {
    let dev = Dev::start_with(&["-n", "1"]);
    let said = oarlock().args(["dev", "-n", "1", "--dir"]).arg(dev.cluster()).output().unwrap();
    Said::of(said).expect(1, &["another `oarlock dev` runs in"]);
    dev.run('a', &["lock", "x", "--", "true"]).expect(0, &[]);
}

fn find_nobody(dev: &Dev) {
    let mut command = oarlock();
    command.env("XDG_RUNTIME_DIR", dev.dir.path());
    Said::of(command.arg("status").output().unwrap()).expect(69, &["OAR-1101", "runs no `oarlock dev`"]);
}

/// A node that dies is started again, and nobody else is disturbed: what other nodes hold stays held.
#[test]
fn a_node_that_dies_is_started_again_and_the_others_go_on() {
    let dev = Dev::start();
    let _held = ask(&dev, 'a', "holder", &["held"]);
    until("it is held", || dev.run('b', &["locks", "ls"]).out.contains("(holder)"));
    let (survivor, victim) = (dev.pid('a'), dev.pid('b'));
    signal(victim, "KILL");
    until("it says so", || dev.said().contains("node-b was killed by signal 9; it is started again"));
    until("all are well again", || dev.all_well());
    assert!(lives(survivor) && dev.pid('b') != victim);
    dev.run('c', &["lock", "-n", "held", "--", "true"]).expect(75, &["OAR-2101"]);
    assert!(dev.run('b', &["locks", "ls"]).out.contains("(holder)"), "the lock is where it was");
    dev.run('b', &["lock", "-w", "5s", "other", "--", "true"]).expect(0, &[]);
}

/// With `--keep` what died stays away: the others put it out of the view and decide about everything without it. Whoever
/// starts it by hand has it back.
#[test]
fn with_keep_a_dead_node_is_put_out_and_comes_back_when_it_is_started() {
    let dev = Dev::start_with(&["--keep"]);
    signal(dev.pid('c'), "KILL");
    until("dev says so", || dev.said().contains("--keep: it is not started again"));
    let out = || dev.run('a', &["status"]).out.contains("node-c is not in the view");
    until("the others have put it out", out);
    let status = dev.run('a', &["status", "-o", "json"]).expect(0, &[]).json();
    let in_view: Vec<_> = status["members"].as_array().unwrap().iter().map(|m| &m["in_view"]).collect();
    assert_eq!(in_view, [true, true, false], "{status}");
    // Whatever it decided about, others decide now.
    for i in 0..20 {
        dev.run('a', &["lock", "-w", "5s", &format!("name-{i}"), "--", "true"]).expect(0, &[]);
    }
    let mut back = oarlock();
    back.args(["serve", "--config"]).arg(dev.cluster().join("node-c/node.toml"));
    back.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let _back = Held(back.spawn().unwrap());
    until("all are well", || dev.all_well());
    dev.run('c', &["lock", "-w", "5s", "name-0", "--", "true"]).expect(0, &[]);
}

#[test]
fn nodes_do_not_outlive_a_dev_that_is_killed() {
    let mut dev = Dev::start();
    let pids = ['a', 'b', 'c'].map(|n| dev.pid(n));
    dev.child.kill().unwrap();
    dev.child.wait().unwrap();
    until("the nodes are gone", || pids.iter().all(|p| !lives(*p)));
    assert!(dev.dir.path().join("oarlock/dev.json").exists(), "it could not take its note away");
    find_nobody(&dev);
    // What it left is replaced by the next one in the same directory.
    let mut again = oarlock();
    let mut again = again
        .env("XDG_RUNTIME_DIR", dev.dir.path())
        .args(["dev", "-q", "--dir"])
        .arg(dev.cluster())
        .spawn()
        .unwrap();
    until("the next one serves", || dev.run('b', &["ok"]).status == Some(0));
    signal(again.id() as i32, "INT");
    assert!(again.wait().unwrap().success());
    assert!(!dev.cluster().exists());
}

#[test]
fn without_offload_the_same_cluster_works_by_plain_calls() {
    let dev = Dev::start_with(&["--no-offload", "--space", "orders:strict"]);
    for node in ['a', 'b', 'c'] {
        dev.run(node, &["lock", "--space", "orders", "x", "--", "true"]).expect(0, &[]);
        assert_eq!(dev.counter(node, "udp_trains_sent"), 0);
        assert!(dev.counter(node, "udp_sent") > 0);
    }
    let status = dev.run('a', &["status", "-o", "json"]).json();
    assert_eq!(status["spaces"][1]["order"], "strict");
}

#[test]
fn a_directory_that_cannot_be_used_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("x".repeat(90));
    let said = oarlock().args(["dev", "--dir"]).arg(&deep).output().unwrap();
    Said::of(said).expect(78, &["OAR-1104", "shorter directory"]);
    assert!(!deep.exists());
    fs::create_dir(dir.path().join("node-b")).unwrap();
    let said = oarlock().args(["dev", "--dir"]).arg(dir.path()).output().unwrap();
    Said::of(said).expect(1, &["node-b is in the way"]);
    let said = oarlock().args(["dev", "--space", "x:strct"]).output().unwrap();
    Said::of(said).expect(2, &["OAR-1001", "--space: unknown value `strct`", "NAME:strict"]);
    let said = oarlock().args(["dev", "-n", "0"]).output().unwrap();
    Said::of(said).expect(2, &["OAR-1001"]);
    serve(&dir.path().join("none.toml")).expect(78, &["OAR-1201", "none.toml", "oarlock dev"]);
}
