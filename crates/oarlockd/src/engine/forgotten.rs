//! A data directory that is new, of a member that is not.
//!
//! What the member promised and stored as a voter is lost with the directory that it had. Members that know of its earlier runs
//! refuse circuits to this one, and the registry does not let it in; but its runs would be numbered from 1 again, and after some
//! restarts it would pass for the next one. So it stops at once, and the directory remembers that no run may begin in it.

use oarlock_cluster::registry::Registry;
use oarlock_layout::code::Code;
use oarlock_layout::id::{Epoch, Incarnation};
use oarlock_layout::time::Instant;
use oarlock_node::Node;
use tracing::error;

use super::Engine;
use crate::host::clock;
use crate::host::state::DataDir;
use crate::problem::Problem;

const FIRST: Incarnation = Incarnation(1);
/// What a registry says of its next token until there was one.
const NO_TOKEN_YET: u64 = 1;

impl Engine {
    /// A member refuses this run. If it knows another one, and this is the first of its directory, that is why. If it knows another
    /// node in this one's place, and this one is to found the cluster, there is one already.
    pub(super) fn refused_by(&mut self, now: Instant, node: &str, code: Code) {
        let state = self.p.data.state();
        let begins =
            state.epoch == Epoch(0) && self.registry.as_ref().is_none_or(|it| it.cluster().is_none());
        if code == Code::PeerKey && self.p.founders > 0 && begins && self.stopping.is_none() {
            // Another has this node's place. Whoever is to found a cluster beside the one that there is must not come to it.
            let what = format!("{node} has another key for this node, which knows of no cluster yet");
            let problem = Problem::new(Code::PeerKey, what)
                .because("the cluster may live on, and this node have left it: then it must not be founded again")
                .try_next(format!(
                    "if the cluster lives, join it anew: `oarlock token create` there, `oarlock join` here with a \
                     configuration without members; if it is to be founded, correct the key of this node at {node}"
                ));
            error!("{problem}");
            self.down = Some(problem);
            return self.stop(now);
        }
        let first = state.incarnation == FIRST;
        if code != Code::PeerRestarted || !first || self.stopping.is_some() {
            return;
        }
        let why = "knows another run of this node, and this is the first one in this data directory";
        self.disown(now, &format!("{node} {why}"));
    }

    /// Somebody was refused who has the cluster's secret, calls this node by its key, and has a key that nobody knows here. If it says that
    /// it is no founder, it has joined; and nobody can have joined what this first run has founded, or is about to. Then there is
    /// a cluster that this node founded in a directory which is lost. But a founder that has left is a stranger as well, and calls for as
    /// long as it waits for its programs.
    pub(super) fn called_by(&mut self, now: Instant, node: &str, code: Code) {
        let state = self.p.data.state();
        // A backup may be older than a member: what was restored from it refuses that member, and goes on.
        let first = state.incarnation == FIRST && state.restored.is_none();
        let first = first && self.p.founders > 0 && self.stopping.is_none();
        let nobody_joined =
            self.registry.as_ref().is_none_or(|it| it.cluster().is_none() || it.next_token() == NO_TOKEN_YET);
        let founders = self.p.founders;
        let nobody_left = self
            .registry
            .as_ref()
            .is_none_or(|it| it.cluster().is_none() || it.members().count() >= founders);
        let is_member = self.p.node.status(now).members.iter().any(|it| it.name == node);
        if code == Code::PeerKey && first && nobody_joined && nobody_left && !is_member {
            self.disown(
                now,
                &format!("{node} has joined this cluster, and nobody has in this data directory"),
            );
        }
    }

    /// This run is not let in. If another one of its number or later was, its directory is not the one in which that ran.
    pub(super) fn refused_entry(&mut self, now: Instant, why: &str) {
        let again = is_another_first(&self.p.node, &self.p.data, self.registry.as_deref());
        if again && self.stopping.is_none() {
            self.disown(now, &of_first(why));
        }
    }

    fn disown(&mut self, now: Instant, why: &str) {
        let data = &self.p.data;
        let problem = self.sessions.with_spare(|| disown(data, why));
        error!("{problem}");
        self.down = Some(problem);
        self.stop(now);
    }
}

/// Why a run that has ended was not let in.
pub(super) fn not_let_in(node: &Node, data: &DataDir, registry: Option<&Registry>, why: &str) -> Problem {
    if is_another_first(node, data, registry) {
        return disown(data, &of_first(why));
    }
    Problem::new(Code::Refused, "this node is not let into the cluster").because(why)
}

/// This is the first run of a directory, and was refused, although the registry knows that a run of this node was in. A first run that was
/// in itself is not refused, so it was another one of that number, or a later one.
fn is_another_first(node: &Node, data: &DataDir, registry: Option<&Registry>) -> bool {
    let me = node.status(clock::now()).me;
    let entered = registry.and_then(|registry| registry.member(me)).map(|member| member.entered);
    data.state().incarnation == FIRST && entered >= Some(FIRST)
}

fn of_first(why: &str) -> String {
    format!("{why}, and this is the first run in this data directory")
}

fn disown(data: &DataDir, why: &str) -> Problem {
    match data.disown(why) {
        Ok(()) => data.disowned(why),
        Err(problem) => problem,
    }
}
