//! What every coordinator must do, whatever engine is below: the same scenes for each of them.
//!
//! An engine joins by a [`Cast`]: three nodes that can be cut off, killed and started again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use oarlock_cluster::registry::{
    Basis, Command, FirstSpace, Founder, Order, Out, Outcome, Refusal, Registry, SpaceSettings,
};
use oarlock_layout::id::{Epoch, Incarnation, NodeId, SpaceId};
use oarlock_layout::seal::PublicKey;

use super::{Coordinator, Trouble};

/// Three nodes of one engine.
pub(super) trait Cast {
    /// Its coordinator.
    type Engine: Coordinator + Clone;

    /// The coordinator of a node that lives.
    fn at(&self, node: usize) -> Self::Engine;

    /// Which node leads, once one of those that are not cut off does.
    async fn leader(&self) -> usize;

    /// The nodes hear each other no more, but those of `together`.
    fn cut(&self, together: &[usize]);

    /// All hear each other.
    fn heal(&self);

    /// The process of a node ends at once; its disk stays as it is.
    async fn kill(&self, node: usize);

    /// It starts again.
    async fn start(&self, node: usize);
}

const NODES: usize = 3;
/// What takes longer hangs, on any machine.
const LONG: Duration = Duration::from_secs(20);

/// All scenes, each on a new cast.
pub(super) async fn play_all<C: Cast>(cast: impl AsyncFn() -> C) {
    one_order_for_all(&cast().await).await;
    of_two_that_exclude_each_other_one_is_done(&cast().await).await;
    who_reads_sees_all_that_was_decided(&cast().await).await;
    a_minority_decides_nothing(&cast().await).await;
    a_renewal_at_a_leader_that_is_cut_off_does_not_count(&cast().await).await;
    what_was_decided_outlives_every_process(&cast().await).await;
    another_leads_soon(&cast().await).await;
}

// ----- what is proposed ---------------------------------------------------------------------------------------

const CLUSTER: [u8; 16] = [7; 16];

fn settings() -> SpaceSettings {
    SpaceSettings {
        order: Order::Passover,
        value: 64,
        retain: true,
        resources_max: 1 << 20,
        owner: 0,
        group: 0,
        mode: 0o660,
    }
}

fn init() -> Command {
    let address = ([127, 0, 0, 1], 7000).into();
    let members = vec![Founder { name: "n0".into(), address, key: PublicKey([1; 32]) }];
    let spaces = vec![FirstSpace { name: "default".into(), settings: settings() }];
    Command::Init { cluster: CLUSTER, members, spaces, above: Epoch(0) }
}

fn start(incarnation: u64) -> Command {
    let key = PublicKey([1; 32]);
    Command::Start {
        node: NodeId(0),
        key,
        incarnation: Incarnation(incarnation),
        nonce: 5,
        fences: Vec::new(),
    }
}

fn renew(number: u64) -> Command {
    Command::Renew { node: NodeId(0), incarnation: Incarnation(1), number }
}

fn evict(epoch: Epoch, renewal: u64) -> Command {
    let out = Out {
        node: NodeId(0),
        incarnation: Incarnation(1),
        basis: Basis::LeaseOver { renewal },
        fences: Vec::new(),
    };
    Command::Evict { epoch, out: vec![out], note: None }
}

fn space(id: u16, name: &str) -> Command {
    Command::CreateSpace { id: SpaceId(id), name: name.into(), settings: settings() }
}

/// Asks again while it is not known what came of it.
async fn decide(engine: &impl Coordinator, command: &Command) -> Outcome {
    let begin = Instant::now();
    loop {
        match engine.propose(command).await {
            Ok(outcome) => return outcome,
            Err(Trouble::NoQuorum | Trouble::Unknown) if begin.elapsed() < LONG => {}
            Err(trouble) => panic!("{command:?}: {trouble}"),
        }
    }
}

/// The same, of a command that nobody else can have made late.
async fn done(engine: &impl Coordinator, command: &Command) {
    match decide(engine, command).await {
        Outcome::Done | Outcome::Already => {}
        other => panic!("{command:?}: {other:?}"),
    }
}

async fn read(engine: &impl Coordinator) -> Arc<Registry> {
    let begin = Instant::now();
    loop {
        match engine.confirmed().await {
            Ok(registry) => return registry,
            Err(Trouble::NoQuorum | Trouble::Unknown) if begin.elapsed() < LONG => {}
            Err(trouble) => panic!("{trouble}"),
        }
    }
}

async fn same_everywhere<C: Cast>(cast: &C) -> Arc<Registry> {
    let first = read(&cast.at(0)).await;
    for node in 1..NODES {
        assert_eq!(read(&cast.at(node)).await.snapshot(), first.snapshot(), "node {node}");
    }
    first
}

// ----- scenes -------------------------------------------------------------------------------------------------

/// Whoever proposes hears what came of it, and every node has the same registry afterwards. What is said again changes
/// nothing.
async fn one_order_for_all<C: Cast>(cast: &C) {
    assert_eq!(decide(&cast.at(0), &init()).await, Outcome::Done);
    assert_eq!(decide(&cast.at(1), &start(1)).await, Outcome::Done);
    for number in 1..=30 {
        assert_eq!(
            decide(&cast.at(number as usize % NODES), &renew(number)).await,
            Outcome::Done,
            "{number}"
        );
    }
    let revision = same_everywhere(cast).await.revision();
    assert_eq!(decide(&cast.at(2), &renew(30)).await, Outcome::Already);
    assert_eq!(same_everywhere(cast).await.revision(), revision);
    // Whoever watches sees the steps rise, and the registry with them.
    let mut applied = cast.at(2).applied();
    let before = applied.borrow_and_update().steps;
    done(&cast.at(0), &renew(31)).await;
    let seen = tokio::time::timeout(LONG, applied.wait_for(|applied| applied.steps > before)).await;
    assert!(seen.expect("it is applied there too").unwrap().registry.revision() > revision);
}

/// Both are conditional on the same number: the second finds it taken, wherever it was proposed.
async fn of_two_that_exclude_each_other_one_is_done<C: Cast>(cast: &C) {
    decide(&cast.at(0), &init()).await;
    for id in 1..=15 {
        let (a, b) = (cast.at(id as usize % NODES), cast.at((id as usize + 1) % NODES));
        let (one, other) = (space(id, &format!("one{id}")), space(id, &format!("other{id}")));
        let outcomes = tokio::join!(decide(&a, &one), decide(&b, &other));
        let done = [outcomes.0, outcomes.1].iter().filter(|outcome| **outcome == Outcome::Done).count();
        let refused = |o: &Outcome| matches!(o, Outcome::Refused(Refusal::NotNext { .. }));
        let refused = [outcomes.0, outcomes.1].iter().filter(|outcome| refused(outcome)).count();
        // One that was asked again finds its own work done.
        assert!(done <= 1 && done + refused == 2, "{outcomes:?}");
    }
    assert_eq!(same_everywhere(cast).await.spaces().count(), 16);
}

/// A read that begins after a decision sees it, at every node at once.
async fn who_reads_sees_all_that_was_decided<C: Cast>(cast: &C) {
    decide(&cast.at(0), &init()).await;
    decide(&cast.at(0), &start(1)).await;
    for number in 1..=20 {
        let writer = cast.at(number as usize % NODES);
        done(&writer, &renew(number)).await;
        let reader = cast.at((number as usize + 1) % NODES);
        // One more would change the registry: so it has seen this one.
        let seen = read(&reader).await;
        assert_eq!(seen.as_ref().clone().apply(&renew(number)), Outcome::Already, "renewal {number}");
    }
}

/// One node that is alone hears that it cannot; the others go on; what it proposed meanwhile does no harm later.
async fn a_minority_decides_nothing<C: Cast>(cast: &C) {
    decide(&cast.at(0), &init()).await;
    decide(&cast.at(0), &start(1)).await;
    for alone in 0..NODES {
        let others: Vec<usize> = (0..NODES).filter(|node| *node != alone).collect();
        cast.cut(&others);
        let steps = cast.at(others[0]).applied().borrow().steps;
        let begin = Instant::now();
        let trouble = cast.at(alone).propose(&renew(1_000)).await.unwrap_err();
        assert!(matches!(trouble, Trouble::NoQuorum | Trouble::Unknown), "{trouble}");
        assert!(cast.at(alone).confirmed().await.is_err(), "nothing confirms that this is the newest");
        assert!(begin.elapsed() < LONG, "it took {:?} to hear that", begin.elapsed());
        done(&cast.at(others[0]), &renew(alone as u64 + 1)).await;
        assert!(cast.at(others[0]).applied().borrow().steps > steps);
        cast.heal();
        let renewal = same_everywhere(cast).await.member(NodeId(0)).map(|member| member.renewal);
        assert_eq!(renewal, Some(alone as u64 + 1), "what a minority wanted was decided after all");
    }
}

/// L2: a leader and the node whose lease it is are cut off together. What it renews there counts nowhere; the others end
/// the lease, and when all hear each other again the late renewal is refused.
async fn a_renewal_at_a_leader_that_is_cut_off_does_not_count<C: Cast>(cast: &C) {
    decide(&cast.at(0), &init()).await;
    decide(&cast.at(0), &start(1)).await;
    decide(&cast.at(0), &renew(1)).await;
    let leader = cast.leader().await;
    let others: Vec<usize> = (0..NODES).filter(|node| *node != leader).collect();
    cast.cut(&others);
    let (old, new) = (cast.at(leader), cast.at(others[0]));
    // At once, while it has every reason to believe that it leads.
    assert!(old.confirmed().await.is_err(), "it says by itself that nothing newer was decided");
    let late = renew(2);
    let (renewed, epoch) = tokio::join!(old.propose(&late), async {
        let registry = read(&new).await;
        decide(&new, &evict(registry.view().epoch, 1)).await;
        assert!(read(&new).await.run(NodeId(0)).is_none(), "the lease was not ended");
        registry.view().epoch
    });
    assert!(renewed.is_err(), "a cut-off leader said that the lease goes on: {renewed:?}");
    assert!(old.confirmed().await.is_err());
    cast.heal();
    let refused = decide(&cast.at(leader), &renew(2)).await;
    assert!(matches!(refused, Outcome::Refused(_)), "{refused:?}");
    let registry = same_everywhere(cast).await;
    assert!(registry.view().epoch > epoch && registry.run(NodeId(0)).is_none());
}

/// Each process is killed once, then all at once.
async fn what_was_decided_outlives_every_process<C: Cast>(cast: &C) {
    decide(&cast.at(0), &init()).await;
    decide(&cast.at(0), &start(1)).await;
    let mut number = 0;
    for node in (0..NODES).chain(0..NODES) {
        cast.kill(node).await;
        for _ in 0..5 {
            number += 1;
            done(&cast.at((node + 1) % NODES), &renew(number)).await;
        }
        cast.start(node).await;
    }
    let before = same_everywhere(cast).await;
    for node in 0..NODES {
        cast.kill(node).await;
    }
    for node in 0..NODES {
        cast.start(node).await;
    }
    assert_eq!(same_everywhere(cast).await.snapshot(), before.snapshot());
    assert_eq!(decide(&cast.at(0), &renew(number)).await, Outcome::Already);
}

/// The loss of a leader holds nobody up for longer than a lease can wait (L6).
async fn another_leads_soon<C: Cast>(cast: &C) {
    decide(&cast.at(0), &init()).await;
    decide(&cast.at(0), &start(1)).await;
    for number in 1..=3 {
        let leader = cast.leader().await;
        cast.kill(leader).await;
        let begin = Instant::now();
        decide(&cast.at((leader + 1) % NODES), &renew(number)).await;
        println!("another leads after {:?}", begin.elapsed());
        cast.start(leader).await;
        same_everywhere(cast).await;
    }
}
