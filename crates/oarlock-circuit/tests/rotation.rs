//! A node that changes its static key: under load, on a bad network, with every circuit going on.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use oarlock_circuit::Options;
use oarlock_layout::code::Code;
use oarlock_layout::seal::{Arrival, Initiation, Keys, MAC_BYTES, MacKey, NotAuthentic, PublicKey, Seal};

mod net;
use net::seal::ChecksumSeal;
use net::*;

/// The node that changes its key.
const B: usize = 1;
const OLD: u64 = 101;
const NEW: u64 = 901;

fn seal(key: u64) -> ChecksumSeal {
    ChecksumSeal::new(key, 42, 7000 + key)
}

fn public(key: u64) -> PublicKey {
    seal(key).public_key()
}

/// Answers to all of its keys, and proves itself with the first.
#[derive(Clone)]
struct Changing(Arc<Mutex<Vec<ChecksumSeal>>>);

impl Changing {
    fn set(&self, keys: &[u64]) {
        *self.0.lock().unwrap() = keys.iter().copied().map(seal).collect();
    }
}

impl Seal for Changing {
    fn initiate(
        &mut self,
        to: &PublicKey,
        prologue: &[u8],
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Box<dyn Initiation + Send> {
        self.0.lock().unwrap()[0].initiate(to, prologue, payload, out)
    }

    fn respond(&mut self, prologue: &[u8], message: &[u8]) -> Result<Arrival, NotAuthentic> {
        let mut all = self.0.lock().unwrap();
        all.iter_mut().find_map(|seal| seal.respond(prologue, message).ok()).ok_or(NotAuthentic)
    }

    fn restore(&self, exported: &[u8]) -> Result<Box<dyn Keys + Send>, NotAuthentic> {
        self.0.lock().unwrap()[0].restore(exported)
    }

    fn mac(&self, key: MacKey<'_>, parts: &[&[u8]]) -> [u8; MAC_BYTES] {
        self.0.lock().unwrap()[0].mac(key, parts)
    }
}

/// Three nodes, of which the second has `own` keys.
fn world(seed: u64, options: Options, own: &Changing) -> World {
    let own = own.clone();
    let make: MakeSeal = Box::new(move |node| match node {
        B => (Box::new(own.clone()), public(OLD)),
        _ => (Box::new(seal(100 + node as u64)), public(100 + node as u64)),
    });
    World::new(3, seed, options, make)
}

fn own_keys() -> Changing {
    let own = Changing(Arc::default());
    own.set(&[OLD]);
    own
}

fn tell(world: &mut World, node: usize, key: u64, next: Option<u64>) {
    world.nodes[node].circuits.set_keys(id(B), public(key), next.map(public));
}

/// Whoever hears of it first or last, whatever is lost: nothing is lost or comes twice, no circuit ends.
#[test]
fn a_key_that_changes_under_load_on_a_bad_network_breaks_no_circuit() {
    for seed in 0..12 {
        // In every other run keys also grow old meanwhile.
        let ms = Duration::from_millis;
        let (rekey_after, reject_after) =
            if seed % 2 == 0 { (ms(400), ms(1400)) } else { (ms(60_000), ms(90_000)) };
        let options = Options { rekey_after, reject_after, silent: ms(2000), ..Options::default() };
        let own = own_keys();
        let mut world = world(seed, options, &own);
        world.faults = BAD;
        world.open();
        let mut sent = Sent::new();
        for round in 0..20 {
            match round {
                3 => own.set(&[OLD, NEW]),
                4 => tell(&mut world, 0, OLD, Some(NEW)),
                6 => tell(&mut world, 2, OLD, Some(NEW)),
                8 => {
                    own.set(&[NEW, OLD]);
                    let now = world.now;
                    world.nodes[B].circuits.renew_keys(now);
                }
                14 => tell(&mut world, 2, NEW, None),
                15 => own.set(&[NEW]),
                17 => tell(&mut world, 0, NEW, None),
                _ => {}
            }
            for (circuit, messages) in load(&mut world, seed * 100 + round, 20, 5000) {
                sent.entry(circuit).or_default().extend(messages);
            }
            world.run_for(Duration::from_millis(200));
        }
        assert!(world.run_until(Duration::from_secs(120), World::quiet), "seed {seed}");
        check_delivered(&world, &sent);
        for node in 0..3 {
            let counters = world.nodes[node].circuits.counters();
            assert_eq!((counters.peers.circuit_up, counters.peers.circuit_down), (2, 0), "seed {seed}");
            assert_eq!(counters.door.refused_key, 0, "seed {seed}: nobody is refused at any time");
        }
        let rekeyed = world.nodes[B].circuits.counters().peers.rekeys;
        assert!(rekeyed >= 2, "seed {seed}: {rekeyed} circuits have agreed on new keys");
    }
}

/// While both keys are good a member that knows only the first is let in, by its own hello; afterwards nobody is who has only that.
#[test]
fn the_key_before_is_good_until_it_is_retired_and_no_longer() {
    let own = own_keys();
    let mut world = world(5, Options::default(), &own);
    world.open();
    tell(&mut world, 0, OLD, Some(NEW));
    own.set(&[NEW, OLD]);
    let now = world.now;
    world.nodes[B].circuits.renew_keys(now);
    world.run_for(Duration::from_secs(1));
    // It was away, and its configuration says what it said.
    world.restart(2, 2, 5);
    assert!(world.run_until(Duration::from_secs(30), World::all_up), "it is let in by the key that it knows");
    tell(&mut world, 2, OLD, Some(NEW));
    for node in [0, 2] {
        tell(&mut world, node, NEW, None);
    }
    own.set(&[OLD]);
    world.restart(B, 2, 5);
    let refusals = |world: &World| {
        [0, 2].map(|node| world.count(node, |event| matches!(event, Event::Refused(_, Code::PeerKey))))
    };
    // The member that was away may have refused the key that it did not know.
    let before = refusals(&world);
    assert_eq!(before[0], 0);
    world.run_for(Duration::from_secs(30));
    let after = refusals(&world);
    assert!(after[0] > before[0] && after[1] > before[1], "{before:?} {after:?}");
    for node in [0, 2] {
        let up = Event::Up(id(B), oarlock_layout::id::Incarnation(2));
        assert_eq!(world.count(node, |event| *event == up), 0);
    }
    own.set(&[NEW]);
    assert!(world.run_until(Duration::from_secs(60), |world| {
        let incarnation = |node: usize| world.nodes[node].circuits.status(id(B)).unwrap().incarnation;
        [0, 2].iter().all(|node| incarnation(*node) == Some(oarlock_layout::id::Incarnation(2)))
    }));
}

/// A hello that is under way to a key which is retired meanwhile is not waited for.
#[test]
fn a_hello_to_a_retired_key_is_made_again_to_the_new_one() {
    let own = own_keys();
    let mut world = world(9, Options::default(), &own);
    // Nothing of the others arrives: their hellos stay under way.
    world.cut.extend([(0, B), (2, B), (B, 0), (B, 2)]);
    world.run_for(Duration::from_secs(2));
    own.set(&[NEW]);
    for node in [0, 2] {
        tell(&mut world, node, NEW, None);
    }
    world.cut.clear();
    assert!(world.run_until(Duration::from_secs(30), World::all_up));
    assert_eq!(
        world.nodes[B].circuits.counters().door.refused_key,
        0,
        "none of the late hellos was for the key before"
    );
}
