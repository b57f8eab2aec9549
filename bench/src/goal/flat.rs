//! Messages of a remote acquire, counted exactly: they must not grow with the cluster.
//!
//! The nodes run in one thread on a network that delivers at once, so nothing is lost and nothing is late: the
//! counts are those of the protocol and are the same in every run.

use std::net::SocketAddr;

use oarlock_circuit::Options;
use oarlock_layout::codec::Wire;
use oarlock_layout::directory;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, Incarnation, NodeId, OwnerId, SessionId, SpaceId, TransactionId};
use oarlock_layout::message::form::Phase;
use oarlock_layout::message::session::{LockRequest, Reply, Request, VERSION};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::seal::PublicKey;
use oarlock_layout::segment::{PlainWords, Words};
use oarlock_layout::time::{Duration, Instant};
use oarlock_node::{Config, Node, NodeConfig, Order, Output, SpaceConfig};
use oarlockd::host::key::Secret;
use oarlockd::host::seal::HostSeal;

use super::Setting;
use crate::report::{Bound, Line};
use crate::rounds::{Contender, Failure, Plan, alternate};

/// Sizes of the cluster.
const SIZES: [usize; 4] = [3, 5, 8, 16];
/// Acquires of each kind that are counted.
const ACQUIRES: usize = 100;
const SESSION: SessionId = SessionId(1);

/// Messages of an acquire that nobody is in the way of, and of one that a third node must give way to.
pub(crate) fn run(_: &Setting) -> Result<Vec<Line>, Failure> {
    let mut counts = Vec::new();
    for size in SIZES {
        counts.push(count(size)?);
    }
    let (least, most) = (counts[0], counts[counts.len() - 1]);
    // Exact numbers: one round says it all, and noise does not matter.
    let once = Plan { rounds: 1, patience: Duration::ZERO, noise_max: 1.0, window: Duration::ZERO };
    let line = |name, kind: usize| {
        let numbers = || Ok(vec![most[kind], least[kind]]);
        let table = alternate(&once, &mut [Contender::new(name, numbers)])?;
        let mut line = Line::new(name, "messages", most[kind], &table)
            .mode("counted")
            .against("a cluster of 3 nodes", Some(least[kind]), Some(table.ratio((0, 0), (0, 1))))
            .must(Bound::AtMost(1.0));
        for (size, label) in ["at_3_nodes", "at_5_nodes", "at_8_nodes", "at_16_nodes"].into_iter().enumerate()
        {
            line = line.also(label, counts[size][kind]);
        }
        Ok::<Line, Failure>(line)
    };
    Ok(vec![
        line("messages of a remote acquire, nobody in the way", 0)?,
        line("messages of a remote acquire that a third node gives way to", 1)?,
    ])
}

/// Messages per acquire: of a free resource, and of one that another node retains.
fn count(size: usize) -> Result<[f64; 2], Failure> {
    let mut cluster = Pure::form(size)?;
    let names = cluster.names(ACQUIRES);
    // All acquire first and release then, so that releases are in no count.
    let (taken, free) = (cluster.messages(), names.iter().enumerate());
    for (at, name) in free {
        cluster.acquire(0, at as u32, name)?;
    }
    let free = cluster.messages() - taken;
    for at in 0..names.len() {
        cluster.release(0, at as u32);
    }
    let before = cluster.messages();
    for (at, name) in names.iter().enumerate() {
        cluster.acquire(1, at as u32, name)?;
    }
    let retained = cluster.messages() - before;
    Ok([free, retained].map(|messages| messages as f64 / names.len() as f64))
}

/// Nodes without anything around them.
struct Pure {
    now: Instant,
    nodes: Vec<Node>,
    granted: Vec<Vec<u32>>,
    failure: Option<Failure>,
}

fn address(node: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000 + node as u16))
}

impl Pure {
    fn form(size: usize) -> Result<Pure, Failure> {
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
        let nodes = (secrets.iter().enumerate()).map(|(node, secret)| {
            let config = Config {
                cluster: "bench".into(),
                me: NodeId(node as u16),
                nodes: members.clone(),
                spaces: vec![SpaceConfig {
                    name: "default".into(),
                    order: Order::Passover,
                    retain: true,
                    resources_max: 1 << 16,
                }],
                shared: 1,
                incarnation: Incarnation(1),
                stored: Epoch(0),
                clean: true,
                seed: node as u64 + 1,
                shards: 1,
                circuits: Options::default(),
                forget_after: Duration::from_secs(10),
            };
            let words: Vec<Box<dyn Words + Send>> = vec![Box::new(PlainWords::new(1 << 16))];
            let seal = Box::new(HostSeal::new(secret.bytes(), cluster.bytes()));
            let mut node = Node::new(now, config, seal, words);
            node.handle_session_opened(now, SESSION, 1);
            let hello = Request::Hello { version: VERSION, label: "bench".into() };
            node.handle_session_packet(now, SESSION, &hello.to_bytes());
            node
        });
        let nodes = nodes.collect();
        let mut pure = Pure { now, nodes, granted: vec![Vec::new(); size], failure: None };
        for _ in 0..10_000 {
            pure.settle();
            let serves = |node: &Node| {
                let status = node.status(pure.now);
                status.phase == Phase::Serving && status.grants_wait.is_zero()
            };
            if pure.nodes.iter().all(serves) {
                return Ok(pure);
            }
            pure.let_time_pass();
        }
        Err(format!("{size} nodes did not form a view"))
    }

    /// Carries everything until nothing moves, at this instant.
    fn settle(&mut self) {
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
                Ok(Reply::Granted(granted)) => self.granted[node].push(granted.handle),
                Ok(Reply::Welcome { .. } | Reply::Released { .. } | Reply::Blocking { .. }) => {}
                other => self.failure = Some(format!("an unexpected reply: {other:?}")),
            },
            Output::Store { epoch } => self.nodes[node].handle_stored(self.now, epoch),
            Output::Close { .. } => self.failure = Some("a session was closed".into()),
            Output::Asked { .. } | Output::Looked { .. } | Output::Event(_) => {}
        }
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

    /// Names whose master is neither of the first two nodes.
    fn names(&self, count: usize) -> Vec<Name> {
        let members = || (0..self.nodes.len() as u16).map(NodeId);
        (0u32..)
            .map(|n| Name::new(format!("bench/{n}").as_bytes()).expect("a short name"))
            .filter(|name| directory::master(SpaceId(0), name.as_bytes(), members()) >= Some(NodeId(2)))
            .take(count)
            .collect()
    }

    fn acquire(&mut self, node: usize, handle: u32, name: &Name) -> Result<(), Failure> {
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
        self.settle();
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        match self.granted[node].pop() {
            Some(granted) if granted == handle => Ok(()),
            other => Err(format!("lock {handle} is not granted at once, but {other:?}")),
        }
    }

    fn release(&mut self, node: usize, handle: u32) {
        let request = Request::Unlock { handle, value: None, invalidate: false };
        self.nodes[node].handle_session_packet(self.now, SESSION, &request.to_bytes());
        self.settle();
    }

    /// Messages of all nodes so far.
    fn messages(&self) -> u64 {
        let sent = |node: &Node| {
            node.counters().iter().find(|c| c.name == "messages_sent").map_or(0, |counter| counter.value)
        };
        self.nodes.iter().map(sent).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acquire_asks_one_node_and_hears_from_it() {
        let [free, retained] = count(3).unwrap();
        assert_eq!(free, 2.0);
        assert!(retained > free, "{retained} messages");
    }
}
