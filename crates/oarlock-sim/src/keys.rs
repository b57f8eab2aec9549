//! Nodes that change their keys in the middle of whatever goes on (FT27).
//!
//! ```text
//!   Change ─► next ─► NextKey ─► KeySeen of the view ─► switch ─► KeySeen of all, circuits renewed ─► TakeKey ─► finish
//! ```
//!
//! What is due follows from a node's keys, which outlive its runs as files would, and from the registry as its disk has it. So a
//! node that died, stood still or was put out at any step goes on from there, and in the calm every change comes to its end.

use std::collections::BTreeSet;

use oarlock_cluster::registry::{Command, MemberRecord, Registry};
use oarlock_layout::id::NodeId;
use oarlock_layout::seal::PublicKey;
use oarlock_layout::time::Instant;

use crate::options::Options;
use crate::queue::Time;
use crate::random::Random;
use crate::seal::{ChecksumSeal, OwnKeys};
use crate::swarm::{MS, S};
use crate::world::{Happening, SECRET, World};

/// Makes another stream of the same seed.
const CHANGES: u64 = 0x6e15_0000_0000_0000;
/// A command that came to nothing is proposed again after this.
const AGAIN: Time = 500 * MS;

/// A node's keys, as files beside its disk: each is a number from which the private half follows.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    /// The first of all, from which those to come follow.
    first: u64,
    current: u64,
    next: Option<u64>,
    old: Option<u64>,
    /// Of the seals of all its runs.
    own: OwnKeys,
    /// When this run began to prove itself with the newer of two, on its own clock.
    switched: Option<Instant>,
    /// When something was proposed last.
    asked: Time,
    /// How many it has had.
    count: u64,
}

impl Keys {
    /// Those of a machine that nobody used before.
    pub(crate) fn new(machine: u16) -> Keys {
        let current = u64::from(machine) + 1;
        let own = OwnKeys::new(current);
        Keys { first: current, current, next: None, old: None, own, switched: None, asked: 0, count: 0 }
    }

    /// For the seal of a run that begins.
    pub(crate) fn begin(&mut self) -> OwnKeys {
        self.switched = None;
        self.own.clone()
    }

    /// With which a run that begins is known.
    pub(crate) fn public(&self) -> PublicKey {
        public(self.current)
    }

    fn show(&self) {
        self.own.set([Some(self.current), self.next, self.old].into_iter().flatten().collect());
    }
}

fn public(key: u64) -> PublicKey {
    ChecksumSeal::new(key, SECRET, 0).public_key()
}

impl World {
    /// In one seed of four, some nodes change their keys during the storm.
    pub(crate) fn plan_keys(&mut self) {
        let random = &mut Random::new(self.seed ^ CHANGES);
        if self.options.crypto.is_some() || !self.options.faults || !random.chance(250) {
            return;
        }
        for _ in 0..random.between(1, 4) {
            let at = random.between(2 * S, self.plan.storm_end);
            let node = random.below(self.options.nodes.into()) as u16;
            self.queue.push(at, Happening::ChangeKey { node });
        }
    }

    /// Somebody asks a node to change its key. One that does not run, or does so already, does nothing.
    pub(crate) fn change_key(&mut self, node: u16) {
        let host = &mut self.hosts[usize::from(node)];
        if !host.up || host.paused || host.keys.next.is_some() || host.keys.old.is_some() {
            return;
        }
        host.keys.count += 1;
        host.keys.next = Some(host.keys.first + 1000 * host.keys.count);
        host.keys.show();
        self.load.keys_changed += 1;
        self.attend_keys(node);
    }

    /// Does what is due at a node.
    pub(crate) fn attend_keys(&mut self, node: u16) {
        let now = self.queue.now();
        let me = NodeId(node);
        let registry: &Registry = self.coordinator.known(node);
        let host = &mut self.hosts[usize::from(node)];
        let (at, run, waits) = (host.clock(now), host.disk.run(), now < host.keys.asked + AGAIN);
        let Some(running) = host.node.as_mut().filter(|_| host.up && !host.paused) else { return };
        let mut commands = Vec::new();
        let unseen = |it: &&MemberRecord| {
            it.node != me && it.next.as_ref().is_some_and(|next| !next.seen.contains(&me))
        };
        for it in registry.members().filter(unseen) {
            let key = it.next.as_ref().expect("it was looked at").key;
            commands.push(Command::KeySeen { node: it.node, key, by: me });
        }
        // Who has left, or has not heard yet that it has joined, changes nothing.
        let Some(record) = registry.member(me).filter(|it| !it.left) else { return };
        let announced = |key: u64| record.next.as_ref().is_some_and(|next| next.key == public(key));
        let keys = &mut host.keys;
        if keys.old.is_some() && keys.switched.is_none() {
            keys.switched = Some(at);
            running.renew_keys(at);
        }
        let mut turns = false;
        match (keys.old, keys.next) {
            (Some(_), _) if record.key == public(keys.current) => {
                keys.old = None;
                keys.show();
                self.load.keys_retired += 1;
            }
            (Some(_), _) if announced(keys.current) && registry.unaware(me).next().is_none() => {
                let renewed = running.oldest_keys().is_none_or(|oldest| Some(oldest) > keys.switched);
                if running.has_entered() && renewed {
                    commands.push(Command::TakeKey { node: me, key: public(keys.current) });
                }
            }
            (None, Some(next)) if announced(next) => {
                let in_view = |node: &NodeId| registry.run(*node).is_some();
                if !registry.unaware(me).any(|node| in_view(&node)) {
                    (keys.old, keys.current, keys.next) = (Some(keys.current), next, None);
                    keys.show();
                    keys.switched = Some(at);
                    running.renew_keys(at);
                    turns = true;
                }
            }
            (None, Some(next)) => commands.push(Command::NextKey {
                node: me,
                seen: record.revision,
                key: public(next),
                made: now / S,
            }),
            _ => {}
        }
        if !commands.is_empty() && !waits {
            keys.asked = now;
            commands.into_iter().for_each(|command| self.propose(node, run, command));
        }
        if turns {
            self.turn(node);
        }
    }

    /// In the end no change is left half done, and everybody lets everybody in by the key that he has.
    pub(crate) fn keys_must_be_settled(&mut self) {
        if !self.health.broken.is_empty() {
            return;
        }
        let under_way = |it: &Keys| it.next.is_some() || it.old.is_some();
        let late: BTreeSet<u16> = self.hosts.iter().filter(|h| under_way(&h.keys)).map(|h| h.index).collect();
        if !late.is_empty() {
            let text = format!("nodes {late:?} are still changing their keys, long after the last fault");
            self.others.add("keys", self.queue.now(), text);
        }
    }
}

/// The first key of a machine: the one that had a node's place after `generation` others.
pub(crate) fn key_of(options: &Options, node: u16, generation: u64) -> PublicKey {
    let machine = machine(node, generation);
    let made = options.crypto.map(|make| make(machine, 0).1);
    made.unwrap_or_else(|| public(u64::from(machine) + 1))
}

/// A number of its own for each machine that has had a node's place.
pub(crate) const fn machine(node: u16, generation: u64) -> u16 {
    node | (generation as u16) << 6
}
