//! Puts the diaries of all clients together into one history that the checkers can read.
//!
//! * A client that was killed ends when the order to kill it was given, or with the last line it wrote, if that
//!   is later: it may have run on for a moment. So it is never believed to hold a lock longer than it did.
//! * What a client wrote after its session had ended counts for nothing. It happens when a whole cluster goes
//!   down: the client has not looked yet.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use oarlock_layout::code::Code;
use oarlock_layout::token::Token;
use oarlock_sim::history::{Ask, Client, End, Event, Ledger, Mark, Told, What, read_lines};

use crate::client::Options;

/// Processes that were killed, and when the order was given.
pub type Deaths = BTreeMap<u32, u64>;

/// Everything that happened, in order.
#[derive(Debug)]
pub struct Story {
    /// Times never fall.
    pub events: Vec<Event>,
    /// What clients wrote after their end.
    pub beyond: u64,
    /// Last lines that were cut off by a kill.
    pub torn: u64,
    /// Sessions whose daemon was killed with all others, and that heard of it.
    pub heard_lost: u64,
    /// Sessions whose daemon was killed with all others, that were not killed themselves, and never heard of it.
    pub unheard: Vec<Client>,
}

impl Story {
    /// Reads all diaries in a directory. `downfall` is when all daemons were killed.
    pub fn read(
        diaries: &Path,
        deaths: &Deaths,
        marks: &[(u64, Mark)],
        downfall: Option<u64>,
    ) -> Result<Story, String> {
        let mut events = Vec::new();
        let mut torn = 0;
        for entry in fs::read_dir(diaries).map_err(|e| format!("{}: {e}", diaries.display()))? {
            let path = entry.map_err(|e| e.to_string())?.path();
            let mut text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            let number = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.split('-').next());
            let death = number.and_then(|n| n.parse().ok()).and_then(|n: u32| deaths.get(&n)).copied();
            if death.is_some() && !text.ends_with('\n') {
                torn += u64::from(!text.is_empty());
                text.truncate(text.rfind('\n').map_or(0, |at| at + 1));
            }
            let mut lines = read_lines(&text).map_err(|e| format!("{}: {e}", path.display()))?;
            if let Some(at) = death {
                close(&mut lines, at);
            }
            events.extend(lines);
        }
        events.extend(marks.iter().map(|(at, mark)| Event { at: *at, what: What::Mark(*mark) }));
        Ok(Story { torn, ..Story::of(events, downfall) })
    }

    /// Orders events, and leaves out what clients said after their end.
    fn of(mut events: Vec<Event>, downfall: Option<u64>) -> Story {
        events.sort_by_key(|e| (e.at, rank(&e.what)));
        let mut alive = BTreeSet::new();
        // Sessions that were open when the daemons were killed, and have not ended.
        let mut orphans: Option<BTreeSet<Client>> = None;
        let before = events.len();
        let mut heard_lost = 0;
        events.retain(|event| {
            if orphans.is_none() && downfall.is_some_and(|at| event.at >= at) {
                orphans = Some(alive.clone());
            }
            match &event.what {
                What::Opened { client, .. } => alive.insert(*client),
                What::Ended { client, how } => {
                    let orphan = orphans.as_mut().is_some_and(|o| o.remove(client));
                    heard_lost += u64::from(orphan && *how == End::Lost);
                    alive.remove(client)
                }
                What::Asked { client, .. } | What::Told { client, .. } => alive.contains(client),
                What::Mark(Mark::NewCluster) => {
                    alive.clear();
                    true
                }
                What::Mark(_) => true,
            }
        });
        let (beyond, unheard) = ((before - events.len()) as u64, orphans.into_iter().flatten().collect());
        Story { beyond, events, torn: 0, heard_lost, unheard }
    }

    /// Counts what is in it.
    pub fn sum(&self) -> Sum {
        let mut sum = Sum::default();
        let mut ledger = Ledger::default();
        let mut killed: BTreeMap<u32, (bool, bool)> = BTreeMap::new();
        for event in &self.events {
            match &event.what {
                What::Opened { .. } => sum.sessions += 1,
                What::Asked { ask, .. } => match ask {
                    Ask::Lock { .. } => sum.locks += 1,
                    Ask::Convert { .. } => sum.converts += 1,
                    Ask::Unlock { value, .. } => {
                        sum.unlocks += 1;
                        sum.values_written += u64::from(value.is_some());
                    }
                    Ask::Cancel => {}
                },
                What::Told { told, .. } => sum.told(told),
                What::Ended { client, how: End::Died } => {
                    let (holding, waiting) = killed.entry(Options::process_of(*client)).or_default();
                    *holding |= ledger.locks_of(*client).any(|l| l.held.is_some());
                    *waiting |= ledger.locks_of(*client).any(|l| l.pending.is_some());
                }
                What::Mark(Mark::NewCluster) => sum.eras.push(Era::default()),
                What::Ended { how: End::Lost, .. } | What::Mark(_) => {}
            }
            let open = |l: &Ledger, c: &Client| l.locks_of(*c).filter(|l| l.pending.is_some()).count() as u64;
            match &event.what {
                What::Ended { client, .. } => sum.era().unanswered += open(&ledger, client),
                What::Mark(Mark::NewCluster) => {
                    let rest = ledger.locks().filter(|l| l.pending.is_some()).count() as u64;
                    let last = sum.eras.len() - 2;
                    sum.eras[last].unanswered += rest;
                }
                _ => {}
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
fn close(lines: &mut Vec<Event>, death: u64) {
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
        lines.push(Event { at: last.max(death), what: What::Ended { client, how: End::Died } });
    }
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
#[derive(Clone, Debug)]
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
    /// From one start of the whole cluster to the next.
    pub eras: Vec<Era>,
}

/// The time between two starts of the whole cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct Era {
    /// Grants that clients heard of.
    pub grants: u64,
    /// Conversions refused as deadlocks, as far as clients heard of it.
    pub victims: u64,
    /// Requests whose session ended first: each may have been granted, or not.
    pub unanswered: u64,
    /// The lowest and the highest token granted.
    pub tokens: Option<(Token, Token)>,
}

impl Default for Sum {
    fn default() -> Sum {
        Sum {
            sessions: 0,
            locks: 0,
            converts: 0,
            unlocks: 0,
            values_written: 0,
            values_read: 0,
            notices: 0,
            failed: BTreeMap::new(),
            killed: 0,
            killed_holding: 0,
            killed_waiting: 0,
            eras: vec![Era::default()],
        }
    }
}

impl Era {
    fn drawn(&mut self, token: Token) {
        let (low, high) = self.tokens.unwrap_or((token, token));
        self.tokens = Some((low.min(token), high.max(token)));
    }
}

impl Sum {
    /// Grants of all eras.
    pub fn grants(&self) -> u64 {
        self.eras.iter().map(|e| e.grants).sum()
    }

    fn era(&mut self) -> &mut Era {
        self.eras.last_mut().expect("there is always one")
    }

    fn told(&mut self, told: &Told) {
        match told {
            Told::Granted { token, value, .. } => {
                self.values_read += u64::from(value.is_some());
                let era = self.era();
                era.grants += 1;
                token.iter().for_each(|token| era.drawn(*token));
            }
            Told::Token { token } => self.era().drawn(*token),
            Told::Failed { code } => {
                *self.failed.entry(*code).or_default() += 1;
                self.era().victims += u64::from(*code == Code::Deadlock);
            }
            Told::Blocking { .. } => self.notices += 1,
            Told::Released => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_layout::flags::Flags;
    use oarlock_layout::mode::Mode;
    use oarlock_layout::name::Name;
    use oarlock_layout::token::Fence;
    use oarlock_sim::history::{Rules, write_line};

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
        let story = Story::read(dir.path(), &Deaths::from([(1, 80), (2, 60)]), &[], None).unwrap();
        let ends: Vec<_> = story.events.iter().filter(|e| matches!(e.what, What::Ended { .. })).collect();
        assert_eq!(ends.iter().map(|e| e.at).collect::<Vec<_>>(), [60, 90]);
        assert_eq!((story.torn, story.beyond), (1, 0));
        let sum = story.sum();
        assert_eq!((sum.killed, sum.killed_holding, sum.killed_waiting), (2, 1, 1));
        assert_eq!((sum.grants(), sum.eras[0].unanswered), (1, 1));
    }

    #[test]
    fn a_torn_line_of_a_client_that_lives_is_a_mistake() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "0001-0.jsonl", &[opened(10, 1)], "{\"at\":95,\"ev");
        assert!(Story::read(dir.path(), &Deaths::new(), &[], None).unwrap_err().contains("line 2"));
    }

    #[test]
    fn after_a_restart_of_all_nothing_of_before_counts() {
        let events = vec![
            opened(1, 1),
            asked(2, 1),
            granted(3, 1, 5),
            Event { at: 10, what: What::Mark(Mark::NewCluster) },
            asked(11, 1),
            Event { at: 12, what: What::Ended { client: 1, how: End::Lost } },
            opened(20, 2),
            asked(21, 2),
            granted(22, 2, 9),
        ];
        let story = Story::of(events, Some(9));
        assert_eq!((story.beyond, story.heard_lost, &story.unheard[..]), (2, 1, &[][..]));
        assert_eq!(oarlock_sim::check::judge(&Rules::real(1, vec![false]), &story.events), []);
        let sum = story.sum();
        let tokens: Vec<_> = sum.eras.iter().map(|e| e.tokens.unwrap().0.fence.number()).collect();
        assert_eq!(tokens, [5, 9]);
    }

    #[test]
    fn a_session_that_never_hears_of_its_end_is_named() {
        let restart = Event { at: 10, what: What::Mark(Mark::NewCluster) };
        let heard = Event { at: 9, what: What::Ended { client: 3, how: End::Lost } };
        let killed = Event { at: 15, what: What::Ended { client: 2, how: End::Died } };
        let story =
            Story::of(vec![opened(1, 1), opened(2, 2), opened(3, 3), heard, restart, killed], Some(8));
        assert_eq!((story.heard_lost, story.unheard), (1, vec![1]));
    }

    #[test]
    fn two_holders_are_still_found_if_one_of_them_is_killed_later() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "0001-0.jsonl", &[opened(10, 1), asked(20, 1), granted(30, 1, 5)], "");
        write(dir.path(), "0002-0.jsonl", &[opened(10, 7000), asked(25, 7000), granted(40, 7000, 6)], "");
        let findings = |death| {
            let story = Story::read(dir.path(), &Deaths::from([(1, death)]), &[], None).unwrap();
            oarlock_sim::check::judge(&Rules::real(1, vec![false]), &story.events)
        };
        assert_eq!(findings(35), []);
        assert_eq!(findings(45)[0].checker, "exclusion");
    }
}
