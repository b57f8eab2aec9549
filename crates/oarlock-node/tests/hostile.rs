//! Programs that send anything: the inputs that fuzzing kept, and random ones: a few, or as many as
//! `OARLOCK_HOSTILE_SEEDS=N` says.

mod feed;

use std::fs;
use std::path::Path;

#[test]
fn every_input_of_the_corpus_is_survived() {
    let (mut nodes, mut shared) = (0, 0);
    for bytes in corpus("node") {
        feed::node(&bytes);
        nodes += 1;
    }
    for bytes in corpus("segment") {
        if let Some((b'n', bytes)) = bytes.split_first() {
            feed::shared(bytes);
            shared += 1;
        }
    }
    assert!(nodes > 0 && shared > 0, "a corpus is empty");
}

fn corpus(target: &str) -> impl Iterator<Item = Vec<u8>> + use<> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    entries.map(|entry| fs::read(entry.expect("an entry").path()).expect("a readable file"))
}

/// The same from bytes that nobody chose, a fixed thousand of them.
#[test]
fn a_thousand_careless_programs_are_survived() {
    random(1_000, feed::node);
}

/// And with a segment into which they and others write.
#[test]
fn programs_that_write_into_a_segment_are_survived() {
    let seeds = std::env::var("OARLOCK_HOSTILE_SEEDS").ok().and_then(|n| n.parse().ok());
    random(seeds.unwrap_or(3_000), feed::shared);
}

fn random(count: usize, play: fn(&[u8])) {
    let mut state = 0x0a51_0c4b_u64;
    for length in 0..count {
        let bytes: Vec<u8> = (0..length % 1_000)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        play(&bytes);
    }
}
