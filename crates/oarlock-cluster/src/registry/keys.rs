//! Members that change their key: announced, known to everybody, taken.
//!
//! ```text
//!            NextKey                 KeySeen of every other member              TakeKey
//!   key = a ─────────► key = a, next = b ──────────────────────────► (the same) ─────────► key = b
//!   a is let in        a and b are let in       b is used from here on          b alone is let in
//! ```
//!
//! Nobody is ever cut off by it. Before the first key goes, every member has said that it knows the second one, and says
//! so only when it would still know it after a restart.

use oarlock_layout::id::NodeId;
use oarlock_layout::seal::PublicKey;

use super::command::{Outcome, Refusal};
use super::record::NextKey;
use super::{Registry, unchanged};

impl Registry {
    pub(super) fn next_key(
        &mut self,
        node: NodeId,
        seen: u64,
        key: PublicKey,
        made: u64,
    ) -> Result<Outcome, Refusal> {
        let member = self.present(node)?;
        if member.is_known_by(&key) {
            return Ok(Outcome::Already);
        }
        unchanged(seen, member.revision)?;
        if let Some(other) = self.members().find(|m| m.is_known_by(&key)) {
            return Err(Refusal::KeyTaken(other.node));
        }
        let revision = self.next_revision();
        let member = self.present_mut(node);
        // One that was announced before and not taken is none any more: a member that has lost it makes another.
        member.next = Some(NextKey { key, made, seen: alloc::vec![] });
        member.revision = revision;
        Ok(Outcome::Done)
    }

    pub(super) fn key_seen(&mut self, node: NodeId, key: &PublicKey, by: NodeId) -> Result<Outcome, Refusal> {
        self.present(by)?;
        if self.present(node)?.key == *key {
            return Ok(Outcome::Already);
        }
        let next = self.present_mut(node).next.as_mut().filter(|next| next.key == *key);
        let next = next.ok_or(Refusal::NotTheNextKey(node))?;
        // The member itself knows it anyway.
        match next.seen.binary_search(&by) {
            Err(at) if by != node => next.seen.insert(at, by),
            _ => return Ok(Outcome::Already),
        }
        Ok(Outcome::Done)
    }

    pub(super) fn take_key(&mut self, node: NodeId, key: &PublicKey) -> Result<Outcome, Refusal> {
        let member = self.present(node)?;
        if member.key == *key {
            return Ok(Outcome::Already);
        }
        let next = member.next.as_ref().filter(|next| next.key == *key);
        let next = next.ok_or(Refusal::NotTheNextKey(node))?;
        let made = next.made;
        if let Some(unaware) = self.unaware(node).next() {
            return Err(Refusal::KeyUnseen(unaware));
        }
        let revision = self.next_revision();
        let member = self.present_mut(node);
        (member.key, member.next, member.made) = (*key, None, Some(made));
        member.revision = revision;
        Ok(Outcome::Done)
    }

    /// Members that have not said yet that they know the next key of this one; nobody if it has none.
    pub fn unaware(&self, node: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let next = self.member(node).filter(|m| !m.left).and_then(|m| m.next.as_ref());
        let unaware = move |next: &NextKey, other: NodeId| other != node && !next.seen.contains(&other);
        let all = next.into_iter().flat_map(|next| self.members().map(move |m| (next, m.node)));
        all.filter(move |(next, other)| unaware(next, *other)).map(|(_, other)| other)
    }
}
