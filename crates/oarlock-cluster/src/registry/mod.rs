//! The low-rate truth of a cluster: one state machine, the same at every node.
//!
//! ```text
//!    Command ──► coordinator ──► one order ──► Registry::apply at every node ──► Outcome
//!                (any engine that agrees on an order: it knows nothing of what is in a command)
//!
//!    cluster · members · join tokens        who may be in views
//!    view · history · renewals · fences     who is in, why, and what is still to be proven of those who were
//!    lockspaces · watermark                 what they share
//! ```
//!
//! # Repeated and late commands
//!
//! A coordinator may apply a command twice, or long after its proposer has given up. No request ids are kept for that:
//! **every command carries the condition under which it is still wanted, and once it was applied that
//! condition is false or the command says what is so already.** Whoever repeats hears [`Outcome::Already`] or a
//! refusal that says what happened. Request ids would need a memory per proposer that outlives its restarts, and would
//! not help against a command that is applied once, but late: `drain` after somebody has said `undrain`. The conditions:
//!
//! | command | condition |
//! | --- | --- |
//! | `Init` | there is no cluster |
//! | `CreateToken`, `CreateSpace` | its number is the next one; numbers are never reused |
//! | `Join` | the token is out; used tokens are gone |
//! | `Leave`, `Drain`, `Undrain`, `SetRole`, `ChangeSpace`, `DropSpace` | the record has not changed since the proposer saw it |
//! | `NextKey` | the record has not changed since the proposer saw it |
//! | `KeySeen`, `TakeKey` | the key is the one that the member announced last |
//! | `Start` | its incarnation is above every one that entered |
//! | `Renew` | the run is in the view, not surrendered, and the number is new |
//! | `Surrender`, `FenceProven`, `RevokeToken`, `RaiseWatermark` | once true, true for good |
//! | `FenceFailed` | it has failed no more often than the proposer saw |
//! | `Evict` | the view is the one that the proposer saw, and so is each basis |
//!
//! # Why nobody who may still hold a lock is called dead (L2)
//!
//! `Evict` with [`Basis::LeaseOver`] applies only if the last renewal applied for that run is *still the one that the
//! proposer named*, and the proposer sends it only when lease and drift have passed **on its own clock since it
//! applied** that renewal. Then, at whichever moment the eviction is applied:
//!
//! * The member counts its lease from the moment it *sent* a renewal, less a margin, and only if that renewal was
//!   applied ([`Lease`](crate::Lease)). Sending comes before applying anywhere, the member's time is shorter, the
//!   proposer's is longer, and margin and drift cover the difference of two clocks over one lease. So the deadline
//!   that the named renewal gave the member was over before the eviction was proposed.
//! * A renewal that is applied before the eviction makes it fail. One that comes after it is refused, so the member
//!   never counts it. One that is never applied never counted.
//!
//! Two clocks are compared over one interval, the member's and the proposer's; no leader's memory and no third clock
//! takes part. The interleaving that breaks the obvious design cannot happen:
//!
//! ```text
//! old leader, cut off with N           the others
//! N: Renew 8 ──► leader: "fine"        new leader; nothing of N since Renew 7
//!    (from memory, no quorum)          Evict N
//! ```
//!
//! "Fine" is no confirmation here: what counts for N is its own `Renew 8` *applied*, and for that the others must have
//! agreed to put it into the order, before or after `Evict`. A leader that was elected a moment ago and has heard
//! nothing of N is no danger either: renewals are counted in the order, not in its memory. Nor is a proposer that
//! was paused, or whose command was: late evictions meet later renewals and are refused.
//!
//! Partition and operators' verdicts may hit a run whose lease goes on. The registry then asks for one more proof,
//! [`Need::Lease`], before anything of that run may be granted to others.
//!
//! # Bytes
//!
//! Commands and snapshots are records of numbered fields. A reader skips a field that it does not know only if the
//! writer allowed it; an unknown command, choice or other field is an error that names its number.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use oarlock_layout::id::{Epoch, Incarnation, NodeId, SpaceId};
use oarlock_layout::limit::LABEL_BYTES_MAX;
use oarlock_layout::stamp::Stamp;
use oarlock_layout::view::View;

mod anew;
mod command;
mod fields;
mod keys;
mod members;
mod record;
mod snapshot;
mod spaces;
mod views;

pub use anew::{RUNS_SKIPPED, VIEWS_SKIPPED};
pub use command::{COMMAND_BYTES_MAX, Command, Outcome, Refusal};
pub use record::{
    Basis, CUT_OFF_FORGOTTEN, CUT_OFF_MAX, Change, ClusterId, FENCES_PER_NODE_MAX, Failed, Fence, FirstSpace,
    Founder, HISTORY_MAX, MemberRecord, Need, NextKey, Order, Out, PROOFS_MAX, Proof, Role, Space,
    SpaceSettings, TOKEN_CLOCKS_APART, TOKEN_SECONDS_MAX, TOKENS_MAX, Token, TokenHash,
};
pub use snapshot::{RestoreError, SNAPSHOT_BYTES_MAX};

/// The low-rate truth of a cluster. See the [module](self) for what it promises.
///
/// [`apply`](Registry::apply) is the only way to change it; everything else looks. It knows no time: what depends on
/// time was decided by the proposer, and the condition in the command makes sure that it still holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Registry {
    cluster: Option<ClusterId>,
    /// Changes so far.
    revision: u64,
    members: BTreeMap<NodeId, MemberRecord>,
    tokens: BTreeMap<u64, Token>,
    /// Serial of the last token ever made.
    last_token: u64,
    view: View,
    /// Oldest first; the last one made `view`.
    history: Vec<Change>,
    fences: BTreeMap<(NodeId, Incarnation), Fence>,
    /// How the last fences were proven, oldest first.
    proofs: Vec<Proof>,
    spaces: BTreeMap<SpaceId, Space>,
    /// Highest id ever given to a lockspace.
    last_space: SpaceId,
    /// The watermark when the view came; all stamps of the view are above it.
    floor: Stamp,
    watermark: Stamp,
    /// Which beginning this is, if it was not the founding.
    restoration: Option<u64>,
}

impl Registry {
    /// A registry that no command was applied to.
    pub fn new() -> Registry {
        Registry::default()
    }

    /// Applies the next command of the order. Whatever is not [`changed`](Outcome::changed) has changed no byte.
    pub fn apply(&mut self, command: &Command) -> Outcome {
        let outcome = self.try_apply(command).unwrap_or_else(Outcome::Refused);
        if outcome.changed() {
            self.revision += 1;
        }
        outcome
    }

    fn try_apply(&mut self, command: &Command) -> Result<Outcome, Refusal> {
        if let Command::Init { cluster, members, spaces, above } = command {
            return self.init(*cluster, members, spaces, *above);
        }
        let ours = self.cluster.ok_or(Refusal::NoCluster)?;
        match command {
            Command::Init { .. } => unreachable!("handled above"),
            Command::CreateToken { serial, hash, name, wall, expires } => {
                self.create_token(*serial, *hash, name, *wall, *expires)
            }
            Command::RevokeToken { serial } => Ok(match self.tokens.remove(serial) {
                Some(_) => Outcome::Done,
                None => Outcome::Already,
            }),
            Command::Join { cluster, .. } if *cluster != ours => Err(Refusal::OtherCluster),
            Command::Join { hash, name, address, key, wall, .. } => {
                self.join(*hash, name, *address, *key, *wall)
            }
            Command::Leave { node, seen } => self.leave(*node, *seen),
            Command::Start { node, key, incarnation, nonce, fences } => {
                self.start(*node, *key, *incarnation, *nonce, fences)
            }
            Command::Renew { node, incarnation, number } => self.renew(*node, *incarnation, *number),
            Command::Surrender { node, incarnation } => self.surrender(*node, *incarnation),
            Command::Evict { epoch, out, note } => self.evict(*epoch, out, note.as_ref()),
            Command::FenceProven { node, incarnation, need, by, by_hand, who } => {
                self.fence_proven((*node, *incarnation), *need, *by, *by_hand, who.as_ref())
            }
            Command::FenceFailed { node, incarnation, tried, by, why } => {
                self.fence_failed((*node, *incarnation), *tried, *by, why)
            }
            Command::CreateSpace { id, name, settings } => self.create_space(*id, name, settings),
            Command::ChangeSpace { id, seen, settings } => self.change_space(*id, *seen, settings),
            Command::DropSpace { id, seen } => self.drop_space(*id, *seen),
            Command::RaiseWatermark { to } => self.raise_watermark(*to),
            Command::Drain { node, seen } => self.drain(*node, *seen, true),
            Command::Undrain { node, seen } => self.drain(*node, *seen, false),
            Command::SetRole { node, seen, role } => self.set_role(*node, *seen, *role),
            Command::NextKey { node, seen, key, made } => self.next_key(*node, *seen, *key, *made),
            Command::KeySeen { node, key, by } => self.key_seen(*node, key, *by),
            Command::TakeKey { node, key } => self.take_key(*node, key),
        }
    }

    /// The cluster, once there is one.
    pub const fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// Changes so far.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Who is in. Epoch 0 or the one that the cluster began above, and nobody, before the first start.
    pub const fn view(&self) -> &View {
        &self.view
    }

    /// The last views and what made them, oldest first.
    pub fn history(&self) -> &[Change] {
        &self.history
    }

    /// The member with this id, also if it has left.
    pub fn member(&self, node: NodeId) -> Option<&MemberRecord> {
        self.members.get(&node)
    }

    /// All members that have not left, lowest id first.
    pub fn members(&self) -> impl Iterator<Item = &MemberRecord> {
        self.members.values().filter(|m| !m.left)
    }

    /// Join tokens that are out, oldest first.
    pub fn tokens(&self) -> impl Iterator<Item = &Token> {
        self.tokens.values()
    }

    /// The serial that the next token must have.
    pub const fn next_token(&self) -> u64 {
        self.last_token + 1
    }

    /// Evicted runs of which not everything is proven, lowest id first. Nothing of theirs may be granted to others.
    pub fn fences(&self) -> impl Iterator<Item = &Fence> {
        self.fences.values()
    }

    /// How the last fences were proven by a program or by somebody's word, oldest first.
    pub fn proofs(&self) -> &[Proof] {
        &self.proofs
    }

    /// Whose turn it is to run the fence program against this run: that of the members in the view one after the other, and
    /// the next after each failure. None while nobody but the fenced node is there.
    pub fn fencer(&self, fence: &Fence) -> Option<NodeId> {
        let others = || self.view.nodes().filter(|node| *node != fence.node);
        others().nth(fence.tries as usize % others().count().max(1))
    }

    /// All lockspaces, lowest id first.
    pub fn spaces(&self) -> impl Iterator<Item = &Space> {
        self.spaces.values()
    }

    /// The id that the next lockspace must have; none if they are used up.
    pub fn next_space(&self) -> Option<SpaceId> {
        self.last_space.0.checked_add(1).map(SpaceId)
    }

    /// No member of the view announces a ceiling above this, so no clock goes beyond (E5). It rises with every view, and by
    /// [`Command::RaiseWatermark`] when a clock comes near it.
    pub const fn watermark(&self) -> Stamp {
        self.watermark
    }

    /// What [`watermark`](Registry::watermark) was when the view came. No clock of an earlier view has gone beyond it, and none of
    /// this view begins below: that holds if every disk but the coordinator's is lost (E8).
    pub const fn floor(&self) -> Stamp {
        self.floor
    }

    /// Tells a cluster that [began anew](Registry::anew) from what it was before; none if it never did.
    pub const fn restoration(&self) -> Option<u64> {
        self.restoration
    }

    /// The run of `node` that is in the view, if any.
    pub fn run(&self, node: NodeId) -> Option<Incarnation> {
        self.view.member(node).map(|m| m.incarnation)
    }

    /// The revision that the change under way will have.
    const fn next_revision(&self) -> u64 {
        self.revision + 1
    }

    fn raise_watermark(&mut self, to: Stamp) -> Result<Outcome, Refusal> {
        if to > Stamp::MAX {
            return Err(Refusal::AbsurdStamp(to));
        }
        if to <= self.watermark {
            return Ok(Outcome::Already);
        }
        self.watermark = to;
        Ok(Outcome::Done)
    }
}

/// Names are printed in tables and put in file names.
fn check_name(name: &str) -> Result<(), Refusal> {
    let fits = (1..=LABEL_BYTES_MAX).contains(&name.len());
    if fits && !name.chars().any(char::is_control) { Ok(()) } else { Err(Refusal::BadName) }
}

/// A record is as its proposer saw it.
const fn unchanged(seen: u64, now: u64) -> Result<(), Refusal> {
    if seen == now { Ok(()) } else { Err(Refusal::Changed { seen, now }) }
}

/// Epochs that fit a token.
const fn fits(epoch: Epoch) -> bool {
    epoch.0 >> oarlock_layout::limit::EPOCH_BITS == 0
}
