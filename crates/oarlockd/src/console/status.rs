//! The status document, from what the engine says of itself.

use std::time::Duration;

use oarlock_circuit::{CircuitStatus, State};
use oarlock_layout::code::Code;
use oarlock_layout::id::{Incarnation, SpaceId};
use oarlock_layout::time::Instant;
use oarlock_node::MemberStatus;
use oarlock_node::rights::Permit;

use super::{doc, fences, registry};
use crate::config::{Config, Shared};
use crate::engine::Snapshot;
use crate::host::people;

/// What owner and group of each lockspace are called.
pub(super) fn called(config: &Config, permit: &Permit) -> Vec<(String, String)> {
    let names = config.spaces.iter().zip(&permit.accesses[..]).map(|(space, access)| {
        let owner = space.given.owner.clone().unwrap_or_else(|| people::user_name(access.owner));
        let group = space.given.group.clone().unwrap_or_else(|| people::group_name(access.group));
        (owner, group)
    });
    names.collect()
}

/// The document, with what somebody may see of it.
pub(super) fn document(
    config: &Config,
    snapshot: &Snapshot,
    permit: &Permit,
    called: &[(String, String)],
) -> doc::Status {
    let s = &snapshot.status;
    let name = super::names(config, snapshot);
    let members = s.members.iter().map(|m| member(config, snapshot, m));
    let all = s.spaces.iter().zip(&config.spaces).zip(&snapshot.segments).enumerate();
    let seen = all.filter(|(index, _)| permit.sees(SpaceId(*index as u16)));
    let spaces: Vec<_> = seen
        .map(|(index, ((s, c), segment))| doc::Space {
            name: s.name.clone(),
            order: c.order.name().into(),
            retain: c.retain,
            resources: s.resources as u64,
            resources_max: c.resources_max.into(),
            mastered: s.mastered as u64,
            waiting: s.waiting as u64,
            grants: s.counters.local_grants,
            covered_grants: s.counters.covered_grants,
            segment: *segment,
            attached_sessions: s.tally.attached.into(),
            fast_grants: s.tally.grants,
            fast_considered: s.tally.considered,
            fast_handed_over: s.tally.handed_over,
            messages: s.counters.messages_sent(),
            owner: called[index].0.clone(),
            group: called[index].1.clone(),
            mode: format!("{:04o}", c.given.mode),
            nodes: c.given.nodes.clone(),
            yours: permit.letters(SpaceId(index as u16)).into(),
        })
        .collect();
    doc::Status {
        v: doc::VERSION,
        cluster: s.cluster.clone(),
        node: s.node.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        socket: config.socket.display().to_string(),
        listen: config.listen.to_string(),
        api: config.api.map(|api| api.to_string()),
        phase: s.phase.name().into(),
        serving: s.phase == oarlock_layout::message::form::Phase::Serving,
        healthy: s.is_well(),
        epoch: s.epoch.0,
        granting: s.open,
        incarnation: s.incarnation.0,
        uptime_s: snapshot.now.since(snapshot.began).as_secs(),
        shared: config.shared().to_string(),
        reasons: reasons(config, snapshot),
        members: members.collect(),
        hidden_spaces: (s.spaces.len() - spaces.len()) as u64,
        spaces,
        sessions: s.sessions as u64,
        coordinator: registry::coordinator(&name, &snapshot.standing),
        fencing: fences::policy(config),
        fences: snapshot.registry.as_ref().map_or(Vec::new(), |it| fences::pending(&name, it)),
        clock: Some(clock(s)),
    }
}

fn clock(s: &oarlock_node::Status) -> doc::Clock {
    let c = &s.clock;
    let name = |node| s.members.iter().find(|m| m.node == node).map(|m| m.name.clone()).unwrap_or_default();
    let others = c.others.iter().map(|other| doc::ClockMember {
        node: name(other.node),
        ceiling: other.heard.map(|ceiling| ceiling.to_string()),
        acked: other.acked.to_string(),
    });
    doc::Clock {
        v: doc::VERSION,
        node: s.node.clone(),
        epoch: c.epoch.0,
        stamp: c.stamp.to_string(),
        watermark: c.watermark.map(|high| high.0.to_string()),
        ceiling: c.ceiling.unwrap_or_default().to_string(),
        granted: c.granted.to_string(),
        stored: c.stored.to_string(),
        issued: c.counters.issued,
        raises: c.counters.raises,
        stores: c.counters.stores,
        waits: c.counters.waits,
        others: others.collect(),
    }
}

/// What the node says is wrong, and what its circuits know about refusals.
fn reasons(config: &Config, snapshot: &Snapshot) -> Vec<doc::Reason> {
    let s = &snapshot.status;
    let reason = |code: &Code, text: String| doc::Reason { code: code.to_string(), text };
    let mut reasons: Vec<_> = s.problems.iter().map(|(code, text)| reason(code, text.clone())).collect();
    for m in &s.members {
        if let Some(circuit) = &m.circuit
            && let State::Refused(code) = circuit.state
        {
            let code = refusal(config.shared(), circuit.shared, code);
            let title = crate::explain::page(code).title;
            reasons.push(reason(
                &code,
                format!("no circuit to {}: {title}{}", m.name, differing(config.shared(), circuit)),
            ));
        }
    }
    reasons
}

fn member(config: &Config, snapshot: &Snapshot, m: &MemberStatus) -> doc::Member {
    let own = m.is_me.then_some(snapshot.status.incarnation);
    let incarnation = m.circuit.as_ref().and_then(|c| c.incarnation).or(own).unwrap_or(Incarnation(0));
    doc::Member {
        node: m.name.clone(),
        id: m.node.0,
        address: m.address.to_string(),
        this: m.is_me,
        in_view: m.in_view,
        view_run: snapshot.view.member(m.node).map_or(0, |member| member.incarnation.0),
        drained: snapshot.registry.as_ref().and_then(|it| it.member(m.node)).is_some_and(|it| it.drained),
        heard: m.heard,
        incarnation: incarnation.0,
        circuit: m.circuit.as_ref().map(|c| circuit(config, snapshot.now, m, c)),
    }
}

fn circuit(config: &Config, now: Instant, m: &MemberStatus, c: &CircuitStatus) -> doc::Circuit {
    let why = match c.state {
        State::Refused(code) => {
            let code = refusal(config.shared(), c.shared, code);
            Some(format!("{code} {}{}", crate::explain::page(code).title, differing(config.shared(), c)))
        }
        _ => None,
    };
    doc::Circuit {
        state: c.state.name().into(),
        silent_ms: ms(m.silent_for.unwrap_or_default()),
        rtt_us: c.rtt.map_or(0, |d| d.as_micros() as u64),
        key_age_s: c.keyed_at.map_or(0, |at| now.since(at).as_secs()),
        backlog_bytes: c.backlog as u64,
        sent: c.counters.datagrams_sent,
        received: c.counters.datagrams_received,
        resent: c.counters.resent,
        duplicates: c.counters.duplicates,
        why,
    }
}

/// Circuits know one number that members share. What differs in it may have a code of its own.
pub(crate) fn refusal(ours: Shared, theirs: Option<u64>, code: Code) -> Code {
    match theirs {
        Some(theirs) if code == Code::PeerConfig && ours.differs_in_beginning(Shared(theirs)) => {
            Code::PeerRestored
        }
        _ => code,
    }
}

/// The keys of the shared configuration in which a peer differs, if it does.
pub(crate) fn differing(ours: Shared, circuit: &CircuitStatus) -> String {
    let differs = circuit.shared.map(Shared).filter(|theirs| !ours.differs_in_beginning(*theirs));
    match differs.map(|theirs| ours.differing(theirs)) {
        Some(keys) if !keys.is_empty() => format!("; it differs in {}", keys.join(" and ")),
        _ => String::new(),
    }
}

fn ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
