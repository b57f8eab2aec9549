//! Pages: every link leads somewhere, and a reader who starts at the front finds every page.

use std::collections::BTreeSet;

use super::Faults;
use super::tree::{File, Tree};

/// Where readers start.
const FRONT: &[&str] = &["README.md", "ARCHITECTURE.md"];

pub(super) fn check(tree: &Tree, faults: &mut Faults) {
    for page in tree.ending(".md") {
        for link in links(page) {
            if let Err(why) = resolve(tree, &page.path, &link.target) {
                faults.add(&page.path, link.line, why);
            }
        }
    }
    let mut seen = BTreeSet::new();
    let mut open: Vec<String> = FRONT.iter().map(|p| p.to_string()).collect();
    while let Some(path) = open.pop() {
        let Some(page) = tree.get(&path) else { continue };
        if seen.insert(path) {
            open.extend(
                links(page).into_iter().filter_map(|l| resolve(tree, &page.path, &l.target).ok().flatten()),
            );
        }
    }
    for page in tree.ending(".md").filter(|p| !seen.contains(&p.path)) {
        faults.add(&page.path, 0, "no link from README.md or ARCHITECTURE.md leads here");
    }
}

/// A link in a page.
struct Link {
    line: usize,
    target: String,
}

/// `](target)` outside fenced and inline code.
fn links(page: &File) -> Vec<Link> {
    let mut links = Vec::new();
    let mut fenced = false;
    for (i, line) in page.text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        let prose: Vec<&str> = line.split('`').step_by(2).collect();
        for piece in prose.join("` `").split("](").skip(1) {
            let target: String = piece.chars().take_while(|c| *c != ')').collect();
            if !target.contains('`') {
                links.push(Link { line: i + 1, target });
            }
        }
    }
    links
}

/// The file a link leads to; none if it leads out of the project.
fn resolve(tree: &Tree, from: &str, target: &str) -> Result<Option<String>, String> {
    if target.starts_with("http://") || target.starts_with("https://") {
        return Ok(None);
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = if path.is_empty() { from.to_string() } else { joined(from, path) };
    let folder = format!("{}/", path.trim_end_matches('/'));
    let Some(page) = tree.get(&path) else {
        let is_folder = tree.files.iter().any(|f| f.path.starts_with(&folder));
        return if is_folder { Ok(None) } else { Err(format!("the link to {target} leads nowhere")) };
    };
    let mut headings = page.text.lines().filter(|l| l.starts_with('#')).map(slug);
    if !anchor.is_empty() && !headings.any(|s| s == anchor) {
        return Err(format!("{path} has no heading #{anchor}"));
    }
    Ok(Some(path))
}

/// A relative path seen from a file.
fn joined(from: &str, path: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The anchor that renderers make of a heading.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(pages: &[(&str, &str)]) -> Vec<String> {
        let mut files: Vec<File> =
            pages.iter().map(|(p, t)| File::new(p.to_string(), t.to_string())).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let mut faults = Faults::default();
        check(&Tree { files }, &mut faults);
        faults.lines
    }

    #[test]
    fn links_resolve_from_where_they_stand() {
        let front = ("README.md", "[a](docs/a.md#the-rule-c9) `[no](x.md)`\n```\n[no](y.md)\n```\n");
        assert_eq!(faults(&[front, ("docs/a.md", "# The rule (C9)\n[up](../README.md)\n")]), [""; 0]);
    }

    #[test]
    fn dead_links_wrong_anchors_and_lost_pages_are_faults() {
        assert_eq!(faults(&[("README.md", "[a](b.md)\n")]), ["README.md:1: the link to b.md leads nowhere"]);
        assert_eq!(
            faults(&[("README.md", "# Top\n[a](#bottom)\n")]),
            ["README.md:2: README.md has no heading #bottom"]
        );
        assert!(faults(&[("README.md", "x\n"), ("docs/a.md", "x\n")])[0].contains("docs/a.md: no link"));
    }
}
