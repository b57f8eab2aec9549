//! Peers and programs that say anything: the inputs that fuzzing kept, and random ones.

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

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// A peer that holds a key may still lie: its misdeed is named, and nobody else suffers.
    #[test]
    fn whatever_a_peer_says_exclusion_holds_and_nothing_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        feed::room(&bytes);
    }
}
