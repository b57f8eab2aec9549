//! The room: all circuits of one node.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::SocketAddr;

use oarlock_layout::code::Code;
use oarlock_layout::codec::Wire;
use oarlock_layout::id::{Incarnation, NodeId};
use oarlock_layout::limit::{MESSAGE_BYTES_MAX, NODES_MAX};
use oarlock_layout::message::frame::{
    self, Class, Datagram, Foreign, Greeting, SEALED_HEADER_BYTES, SealedHeader, VERSION,
};
use oarlock_layout::seal::{MAC_BYTES, MacKey, Seal, TAG_BYTES};
use oarlock_layout::stamp::Clock;
use oarlock_layout::time::Instant;

use crate::chance::Chance;
use crate::circuit::{Attempt, Circuit};
use crate::config::Config;
use crate::door::{Admission, Door, Reports, proves};
use crate::keyring::{KeyEpoch, Run};
use crate::output::{Output, SendError, Transmit};
use crate::replay::ReplayWindow;
use crate::status::{CircuitStatus, Counters, DoorCounters, PeerCounters};

/// Low bits of a receiver number: the peer's place in our list.
const PLACE_BITS: u32 = 6;
const _: () = assert!(NODES_MAX <= 1 << PLACE_BITS, "every peer has a place");

/// A cookie is used for this long; the other side takes it for at least as long.
const COOKIE_USE: core::time::Duration = core::time::Duration::from_secs(60);

/// All circuits of one node: datagrams in, ordered messages out.
///
/// Methods come in three kinds.
///
/// * **Input**: [`handle_datagram`](Circuits::handle_datagram), [`handle_timeout`](Circuits::handle_timeout),
///   [`send`](Circuits::send), [`pin`](Circuits::pin), [`unpin`](Circuits::unpin).
/// * **Output**: [`poll_output`](Circuits::poll_output) until it is `None`, then
///   [`poll_timeout`](Circuits::poll_timeout) for when to call `handle_timeout` if nothing else happens.
/// * **Looking**: [`backlog`](Circuits::backlog), [`status`](Circuits::status),
///   [`counters`](Circuits::counters).
///
/// Any number of inputs may come before outputs are drained. Datagrams are built while draining and not
/// before, so many messages share one, and an acknowledgement rides with the answer it made possible.
pub struct Circuits {
    config: Config,
    seal: Box<dyn Seal + Send>,
    prologue: Vec<u8>,
    /// Drawn once: tells this run from any other, even one with the same incarnation.
    run: u64,
    chance: Chance,
    door: Door,
    strangers: Reports,
    circuits: Vec<Circuit>,
    outputs: VecDeque<Output>,
    /// Circuits that may have something to send, one bit each.
    busy: u64,
    /// Whose turn it is, so that a circuit with much to send does not come before one with little.
    turn: u32,
    counts: DoorCounters,
}

impl Circuits {
    /// Circuits that are all still to be opened. The first attempts begin at once.
    ///
    /// # Panics
    /// If options contradict each other, or there are more peers than [`NODES_MAX`]: both come from our own
    /// program, which checks configuration before.
    pub fn new(now: Instant, config: Config, seal: Box<dyn Seal + Send>) -> Circuits {
        config.options.assert_sane();
        let peers: Vec<_> = config.peers.iter().filter(|peer| peer.node != config.me).copied().collect();
        assert!(peers.len() <= NODES_MAX, "{} peers", peers.len());
        let mut chance = Chance::new(config.seed);
        let run = chance.next();
        let door =
            Door::new(now, config.options.hellos_per_second, Chance::new(chance.next()), seal.as_ref());
        let mut circuits = Vec::new();
        for peer in peers {
            let mut circuit = Circuit::new(peer, config.options);
            // The lower id begins. The higher one waits a little, because two attempts at once are work for
            // nothing; but it does not wait for ever, because a node that has just restarted wants to know at
            // once how it is received.
            let wait = chance.jitter(config.options.hello_min / 4);
            circuit.knock_at(if config.me < peer.node { now } else { now + wait });
            circuits.push(circuit);
        }
        Circuits {
            prologue: prologue(&config.cluster),
            config,
            seal,
            run,
            chance,
            door,
            strangers: Reports::default(),
            circuits,
            outputs: VecDeque::new(),
            busy: 0,
            turn: 0,
            counts: DoorCounters::default(),
        }
    }

    /// Takes a message for sending. It will be delivered exactly once and in order within its class, unless
    /// another run of the peer takes this one's place ([`Output::Down`]).
    pub fn send(&mut self, _now: Instant, to: NodeId, class: Class, message: &[u8]) -> Result<(), SendError> {
        let place = self.place(to).ok_or(SendError::NoSuchPeer(to))?;
        let circuit = &mut self.circuits[place];
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(SendError::TooLong(message.len()));
        }
        if !circuit.is_open() {
            return Err(SendError::NotUp(to));
        }
        let backlog = circuit.backlog();
        if backlog + message.len() > self.config.options.backlog_max {
            return Err(SendError::Full { peer: to, backlog });
        }
        circuit.push(class, message);
        self.busy |= 1 << place;
        Ok(())
    }

    /// Bytes to a peer that are not acknowledged yet, all classes together.
    pub fn backlog(&self, peer: NodeId) -> usize {
        self.place(peer).map_or(0, |place| self.circuits[place].backlog())
    }

    /// The view names this run of the peer: handshakes of any other run are refused, and the peer is told why
    /// ([`Code::PeerRestarted`], L3). A circuit that exists is not touched.
    pub fn pin(&mut self, peer: NodeId, incarnation: Incarnation) {
        if let Some(place) = self.place(peer) {
            self.circuits[place].pinned = Some(incarnation);
        }
    }

    /// The view does not name the peer any more: any run that is not older than one we know is welcome.
    pub fn unpin(&mut self, peer: NodeId) {
        if let Some(place) = self.place(peer) {
            self.circuits[place].pinned = None;
        }
    }

    /// Takes a datagram from the network. `datagram` is decrypted in place.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        clock: &mut dyn Clock,
        from: SocketAddr,
        datagram: &mut [u8],
    ) {
        match Datagram::decode(datagram) {
            Ok(Datagram::Sealed(header)) => self.handle_sealed(now, clock, from, header, datagram),
            Ok(Datagram::Hello { sender, handshake, proof, cookie_proof }) => {
                let parts = Hello { sender, handshake, proof, cookie_proof };
                self.handle_hello(now, clock, from, datagram, parts);
            }
            Ok(Datagram::Reply { receiver, sender, handshake }) => {
                self.handle_reply(now, clock, from, receiver, sender, handshake);
            }
            Ok(Datagram::Cookie { receiver, cookie, proof }) => {
                let signed = &datagram[..datagram.len() - MAC_BYTES];
                if proves(self.seal.as_ref(), MacKey::Cluster, signed, proof) {
                    self.handle_cookie(now, receiver, cookie);
                } else {
                    self.counts.foreign += 1;
                }
            }
            Ok(Datagram::Refusal { receiver, code, node, proof, version: _ }) => {
                let signed = &datagram[..datagram.len() - MAC_BYTES];
                if proves(self.seal.as_ref(), MacKey::Cluster, signed, proof) {
                    self.handle_refusal(now, receiver, code, node);
                } else {
                    self.counts.foreign += 1;
                }
            }
            Err(Foreign::Version { version: _, hello }) => self.handle_version(now, from, hello),
            Err(Foreign::Magic | Foreign::Malformed(_)) => self.counts.foreign += 1,
        }
    }

    fn handle_sealed(
        &mut self,
        now: Instant,
        clock: &mut dyn Clock,
        from: SocketAddr,
        header: SealedHeader,
        datagram: &mut [u8],
    ) {
        let SealedHeader { receiver, number, stamp } = header;
        let place = (receiver % (1 << PLACE_BITS)) as usize;
        let Some(circuit) = self.circuits.get_mut(place) else {
            self.counts.no_such_key += 1;
            return;
        };
        let Some(epoch) = circuit.keys.find(receiver, now, self.config.options.reject_after) else {
            self.counts.no_such_key += 1;
            return;
        };
        if !epoch.replay.may_be_new(number) {
            circuit.counters.replayed += 1;
            return;
        }
        let length = datagram.len();
        let (head, sealed) = datagram.split_at_mut(SEALED_HEADER_BYTES);
        if epoch.keys.open(number, head, sealed).is_err() {
            circuit.counters.bad_tag += 1;
            return;
        }
        if !epoch.replay.note(number) {
            circuit.counters.replayed += 1;
            return;
        }
        // Before anything else is looked at, and whatever becomes of it (E3).
        if clock.hear(stamp).is_err() {
            circuit.counters.absurd_stamps += 1;
            return;
        }
        circuit.counters.datagrams_received += 1;
        circuit.counters.bytes_received += length as u64;
        let run = epoch.run;
        if circuit.keys.confirm(receiver) {
            circuit.establish(now, run, &mut self.outputs);
        }
        self.busy |= 1 << place;
        let body = &sealed[..sealed.len() - TAG_BYTES];
        if circuit.handle_body(now, body, &mut self.outputs).is_err() {
            circuit.counters.violations += 1;
            let node = Some(circuit.peer.node);
            if circuit.reports.note(now, Code::PeerViolation) {
                self.outputs.push_back(Output::Refused { from, node, code: Code::PeerViolation });
            }
        }
    }

    fn handle_hello(
        &mut self,
        now: Instant,
        clock: &mut dyn Clock,
        from: SocketAddr,
        datagram: &[u8],
        hello: Hello<'_>,
    ) {
        let seal = self.seal.as_ref();
        let signed = &datagram[..datagram.len() - 2 * MAC_BYTES];
        if !proves(seal, MacKey::Cluster, signed, hello.proof) {
            self.counts.refused_secret += 1;
            self.report_stranger(now, from, None, Code::PeerSecret);
            return;
        }
        self.counts.hellos_received += 1;
        let cookie_signed = &datagram[..datagram.len() - MAC_BYTES];
        let with_cookie = |cookie: &_| proves(seal, MacKey::Given(cookie), cookie_signed, hello.cookie_proof);
        match self.door.admit(now, from, seal, with_cookie) {
            Admission::Read => {}
            Admission::SendCookie => {
                self.counts.cookies_sent += 1;
                let mut bytes = Vec::new();
                frame::encode_cookie(&mut bytes, hello.sender, &self.door.cookie(from, seal));
                let proof = seal.mac(MacKey::Cluster, &[&bytes]);
                bytes.extend_from_slice(&proof);
                self.transmit(from, bytes);
                return;
            }
            Admission::Drop => {
                self.counts.hellos_dropped += 1;
                return;
            }
        }
        let Ok(mut arrival) = self.seal.respond(&self.prologue, hello.handshake) else {
            // Made for another key than ours, or in a cluster of another name.
            self.refuse_in_clear(now, from, hello.sender, Code::PeerKey, None);
            return;
        };
        let Ok(greeting) = Greeting::from_bytes(&arrival.payload) else {
            self.refuse_in_clear(now, from, hello.sender, Code::PeerViolation, None);
            return;
        };
        let place = self.circuits.iter().position(|circuit| circuit.peer.key == arrival.key);
        let Some(place) = place.filter(|&place| self.circuits[place].peer.node == greeting.node) else {
            self.refuse_in_clear(now, from, hello.sender, Code::PeerKey, Some(greeting.node));
            return;
        };
        if clock.hear(greeting.stamp).is_err() {
            self.circuits[place].counters.absurd_stamps += 1;
            return;
        }
        self.circuits[place].shared = Some(greeting.shared);
        let objection = if greeting.shared == self.config.shared {
            self.circuits[place].objection(greeting.incarnation, greeting.run)
        } else {
            Some(Code::PeerConfig)
        };
        let circuit = &self.circuits[place];
        if objection.is_none() {
            if circuit.newest_hello >= Some((greeting.incarnation, greeting.stamp)) {
                self.counts.hellos_replayed += 1;
                return;
            }
            if circuit.attempt.is_some() && self.config.me < circuit.peer.node {
                // Both began; ours is the one that counts (A1). The peer drops its own when it gets ours.
                self.counts.hellos_tied += 1;
                return;
            }
        }
        let receiver = self.draw_receiver(place);
        let answer = self.greeting(clock, objection);
        let mut bytes = Vec::new();
        let keys = frame::encode_reply(&mut bytes, hello.sender, receiver, |out| {
            arrival.response.accept(&answer.to_bytes(), out)
        });
        self.counts.answers_sent += 1;
        self.transmit(from, bytes);
        if let Some(code) = objection {
            self.refuse(now, from, place, code);
            return;
        }
        let circuit = &mut self.circuits[place];
        circuit.newest_hello = Some((greeting.incarnation, greeting.stamp));
        circuit.attempt = None;
        circuit.keys.responded(KeyEpoch {
            keys,
            receiver,
            sender: hello.sender,
            number: 0,
            replay: Box::new(ReplayWindow::default()),
            born: now,
            initiator: false,
            run: Run { incarnation: greeting.incarnation, number: greeting.run },
        });
        // The first packet with the new keys ends the handshake. Should it not come, we begin one ourselves.
        if circuit.knocking.due || circuit.knocking.at.is_some() || !circuit.is_open() {
            circuit.knocking.due = false;
            circuit.knocking.at = Some(now + self.chance.jitter(self.config.options.hello_max));
        }
    }

    fn handle_reply(
        &mut self,
        now: Instant,
        clock: &mut dyn Clock,
        from: SocketAddr,
        receiver: u32,
        sender: u32,
        handshake: &[u8],
    ) {
        let Some(place) = self.attempt_at(receiver) else {
            self.counts.replies_stray += 1;
            return;
        };
        let circuit = &mut self.circuits[place];
        let attempt = circuit.attempt.as_mut().expect("just found");
        let Ok((payload, keys)) = attempt.initiation.finish(handshake) else {
            self.counts.replies_stray += 1;
            return;
        };
        let greeting = match Greeting::from_bytes(&payload) {
            Ok(greeting) if greeting.node == circuit.peer.node => greeting,
            _ => {
                circuit.counters.violations += 1;
                circuit.step_back(now, &mut self.chance);
                return;
            }
        };
        if clock.hear(greeting.stamp).is_err() {
            circuit.counters.absurd_stamps += 1;
            circuit.step_back(now, &mut self.chance);
            return;
        }
        circuit.shared = Some(greeting.shared);
        if greeting.status != 0 {
            self.refused_by(now, place, greeting.status);
            return;
        }
        let objection = if greeting.shared == self.config.shared {
            circuit.objection(greeting.incarnation, greeting.run)
        } else {
            Some(Code::PeerConfig)
        };
        if let Some(code) = objection {
            circuit.step_back(now, &mut self.chance);
            self.refuse(now, from, place, code);
            return;
        }
        let run = Run { incarnation: greeting.incarnation, number: greeting.run };
        circuit.keys.initiated(KeyEpoch {
            keys,
            receiver,
            sender,
            number: 0,
            replay: Box::new(ReplayWindow::default()),
            born: now,
            initiator: true,
            run,
        });
        circuit.establish(now, run, &mut self.outputs);
        circuit.confirm_keys();
        self.busy |= 1 << place;
    }

    fn handle_cookie(&mut self, now: Instant, receiver: u32, cookie: &[u8; MAC_BYTES]) {
        let Some(place) = self.attempt_at(receiver) else {
            self.counts.replies_stray += 1;
            return;
        };
        self.counts.cookies_received += 1;
        let circuit = &mut self.circuits[place];
        circuit.cookie = Some((*cookie, now));
        // Try again soon, though not at once: the peer has just said that it is busy.
        circuit.knock_at(now + self.chance.jitter(self.config.options.hello_min / 4));
    }

    fn handle_refusal(&mut self, now: Instant, receiver: u32, code: u16, node: NodeId) {
        match self.attempt_at(receiver) {
            Some(place) if self.circuits[place].peer.node == node => self.refused_by(now, place, code),
            _ => self.counts.replies_stray += 1,
        }
    }

    /// The peer says no.
    fn refused_by(&mut self, now: Instant, place: usize, code: u16) {
        // A code of a later version still says that we are refused.
        let code = Code::from_number(code).unwrap_or(Code::Refused);
        self.counts.refused_by += 1;
        let circuit = &mut self.circuits[place];
        circuit.step_back(now, &mut self.chance);
        if circuit.refused_by != Some(code) {
            circuit.refused_by = Some(code);
            self.outputs.push_back(Output::RefusedBy { peer: circuit.peer.node, code });
        }
    }

    /// We say no, to a peer that proved who it is.
    fn refuse(&mut self, now: Instant, from: SocketAddr, place: usize, code: Code) {
        self.count_refusal(code);
        let circuit = &mut self.circuits[place];
        if !circuit.is_open() {
            circuit.refusing = Some(code);
        }
        if circuit.reports.note(now, code) {
            self.outputs.push_back(Output::Refused { from, node: Some(circuit.peer.node), code });
        }
    }

    /// We say no, to somebody who knows the cluster secret and is not who it should be.
    fn refuse_in_clear(&mut self, now: Instant, from: SocketAddr, to: u32, code: Code, node: Option<NodeId>) {
        self.count_refusal(code);
        // The address is only a hint, good enough for a message to people.
        let hint = || self.circuits.iter().find(|circuit| circuit.peer.address == from).map(|c| c.peer.node);
        let node = node.or_else(hint);
        self.report_stranger(now, from, node, code);
        self.answer_in_clear(from, to, code);
    }

    fn handle_version(&mut self, now: Instant, from: SocketAddr, hello: Option<u32>) {
        let Some(to) = hello else {
            self.counts.foreign += 1;
            return;
        };
        self.count_refusal(Code::PeerVersion);
        let node = self.circuits.iter().find(|c| c.peer.address == from).map(|c| c.peer.node);
        self.report_stranger(now, from, node, Code::PeerVersion);
        // Nothing about the sender is proved, so not more of these than of handshakes.
        if self.door.may_answer(now) {
            self.answer_in_clear(from, to, Code::PeerVersion);
        }
    }

    fn answer_in_clear(&mut self, from: SocketAddr, to: u32, code: Code) {
        let mut bytes = Vec::new();
        frame::encode_refusal(&mut bytes, to, code, self.config.me);
        let proof = self.seal.mac(MacKey::Cluster, &[&bytes]);
        bytes.extend_from_slice(&proof);
        self.counts.answers_sent += 1;
        self.transmit(from, bytes);
    }

    fn report_stranger(&mut self, now: Instant, from: SocketAddr, node: Option<NodeId>, code: Code) {
        if self.strangers.note(now, code) {
            self.outputs.push_back(Output::Refused { from, node, code });
        }
    }

    fn count_refusal(&mut self, code: Code) {
        match code {
            Code::PeerKey | Code::PeerViolation => self.counts.refused_key += 1,
            Code::PeerVersion => self.counts.refused_version += 1,
            Code::PeerConfig => self.counts.refused_config += 1,
            _ => self.counts.refused_restarted += 1,
        }
    }

    /// Lets time pass. To be called when [`Circuits::poll_timeout`] says so; calling it more often is harmless.
    pub fn handle_timeout(&mut self, now: Instant, _clock: &mut dyn Clock) {
        for (place, circuit) in self.circuits.iter_mut().enumerate() {
            if circuit.timer().is_some_and(|at| at <= now) {
                circuit.handle_timeout(now, &mut self.outputs);
                self.busy |= 1 << place;
            }
        }
    }

    /// The next output, or `None` when there is nothing more to do at this moment.
    pub fn poll_output(&mut self, now: Instant, clock: &mut dyn Clock) -> Option<Output> {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return Some(output);
            }
            if self.busy == 0 {
                return None;
            }
            // The next busy circuit at or after the one whose turn it is.
            let ahead = self.busy.rotate_right(self.turn).trailing_zeros();
            let place = ((self.turn + ahead) % u64::BITS) as usize;
            self.turn = (place as u32 + 1) % u64::BITS;
            if self.circuits[place].knocking.due {
                self.say_hello(now, clock, place);
                continue;
            }
            if let Some(transmit) = self.circuits[place].pack(now, clock) {
                if !self.circuits[place].due(now) {
                    self.busy &= !(1 << place);
                }
                return Some(Output::Transmit(transmit));
            }
            self.busy &= !(1 << place);
        }
    }

    fn say_hello(&mut self, now: Instant, clock: &mut dyn Clock, place: usize) {
        let receiver = self.draw_receiver(place);
        let greeting = self.greeting(clock, None).to_bytes();
        let circuit = &mut self.circuits[place];
        let (seal, key) = (self.seal.as_mut(), circuit.peer.key);
        let mut bytes = Vec::new();
        let initiation = frame::encode_hello(&mut bytes, receiver, |out| {
            seal.initiate(&key, &self.prologue, &greeting, out)
        });
        let proof = seal.mac(MacKey::Cluster, &[&bytes]);
        bytes.extend_from_slice(&proof);
        let cookie_proof = match &circuit.cookie {
            Some((cookie, at)) if now.since(*at) < COOKIE_USE => seal.mac(MacKey::Given(cookie), &[&bytes]),
            _ => [0; MAC_BYTES],
        };
        bytes.extend_from_slice(&cookie_proof);
        circuit.knocked(now, Attempt { receiver, initiation }, &mut self.chance);
        let to = circuit.peer.address;
        self.counts.hellos_sent += 1;
        self.transmit(to, bytes);
    }

    /// When to call [`Circuits::handle_timeout`] if nothing else happens.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.circuits.iter().filter_map(Circuit::timer).min()
    }

    /// How the circuit to a peer is.
    pub fn status(&self, peer: NodeId) -> Option<CircuitStatus> {
        self.place(peer).map(|place| self.circuits[place].status())
    }

    /// All counts together.
    pub fn counters(&self) -> Counters {
        let mut peers = PeerCounters::default();
        self.circuits.iter().for_each(|circuit| peers += circuit.counters);
        Counters { peers, door: self.counts }
    }

    fn place(&self, node: NodeId) -> Option<usize> {
        self.circuits.iter().position(|circuit| circuit.peer.node == node)
    }

    fn attempt_at(&self, receiver: u32) -> Option<usize> {
        let place = (receiver % (1 << PLACE_BITS)) as usize;
        let attempt = self.circuits.get(place)?.attempt.as_ref()?;
        (attempt.receiver == receiver).then_some(place)
    }

    /// A number by which the peer at `place` shall find its keys here: unguessable for whoever does not see the
    /// traffic, so that strangers cannot even make us try a key.
    fn draw_receiver(&mut self, place: usize) -> u32 {
        let circuit = &self.circuits[place];
        loop {
            let receiver = (self.chance.next() as u32) << PLACE_BITS | place as u32;
            let attempt = circuit.attempt.as_ref().is_some_and(|attempt| attempt.receiver == receiver);
            if !attempt && !circuit.keys.uses(receiver) {
                return receiver;
            }
        }
    }

    fn greeting(&self, clock: &mut dyn Clock, objection: Option<Code>) -> Greeting {
        Greeting {
            node: self.config.me,
            incarnation: self.config.incarnation,
            run: self.run,
            shared: self.config.shared,
            stamp: clock.stamp(),
            status: objection.map_or(0, Code::number),
        }
    }

    fn transmit(&mut self, to: SocketAddr, bytes: Vec<u8>) {
        self.outputs.push_back(Output::Transmit(Transmit { to, bytes, segment: None }));
    }
}

struct Hello<'a> {
    sender: u32,
    handshake: &'a [u8],
    proof: &'a [u8; MAC_BYTES],
    cookie_proof: &'a [u8; MAC_BYTES],
}

/// What both ends of a handshake must agree on without saying it.
fn prologue(cluster: &str) -> Vec<u8> {
    let mut prologue = b"oarlock circuit ".to_vec();
    prologue.push(VERSION);
    prologue.extend_from_slice(cluster.as_bytes());
    prologue
}
