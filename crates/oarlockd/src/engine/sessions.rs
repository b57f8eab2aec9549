//! The sockets of programs: bytes in, bytes out, bounds. What the bytes mean is the node's affair.

mod written;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use oarlock_layout::code::Code;
use oarlock_layout::codec::Wire;
use oarlock_layout::id::SessionId;
use oarlock_layout::limit::SESSION_PACKET_BYTES_MAX;
use oarlock_layout::message::session::{self, Failure, Reply};
use oarlock_shm::LeaseNote;
use rustix::net::Shutdown;

pub(super) use self::written::Written;
use super::segments::Segment;
use crate::host::door::{self, Door, Received};
use crate::host::poll::Poll;

/// Replies kept for a program that does not read. A program with thousands of locks may be slow for a moment;
/// one that has a megabyte unread is stuck.
const UNREAD_BYTES_MAX: usize = 1 << 20;
/// The same for answers to questions of people, which are few and large.
const UNREAD_ANSWER_BYTES_MAX: usize = 256 << 20;
/// Added to a session's token: stands for the process that opened it.
const OPENERS: u64 = 1 << 40;
/// Packets of one session in one turn, so that a chatterer does not keep the others waiting.
const PACKETS_PER_TURN: usize = 64;

/// How a socket is after something was done with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flow {
    /// Fine.
    Open,
    /// Over: hang up.
    Broken,
}

/// What was counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Counts {
    pub(super) opened: u64,
    pub(super) overflowed: u64,
    pub(super) without_descriptor: u64,
    pub(super) hints_dropped: u64,
}

struct Session {
    fd: OwnedFd,
    /// The process that opened it (M12), while it lives and is watched.
    opener: Option<OwnedFd>,
    /// That process has certainly ended.
    opener_gone: bool,
    /// It has a place in a segment, and has not said that it touches none any more.
    attached: bool,
    /// Packets that the socket had no room for.
    unread: VecDeque<Packet>,
    /// Bytes of these, by kind.
    reply_bytes: usize,
    answer_bytes: usize,
    questions: u32,
    /// What is to happen once everything is written.
    then: Then,
}

/// A packet for a program.
struct Packet {
    kind: Kind,
    bytes: Vec<u8>,
    /// Whose descriptor goes with it.
    with: Option<With>,
}

/// What programs get descriptors of.
enum With {
    Segment(Arc<Segment>),
    Lease(Arc<LeaseNote>),
}

impl AsFd for With {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            With::Segment(segment) => segment.fd.as_fd(),
            With::Lease(lease) => lease.as_fd(),
        }
    }
}

impl Packet {
    fn send(&self, fd: &OwnedFd) -> io::Result<bool> {
        match &self.with {
            Some(with) => door::send_with(fd, &self.bytes, with.as_fd()),
            None => door::send(fd, &self.bytes),
        }
    }
}

/// What a packet is; each kind has its own bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
enum Kind {
    Reply,
    Answer,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
enum Then {
    Stay,
    /// Close it.
    Close,
    /// Say that nothing more comes, and wait for the program to hang up.
    Linger,
}

impl Session {
    /// How many bytes of a kind are unread, and how many may be.
    fn room(&mut self, kind: Kind) -> (&mut usize, usize) {
        match kind {
            Kind::Reply => (&mut self.reply_bytes, UNREAD_BYTES_MAX),
            Kind::Answer => (&mut self.answer_bytes, UNREAD_ANSWER_BYTES_MAX),
        }
    }
}

/// All sessions of a node.
pub(super) struct Sessions {
    first_token: u64,
    next: u32,
    sessions: BTreeMap<SessionId, Session>,
    /// Processes whose sessions are closed and had places in segments: until such a process has ended, a store that it
    /// prepared may still come there. No more than there are places.
    zombies: BTreeMap<SessionId, OwnedFd>,
    /// Closed sessions whose processes have ended, until [`ended`](Sessions::ended) tells of them.
    ended: Vec<SessionId>,
    buffer: Vec<u8>,
    /// A descriptor kept in reserve, so that there is one left to say "no more descriptors" with.
    spare: Option<File>,
    counts: Counts,
}

impl Sessions {
    /// None yet. Tokens of the poll begin at `first_token`.
    pub(super) fn new(first_token: u64) -> io::Result<Sessions> {
        Ok(Sessions {
            first_token,
            next: 1,
            sessions: BTreeMap::new(),
            zombies: BTreeMap::new(),
            ended: Vec::new(),
            buffer: vec![0; SESSION_PACKET_BYTES_MAX],
            spare: Some(File::open("/dev/null")?),
            counts: Counts::default(),
        })
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    fn token(&self, session: SessionId) -> u64 {
        self.first_token + u64::from(session.0)
    }

    fn numbered(&self, token: u64) -> Option<SessionId> {
        Some(SessionId(u32::try_from(token.checked_sub(self.first_token)?).ok()?))
    }

    /// The session whose opener a token stands for, if one of the two is still there.
    pub(super) fn by_opener(&self, token: u64) -> Option<SessionId> {
        self.numbered(token.checked_sub(OPENERS)?).filter(|id| self.in_use(*id))
    }

    /// The session a token belongs to, if it is still there.
    pub(super) fn by_token(&self, token: u64) -> Option<SessionId> {
        self.numbered(token).filter(|id| self.sessions.contains_key(id))
    }

    fn in_use(&self, id: SessionId) -> bool {
        self.sessions.contains_key(&id) || self.zombies.contains_key(&id)
    }

    /// A program came in. Its number is nobody else's: a late packet must not reach another's locks.
    pub(super) fn open(
        &mut self,
        poll: &mut dyn Poll,
        fd: OwnedFd,
        opener: Option<OwnedFd>,
        opener_gone: bool,
    ) -> io::Result<SessionId> {
        // After four thousand million sessions numbers begin again, and pass over those that still live.
        while self.next == 0 || self.in_use(SessionId(self.next)) {
            self.next = self.next.wrapping_add(1);
        }
        let id = SessionId(self.next);
        let mut watched = poll.add(&fd, self.token(id));
        if let (Ok(()), Some(opener)) = (&watched, &opener) {
            watched = poll.add(opener, OPENERS + self.token(id));
        }
        if let Err(e) = watched {
            shut(&fd);
            return Err(e);
        }
        self.next = self.next.wrapping_add(1);
        self.counts.opened += 1;
        let session = Session {
            fd,
            opener,
            opener_gone,
            attached: false,
            unread: VecDeque::new(),
            reply_bytes: 0,
            answer_bytes: 0,
            questions: 0,
            then: Then::Stay,
        };
        self.sessions.insert(id, session);
        Ok(id)
    }

    /// Takes what a program has sent.
    pub(super) fn receive(&mut self, id: SessionId, mut each: impl FnMut(&[u8])) -> Flow {
        let Some(session) = self.sessions.get(&id) else { return Flow::Open };
        for _ in 0..PACKETS_PER_TURN {
            match door::receive(&session.fd, &mut self.buffer) {
                // A session on its way out is only listened to for its end.
                Ok(Received::Packet(_)) if session.then != Then::Stay => {}
                Ok(Received::Packet(n)) => each(&self.buffer[..n]),
                Ok(Received::Nothing) => return Flow::Open,
                Ok(Received::End) | Err(_) => return Flow::Broken,
            }
        }
        Flow::Open
    }

    /// Sends a reply, or keeps it until there is room.
    pub(super) fn send(&mut self, poll: &mut dyn Poll, id: SessionId, packet: Vec<u8>) -> Flow {
        self.push(poll, id, Packet { kind: Kind::Reply, bytes: packet, with: None })
    }

    /// Sends the descriptor of a segment, in its place among the replies.
    pub(super) fn send_segment(
        &mut self,
        poll: &mut dyn Poll,
        id: SessionId,
        packet: Vec<u8>,
        segment: Arc<Segment>,
    ) -> Flow {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.attached = true;
        }
        self.push(poll, id, Packet { kind: Kind::Reply, bytes: packet, with: Some(With::Segment(segment)) })
    }

    /// Sends a welcome, with the descriptor of the note that says until when the lease lasts.
    pub(super) fn send_lease(
        &mut self,
        poll: &mut dyn Poll,
        id: SessionId,
        packet: Vec<u8>,
        lease: Arc<LeaseNote>,
    ) -> Flow {
        self.push(poll, id, Packet { kind: Kind::Reply, bytes: packet, with: Some(With::Lease(lease)) })
    }

    /// Sends what the program can do without, if there is room for it at once.
    pub(super) fn send_hint(&mut self, id: SessionId, packet: &[u8]) {
        let Some(session) = self.sessions.get(&id).filter(|session| session.then == Then::Stay) else {
            return;
        };
        // If it fails the program is gone, which the poll reports.
        if !session.unread.is_empty() || matches!(door::send(&session.fd, packet), Ok(false)) {
            self.counts.hints_dropped += 1;
        }
    }

    /// Sends the pieces of an answer.
    pub(super) fn send_answer(&mut self, poll: &mut dyn Poll, id: SessionId, packets: Vec<Vec<u8>>) -> Flow {
        for bytes in packets {
            if self.push(poll, id, Packet { kind: Kind::Answer, bytes, with: None }) == Flow::Broken {
                return Flow::Broken;
            }
        }
        Flow::Open
    }

    fn push(&mut self, poll: &mut dyn Poll, id: SessionId, packet: Packet) -> Flow {
        let token = self.token(id);
        let Some(session) = self.sessions.get_mut(&id) else { return Flow::Open };
        if session.then != Then::Stay {
            // It has been told its last. That its socket takes nothing more would not mean that the program has
            // hung up, which is what a session that lingers is kept for.
            return Flow::Open;
        }
        if session.unread.is_empty() {
            match packet.send(&session.fd) {
                Ok(true) => return Flow::Open,
                Ok(false) => {
                    if poll.watch_writes(&session.fd, token, true).is_err() {
                        return Flow::Broken;
                    }
                }
                Err(_) => return Flow::Broken,
            }
        }
        let (bytes, max) = session.room(packet.kind);
        if *bytes + packet.bytes.len() > max {
            self.counts.overflowed += 1;
            return Flow::Broken;
        }
        *bytes += packet.bytes.len();
        session.unread.push_back(packet);
        Flow::Open
    }

    /// Writes what was kept, now that there is room.
    pub(super) fn flush(&mut self, poll: &mut dyn Poll, id: SessionId) -> Flow {
        let token = self.token(id);
        let Some(session) = self.sessions.get_mut(&id) else { return Flow::Open };
        while let Some(packet) = session.unread.front() {
            match packet.send(&session.fd) {
                Ok(true) => {
                    let (kind, length) = (packet.kind, packet.bytes.len());
                    *session.room(kind).0 -= length;
                    session.unread.pop_front();
                }
                Ok(false) => return Flow::Open,
                Err(_) => return Flow::Broken,
            }
        }
        if poll.watch_writes(&session.fd, token, false).is_err() {
            return Flow::Broken;
        }
        let then = session.then;
        self.end(poll, id, then);
        Flow::Open
    }

    /// Closes a session after everything was written. With `linger` the program must hang up first.
    pub(super) fn close(&mut self, poll: &mut dyn Poll, id: SessionId, linger: bool) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.then = if linger { Then::Linger } else { Then::Close };
        if session.unread.is_empty() {
            let then = session.then;
            self.end(poll, id, then);
        }
    }

    fn end(&mut self, poll: &mut dyn Poll, id: SessionId, then: Then) {
        match then {
            Then::Stay => {}
            Then::Close => self.forget(poll, id),
            Then::Linger => {
                if let Some(session) = self.sessions.get(&id) {
                    // If it fails the program is gone, which the poll reports.
                    let _ = rustix::net::shutdown(&session.fd, Shutdown::Write);
                }
            }
        }
    }

    /// Forgets a session and closes its socket.
    pub(super) fn forget(&mut self, poll: &mut dyn Poll, id: SessionId) {
        let Some(session) = self.sessions.remove(&id) else { return };
        let _ = poll.remove(&session.fd);
        shut(&session.fd);
        match session.opener {
            Some(opener) if session.attached => {
                self.zombies.insert(id, opener);
            }
            Some(opener) => {
                let _ = poll.remove(&opener);
            }
            None if session.attached && session.opener_gone => self.ended.push(id),
            None => {}
        }
    }

    /// The program of a session touches no segment any more, whatever becomes of its process.
    pub(super) fn detached(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.attached = false;
        }
    }

    /// The process that opened a session has ended; it needs not be watched any more.
    pub(super) fn opener_ended(&mut self, poll: &mut dyn Poll, id: SessionId) {
        let opener = match self.sessions.get_mut(&id) {
            Some(session) => {
                session.opener_gone = true;
                session.opener.take()
            }
            None => self.zombies.remove(&id).inspect(|_| self.ended.push(id)),
        };
        if let Some(opener) = opener {
            let _ = poll.remove(&opener);
        }
    }

    /// Closed sessions whose processes have certainly ended: what they had in segments may be given to others. Each is
    /// told once.
    pub(super) fn ended(&mut self) -> Vec<SessionId> {
        std::mem::take(&mut self.ended)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Is it still there?
    pub(super) fn lives(&self, id: SessionId) -> bool {
        self.sessions.contains_key(&id)
    }

    /// May it ask one more question? Not while many wait for an answer, nor while it does not read those it got.
    pub(super) fn may_ask(&mut self, id: SessionId, max: u32) -> bool {
        match self.sessions.get_mut(&id) {
            Some(session) if session.questions < max && session.answer_bytes < UNREAD_BYTES_MAX => {
                session.questions += 1;
                true
            }
            _ => false,
        }
    }

    /// One of its questions is answered.
    pub(super) fn answered(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.questions = session.questions.saturating_sub(1);
        }
    }

    /// Tells a program that there is no descriptor for it.
    pub(super) fn refuse_one_too_many(&mut self, fd: &OwnedFd) {
        let attached = self.sessions.len();
        let text = format!("the node has no descriptor left for another program; {attached} are attached");
        refuse(fd, Code::OutOfDescriptors, text);
        self.counts.without_descriptor += 1;
    }

    /// Does something that needs a descriptor and must not fail for want of one.
    pub(super) fn with_spare<T>(&mut self, work: impl FnOnce() -> T) -> T {
        self.spare = None;
        let result = work();
        self.spare = File::open("/dev/null").ok();
        result
    }

    /// After an accept that failed: if descriptors have run out, lets one caller in with the spare one, only
    /// to tell it so. `false` if that cannot be done.
    pub(super) fn refuse_for_want_of_descriptors(&mut self, door: &Door, error: &io::Error) -> bool {
        let number = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
        if !matches!(number, Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE)) {
            return false;
        }
        let Some(spare) = self.spare.take() else {
            self.spare = File::open("/dev/null").ok();
            return false;
        };
        drop(spare);
        let told = match door.accept() {
            Ok(Some((fd, _))) => {
                self.refuse_one_too_many(&fd);
                true
            }
            // It left before we could speak to it.
            Ok(None) => true,
            Err(_) => false,
        };
        self.spare = File::open("/dev/null").ok();
        told
    }
}

/// Ends a conversation for the program. Closing is not enough: the keeper has the socket too.
pub(super) fn shut(fd: &OwnedFd) {
    // The only failure is that the program has hung up.
    let _ = rustix::net::shutdown(fd, Shutdown::Both);
}

/// Says why nothing more will be said.
pub(super) fn refuse(fd: &OwnedFd, code: Code, text: String) {
    let reply = Reply::Refused { version: session::VERSION, why: Failure { code, text } };
    let _ = door::send(fd, &reply.to_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::poll::Epoll;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
    }

    fn drain(fd: &OwnedFd) -> (Vec<Vec<u8>>, bool) {
        let mut got = Vec::new();
        let mut buffer = vec![0; SESSION_PACKET_BYTES_MAX];
        loop {
            match door::receive(fd, &mut buffer).unwrap() {
                Received::Packet(n) => got.push(buffer[..n].to_vec()),
                Received::Nothing => return (got, false),
                Received::End => return (got, true),
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_kept_in_order_and_written_later() {
        let mut poll = Epoll::new().unwrap();
        let mut sessions = Sessions::new(16).unwrap();
        let (ours, theirs) = pair();
        let id = sessions.open(&mut poll, ours, None, false).unwrap();
        assert_eq!(sessions.by_token(17), Some(id));
        let packet = |n: u32| [n.to_le_bytes().to_vec(), vec![0; 4000]].concat();
        for n in 0..200 {
            assert_eq!(sessions.send(&mut poll, id, packet(n)), Flow::Open);
        }
        sessions.close(&mut poll, id, false);
        let mut got = Vec::new();
        let mut end = false;
        while !end {
            let (some, over) = drain(&theirs);
            got.extend(some);
            end = over;
            let mut ready = Vec::new();
            poll.wait(Some(std::time::Duration::from_millis(100)), &mut ready).unwrap();
            if ready.iter().any(|r| r.writable) {
                assert_eq!(sessions.flush(&mut poll, id), Flow::Open);
            }
        }
        let expected: Vec<_> = (0..200).map(packet).collect();
        assert!(got == expected, "{} packets", got.len());
        assert_eq!(sessions.by_token(17), None, "closed behind the last packet");
    }

    #[test]
    fn a_program_that_never_reads_is_given_up() {
        let mut poll = Epoll::new().unwrap();
        let mut sessions = Sessions::new(16).unwrap();
        let (ours, _theirs) = pair();
        let id = sessions.open(&mut poll, ours, None, false).unwrap();
        let mut sent = 0;
        while sessions.send(&mut poll, id, vec![0; 32 << 10]) == Flow::Open {
            sent += 32 << 10;
            assert!(sent < 4 * UNREAD_BYTES_MAX, "no bound");
        }
        assert!(sent >= UNREAD_BYTES_MAX);
        assert_eq!(sessions.counts().overflowed, 1);
    }

    #[test]
    fn a_large_answer_has_a_bound_of_its_own() {
        let mut poll = Epoll::new().unwrap();
        let mut sessions = Sessions::new(16).unwrap();
        let (ours, theirs) = pair();
        let id = sessions.open(&mut poll, ours, None, false).unwrap();
        let pieces = vec![vec![7; 60 << 10]; 64];
        assert_eq!(sessions.send_answer(&mut poll, id, pieces), Flow::Open);
        // Grants go on being counted by themselves while the answer is unread.
        assert_eq!(sessions.send(&mut poll, id, vec![1; 100]), Flow::Open);
        let mut bytes = 0;
        for _ in 0..1000 {
            bytes += drain(&theirs).0.iter().map(Vec::len).sum::<usize>();
            sessions.flush(&mut poll, id);
        }
        assert_eq!(bytes, 64 * (60 << 10) + 100);
    }

    #[test]
    fn lingering_ends_with_the_programs_hang_up() {
        let mut poll = Epoll::new().unwrap();
        let mut sessions = Sessions::new(16).unwrap();
        let (ours, theirs) = pair();
        let id = sessions.open(&mut poll, ours, None, false).unwrap();
        sessions.send(&mut poll, id, vec![1]);
        sessions.close(&mut poll, id, true);
        assert_eq!(drain(&theirs), (vec![vec![1]], true));
        door::send(&theirs, b"late").unwrap();
        assert_eq!(sessions.receive(id, |_| panic!("nothing is taken any more")), Flow::Open);
        drop(theirs);
        assert_eq!(sessions.receive(id, |_| ()), Flow::Broken);
    }

    /// What cannot be sent any more must not be taken for the program's hang-up: that the run is given up rests on that.
    #[test]
    fn an_answer_that_comes_too_late_does_not_end_the_wait_for_a_hang_up() {
        let mut poll = Epoll::new().unwrap();
        let mut sessions = Sessions::new(16).unwrap();
        let (ours, theirs) = pair();
        let id = sessions.open(&mut poll, ours, None, false).unwrap();
        assert!(sessions.may_ask(id, 8));
        sessions.close(&mut poll, id, true);
        assert_eq!(sessions.send_answer(&mut poll, id, vec![vec![1]]), Flow::Open);
        drop(theirs);
        assert_eq!(sessions.receive(id, |_| ()), Flow::Broken);
    }

    /// Each answer is given before the next question comes, so that none of them waits for an answer.
    #[test]
    fn who_asks_and_does_not_read_may_not_go_on_asking() {
        let mut poll = Epoll::new().unwrap();
        let mut sessions = Sessions::new(16).unwrap();
        let (ours, theirs) = pair();
        let id = sessions.open(&mut poll, ours, None, false).unwrap();
        let mut bytes = 0;
        while sessions.may_ask(id, 8) {
            sessions.answered(id);
            assert_eq!(sessions.send_answer(&mut poll, id, vec![vec![7; 10 << 10]]), Flow::Open);
            bytes += 10 << 10;
            assert!(bytes < 8 * UNREAD_BYTES_MAX, "no bound");
        }
        for _ in 0..1000 {
            drain(&theirs);
            sessions.flush(&mut poll, id);
        }
        assert!(sessions.may_ask(id, 8), "all is read");
    }

    fn segment() -> Arc<Segment> {
        let geometry = oarlock_layout::segment::Geometry { slots: 8, areas: 2, entries: 64 };
        let (memory, fd) = oarlock_shm::Memory::create("test", geometry, 1).unwrap();
        Arc::new(Segment { memory, fd })
    }

    fn receive_with(fd: &OwnedFd, buffer: &mut [u8]) -> Option<(usize, Vec<OwnedFd>)> {
        use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [io::IoSliceMut::new(buffer)];
        let n = match recvmsg(fd, &mut into, &mut control, RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => message.bytes,
            Err(rustix::io::Errno::AGAIN) => return None,
            Err(e) => panic!("{e}"),
        };
        let rights = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        Some((n, rights.flatten().collect()))
    }

    #[test]
    fn a_descriptor_waits_for_its_turn_with_its_packet() {
        let mut poll = Epoll::new().unwrap();
        let mut sessions = Sessions::new(16).unwrap();
        let (ours, theirs) = pair();
        let id = sessions.open(&mut poll, ours, None, false).unwrap();
        let segment = segment();
        let packet = |n: u32| [n.to_le_bytes().to_vec(), vec![0; 4000]].concat();
        for n in 0..200 {
            let flow = match n % 99 {
                1 => sessions.send_segment(&mut poll, id, packet(n), Arc::clone(&segment)),
                _ => sessions.send(&mut poll, id, packet(n)),
            };
            assert_eq!(flow, Flow::Open);
        }
        assert!(sessions.sessions[&id].unread.iter().any(|packet| packet.with.is_some()), "one is kept");
        let mut buffer = vec![0; SESSION_PACKET_BYTES_MAX];
        for n in 0..200u32 {
            let (length, fds) = match receive_with(&theirs, &mut buffer) {
                Some(got) => got,
                None => {
                    assert_eq!(sessions.flush(&mut poll, id), Flow::Open);
                    receive_with(&theirs, &mut buffer).expect("there is more")
                }
            };
            assert!(buffer[..length] == packet(n), "packet {n}");
            assert_eq!(fds.len(), usize::from(n % 99 == 1), "packet {n}");
            for fd in fds {
                let theirs = oarlock_shm::Memory::open(fd).unwrap();
                segment.memory.scribble(theirs.geometry().slot(3), u64::from(n));
                assert_eq!(theirs.peek(theirs.geometry().slot(3)), u64::from(n));
            }
        }
    }

    #[test]
    fn a_hint_never_waits_and_never_ends_a_session() {
        let mut poll = Epoll::new().unwrap();
        let mut sessions = Sessions::new(16).unwrap();
        let (ours, theirs) = pair();
        let id = sessions.open(&mut poll, ours, None, false).unwrap();
        let mut sent = 0;
        while sessions.counts().hints_dropped < 1000 {
            sessions.send_hint(id, &[7; 1000]);
            sent += 1;
            assert!(sent < 1 << 20, "no bound");
        }
        assert_eq!(drain(&theirs).0.len(), sent - 1000, "those that had room");
        // Behind replies that wait there is no room either, or a hint would pass them.
        let fits = sessions.counts().hints_dropped;
        while sessions.sessions[&id].unread.is_empty() {
            assert_eq!(sessions.send(&mut poll, id, vec![1; 1000]), Flow::Open);
        }
        drain(&theirs);
        sessions.send_hint(id, &[7]);
        assert_eq!(sessions.counts().hints_dropped, fits + 1);
        assert_eq!(sessions.flush(&mut poll, id), Flow::Open);
        sessions.send_hint(id, &[7]);
        assert_eq!(drain(&theirs).0.last(), Some(&vec![7]));
        assert_eq!(sessions.counts().hints_dropped, fits + 1);
    }

    /// A store that a process has prepared may come as long as the process is there, whatever became of its session.
    #[test]
    fn what_a_session_had_in_segments_is_free_once_its_process_has_ended() {
        let mut poll = Epoll::new().unwrap();
        let mut sessions = Sessions::new(16).unwrap();
        let mut ready = Vec::new();
        let segment = segment();
        let mut process = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut theirs = Vec::new();
        let mut open = |sessions: &mut Sessions, poll: &mut Epoll, opener: bool, gone: bool| {
            let (ours, other) = pair();
            theirs.push(other);
            let opener = opener.then(|| crate::host::child::watch(process.id()).unwrap());
            sessions.open(poll, ours, opener, gone).unwrap()
        };
        let attached = open(&mut sessions, &mut poll, true, false);
        let detached = open(&mut sessions, &mut poll, true, false);
        let plain = open(&mut sessions, &mut poll, true, false);
        let open_still = open(&mut sessions, &mut poll, true, false);
        let gone = open(&mut sessions, &mut poll, false, true);
        let unseen = open(&mut sessions, &mut poll, false, false);
        for id in [attached, detached, open_still, gone, unseen] {
            assert_eq!(sessions.send_segment(&mut poll, id, vec![1], Arc::clone(&segment)), Flow::Open);
        }
        sessions.detached(detached);
        for id in [attached, detached, plain, gone, unseen] {
            sessions.forget(&mut poll, id);
        }
        assert_eq!(sessions.ended(), [gone]);
        poll.wait(Some(std::time::Duration::ZERO), &mut ready).unwrap();
        assert_eq!(ready, []);
        sessions.next = attached.0;
        assert!(open(&mut sessions, &mut poll, false, false) > attached, "its number is in use");
        process.kill().unwrap();
        let mut seen = Vec::new();
        while seen.len() < 2 {
            poll.wait(None, &mut ready).unwrap();
            for token in ready.iter().map(|r| r.token) {
                let id = sessions.by_opener(token).expect("an opener");
                sessions.opener_ended(&mut poll, id);
                seen.push(id);
            }
        }
        seen.sort();
        assert_eq!((seen, sessions.ended()), (vec![attached, open_still], vec![attached]));
        sessions.forget(&mut poll, open_still);
        assert_eq!((sessions.ended(), sessions.ended()), (vec![open_still], vec![]));
        poll.wait(Some(std::time::Duration::ZERO), &mut ready).unwrap();
        assert_eq!(ready, [], "told once");
        process.wait().unwrap();
    }

    #[test]
    fn an_opener_has_a_token_of_its_own_until_it_ends() {
        let mut poll = Epoll::new().unwrap();
        let mut sessions = Sessions::new(16).unwrap();
        let (ours, _theirs) = pair();
        let mut process = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let opener = crate::host::child::watch(process.id()).unwrap();
        let id = sessions.open(&mut poll, ours, Some(opener), false).unwrap();
        let mut ready = Vec::new();
        poll.wait(Some(std::time::Duration::ZERO), &mut ready).unwrap();
        assert_eq!(ready, []);
        process.kill().unwrap();
        poll.wait(None, &mut ready).unwrap();
        let token = ready[0].token;
        assert_eq!((sessions.by_opener(token), sessions.by_token(token)), (Some(id), None));
        assert_eq!(sessions.by_opener(17), None);
        sessions.opener_ended(&mut poll, id);
        poll.wait(Some(std::time::Duration::ZERO), &mut ready).unwrap();
        assert_eq!(ready, [], "told once");
        assert!(sessions.lives(id));
        process.wait().unwrap();
    }

    #[test]
    fn numbers_begin_again_and_pass_over_the_living() {
        let mut poll = Epoll::new().unwrap();
        let mut sessions = Sessions::new(16).unwrap();
        let mut theirs = Vec::new();
        let mut open = |sessions: &mut Sessions| {
            let (ours, other) = pair();
            theirs.push(other);
            sessions.open(&mut poll, ours, None, false).unwrap().0
        };
        assert_eq!((open(&mut sessions), open(&mut sessions)), (1, 2));
        sessions.next = u32::MAX;
        assert_eq!((open(&mut sessions), open(&mut sessions)), (u32::MAX, 3));
    }

    #[test]
    fn questions_are_counted() {
        let mut poll = Epoll::new().unwrap();
        let mut sessions = Sessions::new(16).unwrap();
        let id = sessions.open(&mut poll, pair().0, None, false).unwrap();
        assert!(sessions.may_ask(id, 2) && sessions.may_ask(id, 2) && !sessions.may_ask(id, 2));
        sessions.answered(id);
        assert!(sessions.may_ask(id, 2));
    }
}
