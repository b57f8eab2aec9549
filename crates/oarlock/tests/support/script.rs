//! A daemon whose every word the test says itself: for races and for bytes no honest daemon sends.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oarlock::{Code, Fence, Mode, Token, Value};
use oarlock_layout::codec::Wire;
use oarlock_layout::id::{Epoch, SessionId};
use oarlock_layout::limit::SESSION_PACKET_BYTES_MAX;
use oarlock_layout::message::session::{
    ConvertRequest, Failure, Granted, LockRequest, Reply, Request, VERSION,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen,
    recv, send, socket_with,
};
use tempfile::TempDir;

/// Listens in a directory of its own.
pub struct Script {
    dir: TempDir,
    listener: OwnedFd,
}

/// A listening socket at `path`.
pub fn listener(path: &Path) -> OwnedFd {
    let fd = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    bind(&fd, &SocketAddrUnix::new(path).unwrap()).unwrap();
    listen(&fd, 64).unwrap();
    fd
}

impl Script {
    pub fn new() -> Script {
        let dir = tempfile::tempdir().unwrap();
        let listener = listener(&dir.path().join("oarlock.sock"));
        Script { dir, listener }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("oarlock.sock")
    }

    /// Takes up a connection and says nothing.
    pub fn accept(&self) -> Peer {
        Peer { fd: accept_with(&self.listener, SocketFlags::CLOEXEC).unwrap() }
    }

    /// Takes up a connection and welcomes it.
    pub fn welcome(&self) -> Peer {
        let peer = self.accept();
        assert!(matches!(peer.next(), Request::Hello { version: VERSION, .. }));
        peer.say(Reply::Welcome {
            version: VERSION,
            session: SessionId(7),
            node: "node-a".into(),
            cluster: "test".into(),
            epoch: Epoch(1),
            now: oarlock_layout::time::Instant(0),
        });
        peer
    }
}

/// The daemon's end of one session.
pub struct Peer {
    pub fd: OwnedFd,
}

impl Peer {
    fn readable(&self, ms: i64) -> bool {
        let timeout = Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
        poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&timeout)).unwrap() > 0
    }

    /// The next request; None when the program hung up. There is no segment here.
    pub fn try_next(&self) -> Option<Request> {
        loop {
            assert!(self.readable(5000), "the program sent nothing for 5 s");
            let mut buffer = vec![0; SESSION_PACKET_BYTES_MAX];
            let length = match recv(&self.fd, &mut buffer[..], RecvFlags::empty()) {
                Ok((_, length)) => length,
                // Told once, and before what still stands in the queue: the program hung up with a reply unread.
                Err(rustix::io::Errno::CONNRESET) => continue,
                Err(error) => panic!("{error}"),
            };
            match (length > 0).then(|| Request::from_bytes(&buffer[..length]).unwrap()) {
                Some(Request::Attach { request, .. }) => {
                    let why = Failure { code: Code::NoSegment, text: "none here".into() };
                    self.say(Reply::Denied { request, why });
                }
                // It had not heard yet that there is none.
                Some(Request::Detach) => {}
                other => return other,
            }
        }
    }

    pub fn next(&self) -> Request {
        self.try_next().expect("a request, not the end")
    }

    /// The next request must be for a lock.
    pub fn next_lock(&self) -> LockRequest {
        match self.next() {
            Request::Lock(request) => request,
            other => panic!("a lock request was expected, not {other:?}"),
        }
    }

    /// The next request must be a conversion.
    pub fn next_convert(&self) -> ConvertRequest {
        match self.next() {
            Request::Convert(request) => request,
            other => panic!("a conversion was expected, not {other:?}"),
        }
    }

    /// The program hung up, and said nothing before.
    pub fn next_is_end(&self) {
        assert_eq!(self.try_next(), None);
    }

    /// The program says nothing for a while.
    pub fn hears_nothing(&self, ms: i64) {
        assert!(!self.readable(ms), "{:?} was not expected", self.try_next());
    }

    pub fn say(&self, reply: Reply) {
        self.say_bytes(&reply.to_bytes());
    }

    /// A program that hung up does not hear it.
    pub fn say_bytes(&self, bytes: &[u8]) {
        match send(&self.fd, bytes, SendFlags::NOSIGNAL) {
            Ok(_) | Err(Errno::PIPE) => {}
            Err(errno) => panic!("{errno}"),
        }
    }

    pub fn grant(&self, handle: u32, mode: Mode) {
        self.grant_with(handle, mode, 1, None);
    }

    pub fn grant_with(&self, handle: u32, mode: Mode, serial: u64, value: Option<Value>) {
        let token = Token { fence: Fence::new(Epoch(1), serial), local: 0 };
        self.say(Reply::Granted(Granted { handle, mode, token, value, alternate: false }));
    }

    pub fn fail(&self, handle: u32, code: Code) {
        let why = Failure { code, text: "the test says so".into() };
        self.say(Reply::Failed { handle, why });
    }

    /// Takes up a lock request and grants it.
    pub fn next_lock_granted(&self) -> u32 {
        let request = self.next_lock();
        self.grant(request.handle, request.mode);
        request.handle
    }

    /// Takes up the unlock of this lock, with these bytes, and answers it.
    pub fn next_unlock(&self, handle: u32, value: Option<[u8; 64]>) {
        assert_eq!(self.next(), Request::Unlock { handle, value, invalidate: false });
        self.say(Reply::Released { handle });
    }
}
