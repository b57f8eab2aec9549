//! What the daemons' logs say about views and runs, on the clock that all processes of this machine share.
//!
//! Programs cannot see views. The judge has to know of them: when a run has been put out, what others know of the
//! blocks that it may have written is not to be believed, and what a program believed that stood still, or whose
//! daemon did, is worth nothing.

use std::collections::BTreeMap;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{NODES, Place};
use crate::clock;

/// A line is written a moment after what it tells; and the two clocks are not read in one instant.
const LATE: u64 = 2_000_000;

/// A view, as far as the logs tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ViewTold {
    /// When it became valid at the first node.
    pub at: u64,
    /// How many members it has.
    pub members: u64,
    /// The nodes that said that it is valid for them: members, all of them.
    pub said: [bool; NODES],
    /// When the last node that logged it began to grant under it.
    pub served: Option<u64>,
}

/// Everything of use.
#[derive(Clone, Debug, Default)]
pub struct Chronicle {
    /// By epoch.
    pub views: BTreeMap<u64, ViewTold>,
    /// For each node, when its runs began.
    pub runs: [Vec<u64>; NODES],
    /// For each node, when its runs said that their lease was over.
    pub lost: [Vec<u64>; NODES],
}

impl ViewTold {
    /// May this node be out of it? Not if it said that it is in, nor if all are.
    pub fn may_lack(&self, node: u16) -> bool {
        let said = self.said.get(usize::from(node)).copied().unwrap_or(false);
        !said && self.members < NODES as u64
    }
}

impl Chronicle {
    /// Reads all logs.
    pub fn read(places: &[Place]) -> Chronicle {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_nanos();
        let ahead = wall as u64 - clock::now();
        let mut chronicle = Chronicle::default();
        for (node, place) in places.iter().enumerate() {
            let log = fs::read_to_string(place.log()).unwrap_or_default();
            for line in log.lines() {
                chronicle.line(node, ahead, line);
            }
        }
        chronicle
    }

    fn line(&mut self, node: usize, ahead: u64, line: &str) {
        let Some((stamp, rest)) = line.split_once(' ') else { return };
        let Some(at) = wall(stamp).and_then(|at| at.checked_sub(ahead + LATE)) else { return };
        // Behind the level.
        let Some((_, text)) = rest.trim_start().split_once(' ') else { return };
        let text = text.trim_start();
        let number = |text: &str| text.split([' ', ',']).next().and_then(|n| n.parse::<u64>().ok());
        if let Some((epoch, rest)) = text.strip_prefix("view ").and_then(|t| t.split_once(" is valid, with "))
        {
            if let (Some(epoch), Some(members)) = (number(epoch), number(rest)) {
                let fresh = ViewTold { at, members, said: [false; NODES], served: None };
                let view = self.views.entry(epoch).or_insert(fresh);
                view.at = view.at.min(at);
                view.said[node] = true;
            }
        } else if let Some(epoch) = text.strip_prefix("serving in view ").and_then(number) {
            if let Some(view) = self.views.get_mut(&epoch) {
                view.served = view.served.max(Some(at));
            }
        } else if text.starts_with("node ") && text.contains(", run ") {
            self.runs[node].push(at);
        } else if text.starts_with("the lease is over") {
            self.lost[node].push(at);
        }
    }

    /// When a run was put out, and when others had recovered from it if that took long: of blocks that were written in
    /// between less is known for certain.
    pub fn departures(&self) -> Vec<u64> {
        /// The judge gives others this long by itself.
        const SOON: u64 = 6_000_000_000;
        let mut before = None;
        let mut at = Vec::new();
        for view in self.views.values() {
            if before.is_none_or(|members| view.members <= members) {
                at.push(view.at);
                at.extend(view.served.filter(|served| *served > view.at + SOON));
            }
            before = Some(view.members);
        }
        at
    }

    /// Has another view become valid in this time?
    pub fn turned(&self, after: u64, until: u64) -> bool {
        self.views.values().any(|view| after < view.at && view.at <= until)
    }
}

/// Nanoseconds since 1970 of a stamp as logs have it: `2026-11-27T04:00:23.123456Z`.
fn wall(stamp: &str) -> Option<u64> {
    let (date, time) = stamp.strip_suffix('Z')?.split_once('T')?;
    let (time, fraction) = time.split_once('.')?;
    let three = |text: &str, by: char| -> Option<[u64; 3]> {
        let parts: Vec<u64> = text.split(by).map(|part| part.parse().ok()).collect::<Option<_>>()?;
        parts.try_into().ok()
    };
    let [year, month, day] = three(date, '-')?;
    if month > 12 {
        return None;
    }
    let [hour, minute, second] = three(time, ':')?;
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let february = if leap(year) { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let days = (1970..year).map(|y| if leap(y) { 366 } else { 365 }).sum::<u64>()
        + months.get(..usize::try_from(month).ok()?.checked_sub(1)?)?.iter().sum::<u64>()
        + day.checked_sub(1)?;
    let nanoseconds = fraction.parse::<u64>().ok()? * 10_u64.pow(9_u32.checked_sub(fraction.len() as u32)?);
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000_000 + nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_a_time() {
        assert_eq!(wall("1970-01-01T00:00:00.000001Z"), Some(1_000));
        assert_eq!(wall("2000-03-01T00:00:00.500000Z"), Some(951_868_800_500_000_000));
        assert_eq!(wall("2026-11-27T04:00:23.123456Z"), Some(1_795_752_023_123_456_000));
        for wrong in ["", "2026-11-27", "2026-13-27T04:00:23.1Z", "2026-11-27T04:00:23Z", "xZ"] {
            assert_eq!(wall(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn views_runs_and_losses_are_taken_from_logs() {
        let mut chronicle = Chronicle::default();
        let mut say = |node, second: u64, text: &str| {
            chronicle.line(node, 0, &format!("1970-01-01T00:00:{second:02}.000000Z {text}"));
        };
        say(0, 1, " INFO node a of cluster chaos, run 3, epoch 0, last stop clean");
        say(0, 2, " INFO view 1 is valid, with 2 members; what is held is stated anew");
        say(1, 3, " INFO view 1 is valid, with 2 members; what is held is stated anew");
        say(1, 4, " INFO serving in view 1");
        say(1, 5, " INFO view 2 is valid, with 3 members; what is held is stated anew");
        say(2, 6, "ERROR the lease is over, or others have put this node out; all its locks are lost");
        say(1, 7, " INFO view 3 is valid, with 2 members; what is held is stated anew");
        say(1, 30, " INFO serving in view 3");
        say(1, 31, "WARN something else");
        let at = |second: u64| second * 1_000_000_000 - LATE;
        assert_eq!(chronicle.runs, [vec![at(1)], vec![], vec![]]);
        assert_eq!(chronicle.lost, [vec![], vec![], vec![at(6)]]);
        assert_eq!(
            chronicle.views[&1],
            ViewTold { at: at(2), members: 2, said: [true, true, false], served: Some(at(4)) }
        );
        assert!(chronicle.views[&1].may_lack(2) && !chronicle.views[&1].may_lack(1));
        assert!(!chronicle.views[&2].may_lack(0), "all are in");
        assert_eq!(chronicle.departures(), [at(2), at(7), at(30)]);
        assert!(chronicle.turned(at(6), at(7)) && !chronicle.turned(at(7), at(40)));
    }
}
