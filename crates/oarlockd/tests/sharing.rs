//! Programs that grant themselves, on real nodes: several processes and threads, some of which are killed, over a file
//! that shows whether two of them were ever in at once.

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use oarlock::blocking::{Client, Space};
use oarlock::{Kind, Mode};
use support::solo::Solo;
use support::{Dev, signal, until};

const RESOURCES: u64 = 3;

/// Programs that ask their node for every lock, that grant themselves, and that use futures and drop many, in one thread
/// or in several.
const ASKS: u8 = 0;
const SHARES: u8 = 1;
const DROPS: u8 = 2;
const DROPS_IN_THREADS: u8 = 3;

fn space(dev: &Dev, node: char) -> Space {
    let space = Client::connect(dev.socket(node)).unwrap().space("default").unwrap();
    // The first answer brings the segment along.
    space.lock("warm").acquire().unwrap().release().unwrap();
    space
}

// ----- the program -------------------------------------------------------------------------------------------

/// A random number.
fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

/// For each resource: who writes, and how often somebody did.
struct Board(File);

impl Board {
    fn get(&self, cell: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, cell * 8).unwrap();
        u64::from_le_bytes(bytes)
    }

    fn set(&self, cell: u64, value: u64) {
        self.0.write_all_at(&value.to_le_bytes(), cell * 8).unwrap();
    }

    /// Under EX or PW: nobody else writes here while this takes its time.
    fn write(&self, resource: u64, me: u64, pause: u64) {
        let count = self.get(resource * 2 + 1);
        self.set(resource * 2, me);
        for _ in 0..pause % 4 {
            thread::yield_now();
        }
        assert_eq!(self.get(resource * 2), me, "somebody else wrote under a lock of ours");
        self.set(resource * 2 + 1, count + 1);
        assert_eq!(self.get(resource * 2 + 1), count + 1);
    }

    /// Under PR: nobody writes.
    fn read(&self, resource: u64, pause: u64) {
        let before = (self.get(resource * 2), self.get(resource * 2 + 1));
        for _ in 0..pause % 4 {
            thread::yield_now();
        }
        assert_eq!(
            (self.get(resource * 2), self.get(resource * 2 + 1)),
            before,
            "somebody wrote while we read"
        );
    }
}

/// Locks this and that until the time is up; gives the number of writes.
fn work(space: &Space, board: &Board, me: u64, until: Instant) -> u64 {
    let mut random = me.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut writes = 0;
    let handles: Vec<_> = (0..RESOURCES).map(|r| space.handle(format!("r{r}"))).collect();
    while Instant::now() < until {
        let (what, resource, pause) =
            (next(&mut random) % 8, next(&mut random) % RESOURCES, next(&mut random));
        let lock = space.lock(format!("r{resource}"));
        let granted = match what {
            0 | 1 => lock.acquire().map(|guard| {
                board.write(resource, me, pause);
                writes += 1;
                if pause & 64 != 0 {
                    return guard.release();
                }
                drop(guard);
                Ok(())
            }),
            2 => lock.mode(Mode::PR).acquire().map(|guard| {
                board.read(resource, pause);
                guard.release()
            }),
            3 => lock.mode(Mode::PW).acquire().map(|guard| {
                board.write(resource, me, pause);
                writes += 1;
                // Down, and read beside others.
                guard.convert(Mode::PR)?;
                board.read(resource, pause);
                guard.release()
            }),
            4 => lock.mode(Mode::PR).acquire().map(|guard| {
                match guard.conversion(Mode::EX).no_queue().convert() {
                    Ok(()) => {
                        board.write(resource, me, pause);
                        writes += 1;
                        guard.release()
                    }
                    Err(error) if matches!(error.kind(), Kind::Busy | Kind::Deadlock) => {
                        board.read(resource, pause);
                        guard.release()
                    }
                    Err(error) => Err(error),
                }
            }),
            5 => lock.timeout(Duration::from_millis(1 + pause % 8)).acquire().map(|guard| {
                board.write(resource, me, pause);
                writes += 1;
                guard.release()
            }),
            6 => lock.try_acquire().map(|guard| {
                board.write(resource, me, pause);
                writes += 1;
                guard.release()
            }),
            _ => handles[resource as usize].acquire().map(|guard| {
                board.write(resource, me, pause);
                writes += 1;
                drop(guard);
                Ok(())
            }),
        };
        match granted {
            Ok(released) => released.unwrap(),
            Err(error) => match error.kind() {
                Kind::Busy | Kind::TimedOut | Kind::NotOwned | Kind::Deadlock => {}
                kind => panic!("{kind:?}: {error}"),
            },
        }
    }
    writes
}

/// The same with futures, many of which are dropped before they are done.
async fn work_async(space: &oarlock::Space, board: &Board, me: u64, until: Instant) -> u64 {
    let mut random = me.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut writes = 0;
    while Instant::now() < until {
        let (what, resource, pause) =
            (next(&mut random) % 6, next(&mut random) % RESOURCES, next(&mut random));
        let lock = space.lock(format!("r{resource}"));
        let patience = Duration::from_micros(next(&mut random) % 3_000);
        let mode = if what < 3 { Mode::EX } else { Mode::PR };
        let Ok(granted) = tokio::time::timeout(patience, lock.mode(mode).acquire()).await else { continue };
        let guard = granted.unwrap();
        match what {
            0 | 1 => {
                board.write(resource, me, pause);
                writes += 1;
            }
            2 => {
                board.write(resource, me, pause);
                writes += 1;
                guard.convert(Mode::CR).await.unwrap();
            }
            3 => board.read(resource, pause),
            _ => {
                // Whatever comes of the change, the mode says what may be done.
                let changed = tokio::time::timeout(patience, guard.convert(Mode::PW)).await;
                if changed.as_ref().is_ok_and(Result::is_ok) {
                    assert_eq!(guard.mode(), Mode::PW);
                }
                if guard.mode() == Mode::PW {
                    board.write(resource, me, pause);
                    writes += 1;
                } else {
                    board.read(resource, pause);
                }
            }
        }
        match pause % 3 {
            0 => drop(guard),
            1 => guard.release().await.unwrap(),
            _ => drop(tokio::time::timeout(Duration::ZERO, guard.release()).await),
        }
        tokio::task::yield_now().await;
    }
    writes
}

/// Four at a time over one session, in as many threads.
fn work_with_futures(socket: PathBuf, board: &Board, me: u64, until: Instant, threads: u64) -> u64 {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let space = runtime()
        .block_on(async { oarlock::Client::connect(socket).await.unwrap().space("default").await.unwrap() });
    let work = |thread| {
        let tasks = (thread..4).step_by(threads as usize);
        let tasks = tasks.map(|n| work_async(&space, board, me * 4 + n, until));
        runtime().block_on(join_all(tasks)).into_iter().sum::<u64>()
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    })
}

#[test]
#[ignore = "not a test but a program: the tests start it"]
fn program_that_works() {
    let number = |name: &str| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let path = |name: &str| PathBuf::from(std::env::var_os(name).unwrap());
    let board = Board(File::options().read(true).write(true).open(path("BOARD")).unwrap());
    if number("SHARED") >= u64::from(DROPS) {
        let until = Instant::now() + Duration::from_millis(number("MS"));
        let threads = if number("SHARED") == u64::from(DROPS) { 1 } else { 4 };
        let writes = work_with_futures(path("OARLOCK_SOCKET"), &board, number("ME") + 100, until, threads);
        return println!("writes <{writes}>");
    }
    let client =
        Client::builder().shared_memory(number("SHARED") != 0).connect(path("OARLOCK_SOCKET")).unwrap();
    let space = client.space("default").unwrap();
    let until = Instant::now() + Duration::from_millis(number("MS"));
    let writes = AtomicU64::new(0);
    thread::scope(|scope| {
        for n in 0..2 {
            let me = number("ME") * 2 + n;
            let (space, board, writes) = (&space, &board, &writes);
            scope.spawn(move || writes.fetch_add(work(space, board, me, until), Ordering::Relaxed));
        }
    });
    println!("writes <{}>", writes.load(Ordering::Relaxed));
}

fn program(dev: &Dev, node: char, board: &Path, me: u64, ms: u64, how: u8) -> Child {
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.args(["program_that_works", "--exact", "--ignored", "--nocapture"]);
    program.env("OARLOCK_SOCKET", dev.socket(node)).env("BOARD", board);
    program.env("ME", me.to_string()).env("MS", ms.to_string()).env("SHARED", how.to_string());
    program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What no program needs beyond its time, on any machine: one that waits for ever fails instead.
const LONG: Duration = Duration::from_secs(30);

fn writes(mut child: Child) -> u64 {
    let end = Instant::now() + LONG;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            child.kill().unwrap();
            panic!("a program does not end: {:?}", child.wait_with_output().unwrap());
        }
        thread::sleep(Duration::from_millis(10));
    }
    let said = child.wait_with_output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    let number = out.split(['<', '>']).nth(1).and_then(|n| n.parse().ok());
    number.unwrap_or_else(|| panic!("a program failed:\n{out}\n{err}"))
}

fn board(dev: &Dev) -> PathBuf {
    let path = dev.dir.path().join("board");
    std::fs::write(&path, vec![0; RESOURCES as usize * 16]).unwrap();
    path
}

fn total(path: &Path) -> u64 {
    let board = Board(File::open(path).unwrap());
    (0..RESOURCES).map(|resource| board.get(resource * 2 + 1)).sum()
}

/// All is given back: whoever comes last gets every lock at once, everywhere.
fn all_is_free(dev: &Dev) {
    for node in ['a', 'b', 'c'] {
        let space = space(dev, node);
        for resource in 0..RESOURCES {
            let request = space.lock(format!("r{resource}")).timeout(Duration::from_secs(5));
            request
                .acquire()
                .unwrap_or_else(|error| panic!("r{resource} at node {node}: {error}"))
                .release()
                .unwrap();
        }
    }
}

// ----- tests -------------------------------------------------------------------------------------------------

/// M1, M4.
#[test]
fn programs_that_grant_themselves_exclude_each_other_and_all_others() {
    let dev = Dev::start();
    let path = board(&dev);
    // Two that share a segment, one of the same node that does not, and one elsewhere.
    let them = [
        ('a', SHARES),
        ('a', SHARES),
        ('a', ASKS),
        ('b', SHARES),
        ('a', DROPS),
        ('b', DROPS),
        ('a', DROPS_IN_THREADS),
    ];
    let programs: Vec<Child> =
        (1..).zip(them).map(|(me, (node, s))| program(&dev, node, &path, me, 4_000, s)).collect();
    let counted: u64 = programs.into_iter().map(writes).sum();
    assert!(counted > 100, "{counted} writes");
    assert_eq!(total(&path), counted, "a write under a lock was lost");
    all_is_free(&dev);
}

/// A4, M1, M12: nothing of a death is on the way of who goes on.
#[test]
fn programs_that_are_killed_leave_nothing_locked() {
    let dev = Dev::start();
    let path = board(&dev);
    let steady: Vec<Child> = (1..3).map(|me| program(&dev, 'a', &path, me, 6_000, SHARES)).collect();
    let mut random = 88172645463325252;
    let end = Instant::now() + Duration::from_millis(5_500);
    let mut killed = 0;
    while Instant::now() < end {
        let mut doomed = program(
            &dev,
            'a',
            &path,
            10 + killed,
            60_000,
            [DROPS, SHARES, DROPS_IN_THREADS][killed as usize % 3],
        );
        thread::sleep(Duration::from_millis(60 + next(&mut random) % 90));
        if let Some(status) = doomed.try_wait().unwrap() {
            panic!("it ended by itself: {status}, writes {}", writes(doomed));
        }
        doomed.kill().unwrap();
        doomed.wait().unwrap();
        killed += 1;
    }
    assert!(killed >= 10, "{killed} killed");
    steady.into_iter().for_each(|program| assert!(writes(program) > 0));
    all_is_free(&dev);
}

/// L1: a node that stands still renews no lease. Nothing hangs, nothing more is granted, and whoever asks is told.
#[test]
fn a_node_that_stands_still_loses_what_was_granted_in_its_segment() {
    let dev = Dev::start();
    let space = space(&dev, 'a');
    let guard = space.lock("x").acquire().unwrap();
    let handle = space.handle("y");
    drop(handle.acquire().unwrap());
    signal(dev.engine('a'), "STOP");
    assert!(handle.try_acquire().is_ok(), "the lease lasts for a while");
    until("the lock counts as lost", || guard.is_lost());
    let began = Instant::now();
    let error = space.lock("z").acquire().map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::Lost, "{error}");
    assert!(handle.try_acquire().is_err());
    assert!(guard.release().is_err());
    assert!(began.elapsed() < Duration::from_secs(1), "nothing hangs");
    signal(dev.engine('a'), "CONT");
}

/// A session that has heard of its end grants itself nothing more, though the node's lease would last a while.
#[test]
fn a_session_that_is_over_grants_itself_nothing() {
    let dev = Dev::start();
    let space = space(&dev, 'a');
    let handle = space.handle("x");
    let guard = handle.acquire().unwrap();
    drop(guard);
    let guard = space.lock("y").acquire().unwrap();
    signal(dev.pid('a'), "KILL");
    until("the loss is noticed", || guard.is_lost());
    assert!(handle.try_acquire().is_err());
    assert!(space.lock("y").acquire().is_err());
}

/// A2, C1: no message, and no work of the node.
#[test]
fn locks_of_this_node_cost_it_nothing() {
    let dev = Dev::start();
    let space = space(&dev, 'a');
    space.lock("x").acquire().unwrap().release().unwrap();
    let grants = dev.counter('a', "local_grants");
    let handle = space.handle("x");
    for _ in 0..1_000 {
        space.lock("x").acquire().unwrap().release().unwrap();
        drop(space.lock("x").mode(Mode::PR).acquire().unwrap());
        drop(handle.acquire().unwrap());
    }
    assert_eq!(dev.counter('a', "local_grants"), grants, "the node granted none of them");
}

/// M6, R5.
#[test]
fn a_value_block_is_read_and_written_without_the_node() {
    let dev = Dev::start();
    let (one, two, there) = (space(&dev, 'a'), space(&dev, 'a'), space(&dev, 'b'));
    let add = |space: &Space| {
        let guard = space.lock("sum").value_block().acquire().unwrap();
        let old = guard.value().filter(|value| value.valid).map_or(0, |value| value.bytes[0]);
        guard.set_value(&[old + 1]).unwrap();
        guard.release().unwrap();
        old + 1
    };
    assert_eq!((add(&one), add(&two)), (1, 2));
    let grants = dev.counter('a', "local_grants");
    for n in 3..100 {
        assert_eq!(add(if n % 2 == 0 { &one } else { &two }), n);
    }
    assert_eq!(dev.counter('a', "local_grants"), grants);
    assert_eq!(add(&there), 100, "the block goes along to another node");
    assert_eq!(add(&one), 101);
}

/// M5.
#[test]
fn a_holder_hears_what_others_want_wherever_they_are() {
    let dev = Dev::start();
    let (one, two, there) = (space(&dev, 'a'), space(&dev, 'a'), space(&dev, 'b'));
    one.lock("x").acquire().unwrap().release().unwrap();
    for other in [&two, &there] {
        let guard = one.lock("x").mode(Mode::PR).acquire().unwrap();
        assert_eq!(guard.blocking_now(), None);
        thread::scope(|scope| {
            let wait = scope.spawn(|| other.lock("x").timeout(LONG).acquire().unwrap().release().unwrap());
            assert_eq!(guard.wait_blocking(Duration::from_secs(5)).unwrap(), Some(Mode::EX));
            assert_eq!(guard.blocking_now(), None, "told once");
            guard.convert(Mode::EX.strongest_beside()).unwrap();
            wait.join().unwrap();
        });
        assert_eq!(guard.mode(), Mode::NL);
    }
}

/// M1: whoever gives back behind a gate rings, and knocks at a node that sleeps. Nothing goes on there which would lead
/// the node to look, but that it renews its lease every 750 ms.
#[test]
fn who_gives_back_rings_for_whoever_waits() {
    const ROUNDS: u32 = 20;
    let mut solo = Solo::new("");
    solo.start();
    let open = |shared| {
        let client = Client::builder().shared_memory(shared).connect(solo.socket()).unwrap();
        client.space("default").unwrap()
    };
    // One whom no releaser can hand over to.
    let (one, asks) = (open(true), open(false));
    let mut waited = Duration::ZERO;
    for round in 0..ROUNDS {
        // The first brings what is owned here, so that the second needs no node.
        one.lock("x").acquire().unwrap().release().unwrap();
        let guard = one.lock("x").acquire().unwrap();
        thread::scope(|scope| {
            let wait = scope.spawn(|| {
                asks.lock("x").timeout(LONG).acquire().unwrap().release().unwrap();
                Instant::now()
            });
            assert_eq!(guard.wait_blocking(Duration::from_secs(5)).unwrap(), Some(Mode::EX));
            // The node has said what it had to say, and sleeps.
            thread::sleep(Duration::from_millis(20));
            let given = Instant::now();
            if round % 2 == 0 {
                guard.release().unwrap()
            } else {
                drop(guard)
            }
            waited += wait.join().unwrap() - given;
        });
    }
    assert!(waited < ROUNDS * Duration::from_millis(150), "{ROUNDS} locks came after {waited:?}");
}

/// R6.
#[test]
fn tokens_grow_with_each_exclusive_grant_whoever_gives_it() {
    let dev = Dev::start();
    let (one, two, there) = (space(&dev, 'a'), space(&dev, 'a'), space(&dev, 'b'));
    let asks =
        Client::builder().shared_memory(false).connect(dev.socket('a')).unwrap().space("default").unwrap();
    let mut last = one.lock("x").acquire().unwrap().token();
    let mut random = 7;
    for _ in 0..200 {
        let space = [&one, &two, &there, &asks][next(&mut random) as usize % 4];
        let guard = space.lock("x").acquire().unwrap();
        if !next(&mut random).is_multiple_of(3) {
            let token = guard.token();
            assert!(token > last, "{token:?} after {last:?}");
            last = token;
        }
        guard.release().unwrap();
    }
}
