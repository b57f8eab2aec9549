//! Who may do what: one table, and the one function that reads it (I22).
//!
//! ```text
//!   what somebody sends ──► Kind ──► Right ──┐
//!                                            ├──► cell: always, never, or as the lockspace's mode says
//!   who sends it ────────────────► Role ─────┘
//! ```
//!
//! A [`Kind`] names everything that can arrive here: each request of a program, each question of a person, each page over
//! HTTP, each message of another node. Each needs one [`Right`]. Whoever sends it has one [`Role`] or more, and each role has
//! or lacks each right: [`Role::cell`]. All three are matched without a wildcard, so a new kind, right or role does not compile
//! before somebody has decided about it. What no cell allows is refused.
//!
//! The rights to a lockspace are those of a file, and of a POSIX record lock on it: `r` to look and to take modes that only
//! read (NL, CR, PR), `w` to take modes that write (CW, PW, EX) and to write value blocks. The owner has the first three bits
//! of the mode, whoever is of the group and not the owner the next three, everybody else the last. A segment is memory that
//! its programs write, so it needs both.

use alloc::sync::Arc;
use alloc::vec::Vec;

use oarlock_layout::flags::Flags;
use oarlock_layout::id::{NodeId, SpaceId};
use oarlock_layout::message::lock::Body;
use oarlock_layout::message::peer::PeerMessage;
use oarlock_layout::message::session::Request;
use oarlock_layout::mode::Mode;

macro_rules! list {
    ($(#[$doc:meta])* $name:ident: $($(#[$one_doc:meta])* $one:ident),* $(,)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum $name { $($(#[$one_doc])* $one,)* }

        impl $name {
            /// All of them.
            pub const ALL: &[$name] = &[$($name::$one),*];

            /// Its name here.
            pub const fn name(self) -> &'static str {
                match self { $($name::$one => stringify!($one),)* }
            }
        }
    };
}

list! {
    /// Who sends something.
    Role:
    /// The superuser, or the user as whom the daemon runs: it could keep nothing from them.
    Root,
    /// The owner of the lockspace.
    Owner,
    /// Of the lockspace's group, and not its owner.
    Group,
    /// Anybody else with a session.
    Other,
    /// Of the group that may change the cluster from this node. Beside one of the others.
    Operator,
    /// Whoever comes over HTTP: nobody knows who that is.
    Anybody,
    /// A run that the view names, of a node that may use the lockspace.
    Member,
    /// A run that the view names, of a node that may not.
    Bystander,
    /// A run with a circuit that the view does not name, or not any more.
    Outsider,
    /// A node without a circuit: one with a key that no member has, an earlier run than one that is known.
    Stranger,
}

list! {
    /// What something needs.
    Right:
    /// A session, which whoever is let in at the door has.
    Attend,
    /// To find a lockspace and see what is locked in it.
    Look,
    /// To take modes that only read.
    Read,
    /// To take modes that write, and to write or spoil value blocks.
    Write,
    /// To map the lockspace's segment.
    Share,
    /// To change the cluster.
    Operate,
    /// To count: figures that name nodes and lockspaces, and nothing in them.
    Count,
    /// To talk to another node. What of it counts the room that hears it judges, by runs and views.
    Speak,
    /// To state what programs of a node hold and want in a lockspace.
    State,
    /// To decide about resources that the view gives to a node.
    Decide,
}

/// What a role has of a right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cell {
    /// Not at all.
    Never,
    /// Whatever the lockspace's mode says.
    Always,
    /// If the mode has all of these bits for it (4 is `r`, 2 is `w`).
    Bits(u16),
}

const R: u16 = 4;
const RW: u16 = 6;

impl Role {
    /// The table.
    pub const fn cell(self, right: Right) -> Cell {
        use Cell::{Always, Bits, Never};
        use Right::{Attend, Count, Decide, Look, Operate, Read, Share, Speak, State, Write};
        match self {
            Role::Root => match right {
                Attend | Look | Read | Write | Share | Operate | Count => Always,
                Speak | State | Decide => Never,
            },
            Role::Owner | Role::Group | Role::Other => match right {
                Attend | Count => Always,
                Look | Read => Bits(R),
                Write | Share => Bits(RW),
                Operate | Speak | State | Decide => Never,
            },
            Role::Operator => match right {
                // Who is in whose way is what an operator must be able to see. To be in the way is another matter.
                Attend | Look | Operate | Count => Always,
                Read | Write | Share | Speak | State | Decide => Never,
            },
            Role::Anybody => match right {
                Count => Always,
                Attend | Look | Read | Write | Share | Operate | Speak | State | Decide => Never,
            },
            Role::Member => match right {
                Speak | State | Decide => Always,
                Attend | Look | Read | Write | Share | Operate | Count => Never,
            },
            Role::Bystander => match right {
                // It masters resources as any member of the view does; only its programs have no business there.
                Speak | Decide => Always,
                State | Attend | Look | Read | Write | Share | Operate | Count => Never,
            },
            Role::Outsider => match right {
                Speak => Always,
                State | Decide | Attend | Look | Read | Write | Share | Operate | Count => Never,
            },
            Role::Stranger => match right {
                Attend | Look | Read | Write | Share | Operate | Count | Speak | State | Decide => Never,
            },
        }
    }

    /// Has it the right, where the mode of the lockspace is this?
    pub const fn has(self, right: Right, mode: u16) -> bool {
        let bits = match self {
            Role::Owner => mode >> 6 & 7,
            Role::Group => mode >> 3 & 7,
            Role::Other => mode & 7,
            _ => 0,
        };
        match self.cell(right) {
            Cell::Never => false,
            Cell::Always => true,
            Cell::Bits(needed) => bits & needed == needed,
        }
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident needs $right:ident;)*) => {
        list! {
            /// What arrives.
            Kind: $($(#[$doc])* $kind),*
        }

        impl Kind {
            /// What it needs.
            pub const fn right(self) -> Right {
                match self { $(Kind::$kind => Right::$right,)* }
            }
        }
    };
}

kinds! {
    // ----- what programs ask -----
    /// `Hello`
    Hello needs Attend;
    /// `Open`
    Open needs Look;
    /// `Lock` in a mode that only reads
    LockToRead needs Read;
    /// `Lock` in a mode that writes, or that may come to one
    LockToWrite needs Write;
    /// `Convert` to a mode that only reads
    ConvertToRead needs Read;
    /// `Convert` to a mode that writes, or that writes or spoils the value block on its way down
    ConvertToWrite needs Write;
    /// `Unlock`: a program gives back what is its own
    Unlock needs Attend;
    /// `Unlock` that writes or spoils the value block
    UnlockWriting needs Write;
    /// `Cancel`: only of what the session itself asked for
    Cancel needs Attend;
    /// `Ask`; the question in it needs a right of its own
    Ask needs Attend;
    /// `Attach`
    Attach needs Share;
    /// `Knock`
    Knock needs Attend;
    /// `Detach`
    Detach needs Attend;

    // ----- what people ask, in an `Ask` -----
    /// How is the node?
    Status needs Attend;
    /// What has it counted?
    Counters needs Attend;
    /// `locks purge`
    Purge needs Write;
    /// `dlm ls`
    Branches needs Look;
    /// `dlm join`, `dlm leave`
    Branch needs Write;
    /// Who holds and wants what in a lockspace?
    Locks needs Look;
    /// How well is the node?
    Fitness needs Attend;
    /// Make a node of `oarlock dev` deaf to others
    Deafen needs Operate;
    /// How did views come into effect?
    Failovers needs Attend;
    /// What does the coordinator keep?
    Registry needs Attend;
    /// What happened?
    Events needs Attend;
    /// Copy what the coordinator keeps
    Backup needs Operate;
    /// Put a run out
    Evict needs Operate;
    /// Mark a member
    Drain needs Operate;
    /// Vouch for a fence
    Unfence needs Operate;
    /// Make a join token: whoever shows it is let in
    CreateToken needs Operate;
    /// Which deadlocks were broken? Without those in lockspaces one may not look at
    Deadlocks needs Attend;
    /// Which join tokens are out?
    Tokens needs Operate;
    /// Take a join token back
    RevokeToken needs Operate;
    /// End this node's membership, and its run with it
    Leave needs Operate;
    /// End the membership of a node that is lost
    Remove needs Operate;
    /// Give stamps of the cluster clock
    Stamp needs Attend;
    /// Which keys are pinned, and how far a change of one is?
    Keys needs Attend;
    /// Change this node's key
    RotateKey needs Operate;
    /// Let this node's engine begin anew and keep all locks
    Restart needs Operate;

    // ----- what comes over HTTP -----
    /// `GET /metrics`
    Metrics needs Count;
    /// `GET /livez` and `/readyz`
    Health needs Count;

    // ----- what other nodes say -----
    /// `Info`, `Forget`: a shadow states
    Statement needs State;
    /// `Grant`, `Deny`, `Head`, `ForgetAck`: a master decides
    Decision needs Decide;
    /// `Handover`: a master of the view before hands over
    Handover needs Decide;
    /// `Look`, `Seen`, `Barrier`, `Report`, `Pledge`
    Talk needs Speak;
    /// `Trace`, `Traced`, `Verdict`, `Broken`: a search for deadlocks
    Search needs Decide;
    /// `Call`, `Answer` of coordinators
    Coordination needs Speak;
}

const fn writes(mode: Mode) -> bool {
    // NL reads nothing, but keeps a record: whoever may not even read has no business to make one.
    match mode {
        Mode::NL | Mode::CR | Mode::PR => false,
        Mode::CW | Mode::PW | Mode::EX => true,
    }
}

/// A second choice counts as well: what may be granted is what must be allowed.
fn may_write(mode: Mode, flags: Flags) -> bool {
    // What its node owns at once because of a hint it could write under. What is to stay keeps writers out when nobody is there any
    // more whom they could ask, and whoever takes over what stayed can give it back.
    let more = Flags::LIKELYPW | Flags::LIKELYEX | Flags::PERSISTENT | Flags::ORPHAN;
    writes(mode) || flags.intersects(Flags::ALTCW | Flags::IVVALBLK | more)
}

impl Kind {
    /// Of a program's request.
    pub fn of(request: &Request) -> Kind {
        match request {
            Request::Hello { .. } => Kind::Hello,
            Request::Open { .. } => Kind::Open,
            Request::Lock(m) if may_write(m.mode, m.flags) => Kind::LockToWrite,
            Request::Lock(_) => Kind::LockToRead,
            Request::Convert(m) if may_write(m.mode, m.flags) || m.value.is_some() => Kind::ConvertToWrite,
            Request::Convert(_) => Kind::ConvertToRead,
            Request::Unlock { value: None, invalidate: false, .. } => Kind::Unlock,
            Request::Unlock { .. } => Kind::UnlockWriting,
            Request::Cancel { .. } => Kind::Cancel,
            Request::Ask { .. } => Kind::Ask,
            Request::Attach { .. } => Kind::Attach,
            Request::Knock => Kind::Knock,
            Request::Detach => Kind::Detach,
        }
    }

    /// Of another node's message.
    pub const fn of_peer(message: &PeerMessage) -> Kind {
        match message {
            PeerMessage::Lock(packet) => Kind::of_body(&packet.body),
            PeerMessage::Look(_)
            | PeerMessage::Seen(_)
            | PeerMessage::Barrier(_)
            | PeerMessage::Report(_)
            | PeerMessage::Pledge(_) => Kind::Talk,
            PeerMessage::Trace(_)
            | PeerMessage::Traced(_)
            | PeerMessage::Verdict(_)
            | PeerMessage::Broken(_) => Kind::Search,
            PeerMessage::Call { .. } | PeerMessage::Answer { .. } => Kind::Coordination,
        }
    }

    /// Of what a master or a shadow says.
    pub const fn of_body(body: &Body) -> Kind {
        match body {
            Body::Info(_) | Body::Forget(_) => Kind::Statement,
            Body::Grant(_) | Body::Deny(_) | Body::Head(_) | Body::ForgetAck(_) => Kind::Decision,
            Body::Handover(_) => Kind::Handover,
        }
    }
}

/// To whom a lockspace is given. The default gives it to nobody but root.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// Its owner, as a number of this machine.
    pub owner: u32,
    /// Its group, likewise.
    pub group: u32,
    /// Nine bits, as those of a file; `x` means nothing.
    pub mode: u16,
    /// The nodes whose programs may use it; none: all.
    pub nodes: Option<Vec<NodeId>>,
}

impl Access {
    /// May programs of this node use it?
    pub fn is_for(&self, node: NodeId) -> bool {
        self.nodes.as_ref().is_none_or(|nodes| nodes.contains(&node))
    }

    /// As whom somebody comes to it. As with a file the first that fits decides, also if it has less than the others.
    pub fn class(&self, who: &Who) -> Role {
        match () {
            () if who.root => Role::Root,
            () if who.uid == self.owner => Role::Owner,
            () if who.groups.contains(&self.group) => Role::Group,
            () => Role::Other,
        }
    }
}

/// A program or a person at the door, as the kernel attests. The default is nobody.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Who {
    /// User.
    pub uid: u32,
    /// All its groups, the primary one among them.
    #[serde(with = "oarlock_layout::written::shared")]
    pub groups: Arc<[u32]>,
    /// It is the superuser or the daemon's own user.
    pub root: bool,
    /// It may change the cluster.
    pub operator: bool,
}

impl Default for Who {
    fn default() -> Who {
        // The number that no user can have.
        Who { uid: u32::MAX, groups: Arc::default(), root: false, operator: false }
    }
}

impl Who {
    /// Somebody from whom nothing is kept.
    pub fn root() -> Who {
        Who { root: true, ..Who::default() }
    }

    fn roles(&self, access: &Access) -> impl Iterator<Item = Role> {
        [Some(access.class(self)), self.operator.then_some(Role::Operator)].into_iter().flatten()
    }

    /// Has somebody this right, where a lockspace is given like this?
    pub fn has(&self, right: Right, access: &Access) -> bool {
        self.roles(access).any(|role| role.has(right, access.mode))
    }
}

/// All lockspaces, by id.
pub type Accesses = Arc<[Access]>;

/// What somebody with a session may do at a node.
#[derive(Clone, Debug)]
pub struct Permit {
    /// Who it is.
    pub who: Who,
    /// To whom the lockspaces are given.
    pub accesses: Accesses,
    /// At which node.
    pub node: NodeId,
}

/// Why something is not allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denied {
    /// To this user, in this lockspace.
    Space(SpaceId, Right),
    /// To no program of this node, in this lockspace.
    Node(SpaceId),
    /// To whoever is no operator.
    Operator,
}

impl Permit {
    /// May it do this, in this lockspace if it concerns one? All that a session asks comes by here. What concerns a lockspace
    /// or a lock that is not there passes: there is nothing to protect, and whoever asks hears that.
    pub fn check(&self, kind: Kind, space: Option<SpaceId>) -> Result<(), Denied> {
        let right = kind.right();
        match right {
            Right::Look | Right::Read | Right::Write | Right::Share => {
                let Some(space) = space else { return Ok(()) };
                let Some(access) = self.accesses.get(usize::from(space.0)) else { return Ok(()) };
                if right != Right::Look && !access.is_for(self.node) {
                    return Err(Denied::Node(space));
                }
                if self.who.has(right, access) { Ok(()) } else { Err(Denied::Space(space, right)) }
            }
            // These are no lockspace's, so no mode gives them.
            Right::Attend | Right::Operate | Right::Count | Right::Speak | Right::State | Right::Decide => {
                match self.who.has(right, &Access::default()) {
                    true => Ok(()),
                    false => Err(Denied::Operator),
                }
            }
        }
    }

    /// May it look at this lockspace?
    pub fn sees(&self, space: SpaceId) -> bool {
        self.check(Kind::Locks, Some(space)).is_ok()
    }

    /// What it may do in a lockspace, as two letters.
    pub fn letters(&self, space: SpaceId) -> &'static str {
        let may = |kind| self.check(kind, Some(space)).is_ok();
        match (may(Kind::Locks), may(Kind::LockToRead), may(Kind::LockToWrite)) {
            (_, _, true) => "rw",
            (_, true, false) => "r",
            (true, false, false) => "look",
            (false, false, false) => "-",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn who(uid: u32, groups: &[u32]) -> Who {
        Who { uid, groups: groups.into(), ..Who::default() }
    }

    /// As with a file: the owner has the owner's bits, also where the group or everybody has more.
    #[test]
    fn the_first_class_that_fits_decides() {
        let access = Access { owner: 10, group: 20, mode: 0o046, nodes: None };
        let cases = [
            (who(10, &[20]), Role::Owner, false, false),
            (who(11, &[5, 20]), Role::Group, true, false),
            (who(11, &[5]), Role::Other, true, true),
            (Who { root: true, ..who(10, &[]) }, Role::Root, true, true),
            (Who { operator: true, ..who(10, &[]) }, Role::Owner, false, false),
        ];
        for (who, class, read, write) in cases {
            assert_eq!(access.class(&who), class);
            let has = |right| who.has(right, &access);
            assert_eq!(
                (has(Right::Read), has(Right::Write), has(Right::Share)),
                (read, write, write),
                "{who:?}"
            );
            assert_eq!(has(Right::Look), read || who.operator);
            assert_eq!(has(Right::Operate), who.root || who.operator);
        }
    }

    #[test]
    fn a_lockspace_that_was_given_to_nobody_is_roots() {
        let nobody = Access::default();
        for right in [Right::Look, Right::Read, Right::Write, Right::Share] {
            assert!(!who(0, &[0]).has(right, &nobody), "{right:?}");
            assert!(Who::root().has(right, &nobody), "{right:?}");
        }
    }

    #[test]
    fn programs_of_other_nodes_may_look_and_no_more_whoever_they_are() {
        let accesses: Accesses = vec![Access { nodes: Some(vec![NodeId(1)]), ..Access::default() }].into();
        let permit = |node| Permit { who: Who::root(), accesses: accesses.clone(), node: NodeId(node) };
        let space = Some(SpaceId(0));
        for kind in [Kind::LockToRead, Kind::LockToWrite, Kind::ConvertToWrite, Kind::Attach] {
            assert_eq!(permit(0).check(kind, space), Err(Denied::Node(SpaceId(0))), "{kind:?}");
            assert_eq!(permit(1).check(kind, space), Ok(()), "{kind:?}");
        }
        assert_eq!(permit(0).check(Kind::Locks, space), Ok(()));
        assert_eq!((permit(0).letters(SpaceId(0)), permit(1).letters(SpaceId(0))), ("look", "rw"));
    }
}
