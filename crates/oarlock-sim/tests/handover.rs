//! A node's state in writing (L5): whoever goes on from it is the same run, and nobody can tell.

use oarlock_sim::coverage::Stage;
use oarlock_sim::swarm::FaultKind;
use oarlock_sim::{Options, run, run_with_history};

/// L5, FT28: storms in which engines are handed over now and then keep every promise; no lock is lost by it, whatever the node
/// was about to do.
#[test]
fn engines_are_handed_over_in_storms() {
    let (mut handovers, mut met) = (0, [0; 5]);
    for seed in 940..952 {
        let report = run(seed, &Options { seconds: 34, handovers: Some(true), ..Options::default() });
        assert!(report.findings.is_empty(), "{report}");
        handovers += report.load.handovers;
        let stages = [Stage::Open, Stage::Holding, Stage::Queued, Stage::Converting, Stage::Writing];
        for (n, stage) in stages.into_iter().enumerate() {
            met[n] += report.coverage.cell(FaultKind::HandOver, stage);
        }
    }
    assert!(handovers > 50 && met.iter().all(|n| *n > 5), "{handovers} handovers, in phases {met:?}");
}

/// L5: written down and read again between any two steps, a cluster in a storm does what it would have done: every datagram, every
/// answer and every word of every client are the same. And what was read writes the same bytes again, each time.
#[test]
fn who_goes_on_from_the_written_state_does_the_same_byte_for_byte() {
    for (seed, segments) in [(950, false), (951, true), (952, true)] {
        let plain = Options {
            seconds: 16,
            handovers: Some(false),
            segments: Some(segments),
            keep_history: true,
            ..Options::default()
        };
        let often = Options { rewrite: Some(37), ..plain.clone() };
        let (before, told) = run_with_history(seed, &plain);
        let (mut after, told_after) = run_with_history(seed, &often);
        assert!(after.findings.is_empty(), "{after}");
        assert!(after.load.handovers > 1_000, "only {} times", after.load.handovers);
        (after.load.handovers, after.load.handover_bytes) = (0, 0);
        assert!(told == told_after, "seed {seed}: the clients see another history");
        assert_eq!((before.trace, before.load), (after.trace, after.load), "seed {seed}");
    }
}
