//! Tokens (R6): of two exclusive grants of a resource the later has the higher token; a shared grant is not
//! below an earlier exclusive one and below every later one.
//!
//! Only grants in conflicting modes have an order that clients can know, so only those are compared. Locks
//! that were already being given back when the grant arrived are left out: their clients never used the token.
//! Who takes a lock in a segment draws its token when it wants one, or never; it counts from when it was drawn.

use oarlock_layout::flags::Flags;
use oarlock_layout::mode::Mode;
use oarlock_layout::token::Token;

use super::Findings;
use crate::history::{Event, Ledger, Lock, PendingKind, Told, What};

/// For each resource the highest token granted so far in each mode.
#[derive(Debug, Default)]
pub struct Tokens {
    highest: Vec<[Option<Token>; 6]>,
}

impl Tokens {
    /// An event that the ledger has not entered yet.
    pub fn see(&mut self, ledger: &Ledger, event: &Event, findings: &mut Findings) {
        let What::Told { client, handle, told } = &event.what else { return };
        let Some(lock) = ledger.lock((*client, *handle)).filter(|lock| lock.unlocking.is_none()) else {
            return;
        };
        match told {
            Told::Granted { mode, token: Some(token), .. } => {
                let Some(pending) = lock.pending.as_ref() else { return };
                debug_assert!(pending.kind == PendingKind::New || lock.held.is_some());
                let before = lock.held.filter(|held| held.mode.covers(*mode)).and_then(|held| held.token);
                let fresh = pending.flags.contains(Flags::FRESH);
                let has = lock.held.is_some_and(|held| held.mode.covers(*mode));
                self.drawn(ledger, event, lock, (*mode, *token), (has, before, fresh), findings);
            }
            Told::Token { token } => {
                // Whoever has drawn a token already does not ask again: a second one is no new claim.
                let Some(held) = lock.held else { return };
                let drawn = (held.token.is_some(), held.token, false);
                self.drawn(ledger, event, lock, (held.mode, *token), drawn, findings);
            }
            _ => {}
        }
    }

    /// `has`: it is no new claim; `before`: the token it had, if any.
    fn drawn(
        &mut self,
        ledger: &Ledger,
        event: &Event,
        lock: &Lock,
        (mode, token): (Mode, Token),
        (has, before, fresh): (bool, Option<Token>, bool),
        findings: &mut Findings,
    ) {
        if self.highest.len() <= lock.resource {
            self.highest.resize(lock.resource + 1, [None; 6]);
        }
        let highest = &mut self.highest[lock.resource];
        let (name, client) = (&ledger.resource(lock.resource).name, lock.key.0);
        let mut complain = |text: String| {
            findings.add("tokens", event.at, format!("{name:?}, client {client} in {mode}: {text}"));
        };
        if has {
            // A way down, or the same again, is no new claim: it must not lose what it had.
            if let Some(before) = before.filter(|before| token < *before) {
                complain(format!("token {token:?} is below its own {before:?}"));
            }
        } else if mode.exclusive() {
            let earlier = Mode::ALL.into_iter().filter(|m| !m.compatible(mode));
            for other in earlier {
                if let Some(before) = highest[other as usize].filter(|before| *before >= token) {
                    complain(format!("token {token:?} is not above {before:?}, granted before in {other}"));
                }
            }
            let fences = [Mode::PW, Mode::EX].iter().filter_map(|m| highest[*m as usize]).map(|t| t.fence);
            if fresh && fences.max().is_some_and(|fence| fence >= token.fence) {
                complain(format!("a fresh grant has the fence {:?} again", token.fence));
            }
        } else {
            for other in [Mode::PW, Mode::EX].into_iter().filter(|m| !m.compatible(mode)) {
                if let Some(before) = highest[other as usize].filter(|before| *before > token) {
                    complain(format!("token {token:?} is below {before:?}, granted before in {other}"));
                }
            }
        }
        let place = &mut highest[mode as usize];
        *place = (*place).max(Some(token));
    }
}

#[cfg(test)]
mod tests {
    use crate::check::script::{finds, passes};

    #[test]
    fn accepts_tokens_that_grow_with_exclusive_grants() {
        passes(
            "locally, by a message, by an epoch",
            "1 lock x EX; 1 granted EX 1.1.1; 1 unlock; 1 released; 1 lock x EX; 1 granted EX 1.1.2; 1 unlock; \
             11 lock x EX; 11 granted EX 1.2.0; 11 unlock; 2 lock x PW; 2 granted PW 2.1.0",
        );
        passes(
            "shared grants carry the current value",
            "1 lock x EX; 1 granted EX 1.1.1; 1 unlock; 2 lock x PR; 2 granted PR 1.1.1; 3 lock x PR; \
             3 granted PR 1.1.1; 2 unlock; 3 unlock; 4 lock x EX; 4 granted EX 1.1.2",
        );
        passes(
            "CR beside PW has no order",
            "1 lock x PW; 1 granted PW 1.5.1; 11 lock x CR; 11 granted CR 1.3.0",
        );
        passes(
            "a way down keeps its token",
            "1 lock x EX; 1 granted EX 1.4.4; 1 convert PR; 1 granted PR 1.4.4",
        );
    }

    #[test]
    fn accepts_tokens_that_are_drawn_later_or_never() {
        passes(
            "drawn while it is held",
            "1 lock x EX; 1 granted EX -; 1 token 1.1.1; 1 unlock; 2 lock x EX; 2 granted EX -; 2 unlock; 2 released; \
             3 lock x PR; 3 granted PR -; 3 token 1.1.1",
        );
    }

    #[test]
    fn rejects_a_token_drawn_later_that_an_earlier_holder_had() {
        let first = "1 lock x EX; 1 granted EX -; 1 token 1.1.1; 1 unlock; 1 released; ";
        finds("tokens", "not above", &format!("{first}2 lock x EX; 2 granted EX -; 2 token 1.1.1"));
        finds("tokens", "below", &format!("{first}2 lock x PR; 2 granted PR -; 2 token 1.1.0"));
        finds(
            "tokens",
            "not above",
            "1 lock x PR; 1 granted PR 1.1.1; 1 convert EX; 1 granted EX -; 1 token 1.1.1",
        );
    }

    #[test]
    fn rejects_the_same_token_twice() {
        let story = "1 lock x EX; 1 granted EX 1.1.1; 1 unlock; 2 lock x EX; 2 granted EX 1.1.1";
        finds("tokens", "not above", story);
    }

    #[test]
    fn rejects_a_serial_that_starts_again() {
        // R6 b: the master's record was dropped and starts at one in the same epoch.
        let story =
            "1 lock x EX; 1 granted EX 1.9.1; 1 unlock; 1 released; 11 lock x EX; 11 granted EX 1.1.1";
        finds("tokens", "not above", story);
    }

    #[test]
    fn rejects_a_lower_epoch_after_a_whole_restart() {
        let story = "1 lock x EX; 1 granted EX 4.1.1; 1 lost; new-cluster; 2 lock x EX; 2 granted EX 3.7.1";
        finds("tokens", "not above", story);
    }

    #[test]
    fn rejects_a_shared_grant_below_an_earlier_exclusive_one() {
        let story = "1 lock x EX; 1 granted EX 1.5.2; 1 unlock; 2 lock x PR; 2 granted PR 1.5.1";
        finds("tokens", "below", story);
    }

    #[test]
    fn rejects_an_exclusive_grant_not_above_an_earlier_shared_one() {
        let story = "1 lock x PR; 1 granted PR 1.5.2; 1 unlock; 2 lock x EX; 2 granted EX 1.5.2";
        finds("tokens", "not above", story);
    }

    #[test]
    fn rejects_a_convert_up_that_does_not_raise() {
        finds("tokens", "not above", "1 lock x PR; 1 granted PR 1.5.2; 1 convert EX; 1 granted EX 1.5.2");
    }

    #[test]
    fn rejects_a_fresh_grant_without_a_new_fence() {
        let story = "1 lock x EX; 1 granted EX 1.5.1; 1 unlock; 2 lock x EX FRESH; 2 granted EX 1.5.2";
        finds("tokens", "fresh", story);
    }

    #[test]
    fn rejects_a_way_down_that_loses_its_token() {
        finds("tokens", "its own", "1 lock x EX; 1 granted EX 1.5.1; 1 convert PR; 1 granted PR 1.4.1");
    }
}
