//! Peers and programs that say anything: the inputs that fuzzing kept, and random ones: a few, or as many as
//! `OARLOCK_HOSTILE_SEEDS=N` says.

mod feed;

use std::fs;
use std::path::Path;

use proptest::prelude::*;

#[test]
fn every_input_of_the_corpus_is_survived() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/room");
    let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut played = 0;
    for entry in entries {
        feed::room(&fs::read(entry.expect("an entry").path()).expect("a readable file"));
        played += 1;
    }
    assert!(played > 0, "the corpus is empty");
}

fn cases() -> u32 {
    std::env::var("OARLOCK_HOSTILE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(2_000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    /// A peer that holds a key may still lie: its misdeed is named, and nobody else suffers.
    #[test]
    fn whatever_a_peer_says_exclusion_holds_and_nothing_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        feed::room(&bytes);
    }

    /// The same where counts lie in a segment, and a foreign hand writes there.
    #[test]
    fn whatever_a_segment_says_exclusion_holds_outside_of_it_and_nothing_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        feed::shared(&bytes);
    }
}
