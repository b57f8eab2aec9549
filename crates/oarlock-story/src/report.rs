//! How a play ended, and what is known where it is stuck (S8).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::judge::told_value;
use crate::play::{Play, Way};
use crate::stage::Told;
use crate::table::Command;

/// A play that has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// How.
    pub outcome: Outcome,
    /// How many rows were taken.
    pub rows: u32,
    /// How many expectations were looked at.
    pub expectations: u32,
    /// Every row, command and answer, with its time.
    pub transcript: Vec<String>,
}

/// How a play ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// All flows came to their end, all expectations held, and every checker is content.
    Kept,
    /// An expectation did not hold, or a command made no sense where it stood.
    Failed(Failure),
    /// All flows wait and nothing can come: a report, line by line.
    Stuck(Vec<String>),
    /// All flows came to their end, but a promise was broken on the way.
    Broken(Vec<String>),
}

/// What did not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Line of the row, 0 for the storyboard as a whole.
    pub line: u32,
    /// The flow.
    pub flow: String,
    /// What was expected and what was so instead.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.what),
            line => write!(f, "line {line}, flow {}: {}", self.flow, self.what),
        }
    }
}

impl Report {
    /// Was all as it should be?
    pub fn is_kept(&self) -> bool {
        self.outcome == Outcome::Kept
    }
}

impl Play<'_> {
    /// Each flow's rows, what it waits for, and who holds and waits for which lock.
    pub(crate) fn stuck(&self, remarks: Vec<String>) -> Vec<String> {
        let mut lines = Vec::new();
        for (flow, cursor) in self.story.flows.iter().zip(&self.flows) {
            let name = &flow.name;
            match cursor.way {
                Way::Done => lines.push(format!("flow {name} is done")),
                Way::Killed => lines.push(format!("flow {name} was killed")),
                Way::In { row, command } => {
                    let row = &flow.rows[row];
                    let waits = row.commands.get(command).map_or(String::new(), Command::to_words);
                    lines.push(format!(
                        "flow {name}, state {}, line {}: waits in `{waits}`",
                        row.state, row.line
                    ));
                }
                Way::Rests => {
                    for row in flow.rows.iter().filter(|row| row.state == cursor.state) {
                        lines.push(format!(
                            "flow {name}, state {}, line {}: waits for `{}`",
                            row.state, row.line, row.on
                        ));
                    }
                }
            }
        }
        let mut locks = Vec::new();
        for (flow, cursor) in self.story.flows.iter().zip(&self.flows) {
            for (handle, lock) in cursor.book.living() {
                let told = lock
                    .told
                    .map_or(String::new(), |mode| format!(", and was told that somebody wants {mode}"));
                locks.push(format!("lock {}.{handle} {}{told}", flow.name, lock.tell()));
            }
        }
        if locks.is_empty() {
            locks.push("nobody holds or waits for a lock".into());
        }
        lines.extend(locks);
        lines.extend(remarks);
        lines
    }
}

impl Command {
    fn to_words(&self) -> String {
        format!("{self}")
    }
}

/// What a lock was told, in words.
pub(crate) fn told_words(name: &str, told: &Told) -> String {
    match told {
        Told::Granted { mode, token, value, .. } => {
            let value = value.as_ref().map_or(String::new(), |value| format!(", read {}", told_value(value)));
            let fence = token.fence;
            format!(
                "granted {name} {mode}, token {}.{}.{}{value}",
                fence.epoch().0,
                fence.serial(),
                token.local
            )
        }
        Told::Released { .. } => format!("released {name}"),
        Told::Failed { code, .. } => format!("failed {name} with {code}"),
        Told::Blocking { wanted, .. } => format!("blocking {name}, somebody wants {wanted}"),
        Told::Lost => "lost".into(),
        Told::Attached => "attached".into(),
    }
}
