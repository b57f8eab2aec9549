//! Views that change: nodes die, join and come back as other runs, and each living node enters each view at its own time.
//!
//! ```text
//!   Decide ──► who is not in it is dead; what is under way from it may still arrive at whoever has not entered
//!   Enter  ──► at each member, in any order; then the real barriers (`oarlock_cluster::Recovery`), whose messages stand
//!              in line with those of the lock room
//! ```
//!
//! Mail of an earlier view than that of its receiver has no effect, so it is delivered as soon as it is its turn: whoever would
//! give it one is found all the same.
//!
//! The lease of whoever is put out is over and its fences are up when the view is decided. In a plan with fences they are up when the
//! first member learns of it, each at its own time. Until then nobody may own what does not go beside all that the departed run
//! owned, or was about to be granted (L4).

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use oarlock_cluster::recovery::{Output, Recovery};
use oarlock_layout::directory;
use oarlock_layout::id::{Epoch, Incarnation, NodeId, SpaceId};
use oarlock_layout::message::barrier::{self, Barrier};
use oarlock_layout::message::lock::{Body, Packet};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::view::{Member, View};

use super::menu::Menu;
use super::show::letter;
use super::world::{Checked, Doing, Fault, NOW, Node, Step, World};

/// What happens to the membership, in order.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Members of the first view.
    pub(crate) first: Vec<usize>,
    pub(crate) changes: Vec<Change>,
    /// Which node masters the resource in each view, the first one included.
    pub(crate) masters: Vec<usize>,
    /// Between what a node has to hand over and what its shadow states anything may happen.
    pub(crate) pieces: bool,
    /// Members learn of the fences of the dead at any time.
    pub(crate) fences: bool,
    /// What members say of barriers is heard as soon as it is its turn. Four members pass them in too many ways otherwise.
    pub(crate) brisk: bool,
}

/// From one view to the next. A node that is in both lists comes back as another run.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) out: Vec<usize>,
    pub(crate) join: Vec<usize>,
}

/// What travels from node to node, in one order.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Mail {
    Lock(Packet),
    Barrier(Barrier),
}

/// The views of a plan and how far everybody is.
#[derive(Clone)]
pub(crate) struct Views {
    fixed: Arc<Fixed>,
    /// Place of the newest view that is decided.
    pub(crate) decided: usize,
    pub(crate) standing: Vec<Standing>,
    pub(crate) remains: Vec<Remains>,
}

/// What a run that left can act under.
#[derive(Clone, Hash)]
pub(crate) struct Remains {
    pub(crate) run: Member,
    pub(crate) modes: Vec<Mode>,
    /// Its master took it for the owner of this.
    believed: Option<Mode>,
    /// Until its fences are up.
    pub(crate) fenced: bool,
}

/// What never changes.
struct Fixed {
    views: Vec<View>,
    masters: Vec<usize>,
    /// Nodes as they are when they begin.
    fresh: Vec<Node>,
    pieces: bool,
    fences: bool,
    brisk: bool,
}

/// How far one node is.
#[derive(Clone, Hash)]
pub(crate) struct Standing {
    /// The run that was last there.
    run: Incarnation,
    pub(crate) alive: bool,
    recovery: Recovery,
    /// It has more to restate.
    restating: bool,
    /// It does not know yet that the fences of these are up.
    pending: BTreeSet<Member>,
    /// Runs that left of which it will hear with the view without them, or before.
    owing: BTreeSet<Member>,
}

impl Hash for Views {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.decided, &self.standing, &self.remains).hash(state);
    }
}

impl Plan {
    /// These members, and this one as master.
    pub(crate) fn of(first: &[usize], master: usize) -> Plan {
        Plan {
            first: first.to_vec(),
            changes: Vec::new(),
            masters: vec![master],
            pieces: false,
            fences: false,
            brisk: false,
        }
    }

    /// Then these go and those come, and this one is master.
    pub(crate) fn then(mut self, out: &[usize], join: &[usize], master: usize) -> Plan {
        self.changes.push(Change { out: out.to_vec(), join: join.to_vec() });
        self.masters.push(master);
        self
    }

    pub(crate) fn in_pieces(mut self) -> Plan {
        self.pieces = true;
        self
    }

    pub(crate) fn briskly(mut self) -> Plan {
        self.brisk = true;
        self
    }

    pub(crate) fn with_fences(mut self) -> Plan {
        self.fences = true;
        self
    }

    fn views(&self) -> Vec<View> {
        let member = |node: usize, run| Member { node: NodeId(node as u16), incarnation: Incarnation(run) };
        let mut members: Vec<Member> = self.first.iter().map(|node| member(*node, 1)).collect();
        let mut views = vec![View { epoch: Epoch(1), members: members.clone() }];
        for (Change { out, join }, epoch) in self.changes.iter().zip(2..) {
            members.retain(|m| !out.contains(&usize::from(m.node.0)));
            members.extend(join.iter().map(|node| member(*node, epoch)));
            members.sort_unstable();
            views.push(View { epoch: Epoch(epoch as u32), members: members.clone() });
        }
        views
    }
}

impl Views {
    pub(crate) fn newest(&self) -> &View {
        &self.fixed.views[self.decided]
    }

    pub(crate) fn master(&self) -> usize {
        self.fixed.masters[self.decided]
    }

    /// The master in the view with this epoch.
    pub(crate) fn master_in(&self, epoch: Epoch) -> usize {
        self.fixed.masters[epoch.0 as usize - 1]
    }

    /// The run of a node that lives.
    pub(crate) fn run(&self, node: usize) -> Option<Incarnation> {
        let standing = &self.standing[node];
        standing.alive.then_some(standing.run)
    }

    /// Has this node a view to work in?
    pub(crate) fn serves(&self, node: usize) -> bool {
        self.standing[node].alive && self.view_of(node).is_some()
    }

    /// The view that is valid at a node.
    pub(crate) fn view_of(&self, node: usize) -> Option<&View> {
        let epoch = self.standing[node].recovery.epoch().0 as usize;
        epoch.checked_sub(1).map(|place| &self.fixed.views[place])
    }

    /// Is the run that this node's view names at the other end of its circuit?
    pub(crate) fn reaches(&self, from: usize, to: usize) -> bool {
        let named = self.view_of(from).and_then(|view| view.member(NodeId(to as u16)));
        named.map(|member| member.incarnation) == self.run(to)
    }

    fn is_behind(&self, node: usize) -> bool {
        self.standing[node].alive && self.standing[node].recovery.epoch() < self.newest().epoch
    }

    /// May a run that left, and of which not everybody knows that it is fenced, act under what does not go beside this? Once the master of the
    /// resource has left, or a view came before the one before was open everywhere, nobody knows.
    pub(crate) fn departed_may_use(&self, mode: Mode) -> bool {
        let master = &self.standing[self.master()];
        let known = self.decided == 1 && self.fixed.masters[0] == self.fixed.masters[1];
        let conflicts = |it: &Remains| it.modes.iter().chain(&it.believed).any(|it| !it.compatible(mode));
        self.remains.iter().any(|it| master.pending.contains(&it.run) && (!known || conflicts(it)))
    }

    /// Everybody is in the newest view, and it is open.
    pub(crate) fn settled(&self) -> bool {
        let open = |node: usize| self.standing[node].recovery.is_open() && !self.is_behind(node);
        (0..self.standing.len()).filter(|node| self.standing[*node].alive).all(open)
    }

    /// Was this node master of the resource in a view that some living node is still in, or is it in the newest?
    fn may_have_mastered(&self, node: usize) -> bool {
        let oldest = (0..self.standing.len())
            .filter(|node| self.standing[*node].alive)
            .filter_map(|node| self.view_of(node))
            .map(|view| view.epoch.0 as usize - 1)
            .min();
        self.fixed.masters[oldest.unwrap_or(self.decided)..=self.decided].contains(&node)
    }

    pub(crate) fn steps(&self, out: &mut Vec<Step>) {
        let nodes = 0..self.standing.len();
        out.extend(nodes.clone().filter(|n| self.standing[*n].restating).map(|node| Step::Restate { node }));
        out.extend(
            nodes.clone().filter(|n| !self.standing[*n].pending.is_empty()).map(|node| Step::Fenced { node }),
        );
        out.extend(nodes.filter(|n| self.is_behind(*n)).map(|node| Step::Enter { node }));
        if self.decided + 1 < self.fixed.views.len() {
            out.push(Step::Decide);
        }
    }
}

impl World {
    /// The first view of a plan, open everywhere.
    pub(crate) fn begin(&mut self, menu: &Menu, plan: &Plan) {
        let views = plan.views();
        self.resource = (0..u32::MAX)
            .map(|i| Name::new(&i.to_le_bytes()[..3]).unwrap())
            .find(|name| {
                let master = |view: &View| {
                    directory::master(SpaceId(0), name.as_bytes(), view.nodes()).map(|n| n.0.into())
                };
                views.iter().zip(&plan.masters).all(|(view, wished)| master(view) == Some(*wished))
            })
            .expect("a name with these masters");
        let first = &views[0];
        let standing = (0..menu.nodes)
            .map(|n| {
                let alive = first.member(NodeId(n)).is_some();
                let mut recovery = Recovery::new(NodeId(n));
                if alive {
                    recovery.handle_view(NOW, first, false);
                    pass(&mut recovery, first, n, barrier::Step::Arrived);
                    recovery.handle_restated(NOW);
                    pass(
                        &mut recovery,
                        first,
                        n,
                        barrier::Step::Restated { departed: false, unsettled: false },
                    );
                    while recovery.poll_output().is_some() {}
                    let node = &mut self.nodes[usize::from(n)];
                    node.space.found(NOW, &mut node.words, first);
                }
                Standing {
                    run: Incarnation(1),
                    alive,
                    recovery,
                    restating: false,
                    pending: BTreeSet::new(),
                    owing: BTreeSet::new(),
                }
            })
            .collect();
        let fixed = Fixed {
            masters: plan.masters.clone(),
            fresh: (0..menu.nodes).map(|n| Node::new(n, menu)).collect(),
            pieces: plan.pieces,
            fences: plan.fences,
            brisk: plan.brisk,
            views,
        };
        self.views =
            Some(Box::new(Views { fixed: Arc::new(fixed), decided: 0, standing, remains: Vec::new() }));
    }

    fn views_mut(&mut self) -> &mut Views {
        self.views.as_mut().expect("views change")
    }

    pub(crate) fn apply_view(&mut self, step: Step) -> Result<bool, Fault> {
        let Some(views) = &self.views else { return Ok(false) };
        self.steps = 0;
        match step {
            Step::Decide if views.decided + 1 < views.fixed.views.len() => self.decide(),
            Step::Enter { node } if views.is_behind(node) => self.enter(node)?,
            Step::Restate { node } if views.standing[node].restating => self.restate(node)?,
            Step::Fenced { node } if !views.standing[node].pending.is_empty() => {
                let views = self.views.as_mut().expect("views change");
                let standing = &mut views.standing[node];
                let proven = std::mem::take(&mut standing.pending);
                let up = views.remains.iter_mut().filter(|it| proven.contains(&it.run));
                up.for_each(|it| it.fenced = true);
                standing.recovery.handle_fences(NOW, &standing.pending);
                let at = &mut self.nodes[node];
                at.space.handle_departed(NOW, &mut at.words, standing.recovery.known());
                self.pump(node)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn decide(&mut self) {
        let views = self.views_mut();
        let old = views.newest().clone();
        views.decided += 1;
        let new = views.newest().clone();
        let left = |m: &&Member| new.member(m.node) != Some(*m);
        for member in old.members.iter().filter(left) {
            self.leave_remains(*member);
            self.die(usize::from(member.node.0));
        }
        for member in new.members.iter().filter(|m| old.member(m.node) != Some(*m)) {
            self.join(usize::from(member.node.0), member.incarnation);
        }
        self.say(|| format!("view {:?}: {:?}", new.epoch, new.nodes().collect::<Vec<_>>()));
    }

    /// What a run that leaves can act under, now and when what is on its way to it has come.
    fn leave_remains(&mut self, run: Member) {
        let (nodes, node) = (self.nodes.len(), usize::from(run.node.0));
        let Node { space, words, .. } = &self.nodes[node];
        let owned = space.probe_shadow(words, &self.resource).and_then(|shadow| shadow.owned());
        let granted = |mail: &Mail| match mail {
            Mail::Lock(Packet { body: Body::Grant(grant), .. }) => Some(grant.mode),
            Mail::Lock(_) | Mail::Barrier(_) => None,
        };
        let under_way = (0..nodes).flat_map(|other| &self.channels[other * nodes + node]).filter_map(granted);
        let modes = owned.into_iter().chain(under_way).collect();
        let masters = self.nodes.iter().filter_map(|n| n.space.probe_master(&self.resource));
        let believed = masters.filter_map(|m| m.record(run.node)?.held()).reduce(Mode::join);
        let views = self.views_mut();
        if views.fixed.fences {
            views.remains.push(Remains { run, modes, believed, fenced: false });
            for standing in views.standing.iter_mut().filter(|it| it.alive) {
                standing.owing.insert(run);
            }
        }
    }

    /// Something is said to a run that has left, by somebody who has not heard of it.
    pub(crate) fn said_to_departed(&mut self, from: usize, to: usize, packet: &Packet) {
        let Body::Grant(grant) = &packet.body else { return };
        let Some(views) = &mut self.views else { return };
        let named = views.view_of(from).and_then(|view| view.member(NodeId(to as u16))).copied();
        for it in views.remains.iter_mut().filter(|it| Some(it.run) == named) {
            it.modes.push(grant.mode);
        }
    }

    /// A node is dead: its programs with it, and what was under way to it. What it sent may still arrive.
    fn die(&mut self, node: usize) {
        self.doubt(node);
        let nodes = self.nodes.len();
        for other in 0..nodes {
            self.channels[other * nodes + node].clear();
        }
        for program in (0..self.programs.len()).filter(|p| self.programs[*p].home == node).collect::<Vec<_>>()
        {
            self.programs[program].doing = Doing::Nothing;
            self.ghost.ended(program);
        }
        let views = self.views.as_mut().expect("views change");
        self.nodes[node] = views.fixed.fresh[node].clone();
        let standing = &mut views.standing[node];
        standing.recovery = Recovery::new(NodeId(node as u16));
        (standing.alive, standing.restating) = (false, false);
        standing.pending.clear();
        standing.owing.clear();
    }

    /// Another run of a node begins, with new circuits to all.
    fn join(&mut self, node: usize, run: Incarnation) {
        let nodes = self.nodes.len();
        for other in 0..nodes {
            self.channels[node * nodes + other].clear();
        }
        let standing = &mut self.views_mut().standing;
        (standing[node].run, standing[node].alive) = (run, true);
        let unproven = self.views_mut().remains.iter().filter(|it| !it.fenced).map(|it| it.run).collect();
        let standing = &mut self.views_mut().standing;
        standing[node].owing = unproven;
        for other in (0..nodes).filter(|other| *other != node) {
            standing[other].recovery.handle_up(NodeId(node as u16), run);
        }
    }

    fn enter(&mut self, node: usize) -> Checked {
        let views = self.views.as_mut().expect("views change");
        let view = views.newest().clone();
        let standing = &mut views.standing[node];
        standing.pending.append(&mut standing.owing);
        let at = &mut self.nodes[node];
        standing.recovery.handle_fences(NOW, &standing.pending);
        at.space.handle_departed(NOW, &mut at.words, standing.recovery.known());
        let departed = at.space.handle_view(&view);
        standing.restating = false;
        standing.recovery.handle_view(NOW, &view, departed);
        let nodes = self.nodes.len();
        // Circuits to runs that are not in the view are shut.
        for other in (0..nodes).filter(|other| view.member(NodeId(*other as u16)).is_none()) {
            self.channels[other * nodes + node].clear();
        }
        let homes: Vec<bool> = self.programs.iter().map(|p| p.home == node).collect();
        self.ghost.entered(&homes);
        self.pump(node)
    }

    fn restate(&mut self, node: usize) -> Checked {
        let budget = if self.views_mut().fixed.pieces { 1 } else { u32::MAX };
        let at = &mut self.nodes[node];
        let more = at.space.restate(NOW, &mut at.words, budget);
        self.collect(node)?;
        if !more {
            let standing = &mut self.views_mut().standing[node];
            standing.restating = false;
            standing.recovery.handle_restated(NOW);
            self.pump(node)?;
        }
        Ok(())
    }

    /// Delivers what can make no difference later.
    pub(crate) fn hasten(&mut self) -> Checked {
        let nodes = self.nodes.len();
        let mut index = 0;
        while index < self.channels.len() {
            let (from, to) = (index / nodes, index % nodes);
            let views = self.views.as_ref().expect("views change");
            let epoch = views.standing[to].recovery.epoch();
            let hasty = self.channels[index].front().is_some_and(|mail| match mail {
                Mail::Lock(packet) => packet.epoch < epoch,
                Mail::Barrier(barrier) => barrier.epoch < epoch || views.fixed.brisk,
            });
            if hasty {
                self.deliver(from, to, None)?;
                self.collect(to)?;
                index = 0;
            } else {
                index += 1;
            }
        }
        Ok(())
    }

    /// A peer says how far it is.
    pub(crate) fn hear(&mut self, from: usize, to: usize, barrier: Barrier) -> Checked {
        let standing = &mut self.views_mut().standing;
        let run = standing[from].run;
        let heard = standing[to].recovery.handle_barrier(NOW, NodeId(from as u16), run, barrier);
        heard.map_err(|e| Fault(format!("{} says that {} misbehaves: {e}", letter(to), letter(from))))?;
        self.pump(to)
    }

    /// Carries out what the barriers ask for.
    fn pump(&mut self, node: usize) -> Checked {
        let nodes = self.nodes.len();
        while let Some(output) = self.views_mut().standing[node].recovery.poll_output() {
            match output {
                Output::Say { to, barrier } => {
                    let to = usize::from(to.0);
                    self.say(|| format!("{}>{} {:?}", letter(node), letter(to), barrier.step));
                    if self.views_mut().reaches(node, to) {
                        self.channels[node * nodes + to].push_back(Mail::Barrier(barrier));
                    }
                }
                Output::Restate => {
                    self.views_mut().standing[node].restating = true;
                    if !self.views_mut().fixed.pieces {
                        self.restate(node)?;
                    }
                }
                Output::Open { departed } => {
                    self.say(|| format!("{} opens, departed {departed}", letter(node)));
                    let at = &mut self.nodes[node];
                    let known = self.views.as_ref().expect("views change").standing[node].recovery.known();
                    at.space.handle_departed(NOW, &mut at.words, known);
                    at.space.handle_open(NOW, &mut at.words, departed);
                    self.collect(node)?;
                    if self.views_mut().settled() {
                        self.ghost.settled();
                    }
                }
                Output::Passed(_) => {}
            }
        }
        self.collect(node)
    }

    /// What the death of a node may have done to the block, and must have (R5 b, c; 42 to 44).
    fn doubt(&mut self, node: usize) {
        let views = self.views.as_ref().expect("views change");
        let writes = |held: Option<oarlock_layout::mode::Mode>| held.is_some_and(|held| held.writes_value());
        let shadow = |node: usize| {
            let Node { space, words, .. } = &self.nodes[node];
            space.probe_shadow(words, &self.resource)
        };
        let owned = writes(shadow(node).and_then(|s| s.owned()));
        let mut masters = self.nodes.iter().filter_map(|n| n.space.probe_master(&self.resource));
        let believed = masters.any(|m| m.record(NodeId(node as u16)).is_some_and(|r| writes(r.held())));
        let unclear = believed || !views.settled() || views.may_have_mastered(node);
        // Of what the survivors know nobody may serve less.
        let copies = (0..self.nodes.len()).filter(|other| *other != node).filter_map(|other| {
            // Whoever gives its record up takes its copy along.
            let owns = shadow(other).is_some_and(|s| s.owned().is_some() && !s.forgetting());
            let slot = self.slot(other).filter(|_| owns)?;
            Some(oarlock_layout::segment::Words::value(&self.nodes[other].words, slot).bytes[0])
        });
        let known = copies.max().unwrap_or(0);
        let survivors: Vec<bool> = self.programs.iter().map(|p| p.home != node).collect();
        self.ghost.departed(&self.programs, &survivors, owned, unclear, known);
    }
}

/// All others have done this step of the view.
fn pass(recovery: &mut Recovery, view: &View, me: u16, step: barrier::Step) {
    for member in view.members.iter().filter(|m| m.node.0 != me) {
        let barrier = Barrier { epoch: view.epoch, step };
        recovery.handle_barrier(NOW, member.node, member.incarnation, barrier).expect("an honest peer");
    }
}
