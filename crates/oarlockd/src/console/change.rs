//! Changes that people ask for: each becomes a command of the registry, and what came of it a document.

use std::sync::Arc;

use oarlock_cluster::registry::{Basis, Command, Fence, Need, Out, Outcome, Registry};
use oarlock_layout::code::Code;
use oarlock_layout::id::{Epoch, Incarnation, NodeId};
use oarlock_node::MemberStatus;
use tokio::sync::oneshot;

use super::{Console, doc, fences, names, registry, wait};
use crate::coordinator::Trouble;
use crate::engine::{Control, Proposed, Snapshot};
use crate::problem::did_you_mean;

/// What was sent to a leader that has just ended is not known to be decided, and is asked again: of its successor. A
/// command says by itself whether it is still wanted.
const TRIES: u32 = 3;

pub(super) type Answer<T> = Result<T, (Code, String)>;

/// What somebody asked for.
pub(super) enum Wish {
    Evict { node: String, run: Incarnation, epoch: Epoch, fences: Vec<Need> },
    Drain { node: String, drained: bool },
    Unfence { node: String, run: Incarnation, who: String },
}

/// The commands that a wish comes to, one after the other, with what the log says of it.
struct Plan {
    commands: Vec<Command>,
    /// The run that is to be out with it, if any.
    out: Option<(NodeId, Incarnation)>,
    text: String,
}

impl Console {
    /// Does what somebody asked for, or says why it was not done.
    pub(super) async fn change(&self, wish: Wish) -> Answer<doc::Changed> {
        let snapshot = self.snapshot().await?;
        // Asked before anything is on its way: then it is certain that nothing came of it. A leader that this node
        // remembers, and that is gone, would only not answer; and what etcd keeps this node may not have read yet.
        decidable(&snapshot)?;
        let mut seen = registry::known(&snapshot)?.clone();
        let name = names(&self.config, &snapshot);
        let Plan { commands, out, text } = plan(&name, &snapshot, &seen, &wish)?;
        let mut changed = false;
        for command in commands {
            let (outcome, after, doubtful) = self.propose(&command, &text).await?;
            let gone = out.is_some_and(|(node, run)| after.run(node) != Some(run));
            // What is so already may have come of an earlier try.
            changed |= outcome.changed() || doubtful;
            match outcome {
                // Somebody else put it out, with whatever verdict: what was asked for is so.
                Outcome::Refused(_) if gone => {}
                Outcome::Refused(why) => {
                    return Err((Code::ChangeRefused, format!("it was not done: {why}")));
                }
                Outcome::Done | Outcome::Joined { .. } | Outcome::Already => {}
            }
            seen = after;
        }
        Ok(doc::Changed {
            v: doc::VERSION,
            node: snapshot.status.node.clone(),
            changed,
            epoch: seen.view().epoch.0,
            members: seen.view().members.iter().map(|it| registry::run(&name, *it)).collect(),
            fences: fences::pending(&name, &seen),
        })
    }

    /// What came of it, with the registry since, and whether an earlier try may have brought it about.
    pub(super) async fn propose(
        &self,
        command: &Command,
        text: &str,
    ) -> Answer<(Outcome, Arc<Registry>, bool)> {
        let mut tries = 0;
        loop {
            let (sender, receiver) = oneshot::channel::<Proposed>();
            let (command, text) = (command.clone(), text.to_owned());
            self.link.send(Control::Propose { command, text, reply: sender });
            tries += 1;
            match wait(receiver).await? {
                Ok((outcome, registry)) => return Ok((outcome, registry, tries > 1)),
                Err(Trouble::Unknown) if tries < TRIES => {}
                Err(trouble) => return Err(denied(&trouble)),
            }
            if undecidable(&self.snapshot().await?).is_some() {
                return Err(denied(&Trouble::Unknown));
            }
        }
    }
}

/// Why nothing can be decided at this moment, as far as this node knows.
pub(super) fn undecidable(snapshot: &Snapshot) -> Option<String> {
    let node = &snapshot.status.node;
    if let Some(outside) = &snapshot.standing.outside {
        let silent = || format!("no majority of etcd answers {node}; it last asked {}", outside.endpoint);
        return (!outside.answers).then(silent);
    }
    let (heard, voters) = heard(snapshot);
    (2 * heard <= voters).then(|| format!("{node} hears {heard} of {voters} voters, which is no majority"))
}

/// How many of the voters this node hears, itself included, and how many there are; one before it knows of any.
pub(super) fn heard(snapshot: &Snapshot) -> (usize, usize) {
    let voters = &snapshot.standing.voters;
    let heard = |m: &&MemberStatus| m.heard && voters.contains(&m.node);
    (snapshot.status.members.iter().filter(heard).count(), voters.len().max(1))
}

/// Whether anything can be decided now.
pub(super) fn decidable(snapshot: &Snapshot) -> Answer<()> {
    undecidable(snapshot).map_or(Ok(()), |why| Err((Code::NoMajority, why)))
}

fn denied(trouble: &Trouble) -> (Code, String) {
    let code = match trouble {
        Trouble::NoQuorum => Code::NoMajority,
        Trouble::Unknown => Code::OutcomeUnknown,
        Trouble::Behind => Code::ChangeRefused,
        Trouble::Invalid(_) => Code::Failed,
        Trouble::Stopped(_) => Code::CoordinatorStopped,
    };
    (code, trouble.to_string())
}

/// The member of that name.
pub(super) fn member(registry: &Registry, typed: &str) -> Answer<NodeId> {
    let found = registry.members().find(|m| m.name == typed);
    found.map(|m| m.node).ok_or_else(|| {
        let all: Vec<_> = registry.members().map(|m| m.name.as_str()).collect();
        let hint = did_you_mean(typed, all.iter().copied())
            .map_or(String::new(), |it| format!("; did you mean {it}?"));
        (Code::Usage, format!("there is no member {typed:?}; this cluster has {}{hint}", all.join(", ")))
    })
}

fn plan(
    name: &dyn Fn(NodeId) -> String,
    snapshot: &Snapshot,
    registry: &Registry,
    wish: &Wish,
) -> Answer<Plan> {
    let me = snapshot.status.me;
    match wish {
        Wish::Evict { node: typed, run, epoch, fences } => {
            let node = member(registry, typed)?;
            if node == me {
                // The answer would end with the session, and nobody would know what came of it.
                let text = format!("{typed} cannot put itself out: stop it, or ask another member");
                return Err((Code::ChangeRefused, text));
            }
            let out = Out { node, incarnation: *run, basis: Basis::ByHand, fences: fences.clone() };
            let note = Some(format!("asked at {}", snapshot.status.node));
            Ok(Plan {
                commands: vec![Command::Evict { epoch: *epoch, out: vec![out], note }],
                out: Some((node, *run)),
                text: format!("somebody asks to put run {run} of {typed} out of view {epoch}"),
            })
        }
        Wish::Drain { node: typed, drained } => {
            let node = member(registry, typed)?;
            let seen = registry.member(node).expect("it was found there").revision;
            let command = match drained {
                true => Command::Drain { node, seen },
                false => Command::Undrain { node, seen },
            };
            let verb = if *drained { "drain" } else { "undrain" };
            Ok(Plan { commands: vec![command], out: None, text: format!("somebody asks to {verb} {typed}") })
        }
        Wish::Unfence { node: typed, run, who } => {
            // Whoever has left is no member, and its fences stay.
            let pending = registry.fences().find(|it| name(it.node) == *typed && it.incarnation == *run);
            let proven = |it: &Fence| {
                let (node, incarnation) = (it.node, it.incarnation);
                let one = |need: &_| Command::FenceProven {
                    node,
                    incarnation,
                    need: *need,
                    by: me,
                    by_hand: true,
                    who: Some(who.clone()),
                };
                it.needs.iter().map(one).collect()
            };
            Ok(Plan {
                commands: pending.map_or(Vec::new(), proven),
                out: None,
                text: format!("{who} says that run {run} of {typed} needs no fence any more"),
            })
        }
    }
}
