//! A lock as a handle: asked for, held, given back; one operation at a time, and somebody who watches it.
//!
//! A lock's state is locked for moments only, never while a callback runs or a thread waits. Where a task is begun
//! or ended under it, the order is state, then task; what a task asks of the library never comes back to the state.

use std::ffi::c_int;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use oarlock::dispatch::{Next, Task};
use oarlock::{Guard, LockRequest, Mode};

use crate::client::{Client, Space, wait};
use crate::fault::{Fault, Outcome};
use crate::request::Change;

/// A lock, from its request until it is freed.
pub struct Lock {
    client: Arc<Client>,
    state: Mutex<State>,
    /// A mode that others want and that the watch has heard of, until somebody is told; NL if there is none.
    untold: Arc<AtomicU8>,
}

#[derive(Default)]
struct State {
    /// What is held. A conversion under way and the watch have it as well.
    guard: Option<Arc<Guard>>,
    operation: Option<Operation>,
    watch: Option<Task>,
    notices: Notices,
    /// The program has let go of the handle: nothing is told any more.
    freed: bool,
}

/// Whom to tell that an operation is over: with 0 or a code. Inside dispatch, with nothing locked.
pub type Done = Box<dyn FnOnce(&Arc<Lock>, c_int) + Send>;

/// Whom to tell what happens to a lock, in the same way: with a mode or a code.
pub type Told = Arc<dyn Fn(&Arc<Lock>, c_int) + Send + Sync>;

/// Whom to tell what happens to a lock.
#[derive(Clone, Default)]
pub struct Notices {
    /// Others want it, in this mode.
    pub blocking: Option<Told>,
    /// It is at risk, or lost.
    pub lost: Option<Told>,
}

/// What is under way.
struct Operation {
    /// None: it cannot be withdrawn.
    cancel: Option<Arc<Cancel>>,
    /// None: a thread waits for it.
    task: Option<Task>,
}

/// Tells a request that it is to be withdrawn.
#[derive(Default)]
struct Cancel(Mutex<(bool, Option<Waker>)>);

impl Cancel {
    fn ask(&self) {
        let waker = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.0 = true;
            state.1.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    fn is_asked(&self, context: &Context<'_>) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0 {
            return true;
        }
        let old = state.1.replace(context.waker().clone());
        drop(state);
        drop(old);
        false
    }

    /// What comes of a future; None if it is to be withdrawn first. Then it has been dropped.
    async fn unless<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|context| {
            if self.is_asked(context) {
                return Poll::Ready(None);
            }
            future.as_mut().poll(context).map(Some)
        })
        .await
    }
}

async fn acquire(request: LockRequest, cancel: Arc<Cancel>) -> Outcome<Guard> {
    match cancel.unless(request.acquire()).await {
        Some(result) => Ok(result?),
        None => Err(Fault::cancelled()),
    }
}

async fn convert(guard: Arc<Guard>, change: Change, cancel: Arc<Cancel>) -> Outcome<()> {
    let before = guard.mode();
    if let Some(result) = cancel.unless(change.of(&guard).convert()).await {
        return Ok(result?);
    }
    // The node decides whether it was withdrawn or granted first.
    guard.settled().await;
    if guard.mode() == before { Err(Fault::cancelled()) } else { Ok(()) }
}

impl Lock {
    #[inline]
    fn new(client: &Arc<Client>, state: State) -> Arc<Lock> {
        let untold = Arc::new(AtomicU8::new(Mode::NL as u8));
        Arc::new(Lock { client: Arc::clone(client), state: Mutex::new(state), untold })
    }

    /// The client whose lock it is.
    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a new lock.
    #[inline]
    pub fn take(space: &Space, request: LockRequest) -> Outcome<Arc<Lock>> {
        let guard = match request.acquire_here() {
            Ok(guard) => Arc::new(guard),
            Err(request) => Arc::new(wait(request.acquire())?),
        };
        let guard = Some(guard);
        Ok(Lock::new(space.client(), State { guard, ..State::default() }))
    }

    /// One that is not asked for yet.
    pub fn unasked(space: &Space, notices: Notices) -> Arc<Lock> {
        Lock::new(space.client(), State { notices, ..State::default() })
    }

    /// Asks for it; `done` is told what came of that. C has the handle by now: another thread may dispatch, and free it.
    pub fn start(self: &Arc<Lock>, request: LockRequest, done: Done) {
        let then = move |lock: &Arc<Lock>, result: Outcome<Guard>| {
            let result = result.map(|guard| lock.state().guard = Some(Arc::new(guard)));
            lock.tell(done, result);
        };
        self.begin(&mut self.state(), |cancel| acquire(request, cancel), then);
    }

    /// Begins an operation that is told of by dispatch and may be withdrawn. `then` runs when it is over; not at all if the
    /// lock was freed.
    fn begin<F, T>(
        self: &Arc<Lock>,
        state: &mut State,
        operation: impl FnOnce(Arc<Cancel>) -> F,
        then: impl FnOnce(&Arc<Lock>, Outcome<T>) + Send + 'static,
    ) where
        F: Future<Output = Outcome<T>> + Send + 'static,
        T: Send + 'static,
    {
        let cancel = Arc::new(Cancel::default());
        let lock = Arc::downgrade(self);
        let task = self.client.dispatcher().once(operation(Arc::clone(&cancel)), move |result| {
            // If it was freed, a grant is given back where `result` is dropped.
            let Some(lock) = lock.upgrade() else { return };
            let over = {
                let mut state = lock.state();
                if state.freed {
                    return;
                }
                state.operation.take()
            };
            drop(over);
            then(&lock, result);
        });
        state.operation = Some(Operation { cancel: Some(cancel), task: Some(task) });
    }

    /// The last step of an operation, inside dispatch.
    fn tell(self: &Arc<Lock>, done: Done, result: Outcome<()>) {
        let rc = result.map_or_else(|fault| self.client.note(fault), |()| 0);
        done(self, rc);
        self.keep_watch();
    }

    // ----- what happens to it -----------------------------------------------------------------------------

    /// Says whom to tell from now on.
    pub fn watch(self: &Arc<Lock>, notices: Notices) {
        let nobody = notices.blocking.is_none() && notices.lost.is_none();
        let old = {
            let mut state = self.state();
            let told = std::mem::replace(&mut state.notices, notices);
            (told, if nobody { state.watch.take() } else { None })
        };
        drop(old);
        self.keep_watch();
    }

    /// Begins to watch what is held, if anybody wants to be told.
    fn keep_watch(self: &Arc<Lock>) {
        let mut state = self.state();
        let wanted = state.notices.blocking.is_some() || state.notices.lost.is_some();
        if !wanted || state.freed || state.watch.is_some() {
            return;
        }
        if let Some(guard) = &state.guard {
            let source = watch(Arc::clone(guard), Arc::downgrade(self), Arc::clone(&self.untold));
            state.watch = Some(self.client.dispatcher().begin(source));
        }
    }

    fn notices(&self) -> Notices {
        let state = self.state();
        if state.freed || state.guard.is_none() { Notices::default() } else { state.notices.clone() }
    }

    // ----- changes ----------------------------------------------------------------------------------------

    /// Changes the mode and waits for it.
    pub fn convert(&self, change: Change) -> Outcome<()> {
        let cancel = Arc::new(Cancel::default());
        let guard = {
            let mut state = self.state();
            let guard = state.idle()?;
            state.operation = Some(Operation { cancel: Some(Arc::clone(&cancel)), task: None });
            guard
        };
        let result = wait(convert(guard, change, cancel));
        let over = self.state().operation.take();
        drop(over);
        result
    }

    /// Asks for another mode.
    pub fn start_convert(self: &Arc<Lock>, change: Change, done: Done) -> Outcome<()> {
        let mut state = self.state();
        let guard = state.idle()?;
        self.begin(
            &mut state,
            |cancel| convert(guard, change, cancel),
            move |lock, result| {
                lock.tell(done, result);
            },
        );
        Ok(())
    }

    /// Withdraws what is under way.
    pub fn cancel(&self) -> Outcome<()> {
        let cancel = {
            let state = self.state();
            let Some(operation) = &state.operation else {
                return Err(Fault::usage("nothing is under way that could be withdrawn"));
            };
            operation.cancel.clone()
        };
        let cancel = cancel.ok_or_else(|| Fault::usage("a release cannot be withdrawn"))?;
        cancel.ask();
        // A task withdraws at once, not only when somebody dispatches.
        if let Some(task) = self.state().operation.as_ref().and_then(|operation| operation.task.as_ref()) {
            task.look();
        }
        Ok(())
    }

    /// The guard, with nobody else at it.
    fn alone(&self) -> Outcome<Guard> {
        let (guard, watch) = {
            let mut state = self.state();
            let guard = state.idle()?;
            state.guard = None;
            state.operation = Some(Operation { cancel: None, task: None });
            (guard, state.watch.take())
        };
        // With it goes its share of the guard.
        drop(watch);
        Arc::try_unwrap(guard).map_err(|guard| {
            let mut state = self.state();
            state.operation = None;
            state.guard = Some(guard);
            Fault::in_flight()
        })
    }

    /// Gives the lock back and waits until that is done.
    pub fn unlock(&self) -> Outcome<()> {
        let result = wait(self.alone()?.release());
        self.state().operation = None;
        Ok(result?)
    }

    /// Gives the lock back; `done` is told when that is done.
    pub fn start_unlock(self: &Arc<Lock>, done: Done) -> Outcome<()> {
        let guard = self.alone()?;
        let mut state = self.state();
        let release = async move { Ok(guard.release().await?) };
        self.begin(&mut state, |_| release, move |lock, result| lock.tell(done, result));
        if let Some(operation) = &mut state.operation {
            operation.cancel = None;
        }
        Ok(())
    }

    /// The program lets go of it: what is held is given back without waiting, what is asked for is withdrawn.
    pub fn free(&self) {
        let (operation, watch, guard) = {
            let mut state = self.state();
            state.freed = true;
            (state.operation.take(), state.watch.take(), state.guard.take())
        };
        if let Some(Operation { cancel: Some(cancel), task: None }) = &operation {
            cancel.ask();
        }
        drop((operation, watch));
        drop(guard);
    }

    // ----- questions --------------------------------------------------------------------------------------

    /// What others want, if there is news of which nobody was told.
    pub fn wanted(&self) -> Outcome<Option<Mode>> {
        let news = self.ask(Guard::blocking_now)?;
        let untold = self.untold.swap(Mode::NL as u8, Ordering::AcqRel);
        Ok(news.or(Mode::ALL.get(usize::from(untold)).copied().filter(|mode| *mode != Mode::NL)))
    }

    /// Asks something of what is held.
    pub fn ask<T>(&self, question: impl FnOnce(&Guard) -> T) -> Outcome<T> {
        let state = self.state();
        match (&state.guard, &state.operation) {
            (Some(guard), _) => Ok(question(guard)),
            (None, Some(_)) => Err(Fault::in_flight()),
            (None, None) => Err(Fault::usage("the lock is not held")),
        }
    }
}

impl State {
    /// What is held, if nothing is under way.
    fn idle(&self) -> Outcome<Arc<Guard>> {
        if self.operation.is_some() {
            return Err(Fault::in_flight());
        }
        self.guard.clone().ok_or_else(|| Fault::usage("the lock is not held"))
    }
}

type News = Pin<Box<dyn Future<Output = oarlock::Result<Mode>> + Send>>;

/// Tells of what others want of a lock, of its danger and of its loss.
fn watch(
    guard: Arc<Guard>,
    lock: Weak<Lock>,
    untold: Arc<AtomicU8>,
) -> impl FnMut(&mut Context<'_>) -> Poll<Next> + Send {
    let next = |guard: &Arc<Guard>| -> News {
        let guard = Arc::clone(guard);
        Box::pin(async move { guard.blocking().await })
    };
    let mut news = next(&guard);
    let mut warned = false;
    move |context| match news.as_mut().poll(context) {
        Poll::Ready(Ok(mode)) => {
            news = next(&guard);
            untold.store(mode as u8, Ordering::Release);
            // The lock itself must not be kept here: if this were its last share, it would end this task from within.
            let lock = Weak::clone(&lock);
            Poll::Ready(Next::More(Box::new(move || {
                let Some(lock) = lock.upgrade() else { return };
                if let Some(blocking) = lock.notices().blocking {
                    lock.untold.store(Mode::NL as u8, Ordering::Release);
                    blocking(&lock, mode as c_int);
                }
            })))
        }
        Poll::Ready(Err(error)) => Poll::Ready(Next::Last(loss(Weak::clone(&lock), error.into()))),
        Poll::Pending => {
            let before = std::mem::replace(&mut warned, guard.is_at_risk());
            if !warned || before {
                return Poll::Pending;
            }
            let fault = Fault::new(crate::abi::OAR_E_AT_RISK, "the node has not renewed its lease");
            Poll::Ready(Next::More(loss(Weak::clone(&lock), fault)))
        }
    }
}

fn loss(lock: Weak<Lock>, fault: Fault) -> oarlock::dispatch::Job {
    Box::new(move || {
        let Some(lock) = lock.upgrade() else { return };
        if let Some(lost) = lock.notices().lost {
            let rc = lock.client.note(fault);
            lost(&lock, rc);
        }
    })
}
