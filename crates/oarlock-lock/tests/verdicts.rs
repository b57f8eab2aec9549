//! What a room does about the verdict of a search for deadlocks (D7): it refuses the very wait that was seen, and no other.

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, Incarnation, LockId, NodeId, OwnerId, SessionId, SpaceId, TransactionId};
use oarlock_layout::message::trace::WaitId;
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::PlainWords;
use oarlock_layout::stamp::Stamp;
use oarlock_layout::time::{Duration, Instant};
use oarlock_layout::view::{Member, View};
use oarlock_lock::{Config, Convert, Lock, Lockspace, Output, Rank, Request};

const HOLDER: LockId = LockId::new(SessionId(1), 1);
const WAITER: LockId = LockId::new(SessionId(2), 1);

struct Room {
    space: Lockspace,
    words: PlainWords,
    now: Instant,
}

impl Room {
    /// One has EX, and another NL.
    fn new() -> Room {
        let member = Member { node: NodeId(0), incarnation: Incarnation(1) };
        let mut room = Room {
            space: Lockspace::new(Config::native(SpaceId(0), NodeId(0))),
            words: PlainWords::new(4),
            now: Instant(0),
        };
        let view = View { epoch: Epoch(1), members: vec![member] };
        room.space.found(room.now, &mut room.words, &view);
        for (lock, mode) in [(HOLDER, Mode::EX), (WAITER, Mode::NL)] {
            room.ask(Request::Lock(Lock {
                lock,
                name: Name::new(b"r").expect("a short name"),
                mode,
                flags: Flags::empty(),
                timeout: None,
                owner: OwnerId(0),
                transaction: TransactionId(0),
            }));
        }
        room
    }

    /// What the program is told that is a refusal.
    fn ask(&mut self, request: Request) -> Vec<(LockId, Code)> {
        self.space.handle_request(self.now, &mut self.words, request);
        self.said()
    }

    fn said(&mut self) -> Vec<(LockId, Code)> {
        let outputs = std::iter::from_fn(|| self.space.poll_output());
        outputs
            .filter_map(|output| match output {
                Output::Failed { lock, code } => Some((lock, code)),
                _ => None,
            })
            .collect()
    }

    /// It begins to wait for EX, and a search sees it.
    fn wait(&mut self, stamp: u64) -> WaitId {
        let convert =
            Convert { lock: WAITER, mode: Mode::EX, flags: Flags::empty(), timeout: None, value: None };
        assert_eq!(self.ask(Request::Convert(convert)), []);
        self.now += Duration::from_millis(150);
        self.space.see_waiters(self.now, Stamp(stamp));
        let name = Name::new(b"r").expect("a short name");
        let (sight, _) =
            self.space.sight(&self.words, &name, usize::MAX, Vec::new(), &|_, _, _| Rank::Wanted);
        let [wait] = &sight.waits[..] else { panic!("not one waits: {sight:?}") };
        WaitId {
            since: wait.since,
            node: NodeId(0),
            space: SpaceId(0),
            lock: wait.party.lock,
            number: wait.number,
        }
    }

    fn verdict(&mut self, victim: &WaitId) -> Option<Duration> {
        self.space.handle_verdict(self.now, &mut self.words, victim)
    }
}

#[test]
fn the_wait_that_was_seen_is_refused_once() {
    let mut room = Room::new();
    let wait = room.wait(7);
    assert_eq!(room.verdict(&wait), Some(Duration::from_millis(150)));
    assert_eq!(room.said(), [(WAITER, Code::Deadlock)]);
    assert_eq!((room.verdict(&wait), room.said()), (None, vec![]), "two members may have found it");
}

/// D7: the program gave the wait up and began another with the same lock.
#[test]
fn a_verdict_about_an_earlier_wait_of_a_lock_changes_nothing() {
    let mut room = Room::new();
    let earlier = room.wait(7);
    assert_eq!(room.ask(Request::Cancel(WAITER)), [(WAITER, Code::Cancelled)]);
    let later = room.wait(7);
    assert_ne!(earlier, later);
    assert_eq!((room.verdict(&earlier), room.said()), (None, vec![]));
    assert!(room.verdict(&later).is_some());
}
