//! Control threads in one process. The test is their engines: it carries what they say, loses some of it, and is late.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Instant;

use oarlock_cluster::registry::{FirstSpace, Founder, Order, Refusal, Role, SpaceSettings};
use oarlock_layout::codec::Wire;
use oarlock_layout::id::{Epoch, Incarnation};
use oarlock_layout::message::raft::{Ballot, Call, Leadership};
use oarlock_layout::seal::PublicKey;
use tempfile::TempDir;

use super::*;
use crate::coordinator::raft::Disk;

/// So long after the sending of its last renewal a lease freezes (L6).
const FREEZES_AFTER: Duration = Duration::from_millis(1_700);
/// What takes longer hangs, on any machine.
const LONG: Duration = Duration::from_secs(60);
const TUNING: Tuning =
    Tuning { patience: Duration::from_millis(1_000), snapshot_every: 60, ..Tuning::EARNEST };

fn founding(above: u32) -> Command {
    let founder = |n: u16| Founder {
        name: format!("n{n}"),
        address: ([10, 0, 0, n as u8 + 1], 7000).into(),
        key: PublicKey([n as u8 + 1; 32]),
    };
    let settings = SpaceSettings {
        order: Order::Passover,
        value: 64,
        retain: true,
        resources_max: 100,
        owner: 0,
        group: 0,
        mode: 0o660,
    };
    let space = |name: &str| FirstSpace { name: name.into(), settings: settings.clone() };
    let spaces = vec![space("default"), space("jobs")];
    Command::found("harbour", (0..3).map(founder).collect(), spaces, Epoch(above))
}

fn begin(node: u16) -> Command {
    let (key, nonce) = (PublicKey([node as u8 + 1; 32]), node.into());
    Command::Start { node: NodeId(node), key, incarnation: Incarnation(1), nonce, fences: Vec::new() }
}

fn renew(node: u16, number: u64) -> Command {
    Command::Renew { node: NodeId(node), incarnation: Incarnation(1), number }
}

/// One node's engine, as far as the control thread knows it.
#[derive(Default)]
struct Engine {
    link: Option<Link>,
    registry: Arc<Registry>,
    heard: Vec<(Command, Result<Outcome, Trouble>)>,
    misdeeds: Vec<Misdeed>,
    standing: Standing,
    stepped_down: bool,
    down: Option<Problem>,
}

struct Cluster {
    directory: TempDir,
    engines: Vec<Engine>,
    /// What is under way: when it arrives, from whom, to whom.
    under_way: VecDeque<(Instant, usize, usize, Vec<u8>)>,
    chance: u64,
    /// Of a hundred messages.
    lost: u64,
    late: Duration,
    /// It hears nobody, and nobody hears it.
    alone: Option<usize>,
}

impl Cluster {
    fn new(lost: u64, late: Duration) -> Cluster {
        let mut cluster = Cluster {
            directory: TempDir::new().unwrap(),
            engines: (0..3).map(|_| Engine::default()).collect(),
            under_way: VecDeque::new(),
            chance: 88_172_645_463_325_252,
            lost,
            late,
            alone: None,
        };
        for node in 0..3 {
            prepare(&cluster.file(node), true, None).unwrap();
            cluster.start(node);
        }
        cluster
    }

    fn file(&self, node: usize) -> PathBuf {
        self.directory.path().join(format!("{node}.redb"))
    }

    fn start(&mut self, node: usize) {
        prepare(&self.file(node), false, None).unwrap();
        let link = start(Parts {
            me: NodeId(node as u16),
            file: self.file(node),
            // Each has stored another epoch.
            founding: Some(founding(node as u32)),
            joined: None,
            tuning: TUNING,
            wake: Wake::new().unwrap(),
        });
        self.engines[node] = Engine { link: Some(link.unwrap()), ..Engine::default() };
    }

    fn stop(&mut self, node: usize) {
        assert!(self.engines[node].link.take().unwrap().stop(), "it stops in time");
    }

    fn below(&mut self, n: u64) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        (self.chance >> 11) % n
    }

    /// Carries what there is to carry, and sleeps a little if there is nothing.
    fn turn(&mut self) {
        let mut idle = true;
        for node in 0..self.engines.len() {
            while let Some(message) = self.engines[node].link.as_mut().and_then(Link::poll) {
                idle = false;
                self.take(node, message);
            }
        }
        let now = Instant::now();
        let arrived = |message: &(Instant, usize, usize, Vec<u8>)| message.0 <= now;
        while let Some(at) = self.under_way.iter().position(arrived) {
            let (_, from, to, bytes) = self.under_way.remove(at).unwrap();
            let message = PeerMessage::from_bytes(&bytes).expect("we read what we write");
            if let Some(link) = &self.engines[to].link {
                link.send(ToControl::Carried { from: NodeId(from as u16), message });
            }
        }
        if idle {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn take(&mut self, node: usize, message: FromControl) {
        let engine = &mut self.engines[node];
        assert_eq!(engine.down, None, "something came after the last word: {message:?}");
        match message {
            FromControl::Carry { to, message } => {
                let to = usize::from(to.0);
                let cut = self.alone.is_some_and(|alone| alone == node || alone == to);
                if !cut && self.below(100) >= self.lost {
                    let late = self.late.mul_f64(self.below(100) as f64 / 100.0);
                    self.under_way.push_back((Instant::now() + late, node, to, message.to_bytes()));
                }
            }
            FromControl::Applied(registry) => {
                assert!(registry.revision() >= engine.registry.revision(), "an older registry was shown");
                engine.registry = registry;
            }
            FromControl::Answered { command, outcome } => {
                // What was applied was seen before.
                if let (Command::Renew { node, number, .. }, Outcome::Done) = (&command, outcome) {
                    assert!(engine.registry.member(*node).unwrap().renewal >= *number);
                }
                engine.heard.push((command, Ok(outcome)));
            }
            FromControl::Failed { command, trouble } => engine.heard.push((command, Err(trouble))),
            FromControl::Standing(standing) => engine.standing = standing,
            FromControl::SteppedDown => engine.stepped_down = true,
            FromControl::Misdeed { misdeed, .. } => engine.misdeeds.push(misdeed),
            FromControl::Down(why) => engine.down = Some(why),
        }
    }

    #[track_caller]
    fn until(&mut self, what: &str, done: impl Fn(&Cluster) -> bool) -> Duration {
        let begin = Instant::now();
        while !done(self) {
            assert!(begin.elapsed() < LONG, "{what} takes for ever");
            self.turn();
        }
        begin.elapsed()
    }

    fn pass(&mut self, time: Duration) {
        let begin = Instant::now();
        while begin.elapsed() < time {
            self.turn();
        }
    }

    fn propose(&self, node: usize, command: &Command) {
        self.engines[node].link.as_ref().unwrap().send(ToControl::Propose(command.clone()));
    }

    /// Proposes it until it is decided.
    #[track_caller]
    fn decide(&mut self, node: usize, command: &Command) -> Outcome {
        let begin = Instant::now();
        loop {
            self.engines[node].heard.clear();
            self.propose(node, command);
            self.until("an answer", |c| !c.engines[node].heard.is_empty());
            match self.engines[node].heard.pop().unwrap() {
                (of, Ok(outcome)) if of == *command => return outcome,
                (_, Err(Trouble::NoQuorum | Trouble::Unknown | Trouble::Behind))
                    if begin.elapsed() < LONG => {}
                other => panic!("{command:?}: {other:?}"),
            }
        }
    }

    #[track_caller]
    fn done(&mut self, node: usize, command: &Command) {
        match self.decide(node, command) {
            Outcome::Done | Outcome::Already => {}
            other => panic!("{command:?}: {other:?}"),
        }
    }

    /// All that live have the same registry.
    fn agree(&self) -> bool {
        let mut all = self.engines.iter().filter(|engine| engine.link.is_some());
        let first = all.next().unwrap();
        first.registry.cluster().is_some() && all.all(|engine| engine.registry == first.registry)
    }

    fn founded(lost: u64, late: Duration) -> Cluster {
        let mut cluster = Cluster::new(lost, late);
        cluster.until("the founding", Cluster::agree);
        cluster
    }
}

/// All founders begin and propose at once, over a network that loses and delays: there is one cluster, with one epoch to
/// begin above, and each renews in it wherever it is.
#[test]
fn founders_found_once() {
    let mut cluster = Cluster::founded(10, Duration::from_millis(20));
    let registry = Arc::clone(&cluster.engines[0].registry);
    assert_eq!(registry.revision(), 1);
    let Command::Init { cluster: id, .. } = founding(0) else { unreachable!() };
    assert_eq!(registry.cluster(), Some(id));
    assert_eq!(registry.members().count(), 3);
    assert_eq!(registry.spaces().map(|space| space.name.as_str()).collect::<Vec<_>>(), ["default", "jobs"]);
    let above = registry.view().epoch.0;
    assert!(above < 3);
    for node in 0..3 {
        cluster.done(node.into(), &begin(node));
    }
    for number in 1..=5 {
        for node in 0..3 {
            cluster.done(node.into(), &renew(node, number));
        }
    }
    // The others' foundings come late, and find it founded.
    cluster.pass(COURTESY_IS_OVER);
    cluster.until("agreement", Cluster::agree);
    let registry = &cluster.engines[0].registry;
    assert_eq!((registry.revision(), registry.view().epoch.0), (1 + 3 + 15, above + 3));
    assert!(registry.members().all(|member| member.renewal == 5));
    for number in 0..3 {
        assert_eq!(cluster.decide(number, &founding(9)), Outcome::Already);
    }
}

/// Longer than any founder waits for another.
const COURTESY_IS_OVER: Duration = Duration::from_millis(1_300);

/// Each is stopped once while the others go on, whoever leads; then all at once. Nothing that was decided is lost, and
/// nobody founds anything again.
#[test]
fn what_was_decided_outlives_each_and_all() {
    let mut cluster = Cluster::founded(2, Duration::from_millis(4));
    for node in 0..3 {
        cluster.done(node.into(), &begin(node));
    }
    let mut number = 0;
    for gone in [0, 1, 2] {
        cluster.stop(gone);
        let begin = Instant::now();
        for _ in 0..3 {
            number += 1;
            cluster.done((gone + 1) % 3, &renew((gone as u16 + 1) % 3, number));
        }
        println!("without node {gone}: three renewals in {:?}", begin.elapsed());
        cluster.start(gone);
        cluster.until("agreement", Cluster::agree);
    }
    let before = Arc::clone(&cluster.engines[0].registry);
    (0..3).for_each(|node| cluster.stop(node));
    (0..3).for_each(|node| cluster.start(node));
    cluster.until("agreement", Cluster::agree);
    assert_eq!(cluster.engines[0].registry.snapshot(), before.snapshot());
    assert_eq!(cluster.decide(1, &renew(0, number)), Outcome::Already);
}

/// Who is asked to step down does, and by then another leads: nobody waits for an election when a node stops in order.
#[test]
fn a_leader_that_steps_down_has_a_successor() {
    let mut cluster = Cluster::founded(0, Duration::from_millis(2));
    for node in 0..3 {
        cluster.done(node.into(), &begin(node));
    }
    for turn in 1..4 {
        let leads = |cluster: &Cluster| cluster.engines[0].standing.leader.map(|node| usize::from(node.0));
        cluster.until("a leader", |cluster| leads(cluster).is_some());
        let leader = leads(&cluster).unwrap();
        cluster.engines[leader].link.as_mut().unwrap().send(ToControl::StepDown);
        cluster.until("an answer", |cluster| cluster.engines[leader].stepped_down);
        cluster.engines[leader].stepped_down = false;
        let other = |next: NodeId| usize::from(next.0) != leader;
        cluster.until("a successor", |cluster| cluster.engines[leader].standing.leader.is_some_and(other));
        cluster.done(leader, &renew(leader as u16, turn));
        // Who does not lead has nothing to hand over, and says so as well.
        cluster.engines[leader].link.as_mut().unwrap().send(ToControl::StepDown);
        cluster.until("an answer", |cluster| cluster.engines[leader].stepped_down);
        cluster.engines[leader].stepped_down = false;
    }
}

/// L7: a node that was away shows its engine what it had on its disk. Whoever it hears of that view is not who is in now, so a
/// start that rests on it comes to nothing, and the next one, which rests on the newest view, counts.
#[test]
fn a_start_that_rests_on_an_old_view_comes_to_nothing() {
    let mut cluster = Cluster::founded(0, Duration::ZERO);
    cluster.done(0, &begin(0));
    cluster.until("agreement", Cluster::agree);
    cluster.alone = Some(2);
    cluster.done(1, &begin(1));
    let old = cluster.engines[2].registry.view().clone();
    assert!(old.member(NodeId(1)).is_none());
    cluster.alone = None;
    let heard = loop {
        cluster.engines[2].heard.clear();
        let enter = ToControl::Enter { start: begin(2), view: old.epoch };
        cluster.engines[2].link.as_ref().unwrap().send(enter);
        cluster.until("an answer", |c| !c.engines[2].heard.is_empty());
        match cluster.engines[2].heard.remove(0).1 {
            // It may have been the leader when it was cut off.
            Err(Trouble::NoQuorum | Trouble::Unknown) => {}
            heard => break heard,
        }
    };
    assert_eq!(heard, Err(Trouble::Behind));
    assert!(cluster.engines[0].registry.run(NodeId(2)).is_none());
    cluster.until("agreement", Cluster::agree);
    cluster.done(2, &begin(2));
}

/// A renewal does not wait behind proposals that nothing comes of, and each is answered by itself.
#[test]
fn proposals_do_not_wait_for_each_other() {
    let mut cluster = Cluster::founded(0, Duration::ZERO);
    cluster.done(0, &begin(0));
    cluster.alone = Some(0);
    cluster.pass(Duration::from_millis(300));
    cluster.engines[0].heard.clear();
    let begin = Instant::now();
    for number in 1..=20 {
        cluster.propose(0, &renew(0, number));
    }
    cluster.until("twenty answers", |c| c.engines[0].heard.len() == 20);
    let took = begin.elapsed();
    assert!(took < 10 * TUNING.patience, "one after the other they take 20 s; these took {took:?}");
    for (command, heard) in cluster.engines[0].heard.drain(..) {
        assert!(matches!(heard, Err(Trouble::NoQuorum | Trouble::Unknown)), "{command:?}: {heard:?}");
    }
    // The others have not waited.
    cluster.done(1, &renew(0, 21));
    cluster.alone = None;
    cluster.done(0, &renew(0, 22));
    cluster.until("agreement", Cluster::agree);
}

/// A node whose lease goes on renews while leaders come and go.
#[test]
fn renewals_go_on_while_leaders_change() {
    let mut cluster = Cluster::founded(3, Duration::from_millis(5));
    for node in 0..3 {
        cluster.done(node.into(), &begin(node));
    }
    let mut took = Vec::new();
    for number in 1..=12 {
        // Whoever it is: one in three was the leader.
        let alone = number as usize % 3;
        cluster.alone = Some(alone);
        let (node, begin) = ((alone + 1) % 3, Instant::now());
        cluster.done(node, &renew(node as u16, number));
        took.push(begin.elapsed());
        cluster.alone = None;
        cluster.pass(Duration::from_millis(50));
    }
    took.sort();
    println!("renewals took {took:?}");
    // A machine that is busy with other things may be late for some.
    assert!(took[took.len() / 2] < FREEZES_AFTER, "{took:?}");
    cluster.until("agreement", Cluster::agree);
    let renewals: Vec<u64> = cluster.engines[0].registry.members().map(|member| member.renewal).collect();
    assert_eq!(renewals, [11, 12, 10]);
}

/// Who votes is what the registry says, whoever leads; also if it is the leader that is to vote no more.
#[test]
fn voters_follow_the_registry() {
    let mut cluster = Cluster::founded(0, Duration::ZERO);
    let voters = |nodes: &[u16]| nodes.iter().copied().map(NodeId).collect::<Vec<_>>();
    let vote = |c: &Cluster, all: &[u16], learners: &[u16]| {
        c.engines.iter().filter(|engine| engine.link.is_some()).all(|engine| {
            let standing = &engine.standing;
            (&standing.voters, &standing.learners) == (&voters(all), &voters(learners))
        })
    };
    cluster.until("three voters", |c| vote(c, &[0, 1, 2], &[]));
    for _ in 0..2 {
        cluster.until("a leader", |c| c.engines[0].standing.leader.is_some());
        let leader = cluster.engines[0].standing.leader.unwrap();
        let set_role = |c: &Cluster, role| {
            let seen = c.engines[0].registry.member(leader).unwrap().revision;
            Command::SetRole { node: leader, seen, role }
        };
        let others: Vec<u16> = (0..3).filter(|node| *node != leader.0).collect();
        let command = set_role(&cluster, Role::Learner);
        cluster.done(0, &command);
        cluster.until("two voters", |c| vote(c, &others, &[leader.0]));
        cluster.until("agreement", Cluster::agree);
        // Two voters: without one of them nothing is decided, though two nodes are there.
        cluster.stop(others[1].into());
        let left = usize::from(others[0]);
        cluster.engines[left].heard.clear();
        cluster.propose(left, &Command::RevokeToken { serial: 9 });
        cluster.until("an answer", |c| !c.engines[left].heard.is_empty());
        assert!(matches!(cluster.engines[left].heard[0].1, Err(Trouble::NoQuorum | Trouble::Unknown)));
        cluster.start(others[1].into());
        cluster.until("agreement", Cluster::agree);
        let command = set_role(&cluster, Role::Voter);
        cluster.done(0, &command);
        cluster.until("three voters", |c| vote(c, &[0, 1, 2], &[]));
        cluster.until("agreement", Cluster::agree);
    }
}

/// With one of three voters gone, another must not give its vote back: the change would wait for the one that is gone, and everything
/// else with it.
#[test]
fn voters_do_not_change_to_those_who_are_gone() {
    let mut cluster = Cluster::founded(0, Duration::ZERO);
    cluster.until("three voters", |c| c.engines.iter().all(|it| it.standing.voters.len() == 3));
    cluster.until("a leader", |c| c.engines[0].standing.leader.is_some());
    cluster.stop(2);
    for node in [0, 1].map(NodeId) {
        let seen = cluster.engines[0].registry.member(node).unwrap().revision;
        cluster.done(0, &Command::SetRole { node, seen, role: Role::Learner });
        cluster.until("agreement of two", |c| c.engines[0].registry == c.engines[1].registry);
        cluster.pass(2 * FOLLOW_EVERY);
        let seen = cluster.engines[1].registry.member(node).unwrap().revision;
        cluster.done(1, &Command::SetRole { node, seen, role: Role::Voter });
        assert!(cluster.engines[..2].iter().all(|it| it.standing.voters.len() == 3));
    }
    cluster.start(2);
    cluster.until("agreement", Cluster::agree);
}

/// What no honest member says is named and not answered.
#[test]
fn a_misdeed_is_told_and_not_answered() {
    let mut cluster = Cluster::founded(0, Duration::ZERO);
    let ballot = Ballot { leadership: Leadership { term: 1, node: NodeId(2) }, committed: true };
    let call = Call::Append { ballot, previous: None, entries: Vec::new(), commit: None };
    let message = PeerMessage::Call { question: 1, call };
    cluster.engines[0].link.as_ref().unwrap().send(ToControl::Carried { from: NodeId(1), message });
    cluster.until("a word about it", |c| !c.engines[0].misdeeds.is_empty());
    assert_eq!(cluster.engines[0].misdeeds, [Misdeed::OtherBallot(NodeId(2))]);
}

fn alone(file: &Path, founding: Command) -> Result<Link> {
    let (file, wake) = (file.to_owned(), Wake::new().unwrap());
    start(Parts { me: NodeId(0), file, founding: Some(founding), joined: None, tuning: TUNING, wake })
}

#[track_caller]
fn last_word(link: &mut Link) -> Problem {
    let begin = Instant::now();
    loop {
        match link.poll() {
            Some(FromControl::Down(problem)) => return problem,
            Some(_) => {}
            None => std::thread::sleep(Duration::from_millis(1)),
        }
        assert!(begin.elapsed() < LONG, "it goes on");
    }
}

/// A file that is damaged, missing or nobody's is refused by name, before anything else happens, and is left as it is.
#[test]
fn a_file_that_cannot_be_used_is_refused_by_name() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join(FILE);
    let named = |problem: &Problem, what: &str| {
        assert_eq!(problem.code, Code::CoordinatorFile);
        let why = &problem.why;
        assert!(why.starts_with(&file.display().to_string()) && why.contains(what), "{why}");
    };
    named(&prepare(&file, false, None).unwrap_err(), "it is missing, and this node has run before");
    assert!(!file.exists());
    prepare(&file, true, None).unwrap();
    prepare(&file, true, None).unwrap();
    prepare(&file, false, None).unwrap();
    assert!(alone(&file, founding(0)).unwrap().stop());

    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    named(&alone(&file, founding(0)).err().unwrap(), "");
    assert_eq!(std::fs::metadata(&file).unwrap().len(), bytes.len() as u64 / 2);
    std::fs::write(&file, b"a letter to a friend".repeat(500)).unwrap();
    named(&alone(&file, founding(0)).err().unwrap(), "");
    named(&prepare(&file, true, None).unwrap_err(), "");
    std::fs::write(&file, bytes).unwrap();
    assert!(alone(&file, founding(0)).unwrap().stop(), "and the file is free again");
}

/// When the disk is full, the node hears that it must go, with the name of the file.
#[test]
fn a_full_disk_ends_the_run_with_the_file_named() {
    let Command::Init { mut members, spaces, .. } = founding(0) else { unreachable!() };
    members.truncate(1);
    let founding = Command::found("alone", members, spaces, Epoch(0));
    let disk = Disk::default();
    let on = disk.clone();
    let (file, wake) = ("never used".into(), Wake::new().unwrap());
    let parts = Parts { me: NodeId(0), file, founding: Some(founding), joined: None, tuning: TUNING, wake };
    let open = move |me, _, line, tuning| async move { on.start(me, line, tuning).await };
    let mut link = start_with(parts, open).unwrap();
    let begin = Instant::now();
    let mut founded = false;
    while !founded {
        assert!(begin.elapsed() < LONG);
        if let Some(FromControl::Applied(registry)) = link.poll() {
            founded = registry.cluster().is_some();
        }
    }
    disk.fill();
    for serial in 0..500 {
        link.send(ToControl::Propose(Command::RevokeToken { serial }));
    }
    let problem = last_word(&mut link);
    assert_eq!(problem.code, Code::CoordinatorStopped);
    assert!(problem.why.contains("a disk in memory"), "{problem}");
    assert!(link.stop());
}

/// A founding that the registry does not accept is not proposed for ever.
#[test]
fn a_founding_that_is_refused_ends_the_run() {
    let Command::Init { mut members, spaces, .. } = founding(0) else { unreachable!() };
    members.truncate(1);
    members[0].name = "\n".into();
    let directory = TempDir::new().unwrap();
    let file = directory.path().join(FILE);
    let mut link = alone(&file, Command::found("alone", members, spaces, Epoch(0))).unwrap();
    let problem = last_word(&mut link);
    assert_eq!(problem.code, Code::CoordinatorStopped);
    assert!(problem.why.contains(&Refusal::BadName.to_string()), "{problem}");
}
