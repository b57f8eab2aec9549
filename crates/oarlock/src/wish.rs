//! What is asked for, and what is held: the parts that both twins of the client share.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{LockId, OwnerId, SpaceId, TransactionId};
use oarlock_layout::limit::{LABEL_BYTES_MAX, VALUE_BYTES};
use oarlock_layout::message::session::{ConvertRequest, Failure, LockRequest, Request};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::token::Token;
use oarlock_layout::value::Value;

use crate::calls::Answer;
use crate::error::{Error, Result};
use crate::session::Owner;
use crate::table::{Grant, Place};

/// The lockspace that exists in every cluster; its number is fixed, so nobody has to ask for it.
pub(crate) const DEFAULT_SPACE: &str = "default";

/// A lockspace, found.
#[derive(Clone)]
pub(crate) struct SpaceRef {
    pub(crate) session: Arc<Owner>,
    pub(crate) id: SpaceId,
    pub(crate) name: Arc<str>,
}

impl SpaceRef {
    /// `default` without asking; None if the daemon must be asked.
    pub(crate) fn known(session: &Arc<Owner>, name: &str) -> Result<Option<SpaceRef>> {
        let what = || format!("cannot open lockspace \"{name}\"");
        session.check_process(what)?;
        if name.is_empty() || name.len() > LABEL_BYTES_MAX {
            let why = format!("the name has {} bytes, it may have 1 to {LABEL_BYTES_MAX}", name.len());
            return Err(Error::new(Code::UnknownSpace, what(), why));
        }
        Ok((name == DEFAULT_SPACE).then(|| SpaceRef {
            session: Arc::clone(session),
            id: SpaceId(0),
            name: name.into(),
        }))
    }

    /// From the daemon's answer.
    pub(crate) fn answered(
        session: &Arc<Owner>,
        name: &str,
        answer: Result<Answer, Failure>,
    ) -> Result<SpaceRef> {
        match answer {
            Ok(Answer::Space(id)) => Ok(SpaceRef { session: Arc::clone(session), id, name: name.into() }),
            Ok(Answer::Bytes(_)) => Err(Error::new(
                Code::SessionMalformed,
                format!("cannot open lockspace \"{name}\""),
                "the daemon answered another question",
            )),
            Err(failure) => Err(Error::from_failure(format!("cannot open lockspace \"{name}\""), failure)),
        }
    }
}

/// A lookup or question under way; withdrawn when it is dropped.
pub(crate) struct PendingCall {
    pub(crate) session: Arc<Owner>,
    pub(crate) number: u32,
    done: bool,
}

impl PendingCall {
    pub(crate) fn begin(
        session: &Arc<Owner>,
        what: &str,
        request: impl FnOnce(u32) -> Request,
    ) -> Result<PendingCall> {
        session.check_process(|| what.to_owned())?;
        let number = session
            .change(|table, _| table.begin_call())
            .map_err(|failure| Error::from_failure(what, failure))?;
        let pending = PendingCall { session: Arc::clone(session), number, done: false };
        session.request(&request(number));
        Ok(pending)
    }

    pub(crate) fn place(&self) -> Place {
        Place::Call(self.number)
    }

    pub(crate) fn done(mut self) {
        self.done = true;
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        if !self.done && self.session.check_process(String::new).is_ok() {
            self.session.change(|table, effects| table.desert_call(self.number, effects));
        }
    }
}

/// What a lock protects, for messages.
#[derive(Clone)]
pub(crate) struct Subject {
    pub(crate) space: Arc<str>,
    pub(crate) name: Name,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.name)?;
        if &*self.space != DEFAULT_SPACE { write!(f, " in \"{}\"", self.space) } else { Ok(()) }
    }
}

/// How long to wait, and what else there is to say about a request of either kind.
#[derive(Clone)]
pub(crate) struct Manner {
    pub(crate) mode: Mode,
    pub(crate) flags: Flags,
    pub(crate) timeout: Option<Duration>,
    pub(crate) alternate: Option<Mode>,
}

impl Manner {
    pub(crate) fn new(mode: Mode) -> Manner {
        Manner { mode, flags: Flags::empty(), timeout: None, alternate: None }
    }

    /// Flags and milliseconds as they are sent.
    fn resolve(&self, what: impl FnOnce() -> String) -> Result<(Flags, u32)> {
        let mut flags = self.flags;
        match self.alternate {
            None => {}
            Some(Mode::PR) => flags |= Flags::ALTPR,
            Some(Mode::CW) => flags |= Flags::ALTCW,
            Some(other) => {
                let why = format!("{other} cannot be a second choice, only PR and CW can");
                return Err(Error::new(Code::BadFlags, what(), why));
            }
        }
        let timeout_ms = match self.timeout {
            None => 0,
            Some(Duration::ZERO) => {
                flags |= Flags::NOQUEUE;
                0
            }
            // Rounded up: a wait is never shorter than asked for. 49 days stand for all that is longer.
            Some(time) => u32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX),
        };
        Ok((flags, timeout_ms))
    }
}

/// A new lock, as asked for.
#[derive(Clone)]
pub(crate) struct Wish {
    pub(crate) space: SpaceRef,
    pub(crate) name: Result<Name, (usize, String)>,
    pub(crate) manner: Manner,
    pub(crate) owner: u64,
    pub(crate) transaction: u64,
}

impl Wish {
    pub(crate) fn new(space: &SpaceRef, name: &[u8]) -> Wish {
        Wish {
            space: space.clone(),
            name: Name::new(name).map_err(|error| (name.len(), error.to_string())),
            manner: Manner::new(Mode::EX),
            owner: 0,
            transaction: 0,
        }
    }

    /// Sends the request.
    pub(crate) fn begin(&self) -> Result<PendingLock> {
        let mode = self.manner.mode;
        let name = match &self.name {
            Ok(name) => name.clone(),
            Err((length, why)) => {
                let what = format!("cannot lock a name of {length} bytes");
                return Err(Error::new(Code::BadName, what, why));
            }
        };
        let subject = Subject { space: Arc::clone(&self.space.name), name };
        let what = || format!("cannot lock {subject} in {mode}");
        let session = &self.space.session;
        session.check_process(what)?;
        let (flags, timeout_ms) = self.manner.resolve(what)?;
        let handle = session
            .change(|table, _| table.begin_lock())
            .map_err(|failure| Error::from_failure(what(), failure))?;
        let request = Request::Lock(LockRequest {
            handle,
            space: self.space.id,
            name: subject.name.clone(),
            mode,
            flags,
            timeout_ms,
            owner: OwnerId(self.owner),
            transaction: TransactionId(self.transaction),
        });
        let uses_value = flags.contains(Flags::VALBLK);
        let held = Held { session: Arc::clone(session), handle, subject, uses_value };
        let pending = PendingLock { held: Some(held), mode };
        session.request(&request);
        Ok(pending)
    }
}

/// A request for a new lock under way; withdrawn when it is dropped.
pub(crate) struct PendingLock {
    held: Option<Held>,
    mode: Mode,
}

impl PendingLock {
    pub(crate) fn session(&self) -> &Arc<Owner> {
        &self.held().session
    }

    pub(crate) fn handle(&self) -> u32 {
        self.held().handle
    }

    pub(crate) fn place(&self) -> Place {
        Place::Lock(self.handle())
    }

    fn held(&self) -> &Held {
        self.held.as_ref().expect("taken only by finish")
    }

    /// What the answer means.
    pub(crate) fn finish(mut self, answer: Result<Grant, Failure>) -> Result<Held> {
        let held = self.held.take().expect("taken only here");
        match answer {
            Ok(_) => Ok(held),
            Err(failure) => {
                let what = format!("{} was not granted on {}", self.mode, held.subject);
                held.forget();
                Err(Error::from_failure(what, failure))
            }
        }
    }
}

impl Drop for PendingLock {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            if held.session.check_process(String::new).is_ok() {
                held.session.change(|table, effects| table.desert_lock(held.handle, effects));
            }
            held.forget();
        }
    }
}

/// A lock that is held. Dropping it gives the lock back.
pub(crate) struct Held {
    pub(crate) session: Arc<Owner>,
    pub(crate) handle: u32,
    pub(crate) subject: Subject,
    uses_value: bool,
}

impl Held {
    /// Drops without giving back: there is nothing to give, or somebody else does.
    fn forget(mut self) {
        self.handle = 0;
    }

    pub(crate) fn place(&self) -> Place {
        Place::Lock(self.handle)
    }

    pub(crate) fn id(&self) -> LockId {
        LockId::new(self.session.hello.session, self.handle)
    }

    /// What is held. In a fork that is nothing; and the table's mutex may have been locked at the fork by a
    /// thread that is not here to unlock it.
    pub(crate) fn grant(&self) -> Grant {
        match self.session.check_process(String::new) {
            Ok(()) => self.session.look(|table| table.grant(self.handle)),
            Err(_) => Grant::NOTHING,
        }
    }

    pub(crate) fn token(&self) -> Token {
        self.grant().token
    }

    pub(crate) fn value(&self) -> Option<Value> {
        self.grant().value
    }

    /// Puts a value aside for the release; None marks the block as not to be believed.
    pub(crate) fn stage(&self, bytes: Option<&[u8]>) -> Result<()> {
        let what = || format!("cannot set the value block of {}", self.subject);
        self.session.check_process(what)?;
        let mode = self.grant().mode;
        let why = if !self.uses_value {
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
            self.session.change(|table, _| table.stage(self.handle, block));
            return Ok(());
        };
        Err(Error::new(Code::Usage, what(), why))
    }

    /// Why the lock is lost, if it is.
    pub(crate) fn loss(&self) -> Option<Error> {
        let what = || format!("the lock on {} is lost", self.subject);
        if let Err(error) = self.session.check_process(what) {
            return Some(error);
        }
        let ended = self.session.look(|table| table.ended().cloned())?;
        Some(Error::new(Code::Lost, what(), ended.text))
    }

    /// [`loss`](Held::loss), after a look at the socket if nobody else watches it.
    pub(crate) fn check_lost(&self) -> Option<Error> {
        if self.session.check_process(String::new).is_ok() {
            self.session.catch_up();
        }
        self.loss()
    }

    /// What others want, if it was not told yet.
    pub(crate) fn news(&self) -> Option<Mode> {
        self.session.check_process(String::new).ok()?;
        self.session.catch_up();
        self.session.change(|table, _| table.take_wanted(self.handle))
    }

    /// Sends a conversion.
    pub(crate) fn begin_convert(&self, manner: &Manner) -> Result<PendingConvert<'_>> {
        let mode = manner.mode;
        let what = || format!("cannot convert {} to {mode}", self.subject);
        self.session.check_process(what)?;
        let (mut flags, timeout_ms) = manner.resolve(what)?;
        let carried = self
            .session
            .change(|table, _| table.begin_convert(self.handle, mode))
            .map_err(|failure| Error::from_failure(what(), failure))?;
        // Upward the block is read. Downward it is written only if the caller set it: an unset block
        // stays as it is (29).
        let leaves = carried.from.writes_value() && carried.from.covers(mode);
        if self.uses_value && (carried.value.is_some() || !leaves) {
            flags |= Flags::VALBLK;
        }
        if carried.invalidate {
            flags |= Flags::IVVALBLK;
        }
        let pending = PendingConvert { held: self, mode, done: false };
        self.session.request(&Request::Convert(ConvertRequest {
            handle: self.handle,
            mode,
            flags,
            timeout_ms,
            value: carried.value,
        }));
        Ok(pending)
    }

    /// Sends the unlock, whose answer somebody will collect.
    pub(crate) fn begin_release(self) -> Result<PendingRelease> {
        self.session.check_process(|| format!("cannot release {}", self.subject))?;
        self.session.change(|table, effects| table.begin_unlock(self.handle, true, effects));
        Ok(PendingRelease { held: Some(self) })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // In a fork of the process that took it, the lock is not ours to give back.
        if self.handle != 0 && self.session.check_process(String::new).is_ok() {
            self.session.change(|table, effects| table.begin_unlock(self.handle, false, effects));
        }
    }
}

/// A conversion under way; withdrawn when it is dropped.
pub(crate) struct PendingConvert<'a> {
    held: &'a Held,
    mode: Mode,
    done: bool,
}

impl PendingConvert<'_> {
    pub(crate) fn finish(mut self, answer: Result<Grant, Failure>) -> Result<()> {
        self.done = true;
        let what = || format!("{} was not granted on {}", self.mode, self.held.subject);
        answer.map(|_| ()).map_err(|failure| Error::from_failure(what(), failure))
    }
}

impl Drop for PendingConvert<'_> {
    fn drop(&mut self) {
        if !self.done && self.held.session.check_process(String::new).is_ok() {
            let handle = self.held.handle;
            self.held.session.change(|table, effects| table.desert_convert(handle, effects));
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
        let subject = held.subject.clone();
        held.forget();
        answer
            .map(|_| ())
            .map_err(|failure| Error::from_failure(format!("the release of {subject} failed"), failure))
    }
}

impl Drop for PendingRelease {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            if held.session.check_process(String::new).is_ok() {
                held.session.change(|table, effects| table.desert_unlock(held.handle, effects));
            }
            held.forget();
        }
    }
}
