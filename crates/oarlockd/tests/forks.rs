//! What fork, exec and threads mean for locks that a program has granted itself, with a real daemon (M12).
//!
//! Not an ordinary test: a harness has threads, and forking a process with threads would test something else.

mod support;

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write, pipe};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fork::Fork;
use oarlock::blocking::{Client, Guard, Handle, Space};
use oarlock::{Kind, Mode};
use support::solo::Solo;
use support::{Held, signal, until};

type Test = (&'static str, fn(&Solo));

const TESTS: [Test; 7] = [
    ("a_fork_has_no_part_in_what_its_parent_granted_itself", a_fork_has_no_part),
    ("locks_end_with_the_process_that_took_them_though_a_fork_keeps_the_socket", a_fork_keeps_the_socket),
    ("an_executed_program_has_neither_socket_nor_segment", exec_closes),
    ("a_program_that_made_itself_a_daemon_grants_itself", a_daemonised_program),
    ("threads_of_one_session_do_not_mix_up_their_locks", threads),
    ("more_locks_than_entries_are_had_from_the_node", more_than_entries),
    ("more_readers_than_a_word_counts_are_had_from_the_node", more_than_counted),
];

/// What all of them together do not need, on any machine.
const LONG: Duration = Duration::from_secs(180);
const WATCH: &str = "--watch";

/// A lock that never comes must fail here, not hang. Another process watches: threads and forks do not go together.
fn watch() -> Held {
    let mut watch = Command::new(std::env::current_exe().unwrap());
    Held(watch.arg(WATCH).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
}

fn watches() -> ExitCode {
    let parent = std::os::unix::process::parent_id();
    let end = Instant::now() + LONG;
    while std::os::unix::process::parent_id() == parent {
        if Instant::now() > end {
            eprintln!("the tests do not end");
            // Its node too: with the output of the tests in its hands it would keep whoever reads that.
            let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
            let me = std::process::id() as i32;
            let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
            children.filter(|pid| *pid != me).for_each(|pid| signal(pid, "KILL"));
            signal(parent as i32, "KILL");
        }
        thread::sleep(Duration::from_millis(200));
    }
    ExitCode::FAILURE
}

fn main() -> ExitCode {
    if std::env::args().any(|arg| arg == WATCH) {
        return watches();
    }
    let watch = watch();
    // Under `cargo test NAME` only the tests of that name are meant.
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let meant = || TESTS.iter().filter(|(name, _)| name.contains(&filter));
    println!("\nrunning {} tests", meant().count());
    for (name, test) in meant() {
        let mut solo = Solo::new("");
        solo.start();
        test(&solo);
        assert_eq!(solo.end("TERM"), Some(0), "{}", solo.log());
        println!("test {name} ... ok");
    }
    drop(watch);
    let (passed, others) = (meant().count(), TESTS.len() - meant().count());
    println!("\ntest result: ok. {passed} passed; 0 failed; 0 ignored; 0 measured; {others} filtered out\n");
    ExitCode::SUCCESS
}

fn space(solo: &Solo) -> Space {
    let space = Client::connect(solo.socket()).unwrap().space("default").unwrap();
    // The first answer brings the segment along.
    space.lock("warm").acquire().unwrap().release().unwrap();
    space
}

/// A lock that was granted without the node.
fn fast(solo: &Solo, space: &Space, name: &str) -> Guard {
    space.lock(name).acquire().unwrap().release().unwrap();
    let before = grants(solo);
    let guard = space.lock(name).acquire().unwrap();
    assert_eq!(grants(solo), before + 1, "{name} was asked for");
    guard
}

/// How many locks programs have granted themselves.
fn grants(solo: &Solo) -> u64 {
    let status = solo.run(&["status", "-o", "json"]).expect(0, &[]).json();
    let grants = |of: &serde_json::Value| of["fast_grants"].as_u64().expect("a counter");
    status["spaces"].as_array().expect("lockspaces").iter().map(grants).sum()
}

fn is_free(space: &Space, name: &str) -> bool {
    match space.lock(name).try_acquire() {
        Ok(guard) => guard.release().is_ok(),
        Err(error) => {
            assert_eq!(error.kind(), Kind::Busy, "{error}");
            false
        }
    }
}

/// Runs `child` in a fork and gives what it said, once it has ended with status 0.
fn in_fork(child: impl FnOnce() -> String) -> String {
    let (mut reader, mut writer) = pipe().unwrap();
    match fork::fork().expect("fork") {
        Fork::Child => {
            drop(reader);
            writer.write_all(child().as_bytes()).unwrap();
            drop(writer);
            // Without destructors of the parent's daemon.
            std::process::exit(0);
        }
        Fork::Parent(child) => {
            drop(writer);
            let mut said = String::new();
            reader.read_to_string(&mut said).unwrap();
            assert_eq!(fork::waitpid(child).unwrap(), 0, "the fork died; it said {said:?}");
            said
        }
    }
}

fn a_fork_has_no_part(solo: &Solo) {
    let (space, other) = (space(solo), space(solo));
    let (guard, dropped) = (fast(solo, &space, "x"), fast(solo, &space, "y"));
    let handle = space.handle("h");
    drop(handle.acquire().unwrap());
    let held = handle.acquire().unwrap();
    let (guard, dropped, said) = {
        let mut parts = Some((guard, dropped));
        let said = in_fork(|| {
            let (guard, dropped) = parts.take().unwrap();
            faults(&space, &handle, guard, dropped)
        });
        let (guard, dropped) = parts.take().expect("the fork had its own");
        (guard, dropped, said)
    };
    assert_eq!(said, "", "what the fork saw");
    for name in ["x", "y", "h"] {
        assert!(!is_free(&other, name), "{name}: the fork gave it back");
    }
    guard.convert(Mode::PR).unwrap();
    guard.release().unwrap();
    drop((dropped, held));
    for name in ["x", "y", "h"] {
        until("it is given back", || is_free(&other, name));
    }
    // The parent goes on granting itself.
    fast(solo, &space, "x").release().unwrap();
}

/// Calls of a fork that do not fail as they should.
fn faults(space: &Space, handle: &Handle, guard: Guard, dropped: Guard) -> String {
    let tried = [
        ("acquire", space.lock("x").acquire().err()),
        ("try", space.lock("free").try_acquire().err()),
        ("handle", handle.acquire().err()),
        ("handle, try", handle.try_acquire().err()),
        ("convert down", guard.convert(Mode::PR).err()),
        ("set_value", guard.set_value(b"fork").err()),
        ("wait_blocking", guard.wait_blocking(Duration::from_millis(10)).err()),
        ("lost_now", guard.lost_now()),
        ("release", guard.release().err()),
    ];
    drop(dropped);
    let kinds = tried.into_iter().map(|(what, error)| (what, error.map(|error| error.kind())));
    let wrong = kinds.filter(|(_, kind)| *kind != Some(Kind::Forked));
    wrong.map(|(what, kind)| format!("{what}: {kind:?}\n")).collect()
}

fn a_fork_keeps_the_socket(solo: &Solo) {
    let other = space(solo);
    let (mut reader, mut writer) = pipe().unwrap();
    let (end, mut ended) = pipe().map(|(reader, writer)| (writer, reader)).unwrap();
    let Fork::Parent(parent) = fork::fork().expect("fork") else {
        drop((reader, end));
        let space = space(solo);
        let guard = fast(solo, &space, "x");
        if let Ok(Fork::Child) = fork::fork() {
            // With a copy of the socket, until the test closes its end.
            let _ = ended.read(&mut [0]);
            std::process::exit(0);
        }
        writer.write_all(b"held").unwrap();
        std::mem::forget(guard);
        drop(writer);
        signal(std::process::id() as i32, "KILL");
        unreachable!("it was killed");
    };
    drop((writer, ended));
    let mut said = [0; 4];
    reader.read_exact(&mut said).unwrap();
    assert_ne!(fork::waitpid(parent).unwrap(), 0, "it was killed");
    let killed = Instant::now();
    until("its lock ends with it", || is_free(&other, "x"));
    assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
    drop(end);
}

fn exec_closes(solo: &Solo) {
    let space = space(solo);
    let guard = fast(solo, &space, "x");
    let child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
    let child = Held(child);
    let of = |what: &str| format!("/proc/{}/{what}", child.0.id());
    until("it is executed", || fs::read_to_string(of("comm")).is_ok_and(|name| name == "sleep\n"));
    let maps = fs::read_to_string(of("maps")).unwrap();
    assert!(!maps.contains("memfd"), "{maps}");
    for fd in fs::read_dir(of("fd")).unwrap().flatten() {
        let to = fs::read_link(fd.path()).unwrap();
        let to = to.to_string_lossy();
        assert!(!to.contains("memfd") && !to.contains("socket"), "{to}");
    }
    // This process has them, so there was something to close.
    assert!(fs::read_to_string("/proc/self/maps").unwrap().contains("memfd"));
    guard.release().unwrap();
}

fn a_daemonised_program(solo: &Solo) {
    // Nothing that this process has from its own session is in the daemon's way.
    fast(solo, &space(solo), "before").release().unwrap();
    let (mut reader, mut writer) = pipe().unwrap();
    match fork::fork().expect("fork") {
        Fork::Child => {
            if let Ok(Fork::Parent(_)) = fork::fork() {
                std::process::exit(0);
            }
            drop(reader);
            fork::setsid().unwrap();
            let space = space(solo);
            let guard = fast(solo, &space, "x");
            let said = format!("{:?}", guard.mode());
            guard.release().unwrap();
            writer.write_all(said.as_bytes()).unwrap();
            drop(writer);
            std::process::exit(0);
        }
        Fork::Parent(child) => {
            drop(writer);
            assert_eq!(fork::waitpid(child).unwrap(), 0);
            let mut said = String::new();
            reader.read_to_string(&mut said).unwrap();
            assert_eq!(said, format!("{:?}", Mode::EX));
        }
    }
}

fn threads(solo: &Solo) {
    // More than there are entries that threads prefer, so that some meet.
    const THREADS: u32 = 24;
    const NAMES: u32 = 3;
    let space = space(solo);
    // For each name: whether somebody writes, and how many read.
    let board: HashMap<u32, (AtomicU32, AtomicU32)> =
        (0..NAMES).map(|name| (name, Default::default())).collect();
    let end = Instant::now() + Duration::from_secs(2);
    let work = |me: u32| {
        let mut random = me * 7 + 1;
        let mut rounds = 0;
        while Instant::now() < end {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let name = (random >> 8) % NAMES;
            let (writes, reads) = &board[&name];
            let alone = || {
                assert_eq!(writes.swap(me + 1, Ordering::SeqCst), 0, "two write");
                assert_eq!(reads.load(Ordering::SeqCst), 0, "somebody reads");
                assert_eq!(writes.swap(0, Ordering::SeqCst), me + 1);
            };
            let beside = || {
                reads.fetch_add(1, Ordering::SeqCst);
                assert_eq!(writes.load(Ordering::SeqCst), 0, "somebody writes");
                reads.fetch_sub(1, Ordering::SeqCst);
            };
            let lock = space.lock(format!("r{name}"));
            match (random >> 16) % 4 {
                0 => {
                    let guard = lock.acquire().unwrap();
                    alone();
                    guard.convert(Mode::PR).unwrap();
                    beside();
                    guard.release().unwrap();
                }
                1 => {
                    let guard = lock.mode(Mode::PR).acquire().unwrap();
                    beside();
                    if guard.conversion(Mode::EX).no_queue().convert().is_ok() {
                        alone();
                    }
                    drop(guard);
                }
                2 => {
                    let guard = lock.acquire().unwrap();
                    alone();
                    guard.release().unwrap();
                }
                _ => {
                    let guard = lock.mode(Mode::PR).acquire().unwrap();
                    beside();
                    guard.release().unwrap();
                }
            }
            rounds += 1;
        }
        rounds
    };
    let rounds: u32 = thread::scope(|scope| {
        let all: Vec<_> = (0..THREADS).map(|me| scope.spawn(move || work(me))).collect();
        all.into_iter().map(|one| one.join().unwrap()).sum()
    });
    assert!(rounds > 8 * THREADS, "{rounds} rounds");
    let other = self::space(solo);
    for name in 0..NAMES {
        until("nothing is left", || is_free(&other, &format!("r{name}")));
    }
}

/// Entries in reach of one resource are few; all of an area are 16384, too many for a test.
fn more_than_entries(solo: &Solo) {
    let (space, other) = (space(solo), space(solo));
    fast(solo, &space, "x").release().unwrap();
    let before = grants(solo);
    let guards: Vec<Guard> = (0..200).map(|_| space.lock("x").mode(Mode::PR).acquire().unwrap()).collect();
    let by_itself = grants(solo) - before;
    assert!((1..100).contains(&by_itself), "{by_itself} of them without the node");
    assert!(!is_free(&other, "x"));
    for (n, guard) in guards.into_iter().enumerate() {
        // Up and down for some, whoever keeps them.
        if n % 7 == 0 {
            guard.convert(Mode::CR).unwrap();
        }
        if n % 2 == 0 { guard.release().unwrap() } else { drop(guard) }
    }
    until("all are given back", || is_free(&other, "x"));
}

fn more_than_counted(solo: &Solo) {
    let other = space(solo);
    other.lock("x").acquire().unwrap().release().unwrap();
    let spaces: Vec<Space> = (0..26).map(|_| space(solo)).collect();
    let before = grants(solo);
    let mut guards = Vec::new();
    for space in &spaces {
        guards.extend((0..48).map(|_| space.lock("x").mode(Mode::PR).acquire().unwrap()));
    }
    let by_themselves = grants(solo) - before;
    assert!((1_000..1_023).contains(&by_themselves), "{by_themselves} of {} without the node", guards.len());
    assert!(!is_free(&other, "x"));
    // One of those that the node keeps goes, and one of those that the word counts.
    guards.pop().unwrap().release().unwrap();
    guards.swap_remove(0).release().unwrap();
    guards.last().unwrap().convert(Mode::CR).unwrap();
    assert!(!is_free(&other, "x"));
    let last = guards.pop().unwrap();
    guards.into_iter().for_each(|guard| guard.release().unwrap());
    until("all but one are given back", || {
        let raised = last.conversion(Mode::EX).no_queue().convert();
        raised.is_ok()
    });
    assert!(!is_free(&other, "x"));
    last.release().unwrap();
    until("all are given back", || is_free(&other, "x"));
}
