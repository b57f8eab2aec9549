//! Parts of `ci` that run a program of another crate and read its closing line: seeds and planted bugs of the
//! simulator, chaos on real processes.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::ci::Outcome;
use crate::context::{Context, Volume, watch};
use crate::fronts::Front;
use crate::testing;

/// Seeds of a standard run: each is a minute of five nodes and forty programs.
const SEEDS: u64 = 600;
/// Seeds of a night.
const SEEDS_AT_NIGHT: u64 = 20_000;
/// Seeds that a night may use up: those that do not count are replaced, up to twice as many.
const SEEDS_OF_A_NIGHT: u64 = 2 * SEEDS_AT_NIGHT;
/// How long real daemons and programs are under load, in seconds.
const CHAOS: u64 = 120;
/// The same at night.
const CHAOS_AT_NIGHT: u64 = 600;
/// How many seeds a planted bug may need until a checker notices.
const SEEDS_PER_BUG: u64 = 100;

/// Seeds without planted bugs: a finding in any of them fails.
pub(crate) fn seeds(context: &Context) -> Outcome {
    let (seeds, from) = match context.volume {
        // The same for every commit: what fails here has failed because of the commit.
        Volume::Ci => (SEEDS, 1),
        Volume::Night => (SEEDS_AT_NIGHT, first_of_night(SystemTime::now())),
    };
    println!("{seeds} seeds from {from}; again: cargo xtask sim --seeds {seeds} --from {from}");
    let mut last = String::new();
    let coverage = if context.volume == Volume::Ci { "--coverage" } else { "--thorough" };
    let args = ["--seeds", &seeds.to_string(), "--from", &from.to_string(), coverage];
    let result = start(context, "sim", &args, |line| last = line.into());
    // Too few seeds that count is a failure even if none failed: the status says so.
    counted(&last, result, last.split(": ").nth(1).unwrap_or_default())
}

/// The first seed of the night that begins at `now`: every date has its own, so that a year of nights is a year of seeds.
fn first_of_night(now: SystemTime) -> u64 {
    let days = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
    days * SEEDS_OF_A_NIGHT + 1
}

/// Three daemons, twelve programs, bad weather between them, kills; then everything they saw is judged.
pub(crate) fn chaos(context: &Context) -> Outcome {
    let seconds = if context.volume == Volume::Ci { CHAOS } else { CHAOS_AT_NIGHT };
    let mut last = String::new();
    let args = ["--seconds".to_string(), seconds.to_string()];
    let mut command = match context.volume {
        // What the tests have built: an optimised daemon for two minutes of load takes twice as long to build.
        Volume::Ci => {
            let mut command = context.cargo();
            command.args(["run", "--quiet", "--package", "oarlock-chaos", "--bin", "oarlock-chaos", "--"]);
            command.args(args);
            command
        }
        Volume::Night => Front::find("chaos").expect("it has a front").command(context, &args),
    };
    let result = watch(&mut command, |line| last = line.into());
    counted(&last, result, &format!("{seconds} s of load"))
}

/// What a closing line and a status say together.
fn counted(last: &str, result: Result<(), String>, note: &str) -> Outcome {
    match totals(last) {
        Some((passed, failed)) => {
            Outcome { passed, failed: failed.max(u64::from(result.is_err())), note: note.into() }
        }
        None => Outcome::of(Err(format!("it ended without totals: {last:?} {result:?}"))),
    }
}

/// Each planted bug is noticed by a checker that does not know of it.
pub(crate) fn planted(context: &Context) -> Outcome {
    let (mut passed, mut failed) = (0, 0);
    let result =
        start(context, "sim-planted", &["--seeds", &SEEDS_PER_BUG.to_string()], |line| match bug(line) {
            Some(true) => passed += 1,
            Some(false) => failed += 1,
            None => {}
        });
    if result.is_err() || passed == 0 {
        failed = failed.max(1);
    }
    for others in [testing::planted_stories(context), testing::planted_in_cluster(context)] {
        (passed, failed) = (passed + others.passed, failed + others.failed);
    }
    Outcome { passed, failed, note: format!("planted bugs, {SEEDS_PER_BUG} seeds at most for each") }
}

fn start(context: &Context, front: &str, args: &[&str], see: impl FnMut(&str)) -> Result<(), String> {
    let front = Front::find(front).expect("it has a front");
    let args: Vec<String> = args.iter().map(|a| a.to_string()).collect();
    watch(&mut front.command(context, &args), see)
}

/// Reads `600 seeds, 2 failed, …`: how many held and how many did not.
fn totals(line: &str) -> Option<(u64, u64)> {
    let mut parts = line.split(", ");
    let (all, _what) = parts.next()?.split_once(' ')?;
    let all: u64 = all.parse().ok()?;
    let failed: u64 = parts.next()?.strip_suffix(" failed")?.parse().ok()?;
    Some((all.checked_sub(failed)?, failed))
}

/// Reads a row of the table of planted bugs: caught, not caught, or no such row.
fn bug(line: &str) -> Option<bool> {
    let mut words = line.split_whitespace();
    let (_, seeds) = (words.next()?, words.next()?.parse::<u64>().ok()?);
    (seeds > 0).then(|| !line.ends_with("not caught"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn totals_are_read_from_the_last_line() {
        let line =
            "600 seeds, 2 failed, 1 with too little load, 12 run twice: 36000 simulated s, 150 per core-s";
        assert_eq!(totals(line), Some((598, 2)));
        assert_eq!(totals("seed 7: two runs of it differ"), None);
        assert_eq!(totals("14 checks, 1 failed"), Some((13, 1)));
        assert_eq!(totals(""), None);
    }

    #[test]
    fn no_two_nights_share_a_seed_and_none_has_those_of_a_commit() {
        let night = |day: u64| first_of_night(UNIX_EPOCH + Duration::from_secs(day * 86_400 + 3_600));
        assert_eq!(night(20_000) + SEEDS_OF_A_NIGHT, night(20_001));
        assert_eq!(night(20_000), first_of_night(UNIX_EPOCH + Duration::from_secs(20_000 * 86_400)));
        assert!(night(20_000) > 2 * SEEDS);
    }

    #[test]
    fn a_bad_status_fails_even_if_all_that_counted_held() {
        assert_eq!(counted("600 seeds, 0 failed", Err("status 1".into()), "").failed, 1);
        assert_eq!(counted("600 seeds, 0 failed", Ok(()), "").failed, 0);
        assert_eq!(counted("nonsense", Ok(()), "").failed, 1);
    }

    #[test]
    fn rows_of_planted_bugs_are_counted_and_others_are_not() {
        assert_eq!(bug("NoSequenceCheck           3  exclusion    two holders"), Some(true));
        assert_eq!(bug("NoSequenceCheck          20  not caught"), Some(false));
        assert_eq!(bug("planted               seeds  caught by    first finding"), None);
    }
}
