//! Many nodes, one thread, one seed; a checker per promise.
//!
//! ```text
//!   seed ──► Mix (which storm) ──► World ── events of clients ──► Judge ──► findings
//!                                    │
//!                                    └──► trace hash: the same seed is the same run, byte for byte
//! ```
//!
//! [`run`] makes one run. The nodes in it are the ones that the daemon runs ([`oarlock_node::Node`]); network,
//! clocks, disks and programs are invented. What clients see goes to the [checkers](check), which judge
//! [histories](history) of real processes just as well.
//!
//! ```
//! let options = oarlock_sim::Options { seconds: 15, processes: 10, ..Default::default() };
//! let report = oarlock_sim::run(7, &options);
//! assert_eq!(report.findings, []);
//! assert_eq!(report.trace, oarlock_sim::run(7, &options).trace);
//! ```
#![forbid(unsafe_code)]

pub mod check;
mod clocks;
pub mod conformance;
mod coordinator;
pub mod coverage;
mod disk;
mod evidence;
mod farewell;
mod faults;
mod fencing;
mod handover;
mod health;
pub mod history;
mod host;
mod keys;
mod lockout;
mod members;
pub mod network;
mod options;
mod parts;
mod passage;
mod process;
mod queue;
mod random;
pub mod rebuild;
mod registers;
mod report;
mod rights;
pub mod seal;
mod segments;
mod share;
mod socket;
mod stale;
mod stamps;
pub mod story;
pub mod swarm;
mod trace;
mod versions;
mod ways;
mod world;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

#[cfg(feature = "planted")]
pub use options::RegisterBug;
pub use options::{MakeSeal, Options};
pub use passage::{Passages, run_circuits};
pub use queue::{Queue, Time};
pub use random::Random;
pub use report::{Load, Report};
pub use trace::Trace;

/// Runs a seed. An assertion that fails inside a node is a finding like any other.
pub fn run(seed: u64, options: &Options) -> Report {
    run_with_history(seed, options).0
}

/// Runs a seed and keeps what its clients saw, if the options ask for it.
pub fn run_with_history(seed: u64, options: &Options) -> (Report, Option<Vec<history::Event>>) {
    let outcome = catch_unwind(AssertUnwindSafe(|| world::World::new(seed, options.clone()).run()));
    outcome.unwrap_or_else(|panic| {
        let finding = check::Finding { checker: "assertion", at: 0, text: panic_text(panic.as_ref()) };
        let report = Report {
            seed,
            seconds: options.seconds,
            trace: Trace::default(),
            findings: vec![finding],
            load: Load::default(),
            faults: [0; coverage::KINDS],
            coverage: coverage::Coverage::default(),
            liveness: false,
            torn: false,
        };
        (report, None)
    })
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".into())
}
