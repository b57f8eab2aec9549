//! Nodes of two versions in one cluster (FT26).
//!
//! ```text
//!   Minor   the same wire, and more on it: chunks and fields that nobody knows yet, which may be skipped    goes on beside the others
//!   Major   another VERSION on every datagram: refused by name (OAR-5102), and refuses the others            as if it were cut off
//! ```
//!
//! A node of a later version is this one's code. What it says is marked on its way out, and what it hears on its way in, so that each sees
//! its own number on datagrams of its like and another on all others. Which of the two versions has the majority is left to chance.

use oarlock_circuit::Transmit;
use oarlock_cluster::registry::Command;
use oarlock_layout::code::Code;
use oarlock_layout::message::frame::{Kind, MAGIC, VERSION};
use oarlock_node::Event;

use crate::swarm::{FaultKind, MS, S};
use crate::world::{Happening, World};

/// What a machine runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Release {
    /// What all run.
    #[default]
    This,
    /// A later one that speaks the same wire.
    Minor,
    /// A later one that speaks another.
    Major,
}

/// A kind of chunk that no version has.
const STRANGE_CHUNK: u8 = 0xee;
/// A field that no version has, and the mark that it may be skipped.
const STRANGE_FIELD: u16 = 0x7ffe;
const MAY_SKIP: u16 = 0x8000;

impl Release {
    /// What its circuits say that others do not know.
    pub(crate) fn strange_chunk(self) -> Option<u8> {
        (self == Release::Minor).then_some(STRANGE_CHUNK)
    }

    /// Do nodes of these two understand each other?
    pub(crate) fn fits(self, other: Release) -> bool {
        (self == Release::Major) == (other == Release::Major)
    }

    /// All that a node sends at once.
    pub(crate) fn mark_all(self, transmit: &mut Transmit) {
        if self == Release::Major {
            let each = transmit.segment.unwrap_or(transmit.bytes.len()).max(1);
            transmit.bytes.chunks_mut(each).for_each(|datagram| self.mark(datagram));
        }
    }

    /// A datagram of a node as it leaves, or as it reaches a node: seen from there its own version is this one.
    pub(crate) fn mark(self, bytes: &mut [u8]) {
        let [a, b, version, kind, ..] = bytes else { return };
        // Refusals are read whatever their version.
        if self != Release::Major || [*a, *b] != MAGIC.to_le_bytes() || *kind == Kind::Refusal as u8 {
            return;
        }
        *version = match *version {
            VERSION => VERSION + 1,
            it if it == VERSION + 1 => VERSION,
            it => it,
        };
    }
}

/// A command as a later version writes it, with a field more at its end.
fn with_more(command: &Command, number: u16) -> Vec<u8> {
    let mut bytes = command.to_bytes();
    bytes.extend(number.to_le_bytes());
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(*b"new");
    bytes
}

impl World {
    /// Some nodes are stopped and come back as a later version.
    pub(crate) fn upgrade(&mut self, node: u16) {
        let now = self.queue.now();
        let nodes = self.options.nodes;
        let random = &mut self.farewells;
        let release = if random.chance(500) { Release::Minor } else { Release::Major };
        let others = if random.chance(300) { random.below(1 << nodes) } else { 0 };
        let back = random.between(S / 2, 6 * S);
        let all: Vec<u16> = (0..nodes).filter(|n| *n == node || others >> n & 1 == 1).collect();
        self.cover(FaultKind::Upgrade, &all);
        self.load.upgrades += all.len() as u64;
        for node in all {
            let at = now + self.farewells.spread(10 * MS, S);
            self.end(node);
            self.hosts[usize::from(node)].release = release;
            self.queue.push(at, Happening::Start { node });
            if release == Release::Major {
                self.queue.push(at + back, Happening::Downgrade { node });
            }
        }
        self.touch_versions();
    }

    /// With two wires in the cluster nobody is sound who is not with the many.
    fn touch_versions(&mut self) {
        let major = |n: &u16| self.hosts[usize::from(*n)].release == Release::Major;
        let (them, us): (Vec<u16>, Vec<u16>) = (0..self.options.nodes).partition(major);
        let apart = if us.len() > them.len() { them } else { us };
        // Longer than any node stays with another wire, and each return is looked at again.
        let until = self.queue.now() + 8 * S;
        if !apart.is_empty() {
            self.health.evidence.disturb(0..self.options.nodes, until);
        }
        apart.into_iter().for_each(|node| self.health.touch(node, until));
    }

    /// A node of another wire goes back to this version.
    pub(crate) fn downgrade(&mut self, node: u16) {
        if self.hosts[usize::from(node)].release != Release::Major {
            return;
        }
        self.end(node);
        self.hosts[usize::from(node)].release = Release::This;
        self.touch_versions();
        if self.is_whole(node) {
            self.start(node);
        }
    }

    /// A command reaches whoever leads as its node has written it. None: it cannot be read here, and is refused.
    pub(crate) fn written_by(&mut self, node: u16, command: Command) -> Option<Command> {
        if self.hosts[usize::from(node)].release != Release::Minor {
            return Some(command);
        }
        let now = self.queue.now();
        match Command::from_bytes(&with_more(&command, STRANGE_FIELD | MAY_SKIP)) {
            Ok(read) if read == command => self.load.skipped += 1,
            other => {
                let text = format!("{command:?} with a field that may be skipped is read as {other:?}");
                self.others.add("versions", now, text);
            }
        }
        if !self.calm && self.farewells.chance(50) {
            // It uses what only the later version has. Whoever leads refuses it, and says which field that is.
            match Command::from_bytes(&with_more(&command, STRANGE_FIELD)) {
                Err(why) if why.to_string().contains(&STRANGE_FIELD.to_string()) => {
                    self.load.unread += 1;
                    return None;
                }
                other => {
                    let text =
                        format!("{command:?} with a field that must be understood is read as {other:?}");
                    self.others.add("versions", now, text);
                }
            }
        }
        Some(command)
    }

    /// Says what is wrong with an event between nodes of two versions.
    pub(crate) fn look_at_versions(&mut self, index: u16, event: &Event) {
        let mine = self.hosts[usize::from(index)].release;
        match event {
            Event::Up { node, incarnation } => {
                let them = self.hosts.iter().find(|host| host.identity.name == *node);
                let current = them.filter(|host| host.up && host.disk.run() == incarnation.0 && !host.stale);
                if let Some(host) = current.filter(|host| !host.release.fits(mine)) {
                    let text =
                        format!("node {index} ({mine:?}) has a circuit to {node} ({:?})", host.release);
                    self.others.add("versions", self.queue.now(), text);
                }
            }
            Event::Refused { code: Code::PeerVersion, .. }
            | Event::RefusedBy { code: Code::PeerVersion, .. } => {
                self.load.refused_versions += 1;
                if self.hosts.iter().all(|host| host.release.fits(mine)) && self.calm_since_long() {
                    let text = format!("node {index} refuses a version, and all have the same: {event}");
                    self.others.add("versions", self.queue.now(), text);
                }
            }
            _ => {}
        }
    }

    fn calm_since_long(&self) -> bool {
        self.calm && self.queue.now() > self.plan.storm_end + S
    }

    /// Whatever of a later version was skipped at this node, when its run ends.
    pub(crate) fn count_skipped(&mut self, index: u16) {
        let host = &self.hosts[usize::from(index)];
        let Some(node) = &host.node else { return };
        let skipped = node.counters().into_iter().find(|counter| counter.name.contains("chunks_skipped"));
        self.load.skipped += skipped.expect("circuits count what they skip").value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_layout::id::{Incarnation, NodeId};

    #[test]
    fn each_sees_its_own_number_on_its_like_and_another_on_the_rest() {
        let sent = |kind: Kind| {
            let magic = MAGIC.to_le_bytes();
            [magic[0], magic[1], VERSION, kind as u8, 0]
        };
        let pass = |kind, from: Release, to: Release| {
            let mut bytes = sent(kind);
            from.mark(&mut bytes);
            to.mark(&mut bytes);
            bytes[2]
        };
        for (from, to) in [(Release::This, Release::This), (Release::Major, Release::Major)] {
            assert!(from.fits(to) && pass(Kind::Hello, from, to) == VERSION);
        }
        for (from, to) in [(Release::Minor, Release::Major), (Release::Major, Release::This)] {
            assert!(!from.fits(to) && pass(Kind::Hello, from, to) == VERSION + 1);
            assert_eq!(pass(Kind::Refusal, from, to), VERSION);
        }
    }

    #[test]
    fn a_field_more_is_skipped_or_named() {
        let command = Command::Surrender { node: NodeId(1), incarnation: Incarnation(7) };
        assert_eq!(Command::from_bytes(&with_more(&command, STRANGE_FIELD | MAY_SKIP)), Ok(command.clone()));
        let why = Command::from_bytes(&with_more(&command, STRANGE_FIELD)).unwrap_err().to_string();
        assert!(why.contains("32766"), "{why}");
    }
}
