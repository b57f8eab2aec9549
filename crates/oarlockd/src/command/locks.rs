//! `oarlock locks ls | show | tree | why | hot`: who has what.

use std::ffi::OsStr;
use std::time::Instant;

use super::cli::{Ask, Locks as Command, Output, Space};
use super::output::{self, Rows};
use super::status::session;
use super::waiting::{age, party};
use super::{args, tree, watch};
use crate::console::doc::{Locks, Question, Resource};
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

fn ls(prefix: &str, space: &Space, ask: &Ask) -> Result<()> {
    let mut locks = look(ask, &question(space))?;
    locks.resources.retain(|r| r.name.starts_with(prefix));
    let names = [
        "RESOURCE", "MODE", "STATE", "WHO", "FOR", "WAITING", "MASTER", "OWNED", "OPENERS", "VALUE", "TOKEN",
    ];
    let mut rows = Rows::new(&names, 7);
    for r in &locks.resources {
        rows.push(row(r));
    }
    rows.print(&ask.format, &locks)?;
    remark(&locks);
    Ok(())
}

fn row(r: &Resource) -> Vec<String> {
    let (mode, state, who, since) = match (r.holders.first(), r.nodes.iter().find(|n| tree::keeps(n))) {
        (Some(h), _) => {
            let more = if r.holders.len() > 1 { format!(" +{}", r.holders.len() - 1) } else { String::new() };
            (h.mode.clone(), "in use", party(&h.party) + &more, age(h.age_us))
        }
        (None, Some(n)) => (n.owned.clone().unwrap_or_default(), "retained", n.node.clone(), String::new()),
        (None, None) => (String::new(), "free", String::new(), String::new()),
    };
    let owned: Vec<_> =
        r.nodes.iter().filter_map(|n| Some(format!("{}:{}", n.node, n.owned.as_deref()?))).collect();
    let value = r
        .value
        .as_ref()
        .map_or(String::new(), |v| format!("{}{}", v.sequence, if v.valid { "" } else { " (lost)" }));
    vec![
        r.name.clone(),
        mode,
        state.into(),
        who,
        since,
        r.waiters.len().to_string(),
        r.master.clone().unwrap_or_default(),
        owned.join(","),
        r.openers.to_string(),
        value,
        r.holders.first().map_or(String::new(), |h| h.fence.clone()),
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
            let mut rows = Rows::new(
                &["NODE", "OWNED", "NEED", "TOLD HELD", "TOLD WANTED", "SENT", "HEARD", "FENCE"],
                8,
            );
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
            out.push(format!("what each node owns, needs and has told the master:\n{}", rows.text()));
        }
        if !r.records.is_empty() {
            let mut rows = Rows::new(&["NODE", "HELD", "WANTED", "CHANGES", "HEARD", "BUSY"], 6);
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
            out.push(format!("what the master believes:\n{}", rows.text()));
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

/// Every statement of a shadow and every change of a master is one message between two nodes (none if they
/// are the same node), and both are numbered: two looks tell how many went in between.
fn hot(during: std::time::Duration, top: usize, space: &Space, ask: &Ask) -> Result<()> {
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
    resources.truncate(top);
    let list = HotList { v: 1, space: space.space.clone(), during_ms: elapsed.as_millis() as u64, resources };
    let mut rows = Rows::new(&["RESOURCE", "MESSAGES", "PER S", "WAITING", "OWNERS"], 5);
    for h in &list.resources {
        rows.push(vec![
            h.name.clone(),
            h.messages.to_string(),
            format!("{:.1}", h.messages_per_s),
            h.waiting.to_string(),
            h.owners.join(","),
        ]);
    }
    rows.print(&ask.format, &list)?;
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
        let free = Resource { name: "r".into(), ..Resource::default() };
        assert_eq!(row(&free)[2], "free");
        let kept = Resource { nodes: vec![owned("a", 1)], ..free };
        assert_eq!((row(&kept)[1].as_str(), row(&kept)[2].as_str()), ("EX", "retained"));
    }
}
