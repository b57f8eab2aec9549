//! The trait between the lock room and the place where held locks are counted.

use alloc::vec::Vec;

use crate::codec::{Malformed, Reader, Wire, Writer};
use crate::flags::Flags;
use crate::id::{LockId, OwnerId, SessionId, Slot, TransactionId};
use crate::mode::{Mode, join_option};
use crate::name::Name;
use crate::time::Instant;
use crate::token::{Fence, Token};
use crate::value::Value;

/// How many local locks are granted in each mode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Counts(pub [u32; 6]);

impl Counts {
    /// Join of the modes held: the least this node must own (3.1). None if nothing is held.
    pub fn need(&self) -> Option<Mode> {
        Mode::ALL.into_iter().filter(|m| self.of(*m) > 0).fold(None, |need, m| join_option(need, Some(m)))
    }

    /// How many hold `mode`.
    pub fn of(&self, mode: Mode) -> u32 {
        self.0[mode as usize]
    }

    /// How many locks there are.
    pub fn total(&self) -> u32 {
        self.0.iter().sum()
    }

    /// Would another lock in `mode` stand beside all of these?
    pub fn admits(&self, mode: Mode) -> bool {
        Mode::ALL.into_iter().all(|m| self.of(m) == 0 || m.compatible(mode))
    }

    /// The same without one lock in `mode`. Counts are claims: one that is zero stays zero.
    #[must_use]
    pub fn without(mut self, mode: Mode) -> Counts {
        self.0[mode as usize] = self.0[mode as usize].saturating_sub(1);
        self
    }

    /// The same with one more lock in `mode`.
    #[must_use]
    pub fn with(mut self, mode: Mode) -> Counts {
        self.0[mode as usize] += 1;
        self
    }
}

/// The grant word of a resource as it was at one instant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Word {
    /// Local locks granted.
    pub counts: Counts,
    /// The mode up to which callers may grant themselves; none if this node has no record at the master.
    pub owned: Option<Mode>,
    /// Somebody waits: new grants go through the node.
    pub gate: bool,
}

/// What a lock brings along when it is admitted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Claim {
    /// Its id; the session is part of it.
    pub lock: LockId,
    /// As the program gave it.
    pub owner: OwnerId,
    /// As the program gave it.
    pub transaction: TransactionId,
    /// [`Flags::NOBAST`], [`Flags::VALBLK`], [`Flags::NODLCKWT`], [`Flags::NODLCKBLK`] and
    /// [`Flags::PERSISTENT`] matter later.
    pub flags: Flags,
    /// When it was granted.
    pub since: Instant,
}

/// What of a claim's flags belongs to the latest request about a lock, not to its first.
pub const MANNER: Flags =
    Flags::NOBAST.union(Flags::NODLCKWT).union(Flags::NODLCKBLK).union(Flags::PERSISTENT);

/// A held lock.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    /// What it brought along.
    pub claim: Claim,
    /// Where it is counted.
    pub slot: Slot,
    /// In which mode.
    pub mode: Mode,
    /// Its token.
    pub token: Token,
    /// Join of what it was told that others want (scenarios 57, 58); none since its last grant or convert.
    pub told: Option<Mode>,
    /// Its program granted it to itself.
    pub fast: bool,
}

impl Entry {
    /// Marks the lock if it blocks `wanted`, is not the one that asks, and wants to hear; the notice if that is news.
    pub fn notify(&mut self, wanted: Mode, but: Option<LockId>) -> Option<Notice> {
        let lock = self.claim.lock;
        if Some(lock) == but || self.mode.compatible(wanted) || self.claim.flags.contains(Flags::NOBAST) {
            return None;
        }
        let join = join_option(self.told, Some(wanted));
        if join == self.told {
            return None;
        }
        self.told = join;
        join.map(|wanted| Notice { lock, wanted })
    }
}

/// A holder that has just been told something new.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Notice {
    /// Which lock.
    pub lock: LockId,
    /// What is wanted.
    pub wanted: Mode,
}

/// Where the program of a session finds its entries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Place {
    /// The area of the session in the segment.
    pub area: u32,
    /// The session word: while it reads so, the session lives.
    pub session_word: u64,
    /// The epoch of the segment: while it reads so, this node's lease has not been lost.
    pub epoch: u64,
}

/// Somebody who sleeps on an entry of the segment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Wake {
    /// The area of its session.
    pub area: u32,
    /// The entry.
    pub entry: u32,
}

/// What callers did without the node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Tally {
    /// Locks they granted themselves.
    pub grants: u64,
    /// Releases that let need fall below what is owned (C15, M9).
    pub considered: u64,
    /// Releases that handed over to a waiter (M10).
    pub handed_over: u64,
    /// Sessions that may grant themselves.
    pub attached: u32,
}

/// Every slot is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all {0} resources of this lockspace are in use on this node")]
pub struct NoSlot(pub u32);

/// Held locks, value blocks and local token counters of one lockspace on one node.
///
/// Rules for every implementation: a slot keeps its meaning from [`bind`](Words::bind) to a successful
/// [`evict`](Words::evict); counts never disagree with entries at rest; a caller that may grant itself does so
/// only while `owned` covers the mode, the counts admit it and the gate is open.
pub trait Words {
    /// The slot of a name, if it has one.
    fn find(&self, name: &Name) -> Option<Slot>;

    /// Gives a name a slot: nothing owned, gate shut, no block. The name must not have one.
    fn bind(&mut self, name: &Name) -> Result<Slot, NoSlot>;

    /// Takes the slot away if no lock is counted in it; false, and nothing changed, if one is.
    fn evict(&mut self, slot: Slot) -> bool;

    /// How many slots are bound.
    fn bound(&self) -> u32;

    /// How many slots there are at most.
    fn room(&self) -> u32;

    /// The word now.
    fn look(&self, slot: Slot) -> Word;

    /// From here on new grants go through the node. Returns the word as it was left.
    fn set_gate(&mut self, slot: Slot) -> Word;

    /// Callers may grant themselves again.
    fn clear_gate(&mut self, slot: Slot);

    /// Lowers `owned` to what is needed at this very instant, or to `floor` where that is stronger: one
    /// exchange that computes need from the counts it replaces (M8). Never raises. Returns the word written.
    fn lower(&mut self, slot: Slot, floor: Option<Mode>) -> Word;

    /// Sets `owned` after a grant of the master, with the fence it carried.
    fn raise(&mut self, slot: Slot, owned: Mode, fence: Fence);

    /// Nothing is owned any more: the record at the master is gone. Only without local locks.
    fn disown(&mut self, slot: Slot);

    /// Policy for releases that leave `owned` stronger than need: keep it without asking (C15, M9).
    fn set_keep(&mut self, slot: Slot, keep: bool);

    /// Counts a new lock if `owned` covers `mode` and the counts admit it; the gate does not matter, the
    /// caller of this is the node. Returns its token, or none and nothing changed. A PW or EX grant raises the
    /// local part of the token (R6).
    fn admit(&mut self, slot: Slot, mode: Mode, claim: Claim) -> Option<Token>;

    /// Changes the mode of a held lock if `owned` covers `to` and the others admit it. Returns its token, or
    /// none and nothing changed. Forgets what the lock was told.
    fn convert(&mut self, lock: LockId, to: Mode) -> Option<Token>;

    /// Uncounts a lock. None if it is not held (any more).
    fn drop(&mut self, lock: LockId) -> Option<Entry>;

    /// A held lock.
    fn entry(&self, lock: LockId) -> Option<Entry>;

    /// All held locks of a slot, in order of lock id.
    fn entries(&self, slot: Slot) -> Vec<Entry>;

    /// The held locks of one session, in order of lock id.
    fn of_session(&self, session: SessionId) -> Vec<LockId>;

    /// Marks every lock that blocks `wanted` (except `but`) and returns those for which this is news.
    fn notice(&mut self, slot: Slot, wanted: Mode, but: Option<LockId>) -> Vec<Notice>;

    /// A convert says anew what its lock wants to be told and how a deadlock search is to treat it: of `flags`,
    /// those of [`MANNER`] take the place of the lock's own (scenarios 13 and 61).
    fn set_manner(&mut self, lock: LockId, flags: Flags);

    /// A held lock is another's from here on: `claim` takes the place of its own, by its id too, and nobody has been told that
    /// others want it. Where and in which mode it is held stays as it is. False if it is not in the node's own table.
    fn hand_on(&mut self, lock: LockId, claim: Claim) -> bool;

    // ----- callers of the node that grant themselves; a private implementation has none -----------------

    /// Names the first waiter of a slot, to whom a releaser may hand over directly (M10): a new lock in a mode that is
    /// owned, with nobody elsewhere before it. None takes the name back.
    fn offer(&mut self, slot: Slot, waiter: Option<(LockId, Mode)>) {
        let _ = (slot, waiter);
    }

    /// The waiter that was offered, if a releaser has handed over to it. Told once.
    fn taken(&mut self, slot: Slot) -> Option<LockId> {
        let _ = slot;
        None
    }

    /// Says no to what a lock waits for. False if it was granted meanwhile: the lock's own word is the one arbiter
    /// (R9).
    fn refuse(&mut self, lock: LockId) -> bool {
        let _ = lock;
        true
    }

    /// Does the entry of a lock that waits say otherwise: because its program has withdrawn it, which its request says a
    /// moment later, or because it lies? Then it cannot be granted, and nothing need be asked for it.
    fn gone(&self, lock: LockId) -> bool {
        let _ = lock;
        false
    }

    /// May callers read and write the value block by themselves? Not before the master knows that it is used (R5).
    fn set_value_ready(&mut self, slot: Slot, ready: bool) {
        let _ = (slot, ready);
    }

    /// Has a caller used the slot by itself since this was last asked? Such use sends no word to the node.
    fn used(&mut self, slot: Slot) -> bool {
        let _ = slot;
        false
    }

    /// A place for a session whose program will grant itself; none if it cannot have one. `segment`: which of the
    /// session's segments this is, as its locks' numbers say.
    fn attach(&mut self, session: SessionId, segment: u8) -> Option<Place> {
        let _ = (session, segment);
        None
    }

    /// The program of a session that is over is gone for certain: its place may be given to another. Until then a store
    /// that it prepared may still come.
    fn bury(&mut self, session: SessionId) {
        let _ = session;
    }

    /// A session is over (M12): from here on nothing it does counts. What it held stays counted, and listed by
    /// [`of_session`](Words::of_session), until it is dropped.
    fn end(&mut self, session: SessionId) {
        let _ = session;
    }

    /// The next slot for which a caller rang.
    fn poll_bell(&mut self) -> Option<Slot> {
        None
    }

    /// The next waiter to wake.
    fn poll_wake(&mut self) -> Option<Wake> {
        None
    }

    /// What is granted is to be believed until then, in nanoseconds of CLOCK_MONOTONIC (L1), and callers grant themselves
    /// something new until [`LEASE_FROZEN`](crate::limit::LEASE_FROZEN) before (L6). Only while the last time has not
    /// passed: what was lost stays lost.
    fn renew(&mut self, until: u64) {
        let _ = until;
    }

    /// The lease is lost or the run ends (M13): nothing that callers granted themselves is believed from now on.
    fn turn_epoch(&mut self) {}

    /// The node is about to sleep, and whoever rings from now on must knock. False if a bell waits already.
    fn fall_asleep(&mut self) -> bool {
        true
    }

    /// The node is awake: nobody needs to knock.
    fn wake_up(&mut self) {}

    /// What callers did by themselves, in sum.
    fn tally(&self) -> Tally {
        Tally::default()
    }

    /// The value block.
    fn value(&self, slot: Slot) -> Value;

    /// Replaces the value block.
    fn set_value(&mut self, slot: Slot, value: Value);

    /// The token a shared grant would get now.
    fn token(&self, slot: Slot) -> Token;

    /// The name of a slot.
    fn name(&self, slot: Slot) -> Name;

    /// All that the node knows of it, for whoever takes its run over on the same machine; what lies in a segment is there
    /// already. Each implementation reads its own.
    fn written(&self) -> Vec<u8>;
}

impl Wire for Entry {
    fn encode(&self, out: &mut Writer<'_>) {
        let Claim { lock, owner, transaction, flags, since } = self.claim;
        for number in [lock.0, owner.0, transaction.0, since.0] {
            out.u64(number);
        }
        out.u32(flags.bits());
        out.u32(self.slot.0);
        out.mode(self.mode);
        self.token.encode(out);
        out.mode_option(self.told);
        out.bool(self.fast);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Entry, Malformed> {
        let (lock, owner) = (LockId(r.u64()?), OwnerId(r.u64()?));
        let (transaction, since) = (TransactionId(r.u64()?), Instant(r.u64()?));
        let bits = r.u32()?;
        let flags =
            Flags::from_bits(bits).ok_or(Malformed::Unknown { field: "set of flags", value: bits.into() })?;
        Ok(Entry {
            claim: Claim { lock, owner, transaction, flags, since },
            slot: Slot(r.u32()?),
            mode: r.mode()?,
            token: Token::decode(r)?,
            told: r.mode_option()?,
            fast: r.bool("who granted it")?,
        })
    }
}
