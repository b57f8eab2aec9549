//! A node against programs that send anything on their sockets.
//!
//! The bytes of an input open sessions, send them packets (well-formed ones with odd fields, or bare bytes), close
//! them, and let time pass. The node is a cluster of one, so that every request is decided at once. Whatever
//! comes, it does not panic, what it says can be decoded, and no request has two answers.

// Used by the fuzz target and by an ordinary test.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use oarlock_layout::codec::Wire;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, Incarnation, NodeId, OwnerId, SessionId, SpaceId, TransactionId};
use oarlock_layout::limit::SESSION_PACKET_BYTES_MAX;
use oarlock_layout::message::session::{ConvertRequest, LockRequest, Reply, Request, VERSION};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::{PlainWords, Words};
use oarlock_layout::time::{Duration, Instant};
use oarlock_node::{Config, Node, NodeConfig, Order, Output, SpaceConfig};
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

/// One program's session.
#[derive(Default)]
struct Program {
    /// Requests of locks that were sent.
    asked: u64,
    /// Answers to them.
    answered: u64,
}

struct Stage {
    node: Node,
    now: Instant,
    /// Numbers are never used twice, so each place counts on.
    next: u32,
    open: BTreeMap<u8, SessionId>,
    programs: BTreeMap<SessionId, Program>,
}

/// Plays one input.
pub(crate) fn node(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut stage = Stage::new(input.byte());
    stage.settle();
    while !input.0.is_empty() {
        let place = input.byte() % SESSIONS;
        match input.byte() % 16 {
            0 => stage.close(place),
            1 => {
                stage.now += Duration::from_millis(100 * u64::from(input.byte()));
                stage.node.handle_timeout(stage.now);
            }
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

impl Stage {
    fn new(choice: u8) -> Stage {
        let seal = ChecksumSeal::new(1, 77, 1);
        let order = if choice & 1 == 0 { Order::Passover } else { Order::Strict };
        let config = Config {
            cluster: "harbour".into(),
            me: NodeId(0),
            nodes: vec![NodeConfig {
                name: "node-a".into(),
                address: SocketAddr::from(([127, 0, 0, 1], 7000)),
                key: seal.public_key(),
            }],
            spaces: vec![SpaceConfig {
                name: "default".into(),
                order,
                retain: choice & 2 == 0,
                resources_max: 4,
            }],
            shared: 5,
            incarnation: Incarnation(1),
            stored: Epoch(0),
            clean: true,
            seed: 1,
            shards: 1,
            circuits: Default::default(),
            forget_after: Duration::from_secs(10),
            #[cfg(feature = "planted")]
            bug: None,
        };
        let now = Instant::from_millis(1_000);
        let words: Vec<Box<dyn Words + Send>> = vec![Box::new(PlainWords::new(4))];
        let node = Node::new(now, config, Box::new(seal), words);
        Stage { node, now, next: 0, open: BTreeMap::new(), programs: BTreeMap::new() }
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
        self.node.handle_session_opened(self.now, session, 1);
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
        let handle = u32::from(input.byte() % HANDLES);
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
                Output::Store { epoch } => self.node.handle_stored(self.now, epoch),
                Output::Transmit(_)
                | Output::Asked { .. }
                | Output::Looked { .. }
                | Output::Event(_)
                | Output::Hint { .. }
                | Output::Attached { .. }
                | Output::Wake { .. } => {}
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
