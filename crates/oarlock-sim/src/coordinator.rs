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

use std::collections::VecDeque;

use oarlock_cluster::registry::{
    Command, FirstSpace, Founder, Order, Outcome, Registry, Role, SpaceSettings,
};
use oarlock_layout::id::{Epoch, Incarnation, NodeId};
use oarlock_layout::seal::PublicKey;

use crate::history::Mark;
use crate::host::Host;
use crate::queue::Time;
use crate::random::Random;
use crate::swarm::{MS, S};
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
    pub(crate) decided: u64,
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
}

impl World {
    /// A node proposes something.
    pub(crate) fn propose(&mut self, node: u16, run: u64, command: Command) {
        let now = self.queue.now();
        let random = &mut self.coordinator.random;
        if !self.calm && random.chance(20) {
            // Lost on its way.
            return;
        }
        let copies = if !self.calm && random.chance(20) { 2 } else { 1 };
        for _ in 0..copies {
            let late = !self.calm && random.chance(20);
            let way = if late { random.spread(50 * MS, 5 * S) } else { random.spread(200_000, 15 * MS) };
            self.queue.push(now + way, Happening::Decide { node, run, command: command.clone() });
        }
    }

    /// A proposal has reached whoever leads, if anybody does.
    pub(crate) fn decide(&mut self, node: u16, run: u64, command: Command) {
        let now = self.queue.now();
        if now < self.coordinator.leaderless_until || !self.reaches_majority(node) {
            return;
        }
        let Some(command) = self.written_by(node, command) else { return };
        self.trace.record(now, Kind::Decided, node.into(), &command.to_bytes());
        if let Command::Evict { epoch, out, .. } = &command
            && *epoch == self.coordinator.registry.view().epoch
        {
            for wronged in self.health.wronged(out, now) {
                let text = format!("{out:?} puts out node {wronged}, with which nothing was wrong");
                self.others.add("removal", now, text);
            }
        }
        let it = &mut self.coordinator;
        it.decided += 1;
        let outcome = it.registry.apply(&command);
        if matches!(command, Command::SetRole { .. } | Command::Leave { .. } | Command::Join { .. }) {
            it.voters = voters(&it.registry);
        }
        it.order.push(command.clone());
        if let (Command::Surrender { node, incarnation }, Outcome::Done) = (&command, outcome) {
            self.fences.checker.surrendered(node.0, incarnation.0);
        }
        // A start puts out the run before it, if that was given up.
        let view =
            matches!(command, Command::Evict { .. } | Command::Start { .. }) && outcome == Outcome::Done;
        let change = it.registry.history().last().filter(|_| view);
        let evicted: Vec<u16> = change.iter().flat_map(|change| &change.out).map(|out| out.node.0).collect();
        it.answers[usize::from(node)].push_back((it.order.len(), run, command, outcome));
        self.load.verdicts += u64::from(!evicted.is_empty());
        self.ambush_all();
        for node in evicted {
            self.mark(Mark::NodeGone(Some(node)));
        }
        for node in 0..self.options.nodes {
            let way = self.coordinator.random.spread(200_000, 30 * MS);
            self.queue.push(now + way, Happening::Catch { node });
        }
    }

    /// A node looks whether there is more than it knows.
    pub(crate) fn catch(&mut self, node: u16) {
        let now = self.queue.now();
        let host = &self.hosts[usize::from(node)];
        if !host.up
            || host.paused
            || now < self.coordinator.deaf_until[usize::from(node)] && !self.calm
            || !self.reaches_majority(node)
        {
            return;
        }
        let (run, at) = (host.disk.run(), host.clock(now));
        let it = &mut self.coordinator;
        let (known, registry) = &mut it.known[usize::from(node)];
        let behind = it.order.len() - *known;
        if behind == 0 {
            return;
        }
        // One after the other, or all at once.
        let step = if it.random.chance(500) { 1 } else { behind };
        for command in &it.order[*known..*known + step] {
            registry.apply(command);
        }
        *known += step;
        let mut answers = Vec::new();
        while let Some((index, ..)) = it.answers[usize::from(node)].front()
            && *index <= *known
        {
            answers.extend(it.answers[usize::from(node)].pop_front());
        }
        let registry = registry.clone();
        self.wake(node);
        let mut noted = false;
        if let Some(it) = &mut self.hosts[usize::from(node)].node {
            it.handle_applied(at, &registry);
            for (_, of, command, outcome) in answers {
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
        if step < behind {
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
        if !self.calm && self.options.faults && self.coordinator.random.chance(15) {
            self.load.leaders_lost += 1;
            let away = self.coordinator.random.between(100 * MS, 600 * MS);
            self.coordinator.leaderless_until = now + away;
            (0..self.options.nodes).for_each(|node| self.health.touch(node, now + away));
        }
        if !self.calm && self.options.faults && self.coordinator.random.chance(15) {
            let node = self.coordinator.random.below(self.options.nodes.into()) as usize;
            let away = self.coordinator.random.spread(50 * MS, 4 * S);
            self.coordinator.deaf_until[node] = now + away;
            self.health.touch(node as u16, now + away);
        }
        self.ambush_all();
        self.queue.push(now + ASK_EACH, Happening::Attend);
    }

    /// Can this node talk with a majority of those who vote, itself included if it does, in both directions?
    pub(crate) fn reaches_majority(&self, node: u16) -> bool {
        let now = self.queue.now();
        let works = |n: u16| {
            let host = &self.hosts[usize::from(n)];
            host.up && !host.paused
        };
        let voters = self.coordinator.voters;
        let release = self.hosts[usize::from(node)].release;
        let fits = |n: u16| self.hosts[usize::from(n)].release.fits(release);
        let reached = (0..self.options.nodes)
            .filter(|other| {
                voters >> other & 1 == 1
                    && works(*other)
                    && fits(*other)
                    && (*other == node || self.network.passes(now, node, *other))
            })
            .count();
        works(node) && 2 * reached > voters.count_ones() as usize
    }
}

fn voters(registry: &Registry) -> u64 {
    registry.members().filter(|it| it.role == Role::Voter).fold(0, |all, it| all | 1 << it.node.0)
}
