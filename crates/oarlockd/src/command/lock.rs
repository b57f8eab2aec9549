//! `oarlock lock RES -- CMD`: run a command while holding a lock.
//!
//! ```text
//!   ask ──► granted ──► start the command ──► it ends ──► give back ──► its exit status
//!    │         │               │
//!    │         │               ├─ lock lost: SIGTERM, 2 s, SIGKILL ──► 76
//!    │         │               └─ lease not renewed: the same in time (lapse.rs) ──► 76
//!    │         └─ not granted: 75, or what -E says
//!    └─ after 1 s of waiting: who holds it, since when, how many are ahead
//! ```
//!
//! One thread (another one only talks, see talk.rs), no runtime, and no JSON unless somebody has to be told why it takes so long: this path is
//! meant to cost little more than `flock`.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{LockId, OwnerId, TransactionId};
use oarlock_layout::message::session::{Failure, Granted, LockRequest, Reply, Request};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};

use super::lapse::{Lapse, Step};
use super::session::{Session, timespec};
use super::talk::Talk;
use super::{args, cli, connect, output, waiting};
use crate::console::doc::Question;
use crate::host::child::{self, Family};
use crate::host::clock;
use crate::host::guard::Guard;
use crate::host::random;
use crate::host::signals::Signals;
use crate::problem::{Problem, Result};

/// A person at a terminal wonders after about a second.
const PATIENCE: Duration = Duration::from_secs(1);
/// What a command gets between SIGTERM and SIGKILL when the lock is lost.
const GRACE: Duration = Duration::from_secs(2);
/// How long a daemon may take to confirm a release before we leave without hearing it.
const RELEASE_MAX: Duration = Duration::from_secs(1);
/// What a node may take beyond the time we gave it: it counts that time itself, unless it is stuck.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// What a request that does not want to wait waits at most. Its answer may need another node, which may be
/// silent.
const TRY_MAX: Duration = Duration::from_secs(3);
/// The number of the only lock of this session.
const HANDLE: u32 = 1;
/// What is passed on to the command.
const PASSED_ON: [i32; 6] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];

/// Runs the command; returns the exit status.
pub fn run(args: &cli::Lock) -> Result<u8> {
    let plan = Plan::from_args(args)?;
    // First of all descriptors, so that it gets a small number: some shells know single digits only.
    let lost = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| Problem::io(Code::Failed, "cannot make a pipe", &e.into()))?;
    let (socket, _) = connect::find(args.connect.socket.as_deref())?;
    let signals = Signals::catch(&not_ignored(&PASSED_ON))
        .map_err(|e| Problem::io(Code::Failed, "cannot catch signals", &e))?;
    let mut session = Session::open(&socket, &plan.label)?;
    let began = Instant::now();
    let granted = match acquire(&mut session, &plan, &signals)? {
        Outcome::Granted(granted) => granted,
        Outcome::Failed { why, unanswered } => {
            let problem = Problem {
                what: format!("{} {} not granted: {}", plan.name, plan.mode, why.text),
                ..Problem::from_failure(&why)
            };
            let problem = match why.code {
                // Nobody answered in the daemon's name, so nothing is known of holders.
                _ if unanswered => problem
                    .because("the daemon is stopped or overloaded, or a member that is needed is silent")
                    .try_next("oarlock ok"),
                Code::Busy => {
                    problem.try_next(format!("oarlock locks why {}, or wait with -w TIME", plan.name))
                }
                Code::TimedOut => problem.try_next(format!("oarlock locks why {}", plan.name)),
                _ => problem,
            };
            if matches!(why.code, Code::Busy | Code::TimedOut) {
                // Not an error of anybody: flock says nothing either, unless asked.
                if !plan.quiet {
                    output::say(format_args!("oarlock: {problem}"));
                }
                return Ok(plan.conflict_exit_code);
            }
            return Err(problem);
        }
        Outcome::Interrupted(signal) => return Ok(128 + signal as u8),
    };
    let lapse = session.take_lease().map(Lapse::new).ok_or_else(|| {
        Problem::new(Code::OutOfDescriptors, "the lease of the node cannot be looked at")
            .because("its descriptor did not arrive; without it nobody would end the command in time")
            .try_next("raise the limit of open files (ulimit -n)")
    })?;
    let mut held = Held { session, plan, signals, granted, lapse, talk: Talk::default() };
    // The answer may be old: this process may have stood still since it came.
    if let Some(why) = held.gone() {
        return Ok(held.not_started(&why));
    }
    if began.elapsed() >= PATIENCE && !held.plan.quiet {
        held.talk.say(format!(
            "oarlock: granted after {:.1} s, token {}",
            began.elapsed().as_secs_f64(),
            held.granted.token.fence
        ));
    }
    held.run(lost)
}

/// What is to be done, with every argument understood.
struct Plan {
    name: Name,
    shown: OsString,
    mode: Mode,
    space: String,
    flags: Flags,
    timeout_ms: u32,
    conflict_exit_code: u8,
    label: String,
    /// That of the command in which this one runs, if it runs in one: then the two are not taken for strangers in a search for deadlocks.
    transaction: TransactionId,
    quiet: bool,
    program: OsString,
    arguments: Vec<OsString>,
}

/// What a command within a command is told by.
const TRANSACTION: &str = "OARLOCK_TRANSACTION";

fn transaction() -> Result<TransactionId> {
    let Some(text) = std::env::var_os(TRANSACTION).filter(|text| !text.is_empty()) else {
        return Ok(TransactionId(random::seed().max(1)));
    };
    let number = text.to_str().and_then(|text| text.parse().ok()).filter(|number| *number != 0);
    number.map(TransactionId).ok_or_else(|| {
        Problem::new(Code::Usage, format!("{TRANSACTION} cannot be `{}`", text.display()))
            .because("it is a number above 0, by which commands within commands are known to belong together")
            .try_next(format!("unset {TRANSACTION}"))
    })
}

impl Plan {
    fn from_args(a: &cli::Lock) -> Result<Plan> {
        let mode = match (&a.mode, a.shared) {
            (Some(text), _) => args::mode(text)?,
            (None, true) => Mode::PR,
            (None, false) => Mode::EX,
        };
        let wait = a.wait.as_deref().map(args::duration).transpose()?;
        // FRESH: a new serial for each grant, so that OARLOCK_TOKEN grows even if the node kept the lock.
        let mut flags = Flags::FRESH;
        flags.set(Flags::NOQUEUE, a.nonblock || wait == Some(Duration::ZERO));
        let (program, arguments) = match (&a.command, a.cmd.split_first()) {
            (Some(text), _) => ("/bin/sh".into(), vec!["-c".into(), text.clone()]),
            (None, Some((program, rest))) => (program.clone(), rest.to_vec()),
            (None, None) => {
                return Err(Problem::new(Code::Usage, "no command is given")
                    .because("a lock is held for as long as a command runs")
                    .try_next("oarlock lock RES -- CMD, or oarlock lock RES -c 'shell text'"));
            }
        };
        let label = match &a.label {
            Some(label) => label.clone(),
            None => {
                let of = a.cmd.first().map_or(OsStr::new("sh"), OsString::as_os_str);
                Path::new(of).file_name().unwrap_or(of).to_string_lossy().into_owned()
            }
        };
        Ok(Plan {
            name: args::name(&a.resource)?,
            shown: a.resource.clone(),
            mode,
            space: a.space.clone(),
            flags,
            timeout_ms: wait.filter(|w| !w.is_zero()).map_or(0, args::timeout_ms),
            conflict_exit_code: a.conflict_exit_code,
            label,
            transaction: transaction()?,
            quiet: a.quiet,
            program,
            arguments,
        })
    }
}

impl Plan {
    /// How long to wait for an answer; `None`: as long as it takes.
    fn patience(&self) -> Option<Duration> {
        match (self.flags.contains(Flags::NOQUEUE), self.timeout_ms) {
            (true, _) => Some(TRY_MAX),
            (false, 0) => None,
            (false, ms) => Some(Duration::from_millis(ms.into()) + ANSWER_MAX),
        }
    }

    /// What it means if none has come by then. Hanging up withdraws the request.
    fn unanswered(&self) -> Failure {
        match self.flags.contains(Flags::NOQUEUE) {
            true => Failure {
                code: Code::MemberSilent,
                text: format!("no answer for {} s, neither yes nor no", TRY_MAX.as_secs()),
            },
            false => Failure { code: Code::TimedOut, text: "no answer within the time given".into() },
        }
    }
}

enum Outcome {
    Granted(Granted),
    Failed {
        why: Failure,
        /// It is our own conclusion: the daemon has said nothing.
        unanswered: bool,
    },
    Interrupted(i32),
}

/// Asks for the lock and waits for the answer, telling people why it takes so long.
fn acquire(session: &mut Session, plan: &Plan, signals: &Signals) -> Result<Outcome> {
    let space = session.space(&plan.space)?;
    session.send(&Request::Lock(LockRequest {
        handle: HANDLE,
        space,
        name: plan.name.clone(),
        mode: plan.mode,
        flags: plan.flags,
        timeout_ms: plan.timeout_ms,
        owner: OwnerId(0),
        transaction: plan.transaction,
    }))?;
    let deadline = plan.patience().map(|p| Instant::now() + p);
    let mut tell_at = (!plan.quiet).then(|| Instant::now() + PATIENCE);
    let mut asked: Option<(u32, Vec<u8>)> = None;
    loop {
        match session.try_receive()? {
            Some(Reply::Granted(granted)) => return Ok(Outcome::Granted(granted)),
            Some(Reply::Failed { why, .. }) => return Ok(Outcome::Failed { why, unanswered: false }),
            Some(Reply::Lost { why }) => return Err(Problem::from_failure(&why)),
            Some(Reply::Answer { request, more, bytes }) => {
                if let Some((number, text)) = &mut asked
                    && *number == request
                {
                    text.extend_from_slice(&bytes);
                    if !more {
                        let me =
                            session.identity().map(|(node, session)| (node, LockId::new(session, HANDLE)));
                        output::say(format_args!(
                            "oarlock: {}",
                            waiting::message(&plan.name, plan.mode, text, me)
                        ));
                        asked = None;
                    }
                }
                continue;
            }
            // The node was restarted before it had answered.
            Some(Reply::Denied { why, .. }) if why.code == Code::OutcomeUnknown => {
                (tell_at, asked) = (Some(Instant::now()), None);
                continue;
            }
            Some(Reply::Denied { why, .. }) => {
                output::say(format_args!("oarlock: waiting for {} {}: {}", plan.name, plan.mode, why.text));
                asked = None;
                continue;
            }
            Some(_) => continue,
            None => {}
        }
        if let Some(signal) = signals.take().into_iter().find(|s| ![SIGUSR1, SIGUSR2].contains(s)) {
            // Hanging up withdraws the request.
            return Ok(Outcome::Interrupted(signal));
        }
        let now = Instant::now();
        if deadline.is_some_and(|d| d <= now) {
            return Ok(Outcome::Failed { why: plan.unanswered(), unanswered: true });
        }
        if tell_at.is_some_and(|at| at <= now) {
            tell_at = None;
            let question = Question::Locks {
                space: plan.space.clone(),
                waiting: false,
                name: Some(plan.name.to_string()),
            };
            asked = Some((session.ask_later(&question)?, Vec::new()));
            continue;
        }
        let next = [tell_at, deadline].into_iter().flatten().min();
        wait(session, signals, None, next.map(|at| at.saturating_duration_since(now)));
    }
}

/// Waits until the daemon, a signal or the end of the command has something to say.
fn wait(session: &Session, signals: &Signals, ended: Option<&OwnedFd>, timeout: Option<Duration>) {
    let mut fds = vec![PollFd::new(session, PollFlags::IN)];
    fds.extend(ended.map(|fd| PollFd::new(fd, PollFlags::IN)));
    let pipes: Vec<_> = signals.watched().map(|(_, fd)| fd).collect();
    fds.extend(pipes.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
    // A failure here (EINTR) only means to look again.
    let _ = poll(&mut fds, timeout.map(timespec).as_ref());
}

/// A lock that is held, and the command that runs under it.
struct Held {
    session: Session,
    plan: Plan,
    signals: Signals,
    granted: Granted,
    lapse: Lapse,
    talk: Talk,
}

impl Held {
    fn run(mut self, (lost_read, lost_write): (OwnedFd, OwnedFd)) -> Result<u8> {
        let failed = |e: std::io::Error| Problem::io(Code::Failed, "cannot run the command", &e);
        child::inherit(&lost_read).map_err(failed)?;
        let foreground = child::is_foreground();
        let mut command = Command::new(&self.plan.program);
        command
            .args(&self.plan.arguments)
            .env("OARLOCK_RESOURCE", &self.plan.shown)
            .env("OARLOCK_MODE", self.granted.mode.name())
            .env("OARLOCK_TOKEN", self.granted.token.fence.to_string())
            .env(TRANSACTION, self.plan.transaction.0.to_string())
            .env("OARLOCK_LOST_FD", lost_read.as_raw_fd().to_string());
        if let Some((_, session)) = self.session.identity() {
            command.env("OARLOCK_LKID", LockId::new(session, HANDLE).to_string());
        }
        let guard = Guard::over(self.lapse.sight()).map_err(failed)?;
        // A group of its own, so that all of it can be stopped. At a terminal it must stay in the terminal's foreground group, or
        // it could not read from it.
        guard.bind(&mut command, !foreground);
        let mut child = match child::spawn_bound(&mut command, Signal::KILL) {
            Ok(child) => child,
            Err(_) if guard.has_killed() => {
                let why = Problem::new(Code::Lost, "the node does not renew its lease")
                    .because("this process stood still when it was about to start the command");
                return Ok(self.not_started(&why));
            }
            Err(e) => {
                guard.dismiss();
                self.release();
                let status = if e.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
                let problem = Problem::io(
                    Code::Failed,
                    format!("cannot run {}", self.plan.program.to_string_lossy()),
                    &e,
                )
                .try_next("check the command; everything behind RES is taken as the command");
                self.talk.say(format!("oarlock: {problem}"));
                self.talk.finish();
                return Ok(status);
            }
        };
        drop(lost_read);
        let family = Family::new(child.id(), !foreground);
        let ended = match child::watch(child.id()) {
            Ok(ended) => ended,
            Err(e) => {
                // It runs already, and must not go on without the lock.
                family.kill_all();
                let _ = child.wait();
                return Err(failed(e));
            }
        };
        loop {
            let status = child.try_wait().map_err(failed)?;
            // Also of a command that has ended: a lock that was lost before it could be given back may have been
            // lost while the command ran, and nobody can tell which was first.
            if let Some(why) = self.lost() {
                return Ok(self.stop(child, &family, &ended, lost_write, &why));
            }
            let now = clock::now();
            if guard.has_killed() {
                // This process stood still when it should have done it.
                let why = Problem::new(Code::Lost, "the node does not renew its lease")
                    .because("this process stood still as well; its guard has ended the command in time");
                return Ok(self.stop(child, &family, &ended, lost_write, &why));
            }
            if let Some(status) = status.filter(|_| !self.lapse.is_over(now)) {
                self.release();
                guard.dismiss();
                self.talk.finish();
                return Ok(exit_code(status));
            }
            if let Some(why) = self.lapses(now) {
                return Ok(self.stop(child, &family, &ended, lost_write, &why));
            }
            for number in self.signals.take() {
                // The terminal has sent these two to the command as well.
                if !(foreground && [SIGINT, SIGQUIT].contains(&number)) {
                    family.signal(Signal::from_named_raw(number).unwrap_or(Signal::TERM));
                }
            }
            wait(&self.session, &self.signals, Some(&ended), Some(self.lapse.next(clock::now())));
        }
    }

    /// Whether there is no lock any more to start the command under, and why.
    fn gone(&mut self) -> Option<Problem> {
        self.lost().or_else(|| self.lapses(clock::now()))
    }

    /// The lock was lost before the command was started: hanging up gives back what is left of it.
    fn not_started(mut self, why: &Problem) -> u8 {
        let name = &self.plan.name;
        self.talk.say(format!(
            "oarlock: lock on {name} lost: {}\n  why: {}\n  now: the command is not started",
            why.what, why.why
        ));
        self.talk.finish();
        Code::Lost.exit()
    }

    /// Whether the command must end because the node does not renew its lease. Warns before.
    fn lapses(&mut self, now: oarlock_layout::time::Instant) -> Option<Problem> {
        let name = &self.plan.name;
        match self.lapse.look(now) {
            Step::None => None,
            Step::Warn if self.plan.quiet => None,
            Step::Warn => {
                self.talk.say(format!(
                    "oarlock: lock on {name} at risk: the node has not renewed its lease; the command gets SIGTERM in {:.1} s unless it does",
                    self.lapse.next(now).as_secs_f64()
                ));
                None
            }
            Step::Calm if self.plan.quiet => None,
            Step::Calm => {
                self.talk.say(format!("oarlock: lock on {name} is safe again: the node has renewed its lease"));
                None
            }
            Step::End => Some(
                Problem::new(Code::Lost, "the node does not renew its lease")
                    .because("it stands still, or hears no majority of the members; others get the lock when the lease is over"),
            ),
        }
    }

    /// Whether the lock is gone, and why.
    fn lost(&mut self) -> Option<Problem> {
        loop {
            match self.session.try_receive() {
                Ok(None) => return None,
                Ok(Some(Reply::Lost { why })) => return Some(Problem::from_failure(&why)),
                // Blocking notices: others wait, as long as the command runs.
                Ok(Some(_)) => {}
                Err(problem) => return Some(problem),
            }
        }
    }

    /// The lock is lost: the command must end before others act on what it protects.
    fn stop(
        mut self,
        mut child: Child,
        family: &Family,
        ended: &OwnedFd,
        tell: OwnedFd,
        why: &Problem,
    ) -> u8 {
        // A line, not an end of file: the guard has a copy of this end too, and a shell's `read` wants a line.
        let _ = rustix::io::write(&tell, b"lost\n");
        // Not as long as that if others may get the lock before.
        let grace = GRACE.min(self.lapse.kill_in(clock::now()));
        family.signal(Signal::TERM);
        let end = Instant::now() + grace;
        self.talk.say(format!(
            "oarlock: lock on {} lost: {}\n  why: {}\n  now: the command gets SIGTERM, and SIGKILL after {:.1} s",
            self.plan.name,
            why.what,
            why.why,
            grace.as_secs_f64()
        ));
        while Instant::now() < end && matches!(child.try_wait(), Ok(None)) {
            let left = end.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(ended, PollFlags::IN)];
            let _ = poll(&mut fds, Some(&timespec(left)));
        }
        // Its descendants too, whether it ended by itself or not: they work under the same lost lock.
        family.kill_all();
        let _ = child.wait();
        self.talk.finish();
        Code::Lost.exit()
    }

    /// Gives the lock back and waits to hear it, so that a command started next finds it free.
    fn release(&mut self) {
        let unlock = Request::Unlock { handle: HANDLE, value: None, invalidate: false };
        if self.session.send(&unlock).is_err() {
            return;
        }
        let end = Instant::now() + RELEASE_MAX;
        while let Ok(Some(reply)) = self.session.receive(Some(end)) {
            if matches!(reply, Reply::Released { .. } | Reply::Failed { .. } | Reply::Lost { .. }) {
                return;
            }
        }
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => (128 + signal) as u8,
        (None, None) => 1,
    }
}

/// Leaves out what this process was told to ignore, so that `nohup` still works: catching a signal and
/// passing it on would undo it.
fn not_ignored(signals: &[i32]) -> Vec<i32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:")).map(str::trim);
    let mask = mask.and_then(|m| u64::from_str_radix(m, 16).ok()).unwrap_or(0);
    signals.iter().copied().filter(|s| mask & (1 << (s - 1)) == 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches;

    fn plan(line: &str) -> Result<Plan> {
        let words = ["lock"].into_iter().chain(line.split_whitespace());
        let matches = cli::lock_declaration().try_get_matches_from(words).expect(line);
        Plan::from_args(&cli::Lock::from_arg_matches(&matches).unwrap())
    }

    #[test]
    fn the_short_flags_are_those_of_flock() {
        let p = plan("f true").unwrap();
        assert_eq!((p.mode, p.timeout_ms, p.conflict_exit_code), (Mode::EX, 0, 75));
        assert!(p.flags.contains(Flags::FRESH) && !p.flags.contains(Flags::NOQUEUE));
        assert_eq!(plan("-s f true").unwrap().mode, Mode::PR);
        assert_eq!(plan("-e f true").unwrap().mode, Mode::EX);
        assert_eq!(plan("-m cw f true").unwrap().mode, Mode::CW);
        assert!(plan("-n f true").unwrap().flags.contains(Flags::NOQUEUE));
        assert!(plan("-w 0 f true").unwrap().flags.contains(Flags::NOQUEUE));
        let p = plan("-w 0.2 -E 9 f true").unwrap();
        assert_eq!((p.timeout_ms, p.conflict_exit_code), (200, 9));
        let p = plan("f -c true").unwrap();
        assert_eq!((p.program.to_str(), p.arguments.len()), (Some("/bin/sh"), 2));
    }

    #[test]
    fn everything_behind_the_resource_is_the_command() {
        for line in ["f -- ls -l -n", "f ls -l -n", "-x f ls -l -n"] {
            let p = plan(line).unwrap();
            assert_eq!(p.program, "ls", "{line}");
            assert_eq!(p.arguments, ["-l", "-n"], "{line}");
            assert!(!p.flags.contains(Flags::NOQUEUE), "{line}");
        }
        assert_eq!(plan("f").err().unwrap().code, Code::Usage);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_own_code() {
        assert_eq!(plan("-m XX f true").err().unwrap().code, Code::BadMode);
        assert_eq!(plan("-w soon f true").err().unwrap().code, Code::BadDuration);
        let long = "x".repeat(256);
        assert_eq!(plan(&format!("{long} true")).err().unwrap().code, Code::BadName);
    }

    #[test]
    fn an_ended_command_decides_the_exit_status() {
        assert_eq!(exit_code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(exit_code(ExitStatus::from_raw(15)), 143);
    }
}
