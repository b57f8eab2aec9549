//! What nodes see, put together.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec;
use alloc::vec::Vec;

use oarlock_layout::id::{LockId, NodeId, SpaceId, TransactionId};
use oarlock_layout::message::trace::{Actor, LINKS_MAX, Link, Sight, Wait, WaitId};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;

/// Waits that all wait for each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Knot {
    /// All of them, ascending. The last is the youngest: the victim.
    pub waits: Vec<WaitId>,
    /// A shortest circle through the victim, which comes first.
    pub cycle: Vec<Link>,
}

impl Knot {
    /// Whose wait is to be refused.
    ///
    /// # Panics
    /// Never: a knot has waits.
    pub fn victim(&self) -> WaitId {
        *self.waits.last().expect("a knot has waits")
    }
}

/// Sights of resources, by node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Graph {
    resources: BTreeMap<(SpaceId, Name), BTreeMap<NodeId, Sight>>,
}

/// A wait, with everything that could keep it from going on.
struct Node<'a> {
    id: WaitId,
    sight: &'a Sight,
    wait: &'a Wait,
    actor: Actor,
    /// For each mode that would do, whoever holds one beside which it does not fit.
    choices: Vec<Vec<(Actor, Mode)>>,
    /// Waits that come first.
    behind: Vec<usize>,
    stuck: bool,
}

impl Graph {
    /// Nothing has been seen.
    pub fn new() -> Graph {
        Graph::default()
    }

    /// What a node sees; a later sight of the same resource takes the place of an earlier one.
    pub fn add(&mut self, node: NodeId, sight: Sight) {
        self.resources.entry((sight.space, sight.name.clone())).or_default().insert(node, sight);
    }

    /// How many sights there are.
    pub fn len(&self) -> usize {
        self.resources.values().map(BTreeMap::len).sum()
    }

    /// Has nobody seen anything?
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// Resources on which somebody waits whom programs of other nodes may keep waiting.
    pub fn open(&self) -> impl Iterator<Item = &(SpaceId, Name)> {
        let waits = |sight: &Sight| !sight.alone && !sight.waits.is_empty();
        self.resources
            .iter()
            .filter(move |(_, nodes)| nodes.values().any(waits))
            .map(|(resource, _)| resource)
    }

    /// Transactions that hold something: they may wait anywhere.
    pub fn transactions(&self) -> BTreeSet<TransactionId> {
        let holds = self.resources.values().flat_map(BTreeMap::values).flat_map(|sight| &sight.holds);
        holds.map(|hold| hold.transaction).filter(|transaction| transaction.0 != 0).collect()
    }

    /// Waits that cannot go on, whatever everybody else does: those of knots, and those behind them.
    pub fn stuck(&self) -> BTreeSet<WaitId> {
        let mut nodes = self.nodes();
        settle(&mut nodes);
        nodes.iter().filter(|node| node.stuck).map(|node| node.id).collect()
    }

    /// The knots in it, by victim.
    pub fn knots(&self) -> Vec<Knot> {
        let mut nodes = self.nodes();
        settle(&mut nodes);
        let edges = edges(&nodes);
        let mut knots: Vec<Knot> = components(&edges)
            .into_iter()
            .filter(|part| part.len() > 1 || edges[part[0]].contains_key(&part[0]))
            .map(|part| knot(&nodes, &edges, &part))
            .collect();
        knots.sort_by_key(Knot::victim);
        knots
    }

    fn nodes(&self) -> Vec<Node<'_>> {
        let mut nodes: Vec<Node<'_>> = Vec::new();
        for sights in self.resources.values() {
            // Where the waits of each node begin.
            let mut firsts: BTreeMap<NodeId, usize> = BTreeMap::new();
            for (node, sight) in sights {
                if !sight.waits.is_empty() {
                    firsts.insert(*node, nodes.len());
                }
                for wait in &sight.waits {
                    nodes.push(Node {
                        id: id(*node, sight.space, wait),
                        sight,
                        wait,
                        actor: actor(*node, wait),
                        choices: choices(sights, *node, wait),
                        behind: Vec::new(),
                        stuck: !wait.excused,
                    });
                }
            }
            let order = sights.values().map(|sight| &sight.order).find(|order| !order.is_empty());
            let order = order.map_or(&[][..], Vec::as_slice);
            for (node, first) in &firsts {
                for at in 0..sights[node].waits.len() {
                    let behind = behind(&nodes, &firsts, order, *node, *first, at);
                    nodes[first + at].behind = behind;
                }
            }
        }
        nodes
    }
}

fn id(node: NodeId, space: SpaceId, wait: &Wait) -> WaitId {
    WaitId { since: wait.since, node, space, lock: wait.party.lock, number: wait.number }
}

fn actor(node: NodeId, wait: &Wait) -> Actor {
    Actor::of(node, wait.party.lock, wait.party.owner, wait.party.transaction)
}

/// D4: pair by pair, because a resource that somebody holds in two modes has no mode of its own.
fn choices(sights: &BTreeMap<NodeId, Sight>, node: NodeId, wait: &Wait) -> Vec<Vec<(Actor, Mode)>> {
    let itself = |at: NodeId, lock: LockId| at == node && lock == wait.party.lock;
    let against = |mode: Mode| {
        let holds = sights.iter().flat_map(|(at, sight)| sight.holds.iter().map(move |hold| (*at, hold)));
        holds
            .filter(|(at, hold)| !itself(*at, hold.lock) && !hold.mode.compatible(mode))
            .map(|(at, hold)| (Actor::of(at, hold.lock, hold.owner, hold.transaction), hold.mode))
            .collect()
    };
    [Some(wait.wanted), wait.alternate].into_iter().flatten().map(against).collect()
}

/// D3: whoever must be granted first. In strict order that is everybody before it; where entries pass each other, the first,
/// with whose grant the others are looked at (C10). Of another node's waits the first speaks for all, unless it is a question that
/// stands in the master's queue for that node: that is answered soon, and then the node stands behind.
fn behind(
    nodes: &[Node<'_>],
    firsts: &BTreeMap<NodeId, usize>,
    order: &[NodeId],
    node: NodeId,
    first: usize,
    at: usize,
) -> Vec<usize> {
    let this = &nodes[first + at];
    let passover = this.sight.passover || this.wait.passes;
    if at > 0 {
        return if passover { vec![first] } else { (first..first + at).collect() };
    }
    let before = match (order.iter().position(|other| *other == node), passover) {
        (Some(place), false) => &order[..place],
        (Some(place), true) => &order[..place.min(1)],
        (None, _) if this.wait.held_back => &order[..order.len().min(1)],
        (None, _) => &[],
    };
    let firsts = before.iter().filter_map(|other| firsts.get(other)).copied();
    firsts.filter(|other| !nodes[*other].sight.asks).collect()
}

fn by_actor(nodes: &[Node<'_>]) -> BTreeMap<Actor, Vec<usize>> {
    let mut by_actor: BTreeMap<Actor, Vec<usize>> = BTreeMap::new();
    for (at, node) in nodes.iter().enumerate() {
        by_actor.entry(node.actor).or_default().push(at);
    }
    by_actor
}

/// It waits, and with all that it waits for it is stuck.
fn is_stuck(nodes: &[Node<'_>], by_actor: &BTreeMap<Actor, Vec<usize>>, actor: &Actor) -> bool {
    by_actor.get(actor).is_some_and(|waits| waits.iter().all(|at| nodes[*at].stuck))
}

/// Takes out whoever can go on, until nobody can: the largest set that is stuck by its own.
fn settle(nodes: &mut [Node<'_>]) {
    let by_actor = by_actor(nodes);
    loop {
        let free: Vec<usize> = (0..nodes.len())
            .filter(|at| {
                let node = &nodes[*at];
                let queued = node.behind.iter().any(|other| nodes[*other].stuck);
                let held = node
                    .choices
                    .iter()
                    .all(|holds| holds.iter().any(|(actor, _)| is_stuck(nodes, &by_actor, actor)));
                node.stuck && !queued && !held
            })
            .collect();
        if free.is_empty() {
            return;
        }
        free.into_iter().for_each(|at| nodes[at].stuck = false);
    }
}

/// From each stuck wait to those that it waits for: with the mode that is in its way, or none for a place in a queue.
type Edges = Vec<BTreeMap<usize, Option<Mode>>>;

fn edges(nodes: &[Node<'_>]) -> Edges {
    let by_actor = by_actor(nodes);
    let of = |node: &Node<'_>| {
        let mut edges = BTreeMap::new();
        if !node.stuck {
            return edges;
        }
        let before = node.behind.iter().filter(|other| nodes[**other].stuck);
        edges.extend(before.map(|other| (*other, None)));
        let stuck = |(actor, _): &&(Actor, Mode)| is_stuck(nodes, &by_actor, actor);
        for (actor, mode) in node.choices.iter().flatten().filter(stuck) {
            edges.extend(by_actor[actor].iter().map(|other| (*other, Some(*mode))));
        }
        edges
    };
    nodes.iter().map(of).collect()
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

fn knot(nodes: &[Node<'_>], edges: &Edges, part: &[usize]) -> Knot {
    let mut waits: Vec<WaitId> = part.iter().map(|at| nodes[*at].id).collect();
    waits.sort();
    let victim = *part.iter().max_by_key(|at| nodes[**at].id).expect("a part has a node");
    let members: BTreeSet<usize> = part.iter().copied().collect();
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
    Knot { waits, cycle }
}
