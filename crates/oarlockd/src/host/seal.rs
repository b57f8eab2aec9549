//! The cryptography of circuits: Noise for the handshake, an AEAD for packets, HMAC for proofs and cookies.
//!
//! The handshake is `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s`: both ends know each other's static key before
//! (IK), and the cluster secret is mixed in as well (psk2), so a stolen node key alone opens nothing. Of Noise
//! only the two handshake messages are used. The two keys it ends with seal packets with AES-256-GCM, or with
//! ChaCha20-Poly1305 if either end lacks the instructions that make AES fast: it is then not only slow but
//! leaks through timing. The ends agree on that by one byte inside the encrypted handshake payloads.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use oarlock_layout::seal::{
    Arrival, Initiation, Keys, MAC_BYTES, MacKey, NotAuthentic, PublicKey, Response, Seal, TAG_BYTES,
};
use snow::{Builder, HandshakeState};

use super::keychain::OwnKeys;

const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
/// The pre-shared key enters at the end of the second message.
const PSK_PLACE: u8 = 2;
/// Room that a handshake message needs besides its payload: one ephemeral key, one sealed static key, tags.
const HANDSHAKE_ROOM: usize = 32 + 48 + 16;
const KEY_BYTES: usize = 32;

/// A node's private key and the cluster secret, ready for use.
///
/// ```
/// use oarlock_layout::seal::{PublicKey, Seal};
/// use oarlockd::host::seal::HostSeal;
/// # use oarlockd::host::key::Secret;
/// # let (mine, theirs, cluster) = (Secret::generate(), Secret::generate(), Secret::generate());
/// let mut a = HostSeal::new(mine.bytes(), cluster.bytes());
/// let mut b = HostSeal::new(theirs.bytes(), cluster.bytes());
/// let (mut hello, mut reply) = (Vec::new(), Vec::new());
/// let mut waiting = a.initiate(&PublicKey(theirs.public()), b"prologue", b"it is me", &mut hello);
/// let mut arrival = b.respond(b"prologue", &hello).unwrap();
/// assert_eq!(arrival.key, PublicKey(mine.public()));
/// let keys_of_b = arrival.response.accept(b"welcome", &mut reply);
/// let (payload, keys_of_a) = waiting.finish(&reply).unwrap();
/// assert_eq!(payload, b"welcome");
/// ```
pub struct HostSeal {
    own: OwnKeys,
    secret: [u8; KEY_BYTES],
    proof: hmac::Key,
    aes: bool,
}

impl HostSeal {
    /// Seals with the best cipher of this machine that the peer has too.
    pub fn new(private: [u8; KEY_BYTES], secret: [u8; KEY_BYTES]) -> HostSeal {
        HostSeal::with_aes(private, secret, machine_has_aes())
    }

    /// The same, with or without AES whatever the machine has; without it every packet from and to this node
    /// is sealed with ChaCha20-Poly1305.
    pub fn with_aes(private: [u8; KEY_BYTES], secret: [u8; KEY_BYTES], aes: bool) -> HostSeal {
        HostSeal::of(OwnKeys::new(private), secret, aes)
    }

    /// Seals for whoever owns one of these keys, which may change meanwhile.
    pub fn changing(own: OwnKeys, secret: [u8; KEY_BYTES]) -> HostSeal {
        HostSeal::of(own, secret, machine_has_aes())
    }

    fn of(own: OwnKeys, secret: [u8; KEY_BYTES], aes: bool) -> HostSeal {
        // Noise uses the secret itself; the proofs get a key of their own that follows from it.
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), b"oarlock datagram proof");
        let proof = hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref());
        HostSeal { own, secret, proof, aes }
    }

    fn builder<'a>(&'a self, private: &'a [u8; KEY_BYTES], prologue: &'a [u8]) -> Builder<'a> {
        Builder::new(PATTERN.parse().expect("a pattern that snow knows"))
            .local_private_key(private)
            .and_then(|builder| builder.psk(PSK_PLACE, &self.secret))
            .and_then(|builder| builder.prologue(prologue))
            .expect("each is given once")
    }
}

/// True where the processor multiplies and substitutes for AES-GCM in hardware.
pub fn machine_has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

impl Seal for HostSeal {
    fn initiate(
        &mut self,
        to: &PublicKey,
        prologue: &[u8],
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Box<dyn Initiation + Send> {
        let private = self.own.first();
        let mut state = self
            .builder(&private, prologue)
            .remote_public_key(&to.0)
            .and_then(Builder::build_initiator)
            .expect("a complete initiator");
        write(&mut state, payload, self.aes, out);
        Box::new(Waiting { state, aes: self.aes })
    }

    fn respond(&mut self, prologue: &[u8], message: &[u8]) -> Result<Arrival, NotAuthentic> {
        let mut state = None;
        // Made for one of them; whoever asks may not know yet which is the newest.
        for private in self.own.all() {
            let mut tried = self.builder(&private, prologue).build_responder().expect("a complete responder");
            if let Ok(said) = read(&mut tried, message) {
                state = Some((tried, said));
                break;
            }
        }
        let (state, (payload, theirs)) = state.ok_or(NotAuthentic)?;
        let key = state.get_remote_static().and_then(|key| key.try_into().ok()).ok_or(NotAuthentic)?;
        let answer = Answering { state, mine: self.aes, theirs };
        Ok(Arrival { key: PublicKey(key), payload, response: Box::new(answer) })
    }

    fn mac(&self, key: MacKey<'_>, parts: &[&[u8]]) -> [u8; MAC_BYTES] {
        let mut context = match key {
            MacKey::Cluster => hmac::Context::with_key(&self.proof),
            MacKey::Given(key) => hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key)),
        };
        parts.iter().for_each(|part| context.update(part));
        let code = context.sign();
        code.as_ref()[..MAC_BYTES].try_into().expect("a code is longer than what is used of it")
    }

    fn restore(&self, exported: &[u8]) -> Result<Box<dyn Keys + Send>, NotAuthentic> {
        Ok(Box::new(PacketKeys::restore(exported.try_into().map_err(|_| NotAuthentic)?)?))
    }
}

/// Appends a handshake message with `payload` and our ciphers.
fn write(state: &mut HandshakeState, payload: &[u8], aes: bool, out: &mut Vec<u8>) {
    let payload = [payload, &[u8::from(aes)]].concat();
    let at = out.len();
    out.resize(at + payload.len() + HANDSHAKE_ROOM, 0);
    let length = state.write_message(&payload, &mut out[at..]).expect("our turn, and room enough");
    out.truncate(at + length);
}

/// Reads a handshake message: its payload, and whether its sender has AES.
fn read(state: &mut HandshakeState, message: &[u8]) -> Result<(Vec<u8>, bool), NotAuthentic> {
    let mut payload = vec![0; message.len()];
    let length = state.read_message(message, &mut payload).map_err(|_| NotAuthentic)?;
    payload.truncate(length);
    match payload.pop() {
        Some(0) => Ok((payload, false)),
        Some(1) => Ok((payload, true)),
        _ => Err(NotAuthentic),
    }
}

struct Waiting {
    state: HandshakeState,
    aes: bool,
}

impl Initiation for Waiting {
    fn finish(&mut self, message: &[u8]) -> Result<(Vec<u8>, Box<dyn Keys + Send>), NotAuthentic> {
        // A failed read leaves the state as it was.
        let (payload, theirs) = read(&mut self.state, message)?;
        let (mine, other) = self.state.dangerously_get_raw_split();
        Ok((payload, Box::new(PacketKeys::new(&mine, &other, self.aes && theirs))))
    }
}

struct Answering {
    state: HandshakeState,
    mine: bool,
    theirs: bool,
}

impl Response for Answering {
    fn accept(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Box<dyn Keys + Send> {
        write(&mut self.state, payload, self.mine, out);
        let (other, mine) = self.state.dangerously_get_raw_split();
        Box::new(PacketKeys::new(&mine, &other, self.mine && self.theirs))
    }
}

struct PacketKeys {
    sending: LessSafeKey,
    receiving: LessSafeKey,
    /// As they are handed over to the process that goes on with the run. The cipher's own form of them lies beside it in
    /// memory, and is no better hidden.
    exported: [u8; EXPORTED_BYTES],
}

/// One byte for the cipher, the key for sending, the key for receiving.
const EXPORTED_BYTES: usize = 1 + 2 * KEY_BYTES;

impl PacketKeys {
    fn new(sending: &[u8; KEY_BYTES], receiving: &[u8; KEY_BYTES], aes: bool) -> PacketKeys {
        let algorithm: &'static Algorithm = if aes { &AES_256_GCM } else { &CHACHA20_POLY1305 };
        let key = |bytes| LessSafeKey::new(UnboundKey::new(algorithm, bytes).expect("both take 32 bytes"));
        let mut exported = [0; EXPORTED_BYTES];
        exported[0] = u8::from(aes);
        exported[1..=KEY_BYTES].copy_from_slice(sending);
        exported[1 + KEY_BYTES..].copy_from_slice(receiving);
        PacketKeys { sending: key(sending), receiving: key(receiving), exported }
    }

    fn restore(exported: &[u8; EXPORTED_BYTES]) -> Result<PacketKeys, NotAuthentic> {
        let (aes, keys) = exported.split_first().expect("it is longer");
        let (sending, receiving) = keys.split_first_chunk::<KEY_BYTES>().expect("two keys");
        let receiving = receiving.first_chunk().expect("two keys");
        match aes {
            0 => Ok(PacketKeys::new(sending, receiving, false)),
            1 => Ok(PacketKeys::new(sending, receiving, true)),
            _ => Err(NotAuthentic),
        }
    }
}

impl Keys for PacketKeys {
    fn seal(&mut self, number: u64, header: &[u8], body: &mut [u8]) -> [u8; TAG_BYTES] {
        let tag = self
            .sending
            .seal_in_place_separate_tag(nonce(number), Aad::from(header), body)
            .expect("a datagram is shorter than any cipher's bound");
        tag.as_ref().try_into().expect("both ciphers have tags of 16 bytes")
    }

    fn open(&mut self, number: u64, header: &[u8], sealed: &mut [u8]) -> Result<(), NotAuthentic> {
        match self.receiving.open_in_place(nonce(number), Aad::from(header), sealed) {
            Ok(_) => Ok(()),
            Err(_) => Err(NotAuthentic),
        }
    }

    fn export(&self) -> Vec<u8> {
        self.exported.to_vec()
    }
}

/// Four zeros and the packet's number. Each direction has its own key, and the room never uses a number twice.
fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
#[path = "../../../oarlock-circuit/tests/net/mod.rs"]
mod net;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use oarlock_circuit::{Options, PeerCounters};

    use super::net::{BAD, MakeSeal, World, check_delivered, load};
    use super::*;

    const SECRET: [u8; KEY_BYTES] = [9; KEY_BYTES];

    fn public(private: [u8; KEY_BYTES]) -> PublicKey {
        use aws_lc_rs::agreement::{PrivateKey, X25519};
        let key = PrivateKey::from_private_key(&X25519, &private).unwrap();
        PublicKey(key.compute_public_key().unwrap().as_ref().try_into().unwrap())
    }

    type Pair = (Box<dyn Keys + Send>, Box<dyn Keys + Send>);

    fn handshake(a: &mut HostSeal, b: &mut HostSeal, to: PublicKey) -> Result<Pair, NotAuthentic> {
        let (mut hello, mut reply) = (Vec::new(), Vec::new());
        let mut waiting = a.initiate(&to, b"prologue", b"from a", &mut hello);
        let mut arrival = b.respond(b"prologue", &hello)?;
        assert_eq!(arrival.payload, b"from a");
        assert_eq!(arrival.key, public(a.own.first()));
        let theirs = arrival.response.accept(b"from b", &mut reply);
        // A forged reply, whole or in part, must not spoil the attempt.
        for at in [0, 31, 32, reply.len() - 1] {
            let mut forged = reply.clone();
            forged[at] ^= 1;
            assert!(waiting.finish(&forged).is_err());
            assert!(waiting.finish(&reply[..at]).is_err());
        }
        let (payload, mine) = waiting.finish(&reply)?;
        assert_eq!(payload, b"from b");
        Ok((mine, theirs))
    }

    /// For each pair of machines with and without AES: what one end seals the other opens, and nothing changed.
    #[test]
    fn both_ends_choose_the_same_cipher_and_no_changed_bit_passes() {
        for (aes_a, aes_b) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut a = HostSeal::with_aes([1; KEY_BYTES], SECRET, aes_a);
            let mut b = HostSeal::with_aes([2; KEY_BYTES], SECRET, aes_b);
            let (mut mine, mut theirs) = handshake(&mut a, &mut b, public([2; KEY_BYTES])).unwrap();
            let mut packet = b"hello".to_vec();
            let tag = mine.seal(7, b"header", &mut packet);
            assert_ne!(packet, b"hello");
            packet.extend_from_slice(&tag);
            for bit in 0..packet.len() * 8 {
                let mut changed = packet.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(theirs.open(7, b"header", &mut changed), Err(NotAuthentic));
            }
            assert_eq!(theirs.open(8, b"header", &mut packet.clone()), Err(NotAuthentic));
            assert_eq!(theirs.open(7, b"Header", &mut packet.clone()), Err(NotAuthentic));
            assert_eq!(mine.open(7, b"header", &mut packet.clone()), Err(NotAuthentic));
            assert_eq!(theirs.open(7, b"header", &mut [0; 15]), Err(NotAuthentic));
            assert_eq!(theirs.open(7, b"header", &mut packet.clone()), Ok(()));
            // Whoever takes the run over opens it as well, whatever its own machine would choose.
            let other = HostSeal::with_aes([2; KEY_BYTES], SECRET, !aes_b);
            let mut heir = other.restore(&theirs.export()).unwrap();
            assert_eq!(heir.export(), theirs.export());
            assert_eq!(heir.open(7, b"header", &mut packet), Ok(()));
            assert_eq!(&packet[..5], b"hello");
            let mut answer = b"yes".to_vec();
            let tag = heir.seal(8, b"header", &mut answer);
            answer.extend_from_slice(&tag);
            assert_eq!(mine.open(8, b"header", &mut answer), Ok(()));
            for wrong in [&[][..], &[0; EXPORTED_BYTES - 1], &[2; EXPORTED_BYTES]] {
                assert!(other.restore(wrong).is_err());
            }
        }
    }

    #[test]
    fn a_wrong_key_secret_or_prologue_ends_the_handshake() {
        let mut a = HostSeal::new([1; KEY_BYTES], SECRET);
        let mut b = HostSeal::new([2; KEY_BYTES], SECRET);
        let mut stranger = HostSeal::new([2; KEY_BYTES], [8; KEY_BYTES]);
        assert!(handshake(&mut a, &mut b, public([3; KEY_BYTES])).is_err());
        // With another secret the first message is still readable; the second is not.
        assert!(handshake(&mut a, &mut stranger, public([2; KEY_BYTES])).is_err());
        let mut hello = Vec::new();
        a.initiate(&public([2; KEY_BYTES]), b"cluster one", b"", &mut hello);
        assert!(b.respond(b"cluster two", &hello).is_err());
        assert_ne!(a.mac(MacKey::Cluster, &[b"x"]), stranger.mac(MacKey::Cluster, &[b"x"]));
        assert_eq!(a.mac(MacKey::Cluster, &[b"x"]), b.mac(MacKey::Cluster, &[b"x"]));
    }

    /// While a node changes its key it answers to both, proves itself with the first, and then knows the one before no more.
    #[test]
    fn a_node_that_changes_its_key_answers_to_both() {
        let own = OwnKeys::new([2; KEY_BYTES]);
        let (mut a, mut b) = (HostSeal::new([1; KEY_BYTES], SECRET), HostSeal::changing(own.clone(), SECRET));
        let [old, new] = [[2; KEY_BYTES], [3; KEY_BYTES]];
        let arrives = |b: &mut HostSeal, a: &mut HostSeal| {
            let mut hello = Vec::new();
            b.initiate(&public([1; KEY_BYTES]), b"prologue", b"", &mut hello);
            a.respond(b"prologue", &hello).unwrap().key
        };
        for (keys, first, answers) in [
            (vec![old], old, [true, false]),
            (vec![old, new], old, [true, true]),
            (vec![new, old], new, [true, true]),
            (vec![new], new, [false, true]),
        ] {
            own.set(keys);
            assert_eq!(arrives(&mut b, &mut a), public(first));
            let heard = [old, new].map(|key| handshake(&mut a, &mut b, public(key)).is_ok());
            assert_eq!(heard, answers);
        }
    }

    fn host_seals(aes: bool) -> MakeSeal {
        Box::new(move |node| {
            let private = [node as u8 + 1; KEY_BYTES];
            (Box::new(HostSeal::with_aes(private, SECRET, aes)), public(private))
        })
    }

    /// A5, A9 with the real cipher: the delivered sequence under faults is the one that was sent.
    #[test]
    fn a5_a9_a_bad_network_changes_nothing_that_real_ciphers_deliver() {
        for (seed, aes) in [(1, machine_has_aes()), (2, false)] {
            let mut world = World::new(3, seed, Options::default(), host_seals(aes));
            world.faults = BAD;
            world.open();
            let sent = load(&mut world, seed, 60, 30_000);
            assert!(world.run_until(Duration::from_secs(600), World::quiet));
            check_delivered(&world, &sent);
            let mut counters = PeerCounters::default();
            world.nodes.iter().for_each(|node| counters += node.circuits.counters().peers);
            assert!(counters.bad_tag > 0 && counters.replayed > 0 && counters.resent > 0, "{counters:?}");
        }
    }
}
