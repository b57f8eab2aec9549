//! Deadlocks between real programs at real nodes: found, broken at one place, and shown.

mod support;

use std::sync::Barrier;
use std::time::{Duration, Instant};

use oarlock::blocking::{Client, Space};
use oarlock::{Kind, Mode};
use support::{Dev, Said, until};

/// What is promised, with time for a machine that others use: a second.
const LONG: Duration = Duration::from_secs(20);

fn space(dev: &Dev, node: char, label: &str) -> Space {
    Client::builder().label(label).connect(dev.socket(node)).unwrap().space("default").unwrap()
}

/// D1, D7, C18: programs at three nodes, each with a resource that the next one wants. One is refused, with the circle in its error;
/// every node tells of it, and the others go on.
#[test]
fn a_circle_over_three_nodes_is_broken_and_shown() {
    let dev = Dev::start();
    let all_hold = Barrier::new(3);
    let refused: Vec<Option<oarlock::Error>> = std::thread::scope(|scope| {
        let threads: Vec<_> = [('a', "x", "y"), ('b', "y", "z"), ('c', "z", "x")]
            .into_iter()
            .map(|(node, first, second)| {
                let (space, all_hold) = (space(&dev, node, &format!("prog-{node}")), &all_hold);
                scope.spawn(move || {
                    let _first = space.lock(first).acquire().unwrap();
                    all_hold.wait();
                    space.lock(second).timeout(LONG).acquire().err()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let errors: Vec<&oarlock::Error> = refused.iter().flatten().collect();
    let [error] = errors[..] else { panic!("one of three: {refused:?}") };
    assert_eq!(error.kind(), Kind::Deadlock, "{error}");
    let text = error.to_string();
    for part in
        ["prog-a", "prog-b", "prog-c", "wants EX on x, which", "wants EX on y, which", "wants EX on z, which"]
    {
        assert!(text.contains(part), "{text}");
    }
    for node in ['a', 'b', 'c'] {
        until("every node knows", || {
            let told = dev.run(node, &["locks", "deadlocks", "-o", "json"]).expect(0, &[]).json();
            let cycle = told["deadlocks"][0]["cycle"].as_array().map_or(0, Vec::len);
            (told["deadlocks"].as_array().unwrap().len(), cycle) == (1, 3)
        });
        dev.run(node, &["locks", "deadlocks"])
            .expect(0, &["◄ refused", "held in EX by the first of these", "prog-b"]);
    }
    let svg =
        dev.run('a', &["locks", "deadlocks", "--svg", "-"]).expect(0, &["<svg ", "default/x", "default/z"]);
    assert_eq!(svg.out.matches("<rect ").count(), 6, "{}", svg.out);
    // The figures of a quiet cluster afterwards: nobody waits, nobody asks.
    let asked = || ['a', 'b', 'c'].iter().map(|node| dev.counter(*node, "deadlock_asked")).sum::<u64>();
    let before = asked();
    assert!(before > 0);
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(asked(), before, "nobody waits");
}

/// D2: at one node, with locks that programs grant themselves.
#[test]
fn a_circle_of_locks_that_programs_granted_themselves_is_broken_without_a_message() {
    let dev = Dev::start();
    let owner = space(&dev, 'a', "before");
    for name in ["x", "y"] {
        owner.lock(name).acquire().unwrap().release().unwrap();
    }
    let asked = dev.counter('a', "deadlock_asked");
    let both_hold = Barrier::new(2);
    let refused: Vec<Option<oarlock::Error>> = std::thread::scope(|scope| {
        let threads: Vec<_> = [("x", "y"), ("y", "x")]
            .into_iter()
            .map(|(first, second)| {
                let (space, both_hold) = (space(&dev, 'a', first), &both_hold);
                scope.spawn(move || {
                    // With its first answer a program has the memory in which it grants itself.
                    space.lock("before").acquire().unwrap().release().unwrap();
                    let _first = space.lock(first).acquire().unwrap();
                    both_hold.wait();
                    space.lock(second).mode(Mode::PR).timeout(LONG).acquire().err()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let kinds: Vec<Kind> = refused.iter().flatten().map(oarlock::Error::kind).collect();
    assert_eq!(kinds, [Kind::Deadlock], "{refused:?}");
    assert_eq!(dev.counter('a', "deadlock_asked"), asked);
    assert!(dev.counter('a', "fast_grants") > 0);
}

/// Threads of one program are apart: what the one waits for, another gives back.
#[test]
fn threads_of_a_program_are_not_taken_for_one() {
    let dev = Dev::start();
    let (ours, theirs) = (space(&dev, 'a', "ours"), space(&dev, 'b', "theirs"));
    let held = ours.lock("x").acquire().unwrap();
    let other = theirs.lock("y").acquire().unwrap();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        // It waits for y; what y's holder waits for is held by the thread that started it.
        let waits = scope.spawn(|| ours.lock("y").timeout(LONG).acquire().map(drop));
        let back = scope.spawn(move || {
            let second = theirs.lock("x").timeout(LONG).acquire();
            drop(other);
            second.map(drop)
        });
        std::thread::sleep(Duration::from_millis(900));
        held.release().unwrap();
        back.join().unwrap().expect("no deadlock");
        waits.join().unwrap().expect("no deadlock");
    });
    assert!(begin.elapsed() > Duration::from_millis(900));
    assert_eq!(dev.counter('a', "deadlock_found") + dev.counter('b', "deadlock_found"), 0);
}

/// Commands within commands belong together.
#[test]
fn of_two_commands_that_wait_for_each_other_one_ends_with_81() {
    let dev = Dev::start();
    let nested = |node: char, first: &str, second: &str| {
        let program = env!("CARGO_BIN_EXE_oarlock");
        let script = format!("sleep 1; exec {program} lock {second} -w 20s -- true");
        dev.at(node).args(["lock", first, "-q", "--", "sh", "-c", &script]).output().unwrap()
    };
    let (one, other) = std::thread::scope(|scope| {
        let one = scope.spawn(|| nested('a', "x", "y"));
        let other = scope.spawn(|| nested('b', "y", "x"));
        (one.join().unwrap(), other.join().unwrap())
    });
    let (one, other) = (Said::of(one), Said::of(other));
    let (lost, won) = if one.status == Some(0) { (other, one) } else { (one, other) };
    won.expect(0, &[]);
    lost.expect(
        81,
        &["OAR-2301", "wait for each other in a circle", "wants EX on", "oarlock locks deadlocks"],
    );
    let mut command = dev.at('a');
    command.env("OARLOCK_TRANSACTION", "seven").args(["lock", "x", "--", "true"]);
    Said::of(command.output().unwrap())
        .expect(2, &["OARLOCK_TRANSACTION cannot be `seven`", "a number above 0"]);
}
