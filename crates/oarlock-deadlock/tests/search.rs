//! When a search asks, whom, and what it believes.

mod table;

use oarlock_deadlock::{
    CONFIRM, Output, PATIENCE, PATIENCE_MAX, PAUSE_MAX, PAUSE_TRANSACTIONS_MAX, Search, Start, Suspects,
};
use oarlock_layout::id::{Epoch, LockId, NodeId, SessionId, TransactionId};
use oarlock_layout::message::trace::{Sight, Trace, Traced, Verdict};
use oarlock_layout::mode::Mode;
use oarlock_layout::stamp::Stamp;
use oarlock_layout::time::{Duration, Instant};

use table::{Table, hold, names, transaction, wait};

const DELAY: Duration = Duration::from_millis(100);
const ME: NodeId = NodeId(0);
const EPOCH: Epoch = Epoch(3);

/// A search at node 0 of two, over a table that may change under it.
struct Play {
    now: Instant,
    search: Search,
    table: Table,
    /// What others were asked, and when.
    asked: Vec<(Instant, Trace)>,
    found: Vec<Verdict>,
    /// Answers are not all of it.
    cut: bool,
    /// They are not if more than this is asked for.
    most: usize,
    /// This one says nothing, if it is `deaf`, and there is no way to it, if it is `away`.
    silent: NodeId,
    deaf: bool,
    away: bool,
    members: u16,
    /// Of whom answers say that they tell nothing of it.
    left: Vec<TransactionId>,
    /// Nobody tells of this resource.
    hidden: Option<&'static str>,
    /// At so many nodes, the first ones, names stand for owners, and at the others for transactions.
    owners: u16,
}

impl Play {
    fn new(table: Table) -> Play {
        let now = Instant::from_millis(1_000);
        let mut search = Search::new(DELAY);
        search.waits(now);
        Play {
            now,
            search,
            table,
            asked: Vec::new(),
            found: Vec::new(),
            cut: false,
            most: usize::MAX,
            silent: NodeId(1),
            deaf: false,
            away: false,
            members: 2,
            left: Vec::new(),
            hidden: None,
            owners: 0,
        }
    }

    fn sights(&self, node: NodeId) -> Vec<Sight> {
        let sights = self.table.sights().into_iter().filter(|(at, _)| *at == node).map(|(_, sight)| sight);
        let mut sights: Vec<Sight> = sights
            .filter(|sight| self.hidden.is_none_or(|name| sight.name.as_bytes() != name.as_bytes()))
            .collect();
        for sight in sights.iter_mut().filter(|_| node.0 < self.owners) {
            for hold in &mut sight.holds {
                hold.lock = of_one_session(hold.lock);
                hold.owner.0 = core::mem::take(&mut hold.transaction.0);
            }
            for wait in &mut sight.waits {
                wait.party.lock = of_one_session(wait.party.lock);
                wait.party.owner.0 = core::mem::take(&mut wait.party.transaction.0);
            }
        }
        sights
    }

    /// The next time at which something is due. `fresh`: somebody new waits.
    fn step(&mut self, fresh: bool) {
        self.now = self.search.poll_timeout().expect("something is due");
        if self.search.handle_timeout(self.now) {
            let members = (0..self.members).map(NodeId).collect();
            let sights = self.sights(ME);
            let some = !sights.is_empty();
            if self.search.look(self.now, Suspects { some, any: some, fresh }) {
                let start = Start { stamp: Stamp(7), epoch: EPOCH, me: ME, members, sights };
                self.search.begin(self.now, start);
            }
        }
        while let Some(output) = self.search.poll_output() {
            match output {
                Output::Ask { member, trace } => {
                    if member != ME {
                        self.asked.push((self.now, trace.clone()));
                    }
                    if member == self.silent && self.away {
                        self.search.handle_unreachable(self.now, member);
                    } else if member != self.silent || !self.deaf {
                        let traced = self.traced(member, &trace);
                        self.search.handle_traced(self.now, member, traced);
                    }
                }
                Output::Found(verdict) => self.found.push(verdict),
            }
        }
    }

    fn traced(&self, node: NodeId, trace: &Trace) -> Traced {
        let (epoch, question) = (trace.epoch, trace.question);
        let cut = self.cut || trace.resources.len() + trace.transactions.len() > self.most;
        Traced { epoch, question, cut, left: self.left.clone(), sights: self.sights(node) }
    }

    fn victims(&self) -> Vec<String> {
        let waits: Vec<_> = self.found.iter().map(|verdict| verdict.victim).collect();
        names(&self.table, &waits)
    }
}

fn of_one_session(lock: LockId) -> LockId {
    LockId::new(SessionId(9), lock.session().0 * 100 + lock.handle())
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
    for (transactions, most) in [(false, PAUSE_MAX), (true, PAUSE_TRANSACTIONS_MAX)] {
        let mut play = Play::new(table.clone());
        play.owners = if transactions { 0 } else { 2 };
        let mut gaps = Vec::new();
        for fresh in [true, false, false, false, false, false, false, false, false, false, true, false] {
            let before = play.now;
            play.step(fresh);
            gaps.push((play.now - before).as_millis() as u64);
        }
        let most = most.as_millis() as u64;
        let mut want: Vec<u64> = [100, 100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000, 10_000]
            .map(|it: u64| it.min(most))
            .into();
        want.push(100);
        assert_eq!(gaps, want);
        // A question a pass is enough: who has what ann waits for, and what does that one wait for?
        assert_eq!(play.asked.len(), if transactions { 2 } else { 1 } * gaps.len());
        assert_eq!(play.search.counters().asked, play.asked.len() as u64);
    }
}

/// D8: however far off the next pass is, what comes new is looked at as soon as it is old enough.
#[test]
fn news_is_looked_at_soon() {
    let mut table = Table::new(false);
    table.put("a", [hold(0, "ann", Mode::EX)]);
    table.put("b", [hold(1, "bob", Mode::EX), wait(0, "ann", Mode::EX, 20)]);
    let mut play = Play::new(table);
    play.owners = 2;
    play.step(true);
    for _ in 0..12 {
        play.step(false);
    }
    let (now, passes) = (play.now, play.search.counters().passes);
    assert_eq!(play.search.poll_timeout(), Some(now + PAUSE_MAX));
    let (first, second) = (now + Duration::from_secs(1), now + Duration::from_millis(1_030));
    play.search.news(first);
    play.search.news(second);
    // Nobody of these holds anything: the pass is no earlier for it.
    for at in [first, second] {
        play.step(false);
        assert_eq!((play.now, play.search.counters().passes), (at + DELAY, passes));
    }
    assert_eq!(play.search.poll_timeout(), Some(now + PAUSE_MAX));
    play.search.news(second + DELAY);
    play.step(true);
    assert_eq!((play.now, play.search.counters().passes), (second + DELAY + DELAY, passes + 1));
    assert_eq!(play.search.poll_timeout(), Some(play.now + DELAY));
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

/// What is left out of an answer counts as whatever goes on.
#[test]
fn whoever_waits_for_something_that_was_left_out_is_not_stuck() {
    // bob waits for c too, where nobody holds anything.
    let mut table = crossed(20);
    table.put("c", [wait(1, "bob", Mode::EX, 30)]);
    for (hidden, found) in [(false, 0), (true, 0)] {
        let mut play = Play::new(table.clone());
        (play.cut, play.hidden) = (hidden, hidden.then_some("c"));
        for _ in 0..4 {
            play.step(false);
        }
        assert_eq!(play.found.len(), found);
        assert_eq!(play.search.counters().cut, if hidden { 4 } else { 0 });
    }
    // The circle is found where what is left out has nothing to do with it.
    table.put("c", [wait(1, "cid", Mode::EX, 30)]);
    let mut play = Play::new(table);
    (play.cut, play.hidden) = (true, Some("c"));
    play.step(true);
    play.step(false);
    assert_eq!(play.victims(), ["ann"]);
}

/// What does not fit into one answer fits into several.
#[test]
fn what_does_not_fit_is_asked_for_again_in_parts() {
    let mut table = crossed(20);
    for at in 0..40 {
        let name: &'static str = format!("r{at:02}").leak();
        let who: &'static str = format!("who{at:02}").leak();
        table.put(name, [hold(1, "bob", Mode::EX), wait(0, who, Mode::EX, 5)]);
    }
    let mut play = Play::new(table);
    play.most = 16;
    play.step(true);
    let sizes: Vec<usize> = play.asked.iter().map(|(_, trace)| trace.resources.len()).collect();
    assert!(sizes[0] > 40 && sizes[1..].iter().all(|size| *size <= 16), "{sizes:?}");
    let parts = play.asked[1..].iter().flat_map(|(_, trace)| trace.resources.clone());
    let parts: std::collections::BTreeSet<_> = parts.collect();
    assert!(play.asked[0].1.resources.iter().all(|it| parts.contains(it)));
    play.step(false);
    assert_eq!((play.victims(), play.search.counters().cut), (vec!["ann".to_string()], 0));
}

/// Where ann waits for something else is not told, or not in time: she may go on there.
#[test]
fn a_transaction_of_which_not_all_nodes_have_told_is_not_stuck() {
    // How many members, at which of them bob waits for a, where somebody waits for c as well, and whether there is no way to that one.
    for (members, bob, silent, away, who) in
        [(2, 1, 1, false, "ann"), (3, 1, 2, false, "ann"), (3, 2, 1, true, "bob")]
    {
        let mut table = crossed(20);
        table.put("a", [hold(0, "ann", Mode::EX), wait(bob, "bob", Mode::EX, 10)]);
        // zed is why all are asked about it.
        let zed = wait(silent, "zed", Mode::EX, 40);
        table.put("b", [hold(bob, "bob", Mode::EX), wait(0, "ann", Mode::EX, 20), zed]);
        table.put("c", [wait(silent, who, Mode::EX, 30)]);
        let mut play = Play::new(table.clone());
        (play.members, play.deaf, play.away, play.silent) = (members, members == 3, away, NodeId(silent));
        // Nobody is to ask about her, or that would be what is not answered.
        play.owners = u16::from(who == "bob");
        (play.cut, play.hidden) = (members == 2, Some("c"));
        play.left = if members == 2 { vec![transaction("ann")] } else { Vec::new() };
        for _ in 0..10 {
            play.step(false);
        }
        assert_eq!(play.found.len(), 0, "{members}");
        // She does not.
        table.put("c", []);
        (play.table, play.left, play.deaf, play.away) = (table, Vec::new(), false, false);
        for _ in 0..3 {
            play.step(true);
        }
        assert!(!play.found.is_empty(), "{members}");
    }
}

/// D8: one that does not answer is waited for, if nothing else is to be found, and not before that.
#[test]
fn a_circle_without_a_member_is_found_before_it_answers() {
    let mut table = crossed(20);
    // bob waits for what eve has, as he does for what ann has, and she may be kept by somebody who does not answer.
    let holders = [hold(0, "ann", Mode::PR), hold(0, "eve", Mode::PR)];
    table.put("a", holders);
    table.put("c", [hold(2, "cid", Mode::EX), wait(0, "eve", Mode::EX, 5)]);
    let mut play = Play::new(table.clone());
    (play.owners, play.members, play.deaf, play.silent) = (3, 3, true, NodeId(2));
    while play.search.counters().given_up < 3 {
        play.step(false);
    }
    table.put("a", holders.into_iter().chain([wait(1, "bob", Mode::EX, 10)]));
    play.table = table;
    let begin = play.now;
    play.search.news(begin);
    play.step(true);
    while play.found.is_empty() && play.now < begin + Duration::from_secs(3) {
        play.step(false);
    }
    assert_eq!(play.now, begin + DELAY + PATIENCE + CONFIRM + PATIENCE);
    assert_eq!(play.search.counters().given_up, 3);
}

/// Without an answer the pass goes on, and those who wait are not stuck for all that is known. The next ones have more patience.
#[test]
fn members_that_do_not_answer_are_given_more_time() {
    let mut play = Play::new(crossed(20));
    play.deaf = true;
    for (given_up, patience) in [PATIENCE, PATIENCE * 4, PATIENCE_MAX, PATIENCE_MAX].into_iter().enumerate() {
        let asked = loop {
            let (before, count) = (play.search.counters().given_up, play.asked.len());
            play.step(false);
            assert_eq!(play.search.counters().given_up, before, "before it was asked");
            if play.asked.len() > count {
                break play.now;
            }
        };
        while play.search.counters().given_up == given_up as u64 {
            play.step(false);
        }
        assert_eq!(play.now, asked + patience);
    }
    assert_eq!(play.found.len(), 0);
    // An answer that comes after that is nobody's.
    let trace = play.asked[0].1.clone();
    let late = play.traced(NodeId(1), &trace);
    play.search.handle_traced(play.now, NodeId(1), late);
    assert_eq!(play.search.poll_output(), None);
    play.deaf = false;
    for _ in 0..2 {
        play.step(false);
    }
    assert_eq!(play.victims(), ["ann"]);
    // It answers at once, and is given no more time than anybody.
    play.deaf = true;
    play.step(false);
    let asked = play.now;
    play.step(false);
    assert_eq!(play.now, asked + PATIENCE);
}

/// What is seen in another view is of other locks.
#[test]
fn an_answer_of_another_view_is_none() {
    let mut play = Play::new(crossed(20));
    play.deaf = true;
    play.step(true);
    let trace = play.asked[0].1.clone();
    let other = Traced { epoch: Epoch(EPOCH.0 - 1), ..play.traced(NodeId(1), &trace) };
    play.search.handle_traced(play.now, NodeId(1), other);
    assert_eq!(play.search.poll_output(), None);
    assert_eq!(play.search.poll_timeout(), Some(play.now + PATIENCE), "it is still waited for");
}

/// Under another view masters, and places in their queues, may be others: whoever waited for long is looked at soon.
#[test]
fn after_a_view_whoever_waits_is_looked_at_soon() {
    let mut table = crossed(20);
    table.put("a", [hold(0, "ann", Mode::EX)]);
    let mut play = Play::new(table);
    play.owners = 2;
    for _ in 0..12 {
        play.step(false);
    }
    assert_eq!(play.search.poll_timeout(), Some(play.now + PAUSE_MAX));
    let passes = play.search.counters().passes;
    play.search.handle_view(play.now);
    let before = play.now;
    play.step(false);
    assert_eq!((play.now, play.search.counters().passes), (before + DELAY, passes + 1));
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
