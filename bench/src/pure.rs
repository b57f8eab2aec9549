//! Whole nodes in one thread, without clock, socket or daemon: for what is counted and not timed.
//!
//! The network delivers at once, so nothing is lost and nothing is late, and every run does the same.

use std::collections::VecDeque;
use std::net::SocketAddr;

use oarlock_circuit::Options;
use oarlock_cluster::Registry;
use oarlock_cluster::registry::Command;
use oarlock_layout::codec::Wire;
use oarlock_layout::directory;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Incarnation, NodeId, OwnerId, SessionId, SpaceId, TransactionId};
use oarlock_layout::message::form::Phase;
use oarlock_layout::message::session::{LockRequest, Reply, Request, VERSION};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::seal::PublicKey;
use oarlock_layout::segment::{PlainWords, Words};
use oarlock_layout::stamp::Stamp;
use oarlock_layout::time::{Duration, Instant};
use oarlock_node::rights::Who;
use oarlock_node::{Config, Node, NodeConfig, Order, Output, SpaceConfig};
use oarlockd::host::key::Secret;
use oarlockd::host::seal::HostSeal;

use crate::founding::founded;
use crate::rounds::Failure;

const SESSION: SessionId = SessionId(1);
/// Room for the largest number of resources anybody counts with.
const RESOURCES_MAX: u32 = 1 << 21;

/// Nodes without anything around them.
pub(crate) struct Pure {
    now: Instant,
    nodes: Vec<Node>,
    registry: Registry,
    granted: Vec<VecDeque<u32>>,
    failure: Option<Failure>,
}

fn address(node: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000 + node as u16))
}

impl Pure {
    /// As many nodes, serving in one view. With `retain` they keep what they own.
    pub(crate) fn form(size: usize, retain: bool) -> Result<Pure, Failure> {
        let now = Instant::from_millis(1);
        let secrets: Vec<Secret> = (0..size).map(|_| Secret::generate()).collect();
        let cluster = Secret::generate();
        let members: Vec<NodeConfig> = (secrets.iter().enumerate())
            .map(|(node, secret)| NodeConfig {
                name: format!("node-{node}"),
                address: address(node),
                key: PublicKey(secret.public()),
            })
            .collect();
        let space = SpaceConfig {
            name: "default".into(),
            order: Order::Passover,
            retain,
            resources_max: RESOURCES_MAX,
        };
        let registry = founded(&members, &space);
        let nodes = (secrets.iter().enumerate()).map(|(node, secret)| {
            let config = Config {
                cluster: "bench".into(),
                me: NodeId(node as u16),
                nodes: oarlock_node::numbered(members.clone()),
                spaces: vec![space.clone()],
                shared: 1,
                incarnation: Incarnation(1),
                ceiling: Stamp(0),
                seed: node as u64 + 1,
                shards: 1,
                circuits: Options::default(),
                forget_after: Duration::from_secs(10),
                deadlock_after: oarlock_layout::limit::DEADLOCK_AFTER,
            };
            let words: Vec<Box<dyn Words + Send>> = vec![Box::new(PlainWords::new(RESOURCES_MAX))];
            let seal = Box::new(HostSeal::new(secret.bytes(), cluster.bytes()));
            let mut node = Node::new(now, config, seal, words);
            node.handle_applied(now, &registry);
            node.handle_session_opened(now, SESSION, 1, Who::root());
            let hello = Request::Hello { version: VERSION, label: "bench".into() };
            node.handle_session_packet(now, SESSION, &hello.to_bytes());
            node
        });
        let nodes = nodes.collect();
        let mut pure = Pure { now, nodes, registry, granted: vec![VecDeque::new(); size], failure: None };
        for _ in 0..10_000 {
            pure.settle();
            let serves = |node: &Node| {
                let status = node.status(pure.now);
                status.phase == Phase::Serving && status.open
            };
            if pure.nodes.iter().all(serves) {
                return Ok(pure);
            }
            pure.let_time_pass();
        }
        Err(format!("{size} nodes did not form a view"))
    }

    /// Carries everything until nothing moves, at this instant.
    pub(crate) fn settle(&mut self) {
        let mut moved = true;
        while moved {
            moved = false;
            for node in 0..self.nodes.len() {
                while let Some(output) = self.nodes[node].poll_output(self.now) {
                    moved = true;
                    self.carry(node, output);
                }
            }
        }
    }

    fn carry(&mut self, node: usize, output: Output) {
        match output {
            Output::Transmit(transmit) => {
                let to = (transmit.to.port() - 7000) as usize;
                for datagram in transmit.datagrams() {
                    self.nodes[to].handle_datagram(self.now, address(node), &mut datagram.to_vec());
                }
            }
            Output::Reply { packet, .. } => match Reply::from_bytes(&packet) {
                Ok(Reply::Granted(granted)) => self.granted[node].push_back(granted.handle),
                Ok(Reply::Welcome { .. } | Reply::Released { .. } | Reply::Blocking { .. }) => {}
                other => self.failure = Some(format!("an unexpected reply: {other:?}")),
            },
            Output::Propose(command) => self.decide(node, &command),
            Output::StoreCeiling { ceiling } => self.nodes[node].handle_ceiling_stored(self.now, ceiling),
            Output::Close { .. } => self.failure = Some("a session was closed".into()),
            Output::Asked { .. }
            | Output::Looked { .. }
            | Output::Event(_)
            | Output::Hint { .. }
            | Output::Attached { .. }
            | Output::Carried { .. }
            | Output::Fence(_)
            | Output::Lease { .. }
            | Output::Store { .. }
            | Output::Wake { .. } => {}
        }
    }

    fn decide(&mut self, node: usize, command: &Command) {
        let outcome = self.registry.apply(command);
        for node in &mut self.nodes {
            node.handle_applied(self.now, &self.registry);
        }
        self.nodes[node].handle_answer(self.now, command, outcome);
    }

    /// To the next moment somebody waits for.
    fn let_time_pass(&mut self) {
        let next = self.nodes.iter().filter_map(Node::poll_timeout).min();
        self.now = next.unwrap_or(self.now).max(self.now);
        for node in &mut self.nodes {
            if node.poll_timeout().is_some_and(|at| at <= self.now) {
                node.handle_timeout(self.now);
            }
        }
    }

    /// Names whose master is the node `first` or one after it.
    pub(crate) fn names_mastered_from(&self, first: u16, count: usize) -> Vec<Name> {
        let members = || (0..self.nodes.len() as u16).map(NodeId);
        (0u32..)
            .map(|n| Name::new(format!("bench/{n:08}").as_bytes()).expect("a short name"))
            .filter(|name| directory::master(SpaceId(0), name.as_bytes(), members()) >= Some(NodeId(first)))
            .take(count)
            .collect()
    }

    /// Takes a lock that nobody holds.
    pub(crate) fn acquire(&mut self, node: usize, handle: u32, name: &Name) -> Result<(), Failure> {
        self.ask(node, handle, name);
        self.settle();
        self.check_granted(node, handle)
    }

    /// Asks for a lock; what follows waits for [`settle`](Pure::settle).
    pub(crate) fn ask(&mut self, node: usize, handle: u32, name: &Name) {
        let request = Request::Lock(LockRequest {
            handle,
            space: SpaceId(0),
            name: name.clone(),
            mode: Mode::EX,
            flags: Flags::empty(),
            timeout_ms: 0,
            owner: OwnerId(0),
            transaction: TransactionId(0),
        });
        self.nodes[node].handle_session_packet(self.now, SESSION, &request.to_bytes());
    }

    /// Asks for a lock on behalf of somebody within the session.
    pub(crate) fn ask_as(&mut self, node: usize, owner: u64, handle: u32, name: &Name) {
        let request = Request::Lock(LockRequest {
            handle,
            space: SpaceId(0),
            name: name.clone(),
            mode: Mode::EX,
            flags: Flags::empty(),
            timeout_ms: 0,
            owner: OwnerId(owner),
            transaction: TransactionId(0),
        });
        self.nodes[node].handle_session_packet(self.now, SESSION, &request.to_bytes());
    }

    /// Forgets which locks were granted.
    pub(crate) fn forget_granted(&mut self) -> Option<Failure> {
        self.granted.iter_mut().for_each(VecDeque::clear);
        self.failure.take()
    }

    /// What a node has counted.
    pub(crate) fn counted(&self, node: usize, name: &str) -> u64 {
        let counters = self.nodes[node].counters();
        counters.iter().find(|counter| counter.name == name).map_or(0, |counter| counter.value)
    }

    /// Lets a node's search for deadlocks make so many passes, and nothing else happen; how long the passes took.
    pub(crate) fn search(&mut self, node: usize, passes: u64) -> Result<std::time::Duration, Failure> {
        self.search_for(node, passes, Duration::ZERO)
    }

    /// The same for passes that go over nodes: their answers come a little later.
    pub(crate) fn search_over(&mut self, node: usize, passes: u64) -> Result<std::time::Duration, Failure> {
        // Less than there is between two passes.
        self.search_for(node, passes, Duration::from_millis(30))
    }

    fn search_for(
        &mut self,
        node: usize,
        passes: u64,
        each: Duration,
    ) -> Result<std::time::Duration, Failure> {
        let mut taken = std::time::Duration::ZERO;
        let (mut left, mut until) = (passes, None);
        for _ in 0..100_000 {
            if left == 0 && until.is_none_or(|until| until < self.now) {
                return Ok(taken);
            }
            let before = self.counted(node, "deadlock_passes");
            let began = std::time::Instant::now();
            self.let_time_pass();
            self.settle();
            let elapsed = began.elapsed();
            if self.counted(node, "deadlock_passes") > before && left > 0 {
                left -= 1;
                until = Some(self.now + each);
            }
            if until.is_some_and(|until| self.now <= until) {
                taken += elapsed;
            }
        }
        Err("the node does not search".into())
    }

    /// The next lock that was granted at a node is this one.
    pub(crate) fn check_granted(&mut self, node: usize, handle: u32) -> Result<(), Failure> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        match self.granted[node].pop_front() {
            Some(granted) if granted == handle => Ok(()),
            other => Err(format!("lock {handle} is not granted at once, but {other:?}")),
        }
    }

    /// Gives a lock back; what follows waits for [`settle`](Pure::settle).
    pub(crate) fn release(&mut self, node: usize, handle: u32) {
        let request = Request::Unlock { handle, value: None, invalidate: false };
        self.nodes[node].handle_session_packet(self.now, SESSION, &request.to_bytes());
    }

    /// Messages of all nodes so far.
    pub(crate) fn messages(&self) -> u64 {
        let sent = |node: &Node| {
            node.counters().iter().find(|c| c.name == "messages_sent").map_or(0, |counter| counter.value)
        };
        self.nodes.iter().map(sent).sum()
    }
}
