//! A model of the protocol of the segment, looked through to the last state.
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

fn look_through(spaces: Vec<Space>, states_max: usize) {
    let mut failures = String::new();
    println!(
        "| {:34} | {:>10} | {:>11} | {:>5} | {:>7} |",
        "space", "states", "transitions", "depth", "seconds"
    );
    for space in spaces {
        let found = search(&space, states_max);
        println!("{}", row(&space, &found));
        if let Some(broken) = &found.broken {
            failures += &format!("{}\n{}\n", broken.rule, tell(&space, &broken.acts));
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
    look_through(spaces::large(), 60_000_000);
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

/// For whoever changes the spaces: which of them misses what, and how soon.
#[test]
#[ignore = "takes minutes"]
fn every_rule_in_every_small_space() {
    for (slip, _) in Slip::ALL {
        for space in spaces::small() {
            let found = search(&Space { slip: Some(slip), ..space.clone() }, usize::MAX);
            if let Some(broken) = found.broken {
                println!("{} {:?} {} {}", slip.name(), space.name, found.depth, broken.rule);
            }
        }
    }
}
