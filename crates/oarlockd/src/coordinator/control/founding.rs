//! How a cluster begins, and how its voters follow what it decides about them.

use std::collections::BTreeSet;
use std::time::Duration;

use oarlock_cluster::registry::{Command, MemberRecord, Outcome, Refusal, Registry, Role};
use oarlock_layout::id::{Epoch, NodeId};

use crate::coordinator::etcd::External;
use crate::coordinator::raft::Embedded;
use crate::coordinator::{Coordinator, Trouble};

/// A founder that does not lead proposes the founding only if nobody has done so for this long.
const COURTESY: Duration = Duration::from_secs(1);
/// Members that join vote as long as no more than these do: seven go on without any three of them. Each more would only make
/// every decision wait for one more.
const VOTERS_MAX: usize = 7;
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// Begins the cluster that `founding` describes, and proposes it until there is one. At a node that has a log already
/// there is nothing to begin; but the founding may still be missing.
///
/// # Errors
/// The cluster cannot be founded so. [`Trouble::Stopped`] says only that the coordinator does not go on.
pub(super) async fn found(engine: &Embedded, founding: &Command) -> Result<(), String> {
    let Command::Init { members, .. } = founding else { unreachable!("a founding is an Init") };
    let voters = (0..members.len() as u16).map(NodeId).collect();
    let Ok(begun) = engine.has_begun().await else { return Ok(()) };
    if !begun {
        // If there is one, whoever hears of it ends this run meanwhile (engine/forgotten.rs).
        tokio::time::sleep(engine.listen()).await;
    }
    if !begun && engine.begin(&voters).await.is_err() {
        return Ok(());
    }
    let mut applied = engine.applied();
    let mut waited = Duration::ZERO;
    while applied.borrow_and_update().registry.cluster().is_none() {
        if engine.leads() || waited >= COURTESY {
            match engine.propose(founding).await {
                // Somebody else's came first, and with it another cluster: then that is the one.
                Ok(Outcome::Refused(Refusal::OtherCluster)) => return Ok(()),
                Ok(Outcome::Refused(why)) => return Err(why.to_string()),
                Err(why @ Trouble::Invalid(_)) => return Err(why.to_string()),
                Ok(_) | Err(Trouble::Stopped(_)) => return Ok(()),
                Err(Trouble::NoQuorum | Trouble::Unknown | Trouble::Behind) => {}
            }
        }
        tokio::time::sleep(PAUSE).await;
        waited += PAUSE;
    }
    Ok(())
}

/// The same where etcd decides: whoever comes first founds the cluster. A node that was in a view founds nothing: what etcd
/// kept is gone then, or this is another etcd, and others may still hold locks by what is kept elsewhere.
///
/// # Errors
/// The cluster cannot be founded so.
pub(super) async fn found_outside(engine: &External, founding: &Command) -> Result<(), String> {
    let Command::Init { above, cluster, .. } = founding else { unreachable!("a founding is an Init") };
    let is_new = *above == Epoch(0);
    loop {
        match engine.confirmed().await {
            Ok(registry) if registry.cluster().is_some_and(|it| is_new && it != *cluster) => {
                return Err("etcd keeps another cluster under this prefix; give each its own".into());
            }
            Ok(registry) if registry.cluster().is_some() => return Ok(()),
            Ok(_) if !is_new => {
                return Err(format!(
                    "etcd keeps no cluster under this prefix, and this node was in view {above} of one; endpoints or \
                     prefix are others than before, or etcd has lost what it kept"
                ));
            }
            Ok(_) => match engine.propose(founding).await {
                // Somebody else's came first, and with it another cluster.
                Ok(Outcome::Refused(Refusal::OtherCluster)) => {}
                Ok(Outcome::Refused(why)) => return Err(why.to_string()),
                Err(why @ Trouble::Invalid(_)) => return Err(why.to_string()),
                Ok(_) | Err(Trouble::Stopped(_)) => return Ok(()),
                Err(Trouble::NoQuorum | Trouble::Unknown | Trouble::Behind) => {}
            },
            Err(Trouble::Stopped(_)) => return Ok(()),
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Does the node vote that became a member with this revision? What is older may be of another one of its number.
pub(super) fn votes(registry: &Registry, node: NodeId, since: u64) -> bool {
    let member = registry.member(node).filter(|_| registry.revision() >= since);
    member.is_some_and(|it| !it.left && it.role == Role::Voter)
}

/// What the engine's voters and followers would be if they were what the registry says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Roles {
    voters: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
}

impl Roles {
    fn of(registry: &Registry) -> Roles {
        let mut roles = Roles::default();
        for member in registry.members() {
            match member.role {
                Role::Voter => roles.voters.insert(member.node),
                Role::Learner => roles.learners.insert(member.node),
            };
        }
        roles
    }

    fn now(engine: &Embedded) -> Roles {
        let standing = engine.standing();
        Roles {
            voters: standing.voters.into_iter().collect(),
            learners: standing.learners.into_iter().collect(),
        }
    }
}

/// Lets a member vote that serves and has nearly all of the log: it has joined, or it was to leave and stayed. One that was asked to
/// give way does not get its vote back before somebody says so.
pub(super) async fn promote(
    engine: &impl Coordinator,
    registry: &Registry,
    has_caught_up: impl Fn(NodeId) -> bool,
) -> Result<(), Trouble> {
    let votes = |member: &&MemberRecord| member.role == Role::Voter;
    if registry.members().filter(votes).count() >= VOTERS_MAX {
        return Ok(());
    }
    let ready = registry.members().find(|member| {
        let waits = member.role == Role::Learner && !member.drained;
        waits && registry.run(member.node).is_some() && has_caught_up(member.node)
    });
    match ready {
        Some(MemberRecord { node, revision: seen, .. }) => {
            let command = Command::SetRole { node: *node, seen: *seen, role: Role::Voter };
            // Refused: the record changed meanwhile, and the next look sees how.
            engine.propose(&command).await.map(|_| ())
        }
        None => Ok(()),
    }
}

/// Makes the engine's voters and followers those of the registry, if they differ and this node leads. One step after the
/// other, each repeated by whoever leads next if it was not finished.
///
/// # Errors
/// [`Trouble`]; it is to be called again.
pub(super) async fn follow(engine: &Embedded, registry: &Registry) -> Result<(), Trouble> {
    let (want, now) = (Roles::of(registry), Roles::now(engine));
    // A registry without voters has not been founded yet.
    if !engine.leads() || want.voters.is_empty() {
        return Ok(());
    }
    if want == now {
        return promote(engine, registry, |node| engine.has_caught_up(node)).await;
    }
    // Those who are to vote from now on decide this together with those who have until now. If the change had to wait for a
    // majority of them, every other decision would wait with it.
    let heard = engine.hear(&want.voters).await;
    let heard_enough = 2 * heard.len() > want.voters.len();
    // A leader that votes no more would have to go on without being counted; so another one makes the change.
    if !want.voters.contains(&engine.me()) {
        return match now.voters.intersection(&heard).next() {
            Some(next) if heard_enough => engine.hand_over(*next).await,
            _ => Err(Trouble::NoQuorum),
        };
    }
    // Who is to vote follows first: it must have the log by then.
    let newcomers = want.voters.union(&want.learners).filter(|node| !now.voters.contains(node));
    for node in newcomers.filter(|node| !now.learners.contains(node)) {
        engine.add_learner(*node).await?;
    }
    if want.voters != now.voters {
        if !heard_enough {
            return Err(Trouble::NoQuorum);
        }
        engine.set_voters(&want.voters).await?;
        // Who votes no more is gone altogether, and comes back as a follower in the next round.
        return Ok(());
    }
    let gone: BTreeSet<NodeId> = now.learners.difference(&want.learners).copied().collect();
    if gone.is_empty() { Ok(()) } else { engine.remove_learners(&gone).await }
}
