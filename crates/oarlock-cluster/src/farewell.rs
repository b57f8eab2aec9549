//! When a run may be given up, so that others need not wait for its lease: nobody acts under a lock of it any more (L5).
//!
//! ```text
//!   it ends in order    every program is told ──► each with locks hangs up ──► Surrender          Stopping, in the engine
//!   its engine dies     every program is told ──► each hangs up ──► the last word, said once      Ward, in the keeper
//!   it ends by itself   programs are told, and nobody waits for them ──► its lease runs out       neither says anything
//! ```
//!
//! To be told is not to have heard: a program may stand still, or have to end what runs under its locks. It says that it has done so
//! by hanging up, and only then its locks may be somebody else's. `oarlock lock` hangs up when its command is dead, and the library
//! when the last guard of the session is gone.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use oarlock_layout::id::{Incarnation, SessionId};

/// A run that is on its way to its end in order, and is still there to see to it.
#[derive(Clone, Debug)]
pub struct Stopping {
    holders: BTreeSet<SessionId>,
    /// None: not asked yet. False: asked, or never to be.
    surrendered: Option<bool>,
}

impl Stopping {
    /// All programs have been told. `holders` held locks then or waited for some. A run that had `ended` by itself before knows no holders
    /// any more, though what ran under its locks may still run: nobody can say that it holds nothing, so it never gives itself up.
    pub fn new(holders: Vec<SessionId>, ended: bool) -> Stopping {
        Stopping { holders: holders.into_iter().collect(), surrendered: ended.then_some(false) }
    }

    /// The program of a session has hung up.
    pub fn hung_up(&mut self, session: SessionId) {
        self.holders.remove(&session);
    }

    /// Programs that have not.
    pub fn waits_for(&self) -> usize {
        self.holders.len()
    }

    /// Is this session one that is waited for?
    pub fn awaits(&self, session: SessionId) -> bool {
        self.holders.contains(&session)
    }

    /// Is it true now, and has nobody been asked to note it?
    pub fn may_give_up(&self) -> bool {
        self.holders.is_empty() && self.surrendered.is_none()
    }

    /// The coordinator was asked; or not, because the run was in no view and there is nothing to give up.
    pub const fn asked(&mut self, asked: bool) {
        self.surrendered = Some(!asked);
    }

    /// The coordinator has noted it.
    pub const fn noted(&mut self) {
        self.surrendered = Some(true);
    }

    /// The coordinator was asked, or need not be.
    pub const fn is_asked(&self) -> bool {
        self.surrendered.is_some()
    }

    /// Nothing is left to wait for: it is noted, or there is nothing to note.
    pub const fn is_given_up(&self) -> bool {
        matches!(self.surrendered, Some(true))
    }
}

/// What a keeper knows of one run.
#[derive(Clone, Debug, Default)]
pub struct Ward {
    sessions: BTreeSet<u64>,
    last_word: Option<Incarnation>,
    missing: bool,
    again: bool,
}

/// How it stands with a run whose engine has died.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Care {
    /// Programs have not acknowledged yet.
    Waits,
    /// All have: the run holds nothing any more, which is to be said.
    GivenUp(Incarnation),
    /// It was in no view, and has granted nothing.
    NothingHeld,
    /// Nothing can be said for it: its lease runs out.
    LeftToItsLease,
}

impl Ward {
    /// A session begins, before anything is asked for in it. Numbers are the keeper's own.
    pub fn begun(&mut self, session: u64) {
        self.sessions.insert(session);
    }

    /// Its program has hung up: it has heard, and what ran under its locks has ended.
    pub fn hung_up(&mut self, session: u64) {
        self.sessions.remove(&session);
    }

    /// Programs that have not.
    pub fn waits_for(&self) -> usize {
        self.sessions.len()
    }

    /// The last word of the run is laid down: it is in the view, and has granted nothing yet.
    pub const fn laid_down(&mut self, incarnation: Incarnation) {
        self.last_word = Some(incarnation);
    }

    /// Something did not come here. Who knows what is held under it: this run gives nothing up. False: that was so before.
    pub const fn miss(&mut self) -> bool {
        !core::mem::replace(&mut self.missing, true)
    }

    /// The run has ended by itself, and closes its sessions: no program has acknowledged anything by that.
    pub const fn ended_by_itself(&mut self) {
        self.again = true;
    }

    /// Did the run end by itself, so that another is to follow?
    pub const fn has_ended_by_itself(&self) -> bool {
        self.again
    }

    /// Its engine has died. `over`: so long ago that nobody waits for its lease any more.
    pub fn settle(&self, over: bool) -> Care {
        let Some(incarnation) = self.last_word else { return Care::NothingHeld };
        if self.missing || self.again || over {
            return Care::LeftToItsLease;
        }
        if self.sessions.is_empty() { Care::GivenUp(incarnation) } else { Care::Waits }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Incarnation = Incarnation(9);

    /// L5: who has been told has not heard.
    #[test]
    fn a_run_that_stops_gives_itself_up_when_every_holder_has_hung_up() {
        let mut stopping = Stopping::new([3, 5].map(SessionId).to_vec(), false);
        assert!(!stopping.may_give_up() && stopping.awaits(SessionId(5)) && !stopping.awaits(SessionId(4)));
        stopping.hung_up(SessionId(3));
        assert!(!stopping.may_give_up() && stopping.waits_for() == 1);
        stopping.hung_up(SessionId(5));
        assert!(stopping.may_give_up() && !stopping.is_given_up());
        stopping.asked(true);
        assert!(!stopping.may_give_up() && stopping.is_asked() && !stopping.is_given_up());
        stopping.noted();
        assert!(stopping.is_given_up());
        let mut nowhere = Stopping::new(Vec::new(), false);
        nowhere.asked(false);
        assert!(nowhere.is_given_up(), "it was in no view");
    }

    /// L5: one that had ended by itself knows nothing of its programs.
    #[test]
    fn a_run_that_had_ended_before_never_gives_itself_up() {
        let stopping = Stopping::new(Vec::new(), true);
        assert!(!stopping.may_give_up() && stopping.is_asked() && !stopping.is_given_up());
    }

    /// L5: all of them, not only those with locks: the keeper does not know who has any.
    #[test]
    fn a_keeper_says_the_last_word_when_every_session_has_hung_up() {
        let mut ward = Ward::default();
        assert_eq!(ward.settle(false), Care::NothingHeld);
        ward.laid_down(RUN);
        for session in [1, 2] {
            ward.begun(session);
        }
        assert_eq!(ward.settle(false), Care::Waits);
        ward.hung_up(1);
        assert_eq!((ward.settle(false), ward.waits_for()), (Care::Waits, 1));
        assert_eq!(ward.settle(true), Care::LeftToItsLease);
        ward.hung_up(2);
        assert_eq!(ward.settle(false), Care::GivenUp(RUN));
        let mut again = ward.clone();
        again.ended_by_itself();
        assert_eq!(again.settle(false), Care::LeftToItsLease);
        assert!(ward.miss() && !ward.miss());
        assert_eq!(ward.settle(false), Care::LeftToItsLease);
    }
}
