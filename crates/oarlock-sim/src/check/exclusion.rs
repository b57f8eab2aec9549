//! Mutual exclusion (I1): whatever is held at the same time is compatible.

use super::Findings;
use crate::history::{Event, Ledger, Told, What};

/// Looks at every grant, after it was entered, and at everything that restores an earlier mode.
#[derive(Debug, Default)]
pub struct Exclusion;

impl Exclusion {
    /// An event that the ledger has entered.
    pub fn see(&mut self, ledger: &Ledger, event: &Event, findings: &mut Findings) {
        let What::Told { client, handle, told: Told::Granted { .. } | Told::Failed { .. } } = event.what
        else {
            return;
        };
        let Some(lock) = ledger.lock((client, handle)) else { return };
        let Some(mode) = lock.certain() else { return };
        for other in ledger.locks_on(lock.resource).filter(|other| other.key != lock.key) {
            let Some(held) = other.certain().filter(|held| !held.compatible(mode)) else { continue };
            let name = &ledger.resource(lock.resource).name;
            findings.add(
                "exclusion",
                event.at,
                format!(
                    "{name:?} is held in {mode} by client {client} (lock {handle}, node {}) \
                     and in {held} by client {} (lock {}, node {})",
                    lock.node, other.key.0, other.key.1, other.node
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::check::script::{finds, passes};

    #[test]
    fn accepts_what_is_compatible_or_not_certain() {
        passes(
            "one after the other",
            "1 lock x EX; 1 granted EX 1.1.1; 1 unlock; 2 lock x EX; 2 granted EX 1.2.1",
        );
        passes("shared", "1 lock x PR; 2 lock x PR; 1 granted PR 1.1.0; 2 granted PR 1.2.0");
        passes("CR beside PW", "1 lock x PW; 2 lock x CR; 1 granted PW 1.1.1; 2 granted CR 1.2.0");
        passes(
            "a way down counts from its request",
            "1 lock x EX; 1 granted EX 1.1.1; 1 convert PR; 2 lock x PR; 2 granted PR 1.2.0; 1 granted PR 1.1.1",
        );
        passes(
            "PR to CW has only CR for certain while it is under way",
            "1 lock x PR; 1 granted PR 1.1.0; 1 convert CW; 2 lock x CW; 2 granted CW 1.3.0; 1 granted CW 1.2.0",
        );
        passes(
            "a dead client holds nothing",
            "1 lock x EX; 1 granted EX 1.1.1; 1 died; 2 lock x EX; 2 granted EX 1.2.1",
        );
        passes("another resource", "1 lock x EX; 1 granted EX 1.1.1; 2 lock y EX; 2 granted EX 1.2.1");
        passes(
            "another lockspace",
            "1 lock x EX; 1 granted EX 1.1.1; 2 lock strict/x EX; 2 granted EX 1.2.1",
        );
    }

    #[test]
    fn rejects_two_exclusive_holders() {
        let story = "1 lock x EX; 2 lock x EX; 1 granted EX 1.1.1; 2 granted EX 1.2.1";
        finds("exclusion", "I1", story);
    }

    #[test]
    fn rejects_a_reader_beside_a_writer() {
        finds("exclusion", "I1", "1 lock x PR; 1 granted PR 1.1.0; 2 lock x EX; 2 granted EX 1.2.1");
        finds("exclusion", "I1", "1 lock x PW; 1 granted PW 1.1.1; 2 lock x CW; 2 granted CW 1.2.0");
    }

    #[test]
    fn rejects_readers_beside_concurrent_writers() {
        // CW and PR look close by number and are not compatible.
        finds("exclusion", "I1", "1 lock x CW; 1 granted CW 1.1.0; 2 lock x PR; 2 granted PR 1.2.0");
    }

    #[test]
    fn rejects_a_grant_while_an_upward_convert_waits() {
        // Who asks for more keeps what it has.
        finds(
            "exclusion",
            "I1",
            "1 lock x PR; 1 granted PR 1.1.0; 1 convert EX; 2 lock x EX; 2 granted EX 1.2.1",
        );
    }

    #[test]
    fn rejects_a_convert_past_another_holder() {
        finds(
            "exclusion",
            "I1",
            "1 lock x PR; 2 lock x PR; 1 granted PR 1.1.0; 2 granted PR 1.2.0; 1 convert EX; 1 granted EX 1.3.1",
        );
    }

    #[test]
    fn rejects_a_grant_during_a_convert_that_fails_afterwards() {
        finds(
            "exclusion",
            "I1",
            "1 lock x PR; 1 granted PR 1.1.0; 1 convert CW; 2 lock x CW; 2 granted CW 1.2.0; 1 failed Busy",
        );
    }

    #[test]
    fn rejects_two_locks_of_one_client() {
        // Scenario 56: locks conflict, not owners.
        finds("exclusion", "I1", "1 lock x PR; 1 granted PR 1.1.0; 1.2 lock x EX; 1.2 granted EX 1.2.1");
    }
}
