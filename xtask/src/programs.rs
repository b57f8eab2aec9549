//! Test programs, several at once.
//!
//! `cargo test` runs one program after the other, and most of those with real nodes wait for timers nearly all the time. A runner
//! from elsewhere would have to be built first, on a machine that has nothing: that takes longer than it saves.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::context::{Context, Failure, hear};

/// So many at once. More, and what is slow then is no fault of anybody.
const AT_ONCE: usize = 2;

/// What runs alone, because it watches what others do to the machine.
const ALONE: &[&str] = &["oarlock-bench", "namespaces"];

/// A program as cargo has built it.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// For people: package and target.
    name: String,
    executable: PathBuf,
    /// Where it runs: the directory of its package.
    directory: PathBuf,
}

impl Program {
    fn is_alone(&self) -> bool {
        ALONE.iter().any(|alone| self.name.split(' ').any(|word| word == *alone))
    }
}

/// All test programs of the workspace, built.
pub(crate) fn built(context: &Context) -> Result<Vec<Program>, Failure> {
    let output = context
        .cargo()
        .args(["test", "--locked", "--workspace", "--no-run", "--message-format=json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("cargo test --no-run: {e}"))?;
    if !output.status.success() {
        return Err(format!("cargo test --no-run: {}", output.status));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(program).collect())
}

/// What one line of cargo's says of a test program, if it is about one.
fn program(line: &str) -> Option<Program> {
    let it: Value = serde_json::from_str(line).ok()?;
    let is_test = it["reason"] == "compiler-artifact" && it["profile"]["test"] == true;
    let executable = it["executable"].as_str().filter(|_| is_test)?;
    let manifest = PathBuf::from(it["manifest_path"].as_str()?);
    let directory = manifest.parent()?.to_path_buf();
    let package = package(it["package_id"].as_str()?);
    Some(Program {
        name: format!("{package} {}", it["target"]["name"].as_str()?),
        executable: executable.into(),
        directory,
    })
}

/// `path+file:///…/crates/oarlock-lock#0.1.0` or `…/bench#oarlock-bench@0.1.0`: the name.
fn package(id: &str) -> &str {
    let (path, version) = id.rsplit_once('#').unwrap_or((id, ""));
    version.split_once('@').map_or_else(|| path.rsplit('/').next().unwrap_or(path), |(name, _)| name)
}

/// Runs all, several at once, and shows every line to `see`, those of a program together. The result names those that failed; the
/// second part the slowest.
pub(crate) fn run(
    context: &Context,
    all: Vec<Program>,
    see: impl FnMut(&str) + Send,
) -> (Result<(), Failure>, String) {
    let (alone, mut together): (Vec<Program>, Vec<Program>) = all.into_iter().partition(Program::is_alone);
    // The long ones first: those of real nodes. They are taken from the end.
    together.sort_by_key(|program| program.name.starts_with("oarlockd "));
    let seen = Mutex::new((see, Vec::new(), Vec::new()));
    let one = |program: Program| {
        let begin = Instant::now();
        let result = play(context, &program);
        let (said, failed) = match result {
            Ok((said, ok)) => (said, !ok),
            Err(why) => (why, true),
        };
        let mut seen = seen.lock().unwrap_or_else(|e| e.into_inner());
        let (see, failures, times): &mut (_, Vec<String>, Vec<(Duration, String)>) = &mut seen;
        println!("     Running {}", program.name);
        for line in said.lines() {
            println!("{line}");
            see(line);
        }
        if failed {
            hear(&format!("{} failed:", program.name));
            let from = said.find("\nfailures:\n").unwrap_or(0);
            let told: Vec<&str> = said[from..].lines().filter(|line| !line.is_empty()).collect();
            told.iter().take(60).for_each(|line| hear(line));
            failures.push(program.name.clone());
        }
        times.push((begin.elapsed(), program.name));
    };
    let queue = Mutex::new(together);
    let next = || queue.lock().unwrap_or_else(|e| e.into_inner()).pop();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(program) = next() {
                    one(program);
                }
            });
        }
    });
    alone.into_iter().for_each(one);
    let (_, failures, mut times) = seen.into_inner().unwrap_or_else(|e| e.into_inner());
    times.sort_unstable_by(|a, b| b.cmp(a));
    let slowest: Vec<String> =
        times.iter().take(5).map(|(time, name)| format!("{name} {:.0} s", time.as_secs_f64())).collect();
    let result = if failures.is_empty() { Ok(()) } else { Err(failures.join(", ")) };
    (result, slowest.join(", "))
}

/// One program, with all that it says.
fn play(context: &Context, program: &Program) -> Result<(String, bool), Failure> {
    let named = |e: std::io::Error| format!("{}: {e}", program.name);
    let (mut reader, writer) = std::io::pipe().map_err(named)?;
    let mut command = Command::new(&program.executable);
    command.current_dir(&program.directory).stdin(Stdio::null());
    command.env("CARGO_MANIFEST_DIR", &program.directory).env("CARGO", context.cargo().get_program());
    command.stdout(writer.try_clone().map_err(named)?).stderr(writer);
    let mut child = command.spawn().map_err(named)?;
    drop(command);
    let mut said = Vec::new();
    std::io::Read::read_to_end(&mut reader, &mut said).map_err(named)?;
    let status = child.wait().map_err(named)?;
    let mut said = String::from_utf8_lossy(&said).into_owned();
    if !status.success() {
        said.push_str(&format!("\n{}: {status}\n", program.name));
    }
    Ok((said, status.success()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_program_is_read_from_what_cargo_says_and_nothing_else_is() {
        let line = |test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"path+file:///x/bench#oarlock-bench@0.1.0",
                "manifest_path":"/x/bench/Cargo.toml","target":{{"name":"goals"}},"profile":{{"test":{test}}},
                "executable":{executable}}}"#
            )
        };
        let found = program(&line(true, r#""/x/target/goals-1""#)).expect("a test program");
        assert_eq!(
            (found.name.as_str(), found.directory),
            ("oarlock-bench goals", PathBuf::from("/x/bench"))
        );
        assert!(program(&line(false, r#""/x/target/goals-1""#)).is_none(), "an example");
        assert!(program(&line(true, "null")).is_none(), "a library");
        assert_eq!(package("path+file:///x/crates/oarlock-lock#0.1.0"), "oarlock-lock");
    }

    #[test]
    fn all_run_and_those_that_fail_are_named() {
        let context = Context::new(crate::context::Volume::Ci);
        let program = |name: &str, executable: &str| Program {
            name: name.into(),
            executable: executable.into(),
            directory: "/".into(),
        };
        let all = ["a", "b", "c", "d", "e"].map(|name| program(name, "/bin/true"));
        let (result, slowest) = run(&context, all.to_vec(), |_| ());
        assert_eq!((result, slowest.split(", ").count()), (Ok(()), 5));
        let mut lines = 0;
        let some =
            vec![program("good", "/bin/pwd"), program("bad", "/bin/false"), program("none", "/no/such")];
        let (result, _) = run(&context, some, |_| lines += 1);
        let mut failed: Vec<String> = result.unwrap_err().split(", ").map(String::from).collect();
        failed.sort();
        assert_eq!((failed, lines >= 3), (vec!["bad".to_string(), "none".into()], true));
    }
}
