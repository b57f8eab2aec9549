//! The one place where the daemon waits.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

/// Something became ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ready {
    /// The number given when it was added.
    pub token: u64,
    /// There is something to read, or the other side is gone.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
}

/// A way to wait for several descriptors at once. A trait, so that another wait point can take its place
/// without the engine noticing.
pub trait Poll {
    /// Begins to watch a descriptor for reading.
    fn add(&mut self, fd: &dyn AsFd, token: u64) -> io::Result<()>;
    /// Watches it for writing too, or no longer.
    fn watch_writes(&mut self, fd: &dyn AsFd, token: u64, on: bool) -> io::Result<()>;
    /// Forgets it.
    fn remove(&mut self, fd: &dyn AsFd) -> io::Result<()>;
    /// Waits for something, at most `timeout` (`None`: for ever). Fills `out`, which is emptied first.
    fn wait(&mut self, timeout: Option<Duration>, out: &mut Vec<Ready>) -> io::Result<()>;
}

/// [`Poll`] by epoll, level-triggered: what is not read now is reported again.
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Epoll {
    /// Watches nothing yet.
    pub fn new() -> io::Result<Epoll> {
        Ok(Epoll { fd: epoll::create(epoll::CreateFlags::CLOEXEC)?, events: Vec::with_capacity(256) })
    }

    /// Begins to watch for nothing but the end: both sides of a socket are shut down, or its other side is closed.
    pub fn add_for_end(&mut self, fd: &dyn AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.fd, fd.as_fd(), epoll::EventData::new_u64(token), epoll::EventFlags::empty())?)
    }
}

impl Poll for Epoll {
    fn add(&mut self, fd: &dyn AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.fd, fd.as_fd(), epoll::EventData::new_u64(token), epoll::EventFlags::IN)?)
    }

    fn watch_writes(&mut self, fd: &dyn AsFd, token: u64, on: bool) -> io::Result<()> {
        let flags = if on { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
        Ok(epoll::modify(&self.fd, fd.as_fd(), epoll::EventData::new_u64(token), flags)?)
    }

    fn remove(&mut self, fd: &dyn AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.fd, fd.as_fd())?)
    }

    fn wait(&mut self, timeout: Option<Duration>, out: &mut Vec<Ready>) -> io::Result<()> {
        out.clear();
        self.events.clear();
        let timeout = timeout
            .map(|t| Timespec { tv_sec: t.as_secs().min(3600) as i64, tv_nsec: t.subsec_nanos().into() });
        match epoll::wait(&self.fd, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) => {}
            // A signal; whoever handles it has written to a pipe that is watched too.
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
        for event in self.events.drain(..) {
            let flags = event.flags;
            let gone = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
            out.push(Ready {
                token: event.data.u64(),
                readable: gone || flags.contains(epoll::EventFlags::IN),
                writable: flags.contains(epoll::EventFlags::OUT),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::wake::Wake;

    #[test]
    fn a_bell_ends_the_wait_and_stays_until_cleared() {
        let mut poll = Epoll::new().unwrap();
        let bell = Wake::new().unwrap();
        poll.add(&bell, 7).unwrap();
        let mut ready = Vec::new();
        poll.wait(Some(Duration::ZERO), &mut ready).unwrap();
        assert!(ready.is_empty());
        bell.clone().ring();
        for _ in 0..2 {
            poll.wait(None, &mut ready).unwrap();
            assert_eq!(ready, [Ready { token: 7, readable: true, writable: false }]);
        }
        bell.clear();
        poll.wait(Some(Duration::ZERO), &mut ready).unwrap();
        assert!(ready.is_empty());
    }

    #[test]
    fn a_short_wait_is_short() {
        let mut poll = Epoll::new().unwrap();
        let began = std::time::Instant::now();
        for _ in 0..20 {
            poll.wait(Some(Duration::from_micros(200)), &mut Vec::new()).unwrap();
        }
        // Rounded up to milliseconds it would be 20 ms and more.
        assert!(began.elapsed() >= Duration::from_millis(4));
        assert!(began.elapsed() < Duration::from_secs(2), "no wait lost its timeout");
    }
}
