//! Runs tests and counts them by the lines that the standard harness prints.

use std::process::Command;

use crate::ci::Outcome;
use crate::context::{Context, Failure, Volume, watch};
use crate::programs;

/// All tests of the workspace, documentation examples included.
pub(crate) fn workspace(context: &Context) -> Outcome {
    let mut examples = context.cargo();
    examples.args(["test", "--locked", "--workspace", "--no-fail-fast", "--doc"]);
    let mut outcomes = vec![side_by_side(context), counted(&mut examples)];
    if context.volume == Volume::Night {
        // Five daemons in network namespaces, for minutes.
        let mut command = context.cargo();
        command.args(["test", "--locked", "--package", "oarlockd", "--test", "namespaces"]);
        command.args(["a_night_in_namespaces", "--", "--ignored", "--nocapture"]);
        outcomes.push(counted(&mut command));
        // Needs `cargo-deb`, and fails without it.
        let mut command = context.cargo();
        command.args(["test", "--locked", "--package", "oarlockd", "--test", "package"]);
        command.args(["the_package_has_what_it_should", "--", "--ignored"]);
        outcomes.push(counted(&mut command));
    }
    sum(outcomes)
}

/// All test programs, several at once.
fn side_by_side(context: &Context) -> Outcome {
    let programs = match programs::built(context) {
        Ok(programs) => programs,
        Err(why) => return Outcome::of(Err(why)),
    };
    let mut count = Count::default();
    let (result, slowest) = programs::run(context, programs, |line| count.see(line));
    let mut outcome = count.outcome(result.err());
    outcome.note = format!("{}; slowest {slowest}", outcome.note);
    outcome
}

/// The lock room explored in full, and the bugs planted in it that the explorer must notice.
pub(crate) fn explorer(context: &Context) -> Outcome {
    let explore: &[&str] = if context.volume == Volume::Night { &["--full"] } else { &[] };
    let tests: [(&str, &[&str]); 2] = [("explore", explore), ("planted", &["--nocapture"])];
    sum(tests.map(|(test, args)| {
        let mut command = context.cargo();
        // As the planted bugs of the simulator are built, so that nothing is built twice.
        command.args(["test", "--locked", "--quiet", "--profile", "sim", "--package", "oarlock-lock"]);
        command.args(["--features", "planted", "--test", test, "--"]).args(args);
        counted(&mut command)
    }))
}

/// Storyboards on nodes with a rule left out: the one about the rule must not come true. Built as the table of planted
/// bugs is.
pub(crate) fn planted_stories(context: &Context) -> Outcome {
    let mut command = context.cargo();
    command.args(["test", "--locked", "--quiet", "--profile", "sim", "--package", "oarlock-sim"]);
    command.args(["--features", "planted", "--test", "stories"]);
    counted(&mut command)
}

/// Tests of the cluster room that must see a rule left out, each with a word of its name: the storms that whole clocks and
/// leases come through. Built as the table of planted bugs is.
const PLANTED_IN_CLUSTER: [(&str, &str); 2] = [("watermark", "shortcut"), ("leases", "left_out")];

pub(crate) fn planted_in_cluster(context: &Context) -> Outcome {
    sum(PLANTED_IN_CLUSTER.map(|(test, name)| {
        let mut command = context.cargo();
        command.args(["test", "--locked", "--quiet", "--profile", "sim", "--package", "oarlock-cluster"]);
        command.args(["--features", "planted", "--test", test, name]);
        counted(&mut command)
    }))
}

/// A program has 84,000 stops, and something happens at each of them 747,000 times in all: a millisecond each. In so many
/// parts at night, and one out of so many for a commit.
const STEPPER_PARTS: u32 = 8;
const STEPPER_SAMPLE: u32 = 200;

/// What only the night has time for, beside every stop of a program.
const STEPPER_NIGHT: [&str; 6] = [
    "every_stop_of_a_node",
    "every_stop_of_both",
    "every_instruction_of_programs_that_die",
    "every_death_within_a_death",
    "every_death_of_a_node_and_of_the_next",
    "many_programs_are_killed",
];

/// The segment under checkers of orders: all orders of small runs, and random ones of long runs. Each builds the crate
/// anew, with other atomics, into a directory of its own. And the stepper: with each rule left out, and at every stop.
pub(crate) fn interleavings(context: &Context) -> Outcome {
    let night = context.volume == Volume::Night;
    let mut outcomes = Vec::new();
    for checker in ["loom", "shuttle"] {
        let mut command = context.cargo();
        command.args(["test", "--locked", "--package", "oarlock-shm", "--features", "planted"]);
        command.args(["--test", checker]);
        command.env("RUSTFLAGS", format!("--cfg {checker}"));
        command.env("CARGO_TARGET_DIR", context.root.join("target").join(checker));
        if night {
            command.env("OARLOCK_LOOM_MORE", "1").env("OARLOCK_SHUTTLE_RUNS", "100000");
        }
        outcomes.push(counted(&mut command));
    }
    let mut played = |test: &str, part: Option<String>, args: &[&str]| {
        let mut command = context.cargo();
        command.args(["test", "--locked", "--package", "oarlock-shm", "--features", "planted"]);
        command.args(["--test", test, "--"]).args(args);
        command.envs(part.map(|part| ("OARLOCK_PART", part)));
        outcomes.push(counted(&mut command));
    };
    // Deaths and pauses after each instruction: every rule that is left out must be noticed there as well.
    played("stepper", None, &["a_rule_left_out"]);
    // Every stop of a program, in parts that end in some 90 s each; or a sample of them.
    let (parts, of) = if night { (STEPPER_PARTS, STEPPER_PARTS) } else { (1, STEPPER_SAMPLE) };
    for part in 0..parts {
        played("stepper", Some(format!("{part}/{of}")), &["--ignored", "every_stop_of_a_program"]);
    }
    if night {
        for name in STEPPER_NIGHT {
            played("stepper", None, &["--ignored", name]);
        }
        played("model", None, &["--ignored", "large_spaces_hold"]);
    }
    sum(outcomes)
}

/// The same as a task.
pub(crate) fn interleave(context: &Context) -> Result<String, Failure> {
    let outcome = interleavings(context);
    if outcome.failed > 0 { Err(outcome.note) } else { Ok(format!("{} passed", outcome.passed)) }
}

/// Runs a command that tests and counts its tests. Each command is counted by itself: of several one may run none at
/// all, because a flag or a name is wrong, and the others would hide it.
fn counted(command: &mut Command) -> Outcome {
    let mut count = Count::default();
    let result = watch(command, |line| count.see(line));
    count.outcome(result.err())
}

/// Several outcomes as one; the note is that of the first that failed, or of the last.
fn sum(outcomes: impl IntoIterator<Item = Outcome>) -> Outcome {
    let mut all = Outcome { passed: 0, failed: 0, note: "no test ran".into() };
    for one in outcomes {
        if all.failed == 0 {
            all.note = one.note;
        }
        all.passed += one.passed;
        all.failed += one.failed;
    }
    all
}

/// Sums of the lines `test result: …`.
#[derive(Default, Debug, PartialEq)]
pub(crate) struct Count {
    passed: u64,
    failed: u64,
    ignored: u64,
    binaries: u64,
}

impl Count {
    /// Takes up one line of output.
    pub(crate) fn see(&mut self, line: &str) {
        let Some(rest) = line.trim_start().strip_prefix("test result:") else { return };
        self.binaries += 1;
        for piece in rest.split([';', '.']) {
            let mut words = piece.split_whitespace();
            let (Some(number), Some(what)) = (words.next(), words.next()) else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }

    /// A run that failed without a failed test (a crash, a test that does not build) counts as one failure; a
    /// run that finds no test at all is a broken run, not a good one.
    pub(crate) fn outcome(self, error: Option<String>) -> Outcome {
        let mut failed = self.failed;
        let mut note = format!("{} programs, {} ignored", self.binaries, self.ignored);
        if let (Some(why), 0) = (&error, failed) {
            failed = 1;
            note = format!("{note}; {why}");
        }
        if self.passed == 0 && failed == 0 {
            failed = 1;
            note = "no test ran".into();
        }
        Outcome { passed: self.passed, failed, note }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_summed_and_others_are_not() {
        let mut count = Count::default();
        count.see("running 3 tests");
        count.see(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        );
        count.see("test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.5s");
        count.see("12 passed, 9 failed");
        assert_eq!(count, Count { passed: 7, failed: 2, ignored: 1, binaries: 2 });
    }

    #[test]
    fn a_crash_without_a_failed_test_is_a_failure() {
        let mut count = Count::default();
        count.see("test result: ok. 3 passed; 0 failed; 0 ignored");
        assert_eq!(count.outcome(Some("signal 11".into())).failed, 1);
    }

    #[test]
    fn a_run_without_tests_is_a_failure() {
        assert_eq!(Count::default().outcome(None).failed, 1);
    }

    #[test]
    fn a_command_that_tests_nothing_is_not_hidden_by_one_that_does() {
        let said = |text: &str| counted(Command::new("echo").arg(text));
        let all = sum([
            said("test result: ok. 3 passed; 0 failed; 0 ignored"),
            said("test result: ok. 0 passed; 0 failed; 9 ignored"),
            said("test result: ok. 5 passed; 0 failed; 0 ignored"),
        ]);
        assert_eq!((all.passed, all.failed, all.note.as_str()), (8, 1, "no test ran"));
    }
}
