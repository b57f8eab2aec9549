//! Which ways were whole and which were cut, and who must therefore stay whatever the others are (L2, L7, I20).
//!
//! ```text
//!   of two members      both are well, and nothing was wrong between them for four seconds   they hear each other
//!                       a direction is cut, has been for two seconds, and the proposer
//!                       hears whoever notices                                                they do not
//!                       anything else                                                        perhaps
//! ```
//!
//! A member must stay if it is in every largest set of those who hear each other, however "perhaps" turns out. Where two
//! sets may be equally large nobody is certain who only one of them has.

use std::collections::BTreeMap;

use crate::network::Weather;
use crate::queue::Time;
use crate::swarm::S;

/// A cut is noticed, said and heard of after so long: the silent time, half of it between two reports, and what is lost.
const NOTICED: Time = 2 * S;

/// After so long without a fault a member hears and renews: a lease, the next renewal, and some.
pub(crate) const CERTAIN: Time = 4 * S;

/// Of a thousand datagrams so many may be harmed, and nobody falls silent for it: ten probes go in a silent time.
const MILD: u64 = 100;

/// With more members the sets are too many to look at each.
const SEARCHED_MAX: u32 = 9;

/// What was wrong with one direction.
#[derive(Clone, Copy, Debug, Default)]
struct Way {
    troubled: Time,
    /// From when to when nothing passed, without a gap.
    cut: (Time, Time),
}

/// All directions with which something was wrong.
#[derive(Debug, Default)]
pub(crate) struct Ways(BTreeMap<(u16, u16), Way>);

impl Ways {
    /// A direction has this weather from now on for so long, without a break or in turns.
    pub(crate) fn touch(&mut self, way: (u16, u16), now: Time, length: Time, weather: &Weather, flaps: bool) {
        if weather.lost + weather.corrupted + weather.reordered <= MILD {
            return;
        }
        let way = self.0.entry(way).or_default();
        let until = now + length;
        way.troubled = way.troubled.max(until + weather.late);
        if weather.lost == 1000 && !flaps {
            let since = if now <= way.cut.1 { way.cut.0 } else { now };
            way.cut = (since, until.max(way.cut.1));
        }
    }

    /// Whatever was wrong ends now.
    pub(crate) fn calm(&mut self, now: Time) {
        for way in self.0.values_mut() {
            way.troubled = way.troubled.min(now);
            way.cut.1 = way.cut.1.min(now);
        }
    }

    fn is_good(&self, a: u16, b: u16, now: Time) -> bool {
        [(a, b), (b, a)].iter().all(|way| self.0.get(way).is_none_or(|it| it.troubled + CERTAIN <= now))
    }

    fn is_cut(&self, from: u16, to: u16, now: Time) -> bool {
        self.0.get(&(from, to)).is_some_and(|way| way.cut.0 + NOTICED <= now && now < way.cut.1)
    }
}

/// What is certain when a node proposes a verdict. Sets of nodes are bits.
pub(crate) struct Scene<'a> {
    pub by: u16,
    pub now: Time,
    /// With which nothing was wrong for long; ways do not count.
    pub well: u64,
    pub voters: u64,
    pub ways: &'a Ways,
}

impl Scene<'_> {
    fn hear(&self, a: u16, b: u16) -> bool {
        let well = self.well >> a & self.well >> b & 1 == 1;
        well && (a == b || self.ways.is_good(a, b, self.now))
    }

    /// Is it certain that this node has renewed its lease all the time? It has talked with a majority.
    pub(crate) fn renews(&self, node: u16) -> bool {
        let heard = each(self.voters).filter(|other| self.hear(node, *other)).count();
        2 * heard > self.voters.count_ones() as usize
    }

    /// Is it certain that the proposer knows that these two do not hear each other? Whoever renews says whom it does not hear.
    fn part(&self, a: u16, b: u16) -> bool {
        let knows = |to: u16| to == self.by || self.hear(self.by, to) && self.renews(to);
        [(a, b), (b, a)].into_iter().any(|(from, to)| self.ways.is_cut(from, to, self.now) && knows(to))
    }

    /// Is this node in every largest set of `members` who hear each other, whatever is not certain?
    pub(crate) fn is_in_every_largest(&self, node: u16, members: u64) -> bool {
        if members >> node & 1 == 0 || members.count_ones() > SEARCHED_MAX {
            return false;
        }
        let (good, parted) = self.rows(members);
        // A set without the node that may be one of those who hear each other: then all of it do, and of the rest no more
        // than is certain. If it is as large as the largest with the node, the node may have to go.
        let others = members & !(1 << node);
        let rival = |set: u64| {
            let whole = each(set).all(|a| parted[usize::from(a)] & set == 0);
            whole && set.count_ones() >= largest_with(node, set, members, &good)
        };
        !subsets(others).any(rival)
    }

    /// May `inside`, whoever of the view does not go for another reason, be in the way of a set without this node that is
    /// larger than `inside`, has the proposer in it, and of whom nobody is known not to hear another? Each of `others`
    /// may wait to be let in, or not.
    pub(crate) fn may_be_outvoted(&self, node: u16, inside: u64, others: u64) -> bool {
        let (good, parted) = self.rows(inside | others);
        let outvotes = |set: u64| {
            let larger = set >> self.by & 1 == 1 && set.count_ones() > inside.count_ones();
            let whole = || each(set).all(|a| parted[usize::from(a)] & set == 0);
            larger && whole() && set.count_ones() >= largest_with(node, set, inside | set, &good)
        };
        (inside | others).count_ones() > SEARCHED_MAX
            || subsets((inside | others) & !(1 << node)).any(outvotes)
    }

    /// With whom each of these certainly can talk, and with whom it certainly cannot.
    fn rows(&self, members: u64) -> (Vec<u64>, Vec<u64>) {
        let row = |a: u16, is: &dyn Fn(u16) -> bool| {
            each(members).filter(|b| *b != a && is(*b)).fold(0u64, |all, b| all | 1 << b)
        };
        let good = (0..64).map(|a| row(a, &|b| self.hear(a, b))).collect();
        let parted = (0..64).map(|a| row(a, &|b| self.part(a, b))).collect();
        (good, parted)
    }
}

/// The size of the largest set with this node, if besides what is `good` all in `set` hear each other.
fn largest_with(node: u16, set: u64, members: u64, good: &[u64]) -> u32 {
    let hears = |a: u16| good[usize::from(a)] | if set >> a & 1 == 1 { set } else { 0 };
    let near = hears(node) & members & !(1 << node);
    let sizes = subsets(near).filter(|all| each(*all).all(|a| all & !hears(a) & !(1 << a) == 0));
    sizes.map(|all| all.count_ones() + 1).max().unwrap_or(1)
}

fn each(set: u64) -> impl Iterator<Item = u16> {
    (0..64).filter(move |node| set >> node & 1 == 1)
}

/// Every subset, the empty one and the whole among them.
fn subsets(set: u64) -> impl Iterator<Item = u64> {
    let mut next = Some(set);
    std::iter::from_fn(move || {
        let now = next?;
        next = (now != 0).then(|| (now - 1) & set);
        Some(now)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = 0b11111;
    const CUT: Weather = Weather { lost: 1000, late: 0, ..Weather::FINE };

    /// Five nodes of which these pairs are cut since ten seconds ago, both ways.
    fn cut(pairs: &[(u16, u16)]) -> Ways {
        let mut ways = Ways::default();
        for (a, b) in pairs {
            ways.touch((*a, *b), 10 * S, 20 * S, &CUT, false);
            ways.touch((*b, *a), 10 * S, 20 * S, &CUT, false);
        }
        ways
    }

    /// Who must stay at 20 s, as `by` can know.
    fn must_stay(ways: &Ways, by: u16, well: u64) -> Vec<u16> {
        let scene = Scene { by, now: 20 * S, well, voters: ALL, ways };
        (0..5).filter(|node| scene.is_in_every_largest(*node, ALL)).collect()
    }

    #[test]
    fn four_must_stay_beside_one_that_is_cut_off() {
        let ways = cut(&[(0, 1), (0, 2), (0, 3), (0, 4)]);
        assert_eq!(must_stay(&ways, 1, ALL), [1, 2, 3, 4]);
        let scene = Scene { by: 1, now: 20 * S, well: ALL, voters: ALL, ways: &ways };
        assert_eq!((0..5).filter(|n| scene.renews(*n)).collect::<Vec<_>>(), [1, 2, 3, 4]);
        // If one of the four stands still, perhaps one of the others was the first that did not hear it.
        assert_eq!(must_stay(&ways, 1, ALL & !(1 << 4)), [0; 0]);
    }

    #[test]
    fn of_two_sets_of_the_same_size_only_those_in_both_must_stay() {
        assert_eq!(must_stay(&cut(&[(0, 1)]), 2, ALL), [2, 3, 4]);
        // A bridge: two on each side.
        assert_eq!(must_stay(&cut(&[(0, 1), (0, 2), (3, 1), (3, 2)]), 4, ALL), [4]);
        // A ring of five: five sets of two.
        let ring = [(0, 2), (0, 3), (1, 3), (1, 4), (2, 4)];
        assert_eq!(must_stay(&cut(&ring), 0, ALL), [0; 0]);
    }

    #[test]
    fn the_smaller_of_two_sets_need_not_stay() {
        // 0 hears 1 and 2 only; 3 and 4 hear them too.
        assert_eq!(must_stay(&cut(&[(0, 3), (0, 4)]), 1, ALL), [1, 2, 3, 4]);
    }

    #[test]
    fn a_cut_that_is_new_over_or_unknown_to_the_proposer_is_none_for_certain() {
        let pairs = [(0, 3), (0, 4)];
        let scene = |ways: &Ways, now| {
            let scene = Scene { by: 1, now, well: ALL, voters: ALL, ways };
            (0..5).filter(|node| scene.is_in_every_largest(*node, ALL)).collect::<Vec<u16>>()
        };
        let mut ways = cut(&pairs);
        // With one of the two ways still thought whole, 0 and 3 are as good as each other.
        assert_eq!(scene(&ways, 11 * S), [1, 2]);
        assert_eq!(scene(&ways, 12 * S), [1, 2, 3, 4]);
        ways.calm(20 * S);
        assert_eq!(scene(&ways, 20 * S), [1, 2]);
        assert_eq!(scene(&ways, 24 * S), [0, 1, 2, 3, 4]);
        ways.touch((0, 1), 30 * S, S, &Weather { lost: 90, doubled: 100, ..CUT }, false);
        assert_eq!(scene(&ways, 30 * S), [0, 1, 2, 3, 4], "that is no more than weather");
        // The proposer hears neither of two: whether they hear each other it may have from nobody.
        let far = cut(&[(1, 3), (1, 4), (3, 4)]);
        assert_eq!(must_stay(&far, 0, ALL), [0, 2]);
        assert_eq!(must_stay(&far, 1, ALL), [0, 2]);
    }

    /// Two are in, three wait; the links between the two sides are cut.
    #[test]
    fn only_a_set_larger_than_the_view_outvotes_and_not_who_is_in_it() {
        let cut: Vec<(u16, u16)> = [0, 1].into_iter().flat_map(|a| [2, 3, 4].map(|b| (a, b))).collect();
        let ways = self::cut(&cut);
        let scene = |by, well| Scene { by, now: 20 * S, well, voters: ALL, ways: &ways };
        let outvoted = |by, well, inside: u64| {
            each(inside)
                .filter(|n| scene(by, well).may_be_outvoted(*n, inside, ALL & !inside))
                .collect::<Vec<_>>()
        };
        assert_eq!(outvoted(2, ALL, 0b00011), [0, 1]);
        // Three are in: the two others are too few, and of a set that is half inside and half outside it is known that it is none.
        assert_eq!(outvoted(0, ALL, 0b11100), [0; 0]);
        // Of those who wait nobody is certain, but the proposer knows whom it does not hear itself.
        assert_eq!(outvoted(2, 0b00011, 0b00011), [0, 1]);
        assert_eq!(outvoted(0, 0b11100, 0b11100), [0; 0]);
        // Nothing is cut: who is in is heard by all, and none is in the way.
        let whole = Ways::default();
        let scene = Scene { by: 2, now: 20 * S, well: ALL, voters: ALL, ways: &whole };
        assert!(!scene.may_be_outvoted(0, 0b00011, 0b11100));
    }

    /// Whoever hears nothing says so; whoever is not heard need not know.
    #[test]
    fn one_direction_is_known_by_who_should_hear() {
        let mut ways = Ways::default();
        for to in [3, 4] {
            ways.touch((0, to), 10 * S, 20 * S, &CUT, false);
        }
        assert_eq!(must_stay(&ways, 3, ALL), [1, 2, 3, 4]);
        assert_eq!(must_stay(&ways, 0, ALL), [1, 2]);
    }

    #[test]
    fn cuts_that_follow_each_other_without_a_gap_are_one() {
        let mut ways = Ways::default();
        ways.touch((0, 1), S, 2 * S, &CUT, false);
        ways.touch((0, 1), 2 * S, 4 * S, &CUT, false);
        assert!(ways.is_cut(0, 1, 5 * S) && !ways.is_cut(0, 1, 6 * S));
        ways.touch((0, 1), 7 * S, 4 * S, &CUT, false);
        assert!(!ways.is_cut(0, 1, 8 * S) && ways.is_cut(0, 1, 9 * S));
    }
}
