//! Was somebody who was refused as a deadlock in one (D4 to D7)? Judged from what clients were told, and in doubt for the cluster: who waited
//! behind whom in a queue no client knows, and what has just ended may have been there when the cluster looked.
//!
//! And is a deadlock broken in time (L10)? Of that only those count that are beyond doubt: each waits for somebody who holds what is in its way,
//! whatever the queues look like.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::mode::Mode;

use super::Findings;
use crate::history::{Client, Event, Ledger, Lock, LockKey, Mark, PendingKind, Rules, Told, What};

/// Something that a client held or waited for.
#[derive(Clone, Copy, Debug)]
struct Claim {
    key: LockKey,
    resource: usize,
    mode: Mode,
    waits: bool,
    node: u16,
    /// When it was asked for, or heard.
    since: u64,
    /// It waits, and in the order in which it came.
    in_order: bool,
    /// It may be in somebody's way, as far as searches are concerned.
    blocks: bool,
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
    /// It was refused as a deadlock.
    refused: bool,
}

fn claims(lock: &Lock) -> impl Iterator<Item = Claim> + use<> {
    let pending = lock.pending.as_ref();
    let in_order = pending
        .is_some_and(|it| it.kind == PendingKind::New && !it.flags.intersects(super::order::UNORDERED));
    let claim = |mode, waits, since| {
        let blocks = waits || !lock.flags.contains(Flags::NODLCKBLK);
        let (key, resource, node) = (lock.key, lock.resource, lock.node);
        Claim { key, resource, mode, waits, node, since, in_order, blocks }
    };
    let held = lock.held.map(|held| claim(held.mode, false, held.at));
    let pending = pending.map(|pending| claim(pending.mode, true, pending.at));
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
            What::Told { client, handle, told } => {
                let refused = matches!(told, Told::Failed { code: Code::Deadlock });
                if refused {
                    self.begin_anew(ledger, *client, event.at);
                }
                let how = (false, refused);
                self.end(rules, event.at, how, ledger.lock((*client, *handle)).into_iter());
            }
            What::Ended { client, .. } => self.end(rules, event.at, (true, false), ledger.locks_of(*client)),
            What::Opened { .. } | What::Asked { .. } | What::Mark(_) => {}
        }
    }

    fn end<'a>(
        &mut self,
        rules: &Rules,
        at: u64,
        (died, refused): (bool, bool),
        locks: impl Iterator<Item = &'a Lock>,
    ) {
        let gone = |claim: Claim| Gone { at, claim, died, refused: refused && claim.waits };
        self.gone.extend(locks.flat_map(claims).map(gone));
        while self.gone.front().is_some_and(|gone| at.saturating_sub(gone.at) > rules.linger) {
            self.gone.pop_front();
        }
    }

    /// A deadlock was broken. Whoever is still stuck on a resource that the victim has or wants to have is stuck anew: where many wait
    /// against each other the next circle closes at once.
    fn begin_anew(&mut self, ledger: &Ledger, victim: Client, at: u64) {
        let of = |client: Client| ledger.locks_of(client).map(|lock| lock.resource);
        let mut resources: BTreeSet<usize> = of(victim).collect();
        let mut left: Vec<_> = self.standing.keys().copied().collect();
        loop {
            let (near, far): (Vec<_>, Vec<_>) = left.into_iter().partition(|(key, _)| {
                ledger.lock(*key).is_some_and(|lock| resources.contains(&lock.resource))
            });
            if near.is_empty() {
                break;
            }
            for wait in near {
                resources.extend(of(wait.0.0));
                self.standing.insert(wait, at);
            }
            left = far;
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
        let calm = ledger.calm_since().map(|since| since + rules.settle).filter(|since| at >= *since);
        let began = lock.pending.as_ref().map_or(at, |pending| pending.at);
        let from = calm.map_or(began, |_| at).saturating_sub(rules.calm_delay);
        let since = |gone: &Gone| match gone.died {
            true if calm.is_none_or(|calm| gone.at < calm) => at.saturating_sub(rules.linger),
            _ => from,
        };
        let recent = || self.gone.iter().filter(|gone| gone.at >= since(gone));
        let picture = |gone: &dyn Fn(&Gone) -> bool| {
            let now = ledger.locks().flat_map(claims).map(|claim| (claim, true));
            let claims = now.chain(recent().filter(|it| gone(it)).map(|gone| (gone.claim, false))).collect();
            Picture { claims, settled: calm.map(|_| (from, rules.local_delay)) }
        };
        let own = claims(lock).find(|claim| claim.waits).ok_or("refused as a deadlock without waiting")?;
        if !picture(&|_| true).is_stuck(&own) {
            let mode = own.mode;
            return Err(format!("refused as a deadlock, but whoever was in the way of {mode} could go on"));
        }
        // D7: where the younger of two was refused, the older is in no deadlock any more, unless in another one.
        let younger = |gone: &Gone| gone.refused && gone.claim.since > own.since + rules.calm_delay;
        if calm.is_some() && recent().any(younger) && !picture(&|gone| !younger(gone)).is_stuck(&own) {
            return Err("refused as a deadlock, although a younger one of the same had been refused".into());
        }
        Ok(())
    }
}

/// What may have stood when the cluster looked. True beside a claim: it certainly did.
struct Picture {
    claims: Vec<(Claim, bool)>,
    /// In calm weather: what had begun by then was seen, and those of one node stand in the order in which they came, but for this delay.
    settled: Option<(u64, u64)>,
}

impl Picture {
    /// Can what this waits for have depended on others who could not go on either?
    fn is_stuck(&self, own: &Claim) -> bool {
        let mut on: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (at, (claim, _)) in self.claims.iter().enumerate() {
            on.entry(claim.resource).or_default().push(at);
        }
        let first = |claim: &Claim| {
            let before = |at: &usize| {
                let (other, certain) = &self.claims[*at];
                *certain && other.waits && other.node == claim.node && self.is_before(other, claim)
            };
            !on[&claim.resource].iter().any(before)
        };
        let firsts: Vec<bool> = self.claims.iter().map(|(claim, _)| claim.waits && first(claim)).collect();
        let mut stuck: Vec<bool> = self.claims.iter().map(|(claim, _)| claim.waits).collect();
        let depends = |wait: &Claim, may_be_first: bool, stuck: &[bool], actors: &BTreeSet<Client>| {
            on[&wait.resource].iter().any(|at| {
                let (other, _) = &self.claims[*at];
                let in_queue = || {
                    stuck[*at]
                        && match other.node == wait.node {
                            true => !self.is_before(wait, other),
                            false => may_be_first && firsts[*at],
                        }
                };
                let in_way =
                    || other.blocks && actors.contains(&other.key.0) && !other.mode.compatible(wait.mode);
                other.key != wait.key && if other.waits { in_queue() } else { in_way() }
            })
        };
        loop {
            let actors = self.actors(&stuck);
            let next: Vec<bool> = (0..stuck.len())
                .map(|at| stuck[at] && depends(&self.claims[at].0, firsts[at], &stuck, &actors))
                .collect();
            if next == stuck {
                return depends(own, first(own), &stuck, &actors);
            }
            stuck = next;
        }
    }

    /// Whoever waits, and with everything that it waits for, as far as the cluster has seen it.
    fn actors(&self, stuck: &[bool]) -> BTreeSet<Client> {
        let waits = || self.claims.iter().zip(stuck).filter(|((claim, _), _)| claim.waits);
        let seen = |claim: &Claim, certain: bool| {
            certain && self.settled.is_some_and(|(from, _)| claim.since < from)
        };
        let free = waits().filter(|((claim, certain), stuck)| !**stuck && seen(claim, *certain));
        let free: BTreeSet<Client> = free.map(|((claim, _), _)| claim.key.0).collect();
        let stuck = waits().filter(|(_, stuck)| **stuck).map(|((claim, _), _)| claim.key.0);
        stuck.filter(|client| !free.contains(client)).collect()
    }

    /// Does this stand before another wait of its node, whatever else there is?
    fn is_before(&self, this: &Claim, other: &Claim) -> bool {
        let Some((_, delay)) = self.settled else { return false };
        this.in_order && other.in_order && this.since + delay < other.since
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

    /// D7: one of each circle.
    #[test]
    fn rejects_a_second_victim_of_the_same_circle() {
        let begin = "calm; @9000; 1 lock x EX; 1 granted EX 1.1.1; 2 lock y EX; 2 granted EX 1.1.1; 1.2 lock y EX; @9500; \
                     2.2 lock x EX; 2.2 failed Deadlock; ";
        finds("answers", "a younger one", &format!("{begin}1.2 failed Deadlock"));
        let another = "calm; @8900; 3 lock z EX; 3 granted EX 1.1.1; 1.3 lock z EX; 3.2 lock x EX; ";
        passes("in another circle as well", &format!("{another}{begin}1.2 failed Deadlock"));
        passes(
            "the older first",
            &format!(
                "{}1.2 failed Deadlock; 2.2 failed Deadlock",
                begin.trim_end_matches("2.2 failed Deadlock; ")
            ),
        );
    }

    #[test]
    fn rejects_a_victim_that_waited_for_one_who_is_not_to_be_counted() {
        let story = |how: &str| {
            format!(
                "calm; @9000; 1 lock x EX {how}; 1 granted EX 1.1.1; 2 lock y EX; 2 granted EX 1.1.1; @9500; 1.2 lock y EX; \
                 2.2 lock x EX; 2.2 failed Deadlock"
            )
        };
        finds("answers", "could go on", &story("NODLCKBLK"));
        passes("as usual", &story(""));
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
        let third =
            |name| format!("4 lock {name} EX; {}@10200; 4 failed Deadlock; {}", later(9_200), later(10_700));
        let broken = |name| format!("{begin}{}", third(name));
        passes("another of them was refused, so that this is a new one", &broken("x"));
        finds("deadlock", "nobody was refused", &broken("w"));
        passes("a member has just gone", &long.replace("@9000;", "@8000; node-gone; @9000;"));
        let third = long.replace("1.2 lock y EX;", "1.2 lock y EX; 1.3 lock w EX;");
        passes("one of them goes on with something else", &third);
    }
}
