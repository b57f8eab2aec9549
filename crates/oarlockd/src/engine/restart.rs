//! A planned restart, in which all locks are kept (L5).
//!
//! ```text
//!   the console ──► Rehearse ──► a parcel ──► the new program reads it as a child: can it go on from this?
//!               ──► Restart  ──► wait for a renewal ──► write the parcel ──► the new program takes this one's place (execve)
//!                                                                             │
//!                      the asking session hears of it ◄── serve ◄── read it ──┘ same process, same run, same descriptors
//! ```
//!
//! Programs and peers see a node that is silent for a moment. Whatever they send meanwhile waits in sockets, bells that they ring
//! stay rung. If the new program cannot be executed, this one goes on as if nothing had been. If it is executed and fails, that is
//! the death of an engine, and the keeper does what it does then.
//!
//! The coordinator is left as by a crash: what it was writing is in its file or is not, and no answer rests on what is not. What the
//! node had proposed and heard nothing of is proposed again: a command says by itself whether it is still wanted.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use oarlock_cluster::registry::Command;
use oarlock_layout::code::Code;
use oarlock_layout::id::SessionId;
use oarlock_layout::time::Instant;
use oarlock_node::Status;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::parcel::{Bytes, Descriptors, Memory, Parcel};
use super::{Answer, Engine, Level, Parts};
use crate::console::{self, doc};
use crate::coordinator::control::ToControl;
use crate::host::{clock, exec, file};
use crate::problem::{Problem, Result};

/// A lease with so much left was renewed a moment ago: the next renewal is half a second away, the freeze of grants one and a half.
const LEFT_FRESH: Duration = Duration::from_millis(2_650);
/// Where renewals take long, less must do; a second before grants freeze there is still.
const LEFT_LEAST: Duration = Duration::from_millis(2_200);
/// A member that has not renewed its lease for so long may have lost a renewal to the restart of another. The next one, three quarters
/// of a second after the first, is to find nobody away: whoever leads the coordinator, and a majority.
const UNRENEWED_MAX: Duration = Duration::from_millis(1_000);
/// For how long the first is waited for, and then the second. Renewals come every 750 ms.
const WAIT: [Duration; 2] = [Duration::from_millis(1_600), Duration::from_millis(3_200)];

/// What the next program is called by: its path, its configuration, and whether it is a node of `oarlock dev`.
#[derive(Clone, Debug)]
pub struct Next {
    /// Where it is. An upgrade puts another one there.
    pub program: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
    /// Say `--dev`.
    pub dev: bool,
    /// What of the configuration must be the same ([`Config::fixed`](crate::config::Config::fixed)).
    pub fixed: Vec<(String, String)>,
    /// What it reads besides: the first key of the node, and the secret of the cluster.
    pub secrets: [PathBuf; 2],
}

/// The next program and what it reads, as it was when it was looked at: which files, and when they were written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sight([Option<file::Look>; 4]);

impl Next {
    /// Looks at them.
    pub fn look(&self) -> Sight {
        let [key, secret] = &self.secrets;
        Sight([&self.program, &self.config, key, secret].map(|path| file::look(path)))
    }
}

/// The answer to a rehearsal: what the next program would get, or why there can be no restart now.
pub type Rehearsal = std::result::Result<OwnedFd, String>;

/// What has been asked for and not begun.
#[derive(Default)]
pub(super) struct Wishes {
    rehearsals: Vec<oneshot::Sender<Rehearsal>>,
    restart: Option<Restart>,
}

struct Restart {
    session: SessionId,
    request: u32,
    /// What was rehearsed with.
    sight: Sight,
    since: Instant,
}

/// Whether this is the moment.
enum May {
    Yes,
    NotNow(String),
    Never(&'static str),
}

impl Engine {
    pub(super) fn wish_rehearsal(&mut self, reply: oneshot::Sender<Rehearsal>) {
        self.wishes.rehearsals.push(reply);
    }

    pub(super) fn wish_restart(&mut self, now: Instant, (session, request): (SessionId, u32), sight: Sight) {
        if self.wishes.restart.is_some() {
            self.asked.remove(&(session, request));
            self.sessions.answered(session);
            return self.deny(session, request, Code::RestartRefused, "a restart is under way".into());
        }
        self.p.coordinator.send(ToControl::StepDown);
        self.wishes.restart = Some(Restart { session, request, sight, since: now });
    }

    /// When it is looked again at the latest whether a restart may begin.
    pub(super) fn restart_due(&self) -> Option<Instant> {
        let restart = self.wishes.restart.as_ref()?;
        let ends = WAIT.map(|wait| restart.since + wait);
        let now = clock::now();
        ends.into_iter().find(|end| *end > now).or(Some(now))
    }

    /// Does what was asked for, once everything else has been carried. Comes back if it was nothing, or came to nothing; true: there
    /// is something to be said.
    pub(super) fn restart(&mut self) -> bool {
        if self.wishes.rehearsals.is_empty() && self.wishes.restart.is_none() {
            return false;
        }
        let now = clock::now();
        for reply in std::mem::take(&mut self.wishes.rehearsals) {
            let rehearsal = match self.may_restart(now, Duration::ZERO) {
                May::Never(why) => Err(why.into()),
                // It would be forked while descriptors are being passed on.
                _ if self.wishes.restart.is_some() => Err("a restart is under way".into()),
                _ => exec::sealed(&self.parcel(now, None).to_bytes()).map_err(|e| e.to_string()),
            };
            // Whoever asked may have left meanwhile.
            let _ = reply.send(rehearsal);
        }
        let Some(restart) = &self.wishes.restart else { return false };
        let waited = now.since(restart.since);
        let left = if waited < WAIT[0] { LEFT_FRESH } else { LEFT_LEAST };
        let why = match self.may_restart(now, left) {
            May::Yes if self.p.next.look() != restart.sight => {
                "its program, configuration or keys were written since the next program has tried them".into()
            }
            May::Yes => self.replace(now, (restart.session, restart.request)).to_string(),
            May::NotNow(_) if waited < WAIT[1] => return false,
            May::NotNow(why) => why,
            May::Never(why) => why.into(),
        };
        let Restart { session, request, .. } = self.wishes.restart.take().expect("just looked at");
        self.asked.remove(&(session, request));
        self.sessions.answered(session);
        self.events.note(Level::Warn, Some(Code::RestartRefused), format!("not restarted: {why}"));
        self.deny(session, request, Code::RestartRefused, format!("the node goes on as it was: {why}"));
        true
    }

    fn may_restart(&self, now: Instant, least: Duration) -> May {
        if self.stopping.is_some() || self.leaving.is_some() || self.down.is_some() {
            return May::Never("it is stopping");
        }
        if self.p.node.has_ended() {
            return May::Never("its run has ended");
        }
        let status: Status = self.p.node.status(now);
        if !self.p.node.fences().is_empty() {
            return May::NotNow("somebody who left is still to be fenced".into());
        }
        if self.p.node.recovery().waits().is_some() || !status.can_serve() {
            return May::NotNow("it does not serve, or a change of the view is not complete".into());
        }
        if let Some((node, since)) = self.p.node.longest_unrenewed()
            && now.since(since) > UNRENEWED_MAX
        {
            let name = self.p.node.member_name(node).unwrap_or("a member");
            let (name, ms) = (name.to_owned(), now.since(since).as_millis());
            return May::NotNow(format!(
                "{name} has not renewed its lease for {ms} ms, and this would delay it"
            ));
        }
        if least == LEFT_FRESH
            && self.standing.leader == Some(self.p.node.me())
            && self.standing.voters.len() > 1
        {
            return May::NotNow("it leads the coordinator, and nobody else came to it".into());
        }
        match status.lease_left {
            // A renewal that is cut off on its way costs time that others need.
            Some(_) if least == LEFT_FRESH && !self.proposed.is_empty() => {
                May::NotNow("something that it proposed is not decided".into())
            }
            Some(left) if left >= least => May::Yes,
            Some(left) => May::NotNow(format!(
                "its lease is not renewed in time: {} ms of it are left",
                left.as_millis()
            )),
            None => May::NotNow("it has no lease yet".into()),
        }
    }

    /// Everything that goes along, as it is now.
    fn parcel(&self, now: Instant, asked_by: Option<(SessionId, u32)>) -> Parcel {
        let number = |fd: BorrowedFd<'_>| exec::number(fd);
        let p = &self.p;
        let descriptors = Descriptors {
            datagrams: number(p.datagrams.as_fd()),
            door: p.door.descriptors().map(number),
            data: number(p.data.lock()),
            lease: p.lease.descriptors().map(number),
            segments: p.segments.iter().map(|it| it.as_ref().map(|it| number(it.fd.as_fd()))).collect(),
            signals: p.signals.watched().map(|(signal, fd)| (signal, number(fd))).collect(),
            api: p.api.as_ref().map(|(at, fd)| (*at, number(fd.as_fd()))),
        };
        let bytes = |command: &Command| Bytes(command.to_bytes());
        let memory = Memory {
            since: now,
            asked_by,
            began: self.began,
            next_ticket: self.next_ticket,
            orphans: self.orphans.iter().copied().collect(),
            laid: self.laid.clone(),
            word: (p.last_word.node, p.last_word.incarnation, p.last_word.secret),
            registry: self.registry.as_ref().map(|registry| Bytes(registry.snapshot())),
            proposed: self.proposed.iter().map(bytes).collect(),
            asked: self.asked.clone(),
            events: self.events.written(),
            clocks: self.clocks.at_first(),
            sessions: self.sessions.written(&p.segments),
        };
        let words = p.node.words().map(|words| words.written()).collect();
        let of = (p.next.fixed.clone(), p.data.state().restored);
        Parcel::new(of, descriptors, memory, p.node.write(), words)
    }

    /// The next program takes the place of this one. Comes back only if it does not, and then nothing has changed.
    fn replace(&mut self, now: Instant, asked_by: (SessionId, u32)) -> std::io::Error {
        let failed = |what: &str, e: std::io::Error| std::io::Error::new(e.kind(), format!("{what}: {e}"));
        self.p.notify.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", clock::monotonic() / 1_000));
        if !self.p.keeper.restarts(true) {
            self.p.notify.tell("READY=1");
            return std::io::Error::other("its keeper does not listen");
        }
        let error = match exec::sealed(&self.parcel(now, Some(asked_by)).to_bytes()) {
            Ok(parcel) => self.execute(&parcel),
            Err(e) => failed("its state cannot be written", e),
        };
        if !self.p.keeper.restarts(false) {
            warn!("the keeper does not hear that this engine goes on");
        }
        self.p.notify.tell("READY=1");
        error
    }

    fn execute(&self, parcel: &OwnedFd) -> std::io::Error {
        let p = &self.p;
        let mut fds: Vec<BorrowedFd<'_>> = vec![parcel.as_fd(), p.datagrams.as_fd(), p.data.lock()];
        fds.extend(p.door.descriptors());
        fds.extend(p.lease.descriptors());
        fds.extend(p.segments.iter().flatten().map(|it| it.fd.as_fd()));
        fds.extend(p.signals.watched().map(|(_, fd)| fd));
        fds.extend(p.api.iter().map(|(_, fd)| fd.as_fd()));
        fds.extend(self.sessions.descriptors());
        let signals: Vec<i32> = p.signals.watched().map(|(number, _)| number).collect();
        let tried = || -> std::io::Result<std::io::Error> {
            exec::hold_back(&signals, true)?;
            if p.signals.pending() {
                return Ok(std::io::Error::other("a signal came"));
            }
            exec::pass(&fds, true)?;
            let number = exec::number(parcel.as_fd()).to_string();
            let mut args: Vec<&OsStr> = vec!["engine".as_ref(), "--config".as_ref(), p.next.config.as_ref()];
            args.extend(p.next.dev.then_some(OsStr::new("--dev")));
            args.extend(["--take-over", &number].map(OsStr::new));
            let e = exec::replace(&p.next.program, &args);
            Ok(std::io::Error::new(e.kind(), format!("{} cannot be run: {e}", p.next.program.display())))
        };
        let error = tried().unwrap_or_else(|e| e);
        let _ = exec::pass(&fds, false);
        let _ = exec::hold_back(&signals, false);
        error
    }

    // ----- the other side -------------------------------------------------------------------------------

    /// The engine that goes on from a parcel. Its node has been read already.
    pub fn resume(p: Parts, parcel: Parcel) -> Result<Engine> {
        let failed = |e: &dyn std::fmt::Display| {
            Problem::new(Code::Failed, "cannot go on with the run of the engine before").because(e)
        };
        let Parcel { version, memory, .. } = parcel;
        let (registry, proposed) = (memory.registry().map_err(|e| failed(&e))?, memory.commands());
        let proposed = proposed.map_err(|e| failed(&e))?;
        let mut engine = Engine::new(p)?;
        engine.began = memory.began;
        engine.next_ticket = memory.next_ticket;
        engine.orphans = memory.orphans.into();
        engine.laid = memory.laid;
        engine.clocks = clock::Apart::resume(memory.clocks);
        engine.events.resume(memory.events);
        engine
            .sessions
            .resume(&mut *engine.p.poll, memory.sessions, &engine.p.segments, &engine.p.lease)
            .map_err(|e| failed(&e))?;
        if let Some(registry) = registry.map(Arc::new) {
            engine.give(&registry);
            engine.p.coordinator.shown(&registry);
            engine.registry = Some(registry);
        }
        for command in proposed {
            engine.propose(command);
        }
        if !engine.p.keeper.restarts(false) {
            warn!("the keeper does not hear that this engine serves");
        }
        engine.say_restarted(&version, memory.since, memory.asked, memory.asked_by);
        Ok(engine)
    }

    fn say_restarted(
        &mut self,
        before: &str,
        since: Instant,
        asked: std::collections::BTreeSet<(SessionId, u32)>,
        asked_by: Option<(SessionId, u32)>,
    ) {
        let now = clock::now();
        let stood_still = now.since(since);
        let version = env!("CARGO_PKG_VERSION");
        let text = format!(
            "restarted with all locks kept: nobody served for {} ms, oarlock {before} before, {version} now",
            stood_still.as_millis()
        );
        self.events.note(Level::Info, None, text);
        let status = self.p.node.status(now);
        let done = doc::Restarted {
            v: doc::VERSION,
            node: status.node,
            incarnation: status.incarnation.0,
            before: before.into(),
            now: version.into(),
            stood_still_us: stood_still.as_micros() as u64,
            sessions: self.sessions.len() as u64,
        };
        for (session, request) in asked {
            if Some((session, request)) == asked_by {
                self.answer(session, request, Answer::Document(console::restarted(&done)));
            } else {
                // Its console has gone with the program before.
                let text = "the node was restarted while it answered; if a change was asked for, what came of it is not known";
                self.deny(session, request, Code::OutcomeUnknown, text.into());
            }
        }
        info!("{} sessions go on", self.sessions.len());
    }

    /// Asks the coordinator for something that the node wants, and remembers it until there is an answer.
    pub(super) fn propose(&mut self, command: Command) {
        if !self.proposed.contains(&command) {
            self.proposed.push(command.clone());
        }
        self.p.coordinator.send(ToControl::Propose(command));
    }
}
