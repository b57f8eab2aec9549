//! What one class or one circuit does to another: nothing.

use std::time::Duration;

use oarlock_circuit::{Class, Options};

mod net;
use net::*;

/// Bulk messages of a mebibyte, one after the other, and lock messages between them: a lock message is in the
/// next datagram that is built, so it waits for no more than the train that had been built already.
#[test]
fn bulk_of_a_mebibyte_does_not_delay_lock_messages() {
    let time = |bulk: bool| {
        let mut world = World::new(2, 1, Options::default(), checksum_seals());
        world.open();
        world.run_for(Duration::from_millis(100));
        let large = vec![7; 1 << 20];
        let mut worst = 0;
        for n in 0..50u8 {
            if bulk && world.nodes[0].circuits.backlog(id(1)) < 4 << 20 {
                world.send(0, 1, Class::Bulk, &large);
            }
            world.run_for(Duration::from_micros(700));
            world.send(0, 1, Class::Lock, &[n; 100]);
            let (sent_at, before) = (world.now.0, world.delivered(1, 0, Class::Lock).len());
            assert!(
                world
                    .run_until(Duration::from_secs(1), |w| { w.delivered(1, 0, Class::Lock).len() > before })
            );
            worst = worst.max(world.now.0 - sent_at);
        }
        if bulk {
            assert!(world.delivered(1, 0, Class::Bulk).len() > 10, "bulk went on meanwhile");
        }
        worst
    };
    let (alone, beside) = (time(false), time(true));
    assert_eq!(alone, 100_000, "one way through the network");
    assert_eq!(beside, alone, "the network here has no bandwidth, so nothing at all is added");
}

/// The same, counted in datagrams: a lock message rides in the first datagram built after it was sent, even
/// with mebibytes waiting, and even when bulk segments are lost and sent again.
#[test]
fn a_lock_message_is_in_the_first_datagram_built_after_it() {
    let mut world = World::new(2, 2, Options::default(), checksum_seals());
    world.faults = Faults { loss: 100, ..CLEAN };
    world.open();
    for round in 0..100u32 {
        if round % 2 == 0 {
            // In the middle of it, with the bulk window full.
            world.send(0, 1, Class::Bulk, &vec![1; 200_000]);
            world.run_for(Duration::from_micros(300));
        } else {
            // At the start of it, with room for more bulk than a train has: it was there first.
            assert!(world.run_until(Duration::from_secs(5), World::quiet));
            world.send(0, 1, Class::Bulk, &vec![1; 200_000]);
        }
        let before = world.delivered(1, 0, Class::Lock).len();
        assert_eq!(before, round as usize);
        world.send(0, 1, Class::Lock, &round.to_le_bytes());
        // Take the first datagram by hand and give only that to the peer.
        let first = first_datagram(&mut world);
        let (now, peer) = (world.now, &mut world.nodes[1]);
        peer.circuits.handle_datagram(now, &mut peer.clock, address(0), &mut first.clone());
        world.drain(1);
        assert_eq!(world.delivered(1, 0, Class::Lock).len(), before + 1, "round {round}");
    }
    assert!(world.nodes[0].circuits.counters().peers.resent > 0);
}

/// A coordinator's sign of life rides in the first datagram built after it, with mebibytes of locks and of bulk waiting
/// before it: a leader that is heard late loses its office.
#[test]
fn a_control_message_is_in_the_first_datagram_built_after_it() {
    let mut world = World::new(2, 7, Options::default(), checksum_seals());
    world.faults = Faults { loss: 100, ..CLEAN };
    world.open();
    for round in 0..100u32 {
        if round % 2 == 1 {
            assert!(world.run_until(Duration::from_secs(5), World::quiet));
        }
        world.send(0, 1, Class::Bulk, &vec![1; 200_000]);
        // They leave no room in a datagram for what comes behind them.
        (0..2_000).for_each(|_| world.send(0, 1, Class::Lock, &[2; 90]));
        if round % 2 == 0 {
            // In the middle of it, with both windows full.
            world.run_for(Duration::from_micros(300));
        }
        let before = world.delivered(1, 0, Class::Control).len();
        assert_eq!(before, round as usize);
        world.send(0, 1, Class::Control, &[3; 300]);
        let first = first_datagram(&mut world);
        let (now, peer) = (world.now, &mut world.nodes[1]);
        peer.circuits.handle_datagram(now, &mut peer.clock, address(0), &mut first.clone());
        world.drain(1);
        assert_eq!(world.delivered(1, 0, Class::Control).len(), before + 1, "round {round}");
    }
    assert!(world.nodes[0].circuits.counters().peers.resent > 0);
}

/// Takes by hand what node 0 sends next.
fn first_datagram(world: &mut World) -> Vec<u8> {
    let node = &mut world.nodes[0];
    loop {
        match node.circuits.poll_output(world.now, &mut node.clock) {
            Some(oarlock_circuit::Output::Transmit(transmit)) => {
                return transmit.datagrams().next().expect("a datagram").to_vec();
            }
            Some(_) => {}
            None => panic!("nothing to send"),
        }
    }
}

/// What is lost of one class holds up that class only.
#[test]
fn a_gap_in_one_class_does_not_hold_up_the_others() {
    for gap in Class::ALL {
        let mut world = World::new(2, 3, Options::default(), checksum_seals());
        world.open();
        world.cut.insert((0, 1));
        world.send(0, 1, gap, b"lost at first");
        world.run_for(Duration::from_micros(10));
        world.cut.clear();
        for class in Class::ALL {
            world.send(0, 1, class, b"not held up by another");
        }
        world.run_for(Duration::from_micros(200));
        for class in Class::ALL {
            let expected = usize::from(class != gap);
            assert_eq!(world.delivered(1, 0, class).len(), expected, "{class:?} behind {gap:?}");
        }
        assert!(world.run_until(Duration::from_secs(1), World::quiet));
        assert_eq!(world.delivered(1, 0, gap), [&b"lost at first"[..], b"not held up by another"]);
    }
}

/// In the smallest datagrams that there may be, acknowledgements of all classes have room beside each other.
#[test]
fn all_classes_get_on_in_the_smallest_datagrams() {
    let options = Options { datagram_bytes: 256, ..Options::default() };
    let mut world = World::new(2, 8, options, checksum_seals());
    world.faults = Faults { loss: 200, ..CLEAN };
    world.open();
    let sent = load(&mut world, 8, 300, 20_000);
    assert!(world.run_until(Duration::from_secs(60), World::quiet));
    check_delivered(&world, &sent);
}

/// A9: a peer that is slow, or takes nothing at all, does not make other circuits slower.
#[test]
fn a9_a_throttled_peer_does_not_slow_down_other_circuits() {
    let time = |throttled: bool| {
        let mut world = World::new(3, 4, Options::default(), checksum_seals());
        world.open();
        world.run_for(Duration::from_millis(100));
        if throttled {
            // Node 2 gets one datagram in ten, and then nothing.
            let mut n = 0;
            world.hook = Some(Box::new(move |_, to, _| {
                n += 1;
                to != 2 || (n < 500 && n % 10 == 0)
            }));
        }
        let mut worst = 0;
        for n in 0..200u8 {
            for _ in 0..3 {
                world.send(0, 2, Class::Lock, &[n; 900]);
                world.send(0, 2, Class::Bulk, &[n; 9000]);
            }
            world.send(0, 1, Class::Lock, &[n]);
            let (sent_at, before) = (world.now.0, world.delivered(1, 0, Class::Lock).len());
            assert!(
                world
                    .run_until(Duration::from_secs(1), |w| { w.delivered(1, 0, Class::Lock).len() > before })
            );
            worst = worst.max(world.now.0 - sent_at);
            world.run_for(Duration::from_millis(5));
        }
        assert!(world.nodes[0].circuits.backlog(id(1)) < 10);
        assert_eq!(throttled, world.nodes[0].circuits.backlog(id(2)) > 1_000_000);
        worst
    };
    assert_eq!(time(true), time(false));
}

/// A9: what is not acknowledged is bounded, and the edge is told.
#[test]
fn a9_unacknowledged_data_is_bounded_at_both_ends() {
    let options = Options { backlog_max: 2 << 20, ..Options::default() };
    let mut world = World::new(2, 5, options, checksum_seals());
    world.open();
    world.cut.extend([(0, 1), (1, 0)]);
    let mut taken = 0;
    let refused = (0..100).find_map(|_| {
        let sent = world.nodes[0].circuits.send(world.now, id(1), Class::Bulk, &[3; 100_000]);
        taken += if sent.is_ok() { 100_000 } else { 0 };
        sent.err()
    });
    assert_eq!(refused, Some(oarlock_circuit::SendError::Full { peer: id(1), backlog: taken }));
    assert_eq!(world.nodes[0].circuits.backlog(id(1)), taken);
    assert!(taken + 100_000 > 2 << 20);
    let before = world.nodes[0].datagrams_out;
    world.run_for(Duration::from_secs(30));
    let sent = world.nodes[0].datagrams_out - before;
    // The congestion window once, its repetition, and then two a second beside the keepalives.
    assert!(sent < 700, "{sent} datagrams to a peer that does not answer");
    world.cut.clear();
    assert!(world.run_until(Duration::from_secs(10), World::quiet));
    assert_eq!(world.delivered(1, 0, Class::Bulk).len() * 100_000, taken);
}

/// A5: many small messages share a datagram.
#[test]
fn a5_messages_sent_together_share_a_datagram() {
    let mut world = World::new(2, 6, Options::default(), checksum_seals());
    world.open();
    world.run_for(Duration::from_millis(20));
    let before = world.nodes[0].datagrams_out;
    for n in 0..20u8 {
        world.send(0, 1, Class::Lock, &[n; 60]);
    }
    world.run_for(Duration::from_millis(1));
    assert_eq!(world.nodes[0].datagrams_out - before, 1);
    assert_eq!(world.delivered(1, 0, Class::Lock).len(), 20);
}
