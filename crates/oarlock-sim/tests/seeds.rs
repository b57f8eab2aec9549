//! A few seeds in every test run; `cargo xtask sim` runs hundreds.

use oarlock_sim::check::judge;
use oarlock_sim::history::{Rules, read_lines, write_line};
use oarlock_sim::{Options, run, run_circuits, run_with_history};

/// Seeds in which keys change.
const KEYS_CHANGE: [u64; 4] = [902, 911, 930, 962];

fn short() -> Options {
    Options { seconds: 34, ..Options::default() }
}

#[track_caller]
fn clean(seed: u64, options: &Options) {
    let report = run(seed, options);
    assert!(report.findings.is_empty(), "{report}");
    assert!(report.load.grants > 1_000, "hardly anything happened: {:?}", report.load);
}

#[test]
fn clusters_in_storms_keep_their_promises() {
    // I1, I4-I8, I10, R6 over everything that clients see; FT1, FT4-FT15, FT25 as the seeds draw them.
    for seed in 900..904 {
        clean(seed, &Options { segments: Some(false), ..short() });
    }
}

#[test]
fn programs_that_grant_themselves_keep_the_same_promises() {
    // The same, and M1, M5, M10, M12, M13, L1: the caller's side between any two events, on nodes that stand still for
    // longer than their lease, with programs that die in any state and areas that are used again.
    let (mut by_entry, mut lapsed) = (0, 0);
    for seed in 904..908 {
        let report = run(seed, &Options { segments: Some(true), ..short() });
        assert!(report.findings.is_empty(), "{report}");
        (by_entry, lapsed) = (by_entry + report.load.by_entry, lapsed + report.load.lapsed);
    }
    assert!(
        by_entry > 10_000 && lapsed > 0,
        "{by_entry} grants by entry, {lapsed} sessions lost with a lease"
    );
}

/// I20, I23: when the storm ends for a majority only, that majority grants within detection, fence and five seconds, nobody of
/// it is put out, and all that it was asked for is answered, whatever the others do for the rest of the run.
#[test]
fn a_majority_goes_on_beside_nodes_that_stay_broken() {
    let mut judged = 0;
    for seed in 920..926 {
        let options = Options { liveness: Some(true), ..short() };
        let report = run(seed, &options);
        assert!(report.findings.is_empty(), "{report}");
        assert!(report.liveness && report.load.grants > 500, "hardly anything happened: {:?}", report.load);
        judged += report.load.verdicts_judged;
    }
    assert!(judged > 0, "no verdict beside a sound member");
}

/// FT27: nodes change their keys in the middle of storms. Nobody is put out for it, everything that is promised holds, and each
/// change comes to its end.
#[test]
fn ft27_nodes_that_change_their_keys_in_storms_keep_the_same_promises() {
    let (mut changed, mut retired) = (0, 0);
    for seed in KEYS_CHANGE {
        let report = run(seed, &short());
        assert!(report.findings.is_empty(), "{report}");
        assert!(report.load.keys_changed > 0, "seed {seed} changes no key: {:?}", report.load);
        (changed, retired) = (changed + report.load.keys_changed, retired + report.load.keys_retired);
    }
    assert!(retired > 0, "{retired} of {changed}");
}

#[test]
fn clusters_of_other_sizes_do_too() {
    clean(41, &Options { nodes: 2, processes: 16, ..short() });
    clean(42, &Options { nodes: 3, processes: 24, ..short() });
    clean(43, &Options { nodes: 9, processes: 45, ..short() });
}

#[test]
fn a_seed_is_a_run_byte_for_byte() {
    let options = Options { seconds: 20, ..Options::default() };
    let (first, second) = (run(5, &options), run(5, &options));
    assert_eq!((first.trace, first.load), (second.trace, second.load));
    assert_ne!(first.trace, run(6, &options).trace);
    // Segments are memory and their programs call by call: no hash of theirs, no address shows.
    let shared = Options { segments: Some(true), seconds: 16, ..Options::default() };
    let (first, second) = (run(5, &shared), run(5, &shared));
    assert_eq!((first.trace, first.load), (second.trace, second.load));
}

#[test]
fn an_exported_history_is_judged_like_the_run() {
    let options = Options { seconds: 16, keep_history: true, segments: Some(true), ..Options::default() };
    let (report, events) = run_with_history(8, &options);
    let events = events.expect("it was kept");
    assert!(report.findings.is_empty(), "{report}");
    let text: String = events.iter().map(|event| write_line(event) + "\n").collect();
    let mut read = read_lines(&text).expect("our own lines");
    assert_eq!(read, events);
    let rules = Rules::simulated(options.nodes, vec![false, true]);
    assert_eq!(judge(&rules, &read), []);
    // And the judge is awake: without the releases there are two holders everywhere.
    read.retain(|event| {
        !["unlock", "released"].iter().any(|w| write_line(event).contains(&format!("\"{w}\"")))
    });
    assert!(judge(&rules, &read).iter().any(|finding| finding.checker == "exclusion"));
}

#[test]
fn circuits_deliver_a_gapless_prefix_in_any_weather() {
    // A5, A8, A9, I9, I10: up to 30 % loss, 10 % copies, 5 % flips, cuts, replays, and runs that begin again.
    let (mut delivered, mut restarts) = (0, 0);
    for seed in 1..9 {
        let passages = run_circuits(seed, 3, 20);
        assert!(passages.findings.is_empty(), "seed {seed}: {}", passages.findings[0]);
        assert!(passages.harmed > 100);
        delivered += passages.delivered;
        restarts += passages.restarts;
    }
    assert!(delivered > 5_000 && restarts > 10, "{delivered} delivered, {restarts} restarts");
    assert_eq!(run_circuits(3, 3, 5), run_circuits(3, 3, 5));
}

#[test]
fn the_standard_load_is_reached() {
    // 500 lock calls, 20 converts or cancels, 2 deaths and 1 fault a second; most seeds must count.
    let counted = (20..24).filter(|seed| run(*seed, &Options::default()).missed_load().is_none()).count();
    assert!(counted >= 3, "only {counted} of 4 seeds count");
}
