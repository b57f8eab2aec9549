//! What the command costs: `oarlock lock x -- true` beside `flock f true`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::Setting;
use crate::cluster::{self, Cluster};
use crate::machine::pin;
use crate::report::{Bound, Line};
use crate::rounds::{Contender, Failure, Times, alternate};

/// Runs of each, all rounds together.
const RUNS: usize = 200;

/// Medians over alternated runs; instruction counts where valgrind is installed.
pub(crate) fn run(setting: &Setting) -> Result<Vec<Line>, Failure> {
    let cluster = Cluster::start(setting.cpus, true)?;
    let directory = tempfile::tempdir().map_err(|e| format!("a directory: {e}"))?;
    let binary = cluster::binary()?;
    let ours = || {
        let mut command = Command::new(&binary);
        command.args(["lock", "bench/command", "--", "true"]).env("OARLOCK_SOCKET", cluster.socket(0));
        command
    };
    let file = directory.path().join("f");
    let theirs = || {
        let mut command = Command::new("flock");
        command.arg(&file).arg("true");
        command
    };
    pin(setting.cpus.0);
    // Alternating run by run, so one contender does both.
    let runs = RUNS / setting.plan.rounds;
    let table = alternate(
        &setting.plan,
        &mut [Contender::new("oarlock lock and flock", || {
            let (mut a, mut b) = (Times::default(), Times::default());
            for _ in 0..runs {
                a.push(time(&mut ours())?);
                b.push(time(&mut theirs())?);
            }
            Ok(vec![a.percentiles()?[0], b.percentiles()?[0]])
        })],
    )?;
    let mut line = Line::new("oarlock lock x -- true", "us", table.metric(0, 0).median, &table)
        .mode("adaptive")
        .against("flock f true", Some(table.metric(0, 1).median), Some(table.ratio((0, 0), (0, 1))))
        .stretch(Bound::AtMost(2.0));
    match (instructions(ours, directory.path()), instructions(theirs, directory.path())) {
        (Ok(a), Ok(b)) => {
            line = line
                .also("instructions", a)
                .also("instructions_of_flock", b)
                .also("instructions_ratio", a / b);
        }
        (a, b) => {
            let why = a.err().or(b.err()).unwrap_or_default();
            eprintln!("instructions of the command are not counted: {why}");
        }
    }
    Ok(vec![line])
}

fn time(command: &mut Command) -> Result<std::time::Duration, Failure> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let began = Instant::now();
    let output = command.output().map_err(|e| format!("{:?}: {e}", command.get_program()))?;
    let time = began.elapsed();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{:?}: {}: {said}", command.get_program(), output.status));
    }
    Ok(time)
}

/// Instructions of the program itself in user space, without its child. Not every valgrind knows every system
/// call that the program needs.
fn instructions(command: impl Fn() -> Command, directory: &Path) -> Result<f64, Failure> {
    let command = command();
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--trace-children=no"])
        .arg(format!("--callgrind-out-file={}", directory.join("callgrind.%p").display()))
        .arg(command.get_program())
        .args(command.get_args())
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("valgrind: {e}"))?;
    // A fork writes its own count, of what it did before it became the child: the first line is the parent's
    // or the child's, the larger one is the parent's.
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    match collected(&text) {
        Some(count) if output.status.success() => Ok(count),
        _ => Err(text.lines().filter(|line| !line.starts_with(['=', '-'])).collect::<Vec<_>>().join("; ")),
    }
}

/// The count in what valgrind says at its end.
pub(super) fn collected(text: &str) -> Option<f64> {
    let count = |line: &str| line.split_once("Collected :")?.1.trim().parse::<f64>().ok();
    text.lines().filter_map(count).reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_in_what_valgrind_says() {
        let text = "==1== Events    : Ir\n==1== Collected : 1200\n==2== Collected : 34567\n";
        assert_eq!(collected(text), Some(34567.0));
        assert_eq!(collected("==1== killed\n"), None);
    }
}
