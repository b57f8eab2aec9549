//! What nodes see, put together.

use alloc::collections::btree_map::Entry;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use oarlock_layout::id::{LockId, NodeId, SpaceId, TransactionId};
use oarlock_layout::message::trace::{Actor, Hold, LINKS_MAX, Link, Sight, Wait, WaitId};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;

use crate::planted::{Bug, Planted};

/// Waits that all wait for each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Knot {
    /// All of them, ascending.
    pub waits: Vec<WaitId>,
    chosen: WaitId,
    /// A shortest circle through the victim, which comes first.
    pub cycle: Vec<Link>,
}

impl Knot {
    /// Whose wait is to be refused: the youngest of those whose actors hold what another of them waits for. One that only stands in a queue
    /// between them has nothing to give back, and to refuse it would help nobody.
    pub const fn victim(&self) -> WaitId {
        self.chosen
    }
}

/// Sights of resources, by node. In writing it is their list, each as it came.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(into = "Written", from = "Written")]
pub struct Graph {
    resources: BTreeMap<(SpaceId, Name), BTreeMap<NodeId, Sight>>,
    /// Of these it is not known for what they wait.
    left: BTreeSet<TransactionId>,
    sights: usize,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    sights: Vec<Seen>,
    left: BTreeSet<TransactionId>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Seen(NodeId, #[serde(with = "oarlock_layout::written::wire")] Sight);

impl From<Graph> for Written {
    fn from(graph: Graph) -> Written {
        let sights = graph.resources.into_values().flatten();
        let sights = sights.map(|(node, sight)| Seen(node, sight)).collect();
        Written { sights, left: graph.left }
    }
}

impl From<Written> for Graph {
    fn from(Written { sights, left }: Written) -> Graph {
        let mut graph = Graph { left, ..Graph::new() };
        sights.into_iter().for_each(|Seen(node, sight)| graph.add(node, sight));
        graph
    }
}

/// Everything that is known, with numbers instead of names.
struct Picture<'a> {
    nodes: Vec<Node<'a>>,
    /// The waits of each actor.
    actors: Vec<Vec<usize>>,
    /// Those who wait for something that is not told as well: it may come.
    partly: Vec<bool>,
    /// Locks of actors who wait, by resource.
    holds: Vec<Vec<Held>>,
    planted: Planted,
}

/// A wait.
struct Node<'a> {
    id: WaitId,
    sight: &'a Sight,
    wait: &'a Wait,
    resource: usize,
    /// Waits of its own node that come first.
    local: Range<usize>,
    /// First waits of other nodes that come first.
    remote: Vec<usize>,
    stuck: bool,
}

struct Held {
    node: NodeId,
    lock: LockId,
    actor: usize,
    mode: Mode,
}

impl Node<'_> {
    fn behind(&self) -> impl Iterator<Item = usize> + '_ {
        self.local.clone().chain(self.remote.iter().copied())
    }

    fn choices(&self) -> impl Iterator<Item = Mode> + use<> {
        [Some(self.wait.wanted), self.wait.alternate].into_iter().flatten()
    }

    fn is(&self, held: &Held) -> bool {
        held.node == self.id.node && held.lock == self.id.lock
    }
}

/// In strict order everybody before keeps a wait waiting. It is enough to look at so many, and at one who is stuck if anybody is:
/// whoever is behind somebody who is stuck is stuck as well. More of them make shorter circles to show.
const NEAR: usize = 16;

impl Graph {
    /// Nothing has been seen.
    pub fn new() -> Graph {
        Graph::default()
    }

    /// What a node sees. Of two sights of a resource the later one says who holds it; each tells only of those who wait that it was asked
    /// about, so whoever stands in either waits.
    pub fn add(&mut self, node: NodeId, mut sight: Sight) {
        let nodes = self.resources.entry((sight.space, sight.name.clone())).or_default();
        match nodes.entry(node) {
            Entry::Vacant(place) => {
                self.sights += 1;
                place.insert(sight);
            }
            Entry::Occupied(mut place) => {
                let told: BTreeSet<LockId> = sight.waits.iter().map(|wait| wait.party.lock).collect();
                let before = core::mem::take(&mut place.get_mut().waits);
                sight.waits.extend(before.into_iter().filter(|wait| !told.contains(&wait.party.lock)));
                sight.waits.sort_by_key(Wait::place);
                place.insert(sight);
            }
        }
    }

    /// For what these wait is not known: each of them may go on.
    pub fn leave(&mut self, transactions: impl IntoIterator<Item = TransactionId>) {
        self.left.extend(transactions);
    }

    /// Is somebody stuck though for what these wait is not known either?
    pub(crate) fn is_tied_without(
        &mut self,
        planted: Planted,
        transactions: impl IntoIterator<Item = TransactionId>,
    ) -> bool {
        let left = self.left.clone();
        self.leave(transactions);
        let tied = !self.knots_with(planted).is_empty();
        self.left = left;
        tied
    }

    /// How many sights there are.
    pub const fn len(&self) -> usize {
        self.sights
    }

    /// Has nobody seen anything?
    pub const fn is_empty(&self) -> bool {
        self.sights == 0
    }

    /// Waits that cannot go on, whatever everybody else does: those of knots, and those behind them.
    pub fn stuck(&self) -> BTreeSet<WaitId> {
        self.stuck_with(Planted::default())
    }

    pub(crate) fn stuck_with(&self, planted: Planted) -> BTreeSet<WaitId> {
        let mut picture = self.picture(planted);
        picture.settle();
        picture.nodes.iter().filter(|node| node.stuck).map(|node| node.id).collect()
    }

    /// The knots in it, by victim.
    pub fn knots(&self) -> Vec<Knot> {
        self.knots_with(Planted::default())
    }

    pub(crate) fn knots_with(&self, planted: Planted) -> Vec<Knot> {
        self.knots_among(planted, None)
    }

    /// The knots of those that are stuck among these waits: whoever is no such wait is taken for one who can go on.
    pub(crate) fn knots_among(&self, planted: Planted, among: Option<&BTreeSet<WaitId>>) -> Vec<Knot> {
        let mut picture = self.picture(planted);
        if let Some(among) = among {
            picture
                .nodes
                .iter_mut()
                .filter(|node| !among.contains(&node.id))
                .for_each(|node| node.stuck = false);
        }
        picture.settle();
        if picture.nodes.iter().all(|node| !node.stuck) {
            return Vec::new();
        }
        let edges = picture.edges();
        let mut knots: Vec<Knot> = components(&edges)
            .into_iter()
            .filter(|part| part.len() > 1 || edges[part[0]].contains_key(&part[0]))
            .map(|part| picture.knot(&edges, &part))
            .collect();
        knots.sort_by_key(Knot::victim);
        knots
    }

    fn picture(&self, planted: Planted) -> Picture<'_> {
        let mut picture =
            Picture { nodes: Vec::new(), actors: Vec::new(), partly: Vec::new(), holds: Vec::new(), planted };
        let mut numbers: BTreeMap<Actor, usize> = BTreeMap::new();
        // How many waits of an actor are told by a node, and how many there are at that node.
        let mut told: BTreeMap<(usize, NodeId), (u32, u32)> = BTreeMap::new();
        for (resource, sights) in self.resources.values().enumerate() {
            // Where the waits of each node begin.
            let mut firsts: BTreeMap<NodeId, usize> = BTreeMap::new();
            for (node, sight) in sights {
                let first = picture.nodes.len();
                if !sight.waits.is_empty() {
                    firsts.insert(*node, first);
                }
                // The last one of whom it is said that he is stuck, as long as it is not known better.
                let mut last = first;
                for (at, wait) in sight.waits.iter().enumerate() {
                    let of = Actor::of(*node, wait.party.lock, wait.party.owner, wait.party.transaction);
                    let next = numbers.len();
                    let actor = *numbers.entry(of).or_insert(next);
                    if actor == next {
                        picture.actors.push(Vec::new());
                        let left = matches!(of, Actor::Transaction(it) if self.left.contains(&it));
                        picture.partly.push(left);
                    }
                    picture.actors[actor].push(first + at);
                    let (count, all) = told.entry((actor, *node)).or_default();
                    (*count, *all) = (*count + 1, wait.of.max(*all));
                    let local = match at {
                        _ if planted.has(Bug::NoPlaces) => first..first,
                        0 => first..first,
                        _ if sight.passover || wait.passes => first..first + 1,
                        at => last.min((first + at).saturating_sub(NEAR).max(first))..first + at,
                    };
                    let counts = !wait.excused || planted.has(Bug::ExcusedCounted);
                    // Whoever passes the queue is not stuck because of whom it passes: it stands for nobody before it.
                    if counts && !wait.passes {
                        last = first + at;
                    }
                    let (remote, stuck) = (Vec::new(), counts);
                    let id = id(*node, sight.space, wait);
                    picture.nodes.push(Node { id, sight, wait, resource, local, remote, stuck });
                }
            }
            let order = sights.values().map(|sight| &sight.order).find(|order| !order.is_empty());
            let order = order.map_or(&[][..], Vec::as_slice);
            for (node, first) in firsts.iter().filter(|_| !planted.has(Bug::NoPlaces)) {
                let remote = before(&picture.nodes, &firsts, order, *node, *first);
                picture.nodes[*first].remote = remote;
            }
        }
        for ((actor, _), (count, all)) in told {
            picture.partly[actor] |= count < all && !planted.has(Bug::CutCounted);
        }
        for sights in self.resources.values() {
            let held = |(node, sight): (&NodeId, &'_ Sight)| {
                let node = *node;
                let of = |hold: &Hold| Actor::of(node, hold.lock, hold.owner, hold.transaction);
                let waits = sight.holds.iter().filter_map(|hold| Some((hold, *numbers.get(&of(hold))?)));
                waits
                    .map(|(hold, actor)| Held { node, lock: hold.lock, actor, mode: hold.mode })
                    .collect::<Vec<_>>()
            };
            picture.holds.push(sights.iter().flat_map(held).collect());
        }
        picture
    }
}

fn id(node: NodeId, space: SpaceId, wait: &Wait) -> WaitId {
    WaitId { since: wait.since, node, space, lock: wait.party.lock, number: wait.number }
}

/// D3: whoever of other nodes must be granted first. In strict order that is everybody before it in the master's queue; where entries pass
/// each other, the first, with whose grant the others are looked at (C10). Of a node's waits the first speaks for all, unless it is a
/// question that stands in the queue for that node: that is answered soon, and then the node stands behind.
fn before(
    nodes: &[Node<'_>],
    firsts: &BTreeMap<NodeId, usize>,
    order: &[NodeId],
    node: NodeId,
    first: usize,
) -> Vec<usize> {
    let this = &nodes[first];
    let passover = this.sight.passover || this.wait.passes;
    let before = match (order.iter().position(|other| *other == node), passover) {
        (Some(place), false) => &order[..place],
        (Some(place), true) => &order[..place.min(1)],
        (None, _) if this.wait.held_back => &order[..order.len().min(1)],
        (None, _) => &[],
    };
    let firsts = before.iter().filter_map(|other| firsts.get(other)).copied();
    firsts.filter(|other| !nodes[*other].sight.asks).collect()
}

/// From each stuck wait to those that it waits for: with the mode that is in its way, or none for a place in a queue.
type Edges = Vec<BTreeMap<usize, Option<Mode>>>;

/// Of the locks on a resource that conflict with a mode and whose actors are stuck: none, one, or several.
#[derive(Clone, Copy)]
enum Way<'a> {
    Free,
    One(&'a Held),
    Several,
}

impl Picture<'_> {
    /// Takes out whoever can go on, until nobody can: the largest set that is stuck by its own.
    fn settle(&mut self) {
        loop {
            let stuck = self.stuck_actors();
            let ways: Vec<[Way<'_>; 6]> = self.holds.iter().map(|holds| ways(holds, &stuck)).collect();
            let mut free = Vec::new();
            let mut may_be = vec![true; self.nodes.len()];
            for (at, node) in self.nodes.iter().enumerate() {
                may_be[at] = node.stuck
                    && (node.behind().any(|other| {
                        // Whoever stands before it in its own queue has been looked at already.
                        self.nodes[other].stuck && (other > at || may_be[other])
                    }) || node.choices().all(|mode| match ways[node.resource][mode as usize] {
                        Way::Free => false,
                        Way::One(held) => !node.is(held),
                        Way::Several => true,
                    }));
                if node.stuck && !may_be[at] {
                    free.push(at);
                }
            }
            if free.is_empty() {
                return;
            }
            free.into_iter().for_each(|at| self.nodes[at].stuck = false);
        }
    }

    /// An actor is stuck that waits, and with all that it waits for.
    fn stuck_actors(&self) -> Vec<bool> {
        let any = self.planted.has(Bug::AnyWait);
        let stuck = |(waits, partly): (&Vec<usize>, &bool)| {
            let mut each = waits.iter().map(|at| self.nodes[*at].stuck);
            let stuck = if any { each.any(|stuck| stuck) } else { each.all(|stuck| stuck) };
            !waits.is_empty() && !partly && stuck
        };
        self.actors.iter().zip(&self.partly).map(stuck).collect()
    }

    fn edges(&self) -> Edges {
        let stuck = self.stuck_actors();
        let of = |node: &Node<'_>| {
            let mut edges = BTreeMap::new();
            if !node.stuck {
                return edges;
            }
            edges.extend(node.behind().filter(|other| self.nodes[*other].stuck).map(|other| (other, None)));
            let in_way = |held: &&Held| {
                stuck[held.actor] && !node.is(held) && node.choices().any(|mode| !held.mode.compatible(mode))
            };
            for held in self.holds[node.resource].iter().filter(in_way) {
                edges.extend(self.actors[held.actor].iter().map(|other| (*other, Some(held.mode))));
            }
            edges
        };
        self.nodes.iter().map(of).collect()
    }

    fn knot(&self, edges: &Edges, part: &[usize]) -> Knot {
        let nodes = &self.nodes;
        let mut waits: Vec<WaitId> = part.iter().map(|at| nodes[*at].id).collect();
        waits.sort();
        let members: BTreeSet<usize> = part.iter().copied().collect();
        let inside = part.iter().flat_map(|at| &edges[*at]);
        let held: BTreeSet<usize> =
            inside.filter(|(to, mode)| mode.is_some() && members.contains(to)).map(|(to, _)| *to).collect();
        let victim = *held.iter().max_by_key(|at| nodes[**at].id).expect("somebody in a circle holds");
        // Breadth first, back to where it began.
        let mut came: BTreeMap<usize, usize> = BTreeMap::new();
        let mut queue = VecDeque::from([victim]);
        while let Some(at) = queue.pop_front().filter(|_| !came.contains_key(&victim)) {
            for next in edges[at].keys().filter(|next| members.contains(next)) {
                if !came.contains_key(next) {
                    came.insert(*next, at);
                    queue.push_back(*next);
                }
            }
        }
        let mut path = vec![victim];
        let mut at = came[&victim];
        while at != victim {
            path.push(at);
            at = came[&at];
        }
        path[1..].reverse();
        let link = |(index, at): (usize, &usize)| {
            let node = &nodes[*at];
            Link {
                node: node.id.node,
                space: node.sight.space,
                name: node.sight.name.clone(),
                party: node.wait.party.clone(),
                wanted: node.wait.wanted,
                held: node.wait.held,
                behind: edges[*at][&path[(index + 1) % path.len()]],
            }
        };
        let cycle = path.iter().enumerate().map(link).take(LINKS_MAX).collect();
        Knot { waits, chosen: nodes[victim].id, cycle }
    }
}

/// D4: by mode, because a resource that somebody holds in two modes has no mode of its own.
fn ways<'a>(holds: &'a [Held], stuck: &[bool]) -> [Way<'a>; 6] {
    let mut ways = [Way::Free; 6];
    for held in holds.iter().filter(|held| stuck[held.actor]) {
        for mode in Mode::ALL.into_iter().filter(|mode| !held.mode.compatible(*mode)) {
            let way = &mut ways[mode as usize];
            *way = match way {
                Way::Free => Way::One(held),
                Way::One(_) | Way::Several => Way::Several,
            };
        }
    }
    ways
}

/// The strongly connected parts, by the way of Kosaraju and Sharir (Sharir 1981): in the order in which a first walk leaves the nodes for the
/// last time, backwards, a second walk against the edges finds one part after the other.
fn components(edges: &Edges) -> Vec<Vec<usize>> {
    let mut against: Vec<Vec<usize>> = vec![Vec::new(); edges.len()];
    for (from, next) in edges.iter().enumerate() {
        next.keys().for_each(|to| against[*to].push(from));
    }
    let mut left = Vec::with_capacity(edges.len());
    let mut seen = vec![false; edges.len()];
    for root in 0..edges.len() {
        if core::mem::replace(&mut seen[root], true) {
            continue;
        }
        let mut path = vec![(root, edges[root].keys())];
        while let Some((at, next)) = path.last_mut() {
            match next.find(|to| !seen[**to]) {
                Some(to) => {
                    seen[*to] = true;
                    path.push((*to, edges[*to].keys()));
                }
                None => {
                    left.push(*at);
                    path.pop();
                }
            }
        }
    }
    let mut parts = Vec::new();
    for root in left.into_iter().rev() {
        if !core::mem::replace(&mut seen[root], false) {
            continue;
        }
        let (mut part, mut open) = (Vec::new(), vec![root]);
        while let Some(at) = open.pop() {
            part.push(at);
            open.extend(against[at].iter().copied().filter(|to| core::mem::replace(&mut seen[*to], false)));
        }
        parts.push(part);
    }
    parts
}
