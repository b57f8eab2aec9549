//! What is held: the part that both twins of the client share.
//!
//! A lock is held in an entry of a segment, where this process changes it by itself, or in the node's own table, where
//! everything is asked for. Of a lock in an entry the session's table knows only while something is asked about it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::LockId;
use oarlock_layout::lease::Standing;
use oarlock_layout::limit::VALUE_BYTES;
use oarlock_layout::message::session::{ConvertRequest, Failure, Request};
use oarlock_layout::mode::Mode;
use oarlock_layout::segment::MANNER;
use oarlock_layout::token::Token;
use oarlock_layout::value::Value;
use oarlock_shm::{Answer as Found, Loss, Taken, Ticket};

use crate::error::{Error, Result};
use crate::segment::{self, Segment, Shared};
use crate::session::Owner;
use crate::table::{Carried, Grant, Place, Table};
use crate::wakers::Effects;
use crate::wish::{Bytes, Manner, SpaceRef, Subject};

/// A lock that is held. Dropping it gives the lock back.
pub(crate) struct Held {
    space: SpaceRef,
    pub(crate) handle: u32,
    name: Bytes,
    pub(crate) flags: Flags,
    /// If it is held in an entry.
    shared: Option<Mutex<Shared>>,
    /// Each request says for itself whether the value block moves.
    value_by_call: bool,
}

impl Held {
    #[inline(always)]
    pub(crate) fn new(
        space: SpaceRef,
        handle: u32,
        name: Bytes,
        flags: Flags,
        shared: Option<Shared>,
    ) -> Held {
        let shared = shared.map(Mutex::new);
        Held { space, handle, name, flags, shared, value_by_call: false }
    }

    /// The same, where each request says for itself whether the value block moves.
    pub(crate) fn value_by_call(mut self, by_call: bool) -> Held {
        self.value_by_call = by_call;
        self
    }

    /// The same, held in an entry.
    pub(crate) fn with(mut self, shared: Shared) -> Held {
        self.shared = Some(Mutex::new(shared));
        self
    }

    #[inline(always)]
    pub(crate) fn session(&self) -> &Arc<Owner> {
        &self.space.session
    }

    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject { space: &self.space.name, name: &self.name }
    }

    fn uses_value(&self) -> bool {
        self.flags.contains(Flags::VALBLK)
    }

    /// Drops without giving back: there is nothing to give, or somebody else does.
    pub(crate) fn forget(mut self) {
        self.handle = 0;
    }

    /// Where its answers come in.
    pub(crate) fn place(&self) -> Place {
        Place::Lock(self.handle)
    }

    /// Where its news come in.
    pub(crate) fn news_place(&self) -> Place {
        match self.shared {
            Some(_) => Place::Watch(self.handle),
            None => Place::Lock(self.handle),
        }
    }

    pub(crate) fn id(&self) -> LockId {
        LockId::new(self.session().hello.session, self.handle)
    }

    /// What stands in the entry, with what an answer that nobody waited for has changed. None without an entry, and in a
    /// fork: there a thread that is not here may have locked it.
    fn shared(&self) -> Option<MutexGuard<'_, Shared>> {
        let shared = self.shared.as_ref()?;
        self.session().check_process(String::new).ok()?;
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ticket) = shared.asked
            && !self.session().look(|table| table.asks_about(self.handle))
        {
            take_up(&mut shared, self.space.place(), ticket, None);
        }
        Some(shared)
    }

    /// What is held. In a fork that is nothing; and the table's mutex may have been locked at the fork by a
    /// thread that is not here to unlock it.
    pub(crate) fn grant(&self) -> Grant {
        if let Some(mut shared) = self.shared() {
            let (mode, token) = (shared.hold.mode, shared.token(self.space.place()));
            let (value, alternate) = (shared.value(), shared.alternate);
            return Grant { mode, token, value, shown: value.is_some(), alternate };
        }
        match self.session().check_process(String::new) {
            Ok(()) => self.session().look(|table| table.grant(self.handle)),
            Err(_) => Grant::NOTHING,
        }
    }

    /// The mode; unlike [`grant`](Held::grant) this draws no token.
    pub(crate) fn mode(&self) -> Mode {
        match self.shared() {
            Some(shared) => shared.hold.mode,
            None => self.grant().mode,
        }
    }

    pub(crate) fn token(&self) -> Token {
        self.grant().token
    }

    pub(crate) fn value(&self) -> Option<Value> {
        match self.shared() {
            Some(shared) => shared.value(),
            None => self.grant().value,
        }
    }

    /// Puts a value aside for the release; None marks the block as not to be believed.
    pub(crate) fn stage(&self, bytes: Option<&[u8]>) -> Result<()> {
        let what = || format!("cannot set the value block of {}", self.subject());
        self.session().check_process(what)?;
        let mode = self.mode();
        let why = if !self.uses_value() && !self.value_by_call {
            "the lock was taken without value_block()".to_owned()
        } else if !mode.writes_value() {
            format!("it is held in {mode}, and only PW and EX write")
        } else if bytes.is_some_and(|bytes| bytes.len() > VALUE_BYTES) {
            format!("{} bytes were given, a block has {VALUE_BYTES}", bytes.map_or(0, <[u8]>::len))
        } else {
            let block = bytes.map(|bytes| {
                let mut block = [0; VALUE_BYTES];
                block[..bytes.len()].copy_from_slice(bytes);
                block
            });
            match self.shared() {
                Some(mut shared) => shared.block_mut().staged = Some(block),
                None => self.session().change(|table, _| table.stage(self.handle, block)),
            }
            return Ok(());
        };
        Err(Error::new(Code::Usage, what(), why))
    }

    /// Why the lock is lost, if it is.
    pub(crate) fn loss(&self) -> Option<Error> {
        let what = || format!("the lock on {} is lost", self.subject());
        if let Err(error) = self.session().check_process(what) {
            return Some(error);
        }
        if let Some(loss) = self.shared().and_then(|shared| shared.check(self.space.place()).err()) {
            self.session().lose(loss);
        } else if self.session().standing() == Standing::Over {
            self.session().lose(Some(Loss::Lease));
        }
        let ended = self.session().look(|table| table.ended().cloned())?;
        Some(Error::new(Code::Lost, what(), ended.text))
    }

    /// Why the lock is in danger to be lost, if it is and is held still (L6).
    pub(crate) fn risk(&self) -> Option<Error> {
        let what = || format!("the lock on {} is at risk", self.subject());
        let why = "the node has not renewed its lease; unless it does soon, others get the lock";
        let standing = self.session().standing();
        (standing > Standing::Live && standing < Standing::Over)
            .then(|| Error::new(Code::AtRisk, what(), why))
    }

    /// Is there something to say to whoever waits for a loss?
    pub(crate) fn ends(&self, table: &Table) -> Option<()> {
        (table.ended().is_some() || self.session().standing() > Standing::Live).then_some(())
    }

    /// What that is.
    pub(crate) fn end(&self) -> Option<Error> {
        self.loss().or_else(|| self.risk())
    }

    /// [`loss`](Held::loss), after a look at the socket if nobody else watches it.
    pub(crate) fn check_lost(&self) -> Option<Error> {
        if self.session().check_process(String::new).is_ok() {
            self.session().catch_up();
        }
        self.loss()
    }

    /// What others want, if it was not told yet.
    pub(crate) fn news(&self) -> Option<Mode> {
        self.session().check_process(String::new).ok()?;
        self.session().catch_up();
        match self.shared() {
            Some(mut shared) => self.fresh(&mut shared),
            None => self.session().change(|table, _| table.take_wanted(self.handle)),
        }
    }

    fn fresh(&self, shared: &mut Shared) -> Option<Mode> {
        if shared.asked.is_some() { None } else { shared.news(self.space.place()) }
    }

    /// The same under the table's mutex, for those who wait: none in it when the session has ended.
    pub(crate) fn wait_for_news(&self, table: &mut Table) -> Option<Option<Mode>> {
        let news = match &self.shared {
            // Whoever asks something about the lock holds this mutex while taking the table's. A change of mode brings
            // its own news.
            Some(shared) => shared.try_lock().ok().and_then(|mut shared| self.fresh(&mut shared)),
            None => table.take_wanted(self.handle),
        };
        news.map(Some).or(table.ended().map(|_| None))
    }

    // ----- conversion -----------------------------------------------------------------------------------

    /// Changes the mode in this process, or asks for it.
    pub(crate) fn begin_convert(&self, manner: &Manner) -> Result<Option<PendingConvert<'_>>> {
        let mode = manner.mode;
        let what = || format!("cannot convert {} to {mode}", self.subject());
        self.session().check_process(what)?;
        let (mut flags, timeout_ms) = manner.resolve(what)?;
        let failed = |failure| Error::from_failure(what(), failure);
        // Whatever may run foreign code comes when this lock's own mutex is free.
        let here = self.shared().map(|mut shared| self.convert_here(&mut shared, mode, flags));
        let (carried, ticket) = match here {
            None => {
                let begun = self.session().change(|table, _| table.begin_convert(self.handle, mode));
                (begun.map_err(failed)?, None)
            }
            Some(Here::Done { knock }) => {
                if knock {
                    self.session().request(&Request::Knock);
                }
                return Ok(None);
            }
            Some(Here::Lost(loss)) => {
                self.session().lose(loss);
                let text = self.session().look(|table| table.ended().map(|ended| ended.text.clone()));
                let text = text.unwrap_or_else(|| segment::say(loss).into());
                return Err(failed(Failure { code: Code::Lost, text }));
            }
            Some(Here::Fails(failure)) => return Err(failed(failure)),
            Some(Here::Asks(carried, ticket)) => (carried, Some(ticket)),
        };
        // Upward the block is read. Downward it is written only if the caller set it: an unset block
        // stays as it is (29).
        let leaves = carried.from.writes_value() && carried.from.covers(mode);
        let uses = manner.value || self.uses_value() && !self.value_by_call;
        if uses && (carried.value.is_some() || !leaves) {
            flags |= Flags::VALBLK;
        }
        if carried.invalidate {
            flags |= Flags::IVVALBLK;
        }
        let pending = PendingConvert { held: self, mode, ticket, done: false };
        self.session().request(&Request::Convert(ConvertRequest {
            handle: self.handle,
            mode,
            flags,
            timeout_ms,
            value: carried.value,
        }));
        Ok(Some(pending))
    }

    fn convert_here(&self, shared: &mut Shared, mode: Mode, flags: Flags) -> Here {
        if shared.asked.is_some() {
            let text = "another operation of this lock is under way".into();
            return Here::Fails(Failure { code: Code::InFlight, text });
        }
        // A try may be answered here; all else that is said about a change of mode is for the node.
        let plain =
            (flags - Flags::NOQUEUE).is_empty() && !self.uses_value() && !shared.flags.intersects(MANNER);
        if plain {
            match shared.convert(self.space.place(), mode) {
                Taken::Held { knock, .. } => return Here::Done { knock },
                Taken::Lost(loss) => return Here::Lost(Some(loss)),
                _ => {}
            }
        }
        let from = shared.hold.mode;
        let leaves = from.writes_value() && from.covers(mode);
        let staged = shared.staged().filter(|_| leaves);
        let carried = Carried { from, value: staged.flatten(), invalidate: staged == Some(None) };
        let segment = self.space.place();
        let Ok(ticket) = segment.caller.ask_convert(shared.hold, mode) else {
            return Here::Lost(None);
        };
        let handle = self.handle;
        let asked =
            self.session().look_into(|t| t.ask_about_shared(handle, segment, ticket, Some(carried), true));
        if let Err(failure) = asked {
            return Here::Fails(failure);
        }
        shared.asked = Some(ticket);
        shared.flags = (shared.flags - MANNER) | (flags & MANNER);
        Here::Asks(carried, ticket)
    }

    // ----- release --------------------------------------------------------------------------------------

    /// Gives back what is held in an entry. True if that is done, or left to an answer that is on its way; false if the
    /// node must be asked, because there is no entry, or because a value is to be written that cannot be written here.
    fn release_here(&mut self) -> std::result::Result<bool, Error> {
        let (handle, subject) = (self.handle, Subject { space: &self.space.name, name: &self.name });
        let lost = || Error::new(Code::Lost, format!("the lock on {subject} is lost"), segment::say(None));
        let session = &self.space.session;
        // Nobody else has it: nothing needs to be locked.
        let Some(shared) = &mut self.shared else { return Ok(false) };
        let shared = shared.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(ticket) = shared.asked
            && !session.look(|table| table.asks_about(handle))
        {
            take_up(shared, self.space.place(), ticket, None);
        }
        if shared.asked.is_some() {
            // Its answer comes first.
            return Ok(false);
        }
        if !shared.write(self.space.place()) {
            return Ok(false);
        }
        if shared.release(&self.space) { Ok(true) } else { Err(lost()) }
    }

    /// Gives the lock back. Some: an answer will come that somebody should collect.
    pub(crate) fn begin_release(mut self) -> Result<Option<PendingRelease>> {
        self.session().check_process(|| format!("cannot release {}", self.subject()))?;
        // What it did under a lock that was gone it should hear of.
        let lost = self.shared().and_then(|_| {
            let place = self.space.place();
            place.caller.living().err().or(place.is_over().then_some(Loss::Session))
        });
        if let Some(loss) = lost {
            self.session().lose(Some(loss));
        }
        match self.release_here() {
            Ok(true) if lost.is_some() => {
                let what = format!("the release of {} failed", self.subject());
                self.forget();
                return Err(Error::new(Code::Lost, what, segment::say(lost)));
            }
            Ok(true) => {
                self.forget();
                return Ok(None);
            }
            Ok(false) => {}
            Err(error) => {
                if let Some(ended) = self.session().look(|table| table.ended().cloned()) {
                    let what = format!("the release of {} failed", self.subject());
                    self.forget();
                    return Err(Error::new(Code::Lost, what, ended.text));
                }
                self.forget();
                return Err(error);
            }
        }
        self.unlock_by_message(true).map_err(|failure| {
            Error::from_failure(format!("the release of {} failed", self.subject()), failure)
        })?;
        Ok(Some(PendingRelease { held: Some(self) }))
    }

    fn unlock_by_message(&self, awaited: bool) -> Result<(), Failure> {
        let handle = self.handle;
        let Some(shared) = &self.shared else {
            self.session().change(|table, effects| table.begin_unlock(handle, awaited, effects));
            return Ok(());
        };
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever asks so has no guard any more, and the answer lets the entry go.
        self.space.place().unguard(shared.hold.entry);
        if let Some(asked) = shared.asked {
            let staged = shared.staged();
            if self.session().look_into(|table| table.leave_to_answer(handle, awaited, staged)) {
                return Ok(());
            }
            take_up(&mut shared, self.space.place(), asked, None);
        }
        let (staged, segment) = (shared.staged(), self.space.place());
        let ticket = segment.caller.ticket(shared.hold);
        self.session().change(|table, effects| {
            table.ask_about_shared(handle, segment, ticket, None, false)?;
            table.await_shared(handle, awaited);
            let (value, invalidate) = (staged.flatten(), staged == Some(None));
            effects.send.push(Request::Unlock { handle, value, invalidate });
            Ok(())
        })
    }
}

impl Drop for Held {
    #[inline(always)]
    fn drop(&mut self) {
        if !self.let_go() {
            self.leave();
        }
    }
}

impl Held {
    /// Gives back what nothing else is to be said about. False if there is more to do.
    #[inline(always)]
    fn let_go(&mut self) -> bool {
        let Some(shared) = &mut self.shared else { return false };
        let shared = shared.get_mut().unwrap_or_else(PoisonError::into_inner);
        let segment = self.space.place();
        if self.handle == 0 || shared.asked.is_some() || shared.staged().is_some() || !segment.is_mine() {
            return false;
        }
        shared.release(&self.space);
        if segment.is_over() {
            self.space.session.acknowledge();
        }
        true
    }

    #[cold]
    #[inline(never)]
    fn leave(&mut self) {
        // In a fork of the process that took it, the lock is not ours to give back.
        if self.session().check_process(String::new).is_err() {
            return;
        }
        if self.handle != 0
            && let Ok(false) = self.release_here()
        {
            // A session that is over needs no word of it.
            let _ = self.unlock_by_message(false);
        }
        self.session().acknowledge();
    }
}

impl Shared {
    /// Gives it back; false if it was gone.
    #[inline(always)]
    pub(crate) fn release(&self, space: &SpaceRef) -> bool {
        space.place().unguard(self.hold.entry);
        match space.place().caller.release(self.hold) {
            Ok(false) => true,
            Ok(true) => {
                space.knock();
                true
            }
            Err(_) => false,
        }
    }
}

/// What an answered change of mode has left in the entry.
fn take_up(shared: &mut Shared, segment: &Segment, ticket: Ticket, grant: Option<Grant>) {
    shared.asked = None;
    if let Found::Held(hold) = segment.caller.look(ticket) {
        let changed = hold.mode != shared.hold.mode;
        let from = shared.hold.mode;
        if (changed || grant.is_some()) && from.writes_value() && from.covers(hold.mode) {
            // It was carried along, whether anybody waited for the answer or not.
            shared.written();
        }
        if changed || grant.is_some() {
            shared.shown = 0;
        }
        // A way down is no new grant, and keeps its token.
        if !(changed && shared.hold.mode.covers(hold.mode)) && (changed || grant.is_some()) {
            shared.token = grant.map(|grant| grant.token);
        }
        shared.hold = hold;
    }
    if let Some(grant) = grant {
        if grant.value.is_some() {
            shared.block_mut().value = grant.value;
        }
        shared.alternate = grant.alternate;
    }
}

/// What a change of mode came to in this process.
enum Here {
    Done {
        knock: bool,
    },
    Lost(Option<Loss>),
    Fails(Failure),
    /// The node is to be asked.
    Asks(Carried, Ticket),
}

/// A conversion under way; withdrawn when it is dropped.
pub(crate) struct PendingConvert<'a> {
    held: &'a Held,
    mode: Mode,
    ticket: Option<Ticket>,
    done: bool,
}

impl PendingConvert<'_> {
    pub(crate) fn finish(mut self, answer: Result<Grant, Failure>) -> Result<()> {
        self.done = true;
        let held = self.held;
        if let (Some(ticket), Some(shared)) = (self.ticket, &held.shared) {
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let mut woken = Effects::default();
            held.session().look_into(|table| table.end_shared(held.handle, &mut woken));
            take_up(&mut shared, held.space.place(), ticket, answer.as_ref().ok().copied());
            // Whoever is woken may be here at once, and wants this lock's mutex.
            drop(shared);
            held.session().change(|_, effects| effects.wake = woken.wake);
        }
        let what = || format!("{} was not granted on {}", self.mode, held.subject());
        answer.map(|_| ()).map_err(|failure| Error::from_failure(what(), failure))
    }
}

impl Drop for PendingConvert<'_> {
    fn drop(&mut self) {
        if !self.done && self.held.session().check_process(String::new).is_ok() {
            let handle = self.held.handle;
            self.held.session().change(|table, effects| table.desert_convert(handle, effects));
        }
    }
}

/// A release under way. Dropping it leaves the release to finish by itself.
pub(crate) struct PendingRelease {
    held: Option<Held>,
}

impl PendingRelease {
    pub(crate) fn held(&self) -> &Held {
        self.held.as_ref().expect("taken only by finish")
    }

    pub(crate) fn finish(mut self, answer: Result<Grant, Failure>) -> Result<()> {
        let held = self.held.take().expect("taken only here");
        let what = format!("the release of {} failed", held.subject());
        held.forget();
        answer.map(|_| ()).map_err(|failure| Error::from_failure(what, failure))
    }
}

impl Drop for PendingRelease {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            if held.session().check_process(String::new).is_ok() {
                held.session().change(|table, effects| table.desert_unlock(held.handle, effects));
            }
            held.forget();
        }
    }
}
