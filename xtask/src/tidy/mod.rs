//! `cargo xtask tidy`: the house rules that the compiler does not check, each fault with its place.
//!
//! ```text
//!   tree.rs        every file of the working tree, read once
//!   mask.rs        Rust text without its comments and strings, so that words in prose are no code
//!   sources.rs     words, unsafe, length, white space, reasons for what is ignored
//!   ids.rs         docs/mechanisms.md: code and tests exist, tests name their id
//!   items.rs       definitions in Rust text
//!   pages.rs       links between pages, and that each page can be found
//!   manifests.rs   dependencies: reasons, bans, licences (licence.rs)
//! ```

mod ids;
mod items;
mod licence;
mod manifests;
mod mask;
mod pages;
mod sources;
mod tree;

use crate::ci::Outcome;
use crate::context::{Context, Failure};
use crate::{header, layout};
use tree::Tree;

/// Faults found so far.
#[derive(Default)]
pub(crate) struct Faults {
    lines: Vec<String>,
    warnings: Vec<String>,
}

impl Faults {
    /// Something is wrong at a line (counted from 1; 0 for the file as a whole).
    pub(crate) fn add(&mut self, path: &str, line: usize, what: impl std::fmt::Display) {
        self.lines.push(place(path, line, what));
    }

    /// Something will be wrong soon.
    pub(crate) fn warn(&mut self, path: &str, line: usize, what: impl std::fmt::Display) {
        self.warnings.push(place(path, line, what));
    }
}

fn place(path: &str, line: usize, what: impl std::fmt::Display) -> String {
    if line == 0 { format!("{path}: {what}") } else { format!("{path}:{line}: {what}") }
}

/// As a part of `ci`.
pub(crate) fn part(context: &Context) -> Outcome {
    Outcome::noted(check(context))
}

/// Prints which items and tests name each mechanism id.
pub(crate) fn list_ids(context: &Context) -> Result<String, Failure> {
    ids::list(&Tree::read(&context.root)?);
    Ok("done".into())
}

/// Everything.
pub(crate) fn check(context: &Context) -> Result<String, Failure> {
    let tree = Tree::read(&context.root)?;
    let mut faults = Faults::default();
    sources::check(&tree, &mut faults);
    ids::check(&tree, &mut faults);
    pages::check(&tree, &mut faults);
    if tree.get(layout::PAGE).is_none_or(|page| Ok(&page.text) != layout::page(context).as_ref()) {
        faults.add(layout::PAGE, 0, "out of date; run cargo xtask layout");
    }
    if tree.get(header::HEADER).is_none_or(|page| Ok(&page.text) != header::header(context).as_ref()) {
        faults.add(header::HEADER, 0, "out of date; run cargo xtask header");
    }
    manifests::check(&tree, &context.metadata()?, &mut faults);
    for line in &faults.warnings {
        println!("warning: {line}");
    }
    if faults.lines.is_empty() {
        return Ok(format!("{} files", tree.files.len()));
    }
    faults.lines.sort();
    Err(format!("{} faults of tidiness\n{}", faults.lines.len(), faults.lines.join("\n")))
}
