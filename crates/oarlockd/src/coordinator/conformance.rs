//! The engines of the daemon play the [scenes](oarlock_sim::conformance::scenes) that every coordinator plays.
//!
//! An engine joins by its [`Nodes`].

use std::sync::Arc;
use std::time::Duration;

use oarlock_cluster::registry::{Command, Outcome, Registry};
use oarlock_sim::conformance::scenes::{self, Cast, Doubt};
use tokio::time::Instant;

use super::{Coordinator, Trouble};

/// Three nodes of one engine.
pub(super) trait Nodes {
    /// Its coordinator.
    type Engine: Coordinator + Clone;

    /// Half of the elections take this long at most.
    const ELECTION: Duration;

    /// The coordinator of a node that lives.
    fn at(&self, node: usize) -> Self::Engine;

    /// Which node leads, once one of those that are not cut off does.
    async fn leader(&self) -> usize;

    /// The nodes hear each other no more, but those of `together`.
    fn cut(&self, together: &[usize]);

    /// What this node says is heard, and it hears nothing.
    fn deafen(&self, node: usize);

    /// All hear each other.
    fn heal(&self);

    /// The process of a node ends at once; its disk stays as it is.
    async fn kill(&self, node: usize);

    /// It starts again.
    async fn start(&self, node: usize);
}

/// What takes longer hangs, on any machine.
const LONG: Duration = Duration::from_secs(20);

/// All scenes, each with new nodes.
pub(super) async fn play_all<N: Nodes>(nodes: impl AsyncFn() -> N) {
    let begin = Instant::now();
    scenes::play_all(async || Playing { nodes: nodes().await, begin }).await;
}

/// Nodes of an engine, and the clock of their tasks.
struct Playing<N> {
    nodes: N,
    begin: Instant,
}

fn doubt(trouble: Trouble) -> Doubt {
    match trouble {
        Trouble::NoQuorum => Doubt::Nothing,
        Trouble::Unknown => Doubt::Unknown,
        other => Doubt::Ended(other.to_string()),
    }
}

impl<N: Nodes> Cast for Playing<N> {
    async fn propose(&self, node: usize, command: &Command) -> Result<Outcome, Doubt> {
        self.nodes.at(node).propose(command).await.map_err(doubt)
    }

    async fn confirmed(&self, node: usize) -> Result<Arc<Registry>, Doubt> {
        self.nodes.at(node).confirmed().await.map_err(doubt)
    }

    fn applied(&self, node: usize) -> (u64, Arc<Registry>) {
        let applied = self.nodes.at(node).applied();
        let applied = applied.borrow();
        (applied.steps, Arc::clone(&applied.registry))
    }

    async fn applies(&self, node: usize, above: u64) {
        let mut applied = self.nodes.at(node).applied();
        let seen = tokio::time::timeout(LONG, applied.wait_for(|applied| applied.steps > above)).await;
        seen.expect("it is applied there too").expect("it goes on");
    }

    fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    async fn leader(&self) -> usize {
        self.nodes.leader().await
    }

    fn cut(&self, together: &[usize]) {
        self.nodes.cut(together);
    }

    fn deafen(&self, node: usize) {
        self.nodes.deafen(node);
    }

    fn heal(&self) {
        self.nodes.heal();
    }

    async fn kill(&self, node: usize) {
        self.nodes.kill(node).await;
    }

    async fn start(&self, node: usize) {
        self.nodes.start(node).await;
    }

    fn election(&self) -> Duration {
        N::ELECTION
    }

    fn strays(&self) -> bool {
        false
    }
}
