//! Answers (I4, I5): each request has exactly one, it is of a kind that was possible, and notices come when
//! and only when they should (scenarios 14-24, 57-62; R2, R9, D9).

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::mode::Mode;

use super::Findings;
use super::knots::Knots;
use crate::history::{Ask, Event, Ledger, Lock, LockKey, Pending, PendingKind, Rules, Told, What};

/// The last two locks of different clients' making that went, and when. Two, so that one can be left out: nobody is in
/// his own way.
#[derive(Clone, Copy, Debug, Default)]
struct Last([Option<(LockKey, u64)>; 2]);

impl Last {
    fn note(&mut self, key: LockKey, at: u64) {
        let [first, second] = self.0;
        let other = if first.is_some_and(|(last, _)| last == key) { second } else { first };
        self.0 = [Some((key, at)), other];
    }

    /// When one that is not `key` went last.
    fn but(&self, key: LockKey) -> Option<u64> {
        self.0.iter().flatten().find(|(last, _)| *last != key).map(|(_, at)| *at)
    }
}

/// For each resource and mode: when something that could stand in another's way was last seen to go.
#[derive(Clone, Copy, Debug, Default)]
struct Gone {
    held: [Last; 6],
    queued: [Last; 6],
}

/// Compares every answer with the request it belongs to.
#[derive(Debug, Default)]
pub struct Answers {
    gone: Vec<Gone>,
    knots: Knots,
}

impl Answers {
    /// An event that the ledger has not entered yet.
    pub fn see(&mut self, rules: &Rules, ledger: &Ledger, event: &Event, findings: &mut Findings) {
        self.look(rules, ledger, event, findings);
        self.knots.see(rules, ledger, event, findings);
    }

    fn look(&mut self, rules: &Rules, ledger: &Ledger, event: &Event, findings: &mut Findings) {
        let mut complain = |text: String| findings.add("answers", event.at, text);
        match &event.what {
            What::Told { client, handle, told } => {
                let Some(lock) = ledger.lock((*client, *handle)) else {
                    complain(format!(
                        "client {client} is told {told:?} about lock {handle}, which it does not have"
                    ));
                    return;
                };
                if let Err(why) = self.judge(rules, ledger, event.at, lock, told) {
                    let name = &ledger.resource(lock.resource).name;
                    complain(format!("client {client}, lock {handle} on {name:?}: {why}"));
                }
                if !matches!(told, Told::Blocking { .. } | Told::Token { .. }) {
                    self.note_gone(event.at, lock);
                }
            }
            What::Ended { client, .. } => {
                for lock in ledger.locks_of(*client) {
                    self.note_gone(event.at, lock);
                }
            }
            What::Asked { client, handle, ask } => {
                // The rest is the clients' own care; a history in which they fail would judge nobody.
                let known = ledger.lock((*client, *handle)).is_some();
                let new = matches!(ask, Ask::Lock { .. });
                if ledger.node(*client).is_none() || known == new {
                    complain(format!("client {client} asks {ask:?} for lock {handle}, which makes no sense"));
                }
                let lock = ledger.lock((*client, *handle)).filter(|_| matches!(ask, Ask::Cancel));
                if let Some(Err(why)) = lock.map(|l| self.really_waited(rules, ledger, event.at, l)) {
                    complain(format!("client {client}, lock {handle}: {why}"));
                }
            }
            What::Opened { .. } | What::Mark(_) => {}
        }
    }

    fn note_gone(&mut self, at: u64, lock: &Lock) {
        if self.gone.len() <= lock.resource {
            self.gone.resize(lock.resource + 1, Gone::default());
        }
        let gone = &mut self.gone[lock.resource];
        if let Some(mode) = lock.possible() {
            gone.held[mode as usize].note(lock.key, at);
        }
        if let Some(pending) = &lock.pending {
            gone.queued[pending.mode as usize].note(lock.key, at);
        }
    }

    fn judge(&self, rules: &Rules, ledger: &Ledger, at: u64, lock: &Lock, told: &Told) -> Result<(), String> {
        match told {
            Told::Granted { mode, alternate, .. } => granted(lock, *mode, *alternate),
            Told::Token { .. } if lock.held.is_some() => Ok(()),
            Told::Token { .. } => Err("a token of a lock that it does not hold".into()),
            Told::Released if lock.unlocking.is_some() => Ok(()),
            Told::Released => Err("released without having been asked for".into()),
            Told::Blocking { wanted } => blocking(lock, *wanted),
            Told::Failed { code } => self.failed(rules, ledger, at, lock, *code),
        }
    }

    fn failed(&self, rules: &Rules, ledger: &Ledger, at: u64, lock: &Lock, code: Code) -> Result<(), String> {
        let Some(pending) = &lock.pending else {
            return match (lock.unlocking, lock.held, code) {
                (None, ..) => Err(format!("{code:?}, but nothing is unanswered")),
                // A second end of something that had failed before.
                (Some(_), None, Code::NoSuchLock) => Ok(()),
                (Some(_), Some(held), _) => {
                    Err(format!("held in {}, its release failed: {code:?}", held.mode))
                }
                (Some(_), None, _) => Err(format!("its withdrawal failed: {code:?}")),
            };
        };
        let has = |flag| pending.flags.intersects(flag);
        let withdrawn = pending.cancelled.is_some() || lock.unlocking.is_some();
        match code {
            // Who has withdrawn in its entry is not granted, and a try that is not granted is busy.
            Code::Busy if has(Flags::NOQUEUE) && withdrawn => Ok(()),
            Code::Busy if has(Flags::NOQUEUE) && !has(Flags::LOCAL) => {
                self.really_busy(rules, ledger, at, lock, pending)
            }
            Code::Busy | Code::NotOwned if has(Flags::LOCAL) => Ok(()),
            Code::Busy => Err("busy, though it did not ask for an immediate answer".into()),
            Code::TimedOut => {
                let waited = at - pending.at;
                if pending.timeout_ms > 0 && waited >= rules.patience(pending.timeout_ms) {
                    Ok(())
                } else {
                    Err(format!("timed out after {} us of {} ms", waited / 1000, pending.timeout_ms))
                }
            }
            Code::Cancelled if withdrawn => Ok(()),
            Code::Cancelled => Err("cancelled, but nobody did".into()),
            Code::Deadlock if pending.kind == PendingKind::Convert => {
                let refused_at_once = self.really_deadlocked(rules, ledger, at, lock);
                refused_at_once.or_else(|why| {
                    if pending.flags.contains(Flags::NODLCKWT) {
                        return Err(why);
                    }
                    let found = self.knots.was_in_one(rules, ledger, at, lock);
                    found.map_err(|_| why)
                })
            }
            Code::Deadlock if pending.flags.contains(Flags::NODLCKWT) => {
                Err("refused as a deadlock, but it was not to be counted".into())
            }
            Code::Deadlock => self.knots.was_in_one(rules, ledger, at, lock),
            // Bounds of a node are real answers; so are those of a node that is not in a view.
            Code::SpaceFull | Code::TooManyWaiters | Code::TooManyLocks => Ok(()),
            Code::SpaceDenied if rules.given => Ok(()),
            Code::NotServing | Code::Refused | Code::Fenced | Code::TokensExhausted => Ok(()),
            Code::NoSuchLock | Code::InFlight if withdrawn => Ok(()),
            _ => Err(format!("{code:?} is no answer to a request for {}", pending.mode)),
        }
    }

    /// R2: a try is refused because somebody is really there, or really waits, not because a node retains.
    fn really_busy(
        &self,
        rules: &Rules,
        ledger: &Ledger,
        at: u64,
        lock: &Lock,
        pending: &Pending,
    ) -> Result<(), String> {
        let from = pending.at.saturating_sub(rules.calm_delay);
        if !self.nobody_in_way(rules, ledger, at, lock, pending, from) {
            return Ok(());
        }
        Err(format!("busy for {}, but nobody holds or waits for anything in its way", pending.mode))
    }

    /// I4: a request that is withdrawn after a long wait had somebody to wait for until just now.
    fn really_waited(&self, rules: &Rules, ledger: &Ledger, at: u64, lock: &Lock) -> Result<(), String> {
        let Some(pending) = lock.pending.as_ref().filter(|p| p.cancelled.is_none()) else { return Ok(()) };
        let waited = at.saturating_sub(pending.at);
        let from = at.saturating_sub(rules.calm_delay);
        if waited < 2 * rules.calm_delay || !self.nobody_in_way(rules, ledger, at, lock, pending, from) {
            return Ok(());
        }
        Err(format!("waited {} ms for {}, and nobody was in its way", waited / 1_000_000, pending.mode))
    }

    /// For certain, and in calm weather, since `from`.
    fn nobody_in_way(
        &self,
        rules: &Rules,
        ledger: &Ledger,
        at: u64,
        lock: &Lock,
        pending: &Pending,
        from: u64,
    ) -> bool {
        let settled = ledger.calm_since().is_some_and(|since| pending.at >= since + rules.settle);
        let in_way = |mode: Mode| !mode.compatible(pending.mode);
        let there = ledger
            .locks_on(lock.resource)
            .any(|l| l.key != lock.key && (l.pending.is_some() || l.possible().is_some_and(in_way)));
        let ghosts = ledger.resource(lock.resource).ghosts.iter();
        let mut haunting = ghosts.filter(|g| at.saturating_sub(g.at) < rules.linger);
        settled && !there && !haunting.any(|g| in_way(g.mode)) && !self.gone_since(lock, from, in_way)
    }

    /// D9: refused as a deadlock only if somebody waits for what this very lock holds; or, with HEADQUE, if it would come before a convert
    /// that holds what is in its way.
    fn really_deadlocked(&self, rules: &Rules, ledger: &Ledger, at: u64, lock: &Lock) -> Result<(), String> {
        let held = lock.held.map(|h| h.mode).ok_or("a deadlock without a lock")?;
        let waits = |l: &Lock| l.pending.as_ref().is_some_and(|p| !p.mode.compatible(held));
        let ghosts = ledger.resource(lock.resource).ghosts.iter();
        // What a ghost asked for in the end is part of what it may have held.
        let haunted =
            ghosts.into_iter().any(|g| at.saturating_sub(g.at) < rules.linger && !g.mode.compatible(held));
        let since = lock.pending.as_ref().map_or(at, |p| p.at).saturating_sub(rules.calm_delay);
        let queued = Mode::ALL.into_iter().filter(|m| !m.compatible(held)).any(|mode| {
            let gone = self.gone.get(lock.resource).and_then(|g| g.queued[mode as usize].but(lock.key));
            gone.is_some_and(|at| at >= since)
        });
        let pending = lock.pending.as_ref().filter(|pending| pending.flags.contains(Flags::HEADQUE));
        let before = pending.is_some_and(|pending| {
            let in_way = |mode: Mode| !mode.compatible(pending.mode);
            let converts = |l: &Lock| l.held.is_some_and(|held| in_way(held.mode)) && l.pending.is_some();
            ledger.locks_on(lock.resource).any(|l| l.key != lock.key && converts(l))
                || self.gone_since(lock, since, in_way)
        });
        if queued
            || haunted
            || before
            || ledger.locks_on(lock.resource).any(|l| l.key != lock.key && waits(l))
        {
            return Ok(());
        }
        Err(format!("a deadlock, but nobody waits for the {held} it holds"))
    }

    /// Did another lock that could be in the way go since `from`?
    fn gone_since(&self, lock: &Lock, from: u64, in_way: impl Fn(Mode) -> bool) -> bool {
        let Some(gone) = self.gone.get(lock.resource) else { return false };
        let held = Mode::ALL.into_iter().filter(|m| in_way(*m)).map(|m| &gone.held[m as usize]);
        held.chain(&gone.queued).filter_map(|last| last.but(lock.key)).any(|at| at >= from)
    }
}

fn granted(lock: &Lock, mode: Mode, alternate: bool) -> Result<(), String> {
    let Some(pending) = &lock.pending else {
        return Err(format!("granted in {mode}, but nothing was unanswered"));
    };
    let second = (pending.flags.contains(Flags::ALTPR) && mode == Mode::PR)
        || (pending.flags.contains(Flags::ALTCW) && mode == Mode::CW);
    match alternate {
        true if second => Ok(()),
        false if mode == pending.mode => Ok(()),
        _ => Err(format!("granted in {mode} (alternate: {alternate}) after asking for {}", pending.mode)),
    }
}

fn blocking(lock: &Lock, wanted: Mode) -> Result<(), String> {
    if lock.flags.contains(Flags::NOBAST) {
        return Err("a notice, though it wanted none".into());
    }
    let Some(held) = lock.held else {
        // Scenario 62.
        return Err(format!("told that it blocks {wanted} before it was granted anything"));
    };
    if lock.unlocking.is_some() {
        // The notice and the release crossed.
        return Ok(());
    }
    if held.mode.compatible(wanted) {
        // Scenario 60.
        return Err(format!("told that it blocks {wanted}, but it holds {}", held.mode));
    }
    match held.told {
        // Scenario 57.
        Some(told) if told.covers(wanted) => Err(format!("told of {wanted} again, after {told}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use crate::check::script::{finds, passes};

    #[test]
    fn accepts_one_answer_each() {
        passes("a try", "1 lock x EX; 1 granted EX 1.1.1; 2 lock x PR NOQUEUE; 2 failed Busy");
        passes("cancel loses to grant", "1 lock x EX; 1 cancel; 1 granted EX 1.1.1; 1 unlock; 1 released");
        passes("cancel wins", "1 lock x EX; 1 granted EX 1.1.1; 2 lock x EX; 2 cancel; 2 failed Cancelled");
        passes(
            "a withdrawn wait",
            "1 lock x EX; 1 granted EX 1.1.1; 2 lock x EX; 2 unlock; 2 failed Cancelled; 2 released",
        );
        passes(
            "a conversion deadlock",
            "1 lock x PR; 2 lock x PR; 1 granted PR 1.1.0; 2 granted PR 1.1.0; 1 convert EX; 2 convert EX; \
             2 failed Deadlock; 2 unlock; 2 released; 1 granted EX 1.2.1",
        );
        passes("an alternate", "1 lock x CW ALTPR; 1 granted PR 1.1.0 alternate");
        passes(
            "two notices, the second for more (58)",
            "1 lock x PR; 1 granted PR 1.1.0; 1 blocking PW; 1 blocking EX",
        );
        passes(
            "the mark is reset by a convert (57)",
            "1 lock x PR; 1 granted PR 1.1.0; 1 blocking EX; 1 convert CR; 1 granted CR 1.1.0; 1 blocking EX",
        );
    }

    #[test]
    fn rejects_two_answers_to_one_request() {
        finds("answers", "nothing was unanswered", "1 lock x EX; 1 granted EX 1.1.1; 1 granted EX 1.1.1");
        // Scenario 20: never both.
        let story =
            "1 lock x PR; 1 granted PR 1.1.0; 1 convert EX; 1 cancel; 1 granted EX 1.1.1; 1 failed Cancelled";
        finds("answers", "nothing is unanswered", story);
    }

    #[test]
    fn rejects_answers_to_nobody() {
        finds(
            "answers",
            "does not have",
            "1 lock x EX; 1 granted EX 1.1.1; 1 unlock; 1 released; 1 released",
        );
        finds("answers", "without having been asked", "1 lock x EX; 1 granted EX 1.1.1; 1 released");
    }

    #[test]
    fn rejects_another_mode_than_asked() {
        finds("answers", "after asking for", "1 lock x EX; 1 granted PW 1.1.1");
        finds("answers", "after asking for", "1 lock x CW ALTPR; 1 granted PR 1.1.0");
    }

    #[test]
    fn rejects_impossible_reasons() {
        finds("answers", "nobody did", "1 lock x EX; 1 failed Cancelled");
        finds("answers", "immediate", "1 lock x EX; 1 failed Busy");
        finds("answers", "timed out", "1 lock x EX timeout=50; 1 failed TimedOut");
        finds("answers", "timed out", "1 lock x EX; @5000; 1 failed TimedOut");
        finds("answers", "could go on", "1 lock x EX; 1 failed Deadlock");
        let excused = "1 lock x EX; 1 granted EX 1.1.1; 1.2 lock x EX NODLCKWT; 1.2 failed Deadlock";
        finds("answers", "not to be counted", excused);
        finds("answers", "release failed", "1 lock x EX; 1 granted EX 1.1.1; 1 unlock; 1 failed NoSuchLock");
    }

    #[test]
    fn rejects_a_busy_answer_because_of_a_retained_mode() {
        // R2: another node retains EX, and nobody is there.
        let story = "calm; 11 lock x EX; 11 granted EX 1.1.1; 11 unlock; 11 released; @9000; \
                     1 lock x EX NOQUEUE; 1 failed Busy";
        finds("answers", "nobody holds", story);
    }

    #[test]
    fn rejects_a_long_wait_for_nobody() {
        let story = "calm; 11 lock x EX; 11 granted EX 1.1.1; 11 unlock; 11 released; @9000; \
                     1 lock x EX; @9900; 1 cancel; 1 failed Cancelled";
        finds("answers", "nobody was in its way", story);
        passes(
            "somebody was",
            "calm; 11 lock x EX; 11 granted EX 1.1.1; @9000; 1 lock x EX; @9900; 1 cancel",
        );
    }

    #[test]
    fn rejects_a_victim_without_a_deadlock() {
        let story = "1 lock x PR; 2 lock x PR; 1 granted PR 1.1.0; 2 granted PR 1.1.0; @5000; 1 convert EX; 1 failed Deadlock";
        finds("answers", "nobody waits", story);
        // Its own grant just now was no waiter behind it, and neither is one that asked for what stands beside it.
        let own = "1 lock x PR; 1 granted PR 1.1.0; 1 convert EX; 1 failed Deadlock";
        finds("answers", "nobody waits", own);
        let beside = "1 lock x PR; 1 granted PR 1.1.0; 2 lock x CR; 2 granted CR 1.1.0; @5000; 1 convert EX; 1 failed Deadlock";
        finds("answers", "nobody waits", beside);
        passes(
            "it would come before one that is in its way",
            "1 lock x PR; 1 granted PR 1.1.0; 3 lock x PR; 3 granted PR 1.1.0; 2 lock x NL; 2 granted NL 1.1.0; \
             1 convert EX; @5000; 2 convert EX HEADQUE; 2 failed Deadlock",
        );
        passes(
            "a waiter that had just gone",
            "1 lock x PR; 1 granted PR 1.1.0; 2 lock x EX; 1 convert PW; 2 cancel; 2 failed Cancelled; 1 failed Deadlock",
        );
    }

    #[test]
    fn rejects_a_convert_refused_because_of_its_own_request() {
        let story = "calm; @5000; 1 lock x PR; 1 granted PR 1.1.0; 1 convert EX NOQUEUE; 1 failed Busy";
        finds("answers", "nobody holds", story);
        passes(
            "another had it just now",
            "calm; @5000; 11 lock x CR; 11 granted CR 1.1.0; 1 lock x PR; 1 granted PR 1.1.0; 11 unlock; 11 released; \
             1 convert EX NOQUEUE; 1 failed Busy",
        );
    }

    #[test]
    fn rejects_notices_out_of_place() {
        finds("answers", "before it was granted", "1 lock x EX; 1 blocking EX");
        finds("answers", "but it holds", "1 lock x PR; 1 granted PR 1.1.0; 1 blocking PR");
        finds("answers", "again", "1 lock x PR; 1 granted PR 1.1.0; 1 blocking EX; 1 blocking EX");
        finds("answers", "wanted none", "1 lock x PR NOBAST; 1 granted PR 1.1.0; 1 blocking EX");
        // A convert says it anew (61, 13).
        let converted = |first: &str, then: &str| {
            format!(
                "1 lock x PR{first}; 1 granted PR 1.1.0; 1 convert PR{then}; 1 granted PR 1.1.0; 1 blocking EX"
            )
        };
        finds("answers", "wanted none", &converted("", " NOBAST"));
        passes("switched on again", &converted(" NOBAST", ""));
    }
}
