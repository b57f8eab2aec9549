//! A seal for the simulator: a keyed checksum where the daemon has a cipher.
//!
//! It keeps every property that a circuit relies on except secrecy and strength. Only the owner of a private
//! key can finish a handshake made for its public key; a wrong secret, a wrong prologue, a flipped bit, a wrong
//! packet number or a changed header are all refused. The price is a thousandth: Diffie-Hellman in a field of
//! 61 bits, and one pass of a fast hash over each packet.
//!
//! It depends on nothing but the layout and the hash, so that tests of other crates can take this file as it is.

use std::sync::{Arc, Mutex};

use oarlock_layout::seal::{
    Arrival, Initiation, Keys, MAC_BYTES, MacKey, NotAuthentic, PublicKey, Response, Seal, TAG_BYTES,
};
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128, xxh3_128_with_seed};

/// A prime for which multiplication is cheap: 2^61 - 1.
const PRIME: u64 = (1 << 61) - 1;
const GENERATOR: u64 = 37;
const KEY_BYTES: usize = 32;

/// Private keys of one node; it proves itself with the first and answers to all. Clones are the same ones.
#[derive(Clone, Debug)]
pub struct OwnKeys(Arc<Mutex<Vec<u64>>>);

impl OwnKeys {
    /// One, which follows from `key`.
    pub fn new(key: u64) -> OwnKeys {
        OwnKeys(Arc::new(Mutex::new(vec![exponent(key)])))
    }

    /// From now on those that follow from these.
    ///
    /// # Panics
    /// If there is none.
    pub fn set(&self, keys: Vec<u64>) {
        assert!(!keys.is_empty(), "a node has a key");
        *self.0.lock().expect("nobody panics with it") = keys.into_iter().map(exponent).collect();
    }

    fn first(&self) -> u64 {
        self.all()[0]
    }

    fn all(&self) -> Vec<u64> {
        self.0.lock().expect("nobody panics with it").clone()
    }
}

/// One node's private keys, the cluster secret, and the chance from which its handshakes follow.
pub struct ChecksumSeal {
    own: OwnKeys,
    secret: u64,
    chance: u64,
}

impl ChecksumSeal {
    /// The seal of the node whose private key follows from `key`. Equal `secret`s make a cluster; `seed` is
    /// the chance of the handshakes.
    pub fn new(key: u64, secret: u64, seed: u64) -> ChecksumSeal {
        ChecksumSeal::changing(OwnKeys::new(key), secret, seed)
    }

    /// The seal of the node that has these keys, which may change meanwhile.
    pub fn changing(own: OwnKeys, secret: u64, seed: u64) -> ChecksumSeal {
        ChecksumSeal { own, secret, chance: seed }
    }

    /// The public key that belongs to it.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(encode(power(GENERATOR, self.own.first())))
    }

    fn draw(&mut self) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        exponent(self.chance)
    }
}

impl Seal for ChecksumSeal {
    fn initiate(
        &mut self,
        to: &PublicKey,
        prologue: &[u8],
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Box<dyn Initiation + Send> {
        let (ephemeral, private) = (self.draw(), self.own.first());
        // A pinned key that is no key leads to a handshake that nobody can read, as it should.
        let theirs = decode(&to.0).unwrap_or(1);
        let mut transcript = Transcript::new(prologue);
        let start = out.len();
        out.extend_from_slice(&encode(power(GENERATOR, ephemeral)));
        transcript.mix(&out[start..]);
        transcript.mix(&power(theirs, ephemeral).to_le_bytes());
        transcript.put(&encode(power(GENERATOR, private)), out);
        transcript.mix(&power(theirs, private).to_le_bytes());
        transcript.put(payload, out);
        Box::new(Waiting { ephemeral, private, secret: self.secret, transcript })
    }

    fn respond(&mut self, prologue: &[u8], message: &[u8]) -> Result<Arrival, NotAuthentic> {
        let read = |private: u64| -> Result<_, NotAuthentic> {
            let mut transcript = Transcript::new(prologue);
            let (first, rest) = message.split_at_checked(KEY_BYTES).ok_or(NotAuthentic)?;
            let ephemeral = decode(first)?;
            transcript.mix(first);
            transcript.mix(&power(ephemeral, private).to_le_bytes());
            let (sealed_key, sealed_payload) =
                rest.split_at_checked(KEY_BYTES + TAG_BYTES).ok_or(NotAuthentic)?;
            let key = transcript.take(sealed_key)?;
            let theirs = decode(&key)?;
            transcript.mix(&power(theirs, private).to_le_bytes());
            let payload = transcript.take(sealed_payload)?;
            let key = PublicKey(key.try_into().map_err(|_| NotAuthentic)?);
            Ok((ephemeral, theirs, key, payload, transcript))
        };
        let read = self.own.all().into_iter().find_map(|private| read(private).ok());
        let (ephemeral, theirs, key, payload, transcript) = read.ok_or(NotAuthentic)?;
        let answer = Answering { ephemeral, theirs, mine: self.draw(), secret: self.secret, transcript };
        Ok(Arrival { key, payload, response: Box::new(answer) })
    }

    fn mac(&self, key: MacKey<'_>, parts: &[&[u8]]) -> [u8; MAC_BYTES] {
        let mut bytes = match key {
            MacKey::Cluster => self.secret.to_le_bytes().to_vec(),
            MacKey::Given(key) => key.to_vec(),
        };
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        xxh3_128(&bytes).to_le_bytes()
    }

    fn restore(&self, exported: &[u8]) -> Result<Box<dyn Keys + Send>, NotAuthentic> {
        let (sending, receiving) = exported.split_first_chunk::<8>().ok_or(NotAuthentic)?;
        let receiving = receiving.try_into().map_err(|_| NotAuthentic)?;
        let (sending, receiving) = (u64::from_le_bytes(*sending), u64::from_le_bytes(receiving));
        Ok(Box::new(ChecksumKeys { sending, receiving }))
    }
}

struct Waiting {
    ephemeral: u64,
    private: u64,
    secret: u64,
    transcript: Transcript,
}

impl Initiation for Waiting {
    fn finish(&mut self, message: &[u8]) -> Result<(Vec<u8>, Box<dyn Keys + Send>), NotAuthentic> {
        let (first, sealed) = message.split_at_checked(KEY_BYTES).ok_or(NotAuthentic)?;
        let theirs = decode(first)?;
        let mut transcript = self.transcript.clone();
        transcript.mix(first);
        transcript.mix(&power(theirs, self.ephemeral).to_le_bytes());
        transcript.mix(&power(theirs, self.private).to_le_bytes());
        transcript.mix(&self.secret.to_le_bytes());
        let payload = transcript.take(sealed)?;
        let (sending, receiving) = transcript.split();
        Ok((payload, Box::new(ChecksumKeys { sending, receiving })))
    }
}

struct Answering {
    ephemeral: u64,
    theirs: u64,
    mine: u64,
    secret: u64,
    transcript: Transcript,
}

impl Response for Answering {
    fn accept(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Box<dyn Keys + Send> {
        let first = encode(power(GENERATOR, self.mine));
        out.extend_from_slice(&first);
        self.transcript.mix(&first);
        self.transcript.mix(&power(self.ephemeral, self.mine).to_le_bytes());
        self.transcript.mix(&power(self.theirs, self.mine).to_le_bytes());
        self.transcript.mix(&self.secret.to_le_bytes());
        self.transcript.put(payload, out);
        let (receiving, sending) = self.transcript.split();
        Box::new(ChecksumKeys { sending, receiving })
    }
}

struct ChecksumKeys {
    sending: u64,
    receiving: u64,
}

impl Keys for ChecksumKeys {
    fn seal(&mut self, number: u64, header: &[u8], body: &mut [u8]) -> [u8; TAG_BYTES] {
        mask(self.sending ^ number, body);
        tag(self.sending, number, header, body)
    }

    fn open(&mut self, number: u64, header: &[u8], sealed: &mut [u8]) -> Result<(), NotAuthentic> {
        let at = sealed.len().checked_sub(TAG_BYTES).ok_or(NotAuthentic)?;
        let (body, found) = sealed.split_at_mut(at);
        if tag(self.receiving, number, header, body) != found {
            return Err(NotAuthentic);
        }
        mask(self.receiving ^ number, body);
        Ok(())
    }

    fn export(&self) -> Vec<u8> {
        [self.sending.to_le_bytes(), self.receiving.to_le_bytes()].concat()
    }
}

fn tag(key: u64, number: u64, header: &[u8], body: &[u8]) -> [u8; TAG_BYTES] {
    let key = xxh3_64_with_seed(header, key ^ number.rotate_left(32));
    xxh3_128_with_seed(body, key).to_le_bytes()
}

/// Hides nothing from anybody; but a room that reads a body it has not opened reads nonsense.
fn mask(key: u64, body: &mut [u8]) {
    let word = key.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    for chunk in body.chunks_mut(word.len()) {
        chunk.iter_mut().zip(word).for_each(|(byte, with)| *byte ^= with);
    }
}

/// Everything both ends have said and computed so far.
#[derive(Clone)]
struct Transcript(u64);

impl Transcript {
    fn new(prologue: &[u8]) -> Transcript {
        Transcript(xxh3_64_with_seed(prologue, 1))
    }

    fn mix(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    /// Appends `bytes` masked, and a tag.
    fn put(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(bytes);
        mask(self.0, &mut out[at..]);
        let tag = tag(self.0, 0, b"handshake", &out[at..]);
        out.extend_from_slice(&tag);
        self.mix(&out[at..]);
    }

    /// Reads what [`Transcript::put`] wrote.
    fn take(&mut self, bytes: &[u8]) -> Result<Vec<u8>, NotAuthentic> {
        let at = bytes.len().checked_sub(TAG_BYTES).ok_or(NotAuthentic)?;
        if tag(self.0, 0, b"handshake", &bytes[..at]) != bytes[at..] {
            return Err(NotAuthentic);
        }
        let mut plain = bytes[..at].to_vec();
        mask(self.0, &mut plain);
        self.mix(bytes);
        Ok(plain)
    }

    /// The initiator's sending key and the responder's.
    fn split(&self) -> (u64, u64) {
        (xxh3_64_with_seed(b"initiator", self.0), xxh3_64_with_seed(b"responder", self.0))
    }
}

fn exponent(from: u64) -> u64 {
    xxh3_64_with_seed(&from.to_le_bytes(), 2) % (PRIME - 2) + 1
}

fn power(base: u64, mut exponent: u64) -> u64 {
    let times = |a: u64, b: u64| (u128::from(a) * u128::from(b) % u128::from(PRIME)) as u64;
    let (mut base, mut result) = (base % PRIME, 1);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = times(result, base);
        }
        base = times(base, base);
        exponent >>= 1;
    }
    result
}

fn encode(element: u64) -> [u8; KEY_BYTES] {
    let mut bytes = [0; KEY_BYTES];
    bytes[..8].copy_from_slice(&element.to_le_bytes());
    bytes
}

/// Anything that [`encode`] would not write is refused, so that no two encodings mean the same.
fn decode(bytes: &[u8]) -> Result<u64, NotAuthentic> {
    let (low, high) = bytes.split_first_chunk::<8>().ok_or(NotAuthentic)?;
    let element = u64::from_le_bytes(*low);
    if high.iter().any(|&byte| byte != 0) || element == 0 || element >= PRIME {
        return Err(NotAuthentic);
    }
    Ok(element)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pair = (Box<dyn Keys + Send>, Box<dyn Keys + Send>);

    fn handshake(a: &mut ChecksumSeal, b: &mut ChecksumSeal, to: PublicKey) -> Result<Pair, NotAuthentic> {
        let (mut hello, mut reply) = (Vec::new(), Vec::new());
        let mut initiation = a.initiate(&to, b"prologue", b"from a", &mut hello);
        let mut arrival = b.respond(b"prologue", &hello)?;
        assert_eq!((arrival.key, &arrival.payload[..]), (a.public_key(), &b"from a"[..]));
        let theirs = arrival.response.accept(b"from b", &mut reply);
        let (payload, mine) = initiation.finish(&reply)?;
        assert_eq!(payload, b"from b");
        Ok((mine, theirs))
    }

    #[test]
    fn both_ends_read_each_other_and_no_changed_bit_passes() {
        let (mut a, mut b) = (ChecksumSeal::new(1, 9, 0), ChecksumSeal::new(2, 9, 0));
        let to = b.public_key();
        let (mut mine, mut theirs) = handshake(&mut a, &mut b, to).unwrap();
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
        assert_eq!(mine.open(7, b"header", &mut packet.clone()), Err(NotAuthentic), "not back to its sender");
        assert_eq!(theirs.open(7, b"header", &mut packet), Ok(()));
        assert_eq!(&packet[..5], b"hello");
    }

    #[test]
    fn only_the_owner_of_the_key_and_of_the_secret_finishes_a_handshake() {
        let mut a = ChecksumSeal::new(1, 9, 0);
        let mut b = ChecksumSeal::new(2, 9, 0);
        let third = ChecksumSeal::new(3, 9, 0).public_key();
        assert_eq!(handshake(&mut a, &mut b, third).err(), Some(NotAuthentic));
        let mut stranger = ChecksumSeal::new(2, 8, 0);
        let to = stranger.public_key();
        assert_eq!(handshake(&mut a, &mut stranger, to).err(), Some(NotAuthentic));
    }
}
