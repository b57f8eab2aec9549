//! What no honest node sends. The library asserts or believes some of it, so it must not get there.

use oarlock_cluster::registry::Command;
use oarlock_layout::codec::Malformed;
use oarlock_layout::id::NodeId;
use oarlock_layout::message::raft::{Ballot, Call, LogId, Payload, Voters};

/// What a node has done wrong.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Misdeed {
    /// Only a leader says this, and of itself.
    #[error("it speaks as a leader with the ballot of node {0}")]
    OtherBallot(NodeId),
    /// Only a ballot that a quorum has promised makes a leader.
    #[error("it speaks as a leader and was not elected")]
    NotElected,
    /// A number that counting never reaches.
    #[error("{what} is {value}, which counting never reaches")]
    Absurd {
        /// Of what.
        what: &'static str,
        /// What it says.
        value: u64,
    },
    /// A place in the log that its ballot cannot have decided.
    #[error("an entry of term {0} is younger than its leader")]
    Younger(u64),
    /// Entries follow each other without a gap.
    #[error("entry {got} comes where {want} was next")]
    Gap {
        /// Which should have come.
        want: u64,
        /// Which came.
        got: u64,
    },
    /// Nobody would decide anything.
    #[error("an entry leaves nobody to vote")]
    NoVoters,
    /// A snapshot of nothing.
    #[error("a snapshot covers nothing")]
    EmptySnapshot,
    /// Only members that decide among themselves call each other.
    #[error("it calls a coordinator of members, and this cluster relies on etcd")]
    NotAsked,
    /// A command that this version does not know, or damaged bytes.
    #[error("a command that cannot be read: {0}")]
    Unreadable(Malformed),
}

/// Terms and indexes stay below: they are counted one by one.
const COUNTED_MAX: u64 = 1 << 62;

/// Looks at a call before anything is made of it.
pub(super) fn check(me: NodeId, from: NodeId, call: &Call) -> Result<(), Misdeed> {
    match call {
        Call::Append { ballot, previous, entries, commit } => {
            leads(me, from, ballot)?;
            counted(previous.as_ref(), ballot)?;
            counted(commit.as_ref(), ballot)?;
            let mut before = *previous;
            for entry in entries {
                counted(Some(&entry.id), ballot)?;
                let want = before.map_or(0, |id| id.index + 1);
                if entry.id.index != want {
                    return Err(Misdeed::Gap { want, got: entry.id.index });
                }
                if before.is_some_and(|before| before.leadership > entry.id.leadership) {
                    return Err(Misdeed::Younger(entry.id.leadership.term));
                }
                if let Payload::Voters(voters) = &entry.payload {
                    somebody_votes(voters)?;
                }
                before = Some(entry.id);
            }
            Ok(())
        }
        Call::Vote { ballot, last, .. } => {
            if ballot.leadership.node != from {
                return Err(Misdeed::OtherBallot(ballot.leadership.node));
            }
            counted(last.as_ref(), ballot)
        }
        Call::Install { ballot, last, voters, total, .. } => {
            leads(me, from, ballot)?;
            if last.is_none() || *total == 0 {
                return Err(Misdeed::EmptySnapshot);
            }
            counted(last.as_ref(), ballot)?;
            counted(voters.id.as_ref(), ballot)?;
            somebody_votes(&voters.voters)
        }
        Call::Transfer { ballot, last, .. } => {
            leads(me, from, ballot)?;
            counted(last.as_ref(), ballot)
        }
        Call::Propose { command } => readable(command),
        Call::Confirm => Ok(()),
    }
}

/// Whoever cannot read a command in the order must stop, so none that cannot be read gets there.
pub(super) fn readable(command: &[u8]) -> Result<(), Misdeed> {
    Command::from_bytes(command).map(|_| ()).map_err(Misdeed::Unreadable)
}

fn leads(me: NodeId, from: NodeId, ballot: &Ballot) -> Result<(), Misdeed> {
    let leader = ballot.leadership.node;
    if leader != from || leader == me {
        return Err(Misdeed::OtherBallot(leader));
    }
    if ballot.committed { Ok(()) } else { Err(Misdeed::NotElected) }
}

fn counted(id: Option<&LogId>, ballot: &Ballot) -> Result<(), Misdeed> {
    let absurd =
        |what, value| if value < COUNTED_MAX { Ok(()) } else { Err(Misdeed::Absurd { what, value }) };
    absurd("a term", ballot.leadership.term)?;
    let Some(id) = id else { return Ok(()) };
    absurd("an index", id.index)?;
    if id.leadership > ballot.leadership { Err(Misdeed::Younger(id.leadership.term)) } else { Ok(()) }
}

fn somebody_votes(voters: &Voters) -> Result<(), Misdeed> {
    let nobody = voters.configs.is_empty() || voters.configs.iter().any(Vec::is_empty);
    if nobody { Err(Misdeed::NoVoters) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use oarlock_layout::message::raft::{Leadership, LogEntry, VotersAt};

    use super::*;

    const ME: NodeId = NodeId(1);
    const THEM: NodeId = NodeId(2);

    fn ballot(term: u64, node: NodeId, committed: bool) -> Ballot {
        Ballot { leadership: Leadership { term, node }, committed }
    }

    fn at(term: u64, index: u64) -> LogId {
        LogId { leadership: Leadership { term, node: THEM }, index }
    }

    fn voters() -> Voters {
        Voters { configs: vec![vec![ME, THEM]], nodes: vec![ME, THEM] }
    }

    fn append(ballot: Ballot, previous: Option<LogId>, ids: &[LogId]) -> Call {
        let entry = |id: &LogId| LogEntry { id: *id, payload: Payload::Blank };
        Call::Append { ballot, previous, entries: ids.iter().map(entry).collect(), commit: previous }
    }

    fn install(last: Option<LogId>, total: u32, voters: Voters) -> Call {
        let voters = VotersAt { id: last, voters };
        Call::Install { ballot: ballot(5, THEM, true), last, voters, offset: 0, total, bytes: Vec::new() }
    }

    #[test]
    fn what_honest_leaders_send_passes() {
        let leader = ballot(5, THEM, true);
        let revoke = Command::RevokeToken { serial: 1 }.to_bytes();
        for call in [
            append(leader, None, &[]),
            append(leader, None, &[at(1, 0), at(4, 1), at(5, 2)]),
            append(leader, Some(at(3, 7)), &[at(3, 8), at(5, 9)]),
            Call::Vote { ballot: ballot(6, THEM, false), last: Some(at(5, 9)), transfer: false, pre: true },
            install(Some(at(5, 9)), 40, voters()),
            Call::Transfer { ballot: leader, to: ME, last: Some(at(5, 9)) },
            Call::Propose { command: revoke },
            Call::Confirm,
        ] {
            assert_eq!(check(ME, THEM, &call), Ok(()), "{call:?}");
        }
    }

    #[test]
    fn what_they_do_not_send_is_named() {
        let leader = ballot(5, THEM, true);
        let none = Voters::default();
        let one_empty = Voters { configs: vec![vec![ME], vec![]], nodes: vec![ME] };
        let vote = |ballot, last| Call::Vote { ballot, last, transfer: false, pre: false };
        let of_voters = |voters| Call::Append {
            ballot: leader,
            previous: None,
            entries: vec![LogEntry { id: at(5, 0), payload: Payload::Voters(voters) }],
            commit: None,
        };
        let cases = [
            (append(ballot(5, NodeId(3), true), None, &[]), Misdeed::OtherBallot(NodeId(3))),
            (append(ballot(5, THEM, false), None, &[]), Misdeed::NotElected),
            (append(leader, Some(at(5, 3)), &[at(5, 5)]), Misdeed::Gap { want: 4, got: 5 }),
            (append(leader, None, &[at(5, 0), at(5, 2)]), Misdeed::Gap { want: 1, got: 2 }),
            (append(leader, None, &[at(4, 0), at(3, 1)]), Misdeed::Younger(3)),
            (append(leader, Some(at(6, 3)), &[]), Misdeed::Younger(6)),
            (append(leader, Some(at(5, 1 << 62)), &[]), Misdeed::Absurd { what: "an index", value: 1 << 62 }),
            (vote(ballot(u64::MAX, THEM, false), None), Misdeed::Absurd { what: "a term", value: u64::MAX }),
            (vote(ballot(5, NodeId(3), false), None), Misdeed::OtherBallot(NodeId(3))),
            (of_voters(none.clone()), Misdeed::NoVoters),
            (of_voters(one_empty), Misdeed::NoVoters),
            (install(None, 40, voters()), Misdeed::EmptySnapshot),
            (install(Some(at(5, 9)), 0, voters()), Misdeed::EmptySnapshot),
            (install(Some(at(6, 9)), 40, voters()), Misdeed::Younger(6)),
            (install(Some(at(5, 9)), 40, none), Misdeed::NoVoters),
        ];
        for (call, misdeed) in cases {
            assert_eq!(check(ME, THEM, &call), Err(misdeed), "{call:?}");
        }
        let mine = append(ballot(5, ME, true), None, &[]);
        assert_eq!(check(ME, ME, &mine), Err(Misdeed::OtherBallot(ME)), "nobody appends in our name");
        for bytes in [vec![], vec![0xff; 9]] {
            let refused = check(ME, THEM, &Call::Propose { command: bytes });
            assert!(matches!(refused, Err(Misdeed::Unreadable(_))), "{refused:?}");
        }
    }
}
