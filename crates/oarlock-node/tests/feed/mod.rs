//! A node against programs that send anything on their sockets.
//!
//! The bytes of an input open sessions, send them packets (well-formed ones with odd fields, or bare bytes), close
//! them, and let time pass. The node is a cluster of one, so that every request is decided at once. Whatever
//! comes, it does not panic, what it says can be decoded, and no request has two answers.
//!
//! In the second form the lockspace has a segment: programs attach to it, more often than they may, ask about entries
//! that say anything or do not exist, and a foreign hand writes into it before each look of the node.

// Used by the fuzz target and by an ordinary test.
#![allow(dead_code)]

#[path = "../../../oarlock-shm/tests/hand/mod.rs"]
mod hand;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use hand::{Dice, Haunted};
use oarlock_cluster::Registry;
use oarlock_cluster::registry::{Command, FirstSpace, Founder, Order as QueueOrder, Outcome, SpaceSettings};
use oarlock_layout::codec::Wire;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{
    Epoch, Incarnation, NodeId, OwnerId, SessionId, SharedHandle, SpaceId, TransactionId,
};
use oarlock_layout::limit::{LEASE, SESSION_PACKET_BYTES_MAX};
use oarlock_layout::message::session::{ConvertRequest, LockRequest, Reply, Request, VERSION};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::{Geometry, PlainWords, Words};
use oarlock_layout::stamp::Stamp;
use oarlock_layout::time::{Duration, Instant};
use oarlock_node::rights::Who;
use oarlock_node::{Config, Node, NodeConfig, Order, Output, SpaceConfig, numbered};
use oarlock_shm::{Caller, Clock, First, Hub, Memory, Party, Taken};
use seal::ChecksumSeal;

#[path = "../../../oarlock-sim/src/seal.rs"]
#[allow(unreachable_pub)]
mod seal;

/// Sessions that come and go.
const SESSIONS: u8 = 3;
/// Numbers that sessions give their locks.
const HANDLES: u8 = 4;

/// The bytes that are left; zeros once there are none.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn bit(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn mode(&mut self) -> Mode {
        Mode::ALL[usize::from(self.byte()) % Mode::ALL.len()]
    }

    fn flags(&mut self) -> Flags {
        Flags::from_bits_truncate(u32::from(self.byte()) | u32::from(self.byte()) << 8)
    }

    fn value(&mut self) -> Option<[u8; 64]> {
        self.bit().then(|| [self.byte(); 64])
    }
}

/// The programs' clock stands still; their lease does not end.
struct Still;

impl Clock for Still {
    fn coarse(&self) -> u64 {
        1
    }
}

/// One program's session.
#[derive(Default)]
struct Program {
    caller: Option<Caller<Still>>,
    /// Requests of locks that were sent.
    asked: u64,
    /// Answers to them.
    answered: u64,
}

struct Stage {
    node: Node,
    /// The coordinator, which decides at once.
    registry: Registry,
    now: Instant,
    /// Numbers are never used twice, so each place counts on.
    next: u32,
    open: BTreeMap<u8, SessionId>,
    programs: BTreeMap<SessionId, Program>,
    /// The segment of the lockspace.
    memory: Option<Arc<Memory>>,
}

/// Plays one input.
pub(crate) fn node(bytes: &[u8]) {
    let mut input = Input(bytes);
    let stage = Stage::new(input.byte(), Box::new(PlainWords::new(4)), None);
    play(stage, input);
}

/// Plays one input where the lockspace has a segment.
pub(crate) fn shared(bytes: &[u8]) {
    let mut input = Input(bytes);
    let choice = input.byte();
    let seed = u64::from(input.byte()) << 8 | u64::from(input.byte());
    // What the hand does may follow from the second half.
    let dice = if choice & 0x20 == 0 {
        Dice::new(seed)
    } else {
        let (calls, writes) = input.0.split_at(input.0.len() / 2);
        input = Input(calls);
        Dice::of(writes)
    };
    let often = [0, 4, 40, 160][usize::from(choice >> 2) % 4];
    let memory = Memory::private(Geometry { slots: 4, areas: 6, entries: 64 }, seed);
    let mut hub = Hub::new(Arc::clone(&memory));
    hub.renew(u64::MAX);
    let stage = Stage::new(choice, Box::new(Haunted::with(hub, dice, often)), Some(memory));
    play(stage, input);
}

fn play(mut stage: Stage, mut input: Input<'_>) {
    stage.settle();
    while !input.0.is_empty() {
        let place = input.byte() % SESSIONS;
        match input.byte() % 16 {
            0 => stage.close(place),
            1 => {
                stage.pass(Duration::from_millis(100 * u64::from(input.byte())));
            }
            3 if stage.memory.is_some() => {
                // All bells, a few at a time; a node that is about to sleep; a lease that was lost.
                stage.node.handle_bells(stage.now);
                if stage.node.fall_asleep() {
                    stage.node.wake_up();
                }
                if input.byte() == 0xff {
                    // It stood still for longer than its lease: the run is over.
                    stage.now += LEASE;
                }
            }
            4 | 5 if stage.memory.is_some() => stage.program(place, &mut input),
            2 => {
                let count = usize::from(input.byte());
                let packet = input.bytes(count);
                stage.send(place, packet, false);
            }
            _ => {
                let request = stage.request(&mut input);
                let counts =
                    matches!(request, Request::Lock(_) | Request::Convert(_) | Request::Unlock { .. });
                stage.send(place, &request.to_bytes(), counts);
            }
        }
        stage.settle();
    }
}

/// The registry of a cluster of this one node.
fn founded(config: &Config) -> Registry {
    let node = &config.nodes[&config.me];
    let settings = SpaceSettings {
        order: QueueOrder::Passover,
        value: 64,
        retain: true,
        resources_max: 4,
        owner: 0,
        group: 0,
        mode: 0o660,
    };
    let founder = Founder { name: node.name.clone(), address: node.address, key: node.key };
    let spaces = vec![FirstSpace { name: config.spaces[0].name.clone(), settings }];
    let mut registry = Registry::new();
    let founding = Command::found(&config.cluster, vec![founder], spaces, Epoch(0));
    assert_eq!(registry.apply(&founding), Outcome::Done, "a sound founding");
    registry
}

impl Stage {
    fn new(choice: u8, words: Box<dyn Words + Send>, memory: Option<Arc<Memory>>) -> Stage {
        let seal = ChecksumSeal::new(1, 77, 1);
        let order = if choice & 1 == 0 { Order::Passover } else { Order::Strict };
        let config = Config {
            cluster: "harbour".into(),
            me: NodeId(0),
            nodes: numbered([NodeConfig {
                name: "node-a".into(),
                address: SocketAddr::from(([127, 0, 0, 1], 7000)),
                key: seal.public_key(),
            }]),
            spaces: vec![SpaceConfig {
                name: "default".into(),
                order,
                retain: choice & 2 == 0,
                resources_max: 4,
            }],
            shared: 5,
            incarnation: Incarnation(1),
            ceiling: Stamp(0),
            seed: 1,
            shards: 1,
            circuits: Default::default(),
            forget_after: Duration::from_secs(10),
            deadlock_after: oarlock_layout::limit::DEADLOCK_AFTER,
            #[cfg(feature = "planted")]
            bug: None,
        };
        let now = Instant::from_millis(1_000);
        let registry = founded(&config);
        let mut node = Node::new(now, config, Box::new(seal), vec![words]);
        node.handle_applied(now, &registry);
        Stage { node, registry, now, next: 0, open: BTreeMap::new(), programs: BTreeMap::new(), memory }
    }

    /// Lets time pass, and wakes the node whenever it asked for it.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.node.poll_timeout().filter(|at| *at < end) {
            self.now = self.now.max(at);
            self.node.handle_timeout(self.now);
            self.settle();
        }
        self.now = end;
        self.node.handle_timeout(end);
    }

    /// The session at a place, greeted when it is new.
    fn session(&mut self, place: u8) -> SessionId {
        if let Some(session) = self.open.get(&place) {
            return *session;
        }
        self.next += 1;
        let session = SessionId(self.next);
        self.open.insert(place, session);
        self.programs.insert(session, Program::default());
        self.node.handle_session_opened(self.now, session, 1, Who::root());
        // One in four forgets to say hello.
        if !self.next.is_multiple_of(4) {
            let hello = Request::Hello { version: VERSION, label: "fuzz".into() };
            self.node.handle_session_packet(self.now, session, &hello.to_bytes());
        }
        session
    }

    fn close(&mut self, place: u8) {
        if let Some(session) = self.open.remove(&place) {
            self.programs.remove(&session);
            self.node.handle_session_closed(self.now, session);
            if session.0.is_multiple_of(2) {
                self.node.handle_opener_ended(session);
            }
        }
    }

    /// A program that keeps to the rules takes a lock in the segment, or begins to wait for one.
    fn program(&mut self, place: u8, input: &mut Input<'_>) {
        let session = self.session(place);
        let name = [b'a' + input.byte() % 6];
        let (mode, first) = (input.mode(), First::shared(u32::from(input.byte() % HANDLES)));
        let Some(caller) = self.programs.get(&session).and_then(|program| program.caller.as_ref()) else {
            return;
        };
        let taken = match caller.find(&name) {
            Some(spot) => caller.acquire(spot, mode, &Party::default(), true, first),
            None => caller.ask(mode, &Party::default(), first),
        };
        match taken {
            Taken::Held { hold, .. } if input.bit() => drop(caller.release(hold)),
            Taken::Wait(ticket) => {
                let request = Request::Lock(LockRequest {
                    handle: SharedHandle { segment: 0, entry: ticket.entry }.number(),
                    space: SpaceId(0),
                    name: Name::new(&name).expect("one byte"),
                    mode,
                    flags: input.flags() | Flags::QUIET,
                    timeout_ms: 0,
                    owner: OwnerId(1),
                    transaction: TransactionId(1),
                });
                self.send(place, &request.to_bytes(), true);
            }
            _ => {}
        }
    }

    fn send(&mut self, place: u8, packet: &[u8], counts: bool) {
        let session = self.session(place);
        if let Some(program) = self.programs.get_mut(&session) {
            // Bare bytes may happen to be a request.
            let counts = counts
                || matches!(
                    Request::from_bytes(packet),
                    Ok(Request::Lock(_) | Request::Convert(_) | Request::Unlock { .. })
                );
            program.asked += u64::from(counts);
        }
        self.node.handle_session_packet(self.now, session, packet);
    }

    fn request(&mut self, input: &mut Input<'_>) -> Request {
        let mut handle = u32::from(input.byte() % HANDLES);
        if self.memory.is_some() {
            match input.byte() % 16 {
                0..=6 => handle = SharedHandle { segment: 0, entry: handle }.number(),
                // No such segment, no such entry.
                7 => handle = SharedHandle { segment: 1 + (handle % 7) as u8, entry: handle }.number(),
                8 => handle = SharedHandle { segment: 0, entry: 64 + handle * 1_000 }.number(),
                9 | 10 => return Request::Attach { request: 3, space: SpaceId(u16::from(handle == 3)) },
                11 if handle == 0 => return Request::Detach,
                12 => return Request::Knock,
                _ => {}
            }
        }
        let timeout_ms = u32::from(input.byte()) * 10;
        match input.byte() % 8 {
            0..=2 => Request::Lock(LockRequest {
                handle,
                space: SpaceId(u16::from(input.byte() == 0xff)),
                name: Name::new(&[b'a' + input.byte() % 6]).expect("one byte"),
                mode: input.mode(),
                flags: input.flags(),
                timeout_ms,
                owner: OwnerId(1),
                transaction: TransactionId(1),
            }),
            3 | 4 => Request::Convert(ConvertRequest {
                handle,
                mode: input.mode(),
                flags: input.flags(),
                timeout_ms,
                value: input.value(),
            }),
            5 => Request::Unlock { handle, value: input.value(), invalidate: input.bit() },
            6 => Request::Cancel { handle },
            _ if input.bit() => Request::Open { request: 1, space: "default".into() },
            _ => Request::Ask { request: 2, question: "{}".into() },
        }
    }

    fn settle(&mut self) {
        while let Some(output) = self.node.poll_output(self.now) {
            match output {
                Output::Reply { session, packet } => self.reply(session, &packet),
                Output::Close { session } => {
                    // It is over at the node; a later packet of that program must be ignored, so the place
                    // is kept for a while.
                    self.programs.remove(&session);
                    if session.0.is_multiple_of(2) {
                        self.open.retain(|_, open| *open != session);
                    }
                }
                Output::Propose(command) => {
                    let outcome = self.registry.apply(&command);
                    self.node.handle_applied(self.now, &self.registry);
                    self.node.handle_answer(self.now, &command, outcome);
                }
                Output::StoreCeiling { ceiling } => self.node.handle_ceiling_stored(self.now, ceiling),
                Output::Transmit(_)
                | Output::Asked { .. }
                | Output::Looked { .. }
                | Output::Carried { .. }
                | Output::Fence(_)
                | Output::Lease { .. }
                | Output::Store { .. }
                | Output::Event(_)
                | Output::Hint { .. } => {}
                Output::Attached { session, attached, .. } => {
                    let memory = self.memory.as_ref().expect("there is a segment");
                    if let Some(program) = self.programs.get_mut(&session) {
                        assert!(program.caller.is_none(), "it has a place already");
                        program.caller = Some(Caller::new(Arc::clone(memory), attached.place, Still));
                    }
                }
                Output::Wake { wake, .. } => {
                    let geometry = self.memory.as_ref().expect("there is a segment").geometry();
                    assert!(wake.area < geometry.areas && wake.entry < geometry.entries, "{wake:?}");
                }
            }
        }
    }

    fn reply(&mut self, session: SessionId, packet: &[u8]) {
        assert!(packet.len() <= SESSION_PACKET_BYTES_MAX, "a packet of {} bytes", packet.len());
        let reply = Reply::from_bytes(packet).expect("a node says what can be decoded");
        let Some(program) = self.programs.get_mut(&session) else { return };
        if matches!(reply, Reply::Granted(_) | Reply::Released { .. } | Reply::Failed { .. }) {
            program.answered += 1;
            assert!(program.answered <= program.asked, "{reply:?} answers nothing");
        }
    }
}
