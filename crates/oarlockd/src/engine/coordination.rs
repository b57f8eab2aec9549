//! The engine and its coordinator: what is carried between them, and how a run ends.

use std::sync::Arc;
use std::time::Duration;

use oarlock_cluster::registry::{Command, Outcome, Registry};
use oarlock_layout::code::Code;
use oarlock_layout::time::Instant;
use tracing::{debug, error, info, warn};

use super::forgotten::not_let_in;
use super::leaving::LEAVE_MAX;
use super::{Engine, Level};
use crate::coordinator::Trouble;
use crate::coordinator::control::{FromControl, ToControl};
use crate::host::clock;
use crate::problem::Result;

/// How long a run that has stopped in order may take to give itself up. Others wait for its lease otherwise.
const SURRENDER_MAX: Duration = Duration::from_millis(1_500);

/// How a run ended.
#[derive(Debug)]
pub enum Ending {
    /// As somebody wished.
    Stopped,
    /// As somebody wished, and with it the membership of the node.
    Left,
    /// By itself: the keeper begins another.
    Again,
}

impl Engine {
    /// Takes in what the coordinator has to say.
    pub(super) fn coordinate(&mut self, now: Instant) {
        while let Some(message) = self.p.coordinator.poll() {
            match message {
                // What is not sent is lost; whoever called asks again.
                FromControl::Carry { to, message } => _ = self.p.node.carry(now, to, &message),
                FromControl::Applied(registry) => {
                    self.give(&registry);
                    let was_in = self.p.node.has_entered();
                    self.p.node.handle_applied(now, &registry);
                    self.note_fences(&registry);
                    if !was_in && self.p.node.has_entered() {
                        self.keep_outside(now, &registry);
                    }
                    self.p.applied.send_replace(Arc::clone(&registry));
                    self.registry = Some(registry);
                    self.leave_on();
                }
                FromControl::Answered { command, outcome } => {
                    self.proposed.retain(|it| *it != command);
                    if !self.decided(&command, Ok(outcome)) {
                        self.answered(now, &command, outcome);
                    }
                }
                // Nobody repeats it but who has stopped: a run that goes on tells of others again by itself.
                FromControl::Failed { command: command @ Command::Surrender { .. }, .. }
                    if self.stopping.is_some() =>
                {
                    self.p.coordinator.send(ToControl::Propose(command));
                }
                // Whoever is still of the same mind proposes it again.
                FromControl::Failed { command, trouble } => {
                    debug!("{trouble}: {command:?}");
                    self.proposed.retain(|it| *it != command);
                    self.left(&command, None);
                    self.decided(&command, Err(trouble));
                }
                FromControl::Standing(standing) => {
                    if standing.leader != self.standing.leader {
                        let (level, text) =
                            match standing.leader.and_then(|node| self.p.node.member_name(node)) {
                                Some(name) => (Level::Info, format!("{name} leads the coordinator")),
                                None => (
                                    Level::Warn,
                                    "nobody leads the coordinator, as far as this node knows".into(),
                                ),
                            };
                        self.events.note(level, None, text);
                    }
                    if standing.outside != self.standing.outside
                        && let Some(outside) = &standing.outside
                    {
                        let (level, does) = match outside.answers {
                            true => (Level::Info, "answers"),
                            false => (Level::Warn, "does not answer"),
                        };
                        self.events.note(level, None, format!("etcd by {} {does}", outside.endpoint));
                    }
                    self.standing = standing;
                }
                FromControl::SteppedDown => {
                    if let Some(stopping) = &mut self.stopping {
                        stopping.steps_down = false;
                    }
                }
                FromControl::Misdeed { from, misdeed } => {
                    let name = self.p.node.member_name(from).unwrap_or("a stranger").to_owned();
                    let text = format!("{name} misbehaves: {misdeed}");
                    self.events.note(Level::Error, Some(Code::PeerViolation), text);
                }
                FromControl::Down(problem) => {
                    error!("{problem}");
                    self.down = Some(problem);
                    self.stop(now);
                }
            }
        }
    }

    /// What is given to members by name is given to those who have the names now.
    pub(super) fn give(&mut self, registry: &Registry) {
        let me = self.p.node.me();
        // Not before it is founded; nor by what was before this node joined, when another one may have had its number.
        let member = registry.member(me).filter(|it| Some(it.name.as_str()) == self.p.node.member_name(me));
        let members = registry.members().map(|it| (it.node, it.name.as_str()));
        if member.is_some() && self.p.rights.know(members) {
            self.p.node.give(self.p.rights.accesses().to_vec());
        }
    }

    /// Remembers which cluster etcd decides about: the one that the next run must find there. Not before it has let this run in: what is
    /// there may be somebody else's.
    fn keep_outside(&mut self, now: Instant, registry: &Registry) {
        let Some(cluster) = registry.cluster().filter(|_| self.p.relies_on_etcd) else { return };
        let data = &self.p.data;
        if let Err(problem) = self.sessions.with_spare(|| data.keep_outside(u128::from_be_bytes(cluster))) {
            self.down = Some(problem);
            self.stop(now);
        }
    }

    /// Tells somebody who asked for a command what came of it. False: nobody did.
    fn decided(&mut self, command: &Command, decided: std::result::Result<Outcome, Trouble>) -> bool {
        let Some(at) = self.by_hand.iter().position(|(asked, _)| asked == command) else { return false };
        let (_, reply) = self.by_hand.swap_remove(at);
        let registry = self.registry.clone().unwrap_or_default();
        // Whoever asked may have left meanwhile.
        let _ = reply.send(decided.map(|outcome| (outcome, registry)));
        true
    }

    fn answered(&mut self, now: Instant, command: &Command, outcome: Outcome) {
        let own = self.p.node.surrendered_by();
        if let Some(stopping) = self.stopping.as_mut().filter(|_| *command == own) {
            stopping.run.noted();
        }
        self.left(command, Some(outcome));
        self.p.node.handle_answer(now, command, outcome);
    }

    /// Segments say until when programs hold what they hold, on the clock that programs look at.
    pub(super) fn lease(&mut self, until: Instant) {
        // In this order: programs take it for over no later than the node does.
        let monotonic = clock::monotonic();
        let left = until.since(clock::now());
        self.p.node.renew(monotonic + left.as_nanos() as u64);
        if let Err(errno) = self.p.lease.write(until) {
            // Programs then take it for over too early.
            warn!("the lease cannot be noted: {errno}");
        }
    }

    /// A run that has been stopped, and under whose locks nobody acts any more, gives itself up. True if that is to be
    /// carried.
    pub(super) fn give_up(&mut self) -> bool {
        let Some(stopping) = &mut self.stopping else { return false };
        if !stopping.run.may_give_up() || self.down.is_some() {
            return false;
        }
        // False: it was in no view.
        let asked = self.p.node.surrender();
        stopping.run.asked(asked);
        stopping.until = clock::now() + if self.leaving.is_some() { LEAVE_MAX } else { SURRENDER_MAX };
        // A run that was in no view has nothing to wait for.
        self.leave_on();
        true
    }

    /// Is there nothing left to wait for?
    pub(super) fn ended(&self) -> bool {
        match &self.stopping {
            Some(s) => {
                let out = match &self.leaving {
                    Some(leaving) => leaving.done,
                    None => s.run.is_given_up(),
                };
                (out && (!s.steps_down || self.down.is_some())) || s.until <= clock::now()
            }
            None => self.p.node.has_ended(),
        }
    }

    /// The end of a run.
    pub(super) fn finish(mut self) -> Result<Ending> {
        // Programs have heard; what is left of them hangs up now.
        let left = self.has_left();
        let stopping = self.stopping.take();
        if !self.p.coordinator.stop() {
            warn!("the disk does not let the coordinator's file go");
        }
        if let Some(problem) = self.down {
            return Err(problem);
        }
        let Some(stopping) = stopping else {
            if let Some(why) = self.p.node.not_let_in() {
                return Err(not_let_in(&self.p.node, &self.p.data, self.registry.as_deref(), &why));
            }
            warn!("this run has ended; another begins");
            self.p.keeper.again()?;
            return Ok(Ending::Again);
        };
        if stopping.run.waits_for() > 0 {
            warn!(
                "stopped, but {} programs did not hang up after losing their locks; others wait for the end of the lease",
                stopping.run.waits_for()
            );
        } else if stopping.run.is_given_up() {
            info!("stopped; nobody can still hold a lock of this run");
        } else {
            info!("stopped; the coordinator did not hear of it, so others wait for the end of the lease");
        }
        Ok(if left { Ending::Left } else { Ending::Stopped })
    }
}
