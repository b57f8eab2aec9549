//! The same without futures: every method waits in the calling thread.
//!
//! No runtime, no executor and, as long as the daemon keeps up, no thread of its own: whoever waits reads
//! the socket. Handles can be shared between threads.
//!
//! ```no_run
//! use std::time::Duration;
//! use oarlock::Mode;
//!
//! let client = oarlock::blocking::Client::connect_default()?;
//! let space = client.space("default")?;
//! let guard = space.lock("orders/page/1184").mode(Mode::EX).timeout(Duration::from_secs(2)).acquire()?;
//! println!("mine, with fence {}", guard.fence());
//! guard.release()?;
//! # Ok::<(), oarlock::Error>(())
//! ```
//!
//! Notices are seen when somebody looks: [`Guard::is_lost`], [`Guard::blocking_now`] and every call that
//! waits take up what the daemon sent. A program that waits for other things too can watch the client's
//! descriptor ([`AsFd`]) for readability and then call one of them.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::message::session::Request;
use oarlock_layout::mode::Mode;

use crate::address;
use crate::calls::Answer;
use crate::error::{Error, Result};
use crate::greeting;
use crate::handle::{Opened, Taking, There};
use crate::held::Held;
use crate::kept;
use crate::methods::{
    builder_methods, client_methods, conversion_methods, guard_methods, handle_guard_methods, handle_methods,
    lock_request_methods,
};
use crate::session::{Owner, Session};
use crate::socket::Patience;
use crate::wish::{Begun, Manner, PendingCall, SpaceFound, SpaceRef, Whose, Wish};

/// How to connect.
#[derive(Clone, Debug)]
pub struct Builder {
    label: String,
    sharing: bool,
}

impl Builder {
    /// What the program calls itself; people see it when they ask who holds a lock. The program's file name
    /// if not said. At most 64 bytes are kept.
    pub fn label(mut self, label: impl Into<String>) -> Builder {
        self.label = label.into();
        self
    }

    builder_methods!();

    /// Connects to the daemon whose socket this is.
    pub fn connect(&self, socket: impl AsRef<Path>) -> Result<Client> {
        let session = Session::open(socket.as_ref(), &self.label, self.sharing)?;
        Ok(Client { session: Owner::new(session) })
    }

    /// Connects to the daemon that [`Client::connect_default`] would find.
    pub fn connect_default(&self) -> Result<Client> {
        address::connect_default(|path| self.connect(path))
    }
}

/// A session with the node of this machine. Cloning shares the session; it ends when the last clone, space
/// and guard of it is gone, or the process dies, and with it all its locks.
#[derive(Clone)]
pub struct Client {
    session: Arc<Owner>,
}

impl Client {
    /// Says who connects, before connecting.
    pub fn builder() -> Builder {
        Builder { label: greeting::program(), sharing: true }
    }

    /// Connects to the daemon whose socket this is.
    pub fn connect(socket: impl AsRef<Path>) -> Result<Client> {
        Client::builder().connect(socket)
    }

    /// Connects to the daemon whose socket `OARLOCK_SOCKET` names; without that variable, to the one of this
    /// machine; and if there is none, to the first node of this user's running `oarlock dev`.
    pub fn connect_default() -> Result<Client> {
        Client::builder().connect_default()
    }

    /// Finds a lockspace. `default` exists in every cluster.
    pub fn space(&self, name: &str) -> Result<Space> {
        if let Some(space) = SpaceFound::known(&self.session, name)? {
            return Ok(Space { space });
        }
        let what = format!("cannot open lockspace \"{name}\"");
        let answer = self.call(&what, |request| Request::Open { request, space: name.to_owned() })?;
        Ok(Space { space: SpaceFound::answered(&self.session, name, answer)? })
    }

    /// Asks the daemon a question of people; question and answer are JSON documents.
    pub fn ask(&self, question: &str) -> Result<String> {
        let what = "cannot get an answer";
        let answer = self.call(what, |request| Request::Ask { request, question: question.to_owned() })?;
        answer_text(what, answer)
    }

    /// Opens a branch of a lockspace at this node: a part of it, with the resources whose names begin with the branch's and a `/`.
    /// It stays open until it is [closed](Self::close_branch) as often, whatever becomes of this program. `exclusive`: not if it is
    /// open already.
    ///
    /// # Errors
    /// [`Kind::Branch`](crate::Kind::Branch) if it is open and should not be.
    pub fn open_branch(&self, space: &str, branch: &str, exclusive: bool) -> Result<()> {
        let question = kept::branch(space, branch, &kept::Step::Open { exclusive });
        kept::opened(&self.ask(&question)?).map(|_| ())
    }

    /// Whether a branch is open at this node.
    ///
    /// # Errors
    /// [`Kind::Branch`](crate::Kind::Branch) if it is not.
    pub fn find_branch(&self, space: &str, branch: &str) -> Result<()> {
        let question = kept::branch(space, branch, &kept::Step::Find);
        kept::opened(&self.ask(&question)?).map(|_| ())
    }

    /// Closes a branch at this node, and tells how often it is still open. `force`: for the last time too while locks are held in
    /// it; orphans there are given back.
    ///
    /// # Errors
    /// [`Kind::Branch`](crate::Kind::Branch) if it is not open, or if locks are held in it.
    pub fn close_branch(&self, space: &str, branch: &str, force: bool) -> Result<u32> {
        let question = kept::branch(space, branch, &kept::Step::Close { force });
        kept::opened(&self.ask(&question)?)
    }

    /// The number of the node among the members.
    pub fn member_id(&self) -> Result<u16> {
        kept::member(&self.ask(r#"{"ask":"status"}"#)?)
    }

    /// Gives back the orphans of this node on resources whose names begin with `prefix`, of one process if it is named. Tells how
    /// many there were.
    pub fn purge(&self, space: &str, prefix: &[u8], pid: Option<u32>) -> Result<u64> {
        kept::purged(&self.ask(&kept::purge(space, prefix, pid))?)
    }

    fn call(
        &self,
        what: &str,
        request: impl FnOnce(u32) -> Request,
    ) -> Result<Result<Answer, oarlock_layout::message::session::Failure>> {
        let pending = PendingCall::begin(&self.session, what, request)?;
        let number = pending.number;
        let answer = self.session.wait(pending.place(), Patience::Endless, |t, e| t.collect_call(number, e));
        pending.done();
        Ok(answer.expect("an endless wait ends with an answer"))
    }

    client_methods!();
}

/// For programs that wait for several things at once: readable when the daemon said something.
impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.session.as_fd()
    }
}

/// A lockspace: a named world of resources.
#[derive(Clone)]
pub struct Space {
    space: SpaceRef,
}

impl Space {
    /// A lock on the resource of this name: 1 to 255 bytes of any value. Nothing is sent before
    /// [`acquire`](LockRequest::acquire) or [`try_acquire`](LockRequest::try_acquire).
    #[inline]
    pub fn lock(&self, name: impl AsRef<[u8]>) -> LockRequest {
        LockRequest { wish: Wish::new(&self.space, name.as_ref(), Whose::Thread) }
    }

    /// A resource that will be locked again and again, each time at no more cost than need be.
    pub fn handle(&self, name: impl AsRef<[u8]>) -> Handle {
        Handle { opened: Opened::new(&self.space, name.as_ref(), Whose::Thread), mode: Mode::EX }
    }

    /// The name of the lockspace.
    pub fn name(&self) -> &str {
        &self.space.name
    }
}

/// A lock, not yet asked for.
#[derive(Clone)]
#[must_use = "a lock is taken by acquire() or try_acquire()"]
pub struct LockRequest {
    wish: Wish,
}

impl LockRequest {
    lock_request_methods!();

    /// Waits until the lock is granted.
    ///
    /// # Errors
    /// [`Kind::Busy`](crate::Kind::Busy) with [`no_queue`](Self::no_queue), [`Kind::TimedOut`](crate::Kind)
    /// with [`timeout`](Self::timeout), and whatever ends the session.
    #[inline]
    pub fn acquire(self) -> Result<Guard> {
        acquire(self.wish)
    }

    /// Takes the lock if this node can grant it by itself, in this process or in one exchange with the local daemon, and no
    /// message between nodes.
    ///
    /// # Errors
    /// [`Kind::Busy`](crate::Kind::Busy): a local holder is in the way, or others wait for it.
    /// [`Kind::NotOwned`](crate::Kind::NotOwned): this node cannot tell without asking;
    /// `acquire()` with `no_queue()` asks.
    #[inline]
    pub fn try_acquire(mut self) -> Result<Guard> {
        self.wish.manner.flags |= Flags::NOQUEUE | Flags::LOCAL;
        acquire(self.wish)
    }
}

#[inline(always)]
fn acquire(wish: Wish) -> Result<Guard> {
    let held = match wish.take() {
        Some(shared) => wish.held(shared),
        None => wait_for_lock(wish)?,
    };
    Ok(Guard { held })
}

/// Asks and waits in this thread.
#[cold]
#[inline(never)]
pub(crate) fn wait_for_lock(wish: Wish) -> Result<Held> {
    let pending = match wish.begin(true)? {
        Begun::Held(held) => return Ok(held),
        Begun::Waits(pending) if pending.looks => return pending.wait_at_entry(),
        Begun::Waits(pending) => pending,
    };
    let handle = pending.handle();
    let answer = pending.session().wait(pending.place(), Patience::Endless, |t, e| t.collect(handle, e));
    pending.finish(answer.expect("an endless wait ends with an answer"))
}

pub(crate) fn answer_text(
    what: &str,
    answer: Result<Answer, oarlock_layout::message::session::Failure>,
) -> Result<String> {
    match answer.map_err(|failure| Error::from_failure(what, failure))? {
        Answer::Bytes(bytes) => String::from_utf8(bytes)
            .map_err(|_| Error::new(Code::SessionMalformed, what, "the answer is not UTF-8 text")),
        Answer::Space(_) => {
            Err(Error::new(Code::SessionMalformed, what, "the daemon answered another question"))
        }
    }
}

/// A lock that is held. Dropping it gives the lock back without waiting; [`release`](Guard::release) waits
/// until that is done.
#[must_use = "dropping a guard gives the lock back"]
pub struct Guard {
    held: Held,
}

impl Guard {
    guard_methods!();

    /// Changes the mode and waits until that is granted.
    ///
    /// # Errors
    /// If the conversion is refused, the lock stands as before. [`Kind::Deadlock`](crate::Kind::Deadlock): two
    /// holders wait for each other to convert down; do so, then ask again.
    pub fn convert(&self, mode: Mode) -> Result<()> {
        self.conversion(mode).convert()
    }

    /// A change of mode with more to say about it.
    pub fn conversion(&self, mode: Mode) -> Conversion<'_> {
        Conversion { held: &self.held, manner: Manner::new(mode) }
    }

    /// Waits until others want what this lock is in the way of: then what they want, once for each news;
    /// `None` when the time is up.
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::Kind::Lost) if the lock is gone.
    pub fn wait_blocking(&self, timeout: Duration) -> Result<Option<Mode>> {
        let held = &self.held;
        held.session().check_process(|| format!("cannot wait for notices about {}", held.subject()))?;
        let news =
            held.session().wait(held.news_place(), until(timeout), |table, _| held.wait_for_news(table));
        match news {
            Some(Some(mode)) => Ok(Some(mode)),
            Some(None) => Err(held.loss().expect("the session has ended")),
            None => Ok(None),
        }
    }

    /// Waits until the lock is lost or at risk, and says why; `None` when the time is up.
    ///
    /// [`Kind::AtRisk`](crate::Kind::AtRisk) comes a second before [`Kind::Lost`](crate::Kind::Lost), if the node does not
    /// renew its lease; should it do so after all, the lock is as safe as before.
    pub fn wait_lost(&self, timeout: Duration) -> Option<Error> {
        let held = &self.held;
        if held.session().check_process(String::new).is_ok() {
            held.session().wait(held.news_place(), until(timeout), |table, _| held.ends(table));
        }
        held.end()
    }

    /// Why the lock is lost, if it is; does not wait.
    pub fn lost_now(&self) -> Option<Error> {
        self.held.check_lost()
    }

    /// Gives the lock back and waits until that is done, the value block written included.
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::Kind::Lost) if it was gone already.
    pub fn release(self) -> Result<()> {
        let Some(pending) = self.held.begin_release()? else { return Ok(()) };
        let held = pending.held();
        let handle = held.handle;
        let answer = held.session().wait(held.place(), Patience::Endless, |t, e| t.collect(handle, e));
        pending.finish(answer.expect("an endless wait ends with an answer"))
    }
}

/// A change of mode, not yet asked for.
#[must_use = "the mode is changed by convert()"]
pub struct Conversion<'a> {
    held: &'a Held,
    manner: Manner,
}

impl Conversion<'_> {
    conversion_methods!();

    /// Waits until the mode is granted.
    ///
    /// # Errors
    /// As for [`Guard::convert`].
    pub fn convert(self) -> Result<()> {
        let held = self.held;
        let Some(pending) = held.begin_convert(&self.manner)? else { return Ok(()) };
        let answer = held.session().wait(held.place(), Patience::Endless, |t, e| t.collect(held.handle, e));
        pending.finish(answer.expect("an endless wait ends with an answer"))
    }
}

fn until(timeout: Duration) -> Patience {
    match Instant::now().checked_add(timeout) {
        Some(until) => Patience::Until(until),
        None => Patience::Endless,
    }
}

/// A resource that is locked again and again. Its name is looked up once; from then on a lock that this node owns costs
/// a few instructions, and nothing else in this process.
///
/// ```no_run
/// # fn example(space: oarlock::blocking::Space) {
/// let counter = space.handle("counter").mode(oarlock::Mode::PR);
/// # }
/// ```
pub struct Handle {
    opened: Opened,
    mode: Mode,
}

impl Handle {
    handle_methods!();

    /// Waits until the lock is granted.
    ///
    /// # Errors
    /// As for [`LockRequest::acquire`].
    #[inline(always)]
    pub fn acquire(&self) -> Result<HandleGuard<'_>> {
        match self.opened.take(self.mode) {
            Some(here) => Ok(HandleGuard { taking: Taking::Here(here) }),
            None => Ok(HandleGuard { taking: Taking::There(self.ask()?) }),
        }
    }

    #[cold]
    #[inline(never)]
    fn ask(&self) -> Result<There<Guard>> {
        let request = LockRequest { wish: self.opened.wish(self.mode, false) };
        request.acquire().map(There::new)
    }

    /// Takes the lock if this node can grant it by itself.
    ///
    /// # Errors
    /// As for [`LockRequest::try_acquire`].
    #[inline(always)]
    pub fn try_acquire(&self) -> Result<HandleGuard<'_>> {
        match self.opened.take(self.mode) {
            Some(here) => Ok(HandleGuard { taking: Taking::Here(here) }),
            None => Ok(HandleGuard { taking: Taking::There(self.ask_to_try()?) }),
        }
    }

    #[cold]
    #[inline(never)]
    fn ask_to_try(&self) -> Result<There<Guard>> {
        let request = LockRequest { wish: self.opened.wish(self.mode, true) };
        request.try_acquire().map(There::new)
    }
}

/// A lock that a [`Handle`] has taken. Dropping it gives the lock back.
#[must_use = "dropping a guard gives the lock back"]
pub struct HandleGuard<'a> {
    taking: Taking<'a, Guard>,
}

impl HandleGuard<'_> {
    handle_guard_methods!();
}
