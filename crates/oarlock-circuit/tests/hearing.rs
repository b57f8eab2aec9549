//! Keepalives, silence, and what a silence does not do.

use std::time::Duration;

use oarlock_circuit::{Class, Options, State};
use oarlock_layout::id::NodeId;
use oarlock_layout::message::frame::Datagram;
use oarlock_layout::stamp::{AbsurdStamp, Clock, Reading, Stamp};

mod net;
use net::*;

fn world(nodes: usize, seed: u64) -> World {
    let mut world = World::new(nodes, seed, Options::default(), checksum_seals());
    world.open();
    world.run_for(Duration::from_millis(50));
    world
}

/// Keepalives sent and answered by each of two nodes.
fn keepalives(world: &World) -> [(u64, u64); 2] {
    [0, 1].map(|node| {
        let c = world.nodes[node].circuits.counters().peers;
        (c.keepalive_sent, c.keepalive_acked)
    })
}

/// A6, A7: ten idle periods are ten keepalives each way, each of them answered.
#[test]
fn a6_a7_ten_idle_periods_are_about_ten_answered_keepalives_each_way() {
    for seed in 0..10 {
        let mut world = world(2, seed);
        let before = keepalives(&world);
        world.run_for(Duration::from_millis(1000));
        let after = keepalives(&world);
        for node in 0..2 {
            let (sent, acked) = (after[node].0 - before[node].0, after[node].1 - before[node].1);
            assert!((9..=11).contains(&sent), "node {node} sent {sent}");
            assert!((9..=11).contains(&acked), "node {node} was answered {acked}");
        }
    }
}

/// A6: with data coming in there is nothing to ask.
#[test]
fn a6_busy_both_ways_sends_no_keepalive() {
    let mut world = world(2, 3);
    let before = keepalives(&world);
    for _ in 0..100 {
        world.send(0, 1, Class::Lock, b"there");
        world.send(1, 0, Class::Bulk, b"and back");
        world.run_for(Duration::from_millis(20));
    }
    assert_eq!(keepalives(&world), before);
}

/// A6: the timer restarts at received data. Who sends all the time and only gets acknowledgements still asks,
/// and who receives all the time does not.
#[test]
fn a6_one_way_traffic_makes_the_sender_ask_and_the_receiver_not() {
    let mut world = world(2, 4);
    let before = keepalives(&world);
    for _ in 0..100 {
        world.send(0, 1, Class::Lock, b"there");
        world.run_for(Duration::from_millis(10));
    }
    let after = keepalives(&world);
    let sent = [0, 1].map(|node| after[node].0 - before[node].0);
    assert!((9..=11).contains(&sent[0]), "{sent:?}");
    assert_eq!(sent[1], 0);
    assert_eq!(after[0].1 - before[0].1, sent[0], "each was answered");
}

/// E2, E4: with or without traffic, each node hears a newer stamp of each peer in every period.
#[test]
fn e4_a_clock_that_ticks_fast_is_followed_within_a_period() {
    for busy in [false, true] {
        let mut world = world(3, 5);
        for _ in 0..20 {
            world.nodes[0].clock.0 += 1_000_000;
            let fast = world.nodes[0].clock.0;
            for step in 0..11 {
                if busy && step % 3 == 0 {
                    world.send(1, 0, Class::Lock, b"to the fast one only");
                }
                world.run_for(Duration::from_millis(10));
            }
            for node in 1..3 {
                assert!(world.nodes[node].clock.0 > fast, "node {node} is behind, busy {busy}");
            }
        }
    }
}

/// E2: each datagram of a node carries a later stamp than all before it, retransmissions, acknowledgements and
/// keepalives as well: the stamp is that of the transmission.
#[test]
fn e2_every_datagram_is_stamped_when_it_is_sent() {
    let mut world = World::new(2, 10, Options::default(), checksum_seals());
    world.faults = BAD;
    let mut last = [0; 2];
    world.hook = Some(Box::new(move |from, _, bytes| {
        if let Ok(Datagram::Sealed(header)) = Datagram::decode(bytes) {
            let stamp = header.reading.stamp;
            assert!(stamp.0 > last[from], "{stamp} after {}", last[from]);
            last[from] = stamp.0;
        }
        true
    }));
    world.open();
    load(&mut world, 10, 200, 5000);
    assert!(world.run_until(Duration::from_secs(60), World::quiet));
    assert!(world.nodes[0].circuits.counters().peers.resent > 20);
}

/// E3: a stamp is heard even if all it came with had been heard before.
#[test]
fn e3_a_stamp_on_nothing_new_is_heard() {
    let mut world = world(2, 11);
    world.cut.insert((1, 0)); // acknowledgements are lost, so everything is sent again
    world.send(0, 1, Class::Lock, b"once");
    world.run_for(Duration::from_millis(5));
    world.nodes[0].clock.0 += 1_000_000;
    let resent = |w: &World| w.nodes[1].circuits.counters().peers.duplicates;
    assert!(world.run_until(Duration::from_secs(1), |w| resent(w) == 1));
    assert!(world.nodes[1].clock.0 > 1_000_000);
    assert_eq!(world.delivered(1, 0, Class::Lock).len(), 1);
}

/// E3: an absurd stamp is not believed, and its datagram is dropped and counted.
#[test]
fn e3_an_absurd_stamp_is_dropped_and_counted() {
    struct Liar(bool);
    impl Clock for Liar {
        fn reading(&mut self, _: NodeId) -> Reading {
            Reading::bare(Stamp(if self.0 { Stamp::MAX.0 + 1 } else { 1 << 40 }))
        }
        fn hear(&mut self, _: NodeId, _: &Reading) -> Result<(), AbsurdStamp> {
            Ok(())
        }
    }
    let mut world = world(2, 6);
    world.send(0, 1, Class::Lock, b"said at an impossible time");
    let liar = &mut world.nodes[0];
    let mut packets = Vec::new();
    while let Some(output) = liar.circuits.poll_output(world.now, &mut Liar(true)) {
        if let oarlock_circuit::Output::Transmit(transmit) = output {
            packets.push(transmit.bytes);
        }
    }
    assert!(!packets.is_empty());
    packets.into_iter().for_each(|bytes| world.inject(address(0), 1, bytes));
    world.run_for(Duration::from_millis(5));
    let counters = world.nodes[1].circuits.counters().peers;
    assert_eq!((counters.absurd_stamps, counters.messages_received), (1, 0));
    assert!(world.nodes[1].clock.0 < 1 << 40);
    // The honest retransmission is.
    assert!(world.run_until(Duration::from_secs(2), World::quiet));
    assert_eq!(world.delivered(1, 0, Class::Lock).len(), 1);
}

/// L8: a cut of five seconds is one silence at each end; nothing is lost, nothing is delivered twice.
#[test]
fn l8_a_cut_of_five_seconds_is_one_silence_and_loses_nothing() {
    for seed in 0..10 {
        let mut world = world(2, seed);
        world.cut.extend([(0, 1), (1, 0)]);
        let sent = load(&mut world, seed, 40, 20_000);
        // Not always at the same distance from the next retransmission.
        world.run_for(Duration::from_millis(5000 + seed * 53));
        for node in 0..2 {
            assert_eq!(world.nodes[node].circuits.status(id(1 - node)).unwrap().state, State::Silent);
            assert_eq!(world.count(node, |e| *e == Event::Silent(id(1 - node))), 1);
        }
        world.cut.clear();
        let healed = world.ms();
        assert!(world.run_until(Duration::from_secs(5), World::quiet), "seed {seed}");
        // The next keepalive comes within a period, and then nothing waits for a long timer.
        assert!(world.ms() - healed < 200, "took {} ms", world.ms() - healed);
        check_delivered(&world, &sent);
        world.run_for(Duration::from_secs(1));
        for node in 0..2 {
            assert_eq!(world.count(node, |e| *e == Event::Silent(id(1 - node))), 1);
            assert_eq!(world.count(node, |e| *e == Event::Heard(id(1 - node))), 1);
            assert_eq!(world.count(node, |e| matches!(e, Event::Down(..))), 0);
            assert_eq!(world.nodes[node].circuits.status(id(1 - node)).unwrap().state, State::Up);
        }
    }
}

/// A8: with the path dead in one direction only, both ends report the silence, once each, in time, whoever has
/// something to say; and when it is over both report that.
#[test]
fn a8_both_ends_learn_of_a_path_that_is_dead_in_one_direction() {
    for talkers in [&[][..], &[0], &[1], &[0, 1]] {
        let mut world = world(2, 8);
        let talk = |world: &mut World, turns| {
            for _ in 0..turns {
                for &node in talkers {
                    world.send(node, 1 - node, Class::Lock, b"are you there?");
                }
                world.run_for(Duration::from_millis(10));
            }
        };
        world.cut.insert((0, 1));
        let start = world.ms();
        talk(&mut world, 400);
        for node in 0..2 {
            let at = world.nodes[node].events.iter().find(|(_, e)| *e == Event::Silent(id(1 - node)));
            let after = at.expect("a silence is reported").0 - start;
            assert!(after <= 100 * (10 + 1) + 10, "node {node} after {after} ms, {talkers:?} talk");
            assert_eq!(world.count(node, |e| matches!(e, Event::Silent(_))), 1);
            assert_eq!(world.count(node, |e| matches!(e, Event::Heard(_))), 0);
        }
        world.cut.clear();
        talk(&mut world, 50);
        for node in 0..2 {
            let heard = world.count(node, |e| matches!(e, Event::Heard(_)));
            assert_eq!(heard, 1, "node {node} within half a second, {talkers:?} talk");
        }
        assert!(world.run_until(Duration::from_secs(3), World::quiet));
    }
}

/// A node that is paused and goes on does not take its own pause for a silence of the others.
#[test]
fn a_pause_of_our_own_is_no_silence_of_the_peer() {
    let mut world = world(2, 9);
    // Nobody is scheduled for 20 s: time jumps, then everything happens late.
    world.now += Duration::from_secs(20);
    world.run_for(Duration::from_secs(1));
    for node in 0..2 {
        assert_eq!(world.count(node, |e| matches!(e, Event::Silent(_))), 0);
    }
}

/// E5: what the clock reads can be told at once, with nothing else to say, and it is one datagram.
#[test]
fn e5_a_reading_is_told_at_once_when_somebody_waits_for_it() {
    let mut world = world(2, 12);
    world.run_for(Duration::from_millis(30));
    let sent = |world: &World| world.nodes[0].circuits.counters().peers.datagrams_sent;
    let before = sent(&world);
    world.nodes[0].clock.0 += 1_000_000;
    world.nodes[0].circuits.say_something(NodeId(1));
    world.run_for(Duration::from_millis(5));
    assert_eq!((sent(&world) - before, world.nodes[1].clock.0 > 1_000_000), (1, true));
}
