//! Peers and programs that say anything: the inputs that fuzzing kept, and random ones: a few, or as many as
//! `OARLOCK_HOSTILE_SEEDS=N` says.

mod feed;

use std::fs;
use std::path::Path;

use std::sync::Arc;

use feed::hand::Haunted;
use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{
    Epoch, Incarnation, LockId, NodeId, OwnerId, SessionId, SharedHandle, Slot, SpaceId, TransactionId,
};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::geometry::{entry, slot};
use oarlock_layout::segment::{Geometry, Grant, Stage, State, Words};
use oarlock_layout::time::Instant;
use oarlock_layout::view::{Member, View};
use oarlock_lock::{Config, Convert, Lock, Lockspace, Output, Request, Unlock};
use oarlock_shm::{Hub, Memory};
use proptest::prelude::*;

#[test]
fn every_input_of_the_corpus_is_survived() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/room");
    let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut played = 0;
    for entry in entries {
        feed::room(&fs::read(entry.expect("an entry").path()).expect("a readable file"));
        played += 1;
    }
    assert!(played > 0, "the corpus is empty");
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
        let mut hub = Hub::new(Memory::private(Geometry { slots: 4, areas: 2, entries: 64 }, 1));
        hub.renew(u64::MAX);
        let mut room = Lockspace::new(Config::native(SpaceId(0), NodeId(0)));
        let member = Member { node: NodeId(0), incarnation: Incarnation(1) };
        room.handle_view(Instant(0), &View { epoch: Epoch(1), members: vec![member] }, Instant(0));
        Alone { room, words: Haunted::new(hub, 1, 0) }
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
    let (memory, number) = (alone.memory(), alone.slot().0);
    let (of, at) = (memory.geometry().entry(place.area, 0), memory.geometry().slot(number));
    memory.scribble(at + slot::USERS, u64::MAX);
    memory.scribble(of + entry::SLOT, number.into());
    memory.scribble(of + entry::SLOT_GENERATION, memory.peek(at + slot::GENERATION));
    memory.scribble(of + entry::STATE, State::new(1, Stage::Asking, Some(Mode::NL), Some(Mode::NL)).0);
    let lock = LockId::new(SessionId(2), SharedHandle { segment: 0, entry: 0 }.number());
    let flags = Flags::VALBLK;
    let said =
        alone.ask(Request::Convert(Convert { lock, mode: Mode::NL, flags, timeout: None, value: None }));
    assert!(matches!(said[..], [Output::Failed { code: Code::NoSuchLock, .. }]), "{said:?}");
}
