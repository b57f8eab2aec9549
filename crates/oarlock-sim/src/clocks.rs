//! Clocks that are set, leap and stand still (FT14).
//!
//! ```text
//!   wall clock      years ahead or back; only the times of join tokens are read from it
//!   lease clock     leaps ahead by up to 80 ms, or stands still for as long, once in four seconds at most
//! ```
//!
//! A lease counts on a clock that goes on, also while the machine sleeps: this is what a pause is here. A clock that stood still for
//! longer than lease times allow would break what [faults](../../../docs/faults.md) assume, so none does.

use crate::swarm::{FaultKind, MS, Mix, S};
use crate::world::{Happening, World};

/// Two clocks run apart by 120 ms in a lease; one that stood and one that leapt come on top. Margin and drift are 300 ms.
const STEP_MAX: u64 = 80;
/// A lease, and some.
const STEP_EACH: u64 = 4;
const YEAR: u64 = 365 * 86_400;

/// How far clocks leap in a run like this.
pub(crate) fn leap_max(mix: &Mix) -> u64 {
    let by_ambush = mix.ambushes.iter().any(|ambush| ambush.kind == FaultKind::Clock);
    if by_ambush || mix.faults[FaultKind::Clock as usize] > 0 { STEP_MAX * MS } else { 0 }
}

impl World {
    /// Something happens to the clocks of a machine.
    pub(crate) fn step_clock(&mut self, node: u16) {
        let now = self.queue.now();
        self.cover(FaultKind::Clock, &[node]);
        let random = &mut self.fault_random;
        let (what, step) = (random.below(3), random.between(1, STEP_MAX) * MS);
        let off = random.between(0, 20 * YEAR) as i64 - 10 * YEAR as i64;
        let host = &mut self.hosts[usize::from(node)];
        if what == 0 {
            host.wall_off = off;
            return;
        }
        if now < host.stepped + STEP_EACH * S {
            return;
        }
        host.stepped = now;
        if what == 1 {
            host.leap(step)
        } else {
            host.stand(now, step)
        }
        let run = host.disk.run();
        // A kernel looks at its timers again when a clock was set.
        if host.up && host.timer_at != crate::queue::Time::MAX {
            host.timer_at = now;
            self.queue.push(now, Happening::Timer { node, run });
        }
        let host = &self.hosts[usize::from(node)];
        let lapse = host.when(host.lease_until).max(now);
        self.queue.push(lapse, Happening::Lapse { node, run });
    }

    /// All wall clocks are set right.
    pub(crate) fn set_clocks(&mut self) {
        self.hosts.iter_mut().for_each(|host| host.wall_off = 0);
    }
}
