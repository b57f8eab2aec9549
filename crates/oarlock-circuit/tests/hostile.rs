//! A member with the right key that has gone mad: nothing it says makes us panic, grow without bound, or serve
//! others worse.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oarlock_circuit::{Class, Options, State};
use oarlock_layout::code::Code;
use oarlock_layout::limit::MESSAGE_BYTES_MAX;
use oarlock_layout::message::frame;
use oarlock_layout::seal::{
    Arrival, Initiation, Keys, MAC_BYTES, MacKey, NotAuthentic, PublicKey, Response, Seal, TAG_BYTES,
};

mod net;
use net::*;

/// Bodies to be sealed instead of honest ones that are not shorter; the last comes first.
type Script = Arc<Mutex<Vec<Vec<u8>>>>;

/// A seal whose owner changes its words after the room has made them.
struct Mad(seal::ChecksumSeal, Script);
struct MadInitiation(Box<dyn Initiation + Send>, Script);
struct MadResponse(Box<dyn Response + Send>, Script);
struct MadKeys(Box<dyn Keys + Send>, Script);

impl Seal for Mad {
    fn initiate(
        &mut self,
        to: &PublicKey,
        prologue: &[u8],
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Box<dyn Initiation + Send> {
        Box::new(MadInitiation(self.0.initiate(to, prologue, payload, out), self.1.clone()))
    }

    fn respond(&mut self, prologue: &[u8], message: &[u8]) -> Result<Arrival, NotAuthentic> {
        let Arrival { key, payload, response } = self.0.respond(prologue, message)?;
        Ok(Arrival { key, payload, response: Box::new(MadResponse(response, self.1.clone())) })
    }

    fn mac(&self, key: MacKey<'_>, parts: &[&[u8]]) -> [u8; MAC_BYTES] {
        self.0.mac(key, parts)
    }

    fn restore(&self, exported: &[u8]) -> Result<Box<dyn Keys + Send>, NotAuthentic> {
        Ok(Box::new(MadKeys(self.0.restore(exported)?, self.1.clone())))
    }
}

impl Initiation for MadInitiation {
    fn finish(&mut self, message: &[u8]) -> Result<(Vec<u8>, Box<dyn Keys + Send>), NotAuthentic> {
        let (payload, keys) = self.0.finish(message)?;
        Ok((payload, Box::new(MadKeys(keys, self.1.clone()))))
    }
}

impl Response for MadResponse {
    fn accept(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Box<dyn Keys + Send> {
        Box::new(MadKeys(self.0.accept(payload, out), self.1.clone()))
    }
}

impl Keys for MadKeys {
    fn seal(&mut self, number: u64, header: &[u8], body: &mut [u8]) -> [u8; TAG_BYTES] {
        let mut script = self.1.lock().unwrap();
        if script.last().is_some_and(|words| words.len() <= body.len()) {
            let words = script.pop().expect("just looked at");
            body.fill(0);
            body[..words.len()].copy_from_slice(&words);
        }
        self.0.seal(number, header, body)
    }

    fn open(&mut self, number: u64, header: &[u8], sealed: &mut [u8]) -> Result<(), NotAuthentic> {
        self.0.open(number, header, sealed)
    }

    fn export(&self) -> Vec<u8> {
        self.0.export()
    }
}

/// Three nodes of which the first is mad, when it has a script.
fn world(seed: u64) -> (World, Script) {
    let script = Script::default();
    let copy = script.clone();
    let make: MakeSeal = Box::new(move |node| {
        let seal = seal::ChecksumSeal::new(100 + node as u64, 42, 7000 + node as u64);
        let key = seal.public_key();
        if node == 0 { (Box::new(Mad(seal, copy.clone())), key) } else { (Box::new(seal), key) }
    });
    let mut world = World::new(3, seed, Options::default(), make);
    world.open();
    world.run_for(Duration::from_millis(200));
    (world, script)
}

/// Makes the mad node say these bodies to node 1, one datagram each. It has a mebibyte to send, and says them
/// instead.
fn say(world: &mut World, script: &Script, mut bodies: Vec<Vec<u8>>) {
    bodies.reverse();
    *script.lock().unwrap() = bodies;
    world.send(0, 1, Class::Bulk, &vec![0; MESSAGE_BYTES_MAX]);
    let said = world.run_until(Duration::from_secs(120), |_| script.lock().unwrap().is_empty());
    assert!(said, "{} bodies are left", script.lock().unwrap().len());
    world.run_for(Duration::from_millis(5));
}

/// A body of chunks that are well formed and mean anything at all.
fn mad_body(random: &mut Random) -> Vec<u8> {
    let mut body = Vec::new();
    let sequence = |random: &mut Random| match random.below(6) {
        0 => random.below(10),
        1 => random.below(10_000),
        2 => u64::MAX - random.below(10),
        3 => 8190 + random.below(5),
        4 => random.next(),
        _ => random.below(200),
    };
    for _ in 0..1 + random.below(8) {
        let class = Class::ALL[random.below(Class::COUNT as u64) as usize];
        match random.below(7) {
            0..3 => {
                let at = frame::begin_run(&mut body, class, sequence(random));
                for _ in 0..random.below(10) {
                    let length = random.below(90) as usize;
                    frame::begin_segment(&mut body, length, random.below(2) == 0);
                    body.extend(random.bytes(length));
                }
                frame::end_run(&mut body, at);
            }
            3 => {
                let next = sequence(random);
                let mut end = next;
                let mut ranges = Vec::new();
                for _ in 0..random.below(6) {
                    let Some(first) = end.checked_add(1 + random.below(100)) else { break };
                    let Some(after) = first.checked_add(1 + random.below(100)) else { break };
                    ranges.push((first, after));
                    end = after;
                }
                let delay = random.next() as u32;
                frame::encode_ack(&mut body, class, next, delay, ranges.into_iter(), 400);
            }
            4 => frame::encode_keepalive(&mut body, random.next() as u32, random.below(2) == 0),
            5 => frame::encode_alive(&mut body, random.next() as u32, random.below(2) == 0),
            _ => {
                let length = random.below(40) as usize;
                body.push(random.next() as u8);
                body.extend((length as u16).to_le_bytes());
                body.extend(random.bytes(length));
            }
        }
    }
    if random.below(4) == 0 {
        let at = random.below(body.len() as u64) as usize;
        body[at] = random.next() as u8;
    }
    body.truncate(1300); // cut short in the middle of something, often
    body
}

#[test]
fn whatever_a_member_says_nobody_panics_and_others_are_served() {
    let mut violations = 0;
    for seed in 0..60 {
        let (mut world, script) = world(seed);
        let mut random = Random::new(seed);
        let bodies = (0..80).map(|_| mad_body(&mut random)).collect();
        say(&mut world, &script, bodies);
        let counters = world.nodes[1].circuits.status(id(0)).unwrap().counters;
        violations += counters.violations;
        world.send(1, 2, Class::Lock, b"undisturbed");
        world.send(2, 1, Class::Bulk, b"undisturbed");
        assert!(world.run_until(Duration::from_millis(300), |w| {
            w.delivered(2, 1, Class::Lock).len() + w.delivered(1, 2, Class::Bulk).len() == 2
        }));
        assert_eq!(world.nodes[1].circuits.status(id(2)).unwrap().counters.violations, 0);
        assert_eq!(world.count(1, |e| matches!(e, Event::Down(..))), 0);
        world.run_for(Duration::from_secs(3));
        assert_eq!(world.nodes[1].circuits.status(id(2)).unwrap().state, State::Up);
    }
    assert!(violations > 200, "the madness was looked at: {violations}");
}

/// A violation is counted each time and reported once in a while, with the name of the member.
#[test]
fn acknowledging_what_was_never_sent_is_a_violation() {
    let (mut world, script) = world(1);
    let mut body = Vec::new();
    frame::encode_ack(&mut body, Class::Lock, 1 << 40, 0, [].into_iter(), 100);
    say(&mut world, &script, vec![body; 20]);
    assert_eq!(world.nodes[1].circuits.status(id(0)).unwrap().counters.violations, 20);
    assert_eq!(world.count(1, |e| *e == Event::Refused(Some(id(0)), Code::PeerViolation)), 1);
    world.send(1, 0, Class::Lock, b"it still is a member");
    assert!(world.run_until(Duration::from_secs(1), |w| w.delivered(0, 1, Class::Lock).len() == 1));
}

/// What a member makes us keep is bounded: the window, and one message.
#[test]
fn a_message_without_end_is_a_violation_and_is_not_kept() {
    let (mut world, script) = world(2);
    let endless = |first: u64| {
        let mut body = Vec::new();
        let at = frame::begin_run(&mut body, Class::Lock, first);
        frame::begin_segment(&mut body, 1000, true);
        body.extend([1; 1000]);
        frame::end_run(&mut body, at);
        body
    };
    let segments = MESSAGE_BYTES_MAX as u64 / 1000 + 50;
    say(&mut world, &script, (0..segments).map(endless).collect());
    let counters = world.nodes[1].circuits.status(id(0)).unwrap().counters;
    assert!(counters.violations >= 40, "{}", counters.violations);
    assert!(world.delivered(1, 0, Class::Lock).is_empty());
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.nodes[1].circuits.status(id(2)).unwrap().state, State::Up);
}

/// Strangers: datagrams of any bytes, from anywhere, and damaged handshakes. Nothing happens but counting.
#[test]
fn whatever_strangers_send_is_counted_and_changes_nothing() {
    let (mut world, _) = world(3);
    let honest: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
    let copy = honest.clone();
    world.hook = Some(Box::new(move |_, to, bytes| {
        if to == 1 {
            copy.borrow_mut().push(bytes.clone());
        }
        true
    }));
    world.run_for(Duration::from_secs(130)); // with a rekey
    world.hook = None;
    let honest = honest.borrow().clone();
    let (sealed, handshakes): (Vec<_>, Vec<_>) =
        honest.into_iter().partition(|bytes| bytes[3] == frame::Kind::Sealed as u8);
    let mut random = Random::new(9);
    let before = world.nodes[1].events.len();
    for n in 0..20_000u64 {
        let of = |all: &[Vec<u8>], n: u64| all[n as usize % all.len()].clone();
        let mut bytes = match random.below(3) {
            0 => {
                let length = random.below(1500) as usize;
                random.bytes(length)
            }
            1 => of(&sealed, random.below(1 << 32)),
            _ => of(&handshakes, random.below(1 << 32)),
        };
        for _ in 0..random.below(4) {
            if !bytes.is_empty() {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.next() as u8;
            }
        }
        if random.below(4) == 0 {
            bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
        }
        world.inject(format!("127.0.0.{}:99", random.below(250)).parse().unwrap(), 1, bytes);
        if n.is_multiple_of(100) {
            world.run_for(Duration::from_millis(1));
        }
    }
    world.send(0, 1, Class::Lock, b"undisturbed");
    assert!(world.run_until(Duration::from_secs(1), |w| w.delivered(1, 0, Class::Lock).len() == 1));
    let new: Vec<_> = world.nodes[1].events[before..].to_vec();
    assert!(new.iter().all(|(_, e)| matches!(e, Event::Refused(..))), "{new:?}");
    assert!(new.len() < 30, "reports are few: {}", new.len());
    let door = world.nodes[1].circuits.counters().door;
    assert!(door.foreign > 1000 && door.refused_secret > 10 && door.no_such_key > 100, "{door:?}");
}
