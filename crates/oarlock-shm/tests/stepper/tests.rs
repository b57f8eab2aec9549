//! The tests by name, and a harness of one thread.

use std::fmt::Debug;
use std::process::ExitCode;
use std::time::Instant;

use crate::slate::Slate;
use crate::stage::{SCENES, named};
use crate::twin::Part;
use crate::{both, death, kills, nodes, tracee, twin};

struct Test {
    name: &'static str,
    long: bool,
    run: fn(&Slate) -> Result<String, String>,
}

const TESTS: &[Test] = &[
    Test { name: "a_program_dies_after_each_instruction", long: false, run: programs_die },
    Test { name: "a_node_dies_while_it_puts_a_death_right", long: false, run: nodes_die_in_recovery },
    Test { name: "a_node_dies_in_what_else_it_does", long: false, run: nodes_die },
    Test { name: "a_program_stands_still_and_goes_on", long: false, run: programs_stand },
    Test { name: "a_node_stands_still_and_goes_on", long: false, run: nodes_stand },
    Test { name: "a_program_stands_still_while_its_node_dies", long: false, run: both_stand },
    Test { name: "programs_are_killed_at_any_time", long: false, run: killed },
    #[cfg(feature = "planted")]
    Test { name: "a_rule_left_out_is_noticed", long: false, run: crate::plants::all },
    Test { name: "every_instruction_of_programs_that_die", long: true, run: programs_die_all },
    Test { name: "every_death_within_a_death", long: true, run: nodes_die_in_recovery_all },
    Test { name: "every_death_of_a_node_and_of_the_next", long: true, run: nodes_die_all },
    Test { name: "every_stop_of_a_program", long: true, run: programs_stand_all },
    Test { name: "every_stop_of_a_node", long: true, run: nodes_stand_all },
    Test { name: "every_stop_of_both_a_program_and_its_node", long: true, run: both_stand_all },
    Test { name: "many_programs_are_killed", long: true, run: killed_all },
];

fn text(tally: impl Debug) -> String {
    format!("{tally:?}")
}

fn programs_die(slate: &Slate) -> Result<String, String> {
    death::of_programs(slate, false, &SCENES).map(text)
}

fn programs_die_all(slate: &Slate) -> Result<String, String> {
    death::of_programs(slate, true, &SCENES).map(text)
}

fn nodes_die_in_recovery(slate: &Slate) -> Result<String, String> {
    death::in_recovery(slate, &[named("hand-over-ex")], 2).map(text)
}

fn nodes_die_in_recovery_all(slate: &Slate) -> Result<String, String> {
    death::in_recovery(slate, &SCENES, 1).map(text)
}

fn nodes_die(slate: &Slate) -> Result<String, String> {
    death::of_nodes(slate, false, &death::DUTIES).map(text)
}

fn nodes_die_all(slate: &Slate) -> Result<String, String> {
    death::of_nodes(slate, true, &death::DUTIES).map(text)
}

fn programs_stand(slate: &Slate) -> Result<String, String> {
    twin::all(slate, &SCENES, false, Part::WHOLE).map(text)
}

fn programs_stand_all(slate: &Slate) -> Result<String, String> {
    twin::all(slate, &SCENES, true, part()?).map(text)
}

fn nodes_stand(slate: &Slate) -> Result<String, String> {
    nodes::all(slate, &nodes::duties(false)).map(text)
}

fn nodes_stand_all(slate: &Slate) -> Result<String, String> {
    nodes::all(slate, &nodes::duties(true)).map(text)
}

fn both_stand(slate: &Slate) -> Result<String, String> {
    both::all(slate, &[named("hand-over-ex")], 9, Part::WHOLE).map(text)
}

fn both_stand_all(slate: &Slate) -> Result<String, String> {
    both::all(slate, &SCENES, 1, part()?).map(text)
}

/// `OARLOCK_PART=3/64`: the fourth of 64 parts of a run that takes a quarter of an hour.
fn part() -> Result<Part, String> {
    let Ok(text) = std::env::var("OARLOCK_PART") else { return Ok(Part::WHOLE) };
    let parts = text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
    match parts {
        Some((number, of)) if number < of => Ok(Part { number, of }),
        _ => Err(format!("OARLOCK_PART={text} is no part: 0/64 to 63/64 are those of 64")),
    }
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn kill(slate: &Slate, kills: u64) -> Result<String, String> {
    let kills = from_environment("OARLOCK_KILLS", kills) as usize;
    kills::all(slate, kills, from_environment("OARLOCK_SEED", 1)).map(text)
}

fn killed(slate: &Slate) -> Result<String, String> {
    kill(slate, 300)
}

fn killed_all(slate: &Slate) -> Result<String, String> {
    kill(slate, 5_000)
}

/// Runs what the arguments mean, as a harness would.
pub(crate) fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    // What follows one of these is its value, not the name of a test.
    let valued = |flag: &str| ["--test-threads", "--skip", "--format", "--color", "-Z"].contains(&flag);
    let filter = (0..arguments.len())
        .find(|at| !arguments[*at].starts_with('-') && (*at == 0 || !valued(&arguments[*at - 1])))
        .map(|at| &arguments[at]);
    let meant = |test: &&Test| {
        filter.is_none_or(|filter| test.name.contains(filter.as_str()))
            && (has("--include-ignored") || has("--ignored") == test.long)
    };
    if has("--list") {
        TESTS.iter().filter(meant).for_each(|test| println!("{}: test", test.name));
        return ExitCode::SUCCESS;
    }
    let meant: Vec<&Test> = TESTS.iter().filter(meant).collect();
    println!("\nrunning {} tests", meant.len());
    let slate = Slate::new();
    let mut failed = 0;
    for test in &meant {
        let start = Instant::now();
        // Those who are killed run side by side; all others take turns.
        let stay = (!test.name.contains("killed")).then(tracee::stay);
        match (test.run)(&slate) {
            Ok(done) => {
                println!("test {} ... ok in {:.1} s: {done}", test.name, start.elapsed().as_secs_f32());
            }
            Err(error) => {
                println!("test {} ... FAILED: {error}", test.name);
                failed += 1;
            }
        }
        drop(stay);
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    let (passed, out) = (meant.len() - failed, TESTS.len() - meant.len());
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {out} filtered out\n"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
