//! One circuit: everything a node keeps for one peer.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use oarlock_layout::code::Code;
use oarlock_layout::codec::Malformed;
use oarlock_layout::id::{Incarnation, NodeId};
use oarlock_layout::message::frame::{
    self, Chunk, Chunks, Class, SEALED_HEADER_BYTES, SEALED_OVERHEAD_BYTES, SealedHeader,
};
use oarlock_layout::seal::{Initiation, MAC_BYTES, PublicKey, TAG_BYTES};
use oarlock_layout::stamp::Clock;
use oarlock_layout::time::Instant;

use crate::chance::Chance;
use crate::config::{Options, Peer};
use crate::door::Reports;
use crate::hearing::{Change, Hearing};
use crate::inbound::{Arrival, Inbound};
use crate::keyring::{KeyRing, Limits, Run};
use crate::outbound::{Ack, Outbound, Patience};
use crate::output::{Output, Transmit};
use crate::rtt::Rtt;
use crate::status::{CircuitStatus, PeerCounters, State};

/// An attempt of ours to open the circuit or to change its keys.
pub(crate) struct Attempt {
    pub(crate) receiver: u32,
    /// Whom it was made for.
    pub(crate) key: PublicKey,
    pub(crate) initiation: Box<dyn Initiation + Send>,
    pub(crate) sent_at: Instant,
}

/// When to say hello next.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Knocking {
    /// A hello is to be built now.
    pub(crate) due: bool,
    /// When the next one is due, while we want one at all.
    pub(crate) at: Option<Instant>,
    pause: Duration,
}

/// The state that belongs to a pair of runs. A new run of the peer gets a new one; nothing is carried over.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Open {
    run: Run,
    since: Instant,
    hearing: Hearing,
    /// By the number of the class, as the next.
    outbound: [Outbound; Class::COUNT],
    inbound: [Inbound; Class::COUNT],
    /// Datagrams sent so far: orders transmissions over changes of keys.
    order: u64,
    rtt: Rtt,
}

pub(crate) struct Circuit {
    pub(crate) peer: Peer,
    /// The key that the peer is about to change to: good beside the one in `peer`.
    pub(crate) next_key: Option<PublicKey>,
    options: Options,
    limits: Limits,
    pub(crate) keys: KeyRing,
    pub(crate) attempt: Option<Attempt>,
    pub(crate) knocking: Knocking,
    /// The newest hello that was accepted; one that is not newer is a replay.
    pub(crate) newest_hello: Option<(Incarnation, u64)>,
    /// Hash of the peer's shared configuration, as it said last.
    pub(crate) shared: Option<u64>,
    pub(crate) cookie: Option<([u8; MAC_BYTES], Instant)>,
    pub(crate) pinned: Option<Incarnation>,
    /// The peer's last word was a refusal.
    pub(crate) refused_by: Option<Code>,
    /// Our last word was one.
    pub(crate) refusing: Option<Code>,
    pub(crate) reports: Reports,
    pub(crate) open: Option<Open>,
    pub(crate) counters: PeerCounters,
}

impl Circuit {
    pub(crate) fn new(peer: Peer, options: Options) -> Circuit {
        Circuit {
            peer,
            next_key: None,
            options,
            limits: Limits {
                rekey_after: options.rekey_after,
                rekey_packets: options.rekey_packets,
                reject_after: options.reject_after,
            },
            keys: KeyRing::default(),
            attempt: None,
            knocking: Knocking { due: false, at: None, pause: options.hello_min },
            newest_hello: None,
            shared: None,
            cookie: None,
            pinned: None,
            refused_by: None,
            refusing: None,
            reports: Reports::default(),
            open: None,
            counters: PeerCounters::default(),
        }
    }

    /// The run at the other end.
    pub(crate) fn run(&self) -> Option<Run> {
        self.open.as_ref().map(|open| open.run)
    }

    /// Whether the owner of the other half of this key is the peer.
    pub(crate) fn is_known_by(&self, key: &PublicKey) -> bool {
        self.peer.key == *key || self.next_key == Some(*key)
    }

    /// Whom a hello is made for. The peer has its next key before anybody hears of it.
    pub(crate) fn newest_key(&self) -> PublicKey {
        self.next_key.unwrap_or(self.peer.key)
    }

    /// Why a handshake with this run is refused, if it is.
    pub(crate) fn objection(&self, incarnation: Incarnation, run: u64) -> Option<Code> {
        let known = self.run().map(|run| run.incarnation);
        let newest = known.max(self.newest_hello.map(|(incarnation, _)| incarnation));
        let older = newest.is_some_and(|newest| incarnation < newest);
        let doubled = self.run().is_some_and(|r| r.incarnation == incarnation && r.number != run);
        let unpinned = self.pinned.is_some_and(|pinned| pinned != incarnation);
        (older || doubled || unpinned).then_some(Code::PeerRestarted)
    }

    /// Keys to this run are in use at both ends. A run that is new ends the circuit to the one before.
    pub(crate) fn establish(&mut self, now: Instant, run: Run, outputs: &mut VecDeque<Output>) {
        self.refused_by = None;
        self.refusing = None;
        self.reports.forget();
        self.settle();
        if self.run() == Some(run) {
            self.counters.rekeys += 1;
            return;
        }
        let peer = self.peer.node;
        self.close(outputs);
        self.keys.keep_only(run);
        self.counters.circuit_up += 1;
        self.open = Some(Open {
            run,
            since: now,
            hearing: Hearing::new(now, self.options.probe, self.options.silent),
            outbound: core::array::from_fn(|n| {
                let class = Class::from_number(n as u8).expect("numbers of classes count from 0");
                Outbound::new(class, self.options.datagram_bytes)
            }),
            inbound: Default::default(),
            order: 0,
            rtt: Rtt::default(),
        });
        outputs.push_back(Output::Up { peer, incarnation: run.incarnation });
    }

    /// The circuit ends, if there is one.
    pub(crate) fn close(&mut self, outputs: &mut VecDeque<Output>) {
        if let Some(old) = self.open.take() {
            let unknown = old.outbound.iter().map(Outbound::messages).sum();
            self.counters.circuit_down += 1;
            self.counters.unknown += unknown as u64;
            let (peer, incarnation) = (self.peer.node, old.run.incarnation);
            outputs.push_back(Output::Down { peer, incarnation, unknown });
        }
    }

    /// Nothing more to say at the door until keys grow old.
    fn settle(&mut self) {
        self.attempt = None;
        self.knocking = Knocking { due: false, at: None, pause: self.options.hello_min };
    }

    /// Says hello at `at` unless it will anyway.
    pub(crate) fn knock_at(&mut self, at: Instant) {
        if !self.knocking.due {
            self.knocking.at = Some(self.knocking.at.map_or(at, |known| known.min(at)));
        }
    }

    /// When to say hello next if the attempt under way is lost: at once.
    pub(crate) fn knocking_anew(&self) -> Knocking {
        let mut knocking = self.knocking.clone();
        if let Some(attempt) = &self.attempt {
            knocking.at = Some(knocking.at.map_or(attempt.sent_at, |at| at.min(attempt.sent_at)));
        }
        knocking
    }

    /// Gives up the present attempt and waits before the next one.
    pub(crate) fn step_back(&mut self, now: Instant, chance: &mut Chance) {
        self.attempt = None;
        self.knocking.due = false;
        self.knocking.pause = self.options.hello_max;
        self.knocking.at = Some(now + chance.jitter(self.options.hello_max));
    }

    /// A hello goes out: the next one follows if nothing comes of it.
    pub(crate) fn knocked(&mut self, now: Instant, attempt: Attempt, chance: &mut Chance) {
        self.attempt = Some(attempt);
        self.knocking.due = false;
        self.knocking.at = Some(now + chance.jitter(self.knocking.pause));
        self.knocking.pause = (self.knocking.pause * 2).min(self.options.hello_max);
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub(crate) fn backlog(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.outbound.iter().map(Outbound::backlog).sum())
    }

    /// Takes a message for sending; the circuit is open.
    pub(crate) fn push(&mut self, class: Class, message: &[u8]) {
        let open = self.open.as_mut().expect("checked by the caller");
        open.outbound[class as usize].push(message);
        self.counters.messages_sent += 1;
    }

    /// An acknowledgement goes out at the next occasion, be there nothing to acknowledge: the first packet with new keys
    /// tells the responder that we have them, and any packet tells what our clock reads.
    pub(crate) fn say_something(&mut self) {
        if let Some(open) = &mut self.open {
            open.inbound[Class::Lock as usize].acknowledge();
        }
    }

    /// Reads the body of an authentic, new packet.
    pub(crate) fn handle_body(
        &mut self,
        now: Instant,
        order: (Instant, u64),
        body: &[u8],
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), Malformed> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.hearing.handle_packet(now);
        let (options, counters) = (&self.options, &mut self.counters);
        let packet = Packet { now, order, from: self.peer.node, options, counters, outputs };
        let result = open.handle_chunks(body, packet);
        self.report(now, outputs);
        result
    }

    fn report(&mut self, now: Instant, outputs: &mut VecDeque<Output>) {
        let peer = self.peer.node;
        let Some(open) = &mut self.open else { return };
        match open.hearing.poll_change(now) {
            None => {}
            Some(Change::Silent) => {
                self.counters.silences += 1;
                outputs.push_back(Output::Silent { peer });
                // Perhaps only the keys do not fit any more: a handshake tells.
                self.knock_at(now);
            }
            Some(Change::Heard) => {
                open.outbound.iter_mut().for_each(|outbound| outbound.hurry(now));
                outputs.push_back(Output::Heard { peer });
            }
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, outputs: &mut VecDeque<Output>) {
        let patience = patience(&self.options);
        if let Some(open) = &mut self.open {
            open.hearing.handle_timeout(now);
            let silent = open.hearing.silent();
            for outbound in &mut open.outbound {
                let ran_out = outbound.handle_timeout(now, open.order, silent, &open.rtt, patience);
                self.counters.resend_timeouts += u64::from(ran_out);
            }
            open.inbound.iter_mut().for_each(|inbound| inbound.handle_timeout(now));
        }
        self.report(now, outputs);
        if self.knocking.at.is_none() && !self.knocking.due && self.renew_at().is_some_and(|at| at <= now) {
            self.knocking.due = true;
        }
        if self.knocking.at.is_some_and(|at| at <= now) {
            self.knocking.at = None;
            self.knocking.due = true;
        }
    }

    /// When new keys are to be asked for; an open circuit without keys has been waiting for them for ever.
    fn renew_at(&self) -> Option<Instant> {
        self.open.as_ref()?;
        Some(self.keys.renew_at(&self.limits).unwrap_or_default())
    }

    pub(crate) fn timer(&self) -> Option<Instant> {
        let knock = match (self.knocking.due, self.knocking.at) {
            (true, _) => None, // will be built when outputs are polled
            (false, None) => self.renew_at(),
            (false, at) => at,
        };
        let open = self.open.iter().flat_map(|open| {
            let outbound = open.outbound.iter().filter_map(Outbound::timer);
            let inbound = open.inbound.iter().filter_map(Inbound::timer);
            outbound.chain(inbound).chain([open.hearing.timer()])
        });
        open.chain(knock).min()
    }

    /// Builds the datagrams that are due: one, or a train of full ones and a last.
    pub(crate) fn pack(&mut self, now: Instant, clock: &mut dyn Clock) -> Option<Transmit> {
        let full = self.options.datagram_bytes;
        let open = self.open.as_mut()?;
        if !open.due() {
            return None;
        }
        let epoch = self.keys.sending(now, &self.limits)?;
        let mut bytes = Vec::with_capacity(open.room(full, self.options.train_max));
        let mut count = 0;
        loop {
            let start = bytes.len();
            bytes.resize(start + SEALED_HEADER_BYTES, 0);
            let limit = start + full - TAG_BYTES;
            if count == 0 {
                open.pack_signs(now, &mut bytes, limit, &mut self.counters, self.options.strange);
            }
            for class in Class::ALL {
                let patience = patience(&self.options);
                let outbound = &mut open.outbound[class as usize];
                let packed = outbound.pack(now, open.order, &open.rtt, patience, &mut bytes, limit);
                self.counters.resent += packed.resent as u64;
            }
            if bytes.len() == start + SEALED_HEADER_BYTES {
                bytes.truncate(start);
                break;
            }
            count += 1;
            let goes_on = count < self.options.train_max && open.outbound.iter().any(Outbound::ready);
            // Only full datagrams can be followed: one that is nearly full is made so. What is left over at an
            // emptier one goes out with the next call.
            let pad = goes_on && bytes.len() + full / 4 >= limit;
            if pad {
                bytes.resize(limit, 0);
            }
            let reading = clock.reading(self.peer.node);
            let header = SealedHeader { receiver: epoch.sender, number: epoch.number, reading }.to_array();
            epoch.number += 1;
            open.order += 1;
            bytes[start..start + SEALED_HEADER_BYTES].copy_from_slice(&header);
            let tag = epoch.keys.seal(epoch.number - 1, &header, &mut bytes[start + SEALED_HEADER_BYTES..]);
            bytes.extend_from_slice(&tag);
            if !pad {
                break;
            }
        }
        if count == 0 {
            return None;
        }
        self.counters.datagrams_sent += count as u64;
        self.counters.bytes_sent += bytes.len() as u64;
        let segment = (count > 1).then_some(full);
        Some(Transmit { to: self.peer.address, bytes, segment })
    }

    /// There may be something to pack.
    pub(crate) fn due(&self, now: Instant) -> bool {
        self.open.as_ref().is_some_and(Open::due) && self.keys.can_send(now, &self.limits)
    }

    pub(crate) fn status(&self) -> CircuitStatus {
        let open = self.open.as_ref();
        let state = match (self.refused_by.or(self.refusing), open) {
            (Some(code), _) => State::Refused(code),
            (None, None) => State::Opening,
            (None, Some(open)) if open.hearing.silent() => State::Silent,
            (None, Some(_)) => State::Up,
        };
        CircuitStatus {
            state,
            incarnation: open.map(|o| o.run.incarnation),
            up_since: open.map(|o| o.since),
            silent_since: open.and_then(|o| o.hearing.silent_since),
            heard_at: open.map(|o| o.hearing.heard_at),
            rtt: open.and_then(|o| o.rtt.smooth()),
            keyed_at: self.keys.born(),
            backlog: self.backlog(),
            unacknowledged: open.map_or(0, |o| o.outbound.iter().map(Outbound::messages).sum()),
            counters: self.counters,
            shared: self.shared,
        }
    }
}

/// A packet whose body is being read, and where its effects go.
struct Packet<'a> {
    now: Instant,
    /// Since when its keys are in use, and its number under them: tells an older packet from a newer one.
    order: (Instant, u64),
    from: NodeId,
    options: &'a Options,
    counters: &'a mut PeerCounters,
    outputs: &'a mut VecDeque<Output>,
}

fn patience(options: &Options) -> Patience {
    Patience { ack_delay: options.ack_delay, min: options.resend_min, max: options.resend_max }
}

impl Open {
    #[cfg(feature = "planted")]
    pub(crate) fn outbound(&mut self) -> &mut [Outbound; Class::COUNT] {
        &mut self.outbound
    }

    fn due(&self) -> bool {
        self.hearing.due()
            || self.inbound.iter().any(Inbound::due)
            || self.outbound.iter().any(Outbound::ready)
    }

    /// How many bytes the next train may have, to ask for its memory once. A datagram with little to say gets
    /// little: allocators hand out pieces below a kilobyte many times faster than larger ones.
    fn room(&self, full: usize, max: usize) -> usize {
        let unsent: usize = self.outbound.iter().map(Outbound::unsent).sum();
        match unsent / (full - SEALED_OVERHEAD_BYTES) {
            // Headers of small messages are as long as the messages, and there may be acknowledgements.
            0 => (256 + 2 * unsent).min(full),
            more => full * (more + 1).min(max),
        }
    }

    /// Acknowledgements, keepalive and answer, ahead of all messages.
    fn pack_signs(
        &mut self,
        now: Instant,
        bytes: &mut Vec<u8>,
        limit: usize,
        counters: &mut PeerCounters,
        strange: Option<u8>,
    ) {
        if let Some((number, deaf)) = self.hearing.take_keepalive(now) {
            frame::encode_keepalive(bytes, number, deaf);
            if let Some(kind) = strange {
                frame::encode_other(bytes, kind, &number.to_le_bytes());
            }
            counters.keepalive_sent += 1;
        }
        if let Some((number, deaf)) = self.hearing.take_alive() {
            frame::encode_alive(bytes, number, deaf);
            counters.keepalive_answered += 1;
        }
        for class in Class::ALL {
            let inbound = &mut self.inbound[class as usize];
            if inbound.pending() {
                // At most half of what is left each, so that even the smallest datagram holds them all.
                inbound.pack_ack(now, class, bytes, (limit - bytes.len()) / 2);
            }
        }
    }

    fn handle_chunks(&mut self, body: &[u8], mut packet: Packet<'_>) -> Result<(), Malformed> {
        let mut chunks = Chunks::new(body);
        let mut data = [false; Class::COUNT];
        let mut result = Ok(());
        loop {
            let chunk = match chunks.next_chunk() {
                Ok(None) => break,
                Ok(Some(chunk)) => chunk,
                Err(malformed) => {
                    result = Err(malformed);
                    break;
                }
            };
            if let Chunk::Run { class, .. } = chunk {
                data[class as usize] = true;
            }
            if let Err(malformed) = self.handle_chunk(chunk, &mut packet) {
                result = Err(malformed);
                break;
            }
        }
        for class in Class::ALL {
            if data[class as usize] {
                self.hearing.handle_data(packet.now);
                self.inbound[class as usize].handle_datagram(packet.now, packet.options.ack_delay);
            }
        }
        result
    }

    fn handle_chunk(&mut self, chunk: Chunk<'_>, packet: &mut Packet<'_>) -> Result<(), Malformed> {
        let Packet { now, order, from, options, counters, outputs } = packet;
        let (now, order, from) = (*now, *order, *from);
        match chunk {
            Chunk::Run { class, first, mut segments } => {
                let inbound = &mut self.inbound[class as usize];
                let mut sequence = first;
                while let Some(segment) = segments.next_segment()? {
                    let arrival = inbound.handle_segment(sequence, segment, |message| {
                        counters.messages_received += 1;
                        outputs.push_back(Output::Deliver { from, class, message });
                    });
                    match arrival {
                        Arrival::New => {}
                        Arrival::Duplicate => counters.duplicates += 1,
                        Arrival::Overflow => counters.overflowed += 1,
                        Arrival::TooLong => {
                            let max = oarlock_layout::limit::MESSAGE_BYTES_MAX as u64;
                            return Err(Malformed::TooMany { field: "message length", value: max + 1, max });
                        }
                    }
                    sequence = sequence
                        .checked_add(1)
                        .ok_or(Malformed::Unknown { field: "sequence number", value: u64::MAX })?;
                }
            }
            Chunk::Ack { class, next, delay_us, ranges } => {
                let ack = Ack { next, ranges, delay: Duration::from_micros(delay_us.into()) };
                let outbound = &mut self.outbound[class as usize];
                outbound.handle_ack(now, ack, self.order, &mut self.rtt, patience(options))?;
            }
            Chunk::Keepalive { number, deaf } => self.hearing.handle_keepalive(order, number, deaf),
            Chunk::Alive { number, deaf } => {
                counters.keepalive_acked += 1;
                if let Some(rtt) = self.hearing.handle_alive(now, order, number, deaf) {
                    self.rtt.sample(rtt);
                }
            }
            Chunk::Other(_) => counters.chunks_skipped += 1,
        }
        Ok(())
    }
}
