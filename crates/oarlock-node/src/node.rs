//! The hall.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::SocketAddr;

use oarlock_circuit::{Circuits, Class, Peer, SendError, Transmit};
use oarlock_cluster::fencing::Charge;
use oarlock_cluster::registry::{Command, Refusal};
use oarlock_cluster::watermark::{self, NoStamp, Watermark};
use oarlock_cluster::{Fencing, Hearing, Membership, Pledges, Recovery};
use oarlock_layout::code::Code;
use oarlock_layout::codec::Wire;
use oarlock_layout::id::{Epoch, Incarnation, NodeId, SessionId, SpaceId};
use oarlock_layout::limit::SESSIONS_MAX;
use oarlock_layout::message::lock::Packet;
use oarlock_layout::message::look::{At, Look, Seen};
use oarlock_layout::message::peer::PeerMessage;
use oarlock_layout::message::session::{self, Attached, Request};
use oarlock_layout::seal::{MAC_BYTES, PublicKey, Seal};
use oarlock_layout::segment::{Wake, Words};
use oarlock_layout::stamp::Stamp;
use oarlock_layout::time::Instant;
use oarlock_lock::Lockspace;

use crate::branch::Branches;
use crate::config::{Config, NodeConfig};
use crate::deadlock::Deadlocks;
use crate::event::Event;
use crate::fencing::Fences;
use crate::orphans::Orphans;
use crate::question::{Question, Questions};
use crate::rights::{Access, Accesses, Kind, Permit, Role, Who};
use crate::session::Sessions;

/// What leaves a node.
#[derive(Debug)]
pub enum Output {
    /// Datagrams for the network. Send these first: somebody far away waits longest.
    Transmit(Transmit),
    /// A packet for a program.
    Reply {
        /// Which session.
        session: SessionId,
        /// An encoded [`Reply`](oarlock_layout::message::session::Reply).
        packet: Vec<u8>,
    },
    /// The same, if there is room for it at once: a hint that repeats what a segment says.
    Hint {
        /// Which session.
        session: SessionId,
        /// An encoded [`Reply`](oarlock_layout::message::session::Reply).
        packet: Vec<u8>,
    },
    /// A [`Reply::Attached`](oarlock_layout::message::session::Reply::Attached), to which the segment's descriptor and
    /// the time belong.
    Attached {
        /// Which session.
        session: SessionId,
        /// Which lockspace's segment.
        space: SpaceId,
        /// What to send; its `now` is to be filled in.
        attached: Attached,
    },
    /// Wake whoever sleeps on an entry of a segment.
    Wake {
        /// Which lockspace's segment.
        space: SpaceId,
        /// Which entry.
        wake: Wake,
    },
    /// Close the session's socket, after what was said before. It is over here already.
    Close {
        /// Which session.
        session: SessionId,
    },
    /// A program asks a question for a person; answer with pieces of `Reply::Answer`, or `Denied`.
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
    /// Make the epoch durable, against the day on which the coordinator's own memory is lost: tokens must not fall (R6).
    Store {
        /// Which epoch.
        epoch: Epoch,
    },
    /// Give this to the coordinator; [`Node::handle_answer`] takes what came of it, if that is ever known.
    Propose(Command),
    /// What programs hold is theirs until then, on this node's clock, unless that is put off again (L1). Segments are to say
    /// so ([`Node::renew`]), and the note that every program sees.
    Lease {
        /// Until when.
        until: Instant,
    },
    /// A call or an answer of another node's coordinator, sent by [`Node::carry`] there.
    Carried {
        /// Which node, which has proven that it is.
        from: NodeId,
        /// What it says.
        message: PeerMessage,
    },
    /// Make the number durable, then call [`Node::handle_ceiling_stored`]: a later run of the node begins above it (CK5).
    StoreCeiling {
        /// Which number.
        ceiling: Stamp,
    },
    /// Bring it about that this run can do no harm any more, then call [`Node::handle_fenced`] (L4).
    Fence(Charge),
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
    /// Its members follow the registry.
    pub(crate) config: Config,
    /// Registries before this revision are history.
    pub(crate) since: u64,
    /// This node's own public key, whatever the registry says of it.
    pub(crate) key: PublicKey,
    /// Keys to which members are about to change.
    pub(crate) next_keys: BTreeMap<NodeId, PublicKey>,
    pub(crate) clock: Watermark,
    pub(crate) circuits: Circuits,
    pub(crate) hearing: Hearing,
    /// The runs at the other ends of circuits.
    pub(crate) runs: BTreeMap<NodeId, Incarnation>,
    /// By which code the end of this run is proven, if anybody is to prove it.
    pub(crate) pledge: Option<[u8; MAC_BYTES]>,
    pub(crate) pledges: Pledges,
    /// Runs that have ended before their time, the latest of which this was heard.
    pub(crate) given_up: Vec<(NodeId, Incarnation)>,
    /// This run's part in the cluster, from the first registry on that has this node as a member.
    pub(crate) membership: Option<Membership>,
    /// Why this run is not let in, if it is not.
    pub(crate) refused: Option<Refusal>,
    pub(crate) recovery: Recovery,
    pub(crate) fencing: Fences,
    /// Shadows and masters are stating anew; all that they state is said.
    pub(crate) restating: bool,
    pub(crate) restated: bool,
    /// The lease comes to its end: nothing new is granted (L6).
    pub(crate) frozen: bool,
    /// What the segments have been told.
    pub(crate) lease: Instant,
    pub(crate) spaces: Vec<Space>,
    /// To whom they are given.
    pub(crate) accesses: Accesses,
    pub(crate) sessions: Sessions,
    pub(crate) orphans: Orphans,
    pub(crate) branches: Branches,
    /// Sessions that left places in segments which wait for the end of their process, and that process.
    pub(crate) left: BTreeMap<SessionId, u32>,
    pub(crate) questions: Questions,
    pub(crate) deadlocks: Deadlocks,
    /// A run that has ended takes nothing more in but what its coordinator needs to say that it has.
    pub(crate) ended: bool,
    pub(crate) outputs: VecDeque<Output>,
}

/// Longest message of a coordinator that goes before locks: a dozen datagrams. Longer are parts of snapshots and whole
/// foundings only.
const CONTROL_BYTES_MAX: usize = 16 << 10;
/// Bells taken up in one turn: a program that rings without end must not keep the others waiting.
const BELLS_AT_ONCE: u32 = 256;

pub(crate) struct Space {
    pub(crate) locks: Lockspace,
    pub(crate) words: Box<dyn Words + Send>,
}

impl Node {
    /// A node that has just started. `words` has one entry for each lockspace of the configuration.
    pub fn new(
        now: Instant,
        config: Config,
        seal: Box<dyn Seal + Send>,
        words: Vec<Box<dyn Words + Send>>,
    ) -> Node {
        assert_eq!(words.len(), config.spaces.len(), "one Words for each lockspace");
        assert!(config.nodes.contains_key(&config.me), "this node is a member");
        assert_eq!(config.shards, 1, "one engine, for now");
        let peers = config.nodes.iter().map(|(node, n)| peer(*node, n)).collect();
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
        let clock = watermark::Config {
            bound: Stamp(0),
            ..watermark::Config::new(config.me, config.incarnation, config.ceiling)
        };
        let spaces = (config.spaces.iter().zip(words).enumerate())
            .map(|(index, (_, words))| {
                let lock_config = lock_config(&config, index);
                #[cfg(feature = "planted")]
                let locks = match config.bug.and_then(crate::planted::Bug::of_room) {
                    Some(bug) => Lockspace::with_bug(lock_config, bug),
                    None => Lockspace::with_seed(lock_config, config.seed),
                };
                #[cfg(not(feature = "planted"))]
                let locks = Lockspace::with_seed(lock_config, config.seed);
                Space { locks, words }
            })
            .collect();
        let deadlocks = Deadlocks::new(config.deadlock_after);
        let accesses = config.spaces.iter().map(|_| Access::default()).collect();
        Node {
            recovery: Recovery::new(config.me),
            fencing: Fences::new(Fencing::new(config.me, config.incarnation)),
            since: 0,
            key: config.nodes[&config.me].key,
            next_keys: BTreeMap::new(),
            config,
            clock: Watermark::new(clock),
            circuits,
            hearing: Hearing::new(),
            runs: BTreeMap::new(),
            pledge: None,
            pledges: Pledges::new(),
            given_up: Vec::new(),
            membership: None,
            refused: None,
            restating: false,
            restated: false,
            frozen: false,
            lease: Instant(0),
            spaces,
            accesses,
            sessions: Sessions::default(),
            orphans: Orphans::default(),
            branches: Branches::default(),
            left: BTreeMap::new(),
            questions: Questions::default(),
            deadlocks,
            ended: false,
            outputs: VecDeque::new(),
        }
    }

    // ----- inputs ---------------------------------------------------------------------------------------

    /// A datagram arrived. Its bytes are opened in place.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &mut [u8]) {
        self.look_at_lease(now);
        self.circuits.handle_datagram(now, &mut self.clock, from, datagram);
    }

    /// To whom the lockspaces are given, by id. Before this is said they are root's alone.
    ///
    /// # Panics
    /// If there is not one for each.
    pub fn give(&mut self, accesses: Vec<Access>) {
        assert_eq!(accesses.len(), self.config.spaces.len(), "one Access for each lockspace");
        self.accesses = accesses.into();
    }

    /// What the program of a session may do here; none if the session is over.
    pub fn permit(&self, session: SessionId) -> Option<Permit> {
        let who = self.sessions.get(session)?.who.clone();
        Some(Permit { who, accesses: self.accesses.clone(), node: self.config.me })
    }

    /// A program connected, whose process is `who`'s. Numbers of sessions are never used twice.
    pub fn handle_session_opened(&mut self, _now: Instant, session: SessionId, pid: u32, who: Who) {
        if self.ended || self.sessions.len() >= SESSIONS_MAX {
            let text = format!("the node has {SESSIONS_MAX} sessions, which is all it may have");
            self.refuse_session(session, Code::TooManySessions, text);
            return;
        }
        self.sessions.open(session, pid, who);
    }

    /// A program sent a packet.
    pub fn handle_session_packet(&mut self, now: Instant, session: SessionId, packet: &[u8]) {
        self.look_at_lease(now);
        let Some(known) = self.sessions.get(session) else { return };
        let greeted = known.greeted;
        match Request::from_bytes(packet) {
            Ok(Request::Hello { version, label }) if !greeted => self.hello(now, session, version, label),
            Ok(Request::Hello { .. }) => {
                self.expel(now, session, Code::SessionMalformed, "it said hello twice".into());
            }
            Ok(_) if !greeted => {
                let text = "its first message was no hello".into();
                self.expel(now, session, Code::SessionMalformed, text);
            }
            Ok(request) => self.request(now, session, request),
            Err(_) if !greeted && foreign_hello(packet).is_some() => {
                let version = foreign_hello(packet).expect("just looked at");
                self.hello(now, session, version, String::new());
            }
            Err(error) => {
                let text = format!("it sent bytes that are no request: {error}");
                self.expel(now, session, Code::SessionMalformed, text);
            }
        }
    }

    /// A program hung up or died: its locks go, as by force (35, 36), but those that were to outlive it (37).
    pub fn handle_session_closed(&mut self, now: Instant, session: SessionId) {
        let Some(ended) = self.sessions.close(session) else { return };
        if !ended.attached.is_empty() && !ended.detached {
            self.left.insert(session, ended.pid);
        }
        // First nothing that it does in a segment counts any more (M12).
        for space in &ended.attached {
            self.spaces[space.0 as usize].words.end(session);
        }
        self.leave_behind(now, session, &ended);
    }

    /// Where its lockspaces keep held locks, by id: what is to be written down beside the node itself.
    pub fn words(&self) -> impl Iterator<Item = &(dyn Words + Send)> {
        self.spaces.iter().map(|space| &*space.words)
    }

    /// Which member it is.
    pub const fn me(&self) -> NodeId {
        self.config.me
    }

    /// Has its program said that it touches no segment any more? Asked before the session is closed.
    pub fn has_detached(&self, session: SessionId) -> bool {
        self.sessions.get(session).is_some_and(|known| known.detached)
    }

    /// The program of an [`Output::Attached`] hung up before it was told: nobody has anything to store in its place there.
    pub fn handle_not_attached(&mut self, session: SessionId, space: SpaceId) {
        self.left.remove(&session);
        self.spaces[space.0 as usize].words.bury(session);
    }

    /// The process that opened a session that is closed has ended for certain: what it may have been about to store in
    /// a segment cannot come any more.
    pub fn handle_opener_ended(&mut self, session: SessionId) {
        self.left.remove(&session);
        for Space { words, .. } in &mut self.spaces {
            words.bury(session);
        }
    }

    // ----- segments -------------------------------------------------------------------------------------

    /// This node's lease lasts until `until`, in nanoseconds of CLOCK_MONOTONIC, counted from before it was renewed (L1).
    pub fn renew(&mut self, until: u64) {
        for Space { words, .. } in &mut self.spaces {
            words.renew(until);
        }
    }

    /// Takes up a number of the bells that programs have rung. True if there may be more.
    pub fn handle_bells(&mut self, now: Instant) -> bool {
        self.look_at_lease(now);
        if self.ended {
            return false;
        }
        let mut more = false;
        for Space { locks, words } in &mut self.spaces {
            let mut left = BELLS_AT_ONCE;
            while left > 0
                && let Some(slot) = words.poll_bell()
            {
                locks.handle_bell(now, words.as_mut(), slot);
                left -= 1;
            }
            more |= left == 0;
        }
        more
    }

    /// The node is about to wait: from now on programs that ring must knock. False if a bell waits already.
    pub fn fall_asleep(&mut self) -> bool {
        let mut idle = true;
        for Space { words, .. } in &mut self.spaces {
            idle &= words.fall_asleep();
        }
        idle
    }

    /// The node has waited.
    pub fn wake_up(&mut self) {
        for Space { words, .. } in &mut self.spaces {
            words.wake_up();
        }
    }

    /// The number of an [`Output::StoreCeiling`] is durable.
    pub fn handle_ceiling_stored(&mut self, now: Instant, ceiling: Stamp) {
        self.clock.handle_stored(now, ceiling);
    }

    /// The next stamp of the cluster clock, above every one issued or heard here. A run that has ended issues none.
    pub fn issue(&mut self, now: Instant) -> Result<Stamp, NoStamp> {
        if self.ended { Err(NoStamp::Wait) } else { self.clock.issue(now) }
    }

    /// The cluster clock, as it stands here.
    pub const fn clock(&self) -> &Watermark {
        &self.clock
    }

    /// Asks every member what it sees; [`Output::Looked`] brings the answers within a second.
    pub fn look(&mut self, now: Instant, ticket: u64, space: SpaceId, at: At) {
        if self.spaces.len() <= space.0 as usize {
            self.outputs.push_back(Output::Looked { ticket, seen: Vec::new() });
            return;
        }
        let members: Vec<NodeId> = self.config.nodes.keys().copied().collect();
        let question = self.questions.ask(now, ticket, members.iter().copied());
        let look = Look { question, space, at };
        let me = self.config.me;
        for node in members.into_iter().filter(|n| *n != me) {
            // A member without a circuit cannot be asked; its place in the answer stays empty.
            let _ = self.send(now, node, Class::Bulk, &PeerMessage::Look(look.clone()));
        }
        let seen = self.see(now, &look);
        self.questions.answer(self.config.me, seen);
    }

    /// Sends a call or an answer of this node's coordinator. It arrives at most once: it is lost with its circuit, and at
    /// once (false) without one or if the peer is silent. Nobody is told what he missed, for whoever called asks
    /// again; while a peer is silent its circuit must not fill with calls that nobody waits for any more.
    pub fn carry(&mut self, now: Instant, to: NodeId, message: &PeerMessage) -> bool {
        assert!(matches!(message, PeerMessage::Call { .. } | PeerMessage::Answer { .. }));
        if self.hearing.silent_since(to).is_some() {
            return false;
        }
        let bytes = message.to_bytes();
        // Nothing of a coordinator's is in order with anything else, and what is long must not hold up signs of life.
        let class = if bytes.len() <= CONTROL_BYTES_MAX { Class::Control } else { Class::Bulk };
        self.circuits.send(now, to, class, &bytes).is_ok()
    }

    /// The time of [`poll_timeout`](Node::poll_timeout) has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.look_at_lease(now);
        self.circuits.handle_timeout(now, &mut self.clock);
        if self.ended {
            return;
        }
        if let Some(membership) = &mut self.membership {
            membership.handle_timeout(now);
        }
        self.fencing.room.handle_timeout(now);
        self.search(now);
        for Space { locks, words } in &mut self.spaces {
            if locks.poll_timeout().is_some_and(|at| at <= now) {
                locks.handle_timeout(now, words.as_mut());
            }
        }
    }

    /// Ends this run in order: every session is told that its locks are gone. Returns the sessions that held locks or
    /// waited for some: their programs must have heard before the run may be called clean.
    pub fn stop(&mut self, now: Instant) -> Vec<SessionId> {
        let holders = self.end(now, "the node was stopped");
        if self.has_bug(crate::planted::Bug::StopUnheard) { Vec::new() } else { holders }
    }

    /// Nobody can act under a lock of this run any more: it gives itself up, so that others need not wait for the end of its
    /// lease (L5). False if it is in no view, and there is nothing to give up.
    ///
    /// # Panics
    /// If the run has not ended.
    pub fn surrender(&mut self) -> bool {
        assert!(self.ended, "a run that goes on gives nothing up");
        let is_in = self.membership.as_ref().is_some_and(|m| m.lease().is_some());
        if is_in {
            self.outputs.push_back(Output::Propose(self.surrendered_by()));
        }
        is_in
    }

    /// The command by which this run gives itself up.
    pub const fn surrendered_by(&self) -> Command {
        Command::Surrender { node: self.config.me, incarnation: self.config.incarnation }
    }

    // ----- outputs --------------------------------------------------------------------------------------

    /// The next thing to carry on.
    pub fn poll_output(&mut self, now: Instant) -> Option<Output> {
        self.look_at_lease(now);
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return Some(output);
            }
            if self.drain_rooms(now) {
                continue;
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
            return self.circuits.poll_timeout();
        }
        let spaces = self.spaces.iter().map(|s| s.locks.poll_timeout());
        let membership = self.membership.as_ref().and_then(Membership::poll_timeout);
        let search = self.deadlocks.search.poll_timeout();
        let fencing = self.fencing.room.poll_timeout();
        [self.circuits.poll_timeout(), membership, fencing, self.questions.timeout(), search]
            .into_iter()
            .chain(spaces)
            .flatten()
            .min()
    }

    /// Carries what the rooms have to say. Returns whether anything moved.
    pub(crate) fn drain_rooms(&mut self, now: Instant) -> bool {
        let mut moved = false;
        moved |= self.drain_cluster(now);
        while let Some(output) = self.clock.poll_output() {
            moved = true;
            self.clock_output(output);
        }
        for index in 0..self.spaces.len() {
            while let Some(output) = self.spaces[index].locks.poll_output() {
                moved = true;
                self.lock_output(now, index, output);
            }
            while let Some(wake) = self.spaces[index].words.poll_wake() {
                moved = true;
                self.outputs.push_back(Output::Wake { space: SpaceId(index as u16), wake });
            }
        }
        if core::mem::take(&mut self.restated) {
            // Behind all that was stated.
            moved = true;
            self.recovery.handle_restated(now);
        }
        if !self.ended {
            self.look_for_waits(now);
            moved |= self.drain_search(now);
        }
        if !self.questions.is_empty() {
            for Question { ticket, seen, .. } in self.questions.take_done(now) {
                moved = true;
                self.outputs.push_back(Output::Looked { ticket, seen: seen.into_iter().collect() });
            }
        }
        moved
    }

    pub(crate) fn send(
        &mut self,
        now: Instant,
        to: NodeId,
        class: Class,
        message: &PeerMessage,
    ) -> Result<(), SendError> {
        self.circuits.send(now, to, class, &message.to_bytes())
    }

    // ----- circuits and cluster -------------------------------------------------------------------------

    pub(crate) fn circuit_output(&mut self, now: Instant, output: oarlock_circuit::Output) {
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
                self.runs.insert(peer, incarnation);
                self.tell_pledge(now, peer);
                self.recovery.handle_up(peer, incarnation);
                if let Some(membership) = &mut self.membership {
                    membership.handle_heard(now, peer, incarnation);
                }
            }
            C::Down { peer, incarnation, unknown } => {
                self.runs.remove(&peer);
                if !self.config.nodes.contains_key(&peer) {
                    // It is no member any more, and that has been said.
                    return;
                }
                self.event(Event::Replaced { node: self.node_name(peer), incarnation, unknown });
            }
            C::Silent { peer } => {
                self.hearing.handle_silent(now, peer);
                if let Some(membership) = &mut self.membership {
                    membership.handle_silent(now, peer);
                }
                self.event(Event::Silent { node: self.node_name(peer) });
            }
            C::Heard { peer } => {
                let after = self.hearing.handle_heard(now, peer).unwrap_or_default();
                if let (Some(membership), Some(run)) = (&mut self.membership, self.runs.get(&peer)) {
                    membership.handle_heard(now, peer, *run);
                }
                self.event(Event::Heard { node: self.node_name(peer), after });
            }
            C::Gasp { node, incarnation, code } => self.gasp(now, node, incarnation, &code),
            C::RefusedBy { peer, code } => {
                self.event(Event::RefusedBy { node: self.node_name(peer), code });
            }
            C::Refused { from, node, code } => {
                let node = node.map(|n| self.node_name(n));
                self.event(Event::Refused { from, node, code });
            }
        }
    }

    /// Has a node the right to say this? The one place where that is asked.
    pub(crate) fn may_say(&mut self, from: NodeId, message: &PeerMessage) -> bool {
        let space = match message {
            PeerMessage::Lock(packet) => usize::from(packet.space.0),
            _ => usize::MAX,
        };
        let view = self.spaces.get(space).map_or(self.recovery.view(), |space| space.locks.view());
        let run = self.runs.get(&from).copied();
        let named = view.member(from).map(|member| member.incarnation) == run;
        let role = match self.accesses.get(space) {
            _ if run.is_none() => Role::Stranger,
            _ if !named => Role::Outsider,
            Some(access) if !access.is_for(from) => Role::Bystander,
            _ => Role::Member,
        };
        // No mode gives anything to nodes.
        let may = role.has(Kind::of_peer(message).right(), 0);
        // A run that the view does not name, or not any more, may have a circuit. It is told nothing and not believed.
        if !may && role == Role::Bystander {
            let name = &self.config.spaces[space].name;
            let what = format!("it states locks in lockspace {name}, which is not for programs of that node");
            self.violation(from, what);
        }
        may
    }

    pub(crate) fn deliver(&mut self, now: Instant, from: NodeId, message: PeerMessage) {
        if !self.may_say(from, &message) {
            return;
        }
        match message {
            PeerMessage::Call { .. } | PeerMessage::Answer { .. } => {
                self.outputs.push_back(Output::Carried { from, message });
            }
            _ if self.ended => {}
            PeerMessage::Lock(packet) => self.lock_message(now, from, packet),
            PeerMessage::Barrier(barrier) => self.barrier(now, from, barrier),
            PeerMessage::Report(report) => self.report(now, from, report),
            PeerMessage::Pledge(code) => self.pledged(from, code),
            PeerMessage::Look(look) => {
                if self.spaces.len() <= look.space.0 as usize {
                    return self.violation(from, format!("it asks about lockspace {}", look.space));
                }
                let seen = self.see(now, &look);
                // The asker has gone if this fails; nobody misses the answer.
                let _ = self.send(now, from, Class::Bulk, &PeerMessage::Seen(seen));
            }
            PeerMessage::Seen(seen) => self.questions.answer(from, seen),
            PeerMessage::Trace(trace) => self.trace(now, from, &trace),
            PeerMessage::Traced(traced) => self.was_traced(now, from, traced),
            PeerMessage::Verdict(verdict) => self.verdict(now, verdict),
            PeerMessage::Broken(broken) => self.broken(now, broken),
        }
    }

    pub(crate) fn lock_message(&mut self, now: Instant, from: NodeId, packet: Packet) {
        let Some(Space { locks, words }) = self.spaces.get_mut(packet.space.0 as usize) else {
            return self.violation(from, format!("there is no lockspace {}", packet.space));
        };
        if let Err(violation) = locks.handle_message(now, words.as_mut(), from, packet) {
            self.violation(from, violation.to_string());
        }
    }

    pub(crate) fn clock_output(&mut self, output: watermark::Output) {
        match output {
            watermark::Output::Store(ceiling) => self.outputs.push_back(Output::StoreCeiling { ceiling }),
            watermark::Output::Say(node) => self.circuits.say_something(node),
            // Nobody waits for stamps yet.
            watermark::Output::Ready => {}
            watermark::Output::Misdeed(violation) => self.violation(violation.from(), violation.to_string()),
        }
    }

    pub(crate) fn violation(&mut self, from: NodeId, what: String) {
        self.event(Event::Violation { node: self.node_name(from), what });
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    pub(crate) fn node_name(&self, node: NodeId) -> String {
        match self.config.nodes.get(&node) {
            Some(n) => n.name.clone(),
            None => format!("node {node}"),
        }
    }
}

/// A lockspace as its room is told of it.
pub(crate) fn lock_config(config: &Config, index: usize) -> oarlock_lock::Config {
    let space = &config.spaces[index];
    oarlock_lock::Config {
        space: SpaceId(index as u16),
        me: config.me,
        order: space.order,
        retain: space.retain,
        forget_after: config.forget_after,
    }
}

/// A member as circuits know it.
pub(crate) const fn peer(node: NodeId, member: &NodeConfig) -> Peer {
    Peer { node, address: member.address, key: member.key }
}

/// The version of a hello that is not of ours: what follows it may look different.
fn foreign_hello(packet: &[u8]) -> Option<u16> {
    match packet {
        [1, low, high, ..] => Some(u16::from_le_bytes([*low, *high])).filter(|v| *v != session::VERSION),
        _ => None,
    }
}
