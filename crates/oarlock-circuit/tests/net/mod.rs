//! A few nodes, a network that can be as bad as one likes, and one clock: from a seed, always the same run.
#![allow(dead_code, unreachable_pub)] // each test uses its part

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::time::Duration;

use oarlock_circuit::{Circuits, Class, Config, Options, Output, Peer, Transmit};
use oarlock_layout::code::Code;
use oarlock_layout::id::{Incarnation, NodeId};
use oarlock_layout::seal::{PublicKey, Seal};
use oarlock_layout::stamp::{AbsurdStamp, Clock, Reading, Stamp};
use oarlock_layout::time::Instant;

#[path = "../../../oarlock-sim/src/seal.rs"]
pub mod seal;

/// Checksum seals with a key for each node and one secret.
pub fn checksum_seals() -> MakeSeal {
    Box::new(|node| {
        let seal = seal::ChecksumSeal::new(100 + node as u64, 42, 7000 + node as u64);
        let key = seal.public_key();
        (Box::new(seal), key)
    })
}

/// Lamport's clock, as small as it can be.
#[derive(Default)]
pub struct Lamport(pub u64);

impl Clock for Lamport {
    fn reading(&mut self, _: NodeId) -> Reading {
        self.0 += 1;
        Reading::bare(Stamp(self.0))
    }

    fn hear(&mut self, _: NodeId, &Reading { stamp, .. }: &Reading) -> Result<(), AbsurdStamp> {
        if stamp > Stamp::MAX {
            return Err(AbsurdStamp { stamp, max: Stamp::MAX });
        }
        self.0 = self.0.max(stamp.0);
        Ok(())
    }
}

/// How bad the network is; shares are per thousand.
#[derive(Clone, Copy)]
pub struct Faults {
    pub loss: u64,
    pub duplication: u64,
    pub flips: u64,
    /// Least and most time on the way, in microseconds; the difference is what reorders.
    pub delay_us: (u64, u64),
}

pub const CLEAN: Faults = Faults { loss: 0, duplication: 0, flips: 0, delay_us: (100, 100) };
pub const BAD: Faults = Faults { loss: 300, duplication: 100, flips: 50, delay_us: (50, 3000) };

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed ^ 0x5851_f42d_4c95_7f2d)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}

/// What happened at a node besides deliveries, with the millisecond.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Up(NodeId, Incarnation),
    Down(NodeId, Incarnation, usize),
    Silent(NodeId),
    Heard(NodeId),
    RefusedBy(NodeId, Code),
    Refused(Option<NodeId>, Code),
}

pub struct Node {
    pub circuits: Circuits,
    pub clock: Lamport,
    pub events: Vec<(u64, Event)>,
    pub delivered: BTreeMap<(NodeId, Class), Vec<Vec<u8>>>,
    /// When each delivery happened, in nanoseconds.
    pub delivered_at: BTreeMap<(NodeId, Class), Vec<u64>>,
    pub datagrams_out: u64,
}

type Flying = Reverse<(u64, u64, usize, SocketAddr, Vec<u8>)>;
/// Sees each datagram before the faults: from, to, bytes; false drops it.
pub type Hook = Box<dyn FnMut(usize, usize, &mut Vec<u8>) -> bool>;
pub type MakeSeal = Box<dyn Fn(usize) -> (Box<dyn Seal + Send>, PublicKey)>;

pub struct World {
    pub now: Instant,
    pub nodes: Vec<Node>,
    pub faults: Faults,
    pub cut: BTreeSet<(usize, usize)>,
    pub hook: Option<Hook>,
    pub random: Random,
    pub make_seal: MakeSeal,
    pub options: Options,
    flying: BinaryHeap<Flying>,
    sent: u64,
}

pub fn address(node: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, node as u8 + 1], 4000))
}

fn node_at(address: SocketAddr) -> Option<usize> {
    match address {
        SocketAddr::V4(v4) if v4.port() == 4000 => Some(usize::from(v4.ip().octets()[3]) - 1),
        _ => None,
    }
}

pub fn id(node: usize) -> NodeId {
    NodeId(node as u16)
}

impl World {
    pub fn new(nodes: usize, seed: u64, options: Options, make_seal: MakeSeal) -> World {
        World::with(nodes, seed, options, make_seal, |_, _| {})
    }

    /// `change` may make a node's configuration differ from the others'.
    pub fn with(
        nodes: usize,
        seed: u64,
        options: Options,
        make_seal: MakeSeal,
        change: impl Fn(usize, &mut Config),
    ) -> World {
        let mut world = World {
            now: Instant::from_millis(1000),
            nodes: Vec::new(),
            faults: CLEAN,
            cut: BTreeSet::new(),
            hook: None,
            random: Random::new(seed),
            make_seal,
            options,
            flying: BinaryHeap::new(),
            sent: 0,
        };
        for node in 0..nodes {
            let mut config = world.config(nodes, node, 1, seed);
            change(node, &mut config);
            let circuits = Circuits::new(world.now, config, (world.make_seal)(node).0);
            world.nodes.push(Node {
                circuits,
                clock: Lamport::default(),
                events: Vec::new(),
                delivered: BTreeMap::new(),
                delivered_at: BTreeMap::new(),
                datagrams_out: 0,
            });
        }
        world
    }

    pub fn config(&self, nodes: usize, node: usize, incarnation: u64, seed: u64) -> Config {
        Config {
            me: id(node),
            incarnation: Incarnation(incarnation),
            cluster: "test".into(),
            shared: 77,
            peers: (0..nodes)
                .map(|peer| Peer { node: id(peer), address: address(peer), key: (self.make_seal)(peer).1 })
                .collect(),
            seed: seed.wrapping_mul(1000) + node as u64 * 10 + incarnation,
            options: self.options,
        }
    }

    /// Kills a node and starts it again as another run. What was on its way stays on its way.
    pub fn restart(&mut self, node: usize, incarnation: u64, seed: u64) {
        let config = self.config(self.nodes.len(), node, incarnation, seed);
        let seal = (self.make_seal)(node).0;
        self.nodes[node].circuits = Circuits::new(self.now, config, seal);
        self.nodes[node].clock = Lamport::default();
        self.nodes[node].delivered.clear();
        self.nodes[node].delivered_at.clear();
    }

    pub fn ms(&self) -> u64 {
        self.now.0 / 1_000_000
    }

    /// Puts a datagram on the wire as if `from` had sent it, past hook and faults.
    pub fn inject(&mut self, from: SocketAddr, to: usize, bytes: Vec<u8>) {
        self.sent += 1;
        self.flying.push(Reverse((self.now.0 + 1000, self.sent, to, from, bytes)));
    }

    fn put(&mut self, from: usize, transmit: &Transmit) {
        let Some(to) = node_at(transmit.to) else { return };
        for datagram in transmit.datagrams() {
            self.nodes[from].datagrams_out += 1;
            let mut bytes = datagram.to_vec();
            if let Some(hook) = &mut self.hook
                && !hook(from, to, &mut bytes)
            {
                continue;
            }
            if self.cut.contains(&(from, to)) || self.random.below(1000) < self.faults.loss {
                continue;
            }
            let copies = 1 + u64::from(self.random.below(1000) < self.faults.duplication);
            for _ in 0..copies {
                let mut bytes = bytes.clone();
                if self.random.below(1000) < self.faults.flips {
                    let bit = self.random.below(bytes.len() as u64 * 8) as usize;
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
                let (least, most) = self.faults.delay_us;
                let delay = (least + self.random.below(most - least + 1)) * 1000;
                self.sent += 1;
                self.flying.push(Reverse((self.now.0 + delay, self.sent, to, address(from), bytes)));
            }
        }
    }

    /// Takes a node's outputs until there are none.
    pub fn drain(&mut self, node: usize) {
        loop {
            let n = &mut self.nodes[node];
            let Some(output) = n.circuits.poll_output(self.now, &mut n.clock) else { return };
            let ms = self.now.0 / 1_000_000;
            match output {
                Output::Transmit(transmit) => self.put(node, &transmit),
                Output::Deliver { from, class, message } => {
                    n.delivered.entry((from, class)).or_default().push(message);
                    n.delivered_at.entry((from, class)).or_default().push(self.now.0);
                }
                Output::Up { peer, incarnation } => n.events.push((ms, Event::Up(peer, incarnation))),
                Output::Down { peer, incarnation, unknown } => {
                    n.events.push((ms, Event::Down(peer, incarnation, unknown)));
                }
                Output::Silent { peer } => n.events.push((ms, Event::Silent(peer))),
                Output::Heard { peer } => n.events.push((ms, Event::Heard(peer))),
                Output::Gasp { .. } => {}
                Output::RefusedBy { peer, code } => n.events.push((ms, Event::RefusedBy(peer, code))),
                Output::Refused { node, code, .. } => n.events.push((ms, Event::Refused(node, code))),
            }
        }
    }

    /// Runs until the next thing that happens, but not beyond `until`; false when `until` is reached.
    pub fn step(&mut self, until: Instant) -> bool {
        (0..self.nodes.len()).for_each(|node| self.drain(node));
        let arrival = self.flying.peek().map(|f| f.0.0);
        let timer =
            (0..self.nodes.len()).filter_map(|n| Some((self.nodes[n].circuits.poll_timeout()?.0, n))).min();
        let next = arrival.into_iter().chain(timer.map(|t| t.0)).min().unwrap_or(u64::MAX);
        if next > until.0 {
            self.now = until;
            return false;
        }
        self.now = Instant(self.now.0.max(next));
        if arrival == Some(next) {
            let Reverse((_, _, to, from, mut bytes)) = self.flying.pop().expect("peeked");
            let n = &mut self.nodes[to];
            n.circuits.handle_datagram(self.now, &mut n.clock, from, &mut bytes);
        } else if let Some((_, node)) = timer {
            let n = &mut self.nodes[node];
            n.circuits.handle_timeout(self.now, &mut n.clock);
        }
        (0..self.nodes.len()).for_each(|node| self.drain(node));
        true
    }

    pub fn run_for(&mut self, duration: Duration) {
        let until = self.now + duration;
        let mut steps = 0u64;
        while self.step(until) {
            steps += 1;
            assert!(steps < 20_000_000, "the world spins");
        }
    }

    /// Runs until `done`, at most `limit`; true if it was.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&World) -> bool) -> bool {
        let until = self.now + limit;
        loop {
            if done(self) {
                return true;
            }
            if !self.step(until) {
                return done(self);
            }
        }
    }

    /// Every pair has an open circuit at both ends.
    pub fn all_up(&self) -> bool {
        let n = self.nodes.len();
        (0..n).all(|a| {
            (0..n).filter(|&b| b != a).all(|b| {
                self.nodes[a].circuits.status(id(b)).is_some_and(|status| status.incarnation.is_some())
            })
        })
    }

    pub fn open(&mut self) {
        assert!(self.run_until(Duration::from_secs(60), World::all_up), "circuits do not open");
    }

    pub fn send(&mut self, from: usize, to: usize, class: Class, message: &[u8]) {
        self.nodes[from].circuits.send(self.now, id(to), class, message).expect("message is taken");
    }

    /// Everything sent was acknowledged.
    pub fn quiet(&self) -> bool {
        (0..self.nodes.len()).all(|a| {
            (0..self.nodes.len())
                .all(|b| self.nodes[a].circuits.status(id(b)).is_none_or(|status| status.unacknowledged == 0))
        })
    }

    pub fn delivered(&self, at: usize, from: usize, class: Class) -> &[Vec<u8>] {
        self.nodes[at].delivered.get(&(id(from), class)).map_or(&[], |v| v)
    }

    pub fn count(&self, node: usize, event: impl Fn(&Event) -> bool) -> usize {
        self.nodes[node].events.iter().filter(|(_, e)| event(e)).count()
    }
}

/// Messages that were sent on each circuit and class: from, to, class.
pub type Sent = BTreeMap<(usize, usize, Class), Vec<Vec<u8>>>;

/// A random load: `turns` times a few messages of random length between random pairs, then some time passes.
pub fn load(world: &mut World, seed: u64, turns: usize, largest: usize) -> Sent {
    let mut random = Random::new(seed);
    let mut sent = Sent::new();
    let nodes = world.nodes.len() as u64;
    for _ in 0..turns {
        for _ in 0..1 + random.below(6) {
            let from = random.below(nodes) as usize;
            let to = ((from as u64 + 1 + random.below(nodes - 1)) % nodes) as usize;
            let class = Class::ALL[random.below(Class::COUNT as u64) as usize];
            let length = match random.below(20) {
                0 => 0,
                1 => random.below(largest as u64 + 1) as usize,
                2..5 => random.below(4000) as usize,
                _ => random.below(200) as usize,
            };
            let message = random.bytes(length);
            world.send(from, to, class, &message);
            sent.entry((from, to, class)).or_default().push(message);
        }
        world.run_for(Duration::from_micros(random.below(4000)));
    }
    sent
}

/// Every message was delivered once, in order, unchanged, and nothing else was.
pub fn check_delivered(world: &World, sent: &Sent) {
    for from in 0..world.nodes.len() {
        for to in 0..world.nodes.len() {
            for class in Class::ALL {
                let sent = sent.get(&(from, to, class)).map_or(&[][..], |v| v);
                let got = world.delivered(to, from, class);
                assert_eq!(got.len(), sent.len(), "number of {class:?} messages {from} to {to}");
                assert!(got == sent, "{class:?} messages {from} to {to} are other ones");
            }
        }
    }
}
