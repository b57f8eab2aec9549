//! Sessions in writing, for the engine that goes on with them (L5): sockets by number, and what their programs have not read yet.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use oarlock_layout::id::SessionId;
use oarlock_shm::LeaseNote;
use serde::{Deserialize, Serialize};

use super::{Counts, Kind, OPENERS, Packet, Session, Sessions, Then, With};
use crate::engine::parcel::Bytes;
use crate::engine::segments::Segment;
use crate::host::exec;
use crate::host::poll::Poll;

/// All of them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::engine) struct Written {
    next: u32,
    sessions: Vec<One>,
    zombies: Vec<(SessionId, RawFd)>,
    ended: Vec<SessionId>,
    counts: Counts,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct One {
    id: SessionId,
    fd: RawFd,
    opener: Option<RawFd>,
    opener_gone: bool,
    attached: bool,
    unread: Vec<Unread>,
    then: Then,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unread {
    kind: Kind,
    bytes: Bytes,
    with: Option<Whose>,
}

/// Whose descriptor goes with a packet.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Whose {
    /// By lockspace.
    Segment(u16),
    Lease,
}

impl Written {
    /// Every descriptor in it.
    pub(in crate::engine) fn numbers(&self) -> impl Iterator<Item = RawFd> + '_ {
        let sessions = self.sessions.iter().flat_map(|it| std::iter::once(it.fd).chain(it.opener));
        sessions.chain(self.zombies.iter().map(|(_, fd)| *fd))
    }
}

impl Sessions {
    /// As they are now.
    pub(in crate::engine) fn written(&self, segments: &[Option<Arc<Segment>>]) -> Written {
        let whose = |with: &With| match with {
            With::Lease(_) => Whose::Lease,
            With::Segment(segment) => {
                let is = |it: &Option<Arc<Segment>>| it.as_ref().is_some_and(|it| Arc::ptr_eq(it, segment));
                let space = segments.iter().position(is).expect("it is a lockspace's");
                Whose::Segment(space as u16)
            }
        };
        let unread = |it: &Packet| Unread {
            kind: it.kind,
            bytes: Bytes(it.bytes.clone()),
            with: it.with.as_ref().map(whose),
        };
        let one = |(id, it): (&SessionId, &Session)| One {
            id: *id,
            fd: exec::number(it.fd.as_fd()),
            opener: it.opener.as_ref().map(|fd| exec::number(fd.as_fd())),
            opener_gone: it.opener_gone,
            attached: it.attached,
            unread: it.unread.iter().map(unread).collect(),
            then: it.then,
        };
        Written {
            next: self.next,
            sessions: self.sessions.iter().map(one).collect(),
            zombies: self.zombies.iter().map(|(id, fd)| (*id, exec::number(fd.as_fd()))).collect(),
            ended: self.ended.clone(),
            counts: self.counts,
        }
    }

    /// What passes into the next program.
    pub(in crate::engine) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let sockets = self.sessions.values().map(|it| it.fd.as_fd());
        let openers = self.sessions.values().filter_map(|it| it.opener.as_ref().map(AsFd::as_fd));
        sockets.chain(openers).chain(self.zombies.values().map(AsFd::as_fd))
    }

    /// Goes on with what another program has written. Questions that wait for an answer are no affair of these any more.
    pub(in crate::engine) fn resume(
        &mut self,
        poll: &mut dyn Poll,
        written: Written,
        segments: &[Option<Arc<Segment>>],
        lease: &Arc<LeaseNote>,
    ) -> io::Result<()> {
        let nobodys = || io::Error::other("a packet goes with a segment that there is not");
        // All before anything else may open a descriptor.
        let take = |it: One| {
            let opener: Option<OwnedFd> = it.opener.map(exec::take).transpose()?;
            let mut session = Session {
                fd: exec::take(it.fd)?,
                opener,
                opener_gone: it.opener_gone,
                attached: it.attached,
                unread: Default::default(),
                reply_bytes: 0,
                answer_bytes: 0,
                questions: 0,
                then: it.then,
            };
            for Unread { kind, bytes: Bytes(bytes), with } in it.unread {
                let with = match with {
                    None => None,
                    Some(Whose::Lease) => Some(With::Lease(Arc::clone(lease))),
                    Some(Whose::Segment(space)) => {
                        let segment = segments.get(usize::from(space)).and_then(Option::as_ref);
                        Some(With::Segment(Arc::clone(segment.ok_or_else(nobodys)?)))
                    }
                };
                *session.room(kind).0 += bytes.len();
                session.unread.push_back(Packet { kind, bytes, with });
            }
            Ok::<_, io::Error>((it.id, session))
        };
        self.sessions = written.sessions.into_iter().map(take).collect::<io::Result<_>>()?;
        let take = |(id, fd): (SessionId, RawFd)| Ok::<_, io::Error>((id, exec::take(fd)?));
        self.zombies = written.zombies.into_iter().map(take).collect::<io::Result<_>>()?;
        (self.next, self.ended, self.counts) = (written.next, written.ended, written.counts);
        for (id, session) in &self.sessions {
            poll.add(&session.fd, self.token(*id))?;
            if !session.unread.is_empty() {
                poll.watch_writes(&session.fd, self.token(*id), true)?;
            }
        }
        let openers = self.sessions.iter().filter_map(|(id, it)| Some((id, it.opener.as_ref()?)));
        for (id, opener) in openers.chain(&self.zombies) {
            poll.add(opener, OPENERS + self.token(*id))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sessions::Flow;
    use crate::host::door::{self, Received};
    use crate::host::pair;
    use crate::host::poll::Epoll;

    /// What a program has not read is read by it in its order, from whoever the engine is by then; and numbers are nobody else's.
    #[test]
    fn sessions_go_on_where_they_were() {
        let mut poll = Epoll::new().unwrap();
        let mut sessions = Sessions::new(16).unwrap();
        let (ours, theirs) = pair::pair().unwrap();
        rustix::io::ioctl_fionbio(&ours, true).unwrap();
        let id = sessions.open(&mut poll, ours, None, true).unwrap();
        let packet = |n: u32| [n.to_le_bytes().to_vec(), vec![0; 4000]].concat();
        for n in 0..200 {
            assert_eq!(sessions.send(&mut poll, id, packet(n)), Flow::Open);
        }
        let lease = Arc::new(LeaseNote::create().unwrap());
        assert_eq!(sessions.send_lease(&mut poll, id, packet(200), Arc::clone(&lease)), Flow::Open);
        let mut bytes = Vec::new();
        bytes = cbor4ii::serde::to_vec(bytes, &sessions.written(&[])).unwrap();
        // As it is when another program begins: the numbers live on, and nobody owns them.
        let numbers: Vec<RawFd> = sessions.written(&[]).numbers().collect();
        std::mem::forget(sessions);
        let written: Written = cbor4ii::serde::from_slice(&bytes).unwrap();
        assert_eq!(written.numbers().collect::<Vec<_>>(), numbers);
        let mut poll = Epoll::new().unwrap();
        let mut sessions = Sessions::new(16).unwrap();
        sessions.resume(&mut poll, written, &[], &lease).unwrap();
        let (mut got, mut buffer, mut with) = (0, vec![0; 1 << 16], None);
        while got <= 200 {
            match door::receive_with(&theirs, &mut buffer, &mut with).unwrap() {
                Received::Packet(n) => {
                    assert!(buffer[..n] == packet(got), "packet {got}");
                    assert_eq!(with.is_some(), got == 200);
                    got += 1;
                }
                Received::Nothing => assert_eq!(sessions.flush(&mut poll, id), Flow::Open),
                Received::End => panic!("it ends after {got}"),
            }
        }
        assert_eq!(sessions.open(&mut poll, pair::pair().unwrap().0, None, false).unwrap().0, id.0 + 1);
        sessions.sessions.get_mut(&id).unwrap().attached = true;
        sessions.forget(&mut poll, id);
        assert_eq!(sessions.ended(), [id], "its process is known to have ended");
    }
}
