//! The coordinator of a simulated cluster: an order of commands that a majority decides.
//!
//! ```text
//!   node: Propose ──► (late, lost, twice) ──► Decide ──► is there a majority that the proposer reaches? ──► the order
//!                                                                                                   │
//!   node: handle_applied, handle_answer ◄── (late, several at once) ◄── Catch: it reaches a majority ◄┘
//! ```
//!
//! How a majority agrees is not simulated here: that is the engines' own affair, and each has its tests. What a node can
//! see of it is: nothing is decided without a majority or while there is no leader; what was decided stays; each node
//! hears of it in order, late, or not at all as long as it is cut off. A proposer may never hear what came of it.
//!
//! That this is what a node sees of the engines too is checked by [scenes](crate::conformance::scenes) that they all play.

#[cfg(test)]
mod stage;

use std::collections::VecDeque;

use oarlock_cluster::registry::{
    Basis, Command, FirstSpace, Founder, Order, Outcome, Refusal, Registry, Role, SpaceSettings,
};
use oarlock_layout::id::{Epoch, Incarnation, NodeId};
use oarlock_layout::seal::PublicKey;
use oarlock_node::Node;

use crate::history::Mark;
use crate::host::Host;
use crate::queue::Time;
use crate::random::Random;
use crate::swarm::{FaultKind, MS, S};
use crate::trace::Kind;
use crate::world::{Happening, World};

/// How often a node that has heard of everything asks whether there is more.
const ASK_EACH: Time = 100 * MS;

/// What has been decided, and what each node knows of it.
pub(crate) struct Coordinator {
    /// With all that was decided.
    registry: Registry,
    /// A bit for each member that votes.
    voters: u64,
    order: Vec<Command>,
    /// What each node's disk has: how many commands, and the registry after these.
    known: Vec<(usize, Registry)>,
    /// Copies that somebody made of that, and what all began with.
    copies: Vec<Option<(usize, Registry)>>,
    founded: Registry,
    /// Answers that are due once the node has applied so many commands: of which run, to which command.
    answers: Vec<VecDeque<(usize, u64, Command, Outcome)>>,
    /// What is decided does not reach these nodes until then, though all their circuits work.
    deaf_until: Vec<Time>,
    /// Nobody leads until then.
    leaderless_until: Time,
    random: Random,
    /// Which answers get lost; a stream of its own.
    losses: Random,
    pub(crate) decided: u64,
}

/// What a node hears at once.
pub(crate) struct Heard {
    /// All that it knows now.
    pub registry: Registry,
    /// What came of proposals of its runs: of which run, of which command.
    pub answers: Vec<(u64, Command, Outcome)>,
    /// So many more answers got lost.
    pub lost: u64,
    /// There is more to hear.
    pub more: bool,
}

/// What has been decided about a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decided {
    /// The newest view.
    pub epoch: Epoch,
    /// Its run in it.
    pub run: Option<u64>,
    /// The latest run that ever was in one.
    pub entered: u64,
    /// That run has given itself up.
    pub surrendered: bool,
}

impl Decided {
    pub(crate) fn incarnation(&self) -> Option<Incarnation> {
        self.run.map(Incarnation)
    }
}

impl Coordinator {
    /// A cluster that has just been founded.
    pub(crate) fn new(founders: Vec<(String, PublicKey)>, random: Random) -> Coordinator {
        let members: Vec<Founder> = (founders.into_iter().enumerate())
            .map(|(n, (name, key))| Founder { name, address: Host::address(n as u16), key })
            .collect();
        let nodes = members.len();
        let space = |name: &str, order| FirstSpace {
            name: name.into(),
            settings: SpaceSettings {
                order,
                value: 64,
                retain: true,
                resources_max: 1 << 16,
                owner: 0,
                group: 0,
                mode: 0o660,
            },
        };
        let spaces = vec![space("default", Order::Passover), space("strict", Order::Strict)];
        let mut registry = Registry::new();
        let outcome = registry.apply(&Command::Init { cluster: [7; 16], members, spaces, above: Epoch(0) });
        assert_eq!(outcome, Outcome::Done);
        Coordinator::of(registry, nodes, random)
    }

    /// So many nodes that all know this. Those of its members vote that do so by it.
    fn of(registry: Registry, nodes: usize, random: Random) -> Coordinator {
        Coordinator {
            order: Vec::new(),
            voters: voters(&registry),
            known: vec![(0, registry.clone()); nodes],
            copies: vec![None; nodes],
            founded: registry.clone(),
            registry,
            answers: vec![VecDeque::new(); nodes],
            deaf_until: vec![0; nodes],
            leaderless_until: 0,
            losses: random.clone().fork(),
            random,
            decided: 0,
        }
    }

    /// What the disk of a node says.
    pub(crate) fn known(&self, node: u16) -> &Registry {
        &self.known[usize::from(node)].1
    }

    /// All that has been decided, whoever has heard of it.
    pub(crate) fn newest(&self) -> &Registry {
        &self.registry
    }

    /// How many members vote.
    pub(crate) fn voters(&self) -> u32 {
        self.voters.count_ones()
    }

    /// Does this node know nearly all of it?
    pub(crate) fn has_caught_up(&self, node: u16) -> bool {
        self.known[usize::from(node)].0 + 20 >= self.order.len()
    }

    /// Another machine has the place of a node, with an empty disk, and nobody has copied that.
    pub(crate) fn begin_anew(&mut self, node: u16) {
        self.copies[usize::from(node)] = None;
        self.turn_back(node, true);
    }

    /// What has been decided about a node, whoever has heard of it.
    pub(crate) fn decided(&self, node: u16) -> Decided {
        let member = self.registry.member(NodeId(node));
        Decided {
            epoch: self.registry.view().epoch,
            run: self.registry.run(NodeId(node)).map(|run| run.0),
            entered: member.map_or(0, |member| member.entered.0),
            surrendered: member.is_some_and(|member| member.surrendered),
        }
    }

    pub(crate) fn is_leaderless(&self, now: Time) -> bool {
        now < self.leaderless_until
    }

    /// A node's disk is as it was some runs ago, or as if it had never run.
    pub(crate) fn turn_back(&mut self, node: u16, wiped: bool) {
        let node = usize::from(node);
        let old = if wiped { None } else { self.copies[node].clone() };
        self.known[node] = old.unwrap_or_else(|| (0, self.founded.clone()));
        self.answers[node].clear();
    }

    /// Somebody copies a node's disk.
    pub(crate) fn copy(&mut self, node: u16) {
        self.copies[usize::from(node)] = Some(self.known[usize::from(node)].clone());
    }

    /// Is this run in the newest view, whoever has heard of it?
    pub(crate) fn is_in(&self, node: u16, run: u64) -> bool {
        self.registry.run(NodeId(node)) == Some(Incarnation(run))
    }

    // ----- from a proposal to its answer ------------------------------------------------------------------

    /// How long each copy of a proposal is on its way to whoever leads; none if it gets lost.
    fn ways(&mut self, calm: bool) -> Vec<Time> {
        let random = &mut self.random;
        if !calm && random.chance(20) {
            return Vec::new();
        }
        let copies = if !calm && random.chance(20) { 2 } else { 1 };
        let way = |_| {
            let late = !calm && random.chance(20);
            if late { random.spread(50 * MS, 5 * S) } else { random.spread(200_000, 15 * MS) }
        };
        (0..copies).map(way).collect()
    }

    /// Does whoever leads agree with a majority of those who vote, if it works with those whom the proposer reaches?
    fn decides(&self, now: Time, reached: impl Fn(u16) -> bool) -> bool {
        !self.is_leaderless(now) && self.is_majority(reached)
    }

    /// Are these more than half of those who vote?
    fn is_majority(&self, reached: impl Fn(u16) -> bool) -> bool {
        let voters = (0..u64::BITS as u16).filter(|node| self.voters >> node & 1 == 1);
        2 * voters.filter(|node| reached(*node)).count() > self.voters() as usize
    }

    /// A proposal takes its place in the order.
    fn decide(&mut self, node: u16, run: u64, command: Command) -> Outcome {
        self.decided += 1;
        let outcome = self.registry.apply(&command);
        if matches!(command, Command::SetRole { .. } | Command::Leave { .. } | Command::Join { .. }) {
            self.voters = voters(&self.registry);
        }
        self.order.push(command.clone());
        self.answers[usize::from(node)].push_back((self.order.len(), run, command, outcome));
        outcome
    }

    /// How long it takes until a node looks for what was just decided.
    fn news(&mut self) -> Time {
        self.random.spread(200_000, 30 * MS)
    }

    /// Does nothing that is decided reach this node, though all its circuits work?
    fn is_deaf(&self, now: Time, node: u16) -> bool {
        now < self.deaf_until[usize::from(node)]
    }

    /// A node hears what it does not know yet: the next command, or all of them; none if it knows all. If it loses
    /// answers, some of them: its daemon has lost patience before they came.
    fn hear(&mut self, loses: bool, node: u16) -> Option<Heard> {
        let (known, registry) = &mut self.known[usize::from(node)];
        let behind = self.order.len() - *known;
        if behind == 0 {
            return None;
        }
        // One after the other, or all at once.
        let step = if self.random.chance(500) { 1 } else { behind };
        for command in &self.order[*known..*known + step] {
            registry.apply(command);
        }
        *known += step;
        let (mut answers, mut lost) = (Vec::new(), 0);
        let waiting = &mut self.answers[usize::from(node)];
        while waiting.front().is_some_and(|(index, ..)| *index <= *known) {
            let (_, run, command, outcome) = waiting.pop_front().expect("it was looked at");
            if loses && self.losses.chance(20) {
                lost += 1;
            } else {
                answers.push((run, command, outcome));
            }
        }
        Some(Heard { registry: registry.clone(), answers, lost, more: step < behind })
    }

    /// Sometimes whoever leads is lost. Until when nobody leads, if that happens now.
    fn lose_leader(&mut self, now: Time) -> Option<Time> {
        self.random.chance(15).then(|| {
            let until = now + self.random.between(100 * MS, 600 * MS);
            self.leaderless_until = until;
            until
        })
    }

    /// Sometimes a node becomes deaf. Which, and until when, if that happens now.
    fn deafen(&mut self, now: Time) -> Option<(u16, Time)> {
        self.random.chance(15).then(|| {
            let node = self.random.below(self.known.len() as u64) as usize;
            self.deaf_until[node] = now + self.random.spread(50 * MS, 4 * S);
            (node as u16, self.deaf_until[node])
        })
    }
}

impl World {
    /// A node proposes something.
    pub(crate) fn propose(&mut self, node: u16, run: u64, command: Command) {
        let now = self.queue.now();
        if matches!(command, Command::Evict { .. }) {
            // Whatever ended a run long ago, it is not well, whoever runs there now.
            let registry = &self.coordinator.registry;
            let ends = |it: &&Host| {
                let other = registry.run(NodeId(it.index)) != Some(Incarnation(it.disk.run()));
                !it.up || it.paused || other || it.node.as_ref().is_none_or(Node::has_ended)
            };
            self.hosts.iter().filter(ends).for_each(|it| self.health.touch(it.index, now));
        }
        let it = &mut self.coordinator;
        let members: Vec<u16> = it.registry.view().nodes().map(|node| node.0).collect();
        self.health.propose(node, &command, &members, it.voters, now);
        for way in self.coordinator.ways(self.calm) {
            self.queue.push(now + way, Happening::Decide { node, run, command: command.clone() });
        }
    }

    /// A proposal has reached whoever leads, if anybody does.
    pub(crate) fn decide(&mut self, node: u16, run: u64, command: Command) {
        let now = self.queue.now();
        if !self.coordinator.decides(now, |other| self.talks_with(node, other)) {
            return;
        }
        let Some(command) = self.written_by(node, command) else { return };
        self.trace.record(now, Kind::Decided, node.into(), &command.to_bytes());
        let outcome = self.coordinator.decide(node, run, command.clone());
        let clock =
            matches!(outcome, Outcome::Refused(Refusal::TokenExpired { .. } | Refusal::TokenEarly { .. }));
        self.load.tokens_refused += u64::from(clock);
        if let (Command::Evict { epoch, out, .. }, Outcome::Done) = (&command, outcome) {
            let outvoted = out.iter().any(|run| matches!(run.basis, Basis::Outvoted { .. }));
            self.load.outvoted += u64::from(outvoted);
            for wronged in self.health.decided(node, *epoch, out).wronged {
                let text = format!("{out:?} puts out node {wronged}, which must stay");
                self.others.add("removal", now, text);
            }
        }
        if let (Command::FenceProven { node, .. }, Outcome::Done) = (&command, outcome) {
            self.fence_proven(node.0);
        }
        self.weigh(&command, outcome);
        if let (Command::Surrender { node, incarnation }, Outcome::Done) = (&command, outcome) {
            self.fences.checker.surrendered(node.0, incarnation.0);
        }
        // A start puts out the run before it, if that was given up.
        let view =
            matches!(command, Command::Evict { .. } | Command::Start { .. }) && outcome == Outcome::Done;
        let change = self.coordinator.registry.history().last().filter(|_| view);
        let evicted: Vec<u16> = change.iter().flat_map(|change| &change.out).map(|out| out.node.0).collect();
        self.load.verdicts += u64::from(!evicted.is_empty());
        self.ambush_all();
        for node in evicted {
            self.mark(Mark::NodeGone(Some(node)));
        }
        for node in 0..self.options.nodes {
            let way = self.coordinator.news();
            self.queue.push(now + way, Happening::Catch { node });
        }
    }

    /// A node looks whether there is more than it knows.
    pub(crate) fn catch(&mut self, node: u16) {
        let now = self.queue.now();
        let host = &self.hosts[usize::from(node)];
        let deaf = self.coordinator.is_deaf(now, node) && !self.calm;
        if !host.up || host.paused || deaf || !self.reaches_majority(node) {
            return;
        }
        let (run, at) = (host.disk.run(), host.clock(now));
        let Some(heard) = self.coordinator.hear(!self.calm && self.options.faults, node) else { return };
        if heard.lost > 0 {
            self.faults[FaultKind::Answer as usize] += heard.lost;
            self.cover(FaultKind::Answer, &[node]);
        }
        self.wake(node);
        let mut noted = false;
        if let Some(it) = &mut self.hosts[usize::from(node)].node {
            it.handle_applied(at, &heard.registry);
            for (of, command, outcome) in heard.answers {
                if of == run {
                    noted |= command == it.surrendered_by();
                    it.handle_answer(at, &command, outcome);
                }
            }
        }
        self.attend_keys(node);
        self.turn(node);
        if noted {
            self.noted(node);
        }
        if heard.more {
            self.queue.push(now, Happening::Catch { node });
        }
    }

    /// From time to time everybody looks, and sometimes a leader is lost.
    pub(crate) fn attend(&mut self) {
        let now = self.queue.now();
        for node in 0..self.options.nodes {
            self.queue.push(now, Happening::Catch { node });
            self.attend_keys(node);
        }
        let faults = !self.calm && self.options.faults;
        if faults && let Some(until) = self.coordinator.lose_leader(now) {
            self.load.leaders_lost += 1;
            (0..self.options.nodes).for_each(|node| self.health.touch_around(node, until));
        }
        if faults && let Some((node, until)) = self.coordinator.deafen(now) {
            self.health.touch(node, until);
        }
        self.ambush_all();
        self.queue.push(now + ASK_EACH, Happening::Attend);
    }

    /// Can this node talk with a majority of those who vote, itself included if it does, in both directions?
    pub(crate) fn reaches_majority(&self, node: u16) -> bool {
        self.coordinator.is_majority(|other| self.talks_with(node, other))
    }

    /// Do these two, or this one by itself, work and hear each other?
    fn talks_with(&self, node: u16, other: u16) -> bool {
        let works = |n: u16| {
            let host = &self.hosts[usize::from(n)];
            host.up && !host.paused
        };
        let release = |n: u16| self.hosts[usize::from(n)].release;
        let passes = || other == node || self.network.passes(self.queue.now(), node, other);
        // A voter that has never been a machine of this run is nobody's.
        other < self.options.nodes
            && works(node)
            && works(other)
            && release(other).fits(release(node))
            && passes()
    }
}

fn voters(registry: &Registry) -> u64 {
    registry.members().filter(|it| it.role == Role::Voter).fold(0, |all, it| all | 1 << it.node.0)
}
