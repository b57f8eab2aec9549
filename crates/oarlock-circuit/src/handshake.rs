//! Handshakes: who is let in, who is refused, and what each side is told.
//!
//! The steps stand in the order of what they cost, and each may be the last; see `docs/design/circuit.md`. What
//! a stranger may make us do at all is counted at the [`Door`](crate::door::Door).

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use oarlock_layout::code::Code;
use oarlock_layout::codec::Wire;
use oarlock_layout::id::NodeId;
use oarlock_layout::message::frame::{self, Greeting};
use oarlock_layout::seal::{MAC_BYTES, MacKey};
use oarlock_layout::stamp::{Clock, Reading};
use oarlock_layout::time::Instant;

use crate::circuit::Attempt;
use crate::circuits::{Circuits, PLACE_BITS};
use crate::door::{Admission, proves};
use crate::keyring::{KeyEpoch, Run};
use crate::output::Output;
use crate::replay::ReplayWindow;

/// A cookie is used for this long; the other side takes it for at least as long.
const COOKIE_USE: Duration = Duration::from_secs(60);

/// A first message, taken apart.
pub(crate) struct Hello<'a> {
    pub(crate) sender: u32,
    pub(crate) handshake: &'a [u8],
    pub(crate) proof: &'a [u8; MAC_BYTES],
    pub(crate) cookie_proof: &'a [u8; MAC_BYTES],
}

impl Circuits {
    pub(crate) fn handle_hello(
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
        let place = self.circuits.position(|circuit| circuit.is_known_by(&arrival.key));
        let Some(place) = place.filter(|&place| self.circuits[place].peer.node == greeting.node) else {
            self.refuse_in_clear(now, from, hello.sender, Code::PeerKey, Some(greeting.node));
            return;
        };
        if clock.hear(greeting.node, &Reading::bare(greeting.stamp)).is_err() {
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
            if circuit.newest_hello >= Some((greeting.incarnation, greeting.number)) {
                self.counts.hellos_replayed += 1;
                return;
            }
            // Both began; ours is the one that counts (A1), and the peer drops its own when it gets ours. But only
            // as long as ours can still be answered: it may be the one that got lost.
            let open = |at: Instant| now.since(at) < self.config.options.hello_min / 2;
            let ours = circuit.attempt.as_ref().is_some_and(|attempt| open(attempt.sent_at));
            if ours && self.config.me < circuit.peer.node {
                self.counts.hellos_tied += 1;
                return;
            }
        }
        let receiver = self.draw_receiver(place);
        let answer = self.greeting(clock, greeting.node, objection);
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
        circuit.newest_hello = Some((greeting.incarnation, greeting.number));
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

    pub(crate) fn handle_reply(
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
        if clock.hear(greeting.node, &Reading::bare(greeting.stamp)).is_err() {
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
        circuit.say_something();
        self.busy |= 1 << place;
    }

    pub(crate) fn handle_cookie(&mut self, now: Instant, receiver: u32, cookie: &[u8; MAC_BYTES]) {
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

    pub(crate) fn handle_refusal(&mut self, now: Instant, receiver: u32, code: u16, node: NodeId) {
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

    pub(crate) fn handle_version(&mut self, now: Instant, from: SocketAddr, hello: Option<u32>) {
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

    pub(crate) fn say_hello(&mut self, now: Instant, clock: &mut dyn Clock, place: usize) {
        let receiver = self.draw_receiver(place);
        let to = self.circuits[place].peer.node;
        let greeting = self.greeting(clock, to, None).to_bytes();
        let circuit = &mut self.circuits[place];
        let (seal, key) = (self.seal.as_mut(), circuit.newest_key());
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
        circuit.knocked(now, Attempt { receiver, key, initiation, sent_at: now }, &mut self.chance);
        let to = circuit.peer.address;
        self.counts.hellos_sent += 1;
        self.transmit(to, bytes);
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

    fn greeting(&mut self, clock: &mut dyn Clock, to: NodeId, objection: Option<Code>) -> Greeting {
        self.greetings += 1;
        Greeting {
            node: self.config.me,
            incarnation: self.config.incarnation,
            run: self.run,
            shared: self.config.shared,
            number: self.greetings,
            stamp: clock.reading(to).stamp,
            status: objection.map_or(0, Code::number),
        }
    }
}
