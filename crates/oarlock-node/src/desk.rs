//! Where programs are served: hello, requests, checks at the edge, answers.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use oarlock_circuit::{Class, SendError};
use oarlock_cluster::registry::CUT_OFF_MAX;
use oarlock_layout::code::Code;
use oarlock_layout::codec::Wire;
use oarlock_layout::directory;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, Incarnation, LockId, SessionId, SharedHandle, SpaceId};
use oarlock_layout::limit::{BACKLOG_BYTES_MAX, SESSION_LOCKS_MAX};
use oarlock_layout::message::form::Phase;
use oarlock_layout::message::peer::PeerMessage;
use oarlock_layout::message::session::{self, Attached, Failure, Granted, Reply, Request};
use oarlock_layout::time::{Duration, Instant};
use oarlock_lock::{Convert, Lock, Unlock};

use crate::node::{Node, Output, Space};
use crate::rights::{Kind, Permit};
use crate::text;

/// Places that one process may leave behind without a word that it touches them no more. Every search for the locks of a
/// resource looks at them too.
const LEFT_MAX: usize = 8;

impl Node {
    pub(crate) fn reply(&mut self, session: SessionId, reply: &Reply) {
        self.outputs.push_back(Output::Reply { session, packet: reply.to_bytes() });
    }

    pub(crate) fn refuse_session(&mut self, session: SessionId, code: Code, text: String) {
        let why = Failure { code, text };
        self.reply(session, &Reply::Refused { version: session::VERSION, why });
        self.outputs.push_back(Output::Close { session });
    }

    pub(crate) fn hello(&mut self, now: Instant, session: SessionId, version: u16, label: String) {
        if version != session::VERSION {
            self.sessions.close(session);
            let ours = session::VERSION;
            let text =
                format!("the program speaks version {version} of the session protocol, the node {ours}");
            return self.refuse_session(session, Code::SessionVersion, text);
        }
        let epoch = self.epoch();
        let reply = Reply::Welcome {
            version: session::VERSION,
            session,
            node: self.node_name(self.config.me),
            cluster: self.config.cluster.clone(),
            epoch,
            now,
        };
        if let Some(known) = self.sessions.get_mut(session) {
            known.greeted = true;
            known.label = label;
        }
        self.reply(session, &reply);
    }

    /// Ends a session that broke the rules.
    pub(crate) fn expel(&mut self, now: Instant, session: SessionId, code: Code, text: String) {
        self.handle_session_closed(now, session);
        self.reply(session, &Reply::Lost { why: Failure { code, text } });
        self.outputs.push_back(Output::Close { session });
    }

    pub(crate) fn failed(&mut self, session: SessionId, handle: u32, code: Code, text: String) {
        self.reply(session, &Reply::Failed { handle, why: Failure { code, text } });
    }

    /// Has the program the right to this? The one place where that is asked.
    fn allowed(&self, session: SessionId, request: &Request) -> Result<(), (Code, String)> {
        let known = self.sessions.get(session).expect("a session that asks is open");
        let space = match request {
            Request::Open { space, .. } => self.space_id(space),
            Request::Lock(m) => Some(m.space),
            Request::Attach { space, .. } => Some(*space),
            Request::Convert(m) => known.space_of(m.handle),
            Request::Unlock { handle, .. } | Request::Cancel { handle } => known.space_of(*handle),
            Request::Hello { .. } | Request::Ask { .. } | Request::Knock | Request::Detach => None,
        };
        let permit = self.permit(session).expect("a session that asks is open");
        let name = |space: SpaceId| format!("{:?}", self.config.spaces[usize::from(space.0)].name);
        if self.has_bug(crate::planted::Bug::AnyRight) {
            return Ok(());
        }
        permit.check(Kind::of(request), space).map_err(|denied| text::denial(&permit, denied, name))
    }

    /// The answer to what is not allowed. Nothing else comes of it.
    fn deny(&mut self, session: SessionId, request: &Request, code: Code, text: String) {
        match request {
            Request::Lock(m) => self.refuse_lock(session, m.handle, code, text),
            Request::Convert(session::ConvertRequest { handle, .. })
            | Request::Unlock { handle, .. }
            | Request::Cancel { handle } => self.failed(session, *handle, code, text),
            Request::Open { request, .. }
            | Request::Ask { request, .. }
            | Request::Attach { request, .. } => {
                self.reply(session, &Reply::Denied { request: *request, why: Failure { code, text } });
            }
            Request::Hello { .. } | Request::Knock | Request::Detach => {
                unreachable!("whoever has a session may say so")
            }
        }
    }

    /// A new lock fails at the edge.
    fn refuse_lock(&mut self, session: SessionId, handle: u32, code: Code, text: String) {
        let lock = LockId::new(session, handle);
        if lock.entry().is_some()
            && let Some(space) = self.sessions.get(session).and_then(|s| s.space_of(handle))
        {
            // Its program sleeps on the entry, not on the socket.
            self.spaces[space.0 as usize].words.refuse(lock);
        }
        self.failed(session, handle, code, text);
    }

    pub(crate) fn request(&mut self, now: Instant, session: SessionId, request: Request) {
        if let Err((code, text)) = self.allowed(session, &request) {
            return self.deny(session, &request, code, text);
        }
        match request {
            Request::Hello { .. } => unreachable!("handled before"),
            Request::Open { request, space } => self.open_space(session, request, &space),
            Request::Ask { request, question } => {
                self.outputs.push_back(Output::Asked { session, request, question });
            }
            Request::Attach { request, space } => self.attach(session, request, space),
            // That it came is all it has to say: bells are looked at in every turn.
            Request::Knock => {}
            Request::Detach => {
                if let Some(known) = self.sessions.get_mut(session) {
                    known.detached = true;
                }
            }
            Request::Lock(m) => {
                let lock = LockId::new(session, m.handle);
                if let Err((code, text)) = self.may_ask(now, session, &m) {
                    return self.refuse_lock(session, m.handle, code, text);
                }
                if m.flags.contains(Flags::ORPHAN) && lock.entry().is_none() {
                    return match self.orphan(&m) {
                        Ok(orphan) => self.adopt(now, lock, orphan, m),
                        Err((code, text)) => self.failed(session, m.handle, code, text),
                    };
                }
                if lock.entry().is_none()
                    && let Some(known) = self.sessions.get_mut(session)
                {
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
                if let Err((code, text)) = self.may_stay(m.flags) {
                    return self.failed(session, m.handle, code, text);
                }
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
                if self.sessions.get(session).is_some_and(|s| s.space_of(handle).is_some()) {
                    let lock = LockId::new(session, handle);
                    self.ask_about(now, session, handle, oarlock_lock::Request::Cancel(lock));
                }
            }
        }
    }

    pub(crate) fn open_space(&mut self, session: SessionId, request: u32, name: &str) {
        let found = self.config.spaces.iter().position(|s| s.name == name);
        let reply = match found {
            Some(index) => Reply::Opened { request, space: SpaceId(index as u16) },
            None => {
                let permit = self.permit(session).expect("a session that asks is open");
                let text = format!("there is no lockspace {name:?}; this cluster has {}", self.seen(&permit));
                Reply::Denied { request, why: Failure { code: Code::UnknownSpace, text } }
            }
        };
        self.reply(session, &reply);
    }

    /// The names of the lockspaces that somebody may look at, and how many there are besides.
    fn seen(&self, permit: &Permit) -> String {
        let all = self.config.spaces.iter().enumerate();
        let seen = all.filter(|(index, _)| permit.sees(SpaceId(*index as u16)));
        let names: Vec<&str> = seen.map(|(_, space)| space.name.as_str()).collect();
        text::names(&names, self.config.spaces.len() - names.len())
    }

    /// A place in a segment.
    fn attach(&mut self, session: SessionId, request: u32, space: SpaceId) {
        let known = self.sessions.get(session).expect("a session that asks is open");
        let number = known.attached.len() as u8;
        let denied = if self.spaces.len() <= space.0 as usize {
            Some((Code::UnknownSpace, format!("there is no lockspace number {space}")))
        } else if known.attached.contains(&space) {
            Some((Code::InFlight, "the session has a place in that segment already".into()))
        } else if known.pid != 0 && self.left.values().filter(|pid| **pid == known.pid).count() >= LEFT_MAX {
            let text = format!("the process left {LEFT_MAX} places behind that wait for its end");
            Some((Code::NoSegment, text))
        } else if number >= SharedHandle::SEGMENTS_MAX || known.detached {
            let max = SharedHandle::SEGMENTS_MAX;
            Some((Code::NoSegment, format!("a session has a place in {max} segments at most")))
        } else {
            None
        };
        let place = match denied {
            Some(_) => None,
            None => self.spaces[space.0 as usize].words.attach(session, number),
        };
        let Some(place) = place else {
            let none =
                || (Code::NoSegment, "the segment has no place for another session, or there is none".into());
            let (code, text) = denied.unwrap_or_else(none);
            return self.reply(session, &Reply::Denied { request, why: Failure { code, text } });
        };
        self.sessions.get_mut(session).expect("it was there").attached.push(space);
        let attached = Attached { request, segment: number, place, now: 0 };
        self.outputs.push_back(Output::Attached { session, space, attached });
    }

    /// The checks at the edge: what would only grow a queue inside is refused here, with a reason.
    pub(crate) fn may_ask(
        &self,
        now: Instant,
        session: SessionId,
        m: &session::LockRequest,
    ) -> Result<(), (Code, String)> {
        if self.config.spaces.len() <= m.space.0 as usize {
            return Err((Code::UnknownSpace, format!("there is no lockspace number {}", m.space)));
        }
        self.may_serve(now)?;
        let known = self.sessions.get(session).expect("a session that asks is open");
        if SharedHandle::of(m.handle).is_some() {
            // How many there can be the segment bounds, and that one is free its entry says.
            if known.space_of(m.handle) != Some(m.space) {
                let text = format!("lock number {} is no entry of a segment that the session has", m.handle);
                return Err((Code::NoSuchLock, text));
            }
        } else if known.locks.contains_key(&m.handle) {
            return Err((Code::InFlight, format!("the session uses lock number {} already", m.handle)));
        }
        if known.locks.len() >= SESSION_LOCKS_MAX && SharedHandle::of(m.handle).is_none() {
            let text = format!("the session has {SESSION_LOCKS_MAX} locks, which is all it may have");
            return Err((Code::TooManyLocks, text));
        }
        self.may_stay(m.flags)?;
        let master = directory::master(m.space, m.name.as_bytes(), self.recovery.view().nodes());
        if let Some(master) = master.filter(|n| *n != self.config.me)
            && self.circuits.backlog(master) > BACKLOG_BYTES_MAX
        {
            let name = self.node_name(master);
            let text = format!("{name} decides about this resource, and too much waits to be told to it");
            return Err((Code::MemberSilent, text));
        }
        Ok(())
    }

    /// May what is granted with these flags outlive its session?
    fn may_stay(&self, flags: Flags) -> Result<(), (Code, String)> {
        if !flags.contains(Flags::PERSISTENT) || !self.orphans.are_many() {
            return Ok(());
        }
        let many = self.orphans.len();
        Err((
            Code::TooManyKept,
            format!("{many} locks of this node have outlived their sessions; purge them"),
        ))
    }

    pub(crate) fn may_serve(&self, now: Instant) -> Result<(), (Code, String)> {
        match self.phase() {
            Phase::Serving => Ok(()),
            Phase::Refused => Err((Code::Refused, self.why_not_serving(now))),
            Phase::Forming => {
                let code = if self.awaits_fence().is_some() { Code::Fenced } else { Code::NotServing };
                Err((code, self.why_not_serving(now)))
            }
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        if self.refused.is_some() || self.ended {
            Phase::Refused
        } else if self.epoch() == Epoch(0) {
            Phase::Forming
        } else {
            Phase::Serving
        }
    }

    /// The earlier run of this node whose fence keeps this one out.
    fn awaits_fence(&self) -> Option<Incarnation> {
        self.membership.as_ref().and_then(|_| self.run_to_be_fenced())
    }

    fn why_not_serving(&self, now: Instant) -> String {
        let me = self.node_name(self.config.me);
        if let Some(why) = &self.refused {
            return format!("{me} is not let into the cluster: {why}");
        }
        if self.ended {
            return format!("this run of {me} has ended");
        }
        let Some(membership) = &self.membership else {
            return format!("{me} has not heard from the coordinator yet that it is a member");
        };
        if let Some(run) = self.awaits_fence() {
            return format!("{me} is let in again once its run {run} is fenced");
        }
        let unheard: Vec<String> = membership.unheard().map(|node| self.node_name(node)).collect();
        if !unheard.is_empty() {
            return format!("{me} is in no view yet: it does not hear {}", unheard.join(", "));
        }
        if let Some((times, left)) = membership.held_back(now) {
            let often = match times {
                1 => "".into(),
                CUT_OFF_MAX => format!(", {times} times or more in a row"),
                _ => format!(", {times} times in a row"),
            };
            let left = left.as_secs_f64();
            return format!(
                "{me} is in no view yet: it was put out because it was not heard{often}, and asks to be let in when it has heard all \
                 members for {left:.1} s more"
            );
        }
        format!("{me} is in no view yet: it has asked to be let in")
    }

    /// Whom a request may have waited for in vain. Which member it needed is not looked up: with one of them
    /// silent that is the first thing to mend.
    fn silence(&self) -> String {
        let names: Vec<String> = self.hearing.silent().map(|(peer, _)| self.node_name(peer)).collect();
        if names.is_empty() { String::new() } else { format!("; not heard: {}", names.join(", ")) }
    }

    pub(crate) fn ask_room(&mut self, now: Instant, space: SpaceId, request: oarlock_lock::Request) {
        let Space { locks, words } = &mut self.spaces[space.0 as usize];
        locks.handle_request(now, words.as_mut(), request);
    }

    /// A request about a lock that the session should have.
    pub(crate) fn ask_about(
        &mut self,
        now: Instant,
        session: SessionId,
        handle: u32,
        request: oarlock_lock::Request,
    ) {
        let space = self.sessions.get(session).and_then(|s| s.space_of(handle));
        match space {
            Some(space) => self.ask_room(now, space, request),
            None => {
                let text = format!("the session has no lock number {handle}");
                self.failed(session, handle, Code::NoSuchLock, text);
            }
        }
    }

    pub(crate) fn lock_output(&mut self, now: Instant, index: usize, output: oarlock_lock::Output) {
        use oarlock_lock::Output as L;
        // To close the sessions of a run that ends frees their locks in the room. But programs may act under them until they
        // have heard of it, so nobody else gets them before the run is surrendered or its lease is over (L5, X10).
        if self.ended && !self.has_bug(crate::planted::Bug::GiveBackAtEnd) {
            return;
        }
        match output {
            // Another view has come since: nobody would listen, and whom it was for may be no member of the cluster any more.
            L::Send { packet, .. } if packet.epoch < self.epoch() => {}
            L::Send { to, packet } => match self.send(now, to, Class::Lock, &PeerMessage::Lock(packet)) {
                Ok(()) => {}
                Err(SendError::Full { peer, .. }) => self.overwhelmed(now, peer),
                Err(other) => panic!("a member of the view cannot be sent to: {other}"),
            },
            // Its program looks at the entry.
            L::Granted(g) if g.quiet => {}
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
                // What is refused because another operation is under way leaves that operation alone (22): the
                // lock that it waits for must still be found when the session ends.
                if code != Code::InFlight && self.spaces[index].words.entry(lock).is_none() {
                    self.lock_gone(lock);
                }
                let mut text = text::lock_failure(code);
                if code == Code::TimedOut {
                    text += &self.silence();
                }
                if code == Code::Deadlock
                    && let Some(circle) = self.verdict_in_words(SpaceId(index as u16), lock)
                {
                    text = circle;
                }
                let why = Failure { code, text };
                self.tell(lock, |handle| Reply::Failed { handle, why });
            }
            L::Blocking { lock, wanted } if lock.entry().is_some() => {
                // What counts stands in the entry: a program that does not read must not make the node keep these.
                if self.sessions.get(lock.session()).is_some() {
                    let packet = Reply::Blocking { handle: lock.handle(), wanted }.to_bytes();
                    self.outputs.push_back(Output::Hint { session: lock.session(), packet });
                }
            }
            L::Blocking { lock, wanted } => self.tell(lock, |handle| Reply::Blocking { handle, wanted }),
        }
    }

    pub(crate) fn lock_gone(&mut self, lock: LockId) {
        if let Some(session) = self.sessions.get_mut(lock.session()) {
            session.locks.remove(&lock.handle());
        }
    }

    /// Tells a program about its lock, if it is still there.
    pub(crate) fn tell(&mut self, lock: LockId, reply: impl FnOnce(u32) -> Reply) {
        if self.sessions.get(lock.session()).is_some() {
            self.reply(lock.session(), &reply(lock.handle()));
        }
    }

    /// Ends the run: sessions are told, nothing is taken in any more. Those that held locks or waited for some.
    pub(crate) fn end(&mut self, now: Instant, why: &str) -> Vec<SessionId> {
        if self.ended {
            return Vec::new();
        }
        // Only now is it certain who holds what: from here on nobody believes what it grants itself (M13).
        for Space { words, .. } in &mut self.spaces {
            words.turn_epoch();
        }
        let holders = self.sessions.ids().filter(|id| self.has_locks_of(*id)).collect();
        let sessions: Vec<SessionId> = self.sessions.ids().collect();
        for session in sessions {
            self.expel(now, session, Code::Lost, format!("all locks of this session are gone: {why}"));
        }
        self.ended = true;
        holders
    }

    fn has_locks_of(&self, session: SessionId) -> bool {
        let Some(known) = self.sessions.get(session) else { return false };
        let holds = |space: &SpaceId| !self.spaces[space.0 as usize].words.of_session(session).is_empty();
        !known.locks.is_empty() || known.attached.iter().any(holds)
    }

    /// Has this run ended (stopped, or overwhelmed)?
    pub fn has_ended(&self) -> bool {
        self.ended
    }
}

fn timeout(ms: u32) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms.into()))
}
