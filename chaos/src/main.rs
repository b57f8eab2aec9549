//! `oarlock-chaos`: one run, a report, and a status that says whether all was as promised.
//!
//! The same program is the harness and, called by itself in another role, each of its clients.
#![forbid(unsafe_code)]

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use oarlock_chaos::{client, harness};

const USAGE: &str = "\
usage: oarlock-chaos [OPTIONS]

  --seconds N      how long the load lasts (120)
  --seed N         what happens when (drawn, and printed)
  --oarlock FILE   the daemon's binary (the one beside this program, built if cargo runs this)
  --keep           leave logs, diaries and the history in their directory
  --json           print the report as JSON
";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.split_first() {
        Some((role, rest)) if role == "client" => {
            let options = client::Options::parse(rest).expect("the harness says all that a client must know");
            client::run(&options);
            ExitCode::SUCCESS
        }
        Some((role, rest)) if role == "hold" => match harness::hold(rest) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
        _ => run(&args),
    }
}

fn run(args: &[String]) -> ExitCode {
    let (mut seconds, mut seed, mut oarlock, mut keep, mut json) = (120, None, None, false, false);
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let mut number = || rest.next().and_then(|n| n.parse::<u64>().ok());
        let understood = match arg.as_str() {
            "--seconds" => number().filter(|n| *n >= 10).map(|n| seconds = n),
            "--seed" => number().map(|n| seed = Some(n)),
            "--oarlock" => rest.next().map(|file| oarlock = Some(PathBuf::from(file))),
            "--keep" | "--json" => {
                *(if arg == "--keep" { &mut keep } else { &mut json }) = true;
                Some(())
            }
            _ => None,
        };
        if understood.is_none() {
            eprint!("oarlock-chaos: what is {arg}? (at least 10 seconds are needed)\n{USAGE}");
            return ExitCode::from(2);
        }
    }
    let seed = seed.unwrap_or_else(oarlock_chaos::clock::now);
    let outcome = oarlock.map_or_else(beside, Ok).and_then(|oarlock| {
        eprintln!("chaos: seed {seed}, {seconds} s, {}", oarlock.display());
        harness::run(&harness::Options { oarlock, seconds, seed, keep })
    });
    match outcome {
        Ok(report) => {
            if json {
                println!("{}", report.json());
            } else {
                println!("{report}");
            }
            if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => {
            eprintln!("oarlock-chaos: seed {seed}: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The daemon in the directory of this program. If cargo runs us, it is made sure that it is of today.
fn beside() -> Result<PathBuf, String> {
    let me = env::current_exe().map_err(|e| e.to_string())?;
    let oarlock = me.with_file_name("oarlock");
    if let Some(cargo) = env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--package", "oarlockd", "--bin", "oarlock"]);
        if me.parent().and_then(Path::file_name).is_some_and(|dir| dir == "release") {
            build.arg("--release");
        }
        let status = build.status().map_err(|e| e.to_string())?;
        if !status.success() {
            return Err(format!("the daemon could not be built: {status}"));
        }
    }
    match oarlock.exists() {
        true => Ok(oarlock),
        false => Err(format!("{} is missing; say where it is with --oarlock", oarlock.display())),
    }
}
