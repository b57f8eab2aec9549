//! A lock room against peers that have a good key and bad manners, and programs that ask anything.
//!
//! The bytes of an input choose what happens: messages of two peers with fields that are sometimes the expected
//! ones and sometimes arbitrary, requests of local programs, time. Whatever comes, the room does not panic,
//! names the misdeed or takes the message, and the locks that it granted stand beside each other.

// Used by the fuzz target and by an ordinary test.
#![allow(dead_code)]

use std::collections::BTreeMap;

use oarlock_layout::directory;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, Incarnation, LockId, NodeId, OwnerId, SessionId, SpaceId, TransactionId};
use oarlock_layout::message::lock::{
    Body, Conv, Deny, Forget, ForgetAck, Grant, Head, HeadNotice, Info, Kind, Packet, Reason, Want,
};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::{PlainWords, Words};
use oarlock_layout::time::{Duration, Instant};
use oarlock_layout::value::Value;
use oarlock_layout::view::{Member, View};
use oarlock_lock::{Config, Convert, Lock, Lockspace, Order, Output, Request, Unlock};

const ME: NodeId = NodeId(0);
const SPACE: SpaceId = SpaceId(0);
const EPOCH: Epoch = Epoch(1);
/// Few enough that everything meets on the same resources.
const LOCKS: u8 = 6;

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

struct Stage {
    room: Lockspace,
    words: PlainWords,
    now: Instant,
    names: Vec<Name>,
    honest: BTreeMap<(NodeId, Name), Honest>,
}

/// Plays one input.
pub(crate) fn room(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut stage = Stage::new(input.byte());
    while !input.0.is_empty() {
        match input.byte() % 8 {
            0..=3 => stage.message(&mut input),
            4..=6 => stage.request(&mut input),
            _ => {
                stage.now += Duration::from_secs(u64::from(input.byte() % 16));
                stage.room.handle_timeout(stage.now, &mut stage.words);
            }
        }
        stage.settle();
    }
}

impl Stage {
    fn new(choice: u8) -> Stage {
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
        room.handle_view(Instant(0), &view, Instant(0));
        // A table that fills up at three resources.
        let words = PlainWords::new(if choice & 4 == 0 { 64 } else { 3 });
        Stage { room, words, now: Instant(0), names, honest: BTreeMap::new() }
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
        let _ = self.room.handle_message(self.now, &mut self.words, from, packet);
    }

    /// A local program asks something.
    fn request(&mut self, input: &mut Input<'_>) {
        let number = input.byte() % LOCKS;
        let session = SessionId(1 + u32::from(number % 2));
        let lock = LockId::new(session, u32::from(number));
        let timeout = input.bit().then(|| Duration::from_secs(1 + input.number() % 8));
        let request = match input.byte() % 8 {
            0..=2 => Request::Lock(Lock {
                lock,
                name: self.names[usize::from(input.byte()) % self.names.len()].clone(),
                mode: input.mode(),
                flags: input.flags(),
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
        self.room.handle_request(self.now, &mut self.words, request);
    }

    /// Drains the outputs, learns from them what an honest peer would know, and looks at what is granted.
    fn settle(&mut self) {
        while let Some(output) = self.room.poll_output() {
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
                Body::Head(_) => {}
            }
        }
        for name in &self.names {
            let Some(slot) = self.words.find(name) else { continue };
            let entries = self.words.entries(slot);
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
