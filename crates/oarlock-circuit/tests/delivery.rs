//! What a circuit promises about messages, on a network that keeps none of its own promises.

use std::time::Duration;

use oarlock_circuit::{Class, Options, PeerCounters, State};
use oarlock_layout::limit::NODES_MAX;

mod net;

use net::*;

/// How many seeds to try; `OARLOCK_SEEDS` asks for more than the usual few.
fn seeds(usual: u64) -> u64 {
    std::env::var("OARLOCK_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

fn world(nodes: usize, seed: u64) -> World {
    World::new(nodes, seed, Options::default(), checksum_seals())
}

/// A5, A9: the delivered sequence of every circuit and class is byte for byte that of the clean run.
#[test]
fn a5_a9_a_bad_network_delivers_exactly_what_a_clean_one_does() {
    let mut counters = PeerCounters::default();
    for seed in 0..seeds(40) {
        let mut clean = world(3, seed);
        clean.open();
        let sent = load(&mut clean, seed, 60, 30_000);
        assert!(clean.run_until(Duration::from_secs(60), World::quiet));
        check_delivered(&clean, &sent);

        let mut bad = world(3, seed);
        bad.faults = BAD;
        bad.open();
        let same = load(&mut bad, seed, 60, 30_000);
        assert!(same == sent, "the load does not depend on the network");
        assert!(bad.run_until(Duration::from_secs(600), World::quiet), "seed {seed} does not finish");
        for node in 0..3 {
            assert_eq!(bad.nodes[node].delivered, clean.nodes[node].delivered, "seed {seed} node {node}");
        }
        bad.nodes.iter().for_each(|node| counters += node.circuits.counters().peers);
    }
    assert!(counters.resent > 0 && counters.duplicates > 0, "{counters:?}");
    assert!(counters.bad_tag > 0 && counters.replayed > 0, "{counters:?}");
    assert_eq!((counters.violations, counters.circuit_down), (0, 0));
}

/// A1: circuits between all pairs, opened by both ends at once, are one circuit each.
#[test]
fn a1_both_ends_open_at_once_and_there_is_one_circuit_per_pair() {
    for seed in 0..50 {
        let mut world = world(4, seed);
        world.faults = if seed % 2 == 0 { CLEAN } else { BAD };
        world.open();
        world.run_for(Duration::from_secs(5));
        for node in 0..4 {
            assert_eq!(world.count(node, |e| matches!(e, Event::Up(..))), 3);
            assert_eq!(world.count(node, |e| matches!(e, Event::Down(..))), 0);
        }
    }
}

/// A1: as many nodes as a cluster may have, all started at once: 2,016 circuits. More hellos come in a second
/// than are read without a cookie, and all get in within seconds.
#[test]
fn a1_the_largest_cluster_opens_every_circuit() {
    let mut world = world(NODES_MAX, 1);
    let start = world.ms();
    while !world.all_up() {
        assert!(world.ms() - start < 5000, "not open after {} ms", world.ms() - start);
        world.run_for(Duration::from_millis(100));
    }
    let cookies: u64 = world.nodes.iter().map(|n| n.circuits.counters().door.cookies_sent).sum();
    assert!(cookies > 0, "the door was never too busy");
    for node in 0..NODES_MAX {
        assert_eq!(world.count(node, |e| matches!(e, Event::Up(..))), NODES_MAX - 1);
    }
    world.send(0, NODES_MAX - 1, Class::Lock, b"from the first to the last");
    world.run_for(Duration::from_millis(1));
    assert_eq!(world.delivered(NODES_MAX - 1, 0, Class::Lock).len(), 1);
}

/// The largest message passes in both classes; one byte more is refused at the edge.
#[test]
fn a_message_of_a_mebibyte_passes_and_a_longer_one_is_refused() {
    let mut world = world(2, 1);
    world.open();
    let message = Random::new(5).bytes(1 << 20);
    for class in Class::ALL {
        world.send(0, 1, class, &message);
    }
    assert!(world.run_until(Duration::from_secs(10), World::quiet));
    for class in Class::ALL {
        assert!(world.delivered(1, 0, class) == [message.clone()]);
    }
    let long = vec![0; (1 << 20) + 1];
    let refused = world.nodes[0].circuits.send(world.now, id(1), Class::Bulk, &long);
    assert_eq!(refused, Err(oarlock_circuit::SendError::TooLong(long.len())));
}

/// Everything at once: a bad network, nodes that restart, links that are cut and healed, keys that change, load
/// throughout. Between two runs nothing is lost while both live; over a restart nothing is delivered twice or
/// out of order, and what is unknown is said to be.
#[test]
fn a10_l3_restarts_and_cuts_in_the_middle_of_everything_keep_order() {
    for seed in 0..seeds(30) {
        let options = Options {
            rekey_after: Duration::from_millis(700),
            reject_after: Duration::from_millis(2500),
            ..Options::default()
        };
        let mut world = World::new(3, seed, options, checksum_seals());
        world.faults = BAD;
        world.open();
        let mut random = Random::new(seed + 1);
        let mut incarnations = [1u64; 3];
        let mut number = 0u64;
        // Messages are numbered, so a receiver sees order and repetition.
        for _ in 0..12 {
            match random.below(4) {
                0 => {
                    let node = random.below(3) as usize;
                    incarnations[node] += 1;
                    world.restart(node, incarnations[node], seed);
                }
                1 => {
                    let (a, b) = (random.below(3) as usize, random.below(3) as usize);
                    world.cut.insert((a, b));
                }
                2 => world.cut.clear(),
                _ => {}
            }
            for _ in 0..40 {
                let (from, to) = (random.below(3) as usize, random.below(3) as usize);
                number += 1;
                let mut message = number.to_le_bytes().to_vec();
                message.resize(8 + random.below(3000) as usize, number as u8);
                let class = Class::ALL[random.below(Class::COUNT as u64) as usize];
                // Before there is a circuit the sender is told so.
                let _ = world.nodes[from].circuits.send(world.now, id(to), class, &message);
                world.run_for(Duration::from_micros(random.below(20_000)));
            }
        }
        world.cut.clear();
        assert!(world.run_until(Duration::from_secs(60), |w| w.quiet() && w.all_up()), "seed {seed}");
        // A handshake takes four attempts on average through such a network, and there is one a second.
        let up = world.run_until(Duration::from_secs(20), |w| {
            (0..9).filter(|n| n / 3 != n % 3).all(|n| {
                w.nodes[n / 3].circuits.status(id(n % 3)).is_some_and(|status| status.state == State::Up)
            })
        });
        assert!(up, "seed {seed}: a silence does not end");
        for node in 0..3 {
            for (from, messages) in &world.nodes[node].delivered {
                let numbers: Vec<u64> =
                    messages.iter().map(|m| u64::from_le_bytes(m[..8].try_into().unwrap())).collect();
                assert!(numbers.is_sorted_by(|a, b| a < b), "seed {seed}: {node} from {from:?}: {numbers:?}");
                let whole = messages.iter().all(|m| m[8..].iter().all(|&byte| byte == m[0]));
                assert!(whole, "seed {seed}: a message is not what it was");
            }
            for peer in (0..3).filter(|&peer| peer != node) {
                let status = world.nodes[node].circuits.status(id(peer)).unwrap();
                assert_eq!(status.incarnation.unwrap().0, incarnations[peer], "seed {seed}");
                assert_eq!(status.counters.violations, 0, "seed {seed}");
            }
        }
    }
}
