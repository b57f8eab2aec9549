//! One run's part: when it asks, from when its lease counts, whom it reports, and who is refused.

mod founding;

use founding::{cluster, joined, key, renew, start};
use oarlock_cluster::lease::{Output as Step, Standing};
use oarlock_cluster::membership::{Identity, Output, hold_of};
use oarlock_cluster::partition::NodeSet;
use oarlock_cluster::registry::{Basis, CUT_OFF_FORGOTTEN, Command, Need, Out, Outcome, Refusal, Registry};
use oarlock_cluster::{Lease, Membership};
use oarlock_layout::id::{Epoch, Incarnation, NodeId};
use oarlock_layout::limit::{LEASE, LEASE_DRIFT, RENEW, SILENT};
use oarlock_layout::time::{Duration, Instant};

fn at(ms: u64) -> Instant {
    Instant::from_millis(1_000_000 + ms)
}

fn identity(node: u16, incarnation: u64, nonce: u64) -> Identity {
    Identity { node: NodeId(node), key: key(node), incarnation: Incarnation(incarnation), nonce }
}

fn outputs(membership: &mut Membership) -> Vec<Output> {
    std::iter::from_fn(|| membership.poll_output()).collect()
}

fn proposals(membership: &mut Membership) -> Vec<Command> {
    let proposed = |output| match output {
        Output::Propose(command) => Some(command),
        _ => None,
    };
    outputs(membership).into_iter().filter_map(proposed).collect()
}

/// A node and the registry that it applies everything to at once.
struct Node {
    membership: Membership,
    registry: Registry,
}

impl Node {
    fn new(now: Instant, me: Identity, registry: &Registry) -> Node {
        Node { membership: Membership::new(now, me, registry), registry: registry.clone() }
    }

    fn apply(&mut self, now: Instant, command: &Command) -> Outcome {
        let outcome = self.registry.apply(command);
        self.membership.handle_applied(now, &self.registry);
        outcome
    }

    /// Its own command comes back.
    fn answer(&mut self, now: Instant, command: &Command) -> Outcome {
        let outcome = self.apply(now, command);
        self.membership.handle_answer(now, command, outcome);
        outcome
    }

    fn hears(&mut self, now: Instant, peer: u16, incarnation: u64) {
        self.membership.handle_heard(now, NodeId(peer), Incarnation(incarnation));
    }

    fn lease(&self) -> &Lease {
        self.membership.lease().expect("it is in")
    }
}

/// The first of three is in, and its registry.
fn first_in(now: Instant) -> Node {
    let mut node = Node::new(now, identity(0, 1, 100), &joined(3));
    let [start] = proposals(&mut node.membership).try_into().unwrap();
    assert_eq!(node.answer(now, &start), Outcome::Done);
    let said = outputs(&mut node.membership);
    assert!(said.contains(&Output::Entered(Epoch(1))), "{said:?}");
    node
}

/// L2: what is applied here counts from when it was sent, also if nobody says that it was; what is only said by others does not.
#[test]
fn a_renewal_that_is_applied_counts_without_its_answer() {
    let mut node = first_in(at(0));
    let mut sent = Vec::new();
    for n in 1..=3 {
        node.membership.handle_timeout(at(750 * n));
        let said = proposals(&mut node.membership);
        sent.extend(said.into_iter().filter(|command| matches!(command, Command::Renew { .. })));
    }
    assert_eq!(sent.len(), 3, "{sent:?}");
    let until = node.lease().lease_until();
    node.membership.handle_applied(at(2_300), &node.registry);
    assert_eq!(node.lease().lease_until(), until, "nothing was applied");
    assert_eq!(node.apply(at(2_400), &sent[1]), Outcome::Done);
    assert_eq!(node.lease().lease_until().since(until), Duration::from_millis(1_500));
    // Its answer, and that of the one before, come late and change nothing.
    for command in &sent[..2] {
        node.membership.handle_answer(at(2_500), command, Outcome::Already);
    }
    assert_eq!(node.lease().lease_until().since(until), Duration::from_millis(1_500));
    assert_eq!(node.lease().standing(), Standing::Live);
}

/// L2: of three attempts the second is applied, late; the lease counts from its sending.
#[test]
fn the_first_lease_counts_from_the_attempt_that_was_applied() {
    let mut node = Node::new(at(0), identity(0, 1, 100), &joined(1));
    let mut attempts = proposals(&mut node.membership);
    for n in 1..3 {
        assert_eq!(node.membership.poll_timeout(), Some(at(750 * n)));
        node.membership.handle_timeout(at(750 * n));
        attempts.extend(proposals(&mut node.membership));
    }
    assert_eq!(attempts.len(), 3);
    node.apply(at(2_000), &attempts[1]);
    let margin = LEASE.saturating_sub(node.lease().lease_until().since(at(750)));
    assert_eq!(margin, Lease::new(at(0), at(0)).lease_until().since(at(0)).abs_diff(LEASE));
    assert_eq!(node.lease().standing(), Standing::Live);
}

/// The same key and the same number, in by a nonce of nobody's here.
#[test]
fn a_clone_is_in_and_this_one_is_not() {
    let mut node = Node::new(at(0), identity(0, 1, 100), &joined(1));
    let mut clone = Node::new(at(0), identity(0, 1, 9_000), &joined(1));
    let [mine] = proposals(&mut node.membership).try_into().unwrap();
    let [theirs] = proposals(&mut clone.membership).try_into().unwrap();
    for each in [&mut node, &mut clone] {
        each.apply(at(5), &theirs);
        each.apply(at(5), &mine);
    }
    assert!(clone.membership.lease().is_some());
    let refused = outputs(&mut node.membership);
    assert!(matches!(refused[..], [Output::View(_), Output::Refused(Refusal::OldRun { .. })]), "{refused:?}");
    assert!(node.membership.lease().is_none());
    node.membership.handle_timeout(at(60_000));
    assert_eq!(proposals(&mut node.membership), [], "it asks no more");
}

/// FT16: a run of a directory that was lost has the number that the one before had, and is not the run that was put out.
#[test]
fn who_has_the_number_of_a_run_that_was_put_out_is_told_so() {
    for mine in [true, false] {
        let mut node = Node::new(at(0), identity(0, 1, if mine { 100 } else { 9_000 }), &joined(1));
        let mut other = Node::new(at(0), identity(0, 1, 100), &joined(1));
        let [start] = proposals(&mut node.membership).try_into().unwrap();
        let [first] = proposals(&mut other.membership).try_into().unwrap();
        // It hears of all at once: let in, and put out.
        let out = Out { node: NodeId(0), incarnation: Incarnation(1), basis: Basis::ByHand, fences: vec![] };
        let evict = Command::Evict { epoch: Epoch(1), out: vec![out], note: None };
        assert_eq!(node.registry.apply(&first), Outcome::Done);
        assert_eq!(node.registry.apply(&evict), Outcome::Done);
        assert!(matches!(node.answer(at(5), &start), Outcome::Refused(_)));
        let said = outputs(&mut node.membership);
        let lost = said.contains(&Output::Lease(Step::Lost));
        let refused = said.iter().any(|it| matches!(it, Output::Refused(Refusal::OldRun { .. })));
        assert_eq!((lost, refused), (mine, !mine), "{said:?}");
    }
}

/// L7: whoever does not hear all members waits until it does.
#[test]
fn a_newcomer_asks_when_it_hears_every_member() {
    let first = first_in(at(0));
    let mut second = Node::new(at(10), identity(1, 1, 200), &first.registry);
    assert_eq!(proposals(&mut second.membership), []);
    assert_eq!(second.membership.unheard().collect::<Vec<_>>(), [NodeId(0)]);
    // An earlier run of the member says nothing.
    second.hears(at(700), 0, 0);
    assert_eq!(proposals(&mut second.membership), []);
    second.hears(at(1_600), 0, 1);
    let [start] = proposals(&mut second.membership).try_into().unwrap();
    assert_eq!(second.answer(at(1_700), &start), Outcome::Done);
    assert_eq!(second.membership.view().members.len(), 2);
    // One that fell silent meanwhile keeps it waiting.
    let mut third = Node::new(at(2_000), identity(2, 1, 300), &second.registry);
    third.hears(at(2_000), 0, 1);
    third.membership.handle_silent(at(2_100), NodeId(0));
    third.hears(at(2_200), 1, 1);
    assert_eq!(proposals(&mut third.membership), []);
    // All it does meanwhile is to ask whether the registry answers.
    for ms in (2_300..9_000).step_by(100) {
        third.membership.handle_timeout(at(ms));
        let asked = proposals(&mut third.membership);
        assert!(asked.iter().all(|c| matches!(c, Command::Renew { number: 0, .. })), "{asked:?}");
    }
    third.hears(at(9_000), 0, 1);
    assert_eq!(proposals(&mut third.membership).len(), 1);
}

/// All of a view have died, and one of them stays dead: those who come back put it out, for nobody else is left to do so.
/// Found with real daemons: two of three were killed, one of these was started again, and all waited for the other.
#[test]
fn whoever_waits_puts_out_who_is_dead_while_the_registry_answers() {
    let first = first_in(at(0));
    let mut second = Node::new(at(10), identity(1, 1, 200), &first.registry);
    let mut evicted = None;
    for ms in (100..8_000).step_by(50) {
        second.membership.handle_timeout(at(ms));
        for command in proposals(&mut second.membership) {
            if matches!(command, Command::Evict { .. }) {
                evicted.get_or_insert(ms);
            }
            second.answer(at(ms), &command);
        }
    }
    assert!(evicted.is_some_and(|ms| (3_210..4_500).contains(&ms)), "at {evicted:?}");
    assert_eq!(second.membership.view().nodes().collect::<Vec<_>>(), [NodeId(1)]);
}

/// L3: its earlier run is in the view still: it goes on asking until that is put out.
#[test]
fn a_restarted_run_waits_for_the_end_of_the_one_before() {
    let first = first_in(at(0));
    let mut again = Node::new(at(500), identity(0, 2, 700), &first.registry);
    let [start] = proposals(&mut again.membership).try_into().unwrap();
    assert!(matches!(again.answer(at(510), &start), Outcome::Refused(Refusal::StillIn { .. })));
    let mut now = at(510);
    let (mut evicted, mut entered) = (None, false);
    // It is alone, so it is its own watch that ends the lease of the run before.
    while !entered {
        now = again
            .membership
            .poll_timeout()
            .expect("it waits for something")
            .max(now + Duration::from_millis(1));
        assert!(now < at(12_000), "it is not let in");
        again.membership.handle_timeout(now);
        for command in proposals(&mut again.membership) {
            let done = again.answer(now, &command) == Outcome::Done;
            match command {
                Command::Evict { out, .. } if done => {
                    assert!(matches!(out[0].basis, Basis::LeaseOver { renewal: 0 }));
                    evicted = Some(now);
                }
                Command::Start { nonce, .. } if done => {
                    assert!(evicted.is_some() && nonce > 700);
                    entered = true;
                }
                _ => {}
            }
        }
    }
    assert!(evicted.unwrap().since(at(500)) >= LEASE + LEASE_DRIFT, "{evicted:?}");
    assert_eq!(again.lease().standing(), Standing::Live);
}

/// L7: at each change, and twice in a silent time, for what was said earlier says nothing any more.
#[test]
fn reports_are_repeated_and_said_at_each_change() {
    let mut first = first_in(at(0));
    let reports = |node: &mut Node| -> Vec<NodeSet> {
        let said = outputs(&mut node.membership).into_iter();
        said.filter_map(|output| if let Output::Report(set) = output { Some(set) } else { None }).collect()
    };
    assert_eq!(reports(&mut first), []);
    let mut second = Node::new(at(0), identity(1, 1, 200), &first.registry);
    second.hears(at(0), 0, 1);
    let [start] = proposals(&mut second.membership).try_into().unwrap();
    first.apply(at(20), &start);
    let only = |node| [NodeId(node)].into_iter().collect::<NodeSet>();
    assert_eq!(reports(&mut first), [only(1)], "it has not heard the newcomer yet");
    first.hears(at(30), 1, 1);
    assert_eq!(reports(&mut first), [NodeSet::EMPTY]);
    let half = SILENT.as_millis() as u64 / 2;
    for n in 1..4 {
        assert!(first.membership.poll_timeout().unwrap() <= at(30 + n * half));
        first.membership.handle_timeout(at(30 + n * half));
        assert_eq!(reports(&mut first), [NodeSet::EMPTY], "repeat {n}");
    }
    first.membership.handle_silent(at(1_700), NodeId(1));
    assert_eq!(reports(&mut first), [only(1)]);
    // A later run of the member counts as unheard until it is heard.
    first.hears(at(1_710), 1, 1);
    assert_eq!(reports(&mut first), [NodeSet::EMPTY]);
}

/// L4: whoever knows what the lockspaces protect says so, and every verdict asks for it.
#[test]
fn verdicts_carry_the_fences_that_are_at_stake() {
    let mut first = first_in(at(0));
    let mut second = Node::new(at(0), identity(1, 1, 200), &first.registry);
    second.hears(at(0), 0, 1);
    let [start] = proposals(&mut second.membership).try_into().unwrap();
    first.apply(at(10), &start);
    first.hears(at(10), 1, 1);
    let fences = vec![Need::Tail { volume: 7 }];
    first.membership.set_fences(fences.clone());
    outputs(&mut first.membership);
    let mut now = at(10);
    // It renews, and the second does not.
    let verdict = loop {
        now = first.membership.poll_timeout().unwrap().max(now + Duration::from_millis(1));
        assert!(now < at(8_000), "nobody is put out");
        first.membership.handle_timeout(now);
        let commands = proposals(&mut first.membership);
        if let Some(verdict) = commands.iter().find(|command| matches!(command, Command::Evict { .. })) {
            break verdict.clone();
        }
        for command in commands {
            assert!(matches!(first.answer(now, &command), Outcome::Done | Outcome::Already));
        }
    };
    let Command::Evict { out, .. } = &verdict else { unreachable!() };
    assert_eq!((out[0].node, &out[0].fences), (NodeId(1), &fences));
    assert_eq!(first.answer(now, &verdict), Outcome::Done);
    assert!(first.registry.fences().any(|fence| fence.node == NodeId(1)));
}

/// What nobody confirms ends, step by step, and the run with it; nothing brings it back.
#[test]
fn without_answers_the_run_ends_step_by_step() {
    let mut node = first_in(at(0));
    let mut steps = Vec::new();
    let mut renewals = Vec::new();
    let mut wakes = 0;
    while let Some(now) = node.membership.poll_timeout().filter(|now| *now < at(20_000)) {
        wakes += 1;
        assert!(wakes < 1_000, "it wants to be woken all the time");
        node.membership.handle_timeout(now);
        for output in outputs(&mut node.membership) {
            match output {
                Output::Lease(step) => steps.push(step),
                Output::Propose(command @ Command::Renew { .. }) => renewals.push(command),
                _ => {}
            }
        }
    }
    assert_eq!(steps, [Step::Frozen, Step::Lost]);
    // One went out at once, when it came in.
    assert_eq!(renewals.len(), LEASE.as_millis() as usize / RENEW.as_millis() as usize - 1);
    let late = node.answer(at(21_000), &renewals[0]);
    assert_eq!(late, Outcome::Done, "nobody had put it out");
    assert_eq!(node.lease().standing(), Standing::Lost);
    assert_eq!(proposals(&mut node.membership), []);
}

/// L5: that a run has ended is told to the registry until it knows, and no longer; nobody waits for its lease then.
#[test]
fn a_run_that_has_ended_is_told_until_the_registry_knows() {
    let mut node = first_in(at(0));
    let start = |node, incarnation| Command::Start {
        node: NodeId(node),
        key: key(node),
        incarnation: Incarnation(incarnation),
        nonce: 7,
        fences: Vec::new(),
    };
    node.hears(at(1), 1, 4);
    assert_eq!(node.apply(at(2), &start(1, 4)), Outcome::Done);
    outputs(&mut node.membership);
    let surrender = Command::Surrender { node: NodeId(1), incarnation: Incarnation(4) };
    let told =
        |node: &mut Node| proposals(&mut node.membership).into_iter().filter(|c| *c == surrender).count();
    node.membership.handle_given_up(at(10), NodeId(1), Incarnation(4));
    assert_eq!(told(&mut node), 1);
    node.membership.handle_given_up(at(11), NodeId(1), Incarnation(4));
    node.membership.handle_timeout(at(12));
    assert_eq!(told(&mut node), 0, "once for each time in which it may be answered");
    assert!(node.membership.poll_timeout() <= Some(at(10) + RENEW));
    node.membership.handle_timeout(at(10) + RENEW);
    assert_eq!(told(&mut node), 1, "it was lost");
    assert_eq!(node.answer(at(1_000), &surrender), Outcome::Done);
    let verdicts = proposals(&mut node.membership);
    let out = |command: &Command| match command {
        Command::Evict { out, .. } => {
            out.iter().any(|o| o.node == NodeId(1) && o.basis == Basis::Surrendered)
        }
        _ => false,
    };
    assert!(verdicts.iter().any(out), "{verdicts:?}");
    node.membership.handle_timeout(at(20_000));
    assert_eq!(told(&mut node), 0);
    // Nor does it ever give itself up so: it goes on.
    node.membership.handle_given_up(at(20_001), NodeId(0), Incarnation(1));
    node.membership.handle_timeout(at(21_000));
    assert!(!proposals(&mut node.membership).iter().any(|c| matches!(c, Command::Surrender { .. })));
}

/// A run that was never let in, or whose end nobody ever answers: its lease is over by itself, and this ends.
#[test]
fn what_nobody_answers_is_not_told_for_ever() {
    let mut node = first_in(at(0));
    node.membership.handle_given_up(at(0), NodeId(1), Incarnation(4));
    let mut told = 0;
    for ms in (0..60_000).step_by(50) {
        node.membership.handle_timeout(at(ms));
        let said = proposals(&mut node.membership);
        let surrenders = said.iter().filter(|c| matches!(c, Command::Surrender { .. })).count();
        assert!(surrenders == 0 || ms < 2 * LEASE.as_millis() as u64, "{ms}");
        told += surrenders;
    }
    assert_eq!(told, 8, "each 750 ms of 6 s");
}

/// L7: each further verdict about silence makes the node wait twice as long, up to a bound; and a word that is missed begins that anew.
#[test]
fn whoever_was_not_heard_again_and_again_waits_longer_each_time() {
    let mut first = first_in(at(0));
    let mut now = 10;
    for (times, incarnation) in (0u32..12).zip(1..) {
        let mut second = Node::new(at(now), identity(1, incarnation, 200), &first.registry);
        second.hears(at(now), 0, 1);
        let hold = hold_of(times).as_millis() as u64;
        assert_eq!(hold, if times == 0 { 0 } else { 1_000 << (times.min(6) - 1) });
        let left = second.membership.held_back(at(now));
        assert_eq!(left, (hold > 0).then(|| (times.min(6), Duration::from_millis(hold))));
        if hold > 0 {
            now += hold - 1;
            assert_eq!(second.membership.held_back(at(now)), Some((times.min(6), Duration::from_millis(1))));
            second.membership.handle_timeout(at(now));
            second.membership.handle_silent(at(now), NodeId(0));
            second.hears(at(now), 0, 1);
        }
        let begin = now;
        let start = loop {
            let asked = proposals(&mut second.membership);
            if let Some(start) = asked.into_iter().find(|it| matches!(it, Command::Start { .. })) {
                break start;
            }
            let due = second.membership.poll_timeout().expect("it waits for something");
            assert!(due > at(now), "a timeout that leads nowhere");
            now = due.since(at(0)).as_millis() as u64;
            second.membership.handle_timeout(due);
        };
        assert_eq!(now, begin + hold, "after {times} verdicts");
        assert_eq!(first.apply(at(now), &start), Outcome::Done);
        let basis = Basis::Partition { kept: 1 };
        let out = Out { node: NodeId(1), incarnation: Incarnation(incarnation), basis, fences: vec![] };
        let epoch = first.registry.view().epoch;
        assert_eq!(
            first.apply(at(now), &Command::Evict { epoch, out: vec![out], note: None }),
            Outcome::Done
        );
        let (node, incarnation) = (NodeId(1), Incarnation(incarnation));
        assert_eq!(first.apply(at(now), &Command::Surrender { node, incarnation }), Outcome::Done);
    }
}

/// L7: each link counts for itself. Whoever was kept out by one member need not hear the others anew when that one is gone.
#[test]
fn who_was_heard_all_the_while_need_not_be_heard_anew() {
    let mut registry = cluster(3);
    let out = |node: u16, incarnation, basis| {
        vec![Out { node: NodeId(node), incarnation: Incarnation(incarnation), basis, fences: vec![] }]
    };
    for incarnation in 1..4 {
        let (epoch, basis) = (registry.view().epoch, Basis::Partition { kept: 2 });
        let evict = Command::Evict { epoch, out: out(2, incarnation, basis), note: None };
        assert_eq!(registry.apply(&evict), Outcome::Done);
        if incarnation < 3 {
            assert_eq!(registry.apply(&start(NodeId(2), incarnation + 1)), Outcome::Done);
        }
    }
    let mut node = Node::new(at(0), identity(2, 4, 500), &registry);
    node.hears(at(0), 1, 1);
    let mut now = 0;
    while now < 10_000 {
        now += 50;
        node.membership.handle_timeout(at(now));
        let asked = proposals(&mut node.membership);
        assert!(!asked.iter().any(|it| matches!(it, Command::Start { .. })), "it does not hear all");
    }
    let epoch = node.registry.view().epoch;
    let gone = Command::Evict { epoch, out: out(0, 1, Basis::ByHand), note: None };
    assert_eq!(node.apply(at(now), &gone), Outcome::Done);
    node.membership.handle_timeout(at(now + 50));
    let asked = proposals(&mut node.membership);
    assert!(asked.iter().any(|it| matches!(it, Command::Start { .. })), "{asked:?}");
}

/// Five minutes of renewals, and what was before is forgotten, whatever ends the run.
#[test]
fn a_time_of_health_is_forgiven() {
    for (number, left) in [(CUT_OFF_FORGOTTEN - 1, Some(1)), (CUT_OFF_FORGOTTEN, None)] {
        let mut registry = cluster(2);
        let mut apply = |command: &Command| assert_eq!(registry.apply(command), Outcome::Done, "{command:?}");
        let evict = |epoch, incarnation, basis| {
            let out = Out { node: NodeId(1), incarnation: Incarnation(incarnation), basis, fences: vec![] };
            Command::Evict { epoch: Epoch(epoch), out: vec![out], note: None }
        };
        apply(&evict(2, 1, Basis::Partition { kept: 1 }));
        apply(&start(NodeId(1), 2));
        apply(&renew(NodeId(1), 2, number));
        apply(&evict(4, 2, Basis::LeaseOver { renewal: number }));
        assert_eq!(registry.member(NodeId(1)).unwrap().cut_off, left);
        let copy = Registry::restore(&registry.snapshot()).unwrap();
        assert_eq!(copy, registry);
    }
}

/// A link that works for eleven seconds and is gone for two, for ten minutes: without the longer waits that were 46 verdicts, each of
/// which keeps everybody from new grants until a lease is over.
#[test]
fn a_link_that_comes_and_goes_costs_few_verdicts() {
    let mut first = first_in(at(0));
    let (mut verdicts, mut incarnation) = (0, 1);
    let mut second = Node::new(at(0), identity(1, 1, 200), &first.registry);
    for ms in (0..600_000).step_by(50) {
        match ms % 13_000 {
            0 => second.hears(at(ms), 0, 1),
            12_000 => second.membership.handle_silent(at(ms), NodeId(0)),
            12_900 if first.registry.run(NodeId(1)).is_some() => {
                let basis = Basis::Partition { kept: 1 };
                let out =
                    Out { node: NodeId(1), incarnation: Incarnation(incarnation), basis, fences: vec![] };
                let epoch = first.registry.view().epoch;
                let evict = Command::Evict { epoch, out: vec![out], note: None };
                assert_eq!(first.apply(at(ms), &evict), Outcome::Done);
                let (node, run) = (NodeId(1), Incarnation(incarnation));
                first.apply(at(ms), &Command::Surrender { node, incarnation: run });
                (verdicts, incarnation) = (verdicts + 1, incarnation + 1);
                second = Node::new(at(ms), identity(1, incarnation, 200), &first.registry);
            }
            _ => {}
        }
        second.membership.handle_timeout(at(ms));
        for start in
            proposals(&mut second.membership).into_iter().filter(|it| matches!(it, Command::Start { .. }))
        {
            second.registry = first.registry.clone();
            first.apply(at(ms), &start);
            second.answer(at(ms), &start);
        }
    }
    assert_eq!(verdicts, 5, "waits of 1, 2, 4 and 8 s, and 16 s it is never heard");
}
