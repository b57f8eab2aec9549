//! `docs/mechanisms.md` keeps its word: each id has code that exists and a test that exists and names it. The
//! same for the tests of `docs/scenarios.md`.

use std::collections::{BTreeMap, BTreeSet};

use super::Faults;
use super::items::{self, Item};
use super::tree::{File, Tree};

/// A page whose rows promise something of the code.
struct Page {
    path: &'static str,
    /// Rows say which code does it, not only which test shows it.
    has_code: bool,
    /// What stands before the id where a text names it; none if ids are words of their own.
    prefix: &'static str,
    /// Ids that must be built by now; their rows may not say `later`.
    needed: &'static str,
    /// Ids whose rows must exist, with whatever state.
    known: &'static str,
}

/// Both pages.
const PAGES: [Page; 2] = [
    Page {
        path: "docs/mechanisms.md",
        has_code: true,
        prefix: "",
        needed: "A1-A10 C1-C17 C19 D9 E1-E9 X1-X12 3.1-3.7 3.9 R0-R6 R8-R12 M1-M14 L1-L3 L5-L8 L10 L11 S1-S8 T",
        known: "A1-A10 C1-C21 D1-D9 E1-E10 X1-X12 3.1-3.9 R0-R12 M1-M14 L1-L11 S1-S8 T",
    },
    Page {
        path: "docs/scenarios.md",
        has_code: false,
        prefix: "scenario ",
        needed: "1-4 7-15 17-20 22-24 26-30 32-36 50 54 57-62",
        known: "1-68",
    },
];

/// One row of the table.
struct Row {
    line: usize,
    id: String,
    code: Vec<Place>,
    test: Vec<Place>,
    state: String,
}

/// A file and what to find in it; only the file for a transcript.
#[derive(Debug, PartialEq)]
struct Place {
    path: String,
    items: Vec<String>,
}

pub(super) fn check(tree: &Tree, faults: &mut Faults) {
    for page in &PAGES {
        check_page(tree, page, faults);
    }
}

fn check_page(tree: &Tree, page: &Page, faults: &mut Faults) {
    let Some(file) = tree.get(page.path) else {
        faults.add(page.path, 0, "missing");
        return;
    };
    let rows = rows(page, &file.text, faults);
    let mut by_id = BTreeMap::new();
    for row in &rows {
        if by_id.insert(row.id.as_str(), row).is_some() {
            faults.add(page.path, row.line, format!("{} has a second row", row.id));
        }
        check_row(tree, page, row, faults);
    }
    for id in ids(page.known) {
        if !by_id.contains_key(id.as_str()) {
            faults.add(page.path, 0, format!("{id} has no row"));
        }
    }
    for id in ids(page.needed) {
        if let Some(row) = by_id.get(id.as_str())
            && row.state == "later"
        {
            faults.add(page.path, row.line, format!("{id} is needed now; its row says later"));
        }
    }
}

fn check_row(tree: &Tree, page: &Page, row: &Row, faults: &mut Faults) {
    let full = format!("{}{}", page.prefix, row.id);
    let built = match row.state.split(':').next().unwrap_or_default() {
        "done" | "part" => true,
        "later" => false,
        other => {
            faults.add(page.path, row.line, format!("{}: no known state: {other}", row.id));
            return;
        }
    };
    if built == row.test.is_empty() || page.has_code && built == row.code.is_empty() {
        faults.add(
            page.path,
            row.line,
            format!("{}: {} and its code and test do not fit", row.id, row.state),
        );
    }
    for place in &row.code {
        let Some(file) = found(tree, page, row, place, faults) else { continue };
        for item in &place.items {
            if !item.split("::").all(|name| items::defines(&file.code, name)) {
                faults.add(page.path, row.line, format!("{}: {} has no {item}", row.id, place.path));
            }
        }
    }
    for place in &row.test {
        let Some(file) = found(tree, page, row, place, faults) else { continue };
        if place.items.is_empty() && !names(&file.text, &full) {
            faults.add(page.path, row.line, format!("{}: {} does not name it", row.id, place.path));
        }
        for name in &place.items {
            match items::functions(file).into_iter().find(|f| f.name == *name && f.test) {
                None => {
                    faults.add(page.path, row.line, format!("{}: {} has no test {name}", row.id, place.path))
                }
                Some(test) if !names(test.text, &full) && !names(&spoken(&test.name), &full) => {
                    faults.add(
                        page.path,
                        row.line,
                        format!("{}: test {name} in {} does not name it", row.id, place.path),
                    );
                }
                Some(_) => {}
            }
        }
    }
}

fn found<'t>(tree: &'t Tree, page: &Page, row: &Row, place: &Place, faults: &mut Faults) -> Option<&'t File> {
    let file = tree.get(&place.path);
    if file.is_none() {
        faults.add(page.path, row.line, format!("{}: there is no {}", row.id, place.path));
    }
    file
}

/// Reads the rows of all tables; the header and the ruler are no rows.
fn rows(page: &Page, text: &str, faults: &mut Faults) -> Vec<Row> {
    let mut rows = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let Some(inner) = line.strip_prefix("| ").and_then(|l| l.strip_suffix(" |")) else { continue };
        let cells: Vec<&str> = inner.split(" | ").map(str::trim).collect();
        if cells[0] == "id" || cells[0].starts_with('-') {
            continue;
        }
        let (id, code, test, state) = match cells[..] {
            [id, _, code, test, state] if page.has_code => (id, code, test, state),
            [id, _, test, state] if !page.has_code => (id, "", test, state),
            _ => {
                faults.add(
                    page.path,
                    i + 1,
                    format!("a row with {} cells; see the head of the table", cells.len()),
                );
                continue;
            }
        };
        rows.push(Row {
            line: i + 1,
            id: id.into(),
            code: places(code),
            test: places(test),
            state: state.into(),
        });
    }
    rows
}

/// Reads `` `path` `item` `item`, `path` `item` ``: what holds a `/` is a path, the rest are items in it.
fn places(cell: &str) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    for word in cell.split('`').skip(1).step_by(2) {
        match places.last_mut() {
            Some(place) if !word.contains('/') => place.items.push(word.into()),
            _ => places.push(Place { path: word.into(), items: Vec::new() }),
        }
    }
    places
}

/// Spells out `A1-A3 T`.
fn ids(ranges: &str) -> Vec<String> {
    let mut ids = Vec::new();
    for range in ranges.split(' ') {
        let Some((first, last)) = range.split_once('-') else {
            ids.push(range.to_string());
            continue;
        };
        let digits = first.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let (prefix, from) = first.split_at(digits);
        let number = |text: &str| text.parse::<u32>().expect("a range of ids ends in numbers");
        let to = number(last.strip_prefix(prefix).expect("both ends of a range have one prefix"));
        ids.extend((number(from)..=to).map(|n| format!("{prefix}{n}")));
    }
    ids
}

/// Does the text name the id as a word of its own? `A1` is not named by `A10`; ranges like `A1-A4`, `A1 to A4`
/// name what lies between.
fn names(text: &str, id: &str) -> bool {
    mentioned(text).contains(id)
}

/// A function's name as prose: `a5_a9_loss_changes_nothing` names A5 and A9.
fn spoken(name: &str) -> String {
    name.to_uppercase().replace('_', " ").replace("SCENARIO", "scenario")
}

/// Every id a text names.
fn mentioned(text: &str) -> BTreeSet<String> {
    let mut found = scenarios(text);
    let word = |c: char| c.is_ascii_alphanumeric() || c == '.';
    let words: Vec<&str> = text.split(|c: char| !word(c) && c != '-').collect();
    for (i, piece) in words.iter().enumerate() {
        let mut ends = piece.split('-').map(|end| end.trim_matches('.'));
        let first = ends.next().unwrap_or_default();
        if !is_id(first) {
            continue;
        }
        found.insert(first.to_string());
        let last = ends.next().or_else(|| {
            let to = words.get(i + 1).is_some_and(|w| *w == "to");
            words.get(i + 2).filter(|_| to).map(|w| w.trim_matches('.'))
        });
        let prefix = first.trim_end_matches(|c: char| c.is_ascii_digit());
        if let Some(last) = last.filter(|l| is_id(l) && l.starts_with(prefix) && l.len() < 6) {
            found.extend(ids(&format!("{first}-{last}")));
        }
    }
    found
}

/// Scenarios that a text names, as `scenario 7`: it may say `Scenario 7`, `scenarios 7, 8 and 10` or
/// `scenarios 7-10`; a transcript may carry the number in a heading of this kind as well.
fn scenarios(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for piece in text.split("cenario").skip(1) {
        let piece = piece.strip_prefix('s').unwrap_or(piece);
        // A comment's marks may stand where a line ends inside the list.
        let words = piece.split(|c: char| c.is_whitespace() || ",/".contains(c));
        let mut last = None;
        let mut through = false;
        for word in words.filter(|w| !["", "!", "and", "or"].contains(w)) {
            if word == "to" {
                through = true;
                continue;
            }
            let bare = word.trim_end_matches(|c: char| "):;.".contains(c));
            let (from, to) = bare.split_once('-').unwrap_or((bare, bare));
            let (Ok(from), Ok(to)) = (from.parse::<u32>(), to.parse::<u32>()) else { break };
            let from = last.filter(|_| through).unwrap_or(from);
            found.extend((from..=to.min(99)).map(|n| format!("scenario {n}")));
            if bare != word {
                break;
            }
            (last, through) = (Some(to), false);
        }
    }
    found
}

fn is_id(word: &str) -> bool {
    let mut chars = word.chars();
    match chars.next() {
        Some('T') if word.len() == 1 => true,
        Some('3') => {
            word.strip_prefix("3.").is_some_and(|n| n.len() == 1 && n != "0" && n.parse::<u8>().is_ok())
        }
        Some('A' | 'C' | 'D' | 'E' | 'X' | 'R' | 'M' | 'L' | 'S') => {
            (2..4).contains(&word.len()) && chars.all(|c| c.is_ascii_digit())
        }
        _ => false,
    }
}

/// For `tidy --ids`: which items and tests name each id, to fill the table from.
pub(super) fn list(tree: &Tree) {
    let mut code: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut tests: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in tree.files.iter().filter(|f| f.path.starts_with("crates/") || f.path.starts_with("fuzz/")) {
        let rust = file.path.ends_with(".rs");
        let functions = if rust { items::functions(file) } else { Vec::new() };
        if rust {
            for Item { name, text, test } in &functions {
                let list = if *test { &mut tests } else { &mut code };
                for id in mentioned(text).into_iter().chain(mentioned(&spoken(name))).collect::<BTreeSet<_>>()
                {
                    list.entry(id).or_default().push(format!("`{}` `{name}`", file.path));
                }
            }
            for id in mentioned(&file.text) {
                let inside = |list: &BTreeMap<String, Vec<String>>| {
                    list.get(&id)
                        .is_some_and(|l| l.iter().any(|p| p.starts_with(&format!("`{}`", file.path))))
                };
                if !inside(&code) && !inside(&tests) {
                    code.entry(id).or_default().push(format!("`{}`", file.path));
                }
            }
        } else if file.path.contains("/testdata/") {
            for id in mentioned(&file.text) {
                tests.entry(id).or_default().push(format!("`{}`", file.path));
            }
        }
    }
    let all =
        PAGES.iter().flat_map(|page| ids(page.known).into_iter().map(|id| format!("{}{id}", page.prefix)));
    for id in all {
        println!("{id}");
        for (kind, list) in [("code", &code), ("test", &tests)] {
            for place in list.get(&id).into_iter().flatten() {
                println!("  {kind}  {place}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = PAGES[0].path;

    fn tree(row: &str) -> Tree {
        let code = "pub struct Queue;\nimpl Queue {\n    pub fn scan(&self) {}\n}\n";
        let test =
            "/// Shows C9 and X1-X3.\n#[test]\nfn a_scan_grants_all() {}\n\nfn helper_c9() { /* C9 */ }\n";
        let files =
            [("crates/a.rs", code), ("crates/t.rs", test), ("crates/x.txt", "shows C13\n"), (PAGE, row)];
        Tree { files: files.map(|(path, text)| File::new(path.into(), text.into())).into() }
    }

    /// Faults of a page that holds only this row, without those about missing rows.
    fn faults(row: &str) -> Vec<String> {
        let mut faults = Faults::default();
        check(&tree(&format!("{row}\n")), &mut faults);
        faults.lines.into_iter().filter(|l| l.starts_with(PAGE) && !l.contains("has no row")).collect()
    }

    #[test]
    fn a_row_whose_code_and_test_exist_is_fine() {
        assert_eq!(
            faults("| C9 | x | `crates/a.rs` `Queue::scan` | `crates/t.rs` `a_scan_grants_all` | done |"),
            [""; 0]
        );
        assert_eq!(faults("| C13 | x | `crates/a.rs` `Queue` | `crates/x.txt` | part: no head |"), [""; 0]);
        assert_eq!(
            faults("| X2 | x | `crates/a.rs` `Queue` | `crates/t.rs` `a_scan_grants_all` | done |"),
            [""; 0]
        );
        assert_eq!(faults("| C18 | x | - | - | later |"), [""; 0]);
    }

    #[test]
    fn a_row_that_promises_too_much_is_named() {
        let has = |row: &str, what: &str| {
            let faults = faults(row);
            assert!(faults.iter().any(|f| f.contains(what)), "{what}: {faults:?}");
        };
        has("| C9 | x | `crates/b.rs` `Queue` | `crates/x.txt` | done |", "no crates/b.rs");
        has("| C9 | x | `crates/a.rs` `Queue::drop` | `crates/x.txt` | done |", "no Queue::drop");
        has("| C9 | x | `crates/a.rs` `Queue` | `crates/t.rs` `other` | done |", "no test other");
        has("| C9 | x | `crates/a.rs` `Queue` | `crates/t.rs` `helper_c9` | done |", "no test helper_c9");
        has(
            "| C8 | x | `crates/a.rs` `Queue` | `crates/t.rs` `a_scan_grants_all` | done |",
            "does not name it",
        );
        has("| C9 | x | `crates/a.rs` `Queue` | `crates/x.txt` | done |", "does not name it");
        has("| C9 | x | - | - | done |", "do not fit");
        has("| C9 | x | - | - | later |", "needed now");
        has("| C9 | x | - | - | open |", "no known state");
    }

    #[test]
    fn scenarios_are_held_to_the_same() {
        let faults = |row: &str| {
            let test = "/// Scenarios 7 and 8.\n#[test]\nfn a_convert_goes_first() {}\n";
            let files = [("crates/t.rs", test), (PAGES[1].path, row)];
            let files = files.map(|(path, text)| File::new(path.into(), text.into())).into();
            let mut faults = Faults::default();
            check(&Tree { files }, &mut faults);
            faults.lines.retain(|l| l.starts_with(PAGES[1].path) && !l.contains("has no row"));
            faults.lines
        };
        assert_eq!(faults("| 8 | x | `crates/t.rs` `a_convert_goes_first` | done |\n"), [""; 0]);
        assert!(
            faults("| 9 | x | `crates/t.rs` `a_convert_goes_first` | done |\n")[0]
                .contains("does not name it")
        );
        assert!(faults("| 9 | x | - | later |\n")[0].contains("needed now"));
    }

    #[test]
    fn an_id_without_a_row_is_a_fault() {
        let mut faults = Faults::default();
        check(&tree(""), &mut faults);
        assert!(faults.lines.contains(&format!("{PAGE}: X12 has no row")));
    }

    #[test]
    fn ids_are_words_and_ranges_count() {
        let ids = |text| mentioned(text).into_iter().collect::<Vec<_>>();
        assert_eq!(ids("see A10, C13; (X1-X3) and 3.4."), ["3.4", "A10", "C13", "X1", "X2", "X3"]);
        assert_eq!(ids("scenarios R0 to R2"), ["R0", "R1", "R2"]);
        assert_eq!(ids("AES-128, CR, EX, B12, 13.45, M"), [""; 0]);
        assert_eq!(ids("Scenario 7. 8 nodes"), ["scenario 7"]);
        assert_eq!(mentioned(&spoken("c1_a_cover_of_scenario_7_holds")).len(), 2);
        assert_eq!(
            ids("(scenarios 7, 9 and 11-12) 13"),
            ["11", "12", "7", "9"].map(|n| format!("scenario {n}"))
        );
        assert_eq!(ids("// scenarios 57 to\n/// 59"), ["57", "58", "59"].map(|n| format!("scenario {n}")));
    }
}
