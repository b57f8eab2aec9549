//! What every coordinator must do, whatever engine is below: the same scenes for each of them.
//!
//! ```text
//!                    ┌── three nodes with embedded Raft ─────────────┐
//!   Scene ── Cast ───┼── three nodes beside three members of etcd ───┤ propose, confirmed, applied
//!                    └── three nodes of the simulated coordinator ───┘ cut, deafen, kill, start
//! ```
//!
//! A coordinator joins by a [`Cast`]: three nodes that can be cut off, made deaf, killed and started again. Time is the
//! cast's: the clock for real engines, the queue's for the simulated one, which plays every scene in all the weather that
//! simulated clusters have. So scenes wait only for what the cast promises, and know no runtime.
//!
//! What a scene claims is what nodes rely on, no more: an answer is true, what was decided stays, no answer means that
//! asking again is safe (L2).

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use oarlock_cluster::lease::{Lease, Output, Standing};
use oarlock_cluster::registry::{
    Basis, Command, FirstSpace, Founder, Order, Out, Outcome, Refusal, Registry, SpaceSettings,
};
use oarlock_layout::id::{Epoch, Incarnation, NodeId, SpaceId};
use oarlock_layout::limit::{LEASE, LEASE_MARGIN};
use oarlock_layout::seal::PublicKey;
use oarlock_layout::time::Instant;

/// Why a proposal has no outcome, or nothing can be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Doubt {
    /// Nothing came of it, and nothing will.
    Nothing,
    /// Whether anything came of it is not known.
    Unknown,
    /// This node takes no part any more.
    Ended(String),
}

/// Three nodes of one coordinator.
pub trait Cast {
    /// A node proposes. The outcome once it was applied there, or how much is known after the patience of a node.
    fn propose(&self, node: usize, command: &Command) -> impl Future<Output = Result<Outcome, Doubt>>;

    /// What a node reads: all that was decided before this call.
    fn confirmed(&self, node: usize) -> impl Future<Output = Result<Arc<Registry>, Doubt>>;

    /// How much a node has applied, and what came of that. It may be behind.
    fn applied(&self, node: usize) -> (u64, Arc<Registry>);

    /// Until a node tells whoever watches that it has applied more than so much.
    fn applies(&self, node: usize, above: u64) -> impl Future<Output = ()>;

    /// The time since the beginning.
    fn now(&self) -> Duration;

    /// Lets some time pass.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()>;

    /// Which node leads, once one of those that are not cut off does.
    fn leader(&self) -> impl Future<Output = usize>;

    /// The nodes hear each other no more, but those of `together`.
    fn cut(&self, together: &[usize]);

    /// What this node says is heard, and it hears nothing.
    fn deafen(&self, node: usize);

    /// All hear each other.
    fn heal(&self);

    /// The process of a node ends at once; its disk stays as it is.
    fn kill(&self, node: usize) -> impl Future<Output = ()>;

    /// It starts again.
    fn start(&self, node: usize) -> impl Future<Output = ()>;

    /// Half of the elections take this long at most, from the death of whoever led.
    fn election(&self) -> Duration;

    /// May a proposal go its own ways: reach the leader twice, or only when nobody waits for it any more?
    fn strays(&self) -> bool;
}

const NODES: usize = 3;
/// What takes longer hangs, on any machine.
const LONG: Duration = Duration::from_secs(20);
const MS: Duration = Duration::from_millis(1);

macro_rules! scenes {
    ($($name:ident: $play:ident,)*) => {
        /// The scenes, each on a new cast.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Scene {
            $(#[doc = stringify!($play)] $name,)*
        }

        impl Scene {
            /// All of them.
            pub const ALL: &[Scene] = &[$(Scene::$name,)*];

            /// Plays it.
            ///
            /// # Panics
            /// The coordinator does not do what it must.
            pub async fn play(self, cast: &impl Cast) {
                match self {
                    $(Scene::$name => $play(cast).await,)*
                }
            }
        }
    };
}

scenes! {
    OneOrder: one_order_for_all,
    OneOfTwo: of_two_that_exclude_each_other_one_is_done,
    SaidAgain: what_is_said_again_changes_nothing,
    Reads: who_reads_sees_all_that_was_decided,
    Minority: a_minority_decides_nothing,
    LeaderCutOff: a_renewal_at_a_leader_that_is_cut_off_does_not_count,
    LeaderLost: a_leader_is_lost_in_the_middle_of_a_proposal,
    ProposerDies: who_dies_while_it_proposes_may_ask_again,
    NoAnswer: who_hears_no_answer_may_ask_again,
    LateAnswer: a_renewal_whose_answer_is_late_counts_from_when_it_was_asked,
    LostRenewal: renewals_that_get_lost_do_not_count,
    Unheard: who_has_not_heard_of_a_renewal_evicts_nobody,
    Outlives: what_was_decided_outlives_every_process,
    LeadsSoon: another_leads_soon,
}

/// All scenes, each on a new cast.
///
/// # Panics
/// The coordinator does not do what it must.
pub async fn play_all<C: Cast>(cast: impl AsyncFn() -> C) {
    for scene in Scene::ALL {
        let cast = cast().await;
        let begin = cast.now();
        scene.play(&cast).await;
        println!("{scene:?} took {:?}", cast.now() - begin);
    }
}

/// Both at once.
async fn both<A, B>(one: impl Future<Output = A>, other: impl Future<Output = B>) -> (A, B) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let (mut first, mut second) = (None, None);
    poll_fn(|context| {
        if first.is_none()
            && let Poll::Ready(done) = one.as_mut().poll(context)
        {
            first = Some(done);
        }
        if second.is_none()
            && let Poll::Ready(done) = other.as_mut().poll(context)
        {
            second = Some(done);
        }
        match (first.take(), second.take()) {
            (Some(a), Some(b)) => Poll::Ready((a, b)),
            (a, b) => {
                (first, second) = (a, b);
                Poll::Pending
            }
        }
    })
    .await
}

// ----- what is proposed ---------------------------------------------------------------------------------------

const CLUSTER: [u8; 16] = [7; 16];
/// The node whose lease it is, for the registry. Any node of the cast may speak for it.
const LESSEE: NodeId = NodeId(0);

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
    Command::Start { node: LESSEE, key, incarnation: Incarnation(incarnation), nonce: 5, fences: Vec::new() }
}

fn renew_of(incarnation: u64, number: u64) -> Command {
    Command::Renew { node: LESSEE, incarnation: Incarnation(incarnation), number }
}

fn renew(number: u64) -> Command {
    renew_of(1, number)
}

fn evict_of(incarnation: u64, epoch: Epoch, renewal: u64) -> Command {
    let out = Out {
        node: LESSEE,
        incarnation: Incarnation(incarnation),
        basis: Basis::LeaseOver { renewal },
        fences: Vec::new(),
    };
    Command::Evict { epoch, out: vec![out], note: None }
}

fn evict(epoch: Epoch, renewal: u64) -> Command {
    evict_of(1, epoch, renewal)
}

fn space(id: u16, name: &str) -> Command {
    Command::CreateSpace { id: SpaceId(id), name: name.into(), settings: settings() }
}

fn has(registry: &Registry, id: u16) -> bool {
    registry.spaces().any(|space| space.id == SpaceId(id))
}

fn renewal(registry: &Registry) -> u64 {
    registry.member(LESSEE).expect("it was founded with it").renewal
}

fn others(node: usize) -> Vec<usize> {
    (0..NODES).filter(|other| *other != node).collect()
}

/// Asks again while it is not known what came of it: the outcome, and whether it was asked once only.
async fn ask<C: Cast>(cast: &C, node: usize, command: &Command) -> (Outcome, bool) {
    let begin = cast.now();
    let mut once = true;
    loop {
        match cast.propose(node, command).await {
            Ok(outcome) => return (outcome, once),
            Err(Doubt::Nothing | Doubt::Unknown) if cast.now() - begin < LONG => once = false,
            Err(doubt) => panic!("{command:?}: {doubt:?}"),
        }
    }
}

async fn decide<C: Cast>(cast: &C, node: usize, command: &Command) -> Outcome {
    ask(cast, node, command).await.0
}

/// The same, of a command that nobody else can have made late.
async fn done<C: Cast>(cast: &C, node: usize, command: &Command) {
    match decide(cast, node, command).await {
        Outcome::Done | Outcome::Already => {}
        other => panic!("{command:?}: {other:?}"),
    }
}

/// The same, of a command that nobody else proposes: whoever asked once only hears that it was done now.
async fn done_now<C: Cast>(cast: &C, node: usize, command: &Command) {
    match ask(cast, node, command).await {
        (Outcome::Done, _) => {}
        (Outcome::Already, once) if !once || cast.strays() => {}
        other => panic!("{command:?}: {other:?}"),
    }
}

async fn founded<C: Cast>(cast: &C) {
    done_now(cast, 0, &init()).await;
    done_now(cast, 0, &start(1)).await;
}

async fn read<C: Cast>(cast: &C, node: usize) -> Arc<Registry> {
    let begin = cast.now();
    loop {
        match cast.confirmed(node).await {
            Ok(registry) => return registry,
            Err(Doubt::Nothing | Doubt::Unknown) if cast.now() - begin < LONG => {}
            Err(doubt) => panic!("node {node} reads nothing: {doubt:?}"),
        }
    }
}

async fn same_everywhere<C: Cast>(cast: &C) -> Arc<Registry> {
    let first = read(cast, 0).await;
    for node in 1..NODES {
        assert_eq!(read(cast, node).await.snapshot(), first.snapshot(), "node {node}");
    }
    first
}

/// What a proposer of a space heard must be true: by what `reader` sees afterwards, when `asker` asks again, and in the end.
async fn space_by_answer<C: Cast>(
    cast: &C,
    id: u16,
    answer: Result<Outcome, Doubt>,
    reader: usize,
    asker: usize,
) {
    let before = has(&*read(cast, reader).await, id);
    match &answer {
        Ok(Outcome::Done) => assert!(before, "space {id} was said to be made, and nobody has it"),
        Ok(Outcome::Already) if before && cast.strays() => {}
        Ok(other) => panic!("space {id}: {other:?}"),
        Err(Doubt::Nothing) => assert!(!before, "space {id}: nothing came of it, and here it is"),
        Err(_) => {}
    }
    println!(
        "space {id}: the answer was {answer:?}, {}",
        if before { "it is there" } else { "it is not there" }
    );
    let again = ask(cast, asker, &space(id, &format!("space{id}"))).await;
    match again {
        // Of whose outcome nothing is known may come about until somebody asks again.
        (Outcome::Already, _) => {
            let late = cast.strays() || matches!(answer, Err(Doubt::Unknown));
            assert!(before || !again.1 || late, "nobody had made it");
        }
        // Or this is the answer to the first time, which was on its way for so long.
        (Outcome::Done, _) => {
            assert!(!before || answer.is_err() && cast.strays(), "space {id} was made twice")
        }
        other => panic!("space {id}: {other:?}"),
    }
    let registry = same_everywhere(cast).await;
    assert_eq!(registry.spaces().filter(|space| space.id == SpaceId(id)).count(), 1);
}

// ----- scenes -------------------------------------------------------------------------------------------------

/// Whoever proposes hears what came of it, and every node has the same registry afterwards. What is said again changes
/// nothing.
async fn one_order_for_all<C: Cast>(cast: &C) {
    done_now(cast, 0, &init()).await;
    done_now(cast, 1, &start(1)).await;
    for number in 1..=30 {
        done_now(cast, number as usize % NODES, &renew(number)).await;
    }
    let revision = same_everywhere(cast).await.revision();
    assert_eq!(decide(cast, 2, &renew(30)).await, Outcome::Already);
    assert_eq!(same_everywhere(cast).await.revision(), revision);
    // Whoever watches sees the steps rise, and the registry with them.
    let (before, _) = cast.applied(2);
    done(cast, 0, &renew(31)).await;
    let begin = cast.now();
    loop {
        let (steps, registry) = cast.applied(2);
        if registry.revision() > revision {
            break assert!(steps > before);
        }
        assert!(cast.now() - begin < LONG, "it is not applied there too");
        cast.applies(2, steps).await;
    }
}

/// Both are conditional on the same number: the second finds it taken, wherever it was proposed.
async fn of_two_that_exclude_each_other_one_is_done<C: Cast>(cast: &C) {
    decide(cast, 0, &init()).await;
    for id in 1..=15 {
        let (a, b) = (id as usize % NODES, (id as usize + 1) % NODES);
        let (one, other) = (space(id, &format!("one{id}")), space(id, &format!("other{id}")));
        let outcomes = both(ask(cast, a, &one), ask(cast, b, &other)).await;
        let outcomes = [outcomes.0, outcomes.1];
        let done = outcomes.iter().filter(|(outcome, _)| *outcome == Outcome::Done).count();
        let refused = |o: &Outcome| matches!(o, Outcome::Refused(Refusal::NotNext { .. }));
        let refused = outcomes.iter().filter(|(outcome, _)| refused(outcome)).count();
        // One that was asked again finds its own work done.
        let found = |it: &&(Outcome, bool)| it.0 == Outcome::Already && (!it.1 || cast.strays());
        let found = outcomes.iter().filter(found).count();
        assert!(refused == 1 && done + found == 1, "{outcomes:?}");
    }
    assert_eq!(same_everywhere(cast).await.spaces().count(), 16);
}

/// Everybody says the same at once, and all of it once more when other things have followed: each thing is done once.
async fn what_is_said_again_changes_nothing<C: Cast>(cast: &C) {
    let said = [init(), start(1), renew(1), space(1, "one"), renew(2), space(2, "two"), renew(3)];
    for (n, command) in said.iter().enumerate() {
        let revision = if n == 0 { 0 } else { read(cast, 0).await.revision() };
        let ((a, b), c) =
            both(both(ask(cast, 0, command), ask(cast, 1, command)), ask(cast, 2, command)).await;
        let outcomes = [a, b, c];
        let done = outcomes.iter().filter(|(outcome, _)| *outcome == Outcome::Done).count();
        let already = outcomes.iter().filter(|(outcome, _)| *outcome == Outcome::Already).count();
        let sure = outcomes.iter().all(|(_, once)| *once) && !cast.strays();
        assert!(done + already == NODES && (done == 1 || done == 0 && !sure), "{command:?}: {outcomes:?}");
        assert!(
            n == 0 || same_everywhere(cast).await.revision() == revision + 1,
            "{command:?} was done twice"
        );
    }
    let before = same_everywhere(cast).await;
    for (n, command) in said.iter().enumerate().rev() {
        assert_eq!(decide(cast, n % NODES, command).await, Outcome::Already, "{command:?}");
    }
    assert_eq!(same_everywhere(cast).await.snapshot(), before.snapshot());
}

/// A read that begins after a decision sees it, at every node at once.
async fn who_reads_sees_all_that_was_decided<C: Cast>(cast: &C) {
    founded(cast).await;
    for number in 1..=20 {
        done(cast, number as usize % NODES, &renew(number)).await;
        let seen = read(cast, (number as usize + 1) % NODES).await;
        // One more would change the registry: so it has seen this one.
        assert_eq!(seen.as_ref().clone().apply(&renew(number)), Outcome::Already, "renewal {number}");
    }
}

/// One node that is alone hears that it cannot; the others go on; what it proposed meanwhile does no harm later.
async fn a_minority_decides_nothing<C: Cast>(cast: &C) {
    founded(cast).await;
    for alone in 0..NODES {
        let others = others(alone);
        cast.cut(&others);
        let (steps, _) = cast.applied(others[0]);
        let begin = cast.now();
        let doubt = cast.propose(alone, &renew(1_000 + alone as u64)).await.unwrap_err();
        assert!(matches!(doubt, Doubt::Nothing | Doubt::Unknown), "{doubt:?}");
        assert!(cast.confirmed(alone).await.is_err(), "nothing confirms that this is the newest");
        assert!(cast.now() - begin < LONG, "it took {:?} to hear that", cast.now() - begin);
        let before = renewal(&*read(cast, others[0]).await);
        assert!(before < 1_000 + alone as u64, "a minority decided");
        done(cast, others[0], &renew(before + 1)).await;
        assert!(cast.applied(others[0]).0 > steps);
        cast.heal();
        let after = renewal(&*same_everywhere(cast).await);
        let harmless = doubt == Doubt::Unknown && cast.strays() && after == 1_000 + alone as u64;
        assert!(after == before + 1 || harmless, "what a minority wanted was decided after all");
    }
}

/// L2: a leader and the node whose lease it is are cut off together. What it renews there counts nowhere; the others end
/// the lease, and when all hear each other again the late renewal is refused.
async fn a_renewal_at_a_leader_that_is_cut_off_does_not_count<C: Cast>(cast: &C) {
    founded(cast).await;
    decide(cast, 0, &renew(1)).await;
    let old = cast.leader().await;
    let new = others(old)[0];
    cast.cut(&others(old));
    // At once, while it has every reason to believe that it leads.
    assert!(cast.confirmed(old).await.is_err(), "it says by itself that nothing newer was decided");
    let late = renew(2);
    let (renewed, epoch) = both(cast.propose(old, &late), async {
        let registry = read(cast, new).await;
        decide(cast, new, &evict(registry.view().epoch, 1)).await;
        assert!(read(cast, new).await.run(LESSEE).is_none(), "the lease was not ended");
        registry.view().epoch
    })
    .await;
    assert!(renewed.is_err(), "a cut-off leader said that the lease goes on: {renewed:?}");
    assert!(cast.confirmed(old).await.is_err());
    cast.heal();
    let refused = decide(cast, old, &renew(2)).await;
    assert!(matches!(refused, Outcome::Refused(_)), "{refused:?}");
    let registry = same_everywhere(cast).await;
    assert!(registry.view().epoch > epoch && registry.run(LESSEE).is_none());
}

/// Whoever leads dies, or is cut off, a moment after something was proposed: there, or at another node. Whatever the
/// proposer hears is true, and it may ask again.
async fn a_leader_is_lost_in_the_middle_of_a_proposal<C: Cast>(cast: &C) {
    founded(cast).await;
    let moments = [Duration::ZERO, MS / 2, 2 * MS, 5 * MS, 12 * MS, 40 * MS];
    for (id, moment) in (1..).zip(moments) {
        let leader = cast.leader().await;
        let others = others(leader);
        // A process that has ended hears nothing, so the leader itself proposes only where it goes on.
        let dies = id % 3 == 0;
        let proposer = if id % 3 == 1 { leader } else { others[0] };
        let command = space(id, &format!("space{id}"));
        let loss = async {
            cast.sleep(moment).await;
            if dies { cast.kill(leader).await } else { cast.cut(&others) }
        };
        let (answer, ()) = both(cast.propose(proposer, &command), loss).await;
        // Another has to lead before this can be read.
        let there = has(&*read(cast, others[1]).await, id);
        assert!(
            there || answer.is_err(),
            "node {proposer} heard {answer:?} of space {id}, and the others have none"
        );
        if dies {
            cast.start(leader).await;
        } else {
            cast.heal();
        }
        space_by_answer(cast, id, answer, others[1], proposer).await;
    }
}

/// A proposer dies in the middle of its proposal, and nobody can tell it what came of that. When it is back it asks again.
async fn who_dies_while_it_proposes_may_ask_again<C: Cast>(cast: &C) {
    founded(cast).await;
    for (id, moment) in (1..).zip([Duration::ZERO, MS, 4 * MS, 12 * MS]) {
        let proposer = usize::from(id) % NODES;
        let command = space(id, &format!("space{id}"));
        let (answer, ()) = both(cast.propose(proposer, &command), async {
            cast.sleep(moment).await;
            cast.kill(proposer).await;
        })
        .await;
        let there = has(&*read(cast, others(proposer)[0]).await, id);
        assert!(there || answer.is_err(), "node {proposer} heard {answer:?} of space {id}, and died with it");
        cast.start(proposer).await;
        space_by_answer(cast, id, answer, others(proposer)[1], proposer).await;
    }
}

/// A proposal is heard, and its proposer hears nothing. It does not take silence for an answer, nobody waits for it, and
/// afterwards it asks again.
async fn who_hears_no_answer_may_ask_again<C: Cast>(cast: &C) {
    founded(cast).await;
    for (round, id) in (1..=5).step_by(2).enumerate() {
        let leader = cast.leader().await;
        let (deaf, other) = match round {
            0 => (others(leader)[0], others(leader)[1]),
            _ => (others(leader)[1], others(leader)[0]),
        };
        // What was decided before is not on its way any more.
        same_everywhere(cast).await;
        cast.deafen(deaf);
        let revision = cast.applied(deaf).1.revision();
        let command = space(id, &format!("space{id}"));
        let answer = cast.propose(deaf, &command).await;
        assert!(answer.is_err(), "it heard nothing, and says {answer:?}");
        assert!(cast.confirmed(deaf).await.is_err(), "it heard nothing, and confirms something");
        done(cast, other, &renew(u64::from(id))).await;
        let early = cast.applied(deaf).1;
        assert_eq!(early.revision(), revision, "what is decided reaches it, though it is deaf");
        cast.heal();
        space_by_answer(cast, id, answer, other, deaf).await;
        done_now(cast, other, &space(id + 1, &format!("space{}", id + 1))).await;
    }
}

/// L2: renewals are asked while nothing is heard, and confirmed when everything is heard again. Whoever hears that one was
/// confirmed may be cut off at once: a majority has it. The lease counts from when it was first asked.
async fn a_renewal_whose_answer_is_late_counts_from_when_it_was_asked<C: Cast>(cast: &C) {
    founded(cast).await;
    let at = || Instant(1) + cast.now();
    let begin = at();
    let mut lease = Lease::new(begin, begin);
    // What the lease must be, said once more.
    let mut until = begin + (LEASE - LEASE_MARGIN);
    let mut next = asked(&mut lease, begin);
    let mut rounds = 0;
    while rounds < 4 && lease.standing() != Standing::Lost {
        if let Some((number, sent)) = next.take() {
            let node = others(cast.leader().await)[rounds % 2];
            let silence = 60 * MS * rounds as u32;
            cast.deafen(node);
            let command = renew(number);
            let heals = async {
                cast.sleep(silence).await;
                cast.heal();
            };
            let (confirmed, ()) = both(decide(cast, node, &command), heals).await;
            assert!(matches!(confirmed, Outcome::Done | Outcome::Already), "{confirmed:?}");
            let heard = at();
            assert!(renewal(&cast.applied(node).1) >= number, "the answer came before the registry");
            lease.handle_renewed(heard, number);
            next = asked(&mut lease, heard);
            if heard < until {
                until = until.max(sent + (LEASE - LEASE_MARGIN));
            }
            assert_eq!(lease.lease_until(), until, "{number}, sent {sent:?}, heard {heard:?}");
            cast.cut(&others(node));
            let seen = renewal(&*read(cast, others(node)[0]).await);
            assert!(seen >= number, "renewal {number} was confirmed, and the others know only of {seen}");
            cast.heal();
            rounds += 1;
            continue;
        }
        wait_until(cast, lease.poll_timeout()).await;
        let now = at();
        lease.handle_timeout(now);
        next = asked(&mut lease, now);
    }
    assert_eq!(same_everywhere(cast).await.run(LESSEE), Some(Incarnation(1)));
}

/// The renewal that a lease has wanted since now, and since when.
fn asked(lease: &mut Lease, now: Instant) -> Option<(u64, Instant)> {
    let mut wanted = None;
    while let Some(output) = lease.poll_output() {
        if let Output::Renew { number } = output {
            wanted = Some((number, now));
        }
    }
    wanted
}

async fn wait_until<C: Cast>(cast: &C, at: Option<Instant>) {
    let now = Instant(1) + cast.now();
    cast.sleep(at.unwrap_or(now).since(now)).await;
}

/// L2: the node whose lease it is renews as nodes do, then is cut off. Every renewal from then on gets lost: none is
/// confirmed, the lease ends on its own clock, and only then do the others end it.
async fn renewals_that_get_lost_do_not_count<C: Cast>(cast: &C) {
    founded(cast).await;
    let at = || Instant(1) + cast.now();
    let begin = at();
    let mut lease = Lease::new(begin, begin);
    let node = others(cast.leader().await)[0];
    let other = others(node)[1];
    // One goes through, if it is not held up for as long as a lease.
    let (number, _) = asked(&mut lease, begin).expect("a lease wants to be renewed at once");
    done(cast, node, &renew(number)).await;
    lease.handle_renewed(at(), number);
    let until = lease.lease_until();
    cast.cut(&others(node));
    let last = renewal(&*read(cast, other).await);
    while lease.standing() != Standing::Lost {
        if let Some((number, _)) = asked(&mut lease, at()) {
            let lost = cast.propose(node, &renew(number)).await;
            assert!(lost.is_err(), "renewal {number} was confirmed by nobody: {lost:?}");
        }
        wait_until(cast, lease.poll_timeout()).await;
        lease.handle_timeout(at());
        assert_eq!(lease.lease_until(), until, "what was lost counts");
    }
    assert!(at() >= until);
    let registry = read(cast, other).await;
    assert_eq!(renewal(&registry), last, "a renewal came to the others all the same");
    let evicted = ask(cast, other, &evict(registry.view().epoch, last)).await;
    assert!(is_done(cast, &evicted), "{evicted:?}");
    assert!(read(cast, other).await.run(LESSEE).is_none(), "the lease was not ended");
    cast.heal();
    for number in [last, last + 1, last + 50] {
        let late = decide(cast, node, &renew(number)).await;
        assert!(matches!(late, Outcome::Refused(Refusal::NotInView { .. })), "{late:?}");
    }
    lease.handle_renewed(at(), last + 1);
    assert_eq!(lease.standing(), Standing::Lost);
    assert!(same_everywhere(cast).await.run(LESSEE).is_none());
}

/// Was the eviction done? One that is asked again finds that its view is over.
fn is_done<C: Cast>(cast: &C, (outcome, once): &(Outcome, bool)) -> bool {
    let over = matches!(outcome, Outcome::Refused(Refusal::OtherView { .. }));
    *outcome == Outcome::Done || over && (!once || cast.strays())
}

/// L2: a renewal saves the run, wherever it was asked and whoever has not heard of it; of a renewal and an eviction at the
/// same time one counts.
async fn who_has_not_heard_of_a_renewal_evicts_nobody<C: Cast>(cast: &C) {
    founded(cast).await;
    let mut incarnation = 1;
    let mut number = 0;
    for round in 0..3 {
        let epoch = read(cast, 0).await.view().epoch;
        let deaf = others(cast.leader().await)[round % 2];
        let other = others(deaf)[round % 2];
        cast.deafen(deaf);
        let seen = number;
        number += 1;
        done(cast, other, &renew_of(incarnation, number)).await;
        let wrong = cast.propose(deaf, &evict_of(incarnation, epoch, seen)).await;
        assert!(!matches!(wrong, Ok(Outcome::Done | Outcome::Already)), "it was renewed: {wrong:?}");
        cast.heal();
        assert_eq!(read(cast, other).await.run(LESSEE), Some(Incarnation(incarnation)));
        let refused = decide(cast, deaf, &evict_of(incarnation, epoch, seen)).await;
        assert!(matches!(refused, Outcome::Refused(Refusal::Renewed { .. })), "{refused:?}");
        // And now both at once, each with the newest that there is.
        let (eviction, late) = (evict_of(incarnation, epoch, number), renew_of(incarnation, number + 1));
        let (evicted, renewed) = both(ask(cast, deaf, &eviction), decide(cast, other, &late)).await;
        let gone = same_everywhere(cast).await.run(LESSEE).is_none();
        println!("the eviction: {evicted:?}, the renewal: {renewed:?}");
        assert_eq!(matches!(renewed, Outcome::Refused(_)), gone, "the renewal was answered by {renewed:?}");
        let saved = matches!(evicted.0, Outcome::Refused(Refusal::Renewed { .. }));
        assert!(
            if gone { is_done(cast, &evicted) } else { saved },
            "the eviction was answered by {evicted:?}"
        );
        if gone {
            incarnation += 1;
            number = 0;
            done(cast, other, &start(incarnation)).await;
        } else {
            number += 1;
        }
    }
}

/// Each process is killed once, then all at once.
async fn what_was_decided_outlives_every_process<C: Cast>(cast: &C) {
    founded(cast).await;
    let mut number = 0;
    for node in (0..NODES).chain(0..NODES) {
        cast.kill(node).await;
        for _ in 0..5 {
            number += 1;
            done(cast, (node + 1) % NODES, &renew(number)).await;
        }
        cast.start(node).await;
    }
    let before = same_everywhere(cast).await;
    assert_eq!(renewal(&before), number);
    for node in 0..NODES {
        cast.kill(node).await;
    }
    for node in 0..NODES {
        cast.start(node).await;
    }
    assert_eq!(same_everywhere(cast).await.snapshot(), before.snapshot());
    assert_eq!(decide(cast, 0, &renew(number)).await, Outcome::Already);
}

/// The loss of a leader holds nobody up for longer than a lease can wait (L6). A machine that is busy with other things may
/// be late for some elections, not for most of them three times in a row.
async fn another_leads_soon<C: Cast>(cast: &C) {
    founded(cast).await;
    let mut number = 0;
    let mut medians = Vec::new();
    while medians.len() < 3 {
        let mut elections = Vec::new();
        for _ in 0..5 {
            number += 1;
            let leader = cast.leader().await;
            let begin = cast.now();
            cast.kill(leader).await;
            cast.leader().await;
            elections.push(cast.now() - begin);
            done(cast, (leader + 1) % NODES, &renew(number)).await;
            let (led, decided) = (elections[elections.len() - 1], cast.now() - begin);
            println!("another leads after {led:?}, decided after {decided:?}");
            cast.start(leader).await;
            same_everywhere(cast).await;
        }
        elections.sort();
        medians.push(elections[elections.len() / 2]);
        if medians.last() <= Some(&cast.election()) {
            return;
        }
    }
    panic!("half of the elections took longer than {medians:?}, and {:?} is promised", cast.election());
}
