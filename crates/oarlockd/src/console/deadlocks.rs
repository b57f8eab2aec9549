//! Deadlocks that were broken, as a document.

use oarlock_layout::id::{NodeId, SpaceId};
use oarlock_layout::message::trace::{Broken, Link};
use oarlock_layout::time::Instant;
use oarlock_node::rights::Permit;

use super::failover::rfc3339;
use super::{doc, merge};
use crate::engine::Snapshot;

/// The document, with what whoever asks may look at.
pub(super) fn document(
    name: &dyn Fn(NodeId) -> String,
    spaces: &[&str],
    snapshot: &Snapshot,
    permit: &Permit,
    wall_ms: u64,
) -> doc::Deadlocks {
    let may_look = |space: SpaceId| usize::from(space.0) < spaces.len() && permit.sees(space);
    let all = snapshot.deadlocks.iter();
    let (shown, hidden): (Vec<_>, Vec<_>) =
        all.partition(|(_, broken)| broken.cycle.iter().all(|link| may_look(link.space)));
    let deadlocks = shown.into_iter().map(|(at, it)| tell(name, spaces, (snapshot.now, wall_ms), *at, it));
    doc::Deadlocks {
        v: doc::VERSION,
        node: snapshot.status.node.clone(),
        deadlocks: deadlocks.collect(),
        hidden: hidden.len() as u64,
    }
}

fn tell(
    name: &dyn Fn(NodeId) -> String,
    spaces: &[&str],
    (now, wall_ms): (Instant, u64),
    at: Instant,
    broken: &Broken,
) -> doc::Deadlock {
    let age = now.since(at);
    let wait = |link: &Link| doc::DeadlockWait {
        party: merge::party(&name(link.node), &link.party),
        space: spaces[usize::from(link.space.0)].into(),
        resource: link.name.to_string(),
        wanted: link.wanted.to_string(),
        held: link.held.map(|mode| mode.to_string()),
        next_holds: link.behind.map(|mode| mode.to_string()),
    };
    let why = match broken.cycle.len() {
        1 => "it waited for itself",
        _ => "it was the youngest of those that waited for each other",
    };
    doc::Deadlock {
        at: rfc3339(wall_ms.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))),
        age_us: u64::try_from(age.as_micros()).unwrap_or(u64::MAX),
        waited_us: broken.waited_us,
        why: why.into(),
        cycle: broken.cycle.iter().map(wait).collect(),
    }
}
