//! What goes wrong: which faults, where, for how long.

use std::collections::BTreeSet;

use crate::network::{Disturbance, Weather};
use crate::queue::Time;
use crate::swarm::{FaultKind, MS, S};
use crate::trace::Kind;
use crate::world::{Happening, World};

impl World {
    /// Makes the next fault and plans the one after.
    pub(crate) fn next_fault(&mut self) {
        let now = self.queue.now();
        if self.calm {
            return;
        }
        let gap = self.fault_random.below(2 * self.mix.fault_gap);
        // After a quiet time they hurry: there is to be one each second.
        let behind = self.load.faults < now / S + now / (4 * S);
        let gap = if behind { gap / 3 } else { gap };
        self.queue.push(now + gap, Happening::Fault);
        let kind = FaultKind::ALL[self.fault_random.weighted(&self.mix.faults)];
        self.make(kind, None);
    }

    /// Makes a fault, at this node if it is given.
    pub(crate) fn make(&mut self, kind: FaultKind, at: Option<u16>) {
        let now = self.queue.now();
        if self.calm || now < self.health.quiet_until {
            return;
        }
        self.note_fault(kind as usize);
        let length = self.fault_random.spread(20 * MS, self.mix.fault_max);
        let node = at.unwrap_or_else(|| self.fault_random.below(self.options.nodes.into()) as u16);
        let random = &mut self.fault_random;
        let fine = Weather { delay: (0, 0), late: 0, ..Weather::FINE };
        let cut = Weather { lost: 1000, ..fine };
        let (links, weather, length, flap) = match kind {
            // A burst in which nothing passes is short; a bad line may stay.
            FaultKind::Loss if random.chance(200) => (self.some_links(at), cut, length.min(300 * MS), 0),
            FaultKind::Loss => {
                let lost = random.between(20, 300);
                (self.some_links(at), Weather { lost, ..fine }, length, 0)
            }
            FaultKind::Copies => {
                let doubled = random.between(20, 100);
                (self.some_links(at), Weather { doubled, ..fine }, length, 0)
            }
            FaultKind::Reordering => {
                let (reordered, late) = (random.between(20, 300), random.spread(MS, 5 * S));
                (self.some_links(at), Weather { reordered, late, ..fine }, length, 0)
            }
            FaultKind::Corruption => {
                let corrupted = random.between(5, 50);
                (self.some_links(at), Weather { corrupted, ..fine }, length, 0)
            }
            FaultKind::Slow => {
                let most = random.spread(MS, 60 * MS);
                (self.some_links(at), Weather { delay: (most / 4, most), ..fine }, length, 0)
            }
            FaultKind::Partition => (self.partition(node), cut, length, 0),
            FaultKind::Bridge => (self.bridge(node), cut, length, 0),
            FaultKind::OneWay => (self.one_way(node), cut, length, 0),
            FaultKind::Pair => {
                let (a, b) = self.one_direction(at);
                (vec![(a, b), (b, a)], cut, length, 0)
            }
            FaultKind::Flapping => {
                let flap = random.spread(5 * MS, 300 * MS);
                (self.some_links(at), cut, length, flap)
            }
            FaultKind::Swizzle => return self.swizzle(node, length),
            FaultKind::Replay | FaultKind::OldRuns => {
                let count = random.between(5, 40);
                self.cover(kind, &[node]);
                let to = at.or((kind == FaultKind::OldRuns).then_some(node));
                for _ in 0..count {
                    let when = now + self.fault_random.below(length);
                    let old = kind == FaultKind::OldRuns;
                    self.queue.push(when, Happening::Replay { to, old });
                }
                return;
            }
            FaultKind::Pause => return self.pause(now, node, length),
            FaultKind::Sleep => return self.sleep_long(now, node),
            FaultKind::Clock => return self.step_clock(node),
            FaultKind::LockOut => return self.lock_out(now, node),
            FaultKind::Crash => return self.crash(now, node),
            FaultKind::HandOver => return self.hand_over(node, length),
            FaultKind::EngineDies => return self.engine_dies(node),
            FaultKind::Wiped | FaultKind::OldCopy => return self.turn_back(kind, node),
            FaultKind::ByHand => return self.put_out(node),
            FaultKind::Upgrade => return self.upgrade(node),
            FaultKind::Leaves => return self.leave_for_good(node),
            FaultKind::Joins
            | FaultKind::Restarts
            | FaultKind::ProgramDies
            | FaultKind::ProgramStands
            | FaultKind::Answer => {
                unreachable!("planned apart")
            }
        };
        self.touch_links(kind, &links, now + length + weather.late);
        self.disturb(now, Disturbance { links, weather, flap }, length);
    }

    /// What a disturbance of these ways concerns.
    fn touch_links(&mut self, kind: FaultKind, links: &[(u16, u16)], until: Time) {
        let ends: BTreeSet<u16> = links.iter().flat_map(|(a, b)| [*a, *b]).collect();
        let ends: Vec<u16> = ends.into_iter().collect();
        ends.iter().for_each(|node| self.health.touch_around(*node, until));
        self.cover(kind, &ends);
    }

    pub(crate) fn disturb(&mut self, now: Time, disturbance: Disturbance, length: Time) {
        self.health.touch_ways(now, &disturbance, length);
        let ends = disturbance.links.iter().flat_map(|(a, b)| [*a, *b]);
        self.health.evidence.disturb(ends, now + length + disturbance.weather.late);
        let disturbance = self.network.disturb(now, disturbance);
        self.queue.push(now + length, Happening::Settle { disturbance });
    }

    /// All directions, those of one node, or one.
    fn some_links(&mut self, at: Option<u16>) -> Vec<(u16, u16)> {
        let all = self.network.all_links();
        match self.fault_random.below(3) {
            0 => all,
            1 => {
                let drawn = self.fault_random.below(self.options.nodes.into()) as u16;
                let node = at.unwrap_or(drawn);
                all.into_iter().filter(|(a, b)| *a == node || *b == node).collect()
            }
            _ => vec![self.one_direction(at)],
        }
    }

    fn one_direction(&mut self, at: Option<u16>) -> (u16, u16) {
        let mut all = self.network.all_links();
        all.retain(|(a, b)| at.is_none_or(|node| *a == node || *b == node));
        *self.fault_random.pick(&all)
    }

    /// One direction of one way, or all that a node hears, or all that it says.
    fn one_way(&mut self, node: u16) -> Vec<(u16, u16)> {
        let all = self.network.all_links();
        match self.fault_random.below(4) {
            0 => all.into_iter().filter(|(_, to)| *to == node).collect(),
            1 => all.into_iter().filter(|(from, _)| *from == node).collect(),
            _ => vec![self.one_direction(Some(node))],
        }
    }

    /// Two groups that do not reach each other. The node is in one of them.
    fn partition(&mut self, _node: u16) -> Vec<(u16, u16)> {
        let side = self.fault_random.between(1, (1 << self.options.nodes) - 2);
        let apart = |a: u16, b: u16| (side >> a ^ side >> b) & 1 == 1;
        self.network.all_links().into_iter().filter(|(a, b)| apart(*a, *b)).collect()
    }

    /// Two groups that do not reach each other, and one node that reaches both. Of two nodes it is a partition.
    fn bridge(&mut self, node: u16) -> Vec<(u16, u16)> {
        let mut links = self.partition(node);
        if self.options.nodes > 2 {
            links.retain(|(a, b)| *a != node && *b != node);
        }
        links
    }

    /// The node, and perhaps others, are cut off from everybody; each way heals at a time of its own.
    fn swizzle(&mut self, node: u16, length: Time) {
        let now = self.queue.now();
        let others = self.fault_random.below(1 << self.options.nodes);
        let hit = |n: u16| n == node || others >> n & 1 == 1;
        let links: Vec<_> =
            self.network.all_links().into_iter().filter(|(a, b)| hit(*a) || hit(*b)).collect();
        self.touch_links(FaultKind::Swizzle, &links, now + 2 * length);
        let cut = Weather { lost: 1000, delay: (0, 0), late: 0, ..Weather::FINE };
        for link in links {
            let heals = self.fault_random.below(2 * length) + MS;
            self.disturb(now, Disturbance { links: vec![link], weather: cut, flap: 0 }, heals);
        }
    }

    fn pause(&mut self, now: Time, one: u16, length: Time) {
        let random = &mut self.fault_random;
        // Most pauses are a scheduler's; some are somebody's debugger. Sometimes all nodes stand still at once. A lease
        // that passes matters most where programs grant themselves.
        let long = if self.mix.attached.is_some() { 250 } else { 100 };
        let length = if random.chance(long) { random.between(S, 10 * S) } else { length };
        let until = (now + length).min(self.plan.storm_end);
        let all = random.chance(50);
        let nodes: Vec<u16> = (0..self.options.nodes).filter(|n| all || *n == one).collect();
        self.cover(FaultKind::Pause, &nodes);
        for node in nodes {
            self.health.touch(node, until);
            self.hosts[usize::from(node)].paused = true;
            self.queue.push(until, Happening::Resume { node });
            self.freeze_some(node, until);
        }
    }

    /// A node stands still for so long that nobody remembers it.
    fn sleep_long(&mut self, now: Time, node: u16) {
        let until = (now + self.fault_random.between(10 * S, 60 * S)).min(self.plan.storm_end);
        // One at a time: a second one would leave the others little to do.
        if now < self.health.sleeps_until {
            return;
        }
        self.health.sleeps_until = until;
        self.cover(FaultKind::Sleep, &[node]);
        self.health.touch(node, until);
        self.hosts[usize::from(node)].paused = true;
        self.queue.push(until, Happening::Resume { node });
        self.freeze_some(node, until);
    }

    /// A node dies, or is stopped in order, and comes back: at once, while others still wait for its lease, or later.
    fn crash(&mut self, now: Time, node: u16) {
        self.cover(FaultKind::Crash, &[node]);
        let random = &mut self.fault_random;
        let clean = random.chance(400);
        let back = now + random.spread(10 * MS, 6 * S);
        self.queue.push(back, Happening::Start { node });
        if clean { self.stop(node) } else { self.end(node) }
    }

    /// All are restarted, some rounds before the last one was over.
    pub(crate) fn upheaval(&mut self, index: usize) {
        let now = self.queue.now();
        let (_, kind) = self.mix.upheavals[index];
        self.note_fault(kind as usize);
        let all: Vec<u16> = (0..self.options.nodes).collect();
        self.cover(kind, &all);
        let random = &mut self.fault_random;
        let mut at = now;
        // Mostly some rounds; sometimes as many as there are in the longest storm.
        let rounds = if self.mix.rounds > 4 { self.mix.rounds } else { random.between(1, self.mix.rounds) };
        for _ in 0..rounds {
            let clean = random.chance(300);
            self.queue.push(at, Happening::RestartAll { clean });
            at += random.between(200 * MS, 1200 * MS);
        }
    }

    pub(crate) fn note_fault(&mut self, kind: usize) {
        let now = self.queue.now();
        self.trace.record(now, Kind::Fault, kind as u32, &[]);
        self.faults[kind] += 1;
        self.load.faults += 1;
    }
}
