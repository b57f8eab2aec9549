//! Options that several commands share: which daemon, which lockspace, how to print, which rows.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};
use clap_complete::ArgValueCompleter;

use super::complete;

/// How to reach a daemon.
#[derive(Args, Clone, Debug, Default)]
pub struct Connect {
    /// Socket of the node to talk to [default: OARLOCK_SOCKET, the system's node, this user's `oarlock dev`]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub socket: Option<PathBuf>,
}

/// How to print.
#[derive(Args, Clone, Debug)]
pub struct Format {
    /// How to print: a table, a wider table, one JSON or YAML document, or names only
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Leave out the line of column names
    #[arg(long)]
    pub no_headers: bool,
}

/// Forms of output.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// For people.
    Table,
    /// For people with wide screens.
    Wide,
    /// For programs.
    Json,
    /// The same document, for programs and people that prefer YAML.
    Yaml,
    /// One name a line.
    Name,
}

/// How to print a list, and which part of it.
#[derive(Args, Clone, Debug)]
pub struct List {
    /// How to print.
    #[command(flatten)]
    pub format: Format,
    /// Columns of the table, in this order; documents keep all their keys
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub columns: Vec<String>,
    /// Only rows of which this is true: COLUMN=VALUE, !=, <, >, <=, >= or ~PART; several, in several --where
    /// or joined by ` and `, must all be true
    #[arg(long = "where", value_name = "EXPR")]
    pub conditions: Vec<String>,
    /// Rows in order of this column; -COLUMN for the largest first
    #[arg(long, value_name = "COLUMN", value_delimiter = ',', allow_hyphen_values = true)]
    pub sort: Vec<String>,
}

/// A question to a daemon.
#[derive(Args, Clone, Debug)]
pub struct Ask {
    /// How to reach the daemon.
    #[command(flatten)]
    pub connect: Connect,
    /// How to print the answer.
    #[command(flatten)]
    pub format: Format,
}

/// Whether something that cannot be taken back is meant.
#[derive(Args, Clone, Debug)]
pub struct Sure {
    /// Do it without asking
    #[arg(short, long)]
    pub yes: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// A question to a daemon whose answer is a list.
#[derive(Args, Clone, Debug)]
pub struct AskList {
    /// How to reach the daemon.
    #[command(flatten)]
    pub connect: Connect,
    /// How to print the answer.
    #[command(flatten)]
    pub list: List,
}

/// Which resources.
#[derive(Args, Clone, Debug)]
pub struct Space {
    /// Lockspace to look at
    #[arg(long, value_name = "SPACE", default_value = crate::config::DEFAULT_SPACE, add = ArgValueCompleter::new(complete::spaces))]
    pub space: String,
}
