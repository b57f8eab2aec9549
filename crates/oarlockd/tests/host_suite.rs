//! One suite for the kernel and for what stands in for it.
//!
//! A simulated cluster says something about a real one only as far as the simulator's network, clocks, disks and
//! sockets behave as the daemon's do. So both are held to the same claims: functions over a small trait that each
//! world implements. What only one of them can show (a file half written, a fault) stands in tests of its own.
//!
//! A claim that cannot fail says nothing; so each has failed before a world with a fault, and does so again in
//! every run of `each_claim_notices_a_fault`.

mod suite;

use suite::{chance, clock, datagrams, disk, each_fault_is_noticed, hold, seal, sessions};

/// Seeds of simulated worlds.
const SEEDS: std::ops::Range<u64> = 0..5;

#[test]
fn datagrams_are_carried_alike() {
    for offload in [[true; 3], [false; 3], [true, false, true], [false, true, false]] {
        let world = format!("kernel, offload {offload:?}");
        hold(&world, &datagrams::claims(), || datagrams::Kernel::new(offload));
    }
    for seed in SEEDS {
        hold(&format!("seed {seed}"), &datagrams::claims(), || datagrams::Simulated::new(seed));
    }
}

#[test]
fn clocks_and_timers_go_alike() {
    hold("kernel", &clock::claims(), clock::Kernel::new);
    for seed in SEEDS {
        hold(&format!("seed {seed}"), &clock::claims(), || clock::Simulated::new(seed));
    }
}

#[test]
fn the_daemons_clock_goes_on_while_the_machine_sleeps() {
    clock::Kernel::check_boottime();
}

#[test]
fn disks_keep_alike() {
    hold("kernel", &disk::claims(), disk::Kernel::new);
    for seed in SEEDS {
        hold(&format!("seed {seed}"), &disk::claims(), || disk::Simulated::new(seed));
    }
}

#[test]
fn half_a_store_is_never_read() {
    disk::Kernel::check_half_written();
    disk::Kernel::check_every_moment();
}

#[test]
fn sessions_speak_alike() {
    hold("kernel", &sessions::claims(), sessions::Kernel::new);
    for seed in SEEDS {
        hold(&format!("seed {seed}"), &sessions::claims(), || sessions::Simulated::new(seed));
    }
}

#[test]
fn what_a_real_node_said_before_its_end_is_heard() {
    sessions::Kernel::check_last_replies();
}

#[test]
fn seals_close_alike() {
    for aes in [[true; 3], [true, false, true], [false; 3]] {
        hold(&format!("kernel, AES {aes:?}"), &seal::claims(), || seal::Kernel::new(aes));
    }
    for seed in SEEDS {
        hold(&format!("seed {seed}"), &seal::claims(), || seal::Simulated::new(seed));
    }
}

#[test]
fn chance_is_chance_where_it_must_be() {
    hold("kernel", &chance::claims(), || chance::Kernel);
    for seed in SEEDS {
        hold(&format!("seed {seed}"), &chance::claims(), || chance::Simulated(seed));
    }
    // A daemon with the simulator's dice.
    let repeated =
        suite::holds(&chance::claims(), "a_run_is_or_is_not_like_the_one_before", &mut chance::Seeded);
    assert!(!repeated);
}

#[test]
fn each_claim_notices_a_fault() {
    each_fault_is_noticed(datagrams::FAULTS, &datagrams::claims(), datagrams::Faulty::new);
    each_fault_is_noticed(clock::FAULTS, &clock::claims(), clock::Faulty::new);
    each_fault_is_noticed(disk::FAULTS, &disk::claims(), disk::Faulty::new);
    each_fault_is_noticed(sessions::FAULTS, &sessions::claims(), sessions::Faulty::new);
    each_fault_is_noticed(seal::FAULTS, &seal::claims(), seal::Faulty::new);
    each_fault_is_noticed(chance::FAULTS, &chance::claims(), chance::Faulty::new);
}

/// No test of its own: the suite starts this program again for what needs another process.
#[test]
fn another_process_plays_its_part() {
    suite::child::play();
}
