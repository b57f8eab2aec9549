//! `oarlock node evict`, `fence`, `drain`, `undrain`, `unfence`: changes that somebody asks for.
//!
//! What cannot be taken back is told first, and asked about: a question on a terminal, `--yes` in scripts.

use std::io::{self, IsTerminal};

use oarlock_layout::code::Code;
use oarlock_layout::limit::{LEASE, LEASE_DRIFT};

use super::cli::{Ask, Output, Sure};
use super::failover::run_text;
use super::session::Session;
use super::status::session;
use super::{coord, output};
use crate::console::doc::{Changed, Fence, MemberRecord, Question, Registry, Status, VERSION};
use crate::problem::{Problem, Result, did_you_mean};

/// `oarlock node evict`
pub fn evict(name: &str, sure: &Sure, ask: &Ask) -> Result<()> {
    let mut session = session(&ask.connect)?;
    let seen: Registry = session.document(&Question::Registry)?;
    let member = member(&seen, name)?;
    let Some(run) = member.view_run else {
        output::say(format_args!("{name} is not in view {}: nothing is to be done", seen.epoch));
        return print(&unchanged(seen), ask);
    };
    if seen.node == name {
        return Err(Problem::new(Code::ChangeRefused, format!("{name} cannot put itself out"))
            .because("it is the node that answers, and the answer would end with it")
            .try_next("stop it, which gives up its locks at once; or ask another member with --socket"));
    }
    let status: Status = session.document(&Question::Status)?;
    let plan = eviction(&seen, member, run, &status.fencing);
    if !agreed(&plan, &format!("put {name} out?"), sure)? {
        return Ok(());
    }
    let question = Question::Evict { node: name.into(), incarnation: run, epoch: seen.epoch };
    change(&mut session, &question, ask)
}

/// What comes of it, before it is done.
fn eviction(seen: &Registry, member: &MemberRecord, run: u64, fencing: &str) -> String {
    let name = &member.node;
    let fence = match fencing.is_empty() || fencing == "lease only" {
        true => String::new(),
        false => format!(", and it is fenced by {fencing}"),
    };
    let wait = match member.surrendered {
        true => "is free at once: that run gave itself up".into(),
        false => format!(
            "is granted to others once its lease is over, in {:.1} s at most{fence}",
            (LEASE + LEASE_DRIFT).as_secs_f64()
        ),
    };
    format!(
        "run {run} of {name} goes out of view {}; what its programs hold {wait}.\n\
         If it still runs, its programs lose their locks and it comes back as another run: stop it first to keep it out.",
        seen.epoch
    )
}

/// `oarlock node fence`, which nobody has confirmed
pub fn fence(name: &str, sure: &Sure, ask: &Ask) -> Result<()> {
    let mut session = session(&ask.connect)?;
    let seen: Registry = session.document(&Question::Registry)?;
    let pending: Vec<_> = seen.fences.iter().filter(|fence| fence.run.node == name).collect();
    if !pending.is_empty() {
        pending.iter().for_each(|fence| output::say(format_args!("{}", fence.text)));
        return print(&unchanged(seen), ask);
    }
    if member(&seen, name)?.view_run.is_none() {
        output::say(format_args!("{name} is out, and nothing is to be proven of it: nothing is to be done"));
        return print(&unchanged(seen), ask);
    }
    let status: Status = session.document(&Question::Status)?;
    if status.fencing == "lease only" {
        return Err(Problem::new(Code::ChangeRefused, format!("nothing here can fence {name}"))
            .because("this cluster has no [fencing]: the end of the lease is all that it waits for")
            .try_next(format!("oarlock node evict {name}; or describe a fence, see docs/operating.md")));
    }
    evict(name, sure, ask)
}

/// `oarlock node drain` and `undrain`
pub fn drain(name: &str, drained: bool, ask: &Ask) -> Result<()> {
    let mut session = session(&ask.connect)?;
    let seen: Registry = session.document(&Question::Registry)?;
    member(&seen, name)?;
    change(&mut session, &Question::Drain { node: name.into(), drained }, ask)
}

/// `oarlock node unfence`
pub fn unfence(name: &str, sure: &Sure, ask: &Ask) -> Result<()> {
    let mut session = session(&ask.connect)?;
    let seen: Registry = session.document(&Question::Registry)?;
    let runs: Vec<&Fence> = seen.fences.iter().filter(|fence| fence.run.node == name).collect();
    if runs.is_empty() {
        // Whoever has left is no member any more, so only a name that nobody has is a mistake.
        member(&seen, name)?;
        output::say(format_args!("nothing is to be proven of {name}: nothing is to be done"));
        return print(&unchanged(seen), ask);
    }
    if !agreed(&release(&runs), &format!("say that {name} can do no harm any more?"), sure)? {
        return Ok(());
    }
    let last = runs.len() - 1;
    for (i, fence) in runs.iter().enumerate() {
        let question = Question::Unfence { node: name.into(), incarnation: fence.run.incarnation };
        if i == last {
            return change(&mut session, &question, ask);
        }
        asked(&mut session, &question)?;
    }
    Ok(())
}

fn release(runs: &[&Fence]) -> String {
    let mut lines: Vec<_> = runs.iter().map(|it| coord::fence(it)).collect();
    lines.push(
        "You say that this has come about, by whatever you know: the machine is off, or its access is cut.\n\
         DANGER: if that run can still write, two nodes hold the same locks and data is destroyed, without any sign of it."
            .into(),
    );
    lines.join("\n")
}

/// Tells what is about to be done, and asks. False: only the plan was wanted.
pub(super) fn agreed(plan: &str, question: &str, sure: &Sure) -> Result<bool> {
    if sure.dry_run {
        output::print_text(plan)?;
        return Ok(false);
    }
    output::say(format_args!("{plan}"));
    if sure.yes {
        return Ok(true);
    }
    if !io::stdin().is_terminal() {
        return Err(Problem::new(
            Code::Usage,
            "nothing was changed: nobody can be asked whether this is meant",
        )
        .because("standard input is not a terminal")
        .try_next("the same with --yes, or with --dry-run to see what it would do"));
    }
    output::say(format_args!("{question} [y/N]"));
    let mut line = String::new();
    let read = io::stdin().read_line(&mut line);
    match read.is_ok() && matches!(line.trim().to_lowercase().as_str(), "y" | "yes") {
        true => Ok(true),
        false => Err(Problem::new(Code::Failed, "nothing was changed")
            .because("the answer was not `y`")
            .try_next("")),
    }
}

fn member<'a>(seen: &'a Registry, name: &str) -> Result<&'a MemberRecord> {
    if seen.members.is_empty() {
        // With etcd a run knows nothing before it has answered once.
        return Err(Problem::new(Code::NoMajority, "the node has not read what the coordinator keeps")
            .because(format!("the coordinator is {}", coord::coordinator(&seen.coordinator))));
    }
    seen.members.iter().find(|m| m.node == name).ok_or_else(|| {
        let names = || seen.members.iter().map(|m| m.node.as_str());
        let problem = Problem::new(Code::Usage, format!("there is no member `{name}`"))
            .because(format!("the members are {}", names().collect::<Vec<_>>().join(", ")));
        match did_you_mean(name, names()) {
            Some(meant) => problem.try_next(format!("did you mean {meant}?")),
            None => problem.try_next("oarlock node ls"),
        }
    })
}

fn unchanged(seen: Registry) -> Changed {
    let members = seen.views.last().map_or(Vec::new(), |view| view.members.clone());
    Changed { v: VERSION, node: seen.node, changed: false, epoch: seen.epoch, members, fences: seen.fences }
}

fn change(session: &mut Session, question: &Question, ask: &Ask) -> Result<()> {
    let changed = asked(session, question)?;
    if !changed.changed {
        output::say(format_args!("it was so already"));
    }
    print(&changed, ask)
}

/// A node that is gone before it has answered may have done it.
fn asked(session: &mut Session, question: &Question) -> Result<Changed> {
    session.document(question).map_err(|problem| match problem.code {
        Code::NoDaemon => {
            let why = format!("{}: {}", problem.what, problem.why);
            Problem::new(Code::OutcomeUnknown, "no answer came, and it may have been done").because(why)
        }
        _ => problem,
    })
}

fn print(it: &Changed, ask: &Ask) -> Result<()> {
    match ask.format.output {
        form @ (Output::Json | Output::Yaml) => output::print_document(form, it),
        Output::Name => output::print_text(&it.epoch.to_string()),
        Output::Table | Output::Wide => output::print_text(&page(it)),
    }
}

fn page(it: &Changed) -> String {
    let members: Vec<_> = it.members.iter().map(run_text).collect();
    let mut out = vec![format!("view {}: {}", it.epoch, members.join(", "))];
    out.extend(it.fences.iter().map(|it| format!("fence: {}", coord::fence(it))));
    out.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::doc::{Coordinator, Need, Run};

    fn record(surrendered: bool) -> MemberRecord {
        MemberRecord {
            node: "node-c".into(),
            id: 2,
            role: "voter".into(),
            address: "10.0.0.13:7401".into(),
            view_run: Some(3),
            entered: 3,
            renewals: 9,
            surrendered,
            drained: false,
        }
    }

    fn seen() -> Registry {
        Registry {
            v: 1,
            node: "node-a".into(),
            cluster_id: None,
            revision: 9,
            epoch: 7,
            watermark: "0".into(),
            coordinator: Coordinator::default(),
            members: vec![record(false)],
            views: vec![],
            fences: vec![Fence {
                run: Run { node: "node-c".into(), incarnation: 2 },
                epoch: 6,
                needs: vec![Need {
                    need: "tail".into(),
                    text: "a fence of its own access to volume 1".into(),
                }],
                turn: None,
                tries: 0,
                failed: None,
                text: String::new(),
            }],
        }
    }

    #[test]
    fn a_plan_says_what_is_waited_for() {
        let text = eviction(&seen(), &record(false), 3, "lease only");
        assert!(text.starts_with("run 3 of node-c goes out of view 7; "), "{text}");
        assert!(text.contains("once its lease is over, in 3.2 s at most"), "{text}");
        assert!(eviction(&seen(), &record(true), 3, "lease only").contains("free at once"));
        let fenced = eviction(&seen(), &record(false), 3, "command (power)");
        assert!(fenced.contains("in 3.2 s at most, and it is fenced by command (power)"), "{fenced}");
        let text = release(&[&seen().fences[0]]);
        assert!(
            text.contains("node-c (run 2), out since view 6, waits for a fence of its own access"),
            "{text}"
        );
        assert!(text.contains("DANGER"), "{text}");
    }

    #[test]
    fn without_a_terminal_only_yes_is_a_yes() {
        assert!(agreed("plan", "sure?", &Sure { yes: true, dry_run: false }).unwrap());
        assert!(!agreed("plan", "sure?", &Sure { yes: true, dry_run: true }).unwrap());
    }

    #[test]
    fn the_view_that_came_of_it_is_printed_with_what_is_open() {
        let changed =
            Changed { members: vec![Run { node: "node-a".into(), incarnation: 3 }], ..unchanged(seen()) };
        assert_eq!(
            page(&changed),
            "view 7: node-a (run 3)\n\
             fence: node-c (run 2), out since view 6, waits for a fence of its own access to volume 1"
        );
        assert_eq!(member(&seen(), "node-d").unwrap_err().exit(), 2);
    }
}
