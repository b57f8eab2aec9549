//! What verdicts rest on, compared with what the world knows of it (L2, L5, L7).
//!
//! A member gathers evidence; the world has made what it is evidence of. So a verdict whose reason is not true is found here
//! whether or not anybody is granted too early by it:
//!
//! * A run is noted as given up only if it has said so itself, at its end in order, or its keeper has, when all programs were gone.
//! * A run is put out because its lease is over, or that is proven of one that was put out, only if its programs do not believe in it
//!   any more.
//! * Of runs that are put out because members do not hear each other one at least must have had something on its ways. A node that
//!   stands still, or is dead, is left to its lease: if it goes on before that is over it keeps what it holds.

use std::collections::{BTreeMap, BTreeSet};

use oarlock_cluster::registry::{Basis, Command, Need, Out, Outcome};

use crate::health;
use crate::queue::Time;
use crate::swarm::S;
use crate::world::World;

/// How long a silence may outlast its cause before a verdict rests on it: the verdict also waits for the registry, which may be away
/// meanwhile (seed 477: all leases were lost, and what was silent before was put out a second after all came back).
const TRACES: Time = health::TRACES + 2 * S;

/// What the world knows.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    /// Runs of which it was said that nobody holds anything under them any more, by somebody who may say so.
    given_up: BTreeSet<(u16, u64)>,
    /// Until when programs of each run believe in what they hold.
    leases: BTreeMap<(u16, u64), Time>,
    /// Until when something was wrong on a way to or from each node.
    disturbed: BTreeMap<u16, Time>,
}

impl Evidence {
    /// Nobody can act under a lock of this run any more.
    pub(crate) fn given_up(&mut self, node: u16, run: u64) {
        self.given_up.insert((node, run));
    }

    /// Programs of this run are told that they hold what they hold until then.
    pub(crate) fn lease(&mut self, node: u16, run: u64, until: Time) {
        self.leases.insert((node, run), until);
    }

    /// Something is wrong on ways to or from these nodes until then.
    pub(crate) fn disturb(&mut self, nodes: impl IntoIterator<Item = u16>, until: Time) {
        for node in nodes {
            let disturbed = self.disturbed.entry(node).or_default();
            *disturbed = until.max(*disturbed);
        }
    }

    /// All ways are in order from now on.
    pub(crate) fn calm(&mut self, now: Time) {
        self.disturbed.values_mut().for_each(|until| *until = now.min(*until));
    }

    /// What is wrong with a command that has just changed the registry.
    pub(crate) fn judge(&self, now: Time, command: &Command) -> Vec<String> {
        let left = |node: u16, run: u64| {
            let until = self.leases.get(&(node, run)).copied().unwrap_or_default();
            (until > now).then(|| format!("which its programs have for {} us more", (until - now) / 1_000))
        };
        match command {
            Command::Surrender { node, incarnation } if !self.given_up.contains(&(node.0, incarnation.0)) => {
                vec![format!(
                    "run {incarnation} of node {node} is given up, which neither it nor its keeper has said"
                )]
            }
            Command::FenceProven { node, incarnation, need: Need::Lease, by_hand: false, .. } => {
                let over =
                    |left| format!("run {incarnation} of node {node} is said to have no lease, {left}");
                left(node.0, incarnation.0).map(over).into_iter().collect()
            }
            Command::Evict { out, .. } => {
                let split = |run: &&Out| matches!(run.basis, Basis::Partition { .. });
                let noticed =
                    |run: &Out| self.disturbed.get(&run.node.0).is_some_and(|until| until + TRACES > now);
                let ways = out.iter().filter(split).any(noticed);
                let wrong = out.iter().filter_map(|run| {
                    let (node, incarnation) = (run.node, run.incarnation);
                    let why = match run.basis {
                        Basis::LeaseOver { .. } => left(node.0, incarnation.0)?,
                        Basis::Partition { .. } if !ways => {
                            "and nothing was wrong on any way to or from it".into()
                        }
                        _ => return None,
                    };
                    Some(format!("run {incarnation} of node {node} is put out, {:?}, {why}", run.basis))
                });
                wrong.collect()
            }
            _ => Vec::new(),
        }
    }
}

impl World {
    /// A command was decided.
    pub(crate) fn weigh(&mut self, command: &Command, outcome: Outcome) {
        if !outcome.changed() {
            return;
        }
        let now = self.queue.now();
        if !self.calm && self.mix.weather.lost > 0 {
            self.health.evidence.disturb(0..self.options.nodes, now);
        }
        for text in self.health.evidence.judge(now, command) {
            self.others.add("evidence", now, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_layout::id::{Epoch, Incarnation, NodeId};

    const NODE: NodeId = NodeId(2);
    const RUN: Incarnation = Incarnation(7);

    fn out(basis: Basis) -> Command {
        let out = vec![Out { node: NODE, incarnation: RUN, basis, fences: Vec::new() }];
        Command::Evict { epoch: Epoch(3), out, note: None }
    }

    #[test]
    fn only_what_is_so_is_a_reason() {
        let mut evidence = Evidence::default();
        let surrender = Command::Surrender { node: NODE, incarnation: RUN };
        assert_eq!(evidence.judge(S, &surrender).len(), 1);
        evidence.given_up(2, 6);
        assert_eq!(evidence.judge(S, &surrender).len(), 1, "another run of it");
        evidence.given_up(2, 7);
        assert_eq!(evidence.judge(S, &surrender).len(), 0);

        evidence.lease(2, 7, 10 * S);
        let proven = |by_hand| Command::FenceProven {
            node: NODE,
            incarnation: RUN,
            need: Need::Lease,
            by: NodeId(0),
            by_hand,
            who: None,
        };
        for (command, late) in [(out(Basis::LeaseOver { renewal: 1 }), 0), (proven(false), 0)] {
            assert_eq!(evidence.judge(10 * S - 1, &command).len(), 1);
            assert_eq!(evidence.judge(10 * S, &command).len(), late);
        }
        assert_eq!(evidence.judge(S, &proven(true)).len(), 0, "a person may be wrong");

        let partition = out(Basis::Partition { kept: 2 });
        assert_eq!(evidence.judge(20 * S, &partition).len(), 1, "it only stands still");
        evidence.disturb([0, 1], 30 * S);
        assert_eq!(evidence.judge(20 * S, &partition).len(), 1, "others are cut off from each other");
        evidence.disturb([2], 30 * S);
        evidence.calm(15 * S);
        assert_eq!(evidence.judge(20 * S, &partition).len(), 0);
        assert_eq!(evidence.judge(23 * S, &partition).len(), 1);
        assert_eq!(evidence.judge(21 * S, &out(Basis::ByHand)).len(), 0);
    }
}
