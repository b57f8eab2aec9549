//! `cargo xtask fuzz`: runs the fuzz targets with the stable toolchain.
//!
//! libFuzzer comes as a library (`libfuzzer-sys`, built by the C++ compiler). What it needs of the compiler is
//! counters on every branch, and those are LLVM's: plain code generation options, no nightly. They are given
//! together with `--target`, so that build scripts and macros stay as they are.
//!
//! Inputs that reach new branches are kept below the target directory; `--merge` takes the smallest set of them
//! into `fuzz/corpus`, where an ordinary test replays them for ever.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use crate::ci::Outcome;
use crate::context::{Context, Failure, Volume, run};

/// Counters per branch, tables of them, and operands of comparisons: what libFuzzer reads.
const COVERAGE: &str = "--cfg fuzzing -C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4 \
                        -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
                        -C llvm-args=-sanitizer-coverage-pc-table \
                        -C llvm-args=-sanitizer-coverage-trace-compares";

/// A decoder that is slower than this will be found by whoever wants to keep us busy.
const EXECUTIONS_PER_SECOND_MIN: u64 = 20_000;

/// Targets that drive whole state machines; the figure above is for decoders.
const MACHINES: &[&str] = &["circuit", "node", "room", "segment"];

/// Longest input: beyond the largest messages but one (an answer in pieces) nothing new is decided.
const INPUT_BYTES_MAX: u32 = 8192;

/// The target that contains the planted bug, and how long the search for it may take.
const PLANTED: (&str, u64) = ("peer", 60);

struct Options {
    seconds: u64,
    merge: bool,
    planted: bool,
    targets: Vec<String>,
}

/// As a part of `ci`: a few seconds per target, then the planted bug.
pub(crate) fn part(context: &Context) -> Outcome {
    let seconds = if context.volume == Volume::Ci { 4 } else { 600 };
    let options = Options { seconds, merge: false, planted: false, targets: Vec::new() };
    let mut outcome = Outcome { passed: 0, failed: 0, note: String::new() };
    let found = planted(context);
    match targets(context).and_then(|all| Ok((build(context, false)?, all))) {
        Err(why) => return Outcome::of(Err(why)),
        Ok((programs, all)) => {
            let queue = Mutex::new(all.into_iter());
            let next = || queue.lock().unwrap_or_else(|e| e.into_inner()).next();
            let counts = Mutex::new(&mut outcome);
            let work = || {
                while let Some(target) = next() {
                    let found = fuzz(context, &programs, &target, &options);
                    let mut outcome = counts.lock().unwrap_or_else(|e| e.into_inner());
                    match found {
                        Ok(said) => {
                            println!("{target}: {said}");
                            outcome.passed += 1;
                        }
                        Err(why) => {
                            println!("{why}");
                            outcome.failed += 1;
                        }
                    }
                }
            };
            thread::scope(|scope| {
                for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
                    scope.spawn(work);
                }
            });
        }
    }
    match found {
        Ok(said) => {
            println!("{said}");
            outcome.passed += 1;
        }
        Err(why) => {
            println!("{why}");
            outcome.failed += 1;
        }
    }
    outcome.note = format!("{seconds} s a target, planted bug searched");
    outcome
}

/// `cargo xtask fuzz [--seconds N] [--merge] [--planted] [TARGET…]`
pub(crate) fn command(context: &Context, args: &[String]) -> Result<String, Failure> {
    let options = parse(args)?;
    if options.planted {
        return planted(context);
    }
    let programs = build(context, false)?;
    let all = targets(context)?;
    let chosen = if options.targets.is_empty() { all.clone() } else { options.targets.clone() };
    if let Some(unknown) = chosen.iter().find(|t| !all.contains(t)) {
        return Err(format!("no fuzz target {unknown}; there are {}", all.join(", ")));
    }
    for target in &chosen {
        println!("{target}: {}", fuzz(context, &programs, target, &options)?);
        if options.merge {
            merge(context, &programs, target)?;
        }
    }
    Ok(format!("{} targets, {} s each", chosen.len(), options.seconds))
}

fn parse(args: &[String]) -> Result<Options, Failure> {
    let mut options = Options { seconds: 60, merge: false, planted: false, targets: Vec::new() };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--merge" => options.merge = true,
            "--planted" => options.planted = true,
            "--seconds" => {
                let seconds = args.next().and_then(|n| n.parse().ok());
                options.seconds = seconds.ok_or("--seconds needs a number")?;
            }
            flag if flag.starts_with('-') => return Err(format!("fuzz knows no {flag}")),
            target => options.targets.push(target.into()),
        }
    }
    Ok(options)
}

/// Names of all targets: one file each.
fn targets(context: &Context) -> Result<Vec<String>, Failure> {
    let dir = context.root.join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut names: Vec<String> =
        entries.filter_map(|e| e.ok()?.file_name().to_str()?.strip_suffix(".rs").map(String::from)).collect();
    names.sort();
    Ok(names)
}

/// Builds all targets; the directory with the programs.
fn build(context: &Context, planted: bool) -> Result<PathBuf, Failure> {
    let host = host(context)?;
    // Both builds share libFuzzer; only the programs of the last one remain.
    let dir = context.target_dir().join("fuzz");
    let mut command = context.cargo();
    command.args([
        "build",
        "--quiet",
        "--release",
        "--manifest-path",
        "fuzz/Cargo.toml",
        "--locked",
        "--target",
    ]);
    command.arg(&host).arg("--target-dir").arg(&dir).env("RUSTFLAGS", COVERAGE);
    if planted {
        // The decoders are enough: everything else would be built twice.
        command.args(["--no-default-features", "--features", "planted", "--bin", PLANTED.0]);
    }
    run(&mut command)?;
    Ok(dir.join(host).join("release"))
}

/// The triple that `--target` must name to build for this machine.
fn host(context: &Context) -> Result<String, Failure> {
    let output = context.program("rustc").arg("-vV").output().map_err(|e| format!("rustc: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|l| l.strip_prefix("host: "));
    host.map(String::from).ok_or("rustc names no host".into())
}

/// A libFuzzer run on a scratch corpus and the one in the repository.
fn libfuzzer(context: &Context, programs: &Path, target: &str, corpus: &str) -> Result<Command, Failure> {
    let scratch = context.target_dir().join(corpus).join(target);
    let artifacts = context.target_dir().join("fuzz-artifacts");
    for dir in [&scratch, &artifacts] {
        fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    let mut command = Command::new(programs.join(target));
    command.current_dir(&context.root).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.env("RUST_BACKTRACE", "0");
    command.arg(format!("-artifact_prefix={}/{target}-", artifacts.display()));
    command.args(["-print_final_stats=1", "-rss_limit_mb=1024", "-malloc_limit_mb=64", "-timeout=5"]);
    command.arg(format!("-max_len={INPUT_BYTES_MAX}")).arg(scratch).arg(format!("fuzz/corpus/{target}"));
    Ok(command)
}

/// Runs one target; says how many inputs it tried.
fn fuzz(context: &Context, programs: &Path, target: &str, options: &Options) -> Result<String, Failure> {
    let mut command = libfuzzer(context, programs, target, "fuzz-corpus")?;
    command.arg(format!("-max_total_time={}", options.seconds));
    let output = command.output().map_err(|e| format!("{target}: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(format!("{target}: the fuzzer found something\n{}", telling(&said)));
    }
    let tried = statistic(&said, "stat::number_of_executed_units:");
    if tried == 0 {
        return Err(format!("{target}: the fuzzer tried nothing\n{}", telling(&said)));
    }
    let rate = statistic(&said, "stat::average_exec_per_sec:");
    if rate < EXECUTIONS_PER_SECOND_MIN && !MACHINES.contains(&target) {
        println!(
            "warning: {target}: {rate} inputs a second, {EXECUTIONS_PER_SECOND_MIN} expected on a quiet machine"
        );
    }
    Ok(format!("{tried} inputs, {rate} a second, nothing found"))
}

/// Takes the smallest set of new inputs that covers what the scratch corpus covers into the repository.
fn merge(context: &Context, programs: &Path, target: &str) -> Result<(), Failure> {
    let scratch = context.target_dir().join("fuzz-corpus").join(target);
    let mut command = Command::new(programs.join(target));
    command.current_dir(&context.root).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.arg("-merge=1").arg(format!("fuzz/corpus/{target}")).arg(scratch);
    run(&mut command)
}

/// Builds with the planted bug and sees it found, from an empty corpus beside the seeds.
fn planted(context: &Context) -> Result<String, Failure> {
    let (target, seconds) = PLANTED;
    let programs = build(context, true)?;
    let empty = context.target_dir().join("fuzz-planted-corpus");
    let _ = fs::remove_dir_all(&empty);
    let mut command = libfuzzer(context, &programs, target, "fuzz-planted-corpus")?;
    command.arg(format!("-max_total_time={seconds}"));
    let output = command.output().map_err(|e| format!("{target}: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() || !said.contains("out of range for slice") {
        return Err(format!("{target}: the planted bug was not found in {seconds} s"));
    }
    let tried = statistic(&said, "stat::number_of_executed_units:");
    Ok(format!("{target}: the planted bug was found after {tried} inputs"))
}

/// The lines that say what was found and where the input lies.
fn telling(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    let mut told = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let message = i > 0 && lines[i - 1].contains("panicked at");
        if message || ["panicked at", "SUMMARY", "written to", "ERROR"].iter().any(|w| line.contains(w)) {
            told.push(*line);
        }
    }
    told.join("\n")
}

/// A number from libFuzzer's closing lines.
fn statistic(said: &str, name: &str) -> u64 {
    said.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read_by_name() {
        let said = "x\nstat::number_of_executed_units: 12345\nstat::average_exec_per_sec:     99\n";
        assert_eq!(statistic(said, "stat::number_of_executed_units:"), 12345);
        assert_eq!(statistic(said, "stat::average_exec_per_sec:"), 99);
        assert_eq!(statistic("", "stat::average_exec_per_sec:"), 0);
    }

    #[test]
    fn what_was_found_is_told_without_the_stack() {
        let said =
            "#1 NEW\nthread panicked at a.rs:1\nindex out of range\n  1: main\nx Test unit written to y\n";
        assert_eq!(telling(said), "thread panicked at a.rs:1\nindex out of range\nx Test unit written to y");
    }

    #[test]
    fn options_are_taken_or_refused() {
        let args = |list: &[&str]| list.iter().map(|a| a.to_string()).collect::<Vec<_>>();
        let options = parse(&args(&["--seconds", "7", "peer", "--merge"])).ok().unwrap();
        assert!(options.seconds == 7 && options.merge && options.targets == ["peer"]);
        assert!(parse(&args(&["--seconds"])).is_err());
        assert!(parse(&args(&["--what"])).is_err());
    }
}
