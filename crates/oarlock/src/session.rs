//! One session with the daemon: the table of locks, the socket, and who reads it.
//!
//! ```text
//!   caller ──► begin ──► outbox ──────────────────► socket ──► daemon
//!   caller ◄── wait ◄─── table ◄── one reader ◄──── socket ◄──
//! ```
//!
//! There is never more than one reader. In a session of the async client it is a thread of its own, which
//! wakes futures. In a session of the blocking client it is whichever caller waits first: it takes up
//! packets for everybody until its own answer is there, then the next one that waits takes its place. So a
//! lone caller sends and receives in its own thread, without a switch to another one.
//!
//! Two mutexes: the table's and the outbox's. The outbox's may be taken under the table's, never the other way
//! round. Neither is held while foreign code runs (wakers), while the socket is waited for, or across an
//! operation.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use oarlock_layout::code::Code;
use oarlock_layout::codec::Wire;
use oarlock_layout::id::SpaceId;
use oarlock_layout::lease::Standing;
use oarlock_layout::limit::{LEASE_FROZEN, SESSION_PACKET_BYTES_MAX};
use oarlock_layout::message::session::{Reply, Request};
use oarlock_layout::time;
use oarlock_shm::{Birthmark, LeaseSight, Loss};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::greeting::{self, Hello};
use crate::outbox::Outbox;
use crate::segment::{self, Cell, Segment};
use crate::socket::{Patience, Received, Socket};
use crate::table::{Ended, Misdeed, Place, Table};
use crate::wakers::{Effects, Wakers};

/// How long a daemon may take to welcome a session. It does so without asking anybody.
const WELCOME: Duration = Duration::from_secs(5);
/// How often whoever waits for packets looks whether the node's lease still lasts.
const LOOK: Duration = Duration::from_millis(500);
/// Not more often than this, however little of it is left.
const LOOK_MIN: Duration = Duration::from_millis(2);

pub(crate) struct Session {
    pub(crate) socket: Socket,
    pub(crate) outbox: Outbox,
    pub(crate) hello: Hello,
    state: Mutex<State>,
    /// The process that opened the session; its forks may not use it (M12).
    pid: u32,
    birthmark: Birthmark,
    /// Shows until when the node's lease lasts, whatever becomes of the node.
    lease: Option<LeaseSight>,
    /// The session is over, and every thread of this program sees that.
    over: AtomicBool,
    /// Those who wait for a loss have been told that the lease is at risk.
    at_risk: AtomicBool,
    /// Locks may be granted in this process (the default).
    sharing: bool,
    /// When whoever reads is to look next, by this program's clock. Packets that keep coming do not put it off.
    look_due: AtomicU64,
    keys: AtomicU64,
}

struct State {
    table: Table,
    /// Somebody reads the socket.
    read: bool,
    /// Blocking callers that wait for the reader to leave its place.
    followers: Wakers,
    /// Where packets land. The reader takes it along.
    buffer: Vec<u8>,
}

// ---- opening and closing ----------------------------------------------------------------------------

impl Session {
    /// Connects and exchanges greetings.
    pub(crate) fn open(path: &Path, label: &str, sharing: bool) -> Result<Arc<Session>> {
        Session::greet(Socket::connect(path, WELCOME)?, path, label, sharing)
    }

    /// Exchanges greetings over a connected socket.
    pub(crate) fn greet(socket: Socket, path: &Path, label: &str, sharing: bool) -> Result<Arc<Session>> {
        let failed =
            |code, why: String| Error::new(code, format!("cannot open a session at {}", path.display()), why);
        // Whether this arrives does not matter: a daemon that refuses says so before it hangs up.
        let asked = segment::boottime();
        let _ = socket.try_send(&greeting::hello(label).to_bytes());
        let mut buffer = vec![0; SESSION_PACKET_BYTES_MAX];
        let hello = match socket.receive(&mut buffer, Patience::Until(Instant::now() + WELCOME)) {
            Ok(Received::Packet(length)) => {
                greeting::read(&buffer[..length]).map_err(|f| failed(f.code, f.text))?
            }
            Ok(Received::TooLong(length)) => {
                return Err(failed(Code::SessionMalformed, format!("it sent a packet of {length} bytes")));
            }
            Ok(Received::Nothing) => {
                return Err(failed(Code::NoDaemon, format!("it did not answer within {WELCOME:?}")));
            }
            Ok(Received::HungUp) => return Err(failed(Code::NoDaemon, "it hung up".into())),
            Err(errno) => return Err(failed(Code::NoDaemon, errno.to_string())),
        };
        let lease = match (hello.now, socket.take_descriptor()) {
            (time::Instant(0), _) => None,
            (now, Some(fd)) => {
                let sight = LeaseSight::open(fd, asked, now, segment::boottime());
                let why = || failed(Code::SessionMalformed, "what it sent is no note of a lease".into());
                Some(sight.ok_or_else(why)?)
            }
            (_, None) => {
                let why = "there was no descriptor left to look at the node's lease with";
                return Err(failed(Code::OutOfDescriptors, why.into()));
            }
        };
        let birthmark = Birthmark::new().map_err(|e| failed(Code::Failed, e.to_string()))?;
        let table = Table::default();
        let state = State { table, read: false, followers: Wakers::default(), buffer };
        Ok(Arc::new(Session {
            socket,
            outbox: Outbox::default(),
            hello,
            state: Mutex::new(state),
            pid: std::process::id(),
            birthmark,
            lease,
            over: AtomicBool::new(false),
            at_risk: AtomicBool::new(false),
            sharing,
            look_due: AtomicU64::new(0),
            keys: AtomicU64::new(0),
        }))
    }

    /// A thread is about to read the socket until the end; nobody else may.
    pub(crate) fn will_be_read(&self) {
        self.lock().read = true;
    }

    /// Takes up packets until the session is over.
    pub(crate) fn read_until_end(self: Arc<Self>) {
        let mut buffer = std::mem::take(&mut self.lock().buffer);
        while self.read_for_a_while(&mut buffer, Patience::Endless) != Some(false) {}
    }

    /// No caller is left. What is still to be sent is sent; then the daemon sees the end of the session.
    fn close(self: &Arc<Self>) {
        if self.forked() {
            // The parent's session goes on. This process only closes its copy of the descriptor.
            return;
        }
        let session = self;
        let detached = session.change(|table, effects| {
            // What the daemon still says must not lead to an entry that is another session's by then.
            table.end(Ended { code: Code::Lost, text: "the session was closed".into() }, effects);
            table.detach()
        });
        if detached {
            // Whether it is heard only decides how soon the place in the segment is free again.
            let _ = session.post(&Request::Detach);
        }
        if self.shut_down_when_sent() {
            // A socket that is closed with packets unread tells the other side "reset", and a reset may
            // overtake what was sent before it. So read what is there; nothing can follow any more.
            let mut state = self.lock();
            if !state.read {
                let buffer = &mut state.buffer;
                while let Ok(Received::Packet(_) | Received::TooLong(_)) =
                    self.socket.receive(buffer, Patience::None)
                {}
            }
        }
    }

    /// Ends the session, whoever has a share of it, and waits until the node has heard it; false if that took too long.
    pub(crate) fn hang_up(self: &Arc<Self>, patience: Duration) -> bool {
        if self.forked() {
            return false;
        }
        self.change(|table, effects| {
            table.end(Ended { code: Code::Lost, text: "the session was closed".into() }, effects);
        });
        let (until, mut buffer) = (Instant::now() + patience, vec![0; SESSION_PACKET_BYTES_MAX]);
        // What was asked before the end counts, blocks that were to be written among it.
        self.wait_until_sent(until);
        self.socket.finish();
        // What it said before it heard concerns nobody any more.
        let heard = loop {
            match self.socket.receive(&mut buffer, Patience::Until(until)) {
                Ok(Received::Packet(_) | Received::TooLong(_)) => {}
                Ok(Received::HungUp) => break true,
                Ok(Received::Nothing) | Err(_) => break false,
            }
        };
        self.close();
        heard
    }

    /// Is this a fork of the process that opened the session?
    #[inline(always)]
    fn forked(&self) -> bool {
        !self.birthmark.is_mine()
    }

    /// Refuses the forks of the process that opened the session.
    #[inline(always)]
    pub(crate) fn check_process(&self, what: impl FnOnce() -> String) -> Result<()> {
        if self.forked() { self.refuse_fork(what()) } else { Ok(()) }
    }

    #[cold]
    fn refuse_fork(&self, what: String) -> Result<()> {
        let why = format!(
            "the session belongs to process {}, and this is its fork {}",
            self.pid,
            std::process::id()
        );
        Err(Error::new(Code::SessionForked, what, why))
    }
}

/// The end that callers hold: when the last of them drops it, the session closes. The threads of a session
/// hold the session itself.
pub(crate) struct Owner(Arc<Session>);

impl Owner {
    pub(crate) fn new(session: Arc<Session>) -> Arc<Owner> {
        Arc::new(Owner(session))
    }
}

impl std::ops::Deref for Owner {
    type Target = Arc<Session>;

    fn deref(&self) -> &Arc<Session> {
        &self.0
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close();
    }
}

// ---- using the table --------------------------------------------------------------------------------

impl Session {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics halfway through a change; a poisoned mutex comes from elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the table, then sends and wakes what follows from that.
    pub(crate) fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut Table, &mut Effects) -> T) -> T {
        let mut effects = Effects::default();
        let mut state = self.lock();
        let value = change(&mut state.table, &mut effects);
        // A cancel names a lock by its number only. Were it sent after the mutex is free, the answer could come
        // first, the number be given to somebody else, and the cancel withdraw what that one asked for.
        let cancels = effects.send.extract_if(.., |request| matches!(request, Request::Cancel { .. }));
        let failed = cancels.filter_map(|cancel| self.post(&cancel).err()).last();
        let over = state.table.ended().is_some();
        drop(state);
        if let Some(errno) = failed {
            self.cannot_send(errno);
        }
        self.carry_out(effects);
        if over {
            self.acknowledge();
        }
        value
    }

    /// Looks at the table.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Table) -> T) -> T {
        look(&self.lock().table)
    }

    /// Changes the table where nothing follows from that.
    pub(crate) fn look_into<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        change(&mut self.lock().table)
    }

    /// Sends a request, or ends the session if this machine cannot.
    pub(crate) fn request(self: &Arc<Self>, request: &Request) {
        if let Err(errno) = self.post(request) {
            self.cannot_send(errno);
        }
    }

    fn cannot_send(self: &Arc<Self>, errno: Errno) {
        self.end(Code::Failed, format!("cannot send to the daemon: {errno}"));
    }

    fn carry_out(self: &Arc<Self>, effects: Effects) {
        for request in &effects.send {
            self.request(request);
        }
        for waker in effects.wake {
            waker.wake();
        }
    }

    fn end(self: &Arc<Self>, code: Code, text: String) {
        self.change(|table, effects| table.end(Ended { code, text }, effects));
        self.settle();
    }

    /// The table says that the session is over.
    fn settle(&self) {
        if self.over.load(Ordering::Acquire) {
            return self.acknowledge();
        }
        // Without a barrier one could take a guard that lives for one that has gone: then the lease says when it is over.
        if segment::barrier() {
            self.over.store(true, Ordering::Release);
            self.acknowledge();
        }
    }

    /// Hangs up, if the session is over and no guard of it is left: that tells the node that nobody here acts under its locks
    /// any more, and others need not wait for the end of its lease (L5). To hear of the end is not enough: another
    /// thread may be at work under a guard.
    #[cold]
    #[inline(never)]
    pub(crate) fn acknowledge(&self) {
        if self.over.load(Ordering::Acquire) && !self.look_into(Table::is_guarded) {
            self.socket.shut_down();
        }
    }

    /// The segment of a lockspace: there, or asked for, or not to be had.
    pub(crate) fn segment(self: &Arc<Self>, space: SpaceId) -> Arc<Cell> {
        if !self.sharing {
            return Arc::default();
        }
        let (cell, request) = self.change(|table, _| table.segment(space, segment::monotonic()));
        if let Some(request) = request {
            self.request(&request);
        }
        cell
    }

    /// Nothing is granted in this process any more: the session ends, if it has not for a better reason.
    pub(crate) fn lose(self: &Arc<Self>, loss: Option<Loss>) {
        self.catch_up();
        self.end(Code::Lost, segment::say(loss).into());
    }

    /// What the time that is left of the node's lease means for what is held.
    pub(crate) fn standing(&self) -> Standing {
        self.lease.as_ref().map_or(Standing::Live, |lease| lease.standing(segment::boottime()))
    }

    /// How long whoever waits for packets may do so before it looks at the lease again.
    fn look_in(&self) -> Duration {
        let Some(until) = self.lease.as_ref().and_then(LeaseSight::until) else { return LOOK };
        let left = until.since(segment::boottime());
        let next = if left > LEASE_FROZEN { left.saturating_sub(LEASE_FROZEN) } else { left };
        next.clamp(LOOK_MIN, LOOK)
    }

    /// Waits for one packet as [`read_one`](Session::read_one) does, but while it waits looks now and then whether the
    /// lease of the node has passed, of which a node that stands still sends no word (L1), or another thread has ended the session.
    fn read_for_a_while(self: &Arc<Self>, buffer: &mut [u8], patience: Patience) -> Option<bool> {
        loop {
            // Another thread may have ended it, and the socket stays open as long as there is a guard.
            if self.look(|table| table.ended().is_some()) {
                return Some(false);
            }
            let now = segment::monotonic();
            let mut left = Duration::from_nanos(self.look_due.load(Ordering::Relaxed).saturating_sub(now));
            if left.is_zero() {
                let (lost, news) = self.look_around();
                if let Some(loss) = lost {
                    self.end(Code::Lost, segment::say(Some(loss)).into());
                    return Some(false);
                }
                left = self.look_in();
                self.look_due.store(now + left.as_nanos() as u64, Ordering::Relaxed);
                if news {
                    return Some(true);
                }
            }
            let look = Instant::now() + left;
            let (slice, last) = match patience {
                Patience::Endless => (Patience::Until(look), false),
                Patience::Until(until) if until > look => (Patience::Until(look), false),
                patience => (patience, true),
            };
            let progress = self.read_one(buffer, slice);
            if progress.is_some() || last {
                return progress;
            }
        }
    }

    /// Everybody who waits for news looks again. Why nothing is to be had any more, if that is so, and whether the lease has
    /// come to be at risk since the last look.
    fn look_around(self: &Arc<Self>) -> (Option<Loss>, bool) {
        let standing = self.standing();
        let risk = standing != Standing::Live;
        let news = self.at_risk.swap(risk, Ordering::Relaxed) != risk && risk;
        let over = (standing == Standing::Over).then_some(Loss::Lease);
        let lost = self.change(|table, effects| {
            table.look_again(effects);
            if news {
                table.wake_holders(effects);
            }
            table.segments().find_map(|segment| segment.caller.living().err())
        });
        (lost.or(over), news)
    }

    /// Waits for one packet and takes it up. None: nothing came in time; false: the session is over.
    fn read_one(self: &Arc<Self>, buffer: &mut [u8], patience: Patience) -> Option<bool> {
        let (code, text) = match self.socket.receive(buffer, patience) {
            Ok(Received::Packet(length)) => match Reply::from_bytes(&buffer[..length]) {
                Ok(Reply::Attached(attached)) => {
                    let descriptor = self.socket.take_descriptor();
                    let open = |asked| Segment::open(&attached, descriptor?, asked);
                    self.change(|table, _| table.attached(attached.request, open));
                    return Some(true);
                }
                Ok(reply) => {
                    let taken = self.change(|table, effects| {
                        table.handle_reply(reply, effects).map(|()| table.ended().is_none())
                    });
                    match taken {
                        Ok(true) => return Some(true),
                        Ok(false) => {
                            self.settle();
                            return Some(false);
                        }
                        Err(Misdeed(misdeed)) => (Code::SessionMalformed, misdeed),
                    }
                }
                Err(malformed) => (Code::SessionMalformed, format!("it sent a bad packet: {malformed}")),
            },
            Ok(Received::TooLong(length)) => {
                (Code::SessionMalformed, format!("it sent a packet of {length} bytes"))
            }
            Ok(Received::Nothing) => return None,
            Ok(Received::HungUp) => (Code::NoDaemon, "the daemon hung up".into()),
            Err(errno) => (Code::Failed, format!("cannot receive from the daemon: {errno}")),
        };
        self.end(code, text);
        Some(false)
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

// ---- waiting in a future ----------------------------------------------------------------------------

/// A waiter's place in the lists of the session; it leaves them when it is dropped.
pub(crate) struct Waiter {
    session: Arc<Owner>,
    place: Place,
    key: u64,
    registered: bool,
}

impl Waiter {
    pub(crate) fn new(session: &Arc<Owner>, place: Place) -> Waiter {
        let key = session.keys.fetch_add(1, Ordering::Relaxed);
        Waiter { session: Arc::clone(session), place, key, registered: false }
    }

    /// Is it there already? If not, wakes the task when something changed.
    pub(crate) fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        check: impl FnOnce(&mut Table, &mut Effects) -> Option<T>,
    ) -> Poll<T> {
        // Cloning and dropping a waker may run foreign code: before and after the mutex, not under it.
        let waker = context.waker().clone();
        let mut effects = Effects::default();
        let mut state = self.session.lock();
        let (outcome, spare) = match check(&mut state.table, &mut effects) {
            Some(value) => (Poll::Ready(value), Some(waker)),
            None => {
                self.registered = true;
                (Poll::Pending, state.table.set_waker(self.place, self.key, waker))
            }
        };
        drop(state);
        drop(spare);
        self.session.carry_out(effects);
        outcome
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if self.registered && !self.session.forked() {
            let waker = self.session.lock().table.remove_waker(self.place, self.key);
            drop(waker);
        }
    }
}

// ---- waiting in a thread ----------------------------------------------------------------------------

impl Session {
    /// Waits in this thread until `check` gives something; None when `until` has passed.
    ///
    /// `check` must give something once the session has ended.
    pub(crate) fn wait<T>(
        self: &Arc<Self>,
        place: Place,
        until: Patience,
        mut check: impl FnMut(&mut Table, &mut Effects) -> Option<T>,
    ) -> Option<T> {
        let mut key = None;
        let mut effects = Effects::default();
        let mut state = self.lock();
        let outcome = loop {
            if let Some(value) = check(&mut state.table, &mut effects) {
                break Some(value);
            }
            if !state.read {
                state.read = true;
                let mut buffer = std::mem::take(&mut state.buffer);
                drop(state);
                let progress = self.read_for_a_while(&mut buffer, until);
                state = self.lock();
                state.buffer = buffer;
                state.read = false;
                if progress.is_none() {
                    // Time is up. Somebody else may have been the one to bring the answer.
                    break check(&mut state.table, &mut effects);
                }
            } else {
                let key = *key.get_or_insert_with(|| self.keys.fetch_add(1, Ordering::Relaxed));
                let parker = parker();
                state.table.set_waker(place, key, parker.clone());
                state.followers.set(key, parker);
                drop(state);
                let in_time = park(until);
                state = self.lock();
                if !in_time {
                    break check(&mut state.table, &mut effects);
                }
            }
        };
        if let Some(key) = key {
            state.table.remove_waker(place, key);
            state.followers.remove(key);
        }
        // Whoever leaves while nobody reads sends the next one to the socket. These wakers are ours.
        let next = if state.read { None } else { state.followers.first() };
        drop(state);
        if let Some(next) = next {
            next.wake();
        }
        self.carry_out(effects);
        outcome
    }

    /// Takes up what lies in the socket, without waiting, unless somebody else is at it.
    pub(crate) fn catch_up(self: &Arc<Self>) {
        let mut state = self.lock();
        if state.read || state.table.ended().is_some() {
            return;
        }
        state.read = true;
        let mut buffer = std::mem::take(&mut state.buffer);
        drop(state);
        while self.read_one(&mut buffer, Patience::None) == Some(true) {}
        let mut state = self.lock();
        state.buffer = buffer;
        state.read = false;
        let next = state.followers.first();
        drop(state);
        if let Some(next) = next {
            next.wake();
        }
    }
}

/// Wakes a thread.
struct Parker(Thread);

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn parker() -> Waker {
    thread_local! {
        static PARKER: Waker = Waker::from(Arc::new(Parker(std::thread::current())));
    }
    PARKER.with(Waker::clone)
}

/// Sleeps until woken, perhaps without reason; false when the time is up.
fn park(until: Patience) -> bool {
    match until {
        Patience::None => false,
        Patience::Endless => {
            std::thread::park();
            true
        }
        Patience::Until(until) => {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            std::thread::park_timeout(left);
            true
        }
    }
}
