//! The async client: cancel-safety, notices and ends, against a daemon that the test plays itself. No runtime
//! but where a test is about one.

mod support;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use oarlock::{Client, Code, Guard, Kind, LockRequest, Mode, Space};
use oarlock_layout::flags::Flags;
use oarlock_layout::id::SpaceId;
use oarlock_layout::message::session::{Failure, Reply, Request};
use support::{Honest, Peer, Script, Woken, block_on, poll_once};

/// Runs a program against a daemon, each in its thread.
fn play<F: Future<Output = ()>>(daemon: impl FnOnce(Peer) + Send, program: impl FnOnce(Client) -> F) {
    let script = Script::new();
    thread::scope(|scope| {
        let path = script.path();
        scope.spawn(move || daemon(script.welcome()));
        block_on(async { program(Client::connect(path).await.unwrap()).await });
    });
}

async fn lock(client: &Client, name: &str) -> LockRequest {
    client.space("default").await.unwrap().lock(name)
}

/// Lets the session's thread take up everything sent so far: a question is answered after it.
async fn settle(client: &Client) {
    client.ask("{}").await.unwrap();
}

fn answer_question(peer: &Peer) {
    match peer.next() {
        Request::Ask { request, .. } => peer.say(Reply::Answer { request, more: false, bytes: vec![] }),
        other => panic!("a question was expected, not {other:?}"),
    }
}

fn unlock(handle: u32) -> Request {
    Request::Unlock { handle, value: None, invalidate: false }
}

#[test]
fn a_lock_is_taken_converted_and_given_back() {
    play(
        |peer| {
            assert_eq!(peer.next(), Request::Open { request: 0, space: "app".into() });
            peer.say(Reply::Opened { request: 0, space: SpaceId(4) });
            let request = peer.next_lock();
            assert_eq!((request.space, request.mode, request.timeout_ms), (SpaceId(4), Mode::EX, 2000));
            peer.grant(request.handle, Mode::EX);
            let convert = peer.next_convert();
            peer.grant(convert.handle, convert.mode);
            peer.next_unlock(request.handle, None);
            peer.next_is_end();
        },
        |client| async move {
            assert_eq!((client.node(), client.cluster(), client.epoch().0), ("node-a", "test", 1));
            let space = client.space("app").await.unwrap();
            let guard = space.lock("x").timeout(Duration::from_secs(2)).acquire().await.unwrap();
            guard.convert(Mode::CR).await.unwrap();
            assert_eq!(guard.mode(), Mode::CR);
            guard.release().await.unwrap();
        },
    );
}

#[test]
fn a_future_that_is_never_polled_sends_nothing() {
    play(
        |peer| peer.next_is_end(),
        |client| async move {
            drop(lock(&client, "x").await.acquire());
        },
    );
}

#[test]
fn a_dropped_request_is_withdrawn() {
    play(
        |peer| {
            let request = peer.next_lock();
            assert_eq!(peer.next(), Request::Cancel { handle: request.handle });
            peer.fail(request.handle, Code::Cancelled);
            let again = peer.next_lock();
            peer.grant(again.handle, Mode::EX);
            assert_eq!(peer.next(), unlock(again.handle));
        },
        |client| async move {
            let woken = Arc::new(Woken::default());
            {
                let mut acquire = pin!(lock(&client, "x").await.acquire());
                assert!(poll_once(acquire.as_mut(), &woken).is_pending());
            }
            let _guard = lock(&client, "x").await.acquire().await.unwrap();
            assert_eq!(woken.count(), 0, "whoever left is not woken");
        },
    );
}

/// R9: the grant was quicker than the cancel; nobody wants it any more.
#[test]
fn a_grant_that_crosses_the_cancel_is_given_back() {
    play(
        |peer| {
            let request = peer.next_lock();
            assert_eq!(peer.next(), Request::Cancel { handle: request.handle });
            let Request::Ask { request: question, .. } = peer.next() else { panic!("no question") };
            peer.grant(request.handle, Mode::EX);
            peer.next_unlock(request.handle, None);
            peer.say(Reply::Answer { request: question, more: false, bytes: vec![] });
            peer.next_is_end();
        },
        |client| async move {
            {
                let mut acquire = pin!(lock(&client, "x").await.acquire());
                assert!(poll_once(acquire.as_mut(), &Arc::default()).is_pending());
            }
            // The session stays open until the daemon has seen the unlock.
            settle(&client).await;
        },
    );
}

/// The grant is there, the future was woken and dropped before it was polled again.
#[test]
fn a_grant_that_nobody_collects_is_given_back() {
    play(
        |peer| {
            let handle = peer.next_lock().handle;
            // Late enough for the future to be polled once before.
            peer.hears_nothing(20);
            peer.grant(handle, Mode::EX);
            assert_eq!(peer.next(), unlock(handle));
        },
        |client| async move {
            let woken = Arc::new(Woken::default());
            let mut acquire = Box::pin(lock(&client, "x").await.acquire());
            assert!(poll_once(acquire.as_mut(), &woken).is_pending());
            while woken.count() == 0 {
                thread::sleep(Duration::from_millis(1));
            }
            drop(acquire);
        },
    );
}

#[test]
fn a_dropped_conversion_is_withdrawn_and_the_next_waits_for_that() {
    for granted in [false, true] {
        play(
            |peer| {
                let handle = peer.next_lock_granted();
                assert_eq!(peer.next_convert().mode, Mode::EX);
                assert_eq!(peer.next(), Request::Cancel { handle });
                peer.hears_nothing(20);
                if granted {
                    peer.grant(handle, Mode::EX);
                } else {
                    peer.fail(handle, Code::Cancelled);
                }
                let convert = peer.next_convert();
                assert_eq!(convert.mode, Mode::NL);
                peer.grant(handle, Mode::NL);
                peer.next_unlock(handle, None);
            },
            |client| async move {
                let guard = lock(&client, "x").await.mode(Mode::PR).acquire().await.unwrap();
                {
                    let mut convert = pin!(guard.convert(Mode::EX));
                    assert!(poll_once(convert.as_mut(), &Arc::default()).is_pending());
                    assert_eq!(guard.convert(Mode::CR).await.unwrap_err().kind(), Kind::InFlight);
                }
                guard.convert(Mode::NL).await.unwrap();
                guard.release().await.unwrap();
            },
        );
    }
}

/// Who gave a conversion up and must know what came of it can wait for that.
#[test]
fn a_dropped_conversion_settles_with_the_mode_that_it_came_to() {
    for (granted, mode) in [(false, Mode::PR), (true, Mode::EX)] {
        play(
            |peer| {
                let handle = peer.next_lock().handle;
                peer.grant(handle, Mode::PR);
                peer.next_convert();
                assert_eq!(peer.next(), Request::Cancel { handle });
                peer.hears_nothing(20);
                if granted {
                    peer.grant(handle, Mode::EX)
                } else {
                    peer.fail(handle, Code::Cancelled)
                }
                peer.next_unlock(handle, None);
            },
            |client| async move {
                let guard = lock(&client, "x").await.mode(Mode::PR).acquire().await.unwrap();
                guard.settled().await;
                assert!(poll_once(pin!(guard.convert(Mode::EX)).as_mut(), &Arc::default()).is_pending());
                guard.settled().await;
                assert_eq!(guard.mode(), mode);
                guard.release().await.unwrap();
            },
        );
    }
}

/// A try as a future asks for the same as a try that waits.
#[test]
fn a_local_request_is_a_try_without_waiting_for_it() {
    play(
        |peer| {
            let request = peer.next_lock();
            assert_eq!(request.flags, Flags::NOQUEUE | Flags::LOCAL);
            peer.fail(request.handle, Code::NotOwned);
        },
        |client| async move {
            let error = lock(&client, "x").await.local().acquire().await.map(drop).unwrap_err();
            assert_eq!(error.kind(), Kind::NotOwned);
        },
    );
}

#[test]
fn a_release_after_a_dropped_conversion_waits_for_its_answer() {
    play(
        |peer| {
            let handle = peer.next_lock_granted();
            peer.next_convert();
            assert_eq!(peer.next(), Request::Cancel { handle });
            peer.hears_nothing(20);
            peer.grant(handle, Mode::EX);
            peer.next_unlock(handle, None);
        },
        |client| async move {
            let guard = lock(&client, "x").await.mode(Mode::PR).acquire().await.unwrap();
            assert!(poll_once(pin!(guard.convert(Mode::EX)).as_mut(), &Arc::default()).is_pending());
            guard.release().await.unwrap();
        },
    );
}

#[test]
fn a_dropped_release_still_releases() {
    play(
        |peer| {
            let first = peer.next_lock_granted();
            assert_eq!(peer.next(), unlock(first));
            // Answered only now, so that the future was surely pending when it was dropped.
            let second = peer.next_lock_granted();
            assert_ne!(first, second);
            peer.say(Reply::Released { handle: first });
            assert_eq!(peer.next(), unlock(second));
        },
        |client| async move {
            let guard = lock(&client, "x").await.acquire().await.unwrap();
            assert!(poll_once(pin!(guard.release()).as_mut(), &Arc::default()).is_pending());
            let guard = lock(&client, "x").await.acquire().await.unwrap();
            drop(guard.release());
        },
    );
}

/// Scenario 62, seen from outside: the notice about the new mode is there, but its grant was not seen yet.
#[test]
fn a_notice_never_precedes_the_grant_it_is_about() {
    play(
        |peer| {
            let handle = peer.next_lock_granted();
            peer.next_convert();
            let Request::Ask { request, .. } = peer.next() else { panic!("no question") };
            peer.grant(handle, Mode::PR);
            peer.say(Reply::Blocking { handle, wanted: Mode::EX });
            peer.say(Reply::Answer { request, more: false, bytes: vec![] });
            assert_eq!(peer.next(), unlock(handle));
        },
        |client| async move {
            let guard = lock(&client, "x").await.mode(Mode::NL).acquire().await.unwrap();
            let mut convert = pin!(guard.convert(Mode::PR));
            let mut blocking = pin!(guard.blocking());
            let woken = Arc::new(Woken::default());
            assert!(poll_once(convert.as_mut(), &woken).is_pending());
            assert!(poll_once(blocking.as_mut(), &woken).is_pending());
            settle(&client).await;
            assert!(poll_once(blocking.as_mut(), &woken).is_pending(), "before its grant");
            let before = woken.count();
            assert!(poll_once(convert.as_mut(), &woken).is_ready());
            assert!(woken.count() > before, "the notice's waiter is woken when the grant is delivered");
            assert!(matches!(poll_once(blocking.as_mut(), &woken), Poll::Ready(Ok(Mode::EX))));
        },
    );
}

/// Scenarios 57, 58 and 60 through the front door.
#[test]
fn notices_come_once_each_and_not_after_giving_way() {
    play(
        |peer| {
            let handle = peer.next_lock_granted();
            peer.say(Reply::Blocking { handle, wanted: Mode::PW });
            answer_question(&peer);
            peer.say(Reply::Blocking { handle, wanted: Mode::EX });
            answer_question(&peer);
            peer.say(Reply::Blocking { handle, wanted: Mode::PW });
            peer.next_convert();
            peer.grant(handle, Mode::CR);
            answer_question(&peer);
            assert_eq!(peer.next(), unlock(handle));
        },
        |client| async move {
            let guard = lock(&client, "x").await.mode(Mode::PR).acquire().await.unwrap();
            assert_eq!(guard.blocking().await.unwrap(), Mode::PW);
            settle(&client).await;
            assert_eq!(guard.blocking().await.unwrap(), Mode::EX);
            settle(&client).await;
            guard.convert(Mode::CR).await.unwrap();
            settle(&client).await;
            assert!(poll_once(pin!(guard.blocking()).as_mut(), &Arc::default()).is_pending());
            assert_eq!(guard.blocking_now(), None);
        },
    );
}

#[test]
fn when_the_daemon_says_lost_everything_pending_ends() {
    play(
        |peer| {
            peer.next_lock_granted();
            peer.next_convert();
            peer.next_lock();
            assert!(matches!(peer.next(), Request::Open { .. }));
            // Late enough for all of them to be polled once before.
            peer.hears_nothing(30);
            let why = Failure { code: Code::Refused, text: "this incarnation ended".into() };
            peer.say(Reply::Lost { why });
            peer.next_is_end();
        },
        |client| async move {
            let guard = lock(&client, "x").await.mode(Mode::PR).acquire().await.unwrap();
            let other = lock(&client, "y").await;
            let mut convert = Box::pin(guard.convert(Mode::EX));
            let mut acquire = pin!(other.clone().acquire());
            let mut space = pin!(client.space("app"));
            let woken = Arc::new(Woken::default());
            assert!(poll_once(convert.as_mut(), &woken).is_pending());
            assert!(poll_once(acquire.as_mut(), &woken).is_pending());
            assert!(poll_once(space.as_mut(), &woken).is_pending());
            assert!(!guard.is_lost());
            let error = guard.lost().await;
            assert_eq!((error.kind(), error.why()), (Kind::Lost, "this incarnation ended"));
            assert!(guard.is_lost());
            assert_eq!(convert.await.unwrap_err().kind(), Kind::Lost);
            assert_eq!(acquire.await.map(drop).unwrap_err().kind(), Kind::NotServing);
            assert_eq!(space.await.err().unwrap().kind(), Kind::NotServing);
            assert_eq!(guard.blocking().await.unwrap_err().kind(), Kind::Lost);
            assert_eq!(guard.convert(Mode::NL).await.unwrap_err().kind(), Kind::Lost);
            assert_eq!(other.clone().try_acquire().map(drop).unwrap_err().kind(), Kind::NotServing);
            assert_eq!(other.acquire().await.map(drop).unwrap_err().kind(), Kind::NotServing);
            assert_eq!(guard.release().await.unwrap_err().kind(), Kind::Lost);
        },
    );
}

#[test]
fn when_the_daemon_dies_everything_pending_ends() {
    play(
        |peer| {
            peer.next_lock_granted();
            peer.next_lock();
            // Dropping the peer hangs up.
        },
        |client| async move {
            let guard = lock(&client, "x").await.acquire().await.unwrap();
            let pending = lock(&client, "y").await.acquire().await;
            assert_eq!(pending.map(drop).unwrap_err().kind(), Kind::NoDaemon);
            assert_eq!(guard.lost().await.kind(), Kind::Lost);
            assert_eq!(guard.release().await.unwrap_err().kind(), Kind::Lost);
        },
    );
}

/// Scenario 64: whoever is woken may call back into the library, there and then.
#[test]
fn a_waker_may_use_the_library() {
    struct Nosy(Arc<Guard>, Woken);

    impl Wake for Nosy {
        fn wake(self: Arc<Self>) {
            assert_eq!(self.0.mode(), Mode::PR);
            assert_eq!(self.0.blocking_now(), Some(Mode::EX));
            self.1.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    play(
        |peer| {
            let handle = peer.next_lock_granted();
            match peer.next() {
                Request::Ask { request, .. } => {
                    peer.say(Reply::Blocking { handle, wanted: Mode::EX });
                    peer.say(Reply::Answer { request, more: false, bytes: vec![] });
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(peer.next(), unlock(handle));
        },
        |client| async move {
            let guard = Arc::new(lock(&client, "x").await.mode(Mode::PR).acquire().await.unwrap());
            let nosy = Arc::new(Nosy(Arc::clone(&guard), Woken::default()));
            let waker = Waker::from(Arc::clone(&nosy));
            let mut lost = pin!(guard.lost());
            assert!(lost.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            settle(&client).await;
            assert_eq!(nosy.1.count(), 1);
        },
    );
}

#[test]
fn the_session_ends_with_its_last_handle() {
    let daemon = Honest::new();
    block_on(async {
        let client = Client::connect(daemon.path()).await.unwrap();
        let space = client.space("default").await.unwrap();
        let guard = space.lock("x").acquire().await.unwrap();
        let twin = client.clone();
        drop((client, space, twin));
        assert_eq!(daemon.sessions(), 1, "a guard is a handle");
        guard.convert(Mode::PR).await.unwrap();
    });
    let start = std::time::Instant::now();
    while daemon.sessions() > 0 {
        assert!(start.elapsed() < Duration::from_secs(5));
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn connecting_can_be_given_up() {
    let script = Script::new();
    thread::scope(|scope| {
        let (gone, wait) = std::sync::mpsc::channel();
        let script = &script;
        scope.spawn(move || {
            let peer = script.accept();
            peer.next();
            wait.recv().unwrap();
            peer.say(Reply::Welcome {
                version: 1,
                session: oarlock::SessionId(1),
                node: "a".into(),
                cluster: "c".into(),
                epoch: oarlock::Epoch(1),
                now: oarlock_layout::time::Instant(0),
            });
            peer.next_is_end();
        });
        {
            let mut connect = pin!(Client::connect(script.path()));
            assert!(poll_once(connect.as_mut(), &Arc::default()).is_pending());
        }
        gone.send(()).unwrap();
    });
}

/// A3: available is what this node owns and nobody holds; the other two answers are told apart.
#[test]
fn a_try_answers_ok_busy_and_not_owned() {
    let daemon = Honest::new();
    block_on(async {
        let space = Client::connect(daemon.path()).await.unwrap().space("default").await.unwrap();
        let guard = space.lock("x").mode(Mode::PR).try_acquire().unwrap();
        let second = space.lock("x").mode(Mode::PR).try_acquire().unwrap();
        let kind = |request: LockRequest| request.try_acquire().map(drop).unwrap_err().kind();
        assert_eq!(kind(space.lock("x")), Kind::Busy);
        assert_eq!(kind(space.lock("foreign")), Kind::NotOwned);
        assert_eq!(space.lock("foreign").no_queue().acquire().await.unwrap().mode(), Mode::EX);
        drop((guard, second));
        space.lock("x").try_acquire().unwrap().release().await.unwrap();
    });
}

async fn exercise(space: Space) {
    let counts: Vec<_> = (0..20u8)
        .map(|task| {
            let space = space.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    let guard = space.lock([task % 3]).value_block().acquire().await.unwrap();
                    let bytes = guard.value().unwrap().bytes;
                    let count = u32::from_le_bytes(bytes[..4].try_into().unwrap());
                    tokio::task::yield_now().await;
                    guard.set_value(&(count + 1).to_le_bytes()).unwrap();
                    guard.release().await.unwrap();
                }
            })
        })
        .collect();
    for task in counts {
        task.await.unwrap();
    }
}

/// Tasks count in value blocks under locks; not one step may be missing. On both kinds of tokio runtime.
#[test]
fn tasks_of_a_runtime_exclude_each_other() {
    let daemon = Honest::new();
    let single = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let several = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    for (round, runtime) in [single, several].into_iter().enumerate() {
        runtime.block_on(async {
            let client = Client::builder().label("tasks").connect(daemon.path()).await.unwrap();
            let space = client.space("default").await.unwrap();
            // NL keeps each resource and its block while nobody counts.
            let mut keepers = Vec::new();
            for name in 0..3u8 {
                keepers.push(space.lock([name]).mode(Mode::NL).acquire().await.unwrap());
            }
            exercise(space.clone()).await;
            let mut total = 0;
            for name in 0..3u8 {
                let reader = space.lock([name]).mode(Mode::PR).value_block().acquire().await.unwrap();
                let bytes = reader.value().unwrap().bytes;
                total += u32::from_le_bytes(bytes[..4].try_into().unwrap());
            }
            assert_eq!(total, 400, "round {round}");
        });
        daemon.until_locks(0);
    }
    assert!(daemon.grants() > 800);
}

/// Futures of one task, polled together, of which half are given up at every possible moment.
#[test]
fn giving_up_at_any_moment_leaves_no_lock_behind() {
    let daemon = Honest::new();
    block_on(async {
        let client = Client::connect(daemon.path()).await.unwrap();
        let space = client.space("default").await.unwrap();
        for round in 0..300u32 {
            let woken = Arc::new(Woken::default());
            let mut futures: Vec<_> = (0..4).map(|_| Box::pin(space.lock("x").acquire())).collect();
            let mut guards = Vec::new();
            for future in &mut futures {
                if let Poll::Ready(guard) = poll_once(future.as_mut(), &woken) {
                    guards.push(guard.unwrap());
                }
            }
            // Give up after a time that varies around that of an exchange.
            let spin = std::time::Instant::now();
            while spin.elapsed() < Duration::from_micros(u64::from(round % 100)) {
                std::hint::spin_loop();
            }
            drop(futures);
            drop(guards);
        }
        let guard = space.lock("x").timeout(Duration::from_secs(10)).acquire().await.unwrap();
        assert_eq!(guard.mode(), Mode::EX);
        drop(guard);
        daemon.until_locks(0);
    });
}

#[test]
fn handles_and_futures_may_move_between_threads() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>(_: &T) {}
    shared::<(Client, Space, LockRequest, Guard, oarlock::Error)>();
    shared::<(oarlock::blocking::Client, oarlock::blocking::Space, oarlock::blocking::Guard)>();
    sent(&Client::connect_default());
    fn of_client(client: &Client, request: LockRequest, guard: Guard, other: Guard) {
        sent(&client.space("x"));
        sent(&request.acquire());
        sent(&guard.convert(Mode::EX));
        sent(&guard.blocking());
        sent(&guard.lost());
        sent(&other.release());
    }
    let _ = of_client;
}
