//! Columns of a list, what stands in them, and the conditions of `--where`.

use oarlock_layout::code::Code;

use super::{args, waiting};
use crate::problem::{Problem, Result};

/// How the cells of a column compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Names: byte by byte.
    Name,
    /// One of a few words; upper and lower case are the same.
    Word,
    /// Whole numbers.
    Count,
    /// Numbers with one decimal.
    Rate,
    /// Durations; a bare number means seconds.
    Time,
}

/// A column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Column {
    /// As the table's head shows it.
    pub name: &'static str,
    /// How its cells compare.
    pub kind: Kind,
}

/// What a cell is compared by. All cells of a column have the same variant.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Key {
    /// A count, tenths of a rate, or microseconds.
    Number(u64),
    /// A name or a word.
    Text(String),
}

/// A cell: what people see and what it is compared by. An empty one has no key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cell {
    /// What people see.
    pub text: String,
    /// What it is compared by.
    pub key: Option<Key>,
}

impl Cell {
    /// A name; empty if it is not known.
    pub fn name(text: impl Into<String>) -> Cell {
        let text = text.into();
        let key = (!text.is_empty()).then(|| Key::Text(text.clone()));
        Cell { text, key }
    }

    /// One of a few words.
    pub fn word(text: impl Into<String>) -> Cell {
        let text = text.into();
        let key = (!text.is_empty()).then(|| Key::Text(text.to_lowercase()));
        Cell { text, key }
    }

    /// A number.
    pub fn count(number: u64) -> Cell {
        Cell::shown(number.to_string(), Some(number))
    }

    /// A number as it was written by somebody else.
    pub fn digits(text: impl Into<String>) -> Cell {
        let text = text.into();
        let number = text.parse().ok();
        Cell::shown(text, number)
    }

    /// So many each second.
    pub fn rate(per_s: f64) -> Cell {
        Cell::shown(format!("{per_s:.1}"), Some(tenths(per_s)))
    }

    /// A duration; empty if there is none.
    pub fn age(us: Option<u64>) -> Cell {
        Cell::shown(us.map_or(String::new(), waiting::age), us)
    }

    /// A number that people see in another form.
    pub fn shown(text: impl Into<String>, number: Option<u64>) -> Cell {
        Cell { text: text.into(), key: number.map(Key::Number) }
    }
}

/// As people see it, so that what looks equal is equal.
fn tenths(number: f64) -> u64 {
    format!("{number:.1}").replace('.', "").parse().unwrap_or(u64::MAX)
}

/// How a condition compares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operator {
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
    Contains,
}

/// Longer ones first: `<=` begins with `<`.
const OPERATORS: [(&str, Operator); 8] = [
    ("!=", Operator::Unequal),
    ("<=", Operator::AtMost),
    (">=", Operator::AtLeast),
    ("==", Operator::Equal),
    ("=", Operator::Equal),
    ("<", Operator::Less),
    (">", Operator::Greater),
    ("~", Operator::Contains),
];

/// Column, operator and value of a condition as typed; `None` if it has no operator.
fn split(text: &str) -> Option<(&str, Operator, &str)> {
    let at = text.find(['!', '<', '>', '=', '~'])?;
    let (column, rest) = text.split_at(at);
    let (sign, operator) = OPERATORS.iter().find(|(sign, _)| rest.starts_with(sign))?;
    Some((column.trim(), *operator, rest[sign.len()..].trim()))
}

/// One thing that must be true of a row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    /// Which cell.
    column: usize,
    operator: Operator,
    /// What it is compared with; none stands for an empty cell.
    key: Option<Key>,
    /// The value as typed.
    value: String,
}

impl Condition {
    /// Reads what stands behind one `--where`: a condition, or several with `and` between them. `find` finds
    /// a column by its name.
    pub fn parse(
        text: &str,
        columns: &[Column],
        find: impl Fn(&str) -> Result<usize>,
    ) -> Result<Vec<Condition>> {
        // An `and` belongs to the value, unless what follows it is a condition again.
        let mut pieces: Vec<String> = Vec::new();
        for piece in text.split(" and ") {
            let begins = split(piece).is_some_and(|(column, ..)| find(column).is_ok());
            match pieces.last_mut() {
                Some(last) if !begins => *last = format!("{last} and {piece}"),
                _ => pieces.push(piece.into()),
            }
        }
        pieces.iter().map(|piece| Condition::one(piece, columns, &find)).collect()
    }

    fn one(text: &str, columns: &[Column], find: impl Fn(&str) -> Result<usize>) -> Result<Condition> {
        let Some((name, operator, value)) = split(text) else {
            return Err(Problem::new(Code::Usage, format!("`{text}` is not a condition"))
                .because("a condition is a column, one of = != < > <= >= ~ and a value")
                .try_next("quote it, so that the shell does not read it: --where 'waiting>0'"));
        };
        let column = find(name)?;
        let key = match (operator, value) {
            // What is looked for inside a cell is text, whatever the column is.
            (Operator::Contains, _) => None,
            (Operator::Equal | Operator::Unequal, "" | "-") => None,
            _ => Some(key(columns[column].kind, value).ok_or_else(|| unfit(name, columns[column], value))?),
        };
        Ok(Condition { column, operator, key, value: value.into() })
    }

    /// Whether it is true of a row.
    pub fn holds(&self, row: &[Cell]) -> bool {
        let cell = &row[self.column];
        let ordered = |wanted: &[std::cmp::Ordering]| match (&cell.key, &self.key) {
            (Some(a), Some(b)) => wanted.contains(&a.cmp(b)),
            // What is not known is neither more nor less than anything.
            _ => false,
        };
        use std::cmp::Ordering::{Equal, Greater, Less};
        match self.operator {
            Operator::Equal => cell.key == self.key,
            Operator::Unequal => cell.key != self.key,
            Operator::Less => ordered(&[Less]),
            Operator::AtMost => ordered(&[Less, Equal]),
            Operator::Greater => ordered(&[Greater]),
            Operator::AtLeast => ordered(&[Greater, Equal]),
            Operator::Contains => cell.text.contains(&self.value),
        }
    }
}

/// A value as the cells of such a column are compared.
fn key(kind: Kind, value: &str) -> Option<Key> {
    Some(match kind {
        Kind::Name => Key::Text(value.into()),
        Kind::Word => Key::Text(value.to_lowercase()),
        Kind::Count => Key::Number(value.parse().ok()?),
        Kind::Rate => Key::Number(tenths(value.parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0)?)),
        Kind::Time => Key::Number(u64::try_from(args::duration(value).ok()?.as_micros()).ok()?),
    })
}

fn unfit(name: &str, column: Column, value: &str) -> Problem {
    let (what, example) = match column.kind {
        Kind::Time => ("a duration", "10s"),
        _ => ("a number", "3"),
    };
    Problem::new(Code::Usage, format!("`{value}` is not {what}"))
        .because(format!("the column {name} is compared as {what}"))
        .try_next(format!("--where '{name}>{example}', or {name}~PART to look inside what the table shows"))
}
