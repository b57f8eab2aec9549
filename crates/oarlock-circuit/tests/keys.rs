//! Keys that change under load, and packets that come twice.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use oarlock_circuit::{Class, Options};
use oarlock_layout::message::frame::{Datagram, Kind};

mod net;
use net::*;

/// Datagrams with who they were for.
type Recorded = Rc<RefCell<Vec<(usize, Vec<u8>)>>>;

/// Records every datagram that is sent from one node to another.
fn record(world: &mut World, from: usize, to: usize) -> Rc<RefCell<Vec<Vec<u8>>>> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let copy = seen.clone();
    world.hook = Some(Box::new(move |f, t, bytes| {
        if (f, t) == (from, to) {
            copy.borrow_mut().push(bytes.clone());
        }
        true
    }));
    seen
}

fn kind(bytes: &[u8]) -> u8 {
    bytes[3]
}

/// Keys change by time and by count, under load, on a network that loses 30 %: no circuit breaks, no message
/// is lost, no silence is reported.
#[test]
fn rekeys_by_time_and_by_count_break_no_circuit() {
    for seed in 0..20 {
        let ms = Duration::from_millis;
        let by_time = seed % 2 == 0;
        let options = Options {
            rekey_after: if by_time { ms(400) } else { ms(1_000_000) },
            reject_after: if by_time { ms(1400) } else { ms(2_000_000) },
            rekey_packets: if by_time { 1 << 32 } else { 80 },
            silent: Duration::from_millis(2000),
            ..Options::default()
        };
        let mut world = World::new(3, seed, options, checksum_seals());
        world.faults = BAD;
        world.open();
        let mut sent = Sent::new();
        for round in 0..20 {
            for (circuit, messages) in load(&mut world, seed * 100 + round, 20, 5000) {
                sent.entry(circuit).or_default().extend(messages);
            }
            world.run_for(Duration::from_millis(200));
        }
        assert!(world.run_until(Duration::from_secs(120), World::quiet), "seed {seed}");
        check_delivered(&world, &sent);
        for node in 0..3 {
            let counters = world.nodes[node].circuits.counters().peers;
            assert!(counters.rekeys >= 5, "{} rekeys", counters.rekeys);
            assert_eq!((counters.circuit_up, counters.circuit_down), (2, 0));
        }
    }
}

/// On a good network a rekey costs nothing at all: nothing is resent, nobody waits.
#[test]
fn a_rekey_on_a_clean_network_resends_nothing() {
    let options = Options {
        rekey_after: Duration::from_millis(300),
        reject_after: Duration::from_millis(900),
        ..Options::default()
    };
    let mut world = World::new(2, 1, options, checksum_seals());
    world.open();
    let sent = load(&mut world, 1, 1500, 3000);
    assert!(world.run_until(Duration::from_secs(5), World::quiet));
    check_delivered(&world, &sent);
    for node in 0..2 {
        let counters = world.nodes[node].circuits.counters().peers;
        assert!(counters.rekeys >= 8, "{} rekeys", counters.rekeys);
        assert_eq!((counters.resent, counters.bad_tag, counters.replayed), (0, 0, 0), "{counters:?}");
        assert_eq!(world.nodes[node].circuits.counters().door.no_such_key, 0);
    }
}

/// Keys are agreed on anew while nothing is said, and by the default times: about every 120 s.
#[test]
fn an_idle_circuit_renews_its_keys_every_two_minutes() {
    let mut world = World::new(2, 2, Options::default(), checksum_seals());
    world.open();
    world.run_for(Duration::from_secs(125));
    assert_eq!(world.nodes[0].circuits.counters().peers.rekeys, 1);
    world.run_for(Duration::from_secs(600));
    assert_eq!(world.nodes[0].circuits.counters().peers.rekeys, 6);
    assert_eq!(world.count(0, |e| !matches!(e, Event::Up(..))), 0);
}

/// Without new keys, old ones are used up to their end and not beyond; with the network back, all goes on.
#[test]
fn keys_that_are_too_old_seal_nothing_and_the_circuit_outlives_them() {
    let options = Options {
        rekey_after: Duration::from_secs(2),
        reject_after: Duration::from_secs(3),
        ..Options::default()
    };
    let mut world = World::new(2, 3, options, checksum_seals());
    world.open();
    let born = world.ms();
    // Handshakes do not get through; everything else does.
    let last_sealed = Rc::new(RefCell::new(0));
    let counted = last_sealed.clone();
    world.hook = Some(Box::new(move |_, _, bytes| {
        if kind(bytes) == Kind::Sealed as u8 {
            *counted.borrow_mut() += 1;
        }
        kind(bytes) == Kind::Sealed as u8
    }));
    world.run_for(Duration::from_millis(3500));
    assert!(world.ms() - born > 3000);
    let sealed = *last_sealed.borrow();
    world.send(0, 1, Class::Lock, b"waits for keys");
    world.run_for(Duration::from_secs(3));
    assert_eq!(*last_sealed.borrow(), sealed, "something was sealed with keys that are too old");
    assert!(world.delivered(1, 0, Class::Lock).is_empty());
    world.hook = None;
    assert!(world.run_until(Duration::from_secs(3), World::quiet));
    assert_eq!(world.delivered(1, 0, Class::Lock), [b"waits for keys".to_vec()]);
    assert_eq!(world.nodes[1].circuits.counters().peers.circuit_down, 0);
}

/// Late packets are read with the keys before, but not when those are too old.
#[test]
fn keys_that_are_too_old_open_nothing() {
    let mut world = World::new(2, 8, Options::default(), checksum_seals());
    world.open();
    world.run_for(Duration::from_secs(100));
    let seen = record(&mut world, 0, 1);
    world.cut.insert((0, 1));
    for n in 0..2u8 {
        world.send(0, 1, Class::Lock, &[n]);
        world.run_for(Duration::from_micros(10));
    }
    world.cut.clear();
    let late = seen.borrow().clone();
    assert_eq!(late.len(), 2);
    world.run_for(Duration::from_secs(50));
    assert_eq!(world.nodes[1].circuits.counters().peers.rekeys, 1);
    let before = world.nodes[1].circuits.counters();
    world.inject(address(0), 1, late[0].clone());
    world.run_for(Duration::from_millis(2));
    let between = world.nodes[1].circuits.counters();
    assert_eq!(between.peers.duplicates, before.peers.duplicates + 1, "read, and known");
    world.run_for(Duration::from_secs(40));
    world.inject(address(0), 1, late[1].clone());
    world.run_for(Duration::from_millis(2));
    let after = world.nodes[1].circuits.counters();
    assert_eq!(after.peers.duplicates, between.peers.duplicates);
    assert_eq!(after.door.no_such_key, between.door.no_such_key + 1);
}

/// A8: packets of a run that is gone are not read by the circuit of the next one, whatever they say.
#[test]
fn a8_late_packets_of_an_earlier_run_are_not_read() {
    for restarted in [0, 1] {
        let other = 1 - restarted;
        let mut world = World::new(2, 9, Options::default(), checksum_seals());
        world.open();
        let seen = record(&mut world, restarted, other);
        world.cut.insert((restarted, other));
        world.send(restarted, other, Class::Lock, b"of the run that is gone");
        world.run_for(Duration::from_micros(10));
        let late = seen.borrow().clone();
        assert_eq!(late.len(), 1);
        world.cut.clear();
        world.restart(restarted, 2, 9);
        world.hook = None;
        assert!(world.run_until(Duration::from_secs(5), |w| {
            w.count(other, |e| matches!(e, Event::Down(..))) == 1
        }));
        world.inject(address(restarted), other, late[0].clone());
        world.run_for(Duration::from_millis(5));
        assert!(world.delivered(other, restarted, Class::Lock).is_empty());
        assert!(world.nodes[other].circuits.counters().door.no_such_key > 0);
        world.send(restarted, other, Class::Lock, b"of this run");
        assert!(world.run_until(Duration::from_secs(5), World::quiet));
        assert_eq!(world.delivered(other, restarted, Class::Lock), [b"of this run".to_vec()]);
    }
}

/// A packet that comes again, now or much later, is counted and does nothing; so does one with a changed bit
/// anywhere.
#[test]
fn replayed_and_changed_packets_do_nothing() {
    let mut world = World::new(2, 4, Options::default(), checksum_seals());
    world.open();
    let seen = record(&mut world, 0, 1);
    for n in 0..50u8 {
        world.send(0, 1, Class::Lock, &[n]);
        world.run_for(Duration::from_millis(1));
    }
    let packets: Vec<_> = seen.borrow().iter().filter(|b| kind(b) == Kind::Sealed as u8).cloned().collect();
    let before = world.nodes[1].circuits.counters().peers;
    let stamp = world.nodes[1].clock.0;
    for packet in &packets {
        world.inject(address(0), 1, packet.clone());
        world.inject("127.0.0.9:4000".parse().unwrap(), 1, packet.clone());
    }
    world.run_for(Duration::from_millis(2));
    let after = world.nodes[1].circuits.counters().peers;
    assert_eq!(after.replayed - before.replayed, 2 * packets.len() as u64);
    // A changed bit in the number or the body fails the tag; in the receiver it names no key.
    let fresh = {
        world.send(0, 1, Class::Lock, b"held back");
        world.cut.insert((0, 1));
        seen.borrow_mut().clear();
        world.run_for(Duration::from_millis(0));
        seen.borrow()[0].clone()
    };
    let before = world.nodes[1].circuits.counters();
    for bit in 0..fresh.len() * 8 {
        let mut changed = fresh.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        world.inject(address(0), 1, changed);
    }
    world.run_for(Duration::from_millis(2));
    let after = world.nodes[1].circuits.counters();
    assert_eq!(world.delivered(1, 0, Class::Lock).len(), 50);
    let bits = fresh.len() as u64 * 8;
    let by_key = after.door.no_such_key - before.door.no_such_key;
    let by_tag = after.peers.bad_tag - before.peers.bad_tag;
    assert_eq!(by_key, 32);
    // The first four bytes are magic, version and kind; some numbers with a changed bit were seen before.
    assert!(by_tag > bits - 32 - 32 - 64, "{by_tag} of {bits}");
    assert!(world.nodes[1].clock.0 < stamp + 100, "a changed stamp was heard");
    world.cut.clear();
    assert!(world.run_until(Duration::from_secs(2), World::quiet));
    assert_eq!(world.delivered(1, 0, Class::Lock).len(), 51);
}

/// Handshakes that come again disturb nothing: not the keys in use, not the order of messages, not the state.
#[test]
fn replayed_handshakes_disturb_nothing() {
    let options = Options { hellos_per_second: 1_000_000, ..Options::default() };
    let mut world = World::new(2, 5, options, checksum_seals());
    let all: Recorded = Rc::default();
    let copy = all.clone();
    world.hook = Some(Box::new(move |_, to, bytes| {
        copy.borrow_mut().push((to, bytes.clone()));
        true
    }));
    world.open();
    world.run_for(Duration::from_secs(130)); // a rekey is among them
    world.hook = None;
    let handshakes: Vec<_> =
        all.borrow().iter().filter(|(_, b)| kind(b) != Kind::Sealed as u8).cloned().collect();
    assert!(handshakes.len() >= 4, "{}", handshakes.len());
    let events = [0, 1].map(|node| world.nodes[node].events.len());
    let before = [0, 1].map(|node| world.nodes[node].circuits.counters());
    let mut sent = Sent::new();
    for round in 0..50 {
        for (to, bytes) in &handshakes {
            world.inject(address(1 - to), *to, bytes.clone());
        }
        for (circuit, messages) in load(&mut world, round, 5, 500) {
            sent.entry(circuit).or_default().extend(messages);
        }
    }
    assert!(world.run_until(Duration::from_secs(5), World::quiet));
    check_delivered(&world, &sent);
    for node in 0..2 {
        assert_eq!(world.nodes[node].events.len(), events[node], "{:?}", world.nodes[node].events);
        let (old, new) = (before[node], world.nodes[node].circuits.counters());
        assert_eq!(new.peers.rekeys, old.peers.rekeys);
        assert_eq!((new.peers.resent, new.peers.circuit_down), (old.peers.resent, 0));
    }
    let replayed: u64 = (0..2).map(|n| world.nodes[n].circuits.counters().door.hellos_replayed).sum();
    let strays: u64 = (0..2).map(|n| world.nodes[n].circuits.counters().door.replies_stray).sum();
    assert!(replayed >= 100 && strays >= 100, "{replayed} {strays}");
}

/// A handshake recorded in an earlier run of the responder is answered by the next run, and leads to nothing,
/// because whoever replays it cannot make a packet with the keys.
#[test]
fn a_handshake_replayed_to_a_restarted_responder_opens_nothing() {
    let mut world = World::new(2, 6, Options::default(), checksum_seals());
    let hellos: Recorded = Rc::default();
    let copy = hellos.clone();
    world.hook = Some(Box::new(move |_, to, bytes| {
        if kind(bytes) == Kind::Hello as u8 {
            copy.borrow_mut().push((to, bytes.clone()));
        }
        true
    }));
    world.open();
    world.restart(1, 2, 6);
    world.cut.extend([(0, 1), (1, 0)]);
    let hello = hellos.borrow().iter().find(|(to, _)| *to == 1).expect("node 0 began").1.clone();
    world.inject(address(0), 1, hello);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.nodes[1].circuits.counters().door.hellos_received, 1);
    assert_eq!(world.nodes[1].circuits.status(id(0)).unwrap().incarnation, None);
    world.cut.clear();
    world.open();
    assert!(world.run_until(Duration::from_secs(5), |w| w.count(0, |e| matches!(e, Event::Down(..))) == 1));
}

/// A datagram is what the layout says: everything on the wire can be taken apart by it.
#[test]
fn everything_sent_is_a_datagram_of_the_layout() {
    let mut world = World::new(2, 7, Options::default(), checksum_seals());
    world.faults = BAD;
    world.hook = Some(Box::new(|_, _, bytes| {
        Datagram::decode(bytes).expect("own datagrams decode");
        assert!(bytes.len() <= Options::default().datagram_bytes);
        true
    }));
    world.open();
    load(&mut world, 7, 100, 20_000);
    assert!(world.run_until(Duration::from_secs(100), World::quiet));
}
