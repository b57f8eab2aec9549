//! A fault of few never removes the many (I20), and what is whole goes on without what is not (I23).
//!
//! For each node the world knows until when something was wrong with it, or on a way to or from it. A node with which
//! nothing was wrong for longer than the silent time, a lease and a verdict take together must not be put out, whatever
//! happens to others meanwhile: it hears all who can be heard, so it is in every largest set of those who hear each other.
//!
//! And it knows of each way from when to when it was cut, so that a cut between one node and four does not excuse what is
//! done to the four. See [`ways`](crate::ways).
//!
//! A verdict is judged by what was so when it was proposed: it may be late on its way to whoever decides.

use std::collections::BTreeMap;

use oarlock_cluster::registry::{Basis, Command, Out};
use oarlock_layout::id::Epoch;

use crate::evidence::Evidence;
use crate::history::End;
use crate::history::What;
use crate::network::{Disturbance, Weather};
use crate::queue::Time;
use crate::swarm::S;
use crate::ways::{CERTAIN, Scene, Ways};
use crate::world::World;

/// Traces of a fault may last so long: datagrams that are late by 5 s do no harm, but silence of one second, a lease of
/// three and a verdict have their times one after the other.
pub(crate) const TRACES: Time = 6 * S;

/// Until when something was wrong.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// With a node, or with a way to or from it.
    troubled: Vec<Time>,
    /// With a node itself.
    unwell: Vec<Time>,
    ways: Ways,
    /// Who would be wronged by each verdict that is proposed: of which node, under which view, against whom.
    proposed: Vec<(u16, Epoch, Vec<Out>, Judgement)>,
    /// Nodes that stay broken to the end, and how.
    pub broken: BTreeMap<u16, Breakage>,
    /// No other fault is made before this, because some are locked out.
    pub quiet_until: Time,
    /// Until when a node sleeps.
    pub sleeps_until: Time,
    /// Verdicts on a view in which it was certain of some member that it must stay.
    pub verdicts: u64,
    /// What verdicts may rest on.
    pub evidence: Evidence,
}

/// What is to be said of a verdict.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Judgement {
    /// Who must stay, as far as that is certain.
    pub must_stay: Vec<u16>,
    /// Whom of these it puts out.
    pub wronged: Vec<u16>,
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
    /// Two others and it do not hear each other; all else works.
    Torn,
}

impl Breakage {
    const ALL: [Breakage; 5] =
        [Breakage::Dead, Breakage::Paused, Breakage::Cut, Breakage::Deaf, Breakage::Mute];
}

impl Health {
    pub(crate) fn new(nodes: u16) -> Health {
        let quiet = vec![0; nodes.into()];
        Health { troubled: quiet.clone(), unwell: quiet, ..Health::default() }
    }

    /// Something is wrong with a node until then.
    pub(crate) fn touch(&mut self, node: u16, until: Time) {
        self.touch_around(node, until);
        let unwell = &mut self.unwell[usize::from(node)];
        *unwell = (*unwell).max(until);
    }

    /// Until then something is wrong with a way to or from a node, or around it, and not with the node itself.
    pub(crate) fn touch_around(&mut self, node: u16, until: Time) {
        let troubled = &mut self.troubled[usize::from(node)];
        *troubled = (*troubled).max(until);
    }

    /// These ways are disturbed from now on for so long.
    pub(crate) fn touch_ways(&mut self, now: Time, disturbance: &Disturbance, length: Time) {
        let Disturbance { links, weather, flap } = disturbance;
        links.iter().for_each(|way| self.ways.touch(*way, now, length, weather, *flap > 0));
    }

    /// Whatever was wrong ends now.
    pub(crate) fn calm(&mut self, now: Time) {
        for until in self.troubled.iter_mut().chain(&mut self.unwell) {
            *until = (*until).min(now);
        }
        self.ways.calm(now);
        self.evidence.calm(now);
    }

    fn is_sound(&self, node: u16, now: Time) -> bool {
        !self.broken.contains_key(&node) && self.troubled[usize::from(node)] + TRACES <= now
    }

    /// A verdict is proposed by `by` to the members of a view, of whom these vote.
    pub(crate) fn propose(&mut self, by: u16, command: &Command, members: &[u16], voters: u64, now: Time) {
        let Command::Evict { epoch, out, .. } = command else { return };
        let judgement = self.judge(by, out, members, voters, now);
        self.proposed.retain(|(_, of, ..)| of >= epoch);
        match self.proposed.iter_mut().find(|(who, of, whom, _)| (*who, of, whom) == (by, epoch, out)) {
            // Said again, and nobody knows which of the two arrives: certain is what was so both times.
            Some((.., old)) => {
                old.must_stay.retain(|node| judgement.must_stay.contains(node));
                old.wronged.retain(|node| judgement.wronged.contains(node));
            }
            None => self.proposed.push((by, *epoch, out.clone(), judgement)),
        }
    }

    /// A verdict has been decided: what was to be said of it when it was proposed.
    pub(crate) fn decided(&mut self, by: u16, epoch: Epoch, out: &[Out]) -> Judgement {
        let judgement =
            self.proposed.iter().find(|(who, of, whom, _)| (*who, *of, &**whom) == (by, epoch, out));
        let judgement = judgement.map(|(.., judgement)| judgement.clone()).unwrap_or_default();
        self.verdicts += u64::from(!judgement.must_stay.is_empty());
        judgement
    }

    fn judge(&self, by: u16, out: &[Out], members: &[u16], voters: u64, now: Time) -> Judgement {
        let well = |node: &u16| {
            let broken = self.broken.get(node).is_some_and(|how| *how != Breakage::Torn);
            !broken && self.unwell[usize::from(*node)] + CERTAIN <= now
        };
        let scene = Scene {
            by,
            now,
            well: (0..self.troubled.len() as u16).filter(well).fold(0, |all, node| all | 1 << node),
            voters,
            ways: &self.ways,
        };
        let set = |nodes: &mut dyn Iterator<Item = u16>| nodes.fold(0u64, |all, node| all | 1 << node);
        let of =
            |is: fn(&Basis) -> bool| set(&mut out.iter().filter(|run| is(&run.basis)).map(|run| run.node.0));
        let split = of(|basis| matches!(basis, Basis::Partition { .. }));
        let outvoted = of(|basis| matches!(basis, Basis::Outvoted { .. }));
        let late = of(|basis| matches!(basis, Basis::LeaseOver { .. }));
        // Whoever goes for another reason is none of those among whom the largest set is sought.
        let all = set(&mut members.iter().copied());
        let gone = set(&mut out.iter().map(|run| run.node.0)) & !split & !outvoted;
        let inside = all & !gone & !split;
        let others = set(&mut (0..self.troubled.len() as u16)) & !all;
        // A broken node may be of another version, and is nobody's loss.
        let stays = |node: u16| {
            let certain = || match 1 << node {
                bit if bit & gone != 0 => scene.renews(node),
                bit if bit & split != 0 || split != 0 && outvoted == 0 => {
                    scene.is_in_every_largest(node, all & !gone)
                }
                _ if outvoted != 0 => !scene.may_be_outvoted(node, inside, others),
                _ => scene.renews(node),
            };
            !self.broken.contains_key(&node) && (self.is_sound(node, now) || certain())
        };
        let must_stay = members.iter().copied().filter(|node| stays(*node));
        let accused =
            out.iter().map(|run| run.node.0).filter(|node| (late | split | outvoted) >> node & 1 == 1);
        let wronged = accused.filter(|node| stays(*node));
        Judgement { must_stay: must_stay.collect(), wronged: wronged.collect() }
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
        let torn = self.options.torn && nodes > 4;
        let count = if torn { 1 } else { self.fault_random.between(1, most) };
        while (self.health.broken.len() as u64) < count {
            let node = self.fault_random.below(nodes.into()) as u16;
            let how = if torn { Breakage::Torn } else { *self.fault_random.pick(&Breakage::ALL) };
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
                Breakage::Torn => {
                    let far = [(node + 1) % nodes, (node + 2) % nodes];
                    links.retain(|(a, b)| *a == node && far.contains(b) || *b == node && far.contains(a));
                    far.iter().for_each(|it| self.health.touch_around(*it, self.plan.end));
                }
            }
            if matches!(how, Breakage::Cut | Breakage::Deaf | Breakage::Mute | Breakage::Torn) {
                let disturbance = Disturbance { links, weather, flap: 0 };
                self.health.touch_ways(now, &disturbance, self.plan.end - now);
                let ends = disturbance.links.iter().flat_map(|(a, b)| [*a, *b]);
                self.health.evidence.disturb(ends, Time::MAX / 2);
                self.network.disturb(now, disturbance);
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
        let wronged =
            |health: &Health, out: &[Out], now| health.judge(0, out, &[0, 1, 2], 0b111, now).wronged;
        let all = [out(0, lease), out(1, lease), out(2, Basis::ByHand)];
        assert_eq!(wronged(&health, &all, 11 * S), [0]);
        assert_eq!(wronged(&health, &all, 30 * S), [0, 1]);
        let split = [out(2, Basis::Partition { kept: 2 })];
        assert_eq!(wronged(&health, &split, 30 * S), [2]);
        health.broken.insert(2, Breakage::Mute);
        assert_eq!(wronged(&health, &split, 30 * S), [0; 0]);
    }

    /// What is said twice is judged by both times, and a verdict that nobody proposed is none of these.
    #[test]
    fn a_verdict_is_judged_by_when_it_was_proposed() {
        let mut health = Health::new(3);
        let verdict = vec![out(2, Basis::Partition { kept: 2 })];
        let command = Command::Evict { epoch: Epoch(4), out: verdict.clone(), note: None };
        health.propose(0, &command, &[0, 1, 2], 0b111, 10 * S);
        health.touch(2, 10 * S);
        assert_eq!(health.decided(0, Epoch(4), &verdict).wronged, [2]);
        health.propose(0, &command, &[0, 1, 2], 0b111, 10 * S);
        assert_eq!(health.decided(0, Epoch(4), &verdict).wronged, [0; 0]);
        assert_eq!(health.decided(1, Epoch(4), &verdict), Judgement::default());
        assert_eq!(health.verdicts, 2);
    }
}
