//! The coordinator's registry, lost and begun anew from a backup, on real daemons.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use oarlock::blocking::Client;
use oarlock_layout::id::Epoch;
use oarlockd::host::state::{DataDir, State};
use support::solo::Solo;
use support::{Dev, Held, Said, lives, oarlock, run, signal, until};

fn token(dev: &Dev, node: char) -> u64 {
    let said = dev.run(node, &["lock", "-w", "20s", "x", "-c", "echo $OARLOCK_TOKEN"]).expect(0, &[]);
    said.out.trim().parse().unwrap()
}

fn config(dev: &Dev, node: char) -> PathBuf {
    dev.cluster().join(format!("node-{node}/node.toml"))
}

/// A node that is started by hand, as a service manager would.
fn serve(dev: &Dev, node: char) -> Held {
    let log = fs::File::create(dev.cluster().join(format!("node-{node}/log"))).unwrap();
    let mut command = oarlock();
    command.args(["serve", "--config"]).arg(config(dev, node));
    Held(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
}

fn restore(file: &Path, config: &Path, options: &[&str]) -> Said {
    let mut command = oarlock();
    command.args(["coord", "restore"]).arg(file).arg("--config").arg(config).args(options);
    Said::of(command.output().unwrap())
}

fn backup(dev: &Dev, node: char, file: &Path, options: &[&str]) -> Said {
    let mut command = dev.at(node);
    Said::of(command.args(["coord", "backup"]).arg(file).args(options).output().unwrap())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Ends the load when it goes.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Every file of a directory, and what is in it.
fn content(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().flatten();
    entries.map(|entry| (entry.path(), fs::read(entry.path()).unwrap())).collect()
}

/// Ends `dev` and its nodes as a power failure would.
fn kill_all(dev: &mut Dev, nodes: &[char]) {
    let pids: Vec<i32> = nodes.iter().map(|node| dev.pid(*node)).collect();
    signal(dev.child.id() as i32, "KILL");
    dev.child.wait().unwrap();
    for pid in pids {
        if lives(pid) {
            // It may end with `dev` meanwhile.
            let _ = std::process::Command::new("kill").arg("-KILL").arg(pid.to_string()).status();
        }
        until("it has ended", || !lives(pid));
    }
}

/// R6: a backup under load, more locks and views after it, everything killed, and begun anew from the backup: tokens go on above
/// all that were issued. Who was not restored is refused by those who were, and both say why.
#[test]
fn tokens_go_on_above_after_a_restore_and_a_node_of_before_is_refused() {
    let mut dev = Dev::start_with(&["--keep"]);
    let file = dev.dir.path().join("backup");
    let busy = AtomicBool::new(true);
    thread::scope(|scope| {
        for node in ['a', 'b'] {
            let (client, busy) = (Client::connect(dev.socket(node)).unwrap(), &busy);
            scope.spawn(move || {
                let space = client.space("default").unwrap();
                while busy.load(Ordering::Relaxed) {
                    space.lock("busy").acquire().unwrap().release().unwrap();
                }
            });
        }
        let (dev, busy) = (&dev, &busy);
        // Whatever fails here ends them too.
        let _over = Over(busy);
        scope.spawn(move || {
            while busy.load(Ordering::Relaxed) {
                dev.run('b', &["node", "drain", "node-c"]);
                dev.run('a', &["node", "undrain", "node-c"]);
            }
        });
        let mut last = 0;
        for node in ['a', 'b', 'c', 'a'] {
            let said = backup(dev, node, &file, &["-o", "json"]).expect(0, &[]).json();
            let revision = said["revision"].as_u64().unwrap();
            assert!(revision > last, "what was decided before is in it");
            last = revision;
            // Another file, looked at by the same eyes as a restore.
            let said = restore(&file, &config(dev, 'a'), &["--dry-run"]);
            said.expect(78, &["OAR-1206", "another node is using it", "stop every node"]);
        }
    });
    let piped = backup(&dev, 'b', Path::new("-"), &[]).expect(0, &["oarlock backup"]);
    assert!(piped.out.starts_with("oarlock backup\n") && piped.err.is_empty());

    // What the backup does not know of: two views, a lock, and a node-c as it is now.
    signal(dev.pid('c'), "KILL");
    until("it is out", || dev.run('a', &["status", "-o", "json"]).json()["members"][2]["in_view"] == false);
    let third = serve(&dev, 'c');
    until("it is back", || dev.run('c', &["ok"]).status == Some(0));
    let before = token(&dev, 'a').max(token(&dev, 'c'));
    drop(third);
    kill_all(&mut dev, &['a', 'b']);
    let data = |node: char| dev.cluster().join(format!("node-{node}/data"));
    let old = dev.dir.path().join("old");
    copy(&data('c'), &old);

    let asked = restore(&file, &config(&dev, 'a'), &["--dry-run"])
        .expect(0, &["views begin above 1", "node-b, node-c"]);
    assert!(asked.out.contains("DANGER"), "{}", asked.out);
    let untouched = content(&data('a'));
    restore(&file, &config(&dev, 'a'), &[]).expect(2, &["nothing was changed", "--yes"]);
    assert_eq!(content(&data('a')), untouched);
    // One keeps its directory, the other machine is a new one.
    restore(&file, &config(&dev, 'a'), &["--yes"]).expect(0, &["raft.before", "node-b, node-c"]);
    restore(&file, &config(&dev, 'a'), &["--yes"]).expect(0, &["nothing is to be done"]);
    fs::remove_dir_all(data('b')).unwrap();
    restore(&file, &config(&dev, 'b'), &["--yes"]).expect(0, &["node-b is restored"]);

    let (first, second, third) = (serve(&dev, 'a'), serve(&dev, 'b'), serve(&dev, 'c'));
    let works = |node| dev.run(node, &["lock", "-w", "200ms", "x", "--", "true"]).status == Some(0);
    until("two of three serve", || works('a') && works('b'));
    let after = token(&dev, 'a').min(token(&dev, 'b'));
    assert!(after > before, "{after} after {before}");
    assert!(after >> 44 > 1024 + (before >> 44) - 3, "views were left out: {}", after >> 44);
    until("the old one is named", || dev.run('a', &["status"]).out.contains("OAR-5107"));
    until("the old one knows", || dev.run('c', &["status"]).out.contains("OAR-5107"));
    assert!(!works('c'));
    let log = || fs::read_to_string(dev.cluster().join("node-c/log")).unwrap();
    until("its log says why", || log().contains("OAR-5107"));

    // Restored, it is one of them; and its file does not pass for one of another beginning.
    drop(third);
    restore(&file, &config(&dev, 'c'), &["--yes"]).expect(0, &["node-c is restored"]);
    let good = fs::read(data('c').join("raft.redb")).unwrap();
    fs::copy(old.join("raft.redb"), data('c').join("raft.redb")).unwrap();
    let mut command = oarlock();
    let said = command.args(["serve", "--config"]).arg(config(&dev, 'c')).output().unwrap();
    Said::of(said).expect(78, &["OAR-1207", "raft.redb", "not of one beginning"]);
    fs::write(data('c').join("raft.redb"), good).unwrap();
    let third = serve(&dev, 'c');
    until("all are well", || ['a', 'b', 'c'].iter().all(|node| dev.run(*node, &["ok"]).status == Some(0)));
    assert!(token(&dev, 'c') > after);

    // The same file a second time would repeat tokens.
    drop((first, second, third));
    restore(&file, &config(&dev, 'a'), &["--yes"])
        .expect(1, &["OAR-1212", "restored from this file before", "--above"]);
}

/// Nothing that is no backup of this cluster changes anything, and each is told what is wrong with it.
#[test]
fn what_is_no_backup_of_this_cluster_changes_nothing() {
    let (mut solo, mut other) = (Solo::new(""), Solo::new(""));
    let file = solo.path("backup");
    for (it, name) in [(&mut solo, "backup"), (&mut other, "backup")] {
        it.start();
        it.run(&["coord", "backup", it.path(name).to_str().unwrap()]).expect(0, &["view 1"]);
        assert_eq!(it.end("TERM"), Some(0));
    }
    let good = fs::read(&file).unwrap();
    let before = content(&solo.path("data"));
    let refused = |bytes: &[u8], words: &[&str]| {
        fs::write(solo.path("bad"), bytes).unwrap();
        let said = restore(&solo.path("bad"), &solo.config(), &["--yes"]);
        said.expect(65, &[&["OAR-1211", "bad"], words].concat());
        assert_eq!(content(&solo.path("data")), before);
    };
    refused(&[], &["no backup"]);
    refused(b"something else", &["no backup"]);
    refused(&good[..good.len() - 1], &["should have"]);
    refused(&good[..30], &["should have 40"]);
    for at in [17, 21, 25, 41, good.len() - 1] {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        refused(&bytes, &[if (20..24).contains(&at) { "should have" } else { "damaged" }]);
    }
    refused(&fs::read(other.path("backup")).unwrap(), &["another cluster", "another key"]);
    restore(&solo.path("nothing"), &solo.config(), &["--yes"]).expect(65, &["OAR-1211", "nothing"]);
    // Its own, to a place without room, or in the place of an older one.
    solo.start();
    solo.run(&["coord", "backup", "/dev/full/backup"]).expect(1, &["OAR-1002", "/dev/full/backup"]);
    solo.run(&["coord", "backup", file.to_str().unwrap()]).expect(0, &[]);
    assert!(!solo.path("backup.new").exists());
    assert_eq!(solo.end("TERM"), Some(0));
}

/// R6: a directory that has seen more views than were left out says so, and what to type.
#[test]
fn a_directory_that_has_seen_later_views_is_not_restored_below_them() {
    let mut solo = Solo::new("");
    solo.start();
    let file = solo.path("backup");
    solo.run(&["coord", "backup", file.to_str().unwrap()]).expect(0, &[]);
    assert_eq!(solo.end("TERM"), Some(0));
    let mut data = DataDir::open(&solo.path("data")).unwrap();
    data.store(State { epoch: Epoch(5_000), ..data.state() }).unwrap();
    drop(data);
    restore(&file, &solo.config(), &["--yes"]).expect(1, &["OAR-1212", "has seen view 5000", "--above 5000"]);
    restore(&file, &solo.config(), &["--yes", "--above", "1048575"]).expect(1, &["OAR-1212"]);
    restore(&file, &solo.config(), &["--yes", "--above", "5000"]).expect(0, &["solo is restored"]);
    solo.start();
    let said = solo.run(&["lock", "x", "-c", "echo $OARLOCK_TOKEN"]).expect(0, &[]);
    assert!(said.out.trim().parse::<u64>().unwrap() >> 44 > 6_024, "{}", said.out);
    run(["explain", "OAR-1212"]).expect(0, &["restored"]);
}
