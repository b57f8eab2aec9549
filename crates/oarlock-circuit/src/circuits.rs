//! The room: all circuits of one node.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::SocketAddr;

use oarlock_layout::code::Code;
use oarlock_layout::id::{Incarnation, NodeId};
use oarlock_layout::limit::{MESSAGE_BYTES_MAX, NODES_MAX};
use oarlock_layout::message::frame::{Class, Datagram, Foreign, SEALED_HEADER_BYTES, SealedHeader, VERSION};
use oarlock_layout::seal::{MAC_BYTES, MacKey, PublicKey, Seal, TAG_BYTES};
use oarlock_layout::stamp::Clock;
use oarlock_layout::time::Instant;

use crate::chance::Chance;
use crate::circuit::Circuit;
use crate::config::{Config, Peer};
use crate::door::{Door, Reports, proves};
use crate::handshake::Hello;
use crate::output::{Output, SendError, Transmit};
use crate::places::Places;
use crate::status::{CircuitStatus, Counters, DoorCounters, PeerCounters};

/// Low bits of a receiver number: the peer's place in our list.
pub(crate) const PLACE_BITS: u32 = 6;
const _: () = assert!(NODES_MAX <= 1 << PLACE_BITS, "every peer has a place");

/// All circuits of one node: datagrams in, ordered messages out.
///
/// Methods come in three kinds.
///
/// * **Input**: [`handle_datagram`](Circuits::handle_datagram), [`handle_timeout`](Circuits::handle_timeout),
///   [`send`](Circuits::send), [`pin`](Circuits::pin), [`unpin`](Circuits::unpin),
///   [`add_peer`](Circuits::add_peer), [`remove_peer`](Circuits::remove_peer).
/// * **Output**: [`poll_output`](Circuits::poll_output) until it is `None`, then
///   [`poll_timeout`](Circuits::poll_timeout) for when to call `handle_timeout` if nothing else happens.
/// * **Looking**: [`backlog`](Circuits::backlog), [`status`](Circuits::status),
///   [`counters`](Circuits::counters).
///
/// Any number of inputs may come before outputs are drained. Datagrams are built while draining and not
/// before, so many messages share one, and an acknowledgement rides with the answer it made possible.
///
/// ```
/// use oarlock_circuit::{Circuits, Output, Transmit};
/// use oarlock_layout::stamp::Clock;
/// use oarlock_layout::time::Instant;
///
/// /// One turn of a driver: what came in, what time did, what goes out; then how long to sleep.
/// fn turn(
///     circuits: &mut Circuits,
///     clock: &mut dyn Clock,
///     now: Instant,
///     received: &mut [(std::net::SocketAddr, Vec<u8>)],
///     mut transmit: impl FnMut(Transmit),
///     mut deliver: impl FnMut(Vec<u8>),
/// ) -> Option<Instant> {
///     for (from, datagram) in received {
///         circuits.handle_datagram(now, clock, *from, datagram);
///     }
///     if circuits.poll_timeout().is_some_and(|at| at <= now) {
///         circuits.handle_timeout(now, clock);
///     }
///     while let Some(output) = circuits.poll_output(now, clock) {
///         match output {
///             Output::Transmit(datagrams) => transmit(datagrams),
///             Output::Deliver { message, .. } => deliver(message),
///             other => println!("{other:?}"),
///         }
///     }
///     circuits.poll_timeout()
/// }
/// ```
pub struct Circuits {
    pub(crate) config: Config,
    pub(crate) seal: Box<dyn Seal + Send>,
    pub(crate) prologue: Vec<u8>,
    /// Drawn once: tells this run from any other, even one with the same incarnation.
    pub(crate) run: u64,
    /// Hellos and replies that were written so far: each has its number.
    pub(crate) greetings: u64,
    pub(crate) chance: Chance,
    pub(crate) door: Door,
    pub(crate) strangers: Reports,
    pub(crate) circuits: Places,
    /// What circuits had counted whose peers are none any more.
    pub(crate) gone: PeerCounters,
    pub(crate) outputs: VecDeque<Output>,
    /// Circuits that may have something to send, one bit each.
    pub(crate) busy: u64,
    /// Whose turn it is, so that a circuit with much to send does not come before one with little.
    pub(crate) turn: u32,
    pub(crate) counts: DoorCounters,
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
        let mut circuits = Circuits {
            prologue: prologue(&config.cluster),
            config,
            seal,
            run,
            greetings: 0,
            chance,
            door,
            strangers: Reports::default(),
            circuits: Places::default(),
            gone: PeerCounters::default(),
            outputs: VecDeque::new(),
            busy: 0,
            turn: 0,
            counts: DoorCounters::default(),
        };
        peers.into_iter().for_each(|peer| circuits.open(now, peer));
        circuits
    }

    /// A node has become a member: there is to be a circuit to it. One that is known already is left alone; if its address or its key
    /// is another than before, it is another node, and the circuit to the one before ends.
    ///
    /// # Panics
    /// If there are more peers than [`NODES_MAX`].
    pub fn add_peer(&mut self, now: Instant, peer: Peer) {
        if peer.node == self.config.me {
            return;
        }
        match self.place(peer.node) {
            Some(place) if self.circuits[place].peer == peer => return,
            Some(_) => self.remove_peer(peer.node),
            None => {}
        }
        self.open(now, peer);
    }

    /// A node is no member any more: its circuit ends ([`Output::Down`], if it was open), its keys are forgotten, and
    /// whatever it says from now on is a stranger's.
    pub fn remove_peer(&mut self, peer: NodeId) {
        let Some(place) = self.place(peer) else { return };
        self.busy &= !(1 << place);
        if let Some(mut circuit) = self.circuits.remove(place) {
            circuit.close(&mut self.outputs);
            self.gone += circuit.counters;
        }
    }

    /// A peer is known by this key from now on, and by `next` beside it while it changes from one to the other. Its circuit
    /// goes on: keys that are in use were agreed on with whoever owned a key that was good then.
    pub fn set_keys(&mut self, peer: NodeId, key: PublicKey, next: Option<PublicKey>) {
        let Some(place) = self.place(peer) else { return };
        let circuit = &mut self.circuits[place];
        (circuit.peer.key, circuit.next_key) = (key, next);
        // A hello under way that was made for a key which is none any more will be refused: the next one finds the right key.
        if circuit.attempt.as_ref().is_some_and(|attempt| !circuit.is_known_by(&attempt.key)) {
            circuit.attempt = None;
        }
    }

    /// Agrees on new keys with every peer to which there is a circuit, spread over a moment, as it does when keys grow old: this
    /// node proves itself with another key from now on.
    pub fn renew_keys(&mut self, now: Instant) {
        let (chance, wait) = (&mut self.chance, self.config.options.hello_min);
        for (_, circuit) in self.circuits.iter_mut() {
            if circuit.is_open() {
                circuit.knock_at(now + chance.jitter(wait));
            }
        }
    }

    fn open(&mut self, now: Instant, peer: Peer) {
        let mut circuit = Circuit::new(peer, self.config.options);
        // The lower id begins. The higher one waits a little, because two attempts at once are work for
        // nothing; but it does not wait for ever, because a node that has just restarted wants to know at
        // once how it is received.
        let wait = self.chance.jitter(self.config.options.hello_min / 4);
        circuit.knock_at(if self.config.me < peer.node { now } else { now + wait });
        self.circuits.insert(circuit);
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

    /// Sends a datagram to a peer without delay, be there no message for it: somebody waits for what the clock reads. Does
    /// nothing while there is no circuit.
    pub fn say_something(&mut self, to: NodeId) {
        if let Some(place) = self.place(to) {
            self.circuits[place].say_something();
            self.busy |= 1 << place;
        }
    }

    /// The code by which a run pledges a secret: whoever knows the secret can make it, nobody can go back from it (L5).
    pub fn pledge(
        &self,
        node: NodeId,
        incarnation: Incarnation,
        secret: &[u8; MAC_BYTES],
    ) -> [u8; MAC_BYTES] {
        let parts: [&[u8]; 3] = [b"last gasp", &node.0.to_le_bytes(), &incarnation.0.to_le_bytes()];
        self.seal.mac(MacKey::Given(secret), &parts)
    }

    /// Bytes to a peer that are not acknowledged yet, all classes together.
    pub fn backlog(&self, peer: NodeId) -> usize {
        self.place(peer).map_or(0, |place| self.circuits[place].backlog())
    }

    /// The view names this run of the peer: handshakes of any other run are refused, and the peer is told why
    /// ([`Code::PeerRestarted`], L3). A circuit that exists is not touched.
    pub fn pin(&mut self, peer: NodeId, incarnation: Incarnation) {
        if let Some(place) = self.place(peer) {
            let circuit = &mut self.circuits[place];
            circuit.pinned = Some(incarnation);
            // A handshake of another run may have been answered a moment ago; it must not be finished now.
            circuit.keys.forget_unconfirmed(incarnation);
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
            Ok(Datagram::Gasp { node, incarnation, secret }) => {
                let code = self.pledge(node, incarnation, secret);
                self.outputs.push_back(Output::Gasp { node, incarnation, code });
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
        let SealedHeader { receiver, number, reading } = header;
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
        if clock.hear(circuit.peer.node, &reading).is_err() {
            circuit.counters.absurd_stamps += 1;
            return;
        }
        circuit.counters.datagrams_received += 1;
        circuit.counters.bytes_received += length as u64;
        let (run, order) = (epoch.run, (epoch.born, number));
        if circuit.keys.confirm(receiver) {
            circuit.establish(now, run, &mut self.outputs);
        }
        self.busy |= 1 << place;
        let body = &sealed[..sealed.len() - TAG_BYTES];
        if circuit.handle_body(now, order, body, &mut self.outputs).is_err() {
            circuit.counters.violations += 1;
            let node = Some(circuit.peer.node);
            if circuit.reports.note(now, Code::PeerViolation) {
                self.outputs.push_back(Output::Refused { from, node, code: Code::PeerViolation });
            }
        }
    }

    /// Lets time pass. To be called when [`Circuits::poll_timeout`] says so; calling it more often is harmless.
    pub fn handle_timeout(&mut self, now: Instant, _clock: &mut dyn Clock) {
        for (place, circuit) in self.circuits.iter_mut() {
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
        let mut peers = self.gone;
        self.circuits.iter().for_each(|circuit| peers += circuit.counters);
        Counters { peers, door: self.counts }
    }

    fn place(&self, node: NodeId) -> Option<usize> {
        self.circuits.position(|circuit| circuit.peer.node == node)
    }

    pub(crate) fn transmit(&mut self, to: SocketAddr, bytes: Vec<u8>) {
        self.outputs.push_back(Output::Transmit(Transmit { to, bytes, segment: None }));
    }
}

/// What both ends of a handshake must agree on without saying it.
pub(crate) fn prologue(cluster: &str) -> Vec<u8> {
    let mut prologue = b"oarlock circuit ".to_vec();
    prologue.push(VERSION);
    prologue.extend_from_slice(cluster.as_bytes());
    prologue
}
