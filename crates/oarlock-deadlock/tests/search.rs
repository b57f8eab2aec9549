//! When a search asks, whom, and what it believes.

mod table;

use std::collections::BTreeSet;

use oarlock_deadlock::{CONFIRM, Output, PATIENCE, PAUSE_MAX, Search, Suspects};
use oarlock_layout::id::NodeId;
use oarlock_layout::message::trace::{Sight, Trace, Traced, Verdict};
use oarlock_layout::mode::Mode;
use oarlock_layout::stamp::Stamp;
use oarlock_layout::time::{Duration, Instant};

use table::{Table, hold, names, wait};

const DELAY: Duration = Duration::from_millis(100);
const ME: NodeId = NodeId(0);

/// A search at node 0 of two, over a table that may change under it.
struct Play {
    now: Instant,
    search: Search,
    table: Table,
    asked: Vec<Trace>,
    found: Vec<Verdict>,
    /// Answers are not all of it.
    cut: bool,
    /// The other node says nothing.
    deaf: bool,
}

impl Play {
    fn new(table: Table) -> Play {
        let now = Instant::from_millis(1_000);
        let mut search = Search::new(DELAY);
        search.waits(now);
        Play { now, search, table, asked: Vec::new(), found: Vec::new(), cut: false, deaf: false }
    }

    fn sights(&self, node: NodeId) -> Vec<Sight> {
        self.table.sights().into_iter().filter(|(at, _)| *at == node).map(|(_, sight)| sight).collect()
    }

    /// The next time at which something is due. `fresh`: somebody new waits.
    fn step(&mut self, fresh: bool) {
        self.now = self.search.poll_timeout().expect("something is due");
        if self.search.handle_timeout(self.now) {
            let members = BTreeSet::from([ME, NodeId(1)]);
            let sights = self.sights(ME);
            let any = !sights.is_empty();
            self.search.begin(self.now, Stamp(7), ME, members, Suspects { sights, any, fresh });
        }
        while let Some(output) = self.search.poll_output() {
            match output {
                Output::Ask { members, trace } => {
                    for node in members {
                        if self.deaf && node != ME {
                            continue;
                        }
                        let (question, cut, sights) = (trace.question, self.cut, self.sights(node));
                        self.search.handle_traced(self.now, node, Traced { question, cut, sights });
                    }
                    self.asked.push(trace);
                }
                Output::Found(verdict) => self.found.push(verdict),
            }
        }
    }

    fn victims(&self) -> Vec<String> {
        let waits: Vec<_> = self.found.iter().map(|verdict| verdict.victim).collect();
        names(&self.table, &waits)
    }
}

fn crossed(second: u64) -> Table {
    let mut table = Table::new(false);
    table.put("a", [hold(0, "ann", Mode::EX), wait(1, "bob", Mode::EX, 10)]);
    table.put("b", [hold(1, "bob", Mode::EX), wait(0, "ann", Mode::EX, second)]);
    table
}

/// D6: what one pass finds may be of several moments.
#[test]
fn a_knot_counts_only_if_it_is_seen_twice() {
    let mut play = Play::new(crossed(20));
    let begin = play.now;
    play.step(true);
    assert_eq!((play.now, play.found.len()), (begin + DELAY, 0));
    play.step(false);
    assert_eq!((play.now, play.victims()), (begin + DELAY + CONFIRM, vec!["ann".to_string()]));
    // It is looked at again, as whoever was told may be gone, and both passes count anew.
    play.step(false);
    assert_eq!(play.found.len(), 1);
    assert_eq!((play.search.counters().found, play.search.counters().unconfirmed), (1, 0));
}

/// D6: another wait of the same lock is another wait.
#[test]
fn a_knot_of_other_waits_is_another_knot() {
    let mut play = Play::new(crossed(20));
    play.step(true);
    play.table = crossed(30);
    play.step(false);
    assert_eq!((play.found.len(), play.search.counters().unconfirmed), (0, 1));
    play.step(false);
    assert_eq!(play.victims(), ["ann"]);
    assert_eq!(play.found[0].victim.since.stamp, Stamp(30));
}

/// One that is gone when it is looked at again was none.
#[test]
fn a_knot_that_comes_apart_is_nobodys_fault() {
    let mut play = Play::new(crossed(20));
    play.step(true);
    let mut table = Table::new(false);
    table.put("a", [hold(0, "ann", Mode::EX), wait(1, "bob", Mode::EX, 10)]);
    table.put("b", [wait(0, "ann", Mode::EX, 20)]);
    play.table = table;
    for _ in 0..5 {
        play.step(false);
    }
    assert_eq!((play.found.len(), play.search.counters().unconfirmed), (0, 1));
}

/// D8: whoever waits for long is looked at now and then, and whoever comes new soon.
#[test]
fn passes_come_further_apart_while_nothing_new_waits() {
    let mut table = Table::new(false);
    table.put("a", [hold(0, "ann", Mode::EX)]);
    table.put("b", [hold(1, "bob", Mode::EX), wait(0, "ann", Mode::EX, 20)]);
    let mut play = Play::new(table);
    let mut gaps = Vec::new();
    for fresh in [true, false, false, false, false, true, false] {
        let before = play.now;
        play.step(fresh);
        gaps.push((play.now - before).as_millis() as u64);
    }
    assert_eq!(gaps, [100, 100, 200, 400, PAUSE_MAX.as_millis() as u64, 400, 100]);
    // Two questions a pass are enough here: who has what ann waits for, and what does that one wait for?
    assert_eq!(play.asked.len(), 2 * gaps.len());
    for (at, trace) in play.asked.iter().enumerate() {
        let asked = (trace.resources.len(), trace.transactions.len());
        assert_eq!(asked, if at % 2 == 0 { (1, 1) } else { (0, 1) }, "{trace:?}");
    }
    assert_eq!(play.search.counters().asked, play.asked.len() as u64);
}

/// D8: nobody who holds and waits, no pass; nobody who waits, not even a look.
#[test]
fn without_suspects_there_is_no_pass() {
    let mut play = Play::new(Table::new(false));
    play.step(false);
    assert_eq!((play.asked.len(), play.search.poll_timeout()), (0, None));
    assert_eq!(play.search.counters().passes, 0);
    play.search.waits(play.now);
    assert_eq!(play.search.poll_timeout(), Some(play.now + DELAY));
}

/// Nothing is believed of what is not complete.
#[test]
fn a_pass_without_all_answers_finds_nothing() {
    let mut play = Play::new(crossed(20));
    play.cut = true;
    for _ in 0..4 {
        play.step(false);
    }
    assert_eq!((play.found.len(), play.search.counters().given_up), (0, 4));

    let mut play = Play::new(crossed(20));
    play.deaf = true;
    play.step(true);
    let asked = play.now;
    play.step(false);
    assert_eq!((play.now, play.search.counters().given_up), (asked + PATIENCE, 1));
    // An answer that comes after that is nobody's.
    let late = Traced { question: play.asked[0].question, cut: false, sights: play.sights(NodeId(1)) };
    play.search.handle_traced(play.now, NodeId(1), late);
    assert_eq!(play.search.poll_output(), None);
    play.deaf = false;
    for _ in 0..2 {
        play.step(false);
    }
    assert_eq!(play.victims(), ["ann"]);
}

/// Under another view all begins anew.
#[test]
fn what_was_seen_before_a_view_counts_no_more() {
    let mut play = Play::new(crossed(20));
    play.step(true);
    play.search.handle_view(play.now);
    play.step(false);
    assert_eq!(play.found.len(), 0);
    play.step(false);
    assert_eq!(play.victims(), ["ann"]);
}
