//! `oarlock story`: storyboards checked, simulated, and played on real nodes.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::run;

fn stories() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../stories");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn named(name: &str) -> String {
    let file = stories().into_iter().find(|path| path.file_stem().is_some_and(|stem| stem == name));
    file.unwrap_or_else(|| panic!("no storyboard {name}")).display().to_string()
}

/// A storyboard of one flow.
struct Written {
    _dir: tempfile::TempDir,
    path: String,
}

fn written(node: &str, rows: &[&str]) -> Written {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.md");
    let text =
        format!("# s\n## flow a{node}\n| state | on | do | next |\n| - | - | - | - |\n{}\n", rows.join("\n"));
    fs::write(&path, text).unwrap();
    Written { path: path.display().to_string(), _dir: dir }
}

#[test]
fn every_storyboard_makes_sense_and_a_bad_one_is_told_line_by_line() {
    let files: Vec<String> = stories().iter().map(|path| path.display().to_string()).collect();
    let args = ["story", "check"].into_iter().map(String::from).chain(files);
    run(args).expect(0, &["makes sense", "a-try-is-answered.md"]);
    let bad = written(
        " at node-a",
        &[
            "| s | - | lock r EX | t |",
            "| t | granted r | - | u |",
            "| t | answered r | raise x | done |",
            "| v | y | - | done |",
        ],
    );
    let said = run(["story", "check", &bad.path]);
    let said = said.expect(2, &["OAR-1402", "OAR-1403", "OAR-1404", "OAR-1405", "OAR-1406"]);
    for place in ["s.md:6: flow a: there is no state u", "s.md:7: ", "s.md:8: nobody raises y"] {
        assert!(said.err.contains(place), "{place} is not in {}", said.err);
    }
    run(["story", "check", "no-such-file.md"]).expect(1, &["OAR-1002", "no-such-file.md"]);
}

/// S5, with the binary that people have.
#[test]
fn a_simulated_play_is_the_same_each_time() {
    let file = named("fencing-tokens-rise");
    let play = |seed: &str| {
        run(["story", "run", &file, "--sim", seed, "--trace"]).expect(0, &["came true", "trace"])
    };
    assert_eq!(play("7").out, play("7").out);
    assert_ne!(play("7").out, play("8").out);
    run(["story", "run", &file, "--sim", "7", "--dev"]).expect(2, &["cannot be used with"]);
}

/// S7: on processes with sockets, signals and a kernel's clock.
#[test]
fn storyboards_come_true_on_real_nodes() {
    for name in [
        "a-newcomer-waits-behind-a-waiter",
        "a-node-that-stands-still-is-waited-for",
        "a-dead-writer-leaves-an-invalid-block",
        "a-try-is-answered",
        "fencing-tokens-rise",
        "of-two-conversions-the-later-is-refused",
        "who-is-killed-while-it-waits-is-withdrawn",
        "a-minority-loses-what-it-holds",
        "of-two-that-do-not-hear-each-other-one-goes",
        "silence-loses-nothing",
        "the-block-of-a-dead-node-is-marked",
        "who-comes-back-disturbs-nobody",
        "dead-readers-change-nothing",
        "a-new-master-takes-the-newest-block-of-the-survivors",
        "pr-and-cw-cross-a-dead-master",
        "a-rebuilt-queue-of-conversions-is-granted-without-order",
        "a-dead-engine-is-given-up-by-its-keeper",
        "a-node-is-drained-and-others-go-on-at-once",
        "who-leaves-and-who-joins-disturbs-nobody",
        "a-restart-storm-loses-no-token",
    ] {
        run(["story", "run", "--dev", &named(name)]).expect(0, &["came true", "on real nodes"]);
    }
}

#[test]
fn what_a_stage_cannot_do_is_said_before_the_play() {
    let counts = written(
        " at node-a",
        &["| s | - | lock r EX; wait r; expect counter nonsense at node-a == 0 | done |"],
    );
    run(["story", "run", "--dev", &counts.path]).expect(2, &["OAR-1407"]);
}

/// S8
#[test]
fn what_does_not_come_true_is_told_with_its_line_and_what_is_stuck_with_its_locks() {
    let wrong = written(" at node-a", &["| s | - | lock r EX; wait r; expect waiting r | done |"]);
    let said =
        run(["story", "run", &wrong.path]).expect(1, &["OAR-1408", "line 5, flow a: expected `waiting r`"]);
    assert!(said.out.contains("told: granted r EX"), "the trace: {}", said.out);
    let stuck = written(
        " at node-a",
        &[
            "| s | - | lock r EX; wait r; lock r EX NODLCKWT as again; expect granted r | t |",
            "| t | granted again | - | done |",
        ],
    );
    run(["story", "run", &stuck.path]).expect(
        1,
        &["OAR-1409", "flow a, state t, line 6: waits for `granted again`", "lock a.again waits for EX on r"],
    );
}
