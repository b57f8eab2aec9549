//! Programs learn in time that the lease of their node ends, while the node says nothing: it is stopped, and renews nothing.
//!
//! What is asserted is who was first, by clocks that stop for nobody: what is done under a lock ends before the lease
//! does, and before somebody else has the lock. A busy machine makes all of it later.

mod support;

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use oarlock::blocking::{Client, Guard};
use oarlock::{Kind, Mode};
use oarlock_layout::codec::Wire;
use oarlock_layout::limit::{LEASE_ENDING, LEASE_FROZEN};
use oarlock_layout::message::session::{Reply, Request, VERSION};
use oarlock_layout::time::Instant as Moment;
use oarlock_shm::LeaseSight;
use oarlockd::host::{clock, door};
use support::solo::Solo;
use support::{Dev, Said, lives, oarlock, pid_in, signal, until};

/// What nothing takes, however busy the machine is.
const LONG: Duration = Duration::from_secs(20);

/// What a program sees of the lease of a node.
fn sight(socket: &Path) -> (LeaseSight, OwnedFd) {
    let asked = clock::now();
    let session = door::connect(socket).unwrap();
    let hello = Request::Hello { version: VERSION, label: "looks".into() };
    assert!(door::send(&session, &hello.to_bytes()).unwrap());
    let (mut bytes, mut with) = (vec![0; 64 << 10], None);
    let end = Instant::now() + LONG;
    loop {
        match door::receive_with(&session, &mut bytes, &mut with).unwrap() {
            door::Received::Packet(length) => {
                let reply = Reply::from_bytes(&bytes[..length]).unwrap();
                let Reply::Welcome { now, .. } = reply else { panic!("{reply:?}") };
                let fd = with.expect("the note comes with the welcome");
                return (LeaseSight::open(fd, asked, now, clock::now()).expect("it is one"), session);
            }
            _ => assert!(Instant::now() < end, "no welcome"),
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// When the lease of a node that has been stopped ends: it is renewed no more.
fn stopped(dev: &Dev, node: char) -> (i32, Moment) {
    let (sight, _session) = sight(&dev.socket(node));
    let pid = dev.engine(node);
    signal(pid, "STOP");
    until("it stands still", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    });
    (pid, sight.until().expect("it serves"))
}

/// Runs a command under a lock that says its process id, is deaf to SIGTERM, and notes the time again and again: that of
/// CLOCK_BOOTTIME, in seconds.
struct Clocked {
    child: Child,
    file: PathBuf,
    shell: i32,
}

impl Clocked {
    fn start(dev: &Dev, node: char, name: &str, number: usize) -> Clocked {
        Clocked::start_with(dev, node, name, number, Stdio::piped())
    }

    fn start_with(dev: &Dev, node: char, name: &str, number: usize, stderr: Stdio) -> Clocked {
        let (file, pid) =
            (dev.dir.path().join(format!("times-{number}")), dev.dir.path().join(format!("pid-{number}")));
        let script = format!(
            "trap '' TERM; echo $$ > '{}'; while :; do read up rest < /proc/uptime; echo $up >> '{}'; sleep 0.005; done",
            pid.display(),
            file.display()
        );
        let mut command = dev.at(node);
        command.args(["lock", name, "-c", &script]).stderr(stderr);
        let child = command.spawn().unwrap();
        let shell = pid_in(&pid);
        Clocked { child, file, shell }
    }

    fn end(self) -> (Said, Moment) {
        let said = Said::of(self.child.wait_with_output().unwrap());
        assert!(!lives(self.shell), "nothing lives on under a lost lock");
        (said, last(&fs::read_to_string(&self.file).unwrap()))
    }
}

fn last(times: &str) -> Moment {
    let seconds: f64 = times.lines().last().expect("it ran").parse().unwrap();
    // In hundredths of a second.
    Moment((seconds * 100.0).round() as u64 * 10_000_000)
}

/// L6, M12: the commands of `oarlock lock` at a node that stands still are warned, asked to end, and dead before its lease is
/// over and before anybody else has their locks. What did not hear of anything is the node.
#[test]
fn commands_at_a_node_that_stands_still_are_dead_before_others_have_their_locks() {
    let dev = Dev::start();
    let clocked: Vec<_> =
        (0..3).map(|number| Clocked::start(&dev, 'a', &format!("x{number}"), number)).collect();
    // One that ends as it is asked to.
    let polite = dev.dir.path().join("polite");
    let script = format!(
        "trap 'read up rest < /proc/uptime; echo $up > \"{}\"; exit 0' TERM; while :; do sleep 0.01; done",
        polite.display()
    );
    let mut command = dev.at('a');
    let asked = command.args(["lock", "y", "-c", &script]).stderr(Stdio::piped()).spawn().unwrap();
    let held = || dev.run('a', &["locks", "ls"]).out.matches("EX").count() >= 4;
    until("all are held", held);
    let next: Vec<_> = (0..3)
        .map(|number| {
            let mut command = dev.at('b');
            command.args([
                "lock",
                "-q",
                &format!("x{number}"),
                "-c",
                "read up rest < /proc/uptime; echo $up",
            ]);
            command.stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    until("all wait", || {
        (0..3).all(|n| dev.run('b', &["locks", "why", &format!("x{n}")]).out.contains("1 wait"))
    });
    let (node, over) = stopped(&dev, 'a');
    Said::of(asked.wait_with_output().unwrap())
        .expect(76, &["lock on y at risk", "lock on y lost", "SIGTERM"]);
    let asked = last(&fs::read_to_string(&polite).unwrap());
    assert!(over.since(asked) > Duration::from_millis(150), "{asked:?}, and it is over at {over:?}");
    for (clocked, next) in clocked.into_iter().zip(next) {
        let (said, last_of_one) = clocked.end();
        said.expect(76, &["at risk", "lost: the node does not renew its lease", "SIGTERM"]);
        assert!(last_of_one < over, "{last_of_one:?} is not before {over:?}");
        let first = last(&Said::of(next.wait_with_output().unwrap()).expect(0, &[]).out);
        println!("last {:?} before the end, next {:?} behind it", over.since(last_of_one), first.since(over));
        assert!(last_of_one < first && first >= over, "{last_of_one:?}, {over:?}, {first:?}");
    }
    signal(node, "CONT");
}

/// A pipe that is full, and that nobody reads as long as its other end is kept: to write to it takes for ever.
fn full_pipe() -> (OwnedFd, OwnedFd) {
    let (read, write) = rustix::pipe::pipe().unwrap();
    rustix::io::ioctl_fionbio(&write, true).unwrap();
    while rustix::io::write(&write, &[b'.'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&write, false).unwrap();
    (read, write)
}

/// L6: nobody reads what `oarlock lock` says, as at a terminal after Ctrl-S; its command is dead in time all the same.
#[test]
fn a_command_whose_errors_nobody_reads_is_dead_before_the_lease_is_over() {
    let dev = Dev::start_with(&["-n", "1"]);
    let (_read, write) = full_pipe();
    let clocked = Clocked::start_with(&dev, 'a', "x", 0, write.into());
    let (node, over) = stopped(&dev, 'a');
    let (said, last) = clocked.end();
    signal(node, "CONT");
    said.expect(76, &[]);
    assert!(last < over, "{last:?} is not before {over:?}");
}

/// L6: `oarlock lock` itself stands still with its node, so that its guard alone is left: the command is dead in time, and also what it
/// has started in a session of its own. Nobody who is woken later says anything else.
#[test]
fn a_command_is_dead_in_time_while_its_oarlock_lock_stands_still() {
    let dev = Dev::start_with(&["-n", "1"]);
    let clocked = Clocked::start(&dev, 'a', "x", 0);
    let (times, escaped) = (dev.dir.path().join("escaped"), dev.dir.path().join("escaped-pid"));
    let script = format!(
        "setsid sh -c 'echo $$ > {}; while :; do read up rest < /proc/uptime; echo $up >> {}; sleep 0.005; done' & wait",
        escaped.display(),
        times.display()
    );
    let mut command = dev.at('a');
    let other = command.args(["lock", "y", "-c", &script]).stderr(Stdio::piped()).spawn().unwrap();
    let escaped = pid_in(&escaped);
    for pid in [clocked.child.id(), other.id()] {
        signal(pid as i32, "STOP");
    }
    let (node, over) = stopped(&dev, 'a');
    until("nobody works on", || !lives(clocked.shell) && !lives(escaped));
    let last_escaped = last(&fs::read_to_string(times).unwrap());
    for pid in [clocked.child.id(), other.id()] {
        signal(pid as i32, "CONT");
    }
    let (said, last) = clocked.end();
    signal(node, "CONT");
    said.expect(76, &["lock on x lost: the node does not renew its lease"]);
    assert!(last < over && last_escaped < over, "{last:?}, {last_escaped:?} and over at {over:?}");
    Said::of(other.wait_with_output().unwrap()).expect(76, &["lock on y lost"]);
}

/// L6: the lock was granted while `oarlock lock` stood still, and its lease is over when it goes on: the command never starts.
#[test]
fn a_grant_that_is_over_when_it_is_read_starts_nothing() {
    let dev = Dev::start_with(&["-n", "1"]);
    let (before, started) = (asking(&dev, 'a', "x"), dev.dir.path().join("started"));
    let mut command = dev.at('a');
    command.args(["lock", "x", "-c", &format!("echo > '{}'", started.display())]).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    until("it waits", || dev.run('a', &["locks", "why", "x"]).out.contains("1 wait"));
    signal(child.id() as i32, "STOP");
    before.release().unwrap();
    until("it is granted", || {
        let rows = dev.run('a', &["locks", "ls"]).out;
        rows.lines().any(|row| row.starts_with("x ") && row.contains("EX"))
    });
    let (node, over) = stopped(&dev, 'a');
    while clock::now() < over {
        thread::sleep(Duration::from_millis(20));
    }
    signal(child.id() as i32, "CONT");
    let said = Said::of(child.wait_with_output().unwrap());
    signal(node, "CONT");
    said.expect(76, &["lock on x lost", "the command is not started"]);
    assert!(!started.exists(), "it was started under a lock that is gone");
}

/// L6: a node that goes on in time renews its lease, in the same epoch, and nobody was hurt.
#[test]
fn a_renewal_in_time_kills_nothing() {
    let dev = Dev::start();
    // A busy machine may be too late for it; then that was another test.
    for attempt in 0..10 {
        let (go, out) =
            (dev.dir.path().join(format!("go-{attempt}")), dev.dir.path().join(format!("pid-{attempt}")));
        let script = format!(
            "echo $$ > '{}'; until [ -e '{}' ]; do sleep 0.02; done; exit 5",
            out.display(),
            go.display()
        );
        let mut command = dev.at('a');
        command.args(["lock", "-w", "20s", "x", "-c", &script]).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        pid_in(&out);
        let guard = asking(&dev, 'a', "y");
        let (node, over) = stopped(&dev, 'a');
        let risk = guard.wait_lost(LONG).expect("it is at risk");
        assert_eq!(risk.kind(), Kind::AtRisk, "{risk}");
        assert!(guard.is_at_risk());
        while over.since(clock::now()) + Duration::from_millis(50) > LEASE_FROZEN {
            thread::sleep(Duration::from_millis(5));
        }
        signal(node, "CONT");
        let (late, began) = (over.since(clock::now()) < LEASE_ENDING, Instant::now());
        let renewed = || !guard.is_at_risk() && !guard.is_lost();
        while !renewed() && !guard.is_lost() && began.elapsed() < LONG {
            thread::sleep(Duration::from_millis(5));
        }
        if late || guard.is_lost() || child.try_wait().unwrap().is_some() {
            println!("attempt {attempt}: too late to renew it in time");
            let _ = child.kill();
            let _ = child.wait();
            until("the node serves again", || dev.run('a', &["ok"]).status == Some(0));
            continue;
        }
        guard.release().unwrap();
        // Longer than the old lease would have lasted.
        while over.since(clock::now()) > Duration::ZERO {
            thread::sleep(Duration::from_millis(20));
        }
        fs::write(&go, "").unwrap();
        let said = Said::of(child.wait_with_output().unwrap());
        if said.status == Some(76) {
            println!("attempt {attempt}: {}", said.err);
            until("the node serves again", || dev.run('a', &["ok"]).status == Some(0));
            continue;
        }
        said.expect(5, &["lock on x at risk", "lock on x is safe again"]);
        return;
    }
    panic!("never in time");
}

/// A lock of a program that asks its node for everything.
fn asking(dev: &Dev, node: char, name: &str) -> Guard {
    let client = Client::builder().shared_memory(false).connect(dev.socket(node)).unwrap();
    client.space("default").unwrap().lock(name).acquire().unwrap()
}

/// L1, L6: a program without a place in its node's memory hears that its lock is at risk, then that it is lost, and all calls
/// say so: with its node stopped, and before another node grants it.
#[test]
fn programs_that_ask_their_node_for_every_lock_know_in_time() {
    let dev = Dev::start();
    let guard = asking(&dev, 'a', "x");
    let converts = asking(&dev, 'a', "y");
    let looks = asking(&dev, 'a', "z");
    let elsewhere = asking(&dev, 'b', "w");
    let (node, over) = stopped(&dev, 'a');
    thread::scope(|scope| {
        let next = scope.spawn(|| {
            let next = asking(&dev, 'b', "x");
            let at = clock::now();
            next.release().unwrap();
            at
        });
        let converts = scope.spawn(|| converts.convert(Mode::PR).map_err(|e| (clock::now(), e.kind())));
        let looks = scope.spawn(|| {
            while !looks.is_lost() {
                thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(looks.lost_now().unwrap().kind(), Kind::Lost);
            assert_eq!(looks.release().unwrap_err().kind(), Kind::Lost);
            clock::now()
        });
        let risk = guard.wait_lost(LONG).expect("it is at risk");
        assert_eq!((risk.kind(), guard.is_lost()), (Kind::AtRisk, false), "{risk}");
        assert!(over.since(clock::now()) > Duration::ZERO, "said after the end");
        while guard.is_at_risk() {
            thread::sleep(Duration::from_millis(1));
        }
        let lost = guard.wait_lost(LONG).expect("it is lost");
        assert_eq!(lost.kind(), Kind::Lost, "{lost}");
        let known = clock::now();
        let (answered, kind) = converts.join().unwrap().expect_err("nobody answers");
        assert_eq!(kind, Kind::Lost);
        let (looked, next) = (looks.join().unwrap(), next.join().unwrap());
        println!(
            "over: known {:?}, answered {:?}, looked {:?}, granted elsewhere {:?}",
            known.since(over),
            answered.since(over),
            looked.since(over),
            next.since(over)
        );
        assert!(next >= over && known < next && answered < next && looked < next);
        assert_eq!(guard.release().unwrap_err().kind(), Kind::Lost);
    });
    assert!(!elsewhere.is_lost() && !elsewhere.is_at_risk(), "another node's lease is another's");
    signal(node, "CONT");
}

/// The same of the client with futures, in the node's table and in memory that is shared with it.
#[tokio::test]
async fn a_future_of_the_loss_resolves_when_it_is_at_risk_and_when_it_is_lost() {
    let dev = Dev::start_with(&["-n", "1"]);
    for shared in [false, true] {
        until("the node serves", || dev.run('a', &["ok"]).status == Some(0));
        let client = oarlock::Client::builder().shared_memory(shared).connect(dev.socket('a')).await.unwrap();
        let space = client.space("default").await.unwrap();
        space.lock("x").acquire().await.unwrap().release().await.unwrap();
        let guard = space.lock("x").acquire().await.unwrap();
        let (node, over) = stopped(&dev, 'a');
        let risk = guard.lost().await;
        assert_eq!(risk.kind(), Kind::AtRisk, "{risk}");
        assert!(over.since(clock::now()) > Duration::ZERO && guard.is_at_risk(), "said after the end");
        while over.since(clock::now()) > Duration::ZERO {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(guard.lost().await.kind(), Kind::Lost);
        assert_eq!(guard.release().await.unwrap_err().kind(), Kind::Lost);
        assert_eq!(space.lock("x").acquire().await.map(drop).unwrap_err().kind(), Kind::Lost);
        signal(node, "CONT");
    }
}

/// Runs a command, and what it starts, by a wall clock that is wrong by as much as the file says, whenever it looks.
fn by_wrong_clock(command: &mut Command, file: &Path) {
    let library = fs::read_dir("/usr/lib").unwrap().flatten();
    let library = library.map(|of| of.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    let library = library.expect("libfaketime is installed: apt-get install faketime");
    command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", file).env("FAKETIME_NO_CACHE", "1");
    // Only the wall clock can jump; the others run on, as they do on a machine.
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
}

/// L9: what the wall clock says decides nothing, neither for a node nor for its programs.
#[test]
fn a_wall_clock_that_jumps_ten_years_disturbs_nothing() {
    let mut solo = Solo::new("");
    let (clock, go, out) = (solo.path("clock"), solo.path("go"), solo.path("pid"));
    fs::write(&clock, "+0d\n").unwrap();
    let mut serve = oarlock();
    serve.args(["serve", "--config"]).arg(solo.config());
    by_wrong_clock(&mut serve, &clock);
    solo.start_as(serve);
    let script = format!(
        "echo $$ > '{}'; until [ -e '{}' ]; do sleep 0.05; done; exit 5",
        out.display(),
        go.display()
    );
    let mut command = solo.at();
    command.args(["lock", "x", "-c", &script]).stderr(Stdio::piped());
    by_wrong_clock(&mut command, &clock);
    let child = command.spawn().unwrap();
    pid_in(&out);
    for jump in ["+3652d\n", "-3652d\n", "+0d\n"] {
        fs::write(&clock, jump).unwrap();
        let mut date = Command::new("date");
        by_wrong_clock(date.arg("+%Y"), &clock);
        let year = String::from_utf8(date.output().unwrap().stdout).unwrap();
        let before = solo.log().len();
        signal(solo.pid(), "HUP");
        // Its own words bear the time that it sees.
        until("the node has heard of it", || solo.log()[before..].contains(&format!("{}-", year.trim())));
        // Longer than a lease, if any of it hung on this clock.
        let end = Instant::now() + Duration::from_secs(4);
        while Instant::now() < end {
            solo.run(&["lock", "-w", "10s", "y", "--", "true"]).expect(0, &[]);
            solo.run(&["ok"]).expect(0, &[]);
            thread::sleep(Duration::from_millis(100));
        }
    }
    fs::write(&go, "").unwrap();
    let said = Said::of(child.wait_with_output().unwrap()).expect(5, &[]);
    assert!(!said.err.contains("lost"), "{}", said.err);
    assert!(!solo.log().contains("this run has ended"), "{}", solo.log());
}
