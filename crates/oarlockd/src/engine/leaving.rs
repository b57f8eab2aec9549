//! A node that leaves its cluster for good.
//!
//! ```text
//!   the console: drained, votes no more ──► leave ──► stop ──► nobody holds anything ──► Surrender ──► out of the view ──► Leave
//!                                                      (as with every end of a run)                                          │
//!                                                       answer, `left` on the disk ◄── applied here, or refused as a stranger ─┘
//! ```
//!
//! Members that have applied a `Leave` close their circuits to who left at once, and with them goes the answer that it was applied. So
//! a node that asked for it, and is refused as a stranger after that, knows that it came about.

use std::time::Duration;

use oarlock_cluster::registry::{Command, Outcome, Refusal};
use oarlock_layout::code::Code;
use oarlock_layout::id::SessionId;
use oarlock_layout::time::Instant;
use oarlock_node::Event;
use tracing::{info, warn};

use super::{Answer, Engine};
use crate::coordinator::control::ToControl;

/// How long it may take from the end of the run to the end of the membership: the others see at once that the run gave itself up,
/// and whoever is refused as a stranger notices after a silence and a handshake.
pub(super) const LEAVE_MAX: Duration = Duration::from_secs(15);

/// A node on its way out of the cluster.
pub(super) struct Leaving {
    /// Who asked, and waits for the answer.
    pub(super) session: SessionId,
    request: u32,
    /// What it is to hear if all goes well.
    document: String,
    /// The command is on its way.
    proposed: bool,
    /// It was so at least once.
    asked: bool,
    /// It has come about.
    pub(super) done: bool,
}

impl Engine {
    /// Ends the run, then the membership. Drained it is already, and votes no more: the console has seen to that.
    pub(super) fn leave(&mut self, now: Instant, session: SessionId, request: u32, document: String) {
        if self.stopping.is_some() || self.leaving.is_some() {
            self.sessions.answered(session);
            return self.deny(session, request, Code::NotServing, "the node is stopping already".into());
        }
        info!("leaving the cluster");
        self.leaving =
            Some(Leaving { session, request, document, proposed: false, asked: false, done: false });
        self.stop(now);
    }

    /// Asks for the end of the membership as soon as the run is out of the view.
    pub(super) fn leave_on(&mut self) {
        let (Some(leaving), Some(registry)) = (&mut self.leaving, &self.registry) else { return };
        let out = self.stopping.as_ref().is_some_and(|it| it.run.is_asked());
        let me = self.p.node.me();
        let member = registry.members().find(|it| it.node == me);
        let Some(member) = member.filter(|_| out && !leaving.proposed && !leaving.done) else { return };
        if registry.run(me).is_none() {
            (leaving.proposed, leaving.asked) = (true, true);
            self.p.coordinator.send(ToControl::Propose(Command::Leave { node: me, seen: member.revision }));
        }
    }

    /// What came of it, if it was that.
    pub(super) fn left(&mut self, command: &Command, outcome: Option<Outcome>) {
        let (Some(leaving), Command::Leave { .. }) = (&mut self.leaving, command) else { return };
        match outcome {
            Some(Outcome::Done | Outcome::Already | Outcome::Refused(Refusal::NotAMember(_))) => {
                leaving.done = true
            }
            // What it saw is not so any more, or nobody decided: once again.
            _ => leaving.proposed = false,
        }
        self.leave_on();
    }

    /// A stranger to the others, after it has asked to be one.
    pub(super) fn refused_as_stranger(&mut self, event: &Event) {
        if let (Some(leaving), Event::RefusedBy { code: Code::PeerKey, .. }) = (&mut self.leaving, event) {
            leaving.done |= leaving.asked;
        }
    }

    /// Tells whoever asked, and notes it for good. True: this node has left.
    pub(super) fn has_left(&mut self) -> bool {
        let Some(Leaving { session, request, document, done, asked, .. }) = self.leaving.take() else {
            return false;
        };
        if !done {
            let (code, text) = match asked {
                true => (
                    Code::OutcomeUnknown,
                    "the run has ended, and whether the membership has is not known; another member tells",
                ),
                false => (
                    Code::ChangeRefused,
                    "the run has ended, the membership has not: programs did not hang up, or nobody put the run out; \
                     start the node and let it leave again",
                ),
            };
            self.deny(session, request, code, text.into());
            self.tell_the_last();
            return false;
        }
        // Before anybody hears of it.
        if let Err(problem) = self.sessions.with_spare(|| self.p.data.mark_left()) {
            warn!("{problem}");
        }
        self.answer(session, request, Answer::Document(document));
        self.tell_the_last();
        true
    }

    /// Sends what is kept back for whoever asked to leave: no turn comes after this one.
    fn tell_the_last(&mut self) {
        let now = super::clock::now();
        for said in std::mem::take(&mut self.replies) {
            self.say(now, said);
        }
    }
}
