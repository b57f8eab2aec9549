//! Keeping departed runs from doing harm: what this node is to bring about, and what waits for it (L4).

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use oarlock_cluster::fencing::{Charge, Output as Step};
use oarlock_cluster::registry::{self, Need};
use oarlock_cluster::{Fencing, Registry};
use oarlock_layout::id::Incarnation;
use oarlock_layout::time::Instant;
use oarlock_layout::view::Member;

use crate::node::{Node, Output, Space};
use crate::planted::Bug as Planted;

/// What a node knows of fences.
pub(crate) struct Fences {
    pub(crate) room: Fencing,
    /// What every verdict of this node's asks for.
    pub(crate) needs: Vec<Need>,
    /// Of the registry: what is still to be proven of runs that left.
    pub(crate) pending: Vec<registry::Fence>,
}

impl Fences {
    pub(crate) const fn new(room: Fencing) -> Fences {
        Fences { room, needs: Vec::new(), pending: Vec::new() }
    }
}

impl Node {
    /// What must be proven of whoever is put out, beside its lease ([`Fence::needs`](oarlock_cluster::fencing::Fence::needs)).
    /// Said before anything else; the same at every member.
    pub fn set_fences(&mut self, needs: Vec<Need>) {
        assert!(self.membership.is_none(), "verdicts may have been proposed without it");
        self.fencing.needs = needs;
    }

    /// What came of an [`Output::Fence`]: it is proven and stays so, or why not.
    pub fn handle_fenced(&mut self, now: Instant, charge: Charge, outcome: Result<(), String>) {
        if !self.ended {
            self.fencing.room.handle_fenced(now, charge, outcome);
        }
    }

    /// What is still to be proven of runs that left.
    pub fn fences(&self) -> &[registry::Fence] {
        &self.fencing.pending
    }

    /// Takes over what the registry says, before the view that comes of it.
    pub(crate) fn fences_applied(&mut self, now: Instant, registry: &Registry) {
        self.fencing.pending = registry.fences().cloned().collect();
        self.fencing.room.handle_applied(now, registry);
        if self.has_bug(Planted::IgnoreFences) {
            return;
        }
        let young = self.has_bug(Planted::FencesOfThisView);
        let counts = |fence: &&registry::Fence| !young || fence.epoch == registry.view().epoch;
        let run = |it: &registry::Fence| Member { node: it.node, incarnation: it.incarnation };
        let pending: BTreeSet<Member> = self.fencing.pending.iter().filter(counts).map(run).collect();
        if pending != self.recovery.known().pending {
            self.recovery.handle_fences(now, &pending);
            self.tell_departed(now);
        }
    }

    /// Tells all lockspaces what is known of runs that left.
    pub(crate) fn tell_departed(&mut self, now: Instant) {
        for Space { locks, words } in &mut self.spaces {
            locks.handle_departed(now, words.as_mut(), self.recovery.known());
        }
    }

    pub(crate) fn fence_needs(&self) -> Vec<Need> {
        self.fencing.needs.clone()
    }

    /// Carries what the room has to say. Returns whether anything moved.
    pub(crate) fn drain_fencing(&mut self) -> bool {
        let mut moved = false;
        while let Some(step) = self.fencing.room.poll_output() {
            moved = true;
            self.outputs.push_back(match step {
                Step::Prove(charge) => Output::Fence(charge),
                Step::Propose(command) => Output::Propose(command),
            });
        }
        moved
    }

    /// The earlier run of this node whose fence comes before this one is let in.
    pub(crate) fn run_to_be_fenced(&self) -> Option<Incarnation> {
        let mine =
            |fence: &&registry::Fence| fence.node == self.config.me && fence.needs.contains(&Need::Program);
        self.fencing.pending.iter().find(mine).map(|fence| fence.incarnation)
    }

    /// Whom new grants wait for, in words.
    pub(crate) fn fences_in_words(&self) -> String {
        let one = |fence: &registry::Fence| {
            let (node, run) = (self.node_name(fence.node), fence.incarnation);
            match fence.needs.contains(&Need::Program) {
                true => format!("the fence of {node} (run {run})"),
                false => format!("proof that {node} (run {run}) can do no harm"),
            }
        };
        let all: Vec<_> = self.fencing.pending.iter().map(one).collect();
        format!(
            "what may still be in use by nodes that left is not granted: waiting for {}",
            all.join(" and ")
        )
    }
}
