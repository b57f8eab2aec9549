//! Deadlocks over whole nodes: found by those who wait in them, broken at one place, told to everybody.

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{NodeId, OwnerId, SessionId, SpaceId, TransactionId};
use oarlock_layout::message::session::{ConvertRequest, LockRequest, Reply, Request};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::time::Duration;

use stage::*;

mod stage;

type At = (usize, SessionId);

/// Who waits is looked at after this, and the circle once more; then it is broken.
const BROKEN: Duration = Duration::from_millis(400);

fn request(handle: u32, name: &str, mode: Mode) -> LockRequest {
    LockRequest {
        handle,
        space: SpaceId(0),
        name: Name::new(name.as_bytes()).unwrap(),
        mode,
        flags: Flags::empty(),
        timeout_ms: 0,
        owner: OwnerId(0),
        transaction: TransactionId(0),
    }
}

fn ask(cluster: &mut Cluster, at: At, handle: u32, name: &str, mode: Mode) {
    cluster.say(at, &Request::Lock(request(handle, name, mode)));
}

fn get(cluster: &mut Cluster, at: At, handle: u32, name: &str, mode: Mode) {
    ask(cluster, at, handle, name, mode);
    let reply = answer(cluster, at);
    assert!(matches!(&reply, Reply::Granted(g) if g.handle == handle), "{reply:?}");
}

/// The next reply that is no notice.
fn answer(cluster: &mut Cluster, at: At) -> Reply {
    next(cluster, at).unwrap_or_else(|| panic!("no answer for {at:?}"))
}

fn next(cluster: &mut Cluster, at: At) -> Option<Reply> {
    loop {
        match cluster.heard(at) {
            Some(Reply::Blocking { .. }) => {}
            other => return other,
        }
    }
}

/// Runs until the circle is broken, and says whose wait was refused, and what it was told.
fn victims(cluster: &mut Cluster, among: &[At]) -> Vec<(At, u32, String)> {
    cluster.run(BROKEN);
    let mut victims = Vec::new();
    for at in among {
        match next(cluster, *at) {
            Some(Reply::Failed { handle, why }) => {
                assert_eq!(why.code, Code::Deadlock, "{why:?}");
                victims.push((*at, handle, why.text));
            }
            Some(other) => panic!("{other:?}"),
            None => {}
        }
    }
    victims
}

fn counted(cluster: &mut Cluster, name: &str) -> u64 {
    let nodes = cluster.nodes.iter().flatten();
    nodes.flat_map(|node| node.counters()).filter(|it| it.name == name).map(|it| it.value).sum()
}

/// D1, D7, scenario 55: two nodes, two resources, and both search.
#[test]
fn two_that_wait_for_each_other_are_found_and_the_younger_is_refused() {
    let mut cluster = serving(3);
    let (a, b) = (cluster.session(0, 1), cluster.session(1, 2));
    get(&mut cluster, a, 1, "x", Mode::EX);
    get(&mut cluster, b, 1, "y", Mode::EX);
    ask(&mut cluster, a, 2, "y", Mode::EX);
    cluster.run(Duration::from_millis(30));
    ask(&mut cluster, b, 2, "x", Mode::EX);
    let found = victims(&mut cluster, &[a, b]);
    let [(at, 2, text)] = &found[..] else { panic!("one of them: {found:?}") };
    assert_eq!(*at, b, "it began to wait later");
    for part in [
        "node-b pid 102 (program 2) wants EX on x, which node-a pid 101 (program 1) has in EX",
        "node-a pid 101 (program 1) wants EX on y, which node-b pid 102 (program 2) has in EX",
    ] {
        assert!(text.contains(part), "{text}");
    }
    // Its other locks are as they were; once it gives back what it has, the other goes on.
    cluster.say(b, &Request::Unlock { handle: 1, value: None, invalidate: false });
    assert!(matches!(answer(&mut cluster, a), Reply::Granted(g) if g.handle == 2));
    // Each node knows of it.
    for n in 0..3 {
        let known: Vec<_> = cluster.node(n).deadlocks().map(|(_, broken)| broken.clone()).collect();
        assert_eq!((known.len(), known[0].victim.node, known[0].cycle.len()), (1, NodeId(1), 2));
    }
    assert_eq!(counted(&mut cluster, "deadlock_victims"), 1);
}

/// C18: three nodes, and no two of them know enough.
#[test]
fn a_circle_over_three_nodes_is_found() {
    let mut cluster = serving(3);
    let all = [cluster.session(0, 1), cluster.session(1, 2), cluster.session(2, 3)];
    for (at, name) in all.into_iter().zip(["x", "y", "z"]) {
        get(&mut cluster, at, 1, name, Mode::EX);
    }
    for (at, name) in all.into_iter().zip(["y", "z", "x"]) {
        ask(&mut cluster, at, 2, name, Mode::PR);
        cluster.run(Duration::from_millis(20));
    }
    let found = victims(&mut cluster, &all);
    assert_eq!(found.iter().map(|it| it.0).collect::<Vec<_>>(), [all[2]]);
}

/// D2: no other node is asked.
#[test]
fn a_circle_within_a_node_costs_no_message() {
    let mut cluster = serving(3);
    let (a, b) = (cluster.session(1, 1), cluster.session(1, 2));
    get(&mut cluster, a, 1, "x", Mode::EX);
    get(&mut cluster, b, 1, "y", Mode::EX);
    ask(&mut cluster, a, 2, "y", Mode::PR);
    ask(&mut cluster, b, 2, "x", Mode::PR);
    assert_eq!(victims(&mut cluster, &[a, b]).len(), 1);
    assert_eq!(counted(&mut cluster, "deadlock_asked"), 0);
}

/// D3: the third waits for nobody who holds, only for its place.
#[test]
fn a_circle_over_a_place_in_the_queue_is_found() {
    let mut cluster = serving(3);
    let (a, b, c) = (cluster.session(0, 1), cluster.session(1, 2), cluster.session(2, 3));
    get(&mut cluster, c, 1, "x", Mode::EX);
    get(&mut cluster, a, 1, "r", Mode::PR);
    ask(&mut cluster, b, 1, "r", Mode::EX);
    ask(&mut cluster, c, 2, "r", Mode::PR);
    ask(&mut cluster, a, 2, "x", Mode::EX);
    let found = victims(&mut cluster, &[a, b, c]);
    assert_eq!(found.len(), 1, "{found:?}");
    // The chain is not broken by whoever waits between them going on, but by one of them.
    assert!(next(&mut cluster, b).is_none());
}

/// D4: what the third waits for is not held by whoever waits for it.
#[test]
fn a_circle_over_a_mode_that_fits_is_no_deadlock() {
    let mut cluster = serving(3);
    let (a, b, c) = (cluster.session(0, 1), cluster.session(1, 2), cluster.session(2, 3));
    get(&mut cluster, c, 1, "x", Mode::EX);
    get(&mut cluster, a, 1, "r", Mode::CR);
    get(&mut cluster, b, 1, "r", Mode::PR);
    ask(&mut cluster, c, 2, "r", Mode::CW);
    ask(&mut cluster, a, 2, "x", Mode::EX);
    cluster.run(Duration::from_secs(2));
    assert_eq!(victims(&mut cluster, &[a, b, c]), []);
    assert!(counted(&mut cluster, "deadlock_passes") > 0, "it was looked at");
    cluster.say(b, &Request::Unlock { handle: 1, value: None, invalidate: false });
    assert!(matches!(answer(&mut cluster, b), Reply::Released { .. }));
    assert!(matches!(answer(&mut cluster, c), Reply::Granted(_)));
}

/// D5: what a node keeps is nobody's, and given up when it is wanted.
#[test]
fn what_is_only_kept_is_in_nobodys_way() {
    let mut cluster = serving(2);
    let (a, b) = (cluster.session(0, 1), cluster.session(1, 2));
    for (at, name) in [(a, "x"), (b, "y")] {
        get(&mut cluster, at, 1, name, Mode::EX);
        cluster.say(at, &Request::Unlock { handle: 1, value: None, invalidate: false });
        assert!(matches!(answer(&mut cluster, at), Reply::Released { .. }));
    }
    get(&mut cluster, a, 2, "y", Mode::EX);
    get(&mut cluster, b, 2, "x", Mode::EX);
    cluster.run(Duration::from_secs(1));
    assert_eq!(counted(&mut cluster, "deadlock_victims"), 0);
}

/// D8: nobody waits, nobody asks; whoever waits and holds nothing is in nobody's way.
#[test]
fn without_anybody_who_holds_and_waits_nothing_is_asked() {
    let mut cluster = serving(3);
    let (a, b) = (cluster.session(0, 1), cluster.session(1, 2));
    get(&mut cluster, a, 1, "x", Mode::EX);
    ask(&mut cluster, b, 1, "x", Mode::EX);
    cluster.run(Duration::from_secs(5));
    assert_eq!((counted(&mut cluster, "deadlock_passes"), counted(&mut cluster, "deadlock_asked")), (0, 0));
}

/// Scenario 55: NODLCKWT and NODLCKBLK are believed.
#[test]
fn whoever_says_that_it_resolves_its_waits_itself_is_left_alone() {
    for (waits, holds) in [(Flags::NODLCKWT, Flags::empty()), (Flags::empty(), Flags::NODLCKBLK)] {
        let mut cluster = serving(2);
        let (a, b) = (cluster.session(0, 1), cluster.session(1, 2));
        cluster.say(a, &Request::Lock(LockRequest { flags: holds, ..request(1, "x", Mode::EX) }));
        assert!(matches!(answer(&mut cluster, a), Reply::Granted(_)));
        get(&mut cluster, b, 1, "y", Mode::EX);
        cluster.say(a, &Request::Lock(LockRequest { flags: waits, ..request(2, "y", Mode::EX) }));
        ask(&mut cluster, b, 2, "x", Mode::EX);
        cluster.run(Duration::from_secs(2));
        assert_eq!(victims(&mut cluster, &[a, b]), []);
    }
}

/// Scenario 56: a second lock of the same program waits for its first.
#[test]
fn a_program_that_waits_for_itself_is_told() {
    let mut cluster = serving(2);
    let a = cluster.session(0, 1);
    get(&mut cluster, a, 1, "x", Mode::PR);
    ask(&mut cluster, a, 2, "x", Mode::EX);
    assert_eq!(victims(&mut cluster, &[a]).len(), 1);
}

/// Owners within a session are apart: what the one waits for the other may give back.
#[test]
fn owners_within_a_session_are_apart() {
    let mut cluster = serving(2);
    let (a, b) = (cluster.session(0, 1), cluster.session(1, 2));
    let of =
        |owner: u64, request: LockRequest| Request::Lock(LockRequest { owner: OwnerId(owner), ..request });
    cluster.say(a, &of(1, request(1, "x", Mode::EX)));
    assert!(matches!(answer(&mut cluster, a), Reply::Granted(_)));
    get(&mut cluster, b, 1, "y", Mode::EX);
    cluster.say(a, &of(2, request(2, "y", Mode::EX)));
    ask(&mut cluster, b, 2, "x", Mode::EX);
    cluster.run(Duration::from_secs(2));
    assert_eq!(victims(&mut cluster, &[a, b]), []);
    cluster.say(a, &of(1, request(3, "y", Mode::EX)));
    assert_eq!(victims(&mut cluster, &[a, b]).len(), 1);
}

/// A transaction is one wherever it is at work.
#[test]
fn a_transaction_at_two_nodes_is_one() {
    let mut cluster = serving(3);
    let (a, b, c) = (cluster.session(0, 1), cluster.session(1, 2), cluster.session(2, 3));
    let of = |request: LockRequest| Request::Lock(LockRequest { transaction: TransactionId(7), ..request });
    cluster.say(a, &of(request(1, "x", Mode::EX)));
    assert!(matches!(answer(&mut cluster, a), Reply::Granted(_)));
    get(&mut cluster, b, 1, "y", Mode::EX);
    cluster.say(c, &of(request(1, "y", Mode::EX)));
    ask(&mut cluster, b, 2, "x", Mode::EX);
    assert_eq!(victims(&mut cluster, &[a, b, c]).len(), 1);
}

/// A convert that waits for readers elsewhere, one of whom waits for what the converter has.
#[test]
fn a_convert_may_be_part_of_it() {
    let mut cluster = serving(2);
    let (a, b) = (cluster.session(0, 1), cluster.session(1, 2));
    get(&mut cluster, a, 1, "x", Mode::PR);
    get(&mut cluster, b, 1, "x", Mode::PR);
    get(&mut cluster, a, 2, "y", Mode::EX);
    ask(&mut cluster, b, 2, "y", Mode::PR);
    cluster.run(Duration::from_millis(20));
    let convert =
        ConvertRequest { handle: 1, mode: Mode::EX, flags: Flags::empty(), timeout_ms: 0, value: None };
    cluster.say(a, &Request::Convert(convert));
    let found = victims(&mut cluster, &[a, b]);
    let [(at, 1, _)] = &found[..] else { panic!("{found:?}") };
    assert_eq!(*at, a);
}

/// Two circles at once that share nobody are two.
#[test]
fn two_circles_have_two_victims() {
    let mut cluster = serving(2);
    let all: Vec<At> = (0..4).map(|n| cluster.session(n % 2, n as u32 + 1)).collect();
    for (at, name) in all.iter().zip(["w", "x", "y", "z"]) {
        get(&mut cluster, *at, 1, name, Mode::EX);
    }
    for (at, name) in all.iter().zip(["x", "w", "z", "y"]) {
        ask(&mut cluster, *at, 2, name, Mode::EX);
    }
    assert_eq!(victims(&mut cluster, &all).len(), 2);
}

/// ann and bob wait for each other, and cid for ann: he holds beside bob what ann wants.
fn two_and_one_beside(cluster: &mut Cluster) -> [At; 3] {
    let all = [cluster.session(0, 1), cluster.session(1, 2), cluster.session(2, 3)];
    let [ann, bob, cid] = all;
    get(cluster, ann, 1, "x", Mode::EX);
    get(cluster, bob, 1, "y", Mode::PR);
    get(cluster, cid, 1, "y", Mode::PR);
    ask(cluster, ann, 2, "y", Mode::EX);
    ask(cluster, bob, 2, "x", Mode::EX);
    cluster.run(Duration::from_millis(50));
    all
}

/// D6: cid begins to wait anew whenever it is told no, or has waited for too long. Each time it joins the circle of the two others as its
/// youngest, and that must not keep them in it.
#[test]
fn who_asks_again_and_again_keeps_nobody_in_a_circle() {
    for timeout_ms in [0, 30] {
        let mut cluster = serving(3);
        let [ann, bob, cid] = two_and_one_beside(&mut cluster);
        let again = Request::Lock(LockRequest { timeout_ms, ..request(2, "x", Mode::EX) });
        cluster.say(cid, &again);
        let broken = (0..100).any(|_| {
            cluster.run(Duration::from_millis(10));
            if next(&mut cluster, cid).is_some() {
                cluster.say(cid, &again);
            }
            [ann, bob].into_iter().any(|at| next(&mut cluster, at).is_some())
        });
        assert!(broken, "with a patience of {timeout_ms} ms: a second, and none of the two was refused");
    }
}

/// ann holds r and waits for cid, who waits for r behind bob.
fn circle_over_a_queue(cluster: &mut Cluster) -> [At; 3] {
    let all = [cluster.session(0, 1), cluster.session(1, 2), cluster.session(1, 3)];
    let [ann, bob, cid] = all;
    get(cluster, cid, 1, "x", Mode::EX);
    get(cluster, ann, 1, "r", Mode::PR);
    ask(cluster, bob, 1, "r", Mode::EX);
    ask(cluster, cid, 2, "r", Mode::PR);
    ask(cluster, ann, 2, "x", Mode::EX);
    cluster.run(Duration::from_millis(30));
    all
}

/// D7: who converts from NL stands in the same queue, before those who have nothing, and is the youngest. To refuse it helps nobody.
#[test]
fn who_has_nothing_to_give_back_is_no_victim() {
    let mut cluster = serving(2);
    let by = cluster.session(1, 4);
    get(&mut cluster, by, 1, "r", Mode::NL);
    let all = circle_over_a_queue(&mut cluster);
    let convert =
        ConvertRequest { handle: 1, mode: Mode::EX, flags: Flags::empty(), timeout_ms: 0, value: None };
    cluster.say(by, &Request::Convert(convert));
    assert_eq!(victims(&mut cluster, &[by]), []);
    let found = victims(&mut cluster, &all);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_ne!(found[0].0, all[1], "bob has nothing either");
}

/// The same with a stream of them.
#[test]
fn many_who_have_nothing_keep_nobody_in_a_circle() {
    let mut cluster = serving(2);
    let by: Vec<At> = (0..12).map(|n| cluster.session(1, 10 + n)).collect();
    for at in &by {
        get(&mut cluster, *at, 1, "r", Mode::NL);
    }
    let all = circle_over_a_queue(&mut cluster);
    let convert =
        ConvertRequest { handle: 1, mode: Mode::EX, flags: Flags::empty(), timeout_ms: 300, value: None };
    let broken = (0..30).any(|n| {
        let at = by[n % by.len()];
        cluster.say(at, &Request::Convert(convert.clone()));
        cluster.run(Duration::from_millis(35));
        let _ = next(&mut cluster, at);
        all.into_iter().any(|at| next(&mut cluster, at).is_some())
    });
    assert!(broken, "a second, and the circle stands");
}

/// A name of which this node is the master.
fn mastered_by(cluster: &mut Cluster, n: usize, beside: &str) -> String {
    let names = (0..).map(|i| format!("{beside}{i}"));
    let is = |name: &String| {
        let name = Name::new(name.as_bytes()).unwrap();
        cluster.node(0).master_of(SpaceId(0), &name) == Some(NodeId(n as u16))
    };
    names.into_iter().find(is).expect("every node is master of something")
}

/// Two sessions at nodes 0 and 1 that wait for each other, over resources with these masters.
fn crossed(cluster: &mut Cluster, masters: [usize; 2]) -> [At; 2] {
    let [x, y] = [mastered_by(cluster, masters[0], "x"), mastered_by(cluster, masters[1], "y")];
    let (a, b) = (cluster.session(0, 1), cluster.session(1, 2));
    for (at, handle, name) in [(a, 1, &x), (b, 1, &y)] {
        ask(cluster, at, handle, name, Mode::EX);
        cluster.run(Duration::from_secs(3));
        assert!(matches!(answer(cluster, at), Reply::Granted(_)));
    }
    ask(cluster, a, 2, &y, Mode::EX);
    ask(cluster, b, 2, &x, Mode::EX);
    [a, b]
}

/// Which part of a second it takes, in steps of 50 ms, until one of them is refused.
fn broken_after(cluster: &mut Cluster, among: &[At], most: Duration) -> Option<Duration> {
    let began = cluster.now;
    while cluster.now < began + most {
        cluster.run(Duration::from_millis(50));
        if among.iter().any(|at| next(cluster, *at).is_some()) {
            return Some(cluster.now - began);
        }
    }
    None
}

/// D8: a member that needs a second for every answer does not keep circles from being found, if later those in which it has a part.
#[test]
fn a_member_that_answers_after_a_second_hides_no_circle() {
    let second = Duration::from_secs(1);
    let mut cluster = serving(3);
    cluster.slow = Some((2, second));
    let all = crossed(&mut cluster, [0, 1]);
    let time = broken_after(&mut cluster, &all, Duration::from_secs(10)).expect("it is broken");
    assert!(time <= BROKEN, "{time:?}: nobody needs the slow one");

    for masters in [[0, 0], [2, 2]] {
        let mut cluster = serving(3);
        cluster.slow = Some((if masters[0] == 0 { 1 } else { 2 }, second));
        let all = crossed(&mut cluster, masters);
        let time = broken_after(&mut cluster, &all, Duration::from_secs(20)).expect("it is broken");
        assert!(time <= Duration::from_secs(8), "{masters:?}: {time:?}");
        assert_eq!(counted(&mut cluster, "deadlock_victims"), 1);
    }
}

/// Each of so many owners of a session holds what `name` says in PR and waits for what nobody gives back.
fn stand_by(cluster: &mut Cluster, at: At, name: &str, count: u64) {
    let of =
        |owner: u64, request: LockRequest| Request::Lock(LockRequest { owner: OwnerId(owner), ..request });
    for owner in 1..=count {
        cluster.say(at, &of(owner, request(owner as u32 * 2, name, Mode::PR)));
        assert!(matches!(answer(cluster, at), Reply::Granted(_)));
        cluster.say(at, &of(owner, request(owner as u32 * 2 + 1, "busy", Mode::EX)));
    }
}

/// D8: what does not fit into an answer, by rows or by bytes, is left out, and hides only what it is part of.
#[test]
fn a_circle_beside_more_waits_than_fit_is_found() {
    let mut cluster = serving(3);
    let (a, b, c) = (cluster.session(0, 1), cluster.session(1, 2), cluster.session(2, 3));
    get(&mut cluster, c, 1, "busy", Mode::EX);
    // Whichever of the two searches has so much to hear from the other.
    for (at, name) in [(a, "x"), (b, "y")] {
        get(&mut cluster, at, 1, name, Mode::PR);
        let by = cluster.session(at.0, 9);
        stand_by(&mut cluster, by, name, 5_000);
    }
    cluster.run(Duration::from_secs(2));
    ask(&mut cluster, a, 2, "y", Mode::EX);
    ask(&mut cluster, b, 2, "x", Mode::EX);
    let found = victims(&mut cluster, &[a, b]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        cluster.events.iter().filter(|it| it.contains("malformed")).count(),
        0,
        "{:?}",
        cluster.events
    );
}

/// Whoever stands by for something and holds something else may do so for days.
#[test]
fn who_stands_by_is_asked_about_less_and_less_and_a_new_circle_is_found_as_soon() {
    let mut cluster = serving(3);
    let (a, b, c) = (cluster.session(0, 1), cluster.session(1, 2), cluster.session(2, 3));
    get(&mut cluster, c, 1, "z", Mode::EX);
    for (at, name) in [(a, "x"), (b, "y")] {
        get(&mut cluster, at, 1, name, Mode::EX);
        ask(&mut cluster, at, 2, "z", Mode::EX);
    }
    cluster.run(Duration::from_secs(60));
    let before = counted(&mut cluster, "deadlock_asked");
    cluster.run(Duration::from_secs(60));
    let asked = counted(&mut cluster, "deadlock_asked") - before;
    assert!((1..=40).contains(&asked), "{asked} questions in a minute");
    ask(&mut cluster, c, 2, "x", Mode::EX);
    assert_eq!(victims(&mut cluster, &[a, b, c]).len(), 1, "a new wait closes a circle with old ones");
}

/// All waits are old, and somebody is granted what one of them waits for.
#[test]
fn a_circle_that_a_grant_closes_is_found_as_soon() {
    let mut cluster = serving(3);
    let (a, b, c) = (cluster.session(0, 1), cluster.session(1, 2), cluster.session(2, 3));
    get(&mut cluster, b, 1, "x", Mode::EX);
    get(&mut cluster, c, 1, "r", Mode::EX);
    get(&mut cluster, a, 1, "p", Mode::EX);
    // ann waits for x, which bob has, and with another lock for r; bob waits for r as well, behind her.
    ask(&mut cluster, a, 2, "x", Mode::EX);
    ask(&mut cluster, a, 3, "r", Mode::EX);
    cluster.run(Duration::from_secs(1));
    ask(&mut cluster, b, 2, "r", Mode::EX);
    cluster.run(Duration::from_secs(60));
    assert_eq!(victims(&mut cluster, &[a, b, c]), []);
    cluster.say(c, &Request::Unlock { handle: 1, value: None, invalidate: false });
    assert!(matches!(answer(&mut cluster, c), Reply::Released { .. }));
    assert!(matches!(answer(&mut cluster, a), Reply::Granted(g) if g.handle == 3));
    assert_eq!(victims(&mut cluster, &[a, b, c]).len(), 1);
}

/// All waits are old but that of somebody who holds nothing, and comes to stand before one of them.
#[test]
fn a_circle_that_a_convert_closes_is_found_as_soon() {
    let mut cluster = serving(3);
    let (ann, bob, by) = (cluster.session(0, 1), cluster.session(1, 2), cluster.session(2, 3));
    let (fred, dan) = (cluster.session(0, 4), cluster.session(1, 5));
    get(&mut cluster, bob, 1, "x", Mode::EX);
    get(&mut cluster, by, 1, "r", Mode::NL);
    get(&mut cluster, ann, 1, "r", Mode::CR);
    get(&mut cluster, fred, 1, "r", Mode::PR);
    // dan waits for fred, who goes on some day, and bob behind him; ann for bob.
    ask(&mut cluster, dan, 1, "r", Mode::CW);
    ask(&mut cluster, bob, 2, "r", Mode::CR);
    ask(&mut cluster, ann, 2, "x", Mode::EX);
    cluster.run(Duration::from_secs(60));
    let all = [ann, bob, by, fred, dan];
    assert_eq!(victims(&mut cluster, &all), []);
    let convert =
        ConvertRequest { handle: 1, mode: Mode::EX, flags: Flags::empty(), timeout_ms: 0, value: None };
    cluster.say(by, &Request::Convert(convert));
    let found = victims(&mut cluster, &all);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].0 == ann || found[0].0 == bob, "{found:?}");
}
