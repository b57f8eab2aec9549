//! What every source file keeps to.

use super::Faults;
use super::tree::{File, Tree};
use crate::purity::PURE;

/// Longer files fail; the file with the central state of a room may come near.
const LINES_MAX: usize = 900;
/// From here on it is time to lift something out.
const LINES_WARN: usize = 600;

/// Words that stand for unfinished work or stray debugging. Put together here, so that this file passes.
const UNFINISHED: &[&str] = &[concat!("to", "do!"), concat!("unimple", "mented!"), concat!("db", "g!")];

/// Texts that point outside the project: it must stand alone.
const OUTSIDE: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/fa", "rm"),
    concat!("../sha", "red"),
    concat!("sha", "red/spec"),
    concat!("sha", "red/design"),
    concat!("house-", "style.md"),
    concat!("spec/", "protocol"),
    concat!("spec/", "mechanisms"),
];

/// Where `unsafe` may stand: the shared segment, the daemon's calls to the kernel, and what C hands over. The others are no
/// product: fuzz targets, and an allocator that counts what decoders take.
const UNSAFE_ALLOWED: &[&str] = &[
    "crates/oarlock-shm/",
    "crates/oarlockd/src/host/",
    "crates/oarlock-c/src/exports.rs",
    "crates/oarlock-c/src/pointers.rs",
    "crates/oarlock-dlm-c/src/exports.rs",
    "crates/oarlock-dlm-c/src/pointers.rs",
    // Names that are exported are promises to the linker.
    "crates/oarlock-libdlm/src/exports.rs",
    "crates/oarlock-libdlm-lt/src/exports.rs",
    "crates/oarlock-dlm-paths/src/exports.rs",
    "fuzz/",
    "crates/oarlock-layout/tests/corpus.rs",
    "bench/src/anchor/robust.rs",
    "bench/src/anchor/wake.rs",
];

/// Names of the operating system that a pure crate has no business with. Without `std` most of them do not
/// build anyway; this says it at the line.
const IMPURE: &[&str] = &[
    "std::",
    "Instant::now",
    "SystemTime",
    "thread::",
    "thread_local",
    "getrandom",
    "rand::",
    "RandomState",
];

/// The wall clock is set by people and programs, so no lease and no election may go by it (L9).
const WALL: &[&str] = &["SystemTime::now", "ClockId::Realtime", "wall_seconds", "wall_millis"];

/// Where it may not even be asked what time it is for people.
const DECIDES: &str = "crates/oarlockd/src/coordinator/";

pub(crate) fn check(tree: &Tree, faults: &mut Faults) {
    for file in &tree.files {
        white_space(file, faults);
        outside(file, faults);
    }
    for file in tree.ending(".rs") {
        unfinished(file, faults);
        unsafe_blocks(file, faults);
        length(file, faults);
        ignored(file, faults);
        commented_out(file, faults);
        root(file, faults);
        impure(file, faults);
        wall(file, faults);
    }
}

/// One place of the daemon reads the wall clock, and nothing that decides asks it.
fn wall(file: &File, faults: &mut Faults) {
    let daemon = file.path.starts_with("crates/oarlockd/src/");
    if !daemon || file.path == "crates/oarlockd/src/host/clock.rs" {
        return;
    }
    for (i, line) in file.product_lines() {
        let reads = WALL[..2].iter().find(|word| line.contains(**word));
        let asks = WALL[2..].iter().find(|word| line.contains(**word) && file.path.starts_with(DECIDES));
        if let Some(word) = reads.or(asks) {
            faults.add(&file.path, i, format!("{word}: the wall clock is for people, and decides nothing"));
        }
    }
}

fn white_space(file: &File, faults: &mut Faults) {
    if generated(&file.path) || file.text.is_empty() {
        return;
    }
    if !file.text.ends_with('\n') {
        faults.add(&file.path, file.text.lines().count(), "no line end at the end");
    }
    for (i, line) in file.text.lines().enumerate() {
        if line.contains('\t') {
            faults.add(&file.path, i + 1, "a tab; blanks are used here");
        }
        if line.ends_with(' ') {
            faults.add(&file.path, i + 1, "blanks at the end of the line");
        }
    }
}

/// Files whose bytes are not written by people: fuzz inputs, recorded failures, lock files.
fn generated(path: &str) -> bool {
    path.starts_with("fuzz/corpus/") || path.contains("proptest-regressions") || path.ends_with(".lock")
}

fn outside(file: &File, faults: &mut Faults) {
    if generated(&file.path) {
        return;
    }
    for (i, line) in file.text.lines().enumerate() {
        for word in OUTSIDE {
            let Some(at) = line.find(word) else { continue };
            // The middle of `some/work/place` is harmless; a path that begins at the root points out of the tree.
            let before = line[..at].chars().next_back();
            if !before.is_some_and(|c| c.is_alphanumeric() || c == '}' || c == '.') {
                faults.add(&file.path, i + 1, format!("points outside the project: {word}"));
            }
        }
    }
}

fn unfinished(file: &File, faults: &mut Faults) {
    for (i, line) in file.code.lines().enumerate() {
        for word in UNFINISHED {
            if line.contains(word) {
                faults.add(&file.path, i + 1, format!("{word} is unfinished work"));
            }
        }
    }
}

fn unsafe_blocks(file: &File, faults: &mut Faults) {
    let texts: Vec<&str> = file.text.lines().collect();
    for (i, line) in file.code.lines().enumerate() {
        if !words(line).any(|w| w == "unsafe") {
            continue;
        }
        if !UNSAFE_ALLOWED.iter().any(|allowed| file.path.starts_with(allowed)) {
            faults.add(
                &file.path,
                i + 1,
                "unsafe outside oarlock-shm, the daemon's host/, the C boundaries and the benchmark's anchors",
            );
        } else if !proved(&texts, i) {
            faults.add(&file.path, i + 1, "unsafe without a SAFETY comment above it");
        }
    }
}

/// Does a `SAFETY:` or `# Safety` comment stand in the lines directly above (comments, attributes, the start
/// of the same statement)?
fn proved(texts: &[&str], at: usize) -> bool {
    let above = texts[..=at].iter().rev().take(12);
    above.take_while(|l| !l.trim().is_empty()).any(|l| l.contains("SAFETY:") || l.contains("# Safety"))
}

fn length(file: &File, faults: &mut Faults) {
    let lines = file.text.lines().count();
    if lines > LINES_MAX {
        faults.add(
            &file.path,
            0,
            format!("{lines} lines; lift a part into a file of its own ({LINES_MAX} at most)"),
        );
    } else if lines > LINES_WARN {
        faults.warn(&file.path, 0, format!("{lines} lines; {LINES_MAX} at most"));
    }
}

fn ignored(file: &File, faults: &mut Faults) {
    for (i, line) in file.code.lines().enumerate() {
        if line.contains(concat!("#[ig", "nore]")) {
            faults.add(&file.path, i + 1, "an ignored test without a reason; write #[ignore = \"why\"]");
        }
    }
}

/// Two comment lines in a row that end like statements are code somebody wanted to keep: git keeps it.
fn commented_out(file: &File, faults: &mut Faults) {
    let code = |line: &str| {
        let Some(text) = line.trim().strip_prefix("// ") else { return false };
        text.ends_with(';') && (text.contains('(') || text.contains(" = ")) || text.ends_with(") {")
    };
    let lines: Vec<&str> = file.text.lines().collect();
    for (i, pair) in lines.windows(2).enumerate() {
        if code(pair[0]) && code(pair[1]) {
            faults.add(&file.path, i + 1, "code in a comment; delete it, git remembers");
        }
    }
}

/// Crate roots say what they may not do.
fn root(file: &File, faults: &mut Faults) {
    let parts: Vec<&str> = file.path.split('/').collect();
    let (crates, name) = match parts[..] {
        ["crates", name, "src", "lib.rs" | "main.rs"] => (true, name),
        [name @ ("bench" | "chaos" | "xtask"), "src", "lib.rs" | "main.rs"] => (false, name),
        _ => return,
    };
    // These hold unsafe in stated places; `unsafe_blocks` watches the places.
    let exempt = matches!(
        (crates, name),
        (true, "oarlock-shm" | "oarlockd" | "oarlock-c" | "oarlock-dlm-paths")
            | (true, "oarlock-dlm-c" | "oarlock-libdlm" | "oarlock-libdlm-lt")
            | (false, "bench")
    );
    let forbids = file.code.contains("#![forbid(unsafe_code)]")
        || exempt && file.code.contains("#![deny(unsafe_code)]");
    if !forbids && !exempt {
        faults.add(&file.path, 0, "the crate root lacks #![forbid(unsafe_code)]");
    }
    if PURE.iter().any(|p| p.0 == name) && !file.code.contains("#![cfg_attr(not(test), no_std)]") {
        faults.add(&file.path, 0, "a pure crate's root lacks #![cfg_attr(not(test), no_std)]");
    }
}

fn impure(file: &File, faults: &mut Faults) {
    let pure = |p: &(&str, _)| file.path.starts_with(&format!("crates/{}/src/", p.0));
    if !PURE.iter().any(pure) {
        return;
    }
    for (i, line) in file.product_lines() {
        for word in IMPURE {
            if line
                .match_indices(word)
                .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
            {
                faults.add(&file.path, i, format!("{word} in a pure crate"));
            }
        }
    }
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Faults of one file, as they would be printed.
    fn faults(path: &str, text: &str) -> Vec<String> {
        let mut faults = Faults::default();
        check(&Tree { files: vec![File::new(path.into(), text.into())] }, &mut faults);
        faults.lines
    }

    #[test]
    fn a_clean_file_has_no_faults() {
        assert_eq!(faults("crates/oarlock/src/x.rs", "//! Fine.\n\npub fn f() {}\n"), [""; 0]);
    }

    #[test]
    fn each_fault_is_named_with_its_line() {
        let bang = |name: &str| format!("fn f() {{\n    {name}()\n}}\n");
        for word in UNFINISHED {
            assert_eq!(faults("a.rs", &bang(word)), [format!("a.rs:2: {word} is unfinished work")]);
            assert_eq!(faults("a.rs", &format!("// {word} in prose\n")), [""; 0]);
        }
        assert!(faults("a.md", "x")[0].ends_with("no line end at the end"));
        assert!(faults("a.md", "\tx\n")[0].contains("a tab"));
        assert!(faults("a.md", "x \n")[0].contains("blanks at the end"));
        assert!(faults("a.md", concat!("see `/wo", "rk/x`\n"))[0].contains("points outside"));
        assert_eq!(faults("a.md", concat!("see `net/wo", "rk/x`\n")), [""; 0]);
        assert!(faults("a.rs", concat!("#[ig", "nore]\nfn f() {}\n"))[0].contains("without a reason"));
        assert!(faults("a.rs", "// let x = 1;\n// f(x);\n")[0].contains("code in a comment"));
        assert!(faults("a.rs", &"\n".repeat(LINES_MAX + 1))[0].contains("lift a part"));
    }

    #[test]
    fn unsafe_has_a_home_and_a_proof() {
        let bare = "fn f() {\n    unsafe { g() }\n}\n";
        let proved = "fn f() {\n    // SAFETY: g does nothing.\n    unsafe { g() }\n}\n";
        assert!(faults("crates/oarlock/src/x.rs", proved)[0].contains("unsafe outside"));
        assert!(faults("crates/oarlockd/src/host/x.rs", bare)[0].contains("without a SAFETY"));
        assert_eq!(faults("crates/oarlockd/src/host/x.rs", proved), [""; 0]);
        assert_eq!(faults("crates/oarlock/src/x.rs", "#![forbid(unsafe_code)]\n"), [""; 0]);
    }

    #[test]
    fn crate_roots_forbid_unsafe_and_pure_ones_std() {
        let lock = "crates/oarlock-lock/src/lib.rs";
        assert_eq!(faults(lock, "#![forbid(unsafe_code)]\n").len(), 1);
        assert_eq!(faults(lock, "#![cfg_attr(not(test), no_std)]\n").len(), 1);
        assert_eq!(faults(lock, "#![cfg_attr(not(test), no_std)]\n#![forbid(unsafe_code)]\n"), [""; 0]);
    }

    #[test]
    fn a_pure_crate_names_no_clock_but_its_tests_may() {
        let path = "crates/oarlock-lock/src/x.rs";
        assert!(faults(path, "use std::time::Instant;\n")[0].contains("std:: in a pure crate"));
        assert_eq!(faults(path, "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n"), [""; 0]);
        assert_eq!(faults("crates/oarlockd/src/x.rs", "use std::time::Instant;\n"), [""; 0]);
    }

    #[test]
    fn the_wall_clock_is_read_in_one_place_and_decides_nothing() {
        for word in WALL {
            let line = format!("fn f() -> u64 {{ {word}() }}\n");
            assert!(faults("crates/oarlockd/src/coordinator/x.rs", &line)[0].contains("decides nothing"));
            assert_eq!(faults("crates/oarlockd/src/host/clock.rs", &line), [""; 0]);
        }
        assert_eq!(faults("crates/oarlockd/src/engine/x.rs", "fn f() { wall_millis() }\n"), [""; 0]);
        assert_eq!(faults("crates/oarlockd/src/engine/x.rs", "fn f() { SystemTime::now() }\n").len(), 1);
    }
}
