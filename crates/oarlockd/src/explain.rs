//! A page for each error code: what it means and what to do. `oarlock explain OAR-2101` prints it, and every
//! [`Problem`](crate::problem::Problem) takes its cause and remedy from here unless it knows better.

use oarlock_layout::code::Code;

/// What there is to say about a code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Page {
    /// One line: what happened.
    pub title: &'static str,
    /// What usually causes it.
    pub why: &'static str,
    /// What to try.
    pub try_next: &'static str,
}

const fn page_of(title: &'static str, why: &'static str, try_next: &'static str) -> Page {
    Page { title, why, try_next }
}

/// The page of a code.
pub fn page(code: Code) -> Page {
    match code {
        Code::Usage => page_of(
            "the command line does not make sense",
            "an option or an argument is missing, unknown or contradicts another",
            "oarlock help",
        ),
        Code::Failed => {
            page_of("something failed that has no code of its own", "the message says what", "oarlock doctor")
        }
        Code::NoDaemon => page_of(
            "no daemon answers",
            "nothing listens on the socket",
            "start a cluster with `oarlock dev`, or name the socket with --socket or OARLOCK_SOCKET",
        ),
        Code::SocketDenied => page_of(
            "the socket may not be opened by this user",
            "a node serves its own user, the group of its socket, and root",
            "run as that user, or join the group that owns the socket",
        ),
        Code::SessionVersion => page_of(
            "daemon and client speak different protocol versions",
            "one of them was upgraded and the other was not",
            "oarlock version, with the binary of each; then restart the older one",
        ),
        Code::SocketPathTooLong => page_of(
            "a Unix socket path has at most 107 bytes",
            "the kernel keeps the path in a field of 108 bytes",
            "a shorter directory, for instance under /run or /tmp",
        ),
        Code::SocketInUse => page_of(
            "another daemon listens on the socket",
            "a node is already running with this socket",
            "oarlock status --socket PATH; stop the other one first",
        ),
        Code::AddressInUse => page_of(
            "another program listens on the address",
            "a UDP or TCP address belongs to one program at a time",
            "ss -lunp and ss -ltnp name the other program",
        ),
        Code::AddressNotHere => page_of(
            "the address is not one of this machine",
            "`listen` must name an address of a local interface",
            "ip address; then correct [node] listen and this member's address",
        ),
        Code::SessionMalformed => page_of(
            "bytes arrived that are no session message",
            "something else talks to the socket, or daemon and client are of different builds",
            "oarlock version, with the binary of each",
        ),
        Code::SessionForked => page_of(
            "a session was used after a fork",
            "locks belong to the process that took them; its copy has none",
            "open a client of its own in the child",
        ),
        Code::NotOperator => page_of(
            "whoever asks is no operator of this node",
            "the cluster is changed by root, by the user as whom the node runs, and by members of the group that `operators` in \
             [node] names",
            "sudo -u USER oarlock …, as the node's user; or have yourself added to that group",
        ),
        Code::BadConfig => page_of(
            "the configuration cannot be used",
            "the file cannot be read or does not make sense",
            "oarlock config check FILE",
        ),
        Code::UnknownKey => page_of(
            "the configuration has a key that nobody knows",
            "a misspelt key would otherwise be ignored without a word",
            "docs/operating.md lists every key",
        ),
        Code::KeyPermissions => page_of(
            "a key file is open to others",
            "whoever reads this node's key or the cluster secret can pose as the node",
            "chmod 600 FILE",
        ),
        Code::KeyMalformed => page_of(
            "a key file does not hold a key",
            "a key is 32 bytes, written as 64 hexadecimal digits or 44 characters of base64",
            "oarlock key new --out FILE",
        ),
        Code::KeyMismatch => page_of(
            "the key is not the one the configuration names",
            "the public key of key_file differs from the public_key of this member",
            "oarlock key show FILE, and put that public key into every member's configuration; a node that has changed its key \
             while it ran has it in `rotated.key` of its data directory",
        ),
        Code::DataDir => page_of(
            "the data directory cannot be used",
            "it is missing, not writable, damaged, or another node has it locked",
            "ls -ld DIR; only one node may use a data directory",
        ),
        Code::CoordinatorFile => page_of(
            "the coordinator's file cannot be used",
            "raft.redb in the data directory is missing, damaged, or of another version; the message names what is known of the place",
            "keep a copy of the file as it is; put back a copy only if it is certainly the newest, for a vote that is forgotten can be given twice",
        ),
        Code::NoCluster => page_of(
            "the node belongs to no cluster yet",
            "its configuration has no [cluster] and no [[member]], and nothing was made or joined so far",
            "`oarlock init` makes a cluster of this node; `oarlock join TOKEN` enters one, with a token that \
             `oarlock token create NAME` prints on a member",
        ),
        Code::InCluster => page_of(
            "the node belongs to a cluster already",
            "a node is a member of one cluster, and what it keeps of that must not be mixed with another's",
            "oarlock serve; to enter another cluster `oarlock leave` first, then move the data directory away",
        ),
        Code::HasLeft => page_of(
            "the node has left its cluster",
            "its key is accepted by no member any more, and its data directory is of no use",
            "move the data directory away; `oarlock join TOKEN` makes it a member again, under a new id",
        ),
        Code::BackupUnusable => page_of(
            "a backup of the registry cannot be used",
            "the file is cut short, damaged, of a later version, of another cluster, or no backup at all",
            "another backup; `oarlock coord restore --dry-run` tells what a file is good for and changes nothing",
        ),
        Code::RestoreRefused => page_of(
            "a data directory is not to be restored like this",
            "what it remembers is above what would be begun with, or it is in use",
            "do what the message says, at every member; nothing was changed",
        ),
        Code::DirectoryForgot => page_of(
            "a data directory is new, and its node is not",
            "the directory that it had is lost, and with it what it promised as a voter; it must not vote as if it had promised nothing",
            "put the old directory back if there is one, unchanged; else on another member `oarlock node remove NAME` and \
             `oarlock token create NAME`, and join here anew with an empty directory (docs/operating.md, One machine is lost)",
        ),
        Code::OutOfDescriptors => page_of(
            "no more file descriptors",
            "every session of a program takes two descriptors of the daemon",
            "raise the limit of open files (ulimit -n, or LimitNOFILE= in the unit), or close programs",
        ),

        Code::StoryMalformed => page_of(
            "a storyboard cannot be read",
            "a heading, a table or a cell is not what it should be",
            "docs/storyboards.md tells how one is written",
        ),
        Code::StoryAmbiguous => page_of(
            "two rows or two flows of a storyboard can mean the same",
            "which of them applies would be a matter of luck",
            "give one of them another state, event or name",
        ),
        Code::StoryUnknownState => page_of(
            "a row of a storyboard leads to a state that has no rows",
            "the cell `next` names it, and no cell `state` does",
            "give the state a row, or write `done` where the flow ends",
        ),
        Code::StoryUnknownName => page_of(
            "a storyboard uses a name that it gives to nothing",
            "an event that nobody raises, a lock that its flow never takes, or a flow that is not there",
            "look for a slip of the pen; every name is given by `raise`, `lock`, `let` or a heading",
        ),
        Code::StoryUnreachable => page_of(
            "no way of a flow leads to a state, or to the end",
            "a row that can never be taken shows nothing, and a flow without an end cannot come true",
            "lead a row there, or take the state away",
        ),
        Code::StoryExpectsNothing => page_of(
            "a storyboard expects nothing",
            "it would come true whatever the cluster did",
            "say what must be so with `expect`",
        ),
        Code::StoryNotHere => page_of(
            "a storyboard cannot be played on this cluster",
            "a row says what a simulated cluster, or one of real nodes, has no means for",
            "the other of --sim and --dev",
        ),
        Code::StoryFailed => page_of(
            "a storyboard did not come true",
            "an expectation did not hold, or a promise was broken while it was played",
            "oarlock story run --trace FILE shows every step and answer",
        ),
        Code::StoryStuck => page_of(
            "all flows of a storyboard wait, and nothing can come any more",
            "they wait for each other, or for an answer that the cluster does not give",
            "oarlock story run --trace FILE shows every step and answer",
        ),
        Code::TokenMalformed => page_of(
            "a join token is not what was printed",
            "a character is missing or was changed when it was copied",
            "copy the whole line that `oarlock token create` printed, from `oarlock1-` on",
        ),
        Code::TokenForOther => page_of(
            "a join token is for a node of another name",
            "a token lets in one node, whose name was given when it was made",
            "oarlock token create with the name that stands in this node's configuration",
        ),
        Code::TokenUnknown => page_of(
            "the cluster knows no such join token",
            "it was used, revoked, or never made by this cluster; each is good for one node, once",
            "oarlock token ls shows what is out; oarlock token create NAME makes a new one",
        ),
        Code::TokenExpired => page_of(
            "the time of a join token is over",
            "tokens live for 15 minutes at most, by the clock of the member that is asked; or that clock was put back since",
            "oarlock token create NAME, and join at once; if that fails too, compare the clocks of the machines",
        ),
        Code::NameTaken => page_of(
            "a member has the name already",
            "names of members are unique, and a name is free again only after its node has left",
            "oarlock node ls shows who has it; choose another name, or let that node leave first",
        ),
        Code::OtherCluster => page_of(
            "a join token is of another cluster than the one that answers",
            "the member that made the token belongs to another cluster by now, or its address does",
            "make a token on a member of the cluster that is meant",
        ),
        Code::JoinUnanswered => page_of(
            "nobody answers this node, which wants to join",
            "the member that made the token does not run, is not reached, or is of a version that lets nobody join",
            "oarlock status on that member; a firewall must let UDP to its address pass, in both directions",
        ),
        Code::Busy => page_of(
            "not granted: somebody holds it",
            "the request did not want to wait, and the lock is held in a conflicting mode",
            "oarlock locks why RES, or wait with -w TIME",
        ),
        Code::TimedOut => page_of(
            "not granted in time",
            "a holder did not let go before the time was over, or a member that is needed is silent",
            "oarlock locks why RES",
        ),
        Code::Cancelled => page_of(
            "the request was cancelled",
            "the program withdrew it before it was granted",
            "nothing, if that was meant",
        ),
        Code::NotOwned => page_of(
            "this node does not own enough to answer by itself",
            "a local-only request never sends a message to another node",
            "ask without the local-only flag",
        ),
        Code::NoSuchLock => page_of(
            "there is no such lock",
            "the lock was released already, or was never granted",
            "check the program's own bookkeeping of locks",
        ),
        Code::InFlight => page_of(
            "another operation of this lock is under way",
            "a lock has one request at a time",
            "wait for its answer, or cancel it",
        ),
        Code::BadConversion => page_of(
            "the conversion is impossible",
            "a lock can be converted only while it is granted, and only with flags that fit the new mode",
            "release and lock again, or ask for a mode that covers the one held",
        ),
        Code::BadFlags => page_of(
            "these flags do not go together",
            "for instance: expedite belongs to new NL requests only",
            "leave one of them out",
        ),
        Code::BadName => page_of(
            "not a resource name",
            "a name has 1 to 255 bytes; any byte is allowed, written as it is or as \\xNN",
            "a shorter name, or a hash of the long one",
        ),
        Code::BadMode => page_of(
            "not a lock mode",
            "the modes are NL, CR, CW, PR, PW and EX",
            "-x for EX, -s for PR, or -m MODE",
        ),
        Code::BadDuration => page_of(
            "not a duration",
            "durations are numbers with a unit, such as 250ms, 10s, 1m 30s; a bare number means seconds",
            "-w 10s",
        ),
        Code::NoOrphan => page_of(
            "there is no orphan to adopt",
            "a lock that was taken to outlive its program is adopted by name and mode, at the node where it was taken; here nobody has \
             left one behind on this resource, or somebody has adopted it",
            "oarlock locks ls shows orphans as such; take the lock anew",
        ),
        Code::OrphanMode => page_of(
            "the orphans of this resource are held in other modes",
            "an orphan is adopted in the mode in which it is held, since to adopt it grants nothing",
            "adopt it in the mode that the message names, then convert it",
        ),
        Code::SpaceFull => page_of(
            "the lockspace is full",
            "it has as many resources on this node as its configuration allows",
            "raise resources_max of the lockspace on every member, or release locks",
        ),
        Code::UnknownSpace => page_of(
            "there is no such lockspace",
            "lockspaces other than `default` stand in the configuration of every member",
            "oarlock status lists the lockspaces",
        ),
        Code::TooManyWaiters => page_of(
            "too many locks wait on this resource",
            "the queue of one resource on one node is bounded",
            "oarlock locks why RES shows who blocks it",
        ),
        Code::TooManyLocks => page_of(
            "the session has too many locks",
            "a program's locks are bounded so that one program cannot take all memory",
            "release locks, or open a second session",
        ),
        Code::TooManySessions => page_of(
            "the node has too many sessions",
            "the number of programs attached at once is bounded",
            "close programs, or let them share a session",
        ),
        Code::NoSegment => page_of(
            "locks are not granted in the program's own process",
            "the node has no shared segment for this lockspace, or no place left in it for another session",
            "nothing needs to be done: the node grants the locks, each at the price of a message; oarlock doctor \
             says what the fast path needs",
        ),
        Code::SpaceDenied => page_of(
            "this user, or this node, has not the right to that in the lockspace",
            "a lockspace has an owner, a group and a mode as a file has: r to look and to take locks to read in, w besides to \
             take locks to write in; and it may be for the programs of some nodes only",
            "oarlock space ls shows what is given to whom; whoever runs the cluster changes owner, group, mode or nodes of the \
             [[space]] on every member",
        ),
        Code::BranchExists => page_of(
            "the branch is there already",
            "somebody at this node has opened a branch of this name, and the program wanted to be the first",
            "open it without that wish, or choose another name; oarlock dlm ls lists them",
        ),
        Code::BranchInUse => page_of(
            "the branch is in use",
            "locks of this node are held in it, or wait there, so that it was not closed for the last time",
            "give the locks back, or close it by force: then what was left behind there goes",
        ),
        Code::UnknownBranch => page_of(
            "there is no such branch at this node",
            "a branch is opened at each node that uses it, and closed again",
            "oarlock dlm join NAME opens it; oarlock dlm ls lists those that are open",
        ),
        Code::TooManyKept => page_of(
            "the node keeps too many locks or branches without a program",
            "what outlives programs is bounded, so that it cannot take all memory",
            "oarlock locks purge gives orphans back, oarlock dlm leave closes branches",
        ),
        Code::Deadlock => page_of(
            "the request was part of a deadlock",
            "locks waited for each other in a circle, on this node or over several; the youngest of these waits is refused, and all other \
             locks of its program are as they were. Two holders that each ask for a mode that the other one blocks are refused at once",
            "give back what is held and start again; take locks in the same order everywhere, and PW or EX at once instead of \
             converting from a shared mode. oarlock locks deadlocks shows who waited for whom",
        ),
        Code::Lost => page_of(
            "the lock was lost",
            "the daemon of this node ended, or its run of the cluster did; others may hold the lock by now",
            "start again; let storage refuse old tokens (OARLOCK_TOKEN)",
        ),
        Code::AtRisk => page_of(
            "the lock is at risk",
            "the node has not renewed its lease: it stands still, or hears no majority. Nothing is lost yet; if it does not \
             renew it within 1.2 s, others get the lock",
            "bring what the lock protects to an end; oarlock status and oarlock events of the node say what it waits for",
        ),
        Code::Fenced => page_of(
            "this node is to be fenced",
            "an earlier run of it left without giving itself up, and the program that fences it has not succeeded; this run is let in \
             after that",
            "`oarlock status` on another member says who runs the program and why it fails; whoever has seen to it says there \
             `oarlock node fence NAME --confirmed`",
        ),
        Code::NotServing => page_of(
            "the node is not serving",
            "it is in no view: there is no majority of members, or not every member of the view hears it yet",
            "oarlock status names the members that are missing",
        ),
        Code::Refused => page_of(
            "this node is not let into the cluster",
            "its run has ended, a later run of it or a copy with the same key is in, or the cluster does not know it",
            "oarlock status says which; look for a second node with this key_file",
        ),
        Code::TokensExhausted => page_of(
            "the serials of this epoch are used up",
            "tokens must keep growing, and the number has a last value",
            "restart one node: that begins a new epoch, which counts from the beginning",
        ),
        Code::CoordinatorStopped => page_of(
            "the coordinator of this node cannot go on",
            "what the cluster decides cannot be kept or read here: a full or failing disk, or a newer version beside this one",
            "df and dmesg; then start the node again",
        ),
        Code::MemberSilent => page_of(
            "a member has not been heard",
            "it is stopped, cut off, or refuses this node; requests that need it wait until it is out of the view",
            "oarlock node ls; then look at that machine",
        ),
        Code::SerialsLow => page_of(
            "half of this epoch's serials are used",
            "each remote grant takes one",
            "plan a restart of one node, which begins a new epoch; nothing is wrong yet",
        ),

        Code::Recovering => page_of(
            "locks are being recovered",
            "the view has changed: nothing new is granted before every member has stated what it holds, and nothing that a \
             departed node may still use before that is fenced",
            "oarlock failover show says what is waited for, and oarlock locks why NAME whether a lock waits for it; it takes \
             milliseconds, the rest of a lease, or as long as the fence of a departed node fails: oarlock node fence NODE \
             --confirmed if you have seen to it yourself",
        ),
        Code::Degraded => page_of(
            "the node serves, and something is not as it should be",
            "one matter or more of `oarlock health` has a warning",
            "oarlock health detail",
        ),
        Code::WaitsStuck => page_of(
            "somebody waits for a lock for very long",
            "whoever holds it works for long, hangs, or waits itself for somebody in this queue",
            "oarlock locks tree shows who is at the root; oarlock locks why RES says it in words",
        ),
        Code::RoomLow => page_of(
            "the disk of the data directory has little room",
            "a node that cannot write what it promises ends its run",
            "make room there; the node's own files are small",
        ),
        Code::NoMajority => page_of(
            "a change of the cluster cannot be decided",
            "more than half of the voters must be there, and hear each other, for anything to be decided; nothing came of it",
            "oarlock node ls shows who is not heard; ask a member that hears more, or bring voters back",
        ),
        Code::OutcomeUnknown => page_of(
            "whether a change of the cluster was decided is not known",
            "it went on its way, and no answer came in time",
            "ask again: what is so already is not done twice",
        ),
        Code::ChangeRefused => page_of(
            "a change of the cluster was refused",
            "the cluster is not any more as it was when the change was asked for, or the change makes no sense",
            "oarlock coord show; then decide anew",
        ),
        Code::RestartRefused => page_of(
            "a node was not restarted, and goes on as it was",
            "the program at its place cannot take the run over, its configuration has changed in what a run cannot change, or the \
             node is busy with something that must not be interrupted",
            "again in a moment; if it says so again: stop the node in order and start it, with which its locks move",
        ),

        Code::PeerKey => page_of(
            "a peer's key is not the pinned one",
            "the peer, or somebody who poses as it, used a key or cluster secret that this configuration does not know",
            "oarlock key show on both machines says which keys they know; one that was away while the other changed its key \
             lets it in within seconds",
        ),
        Code::PeerVersion => page_of(
            "a peer speaks another protocol version",
            "one of the two was upgraded and the other was not",
            "oarlock version on both machines",
        ),
        Code::PeerConfig => page_of(
            "a peer's shared configuration differs",
            "cluster name, members and lockspaces must be the same on every member",
            "oarlock config check on both machines prints a fingerprint for each shared part",
        ),
        Code::PeerRestarted => page_of(
            "another run of the same node is known",
            "a run that is over has no circuits; or two nodes have one key, or a data directory was copied or put back",
            "look for a second node with this key_file and stop it; if its data directory was lost or put back: stop it, `oarlock \
             node remove NAME` and `oarlock token create NAME` at a member, `oarlock join TOKEN` with an empty data directory",
        ),
        Code::PeerViolation => page_of(
            "a peer sent what no honest peer sends",
            "its build is broken or it is not what it says it is",
            "stop that node and compare versions",
        ),
        Code::PeerSecret => page_of(
            "a peer has another cluster secret",
            "its key is the pinned one, but secret_file holds other bytes there",
            "copy the cluster's secret file to every member",
        ),
        Code::PeerRestored => page_of(
            "one of the two is of before a restore",
            "the cluster was begun anew from a backup, and one of the two nodes was not, or was from another one",
            "stop the node that was not restored; `oarlock coord restore` there, with the file that the others had",
        ),
        _ => page_of(
            "a code this build does not know",
            "the daemon is newer than this command",
            "oarlock version",
        ),
    }
}

/// The code that `text` names: `OAR-2101`, `oar2101` or `2101`.
pub fn parse(text: &str) -> Option<Code> {
    let digits = text.trim().to_ascii_uppercase();
    let digits = digits.strip_prefix("OAR").unwrap_or(&digits);
    Code::from_number(digits.trim_start_matches('-').parse().ok()?)
}

/// The code that is exactly this word, as it stands in a log.
pub fn parse_strict(word: &str) -> Option<Code> {
    if word.starts_with("OAR-") { parse(word) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_page_of_its_own() {
        let unknown = "a code this build does not know";
        let lacking: Vec<_> = Code::ALL.iter().filter(|c| page(**c).title == unknown).collect();
        assert!(lacking.is_empty(), "these codes lack a page: {lacking:?}");
        let mut titles: Vec<_> = Code::ALL.iter().map(|c| page(*c).title).collect();
        titles.sort_unstable();
        titles.dedup();
        assert_eq!(titles.len(), Code::ALL.len(), "two codes share a title");
    }

    #[test]
    fn codes_are_found_however_they_are_typed() {
        for text in ["OAR-2101", "oar-2101", "oar2101", "2101"] {
            assert_eq!(parse(text), Some(Code::Busy), "{text}");
        }
        assert_eq!(parse("OAR-9999"), None);
        assert_eq!(parse("busy"), None);
    }
}
