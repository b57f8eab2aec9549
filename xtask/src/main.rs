//! What developers and CI run: `cargo xtask ci` is the one entry, the other tasks are its parts and fronts.
//!
//! ```text
//!   ci, night     every part in order, a table, a closing line          ci.rs
//!   (watchdog)    ends a part that hangs                           watchdog.rs
//!   tidy          what the compiler does not check: ids, words, links   tidy/
//!   purity        pure crates need no operating system                  purity.rs
//!   explore, …    programs of other crates                              fronts.rs
//!   fuzz          every decoder against libFuzzer                       fuzz.rs
//!   layout        docs/layout.md, made from the encoders                layout/
//!   header        oarlock.h, made from the crate of the C interface     header.rs
//!   manual        its man pages, made from the header                   manual.rs
//! ```
#![forbid(unsafe_code)]

mod ci;
mod context;
mod fronts;
mod fuzz;
mod header;
mod layout;
mod manual;
mod programs;
mod purity;
mod runs;
mod testing;
mod tidy;
mod watchdog;

use std::process::ExitCode;

use context::{Context, Volume};
use fronts::Front;

const USAGE: &str = "\
usage: cargo xtask TASK

  ci        everything a commit must pass, in under 25 minutes; ends with `N passed, M failed`
  night     the same with more volume
  tidy      house rules: mechanism ids, words, files, links, dependencies
            (--ids prints which code and tests name each mechanism id)
  fuzz      fuzz targets: [--seconds N] [--merge] [--planted] [TARGET...]
  layout    writes docs/layout.md from the sources of oarlock-layout
  header    writes the C header from the sources of oarlock-c
  manual    writes the man pages of the C interface: DIR
  interleave the shared segment under loom and shuttle
  purity    pure crates build without std, from an allow-list of dependencies
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let context =
        Context::new(if args.first().is_some_and(|a| a == "night") { Volume::Night } else { Volume::Ci });
    let task = args.first().map_or("", String::as_str);
    let result = match task {
        "ci" | "night" => return if ci::all(&context) { ExitCode::SUCCESS } else { ExitCode::FAILURE },
        "tidy" if args.iter().any(|a| a == "--ids") => tidy::list_ids(&context),
        "tidy" => tidy::check(&context),
        "fuzz" => fuzz::command(&context, &args[1..]),
        "layout" => layout::write(&context),
        "header" => header::write(&context),
        "manual" => manual::write(&context, &args[1..]),
        "purity" => purity::check(&context),
        "interleave" => testing::interleave(&context),
        other => match Front::find(other) {
            Some(front) => front.run(&context, &args[1..]),
            None => {
                eprint!("{USAGE}");
                for front in fronts::FRONTS {
                    eprintln!("  {:<9} {}", front.name, front.help);
                }
                return ExitCode::from(2);
            }
        },
    };
    match result {
        Ok(note) => {
            // A front has said everything; its lines may be meant for a program that reads them.
            if !note.is_empty() {
                println!("{task}: {note}");
            }
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
