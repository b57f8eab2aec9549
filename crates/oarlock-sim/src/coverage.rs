//! Which fault was made while a node was in which phase of the protocol.
//!
//! ```text
//!   ambush (fault, phase) ──► a node comes into the phase ──► the fault, there and then
//!   every fault ──► which nodes does it touch, in which phases are they? ──► cells
//! ```
//!
//! A storm by chance alone hits what lasts long. So each seed lays some *ambushes*: pairs of a fault and a phase.

use std::fmt::Write as _;

use oarlock_layout::lease::Standing;

use crate::swarm::{FaultKind, MS, S};
use crate::world::{Happening, World};

/// Where a node is on its way through the protocol. It may be in several phases at once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Stage {
    /// No run, and nobody has put the last one out yet.
    Dead,
    /// No run; the last one has given itself up.
    Surrendered,
    /// No run, and none in the view.
    Out,
    /// A run that waits for the first view of all.
    Founding,
    /// A run that waits for the end of the one before.
    Waiting,
    /// A run that asks to be let in, with none of its node in the view.
    Rejoining,
    /// A run that is let in and has not heard of it.
    LetIn,
    /// A run whose number was used before (FT16).
    Stale,
    /// In a view, before all have arrived in it.
    Arriving,
    /// All have arrived; it states anew, piece by piece.
    Stating,
    /// It has stated; others have not.
    Restating,
    /// All have stated; something is to be proven of runs that left.
    Fencing,
    /// Masters grant.
    Open,
    /// A view came before the one before it was open.
    Overtaken,
    /// The epoch of its view is not on its disk yet.
    Storing,
    /// There is a newer view that it is in and has not heard of.
    Behind,
    /// It was put out and has not heard of it.
    PutOut,
    /// Its lease is at risk.
    Frozen,
    /// Programs under its locks are asked to end.
    Ending,
    /// They are killed.
    Killing,
    /// It stands still.
    Paused,
    /// It does not reach a majority.
    CutOff,
    /// Nobody leads the coordinator.
    Leaderless,
    /// A program of it holds a lock.
    Holding,
    /// A program of it waits for a new lock.
    Queued,
    /// A program of it waits for another mode.
    Converting,
    /// A program of it may be writing a value block.
    Writing,
    /// A program of it has withdrawn what it waits for and has no answer.
    Cancelling,
}

/// How many phases there are.
pub const STAGES: usize = Stage::ALL.len();
/// How many kinds of faults.
pub const KINDS: usize = FaultKind::ALL.len();

impl Stage {
    /// All, in order.
    pub const ALL: [Stage; 28] = [
        Stage::Dead,
        Stage::Surrendered,
        Stage::Out,
        Stage::Founding,
        Stage::Waiting,
        Stage::Rejoining,
        Stage::LetIn,
        Stage::Stale,
        Stage::Arriving,
        Stage::Stating,
        Stage::Restating,
        Stage::Fencing,
        Stage::Open,
        Stage::Overtaken,
        Stage::Storing,
        Stage::Behind,
        Stage::PutOut,
        Stage::Frozen,
        Stage::Ending,
        Stage::Killing,
        Stage::Paused,
        Stage::CutOff,
        Stage::Leaderless,
        Stage::Holding,
        Stage::Queued,
        Stage::Converting,
        Stage::Writing,
        Stage::Cancelling,
    ];

    /// Phases that come and go by themselves and are worth an ambush: what lasts is hit by chance.
    pub const SHORT: [Stage; 20] = [
        Stage::Surrendered,
        Stage::Founding,
        Stage::Waiting,
        Stage::Rejoining,
        Stage::LetIn,
        Stage::Stale,
        Stage::Arriving,
        Stage::Restating,
        Stage::Fencing,
        Stage::Overtaken,
        Stage::Storing,
        Stage::Behind,
        Stage::PutOut,
        Stage::Frozen,
        Stage::Ending,
        Stage::Killing,
        Stage::Dead,
        Stage::Out,
        Stage::CutOff,
        Stage::Leaderless,
    ];

    const fn bit(self) -> u32 {
        1 << self as u8
    }
}

/// Why a fault cannot meet a node in a phase, if it cannot.
pub fn unreachable(kind: FaultKind, stage: Stage) -> Option<&'static str> {
    use FaultKind as F;
    if stage == Stage::Stating {
        return Some("all is stated in one turn: the resources of a run are fewer than one piece");
    }
    let down = matches!(stage, Stage::Dead | Stage::Surrendered | Stage::Out);
    let none = matches!(
        kind,
        F::Pause
            | F::Crash
            | F::EngineDies
            | F::Upgrade
            | F::Wiped
            | F::OldCopy
            | F::ProgramDies
            | F::ProgramStands
            | F::Replay
            | F::OldRuns
            | F::HandOver
            | F::Sleep
            | F::Clock
            | F::Answer
            | F::LockOut
    );
    if down && none {
        return Some("the fault needs a run of the node");
    }
    let program = matches!(kind, F::ProgramDies | F::ProgramStands);
    if program && stage == Stage::Founding {
        return Some("there are no programs yet");
    }
    let no_run_in_view = matches!(
        stage,
        Stage::Out | Stage::Founding | Stage::Waiting | Stage::Rejoining | Stage::Stale | Stage::PutOut
    );
    if kind == F::LockOut && no_run_in_view {
        return Some("it needs a run in the view whose node the others do not hear");
    }
    if kind == F::Answer && matches!(stage, Stage::Paused | Stage::CutOff) {
        return Some("only whoever works and reaches a majority is answered");
    }
    if kind == F::ByHand && no_run_in_view {
        return Some("only a run that is in the view can be put out");
    }
    if kind == F::ByHand && matches!(stage, Stage::Dead | Stage::Surrendered) {
        return None;
    }
    if matches!(kind, F::Leaves | F::Joins) && stage == Stage::Founding {
        return Some("nobody leaves before there was a view");
    }
    if kind == F::Restarts && stage == Stage::Founding {
        return Some("restarts of all begin three seconds into a run, when the first view is there");
    }
    None
}

/// Cells that must not be empty in the seeds of a commit: what views are about.
pub const SURE: &[(FaultKind, Stage)] = &[
    (FaultKind::Crash, Stage::Rejoining),
    (FaultKind::Crash, Stage::Waiting),
    (FaultKind::Crash, Stage::LetIn),
    (FaultKind::Crash, Stage::Arriving),
    (FaultKind::Crash, Stage::Restating),
    (FaultKind::Crash, Stage::Fencing),
    (FaultKind::Crash, Stage::Open),
    (FaultKind::Crash, Stage::Overtaken),
    (FaultKind::EngineDies, Stage::Arriving),
    (FaultKind::EngineDies, Stage::Open),
    (FaultKind::EngineDies, Stage::Writing),
    (FaultKind::Partition, Stage::Frozen),
    (FaultKind::Crash, Stage::Converting),
    (FaultKind::Crash, Stage::Writing),
    (FaultKind::Pause, Stage::Arriving),
    (FaultKind::Pause, Stage::Restating),
    (FaultKind::Pause, Stage::Open),
    (FaultKind::Partition, Stage::Arriving),
    (FaultKind::Partition, Stage::Restating),
    (FaultKind::Partition, Stage::Open),
    (FaultKind::OneWay, Stage::Restating),
    (FaultKind::Pair, Stage::Arriving),
    (FaultKind::Swizzle, Stage::Restating),
    (FaultKind::Replay, Stage::Rejoining),
    (FaultKind::OldRuns, Stage::Open),
    (FaultKind::ByHand, Stage::Arriving),
    (FaultKind::ByHand, Stage::Open),
    (FaultKind::Leaves, Stage::Open),
    (FaultKind::Leaves, Stage::Holding),
    (FaultKind::Upgrade, Stage::Open),
    (FaultKind::Upgrade, Stage::Holding),
    (FaultKind::Joins, Stage::Open),
    (FaultKind::Joins, Stage::Holding),
    (FaultKind::OldCopy, Stage::Open),
    (FaultKind::Wiped, Stage::Open),
    (FaultKind::ProgramDies, Stage::Writing),
    (FaultKind::ProgramDies, Stage::Converting),
    (FaultKind::Restarts, Stage::Open),
    (FaultKind::Sleep, Stage::Open),
    (FaultKind::Sleep, Stage::Holding),
    (FaultKind::Clock, Stage::Open),
    (FaultKind::Clock, Stage::Frozen),
    (FaultKind::Answer, Stage::Open),
    (FaultKind::Answer, Stage::Rejoining),
    (FaultKind::Answer, Stage::Behind),
    (FaultKind::LockOut, Stage::Open),
    (FaultKind::LockOut, Stage::Holding),
    (FaultKind::HandOver, Stage::Rejoining),
    (FaultKind::HandOver, Stage::Arriving),
    (FaultKind::HandOver, Stage::Restating),
    (FaultKind::HandOver, Stage::Open),
    (FaultKind::HandOver, Stage::Queued),
    (FaultKind::HandOver, Stage::Converting),
    (FaultKind::HandOver, Stage::Writing),
];

/// How often each fault met each phase.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Coverage(Box<[[u64; STAGES]; KINDS]>);

impl Default for Coverage {
    fn default() -> Coverage {
        Coverage(Box::new([[0; STAGES]; KINDS]))
    }
}

impl Coverage {
    /// How often a fault was made at a node in a phase.
    pub fn cell(&self, kind: FaultKind, stage: Stage) -> u64 {
        self.0[kind as usize][stage as usize]
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Coverage) {
        let cells = self.0.iter_mut().flatten();
        cells.zip(other.0.iter().flatten()).for_each(|(cell, more)| *cell += more);
    }

    fn note(&mut self, kind: FaultKind, stages: u32) {
        for stage in Stage::ALL {
            self.0[kind as usize][stage as usize] += u64::from(stages & stage.bit() != 0);
        }
    }

    fn reachable() -> impl Iterator<Item = (FaultKind, Stage)> {
        let all = FaultKind::ALL.into_iter().flat_map(|kind| Stage::ALL.into_iter().map(move |s| (kind, s)));
        all.filter(|(kind, stage)| unreachable(*kind, *stage).is_none())
    }

    /// Cells of [`SURE`] that were never met.
    pub fn missed(&self) -> Vec<(FaultKind, Stage)> {
        SURE.iter().copied().filter(|(kind, stage)| self.cell(*kind, *stage) == 0).collect()
    }

    /// Of the reachable cells, how many were met at least `times` times, and how many there are.
    pub fn met(&self, times: u64) -> (usize, usize) {
        let met = Coverage::reachable().filter(|(kind, stage)| self.cell(*kind, *stage) >= times).count();
        (met, Coverage::reachable().count())
    }

    /// The matrix as a table for people, and why some of it is empty.
    pub fn table(&self) -> String {
        let mut text = format!("{:<14}", "");
        for kind in FaultKind::ALL {
            let _ = write!(text, " {:>8}", kind.word());
        }
        for stage in Stage::ALL {
            let _ = write!(text, "\n{:<14}", format!("{stage:?}"));
            for kind in FaultKind::ALL {
                let _ = match unreachable(kind, stage) {
                    Some(_) => write!(text, " {:>8}", "."),
                    None => write!(text, " {:>8}", self.cell(kind, stage)),
                };
            }
        }
        let mut whys: Vec<(&str, Vec<String>)> = Vec::new();
        for kind in FaultKind::ALL {
            for stage in Stage::ALL {
                let Some(why) = unreachable(kind, stage) else { continue };
                let cell = format!("{}/{stage:?}", kind.word());
                match whys.iter_mut().find(|(known, _)| *known == why) {
                    Some((_, cells)) => cells.push(cell),
                    None => whys.push((why, vec![cell])),
                }
            }
        }
        for (why, cells) in whys {
            let _ = write!(text, "\n. {why}: {}", cells.join(" "));
        }
        text
    }
}

impl World {
    /// The phases of a node, as far as the node, its machine and the coordinator tell.
    pub(crate) fn stages(&self, index: u16) -> u32 {
        let now = self.queue.now();
        let host = &self.hosts[usize::from(index)];
        let decided = self.coordinator.decided(index);
        let mut stages = 0;
        let mut put = |stage: Stage, so: bool| stages |= if so { stage.bit() } else { 0 };
        put(Stage::Paused, host.paused);
        put(Stage::Leaderless, self.coordinator.is_leaderless(now));
        let Some(node) = &host.node else {
            put(Stage::Dead, decided.run.is_some() && !decided.surrendered);
            put(Stage::Surrendered, decided.run.is_some() && decided.surrendered);
            put(Stage::Out, decided.run.is_none());
            return stages;
        };
        put(Stage::CutOff, !self.reaches_majority(index) && !host.paused);
        let recovery = node.recovery();
        // The number of a run that is set back may be in the view, and it is another run all the same.
        let mine = decided.run == Some(host.disk.run()) && !host.stale;
        if recovery.epoch().0 == 0 {
            let stale = host.stale && host.disk.run() <= decided.entered;
            put(Stage::Stale, stale);
            put(Stage::Founding, decided.epoch.0 == 0);
            put(Stage::Waiting, !stale && !mine && decided.run.is_some());
            put(Stage::Rejoining, !stale && decided.run.is_none() && decided.epoch.0 != 0);
            put(Stage::LetIn, mine);
            return stages;
        }
        let mut views = recovery.failovers().rev();
        let passed = views.next().map_or(0, |view| view.passed.iter().flatten().count());
        put(Stage::Arriving, passed == 0);
        put(Stage::Stating, passed == 1);
        put(Stage::Restating, passed == 2);
        put(Stage::Fencing, passed == 3);
        put(Stage::Open, node.grants());
        put(Stage::Overtaken, !recovery.is_open() && views.next().is_some_and(|view| view.overtaken));
        put(Stage::Storing, host.disk.stored() < recovery.epoch());
        put(Stage::Behind, mine && recovery.epoch() < decided.epoch);
        put(Stage::PutOut, !mine);
        let standing = node.lease_standing(host.clock(now));
        put(Stage::Frozen, standing == Some(Standing::AtRisk));
        put(Stage::Ending, standing == Some(Standing::Ending));
        put(Stage::Killing, standing == Some(Standing::Killing));
        stages
    }

    /// And as far as its programs do.
    fn stages_of_programs(&self, index: u16) -> u32 {
        let mut stages = 0;
        for process in self.processes.iter().filter(|it| it.node == index && it.alive) {
            process.stages(|stage| stages |= stage.bit());
        }
        stages
    }

    /// A fault was made that touches these nodes.
    pub(crate) fn cover(&mut self, kind: FaultKind, nodes: &[u16]) {
        let stages =
            nodes.iter().fold(0, |all, node| all | self.stages(*node) | self.stages_of_programs(*node));
        self.coverage.note(kind, stages);
    }

    /// All may have.
    pub(crate) fn ambush_all(&mut self) {
        (0..self.options.nodes).for_each(|node| self.ambush(node));
    }

    /// A node has moved: it may have come into an ambush.
    pub(crate) fn ambush(&mut self, index: u16) {
        if self.calm || self.mix.ambushes.is_empty() {
            return;
        }
        let stages = self.stages(index);
        let before = std::mem::replace(&mut self.hosts[usize::from(index)].stages, stages);
        if stages & !before == 0 {
            return;
        }
        let now = self.queue.now();
        for number in 0..self.mix.ambushes.len() {
            let ambush = &mut self.mix.ambushes[number];
            if stages & !before & ambush.stage.bit() != 0 && ambush.left > 0 && ambush.not_before <= now {
                ambush.left -= 1;
                // Not in the same second again, so that what follows has its turn.
                ambush.not_before = now + S;
                let kind = ambush.kind;
                let at = now + self.fault_random.below(MS / 10);
                self.queue.push(at, Happening::Ambush { kind, node: index });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_cell_is_missed_and_a_full_matrix_is_not() {
        let mut coverage = Coverage::default();
        assert_eq!(coverage.missed().len(), SURE.len());
        let (met, reachable) = coverage.met(1);
        assert_eq!(met, 0);
        FaultKind::ALL.into_iter().for_each(|kind| coverage.note(kind, u32::MAX));
        assert_eq!((coverage.missed(), coverage.met(1)), (vec![], (reachable, reachable)));
        let once = coverage.clone();
        coverage.add(&once);
        assert_eq!((coverage.met(2), coverage.met(3)), ((reachable, reachable), (0, reachable)));
        // One phase less, and it is named.
        let mut but = Coverage::default();
        FaultKind::ALL.into_iter().for_each(|kind| but.note(kind, !Stage::Arriving.bit()));
        assert!(but.missed().iter().all(|(_, stage)| *stage == Stage::Arriving) && !but.missed().is_empty());
    }

    #[test]
    fn what_must_be_met_can_be_and_every_phase_has_a_fault() {
        assert!(STAGES >= 20 && SURE.iter().all(|(kind, stage)| unreachable(*kind, *stage).is_none()));
        for stage in Stage::ALL.into_iter().filter(|stage| *stage != Stage::Stating) {
            assert!(FaultKind::ALL.into_iter().any(|kind| unreachable(kind, stage).is_none()), "{stage:?}");
        }
    }

    #[test]
    fn the_table_has_a_row_for_each_phase_and_says_why_cells_cannot_be_met() {
        let text = Coverage::default().table();
        for stage in Stage::ALL {
            assert!(text.lines().any(|line| line.starts_with(&format!("{stage:?} "))), "{stage:?}");
        }
        assert!(text.contains(". the fault needs a run of the node: "));
    }
}
