//! A lock room against peers that have a good key and bad manners, and programs that ask anything.
//!
//! The bytes of an input choose what happens: messages of two peers with fields that are sometimes the expected
//! ones and sometimes arbitrary, requests of local programs, time. Whatever comes, the room does not panic,
//! names the misdeed or takes the message, and the locks that it granted stand beside each other.
//!
//! In the second form the counts lie in a segment: programs of two sessions wait in its entries, and a foreign hand
//! writes into it before each look.

// Used by the fuzz target and by an ordinary test.
#![allow(dead_code)]

#[path = "../../../oarlock-shm/tests/hand/mod.rs"]
pub(crate) mod hand;

use std::collections::BTreeMap;
use std::sync::Arc;

use hand::{Dice, Haunted};
use oarlock_layout::directory;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{
    Epoch, Incarnation, LockId, NodeId, OwnerId, SessionId, SharedHandle, SpaceId, TransactionId,
};
use oarlock_layout::message::lock::{
    Body, Conv, Deny, Forget, ForgetAck, Grant, Head, HeadNotice, Info, Kind, Packet, Reason, Want,
};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::{Geometry, PlainWords, Words};
use oarlock_layout::time::{Duration, Instant};
use oarlock_layout::value::Value;
use oarlock_layout::view::{Member, View};
use oarlock_lock::{Config, Convert, Lock, Lockspace, Order, Output, Request, Unlock};
use oarlock_shm::{Caller, Clock, First, Hub, Memory, Party, Taken};

const ME: NodeId = NodeId(0);
const SPACE: SpaceId = SpaceId(0);
const EPOCH: Epoch = Epoch(1);
/// Few enough that everything meets on the same resources.
const LOCKS: u8 = 6;
/// Outputs of one step: each waiter may be answered, each peer told of each resource, a few times over.
const OUTPUTS_MAX: usize = 2_000;

/// The programs' clock stands still; their lease does not end.
struct Still;

impl Clock for Still {
    fn coarse(&self) -> u64 {
        1
    }
}

/// The bytes that are left; zeros once there are none.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Mostly small, sometimes as large as it gets.
    fn number(&mut self) -> u64 {
        match self.byte() {
            n @ 0..=250 => u64::from(n) % 8,
            251 => u64::MAX,
            252 => u64::MAX - 1,
            253 => 1 << 44,
            254 => (1 << 44) - 1,
            255 => 1 << 32,
        }
    }

    fn bit(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    fn mode(&mut self) -> Mode {
        Mode::ALL[usize::from(self.byte()) % Mode::ALL.len()]
    }

    fn mode_option(&mut self) -> Option<Mode> {
        Mode::ALL.get(usize::from(self.byte()) % (Mode::ALL.len() + 1)).copied()
    }

    fn kind(&mut self) -> Kind {
        if self.bit() { Kind::Convert } else { Kind::New }
    }

    fn flags(&mut self) -> Flags {
        Flags::from_bits_truncate(u32::from(self.byte()) | u32::from(self.byte()) << 8)
    }

    fn value(&mut self) -> Option<Value> {
        self.bit().then(|| Value { sequence: self.number(), valid: self.bit(), bytes: [self.byte(); 64] })
    }

    fn head(&mut self) -> Option<Head> {
        self.bit().then(|| Head {
            number: self.number(),
            mode: self.mode(),
            kind: self.kind(),
            attempt: self.number(),
            notify: self.bit(),
            demand: self.bit(),
        })
    }
}

/// What an honest peer would say next about a resource: its own ordinal and the change it heard of.
#[derive(Default)]
struct Honest {
    n: u64,
    g: u64,
    /// As a master: changes it made, and the last statement it heard.
    decided: u64,
    heard: u64,
    attempt: u64,
}

/// A segment, and the programs of two sessions in it.
type Shared = (Arc<Memory>, [Option<Caller<Still>>; 2]);

struct Stage {
    room: Lockspace,
    words: Box<dyn Words>,
    /// The segment behind `words`, and the programs of sessions 1 and 2 in it.
    shared: Option<Shared>,
    now: Instant,
    names: Vec<Name>,
    honest: BTreeMap<(NodeId, Name), Honest>,
}

/// Plays one input.
pub(crate) fn room(bytes: &[u8]) {
    let mut input = Input(bytes);
    let choice = input.byte();
    // A table that fills up at three resources.
    let words = PlainWords::new(if choice & 4 == 0 { 64 } else { 3 });
    let stage = Stage::new(choice, Box::new(words), None);
    play(stage, input);
}

/// Plays one input over a segment.
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
    let often = [0, 4, 40, 160][usize::from(choice >> 3) % 4];
    let slots = if choice & 4 == 0 { 8 } else { 3 };
    let memory = Memory::private(Geometry { slots, areas: 4, entries: 64 }, seed);
    let mut hub = Hub::new(Arc::clone(&memory));
    hub.renew(u64::MAX);
    let words = Haunted::with(hub, dice, often);
    let mut stage = Stage::new(choice, Box::new(words), Some((memory, [None, None])));
    stage.attach(0);
    stage.attach(1);
    play(stage, input);
}

fn play(mut stage: Stage, mut input: Input<'_>) {
    while !input.0.is_empty() {
        match input.byte() % 8 {
            0..=3 => stage.message(&mut input),
            4..=6 => stage.request(&mut input),
            _ => {
                stage.now += Duration::from_secs(u64::from(input.byte() % 16));
                stage.room.handle_timeout(stage.now, stage.words.as_mut());
            }
        }
        stage.settle();
    }
}

impl Stage {
    fn new(choice: u8, mut words: Box<dyn Words>, shared: Option<Shared>) -> Stage {
        let member = |n| Member { node: NodeId(n), incarnation: Incarnation(1) };
        let view = View { epoch: EPOCH, members: vec![member(0), member(1), member(2)] };
        // Two resources mastered here, one at each peer.
        let mut names: Vec<Name> = Vec::new();
        for (node, count) in [(0, 2), (1, 1), (2, 1)] {
            let all = (b'a'..=b'z').map(|c| Name::new(&[c]).expect("one byte"));
            let here =
                all.filter(|n| directory::master(SPACE, n.as_bytes(), view.nodes()) == Some(NodeId(node)));
            names.extend(here.take(count));
        }
        let order = if choice & 1 == 0 { Order::Passover } else { Order::Strict };
        let config = Config { order, retain: choice & 2 == 0, ..Config::native(SPACE, ME) };
        let mut room = Lockspace::new(config);
        room.found(Instant(0), words.as_mut(), &view);
        Stage { room, words, shared, now: Instant(0), names, honest: BTreeMap::new() }
    }

    /// A peer says something.
    fn message(&mut self, input: &mut Input<'_>) {
        // Now and then somebody who is no member.
        let from = NodeId([1, 2, 1, 2, 1, 2, 1, 7][usize::from(input.byte()) % 8]);
        let name = self.names[usize::from(input.byte()) % self.names.len()].clone();
        let honest = self.honest.entry((from, name.clone())).or_default();
        // Fields that must fit are right most of the time: else every message dies at the first check.
        let fits = !input.byte().is_multiple_of(8);
        let kind = input.byte() % 8;
        let body = match kind {
            0..=2 => {
                honest.n += 1;
                Body::Info(Info {
                    n: if fits { honest.n } else { input.number() },
                    g: if fits { honest.g } else { input.number() },
                    held: input.mode_option(),
                    conv: input.bit().then(|| Conv {
                        mode: input.mode(),
                        alternate: if input.bit() { Some(input.mode()) } else { None },
                        kind: input.kind(),
                        from: input.mode_option(),
                        attempt: input.number(),
                        flags: input.flags() & Flags::STATED,
                        demand: input.bit(),
                    }),
                    busy: input.number(),
                    openers: input.number() as u32,
                    uses_value: input.bit(),
                    want: Want { value: input.bit(), serial: input.bit() },
                    value: input.value(),
                })
            }
            3 | 4 => {
                honest.decided += 1;
                Body::Grant(Grant {
                    g: if fits { honest.decided } else { input.number() },
                    a: if fits { honest.heard } else { input.number() },
                    mode: input.mode(),
                    serial: input.number(),
                    alternate: input.bit(),
                    queued: input.bit(),
                    current: input.bit(),
                    head: input.head(),
                    openers: input.number() as u32,
                    value: input.value(),
                })
            }
            5 => {
                honest.decided += 1;
                Body::Deny(Deny {
                    g: if fits { honest.decided } else { input.number() },
                    a: if fits { honest.heard } else { input.number() },
                    attempt: if fits { honest.attempt } else { input.number() },
                    reason: [Reason::Busy, Reason::Deadlock, Reason::Exhausted]
                        [usize::from(input.byte()) % 3],
                })
            }
            6 => Body::Head(HeadNotice {
                g: if fits { honest.decided } else { input.number() },
                a: if fits { honest.heard } else { input.number() },
                head: input.head(),
                openers: input.number() as u32,
            }),
            _ if input.bit() => {
                honest.n += 1;
                let (g, n) = if fits { (honest.g, honest.n) } else { (input.number(), input.number()) };
                Body::Forget(Forget { g, n, value: input.value() })
            }
            _ => {
                let (g, n) =
                    if fits { (honest.decided, honest.heard) } else { (input.number(), input.number()) };
                Body::ForgetAck(ForgetAck { g, n })
            }
        };
        let epoch = if input.byte() == 0xff { Epoch(2) } else { EPOCH };
        let packet = Packet { space: SPACE, epoch, name, body };
        // A named misdeed is an answer as good as any.
        let _ = self.room.handle_message(self.now, self.words.as_mut(), from, packet);
    }

    /// A local program asks something.
    fn request(&mut self, input: &mut Input<'_>) {
        let number = input.byte() % LOCKS;
        let session = SessionId(1 + u32::from(number % 2));
        if self.shared.is_some() && input.bit() {
            return self.program(input, session);
        }
        let mut lock = LockId::new(session, u32::from(number));
        let mut quiet = Flags::empty();
        if self.shared.is_some() && input.bit() {
            // An entry, whatever it says; now and then one that does not exist.
            let entry = if input.byte() == 0xff { 1 << 27 } else { u32::from(number) };
            lock = LockId::new(session, SharedHandle { segment: 0, entry }.number());
            quiet = Flags::QUIET;
        }
        let timeout = input.bit().then(|| Duration::from_secs(1 + input.number() % 8));
        let request = match input.byte() % 8 {
            0..=2 => Request::Lock(Lock {
                lock,
                name: self.names[usize::from(input.byte()) % self.names.len()].clone(),
                mode: input.mode(),
                flags: input.flags() | quiet,
                timeout,
                owner: OwnerId(1),
                transaction: TransactionId(1),
            }),
            3 | 4 => {
                let value = input.bit().then(|| [input.byte(); 64]);
                Request::Convert(Convert { lock, mode: input.mode(), flags: input.flags(), timeout, value })
            }
            5 => {
                let value = input.bit().then(|| [input.byte(); 64]);
                Request::Unlock(Unlock { lock, value, invalidate: input.bit() })
            }
            6 => Request::Cancel(lock),
            _ => Request::End(session),
        };
        let ends = matches!(request, Request::End(_));
        if ends {
            self.words.end(session);
        }
        self.room.handle_request(self.now, self.words.as_mut(), request);
        if ends && self.shared.is_some() {
            self.words.bury(session);
            self.attach(session.0 as usize - 1);
        }
    }

    fn attach(&mut self, program: usize) {
        let Some((memory, callers)) = &mut self.shared else { return };
        let place = self.words.attach(SessionId(1 + program as u32), 0);
        callers[program] = place.map(|place| Caller::new(Arc::clone(memory), place, Still));
    }

    /// A program that keeps to the rules takes a lock, or begins to wait for one, or a bell is answered.
    fn program(&mut self, input: &mut Input<'_>, session: SessionId) {
        let Some((_, callers)) = &self.shared else { return };
        let Some(caller) = &callers[session.0 as usize - 1] else { return };
        let name = &self.names[usize::from(input.byte()) % self.names.len()];
        let (mode, first) = (input.mode(), First::shared(u32::from(input.byte() % LOCKS)));
        let found = caller.find(name.as_bytes());
        let taken = match (found, input.byte() % 4) {
            (Some(spot), 0 | 1) => caller.acquire(spot, mode, &Party::default(), true, first),
            (None, 0 | 1) | (_, 2) => caller.ask(mode, &Party::default(), first),
            _ => {
                for _ in 0..8 {
                    let Some(slot) = self.words.poll_bell() else { break };
                    self.room.handle_bell(self.now, self.words.as_mut(), slot);
                }
                return;
            }
        };
        match taken {
            Taken::Held { hold, .. } if input.bit() => drop(caller.release(hold)),
            Taken::Wait(ticket) => {
                let handle = SharedHandle { segment: 0, entry: ticket.entry };
                let request = Lock {
                    lock: LockId::new(session, handle.number()),
                    name: name.clone(),
                    mode,
                    flags: input.flags() | Flags::QUIET,
                    timeout: None,
                    owner: OwnerId(1),
                    transaction: TransactionId(1),
                };
                self.room.handle_request(self.now, self.words.as_mut(), Request::Lock(request));
            }
            _ => {}
        }
    }

    /// Drains the outputs, learns from them what an honest peer would know, and looks at what is granted.
    fn settle(&mut self) {
        let mut outputs = 0;
        while let Some(output) = self.room.poll_output() {
            outputs += 1;
            assert!(outputs < OUTPUTS_MAX, "one step has {outputs} outputs");
            let Output::Send { to, packet } = output else { continue };
            assert_ne!(to, ME, "a message to itself");
            let honest = self.honest.entry((to, packet.name)).or_default();
            match packet.body {
                Body::Info(m) => {
                    honest.heard = m.n;
                    honest.attempt = m.conv.map_or(0, |c| c.attempt);
                }
                Body::Forget(m) => honest.heard = m.n,
                Body::Grant(m) => honest.g = m.g,
                Body::Deny(m) => honest.g = m.g,
                Body::ForgetAck(_) => *honest = Honest::default(),
                Body::Head(_) | Body::Handover(_) => {}
            }
        }
        for name in &self.names {
            let Some(slot) = self.words.find(name) else { continue };
            let mut entries = self.words.entries(slot);
            if self.shared.is_some() {
                // What an entry says is a claim. Locks of the node's own table it never saw.
                entries.retain(|entry| entry.claim.lock.entry().is_none());
            }
            let owned = self.words.look(slot).owned;
            for (i, a) in entries.iter().enumerate() {
                assert!(owned.is_some_and(|o| o.covers(a.mode)), "{a:?} is not covered by {owned:?}");
                for b in &entries[i + 1..] {
                    assert!(a.mode.compatible(b.mode), "{a:?} stands beside {b:?}");
                }
            }
        }
    }
}
