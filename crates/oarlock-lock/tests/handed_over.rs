//! A lock that a releaser handed over may be given back, and its entry wait with the next one, before the node hears of
//! either. Both have the same number.

use std::sync::Arc;

use oarlock_layout::flags::Flags;
use oarlock_layout::id::{
    Epoch, Incarnation, LockId, NodeId, OwnerId, SessionId, SharedHandle, SpaceId, TransactionId,
};
use oarlock_layout::mode::Mode::{self, EX, PR};
use oarlock_layout::name::Name;
use oarlock_layout::segment::{Geometry, Words};
use oarlock_layout::time::{Duration, Instant};
use oarlock_layout::view::{Member, View};
use oarlock_lock::{Config, Lock, Lockspace, Request};
use oarlock_shm::{Answer, Caller, Clock, First, Hold, Hub, Memory, Party, Taken, Ticket};

struct Still;

impl Clock for Still {
    fn coarse(&self) -> u64 {
        0
    }
}

const NAME: &[u8] = b"r";

fn request(session: u32, ticket: Ticket, mode: Mode, timeout: Option<Duration>) -> Request {
    let number = SharedHandle { segment: 0, entry: ticket.entry }.number();
    Request::Lock(Lock {
        lock: LockId::new(SessionId(session), number),
        name: Name::new(NAME).unwrap(),
        mode,
        flags: Flags::QUIET,
        timeout,
        owner: OwnerId(0),
        transaction: TransactionId(0),
    })
}

fn held(caller: &Caller<Still>, ticket: Ticket) -> Hold {
    match caller.look(ticket) {
        Answer::Held(hold) => hold,
        other => panic!("{other:?}"),
    }
}

fn waits(taken: Taken) -> Ticket {
    match taken {
        Taken::Wait(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_time_of_a_lock_that_was_handed_over_does_not_end_the_next_in_its_entry() {
    let start = Instant(0);
    let mut space = Lockspace::new(Config::native(SpaceId(0), NodeId(0)));
    let members = vec![Member { node: NodeId(0), incarnation: Incarnation(1) }];
    let memory = Memory::private(Geometry { slots: 16, areas: 64, entries: 64 }, 7);
    let mut hub = Hub::new(Arc::clone(&memory));
    hub.renew(u64::MAX);
    space.found(start, &mut hub, &View { epoch: Epoch(1), members });
    let [one, two] = [1, 2].map(|session| {
        let place = hub.attach(SessionId(session), 0).unwrap();
        Caller::new(Arc::clone(&memory), place, Still)
    });
    let party = Party::default();

    let first = waits(one.ask(EX, &party, First::seat(0)));
    space.handle_request(start, &mut hub, request(1, first, EX, None));
    let hold = held(&one, first);
    let spot = two.find(NAME).unwrap();
    let second = waits(two.acquire(spot, EX, &party, true, First::seat(0)));
    space.handle_request(start, &mut hub, request(2, second, EX, Some(Duration::from_millis(1))));

    one.release(hold).unwrap();
    two.release(held(&two, second)).unwrap();
    let third = waits(two.acquire(spot, PR, &party, true, First::seat(0)));
    space.handle_timeout(start + Duration::from_millis(2), &mut hub);
    assert!(matches!(two.look(third), Answer::Waiting(_)), "its own time has not begun");
    space.handle_request(start, &mut hub, request(2, third, PR, None));
    assert_eq!(held(&two, third).mode, PR);
}
