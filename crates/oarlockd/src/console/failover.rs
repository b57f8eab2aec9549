//! The timelines of the last views, from what recovery remembers and what the registry says about it.

use std::time::{Duration, UNIX_EPOCH};

use oarlock_cluster::recovery::{Failover, Gate};
use oarlock_cluster::registry::{Basis, Change, Registry};
use oarlock_layout::id::NodeId;
use oarlock_layout::time::Instant;
use oarlock_layout::view::Member;

use super::{doc, fences};
use crate::engine::Snapshot;

/// What a timeline is made of besides itself.
struct Teller<'a> {
    /// The node that answers.
    me: NodeId,
    name: &'a dyn Fn(NodeId) -> String,
    registry: Option<&'a Registry>,
    history: &'a [Change],
    now: Instant,
    /// The same on the wall, in milliseconds since 1970.
    wall_ms: u64,
}

/// The document.
pub(super) fn document(name: &dyn Fn(NodeId) -> String, snapshot: &Snapshot, wall_ms: u64) -> doc::Failovers {
    let history = snapshot.registry.as_ref().map_or(&[][..], |registry| registry.history());
    let registry = snapshot.registry.as_deref();
    let teller = Teller { me: snapshot.status.me, name, registry, history, now: snapshot.now, wall_ms };
    let mut failovers: Vec<_> = snapshot.failovers.iter().map(|it| teller.tell(it)).collect();
    if let (Some(last), Some((gate, missing))) = (failovers.last_mut(), &snapshot.waits) {
        let missing = missing.iter().map(|node| name(*node)).collect();
        let pending = snapshot.registry.as_ref().filter(|_| *gate == Gate::Fenced);
        let pending = pending.map_or(Vec::new(), |registry| fences::pending(name, registry));
        let fences = pending.into_iter().map(|fence| fence.text).collect();
        last.waits = Some(doc::Waits { barrier: gate.name().into(), missing, fences });
    }
    doc::Failovers { v: doc::VERSION, node: snapshot.status.node.clone(), failovers }
}

/// A time on the wall as documents have it.
pub(super) fn rfc3339(wall_ms: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(wall_ms)).to_string()
}

/// Why a run is out: one word for programs, a few for people.
pub(super) fn basis(basis: Basis) -> (&'static str, String) {
    match basis {
        Basis::LeaseOver { .. } => ("lease_over", "its lease ended".into()),
        Basis::Surrendered => ("surrendered", "it gave itself up".into()),
        Basis::Partition { kept } => {
            ("partition", format!("it was cut off from some of the {kept} that hear each other"))
        }
        Basis::Outvoted { kept } => (
            "outvoted",
            format!(
                "it was cut off from some of {kept} that hear each other, of which some waited to be let in"
            ),
        ),
        Basis::ByHand => ("by_hand", "somebody put it out by hand".into()),
    }
}

impl Teller<'_> {
    fn tell(&self, it: &Failover) -> doc::Failover {
        let after = |at: Instant| micros(at.since(it.began));
        let mut before = 0;
        let mut barriers = Vec::new();
        for (gate, passed) in Gate::ALL.into_iter().zip(it.passed) {
            let Some((at, last)) = passed else { break };
            let after_us = after(at);
            // Nobody was heard of after this node had done its own part: then it was the last.
            let last = match gate {
                Gate::Arrived | Gate::Restated => Some((self.name)(last.unwrap_or(self.me))),
                Gate::Stated => Some((self.name)(self.me)),
                Gate::Fenced => None,
            };
            let step_us = after_us - before;
            barriers.push(doc::Passed { barrier: gate.name().into(), after_us, step_us, last });
            before = after_us;
        }
        let slowest = barriers.iter().max_by_key(|b| b.step_us).map(|b| b.barrier.clone());
        let state = match (it.opened(), it.overtaken) {
            (Some(_), _) => "granting",
            (None, true) => "overtaken",
            (None, false) => "under_way",
        };
        let age = self.now.since(it.began);
        doc::Failover {
            epoch: it.epoch.0,
            at: rfc3339(self.wall_ms.saturating_sub(micros(age) / 1_000)),
            age_us: micros(age),
            state: state.into(),
            out: it.out.iter().map(|run| self.departed(it, *run)).collect(),
            entered: it.entered.iter().map(|run| self.run(*run)).collect(),
            barriers,
            slowest,
            waits: None,
            granted_us: it.opened().map(after),
        }
    }

    fn run(&self, run: Member) -> doc::Run {
        doc::Run { node: (self.name)(run.node), incarnation: run.incarnation.0 }
    }

    /// The node may have seen several views of the registry as one.
    fn departed(&self, it: &Failover, run: Member) -> doc::Departed {
        let so_far = self.history.iter().filter(|change| change.view.epoch <= it.epoch);
        let verdict = so_far
            .flat_map(|change| &change.out)
            .find(|out| (out.node, out.incarnation) == (run.node, run.incarnation));
        let (word, why) = match verdict.map(|out| basis(out.basis)) {
            Some((word, why)) => (Some(word.into()), why),
            None => (None, "so long ago that the registry does not say why any more".into()),
        };
        let fence = verdict.zip(self.registry).and_then(|(out, it)| fences::of_verdict(self.name, it, out));
        doc::Departed { run: self.run(run), basis: word, why, fence }
    }
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_cluster::registry::Out;
    use oarlock_layout::id::{Epoch, Incarnation};
    use oarlock_layout::view::View;

    fn run(node: u16, incarnation: u64) -> Member {
        Member { node: NodeId(node), incarnation: Incarnation(incarnation) }
    }

    fn failover() -> Failover {
        let at = |ms: u64| Instant::from_millis(10_000 + ms);
        Failover {
            epoch: Epoch(7),
            out: vec![run(2, 3)],
            entered: vec![],
            began: at(0),
            passed: [
                Some((at(1), Some(NodeId(1)))),
                Some((at(2), None)),
                Some((at(9), None)),
                Some((at(12), Some(NodeId(1)))),
            ],
            overtaken: false,
        }
    }

    fn tell(it: &Failover, history: &[Change]) -> doc::Failover {
        let name = |node: NodeId| format!("node-{}", ["a", "b", "c"][node.0 as usize]);
        let now = Instant::from_millis(70_000);
        let wall_ms = 1_000_000_060_000;
        Teller { me: NodeId(0), name: &name, registry: None, history, now, wall_ms }.tell(it)
    }

    #[test]
    fn a_timeline_has_times_since_its_view_and_names_the_last_at_each_barrier() {
        let told = tell(&failover(), &[]);
        let barriers: Vec<_> = told
            .barriers
            .iter()
            .map(|b| (b.barrier.as_str(), b.after_us, b.step_us, b.last.as_deref()))
            .collect();
        assert_eq!(
            barriers,
            [
                ("arrived", 1_000, 1_000, Some("node-b")),
                ("stated", 2_000, 1_000, Some("node-a")),
                // Whoever else restated had done so before this node did.
                ("restated", 9_000, 7_000, Some("node-a")),
                ("fenced", 12_000, 3_000, None),
            ]
        );
        assert_eq!((told.slowest.as_deref(), told.granted_us), (Some("restated"), Some(9_000)));
        assert_eq!((told.state.as_str(), told.age_us), ("granting", 60_000_000));
        assert_eq!(told.at, "2001-09-09T01:46:40.000Z");
    }

    #[test]
    fn a_view_that_never_opened_was_overtaken_or_is_under_way() {
        let mut it = failover();
        it.passed[2..].fill(None);
        assert_eq!((tell(&it, &[]).state.as_str(), tell(&it, &[]).barriers.len()), ("under_way", 2));
        it.overtaken = true;
        let told = tell(&it, &[]);
        assert_eq!((told.state.as_str(), told.granted_us), ("overtaken", None));
    }

    #[test]
    fn why_somebody_left_is_what_the_registry_says_of_that_run() {
        let verdict = |epoch: u32, incarnation: u64, basis: Basis| Change {
            view: View { epoch: Epoch(epoch), members: vec![] },
            out: vec![Out { node: NodeId(2), incarnation: Incarnation(incarnation), basis, fences: vec![] }],
            entered: vec![],
            note: None,
        };
        let history = [
            verdict(4, 2, Basis::ByHand),
            verdict(6, 3, Basis::LeaseOver { renewal: 9 }),
            verdict(8, 4, Basis::Surrendered),
        ];
        let told = tell(&failover(), &history);
        assert_eq!((told.out[0].run.node.as_str(), told.out[0].run.incarnation), ("node-c", 3));
        assert_eq!(told.out[0].basis.as_deref(), Some("lease_over"));
        assert_eq!(tell(&failover(), &history[..1]).out[0].basis, None);
    }
}
