//! Instructions of a covered pair: they must not grow with the number of resources.
//!
//! Counted by valgrind, which sees the same whatever else the machine does. The counted program is this one
//! ([`child`]): it fills two nodes with resources, says so, is watched from then on, and does some pairs.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

use super::Setting;
use crate::pure::Pure;
use crate::report::Line;
use crate::rounds::{Contender, Failure, Plan, alternate};

/// Pairs that are counted.
const PAIRS: usize = 2000;
/// Locks taken and given back together while filling, so that they share datagrams.
const BATCH: usize = 512;

/// Instructions of a pair with few and with many resources; nothing where valgrind is not installed.
pub(crate) fn run(setting: &Setting) -> Result<Vec<Line>, Failure> {
    if !possible() {
        return Ok(Vec::new());
    }
    let few = 1_000;
    let many = if setting.quick { 20_000 } else { 1_000_000 };
    let once = Plan { rounds: 1, patience: std::time::Duration::ZERO, noise_max: 1.0, ..setting.plan };
    let table = alternate(
        &once,
        &mut [
            Contender::new("many resources", || Ok(vec![count(many, false)?])),
            Contender::new("few resources", || Ok(vec![count(few, false)?])),
            Contender::new("remote", || Ok(vec![count(few, true)?])),
        ],
    )?;
    let line = Line::new("covered pair, in the node", "instructions", table.metric(0, 0).median, &table)
        .mode("counted")
        .against("a thousand resources", Some(table.metric(1, 0).median), Some(table.ratio((0, 0), (1, 0))))
        .also("resources", f64::from(many));
    let remote = Line::new("remote pair, in both nodes", "instructions", table.metric(2, 0).median, &table)
        .mode("counted")
        .against("a covered pair", Some(table.metric(1, 0).median), Some(table.ratio((2, 0), (1, 0))));
    Ok(vec![line, remote])
}

/// Says so where instructions cannot be counted.
pub(super) fn possible() -> bool {
    let found = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("instructions of a pair: valgrind is not installed");
    }
    found
}

fn count(resources: u32, remote: bool) -> Result<f64, Failure> {
    let mut arguments = vec!["pairs".into(), "--resources".into(), resources.to_string()];
    arguments.extend(remote.then(|| "--remote".into()));
    count_of(&arguments, PAIRS, READY)
}

/// Runs this program under valgrind and has it counted once it says that it is ready: instructions of a pair.
pub(super) fn count_of(arguments: &[String], pairs: usize, ready: &str) -> Result<f64, Failure> {
    let me = std::env::current_exe().map_err(|e| format!("where this program is: {e}"))?;
    let directory = tempfile::tempdir().map_err(|e| format!("a directory: {e}"))?;
    let io = |e: std::io::Error| format!("valgrind: {e}");
    let mut child = Command::new("valgrind")
        .args(["--tool=callgrind", "--instr-atstart=no"])
        .arg(format!("--callgrind-out-file={}", directory.path().join("out").display()))
        .arg(me)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(io)?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let mut errors = child.stderr.take().ok_or("its errors were not piped")?;
    let talk = || -> Result<(), Failure> {
        let mut line = String::new();
        BufReader::new(output.ok_or("its output was not piped")?).read_line(&mut line).map_err(io)?;
        if line.trim() != ready {
            return Err("the counted program did not get ready".into());
        }
        let control = Command::new("callgrind_control")
            .args(["-i", "on", &child.id().to_string()])
            .stdin(Stdio::null())
            .output()
            .map_err(|e| format!("callgrind_control: {e}"))?;
        if !control.status.success() {
            return Err(format!("callgrind_control: {}", String::from_utf8_lossy(&control.stderr)));
        }
        input.ok_or("its input was not piped")?.write_all(b"go\n").map_err(io)
    };
    let talked = talk();
    let mut said = String::new();
    errors.read_to_string(&mut said).map_err(io)?;
    let status = child.wait().map_err(io)?;
    talked.map_err(|why| format!("{why}\n{said}"))?;
    match super::command::collected(&said) {
        Some(instructions) if status.success() => Ok(instructions / pairs as f64),
        _ => Err(format!("{status}\n{said}")),
    }
}

const READY: &str = "filled";

/// What is counted: pairs on names all over the table, covered or remote.
pub(crate) fn child(resources: u32, remote: bool) -> Result<(), Failure> {
    let mut cluster = Pure::form(2, !remote)?;
    let names = cluster.names_mastered_from(1, resources as usize);
    for batch in names.chunks(BATCH) {
        batch.iter().enumerate().for_each(|(at, name)| cluster.ask(0, at as u32, name));
        cluster.settle();
        for at in 0..batch.len() as u32 {
            cluster.check_granted(0, at)?;
            cluster.release(0, at);
        }
        cluster.settle();
    }
    println!("{READY}");
    let mut go = String::new();
    std::io::stdin().read_line(&mut go).map_err(|e| e.to_string())?;
    let messages = cluster.messages();
    for pair in 0..PAIRS {
        // Steps that share no factor with the number of names: every part of the table has its turn.
        let name = &names[pair * 7919 % names.len()];
        cluster.acquire(0, 0, name)?;
        cluster.release(0, 0);
        cluster.settle();
    }
    let messages = cluster.messages() - messages;
    if remote == (messages < PAIRS as u64) {
        return Err(format!("{messages} messages for {PAIRS} pairs"));
    }
    // Taking the tables down would be counted too, and grows with them.
    std::process::exit(0)
}
