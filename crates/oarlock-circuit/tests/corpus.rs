//! Replays the inputs that the fuzzers kept, and random ones, through the room.

mod feed;

use std::fs;
use std::path::Path;

use proptest::prelude::*;

#[test]
fn every_input_of_the_corpus_is_stood() {
    for (target, feed) in feed::TARGETS {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
        let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let mut inputs = 0;
        for entry in entries {
            feed(&fs::read(entry.expect("an entry").path()).expect("a readable file"));
            inputs += 1;
        }
        assert!(inputs > 0, "{target}: the corpus is empty");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_stood(bytes in prop::collection::vec(any::<u8>(), 0..1000)) {
        feed::TARGETS.iter().for_each(|(_, feed)| feed(&bytes));
    }

    /// Steps with lengths that fit, so that more of each input is meant.
    #[test]
    fn any_steps_are_stood(
        steps in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..60)), 0..40)
    ) {
        let mut input = Vec::new();
        for (step, bytes) in steps {
            input.push(step);
            if step % 8 < 5 {
                input.extend((bytes.len() as u16).to_le_bytes());
            }
            input.extend(bytes);
        }
        feed::circuit(&input);
    }
}
