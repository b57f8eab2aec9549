//! The engine and its fence: what is begun, what came of it, and what is remembered of fences anywhere.

use oarlock_cluster::fencing::Charge;
use oarlock_cluster::registry::{Fence, Need, Proof, Registry};
use oarlock_layout::code::Code;
use oarlock_layout::id::NodeId;
use oarlock_layout::time::Instant;

use super::{Engine, Level};

impl Engine {
    /// It is this node's turn to fence a run.
    pub(super) fn fence(&mut self, now: Instant, charge: Charge) {
        let name = self.name_of(charge.node);
        let text = format!("it is this node's turn to fence {name} (run {})", charge.incarnation);
        self.events.note(Level::Info, None, text);
        self.p.fence.begin(now, charge, &name);
        // What cannot even begin has failed by now.
        self.hear_of_fences(now);
    }

    /// Takes in what came of it.
    pub(super) fn hear_of_fences(&mut self, now: Instant) {
        while let Some((charge, outcome)) = self.p.fence.poll(now) {
            self.p.node.handle_fenced(now, charge, outcome);
        }
    }

    /// What the registry says of fences for the first time: every node remembers it, with the time at which it heard.
    pub(super) fn note_fences(&mut self, registry: &Registry) {
        // What was there before this run heard of anything is no news.
        let Some(before) = self.registry.clone() else { return };
        for fence in registry.fences() {
            let old = before.fences().find(|it| (it.node, it.incarnation) == (fence.node, fence.incarnation));
            let name = self.name_of(fence.node);
            if old.is_none() && fence.needs.contains(&Need::Program) {
                let run = fence.incarnation;
                let text = format!("nothing of {name} (run {run}) is granted to others before it is fenced");
                self.events.note(Level::Warn, Some(Code::Recovering), text);
            }
            if let Some(failed) =
                fence.failed.as_ref().filter(|_| old.is_none_or(|it| it.tries < fence.tries))
            {
                let (by, tries, why) = (self.name_of(failed.by), fence.tries, &failed.why);
                let text = format!(
                    "try {tries} to fence {name} (run {}), at {by}, failed: {why}",
                    fence.incarnation
                );
                self.events.note(Level::Warn, Some(Code::Recovering), text);
            }
        }
        for gone in before.fences() {
            let run = (gone.node, gone.incarnation);
            let still = |it: &Fence| (it.node, it.incarnation) == run && it.needs.contains(&Need::Program);
            if !registry.fences().any(still) && self.p.fence.withdraw(gone.node, gone.incarnation) {
                let (name, run) = (self.name_of(gone.node), gone.incarnation);
                let text = format!(
                    "the program at this node that was fencing {name} (run {run}) is ended: it need not be fenced any more"
                );
                self.events.note(Level::Info, None, text);
            }
        }
        for proof in registry.proofs().iter().filter(|proof| !before.proofs().contains(proof)) {
            let (level, text) = self.proven(proof);
            self.events.note(level, None, text);
        }
    }

    fn proven(&self, proof: &Proof) -> (Level, String) {
        let (name, by) = (self.name_of(proof.node), self.name_of(proof.by));
        let run = proof.incarnation;
        match (proof.by_hand, &proof.who) {
            (false, _) => (Level::Info, format!("{name} (run {run}) is fenced, by {by}")),
            (true, who) => {
                let who = who.as_deref().unwrap_or("somebody");
                (
                    Level::Warn,
                    format!("{who} confirmed by hand at {by}, of {name} (run {run}): {}", proof.need),
                )
            }
        }
    }

    fn name_of(&self, node: NodeId) -> String {
        self.p.node.member_name(node).map_or_else(|| format!("node {node}"), Into::into)
    }
}
