//! Checkers: each knows one promise and a history, and nothing of how the promise is kept.
//!
//! | checker | promise | invariants |
//! | --- | --- | --- |
//! | [`Exclusion`] | two locks held at once stand beside each other in the compatibility table | I1 |
//! | [`Values`] | a read sees one whole block, the newest, or is told that it cannot be believed | I8, R5 |
//! | [`Tokens`] | of two exclusive grants the later has the higher token | R6 |
//! | [`Order`] | a waiter is overtaken no more often than the order of its lockspace allows | I6, I7, R4 |
//! | [`Answers`] | each request has one answer, of a kind that was possible | I4, I5, R2, R9, D9 |
//! | [`Liveness`] | at rest nobody waits without somebody real in the way, who was told | I4, I5, I23 |
//! | [`Fences`] | nothing of a node that left is granted before its fence is on every disk, and nothing of it is written after | I2 |
//! | [`delivery`] | a circuit delivers a gapless prefix of what was sent, once and in order | I9, I10 |
//!
//! They were written from the promises alone, and each has histories that it must reject.

mod answers;
pub mod delivery;
mod exclusion;
mod fences;
mod knots;
mod liveness;
mod order;
mod tokens;
mod values;

use std::fmt;

use crate::history::{Event, Ledger, Rules};

pub use answers::Answers;
pub use exclusion::Exclusion;
pub use fences::Fences;
pub use liveness::Liveness;
pub use order::Order;
pub use tokens::Tokens;
pub use values::{Reads, Values};

/// Findings kept of one history and checker; a broken run breaks the same promise again and again.
pub const FINDINGS_MAX: usize = 50;

/// A promise that a history breaks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Which checker found it.
    pub checker: &'static str,
    /// When, on the history's clock.
    pub at: u64,
    /// What is wrong, with names and numbers.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} at {}.{:06} s: {}",
            self.checker,
            self.at / 1_000_000_000,
            self.at / 1_000 % 1_000_000,
            self.text
        )
    }
}

/// Where checkers put what they find.
#[derive(Debug, Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// Adds a finding, up to [`FINDINGS_MAX`] of each checker.
    pub fn add(&mut self, checker: &'static str, at: u64, text: String) {
        if self.0.iter().filter(|f| f.checker == checker).count() < FINDINGS_MAX {
            self.0.push(Finding { checker, at, text });
        }
    }

    /// All of them, in the order they were found.
    pub fn as_slice(&self) -> &[Finding] {
        &self.0
    }

    /// The same, for good.
    pub fn into_vec(self) -> Vec<Finding> {
        self.0
    }

    /// Is everything as promised so far?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// All checkers over one history, event by event.
#[derive(Debug)]
pub struct Judge {
    rules: Rules,
    ledger: Ledger,
    exclusion: Exclusion,
    values: Values,
    tokens: Tokens,
    order: Order,
    answers: Answers,
    liveness: Liveness,
    findings: Findings,
    seen: u64,
}

impl Judge {
    /// A judge at the beginning of a history.
    pub fn new(rules: Rules) -> Judge {
        Judge {
            rules,
            ledger: Ledger::default(),
            exclusion: Exclusion,
            values: Values::default(),
            tokens: Tokens::default(),
            order: Order::default(),
            answers: Answers::default(),
            liveness: Liveness,
            findings: Findings::default(),
            seen: 0,
        }
    }

    /// The next event. Times must not fall.
    pub fn see(&mut self, event: &Event) {
        let findings = &mut self.findings;
        self.answers.see(&self.rules, &self.ledger, event, findings);
        self.values.see(&self.rules, &self.ledger, event, findings);
        self.tokens.see(&self.ledger, event, findings);
        self.order.see(&self.rules, &self.ledger, event, findings);
        self.liveness.see(&self.rules, &self.ledger, event, findings);
        self.ledger.enter(event);
        self.exclusion.see(&self.ledger, event, findings);
        self.seen += 1;
        if self.seen.is_multiple_of(4096) {
            self.ledger.bury(event.at, self.rules.linger);
        }
    }

    /// Has nothing been found so far?
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// What has been found so far, in order.
    pub fn findings(&self) -> &[Finding] {
        self.findings.as_slice()
    }

    /// How many reads of value blocks were judged so far.
    pub fn reads(&self) -> Reads {
        self.values.reads()
    }

    /// The account of the history so far.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Everything that was found, in order.
    pub fn finish(self) -> Vec<Finding> {
        let mut findings = self.findings;
        self.order.finish(&mut findings);
        findings.0
    }
}

/// Judges a whole history.
pub fn judge(rules: &Rules, events: &[Event]) -> Vec<Finding> {
    let mut judge = Judge::new(rules.clone());
    for event in events {
        judge.see(event);
    }
    judge.finish()
}

#[cfg(test)]
pub(crate) mod script;
