//! Random locks, conversions, cancels and unlocks as programs of libdlm make them, against a model of the grant rules that is as plain as it
//! can be; and the same from many threads at once, where only what must hold in any order is asked for.

mod support;

use std::collections::{BTreeMap, VecDeque};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use oarlock::Mode;
use oarlock_dlm::server::How;
use oarlock_dlm::{Call, Event, Lockspace, Order, Turn, What};
use support::{Dev, Said};

const CANCEL: u32 = 2;
const CONVERT: u32 = 4;
const NOQUEUE: u32 = 1;
const QUECVT: u32 = 0x10;
const HEADQUE: u32 = 0x1000;
const FORCEUNLOCK: u32 = 0x2_0000;

const EAGAIN: i32 = 11;
const EDEADLK: i32 = 35;
const ECANCEL: i32 = 0x10001;
const EUNLOCK: i32 = 0x10002;

/// Chance from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }

    fn mode(&mut self) -> Mode {
        Mode::ALL[self.roll(Mode::ALL.len())]
    }
}

/// One resource, and what everybody has of it: scenarios 1 to 21, 50 and 53.
#[derive(Default)]
struct Model {
    granted: BTreeMap<usize, Mode>,
    converting: VecDeque<(usize, Mode)>,
    waiting: VecDeque<(usize, Mode)>,
    /// What was told to whom since it was last asked.
    told: Vec<(usize, i32)>,
}

impl Model {
    fn fits(&self, lock: usize, mode: Mode) -> bool {
        self.granted.iter().all(|(other, held)| *other == lock || held.compatible(mode))
    }

    fn converts(&self, lock: usize) -> bool {
        self.converting.iter().any(|(it, _)| *it == lock)
    }

    fn waits(&self, lock: usize) -> bool {
        self.waiting.iter().any(|(it, _)| *it == lock)
    }

    fn grant(&mut self, lock: usize, mode: Mode) {
        self.granted.insert(lock, mode);
        self.told.push((lock, 0));
    }

    fn scan(&mut self) {
        while let Some((lock, mode)) = self.converting.front().copied().filter(|(l, m)| self.fits(*l, *m)) {
            self.converting.pop_front();
            self.grant(lock, mode);
        }
        while self.converting.is_empty()
            && let Some((lock, mode)) = self.waiting.front().copied().filter(|(l, m)| self.fits(*l, *m))
        {
            self.waiting.pop_front();
            self.grant(lock, mode);
        }
    }

    fn lock(&mut self, lock: usize, mode: Mode, flags: u32) {
        if self.converting.is_empty() && self.waiting.is_empty() && self.fits(lock, mode) {
            self.grant(lock, mode);
        } else if flags & NOQUEUE != 0 {
            self.told.push((lock, EAGAIN));
        } else if flags & HEADQUE != 0 {
            // Whoever has come to the front is looked at like any other there.
            self.waiting.push_front((lock, mode));
            self.scan();
        } else {
            self.waiting.push_back((lock, mode));
        }
    }

    fn convert(&mut self, lock: usize, mode: Mode, flags: u32) {
        let from = self.granted[&lock];
        let behind = flags & QUECVT != 0 && !self.converting.is_empty();
        if from.covers(mode) || !behind && self.fits(lock, mode) {
            self.grant(lock, mode);
            self.scan();
        } else if flags & NOQUEUE != 0 {
            self.told.push((lock, EAGAIN));
        } else if self.converting.iter().any(|(_, wanted)| !wanted.compatible(from)) {
            self.told.push((lock, EDEADLK));
        } else {
            self.converting.push_back((lock, mode));
        }
    }

    fn cancel(&mut self, lock: usize) {
        self.converting.retain(|(it, _)| *it != lock);
        self.waiting.retain(|(it, _)| *it != lock);
        self.told.push((lock, ECANCEL));
        self.scan();
    }

    fn unlock(&mut self, lock: usize) {
        self.converting.retain(|(it, _)| *it != lock);
        self.waiting.retain(|(it, _)| *it != lock);
        self.granted.remove(&lock);
        self.told.push((lock, EUNLOCK));
        self.scan();
    }
}

type Space = Arc<Lockspace<usize>>;

fn call(name: &[u8], lkid: u32, mode: Mode, flags: u32, user: usize) -> Call<'_, usize> {
    let mode = mode as u32;
    Call { mode, flags, name, lkid, value: None, notices: false, transaction: 0, timeout: None, user }
}

fn order(lkid: u32, flags: u32) -> Order<impl FnOnce(&mut usize)> {
    Order { lkid, flags, value: None, change: |_: &mut usize| () }
}

fn told(event: Event<usize>) -> Option<(usize, i32)> {
    match event.what {
        What::Completed(report) => Some((event.user, report.status)),
        What::Blocking(_) => None,
    }
}

/// All that is told until what was asked before is over: the node tells a session what comes of its requests in their order.
fn hear(space: &Space, at_least: usize, what: &str) -> Vec<(usize, i32)> {
    let end = Instant::now() + Duration::from_secs(20);
    let mut all = Vec::new();
    let drain = |all: &mut Vec<(usize, i32)>| {
        while let Some(event) = space.next() {
            all.extend(told(event));
        }
    };
    while all.len() < at_least {
        assert!(Instant::now() < end, "{what}: only {all:?} was told");
        drain(&mut all);
        std::thread::yield_now();
    }
    let later = Mutex::new(Vec::new());
    let turn = |event: Event<usize>| later.lock().unwrap().extend(told(event));
    let mut lkid = 0;
    let last = space.lock_wait(call(b"last", 0, Mode::EX, 0, usize::MAX), |it| lkid = it, Turn::Call(&turn));
    assert_eq!(last.unwrap().status, 0, "{what}");
    space.unlock_wait(order(lkid, 0), || (), Turn::Call(&turn)).unwrap();
    all.extend(later.into_inner().unwrap());
    drain(&mut all);
    all
}

const LOCKS: usize = 6;

/// One program alone: whatever it does, it is told just what the model tells, no more and no less.
fn alone(space: &Space, seed: u64, steps: usize) {
    let mut dice = Dice(seed);
    let name = format!("r{seed}").into_bytes();
    let mut model = Model::default();
    let mut ids = [0u32; LOCKS];
    let mut history = Vec::new();
    for _ in 0..steps {
        let lock = dice.roll(LOCKS);
        let known = model.granted.contains_key(&lock) || model.waits(lock);
        let under_way = model.converts(lock) || model.waits(lock);
        let (mode, chance) = (dice.mode(), dice.roll(8));
        let what = match (known, under_way) {
            (false, _) => {
                let flags = [0, 0, 0, 0, 0, NOQUEUE, HEADQUE, 0][chance];
                space.lock(call(&name, 0, mode, flags, lock), |id| ids[lock] = id).unwrap();
                model.lock(lock, mode, flags);
                format!("lock {lock} {mode} {flags:#x}")
            }
            (true, false) if chance < 5 => {
                let up = !model.granted[&lock].covers(mode);
                let flags = [0, 0, 0, NOQUEUE, if up { QUECVT } else { 0 }][chance];
                space.lock(call(&name, ids[lock], mode, flags | CONVERT, lock), |_| ()).unwrap();
                model.convert(lock, mode, flags);
                format!("convert {lock} {mode} {flags:#x}")
            }
            (true, false) if chance == 5 => {
                assert_eq!(
                    space.unlock(order(ids[lock], CANCEL), || ()),
                    Ok(false),
                    "nothing is to be withdrawn"
                );
                format!("cancel {lock}, which is granted")
            }
            (true, true) if chance < 4 => {
                space.unlock(order(ids[lock], CANCEL), || ()).unwrap();
                model.cancel(lock);
                format!("cancel {lock}")
            }
            (true, _) => {
                let flags = if under_way { FORCEUNLOCK } else { 0 };
                space.unlock(order(ids[lock], flags), || ()).unwrap();
                model.unlock(lock);
                format!("unlock {lock} {flags:#x}")
            }
        };
        history.push(what);
        let mut expected = std::mem::take(&mut model.told);
        let mut heard = hear(space, expected.len(), history.last().unwrap());
        // Who is told first of those that go on together is of no meaning.
        expected.sort_unstable();
        heard.sort_unstable();
        assert_eq!(heard, expected, "seed {seed}, after: {history:#?}");
    }
    for (lock, id) in ids.iter().enumerate() {
        if model.granted.contains_key(&lock) || model.waits(lock) {
            space.unlock(order(*id, FORCEUNLOCK), || ()).unwrap();
            model.unlock(lock);
            let expected = std::mem::take(&mut model.told).len();
            assert_eq!(hear(space, expected, "the end").len(), expected);
        }
    }
}

/// Who is known to hold what: entered once a grant was told, and left before it is given back or made weaker. So whatever stands
/// here is held.
#[derive(Default)]
struct Board(Mutex<BTreeMap<(usize, usize), Mode>>);

impl Board {
    fn enter(&self, who: (usize, usize), mode: Mode) {
        let mut board = self.0.lock().unwrap();
        board.insert(who, mode);
        for (other, held) in board.iter().filter(|(other, _)| **other != who) {
            assert!(held.compatible(mode), "{who:?} is granted {mode} beside {held} of {other:?}");
        }
    }

    fn leave(&self, who: (usize, usize)) {
        self.0.lock().unwrap().remove(&who);
    }
}

/// Many at once, with cancels and forced unlocks that race with grants: one answer for each request, of those that there can be; nobody
/// beside somebody whom it excludes; and in the end all is free.
fn together(space: &Space, seed: u64, threads: usize, steps: usize) -> u32 {
    let (board, races) = (Board::default(), AtomicU32::new(0));
    let work = |thread: usize| {
        let mut dice = Dice(seed * 1_000 + thread as u64);
        let who = (thread, 0);
        let wait = |space: &Space| {
            let end = Instant::now() + Duration::from_secs(30);
            loop {
                if let Some(event) = space.next() {
                    break told(event).expect("nobody asked for notices").1;
                }
                assert!(Instant::now() < end, "thread {thread}, seed {seed}: no answer");
                std::thread::yield_now();
            }
        };
        // A handle of its own, so that what is told is told to this thread.
        let mine: Space = Lockspace::open(space.name().as_bytes(), How::Attach).unwrap();
        for _ in 0..steps {
            let mut id = 0;
            let mode = dice.mode();
            mine.lock(call(b"shared", 0, mode, 0, thread), |it| id = it).unwrap();
            // Taken back at once, or not; by cancel or by force.
            let (chance, pause) = (dice.roll(6), dice.roll(40));
            (0..pause).for_each(|_| std::thread::yield_now());
            let status = match chance {
                0 => match mine.unlock(order(id, CANCEL), || ()) {
                    Ok(false) => wait(&mine),
                    Ok(true) => {
                        let status = wait(&mine);
                        races.fetch_add(u32::from(status == 0), Ordering::Relaxed);
                        assert!([0, ECANCEL].contains(&status), "{status}");
                        status
                    }
                    Err(error) => panic!("cancel: {error}"),
                },
                1 => {
                    mine.unlock(order(id, FORCEUNLOCK), || ()).unwrap();
                    let status = wait(&mine);
                    if status == 0 {
                        races.fetch_add(1, Ordering::Relaxed);
                        assert_eq!(wait(&mine), EUNLOCK);
                    } else {
                        assert_eq!(status, EUNLOCK);
                    }
                    continue;
                }
                _ => wait(&mine),
            };
            if status != 0 {
                continue;
            }
            board.enter(who, mode);
            let next = dice.mode();
            if !next.covers(mode) {
                // It may be given up at any time from now on.
                board.leave(who);
            }
            let flags = CONVERT | if dice.roll(2) == 0 { NOQUEUE } else { 0 };
            mine.lock(call(b"shared", id, next, flags, thread), |_| ()).unwrap();
            match wait(&mine) {
                0 => board.enter(who, next),
                EAGAIN | EDEADLK => {}
                other => panic!("convert: {other:#x}"),
            }
            board.leave(who);
            mine.unlock(order(id, 0), || ()).unwrap();
            assert_eq!(wait(&mine), EUNLOCK);
        }
        assert!(mine.next().is_none(), "more than one answer");
        mine.close();
    };
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || work(thread));
        }
    });
    let mut lkid = 0;
    let last = space.lock_wait(call(b"shared", 0, Mode::EX, NOQUEUE, 0), |it| lkid = it, Turn::Call(&|_| ()));
    assert_eq!(last.unwrap().status, 0, "all is free");
    space.unlock_wait(order(lkid, 0), || (), Turn::Call(&|_| ())).unwrap();
    races.into_inner()
}

/// The program: it has the node's socket in its environment.
#[test]
#[ignore = "a program that another test starts"]
fn program() {
    let space: Space = Lockspace::open(b"model", How::Create { exclusive: true }).unwrap();
    for seed in 1..=60 {
        alone(&space, seed, 60);
    }
    let races: u32 = (1..=3).map(|seed| together(&space, seed, 5, 60)).sum();
    println!("\nraces <{races}>");
    space.leave(false).unwrap();
}

#[test]
fn random_requests_are_answered_as_the_model_says_and_races_have_one_answer() {
    let dev = Dev::start_with(&["--space", "dlm:strict"]);
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.args(["program", "--exact", "--ignored", "--nocapture"]).env("OARLOCK_SOCKET", dev.socket('a'));
    let said = Said::of(program.stderr(Stdio::piped()).output().unwrap()).expect(0, &["races <"]);
    let races: u32 = said.out.split(['<', '>']).nth(1).unwrap().parse().unwrap();
    assert!(races > 0, "no grant has ever met a cancel");
}
