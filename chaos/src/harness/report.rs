//! What a run found: numbers for people, and checks that passed or did not.

use std::fmt;

use serde_json::{Value, json};

/// A thing that had to hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// Whether it did.
    pub ok: bool,
    /// The numbers behind it, or what is wrong.
    pub text: String,
}

/// Everything that a run tells.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// From which the run followed, as far as real processes follow anything.
    pub seed: u64,
    /// How long the load lasted.
    pub seconds: u64,
    /// Numbers, in order.
    pub numbers: Vec<(&'static str, u64)>,
    /// Checks, in order.
    pub checks: Vec<Check>,
}

impl Report {
    /// Adds a number.
    pub fn number(&mut self, name: &'static str, value: u64) {
        self.numbers.push((name, value));
    }

    /// Adds a check.
    pub fn check(&mut self, name: &'static str, ok: bool, text: impl Into<String>) {
        self.checks.push(Check { name, ok, text: text.into() });
    }

    /// Adds the outcome of a scene that ends with a sentence either way.
    pub fn scene(&mut self, name: &'static str, outcome: Result<String, String>) {
        let ok = outcome.is_ok();
        self.check(name, ok, outcome.unwrap_or_else(|why| why));
    }

    /// Whether every check passed.
    pub fn is_clean(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|c| c.ok)
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let numbers: serde_json::Map<String, Value> =
            self.numbers.iter().map(|(name, value)| (name.replace([' ', '-'], "_"), json!(value))).collect();
        let checks: Vec<Value> =
            self.checks.iter().map(|c| json!({"check": c.name, "ok": c.ok, "text": c.text})).collect();
        json!({
            "v": 1, "seed": self.seed, "seconds": self.seconds, "ok": self.is_clean(),
            "numbers": numbers, "checks": checks,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "chaos, seed {}, {} s of load", self.seed, self.seconds)?;
        for (name, value) in &self.numbers {
            writeln!(f, "  {value:>10}  {name}")?;
        }
        for check in &self.checks {
            writeln!(f, "  {}  {}: {}", if check.ok { "ok    " } else { "FAILED" }, check.name, check.text)?;
        }
        let failed = self.checks.iter().filter(|c| !c.ok).count();
        write!(f, "{} checks, {failed} failed", self.checks.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_clean_only_if_something_was_checked_and_nothing_failed() {
        let mut report = Report::default();
        assert!(!report.is_clean());
        report.check("volume", true, "12");
        assert!(report.is_clean());
        report.scene("restart", Err("node b serves".into()));
        assert!(!report.is_clean());
        report.number("kills of clients", 3);
        assert!(report.to_string().contains("FAILED  restart: node b serves"), "{report}");
        assert!(report.to_string().ends_with("2 checks, 1 failed"), "{report}");
        let json = report.json();
        assert_eq!((&json["ok"], &json["numbers"]["kills_of_clients"]), (&json!(false), &json!(3)));
    }
}
