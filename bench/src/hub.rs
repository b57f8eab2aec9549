//! Two nodes in one process, each with a socket and a CPU of its own: the daemon's parts without its door.
//!
//! Requests are made inside the node, so what is measured is the way between two hubs: circuit, cipher, lock
//! room and wait point are those of the daemon; sessions, files and logs are missing.

use std::net::SocketAddr;
use std::sync::Arc;

use oarlock_circuit::Options;
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
use oarlockd::host::clock;
use oarlockd::host::datagrams::Datagrams;
use oarlockd::host::key::Secret;
use oarlockd::host::poll::{Epoll, Poll, Ready};
use oarlockd::host::seal::HostSeal;

use crate::anchor::rtt::Wait;
use crate::founding::{Shared, founded};
use crate::rounds::Failure;
use crate::sealing::{CountedSeal, Tally};

/// Resources of the lockspace: more than are in use at once, so that none is refused.
const RESOURCES_MAX: u32 = 1 << 16;
const SESSION: SessionId = SessionId(1);

/// A node with its socket.
pub(crate) struct Hub {
    node: Node,
    wire: Datagrams,
    coordinator: Arc<Shared>,
    /// The revision that the node has been shown.
    seen: u64,
    /// Numbers of locks that were granted since somebody looked.
    pub(crate) granted: Vec<u32>,
    failure: Option<Failure>,
    pub(crate) tally: Arc<Tally>,
}

/// Two hubs that serve in one view. Retention is off: every acquire of the first whose master is the second
/// crosses the wire.
pub(crate) fn pair() -> Result<[Hub; 2], Failure> {
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let bind = || Datagrams::bind(local, true).map_err(|e| e.to_string());
    let wires = [bind()?, bind()?];
    let secrets = [Secret::generate(), Secret::generate()];
    let cluster = Secret::generate();
    let mut nodes = Vec::new();
    for (wire, secret) in wires.iter().zip(&secrets) {
        let address = wire.address().map_err(|e| e.to_string())?;
        nodes.push(NodeConfig {
            name: format!("node-{}", nodes.len()),
            address,
            key: PublicKey(secret.public()),
        });
    }
    let space = SpaceConfig {
        name: "default".into(),
        order: Order::Passover,
        retain: false,
        resources_max: RESOURCES_MAX,
    };
    let coordinator = Arc::new(Shared::new(founded(&nodes, &space)));
    let mut hubs = Vec::new();
    for (at, (wire, secret)) in wires.into_iter().zip(&secrets).enumerate() {
        let tally = Arc::new(Tally::default());
        let seal = CountedSeal::new(HostSeal::new(secret.bytes(), cluster.bytes()), tally.clone());
        let config = Config {
            cluster: "bench".into(),
            me: NodeId(at as u16),
            nodes: oarlock_node::numbered(nodes.clone()),
            spaces: vec![space.clone()],
            shared: 1,
            incarnation: Incarnation(1),
            ceiling: Stamp(0),
            seed: at as u64 + 1,
            shards: 1,
            circuits: Options::default(),
            forget_after: Duration::from_secs(10),
            deadlock_after: oarlock_layout::limit::DEADLOCK_AFTER,
        };
        let words: Vec<Box<dyn Words + Send>> = vec![Box::new(PlainWords::new(RESOURCES_MAX))];
        let mut node = Node::new(clock::now(), config, Box::new(seal), words);
        node.handle_session_opened(clock::now(), SESSION, std::process::id(), Who::root());
        let hello = Request::Hello { version: VERSION, label: "bench".into() };
        node.handle_session_packet(clock::now(), SESSION, &hello.to_bytes());
        let coordinator = coordinator.clone();
        hubs.push(Hub { node, wire, coordinator, seen: 0, granted: Vec::new(), failure: None, tally });
    }
    let mut hubs: [Hub; 2] = hubs.try_into().ok().expect("two were made");
    let end = clock::now() + Duration::from_secs(10);
    while !hubs.iter().all(Hub::serves) {
        hubs.iter_mut().for_each(Hub::turn);
        if clock::now() > end {
            return Err("two nodes did not form a view within ten seconds".into());
        }
    }
    Ok(hubs)
}

/// Names that the second of two nodes masters.
pub(crate) fn remote_names(count: usize) -> Vec<Name> {
    (0u32..)
        .map(|n| Name::new(format!("bench/orders/{n:08}").as_bytes()).expect("a short name"))
        .filter(|name| {
            let nodes = [NodeId(0), NodeId(1)];
            directory::master(SpaceId(0), name.as_bytes(), nodes) == Some(NodeId(1))
        })
        .take(count)
        .collect()
}

impl Hub {
    fn serves(&self) -> bool {
        let status = self.node.status(clock::now());
        status.phase == Phase::Serving && status.open
    }

    /// Asks for a lock, as a program of this node would.
    pub(crate) fn lock(&mut self, handle: u32, name: &Name) {
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
        self.node.handle_session_packet(clock::now(), SESSION, &request.to_bytes());
    }

    /// Gives it back.
    pub(crate) fn unlock(&mut self, handle: u32) {
        let request = Request::Unlock { handle, value: None, invalidate: false };
        self.node.handle_session_packet(clock::now(), SESSION, &request.to_bytes());
    }

    /// One turn of the engine: what has arrived, what is due, what is to be sent.
    pub(crate) fn turn(&mut self) {
        let now = clock::now();
        let revision = self.coordinator.revision();
        if revision != self.seen {
            self.seen = revision;
            self.node.handle_applied(now, &self.coordinator.look());
        }
        let node = &mut self.node;
        if let Err(e) = self.wire.receive(|from, datagram| node.handle_datagram(now, from, datagram)) {
            self.failure = Some(format!("the socket of a node: {e}"));
        }
        if self.node.poll_timeout().is_some_and(|at| at <= now) {
            self.node.handle_timeout(now);
        }
        self.send();
    }

    /// Carries out what the node wants done.
    pub(crate) fn send(&mut self) {
        let now = clock::now();
        while let Some(output) = self.node.poll_output(now) {
            match output {
                Output::Transmit(t) => self.wire.send(t.to, &t.bytes, t.segment),
                Output::Reply { packet, .. } => self.reply(&packet),
                Output::Propose(command) => {
                    let outcome = self.coordinator.decide(&command);
                    self.node.handle_applied(now, &self.coordinator.look());
                    self.node.handle_answer(now, &command, outcome);
                }
                Output::StoreCeiling { ceiling } => self.node.handle_ceiling_stored(now, ceiling),
                Output::Close { .. } => self.failure = Some("the node closed the session".into()),
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
    }

    fn reply(&mut self, packet: &[u8]) {
        match Reply::from_bytes(packet) {
            Ok(Reply::Granted(granted)) => self.granted.push(granted.handle),
            Ok(Reply::Welcome { .. } | Reply::Released { .. }) => {}
            other => self.failure = Some(format!("an unexpected reply: {other:?}")),
        }
    }

    /// A place for the calling thread to wait.
    pub(crate) fn waiter(&self, wait: Wait) -> Result<Waiter, Failure> {
        Waiter::new(&self.wire, wait)
    }

    /// When the node wants to be called even if nothing arrives.
    pub(crate) fn timeout(&self) -> Option<Instant> {
        self.node.poll_timeout()
    }

    /// The first thing that went wrong.
    pub(crate) fn check(&mut self) -> Result<(), Failure> {
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Sealed datagrams and lock messages sent so far.
    pub(crate) fn sent(&self) -> [u64; 2] {
        let count = |wanted: &str| {
            self.node.counters().iter().find(|c| c.name == wanted).map_or(0, |counter| counter.value)
        };
        [count("datagrams_sent"), count("messages_sent")]
    }
}

/// Waits for a socket at the daemon's wait point, or spins.
pub(crate) struct Waiter {
    poll: Option<Epoll>,
    ready: Vec<Ready>,
}

impl Waiter {
    pub(crate) fn new(wire: &Datagrams, wait: Wait) -> Result<Waiter, Failure> {
        let sleep = || {
            let mut poll = Epoll::new()?;
            poll.add(wire, 0)?;
            Ok(poll)
        };
        let poll = match wait {
            Wait::Sleep => Some(sleep().map_err(|e: std::io::Error| format!("epoll: {e}"))?),
            Wait::Spin => None,
        };
        Ok(Waiter { poll, ready: Vec::new() })
    }

    /// Until something arrives or `at`.
    pub(crate) fn wait(&mut self, at: Option<Instant>) -> Result<(), Failure> {
        let Some(poll) = &mut self.poll else { return Ok(()) };
        let timeout = at.map(|at| at.since(clock::now()));
        poll.wait(timeout, &mut self.ready).map_err(|e| format!("waiting: {e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_acquire_of_a_remote_name_crosses_the_wire() {
        let [mut a, mut b] = pair().unwrap();
        let before = a.sent()[1];
        for (at, name) in remote_names(20).iter().enumerate() {
            a.lock(at as u32, name);
            while a.granted.pop().is_none() {
                a.turn();
                b.turn();
            }
            a.unlock(at as u32);
            a.check().unwrap();
        }
        a.turn();
        // One message asks, one gives back.
        assert!(a.sent()[1] - before >= 40, "{} messages", a.sent()[1] - before);
        let [seals, _, _] = a.tally.read();
        assert_eq!(seals, a.sent()[0], "one seal a datagram");
    }
}
