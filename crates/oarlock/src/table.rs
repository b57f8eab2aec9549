//! The locks of a session as the program knows them: which operation of each is under way, what was
//! answered, and who was promised a notice. No socket and no mutex here; [`Session`](crate::session) has both.
//!
//! ```text
//!   Asked ──Granted──► Held ──Convert──────────► Converting
//!     │                 │ ▲──Granted|Failed──────────┘
//!     │ Failed          │ Unlock
//!     ▼                 ▼
//!   Ended ◄─────────── Releasing
//!           Released|Failed
//! ```
//!
//! Rules kept here
//! - One operation of a lock at a time, and exactly one answer for each.
//! - A request whose future was dropped is *deserted*: it is cancelled, and if the grant was quicker (R9)
//!   the lock is given back as soon as the grant arrives.
//! - An unlock is sent only when nothing of the lock is in flight; so the next answer is its own.
//! - A number is free again only after the last answer for it came (scenario 23).
//! - A blocking notice is shown only after the grant it is about was (62), only while it still conflicts
//!   (60), and once.

use std::task::Waker;

use oarlock_layout::code::Code;
use oarlock_layout::limit::{SESSION_LOCKS_MAX, VALUE_BYTES};
use oarlock_layout::message::session::{Failure, Granted, Reply, Request};
use oarlock_layout::mode::Mode;
use oarlock_layout::token::{Fence, Token};
use oarlock_layout::value::Value;

use crate::calls::{Answer, Calls};
use crate::wakers::{Effects, Wakers};

/// Why there is nothing to be had from the session any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// What a caller without a lock gets to see; whoever holds a lock sees `Lost`.
    pub(crate) code: Code,
    /// The reason.
    pub(crate) text: String,
}

/// What the daemon sent cannot be; the session must end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Misdeed(pub(crate) String);

/// What a grant told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) mode: Mode,
    pub(crate) token: Token,
    pub(crate) value: Option<Value>,
    pub(crate) alternate: bool,
}

impl Grant {
    /// Before the first grant.
    pub(crate) const NOTHING: Grant = Grant {
        mode: Mode::NL,
        token: Token { fence: Fence::from_number(0), local: 0 },
        value: None,
        alternate: false,
    };
}

/// What rides along with a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Carried {
    pub(crate) from: Mode,
    pub(crate) value: Option<[u8; VALUE_BYTES]>,
    pub(crate) invalidate: bool,
}

/// Where a waiter registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    Lock(u32),
    Call(u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Asked,
    Held,
    Converting(Carried),
    Releasing,
    /// Answered for the last time, waiting to be collected.
    Ended,
}

struct Entry {
    stage: Stage,
    /// There is a guard, or a caller who will get one. Without it a held lock is given back.
    guard: bool,
    /// Somebody will collect the answer to the operation under way.
    awaited: bool,
    /// That answer, once it is there.
    answer: Option<Result<(), Failure>>,
    /// What is held, from the first grant on.
    grant: Grant,
    /// Modes that others want and the holder was not told of: bit i is mode i.
    wanted: u8,
    /// Goes out with the next release, or conversion that leaves PW or EX.
    staged: Option<[u8; VALUE_BYTES]>,
    invalidate: bool,
    wakers: Wakers,
}

/// All locks and calls of one session.
#[derive(Default)]
pub(crate) struct Table {
    /// Entry `i` is the lock that the daemon knows as `i + 1`.
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    calls: Calls,
    ended: Option<Ended>,
}

// ---- locks, the program's side ----------------------------------------------------------------------

impl Table {
    /// A number for a new lock that is about to be asked for.
    pub(crate) fn begin_lock(&mut self) -> Result<u32, Failure> {
        self.living()?;
        let index = match self.free.pop() {
            Some(index) => index as usize,
            None if self.entries.len() < SESSION_LOCKS_MAX => {
                self.entries.push(None);
                self.entries.len() - 1
            }
            None => {
                let text = format!("a session has at most {SESSION_LOCKS_MAX} locks");
                return Err(Failure { code: Code::TooManyLocks, text });
            }
        };
        self.entries[index] = Some(Entry {
            stage: Stage::Asked,
            guard: true,
            awaited: true,
            answer: None,
            grant: Grant::NOTHING,
            wanted: 0,
            staged: None,
            invalidate: false,
            wakers: Wakers::default(),
        });
        Ok(index as u32 + 1)
    }

    /// Is a conversion in flight that nobody waits for any more? Then the next one starts after its answer.
    pub(crate) fn settling(&self, handle: u32) -> bool {
        self.ended.is_none()
            && self.entry(handle).is_some_and(|e| matches!(e.stage, Stage::Converting(_)) && !e.awaited)
    }

    /// Starts a conversion and tells what must ride along.
    pub(crate) fn begin_convert(&mut self, handle: u32, to: Mode) -> Result<Carried, Failure> {
        if let Some(ended) = &self.ended {
            return Err(Failure { code: Code::Lost, text: ended.text.clone() });
        }
        let entry = self.guarded_mut(handle);
        if entry.stage != Stage::Held || entry.answer.is_some() {
            let text = "another operation of this lock is under way".into();
            return Err(Failure { code: Code::InFlight, text });
        }
        let from = entry.grant.mode;
        // The block is written on the way down from PW or EX, and when the mode stays (27).
        let leaves = from.writes_value() && from.covers(to);
        let carried =
            Carried { from, value: entry.staged.filter(|_| leaves), invalidate: entry.invalidate && leaves };
        entry.stage = Stage::Converting(carried);
        entry.awaited = true;
        Ok(carried)
    }

    /// The guard goes. The lock is given back as soon as nothing of it is in flight. `awaited`: somebody
    /// will collect the answer.
    pub(crate) fn begin_unlock(&mut self, handle: u32, awaited: bool, effects: &mut Effects) {
        let ended = self.ended.is_some();
        let entry = self.guarded_mut(handle);
        entry.guard = false;
        entry.awaited = awaited;
        entry.answer = None;
        if ended && !awaited {
            self.forget(handle, effects);
        } else if entry.stage == Stage::Held && !ended {
            entry.unlock(handle, effects);
        }
    }

    /// The answer to the operation of a lock, if it came.
    pub(crate) fn collect(&mut self, handle: u32, effects: &mut Effects) -> Option<Result<Grant, Failure>> {
        let entry = self.entries.get_mut(index(handle))?.as_mut()?;
        let answer = match (entry.answer.take(), &self.ended) {
            (Some(answer), _) => answer,
            (None, None) => return None,
            // Over before it was answered. What was held is lost; what was asked for was just not given.
            (None, Some(ended)) => {
                let code = if entry.stage == Stage::Asked { ended.code } else { Code::Lost };
                entry.stage = match entry.stage {
                    Stage::Converting(_) if entry.guard => Stage::Held,
                    _ => Stage::Ended,
                };
                Err(Failure { code, text: ended.text.clone() })
            }
        };
        entry.awaited = false;
        let grant = entry.grant;
        if entry.stage == Stage::Ended {
            self.forget(handle, effects);
        } else {
            // The grant counts as delivered now: notices about it may be shown (62).
            entry.wakers.take(effects);
        }
        Some(answer.map(|()| grant))
    }

    /// The caller of a new lock went away without collecting the answer.
    pub(crate) fn desert_lock(&mut self, handle: u32, effects: &mut Effects) {
        let ended = self.ended.is_some();
        let entry = self.guarded_mut(handle);
        entry.guard = false;
        entry.awaited = false;
        entry.answer = None;
        match entry.stage {
            _ if ended => self.forget(handle, effects),
            Stage::Ended => self.forget(handle, effects),
            Stage::Held => entry.unlock(handle, effects),
            _ => effects.send.push(Request::Cancel { handle }),
        }
    }

    /// The caller of a conversion went away without collecting the answer. The guard stays.
    pub(crate) fn desert_convert(&mut self, handle: u32, effects: &mut Effects) {
        let ended = self.ended.is_some();
        let entry = self.guarded_mut(handle);
        entry.awaited = false;
        entry.answer = None;
        match entry.stage {
            Stage::Converting(_) if ended => entry.stage = Stage::Held,
            Stage::Converting(_) => effects.send.push(Request::Cancel { handle }),
            // It was answered; with nobody to collect the answer, it counts as delivered.
            _ => entry.wakers.take(effects),
        }
    }

    /// The caller of a release went away without collecting the answer.
    pub(crate) fn desert_unlock(&mut self, handle: u32, effects: &mut Effects) {
        let ended = self.ended.is_some();
        let entry = self.guarded_mut(handle);
        entry.awaited = false;
        if ended || entry.stage == Stage::Ended {
            self.forget(handle, effects);
        }
    }

    /// What the last grant told, for a guard.
    pub(crate) fn grant(&self, handle: u32) -> Grant {
        self.entry(handle).expect("an entry lives as long as its guard").grant
    }

    /// The weakest mode that covers all that others want and the guard's holder was not told of yet.
    pub(crate) fn take_wanted(&mut self, handle: u32) -> Option<Mode> {
        if self.ended.is_some() {
            return None;
        }
        let entry = self.guarded_mut(handle);
        if entry.stage == Stage::Asked || entry.answer.is_some() {
            return None;
        }
        let held = entry.grant.mode;
        let conflicting = || Mode::ALL.into_iter().filter(|mode| !mode.compatible(held));
        let wanted = entry.wanted;
        entry.wanted = match entry.stage {
            // What does not conflict with the old mode may be about the new one.
            Stage::Converting(_) => wanted & !conflicting().map(bit).fold(0, |bits, bit| bits | bit),
            _ => 0,
        };
        conflicting().filter(|mode| wanted & bit(*mode) != 0).reduce(Mode::join)
    }

    /// Puts bytes aside for the next release or conversion downward; `None` marks the block as not to be
    /// believed instead.
    pub(crate) fn stage(&mut self, handle: u32, bytes: Option<[u8; VALUE_BYTES]>) {
        let entry = self.guarded_mut(handle);
        entry.invalidate = bytes.is_none();
        entry.staged = bytes;
    }

    /// Why the session ended, if it did.
    pub(crate) fn ended(&self) -> Option<&Ended> {
        self.ended.as_ref()
    }

    fn living(&self) -> Result<(), Failure> {
        match &self.ended {
            None => Ok(()),
            Some(ended) => Err(Failure { code: ended.code, text: ended.text.clone() }),
        }
    }

    fn entry(&self, handle: u32) -> Option<&Entry> {
        self.entries.get(index(handle))?.as_ref()
    }

    fn entry_mut(&mut self, handle: u32) -> Option<&mut Entry> {
        self.entries.get_mut(index(handle))?.as_mut()
    }

    /// For callers that hold a guard or a pending operation, which keeps the entry alive.
    fn guarded_mut(&mut self, handle: u32) -> &mut Entry {
        self.entry_mut(handle).expect("an entry lives as long as its guard or operation")
    }

    fn forget(&mut self, handle: u32, effects: &mut Effects) {
        if let Some(mut entry) = self.entries[index(handle)].take() {
            entry.wakers.take(effects);
            self.free.push(index(handle) as u32);
        }
    }
}

impl Entry {
    /// Gives the lock back.
    fn unlock(&mut self, handle: u32, effects: &mut Effects) {
        self.stage = Stage::Releasing;
        let writes = self.grant.mode.writes_value();
        effects.send.push(Request::Unlock {
            handle,
            value: self.staged.filter(|_| writes),
            invalidate: self.invalidate && writes,
        });
    }
}

fn index(handle: u32) -> usize {
    // Handle 0 is nobody's; it wraps to an index beyond every bound.
    handle.wrapping_sub(1) as usize
}

fn bit(mode: Mode) -> u8 {
    1 << mode as u8
}

// ---- calls ------------------------------------------------------------------------------------------

impl Table {
    /// A number for a lookup or question that is about to be asked.
    pub(crate) fn begin_call(&mut self) -> Result<u32, Failure> {
        self.living()?;
        self.calls.begin()
    }

    /// The answer to a call, if it came.
    pub(crate) fn collect_call(
        &mut self,
        number: u32,
        effects: &mut Effects,
    ) -> Option<Result<Answer, Failure>> {
        self.calls.collect(number, self.ended.as_ref(), effects)
    }

    /// Nobody will collect the answer to a call. Its number stays taken until the answer came.
    pub(crate) fn desert_call(&mut self, number: u32, effects: &mut Effects) {
        self.calls.desert(number, self.ended.is_some(), effects);
    }
}

// ---- waiting ----------------------------------------------------------------------------------------

impl Table {
    /// Registers a waiter. A waker that is not needed any more comes back, to be dropped outside the mutex.
    pub(crate) fn set_waker(&mut self, place: Place, key: u64, waker: Waker) -> Option<Waker> {
        match self.wakers(place) {
            Some(wakers) => wakers.set(key, waker),
            None => Some(waker),
        }
    }

    /// Takes a waiter off its list.
    pub(crate) fn remove_waker(&mut self, place: Place, key: u64) -> Option<Waker> {
        self.wakers(place)?.remove(key)
    }

    fn wakers(&mut self, place: Place) -> Option<&mut Wakers> {
        match place {
            Place::Lock(handle) => self.entry_mut(handle).map(|e| &mut e.wakers),
            Place::Call(number) => self.calls.wakers(number),
        }
    }
}

// ---- the daemon's side ------------------------------------------------------------------------------

impl Table {
    /// Takes up one packet of the daemon.
    pub(crate) fn handle_reply(&mut self, reply: Reply, effects: &mut Effects) -> Result<(), Misdeed> {
        if self.ended.is_some() {
            return Ok(());
        }
        match reply {
            Reply::Granted(granted) => self.granted(granted, effects),
            Reply::Failed { handle, why } => self.failed(handle, why, effects),
            Reply::Released { handle } => self.released(handle, effects),
            Reply::Blocking { handle, wanted } => {
                // A notice may cross the unlock that answers it, so an unknown lock is no misdeed here.
                if let Some(entry) = self.entry_mut(handle) {
                    entry.wanted |= bit(wanted);
                    entry.wakers.take(effects);
                }
                Ok(())
            }
            Reply::Opened { request, space } => self.calls.answer(request, Ok(Answer::Space(space)), effects),
            Reply::Denied { request, why } => self.calls.answer(request, Err(why), effects),
            Reply::Answer { request, more, bytes } => self.calls.piece(request, more, &bytes, effects),
            Reply::Lost { why } => {
                self.end(Ended { code: why.code, text: why.text }, effects);
                Ok(())
            }
            Reply::Welcome { .. } => Err(Misdeed("it sent a second welcome".into())),
            Reply::Refused { .. } => Err(Misdeed("it refused the session after welcoming it".into())),
        }
    }

    /// The session is over: guards are lost, waiters learn why. The first reason stands.
    pub(crate) fn end(&mut self, ended: Ended, effects: &mut Effects) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(ended);
        for (index, slot) in self.entries.iter_mut().enumerate() {
            if let Some(entry) = slot {
                entry.wakers.take(effects);
                if !entry.guard && !entry.awaited {
                    *slot = None;
                    self.free.push(index as u32);
                }
            }
        }
        self.calls.end(effects);
    }

    fn granted(&mut self, granted: Granted, effects: &mut Effects) -> Result<(), Misdeed> {
        let handle = granted.handle;
        let entry = self.entry_mut(handle).ok_or_else(|| strange("a grant", handle))?;
        match entry.stage {
            Stage::Asked => {}
            Stage::Converting(carried) => {
                if let Some(bytes) = carried.value {
                    entry.grant.value = Some(entry.grant.value.unwrap_or_default().written(bytes));
                }
                if carried.invalidate {
                    entry.grant.value = entry.grant.value.map(|value| value.invalidated());
                }
                if carried.value.is_some() || carried.invalidate {
                    entry.staged = None;
                    entry.invalidate = false;
                }
            }
            _ => return Err(strange("a grant", handle)),
        }
        entry.stage = Stage::Held;
        entry.grant.mode = granted.mode;
        entry.grant.token = granted.token;
        entry.grant.alternate = granted.alternate;
        if granted.value.is_some() {
            entry.grant.value = granted.value;
        }
        entry.settle(handle, Ok(()), effects);
        Ok(())
    }

    fn failed(&mut self, handle: u32, why: Failure, effects: &mut Effects) -> Result<(), Misdeed> {
        let entry = self.entry_mut(handle).ok_or_else(|| strange("a refusal", handle))?;
        match entry.stage {
            Stage::Asked | Stage::Releasing => self.last(handle, Err(why), effects),
            Stage::Converting(_) => {
                entry.stage = Stage::Held;
                entry.settle(handle, Err(why), effects);
            }
            Stage::Held | Stage::Ended => return Err(strange("a refusal", handle)),
        }
        Ok(())
    }

    fn released(&mut self, handle: u32, effects: &mut Effects) -> Result<(), Misdeed> {
        match self.entry(handle).map(|e| e.stage) {
            Some(Stage::Releasing) => {
                self.last(handle, Ok(()), effects);
                Ok(())
            }
            _ => Err(strange("a release", handle)),
        }
    }

    /// The last answer for a lock.
    fn last(&mut self, handle: u32, answer: Result<(), Failure>, effects: &mut Effects) {
        let entry = self.guarded_mut(handle);
        if entry.awaited {
            entry.stage = Stage::Ended;
            entry.answer = Some(answer);
            entry.wakers.take(effects);
        } else {
            self.forget(handle, effects);
        }
    }
}

impl Entry {
    /// An operation that leaves the lock held was answered: tell its caller, or give the lock back if there
    /// is no guard for it any more.
    fn settle(&mut self, handle: u32, answer: Result<(), Failure>, effects: &mut Effects) {
        if !self.guard {
            self.unlock(handle, effects);
            return;
        }
        if self.awaited {
            self.answer = Some(answer);
        }
        self.wakers.take(effects);
    }
}

pub(crate) fn strange(what: &str, number: u32) -> Misdeed {
    Misdeed(format!("it sent {what} for number {number}, which does not wait for one"))
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
