//! The hall.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::SocketAddr;

use oarlock_circuit::{Circuits, Class, Peer, SendError, Transmit};
use oarlock_cluster::{Forming, FormingConfig, Hearing, LogicalClock};
use oarlock_layout::code::Code;
use oarlock_layout::codec::Wire;
use oarlock_layout::directory;
use oarlock_layout::id::{Epoch, LockId, NodeId, SessionId, SpaceId};
use oarlock_layout::limit::{BACKLOG_BYTES_MAX, SERIAL_WARN, SESSION_LOCKS_MAX, SESSIONS_MAX};
use oarlock_layout::message::form::Phase;
use oarlock_layout::message::lock::Packet;
use oarlock_layout::message::look::{At, Look, Party, Seen, What};
use oarlock_layout::message::peer::PeerMessage;
use oarlock_layout::message::session::{self, Failure, Granted, Reply, Request};
use oarlock_layout::name::Name;
use oarlock_layout::seal::Seal;
use oarlock_layout::segment::Words;
use oarlock_layout::time::{Duration, Instant};
use oarlock_layout::view::View;
use oarlock_lock::{Convert, Counters as LockCounters, Lock, Lockspace, Unlock};

use crate::config::Config;
use crate::event::Event;
use crate::question::{Question, Questions};
use crate::session::Sessions;
use crate::status::{Counter, MemberStatus, SpaceStatus, Status};
use crate::text;

/// What leaves a node.
#[derive(Debug)]
pub enum Output {
    /// Datagrams for the network. Send these first: somebody far away waits longest.
    Transmit(Transmit),
    /// A packet for a program.
    Reply {
        /// Which session.
        session: SessionId,
        /// An encoded [`Reply`].
        packet: Vec<u8>,
    },
    /// Close the session's socket, after what was said before. It is over here already.
    Close {
        /// Which session.
        session: SessionId,
    },
    /// A program asks a question for a person; answer with pieces of [`Reply::Answer`], or `Denied`.
    Asked {
        /// Which session.
        session: SessionId,
        /// Its number for the question.
        request: u32,
        /// JSON.
        question: String,
    },
    /// What the members see, as far as they answered in time.
    Looked {
        /// As given to [`Node::look`].
        ticket: u64,
        /// By node.
        seen: Vec<(NodeId, Option<Seen>)>,
    },
    /// Make the epoch durable and clear the clean mark, then call [`Node::handle_stored`].
    Store {
        /// Which epoch.
        epoch: Epoch,
    },
    /// For the log.
    Event(Event),
}

/// One node of a cluster.
///
/// The calling contract, as for a room: after each `handle_*` call drain [`poll_output`](Node::poll_output) to
/// `None`, then call [`handle_timeout`](Node::handle_timeout) no later than
/// [`poll_timeout`](Node::poll_timeout). Several inputs may be handed in before outputs are drained; what
/// they cause then shares datagrams.
pub struct Node {
    config: Config,
    clock: LogicalClock,
    circuits: Circuits,
    forming: Forming,
    hearing: Hearing,
    spaces: Vec<Space>,
    sessions: Sessions,
    questions: Questions,
    /// Lock messages of the view that is about to be served here: a peer may hear of the commit earlier.
    early: Vec<(NodeId, Packet)>,
    /// A node that ended its run takes nothing more in.
    ended: bool,
    outputs: VecDeque<Output>,
}

struct Space {
    locks: Lockspace,
    words: Box<dyn Words + Send>,
}

/// More early messages than this are no matter of timing: the peer has served for long.
const EARLY_MAX: usize = 1 << 16;

impl Node {
    /// A node that has just started. `words` has one entry for each lockspace of the configuration.
    pub fn new(
        now: Instant,
        config: Config,
        seal: Box<dyn Seal + Send>,
        words: Vec<Box<dyn Words + Send>>,
    ) -> Node {
        assert_eq!(words.len(), config.spaces.len(), "one Words for each lockspace");
        assert!((config.me.0 as usize) < config.nodes.len(), "this node is a member");
        assert_eq!(config.shards, 1, "one engine, for now");
        let ids = || (0..config.nodes.len()).map(|n| NodeId(n as u16));
        let peers =
            ids().zip(&config.nodes).map(|(node, n)| Peer { node, address: n.address, key: n.key }).collect();
        let circuits = Circuits::new(
            now,
            oarlock_circuit::Config {
                me: config.me,
                incarnation: config.incarnation,
                cluster: config.cluster.clone(),
                shared: config.shared,
                peers,
                seed: config.seed,
                options: config.circuits,
            },
            seal,
        );
        let forming = Forming::new(
            now,
            FormingConfig {
                me: config.me,
                incarnation: config.incarnation,
                members: ids().collect(),
                stored: config.stored,
                clean: config.clean,
            },
        );
        let spaces = (config.spaces.iter().zip(words).enumerate())
            .map(|(index, (space, words))| {
                let lock_config = oarlock_lock::Config {
                    space: SpaceId(index as u16),
                    me: config.me,
                    order: space.order,
                    retain: space.retain,
                    forget_after: config.forget_after,
                };
                #[cfg(feature = "planted")]
                let locks = match config.bug {
                    Some(bug) => Lockspace::with_bug(lock_config, bug),
                    None => Lockspace::new(lock_config),
                };
                #[cfg(not(feature = "planted"))]
                let locks = Lockspace::new(lock_config);
                Space { locks, words }
            })
            .collect();
        Node {
            config,
            clock: LogicalClock::new(),
            circuits,
            forming,
            hearing: Hearing::new(),
            spaces,
            sessions: Sessions::default(),
            questions: Questions::default(),
            early: Vec::new(),
            ended: false,
            outputs: VecDeque::new(),
        }
    }

    // ----- inputs ---------------------------------------------------------------------------------------

    /// A datagram arrived. Its bytes are opened in place.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &mut [u8]) {
        if !self.ended {
            self.circuits.handle_datagram(now, &mut self.clock, from, datagram);
        }
    }

    /// A program connected. Numbers of sessions are never used twice.
    pub fn handle_session_opened(&mut self, _now: Instant, session: SessionId, pid: u32) {
        if self.ended || self.sessions.len() >= SESSIONS_MAX {
            let text = format!("the node has {SESSIONS_MAX} sessions, which is all it may have");
            self.refuse_session(session, Code::TooManySessions, text);
            return;
        }
        self.sessions.open(session, pid);
    }

    /// A program sent a packet.
    pub fn handle_session_packet(&mut self, now: Instant, session: SessionId, packet: &[u8]) {
        let Some(known) = self.sessions.get(session) else { return };
        let greeted = known.greeted;
        match Request::from_bytes(packet) {
            Ok(Request::Hello { version, label }) if !greeted => self.hello(session, version, label),
            Ok(Request::Hello { .. }) => {
                self.expel(now, session, Code::SessionMalformed, "it said hello twice".into());
            }
            Ok(_) if !greeted => {
                let text = "its first message was no hello".into();
                self.expel(now, session, Code::SessionMalformed, text);
            }
            Ok(request) => self.request(now, session, request),
            Err(_) if !greeted && packet.len() >= 3 && packet[0] == 1 => {
                // A hello of another version: what follows its version may look different.
                let version = u16::from_le_bytes([packet[1], packet[2]]);
                self.hello(session, version, String::new());
            }
            Err(error) => {
                let text = format!("it sent bytes that are no request: {error}");
                self.expel(now, session, Code::SessionMalformed, text);
            }
        }
    }

    /// A program hung up or died: its locks go, as by force (35, 36).
    pub fn handle_session_closed(&mut self, now: Instant, session: SessionId) {
        let Some(ended) = self.sessions.close(session) else { return };
        let mut spaces: Vec<SpaceId> = ended.locks.into_values().collect();
        spaces.sort();
        spaces.dedup();
        for space in spaces {
            let Space { locks, words } = &mut self.spaces[space.0 as usize];
            locks.handle_request(now, words.as_mut(), oarlock_lock::Request::End(session));
        }
    }

    /// The epoch of an [`Output::Store`] is durable.
    pub fn handle_stored(&mut self, now: Instant, epoch: Epoch) {
        self.forming.handle_stored(now, epoch);
    }

    /// Asks every member what it sees; [`Output::Looked`] brings the answers within a second.
    pub fn look(&mut self, now: Instant, ticket: u64, space: SpaceId, at: At) {
        if self.spaces.len() <= space.0 as usize {
            self.outputs.push_back(Output::Looked { ticket, seen: Vec::new() });
            return;
        }
        let members = (0..self.config.nodes.len()).map(|n| NodeId(n as u16));
        let question = self.questions.ask(now, ticket, members.clone());
        let look = Look { question, space, at };
        let me = self.config.me;
        for node in members.filter(|n| *n != me) {
            // A member without a circuit cannot be asked; its place in the answer stays empty.
            let _ = self.send(now, node, Class::Bulk, &PeerMessage::Look(look.clone()));
        }
        let seen = self.see(now, &look);
        self.questions.answer(self.config.me, seen);
    }

    /// The time of [`poll_timeout`](Node::poll_timeout) has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.ended {
            return;
        }
        self.circuits.handle_timeout(now, &mut self.clock);
        self.forming.handle_timeout(now);
        for Space { locks, words } in &mut self.spaces {
            if locks.poll_timeout().is_some_and(|at| at <= now) {
                locks.handle_timeout(now, words.as_mut());
            }
        }
    }

    /// Ends this run in order: every session is told that its locks are gone.
    pub fn stop(&mut self, now: Instant) {
        self.end(now, "the node was stopped");
    }

    // ----- outputs --------------------------------------------------------------------------------------

    /// The next thing to carry on.
    pub fn poll_output(&mut self, now: Instant) -> Option<Output> {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return Some(output);
            }
            if self.drain_rooms(now) {
                continue;
            }
            if self.ended {
                return None;
            }
            match self.circuits.poll_output(now, &mut self.clock)? {
                oarlock_circuit::Output::Transmit(transmit) => return Some(Output::Transmit(transmit)),
                other => self.circuit_output(now, other),
            }
        }
    }

    /// When [`handle_timeout`](Node::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.ended {
            return None;
        }
        let spaces = self.spaces.iter().map(|s| s.locks.poll_timeout());
        [self.circuits.poll_timeout(), self.forming.poll_timeout(), self.questions.timeout()]
            .into_iter()
            .chain(spaces)
            .flatten()
            .min()
    }

    /// Carries what the rooms have to say. Returns whether anything moved.
    fn drain_rooms(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while let Some(output) = self.forming.poll_output() {
            moved = true;
            match output {
                oarlock_cluster::Output::Send { to, form } => {
                    // Without a circuit there is nobody to tell; the circuit's coming up tells it anew.
                    let _ = self.send(now, to, Class::Lock, &PeerMessage::Form(form));
                }
                oarlock_cluster::Output::Store { epoch } => self.outputs.push_back(Output::Store { epoch }),
                oarlock_cluster::Output::Serve { view, grants_from } => self.serve(now, view, grants_from),
            }
        }
        for index in 0..self.spaces.len() {
            while let Some(output) = self.spaces[index].locks.poll_output() {
                moved = true;
                self.lock_output(now, index, output);
            }
        }
        if !self.questions.is_empty() {
            for Question { ticket, seen, .. } in self.questions.take_done(now) {
                moved = true;
                self.outputs.push_back(Output::Looked { ticket, seen: seen.into_iter().collect() });
            }
        }
        moved
    }

    fn send(
        &mut self,
        now: Instant,
        to: NodeId,
        class: Class,
        message: &PeerMessage,
    ) -> Result<(), SendError> {
        self.circuits.send(now, to, class, &message.to_bytes())
    }

    // ----- circuits and cluster -------------------------------------------------------------------------

    fn circuit_output(&mut self, now: Instant, output: oarlock_circuit::Output) {
        use oarlock_circuit::Output as C;
        match output {
            C::Transmit(transmit) => self.outputs.push_back(Output::Transmit(transmit)),
            C::Deliver { from, message, .. } => match PeerMessage::from_bytes(&message) {
                Ok(message) => self.deliver(now, from, message),
                Err(error) => self.violation(from, format!("its message is malformed: {error}")),
            },
            C::Up { peer, incarnation } => {
                self.hearing.handle_heard(now, peer);
                self.event(Event::Up { node: self.node_name(peer), incarnation });
                self.forming.handle_up(now, peer, incarnation);
            }
            C::Down { peer, incarnation, unknown } => {
                // Early messages of a run that is gone belong to no view any more.
                self.early.retain(|(from, _)| *from != peer);
                self.event(Event::Replaced { node: self.node_name(peer), incarnation, unknown });
            }
            C::Silent { peer } => {
                self.hearing.handle_silent(now, peer);
                self.event(Event::Silent { node: self.node_name(peer) });
            }
            C::Heard { peer } => {
                let after = self.hearing.handle_heard(now, peer).unwrap_or_default();
                self.event(Event::Heard { node: self.node_name(peer), after });
            }
            C::RefusedBy { peer, code } => {
                self.event(Event::RefusedBy { node: self.node_name(peer), code });
                if code == Code::PeerRestarted {
                    self.forming.handle_refused_by(now, peer);
                }
            }
            C::Refused { from, node, code } => {
                let node = node.map(|n| self.node_name(n));
                self.event(Event::Refused { from, node, code });
            }
        }
    }

    fn deliver(&mut self, now: Instant, from: NodeId, message: PeerMessage) {
        match message {
            PeerMessage::Lock(packet) => self.lock_message(now, from, packet),
            PeerMessage::Form(form) => {
                if let Err(violation) = self.forming.handle_form(now, from, form) {
                    self.violation(from, violation.to_string());
                }
            }
            PeerMessage::Look(look) => {
                if self.spaces.len() <= look.space.0 as usize {
                    return self.violation(from, format!("it asks about lockspace {}", look.space));
                }
                let seen = self.see(now, &look);
                // The asker has gone if this fails; nobody misses the answer.
                let _ = self.send(now, from, Class::Bulk, &PeerMessage::Seen(seen));
            }
            PeerMessage::Seen(seen) => self.questions.answer(from, seen),
        }
    }

    fn lock_message(&mut self, now: Instant, from: NodeId, packet: Packet) {
        if self.forming.phase() != Phase::Serving {
            if self.early.len() >= EARLY_MAX {
                return self.violation(from, "it sends lock messages to a node that does not serve".into());
            }
            self.early.push((from, packet));
            return;
        }
        let Some(Space { locks, words }) = self.spaces.get_mut(packet.space.0 as usize) else {
            return self.violation(from, format!("there is no lockspace {}", packet.space));
        };
        if let Err(violation) = locks.handle_message(now, words.as_mut(), from, packet) {
            self.violation(from, violation.to_string());
        }
    }

    fn serve(&mut self, now: Instant, view: View, grants_from: Instant) {
        for member in view.members.iter().filter(|m| m.node != self.config.me) {
            self.circuits.pin(member.node, member.incarnation);
        }
        for Space { locks, .. } in &mut self.spaces {
            locks.handle_view(now, &view, grants_from);
        }
        self.event(Event::Serving { epoch: view.epoch, wait: grants_from.since(now) });
        for (from, packet) in core::mem::take(&mut self.early) {
            self.lock_message(now, from, packet);
        }
    }

    fn violation(&mut self, from: NodeId, what: String) {
        self.event(Event::Violation { node: self.node_name(from), what });
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn node_name(&self, node: NodeId) -> String {
        match self.config.nodes.get(node.0 as usize) {
            Some(n) => n.name.clone(),
            None => format!("node {node}"),
        }
    }

    // ----- sessions -------------------------------------------------------------------------------------

    fn reply(&mut self, session: SessionId, reply: &Reply) {
        self.outputs.push_back(Output::Reply { session, packet: reply.to_bytes() });
    }

    fn refuse_session(&mut self, session: SessionId, code: Code, text: String) {
        let why = Failure { code, text };
        self.reply(session, &Reply::Refused { version: session::VERSION, why });
        self.outputs.push_back(Output::Close { session });
    }

    fn hello(&mut self, session: SessionId, version: u16, label: String) {
        if version != session::VERSION {
            self.sessions.close(session);
            let ours = session::VERSION;
            let text =
                format!("the program speaks version {version} of the session protocol, the node {ours}");
            return self.refuse_session(session, Code::SessionVersion, text);
        }
        let epoch = self.forming.view().map_or(Epoch(0), |view| view.epoch);
        let reply = Reply::Welcome {
            version: session::VERSION,
            session,
            node: self.node_name(self.config.me),
            cluster: self.config.cluster.clone(),
            epoch,
        };
        if let Some(known) = self.sessions.get_mut(session) {
            known.greeted = true;
            known.label = label;
        }
        self.reply(session, &reply);
    }

    /// Ends a session that broke the rules.
    fn expel(&mut self, now: Instant, session: SessionId, code: Code, text: String) {
        self.handle_session_closed(now, session);
        self.reply(session, &Reply::Lost { why: Failure { code, text } });
        self.outputs.push_back(Output::Close { session });
    }

    fn failed(&mut self, session: SessionId, handle: u32, code: Code, text: String) {
        self.reply(session, &Reply::Failed { handle, why: Failure { code, text } });
    }

    fn request(&mut self, now: Instant, session: SessionId, request: Request) {
        match request {
            Request::Hello { .. } => unreachable!("handled before"),
            Request::Open { request, space } => self.open_space(session, request, &space),
            Request::Ask { request, question } => {
                self.outputs.push_back(Output::Asked { session, request, question });
            }
            Request::Lock(m) => {
                if let Err((code, text)) = self.may_ask(session, &m) {
                    return self.failed(session, m.handle, code, text);
                }
                let lock = LockId::new(session, m.handle);
                if let Some(known) = self.sessions.get_mut(session) {
                    known.locks.insert(m.handle, m.space);
                }
                let request = Lock {
                    lock,
                    name: m.name,
                    mode: m.mode,
                    flags: m.flags,
                    timeout: timeout(m.timeout_ms),
                    owner: m.owner,
                    transaction: m.transaction,
                };
                self.ask_room(now, m.space, oarlock_lock::Request::Lock(request));
            }
            Request::Convert(m) => {
                let request = Convert {
                    lock: LockId::new(session, m.handle),
                    mode: m.mode,
                    flags: m.flags,
                    timeout: timeout(m.timeout_ms),
                    value: m.value,
                };
                self.ask_about(now, session, m.handle, oarlock_lock::Request::Convert(request));
            }
            Request::Unlock { handle, value, invalidate } => {
                let lock = LockId::new(session, handle);
                let request = Unlock { lock, value, invalidate };
                self.ask_about(now, session, handle, oarlock_lock::Request::Unlock(request));
            }
            Request::Cancel { handle } => {
                // A cancel that comes too late has nothing to withdraw, and no answer of its own.
                if self.sessions.get(session).is_some_and(|s| s.locks.contains_key(&handle)) {
                    let lock = LockId::new(session, handle);
                    self.ask_about(now, session, handle, oarlock_lock::Request::Cancel(lock));
                }
            }
        }
    }

    fn open_space(&mut self, session: SessionId, request: u32, name: &str) {
        let found = self.config.spaces.iter().position(|s| s.name == name);
        let reply = match found {
            Some(index) => Reply::Opened { request, space: SpaceId(index as u16) },
            None => {
                let names: Vec<&str> = self.config.spaces.iter().map(|s| s.name.as_str()).collect();
                let text = format!("there is no lockspace {name:?}; this cluster has {}", names.join(", "));
                Reply::Denied { request, why: Failure { code: Code::UnknownSpace, text } }
            }
        };
        self.reply(session, &reply);
    }

    /// The checks at the edge: what would only grow a queue inside is refused here, with a reason.
    fn may_ask(&self, session: SessionId, m: &session::LockRequest) -> Result<(), (Code, String)> {
        if self.config.spaces.len() <= m.space.0 as usize {
            return Err((Code::UnknownSpace, format!("there is no lockspace number {}", m.space)));
        }
        self.may_serve()?;
        let known = self.sessions.get(session).expect("a session that asks is open");
        if known.locks.contains_key(&m.handle) {
            return Err((Code::InFlight, format!("the session uses lock number {} already", m.handle)));
        }
        if known.locks.len() >= SESSION_LOCKS_MAX {
            let text = format!("the session has {SESSION_LOCKS_MAX} locks, which is all it may have");
            return Err((Code::TooManyLocks, text));
        }
        let nodes = (0..self.config.nodes.len()).map(|n| NodeId(n as u16));
        let master = directory::master(m.space, m.name.as_bytes(), nodes);
        if let Some(master) = master.filter(|n| *n != self.config.me)
            && self.circuits.backlog(master) > BACKLOG_BYTES_MAX
        {
            let name = self.node_name(master);
            let text = format!("{name} decides about this resource, and too much waits to be told to it");
            return Err((Code::MemberSilent, text));
        }
        Ok(())
    }

    fn may_serve(&self) -> Result<(), (Code, String)> {
        match self.forming.phase() {
            Phase::Serving => Ok(()),
            Phase::Refused => Err((Code::Refused, self.why_not_serving())),
            Phase::Forming => Err((Code::NotServing, self.why_not_serving())),
        }
    }

    fn why_not_serving(&self) -> String {
        let me = self.node_name(self.config.me);
        if self.forming.phase() == Phase::Refused {
            return format!(
                "{me} restarted while others kept serving; this version needs a restart of the whole cluster: \
                 stop every member, then start them all"
            );
        }
        let waits = self.forming.waits();
        let reasons: Vec<String> = waits.iter().map(|wait| self.say_wait(*wait)).collect();
        format!("{me} is not in a view yet: {}", reasons.join("; "))
    }

    fn say_wait(&self, wait: oarlock_cluster::Wait) -> String {
        use oarlock_cluster::Wait as W;
        match wait {
            W::Missing(node) => format!("{} has not been heard yet", self.node_name(node)),
            W::RefusedBy(node) => format!("{} serves with an earlier run of this node", self.node_name(node)),
            W::Serves(node, epoch) => {
                format!("{} serves view {epoch}, which does not name this run", self.node_name(node))
            }
            W::Proposer(node) => format!("{} is to propose a view", self.node_name(node)),
            W::Accept(node, epoch) => format!("{} has not accepted view {epoch} yet", self.node_name(node)),
            other => other.to_string(),
        }
    }

    fn ask_room(&mut self, now: Instant, space: SpaceId, request: oarlock_lock::Request) {
        let Space { locks, words } = &mut self.spaces[space.0 as usize];
        locks.handle_request(now, words.as_mut(), request);
    }

    /// A request about a lock that the session should have.
    fn ask_about(&mut self, now: Instant, session: SessionId, handle: u32, request: oarlock_lock::Request) {
        let space = self.sessions.get(session).and_then(|s| s.locks.get(&handle)).copied();
        match space {
            Some(space) => self.ask_room(now, space, request),
            None => {
                let text = format!("the session has no lock number {handle}");
                self.failed(session, handle, Code::NoSuchLock, text);
            }
        }
    }

    fn lock_output(&mut self, now: Instant, index: usize, output: oarlock_lock::Output) {
        use oarlock_lock::Output as L;
        match output {
            L::Send { to, packet } => match self.send(now, to, Class::Lock, &PeerMessage::Lock(packet)) {
                Ok(()) => {}
                Err(SendError::Full { peer, .. }) => {
                    let node = self.node_name(peer);
                    self.event(Event::Overwhelmed { node });
                    self.end(now, "a member was silent for too long");
                }
                Err(other) => panic!("a member of the view cannot be sent to: {other}"),
            },
            L::Granted(g) => self.tell(g.lock, |handle| {
                Reply::Granted(Granted {
                    handle,
                    mode: g.mode,
                    token: g.token,
                    value: g.value,
                    alternate: g.alternate,
                })
            }),
            L::Released { lock } => {
                self.lock_gone(lock);
                self.tell(lock, |handle| Reply::Released { handle });
            }
            L::Failed { lock, code } => {
                if self.spaces[index].words.entry(lock).is_none() {
                    self.lock_gone(lock);
                }
                let why = Failure { code, text: text::lock_failure(code) };
                self.tell(lock, |handle| Reply::Failed { handle, why });
            }
            L::Blocking { lock, wanted } => self.tell(lock, |handle| Reply::Blocking { handle, wanted }),
        }
    }

    fn lock_gone(&mut self, lock: LockId) {
        if let Some(session) = self.sessions.get_mut(lock.session()) {
            session.locks.remove(&lock.handle());
        }
    }

    /// Tells a program about its lock, if it is still there.
    fn tell(&mut self, lock: LockId, reply: impl FnOnce(u32) -> Reply) {
        if self.sessions.get(lock.session()).is_some() {
            self.reply(lock.session(), &reply(lock.handle()));
        }
    }

    /// Ends the run: sessions are told, nothing is taken in any more.
    fn end(&mut self, now: Instant, why: &str) {
        if self.ended {
            return;
        }
        let sessions: Vec<SessionId> = self.sessions.ids().collect();
        for session in sessions {
            self.expel(now, session, Code::Lost, format!("all locks of this session are gone: {why}"));
        }
        self.ended = true;
    }

    /// Has this run ended (stopped, or overwhelmed)?
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    // ----- looking --------------------------------------------------------------------------------------

    /// What this node sees, with the sessions' names put to the locks.
    fn see(&self, now: Instant, look: &Look) -> Seen {
        let Space { locks, words } = &self.spaces[look.space.0 as usize];
        let (mut rows, cut) = locks.look(now, words.as_ref(), &look.at);
        for row in &mut rows {
            match &mut row.what {
                What::Holder(holder) => self.name_party(&mut holder.party),
                What::Waiter(waiter) => self.name_party(&mut waiter.party),
                _ => {}
            }
        }
        Seen { question: look.question, cut, rows }
    }

    fn name_party(&self, party: &mut Party) {
        if let Some(session) = self.sessions.get(party.lock.session()) {
            party.pid = session.pid;
            party.label = session.label.clone();
        }
    }

    /// How it stands.
    pub fn status(&self, now: Instant) -> Status {
        let phase = self.forming.phase();
        let members: Vec<MemberStatus> = (self.config.nodes.iter().enumerate())
            .map(|(index, node)| self.member_status(now, NodeId(index as u16), &node.name))
            .collect();
        let mut problems = Vec::new();
        if let Err(problem) = self.may_serve() {
            problems.push(problem);
        }
        for member in members.iter().filter(|m| !m.is_me && !m.heard && phase == Phase::Serving) {
            let text = match member.silent_for {
                Some(time) => format!(
                    "{} has been silent for {:.1} s; requests that need it wait",
                    member.name,
                    time.as_secs_f64()
                ),
                None => format!("there is no circuit to {}; requests that need it wait", member.name),
            };
            problems.push((Code::MemberSilent, text));
        }
        if self.spaces.iter().any(|s| s.locks.serial() > SERIAL_WARN) {
            let text = "half of this epoch's fencing numbers are used; plan a restart of the whole cluster";
            problems.push((Code::SerialsLow, text.into()));
        }
        let spaces = self.config.spaces.iter().zip(&self.spaces).map(|(config, space)| {
            let (resources, mastered, waiting) = space.locks.sizes();
            let counters = space.locks.counters();
            SpaceStatus {
                name: config.name.clone(),
                resources,
                mastered,
                waiting,
                grants: counters.local_grants,
                covered_grants: counters.covered_grants,
                messages: counters.messages_sent(),
            }
        });
        Status {
            cluster: self.config.cluster.clone(),
            node: self.node_name(self.config.me),
            me: self.config.me,
            incarnation: self.config.incarnation,
            phase,
            epoch: self.forming.view().map_or(Epoch(0), |view| view.epoch),
            grants_wait: self.forming.grants_from().map_or(Duration::ZERO, |at| at.since(now)),
            problems,
            members,
            spaces: spaces.collect(),
            sessions: self.sessions.len(),
            stamp: self.clock.last(),
        }
    }

    fn member_status(&self, now: Instant, node: NodeId, name: &str) -> MemberStatus {
        let is_me = node == self.config.me;
        let circuit = if is_me { None } else { self.circuits.status(node) };
        MemberStatus {
            node,
            name: name.to_string(),
            is_me,
            heard: is_me || circuit.is_some_and(|c| c.state == oarlock_circuit::State::Up),
            silent_for: self.hearing.silent_since(node).map(|since| now.since(since)),
            circuit,
        }
    }

    /// Everything that is counted.
    pub fn counters(&self) -> Vec<Counter> {
        let mut counters: Vec<Counter> = Vec::new();
        for (index, space) in self.spaces.iter().enumerate() {
            let list: Vec<_> = LockCounters::list(space.locks.counters()).collect();
            for (place, (name, help, value)) in list.into_iter().enumerate() {
                if index == 0 {
                    counters.push(Counter { name, help, value });
                } else {
                    counters[place].value += value;
                }
            }
        }
        let circuits = self.circuits.counters();
        let help = "Counted by the circuits of this node";
        let list = circuits.peers.list().chain(circuits.door.list());
        counters.extend(list.map(|(name, value)| Counter { name, help, value }));
        let help = "Stamps of peers that moved this clock forward";
        counters.push(Counter { name: "clock_jumps", help, value: self.clock.clock_jumps() });
        counters
    }

    /// The name of a member.
    pub fn member_name(&self, node: NodeId) -> Option<&str> {
        self.config.nodes.get(node.0 as usize).map(|n| n.name.as_str())
    }

    /// The id of a lockspace.
    pub fn space_id(&self, name: &str) -> Option<SpaceId> {
        self.config.spaces.iter().position(|s| s.name == name).map(|index| SpaceId(index as u16))
    }

    /// The node that decides about a resource.
    pub fn master_of(&self, space: SpaceId, name: &Name) -> Option<NodeId> {
        let nodes = (0..self.config.nodes.len()).map(|n| NodeId(n as u16));
        directory::master(space, name.as_bytes(), nodes)
    }
}

fn timeout(ms: u32) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms.into()))
}
