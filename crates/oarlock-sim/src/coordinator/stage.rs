//! The simulated coordinator plays the scenes that all coordinators play, in the weather of a storm.
//!
//! Three nodes that are nothing but what their disks know. Around what a scene does to them proposals get lost, come twice
//! and late, answers get lost, nodes hear nothing for a time, and whoever leads is lost: as in every run of the simulator,
//! by the same code.

use std::cell::RefCell;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use oarlock_cluster::registry::{Basis, Command, Outcome, Registry};
use oarlock_layout::id::SpaceId;

use super::{ASK_EACH, Coordinator};
use crate::conformance::scenes::{Cast, Doubt, Scene};
use crate::queue::{Queue, Time};
use crate::random::Random;
use crate::swarm::{MS, S};

const NODES: u16 = 3;
/// So long a node waits for an answer.
const PATIENCE: Time = 800 * MS;
/// No scene takes longer.
const LONG: Time = 300 * S;

/// What a coordinator may do wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wrong {
    /// It decides for everybody who reaches anybody, be it only himself.
    NeedsNoMajority,
    /// Who is cut off, a leader until a moment ago or not, answers by what it knows.
    AnswersFromMemory,
    /// Whoever reads is shown what is on its own disk.
    ReadsOwnDisk,
    /// The proposer hears that all is done when its proposal leaves.
    AnswersTooEarly,
    /// What only those know who die or are cut off is not in the order any more.
    ForgetsWithOne,
    /// When no process is left, nothing is.
    ForgetsWithAll,
    /// A node that comes back goes on as it was founded, and counts on from where it was.
    ForgetsAtStart,
    /// Now and then a node misses a command.
    SkipsSome,
    /// Silence is said to mean that nothing came of it.
    SilenceIsNo,
    /// When whoever leads dies, nobody leads any more.
    StaysLeaderless,
    /// The same for a second, and then somebody does.
    ElectsLate,
    /// An eviction counts, whatever its proposer knew of renewals.
    EvictsTheRenewed,
    /// What is said again is done again.
    DoesAgain,
    /// An answer is taken by whoever waits for one at that node, whatever he has asked.
    MixesAnswers,
}

/// What comes next.
enum Happening {
    Decide { node: u16, run: u64, command: Command },
    Catch { node: u16 },
    Attend,
    Alarm,
}

/// A node, as far as its coordinator goes.
struct Player {
    up: bool,
    run: u64,
    deaf: bool,
    /// Who waits for an answer, to what; and what it was.
    waiting: Vec<(u64, Command, Option<Outcome>)>,
}

/// How much weather there was.
#[derive(Clone, Copy, Default, Debug)]
struct Seen {
    lost: u64,
    doubled: u64,
    late: u64,
    answers_lost: u64,
    leaders_lost: u64,
    deaf: u64,
}

struct State {
    coordinator: Coordinator,
    queue: Queue<Happening>,
    players: Vec<Player>,
    together: Option<Vec<usize>>,
    leader: u16,
    /// One that led has died.
    leader_died: bool,
    next: u64,
    random: Random,
    wrong: Option<Wrong>,
    seen: Seen,
}

/// Three nodes and the coordinator between them.
struct Stage(RefCell<State>);

impl State {
    fn reaches(&self, from: u16, to: u16) -> bool {
        let up = |node: u16| self.players[usize::from(node)].up;
        let passes = |set: &Vec<usize>| set.contains(&from.into()) && set.contains(&to.into());
        let alone = self.wrong == Some(Wrong::NeedsNoMajority) && up(from);
        alone || up(from) && up(to) && (from == to || self.together.as_ref().is_none_or(passes))
    }

    fn reaches_majority(&self, node: u16) -> bool {
        self.coordinator.is_majority(|other| self.reaches(node, other))
    }

    /// Whoever led leads no more: after a while another does, if one can.
    fn lose_leader(&mut self) {
        let now = self.queue.now();
        let late = if self.wrong == Some(Wrong::ElectsLate) { S } else { 0 };
        let away = late + self.random.between(100 * MS, 600 * MS);
        self.coordinator.leaderless_until = now + away;
        self.elect();
    }

    fn elect(&mut self) {
        let able: Vec<u16> = (0..NODES).filter(|node| self.reaches_majority(*node)).collect();
        if !able.is_empty() {
            self.leader = *self.random.pick(&able);
        }
    }

    fn propose(&mut self, node: u16, command: &Command) {
        let (now, run) = (self.queue.now(), self.players[usize::from(node)].run);
        let ways = self.coordinator.ways(false);
        self.seen.lost += u64::from(ways.is_empty());
        self.seen.doubled += u64::from(ways.len() > 1);
        for way in ways {
            self.seen.late += u64::from(way > PATIENCE);
            self.queue.push(now + way, Happening::Decide { node, run, command: command.clone() });
        }
        match self.wrong {
            Some(Wrong::AnswersTooEarly) => self.answer(node, command, Outcome::Done),
            Some(Wrong::AnswersFromMemory) if !self.reaches_majority(node) => {
                let outcome = self.coordinator.known(node).clone().apply(command);
                self.answer(node, command, outcome);
            }
            _ => {}
        }
    }

    /// Whoever waits for it hears it; if nobody does it is gone.
    fn answer(&mut self, node: u16, command: &Command, outcome: Outcome) {
        let mixes = self.wrong == Some(Wrong::MixesAnswers);
        let waiting = &mut self.players[usize::from(node)].waiting;
        let waits = |it: &&mut (u64, Command, Option<Outcome>)| it.2.is_none() && (mixes || it.1 == *command);
        if let Some((.., heard)) = waiting.iter_mut().find(waits) {
            *heard = Some(outcome);
        }
    }

    /// The next thing happens.
    fn step(&mut self) {
        let happening = self.queue.pop(LONG).expect("it does not end");
        let now = self.queue.now();
        match happening {
            Happening::Decide { node, run, command } => {
                let nobody = self.wrong == Some(Wrong::StaysLeaderless) && self.leader_died;
                if !nobody && self.coordinator.decides(now, |other| self.reaches(node, other)) {
                    let command = self.altered(command);
                    self.coordinator.decide(node, run, command);
                    for node in 0..NODES {
                        let way = self.coordinator.news();
                        self.queue.push(now + way, Happening::Catch { node });
                    }
                }
            }
            Happening::Catch { node } => self.catch(node),
            Happening::Attend => {
                (0..NODES).for_each(|node| self.queue.push(now, Happening::Catch { node }));
                if self.coordinator.lose_leader(now).is_some() {
                    self.seen.leaders_lost += 1;
                    self.elect();
                }
                self.seen.deaf += u64::from(self.coordinator.deafen(now).is_some());
                self.queue.push(now + ASK_EACH, Happening::Attend);
            }
            Happening::Alarm => {}
        }
    }

    /// What takes its place in the order instead of this.
    fn altered(&self, mut command: Command) -> Command {
        let registry = self.coordinator.newest();
        match (self.wrong, &mut command) {
            (Some(Wrong::EvictsTheRenewed), Command::Evict { out, .. }) => {
                let newest = |node| registry.member(node).map_or(0, |member| member.renewal);
                out.iter_mut().for_each(|out| out.basis = Basis::LeaseOver { renewal: newest(out.node) });
            }
            (Some(Wrong::DoesAgain), Command::CreateSpace { id, name, .. })
                if registry.spaces().any(|space| space.id == *id) =>
            {
                *id = SpaceId(registry.spaces().count() as u16);
                name.push_str("-again");
            }
            _ => {}
        }
        command
    }

    fn catch(&mut self, node: u16) {
        let now = self.queue.now();
        let player = &self.players[usize::from(node)];
        let deaf = player.deaf || self.coordinator.is_deaf(now, node);
        if !player.up || deaf || !self.reaches_majority(node) {
            return;
        }
        let run = player.run;
        let due = self.coordinator.answers[usize::from(node)].len();
        let known = self.coordinator.known[usize::from(node)].clone();
        let Some(heard) = self.coordinator.hear(true, node) else { return };
        if self.wrong == Some(Wrong::SkipsSome) && !heard.more && self.random.chance(100) {
            self.coordinator.known[usize::from(node)].1 = known.1;
        }
        let left = self.coordinator.answers[usize::from(node)].len();
        self.seen.answers_lost += (due - left - heard.answers.len()) as u64;
        for (of, command, outcome) in heard.answers {
            if of == run {
                self.answer(node, &command, outcome);
            }
        }
        if heard.more {
            self.queue.push(now, Happening::Catch { node });
        }
    }

    fn kill(&mut self, node: u16) {
        let player = &mut self.players[usize::from(node)];
        assert!(std::mem::take(&mut player.up), "it lives");
        player.waiting.clear();
        if node == self.leader {
            self.leader_died = true;
            self.lose_leader();
        }
        self.forget();
    }

    /// What nobody knows who is left vanishes from the order, if this coordinator is wrong in that way.
    fn forget(&mut self) {
        let works = |node: &usize| {
            self.players[*node].up && self.together.as_ref().is_none_or(|set| set.contains(node))
        };
        let living = (0..NODES.into()).filter(works);
        let it = &mut self.coordinator;
        let remembered = living.map(|node| it.known[node].0).max();
        let keep = match (self.wrong, remembered) {
            (Some(Wrong::ForgetsWithOne), Some(most)) => most,
            (Some(Wrong::ForgetsWithAll), None) => 0,
            _ => return,
        };
        it.order.truncate(keep);
        it.registry = it.founded.clone();
        for command in &it.order {
            it.registry.apply(command);
        }
        for (known, registry) in &mut it.known {
            if *known > keep {
                (*known, *registry) = (keep, it.registry.clone());
            }
        }
        it.answers.iter_mut().for_each(|waiting| waiting.retain(|(index, ..)| *index <= keep));
    }

    fn start(&mut self, node: u16) {
        let player = &mut self.players[usize::from(node)];
        (player.up, player.run) = (true, player.run + 1);
        if self.wrong == Some(Wrong::ForgetsAtStart) {
            self.coordinator.known[usize::from(node)].1 = self.coordinator.founded.clone();
        }
        self.queue.push(self.queue.now(), Happening::Catch { node });
    }
}

impl Stage {
    fn new(seed: u64, wrong: Option<Wrong>) -> Stage {
        let mut random = Random::new(seed);
        let mut coordinator = Coordinator::of(Registry::new(), NODES.into(), random.fork());
        // Who votes stands in no registry as long as there is no cluster.
        coordinator.voters = (1 << NODES) - 1;
        let player = |_| Player { up: true, run: 1, deaf: false, waiting: Vec::new() };
        let mut queue = Queue::default();
        queue.push(0, Happening::Attend);
        Stage(RefCell::new(State {
            coordinator,
            queue,
            players: (0..NODES).map(player).collect(),
            together: None,
            leader: 0,
            leader_died: false,
            next: 0,
            random,
            wrong,
            seen: Seen::default(),
        }))
    }

    /// Plays a scene to its end.
    fn play(&self, scene: Scene) {
        let mut play = pin!(scene.play(self));
        let mut context = Context::from_waker(Waker::noop());
        while play.as_mut().poll(&mut context).is_pending() {
            self.0.borrow_mut().step();
        }
    }

    async fn until(&self, at: Time) {
        self.0.borrow_mut().queue.push(at, Happening::Alarm);
        self.when(|state| state.queue.now() >= at).await;
    }

    async fn when(&self, there: impl Fn(&State) -> bool) {
        poll_fn(|_| if there(&self.0.borrow()) { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

impl Cast for Stage {
    async fn propose(&self, node: usize, command: &Command) -> Result<Outcome, Doubt> {
        let (number, run, until) = {
            let state = &mut *self.0.borrow_mut();
            let player = &mut state.players[node];
            assert!(player.up, "it lives");
            state.next += 1;
            player.waiting.push((state.next, command.clone(), None));
            let (run, until) = (player.run, state.queue.now() + PATIENCE);
            state.queue.push(until, Happening::Alarm);
            state.propose(node as u16, command);
            (state.next, run, until)
        };
        poll_fn(|_| {
            let state = &mut *self.0.borrow_mut();
            let player = &mut state.players[node];
            if !player.up || player.run != run {
                return Poll::Ready(Err(Doubt::Ended("it was killed".into())));
            }
            let place = player.waiting.iter().position(|(it, ..)| *it == number).expect("it waits");
            let heard = player.waiting[place].2;
            if heard.is_none() && state.queue.now() < until {
                return Poll::Pending;
            }
            player.waiting.remove(place);
            let silence = state.wrong == Some(Wrong::SilenceIsNo);
            Poll::Ready(heard.ok_or(if silence { Doubt::Nothing } else { Doubt::Unknown }))
        })
        .await
    }

    /// A command that changes nothing goes through the order, as before a read that must be the newest.
    async fn confirmed(&self, node: usize) -> Result<Arc<Registry>, Doubt> {
        let (serial, own) = {
            let state = &mut *self.0.borrow_mut();
            state.next += 1;
            (state.next, state.wrong == Some(Wrong::ReadsOwnDisk))
        };
        if !own {
            self.propose(node, &Command::RevokeToken { serial }).await?;
        }
        Ok(self.applied(node).1)
    }

    fn applied(&self, node: usize) -> (u64, Arc<Registry>) {
        let (known, registry) = &self.0.borrow().coordinator.known[node];
        (*known as u64, Arc::new(registry.clone()))
    }

    async fn applies(&self, node: usize, above: u64) {
        self.when(|state| state.coordinator.known[node].0 as u64 > above).await;
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.borrow().queue.now())
    }

    async fn sleep(&self, time: Duration) {
        let until = self.now() + time;
        self.until(until.as_nanos() as Time).await;
    }

    async fn leader(&self) -> usize {
        let leads = |state: &State| {
            !state.coordinator.is_leaderless(state.queue.now()) && state.reaches_majority(state.leader)
        };
        self.when(leads).await;
        self.0.borrow().leader.into()
    }

    fn cut(&self, together: &[usize]) {
        let state = &mut *self.0.borrow_mut();
        state.together = Some(together.to_vec());
        if !together.contains(&state.leader.into()) {
            state.lose_leader();
        }
        state.forget();
    }

    fn deafen(&self, node: usize) {
        self.0.borrow_mut().players[node].deaf = true;
    }

    fn heal(&self) {
        let state = &mut *self.0.borrow_mut();
        state.together = None;
        state.players.iter_mut().for_each(|player| player.deaf = false);
    }

    async fn kill(&self, node: usize) {
        self.0.borrow_mut().kill(node as u16);
    }

    async fn start(&self, node: usize) {
        self.0.borrow_mut().start(node as u16);
    }

    /// Its leaders are away for as long as in every run, which is longer than those of embedded Raft are.
    fn election(&self) -> Duration {
        Duration::from_millis(600)
    }

    fn strays(&self) -> bool {
        true
    }
}

/// L2, and all else that is asked of every engine, with many seeds; and the weather was bad.
#[test]
fn the_simulated_coordinator_conforms() {
    let mut seen = Seen::default();
    for seed in 0..100 {
        for scene in Scene::ALL {
            let stage = Stage::new(seed, None);
            let played = catch_unwind(AssertUnwindSafe(|| stage.play(*scene)));
            assert!(played.is_ok(), "{scene:?} with seed {seed}");
            let it = stage.0.borrow().seen;
            seen.lost += it.lost;
            seen.doubled += it.doubled;
            seen.late += it.late;
            seen.answers_lost += it.answers_lost;
            seen.leaders_lost += it.leaders_lost;
            seen.deaf += it.deaf;
        }
    }
    println!("{seen:?}");
    let Seen { lost, doubled, late, answers_lost, leaders_lost, deaf } = seen;
    assert!([lost, doubled, late, answers_lost, leaders_lost, deaf].iter().all(|n| *n > 100), "{seen:?}");
}

/// Scenes that cannot fail prove nothing: each of these coordinators is refused, by the scene that is meant for it.
#[test]
fn a_wrong_coordinator_is_refused() {
    let cases = [
        (Wrong::NeedsNoMajority, Scene::Minority),
        (Wrong::NeedsNoMajority, Scene::LostRenewal),
        (Wrong::AnswersFromMemory, Scene::LeaderCutOff),
        (Wrong::AnswersFromMemory, Scene::LostRenewal),
        (Wrong::ReadsOwnDisk, Scene::Reads),
        (Wrong::AnswersTooEarly, Scene::LateAnswer),
        (Wrong::ForgetsWithOne, Scene::LeaderLost),
        (Wrong::ForgetsWithOne, Scene::ProposerDies),
        (Wrong::ForgetsWithOne, Scene::LateAnswer),
        (Wrong::ForgetsWithAll, Scene::Outlives),
        (Wrong::ForgetsAtStart, Scene::Outlives),
        (Wrong::SkipsSome, Scene::OneOrder),
        (Wrong::SilenceIsNo, Scene::NoAnswer),
        (Wrong::StaysLeaderless, Scene::LeadsSoon),
        (Wrong::ElectsLate, Scene::LeadsSoon),
        (Wrong::EvictsTheRenewed, Scene::Unheard),
        (Wrong::DoesAgain, Scene::SaidAgain),
        (Wrong::MixesAnswers, Scene::OneOfTwo),
    ];
    for (wrong, meant) in cases {
        const SEEDS: u64 = 20;
        let refused = |scene: &Scene, seed| {
            let play = || Stage::new(seed, Some(wrong)).play(*scene);
            catch_unwind(AssertUnwindSafe(play)).is_err()
        };
        let by: Vec<(Scene, usize)> = (Scene::ALL.iter())
            .map(|scene| (*scene, (0..SEEDS).filter(|seed| refused(scene, *seed)).count()))
            .filter(|(_, seeds)| *seeds > 0)
            .collect();
        println!("{wrong:?} is refused by {by:?}");
        assert!(by.iter().any(|(scene, _)| *scene == meant), "{wrong:?} passes {meant:?}");
    }
}
