//! Who is let in, who is not, and what each side is told.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use oarlock_circuit::{Class, Options, State};
use oarlock_layout::code::Code;
use oarlock_layout::id::Incarnation;
use oarlock_layout::message::frame::{Kind, VERSION};

mod net;
use net::*;

const SECOND: Duration = Duration::from_secs(1);

/// Three nodes; the third has other seals than the rest believe, or makes them with another secret.
fn with_stranger(key: u64, secret: u64) -> World {
    let stranger: MakeSeal = Box::new(move |node| {
        let honest = seal::ChecksumSeal::new(100 + node as u64, 42, 7000 + node as u64);
        let public = honest.public_key();
        if node == 2 {
            (Box::new(seal::ChecksumSeal::new(key, secret, 1)), public)
        } else {
            (Box::new(honest), public)
        }
    });
    World::new(3, 1, Options::default(), stranger)
}

/// The first two nodes work as if the third were not there, and say why it is not.
fn check_refused(world: &mut World, code: Code, told: Option<Code>) {
    world.run_for(SECOND * 10);
    for node in 0..2 {
        assert!(matches!(world.nodes[node].circuits.status(id(1 - node)).unwrap().state, State::Up));
        assert_eq!(world.nodes[node].circuits.status(id(2)).unwrap().incarnation, None);
        let refusals = world.count(node, |e| matches!(e, Event::Refused(_, c) if *c == code));
        assert!((1..=4).contains(&refusals), "reported {refusals} times: {:?}", world.nodes[node].events);
        assert_eq!(world.count(node, |e| *e == Event::Up(id(2), Incarnation(1))), 0);
    }
    assert_eq!(world.count(2, |e| matches!(e, Event::Up(..))), 0);
    let told_by = |node: usize| world.count(2, |e| matches!(e, Event::RefusedBy(p, _) if *p == id(node)));
    for node in 0..2 {
        match told {
            Some(code) => {
                assert_eq!(world.count(2, |e| *e == Event::RefusedBy(id(node), code)), 1, "told once");
            }
            None => assert_eq!(told_by(node), 0),
        }
    }
    world.send(0, 1, Class::Lock, b"undisturbed");
    world.run_for(SECOND);
    assert_eq!(world.delivered(1, 0, Class::Lock).len(), 1);
    assert_eq!(world.count(1, |e| matches!(e, Event::Silent(_) | Event::Down(..))), 0);
}

#[test]
fn a_wrong_key_is_refused_counted_and_disturbs_nobody() {
    let mut world = with_stranger(555, 42);
    check_refused(&mut world, Code::PeerKey, Some(Code::PeerKey));
    assert!(world.nodes[0].circuits.counters().door.refused_key > 0);
}

/// A member is the node its key is pinned for, whatever it says.
#[test]
fn a_member_that_claims_to_be_another_one_is_refused() {
    let mut world = World::with(3, 9, Options::default(), checksum_seals(), |node, config| {
        if node == 2 {
            config.me = id(1);
        }
    });
    world.run_for(SECOND * 5);
    assert_eq!(world.nodes[0].circuits.status(id(1)).unwrap().state, State::Up);
    assert_eq!(world.nodes[0].circuits.status(id(2)).unwrap().incarnation, None);
    assert_eq!(world.count(0, |e| *e == Event::Refused(Some(id(1)), Code::PeerKey)), 1);
    assert_eq!(world.count(0, |e| matches!(e, Event::Up(..))), 1, "{:?}", world.nodes[0].events);
    assert_eq!(world.count(2, |e| matches!(e, Event::Up(..))), 0, "{:?}", world.nodes[2].events);
    world.send(0, 1, Class::Lock, b"to the real one");
    world.run_for(SECOND);
    assert_eq!(world.delivered(1, 0, Class::Lock).len(), 1);
}

#[test]
fn a_wrong_cluster_secret_is_refused_counted_and_disturbs_nobody() {
    // Who does not know the secret cannot be told anything it would believe.
    let mut world = with_stranger(102, 43);
    check_refused(&mut world, Code::PeerSecret, None);
    assert!(world.nodes[0].circuits.counters().door.refused_secret > 0);
}

#[test]
fn another_shared_configuration_is_refused_and_both_sides_say_so() {
    let mut world = World::with(3, 2, Options::default(), checksum_seals(), |node, config| {
        config.shared += u64::from(node == 2);
    });
    check_refused(&mut world, Code::PeerConfig, Some(Code::PeerConfig));
    assert!(world.nodes[0].circuits.counters().door.refused_config > 0);
    assert_eq!(world.nodes[2].circuits.status(id(0)).unwrap().state, State::Refused(Code::PeerConfig));
}

#[test]
fn another_cluster_name_is_not_understood() {
    let mut world = World::with(3, 3, Options::default(), checksum_seals(), |node, config| {
        if node == 2 {
            config.cluster = "other".into();
        }
    });
    check_refused(&mut world, Code::PeerKey, Some(Code::PeerKey));
}

/// The version stands in clear. A hello of another version is answered by a refusal that every version reads.
#[test]
fn another_version_is_named_by_both_sides() {
    let mut world = World::new(3, 4, Options::default(), checksum_seals());
    // What node 2 sends is of the next version, and what it gets but refusals it takes for that as well.
    world.hook = Some(Box::new(|from, to, bytes| {
        if (from == 2 || to == 2) && bytes[3] != Kind::Refusal as u8 {
            bytes[2] = VERSION + 1;
        }
        true
    }));
    check_refused(&mut world, Code::PeerVersion, Some(Code::PeerVersion));
    assert!(world.nodes[0].circuits.counters().door.refused_version > 0);
    let refused = |node: usize| {
        let events = &world.nodes[node].events;
        events.iter().any(|(_, e)| *e == Event::Refused(Some(id(2)), Code::PeerVersion))
    };
    assert!(refused(0) && refused(1), "the address tells people which node it is");
}

/// L3, A10: a restarted node ends the circuit of its earlier run, once, and gets a new one.
#[test]
fn a_new_incarnation_takes_the_place_of_the_old_one_once() {
    let mut world = World::new(2, 5, Options::default(), checksum_seals());
    world.open();
    world.cut.insert((0, 1));
    for n in 0..7u8 {
        world.send(0, 1, Class::Lock, &[n]);
        world.send(0, 1, Class::Bulk, &[n]);
    }
    world.run_for(Duration::from_millis(50));
    world.cut.clear();
    world.restart(1, 2, 5);
    world.run_for(SECOND * 3);
    let events: Vec<_> = world.nodes[0].events.iter().map(|(_, e)| e.clone()).collect();
    let peer = id(1);
    assert_eq!(
        events,
        [
            Event::Up(peer, Incarnation(1)),
            Event::Down(peer, Incarnation(1), 14),
            Event::Up(peer, Incarnation(2)),
        ]
    );
    assert!(world.delivered(1, 0, Class::Lock).is_empty(), "what was meant for the old run is not delivered");
    world.send(0, 1, Class::Lock, b"first to the new run");
    world.send(1, 0, Class::Lock, b"first of the new run");
    assert!(world.run_until(SECOND, World::quiet));
    assert_eq!(world.delivered(1, 0, Class::Lock), [b"first to the new run".to_vec()]);
}

/// L3: a view names a run; another run is refused, is told so at once and once, and the circuit of the named
/// run stays as it was.
#[test]
fn l3_a_run_that_the_view_does_not_name_is_refused_and_told() {
    for restarted in [0, 1] {
        let other = 1 - restarted;
        let mut world = World::new(2, 6, Options::default(), checksum_seals());
        world.open();
        world.nodes[other].circuits.pin(id(restarted), Incarnation(1));
        world.send(other, restarted, Class::Lock, b"nobody knows what became of it");
        world.restart(restarted, 2, 6);
        world.run_for(Duration::from_millis(400));
        let told = Event::RefusedBy(id(other), Code::PeerRestarted);
        assert_eq!(world.count(restarted, |e| *e == told), 1, "within 400 ms");
        world.run_for(SECOND * 10);
        assert_eq!(world.count(restarted, |e| *e == told), 1);
        let refused = Event::Refused(Some(id(restarted)), Code::PeerRestarted);
        assert!((1..=4).contains(&world.count(other, |e| *e == refused)));
        assert_eq!(world.count(other, |e| matches!(e, Event::Down(..))), 0);
        assert_eq!(world.count(other, |e| *e == Event::Silent(id(restarted))), 1);
        assert!(world.nodes[other].circuits.backlog(id(restarted)) > 0);
        assert!(world.nodes[other].circuits.counters().door.refused_restarted > 0);
        // When the cluster forms again the pin goes, and the new run is welcome.
        world.nodes[other].circuits.unpin(id(restarted));
        world.run_for(SECOND * 3);
        assert_eq!(world.count(other, |e| *e == Event::Up(id(restarted), Incarnation(2))), 1);
        assert_eq!(world.nodes[restarted].circuits.status(id(other)).unwrap().state, State::Up);
    }
}

/// L3: a handshake that was answered before the view came, and would be finished after it, is not finished.
#[test]
fn l3_a_pin_also_stops_a_handshake_that_is_under_way() {
    let mut world = World::new(2, 10, Options::default(), checksum_seals());
    world.open();
    world.restart(1, 2, 10);
    let held: Rc<RefCell<Option<Vec<u8>>>> = Rc::default();
    let copy = held.clone();
    world.hook = Some(Box::new(move |from, _, bytes| {
        if from == 0 && bytes[3] == Kind::Reply as u8 {
            copy.borrow_mut().get_or_insert(bytes.clone());
        }
        from == 1
    }));
    assert!(world.run_until(SECOND, |_| held.borrow().is_some()));
    world.nodes[0].circuits.pin(id(1), Incarnation(1));
    let reply = held.borrow().clone().unwrap();
    world.inject(address(0), 1, reply);
    world.run_for(Duration::from_millis(100));
    let ups = world.count(1, |e| *e == Event::Up(id(0), Incarnation(1)));
    assert_eq!(ups, 2, "in the run before, and now: the reply came in time");
    assert_eq!(world.count(0, |e| matches!(e, Event::Down(..))), 0);
    world.hook = None;
    world.run_for(SECOND * 5);
    assert_eq!(world.count(0, |e| matches!(e, Event::Down(..))), 0);
    assert_eq!(world.count(1, |e| *e == Event::RefusedBy(id(0), Code::PeerRestarted)), 1);
}

/// L3: an older run never comes back, and a run with a number that was already used is not taken for the other
/// one, for its sequence numbers would begin again.
#[test]
fn l3_an_older_run_and_a_doubled_run_are_refused() {
    for (first, second) in [(5, 4), (5, 5)] {
        for restarted in [0, 1] {
            let other = 1 - restarted;
            let mut world = World::new(2, 7, Options::default(), checksum_seals());
            world.open();
            world.restart(restarted, first, 7);
            world.run_for(SECOND * 3);
            assert_eq!(world.count(other, |e| *e == Event::Up(id(restarted), Incarnation(5))), 1);
            world.restart(restarted, second, 8);
            world.run_for(SECOND * 3);
            let told = Event::RefusedBy(id(other), Code::PeerRestarted);
            assert_eq!(world.count(restarted, |e| *e == told), 1, "{first} then {second}");
            assert_eq!(world.count(other, |e| matches!(e, Event::Down(..))), 1, "only of run 1");
        }
    }
}

/// Under a flood of genuine first messages, only senders with a cookie are answered; a member gets in all the
/// same, and no answer is longer than its question.
#[test]
fn a_flood_of_hellos_is_answered_with_cookies_and_members_still_get_in() {
    let mut world = World::new(3, 8, Options::default(), checksum_seals());
    let hello: Rc<RefCell<Option<Vec<u8>>>> = Rc::default();
    let lengths: Rc<RefCell<BTreeSet<(u8, usize)>>> = Rc::default();
    let (copy, sizes) = (hello.clone(), lengths.clone());
    world.hook = Some(Box::new(move |from, to, bytes| {
        if bytes[3] == Kind::Hello as u8 && (from, to) == (0, 1) {
            copy.borrow_mut().get_or_insert(bytes.clone());
        }
        if bytes[3] != Kind::Sealed as u8 {
            sizes.borrow_mut().insert((bytes[3], bytes.len()));
        }
        true
    }));
    world.cut.extend([(0, 2), (2, 0), (1, 2), (2, 1)]);
    assert!(
        world.run_until(SECOND * 3, |w| { w.nodes[0].circuits.status(id(1)).unwrap().incarnation.is_some() })
    );
    let flood = hello.borrow().clone().expect("node 0 said hello");
    for _ in 0..100 {
        for port in 0..10 {
            let from = format!("127.0.0.77:{}", 5000 + port).parse().unwrap();
            world.inject(from, 1, flood.clone());
        }
        world.run_for(Duration::from_millis(10));
    }
    let door = world.nodes[1].circuits.counters().door;
    assert!(door.hellos_received > 1000);
    assert!(door.cookies_sent > 900, "{door:?}");
    assert!(door.hellos_replayed <= 50 + 5, "handshakes were read: {door:?}");
    // Node 2 arrives in the middle of it.
    world.cut.clear();
    for _ in 0..500 {
        for port in 0..3 {
            let from = format!("127.0.0.77:{}", 5000 + port).parse().unwrap();
            world.inject(from, 1, flood.clone());
        }
        world.run_for(Duration::from_millis(10));
    }
    assert_eq!(world.nodes[1].circuits.status(id(2)).unwrap().state, State::Up);
    assert_eq!(world.count(1, |e| matches!(e, Event::Silent(p) if *p == id(0))), 0);
    let longest = |kind: Kind| {
        lengths.borrow().iter().filter(|(k, _)| *k == kind as u8).map(|(_, n)| *n).max().unwrap_or(0)
    };
    let shortest = lengths.borrow().iter().filter(|(k, _)| *k == Kind::Hello as u8).map(|(_, n)| *n).min();
    assert!(longest(Kind::Cookie) > 0, "cookies were sent to members too");
    for answer in [Kind::Cookie, Kind::Reply, Kind::Refusal] {
        assert!(Some(longest(answer)) <= shortest, "{answer:?} is longer than a hello");
    }
}
