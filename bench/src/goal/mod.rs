//! The goals: what is compared with what, and what must come out.

pub(crate) mod bulk;
pub(crate) mod command;
pub(crate) mod covered;
pub(crate) mod dlm;
pub(crate) mod flat;
pub(crate) mod instructions;
pub(crate) mod million;
pub(crate) mod outstanding;
pub(crate) mod programs;
pub(crate) mod remote;
pub(crate) mod search;

use crate::machine::Cpus;
use crate::report::Line;
use crate::rounds::{Failure, Plan};

/// What every goal is told.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// Where to run.
    pub(crate) cpus: Cpus,
    /// How much to measure.
    pub(crate) plan: Plan,
    /// Only to see that everything runs.
    pub(crate) quick: bool,
    /// Other lock services were asked for.
    pub(crate) peers: bool,
}

/// One measurement: the goals it tells about and how it is made.
pub(crate) struct Measurement {
    /// Goals it has lines for.
    pub(crate) goals: &'static [u8],
    /// Prints its lines through the return value.
    pub(crate) run: fn(&Setting) -> Result<Vec<Line>, Failure>,
}

/// Locks that a program grants itself, in memory shared with its node.
pub(crate) const LOCAL: &[Measurement] = &[
    Measurement { goals: &[1], run: covered::handle },
    Measurement { goals: &[2], run: covered::by_name },
    Measurement { goals: &[3], run: covered::processes },
    Measurement { goals: &[4], run: covered::hand_over },
    Measurement { goals: &[9], run: programs::covered_pairs },
    Measurement { goals: &[], run: million::run },
];

/// Locks: from one program to another through the nodes between them.
pub(crate) const LOCK: &[Measurement] = &[
    Measurement { goals: &[5], run: remote::sleeping },
    Measurement { goals: &[6], run: programs::acquire },
    Measurement { goals: &[7], run: remote::spinning },
    Measurement { goals: &[8], run: programs::remote_pairs },
    Measurement { goals: &[10], run: outstanding::run },
    Measurement { goals: &[11], run: programs::contended },
    // Reported without a goal's number.
    Measurement { goals: &[], run: flat::run },
    Measurement { goals: &[], run: instructions::run },
    Measurement { goals: &[], run: search::run },
    Measurement { goals: &[], run: command::run },
];

/// What programs of libdlm get. Reported without a goal's number.
pub(crate) const DLM: &[Measurement] =
    &[Measurement { goals: &[], run: dlm::pairs }, Measurement { goals: &[], run: dlm::fresh }];

/// The circuits below.
pub(crate) const NET: &[Measurement] =
    &[Measurement { goals: &[12], run: bulk::run }, Measurement { goals: &[13], run: remote::sealing }];
