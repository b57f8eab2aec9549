//! Writes the first inputs of the fuzz targets: one real message of every kind per file.
//!
//! `cargo run -p oarlock-layout --example seeds -- fuzz/corpus`

#[path = "../tests/samples/mod.rs"]
mod samples;

use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let corpus = PathBuf::from(env::args().nth(1).unwrap_or_else(|| "fuzz/corpus".into()));
    for conversation in samples::conversations() {
        let dir = corpus.join(conversation.name);
        fs::create_dir_all(&dir)?;
        for (name, bytes) in conversation.messages {
            let name: String = name
                .chars()
                .filter(|c| *c != ',' && *c != ':')
                .map(|c| if c == ' ' { '-' } else { c })
                .collect();
            fs::write(dir.join(format!("seed-{name}")), bytes)?;
        }
    }
    Ok(())
}
