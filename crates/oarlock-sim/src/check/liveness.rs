//! Liveness at rest (I4, I5, I23): nobody waits without somebody real in the way, and whoever is in the way
//! was told so.

use super::Findings;
use crate::history::{Event, Ledger, Mark, Rules, What};
use oarlock_layout::flags::Flags;

/// Looks at what is left when a run says that all is at rest.
#[derive(Debug, Default)]
pub struct Liveness;

impl Liveness {
    /// An event that the ledger has not entered yet.
    pub fn see(&mut self, rules: &Rules, ledger: &Ledger, event: &Event, findings: &mut Findings) {
        match event.what {
            What::Mark(Mark::PoliteEnd) => {
                self.polite_end(ledger, event.at, findings);
                self.releases(rules, ledger, event.at, findings);
            }
            What::Mark(Mark::Drained) => self.drained(ledger, event.at, findings),
            _ => {}
        }
    }

    /// Holders keep what they have until they are told. Every holder that blocks a waiter must have been.
    fn polite_end(&self, ledger: &Ledger, at: u64, findings: &mut Findings) {
        for (index, resource) in ledger.resources().iter().enumerate() {
            let mut waits = 0;
            let mut blocked = 0;
            for waiter in ledger.locks_on(index) {
                let Some(pending) = &waiter.pending else { continue };
                waits += 1;
                for holder in ledger.locks_on(index).filter(|l| l.key != waiter.key) {
                    let Some(mode) = holder.certain().filter(|m| !m.compatible(pending.mode)) else {
                        continue;
                    };
                    blocked += 1;
                    let told = holder.held.and_then(|h| h.told);
                    let silenced = holder.flags.contains(Flags::NOBAST);
                    if !silenced && told.is_none_or(|wanted| wanted.compatible(mode)) {
                        findings.add(
                            "liveness",
                            at,
                            format!(
                                "client {} waits for {} on {:?} behind client {}, which holds {mode} and was \
                                 never told",
                                waiter.key.0, pending.mode, resource.name, holder.key.0
                            ),
                        );
                    }
                }
            }
            if waits > 0 && blocked == 0 {
                findings.add(
                    "liveness",
                    at,
                    format!(
                        "{waits} requests wait on {:?} and nobody holds anything in their way",
                        resource.name
                    ),
                );
            }
        }
    }

    /// A release waits for nobody: whatever else does, its answer comes.
    fn releases(&self, rules: &Rules, ledger: &Ledger, at: u64, findings: &mut Findings) {
        for lock in ledger.locks() {
            let Some(asked) = lock.unlocking.filter(|asked| asked + rules.calm_delay <= at) else { continue };
            let (client, handle) = lock.key;
            let name = &ledger.resource(lock.resource).name;
            let text = format!(
                "client {client}, lock {handle} on {name:?}: its release from {} ms is not answered at rest",
                asked / 1_000_000
            );
            findings.add("liveness", at, text);
        }
    }

    /// All was given back. Nothing may be unanswered.
    fn drained(&self, ledger: &Ledger, at: u64, findings: &mut Findings) {
        for lock in ledger.locks() {
            let name = &ledger.resource(lock.resource).name;
            let (client, handle) = lock.key;
            let rest = match (&lock.pending, lock.unlocking) {
                (Some(p), _) => format!("its request for {} from {} ms", p.mode, p.at / 1_000_000),
                (None, Some(asked)) => format!("its release from {} ms", asked / 1_000_000),
                (None, None) => continue,
            };
            let text = format!("client {client}, lock {handle} on {name:?}: {rest} was never answered");
            findings.add("liveness", at, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::check::script::{finds, passes};

    #[test]
    fn accepts_a_run_that_ends_in_rest() {
        passes(
            "all answered",
            "1 lock x EX; 1 granted EX 1.1.1; 2 lock x PR; polite; 1 blocking PR; 1 unlock; 1 released; \
             2 granted PR 1.1.1; polite-end; 2 unlock; 2 released; drained",
        );
        passes(
            "a told holder may take its time",
            "1 lock x EX; 1 granted EX 1.1.1; 2 lock x PR; polite; 1 blocking PR; polite-end",
        );
        passes(
            "a holder that wants no notices",
            "1 lock x EX NOBAST; 1 granted EX 1.1.1; 2 lock x PR; polite; polite-end",
        );
    }

    #[test]
    fn rejects_a_lost_grant() {
        finds("liveness", "never answered", "1 lock x EX; drained");
    }

    #[test]
    fn rejects_a_lost_release() {
        finds("liveness", "its release", "1 lock x EX; 1 granted EX 1.1.1; 1 unlock; drained");
    }

    #[test]
    fn rejects_a_release_without_an_answer_before_all_is_given_back() {
        // As storyboards end: their programs are killed before the last mark, and with them all that they asked.
        let story = "1 lock x EX; 1 granted EX 1.1.1; 1 unlock; ";
        let end = "polite-end; 1 died; drained";
        finds("liveness", "its release", &format!("{story}@5000; {end}"));
        passes("it may be under way", &format!("{story}{end}"));
    }

    #[test]
    fn rejects_a_convert_that_never_ends() {
        let story = "1 lock x PR; 1 granted PR 1.1.0; 1 convert EX; drained";
        finds("liveness", "never answered", story);
    }

    #[test]
    fn rejects_a_lost_blocking_notice() {
        let story = "1 lock x EX; 1 granted EX 1.1.1; 2 lock x PR; polite; polite-end";
        finds("liveness", "never told", story);
    }

    #[test]
    fn rejects_a_notice_that_named_too_little() {
        // Scenario 58: told of CR, which PW does not block, while EX waits.
        let story = "1 lock x PW; 1 granted PW 1.1.1; 2 lock x EX; 1 blocking CR; polite; polite-end";
        finds("liveness", "never told", story);
    }

    #[test]
    fn rejects_a_notice_from_before_the_last_grant() {
        let story = "1 lock x EX; 1 granted EX 1.1.1; 1 blocking PR; 1 convert PR; 1 granted PR 1.1.1; \
                     2 lock x EX; polite; polite-end";
        finds("liveness", "never told", story);
    }

    #[test]
    fn rejects_waiting_for_nobody() {
        finds("liveness", "nobody holds", "1 lock x EX; polite; polite-end");
        // The holder died; the waiter was forgotten.
        finds(
            "liveness",
            "nobody holds",
            "1 lock x EX; 1 granted EX 1.1.1; 2 lock x EX; 1 died; polite; polite-end",
        );
    }
}
