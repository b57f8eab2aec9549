//! The keeper: what `oarlock serve` is, besides the engine that it starts (L5).
//!
//! ```text
//!   oarlock serve  ── keeper ──┬── watches ──► oarlock engine     everything else: circuits, locks, console, coordinator
//!                              │                    │
//!        holds, of each run:   │◄── one line ───────┘  its segments, its sessions' sockets, its last word
//!                              │
//!        the engine dies:      ├─► turns the epochs        programs believe no grant of their own any more
//!                              ├─► tells every session     "lost"; `oarlock lock` ends its command
//!                              ├─► waits for each          to hang up, which is how it says that it has heard
//!                              ├─► says the last word      "run 7 has ended": others need not wait for its lease
//!                              └─► starts another engine   another run, with nothing of the old one
//! ```
//!
//! It has no clock of the cluster, no key, no lock table, and speaks to the network once in a run's life: a datagram that the
//! run itself has made, from its own socket. So there is little in it that could fail together with the engine.
//!
//! If the keeper dies, the kernel ends the engine too, and both have died without a word: the lease runs out (L1). The same if
//! both stand still.

mod line;
mod wards;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use oarlock_layout::code::Code;
use oarlock_layout::id::Incarnation;
use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tracing::{error, warn};

use line::Heard;
pub use line::{Keeper, LastWord, WORDS};
use oarlock_cluster::farewell::Care;
use wards::{Orphans, Wards};

use crate::command::cli::Serve;
use crate::command::serve::{log_to_stderr, raise_descriptor_limit};
use crate::config::Config;
use crate::host::pair::{self, PACKET_BYTES_MAX};
use crate::host::poll::{Epoll, Poll, Ready};
use crate::host::signals::Signals;
use crate::host::{child, exec};
use crate::problem::{Problem, Result};

/// What is watched besides sessions, whose tokens begin behind these.
const SIGNALS: u64 = 0;
const LINE: u64 = 1;
const ENDED: u64 = 2;
const FIRST_SESSION: u64 = 16;

/// How long the next engine waits for the last word about the one before: both speak from one address. Programs that hang up
/// at once have done so by then.
const WORD_FIRST: Duration = Duration::from_millis(400);
/// An engine that dies again so soon after its start will not get better by another start at once.
const TOO_SOON: Duration = Duration::from_secs(5);
/// Then the next one waits, twice as long each time, up to the second.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];
/// How an engine ends that has panicked, where panics unwind.
const PANICKED: i32 = 101;

/// Runs a node: its engine, and another one whenever that dies, until a signal comes or an engine gives up by itself. Returns
/// the exit status; what there is to say of it, the engine has said.
pub fn run(args: &Serve) -> Result<u8> {
    let config = Config::load(&args.config)?;
    log_to_stderr(config.log);
    raise_descriptor_limit();
    let failed = |e: io::Error| Problem::io(Code::Failed, "cannot keep an engine", &e);
    let signals = Signals::catch(&[SIGTERM, SIGINT, SIGHUP]).map_err(failed)?;
    let mut poll = Epoll::new().map_err(failed)?;
    for (_, fd) in signals.watched() {
        poll.add(&fd, SIGNALS).map_err(failed)?;
    }
    let mut house = House {
        args,
        program: exec::this_program().map_err(failed)?,
        poll,
        next_session: FIRST_SESSION,
        engine: None,
        orphans: None,
        given_up: None,
        start_at: Some(Instant::now()),
        hasty: 0,
        stopping: false,
        leaving: None,
    };
    let mut ready = Vec::new();
    loop {
        let now = Instant::now();
        house.settle(now);
        if let Some(status) = house.left() {
            return Ok(status);
        }
        if house.start_at.is_some_and(|at| at <= now) {
            house.start(now).map_err(failed)?;
        }
        let timeout = house.timeout().map(|at| at.saturating_duration_since(Instant::now()));
        house.poll.wait(timeout, &mut ready).map_err(failed)?;
        for Ready { token, .. } in ready.drain(..) {
            match token {
                SIGNALS => house.signals(&signals),
                LINE => house.listen(),
                ENDED => {}
                session => house.hung_up(session),
            }
        }
        house.look_at_engine(Instant::now()).map_err(failed)?;
    }
}

/// A running engine.
struct Engine {
    child: Child,
    ended: OwnedFd,
    line: OwnedFd,
    started: Instant,
    wards: Wards,
}

/// A keeper at work.
struct House<'a> {
    args: &'a Serve,
    /// Where this program was started from. An upgrade puts another one there, which the next engine is.
    program: PathBuf,
    poll: Epoll,
    next_session: u64,
    engine: Option<Engine>,
    /// What the last engine left that died. Of an earlier one nobody would wait for more than its lease.
    orphans: Option<Orphans>,
    /// The last run that was given up: the next engine says it over its circuits, for datagrams may be lost.
    given_up: Option<Incarnation>,
    /// When the next engine starts.
    start_at: Option<Instant>,
    /// Deaths in a row soon after a start.
    hasty: u32,
    /// Somebody wants it to end.
    stopping: bool,
    /// With which status it ends, once nothing is left to be done.
    leaving: Option<u8>,
}

impl House<'_> {
    fn start(&mut self, now: Instant) -> io::Result<()> {
        self.start_at = None;
        if let Some(orphans) = &mut self.orphans {
            orphans.release_address();
        }
        let (line, theirs) = pair::pair()?;
        let mut command = Command::new(&self.program);
        command.arg("engine").arg("--config").arg(&self.args.config).stdin(Stdio::from(theirs));
        if self.args.dev {
            command.arg("--dev");
        }
        // Whatever the keeper dies of, no engine goes on without one: nobody would know what it left.
        let child = child::spawn_bound(&mut command, Signal::KILL)?;
        let ended = child::watch(child.id())?;
        self.poll.add(&line, LINE)?;
        self.poll.add(&ended, ENDED)?;
        if let Some(incarnation) = self.given_up {
            line::tell_given_up(&line, incarnation);
        }
        self.engine = Some(Engine { child, ended, line, started: now, wards: Wards::default() });
        Ok(())
    }

    fn signals(&mut self, signals: &Signals) {
        for number in signals.take() {
            let to_engine = match number {
                SIGTERM | SIGINT => {
                    self.stopping = true;
                    Signal::TERM
                }
                _ => Signal::HUP,
            };
            match &self.engine {
                Some(engine) => {
                    // If it has died, that is seen next.
                    let _ = rustix::process::kill_process(
                        rustix::process::Pid::from_child(&engine.child),
                        to_engine,
                    );
                }
                None if self.stopping => {
                    self.start_at = None;
                    self.leaving.get_or_insert(0);
                }
                None => {}
            }
        }
    }

    /// Takes in what the engine has laid down.
    fn listen(&mut self) {
        let Some(engine) = &mut self.engine else { return };
        let mut buffer = [0; PACKET_BYTES_MAX];
        loop {
            match line::receive(&engine.line, &mut buffer) {
                Heard::Word(word) => engine.wards.take(&mut self.poll, &mut self.next_session, word),
                Heard::Nothing => return,
                Heard::End => break,
            }
        }
        // What it died of is told by the process.
        let _ = self.poll.remove(&engine.line);
    }

    fn hung_up(&mut self, session: u64) {
        if let Some(engine) = &mut self.engine {
            engine.wards.hung_up(&mut self.poll, session);
        }
        if let Some(orphans) = &mut self.orphans {
            orphans.hung_up(&mut self.poll, session);
        }
    }

    /// Has the engine ended, and what follows from that?
    fn look_at_engine(&mut self, now: Instant) -> io::Result<()> {
        let Some(engine) = &mut self.engine else { return Ok(()) };
        let Some(status) = engine.child.try_wait()? else { return Ok(()) };
        // All that it said before.
        self.listen();
        let engine = self.engine.take().expect("just looked at");
        let _ = self.poll.remove(&engine.line);
        let _ = self.poll.remove(&engine.ended);
        let lived = now.saturating_duration_since(engine.started);
        self.hasty = if lived < TOO_SOON { self.hasty + 1 } else { 0 };
        // What took its place and did not come to serve has said nothing: whatever its status, the engine has died.
        let died_on_the_way = engine.wards.restarts;
        match status.code() {
            _ if died_on_the_way => {}
            Some(0) if engine.wards.again() && !self.stopping => {
                engine.wards.let_go(&mut self.poll);
                self.start_at = Some(now + self.pause());
                return Ok(());
            }
            Some(0) => {
                engine.wards.let_go(&mut self.poll);
                self.leaving = Some(0);
                return Ok(());
            }
            _ => {}
        }
        let how = match died_on_the_way {
            true => format!("{}, in the middle of a restart", how(status)),
            false => how(status),
        };
        let orphans = engine.wards.orphan(now, &how);
        let waits = orphans.waits_for();
        match status.code() {
            // It has said what is wrong, and another one would find the same.
            Some(code) if code != PANICKED && !died_on_the_way => {
                self.leaving = Some(code.try_into().unwrap_or(1))
            }
            _ if self.stopping => {
                error!("the engine {how} while it stopped");
                self.leaving = Some(Code::Failed.exit());
            }
            _ => {
                error!(
                    "the engine {how}; its locks are lost, and {waits} sessions are told. Another engine starts"
                );
                self.start_at = Some(now + WORD_FIRST.max(self.pause()));
            }
        }
        if let Some(before) = self.orphans.replace(orphans) {
            before.let_go(&mut self.poll);
        }
        Ok(())
    }

    fn pause(&self) -> Duration {
        let [first, most] = PAUSES;
        match self.hasty {
            0 | 1 => Duration::ZERO,
            n => first.saturating_mul(1 << (n - 2).min(16)).min(most),
        }
    }

    /// Gives the run up that has died, as soon as that is true.
    fn settle(&mut self, now: Instant) {
        let Some(orphans) = &mut self.orphans else { return };
        match orphans.settle(now) {
            Care::Waits => return,
            Care::GivenUp(incarnation) => {
                self.given_up = Some(incarnation);
                if let Some(engine) = &self.engine {
                    line::tell_given_up(&engine.line, incarnation);
                }
            }
            Care::NothingHeld => {}
            Care::LeftToItsLease => {
                let waits = orphans.waits_for();
                warn!(
                    "others wait for the lease of the run that has died; {waits} sessions have not hung up"
                );
            }
        }
        self.orphans.take().expect("just looked at").let_go(&mut self.poll);
        // Nothing keeps the next engine waiting any more, unless it is told to.
        let next = now + self.pause();
        self.start_at = self.start_at.map(|at| at.min(next));
    }

    /// The exit status, once everything is done.
    fn left(&self) -> Option<u8> {
        self.leaving.filter(|_| self.engine.is_none() && self.orphans.is_none())
    }

    fn timeout(&self) -> Option<Instant> {
        [self.start_at, self.orphans.as_ref().map(Orphans::until)].into_iter().flatten().min()
    }
}

fn how(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was killed by signal {signal}"),
        (None, Some(PANICKED)) => "panicked".into(),
        (None, code) => format!("ended with status {}", code.unwrap_or_default()),
    }
}
