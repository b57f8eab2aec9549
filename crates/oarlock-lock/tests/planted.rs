//! Each planted bug breaks a rule that the explorer checks without knowing of it.
//!
//! `cargo test -p oarlock-lock --features planted --test planted -- --nocapture` prints the table of
//! `docs/testing.md`: which exploration notices, and what it says.

#[path = "explore/mod.rs"]
mod explore;

use explore::menu::Menu;
use explore::search::{self, Broken};
use explore::sets;
use explore::views::Plan;
use oarlock_layout::flags::Flags;
use oarlock_layout::mode::Mode::{CR, CW, EX, NL, PR, PW};
use oarlock_lock::planted::Bug;

/// Small spaces, one per kind of rule. None of them is made for one bug: each bug is looked for in all of them,
/// in this order, until somebody notices. In the last ones views change.
fn menus() -> Vec<Menu> {
    let v = Flags::VALBLK;
    let none = Flags::empty();
    let of = |name: &str, actions| Menu::new(name, 2, 1, actions).at(&[0, 1]).modes(&[PR, EX]).uncancelled();
    vec![
        Menu::new("two shadows", 2, 1, 4).modes(&[NL, PR, EX]),
        Menu::new("tries", 2, 1, 4).only(&[(PR, none), (EX, Flags::NOQUEUE)], &[(EX, none)]),
        Menu::new("forgetting", 2, 1, 4).modes(&[NL, EX]).forgets(),
        Menu::new("six modes", 2, 1, 4).modes(&[CR, CW, PR]),
        Menu::new("two programs each", 2, 2, 4).modes(&[NL, PR, EX]),
        Menu::new("a full table", 2, 1, 4).modes(&[EX]).pressed(),
        Menu::new("values", 2, 1, 4).only(&[(CR, v), (PW, v), (EX, v)], &[(CR, v)]).writes(),
        Menu::new("values that cross", 2, 1, 4)
            .at(&[0, 0, 1])
            .only(&[(NL, v | Flags::FRESH), (EX, v)], &[])
            .writes(),
        Menu::new("callers in between", 2, 1, 4).modes(&[NL, PR]).forgets().intruded(),
        of("a shadow's node dies", 3).through(Plan::of(&[0, 1, 2], 2).then(&[1], &[], 2)),
        of("the master's node dies", 3).through(Plan::of(&[0, 1, 2], 2).then(&[2], &[], 1)),
        of("a node joins", 3).through(Plan::of(&[0, 1], 1).then(&[], &[2], 2)),
        sets::blocks("blocks: a shadow's node dies", 3, 3).through(Plan::of(&[0, 1, 2], 2).then(
            &[1],
            &[],
            2,
        )),
        sets::blocks("blocks: the master's node dies", 3, 3).through(Plan::of(&[0, 1, 2], 2).then(
            &[2],
            &[],
            1,
        )),
        sets::blocks("blocks: writer and master die, one comes back", 4, 3)
            .through(Plan::of(&[0, 1, 2, 3], 2).then(&[1, 2], &[], 3).then(&[], &[1], 1).briskly()),
        sets::forgotten("blocks: forgotten, then a node joins", 3)
            .through(Plan::of(&[0, 1], 1).then(&[], &[2], 2).briskly()),
        sets::forgotten("blocks: forgotten, then two join", 4)
            .through(Plan::of(&[0, 1], 1).then(&[], &[2], 2).then(&[], &[3], 3).briskly()),
    ]
}

/// So many states of each space are looked at, which is enough for nearly all; and so many of the last spaces, in which
/// much happens before a rule matters.
const SHALLOW: usize = 20_000;
const DEEP: usize = 900_000;
const DEEP_SPACES: usize = 2;

/// The first exploration that notices `plant`, and how.
fn caught(plant: impl Fn(Menu) -> Menu) -> Option<(String, Broken)> {
    std::panic::set_hook(Box::new(|_| {}));
    let (all, last) = (menus(), menus().into_iter().rev().take(DEEP_SPACES));
    let searches = all.into_iter().map(|menu| (menu, SHALLOW)).chain(last.map(|menu| (menu, DEEP)));
    searches.into_iter().find_map(|(menu, limit)| {
        let menu = plant(menu);
        let broken = search::explore(&menu, limit).broken?;
        Some((menu.name.clone(), broken))
    })
}

#[test]
fn every_planted_bug_is_caught_by_a_general_check() {
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        match caught(|menu| menu.with(bug)) {
            Some((menu, broken)) => {
                println!("| {bug:?} | {menu} | {} steps: {} |", broken.steps.len(), broken.fault)
            }
            None => missed.push(bug),
        }
    }
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "nobody noticed {missed:?}");
}

/// Row "either channel reorders" of 3.9: the bug is not in the room but below it.
#[test]
fn a_channel_that_reorders_is_noticed() {
    let found = caught(Menu::reordered);
    let _ = std::panic::take_hook();
    let (menu, broken) = found.expect("somebody notices");
    println!("| a channel reorders | {menu} | {} |", broken.fault);
}

/// The same spaces without a bug: what the checks say above is the bug's doing. Here the two objects (3.1), the
/// rules of shadow (3.4) and master (3.6), every crossing of their messages (3.7), counts that callers change
/// in between (M8) and views that change (L11) hold together.
#[test]
fn nothing_is_noticed_where_nothing_is_planted() {
    if let Some((menu, broken)) = caught(|menu| menu) {
        panic!("{menu}: {}", broken.fault);
    }
    assert!(!sets::quick().is_empty());
}
