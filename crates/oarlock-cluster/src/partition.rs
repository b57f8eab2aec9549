//! Who stays when members cannot hear each other: the largest set in which all do (L7).

use alloc::collections::BTreeMap;

use oarlock_layout::id::NodeId;
use oarlock_layout::limit::NODES_MAX;

/// Sets that the search looks at, at most. The graphs of up to 64 nodes that are drawn at random need a few thousand; what is found
/// by then is no worse than leaving out those with most silent partners first.
pub const SEARCHED_MAX: u32 = 100_000;

/// A set of nodes.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize, serde::Deserialize,
)]
pub struct NodeSet(u64);

impl NodeSet {
    /// Nobody.
    pub const EMPTY: NodeSet = NodeSet(0);

    /// Adds a node.
    ///
    /// # Panics
    /// If its id is not below [`NODES_MAX`]: whoever reads ids from bytes checks them.
    pub fn insert(&mut self, node: NodeId) {
        assert!(usize::from(node.0) < NODES_MAX, "node {node} is beyond the {NODES_MAX} that there can be");
        self.0 |= 1 << node.0;
    }

    /// Takes a node out.
    pub fn remove(&mut self, node: NodeId) {
        if self.contains(node) {
            self.0 &= !(1 << node.0);
        }
    }

    /// Whether the node is in.
    pub fn contains(self, node: NodeId) -> bool {
        usize::from(node.0) < NODES_MAX && self.0 >> node.0 & 1 == 1
    }

    /// How many are in.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Nobody is in.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Who is in both.
    #[must_use]
    pub const fn and(self, other: NodeSet) -> NodeSet {
        NodeSet(self.0 & other.0)
    }

    /// All that are in, lowest id first.
    pub fn iter(self) -> impl Iterator<Item = NodeId> {
        (0..NODES_MAX as u16).map(NodeId).filter(move |node| self.contains(*node))
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> NodeSet {
        let mut set = NodeSet::EMPTY;
        nodes.into_iter().for_each(|node| set.insert(node));
        set
    }
}

/// What speaks for a member where sets are of equal size.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Weight {
    /// It votes in the coordinator.
    pub voter: bool,
    /// Volumes that it serves now.
    pub volumes: u32,
}

/// Of all sets of `members` that have no silent pair inside, the largest; of those the one with more voters, then
/// more served volumes, then lower ids (the lowest id that only one of two sets has decides for it).
///
/// `silent` names for a node the partners that it is silent to; one of the two directions is enough.
///
/// The answer is exact, unless the search would take more than [`SEARCHED_MAX`] steps: then it is the best that was found, and a set
/// that hears each other in any case.
pub fn largest(members: &BTreeMap<NodeId, Weight>, silent: &BTreeMap<NodeId, NodeSet>) -> NodeSet {
    let all: NodeSet = members.keys().copied().collect();
    let mut links = [0; NODES_MAX];
    for (node, partners) in silent.iter().filter(|(node, _)| all.contains(**node)) {
        for partner in partners.and(all).iter().filter(|p| p != node) {
            links[usize::from(node.0)] |= 1 << partner.0;
            links[usize::from(partner.0)] |= 1 << node.0;
        }
    }
    let mut worth = [0; NODES_MAX];
    for (node, weight) in members {
        worth[usize::from(node.0)] = weight.worth(*node);
    }
    let mut search = Search { links, left: SEARCHED_MAX };
    NodeSet(search.best(all.0, &worth))
}

impl Weight {
    /// What the node adds to a set. Of two sets the better one is worth more: sizes are compared first, then voters, volumes, and
    /// ids, of which no sum of the later ones makes up for an earlier one. So each part of a graph can be decided by itself.
    fn worth(self, node: NodeId) -> u128 {
        const VOLUMES: u32 = NODES_MAX as u32;
        const VOTERS: u32 = VOLUMES + 32 + 7;
        const SIZE: u32 = VOTERS + 7;
        let lowest_first = 1 << (NODES_MAX as u32 - 1 - u32::from(node.0));
        1 << SIZE | u128::from(self.voter) << VOTERS | u128::from(self.volumes) << VOLUMES | lowest_first
    }
}

/// Bits of a set, lowest first.
fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let lowest = (set != 0).then(|| set.trailing_zeros() as usize);
        set &= set.wrapping_sub(1);
        lowest
    })
}

/// Looks for the set without a link inside that is worth most.
struct Search {
    links: [u64; NODES_MAX],
    /// Steps that may still be taken.
    left: u32,
}

impl Search {
    /// Of `among`; `worth` may be less than at the beginning, for nodes whose only partner waits to be decided with them.
    fn best(&mut self, among: u64, worth: &[u128; NODES_MAX]) -> u64 {
        let (mut left, mut worth, mut taken) = (among, *worth, 0);
        // Those of whom it is clear. Of a pair of which one has no other partner, the other is worth only what it is worth more.
        let mut pairs = [(0u8, 0u8); NODES_MAX];
        let mut paired = 0;
        while let Some(node) = bits(left).find(|n| (self.links[*n] & left).count_ones() < 2) {
            let partner = self.links[node] & left;
            left &= !(1 << node);
            if partner == 0 {
                taken |= 1 << node;
            } else {
                let other = partner.trailing_zeros() as usize;
                if worth[other] <= worth[node] {
                    left &= !partner;
                    taken |= 1 << node;
                } else {
                    worth[other] -= worth[node];
                    (pairs[paired], paired) = ((node as u8, other as u8), paired + 1);
                }
            }
        }
        while left != 0 {
            let part = self.part(left);
            left &= !part;
            taken |= self.best_of_part(part, &worth);
        }
        // The last pair first: what it decides others may rest on.
        for (node, other) in pairs[..paired].iter().rev() {
            if taken >> other & 1 == 0 {
                taken |= 1 << node;
            }
        }
        taken
    }

    /// All that hang together with the first of `left`.
    fn part(&self, left: u64) -> u64 {
        let mut part = left & left.wrapping_neg();
        loop {
            let more = bits(part).fold(part, |all, n| all | self.links[n]) & left;
            if more == part {
                return part;
            }
            part = more;
        }
    }

    /// Everybody has at least two partners: it goes without the one who has most, or with it.
    fn best_of_part(&mut self, part: u64, worth: &[u128; NODES_MAX]) -> u64 {
        let partners = |n: usize| (self.links[n] & part).count_ones();
        let most = bits(part).max_by_key(|n| (partners(*n), core::cmp::Reverse(worth[*n])));
        let most = most.expect("it is not empty");
        let value = |set: u64| bits(set).map(|n| worth[n]).sum::<u128>();
        let rest = part & !(1 << most);
        let without = self.best(rest, worth);
        self.left = self.left.saturating_sub(1);
        let open = rest & !self.links[most];
        if self.left == 0 || worth[most] + self.bound(open, worth) <= value(without) {
            return without;
        }
        let with = 1 << most | self.best(open, worth);
        if value(with) > value(without) { with } else { without }
    }

    /// No set of `among` is worth more: of nodes that are all linked to each other it has one.
    fn bound(&self, among: u64, worth: &[u128; NODES_MAX]) -> u128 {
        let (mut left, mut sum) = (among, 0);
        while left != 0 {
            let (mut group, mut most) = (left, 0);
            while group != 0 {
                let node = group.trailing_zeros() as usize;
                left &= !(1 << node);
                most = most.max(worth[node]);
                group &= self.links[node];
            }
            sum += most;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A twin that looks at every subset and compares lists of ids.
    fn twin(weights: &[Weight], silent: &[(usize, usize)]) -> NodeSet {
        let n = weights.len();
        let mut best: Option<(usize, usize, u64, Vec<u16>)> = None;
        for subset in 0u32..1 << n {
            let has = |i: usize| subset >> i & 1 == 1;
            if silent.iter().any(|(a, b)| has(*a) && has(*b)) {
                continue;
            }
            let ids: Vec<u16> = (0..n as u16).filter(|i| has(usize::from(*i))).collect();
            let voters = (0..n).filter(|i| has(*i) && weights[*i].voter).count();
            let volumes: u64 = (0..n).filter(|i| has(*i)).map(|i| u64::from(weights[i].volumes)).sum();
            let better = best.as_ref().is_none_or(|(len, v, vol, old)| {
                (ids.len(), voters, volumes) > (*len, *v, *vol)
                    // Of equally long ascending lists, the first difference is the lowest id that one lacks.
                    || (ids.len(), voters, volumes) == (*len, *v, *vol) && ids < *old
            });
            if better {
                best = Some((ids.len(), voters, volumes, ids));
            }
        }
        best.unwrap().3.into_iter().map(NodeId).collect()
    }

    fn ours(weights: &[Weight], silent: &[(usize, usize)]) -> NodeSet {
        let members = weights.iter().enumerate().map(|(i, w)| (NodeId(i as u16), *w)).collect();
        let mut graph: BTreeMap<NodeId, NodeSet> = BTreeMap::new();
        for (a, b) in silent {
            graph.entry(NodeId(*a as u16)).or_default().insert(NodeId(*b as u16));
        }
        largest(&members, &graph)
    }

    fn pairs(n: usize) -> Vec<(usize, usize)> {
        (0..n).flat_map(|a| (a + 1..n).map(move |b| (a, b))).collect()
    }

    fn chosen(all: &[(usize, usize)], bits: u128) -> Vec<(usize, usize)> {
        all.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1).map(|(_, p)| *p).collect()
    }

    /// L7 for all graphs of up to six members, with three ways to weigh them.
    #[test]
    fn the_choice_is_the_twins_for_every_small_graph() {
        for n in 0..=6usize {
            let all = pairs(n);
            let weights = [
                vec![Weight::default(); n],
                (0..n).map(|i| Weight { voter: i >= n / 2, volumes: 0 }).collect(),
                (0..n).map(|i| Weight { voter: i % 3 == 0, volumes: i as u32 % 4 }).collect(),
            ];
            for bits in 0u128..1 << all.len() {
                let silent = chosen(&all, bits);
                for weights in &weights {
                    assert_eq!(ours(weights, &silent), twin(weights, &silent), "{silent:?} {weights:?}");
                }
            }
        }
    }

    /// I20: whoever is at fault, if they are fewer than half and the others hear each other, more than half stay.
    #[test]
    fn a_fault_of_fewer_than_half_never_removes_a_majority() {
        for n in 1..=6usize {
            let all = pairs(n);
            for bits in 0u128..1 << all.len() {
                let silent = chosen(&all, bits);
                let kept = ours(&vec![Weight::default(); n], &silent);
                let explains =
                    |faulty: u32| silent.iter().all(|(a, b)| faulty >> a & 1 == 1 || faulty >> b & 1 == 1);
                if (0u32..1 << n).any(|f| 2 * (f.count_ones() as usize) < n && explains(f)) {
                    assert!(2 * kept.len() > n, "{silent:?} leaves {kept:?} of {n}");
                }
            }
        }
    }

    #[test]
    fn one_node_that_lost_all_its_links_goes_alone_in_the_largest_cluster() {
        let silent: Vec<_> = (0..64).filter(|i| *i != 7).map(|i| (7, i)).collect();
        let kept = ours(&[Weight::default(); 64], &silent);
        assert_eq!(kept.len(), 63);
        assert!(!kept.contains(NodeId(7)));
    }

    #[test]
    fn the_worst_graphs_of_the_largest_cluster_are_answered_too() {
        // 32 pairs that hear everybody but each other: 2^32 largest sets.
        let silent: Vec<_> = (0..32).map(|i| (2 * i, 2 * i + 1)).collect();
        let kept = ours(&[Weight::default(); 64], &silent);
        assert_eq!(kept.len(), 32);
        assert!(
            silent.iter().all(|(a, b)| kept.contains(NodeId(*a as u16)) != kept.contains(NodeId(*b as u16)))
        );
        // Nobody hears anybody.
        assert_eq!(ours(&[Weight::default(); 64], &pairs(64)).len(), 1);
    }

    /// A twin for more members: by dynamic programming over all subsets of each half, without a word of the search.
    fn halves(weights: &[Weight], silent: &[(usize, usize)]) -> NodeSet {
        let n = weights.len();
        let mut links = vec![0u32; n];
        for (a, b) in silent {
            links[*a] |= 1 << b;
            links[*b] |= 1 << a;
        }
        let score = |set: u32| {
            let has = |i: &usize| set >> i & 1 == 1;
            let voters = (0..n).filter(|i| has(i) && weights[*i].voter).count();
            let volumes: u64 = (0..n).filter(has).map(|i| u64::from(weights[i].volumes)).sum();
            (set.count_ones(), voters, volumes, set.reverse_bits())
        };
        let fits = |set: u32| (0..n).all(|i| set >> i & 1 == 0 || links[i] & set == 0);
        let low = n / 2;
        // The best part of each set of the lower half.
        let mut best = vec![0u32; 1 << low];
        for set in 1u32..1 << low {
            let top = 31 - set.leading_zeros();
            let (without, with) = (best[(set & !(1 << top)) as usize], {
                let rest = set & !(1 << top) & !links[top as usize];
                best[rest as usize] | 1 << top
            });
            best[set as usize] = if score(with) > score(without) { with } else { without };
        }
        let mask = (1u32 << low) - 1;
        let mut winner = 0;
        for upper in (0u32..1 << (n - low)).map(|set| set << low).filter(|set| fits(*set)) {
            let barred = (0..n).filter(|i| upper >> i & 1 == 1).fold(0, |all, i| all | links[i]);
            let set = upper | best[(mask & !barred) as usize];
            if score(set) > score(winner) {
                winner = set;
            }
        }
        (0..n as u16).filter(|i| winner >> i & 1 == 1).map(NodeId).collect()
    }

    /// L7, up to the largest cluster: the search ends, without having given up.
    #[test]
    fn no_random_graph_of_the_largest_cluster_is_too_much() {
        let mut chance = 0x9e37_79b9_7f4a_7c15_u64;
        let mut worst = 0;
        for percent in [1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 80, 95] {
            for _ in 0..3 {
                let mut links = [0; NODES_MAX];
                for (a, b) in pairs(64) {
                    chance ^= chance << 13;
                    chance ^= chance >> 7;
                    chance ^= chance << 17;
                    if (chance >> 20) % 100 < percent {
                        links[a] |= 1 << b;
                        links[b] |= 1 << a;
                    }
                }
                let mut search = Search { links, left: SEARCHED_MAX };
                let worth = core::array::from_fn(|i| Weight::default().worth(NodeId(i as u16)));
                search.best(u64::MAX, &worth);
                assert!(search.left > 0, "{percent} %");
                worst = worst.max(SEARCHED_MAX - search.left);
            }
        }
        println!("the worst of them took {worst} steps");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// L7 for random graphs of up to sixteen members.
        #[test]
        fn the_choice_is_the_twins_for_larger_graphs(
            weights in proptest::collection::vec((any::<bool>(), 0u32..3), 7..=16),
            bits: u128,
            mask: u128,
        ) {
            let weights: Vec<Weight> =
                weights.into_iter().map(|(voter, volumes)| Weight { voter, volumes }).collect();
            let silent = chosen(&pairs(weights.len()), bits & mask);
            prop_assert_eq!(ours(&weights, &silent), twin(&weights, &silent));
        }

        /// L7 for random graphs of up to 24 members, from those in which nobody hears anybody to those in which nearly all do.
        #[test]
        fn the_choice_is_the_twins_for_graphs_that_are_larger_still(
            weights in proptest::collection::vec((any::<bool>(), 0u32..3), 17..=24),
            links in proptest::collection::vec(0u8..100, 276),
            percent in 2u8..70,
        ) {
            let weights: Vec<Weight> =
                weights.into_iter().map(|(voter, volumes)| Weight { voter, volumes }).collect();
            let all = pairs(weights.len());
            let silent: Vec<_> = all.into_iter().zip(links).filter(|(_, p)| *p < percent).map(|(it, _)| it).collect();
            prop_assert_eq!(ours(&weights, &silent), halves(&weights, &silent));
        }
    }
}
