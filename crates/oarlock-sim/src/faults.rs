//! What goes wrong: which faults, where, for how long.

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
        self.queue.push(now + gap, Happening::Fault);
        let kind = FaultKind::ALL[self.fault_random.weighted(&self.mix.faults)];
        self.note_fault(kind as usize);
        let length = self.fault_random.spread(20 * MS, self.mix.fault_max);
        let random = &mut self.fault_random;
        let fine = Weather { delay: (0, 0), late: 0, ..Weather::FINE };
        let cut = Weather { lost: 1000, ..fine };
        let disturbance = match kind {
            // A burst in which nothing passes is short; a bad line may stay.
            FaultKind::Loss if random.chance(200) => (self.some_links(), cut, length.min(300 * MS)),
            FaultKind::Loss => {
                let lost = random.between(20, 300);
                (self.some_links(), Weather { lost, ..fine }, length)
            }
            FaultKind::Copies => {
                let doubled = random.between(20, 100);
                (self.some_links(), Weather { doubled, ..fine }, length)
            }
            FaultKind::Reordering => {
                let (reordered, late) = (random.between(20, 300), random.spread(MS, 5 * S));
                (self.some_links(), Weather { reordered, late, ..fine }, length)
            }
            FaultKind::Corruption => {
                let corrupted = random.between(5, 50);
                (self.some_links(), Weather { corrupted, ..fine }, length)
            }
            FaultKind::Slow => {
                let most = random.spread(MS, 60 * MS);
                (self.some_links(), Weather { delay: (most / 4, most), ..fine }, length)
            }
            FaultKind::Partition => (self.partition(), cut, length),
            FaultKind::OneWay => (vec![self.one_direction()], cut, length),
            FaultKind::Pair => {
                let (a, b) = self.one_direction();
                (vec![(a, b), (b, a)], cut, length)
            }
            FaultKind::Flapping => {
                let flap = random.spread(5 * MS, 300 * MS);
                let links = self.some_links();
                return self.disturb(now, Disturbance { links, weather: cut, flap }, length);
            }
            FaultKind::Replay => {
                for _ in 0..random.between(5, 40) {
                    let at = now + random.below(length);
                    self.queue.push(at, Happening::Replay);
                }
                return;
            }
            FaultKind::Pause => return self.pause(now, length),
            FaultKind::Crash => return self.crash(now),
            FaultKind::Restarts => unreachable!("planned apart"),
        };
        let (links, weather, length) = disturbance;
        self.disturb(now, Disturbance { links, weather, flap: 0 }, length);
    }

    fn disturb(&mut self, now: Time, disturbance: Disturbance, length: Time) {
        let disturbance = self.network.disturb(now, disturbance);
        self.queue.push(now + length, Happening::Settle { disturbance });
    }

    /// All directions, those of one node, or one.
    fn some_links(&mut self) -> Vec<(u16, u16)> {
        let all = self.network.all_links();
        match self.fault_random.below(3) {
            0 => all,
            1 => {
                let node = self.fault_random.below(self.options.nodes.into()) as u16;
                all.into_iter().filter(|(a, b)| *a == node || *b == node).collect()
            }
            _ => vec![self.one_direction()],
        }
    }

    fn one_direction(&mut self) -> (u16, u16) {
        let all = self.network.all_links();
        *self.fault_random.pick(&all)
    }

    /// Two groups that do not reach each other.
    fn partition(&mut self) -> Vec<(u16, u16)> {
        let side = self.fault_random.between(1, (1 << self.options.nodes) - 2);
        let apart = |a: u16, b: u16| (side >> a ^ side >> b) & 1 == 1;
        self.network.all_links().into_iter().filter(|(a, b)| apart(*a, *b)).collect()
    }

    fn pause(&mut self, now: Time, length: Time) {
        let random = &mut self.fault_random;
        // Most pauses are a scheduler's; some are somebody's debugger. Sometimes all nodes stand still at once. A lease
        // that passes matters most where programs grant themselves.
        let long = if self.mix.attached.is_some() { 250 } else { 100 };
        let length = if random.chance(long) { random.between(S, 10 * S) } else { length };
        let until = (now + length).min(self.plan.storm_end);
        let all = random.chance(50);
        let one = random.below(self.options.nodes.into()) as u16;
        for node in (0..self.options.nodes).filter(|n| all || *n == one) {
            self.hosts[usize::from(node)].paused = true;
            self.queue.push(until, Happening::Resume { node });
            self.freeze_some(node, until);
        }
    }

    /// A node dies, or is stopped in order, and comes back: at once, while others still wait for its lease, or later.
    fn crash(&mut self, now: Time) {
        let random = &mut self.fault_random;
        let node = random.below(self.options.nodes.into()) as u16;
        let clean = random.chance(250);
        let back = now + random.spread(10 * MS, 6 * S);
        self.queue.push(back, Happening::Start { node });
        self.end(node, clean);
    }

    /// All are restarted, some rounds before the last one was over.
    pub(crate) fn upheaval(&mut self, index: usize) {
        let now = self.queue.now();
        let (_, kind) = self.mix.upheavals[index];
        self.note_fault(kind as usize);
        let random = &mut self.fault_random;
        let mut at = now;
        for _ in 0..random.between(1, 4) {
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
