//! Printing: tables for people, documents for programs, problems for both. Data goes to stdout, talk to
//! stderr.

use std::fmt;
use std::io::{self, Write};

use serde::Serialize;

use super::cli::Output;
use crate::problem::{Problem, Result};

/// Rows of text under column names.
pub struct Rows {
    names: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Rows {
    /// A table with these columns and no rows.
    pub fn new(names: &[&'static str]) -> Rows {
        Rows { names: names.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; `-` stands for an empty cell, so that no column looks forgotten.
    pub fn push(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.names.len(), "a cell for each column");
        self.rows.push(cells.into_iter().map(|c| if c.is_empty() { "-".into() } else { c }).collect());
    }

    /// The table, with or without the line of column names.
    pub fn text(&self, headers: bool) -> String {
        let header: Vec<String> = self.names.iter().map(|n| (*n).to_owned()).collect();
        let lines: Vec<&Vec<String>> = headers.then_some(&header).into_iter().chain(&self.rows).collect();
        let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.names.len()).map(width).collect();
        // Never wrapped: a program that cuts columns is better served by a long line than by two.
        let print = |line: &&Vec<String>| {
            let cells = line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        lines.iter().map(print).collect::<Vec<_>>().join("\n")
    }
}

/// Prints one document: YAML if that was asked for, else JSON.
pub fn print_document<T: Serialize>(form: Output, document: &T) -> Result<()> {
    print_text(&written(form, document))
}

fn written<T: Serialize>(form: Output, document: &T) -> String {
    const PLAIN: &str = "a document is plain data";
    match form {
        // It ends its last line itself.
        Output::Yaml => serde_saphyr::to_string(document).expect(PLAIN).trim_end().to_owned(),
        _ => serde_json::to_string_pretty(document).expect(PLAIN),
    }
}

/// Prints lines. A reader that went away (`| head`) is no failure.
pub fn print_text(text: &str) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Problem::io(oarlock_layout::code::Code::Failed, "cannot write to standard output", &e))
        }
        _ => Ok(()),
    }
}

/// Says something to people, on stderr. If nobody listens any more that is no reason to fail: a command that
/// holds a lock must not end because its terminal did.
pub fn say(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// The same on stdout, for what is talk although it is all the command prints.
pub fn tell(text: fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Prints a problem to stderr, as a document if the command was asked for documents.
pub fn print_problem(problem: &Problem, form: Output) {
    let mut err = io::stderr().lock();
    let _ = match form {
        Output::Json | Output::Yaml => writeln!(err, "{}", written(form, &document(problem))),
        _ => writeln!(err, "oarlock: {problem}"),
    };
}

/// A problem as a document.
pub fn document(problem: &Problem) -> serde_json::Value {
    serde_json::json!({
        "v": 1,
        "error": {
            "code": problem.code.to_string(),
            "what": problem.what,
            "why": problem.why,
            "try_next": problem.try_next,
            "exit": problem.exit(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up_and_leave_no_cell_empty() {
        let mut rows = Rows::new(&["NAME", "MODE"]);
        rows.push(vec!["a".into(), "EX".into()]);
        rows.push(vec!["longer".into(), String::new()]);
        assert_eq!(rows.text(true), "NAME    MODE\na       EX\nlonger  -");
        assert_eq!(rows.text(false), "a       EX\nlonger  -");
    }

    /// What reads YAML must get the same strings back: a fence is no number, a resource may be called `no`.
    #[test]
    fn yaml_is_the_same_document_and_keeps_strings_strings() {
        let document = serde_json::json!({
            "v": 1, "rows": [{"fence": "90117", "name": "no", "held": null, "retained": true, "per_s": 1.5}]
        });
        let lines = [
            "rows:",
            "- fence: \"90117\"",
            "  held: null",
            "  name: \"no\"",
            "  per_s: 1.5",
            "  retained: true",
            "v: 1",
        ];
        assert_eq!(written(Output::Yaml, &document).lines().collect::<Vec<_>>(), lines);
    }

    #[test]
    fn a_problem_is_a_document_with_its_code_and_status() {
        let p = Problem::new(oarlock_layout::code::Code::Busy, "x is held");
        let d = document(&p);
        assert_eq!((d["v"].as_u64(), d["error"]["code"].as_str()), (Some(1), Some("OAR-2101")));
        assert_eq!(d["error"]["exit"], 75);
    }
}
