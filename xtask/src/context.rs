//! Where the tasks work and how they run programs.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::thread;

use serde_json::Value;

/// How much a part does: the kinds of checks are the same, the volume is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Volume {
    /// What a commit can wait for.
    Ci,
    /// What runs while people sleep.
    Night,
}

/// The working tree and the tools.
pub(crate) struct Context {
    /// Root of the workspace.
    pub(crate) root: PathBuf,
    /// How much to do.
    pub(crate) volume: Volume,
    cargo: OsString,
}

/// What went wrong in a task, in words for people.
pub(crate) type Failure = String;

impl Context {
    /// The tree this program was built from.
    pub(crate) fn new(volume: Volume) -> Context {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = here.parent().expect("xtask lies in the workspace").to_path_buf();
        Context { root, volume, cargo: std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()) }
    }

    /// A cargo command in the root.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(&self.cargo);
        // `cargo run` sets these for us; a nested cargo that sees them would take them for its own flags and
        // rebuild everything.
        for (key, _) in std::env::vars_os() {
            let name = key.to_string_lossy();
            if name.starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" || name == "CARGO_MANIFEST_PATH"
            {
                command.env_remove(&key);
            }
        }
        command.current_dir(&self.root).stdin(Stdio::null());
        command
    }

    /// Any other program in the root.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.current_dir(&self.root).stdin(Stdio::null());
        command
    }

    /// Reads a file of the tree.
    pub(crate) fn read(&self, path: &str) -> Result<String, Failure> {
        fs::read_to_string(self.root.join(path)).map_err(|e| format!("{path}: {e}"))
    }

    /// Where builds go, as cargo sees it.
    pub(crate) fn target_dir(&self) -> PathBuf {
        match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => self.root.join(dir),
            None => self.root.join("target"),
        }
    }

    /// `cargo metadata` of the workspace.
    pub(crate) fn metadata(&self) -> Result<Value, Failure> {
        let output = self
            .cargo()
            .args(["metadata", "--format-version=1", "--locked"])
            .stderr(Stdio::inherit())
            .output()
            .map_err(|e| format!("cargo metadata: {e}"))?;
        if !output.status.success() {
            return Err(format!("cargo metadata: {}", output.status));
        }
        serde_json::from_slice(&output.stdout).map_err(|e| format!("cargo metadata: {e}"))
    }
}

/// Lines of a part that say what went wrong, and its last ones.
#[derive(Default)]
struct Said {
    faults: Vec<String>,
    last: VecDeque<String>,
}

const FAULTS_MAX: usize = 200;
const LAST_MAX: usize = 12;
/// What a line that tells of a fault contains; those after it belong to it.
const TELLING: &[&str] =
    &["error", "FAILED", "panicked at", " findings, first", "not caught", " is empty", "OAR-", "differ"];

static SAID: Mutex<Said> = Mutex::new(Said { faults: Vec::new(), last: VecDeque::new() });

fn said() -> MutexGuard<'static, Said> {
    SAID.lock().unwrap_or_else(|e| e.into_inner())
}

/// A line that belongs to a fault, for the end.
pub(crate) fn hear(line: &str) {
    let mut said = said();
    if said.faults.len() < FAULTS_MAX {
        said.faults.push(line.into());
    }
}

/// A line of which nobody knows whether it matters.
fn overhear(line: &str) {
    if TELLING.iter().any(|word| line.contains(word)) {
        return hear(line);
    }
    let mut said = said();
    said.last.push_back(line.into());
    if said.last.len() > LAST_MAX {
        said.last.pop_front();
    }
}

/// What was said of faults since the last time, and at the end.
pub(crate) fn heard() -> Vec<String> {
    let Said { mut faults, last } = std::mem::take(&mut *said());
    faults.extend(last);
    faults
}

/// Runs a command with its output on ours; what it says of errors is heard.
pub(crate) fn run(command: &mut Command) -> Result<(), Failure> {
    let mut child = command.stderr(Stdio::piped()).spawn().map_err(|e| format!("{}: {e}", shown(command)))?;
    pass_on(child.stderr.take().expect("piped above"));
    ended(command, &mut child)
}

/// Runs a command, prints each line of its standard output and shows it to `see` as well. The result says
/// whether the command succeeded.
pub(crate) fn watch(command: &mut Command, mut see: impl FnMut(&str)) -> Result<(), Failure> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("{}: {e}", shown(command)))?;
    let (output, errors) =
        (child.stdout.take().expect("piped above"), child.stderr.take().expect("piped above"));
    let errors = thread::spawn(move || pass_on(errors));
    for line in BufReader::new(output).split(b'\n') {
        let line = line.map_err(|e| format!("{}: {e}", shown(command)))?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        overhear(&line);
        see(&line);
    }
    let ended = ended(command, &mut child);
    errors.join().map_err(|_| format!("{}: its errors were not read", shown(command)))?;
    ended
}

/// Standard error of a child, on ours.
fn pass_on(errors: ChildStderr) {
    for line in BufReader::new(errors).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        eprintln!("{line}");
        overhear(&line);
    }
}

fn ended(command: &Command, child: &mut Child) -> Result<(), Failure> {
    let status = child.wait().map_err(|e| format!("{}: {e}", shown(command)))?;
    if status.success() { Ok(()) } else { Err(format!("{}: {status}", shown(command))) }
}

/// The command as a person would type it.
fn shown(command: &Command) -> String {
    let program =
        Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    command.get_args().fold(program, |text, arg| format!("{text} {}", arg.to_string_lossy()))
}
