//! The parts of a run: storm, calm, polite, and the end.
//!
//! ```text
//!   storm ─► heal ─► calm ─► polite ─► drain ─► end        all are whole again
//!   storm ─► heal, break ─► polite ─► drain ─► end        a majority is, the others stay broken (I23)
//!   storm ─► heal ─► break ─► polite ─► …                 the same, and nobody but these may be put out (I20)
//! ```

use std::collections::BTreeSet;

use crate::health::TRACES;
use crate::history::Mark;
use crate::process::Phase;
use crate::queue::Time;
use crate::swarm::S;
use crate::world::World;

/// Parts of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    Heal,
    Break,
    Calm,
    MustServe,
    Polite,
    PoliteEnd,
    Drain,
    Settled,
    Drained,
}

/// Moments of a run of so many seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub storm_end: Time,
    /// When nodes break for good, if some do.
    pub breaks: Time,
    pub serve: Time,
    pub calm: Time,
    pub polite: Time,
    pub drain: Time,
    pub end: Time,
}

/// So long after the last fault all must grant: a silent time, a lease and a verdict, then the way through one more view.
const SERVE: Time = 6 * S;
/// The same for a majority while others stay broken: detect, fence and 5 s (I23). Whoever stays broken is put out first.
const SERVE_BESIDE_BROKEN: Time = 10 * S;

/// And beside one that two others do not hear. The verdict about these must wait while one of the storm is held ([`VERDICT_HOLD`]), so
/// must the one by which those come in again whom the storm has put out, and that takes a lease before and one after.
///
/// [`VERDICT_HOLD`]: oarlock_layout::limit::VERDICT_HOLD
const SERVE_BESIDE_TORN: Time = 22 * S;

/// After so much calm whatever is put out must be what broke then (I20).
const SOUND: Time = TRACES + S / 2;

impl Plan {
    pub(crate) fn new(seconds: u64, liveness: bool, late: bool, torn: bool) -> Plan {
        let end = seconds.max(34) * S;
        let calm = end - 11 * S;
        let serve = match (liveness, torn) {
            (false, _) => SERVE,
            (true, false) => SERVE_BESIDE_BROKEN,
            (true, true) => SERVE_BESIDE_TORN.min(calm / 2),
        };
        let breaks = calm - serve;
        let storm_end = if late { breaks - SOUND } else { breaks };
        Plan { storm_end, breaks, serve: calm, calm, polite: end - 6 * S, drain: end - 4 * S, end }
    }
}

impl World {
    pub(crate) fn part(&mut self, part: Part) {
        match part {
            // Beside nodes that stay broken nothing is said of order: views may still change.
            Part::Calm if !self.health.broken.is_empty() => {}
            Part::Calm => self.mark(Mark::Calm),
            Part::Heal => {
                self.calm = true;
                self.network.calm();
                self.set_clocks();
                self.health.calm(self.queue.now());
                if self.plan.breaks == self.plan.storm_end {
                    self.break_some();
                }
                for node in 0..self.options.nodes {
                    if self.is_whole(node) {
                        self.downgrade(node);
                        self.resume(node);
                        self.set_right(node);
                        self.start(node);
                    }
                }
            }
            Part::Break => self.break_some(),
            Part::MustServe => {
                let idle = self
                    .hosts
                    .iter()
                    .filter(|h| self.is_whole(h.index) && !self.is_changing(h.index) && !h.grants())
                    .filter(|h| !self.waits_for_its_fence(h.index));
                let idle: BTreeSet<u16> = idle.map(|h| h.index).collect();
                if !idle.is_empty() {
                    let broken = &self.health.broken;
                    let after = (self.plan.serve - self.plan.breaks) / S;
                    let text = format!(
                        "nodes {idle:?} do not grant {after} s after the last fault, beside {broken:?}"
                    );
                    self.others.add("forming", self.queue.now(), text);
                }
            }
            Part::Polite => {
                self.members_must_be_there();
                self.clocks_must_go();
                self.keys_must_be_settled();
                self.mark(Mark::Polite);
                self.enter(Phase::Polite);
            }
            Part::PoliteEnd => self.mark(Mark::PoliteEnd),
            Part::Drain => self.enter(Phase::Drain),
            Part::Settled => self.note_gates(),
            Part::Drained => {
                self.mark(Mark::Drained);
                (0..self.options.nodes).for_each(|node| self.count_skipped(node));
                self.audit(true);
            }
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        let now = self.queue.now();
        for index in 0..self.processes.len() {
            self.processes[index].enter(now, phase, self.mix.uncounted, &mut self.load_random);
            self.schedule(index);
        }
    }

    /// All parts, with their moments.
    pub(crate) fn parts(&self) -> Vec<(Time, Part)> {
        let Plan { storm_end, breaks, serve, calm, polite, drain, end } = self.plan;
        let late = (breaks > storm_end).then_some((breaks, Part::Break));
        let parts = [
            (storm_end, Part::Heal),
            (serve, Part::MustServe),
            (calm, Part::Calm),
            (polite, Part::Polite),
            (drain - 1, Part::PoliteEnd),
            (drain, Part::Drain),
            (end - S / 2, Part::Settled),
            (end, Part::Drained),
        ];
        parts.into_iter().chain(late).collect()
    }
}
