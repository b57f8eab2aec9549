//! One node against a dumb twin: the grant rules of one resource, written down as plainly as they can be, without
//! masters, shadows, owned modes or messages (scenarios 1 to 20, C9 to C11, D9, R1).

use std::collections::VecDeque;

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, Incarnation, LockId, NodeId, OwnerId, SessionId, SpaceId, TransactionId};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::PlainWords;
use oarlock_layout::time::Instant;
use oarlock_layout::view::{Member, View};
use oarlock_lock::{Config, Convert, Lock, Lockspace, Order, Output, Request, Unlock};

/// What a program hears.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Heard {
    Granted(u32, Mode, bool),
    Failed(u32, Code),
    Released(u32),
}

#[derive(Clone, Copy, Debug)]
enum Ask {
    Lock(u32, Mode, Flags),
    Convert(u32, Mode, Flags),
    Unlock(u32),
    Cancel(u32),
}

#[derive(Clone, Copy)]
struct Entry {
    lock: u32,
    from: Option<Mode>,
    mode: Mode,
    flags: Flags,
}

/// All there is to know of a resource if one place knows everything.
struct Twin {
    order: Order,
    granted: Vec<(u32, Mode)>,
    converts: VecDeque<Entry>,
    waits: VecDeque<Entry>,
    heard: Vec<Heard>,
}

impl Twin {
    fn held(&self, lock: u32) -> Option<Mode> {
        self.granted.iter().find(|(l, _)| *l == lock).map(|(_, mode)| *mode)
    }

    fn queued(&self, lock: u32) -> bool {
        self.converts.iter().chain(&self.waits).any(|e| e.lock == lock)
    }

    /// The mode in which an entry could be granted beside all others, and whether it is the second choice.
    fn fits(&self, entry: &Entry) -> Option<(Mode, bool)> {
        let second = match entry.flags {
            f if f.contains(Flags::ALTPR) => Some(Mode::PR),
            f if f.contains(Flags::ALTCW) => Some(Mode::CW),
            _ => None,
        };
        let beside = |mode: Mode| self.granted.iter().all(|(l, m)| *l == entry.lock || m.compatible(mode));
        let choices = [(Some(entry.mode), false), (second, true)];
        choices.into_iter().find_map(|(mode, alternate)| Some((mode.filter(|m| beside(*m))?, alternate)))
    }

    fn try_grant(&mut self, entry: &Entry) -> bool {
        let Some((mode, alternate)) = self.fits(entry) else { return false };
        self.granted.retain(|(lock, _)| *lock != entry.lock);
        self.granted.push((entry.lock, mode));
        self.heard.push(Heard::Granted(entry.lock, mode, alternate));
        true
    }

    fn scan(&mut self) {
        let mut any = false;
        while let Some(first) = self.converts.front().or(self.waits.front()).copied() {
            if !self.try_grant(&first) {
                break;
            }
            any = true;
            self.forget(first.lock);
        }
        let rest: Vec<Entry> = self.converts.iter().chain(&self.waits).skip(1).copied().collect();
        for entry in rest.into_iter().filter(|_| any) {
            let may = self.order == Order::Passover || entry.flags.contains(Flags::NOORDER);
            if may && self.try_grant(&entry) {
                self.forget(entry.lock);
            }
        }
    }

    fn forget(&mut self, lock: u32) {
        self.converts.retain(|e| e.lock != lock);
        self.waits.retain(|e| e.lock != lock);
    }

    fn ask(&mut self, ask: Ask) {
        match ask {
            Ask::Lock(lock, mode, flags) => {
                let entry = Entry { lock, from: None, mode, flags };
                let behind = !self.converts.is_empty() || !self.waits.is_empty();
                let passes = flags.contains(Flags::EXPEDITE);
                self.enter(entry, behind && !passes);
                // HEADQUE may have made it the first.
                self.scan();
            }
            Ask::Convert(lock, mode, flags) => {
                let from = self.held(lock).expect("only what is granted is converted");
                let entry = Entry { lock, from: Some(from), mode, flags };
                let in_place = from.covers(mode);
                let respects = self.order == Order::Passover || flags.contains(Flags::QUECVT);
                self.enter(entry, !in_place && respects && !self.converts.is_empty());
                self.scan();
            }
            Ask::Unlock(lock) => {
                self.forget(lock);
                self.granted.retain(|(l, _)| *l != lock);
                self.heard.push(Heard::Released(lock));
                self.scan();
            }
            Ask::Cancel(lock) => {
                if self.queued(lock) {
                    self.forget(lock);
                    self.heard.push(Heard::Failed(lock, Code::Cancelled));
                    self.scan();
                }
            }
        }
    }

    fn enter(&mut self, entry: Entry, behind: bool) {
        if !behind && self.try_grant(&entry) {
            return;
        }
        if entry.flags.contains(Flags::NOQUEUE) {
            self.heard.push(Heard::Failed(entry.lock, Code::Busy));
            return;
        }
        let front = entry.flags.contains(Flags::HEADQUE);
        if let Some(held) = entry.from {
            // One ahead of it would wait for what it holds, or it, at the front, for what one behind it holds.
            let stuck = self.converts.iter().any(|other| match front {
                false => !other.mode.compatible(held),
                true => other.from.is_some_and(|held| !held.compatible(entry.mode)),
            });
            if stuck {
                self.heard.push(Heard::Failed(entry.lock, Code::Deadlock));
                return;
            }
        }
        let queue = if entry.from.is_some() { &mut self.converts } else { &mut self.waits };
        if front { queue.push_front(entry) } else { queue.push_back(entry) }
    }
}

/// The real thing, with its master beside it.
struct Real {
    space: Lockspace,
    words: PlainWords,
}

const NOW: Instant = Instant(0);

fn id(lock: u32) -> LockId {
    LockId::new(SessionId(1), lock)
}

impl Real {
    /// `owns`: the node retains EX, so that nothing is asked of the master.
    fn new(order: Order, owns: bool) -> Real {
        let member = Member { node: NodeId(0), incarnation: Incarnation(1) };
        let mut space = Lockspace::new(Config { order, ..Config::native(SpaceId(0), NodeId(0)) });
        let mut words = PlainWords::new(4);
        space.found(NOW, &mut words, &View { epoch: Epoch(1), members: vec![member] });
        let mut real = Real { space, words };
        if owns {
            real.ask(Ask::Lock(u32::MAX, Mode::EX, Flags::empty()));
            real.ask(Ask::Unlock(u32::MAX));
        }
        real
    }

    fn ask(&mut self, ask: Ask) -> Vec<Heard> {
        let request = match ask {
            Ask::Lock(lock, mode, flags) => Request::Lock(Lock {
                lock: id(lock),
                name: Name::new(b"r").unwrap(),
                mode,
                flags,
                timeout: None,
                owner: OwnerId(0),
                transaction: TransactionId(0),
            }),
            Ask::Convert(lock, mode, flags) => {
                Request::Convert(Convert { lock: id(lock), mode, flags, timeout: None, value: None })
            }
            Ask::Unlock(lock) => Request::Unlock(Unlock { lock: id(lock), value: None, invalidate: false }),
            Ask::Cancel(lock) => Request::Cancel(id(lock)),
        };
        self.space.handle_request(NOW, &mut self.words, request);
        let mut heard = Vec::new();
        while let Some(output) = self.space.poll_output() {
            match output {
                Output::Granted(g) => heard.push(Heard::Granted(g.lock.handle(), g.mode, g.alternate)),
                Output::Failed { lock, code } => heard.push(Heard::Failed(lock.handle(), code)),
                Output::Released { lock } => heard.push(Heard::Released(lock.handle())),
                Output::Blocking { .. } => {}
                Output::Send { .. } => panic!("there is nobody to send to"),
            }
        }
        heard
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// Something that makes sense in the twin's state.
fn next(random: &mut Random, twin: &Twin, locks: u32) -> Ask {
    let lock = random.below(locks.into()) as u32;
    let mode = random.of(&Mode::ALL);
    if twin.queued(lock) {
        return if random.below(4) == 0 { Ask::Unlock(lock) } else { Ask::Cancel(lock) };
    }
    let none = Flags::empty();
    let common = [none, none, none, Flags::NOQUEUE, Flags::HEADQUE, Flags::NOORDER];
    match twin.held(lock) {
        None if mode == Mode::NL => Ask::Lock(lock, mode, random.of(&[none, Flags::EXPEDITE])),
        None => Ask::Lock(lock, mode, random.of(&common) | second(random, mode)),
        Some(_) if random.below(3) == 0 => Ask::Unlock(lock),
        Some(held) => {
            let up = if held.covers(mode) { none } else { random.of(&[none, none, Flags::QUECVT]) };
            Ask::Convert(lock, mode, random.of(&common) | up | second(random, mode))
        }
    }
}

fn second(random: &mut Random, mode: Mode) -> Flags {
    match mode {
        Mode::CW if random.below(3) == 0 => Flags::ALTPR,
        Mode::PR if random.below(3) == 0 => Flags::ALTCW,
        _ => Flags::empty(),
    }
}

fn compare(order: Order, owns: bool, seeds: u64, steps: u32, locks: u32) {
    let mut answers = 0;
    for seed in 1..=seeds {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (converts, waits) = (VecDeque::new(), VecDeque::new());
        let mut twin = Twin { order, granted: Vec::new(), converts, waits, heard: Vec::new() };
        let mut real = Real::new(order, owns);
        let mut story = Vec::new();
        for _ in 0..steps {
            let ask = next(&mut random, &twin, locks);
            story.push(ask);
            twin.ask(ask);
            let expected = std::mem::take(&mut twin.heard);
            let heard = real.ask(ask);
            answers += heard.len();
            assert_eq!(heard, expected, "seed {seed}, {order:?}, after {story:?}");
        }
    }
    assert!(answers > (seeds * u64::from(steps) / 2) as usize, "only {answers} answers");
}

#[test]
fn strict_order_is_that_of_the_twin() {
    compare(Order::Strict, true, 3_000, 40, 6);
}

#[test]
fn strict_order_is_the_same_when_the_master_has_to_be_asked() {
    compare(Order::Strict, false, 3_000, 40, 6);
}

/// A convert that the master was asked for is granted by a scan, which may let others pass with it (C10); one
/// that is covered is granted at once. So the twin is compared where everything is covered.
#[test]
fn passover_order_is_that_of_the_twin() {
    compare(Order::Passover, true, 3_000, 40, 6);
}

#[test]
fn long_queues_are_served_as_by_the_twin() {
    compare(Order::Strict, false, 60, 400, 60);
    compare(Order::Passover, true, 60, 400, 60);
}
