//! The cluster clock under ceilings (E5-E9, CK1-CK7).

mod tide;

use oarlock_cluster::watermark::{Config, NoStamp, Output, STRIDE_MAX, Violation, Watermark};
use oarlock_layout::id::{Epoch, Incarnation, NodeId};
use oarlock_layout::stamp::{HighWatermark, Reading, Stamp};
use oarlock_layout::time::Instant;
use oarlock_layout::view::{Member, View};
use proptest::prelude::*;
use tide::*;

const SEEDS: u64 = 60;
const STEPS: u64 = 6_000;

/// A storm from a seed, until a clock is above a watermark.
fn storm(seed: u64, make: fn(Config) -> Watermark) -> World {
    let mut world = World::new(seed, STORM);
    world.make = make;
    world.begin();
    for _ in 0..STEPS {
        if world.beyond.is_some() {
            break;
        }
        world.chaos();
        world.check();
        world.step();
    }
    world
}

/// E5, E8, E9, CK1-CK3, CK5: 20 % loss, reordering, repeats, pauses, deaths, restarts, newcomers, members put out while they
/// live, views skipped: no clock is ever above any member's watermark, no stamp below one of an earlier view. In the end
/// the clock goes on.
#[test]
fn e5_the_watermark_is_at_or_above_every_clock_at_every_moment() {
    let (mut views, mut issued) = (0, 0);
    for seed in 0..SEEDS {
        let mut world = storm(seed, Watermark::new);
        assert_eq!(world.broken, None, "seed {seed}");
        (views, issued) = (views + world.views.len(), issued + world.issued());
        world.weather = CALM;
        world.restart_all();
        (0..NODES).for_each(|node| _ = world.issue_soon(node));
        assert_eq!(world.broken, None, "seed {seed}");
    }
    assert!(views > 2_000 && issued > 1_000_000, "{views} views, {issued} stamps: that was no storm");
}

/// A storm in which disks are lost as well, so that often nobody in a view knows what was before it. A coordinator
/// bounds all ceilings, late and not always, and its bound is where the next view begins. In the end all die with their disks.
fn bounded_storm(seed: u64, make: fn(Config) -> Watermark) -> World {
    let mut world = World::new(seed, STORM);
    (world.bounds, world.make) = (Some(vec![Stamp(0)]), make);
    world.begin();
    for _ in 0..STEPS {
        world.chaos();
        world.check();
        world.step();
    }
    let there: Vec<usize> = (0..NODES).filter(|n| world.nodes[*n].is_some()).collect();
    there.into_iter().for_each(|node| world.crash(node));
    (world.weather, world.disks) = (CALM, [Stamp(0); NODES]);
    world.begin();
    (0..NODES).for_each(|node| _ = world.issue_soon(node));
    world
}

/// E5, E8: what holds in every storm holds also if disks are lost.
#[test]
fn e8_a_bound_of_all_ceilings_outlives_all_disks() {
    let (mut raises, mut issued) = (0, 0);
    for seed in 0..SEEDS {
        let world = bounded_storm(seed, Watermark::new);
        assert_eq!(world.broken, None, "seed {seed}");
        let again = world.views.windows(2).filter(|two| two[0].0 == two[1].0).count();
        (raises, issued) = (raises + again, issued + world.issued());
    }
    assert!(raises > 500 && issued > 500_000, "{raises} raises, {issued} stamps: that was no storm");
}

/// The control: ceilings that heed no bound are seen.
#[test]
fn e8_ceilings_without_a_bound_are_forgotten_with_the_disks() {
    let heedless = |config| Watermark::new(Config { bound: Stamp::MAX, ..config });
    let seen = (0..SEEDS).filter(|seed| bounded_storm(*seed, heedless).broken.is_some()).count() as u64;
    assert!(seen > SEEDS / 2, "{seen} of {SEEDS}");
}

/// E8: a member waits at the bound, wants the next one as often as it is asked, and the same one as all others.
#[test]
fn e8_no_ceiling_is_announced_above_the_bound() {
    let config = Config { bound: Stamp(0), range: 1_000, ..Config::new(NodeId(0), Incarnation(1), Stamp(0)) };
    let mut clock = Watermark::new(config);
    clock.handle_view(NOW, &view(1, &[0]), HighWatermark(Stamp(5_000)));
    settle(&mut clock);
    assert_eq!((clock.issue(NOW), clock.bound_wanted()), (Err(NoStamp::Wait), Some(Stamp(5_500))));
    clock.handle_bound(NOW, Stamp(6_000));
    settle(&mut clock);
    assert_eq!((clock.issue(NOW), clock.ceiling()), (Ok(Stamp(5_001)), Some(Stamp(6_000))));
    while clock.issue(NOW).is_ok() {
        settle(&mut clock);
    }
    assert_eq!((clock.last(), clock.bound_wanted()), (Stamp(6_000), Some(Stamp(6_500))));
    clock.handle_bound(NOW, Stamp(6_500));
    settle(&mut clock);
    assert_eq!(clock.issue(NOW), Ok(Stamp(6_001)));
}

/// The two tempting shortcuts: ceilings that are announced and not awaited, and a clock that ticks when it hears. The
/// same storms see both, every single one.
#[cfg(feature = "planted")]
#[test]
fn e5_a_shortcut_is_seen_in_every_storm() {
    use oarlock_cluster::watermark::Shortcut;
    let not_awaited = |config| Watermark::new(config).with_shortcut(Some(Shortcut::NotAwaited));
    let tick_on_receive = |config| Watermark::new(config).with_shortcut(Some(Shortcut::TickOnReceive));
    for make in [not_awaited, tick_on_receive] as [fn(Config) -> Watermark; 2] {
        for seed in 0..SEEDS {
            assert!(storm(seed, make).beyond.is_some(), "nothing was seen, seed {seed}");
        }
    }
}

/// E6: a raise begins at half a stride, and what a clock shows is never beyond what was acknowledged. It is one round: one
/// frame to each other member and one back.
#[test]
fn e6_a_raise_is_one_round_and_begins_before_the_ceiling_is_reached() {
    let mut world = World::begun(1, CALM);
    world.hush = true;
    world.run(10, |_| {});
    let (before, sent) = (world.clock(0).granted(), world.sent);
    let raises = world.clock(0).counters().raises;
    while world.clock(0).counters().stores == world.clock(1).counters().stores {
        assert!(world.issue(0).is_ok());
    }
    let left = before.0 - world.clock(0).last().0;
    assert!(left > 400, "{left} left when the next ceiling is asked for");
    world.run(10, |_| {});
    assert_eq!((world.sent - sent, world.clock(0).counters().raises), (0, raises + 1), "nobody waits");
    // Frames that go anyway bring it; each is answered.
    (1..NODES).for_each(|to| world.send(0, to));
    world.run(10, |_| {});
    assert_eq!((world.sent - sent) as usize, 2 * (NODES - 1));
    assert!(world.clock(0).granted() > before && world.clock(0).counters().waits == 0);
    // In haste: the same number of frames, but at once, and nobody else raises anything.
    let (sent, others) = (world.sent, world.clock(1).counters().raises);
    while world.issue(0).is_ok() {}
    world.run(10, |_| {});
    assert!(world.issue(0).is_ok(), "and is done");
    assert_eq!((world.sent - sent) as usize, 2 * (NODES - 1));
    assert_eq!((world.clock(0).counters().waits, world.clock(1).counters().raises), (1, others));
    assert_eq!(world.broken, None);
}

/// E6: all come to their ceilings in the same moment: one raise of each, and nobody's waits for another's.
#[test]
fn e6_all_raise_at_once() {
    let mut world = World::begun(2, CALM);
    let before: Vec<u64> = (0..NODES).map(|node| world.clock(node).counters().raises).collect();
    (0..NODES).for_each(|node| while world.issue(node).is_ok() {});
    world.run(10, |_| {});
    for (node, before) in before.into_iter().enumerate() {
        assert!(world.issue(node).is_ok());
        assert_eq!(world.clock(node).counters().raises, before + 1);
    }
    assert_eq!(world.broken, None);
}

/// E7: nothing stops while ceilings are raised. A node that issues 300 stamps in every millisecond for five seconds, in a
/// network that loses a fifth of all frames, never waits once its pace is known.
#[test]
fn e7_a_busy_node_never_waits() {
    for seed in 0..5 {
        let mut world = World::new(seed, STORM);
        world.patience = 300;
        world.begin();
        let busy = |world: &mut World| (0..300).for_each(|_| _ = world.issue(0));
        world.run(500, busy);
        let warm = world.clock(0).counters();
        world.run(5_000, busy);
        let after = world.clock(0).counters();
        assert_eq!((after.waits - warm.waits, after.issued - warm.issued), (0, 5_000 * 300), "seed {seed}");
        let raises = after.raises - warm.raises;
        assert!((5..50).contains(&raises), "seed {seed}: {raises} raises");
        // The others have nothing to issue and raise nothing, but could.
        assert_eq!(world.clock(1).counters().raises, world.clock(2).counters().raises);
        assert_eq!(world.broken, None, "seed {seed}");
    }
}

/// E8: everything is killed, in the middle of raises, and begins again: no stamp comes twice or out of order. One disk of
/// a member is enough.
#[test]
fn e8_stamps_go_on_above_all_earlier_ones_when_everything_was_restarted() {
    for keeps in 0..NODES {
        let mut world = World::begun(3, STORM);
        let mut last = Stamp(0);
        for _ in 0..20 {
            world.run(40, |world| {
                let node = world.chance.below(NODES as u64) as usize;
                (0..500).any(|_| world.issue(node).is_err());
            });
            last = (0..NODES).map(|node| world.clock(node).last()).max().expect("there are some").max(last);
            (0..NODES).for_each(|node| world.crash(node));
            (0..NODES).filter(|node| *node != keeps).for_each(|node| world.disks[node] = Stamp(0));
            world.begin();
            for node in 0..NODES {
                // Its ceiling may be below where others have begun; then it waits for a round.
                let first = world.issue_soon(node);
                assert!(first > last, "{first} after {last}");
            }
        }
        assert_eq!(world.broken, None);
    }
}

/// E8: a newcomer takes the cluster's watermark, not its own; one that was away with a low number does not hold up or pull
/// down anybody.
#[test]
fn e8_a_newcomer_begins_where_the_cluster_is() {
    let mut world = World::begun(4, CALM);
    world.crash(3);
    world.decide([0, 1, 2].into(), Stamp(0));
    world.show_all();
    world.run(300, |world| (0..500).for_each(|_| _ = world.issue(1)));
    let last = world.clock(1).last();
    assert!(last.0 > 100_000);
    world.start(3);
    assert_eq!(world.clock(3).high_watermark(), None, "it knows nothing yet");
    assert_eq!(world.issue(3), Err(NoStamp::Wait));
    world.decide((0..NODES).collect(), Stamp(0));
    // It may learn of the view first, or last.
    world.show(3, 3);
    world.run(50, |_| {});
    assert_eq!(world.issue(3), Err(NoStamp::Wait));
    world.show_all();
    world.run(50, |_| {});
    assert!(world.issue(3).expect("it is in") > last);
    assert_eq!(world.broken, None);
}

/// E9: a member dies after it has stored and before it has acknowledged. The others go on up to what it had acknowledged,
/// wait, and go on in the view without it.
#[test]
fn e9_a_raise_ends_without_a_member_that_died_in_it() {
    let mut world = World::begun(5, CALM);
    let granted = world.clock(0).granted();
    world.cut.insert((3, 0));
    while world.issue(0).is_ok() {}
    world.run(100, |_| {});
    assert!(world.disks[3] > granted, "it has stored");
    world.crash(3);
    world.run(1_000, |world| assert_eq!(world.issue(0), Err(NoStamp::Wait)));
    assert_eq!(world.clock(0).last(), granted, "up to what it had acknowledged");
    world.decide([0, 1, 2].into(), Stamp(0));
    world.show_all();
    world.run(10, |_| {});
    assert!(world.issue(0).expect("nobody waits for the dead") > granted);
    // When it comes back, it fetches what it has missed.
    world.cut.clear();
    world.start(3);
    world.decide((0..NODES).collect(), Stamp(0));
    world.show_all();
    world.run(20, |_| {});
    assert!(world.issue(3).is_ok());
    assert_eq!(world.broken, None);
}

/// E9: a member stands still for ten periods and goes on: it issues nothing above its ceiling, and others who were in
/// haste have ceilings far enough ahead to notice nothing.
#[test]
fn e9_a_member_that_stands_still_stops_nobody_in_haste() {
    let mut world = World::new(6, CALM);
    world.patience = 10 * PERIOD;
    world.begin();
    let busy = |world: &mut World| (0..100).for_each(|_| _ = world.issue(0));
    world.run(500, busy);
    let waits = world.clock(0).counters().waits;
    world.nodes[3].as_mut().expect("it is there").paused_until = world.now + 10 * PERIOD;
    world.run(10 * PERIOD + 100, busy);
    assert_eq!(world.clock(0).counters().waits, waits);
    assert_eq!(world.broken, None);
}

// ----- one clock ----------------------------------------------------------------------------------------------

const NOW: Instant = Instant(1_000_000_000);

fn view(epoch: u32, nodes: &[u16]) -> View {
    let members = nodes.iter().map(|n| Member { node: NodeId(*n), incarnation: Incarnation(1) });
    View { epoch: Epoch(epoch), members: members.collect() }
}

/// Does what the clock asks for, and gives back whom it wants to say something to.
fn settle(clock: &mut Watermark) -> Vec<NodeId> {
    let mut said = Vec::new();
    while let Some(output) = clock.poll_output() {
        match output {
            Output::Store(number) => clock.handle_stored(NOW, number),
            Output::Say(node) => said.push(node),
            Output::Ready | Output::Misdeed(_) => {}
        }
    }
    said
}

fn clock(stored: u64) -> Watermark {
    Watermark::new(Config::new(NodeId(0), Incarnation(1), Stamp(stored)))
}

fn reading(stamp: u64, ceiling: u64, acked: u64, epoch: u32) -> Reading {
    Reading { stamp: Stamp(stamp), ceiling: Stamp(ceiling), acked: Stamp(acked), epoch: Epoch(epoch) }
}

/// Node 0 in a view with node 1, begun; what it has announced.
fn pair() -> (Watermark, u64) {
    let mut clock = clock(0);
    clock.handle_view(NOW, &view(1, &[0, 1]), HighWatermark(Stamp(0)));
    settle(&mut clock);
    clock.hear(NodeId(1), &reading(0, 5_000, 0, 1)).unwrap();
    settle(&mut clock);
    let announced = clock.ceiling().expect("it has announced").0;
    clock.hear(NodeId(1), &reading(0, 5_000, announced, 1)).unwrap();
    settle(&mut clock);
    assert_eq!(clock.issue(NOW), Ok(Stamp(5_001)));
    (clock, announced)
}

/// E7, CK5: nothing is announced, and nothing acknowledged, before it is durable.
#[test]
fn ck5_what_is_said_is_durable() {
    let mut clock = clock(70);
    clock.handle_view(NOW, &view(1, &[0, 1]), HighWatermark(Stamp(0)));
    assert_eq!(clock.poll_output(), Some(Output::Say(NodeId(1))));
    assert_eq!(clock.poll_output(), None);
    assert_eq!(clock.reading(NodeId(1)), reading(0, 70, 0, 1));
    clock.hear(NodeId(1), &reading(0, 5_000, 0, 1)).unwrap();
    assert_eq!(clock.reading(NodeId(1)), reading(0, 70, 70, 1), "as far as it is durable");
    let Some(Output::Store(number)) = clock.poll_output() else { panic!("it wants to store something") };
    assert!(number > Stamp(5_000));
    assert_eq!((clock.poll_output(), clock.reading(NodeId(1))), (None, reading(0, 70, 70, 1)));
    clock.handle_stored(NOW, number);
    assert_eq!(clock.reading(NodeId(1)), reading(0, number.0, 5_000, 1));
    assert_eq!(settle(&mut clock), [NodeId(1)], "one frame announces and acknowledges");
}

/// CK7, E6: a clock beyond every ceiling, a ceiling beyond every stride, an acknowledgement of what was never said, and the
/// end of all clocks are lies; none of them moves anything.
#[test]
fn ck7_a_clock_that_lies_is_refused_and_moves_nothing() {
    let from = NodeId(1);
    let (honest, announced) = pair();
    let max = Stamp(announced);
    assert_eq!(honest.high_watermark(), Some(HighWatermark(max)));
    let far = announced + 2 * STRIDE_MAX + 1;
    let lies = [
        (
            reading(announced + 1, 5_000, 0, 1),
            Violation::BeyondCeilings { from, stamp: Stamp(announced + 1), max },
        ),
        // A ceiling that comes with the stamp was not acknowledged before it was used.
        (
            reading(announced + 1, announced + 9, 0, 1),
            Violation::BeyondCeilings { from, stamp: Stamp(announced + 1), max },
        ),
        (
            reading(0, far, 0, 1),
            Violation::CeilingTooFar { from, ceiling: Stamp(far), max: Stamp(announced + 2 * STRIDE_MAX) },
        ),
        (
            reading(0, 5_000, announced + 1, 1),
            Violation::NeverAnnounced { from, acked: Stamp(announced + 1), announced: max },
        ),
        (
            reading(1 << 63, 5_000, 0, 1),
            Violation::PastTheEnd { from, stamp: Stamp(1 << 63), end: Stamp::MAX },
        ),
        (reading(0, u64::MAX, 0, 9), Violation::PastTheEnd { from, stamp: Stamp(u64::MAX), end: Stamp::MAX }),
    ];
    for (lie, violation) in lies {
        let mut clock = honest.clone();
        assert_eq!(clock.hear(from, &lie), Err(violation));
        assert_eq!(clock.poll_output(), Some(Output::Misdeed(violation)));
        assert_eq!((clock.last(), clock.high_watermark()), (honest.last(), honest.high_watermark()));
        assert_eq!(clock.reading(from), honest.reading(from));
        assert_eq!((clock.counters().misdeeds, violation.from()), (1, from));
    }
    // Who names no view may be on its way to a later one, whose stamps are above. It is not called a liar, and not believed.
    let mut clock = honest.clone();
    assert_eq!(clock.hear(from, &Reading::bare(Stamp(announced + 1))), Ok(()));
    assert_eq!((clock.last(), clock.counters().unmerged), (honest.last(), 1));
    // Whoever is no member cannot raise anything.
    let mut clock = honest;
    clock.hear(NodeId(7), &reading(3, 1 << 40, 1 << 40, 1)).unwrap();
    assert_eq!(clock.high_watermark(), Some(HighWatermark(max)));
}

/// E3, CK2: the next stamp is above every one heard, and hearing alone moves a clock no further than that.
#[test]
fn ck2_hearing_takes_over_and_does_not_tick() {
    let (mut clock, announced) = pair();
    clock.hear(NodeId(1), &reading(5_100, 5_000, 0, 1)).unwrap();
    clock.hear(NodeId(1), &reading(5_050, 5_000, 0, 1)).unwrap();
    assert_eq!((clock.last(), clock.counters().jumps), (Stamp(5_100), 1));
    assert_eq!(clock.issue(NOW), Ok(Stamp(5_101)));
    // Above one's own ceiling, which nothing may be issued at.
    clock.hear(NodeId(1), &reading(0, announced + 900, 0, 1)).unwrap();
    clock.hear(NodeId(1), &reading(announced + 800, announced + 900, 0, 1)).unwrap();
    assert_eq!((clock.last(), clock.issue(NOW)), (Stamp(announced + 800), Err(NoStamp::Wait)));
    settle(&mut clock);
    let next = clock.ceiling().expect("it has announced").0;
    assert!(next > announced + 800);
    clock.hear(NodeId(1), &reading(0, 0, next, 1)).unwrap();
    assert_eq!(clock.poll_output(), Some(Output::Ready));
    assert_eq!(clock.issue(NOW), Ok(Stamp(announced + 801)));
}

/// A raise that is overtaken by the clocks of others before it is acknowledged is followed by another; nobody sleeps for
/// ever.
#[test]
fn e6_a_raise_that_comes_too_late_is_followed_by_another() {
    let (mut clock, announced) = pair();
    while clock.issue(NOW).is_ok() {}
    settle(&mut clock);
    let next = clock.ceiling().expect("it has announced").0;
    assert!(next > announced);
    let far = next + 50_000;
    clock.hear(NodeId(1), &reading(0, far, 0, 1)).unwrap();
    clock.hear(NodeId(1), &reading(far, far, 0, 1)).unwrap();
    settle(&mut clock);
    clock.hear(NodeId(1), &reading(far, far, next, 1)).unwrap();
    let outputs: Vec<Output> = std::iter::from_fn(|| clock.poll_output()).collect();
    assert!(outputs.contains(&Output::Ready), "to ask again: {outputs:?}");
    assert_eq!(clock.issue(NOW), Err(NoStamp::Wait));
    settle(&mut clock);
    let last = clock.ceiling().expect("it has announced").0;
    assert!(last > far);
    clock.hear(NodeId(1), &reading(0, 0, last, 1)).unwrap();
    assert_eq!(clock.issue(NOW), Ok(Stamp(far + 1)));
}

/// A view change voids what is under way: old acknowledgements do not count in it, and what comes late of the old view
/// changes nothing.
#[test]
fn e9_acknowledgements_count_in_one_view_only() {
    let (mut clock, _) = pair();
    while clock.issue(NOW).is_ok() {}
    let last = clock.last();
    settle(&mut clock);
    let wanted = clock.ceiling().expect("it has announced");
    let high = clock.high_watermark().expect("it is in").0;
    clock.handle_view(NOW, &view(2, &[0, 1]), HighWatermark(Stamp(0)));
    assert_eq!(clock.reading(NodeId(1)), Reading::bare(last), "nothing of the new view is durable yet");
    clock.hear(NodeId(1), &reading(0, 5_000, wanted.0, 1)).unwrap();
    assert_eq!((clock.granted(), clock.issue(NOW)), (Stamp(0), Err(NoStamp::Wait)));
    settle(&mut clock);
    let announced = clock.ceiling().expect("it has announced").0;
    clock.hear(NodeId(1), &reading(0, announced, announced, 2)).unwrap();
    assert_eq!(clock.issue(NOW), Ok(Stamp(high.0 + 1)), "above all that the old view can have issued");
    // A view that is older, or the same again, is ignored; one without this run ends its part.
    clock.handle_view(NOW, &view(1, &[0]), HighWatermark(Stamp(0)));
    assert_eq!(clock.epoch(), Epoch(2));
    clock.handle_view(NOW, &view(3, &[1]), HighWatermark(Stamp(0)));
    assert_eq!((clock.epoch(), clock.high_watermark()), (Epoch(0), None));
    assert_eq!(clock.issue(NOW), Err(NoStamp::Wait));
    clock.handle_view(NOW, &view(2, &[0, 1]), HighWatermark(Stamp(0)));
    assert_eq!(clock.epoch(), Epoch(0));
}

/// E9: a peer that has installed a view earlier is heard when this node installs it, and not before.
#[test]
fn e9_what_is_announced_for_a_later_view_waits_for_it() {
    let (mut clock, announced) = pair();
    clock.hear(NodeId(1), &reading(0, announced + 7_000, 0, 2)).unwrap();
    settle(&mut clock);
    assert_eq!(clock.high_watermark(), Some(HighWatermark(Stamp(announced))));
    assert_eq!(clock.reading(NodeId(1)).acked, Stamp(5_000));
    clock.handle_view(NOW, &view(2, &[0, 1]), HighWatermark(Stamp(0)));
    settle(&mut clock);
    let said = clock.reading(NodeId(1));
    assert_eq!((said.epoch, said.acked), (Epoch(2), Stamp(announced + 7_000)), "with no further frame");
}

/// What comes with a view (a registry's watermark) counts where nobody in it knows.
#[test]
fn e8_a_jump_that_comes_with_a_view_is_where_the_clock_begins() {
    let mut clock = clock(100);
    clock.handle_view(NOW, &view(4, &[0]), HighWatermark(Stamp(1 << 50)));
    settle(&mut clock);
    assert_eq!(clock.issue(NOW), Ok(Stamp((1 << 50) + 1)));
}

/// E1, CK1: the clock ends at its end: it refuses, and never wraps.
#[test]
fn ck1_the_clock_never_wraps() {
    let mut clock = clock(Stamp::MAX.0 - 3);
    clock.handle_view(NOW, &view(1, &[0]), HighWatermark(Stamp(u64::MAX)));
    settle(&mut clock);
    assert_eq!(clock.issue(NOW), Err(NoStamp::Wait), "no ceiling is above the end");
    let mut clock = self::clock(Stamp::MAX.0 - 3);
    clock.handle_view(NOW, &view(1, &[0]), HighWatermark(Stamp(0)));
    settle(&mut clock);
    for left in (0..3).rev() {
        assert_eq!(clock.issue(NOW), Ok(Stamp(Stamp::MAX.0 - left)));
        settle(&mut clock);
    }
    assert_eq!(clock.issue(NOW), Err(NoStamp::End));
}

fn any_reading() -> impl Strategy<Value = (u16, Reading)> {
    let number = prop_oneof![0u64..20_000, any::<u64>(), (1u64 << 62) - 9..=(1 << 62) + 1];
    (0u16..4, number.clone(), number.clone(), number, 0u32..4)
        .prop_map(|(from, stamp, ceiling, acked, epoch)| (from, reading(stamp, ceiling, acked, epoch)))
}

proptest! {
    /// E5, CK5, CK7: whatever peers say, a clock stays below its watermark, says only what is durable, and never goes back.
    #[test]
    fn e5_any_readings_are_stood(
        steps in prop::collection::vec((any_reading(), 0u32..9, any::<bool>()), 1..80)
    ) {
        let mut clock = clock(500);
        let (mut last, mut epoch) = (Stamp(0), 0);
        for ((from, reading), choice, stores) in steps {
            match choice {
                0 => {
                    epoch += 1;
                    let nodes: &[u16] = [&[0, 1, 2][..], &[0, 1], &[0], &[0, 2, 3]][epoch as usize % 4];
                    clock.handle_view(NOW, &view(epoch, nodes), HighWatermark(reading.ceiling));
                }
                1..3 => {
                    if let Ok(stamp) = clock.issue(NOW) {
                        prop_assert!(stamp > last && stamp <= clock.granted());
                    }
                }
                _ => _ = clock.hear(NodeId(from), &reading),
            }
            if stores {
                settle(&mut clock);
            }
            prop_assert!(clock.last() >= last && clock.last() <= Stamp::MAX);
            last = clock.last();
            if let Some(HighWatermark(high)) = clock.high_watermark() {
                prop_assert!(last <= high);
            }
            let said = clock.reading(NodeId(1));
            prop_assert!(said.ceiling.max(said.acked) <= clock.stored());
        }
    }
}
