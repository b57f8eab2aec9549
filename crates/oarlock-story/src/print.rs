//! A storyboard printed back (S1): the same tables, aligned. Prose belongs to the file and is not kept.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::table::{Flow, Row, Story};

const HEADER: [&str; 4] = ["state", "on", "do", "next"];

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# {}", self.title)?;
        self.flows.iter().try_for_each(|flow| write!(f, "\n{flow}"))
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "## flow {}", self.name)?;
        if let Some(node) = self.node {
            write!(f, " at {node}")?;
        }
        f.write_str("\n\n")?;
        let rows: Vec<[String; 4]> = self.rows.iter().map(cells).collect();
        let widths: Vec<usize> = (0..4)
            .map(|n| rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0).max(HEADER[n].len()))
            .collect();
        line(f, &HEADER.map(String::from), &widths)?;
        let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
        line(f, &rule, &widths)?;
        rows.iter().try_for_each(|row| line(f, row, &widths))
    }
}

fn line(f: &mut fmt::Formatter<'_>, cells: &[String], widths: &[usize]) -> fmt::Result {
    f.write_str("|")?;
    for (cell, &width) in cells.iter().zip(widths) {
        write!(f, " {cell:width$} |")?;
    }
    f.write_str("\n")
}

/// The cells of a row, as they stand in a Markdown table.
fn cells(row: &Row) -> [String; 4] {
    let commands: Vec<String> = row.commands.iter().map(ToString::to_string).collect();
    let commands = if commands.is_empty() { "-".into() } else { commands.join("; ") };
    [row.state.clone(), row.on.to_string(), commands, row.next.to_string()]
        .map(|cell| cell.replace('|', "\\|"))
}
