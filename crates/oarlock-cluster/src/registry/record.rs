//! What the registry keeps, record by record. Field numbers are never given another meaning.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddr;

use oarlock_layout::id::{Epoch, Incarnation, NodeId, SpaceId};
use oarlock_layout::limit::{NODES_MAX, SPACES_MAX};
use oarlock_layout::seal::PublicKey;
use oarlock_layout::view::{Member, View};

use super::fields::{MAY_SKIP, choice, record};

/// Join tokens that are out at one time.
pub const TOKENS_MAX: usize = 64;
/// Longest life of a join token in seconds.
pub const TOKEN_SECONDS_MAX: u64 = 15 * 60;
/// A member by whose clock a token was made later than this from now on has a wrong clock.
pub const TOKEN_CLOCKS_APART: u64 = 60;
/// Views that are remembered with what made them, the current one included.
pub const HISTORY_MAX: usize = 8;
/// Runs of one node that wait for their fences. A node whose runs pile up is not let in again before some are proven.
pub const FENCES_PER_NODE_MAX: usize = 4;
/// Verdicts about silence in a row that are counted of one node.
pub const CUT_OFF_MAX: u32 = 6;
/// A run that has renewed its lease so often, for five minutes, has shown that its links are good: what was before is forgotten.
pub const CUT_OFF_FORGOTTEN: u64 = 400;
/// Proofs that are remembered after the fence is gone, oldest first.
pub const PROOFS_MAX: usize = 16;

/// The name of a cluster that no other has: chosen at random when it is made.
pub type ClusterId = [u8; 16];
/// What is kept of a join token. The token itself is never in a command, so that neither a log nor a snapshot
/// lets its reader join.
pub type TokenHash = [u8; 32];

choice! {
    /// Part of a member in the coordinator's quorum.
    #[derive(Copy, Hash)]
    enum Role, "role" {
        /// Votes.
        1 => Voter,
        /// Follows; what every member is after it joined.
        2 => Learner,
    }
}

choice! {
    /// In which order the queues of a lockspace are granted (R1).
    #[derive(Copy, Hash)]
    enum Order, "order" {
        /// With the head, all that fits.
        1 => Passover,
        /// A scan stops at the first request that does not fit.
        2 => Strict,
    }
}

record! {
    /// A node that may be in views: who it is, and the last that is known of its runs.
    pub struct MemberRecord, "member", at most NODES_MAX, {
        /// Its id. Given to another node only after this one has left and all its fences are proven.
        1 => node: NodeId,
        /// Its name, of which no other member that has not left has the same.
        2 => name: String,
        /// Where its circuits listen.
        3 => address: SocketAddr,
        /// Whoever owns the other half is the member.
        4 => key: PublicKey,
        /// Whether it votes.
        5 => role: Role,
        /// It is to get no new work. Only a mark; what follows from it is the node's own affair.
        6 => drained: bool,
        /// It is no member any more. The record stays, because its runs must stay known.
        7 => left: bool,
        /// The latest run that entered a view; 0 if none ever did. Older and equal ones never enter again.
        8 => entered: Incarnation,
        /// What that run chose at random when it started: a clone with the same incarnation has another.
        9 => nonce: Option<u64>,
        /// The last renewal of that run's lease; 0 is its start.
        10 => renewal: u64,
        /// That run gave itself up: it holds nothing and grants nothing (L5).
        11 => surrendered: bool,
        /// With which token it joined; none if it founded the cluster.
        12 => token: Option<TokenHash>,
        /// When drain mark, role, membership or the announced key changed last, in changes of the registry.
        13 => revision: u64,
        /// The key that comes after `key`; none while it is not being changed.
        14 => next: Option<NextKey>,
        /// When `key` was made, if it was not the member's first, in seconds since 1970.
        15 | MAY_SKIP => made: Option<u64>,
        /// How often in a row it was put out because it was not heard; none if it was not since its links were good for
        /// [`CUT_OFF_FORGOTTEN`] renewals. Whoever waits to be let in goes by it; no command's outcome rests on it.
        16 | MAY_SKIP => cut_off: Option<u32>,
    }
}

impl MemberRecord {
    /// Notes that its run is put out.
    pub(super) fn put_out(&mut self, basis: Basis) {
        let before = self.cut_off.filter(|_| self.renewal < CUT_OFF_FORGOTTEN).unwrap_or(0);
        let more = u32::from(matches!(basis, Basis::Partition { .. } | Basis::Outvoted { .. }));
        self.cut_off = Some((before + more).min(CUT_OFF_MAX)).filter(|times| *times > 0);
    }

    /// Whoever owns the other half of this key is the member.
    pub fn is_known_by(&self, key: &PublicKey) -> bool {
        self.key == *key || self.next.as_ref().is_some_and(|next| next.key == *key)
    }
}

record! {
    /// A key that a member has announced, and that is good beside the one before.
    pub struct NextKey, "next key", at most 1, {
        /// It.
        1 => key: PublicKey,
        /// When it was made, in seconds since 1970.
        2 => made: u64,
        /// Which other members let its owner in, ascending.
        3 => seen: Vec<NodeId>,
    }
}

record! {
    /// A join token that is out. It is gone once it was used or revoked.
    pub struct Token, "join token", at most TOKENS_MAX, {
        /// Tokens are numbered as they are made, and no number is used twice.
        1 => serial: u64,
        /// Of the token.
        2 => hash: TokenHash,
        /// The only node name that it is good for.
        3 => name: String,
        /// Good before this wall time, in seconds since 1970.
        4 => expires: u64,
    }
}

record! {
    /// How a lockspace behaves and who may use it.
    pub struct SpaceSettings, "settings of a lockspace", at most 1, {
        /// Queue order.
        1 => order: Order,
        /// Bytes of its value blocks; 0 for none.
        2 => value: u16,
        /// Owned modes are kept after the last local release (C14).
        3 => retain: bool,
        /// Resources that a node keeps of it at most.
        4 => resources_max: u32,
        /// User id of the owner.
        5 => owner: u32,
        /// Group id.
        6 => group: u32,
        /// Rights of owner, group and others, as of a file.
        7 => mode: u16,
    }
}

record! {
    /// A lockspace.
    pub struct Space, "lockspace", at most SPACES_MAX, {
        /// Its id. Never reused, so that a late message cannot land in another lockspace.
        1 => id: SpaceId,
        /// Its name.
        2 => name: String,
        /// The rest.
        3 => settings: SpaceSettings,
        /// When it changed last, in changes of the registry.
        4 => revision: u64,
    }
}

choice! {
    /// What the proposer of an eviction saw. The eviction applies only if it is still so.
    #[derive(Copy)]
    enum Basis, "basis of an eviction" {
        /// Lease and drift have passed on the proposer's clock since it *applied* this renewal (L2), and the
        /// registry was there to take another one all that time.
        1 => LeaseOver {
            /// Number of the last renewal that the proposer has applied.
            1 => renewal: u64,
        },
        /// The run gave itself up (L5).
        2 => Surrendered,
        /// It is not in the largest set of members that all hear each other (L7). Its lease may go on.
        3 => Partition {
            /// How many members of the view the proposer found in that set.
            1 => kept: u16,
        },
        /// Somebody said so. Its lease may go on.
        4 => ByHand,
        /// It is in the way of a larger set of runs that hear each other, of which some wait to be let in (L7). Its lease may go on.
        5 => Outvoted {
            /// How many the proposer found in that set.
            1 => kept: u16,
        },
    }
}

choice! {
    /// One thing that must be shown before anything of an evicted run is granted to others (L4).
    #[derive(Copy, PartialOrd, Ord)]
    enum Need, "proof that a fence needs" {
        /// Its lease is over: lease and drift have passed at some member since it applied the last renewal.
        1 => Lease,
        /// The server takes no more writes of it, and those in flight are done.
        2 => Client {
            /// Which server.
            1 => server: NodeId,
        },
        /// As a server of the volume it cannot write any more.
        3 => Tail {
            /// Which volume.
            1 => volume: u32,
        },
        /// The fence program of the cluster has said of its node that it can do no harm any more ([`fencing`](crate::fencing)).
        4 => Program,
    }
}

record! {
    /// A member that founds a cluster.
    pub struct Founder, "founder", at most NODES_MAX, {
        /// Its name.
        1 => name: String,
        /// Where its circuits listen.
        2 => address: SocketAddr,
        /// Its public key.
        3 => key: PublicKey,
    }
}

record! {
    /// A lockspace that a cluster begins with.
    pub struct FirstSpace, "first lockspace", at most SPACES_MAX, {
        /// Its name.
        1 => name: String,
        /// How it behaves.
        2 => settings: SpaceSettings,
    }
}

record! {
    /// A run that is put out of the view.
    pub struct Out, "evicted run", at most NODES_MAX, {
        /// Which node.
        1 => node: NodeId,
        /// Which run of it.
        2 => incarnation: Incarnation,
        /// Why.
        3 => basis: Basis,
        /// What must be proven beside its lease.
        4 => fences: Vec<Need>,
    }
}

record! {
    /// An evicted run of which not everything is proven yet.
    pub struct Fence, "pending fence", at most NODES_MAX * (FENCES_PER_NODE_MAX + 1), {
        /// Which node.
        1 => node: NodeId,
        /// Which run of it.
        2 => incarnation: Incarnation,
        /// The first view without it.
        3 => epoch: Epoch,
        /// What is missing, ascending.
        4 => needs: Vec<Need>,
        /// How often the fence program has failed.
        5 => tries: u32,
        /// The last of these failures.
        6 => failed: Option<Failed>,
    }
}

record! {
    /// A try of the fence program that proved nothing.
    pub struct Failed, "failed fence", at most 1, {
        /// Which member ran it.
        1 => by: NodeId,
        /// What it came to, in few words.
        2 => why: String,
    }
}

record! {
    /// How a fence came to be proven: by its program, or by somebody's word.
    pub struct Proof, "proof of a fence", at most PROOFS_MAX, {
        /// Of which node.
        1 => node: NodeId,
        /// Of which run of it.
        2 => incarnation: Incarnation,
        /// What is proven.
        3 => need: Need,
        /// By which member.
        4 => by: NodeId,
        /// A person said so.
        5 => by_hand: bool,
        /// Who, as the command said that asked.
        6 => who: Option<String>,
        /// How often the program had failed before.
        7 => tries: u32,
    }
}

record! {
    /// A view and the verdict that made it.
    pub struct Change, "view of the history", at most HISTORY_MAX, {
        /// The view.
        1 => view: View,
        /// Who was put out.
        2 => out: Vec<Out>,
        /// Who came in.
        3 => entered: Vec<Member>,
        /// Why, for people.
        4 | MAY_SKIP => note: Option<String>,
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Need::Lease => f.write_str("the end of its lease"),
            Need::Client { server } => write!(f, "a fence against it at server {server}"),
            Need::Tail { volume } => write!(f, "a fence of its own access to volume {volume}"),
            Need::Program => f.write_str("the fence of its node"),
        }
    }
}
