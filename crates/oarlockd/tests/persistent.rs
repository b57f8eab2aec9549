//! Locks that outlive their programs, and branches, on real nodes: a program is killed, another one adopts what it left, an engine is
//! replaced between them, and people see and purge it.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use oarlock::blocking::{Client, Guard, Space};
use oarlock::{Kind, Mode};
use support::{Dev, Held, ask, until};

const SOCKET: &str = "TEST_PERSISTENT_SOCKET";

fn space(dev: &Dev, node: char) -> Space {
    Client::connect(dev.socket(node)).unwrap().space("default").unwrap()
}

/// The program that is killed: it takes a lock to stay and one to go, converts as it is told, and says so.
#[test]
#[ignore = "a program that another test starts"]
fn program() {
    let socket = std::env::var(SOCKET).unwrap();
    let space = Client::connect(socket).unwrap().space("default").unwrap();
    let stays = space.lock("v/stays").mode(Mode::EX).value_block().persistent().acquire().unwrap();
    stays.set_value(b"written").unwrap();
    stays.conversion(Mode::PR).persistent().convert().unwrap();
    let late = space.lock("v/late").mode(Mode::NL).by_message().acquire().unwrap();
    late.conversion(Mode::EX).persistent().convert().unwrap();
    let goes = space.lock("v/goes").persistent().acquire().unwrap();
    goes.conversion(Mode::PR).convert().unwrap();
    println!("\nready");
    std::io::stdout().flush().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(60));
}

/// Runs it until it has its locks, then kills it. Gives its number.
fn killed(dev: &Dev, node: char) -> u32 {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["program", "--exact", "--ignored", "--nocapture"]).env(SOCKET, dev.socket(node));
    let mut child = Held(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "ready"), "it ended before it had its locks");
    child.0.id()
}

fn busy(space: &Space, name: &str, mode: Mode) -> bool {
    match space.lock(name).mode(mode).no_queue().acquire() {
        Ok(_) => false,
        Err(error) if error.kind() == Kind::Busy => true,
        Err(error) => panic!("{error}"),
    }
}

fn adopt(space: &Space, name: &str, mode: Mode) -> Result<Guard, Kind> {
    space.lock(name).mode(mode).persistent().adopt().acquire().map_err(|error| error.kind())
}

/// Scenarios 37 to 40, seen by programs and people.
#[test]
fn what_a_killed_program_left_is_seen_adopted_and_purged() {
    let dev = Dev::start();
    let (here, there) = (space(&dev, 'a'), space(&dev, 'b'));
    let pid = killed(&dev, 'a');
    until("what was not to stay goes", || !busy(&there, "v/goes", Mode::EX));
    assert!(busy(&there, "v/stays", Mode::EX) && !busy(&there, "v/stays", Mode::PR));
    assert!(busy(&there, "v/late", Mode::PR), "it was made to stay by a conversion");
    // People see whose it was.
    let said = dev.run('b', &["locks", "why", "v/stays"]).expect(0, &["orphan of"]);
    assert!(said.out.contains(&pid.to_string()), "{}", said.out);

    // Another engine keeps it.
    dev.run('a', &["node", "restart"]).expect(0, &[]);
    assert!(busy(&there, "v/stays", Mode::EX));
    assert_eq!(adopt(&there, "v/stays", Mode::PR).err(), Some(Kind::NoOrphan), "it is of another node");
    assert_eq!(adopt(&here, "v/stays", Mode::EX).err(), Some(Kind::NoOrphan), "in another mode");
    let adopted = adopt(&here, "v/stays", Mode::PR).unwrap();
    assert_eq!((adopted.mode(), adopted.value()), (Mode::PR, None));
    assert_eq!(adopt(&here, "v/stays", Mode::PR).err(), Some(Kind::NoOrphan), "it has a program");
    let said = dev.run('b', &["locks", "why", "v/stays"]).expect(0, &[]);
    assert!(!said.out.contains("orphan of"), "{}", said.out);
    // It is a lock like any other, with what its first program wrote.
    adopted.convert(Mode::EX).unwrap();
    assert!(busy(&there, "v/stays", Mode::PR));
    adopted.release().unwrap();
    let read = there.lock("v/stays").mode(Mode::PR).value_block().acquire().unwrap();
    let value = read.value().expect("a block was asked for");
    assert!(value.valid && value.bytes.starts_with(b"written"), "{value:?}");
    drop(read);

    // The other one is purged: not by another's number, nor by another's name, nor at another node.
    let purge = |node, args: &[&str]| {
        let said = dev.run(node, &[&["locks", "purge", "-o", "json"], args].concat()).expect(0, &[]);
        said.json()["purged"].as_u64().unwrap()
    };
    let theirs = pid.to_string();
    assert_eq!(purge('a', &["w/"]) + purge('a', &["--pid", "1"]) + purge('b', &["v/"]), 0);
    assert!(busy(&there, "v/late", Mode::PR));
    assert_eq!(purge('a', &["v/", "--pid", &theirs]), 1);
    assert!(!busy(&there, "v/late", Mode::EX));
    dev.run('a', &["locks", "purge", "v/"]).expect(0, &["0 orphans given back"]);
    dev.run('a', &["locks", "purge", "--space", "dfault"])
        .expect(2, &["OAR-2202", "did you mean \"default\""]);
}

/// A program that gave its lock back leaves nothing behind, and what a program has granted itself does not stay.
#[test]
fn what_is_given_back_is_no_orphan() {
    let dev = Dev::start();
    let there = space(&dev, 'b');
    let client = Client::connect(dev.socket('a')).unwrap();
    let guard = client.space("default").unwrap().lock("x").persistent().acquire().unwrap();
    drop(guard);
    drop(client);
    until("given back", || !busy(&there, "x", Mode::EX));
    let client = Client::connect(dev.socket('a')).unwrap();
    assert_eq!(client.purge("default", b"", None).unwrap(), 0);
    // A lock that this process granted itself cannot be made to stay.
    let space = client.space("default").unwrap();
    let fast = || space.lock("y").mode(Mode::PR).acquire().unwrap();
    drop(fast());
    until("it is granted in this process", || {
        let guard = fast();
        let error = guard.conversion(Mode::EX).persistent().convert();
        error.is_err_and(|error| error.kind() == Kind::Usage)
    });
}

/// Scenarios 65, 66 by hand and by program: branches are counted by the node, whoever opened them and whatever became of that.
#[test]
fn branches_are_opened_and_closed_by_people_and_programs() {
    let dev = Dev::start();
    let count = || {
        let said = dev.run('a', &["dlm", "ls", "-o", "json"]).expect(0, &[]).json();
        said["branches"].as_array().unwrap().iter().map(|it| it["opened"].as_u64().unwrap()).sum::<u64>()
    };
    dev.run('a', &["dlm", "join", "vg0"]).expect(0, &["vg0 is open"]);
    dev.run('a', &["dlm", "join", "vg0", "--exclusive"]).expect(1, &["OAR-2208", "vg0"]);
    let client = Client::connect(dev.socket('a')).unwrap();
    client.open_branch("dlm", "vg0", false).unwrap();
    client.find_branch("dlm", "vg0").unwrap();
    assert_eq!(client.find_branch("dlm", "vg1").unwrap_err().kind(), Kind::Branch);
    assert_eq!(count(), 2);
    drop(client);
    dev.run('a', &["node", "restart"]).expect(0, &[]);
    assert_eq!(count(), 2, "the node counts, also over its engine's end");
    dev.run('b', &["dlm", "join", "vg0"]).expect(0, &["vg0 is open"]);
    dev.run('c', &["dlm", "ls"]).expect(0, &["LOCKSPACE", "NODES", "vg0", "node-a,node-b"]);
    dev.run('b', &["dlm", "leave", "vg0"]).expect(0, &["vg0 is closed"]);
    dev.run('c', &["dlm", "ls"]).expect(0, &["vg0", "node-a"]);
    dev.run('b', &["dlm", "status"]).expect(0, &["cluster nodeid 2 quorate 1", "node 1 M", "node 3 M"]);
    dev.run('b', &["dlm", "leave", "vg0"]).expect(2, &["OAR-2210"]);
    dev.run('a', &["dlm", "leave", "vg0"]).expect(0, &["vg0 is open"]);
    let client = Client::connect(dev.socket('a')).unwrap();
    let guard = client.space("dlm").unwrap().lock("vg0/x").acquire().unwrap();
    dev.run('a', &["dlm", "leave", "vg0"]).expect(1, &["OAR-2209"]);
    let waits = ask(&dev, 'a', "waits", &["--space", "dlm", "vg0/x"]);
    until("both are in the dump", || {
        let dump = dev.run('a', &["dlm", "lockdump", "vg0"]).expect(0, &["gr EX rq IV", "\"x\""]).out;
        let mine = format!("pid {} ", std::process::id());
        assert!(dump.contains(&mine) && !dump.contains("vg0"), "{dump}");
        dump.contains("gr IV rq EX")
    });
    assert_eq!(dev.run('b', &["dlm", "lockdump", "vg0"]).expect(0, &[]).out.trim(), "");
    drop(waits);
    assert_eq!(client.close_branch("dlm", "vg0", false).unwrap_err().kind(), Kind::Branch);
    drop(guard);
    until("nothing is held in it", || client.close_branch("dlm", "vg0", false).is_ok_and(|left| left == 0));
    dev.run('a', &["dlm", "join", "a/b"]).expect(2, &["OAR-2109"]);
    dev.run('a', &["dlm", "join", "vg0", "--space", "other"]).expect(2, &["OAR-2202"]);
    assert_eq!(count(), 0);
    // Thousands of them cost nothing.
    for n in 0..3_000 {
        client.open_branch("dlm", &format!("vg{n}"), true).unwrap();
    }
    assert_eq!(count(), 3_000);
    let guard = client.space("dlm").unwrap().lock("vg2999/x").acquire().unwrap();
    assert!(!guard.is_lost());
}
