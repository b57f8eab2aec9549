//! `oarlock space ls | show`: which lockspaces there are, and to whom they are given.

use oarlock_layout::code::Code;

use super::cli::{Output, Spaces as Command};
use super::condition::{Cell, Kind};
use super::listing::{Columns, column};
use super::output;
use super::status::{counted, session};
use crate::console::doc::{Question, Space, Status};
use crate::problem::{Problem, Result, did_you_mean};

/// What `oarlock space ls` tells of a lockspace.
pub static SPACES: Columns = Columns {
    all: &[
        column("SPACE", Kind::Name),
        column("ORDER", Kind::Word),
        column("OWNER", Kind::Name),
        column("GROUP", Kind::Name),
        column("MODE", Kind::Word),
        column("YOURS", Kind::Word),
        column("NODES", Kind::Name),
        column("RESOURCES", Kind::Count),
        column("MAX", Kind::Count),
        column("WAITING", Kind::Count),
        column("RETAIN", Kind::Word),
        column("SEGMENT", Kind::Word),
    ],
    narrow: 8,
};

#[derive(serde::Serialize)]
struct Listed<'a> {
    v: u32,
    spaces: &'a [Space],
    hidden_spaces: u64,
}

#[derive(serde::Serialize)]
struct Shown<'a> {
    v: u32,
    #[serde(flatten)]
    space: &'a Space,
}

/// Runs one of them.
pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Ls(ask) => {
            let plan = SPACES.plan(&ask.list)?;
            let Status { mut spaces, hidden_spaces, .. } =
                session(&ask.connect)?.document(&Question::Status)?;
            plan.arrange(&mut spaces, row);
            plan.print(&spaces, row, &Listed { v: 1, spaces: &spaces, hidden_spaces })?;
            if let Some(hidden) = hidden(hidden_spaces) {
                output::say(format_args!("oarlock: {hidden}"));
            }
            Ok(())
        }
        Command::Show { name, ask } => {
            let status: Status = session(&ask.connect)?.document(&Question::Status)?;
            let space = one(&status, name)?;
            match ask.format.output {
                form @ (Output::Json | Output::Yaml) => output::print_document(form, &Shown { v: 1, space }),
                Output::Name => output::print_text(&space.name),
                Output::Table | Output::Wide => output::print_text(&page(space)),
            }
        }
    }
}

fn one<'a>(status: &'a Status, name: &str) -> Result<&'a Space> {
    let names = || status.spaces.iter().map(|s| s.name.as_str());
    status.spaces.iter().find(|s| s.name == name).ok_or_else(|| {
        let all: Vec<_> = names().collect();
        let hidden = hidden(status.hidden_spaces).map_or(String::new(), |it| format!("; {it}"));
        let problem = Problem::new(Code::UnknownSpace, format!("there is no lockspace `{name}` to be seen"))
            .because(format!("the lockspaces are {}{hidden}", all.join(", ")));
        match did_you_mean(name, names()) {
            Some(meant) => problem.try_next(format!("oarlock space show {meant}")),
            None => problem.try_next("oarlock space ls"),
        }
    })
}

/// What is left out is said.
pub(super) fn hidden(count: u64) -> Option<String> {
    (count > 0).then(|| format!("{} left out, which you may not look at", counted(count, "lockspace")))
}

fn nodes(s: &Space) -> String {
    s.nodes.as_ref().map_or("all".into(), |nodes| nodes.join(","))
}

fn row(s: &Space) -> Vec<Cell> {
    let yes = |it: bool| Cell::word(if it { "yes" } else { "no" });
    vec![
        Cell::name(&s.name),
        Cell::word(&s.order),
        Cell::name(&s.owner),
        Cell::name(&s.group),
        Cell::word(&s.mode),
        Cell::word(&s.yours),
        Cell::name(nodes(s)),
        Cell::count(s.resources),
        Cell::count(s.resources_max),
        Cell::count(s.waiting),
        yes(s.retain),
        yes(s.segment),
    ]
}

fn page(s: &Space) -> String {
    let yours = match s.yours.as_str() {
        "rw" => "look, take locks to read and to write in",
        "r" => "look, take locks to read in",
        "look" => "look, and no more",
        _ => "nothing",
    };
    [
        format!("space      {} ({})", s.name, s.order),
        format!("given to   owner {}, group {}, mode {}", s.owner, s.group, s.mode),
        format!("nodes      {}", nodes(s)),
        format!("you may    {yours}"),
        format!("resources  {} on this node, {} at most", s.resources, s.resources_max),
        format!("masters    {} of them decided here", s.mastered),
        format!("waiting    {}", counted(s.waiting, "lock")),
        format!("retain     {}", if s.retain { "yes" } else { "no: given back after the last use" }),
        format!("segment    {}", if s.segment { "yes" } else { "no: programs ask for every lock" }),
    ]
    .join("\n")
}
