//! `oarlock dlm ls | join | leave`: the lockspaces of programs that were written for libdlm, which are branches of one of ours.

use oarlock_node::branch::Step;

use super::cli::{Ask, Dlm as Command, Home, Output};
use super::condition::{Cell, Kind};
use super::listing::{Columns, column};
use super::output;
use super::status::session;
use crate::console::doc::{Branch, Branches, Question};
use crate::problem::Result;

/// What `oarlock dlm ls` tells of a lockspace.
pub static BRANCHES: Columns =
    Columns { all: &[column("LOCKSPACE", Kind::Name), column("OPENED", Kind::Count)], narrow: 2 };

/// Runs one of them.
pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Ls { home, ask } => {
            let plan = BRANCHES.plan(&ask.list)?;
            let question = Question::Branch { space: home.space.clone(), step: Step::List };
            let mut here: Branches = session(&ask.connect)?.document(&question)?;
            plan.arrange(&mut here.branches, row);
            plan.print(&here.branches, row, &here)
        }
        Command::Join { name, exclusive, home, ask } => {
            step(home, ask, Step::Open { branch: name.clone(), exclusive: *exclusive })
        }
        Command::Leave { name, force, home, ask } => {
            step(home, ask, Step::Close { branch: name.clone(), force: *force })
        }
    }
}

fn row(branch: &Branch) -> Vec<Cell> {
    vec![Cell::name(&branch.name), Cell::count(branch.opened.into())]
}

fn step(home: &Home, ask: &Ask, step: Step) -> Result<()> {
    let question = Question::Branch { space: home.space.clone(), step };
    let after: Branches = session(&ask.connect)?.document(&question)?;
    let text: Vec<String> = after.branches.iter().map(said).collect();
    match ask.format.output {
        form @ (Output::Json | Output::Yaml) => output::print_document(form, &after),
        Output::Name => output::print_text(&names(&after)),
        Output::Table | Output::Wide => output::print_text(&text.join("\n")),
    }
}

fn names(branches: &Branches) -> String {
    branches.branches.iter().map(|branch| branch.name.as_str()).collect::<Vec<_>>().join("\n")
}

fn said(branch: &Branch) -> String {
    match branch.opened {
        0 => format!("{} is closed", branch.name),
        1 => format!("{} is open", branch.name),
        count => format!("{} is open {count} times", branch.name),
    }
}
