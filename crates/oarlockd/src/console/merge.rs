//! Puts together what the members see of the same resources.

use std::collections::{BTreeMap, BTreeSet};

use oarlock_layout::id::{NodeId, SessionId};
use oarlock_layout::message::lock::Kind;
use oarlock_layout::message::look::{self, Seen, What};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;

use super::doc;

/// One document from the answers of all members; `None` stands for a member that did not answer.
pub fn merge(space: &str, name_of: &dyn Fn(NodeId) -> String, seen: &[(NodeId, Option<Seen>)]) -> doc::Locks {
    let mut resources: BTreeMap<Name, Merged> = BTreeMap::new();
    let mut unanswered = Vec::new();
    let mut cut = Vec::new();
    for (id, answer) in seen {
        let node = name_of(*id);
        let Some(answer) = answer else {
            unanswered.push(node);
            continue;
        };
        if answer.cut {
            cut.push(node.clone());
        }
        for row in &answer.rows {
            let merged = resources.entry(row.name.clone()).or_default();
            merged.add(*id, &node, &row.what, name_of);
        }
    }
    let resources = resources.into_iter().map(|(name, merged)| merged.finish(&name)).collect();
    doc::Locks { v: doc::VERSION, space: space.into(), waits: Vec::new(), unanswered, cut, resources }
}

#[derive(Default)]
struct Merged {
    doc: doc::Resource,
    /// Who has a lock on it.
    sessions: BTreeSet<(NodeId, SessionId)>,
    /// Nodes queued at the master: converts, then newcomers.
    converting: Vec<NodeId>,
    waiting: Vec<NodeId>,
    /// Waiters as each node has them: (kind, node, place in its own queue, document).
    waiters: Vec<(Kind, NodeId, usize, doc::Waiter)>,
}

impl Merged {
    fn add(&mut self, id: NodeId, node: &str, what: &What, name_of: &dyn Fn(NodeId) -> String) {
        if let What::Holder(look::Holder { party, .. }) | What::Waiter(look::Waiter { party, .. }) = what {
            self.sessions.insert((id, party.lock.session()));
        }
        match what {
            What::Holder(h) => self.doc.holders.push(doc::Holder {
                party: party(node, &h.party),
                mode: h.mode.to_string(),
                age_us: h.age_us,
                fence: h.token.fence.number().to_string(),
                local: h.token.local,
                told: mode(h.told),
                fast: h.fast,
            }),
            What::Waiter(w) => {
                let place = self.waiters.iter().filter(|(kind, n, ..)| *kind == w.kind && *n == id).count();
                let waiter = doc::Waiter {
                    party: party(node, &w.party),
                    wanted: w.wanted.to_string(),
                    held: mode(w.held),
                    queue: queue(w.kind).into(),
                    age_us: w.age_us,
                    ahead: 0,
                };
                self.waiters.push((w.kind, id, place, waiter));
            }
            What::Shadow(s) => self.doc.nodes.push(doc::Owned {
                node: node.into(),
                owned: mode(s.owned),
                need: mode(s.need),
                retained: s.owned.is_some() && s.owned != s.need,
                told_held: mode(s.told_held),
                told_wanted: mode(s.told_conv),
                statements: s.n,
                changes: s.g,
                acknowledged: s.a,
                fence: s.fence.number().to_string(),
            }),
            What::Master(m) => {
                self.doc.master = Some(node.into());
                self.doc.departed = m.departed.iter().map(|node| name_of(*node)).collect();
                self.doc.openers_told = m.openers;
                self.doc.value = Some(doc::ValueBlock { sequence: m.value, valid: m.value_valid });
                self.doc.head = m.head.map(|h| doc::Head {
                    number: h.number,
                    mode: h.mode.to_string(),
                    queue: queue(h.kind).into(),
                });
                self.converting.clone_from(&m.converting);
                self.waiting.clone_from(&m.waiting);
            }
            // No look at locks brings one.
            What::Branch(_) => {}
            What::Record(r) => self.doc.records.push(doc::Record {
                node: name_of(r.node),
                held: mode(r.held),
                wanted: mode(r.conv),
                changes: r.g,
                acknowledged: r.a,
                busy: r.busy,
            }),
        }
    }

    /// Orders the waiters as they will probably be served. A node has one place at the master, for the first
    /// of its waiters; the next one queues when that one is served. So nodes take turns, in the order of the
    /// master's queue; a node without a place there serves its own waiters from what it owns.
    fn finish(mut self, name: &Name) -> doc::Resource {
        let rank = |kind: Kind, id: NodeId| {
            let list = if kind == Kind::Convert { &self.converting } else { &self.waiting };
            list.iter().position(|n| *n == id).map_or(0, |p| p + 1)
        };
        let mut keyed: Vec<_> = self
            .waiters
            .drain(..)
            .map(|(kind, id, place, waiter)| ((kind != Kind::Convert, place, rank(kind, id), id), waiter))
            .collect();
        keyed.sort_by_key(|(key, _)| *key);
        for (ahead, (_, mut waiter)) in keyed.into_iter().enumerate() {
            waiter.ahead = ahead as u32;
            self.doc.waiters.push(waiter);
        }
        self.doc.openers = self.sessions.len() as u32;
        self.doc.name = name.to_string();
        self.doc
    }
}

fn mode(mode: Option<Mode>) -> Option<String> {
    mode.map(|m| m.to_string())
}

fn queue(kind: Kind) -> &'static str {
    match kind {
        Kind::Convert => "convert",
        Kind::New => "wait",
    }
}

pub(super) fn party(node: &str, party: &look::Party) -> doc::Party {
    doc::Party {
        node: node.into(),
        lock: party.lock.to_string(),
        pid: party.pid,
        label: party.label.clone(),
        owner: party.owner.shown(),
        transaction: party.transaction.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_layout::id::LockId;
    use oarlock_layout::message::look::{Holder, MasterRow, Row, Waiter};
    use oarlock_layout::token::Token;

    fn waiter(pid: u32, kind: Kind) -> What {
        What::Waiter(Waiter {
            party: look::Party { pid, ..Default::default() },
            wanted: Mode::EX,
            held: None,
            kind,
            age_us: 1,
        })
    }

    fn seen(rows: Vec<What>) -> Option<Seen> {
        let name = Name::new(b"r").unwrap();
        let rows = rows.into_iter().map(|what| Row { name: name.clone(), what }).collect();
        Some(Seen { question: 1, cut: false, rows })
    }

    fn name_of(node: NodeId) -> String {
        ["a", "b", "c"][usize::from(node.0)].into()
    }

    #[test]
    fn waiters_stand_in_the_masters_order_and_nodes_take_turns() {
        let master = What::Master(MasterRow {
            head: None,
            converting: vec![NodeId(2)],
            waiting: vec![NodeId(1), NodeId(0)],
            value: 0,
            value_valid: true,
            openers: 5,
            departed: vec![],
        });
        let answers = [
            (NodeId(0), seen(vec![waiter(10, Kind::New), waiter(11, Kind::New)])),
            (NodeId(1), seen(vec![waiter(20, Kind::New), waiter(21, Kind::New), master])),
            (NodeId(2), seen(vec![waiter(30, Kind::New), waiter(31, Kind::Convert)])),
        ];
        let locks = merge("default", &name_of, &answers);
        let r = &locks.resources[0];
        let order: Vec<_> = r.waiters.iter().map(|w| (w.party.pid, w.ahead)).collect();
        // The convert first; then node c's newcomer, which has no place at the master; then b, a, and both again.
        assert_eq!(order, [(31, 0), (30, 1), (20, 2), (10, 3), (21, 4), (11, 5)]);
        assert_eq!((r.name.as_str(), r.master.as_deref(), r.openers_told), ("r", Some("b"), 5));
    }

    /// What the master was told grows old: grants that cost no message are not told.
    #[test]
    fn openers_are_the_sessions_that_have_a_lock_now() {
        let lock = |session, number| look::Party {
            lock: LockId::new(SessionId(session), number),
            ..Default::default()
        };
        let holds = |session, number| {
            What::Holder(Holder {
                party: lock(session, number),
                mode: Mode::PR,
                age_us: 1,
                token: Token::default(),
                told: None,
                fast: false,
            })
        };
        let waits = |session, number| match waiter(1, Kind::Convert) {
            What::Waiter(w) => What::Waiter(Waiter { party: lock(session, number), ..w }),
            other => other,
        };
        // Two locks of one session, one of which converts; and the same number of a session on another node.
        let answers = [
            (NodeId(0), seen(vec![holds(1, 1), holds(1, 2), waits(1, 2), holds(2, 1)])),
            (NodeId(1), seen(vec![waits(1, 1)])),
        ];
        assert_eq!(merge("default", &name_of, &answers).resources[0].openers, 3);
    }

    #[test]
    fn a_member_that_is_silent_is_named() {
        let locks = merge("x", &name_of, &[(NodeId(0), seen(vec![])), (NodeId(1), None)]);
        assert_eq!(locks.unanswered, ["b"]);
        assert!(locks.resources.is_empty());
    }
}
