//! A real daemon against processes that map the segment of one lockspace and keep to no rule there: they fill it, ring
//! every bell, knock without end, come and go with entries that lie, leave places behind. Another lockspace goes on as if nothing were;
//! sessions of the same lockspace get answers or errors; the daemon lives and stops in order.
//!
//! How long others had to wait meanwhile is printed. It is bounded here only as far as a crowded machine can keep it.

mod support;

#[path = "../../oarlock-shm/tests/hand/mod.rs"]
mod hand;

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hand::Hand;
use oarlock::blocking::{Client, Space};
use oarlock::{Kind, Mode};
use oarlock_layout::code::Code;
use oarlock_layout::codec::Wire;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{OwnerId, SpaceId, TransactionId};
use oarlock_layout::message::session::{Attached, LockRequest, Reply, Request, VERSION};
use oarlock_layout::name::Name;
use oarlock_layout::segment::geometry::{entry, header, slot, tail};
use oarlock_layout::segment::{Stage, State};
use oarlock_shm::Memory;
use oarlockd::host::door;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use support::solo::Solo;
use support::{Held, lives, until};

/// How long each of them may go on.
const TIME: Duration = Duration::from_secs(2);
/// What no call needs, on any machine and whoever else runs there.
const LONG: Duration = Duration::from_secs(10);
/// Quiet machines keep 10 ms.
const STALL_MAX: Duration = Duration::from_millis(250);

/// Places that the node lets one process leave; and those beside it while the tests look, of whoever works here.
const LEFT_MAX: u32 = 8;
const FEW: u32 = LEFT_MAX + 2;

const SPACES: &str = "[[space]]\nname = \"default\"\n[[space]]\nname = \"other\"\n";

#[test]
fn whoever_fills_the_segment_hurts_nobody_elsewhere() {
    trial("fills");
}

#[test]
fn whoever_rings_every_bell_hurts_nobody_elsewhere() {
    trial("rings");
}

#[test]
fn whoever_knocks_without_end_hurts_nobody_elsewhere() {
    trial("knocks");
}

#[test]
fn whoever_comes_and_goes_with_entries_that_lie_hurts_nobody_elsewhere() {
    // None of its places is lost.
    let after = |solo: &Solo| until("its places can be had", || highest(solo, FEW) < FEW);
    trial_with("comes", |_| {}, after);
}

/// A place that was left without a word waits for the end of its process, for that may still store something there (M12). So
/// many may wait for one process and no more: every search for locks looks at them.
#[test]
fn whoever_leaves_places_behind_hurts_nobody_and_leaves_few() {
    let during = |solo: &Solo| {
        assert!(solo.path("run/denied").exists(), "it was never told that it left enough");
        let area = highest(solo, 1);
        assert!((LEFT_MAX..FEW).contains(&area), "the next area is number {area}");
    };
    let after = |solo: &Solo| until("what it left can be had", || highest(solo, FEW) < FEW);
    trial_with("leaves", during, after);
}

/// The highest of so many places that are had at once.
fn highest(solo: &Solo, count: u32) -> u32 {
    let lines: Vec<_> = (0..count).map(|_| attach(&solo.socket())).collect();
    let highest = lines.iter().map(|(_, attached, _)| attached.place.area).max().unwrap();
    for (line, ..) in &lines {
        assert!(door::send(line, &Request::Detach.to_bytes()).unwrap());
    }
    highest
}

/// M6: three reads of a block that were torn are no reason to show none.
#[test]
fn a_block_that_is_written_without_end_is_asked_for() {
    let mut solo = Solo::new(SPACES);
    solo.start();
    let (waits, holds) = (space(&solo, "default", true), space(&solo, "default", false));
    let write = holds.lock("v").value_block().acquire().unwrap();
    write.set_value(&[5]).unwrap();
    write.release().unwrap();
    waits.lock("v").acquire().unwrap().release().unwrap();
    let (line, _, memory) = attach(&solo.socket());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ends = Over(&over);
        scope.spawn(|| {
            let version = memory.geometry().tail(0) + tail::VERSION;
            while !over.load(Ordering::Relaxed) {
                (2..1_000).for_each(|n| memory.scribble(version, n));
            }
        });
        // Some of so many come when the block is written thrice.
        for _ in 0..300 {
            let guard = holds.lock("v").acquire().unwrap();
            let waiter = scope.spawn(|| {
                let guard = waits.lock("v").mode(Mode::CR).value_block().acquire().unwrap();
                let value = guard.value().expect("something is said of it");
                assert!(!value.valid || value.sequence > 0, "it was written once: {value:?}");
                assert_eq!(guard.mode(), Mode::CR);
                guard.release().unwrap();
            });
            assert_eq!(guard.wait_blocking(LONG).unwrap(), Some(Mode::CR), "it waits");
            guard.release().unwrap();
            waiter.join().unwrap();
        }
    });
    assert!(door::send(&line, &Request::Detach.to_bytes()).unwrap());
}

fn space(solo: &Solo, name: &str, shared: bool) -> Space {
    Client::builder().shared_memory(shared).connect(solo.socket()).unwrap().space(name).unwrap()
}

fn trial(what: &str) {
    trial_with(what, |_| {}, |_| {});
}

/// The same with something to look at before that process is killed, and after it.
fn trial_with(what: &str, during: impl FnOnce(&Solo), after: impl FnOnce(&Solo)) {
    let mut solo = Solo::new(SPACES);
    solo.start();
    // Names of the lockspace that will be filled, so that there is something to spoil.
    let here = space(&solo, "default", false);
    for n in 0..300 {
        here.lock(format!("r{n}")).acquire().unwrap().release().unwrap();
    }
    let (fast, slow) = (space(&solo, "other", true), space(&solo, "other", false));
    fast.lock("warm").acquire().unwrap().release().unwrap();
    let quiet = stalls(&slow, TIME / 4);
    let engine = solo.engine();
    let player = Player::start(&solo.socket(), what);
    let over = AtomicBool::new(false);
    let inside = AtomicU32::new(0);
    let stalls = thread::scope(|scope| {
        let ends = Over(&over);
        // Two threads of a session that grants itself, elsewhere.
        for _ in 0..2 {
            scope.spawn(|| {
                let mut rounds = 0;
                while !over.load(Ordering::Relaxed) {
                    let guard = fast.lock("x").acquire().unwrap();
                    assert_eq!(inside.swap(1, Ordering::SeqCst), 0, "two at once");
                    inside.store(0, Ordering::SeqCst);
                    guard.release().unwrap();
                    rounds += 1;
                }
                assert!(rounds > 100, "{rounds} rounds");
            });
        }
        // And one that asks for every lock, in the lockspace that is filled.
        scope.spawn(|| {
            let mut random = 7u64;
            while !over.load(Ordering::Relaxed) {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let began = Instant::now();
                let request = here.lock(format!("r{}", random >> 33 & 0xff));
                match request.mode(Mode::PW).timeout(Duration::from_millis(50)).acquire() {
                    Ok(guard) => drop(guard),
                    Err(error) => assert_eq!(error.kind(), Kind::TimedOut, "{error}"),
                }
                assert!(began.elapsed() < LONG, "no answer for {:?}", began.elapsed());
            }
        });
        let stalls = stalls(&slow, TIME);
        drop(ends);
        stalls
    });
    println!("{what}: p50, p99 and longest round trip elsewhere {stalls:?}; before {quiet:?}");
    assert!(stalls[1] < STALL_MAX, "{stalls:?}");
    assert_eq!(solo.engine(), engine, "it is the same all the time");
    solo.run(&["ok"]).expect(0, &[]);
    during(&solo);
    assert!(lives(player.0.0.id() as i32), "it did what it does to the end");
    // It still works where it was filled, for names that nobody has spoiled.
    drop(player);
    until("a new name can be locked", || {
        let new = here.lock(format!("new-{what}")).timeout(Duration::from_millis(100)).acquire();
        new.is_ok()
    });
    after(&solo);
    drop((here, fast, slow));
    assert_eq!(solo.end("TERM"), Some(0), "{}", solo.log());
    let log = solo.log();
    assert!(!log.contains("panicked"), "{log}");
}

/// Ends those who work beside also when a check fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Half of the round trips were no longer than the first, 99 of 100 no longer than the second, all than the third.
fn stalls(space: &Space, time: Duration) -> [Duration; 3] {
    let end = Instant::now() + time;
    let mut all = Vec::new();
    while Instant::now() < end {
        let began = Instant::now();
        space.lock("trip").acquire().unwrap().release().unwrap();
        all.push(began.elapsed());
        thread::sleep(Duration::from_micros(200));
    }
    all.sort_unstable();
    let [half, most] = [all.len() / 2, all.len() * 99 / 100];
    [all[half], all[most], all[all.len() - 1]]
}

// ----- another process --------------------------------------------------------------------------------------

const SOCKET: &str = "OARLOCK_HOSTILE_SOCKET";
const WHAT: &str = "OARLOCK_HOSTILE_WHAT";

/// A process that keeps to no rule until it is dropped.
struct Player(Held);

impl Player {
    fn start(socket: &Path, what: &str) -> Player {
        let begun = socket.with_file_name("begun");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "program_that_keeps_to_no_rule", "--ignored", "--test-threads", "1"]);
        command.env(SOCKET, socket).env(WHAT, what);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let player = Player(Held(child));
        until("it has begun", || begun.exists());
        player
    }
}

#[test]
#[ignore = "not a test but a program: the tests start it"]
fn program_that_keeps_to_no_rule() {
    let socket = std::env::var_os(SOCKET).unwrap();
    let socket = Path::new(&socket);
    let begun = || std::fs::write(socket.with_file_name("begun"), "").unwrap();
    match std::env::var(WHAT).unwrap().as_str() {
        "fills" => {
            let (line, _, memory) = attach(socket);
            begun();
            let hand = Hand::new(&memory, 1);
            let geometry = memory.geometry();
            let parts = [(0, geometry.slot(0)), (geometry.slot(0), 300 * 8), (geometry.area(0), 3 * 512)];
            loop {
                for (first, count) in parts {
                    for cell in first..first + count {
                        memory.scribble(cell, hand.dice.any());
                    }
                }
                (0..20_000).for_each(|_| hand.write());
                // Also by message, about entries that say anything.
                for n in 0..8u32 {
                    let handle = 1 << 31 | hand.dice.below(64) as u32;
                    let value = (n == 0).then_some([n as u8; 64]);
                    let name = format!("r{}", hand.dice.below(300));
                    let lock = LockRequest {
                        handle,
                        space: SpaceId(0),
                        name: Name::new(name.as_bytes()).unwrap(),
                        mode: hand.dice.mode(),
                        flags: if n % 2 == 0 { Flags::QUIET } else { Flags::NOQUEUE },
                        timeout_ms: 5,
                        owner: OwnerId(0),
                        transaction: TransactionId(0),
                    };
                    let _ = door::send(&line, &Request::Lock(lock).to_bytes());
                    let _ =
                        door::send(&line, &Request::Unlock { handle, value, invalidate: false }.to_bytes());
                    let _ = door::send(&line, &Request::Cancel { handle }.to_bytes());
                }
                drain(&line);
            }
        }
        "rings" => {
            let (_line, _, memory) = attach(socket);
            begun();
            let geometry = memory.geometry();
            loop {
                for cell in geometry.bells()..geometry.slot(0) {
                    memory.scribble(cell, u64::MAX);
                }
                memory.scribble(header::SLEEPING, 0);
            }
        }
        "knocks" => {
            let (line, ..) = attach(socket);
            begun();
            loop {
                if !door::send(&line, &Request::Knock.to_bytes()).unwrap() {
                    thread::yield_now();
                }
            }
        }
        "comes" => loop {
            let (line, attached, memory) = attach(socket);
            begun();
            lie(&memory, &attached);
            // One more lie, for its place to be had again at once.
            let _ = door::send(&line, &Request::Detach.to_bytes());
        },
        "leaves" => loop {
            match try_attach(socket) {
                Ok((_line, attached, memory)) => lie(&memory, &attached),
                Err(code) => {
                    assert_eq!(code, Code::NoSegment);
                    std::fs::write(socket.with_file_name("denied"), "").unwrap();
                    begun();
                }
            }
        },
        other => panic!("it cannot do {other}"),
    }
}

/// Every entry of an area says something that must be looked into when its session ends.
fn lie(memory: &Memory, attached: &Attached) {
    let geometry = memory.geometry();
    let area = attached.place.area;
    for cell in 0..geometry.entries.div_ceil(32 * 64) as usize {
        memory.scribble(
            geometry.area(area) + oarlock_layout::segment::geometry::area::TOUCHED + cell,
            u64::MAX,
        );
    }
    for number in 0..geometry.entries {
        let place = geometry.entry(area, number);
        let of = number % 300;
        let at = geometry.slot(of);
        memory.scribble(at + slot::USERS, u64::MAX);
        memory.scribble(place + entry::SLOT, of.into());
        memory.scribble(place + entry::SLOT_GENERATION, memory.peek(at + slot::GENERATION));
        let generation = State(memory.peek(place + entry::STATE)).generation();
        let stage = if number % 2 == 0 { Stage::Raising } else { Stage::Lowering };
        let state = State::new(generation, stage, Some(Mode::CR), Some(Mode::PR));
        memory.scribble(place + entry::STATE, state.0);
    }
}

/// A session with a place in the segment of the first lockspace.
fn attach(socket: &Path) -> (OwnedFd, Attached, Arc<Memory>) {
    try_attach(socket).unwrap_or_else(|code| panic!("{code:?}"))
}

fn try_attach(socket: &Path) -> Result<(OwnedFd, Attached, Arc<Memory>), Code> {
    let line = door::connect(socket).unwrap();
    let say = |request: Request| assert!(door::send(&line, &request.to_bytes()).unwrap());
    say(Request::Hello { version: VERSION, label: "hostile".into() });
    say(Request::Attach { request: 1, space: SpaceId(0) });
    loop {
        match hear(&line) {
            Some((Reply::Attached(attached), Some(fd))) => {
                return Ok((line, attached, Memory::open(fd).unwrap()));
            }
            Some((Reply::Denied { why, .. }, _)) => return Err(why.code),
            Some((Reply::Welcome { .. }, _)) => {}
            None => thread::yield_now(),
            other => panic!("{other:?}"),
        }
    }
}

fn hear(line: &OwnedFd) -> Option<(Reply, Option<OwnedFd>)> {
    let mut bytes = vec![0; 64 << 10];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut into = [std::io::IoSliceMut::new(&mut bytes)];
    let received = recvmsg(line, &mut into, &mut control, RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC);
    let count = received.ok()?.bytes;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Some((Reply::from_bytes(&bytes[..count]).ok()?, fd))
}

fn drain(line: &OwnedFd) {
    while hear(line).is_some() {}
}
