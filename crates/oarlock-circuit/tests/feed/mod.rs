//! What the room must stand when bytes follow no rule: one function per fuzz target, also used to replay the
//! corpus.
//!
//! An input is a row of steps. The seal here is open to everybody, so that a fuzzer can say anything a member
//! could say without having to forge a tag first.

// Each program that includes this file uses a part of it.
#![allow(dead_code)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use oarlock_circuit::{Circuits, Class, Config, Options, Output, Peer, REPLAY_WINDOW, ReplayWindow};
use oarlock_layout::codec::Wire;
use oarlock_layout::id::{Incarnation, NodeId};
use oarlock_layout::message::frame::{self, Greeting, SealedHeader};
use oarlock_layout::seal::{
    Arrival, Initiation, Keys, MAC_BYTES, MacKey, NotAuthentic, PublicKey, Response, Seal, TAG_BYTES,
};
use oarlock_layout::stamp::{AbsurdStamp, Clock, Reading, Stamp};
use oarlock_layout::time::Instant;

/// What takes an input.
pub(crate) type Feed = fn(&[u8]);

/// Name of the fuzz target and of its corpus, and what it does with an input.
pub(crate) const TARGETS: &[(&str, Feed)] = &[("circuit", circuit), ("replay", replay)];

/// Hides nothing and believes everything.
struct Believing(u8);

fn key(node: u8) -> PublicKey {
    PublicKey([node; 32])
}

impl Seal for Believing {
    fn initiate(
        &mut self,
        _: &PublicKey,
        _: &[u8],
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Box<dyn Initiation + Send> {
        out.extend_from_slice(&[self.0; 32]);
        out.extend_from_slice(payload);
        Box::new(Believing(self.0))
    }

    fn respond(&mut self, _: &[u8], message: &[u8]) -> Result<Arrival, NotAuthentic> {
        let (key, payload) = message.split_first_chunk::<32>().ok_or(NotAuthentic)?;
        let response = Box::new(Believing(self.0));
        Ok(Arrival { key: PublicKey(*key), payload: payload.to_vec(), response })
    }

    fn mac(&self, _: MacKey<'_>, _: &[&[u8]]) -> [u8; MAC_BYTES] {
        [0; MAC_BYTES]
    }

    fn restore(&self, exported: &[u8]) -> Result<Box<dyn Keys + Send>, NotAuthentic> {
        Ok(Box::new(Believing(*exported.first().ok_or(NotAuthentic)?)))
    }
}

impl Initiation for Believing {
    fn finish(&mut self, message: &[u8]) -> Result<(Vec<u8>, Box<dyn Keys + Send>), NotAuthentic> {
        let payload = message.get(32..).ok_or(NotAuthentic)?;
        Ok((payload.to_vec(), Box::new(Believing(self.0))))
    }
}

impl Response for Believing {
    fn accept(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Box<dyn Keys + Send> {
        out.extend_from_slice(&[self.0; 32]);
        out.extend_from_slice(payload);
        Box::new(Believing(self.0))
    }
}

impl Keys for Believing {
    fn seal(&mut self, _: u64, _: &[u8], _: &mut [u8]) -> [u8; TAG_BYTES] {
        [0; TAG_BYTES]
    }

    fn open(&mut self, _: u64, _: &[u8], _: &mut [u8]) -> Result<(), NotAuthentic> {
        Ok(())
    }

    fn export(&self) -> Vec<u8> {
        vec![self.0]
    }
}

struct Ticking(u64);

impl Clock for Ticking {
    fn reading(&mut self, _: NodeId) -> Reading {
        self.0 += 1;
        Reading::bare(Stamp(self.0))
    }

    fn hear(&mut self, _: NodeId, &Reading { stamp, .. }: &Reading) -> Result<(), AbsurdStamp> {
        if stamp > Stamp::MAX {
            return Err(AbsurdStamp { stamp, max: Stamp::MAX });
        }
        self.0 = self.0.max(stamp.0);
        Ok(())
    }
}

fn address(node: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, node + 1], 4000))
}

/// Node 0 and what it says; nodes 1 and 2 are the input.
struct Bench {
    circuits: Circuits,
    clock: Ticking,
    now: Instant,
    /// The number by which node 1's packets find their keys, when there are some.
    receiver: u32,
    number: u64,
    /// Datagrams and bytes that left.
    left: (usize, usize),
}

impl Bench {
    fn new() -> Bench {
        let config = Config {
            me: NodeId(0),
            incarnation: Incarnation(1),
            cluster: String::new(),
            shared: 7,
            peers: (0..3)
                .map(|n| Peer { node: NodeId(n.into()), address: address(n), key: key(n) })
                .collect(),
            seed: 1,
            options: Options::default(),
        };
        let now = Instant::from_millis(1000);
        let mut bench = Bench {
            circuits: Circuits::new(now, config, Box::new(Believing(0))),
            clock: Ticking(0),
            now,
            receiver: 0,
            number: 0,
            left: (0, 0),
        };
        bench.open();
        bench
    }

    /// Node 1 says hello to node 0, whose own hellos are heard by nobody.
    fn open(&mut self) {
        let mut hello = Vec::new();
        let greeting = Greeting {
            node: NodeId(1),
            incarnation: Incarnation(1),
            run: 5,
            shared: 7,
            number: 1,
            stamp: Stamp(1),
            status: 0,
        };
        frame::encode_hello(&mut hello, 9, |out| {
            out.extend_from_slice(&[1; 32]);
            out.extend_from_slice(&greeting.to_bytes());
        });
        hello.extend_from_slice(&[0; 2 * MAC_BYTES]);
        self.datagram(1, &mut hello);
        self.sealed(&[]);
        let status = self.circuits.status(NodeId(1)).expect("node 1 is a peer");
        assert_eq!(status.incarnation, Some(Incarnation(1)), "the bench has a circuit");
    }

    fn datagram(&mut self, from: u8, bytes: &mut [u8]) {
        self.circuits.handle_datagram(self.now, &mut self.clock, address(from), bytes);
        self.drain();
    }

    fn sealed(&mut self, body: &[u8]) {
        let reading = Reading::bare(Stamp(self.clock.0));
        let header = SealedHeader { receiver: self.receiver, number: self.number, reading };
        self.number += 1;
        let mut bytes = [&header.to_array()[..], body, &[0; TAG_BYTES]].concat();
        self.datagram(1, &mut bytes);
    }

    fn drain(&mut self) {
        for _ in 0..10_000 {
            let Some(output) = self.circuits.poll_output(self.now, &mut self.clock) else { return };
            if let Output::Transmit(transmit) = output {
                let datagrams = transmit.datagrams().count();
                assert!(transmit.datagrams().all(|d| frame::Datagram::decode(d).is_ok()));
                self.left = (self.left.0 + datagrams, self.left.1 + transmit.bytes.len());
                // A reply to node 1 says by which number it wants to be found.
                if transmit.to == address(1) && transmit.bytes[3] == frame::Kind::Reply as u8 {
                    self.receiver = u32::from_le_bytes(transmit.bytes[8..12].try_into().expect("four bytes"));
                    self.number = 0;
                }
            }
        }
        panic!("outputs without end");
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        for _ in 0..1000 {
            let Some(at) = self.circuits.poll_timeout().filter(|&at| at <= until) else {
                self.now = until;
                return;
            };
            self.now = self.now.max(at);
            self.circuits.handle_timeout(self.now, &mut self.clock);
            self.drain();
        }
        panic!("timers without end");
    }
}

/// Takes what it can from the front of the input.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn word(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes([self.byte()?, self.byte()?]))
    }

    /// As many bytes as the next two say, or as there are.
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let n = usize::from(self.word()?).min(self.0.len());
        let (bytes, rest) = self.0.split_at(n);
        self.0 = rest;
        Some(bytes)
    }
}

/// Nodes 1 and 2 say anything at all, in any datagram, while time passes and node 0 has things to say.
pub(crate) fn circuit(bytes: &[u8]) {
    let mut bench = Bench::new();
    let mut input = Input(bytes);
    // Each step takes an input byte at least, so there are no more steps than bytes.
    while let Some(step) = input.byte() {
        let done = match step % 8 {
            0..3 => input.bytes().map(|body| bench.sealed(body)),
            3 => input.bytes().map(|bytes| bench.datagram(1 + step / 8 % 2, &mut bytes.to_vec())),
            4 => input.bytes().map(|rest| {
                let kind = [
                    frame::Kind::Hello,
                    frame::Kind::Reply,
                    frame::Kind::Cookie,
                    frame::Kind::Refusal,
                    frame::Kind::Gasp,
                ];
                let mut bytes = [&frame::start(kind[usize::from(step / 8) % 5]), rest].concat();
                bench.datagram(1, &mut bytes);
            }),
            5 => input.word().map(|ms| bench.pass(Duration::from_millis(u64::from(ms) % 2000))),
            6 => input.word().map(|length| {
                let class = Class::ALL[usize::from(step / 8) % Class::COUNT];
                let message = vec![step; usize::from(length)];
                let _ = bench.circuits.send(bench.now, NodeId(1), class, &message);
                bench.drain();
            }),
            _ => {
                bench.circuits.pin(NodeId(1), Incarnation(u64::from(step / 8)));
                bench.circuits.unpin(NodeId(2));
                Some(())
            }
        };
        if done.is_none() {
            break;
        }
    }
    let counters = bench.circuits.counters();
    assert_eq!(counters.peers.datagrams_sent + others(&counters.door), bench.left.0 as u64);
    let most = Options::default().backlog_max;
    assert!(bench.circuits.backlog(NodeId(1)) <= most);
}

/// Datagrams that no circuit counts: hellos are counted at the door, and each answer to one as what it is.
fn others(door: &oarlock_circuit::DoorCounters) -> u64 {
    door.hellos_sent + door.cookies_sent + door.answers_sent
}

/// Packet numbers in any order: the window agrees with a set of all that were seen.
pub(crate) fn replay(bytes: &[u8]) {
    let (mut window, mut seen, mut next) = (ReplayWindow::default(), BTreeSet::new(), 0u64);
    let mut input = Input(bytes);
    while let (Some(how), Some(n)) = (input.byte(), input.word()) {
        let n = u64::from(n);
        let number = match how % 4 {
            0 => next.saturating_add(n % 4),
            1 => next.saturating_add(n << (how / 4 % 48)),
            2 => next.saturating_sub(n % 300),
            _ => next.saturating_sub(n),
        };
        let new =
            number != u64::MAX && !seen.contains(&number) && next.saturating_sub(number) <= REPLAY_WINDOW;
        assert_eq!(window.note(number), new, "{number} of {next}");
        if new {
            seen.insert(number);
            next = next.max(number + 1);
        }
    }
}
