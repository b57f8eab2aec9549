//! Whole nodes in one thread, over a network that delivers at once.

// Each test uses a part of it.
#![allow(dead_code)]

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use oarlock_cluster::fencing::Charge;
use oarlock_cluster::registry::{
    Command, FirstSpace, Founder, Need, Order as QueueOrder, Registry, SpaceSettings,
};
use oarlock_layout::codec::Wire;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, Incarnation, NodeId, OwnerId, SessionId, SpaceId, TransactionId};
use oarlock_layout::message::form::Phase;
use oarlock_layout::message::peer::PeerMessage;
use oarlock_layout::message::session::{LockRequest, Reply, Request, VERSION};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::{Geometry, Words};
use oarlock_layout::stamp::Stamp;
use oarlock_layout::time::{Duration, Instant};
use oarlock_node::rights::Who;
use oarlock_node::{Config, Node, NodeConfig, Order, Output, SpaceConfig};
use oarlock_shm::{Hub, Memory};
use seal::ChecksumSeal;

#[path = "../../../oarlock-sim/src/seal.rs"]
#[allow(unreachable_pub)]
mod seal;

/// The coordinator: one order, decided at once, shown to every node that runs.
pub(crate) struct Coordinator {
    pub(crate) registry: Registry,
    /// Nothing reaches it, and nothing comes from it.
    pub(crate) away: bool,
}

pub(crate) struct Cluster {
    pub(crate) now: Instant,
    pub(crate) nodes: Vec<Option<Node>>,
    pub(crate) boots: Vec<u64>,
    /// What the disks say of the clock.
    pub(crate) ceilings: Vec<Stamp>,
    /// How often somebody asked for more stamps.
    pub(crate) raises: usize,
    pub(crate) coordinator: Coordinator,
    pub(crate) replies: BTreeMap<(usize, SessionId), VecDeque<Reply>>,
    pub(crate) events: Vec<String>,
    pub(crate) looked: Vec<Vec<(NodeId, Option<oarlock_layout::message::look::Seen>)>>,
    /// To which node, from which, what.
    pub(crate) carried: Vec<(usize, NodeId, PeerMessage)>,
    /// What verdicts ask for, and what nodes were told to fence.
    pub(crate) fences: Vec<Need>,
    pub(crate) charges: Vec<(usize, Charge)>,
    /// The last datagram that reached each node, and from which one.
    pub(crate) last: BTreeMap<usize, (usize, Vec<u8>)>,
    /// Node whose datagrams are lost.
    pub(crate) mute: Option<usize>,
    /// Node whose datagrams take so long.
    pub(crate) slow: Option<(usize, Duration)>,
    /// Those that are under way: when they arrive, where, from which node.
    pub(crate) late: VecDeque<(Instant, usize, usize, Vec<u8>)>,
}

pub(crate) fn address(n: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000 + n as u16))
}

pub(crate) fn member(n: usize) -> NodeConfig {
    NodeConfig {
        name: format!("node-{}", (b'a' + n as u8) as char),
        address: address(n),
        key: ChecksumSeal::new(n as u64 + 1, 77, 0).public_key(),
    }
}

/// By which the end of a run is proven.
pub(crate) fn secret(n: usize, boots: u64) -> [u8; 16] {
    [n as u8, boots as u8, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7]
}

/// A registry of so many founders.
pub(crate) fn founded(count: usize) -> Registry {
    let members = (0..count).map(|i| Founder {
        name: format!("node-{}", (b'a' + i as u8) as char),
        address: address(i),
        key: ChecksumSeal::new(i as u64 + 1, 77, 0).public_key(),
    });
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
    registry.apply(&Command::Init { cluster: [7; 16], members: members.collect(), spaces, above: Epoch(0) });
    registry
}

pub(crate) fn lock_request(handle: u32, mode: Mode) -> Request {
    Request::Lock(LockRequest {
        handle,
        space: SpaceId(0),
        name: Name::new(b"jobs/nightly").unwrap(),
        mode,
        flags: Flags::empty(),
        timeout_ms: 0,
        owner: OwnerId(0),
        transaction: TransactionId(0),
    })
}

pub(crate) fn words(n: usize) -> Vec<Box<dyn Words + Send>> {
    let geometry = Geometry { slots: 100, areas: 16, entries: 64 };
    vec![Box::new(Hub::new(Memory::private(geometry, n as u64)))]
}

impl Cluster {
    pub(crate) fn new(count: usize) -> Cluster {
        Cluster::with_fences(count, Vec::new())
    }

    pub(crate) fn with_fences(count: usize, fences: Vec<Need>) -> Cluster {
        let mut cluster = Cluster {
            now: Instant::from_millis(1_000),
            nodes: (0..count).map(|_| None).collect(),
            boots: vec![0; count],
            ceilings: vec![Stamp(0); count],
            raises: 0,
            coordinator: Coordinator { registry: founded(count), away: false },
            replies: BTreeMap::new(),
            events: Vec::new(),
            looked: Vec::new(),
            carried: Vec::new(),
            fences,
            charges: Vec::new(),
            last: BTreeMap::new(),
            mute: None,
            slow: None,
            late: VecDeque::new(),
        };
        for n in 0..count {
            cluster.start(n);
        }
        cluster
    }

    pub(crate) fn start(&mut self, n: usize) {
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        self.start_knowing(n, &all);
    }

    /// Starts a node that is told of these members only.
    pub(crate) fn start_knowing(&mut self, n: usize, known: &[usize]) {
        self.boots[n] += 1;
        let boots = self.boots[n];
        let seal = seal_of(n, boots);
        let (config, words) = (self.config(n, known), words(n));
        let mut node = Node::new(self.now, config, Box::new(seal), words);
        node.set_fences(self.fences.clone());
        node.pledge(&secret(n, boots));
        node.handle_applied(self.now, &self.coordinator.registry);
        self.nodes[n] = Some(node);
    }

    /// What a run of a node is told that knows these members.
    pub(crate) fn config(&self, n: usize, known: &[usize]) -> Config {
        let boots = self.boots[n];
        Config {
            cluster: "harbour".into(),
            me: NodeId(n as u16),
            nodes: known.iter().map(|i| (NodeId(*i as u16), member(*i))).collect(),
            spaces: vec![SpaceConfig {
                name: "default".into(),
                order: Order::Passover,
                retain: true,
                resources_max: 100,
            }],
            shared: 5,
            incarnation: Incarnation(boots),
            ceiling: self.ceilings[n],
            seed: n as u64 + boots * 100,
            shards: 1,
            circuits: Default::default(),
            forget_after: Duration::from_secs(10),
            deadlock_after: oarlock_layout::limit::DEADLOCK_AFTER,
            #[cfg(feature = "planted")]
            bug: None,
        }
    }

    /// A node joins with a token that was made for it. It runs and knows one member.
    pub(crate) fn join(&mut self) -> usize {
        let n = self.nodes.len();
        self.nodes.push(None);
        self.boots.push(0);
        self.ceilings.push(Stamp(0));
        let NodeConfig { name, address, key } = member(n);
        let serial = self.coordinator.registry.next_token();
        let (hash, wall) = ([n as u8; 32], 1_000);
        self.decide(0, &Command::CreateToken { serial, hash, name: name.clone(), wall, expires: wall + 60 });
        self.decide(0, &Command::Join { cluster: [7; 16], hash, name, address, key, wall });
        // It applies the order from the beginning, when there were other members.
        self.start_knowing(n, &[0, n]);
        let (now, since) = (self.now, self.coordinator.registry.revision());
        self.node(n).follow_from(since);
        let mut before = founded(3);
        before.apply(&Command::Leave { node: NodeId(0), seen: 1 });
        self.node(n).handle_applied(now, &before);
        n
    }

    /// A node gives its run up, is put out of the view, and is no member any more.
    pub(crate) fn leave(&mut self, n: usize) {
        let now = self.now;
        self.node(n).stop(now);
        self.settle();
        assert!(self.node(n).surrender());
        self.run(Duration::from_millis(500));
        let node = NodeId(n as u16);
        let seen = self.coordinator.registry.member(node).expect("a member").revision;
        self.decide(n, &Command::Leave { node, seen });
        assert!(self.coordinator.registry.member(node).expect("it was one").left, "{:#?}", self.events);
        self.settle();
    }

    pub(crate) fn node(&mut self, n: usize) -> &mut Node {
        self.nodes[n].as_mut().expect("a node that runs")
    }

    /// The node as it is written down; then it goes on from that.
    pub(crate) fn rewrite(&mut self, n: usize) -> Vec<u8> {
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        let config = self.config(n, &all);
        let node = self.nodes[n].take().expect("a node that runs");
        let bytes = node.write();
        let (seal, words) = node.into_parts();
        self.nodes[n] = Some(Node::read(config, seal, words, &bytes).expect("its own words"));
        bytes
    }

    /// Carries everything until nothing moves, at this instant.
    pub(crate) fn settle(&mut self) {
        let mut moved = true;
        while moved {
            moved = false;
            for n in 0..self.nodes.len() {
                let now = self.now;
                while let Some(output) = self.nodes[n].as_mut().and_then(|node| node.poll_output(now)) {
                    moved = true;
                    self.carry(n, output);
                }
            }
        }
    }

    pub(crate) fn carry(&mut self, n: usize, output: Output) {
        let now = self.now;
        match output {
            Output::Transmit(_) if self.mute == Some(n) => {}
            Output::Transmit(transmit) => {
                let to =
                    (0..self.nodes.len()).find(|i| address(*i) == transmit.to).expect("a member's address");
                let slow = self.slow.filter(|(node, _)| *node == n);
                for datagram in transmit.datagrams() {
                    if let Some((_, time)) = slow {
                        self.late.push_back((now + time, to, n, datagram.to_vec()));
                        continue;
                    }
                    self.last.insert(to, (n, datagram.to_vec()));
                    if let Some(node) = &mut self.nodes[to] {
                        node.handle_datagram(now, address(n), &mut datagram.to_vec());
                    }
                }
            }
            Output::Reply { session, packet } => {
                let reply = Reply::from_bytes(&packet).unwrap();
                self.replies.entry((n, session)).or_default().push_back(reply);
            }
            Output::Close { .. }
            | Output::Asked { .. }
            | Output::Hint { .. }
            | Output::Attached { .. }
            | Output::Lease { .. }
            | Output::Store { .. }
            | Output::Wake { .. } => {}
            Output::Looked { seen, .. } => self.looked.push(seen),
            Output::Carried { from, message } => self.carried.push((n, from, message)),
            Output::Propose(_) if self.coordinator.away => {}
            Output::Propose(command) => self.decide(n, &command),
            Output::StoreCeiling { ceiling } => {
                self.ceilings[n] = ceiling;
                self.node(n).handle_ceiling_stored(now, ceiling);
            }
            Output::Fence(charge) => self.charges.push((n, charge)),
            Output::Event(event) => self.events.push(format!("{n}: {event}")),
        }
    }

    pub(crate) fn decide(&mut self, n: usize, command: &Command) {
        let now = self.now;
        self.raises += usize::from(matches!(command, Command::RaiseWatermark { .. }));
        let outcome = self.coordinator.registry.apply(command);
        for node in self.nodes.iter_mut().flatten() {
            node.handle_applied(now, &self.coordinator.registry);
        }
        if let Some(node) = &mut self.nodes[n] {
            node.handle_answer(now, command, outcome);
        }
    }

    /// Lets time pass, waking everybody when he asked for it.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        loop {
            let late = self.late.front().map(|(at, ..)| *at);
            let next = self.nodes.iter().flatten().filter_map(Node::poll_timeout).chain(late).min();
            match next.filter(|at| *at <= end) {
                Some(at) => self.now = at.max(self.now),
                None => break,
            }
            let now = self.now;
            while self.late.front().is_some_and(|(at, ..)| *at <= now) {
                let (_, to, from, mut datagram) = self.late.pop_front().expect("just looked at");
                if let Some(node) = &mut self.nodes[to] {
                    node.handle_datagram(now, address(from), &mut datagram);
                }
            }
            for node in self.nodes.iter_mut().flatten() {
                if node.poll_timeout().is_some_and(|at| at <= now) {
                    node.handle_timeout(now);
                }
            }
            self.settle();
        }
        self.now = end;
    }

    /// The next stamp of a node. Others may have begun the view above its first ceiling; then it waits for a round.
    pub(crate) fn stamp(&mut self, n: usize) -> Stamp {
        let now = self.now;
        if let Ok(stamp) = self.node(n).issue(now) {
            return stamp;
        }
        self.run(Duration::from_secs(2));
        let now = self.now;
        self.node(n).issue(now).expect("the clock goes on")
    }

    pub(crate) fn session(&mut self, n: usize, id: u32) -> (usize, SessionId) {
        let (now, session) = (self.now, SessionId(id));
        self.node(n).handle_session_opened(now, session, 100 + id, Who::root());
        let at = (n, session);
        self.say(at, &Request::Hello { version: VERSION, label: format!("program {id}") });
        assert!(matches!(self.reply(at), Reply::Welcome { .. }));
        at
    }

    pub(crate) fn say(&mut self, (n, session): (usize, SessionId), request: &Request) {
        let now = self.now;
        self.node(n).handle_session_packet(now, session, &request.to_bytes());
        self.settle();
    }

    pub(crate) fn lock(&mut self, at: (usize, SessionId), handle: u32, mode: Mode) {
        self.say(at, &lock_request(handle, mode));
    }

    pub(crate) fn reply(&mut self, at: (usize, SessionId)) -> Reply {
        self.heard(at).unwrap_or_else(|| panic!("no reply for {at:?}; events: {:#?}", self.events))
    }

    pub(crate) fn heard(&mut self, at: (usize, SessionId)) -> Option<Reply> {
        self.replies.get_mut(&at).and_then(VecDeque::pop_front)
    }

    pub(crate) fn phases(&self) -> Vec<Phase> {
        let now = self.now;
        self.nodes.iter().flatten().map(|node| node.status(now).phase).collect()
    }
}

pub(crate) fn serving(count: usize) -> Cluster {
    let mut cluster = Cluster::new(count);
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.phases(), vec![Phase::Serving; count], "{:#?}", cluster.events);
    cluster
}

/// The seal of a run of a node.
pub(crate) fn seal_of(n: usize, boots: u64) -> ChecksumSeal {
    ChecksumSeal::new(n as u64 + 1, 77, boots)
}
