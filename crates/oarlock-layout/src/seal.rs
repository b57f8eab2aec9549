//! The `Seal` trait: the cryptography of circuits, handed in from outside.
//!
//! A pure room has no random source and no cipher. It keeps the *state* of a circuit's protection (who is
//! being greeted, which keys are in use since when, which packet numbers were seen) and asks a [`Seal`] for
//! the mathematics. The daemon implements it with Noise and an AEAD, the simulator with a keyed checksum
//! that is a thousand times cheaper and just as unwilling to accept a flipped bit.
//!
//! ```text
//!   initiator                                   responder
//!   Seal::initiate ── first message ──────────▶ Seal::respond
//!        │                                          │  Response::accept
//!   Initiation::finish ◀──── second message ────────┘
//!        │                                          │
//!      Keys ◀───────── seal, open ────────────────▶ Keys
//! ```

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

/// Bytes that sealing adds to a body.
pub const TAG_BYTES: usize = 16;
/// Bytes of a message authentication code. A forger has one chance in 2^128 per try, and tries are counted.
pub const MAC_BYTES: usize = 16;

/// The public half of a node's static key. Who owns the other half *is* the node: the configuration pins it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct PublicKey(pub [u8; 32]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Bytes that were not made by who they claim to be from, or not for us, or were changed on the way.
///
/// There is deliberately no detail: what exactly failed is of use only to a forger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are not authentic")]
pub struct NotAuthentic;

/// Which secret a message authentication code is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacKey<'a> {
    /// The cluster secret: proves membership of the cluster, not which member.
    Cluster,
    /// Sixteen bytes that the caller got from an earlier code (a cookie).
    Given(&'a [u8; MAC_BYTES]),
}

/// A node's private key and the cluster secret, as far as a circuit needs them.
pub trait Seal {
    /// Starts a handshake with the owner of `to` and appends the first message, which carries `payload`
    /// encrypted. `prologue` must be equal at both ends, or the handshake fails.
    fn initiate(
        &mut self,
        to: &PublicKey,
        prologue: &[u8],
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Box<dyn Initiation + Send>;

    /// Reads a first message. Whoever sent it knows our public key and owns the one that is returned; it may
    /// still be a replay, which only use of the resulting keys rules out.
    fn respond(&mut self, prologue: &[u8], message: &[u8]) -> Result<Arrival, NotAuthentic>;

    /// A code over `parts` in order. Callers make the parts unambiguous by fixed lengths.
    fn mac(&self, key: MacKey<'_>, parts: &[&[u8]]) -> [u8; MAC_BYTES];

    /// Keys that [`Keys::export`] wrote in the process that had them before.
    fn restore(&self, exported: &[u8]) -> Result<Box<dyn Keys + Send>, NotAuthentic>;
}

/// A first message that was read.
pub struct Arrival {
    /// The static key of the sender.
    pub key: PublicKey,
    /// What it sent along.
    pub payload: Vec<u8>,
    /// What the answer is made from.
    pub response: Box<dyn Response + Send>,
}

/// An initiator that waits for the second message.
pub trait Initiation {
    /// Reads the second message; gives its payload and the keys. After an error the right message is still
    /// accepted, so a forged one cannot end an attempt.
    fn finish(&mut self, message: &[u8]) -> Result<(Vec<u8>, Box<dyn Keys + Send>), NotAuthentic>;
}

/// A responder that has not answered yet.
pub trait Response {
    /// Appends the second message, which carries `payload`, and gives the keys.
    fn accept(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Box<dyn Keys + Send>;
}

/// Keys of one handshake, one for each direction.
pub trait Keys {
    /// Encrypts `body` in place and returns its tag, which covers `header` too. `number` is the nonce: the
    /// caller never uses one twice.
    fn seal(&mut self, number: u64, header: &[u8], body: &mut [u8]) -> [u8; TAG_BYTES];

    /// Decrypts in place. `sealed` is body and tag; the body is what remains without the last
    /// [`TAG_BYTES`]. After an error the content of `sealed` means nothing.
    fn open(&mut self, number: u64, header: &[u8], sealed: &mut [u8]) -> Result<(), NotAuthentic>;

    /// The keys as bytes, for [`Seal::restore`] in a process that takes this one's circuits over. They are secret, and whoever
    /// has them must not use a number that was used here.
    fn export(&self) -> Vec<u8>;
}

/// Compares codes without telling by its duration where they differ.
pub fn same_code(a: &[u8; MAC_BYTES], b: &[u8; MAC_BYTES]) -> bool {
    // `black_box` keeps the compiler from finding an early exit.
    core::hint::black_box(a.iter().zip(b).fold(0, |sum, (x, y)| sum | (x ^ y))) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_equal_only_if_every_byte_is() {
        let a = [7; MAC_BYTES];
        assert!(same_code(&a, &a));
        for at in 0..MAC_BYTES {
            let mut b = a;
            b[at] ^= 0x80;
            assert!(!same_code(&a, &b));
        }
    }

    #[test]
    fn a_key_prints_as_hexadecimal() {
        let key = PublicKey(core::array::from_fn(|i| i as u8));
        assert_eq!(&format!("{key}")[..8], "00010203");
        assert_eq!(format!("{key:?}"), "00010203");
    }
}
