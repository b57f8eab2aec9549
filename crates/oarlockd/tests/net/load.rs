//! Programs that take and give back locks all the while, what each of them believed, and a checker of that.
//!
//! The checker knows nothing of how locks are granted. It was written from what is promised: modes that exclude each other
//! are never held at once; the token of an exclusive lock is greater than that of each exclusive lock before it; and
//! whoever has lost a lock knows it before somebody else has it.
//!
//! A program notes the time *after* it was granted a lock, and of each look that it still has it the time *before*. Between
//! the two it certainly believed. Two such spans of modes that exclude each other may not overlap.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use oarlock::blocking::{Client, Guard, Space};
use oarlock::{Kind, Mode, Token};
use oarlock_sim::Random;
use serde_json::Value;

/// Few, so that programs meet.
const RESOURCES: u64 = 5;
/// One more, which one program of each node is after all the while, and keeps until it is lost where the test wants it so.
const SLOW: u64 = RESOURCES;
/// How long that is kept otherwise.
const SLOWLY: Duration = Duration::from_millis(50);
/// Nowhere is it kept.
const NOWHERE: usize = usize::MAX;
/// At each node.
const PROGRAMS: usize = 2;
/// How long a program waits for one lock.
const PATIENCE: Duration = Duration::from_secs(1);
/// A node that serves grants somebody something in that time.
const GRANT_MAX: Duration = Duration::from_secs(30);

/// A lock as a program had it.
#[derive(Clone)]
pub(crate) struct Held {
    node: usize,
    resource: u64,
    mode: Mode,
    token: Token,
    /// From then on it had it, since the load began.
    from: Duration,
    /// Until then it certainly had.
    until: Duration,
}

impl Held {
    fn told(&self) -> String {
        let Held { node, resource, mode, token, from, until } = self;
        format!("{mode:?} on {resource} at {node} from {from:?} to {until:?} with {token:?}")
    }

    pub(crate) fn is_exclusive(&self) -> bool {
        self.mode == Mode::EX
    }
}

/// Everything that programs do.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    history: Arc<Mutex<Vec<Held>>>,
    /// By node, how many locks its programs had so far.
    granted: Arc<Vec<AtomicU64>>,
    /// Where the slow one is kept, and whether it is.
    keeps: Arc<(AtomicUsize, AtomicBool)>,
}

impl Load {
    /// Begins it, at nodes with these sockets.
    pub(crate) fn start(sockets: &[PathBuf]) -> Load {
        let began = Instant::now();
        let granted: Vec<AtomicU64> = sockets.iter().map(|_| AtomicU64::new(0)).collect();
        let mut load = Load {
            stop: Arc::default(),
            threads: Vec::new(),
            history: Arc::default(),
            granted: Arc::new(granted),
            keeps: Arc::new((AtomicUsize::new(NOWHERE), AtomicBool::new(false))),
        };
        for (node, socket) in sockets.iter().enumerate() {
            for program in 0..=PROGRAMS {
                let worker = Worker {
                    node,
                    slow: program == PROGRAMS,
                    keeps: Arc::clone(&load.keeps),
                    socket: socket.clone(),
                    began,
                    stop: Arc::clone(&load.stop),
                    history: Arc::clone(&load.history),
                    granted: Arc::clone(&load.granted),
                };
                let random = Random::new((node * (PROGRAMS + 1) + program) as u64);
                load.threads.push(spawn(move || worker.run(random)));
            }
        }
        load
    }

    /// From now on a program of this node holds a lock that others are after, until it is lost.
    #[track_caller]
    pub(crate) fn keep_at(&self, node: usize) {
        self.keeps.1.store(false, Ordering::Relaxed);
        self.keeps.0.store(node, Ordering::Relaxed);
        let end = Instant::now() + GRANT_MAX;
        while !self.keeps.1.load(Ordering::Relaxed) {
            assert!(Instant::now() < end, "a program of {node} is not granted the lock that all are after");
            sleep(Duration::from_millis(1));
        }
    }

    /// Nobody keeps it for longer than others do.
    pub(crate) fn keep_nowhere(&self) {
        self.keeps.0.store(NOWHERE, Ordering::Relaxed);
    }

    /// Until programs of all these nodes have had a lock that they had not when this was called.
    #[track_caller]
    pub(crate) fn until_granted(&self, nodes: &[usize], what: &str) {
        let count = |node: &usize| self.granted[*node].load(Ordering::Relaxed);
        let before: Vec<u64> = nodes.iter().map(count).collect();
        let end = Instant::now() + GRANT_MAX;
        // One may have been granted before this was called, and be counted only now.
        while nodes.iter().zip(&before).any(|(node, before)| count(node) < before + 2) {
            assert!(Instant::now() < end, "{what}: nothing is granted at one of {nodes:?}");
            sleep(Duration::from_millis(10));
        }
    }

    /// Ends it. All nodes must run.
    pub(crate) fn stop(self) -> Vec<Held> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a program ends in order");
        }
        std::mem::take(&mut self.history.lock().unwrap())
    }
}

struct Worker {
    node: usize,
    slow: bool,
    keeps: Arc<(AtomicUsize, AtomicBool)>,
    socket: PathBuf,
    began: Instant,
    stop: Arc<AtomicBool>,
    history: Arc<Mutex<Vec<Held>>>,
    granted: Arc<Vec<AtomicU64>>,
}

impl Worker {
    fn run(&self, mut random: Random) {
        let mut session = None;
        while !self.stop.load(Ordering::Relaxed) {
            let Some((_client, space)) = &session else {
                session = connect(&self.socket);
                if session.is_none() {
                    sleep(Duration::from_millis(20));
                }
                continue;
            };
            let resource = if self.slow { SLOW } else { random.below(RESOURCES) };
            let modes = [Mode::EX, Mode::EX, Mode::PR, Mode::PW, Mode::CR, Mode::CW];
            let mode = if self.slow { Mode::EX } else { modes[random.below(modes.len() as u64) as usize] };
            match space.lock(format!("net/{resource}")).mode(mode).timeout(PATIENCE).acquire() {
                Ok(guard) => {
                    self.granted[self.node].fetch_add(1, Ordering::Relaxed);
                    let short = Duration::from_micros(random.below(4_000));
                    self.keep(guard, resource, mode, if self.slow { SLOWLY } else { short });
                }
                Err(error) if error.kind() == Kind::TimedOut => {}
                // Whatever it was, another session may fare better.
                Err(_) => session = None,
            }
        }
    }

    /// Keeps a lock for a while, or until it is lost.
    fn keep(&self, guard: Guard, resource: u64, mode: Mode, time: Duration) {
        let from = self.began.elapsed();
        let mut held = Held { node: self.node, resource, mode, token: guard.token(), from, until: from };
        loop {
            let now = self.began.elapsed();
            if guard.lost_now().is_some() {
                break;
            }
            held.until = now;
            let kept = self.slow && self.keeps.0.load(Ordering::Relaxed) == self.node;
            if kept {
                self.keeps.1.store(true, Ordering::Relaxed);
            }
            if now >= from + time && !kept || self.stop.load(Ordering::Relaxed) {
                break;
            }
            sleep(Duration::from_micros(200));
        }
        self.history.lock().unwrap().push(held);
        // Whether it was lost meanwhile makes no difference any more.
        let _ = guard.release();
    }
}

/// A session with a node that grants locks. Where it does not, each attempt would leave a place in its segment behind, and soon
/// there would be none: a program without a place hears of the end of a lease from its node alone.
fn connect(socket: &Path) -> Option<(Client, Space)> {
    let client = Client::builder().label("net").connect(socket).ok()?;
    let status: Value = serde_json::from_str(&client.ask(r#"{"ask":"status"}"#).ok()?).ok()?;
    if status["granting"] != true {
        return None;
    }
    let space = client.space("default").ok()?;
    // What is granted before the answer about the segment has come is granted by the node.
    space.lock("net/first").mode(Mode::NL).acquire().ok()?.release().ok()?;
    Some((client, space))
}

/// May both be held at once? As the table of modes has it.
fn together(a: Mode, b: Mode) -> bool {
    let free = |mode| match mode {
        Mode::NL => [true; 6],
        //         NL    CR    CW     PR     PW     EX
        Mode::CR => [true, true, true, true, true, false],
        Mode::CW => [true, true, true, false, false, false],
        Mode::PR => [true, true, false, true, false, false],
        Mode::PW => [true, true, false, false, false, false],
        Mode::EX => [true, false, false, false, false, false],
    };
    let column = |mode| match mode {
        Mode::NL => 0,
        Mode::CR => 1,
        Mode::CW => 2,
        Mode::PR => 3,
        Mode::PW => 4,
        Mode::EX => 5,
    };
    free(a)[column(b)]
}

/// Everything in a history that was promised not to be.
pub(crate) fn judge(history: &[Held]) -> Vec<String> {
    let mut findings = Vec::new();
    for resource in 0..=SLOW {
        let mut of: Vec<&Held> = history.iter().filter(|held| held.resource == resource).collect();
        of.sort_by_key(|held| held.from);
        // Those that may still be held when the next one begins.
        let mut open: Vec<&Held> = Vec::new();
        let mut last: Option<&Held> = None;
        for held in of {
            open.retain(|before| before.until > held.from);
            for before in &open {
                if !together(before.mode, held.mode) && held.until > held.from.max(before.from) {
                    findings.push(format!("both at once: {} and {}", before.told(), held.told()));
                }
            }
            open.push(held);
            // One that was lost before it was looked at may have been granted long before others.
            if held.is_exclusive() && held.until > held.from {
                if let Some(before) = last.filter(|before| before.token >= held.token) {
                    findings.push(format!("the token does not rise: {} and {}", before.told(), held.told()));
                }
                last = Some(held);
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_layout::token::Fence;

    fn held(node: usize, mode: Mode, times: [u64; 2], fence: u64) -> Held {
        let [from, until] = times.map(Duration::from_millis);
        let token = Token { fence: Fence::from_number(fence), local: 0 };
        Held { node, resource: 0, mode, token, from, until }
    }

    #[test]
    fn the_checker_finds_what_may_not_be_and_nothing_else() {
        let found = |history: &[Held]| judge(history).len();
        let first = held(0, Mode::EX, [10, 20], 5);
        assert_eq!(found(&[first.clone(), held(1, Mode::EX, [20, 30], 6)]), 0);
        assert_eq!(found(&[first.clone(), held(1, Mode::EX, [19, 30], 6)]), 1, "both at once");
        assert_eq!(found(&[held(1, Mode::CR, [5, 11], 0), first.clone()]), 1, "in any order");
        assert_eq!(found(&[first.clone(), held(1, Mode::EX, [20, 30], 5)]), 1, "the token stands still");
        assert_eq!(found(&[first.clone(), held(1, Mode::PR, [21, 30], 1)]), 0, "shared ones need not rise");
        let readers = [held(0, Mode::PR, [10, 20], 1), held(1, Mode::PR, [12, 15], 1)];
        assert_eq!(found(&readers), 0);
        assert_eq!(
            found(&[readers[0].clone(), held(1, Mode::CW, [12, 15], 1)]),
            1,
            "neither is above the other"
        );
        assert_eq!(
            found(&[readers[0].clone(), held(2, Mode::EX, [14, 14], 9)]),
            0,
            "lost as soon as it was had"
        );
    }
}
