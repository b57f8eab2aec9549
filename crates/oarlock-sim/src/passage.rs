//! Circuits alone, in the same weather: what goes in on one side comes out on the other (A5, A8, A9; I9, I10).
//!
//! Whole nodes hide their circuits, and a lock manager would notice a lost message only sometimes. So here the
//! ends of circuits are driven directly, with messages of every size, and runs that end and begin again.

use oarlock_circuit::{Circuits, Class, Config, Output, Peer};
use oarlock_cluster::LogicalClock;
use oarlock_layout::id::{Incarnation, NodeId};
use oarlock_layout::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64;

use crate::check::Finding;
use crate::check::delivery::{Delivery, Passage, Run};
use crate::host::Host;
use crate::network::{Disturbance, Network, Weather};
use crate::queue::{Queue, Time};
use crate::random::Random;
use crate::seal::ChecksumSeal;
use crate::swarm::{MS, S};

/// What became of a run of circuits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Passages {
    /// Everything that is not as promised.
    pub findings: Vec<Finding>,
    /// Messages delivered.
    pub delivered: usize,
    /// Datagrams that the network harmed.
    pub harmed: u64,
    /// How often an end began again as another run.
    pub restarts: u64,
    /// Hash over every datagram, for replays.
    pub trace: u64,
}

enum Happening {
    Datagram { from: u16, to: u16, bytes: Vec<u8> },
    Timer { node: u16 },
    Send,
    Fault,
    Settle(u64),
    Replay,
    Restart,
}

struct EndOfLine {
    circuits: Circuits,
    clock: LogicalClock,
    incarnation: u64,
    /// The run of each peer with which there is a circuit.
    up: Vec<Option<u64>>,
    timer_at: Time,
}

struct Line {
    seed: u64,
    nodes: u16,
    ends: Vec<EndOfLine>,
    network: Network,
    queue: Queue<Happening>,
    random: Random,
    delivery: Delivery,
    trace: u64,
    restarts: u64,
    calm_at: Time,
}

const SECRET: u64 = 77;

/// Sends messages between `nodes` ends for so many seconds of bad weather, then lets it clear up.
pub fn run_circuits(seed: u64, nodes: u16, seconds: u64) -> Passages {
    let mut random = Random::new(seed ^ 0xc14c);
    let weather = Weather {
        lost: random.between(0, 300),
        doubled: random.between(0, 100),
        corrupted: random.between(0, 50),
        reordered: random.between(0, 300),
        late: random.spread(MS, 500 * MS),
        ..Weather::FINE
    };
    let network = Network::new(nodes, weather, random.fork());
    let calm_at = seconds * S;
    let mut line = Line {
        seed,
        nodes,
        ends: Vec::new(),
        network,
        queue: Queue::default(),
        random,
        delivery: Delivery::default(),
        trace: 0,
        restarts: 0,
        calm_at,
    };
    for node in 0..nodes {
        let end = line.new_end(node, 1);
        line.ends.push(end);
    }
    for node in 0..nodes {
        line.drain(node);
    }
    for happening in [Happening::Send, Happening::Fault, Happening::Replay, Happening::Restart] {
        line.queue.push(MS, happening);
    }
    // The longest delay of the storm, and the longest pause between retransmissions, several times.
    let end = calm_at + 20 * S;
    let mut calm = false;
    while let Some(happening) = line.queue.pop(end) {
        if !calm && line.queue.now() >= calm_at {
            calm = true;
            line.network.calm();
        }
        line.happen(happening);
    }
    let runs: Vec<Run> = line.ends.iter().enumerate().map(|(n, e)| (n as u16, e.incarnation)).collect();
    line.delivery.rest(end, |run| runs.contains(&run));
    Passages {
        delivered: line.delivery.delivered(),
        findings: line.delivery.finish(),
        harmed: line.network.harmed,
        restarts: line.restarts,
        trace: line.trace,
    }
}

impl Line {
    fn new_end(&self, node: u16, incarnation: u64) -> EndOfLine {
        let key = |n: u16| ChecksumSeal::new(u64::from(n) + 1, SECRET, 0).public_key();
        let peer = |n| Peer { node: NodeId(n), address: Host::address(n), key: key(n) };
        let seed = self.seed ^ (u64::from(node) << 16) ^ (incarnation << 32);
        let config = Config {
            me: NodeId(node),
            incarnation: Incarnation(incarnation),
            cluster: "passage".into(),
            shared: 1,
            peers: (0..self.nodes).map(peer).collect(),
            seed,
            options: oarlock_circuit::Options {
                rekey_after: Duration::from_secs(3),
                rekey_packets: 2_000,
                ..oarlock_circuit::Options::default()
            },
        };
        let seal = Box::new(ChecksumSeal::new(u64::from(node) + 1, SECRET, seed));
        EndOfLine {
            circuits: Circuits::new(Instant(self.queue.now()), config, seal),
            clock: LogicalClock::new(),
            incarnation,
            up: vec![None; usize::from(self.nodes)],
            timer_at: Time::MAX,
        }
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.queue.now();
        let storm = now < self.calm_at;
        match happening {
            Happening::Datagram { from, to, mut bytes } => {
                let end = &mut self.ends[usize::from(to)];
                let address = Host::address(from);
                end.circuits.handle_datagram(Instant(now), &mut end.clock, address, &mut bytes);
                self.drain(to);
            }
            Happening::Timer { node } => {
                let end = &mut self.ends[usize::from(node)];
                if end.timer_at == now {
                    end.timer_at = Time::MAX;
                    end.circuits.handle_timeout(Instant(now), &mut end.clock);
                    self.drain(node);
                }
            }
            Happening::Send if storm => {
                self.send();
                let at = now + self.random.spread(100_000, 20 * MS);
                self.queue.push(at, Happening::Send);
            }
            Happening::Fault if storm => {
                let links = self.network.all_links();
                let cut = *self.random.pick(&links);
                let weather = Weather { lost: 1000, delay: (0, 0), late: 0, ..Weather::FINE };
                let flap = if self.random.chance(300) { self.random.spread(MS, 200 * MS) } else { 0 };
                let number = self.network.disturb(now, Disturbance { links: vec![cut], weather, flap });
                let length = self.random.spread(10 * MS, 3 * S);
                self.queue.push(now + length, Happening::Settle(number));
                let at = now + self.random.below(2 * S);
                self.queue.push(at, Happening::Fault);
            }
            Happening::Replay if storm => {
                if let Some((from, to, bytes)) = self.network.replay(None, false) {
                    self.queue.push(now, Happening::Datagram { from, to, bytes });
                }
                let at = now + self.random.below(50 * MS);
                self.queue.push(at, Happening::Replay);
            }
            Happening::Restart if storm => {
                // The first one does not count: nothing has happened yet.
                if now > S {
                    self.restart();
                }
                let at = now + S + self.random.below(6 * S);
                self.queue.push(at, Happening::Restart);
            }
            Happening::Settle(number) => self.network.settle(number),
            Happening::Send | Happening::Fault | Happening::Replay | Happening::Restart => {}
        }
    }

    fn restart(&mut self) {
        let node = self.random.below(self.nodes.into()) as u16;
        let incarnation = self.ends[usize::from(node)].incarnation + 1;
        self.ends[usize::from(node)] = self.new_end(node, incarnation);
        self.restarts += 1;
        self.drain(node);
    }

    fn send(&mut self) {
        let now = self.queue.now();
        let links = self.network.all_links();
        let (from, to) = *self.random.pick(&links);
        let class = if self.random.chance(700) { Class::Lock } else { Class::Bulk };
        let most = if class == Class::Bulk && self.random.chance(100) { 200_000 } else { 300 };
        let length = self.random.between(1, most) as usize;
        let mut message = vec![0; length];
        let head = self.random.bits().to_le_bytes();
        message.iter_mut().zip(head.iter().cycle()).for_each(|(byte, head)| *byte = *head);
        let end = &mut self.ends[usize::from(from)];
        let peer = end.up[usize::from(to)];
        if end.circuits.send(Instant(now), NodeId(to), class, &message).is_ok() {
            let peer = peer.expect("only an open circuit takes messages");
            let (from, to) = ((from, end.incarnation), (to, peer));
            let passage = Passage::Sent { from, to, class: class as u8, message: xxh3_64(&message) };
            self.delivery.see(now, passage);
        }
        self.drain(from);
    }

    fn drain(&mut self, node: u16) {
        let now = self.queue.now();
        let end = &mut self.ends[usize::from(node)];
        let me = (node, end.incarnation);
        while let Some(output) = end.circuits.poll_output(Instant(now), &mut end.clock) {
            match output {
                Output::Transmit(transmit) => {
                    let to = Host::at_address(transmit.to).expect("an address of this line");
                    for datagram in transmit.datagrams() {
                        self.trace = xxh3_64(datagram) ^ self.trace.rotate_left(11) ^ now;
                        let queue = &mut self.queue;
                        self.network.send(now, node, to, datagram, |flight| {
                            let bytes = flight.altered.unwrap_or_else(|| datagram.to_vec());
                            queue.push(flight.at, Happening::Datagram { from: node, to, bytes });
                        });
                    }
                }
                Output::Deliver { from, class, message } => {
                    let run = end.up[usize::from(from.0)].unwrap_or(0);
                    let (from, message) = ((from.0, run), xxh3_64(&message));
                    let class = class as u8;
                    self.delivery.see(now, Passage::Delivered { from, to: me, class, message });
                }
                Output::Up { peer, incarnation } => {
                    end.up[usize::from(peer.0)] = Some(incarnation.0);
                    let peer = (peer.0, incarnation.0);
                    self.delivery.see(now, Passage::Up { at: me, peer });
                }
                Output::Down { peer, incarnation, unknown } => {
                    end.up[usize::from(peer.0)] = None;
                    let peer = (peer.0, incarnation.0);
                    self.delivery.see(now, Passage::Down { at: me, peer, unknown });
                }
                Output::Silent { .. }
                | Output::Heard { .. }
                | Output::Gasp { .. }
                | Output::RefusedBy { .. }
                | Output::Refused { .. } => {}
            }
        }
        if let Some(Instant(wake)) = end.circuits.poll_timeout() {
            let wake = wake.max(now);
            if wake < end.timer_at {
                end.timer_at = wake;
                self.queue.push(wake, Happening::Timer { node });
            }
        }
    }
}
