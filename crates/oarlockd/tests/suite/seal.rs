//! Cryptography: the daemon's Noise and AEAD, and the simulator's keyed checksum.

use std::mem;
use std::path::PathBuf;

use oarlock_layout::seal::{
    Arrival, Initiation, Keys, MAC_BYTES, MacKey, NotAuthentic, PublicKey, Response, Seal, TAG_BYTES,
};
use oarlock_sim::Random;
use oarlock_sim::seal::ChecksumSeal;
use oarlockd::host::key::Secret;
use oarlockd::host::seal::HostSeal;

use super::{Claim, claims};

type AnySeal = Box<dyn Seal + Send>;
type AnyKeys = Box<dyn Keys + Send>;

/// Cryptography for nodes. Nodes and cluster secrets are numbered.
pub(crate) trait Seals {
    /// The seal of a node with this cluster secret, as its next run has it, and its public key.
    fn seal(&mut self, node: usize, secret: usize) -> (AnySeal, PublicKey);
}

/// What a first and a second message add to their payloads at most: an ephemeral key, in the first one a sealed
/// static key, a tag, and a byte about ciphers.
const FIRST_OVERHEAD_MAX: usize = 32 + 48 + 16 + 1;
const SECOND_OVERHEAD_MAX: usize = 32 + 16 + 1;
const PROLOGUE: &[u8] = b"prologue";

pub(crate) fn claims<W: Seals>() -> Vec<Claim<W>> {
    claims![
        what_one_end_seals_the_other_opens
        nothing_but_what_was_sealed_opens
        keys_of_one_handshake_open_nothing_of_another
        a_handshake_carries_payloads_and_the_senders_key
        sizes_are_as_promised
        no_changed_handshake_message_is_read_and_none_spoils_an_attempt
        only_the_right_key_secret_and_prologue_finish_a_handshake
        garbage_is_refused_and_a_key_that_is_none_can_be_greeted
        codes_agree_within_a_cluster_and_nowhere_else
        a_node_has_one_key_through_all_its_runs_and_no_other_has_it
    ]
}

/// What both ends have after a handshake.
struct Shaken {
    first: Vec<u8>,
    second: Vec<u8>,
    a: AnyKeys,
    b: AnyKeys,
}

fn shake(a: &mut AnySeal, b: &mut AnySeal, to: &PublicKey) -> Result<Shaken, NotAuthentic> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let mut waiting = a.initiate(to, PROLOGUE, b"from a", &mut first);
    let mut arrival = b.respond(PROLOGUE, &first)?;
    assert_eq!(arrival.payload, b"from a");
    let keys_of_b = arrival.response.accept(b"from b", &mut second);
    let (payload, keys_of_a) = waiting.finish(&second)?;
    assert_eq!(payload, b"from b");
    Ok(Shaken { first, second, a: keys_of_a, b: keys_of_b })
}

fn pair<W: Seals>(w: &mut W) -> Shaken {
    let ((mut a, _), (mut b, key)) = (w.seal(0, 0), w.seal(1, 0));
    shake(&mut a, &mut b, &key).expect("both are of one cluster")
}

/// Body and tag, as they lie in a datagram.
fn sealed(keys: &mut AnyKeys, number: u64, header: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = body.to_vec();
    let tag = keys.seal(number, header, &mut bytes);
    bytes.extend(tag);
    bytes
}

fn opened(keys: &mut AnyKeys, number: u64, header: &[u8], sealed: &[u8]) -> Result<Vec<u8>, NotAuthentic> {
    let mut bytes = sealed.to_vec();
    keys.open(number, header, &mut bytes)?;
    bytes.truncate(bytes.len() - TAG_BYTES);
    Ok(bytes)
}

fn what_one_end_seals_the_other_opens<W: Seals>(w: &mut W) {
    let mut s = pair(w);
    // Datagrams overtake each other, so numbers come in any order.
    for (number, length) in [(0, 0), (1, 1), (900, 15), (7, 16), (8, 17), (u64::MAX, 1200), (6, 65_000)] {
        for header in [&b""[..], b"header", &[7; 100]] {
            let body: Vec<u8> = (0..length).map(|i| i as u8).collect();
            for forth in [true, false] {
                let (from, to) = if forth { (&mut s.a, &mut s.b) } else { (&mut s.b, &mut s.a) };
                let packet = sealed(from, number, header, &body);
                assert_eq!(packet.len(), length + TAG_BYTES);
                assert!(length < 15 || packet[..length] != body[..], "{length} bytes can be read by anybody");
                assert!(opened(to, number, header, &packet) == Ok(body.clone()), "{number}, {length} bytes");
            }
        }
    }
}

fn nothing_but_what_was_sealed_opens<W: Seals>(w: &mut W) {
    let mut s = pair(w);
    let packet = sealed(&mut s.a, 7, b"header", b"a body of some length");
    for bit in 0..packet.len() * 8 {
        let mut changed = packet.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(opened(&mut s.b, 7, b"header", &changed), Err(NotAuthentic), "bit {bit} was flipped");
    }
    for length in 0..packet.len() {
        assert_eq!(opened(&mut s.b, 7, b"header", &packet[..length]), Err(NotAuthentic), "cut to {length}");
        assert_eq!(opened(&mut s.b, 7, b"header", &packet[length + 1..]), Err(NotAuthentic));
    }
    let longer = [&packet[..], &[0]].concat();
    assert_eq!(opened(&mut s.b, 7, b"header", &longer), Err(NotAuthentic));
    for bit in 0..64 {
        assert_eq!(opened(&mut s.b, 7 ^ (1 << bit), b"header", &packet), Err(NotAuthentic), "another number");
    }
    for bit in 0..48 {
        let mut header = *b"header";
        header[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(opened(&mut s.b, 7, &header, &packet), Err(NotAuthentic), "another header");
    }
    for header in [&b"heade"[..], b"header ", b""] {
        assert_eq!(opened(&mut s.b, 7, header, &packet), Err(NotAuthentic));
    }
    assert_eq!(opened(&mut s.a, 7, b"header", &packet), Err(NotAuthentic), "back to its sender");
    assert!(opened(&mut s.b, 7, b"header", &packet).is_ok(), "after all that it still opens");
}

fn keys_of_one_handshake_open_nothing_of_another<W: Seals>(w: &mut W) {
    let ((mut a, _), (mut b, key)) = (w.seal(0, 0), w.seal(1, 0));
    let mut one = shake(&mut a, &mut b, &key).unwrap();
    let mut two = shake(&mut a, &mut b, &key).unwrap();
    let (p, q) = (sealed(&mut one.a, 1, b"h", b"a body"), sealed(&mut two.a, 1, b"h", b"a body"));
    assert_ne!(p, q, "the same keys twice");
    assert_eq!(opened(&mut two.b, 1, b"h", &p), Err(NotAuthentic));
    assert_eq!(opened(&mut one.b, 1, b"h", &q), Err(NotAuthentic));
    // A first message that is sent again is read again; but nobody who cannot finish has the keys.
    let (mut first, mut second, mut third) = (Vec::new(), Vec::new(), Vec::new());
    let mut waiting = a.initiate(&key, PROLOGUE, b"", &mut first);
    let mut keys_of_b = b.respond(PROLOGUE, &first).unwrap().response.accept(b"", &mut second);
    let mut keys_of_replay = b.respond(PROLOGUE, &first).unwrap().response.accept(b"", &mut third);
    assert_ne!(second, third);
    let mut keys_of_a = waiting.finish(&second).unwrap().1;
    let packet = sealed(&mut keys_of_a, 0, b"h", b"a body");
    assert_eq!(opened(&mut keys_of_replay, 0, b"h", &packet), Err(NotAuthentic));
    assert!(opened(&mut keys_of_b, 0, b"h", &packet).is_ok());
}

fn a_handshake_carries_payloads_and_the_senders_key<W: Seals>(w: &mut W) {
    let ((mut a, key_of_a), (mut b, key_of_b)) = (w.seal(0, 0), w.seal(1, 0));
    for length in [0, 1, 40, 900] {
        let payload = vec![5; length];
        let (mut first, mut second) = (b"before".to_vec(), b"before".to_vec());
        let mut waiting = a.initiate(&key_of_b, PROLOGUE, &payload, &mut first);
        assert_eq!(&first[..6], b"before", "messages are appended");
        let mut arrival = b.respond(PROLOGUE, &first[6..]).unwrap();
        assert_eq!((arrival.key, &arrival.payload), (key_of_a, &payload));
        arrival.response.accept(&payload, &mut second);
        assert_eq!(&second[..6], b"before");
        assert_eq!(waiting.finish(&second[6..]).unwrap().0, payload);
        let secret = |message: &[u8]| !message.windows(length).any(|part| part == payload);
        assert!(length < 40 || secret(&first) && secret(&second), "a payload can be read by anybody");
    }
}

fn sizes_are_as_promised<W: Seals>(w: &mut W) {
    let ((mut a, _), (mut b, key)) = (w.seal(0, 0), w.seal(1, 0));
    for length in [0, 1, 100, 900] {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        a.initiate(&key, PROLOGUE, &vec![1; length], &mut first);
        b.respond(PROLOGUE, &first).unwrap().response.accept(&vec![1; length], &mut second);
        assert!(first.len() <= length + FIRST_OVERHEAD_MAX, "{} for {length}", first.len());
        assert!(second.len() <= length + SECOND_OVERHEAD_MAX, "{} for {length}", second.len());
    }
}

fn no_changed_handshake_message_is_read_and_none_spoils_an_attempt<W: Seals>(w: &mut W) {
    let ((mut a, _), (mut b, key)) = (w.seal(0, 0), w.seal(1, 0));
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let mut waiting = a.initiate(&key, PROLOGUE, b"from a", &mut first);
    let changed = |message: &[u8], at: usize| {
        let mut changed = message.to_vec();
        changed[at] ^= 1 << (at % 8);
        changed
    };
    for at in 0..first.len() {
        assert!(b.respond(PROLOGUE, &changed(&first, at)).is_err(), "byte {at} was changed");
        assert!(b.respond(PROLOGUE, &first[..at]).is_err(), "cut to {at}");
    }
    b.respond(PROLOGUE, &first).unwrap().response.accept(b"from b", &mut second);
    for at in 0..second.len() {
        assert!(waiting.finish(&changed(&second, at)).is_err(), "byte {at} was changed");
        assert!(waiting.finish(&second[..at]).is_err(), "cut to {at}");
    }
    assert!(waiting.finish(&first).is_err());
    assert_eq!(waiting.finish(&second).expect("the right one still counts").0, b"from b");
}

fn only_the_right_key_secret_and_prologue_finish_a_handshake<W: Seals>(w: &mut W) {
    let ((mut a, _), (mut b, key_of_b), (_, key_of_c)) = (w.seal(0, 0), w.seal(1, 0), w.seal(2, 0));
    assert!(shake(&mut a, &mut b, &key_of_b).is_ok());
    assert!(shake(&mut a, &mut b, &key_of_c).is_err(), "read by another than it was for");
    let (mut stranger, key) = w.seal(1, 1);
    assert!(shake(&mut a, &mut stranger, &key).is_err(), "another cluster's secret");
    assert!(shake(&mut stranger, &mut b, &key_of_b).is_err(), "another cluster's secret");
    for prologue in [&b"prologuE"[..], b"", b"prologue "] {
        let mut first = Vec::new();
        a.initiate(&key_of_b, prologue, b"", &mut first);
        assert!(b.respond(PROLOGUE, &first).is_err(), "another prologue");
    }
}

fn garbage_is_refused_and_a_key_that_is_none_can_be_greeted<W: Seals>(w: &mut W) {
    let ((mut a, _), (mut b, key)) = (w.seal(0, 0), w.seal(1, 0));
    let mut random = Random::new(5);
    let mut waiting = a.initiate(&key, PROLOGUE, b"", &mut Vec::new());
    for length in 0..300 {
        let mut garbage: Vec<u8> = (0..length).map(|_| random.bits() as u8).collect();
        assert!(b.respond(PROLOGUE, &garbage).is_err() && waiting.finish(&garbage).is_err());
        // The beginnings that curves and fields treat in their own ways.
        for first in [0, 1, 0xff] {
            garbage.iter_mut().take(32).for_each(|byte| *byte = first);
            assert!(b.respond(PROLOGUE, &garbage).is_err() && waiting.finish(&garbage).is_err());
        }
    }
    // A configuration may name any 32 bytes.
    for bytes in [[0; 32], [1; 32], [0xff; 32]] {
        let mut first = Vec::new();
        a.initiate(&PublicKey(bytes), PROLOGUE, b"hello", &mut first);
        assert!(b.respond(PROLOGUE, &first).is_err());
    }
}

fn codes_agree_within_a_cluster_and_nowhere_else<W: Seals>(w: &mut W) {
    let ((a, _), (b, _), (stranger, _)) = (w.seal(0, 0), w.seal(1, 0), w.seal(0, 1));
    let parts: [&[u8]; 3] = [b"header", b"", b"body"];
    let (given, other) = ([3; MAC_BYTES], [4; MAC_BYTES]);
    let keys = [MacKey::Cluster, MacKey::Given(&given), MacKey::Given(&other)];
    let mut codes = Vec::new();
    for key in keys {
        let code = a.mac(key, &parts);
        assert_eq!((code, code), (a.mac(key, &parts), b.mac(key, &parts)));
        for changed in [[&b"Header"[..], b"", b"body"], [b"header", b"", b"bodY"], [b"header", b"x", b"body"]]
        {
            assert_ne!(code, a.mac(key, &changed), "{changed:?}");
        }
        assert_ne!(code, a.mac(key, &parts[..2]));
        codes.push(code);
    }
    assert!(codes[0] != codes[1] && codes[1] != codes[2] && codes[0] != codes[2]);
    assert_ne!(codes[0], stranger.mac(MacKey::Cluster, &parts), "the code of another cluster");
}

fn a_node_has_one_key_through_all_its_runs_and_no_other_has_it<W: Seals>(w: &mut W) {
    let keys: Vec<PublicKey> = (0..3).map(|node| w.seal(node, 0).1).collect();
    assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2]);
    for (node, key) in keys.iter().enumerate() {
        let (mut seal, again) = w.seal(node, 0);
        assert_eq!(again, *key);
        // And it owns the other half.
        let mut peer = w.seal((node + 1) % 3, 0).0;
        let shaken = shake(&mut peer, &mut seal, key).expect("the same key");
        assert!(!shaken.second.is_empty() && shaken.first != shaken.second);
    }
}

// ----- the kernel ---------------------------------------------------------------------------------------

/// Key files and real ciphers. A run of a node reads its key from its file.
pub(crate) struct Kernel {
    dir: tempfile::TempDir,
    aes: [bool; 3],
}

impl Kernel {
    /// `aes` says of each node whether it has AES in hardware.
    pub(crate) fn new(aes: [bool; 3]) -> Kernel {
        let dir = tempfile::tempdir().unwrap();
        let kernel = Kernel { dir, aes };
        for name in ["node0", "node1", "node2", "secret0", "secret1"] {
            Secret::generate().write_new(&kernel.path(name)).unwrap();
        }
        kernel
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Seals for Kernel {
    fn seal(&mut self, node: usize, secret: usize) -> (AnySeal, PublicKey) {
        let key = Secret::read(&self.path(&format!("node{node}"))).unwrap();
        let secret = Secret::read(&self.path(&format!("secret{secret}"))).unwrap();
        let seal = HostSeal::with_aes(key.bytes(), secret.bytes(), self.aes[node]);
        (Box::new(seal), PublicKey(key.public()))
    }
}

// ----- the stand-in -------------------------------------------------------------------------------------

/// Keyed checksums. Each run has a seed of its own, as in the simulator.
pub(crate) struct Simulated {
    runs: u64,
}

impl Simulated {
    pub(crate) fn new(seed: u64) -> Simulated {
        Simulated { runs: seed << 32 }
    }
}

impl Seals for Simulated {
    fn seal(&mut self, node: usize, secret: usize) -> (AnySeal, PublicKey) {
        self.runs += 1;
        let seal = ChecksumSeal::new(node as u64 + 1, secret as u64 + 100, self.runs);
        let key = seal.public_key();
        (Box::new(seal), key)
    }
}

// ----- faults -------------------------------------------------------------------------------------------

/// What a seal could do wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    SealsInPlainText,
    ForgetsToOpen,
    OpensAnything,
    NumberIsNotCovered,
    HeaderIsNotCovered,
    SameKeysEachTime,
    ReadsOnlyHalf,
    TooLong,
    ReadsAnyFirst,
    SpoiledByAForgery,
    NoSecret,
    NoPrologue,
    PanicsAtGarbage,
    CodesOfAllClusters,
    CodesWithoutKey,
    NewKeyEachRun,
}

pub(crate) const FAULTS: &[(Fault, &str)] = &[
    (Fault::SealsInPlainText, "what_one_end_seals_the_other_opens"),
    (Fault::ForgetsToOpen, "what_one_end_seals_the_other_opens"),
    (Fault::OpensAnything, "nothing_but_what_was_sealed_opens"),
    (Fault::NumberIsNotCovered, "nothing_but_what_was_sealed_opens"),
    (Fault::HeaderIsNotCovered, "nothing_but_what_was_sealed_opens"),
    (Fault::SameKeysEachTime, "keys_of_one_handshake_open_nothing_of_another"),
    (Fault::ReadsOnlyHalf, "a_handshake_carries_payloads_and_the_senders_key"),
    (Fault::TooLong, "sizes_are_as_promised"),
    (Fault::ReadsAnyFirst, "no_changed_handshake_message_is_read_and_none_spoils_an_attempt"),
    (Fault::SpoiledByAForgery, "no_changed_handshake_message_is_read_and_none_spoils_an_attempt"),
    (Fault::NoSecret, "only_the_right_key_secret_and_prologue_finish_a_handshake"),
    (Fault::NoPrologue, "only_the_right_key_secret_and_prologue_finish_a_handshake"),
    (Fault::PanicsAtGarbage, "garbage_is_refused_and_a_key_that_is_none_can_be_greeted"),
    (Fault::CodesOfAllClusters, "codes_agree_within_a_cluster_and_nowhere_else"),
    (Fault::CodesWithoutKey, "codes_agree_within_a_cluster_and_nowhere_else"),
    (Fault::NewKeyEachRun, "a_node_has_one_key_through_all_its_runs_and_no_other_has_it"),
];

/// Seals with a fault.
pub(crate) struct Faulty {
    inner: Simulated,
    fault: Fault,
}

impl Faulty {
    pub(crate) fn new(fault: Fault) -> Faulty {
        Faulty { inner: Simulated::new(1), fault }
    }
}

impl Seals for Faulty {
    fn seal(&mut self, node: usize, secret: usize) -> (AnySeal, PublicKey) {
        let secret = if self.fault == Fault::NoSecret { 0 } else { secret };
        let node = if self.fault == Fault::NewKeyEachRun { self.inner.runs as usize } else { node };
        let (seal, key) = self.inner.seal(node, secret);
        (Box::new(FaultySeal { inner: seal, fault: self.fault, node, secret }), key)
    }
}

struct FaultySeal {
    inner: AnySeal,
    fault: Fault,
    node: usize,
    secret: usize,
}

impl FaultySeal {
    /// The same node's seal, always with the same chance.
    fn stuck(&self) -> ChecksumSeal {
        ChecksumSeal::new(self.node as u64 + 1, self.secret as u64 + 100, 7)
    }

    fn begin(&mut self) {
        if self.fault == Fault::SameKeysEachTime {
            self.inner = Box::new(self.stuck());
        }
    }

    fn prologue<'a>(&self, prologue: &'a [u8]) -> &'a [u8] {
        if self.fault == Fault::NoPrologue { b"" } else { prologue }
    }
}

impl Seal for FaultySeal {
    fn initiate(
        &mut self,
        to: &PublicKey,
        prologue: &[u8],
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Box<dyn Initiation + Send> {
        self.begin();
        let prologue = self.prologue(prologue);
        let payload = match self.fault {
            Fault::ReadsOnlyHalf => &payload[..payload.len() / 2],
            _ => payload,
        };
        let inner = self.inner.initiate(to, prologue, payload, out);
        if self.fault == Fault::TooLong {
            out.extend([0; 2]);
        }
        Box::new(FaultyInitiation { inner, fault: self.fault, spoiled: false })
    }

    fn respond(&mut self, prologue: &[u8], message: &[u8]) -> Result<Arrival, NotAuthentic> {
        self.begin();
        let prologue = self.prologue(prologue);
        assert!(self.fault != Fault::PanicsAtGarbage || message.len() != 17, "the fault");
        let message = match self.fault {
            Fault::TooLong => &message[..message.len().saturating_sub(2)],
            _ => message,
        };
        let mut arrival = match (self.inner.respond(prologue, message), self.fault) {
            (Err(NotAuthentic), Fault::ReadsAnyFirst) => {
                let mut first = Vec::new();
                let mine = self.stuck().public_key();
                self.inner.initiate(&mine, prologue, b"", &mut first);
                self.inner.respond(prologue, &first)
            }
            (arrival, _) => arrival,
        }?;
        let response = mem::replace(&mut arrival.response, Box::new(Nobody));
        arrival.response = Box::new(FaultyResponse { inner: response, fault: self.fault });
        Ok(arrival)
    }

    fn mac(&self, key: MacKey<'_>, parts: &[&[u8]]) -> [u8; MAC_BYTES] {
        match (self.fault, key) {
            (Fault::CodesOfAllClusters, MacKey::Cluster) => {
                self.inner.mac(MacKey::Given(&[9; MAC_BYTES]), parts)
            }
            (Fault::CodesWithoutKey, MacKey::Given(_)) => {
                self.inner.mac(MacKey::Given(&[0; MAC_BYTES]), parts)
            }
            _ => self.inner.mac(key, parts),
        }
    }

    fn restore(&self, exported: &[u8]) -> Result<AnyKeys, NotAuthentic> {
        Ok(Box::new(FaultyKeys { inner: self.inner.restore(exported)?, fault: self.fault }))
    }
}

/// Stands where a response was taken out.
struct Nobody;

impl Response for Nobody {
    fn accept(&mut self, _payload: &[u8], _out: &mut Vec<u8>) -> AnyKeys {
        unreachable!("it is replaced at once")
    }
}

struct FaultyInitiation {
    inner: Box<dyn Initiation + Send>,
    fault: Fault,
    spoiled: bool,
}

impl Initiation for FaultyInitiation {
    fn finish(&mut self, message: &[u8]) -> Result<(Vec<u8>, AnyKeys), NotAuthentic> {
        let result = self.inner.finish(message);
        self.spoiled |= result.is_err() && self.fault == Fault::SpoiledByAForgery;
        if self.spoiled {
            return Err(NotAuthentic);
        }
        let (payload, keys) = result?;
        Ok((payload, Box::new(FaultyKeys { inner: keys, fault: self.fault })))
    }
}

struct FaultyResponse {
    inner: Box<dyn Response + Send>,
    fault: Fault,
}

impl Response for FaultyResponse {
    fn accept(&mut self, payload: &[u8], out: &mut Vec<u8>) -> AnyKeys {
        let keys = self.inner.accept(payload, out);
        Box::new(FaultyKeys { inner: keys, fault: self.fault })
    }
}

struct FaultyKeys {
    inner: AnyKeys,
    fault: Fault,
}

impl FaultyKeys {
    fn covered<'a>(&self, number: u64, header: &'a [u8]) -> (u64, &'a [u8]) {
        match self.fault {
            Fault::NumberIsNotCovered => (0, header),
            Fault::HeaderIsNotCovered => (number, b""),
            _ => (number, header),
        }
    }
}

impl Keys for FaultyKeys {
    fn seal(&mut self, number: u64, header: &[u8], body: &mut [u8]) -> [u8; TAG_BYTES] {
        let (number, header) = self.covered(number, header);
        let plain = body.to_vec();
        let tag = self.inner.seal(number, header, body);
        if self.fault == Fault::SealsInPlainText {
            body.copy_from_slice(&plain);
        }
        tag
    }

    fn open(&mut self, number: u64, header: &[u8], sealed: &mut [u8]) -> Result<(), NotAuthentic> {
        let (number, header) = self.covered(number, header);
        let before = sealed.to_vec();
        let result = self.inner.open(number, header, sealed);
        match self.fault {
            Fault::OpensAnything if sealed.len() >= TAG_BYTES => Ok(()),
            Fault::ForgetsToOpen => {
                sealed.copy_from_slice(&before);
                result
            }
            _ => result,
        }
    }

    fn export(&self) -> Vec<u8> {
        self.inner.export()
    }
}
