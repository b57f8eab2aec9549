//! `cargo xtask ci` and `cargo xtask night`: every part in order, then a table and one closing line.
//!
//! A part is a line of [`PARTS`]; to add one, write a function `fn(&Context) -> Outcome` and a line. Every
//! part runs even if an earlier one failed, except that nothing is tested that does not build.
//!
//! The night runs the same parts with more volume: a smaller budget may shrink the volume of a part, it never
//! removes a kind of check.

use std::time::{Duration, Instant};

use crate::context::{Context, Failure, Volume, heard, run, watch};
use crate::watchdog::Watchdog;
use crate::{fuzz, purity, runs, testing, tidy};

/// What a part found.
pub(crate) struct Outcome {
    /// Checks that held: tests, seeds, files; at least 1 if the part as a whole held.
    pub(crate) passed: u64,
    /// Checks that did not.
    pub(crate) failed: u64,
    /// A few words for the table.
    pub(crate) note: String,
}

impl Outcome {
    /// One check: it held, or it did not and the reason is printed here.
    pub(crate) fn of(result: Result<(), Failure>) -> Outcome {
        Outcome::noted(result.map(|()| String::new()))
    }

    /// One check with a word about what it did.
    pub(crate) fn noted(result: Result<String, Failure>) -> Outcome {
        match result {
            Ok(note) => Outcome { passed: 1, failed: 0, note },
            Err(why) => {
                println!("{why}");
                Outcome { passed: 0, failed: 1, note: why.lines().next().unwrap_or_default().into() }
            }
        }
    }
}

/// One kind of check.
struct Part {
    name: &'static str,
    /// What a quiet two-core machine should need; a part that takes longer is marked in the table.
    budget: Duration,
    run: fn(&Context) -> Outcome,
    /// What the night does beyond this; empty if nothing.
    night: &'static str,
    /// Nothing after it makes sense if it fails.
    gate: bool,
}

/// A part that takes so many times its budget hangs, and more than twenty minutes: a machine that others use has been seven
/// times slower for a while.
const PATIENCE: u32 = 4;
const PATIENCE_MIN: Duration = Duration::from_secs(1200);

/// All parts together end within an hour and a half.
const CI_LIMIT: Duration = Duration::from_secs(85 * 60);

/// Lines of what a failed part said that are printed again at the end.
const LAST_WORDS: usize = 20;

/// The night may take longer, but not for ever.
const NIGHT_LIMIT: Duration = Duration::from_secs(8 * 3600);

impl Part {
    /// When it is ended, if the parts before it took `spent`.
    fn limit(&self, volume: Volume, spent: Duration) -> Duration {
        match volume {
            Volume::Ci => (self.budget * PATIENCE).max(PATIENCE_MIN).min(CI_LIMIT.saturating_sub(spent)),
            Volume::Night => NIGHT_LIMIT,
        }
    }
}

const fn part(name: &'static str, seconds: u64, run: fn(&Context) -> Outcome) -> Part {
    Part { name, budget: Duration::from_secs(seconds), run, night: "", gate: false }
}

/// All parts, in order. The budgets together stay below 25 minutes (a test holds them to it).
const PARTS: &[Part] = &[
    part("format", 5, format),
    part("tidy", 5, tidy::part),
    Part { gate: true, ..part("build", 220, build) },
    part("clippy", 105, clippy),
    part("purity", 20, purity::part),
    Part {
        night: "five nodes in network namespaces, with both coordinators; the Debian package",
        ..part("tests", 220, testing::workspace)
    },
    part("documentation", 45, documentation),
    Part { night: "all sizes of the table in docs/testing.md", ..part("explorer", 140, testing::explorer) },
    Part {
        night: "one preemption more, 100,000 long runs, every stop of a program",
        ..part("interleavings", 100, testing::interleavings)
    },
    Part { night: "20,000 seeds of the date instead of the same 600", ..part("seeds", 180, runs::seeds) },
    part("planted bugs", 85, runs::planted),
    Part {
        night: "10 minutes of load instead of 2, on daemons as released",
        ..part("chaos", 240, runs::chaos)
    },
    Part { night: "10 minutes a target instead of 4 s", ..part("fuzz", 130, fuzz::part) },
];

fn format(context: &Context) -> Outcome {
    Outcome::of(run(context.cargo().args(["fmt", "--all", "--check"])))
}

fn build(context: &Context) -> Outcome {
    Outcome::of(run(context.cargo().args(["build", "--locked", "--workspace", "--all-targets"])))
}

fn clippy(context: &Context) -> Outcome {
    // Once as released, once with the switches for planted bugs, which only test builds have; the explorer is
    // left out of `--all-targets` because `cargo test` leaves it out.
    let kinds: [&[&str]; 4] = [
        &["--workspace", "--all-targets"],
        // Only the crates that have the switches: to the others a planted node is another type.
        &[
            "--package",
            "oarlock-sim",
            "--package",
            "oarlock-node",
            "--package",
            "oarlock-lock",
            "--package",
            "oarlock-cluster",
            "--all-targets",
            "--features",
            "oarlock-sim/planted",
        ],
        &["--package", "oarlock-lock", "--features", "planted", "--test", "explore"],
        &["--package", "oarlock-shm", "--features", "planted", "--all-targets"],
    ];
    for kind in kinds {
        let mut command = context.cargo();
        command.args(["clippy", "--locked"]).args(kind).args(["--", "--deny", "warnings"]);
        if let Err(why) = run(&mut command) {
            return Outcome::of(Err(why));
        }
    }
    Outcome::of(Ok(()))
}

fn documentation(context: &Context) -> Outcome {
    // Libraries only: the library `oarlock` and the binary `oarlock` would write the same pages.
    let mut command = context.cargo();
    command
        .args(["doc", "--locked", "--workspace", "--no-deps", "--lib"])
        .env("RUSTDOCFLAGS", "--deny warnings");
    Outcome::of(watch(&mut command, |_| ()))
}

/// Runs all parts; true if everything held.
pub(crate) fn all(context: &Context) -> bool {
    let begin = Instant::now();
    let budget: Duration = PARTS.iter().map(|p| p.budget).sum();
    println!("{} parts, {} in all on two cores:", PARTS.len(), minutes(budget));
    for part in PARTS {
        println!("  {:<16} {:>7}", part.name, minutes(part.budget));
    }

    let mut rows: Vec<(&Part, Duration, Option<Outcome>)> = Vec::new();
    let mut shut = false;
    let mut faults: Vec<(&str, Vec<String>)> = Vec::new();
    for part in PARTS {
        if shut {
            rows.push((part, Duration::ZERO, None));
            continue;
        }
        println!("\n=== {} ===", part.name);
        let limit = part.limit(context.volume, begin.elapsed());
        let begin = Instant::now();
        let dog = Watchdog::start(limit);
        heard();
        let mut outcome = (part.run)(context);
        if dog.call_off() {
            outcome.failed = outcome.failed.max(1);
            outcome.note = format!("ended after {}; {}", minutes(limit), outcome.note);
        }
        shut = part.gate && outcome.failed > 0;
        if outcome.failed > 0 {
            faults.push((part.name, heard()));
        }
        rows.push((part, begin.elapsed(), Some(outcome)));
    }
    report(context.volume, begin.elapsed(), &rows, &faults)
}

/// Prints what was left to the night, the table, what the failed parts said, and the closing line.
fn report(
    volume: Volume,
    took: Duration,
    rows: &[(&Part, Duration, Option<Outcome>)],
    faults: &[(&str, Vec<String>)],
) -> bool {
    if volume == Volume::Ci {
        println!();
        for part in PARTS.iter().filter(|p| !p.night.is_empty()) {
            println!("left to `cargo xtask night`: {}: {}", part.name, part.night);
        }
    }
    println!("\n{:<16} {:>8} {:>8} {:>8} {:>7}  result", "part", "seconds", "budget", "passed", "failed");
    let (mut passed, mut failed) = (0, 0);
    for (part, seconds, outcome) in rows {
        let (p, f, mut result) = match outcome {
            None => (0, 1, "not run: the build failed".to_string()),
            Some(o) if o.failed > 0 => (o.passed, o.failed, format!("FAILED {}", o.note)),
            Some(o) => (o.passed, 0, format!("ok {}", o.note)),
        };
        if volume == Volume::Ci && *seconds > part.budget {
            result += " (over its budget)";
        }
        let (seconds, budget) = (seconds.as_secs_f64(), part.budget.as_secs());
        println!("{:<16} {seconds:>8.1} {budget:>8} {p:>8} {f:>7}  {}", part.name, result.trim_end());
        passed += p;
        failed += f;
    }
    println!("{:<16} {:>8.1}", "all", took.as_secs_f64());
    // At the end once more, because nobody reads the middle of so long a text, and often only its last page is kept.
    for (part, said) in faults {
        println!("\n=== what {part} said ===");
        said[said.len().saturating_sub(LAST_WORDS)..].iter().for_each(|line| println!("{line}"));
    }
    println!("{passed} passed, {failed} failed");
    failed == 0
}

fn minutes(time: Duration) -> String {
    format!("{}:{:02} min", time.as_secs() / 60, time.as_secs() % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budgets_together_stay_below_25_minutes() {
        let sum: Duration = PARTS.iter().map(|p| p.budget).sum();
        assert!(sum < Duration::from_secs(25 * 60), "{}", minutes(sum));
    }

    /// One that hangs is ended, and so is whatever comes when the time for all is nearly over.
    #[test]
    fn every_part_is_ended_some_time() {
        for part in PARTS {
            assert!(part.limit(Volume::Ci, Duration::ZERO) >= part.budget * 3, "{}", part.name);
            assert!(part.limit(Volume::Ci, CI_LIMIT - Duration::from_secs(7)) == Duration::from_secs(7));
            assert!(part.limit(Volume::Ci, CI_LIMIT * 2).is_zero());
        }
    }

    #[test]
    fn a_part_that_could_not_run_counts_as_failed() {
        assert!(!report(Volume::Ci, Duration::ZERO, &[(&PARTS[0], Duration::ZERO, None)], &[]));
        let held = Outcome { passed: 1, failed: 0, note: String::new() };
        assert!(report(Volume::Ci, Duration::ZERO, &[(&PARTS[0], Duration::ZERO, Some(held))], &[]));
    }
}
