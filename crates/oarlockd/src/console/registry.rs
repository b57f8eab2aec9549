//! What the coordinator keeps, as documents.

use std::sync::Arc;

use oarlock_cluster::registry::{self, Registry, Role};
use oarlock_layout::code::Code;
use oarlock_layout::id::NodeId;
use oarlock_layout::view::Member;

use super::{change, doc, failover, fences};
use crate::coordinator::backup::ClusterName;
use crate::coordinator::raft::Standing;
use crate::engine::Snapshot;

type Name<'a> = &'a dyn Fn(NodeId) -> String;

/// What the node has of it.
pub(super) fn known(snapshot: &Snapshot) -> Result<&Arc<Registry>, (Code, String)> {
    let none = || match change::undecidable(snapshot) {
        Some(why) => (Code::NoMajority, why),
        None => (Code::NotServing, "the node has not read what the coordinator keeps yet".into()),
    };
    snapshot.registry.as_ref().ok_or_else(none)
}

/// The document, once the registry was read.
pub(super) fn document(name: Name<'_>, snapshot: &Snapshot) -> Result<doc::Registry, (Code, String)> {
    let registry = known(snapshot)?;
    Ok(doc::Registry {
        v: doc::VERSION,
        node: snapshot.status.node.clone(),
        cluster_id: registry.cluster().map(|_| ClusterName(registry).to_string()),
        revision: registry.revision(),
        epoch: registry.view().epoch.0,
        watermark: registry.watermark().to_string(),
        coordinator: coordinator(name, &snapshot.standing),
        members: registry.members().map(|it| member(registry, it)).collect(),
        views: registry.history().iter().map(|it| verdict(name, registry, it)).collect(),
        fences: fences::pending(name, registry),
    })
}

/// Who decides.
pub(super) fn coordinator(name: Name<'_>, standing: &Standing) -> doc::Coordinator {
    let names = |nodes: &[NodeId]| nodes.iter().map(|node| name(*node)).collect();
    doc::Coordinator {
        engine: if standing.outside.is_some() { "etcd" } else { "raft" }.into(),
        leader: standing.leader.map(name),
        voters: names(&standing.voters),
        learners: names(&standing.learners),
        endpoint: standing.outside.as_ref().map(|it| it.endpoint.clone()),
        answers: standing.outside.as_ref().map(|it| it.answers),
    }
}

/// A run by the name of its node.
pub(super) fn run(name: Name<'_>, run: Member) -> doc::Run {
    doc::Run { node: name(run.node), incarnation: run.incarnation.0 }
}

fn member(registry: &Registry, it: &registry::MemberRecord) -> doc::MemberRecord {
    let role = match it.role {
        Role::Voter => "voter",
        Role::Learner => "learner",
    };
    doc::MemberRecord {
        node: it.name.clone(),
        id: it.node.0,
        role: role.into(),
        address: it.address.to_string(),
        view_run: registry.run(it.node).map(|run| run.0),
        entered: it.entered.0,
        renewals: it.renewal,
        surrendered: it.surrendered,
        drained: it.drained,
    }
}

fn verdict(name: Name<'_>, all: &Registry, it: &registry::Change) -> doc::Verdict {
    let departed = |out: &registry::Out| {
        let (word, why) = failover::basis(out.basis);
        let member = Member { node: out.node, incarnation: out.incarnation };
        let fence = fences::of_verdict(name, all, out);
        doc::Departed { run: run(name, member), basis: Some(word.into()), why, fence }
    };
    doc::Verdict {
        epoch: it.view.epoch.0,
        members: it.view.members.iter().map(|it| run(name, *it)).collect(),
        out: it.out.iter().map(departed).collect(),
        entered: it.entered.iter().map(|it| run(name, *it)).collect(),
        note: it.note.clone(),
    }
}
