//! Work that is told of in one place: for programs that wait with `poll` or `epoll` and want to hear of their
//! locks when they ask, in the thread that asks.
//!
//! ```text
//!   session's reader ──wake──► queue of tasks ──► descriptor becomes readable
//!   program ── poll(descriptor) ──► run() ──► looks at each task ──► its news, called here and nowhere else
//! ```
//!
//! A [`Dispatcher`] has no thread. A [`Task`] looks after something that happens once or again and again; what it
//! finds is a [`Job`], and jobs run only inside [`Dispatcher::run`], while nothing here is locked: a job may start,
//! end and dispatch tasks, its own included.
//!
//! ```
//! use oarlock::dispatch::Dispatcher;
//!
//! # async fn answer() -> u32 { 42 }
//! let dispatcher = Dispatcher::new()?;
//! let task = dispatcher.once(answer(), |answer| println!("{answer}"));
//! while !task.is_over() {
//!     // with `poll`, until `dispatcher` is readable
//!     dispatcher.run();
//! }
//! # Ok::<(), std::io::Error>(())
//! ```

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use rustix::event::EventfdFlags;

/// What is to be told; runs inside [`Dispatcher::run`].
pub type Job = Box<dyn FnOnce() + Send>;

/// What a task has found.
pub enum Next {
    /// There may be more after it.
    More(Job),
    /// There is nothing after it. What the task kept is dropped before the job runs.
    Last(Job),
    /// Nothing, and nothing will come.
    End,
}

/// What a task asks each time it is woken. It is polled in any thread, and must not call what could come back to its task.
type Source = Box<dyn FnMut(&mut Context<'_>) -> Poll<Next> + Send>;

/// Looks after tasks, and tells what they found when it is asked to.
pub struct Dispatcher {
    queue: Arc<Queue>,
}

struct Queue {
    ready: Mutex<Ready>,
    /// Readable exactly while somebody is ready: written when the first comes, read when the last goes.
    event: OwnedFd,
}

#[derive(Default)]
struct Ready {
    tasks: VecDeque<Arc<Inner>>,
    /// The dispatcher has gone.
    closed: bool,
}

impl Dispatcher {
    /// One of its own descriptor, which `exec` closes.
    ///
    /// # Errors
    /// The kernel's, if it has no descriptor left.
    pub fn new() -> io::Result<Dispatcher> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Dispatcher { queue: Arc::new(Queue { ready: Mutex::default(), event }) })
    }

    /// Begins a task. Its source is asked once, here, so that what it asks for is asked at once; what it found already is
    /// told by the next [`run`](Dispatcher::run) all the same.
    pub fn begin(&self, source: impl FnMut(&mut Context<'_>) -> Poll<Next> + Send + 'static) -> Task {
        let kept = Mutex::new(Kept { source: Some(Box::new(source)), found: None });
        let inner = Arc::new(Inner { queue: Arc::clone(&self.queue), queued: AtomicBool::new(false), kept });
        inner.look();
        Task { inner }
    }

    /// A task that tells `then` what came of a future.
    pub fn once<F>(&self, future: F, then: impl FnOnce(F::Output) + Send + 'static) -> Task
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let mut future = Box::pin(future);
        let mut then = Some(then);
        self.begin(move |context| match future.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(output) => Poll::Ready(match then.take() {
                Some(then) => Next::Last(Box::new(move || then(output))),
                None => Next::End,
            }),
        })
    }

    /// Asks every task that was ready at the beginning, and runs what they found. Says how many jobs that were. Several
    /// threads may do so at once: each takes tasks that no other has taken.
    pub fn run(&self) -> usize {
        let mut count = 0;
        let ready = self.queue.lock().tasks.len();
        for _ in 0..ready {
            let Some(task) = self.queue.pop() else { break };
            while let Some(job) = task.next() {
                count += 1;
                job();
            }
        }
        count
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        self.close();
    }
}

impl Dispatcher {
    /// Tells nothing any more, and forgets what was to be told. Tasks stay until they are dropped.
    pub fn close(&self) {
        // A queued task keeps the queue, which would keep the task.
        let tasks = {
            let mut ready = self.queue.lock();
            ready.closed = true;
            std::mem::take(&mut ready.tasks)
        };
        drop(tasks);
    }
}

/// Readable while there is something to [`run`](Dispatcher::run). Nobody but the dispatcher may read it.
impl AsFd for Dispatcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.event.as_fd()
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Ready> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, task: Arc<Inner>) {
        let mut ready = self.lock();
        if ready.closed {
            drop(ready);
            drop(task);
            return;
        }
        ready.tasks.push_back(task);
        if ready.tasks.len() == 1 {
            // It has room for more than one, so this neither waits nor fails.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    fn pop(&self) -> Option<Arc<Inner>> {
        let mut ready = self.lock();
        let task = ready.tasks.pop_front()?;
        if ready.tasks.is_empty() {
            let _ = rustix::io::read(&self.event, &mut [0; 8]);
        }
        Some(task)
    }
}

/// Something that is looked after. Dropping it ends it, as [`end`](Task::end) does.
pub struct Task {
    inner: Arc<Inner>,
}

struct Inner {
    queue: Arc<Queue>,
    queued: AtomicBool,
    kept: Mutex<Kept>,
}

struct Kept {
    source: Option<Source>,
    /// Found when nobody dispatched.
    found: Option<Job>,
}

impl Task {
    /// Asks the source now, because something changed of which it is not woken. What it finds waits for the next
    /// [`run`](Dispatcher::run).
    pub fn look(&self) {
        self.inner.look();
    }

    /// Is there nothing more to come?
    pub fn is_over(&self) -> bool {
        let kept = self.inner.lock();
        kept.source.is_none() && kept.found.is_none()
    }

    /// Drops what the task keeps. No job of it begins any more, but one that another thread has begun to run goes on.
    pub fn end(&self) {
        let (source, found) = {
            let mut kept = self.inner.lock();
            (kept.source.take(), kept.found.take())
        };
        // Foreign code, perhaps.
        drop((source, found));
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.end();
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.queue.push(Arc::clone(self));
        }
    }

    fn look(self: &Arc<Self>) {
        let mut kept = self.lock();
        if kept.found.is_none() {
            let (found, over) = self.ask(&mut kept);
            kept.found = found;
            let ready = kept.found.is_some();
            drop(kept);
            drop(over);
            if ready {
                self.wake();
            }
        }
    }

    /// For the dispatcher: the next job, if there is one.
    fn next(self: &Arc<Self>) -> Option<Job> {
        // Before it is asked: who wakes it from now on has news.
        self.queued.store(false, Ordering::Release);
        let mut kept = self.lock();
        let (job, over) = match kept.found.take() {
            Some(job) => (Some(job), None),
            None => self.ask(&mut kept),
        };
        drop(kept);
        drop(over);
        job
    }

    /// What the source says; the second is the source if it is over, to be dropped where nothing is locked.
    fn ask(self: &Arc<Self>, kept: &mut Kept) -> (Option<Job>, Option<Source>) {
        let Some(source) = &mut kept.source else { return (None, None) };
        let waker = Waker::from(Arc::clone(self));
        match source(&mut Context::from_waker(&waker)) {
            Poll::Pending => (None, None),
            Poll::Ready(Next::More(job)) => (Some(job), None),
            Poll::Ready(Next::Last(job)) => (Some(job), kept.source.take()),
            Poll::Ready(Next::End) => (None, kept.source.take()),
        }
    }
}

impl Wake for Inner {
    fn wake(self: Arc<Self>) {
        Inner::wake(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        Inner::wake(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec};
    use std::sync::atomic::AtomicUsize;

    fn readable(dispatcher: &Dispatcher) -> bool {
        let mut fds = [PollFd::new(dispatcher, PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
    }

    /// A future that is ready when its switch is on.
    #[derive(Default)]
    struct Switch(Mutex<(bool, Option<Waker>)>);

    impl Switch {
        fn on(&self) {
            let waker = {
                let mut state = self.0.lock().unwrap();
                state.0 = true;
                state.1.take()
            };
            waker.into_iter().for_each(Waker::wake);
        }

        fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
            let mut state = self.0.lock().unwrap();
            if state.0 {
                return Poll::Ready(());
            }
            state.1 = Some(context.waker().clone());
            Poll::Pending
        }
    }

    #[test]
    fn what_is_ready_at_once_is_told_by_run_and_not_before() {
        let dispatcher = Dispatcher::new().unwrap();
        let told = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&told);
        let task = dispatcher.once(async { 7 }, move |n| {
            count.fetch_add(n, Ordering::SeqCst);
        });
        assert_eq!(told.load(Ordering::SeqCst), 0);
        assert!(readable(&dispatcher) && !task.is_over());
        assert_eq!(dispatcher.run(), 1);
        assert_eq!(told.load(Ordering::SeqCst), 7);
        assert!(!readable(&dispatcher) && task.is_over());
        assert_eq!(dispatcher.run(), 0);
    }

    /// Any number of wakes of one task, and any number of tasks, are one write of the descriptor.
    #[test]
    fn the_descriptor_is_readable_exactly_while_somebody_is_ready() {
        let dispatcher = Dispatcher::new().unwrap();
        let switches: Vec<Arc<Switch>> = (0..3).map(|_| Arc::default()).collect();
        let tasks: Vec<Task> = switches
            .iter()
            .map(|switch| {
                let switch = Arc::clone(switch);
                dispatcher.once(std::future::poll_fn(move |context| switch.poll(context)), |()| ())
            })
            .collect();
        assert!(!readable(&dispatcher));
        switches.iter().for_each(|switch| switch.on());
        let mut number = [0; 8];
        rustix::io::read(&dispatcher, &mut number).unwrap();
        assert_eq!(u64::from_ne_bytes(number), 1, "written once");
        assert_eq!(dispatcher.run(), 3);
        assert!(!readable(&dispatcher) && tasks.iter().all(Task::is_over));
    }

    #[test]
    fn a_job_may_end_its_own_task_and_begin_others() {
        let dispatcher = Arc::new(Dispatcher::new().unwrap());
        let own: Arc<Mutex<Option<Task>>> = Arc::default();
        let later: Arc<Mutex<Option<Task>>> = Arc::default();
        let (mine, next, inner) = (Arc::clone(&own), Arc::clone(&later), Arc::clone(&dispatcher));
        let task = dispatcher.begin(move |_| {
            let (mine, next, inner) = (Arc::clone(&mine), Arc::clone(&next), Arc::clone(&inner));
            Poll::Ready(Next::More(Box::new(move || {
                drop(mine.lock().unwrap().take());
                *next.lock().unwrap() = Some(inner.once(async {}, |()| ()));
                inner.run();
            })))
        });
        *own.lock().unwrap() = Some(task);
        assert_eq!(dispatcher.run(), 1, "the endless source was ended by its first job");
        assert!(later.lock().unwrap().take().unwrap().is_over());
    }

    #[test]
    fn a_task_that_ended_tells_nothing_and_keeps_nothing() {
        let dispatcher = Dispatcher::new().unwrap();
        let kept = Arc::new(());
        let (in_source, in_job) = (Arc::clone(&kept), Arc::clone(&kept));
        let told = dispatcher.once(async move { drop(in_source) }, move |()| drop(in_job));
        let (queued, waits) = (Arc::clone(&kept), Arc::clone(&kept));
        let waiting = dispatcher.begin(move |_| {
            let _ = &waits;
            Poll::Pending
        });
        let left = dispatcher.once(async {}, move |()| drop(queued));
        drop((told, waiting));
        assert_eq!(Arc::strong_count(&kept), 2);
        drop(dispatcher);
        left.end();
        assert_eq!(Arc::strong_count(&kept), 1);
    }
}
