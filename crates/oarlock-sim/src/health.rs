//! A fault of few never removes the many (I20), and what is whole goes on without what is not (I23).
//!
//! For each node the world knows until when something was wrong with it, or on a way to or from it. A node with which
//! nothing was wrong for longer than the silent time, a lease and a verdict take together must not be put out, whatever
//! happens to others meanwhile: it hears all who can be heard, so it is in every largest set of those who hear each other.

use std::collections::BTreeMap;

use oarlock_cluster::registry::{Basis, Out};

use crate::history::End;
use crate::history::What;
use crate::network::{Disturbance, Weather};
use crate::queue::Time;
use crate::swarm::S;
use crate::world::World;

/// Traces of a fault may last so long: datagrams that are late by 5 s do no harm, but silence of one second, a lease of
/// three and a verdict have their times one after the other.
pub(crate) const TRACES: Time = 6 * S;

/// Until when something was wrong.
#[derive(Debug, Default)]
pub(crate) struct Health {
    troubled: Vec<Time>,
    /// Nodes that stay broken to the end, and how.
    pub broken: BTreeMap<u16, Breakage>,
    /// Verdicts on a view in which some member was sound.
    pub verdicts: u64,
}

/// How a node stays broken while the others are judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Breakage {
    /// It is dead.
    Dead,
    /// It stands still.
    Paused,
    /// Nothing reaches it, and nothing that it says arrives.
    Cut,
    /// Nothing reaches it.
    Deaf,
    /// Nothing that it says arrives.
    Mute,
}

impl Breakage {
    const ALL: [Breakage; 5] =
        [Breakage::Dead, Breakage::Paused, Breakage::Cut, Breakage::Deaf, Breakage::Mute];
}

impl Health {
    pub(crate) fn new(nodes: u16) -> Health {
        Health { troubled: vec![0; nodes.into()], ..Health::default() }
    }

    /// Something is wrong with a node until then.
    pub(crate) fn touch(&mut self, node: u16, until: Time) {
        let troubled = &mut self.troubled[usize::from(node)];
        *troubled = (*troubled).max(until);
    }

    /// Whatever was wrong ends now.
    pub(crate) fn calm(&mut self, now: Time) {
        self.troubled.iter_mut().for_each(|until| *until = (*until).min(now));
    }

    fn is_sound(&self, node: u16, now: Time) -> bool {
        !self.broken.contains_key(&node) && self.troubled[usize::from(node)] + TRACES <= now
    }

    /// Those of a verdict that nothing was wrong with.
    pub(crate) fn wronged(&mut self, out: &[Out], now: Time) -> Vec<u16> {
        let nodes = 0..self.troubled.len() as u16;
        self.verdicts += u64::from(nodes.into_iter().any(|node| self.is_sound(node, now)));
        let judged = out.iter().filter(|run| !matches!(run.basis, Basis::Surrendered | Basis::ByHand));
        judged.map(|run| run.node.0).filter(|node| self.is_sound(*node, now)).collect()
    }
}

impl World {
    /// Ends the storm for a connected majority only, if this run is about that: the others stay broken, and their programs
    /// are gone.
    pub(crate) fn break_some(&mut self) {
        let nodes = self.options.nodes;
        if !self.mix.liveness || nodes < 3 {
            return;
        }
        // A member that is just leaving or coming does not vote.
        let most = u64::from(self.coordinator.voters().clamp(3, nodes.into()) - 1) / 2;
        let count = self.fault_random.between(1, most);
        while (self.health.broken.len() as u64) < count {
            let node = self.fault_random.below(nodes.into()) as u16;
            let how = *self.fault_random.pick(&Breakage::ALL);
            self.health.broken.insert(node, how);
        }
        let now = self.queue.now();
        for (node, how) in self.health.broken.clone() {
            self.resume(node);
            for index in 0..self.processes.len() {
                if self.processes[index].node == node && self.processes[index].alive {
                    self.kill(index, End::Died);
                }
            }
            let weather = Weather { lost: 1000, ..Weather::FINE };
            let mut links = self.network.all_links();
            match how {
                Breakage::Dead => self.end(node),
                Breakage::Paused => self.hosts[usize::from(node)].paused = true,
                Breakage::Cut => links.retain(|(a, b)| *a == node || *b == node),
                Breakage::Deaf => links.retain(|(_, to)| *to == node),
                Breakage::Mute => links.retain(|(from, _)| *from == node),
            }
            if matches!(how, Breakage::Cut | Breakage::Deaf | Breakage::Mute) {
                self.network.disturb(now, Disturbance { links, weather, flap: 0 });
            }
        }
    }

    /// Is this node one that everything must be well with in the end?
    pub(crate) fn is_whole(&self, node: u16) -> bool {
        !self.health.broken.contains_key(&node)
    }

    /// A program dies, as far as histories know.
    fn kill(&mut self, index: usize, how: End) {
        let process = &mut self.processes[index];
        process.alive = false;
        let (client, node) = (process.client, process.node);
        self.hosts[usize::from(node)].sessions.remove(&client);
        self.event(What::Ended { client, how });
        self.put(index, crate::host::Input::Hangup { client });
        self.bury(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_layout::id::{Incarnation, NodeId};

    fn out(node: u16, basis: Basis) -> Out {
        Out { node: NodeId(node), incarnation: Incarnation(1), basis, fences: Vec::new() }
    }

    #[test]
    fn who_was_sound_for_long_must_not_be_put_out_but_by_hand() {
        let mut health = Health::new(3);
        health.touch(1, 10 * S);
        let lease = Basis::LeaseOver { renewal: 1 };
        let all = [out(0, lease), out(1, lease), out(2, Basis::ByHand)];
        assert_eq!(health.wronged(&all, 11 * S), [0]);
        assert_eq!(health.wronged(&all, 30 * S), [0, 1]);
        let split = [out(2, Basis::Partition { kept: 2 })];
        assert_eq!(health.wronged(&split, 30 * S), [2]);
        health.broken.insert(2, Breakage::Mute);
        assert_eq!(health.wronged(&split, 30 * S), [0; 0]);
        assert_eq!(health.verdicts, 4);
    }
}
