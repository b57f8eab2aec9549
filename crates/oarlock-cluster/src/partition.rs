//! Who stays when members cannot hear each other: the largest set in which all do (L7).

use alloc::collections::BTreeMap;

use oarlock_layout::id::NodeId;
use oarlock_layout::limit::NODES_MAX;

/// Members with a silent partner among which the best set is searched exhaustively: at most 2^16 sets.
pub const SEARCHED_MAX: usize = 16;

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
/// The answer is exact while at most [`SEARCHED_MAX`] members have a silent partner. Of more, the ones with most silent
/// partners are left out first: one node that lost all its links is then found at once, however large the cluster,
/// and the work stays bounded in any case.
pub fn largest(members: &BTreeMap<NodeId, Weight>, silent: &BTreeMap<NodeId, NodeSet>) -> NodeSet {
    let mut links = BTreeMap::new();
    for (node, partners) in silent {
        for partner in partners.iter().filter(|p| p != node) {
            for (a, b) in [(*node, partner), (partner, *node)] {
                links.entry(a).or_insert(NodeSet::EMPTY).insert(b);
            }
        }
    }
    let partners = |node: NodeId, among: NodeSet| links.get(&node).map_or(NodeSet::EMPTY, |s| s.and(among));
    let mut left: NodeSet = members.keys().copied().collect();
    loop {
        let troubled: NodeSet = left.iter().filter(|n| !partners(*n, left).is_empty()).collect();
        if troubled.len() <= SEARCHED_MAX {
            let search = Search { members, nodes: troubled.iter().collect(), partners: &partners };
            let best = search.best(troubled);
            return NodeSet(left.0 & !troubled.0 | best.0);
        }
        let worst = troubled.iter().max_by_key(|n| {
            let Weight { voter, volumes } = members[n];
            (partners(*n, left).len(), !voter, core::cmp::Reverse(volumes), *n)
        });
        left.remove(worst.expect("somebody is troubled"));
    }
}

/// How good a set is; more is better.
type Score = (usize, usize, u64, u64);

struct Search<'a, F> {
    members: &'a BTreeMap<NodeId, Weight>,
    /// Ascending.
    nodes: alloc::vec::Vec<NodeId>,
    partners: &'a F,
}

impl<F: Fn(NodeId, NodeSet) -> NodeSet> Search<'_, F> {
    fn best(&self, among: NodeSet) -> NodeSet {
        let mut best = (NodeSet::EMPTY, self.score(NodeSet::EMPTY));
        self.take_or_leave(0, NodeSet::EMPTY, among, &mut best);
        best.0
    }

    /// Decides about the node at `at`; `open` are those that nobody in `taken` is silent to.
    fn take_or_leave(&self, at: usize, taken: NodeSet, open: NodeSet, best: &mut (NodeSet, Score)) {
        if taken.len() + open.and(self.from(at)).len() < best.1.0 {
            return;
        }
        let Some(node) = self.nodes.get(at).copied() else {
            let score = self.score(taken);
            if score > best.1 {
                *best = (taken, score);
            }
            return;
        };
        if open.contains(node) {
            let mut with = taken;
            with.insert(node);
            let open = NodeSet(open.0 & !(self.partners)(node, open).0);
            self.take_or_leave(at + 1, with, open, best);
        }
        self.take_or_leave(at + 1, taken, open, best);
    }

    /// Those not decided about yet.
    fn from(&self, at: usize) -> NodeSet {
        self.nodes[at..].iter().copied().collect()
    }

    fn score(&self, set: NodeSet) -> Score {
        let voters = set.iter().filter(|n| self.members[n].voter).count();
        let volumes = set.iter().map(|n| u64::from(self.members[&n].volumes)).sum();
        // Read backwards, the set with the lowest id that the other lacks is the larger number.
        (set.len(), voters, volumes, set.0.reverse_bits())
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
    }
}
