//! What is in a keeper's care of one run, and how that run is brought to an end when its engine has died.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oarlock_cluster::Ward;
use oarlock_cluster::farewell::Care;
use oarlock_layout::code::Code;
use oarlock_layout::codec::Wire;
use oarlock_layout::limit::{LEASE, LEASE_DRIFT};
use oarlock_layout::message::session::{Failure, Reply};
use oarlock_shm::Memory;
use rustix::net::Shutdown;
use tracing::{info, warn};

use super::line::{Gasp, Word};
use crate::host::door;
use crate::host::poll::{Epoll, Poll};

/// Longer than this nobody waits for a lease, so there is nothing to give up any more.
const CARE_MAX: Duration = LEASE.saturating_add(LEASE_DRIFT);

/// What one run has laid down.
#[derive(Default)]
pub(super) struct Wards {
    segments: Vec<Arc<Memory>>,
    /// Sessions whose programs have not hung up, by their tokens in the poll.
    sessions: BTreeMap<u64, OwnedFd>,
    gasp: Option<Gasp>,
    /// What follows from all of it.
    run: Ward,
    /// Another program is taking the engine's place, and has not said that it serves.
    pub(super) restarts: bool,
}

impl Wards {
    /// Takes something into care. Tokens of sessions count up from `next`.
    pub(super) fn take(&mut self, poll: &mut Epoll, next: &mut u64, word: Word) {
        match word {
            Word::Segment(fd) => match Memory::open(&fd) {
                Ok(memory) => self.segments.push(memory),
                Err(e) => self.miss(format_args!("a segment: {e}")),
            },
            Word::Session(fd) => match poll.add_for_end(&fd, *next) {
                Ok(()) => {
                    self.sessions.insert(*next, fd);
                    self.run.begun(*next);
                    *next += 1;
                }
                Err(e) => self.miss(format_args!("a session: {e}")),
            },
            Word::Gasp(gasp) => {
                self.run.laid_down(gasp.incarnation);
                self.gasp = Some(gasp);
            }
            Word::Again => self.run.ended_by_itself(),
            Word::Restarts(begins) => self.restarts = begins,
            Word::Lost => self.miss(format_args!("what came with a word: no descriptor is left")),
        }
    }

    fn miss(&mut self, what: std::fmt::Arguments<'_>) {
        if self.run.miss() {
            warn!(
                "the keeper does not have {what}; if the engine dies, others wait for the end of its lease"
            );
        }
    }

    /// The run has ended by itself, and is followed by another.
    pub(super) const fn again(&self) -> bool {
        self.run.has_ended_by_itself()
    }

    /// The program of a session has hung up.
    pub(super) fn hung_up(&mut self, poll: &mut Epoll, token: u64) {
        if let Some(fd) = self.sessions.remove(&token) {
            // The engine may have the socket too, and then closing it here would not end the watch.
            let _ = poll.remove(&fd);
            self.run.hung_up(token);
        }
    }

    /// The engine has died: nobody believes a grant of this run from here on, and every session is told.
    pub(super) fn orphan(self, now: Instant, how: &str) -> Orphans {
        // In this order: what is granted after this is not believed, and who is told afterwards looks there first.
        self.segments.iter().for_each(|memory| memory.turn_epoch());
        let text = format!("all locks of this session are gone: the engine of the node {how}");
        let lost = Reply::Lost { why: Failure { code: Code::Lost, text } }.to_bytes();
        for socket in self.sessions.values() {
            // If there is no room for it, the end of what the program reads tells the same.
            let _ = door::send(socket, &lost);
            let _ = rustix::net::shutdown(socket, Shutdown::Write);
        }
        Orphans { until: now + CARE_MAX, wards: self }
    }

    /// Forgets everything. Programs see the end of their sessions.
    pub(super) fn let_go(self, poll: &mut Epoll) {
        for socket in self.sessions.values() {
            let _ = poll.remove(socket);
        }
    }
}

/// What a run has left whose engine has died.
pub(super) struct Orphans {
    until: Instant,
    wards: Wards,
}

impl Orphans {
    /// The program of a session has hung up: it has heard, and what ran under its locks has ended.
    pub(super) fn hung_up(&mut self, poll: &mut Epoll, token: u64) {
        self.wards.hung_up(poll, token);
    }

    /// Programs that have not.
    pub(super) fn waits_for(&self) -> usize {
        self.wards.run.waits_for()
    }

    /// Gives the run up if nobody can act under its locks any more.
    pub(super) fn settle(&mut self, now: Instant) -> Care {
        let care = self.wards.run.settle(self.until <= now);
        if let (Care::GivenUp(run), Some(gasp)) = (care, &self.wards.gasp) {
            if let Err(e) = say(gasp) {
                warn!("cannot tell the others that run {run} has ended: {e}");
            }
            info!("run {run} is given up: nobody acts under its locks any more");
        }
        care
    }

    /// The address of the circuits is needed for another run.
    pub(super) fn release_address(&mut self) {
        if let Some(gasp) = &mut self.wards.gasp
            && let Ok(other) = elsewhere(&gasp.from)
        {
            gasp.from = other;
        }
    }

    /// When [`settle`](Orphans::settle) has something to say at the latest.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// Nothing more is waited for.
    pub(super) fn let_go(self, poll: &mut Epoll) {
        self.wards.let_go(poll);
    }
}

/// To everybody, twice: one may be lost, and whoever hears both believes the first.
fn say(gasp: &Gasp) -> io::Result<()> {
    let socket = UdpSocket::from(gasp.from.try_clone()?);
    for _ in 0..2 {
        for to in &gasp.to {
            // A lost datagram: the next engine says it over its circuits.
            let _ = socket.send_to(&gasp.datagram, to);
        }
    }
    Ok(())
}

/// A socket like this one with any other port.
fn elsewhere(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let at: IpAddr = UdpSocket::from(socket.try_clone()?).local_addr()?.ip();
    Ok(UdpSocket::bind(SocketAddr::new(at, 0))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::pair;
    use oarlock_layout::id::{Incarnation, NodeId};
    use oarlock_layout::message::frame::encode_gasp;

    struct Bench {
        poll: Epoll,
        next: u64,
        wards: Wards,
        peer: UdpSocket,
        programs: Vec<OwnedFd>,
    }

    impl Bench {
        /// A run with so many sessions and a peer.
        fn new(sessions: usize) -> Bench {
            let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
            peer.set_nonblocking(true).unwrap();
            let wards = Wards::default();
            let mut bench =
                Bench { poll: Epoll::new().unwrap(), next: 16, wards, peer, programs: Vec::new() };
            let gasp = Gasp {
                incarnation: Incarnation(9),
                datagram: encode_gasp(NodeId(2), Incarnation(9), &[7; 16]),
                to: vec![bench.peer.local_addr().unwrap()],
                from: UdpSocket::bind("127.0.0.1:0").unwrap().into(),
            };
            bench.take(Word::Gasp(gasp));
            for _ in 0..sessions {
                let (session, program) = pair::pair().unwrap();
                bench.programs.push(program);
                bench.take(Word::Session(session));
            }
            bench
        }

        fn take(&mut self, word: Word) {
            self.wards.take(&mut self.poll, &mut self.next, word);
        }

        fn ended(&mut self) -> Vec<u64> {
            let mut ready = Vec::new();
            self.poll.wait(Some(Duration::ZERO), &mut ready).unwrap();
            ready.iter().map(|r| r.token).collect()
        }

        fn gasps(&self) -> usize {
            let mut buffer = [0; 64];
            let valid = |n: usize, bytes: &[u8]| {
                assert_eq!(bytes[..n], encode_gasp(NodeId(2), Incarnation(9), &[7; 16]))
            };
            std::iter::from_fn(|| self.peer.recv(&mut buffer).ok().map(|n| valid(n, &buffer))).count()
        }
    }

    /// L5: every session is told, and only when the last one has hung up the run is given up.
    #[test]
    fn a_run_is_given_up_when_every_session_has_acknowledged() {
        let mut bench = Bench::new(2);
        let geometry = oarlock_layout::segment::Geometry::of_space(100);
        let (memory, fd) = Memory::create("wards", geometry, 1).unwrap();
        bench.take(Word::Segment(fd));
        let epoch = oarlock_layout::segment::geometry::header::EPOCH;
        let before = memory.peek(epoch);
        let now = Instant::now();
        let mut orphans = std::mem::take(&mut bench.wards).orphan(now, "was killed");
        assert_ne!(memory.peek(epoch), before, "what programs grant themselves is not believed any more");
        assert_eq!((orphans.settle(now), bench.gasps()), (Care::Waits, 0));
        for (i, left) in [(16, 1), (17, 0)] {
            let program = bench.programs.remove(0);
            let mut buffer = [0; 512];
            let n = rustix::io::read(&program, &mut buffer).unwrap();
            assert!(matches!(Reply::from_bytes(&buffer[..n]), Ok(Reply::Lost { .. })));
            assert_eq!(rustix::io::read(&program, &mut buffer).unwrap(), 0, "and then its end");
            assert_eq!((bench.ended(), orphans.settle(now), bench.gasps()), (vec![], Care::Waits, 0));
            drop(program);
            assert_eq!(bench.ended(), [i]);
            orphans.hung_up(&mut bench.poll, i);
            assert_eq!(orphans.waits_for(), left);
        }
        assert_eq!(orphans.settle(now), Care::GivenUp(Incarnation(9)));
        assert_eq!(bench.gasps(), 2);
    }

    /// It was not let in, because a clone of it is there perhaps: it has nothing to say.
    #[test]
    fn a_run_that_was_in_no_view_gives_nothing_up() {
        let mut poll = Epoll::new().unwrap();
        let now = Instant::now();
        let mut orphans = Wards::default().orphan(now, "was killed");
        assert_eq!(orphans.settle(now), Care::NothingHeld);
        orphans.let_go(&mut poll);
    }

    /// L5: one that does not acknowledge means that nothing is given up, ever.
    #[test]
    fn who_does_not_acknowledge_is_left_to_the_lease() {
        let mut bench = Bench::new(1);
        let now = Instant::now();
        let mut orphans = std::mem::take(&mut bench.wards).orphan(now, "was killed");
        assert_eq!(orphans.settle(now + LEASE), Care::Waits);
        assert_eq!(orphans.settle(orphans.until()), Care::LeftToItsLease);
        orphans.let_go(&mut bench.poll);
        assert_eq!((bench.gasps(), bench.ended()), (0, vec![]));
    }

    /// A session that did not come here may hold anything.
    #[test]
    fn a_run_of_which_something_is_missing_is_never_given_up() {
        let mut bench = Bench::new(0);
        bench.take(Word::Lost);
        let now = Instant::now();
        let mut orphans = std::mem::take(&mut bench.wards).orphan(now, "was killed");
        assert_eq!((orphans.settle(now), bench.gasps()), (Care::LeftToItsLease, 0));
    }

    /// L5: a run that has ended by itself closes its sessions without waiting for programs; that says nothing of them.
    #[test]
    fn a_run_that_had_ended_by_itself_is_never_given_up() {
        let mut bench = Bench::new(1);
        bench.take(Word::Again);
        drop(bench.programs.pop());
        assert_eq!(bench.ended(), [16]);
        bench.wards.hung_up(&mut bench.poll, 16);
        let now = Instant::now();
        let mut orphans = std::mem::take(&mut bench.wards).orphan(now, "was killed");
        assert_eq!((orphans.settle(now), bench.gasps()), (Care::LeftToItsLease, 0));
    }

    /// A program that hung up while the engine lived is nothing to wait for.
    #[test]
    fn the_last_word_can_also_come_from_another_port() {
        let mut bench = Bench::new(1);
        drop(bench.programs.pop());
        assert_eq!(bench.ended(), [16]);
        bench.wards.hung_up(&mut bench.poll, 16);
        let now = Instant::now();
        let mut orphans = std::mem::take(&mut bench.wards).orphan(now, "was killed");
        let address = |o: &Orphans| {
            UdpSocket::from(o.wards.gasp.as_ref().unwrap().from.try_clone().unwrap()).local_addr()
        };
        let before = address(&orphans).unwrap();
        orphans.release_address();
        assert!(UdpSocket::bind(before).is_ok(), "somebody else may have it now");
        assert_eq!((orphans.settle(now), bench.gasps()), (Care::GivenUp(Incarnation(9)), 2));
    }
}
