//! The sentence a waiting command says after a second: who holds it, since when, how many are ahead.

use std::time::Duration;

use oarlock_layout::id::LockId;
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;

use crate::console::doc::{Locks, Party, Resource};

/// The sentence, from the document that answers what the cluster sees of the resource. `me` is this
/// command's own lock: (node, id).
pub fn message(name: &Name, mode: Mode, document: &[u8], me: Option<(String, LockId)>) -> String {
    let start = format!("waiting for {name} {mode}");
    let Ok(locks) = serde_json::from_slice::<Locks>(document) else {
        return format!("{start}: the daemon could not say why");
    };
    if let Some(wait) = locks.waits.first() {
        return format!("{start}: {wait}");
    }
    let mut why = Vec::new();
    let resource = locks.resources.first();
    let mine = |p: &Party| me.as_ref().is_some_and(|(n, l)| p.node == *n && p.lock == l.to_string());
    let place = resource.and_then(|r| r.waiters.iter().find(|w| mine(&w.party))).map(|w| w.ahead);
    let blocker = resource.and_then(|r| held_by(r, mode));
    let silent = locks.unanswered.join(", ");
    match (&blocker, silent.is_empty()) {
        (Some(blocker), true) => why.push(blocker.clone()),
        (Some(blocker), false) => why.extend([blocker.clone(), format!("not heard: {silent}")]),
        (None, true) => why.push("nobody is seen holding it".into()),
        // What it holds is not seen, and it may be the one that decides.
        (None, false) => why.push(format!("not heard, and perhaps in the way: {silent}")),
    }
    match place {
        Some(0) if blocker.is_some() => why.push("you are next".into()),
        Some(0) | None => {}
        Some(n) => why.push(format!("{n} ahead of you")),
    }
    format!("{start}: {}", why.join("; "))
}

/// Who is in the way of `wanted`, if somebody is seen there.
pub fn held_by(resource: &Resource, wanted: Mode) -> Option<String> {
    let blocks = |text: &str| text.parse::<Mode>().is_ok_and(|m| !m.compatible(wanted));
    let blockers: Vec<_> = resource.holders.iter().filter(|h| blocks(&h.mode)).collect();
    if let Some(oldest) = blockers.iter().max_by_key(|h| h.age_us) {
        let others = match blockers.len() {
            1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        return Some(format!(
            "held {} by {} for {}{others}",
            oldest.mode,
            party(&oldest.party),
            age(oldest.age_us)
        ));
    }
    let owner = resource.nodes.iter().find(|n| n.owned.as_deref().is_some_and(blocks))?;
    Some(format!(
        "{} owns {} with nobody inside and has been asked to give it back",
        owner.node,
        owner.owned.as_deref().unwrap_or_default()
    ))
}

/// A program in words.
pub fn party(p: &Party) -> String {
    match p.label.is_empty() {
        true => format!("{} pid {}", p.node, p.pid),
        false => format!("{} pid {} ({})", p.node, p.pid, p.label),
    }
}

/// A duration in words, coarse: people compare these, they do not add them.
pub fn age(us: u64) -> String {
    let d = Duration::from_micros(us);
    match d.as_secs() {
        0 => format!("{} ms", d.as_millis()),
        1..10 => format!("{:.1} s", d.as_secs_f64()),
        10..60 => format!("{} s", d.as_secs()),
        60..3600 => format!("{}:{:02} min", d.as_secs() / 60, d.as_secs() % 60),
        s => format!("{}:{:02} h", s / 3600, s % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::doc::{Holder, Owned, VERSION, Waiter};

    fn who(node: &str, pid: u32, label: &str, lock: &str) -> Party {
        Party { node: node.into(), lock: lock.into(), pid, label: label.into(), owner: 0, transaction: 0 }
    }

    fn document(resource: Resource, unanswered: &[&str]) -> Vec<u8> {
        let unanswered = unanswered.iter().map(|s| (*s).into()).collect();
        let locks = Locks {
            v: VERSION,
            space: "default".into(),
            waits: vec![],
            unanswered,
            cut: vec![],
            resources: vec![resource],
        };
        serde_json::to_vec(&locks).unwrap()
    }

    #[test]
    fn the_holder_its_age_and_the_place_are_named() {
        let holder = Holder {
            party: who("node-b", 4121, "backup.sh", "3.1"),
            mode: "EX".into(),
            age_us: 12_400_000,
            fence: "1".into(),
            local: 0,
            told: None,
            fast: false,
        };
        let waiter = |lock: &str, ahead| Waiter {
            party: who("node-a", 5, "x", lock),
            wanted: "EX".into(),
            held: None,
            queue: "wait".into(),
            age_us: 1,
            ahead,
        };
        let resource = Resource {
            name: "jobs/nightly".into(),
            holders: vec![holder],
            waiters: vec![waiter("9.1", 0), waiter("7.1", 1)],
            ..Resource::default()
        };
        let name = Name::new(b"jobs/nightly").unwrap();
        let me = Some(("node-a".to_owned(), LockId::new(oarlock_layout::id::SessionId(7), 1)));
        assert_eq!(
            message(&name, Mode::EX, &document(resource, &["node-c"]), me),
            "waiting for jobs/nightly EX: held EX by node-b pid 4121 (backup.sh) for 12 s; \
             not heard: node-c; 1 ahead of you"
        );
    }

    #[test]
    fn a_retained_lock_and_silence_are_named() {
        let name = Name::new(b"r").unwrap();
        let owned = Owned {
            node: "node-c".into(),
            owned: Some("EX".into()),
            need: None,
            retained: true,
            told_held: None,
            told_wanted: None,
            statements: 0,
            changes: 0,
            acknowledged: 0,
            fence: "0".into(),
        };
        let resource = Resource { nodes: vec![owned], ..Resource::default() };
        let text = message(&name, Mode::PR, &document(resource, &[]), None);
        assert!(text.contains("node-c owns EX with nobody inside"), "{text}");
        // A silent member that decides is all there is to say: nobody is seen in the way.
        let text = message(&name, Mode::EX, &document(Resource::default(), &["node-b"]), None);
        assert_eq!(text, "waiting for r EX: not heard, and perhaps in the way: node-b");
        assert!(message(&name, Mode::PR, b"nonsense", None).contains("could not say"));
    }

    #[test]
    fn ages_are_coarse() {
        let ages =
            [(900_000, "900 ms"), (1_540_000, "1.5 s"), (59_999_999, "59 s"), (191_000_000, "3:11 min")];
        for (us, text) in ages {
            assert_eq!(age(us), text);
        }
        assert_eq!(age(7_260_000_000), "2:01 h");
    }
}
