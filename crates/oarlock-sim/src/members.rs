//! Members that come and go for good, while everything else goes on (FT27).
//!
//! ```text
//!   somebody   Drain ─► SetRole learner ─► the node is stopped, or its machine is lost ─► out of the view ─► Leave
//!              CreateToken ─► Join (another machine, another key, perhaps the old name) ─► its first run is let in ─► SetRole voter
//! ```
//!
//! Whoever does it repeats each step until he sees that it has come about, by way of any member that reaches a majority. The new machine
//! gets the id of the one that left, begins with an empty disk, and knows of the members what was so when it joined. One member is
//! changed at a time.

use std::collections::BTreeMap;
use std::mem::{Discriminant, discriminant};

use oarlock_cluster::registry::{Command, MemberRecord, Need, Role, TokenHash};
use oarlock_layout::id::NodeId;
use oarlock_node::{NodeConfig, numbered};

use crate::disk::Disk;
use crate::health::TRACES;
use crate::host::Host;
use crate::keys::{Keys, key_of, machine};
use crate::queue::Time;
use crate::swarm::{FaultKind, MS, S};
use crate::world::{Happening, World, name_of};

/// How often whoever changes the members looks, and how long he waits before he repeats what seems lost.
const LOOK_EACH: Time = 40 * MS;
const PATIENCE: Time = 400 * MS;
/// Below this many members nobody is asked to leave: any fault of one more would stop the rest.
const FEWEST: usize = 4;
/// How long a token is good, in seconds.
const TOKEN_SECONDS: u64 = 900;
/// So many times somebody shows a token before he asks for another.
const TRIES_MAX: u32 = 3;

/// Who a machine is to the others.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// How often the place was taken.
    pub generation: u64,
    pub name: String,
    /// What it knew of the members when it joined, and which revision that was; nothing if it founded.
    pub joined: Option<(u64, BTreeMap<NodeId, NodeConfig>)>,
}

impl Identity {
    pub(crate) fn founder(node: u16) -> Identity {
        Identity { generation: 0, name: name_of(node), joined: None }
    }
}

/// How far the change of a member is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// It gets no new work, and votes no more.
    Retire,
    /// Its run is to end.
    End,
    /// The run is out of the view, and it is no member.
    Leave,
    /// Another machine may join.
    Token,
    Join,
    /// Its token is no good by the clocks of those who were asked. Another one is needed.
    Revoke,
    /// It is let in, and votes.
    Promote,
}

/// A change of a member under way.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) node: u16,
    step: Step,
    /// Its machine is lost, rather than asked to leave.
    lost: bool,
    /// Nobody comes in its place before somebody says so.
    waits: bool,
    /// What was asked for last, and when.
    asked: Option<(Time, Discriminant<Command>)>,
    /// How often somebody asked to join with this token.
    tries: u32,
    /// Who comes in its place.
    next: Identity,
}

/// What is known of changes.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) under_way: Option<Change>,
    /// Members that left, and that joined.
    pub(crate) left: u64,
    pub(crate) joined: u64,
}

impl World {
    /// A member is to go for good, and another one to come for it.
    pub(crate) fn leave_for_good(&mut self, node: u16) {
        let members = self.coordinator.newest().members().count();
        // Nothing new begins when the storm is nearly over: all that was begun is to be done when it is calm.
        let late = self.queue.now() + 2 * TRACES > self.plan.storm_end;
        if self.changes.under_way.is_some() || members < FEWEST || late {
            return;
        }
        self.cover(FaultKind::Leaves, &[node]);
        let random = &mut self.farewells;
        let generation = self.hosts[usize::from(node)].identity.generation + 1;
        // A machine that is installed anew keeps its name, mostly.
        let name = if random.chance(600) { name_of(node) } else { format!("{}-{generation}", name_of(node)) };
        let lost = random.chance(400);
        let next = Identity { generation, name, joined: None };
        self.changes.under_way =
            Some(Change { node, step: Step::Retire, lost, waits: false, asked: None, tries: 0, next });
        self.queue.push(self.queue.now(), Happening::Members);
    }

    /// A member is asked to leave in order, and its place stays free until [`take_the_place`](World::take_the_place). False if
    /// another one is changed.
    pub(crate) fn leave_in_order(&mut self, node: u16) -> bool {
        if self.changes.under_way.is_some() {
            return false;
        }
        let generation = self.hosts[usize::from(node)].identity.generation + 1;
        let next = Identity { generation, name: name_of(node), joined: None };
        self.changes.under_way =
            Some(Change { node, step: Step::Retire, lost: false, waits: true, asked: None, tries: 0, next });
        self.queue.push(self.queue.now(), Happening::Members);
        true
    }

    /// Another machine comes in the place of a member that has left. False if none has.
    pub(crate) fn take_the_place(&mut self, node: u16) -> bool {
        let change = self.changes.under_way.as_mut();
        let left = change.filter(|change| change.node == node && change.step == Step::Token && change.waits);
        left.map(|change| change.waits = false).is_some()
    }

    /// Is this machine none of a member's now?
    pub(crate) fn is_away(&self, node: u16) -> bool {
        let change = self.changes.under_way.as_ref().filter(|change| change.node == node);
        change.is_some_and(|change| {
            matches!(change.step, Step::Leave | Step::Token | Step::Join | Step::Revoke)
        })
    }

    /// Is a change of this member under way?
    pub(crate) fn is_changing(&self, node: u16) -> bool {
        self.changes.under_way.as_ref().is_some_and(|change| change.node == node)
    }

    /// The next look at the change under way.
    pub(crate) fn change_members(&mut self) {
        let now = self.queue.now();
        let Some(mut change) = self.changes.under_way.take() else { return };
        let goes_on = self.take_step(&mut change);
        if goes_on {
            self.changes.under_way = Some(change);
            self.queue.push(now + LOOK_EACH, Happening::Members);
        }
    }

    /// False: it is done.
    fn take_step(&mut self, change: &mut Change) -> bool {
        let node = NodeId(change.node);
        let registry = self.coordinator.newest();
        let record = registry.members().find(|it| it.node == node).cloned();
        let run = registry.run(node);
        match (change.step, record) {
            (Step::Retire, Some(MemberRecord { drained: false, revision: seen, .. })) => {
                self.ask(change, Command::Drain { node, seen });
            }
            (Step::Retire, Some(MemberRecord { role: Role::Voter, revision: seen, .. })) => {
                self.ask(change, Command::SetRole { node, seen, role: Role::Learner });
            }
            (Step::Retire, _) => {
                self.cover(FaultKind::Leaves, &[change.node]);
                change.step = Step::End;
            }
            (Step::End, _) => {
                // From here on nobody starts it again.
                change.step = Step::Leave;
                if change.lost { self.end(change.node) } else { self.stop(change.node) }
            }
            (Step::Leave, Some(MemberRecord { revision: seen, .. })) => {
                let fenced =
                    !registry.fences().any(|it| it.node == node && it.needs.contains(&Need::Program));
                self.health.touch(change.node, self.queue.now());
                if run.is_none() && fenced {
                    self.ask(change, Command::Leave { node, seen });
                }
            }
            (Step::Leave, None) => {
                self.changes.left += 1;
                // If it has not seen that by itself.
                self.end(change.node);
                change.step = Step::Token;
            }
            (Step::Token, None) if change.waits => {}
            (Step::Token, None) => {
                let (serial, hash) = (registry.next_token(), token(change));
                if registry.tokens().any(|token| token.hash == hash) {
                    change.step = Step::Join;
                } else if self.is_free(node) {
                    let name = change.next.name.clone();
                    self.ask_by(change, |wall| {
                        let expires = wall + TOKEN_SECONDS;
                        Command::CreateToken { serial, hash, name, wall, expires }
                    });
                }
            }
            (Step::Join, None) => {
                let (cluster, hash) = (registry.cluster().expect("it was founded"), token(change));
                let name = change.next.name.clone();
                let address = Host::address(change.node);
                let key = key_of(&self.options, change.node, change.next.generation);
                let asked =
                    self.ask_by(change, |wall| Command::Join { cluster, hash, name, address, key, wall });
                change.tries += u32::from(asked);
                if change.tries > TRIES_MAX {
                    (change.step, change.tries) = (Step::Revoke, 0);
                }
            }
            (Step::Revoke, None) => {
                let hash = token(change);
                let known = registry.tokens().find(|token| token.hash == hash).map(|token| token.serial);
                match known {
                    Some(serial) => self.ask(change, Command::RevokeToken { serial }),
                    None => change.step = Step::Token,
                }
            }
            (Step::Token | Step::Join | Step::Revoke, Some(record)) => self.joins(change, &record),
            (Step::Promote, record) => {
                let Some(record) = record else { unreachable!("nobody else changes members") };
                if record.role == Role::Voter {
                    return false;
                }
                let seen = record.revision;
                if run.is_some() && self.coordinator.has_caught_up(change.node) {
                    self.ask(change, Command::SetRole { node, seen, role: Role::Voter });
                }
            }
        }
        true
    }

    /// The lowest free id is this one, so that whoever joins next gets it.
    fn is_free(&self, node: NodeId) -> bool {
        !self.coordinator.newest().fences().any(|it| it.node == node)
    }

    /// Another machine is a member: it begins with what it was told.
    fn joins(&mut self, change: &mut Change, record: &MemberRecord) {
        let (now, node) = (self.queue.now(), change.node);
        let registry = self.coordinator.newest();
        let of = |it: &MemberRecord| NodeConfig { name: it.name.clone(), address: it.address, key: it.key };
        let members = registry.members().map(|it| (it.node, of(it))).collect();
        change.next.joined = Some((registry.revision(), members));
        let mut disk = Disk::default();
        disk.raise_run(record.entered.0);
        self.coordinator.begin_anew(node);
        let host = &mut self.hosts[usize::from(node)];
        (host.disk, host.stale, host.identity) = (disk, false, change.next.clone());
        host.keys = Keys::new(machine(node, change.next.generation));
        host.copy();
        self.changes.joined += 1;
        change.step = Step::Promote;
        let all: Vec<u16> = (0..self.options.nodes).collect();
        self.note_fault(FaultKind::Joins as usize);
        self.cover(FaultKind::Joins, &all);
        let at = now + self.farewells.spread(MS, S);
        self.queue.push(at, Happening::Start { node });
    }

    fn ask(&mut self, change: &mut Change, command: Command) {
        let _ = self.ask_by(change, |_| command);
    }

    /// Asks for a command by way of any member that reaches a majority, and again when that seems to be lost.
    /// The command may say what the wall clock of that member shows. True: it was asked.
    fn ask_by(&mut self, change: &mut Change, command: impl FnOnce(u64) -> Command) -> bool {
        let now = self.queue.now();
        let nodes = self.options.nodes;
        let first = self.farewells.below(nodes.into()) as u16;
        let by = (0..nodes)
            .map(|n| (first + n) % nodes)
            .find(|n| *n != change.node && self.hosts[usize::from(*n)].up && self.reaches_majority(*n));
        let Some(by) = by else { return false };
        let command = command(self.hosts[usize::from(by)].wall(now));
        let what = discriminant(&command);
        if change.asked.is_some_and(|(at, asked)| asked == what && now < at + PATIENCE) {
            return false;
        }
        change.asked = Some((now, what));
        let run = self.hosts[usize::from(by)].disk.run();
        self.propose(by, run, command);
        true
    }

    /// What the configuration of a node says of the members when a run of it begins.
    pub(crate) fn members_of(&self, node: u16) -> BTreeMap<NodeId, NodeConfig> {
        if let Some((_, members)) = &self.hosts[usize::from(node)].identity.joined {
            return members.clone();
        }
        numbered((0..self.options.nodes).map(|n| NodeConfig {
            name: name_of(n),
            address: Host::address(n),
            key: key_of(&self.options, n, 0),
        }))
    }

    /// Long after the storm every change has come about.
    pub(crate) fn members_must_be_there(&mut self) {
        let now = self.queue.now();
        let Some(change) = &self.changes.under_way else { return };
        if self.is_whole(change.node) {
            let text = format!("node {} is still to {:?}", change.node, change.step);
            self.others.add("members", now, text);
        }
    }
}

fn token(change: &Change) -> TokenHash {
    let mut hash = TokenHash::default();
    hash[..2].copy_from_slice(&change.node.to_le_bytes());
    hash[2..10].copy_from_slice(&change.next.generation.to_le_bytes());
    hash
}
