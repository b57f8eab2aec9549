//! Lists: which columns, which rows, in which order, in which form.
//!
//! ```text
//!   Columns ── plan(options) ─► Plan ── arrange ─► the rows that were asked for, in their order
//!                                    └─ print ───► table, names, or the document they stand in
//! ```
//!
//! A plan is made before a daemon is asked: a misspelt column is the same mistake with and without one.

use std::cmp::Ordering;

use oarlock_layout::code::Code;
use serde::Serialize;

use super::cli::{List, Output};
use super::condition::{Cell, Column, Condition, Kind};
use super::output::{self, Rows};
use crate::problem::{Problem, Result, did_you_mean};

/// The columns of a list. The first one names the row.
#[derive(Debug)]
pub struct Columns {
    /// All of them.
    pub all: &'static [Column],
    /// How many of them a table shows that is not wide.
    pub narrow: usize,
}

/// Shorthand for declaring a column.
pub const fn column(name: &'static str, kind: Kind) -> Column {
    Column { name, kind }
}

/// A column's name as it is typed.
fn typed(name: &str) -> String {
    name.trim().to_lowercase().replace([' ', '_'], "-")
}

impl Columns {
    /// What the options mean here, or what is wrong with them.
    pub fn plan<'a>(&'static self, list: &'a List) -> Result<Plan<'a>> {
        let mut shown = Vec::new();
        for name in &list.columns {
            shown.push(self.find(name)?);
        }
        if shown.is_empty() {
            let wide = list.format.output == Output::Wide;
            shown = (0..if wide { self.all.len() } else { self.narrow }).collect();
        }
        let mut conditions = Vec::new();
        for text in &list.conditions {
            conditions.extend(Condition::parse(text, self.all, |name| self.find(name))?);
        }
        let mut order = Vec::new();
        for name in &list.sort {
            let (name, falling) = name.strip_prefix('-').map_or((name.as_str(), false), |name| (name, true));
            order.push((self.find(name)?, falling));
        }
        Ok(Plan { columns: self, list, shown, conditions, order })
    }

    /// The last lines of a help text.
    pub fn help(&self) -> String {
        let mut text = format!("Columns: {}", self.names().join(", "));
        if let Some(time) = self.all.iter().find(|c| c.kind == Kind::Time) {
            text += &format!("\n\nDurations compare as durations: --where '{}>10s'", typed(time.name));
        }
        text
    }

    fn names(&self) -> Vec<String> {
        self.all.iter().map(|c| typed(c.name)).collect()
    }

    fn find(&self, name: &str) -> Result<usize> {
        let names = self.names();
        let wanted = typed(name);
        names.iter().position(|n| *n == wanted).ok_or_else(|| {
            let problem = Problem::new(Code::Usage, format!("there is no column `{name}` in this list"))
                .because(format!("the columns are {}", names.join(", ")));
            match did_you_mean(&wanted, names.iter().map(String::as_str)) {
                Some(meant) => problem.try_next(format!("did you mean {meant}?")),
                None => problem.try_next("one of those"),
            }
        })
    }
}

/// What to print of a list.
#[derive(Debug)]
pub struct Plan<'a> {
    columns: &'static Columns,
    list: &'a List,
    shown: Vec<usize>,
    conditions: Vec<Condition>,
    order: Vec<(usize, bool)>,
}

impl Plan<'_> {
    /// Takes away the items that were not asked for and puts the others in order. Equal ones keep theirs.
    pub fn arrange<T>(&self, items: &mut Vec<T>, row: impl Fn(&T) -> Vec<Cell>) {
        if self.conditions.is_empty() && self.order.is_empty() {
            return;
        }
        let mut rows: Vec<(Vec<Cell>, T)> = items.drain(..).map(|item| (row(&item), item)).collect();
        rows.retain(|(cells, _)| self.conditions.iter().all(|c| c.holds(cells)));
        rows.sort_by(|(a, _), (b, _)| self.compare(a, b));
        items.extend(rows.into_iter().map(|(_, item)| item));
    }

    fn compare(&self, a: &[Cell], b: &[Cell]) -> Ordering {
        let by = |&(column, falling): &(usize, bool)| match (&a[column].key, &b[column].key) {
            (Some(a), Some(b)) if falling => b.cmp(a),
            (Some(a), Some(b)) => a.cmp(b),
            // Empty cells are last in both directions: nobody looks for them first.
            (a, b) => b.is_some().cmp(&a.is_some()),
        };
        self.order.iter().map(by).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
    }

    /// Prints the items in the form that was asked for; `document` is what programs get, the items in it.
    pub fn print<T, D: Serialize>(
        &self,
        items: &[T],
        row: impl Fn(&T) -> Vec<Cell>,
        document: &D,
    ) -> Result<()> {
        let form = self.list.format.output;
        match form {
            Output::Json | Output::Yaml => output::print_document(form, document),
            Output::Name => {
                let names: Vec<_> = items.iter().map(|item| row(item).swap_remove(0).text).collect();
                output::print_text(&names.join("\n"))
            }
            Output::Table | Output::Wide => output::print_text(&self.table(items, row)),
        }
    }

    fn table<T>(&self, items: &[T], row: impl Fn(&T) -> Vec<Cell>) -> String {
        let names: Vec<_> = self.shown.iter().map(|&i| self.columns.all[i].name).collect();
        let mut rows = Rows::new(&names);
        for item in items {
            let cells = row(item);
            assert_eq!(cells.len(), self.columns.all.len(), "a cell for each column");
            rows.push(self.shown.iter().map(|&i| cells[i].text.clone()).collect());
        }
        rows.text(!self.list.format.no_headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    static COLUMNS: Columns = Columns {
        all: &[
            column("RESOURCE", Kind::Name),
            column("MODE", Kind::Word),
            column("FOR", Kind::Time),
            column("WAITING", Kind::Count),
            column("PER S", Kind::Rate),
        ],
        narrow: 2,
    };

    /// Name, mode, age in seconds, waiters, messages a second.
    type Item = (&'static str, &'static str, Option<u64>, u64, f64);

    const ITEMS: [Item; 4] = [
        ("jobs/b", "EX", Some(90), 2, 1.5),
        ("jobs/a", "PR", Some(9), 10, 0.0),
        ("salt and pepper", "", None, 0, 12.25),
        ("Jobs/c", "PR", Some(100), 2, 3.0),
    ];

    fn row(item: &Item) -> Vec<Cell> {
        let (name, mode, age_s, waiting, per_s) = *item;
        let age = Cell::age(age_s.map(|s| s * 1_000_000));
        vec![Cell::name(name), Cell::word(mode), age, Cell::count(waiting), Cell::rate(per_s)]
    }

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        list: List,
    }

    fn list(options: &[&str]) -> List {
        Line::try_parse_from(["x"].iter().chain(options)).unwrap_or_else(|e| panic!("{e}")).list
    }

    /// The first column of what is left, in its order.
    fn names(options: &[&str]) -> Vec<&'static str> {
        let list = list(options);
        let mut items = ITEMS.to_vec();
        COLUMNS.plan(&list).unwrap_or_else(|p| panic!("{options:?}: {p}")).arrange(&mut items, row);
        items.iter().map(|i| i.0).collect()
    }

    fn problem(options: &[&str]) -> Problem {
        COLUMNS.plan(&list(options)).err().unwrap_or_else(|| panic!("{options:?} makes sense"))
    }

    #[test]
    fn conditions_choose_rows() {
        let (b, a, salt, c) = ("jobs/b", "jobs/a", "salt and pepper", "Jobs/c");
        let cases: [(&[&str], &[&str]); 24] = [
            (&[], &[b, a, salt, c]),
            (&["resource=jobs/b"], &[b]),
            (&["RESOURCE == jobs/b"], &[b]),
            (&["resource!=jobs/b"], &[a, salt, c]),
            (&["resource~jobs"], &[b, a]),
            (&["resource~obs/"], &[b, a, c]),
            (&["resource<jobs/b"], &[a, c]),
            (&["mode=pr"], &[a, c]),
            (&["mode=-"], &[salt]),
            (&["mode="], &[salt]),
            (&["mode!=-"], &[b, a, c]),
            (&["waiting>2"], &[a]),
            (&["waiting>=2"], &[b, a, c]),
            (&["waiting<2"], &[salt]),
            (&["waiting<=2"], &[b, salt, c]),
            (&["waiting=2"], &[b, c]),
            (&["for>10s"], &[b, c]),
            (&["for>1m 30s"], &[c]),
            (&["for<=9"], &[a]),
            (&["for~min"], &[b, c]),
            (&["per_s>1.5"], &[salt, c]),
            (&["mode=PR", "waiting=2"], &[c]),
            (&["mode=PR and waiting=2"], &[c]),
            (&["resource=salt and pepper and waiting<1"], &[salt]),
        ];
        for (conditions, expected) in cases {
            let options: Vec<&str> = conditions.iter().flat_map(|c| ["--where", c]).collect();
            assert_eq!(names(&options), expected, "{conditions:?}");
        }
    }

    #[test]
    fn rows_come_in_the_order_asked_for() {
        let (b, a, salt, c) = ("jobs/b", "jobs/a", "salt and pepper", "Jobs/c");
        let cases: [(&str, [&str; 4]); 8] = [
            ("resource", [c, a, b, salt]),
            ("-resource", [salt, b, a, c]),
            // By number, not by digits; equal ones keep their order.
            ("waiting", [salt, b, c, a]),
            ("-waiting", [a, b, c, salt]),
            ("-waiting,resource", [a, c, b, salt]),
            ("-per-s", [salt, c, b, a]),
            // What has no age is last in both directions.
            ("for", [a, b, c, salt]),
            ("-for", [c, b, a, salt]),
        ];
        for (column, expected) in cases {
            assert_eq!(names(&["--sort", column]), expected, "{column}");
            assert_eq!(names(&[&format!("--sort={column}")]), expected, "{column}");
        }
        assert_eq!(names(&["--sort", "-for", "--where", "mode=pr"]), [c, a]);
    }

    #[test]
    fn columns_are_those_asked_for() {
        let table = |options: &[&str]| {
            let list = list(options);
            COLUMNS.plan(&list).unwrap().table(&ITEMS[1..3], row)
        };
        assert_eq!(table(&[]), "RESOURCE         MODE\njobs/a           PR\nsalt and pepper  -");
        assert_eq!(
            table(&["-o", "wide"]),
            "RESOURCE         MODE  FOR    WAITING  PER S\n\
             jobs/a           PR    9.0 s  10       0.0\n\
             salt and pepper  -     -      0        12.2"
        );
        let chosen = "PER S  RESOURCE\n0.0    jobs/a\n12.2   salt and pepper";
        for typed in ["per-s,resource", "PER_S,Resource", "per s, resource"] {
            assert_eq!(table(&["--columns", typed]), chosen);
            assert_eq!(table(&["--columns", typed, "-o", "wide"]), chosen, "what is chosen is shown");
        }
        assert_eq!(table(&["--columns", "waiting", "--no-headers"]), "10\n0");
    }

    #[test]
    fn what_makes_no_sense_is_named_with_what_would() {
        let all = "the columns are resource, mode, for, waiting, per-s";
        let cases: [(&[&str], &str, &str, &str); 9] = [
            (&["--columns", "resource,mod"], "no column `mod`", all, "did you mean mode?"),
            (&["--sort", "-wating"], "no column `wating`", all, "did you mean waiting?"),
            (&["--where", "xyzzy=1"], "no column `xyzzy`", all, "one of those"),
            (&["--where", "=1"], "no column ``", all, "one of those"),
            (
                &["--where", "waiting"],
                "`waiting` is not a condition",
                "one of = != < >",
                "--where 'waiting>0'",
            ),
            (&["--where", "mode!EX"], "`mode!EX` is not a condition", "one of = != < >", "--where"),
            (&["--where", "waiting>few"], "`few` is not a number", "the column waiting", "waiting~PART"),
            (&["--where", "for>soon"], "`soon` is not a duration", "the column for", "--where 'for>10s'"),
            (&["--where", "per-s<-1"], "`-1` is not a number", "the column per-s", "--where"),
        ];
        for (options, what, why, next) in cases {
            let p = problem(options);
            assert_eq!((p.code, p.exit()), (Code::Usage, 2), "{options:?}");
            assert!(
                p.what.contains(what) && p.why.contains(why) && p.try_next.contains(next),
                "{options:?}: {p}"
            );
        }
    }

    #[test]
    fn help_names_every_column() {
        assert_eq!(
            COLUMNS.help(),
            "Columns: resource, mode, for, waiting, per-s\n\nDurations compare as durations: --where 'for>10s'"
        );
    }
}
