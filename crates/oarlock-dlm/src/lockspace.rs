//! An open lockspace: a session, a table of locks, and a queue.
//!
//! The state is locked for moments only: never while the library is called, which may wake requests that come here, and never
//! while a callback runs, which may do with its lock what it likes (64).

use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oarlock::{Client, Guard, Mode, Space, Withdrawal};
use oarlock_handle::client::wait;
use rustix::io::Errno;

use crate::flags::{self, Asked, LockFlags};
use crate::lock::{Departure, Doing, Ending, Lock};
use crate::queue::{Event, Queue, Record, Turn, Waiting, What};
use crate::requests::{self, Manner, Outcome};
use crate::runner::Runner;
use crate::server::{self, How};
use crate::status::{self, Report};
use crate::{Block, RESOURCE_BYTES_MAX};

/// Lock ids have 31 bits: programs get them as positive numbers.
const LKID_MAX: u32 = i32::MAX as u32;

/// How long the end of a lockspace waits for the node. After that the node finds out by itself.
const PATIENCE: Duration = Duration::from_secs(2);

/// A lockspace that this process has opened. `U` is what its programs want back with each event.
pub struct Lockspace<U> {
    name: String,
    client: Client,
    space: Space,
    runner: Arc<Runner>,
    state: Mutex<State<U>>,
    /// Something came into the queue, an operation is over, or the lockspace is closed.
    changed: Condvar,
    fd: RawFd,
}

struct State<U> {
    locks: BTreeMap<u32, Lock<U>>,
    /// The number that was given last: none is used again before all others were.
    last: u32,
    queue: Queue<U>,
    /// A thread runs the callbacks: which one it is at, by its place in the queue.
    attended: Option<Option<u64>>,
    closed: bool,
}

/// A request for a lock, or for another mode.
pub struct Call<'a, U> {
    /// Number of the mode.
    pub mode: u32,
    /// Flags as libdlm numbers them.
    pub flags: u32,
    /// The resource; of no meaning in a conversion.
    pub name: &'a [u8],
    /// The lock that is to be converted.
    pub lkid: u32,
    /// The program's value block, if it has one.
    pub value: Option<Block>,
    /// The program wants to hear that others want the lock.
    pub notices: bool,
    /// On whose behalf, 0 for nobody's.
    pub transaction: u64,
    /// For how long to wait. Counts only with its flag.
    pub timeout: Option<Duration>,
    /// Comes back with each event.
    pub user: U,
}

/// A lock that is given back, or whose request is withdrawn.
pub struct Order<C> {
    /// Which lock.
    pub lkid: u32,
    /// Flags as libdlm numbers them.
    pub flags: u32,
    /// The program's value block, if it has one.
    pub value: Option<Block>,
    /// Changes whom to call.
    pub change: C,
}

/// What became of a call that was accepted.
enum Accepted {
    /// What came of it will be told.
    Asked,
    /// There is nothing more to come.
    Done(u32),
}

impl<U: Clone + Send + 'static> Lockspace<U> {
    /// Enters a lockspace.
    ///
    /// # Errors
    /// `INVAL` for a name that none can have, `EXIST`, `NOENT`, `PERM`, `NOTCONN` without a lockspace of Oarlock, `UNATCH`
    /// without a daemon that serves.
    pub fn open(name: &[u8], how: How) -> Result<Arc<Lockspace<U>>, Errno> {
        Lockspace::open_at(None, name, how)
    }

    /// The same at the node whose socket this is.
    ///
    /// # Errors
    /// As for [`open`](Lockspace::open).
    pub fn open_at(at: Option<&Path>, name: &[u8], how: How) -> Result<Arc<Lockspace<U>>, Errno> {
        let name = flags::space_name(name)?;
        let queue = Queue::new().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NOMEM))?;
        let (client, space) = server::enter(at, name, how)?;
        let fd = queue.fd();
        let state = State { locks: BTreeMap::new(), last: 0, queue, attended: None, closed: false };
        Ok(Arc::new(Lockspace {
            name: name.to_owned(),
            client,
            space,
            runner: Arc::default(),
            state: Mutex::new(state),
            changed: Condvar::new(),
            fd,
        }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Readable while there is something to [`next`](Lockspace::next).
    pub fn fd(&self) -> RawFd {
        self.fd
    }

    fn state(&self) -> MutexGuard<'_, State<U>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ----- requests ---------------------------------------------------------------------------------------

    /// Asks for a lock or for another mode; what comes of it is an [`Event`]. `accept` hears the lock's number before that
    /// event can come (24). False: an orphan was adopted, of which there is no event.
    ///
    /// # Errors
    /// What is said of the call itself. Then nothing was done, and there is no event.
    pub fn lock(self: &Arc<Self>, call: Call<'_, U>, accept: impl FnOnce(u32)) -> Result<bool, Errno> {
        Ok(matches!(self.accept(call, None, accept)?, Accepted::Asked))
    }

    /// The same, and waits for what comes of it.
    ///
    /// # Errors
    /// As for [`lock`](Lockspace::lock).
    pub fn lock_wait(
        self: &Arc<Self>,
        call: Call<'_, U>,
        accept: impl FnOnce(u32),
        turn: Turn<'_, U>,
    ) -> Result<Report, Errno> {
        let waiting = Waiting::new();
        match self.accept(call, Some(Arc::clone(&waiting)), accept)? {
            Accepted::Asked => Ok(self.wait(&waiting, turn)),
            Accepted::Done(lkid) => Ok(Report::new(lkid, 0)),
        }
    }

    fn accept(
        self: &Arc<Self>,
        call: Call<'_, U>,
        waiting: Option<Arc<Waiting>>,
        accept: impl FnOnce(u32),
    ) -> Result<Accepted, Errno> {
        let asked = Asked::new(call.mode, call.flags, call.name, call.lkid, call.value.is_some())?;
        let timeout = call.timeout.filter(|it| asked.flags.contains(LockFlags::TIMEOUT) && !it.is_zero());
        let manner = Manner { asked, timeout, notices: call.notices };
        if asked.flags.contains(LockFlags::CONVERT) {
            return self.convert(call, manner, waiting, accept);
        }
        let doing = Doing {
            calls: waiting.is_none(),
            value: asked.flags.contains(LockFlags::VALBLK),
            ..Doing::default()
        };
        let request = self.space.lock(server::native_name(&self.name, call.name));
        let mut request = manner.request(request, &doing.withdrawal).transaction(call.transaction);
        if asked.flags.contains(LockFlags::ORPHAN) {
            return self.adopt(call.user, request, call.notices).inspect(|it| {
                if let Accepted::Done(lkid) = it {
                    accept(*lkid);
                }
            });
        }
        if waiting.is_some() {
            // A thread that waits does one thing after the other, so a search for deadlocks may go by it.
            request = request.by_thread();
        }
        let mut lock = Lock::new(call.user, call.notices, 0);
        lock.doing = Some(Doing { waiting: waiting.into_iter().collect(), ..doing });
        let lkid = self.state().insert(lock)?;
        accept(lkid);
        self.runner.begin(requests::ask(Arc::clone(self), lkid, request));
        Ok(Accepted::Asked)
    }

    fn convert(
        self: &Arc<Self>,
        call: Call<'_, U>,
        manner: Manner,
        waiting: Option<Arc<Waiting>>,
        accept: impl FnOnce(u32),
    ) -> Result<Accepted, Errno> {
        let (lkid, asked) = (call.lkid, manner.asked);
        let value = asked.flags.contains(LockFlags::VALBLK);
        let (guard, from, unwatched, withdrawal) = {
            let mut state = self.state();
            let lock = state.idle(lkid)?;
            let guard = lock.guard.clone().ok_or(Errno::BUSY)?;
            asked.check_from(lock.mode)?;
            let old = (std::mem::replace(&mut lock.user, call.user), lock.notices);
            lock.before = Some(old);
            lock.notices = call.notices;
            let unwatched = if call.notices { None } else { lock.watch.take() };
            let doing = Doing {
                calls: waiting.is_none(),
                waiting: waiting.into_iter().collect(),
                value,
                ..Doing::default()
            };
            let withdrawal = doing.withdrawal.clone();
            lock.doing = Some(doing);
            (guard, lock.mode, unwatched, withdrawal)
        };
        accept(lkid);
        if let Some(watch) = unwatched {
            watch.end();
        }
        if from.covers(asked.mode) {
            let block = call.value.filter(|_| value);
            let invalidate = asked.flags.contains(LockFlags::IVVALBLK);
            Ending { value: block, invalidate }.say_to(&guard);
        }
        self.runner.begin(requests::convert(Arc::clone(self), lkid, guard, manner, withdrawal));
        Ok(Accepted::Asked)
    }

    /// Takes over what a program has left behind (38). That is answered at once, by nobody but this node.
    fn adopt(
        self: &Arc<Self>,
        user: U,
        request: oarlock::LockRequest,
        notices: bool,
    ) -> Result<Accepted, Errno> {
        if self.state().closed {
            return Err(Errno::NOTCONN);
        }
        let guard = wait(request.acquire()).map_err(|error| server::refused(&error))?;
        let mut lock = Lock::new(user, notices, 0);
        lock.mode = guard.mode();
        lock.guard = Some(Arc::new(guard));
        let lkid = self.state().insert(lock)?;
        self.keep_watch(lkid);
        Ok(Accepted::Done(lkid))
    }

    /// Gives a lock back, or withdraws what it waits for. `accept` runs before the event can come. False: there is none,
    /// because nothing was to be withdrawn (19).
    ///
    /// # Errors
    /// As for [`lock`](Lockspace::lock).
    pub fn unlock(
        self: &Arc<Self>,
        order: Order<impl FnOnce(&mut U)>,
        accept: impl FnOnce(),
    ) -> Result<bool, Errno> {
        self.give_back(order, None, status::CANCELLED, accept)
    }

    /// The same, and waits for what comes of it.
    ///
    /// # Errors
    /// As for [`lock`](Lockspace::lock).
    pub fn unlock_wait(
        self: &Arc<Self>,
        order: Order<impl FnOnce(&mut U)>,
        accept: impl FnOnce(),
        turn: Turn<'_, U>,
    ) -> Result<Option<Report>, Errno> {
        let waiting = Waiting::new();
        let comes = self.give_back(order, Some(Arc::clone(&waiting)), status::CANCELLED, accept)?;
        Ok(comes.then(|| self.wait(&waiting, turn)))
    }

    /// Withdraws what a lock waits for; it is told that this was for a deadlock.
    ///
    /// # Errors
    /// As for [`lock`](Lockspace::lock).
    pub fn deadlock_cancel(self: &Arc<Self>, lkid: u32, flags: u32) -> Result<(), Errno> {
        let flags = flags | LockFlags::CANCEL.bits();
        let order = Order { lkid, flags, value: None, change: |_: &mut U| () };
        self.give_back(order, None, Errno::DEADLK.raw_os_error(), || ()).map(drop)
    }

    fn give_back(
        self: &Arc<Self>,
        order: Order<impl FnOnce(&mut U)>,
        waiting: Option<Arc<Waiting>>,
        cancelled: i32,
        accept: impl FnOnce(),
    ) -> Result<bool, Errno> {
        let (lkid, flags) = (order.lkid, flags::unlock(order.flags)?);
        if lkid == 0 {
            return Err(Errno::INVAL);
        }
        let ending = Ending {
            value: order.value.filter(|_| flags.contains(LockFlags::VALBLK)),
            invalidate: flags.contains(LockFlags::IVVALBLK),
        };
        let mut state = self.state();
        let lock = state.living(lkid)?;
        let departure = match &mut lock.doing {
            None if flags.contains(LockFlags::CANCEL) => return Ok(false),
            None => {
                (order.change)(&mut lock.user);
                let doing = Doing { calls: waiting.is_none(), leaves: true, ..Doing::default() };
                lock.doing = Some(Doing { waiting: waiting.into_iter().collect(), ..doing });
                lock.depart(ending)
            }
            Some(doing) if flags.contains(LockFlags::CANCEL) && doing.cancelled.is_some() => {
                return Err(Errno::BUSY);
            }
            Some(doing) if flags.contains(LockFlags::CANCEL) => {
                // Whoever asked hears of it as it said. Only where nobody waits is somebody else to be told in its place.
                if waiting.is_none() && doing.waiting.is_empty() {
                    (order.change)(&mut lock.user);
                }
                doing.waiting.extend(waiting);
                doing.cancelled = Some(cancelled);
                None
            }
            Some(doing) => {
                // The request is told of no more, but by this (21).
                (order.change)(&mut lock.user);
                doing.calls = waiting.is_none();
                doing.waiting.extend(waiting);
                doing.ending = Some(ending);
                None
            }
        };
        let withdrawal = lock.doing.as_ref().map(|doing| doing.withdrawal.clone());
        // Under the mutex: what is under way could be over otherwise before the caller's memory says that it is not.
        accept();
        drop(state);
        match (departure, withdrawal) {
            (Some(departure), _) => self.runner.begin(requests::depart(Arc::clone(self), lkid, departure)),
            (None, Some(withdrawal)) => withdrawal.ask(),
            (None, None) => {}
        }
        Ok(true)
    }

    /// Gives back, without a word, all that this handle has, or what ended programs of this node have left behind in the
    /// lockspace: all of it for process 0.
    ///
    /// # Errors
    /// `NOSYS` for another node than this one.
    pub fn purge(self: &Arc<Self>, node: i32, pid: i32) -> Result<(), Errno> {
        // 0 is this node, and so is its number, by which programs count from 1.
        if node != 0 && server::own_number(&self.client)? != u32::try_from(node).unwrap_or(0) {
            return Err(Errno::NOSYS);
        }
        let pid = u32::try_from(pid).map_err(|_| Errno::INVAL)?;
        if pid == std::process::id() {
            self.drop_all();
            return Ok(());
        }
        server::purge(&self.client, &self.name, (pid != 0).then_some(pid))
    }

    fn drop_all(self: &Arc<Self>) {
        let (mut departures, mut withdrawals) = (Vec::new(), Vec::new());
        {
            let mut state = self.state();
            for (lkid, lock) in &mut state.locks {
                match &mut lock.doing {
                    None => {
                        lock.doing = Some(Doing { leaves: true, ..Doing::default() });
                        departures.extend(lock.depart(Ending::default()).map(|it| (*lkid, it)));
                    }
                    Some(doing) => {
                        doing.calls = false;
                        if !doing.leaves {
                            doing.ending.get_or_insert_default();
                            withdrawals.push(doing.withdrawal.clone());
                        }
                    }
                }
            }
            state.queue.retain(|_| false);
        }
        self.changed.notify_all();
        withdrawals.iter().for_each(Withdrawal::ask);
        for (lkid, departure) in departures {
            self.runner.begin(requests::depart(Arc::clone(self), lkid, departure));
        }
    }

    // ----- what comes of them -----------------------------------------------------------------------------

    /// An operation is over. What is to be given back now comes back.
    pub(crate) fn finish(self: &Arc<Self>, lkid: u32, outcome: Outcome) -> Option<Departure> {
        let Outcome { guard, status, demoted } = outcome;
        // Asked before the state is locked: the library may have something to do at this occasion.
        let mode = guard.as_deref().map(Guard::mode);
        let value = guard.as_deref().and_then(Guard::value_shown);
        let alternate = guard.as_deref().is_some_and(Guard::is_alternate);
        {
            let mut state = self.state();
            let State { locks, queue, .. } = &mut *state;
            let lock = locks.get_mut(&lkid)?;
            let mut doing = lock.doing.take()?;
            let reads = lock.guard.is_none() || reads(lock.mode, mode.unwrap_or(Mode::NL));
            lock.mode = mode.unwrap_or(Mode::NL);
            lock.guard = guard;
            let mut report = Report::new(lkid, status);
            if let Some(ending) = doing.ending.take() {
                if let Some(departure) = lock.depart(ending) {
                    lock.doing = Some(Doing { leaves: true, ..doing });
                    return Some(departure);
                }
                report.status = status::UNLOCKED;
            } else if status == 0 {
                if let Some(value) = value.filter(|_| doing.value) {
                    // On other ways it is only said whether the block is to be believed (32).
                    report.value = value.bytes.first_chunk().copied().filter(|_| reads);
                    report.flags |= if value.valid { 0 } else { status::VALUE_NOT_VALID };
                }
                report.flags |= if alternate { status::ALTERNATE_MODE } else { 0 };
            } else if status == status::CANCELLED {
                report.status = doing.cancelled.unwrap_or(status);
            }
            report.flags |= if demoted { status::DEMOTED } else { 0 };
            lock.last = report;
            queue.tell(&lock.user, &doing, report);
            // A change of mode that was refused changes nobody's callbacks, here as at the node.
            let before = lock.before.take();
            if let Some((user, notices)) = before.filter(|_| report.status != 0) {
                (lock.user, lock.notices) = (user, notices);
            }
            if lock.guard.is_none() {
                locks.remove(&lkid);
            }
        }
        self.changed.notify_all();
        self.keep_watch(lkid);
        None
    }

    /// A lock has been given back.
    pub(crate) fn gone(&self, lkid: u32, status: i32) {
        {
            let mut state = self.state();
            let Some(lock) = state.locks.remove(&lkid) else { return };
            let doing = lock.doing.unwrap_or_default();
            state.queue.tell(&lock.user, &doing, Report::new(lkid, status));
        }
        self.changed.notify_all();
    }

    /// Others want a lock.
    pub(crate) fn wanted(&self, lkid: u32, mode: Mode) {
        self.state().queue.push(Record::Wanted { lkid, mode });
        self.changed.notify_all();
    }

    /// Begins to watch what is held, if somebody wants to hear of it.
    fn keep_watch(self: &Arc<Self>, lkid: u32) {
        let watch = {
            let mut state = self.state();
            let Some(lock) = state.locks.get_mut(&lkid) else { return };
            if !lock.notices || lock.watch.is_some() {
                return;
            }
            let Some(guard) = lock.guard.clone() else { return };
            let watch = self.runner.task(requests::watch(Arc::clone(self), lkid, guard));
            lock.watch = Some(watch.clone());
            watch
        };
        watch.wake();
    }

    // ----- telling ----------------------------------------------------------------------------------------

    /// The next event.
    pub fn next(&self) -> Option<Event<U>> {
        self.state().next()
    }

    /// The same, waiting for it; none when the lockspace is closed or `over` says so after a [`wake`](Lockspace::wake). For one thread that does
    /// nothing else: whoever sleeps until an operation is over sleeps until this thread is done with all that came before.
    pub fn wait_next(&self, over: impl Fn() -> bool) -> Option<Event<U>> {
        let mut state = self.state();
        // It is done with the last one, for which somebody may wait.
        state.attended = Some(None);
        self.changed.notify_all();
        loop {
            if state.closed || over() {
                state.attended = None;
                self.changed.notify_all();
                return None;
            }
            if let Some(event) = state.next() {
                state.attended = Some(Some(state.queue.gone()));
                return Some(event);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whoever waits looks again.
    pub fn wake(&self) {
        drop(self.state());
        self.changed.notify_all();
    }

    /// Waits for one operation. Whoever calls back meanwhile calls first for all that came before its end.
    fn wait(&self, waiting: &Waiting, turn: Turn<'_, U>) -> Report {
        let mut state = self.state();
        loop {
            if let Some((report, mark)) = waiting.told()
                && state.has_reached(mark, turn.sleeps())
            {
                return report;
            }
            if let Turn::Call(call) = turn
                && let Some(event) = state.next()
            {
                drop(state);
                call(event);
                state = self.state();
                continue;
            }
            if waiting.told().is_some() && !turn.sleeps() {
                // Whatever came before it has just gone.
                continue;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    // ----- the end ----------------------------------------------------------------------------------------

    /// Ends the session, and with it all that is held and not persistent. What is under way is over for whoever waits for
    /// it; nothing is told any more.
    pub fn close(&self) {
        self.state().closed = true;
        self.client.hang_up(PATIENCE);
        let (locks, mark) = {
            let mut state = self.state();
            state.queue.retain(|_| false);
            (std::mem::take(&mut state.locks), state.queue.mark())
        };
        for (lkid, lock) in &locks {
            if let Some(watch) = &lock.watch {
                watch.end();
            }
            // Accepted at this moment, and not asked for yet.
            let over = Report::new(*lkid, Errno::NOTCONN.raw_os_error());
            let waiting = lock.doing.iter().flat_map(|doing| &doing.waiting);
            waiting.for_each(|waiting| waiting.tell(over, mark));
        }
        drop(locks);
        self.changed.notify_all();
    }

    /// One reference to the lockspace less; to be called once, after it was closed.
    ///
    /// # Errors
    /// `BUSY` if it was the last, locks of this node are left in it, and `force` was not said; then the reference stays.
    pub fn leave(&self, force: bool) -> Result<(), Errno> {
        server::leave(&self.name, force)
    }
}

impl<U: Clone> State<U> {
    /// Puts a lock into the table, and says under which number.
    fn insert(&mut self, mut lock: Lock<U>) -> Result<u32, Errno> {
        if self.closed {
            return Err(Errno::NOTCONN);
        }
        loop {
            self.last = if self.last >= LKID_MAX { 1 } else { self.last + 1 };
            // There are fewer locks in a session than numbers.
            if !self.locks.contains_key(&self.last) {
                break;
            }
        }
        lock.last.lkid = self.last;
        self.locks.insert(self.last, lock);
        Ok(self.last)
    }

    /// A lock that is not about to go (22).
    fn living(&mut self, lkid: u32) -> Result<&mut Lock<U>, Errno> {
        if self.closed {
            return Err(Errno::NOTCONN);
        }
        self.locks.get_mut(&lkid).filter(|lock| !lock.is_leaving()).ok_or(Errno::NOENT)
    }

    /// One of which nothing is under way.
    fn idle(&mut self, lkid: u32) -> Result<&mut Lock<U>, Errno> {
        let lock = self.living(lkid)?;
        if lock.doing.is_some() { Err(Errno::BUSY) } else { Ok(lock) }
    }

    /// Has everybody been called for what came before a mark? Whoever sleeps has others called by a thread, if there is one.
    fn has_reached(&self, mark: u64, sleeps: bool) -> bool {
        match (sleeps, self.attended) {
            (true, None) => true,
            (true, Some(at)) => self.closed || self.queue.has_reached(mark) && at.is_none_or(|at| at > mark),
            (false, _) => self.queue.has_reached(mark),
        }
    }

    fn next(&mut self) -> Option<Event<U>> {
        loop {
            match self.queue.pop()? {
                Record::Completed { user, report } => {
                    return Some(Event { user, what: What::Completed(report) });
                }
                Record::Wanted { lkid, mode } => {
                    let Some(lock) = self.locks.get(&lkid) else { continue };
                    // It may have been converted out of the way, or given back, since (60).
                    if lock.notices && lock.guard.is_some() && !mode.compatible(lock.mode) {
                        let last = lock.doing.is_none().then_some(lock.last);
                        return Some(Event { user: lock.user.clone(), what: What::Blocking(last) });
                    }
                }
            }
        }
    }
}

impl<U: Clone> Queue<U> {
    /// Tells what came of an operation.
    fn tell(&mut self, user: &U, doing: &Doing, report: Report) {
        let mark = self.mark();
        if doing.calls {
            self.push(Record::Completed { user: user.clone(), report });
        }
        doing.waiting.iter().for_each(|waiting| waiting.tell(report, mark));
    }
}

/// Does a change of mode read the block (26)? Higher is what has the larger number, as in the manual.
fn reads(from: Mode, to: Mode) -> bool {
    match from {
        Mode::NL => true,
        Mode::EX => false,
        Mode::PW => to == Mode::EX,
        from => to as u8 >= from as u8,
    }
}

const _: () = assert!(RESOURCE_BYTES_MAX + crate::LOCKSPACE_BYTES_MAX < 255, "native names hold both");
