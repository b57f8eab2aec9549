//! What keeps departed nodes from doing harm, in words: what is waited for, what was proven, and where there is only the lease.

use oarlock_cluster::registry::{Basis, Fence, Need, Out, Proof, Registry};
use oarlock_layout::id::NodeId;

use super::doc;
use crate::config::Config;

type Name<'a> = &'a dyn Fn(NodeId) -> String;

/// What a cluster without a fence is called, wherever it is told.
const LEASE_ONLY: &str = "lease only";

/// What verdicts of this cluster wait for, in few words.
pub(super) fn policy(config: &Config) -> String {
    match config.fencing.is_empty() {
        true => LEASE_ONLY.into(),
        false => {
            let order: Vec<_> = config.fencing.iter().map(|method| method.name.as_str()).collect();
            format!("command ({})", order.join(", then "))
        }
    }
}

/// What is still to be proven of runs that left.
pub(super) fn pending(name: Name<'_>, registry: &Registry) -> Vec<doc::Fence> {
    let fence = |it: &Fence| doc::Fence {
        run: doc::Run { node: name(it.node), incarnation: it.incarnation.0 },
        epoch: it.epoch.0,
        needs: it.needs.iter().map(|need| self::need(name, *need)).collect(),
        turn: registry.fencer(it).filter(|_| it.needs.contains(&Need::Program)).map(name),
        tries: it.tries,
        failed: it.failed.as_ref().map(|failed| format!("{} at {}", failed.why, name(failed.by))),
        text: waiting(name, registry, it),
    };
    registry.fences().map(fence).collect()
}

fn need(name: Name<'_>, need: Need) -> doc::Need {
    let (word, text) = match need {
        Need::Lease => ("lease", need.to_string()),
        // Its own text has the number of the server, which nobody knows by heart.
        Need::Client { server } => ("client", format!("a fence against it at {}", name(server))),
        Need::Tail { .. } => ("tail", need.to_string()),
        Need::Program => ("program", need.to_string()),
    };
    doc::Need { need: word.into(), text }
}

/// For whom everything waits, who is at it, and what a person can do.
fn waiting(name: Name<'_>, registry: &Registry, it: &Fence) -> String {
    let (node, run) = (name(it.node), it.incarnation);
    if !it.needs.contains(&Need::Program) {
        let needs: Vec<_> = it.needs.iter().map(|need| self::need(name, *need).text).collect();
        return format!(
            "waiting for {} of {node} (run {run})",
            needs.join(" and ").replace("its lease", "the lease")
        );
    }
    let turn = match registry.fencer(it) {
        Some(by) => format!("{} runs it", name(by)),
        None => "nobody else is in the view to run it".into(),
    };
    let failed = it.failed.as_ref().map_or(String::new(), |failed| {
        let times = if it.tries == 1 { "once".into() } else { format!("{} times", it.tries) };
        format!("; it failed {times}, last at {}: {}", name(failed.by), failed.why)
    });
    format!(
        "waiting for the fence of {node} (run {run}): {turn}{failed}; `oarlock node fence {node} --confirmed` if you know \
         that it can do no harm any more"
    )
}

/// What kept a run that was put out from doing harm; none if it gave itself up, which is as good.
pub(super) fn of_verdict(name: Name<'_>, registry: &Registry, out: &Out) -> Option<String> {
    let of = |it: &&Proof| (it.node, it.incarnation) == (out.node, out.incarnation);
    let proofs = || registry.proofs().iter().filter(of);
    let waits = |need| {
        let run = |it: &&Fence| (it.node, it.incarnation) == (out.node, out.incarnation);
        registry.fences().find(run).is_some_and(|it| it.needs.contains(&need))
    };
    let by_hand = |proof: &Proof| {
        let who = proof.who.as_deref().map_or(String::new(), |who| format!(" by {who}"));
        format!("confirmed by hand at {}{who}", name(proof.by))
    };
    if waits(Need::Program) {
        return Some("not fenced yet".into());
    }
    if let Some(proof) = proofs().find(|it| it.need == Need::Program) {
        return Some(if proof.by_hand { by_hand(proof) } else { format!("fenced by {}", name(proof.by)) });
    }
    if let Some(proof) = proofs().find(|it| it.by_hand) {
        return Some(by_hand(proof));
    }
    match out.basis {
        Basis::Surrendered => None,
        // The proof may be forgotten, or the run gave itself up after all.
        _ if out.fences.contains(&Need::Program) => Some("its fence is done with".into()),
        _ => Some(LEASE_ONLY.into()),
    }
}

#[cfg(test)]
mod tests {
    use oarlock_cluster::registry::{Command, Founder, Outcome};
    use oarlock_layout::id::{Epoch, Incarnation};
    use oarlock_layout::seal::PublicKey;

    use super::*;

    fn name(node: NodeId) -> String {
        format!("node-{}", ["a", "b", "c"][usize::from(node.0)])
    }

    /// Three nodes, of which the last is put out.
    fn registry(basis: Basis, fences: Vec<Need>) -> (Registry, Out) {
        let key = |n: u16| PublicKey([n as u8 + 1; 32]);
        let founder = |n: u16| Founder {
            name: name(NodeId(n)),
            address: ([127, 0, 0, 1], 7401 + n).into(),
            key: key(n),
        };
        let space = oarlock_cluster::registry::FirstSpace {
            name: "default".into(),
            settings: oarlock_cluster::registry::SpaceSettings {
                order: oarlock_cluster::registry::Order::Strict,
                value: 64,
                retain: true,
                resources_max: 9,
                owner: 0,
                group: 0,
                mode: 0o660,
            },
        };
        let mut registry = Registry::new();
        let members = (0..3).map(founder).collect();
        registry.apply(&Command::Init { cluster: [1; 16], members, spaces: vec![space], above: Epoch(0) });
        for n in 0..3 {
            let incarnation = Incarnation(1);
            let start =
                Command::Start { node: NodeId(n), key: key(n), incarnation, nonce: 1, fences: vec![] };
            assert_eq!(registry.apply(&start), Outcome::Done);
        }
        let out = Out { node: NodeId(2), incarnation: Incarnation(1), basis, fences };
        let evict = Command::Evict { epoch: Epoch(3), out: vec![out.clone()], note: None };
        assert_eq!(registry.apply(&evict), Outcome::Done);
        (registry, out)
    }

    fn told(registry: &Registry, out: &Out) -> Option<String> {
        of_verdict(&name, registry, out)
    }

    /// L4: who waits, who is at it, what went wrong and what to do, in one sentence; then what it came to.
    #[test]
    fn a_pending_fence_says_who_is_at_it_and_what_a_person_can_do() {
        let (mut registry, out) = registry(Basis::LeaseOver { renewal: 0 }, vec![Need::Program]);
        let (node, incarnation) = (out.node, out.incarnation);
        let text = |registry: &Registry| pending(&name, registry)[0].text.clone();
        let verb = "`oarlock node fence node-c --confirmed`";
        assert!(text(&registry).starts_with("waiting for the fence of node-c (run 1): node-a runs it; "));
        assert!(text(&registry).contains(verb));
        assert_eq!(told(&registry, &out).as_deref(), Some("not fenced yet"));
        let why = "power: exit status 1".to_owned();
        registry.apply(&Command::FenceFailed { node, incarnation, tried: 0, by: NodeId(0), why });
        assert!(
            text(&registry).contains("node-b runs it; it failed once, last at node-a: power: exit status 1")
        );
        let proven = |by, by_hand, who: Option<&str>| Command::FenceProven {
            node,
            incarnation,
            need: Need::Program,
            by,
            by_hand,
            who: who.map(Into::into),
        };
        let mut by_hand = registry.clone();
        registry.apply(&proven(NodeId(1), false, None));
        assert_eq!(told(&registry, &out).as_deref(), Some("fenced by node-b"));
        by_hand.apply(&proven(NodeId(0), true, Some("uid 0")));
        assert_eq!(told(&by_hand, &out).as_deref(), Some("confirmed by hand at node-a by uid 0"));
        assert!(pending(&name, &by_hand).is_empty());
    }

    /// L4: without a fence it is said that there is none.
    #[test]
    fn a_verdict_without_a_fence_is_called_lease_only() {
        let (registry, out) = registry(Basis::Partition { kept: 2 }, vec![]);
        assert_eq!(pending(&name, &registry)[0].text, "waiting for the end of the lease of node-c (run 1)");
        assert_eq!(told(&registry, &out).as_deref(), Some("lease only"));
        let surrendered = Out { basis: Basis::Surrendered, ..out };
        assert_eq!(told(&registry, &surrendered), None);
    }
}
