//! Peers and programs that say anything: the inputs that fuzzing kept, and random ones: a few, or as many as
//! `OARLOCK_HOSTILE_SEEDS=N` says.

mod feed;

use std::fs;
use std::path::Path;

use std::sync::Arc;

use feed::hand::Haunted;
use oarlock_layout::code::Code;
use oarlock_layout::directory;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{
    Epoch, Incarnation, LockId, NodeId, OwnerId, SessionId, SharedHandle, Slot, SpaceId, TransactionId,
};
use oarlock_layout::message::lock::{Body, Conv, Info, Kind, Packet, Want};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::geometry::{entry, slot};
use oarlock_layout::segment::{Geometry, Grant, Place, Stage, State, Words};
use oarlock_layout::time::Instant;
use oarlock_layout::view::{Member, View};
use oarlock_lock::{Config, Convert, Lock, Lockspace, Output, Request, Unlock};
use oarlock_shm::{Hub, Memory};
use proptest::prelude::*;

#[test]
fn every_input_of_the_corpus_is_survived() {
    let (mut rooms, mut shared) = (0, 0);
    for bytes in corpus("room") {
        feed::room(&bytes);
        rooms += 1;
    }
    for bytes in corpus("segment") {
        if let Some((b'r', bytes)) = bytes.split_first() {
            feed::shared(bytes);
            shared += 1;
        }
    }
    assert!(rooms > 0 && shared > 0, "a corpus is empty");
}

fn corpus(target: &str) -> impl Iterator<Item = Vec<u8>> + use<> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    entries.map(|entry| fs::read(entry.expect("an entry").path()).expect("a readable file"))
}

fn cases() -> u32 {
    std::env::var("OARLOCK_HOSTILE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(2_000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    /// A peer that holds a key may still lie: its misdeed is named, and nobody else suffers.
    #[test]
    fn whatever_a_peer_says_exclusion_holds_and_nothing_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        feed::room(&bytes);
    }

    /// The same where counts lie in a segment, and a foreign hand writes there.
    #[test]
    fn whatever_a_segment_says_exclusion_holds_outside_of_it_and_nothing_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        feed::shared(&bytes);
    }
}

/// A node alone, whose master and shadow must not fall out over what a segment says.
struct Alone {
    room: Lockspace,
    words: Haunted,
}

impl Alone {
    fn new() -> Alone {
        Alone::among(1)
    }

    /// The master of [`name`], with others beside it.
    fn among(nodes: u16) -> Alone {
        let mut hub = Hub::new(Memory::private(Geometry { slots: 4, areas: 2, entries: 64 }, 1));
        hub.renew(u64::MAX);
        let mut room = Lockspace::new(Config::native(SpaceId(0), NodeId(0)));
        let member = |n| Member { node: NodeId(n), incarnation: Incarnation(1) };
        let view = View { epoch: Epoch(1), members: (0..nodes).map(member).collect() };
        assert_eq!(directory::master(SpaceId(0), name().as_bytes(), view.nodes()), Some(NodeId(0)));
        let mut words = Haunted::new(hub, 1, 0);
        room.found(Instant(0), &mut words, &view);
        Alone { room, words }
    }

    fn memory(&self) -> Arc<Memory> {
        Arc::clone(self.words.hub.memory())
    }

    fn slot(&self) -> Slot {
        self.words.find(&name()).expect("it is bound")
    }

    fn ask(&mut self, request: Request) -> Vec<Output> {
        self.room.handle_request(Instant(0), &mut self.words, request);
        std::iter::from_fn(|| self.room.poll_output()).collect()
    }

    /// The node beside it says something.
    fn hear(&mut self, info: Info) -> Vec<Output> {
        let packet = Packet { space: SpaceId(0), epoch: Epoch(1), name: name(), body: Body::Info(info) };
        self.room.handle_message(Instant(0), &mut self.words, NodeId(1), packet).expect("an honest node");
        std::iter::from_fn(|| self.room.poll_output()).collect()
    }

    /// An entry of session 2 reads otherwise from now on.
    fn lie(&self, place: Place, number: u32, stage: Stage, mode: Mode) {
        let (memory, slot) = (self.memory(), self.memory().geometry().slot(self.slot().0));
        let of = memory.geometry().entry(place.area, number);
        memory.scribble(slot + slot::USERS, u64::MAX);
        memory.scribble(of + entry::SLOT, self.slot().0.into());
        memory.scribble(of + entry::SLOT_GENERATION, memory.peek(slot + slot::GENERATION));
        memory.scribble(of + entry::STATE, State::new(1, stage, Some(mode), Some(mode)).0);
    }

    fn lock(&mut self, number: u32, mode: Mode, flags: Flags) -> Vec<Output> {
        self.ask(Request::Lock(Lock {
            lock: LockId::new(SessionId(1), number),
            name: name(),
            mode,
            flags,
            timeout: None,
            owner: OwnerId(0),
            transaction: TransactionId(0),
        }))
    }
}

/// A lock of session 2 in its entry.
fn in_entry(entry: u32) -> LockId {
    LockId::new(SessionId(2), SharedHandle { segment: 0, entry }.number())
}

fn name() -> Name {
    Name::new(b"r").expect("a name")
}

/// A count that comes and goes between two looks: a wish that was made of both would give up what is owned, which no
/// shadow may.
#[test]
fn a_wish_is_made_of_the_word_that_was_lowered() {
    let mut alone = Alone::new();
    alone.lock(1, Mode::PR, Flags::empty());
    alone.ask(Request::Unlock(Unlock { lock: LockId::new(SessionId(1), 1), value: None, invalidate: false }));
    assert_eq!(alone.words.look(alone.slot()).owned, Some(Mode::PR), "retained");
    alone.words.at_lower = Some(|memory, slot, before| {
        let cell = memory.geometry().slot(slot.0) + slot::WORD;
        let word = Grant(memory.peek(cell));
        let new = if before { word.with(Mode::PR).expect("room") } else { word.without(Mode::PR) };
        memory.scribble(cell, new.0);
    });
    let said = alone.lock(2, Mode::CW, Flags::empty());
    assert!(matches!(said[..], [Output::Granted(ref granted)] if granted.mode == Mode::CW), "{said:?}");
}

/// An entry that says of itself what nobody granted.
#[test]
fn a_convert_from_what_is_not_owned_is_refused() {
    let mut alone = Alone::new();
    let said = alone.lock(1, Mode::NL, Flags::LOCAL);
    assert!(matches!(said[..], [Output::Failed { code: Code::NotOwned, .. }]), "{said:?}");
    let place = alone.words.attach(SessionId(2), 0).expect("a place");
    alone.lie(place, 0, Stage::Asking, Mode::NL);
    let lock = in_entry(0);
    let flags = Flags::VALBLK;
    let said =
        alone.ask(Request::Convert(Convert { lock, mode: Mode::NL, flags, timeout: None, value: None }));
    assert!(matches!(said[..], [Output::Failed { code: Code::NoSuchLock, .. }]), "{said:?}");
}

/// Two requests whose entries say that they wait, each for what the other one asked: both are answered, and neither can be
/// granted. Their node must not ask itself for the next answers without end.
#[test]
fn requests_that_no_answer_helps_are_not_asked_for_by_turns() {
    let mut alone = Alone::among(2);
    let writes = Conv {
        mode: Mode::PW,
        alternate: None,
        kind: Kind::New,
        from: None,
        attempt: 1,
        flags: Flags::empty(),
        demand: false,
    };
    alone.hear(Info { n: 1, conv: Some(writes), ..info() });
    let place = alone.words.attach(SessionId(2), 0).expect("a place");
    let lock = |lock, flags| {
        let (owner, transaction) = (OwnerId(0), TransactionId(0));
        Request::Lock(Lock { lock, name: name(), mode: Mode::CR, flags, timeout: None, owner, transaction })
    };
    alone.lock(1, Mode::CR, Flags::empty());
    alone.lie(place, 0, Stage::Asking, Mode::CR);
    // The block has to be asked for at the other node: until then both wait.
    let (mode, flags) = (Mode::CR, Flags::VALBLK);
    let convert = Convert { lock: in_entry(0), mode, flags, timeout: None, value: None };
    alone.ask(Request::Convert(convert));
    alone.lie(place, 1, Stage::Waiting, Mode::CR);
    alone.ask(lock(in_entry(1), Flags::FRESH | Flags::QUIET));
    assert_eq!(alone.room.sizes().2, 2, "both wait");
    alone.lie(place, 0, Stage::Waiting, Mode::CR);
    alone.lie(place, 1, Stage::Asking, Mode::CR);
    alone.hear(Info { n: 2, g: 1, held: Some(Mode::NL), ..info() });
    // Whoever comes with the truth is served.
    alone.ask(Request::End(SessionId(2)));
    let said = alone.lock(2, Mode::CR, Flags::VALBLK | Flags::FRESH);
    assert!(matches!(said[..], [Output::Granted(ref granted)] if granted.mode == Mode::CR), "{said:?}");
}

/// A program writes into its entry that the lock is to outlive it. It goes with its session like any other: its program could
/// still write there.
#[test]
fn what_is_in_a_segment_does_not_stay_whatever_its_entry_says() {
    let mut alone = Alone::among(1);
    let place = alone.words.attach(SessionId(2), 0).expect("a place");
    alone.lock(1, Mode::NL, Flags::empty());
    alone.lie(place, 0, Stage::Waiting, Mode::EX);
    let (owner, transaction) = (OwnerId(0), TransactionId(0));
    let (lock, flags) = (in_entry(0), Flags::QUIET);
    let request = Lock { lock, name: name(), mode: Mode::EX, flags, timeout: None, owner, transaction };
    alone.ask(Request::Lock(request));
    assert!(alone.words.entry(lock).is_some_and(|entry| entry.mode == Mode::EX), "it is held");
    alone.words.set_manner(lock, Flags::PERSISTENT);
    assert!(alone.words.entry(lock).is_some_and(|entry| entry.claim.flags.contains(Flags::PERSISTENT)));
    alone.words.end(SessionId(2));
    alone.ask(Request::End(SessionId(2)));
    assert_eq!(alone.words.of_session(SessionId(2)), []);
    let said = alone.lock(2, Mode::EX, Flags::NOQUEUE);
    assert!(matches!(said[..], [Output::Granted(_)]), "{said:?}");
}

fn info() -> Info {
    Info {
        n: 0,
        g: 0,
        held: None,
        conv: None,
        busy: 0,
        openers: 1,
        uses_value: false,
        want: Want::default(),
        value: None,
    }
}
