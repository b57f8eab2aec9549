//! What can be seen of a node: status, counters, and its part of the answers to people's questions.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use oarlock_cluster::membership::Membership;
use oarlock_cluster::recovery::Gate;
use oarlock_layout::code::Code;
use oarlock_layout::codec::cut;
use oarlock_layout::directory;
use oarlock_layout::id::{NodeId, SpaceId};
use oarlock_layout::lease::Standing;
use oarlock_layout::limit::{LABEL_BYTES_MAX, SERIAL_WARN};
use oarlock_layout::message::form::Phase;
use oarlock_layout::message::look::{At, Look, Party, Seen, What};
use oarlock_layout::name::Name;
use oarlock_layout::time::Instant;
use oarlock_lock::Counters as LockCounters;

use crate::config::NodeConfig;
use crate::node::{Node, Space};
use crate::status::{ClockStatus, Counter, MemberStatus, SpaceStatus, Status};

impl Node {
    /// What this node sees, with the sessions' names put to the locks.
    pub(crate) fn see(&self, now: Instant, look: &Look) -> Seen {
        if let At::Branches(name) = &look.at {
            return self.see_branches(look, name.as_ref());
        }
        let Space { locks, words } = &self.spaces[look.space.0 as usize];
        let (mut rows, cut) = locks.look(now, words.as_ref(), &look.at);
        for row in &mut rows {
            match &mut row.what {
                What::Holder(holder) => self.name_party(&mut holder.party),
                What::Waiter(waiter) => self.name_party(&mut waiter.party),
                _ => {}
            }
        }
        Seen { question: look.question, cut, rows }
    }

    pub(crate) fn name_party(&self, party: &mut Party) {
        if let Some(orphan) = self.orphans.get(party.lock) {
            party.pid = orphan.pid;
            party.label = cut(&format!("orphan of {}", orphan.label), LABEL_BYTES_MAX).into();
        } else if let Some(session) = self.sessions.get(party.lock.session()) {
            party.pid = session.pid;
            party.label = session.label.clone();
        }
    }

    /// How it stands.
    pub fn status(&self, now: Instant) -> Status {
        let phase = self.phase();
        let members: Vec<MemberStatus> =
            self.config.nodes.iter().map(|(node, member)| self.member_status(now, *node, member)).collect();
        let mut problems = Vec::new();
        if let Err(problem) = self.may_serve(now) {
            problems.push(problem);
        }
        if self.frozen {
            let text = "no majority has confirmed this node's lease for long; nothing new is granted";
            problems.push((Code::NotServing, text.into()));
        }
        if let Some((gate, missing)) = self.recovery.waits().filter(|_| phase == Phase::Serving) {
            let names: Vec<_> = missing.into_iter().map(|node| self.node_name(node)).collect();
            let whom = if names.is_empty() { String::new() } else { format!(" of {}", names.join(", ")) };
            let text = match gate {
                Gate::Fenced => self.fences_in_words(),
                _ => format!("locks are being recovered: waits for \"{}\"{whom}", gate.name()),
            };
            problems.push((Code::Recovering, text));
        }
        let view = self.recovery.view();
        let in_view = |m: &&MemberStatus| view.member(m.node).is_some();
        for member in members.iter().filter(in_view).filter(|m| !m.is_me && !m.heard) {
            let text = match member.silent_for {
                Some(time) => format!(
                    "{} has been silent for {:.1} s; requests that need it wait",
                    member.name,
                    time.as_secs_f64()
                ),
                None => format!("there is no circuit to {}; requests that need it wait", member.name),
            };
            problems.push((Code::MemberSilent, text));
        }
        for member in members.iter().filter(|m| phase == Phase::Serving && !m.in_view) {
            let text = format!("{} is not in the view; what it had is granted to others", member.name);
            problems.push((Code::MemberSilent, text));
        }
        if self.spaces.iter().any(|s| s.locks.serial() > SERIAL_WARN) {
            let text = "half of this epoch's fencing numbers are used; plan a restart of one node, which begins a new epoch";
            problems.push((Code::SerialsLow, text.into()));
        }
        let spaces = self.config.spaces.iter().zip(&self.spaces).map(|(config, space)| {
            let (resources, mastered, waiting) = space.locks.sizes();
            let counters = *space.locks.counters();
            let tally = space.words.tally();
            SpaceStatus { name: config.name.clone(), resources, mastered, waiting, counters, tally }
        });
        Status {
            cluster: self.config.cluster.clone(),
            node: self.node_name(self.config.me),
            me: self.config.me,
            incarnation: self.config.incarnation,
            phase,
            epoch: self.epoch(),
            open: self.grants(),
            lease_left: (self.lease > now && !self.ended).then(|| self.lease.since(now)),
            problems,
            members,
            spaces: spaces.collect(),
            sessions: self.sessions.len(),
            clock: ClockStatus::new(&self.clock),
        }
    }

    /// Masters here grant: all have restated, and the lease is not at risk. What departed runs had may have to wait for a proof.
    pub fn grants(&self) -> bool {
        self.recovery.is_open() && !self.frozen && !self.ended
    }

    /// Which other member of the view has waited longest for a renewal of its lease, and since when.
    pub fn longest_unrenewed(&self) -> Option<(NodeId, Instant)> {
        self.membership.as_ref().and_then(Membership::longest_unrenewed)
    }

    /// How far this run's lease is from its end; none before it has one.
    pub fn lease_standing(&self, now: Instant) -> Option<Standing> {
        (self.lease != Instant(0)).then(|| Standing::of(self.lease, now))
    }

    pub(crate) fn member_status(&self, now: Instant, node: NodeId, member: &NodeConfig) -> MemberStatus {
        let is_me = node == self.config.me;
        let circuit = if is_me { None } else { self.circuits.status(node) };
        MemberStatus {
            node,
            name: member.name.clone(),
            address: member.address,
            is_me,
            in_view: self.recovery.view().member(node).is_some(),
            heard: is_me || circuit.is_some_and(|c| c.state == oarlock_circuit::State::Up),
            silent_for: self.hearing.silent_since(node).map(|since| now.since(since)),
            circuit,
        }
    }

    /// Everything that is counted.
    pub fn counters(&self) -> Vec<Counter> {
        let mut counters: Vec<Counter> = Vec::new();
        for (index, space) in self.spaces.iter().enumerate() {
            let list: Vec<_> = LockCounters::list(space.locks.counters()).collect();
            for (place, (name, help, value)) in list.into_iter().enumerate() {
                if index == 0 {
                    counters.push(Counter { name, help, value });
                } else {
                    counters[place].value += value;
                }
            }
        }
        let (mut grants, mut considered, mut handed_over) = (0u64, 0u64, 0u64);
        for tally in self.spaces.iter().map(|space| space.words.tally()) {
            // Programs count in their own entries: whatever stands there must not stop the node.
            grants = grants.wrapping_add(tally.grants);
            considered = considered.wrapping_add(tally.considered);
            handed_over = handed_over.wrapping_add(tally.handed_over);
        }
        let fast = [
            ("fast_grants", "Locks that programs of this node granted themselves", grants),
            ("fast_considered", "Releases by these that left less needed than owned", considered),
            ("fast_handed_over", "Releases by these that handed over to a waiter", handed_over),
        ];
        counters.extend(fast.map(|(name, help, value)| Counter { name, help, value }));
        let circuits = self.circuits.counters();
        let list = circuits.peers.list().chain(circuits.door.list());
        counters.extend(list.map(|(name, help, value)| Counter { name, help, value }));
        let clock = self.clock.counters();
        let clock = [
            ("clock_jumps", "Stamps of peers that moved this clock forward", clock.jumps),
            ("clock_raises", "Ceilings of the clock that were announced", clock.raises),
            ("clock_stores", "Numbers of the clock that were made durable", clock.stores),
            ("clock_waits", "Stamps that somebody had to wait for", clock.waits),
            ("clock_misdeeds", "Readings of peers that no honest clock shows", clock.misdeeds),
        ];
        counters.extend(clock.map(|(name, help, value)| Counter { name, help, value }));
        let search = self.deadlocks.search.counters().list();
        counters.extend(search.map(|(name, help, value)| Counter { name, help, value }));
        counters
    }

    /// The name of a member.
    pub fn member_name(&self, node: NodeId) -> Option<&str> {
        self.config.nodes.get(&node).map(|n| n.name.as_str())
    }

    /// The names of all members.
    pub fn member_names(&self) -> BTreeMap<NodeId, String> {
        self.config.nodes.iter().map(|(node, member)| (*node, member.name.clone())).collect()
    }

    /// The id of a lockspace.
    pub fn space_id(&self, name: &str) -> Option<SpaceId> {
        self.config.spaces.iter().position(|s| s.name == name).map(|index| SpaceId(index as u16))
    }

    /// The node that decides about a resource.
    pub fn master_of(&self, space: SpaceId, name: &Name) -> Option<NodeId> {
        directory::master(space, name.as_bytes(), self.recovery.view().nodes())
    }
}
