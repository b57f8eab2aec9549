//! The Unix socket to the daemon: SOCK_SEQPACKET, one message a packet, nothing of it inherited by an exec.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use oarlock_layout::code::Code;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::sockopt::Timeout;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, Shutdown, SocketAddrUnix,
    SocketFlags, SocketType, sockopt,
};

use crate::error::{Error, Result};

/// A connected socket.
pub(crate) struct Socket {
    fd: OwnedFd,
    /// Descriptors that came with packets and were not fetched yet. Few ever come.
    descriptors: Mutex<VecDeque<OwnedFd>>,
}

/// What a look at the socket found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Received {
    /// A packet of this many bytes lies in the buffer.
    Packet(usize),
    /// A packet that is longer than the buffer; its rest is gone.
    TooLong(usize),
    /// Nothing came in time.
    Nothing,
    /// The daemon hung up.
    HungUp,
}

/// How long to wait for a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Patience {
    None,
    Until(Instant),
    Endless,
}

impl Socket {
    /// Connects; a daemon whose queue of newcomers stays full for `patience` counts as absent.
    pub(crate) fn connect(path: &Path, patience: Duration) -> Result<Socket> {
        let what = || format!("cannot connect to {}", path.display());
        let address = SocketAddrUnix::new(path).map_err(|errno| match errno {
            Errno::NAMETOOLONG => Error::new(
                Code::SocketPathTooLong,
                what(),
                format!("the path has {} bytes, a Unix socket path at most 107", path.as_os_str().len()),
            ),
            errno => Error::new(Code::Usage, what(), errno.to_string()),
        })?;
        let fd =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|errno| Error::new(out_of(errno), "cannot make a socket", errno.to_string()))?;
        // The send timeout is also that of connect. It goes again: a send waits as long as it takes.
        let timeout = |t| sockopt::set_socket_timeout(&fd, Timeout::Send, t);
        let connected = timeout(Some(patience)).and_then(|()| rustix::net::connect(&fd, &address));
        connected.and_then(|()| timeout(None)).map_err(|errno| match errno {
            Errno::NOENT => Error::new(Code::NoDaemon, what(), "there is no such socket"),
            Errno::CONNREFUSED => Error::new(Code::NoDaemon, what(), "no daemon listens there"),
            Errno::AGAIN => Error::new(Code::NoDaemon, what(), "the daemon does not take up the connection"),
            Errno::ACCESS | Errno::PERM => Error::new(Code::SocketDenied, what(), errno.to_string()),
            Errno::PROTOTYPE => {
                Error::new(Code::NoDaemon, what(), "the socket belongs to a program of another kind")
            }
            errno => Error::new(Code::NoDaemon, what(), errno.to_string()),
        })?;
        Ok(Socket { fd, descriptors: Mutex::default() })
    }

    /// Sends if the daemon has room for it; false if not.
    pub(crate) fn try_send(&self, packet: &[u8]) -> Result<bool, Errno> {
        match retry(|| rustix::net::send(&self.fd, packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Sends, and waits for room as long as it takes or until the socket is shut down.
    pub(crate) fn send(&self, packet: &[u8]) -> Result<(), Errno> {
        retry(|| rustix::net::send(&self.fd, packet, SendFlags::NOSIGNAL)).map(|_| ())
    }

    /// Receives a packet into `buffer`.
    pub(crate) fn receive(&self, buffer: &mut [u8], patience: Patience) -> Result<Received, Errno> {
        let mut reset = false;
        loop {
            let flags = match patience {
                Patience::Endless => RecvFlags::TRUNC,
                _ => RecvFlags::TRUNC | RecvFlags::DONTWAIT,
            };
            match retry(|| self.receive_once(&mut *buffer, flags)) {
                Ok(0) => return Ok(Received::HungUp),
                Ok(length) if length > buffer.len() => return Ok(Received::TooLong(length)),
                Ok(length) => return Ok(Received::Packet(length)),
                Err(Errno::AGAIN) => match patience {
                    Patience::Until(until) => {
                        if !self.wait_readable(until)? {
                            return Ok(Received::Nothing);
                        }
                    }
                    _ => return Ok(Received::Nothing),
                },
                // The daemon went with packets of ours unread. Its own last packets, which say why, stand
                // behind this error in the queue.
                Err(Errno::CONNRESET) if !reset => reset = true,
                Err(Errno::CONNRESET | Errno::NOTCONN) => return Ok(Received::HungUp),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// The length of a packet, which may be more than fits; descriptors that come along are put aside.
    fn receive_once(&self, buffer: &mut [u8], flags: RecvFlags) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let parts = &mut [IoSliceMut::new(buffer)];
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        let length = rustix::net::recvmsg(&self.fd, parts, &mut control, flags)?.bytes;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors().extend(descriptors);
            }
        }
        Ok(length)
    }

    fn descriptors(&self) -> MutexGuard<'_, VecDeque<OwnedFd>> {
        self.descriptors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first descriptor that came with a packet and was not fetched.
    pub(crate) fn take_descriptor(&self) -> Option<OwnedFd> {
        self.descriptors().pop_front()
    }

    /// Waits until there is something to receive; false when the time is up.
    fn wait_readable(&self, until: Instant) -> Result<bool, Errno> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match rustix::event::poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => {}
                Ok(_) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Nothing more is sent. What the daemon says until it hangs up can be received.
    pub(crate) fn finish(&self) {
        // As below.
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Write);
    }

    /// Ends the conversation in both directions. What was sent stays readable for the daemon.
    pub(crate) fn shut_down(&self) {
        // The only failure is that it is not connected any more.
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Both);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

fn out_of(errno: Errno) -> Code {
    match errno {
        Errno::MFILE | Errno::NFILE => Code::OutOfDescriptors,
        _ => Code::Failed,
    }
}
