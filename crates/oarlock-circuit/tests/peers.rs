//! Peers that come and go while the circuits of the others carry messages.

use std::time::Duration;

use oarlock_circuit::{Class, Options, Peer, SendError, State};
use oarlock_layout::code::Code;

mod net;

use net::*;

fn world(nodes: usize) -> World {
    World::new(nodes, 7, Options::default(), checksum_seals())
}

fn peer(world: &World, node: usize) -> Peer {
    let (_, key) = (world.make_seal)(node);
    Peer { node: id(node), address: address(node), key }
}

/// A node that is no peer any more hears and says nothing: its circuit is down, once, and each further hello is refused.
#[test]
fn a_removed_peer_is_a_stranger_and_the_others_notice_nothing() {
    let mut world = world(3);
    world.open();
    world.send(0, 2, Class::Lock, b"before");
    world.run_for(Duration::from_millis(20));
    assert_eq!(world.delivered(2, 0, Class::Lock).len(), 1);
    let counted = world.nodes[0].circuits.counters().peers;

    world.nodes[0].circuits.remove_peer(id(2));
    world.nodes[0].circuits.remove_peer(id(2));
    world.send(2, 0, Class::Lock, b"after");
    world.send(1, 0, Class::Lock, b"from the other");
    world.run_for(Duration::from_secs(5));

    assert_eq!(world.count(0, |e| matches!(e, Event::Down(peer, ..) if *peer == id(2))), 1);
    assert!(world.delivered(0, 2, Class::Lock).is_empty(), "nothing of it arrives");
    assert_eq!(world.delivered(0, 1, Class::Lock).len(), 1);
    assert_eq!(world.nodes[0].circuits.status(id(2)), None);
    let now = world.now;
    let refused = world.nodes[0].circuits.send(now, id(2), Class::Lock, b"x");
    assert_eq!(refused, Err(SendError::NoSuchPeer(id(2))));
    let counters = world.nodes[0].circuits.counters();
    assert!(counters.door.no_such_key > 0 && counters.door.refused_key > 0, "{counters:?}");
    assert!(counters.peers.datagrams_sent >= counted.datagrams_sent, "counts never fall");
    // It hears that it is refused, and says so to people.
    assert!(world.count(2, |e| matches!(e, Event::RefusedBy(_, Code::PeerKey))) > 0);
    assert_eq!(world.count(1, |e| matches!(e, Event::Down(..))), 0);
}

/// A circuit opens to a node that becomes a peer while others have one, whichever of the two hears of it first; and the
/// place of one that left is given to another.
#[test]
fn a_peer_that_comes_later_gets_a_circuit() {
    for first in [0, 2] {
        let mut world = world(3);
        world.open();
        world.nodes[0].circuits.remove_peer(id(2));
        world.nodes[2].circuits.remove_peer(id(0));
        world.run_for(Duration::from_secs(2));
        let second = 2 - first;
        for at in [first, second] {
            let (now, other) = (world.now, peer(&world, 2 - at));
            world.nodes[at].circuits.add_peer(now, other);
            // What is so already changes nothing.
            world.nodes[at].circuits.add_peer(now, other);
            world.run_for(Duration::from_secs(2));
        }
        world.send(0, 2, Class::Bulk, &[5; 5000]);
        world.send(2, 0, Class::Lock, b"here I am");
        world.run_for(Duration::from_secs(1));
        assert_eq!(world.nodes[0].circuits.status(id(2)).unwrap().state, State::Up);
        assert_eq!(world.delivered(2, 0, Class::Bulk), [[5; 5000].to_vec()]);
        assert_eq!(world.delivered(0, 2, Class::Lock), [b"here I am".to_vec()]);
        assert_eq!(world.count(0, |e| matches!(e, Event::Up(peer, _) if *peer == id(2))), 2);
    }
}

/// An id that is given to a node with another key is another peer: the one before is not listened to any more.
#[test]
fn another_key_under_the_same_id_ends_the_circuit() {
    let mut world = world(3);
    world.open();
    let (now, stranger) = (world.now, Peer { node: id(2), address: address(2), key: peer(&world, 1).key });
    world.nodes[0].circuits.add_peer(now, stranger);
    world.send(2, 0, Class::Lock, b"still me");
    world.run_for(Duration::from_secs(3));
    assert_eq!(world.count(0, |e| matches!(e, Event::Down(peer, ..) if *peer == id(2))), 1);
    assert!(world.delivered(0, 2, Class::Lock).is_empty());
    assert_ne!(world.nodes[0].circuits.status(id(2)).unwrap().state, State::Up);
    // Nobody is a peer of itself.
    let me = peer(&world, 0);
    world.nodes[0].circuits.add_peer(now, me);
    assert_eq!(world.nodes[0].circuits.status(id(0)), None);
}
