//! What is printed: one line of JSON for each goal, or a table for people.

use serde_json::{Value, json};

use crate::rounds::{Spread, Table};

/// What a ratio is held against.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Bound {
    /// Smaller is better.
    AtMost(f64),
    /// Larger is better.
    AtLeast(f64),
}

impl Bound {
    fn number(self) -> f64 {
        match self {
            Bound::AtMost(n) | Bound::AtLeast(n) => n,
        }
    }

    fn holds(self, ratio: f64) -> bool {
        match self {
            Bound::AtMost(max) => ratio <= max,
            Bound::AtLeast(min) => ratio >= min,
        }
    }

    fn shown(self) -> String {
        match self {
            Bound::AtMost(n) => format!("<= {}", round(n)),
            Bound::AtLeast(n) => format!(">= {}", round(n)),
        }
    }
}

/// One result.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Number of the goal; none for what is only reported.
    pub(crate) goal: Option<u8>,
    /// What was measured.
    pub(crate) name: &'static str,
    /// Our number.
    pub(crate) value: f64,
    /// Its unit, and the anchor's.
    pub(crate) unit: &'static str,
    /// What it is compared with.
    pub(crate) against: &'static str,
    /// The anchor's number in the same rounds; none where a peer was not asked for.
    pub(crate) anchor: Option<f64>,
    /// Median of the ratios of the rounds, with extremes.
    pub(crate) ratio: Option<Spread>,
    /// What must hold for the ratio.
    pub(crate) must: Option<Bound>,
    /// Where to go from there.
    pub(crate) stretch: Option<Bound>,
    /// Rounds that count.
    pub(crate) rounds: usize,
    /// Do waiting threads sleep, or spin?
    pub(crate) mode: &'static str,
    /// Share of the machine that strangers used at worst.
    pub(crate) noise: f64,
    /// Further numbers, by name.
    pub(crate) also: Vec<(&'static str, f64)>,
}

impl Line {
    /// A line about a table's rounds, without goal and anchor yet.
    pub(crate) fn new(name: &'static str, unit: &'static str, value: f64, table: &Table) -> Line {
        Line {
            goal: None,
            name,
            value,
            unit,
            against: "nothing",
            anchor: None,
            ratio: None,
            must: None,
            stretch: None,
            rounds: table.rounds(),
            mode: "sleeping",
            noise: table.noise(),
            also: Vec::new(),
        }
    }

    pub(crate) fn goal(mut self, goal: u8) -> Line {
        self.goal = Some(goal);
        self
    }

    pub(crate) fn mode(mut self, mode: &'static str) -> Line {
        self.mode = mode;
        self
    }

    pub(crate) fn must(mut self, must: Bound) -> Line {
        self.must = Some(must);
        self
    }

    pub(crate) fn stretch(mut self, stretch: Bound) -> Line {
        self.stretch = Some(stretch);
        self
    }

    pub(crate) fn against(mut self, name: &'static str, anchor: Option<f64>, ratio: Option<Spread>) -> Line {
        self.against = name;
        self.anchor = anchor;
        self.ratio = ratio;
        self
    }

    pub(crate) fn also(mut self, name: &'static str, number: f64) -> Line {
        self.also.push((name, number));
        self
    }

    /// Whether the must holds; unknown without one, or without something to compare with.
    pub(crate) fn met(&self) -> Option<bool> {
        Some(self.must?.holds(self.ratio?.median))
    }

    /// The line as JSON.
    pub(crate) fn json(&self) -> Value {
        let bound = |b: Option<Bound>| b.map(Bound::number);
        let better = self.must.or(self.stretch).map(|b| match b {
            Bound::AtMost(_) => "lower",
            Bound::AtLeast(_) => "higher",
        });
        let mut line = json!({
            "goal": self.goal,
            "name": self.name,
            "value": round(self.value),
            "unit": self.unit,
            "anchor": self.anchor.map(round),
            "against": self.against,
            "ratio": self.ratio.map(|r| round(r.median)),
            "must": bound(self.must),
            "stretch": bound(self.stretch),
            "better": better,
            "met": self.met(),
            "rounds": self.rounds,
            "spread": self.ratio.map(|r| [round(r.min), round(r.max)]),
            "mode": self.mode,
            "noise": round(self.noise),
        });
        let object = line.as_object_mut().expect("made as one");
        for (name, number) in &self.also {
            object.insert((*name).to_string(), json!(round(*number)));
        }
        line
    }

    /// The line for people.
    pub(crate) fn shown(&self) -> String {
        let goal = self.goal.map_or("  -".into(), |goal| format!("{goal:>3}"));
        let number = |n: f64| format!("{} {}", round(n), self.unit);
        let ratio = match self.ratio {
            Some(r) => format!(
                "{}x of {} ({}; {}..{})",
                round(r.median),
                self.against,
                self.anchor.map(number).unwrap_or_default(),
                round(r.min),
                round(r.max)
            ),
            None => format!("not compared with {}", self.against),
        };
        let verdict = match (self.met(), self.must) {
            (Some(true), Some(must)) => format!("met ({})", must.shown()),
            (Some(false), Some(must)) => format!("MISSED ({})", must.shown()),
            (_, Some(must)) => format!("open ({})", must.shown()),
            (_, None) => "reported".into(),
        };
        let also: String =
            self.also.iter().map(|(name, n)| format!("\n        {name} {}", round(*n))).collect();
        let (name, mode) = (self.name, self.mode);
        format!("{goal}  {name} [{mode}]\n      {}: {ratio}, {verdict}{also}", number(self.value))
    }
}

/// Four significant digits: more would be noise, and JSON readers like short numbers.
fn round(n: f64) -> f64 {
    if n == 0.0 || !n.is_finite() {
        return n;
    }
    let scale = 10f64.powi(3 - n.abs().log10().floor() as i32);
    let rounded = (n * scale).round() / scale;
    if rounded.abs() >= 1e4 { rounded.round() } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounds::{Contender, Plan, alternate};

    fn line(ratio: f64, must: Bound) -> Line {
        let mut contenders = [Contender::new("a", || Ok(vec![ratio * 50.0]))];
        let table = alternate(&Plan::quick(), &mut contenders).unwrap();
        let spread = Spread { median: ratio, min: ratio, max: ratio };
        Line::new("remote acquire", "us", ratio * 50.0, &table).goal(5).must(must).against(
            "udp",
            Some(50.0),
            Some(spread),
        )
    }

    #[test]
    fn a_must_is_held_against_the_ratio_in_its_direction() {
        assert_eq!(line(1.3, Bound::AtMost(1.3)).met(), Some(true));
        assert_eq!(line(1.31, Bound::AtMost(1.3)).met(), Some(false));
        assert_eq!(line(0.7, Bound::AtLeast(0.7)).met(), Some(true));
        assert_eq!(line(0.69, Bound::AtLeast(0.7)).met(), Some(false));
    }

    #[test]
    fn a_line_is_one_object_with_what_readers_look_for() {
        let json = line(1.2, Bound::AtMost(1.3)).also("p99_us", 80.123_456).json();
        assert_eq!(json["goal"], 5);
        assert_eq!((&json["value"], &json["anchor"]), (&json!(60.0), &json!(50.0)));
        assert_eq!((&json["ratio"], &json["must"], &json["met"]), (&json!(1.2), &json!(1.3), &json!(true)));
        assert_eq!((&json["better"], &json["p99_us"]), (&json!("lower"), &json!(80.12)));
        assert!(!json.to_string().contains('\n'));
    }

    #[test]
    fn a_peer_that_was_not_asked_for_is_null_and_proves_nothing() {
        let mut line = line(1.0, Bound::AtLeast(1.0));
        (line.anchor, line.ratio) = (None, None);
        assert_eq!(line.met(), None);
        assert!(line.json()["anchor"].is_null() && line.json()["met"].is_null());
    }

    #[test]
    fn numbers_keep_four_digits() {
        assert_eq!([round(123_456.0), round(1.23456), round(0.012_345_6)], [123_500.0, 1.235, 0.01235]);
    }
}
