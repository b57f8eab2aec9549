//! Several programs on several nodes write one SQLite file whose own locking is switched off. Oarlock keeps
//! them apart; with `--without-locks` nothing does, and updates get lost. See docs/sqlite.md.
//!
//! ```text
//!   oarlock dev                                                   in another terminal
//!   cargo run --release --example shared_sqlite -- ledger.db
//!   cargo run --release --example shared_sqlite -- --without-locks broken.db
//! ```

mod ledger;
mod worker;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use worker::Orders;

const USAGE: &str = "usage: shared_sqlite [--workers N] [--transactions N] [--without-locks]
                     [--synchronous OFF|NORMAL|FULL] [--socket PATH]... FILE
  --workers N        processes, each with a node's socket in turn (6)
  --transactions N   of all workers together (20000; 600 without locks)
  --without-locks    do without Oarlock, and think 2 ms between reading and writing
  --synchronous S    how often SQLite waits for the disk (OFF: as fast as the locks go)
  --socket PATH      a node's socket; those of this user's `oarlock dev` if not said";

struct Plan {
    file: PathBuf,
    sockets: Vec<PathBuf>,
    workers: u32,
    transactions: Option<u32>,
    synchronous: String,
    locks: bool,
}

fn plan(mut args: impl Iterator<Item = String>) -> Option<Plan> {
    let mut plan = Plan {
        file: PathBuf::new(),
        sockets: Vec::new(),
        workers: 6,
        transactions: None,
        synchronous: "OFF".into(),
        locks: true,
    };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--workers" => plan.workers = args.next()?.parse().ok().filter(|n| *n > 0)?,
            "--transactions" => plan.transactions = Some(args.next()?.parse().ok()?),
            "--synchronous" => plan.synchronous = args.next()?,
            "--without-locks" => plan.locks = false,
            "--socket" => plan.sockets.push(args.next()?.into()),
            file if !file.starts_with('-') && plan.file.as_os_str().is_empty() => plan.file = file.into(),
            _ => return None,
        }
    }
    (!plan.file.as_os_str().is_empty()).then_some(plan)
}

fn main() -> ExitCode {
    let outcome = match Orders::from_args(std::env::args_os().skip(1)) {
        Some(orders) => worker::work(&orders).map(|confirmed| {
            println!("{confirmed}");
            true
        }),
        None => match plan(std::env::args().skip(1)) {
            Some(plan) => run(plan),
            None => {
                eprintln!("{USAGE}");
                return ExitCode::from(2);
            }
        },
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("shared_sqlite: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Makes the file, lets the workers at it, and counts. True if every transaction is there.
fn run(mut plan: Plan) -> Result<bool, Box<dyn std::error::Error>> {
    if plan.locks && plan.sockets.is_empty() {
        plan.sockets = oarlock::dev_sockets().into_iter().map(|(_, socket)| socket).collect();
        if plan.sockets.is_empty() {
            return Err("no --socket was given and this user runs no `oarlock dev`".into());
        }
    }
    if plan.file.exists() {
        return Err(format!("{} exists already", plan.file.display()).into());
    }
    ledger::create(&plan.file)?;
    let began = Instant::now();
    let confirmed = let_work(&plan)?;
    let took = began.elapsed();
    let found = ledger::inspect(&plan.file);
    println!("{confirmed} transactions confirmed in {:.1} s", took.as_secs_f64());
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            println!("the file cannot even be read: {error}");
            return Ok(false);
        }
    };
    println!("{} counted, {} rows, integrity: {}", found.counted, found.rows, found.integrity);
    let lost = i64::from(confirmed) - found.counted;
    if lost != 0 {
        println!("{lost} updates were lost");
    }
    Ok(lost == 0 && found.rows == found.counted && found.doubled == 0 && found.integrity == "ok")
}

fn let_work(plan: &Plan) -> Result<u32, Box<dyn std::error::Error>> {
    let total = plan.transactions.unwrap_or(if plan.locks { 20_000 } else { 600 });
    let mut children = Vec::new();
    for worker in 0..plan.workers {
        let orders = Orders {
            file: absolute(&plan.file)?,
            worker,
            // The first ones take what does not divide evenly.
            transactions: total / plan.workers + u32::from(worker < total % plan.workers),
            widen: if plan.locks { Duration::ZERO } else { Duration::from_millis(2) },
            synchronous: plan.synchronous.clone(),
            socket: plan.locks.then(|| plan.sockets[worker as usize % plan.sockets.len()].clone()),
        };
        let program = std::env::current_exe()?;
        children.push(Command::new(program).args(orders.to_args()).stdout(Stdio::piped()).spawn()?);
    }
    let mut confirmed = 0;
    for child in children {
        let output = child.wait_with_output()?;
        if !output.status.success() {
            return Err(format!("a worker failed: {}", output.status).into());
        }
        confirmed += String::from_utf8(output.stdout)?.trim().parse::<u32>()?;
    }
    Ok(confirmed)
}

fn absolute(file: &Path) -> std::io::Result<PathBuf> {
    std::path::absolute(file)
}
