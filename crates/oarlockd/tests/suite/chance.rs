//! Chance: the kernel's random source and the simulator's stream of a seed.

use std::collections::BTreeSet;

use oarlock_sim::Random;
use oarlockd::host::random;

use super::child::{self, Child};
use super::{Claim, claims};

/// Draws of one run.
const DRAWS: usize = 256;

/// Something that throws dice.
pub(crate) trait Chance {
    /// Whether another run draws the same.
    const REPEATS: bool;
    /// What a run draws from its beginning.
    fn run(&mut self) -> Vec<u64>;
}

pub(crate) fn claims<W: Chance>() -> Vec<Claim<W>> {
    claims![
        no_draw_is_like_another
        every_bit_is_sometimes_set
        a_run_is_or_is_not_like_the_one_before
    ]
}

fn no_draw_is_like_another<W: Chance>(w: &mut W) {
    let run = w.run();
    assert_eq!(run.len(), DRAWS);
    // By chance once in 10^14 runs.
    assert_eq!(run.iter().collect::<BTreeSet<_>>().len(), DRAWS);
}

/// Half of the time, within seven standard deviations: by chance not once in 10^9 runs.
fn every_bit_is_sometimes_set<W: Chance>(w: &mut W) {
    let run = w.run();
    for bit in 0..64 {
        let set = run.iter().filter(|draw| *draw >> bit & 1 == 1).count();
        assert!((DRAWS / 2 - 56..=DRAWS / 2 + 56).contains(&set), "bit {bit} was set in {set} of {DRAWS}");
    }
}

/// The daemon's never is, or keys could be guessed and handshakes repeated. The simulator's always is, or a seed
/// would not be a run.
fn a_run_is_or_is_not_like_the_one_before<W: Chance>(w: &mut W) {
    let (one, two) = (w.run(), w.run());
    if W::REPEATS {
        assert_eq!(one, two);
    } else {
        let common = one.iter().filter(|draw| two.contains(draw)).count();
        assert_eq!(common, 0, "draws of both runs");
    }
}

// ----- the kernel ---------------------------------------------------------------------------------------

/// The daemon's random source; each run is a process.
pub(crate) struct Kernel;

impl Chance for Kernel {
    const REPEATS: bool = false;

    fn run(&mut self) -> Vec<u64> {
        let mut child = Child::start(&["draw"]);
        (0..DRAWS).map(|_| child.hear().expect("another draw").parse().unwrap()).collect()
    }
}

/// In another process: draws keys and seeds.
pub(crate) fn child() {
    for _ in 0..DRAWS / 4 {
        let bytes = random::bytes();
        for word in [0, 8, 24] {
            let word = u64::from_le_bytes(bytes[word..word + 8].try_into().unwrap());
            child::say(&word.to_string());
        }
        child::say(&random::seed().to_string());
    }
}

// ----- the stand-in -------------------------------------------------------------------------------------

/// The stream of a seed, and of what is forked from it.
pub(crate) struct Simulated(pub(crate) u64);

impl Chance for Simulated {
    const REPEATS: bool = true;

    fn run(&mut self) -> Vec<u64> {
        let mut random = Random::new(self.0);
        let mut forked = random.fork();
        (0..DRAWS).map(|n| if n % 2 == 0 { random.bits() } else { forked.bits() }).collect()
    }
}

// ----- faults -------------------------------------------------------------------------------------------

/// What a world could do wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    DrawsTwice,
    StuckBit,
    OtherEachRun,
}

pub(crate) const FAULTS: &[(Fault, &str)] = &[
    (Fault::DrawsTwice, "no_draw_is_like_another"),
    (Fault::StuckBit, "every_bit_is_sometimes_set"),
    (Fault::OtherEachRun, "a_run_is_or_is_not_like_the_one_before"),
];

/// A world with a fault.
pub(crate) struct Faulty {
    inner: Simulated,
    fault: Fault,
}

impl Faulty {
    pub(crate) fn new(fault: Fault) -> Faulty {
        Faulty { inner: Simulated(1), fault }
    }
}

impl Chance for Faulty {
    const REPEATS: bool = true;

    fn run(&mut self) -> Vec<u64> {
        let mut run = self.inner.run();
        match self.fault {
            Fault::DrawsTwice => run[9] = run[8],
            Fault::StuckBit => run.iter_mut().for_each(|draw| *draw |= 1 << 40),
            Fault::OtherEachRun => self.inner.0 += 1,
        }
        run
    }
}

/// The daemon's fault is the simulator's virtue.
pub(crate) struct Seeded;

impl Chance for Seeded {
    const REPEATS: bool = false;

    fn run(&mut self) -> Vec<u64> {
        Simulated(1).run()
    }
}
