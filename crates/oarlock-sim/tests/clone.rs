//! Two machines with one identity (FT16): the disk of node c was copied, and both copies run.
//!
//! ```text
//!   a ─────┐
//!          ├── the address of c ──► c and its twin, in turns: same key, same number of the run, chance of their own
//!   b ─────┘
//! ```
//!
//! Which of the two gets what is sent to their address changes every now and then. Whoever ends, or is not let in, begins again with
//! the next number, as a service does.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use oarlock_cluster::Registry;
use oarlock_cluster::registry::{Command, FirstSpace, Founder, Order as QueueOrder, SpaceSettings};
use oarlock_layout::codec::Wire;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, Incarnation, NodeId, OwnerId, SessionId, SpaceId, TransactionId};
use oarlock_layout::message::session::{LockRequest, Reply, Request, VERSION};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::{PlainWords, Words};
use oarlock_layout::stamp::Stamp;
use oarlock_layout::time::{Duration, Instant};
use oarlock_node::rights::Who;
use oarlock_node::{Config, Node, NodeConfig, Order, Output, SpaceConfig, numbered};
use oarlock_sim::Random;
use oarlock_sim::seal::ChecksumSeal;

const MEMBERS: usize = 3;
/// Places: a, b, c and the twin of c.
const PLACES: usize = 4;
const TWIN: usize = 3;
const NAMES: u64 = 4;
const SESSION: SessionId = SessionId(1);

struct Place {
    node: Option<Node>,
    /// Number of its last run, as its disk says.
    run: u64,
    /// When it begins again.
    again: Option<Instant>,
    /// Its program's lock: which resource, and whether it is held.
    lock: Option<(u64, bool)>,
    handle: u32,
    /// Views in which it granted.
    served: u64,
}

struct Cluster {
    now: Instant,
    places: Vec<Place>,
    registry: Registry,
    random: Random,
    /// How long one of the two has the address.
    turn: u64,
    /// Who holds a resource for certain.
    holders: BTreeMap<u64, usize>,
    grants: [u64; PLACES],
}

fn member(place: usize) -> usize {
    if place == TWIN { 2 } else { place }
}

fn address(member: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000 + member as u16))
}

fn name_of(number: u64) -> Name {
    Name::new(format!("r{number}").as_bytes()).expect("a short name")
}

impl Cluster {
    fn new(seed: u64, turn: u64) -> Cluster {
        let seal = |n: usize| ChecksumSeal::new(n as u64 + 1, 77, 0).public_key();
        let members = (0..MEMBERS)
            .map(|n| Founder { name: format!("node-{n}"), address: address(n), key: seal(n) })
            .collect();
        let settings = SpaceSettings {
            order: QueueOrder::Passover,
            value: 64,
            retain: true,
            resources_max: 100,
            owner: 0,
            group: 0,
            mode: 0o660,
        };
        let spaces = vec![FirstSpace { name: "default".into(), settings }];
        let mut registry = Registry::new();
        let _ = registry.apply(&Command::Init { cluster: [7; 16], members, spaces, above: Epoch(0) });
        let place = || Place { node: None, run: 0, again: None, lock: None, handle: 0, served: 0 };
        Cluster {
            now: Instant::from_millis(1_000),
            places: (0..PLACES).map(|_| place()).collect(),
            registry,
            random: Random::new(seed),
            turn,
            holders: BTreeMap::new(),
            grants: [0; PLACES],
        }
    }

    fn start(&mut self, at: usize) {
        let place = &mut self.places[at];
        place.run += 1;
        place.again = None;
        let seed = self.random.bits();
        let seal = |n: usize| ChecksumSeal::new(n as u64 + 1, 77, seed);
        let nodes = (0..MEMBERS).map(|n| NodeConfig {
            name: format!("node-{n}"),
            address: address(n),
            key: seal(n).public_key(),
        });
        let config = Config {
            cluster: "sim".into(),
            me: NodeId(member(at) as u16),
            nodes: numbered(nodes),
            spaces: vec![SpaceConfig {
                name: "default".into(),
                order: Order::Passover,
                retain: true,
                resources_max: 100,
            }],
            shared: 1,
            incarnation: Incarnation(place.run),
            ceiling: Stamp(0),
            seed,
            shards: 1,
            circuits: oarlock_circuit::Options::default(),
            forget_after: Duration::from_secs(10),
            deadlock_after: oarlock_layout::limit::DEADLOCK_AFTER,
            #[cfg(feature = "planted")]
            bug: None,
        };
        let words: Vec<Box<dyn Words + Send>> = vec![Box::new(PlainWords::new(100))];
        let mut node = Node::new(self.now, config, Box::new(seal(member(at))), words);
        node.handle_applied(self.now, &self.registry);
        node.handle_session_opened(self.now, SESSION, 1, Who::root());
        let hello = Request::Hello { version: VERSION, label: "clone".into() };
        node.handle_session_packet(self.now, SESSION, &hello.to_bytes());
        place.node = Some(node);
    }

    /// The run is over, and with it whatever its program had.
    fn end(&mut self, at: usize) {
        self.places[at].node = None;
        self.places[at].lock = None;
        self.holders.retain(|_, holder| *holder != at);
    }

    /// Who gets what is sent to a member.
    fn at_address(&self, member: usize) -> usize {
        let twin = self.now.0 / 1_000_000 / self.turn % 2 == 1;
        if member == 2 && twin && self.places[TWIN].node.is_some() { TWIN } else { member }
    }

    fn settle(&mut self) {
        let mut moved = true;
        let mut rounds = 0;
        while moved {
            moved = false;
            rounds += 1;
            assert!(rounds < 100_000, "they talk without end");
            for at in 0..PLACES {
                while let Some(output) = self.places[at].node.as_mut().and_then(|it| it.poll_output(self.now))
                {
                    moved = true;
                    self.carry(at, output);
                }
                let over = |node: &Node| node.has_ended() || node.not_let_in().is_some();
                if self.places[at].node.as_ref().is_some_and(over) {
                    self.end(at);
                    self.places[at].again = Some(self.now + Duration::from_millis(200));
                }
            }
        }
    }

    fn carry(&mut self, at: usize, output: Output) {
        match output {
            Output::Transmit(transmit) => {
                let to = self.at_address(usize::from(transmit.to.port() - 7000));
                for datagram in transmit.datagrams() {
                    if let Some(node) = &mut self.places[to].node {
                        node.handle_datagram(self.now, address(member(at)), &mut datagram.to_vec());
                    }
                }
            }
            Output::Reply { packet, .. } => {
                let place = &mut self.places[at];
                match Reply::from_bytes(&packet).expect("a node sends what it can read") {
                    Reply::Granted(_) => {
                        let (number, held) = place.lock.as_mut().expect("it asked");
                        *held = true;
                        self.grants[at] += 1;
                        let other = self.holders.insert(*number, at);
                        assert_eq!(other, None, "two hold r{number} at {:?}, one at place {at}", self.now);
                    }
                    Reply::Lost { .. } | Reply::Refused { .. } => {
                        place.lock = None;
                        self.holders.retain(|_, holder| *holder != at);
                    }
                    Reply::Failed { .. } => place.lock = None,
                    _ => {}
                }
            }
            Output::Propose(command) => {
                let outcome = self.registry.apply(&command);
                for place in &mut self.places {
                    if let Some(node) = &mut place.node {
                        node.handle_applied(self.now, &self.registry);
                    }
                }
                if let Some(node) = &mut self.places[at].node {
                    node.handle_answer(self.now, &command, outcome);
                }
            }
            Output::StoreCeiling { ceiling } => {
                if let Some(node) = &mut self.places[at].node {
                    node.handle_ceiling_stored(self.now, ceiling);
                }
            }
            _ => {}
        }
    }

    /// Programs take and give back, one lock each.
    fn work(&mut self) {
        for at in 0..PLACES {
            let place = &mut self.places[at];
            let Some(node) = &mut place.node else { continue };
            place.served += u64::from(node.grants());
            match place.lock {
                Some((number, true)) if self.random.chance(300) => {
                    self.holders.remove(&number);
                    place.lock = None;
                    let unlock = Request::Unlock { handle: place.handle, value: None, invalidate: false };
                    node.handle_session_packet(self.now, SESSION, &unlock.to_bytes());
                }
                None if node.grants() => {
                    place.handle += 1;
                    let number = self.random.below(NAMES);
                    place.lock = Some((number, false));
                    let request = Request::Lock(LockRequest {
                        handle: place.handle,
                        space: SpaceId(0),
                        name: name_of(number),
                        mode: Mode::EX,
                        flags: Flags::empty(),
                        // What the two of one identity master may be out of reach: then something else.
                        timeout_ms: 300,
                        owner: OwnerId(0),
                        transaction: TransactionId(0),
                    });
                    node.handle_session_packet(self.now, SESSION, &request.to_bytes());
                }
                _ => {}
            }
        }
    }

    fn run(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while self.now < end {
            self.now += Duration::from_millis(20);
            for at in 0..PLACES {
                if self.places[at].again.is_some_and(|when| when <= self.now) {
                    self.start(at);
                }
                if let Some(node) = &mut self.places[at].node
                    && node.poll_timeout().is_some_and(|when| when <= self.now)
                {
                    node.handle_timeout(self.now);
                }
            }
            self.settle();
            self.work();
            self.settle();
            for whole in [0, 1] {
                let mine = self.registry.run(NodeId(whole as u16));
                let formed = self.registry.view().epoch > Epoch(8);
                assert!(!formed || mine == Some(Incarnation(1)), "I20: node {whole} was put out");
            }
        }
    }
}

/// FT16, I1, I20: of two machines with one identity at most one is in; no lock is held twice, the other members stay, and when the
/// copy is gone its original comes back.
#[test]
fn two_machines_with_one_identity_are_never_both_in() {
    let mut both = 0;
    for (seed, turn) in [(1, 60), (2, 400), (3, 1_500), (4, 4_000), (5, 9_000)] {
        let mut cluster = Cluster::new(seed, turn);
        (0..MEMBERS).for_each(|at| cluster.start(at));
        cluster.run(5);
        // The copy is of the running node's disk; both begin with the same number.
        cluster.end(2);
        cluster.places[TWIN].run = cluster.places[2].run;
        cluster.start(2);
        cluster.start(TWIN);
        assert_eq!(cluster.places[2].run, cluster.places[TWIN].run);
        let before = cluster.grants;
        cluster.run(60);
        assert!(
            cluster.grants[0] > before[0] + 50 && cluster.grants[1] > before[1] + 50,
            "{:?}",
            cluster.grants
        );
        both += u64::from(cluster.grants[2] > before[2]) + u64::from(cluster.grants[TWIN] > 0);
        // Somebody finds the copy and ends it.
        cluster.end(TWIN);
        cluster.places[TWIN].again = None;
        let before = cluster.grants[2];
        cluster.places[2].run = cluster.places[2].run.max(cluster.places[TWIN].run);
        cluster.end(2);
        cluster.start(2);
        // Put out by either again and again, it has to hear all for half a minute.
        cluster.run(60);
        assert!(
            cluster.grants[2] > before,
            "turns of {turn} ms: the original does not come back: {:?}",
            cluster.grants
        );
    }
    assert!(both >= 3, "hardly any of the two was ever in: {both}");
}
