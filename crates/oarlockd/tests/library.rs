//! The library against real daemons, each program on a node of its own: what the stand-ins in the library's own
//! tests promise must hold here too.

mod support;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use oarlock::blocking::{Client, Guard, Space};
use oarlock::{Kind, Mode};
use rustix::event::{PollFd, PollFlags};
use support::{Dev, signal, until};

fn space(dev: &Dev, node: char) -> Space {
    Client::connect(dev.socket(node)).unwrap().space("default").unwrap()
}

/// Messages that the lock rooms sent to other nodes: statements, grants, heads.
fn lock_messages(dev: &Dev) -> u64 {
    let sum = |name: &str| ['a', 'b', 'c'].iter().map(|node| dev.counter(*node, name)).sum::<u64>();
    sum("info_sent") + sum("grant_sent") + sum("head_sent") + sum("deny_sent") + sum("forget_sent")
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// What a single poll gives.
async fn poll_now<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}

/// A3, R2: what a node owns it grants at once, what a local program holds is busy, and what only others know it
/// does not guess. None of the three answers costs a message.
#[test]
fn a_try_answers_ok_busy_and_not_owned_without_a_message() {
    let dev = Dev::start();
    let (here, there) = (space(&dev, 'a'), space(&dev, 'b'));
    // Taken and given back: node a owns it now.
    here.lock("x").acquire().unwrap().release().unwrap();
    let before = lock_messages(&dev);
    let guard = here.lock("x").try_acquire().expect("Ok: owned and free");
    let error = here.lock("x").try_acquire().map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::Busy, "{error}");
    let error = there.lock("x").try_acquire().map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::NotOwned, "{error}");
    assert_eq!(lock_messages(&dev), before);
    guard.release().unwrap();
    // Asking is what finds it: retained by node a, held by nobody.
    assert!(there.lock("x").no_queue().acquire().is_ok());
    assert!(lock_messages(&dev) > before);
}

/// C20: who reads and then writes asks once and not twice, if it says so before and nobody else is there; beside others the hint
/// takes nothing.
#[test]
fn a_hint_saves_the_second_request() {
    let dev = Dev::start();
    let (here, there) = (space(&dev, 'a'), space(&dev, 'b'));
    // Requests to other nodes for sixty locks, and for making them stronger.
    let work = |names: &str, hint: Option<Mode>| {
        let stated = || dev.counter('a', "info_sent");
        let before = stated();
        let lock = |n| here.lock(format!("{names}{n}")).mode(Mode::PR).likely(hint).acquire().unwrap();
        let guards: Vec<Guard> = (0..60).map(lock).collect();
        let between = stated();
        guards.iter().for_each(|guard| guard.convert(Mode::EX).unwrap());
        (between - before, stated() - between)
    };
    let (plain, hinted) = (work("plain", None), work("hinted", Some(Mode::EX)));
    assert!(plain.0 > 20 && plain.1 == plain.0, "{plain:?}: asked twice");
    assert!(hinted.0 > 20 && hinted.1 == 0, "{hinted:?}: asked once");
    let granted =
        || ['a', 'b', 'c'].map(|node| dev.counter(node, "anticipatory_granted")).iter().sum::<u64>();
    assert_eq!(granted(), 60);
    // A reader elsewhere: the hint gives nothing, and the reader keeps its lock.
    let reader = there.lock("shared").mode(Mode::PR).acquire().unwrap();
    let guard = here.lock("shared").mode(Mode::PR).likely(Mode::EX).acquire().unwrap();
    assert!(!reader.is_lost() && granted() == 60);
    assert_eq!(guard.conversion(Mode::EX).no_queue().convert().unwrap_err().kind(), Kind::Busy);
    let error = here.lock("x").mode(Mode::PR).likely(Mode::CW).acquire().map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage, "{error}");
}

#[test]
fn a_busy_lock_elsewhere_is_busy_and_a_timeout_ends_the_wait() {
    let dev = Dev::start();
    let (here, there) = (space(&dev, 'a'), space(&dev, 'b'));
    let guard = here.lock("x").acquire().unwrap();
    assert_eq!(there.lock("x").no_queue().acquire().map(drop).unwrap_err().kind(), Kind::Busy);
    let timed = there.lock("x").timeout(Duration::from_millis(50)).acquire();
    assert_eq!(timed.map(drop).unwrap_err().kind(), Kind::TimedOut);
    guard.release().unwrap();
    assert_eq!(there.lock("x").acquire().unwrap().mode(), Mode::EX);
}

/// A request that this process can grant by itself needs no future; one that it cannot comes back, and can be asked for.
#[test]
fn what_this_process_cannot_grant_comes_back() {
    let dev = Dev::start();
    run(async {
        let space = oarlock::Client::connect(dev.socket('a')).await.unwrap().space("default").await.unwrap();
        let mut granted = None;
        // The node must own it, and the memory have come.
        drop(space.lock("x").acquire().await.unwrap());
        until("it is granted in this process", || {
            granted = space.lock("x").acquire_here().ok();
            granted.is_some()
        });
        let request = space.lock("x").timeout(Duration::from_secs(20)).acquire_here().err();
        let request = request.expect("it is held");
        drop(granted);
        assert_eq!(request.acquire().await.unwrap().mode(), Mode::EX);
    });
}

/// R6 and the value block: three nodes in turn, each sees what the one before wrote, with a larger token.
#[test]
fn values_and_tokens_travel_with_the_lock() {
    let dev = Dev::start();
    let spaces = ['a', 'b', 'c'].map(|node| space(&dev, node));
    let mut last = None;
    for round in 0..12u8 {
        let guard = spaces[usize::from(round) % 3].lock("x").value_block().fresh().acquire().unwrap();
        let value = guard.value().expect("asked for");
        assert!(value.valid);
        assert_eq!(value.bytes[0], round, "what was written one round before");
        assert!(Some(guard.token()) > last && Some(guard.fence()) > last.map(|t| t.fence.number()));
        last = Some(guard.token());
        guard.set_value(&[round + 1]).unwrap();
        guard.release().unwrap();
    }
}

/// A reader on each of two nodes; a writer on the third makes both give way.
#[test]
fn holders_hear_what_is_wanted_and_can_give_way() {
    let dev = Dev::start();
    let (a, b, c) = (space(&dev, 'a'), space(&dev, 'b'), space(&dev, 'c'));
    let readers = [&a, &b].map(|space| space.lock("x").mode(Mode::PR).acquire().unwrap());
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| c.lock("x").timeout(Duration::from_secs(20)).acquire().unwrap());
        for reader in &readers {
            let wanted = reader.wait_blocking(Duration::from_secs(20)).unwrap();
            assert_eq!(wanted, Some(Mode::EX));
            reader.convert(Mode::EX.strongest_beside()).unwrap();
        }
        let writer = writer.join().unwrap();
        assert_eq!(writer.mode(), Mode::EX);
        writer.convert(Mode::PR).unwrap();
        readers[0].convert(Mode::PR).unwrap();
    });
}

/// D9 from outside: two readers of one resource want to write; the later one is told at once.
#[test]
fn two_converts_that_block_each_other_end_in_a_deadlock_for_one() {
    let dev = Dev::start();
    let (a, b) = (space(&dev, 'a'), space(&dev, 'b'));
    let first = a.lock("x").mode(Mode::PR).acquire().unwrap();
    let second = b.lock("x").mode(Mode::PR).acquire().unwrap();
    std::thread::scope(|scope| {
        let first_waits =
            scope.spawn(|| first.conversion(Mode::EX).timeout(Duration::from_secs(20)).convert());
        assert_eq!(second.wait_blocking(Duration::from_secs(20)).unwrap(), Some(Mode::EX));
        let refused = second.conversion(Mode::EX).timeout(Duration::from_secs(10)).convert();
        assert_eq!(refused.unwrap_err().kind(), Kind::Deadlock);
        assert_eq!(second.mode(), Mode::PR);
        second.convert(Mode::NL).unwrap();
        first_waits.join().unwrap().unwrap();
    });
    assert_eq!(first.mode(), Mode::EX);
}

/// R9 across nodes: half of the requests are given up while they travel; no lock stays behind.
#[test]
fn requests_given_up_anywhere_leave_no_lock_behind() {
    let dev = Dev::start();
    run(async {
        let mut spaces = Vec::new();
        for node in ['a', 'b', 'c'] {
            let client = oarlock::Client::connect(dev.socket(node)).await.unwrap();
            spaces.push(client.space("default").await.unwrap());
        }
        for round in 0..150u64 {
            let space = &spaces[round as usize % 3];
            let limit = Duration::from_micros(round % 50 * 20);
            let mut acquire = std::pin::pin!(space.lock("x").acquire());
            // Polled once, then again after a moment, then dropped wherever it is.
            if poll_now(acquire.as_mut()).await.is_pending() {
                std::thread::sleep(limit);
                drop(poll_now(acquire.as_mut()).await);
            }
        }
        for space in &spaces {
            let guard = space.lock("x").timeout(Duration::from_secs(20)).acquire().await.unwrap();
            guard.release().await.unwrap();
        }
    });
}

/// The daemon dies: every guard is lost, every pending call ends, and the others' locks stand.
#[test]
fn when_a_daemon_dies_its_programs_know() {
    let dev = Dev::start_with(&["--keep"]);
    let (a, b) = (space(&dev, 'a'), space(&dev, 'b'));
    let other = b.lock("other").acquire().unwrap();
    run(async {
        let client = oarlock::Client::connect(dev.socket('a')).await.unwrap();
        let space = client.space("default").await.unwrap();
        let guard = space.lock("x").acquire().await.unwrap();
        let mut waiting = std::pin::pin!(space.lock("other").acquire());
        assert!(poll_now(waiting.as_mut()).await.is_pending());
        assert!(!guard.is_lost());
        signal(dev.pid('a'), "KILL");
        assert_eq!(guard.lost().await.kind(), Kind::Lost);
        assert_eq!(waiting.await.map(drop).unwrap_err().kind(), Kind::NoDaemon);
        assert_eq!(guard.release().await.unwrap_err().kind(), Kind::Lost);
    });
    assert!(!other.is_lost());
    until("the blocking twin knows too", || {
        a.lock("y").acquire().map(drop).unwrap_err().kind() == Kind::NoDaemon
    });
}

/// Scenarios 35 and 36 from outside: a writer's session ends under it. Its locks are free, and its block keeps
/// its bytes but is not to be believed until somebody writes again.
#[test]
fn a_hang_up_frees_the_locks_and_marks_the_block() {
    let dev = Dev::start();
    let other = space(&dev, 'b');
    let keeper = other.lock("x").mode(Mode::NL).acquire().unwrap();
    let client = Client::connect(dev.socket('a')).unwrap();
    let writer = client.space("default").unwrap().lock("x").value_block().acquire().unwrap();
    writer.set_value(b"first").unwrap();
    writer.convert(Mode::NL).unwrap();
    writer.convert(Mode::EX).unwrap();
    rustix::net::shutdown(&client, rustix::net::Shutdown::Both).unwrap();
    let next = other.lock("x").value_block().timeout(Duration::from_secs(20)).acquire().unwrap();
    let value = next.value().unwrap();
    assert_eq!((value.valid, &value.bytes[..5]), (false, &b"first"[..]));
    assert_eq!(writer.lost_now().unwrap().kind(), Kind::Lost);
    next.set_value(b"second").unwrap();
    next.release().unwrap();
    let reader = other.lock("x").mode(Mode::PR).value_block().acquire().unwrap();
    assert!(reader.value().unwrap().valid);
    drop(keeper);
}

/// A program writes, lets go and leaves in one breath, with notices it never looked at. What it sent last counts:
/// the waiter finds the block written, not in doubt.
#[test]
fn what_a_leaving_program_wrote_arrives_before_its_end() {
    let dev = Dev::start();
    let other = space(&dev, 'a');
    let keeper = other.lock("x").mode(Mode::NL).acquire().unwrap();
    for round in 1..=30u8 {
        let client = Client::connect(dev.socket('a')).unwrap();
        let guard = client.space("default").unwrap().lock("x").value_block().acquire().unwrap();
        guard.set_value(&[round]).unwrap();
        std::thread::scope(|scope| {
            let next = scope.spawn(|| other.lock("x").mode(Mode::PR).value_block().acquire().unwrap());
            // Readable: the notice that somebody waits is there, unread.
            let mut polled = [PollFd::new(&client, PollFlags::IN)];
            assert_eq!(rustix::event::poll(&mut polled, None), Ok(1));
            drop((guard, client));
            let value = next.join().unwrap().value().unwrap();
            assert!(value.valid, "round {round}");
            assert_eq!(value.bytes[0], round);
        });
    }
    drop(keeper);
}

#[test]
fn an_unknown_lockspace_is_refused_with_a_suggestion() {
    let dev = Dev::start();
    let client = Client::connect(dev.socket('a')).unwrap();
    let error = client.space("defualt").err().unwrap();
    assert_eq!(error.kind(), Kind::UnknownSpace);
    assert!(error.why().contains("default"), "{error}");
}

// ----- changes of mode that nobody waits for, of locks in a segment ------------------------------------------------

/// A session of futures that has its segment.
async fn shared_space(dev: &Dev, node: char) -> oarlock::Space {
    let client = oarlock::Client::connect(dev.socket(node)).await.unwrap();
    let space = client.space("default").await.unwrap();
    space.lock("warm").acquire().await.unwrap().release().await.unwrap();
    space
}

fn read(space: &Space, name: &str) -> u8 {
    let guard = space.lock(name).mode(Mode::PR).value_block().acquire().unwrap();
    guard.value().filter(|value| value.valid).map_or(0, |value| value.bytes[0])
}

/// While the node stands still no answer can come; it goes on a little later.
fn stand_still(dev: &Dev) -> impl FnOnce() -> std::thread::JoinHandle<()> + use<> {
    let pid = dev.engine('a');
    signal(pid, "STOP");
    move || {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            signal(pid, "CONT");
        })
    }
}

/// 29, 31: what was put aside is written by the release, also by one that finds a withdrawn change of mode under way;
/// and the release is done only then.
#[test]
fn a_release_behind_a_withdrawn_change_of_mode_writes_the_value() {
    let dev = Dev::start();
    let other = space(&dev, 'a');
    run(async {
        let space = shared_space(&dev, 'a').await;
        for drops in [false, true] {
            let reader = other.lock("x").mode(Mode::CR).acquire().unwrap();
            let guard = space.lock("x").mode(Mode::PW).value_block().acquire().await.unwrap();
            let value = 1 + u8::from(drops);
            guard.set_value(&[value]).unwrap();
            let go_on = stand_still(&dev);
            assert!(poll_now(Box::pin(guard.convert(Mode::EX)).as_mut()).await.is_pending());
            let going = go_on();
            if drops {
                drop(guard);
            } else {
                guard.release().await.unwrap();
            }
            going.join().unwrap();
            drop(reader);
            assert_eq!(read(&other, "x"), value, "dropped: {drops}");
        }
    });
}

/// 29: it was written on the way down, and is not written a second time over what others wrote since.
#[test]
fn a_value_that_went_with_a_dropped_change_of_mode_is_not_written_again() {
    let dev = Dev::start();
    let other = space(&dev, 'a');
    run(async {
        let space = shared_space(&dev, 'a').await;
        let guard = space.lock("x").value_block().acquire().await.unwrap();
        guard.set_value(&[1]).unwrap();
        let go_on = stand_still(&dev);
        assert!(poll_now(Box::pin(guard.convert(Mode::NL)).as_mut()).await.is_pending());
        go_on().join().unwrap();
        until("the way down is granted", || guard.mode() == Mode::NL);
        assert_eq!(guard.value().map(|value| (value.sequence, value.bytes[0])), Some((1, 1)));
        let writer = other.lock("x").value_block().acquire().unwrap();
        writer.set_value(&[2]).unwrap();
        writer.release().unwrap();
        guard.convert(Mode::EX).await.unwrap();
        guard.release().await.unwrap();
        assert_eq!(read(&other, "x"), 2);
    });
}

/// 29, 31, ALTPR: a lock in a segment shows what one in the node's table shows.
#[test]
fn what_a_change_of_mode_did_is_shown_alike_with_and_without_a_segment() {
    let dev = Dev::start();
    let seen = |shared: bool| {
        let client = Client::builder().shared_memory(shared).connect(dev.socket('a')).unwrap();
        let space = client.space("default").unwrap();
        space.lock("warm").acquire().unwrap().release().unwrap();
        let name = format!("{shared}");
        let mut seen = Vec::new();
        let guard = space.lock(&name).value_block().acquire().unwrap();
        for mode in [Mode::PW, Mode::PR, Mode::EX, Mode::NL, Mode::EX] {
            if guard.mode().covers(Mode::PW) {
                guard.set_value(&[7]).unwrap();
            }
            guard.convert(mode).unwrap();
            seen.push(guard.value().map(|value| (value.sequence, value.valid, value.bytes[0])));
        }
        guard.invalidate_value().unwrap();
        guard.convert(Mode::CR).unwrap();
        seen.push(guard.value().map(|value| (value.sequence, value.valid, value.bytes[0])));
        drop(guard);
        let name = format!("{shared} too");
        let (reader, guard) = (space.lock(&name).mode(Mode::PR), space.lock(&name).mode(Mode::NL));
        let (reader, guard) = (reader.acquire().unwrap(), guard.acquire().unwrap());
        guard.conversion(Mode::EX).alternate(Mode::PR).convert().unwrap();
        drop(reader);
        (seen, guard.mode(), guard.is_alternate())
    };
    let there = seen(false);
    assert_eq!((there.1, there.2), (Mode::PR, true));
    assert_eq!(seen(true), there);
}

/// 57: what others want is not forgotten over a change of mode that came to nothing. Packets keep coming meanwhile, so that
/// nobody looks only because it was quiet for a while.
#[test]
fn a_notice_that_came_during_a_refused_change_of_mode_is_shown_after_it() {
    let dev = Dev::start();
    let (other, third) = (space(&dev, 'a'), space(&dev, 'a'));
    let client = run(oarlock::Client::connect(dev.socket('a'))).unwrap();
    let space = run(client.space("default")).unwrap();
    run(run(space.lock("warm").acquire()).unwrap().release()).unwrap();
    let reader = other.lock("x").mode(Mode::PR).acquire().unwrap();
    let guard = run(space.lock("x").mode(Mode::PR).acquire()).unwrap();
    let told = std::sync::atomic::AtomicBool::new(false);
    let seen = || told.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let change = guard.conversion(Mode::EX).timeout(Duration::from_millis(400));
            assert_eq!(run(change.convert()).unwrap_err().kind(), Kind::TimedOut);
        });
        std::thread::sleep(Duration::from_millis(100));
        scope.spawn(|| third.lock("x").acquire().unwrap().release().unwrap());
        scope.spawn(|| {
            assert_eq!(run(guard.blocking()).unwrap(), Mode::EX);
            told.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let mut rounds = 0;
        while !seen() && rounds < 60 {
            run(client.space("none")).map(drop).unwrap_err();
            std::thread::sleep(Duration::from_millis(50));
            rounds += 1;
        }
        let in_time = seen();
        // Now it may be found by whoever looks.
        until("told", seen);
        run(guard.convert(Mode::NL)).unwrap();
        reader.release().unwrap();
        assert!(in_time, "not told in {rounds} rounds");
    });
}
