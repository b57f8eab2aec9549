//! Stable error codes and the exit status each leads to.
//!
//! A code is printed as `OAR-2101`, explained by `oarlock explain`, carried on the session socket and never
//! given another meaning. Thousands sort them: 1 the command line and configuration, among them 15 joining; 2 locks, 3 health,
//! 5 circuits.

use core::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, exit $exit:literal;)*) => {
        /// A stable error code.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[non_exhaustive]
        #[repr(u16)]
        pub enum Code {
            $($(#[$doc])* $name = $number,)*
        }

        impl Code {
            /// Every code, ascending.
            pub const ALL: &[Code] = &[$(Code::$name),*];

            /// The exit status of a command that ends with this error.
            pub const fn exit(self) -> u8 {
                match self { $(Code::$name => $exit,)* }
            }

            /// The code with this number.
            pub const fn from_number(number: u16) -> Option<Code> {
                match number { $($number => Some(Code::$name),)* _ => None }
            }
        }
    };
}

codes! {
    /// The command line does not make sense.
    Usage = 1001, exit 2;
    /// Something failed that has no code of its own; the message says what.
    Failed = 1002, exit 1;
    /// No daemon answers on the socket.
    NoDaemon = 1101, exit 69;
    /// The socket may not be opened by this user.
    SocketDenied = 1102, exit 77;
    /// Daemon and client speak different protocol versions.
    SessionVersion = 1103, exit 69;
    /// A Unix socket path has at most 107 bytes.
    SocketPathTooLong = 1104, exit 78;
    /// Another daemon listens on the socket.
    SocketInUse = 1105, exit 69;
    /// Another program listens on the UDP or HTTP address.
    AddressInUse = 1106, exit 69;
    /// The address is not one of this machine.
    AddressNotHere = 1107, exit 78;
    /// The peer sent bytes that are no session message.
    SessionMalformed = 1108, exit 1;
    /// The session was opened by the parent of this process; sessions do not pass through fork (M12).
    SessionForked = 1109, exit 1;
    /// Whoever asks is no operator of this node.
    NotOperator = 1110, exit 77;
    /// The configuration cannot be read or does not make sense.
    BadConfig = 1201, exit 78;
    /// The configuration has a key that nobody knows.
    UnknownKey = 1202, exit 78;
    /// A key file is readable by others than its owner.
    KeyPermissions = 1203, exit 78;
    /// A key file does not hold a key.
    KeyMalformed = 1204, exit 78;
    /// The key is not the one that the configuration names for this node.
    KeyMismatch = 1205, exit 78;
    /// A data directory cannot be used or is in use.
    DataDir = 1206, exit 78;
    /// The file of the coordinator cannot be used.
    CoordinatorFile = 1207, exit 78;
    /// The node belongs to no cluster yet.
    NoCluster = 1208, exit 78;
    /// The node belongs to a cluster already.
    InCluster = 1209, exit 78;
    /// The node has left its cluster.
    HasLeft = 1210, exit 78;
    /// A backup of the registry cannot be used, or not here.
    BackupUnusable = 1211, exit 65;
    /// A data directory is not to be restored like this.
    RestoreRefused = 1212, exit 1;
    /// A data directory is new, and the member whose it is has run before: what it promised is lost.
    DirectoryForgot = 1213, exit 78;
    /// No more descriptors.
    OutOfDescriptors = 1301, exit 69;
    /// A storyboard cannot be read: a heading, a table or a cell is not what it should be.
    StoryMalformed = 1401, exit 2;
    /// Two rows of a storyboard, or two flows, can mean the same.
    StoryAmbiguous = 1402, exit 2;
    /// A row leads to a state that has no rows.
    StoryUnknownState = 1403, exit 2;
    /// A storyboard uses a name that it gives to nothing.
    StoryUnknownName = 1404, exit 2;
    /// No way of a flow leads to a state, or to the end.
    StoryUnreachable = 1405, exit 2;
    /// A storyboard expects nothing, so it shows nothing.
    StoryExpectsNothing = 1406, exit 2;
    /// The cluster on which a storyboard is to be played cannot do what a row says.
    StoryNotHere = 1407, exit 2;
    /// An expectation of a storyboard did not hold, or a promise was broken while it was played.
    StoryFailed = 1408, exit 1;
    /// All flows of a storyboard wait, and nothing can come any more.
    StoryStuck = 1409, exit 1;
    /// A join token is not what was printed.
    TokenMalformed = 1501, exit 2;
    /// A join token is for a node of another name.
    TokenForOther = 1502, exit 2;
    /// The cluster knows no such join token: never made, used or revoked.
    TokenUnknown = 1503, exit 77;
    /// The time of a join token is over.
    TokenExpired = 1504, exit 77;
    /// A member has the name already.
    NameTaken = 1505, exit 1;
    /// A join token is of another cluster than the one that was asked.
    OtherCluster = 1506, exit 1;
    /// Nobody answers a node that wants to join.
    JoinUnanswered = 1507, exit 69;

    /// Not granted: somebody holds it, and the request did not want to wait.
    Busy = 2101, exit 75;
    /// Not granted in time.
    TimedOut = 2102, exit 75;
    /// The request was cancelled.
    Cancelled = 2103, exit 1;
    /// This node does not own enough to answer without a message.
    NotOwned = 2104, exit 75;
    /// There is no such lock.
    NoSuchLock = 2105, exit 1;
    /// Another operation of this lock is under way.
    InFlight = 2106, exit 1;
    /// The conversion is impossible.
    BadConversion = 2107, exit 2;
    /// These flags do not go together.
    BadFlags = 2108, exit 2;
    /// A resource name is empty or too long.
    BadName = 2109, exit 2;
    /// Not a lock mode.
    BadMode = 2110, exit 2;
    /// Not a duration.
    BadDuration = 2111, exit 2;
    /// There is no orphan of that name and mode, and none in another mode.
    NoOrphan = 2112, exit 1;
    /// There are orphans of that name, in other modes.
    OrphanMode = 2113, exit 75;
    /// The lockspace has as many resources as it may.
    SpaceFull = 2201, exit 1;
    /// There is no such lockspace.
    UnknownSpace = 2202, exit 2;
    /// Too many locks wait on this resource at this node.
    TooManyWaiters = 2203, exit 1;
    /// The session has as many locks as it may.
    TooManyLocks = 2204, exit 1;
    /// The node has as many sessions as it may.
    TooManySessions = 2205, exit 69;
    /// Locks are not granted in the program's own process here; the node grants them all the same.
    NoSegment = 2206, exit 69;
    /// This user, or this node, has not the right to that in the lockspace.
    SpaceDenied = 2207, exit 77;
    /// There is a branch of that name already, and the program wanted to be the first.
    BranchExists = 2208, exit 1;
    /// The branch has locks of this node, or other programs have it open.
    BranchInUse = 2209, exit 1;
    /// There is no such branch at this node.
    UnknownBranch = 2210, exit 2;
    /// The node has as many orphans, or as many branches, as it may.
    TooManyKept = 2211, exit 1;
    /// Granting would complete a cycle of conversions; the later one is refused (D9).
    Deadlock = 2301, exit 81;
    /// The lock was lost: daemon gone, or its incarnation ended.
    Lost = 2401, exit 76;
    /// The node is not in a view yet.
    NotServing = 2402, exit 69;
    /// This run is not let into the cluster, or is out of it.
    Refused = 2403, exit 69;
    /// Serials of this epoch are used up; whatever changes the view raises the epoch.
    TokensExhausted = 2404, exit 69;
    /// The coordinator of this node cannot go on, so neither can the node.
    CoordinatorStopped = 2405, exit 69;
    /// The node has not renewed its lease: what is held is lost soon, unless it does.
    AtRisk = 2406, exit 76;
    /// An earlier run of this node is to be fenced by a program, and this one is let in after that.
    Fenced = 2407, exit 79;
    /// A member has not been heard; requests that need it wait.
    MemberSilent = 3101, exit 69;
    /// Half of this epoch's serials are used.
    SerialsLow = 3102, exit 0;
    /// The view has changed and locks are being stated anew; nothing new is granted before that is done.
    Recovering = 3103, exit 69;
    /// The node serves, and something is not as it should be.
    Degraded = 3104, exit 1;
    /// Somebody waits for a lock for very long.
    WaitsStuck = 3105, exit 1;
    /// The disk of the data directory has little room.
    RoomLow = 3106, exit 69;
    /// A change of the cluster cannot be decided: no majority of the voters answers.
    NoMajority = 3201, exit 69;
    /// Whether a change of the cluster was decided is not known.
    OutcomeUnknown = 3202, exit 80;
    /// A change of the cluster was decided against: it does not fit what the cluster is by now.
    ChangeRefused = 3203, exit 1;
    /// A node is not restarted with its locks kept, and goes on as it was.
    RestartRefused = 3204, exit 1;

    /// A peer's key is not the pinned one.
    PeerKey = 5101, exit 1;
    /// A peer speaks another protocol version.
    PeerVersion = 5102, exit 1;
    /// A peer's shared configuration differs.
    PeerConfig = 5103, exit 1;
    /// A later run of the same node is known, or another one with the same number.
    PeerRestarted = 5104, exit 1;
    /// A peer sent what no honest peer sends.
    PeerViolation = 5105, exit 1;
    /// A peer does not know the cluster secret.
    PeerSecret = 5106, exit 1;
    /// A peer is of another beginning of the cluster: one of the two was restored from a backup, and the other was not.
    PeerRestored = 5107, exit 1;
}

impl Code {
    /// The number behind `OAR-`.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// Whether it says that a node does not serve: a program had better ask another node.
    pub const fn is_outage(self) -> bool {
        matches!(self.exit(), 69 | 79)
    }
}

impl serde::Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u16(self.number())
    }
}

impl<'de> serde::Deserialize<'de> for Code {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Code, D::Error> {
        let number = u16::deserialize(from)?;
        Code::from_number(number).ok_or_else(|| serde::de::Error::custom("there is no such code"))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OAR-{:04}", self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_ascend_and_find_their_code() {
        assert!(Code::ALL.windows(2).all(|w| w[0] < w[1]));
        for code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), Some(*code));
        }
        assert_eq!(Code::Busy.to_string(), "OAR-2101");
    }
}
