//! A network that may do to a datagram whatever a real one can (FT5-FT13).

use std::collections::BTreeMap;

use crate::queue::Time;
use crate::random::Random;

/// What one direction between two nodes does to datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Weather {
    /// Of a thousand datagrams so many vanish.
    pub lost: u64,
    /// So many come twice.
    pub doubled: u64,
    /// So many have bits flipped.
    pub corrupted: u64,
    /// So many come late: after `late`, while others overtake them.
    pub reordered: u64,
    /// How late that is, at most.
    pub late: Time,
    /// Shortest and longest time of the others on their way.
    pub delay: (Time, Time),
}

impl Weather {
    /// A good local network.
    pub const FINE: Weather =
        Weather { lost: 0, doubled: 0, corrupted: 0, reordered: 0, late: 1, delay: (40_000, 160_000) };

    /// The worse of two, field by field.
    pub fn worse(self, other: Weather) -> Weather {
        Weather {
            lost: self.lost.max(other.lost),
            doubled: self.doubled.max(other.doubled),
            corrupted: self.corrupted.max(other.corrupted),
            reordered: self.reordered.max(other.reordered),
            late: self.late.max(other.late),
            delay: (self.delay.0.max(other.delay.0), self.delay.1.max(other.delay.1)),
        }
    }
}

/// A disturbance of some directions, until it is taken away.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Disturbance {
    /// Which directions, as (from, to).
    pub links: Vec<(u16, u16)>,
    /// What is done to them.
    pub weather: Weather,
    /// If not 0, the disturbance is there and gone in turns of this length: a flapping link (FT8).
    pub flap: Time,
}

/// All directions between all nodes.
#[derive(Debug)]
pub struct Network {
    nodes: u16,
    base: Weather,
    disturbances: BTreeMap<u64, (Time, Disturbance)>,
    next: u64,
    /// Datagrams that somebody captured, to be sent again some day (FT13).
    captured: Vec<Captured>,
    /// When the run of each node began.
    began: Vec<Time>,
    random: Random,
    /// How many datagrams were lost, doubled, corrupted, delayed or replayed.
    pub harmed: u64,
}

/// What a datagram over IPv4 can hold; a kernel sends no larger one.
const DATAGRAM_BYTES_MAX: usize = 65_507;
/// Captured datagrams kept.
const CAPTURED_MAX: usize = 512;

/// A datagram that somebody has.
#[derive(Clone, Debug)]
struct Captured {
    from: u16,
    to: u16,
    at: Time,
    bytes: Vec<u8>,
}

/// A datagram on its way: when it arrives, and its bytes if they differ from those sent.
pub(crate) struct Flight {
    pub at: Time,
    pub altered: Option<Vec<u8>>,
}

impl Network {
    /// Every node can reach every other in this weather.
    pub fn new(nodes: u16, base: Weather, random: Random) -> Network {
        let (disturbances, captured) = (BTreeMap::new(), Vec::new());
        let began = vec![0; nodes.into()];
        Network { nodes, base, disturbances, next: 0, captured, began, random, harmed: 0 }
    }

    /// A run of a node begins.
    pub(crate) fn begin(&mut self, node: u16, now: Time) {
        self.began[usize::from(node)] = now;
    }

    /// From now on all is fine; what is on its way is not affected.
    pub fn calm(&mut self) {
        self.disturbances.clear();
        self.base = Weather { delay: self.base.delay, ..Weather::FINE };
    }

    /// Adds a disturbance; returns its number.
    pub fn disturb(&mut self, now: Time, disturbance: Disturbance) -> u64 {
        self.next += 1;
        self.disturbances.insert(self.next, (now, disturbance));
        self.next
    }

    /// Takes a disturbance away.
    pub fn settle(&mut self, number: u64) {
        self.disturbances.remove(&number);
    }

    /// All directions between any two nodes.
    pub fn all_links(&self) -> Vec<(u16, u16)> {
        let pairs = (0..self.nodes).flat_map(|a| (0..self.nodes).map(move |b| (a, b)));
        pairs.filter(|(a, b)| a != b).collect()
    }

    /// Does anything pass between two nodes, both ways?
    pub fn passes(&self, now: Time, a: u16, b: u16) -> bool {
        self.weather(now, a, b).lost < 1000 && self.weather(now, b, a).lost < 1000
    }

    fn weather(&self, now: Time, from: u16, to: u16) -> Weather {
        self.disturbances.values().fold(self.base, |weather, (since, d)| {
            let on = d.flap == 0 || ((now - since) / d.flap).is_multiple_of(2);
            if on && d.links.contains(&(from, to)) { weather.worse(d.weather) } else { weather }
        })
    }

    /// Sends a datagram: calls `arrive` for each copy that will arrive. None does of one that is too large.
    pub(crate) fn send(
        &mut self,
        now: Time,
        from: u16,
        to: u16,
        bytes: &[u8],
        mut arrive: impl FnMut(Flight),
    ) {
        if bytes.len() > DATAGRAM_BYTES_MAX {
            return;
        }
        let weather = self.weather(now, from, to);
        if self.random.chance(30) {
            self.capture(Captured { from, to, at: now, bytes: bytes.to_vec() });
        }
        let copies = if self.random.chance(weather.doubled) { 2 } else { 1 };
        self.harmed += copies - 1;
        for _ in 0..copies {
            if self.random.chance(weather.lost) {
                self.harmed += 1;
                continue;
            }
            let mut at = now + self.random.between(weather.delay.0, weather.delay.1);
            if self.random.chance(weather.reordered) {
                self.harmed += 1;
                at += self.random.below(weather.late);
            }
            let altered = self.random.chance(weather.corrupted).then(|| {
                self.harmed += 1;
                corrupted(&mut self.random, bytes)
            });
            arrive(Flight { at, altered });
        }
    }

    fn capture(&mut self, captured: Captured) {
        if self.captured.len() < CAPTURED_MAX {
            self.captured.push(captured);
        } else {
            // A random place: some very old ones stay for the whole run.
            let place = self.random.below(CAPTURED_MAX as u64) as usize;
            self.captured[place] = captured;
        }
    }

    /// A captured datagram, as (from, to, bytes); sometimes with a forged sender. To this node, if it is given; `old`: of a
    /// run of its sender, or to one of its receiver, that is over.
    pub(crate) fn replay(&mut self, to: Option<u16>, old: bool) -> Option<(u16, u16, Vec<u8>)> {
        let began = |node: u16, at: Time| at < self.began[usize::from(node)];
        let fits = |it: &&Captured| {
            to.is_none_or(|to| it.to == to) && (!old || began(it.from, it.at) || began(it.to, it.at))
        };
        let all: Vec<&Captured> = self.captured.iter().filter(fits).collect();
        if all.is_empty() {
            return None;
        }
        self.harmed += 1;
        let Captured { mut from, to, bytes, .. } = (*self.random.pick(&all)).clone();
        if self.random.chance(200) {
            from = self.random.below(self.nodes.into()) as u16;
        }
        Some((from, to, bytes))
    }
}

/// The bytes with one to eight bits flipped, or cut short.
fn corrupted(random: &mut Random, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes.is_empty() || random.chance(100) {
        bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
        return bytes;
    }
    for _ in 0..random.between(1, 8) {
        let bit = random.below(bytes.len() as u64 * 8) as usize;
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(network: &mut Network, now: Time, from: u16, to: u16) -> usize {
        let mut n = 0;
        for _ in 0..100 {
            network.send(now, from, to, b"hello", |_| n += 1);
        }
        n
    }

    #[test]
    fn a_cut_is_one_way_and_ends() {
        let mut network = Network::new(3, Weather::FINE, Random::new(1));
        let weather = Weather { lost: 1000, ..Weather::FINE };
        let cut = network.disturb(0, Disturbance { links: vec![(0, 1)], weather, flap: 0 });
        assert_eq!((arrivals(&mut network, 5, 0, 1), arrivals(&mut network, 5, 1, 0)), (0, 100));
        network.settle(cut);
        assert_eq!(arrivals(&mut network, 5, 0, 1), 100);
    }

    #[test]
    fn what_was_captured_of_old_runs_is_told_apart() {
        let mut network = Network::new(3, Weather::FINE, Random::new(3));
        for at in 0..600 {
            network.send(at, 0, 1, b"old", |_| ());
        }
        assert!(network.replay(None, false).is_some() && network.replay(None, true).is_none());
        network.begin(1, 1_000);
        assert_eq!(network.replay(Some(1), true).unwrap().2, b"old");
        assert!(network.replay(Some(2), true).is_none(), "nothing went there");
        for at in 2_000..3_000 {
            network.send(at, 2, 1, b"new", |_| ());
        }
        assert!((0..100).all(|_| network.replay(Some(1), true).unwrap().2 == b"old"));
    }

    #[test]
    fn a_flapping_link_is_there_every_other_turn() {
        let mut network = Network::new(2, Weather::FINE, Random::new(1));
        let weather = Weather { lost: 1000, ..Weather::FINE };
        network.disturb(100, Disturbance { links: network.all_links(), weather, flap: 10 });
        let there: Vec<bool> = (0..4).map(|n| arrivals(&mut network, 105 + 10 * n, 0, 1) > 0).collect();
        assert_eq!(there, [false, true, false, true]);
    }

    #[test]
    fn loss_copies_and_flips_come_about_as_often_as_asked() {
        let weather = Weather { lost: 300, doubled: 100, corrupted: 50, ..Weather::FINE };
        let mut network = Network::new(2, weather, Random::new(7));
        let (mut arrived, mut altered) = (0, 0);
        for _ in 0..10_000 {
            network.send(0, 0, 1, &[0; 100], |flight| {
                arrived += 1;
                altered += u32::from(flight.altered.is_some_and(|bytes| bytes != [0; 100]));
            });
        }
        assert!((7_400..8_000).contains(&arrived), "{arrived}");
        assert!((300..460).contains(&altered), "{altered}");
    }
}
