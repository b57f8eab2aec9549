//! Lockspaces that programs open and leave. A program has no word for leaving: it has left a lockspace when nothing of it is left
//! in the program, and a guard is something of it.

mod support;

use std::time::Duration;

use oarlock::blocking::{Client, Space};
use oarlock::{Kind, Mode};
use support::{Dev, until};

/// Programs at node-a whose grants go by way of the lockspace's segment.
fn attached(dev: &Dev, space: &str) -> u64 {
    let status = dev.run('a', &["status", "-o", "json"]).expect(0, &[]).json();
    let spaces = status["spaces"].as_array().unwrap();
    let found =
        spaces.iter().find(|it| it["name"] == space).unwrap_or_else(|| panic!("no {space}: {status}"));
    found["attached_sessions"].as_u64().unwrap()
}

fn busy(space: &Space, name: &str) -> bool {
    match space.lock(name).no_queue().acquire() {
        Ok(guard) => {
            guard.release().unwrap();
            false
        }
        Err(error) => {
            assert_eq!(error.kind(), Kind::Busy, "{error}");
            true
        }
    }
}

/// Scenario 65: a program opens a lockspace twice and has it once: one world of names, one place in its memory. So does another
/// program of the same node. Whoever leaves first, in whatever way, leaves it to the others.
#[test]
fn opened_twice_a_lockspace_is_one_and_outlives_who_leaves_first() {
    let dev = Dev::start_with(&["--space", "app"]);
    for name in ["default", "app"] {
        let client = Client::connect(dev.socket('a')).unwrap();
        let first = client.space(name).unwrap();
        first.lock("warm").acquire().unwrap().release().unwrap();
        until("it has its place in the segment", || attached(&dev, name) == 1);
        let second = client.space(name).unwrap();
        let guard = first.lock("x").acquire().unwrap();
        assert!(busy(&second, "x"), "the same name in the same lockspace");
        assert_eq!(attached(&dev, name), 1, "once, however often it is opened");

        // Another program: with a place of its own.
        let other = Client::connect(dev.socket('a')).unwrap();
        let third = other.space(name).unwrap();
        assert!(busy(&third, "x"));
        let theirs = third.lock("theirs").acquire().unwrap();
        until("the other has its place as well", || attached(&dev, name) == 2);

        // The first opening is left, and what was opened by it goes on by the second.
        drop(first);
        assert!(!guard.is_lost());
        guard.convert(Mode::PR).unwrap();
        assert!(second.lock("y").acquire().is_ok());

        // The first program leaves altogether, with what it held.
        drop((guard, second, client));
        until("the first has left", || attached(&dev, name) == 1);
        assert!(!theirs.is_lost());
        theirs.convert(Mode::PR).unwrap();
        assert!(!busy(&third, "x"));
        drop((theirs, third, other));
        until("the other has left", || attached(&dev, name) == 0);
        // And it can be entered anew.
        let again = Client::connect(dev.socket('a')).unwrap().space(name).unwrap();
        assert!(!busy(&again, "x") && !busy(&again, "theirs"));
    }
}

/// Scenario 66: a lockspace cannot be left from under a lock. Whoever lets go of it while he holds one stays in it, with a lock as
/// good as before, up to its release; what he wrote is valid. Then he has left.
#[test]
fn who_holds_a_lock_stays_in_its_lockspace_until_that_is_given_back() {
    let dev = Dev::start_with(&["--space", "app"]);
    for name in ["default", "app"] {
        let there = Client::connect(dev.socket('b')).unwrap().space(name).unwrap();
        let keeper = there.lock("x").mode(Mode::NL).acquire().unwrap();
        let client = Client::connect(dev.socket('a')).unwrap();
        let space = client.space(name).unwrap();
        space.lock("warm").acquire().unwrap().release().unwrap();
        until("it has its place in the segment", || attached(&dev, name) == 1);
        let guard = space.lock("x").value_block().acquire().unwrap();
        drop((space, client));

        // It stays, as far as anybody can tell.
        assert_eq!(attached(&dev, name), 1);
        assert!(busy(&there, "x"));
        assert!(!guard.is_lost());
        let waits = std::thread::scope(|scope| {
            let waits = scope.spawn(|| there.lock("x").mode(Mode::PR).value_block().acquire().unwrap());
            assert!(guard.wait_blocking(Duration::from_secs(20)).unwrap().is_some(), "it hears who waits");
            guard.set_value(b"kept").unwrap();
            guard.convert(Mode::PR).unwrap();
            waits.join().unwrap()
        });
        let value = waits.value().unwrap();
        assert_eq!((value.valid, &value.bytes[..4]), (true, &b"kept"[..]));
        assert!(busy(&there, "x"), "PR is in the way of EX");
        waits.release().unwrap();

        guard.release().unwrap();
        assert!(!busy(&there, "x"));
        until("it has left", || attached(&dev, name) == 0);
        drop(keeper);
    }
}
