//! Each planted bug breaks a rule that the explorer checks without knowing of it.
//!
//! `cargo test -p oarlock-lock --features planted --test planted -- --nocapture` prints the table of
//! `docs/testing.md`: which exploration notices, and what it says.

#[path = "explore/mod.rs"]
mod explore;

use explore::aside;
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
    let three = || Plan::of(&[0, 1, 2], 2);
    let four = |name: &str| Menu::new(name, 3, 1, 2).at(&[0, 1]).modes(&[PR, EX]).uncancelled();
    vec![
        Menu::new("two shadows", 2, 1, 4).modes(&[NL, PR, EX]),
        Menu::new("tries", 2, 1, 4).only(&[(PR, none), (EX, Flags::NOQUEUE)], &[(EX, none)]),
        Menu::new("forgetting", 2, 1, 4).modes(&[NL, EX]).forgets(),
        Menu::new("six modes", 2, 1, 4).modes(&[CR, CW, PR]),
        Menu::new("hints", 2, 1, 4).only(&[(PR, Flags::LIKELYEX)], &[(EX, none)]),
        Menu::new("two programs each", 2, 2, 4).modes(&[NL, PR, EX]),
        Menu::new("a full table", 2, 1, 4).modes(&[EX]).pressed(),
        Menu::new("values", 2, 1, 4).only(&[(CR, v), (PW, v), (EX, v)], &[(CR, v)]).writes(),
        Menu::new("values that cross", 2, 1, 4)
            .at(&[0, 0, 1])
            .only(&[(NL, v | Flags::FRESH), (EX, v)], &[])
            .writes(),
        Menu::new("callers in between", 2, 1, 4).modes(&[NL, PR]).forgets().intruded(),
        of("a shadow's node dies", 3).through(three().then(&[1], &[], 2)),
        of("the master's node dies", 3).through(three().then(&[2], &[], 1)),
        of("a node joins", 3).through(Plan::of(&[0, 1], 1).then(&[], &[2], 2)),
        of("fences: a shadow's node dies", 2).through(three().then(&[1], &[], 2).with_fences()),
        four("fences: a shadow's and the master's node die")
            .through(Plan::of(&[0, 1, 2, 3], 3).then(&[1, 3], &[], 2).briskly().with_fences()),
        four("fences: a master joins, a shadow's node dies")
            .through(three().then(&[], &[3], 3).then(&[1], &[], 3).briskly().with_fences()),
        sets::blocks("blocks: a shadow's node dies", 3, 3).through(three().then(&[1], &[], 2)),
        sets::blocks("blocks: the master's node dies", 3, 3).through(three().then(&[2], &[], 1)),
        sets::blocks("blocks: writer and master die, one comes back", 4, 3)
            .through(Plan::of(&[0, 1, 2, 3], 2).then(&[1, 2], &[], 3).then(&[], &[1], 1).briskly()),
        sets::blocks("blocks: a shadow's node is back at once", 3, 3)
            .through(three().then(&[1], &[1], 2).briskly()),
        sets::blocks("blocks: the writer is the master, dies and comes back", 3, 3)
            .through(Plan::of(&[0, 1, 2], 1).then(&[1], &[], 2).then(&[], &[1], 1).in_pieces().briskly()),
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
const DEEP_SPACES: usize = 3;

/// The first exploration that notices `plant`, and how.
fn caught(plant: impl Fn(Menu) -> Menu) -> Option<(String, Broken)> {
    std::panic::set_hook(Box::new(|_| {}));
    let all = menus();
    let last = all[all.len() - DEEP_SPACES..].to_vec();
    let searches =
        all.into_iter().map(|menu| (menu, SHALLOW)).chain(last.into_iter().map(|menu| (menu, DEEP)));
    searches.into_iter().find_map(|(menu, limit)| {
        let menu = plant(menu);
        let broken = search::explore(&menu, limit).broken?;
        Some((menu.name.clone(), broken))
    })
}

/// Which exploration notices, and what it says: an exploration that stumbles over something else has not seen the rule.
const SEEN: &[(Bug, &str, &str)] = &[
    (Bug::NoSequenceCheck, "two shadows", "its master believes None"),
    (Bug::StaleLowers, "two shadows", "its master believes None"),
    (Bug::DropUnwantedGrant, "two shadows", "the master believes"),
    (Bug::KeepTold, "two shadows", "the master believes"),
    (Bug::OwnHeldBlocks, "two shadows", "nobody is in its way"),
    (Bug::KeepRetained, "two shadows", "nobody is in its way"),
    (Bug::LoseStaleValue, "values that cross", "but the newest was one of"),
    (Bug::ReadUnderCr, "values", "but the newest was one of"),
    (Bug::SerialPerResource, "a full table", "EX is granted with token"),
    (Bug::ForgetHeadGone, "two shadows", "knows of the head"),
    (Bug::CancelAndGrant, "two shadows", "is granted PR and asks nothing"),
    (Bug::NlWithoutRecord, "two shadows", "a owns NL, its master believes None"),
    (Bug::NoNotice, "two shadows", "was told of None"),
    (Bug::HeadFirst, "two shadows", "does not come to rest"),
    (Bug::PlayBall, "two programs each", "does not come to rest"),
    (Bug::KeepForAll, "values that cross", "nobody is in its way"),
    (Bug::KeepIncomparable, "six modes", "wants a mode that does not cover it"),
    (Bug::TryByRetention, "tries", "is told Busy, which is not so"),
    (Bug::StaleForget, "forgetting", "owns NL, its master believes None"),
    (Bug::ForgetUncounted, "callers in between", "is disowned with locks held"),
    (Bug::SilentUse, "values", "uses the value block and the master does not know"),
    (Bug::OldBlock, "values that cross", "but the newest was one of"),
    (Bug::NoDeadlock, "two shadows", "waits for itself"),
    (Bug::AnswerAlone, "values", "does not come to rest"),
    (Bug::StaleEpoch, "a shadow's node dies", "it has heard statement"),
    (Bug::KeepDeadWritersBlock, "blocks: a shadow's node dies", "the next to read is shown"),
    (Bug::ToldAlready, "a shadow's node dies", "nobody is in its way"),
    (Bug::TokenReset, "a shadow's node dies", "EX is granted with token"),
    (Bug::OldGrants, "a shadow's node dies", "it has heard statement"),
    (Bug::HalfBuilt, "a shadow's node dies", "it was granted None"),
    (Bug::HeirForgets, "blocks: writer and master die, one comes back", "the next to read is shown"),
    (Bug::LateHandover, "blocks: forgotten, then two join", "the next to read is shown"),
    (Bug::DepartedOnce, "blocks: the writer is the master, dies and comes back", "the next to read is shown"),
    (Bug::NlUnstated, "a shadow's node dies", "owns NL, its master believes None"),
    (Bug::MarkAlways, "a shadow's node dies", "the next to read is shown"),
    (Bug::OldTombstone, "blocks: forgotten, then a node joins", "owns NL, its master believes None"),
    (Bug::WriteUnheard, "blocks: forgotten, then a node joins", "the next to read is shown"),
    (Bug::ForgetAtOnce, "blocks: forgotten, then two join", "but the newest was one of"),
    (Bug::SpeaksEarly, "a shadow's node dies", "it speaks under view 2"),
    (Bug::RemainsForgotten, "fences: a shadow's node dies", "which left, may act under"),
    (Bug::LostForgotten, "fences: a shadow's and the master's node die", "which left, may act under"),
    (Bug::UnknownForgotten, "fences: a master joins, a shadow's node dies", "which left, may act under"),
    (Bug::AllUnknown, "fences: a shadow's node dies", "nobody is in its way"),
    (Bug::SameNode, "blocks: a shadow's node is back at once", "the next to read is shown"),
    (Bug::LikelyUnchecked, "hints", "beside Some(PR)"),
];

#[test]
fn every_planted_bug_is_caught_by_a_general_check() {
    let mut missed = Vec::new();
    let look = |bug: Bug| (bug, caught(|menu| menu.with(bug)));
    aside::side_by_side(Bug::ALL.to_vec(), look, |(bug, found)| {
        match found {
            Some((menu, broken)) => {
                let fault = broken.fault.to_string();
                println!("| {bug:?} | {menu} | {} steps: {fault} |", broken.steps.len());
                let as_known = match SEEN.iter().find(|(seen, ..)| *seen == bug) {
                    Some((_, by, says)) => *by == menu && fault.contains(says),
                    // What is not in the table yet: a panic may be anything.
                    None => !fault.starts_with("panic"),
                };
                if !as_known {
                    missed.push(format!("{bug:?}, but {menu}: {fault}"));
                }
            }
            None => missed.push(format!("{bug:?} at all")),
        }
        true
    });
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "nobody noticed {missed:#?}");
    // The table that people read names the same explorations.
    let page = include_str!("../../../docs/testing.md");
    for (bug, by, _) in SEEN {
        assert!(page.contains(&format!("| {by} |")), "{bug:?}: docs/testing.md has no row with {by:?}");
    }
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
