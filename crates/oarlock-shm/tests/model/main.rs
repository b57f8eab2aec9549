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

fn look_through(spaces: Vec<Space>) {
    let mut failures = String::new();
    println!(
        "| {:34} | {:>10} | {:>11} | {:>5} | {:>7} |",
        "space", "states", "transitions", "depth", "seconds"
    );
    for space in spaces {
        let found = search(&space, usize::MAX);
        println!("{}", row(&space, &found));
        if let Some(broken) = &found.broken {
            failures += &format!("{}\n{}\n", broken.rule, tell(&space, &broken.acts));
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn small_spaces_hold() {
    look_through(spaces::small());
}

#[test]
#[ignore = "takes minutes"]
fn large_spaces_hold() {
    look_through(spaces::large());
}

#[test]
#[ignore = "takes minutes"]
fn every_slip_in_every_small_space() {
    let wanted = std::env::var("SLIP").unwrap_or_default();
    for slip in Slip::ALL.into_iter().filter(|slip| format!("{slip:?}").contains(&wanted)) {
        for space in spaces::small() {
            let space = Space { slip: Some(slip), ..space };
            let found = std::panic::catch_unwind(|| search(&space, 1_000_000));
            let Ok(found) = found else {
                println!("{slip:?} {} panics", space.name);
                continue;
            };
            if let Some(broken) = found.broken {
                println!("{slip:?} {} {} {} {}", space.name, found.depth, found.states, broken.rule);
            }
        }
    }
}
