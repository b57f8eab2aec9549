//! Forming a view with static members (L3), step by step and in storms.

mod world;

use oarlock_cluster::{Form, Forming, FormingConfig, Output, Phase, Violation, Wait};
use oarlock_layout::id::{Epoch, Incarnation, NodeId};
use oarlock_layout::limit::LEASE;
use oarlock_layout::time::{Duration, Instant};
use oarlock_layout::view::{Member, View};
use proptest::prelude::*;
use world::{Step, World};

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const C: NodeId = NodeId(2);

fn started(nodes: u16) -> World {
    let mut world = World::new(nodes);
    for node in world.nodes() {
        world.start(node);
    }
    world
}

fn first(world: &mut World) {
    world.run_to_rest(|_| 0);
}

#[test]
fn three_members_that_start_for_the_first_time_serve_epoch_one_at_once() {
    let mut world = started(3);
    first(&mut world);
    let view = world.common_view().expect("all serve");
    assert_eq!(view.epoch, Epoch(1));
    assert_eq!(view.member(C), Some(&Member { node: C, incarnation: Incarnation(1) }));
    for node in world.nodes() {
        assert_eq!(world.grants_from(node), Some(world.now), "nobody can hold anything yet");
        assert_eq!(world.forming(node).poll_timeout(), None);
        assert_eq!(world.forming(node).waits(), []);
    }
}

#[test]
fn a_cluster_of_one_forms_by_itself() {
    let mut world = started(1);
    first(&mut world);
    assert_eq!(world.common_view().map(|v| v.epoch), Some(Epoch(1)));
    world.crash(A);
    world.start(A);
    first(&mut world);
    assert_eq!(world.common_view().map(|v| v.epoch), Some(Epoch(2)), "an epoch is used once");
}

#[test]
fn nobody_serves_while_a_member_is_missing_and_the_wait_names_it() {
    let mut world = World::new(3);
    world.start(A);
    world.start(B);
    first(&mut world);
    assert_eq!(world.forming(A).phase(), Phase::Forming);
    assert_eq!(world.forming(A).waits(), [Wait::Missing(C)]);
    assert_eq!(world.stored(A), Epoch(0), "no epoch is spent on a view that cannot be");
}

#[test]
fn an_unclean_stop_delays_grants_by_one_lease_and_a_clean_one_does_not() {
    // Protocol T: unless all stopped cleanly, the new view grants nothing for one lease time.
    for (stop, wait) in
        [(World::crash as fn(&mut World, NodeId), LEASE), (World::stop_cleanly, Duration::ZERO)]
    {
        let mut world = started(3);
        first(&mut world);
        world.stop_cleanly(A);
        world.stop_cleanly(B);
        stop(&mut world, C);
        world.now = Instant::from_millis(50_000);
        for node in world.nodes() {
            world.start(node);
        }
        first(&mut world);
        assert_eq!(world.common_view().map(|v| v.epoch), Some(Epoch(2)));
        for node in world.nodes() {
            assert_eq!(world.grants_from(node), Some(world.now + wait));
        }
    }
}

/// T "Forming": what the crashed run granted may be in use for a lease time, however often the member was started
/// and stopped in order since.
#[test]
fn a_clean_stop_does_not_hide_the_unclean_one_before_it() {
    let later = |world: &mut World, by: Duration| world.now += by;
    // Stopped at once, while it waited for others; stopped in a view; stopped when nobody could act any more.
    for (others_come, after, wait) in [
        (false, Duration::from_millis(500), LEASE),
        (true, Duration::from_millis(2_900), LEASE),
        (true, LEASE, Duration::ZERO),
        (false, LEASE, Duration::ZERO),
    ] {
        let mut world = started(3);
        first(&mut world);
        later(&mut world, Duration::from_secs(60));
        world.stop_cleanly(A);
        world.stop_cleanly(B);
        world.crash(C);
        world.start(C);
        for node in [A, B].into_iter().filter(|_| others_come) {
            world.start(node);
        }
        first(&mut world);
        assert_eq!(world.forming(C).view().is_some(), others_come);
        later(&mut world, after);
        for node in world.nodes() {
            if world.alive(node) {
                world.stop_cleanly(node);
            }
            world.start(node);
        }
        first(&mut world);
        for node in world.nodes() {
            assert_eq!(world.grants_from(node), Some(world.now + wait), "{others_come} {after:?}");
        }
    }
}

#[test]
fn a_member_that_comes_back_alone_is_refused_and_disturbs_nobody() {
    // L3: a restarted node is a master with an empty table.
    for pins_cut in [true, false] {
        let mut world = started(3);
        world.pins_cut = pins_cut;
        first(&mut world);
        world.crash(C);
        world.start(C);
        first(&mut world);
        assert_eq!(world.forming(C).phase(), Phase::Refused);
        assert!(world.forming(C).waits().contains(&Wait::RefusedBy(A)));
        assert!(world.forming(C).waits()[0].to_string().contains("restart of the whole cluster"));
        for node in [A, B] {
            assert_eq!(world.forming(node).view().map(|v| v.epoch), Some(Epoch(1)));
        }
        // The others follow one by one; the last start completes a whole restart.
        world.crash(A);
        world.start(A);
        first(&mut world);
        assert_eq!(world.forming(A).phase(), Phase::Refused, "B still serves");
        world.crash(B);
        world.start(B);
        first(&mut world);
        assert_eq!(world.common_view().map(|v| v.epoch), Some(Epoch(2)));
    }
}

#[test]
fn a_member_that_restarts_before_the_commit_makes_the_proposer_start_again_higher() {
    let mut world = started(3);
    while world.stored(C) == Epoch(0) {
        let step = world.steps()[0];
        world.take(step);
    }
    // C has stored epoch 1; its acceptance has not been delivered.
    world.crash(C);
    world.start(C);
    first(&mut world);
    let view = world.common_view().expect("all serve");
    assert_eq!(view.epoch, Epoch(2), "epoch 1 is on C's disk and stays used");
    assert_eq!(view.member(C).map(|m| m.incarnation), Some(Incarnation(2)));
}

#[test]
fn a_commit_that_reached_one_member_reaches_the_others_through_it() {
    let mut world = started(3);
    // Everything but the channel from A to C, as soon as C has stored.
    loop {
        let stuck = |s: &Step| *s == Step::Deliver(A, C) && world.stored(C) == Epoch(1);
        let Some(step) = world.steps().into_iter().find(|s| !stuck(s)) else { break };
        world.take(step);
    }
    assert_eq!(world.forming(B).phase(), Phase::Serving);
    assert_eq!(world.forming(C).phase(), Phase::Serving, "learned from B");
    let mut lost = started(3);
    // The same with the word of B held back too, and A dead: C still gets there by B alone.
    loop {
        let stuck =
            |s: &Step| matches!(s, Step::Deliver(A, C) | Step::Deliver(B, C)) && lost.stored(C) == Epoch(1);
        let Some(step) = lost.steps().into_iter().find(|s| !stuck(s)) else { break };
        lost.take(step);
    }
    assert_eq!(lost.forming(C).phase(), Phase::Forming);
    assert_eq!(lost.forming(C).waits(), [Wait::Commit(Epoch(1))]);
    lost.crash(A);
    lost.start(A);
    first(&mut lost);
    assert_eq!(lost.forming(A).phase(), Phase::Refused);
    assert_eq!(lost.forming(C).view(), lost.forming(B).view());
}

fn alone_with(members: &[NodeId], me: NodeId, stored: u32) -> Forming {
    let config = FormingConfig {
        me,
        incarnation: Incarnation(7),
        members: members.to_vec(),
        stored: Epoch(stored),
        clean: true,
    };
    Forming::new(Instant::default(), config)
}

fn view(epoch: u32, runs: &[(NodeId, u64)]) -> View {
    let members = runs.iter().map(|(node, run)| Member { node: *node, incarnation: Incarnation(*run) });
    View { epoch: Epoch(epoch), members: members.collect() }
}

#[test]
fn misdeeds_of_peers_are_named_and_change_nothing() {
    let t = Instant::default();
    let mut b = alone_with(&[A, B, C], B, 5);
    let accept = |n| Form::Accept { epoch: Epoch(n) };
    let propose = |v: &View| Form::Propose { view: v.clone(), wait: false };
    let good = view(6, &[(A, 3), (B, 7), (C, 1)]);
    assert_eq!(b.handle_form(t, A, accept(1)), Err(Violation::Unannounced { from: A }));
    assert_eq!(b.handle_form(t, NodeId(9), accept(1)), Err(Violation::NotAMember { from: NodeId(9) }));
    b.handle_up(t, A, Incarnation(3));
    b.handle_up(t, C, Incarnation(1));
    while b.poll_output().is_some() {}
    let mut refused = |from, form, misdeed| {
        assert_eq!(b.handle_form(t, from, form), Err(misdeed));
        assert_eq!(b.poll_output(), None);
        assert_eq!(b.phase(), Phase::Forming);
    };
    refused(C, propose(&good), Violation::NotTheProposer { from: C, lowest: A });
    refused(C, Form::Commit { epoch: Epoch(6) }, Violation::NotTheProposer { from: C, lowest: A });
    refused(A, accept(6), Violation::NotProposed { epoch: Epoch(6) });
    refused(A, Form::Commit { epoch: Epoch(6) }, Violation::NotAccepted { epoch: Epoch(6) });
    let low = view(5, &[(A, 3), (B, 7), (C, 1)]);
    refused(A, propose(&low), Violation::EpochNotHigher { proposed: Epoch(5), stored: Epoch(5) });
    let huge = view(1 << 20, &[(A, 3), (B, 7), (C, 1)]);
    refused(A, propose(&huge), Violation::EpochTooLarge { epoch: Epoch(1 << 20) });
    let fewer = view(6, &[(A, 3), (B, 7)]);
    refused(A, propose(&fewer), Violation::OtherMembers { epoch: Epoch(6) });
    let other = view(6, &[(A, 3), (B, 6), (C, 1)]);
    let (named, actual) = (Incarnation(6), Incarnation(7));
    refused(A, propose(&other), Violation::OtherRun { epoch: Epoch(6), node: B, named, actual });
    // And the honest proposal still goes through.
    b.handle_form(t, A, propose(&good)).unwrap();
    assert_eq!(b.poll_output(), Some(Output::Store { epoch: Epoch(6) }));
}

#[test]
fn a_view_is_accepted_only_with_a_circuit_to_everybody_in_it() {
    // Whoever serves talks to all members; one that cannot would have to throw statements away.
    let t = Instant::default();
    let mut b = alone_with(&[A, B, C], B, 0);
    b.handle_up(t, A, Incarnation(3));
    sent(&mut b);
    let new = view(1, &[(A, 3), (B, 7), (C, 2)]);
    b.handle_form(t, A, Form::Propose { view: new, wait: false }).unwrap();
    assert_eq!((sent(&mut b), b.waits()), (vec![], vec![Wait::Missing(A), Wait::Missing(C)]));
    b.handle_up(t, C, Incarnation(1));
    assert!(!sent(&mut b).contains(&Output::Store { epoch: Epoch(1) }), "not that run");
    b.handle_up(t, C, Incarnation(2));
    assert!(sent(&mut b).contains(&Output::Store { epoch: Epoch(1) }));
}

#[test]
fn a_view_that_names_a_run_known_to_be_over_is_not_accepted() {
    let t = Instant::default();
    let mut b = alone_with(&[A, B, C], B, 0);
    b.handle_up(t, A, Incarnation(3));
    b.handle_up(t, C, Incarnation(2));
    sent(&mut b);
    let old = view(1, &[(A, 3), (B, 7), (C, 1)]);
    b.handle_form(t, A, Form::Propose { view: old, wait: false }).unwrap();
    assert_eq!(b.poll_output(), None);
}

fn standing(phase: Phase, stored: u32) -> Form {
    Form::Standing { phase, stored: Epoch(stored), clean: true }
}

fn sent(forming: &mut Forming) -> Vec<Output> {
    core::iter::from_fn(|| forming.poll_output()).collect()
}

#[test]
fn the_proposer_goes_above_the_highest_epoch_that_anybody_stored() {
    // R6: were it to trust its own disk alone, a lost data directory would let tokens fall.
    let t = Instant::default();
    let mut a = alone_with(&[A, B], A, 3);
    a.handle_up(t, B, Incarnation(1));
    a.handle_form(t, B, standing(Phase::Forming, 8)).unwrap();
    assert!(sent(&mut a).contains(&Output::Store { epoch: Epoch(9) }));
}

#[test]
fn nothing_is_proposed_while_a_member_serves() {
    let t = Instant::default();
    let mut a = alone_with(&[A, B], A, 3);
    a.handle_up(t, B, Incarnation(1));
    a.handle_form(t, B, standing(Phase::Serving, 3)).unwrap();
    assert!(!sent(&mut a).iter().any(|o| matches!(o, Output::Store { .. })));
    assert_eq!((a.phase(), a.waits()), (Phase::Refused, vec![Wait::Serves(B, Epoch(3))]));
}

#[test]
fn a_member_that_serves_answers_a_proposal_with_where_it_stands() {
    // L3: it never leaves its view; the proposer had an old picture.
    let t = Instant::default();
    let mut b = alone_with(&[A, B], B, 0);
    b.handle_up(t, A, Incarnation(1));
    let mine = view(1, &[(A, 1), (B, 7)]);
    b.handle_form(t, A, Form::Propose { view: mine.clone(), wait: false }).unwrap();
    b.handle_stored(t, Epoch(1));
    b.handle_form(t, A, Form::Commit { epoch: Epoch(1) }).unwrap();
    b.handle_up(t, A, Incarnation(2));
    sent(&mut b);
    let next = view(2, &[(A, 2), (B, 7)]);
    b.handle_form(t, A, Form::Propose { view: next, wait: false }).unwrap();
    assert_eq!(sent(&mut b), [Output::Send { to: A, form: standing(Phase::Serving, 1) }]);
    assert_eq!(b.view(), Some(&mine));
}

#[test]
fn only_the_very_view_that_was_accepted_is_learned_from_others() {
    let t = Instant::default();
    let mut c = alone_with(&[A, B, C], C, 0);
    c.handle_up(t, A, Incarnation(1));
    c.handle_up(t, B, Incarnation(1));
    let second = view(2, &[(A, 1), (B, 1), (C, 7)]);
    c.handle_form(t, A, Form::Propose { view: second.clone(), wait: false }).unwrap();
    c.handle_stored(t, Epoch(2));
    c.handle_form(t, B, standing(Phase::Serving, 1)).unwrap();
    assert_eq!(c.phase(), Phase::Refused, "view 1 is not ours");
    c.handle_form(t, B, standing(Phase::Serving, 2)).unwrap();
    assert_eq!(c.view(), Some(&second));
}

#[test]
fn an_epoch_that_may_reach_the_disk_is_told_as_used() {
    let t = Instant::default();
    let mut b = alone_with(&[A, B], B, 0);
    b.handle_up(t, A, Incarnation(1));
    let first = view(4, &[(A, 1), (B, 7)]);
    b.handle_form(t, A, Form::Propose { view: first, wait: false }).unwrap();
    sent(&mut b);
    // The proposer dies while the write is under way; its next run must not propose epoch 4 again, and must
    // not be told that a view was accepted which it never proposed.
    b.handle_up(t, A, Incarnation(2));
    assert_eq!(sent(&mut b), [Output::Send { to: A, form: standing(Phase::Forming, 4) }]);
    b.handle_stored(t, Epoch(4));
    assert_eq!((sent(&mut b), b.stored()), (vec![], Epoch(4)));
}

#[test]
fn the_last_epoch_is_never_exceeded() {
    let t = Instant::default();
    let mut a = alone_with(&[A], A, (1 << 20) - 1);
    assert_eq!(a.poll_output(), None);
    assert_eq!(a.waits(), [Wait::EpochsExhausted]);
    a.handle_timeout(t);
    let mut a = alone_with(&[A], A, (1 << 20) - 2);
    assert_eq!(a.poll_output(), Some(Output::Store { epoch: Epoch((1 << 20) - 1) }));
}

#[test]
fn the_wait_for_grants_is_a_timer_that_ends() {
    let t = Instant::from_millis;
    let config = FormingConfig {
        me: A,
        incarnation: Incarnation(2),
        members: vec![A],
        stored: Epoch(1),
        clean: false,
    };
    let mut a = Forming::new(t(100), config);
    a.handle_stored(t(110), Epoch(2));
    let from = t(110) + LEASE;
    assert_eq!((a.grants_from(), a.poll_timeout()), (Some(from), Some(from)));
    a.handle_timeout(t(200));
    assert_eq!(a.poll_timeout(), Some(from), "too early to end");
    a.handle_timeout(from);
    assert_eq!(a.poll_timeout(), None);
}

/// One thing that happens in a storm; numbers choose among what is possible.
#[derive(Clone, Copy, Debug)]
enum Gust {
    Steps(u64, u8),
    Crash(u16),
    Stop(u16),
    Start(u16),
}

fn gust() -> impl Strategy<Value = Gust> {
    prop_oneof![
        12 => (any::<u64>(), 1u8..25).prop_map(|(seed, n)| Gust::Steps(seed, n)),
        2 => any::<u16>().prop_map(Gust::Crash),
        1 => any::<u16>().prop_map(Gust::Stop),
        3 => any::<u16>().prop_map(Gust::Start),
    ]
}

/// Numbers below `n` that follow from a seed; every kind of choice is equally likely.
fn chooser(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |n| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    }
}

fn storm(world: &mut World, gusts: &[Gust]) {
    for gust in gusts {
        let nodes = world.nodes();
        match *gust {
            Gust::Steps(seed, n) => {
                let mut choose = chooser(seed);
                for _ in 0..n {
                    let steps = world.steps();
                    if steps.is_empty() {
                        break;
                    }
                    world.take(steps[choose(steps.len())]);
                    world.check();
                }
            }
            Gust::Crash(n) => world.crash(nodes[n as usize % nodes.len()]),
            Gust::Stop(n) => world.stop_cleanly(nodes[n as usize % nodes.len()]),
            Gust::Start(n) => {
                let node = nodes[n as usize % nodes.len()];
                if !world.alive(node) {
                    world.start(node);
                }
            }
        }
        world.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// L3: whatever order nodes die and start in, `World::check` holds after every step, and a whole restart
    /// brings all members into one view above every epoch served before.
    #[test]
    fn a_whole_restart_converges_on_one_higher_view(
        nodes in 1u16..6,
        pins_cut in any::<bool>(),
        gusts in proptest::collection::vec(gust(), 0..80),
        seed in any::<u64>(),
    ) {
        let mut world = World::new(nodes);
        world.pins_cut = pins_cut;
        storm(&mut world, &gusts);
        let before = world.served.keys().last().copied().unwrap_or_default();
        let mut choose = chooser(seed);
        // The whole restart: all stop, in any order relative to what is on the way, and start one by one
        // while the others already talk.
        for node in world.nodes() {
            world.crash(node);
        }
        let mut rest = world.nodes();
        while !rest.is_empty() {
            let node = rest.swap_remove(choose(rest.len()));
            world.start(node);
            for _ in 0..choose(8) {
                let steps = world.steps();
                if steps.is_empty() { break }
                world.take(steps[choose(steps.len())]);
                world.check();
            }
        }
        world.run_to_rest(&mut choose);
        let view = world.common_view();
        prop_assert!(view.is_some(), "not all serve the same view");
        prop_assert!(view.unwrap().epoch > before);
    }

    /// Without a whole restart the members at rest either all serve one view, or somebody is missing or was
    /// in a view that an earlier run of it is named in: then nobody who waits is without a stated reason.
    #[test]
    fn whoever_does_not_serve_at_rest_can_say_why(
        nodes in 2u16..6,
        pins_cut in any::<bool>(),
        gusts in proptest::collection::vec(gust(), 0..80),
    ) {
        let mut world = World::new(nodes);
        world.pins_cut = pins_cut;
        storm(&mut world, &gusts);
        for node in world.nodes() {
            if !world.alive(node) { world.start(node); }
        }
        let mut turn = 0usize;
        world.run_to_rest(|n| { turn += 1; turn % n });
        let nodes = world.nodes();
        if world.common_view().is_none() {
            let serving = nodes.iter().filter(|n| world.forming(**n).phase() == Phase::Serving).count();
            prop_assert!(serving > 0, "all are alive and none serves: they should have formed");
            for node in nodes {
                let forming = world.forming(node);
                if forming.phase() != Phase::Serving {
                    prop_assert_eq!(forming.phase(), Phase::Refused);
                    prop_assert!(!forming.waits().is_empty());
                }
            }
        }
    }
}
