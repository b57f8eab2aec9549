//! Order (I6, I7) within the bounds that one statement per node allows (R4).
//!
//! A waiter W with k waiters of its own node before it is *overtaken* by a later request for a conflicting
//! mode that is granted first. Requests of W's own node are told apart from those of others:
//!
//! * *Own node.* Its node sees both, so in a strict lockspace there is nothing to excuse an overtaking. In a
//!   passover lockspace a scan may pass W as often as there were entries ahead of it, or converts granted.
//! * *Other nodes.* The master knows one entry per node. Between W's statement and its grant each other node
//!   can have at most k + 1 terms, so W is overtaken in at most (k+1)(n-1) of them; passover adds the entries
//!   that were ahead. All grants of a term carry the fence of the message that began it.
//!
//! Only what was asked long enough after W counts, because the cluster's order is that of arrival, and only
//! while the network is calm: a statement that cannot arrive has no place in any queue. Of grants whose token was
//! never drawn nobody knows the term; between nodes they do not count.

use std::collections::{BTreeMap, BTreeSet};

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::mode::Mode;
use oarlock_layout::token::Fence;

use super::Findings;
use crate::history::{Event, Ledger, Lock, LockKey, Mark, PendingKind, Rules, Told, What};

/// How a scan of a node may hand a lock on locally before it must look at its queue again (I6).
const LOCAL_HANDOFFS_MAX: usize = 16;

/// Requests that asked to be treated out of order, and those that never wait.
pub(super) const UNORDERED: Flags = Flags::NOQUEUE
    .union(Flags::LOCAL)
    .union(Flags::EXPEDITE)
    .union(Flags::HEADQUE)
    .union(Flags::NOORDER)
    .union(Flags::ALTPR)
    .union(Flags::ALTCW);

/// Counts who overtakes whom.
#[derive(Debug, Default)]
pub struct Order {
    overtaken: BTreeMap<LockKey, Overtaken>,
    /// Who was passed once too often, when, and what there is to say about it. It may have been refused as a deadlock and not have read
    /// that yet: what it is told next decides.
    accused: BTreeMap<LockKey, (u64, String)>,
}

/// A program that ends so soon after it was passed may have been refused and not have read it.
const UNREAD: u64 = 1_000_000_000;

#[derive(Debug, Default)]
struct Overtaken {
    ordinal: u64,
    terms: BTreeSet<(u16, Fence)>,
    at_home: usize,
    converts: usize,
    told: bool,
}

impl Order {
    /// An event that the ledger has not entered yet.
    pub fn see(&mut self, rules: &Rules, ledger: &Ledger, event: &Event, findings: &mut Findings) {
        match &event.what {
            What::Told { client, handle, told: Told::Granted { mode, token, .. } } => {
                if let Some(lock) = ledger.lock((*client, *handle)) {
                    let fence = token.map(|token| token.fence);
                    self.granted(rules, ledger, event.at, (lock, *mode, fence));
                }
            }
            // What waits is queued anew, in whatever order it is stated (47).
            What::Mark(Mark::NewCluster | Mark::NodeGone(_)) => self.overtaken.clear(),
            _ => {}
        }
        match &event.what {
            What::Told { client, handle, told: told @ (Told::Granted { .. } | Told::Failed { .. }) } => {
                let key = (*client, *handle);
                self.overtaken.remove(&key);
                let refused = matches!(told, Told::Failed { code: Code::Deadlock });
                let accused = self.accused.remove(&key).filter(|_| !refused);
                accused.into_iter().for_each(|(at, text)| findings.add("order", at, text));
            }
            What::Ended { client, .. } => {
                let ended: Vec<LockKey> =
                    self.accused.keys().filter(|key| key.0 == *client).copied().collect();
                for (at, text) in ended.into_iter().filter_map(|key| self.accused.remove(&key)) {
                    if event.at > at + UNREAD {
                        findings.add("order", at, text);
                    }
                }
            }
            _ => {}
        }
    }

    /// The history is over: who has been told nothing was passed.
    pub fn finish(self, findings: &mut Findings) {
        self.accused.into_values().for_each(|(at, text)| findings.add("order", at, text));
    }

    fn granted(
        &mut self,
        rules: &Rules,
        ledger: &Ledger,
        at: u64,
        (winner, mode, fence): (&Lock, Mode, Option<Fence>),
    ) {
        let Some(calm) = ledger.calm_since() else { return };
        let Some(won) = &winner.pending else { return };
        for loser in ledger.locks_on(winner.resource) {
            let Some(lost) = loser.pending.as_ref().filter(|p| p.ordinal < won.ordinal) else { continue };
            let settled = lost.at >= calm + rules.settle;
            let withdrawn = lost.cancelled.is_some() || loser.unlocking.is_some();
            // Its node has given it up, and it has not read that yet.
            let late = lost.timeout_ms > 0 && at.saturating_sub(lost.at) >= rules.patience(lost.timeout_ms);
            let withdrawn = withdrawn || late;
            if loser.key == winner.key || !settled || withdrawn || lost.flags.intersects(UNORDERED) {
                continue;
            }
            let count = self.overtaken.entry(loser.key).or_default();
            if count.ordinal != lost.ordinal {
                *count = Overtaken { ordinal: lost.ordinal, ..Overtaken::default() };
            }
            let strict = rules.strict.get(usize::from(ledger.resource(winner.resource).space)) == Some(&true);
            if won.kind == PendingKind::Convert {
                count.converts += 1;
                if strict && !won.flags.contains(Flags::QUECVT) {
                    // Granted in place, whoever waits (scenario 9).
                    continue;
                }
                if lost.kind == PendingKind::New {
                    // Converts are served before newcomers.
                    continue;
                }
            }
            if won.flags.intersects(UNORDERED) || mode.compatible(lost.mode) || is_held_anyway(winner, mode) {
                continue;
            }
            let home = loser.node == winner.node;
            let delay = if home { rules.local_delay } else { rules.calm_delay };
            if won.at < lost.at + delay {
                continue;
            }
            let (ahead, here) = (lost.ahead_anywhere as usize, lost.ahead_here as usize);
            let (counted, bound) = if home {
                count.at_home += 1;
                let passed = if strict { 0 } else { ahead + count.converts + LOCAL_HANDOFFS_MAX };
                (count.at_home, passed)
            } else {
                // A grant whose token nobody drew may belong to any term.
                count.terms.extend(fence.map(|fence| (winner.node, fence)));
                let terms = (here + 1) * (usize::from(rules.nodes) - 1);
                (count.terms.len(), if strict { terms } else { terms + ahead + count.converts })
            };
            if counted > bound && !count.told {
                count.told = true;
                let whose = if home { "times by its own node" } else { "terms of other nodes" };
                self.accused.insert(loser.key, (at, format!(
                        "client {} (node {}) waits for {} on {:?} since {} ms and was overtaken in {counted} \
                         {whose}, {bound} are allowed; last by client {} (node {}) in {mode}, asked {} ms",
                        loser.key.0,
                        loser.node,
                        lost.mode,
                        ledger.resource(winner.resource).name,
                        lost.at / 1_000_000,
                        winner.key.0,
                        winner.node,
                        won.at / 1_000_000,
                )));
            }
        }
    }
}

/// A way down takes nothing from anybody who waits.
fn is_held_anyway(lock: &Lock, mode: Mode) -> bool {
    lock.held.is_some_and(|held| held.mode.covers(mode))
}

#[cfg(test)]
mod tests {
    use crate::check::judge;
    use crate::check::script::{finds, parse, passes, rules};

    /// Client 1 holds, client 2 of the same node has waited since 10 s.
    const WAITING: &str =
        "calm; @9990; 1 lock strict/x EX; 1 granted EX 1.1.1; @10000; 2 lock strict/x EX; @10100; ";

    fn story(rest: &str) -> String {
        format!("{WAITING}{rest}")
    }

    #[test]
    fn accepts_first_come_first_served() {
        passes(
            "the waiter is next",
            &story("3 lock strict/x EX; 1 unlock; 2 granted EX 1.1.2; 2 unlock; 3 granted EX 1.1.3"),
        );
        passes("almost at once is no order", &{
            let same = "calm; @9990; 1 lock strict/x EX; 1 granted EX 1.1.1; @10000; 2 lock strict/x EX; 3 lock strict/x EX; ";
            format!("{same} 1 unlock; 3 granted EX 1.1.2")
        });
        passes("a convert goes first", &{
            let nl = "calm; @9980; 3 lock strict/x NL; 3 granted NL 1.1.0; @9990; 1 lock strict/x EX; 1 granted EX 1.1.1; ";
            format!("{nl} @10000; 2 lock strict/x EX; @10100; 3 convert EX; 1 unlock; 3 granted EX 1.1.2")
        });
        passes("what does not conflict", &story("3 lock strict/x NL EXPEDITE; 3 granted NL 1.1.1"));
        passes("NOORDER was asked for", &story("3 lock strict/x EX NOORDER; 1 unlock; 3 granted EX 1.1.2"));
        passes(
            "another node's turn",
            &story(
                "@10500; 11 lock strict/x EX; 1 unlock; 11 granted EX 1.2.1; 11 unlock; 2 granted EX 1.3.1",
            ),
        );
        passes("in a storm there is no order", &{
            let storm = "storm; 1 lock strict/x EX; 1 granted EX 1.1.1; 2 lock strict/x EX; @10100; 3 lock strict/x EX; ";
            format!("{storm} 1 unlock; 3 granted EX 1.1.2")
        });
    }

    #[test]
    fn who_was_given_up_before_is_not_overtaken() {
        let timed = |at: u32| {
            format!(
                "calm; @9990; 1 lock strict/x EX; 1 granted EX 1.1.1; @10000; 2 lock strict/x EX timeout=300; @10100; \
                 3 lock strict/x EX; @{at}; 1 unlock; 3 granted EX 1.1.2"
            )
        };
        passes("its time is over", &timed(10_301));
        finds("order", "its own node", &timed(10_200));
    }

    #[test]
    fn who_was_refused_as_a_deadlock_is_not_overtaken() {
        let passed = |then: &str| story(&format!("3 lock strict/x EX; 1 unlock; 3 granted EX 1.1.2; {then}"));
        // Whether there was a deadlock is for others to judge.
        let refused = judge(&rules(), &parse(&passed("2 failed Deadlock")));
        assert!(refused.iter().all(|found| found.checker != "order"), "{refused:?}");
        finds("order", "its own node", &passed("3 unlock; 3 released; 2 granted EX 1.1.3"));
        finds("order", "its own node", &passed("@12000; 2 died"));
        passes("it may not have read it", &passed("2 died"));
    }

    /// M10: within a node nobody overtakes.
    #[test]
    fn rejects_overtaking_within_a_node() {
        finds("order", "its own node", &story("3 lock strict/x EX; 1 unlock; 3 granted EX 1.1.2"));
    }

    #[test]
    fn rejects_readers_that_starve_a_writer() {
        // C8: S1 holds PR, S2 asks EX, others keep asking PR.
        let held =
            "calm; @9990; 1 lock strict/x PR; 1 granted PR 1.1.0; @10000; 2 lock strict/x EX; @10100; ";
        finds("order", "its own node", &format!("{held} 3 lock strict/x PR; 3 granted PR 1.1.0"));
    }

    #[test]
    fn rejects_a_newcomer_before_a_convert() {
        // Scenario 7: new requests need an empty convert queue.
        let held =
            "calm; @9980; 1 lock strict/x PR; 1 granted PR 1.1.0; 2 lock strict/x NL; 2 granted NL 1.1.0; ";
        let story = format!("{held} @10000; 2 convert EX; @10100; 3 lock strict/x PR; 3 granted PR 1.1.0");
        finds("order", "its own node", &story);
    }

    /// Clients 1 to 3 hold NL or PR; client 1 waits for EX, then client 3 converts in the manner of `how`.
    fn converting(how: &str) -> String {
        format!(
            "calm; @9970; 2 lock strict/x PR; 2 granted PR 1.1.0; 1 lock strict/x NL; 1 granted NL 1.1.0; \
             3 lock strict/x NL; 3 granted NL 1.1.0; @10000; 1 convert EX; @10100; 3 convert PR {how}; \
             3 granted PR 1.1.0"
        )
    }

    #[test]
    fn a_convert_passes_a_convert_in_strict_order_unless_it_said_quecvt() {
        passes("scenario 9", &converting(""));
        finds("order", "its own node", &converting("QUECVT"));
    }

    /// R4: between nodes the bound counts terms.
    #[test]
    fn rejects_a_third_term_of_two_other_nodes() {
        let mut rest = String::from("@10500; 1 unlock; 1 released; ");
        for (n, client) in [11, 21, 12].into_iter().enumerate() {
            rest +=
                &format!("{client} lock strict/x EX; {client} granted EX 1.{}.1; {client} unlock; ", n + 2);
        }
        finds("order", "terms of other nodes", &story(&rest));
    }

    #[test]
    fn rejects_starvation_in_a_passover_lockspace_too() {
        let mut rest = String::from(
            "calm; @9990; 1 lock x EX; 1 granted EX 1.1.1; @10000; 2 lock x EX; @10100; 1 unlock; ",
        );
        for n in 0..18 {
            rest += &format!("3 lock x EX; 3 granted EX 1.1.{}; 3 unlock; 3 released; ", n + 2);
        }
        finds("order", "its own node", &rest);
        let mut rest = String::from(
            "calm; @9990; 1 lock x EX; 1 granted EX 1.1.1; @10000; 2 lock x EX; @10500; 1 unlock; ",
        );
        for n in 0..4 {
            rest += &format!("11 lock x EX; 11 granted EX 1.{}.1; 11 unlock; 11 released; ", n + 2);
        }
        finds("order", "terms of other nodes", &rest);
    }
}
