//! The circuits of a run in writing, for the process that goes on with it.
//!
//! Everything is kept that a peer could tell the difference by: keys and how many packets were sealed with them, which
//! packets were seen, what is on its way in both directions and when to send it again, who is silent. Two things are
//! not:
//!
//! * *A handshake that this end has begun.* What it waits with is the cipher's and has no written form. It is left out, and begun
//!   again at once: an answer to it fits no attempt any more, and the keys that the peer has made for it are never confirmed, so
//!   those that were in use before stay.
//! * *What was to be said.* It has been carried out before.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use oarlock_layout::code::Code;
use oarlock_layout::id::Incarnation;
use oarlock_layout::limit::NODES_MAX;
use oarlock_layout::seal::{MAC_BYTES, PublicKey, Seal};
use oarlock_layout::time::Instant;
use oarlock_layout::written::Contradiction;
use serde::{Deserialize, Serialize};

use crate::chance::Chance;
use crate::circuit::{Circuit, Knocking, Open};
use crate::circuits::Circuits;
use crate::config::{Config, Options, Peer};
use crate::door::{Door, Reports};
use crate::keyring::{KeyEpoch, Run};
use crate::places::Places;
use crate::replay::ReplayWindow;
use crate::status::{DoorCounters, PeerCounters};

/// All circuits of a run, as far as they can be written down (L5).
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written<'a> {
    run: u64,
    greetings: u64,
    chance: Chance,
    door: Cow<'a, Door>,
    strangers: Cow<'a, Reports>,
    places: Vec<Option<OfCircuit<'a>>>,
    gone: PeerCounters,
    busy: u64,
    turn: u32,
    counts: DoorCounters,
}

/// One circuit.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfCircuit<'a> {
    pub(crate) peer: Peer,
    pub(crate) next_key: Option<PublicKey>,
    pub(crate) previous: Option<OfKeys<'a>>,
    pub(crate) current: Option<OfKeys<'a>>,
    pub(crate) next: Option<OfKeys<'a>>,
    pub(crate) knocking: Knocking,
    pub(crate) newest_hello: Option<(Incarnation, u64)>,
    pub(crate) shared: Option<u64>,
    pub(crate) cookie: Option<([u8; MAC_BYTES], Instant)>,
    pub(crate) pinned: Option<Incarnation>,
    pub(crate) refused_by: Option<Code>,
    pub(crate) refusing: Option<Code>,
    pub(crate) reports: Cow<'a, Reports>,
    pub(crate) open: Option<Cow<'a, Open>>,
    pub(crate) counters: PeerCounters,
}

/// Keys of one handshake.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfKeys<'a> {
    #[serde(with = "oarlock_layout::written::bytes")]
    keys: Vec<u8>,
    receiver: u32,
    sender: u32,
    number: u64,
    replay: Cow<'a, ReplayWindow>,
    born: Instant,
    initiator: bool,
    run: Run,
}

impl<'a> OfKeys<'a> {
    pub(crate) fn write(epoch: &'a KeyEpoch) -> OfKeys<'a> {
        OfKeys {
            keys: epoch.keys.export(),
            receiver: epoch.receiver,
            sender: epoch.sender,
            number: epoch.number,
            replay: Cow::Borrowed(&epoch.replay),
            born: epoch.born,
            initiator: epoch.initiator,
            run: epoch.run,
        }
    }

    pub(crate) fn read(self, seal: &dyn Seal) -> Result<KeyEpoch, Contradiction> {
        let keys = seal.restore(&self.keys).map_err(|_| Contradiction("keys of a circuit are no keys"))?;
        Ok(KeyEpoch {
            keys,
            receiver: self.receiver,
            sender: self.sender,
            number: self.number,
            replay: Box::new(self.replay.into_owned()),
            born: self.born,
            initiator: self.initiator,
            run: self.run,
        })
    }
}

impl Circuits {
    /// All that this run's circuits remember. Who goes on from it must be the only one who does: packets are numbered.
    ///
    /// # Panics
    /// If outputs wait to be polled.
    pub fn write(&self) -> Written<'_> {
        assert!(self.outputs.is_empty(), "outputs wait while the circuits are written down");
        Written {
            run: self.run,
            greetings: self.greetings,
            chance: self.chance.clone(),
            door: Cow::Borrowed(&self.door),
            strangers: Cow::Borrowed(&self.strangers),
            places: self.circuits.all().map(|it| it.map(Circuit::write)).collect(),
            gone: self.gone,
            busy: self.busy,
            turn: self.turn,
            counts: self.counts,
        }
    }

    /// The circuits that were written. Who the peers are is written as well; those of `config` do not count.
    ///
    /// # Errors
    /// If it cannot have been written by circuits of this seal.
    pub fn read(
        mut config: Config,
        seal: Box<dyn Seal + Send>,
        written: Written<'_>,
    ) -> Result<Circuits, Contradiction> {
        if written.places.len() > NODES_MAX {
            return Err(Contradiction("there are more circuits than members"));
        }
        let there = |bit: u32| written.places.get(bit as usize).is_some_and(Option::is_some);
        if (0..u64::BITS).any(|bit| written.busy >> bit & 1 == 1 && !there(bit)) || written.turn >= u64::BITS
        {
            return Err(Contradiction("a circuit that is not there has something to say"));
        }
        let circuits = (written.places.into_iter())
            .map(|it| it.map(|it| Circuit::read(it, config.options, seal.as_ref())).transpose())
            .collect::<Result<Vec<_>, _>>()?;
        let circuits = Places::from(circuits);
        config.peers = circuits.iter().map(|circuit| circuit.peer).collect();
        Ok(Circuits {
            prologue: crate::circuits::prologue(&config.cluster),
            config,
            seal,
            run: written.run,
            greetings: written.greetings,
            chance: written.chance,
            door: written.door.into_owned(),
            strangers: written.strangers.into_owned(),
            circuits,
            gone: written.gone,
            outputs: VecDeque::new(),
            busy: written.busy,
            turn: written.turn,
            counts: written.counts,
        })
    }

    /// Whatever was not acknowledged was never to be sent.
    #[cfg(feature = "planted")]
    pub fn lose_unacknowledged(&mut self) {
        for (_, circuit) in self.circuits.iter_mut() {
            for outbound in circuit.open.iter_mut().flat_map(Open::outbound) {
                outbound.lose();
            }
        }
    }

    /// Whether a handshake that this end has begun waits for its answer. It would be begun again by whoever goes on from what is
    /// written.
    pub fn is_greeting(&self) -> bool {
        self.circuits.iter().any(|circuit| circuit.attempt.is_some())
    }

    /// What is not written.
    pub fn into_seal(self) -> Box<dyn Seal + Send> {
        self.seal
    }
}

impl Circuit {
    fn write(&self) -> OfCircuit<'_> {
        let [previous, current, next] = self.keys.write();
        OfCircuit {
            peer: self.peer,
            previous,
            current,
            next,
            knocking: self.knocking_anew(),
            newest_hello: self.newest_hello,
            shared: self.shared,
            cookie: self.cookie,
            pinned: self.pinned,
            refused_by: self.refused_by,
            refusing: self.refusing,
            next_key: self.next_key,
            reports: Cow::Borrowed(&self.reports),
            open: self.open.as_ref().map(Cow::Borrowed),
            counters: self.counters,
        }
    }

    fn read(written: OfCircuit<'_>, options: Options, seal: &dyn Seal) -> Result<Circuit, Contradiction> {
        let keys = [written.previous, written.current, written.next];
        let mut circuit = Circuit::new(written.peer, options);
        circuit.keys.read(keys, seal)?;
        circuit.knocking = written.knocking;
        circuit.newest_hello = written.newest_hello;
        circuit.shared = written.shared;
        circuit.cookie = written.cookie;
        circuit.pinned = written.pinned;
        circuit.refused_by = written.refused_by;
        circuit.refusing = written.refusing;
        circuit.next_key = written.next_key;
        circuit.reports = written.reports.into_owned();
        circuit.open = written.open.map(Cow::into_owned);
        circuit.counters = written.counters;
        Ok(circuit)
    }
}
