//! Looks after futures in whatever thread wakes them, at once: what happens to a lock is known as soon as its answer is
//! there, whether the program dispatches or not.
//!
//! One thread at a time is at it, and each future is polled by nobody else meanwhile. Polls do not wait for anything, so
//! whoever has something to begin waits for that thread; whoever only wakes leaves the future to it.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Who polls.
#[derive(Default)]
pub(crate) struct Runner {
    turn: Mutex<Turns>,
    free: Condvar,
}

#[derive(Default)]
struct Turns {
    ready: VecDeque<Arc<Inner>>,
    /// A thread is at it.
    busy: bool,
}

/// A future that is looked after until it is over or ended.
#[derive(Clone)]
pub(crate) struct Task {
    inner: Arc<Inner>,
}

struct Inner {
    runner: Arc<Runner>,
    queued: AtomicBool,
    work: Mutex<Option<Work>>,
}

impl Runner {
    fn turn(&self) -> MutexGuard<'_, Turns> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A future that begins when it is [woken](Task::wake).
    pub(crate) fn task(self: &Arc<Runner>, work: impl Future<Output = ()> + Send + 'static) -> Task {
        let work = Mutex::new(Some(Box::pin(work) as Work));
        Task { inner: Arc::new(Inner { runner: Arc::clone(self), queued: AtomicBool::new(false), work }) }
    }

    /// Begins a future in this thread: whom a request belongs to may depend on that. Whatever it waits for keeps it.
    pub(crate) fn begin(self: &Arc<Runner>, work: impl Future<Output = ()> + Send + 'static) {
        let task = self.task(work);
        let mut turn = self.turn();
        while turn.busy {
            turn = self.free.wait(turn).unwrap_or_else(PoisonError::into_inner);
        }
        turn.busy = true;
        drop(turn);
        let _over = Over(self);
        task.inner.poll();
        self.run();
    }

    /// Polls what is ready until nothing is.
    fn run(&self) {
        loop {
            let next = self.turn().ready.pop_front();
            match next {
                Some(task) => task.poll(),
                None => return,
            }
        }
    }
}

/// This thread's turn; it ends even with a panic, or nothing would happen any more.
struct Over<'a>(&'a Runner);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        loop {
            let next = {
                let mut turn = self.0.turn();
                let next = turn.ready.pop_front();
                turn.busy = next.is_some();
                next
            };
            match next {
                // Woken after the last look.
                Some(task) => task.poll(),
                None => return self.0.free.notify_one(),
            }
        }
    }
}

impl Inner {
    fn poll(self: &Arc<Inner>) {
        // Before it is polled: who wakes it from now on has news.
        self.queued.store(false, Ordering::Release);
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(future) = work.as_mut() else { return };
        let waker = Waker::from(Arc::clone(self));
        if let Poll::Ready(()) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            let over = work.take();
            drop(work);
            drop(over);
        }
    }
}

impl Wake for Inner {
    fn wake(self: Arc<Inner>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let runner = Arc::clone(&self.runner);
        let mut turn = runner.turn();
        turn.ready.push_back(self);
        if turn.busy {
            return;
        }
        turn.busy = true;
        drop(turn);
        let _over = Over(&runner);
        runner.run();
    }
}

impl Task {
    /// Polls it, in this thread or in the one that is at it.
    pub(crate) fn wake(&self) {
        Arc::clone(&self.inner).wake();
    }

    /// Drops the future. Not from within itself.
    pub(crate) fn end(&self) {
        let work = self.inner.work.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(work);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    /// Every wake is followed by a poll, however many threads wake, and no two polls overlap.
    #[test]
    fn threads_that_wake_miss_nothing_and_do_not_overlap() {
        let runner = Arc::new(Runner::default());
        let (count, inside) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let seen = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<Arc<Task>> = (0..2)
            .map(|_| {
                let (count, inside, seen) = (Arc::clone(&count), Arc::clone(&inside), Arc::clone(&seen));
                Arc::new(runner.task(std::future::poll_fn(move |_| {
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    seen.store(count.load(Ordering::SeqCst), Ordering::SeqCst);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    Poll::Pending
                })))
            })
            .collect();
        let threads: Vec<_> = (0..4)
            .map(|i| {
                let (task, count) = (Arc::clone(&tasks[i % 2]), Arc::clone(&count));
                thread::spawn(move || {
                    for _ in 0..10_000 {
                        count.fetch_add(1, Ordering::SeqCst);
                        task.wake();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(seen.load(Ordering::SeqCst), 40_000);
    }

    #[test]
    fn what_begins_is_polled_in_the_thread_that_begins_it() {
        let runner = Arc::new(Runner::default());
        let at = Arc::new(Mutex::new(None));
        let place = Arc::clone(&at);
        runner.begin(async move { *place.lock().unwrap() = Some(thread::current().id()) });
        assert_eq!(*at.lock().unwrap(), Some(thread::current().id()));
    }

    #[test]
    fn a_task_that_was_ended_keeps_nothing() {
        let runner = Arc::new(Runner::default());
        let kept = Arc::new(());
        let inside = Arc::clone(&kept);
        let task = runner.task(async move { drop(inside) });
        task.end();
        task.wake();
        assert_eq!(Arc::strong_count(&kept), 1);
    }
}
