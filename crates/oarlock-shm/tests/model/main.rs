//! A model of the protocol of the segment, looked through to the last state.
//!
//! ```text
//!   callers (step, convert) ──┐                       ┌── check: in every state, and at rest
//!                             ├─► world (state) ──────┤
//!   the node (daemon, room,   │   one slot, one       └── search: nearest first, to the end
//!   entries, recount) ────────┘   entry a process
//! ```
//!
//! It is written by hand after `caller.rs` and `hub/*.rs`, a step for each atomic access, and knows their words
//! (`Grant`, `State`) but none of their code. Whoever changes the one changes the other.
//!
//! What is looked through: `spaces`. Memory is sequentially consistent; other orders are for a checker that knows them.
//! Worlds that are known are kept as fingerprints of 128 bits: two worlds with one fingerprint would hide each other.
//!
//! ```text
//! cargo test -p oarlock-shm --test model -- --nocapture                          small spaces, and each rule left out
//! cargo test --release -p oarlock-shm --test model -- --ignored --nocapture large    large spaces: minutes
//! MODEL_SPACE=hand-over cargo test ...                                           only spaces with that in their name
//! ```
#![cfg(not(any(loom, shuttle)))]
#![allow(unreachable_pub, reason = "a test has no outside")]

mod check;
mod convert;
mod daemon;
mod entries;
mod recount;
mod room;
mod search;
mod spaces;
mod state;
mod step;

use search::{Found, search, tell};
use spaces::{Slip, Space};

fn row(space: &Space, found: &Found) -> String {
    let cut = if found.cut { "  CUT: not all was looked at" } else { "" };
    let broken = found.broken.as_ref().map_or(String::new(), |broken| format!("  BROKEN: {}", broken.rule));
    format!(
        "| {:34} | {:>10} | {:>11} | {:>5} | {:>7.1} |{cut}{broken}",
        space.name,
        found.states,
        found.transitions,
        found.depth,
        found.time.as_secs_f64()
    )
}

/// More states than this are not kept in memory.
const STATES_MAX: usize = 60_000_000;

/// `MODEL_SPACE`: only spaces with this in their name.
fn chosen(mut spaces: Vec<Space>) -> Vec<Space> {
    let part = std::env::var("MODEL_SPACE").unwrap_or_default();
    spaces.retain(|space| space.name.contains(&part));
    spaces
}

fn look_through(spaces: Vec<Space>, states_max: usize) {
    let mut failures = String::new();
    println!(
        "| {:34} | {:>10} | {:>11} | {:>5} | {:>7} |",
        "space", "states", "transitions", "depth", "seconds"
    );
    for space in chosen(spaces) {
        let found = search(&space, states_max);
        println!("{}", row(&space, &found));
        if found.cut {
            failures += &format!("{}: not every state was looked at\n", space.name);
        }
        if let Some(broken) = &found.broken {
            println!("{}", tell(&space, &broken.acts));
            failures += &format!("{}: {}\n", space.name, broken.rule);
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn small_spaces_hold() {
    look_through(spaces::small(), usize::MAX);
}

#[test]
#[ignore = "takes minutes"]
fn large_spaces_hold() {
    look_through(spaces::large(), STATES_MAX);
}

#[test]
fn every_rule_is_missed() {
    let spaces = spaces::small();
    let mut unmissed = String::new();
    println!("| {:20} | {:30} | {:>5} | what broke |", "left out", "space", "depth");
    for (slip, name) in Slip::ALL {
        let space = spaces.iter().find(|space| space.name == name).expect("a small space");
        let found = search(&Space { slip: Some(slip), ..space.clone() }, usize::MAX);
        match found.broken {
            Some(broken) => {
                println!("| {:20} | {name:30} | {:5} | {} |", slip.name(), found.depth, broken.rule)
            }
            None => unmissed += &format!("{slip:?} in {name}\n"),
        }
    }
    assert!(unmissed.is_empty(), "not missed:\n{unmissed}");
}
