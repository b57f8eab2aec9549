//! What is asked for: the part that both twins of the client share.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{OwnerId, SpaceId, TransactionId};
use oarlock_layout::limit::LABEL_BYTES_MAX;
use oarlock_layout::message::session::{Failure, LockRequest, Request};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::{Escaped, Name};
use oarlock_layout::segment::MANNER;
use oarlock_shm::{Answer as Found, Hold, Loss, Party, Taken, Ticket};
use smallvec::SmallVec;

use crate::calls::Answer;
use crate::error::{Error, Result};
use crate::held::Held;
use crate::segment::{self, Cell, Me, Segment, Shared};
use crate::session::Owner;
use crate::socket::Patience;
use crate::table::{Grant, Place};

/// The lockspace that exists in every cluster; its number is fixed, so nobody has to ask for it.
pub(crate) const DEFAULT_SPACE: &str = "default";

/// A lockspace, found. Cheap to clone.
pub(crate) type SpaceRef = Arc<SpaceFound>;

/// What is known of a lockspace.
pub(crate) struct SpaceFound {
    pub(crate) session: Arc<Owner>,
    pub(crate) id: SpaceId,
    pub(crate) name: Box<str>,
    segment: Arc<Cell>,
}

impl SpaceFound {
    /// `default` without asking; None if the daemon must be asked.
    pub(crate) fn known(session: &Arc<Owner>, name: &str) -> Result<Option<SpaceRef>> {
        let what = || format!("cannot open lockspace \"{name}\"");
        session.check_process(what)?;
        if name.is_empty() || name.len() > LABEL_BYTES_MAX {
            let why = format!("the name has {} bytes, it may have 1 to {LABEL_BYTES_MAX}", name.len());
            return Err(Error::new(Code::UnknownSpace, what(), why));
        }
        Ok((name == DEFAULT_SPACE).then(|| SpaceFound::new(session, SpaceId(0), name)))
    }

    fn new(session: &Arc<Owner>, id: SpaceId, name: &str) -> SpaceRef {
        let segment = session.segment(id);
        Arc::new(SpaceFound { session: Arc::clone(session), id, name: name.into(), segment })
    }

    /// From the daemon's answer.
    pub(crate) fn answered(
        session: &Arc<Owner>,
        name: &str,
        answer: Result<Answer, Failure>,
    ) -> Result<SpaceRef> {
        match answer {
            Ok(Answer::Space(id)) => Ok(SpaceFound::new(session, id, name)),
            Ok(Answer::Bytes(_)) => Err(Error::new(
                Code::SessionMalformed,
                format!("cannot open lockspace \"{name}\""),
                "the daemon answered another question",
            )),
            Err(failure) => Err(Error::from_failure(format!("cannot open lockspace \"{name}\""), failure)),
        }
    }

    /// Where this process can grant itself, if it can.
    #[inline(always)]
    pub(crate) fn segment(&self) -> Option<&Arc<Segment>> {
        self.segment.get()?.as_ref().filter(|segment| !segment.is_over())
    }

    /// The same for a lock that is held there, whether it has ended or not.
    #[inline(always)]
    pub(crate) fn place(&self) -> &Arc<Segment> {
        self.segment.get().and_then(Option::as_ref).expect("a lock in an entry has a segment")
    }

    /// Wakes the node: it sleeps, and somebody has rung.
    #[cold]
    pub(crate) fn knock(&self) {
        self.session.request(&Request::Knock);
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
pub(crate) struct Subject<'a> {
    pub(crate) space: &'a str,
    pub(crate) name: &'a [u8],
}

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", Escaped(self.name))?;
        if self.space != DEFAULT_SPACE { write!(f, " in \"{}\"", self.space) } else { Ok(()) }
    }
}

/// How long to wait, and what else there is to say about a request of either kind.
#[derive(Clone)]
pub(crate) struct Manner {
    pub(crate) mode: Mode,
    pub(crate) flags: Flags,
    pub(crate) timeout: Option<Duration>,
    pub(crate) alternate: Option<Mode>,
    /// Of a change of mode: the value block moves, though nothing has said so before.
    pub(crate) value: bool,
    pub(crate) likely: Option<Mode>,
}

impl Manner {
    pub(crate) fn new(mode: Mode) -> Manner {
        Manner { mode, flags: Flags::empty(), timeout: None, alternate: None, likely: None, value: false }
    }

    /// Flags and milliseconds as they are sent.
    pub(crate) fn resolve(&self, what: impl FnOnce() -> String) -> Result<(Flags, u32)> {
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
        match self.likely {
            None => {}
            Some(Mode::PW) => flags |= Flags::LIKELYPW,
            Some(Mode::EX) => flags |= Flags::LIKELYEX,
            Some(other) => {
                let why = format!("{other} cannot be hinted at, only PW and EX can");
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

/// The bytes of a name. Most names fit without memory of their own.
pub(crate) type Bytes = SmallVec<[u8; 64]>;

/// A new lock, as asked for.
#[derive(Clone)]
pub(crate) struct Wish {
    pub(crate) space: SpaceRef,
    pub(crate) name: Bytes,
    pub(crate) manner: Manner,
    pub(crate) whose: Whose,
    pub(crate) transaction: u64,
    /// Not in this process, whatever can be granted here.
    pub(crate) by_message: bool,
    /// Later requests about the lock say for themselves whether the value block moves.
    pub(crate) value_by_call: bool,
}

/// Who stands behind a lock.
#[derive(Clone, Copy)]
pub(crate) enum Whose {
    /// Whichever thread asks: it does one thing after the other.
    Thread,
    /// Nobody knows which task asks.
    Apart,
    /// As the program says.
    Named(OwnerId),
}

impl Whose {
    pub(crate) const fn named(owner: u64) -> Whose {
        Whose::Named(OwnerId::named(owner))
    }

    #[inline(always)]
    pub(crate) fn owner(self, me: Me) -> OwnerId {
        match self {
            Whose::Thread => me.owner,
            Whose::Apart => OwnerId::APART,
            Whose::Named(owner) => owner,
        }
    }
}

impl Wish {
    #[inline(always)]
    pub(crate) fn new(space: &SpaceRef, name: &[u8], whose: Whose) -> Wish {
        Wish {
            space: space.clone(),
            name: Bytes::from_slice(name),
            manner: Manner::new(Mode::EX),
            whose,
            transaction: 0,
            by_message: false,
            value_by_call: false,
        }
    }

    /// Takes the lock in this process if nothing is in the way; [`begin`](Wish::begin) then does everything else.
    #[inline(always)]
    pub(crate) fn take(&self) -> Option<Shared> {
        let flags = self.manner.flags;
        if flags.intersects(BY_THE_NODE | Flags::VALBLK) || self.manner.alternate.is_some() || self.by_message
        {
            return None;
        }
        let segment = self.space.segment().filter(|segment| segment.is_mine())?;
        let spot = segment.caller.find(&self.name)?;
        let me = segment::me();
        let (mode, party) = (self.manner.mode, self.party(me, flags));
        match segment.caller.attempt(spot, mode, &party, false, me.first) {
            Ok((hold, knock)) => {
                if knock {
                    self.space.knock();
                }
                if !segment.guard(hold.entry) {
                    segment.too_late(hold);
                    return None;
                }
                Some(Shared::new(hold, flags))
            }
            Err(missed) => {
                let _ = segment.caller.missed(missed, mode, false);
                None
            }
        }
    }

    /// What is known of the lock so far moves on; nothing of it is counted anew.
    #[inline(always)]
    pub(crate) fn held(self, shared: Shared) -> Held {
        let handle = self.space.place().handle(shared.hold.entry);
        Held::new(self.space, handle, self.name, shared.flags, Some(shared))
    }

    /// Takes the lock in this process, or asks for it. `looks`: whoever waits looks at the lock's entry, and needs no
    /// message about the grant.
    pub(crate) fn begin(self, looks: bool) -> Result<Begun> {
        let mode = self.manner.mode;
        let name = Name::new(&self.name).map_err(|error| {
            Error::new(
                Code::BadName,
                format!("cannot lock a name of {} bytes", self.name.len()),
                error.to_string(),
            )
        })?;
        let what = || format!("cannot lock {} in {mode}", self.subject());
        let session = &self.space.session;
        session.check_process(what)?;
        let (flags, timeout_ms) = self.manner.resolve(what)?;
        let ask = |handle, flags| {
            Request::Lock(LockRequest {
                handle,
                space: self.space.id,
                name: name.clone(),
                mode,
                flags,
                timeout_ms,
                owner: self.whose.owner(segment::me()),
                transaction: TransactionId(self.transaction),
            })
        };
        let begun = match self.space.segment() {
            Some(segment) if !flags.intersects(BY_THE_NODE) && !self.by_message => self.share(segment, flags),
            _ => Sharing::Not,
        };
        let begun = match begun {
            Sharing::Held(shared) => return Ok(Begun::Held(self.held(shared))),
            other => other,
        };
        let held = |handle, shared| Held::new(self.space.clone(), handle, self.name.clone(), flags, shared);
        match begun {
            Sharing::Held(_) => unreachable!("returned above"),
            Sharing::Waits(segment, ticket) => {
                let handle = segment.handle(ticket.entry);
                session
                    .change(|table, _| table.begin_shared(handle, segment, ticket, looks))
                    .map_err(|failure| Error::from_failure(what(), failure))?;
                let flags = if looks { flags | Flags::QUIET } else { flags };
                let entry = Some((Arc::clone(segment), ticket));
                let pending = PendingLock { held: Some(held(handle, None)), mode, looks, entry };
                session.request(&ask(handle, flags));
                Ok(Begun::Waits(pending))
            }
            Sharing::No(code) => {
                let why = match code {
                    Code::Busy => {
                        "somebody on this node holds it in a mode that conflicts, or others wait for it"
                    }
                    _ => {
                        "this node does not own enough of the resource to answer without asking another node"
                    }
                };
                Err(Error::new(code, format!("{mode} was not granted on {}", self.subject()), why))
            }
            Sharing::Lost(loss) => {
                session.lose(Some(loss));
                let ended = session.look(|table| table.ended().cloned()).expect("it was just ended");
                Err(Error::new(ended.code, what(), ended.text))
            }
            Sharing::Not => {
                let handle = session
                    .change(|table, _| table.begin_lock())
                    .map_err(|failure| Error::from_failure(what(), failure))?;
                let held = Some(held(handle, None).value_by_call(self.value_by_call));
                let pending = PendingLock { held, mode, looks: false, entry: None };
                session.request(&ask(handle, flags));
                Ok(Begun::Waits(pending))
            }
        }
    }

    fn subject(&self) -> Subject<'_> {
        Subject { space: &self.space.name, name: &self.name }
    }

    #[inline(always)]
    fn party(&self, me: Me, flags: Flags) -> Party {
        let flags = flags & (MANNER | Flags::VALBLK);
        Party { owner: self.whose.owner(me).0, transaction: self.transaction, flags }
    }

    /// Tries it in this process.
    fn share<'a>(&self, segment: &'a Arc<Segment>, flags: Flags) -> Sharing<'a> {
        let mode = self.manner.mode;
        let tries = flags.contains(Flags::NOQUEUE);
        let me = segment::me();
        let party = self.party(me, flags);
        let caller = &segment.caller;
        for _ in 0..FINDS_MAX {
            let taken = match caller.find(&self.name) {
                Some(spot) => caller.acquire(spot, mode, &party, !tries, me.first),
                None if tries => Taken::NotOwned,
                None => caller.ask(mode, &party, me.first),
            };
            return match taken {
                Taken::Held { hold, knock } => {
                    if knock {
                        self.space.session.request(&Request::Knock);
                    }
                    if !segment.guard(hold.entry) {
                        segment.too_late(hold);
                        return Sharing::Lost(Loss::Session);
                    }
                    let mut shared = Shared::new(hold, flags);
                    if flags.contains(Flags::VALBLK) {
                        let Some(value) = caller.value(hold) else {
                            // Written too often to be read here.
                            shared.release(&self.space);
                            return Sharing::Not;
                        };
                        shared.block_mut().value = Some(value);
                    }
                    Sharing::Held(shared)
                }
                Taken::Wait(ticket) => Sharing::Waits(segment, ticket),
                Taken::Busy if flags.contains(Flags::LOCAL) => Sharing::No(Code::Busy),
                Taken::NotOwned if flags.contains(Flags::LOCAL) => Sharing::No(Code::NotOwned),
                Taken::Busy | Taken::NotOwned | Taken::NoRoom => Sharing::Not,
                Taken::Moved => continue,
                Taken::Lost(loss) => Sharing::Lost(loss),
                Taken::Frozen { .. } => unreachable!("what is not granted for good is given back"),
            };
        }
        Sharing::Not
    }
}

/// Requests with these go to the node as they are.
const BY_THE_NODE: Flags =
    Flags::FRESH.union(Flags::ALTPR).union(Flags::ALTCW).union(Flags::PERSISTENT).union(Flags::ORPHAN);
/// How often a name is looked up again because its slot was given to another.
const FINDS_MAX: u32 = 4;

/// What came of an attempt in this process.
enum Sharing<'a> {
    Held(Shared),
    Waits(&'a Arc<Segment>, Ticket),
    /// A try that failed, and why.
    No(Code),
    Lost(Loss),
    /// The node is to be asked for a lock without an entry.
    Not,
}

/// A request for a new lock, begun.
pub(crate) enum Begun {
    Held(Held),
    Waits(PendingLock),
}

/// A request for a new lock under way; withdrawn when it is dropped.
pub(crate) struct PendingLock {
    held: Option<Held>,
    mode: Mode,
    /// No message comes when it is granted.
    pub(crate) looks: bool,
    /// Where it waits, if it has an entry.
    entry: Option<(Arc<Segment>, Ticket)>,
}

impl PendingLock {
    pub(crate) fn session(&self) -> &Arc<Owner> {
        self.held().session()
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

    /// Waits in this thread, at the lock's entry, until it is granted or refused.
    pub(crate) fn wait_at_entry(mut self) -> Result<Held> {
        let (segment, ticket) = self.entry.clone().expect("only for one that looks at its entry");
        let session = Arc::clone(self.session());
        let taken = loop {
            match segment.wait_a_while(ticket) {
                Found::Held(hold) => match segment.caller.wake(hold) {
                    Taken::Frozen { knock, .. } => {
                        if knock {
                            session.request(&Request::Knock);
                        }
                        std::thread::sleep(segment::AT_RISK);
                        continue;
                    }
                    taken => break taken,
                },
                Found::Waiting(_) => {
                    session.catch_up();
                    // The node may have said no without a word in the entry: to a number that it takes for another's.
                    let handle = self.handle();
                    if let Some(answer) = session.change(|table, effects| table.collect(handle, effects)) {
                        return self.finish(answer);
                    }
                    let lost = segment.caller.living().err();
                    if let Some(loss) = lost {
                        session.lose(Some(loss));
                    }
                    if session.look(|table| table.ended().is_none()) {
                        continue;
                    }
                }
                Found::Refused | Found::Lost => {}
            }
            // Why comes by message.
            let handle = self.handle();
            let answer = session.wait(self.place(), Patience::Endless, |t, e| t.collect(handle, e));
            return self.finish(answer.expect("an endless wait ends with an answer"));
        };
        match taken {
            Taken::Held { hold, knock } => {
                if knock {
                    session.request(&Request::Knock);
                }
                let held = self.held.take().expect("taken only here");
                session.change(|table, effects| table.end_shared(held.handle, effects));
                if !segment.guard(hold.entry) {
                    return Err(came_too_late(held, &segment, hold));
                }
                let mut shared = Shared::new(hold, held.flags);
                if held.flags.contains(Flags::VALBLK) {
                    shared.block_mut().value = segment.caller.value(hold);
                }
                let torn = held.flags.contains(Flags::VALBLK)
                    && shared.value().is_none()
                    && !hold.mode.writes_value();
                let held = held.with(shared);
                if torn { ask_for_value(held, hold.mode) } else { Ok(held) }
            }
            other => {
                session.lose(if let Taken::Lost(loss) = other { Some(loss) } else { None });
                let handle = self.handle();
                let answer = session.change(|table, effects| table.collect(handle, effects));
                self.finish(answer.expect("the session has ended"))
            }
        }
    }

    /// What the answer means.
    pub(crate) fn finish(mut self, answer: Result<Grant, Failure>) -> Result<Held> {
        let held = self.held.take().expect("taken only here");
        let failure = match (answer, &self.entry) {
            (Ok(_), None) => return Ok(held),
            (Ok(grant), Some((segment, ticket))) => {
                let found = segment.caller.look(*ticket);
                let session = Arc::clone(held.session());
                session.change(|table, effects| table.end_shared(held.handle, effects));
                if let Found::Held(hold) = found {
                    if !segment.guard(hold.entry) {
                        return Err(came_too_late(held, segment, hold));
                    }
                    let mut shared = Shared::new(hold, held.flags);
                    shared.token = Some(grant.token);
                    if grant.value.is_some() {
                        shared.block_mut().value = grant.value;
                    }
                    return Ok(held.with(shared));
                }
                session.lose(None);
                Failure { code: Code::Lost, text: segment::say(None).into() }
            }
            (Err(failure), _) => failure,
        };
        let what = format!("{} was not granted on {}", self.mode, held.subject());
        held.forget();
        Err(Error::from_failure(what, failure))
    }
}

/// The lock was granted, and the session ended before there was a guard for it.
#[cold]
fn came_too_late(held: Held, segment: &Segment, hold: Hold) -> Error {
    segment.too_late(hold);
    let what = format!("the lock on {} is lost", held.subject());
    let ended = held.session().look(|table| table.ended().cloned());
    held.forget();
    Error::new(Code::Lost, what, ended.map_or_else(|| segment::say(None).into(), |ended| ended.text))
}

/// The block was written too often to be read here: the node shows it, as on a change to the same mode.
#[cold]
fn ask_for_value(held: Held, mode: Mode) -> Result<Held> {
    let manner = Manner { flags: held.flags & MANNER, ..Manner::new(mode) };
    if let Some(asked) = held.begin_convert(&manner)? {
        let (place, handle) = (Place::Lock(held.handle), held.handle);
        let answer = held.session().wait(place, Patience::Endless, |t, e| t.collect(handle, e));
        asked.finish(answer.expect("an endless wait ends with an answer"))?;
    }
    Ok(held)
}

impl Drop for PendingLock {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            if held.session().check_process(String::new).is_ok() {
                held.session().change(|table, effects| table.desert_lock(held.handle, effects));
            }
            held.forget();
        }
    }
}
