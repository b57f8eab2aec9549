//! The lockspaces that a process has opened, by handle and by descriptor, and the threads that run their callbacks.
//!
//! A handle is a number, not an address: one that is closed is unknown, and nothing follows it. A fork has a registry of its
//! own, which is empty: sessions do not pass through it, and a mutex of the parent's may be locked for ever there.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use oarlock_shm::Birthmark;
use rustix::io::Errno;

use crate::lockspace::Lockspace;
use crate::queue::Event;
use crate::server::How;

/// The lockspace of calls that name none.
pub const DEFAULT: &[u8] = b"default";

/// Programs' callbacks run on it: as much as their own threads have.
const STACK_BYTES: usize = 8 << 20;

/// Handles are multiples of this, so that none is taken for a small number.
const STEP: usize = 16;

/// What a process has opened.
pub struct Registry<U> {
    pid: u32,
    mark: Option<Birthmark>,
    open: Mutex<Open<U>>,
    /// Held while the default lockspace is entered, so that it is entered once.
    entering: Mutex<()>,
    /// What a fork has.
    child: OnceLock<Box<Registry<U>>>,
}

/// How long the end of a lockspace waits for a callback that runs.
const PATIENCE: Duration = Duration::from_secs(2);

struct Open<U> {
    entries: BTreeMap<usize, Entry<U>>,
    by_fd: BTreeMap<RawFd, usize>,
    default: Option<usize>,
}

/// The last handle that was given.
static LAST: AtomicUsize = AtomicUsize::new(0);

struct Entry<U> {
    space: Arc<Lockspace<U>>,
    callbacks: Option<Callbacks>,
}

/// A thread that runs callbacks.
struct Callbacks {
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl<U: Clone + Send + 'static> Registry<U> {
    /// An empty one, of this process.
    pub fn new() -> Registry<U> {
        Registry {
            pid: std::process::id(),
            mark: Birthmark::new().ok(),
            open: Mutex::new(Open { entries: BTreeMap::new(), by_fd: BTreeMap::new(), default: None }),
            entering: Mutex::new(()),
            child: OnceLock::new(),
        }
    }

    fn is_mine(&self) -> bool {
        self.mark.as_ref().map_or_else(|| self.pid == std::process::id(), Birthmark::is_mine)
    }

    /// The one of this process, which may be a fork of the one that made it.
    fn here(&self) -> &Registry<U> {
        let mut registry = self;
        while !registry.is_mine() {
            registry = registry.child.get_or_init(|| Box::new(Registry::new()));
        }
        registry
    }

    fn open(&self) -> MutexGuard<'_, Open<U>> {
        self.here().open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a lockspace, and gives its handle.
    ///
    /// # Errors
    /// As for [`Lockspace::open`].
    pub fn enter(&self, name: &[u8], how: How) -> Result<usize, Errno> {
        let space = Lockspace::open(name, how)?;
        let mut open = self.open();
        // Never again in this process, nor in its forks: their parent's handles are nobody's there.
        let handle = LAST.fetch_add(STEP, Ordering::Relaxed) + STEP;
        open.by_fd.insert(space.fd(), handle);
        open.entries.insert(handle, Entry { space, callbacks: None });
        Ok(handle)
    }

    /// The lockspace of a handle.
    ///
    /// # Errors
    /// `NOTCONN`.
    pub fn get(&self, handle: usize) -> Result<Arc<Lockspace<U>>, Errno> {
        let open = self.open();
        open.entries.get(&handle).map(|entry| Arc::clone(&entry.space)).ok_or(Errno::NOTCONN)
    }

    /// The lockspace of a descriptor.
    ///
    /// # Errors
    /// `BADF`.
    pub fn of_fd(&self, fd: RawFd) -> Result<Arc<Lockspace<U>>, Errno> {
        let open = self.open();
        let entry = open.by_fd.get(&fd).and_then(|handle| open.entries.get(handle));
        entry.map(|entry| Arc::clone(&entry.space)).ok_or(Errno::BADF)
    }

    /// The default lockspace, if it is open.
    ///
    /// # Errors
    /// `NOTCONN`.
    pub fn default_handle(&self) -> Result<usize, Errno> {
        self.open().default.ok_or(Errno::NOTCONN)
    }

    /// The default lockspace; entered, and made, if need be.
    ///
    /// # Errors
    /// As for [`Lockspace::open`].
    pub fn enter_default(&self) -> Result<usize, Errno> {
        let _alone = self.here().entering.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(handle) = self.default_handle() {
            return Ok(handle);
        }
        let handle = match self.enter(DEFAULT, How::Attach) {
            Err(Errno::NOENT) => self.enter(DEFAULT, How::Create { exclusive: false }),
            entered => entered,
        }?;
        self.open().default = Some(handle);
        Ok(handle)
    }

    /// Takes a handle out, so that nobody finds it any more, and closes its lockspace. The thread of its callbacks has ended
    /// then, unless this is that thread.
    ///
    /// # Errors
    /// `NOTCONN`.
    pub fn close(&self, handle: usize) -> Result<(), Errno> {
        self.end(handle).map(drop)
    }

    /// The same, and one reference to the lockspace less.
    ///
    /// # Errors
    /// `NOTCONN`; and the inner one as [`Lockspace::leave`] has it.
    pub fn release(&self, handle: usize, force: bool) -> Result<Result<(), Errno>, Errno> {
        Ok(self.end(handle)?.leave(force))
    }

    fn end(&self, handle: usize) -> Result<Arc<Lockspace<U>>, Errno> {
        let Entry { space, callbacks } = {
            let mut open = self.open();
            let entry = open.entries.remove(&handle).ok_or(Errno::NOTCONN)?;
            open.by_fd.remove(&entry.space.fd());
            if open.default == Some(handle) {
                open.default = None;
            }
            entry
        };
        // Before its thread is waited for: it may wait for an answer.
        space.close();
        if let Some(callbacks) = callbacks {
            callbacks.stop(&space);
        }
        Ok(space)
    }

    /// Starts the thread that runs the callbacks of a lockspace.
    ///
    /// # Errors
    /// `EXIST` if there is one, `NOTCONN` for an unknown handle, the kernel's if it has none left.
    pub fn start(&self, handle: usize, call: fn(Event<U>)) -> Result<(), Errno> {
        let mut open = self.open();
        let entry = open.entries.get_mut(&handle).ok_or(Errno::NOTCONN)?;
        if entry.callbacks.is_some() {
            return Err(Errno::EXIST);
        }
        let (space, over) = (Arc::clone(&entry.space), Arc::new(AtomicBool::new(false)));
        let ends = Arc::clone(&over);
        // Its signals are those of the thread that starts it, as in every thread that runs a program's own code.
        let body = move || {
            while let Some(event) = space.wait_next(|| ends.load(Ordering::Acquire)) {
                call(event);
            }
        };
        let thread =
            std::thread::Builder::new().name("dlm-callbacks".into()).stack_size(STACK_BYTES).spawn(body);
        let no_thread = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN);
        entry.callbacks = Some(Callbacks { over, thread: thread.map_err(no_thread)? });
        Ok(())
    }

    /// The thread that runs the callbacks of a lockspace.
    pub fn callback_thread(&self, handle: usize) -> Option<ThreadId> {
        let open = self.open();
        Some(open.entries.get(&handle)?.callbacks.as_ref()?.thread.thread().id())
    }
}

impl<U: Clone + Send + 'static> Default for Registry<U> {
    fn default() -> Registry<U> {
        Registry::new()
    }
}

impl Callbacks {
    fn stop<U: Clone + Send + 'static>(self, space: &Lockspace<U>) {
        self.over.store(true, Ordering::Release);
        space.wake();
        // A callback may close its own lockspace: its thread ends when it returns. And one that waits for something elsewhere, for
        // whoever closes this perhaps, is left to its end.
        let end = Instant::now() + PATIENCE;
        while self.thread.thread().id() != std::thread::current().id() {
            if self.thread.is_finished() {
                let _ = self.thread.join();
                break;
            }
            if Instant::now() > end {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
