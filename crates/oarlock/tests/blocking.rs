//! The blocking client against a daemon that the test plays itself.

mod support;

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use oarlock::blocking::{Client, LockRequest, Space};
use oarlock::{Code, Kind, Mode, Value};
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{OwnerId, SpaceId, TransactionId};
use oarlock_layout::message::session::{self, Failure, Reply, Request};
use rustix::event::{PollFd, PollFlags, poll};
use support::{Honest, Peer, Script};

/// Runs a program against a daemon, each in its thread.
fn play(daemon: impl FnOnce(Peer) + Send, program: impl FnOnce(Client)) {
    let script = Script::new();
    thread::scope(|scope| {
        let path = script.path();
        scope.spawn(move || daemon(script.welcome()));
        program(Client::connect(path).unwrap());
    });
}

fn default(client: &Client) -> Space {
    client.space("default").unwrap()
}

#[test]
fn a_lock_is_taken_converted_and_given_back() {
    play(
        |peer| {
            let request = peer.next_lock();
            assert_eq!((request.name.as_bytes(), request.mode, request.timeout_ms), (&b"x"[..], Mode::EX, 0));
            peer.grant(request.handle, Mode::EX);
            let convert = peer.next_convert();
            assert_eq!((convert.handle, convert.mode, convert.value), (request.handle, Mode::PR, None));
            assert_eq!(convert.flags, Flags::empty());
            peer.grant_with(convert.handle, Mode::PR, 5, None);
            peer.next_unlock(request.handle, None);
            let request = peer.next_lock();
            peer.fail(request.handle, Code::Busy);
            peer.next_is_end();
        },
        |client| {
            assert_eq!((client.node(), client.cluster()), ("node-a", "test"));
            let space = default(&client);
            let guard = space.lock("x").acquire().unwrap();
            assert_eq!((guard.mode(), guard.token().fence.serial()), (Mode::EX, 1));
            guard.convert(Mode::PR).unwrap();
            assert_eq!((guard.mode(), guard.token().fence.serial()), (Mode::PR, 5));
            assert_eq!(guard.fence(), guard.token().fence.number());
            assert_eq!((guard.id().session(), guard.value()), (client.session_id(), None));
            guard.release().unwrap();
            let error = space.lock("x").no_queue().acquire().map(drop).unwrap_err();
            assert_eq!(error.kind(), Kind::Busy);
            assert_eq!(error.what(), "EX was not granted on \"x\"");
        },
    );
}

#[test]
fn every_option_is_sent_as_asked() {
    type Make = fn(LockRequest) -> LockRequest;
    let cases: [(Make, Flags, u32); 16] = [
        (|r| r, Flags::empty(), 0),
        (|r| r.no_queue(), Flags::NOQUEUE, 0),
        (|r| r.no_queue_notify(), Flags::NOQUEUE.union(Flags::NOQUEUEBAST), 0),
        (|r| r.fresh(), Flags::FRESH, 0),
        (|r| r.value_block(), Flags::VALBLK, 0),
        (|r| r.mode(Mode::NL).expedite(), Flags::EXPEDITE, 0),
        (|r| r.no_order(), Flags::NOORDER, 0),
        (|r| r.head_queue(), Flags::HEADQUE, 0),
        (|r| r.alternate(Mode::PR), Flags::ALTPR, 0),
        (|r| r.alternate(Mode::CW), Flags::ALTCW, 0),
        (|r| r.no_notices(), Flags::NOBAST, 0),
        (|r| r.no_deadlock_victim(), Flags::NODLCKWT, 0),
        (|r| r.no_deadlock_blocker(), Flags::NODLCKBLK, 0),
        (|r| r.timeout(Duration::ZERO), Flags::NOQUEUE, 0),
        (|r| r.timeout(Duration::from_micros(1001)), Flags::empty(), 2),
        (|r| r.timeout(Duration::MAX), Flags::empty(), u32::MAX),
    ];
    play(
        |peer| {
            for (_, flags, timeout_ms) in &cases {
                let request = peer.next_lock();
                assert_eq!((request.flags, request.timeout_ms), (*flags, *timeout_ms));
                assert_eq!((request.owner, request.transaction), (OwnerId(3), TransactionId(4)));
                assert_eq!(request.name.as_bytes(), b"\x00\xff");
                peer.fail(request.handle, Code::TimedOut);
            }
            let request = peer.next_lock();
            assert_eq!(request.flags, Flags::NOQUEUE | Flags::LOCAL);
            peer.fail(request.handle, Code::NotOwned);
        },
        |client| {
            let space = default(&client);
            for (make, ..) in &cases {
                let request = make(space.lock(b"\x00\xff").owner(3).transaction(4));
                assert_eq!(request.acquire().map(drop).unwrap_err().kind(), Kind::TimedOut);
            }
            assert_eq!(space.lock("x").try_acquire().map(drop).unwrap_err().kind(), Kind::NotOwned);
        },
    );
}

#[test]
fn every_option_of_a_conversion_is_sent_as_asked() {
    type Make = fn(oarlock::blocking::Conversion<'_>) -> oarlock::blocking::Conversion<'_>;
    let cases: [(Make, Flags, u32); 9] = [
        (|c| c, Flags::empty(), 0),
        (|c| c.no_queue(), Flags::NOQUEUE, 0),
        (|c| c.no_queue_notify(), Flags::NOQUEUE.union(Flags::NOQUEUEBAST), 0),
        (|c| c.queue_convert(), Flags::QUECVT, 0),
        (|c| c.head_queue().fresh(), Flags::HEADQUE.union(Flags::FRESH), 0),
        (|c| c.alternate(Mode::PR), Flags::ALTPR, 0),
        (|c| c.no_notices(), Flags::NOBAST, 0),
        (|c| c.no_deadlock_victim(), Flags::NODLCKWT, 0),
        (|c| c.timeout(Duration::from_millis(7)), Flags::empty(), 7),
    ];
    play(
        |peer| {
            peer.next_lock_granted();
            for (_, flags, timeout_ms) in &cases {
                let convert = peer.next_convert();
                assert_eq!((convert.flags, convert.timeout_ms), (*flags, *timeout_ms));
                peer.fail(convert.handle, Code::Deadlock);
            }
        },
        |client| {
            let guard = default(&client).lock("x").mode(Mode::PR).acquire().unwrap();
            for (make, ..) in &cases {
                let error = make(guard.conversion(Mode::EX)).convert().unwrap_err();
                assert_eq!((error.kind(), guard.mode()), (Kind::Deadlock, Mode::PR));
            }
        },
    );
}

#[test]
fn what_makes_no_sense_is_refused_without_a_message() {
    play(
        |peer| {
            let handle = peer.next_lock_granted();
            peer.next_unlock(handle, None);
            let handle = peer.next_lock_granted();
            peer.next_unlock(handle, None);
            peer.next_is_end();
        },
        |client| {
            let space = default(&client);
            let kind = |request: LockRequest| {
                let error = request.acquire().map(drop).unwrap_err();
                (error.kind(), error.code())
            };
            assert_eq!(kind(space.lock("")), (Kind::Usage, Code::BadName));
            assert_eq!(kind(space.lock([b'x'; 256])), (Kind::Usage, Code::BadName));
            assert_eq!(kind(space.lock("x").alternate(Mode::EX)), (Kind::Usage, Code::BadFlags));
            assert_eq!(client.space("").err().unwrap().kind(), Kind::UnknownSpace);
            assert_eq!(client.space(&"x".repeat(65)).err().unwrap().kind(), Kind::UnknownSpace);
            let plain = space.lock("x").acquire().unwrap();
            assert_eq!(plain.set_value(b"v").unwrap_err().kind(), Kind::Usage, "no value_block()");
            plain.release().unwrap();
            let reader = space.lock("x").mode(Mode::PR).value_block().acquire().unwrap();
            assert_eq!(reader.set_value(b"v").unwrap_err().kind(), Kind::Usage, "PR does not write");
            assert_eq!(reader.invalidate_value().unwrap_err().kind(), Kind::Usage);
            reader.release().unwrap();
        },
    );
}

#[test]
fn a_value_block_is_read_with_the_grant_and_written_on_the_way_down() {
    let mut block = [0; 64];
    block[..3].copy_from_slice(b"new");
    let stored = Value { sequence: 4, valid: true, bytes: [9; 64] };
    play(
        |peer| {
            let request = peer.next_lock();
            peer.grant_with(request.handle, Mode::EX, 1, Some(stored));
            let convert = peer.next_convert();
            assert_eq!((convert.value, convert.flags), (Some(block), Flags::VALBLK));
            peer.grant(convert.handle, Mode::NL);
            let convert = peer.next_convert();
            assert_eq!((convert.value, convert.flags), (None, Flags::VALBLK), "upward reads");
            peer.grant_with(convert.handle, Mode::EX, 2, Some(Value { valid: false, ..stored }));
            let convert = peer.next_convert();
            assert_eq!(
                (convert.value, convert.flags),
                (None, Flags::empty()),
                "nothing set, nothing written"
            );
            peer.grant(convert.handle, Mode::PW);
            assert_eq!(
                peer.next(),
                Request::Unlock { handle: convert.handle, value: None, invalidate: true }
            );
            peer.say(Reply::Released { handle: convert.handle });
            let request = peer.next_lock();
            peer.grant_with(request.handle, Mode::PW, 3, Some(stored));
            peer.next_unlock(request.handle, Some(block));
        },
        |client| {
            let guard = default(&client).lock("x").value_block().acquire().unwrap();
            assert_eq!(guard.value(), Some(stored));
            assert_eq!(guard.set_value(&[0; 65]).unwrap_err().kind(), Kind::Usage);
            guard.set_value(b"new").unwrap();
            guard.convert(Mode::NL).unwrap();
            assert_eq!(guard.value(), Some(Value { sequence: 5, valid: true, bytes: block }));
            guard.convert(Mode::EX).unwrap();
            assert!(!guard.value().unwrap().valid);
            guard.convert(Mode::PW).unwrap();
            guard.invalidate_value().unwrap();
            guard.release().unwrap();
            let guard = default(&client).lock("x").mode(Mode::PW).value_block().acquire().unwrap();
            guard.set_value(b"new").unwrap();
            drop(guard);
        },
    );
}

/// The daemon never answers the unlock.
#[test]
fn dropping_a_guard_does_not_wait() {
    play(
        |peer| {
            let handle = peer.next_lock_granted();
            assert_eq!(peer.next(), Request::Unlock { handle, value: None, invalidate: false });
            peer.next_is_end();
        },
        |client| drop(default(&client).lock("x").acquire().unwrap()),
    );
}

#[test]
fn news_is_told_once_and_by_every_way_of_looking() {
    play(
        |peer| {
            let handle = peer.next_lock_granted();
            peer.say(Reply::Blocking { handle, wanted: Mode::PR });
            assert!(matches!(peer.next(), Request::Ask { .. }));
            peer.say(Reply::Answer { request: 0, more: false, bytes: b"{}".to_vec() });
            thread::sleep(Duration::from_millis(30));
            peer.say(Reply::Blocking { handle, wanted: Mode::EX });
            assert!(matches!(peer.next(), Request::Unlock { .. }));
        },
        |client| {
            let guard = default(&client).lock("x").acquire().unwrap();
            assert_eq!(client.ask("{}").unwrap(), "{}", "the notice stands before the answer");
            assert_eq!(guard.blocking_now(), Some(Mode::PR));
            assert_eq!(guard.blocking_now(), None);
            assert_eq!(guard.wait_blocking(Duration::from_secs(5)).unwrap(), Some(Mode::EX));
            let start = Instant::now();
            assert_eq!(guard.wait_blocking(Duration::from_millis(20)).unwrap(), None);
            assert!(start.elapsed() >= Duration::from_millis(20));
            assert!(guard.wait_lost(Duration::from_millis(5)).is_none() && !guard.is_lost());
        },
    );
}

/// Nobody waited while the notice came: looking takes it from the socket.
#[test]
fn looking_reads_the_socket() {
    play(
        |peer| {
            let handle = peer.next_lock_granted();
            peer.say(Reply::Blocking { handle, wanted: Mode::PR });
            assert!(matches!(peer.next(), Request::Unlock { .. }));
        },
        |client| {
            let guard = default(&client).lock("x").acquire().unwrap();
            let readable = PollFlags::IN;
            poll(&mut [PollFd::new(&client, readable)], None).unwrap();
            assert_eq!(guard.blocking_now(), Some(Mode::PR));
        },
    );
}

/// The first waiter reads the socket, for the second one too; when it has its own answer, the second takes
/// its place.
#[test]
fn waiters_read_for_each_other_and_take_turns() {
    for first_answered in [0, 1] {
        play(
            |peer| {
                let handles = [peer.next_lock().handle, peer.next_lock().handle];
                peer.hears_nothing(20);
                peer.grant(handles[first_answered], Mode::EX);
                thread::sleep(Duration::from_millis(20));
                peer.grant(handles[1 - first_answered], Mode::EX);
                assert!(matches!(peer.next(), Request::Unlock { .. }));
                assert!(matches!(peer.next(), Request::Unlock { .. }));
            },
            |client| {
                let space = default(&client);
                let guards = thread::scope(|scope| {
                    let first = scope.spawn(|| space.lock("a").acquire().unwrap());
                    thread::sleep(Duration::from_millis(5));
                    let second = scope.spawn(|| space.lock("b").acquire().unwrap());
                    (first.join().unwrap(), second.join().unwrap())
                });
                assert_ne!(guards.0.id(), guards.1.id());
            },
        );
    }
}

/// More unlocks than the socket holds, while the daemon does not read: the drops do not wait, and nothing is
/// lost or reordered.
#[test]
fn a_daemon_that_does_not_read_holds_up_nobody() {
    const LOCKS: u32 = 3000;
    let dropped = AtomicBool::new(false);
    play(
        |peer| {
            for _ in 0..LOCKS {
                peer.next_lock_granted();
            }
            while !dropped.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
            for handle in 1..=LOCKS {
                assert_eq!(peer.next(), Request::Unlock { handle, value: None, invalidate: false });
            }
            peer.next_is_end();
        },
        |client| {
            let space = default(&client);
            let guards: Vec<_> =
                (0..LOCKS).map(|_| space.lock("x").mode(Mode::NL).acquire().unwrap()).collect();
            let start = Instant::now();
            drop(guards);
            let took = start.elapsed();
            drop((client, space));
            dropped.store(true, Ordering::SeqCst);
            assert!(took < Duration::from_secs(1), "{took:?}");
        },
    );
}

/// The daemon begins to read while packets are still being queued: none may overtake another.
#[test]
fn packets_keep_their_order_while_the_daemon_catches_up() {
    const LOCKS: u32 = 3000;
    let half = AtomicBool::new(false);
    play(
        |peer| {
            for _ in 0..LOCKS {
                peer.next_lock_granted();
            }
            while !half.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
            for handle in 1..=LOCKS {
                assert_eq!(peer.next(), Request::Unlock { handle, value: None, invalidate: false });
            }
        },
        |client| {
            let space = default(&client);
            let guards: Vec<_> =
                (0..LOCKS).map(|_| space.lock("x").mode(Mode::NL).acquire().unwrap()).collect();
            for (i, guard) in guards.into_iter().enumerate() {
                drop(guard);
                half.store(i > 1500, Ordering::SeqCst);
                if i > 1500 {
                    thread::yield_now();
                }
            }
        },
    );
}

/// A socket that is closed with packets unread resets the other side, and the reset overtakes what was sent
/// before. A daemon that took that for the end would mark the value block as not to be believed.
#[test]
fn what_was_sent_last_arrives_although_a_notice_was_never_read() {
    let closed = AtomicBool::new(false);
    play(
        |peer| {
            let request = peer.next_lock();
            peer.grant_with(request.handle, Mode::EX, 1, Some(Value::NEVER));
            peer.say(Reply::Blocking { handle: request.handle, wanted: Mode::EX });
            while !closed.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
            let last = Request::Unlock { handle: request.handle, value: Some([1; 64]), invalidate: false };
            assert_eq!(peer.next(), last);
            peer.next_is_end();
        },
        |client| {
            let guard = default(&client).lock("x").value_block().acquire().unwrap();
            guard.set_value(&[1; 64]).unwrap();
            poll(&mut [PollFd::new(&client, PollFlags::IN)], None).unwrap();
            drop((guard, client));
            closed.store(true, Ordering::SeqCst);
        },
    );
}

#[test]
fn a_lockspace_is_asked_for_by_name_unless_it_is_the_default() {
    play(
        |peer| {
            assert_eq!(peer.next(), Request::Open { request: 0, space: "app".into() });
            peer.say(Reply::Opened { request: 0, space: SpaceId(4) });
            let request = peer.next_lock();
            assert_eq!(request.space, SpaceId(4));
            peer.fail(request.handle, Code::SpaceFull);
            assert_eq!(peer.next(), Request::Open { request: 1, space: "ap".into() });
            let why = Failure { code: Code::UnknownSpace, text: "did you mean \"app\"?".into() };
            peer.say(Reply::Denied { request: 1, why });
            assert_eq!(peer.next_lock().space, SpaceId(0));
        },
        |client| {
            let space = client.space("app").unwrap();
            assert_eq!(space.name(), "app");
            let error = space.lock("x").acquire().map(drop).unwrap_err();
            assert_eq!((error.kind(), error.what()), (Kind::Limit, "EX was not granted on \"x\" in \"app\""));
            let error = client.space("ap").err().unwrap();
            assert_eq!((error.kind(), error.why()), (Kind::UnknownSpace, "did you mean \"app\"?"));
            assert_eq!(default(&client).lock("x").acquire().map(drop).unwrap_err().kind(), Kind::NoDaemon);
        },
    );
}

#[test]
fn the_label_is_the_callers_or_the_programs_name() {
    let script = Script::new();
    for label in [Some("nightly backup"), None] {
        thread::scope(|scope| {
            scope.spawn(|| {
                let said = match script.accept().next() {
                    Request::Hello { label, version: session::VERSION } => label,
                    other => panic!("{other:?}"),
                };
                match label {
                    Some(label) => assert_eq!(said, label),
                    None => assert!(said.starts_with("blocking-"), "{said}"),
                }
            });
            let builder = Client::builder();
            let builder = if let Some(label) = label { builder.label(label) } else { builder };
            assert_eq!(builder.connect(script.path()).err().unwrap().kind(), Kind::NoDaemon);
        });
    }
}

/// M12: a program that is started by one with a session has no part in it.
#[test]
fn the_socket_does_not_survive_exec() {
    let daemon = Honest::new();
    let client = Client::connect(daemon.path()).unwrap();
    let ours = std::fs::read_link(format!("/proc/self/fd/{}", client.as_fd().as_raw_fd())).unwrap();
    let theirs = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
    let theirs = String::from_utf8(theirs.stdout).unwrap();
    assert!(theirs.contains("pipe:["), "the list has the child's descriptors: {theirs}");
    assert!(!theirs.contains(ours.to_str().unwrap()), "{theirs}");
}

#[test]
#[ignore = "not a test but a program: the next test starts it"]
fn program_that_connects_by_default() {
    let said = match Client::connect_default() {
        Ok(client) => client.node().to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    };
    println!("connected to <{said}>");
}

/// By the variable; by the file of a running development cluster; or not at all.
#[test]
fn the_daemon_is_found_where_it_says() {
    let daemon = Honest::new();
    let dir = tempfile::tempdir().unwrap();
    let run = |socket: Option<&Path>| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["program_that_connects_by_default", "--exact", "--ignored", "--nocapture"]);
        command.env_remove(oarlock::SOCKET_VARIABLE).env("XDG_RUNTIME_DIR", dir.path());
        command.envs(socket.map(|socket| (oarlock::SOCKET_VARIABLE, socket)));
        let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let from = said.find('<').unwrap_or_else(|| panic!("{said}"));
        said[from + 1..said.find('>').unwrap()].to_owned()
    };
    assert_eq!(run(Some(&daemon.path())), "honest");
    assert_eq!(run(Some(&dir.path().join("nothing"))), "NoDaemon");
    if Path::new(oarlock::SYSTEM_SOCKET).exists() {
        // This machine has a daemon, and it comes before any development cluster.
        return;
    }
    assert_eq!(run(None), "NoDaemon");
    let text = format!(
        r#"{{"v": 1, "pid": {}, "sockets": {{"node-a": "{}"}}}}"#,
        std::process::id(),
        daemon.path().display()
    );
    std::fs::create_dir(dir.path().join("oarlock")).unwrap();
    std::fs::write(dir.path().join("oarlock/dev.json"), text).unwrap();
    assert_eq!(run(None), "honest");
    assert_eq!(run(Some(&dir.path().join("nothing"))), "NoDaemon", "the variable alone decides");
}
