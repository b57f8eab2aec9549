//! What the end of the node's lease means for a command that runs under a lock (L6).
//!
//! ```text
//!   live ──────────► at risk ──────────► ending ─────────► killing ─────► over
//!                    − 40 %: a warning   − 20 %: SIGTERM   − 5 %: SIGKILL
//!    ◄─── renewed ──────┘
//! ```
//!
//! It is looked at here, in the process that holds the lock: the node may stand still, and then says nothing. At the last step the guard
//! looks too (host/guard.rs): this process may stand still as well.

use std::time::Duration;

use oarlock_layout::lease::Standing;
use oarlock_layout::limit::{LEASE_ENDING, LEASE_FROZEN, LEASE_KILLING};
use oarlock_layout::time::Instant;
use oarlock_shm::LeaseSight;

/// After a look that changed nothing it is not looked again before that, so that a lease that has come to a step and no
/// further is not looked at all the time.
const LOOK_MIN: Duration = Duration::from_millis(5);

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Nothing, or nothing new.
    None,
    /// Say that the lock is at risk.
    Warn,
    /// Say that it is not any more.
    Calm,
    /// The command must end.
    End,
}

/// Looks at the lease of the node.
pub struct Lapse {
    sight: LeaseSight,
    warned: bool,
}

impl Lapse {
    /// Nothing was said yet.
    pub fn new(sight: LeaseSight) -> Lapse {
        Lapse { sight, warned: false }
    }

    /// What it looks at.
    pub const fn sight(&self) -> &LeaseSight {
        &self.sight
    }

    /// What is to be done now.
    pub fn look(&mut self, now: Instant) -> Step {
        let standing = self.sight.standing(now);
        let step = match (standing, self.warned) {
            (Standing::Live, true) => Step::Calm,
            (Standing::AtRisk, false) => Step::Warn,
            (Standing::Live | Standing::AtRisk, _) => Step::None,
            (Standing::Ending | Standing::Killing | Standing::Over, _) => Step::End,
        };
        self.warned = standing != Standing::Live;
        step
    }

    /// Is it over?
    pub fn is_over(&self, now: Instant) -> bool {
        self.sight.standing(now) == Standing::Over
    }

    /// How long until the next step, as long as it is not renewed.
    pub fn next(&self, now: Instant) -> Duration {
        let Some(until) = self.sight.until() else { return LEASE_FROZEN };
        let left = until.since(now);
        let steps = [LEASE_FROZEN, LEASE_ENDING, LEASE_KILLING];
        let next = steps.into_iter().find(|step| *step < left).unwrap_or(Duration::ZERO);
        left.saturating_sub(next).max(LOOK_MIN)
    }

    /// How long until a command under the lock must be dead.
    pub fn kill_in(&self, now: Instant) -> Duration {
        self.sight.until().map_or(Duration::MAX, |until| until.since(now).saturating_sub(LEASE_KILLING))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use oarlock_shm::LeaseNote;

    use super::*;

    const T: fn(u64) -> Instant = |ms| Instant::from_millis(100_000 + ms);

    fn lapse(note: &LeaseNote) -> Lapse {
        let file = note.as_fd().try_clone_to_owned().unwrap();
        Lapse::new(LeaseSight::open(file, T(0), T(0), T(0)).unwrap())
    }

    /// Looks whenever it says that it wants to, up to `to`; what came of it.
    fn run(lapse: &mut Lapse, from: u64, to: u64) -> Vec<(u64, Step)> {
        let (mut at, mut said) = (T(from), Vec::new());
        while at < T(to) {
            match lapse.look(at) {
                Step::None => {}
                step => said.push((at.since(T(0)).as_millis() as u64, step)),
            }
            if said.last().is_some_and(|(_, step)| *step == Step::End) {
                break;
            }
            at = at + lapse.next(at);
        }
        said
    }

    /// L6: at the fixed times, each step once, and a renewal leads back.
    #[test]
    fn a_command_is_warned_then_ended_and_a_renewal_in_time_calms() {
        let note = LeaseNote::create().unwrap();
        let mut lapse = lapse(&note);
        assert_eq!(run(&mut lapse, 0, 10_000), [], "the node has no lease yet");
        note.write(T(2_900)).unwrap();
        assert_eq!(run(&mut lapse, 0, 2_299), [(1_700, Step::Warn)]);
        note.write(T(5_900)).unwrap();
        assert_eq!(
            run(&mut lapse, 2_290, 10_000),
            [(2_290, Step::Calm), (4_700, Step::Warn), (5_300, Step::End)]
        );
        assert_eq!(lapse.kill_in(T(5_300)), Duration::from_millis(450));
        assert!(!lapse.is_over(T(5_899)) && lapse.is_over(T(5_900)));
        assert_eq!(lapse.kill_in(T(5_800)), Duration::ZERO);
    }
}
