//! `oarlock key`: make and show keys.

use std::path::Path;

use super::cli::{Format, Key, Output};
use super::output;
use crate::host::key::{Secret, print};
use crate::problem::Result;

/// Runs one of them.
pub fn run(command: &Key) -> Result<()> {
    match command {
        Key::New { out, format } => {
            let key = Secret::generate();
            key.write_new(out)?;
            output::say(format_args!(
                "oarlock: private key in {}, readable by its owner only",
                out.display()
            ));
            show(out, &key, format)
        }
        Key::Show { file, format } => show(file, &Secret::read(file)?, format),
        Key::Secret { out } => {
            Secret::generate().write_new(out)?;
            output::say(format_args!(
                "oarlock: cluster secret in {}; copy it to every member, by a safe way",
                out.display()
            ));
            Ok(())
        }
    }
}

fn show(file: &Path, key: &Secret, format: &Format) -> Result<()> {
    let public = print(&key.public());
    match format.output {
        form @ (Output::Json | Output::Yaml) => {
            output::print_document(form, &serde_json::json!({"v": 1, "file": file, "public_key": public}))
        }
        _ => output::print_text(&public),
    }
}
