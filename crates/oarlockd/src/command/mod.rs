//! What people type.
//!
//! ```text
//!   cli        the command line, declared once
//!   connect    which daemon;  session  the conversation with it
//!   lock       run a command under a lock;  waiting  what it says meanwhile
//!   status  locks  dlm  space  tree  why  watch  node  metrics     questions, answered as tables or documents
//!   failover  coord  events                            the same about views, what decides them, what happened
//!   backup                                             a copy of what the coordinator keeps, and a beginning from one
//!   hand                                               what somebody asks a member to change of the cluster
//!   listing  condition                                 which columns and rows of a table, in which order
//!   serve  dev                                         daemons
//!   story                                              storyboards, played in a simulation or on daemons
//!   key  config  doctor  explain  man  complete        everything around them
//! ```

pub mod args;
pub mod backup;
pub mod cli;
pub mod clock;
pub mod complete;
pub mod condition;
pub mod config;
pub mod connect;
pub mod coord;
pub mod deadlocks;
pub mod dev;
pub mod dlm;
mod dlm_run;
pub mod doctor;
pub mod events;
pub mod failover;
pub mod hand;
mod health;
pub mod help;
pub mod joining;
pub mod key;
pub mod lapse;
pub mod listing;
pub mod lock;
pub mod locks;
pub mod members;
pub mod options;
pub mod output;
mod restart;
pub mod serve;
pub mod session;
pub mod space;
pub mod status;
pub mod story;
mod takeover;
mod talk;
pub mod tree;
pub mod waiting;
pub mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{FromArgMatches, Parser};
use oarlock_layout::code::Code;

use crate::host::signals::outlive_file_limits;
use crate::problem::{Problem, Result};
use cli::{Cli, Command, Output};

/// Runs the command line `args` (the first is the program's name) and returns the exit status.
pub fn main(args: Vec<OsString>) -> ExitCode {
    if let Some(done) = complete::answer(&args) {
        return done;
    }
    // Before anything else is built: this one is meant to be fast.
    if args.get(1).is_some_and(|a| a == "lock") {
        return match cli::lock_declaration().try_get_matches_from(&args[1..]) {
            Ok(matches) => {
                let args = cli::Lock::from_arg_matches(&matches).expect("clap has checked them");
                finish(lock::run(&args), Output::Table)
            }
            Err(error) => usage(&error),
        };
    }
    match Cli::try_parse_from(&args) {
        Ok(cli) => {
            let form = form(&args);
            finish(run(cli.command).map(|()| 0), form)
        }
        Err(error) => usage(&error),
    }
}

fn run(command: Command) -> Result<()> {
    outlive_file_limits().map_err(|e| Problem::io(Code::Failed, "cannot catch signals", &e))?;
    match command {
        Command::Dev(args) => dev::run(&args),
        // The engine has said what there is to say.
        Command::Serve(args) => crate::keeper::run(&args).map(|code| std::process::exit(code.into())),
        Command::Engine(args) => takeover::run(&args),
        Command::Init(args) => members::init(&args),
        Command::Join(args) => joining::run(&args),
        Command::Leave { sure, ask } => members::leave(&sure, &ask),
        Command::Token(command) => members::token(&command),
        // Reached only through an alias or abbreviation of clap's; the same code runs.
        Command::Lock(args) => lock::run(&args).map(|code| std::process::exit(code.into())),
        Command::Status(ask) => status::status(&ask),
        Command::Ok(ask) => status::ok(&ask),
        Command::Health(args) => health::run(&args),
        Command::Locks(command) => locks::run(&command),
        Command::Dlm(command) => dlm::run(&command),
        Command::Space(command) => space::run(&command),
        Command::Node(command) => status::node(&command),
        Command::Failover(command) => failover::run(&command),
        Command::Coord(command) => coord::run(&command),
        Command::Clock(command) => clock::run(&command),
        Command::Events(args) => events::run(args.last, args.follow, &args.ask),
        Command::Metrics(ask) => status::metrics(&ask),
        Command::Key(command) => key::run(&command),
        Command::Config(command) => config::run(&command),
        Command::Doctor(args) => doctor::run(&args),
        Command::Story(command) => story::run(&command),
        Command::Explain(args) => help::explain(&args),
        Command::Completions(args) => help::completions(&args),
        Command::Man(args) => help::man(&args),
        Command::Version(format) => help::version(&format),
    }
}

fn finish(result: Result<u8>, form: Output) -> ExitCode {
    match result {
        Ok(code) => code.into(),
        Err(problem) => {
            output::print_problem(&problem, form);
            problem.exit().into()
        }
    }
}

/// Errors are documents too, for whoever asked for documents.
fn form(args: &[OsString]) -> Output {
    let asked = |name: &str| {
        let pairs = args.windows(2).any(|w| (w[0] == "-o" || w[0] == "--output") && w[1] == name);
        pairs || args.iter().any(|a| *a == *format!("-o{name}") || *a == *format!("--output={name}"))
    };
    match () {
        () if asked("json") => Output::Json,
        () if asked("yaml") => Output::Yaml,
        () => Output::Table,
    }
}

/// What clap has to say: help to stdout, anything else as a problem.
fn usage(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return Code::Usage.exit().into();
    }
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let mut parts = text.trim().splitn(2, "\n\n");
    let what = parts.next().unwrap_or_default();
    let rest: Vec<_> =
        parts.next().unwrap_or_default().lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let problem = Problem::new(Code::Usage, what).because("").try_next(rest.join("\n       "));
    output::print_problem(&problem, Output::Table);
    problem.exit().into()
}
