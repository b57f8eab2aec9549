//! Disks under real daemons that are full or damaged. A limit on the size of files stands for a disk without room: the kernel refuses
//! the same writes, with another word, and no test needs a file system of its own.

mod support;

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use oarlock::blocking::Client;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use support::solo::Solo;
use support::{Dev, Said, engine_of, signal, until};

/// No file grows beyond this, nor is any written behind it: enough for `state`, not for `raft.redb`.
const ROOM: u64 = 4096;

/// A node of a `dev` cluster, started by hand, that is refused writes as on a full disk (and not ended by a signal, as whoever
/// goes beyond such a limit is).
fn serve(dev: &Dev, node: char, room: Option<u64>) -> Child {
    let mut command = Command::new("env");
    command.args(["--default-signal", "--ignore-signal=XFSZ"]);
    if let Some(room) = room {
        command.args(["prlimit", &format!("--fsize={room}:")]);
    }
    command.args([env!("CARGO_BIN_EXE_oarlock"), "serve", "--config"]);
    command.arg(dev.cluster().join(format!("node-{node}/node.toml"))).env("NO_COLOR", "1");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// How it ended by itself.
fn end(mut child: Child) -> Said {
    let until = Instant::now() + Duration::from_secs(60);
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > until => {
                let _ = child.kill();
                panic!("it does not end");
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    assert_eq!(status.signal(), None, "it ended by itself");
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    Said { status: status.code(), out: String::new(), err }
}

/// A node whose disk is full steps down: it says why, its locks go to others, and it comes back when there is room. Nothing that
/// was on its disk is lost.
#[test]
fn a_node_with_a_full_disk_steps_down_and_comes_back_when_there_is_room() {
    let dev = Dev::start_with(&["--keep"]);
    signal(dev.pid('c'), "KILL");
    until("it is out", || dev.run('a', &["status", "-o", "json"]).json()["members"][2]["in_view"] == false);
    let third = serve(&dev, 'c', None);
    until("it is back", || dev.run('c', &["ok"]).status == Some(0));
    let client = Client::connect(dev.socket('c')).unwrap();
    let space = client.space("default").unwrap();
    let handle = space.handle("mine");
    let guard = handle.acquire().unwrap();

    let pid = engine_of(third.id() as i32).to_string();
    let limited =
        Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={ROOM}:")]).status().unwrap();
    assert!(limited.success());
    end(third).expect(69, &["OAR-2405", "raft.redb", "File too large"]);
    assert!(guard.is_lost());
    dev.run('a', &["lock", "-w", "20s", "mine", "--", "true"]).expect(0, &[]);
    dev.run('b', &["lock", "-w", "20s", "other", "--", "true"]).expect(0, &[]);

    // Started again without room, it says so again, and spoils nothing.
    let said = end(serve(&dev, 'c', Some(ROOM)));
    assert!(matches!(said.status, Some(69 | 78)), "{:?}: {}", said.status, said.err);
    assert!(said.err.contains("raft.redb") && said.err.contains("OAR-"), "{}", said.err);
    dev.run('a', &["lock", "-w", "20s", "mine", "--", "true"]).expect(0, &[]);

    let mut third = serve(&dev, 'c', None);
    let well = || ['a', 'b', 'c'].iter().all(|node| dev.run(*node, &["ok"]).status == Some(0));
    until("all are well", well);
    dev.run('c', &["lock", "-w", "20s", "mine", "--", "true"]).expect(0, &[]);
    signal(third.id() as i32, "KILL");
    third.wait().unwrap();
}

/// What is damaged is named by file and record, and left as it is for whoever wants to look at it.
#[test]
fn a_damaged_record_of_the_log_is_named_and_nothing_is_overwritten() {
    let log: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
    let mut solo = Solo::new("");
    solo.start();
    assert_eq!(solo.end("TERM"), Some(0));
    let (file, state) = (solo.path("data/raft.redb"), solo.path("data/state"));
    let good = fs::read(&file).unwrap();
    let database = Database::open(&file).unwrap();
    let (entry, mut bytes) = {
        let txn = database.begin_read().unwrap();
        let table = txn.open_table(log).unwrap();
        let (entry, bytes) = table.last().unwrap().unwrap();
        (entry.value(), bytes.value().to_vec())
    };
    bytes[3] ^= 1;
    let txn = database.begin_write().unwrap();
    txn.open_table(log).unwrap().insert(entry, bytes.as_slice()).unwrap();
    txn.commit().unwrap();
    drop(database);
    let before = fs::read(&state).unwrap();
    for _ in 0..2 {
        let words = ["OAR-1207", "raft.redb", &format!("entry {entry} of the log is damaged")];
        solo.serve().expect(78, &words);
        assert!(fs::read(&state).unwrap() == before, "a run that was refused is none");
        // The library marks a file as it opens and closes it; what is kept in it is as it was.
        let database = Database::open(&file).unwrap();
        let table = database.begin_read().unwrap().open_table(log).unwrap();
        let (last, found) = table.last().unwrap().unwrap();
        assert_eq!((last.value(), found.value()), (entry, bytes.as_slice()), "it was written over");
    }
    fs::write(&file, good).unwrap();
    solo.start();
    solo.run(&["lock", "-n", "x", "--", "true"]).expect(0, &[]);
}

/// FT16: what a killed node has written last is damaged. It is not taken for a write that the kill cut short.
#[test]
fn damage_to_the_last_write_of_a_killed_node_is_refused_with_its_place() {
    let mut solo = Solo::new("");
    solo.start();
    solo.run(&["lock", "-n", "x", "--", "true"]).expect(0, &[]);
    assert_eq!(solo.end("KILL"), None);
    let file = solo.path("data/raft.redb");
    let good = fs::read(&file).unwrap();
    // A bit of byte 9 says which of two places tells of the last write, and this is one of the checksums in it.
    let at = if good[9] & 1 == 0 { 64 + 20 } else { 192 + 20 };
    let mut damaged = good.clone();
    damaged[at] ^= 0x10;
    fs::write(&file, damaged).unwrap();
    for _ in 0..2 {
        solo.serve().expect(78, &["OAR-1207", "raft.redb", "of the file were looked at last"]);
    }
    fs::write(&file, good).unwrap();
    solo.start();
    solo.run(&["lock", "-n", "x", "--", "true"]).expect(0, &[]);
}

/// FT16: a node whose data directory is gone is noticed by the others, and by itself: it does not begin again until somebody has
/// seen to it, whatever the number of its run would be by then.
#[test]
fn a_new_directory_of_a_member_that_has_run_is_refused_until_somebody_sees_to_it() {
    let mut dev = Dev::start_with(&["--keep"]);
    let third = dev.pid('c');
    signal(third, "KILL");
    until("it has ended", || !support::lives(third));
    let data = dev.cluster().join("node-c/data");
    fs::remove_dir_all(&data).unwrap();
    end(serve(&dev, 'c', None)).expect(78, &["OAR-1213", "node-c/data is new", "node remove"]);
    for _ in 0..3 {
        end(serve(&dev, 'c', None)).expect(78, &["OAR-1213", "knows another run of this node"]);
    }
    let state = fs::read_to_string(data.join("state")).unwrap();
    assert!(state.contains("incarnation 1\n"), "it climbs no higher: {state}");
    dev.run('a', &["lock", "-w", "20s", "x", "--", "true"]).expect(0, &[]);

    // What the page says helps: a backup, all stopped, all restored.
    let file = dev.dir.path().join("backup");
    dev.run('a', &["coord", "backup", file.to_str().unwrap()]).expect(0, &[]);
    let pids = ['a', 'b'].map(|node| dev.pid(node));
    signal(dev.child.id() as i32, "KILL");
    dev.child.wait().unwrap();
    pids.into_iter().for_each(|pid| until("its nodes end with it", || !support::lives(pid)));
    for node in ['a', 'b', 'c'] {
        let config = dev.cluster().join(format!("node-{node}/node.toml"));
        let args =
            ["coord", "restore", file.to_str().unwrap(), "--yes", "--config", config.to_str().unwrap()];
        support::run(args).expect(0, &["is restored"]);
    }
    let nodes = ['a', 'b', 'c'].map(|node| support::Held(serve(&dev, node, None)));
    let well = || ['a', 'b', 'c'].iter().all(|node| dev.run(*node, &["ok"]).status == Some(0));
    until("all are well", well);
    drop(nodes);
}

/// The same when nobody is left who has heard of an earlier run: the registry remembers that there was one, by whose attempt it was
/// let in, and that this is not it, although it has the same number.
#[test]
fn a_new_directory_is_refused_as_well_if_all_others_have_begun_anew() {
    let mut dev = Dev::start_with(&["--keep"]);
    let pids = ['a', 'b', 'c'].map(|node| dev.pid(node));
    signal(dev.child.id() as i32, "KILL");
    dev.child.wait().unwrap();
    pids.into_iter().for_each(|pid| until("its nodes end with it", || !support::lives(pid)));
    let data = dev.cluster().join("node-c/data");
    fs::remove_dir_all(&data).unwrap();
    let nodes = ['a', 'b'].map(|node| support::Held(serve(&dev, node, None)));
    for _ in 0..2 {
        end(serve(&dev, 'c', None)).expect(78, &["OAR-1213", "node-c/data is new", "run 1"]);
    }
    let state = fs::read_to_string(data.join("state")).unwrap();
    assert!(state.contains("incarnation 1\n"), "it climbs no higher: {state}");
    dev.run('a', &["lock", "-w", "20s", "x", "--", "true"]).expect(0, &[]);
    drop(nodes);
}
