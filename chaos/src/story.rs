//! Puts the diaries of all clients together into one history that the checkers can read.
//!
//! * A client that was killed ends when the order to kill it was given, or with the last line it wrote, if that
//!   is later: it may have run on for a moment. So it is never believed to hold a lock longer than it did. If a view
//!   changed since its last line, it may have stood still all that time, and ends with that line.
//! * A client that asks its node for every lock hears of the end of the lease from its node. If the node stood still then, the
//!   client is taken to have ended when the lease did: there is nobody who could have told it.
//! * What a client wrote after its session had ended counts for nothing.
//! * Whenever a run is put out of the view, the history says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use oarlock_layout::code::Code;
use oarlock_layout::limit::{LEASE, LEASE_DRIFT, LEASE_MARGIN};
use oarlock_sim::history::{Ask, Client, End, Event, Ledger, Mark, Told, What, read_lines};

use crate::client::Options;
use crate::cluster::{Chronicle, NODES};

/// How long after it goes on a daemon may take to notice that its lease is over.
const NOTICE_MAX: u64 = 3_000_000_000;
/// How long after the next run of its node began a session may take to hear that its own is over: programs stand still
/// for up to three seconds, and the machine is busy.
const HEAR_MAX: u64 = 8_000_000_000;
/// Between what the harness does and when it says that it did.
const SLACK: u64 = 100_000_000;

/// Processes that were killed, and when the order was given.
pub type Deaths = BTreeMap<u32, u64>;

/// A daemon stood still.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stall {
    /// Of which node.
    pub node: u16,
    /// From when.
    pub from: u64,
    /// Until when.
    pub to: u64,
}

/// What is known besides the diaries.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Who was killed.
    pub deaths: Deaths,
    /// Processes that ask their node for every lock.
    pub socket_only: BTreeSet<u32>,
    /// When daemons stood still.
    pub stalls: Vec<Stall>,
    /// What daemons said.
    pub chronicle: Chronicle,
    /// What the harness said.
    pub marks: Vec<(u64, Mark)>,
}

/// Everything that happened, in order.
#[derive(Debug)]
pub struct Story {
    /// Times never fall.
    pub events: Vec<Event>,
    /// What clients wrote after their end.
    pub beyond: u64,
    /// Last lines that were cut off by a kill.
    pub torn: u64,
    /// Sessions whose run ended, and that heard of it.
    pub heard_lost: u64,
    /// Sessions whose run ended, that were not killed, and never heard of it.
    pub unheard: Vec<Client>,
    /// Sessions that were taken to end with a lease of which nobody could tell them.
    pub untold: u64,
    /// When the last run of each node began.
    last_runs: [u64; NODES],
}

impl Story {
    /// Reads all diaries in a directory.
    pub fn read(diaries: &Path, facts: &Facts) -> Result<Story, String> {
        let mut events = Vec::new();
        let (mut torn, mut untold, mut heard_lost, mut unheard) = (0, 0, 0, Vec::new());
        for entry in fs::read_dir(diaries).map_err(|e| format!("{}: {e}", diaries.display()))? {
            let path = entry.map_err(|e| e.to_string())?.path();
            let mut text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            let number = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.split('-').next());
            let number: Option<u32> = number.and_then(|n| n.parse().ok());
            let death = number.and_then(|n| facts.deaths.get(&n)).copied();
            if death.is_some() && !text.ends_with('\n') {
                torn += u64::from(!text.is_empty());
                text.truncate(text.rfind('\n').map_or(0, |at| at + 1));
            }
            let mut lines = read_lines(&text).map_err(|e| format!("{}: {e}", path.display()))?;
            if let Some(at) = death {
                close(&mut lines, at, &facts.chronicle);
            }
            heard(&lines, &facts.chronicle, &mut heard_lost, &mut unheard);
            if number.is_some_and(|n| facts.socket_only.contains(&n)) {
                untold += end_with_lease(&mut lines, facts);
            }
            events.extend(lines);
        }
        let departures = facts.chronicle.departures().into_iter().map(|at| (at, Mark::NodeGone(None)));
        let marks = facts.marks.iter().copied().chain(departures);
        events.extend(marks.map(|(at, mark)| Event { at, what: What::Mark(mark) }));
        let last_runs = std::array::from_fn(|n| facts.chronicle.runs[n].last().copied().unwrap_or(0));
        Ok(Story { torn, untold, heard_lost, unheard, last_runs, ..Story::of(events) })
    }

    /// Orders events, and leaves out what clients said after their end.
    fn of(mut events: Vec<Event>) -> Story {
        events.sort_by_key(|e| (e.at, rank(&e.what)));
        let mut alive = BTreeSet::new();
        let before = events.len();
        events.retain(|event| match &event.what {
            What::Opened { client, .. } => alive.insert(*client),
            What::Ended { client, .. } => alive.remove(client),
            What::Asked { client, .. } | What::Told { client, .. } => alive.contains(client),
            What::Mark(_) => true,
        });
        let beyond = (before - events.len()) as u64;
        Story {
            beyond,
            events,
            torn: 0,
            heard_lost: 0,
            unheard: Vec::new(),
            untold: 0,
            last_runs: [0; NODES],
        }
    }

    /// Counts what is in it.
    pub fn sum(&self) -> Sum {
        let mut sum = Sum::default();
        let mut ledger = Ledger::default();
        let mut killed: BTreeMap<u32, (bool, bool)> = BTreeMap::new();
        // Sessions of the last runs.
        let mut last = BTreeSet::new();
        for event in &self.events {
            match &event.what {
                What::Opened { client, node } => {
                    sum.sessions += 1;
                    if self.last_runs.get(usize::from(*node)).is_none_or(|began| event.at >= *began) {
                        last.insert(*client);
                    }
                }
                What::Asked { ask, .. } => match ask {
                    Ask::Lock { .. } => sum.locks += 1,
                    Ask::Convert { .. } => sum.converts += 1,
                    Ask::Unlock { value, .. } => {
                        sum.unlocks += 1;
                        sum.values_written += u64::from(value.is_some());
                    }
                    Ask::Cancel => {}
                },
                What::Told { client, told, .. } => sum.told(told, last.contains(client)),
                What::Ended { client, how } => {
                    let open = ledger.locks_of(*client).filter(|l| l.pending.is_some()).count() as u64;
                    sum.last_runs.unanswered += if last.contains(client) { open } else { 0 };
                    if *how == End::Died {
                        let (holding, waiting) = killed.entry(Options::process_of(*client)).or_default();
                        *holding |= ledger.locks_of(*client).any(|l| l.held.is_some());
                        *waiting |= ledger.locks_of(*client).any(|l| l.pending.is_some());
                    } else {
                        sum.lost_holding += u64::from(ledger.locks_of(*client).any(|l| l.held.is_some()));
                    }
                }
                What::Mark(_) => {}
            }
            ledger.enter(event);
        }
        sum.killed = killed.len() as u64;
        sum.killed_holding = killed.values().filter(|(holding, _)| *holding).count() as u64;
        sum.killed_waiting = killed.values().filter(|(_, waiting)| *waiting).count() as u64;
        sum
    }
}

/// Adds the end of every session that a killed process left open.
fn close(lines: &mut Vec<Event>, death: u64, chronicle: &Chronicle) {
    let mut open: BTreeMap<Client, u64> = BTreeMap::new();
    for line in lines.iter() {
        match &line.what {
            What::Ended { client, .. } => drop(open.remove(client)),
            What::Opened { client, .. } | What::Asked { client, .. } | What::Told { client, .. } => {
                open.insert(*client, line.at);
            }
            What::Mark(_) => {}
        }
    }
    for (client, last) in open {
        let at = if chronicle.turned(last, death) { last } else { last.max(death) };
        lines.push(Event { at, what: What::Ended { client, how: End::Died } });
    }
}

/// Every session must end before the next run of its node begins, or hear of it soon after.
fn heard(lines: &[Event], chronicle: &Chronicle, heard_lost: &mut u64, unheard: &mut Vec<Client>) {
    let ends: BTreeMap<Client, (End, u64)> = (lines.iter())
        .filter_map(|line| match &line.what {
            What::Ended { client, how } => Some((*client, (*how, line.at))),
            _ => None,
        })
        .collect();
    for line in lines {
        let What::Opened { client, node } = line.what else { continue };
        let runs = chronicle.runs.get(usize::from(node)).into_iter().flatten();
        if let Some(began) = runs.into_iter().filter(|began| **began > line.at).min() {
            match ends.get(&client) {
                Some((End::Lost, at)) if *at <= began + HEAR_MAX => *heard_lost += 1,
                Some((End::Died, _)) => {}
                Some((End::Lost, _)) | None => unheard.push(client),
            }
        }
    }
}

/// Sessions whose node stood still while their lease ended end with it. Returns how many.
fn end_with_lease(lines: &mut Vec<Event>, facts: &Facts) -> u64 {
    let mut ends = Vec::new();
    for line in lines.iter() {
        let What::Opened { client, node } = line.what else { continue };
        let after = |at: u64| {
            let over =
                |l: &&Event| matches!(l.what, What::Ended { client: c, .. } if c == client) && l.at <= at;
            !lines.iter().any(|l| over(&l))
        };
        let stalls = facts.stalls.iter().filter(|s| s.node == node && s.to > line.at && after(s.from));
        let lost = |s: &&Stall| {
            let lost = facts.chronicle.lost.get(usize::from(node)).into_iter().flatten();
            // The harness looks at its clock a moment after it has let the daemon go.
            lost.into_iter().any(|at| (s.to.saturating_sub(SLACK)..s.to + NOTICE_MAX).contains(at))
        };
        let Some(stall) = stalls.into_iter().find(lost) else { continue };
        // Others put a run out when its lease has been over for that long. They may not have been there to do it.
        let after_lease = (LEASE_MARGIN + LEASE_DRIFT).as_nanos() as u64;
        let verdict = facts.chronicle.views.values().filter(|v| v.may_lack(node)).map(|view| view.at);
        let verdict = verdict.filter(|at| (stall.from..stall.to).contains(at)).min();
        let longest = stall.from + LEASE.saturating_sub(LEASE_MARGIN).as_nanos() as u64;
        let at = verdict.map_or(longest, |at| at.saturating_sub(after_lease)).clamp(stall.from, longest);
        ends.push(Event { at: at.max(line.at), what: What::Ended { client, how: End::Lost } });
    }
    let count = ends.len() as u64;
    lines.extend(ends);
    count
}

/// Of things that bear the same stamp, answers come after requests, and ends after both.
fn rank(what: &What) -> u8 {
    match what {
        What::Opened { .. } | What::Asked { .. } | What::Mark(_) => 0,
        What::Told { .. } => 1,
        What::Ended { .. } => 2,
    }
}

/// What a history holds, counted.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    /// Sessions.
    pub sessions: u64,
    /// Requests for new locks.
    pub locks: u64,
    /// Requests for other modes.
    pub converts: u64,
    /// Releases.
    pub unlocks: u64,
    /// Of these, with a new value block.
    pub values_written: u64,
    /// Value blocks read.
    pub values_read: u64,
    /// Blocking notices.
    pub notices: u64,
    /// Refusals, by code.
    pub failed: BTreeMap<Code, u64>,
    /// Processes killed.
    pub killed: u64,
    /// Of these, with a lock in hand.
    pub killed_holding: u64,
    /// Of these, with a request unanswered.
    pub killed_waiting: u64,
    /// Sessions that were lost with a lock in hand.
    pub lost_holding: u64,
    /// Grants that clients heard of.
    pub grants: u64,
    /// What concerns the last run of each node.
    pub last_runs: LastRuns,
}

/// What sessions with the last run of each node heard.
#[derive(Clone, Copy, Debug, Default)]
pub struct LastRuns {
    /// Grants that clients heard of.
    pub grants: u64,
    /// Conversions refused as deadlocks, as far as clients heard of it.
    pub victims: u64,
    /// Requests whose session ended first: each may have been granted, or not.
    pub unanswered: u64,
}

impl Sum {
    fn told(&mut self, told: &Told, last: bool) {
        match told {
            Told::Granted { value, .. } => {
                self.values_read += u64::from(value.is_some());
                self.grants += 1;
                self.last_runs.grants += u64::from(last);
            }
            Told::Failed { code } => {
                *self.failed.entry(*code).or_default() += 1;
                self.last_runs.victims += u64::from(*code == Code::Deadlock && last);
            }
            Told::Blocking { .. } => self.notices += 1,
            Told::Released | Told::Token { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::ViewTold;
    use oarlock_layout::flags::Flags;
    use oarlock_layout::mode::Mode;
    use oarlock_layout::name::Name;
    use oarlock_layout::token::{Fence, Token};
    use oarlock_sim::history::{Rules, write_line};

    fn told(at: u64, members: u64) -> ViewTold {
        ViewTold { at, members, said: [false; NODES], served: None }
    }

    fn opened(at: u64, client: Client) -> Event {
        Event { at, what: What::Opened { client, node: 0 } }
    }

    fn asked(at: u64, client: Client) -> Event {
        let (name, flags) = (Name::new(b"x").unwrap(), Flags::empty());
        let ask = Ask::Lock { space: 0, name, mode: Mode::EX, flags, timeout_ms: 0 };
        Event { at, what: What::Asked { client, handle: 1, ask } }
    }

    fn granted(at: u64, client: Client, fence: u64) -> Event {
        let token = Token { fence: Fence::from_number(fence), local: 0 };
        let told = Told::Granted { mode: Mode::EX, token: Some(token), value: None, alternate: false };
        Event { at, what: What::Told { client, handle: 1, told } }
    }

    fn write(dir: &Path, name: &str, events: &[Event], rest: &str) {
        let lines: String = events.iter().map(|e| write_line(e) + "\n").collect();
        fs::write(dir.join(name), lines + rest).unwrap();
    }

    #[test]
    fn a_killed_client_ends_with_its_last_line_and_a_torn_one_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            "0001-0.jsonl",
            &[opened(10, 1), asked(20, 1), granted(90, 1, 5)],
            "{\"at\":95,\"ev",
        );
        write(dir.path(), "0002-0.jsonl", &[opened(10, 7000), asked(30, 7000)], "");
        let mut facts = Facts { deaths: Deaths::from([(1, 80), (2, 60)]), ..Facts::default() };
        let story = Story::read(dir.path(), &facts).unwrap();
        let ends: Vec<_> = story.events.iter().filter(|e| matches!(e.what, What::Ended { .. })).collect();
        assert_eq!(ends.iter().map(|e| e.at).collect::<Vec<_>>(), [60, 90]);
        assert_eq!((story.torn, story.beyond), (1, 0));
        let sum = story.sum();
        assert_eq!((sum.killed, sum.killed_holding, sum.killed_waiting), (2, 1, 1));
        assert_eq!((sum.grants, sum.last_runs.unanswered), (1, 1));
        // It may have stood still since its last line.
        facts.chronicle.views.insert(7, told(50, 2));
        let story = Story::read(dir.path(), &facts).unwrap();
        let ends: Vec<_> = story.events.iter().filter(|e| matches!(e.what, What::Ended { .. })).collect();
        assert_eq!(ends.iter().map(|e| e.at).collect::<Vec<_>>(), [30, 90]);
    }

    #[test]
    fn a_torn_line_of_a_client_that_lives_is_a_mistake() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "0001-0.jsonl", &[opened(10, 1)], "{\"at\":95,\"ev");
        assert!(Story::read(dir.path(), &Facts::default()).unwrap_err().contains("line 2"));
    }

    #[test]
    fn a_run_that_ended_was_heard_of_and_counts_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let lost = |at, client| Event { at, what: What::Ended { client, how: End::Lost } };
        write(
            dir.path(),
            "0001-0.jsonl",
            &[
                opened(1, 1),
                asked(2, 1),
                granted(3, 1, 5),
                lost(12, 1),
                opened(20, 2),
                asked(21, 2),
                granted(22, 2, 9),
            ],
            "",
        );
        write(dir.path(), "0002-0.jsonl", &[opened(2, 7000)], "");
        let mut facts = Facts::default();
        facts.chronicle.runs[0] = vec![0, 15];
        facts.chronicle.views.insert(3, told(14, 3));
        let story = Story::read(dir.path(), &facts).unwrap();
        assert_eq!((story.heard_lost, &story.unheard[..], story.beyond), (1, &[7000][..], 0));
        assert!(story.events.contains(&Event { at: 14, what: What::Mark(Mark::NodeGone(None)) }));
        assert_eq!(oarlock_sim::check::judge(&Rules::real(1, vec![false]), &story.events), []);
        let sum = story.sum();
        assert_eq!((sum.grants, sum.last_runs.grants, sum.lost_holding), (2, 1, 1));
    }

    #[test]
    fn who_cannot_be_told_ends_with_the_lease_only_if_the_node_stood_still() {
        const S: u64 = 1_000_000_000;
        let lost = |at, client| Event { at, what: What::Ended { client, how: End::Lost } };
        let judged = |socket_only: bool, stalls: Vec<Stall>, views: Vec<(u64, ViewTold)>| {
            let dir = tempfile::tempdir().unwrap();
            let other = Event { at: 15 * S, what: What::Opened { client: 7000, node: 1 } };
            let late = [opened(S, 1), asked(2 * S, 1), granted(3 * S, 1, 5), lost(17 * S, 1)];
            write(dir.path(), "0001-0.jsonl", &late, "");
            write(dir.path(), "0002-0.jsonl", &[other, asked(15 * S, 7000), granted(16 * S, 7000, 6)], "");
            let mut facts = Facts { stalls, ..Facts::default() };
            facts.socket_only.extend(socket_only.then_some(1));
            facts.chronicle.lost[0].push(17 * S);
            facts.chronicle.views.extend(views);
            let story = Story::read(dir.path(), &facts).unwrap();
            (story.untold, oarlock_sim::check::judge(&Rules::real(2, vec![false]), &story.events).len())
        };
        let out = ViewTold { said: [false, true, true], ..told(14 * S, 2) };
        let findings = |socket_only, stalls| judged(socket_only, stalls, vec![(3, out)]);
        let stall = Stall { node: 0, from: 10 * S, to: 17 * S };
        assert_eq!(findings(true, vec![stall]), (1, 0));
        assert_eq!(findings(false, vec![stall]), (0, 1));
        assert_eq!(findings(true, vec![]), (0, 1));
        assert_eq!(findings(true, vec![Stall { node: 1, ..stall }]), (0, 1));
        // A view that another has joined says nothing of this node's lease: a grant a second into the stall is too early.
        let early = Stall { from: 15 * S, ..stall };
        let joined = (2, ViewTold { said: [false, true, true], ..told(15 * S + S / 2, 3) });
        let later = (3, ViewTold { at: 19 * S, ..out });
        assert_eq!(judged(true, vec![early], vec![joined, later]), (1, 1));
    }

    /// A loss that a program hears of long after its node began anew was not told to it.
    #[test]
    fn who_hears_late_that_its_session_is_lost_did_not_hear_in_time() {
        const S: u64 = 1_000_000_000;
        let unheard = |at| {
            let lines = [opened(S, 1), Event { at, what: What::Ended { client: 1, how: End::Lost } }];
            let (mut heard_lost, mut unheard) = (0, Vec::new());
            let mut chronicle = Chronicle::default();
            chronicle.runs[0] = vec![0, 5 * S, 30 * S];
            heard(&lines, &chronicle, &mut heard_lost, &mut unheard);
            (heard_lost, unheard)
        };
        assert_eq!(unheard(9 * S), (1, vec![]));
        assert_eq!(unheard(20 * S), (0, vec![1]));
    }

    #[test]
    fn two_holders_are_still_found_if_one_of_them_is_killed_later() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "0001-0.jsonl", &[opened(10, 1), asked(20, 1), granted(30, 1, 5)], "");
        write(dir.path(), "0002-0.jsonl", &[opened(10, 7000), asked(25, 7000), granted(40, 7000, 6)], "");
        let findings = |death| {
            let facts = Facts { deaths: Deaths::from([(1, death)]), ..Facts::default() };
            let story = Story::read(dir.path(), &facts).unwrap();
            oarlock_sim::check::judge(&Rules::real(1, vec![false]), &story.events)
        };
        assert_eq!(findings(35), []);
        assert_eq!(findings(45)[0].checker, "exclusion");
    }
}
