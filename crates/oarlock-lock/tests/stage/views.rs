//! Views on the stage: the barriers are the real ones, and what they say stands in line with lock messages.

use oarlock_cluster::recovery::{Output, Recovery};
use oarlock_layout::id::{Epoch, Incarnation, NodeId};
use oarlock_layout::message::barrier::{Barrier, Step};
use oarlock_layout::message::lock::Packet;
use oarlock_layout::time::Instant;
use oarlock_layout::view::{Member, View};

use super::Stage;
use super::show::letter;

/// What travels from node to node, in one order.
pub(crate) enum Mail {
    Lock(Packet),
    Barrier(Barrier),
}

pub(crate) struct Views {
    newest: View,
    rooms: Vec<Recovery>,
}

impl Views {
    /// The first view, open everywhere.
    pub(crate) fn new(nodes: usize, view: &View) -> Views {
        let room = |n: usize| {
            let mut room = Recovery::new(NodeId(n as u16));
            if view.member(NodeId(n as u16)).is_none() {
                return room;
            }
            room.handle_view(Instant(0), view, false);
            for step in [Step::Arrived, Step::Restated { departed: false, unsettled: false }] {
                for other in view.members.iter().filter(|m| usize::from(m.node.0) != n) {
                    let barrier = Barrier { epoch: view.epoch, step };
                    room.handle_barrier(Instant(0), other.node, other.incarnation, barrier).expect("honest");
                }
                if step == Step::Arrived {
                    room.handle_restated(Instant(0));
                }
            }
            while room.poll_output().is_some() {}
            room
        };
        Views { newest: view.clone(), rooms: (0..nodes).map(room).collect() }
    }
}

impl Stage {
    /// Who is not in the next view is dead; who comes is another run.
    pub(crate) fn decide(&mut self, members: &[usize]) {
        let old = self.views.newest.clone();
        let epoch = Epoch(old.epoch.0 + 1);
        let member = |n: &usize| {
            let came = Member { node: NodeId(*n as u16), incarnation: Incarnation(epoch.0.into()) };
            old.member(came.node).copied().unwrap_or(came)
        };
        self.views.newest = View { epoch, members: members.iter().map(member).collect() };
        for n in (0..self.nodes.len()).filter(|n| !members.contains(n)) {
            let (node, segment) = self.fresh(n);
            self.nodes[n] = node;
            if let Some(segment) = segment {
                self.segments[n] = segment;
            }
            self.callers.retain(|(at, _), _| *at != n);
            self.views.rooms[n] = Recovery::new(NodeId(n as u16));
            self.channels.retain(|(_, to), _| *to != n);
        }
        for member in self.views.newest.members.iter().filter(|m| old.member(m.node).is_none()) {
            let n = usize::from(member.node.0);
            self.channels.retain(|(from, _), _| *from != n);
            for room in &mut self.views.rooms {
                room.handle_up(member.node, member.incarnation);
            }
        }
    }

    pub(crate) fn enter(&mut self, n: usize) {
        let view = self.views.newest.clone();
        let departed = self.nodes[n].0.handle_view(&view);
        self.views.rooms[n].handle_view(self.now, &view, departed);
        self.channels.retain(|(from, to), _| *to != n || view.member(NodeId(*from as u16)).is_some());
        self.pump(n);
    }

    pub(crate) fn hear(&mut self, from: usize, to: usize, barrier: Barrier) {
        let node = NodeId(from as u16);
        let Some(member) = self.views.newest.member(node) else { return };
        self.views.rooms[to].handle_barrier(self.now, node, member.incarnation, barrier).expect("honest");
        self.pump(to);
    }

    fn pump(&mut self, n: usize) {
        while let Some(output) = self.views.rooms[n].poll_output() {
            match output {
                Output::Say { to, barrier } => {
                    let to = usize::from(to.0);
                    let note = if self.held.contains(&(n, to)) { "   (held)" } else { "" };
                    let step = match barrier.step {
                        Step::Arrived => "Arrived",
                        Step::Restated { departed: false, .. } => "Restated",
                        Step::Restated { departed: true, .. } => "Restated, somebody departed",
                        Step::Lost(_) | Step::Unknown(_) => unreachable!("no fence is waited for here"),
                    };
                    self.said.push(format!("{}>{} {step}{note}", letter(n), letter(to)));
                    self.channels.entry((n, to)).or_default().push_back(Mail::Barrier(barrier));
                }
                Output::Restate => {
                    let (space, words) = &mut self.nodes[n];
                    while space.restate(self.now, words.as_mut(), u32::MAX) {}
                    self.collect(n);
                    self.views.rooms[n].handle_restated(self.now);
                }
                Output::Open { departed } => {
                    self.said.push(format!("{} is open", letter(n)));
                    let (space, words) = &mut self.nodes[n];
                    space.handle_open(self.now, words.as_mut(), departed);
                }
                Output::Passed(_) => {}
            }
            self.collect(n);
        }
    }
}
