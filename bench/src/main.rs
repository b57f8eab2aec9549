//! Measures Oarlock beside what the machine can do and beside other lock services.
//!
//! ```text
//!   goal/     what is compared with what, and what must come out
//!     │  runs contenders in turn                     rounds.rs   alternation, medians, spread
//!     ├── anchor/   the machine: UDP, futex, cipher  machine.rs  CPUs, strangers
//!     ├── peer/     other lock services              report.rs   JSON lines, table
//!     ├── hub.rs    our own nodes without daemons
//!     └── program.rs  programs beside this one
//! ```
//!
//! A benchmark is no test: it fails only if something does not work at all, or if `--check-goals` asks it to.
#![deny(unsafe_code)]

mod anchor;
mod cluster;
mod founding;
mod goal;
mod hub;
mod machine;
mod peer;
mod program;
mod pure;
mod report;
mod rounds;
mod sealing;
mod service;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use goal::{DLM, LOCAL, LOCK, Measurement, NET, Setting};
use machine::Cpus;
use report::Line;
use rounds::Plan;

/// Measures Oarlock: each goal beside its anchor, in alternating rounds.
#[derive(Parser, Debug)]
#[command(name = "oarlock-bench")]
struct Args {
    /// What to measure.
    what: What,
    /// One JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
    /// Installs other lock services (apt-get, as root) where they are missing, and measures them too.
    #[arg(long)]
    peers: bool,
    /// Only these goals.
    #[arg(long, value_name = "N")]
    goal: Vec<u8>,
    /// Short windows: shows that everything runs, says nothing about speed.
    #[arg(long)]
    quick: bool,
    /// Resources that the counted pairs are among.
    #[arg(long, hide = true, default_value_t = 1000)]
    resources: u32,
    /// The counted pairs are remote.
    #[arg(long, hide = true)]
    remote: bool,
    #[command(flatten)]
    told: program::Told,
    /// Exits with 1 if a must is missed.
    #[arg(long)]
    check_goals: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum What {
    /// Locks that programs grant themselves, in memory shared with their node.
    Local,
    /// Locks, through nodes and daemons.
    Lock,
    /// Locks as programs of libdlm take them.
    Dlm,
    /// Circuits and sealing.
    Net,
    /// Pairs in the nodes, for valgrind to count.
    #[value(hide = true)]
    Pairs,
    /// A program beside this one.
    #[value(hide = true)]
    Program,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let What::Pairs | What::Program = args.what {
        let done = match args.what {
            What::Pairs => goal::instructions::child(args.resources, args.remote),
            _ => program::child(&args.told),
        };
        return match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("{why}");
                ExitCode::FAILURE
            }
        };
    }
    machine::take_priority();
    let cpus = match Cpus::find() {
        Ok(cpus) => cpus,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    let plan = if args.quick { Plan::quick() } else { Plan::full() };
    let setting = Setting { cpus, plan, quick: args.quick, peers: args.peers };
    let measurements = match args.what {
        What::Local => LOCAL,
        What::Lock => LOCK,
        What::Dlm => DLM,
        _ => NET,
    };
    let (mut broken, mut missed) = (false, false);
    for measurement in measurements.iter().filter(|m| wanted(m, &args.goal)) {
        match (measurement.run)(&setting) {
            Ok(lines) => {
                for line in lines {
                    missed |= line.met() == Some(false);
                    print(&args, &line);
                }
            }
            Err(why) => {
                eprintln!("goals {:?}: {why}", measurement.goals);
                broken = true;
            }
        }
    }
    if broken || (missed && args.check_goals) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn wanted(measurement: &Measurement, goals: &[u8]) -> bool {
    goals.is_empty() || measurement.goals.iter().any(|goal| goals.contains(goal))
}

fn print(args: &Args, line: &Line) {
    let text = if args.json { line.json().to_string() } else { line.shown() };
    // A reader that has seen enough is no failure.
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}
