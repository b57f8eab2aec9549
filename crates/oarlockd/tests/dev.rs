//! `oarlock dev`: up, found, restarted, removed.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use support::solo::serve;
use support::{Dev, Said, lives, oarlock, signal, until};

#[test]
fn three_nodes_come_up_and_everything_goes_with_them() {
    let mut dev = Dev::start();
    for node in ['a', 'b', 'c'] {
        dev.run(node, &["ok"]).expect(0, &["ok"]);
        let status = dev.run(node, &["status", "-o", "json"]).expect(0, &[]).json();
        assert_eq!((status["v"].as_u64(), status["epoch"].as_u64()), (Some(1), Some(1)));
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

/// L3: a node that comes back alone would be a master with an empty table.
#[test]
fn one_nodes_death_restarts_all_under_a_higher_epoch_and_tokens_grow() {
    let dev = Dev::start();
    let token = |node| {
        let said = dev.run(node, &["lock", "-w", "20s", "t", "-c", "echo $OARLOCK_TOKEN"]).expect(0, &[]);
        said.out.trim().parse::<u64>().unwrap()
    };
    let before = token('a');
    let mut held = dev.at('a');
    held.args(["lock", "held", "--", "sleep", "60"]).stderr(std::process::Stdio::null());
    let mut held = held.spawn().unwrap();
    until("it is held", || dev.run('b', &["locks", "ls"]).out.contains("sleep"));
    let survivor = dev.pid('a');
    signal(dev.pid('b'), "KILL");
    until("it says so", || dev.said().contains("serve again"));
    let said = dev.said();
    assert!(said.contains("node-b was killed by signal 9") && said.contains("epoch 1 became 2"), "{said}");
    assert!(!lives(survivor), "the others restarted as well");
    assert_eq!(held.wait().unwrap().code(), Some(76), "locks of the old epoch are lost and said so");
    assert!(token('c') > before, "tokens grow over a restart (R6)");
    // Not every member stopped cleanly, so the new view granted nothing for a lease time.
    let log = fs::read_to_string(dev.cluster().join("node-a/log")).unwrap();
    assert!(log.contains("grants begin in"), "{log}");
}

/// L3: with `--keep` the survivors go on, and what came back is refused until all restart.
#[test]
fn with_keep_the_survivors_go_on_and_a_node_that_comes_back_is_refused() {
    let dev = Dev::start_with(&["--keep"]);
    let config = dev.cluster().join("node-c/node.toml");
    signal(dev.pid('c'), "KILL");
    until("the others notice", || dev.run('a', &["ok"]).status == Some(69));
    // Something that neither needs node-c nor is decided by it still works: one of these names.
    let works = |name: &str| dev.run('a', &["lock", "-w", "200ms", name, "--", "true"]).status == Some(0);
    assert!((0..20).any(|i| works(&format!("name-{i}"))), "survivors go on");
    assert!(!(0..20).all(|i| works(&format!("name-{i}"))), "what node-c decides must wait, not be granted");

    let mut back = oarlock();
    back.args(["serve", "--config"]).arg(&config);
    back.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut back = Killed(back.spawn().unwrap());
    until("it knows that it is refused", || {
        let said = dev.run('c', &["status", "-o", "json"]);
        said.status == Some(0) && said.json()["phase"] == "refused"
    });
    dev.run('c', &["ok"]).expect(69, &["OAR-2403", "restart of the whole cluster"]);
    dev.run('c', &["lock", "x", "--", "true"]).expect(69, &["OAR-2403"]);
    // One refusal is enough to know it; the other member's comes when it comes.
    until("node-a has refused it too", || dev.counter('a', "refused_restarted") > 0);
    dev.run('a', &["ok"]).expect(69, &["node-c"]);
    signal(back.0.id() as i32, "TERM");
    back.0.wait().unwrap();
}

/// A process that does not outlive a test that fails: it would hold the test's output open for ever.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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
