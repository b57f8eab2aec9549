//! What changes the registry, what came of it, and why not.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;

use oarlock_layout::codec::{Malformed, Reader, Writer};
use oarlock_layout::id::{Epoch, Incarnation, NodeId, SpaceId};
use oarlock_layout::limit::{LABEL_BYTES_MAX, NODES_MAX, SPACES_MAX};
use oarlock_layout::seal::PublicKey;
use oarlock_layout::stamp::Stamp;
use xxhash_rust::xxh3::xxh3_128;

use super::fields::{Field, MAY_SKIP, choice};
use super::record::{
    ClusterId, FENCES_PER_NODE_MAX, FirstSpace, Founder, Need, Out, Role, SpaceSettings, TOKEN_SECONDS_MAX,
    TOKENS_MAX, TokenHash,
};

/// Longest command. The longest that there is founds a cluster with every member and every lockspace it may have.
pub const COMMAND_BYTES_MAX: usize = 160 << 10;

choice! {
    /// One change of the registry, with the condition under which it is one.
    ///
    /// `seen` is the `revision` of the record that the proposer saw when it decided.
    enum Command, "command" {
        /// Makes the cluster. [`Command::found`] gives every founder the same one to propose.
        1 => Init {
            /// Its name that no other has.
            1 => cluster: ClusterId,
            /// Its first members, all of them voters. They get the ids from 0 on, in this order.
            2 => members: Vec<Founder>,
            /// Its first lockspaces. They get the ids from 0 on, in this order; the first is `default`.
            3 => spaces: Vec<FirstSpace>,
            /// Views begin above this: tokens of a cluster that was there before must not fall (R6).
            4 => above: Epoch,
        },
        /// Lets a node of this name join once.
        2 => CreateToken {
            /// One more than the tokens made so far.
            1 => serial: u64,
            /// Of the token.
            2 => hash: TokenHash,
            /// Of the node that may join with it.
            3 => name: String,
            /// Wall time of the proposer, in seconds since 1970.
            4 => wall: u64,
            /// Good before this wall time.
            5 => expires: u64,
        },
        /// Takes a token back.
        3 => RevokeToken {
            /// Which.
            1 => serial: u64,
        },
        /// A node becomes a member. Proposed by the member that it showed its token to.
        4 => Join {
            /// The cluster that it means.
            1 => cluster: ClusterId,
            /// Of the token that it showed.
            2 => hash: TokenHash,
            /// Its name.
            3 => name: String,
            /// Where its circuits listen.
            4 => address: SocketAddr,
            /// Its public key.
            5 => key: PublicKey,
            /// Wall time of the proposer, in seconds since 1970.
            6 => wall: u64,
        },
        /// A member is none any more.
        5 => Leave {
            /// Which.
            1 => node: NodeId,
            /// Of its record.
            2 => seen: u64,
        },
        /// A new run of a member enters: a new view.
        6 => Start {
            /// Which member.
            1 => node: NodeId,
            /// Its key: the member with this id may be another by now.
            2 => key: PublicKey,
            /// The run.
            3 => incarnation: Incarnation,
            /// Chosen at random by this run: tells it from a clone.
            4 => nonce: u64,
            /// What must be proven of its earlier run, if that is surrendered and still in the view.
            5 => fences: Vec<Need>,
        },
        /// A lease goes on, if it has not ended (L2).
        7 => Renew {
            /// Which node.
            1 => node: NodeId,
            /// Which run of it.
            2 => incarnation: Incarnation,
            /// Rises with each renewal sent; the start was 0.
            3 => number: u64,
        },
        /// A run gives itself up: nothing is held or granted under it any more (L5).
        8 => Surrender {
            /// Which node.
            1 => node: NodeId,
            /// Which run of it.
            2 => incarnation: Incarnation,
        },
        /// Puts runs out of the view, all or none.
        9 => Evict {
            /// Of the view that the proposer saw.
            1 => epoch: Epoch,
            /// Who, and why.
            2 => out: Vec<Out>,
            /// Why, for people.
            3 | MAY_SKIP => note: Option<String>,
        },
        /// One proof about an evicted run (L4).
        10 => FenceProven {
            /// Which node.
            1 => node: NodeId,
            /// Which run of it.
            2 => incarnation: Incarnation,
            /// What is proven.
            3 => need: Need,
            /// By whom.
            4 => by: NodeId,
            /// A person says so, whoever should have.
            5 => by_hand: bool,
            /// Which person, for people.
            6 | MAY_SKIP => who: Option<String>,
        },
        /// The fence program proved nothing: it is the next member's turn.
        20 => FenceFailed {
            /// Of which node.
            1 => node: NodeId,
            /// Of which run of it.
            2 => incarnation: Incarnation,
            /// How often it had failed before, as the proposer saw it.
            3 => tried: u32,
            /// Which member ran it.
            4 => by: NodeId,
            /// What came of it, in few words.
            5 => why: String,
        },
        /// A new lockspace.
        11 => CreateSpace {
            /// One more than the highest ever given.
            1 => id: SpaceId,
            /// Its name.
            2 => name: String,
            /// How it behaves.
            3 => settings: SpaceSettings,
        },
        /// A lockspace behaves otherwise from now on.
        12 => ChangeSpace {
            /// Which.
            1 => id: SpaceId,
            /// Of its record.
            2 => seen: u64,
            /// How it behaves.
            3 => settings: SpaceSettings,
        },
        /// A lockspace goes.
        13 => DropSpace {
            /// Which.
            1 => id: SpaceId,
            /// Of its record.
            2 => seen: u64,
        },
        /// No clock has gone beyond this (E5).
        14 => RaiseWatermark {
            /// To where.
            1 => to: Stamp,
        },
        /// A member is to get no new work.
        15 => Drain {
            /// Which.
            1 => node: NodeId,
            /// Of its record.
            2 => seen: u64,
        },
        /// A drained member works again.
        16 => Undrain {
            /// Which.
            1 => node: NodeId,
            /// Of its record.
            2 => seen: u64,
        },
        /// A member votes or ceases to.
        17 => SetRole {
            /// Which.
            1 => node: NodeId,
            /// Of its record.
            2 => seen: u64,
            /// From now on.
            3 => role: Role,
        },
        /// A member is about to change its key: whoever owns the other half of either is the member from now on.
        21 => NextKey {
            /// Which.
            1 => node: NodeId,
            /// Of its record.
            2 => seen: u64,
            /// The key that comes next.
            3 => key: PublicKey,
            /// When it was made, in seconds since 1970 of the member's wall clock.
            4 => made: u64,
        },
        /// A member lets another one in by its next key, and will after a restart.
        22 => KeySeen {
            /// Whose key it is.
            1 => node: NodeId,
            /// Which.
            2 => key: PublicKey,
            /// Who says so, of itself.
            3 => by: NodeId,
        },
        /// The next key of a member is its only one from now on.
        23 => TakeKey {
            /// Which member.
            1 => node: NodeId,
            /// Which key.
            2 => key: PublicKey,
        },
    }
}

impl Command {
    /// The founding of the cluster that people call `name`.
    ///
    /// Its id follows from all the rest but `above`. So all who are told of the same cluster found the same one, and whoever
    /// is told of another one hears of it. `above` is what the founder that comes first has stored: whoever was in a
    /// view that served has stored that view's epoch, so any founder's will do.
    pub fn found(name: &str, members: Vec<Founder>, spaces: Vec<FirstSpace>, above: Epoch) -> Command {
        let unnamed = Command::Init {
            cluster: ClusterId::default(),
            members: members.clone(),
            spaces: spaces.clone(),
            above: Epoch(0),
        };
        let mut bytes = Vec::new();
        Writer::new(&mut bytes).bytes(name.as_bytes());
        bytes.extend(unnamed.to_bytes());
        Command::Init { cluster: xxh3_128(&bytes).to_le_bytes(), members, spaces, above }
    }

    /// As a coordinator keeps and carries it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.put(&mut Writer::new(&mut bytes));
        bytes
    }

    /// From a coordinator.
    ///
    /// # Errors
    /// A command or a critical field of a later version, by its number: a node that meets one must stop applying,
    /// for it cannot know what the others make of it. Everything else means damaged bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Command, Malformed> {
        if bytes.len() > COMMAND_BYTES_MAX {
            let (value, max) = (bytes.len() as u64, COMMAND_BYTES_MAX as u64);
            return Err(Malformed::TooMany { field: "size of a command", value, max });
        }
        let mut r = Reader::new(bytes);
        let command = Command::take(&mut r, "command")?;
        r.end()?;
        Ok(command)
    }
}

/// What came of a command. The same at every node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It changed the registry.
    Done,
    /// It was so already; nothing changed. What the proposer of a repeated command hears.
    Already,
    /// The node is a member.
    Joined {
        /// Its id.
        node: NodeId,
        /// Its runs must be numbered above this: the id may have had another owner.
        above: Incarnation,
        /// It was so already; nothing changed.
        already: bool,
    },
    /// Nothing changed.
    Refused(Refusal),
}

impl Outcome {
    /// Something changed.
    pub const fn changed(&self) -> bool {
        matches!(self, Outcome::Done | Outcome::Joined { already: false, .. })
    }
}

/// Why a command changed nothing. Mostly it came too late: the proposer looks again and decides anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub enum Refusal {
    /// Before `Init`.
    #[error("there is no cluster yet")]
    NoCluster,
    /// Another cluster is meant.
    #[error("this is another cluster")]
    OtherCluster,
    /// A cluster without a member, or whose first lockspace is not `default`.
    #[error("a cluster begins with at least one member, and with `default` as its first lockspace")]
    BadFounding,
    /// A name is empty, too long or has control characters.
    #[error("a name has 1 to {LABEL_BYTES_MAX} bytes and no control characters")]
    BadName,
    /// Names are unique among members and among lockspaces.
    #[error("the name is taken")]
    NameTaken,
    /// A key is one member's only.
    #[error("node {0} has the same key")]
    KeyTaken(NodeId),
    /// No token with this hash is out: never made, used, or revoked.
    #[error("there is no such join token; it may have been used or revoked")]
    NoSuchToken,
    /// The token is for a node of another name.
    #[error("the join token is for a node of another name")]
    TokenForOther,
    /// The token's time is over.
    #[error("the join token expired {seconds} s ago")]
    TokenExpired {
        /// By the proposer's wall clock.
        seconds: u64,
    },
    /// The token was made after the time that it is: the clock by which it is judged was put back, or was ahead before.
    #[error(
        "by the clock of this member the join token is made only in {seconds} s: a clock is wrong; set it, and make another token"
    )]
    TokenEarly {
        /// By the proposer's wall clock, at least.
        seconds: u64,
    },
    /// A token may not live that long, or is over before it begins.
    #[error("a join token lives for 1 to {TOKEN_SECONDS_MAX} s, not for {seconds}")]
    TokenLife {
        /// What was asked.
        seconds: u64,
    },
    /// Too many tokens are out.
    #[error("{TOKENS_MAX} join tokens are out; revoke some")]
    TooManyTokens,
    /// The number of a new token or lockspace is not the next one: somebody else made one meanwhile.
    #[error("number {named} is not the next one, {next} is")]
    NotNext {
        /// What the command says.
        named: u64,
        /// What is next.
        next: u64,
    },
    /// All ids are in use, or wait for fences.
    #[error("there are {NODES_MAX} members, or ids wait for fences of nodes that left")]
    TooManyMembers,
    /// Too many lockspaces.
    #[error("there are {SPACES_MAX} lockspaces, or all ids are used up")]
    TooManySpaces,
    /// No such member, or it has left.
    #[error("node {0} is not a member")]
    NotAMember(NodeId),
    /// No such lockspace.
    #[error("there is no lockspace {0}")]
    NoSuchSpace(SpaceId),
    /// `default` cannot go.
    #[error("the lockspace `default` stays")]
    DefaultStays,
    /// The size of value blocks is not one that there is.
    #[error("value blocks have 0, 32 or 64 bytes, not {0}")]
    BadValue(u16),
    /// The record has changed since the proposer saw it.
    #[error("it changed meanwhile (revision {now}, the command saw {seen})")]
    Changed {
        /// What the proposer saw.
        seen: u64,
        /// What it is.
        now: u64,
    },
    /// A run of the member is still in the view.
    #[error("run {incarnation} of node {node} is in the view; it must be surrendered or evicted first")]
    StillIn {
        /// Which member.
        node: NodeId,
        /// Which run.
        incarnation: Incarnation,
    },
    /// A coordinator without voters decides nothing any more.
    #[error("node {0} is the last voter")]
    LastVoter(NodeId),
    /// Who leaves votes no more by then: the coordinator would still ask for a vote that nobody can give.
    #[error("node {0} still votes; it must be a learner before it leaves")]
    StillVotes(NodeId),
    /// The id belongs to a node with another key.
    #[error("node {0} has another key")]
    OtherKey(NodeId),
    /// The member has announced another key since, or none at all.
    #[error("that is not the next key of node {0}")]
    NotTheNextKey(NodeId),
    /// A member that does not know the next key would be cut off.
    #[error("node {0} does not know the next key yet")]
    KeyUnseen(NodeId),
    /// The run, or a later one, has entered before; or it is a clone of it.
    #[error("run {incarnation} of node {node} does not follow run {entered}, which was in a view already")]
    OldRun {
        /// Which member.
        node: NodeId,
        /// The run that wants in.
        incarnation: Incarnation,
        /// The latest that was in.
        entered: Incarnation,
    },
    /// Too many runs of the node wait for their fences.
    #[error("{FENCES_PER_NODE_MAX} earlier runs of node {0} wait for their fences")]
    FencesPending(NodeId),
    /// A fence of the node must still be made by a program, which knows it by its name.
    #[error(
        "a fence of node {0} is not done yet; the node leaves when it is, or when somebody has confirmed it"
    )]
    FenceFirst(NodeId),
    /// The run is not in the view.
    #[error("run {incarnation} of node {node} is not in the view")]
    NotInView {
        /// Which node.
        node: NodeId,
        /// Which run.
        incarnation: Incarnation,
    },
    /// The run gave itself up; there is no way back.
    #[error("run {incarnation} of node {node} is surrendered")]
    Surrendered {
        /// Which node.
        node: NodeId,
        /// Which run.
        incarnation: Incarnation,
    },
    /// The verdict is about an older view.
    #[error("the verdict is about view {named}, the current one is {current}")]
    OtherView {
        /// What the proposer saw.
        named: Epoch,
        /// What it is.
        current: Epoch,
    },
    /// A renewal came in between (L2).
    #[error("node {node} renewed its lease meanwhile (number {last}, the verdict saw {seen})")]
    Renewed {
        /// Which node.
        node: NodeId,
        /// What the proposer saw.
        seen: u64,
        /// The last one.
        last: u64,
    },
    /// The run has not surrendered.
    #[error("node {0} has not surrendered")]
    NotSurrendered(NodeId),
    /// A verdict names nobody, somebody twice, or too many fences.
    #[error("a verdict names runs in ascending order, each once, and at least one")]
    BadVerdict,
    /// A verdict about silent pairs must leave somebody.
    #[error("the verdict leaves nobody")]
    LeavesNobody,
    /// Every epoch that fits a token is used up (R6).
    #[error("all epochs are used up; tokens could not grow any further in this cluster")]
    EpochsExhausted,
    /// No such fence is pending.
    #[error("no fence against run {incarnation} of node {node} is pending")]
    NoFence {
        /// Which node.
        node: NodeId,
        /// Which run.
        incarnation: Incarnation,
    },
    /// The proof is not this node's to give.
    #[error("node {0} cannot prove that")]
    NotItsProof(NodeId),
    /// No clock may get there.
    #[error("stamp {0} is beyond what any clock may reach")]
    AbsurdStamp(Stamp),
}
