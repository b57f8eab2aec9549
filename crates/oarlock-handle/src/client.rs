//! A session as C sees it, and how a thread waits.

use std::ffi::{CStr, CString};
use std::future::Future;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{Thread, ThreadId};
use std::time::{Duration, Instant};

use oarlock::dispatch::Dispatcher;
use oarlock_shm::Birthmark;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::abi::{OAR_E_FAILED, OAR_NO_SHARED_MEMORY};
use crate::fault::{Fault, Outcome};

/// Threads whose last errors a client remembers. Beyond that, the oldest is forgotten.
const NOTES_MAX: usize = 64;

/// A session with the node of this machine. It ends when the client is closed and all its spaces and locks are.
pub struct Client {
    mark: Birthmark,
    /// Before the session, so that what is queued goes first.
    dispatcher: Dispatcher,
    session: oarlock::Client,
    /// The last error of each thread. No thread-local variables: those are global state, and outlive the client.
    notes: Mutex<Vec<(ThreadId, Fault)>>,
    node: CString,
    cluster: CString,
}

/// A lockspace.
pub struct Space {
    client: Arc<Client>,
    space: oarlock::Space,
}

impl Space {
    /// The client that found it.
    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// The lockspace itself.
    pub fn space(&self) -> &oarlock::Space {
        &self.space
    }
}

impl Client {
    /// Connects to a socket, or to the daemon that the Rust library would find.
    pub fn connect(
        socket: Option<&std::path::Path>,
        label: Option<String>,
        flags: u32,
    ) -> Outcome<Arc<Client>> {
        if flags & !OAR_NO_SHARED_MEMORY != 0 {
            return Err(Fault::usage(format!("{flags:#x} are no flags of oar_connect_opts")));
        }
        let mut builder = oarlock::Client::builder().shared_memory(flags & OAR_NO_SHARED_MEMORY == 0);
        if let Some(label) = label {
            builder = builder.label(label);
        }
        let session = match socket {
            Some(path) => wait(builder.connect(path)),
            None => wait(builder.connect_default()),
        }?;
        let failed =
            |what: &str, why: &dyn std::fmt::Display| Fault::new(OAR_E_FAILED, format!("{what}: {why}"));
        let mark = Birthmark::new().map_err(|e| failed("no memory that forks do not see", &e))?;
        let dispatcher = Dispatcher::new().map_err(|e| failed("no descriptor to wait for", &e))?;
        let text = |text: &str| CString::new(text).unwrap_or_default();
        let (node, cluster) = (text(session.node()), text(session.cluster()));
        Ok(Arc::new(Client { mark, dispatcher, session, notes: Mutex::default(), node, cluster }))
    }

    /// Refuses the forks of the process that connected. Must come before anything is locked: a thread that is not here may
    /// have locked it.
    #[inline]
    pub fn check_process(&self) -> Outcome<()> {
        if self.mark.is_mine() { Ok(()) } else { Err(Fault::forked()) }
    }

    /// The name of the node.
    pub fn node(&self) -> &CStr {
        &self.node
    }

    /// The name of the cluster.
    pub fn cluster(&self) -> &CStr {
        &self.cluster
    }

    pub(crate) fn dispatcher(&self) -> &Dispatcher {
        &self.dispatcher
    }

    /// Tells nothing any more.
    pub fn close(&self) {
        self.dispatcher.close();
    }

    /// Finds a lockspace.
    pub fn space(self: &Arc<Client>, name: &str) -> Outcome<Arc<Space>> {
        let space = wait(self.session.space(name))?;
        Ok(Arc::new(Space { client: Arc::clone(self), space }))
    }

    /// The descriptor to wait for.
    pub fn fd(&self) -> RawFd {
        self.dispatcher.as_fd().as_raw_fd()
    }

    /// Runs what there is to run. If that is nothing, waits: `None` is for ever. Also ends when a signal comes.
    pub fn dispatch(&self, timeout: Option<Duration>) -> usize {
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let count = self.dispatcher.run();
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if count > 0 || left.is_some_and(|left| left.is_zero()) {
                return count;
            }
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            match rustix::event::poll(&mut [PollFd::new(&self.dispatcher, PollFlags::IN)], left.as_ref()) {
                Ok(_) => {}
                Err(Errno::INTR) => return 0,
                // There is no memory to wait with: the caller is to come again.
                Err(_) => return 0,
            }
        }
    }

    /// Remembers the last error of this thread, and gives its code.
    pub fn note(&self, fault: Fault) -> i32 {
        let (rc, thread) = (fault.rc, std::thread::current().id());
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.retain(|(of, _)| *of != thread);
        if notes.len() == NOTES_MAX {
            notes.remove(0);
        }
        notes.push((thread, fault));
        rc
    }

    /// The last error of this thread.
    pub fn noted(&self) -> Option<Fault> {
        let thread = std::thread::current().id();
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.iter().find(|(of, _)| *of == thread).map(|(_, fault)| fault.clone())
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits in this thread. What is ready at once costs no waker.
#[inline]
pub fn wait<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        return output;
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
