//! Many threads on one blocking client: they exclude each other, and everybody gets his own answer whoever
//! happens to read the socket.

mod support;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use oarlock::blocking::Client;
use oarlock::{Kind, Mode};
use support::{Honest, block_on, poll_once};

const THREADS: usize = 8;
const ROUNDS: usize = 300;

#[test]
fn threads_of_one_session_exclude_each_other() {
    let daemon = Honest::new();
    let client = Client::connect(daemon.path()).unwrap();
    let inside: [AtomicU32; 3] = Default::default();
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (client, inside, done) = (&client, &inside, &done);
            scope.spawn(move || {
                let space = client.space("default").unwrap();
                for round in 0..ROUNDS {
                    let name = (thread + round) % 3;
                    let guard = space.lock([name as u8]).acquire().unwrap();
                    assert_eq!(inside[name].fetch_add(1, Ordering::SeqCst), 0);
                    assert_eq!(guard.mode(), Mode::EX);
                    assert_eq!(inside[name].fetch_sub(1, Ordering::SeqCst), 1);
                    if round % 2 == 0 {
                        guard.release().unwrap()
                    } else {
                        drop(guard)
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    assert_eq!(done.into_inner(), THREADS * ROUNDS);
    daemon.until_locks(0);
}

/// Timeouts, notices, conversions and tries at once; the session's own bookkeeping must survive all of it.
#[test]
fn a_mixture_of_everything_leaves_nothing_behind() {
    let daemon = Honest::new();
    let client = Client::connect(daemon.path()).unwrap();
    let (granted, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (client, granted, refused) = (&client, &granted, &refused);
            scope.spawn(move || {
                let space = client.space("default").unwrap();
                for round in 0..60 {
                    let mode = Mode::ALL[(thread + round) % 6];
                    let request = space.lock("shared").mode(mode);
                    let result = match (thread + round) % 4 {
                        0 => request.timeout(Duration::from_millis(3)).acquire(),
                        1 => request.no_queue().acquire(),
                        2 => request.try_acquire(),
                        _ => request.timeout(Duration::from_millis(50)).acquire(),
                    };
                    match result {
                        Ok(guard) => {
                            granted.fetch_add(1, Ordering::SeqCst);
                            let wanted = guard.wait_blocking(Duration::from_millis(1)).unwrap();
                            if let Some(wanted) = wanted {
                                let mode = wanted.strongest_beside();
                                if guard.mode().covers(mode) {
                                    guard.convert(mode).unwrap();
                                }
                            }
                            match guard.conversion(Mode::PR).no_queue().convert() {
                                Ok(()) => assert_eq!(guard.mode(), Mode::PR),
                                Err(error) => assert_eq!(error.kind(), Kind::Busy),
                            }
                        }
                        Err(error) => {
                            assert!(matches!(error.kind(), Kind::Busy | Kind::TimedOut), "{error}");
                            refused.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                }
            });
        }
    });
    let (granted, refused) = (granted.into_inner(), refused.into_inner());
    assert_eq!(granted + refused, THREADS * 60);
    assert!(granted > THREADS && refused > THREADS, "{granted} granted, {refused} refused");
    daemon.until_locks(0);
}

/// A cancel names a number; it must not meet a request that was given the same number since.
#[test]
fn a_cancel_withdraws_nothing_but_what_it_was_sent_for() {
    let daemon = Honest::new();
    let other = Client::connect(daemon.path()).unwrap();
    let _held = other.space("default").unwrap().lock("held").acquire().unwrap();
    let client = block_on(oarlock::Client::connect(daemon.path())).unwrap();
    let space = block_on(client.space("default")).unwrap();
    let until = Instant::now() + Duration::from_secs(2);
    let waited = AtomicUsize::new(0);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (space, waited) = (&space, &waited);
            scope.spawn(move || {
                while Instant::now() < until {
                    // Granted at once, and deserted before that is known.
                    for round in 0..20 {
                        let mut deserted = pin!(space.lock(format!("{thread}.{round}")).acquire());
                        let _ = poll_once(deserted.as_mut(), &Arc::default());
                    }
                    let waits = space.lock("held").timeout(Duration::from_millis(2)).acquire();
                    let error = block_on(waits).map(drop).unwrap_err();
                    assert_eq!(error.kind(), Kind::TimedOut, "{error}");
                    waited.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert!(waited.into_inner() > THREADS);
    daemon.until_locks(1);
}

/// Only one reads the socket, so a time limit must also end a wait behind another reader.
#[test]
fn a_wait_ends_in_time_even_while_somebody_else_reads() {
    let daemon = Honest::new();
    let client = Client::connect(daemon.path()).unwrap();
    let space = client.space("default").unwrap();
    let guard = space.lock("x").acquire().unwrap();
    thread::scope(|scope| {
        let reader = scope.spawn(|| guard.wait_lost(Duration::from_millis(300)));
        thread::sleep(Duration::from_millis(20));
        let start = Instant::now();
        assert_eq!(guard.wait_blocking(Duration::from_millis(30)).unwrap(), None);
        assert!(start.elapsed() < Duration::from_millis(250), "{:?}, as long as the reader", start.elapsed());
        let waiting = scope.spawn(|| space.lock("x").timeout(Duration::from_secs(5)).acquire());
        assert_eq!(guard.wait_blocking(Duration::from_secs(5)).unwrap(), Some(Mode::EX));
        guard.convert(Mode::NL).unwrap();
        assert!(waiting.join().unwrap().is_ok());
        assert!(reader.join().unwrap().is_none());
    });
}
