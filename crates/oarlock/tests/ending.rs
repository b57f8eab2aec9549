//! How sessions do not begin and how they end: absent daemons, other versions, bad bytes, sudden silence.
//! Nothing hangs, nothing panics, and the error says whose fault it was.

mod support;

use std::os::unix::net::{UnixDatagram, UnixListener};
use std::thread;
use std::time::{Duration, Instant};

use oarlock::blocking::Client;
use oarlock::{Code, Error, Kind, Mode};
use oarlock_layout::codec::Wire;
use oarlock_layout::id::{Epoch, SessionId, SpaceId};
use oarlock_layout::limit::SESSION_PACKET_BYTES_MAX;
use oarlock_layout::message::session::{Failure, Reply, VERSION};
use support::{Honest, Peer, Script};

fn refusal(client: Result<Client, Error>) -> (Kind, Code) {
    let error = client.err().expect("no session");
    assert!(!error.what().is_empty() && !error.why().is_empty(), "{error}");
    (error.kind(), error.code())
}

#[test]
fn where_no_daemon_listens_the_error_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let connect = |name: &str| refusal(Client::connect(dir.path().join(name)));
    assert_eq!(connect("nothing"), (Kind::NoDaemon, Code::NoDaemon));
    std::fs::write(dir.path().join("file"), "").unwrap();
    assert_eq!(connect("file"), (Kind::NoDaemon, Code::NoDaemon));
    drop(UnixDatagram::bind(dir.path().join("stale")).unwrap());
    assert_eq!(connect("stale"), (Kind::NoDaemon, Code::NoDaemon));
    let _stream = UnixListener::bind(dir.path().join("stream")).unwrap();
    assert_eq!(connect("stream"), (Kind::NoDaemon, Code::NoDaemon));
    assert_eq!(connect(&"x".repeat(120)), (Kind::Usage, Code::SocketPathTooLong));
    assert_eq!(refusal(Client::connect("nul\0inside")).0, Kind::Usage);
}

/// Each greeting, and what the program makes of it.
#[test]
fn a_strange_greeting_is_named() {
    let welcome = |version| Reply::Welcome {
        version,
        session: SessionId(1),
        node: "a".into(),
        cluster: "c".into(),
        epoch: Epoch(1),
        now: oarlock_layout::time::Instant(0),
    };
    let refused = |version, code| Reply::Refused { version, why: Failure { code, text: "so".into() } };
    let cases = [
        (welcome(VERSION + 1).to_bytes(), Kind::Version),
        (refused(VERSION - 1, Code::SessionVersion).to_bytes(), Kind::Version),
        (refused(VERSION, Code::TooManySessions).to_bytes(), Kind::Limit),
        (vec![2, 7, 0], Kind::Version),
        (b"HTTP/1.1 400 Bad Request".to_vec(), Kind::Malformed),
        (vec![0; SESSION_PACKET_BYTES_MAX + 1], Kind::Malformed),
        (Reply::Released { handle: 1 }.to_bytes(), Kind::Malformed),
    ];
    let script = Script::new();
    for (greeting, kind) in cases {
        thread::scope(|scope| {
            scope.spawn(|| {
                let peer = script.accept();
                peer.next();
                peer.say_bytes(&greeting);
            });
            let found = refusal(Client::connect(script.path())).0;
            assert_eq!(found, kind, "{:?}", &greeting[..greeting.len().min(30)]);
        });
    }
}

/// A daemon that was stopped: the kernel still takes up connections for it.
#[test]
fn a_silent_daemon_counts_as_absent_after_a_while() {
    let script = Script::new();
    let start = Instant::now();
    assert_eq!(refusal(Client::connect(script.path())).0, Kind::NoDaemon);
    assert!(start.elapsed() >= Duration::from_secs(4));
}

/// A program with a held lock, one waiting request and one waiting thread; then the daemon does something.
fn interrupt(act: impl FnOnce(&Peer) + Send) -> (Kind, Kind, Kind) {
    let script = Script::new();
    let (hung_up, wait) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        let path = script.path();
        scope.spawn(move || {
            let peer = script.welcome();
            peer.next_lock_granted();
            peer.next_lock();
            peer.next_lock();
            act(&peer);
            peer.next_is_end();
            hung_up.send(()).unwrap();
        });
        let client = Client::connect(path).unwrap();
        let space = client.space("default").unwrap();
        let guard = space.lock("held").acquire().unwrap();
        let kinds = thread::scope(|scope| {
            let wait = |name: &'static str| {
                let space = &space;
                scope.spawn(move || space.lock(name).acquire().map(drop).unwrap_err().kind())
            };
            let (a, b) = (wait("a"), wait("b"));
            (a.join().unwrap(), b.join().unwrap())
        });
        assert!(guard.is_lost());
        assert_eq!(guard.convert(Mode::NL).unwrap_err().kind(), Kind::Lost);
        assert_eq!(guard.wait_blocking(Duration::from_secs(60)).unwrap_err().kind(), Kind::Lost);
        let lost = guard.wait_lost(Duration::from_secs(60)).unwrap();
        // Whatever was heard of the loss, somebody may be at work under the guard. A daemon that hung up hears nothing.
        if kinds.0 != Kind::NoDaemon {
            wait.recv_timeout(Duration::from_millis(50)).expect_err("it hangs up although it has a guard");
        }
        assert_eq!(guard.release().unwrap_err().kind(), Kind::Lost);
        wait.recv_timeout(Duration::from_secs(10)).expect("the program hangs up although it has handles");
        (kinds.0, kinds.1, lost.kind())
    })
}

#[test]
fn when_the_daemon_goes_nobody_waits_for_ever() {
    let code = |code| {
        move |peer: &Peer| {
            peer.say(Reply::Lost { why: Failure { code, text: "so".into() } });
        }
    };
    assert_eq!(interrupt(code(Code::NotServing)), (Kind::NotServing, Kind::NotServing, Kind::Lost));
    assert_eq!(interrupt(code(Code::Lost)), (Kind::Lost, Kind::Lost, Kind::Lost));
    let hang_up = |peer: &Peer| rustix::net::shutdown(&peer.fd, rustix::net::Shutdown::Both).unwrap();
    assert_eq!(interrupt(hang_up), (Kind::NoDaemon, Kind::NoDaemon, Kind::Lost));
}

/// A daemon that goes with packets unread resets the socket; its last word stands behind that.
#[test]
fn the_reason_is_heard_even_if_the_socket_was_reset() {
    let script = Script::new();
    let (unlocked, go) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        let path = script.path();
        let daemon = scope.spawn(move || {
            let peer = script.welcome();
            peer.next_lock_granted();
            peer.next_lock_granted();
            go.recv().unwrap();
            // The unlock is there, and stays unread.
            peer.say(Reply::Lost { why: Failure { code: Code::Refused, text: "the last word".into() } });
        });
        let client = Client::connect(path).unwrap();
        let space = client.space("default").unwrap();
        let guard = space.lock("x").acquire().unwrap();
        drop(space.lock("y").acquire().unwrap());
        unlocked.send(()).unwrap();
        daemon.join().unwrap();
        assert_eq!(guard.lost_now().unwrap().why(), "the last word");
    });
}

#[test]
fn what_no_honest_daemon_sends_ends_the_session() {
    let refused = Reply::Refused { version: 1, why: Failure { code: Code::Failed, text: String::new() } };
    let granted = |handle| {
        Reply::Granted(oarlock_layout::message::session::Granted {
            handle,
            mode: Mode::EX,
            token: oarlock::Token::default(),
            value: None,
            alternate: false,
        })
    };
    let cases = [
        refused.to_bytes(),
        granted(1).to_bytes(),
        granted(0).to_bytes(),
        granted(77).to_bytes(),
        Reply::Released { handle: 1 }.to_bytes(),
        Reply::Opened { request: 9, space: SpaceId(0) }.to_bytes(),
        Reply::Answer { request: 9, more: true, bytes: vec![] }.to_bytes(),
        vec![0],
        vec![255; 100],
        granted(2).to_bytes()[..7].to_vec(),
        vec![4; SESSION_PACKET_BYTES_MAX + 1],
    ];
    for bytes in cases {
        let shown = bytes[..bytes.len().min(20)].to_vec();
        let found = interrupt(move |peer| peer.say_bytes(&bytes));
        assert_eq!(found, (Kind::Malformed, Kind::Malformed, Kind::Lost), "{shown:?}");
    }
}

/// Honest packets with bytes changed, cut and added, from a small generator: whatever they say, the program
/// gets an error or an answer, and then the end.
#[test]
fn arbitrary_bytes_neither_hang_nor_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..150 {
        let packets: Vec<Vec<u8>> = (0..20)
            .map(|_| {
                let handle = (random() % 4) as u32;
                let failure = Failure { code: Code::Busy, text: "x".into() };
                let mut bytes = match random() % 5 {
                    0 => Reply::Blocking { handle, wanted: Mode::EX }.to_bytes(),
                    1 => Reply::Failed { handle, why: failure }.to_bytes(),
                    2 => Reply::Released { handle }.to_bytes(),
                    3 => Reply::Answer { request: handle, more: true, bytes: vec![1] }.to_bytes(),
                    _ => (0..random() % 40).map(|_| random() as u8).collect(),
                };
                if random() % 2 == 0 && !bytes.is_empty() {
                    let at = random() as usize % bytes.len();
                    bytes[at] = random() as u8;
                }
                bytes
            })
            .filter(|bytes| !bytes.is_empty())
            .collect();
        let script = Script::new();
        thread::scope(|scope| {
            let path = script.path();
            scope.spawn(move || {
                let peer = script.welcome();
                peer.next_lock_granted();
                peer.next_lock();
                packets.iter().for_each(|packet| peer.say_bytes(packet));
            });
            let client = Client::connect(path).unwrap();
            let space = client.space("default").unwrap();
            let held = space.lock("a").acquire().unwrap();
            assert!(space.lock("b").acquire().map(drop).is_err());
            assert!(held.wait_lost(Duration::from_secs(10)).is_some());
        });
    }
}

/// L5: a session hangs up when the last guard of it has gone, in whatever way, and not before: others get its locks then.
#[test]
fn a_session_that_is_over_hangs_up_with_its_last_guard() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let script = Script::new();
        let (hung_up, heard) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            let path = script.path();
            scope.spawn(move || {
                let peer = script.welcome();
                for _ in 0..3 {
                    peer.next_lock_granted();
                }
                peer.next_lock();
                peer.say(Reply::Lost { why: Failure { code: Code::Lost, text: "so".into() } });
                peer.next_is_end();
                hung_up.send(()).unwrap();
            });
            let client = Client::connect(path).unwrap();
            let space = client.space("default").unwrap();
            let handle = space.handle("a handle's");
            let (a, b) = (space.lock("a").acquire().unwrap(), space.lock("b").acquire().unwrap());
            let c = handle.acquire().unwrap();
            assert!(space.lock("waits").acquire().is_err());
            let mut drops: [Option<Box<dyn FnOnce() + '_>>; 3] = [
                Some(Box::new(move || drop(a))),
                Some(Box::new(move || drop(b.release().unwrap_err()))),
                Some(Box::new(move || drop(c))),
            ];
            for number in order {
                heard.recv_timeout(Duration::from_millis(20)).expect_err("there is a guard");
                drops[number].take().unwrap()();
            }
            heard.recv_timeout(Duration::from_secs(10)).expect("no guard is left");
        });
    }
}

/// A session that hangs up takes its locks along, and nobody else's.
#[test]
fn locks_of_a_program_that_goes_are_free_for_others() {
    let daemon = Honest::new();
    let (one, two) = (Client::connect(daemon.path()).unwrap(), Client::connect(daemon.path()).unwrap());
    let space = |client: &Client| client.space("default").unwrap();
    let guard = space(&one).lock("x").acquire().unwrap();
    let waiting = thread::scope(|scope| {
        let waiting = scope.spawn(|| space(&two).lock("x").acquire());
        daemon.until_locks(2);
        drop(one);
        std::mem::drop(guard);
        waiting.join().unwrap()
    });
    assert!(!waiting.unwrap().is_lost());
}
