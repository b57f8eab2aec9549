//! The engine: one thread that owns the [`Node`] and everything that reaches it.
//!
//! ```text
//!            ┌─────────────────────────── one turn ───────────────────────────┐
//!   wait ───►│ datagrams, programs, console, signals, timer ─► Node ─► outputs │───► wait
//!            │                             bells ─┘   datagrams leave first, then │
//!            │                                     programs get their replies  │
//!            └────────────────────────────────────────────────────────────────┘
//! ```
//!
//! There is one place to wait ([`Poll`]) and one place where outputs are carried. Datagrams go before replies:
//! somebody far away waits longest. Nothing here blocks but the wait, and the write of a new epoch, which
//! happens while nothing can be granted anyway.
//!
//! Bells are no descriptors: programs ring them in segments, and knock at their session only if the engine sleeps. So it
//! looks at them in every turn, and says that it sleeps before it waits.

mod complaints;
mod control;
mod coordination;
mod events;
mod fencing;
mod forgotten;
mod gasp;
mod leaving;
pub mod parcel;
mod restart;
mod segments;
mod sessions;
mod stamps;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use oarlock_cluster::fencing::Fence;
use oarlock_cluster::registry::{Command, Registry};
use oarlock_layout::codec::Wire;
use oarlock_layout::id::{SessionId, SpaceId};
use oarlock_layout::message::join;
use oarlock_layout::message::session::{self as message, Attached, Failure, PIECE_BYTES_MAX, Reply};
use oarlock_layout::segment;
use oarlock_layout::time::Instant;
use oarlock_node::{Node, Output};
use oarlock_shm::LeaseNote;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use complaints::Complaints;
pub use control::{Answer, Asked, Control, Link, Looked, Proposed, Snapshot};
pub use coordination::Ending;
use coordinator::control::ToControl;
use events::Events;
pub use events::{EVENTS_MAX, Level, Noted};
use leaving::Leaving;
pub use restart::{Next, Rehearsal, Sight};
pub use segments::Segment;
use sessions::{Flow, Sessions};
use stamps::Stamping;

use crate::config::{Rights, Shared};
use crate::coordinator;
use crate::coordinator::raft::Standing;
use crate::host::clock;
use crate::host::datagrams::Datagrams;
use crate::host::door::{self, Door, Opener};
use crate::host::notify::Notify;
use crate::host::poll::{Poll, Ready};
use crate::host::signals::Signals;
use crate::host::spin::Spin;
use crate::host::state::{DataDir, State};
use crate::host::wake::Wake;
use crate::keeper::{Keeper, LastWord};
use crate::problem::{Problem, Result};
use oarlock_layout::code::Code;

/// What is watched besides sessions, whose tokens begin behind these.
const UDP: u64 = 0;
const DOOR: u64 = 1;
const WAKE: u64 = 2;
const SIGNALS: u64 = 3;
const KEEPER: u64 = 15;
const FIRST_SESSION: u64 = 16;

/// How long programs that held locks may take to hear that they are lost and to hang up, before the node
/// stops without giving its run up. `oarlock lock` gives its command 2 s.
const STOP_MAX: Duration = Duration::from_millis(3_500);
/// After the process ran out of descriptors and could not even refuse, the door stays unwatched this long:
/// otherwise it would be reported ready for ever.
const DOOR_PAUSE: Duration = Duration::from_millis(100);
/// How long a session may outlive the process that opened it, if somebody else keeps its socket open. The guard of
/// `oarlock lock` does, for as long as it takes to kill what the command has started; a helper that the process
/// had forked would do so for ever.
const ORPHAN_MAX: Duration = Duration::from_secs(1);
/// Questions of one session that are not answered yet.
const QUESTIONS_MAX: u32 = 8;

/// Everything the engine is made of.
pub struct Parts {
    /// What decides.
    pub node: Node,
    /// The segments of its lockspaces; none for one whose programs ask for every lock.
    pub segments: Vec<Option<Arc<Segment>>>,
    /// Until when its lease lasts, for every program to see.
    pub lease: Arc<LeaseNote>,
    /// What was found wrong at the start and did not keep it from starting.
    pub problems: Vec<(Code, String)>,
    /// Where it waits.
    pub poll: Box<dyn Poll>,
    /// How it waits.
    pub spin: Spin,
    /// The UDP socket.
    pub datagrams: Datagrams,
    /// From where nothing is to be heard: `oarlock dev` cuts its nodes off from each other so.
    pub deaf: BTreeSet<SocketAddr>,
    /// The Unix socket.
    pub door: Door,
    /// Who may enter by it, and as whom.
    pub rights: Rights,
    /// What all members must agree on.
    pub shared: Shared,
    /// What outlives a run.
    pub data: DataDir,
    /// SIGTERM and the like.
    pub signals: Signals,
    /// Holds what is to be ended when this process dies.
    pub keeper: Keeper,
    /// What it is to say then. Laid down when this run is in a view, with whom it goes to.
    pub last_word: LastWord,
    /// The service manager.
    pub notify: Notify,
    /// Rung by the console and by the coordinator.
    pub wake: Wake,
    /// What keeps departed nodes from doing harm.
    pub fence: Box<dyn Fence>,
    /// How many are to found the cluster, this one included, and no etcd says whether there is one. 0 if this one has joined.
    pub founders: usize,
    /// etcd decides, and not the members.
    pub relies_on_etcd: bool,
    /// This node's coordinator.
    pub coordinator: coordinator::control::Link,
    /// Takes the registry whenever something was applied to it, and the node has seen that.
    pub applied: tokio::sync::watch::Sender<Arc<Registry>>,
    /// What the console wants.
    pub control: Receiver<Control>,
    /// Where questions of people go.
    pub asked: tokio::sync::mpsc::UnboundedSender<Asked>,
    /// Where questions of machines go that are no members yet. What finds no room is lost: whoever asks repeats it.
    pub knocks: tokio::sync::mpsc::Sender<Knock>,
    /// Where pages are served over HTTP, if anywhere: the console listens there, and the next program may.
    pub api: Option<(SocketAddr, OwnedFd)>,
    /// Which program takes the place of this one, if one is to.
    pub next: Next,
}

/// What a machine that is no member sent, and from where.
pub type Knock = (SocketAddr, Vec<u8>);

/// A running node. Make it with [`Engine::new`], then [`run`](Engine::run) it.
pub struct Engine {
    p: Parts,
    sessions: Sessions,
    began: Instant,
    next_ticket: u64,
    looks: BTreeMap<u64, Looked>,
    stamping: Stamping,
    /// What programs hear of this turn, kept back until the datagrams have left.
    replies: Vec<Said>,
    closes: Vec<SessionId>,
    /// Sessions whose opener has ended, and when they end with it (M12). In the order of time.
    orphans: VecDeque<(Instant, SessionId)>,
    door_paused_until: Option<Instant>,
    /// When the service manager wants the next sign of life.
    alive_at: Option<Instant>,
    complaints: Complaints,
    stopping: Option<Stopping>,
    /// The keeper has heard that this run has ended by itself.
    says_again: bool,
    /// Set once the node leaves its cluster.
    leaving: Option<Leaving>,
    /// To whom the last word goes that the keeper has.
    laid: Option<Vec<SocketAddr>>,
    /// Who leads and votes in the coordinator, as far as this node knows.
    standing: Standing,
    /// What it has decided, as far as this node has seen it.
    registry: Option<Arc<Registry>>,
    /// What people asked for and the coordinator has not answered yet.
    by_hand: Vec<(Command, oneshot::Sender<Proposed>)>,
    /// The same of what the node itself proposed.
    proposed: Vec<Command>,
    /// Questions of sessions that the console has and has not answered.
    asked: BTreeSet<(SessionId, u32)>,
    wishes: restart::Wishes,
    events: Events,
    /// How far apart its two clocks are (L9).
    clocks: clock::Apart,
    /// The coordinator cannot go on.
    down: Option<Problem>,
}

/// What a program hears.
enum Said {
    Reply { session: SessionId, packet: Vec<u8> },
    Hint { session: SessionId, packet: Vec<u8> },
    Attached { session: SessionId, space: SpaceId, attached: Attached },
    Wake { space: SpaceId, wake: segment::Wake },
}

/// A node that is on its way out.
struct Stopping {
    /// No longer than this.
    until: Instant,
    /// Whom it waits for.
    run: oarlock_cluster::Stopping,
    /// Another is asked to lead the coordinator.
    steps_down: bool,
}

impl Engine {
    /// Begins to watch everything.
    pub fn new(mut p: Parts) -> Result<Engine> {
        let fail = |e: io::Error| Problem::io(Code::Failed, "cannot watch the sockets", &e);
        p.poll.add(&p.datagrams, UDP).map_err(fail)?;
        p.poll.add(&p.door, DOOR).map_err(fail)?;
        p.poll.add(&p.wake, WAKE).map_err(fail)?;
        p.poll.add(&p.keeper, KEEPER).map_err(fail)?;
        for (i, (_, fd)) in p.signals.watched().enumerate() {
            assert!(SIGNALS + (i as u64) < KEEPER, "few signals are caught");
            p.poll.add(&fd, SIGNALS + i as u64).map_err(fail)?;
        }
        Ok(Engine {
            p,
            sessions: Sessions::new(FIRST_SESSION).map_err(fail)?,
            began: clock::now(),
            next_ticket: 1,
            looks: BTreeMap::new(),
            stamping: Stamping::default(),
            replies: Vec::new(),
            closes: Vec::new(),
            orphans: VecDeque::new(),
            door_paused_until: None,
            alive_at: None,
            complaints: Complaints::default(),
            stopping: None,
            says_again: false,
            leaving: None,
            laid: None,
            standing: Standing::default(),
            registry: None,
            by_hand: Vec::new(),
            proposed: Vec::new(),
            asked: BTreeSet::new(),
            wishes: restart::Wishes::default(),
            events: Events::default(),
            clocks: clock::Apart::default(),
            down: None,
        })
    }

    /// Runs until a signal, the console or its own end.
    pub fn run(mut self) -> Result<Ending> {
        let mut ready = Vec::with_capacity(256);
        let mut more_bells = false;
        self.coordinate(clock::now());
        // Not later: whether it serves depends on other members, which the manager may start after this one.
        match self.p.node.recovery().epoch() {
            oarlock_layout::id::Epoch(0) => self.p.notify.tell("READY=1\nSTATUS=not in a view yet"),
            _ => self.p.notify.tell("READY=1"),
        }
        self.tell_alive(clock::now());
        loop {
            self.carry()?;
            if self.ended() {
                return self.finish();
            }
            if self.give_up() {
                // Nothing else may come that would wake the engine: a node alone has no peers.
                self.carry()?;
            }
            if self.restart() {
                self.carry()?;
            }
            // After the end of a run nobody answers bells.
            let asleep = self.p.node.has_ended() || (!more_bells && self.p.node.fall_asleep());
            let timeout = if asleep { self.timeout() } else { Some(Duration::ZERO) };
            self.p
                .spin
                .wait(&mut *self.p.poll, timeout, &mut ready)
                .map_err(|e| Problem::io(Code::Failed, "cannot wait", &e))?;
            self.p.node.wake_up();
            more_bells = self.turn(&ready)?;
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let stop = self.stopping.as_ref().map(|s| s.until);
        let orphan = self.orphans.front().map(|(until, _)| *until);
        let restart = self.restart_due();
        let at = [self.p.node.poll_timeout(), self.door_paused_until, self.alive_at, stop, orphan, restart];
        let at = at.into_iter().flatten().min()?;
        Some(at.since(clock::now()))
    }

    /// Takes in all that is ready. True if more bells may have been rung than were answered.
    fn turn(&mut self, ready: &[Ready]) -> Result<bool> {
        let now = clock::now();
        if let Some(by) = self.clocks.look(now, clock::both) {
            self.p.node.handle_suspended(now, by);
        }
        for r in ready {
            match r.token {
                UDP => {
                    let (node, deaf, knocks) = (&mut self.p.node, &self.p.deaf, &self.p.knocks);
                    let took = self.p.datagrams.receive(|from, datagram| {
                        // Empty but in `oarlock dev`.
                        if !deaf.is_empty() && deaf.contains(&from) {
                            return;
                        }
                        match join::is_question(datagram) {
                            // Read elsewhere: what a stranger asks never delays a grant.
                            true => {
                                if let Ok(room) = knocks.try_reserve() {
                                    room.send((from, datagram.to_vec()));
                                }
                            }
                            false => node.handle_datagram(now, from, datagram),
                        }
                    });
                    if let Err(e) = took {
                        warn!("receiving datagrams: {e}");
                    }
                }
                DOOR => self.open_door(now),
                WAKE => {
                    self.p.wake.clear();
                    while let Ok(control) = self.p.control.try_recv() {
                        self.control(now, control);
                    }
                    self.coordinate(now);
                    self.hear_of_fences(now);
                }
                KEEPER => {
                    while let Some(run) = self.p.keeper.poll_given_up() {
                        info!(
                            "run {run} of this node was given up by its keeper; nobody acts under its locks"
                        );
                        self.p.node.handle_given_up(now, run);
                    }
                }
                token if token < FIRST_SESSION => self.signal(now),
                token => self.session_ready(now, token, *r),
            }
        }
        while let Some(&(until, session)) = self.orphans.front()
            && until <= now
        {
            self.orphans.pop_front();
            if self.sessions.lives(session) {
                info!(
                    "session {session} ends with the process that opened it, though its socket is still open"
                );
                self.hang_up(now, session);
            }
        }
        if self.alive_at.is_some_and(|at| at <= now) {
            self.tell_alive(now);
        }
        if self.door_paused_until.is_some_and(|at| at <= now) {
            self.door_paused_until = None;
            self.p.poll.add(&self.p.door, DOOR).map_err(|e| Problem::io(Code::Failed, "cannot watch", &e))?;
        }
        let more_bells = self.p.node.handle_bells(now);
        if self.p.node.poll_timeout().is_some_and(|at| at <= now) {
            self.p.node.handle_timeout(now);
        }
        Ok(more_bells)
    }

    /// Carries everything the node has to say: datagrams at once, replies behind them.
    fn carry(&mut self) -> Result<()> {
        let now = clock::now();
        loop {
            for session in self.sessions.ended() {
                self.p.node.handle_opener_ended(session);
            }
            while let Some(output) = self.p.node.poll_output(now) {
                match output {
                    Output::Transmit(t) => self.p.datagrams.send(t.to, &t.bytes, t.segment),
                    Output::Reply { session, packet } => self.replies.push(Said::Reply { session, packet }),
                    Output::Hint { session, packet } => self.replies.push(Said::Hint { session, packet }),
                    Output::Attached { session, space, attached } => {
                        self.replies.push(Said::Attached { session, space, attached });
                    }
                    Output::Wake { space, wake } => self.replies.push(Said::Wake { space, wake }),
                    Output::Close { session } => self.closes.push(session),
                    Output::Asked { session, request, question } => self.ask(session, request, question),
                    Output::Looked { ticket, seen } => {
                        if let Some(reply) = self.looks.remove(&ticket) {
                            reply(self.p.node.member_names(), seen);
                        }
                    }
                    Output::Store { epoch } => {
                        // Only a view with this run in it is stored, and before anything is granted under it.
                        self.lay_down(now)?;
                        // Programs may have taken every descriptor before the node serves.
                        let data = &mut self.p.data;
                        data.refuse_older(epoch)?;
                        self.sessions.with_spare(|| data.store(data.state().accepting(epoch)))?;
                    }
                    Output::Carried { from, message } => {
                        self.p.coordinator.send(ToControl::Carried { from, message });
                    }
                    Output::Propose(command) => self.propose(command),
                    Output::Lease { until } => self.lease(until),
                    Output::StoreCeiling { ceiling } => {
                        let data = &mut self.p.data;
                        self.sessions.with_spare(|| data.store(State { ceiling, ..data.state() }))?;
                        self.p.node.handle_ceiling_stored(now, ceiling);
                    }
                    Output::Fence(charge) => self.fence(now, charge),
                    Output::Event(event) => {
                        self.refused_as_stranger(&event);
                        self.log(now, &event);
                    }
                }
            }
            if self.stamping.issue(&mut self.p.node, now) {
                continue;
            }
            if self.replies.is_empty() && self.closes.is_empty() {
                return Ok(());
            }
            if !self.closes.is_empty()
                && self.stopping.is_none()
                && self.p.node.has_ended()
                && !self.says_again
            {
                // Before them: the keeper would take the closes for the programs' own hanging up, and nobody waits here
                // for what runs under their locks.
                self.says_again = true;
                self.p.keeper.again()?;
            }
            for said in std::mem::take(&mut self.replies) {
                self.say(now, said);
            }
            for session in std::mem::take(&mut self.closes) {
                if self.leaving.as_ref().is_some_and(|leaving| leaving.session == session) {
                    // Whoever asked to leave hears what came of it.
                    continue;
                }
                // A node that stops waits for programs with locks to hang up: only then are they known to
                // have heard.
                let linger = self.stopping.as_ref().is_some_and(|s| s.run.awaits(session));
                self.sessions.close(&mut *self.p.poll, session, linger);
            }
            // Closing a session that does not read gave the node something new to say.
        }
    }

    fn say(&mut self, now: Instant, said: Said) {
        let (session, flow) = match said {
            // Every program can look at the lease, whatever becomes of the node.
            Said::Reply { session, packet } if message::is_welcome(&packet) => {
                let lease = Arc::clone(&self.p.lease);
                (session, self.sessions.send_lease(&mut *self.p.poll, session, packet, lease))
            }
            Said::Reply { session, packet } => {
                (session, self.sessions.send(&mut *self.p.poll, session, packet))
            }
            Said::Attached { session, space, .. } if !self.sessions.lives(session) => {
                return self.p.node.handle_not_attached(session, space);
            }
            Said::Attached { session, space, mut attached } => {
                let segment = self.segment(space);
                // The program compares it with what its own clock says before it asks and after it hears.
                attached.now = clock::monotonic();
                let packet = Reply::Attached(attached).to_bytes();
                (session, self.sessions.send_segment(&mut *self.p.poll, session, packet, segment))
            }
            Said::Hint { session, packet } => return self.sessions.send_hint(session, &packet),
            Said::Wake { space, wake } => return self.segment(space).wake(wake),
        };
        if flow == Flow::Broken {
            warn!("session {session} does not read its replies; it is closed");
            self.hang_up(now, session);
        }
    }

    fn segment(&self, space: SpaceId) -> Arc<Segment> {
        self.p.segments[space.0 as usize].clone().expect("only a segment has places and sleepers")
    }

    fn open_door(&mut self, now: Instant) {
        // As many as there are, within a bound: a crowd at the door must not keep the others waiting.
        for _ in 0..64 {
            match self.p.door.accept() {
                Ok(None) => return,
                Ok(Some((fd, caller))) => {
                    let who = self.p.rights.who(&caller);
                    if !self.p.rights.admits(&who) {
                        info!("refused uid {} (pid {})", caller.uid, caller.pid);
                        let text = format!(
                            "uid {} is neither root, nor the node's user, nor of its socket's group, and no lockspace is given to it",
                            caller.uid
                        );
                        sessions::refuse(&fd, Code::SocketDenied, text);
                        continue;
                    }
                    let (opener, gone) = match door::opener(&fd, &caller) {
                        Ok(Opener::Watched(opener)) => (Some(opener), false),
                        Ok(Opener::Gone) => (None, true),
                        Ok(Opener::Unseen) => (None, false),
                        Err(_) => {
                            self.sessions.refuse_one_too_many(&fd);
                            continue;
                        }
                    };
                    // Before anything can be asked for in it.
                    if !self.p.keeper.session(&fd) {
                        let text = "the node's keeper stands still and takes nobody in";
                        sessions::refuse(&fd, Code::NotServing, text.into());
                        continue;
                    }
                    match self.sessions.open(&mut *self.p.poll, fd, opener, gone) {
                        Ok(session) => {
                            self.p.node.handle_session_opened(now, session, caller.pid, who);
                            if gone {
                                self.orphans.push_back((now + ORPHAN_MAX, session));
                            }
                        }
                        Err(e) => warn!("cannot watch a session: {e}"),
                    }
                }
                Err(e) => {
                    if !self.sessions.refuse_for_want_of_descriptors(&self.p.door, &e) {
                        error!("cannot accept: {e}; no program can attach for a moment");
                        let _ = self.p.poll.remove(&self.p.door);
                        self.door_paused_until = Some(now + DOOR_PAUSE);
                        return;
                    }
                }
            }
        }
    }

    fn session_ready(&mut self, now: Instant, token: u64, ready: Ready) {
        if let Some(session) = self.sessions.by_opener(token) {
            self.sessions.opener_ended(&mut *self.p.poll, session);
            if self.sessions.lives(session) {
                self.orphans.push_back((now + ORPHAN_MAX, session));
            }
            return;
        }
        let Some(session) = self.sessions.by_token(token) else { return };
        if ready.writable && self.sessions.flush(&mut *self.p.poll, session) == Flow::Broken {
            self.hang_up(now, session);
            return;
        }
        if ready.readable {
            let node = &mut self.p.node;
            let flow =
                self.sessions.receive(session, |packet| node.handle_session_packet(now, session, packet));
            if flow == Flow::Broken {
                self.hang_up(now, session);
            }
        }
    }

    /// The program is gone, or is treated so.
    fn hang_up(&mut self, now: Instant, session: SessionId) {
        if self.p.node.has_detached(session) {
            self.sessions.detached(session);
        }
        self.p.node.handle_session_closed(now, session);
        let of_it = |request| (session, request);
        let asked: Vec<_> = self.asked.range(of_it(0)..=of_it(u32::MAX)).copied().collect();
        asked.iter().for_each(|it| _ = self.asked.remove(it));
        self.sessions.forget(&mut *self.p.poll, session);
        if let Some(stopping) = &mut self.stopping {
            stopping.run.hung_up(session);
        }
    }

    fn signal(&mut self, now: Instant) {
        for number in self.p.signals.take() {
            match number {
                SIGTERM | SIGINT => self.stop(now),
                SIGHUP => self.reload(),
                _ => {}
            }
        }
    }

    /// Nothing can be read anew while a node runs; whoever waits for it is told that it is done.
    fn reload(&self) {
        let now = clock::monotonic() / 1_000;
        self.p.notify.tell(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
        info!("SIGHUP: nothing can be changed while a node runs");
        self.p.notify.tell("READY=1");
    }

    /// From here, and from nowhere else: a loop that hangs says nothing, and the manager ends it.
    fn tell_alive(&mut self, now: Instant) {
        if let Some(every) = self.p.notify.every() {
            self.p.notify.tell("WATCHDOG=1");
            self.alive_at = Some(now + every);
        }
    }

    fn stop(&mut self, now: Instant) {
        if self.stopping.is_some() {
            return;
        }
        self.p.notify.tell("STOPPING=1");
        let text = "stopping: every session is told that its locks are gone";
        self.events.note(Level::Info, None, text.into());
        // Whoever comes now is told by the kernel that nobody listens, which is true.
        self.door_paused_until = None;
        let _ = self.p.poll.remove(&self.p.door);
        let ended = self.p.node.has_ended();
        let run = oarlock_cluster::Stopping::new(self.p.node.stop(now), ended);
        // Before the others need a leader to decide that this node is out.
        let steps_down = self.down.is_none();
        if steps_down {
            self.p.coordinator.send(ToControl::StepDown);
        }
        self.stopping = Some(Stopping { until: now + STOP_MAX, run, steps_down });
    }

    // ----- the console ----------------------------------------------------------------------------------

    fn ask(&mut self, session: SessionId, request: u32, question: String) {
        if !self.sessions.may_ask(session, QUESTIONS_MAX) {
            let text = format!(
                "{QUESTIONS_MAX} questions of this session wait for an answer, or answers to be read"
            );
            self.deny(session, request, Code::Failed, text);
            return;
        }
        // It asks, so it is open; if it has been closed since, nobody waits for the answer.
        let Some(permit) = self.p.node.permit(session) else { return };
        self.asked.insert((session, request));
        if self.p.asked.send(Asked { session, request, question, permit }).is_err() {
            self.asked.remove(&(session, request));
            let text = "nobody answers questions any more; the node is stopping".into();
            self.deny(session, request, Code::NotServing, text);
        }
    }

    fn control(&mut self, now: Instant, control: Control) {
        match control {
            // Whoever asked may have left meanwhile.
            Control::Snapshot(reply) => _ = reply.send(self.snapshot(now)),
            Control::Transmit { to, bytes } => self.p.datagrams.send(to, &bytes, None),
            Control::Rehearse(reply) => self.wish_rehearsal(reply),
            Control::Restart { asked_by, sight } => self.wish_restart(now, asked_by, sight),
            Control::Leave { session, request, document } => self.leave(now, session, request, document),
            Control::Propose { command, text, reply } => {
                self.events.note(Level::Info, None, text);
                self.by_hand.push((command.clone(), reply));
                self.p.coordinator.send(ToControl::Propose(command));
            }
            Control::Stamp { count, reply } => self.stamping.ask(count, reply),
            Control::RenewKeys => self.p.node.renew_keys(now),
            Control::OldestKeys(reply) => {
                _ = reply.send((self.p.node.has_entered(), self.p.node.oldest_keys()))
            }
            Control::Deafen { from, reply } => {
                let text = format!("as somebody wishes, {} members are not heard", from.len());
                self.events.note(Level::Warn, None, text);
                self.p.deaf = from;
                let _ = reply.send(());
            }
            Control::Purge { space, prefix, pid, reply } => {
                let purged = self.p.node.purge(now, space, &prefix, pid);
                if purged > 0 {
                    let text = format!("as somebody wishes, {purged} orphans are given back");
                    self.events.note(Level::Info, None, text);
                }
                let _ = reply.send(purged);
            }
            Control::Branch { space, step, reply } => {
                let _ = reply.send(self.p.node.branch(now, space, &step));
            }
            Control::Events { after, reply } => _ = reply.send(self.events.after(after)),
            Control::Look { space, at, reply } => {
                let ticket = self.next_ticket;
                self.next_ticket += 1;
                self.looks.insert(ticket, reply);
                self.p.node.look(now, ticket, space, at);
            }
            Control::Answer { session, request, answer } => {
                self.sessions.answered(session);
                self.asked.remove(&(session, request));
                self.answer(session, request, answer);
            }
        }
    }

    fn snapshot(&self, now: Instant) -> Snapshot {
        let node = &self.p.node;
        let mut counters = node.counters();
        counters.extend(self.counters());
        let mut status = node.status(now);
        status.problems.extend(self.p.problems.iter().cloned());
        Snapshot {
            segments: self.p.segments.iter().map(Option::is_some).collect(),
            now,
            began: self.began,
            status,
            counters,
            view: node.recovery().view().clone(),
            failovers: node.failovers().cloned().collect(),
            deadlocks: node.deadlocks().map(|(at, broken)| (at, broken.clone())).collect(),
            waits: node.recovery().waits(),
            registry: self.registry.clone(),
            standing: self.standing.clone(),
        }
    }

    /// A reply like any other: whoever goes on asking without reading is soon given up.
    fn deny(&mut self, session: SessionId, request: u32, code: Code, text: String) {
        let packet = Reply::Denied { request, why: Failure { code, text } }.to_bytes();
        self.replies.push(Said::Reply { session, packet });
    }

    fn answer(&mut self, session: SessionId, request: u32, answer: Answer) {
        let packets: Vec<Vec<u8>> = match answer {
            Answer::Denied(code, text) => return self.deny(session, request, code, text),
            Answer::Document(text) => {
                let pieces = text.as_bytes().chunks(PIECE_BYTES_MAX).collect::<Vec<_>>();
                let last = pieces.len().saturating_sub(1);
                let piece = |(i, bytes): (usize, &&[u8])| {
                    Reply::Answer { request, more: i < last, bytes: bytes.to_vec() }.to_bytes()
                };
                pieces.iter().enumerate().map(piece).collect()
            }
        };
        if self.sessions.send_answer(&mut *self.p.poll, session, packets) == Flow::Broken {
            let now = clock::now();
            self.hang_up(now, session);
        }
    }

    fn counters(&self) -> Vec<oarlock_node::Counter> {
        let d = self.p.datagrams.counts();
        let s = self.sessions.counts();
        let spin = self.p.spin.counts();
        let counter = |name, help, value| oarlock_node::Counter { name, help, value };
        vec![
            counter("udp_sent", "Datagrams handed to the kernel", d.sent),
            counter("udp_trains_sent", "Trains of datagrams handed over in one call", d.trains_sent),
            counter("udp_send_errors", "Sends that failed; the circuits repair them", d.send_errors),
            counter("udp_gso_refused", "Trains the kernel refused and that went one by one", d.gso_refused),
            counter("udp_received", "Datagrams received", d.received),
            counter("udp_trains_received", "Trains that the kernel had joined", d.trains_received),
            counter("sessions_opened", "Programs that attached", s.opened),
            counter("sessions_overflowed", "Sessions closed because they did not read", s.overflowed),
            counter("hints_dropped", "Hints for which a program's socket had no room", s.hints_dropped),
            counter(
                "sessions_without_descriptor",
                "Programs refused for want of descriptors",
                s.without_descriptor,
            ),
            counter("engine_sleeps", "Times the engine slept", spin.sleeps),
            counter("engine_spins", "Times the engine looked again for a moment before it slept", spin.spins),
            counter("engine_spin_hits", "Of these, times something came", spin.hits),
        ]
    }
}
