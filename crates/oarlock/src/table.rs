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
//! - A lock that waits in an entry of a segment is here under the entry's number, until the answer was taken up. Its
//!   entry is let go of only after that, so the number means one lock at a time.
//! - A blocking notice is shown only after the grant it is about was (62), only while it still conflicts
//!   (60), and once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::task::Waker;

use oarlock_layout::code::Code;
use oarlock_layout::id::{SharedHandle, SpaceId};
use oarlock_layout::limit::{SESSION_LOCKS_MAX, VALUE_BYTES};
use oarlock_layout::message::session::{Failure, Granted, Reply, Request};
use oarlock_layout::mode::Mode;
use oarlock_layout::token::{Fence, Token};
use oarlock_layout::value::Value;

use oarlock_shm::{Answer as Found, Hold, Ticket};

use crate::calls::{Answer, Calls};
use crate::segment::{Cell, Segment};
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
    /// The last grant has shown that value.
    pub(crate) shown: bool,
    pub(crate) alternate: bool,
}

impl Grant {
    /// Before the first grant.
    pub(crate) const NOTHING: Grant = Grant {
        mode: Mode::NL,
        token: Token { fence: Fence::from_number(0), local: 0 },
        value: None,
        shown: false,
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

/// What a release writes: nothing, a block, or that the block is not to be believed.
pub(crate) type Staged = Option<Option<[u8; VALUE_BYTES]>>;

/// Where a waiter registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    Lock(u32),
    Call(u32),
    /// A lock that is held in an entry of a segment, and of which nothing is asked: for notices and the end.
    Watch(u32),
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
    /// Where its entry is, if it has one.
    shared: Option<InEntry>,
}

/// An entry of a segment that waits for an answer.
struct InEntry {
    segment: Arc<Segment>,
    ticket: Ticket,
    /// No message comes when it is granted.
    quiet: bool,
}

impl InEntry {
    /// What is held there now.
    fn hold(&self) -> Option<Hold> {
        match self.segment.caller.look(self.ticket) {
            Found::Held(hold) => Some(hold),
            _ => None,
        }
    }

    /// Gives back what was granted and nobody wants any more. From then on the entry may be another thread's: whoever
    /// gives it back knows it no more.
    fn give_back(self, hold: Hold, effects: &mut Effects) {
        if self.segment.caller.release(hold) == Ok(true) {
            effects.send.push(Request::Knock);
        }
    }

    /// Withdraws what nobody answers any more, and lets go of the entry.
    fn end(self, effects: &mut Effects) {
        // An answer of which the entry says nothing leaves it waiting, for nobody.
        if let Found::Waiting(_) = self.segment.caller.look(self.ticket)
            && let Some(hold) = self.segment.caller.withdraw(self.ticket)
        {
            return self.give_back(hold, effects);
        }
        self.segment.caller.close(self.ticket.entry);
    }
}

/// All locks and calls of one session.
#[derive(Default)]
pub(crate) struct Table {
    /// Entry `i` is the lock that the daemon knows as `i + 1`.
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    /// Locks in entries of segments of which something is asked, by number.
    shared: HashMap<u32, Entry>,
    /// Who waits for news of locks that are held in entries.
    watches: HashMap<u32, Wakers>,
    /// The segments of this session.
    cells: BTreeMap<SpaceId, Arc<Cell>>,
    /// Those that were asked for, and when.
    attaching: BTreeMap<u32, (SpaceId, u64)>,
    calls: Calls,
    ended: Option<Ended>,
    /// The session is over, and before this entry there is no guard.
    guards: usize,
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
        self.entries[index] = Some(Entry::new(Stage::Asked, None));
        Ok(index as u32 + 1)
    }

    /// A new lock waits in an entry, and is about to be asked for.
    pub(crate) fn begin_shared(
        &mut self,
        handle: u32,
        segment: &Arc<Segment>,
        ticket: Ticket,
        quiet: bool,
    ) -> Result<(), Failure> {
        let shared = InEntry { segment: Arc::clone(segment), ticket, quiet };
        if let Err(failure) = self.living() {
            if let Some(hold) = shared.segment.caller.withdraw(ticket) {
                shared.give_back(hold, &mut Effects::default());
            }
            return Err(failure);
        }
        self.put_shared(handle, Entry::new(Stage::Asked, Some(shared)));
        Ok(())
    }

    /// What was asked about a lock in an entry is answered and taken up.
    pub(crate) fn end_shared(&mut self, handle: u32, effects: &mut Effects) {
        self.forget(handle, effects);
    }

    /// A change of mode, or a release, of a lock in an entry is about to be asked for.
    pub(crate) fn ask_about_shared(
        &mut self,
        handle: u32,
        segment: &Arc<Segment>,
        ticket: Ticket,
        stage: Option<Carried>,
        guard: bool,
    ) -> Result<(), Failure> {
        if let Some(ended) = &self.ended {
            return Err(Failure { code: Code::Lost, text: ended.text.clone() });
        }
        let shared = InEntry { segment: Arc::clone(segment), ticket, quiet: false };
        let stage = stage.map_or(Stage::Releasing, Stage::Converting);
        let entry = Entry { guard, ..Entry::new(stage, Some(shared)) };
        self.put_shared(handle, entry);
        Ok(())
    }

    /// An entry of a segment that is free, or held with nothing asked about it, is in nobody's hand here.
    fn put_shared(&mut self, handle: u32, entry: Entry) {
        let before = self.shared.insert(handle, entry);
        assert!(before.is_none(), "two requests about one entry");
    }

    /// Will somebody collect what is answered about a lock in an entry?
    pub(crate) fn await_shared(&mut self, handle: u32, awaited: bool) {
        self.guarded_mut(handle).awaited = awaited;
    }

    /// Is something asked of the node about a lock in an entry?
    pub(crate) fn asks_about(&self, handle: u32) -> bool {
        self.ended.is_none() && self.shared.contains_key(&handle)
    }

    /// The guard of a lock in an entry goes while something is asked about it: what the answer leaves is given back then,
    /// with what is to be written. `awaited`: somebody will collect that answer. False if the first answer is there.
    pub(crate) fn leave_to_answer(&mut self, handle: u32, awaited: bool, staged: Staged) -> bool {
        match self.shared.get_mut(&handle) {
            // Answered, and whoever waited for it was forgotten: no other answer comes.
            Some(entry) if entry.stage == Stage::Held => {
                self.shared.remove(&handle);
                false
            }
            Some(entry) if self.ended.is_none() => {
                entry.guard = false;
                entry.awaited = awaited;
                (entry.staged, entry.invalidate) = (staged.flatten(), staged == Some(None));
                true
            }
            _ => false,
        }
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
        let ended = self.ended.clone();
        let entry = self.entry_mut(handle)?;
        let answer = match (entry.answer.take(), &ended) {
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
        if let Some(shared) = &entry.shared
            && !ended
            && entry.stage != Stage::Ended
        {
            let granted = shared.segment.caller.withdraw(shared.ticket);
            let told = shared.quiet || entry.stage == Stage::Held;
            (entry.guard, entry.awaited) = (false, false);
            match granted {
                None => effects.send.push(Request::Cancel { handle }),
                Some(_) if told => {
                    entry.give_back(effects);
                    self.forget(handle, effects);
                }
                // The node's message about the grant is on its way: then it is given back.
                Some(_) => {}
            }
            return;
        }
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

    /// What is under way is to be withdrawn; its answer says whether it was. A lock that waits in an entry is not.
    pub(crate) fn withdraw(&mut self, handle: u32, effects: &mut Effects) {
        if self.ended.is_none() && self.entry(handle).is_some_and(Entry::is_withdrawable) {
            effects.send.push(Request::Cancel { handle });
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
            _ => {
                entry.wakers.take(effects);
                self.settled(handle, effects);
            }
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

    /// Is there a guard still, in a session that is over, and can grant nothing any more?
    pub(crate) fn is_guarded(&mut self) -> bool {
        let rest = self.entries.get(self.guards..).unwrap_or_default();
        let guarded = |entry: &Option<Entry>| entry.as_ref().is_some_and(Entry::is_guarded);
        self.guards += rest.iter().position(guarded).unwrap_or(rest.len());
        self.guards < self.entries.len() || self.segments().any(|segment| segment.is_guarded())
    }

    fn living(&self) -> Result<(), Failure> {
        match &self.ended {
            None => Ok(()),
            Some(ended) => Err(Failure { code: ended.code, text: ended.text.clone() }),
        }
    }

    fn entry(&self, handle: u32) -> Option<&Entry> {
        match SharedHandle::of(handle) {
            Some(_) => self.shared.get(&handle),
            None => self.entries.get(index(handle))?.as_ref(),
        }
    }

    fn entry_mut(&mut self, handle: u32) -> Option<&mut Entry> {
        match SharedHandle::of(handle) {
            Some(_) => self.shared.get_mut(&handle),
            None => self.entries.get_mut(index(handle))?.as_mut(),
        }
    }

    /// For callers that hold a guard or a pending operation, which keeps the entry alive.
    fn guarded_mut(&mut self, handle: u32) -> &mut Entry {
        self.entry_mut(handle).expect("an entry lives as long as its guard or operation")
    }

    fn forget(&mut self, handle: u32, effects: &mut Effects) {
        if SharedHandle::of(handle).is_some() {
            if let Some(mut entry) = self.shared.remove(&handle) {
                entry.wakers.take(effects);
                // What came while something was asked was not shown.
                if let Some(watch) = self.watches.get_mut(&handle) {
                    watch.take(effects);
                }
                if let Some(shared) = entry.shared
                    && self.ended.is_none()
                {
                    shared.end(effects);
                }
            }
            return;
        }
        if let Some(mut entry) = self.entries[index(handle)].take() {
            entry.wakers.take(effects);
            self.free.push(index(handle) as u32);
        }
    }
}

impl Entry {
    fn new(stage: Stage, shared: Option<InEntry>) -> Entry {
        Entry {
            stage,
            guard: true,
            awaited: true,
            answer: None,
            grant: Grant::NOTHING,
            wanted: 0,
            staged: None,
            invalidate: false,
            wakers: Wakers::default(),
            shared,
        }
    }

    /// Does somebody hold it, or is about to be told so?
    fn is_guarded(&self) -> bool {
        self.guard && matches!(self.stage, Stage::Held | Stage::Converting(_))
    }

    /// Is something under way that the node may withdraw?
    fn is_withdrawable(&self) -> bool {
        match self.stage {
            Stage::Asked => self.shared.is_none(),
            Stage::Converting(_) => true,
            Stage::Held | Stage::Releasing | Stage::Ended => false,
        }
    }

    /// Gives back what is held in an entry, without the node.
    fn give_back(&mut self, effects: &mut Effects) {
        let Some(shared) = self.shared.take() else { return };
        match shared.hold() {
            Some(hold) => shared.give_back(hold, effects),
            None => shared.end(effects),
        }
    }

    /// Gives the lock back.
    fn unlock(&mut self, handle: u32, effects: &mut Effects) {
        self.stage = Stage::Releasing;
        let mode = match &self.shared {
            Some(shared) => shared.hold().map_or(Mode::NL, |hold| hold.mode),
            None => self.grant.mode,
        };
        let writes = mode.writes_value();
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
        if let Place::Watch(handle) = place {
            return self.watches.entry(handle).or_default().set(key, waker);
        }
        match self.wakers(place) {
            Some(wakers) => wakers.set(key, waker),
            None => Some(waker),
        }
    }

    /// Takes a waiter off its list.
    pub(crate) fn remove_waker(&mut self, place: Place, key: u64) -> Option<Waker> {
        let waker = self.wakers(place)?.remove(key);
        if let Place::Watch(handle) = place
            && self.watches.get(&handle).is_some_and(Wakers::is_empty)
        {
            self.watches.remove(&handle);
        }
        waker
    }

    /// Everybody who waits for news of a lock in an entry looks again: a hint may have been lost.
    pub(crate) fn look_again(&mut self, effects: &mut Effects) {
        self.watches.values_mut().for_each(|wakers| wakers.take(effects));
    }

    /// Everybody who waits for the loss of a lock in the node's table looks again.
    pub(crate) fn wake_holders(&mut self, effects: &mut Effects) {
        self.entries.iter_mut().flatten().for_each(|entry| entry.wakers.take(effects));
    }

    fn wakers(&mut self, place: Place) -> Option<&mut Wakers> {
        match place {
            Place::Lock(handle) => self.entry_mut(handle).map(|e| &mut e.wakers),
            Place::Call(number) => self.calls.wakers(number),
            Place::Watch(handle) => self.watches.get_mut(&handle),
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
                if let Some(watch) = self.watches.get_mut(&handle) {
                    watch.take(effects);
                }
                Ok(())
            }
            Reply::Opened { request, space } => self.calls.answer(request, Ok(Answer::Space(space)), effects),
            Reply::Denied { request, .. } if self.attaching.contains_key(&request) => {
                self.attached(request, |_| None);
                Ok(())
            }
            Reply::Attached(_) => Err(Misdeed("it sent a segment without its descriptor".into())),
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
        self.segments().for_each(|segment| segment.end());
        self.look_again(effects);
        self.shared.retain(|_, entry| {
            entry.wakers.take(effects);
            entry.guard || entry.awaited
        });
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

    // ---- segments

    /// The segment of a lockspace, which may come later; the request to send, if it was not asked for yet. `now`: this
    /// program's clock.
    pub(crate) fn segment(&mut self, space: SpaceId, now: u64) -> (Arc<Cell>, Option<Request>) {
        if let Some(cell) = self.cells.get(&space) {
            return (Arc::clone(cell), None);
        }
        let cell = Arc::clone(self.cells.entry(space).or_default());
        if self.ended.is_some() || self.cells.len() > usize::from(SharedHandle::SEGMENTS_MAX) {
            return (cell, None);
        }
        // Other calls count from zero.
        let request = u32::MAX - u32::from(space.0);
        self.attaching.insert(request, (space, now));
        (cell, Some(Request::Attach { request, space }))
    }

    /// The answer to the request for a segment. `open` is given the time at which it was asked for.
    pub(crate) fn attached(&mut self, request: u32, open: impl FnOnce(u64) -> Option<Arc<Segment>>) {
        if let Some((space, asked)) = self.attaching.remove(&request)
            && let Some(cell) = self.cells.get(&space)
        {
            let opened = open(asked);
            // One that was on its way when the session ended grants nothing.
            if let Some(segment) = opened.as_ref().filter(|_| self.ended.is_some()) {
                segment.end();
            }
            // Only one answer comes for each.
            let _ = cell.set(opened);
        }
    }

    /// Nothing of the session touches a segment any more.
    pub(crate) fn detach(&mut self) -> bool {
        // One that is still on its way will not be mapped any more.
        let attached = self.segments().next().is_some() || !self.attaching.is_empty();
        self.attaching.clear();
        self.shared.clear();
        self.cells.clear();
        attached
    }

    /// The segments there are.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.cells.values().filter_map(|cell| cell.get()?.as_ref())
    }

    fn granted(&mut self, granted: Granted, effects: &mut Effects) -> Result<(), Misdeed> {
        let handle = granted.handle;
        let entry = self.entry_mut(handle).ok_or_else(|| strange("a grant", handle))?;
        match entry.stage {
            Stage::Asked => {}
            Stage::Converting(carried) => {
                // What a lock in an entry had before is known to its guard.
                let told = entry.shared.is_none();
                if let Some(bytes) = carried.value.filter(|_| told) {
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
        entry.grant.shown = granted.value.is_some();
        if granted.value.is_some() {
            entry.grant.value = granted.value;
        }
        entry.settle(handle, Ok(()), effects);
        self.settled(handle, effects);
        Ok(())
    }

    /// A lock in an entry of which nobody awaits anything any more goes its own way.
    fn settled(&mut self, handle: u32, effects: &mut Effects) {
        let over = |entry: &Entry| entry.stage == Stage::Held && !entry.awaited && entry.answer.is_none();
        if self.shared.get(&handle).is_some_and(over) {
            self.forget(handle, effects);
        }
    }

    fn failed(&mut self, handle: u32, why: Failure, effects: &mut Effects) -> Result<(), Misdeed> {
        let entry = self.entry_mut(handle).ok_or_else(|| strange("a refusal", handle))?;
        match entry.stage {
            Stage::Asked | Stage::Releasing => self.last(handle, Err(why), effects),
            Stage::Converting(_) => {
                entry.stage = Stage::Held;
                entry.settle(handle, Err(why), effects);
                self.settled(handle, effects);
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
            if self.shared.is_some() && !self.awaited && self.staged.is_none() && !self.invalidate {
                self.give_back(effects);
            } else {
                self.unlock(handle, effects);
            }
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
