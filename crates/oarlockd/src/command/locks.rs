//! `oarlock locks ls | show | tree | why | hot | deadlocks | purge`: who has what.

use std::ffi::OsStr;
use std::time::Instant;

use super::cli::{Ask, AskList, Locks as Command, Output, Space};
use super::condition::{Cell, Kind};
use super::listing::{Columns, column};
use super::output::{self, Rows};
use super::status::{counted, session};
use super::waiting::party;
use super::{args, deadlocks, tree, watch};
use crate::console::doc::{Locks, Purged, Question, Resource};
use crate::problem::Result;

/// Runs one of them.
pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Ls { prefix, space, ask } => ls(prefix, space, ask),
        Command::Show { resource, space, ask } => show(resource, space, ask),
        Command::Tree { space, ask } => {
            let locks = look(ask, &question(space))?;
            match ask.format.output {
                form @ (Output::Json | Output::Yaml) => output::print_document(form, &waiting_only(locks)),
                Output::Name => output::print_text(&names(&waiting_only(locks))),
                Output::Table | Output::Wide => output::print_text(&tree::tree(&locks)),
            }
        }
        Command::Why { resource, space, ask } => {
            let (name, locks) = one(resource, space, ask)?;
            match ask.format.output {
                form @ (Output::Json | Output::Yaml) => output::print_document(form, &locks),
                Output::Name => output::print_text(&name),
                Output::Table | Output::Wide => output::print_text(&tree::why(&name, &locks)),
            }
        }
        Command::Watch { prefix, every, during, space, ask } => watch::run(
            prefix,
            args::duration(every)?,
            during.as_deref().map(args::duration).transpose()?,
            space,
            ask,
        ),
        Command::Purge { prefix, pid, space, ask } => {
            let (space, prefix) = (space.space.clone(), prefix.clone());
            let question = Question::Purge { space, prefix, pid: *pid };
            let purged: Purged = session(&ask.connect)?.document(&question)?;
            match ask.format.output {
                form @ (Output::Json | Output::Yaml) => output::print_document(form, &purged),
                _ => output::print_text(&format!("{} given back", counted(purged.purged, "orphan"))),
            }
        }
        Command::Deadlocks { svg, ask } => deadlocks::run(svg.as_deref(), ask),
        Command::Hot { during, top, space, ask } => hot(args::duration(during)?, *top, space, ask),
    }
}

/// The question for a whole lockspace. All of it, also for the tree: what a waiter holds elsewhere matters
/// although nobody may wait for that.
pub fn question(space: &Space) -> Question {
    Question::Locks { space: space.space.clone(), waiting: false, name: None }
}

fn look(ask: &Ask, question: &Question) -> Result<Locks> {
    session(&ask.connect)?.document(question)
}

fn one(resource: &OsStr, space: &Space, ask: &Ask) -> Result<(String, Locks)> {
    let name = args::name(resource)?.to_string();
    let question = Question::Locks { space: space.space.clone(), waiting: false, name: Some(name.clone()) };
    Ok((name, look(ask, &question)?))
}

fn waiting_only(mut locks: Locks) -> Locks {
    locks.resources.retain(|r| !r.waiters.is_empty());
    locks
}

fn names(locks: &Locks) -> String {
    locks.resources.iter().map(|r| r.name.as_str()).collect::<Vec<_>>().join("\n")
}

/// What `oarlock locks ls` tells of a resource.
pub static RESOURCES: Columns = Columns {
    all: &[
        column("RESOURCE", Kind::Name),
        column("MODE", Kind::Word),
        column("STATE", Kind::Word),
        column("WHO", Kind::Name),
        column("FOR", Kind::Time),
        column("WAITING", Kind::Count),
        column("MASTER", Kind::Name),
        column("OWNED", Kind::Name),
        column("OPENERS", Kind::Count),
        column("VALUE", Kind::Count),
        column("TOKEN", Kind::Count),
    ],
    narrow: 7,
};

fn ls(prefix: &str, space: &Space, ask: &AskList) -> Result<()> {
    let plan = RESOURCES.plan(&ask.list)?;
    let mut locks: Locks = session(&ask.connect)?.document(&question(space))?;
    locks.resources.retain(|r| r.name.starts_with(prefix));
    plan.arrange(&mut locks.resources, row);
    plan.print(&locks.resources, row, &locks)?;
    remark(&locks);
    Ok(())
}

fn row(r: &Resource) -> Vec<Cell> {
    let (mode, state, who, since) = match (r.holders.first(), r.nodes.iter().find(|n| tree::keeps(n))) {
        (Some(h), _) => {
            let more = if r.holders.len() > 1 { format!(" +{}", r.holders.len() - 1) } else { String::new() };
            (h.mode.clone(), "in use", party(&h.party) + &more, Some(h.age_us))
        }
        (None, Some(n)) => (n.owned.clone().unwrap_or_default(), "retained", n.node.clone(), None),
        (None, None) => (String::new(), "free", String::new(), None),
    };
    let owned: Vec<_> =
        r.nodes.iter().filter_map(|n| Some(format!("{}:{}", n.node, n.owned.as_deref()?))).collect();
    let value = r
        .value
        .as_ref()
        .map_or(String::new(), |v| format!("{}{}", v.sequence, if v.valid { "" } else { " (lost)" }));
    vec![
        Cell::name(&r.name),
        Cell::word(mode),
        Cell::word(state),
        Cell::name(who),
        Cell::age(since),
        Cell::count(r.waiters.len() as u64),
        Cell::name(r.master.clone().unwrap_or_default()),
        Cell::name(owned.join(",")),
        Cell::count(r.openers.into()),
        Cell::shown(value, r.value.as_ref().map(|v| v.sequence)),
        Cell::digits(r.holders.first().map_or(String::new(), |h| h.fence.clone())),
    ]
}

/// What is missing goes to stderr: it is talk, not data.
fn remark(locks: &Locks) {
    for remark in tree::remarks(locks) {
        output::say(format_args!("oarlock: {remark}"));
    }
}

fn show(resource: &OsStr, space: &Space, ask: &Ask) -> Result<()> {
    let (name, locks) = one(resource, space, ask)?;
    match ask.format.output {
        form @ (Output::Json | Output::Yaml) => return output::print_document(form, &locks),
        Output::Name => return output::print_text(&name),
        Output::Table | Output::Wide => {}
    }
    let mut out = vec![tree::why(&name, &locks)];
    if let Some(r) = locks.resources.first() {
        let dash = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "-".into());
        if let Some(v) = &r.value {
            out.push(format!(
                "value block: sequence {}, {}",
                v.sequence,
                if v.valid { "valid" } else { "lost" }
            ));
        }
        if let Some(h) = &r.head {
            out.push(format!("head {}: {} in the {} queue", h.number, h.mode, h.queue));
        }
        if !r.nodes.is_empty() {
            let names = ["NODE", "OWNED", "NEED", "TOLD HELD", "TOLD WANTED", "SENT", "HEARD", "FENCE"];
            let mut rows = Rows::new(&names);
            for n in &r.nodes {
                rows.push(vec![
                    n.node.clone(),
                    dash(&n.owned),
                    dash(&n.need),
                    dash(&n.told_held),
                    dash(&n.told_wanted),
                    n.statements.to_string(),
                    n.changes.to_string(),
                    n.fence.clone(),
                ]);
            }
            out.push(format!("what each node owns, needs and has told the master:\n{}", rows.text(true)));
        }
        if !r.records.is_empty() {
            let mut rows = Rows::new(&["NODE", "HELD", "WANTED", "CHANGES", "HEARD", "BUSY"]);
            for k in &r.records {
                rows.push(vec![
                    k.node.clone(),
                    dash(&k.held),
                    dash(&k.wanted),
                    k.changes.to_string(),
                    k.acknowledged.to_string(),
                    k.busy.to_string(),
                ]);
            }
            out.push(format!("what the master believes:\n{}", rows.text(true)));
            out.push(format!("locks the master was last told of: {}", r.openers_told));
        }
    }
    output::print_text(&out.join("\n"))
}

/// A resource and what moved on it.
#[derive(serde::Serialize)]
struct Hot {
    name: String,
    messages: u64,
    messages_per_s: f64,
    waiting: usize,
    owners: Vec<String>,
}

#[derive(serde::Serialize)]
struct HotList {
    v: u32,
    space: String,
    during_ms: u64,
    resources: Vec<Hot>,
}

/// What `oarlock locks hot` tells of a resource.
pub static HOT: Columns = Columns {
    all: &[
        column("RESOURCE", Kind::Name),
        column("MESSAGES", Kind::Count),
        column("PER S", Kind::Rate),
        column("WAITING", Kind::Count),
        column("OWNERS", Kind::Name),
    ],
    narrow: 5,
};

fn hot_row(h: &Hot) -> Vec<Cell> {
    vec![
        Cell::name(&h.name),
        Cell::count(h.messages),
        Cell::rate(h.messages_per_s),
        Cell::count(h.waiting as u64),
        Cell::name(h.owners.join(",")),
    ]
}

/// Every statement of a shadow and every change of a master is one message between two nodes (none if they
/// are the same node), and both are numbered: two looks tell how many went in between.
fn hot(during: std::time::Duration, top: usize, space: &Space, ask: &AskList) -> Result<()> {
    let plan = HOT.plan(&ask.list)?;
    let mut session = session(&ask.connect)?;
    let began = Instant::now();
    let before: Locks = session.document(&question(space))?;
    std::thread::sleep(during);
    let after: Locks = session.document(&question(space))?;
    let elapsed = began.elapsed();
    let mut resources: Vec<Hot> = after
        .resources
        .iter()
        .map(|r| {
            let old = before.resources.iter().find(|o| o.name == r.name);
            Hot {
                name: r.name.clone(),
                messages: moved(old, r),
                messages_per_s: moved(old, r) as f64 / elapsed.as_secs_f64(),
                waiting: r.waiters.len(),
                owners: r.nodes.iter().filter(|n| n.owned.is_some()).map(|n| n.node.clone()).collect(),
            }
        })
        .filter(|h| h.messages > 0)
        .collect();
    resources.sort_by(|a, b| b.messages.cmp(&a.messages).then_with(|| a.name.cmp(&b.name)));
    plan.arrange(&mut resources, hot_row);
    // The first of what was asked for, in the order that was asked for.
    resources.truncate(top);
    let list = HotList { v: 1, space: space.space.clone(), during_ms: elapsed.as_millis() as u64, resources };
    plan.print(&list.resources, hot_row, &list)?;
    remark(&after);
    Ok(())
}

fn moved(before: Option<&Resource>, after: &Resource) -> u64 {
    let count = |r: &Resource, node: &str| {
        let of = r.nodes.iter().find(|n| n.node == node);
        of.map_or(0, |n| n.statements + n.changes)
    };
    after
        .nodes
        .iter()
        .filter(|n| after.master.as_ref() != Some(&n.node))
        .map(|n| {
            let now = n.statements + n.changes;
            // A record that began anew counts from nothing.
            now.checked_sub(before.map_or(0, |b| count(b, &n.node))).unwrap_or(now)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::doc::Owned;

    fn owned(node: &str, statements: u64) -> Owned {
        Owned {
            node: node.into(),
            owned: Some("EX".into()),
            need: None,
            retained: true,
            told_held: None,
            told_wanted: None,
            statements,
            changes: 1,
            acknowledged: 0,
            fence: "0".into(),
        }
    }

    #[test]
    fn messages_are_counted_between_nodes_only() {
        let before = Resource { nodes: vec![owned("a", 10), owned("b", 10)], ..Resource::default() };
        let after = Resource {
            master: Some("a".into()),
            nodes: vec![owned("a", 500), owned("b", 14)],
            ..Resource::default()
        };
        assert_eq!(moved(Some(&before), &after), 4);
        assert_eq!(moved(None, &after), 15, "a new record counts from nothing");
    }

    #[test]
    fn a_row_tells_use_retention_and_freedom_apart() {
        let text = |r: &Resource| row(r).into_iter().map(|c| c.text).collect::<Vec<_>>();
        let free = Resource { name: "r".into(), ..Resource::default() };
        assert_eq!(text(&free)[2], "free");
        let kept = Resource { nodes: vec![owned("a", 1)], ..free };
        assert_eq!(text(&kept)[1..3], ["EX", "retained"]);
    }
}
