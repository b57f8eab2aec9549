//! Costs do not grow with what is not looked at: queues, holders, resources.
//!
//! `cargo test --release -p oarlock-lock --test scale -- --ignored --nocapture` prints what a covered pair costs.

use std::time::Duration;

use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, Incarnation, LockId, NodeId, OwnerId, SessionId, SpaceId, TransactionId};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::PlainWords;
use oarlock_layout::time::Instant;
use oarlock_layout::view::{Member, View};
use oarlock_lock::{Config, Lock, Lockspace, Order, Output, Request, Unlock};

const NOW: Instant = Instant(0);

/// Time on a processor, of this thread alone: others may be busy. Where the kernel does not say, time on the wall.
struct Clock(Duration);

impl Clock {
    fn read() -> Duration {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        match stat.split_whitespace().next().and_then(|ns| ns.parse().ok()) {
            Some(ns) => Duration::from_nanos(ns),
            None => std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default(),
        }
    }

    fn now() -> Clock {
        Clock(Clock::read())
    }

    fn elapsed(&self) -> Duration {
        Clock::read() - self.0
    }
}

struct Node {
    space: Lockspace,
    words: PlainWords,
}

impl Node {
    fn new(order: Order, room: u32) -> Node {
        let member = Member { node: NodeId(0), incarnation: Incarnation(1) };
        let mut space = Lockspace::new(Config { order, ..Config::native(SpaceId(0), NodeId(0)) });
        let mut words = PlainWords::new(room);
        space.found(NOW, &mut words, &View { epoch: Epoch(1), members: vec![member] });
        Node { space, words }
    }

    fn lock(&mut self, number: u32, name: &Name, mode: Mode) -> usize {
        self.ask(Request::Lock(Lock {
            lock: id(number),
            name: name.clone(),
            mode,
            flags: Flags::empty(),
            timeout: None,
            owner: OwnerId(0),
            transaction: TransactionId(0),
        }))
    }

    fn unlock(&mut self, number: u32) -> usize {
        self.ask(Request::Unlock(Unlock { lock: id(number), value: None, invalidate: false }))
    }

    /// How many locks were granted by it.
    fn ask(&mut self, request: Request) -> usize {
        self.space.handle_request(NOW, &mut self.words, request);
        let mut granted = 0;
        while let Some(output) = self.space.poll_output() {
            granted += usize::from(matches!(output, Output::Granted(_)));
        }
        granted
    }
}

fn id(number: u32) -> LockId {
    LockId::new(SessionId(number % 97), number)
}

/// n readers, a writer behind them, n readers behind that; then all of them leave in the order they came.
fn crowd(order: Order, n: u32) -> Duration {
    let name = Name::new(b"crowd").unwrap();
    let mut node = Node::new(order, 4);
    let start = Clock::now();
    let mut granted = 0;
    for number in 0..n {
        granted += node.lock(number, &name, Mode::PR);
    }
    granted += node.lock(n, &name, Mode::EX);
    for number in n + 1..2 * n + 1 {
        granted += node.lock(number, &name, Mode::PR);
    }
    assert_eq!(granted, n as usize, "the second half waits behind the writer");
    for number in 0..2 * n + 1 {
        granted += node.unlock(number);
    }
    assert_eq!(granted, 2 * n as usize + 1);
    start.elapsed()
}

/// Writers only: each release grants one and leaves a long queue that cannot be served.
fn line(order: Order, n: u32) -> Duration {
    let name = Name::new(b"line").unwrap();
    let mut node = Node::new(order, 4);
    let start = Clock::now();
    let mut granted = 0;
    for number in 0..n {
        granted += node.lock(number, &name, Mode::EX);
    }
    for number in 0..n {
        granted += node.unlock(number);
    }
    assert_eq!(granted, n as usize);
    start.elapsed()
}

/// One large run costs what eight small ones cost; with one walk too many it would be eight times that. The limit
/// leaves room for caches, and a slow run is looked at again.
fn grows_with_its_size(what: fn(Order, u32) -> Duration) {
    for order in [Order::Strict, Order::Passover] {
        let ratio = || {
            let small: Duration = (0..40).map(|_| what(order, 2_000)).sum();
            let large: Duration = (0..5).map(|_| what(order, 16_000)).sum();
            large.as_secs_f64() / small.as_secs_f64().max(0.001)
        };
        let best = (0..4).map(|_| ratio()).find(|ratio| *ratio < 4.0);
        assert!(best.is_some(), "{order:?}: one run of 16,000 took more than four times eight runs of 2,000");
    }
}

#[test]
fn a_crowd_of_readers_costs_what_each_of_them_costs() {
    grows_with_its_size(crowd);
}

#[test]
fn a_long_line_of_writers_costs_what_each_of_them_costs() {
    grows_with_its_size(line);
}

/// The instructions of a pair do not grow with the table (`cargo xtask bench lock` counts them); its cache misses do, and
/// so does the time: `cargo test --release -p oarlock-lock --test scale -- --ignored --nocapture`.
#[test]
#[ignore = "prints times; worth reading on a quiet machine only"]
fn a_covered_pair_is_granted_among_a_million_resources() {
    for resources in [1_000u32, 10_000, 100_000, 1_000_000] {
        let mut node = Node::new(Order::Passover, 1 << 21);
        let names: Vec<Name> = (0..resources).map(|i| Name::new(&i.to_be_bytes()).unwrap()).collect();
        for name in &names {
            node.lock(1, name, Mode::EX);
            node.unlock(1);
        }
        let pairs = 400_000u32;
        let start = Clock::now();
        for i in 0..pairs {
            let name = &names[(i.wrapping_mul(2_654_435_761) % resources) as usize];
            assert_eq!(node.lock(1, name, Mode::EX), 1);
            node.unlock(1);
        }
        println!("{resources:>9} resources: {:>5} ns a pair", start.elapsed().as_nanos() / u128::from(pairs));
    }
}

/// What a node keeps of many resources is written and read in a time that fits a lease, and takes no more room than
/// its names and a few numbers each.
#[test]
fn retained_resources_are_written_and_read_at_once() {
    let n = 20_000;
    let mut node = Node::new(Order::Passover, n + n / 4);
    for number in 0..n {
        let name = Name::new(&number.to_le_bytes()).unwrap();
        assert_eq!(node.lock(number, &name, Mode::PR), 1);
        node.unlock(number);
    }
    let start = Clock::now();
    let bytes = cbor4ii::serde::to_vec(Vec::new(), &node.space).expect("memory");
    let written = start.elapsed();
    let read: Lockspace = cbor4ii::serde::from_slice(&bytes).expect("its own words");
    let (both, each) = (start.elapsed(), bytes.len() as u32 / n);
    println!("{n} resources: {each} bytes each, written in {written:?}, read in {:?}", both - written);
    assert_eq!(read.sizes(), node.space.sizes());
    assert!(each < 500 && both < Duration::from_secs(2), "{each} bytes each, {both:?}");
}
