//! A lock table in a few words, as several nodes see it, and what would happen to it.

// Each test uses a part of it.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};

use oarlock_deadlock::Graph;
use oarlock_layout::id::{LockId, NodeId, OwnerId, SessionId, SpaceId, TransactionId};
use oarlock_layout::message::lock::Kind;
use oarlock_layout::message::look::Party;
use oarlock_layout::message::trace::{Hold, Link, Sight, Since, Wait, WaitId};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::stamp::Stamp;

const SPACE: SpaceId = SpaceId(1);

/// A lock.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Entry {
    node: u16,
    who: &'static str,
    mode: Mode,
    or: Option<Mode>,
    holds: bool,
    excused: bool,
    stamp: u64,
    /// It is the wait of the lock that stands there.
    converts: Option<usize>,
    gone: bool,
}

impl Entry {
    pub(crate) fn converts(self, at: usize) -> Entry {
        Entry { converts: Some(at), ..self }
    }

    pub(crate) fn or(self, mode: Mode) -> Entry {
        Entry { or: Some(mode), ..self }
    }

    pub(crate) fn excused(self) -> Entry {
        Entry { excused: true, ..self }
    }
}

pub(crate) fn hold(node: u16, who: &'static str, mode: Mode) -> Entry {
    Entry { node, who, mode, or: None, holds: true, excused: false, stamp: 0, converts: None, gone: false }
}

pub(crate) fn wait(node: u16, who: &'static str, mode: Mode, stamp: u64) -> Entry {
    Entry { node, who, mode, or: None, holds: false, excused: false, stamp, converts: None, gone: false }
}

#[derive(Clone, Debug)]
pub(crate) struct Table {
    strict: bool,
    /// Nodes with somebody who waits for an answer only.
    pub(crate) asks: BTreeSet<u16>,
    resources: BTreeMap<&'static str, Vec<Entry>>,
}

fn since(entry: Entry) -> Since {
    Since { stamp: Stamp(entry.stamp), youth: 0 }
}

/// Each name stands for a transaction: it may be at work at any node.
pub(crate) fn transaction(who: &str) -> TransactionId {
    TransactionId(who.bytes().fold(0, |sum, byte| sum * 256 + u64::from(byte)))
}

impl Table {
    pub(crate) fn new(strict: bool) -> Table {
        Table { strict, asks: BTreeSet::new(), resources: BTreeMap::new() }
    }

    pub(crate) fn is_strict(&self) -> bool {
        self.strict
    }

    pub(crate) fn put(&mut self, resource: &'static str, entries: impl IntoIterator<Item = Entry>) {
        self.resources.insert(resource, entries.into_iter().collect());
    }

    /// The same; of two that hold what does not go together, the second does not. All who wait do so at one node.
    pub(crate) fn put_what_fits(&mut self, resource: &'static str, entries: Vec<Entry>) {
        let mut kept: Vec<Entry> = Vec::new();
        for entry in entries {
            let beside =
                kept.iter().filter(|other| other.holds).all(|other| other.mode.compatible(entry.mode));
            match entry.holds {
                true if beside => kept.push(entry),
                true => {}
                false => kept.push(Entry { node: 0, ..entry }),
            }
        }
        self.put(resource, kept);
    }

    fn lock(&self, resource: &str, at: usize) -> LockId {
        let resource = self.resources.keys().position(|name| *name == resource).unwrap();
        let of = self.resources.values().nth(resource).unwrap()[at].converts.unwrap_or(at);
        LockId::new(SessionId(resource as u32 + 1), of as u32)
    }

    fn id(&self, resource: &str, at: usize) -> WaitId {
        let entry = self.resources[resource][at];
        let (node, lock) = (NodeId(entry.node), self.lock(resource, at));
        WaitId { since: since(entry), node, space: SPACE, lock, number: at as u64 }
    }

    fn of(&self, wait: &WaitId) -> &'static str {
        let resource = wait.lock.session().0 as usize - 1;
        self.resources.values().nth(resource).unwrap()[wait.number as usize].who
    }

    /// One wait is taken back; the places of the others stay.
    pub(crate) fn withdraw(&mut self, wait: &WaitId) {
        let resource = wait.lock.session().0 as usize - 1;
        let entries = self.resources.values_mut().nth(resource).unwrap();
        entries[wait.number as usize].gone = true;
    }

    /// For how many things somebody waits at a node.
    fn waits_of(&self, node: u16, who: &str) -> u32 {
        let entries = self.resources.values().flatten();
        entries.filter(|entry| !entry.holds && entry.node == node && entry.who == who).count() as u32
    }

    /// As each node sees it.
    pub(crate) fn sights(&self) -> Vec<(NodeId, Sight)> {
        let mut sights = Vec::new();
        for (resource, entries) in &self.resources {
            let nodes: BTreeSet<u16> = entries.iter().map(|entry| entry.node).collect();
            let mut order: Vec<NodeId> = Vec::new();
            for entry in entries.iter().filter(|entry| !entry.holds) {
                if !order.contains(&NodeId(entry.node)) {
                    order.push(NodeId(entry.node));
                }
            }
            for node in nodes.iter().copied() {
                let of_node = || entries.iter().enumerate().filter(move |(_, entry)| entry.node == node);
                let (holds, waits): (Vec<_>, Vec<_>) = of_node().partition(|(_, entry)| entry.holds);
                let hold = |(at, entry): (usize, &Entry)| Hold {
                    lock: self.lock(resource, at),
                    owner: OwnerId(0),
                    transaction: transaction(entry.who),
                    mode: entry.mode,
                };
                let wait = |(at, entry): (usize, &Entry)| Wait {
                    party: Party {
                        lock: self.lock(resource, at),
                        label: entry.who.into(),
                        transaction: transaction(entry.who),
                        ..Party::default()
                    },
                    wanted: entry.mode,
                    alternate: entry.or,
                    held: None,
                    kind: Kind::New,
                    number: at as u64,
                    since: since(*entry),
                    passes: false,
                    excused: entry.excused,
                    held_back: false,
                    ahead: false,
                    of: self.waits_of(node, entry.who),
                };
                let sight = Sight {
                    space: SPACE,
                    name: Name::new(resource.as_bytes()).unwrap(),
                    holds: holds.into_iter().map(hold).collect(),
                    waits: waits.into_iter().map(wait).collect(),
                    alone: false,
                    more: false,
                    asks: self.asks.contains(&node),
                    order: order.clone(),
                    records: nodes.iter().map(|node| NodeId(*node)).collect(),
                    passover: !self.strict,
                };
                sights.push((NodeId(node), sight));
            }
        }
        sights
    }

    /// Does the one wait for the other, in the way that the link says?
    pub(crate) fn is_behind(&self, link: &Link, next: &Link) -> bool {
        let resource = std::str::from_utf8(link.name.as_bytes()).unwrap();
        let entries = &self.resources[resource];
        match link.behind {
            Some(mode) => entries.iter().any(|entry| {
                entry.holds
                    && entry.mode == mode
                    && transaction(entry.who) == next.party.transaction
                    && !mode.compatible(link.wanted)
            }),
            None => {
                let place = |link: &Link| {
                    let waits = entries.iter().enumerate().filter(|(_, entry)| !entry.holds);
                    waits.map(|(at, _)| at).find(|at| self.lock(resource, *at) == link.party.lock)
                };
                next.name == link.name && place(next) < place(link)
            }
        }
    }

    /// Does whoever stands behind a wait hold what is in the way of another of these, and gives it back only if it is refused: because all of
    /// its waits are stuck?
    pub(crate) fn gives_back(&self, wait: &WaitId, among: &[WaitId], stuck: &BTreeSet<WaitId>) -> bool {
        let who = self.of(wait);
        let goes_on = self.resources.iter().any(|(resource, entries)| {
            let mut waits = entries.iter().enumerate().filter(|(_, entry)| !entry.holds && entry.who == who);
            waits.any(|(at, _)| !stuck.contains(&self.id(resource, at)))
        });
        if goes_on {
            return false;
        }
        among.iter().any(|other| {
            let resource = other.lock.session().0 as usize - 1;
            let entries = self.resources.values().nth(resource).unwrap();
            let wants = entries[other.number as usize];
            let choices = [Some(wants.mode), wants.or];
            entries.iter().enumerate().any(|(at, held)| {
                let own = wants.converts == Some(at);
                let in_way = choices.into_iter().flatten().any(|mode| !held.mode.compatible(mode));
                held.holds && held.who == who && !own && in_way
            })
        })
    }

    /// Whom the graph calls stuck, by resource and place.
    pub(crate) fn stuck(&self, graph: &Graph) -> BTreeSet<WaitId> {
        graph.stuck()
    }

    /// Whoever has been granted something, or waits for nothing, goes on: it gives back all that it holds. Who never goes on?
    pub(crate) fn played(&self) -> BTreeSet<WaitId> {
        let mut holds: BTreeSet<(&str, usize)> = BTreeSet::new();
        let mut queues: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        let mut stands: BTreeSet<&str> = BTreeSet::new();
        for (resource, entries) in &self.resources {
            for (at, entry) in entries.iter().enumerate().filter(|(_, entry)| !entry.gone) {
                if entry.holds {
                    holds.insert((resource, at));
                } else {
                    queues.entry(resource).or_default().push(at);
                    stands.insert(entry.who);
                }
            }
        }
        loop {
            let before = (holds.clone(), queues.clone());
            holds.retain(|(resource, at)| stands.contains(self.resources[resource][*at].who));
            for (resource, queue) in &mut queues {
                let entries = &self.resources[resource];
                let fits = |at: usize, holds: &BTreeSet<(&str, usize)>| {
                    let choices = [Some(entries[at].mode), entries[at].or];
                    choices.into_iter().flatten().any(|mode| {
                        holds
                            .iter()
                            .filter(|(other, _)| other == resource)
                            .all(|(_, other)| entries[*other].mode.compatible(mode))
                    })
                };
                // Whoever is granted goes on, and gives it back at once.
                while let Some(first) = queue.first().copied().filter(|first| fits(*first, &holds)) {
                    queue.remove(0);
                    stands.remove(entries[first].who);
                    if !self.strict {
                        queue.retain(|at| {
                            let granted = fits(*at, &holds);
                            if granted {
                                stands.remove(entries[*at].who);
                            }
                            !granted
                        });
                    }
                }
            }
            if before == (holds.clone(), queues.clone()) {
                break;
            }
        }
        let all = queues.iter().flat_map(|(resource, queue)| queue.iter().map(move |at| (*resource, *at)));
        all.map(|(resource, at)| self.id(resource, at)).collect()
    }
}

/// Who stands behind waits, in their order.
pub(crate) fn names(table: &Table, waits: &[WaitId]) -> Vec<String> {
    waits.iter().map(|wait| table.of(wait).to_string()).collect()
}
