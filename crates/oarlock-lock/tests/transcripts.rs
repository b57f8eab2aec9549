//! Runs the transcripts in `testdata/`: each tells one story about a resource in full, message by message.
//!
//! M8: the same happens whether locks stand in plain tables, in the node's own table beside a segment, or in entries of it.
//!
//! `OARLOCK_REWRITE=1 cargo test -p oarlock-lock --test transcripts` writes what happens now into the files;
//! read the difference before you commit it.

mod stage;

use std::fs;
use std::path::Path;

use stage::Over;

/// M8: the same over every kind of `Words`.
#[test]
fn transcripts_read_as_they_run() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let rewrite = std::env::var_os("OARLOCK_REWRITE").is_some();
    let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "txt"));
    files.sort();
    assert!(!files.is_empty(), "no transcripts in {}", dir.display());
    let mut different = Vec::new();
    for file in &files {
        let written = fs::read_to_string(file).unwrap();
        let run = stage::perform(&written, Over::Plain);
        for over in [Over::Hub, Over::Entries] {
            let other = stage::perform(&written, over);
            // On a way down a lock keeps its token. That of one in an entry its program remembers, not the node.
            let same = match over {
                Over::Entries => without_tokens(&other) == without_tokens(&run),
                _ => other == run,
            };
            if !same {
                let what = first_difference(&without_tokens(&run), &without_tokens(&other));
                different.push(format!("--- {} over {over:?}\n{what}", file.display()));
            }
        }
        if run != written {
            if rewrite {
                fs::write(file, &run).unwrap();
            } else {
                different.push(format!(
                    "--- {} as written\n{}",
                    file.display(),
                    first_difference(&written, &run)
                ));
            }
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

fn without_tokens(text: &str) -> String {
    let line = |line: &str| match line.split_once(" token ") {
        Some((before, after)) => format!("{before}{}\n", after.find(' ').map_or("", |at| &after[at..])),
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

fn first_difference(written: &str, run: &str) -> String {
    let pairs = written.lines().map(Some).chain(std::iter::repeat(None)).zip(run.lines());
    for (n, (a, b)) in pairs.enumerate() {
        if a != Some(b) {
            return format!(
                "line {}: written {:?}\n      but it is {b:?}\nall of it:\n{run}",
                n + 1,
                a.unwrap_or("(end)")
            );
        }
    }
    "the run is shorter than what is written".into()
}
