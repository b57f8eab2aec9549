//! Names by Tab. The script of `oarlock completions SHELL` runs this program with [`VARIABLE`] set; what
//! could stand at the cursor is printed. Names come from the daemon, if it answers at once.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap_complete::engine::{PathCompleter, ValueCompleter};
use clap_complete::env::Shells;
use clap_complete::{CompleteEnv, CompletionCandidate, Shell};
use serde::de::DeserializeOwned;

use super::session::Session;
use super::{cli, connect};
use crate::config::DEFAULT_SPACE;
use crate::console::doc::{Locks, Question, Status};

/// The variable that names the shell which asks. One of our own: `COMPLETE` may be set for anything, and
/// then `oarlock lock` must still take a lock.
pub const VARIABLE: &str = "OARLOCK_COMPLETE";

/// A Tab that takes longer feels stuck; then there are no names.
const ANSWER_MAX: Duration = Duration::from_millis(100);

/// Answers a shell that asks, and nothing else.
pub fn answer(args: &[OsString]) -> Option<ExitCode> {
    std::env::var_os(VARIABLE)?;
    let here = std::env::current_dir().ok();
    let asked = CompleteEnv::with_factory(cli::declaration).var(VARIABLE);
    match asked.try_complete(args, here.as_deref()) {
        Ok(true) => Some(ExitCode::SUCCESS),
        Ok(false) => None,
        Err(error) => Some(super::usage(&error)),
    }
}

/// The script that makes a shell ask.
pub fn script(shell: Shell, out: &mut Vec<u8>) {
    let shells = Shells::builtins();
    let shell = shells.completer(&shell.to_string()).expect("each shell can do both");
    // By name if it was found by name, so that the script outlives an upgrade.
    let typed = std::env::args_os().next().map_or("oarlock".into(), PathBuf::from);
    let program = match typed.components().count() {
        0 | 1 => typed,
        _ => std::env::current_dir().map_or(typed.clone(), |here| here.join(&typed)),
    };
    let program = program.to_string_lossy();
    shell.write_registration(VARIABLE, "oarlock", "oarlock", &program, out).expect("memory takes it all");
}

/// Resources that begin so.
pub fn resources(begun: &OsStr) -> Vec<CompletionCandidate> {
    let space = typed("--space").map_or(DEFAULT_SPACE.into(), |s| s.to_string_lossy().into_owned());
    let locks: Option<Locks> = ask(Question::Locks { space, waiting: false, name: None });
    candidates(begun, locks.into_iter().flat_map(|l| l.resources).map(|r| r.name))
}

/// Members that begin so.
pub fn nodes(begun: &OsStr) -> Vec<CompletionCandidate> {
    let status: Option<Status> = ask(Question::Status);
    candidates(begun, status.into_iter().flat_map(|s| s.members).map(|m| m.node))
}

/// Nodes of this user's `oarlock dev` that begin so, whether they live or not.
pub fn dev_nodes(begun: &OsStr) -> Vec<CompletionCandidate> {
    let running = super::connect::running_dev();
    candidates(begun, running.into_iter().flat_map(|dev| dev.sockets.into_keys()))
}

/// Lockspaces that begin so.
pub fn spaces(begun: &OsStr) -> Vec<CompletionCandidate> {
    let status: Option<Status> = ask(Question::Status);
    candidates(begun, status.into_iter().flat_map(|s| s.spaces).map(|s| s.name))
}

/// The words of a command: a program, then files.
pub struct Words;

impl ValueCompleter for Words {
    fn complete(&self, begun: &OsStr) -> Vec<CompletionCandidate> {
        self.complete_at(0, begun)
    }

    fn complete_at(&self, index: usize, begun: &OsStr) -> Vec<CompletionCandidate> {
        if index > 0 || begun.to_string_lossy().contains('/') {
            return PathCompleter::any().complete(begun);
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut names: Vec<String> = std::env::split_paths(&path)
            .filter_map(|directory| std::fs::read_dir(directory).ok())
            .flatten()
            .flatten()
            .filter(|entry| runs(&entry.path()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        names.dedup();
        candidates(begun, names.into_iter())
    }
}

fn runs(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Names that a shell would read as something else are left out: they are inserted as they are, and who
/// named a resource need not be a friend of who completes it.
fn candidates(begun: &OsStr, names: impl Iterator<Item = String>) -> Vec<CompletionCandidate> {
    let begun = begun.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%,=".contains(c);
    names
        .filter(|n| n.starts_with(begun.as_ref()) && !n.starts_with(['-', '=']) && n.chars().all(plain))
        .map(CompletionCandidate::new)
        .collect()
}

/// Asks the daemon that the command would ask. Whatever goes wrong, the answer is none, and it comes in time:
/// the thread that still waits ends with the process.
fn ask<T: DeserializeOwned + Send + 'static>(question: Question) -> Option<T> {
    let socket = typed("--socket").map(PathBuf::from);
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let answer = connect::find(socket.as_deref())
            .and_then(|(path, _)| Session::open(&path, "oarlock")?.document::<T>(&question));
        // Nobody listens any more if it took too long.
        let _ = sender.send(answer.ok());
    });
    receiver.recv_timeout(ANSWER_MAX).ok().flatten()
}

/// The value of an option that was typed already.
fn typed(option: &str) -> Option<OsString> {
    // The program, `--`, and the line as far as it goes.
    value_of(option, std::env::args_os().skip(2))
}

fn value_of(option: &str, words: impl Iterator<Item = OsString>) -> Option<OsString> {
    let mut words = words.take_while(|w| w != "--");
    while let Some(word) = words.next() {
        if word == option {
            // Some shells hand over `--space=x` as three words.
            return words.find(|w| w != "=");
        }
        if let Some(value) = word.to_str().and_then(|w| w.strip_prefix(option)?.strip_prefix('=')) {
            return Some(value.into());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_line_are_found_however_they_are_typed() {
        let cases = [
            ("oarlock locks ls --space orders x", Some("orders")),
            ("oarlock locks ls --space=orders x", Some("orders")),
            ("oarlock locks ls --space = orders x", Some("orders")),
            ("oarlock locks ls --spaces orders", None),
            ("oarlock lock x -- sh --space orders", None),
            ("oarlock locks ls --space", None),
        ];
        for (line, expected) in cases {
            let found = value_of("--space", line.split(' ').map(OsString::from));
            assert_eq!(found.as_deref(), expected.map(OsStr::new), "{line}");
        }
    }

    #[test]
    fn names_that_a_shell_would_read_are_not_offered() {
        let names =
            ["orders/1", "orders/$(date)", "orders/a b", "orders/`x`", "orders/;", "other", "-x", "=x"];
        let offered = |begun: &str| -> Vec<String> {
            let candidates = candidates(OsStr::new(begun), names.iter().map(|n| (*n).to_owned()));
            candidates.iter().map(|c| c.get_value().to_string_lossy().into_owned()).collect()
        };
        assert_eq!(offered("orders/"), ["orders/1"]);
        assert_eq!(offered(""), ["orders/1", "other"]);
        assert_eq!(offered("\\"), [""; 0]);
    }
}
