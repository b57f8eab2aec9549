//! Who is in: starts, renewals, surrenders, evictions, fences.

use alloc::string::String;
use alloc::vec::Vec;

use oarlock_layout::id::{Epoch, Incarnation, NodeId};
use oarlock_layout::limit::{NODES_MAX, STAMPS_PER_VIEW};
use oarlock_layout::seal::PublicKey;
use oarlock_layout::stamp::Stamp;
use oarlock_layout::view::{Member, View};

use super::command::{Outcome, Refusal};
use super::record::{
    Basis, Change, FENCES_PER_NODE_MAX, Failed, Fence, HISTORY_MAX, Need, Out, PROOFS_MAX, Proof,
};
use super::{Registry, fits};

/// Proofs of one run, with room for the one about its lease.
const FENCES_MAX: usize = NODES_MAX - 1;

impl Registry {
    pub(super) fn start(
        &mut self,
        node: NodeId,
        key: PublicKey,
        incarnation: Incarnation,
        nonce: u64,
        fences: &[Need],
    ) -> Result<Outcome, Refusal> {
        let member = self.present(node)?;
        // A run that begins while the key changes has either.
        if !member.is_known_by(&key) {
            return Err(Refusal::OtherKey(node));
        }
        let entered = member.entered;
        if incarnation <= entered {
            let same = incarnation == entered && member.nonce == Some(nonce);
            let lives = self.run(node) == Some(incarnation) && !member.surrendered;
            let old = Refusal::OldRun { node, incarnation, entered };
            return if same && lives { Ok(Outcome::Already) } else { Err(old) };
        }
        if self.fences.keys().filter(|(n, _)| *n == node).count() >= FENCES_PER_NODE_MAX {
            return Err(Refusal::FencesPending(node));
        }
        // The fence of an earlier run may be the end of the machine, and with it of this run: it comes first, as long as
        // there is somebody to bring it about.
        let mut own = self.fences.values().filter(|fence| fence.node == node);
        if own.any(|fence| fence.needs.contains(&Need::Program) && self.fencer(fence).is_some()) {
            return Err(Refusal::FencesPending(node));
        }
        let mut out = Vec::new();
        if let Some(incarnation) = self.run(node) {
            if !member.surrendered {
                return Err(Refusal::StillIn { node, incarnation });
            }
            if fences.len() > FENCES_MAX {
                return Err(Refusal::BadVerdict);
            }
            out.push(Out { node, incarnation, basis: Basis::Surrendered, fences: fences.to_vec() });
        }
        self.change_view(out, Some(Member { node, incarnation }), None)?;
        let member = self.present_mut(node);
        (member.entered, member.nonce) = (incarnation, Some(nonce));
        (member.renewal, member.surrendered) = (0, false);
        Ok(Outcome::Done)
    }

    pub(super) fn renew(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        number: u64,
    ) -> Result<Outcome, Refusal> {
        if self.run(node) != Some(incarnation) {
            return Err(Refusal::NotInView { node, incarnation });
        }
        let member = self.present_mut(node);
        if member.surrendered {
            return Err(Refusal::Surrendered { node, incarnation });
        }
        // An older one that was overtaken changes nothing: the lease already counts from a later sending.
        if number <= member.renewal {
            return Ok(Outcome::Already);
        }
        member.renewal = number;
        Ok(Outcome::Done)
    }

    pub(super) fn surrender(&mut self, node: NodeId, incarnation: Incarnation) -> Result<Outcome, Refusal> {
        if self.run(node) == Some(incarnation) {
            let member = self.present_mut(node);
            let before = core::mem::replace(&mut member.surrendered, true);
            return Ok(if before { Outcome::Already } else { Outcome::Done });
        }
        // A run that was put out with its lease going on: this ends the lease, and nobody is left who could do harm.
        let ends = [Need::Lease, Need::Program];
        let pending = self.fences.get(&(node, incarnation));
        if pending.is_some_and(|fence| ends.iter().any(|need| fence.needs.contains(need))) {
            ends.into_iter().for_each(|need| self.prove(node, incarnation, need));
            return Ok(Outcome::Done);
        }
        match self.members.get(&node) {
            Some(member) if incarnation <= member.entered => Ok(Outcome::Already),
            _ => Err(Refusal::NotInView { node, incarnation }),
        }
    }

    pub(super) fn evict(
        &mut self,
        epoch: Epoch,
        out: &[Out],
        note: Option<&String>,
    ) -> Result<Outcome, Refusal> {
        let current = self.view.epoch;
        if epoch != current {
            return Err(Refusal::OtherView { named: epoch, current });
        }
        let ascending = out.windows(2).all(|w| w[0].node < w[1].node);
        if out.is_empty() || !ascending || out.iter().any(|o| o.fences.len() > FENCES_MAX) {
            return Err(Refusal::BadVerdict);
        }
        for run in out {
            self.still_so(run)?;
        }
        let partition = out.iter().any(|o| matches!(o.basis, Basis::Partition { .. }));
        if partition && out.len() == self.view.members.len() {
            return Err(Refusal::LeavesNobody);
        }
        self.change_view(out.to_vec(), None, note.cloned())?;
        Ok(Outcome::Done)
    }

    /// What the proposer of an eviction saw of one run is still so.
    fn still_so(&self, out: &Out) -> Result<(), Refusal> {
        let Out { node, incarnation, .. } = *out;
        if self.run(node) != Some(incarnation) {
            return Err(Refusal::NotInView { node, incarnation });
        }
        let member = &self.members[&node];
        match out.basis {
            Basis::LeaseOver { renewal } if renewal != member.renewal => {
                Err(Refusal::Renewed { node, seen: renewal, last: member.renewal })
            }
            Basis::Surrendered if !member.surrendered => Err(Refusal::NotSurrendered(node)),
            _ => Ok(()),
        }
    }

    /// Makes the next view. Nothing is changed if there is none.
    fn change_view(
        &mut self,
        out: Vec<Out>,
        entered: Option<Member>,
        note: Option<String>,
    ) -> Result<(), Refusal> {
        let epoch = Epoch(self.view.epoch.0.saturating_add(1));
        if !fits(epoch) {
            return Err(Refusal::EpochsExhausted);
        }
        let mut members = self.view.members.clone();
        members.retain(|m| !out.iter().any(|o| o.node == m.node));
        members.extend(entered);
        members.sort_unstable_by_key(|m| m.node);
        self.view = View { epoch, members };
        // A view brings its own range of stamps, above all earlier ones: whatever its members know of those, it is as good.
        self.floor = self.watermark;
        self.watermark = Stamp((self.floor.0 + STAMPS_PER_VIEW).min(Stamp::MAX.0));
        for run in &out {
            self.raise_fence(run, epoch);
            self.present_mut(run.node).put_out(run.basis);
        }
        let entered = entered.into_iter().collect();
        self.history.push(Change { view: self.view.clone(), out, entered, note });
        if self.history.len() > HISTORY_MAX {
            self.history.remove(0);
        }
        Ok(())
    }

    fn raise_fence(&mut self, run: &Out, epoch: Epoch) {
        let mut needs = run.fences.clone();
        // A verdict that rests on neither of the two ways in which a lease ends must wait for one of them (L4).
        let ended = matches!(run.basis, Basis::LeaseOver { .. } | Basis::Surrendered);
        let surrendered = self.members[&run.node].surrendered;
        if !ended && !surrendered {
            needs.push(Need::Lease);
        }
        // A run that gave itself up has nobody left who could do harm: a stop in order must not cost the machine. And a node
        // without others has nobody who could fence it.
        if surrendered || self.members().count() < 2 {
            needs.retain(|need| *need != Need::Program);
        }
        needs.sort_unstable();
        needs.dedup();
        if !needs.is_empty() {
            let Out { node, incarnation, .. } = *run;
            let fence = Fence { node, incarnation, epoch, needs, tries: 0, failed: None };
            self.fences.insert((node, incarnation), fence);
        }
    }

    pub(super) fn fence_proven(
        &mut self,
        (node, incarnation): (NodeId, Incarnation),
        need: Need,
        by: NodeId,
        by_hand: bool,
        who: Option<&String>,
    ) -> Result<Outcome, Refusal> {
        let Some(fence) = self.fences.get(&(node, incarnation)) else {
            let gone = self.members.get(&node).is_some_and(|m| incarnation <= m.entered);
            let none = Refusal::NoFence { node, incarnation };
            return if gone && self.run(node) != Some(incarnation) {
                Ok(Outcome::Already)
            } else {
                Err(none)
            };
        };
        if !fence.needs.contains(&need) {
            return Ok(Outcome::Already);
        }
        let may = match need {
            _ if by_hand => true,
            Need::Client { server } => by == server && self.run(by).is_some(),
            // Anybody's clock will do, also that of a later run of the node.
            Need::Lease => self.run(by).is_some(),
            Need::Tail { .. } | Need::Program => by != node && self.run(by).is_some(),
        };
        if !may {
            return Err(Refusal::NotItsProof(by));
        }
        if by_hand || need == Need::Program {
            if self.proofs.len() == PROOFS_MAX {
                self.proofs.remove(0);
            }
            let (who, tries) = (who.cloned(), fence.tries);
            self.proofs.push(Proof { node, incarnation, need, by, by_hand, who, tries });
        }
        self.prove(node, incarnation, need);
        Ok(Outcome::Done)
    }

    pub(super) fn fence_failed(
        &mut self,
        (node, incarnation): (NodeId, Incarnation),
        tried: u32,
        by: NodeId,
        why: &str,
    ) -> Result<Outcome, Refusal> {
        let Some(fence) = self.fences.get_mut(&(node, incarnation)) else {
            return Err(Refusal::NoFence { node, incarnation });
        };
        if fence.tries > tried || !fence.needs.contains(&Need::Program) {
            return Ok(Outcome::Already);
        }
        if fence.tries < tried || by == node || self.view.member(by).is_none() {
            return Err(Refusal::NotItsProof(by));
        }
        fence.tries = tried.saturating_add(1);
        fence.failed = Some(Failed { by, why: why.into() });
        Ok(Outcome::Done)
    }

    fn prove(&mut self, node: NodeId, incarnation: Incarnation, need: Need) {
        let Some(fence) = self.fences.get_mut(&(node, incarnation)) else { return };
        fence.needs.retain(|n| *n != need);
        if fence.needs.is_empty() {
            self.fences.remove(&(node, incarnation));
        }
    }
}
