//! `oarlock locks watch`: a line for each thing that changed between two looks.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use super::cli::{Ask, Output, Space};
use super::output;
use super::status::session;
use super::waiting::party;
use crate::console::doc::{Locks, Party};
use crate::host::clock;
use crate::problem::Result;

/// Something changed.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
struct Change {
    v: u32,
    at_s: u64,
    event: &'static str,
    resource: String,
    mode: String,
    node: String,
    pid: u32,
    label: String,
    lock: String,
}

/// Looks every `every`, for `during` or for ever.
pub fn run(prefix: &str, every: Duration, during: Option<Duration>, space: &Space, ask: &Ask) -> Result<()> {
    let mut session = session(&ask.connect)?;
    let end = during.map(|d| Instant::now() + d);
    let every = every.max(Duration::from_millis(10));
    let question = super::locks::question(space);
    let mut before = picture(prefix, &session.document(&question)?);
    output::say(format_args!(
        "oarlock: watching {} every {every:?}; what comes and goes in between is not seen",
        space.space
    ));
    loop {
        let left = end.map_or(every, |end| every.min(end.saturating_duration_since(Instant::now())));
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left);
        let now = picture(prefix, &session.document(&question)?);
        for change in changes(&before, &now, clock::wall_seconds()) {
            print(&change, ask)?;
        }
        before = now;
    }
}

fn print(c: &Change, ask: &Ask) -> Result<()> {
    let who = Party {
        node: c.node.clone(),
        lock: c.lock.clone(),
        pid: c.pid,
        label: c.label.clone(),
        owner: 0,
        transaction: 0,
    };
    match ask.format.output {
        // One document a line, so that a reader need not wait for an end.
        Output::Json => output::print_text(&serde_json::to_string(c).expect("plain data")),
        Output::Yaml => {
            output::print_text("---")?;
            output::print_document(Output::Yaml, c)
        }
        Output::Name => output::print_text(&c.resource),
        Output::Table | Output::Wide => {
            // Universal time, and said so: nodes and readers may be in different zones.
            let s = c.at_s % 86_400;
            output::print_text(&format!(
                "{:02}:{:02}:{:02}Z {:<9} {} {} {}",
                s / 3600,
                s / 60 % 60,
                s % 60,
                c.event,
                c.resource,
                c.mode,
                party(&who)
            ))
        }
    }
}

/// (resource, node, lock) → (granted, mode, party).
type Picture = BTreeMap<(String, String, String), (bool, String, Party)>;

fn picture(prefix: &str, locks: &Locks) -> Picture {
    let mut out = Picture::new();
    for r in locks.resources.iter().filter(|r| r.name.starts_with(prefix)) {
        let key = |p: &Party| (r.name.clone(), p.node.clone(), p.lock.clone());
        for h in &r.holders {
            out.insert(key(&h.party), (true, h.mode.clone(), h.party.clone()));
        }
        // A convert is both; that it waits is the newer fact.
        for w in &r.waiters {
            out.insert(key(&w.party), (false, w.wanted.clone(), w.party.clone()));
        }
    }
    out
}

fn changes(before: &Picture, now: &Picture, at_s: u64) -> Vec<Change> {
    let mut out = Vec::new();
    let mut push = |event, key: &(String, String, String), mode: &str, p: &Party| {
        out.push(Change {
            v: 1,
            at_s,
            event,
            resource: key.0.clone(),
            mode: mode.into(),
            node: p.node.clone(),
            pid: p.pid,
            label: p.label.clone(),
            lock: p.lock.clone(),
        });
    };
    for (key, (granted, mode, p)) in before {
        if !now.contains_key(key) {
            push(if *granted { "released" } else { "withdrawn" }, key, mode, p);
        }
    }
    for (key, (granted, mode, p)) in now {
        match before.get(key) {
            Some((g, m, _)) if g == granted && m == mode => {}
            Some((true, ..)) if *granted => push("converted", key, mode, p),
            _ => push(if *granted { "granted" } else { "waits" }, key, mode, p),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(granted: bool, mode: &str) -> Picture {
        let p = Party {
            node: "a".into(),
            lock: "1.1".into(),
            pid: 7,
            label: String::new(),
            owner: 0,
            transaction: 0,
        };
        Picture::from([(("r".into(), "a".into(), "1.1".into()), (granted, mode.into(), p))])
    }

    #[test]
    fn each_change_is_told_once_by_its_name() {
        let none = Picture::new();
        let told = |a: &Picture, b: &Picture| changes(a, b, 0).iter().map(|c| c.event).collect::<Vec<_>>();
        assert_eq!(told(&none, &one(false, "EX")), ["waits"]);
        assert_eq!(told(&one(false, "EX"), &one(true, "EX")), ["granted"]);
        assert_eq!(told(&one(true, "EX"), &one(true, "PR")), ["converted"]);
        assert_eq!(told(&one(true, "EX"), &none), ["released"]);
        assert_eq!(told(&one(false, "EX"), &none), ["withdrawn"]);
        assert_eq!(told(&one(true, "EX"), &one(true, "EX")), Vec::<&str>::new());
    }
}
