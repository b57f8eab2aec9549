//! Packets on their way to the daemon, in order. Sending never waits: while the daemon has no room, packets
//! queue here and a thread that lives only as long as the queue is not empty sends them.
//!
//! The queue is bounded by what callers hold: at most a request, a cancel and an unlock for each number of
//! the session's table.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use oarlock_layout::codec::{Wire, Writer};
use oarlock_layout::message::session::Request;
use rustix::io::Errno;

use crate::session::Session;
use crate::threads;

#[derive(Default)]
pub(crate) struct Outbox(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    packets: VecDeque<Vec<u8>>,
    /// Reused for encoding, so that sending allocates nothing.
    scratch: Vec<u8>,
    /// A thread is sending what is queued; everything later queues behind it.
    thread: bool,
    /// Shut the socket down once the queue is empty.
    closing: bool,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// Sends a request, or queues it. An error is one of this machine; that the daemon hung up is for the
    /// receiving side to find, which also learns why.
    pub(crate) fn post(self: &Arc<Self>, request: &Request) -> Result<(), Errno> {
        let mut queue = self.outbox.lock();
        let queue = &mut *queue;
        queue.scratch.clear();
        request.encode(&mut Writer::new(&mut queue.scratch));
        if !queue.thread {
            match self.socket.try_send(&queue.scratch) {
                Ok(true) | Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Ok(()),
                Ok(false) => {}
                Err(errno) => return Err(errno),
            }
        }
        queue.packets.push_back(queue.scratch.clone());
        if !queue.thread {
            let session = Arc::clone(self);
            threads::spawn("oarlock-sender", move || session.send_queued())
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
            queue.thread = true;
        }
        Ok(())
    }

    fn send_queued(self: Arc<Self>) {
        loop {
            let mut queue = self.outbox.lock();
            let Some(packet) = queue.packets.pop_front() else {
                queue.thread = false;
                if queue.closing {
                    self.socket.shut_down();
                }
                return;
            };
            drop(queue);
            if self.socket.send(&packet).is_err() {
                // Nobody reads any more; the receiving side finds out and ends the session.
                self.outbox.lock().packets.clear();
            }
        }
    }

    /// Waits until everything is sent, but not beyond this.
    pub(crate) fn wait_until_sent(&self, until: Instant) {
        while self.outbox.lock().thread && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Shuts the socket down as soon as everything is sent. True if that was at once.
    pub(crate) fn shut_down_when_sent(&self) -> bool {
        let mut queue = self.outbox.lock();
        queue.closing = true;
        if !queue.thread {
            self.socket.shut_down();
        }
        !queue.thread
    }
}
