//! `oarlock locks tree` and `why`: who waits for whom, told from what all members see.

use std::collections::BTreeSet;

use oarlock_layout::mode::Mode;

use super::waiting::{age, party};
use crate::console::doc::{Holder, Locks, Owned, Party, Resource, Waiter};

/// What a program behind a lock is called by, across resources.
fn same(a: &Party, b: &Party) -> bool {
    // A session is one program; the lock's id begins with the session's number.
    let session = |p: &Party| p.lock.split('.').next().map(str::to_owned);
    a.node == b.node && session(a) == session(b)
}

fn compatible(a: &str, b: &str) -> bool {
    match (a.parse::<Mode>(), b.parse::<Mode>()) {
        (Ok(a), Ok(b)) => a.compatible(b),
        _ => false,
    }
}

/// Whether a node keeps something that could be in anybody's way. NL never is.
pub fn keeps(n: &Owned) -> bool {
    n.retained && n.owned.as_deref() != Some("NL")
}

/// Holders of a resource that are in the way of a waiter.
fn blockers<'a>(resource: &'a Resource, waiter: &Waiter) -> Vec<&'a Holder> {
    resource
        .holders
        .iter()
        .filter(|h| h.party.lock != waiter.party.lock || h.party.node != waiter.party.node)
        .filter(|h| !compatible(&waiter.wanted, &h.mode))
        .collect()
}

/// The whole picture of a lockspace: resources with waiters, and what those waiters hold elsewhere.
pub fn tree(locks: &Locks) -> String {
    let mut lines = vec![line("RESOURCE", "MODE", "STATE", "HOLDER / WAITER", "FOR", "TOKEN")];
    for resource in locks.resources.iter().filter(|r| !r.waiters.is_empty()) {
        root(locks, resource, &mut lines);
    }
    if lines.len() == 1 {
        return std::iter::once("nobody waits".to_owned())
            .chain(remarks(locks))
            .collect::<Vec<_>>()
            .join("\n");
    }
    let mut out = aligned(&lines);
    let roots = root_blockers(locks);
    if !roots.is_empty() {
        out.push(format!("root blockers: {}", roots.join(", ")));
    }
    out.extend(remarks(locks));
    out.join("\n")
}

/// One line of the tree, column by column.
type Line = [String; 6];

fn line(resource: &str, mode: &str, state: &str, who: &str, age: &str, token: &str) -> Line {
    [resource, mode, state, who, age, token].map(str::to_owned)
}

/// As wide as what stands in the columns: usual names fit a terminal, and long ones shift nothing.
fn aligned(lines: &[Line]) -> Vec<String> {
    let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let print = |line: &Line| {
        let cells = line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(print).collect()
}

fn root(locks: &Locks, resource: &Resource, out: &mut Vec<Line>) {
    let mut name = resource.name.as_str();
    for h in &resource.holders {
        out.push(line(name, &h.mode, "in use", &party(&h.party), &age(h.age_us), &h.fence));
        name = "";
    }
    for n in resource.nodes.iter().filter(|n| keeps(n) && n.need.is_none()) {
        let owned = n.owned.as_deref().unwrap_or_default();
        out.push(line(name, owned, "retained", &format!("{} (nobody inside)", n.node), "", "-"));
        name = "";
    }
    if !name.is_empty() {
        out.push(line(name, "", "free", "", "", ""));
    }
    let mut seen = BTreeSet::from([resource.name.clone()]);
    waiters(locks, resource, "", &mut seen, out);
}

fn waiters(
    locks: &Locks,
    resource: &Resource,
    indent: &str,
    seen: &mut BTreeSet<String>,
    out: &mut Vec<Line>,
) {
    for (i, w) in resource.waiters.iter().enumerate() {
        let last = i + 1 == resource.waiters.len();
        let (branch, deeper) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        let what = match &w.held {
            Some(held) => format!("{indent}{branch}converts {held}"),
            None => format!("{indent}{branch}waits"),
        };
        out.push(line(&what, &w.wanted, "", &party(&w.party), &age(w.age_us), ""));
        let indent = format!("{indent}{deeper}");
        for held in &locks.resources {
            let Some(holder) = held.holders.iter().find(|h| same(&h.party, &w.party)) else { continue };
            if held.name == resource.name || held.waiters.is_empty() {
                continue;
            }
            let what = format!("{indent}└─ holds {}", held.name);
            out.push(line(
                &what,
                &holder.mode,
                "",
                &party(&holder.party),
                &age(holder.age_us),
                &holder.fence,
            ));
            // A resource that was shown above is a cycle, or at least told already.
            if seen.insert(held.name.clone()) {
                waiters(locks, held, &format!("{indent}   "), seen, out);
            }
        }
    }
}

/// Programs that block somebody and wait for nobody, with the number of those behind them.
fn root_blockers(locks: &Locks) -> Vec<String> {
    let mut roots: Vec<(String, usize)> = Vec::new();
    for resource in &locks.resources {
        for w in &resource.waiters {
            for h in blockers(resource, w) {
                let waits =
                    locks.resources.iter().any(|r| r.waiters.iter().any(|o| same(&o.party, &h.party)));
                if waits {
                    continue;
                }
                let name = party(&h.party);
                match roots.iter_mut().find(|(n, _)| *n == name) {
                    Some((_, n)) => *n += 1,
                    None => roots.push((name, 1)),
                }
            }
        }
    }
    roots.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    roots.into_iter().map(|(name, n)| format!("{name} ({n} behind it)")).collect()
}

/// What is missing from the picture.
pub fn remarks(locks: &Locks) -> Vec<String> {
    let mut out = Vec::new();
    if !locks.unanswered.is_empty() {
        out.push(format!("not heard, so missing here: {}", locks.unanswered.join(", ")));
    }
    if !locks.cut.is_empty() {
        out.push(format!("too many to show; rows left off by: {}", locks.cut.join(", ")));
    }
    out
}

/// Why a resource is not granted, in sentences.
pub fn why(name: &str, locks: &Locks) -> String {
    let Some(resource) = locks.resources.iter().find(|r| r.name == name) else {
        let mut out = vec![match locks.unanswered.is_empty() {
            true => format!("{name} is free: nobody holds it, waits for it or keeps it"),
            false => format!("{name}: nobody is seen inside"),
        }];
        out.extend(remarks(locks));
        return out.join("\n");
    };
    let mut out = Vec::new();
    match (resource.waiters.len(), resource.holders.is_empty()) {
        // A member that has not answered may have somebody inside.
        (0, true) if !locks.unanswered.is_empty() => out.push(format!("{name}: nobody is seen inside")),
        (0, true) if !resource.departed.is_empty() => out.push(format!("{name}: nobody is seen inside")),
        (0, true) => out.push(format!("{name} is free: nobody is inside")),
        (0, false) => out.push(format!("{name} is in use, and nobody waits for it")),
        (1, _) => out.push(format!("1 waits for {name}")),
        (n, _) => out.push(format!("{n} wait for {name}")),
    }
    for h in &resource.holders {
        let told =
            h.told.as_ref().map_or(String::new(), |m| format!("; it was told that somebody wants {m}"));
        let fast = if h.fast { ", fast" } else { "" };
        out.push(format!("  held {} by {} for {}{fast}{told}", h.mode, party(&h.party), age(h.age_us)));
    }
    for n in resource.nodes.iter().filter(|n| keeps(n)) {
        let need = n.need.as_ref().map_or("nobody inside".to_owned(), |m| format!("its programs need {m}"));
        out.push(format!("  kept {} by {} ({need})", n.owned.as_deref().unwrap_or_default(), n.node));
    }
    for w in &resource.waiters {
        out.push(format!("  {}. {}", w.ahead + 1, because(resource, w)));
    }
    match &resource.master {
        Some(node) => out.push(format!("  {node} decides")),
        None if resource.waiters.is_empty() => {}
        None => out.push("  the node that decides has not answered".into()),
    }
    out.extend(remarks(locks));
    out.extend(
        locks.waits.iter().map(|wait| format!("  what may still be in use elsewhere is not granted: {wait}")),
    );
    out.join("\n")
}

fn because(resource: &Resource, w: &Waiter) -> String {
    let asks = match &w.held {
        Some(held) => format!("{} converts {held} to {}, for {}", party(&w.party), w.wanted, age(w.age_us)),
        None => format!("{} wants {}, for {}", party(&w.party), w.wanted, age(w.age_us)),
    };
    let blockers = blockers(resource, w);
    if let Some(h) = blockers.first() {
        return format!("{asks}: blocked by {}", party(&h.party));
    }
    let kept =
        |n: &&Owned| n.node != w.party.node && n.owned.as_deref().is_some_and(|m| !compatible(&w.wanted, m));
    if let Some(n) = resource.nodes.iter().find(kept) {
        return format!("{asks}: {} has been asked to give back what it keeps", n.node);
    }
    match w.ahead {
        0 => format!("{asks}: it is next"),
        _ => format!("{asks}: others are ahead of it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(pid: u32, lock: &str) -> Party {
        Party { node: "node-a".into(), lock: lock.into(), pid, label: "api".into(), owner: 0, transaction: 0 }
    }

    fn holder(pid: u32, lock: &str, mode: &str) -> Holder {
        Holder {
            party: who(pid, lock),
            mode: mode.into(),
            age_us: 9_000_000,
            fence: "90117".into(),
            local: 0,
            told: Some("EX".into()),
            fast: false,
        }
    }

    fn waiter(pid: u32, lock: &str, wanted: &str, ahead: u32) -> Waiter {
        Waiter {
            party: who(pid, lock),
            wanted: wanted.into(),
            held: None,
            queue: "wait".into(),
            age_us: 8_000_000,
            ahead,
        }
    }

    fn locks(resources: Vec<Resource>) -> Locks {
        Locks { v: 1, space: "default".into(), waits: vec![], unanswered: vec![], cut: vec![], resources }
    }

    fn chain() -> Locks {
        let a = Resource {
            name: "a".into(),
            holders: vec![holder(1, "1.1", "EX")],
            waiters: vec![waiter(2, "2.1", "PR", 0)],
            ..Resource::default()
        };
        let b = Resource {
            name: "b".into(),
            holders: vec![holder(2, "2.2", "PR")],
            waiters: vec![waiter(3, "3.1", "EX", 0)],
            ..Resource::default()
        };
        locks(vec![a, b])
    }

    #[test]
    fn the_root_of_a_chain_is_the_one_that_waits_for_nobody() {
        let text = tree(&chain());
        let expected = [
            "RESOURCE        MODE  STATE   HOLDER / WAITER     FOR    TOKEN",
            "a               EX    in use  node-a pid 1 (api)  9.0 s  90117",
            "└─ waits        PR            node-a pid 2 (api)  8.0 s",
            "   └─ holds b   PR            node-a pid 2 (api)  9.0 s  90117",
            "      └─ waits  EX            node-a pid 3 (api)  8.0 s",
            "b               PR    in use  node-a pid 2 (api)  9.0 s  90117",
            "└─ waits        EX            node-a pid 3 (api)  8.0 s",
            "root blockers: node-a pid 1 (api) (1 behind it)",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_cycle_is_told_once_and_has_no_root() {
        let mut cycle = chain();
        cycle.resources[0].holders = vec![holder(3, "3.2", "EX")];
        let text = tree(&cycle);
        assert!(text.lines().count() < 16 && !text.contains("root blockers"), "{text}");
    }

    #[test]
    fn why_names_the_blocker_the_order_and_silence() {
        let mut all = chain();
        all.resources[0].waiters.push(waiter(4, "4.1", "EX", 1));
        all.unanswered = vec!["node-c".into()];
        let text = why("a", &all);
        for part in [
            "2 wait for a",
            "held EX by node-a pid 1 (api) for 9.0 s; it was told that somebody wants EX",
            "1. node-a pid 2 (api) wants PR, for 8.0 s: blocked by node-a pid 1",
            "2. node-a pid 4 (api) wants EX",
            "the node that decides has not answered",
            "not heard, so missing here: node-c",
        ] {
            assert!(text.contains(part), "`{part}` is not in:\n{text}");
        }
        assert!(why("zzz", &all).starts_with("zzz: nobody is seen inside"));
        assert!(why("zzz", &chain()).starts_with("zzz is free"));
    }

    #[test]
    fn an_empty_space_has_no_tree() {
        assert_eq!(tree(&locks(vec![])), "nobody waits");
        let silent = Locks { unanswered: vec!["node-c".into()], ..locks(vec![]) };
        assert_eq!(tree(&silent), "nobody waits\nnot heard, so missing here: node-c");
    }
}
