//! Who is stuck: by name, and against a twin that plays what would happen.

mod table;

use std::collections::BTreeSet;

use oarlock_deadlock::Graph;
use oarlock_layout::mode::Mode;
use proptest::prelude::*;

use table::{Table, hold, names, wait};

/// The names of each knot's waits, and the victim's.
fn knots(table: &Table) -> Vec<(Vec<String>, String)> {
    let mut graph = Graph::new();
    table.sights().into_iter().for_each(|(node, sight)| graph.add(node, sight));
    let knots = graph.knots();
    for knot in &knots {
        // What the circle tells is true, link by link.
        for (at, link) in knot.cycle.iter().enumerate() {
            let next = &knot.cycle[(at + 1) % knot.cycle.len()];
            assert!(table.is_behind(link, next), "{link:?} does not wait for {next:?}");
        }
        assert_eq!(knot.cycle[0].party.lock, knot.victim().lock);
    }
    knots.iter().map(|knot| (names(table, &knot.waits), names(table, &[knot.victim()]).remove(0))).collect()
}

fn one(of: &[&str], victim: &str) -> Vec<(Vec<String>, String)> {
    vec![(of.iter().map(ToString::to_string).collect(), victim.into())]
}

/// D7 and D1: each holds what the other waits for, at nodes of their own.
#[test]
fn two_that_wait_for_each_other_are_a_knot_and_the_younger_is_its_victim() {
    let mut table = Table::new(false);
    table.put("a", [hold(0, "ann", Mode::EX), wait(1, "bob", Mode::EX, 10)]);
    table.put("b", [hold(1, "bob", Mode::EX), wait(0, "ann", Mode::EX, 20)]);
    assert_eq!(knots(&table), one(&["bob", "ann"], "ann"));
    // Who holds, and does not wait, will give back.
    let mut table = Table::new(false);
    table.put("a", [hold(0, "ann", Mode::EX), wait(1, "bob", Mode::EX, 10)]);
    table.put("b", [hold(1, "bob", Mode::EX)]);
    assert_eq!(knots(&table), []);
}

/// C18: over three nodes.
#[test]
fn three_in_a_circle_are_one_knot() {
    let mut table = Table::new(false);
    table.put("a", [hold(0, "ann", Mode::EX), wait(2, "cid", Mode::PR, 7)]);
    table.put("b", [hold(1, "bob", Mode::PR), wait(0, "ann", Mode::EX, 9)]);
    table.put("c", [hold(2, "cid", Mode::PW), wait(1, "bob", Mode::PW, 8)]);
    assert_eq!(knots(&table), one(&["cid", "bob", "ann"], "ann"));
}

/// D3: ann's PR does not fit beside nobody's mode; it waits for its place behind bob.
#[test]
fn a_place_in_the_queue_is_waited_for() {
    for strict in [true, false] {
        let mut table = Table::new(strict);
        table.put("r", [hold(0, "ann", Mode::PR), wait(1, "bob", Mode::EX, 1), wait(2, "cid", Mode::PR, 2)]);
        table.put("x", [hold(2, "cid", Mode::EX), wait(0, "ann", Mode::EX, 3)]);
        assert_eq!(knots(&table), one(&["bob", "cid", "ann"], "ann"), "strict: {strict}");
    }
}

/// D3: also behind many who pass the queue.
#[test]
fn who_is_far_behind_a_stuck_wait_is_stuck() {
    const PASS: &[&str] =
        &["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q"];
    for many in [1, PASS.len()] {
        let mut table = Table::new(true);
        let first = [hold(0, "ann", Mode::CR), hold(0, "fred", Mode::PR)];
        let waits = [wait(1, "zed", Mode::CW, 1), wait(1, "bob", Mode::EX, 2)];
        let between = PASS[..many].iter().map(|who| wait(1, who, Mode::CR, 3));
        table.put("r", first.into_iter().chain(waits).chain(between).chain([wait(1, "cid", Mode::CR, 4)]));
        table.put("x", [hold(1, "cid", Mode::EX), wait(0, "ann", Mode::EX, 5)]);
        let mut graph = Graph::new();
        for (node, mut sight) in table.sights() {
            sight.waits.iter_mut().for_each(|it| it.passes = PASS.contains(&it.party.label.as_str()));
            graph.add(node, sight);
        }
        assert_eq!(graph.knots().len(), 1, "with {many} in between");
    }
}

/// What stands in the master's queue for a node may be a try of it, which is answered whatever others do.
#[test]
fn nobody_waits_for_a_place_behind_a_question() {
    let mut table = Table::new(true);
    table.put("r", [hold(0, "ann", Mode::PR), wait(1, "bob", Mode::EX, 1), wait(2, "cid", Mode::PR, 2)]);
    table.put("x", [hold(2, "cid", Mode::EX), wait(0, "ann", Mode::EX, 3)]);
    assert_eq!(knots(&table).len(), 1);
    table.asks.insert(1);
    assert_eq!(knots(&table), []);
}

/// C10: where entries pass each other the first of all must be granted before anybody is looked at.
#[test]
fn in_passover_order_the_first_keeps_all_waiting() {
    let mut table = Table::new(false);
    table.put("r", [hold(0, "ann", Mode::PR), wait(1, "bob", Mode::EX, 1), wait(1, "cid", Mode::PR, 2)]);
    table.put("x", [hold(2, "cid", Mode::EX), wait(0, "ann", Mode::EX, 3)]);
    assert_eq!(knots(&table), one(&["bob", "cid", "ann"], "ann"));
    // The second does not: it may be passed.
    table.put(
        "r",
        [
            hold(0, "dan", Mode::PR),
            hold(0, "ann", Mode::PR),
            wait(1, "eve", Mode::PW, 0),
            wait(1, "bob", Mode::EX, 1),
            wait(1, "cid", Mode::PR, 2),
        ],
    );
    table.put("y", [hold(3, "eve", Mode::EX), wait(0, "dan", Mode::EX, 4)]);
    assert_eq!(knots(&table).len(), 1);
    let mut table = Table::new(false);
    table.put(
        "r",
        [
            hold(0, "dan", Mode::CR),
            hold(0, "ann", Mode::CW),
            wait(1, "eve", Mode::PR, 0),
            wait(1, "bob", Mode::EX, 1),
            wait(1, "cid", Mode::CR, 2),
        ],
    );
    table.put("x", [hold(2, "cid", Mode::EX), wait(0, "dan", Mode::EX, 3)]);
    assert_eq!(knots(&table), []);
}

/// A lock that converts does not wait for what it holds itself; two of them wait for each other.
#[test]
fn a_convert_waits_for_the_others_only() {
    let mut table = Table::new(true);
    table.put(
        "r",
        [hold(0, "ann", Mode::PR), hold(0, "bob", Mode::PR), wait(0, "ann", Mode::EX, 1).converts(0)],
    );
    assert_eq!(knots(&table), []);
    table.put(
        "r",
        [
            hold(0, "ann", Mode::PR),
            hold(0, "bob", Mode::PR),
            wait(0, "ann", Mode::EX, 1).converts(0),
            wait(0, "bob", Mode::EX, 2).converts(1),
        ],
    );
    assert_eq!(knots(&table), one(&["ann", "bob"], "bob"));
}

/// D4: somebody holds a mode that is in the way, and it is not the one who is on the circle.
#[test]
fn a_circle_over_a_mode_that_fits_is_none() {
    let mut table = Table::new(false);
    table.put("r", [hold(0, "ann", Mode::CR), hold(0, "bob", Mode::PR), wait(1, "cid", Mode::CW, 1)]);
    table.put("x", [hold(1, "cid", Mode::EX), wait(0, "ann", Mode::EX, 2)]);
    assert_eq!(knots(&table), []);
}

/// Scenario 56: locks wait for locks, also for those of the same owner.
#[test]
fn whoever_waits_for_itself_is_a_knot_of_one() {
    let mut table = Table::new(true);
    table.put("r", [hold(0, "ann", Mode::PR), wait(0, "ann", Mode::EX, 1)]);
    assert_eq!(knots(&table), one(&["ann"], "ann"));
}

/// An actor with two requests goes on with either.
#[test]
fn who_waits_for_something_else_as_well_is_not_stuck() {
    let mut table = Table::new(false);
    table.put("a", [hold(0, "ann", Mode::EX), wait(1, "bob", Mode::EX, 10)]);
    table.put("b", [hold(1, "bob", Mode::EX), wait(0, "ann", Mode::EX, 20)]);
    table.put("c", [hold(2, "cid", Mode::EX), wait(0, "ann", Mode::EX, 30)]);
    assert_eq!(knots(&table), []);
}

/// R8: a second choice that fits beside everybody who is stuck.
#[test]
fn a_second_choice_may_still_be_granted() {
    let mut table = Table::new(false);
    table.put("a", [hold(0, "ann", Mode::PR), wait(1, "bob", Mode::CW, 10).or(Mode::PR)]);
    table.put("b", [hold(1, "bob", Mode::EX), wait(0, "ann", Mode::EX, 20)]);
    assert_eq!(knots(&table), []);
    table.put("a", [hold(0, "ann", Mode::EX), wait(1, "bob", Mode::CW, 10).or(Mode::PR)]);
    assert_eq!(knots(&table), one(&["bob", "ann"], "ann"));
}

/// Of two answers each tells of whom it was asked about.
#[test]
fn who_stands_in_either_of_two_sights_waits() {
    let mut table = Table::new(true);
    table.put("a", [hold(0, "ann", Mode::EX), wait(1, "zed", Mode::EX, 1), wait(1, "bob", Mode::EX, 10)]);
    table.put("b", [hold(1, "bob", Mode::EX), wait(0, "ann", Mode::EX, 20)]);
    let mut graph = Graph::new();
    table.sights().into_iter().for_each(|(node, sight)| graph.add(node, sight));
    for (node, mut sight) in table.sights() {
        sight.waits.truncate(1);
        graph.add(node, sight);
    }
    assert_eq!(graph.knots().len(), 1);
    assert_eq!(graph.stuck().len(), 3);
}

/// NODLCKWT: its program says that it will resolve it.
#[test]
fn a_wait_that_is_excused_breaks_the_circle() {
    let mut table = Table::new(false);
    table.put("a", [hold(0, "ann", Mode::EX), wait(1, "bob", Mode::EX, 10).excused()]);
    table.put("b", [hold(1, "bob", Mode::EX), wait(0, "ann", Mode::EX, 20)]);
    assert_eq!(knots(&table), []);
}

fn modes() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::CR), Just(Mode::CW), Just(Mode::PR), Just(Mode::PW), Just(Mode::EX)]
}

fn tables() -> impl Strategy<Value = Table> {
    let name = prop_oneof![Just("ann"), Just("bob"), Just("cid"), Just("dan")];
    let entry = (any::<bool>(), 0u16..2, name, modes(), prop::option::weighted(0.2, modes()), 0u64..50);
    let resource = prop::collection::vec(entry, 0..6);
    (any::<bool>(), prop::collection::vec(resource, 1..4)).prop_map(|(strict, resources)| {
        let mut table = Table::new(strict);
        for (resource, entries) in ["a", "b", "c"].into_iter().zip(resources) {
            let mut list = Vec::new();
            for (holds, node, who, mode, or, stamp) in entries {
                list.push(match (holds, or) {
                    (true, _) => hold(node, who, mode),
                    (false, None) => wait(node, who, mode, stamp),
                    (false, Some(or)) => wait(node, who, mode, stamp).or(or),
                });
            }
            table.put_what_fits(resource, list);
        }
        table
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    /// Whoever is called stuck is one whom no order of events ever lets go on; in strict order, where nobody depends on the moment
    /// at which a queue is looked at, everybody of those is found.
    #[test]
    fn who_is_stuck_is_whoever_never_goes_on(table in tables()) {
        let mut graph = Graph::new();
        table.sights().into_iter().for_each(|(node, sight)| graph.add(node, sight));
        let stuck = table.stuck(&graph);
        let played = table.played();
        prop_assert!(stuck.is_subset(&played), "{stuck:?} are called stuck, {played:?} are\n{table:?}");
        if table.is_strict() {
            prop_assert_eq!(&stuck, &played, "{:?}", table);
        }
        // Whoever is stuck waits for a knot in the end, and there is none without them; nobody is in two.
        let knots = graph.knots();
        prop_assert_eq!(knots.is_empty(), stuck.is_empty());
        let tied: Vec<_> = knots.iter().flat_map(|knot| &knot.waits).copied().collect();
        let apart: BTreeSet<_> = tied.iter().copied().collect();
        prop_assert_eq!(tied.len(), apart.len());
        prop_assert!(apart.is_subset(&stuck));
        // Whoever is refused can give something back that another one waits for, and is the youngest of whom that is true.
        for knot in &knots {
            let helps = knot.waits.iter().filter(|wait| table.gives_back(wait, &knot.waits, &stuck));
            prop_assert_eq!(helps.max(), Some(&knot.victim()), "{:?}\n{:?}", knot, table);
        }
    }

    /// Whatever is left out of what nodes tell can hide who is stuck, and make nobody so: rows, the holders of a resource, and all of it; only
    /// the first of a queue is never left out alone.
    #[test]
    fn what_is_left_out_makes_nobody_stuck(
        table in tables(),
        left_out in prop::collection::vec(prop::bool::weighted(0.3), 64),
    ) {
        let (mut all, mut part) = (Graph::new(), Graph::new());
        let mut left_out = left_out.into_iter().cycle();
        let mut out = || left_out.next().expect("it begins anew");
        for (node, mut sight) in table.sights() {
            all.add(node, sight.clone());
            let mut first = true;
            sight.waits.retain(|_| core::mem::take(&mut first) || !out());
            sight.holds.retain(|_| !out());
            if !out() {
                part.add(node, sight);
            }
        }
        let (all, part) = (table.stuck(&all), table.stuck(&part));
        prop_assert!(part.is_subset(&all), "{part:?} are called stuck, {all:?} are\n{table:?}");
    }
}
