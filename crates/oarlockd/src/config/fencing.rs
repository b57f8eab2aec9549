//! `[fencing]`: what must come about before anything of a node that left is granted to others.
//!
//! ```toml
//! [fencing]
//! order = ["power", "switch"]          # the first that exits with 0 is enough
//!
//! [fencing.power]
//! command = "/usr/local/sbin/power-off"
//! timeout = "20s"
//! ```
//!
//! Without an order there is no fence: only the lease keeps away a node that left.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oarlock_layout::code::Code;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use toml::Spanned;

use super::{Source, label};
use crate::problem::{Problem, Result, did_you_mean};

/// How long a fence may take unless the configuration says otherwise: a machine that is switched off by its management
/// processor takes some seconds.
pub const TIMEOUT: Duration = Duration::from_secs(10);
const TIMEOUT_MIN: Duration = Duration::from_millis(100);
const TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// Fences that may stand in the order.
const METHODS_MAX: usize = 8;

/// A fence, ready to be run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Method {
    /// Its name.
    pub name: String,
    /// The program that brings it about.
    pub command: PathBuf,
    /// It has failed if it has not ended by then.
    pub timeout: Duration,
}

/// The section as it stands in the file: `order`, and a section for each fence.
#[derive(Default)]
pub(super) struct Section {
    order: Vec<Spanned<String>>,
    methods: BTreeMap<String, Spanned<Described>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    command: PathBuf,
    timeout: Option<Spanned<String>>,
}

impl<'de> Deserialize<'de> for Section {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Section, D::Error> {
        deserializer.deserialize_map(Sections)
    }
}

struct Sections;

impl<'de> Visitor<'de> for Sections {
    type Value = Section;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`order`, and a section for each fence")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Section, A::Error> {
        let mut section = Section::default();
        while let Some(key) = map.next_key::<String>()? {
            if key == "order" {
                section.order = map.next_value()?;
                continue;
            }
            let described = map.next_value().map_err(|e: A::Error| {
                // A value where a section should be: a key that there is not.
                match e.to_string().contains("struct Described") {
                    true => A::Error::unknown_field(&key, &["order"]),
                    false => e,
                }
            })?;
            section.methods.insert(key, described);
        }
        Ok(section)
    }
}

/// What the section means; commands with relative paths are looked for from `base`.
pub(super) fn methods(source: &Source<'_>, section: Section, base: &Path) -> Result<Vec<Method>> {
    let Section { order, mut methods } = section;
    let known: Vec<String> = methods.keys().cloned().collect();
    if order.len() > METHODS_MAX {
        let at = order[METHODS_MAX].span().start;
        return Err(source.bad(at, format_args!("more than {METHODS_MAX} fences")));
    }
    let mut found: Vec<Method> = Vec::new();
    for name in &order {
        label(source, name, "the name of a fence")?;
        let at = name.span().start;
        let (name, bad) = (name.get_ref(), |what: String| source.bad(at, what));
        if found.iter().any(|method| method.name == *name) {
            return Err(bad(format!("the fence `{name}` stands in the order twice")));
        }
        let Some(described) = methods.remove(name) else {
            let problem = bad(format!("there is no section [fencing.{name}]"))
                .because("every fence in the order has one, which says what it runs");
            return Err(match did_you_mean(name, known.iter().map(String::as_str)) {
                Some(meant) => problem.try_next(format!("did you mean `{meant}`?")),
                None => problem,
            });
        };
        let Described { command, timeout } = described.into_inner();
        let timeout = timeout.map_or(Ok(TIMEOUT), |text| time(source, &text))?;
        found.push(Method { name: name.clone(), command: base.join(command), timeout });
    }
    match methods.into_iter().next() {
        Some((name, described)) => Err(source
            .bad(described.span().start, format_args!("the fence `{name}` does not stand in the order"))
            .because("only what stands in `order` of [fencing] is run")
            .try_next(format!("order = [\"{name}\"], or leave the section out"))),
        None => Ok(found),
    }
}

fn time(source: &Source<'_>, text: &Spanned<String>) -> Result<Duration> {
    let bad = || {
        source
            .bad(text.span().start, format_args!("the timeout of a fence cannot be `{}`", text.get_ref()))
            .because("it is a time such as 10s, from 100ms to 10min")
    };
    let time = humantime::parse_duration(text.get_ref()).map_err(|_| bad())?;
    if (TIMEOUT_MIN..=TIMEOUT_MAX).contains(&time) { Ok(time) } else { Err(bad()) }
}

/// The programs are there and may be run: better to hear of it now than when a node has died.
pub fn check(methods: &[Method]) -> Result<()> {
    for Method { name, command, .. } in methods {
        rustix::fs::access(command, rustix::fs::Access::EXEC_OK).map_err(|e| {
            let what = format!("the fence `{name}` cannot run {}", command.display());
            Problem::io(Code::BadConfig, what, &e.into())
                .try_next("the path of a program that this user may run; see docs/operating.md on fencing")
        })?;
    }
    Ok(())
}
