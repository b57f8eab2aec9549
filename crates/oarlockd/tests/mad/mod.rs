//! A member of a cluster that can go mad: a real node with its real key on a real socket, whose seal writes
//! nonsense into what it encrypts. So everything it sends is authentic, and nothing of it makes sense.
//!
//! What its coordinator says is spared: a voter that lies is more than the coordinator's algorithm stands, and
//! `docs/faults.md` says so.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use oarlock_chaos::cluster::Cluster;
use oarlock_cluster::Registry;
use oarlock_layout::codec::Wire;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, Incarnation, NodeId, OwnerId, SessionId, SpaceId, TransactionId};
use oarlock_layout::message::frame::{Chunk, Chunks, Class};
use oarlock_layout::message::session::{LockRequest, Reply, Request, VERSION};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::seal::{
    Arrival, Initiation, Keys, MAC_BYTES, MacKey, NotAuthentic, PublicKey, Response, Seal, TAG_BYTES,
};
use oarlock_layout::segment::{PlainWords, Words};
use oarlock_node::rights::Who;
use oarlock_node::{Node, NodeConfig, Output, SpaceConfig, numbered};
use oarlock_sim::Random;
use oarlockd::config::{Config, Order};
use oarlockd::coordinator::control::{self, FromControl, ToControl};
use oarlockd::coordinator::raft::Tuning;
use oarlockd::host::clock;
use oarlockd::host::key::Secret;
use oarlockd::host::seal::HostSeal;
use oarlockd::host::wake::Wake;

/// What the seal does to bodies.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Madness {
    None = 0,
    /// Every other body is random bytes.
    Bodies = 1,
    /// Every other body has a few bytes changed: much of it still looks like messages.
    Changes = 2,
}

pub(crate) struct Member {
    madness: Arc<AtomicU8>,
    grants: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Member {
    /// Takes the place of a node that was not started.
    pub(crate) fn start(cluster: &Cluster, me: usize) -> Member {
        let config = Config::load(&cluster.places[me].config()).unwrap();
        let (madness, grants, stop) = (Arc::default(), Arc::default(), Arc::default());
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(control::FILE);
        control::prepare(&file, true, None).unwrap();
        let coordinator = control::start(control::Parts {
            me: NodeId(me as u16),
            file,
            founding: Some(config.founding(Epoch(0))),
            joined: None,
            tuning: Tuning::default(),
            wake: Wake::new().unwrap(),
        });
        let member = Inside {
            socket: UdpSocket::bind(config.listen).unwrap(),
            node: node(&config, Incarnation(1), Arc::clone(&madness)),
            run: Incarnation(1),
            coordinator: coordinator.unwrap(),
            registry: None,
            _directory: directory,
            config,
            madness: Arc::clone(&madness),
            grants: Arc::clone(&grants),
            stop: Arc::clone(&stop),
            asked: 0,
        };
        let thread = thread::spawn(|| member.run());
        Member { madness, grants, stop, thread }
    }

    pub(crate) fn go(&self, madness: Madness) {
        self.madness.store(madness as u8, Ordering::Relaxed);
    }

    /// Locks that it was granted.
    pub(crate) fn grants(&self) -> u64 {
        self.grants.load(Ordering::Relaxed)
    }

    pub(crate) fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("nothing that the others answer makes it panic");
    }
}

fn node(config: &Config, incarnation: Incarnation, madness: Arc<AtomicU8>) -> Node {
    let spaces = config.spaces.iter().map(|s| SpaceConfig {
        name: s.name.clone(),
        order: match s.order {
            Order::Passover => oarlock_node::Order::Passover,
            Order::Strict => oarlock_node::Order::Strict,
        },
        retain: s.retain,
        resources_max: s.resources_max,
    });
    let nodes = config.members.iter();
    let node_config = oarlock_node::Config {
        cluster: config.cluster.clone(),
        me: config.me,
        nodes: numbered(nodes.map(|m| NodeConfig {
            name: m.name.clone(),
            address: m.address,
            key: PublicKey(m.key),
        })),
        spaces: spaces.collect(),
        shared: config.shared().0,
        incarnation,
        ceiling: Default::default(),
        seed: 6 + incarnation.0,
        shards: 1,
        circuits: Default::default(),
        forget_after: Duration::from_secs(30),
        deadlock_after: oarlock_layout::limit::DEADLOCK_AFTER,
    };
    let read = |file| Secret::read(file).unwrap().bytes();
    let inner = HostSeal::new(read(&config.key_file), read(&config.secret_file));
    let seal = MadSeal { inner, madness };
    let words =
        config.spaces.iter().map(|s| Box::new(PlainWords::new(s.resources_max)) as Box<dyn Words + Send>);
    let now = clock::now();
    let mut node = Node::new(now, node_config, Box::new(seal), words.collect());
    node.handle_session_opened(now, SESSION, 1, Who::root());
    let hello = Request::Hello { version: VERSION, label: "mad".into() };
    node.handle_session_packet(now, SESSION, &hello.to_bytes());
    node
}

const SESSION: SessionId = SessionId(1);
/// Locks it asks for in turn, whoever decides about them.
const NAMES: u32 = 16;

struct Inside {
    socket: UdpSocket,
    node: Node,
    run: Incarnation,
    coordinator: control::Link,
    /// As it was applied here last.
    registry: Option<Arc<Registry>>,
    /// Of the coordinator's file.
    _directory: tempfile::TempDir,
    config: Config,
    madness: Arc<AtomicU8>,
    grants: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    asked: u32,
}

impl Inside {
    fn run(mut self) {
        self.socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let mut buffer = vec![0; 65_536];
        let mut next = clock::now();
        while !self.stop.load(Ordering::Relaxed) {
            if let Ok((length, from)) = self.socket.recv_from(&mut buffer) {
                self.node.handle_datagram(clock::now(), from, &mut buffer[..length]);
            }
            self.coordinate();
            if self.node.has_ended() {
                // The others have put it out: it begins anew.
                self.run = Incarnation(self.run.0 + 1);
                self.node = node(&self.config, self.run, Arc::clone(&self.madness));
                if let Some(registry) = &self.registry {
                    self.node.handle_applied(clock::now(), registry);
                }
            }
            let now = clock::now();
            if self.node.poll_timeout().is_some_and(|at| at <= now) {
                self.node.handle_timeout(now);
            }
            if next <= now {
                next = now + Duration::from_millis(10);
                self.ask();
            }
            self.carry();
        }
        self.coordinator.stop();
    }

    fn coordinate(&mut self) {
        let now = clock::now();
        while let Some(message) = self.coordinator.poll() {
            match message {
                FromControl::Carry { to, message } => _ = self.node.carry(now, to, &message),
                FromControl::Applied(registry) => {
                    self.node.handle_applied(now, &registry);
                    self.registry = Some(registry);
                }
                FromControl::Answered { command, outcome } => self.node.handle_answer(now, &command, outcome),
                FromControl::Down(problem) => panic!("{problem}"),
                FromControl::Failed { .. }
                | FromControl::Standing(_)
                | FromControl::SteppedDown
                | FromControl::Misdeed { .. } => {}
            }
        }
    }

    /// The next lock; a try, so that nothing of it waits for ever.
    fn ask(&mut self) {
        self.asked += 1;
        let lock = LockRequest {
            handle: self.asked,
            space: SpaceId(self.asked as u16 % 2),
            name: Name::new(format!("mad/{}", self.asked % NAMES).as_bytes()).unwrap(),
            mode: Mode::ALL[self.asked as usize % 6],
            flags: Flags::VALBLK,
            timeout_ms: 200,
            owner: OwnerId(0),
            transaction: TransactionId(0),
        };
        self.node.handle_session_packet(clock::now(), SESSION, &Request::Lock(lock).to_bytes());
    }

    fn carry(&mut self) {
        let now = clock::now();
        while let Some(output) = self.node.poll_output(now) {
            match output {
                Output::Transmit(t) => {
                    for datagram in t.bytes.chunks(t.segment.map_or(t.bytes.len(), Into::into)) {
                        let _ = self.socket.send_to(datagram, t.to);
                    }
                }
                Output::Propose(command) => self.coordinator.send(ToControl::Propose(command)),
                Output::Carried { from, message } => {
                    self.coordinator.send(ToControl::Carried { from, message });
                }
                Output::StoreCeiling { ceiling } => self.node.handle_ceiling_stored(now, ceiling),
                Output::Reply { packet, .. } => {
                    if let Ok(Reply::Granted(granted)) = Reply::from_bytes(&packet) {
                        self.grants.fetch_add(1, Ordering::Relaxed);
                        let unlock =
                            Request::Unlock { handle: granted.handle, value: None, invalidate: false };
                        self.node.handle_session_packet(now, SESSION, &unlock.to_bytes());
                    }
                }
                _ => {}
            }
        }
    }
}

/// Writes nonsense into what the inner seal encrypts.
struct MadSeal {
    inner: HostSeal,
    madness: Arc<AtomicU8>,
}

impl MadSeal {
    fn keys(madness: &Arc<AtomicU8>, inner: Box<dyn Keys + Send>) -> Box<dyn Keys + Send> {
        Box::new(MadKeys { inner, madness: Arc::clone(madness), random: Random::new(3) })
    }
}

impl Seal for MadSeal {
    fn initiate(
        &mut self,
        to: &PublicKey,
        prologue: &[u8],
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Box<dyn Initiation + Send> {
        let inner = self.inner.initiate(to, prologue, payload, out);
        Box::new(MadHandshake { inner, madness: Arc::clone(&self.madness) })
    }

    fn respond(&mut self, prologue: &[u8], message: &[u8]) -> Result<Arrival, NotAuthentic> {
        let Arrival { key, payload, response } = self.inner.respond(prologue, message)?;
        let response = Box::new(MadHandshake { inner: response, madness: Arc::clone(&self.madness) });
        Ok(Arrival { key, payload, response })
    }

    fn mac(&self, key: MacKey<'_>, parts: &[&[u8]]) -> [u8; MAC_BYTES] {
        self.inner.mac(key, parts)
    }

    fn restore(&self, exported: &[u8]) -> Result<Box<dyn Keys + Send>, NotAuthentic> {
        Ok(MadSeal::keys(&self.madness, self.inner.restore(exported)?))
    }
}

struct MadHandshake<T: ?Sized> {
    madness: Arc<AtomicU8>,
    inner: Box<T>,
}

impl Initiation for MadHandshake<dyn Initiation + Send> {
    fn finish(&mut self, message: &[u8]) -> Result<(Vec<u8>, Box<dyn Keys + Send>), NotAuthentic> {
        let (payload, keys) = self.inner.finish(message)?;
        Ok((payload, MadSeal::keys(&self.madness, keys)))
    }
}

impl Response for MadHandshake<dyn Response + Send> {
    fn accept(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Box<dyn Keys + Send> {
        MadSeal::keys(&self.madness, self.inner.accept(payload, out))
    }
}

/// Does a coordinator say something in it?
fn of_coordinator(body: &[u8]) -> bool {
    let mut chunks = Chunks::new(body);
    let mut next = || chunks.next_chunk().expect("not changed yet");
    std::iter::from_fn(&mut next).any(|chunk| matches!(chunk, Chunk::Run { class: Class::Control, .. }))
}

struct MadKeys {
    inner: Box<dyn Keys + Send>,
    madness: Arc<AtomicU8>,
    random: Random,
}

impl Keys for MadKeys {
    fn seal(&mut self, number: u64, header: &[u8], body: &mut [u8]) -> [u8; TAG_BYTES] {
        let madness = self.madness.load(Ordering::Relaxed);
        if madness != 0 && !body.is_empty() && !of_coordinator(body) && self.random.chance(500) {
            let changes = if madness == Madness::Bodies as u8 { body.len() as u64 } else { 3 };
            for n in 0..changes {
                let all = madness == Madness::Bodies as u8;
                let at = if all { n } else { self.random.below(body.len() as u64) };
                body[at as usize] = self.random.below(256) as u8;
            }
        }
        self.inner.seal(number, header, body)
    }

    fn open(&mut self, number: u64, header: &[u8], sealed: &mut [u8]) -> Result<(), NotAuthentic> {
        self.inner.open(number, header, sealed)
    }

    fn export(&self) -> Vec<u8> {
        self.inner.export()
    }
}
