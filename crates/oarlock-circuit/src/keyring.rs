//! The keys of one circuit: those in use, the ones before, and the ones that may come next.
//!
//! ```text
//!                 initiator                      responder
//!                                                 next = new           on a good hello
//!    previous = current, current = new                                 on a good reply
//!                 sends with the new keys ──▶    previous = current,
//!                                                current = next        on the first packet with them
//! ```
//!
//! The responder waits for a packet because a hello may be a replay: whoever replays one cannot make a packet
//! with the keys that follow from it, so nothing that is in use is ever touched by a replay.

use alloc::boxed::Box;
use core::time::Duration;

use oarlock_layout::id::Incarnation;
use oarlock_layout::seal::{Keys, Seal};
use oarlock_layout::time::Instant;
use oarlock_layout::written::Contradiction;

use crate::replay::ReplayWindow;
use crate::written::OfKeys;

/// A run of the peer: keys belong to one, and so does every packet made with them (A8).
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Run {
    pub(crate) incarnation: Incarnation,
    /// See [`Greeting::run`](oarlock_layout::message::frame::Greeting::run).
    pub(crate) number: u64,
}

/// Keys of one handshake and what must be remembered with them.
pub(crate) struct KeyEpoch {
    pub(crate) keys: Box<dyn Keys + Send>,
    /// By which packets find these keys here.
    pub(crate) receiver: u32,
    /// By which packets find them at the peer.
    pub(crate) sender: u32,
    /// The next packet's number.
    pub(crate) number: u64,
    pub(crate) replay: Box<ReplayWindow>,
    pub(crate) born: Instant,
    /// We began the handshake, so we begin the next.
    pub(crate) initiator: bool,
    pub(crate) run: Run,
}

#[derive(Default)]
pub(crate) struct KeyRing {
    previous: Option<KeyEpoch>,
    current: Option<KeyEpoch>,
    next: Option<KeyEpoch>,
}

/// Whose turn it is to agree on new keys. The responder gives the initiator this much of the time between
/// rekey and reject before it begins itself.
const INITIATOR_FIRST: u32 = 4;

impl KeyRing {
    /// Our own handshake ended well.
    pub(crate) fn initiated(&mut self, epoch: KeyEpoch) {
        self.previous = self.current.replace(epoch);
    }

    /// We answered a handshake. Should an unconfirmed answer stand here already, then the initiator has begun
    /// again and will not use it.
    pub(crate) fn responded(&mut self, epoch: KeyEpoch) {
        self.next = Some(epoch);
    }

    /// The keys a packet names, not older than `reject_after`.
    pub(crate) fn find(
        &mut self,
        receiver: u32,
        now: Instant,
        reject_after: Duration,
    ) -> Option<&mut KeyEpoch> {
        [&mut self.current, &mut self.previous, &mut self.next]
            .into_iter()
            .flatten()
            .find(|epoch| epoch.receiver == receiver && now.since(epoch.born) < reject_after)
    }

    /// A packet came that was made with these keys; true if they were waiting for one and are now current.
    pub(crate) fn confirm(&mut self, receiver: u32) -> bool {
        if self.next.as_ref().is_none_or(|next| next.receiver != receiver) {
            return false;
        }
        let next = self.next.take();
        self.previous = core::mem::replace(&mut self.current, next);
        true
    }

    /// Forgets keys that wait for their first packet, unless they are for this incarnation.
    pub(crate) fn forget_unconfirmed(&mut self, except: Incarnation) {
        if self.next.as_ref().is_some_and(|next| next.run.incarnation != except) {
            self.next = None;
        }
    }

    /// Forgets keys of other runs.
    pub(crate) fn keep_only(&mut self, run: Run) {
        for epoch in [&mut self.previous, &mut self.current, &mut self.next] {
            if epoch.as_ref().is_some_and(|e| e.run != run) {
                *epoch = None;
            }
        }
    }

    /// Keys to send with.
    pub(crate) fn sending(&mut self, now: Instant, limits: &Limits) -> Option<&mut KeyEpoch> {
        self.current.as_mut().filter(|epoch| limits.usable(epoch, now))
    }

    pub(crate) fn can_send(&self, now: Instant, limits: &Limits) -> bool {
        self.current.as_ref().is_some_and(|epoch| limits.usable(epoch, now))
    }

    /// When to agree on new keys, as far as time tells; now if there are none.
    pub(crate) fn renew_at(&self, limits: &Limits) -> Option<Instant> {
        let epoch = self.current.as_ref()?;
        if epoch.number >= limits.rekey_packets {
            return Some(epoch.born);
        }
        let patience = (limits.reject_after - limits.rekey_after) / INITIATOR_FIRST;
        let wait = if epoch.initiator { limits.rekey_after } else { limits.rekey_after + patience };
        Some(epoch.born + wait)
    }

    /// Since when the current keys are in use.
    pub(crate) fn born(&self) -> Option<Instant> {
        self.current.as_ref().map(|epoch| epoch.born)
    }

    /// In writing: those before, those in use, those that may come next.
    pub(crate) fn write(&self) -> [Option<OfKeys<'_>>; 3] {
        [&self.previous, &self.current, &self.next].map(|epoch| epoch.as_ref().map(OfKeys::write))
    }

    /// Takes up what was written, in that order.
    pub(crate) fn read(
        &mut self,
        written: [Option<OfKeys<'_>>; 3],
        seal: &dyn Seal,
    ) -> Result<(), Contradiction> {
        for (place, keys) in [&mut self.previous, &mut self.current, &mut self.next].into_iter().zip(written)
        {
            *place = keys.map(|keys| keys.read(seal)).transpose()?;
        }
        Ok(())
    }

    pub(crate) fn uses(&self, receiver: u32) -> bool {
        [&self.previous, &self.current, &self.next].into_iter().flatten().any(|e| e.receiver == receiver)
    }
}

/// How long keys are good for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) rekey_after: Duration,
    pub(crate) rekey_packets: u64,
    pub(crate) reject_after: Duration,
}

impl Limits {
    /// Twice the count at which new keys are asked for is the end: the cipher's proof holds far beyond it, but
    /// a bound that is never enforced is none.
    fn usable(&self, epoch: &KeyEpoch, now: Instant) -> bool {
        now.since(epoch.born) < self.reject_after && epoch.number < self.rekey_packets * 2
    }
}
