//! What it costs to recover from a death: three whole nodes in one thread, a table of many resources, and one that dies.
//!
//! ```text
//!   resource i is used at nodes i and i + 1 (of three), which keep PR ── node 2 dies ──► its verdict ──► all grant again
//! ```
//!
//! Nothing but the nodes costs anything: datagrams arrive at once, the registry decides at once, disks are done at once. What is
//! counted is time on a core, of all nodes together. The cryptography is the simulator's checksum.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use oarlock_cluster::Registry;
use oarlock_cluster::registry::{Command, FirstSpace, Founder, Order as QueueOrder, SpaceSettings};
use oarlock_layout::codec::Wire;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, Incarnation, NodeId, OwnerId, SessionId, SpaceId, TransactionId};
use oarlock_layout::message::session::{LockRequest, Request, VERSION};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::{PlainWords, Words};
use oarlock_layout::stamp::Stamp;
use oarlock_layout::time::{Duration as Span, Instant};
use oarlock_node::rights::Who;
use oarlock_node::{Config, Node, NodeConfig, Order, Output, SpaceConfig, numbered};

use crate::seal::ChecksumSeal;

const NODES: usize = 3;
const SESSION: SessionId = SessionId(1);
const SECRET: u64 = 0x5eb1_11d0;

/// What it cost.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Resources of the table.
    pub resources: u32,
    /// Pairs of a node and a resource with a record there, at the nodes that stayed.
    pub pairs: u64,
    /// Time on a core from the verdict until both nodes granted, of both together.
    pub core: Duration,
    /// The same on the nodes' own clocks, which go on only while everybody waits.
    pub waited: Duration,
    /// Messages between the two meanwhile.
    pub messages: u64,
    /// Bytes of their datagrams.
    pub bytes: u64,
    /// Time on a core to put as many records as there are pairs into a map by name, and to copy that map once.
    pub anchor: Duration,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = |ns: u128| ns as f64 / self.pairs as f64;
        write!(
            f,
            "{} resources, {} pairs at two nodes: {:.2} s of a core from the verdict until both grant, {:.2} s at each; {:.0} ns, \
             {:.2} messages, {:.0} bytes a pair; waits of {:.3} s beside; anchor (insert and copy as many records): {:.2} s, \
             {:.0} ns a pair; ratio {:.1}",
            self.resources,
            self.pairs,
            self.core.as_secs_f64(),
            self.core.as_secs_f64() / 2.0,
            each(self.core.as_nanos()),
            each(self.messages.into()),
            each(self.bytes.into()),
            self.waited.as_secs_f64(),
            self.anchor.as_secs_f64(),
            each(self.anchor.as_nanos()),
            self.core.as_secs_f64() / self.anchor.as_secs_f64().max(1e-9),
        )
    }
}

/// Makes the table, lets node 2 die, and measures with `clock`, which shows the time that this thread was on a core.
///
/// # Panics
/// If the nodes do not form a view, or do not recover.
pub fn rebuild(resources: u32, clock: impl Fn() -> Duration) -> Figures {
    let mut hall = Hall::form(resources);
    let names: Vec<Name> = (0..resources)
        .map(|n| Name::new(format!("table/{n:08}").as_bytes()).expect("a short name"))
        .collect();
    for (n, name) in names.iter().enumerate() {
        for node in [n % NODES, (n + 1) % NODES] {
            hall.use_once(node, name);
        }
        if n % 64 == 63 {
            hall.settle();
        }
    }
    hall.settle();
    hall.nodes[2] = None;
    let pairs = hall.records();
    assert!(pairs >= u64::from(resources), "each is used at a node that stays");
    let (messages, epoch, began) = (hall.messages(), hall.registry.view().epoch, hall.now);
    hall.bytes = 0;
    // Its lease passes; then the verdict comes, and with it the work.
    while hall.registry.view().epoch == epoch {
        assert!(hall.now.since(began) < Span::from_secs(20), "nobody puts it out");
        hall.let_time_pass();
        hall.settle_until(|hall| hall.registry.view().epoch > epoch);
    }
    let (verdict, started) = (hall.now, clock());
    hall.settle();
    while !hall.all_grant() {
        assert!(hall.now.since(verdict) < Span::from_secs(60), "they do not recover");
        hall.let_time_pass();
        hall.settle();
    }
    let core = clock() - started;
    let started = clock();
    let mut records: HashMap<(Name, u64), [u64; 12]> = HashMap::new();
    for pair in 0..pairs {
        let name = &names[(pair % u64::from(resources)) as usize];
        records.insert((name.clone(), pair), [pair; 12]);
    }
    let copy = records.clone();
    let anchor = clock() - started;
    assert_eq!(copy.len() as u64, pairs);
    Figures {
        resources,
        pairs,
        core,
        waited: Duration::from_nanos(hall.now.since(verdict).as_nanos() as u64),
        messages: hall.messages() - messages,
        bytes: hall.bytes,
        anchor,
    }
}

struct Hall {
    now: Instant,
    nodes: Vec<Option<Node>>,
    registry: Registry,
    handles: u32,
    bytes: u64,
}

fn address(node: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000 + node as u16))
}

impl Hall {
    fn form(resources: u32) -> Hall {
        let now = Instant::from_millis(1);
        let seal = |node: usize| ChecksumSeal::new(node as u64 + 1, SECRET, 0);
        let members: Vec<NodeConfig> = (0..NODES)
            .map(|node| NodeConfig {
                name: format!("node-{node}"),
                address: address(node),
                key: seal(node).public_key(),
            })
            .collect();
        let founders =
            members.iter().map(|m| Founder { name: m.name.clone(), address: m.address, key: m.key });
        let room = resources.max(1_000) * 2;
        let settings = SpaceSettings {
            order: QueueOrder::Passover,
            value: 64,
            retain: true,
            resources_max: room,
            owner: 0,
            group: 0,
            mode: 0o660,
        };
        let spaces = vec![FirstSpace { name: "default".into(), settings }];
        let mut registry = Registry::new();
        let _ = registry.apply(&Command::Init {
            cluster: [7; 16],
            members: founders.collect(),
            spaces,
            above: Epoch(0),
        });
        let nodes = (0..NODES).map(|node| {
            let space = SpaceConfig {
                name: "default".into(),
                order: Order::Passover,
                retain: true,
                resources_max: room,
            };
            let config = Config {
                cluster: "rebuild".into(),
                me: NodeId(node as u16),
                nodes: numbered(members.clone()),
                spaces: vec![space],
                shared: 1,
                incarnation: Incarnation(1),
                ceiling: Stamp(0),
                seed: node as u64 + 1,
                shards: 1,
                circuits: oarlock_circuit::Options::default(),
                forget_after: Span::from_secs(100_000),
                deadlock_after: oarlock_layout::limit::DEADLOCK_AFTER,
                #[cfg(feature = "planted")]
                bug: None,
            };
            let words: Vec<Box<dyn Words + Send>> = vec![Box::new(PlainWords::new(room))];
            let mut it = Node::new(now, config, Box::new(seal(node)), words);
            it.handle_applied(now, &registry);
            it.handle_session_opened(now, SESSION, 1, Who::root());
            let hello = Request::Hello { version: VERSION, label: "rebuild".into() };
            it.handle_session_packet(now, SESSION, &hello.to_bytes());
            Some(it)
        });
        let nodes = nodes.collect();
        let mut hall = Hall { now, nodes, registry, handles: 0, bytes: 0 };
        for _ in 0..10_000 {
            hall.settle();
            if hall.all_grant() {
                return hall;
            }
            hall.let_time_pass();
        }
        panic!("three nodes did not form a view");
    }

    fn living(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().flatten()
    }

    fn all_grant(&self) -> bool {
        let epoch = self.registry.view().epoch;
        self.living().all(|node| node.grants() && node.recovery().epoch() == epoch)
    }

    fn records(&self) -> u64 {
        self.living().flat_map(|node| node.status(self.now).spaces).map(|space| space.resources as u64).sum()
    }

    fn messages(&self) -> u64 {
        let sent = |node: &Node| {
            node.counters().iter().find(|c| c.name == "messages_sent").map_or(0, |counter| counter.value)
        };
        self.living().map(sent).sum()
    }

    fn use_once(&mut self, node: usize, name: &Name) {
        self.handles += 1;
        let handle = self.handles;
        let lock = Request::Lock(LockRequest {
            handle,
            space: SpaceId(0),
            name: name.clone(),
            mode: Mode::PR,
            flags: Flags::empty(),
            timeout_ms: 0,
            owner: OwnerId(0),
            transaction: TransactionId(0),
        });
        let unlock = Request::Unlock { handle, value: None, invalidate: false };
        let it = self.nodes[node].as_mut().expect("all live");
        it.handle_session_packet(self.now, SESSION, &lock.to_bytes());
        self.settle();
        let it = self.nodes[node].as_mut().expect("all live");
        it.handle_session_packet(self.now, SESSION, &unlock.to_bytes());
    }

    fn settle(&mut self) {
        self.settle_until(|_| false);
    }

    /// Carries everything until nothing moves at this instant, or until `enough`.
    fn settle_until(&mut self, enough: impl Fn(&Hall) -> bool) {
        let mut moved = true;
        while moved {
            moved = false;
            for node in 0..NODES {
                while let Some(output) = self.nodes[node].as_mut().and_then(|it| it.poll_output(self.now)) {
                    moved = true;
                    self.carry(node, output);
                    if enough(self) {
                        return;
                    }
                }
            }
        }
    }

    fn carry(&mut self, node: usize, output: Output) {
        match output {
            Output::Transmit(transmit) => {
                let to = usize::from(transmit.to.port() - 7000);
                for datagram in transmit.datagrams() {
                    self.bytes += datagram.len() as u64;
                    if let Some(it) = &mut self.nodes[to] {
                        it.handle_datagram(self.now, address(node), &mut datagram.to_vec());
                    }
                }
            }
            Output::Propose(command) => {
                let outcome = self.registry.apply(&command);
                for it in self.nodes.iter_mut().flatten() {
                    it.handle_applied(self.now, &self.registry);
                }
                let it = self.nodes[node].as_mut().expect("it has just spoken");
                it.handle_answer(self.now, &command, outcome);
            }
            Output::StoreCeiling { ceiling } => {
                let it = self.nodes[node].as_mut().expect("it has just spoken");
                it.handle_ceiling_stored(self.now, ceiling);
            }
            _ => {}
        }
    }

    /// To the next moment somebody waits for.
    fn let_time_pass(&mut self) {
        let next = self.living().filter_map(Node::poll_timeout).min();
        self.now = next.unwrap_or(self.now).max(self.now);
        for it in self.nodes.iter_mut().flatten() {
            if it.poll_timeout().is_some_and(|at| at <= self.now) {
                it.handle_timeout(self.now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table is whole after the rebuild, and each pair has cost a message or two.
    #[test]
    fn a_small_table_is_rebuilt_with_a_few_messages_for_each_pair() {
        let figures = rebuild(600, || Duration::ZERO);
        assert!(figures.pairs >= 800, "{figures:?}");
        let each = figures.messages as f64 / figures.pairs as f64;
        assert!((0.2..3.0).contains(&each), "{each} messages a pair: {figures:?}");
    }
}
