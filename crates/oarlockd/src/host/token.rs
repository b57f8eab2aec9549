//! Join tokens: what lets one machine become a member, once.
//!
//! ```text
//!   oarlock1-AQHf…                     what people copy
//!      │
//!      ├─ 16 bytes that nobody can guess ──► hash ──► kept by the cluster; never the bytes themselves
//!      ├─ the cluster's id, the node's name ──┘ └──► key of the proof and of the handshake
//!      └─ a member: address, public key           only that member can read the question
//! ```
//!
//! The hash covers cluster and name: the same bytes are another token for another node. Whoever has read the hash in a log or a
//! snapshot can make the proof, and still does not know the bytes that the handshake must carry.

use std::net::SocketAddr;

use aws_lc_rs::hmac;
use oarlock_cluster::registry::{ClusterId, TokenHash};
use oarlock_layout::codec::{Malformed, Reader, Writer};
use oarlock_layout::message::frame::VERSION;
use oarlock_layout::message::join::{TOKEN_BYTES, TOKEN_ID_BYTES, address, take_address};
use oarlock_layout::seal::PublicKey;
use xxhash_rust::xxh3::xxh3_64;

use super::key::{KEY_BYTES, parse_base64, print_base64};
use super::random;

/// What every token begins with: people and scanners for leaked secrets know it by that.
const PREFIX: &str = "oarlock1-";
/// Tells a token that lost a character from one that the cluster does not know.
const CHECK_BYTES: usize = 4;

/// A join token in full: as it was made, or as somebody copied it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Which cluster.
    pub cluster: ClusterId,
    /// For a node of this name only.
    pub name: String,
    /// What nobody can guess.
    pub secret: [u8; TOKEN_BYTES],
    /// Where the member listens that made it.
    pub address: SocketAddr,
    /// That member's key.
    pub key: PublicKey,
}

impl Token {
    /// A new one.
    pub fn generate(cluster: ClusterId, name: &str, address: SocketAddr, key: PublicKey) -> Token {
        let secret = random::bytes()[..TOKEN_BYTES].try_into().expect("16 of 32 bytes");
        Token { cluster, name: name.into(), secret, address, key }
    }

    /// What the cluster keeps of it.
    pub fn hash(&self) -> TokenHash {
        hash(&self.secret, &self.cluster, &self.name)
    }

    /// As people copy it.
    pub fn print(&self) -> String {
        let mut bytes = Vec::new();
        let mut w = Writer::new(&mut bytes);
        w.raw(&self.secret);
        w.raw(&self.cluster);
        w.raw(&self.key.0);
        address(&mut w, self.address);
        w.label(&self.name);
        let check = check(&bytes);
        bytes.extend_from_slice(&check);
        format!("{PREFIX}{}", print_base64(&bytes).trim_end_matches('='))
    }

    /// Reads what [`print`](Token::print) writes. None if a character is missing, changed or too much.
    pub fn parse(text: &str) -> Option<Token> {
        let bytes = parse_base64(text.trim().strip_prefix(PREFIX)?)?;
        let (body, found) = bytes.split_at_checked(bytes.len().checked_sub(CHECK_BYTES)?)?;
        if found != check(body) {
            return None;
        }
        Token::read(body).ok()
    }

    fn read(body: &[u8]) -> Result<Token, Malformed> {
        let mut r = Reader::new(body);
        let secret = r.raw(TOKEN_BYTES)?.try_into().expect("as many bytes as were asked for");
        let cluster = r.raw(16)?.try_into().expect("as many bytes as were asked for");
        let key = PublicKey(r.raw(KEY_BYTES)?.try_into().expect("as many bytes as were asked for"));
        let address = take_address(&mut r)?;
        let name = r.label("name of a node")?.into();
        r.end()?;
        Ok(Token { cluster, name, secret, address, key })
    }
}

fn check(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    xxh3_64(bytes).to_le_bytes()[..CHECK_BYTES].try_into().expect("4 of 8 bytes")
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    parts.iter().for_each(|part| context.update(part));
    context.sign().as_ref().try_into().expect("a code of 32 bytes")
}

/// What is kept of a token for a node of this name in this cluster.
pub fn hash(secret: &[u8; TOKEN_BYTES], cluster: &ClusterId, name: &str) -> TokenHash {
    hmac(secret, &[b"oarlock join token", cluster, name.as_bytes()])
}

/// By which a question names its token.
pub fn id(hash: &TokenHash) -> [u8; TOKEN_ID_BYTES] {
    hash[..TOKEN_ID_BYTES].try_into().expect("8 of 32 bytes")
}

/// What the handshake mixes in where circuits have the cluster secret, and what the proof is made with.
pub fn shared(hash: &TokenHash) -> [u8; KEY_BYTES] {
    hmac(hash, &[b"oarlock join handshake"])
}

/// What both ends of the handshake agree on without saying it. No handshake of a circuit has the same.
pub fn prologue(cluster: &ClusterId) -> Vec<u8> {
    [&b"oarlock join "[..], &[VERSION], cluster].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(address: &str) -> Token {
        Token::generate([7; 16], "node-d", address.parse().unwrap(), PublicKey([9; 32]))
    }

    #[test]
    fn what_is_printed_is_read_and_no_changed_character_passes() {
        for address in ["10.0.0.11:7401", "[fd00::11]:7401"] {
            let token = token(address);
            let text = token.print();
            assert!(Token::parse(&format!(" {text}\n")) == Some(token), "{text}");
            for at in 0..text.len() {
                let mut other = text.clone().into_bytes();
                other[at] = if other[at] == b'A' { b'B' } else { b'A' };
                assert!(Token::parse(&String::from_utf8(other).unwrap()).is_none(), "character {at}");
                assert!(Token::parse(&text[..at]).is_none(), "cut at {at}");
            }
            assert!(Token::parse(&format!("{text}A")).is_none());
        }
    }

    /// The hash binds the bytes to cluster and name, and the keys that follow from it do not tell it.
    #[test]
    fn a_token_is_another_one_for_another_node_or_cluster() {
        let it = token("10.0.0.11:7401");
        let hash = it.hash();
        let others = [
            Token { name: "node-e".into(), ..it.clone() },
            Token { cluster: [8; 16], ..it.clone() },
            token("10.0.0.11:7401"),
        ];
        for other in others {
            assert_ne!(other.hash(), hash);
        }
        assert_eq!(Token { address: "10.0.0.12:7401".parse().unwrap(), ..it.clone() }.hash(), hash);
        assert_ne!(shared(&hash), hash);
        assert_eq!(id(&hash), hash[..8]);
    }
}
