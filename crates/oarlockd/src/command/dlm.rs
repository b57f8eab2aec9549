//! `oarlock dlm run | ls | status | lockdump | join | leave`: the lockspaces of programs that were written for libdlm, which are branches of one of ours.

use oarlock_layout::name::Escaped;
use oarlock_node::branch::{MARK, Step};

use super::cli::{Ask, Dlm as Command, Home, Output};
use super::condition::{Cell, Kind};
use super::listing::{Columns, column};
use super::output;
use super::status::session;
use super::{dlm_run, tree};
use crate::console::doc::{Branch, Branches, Locks, Party, Question, Status};
use crate::problem::Result;

/// What `oarlock dlm ls` tells of a lockspace.
pub static BRANCHES: Columns = Columns {
    all: &[column("LOCKSPACE", Kind::Name), column("OPENED", Kind::Count), column("NODES", Kind::Name)],
    narrow: 3,
};

/// Runs one of them.
pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Ls { home, ask } => {
            let plan = BRANCHES.plan(&ask.list)?;
            let question = Question::Branches { space: home.space.clone(), branch: None };
            let mut all: Branches = session(&ask.connect)?.document(&question)?;
            plan.arrange(&mut all.branches, row);
            plan.print(&all.branches, row, &all)?;
            for node in &all.unanswered {
                output::say(format_args!(
                    "oarlock: {node} did not answer; what is open there is not in this list"
                ));
            }
            for node in &all.cut {
                output::say(format_args!("oarlock: {node} has more lockspaces open than it said"));
            }
            Ok(())
        }
        Command::Run { libraries, connect, program } => dlm_run::run(libraries.as_deref(), connect, program),
        Command::Status(ask) => {
            let status: Status = session(&ask.connect)?.document(&Question::Status)?;
            match ask.format.output {
                form @ (Output::Json | Output::Yaml) => output::print_document(form, &status),
                Output::Name | Output::Table | Output::Wide => output::print_text(&members(&status)),
            }
        }
        Command::Lockdump { name, home, ask } => {
            let question = Question::Locks { space: home.space.clone(), waiting: false, name: None };
            let mut session = session(&ask.connect)?;
            let status: Status = session.document(&Question::Status)?;
            let mut locks: Locks = session.document(&question)?;
            let prefix = format!("{}{}", Escaped(name.as_bytes()), char::from(MARK));
            locks.resources.retain(|it| it.name.starts_with(&prefix));
            match ask.format.output {
                form @ (Output::Json | Output::Yaml) => output::print_document(form, &locks),
                Output::Name | Output::Table | Output::Wide => {
                    output::print_text(&dump(&locks, &status, prefix.len()))?;
                    tree::remarks(&locks).iter().for_each(|it| output::say(format_args!("oarlock: {it}")));
                    Ok(())
                }
            }
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
    let nodes: Vec<&str> = branch.nodes.iter().flatten().map(|it| it.node.as_str()).collect();
    vec![Cell::name(&branch.name), Cell::count(branch.opened.into()), Cell::name(nodes.join(","))]
}

/// As programs of that kind count nodes: from 1.
fn number(id: u16) -> u32 {
    u32::from(id) + 1
}

fn members(status: &Status) -> String {
    let me = status.members.iter().find(|it| it.this).map_or(0, |it| number(it.id));
    let mut lines =
        vec![format!("cluster nodeid {me} quorate {} view {}", u8::from(status.serving), status.epoch)];
    for member in &status.members {
        let (letter, run) = if member.in_view { ('M', member.view_run) } else { ('X', member.incarnation) };
        lines.push(format!("node {} {letter} run {run} {}", number(member.id), member.node));
    }
    lines.join("\n")
}

/// The locks of this node's programs.
fn dump(locks: &Locks, status: &Status, skipped: usize) -> String {
    let id_of = |name: &str| status.members.iter().find(|it| it.node == name).map_or(0, |it| number(it.id));
    let mut lines = Vec::new();
    for resource in &locks.resources {
        // A node that decides by itself has no other master to name.
        let master = resource.master.as_deref().filter(|name| *name != status.node).map_or(0, id_of);
        let name = &resource.name[skipped..];
        let mut line = |party: &Party, granted: &str, requested: &str| {
            if party.node == status.node {
                let Party { lock, pid, .. } = party;
                let modes = format!("gr {granted} rq {requested}");
                lines.push(format!("id {lock} {modes} pid {pid} master {master} \"{name}\""));
            }
        };
        // Each node numbers its own locks.
        let same = |a: &Party, b: &Party| a.lock == b.lock && a.node == b.node;
        let converts = |party: &Party| resource.waiters.iter().any(|it| same(&it.party, party));
        for holder in resource.holders.iter().filter(|it| !converts(&it.party)) {
            line(&holder.party, &holder.mode, "IV");
        }
        for waiter in &resource.waiters {
            line(&waiter.party, waiter.held.as_deref().unwrap_or("IV"), &waiter.wanted);
        }
    }
    lines.join("\n")
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
