//! What is to be called, in the order in which it happened, and a descriptor that is readable while there is something.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use oarlock::Mode;
use rustix::event::EventfdFlags;

use crate::Report;

/// Something that a program wants to be called for.
#[derive(Clone, Debug)]
pub struct Event<U> {
    /// Whom to call.
    pub user: U,
    /// What happened.
    pub what: What,
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// An operation is over.
    Completed(Report),
    /// Others want the lock. With what the last operation came to, unless another is under way.
    Blocking(Option<Report>),
}

/// What the calling thread does while it waits.
#[derive(Clone, Copy)]
pub enum Turn<'a, U> {
    /// It sleeps: another thread runs the callbacks.
    Sleep,
    /// It runs them.
    Call(&'a dyn Fn(Event<U>)),
}

impl<U> Turn<'_, U> {
    pub(crate) fn sleeps(&self) -> bool {
        matches!(self, Turn::Sleep)
    }
}

/// An event before somebody asks for it.
pub(crate) enum Record<U> {
    Completed { user: U, report: Report },
    Wanted { lkid: u32, mode: Mode },
}

pub(crate) struct Queue<U> {
    records: VecDeque<Record<U>>,
    /// How many ever came, and went.
    came: u64,
    went: u64,
    /// Written when the first comes, read when the last goes.
    event: OwnedFd,
}

impl<U> Queue<U> {
    pub(crate) fn new() -> io::Result<Queue<U>> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Queue { records: VecDeque::new(), came: 0, went: 0, event })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.event.as_fd().as_raw_fd()
    }

    pub(crate) fn push(&mut self, record: Record<U>) {
        self.records.push_back(record);
        self.came += 1;
        if self.records.len() == 1 {
            // It has room for more than one, so this neither waits nor fails.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Record<U>> {
        let record = self.records.pop_front()?;
        self.went += 1;
        if self.records.is_empty() {
            let _ = rustix::io::read(&self.event, &mut [0; 8]);
        }
        Some(record)
    }

    /// Drops what is not wanted any more.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&Record<U>) -> bool) {
        let rest: Vec<Record<U>> =
            std::mem::take(&mut self.records).into_iter().filter(|it| keep(it)).collect();
        self.went = self.came - rest.len() as u64;
        self.records = rest.into();
        if self.records.is_empty() {
            let _ = rustix::io::read(&self.event, &mut [0; 8]);
        }
    }

    /// How many have come by now.
    pub(crate) fn mark(&self) -> u64 {
        self.came
    }

    /// How many have gone.
    pub(crate) fn gone(&self) -> u64 {
        self.went
    }

    /// Has everything gone that came before a mark?
    pub(crate) fn has_reached(&self, mark: u64) -> bool {
        self.went >= mark
    }
}

/// Somebody who waits for one operation, and for nothing else (a blocking notice of the same lock ends no wait).
#[derive(Default)]
pub(crate) struct Waiting(Mutex<Option<(Report, u64)>>);

impl Waiting {
    pub(crate) fn new() -> Arc<Waiting> {
        Arc::default()
    }

    /// The operation is over, when so much had come into the queue.
    pub(crate) fn tell(&self, report: Report, mark: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((report, mark));
    }

    pub(crate) fn told(&self) -> Option<(Report, u64)> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec};

    fn readable(queue: &Queue<()>) -> bool {
        let mut fds = [PollFd::new(&queue.event, PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
    }

    #[test]
    fn the_descriptor_is_readable_while_there_is_something() {
        let mut queue = Queue::new().unwrap();
        assert!(!readable(&queue));
        for lkid in 1..4 {
            queue.push(Record::Wanted { lkid, mode: Mode::EX });
        }
        assert!(readable(&queue));
        let mark = queue.mark();
        queue.retain(|record| matches!(record, Record::Wanted { lkid: 2 | 3, .. }));
        assert!(readable(&queue) && queue.pop().is_some() && !queue.has_reached(mark));
        assert!(readable(&queue) && queue.pop().is_some() && queue.has_reached(mark));
        assert!(!readable(&queue) && queue.pop().is_none());
        queue.push(Record::Wanted { lkid: 1, mode: Mode::EX });
        queue.retain(|_| false);
        assert!(!readable(&queue) && queue.pop().is_none());
    }
}
