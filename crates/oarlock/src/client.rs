//! The async client: futures of the standard library's kind, woken by one thread per session.

use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::message::session::{Failure, Request};
use oarlock_layout::mode::Mode;
use oarlock_layout::value::Value;

use crate::address;
use crate::blocking::{answer_text, wait_for_lock};
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
use crate::session::{Owner, Session, Waiter};
use crate::table::{Place, Table};
use crate::threads;
use crate::wakers::Effects;
use crate::wish::{Begun, Manner, PendingCall, SpaceFound, SpaceRef, Whose, Wish};
use crate::withdrawal::{self, Withdrawal};

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
    pub async fn connect(&self, socket: impl Into<PathBuf>) -> Result<Client> {
        let (socket, label, sharing) = (socket.into(), self.label.clone(), self.sharing);
        open(move || Session::open(&socket, &label, sharing)).await
    }

    /// Connects to the daemon that [`Client::connect_default`] would find.
    pub async fn connect_default(&self) -> Result<Client> {
        let (label, sharing) = (self.label.clone(), self.sharing);
        open(move || address::connect_default(|path: &Path| Session::open(path, &label, sharing))).await
    }
}

/// Where the session's thread leaves what came of opening it.
#[derive(Default)]
struct Opening {
    opened: Option<Result<Arc<Owner>>>,
    waker: Option<Waker>,
}

/// Opens a session in the thread that will read its socket, so that no executor's thread ever waits for a
/// daemon. If the caller goes away meanwhile, the last handle of the session goes with it and the session
/// closes.
async fn open(open: impl FnOnce() -> Result<Arc<Session>> + Send + 'static) -> Result<Client> {
    let opening = Arc::new(Mutex::new(Opening::default()));
    let ours = Arc::clone(&opening);
    let body = move || {
        let session = open().inspect(|session| session.will_be_read());
        let (outcome, session) = match session {
            Ok(session) => (Ok(Owner::new(Arc::clone(&session))), Some(session)),
            Err(error) => (Err(error), None),
        };
        let waker = {
            let mut opening = ours.lock().unwrap_or_else(PoisonError::into_inner);
            opening.opened = Some(outcome);
            opening.waker.take()
        };
        drop(ours);
        if let Some(waker) = waker {
            waker.wake();
        }
        if let Some(session) = session {
            session.read_until_end();
        }
    };
    threads::spawn("oarlock-reader", body).map_err(|error| {
        Error::new(Code::Failed, "cannot start the thread of a session", error.to_string())
    })?;
    let session = poll_fn(|context| {
        let waker = context.waker().clone();
        let mut opening = opening.lock().unwrap_or_else(PoisonError::into_inner);
        let (outcome, spare) = match opening.opened.take() {
            Some(opened) => (Poll::Ready(opened), Some(waker)),
            None => (Poll::Pending, opening.waker.replace(waker)),
        };
        drop(opening);
        drop(spare);
        outcome
    })
    .await?;
    Ok(Client { session })
}

/// A session with the node of this machine. Cloning shares the session; it ends when the last clone, space
/// and guard of it is gone, or the process dies, and with it all its locks.
///
/// ```no_run
/// # async fn example() -> oarlock::Result<()> {
/// let client = oarlock::Client::builder().label("nightly backup").connect_default().await?;
/// println!("session {} with node {} of {}", client.session_id(), client.node(), client.cluster());
/// # Ok(())
/// # }
/// ```
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
    pub async fn connect(socket: impl Into<PathBuf>) -> Result<Client> {
        Client::builder().connect(socket).await
    }

    /// Connects to the daemon whose socket `OARLOCK_SOCKET` names; without that variable, to the one of this
    /// machine; and if there is none, to the first node of this user's running `oarlock dev`.
    pub async fn connect_default() -> Result<Client> {
        Client::builder().connect_default().await
    }

    /// Finds a lockspace. `default` exists in every cluster.
    pub async fn space(&self, name: &str) -> Result<Space> {
        if let Some(space) = SpaceFound::known(&self.session, name)? {
            return Ok(Space { space });
        }
        let what = format!("cannot open lockspace \"{name}\"");
        let answer = self.call(&what, |request| Request::Open { request, space: name.to_owned() }).await?;
        Ok(Space { space: SpaceFound::answered(&self.session, name, answer)? })
    }

    /// Asks the daemon a question of people; question and answer are JSON documents.
    pub async fn ask(&self, question: &str) -> Result<String> {
        let what = "cannot get an answer";
        let answer = self.call(what, |request| Request::Ask { request, question: question.to_owned() });
        answer_text(what, answer.await?)
    }

    /// Opens a branch of a lockspace at this node: a part of it, with the resources whose names begin with the branch's and a `/`.
    /// It stays open until it is [closed](Self::close_branch) as often, whatever becomes of this program. `exclusive`: not if it is
    /// open already.
    ///
    /// # Errors
    /// [`Kind::Branch`](crate::Kind::Branch) if it is open and should not be.
    pub async fn open_branch(&self, space: &str, branch: &str, exclusive: bool) -> Result<()> {
        let question = kept::branch(space, branch, &kept::Step::Open { exclusive });
        kept::opened(&self.ask(&question).await?).map(|_| ())
    }

    /// Whether a branch is open at this node.
    ///
    /// # Errors
    /// [`Kind::Branch`](crate::Kind::Branch) if it is not.
    pub async fn find_branch(&self, space: &str, branch: &str) -> Result<()> {
        let question = kept::branch(space, branch, &kept::Step::Find);
        kept::opened(&self.ask(&question).await?).map(|_| ())
    }

    /// Closes a branch at this node, and tells how often it is still open. `force`: for the last time too while locks are held in
    /// it; orphans there are given back.
    ///
    /// # Errors
    /// [`Kind::Branch`](crate::Kind::Branch) if it is not open, or if locks are held in it.
    pub async fn close_branch(&self, space: &str, branch: &str, force: bool) -> Result<u32> {
        let question = kept::branch(space, branch, &kept::Step::Close { force });
        kept::opened(&self.ask(&question).await?)
    }

    /// The number of the node among the members.
    pub async fn member_id(&self) -> Result<u16> {
        kept::member(&self.ask(r#"{"ask":"status"}"#).await?)
    }

    /// Gives back the orphans of this node on resources whose names begin with `prefix`, of one process if it is named. Tells how
    /// many there were.
    pub async fn purge(&self, space: &str, prefix: &[u8], pid: Option<u32>) -> Result<u64> {
        kept::purged(&self.ask(&kept::purge(space, prefix, pid)).await?)
    }

    /// Ends the session now, whoever has a share of it: pending requests fail, and what is held goes as if the program had died,
    /// so nothing that a lock protected may be touched any more. Waits in this thread until the node has heard it, but not longer
    /// than `patience`; false if it has not.
    pub fn hang_up(&self, patience: Duration) -> bool {
        self.session.hang_up(patience)
    }

    async fn call(
        &self,
        what: &str,
        request: impl FnOnce(u32) -> Request,
    ) -> Result<Result<Answer, Failure>> {
        let pending = PendingCall::begin(&self.session, what, request)?;
        let number = pending.number;
        let answer = when(&self.session, pending.place(), |t, e| t.collect_call(number, e)).await;
        pending.done();
        Ok(answer)
    }

    client_methods!();
}

/// Waits until `check` gives something.
async fn when<T>(
    session: &Arc<Owner>,
    place: Place,
    mut check: impl FnMut(&mut Table, &mut Effects) -> Option<T>,
) -> T {
    let mut waiter = Waiter::new(session, place);
    poll_fn(|context| waiter.poll(context, &mut check)).await
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
        LockRequest { wish: Wish::new(&self.space, name.as_ref(), Whose::Apart), withdrawal: None }
    }

    /// A resource that will be locked again and again, each time at no more cost than need be.
    pub fn handle(&self, name: impl AsRef<[u8]>) -> Handle {
        Handle { opened: Opened::new(&self.space, name.as_ref(), Whose::Apart), mode: Mode::EX }
    }

    /// The name of the lockspace.
    pub fn name(&self) -> &str {
        &self.space.name
    }
}

/// A lock, not yet asked for.
///
/// ```no_run
/// # async fn example(space: oarlock::Space) -> oarlock::Result<()> {
/// use std::time::Duration;
/// use oarlock::Mode;
///
/// let shared = space.lock("orders").mode(Mode::PR).acquire().await?;
/// let mine = space.lock(b"page\x00\x01").timeout(Duration::from_secs(2)).fresh().acquire().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a lock is taken by acquire() or try_acquire()"]
pub struct LockRequest {
    wish: Wish,
    withdrawal: Option<Withdrawal>,
}

impl LockRequest {
    lock_request_methods!();

    /// Let this one withdraw it, [by message](Self::by_message).
    pub fn withdrawn_by(mut self, withdrawal: &Withdrawal) -> Self {
        self.withdrawal = Some(withdrawal.clone());
        self.by_message()
    }

    /// Move the value block only where a call says so: with the grant if [`value_block`](Self::value_block) is said as well, with
    /// a conversion that has [`Conversion::value_block`], and with the release after [`Guard::set_value`]. It goes
    /// [by message](Self::by_message).
    pub fn value_by_call(mut self) -> Self {
        self.wish.value_by_call = true;
        self.by_message()
    }

    /// Answer from what this node owns, without a message between nodes: granted, [`Kind::Busy`](crate::Kind::Busy) or
    /// [`Kind::NotOwned`](crate::Kind::NotOwned). With it [`acquire`](Self::acquire) is
    /// [`try_acquire`](Self::try_acquire) as a future.
    pub fn local(mut self) -> Self {
        self.wish.manner.flags |= Flags::NOQUEUE | Flags::LOCAL;
        self
    }

    /// Takes the lock if this process can grant it by itself, from memory that it shares with its node. If not, the request comes
    /// back, to be asked for with [`acquire`](Self::acquire), which tries this first: so it only spares a caller that has no
    /// executor the making of a future.
    ///
    /// # Errors
    /// The request.
    #[allow(clippy::result_large_err, reason = "it is what the caller goes on with, and not rare")]
    #[inline]
    pub fn acquire_here(self) -> std::result::Result<Guard, LockRequest> {
        match self.wish.take() {
            Some(shared) => Ok(Guard { held: self.wish.held(shared) }),
            None => Err(self),
        }
    }

    /// Waits until the lock is granted.
    ///
    /// Cancel-safe: dropping the future withdraws the request. If the grant was on its way already, the lock
    /// is given back as soon as it arrives.
    ///
    /// # Errors
    /// [`Kind::Busy`](crate::Kind::Busy) with [`no_queue`](Self::no_queue), [`Kind::TimedOut`](crate::Kind)
    /// with [`timeout`](Self::timeout), and whatever ends the session.
    pub async fn acquire(self) -> Result<Guard> {
        if let Some(shared) = self.wish.take() {
            return Ok(Guard { held: self.wish.held(shared) });
        }
        let pending = match self.wish.begin(false)? {
            Begun::Held(held) => return Ok(Guard { held }),
            Begun::Waits(pending) => pending,
        };
        let handle = pending.handle();
        let answer =
            withdrawal::answer(pending.session(), handle, self.withdrawal, |t, e| t.collect(handle, e)).await;
        Ok(Guard { held: pending.finish(answer)? })
    }

    /// Takes the lock if this node can grant it by itself: in this process, or by one exchange with the local daemon, never a
    /// message between nodes. Not a future, because there is nothing worth waiting for.
    ///
    /// ```no_run
    /// # fn example(space: oarlock::Space) -> oarlock::Result<()> {
    /// use oarlock::Kind;
    /// match space.lock("x").try_acquire() {
    ///     Ok(guard) => println!("mine: {}", guard.token()),
    ///     Err(error) if error.kind() == Kind::Busy => println!("somebody here has it"),
    ///     Err(error) if error.kind() == Kind::NotOwned => println!("only acquire() can tell"),
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Kind::Busy`](crate::Kind::Busy): a local holder is in the way, or others wait for it.
    /// [`Kind::NotOwned`](crate::Kind::NotOwned): this node cannot tell without asking;
    /// `acquire()` with `no_queue()` asks.
    pub fn try_acquire(mut self) -> Result<Guard> {
        self.wish.manner.flags |= Flags::NOQUEUE | Flags::LOCAL;
        let held = match self.wish.take() {
            Some(shared) => self.wish.held(shared),
            None => wait_for_lock(self.wish)?,
        };
        Ok(Guard { held })
    }
}

/// A lock that is held. Dropping it gives the lock back without waiting; [`release`](Guard::release) waits
/// until that is done.
///
/// ```no_run
/// # async fn example(space: oarlock::Space) -> oarlock::Result<()> {
/// use oarlock::Mode;
/// let guard = space.lock("counter").value_block().acquire().await?;
/// let old = guard.value().filter(|value| value.valid).map_or(0, |value| value.bytes[0]);
/// guard.set_value(&[old + 1])?;
/// guard.convert(Mode::NL).await?; // written now; the next reader sees it
/// guard.release().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping a guard gives the lock back"]
pub struct Guard {
    held: Held,
}

impl Guard {
    guard_methods!();

    /// Changes the mode.
    ///
    /// Dropping the future withdraws the conversion; if it was granted meanwhile, the new mode stands:
    /// look at [`mode`](Guard::mode). The next conversion waits until that is settled.
    ///
    /// # Errors
    /// If the conversion is refused, the lock stands as before. [`Kind::Deadlock`](crate::Kind::Deadlock): two
    /// holders wait for each other to convert down; do so, then ask again.
    pub async fn convert(&self, mode: Mode) -> Result<()> {
        self.conversion(mode).convert().await
    }

    /// A change of mode with more to say about it.
    pub fn conversion(&self, mode: Mode) -> Conversion<'_> {
        Conversion { held: &self.held, manner: Manner::new(mode), withdrawal: None }
    }

    /// The value block if the last request about this lock that was granted has shown it.
    pub fn value_shown(&self) -> Option<Value> {
        let grant = self.held.grant();
        grant.value.filter(|_| grant.shown)
    }

    /// Resolves when no conversion is under way whose future was dropped: [`mode`](Guard::mode) then says whether it was
    /// withdrawn or granted first.
    pub async fn settled(&self) {
        let (held, handle) = (&self.held, self.held.handle);
        if held.session().check_process(String::new).is_ok() {
            when(held.session(), held.place(), |table, _| (!table.settling(handle)).then_some(())).await;
        }
    }

    /// Resolves when others want what this lock is in the way of: with what they want, once for each news.
    /// News never comes before the grant it is about, and not if the lock was converted out of the way
    /// meanwhile. [`Mode::strongest_beside`] tells what may be kept.
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::Kind::Lost) if the lock is gone.
    pub async fn blocking(&self) -> Result<Mode> {
        let held = &self.held;
        held.session().check_process(|| format!("cannot wait for notices about {}", held.subject()))?;
        let news = when(held.session(), held.news_place(), |table, _| held.wait_for_news(table));
        news.await.ok_or_else(|| held.loss().expect("the session has ended"))
    }

    /// Resolves when the lock is gone or about to go, with the reason.
    ///
    /// [`Kind::AtRisk`](crate::Kind::AtRisk): the node has not renewed its lease, and what the lock protects should come to
    /// an end within a second. [`Kind::Lost`](crate::Kind::Lost): it is gone, and nothing it protected may be touched.
    /// Should the node renew after all, the lock is as safe as before, and one may wait again.
    pub async fn lost(&self) -> Error {
        let held = &self.held;
        loop {
            if held.session().check_process(String::new).is_ok() {
                when(held.session(), held.news_place(), |table, _| held.ends(table)).await;
            }
            // It may have been renewed at this moment.
            if let Some(end) = held.end() {
                return end;
            }
        }
    }

    /// Gives the lock back; resolves when that is done, the value block written included. Dropping the future
    /// does not stop it.
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::Kind::Lost) if it was gone already.
    pub async fn release(self) -> Result<()> {
        let Some(pending) = self.held.begin_release()? else { return Ok(()) };
        let (session, place, handle) = {
            let held = pending.held();
            (held.session(), held.place(), held.handle)
        };
        let answer = when(session, place, |t, e| t.collect(handle, e)).await;
        pending.finish(answer)
    }
}

/// A change of mode, not yet asked for.
#[must_use = "the mode is changed by convert()"]
pub struct Conversion<'a> {
    held: &'a Held,
    manner: Manner,
    withdrawal: Option<Withdrawal>,
}

impl Conversion<'_> {
    conversion_methods!();

    /// Let this one withdraw it.
    pub fn withdrawn_by(mut self, withdrawal: &Withdrawal) -> Self {
        self.withdrawal = Some(withdrawal.clone());
        self
    }

    /// Move the value block with this change of mode: upward it is read, and downward what was
    /// [set](Guard::set_value) is written. Only this says so for a lock whose block moves
    /// [by call](LockRequest::value_by_call).
    pub fn value_block(mut self) -> Self {
        self.manner.value = true;
        self
    }

    /// Asks for it.
    ///
    /// # Errors
    /// As for [`Guard::convert`].
    pub async fn convert(self) -> Result<()> {
        let held = self.held;
        let handle = held.handle;
        // Before the table's mutex: in a fork a thread that is not here may have locked it.
        held.session().check_process(|| format!("cannot convert {}", held.subject()))?;
        when(held.session(), held.place(), |table, _| (!table.settling(handle)).then_some(())).await;
        let Some(pending) = held.begin_convert(&self.manner)? else { return Ok(()) };
        let answer =
            withdrawal::answer(held.session(), handle, self.withdrawal, |t, e| t.collect(handle, e)).await;
        pending.finish(answer)
    }
}

/// A resource that is locked again and again. Its name is looked up once; from then on a lock that this node owns costs
/// a few instructions, and nothing else in this process.
///
/// ```no_run
/// # fn example(space: oarlock::Space) {
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
    #[inline]
    pub async fn acquire(&self) -> Result<HandleGuard<'_>> {
        if let Some(here) = self.opened.take(self.mode) {
            return Ok(HandleGuard { taking: Taking::Here(here) });
        }
        let request = LockRequest { wish: self.opened.wish(self.mode, false), withdrawal: None };
        Ok(HandleGuard { taking: Taking::There(There::new(request.acquire().await?)) })
    }

    /// Takes the lock if this node can grant it by itself.
    ///
    /// # Errors
    /// As for [`LockRequest::try_acquire`].
    #[inline]
    pub fn try_acquire(&self) -> Result<HandleGuard<'_>> {
        if let Some(here) = self.opened.take(self.mode) {
            return Ok(HandleGuard { taking: Taking::Here(here) });
        }
        let request = LockRequest { wish: self.opened.wish(self.mode, true), withdrawal: None };
        Ok(HandleGuard { taking: Taking::There(There::new(request.try_acquire()?)) })
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
