//! Every seed is another kind of storm: it draws which faults there are and how the programs behave.
//!
//! A run with every fault at once is always in the same trouble. A run without loss but with long pauses gets to
//! places that no mixture reaches.

use oarlock_layout::mode::Mode;

use crate::coverage::{KINDS, Stage, unreachable};
use crate::network::Weather;
use crate::queue::Time;
use crate::random::Random;

/// Simulated milliseconds.
pub(crate) const MS: Time = 1_000_000;
/// Simulated seconds.
pub(crate) const S: Time = 1_000 * MS;

/// Kinds of faults; the weights of a mix have this order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FaultKind {
    /// Datagrams vanish (FT9).
    Loss,
    /// Datagrams come twice (FT10).
    Copies,
    /// Datagrams overtake each other, by up to 5 s (FT11).
    Reordering,
    /// Bits flip (FT12).
    Corruption,
    /// Captured datagrams come again (FT13).
    Replay,
    /// A group of nodes is cut off (FT5).
    Partition,
    /// One direction is cut (FT6).
    OneWay,
    /// One pair is cut, both reach the others (FT7).
    Pair,
    /// A link comes and goes (FT8).
    Flapping,
    /// A node stands still (FT4).
    Pause,
    /// The network is slow.
    Slow,
    /// A node dies and comes back (FT1).
    Crash,
    /// The engine of a node dies, and its keeper lives (FT1).
    EngineDies,
    /// All nodes are restarted, some of them again before they serve (FT15).
    Restarts,
    /// Many ways are cut at once and heal one by one, in any order (FT8).
    Swizzle,
    /// Two groups that reach each other only by way of one node, or not even that (FT7).
    Bridge,
    /// Captured datagrams of runs that are over come again (FT13).
    OldRuns,
    /// A person puts a node out of the view, in the middle of whatever goes on (FT27).
    ByHand,
    /// A member leaves for good, or is removed because its machine is lost (FT27).
    Leaves,
    /// Another machine joins in its place (FT27).
    Joins,
    /// Some nodes come back as a later version, which speaks the same wire or another (FT26).
    Upgrade,
    /// A node comes back with nothing of its disk left (FT16).
    Wiped,
    /// A node comes back with its disk as it was some runs ago (FT16).
    OldCopy,
    /// A program is killed (FT2, between two calls).
    ProgramDies,
    /// A program stands still (FT4).
    ProgramStands,
    /// An engine is written down and read again, at once or after a moment in which nobody serves (FT28).
    HandOver,
    /// A node stands still for up to a minute (FT4).
    Sleep,
    /// A machine's clock of leases leaps or stands still for a moment, or its wall clock is years off (FT14).
    Clock,
    /// The coordinator answers a node, and the answer gets lost.
    Answer,
    /// One node goes on in the view while two die that do not hear it when they come back: the larger part is locked out (I20).
    LockOut,
}

impl FaultKind {
    /// All, in the order of weights.
    pub const ALL: [FaultKind; 30] = [
        FaultKind::Loss,
        FaultKind::Copies,
        FaultKind::Reordering,
        FaultKind::Corruption,
        FaultKind::Replay,
        FaultKind::Partition,
        FaultKind::OneWay,
        FaultKind::Pair,
        FaultKind::Flapping,
        FaultKind::Pause,
        FaultKind::Slow,
        FaultKind::Crash,
        FaultKind::EngineDies,
        FaultKind::Restarts,
        FaultKind::Swizzle,
        FaultKind::Bridge,
        FaultKind::OldRuns,
        FaultKind::ByHand,
        FaultKind::Leaves,
        FaultKind::Joins,
        FaultKind::Upgrade,
        FaultKind::Wiped,
        FaultKind::OldCopy,
        FaultKind::ProgramDies,
        FaultKind::ProgramStands,
        FaultKind::HandOver,
        FaultKind::Sleep,
        FaultKind::Clock,
        FaultKind::Answer,
        FaultKind::LockOut,
    ];

    /// The kinds that a storm draws; the others have their own times.
    const DRAWN: [FaultKind; 24] = [
        FaultKind::Loss,
        FaultKind::Copies,
        FaultKind::Reordering,
        FaultKind::Corruption,
        FaultKind::Replay,
        FaultKind::Partition,
        FaultKind::OneWay,
        FaultKind::Pair,
        FaultKind::Flapping,
        FaultKind::Pause,
        FaultKind::Slow,
        FaultKind::Crash,
        FaultKind::EngineDies,
        FaultKind::Swizzle,
        FaultKind::Bridge,
        FaultKind::OldRuns,
        FaultKind::ByHand,
        FaultKind::Leaves,
        FaultKind::Upgrade,
        FaultKind::Wiped,
        FaultKind::OldCopy,
        FaultKind::Sleep,
        FaultKind::Clock,
        FaultKind::LockOut,
    ];

    /// One short word, for the head of a column.
    pub const fn word(self) -> &'static str {
        match self {
            FaultKind::Loss => "loss",
            FaultKind::Copies => "copies",
            FaultKind::Reordering => "reorder",
            FaultKind::Corruption => "corrupt",
            FaultKind::Replay => "replay",
            FaultKind::Partition => "split",
            FaultKind::OneWay => "oneway",
            FaultKind::Pair => "pair",
            FaultKind::Flapping => "flap",
            FaultKind::Pause => "pause",
            FaultKind::Slow => "slow",
            FaultKind::Crash => "crash",
            FaultKind::EngineDies => "engine",
            FaultKind::Restarts => "restart",
            FaultKind::Swizzle => "swizzle",
            FaultKind::Bridge => "bridge",
            FaultKind::OldRuns => "oldruns",
            FaultKind::ByHand => "byhand",
            FaultKind::Leaves => "leaves",
            FaultKind::Joins => "joins",
            FaultKind::Upgrade => "upgrade",
            FaultKind::Wiped => "wiped",
            FaultKind::OldCopy => "oldcopy",
            FaultKind::ProgramDies => "p-dies",
            FaultKind::ProgramStands => "p-stands",
            FaultKind::HandOver => "handover",
            FaultKind::Sleep => "sleep",
            FaultKind::Clock => "clock",
            FaultKind::Answer => "answer",
            FaultKind::LockOut => "lockout",
        }
    }
}

/// A fault that waits for a node to come into a phase.
#[derive(Clone, Copy, Debug)]
pub struct Ambush {
    /// What is done to the node.
    pub kind: FaultKind,
    /// When it is there.
    pub stage: Stage,
    /// How often still.
    pub left: u32,
    /// Not before this.
    pub not_before: Time,
}

/// How one seed's run is.
#[derive(Clone, Debug)]
pub struct Mix {
    /// Weights of [`FaultKind::ALL`]; restarts of all are planned apart, because each costs seconds.
    pub faults: [u64; KINDS],
    /// Faults that wait for their moment.
    pub ambushes: Vec<Ambush>,
    /// Rounds of a restart storm, at most.
    pub rounds: u64,
    /// The storm ends for a majority only, and what is broken then stays broken (I23).
    pub liveness: bool,
    /// It ends for all at first, and the others break when all are well.
    pub late: bool,
    /// Time between two faults, at most twice this.
    pub fault_gap: Time,
    /// Longest fault.
    pub fault_max: Time,
    /// Weather without any fault.
    pub weather: Weather,
    /// Moments of restart storms.
    pub upheavals: Vec<(Time, FaultKind)>,
    /// Each node's clock runs so many parts per million too fast (FT14).
    pub drift: Vec<i64>,
    /// Resources by lockspace that the programs fight for.
    pub resources: u64,
    /// How much the first of them are preferred: number of draws of which the lowest counts.
    pub heat: u32,
    /// Weights of the modes, in their order.
    pub modes: [u64; 6],
    /// Of a thousand requests so many use the value block.
    pub values: u64,
    /// Of a thousand requests so many are tries.
    pub tries: u64,
    /// Of a thousand requests that could close a circle so many wait all the same, and hold on to what they have.
    pub daring: u64,
    /// Some of those say that no search should count them, and some who hold say so too.
    pub uncounted: bool,
    /// Longest that a lock is held.
    pub hold_max: Time,
    /// Resources a node may keep per lockspace; small numbers make it refuse (FT25).
    pub resources_max: u32,
    /// Owned modes are kept after use.
    pub retain: bool,
    /// How long an unused record is kept.
    pub forget_after: Time,
    /// Keys last so long, and so many packets.
    pub rekey: (Time, u64),
    /// Nodes have segments; of a thousand programs so many attach to each. None: there are only sockets.
    pub attached: Option<u64>,
    /// Sessions that a segment has room for.
    pub areas: u32,
    /// Mean time between two engines that are handed over; none: none is, but in ambushes.
    pub handovers: Option<Time>,
}

impl Mix {
    /// The mix of a seed. `seconds` is the length of the run, `storm_end` when faults must be over.
    pub fn draw(random: &mut Random, nodes: u16, storm_end: Time, resources: Option<u64>) -> Mix {
        let mut faults = [0; KINDS];
        for kind in FaultKind::DRAWN {
            // A third of the kinds is missing from each run. What costs a node its service for long is rare.
            let most = match kind {
                FaultKind::Wiped
                | FaultKind::OldCopy
                | FaultKind::ByHand
                | FaultKind::Sleep
                | FaultKind::LockOut => 1,
                FaultKind::Leaves | FaultKind::Upgrade | FaultKind::Clock => 2,
                FaultKind::OldRuns | FaultKind::Swizzle | FaultKind::Bridge | FaultKind::EngineDies => 4,
                _ => 8,
            };
            faults[kind as usize] = if random.chance(667) { random.between(1, most) } else { 0 };
        }
        if faults.iter().sum::<u64>() == 0 {
            faults[0] = 1;
        }
        let mut weather = Weather::FINE;
        if random.chance(300) {
            weather.lost = random.between(1, 20);
        }
        if random.chance(300) {
            weather.doubled = random.between(1, 20);
        }
        if random.chance(300) {
            (weather.reordered, weather.late) = (random.between(1, 100), random.spread(MS, 20 * MS));
        }
        let modes = if random.chance(200) {
            [0, 0, 0, 3, 0, 4]
        } else {
            [1, 2, 2, 5, 2, 6].map(|w| w * random.between(0, 3) + u64::from(w > 4))
        };
        Mix {
            faults,
            ambushes: Vec::new(),
            rounds: 4,
            liveness: false,
            late: false,
            fault_gap: S * 7 / 10,
            fault_max: random.spread(100 * MS, 4 * S),
            weather,
            upheavals: upheavals(random, storm_end),
            drift: (0..nodes).map(|_| random.between(0, 40_000) as i64 - 20_000).collect(),
            resources: resources.unwrap_or_else(|| random.between(12, 80)),
            heat: random.between(1, 2) as u32,
            modes,
            values: random.between(100, 700),
            tries: random.between(20, 200),
            daring: 0,
            uncounted: false,
            hold_max: random.spread(4 * MS, 60 * MS),
            resources_max: if random.chance(100) { random.between(8, 30) as u32 } else { 1 << 16 },
            retain: random.chance(800),
            forget_after: random.spread(20 * MS, 10 * S),
            rekey: if random.chance(300) {
                (random.between(2, 20) * S, random.between(200, 5_000))
            } else {
                (120 * S, 1 << 32)
            },
            attached: None,
            areas: 0,
            handovers: None,
        }
    }

    /// What else a storm may be about: from a stream of its own, so that it changes nothing of what is drawn otherwise.
    pub fn draw_aims(
        &mut self,
        random: &mut Random,
        (wanted, circles): (Option<bool>, bool),
        storm_end: Time,
    ) {
        self.liveness = wanted.unwrap_or(random.chance(300));
        self.late = self.liveness && random.chance(500);
        // Each fault of an ambush may cost a node its service for seconds.
        for _ in 0..random.between(4, 9) {
            let (kind, stage) = loop {
                let (kind, stage) = (*random.pick(&FaultKind::DRAWN), *random.pick(&Stage::SHORT));
                if unreachable(kind, stage).is_none() {
                    break (kind, stage);
                }
            };
            let not_before =
                if stage == Stage::Founding { 0 } else { random.between(S, storm_end.max(2 * S)) };
            self.ambushes.push(Ambush { kind, stage, left: random.between(1, 2) as u32, not_before });
        }
        if !self.liveness && random.chance(30) && storm_end > 40 * S {
            self.rounds = 20;
            self.upheavals = vec![(random.between(3 * S, storm_end - 34 * S), FaultKind::Restarts)];
        }
        if random.chance(400) {
            self.daring = random.between(50, 400);
            self.uncounted = random.chance(300);
        }
        if circles {
            self.daring = self.daring.max(200);
            self.uncounted = random.chance(300);
        }
    }

    /// Whether there are segments, and how they are used: from a stream of its own, so that a seed without them is the
    /// run that it would be if there were none anywhere.
    pub fn draw_segments(&mut self, random: &mut Random, wanted: Option<bool>) {
        let drawn = random.chance(750);
        let attached = *random.pick(&[300, 700, 900, 1000]);
        self.areas = random.between(9, 24) as u32;
        self.attached = wanted.unwrap_or(drawn).then_some(attached);
    }

    /// How often engines are handed over, and in which phases at any rate: from a stream of its own as well.
    pub fn draw_handovers(&mut self, random: &mut Random, storm_end: Time) {
        self.handovers = random.chance(600).then(|| random.spread(40 * MS, 4 * S));
        for _ in 0..random.below(4) {
            let (kind, stage) = (FaultKind::HandOver, *random.pick(&Stage::SHORT));
            if unreachable(kind, stage).is_none() {
                let not_before = random.below(storm_end.max(2 * S));
                self.ambushes.push(Ambush { kind, stage, left: 2, not_before });
            }
        }
    }

    /// A mode by the weights of the mix.
    pub fn mode(&self, random: &mut Random) -> Mode {
        Mode::ALL[random.weighted(&self.modes)]
    }
}

fn upheavals(random: &mut Random, storm_end: Time) -> Vec<(Time, FaultKind)> {
    // An upheaval needs about eight seconds until the cluster grants again: unclean stops cost a lease.
    if storm_end < 14 * S || !random.chance(400) {
        return Vec::new();
    }
    vec![(random.between(3 * S, storm_end - 10 * S), FaultKind::Restarts)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_draw_different_mixes_and_every_kind_somewhere() {
        let mixes: Vec<Mix> =
            (0..200).map(|seed| Mix::draw(&mut Random::new(seed), 5, 46 * S, None)).collect();
        for kind in FaultKind::DRAWN {
            let with = mixes.iter().filter(|m| m.faults[kind as usize] > 0).count();
            assert!((80..180).contains(&with), "{kind:?} in {with} of 200");
        }
        let aims = |seed: u64| {
            let mut mix = mixes[0].clone();
            mix.draw_aims(&mut Random::new(seed), (None, false), 46 * S);
            mix
        };
        let handed = |seed: u64| {
            let mut mix = mixes[0].clone();
            mix.draw_handovers(&mut Random::new(seed), 46 * S);
            mix
        };
        assert!((80..160).contains(&(0..200).filter(|seed| handed(*seed).handovers.is_some()).count()));
        for stage in [Stage::Arriving, Stage::Restating, Stage::Frozen, Stage::LetIn] {
            let met = |seed: u64| handed(seed).ambushes.iter().any(|ambush| ambush.stage == stage);
            assert!((0..200).any(met), "{stage:?}");
        }
        assert!((30..90).contains(&(0..200).filter(|seed| aims(*seed).liveness).count()));
        assert!((0..200).any(|seed| aims(seed).rounds == 20));
        for stage in Stage::SHORT {
            assert!((0..200).any(|seed| aims(seed).ambushes.iter().any(|a| a.stage == stage)), "{stage:?}");
        }
        assert!(mixes.iter().any(|m| m.upheavals.iter().any(|(_, k)| *k == FaultKind::Restarts)));
        assert!(mixes.iter().all(|m| m.modes.iter().sum::<u64>() > 0));
    }
}
