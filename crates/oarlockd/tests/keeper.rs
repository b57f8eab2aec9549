//! The keeper of a node, and what it does when the engine dies: programs know at once, others need not wait for the lease, and
//! another engine starts. Times are printed; what is asserted leaves room for a busy machine, except where too early is
//! wrong.

mod support;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use oarlock::blocking::Client;
use oarlock_layout::codec::Wire;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{OwnerId, SpaceId, TransactionId};
use oarlock_layout::message::session::{LockRequest, Reply, Request, VERSION};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlockd::host::door::{self, Received};
use support::solo::Solo;
use support::{Dev, Said, ask, engine_of, lives, pid_in, signal, until};

/// A node renews its lease of 3 s every 750 ms; so when it dies, at least this much of it is left.
const LEASE_LEFT: Duration = Duration::from_millis(2_000);
/// How long a program works on under a lock of which it knows that it is lost: much longer than a surrender takes.
const WORK: Duration = Duration::from_millis(200);

fn all_well(dev: &Dev) -> bool {
    ['a', 'b', 'c'].iter().all(|node| dev.run(*node, &["ok"]).status == Some(0))
}

fn incarnation(dev: &Dev, node: char) -> u64 {
    dev.run(node, &["status", "-o", "json"]).json()["incarnation"].as_u64().unwrap()
}

/// L5, L10: the engine is killed, once where the coordinator is not led and once where it is. Programs of the node know that
/// their locks are lost before others get them, and others get them long before the lease would be over.
#[test]
fn a_dead_engines_locks_move_at_once_and_not_before_they_are_lost() {
    let dev = Dev::start();
    for led in [false, true] {
        let first = dev.leader();
        let victim = ['a', 'b', 'c'].into_iter().find(|node| (*node == first) == led).unwrap();
        let other = ['a', 'b', 'c'].into_iter().find(|node| *node != victim).unwrap();
        let (keeper, engine, run) = (dev.pid(victim), dev.engine(victim), incarnation(&dev, victim));
        // One that grants itself in its own process, and one that runs a command.
        let client = Client::connect(dev.socket(victim)).unwrap();
        let handle = client.space("default").unwrap().handle("own");
        // Once its node owns the lock and the segment is there, no grant is the node's.
        for _ in 0..50 {
            drop(handle.acquire().unwrap());
            thread::sleep(Duration::from_millis(2));
        }
        let guard = handle.acquire().unwrap();
        let mut command = dev.at(victim);
        let file = dev.dir.path().join(format!("pid-{led}"));
        let script = format!("echo $$ > '{}'; exec sleep 60", file.display());
        command.args(["lock", "-q", "job", "-c", &script]).stdout(Stdio::null()).stderr(Stdio::piped());
        let job = command.spawn().unwrap();
        let sleeper = pid_in(&file);
        let there = Client::connect(dev.socket(other)).unwrap();
        let there = there.space("default").unwrap();
        let next = |name: &'static str| {
            let space = &there;
            move || {
                let guard = space.lock(name).timeout(Duration::from_secs(30)).acquire().unwrap();
                let at = Instant::now();
                (at, guard)
            }
        };
        let (killed, let_go, own, job_granted) = thread::scope(|scope| {
            let (own, job) = (scope.spawn(next("own")), scope.spawn(next("job")));
            until("both wait", || {
                let waits = |name: &str| dev.run(other, &["locks", "why", name]).out.contains("1 wait");
                waits("own") && waits("job")
            });
            let killed = Instant::now();
            signal(engine, "KILL");
            while !guard.is_lost() {
                assert!(killed.elapsed() < LEASE_LEFT, "it is never lost");
                thread::sleep(Duration::from_millis(1));
            }
            // It knows, and has yet to bring what it does under the lock to an end.
            thread::sleep(WORK);
            assert!(!own.is_finished() && !job.is_finished(), "others got them while somebody was at work");
            let let_go = Instant::now();
            drop(guard);
            let (own, job) = (own.join().unwrap(), job.join().unwrap());
            assert!(!lives(sleeper), "a command whose lock is somebody else's");
            (killed, let_go, own.0, job.0)
        });
        println!(
            "engine killed{}: let go after {:?}, granted elsewhere after {:?} and {:?}",
            if led { " where the coordinator was led" } else { "" },
            let_go - killed,
            own - killed,
            job_granted - killed
        );
        assert!(let_go < own, "let go after {:?}, granted after {:?}", let_go - killed, own - killed);
        for granted in [own, job_granted] {
            assert!(granted - killed < LEASE_LEFT, "{:?}: that is as long as for a lease", granted - killed);
        }
        Said::of(job.wait_with_output().unwrap()).expect(76, &["lock on job lost", "was killed by signal 9"]);
        until("it is back, and all is well", || all_well(&dev));
        println!("engine killed to all well: {:?}", killed.elapsed());
        assert_eq!(
            (dev.pid(victim), incarnation(&dev, victim)),
            (keeper, run + 1),
            "another run, kept by the same"
        );
        let log = fs::read_to_string(dev.cluster().join(format!("node-{victim}/log"))).unwrap();
        assert!(log.contains(&format!("run {run} is given up")), "{log}");
        dev.run(other, &["coord", "show"]).expect(0, &["it gave itself up"]);
        dev.run(victim, &["lock", "-w", "5s", "own", "--", "true"]).expect(0, &[]);
    }
    assert!(!dev.said().contains("started again"), "`dev` had nothing to do: {}", dev.said());
}

/// L5: an engine that does not believe itself any more aborts; that is a death like any other.
#[test]
fn an_engine_that_aborts_is_given_up_too() {
    let dev = Dev::start();
    let _held = ask(&dev, 'a', "holder", &["x"]);
    until("it is held", || dev.run('b', &["locks", "ls"]).out.contains("(holder)"));
    let began = Instant::now();
    signal(dev.engine('a'), "ABRT");
    dev.run('b', &["lock", "-w", "20s", "x", "--", "true"]).expect(0, &[]);
    println!("engine aborted to granted elsewhere: {:?}", began.elapsed());
    assert!(began.elapsed() < LEASE_LEFT, "{:?}", began.elapsed());
    until("it is back", || all_well(&dev));
}

/// L5: a program that does not hang up may not have heard, and may still act. Then nothing is given up, and others wait.
#[test]
fn who_does_not_acknowledge_is_waited_for_by_the_lease() {
    let dev = Dev::start();
    let stubborn = door::connect(&dev.socket('a')).unwrap();
    let send = |request: Request| assert!(door::send(&stubborn, &request.to_bytes()).unwrap());
    let next = || {
        let mut buffer = vec![0; 64 << 10];
        let mut reply = None;
        until("it answers", || {
            match door::receive(&stubborn, &mut buffer).unwrap() {
                Received::Packet(n) => reply = Some(Reply::from_bytes(&buffer[..n]).unwrap()),
                Received::Nothing => {}
                Received::End => panic!("it hung up"),
            }
            reply.is_some()
        });
        reply.unwrap()
    };
    send(Request::Hello { version: VERSION, label: "stubborn".into() });
    send(Request::Lock(LockRequest {
        handle: 1,
        space: SpaceId(0),
        name: Name::new(b"x").unwrap(),
        mode: Mode::EX,
        flags: Flags::empty(),
        timeout_ms: 0,
        owner: OwnerId(0),
        transaction: TransactionId(0),
    }));
    assert!(matches!(next(), Reply::Welcome { .. }) && matches!(next(), Reply::Granted(_)));
    let killed = Instant::now();
    signal(dev.engine('a'), "KILL");
    let Reply::Lost { why } = next() else { panic!("not told") };
    assert!(why.text.contains("was killed by signal 9"), "{}", why.text);
    dev.run('b', &["lock", "-w", "20s", "x", "--", "true"]).expect(0, &[]);
    println!(
        "engine killed to granted elsewhere, with a program that does not hang up: {:?}",
        killed.elapsed()
    );
    assert!(killed.elapsed() > LEASE_LEFT, "{:?}", killed.elapsed());
    drop(stubborn);
    until("it is back", || all_well(&dev));
    dev.run('b', &["coord", "show"]).expect(0, &["its lease ended"]);
}

/// L5: who acknowledges late is heard late; by then another engine says it, for the address is in use again.
#[test]
fn who_acknowledges_late_costs_no_more_than_that() {
    let dev = Dev::start();
    let file = dev.dir.path().join("pid");
    // It takes half a second to end.
    let script =
        format!("trap 'sleep 0.7; exit' TERM; echo $$ > '{}'; while :; do sleep 0.02; done", file.display());
    let mut command = dev.at('a');
    command.args(["lock", "-q", "x", "-c", &script]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut job = command.spawn().unwrap();
    let shell = pid_in(&file);
    let killed = Instant::now();
    signal(dev.engine('a'), "KILL");
    dev.run('b', &["lock", "-w", "20s", "x", "--", "true"]).expect(0, &[]);
    let took = killed.elapsed();
    assert!(!lives(shell), "it was waited for");
    println!("engine killed to granted elsewhere, with a command that takes 0.7 s to end: {took:?}");
    assert!(took > Duration::from_millis(700), "{took:?}");
    assert_eq!(job.wait().unwrap().code(), Some(76));
    until("it is back", || all_well(&dev));
    dev.run('b', &["coord", "show"]).expect(0, &["it gave itself up"]);
}

/// A node alone has nobody who would hear a last word: its next run says it to itself.
#[test]
fn a_node_alone_is_back_before_its_lease_is_over() {
    let mut solo = Solo::new("");
    solo.start();
    let (keeper, first) = (solo.pid(), solo.engine());
    let killed = Instant::now();
    signal(first, "KILL");
    until("it serves", || solo.run(&["lock", "-n", "x", "--", "true"]).status == Some(0));
    println!("engine of a node alone killed to granted: {:?}", killed.elapsed());
    assert!(killed.elapsed() < LEASE_LEFT, "{:?}", killed.elapsed());
    assert!(solo.pid() == keeper && solo.engine() != first && !lives(first));
    // Whichever of the two is asked to end: both do.
    let engine = solo.engine();
    assert_eq!(solo.end("TERM"), Some(0));
    assert!(!lives(engine));
    solo.start();
    let keeper = solo.pid();
    signal(solo.engine(), "TERM");
    until("the keeper ends with it", || !lives(keeper));
    let log = solo.log();
    assert!(log.trim_end().ends_with("stopped; nobody can still hold a lock of this run"), "{log}");
}

/// L1: nobody is left who could say anything, so nothing goes on without a keeper.
#[test]
fn an_engine_does_not_outlive_its_keeper() {
    let mut solo = Solo::new("");
    solo.start();
    let engine = engine_of(solo.pid());
    solo.end("KILL");
    until("it has ended", || !lives(engine));
    // The next one finds nothing in its way.
    solo.start();
    let said = support::run(["engine", "--config", solo.config().to_str().unwrap()]);
    said.expect(2, &["OAR-1001", "started by its keeper", "oarlock serve"]);
}

/// What a service manager of systemd's kind hears: from a start to the end, over the death of an engine, and nothing while
/// the engine stands still.
#[test]
fn a_service_manager_is_told_how_the_node_is() {
    let mut solo = Solo::new("");
    let manager = UnixDatagram::bind(solo.path("notify")).unwrap();
    // As a manager does: few lines fit into a socket that nobody reads, and the others are lost.
    let (to_test, told) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 256];
        while let Ok(n) = manager.recv(&mut buffer)
            && to_test.send(String::from_utf8_lossy(&buffer[..n]).into_owned()).is_ok()
        {}
    });
    let next = |word: &str| {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let lines = told.recv_timeout(end.saturating_duration_since(Instant::now()));
            let lines = lines.unwrap_or_else(|_| panic!("waited in vain for {word}"));
            if lines.contains(word) {
                return lines;
            }
        }
    };
    // As systemd does it: the number of the watched process is that of the one it has started.
    let mut command = Command::new("sh");
    command.args(["-c", "export WATCHDOG_PID=$$; exec \"$0\" serve --config \"$1\""]);
    command.arg(env!("CARGO_BIN_EXE_oarlock")).arg(solo.config());
    command.env("NOTIFY_SOCKET", solo.path("notify")).env("WATCHDOG_USEC", "200000");
    solo.start_as(command);
    next("READY=1");
    next("STATUS=serving");
    (0..3).for_each(|_| _ = next("WATCHDOG=1"));
    // A loop that does not go round says nothing.
    let engine = solo.engine();
    signal(engine, "STOP");
    until("it stands still", || fs::read_to_string(format!("/proc/{engine}/stat")).unwrap().contains(") T "));
    thread::sleep(Duration::from_millis(50));
    told.try_iter().for_each(drop);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [""; 0], "it stands still");
    signal(engine, "CONT");
    next("WATCHDOG=1");
    // A reload is done as soon as it is asked for, since there is nothing to do.
    signal(solo.pid(), "HUP");
    assert!(next("RELOADING=1").contains("MONOTONIC_USEC="));
    next("READY=1");
    signal(solo.engine(), "KILL");
    next("READY=1");
    next("STATUS=serving");
    assert_eq!(solo.end("TERM"), Some(0));
    next("STOPPING=1");
}
