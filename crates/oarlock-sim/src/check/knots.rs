//! Was somebody who was refused as a deadlock in one (D4 to D7)? Judged from what clients were told, and in doubt for the cluster: who waited
//! behind whom in a queue no client knows, and what has just ended may have been there when the cluster looked.
//!
//! And is a deadlock broken in time (L10)? Of that only those count that are beyond doubt: each waits for somebody who holds what is in its way,
//! whatever the queues look like.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use oarlock_layout::flags::Flags;
use oarlock_layout::mode::Mode;

use super::Findings;
use crate::history::{Client, Event, Ledger, Lock, LockKey, Mark, Rules, Told, What};

/// Something that a client held or waited for.
#[derive(Clone, Copy, Debug)]
struct Claim {
    key: LockKey,
    resource: usize,
    mode: Mode,
    waits: bool,
}

/// Remembers what has just ended.
#[derive(Debug, Default)]
pub(super) struct Knots {
    gone: VecDeque<Gone>,
    /// When it was last looked for deadlocks that stand, and since when each wait has been part of one.
    looked: u64,
    standing: BTreeMap<(LockKey, u64), u64>,
    /// When a node was put out last.
    verdict: Option<u64>,
}

/// Between two looks for deadlocks that stand.
const LOOK: u64 = 100_000_000;
/// So long a deadlock may stand, and so long after a change of the view any may.
const STANDS_MAX: u64 = 1_000_000_000;
const VIEW_MAX: u64 = 10_000_000_000;

#[derive(Debug)]
struct Gone {
    at: u64,
    claim: Claim,
    /// Its client died: nobody knows when the cluster noticed.
    died: bool,
}

fn claims(lock: &Lock) -> impl Iterator<Item = Claim> + use<> {
    let claim = |mode, waits| Claim { key: lock.key, resource: lock.resource, mode, waits };
    let held = lock.held.map(|held| claim(held.mode, false));
    let pending = lock.pending.as_ref().map(|pending| claim(pending.mode, true));
    held.into_iter().chain(pending)
}

impl Knots {
    /// An event that the ledger has not entered yet.
    pub(super) fn see(&mut self, rules: &Rules, ledger: &Ledger, event: &Event, findings: &mut Findings) {
        if event.at >= self.looked + LOOK {
            self.looked = event.at;
            self.look(rules, ledger, event.at, findings);
        }
        match &event.what {
            What::Mark(Mark::NodeGone(_) | Mark::NewCluster) => self.verdict = Some(event.at),
            What::Told { told: Told::Blocking { .. } | Told::Token { .. }, .. } => {}
            What::Told { client, handle, .. } => {
                self.end(rules, event.at, false, ledger.lock((*client, *handle)).into_iter());
            }
            What::Ended { client, .. } => self.end(rules, event.at, true, ledger.locks_of(*client)),
            What::Opened { .. } | What::Asked { .. } | What::Mark(_) => {}
        }
    }

    fn end<'a>(&mut self, rules: &Rules, at: u64, died: bool, locks: impl Iterator<Item = &'a Lock>) {
        self.gone.extend(locks.flat_map(claims).map(|claim| Gone { at, claim, died }));
        while self.gone.front().is_some_and(|gone| at.saturating_sub(gone.at) > rules.linger) {
            self.gone.pop_front();
        }
    }

    /// Deadlocks that stand for too long.
    fn look(&mut self, rules: &Rules, ledger: &Ledger, at: u64, findings: &mut Findings) {
        let settled = ledger.calm_since().is_some_and(|since| at >= since + rules.settle)
            && self.verdict.is_none_or(|verdict| at >= verdict + VIEW_MAX);
        let now = if settled { certainly_stuck(ledger) } else { BTreeSet::new() };
        self.standing.retain(|wait, _| now.contains(wait));
        for wait in now {
            let since = self.standing.entry(wait).or_insert(at);
            if at - *since > STANDS_MAX + rules.calm_delay {
                let ((client, handle), _) = wait;
                let text = format!(
                    "client {client} has waited with lock {handle} in a deadlock for {} ms, and nobody was refused",
                    (at - *since) / 1_000_000
                );
                findings.add("deadlock", at, text);
                *since = at;
            }
        }
    }

    /// Can what this lock waits for have depended on others who could not go on either?
    pub(super) fn was_in_one(
        &self,
        rules: &Rules,
        ledger: &Ledger,
        at: u64,
        lock: &Lock,
    ) -> Result<(), String> {
        // In bad weather a verdict may be long on its way: whatever it is about, it stood beside this wait.
        let settled = ledger.calm_since().is_some_and(|since| at >= since + rules.settle);
        let began = lock.pending.as_ref().map_or(at, |pending| pending.at);
        let from = if settled { at } else { began }.saturating_sub(rules.calm_delay);
        let since = |gone: &Gone| if gone.died { at.saturating_sub(rules.linger) } else { from };
        let recent = self.gone.iter().filter(|gone| gone.at >= since(gone));
        let all: Vec<Claim> = ledger.locks().flat_map(claims).chain(recent.map(|gone| gone.claim)).collect();
        let mut on: BTreeMap<usize, Vec<Claim>> = BTreeMap::new();
        all.iter().for_each(|claim| on.entry(claim.resource).or_default().push(*claim));
        let waits: Vec<Claim> = all.iter().filter(|claim| claim.waits).copied().collect();
        let mut stuck: BTreeSet<Client> = waits.iter().map(|claim| claim.key.0).collect();
        let depends = |wait: &Claim, stuck: &BTreeSet<Client>| {
            on[&wait.resource].iter().any(|other| {
                other.key != wait.key
                    && stuck.contains(&other.key.0)
                    && (other.waits || !other.mode.compatible(wait.mode))
            })
        };
        loop {
            let left: BTreeSet<Client> =
                waits.iter().filter(|wait| depends(wait, &stuck)).map(|wait| wait.key.0).collect();
            if left.len() == stuck.len() {
                break;
            }
            stuck = left;
        }
        let own = claims(lock).find(|claim| claim.waits).ok_or("refused as a deadlock without waiting")?;
        match depends(&own, &stuck) {
            true => Ok(()),
            false => {
                Err(format!("refused as a deadlock, but whoever was in the way of {} could go on", own.mode))
            }
        }
    }
}

/// The waits of clients of whom each waits, with everything it waits for, for another of them who holds what is in its way.
fn certainly_stuck(ledger: &Ledger) -> BTreeSet<(LockKey, u64)> {
    let waits: Vec<&Lock> = ledger.locks().filter(|lock| lock.pending.is_some()).collect();
    let mut stuck: BTreeSet<Client> = waits.iter().map(|lock| lock.key.0).collect();
    let blocked = |lock: &Lock, stuck: &BTreeSet<Client>| {
        let pending = lock.pending.as_ref().expect("it waits");
        let resolves = Flags::NOQUEUE | Flags::LOCAL | Flags::NODLCKWT | Flags::ALTPR | Flags::ALTCW;
        pending.cancelled.is_none()
            && lock.unlocking.is_none()
            && !pending.flags.intersects(resolves)
            && ledger.locks_on(lock.resource).any(|other| {
                other.key != lock.key
                    && stuck.contains(&other.key.0)
                    && !other.flags.contains(Flags::NODLCKBLK)
                    && other.certain().is_some_and(|mode| !mode.compatible(pending.mode))
            })
    };
    loop {
        let free: BTreeSet<Client> =
            waits.iter().filter(|lock| !blocked(lock, &stuck)).map(|lock| lock.key.0).collect();
        let left: BTreeSet<Client> = stuck.difference(&free).copied().collect();
        if left.len() == stuck.len() {
            break;
        }
        stuck = left;
    }
    let of_stuck = waits.iter().filter(|lock| stuck.contains(&lock.key.0));
    of_stuck.filter_map(|lock| Some((lock.key, lock.pending.as_ref()?.ordinal))).collect()
}

#[cfg(test)]
mod tests {
    use crate::check::script::{finds, passes};

    /// D4: it is not enough that somebody is in the way.
    #[test]
    fn rejects_a_victim_that_waited_for_somebody_who_could_go_on() {
        let story = "calm; @9000; 1 lock x EX; 1 granted EX 1.1.1; @9500; 2 lock x EX; 2 failed Deadlock";
        finds("answers", "could go on", story);
        let chain = "calm; @9000; 1 lock x EX; 1 granted EX 1.1.1; 3 lock y EX; 3 granted EX 1.1.1; @9500; \
                     3.2 lock x EX; 2 lock y EX; 2 failed Deadlock";
        finds("answers", "could go on", chain);
        let long_gone = "calm; @9000; 1 lock x EX; 1 granted EX 1.1.1; 2 lock y EX; 2 granted EX 1.1.1; 2.2 lock x EX; \
                         1.2 lock y EX; 1.2 cancel; 1.2 failed Cancelled; @9900; 2.2 failed Deadlock";
        finds("answers", "could go on", long_gone);
        // Also in bad weather: what ended before the wait began was not part of it.
        let before = "1 lock x EX; 1 granted EX 1.1.1; 2 lock y EX; 2 granted EX 1.1.1; 1.2 lock y EX; 1.2 cancel; \
                      1.2 failed Cancelled; @9000; 2.2 lock x EX; @9900; 2.2 failed Deadlock";
        finds("answers", "could go on", before);
    }

    #[test]
    fn believes_a_victim_of_two_that_wait_for_each_other() {
        let begin = "calm; @9000; 1 lock x EX; 1 granted EX 1.1.1; 2 lock y EX; 2 granted EX 1.1.1; 1.2 lock y EX; 2.2 lock x EX; ";
        passes("both wait", &format!("{begin}2.2 failed Deadlock"));
        passes("one has just gone", &format!("{begin}1.2 cancel; 1.2 failed Cancelled; 2.2 failed Deadlock"));
        passes("itself", "calm; @9000; 1 lock x PR; 1 granted PR 1.1.0; 1.2 lock x EX; 1.2 failed Deadlock");
    }

    /// L10: within a second.
    #[test]
    fn rejects_a_deadlock_that_stands() {
        let begin = "calm; @9000; 1 lock x EX; 1 granted EX 1.1.1; 2 lock y EX; 2 granted EX 1.1.1; 1.2 lock y EX; 2.2 lock x EX; ";
        let later = |at: u32| format!("@{at}; 3 lock z CR; 3 granted CR 1.1.1; 3 unlock; 3 released; ");
        let long = format!("{begin}{}{}", later(9_200), later(10_700));
        finds("deadlock", "nobody was refused", &long);
        passes("not that long yet", &format!("{begin}{}{}", later(9_200), later(10_300)));
        passes("it resolves it itself", &long.replace("2.2 lock x EX", "2.2 lock x EX NODLCKWT"));
        passes("a member has just gone", &long.replace("@9000;", "@8000; node-gone; @9000;"));
        let third = long.replace("1.2 lock y EX;", "1.2 lock y EX; 1.3 lock w EX;");
        passes("one of them goes on with something else", &third);
    }
}
