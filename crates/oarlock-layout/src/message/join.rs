//! How a machine that is no member yet asks to become one: a question and an answer, each one datagram.
//!
//! ```text
//!   question, always JOIN_BYTES long                    answer, never longer
//!   0        2      3      4            8               0        2      3      4            8
//!   +--------+------+------+------------+               +--------+------+------+------------+
//!   | magic  | ver  | kind | sender     |               | magic  | ver  | kind | receiver   |
//!   +--------+------+------+------------+               +--------+------+------+------------+
//!   | first bytes of the token's hash   |               | handshake message                 |
//!   +-----------------------------------+               | (the answer is in it)             |
//!   | cluster id (16 bytes)             |               +-----------------------------------+
//!   +----------+------------------------+
//!   | length   | handshake message      |   the question is in it
//!   +----------+------------------------+
//!   | zeros …                  | proof  |   16 bytes, made with a key that follows from the token
//!   +--------------------------+--------+
//! ```
//!
//! The handshake is that of circuits; instead of the cluster secret it mixes in a key that follows from the token. What
//! cannot be said in a handshake is said by a [`Refusal`](super::frame::Datagram::Refusal), as between circuits. The first
//! eight bytes and the length of a question are the same in every version, so that any two can tell each other that they do not fit.
//!
//! The answer may be longer than a datagram holds. So whoever asks gets a part of it, and asks for the next one with another
//! question: nothing is kept for him in between.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;

use crate::codec::{Malformed, Reader, Wire, Writer};
use crate::id::{Incarnation, NodeId};
use crate::message::frame::{Kind, MAGIC, VERSION, start};
use crate::seal::MAC_BYTES;

/// Bytes of every question: what fits a datagram on any path, so that a large answer amplifies nothing.
pub const JOIN_BYTES: usize = 1200;
/// Bytes of a join token that nobody can guess.
pub const TOKEN_BYTES: usize = 16;
/// As many bytes of a token's hash find the token. The others stay unknown to whoever sees the question.
pub const TOKEN_ID_BYTES: usize = 8;
/// What of the answer one part holds at most: a datagram has room for it, with everything around it.
pub const PART_BYTES_MAX: usize = 900;
/// Longest answer. The largest cluster, with as many lockspaces as there may be, stays below.
pub const WELCOME_BYTES_MAX: usize = 512 << 10;
/// Longest reason of a refusal.
pub const REASON_BYTES_MAX: usize = 600;

const HEADER_BYTES: usize = 8 + TOKEN_ID_BYTES + 16 + 4;
/// Longest handshake message in a question.
pub const QUESTION_BYTES_MAX: usize = JOIN_BYTES - HEADER_BYTES - MAC_BYTES;

/// A question, taken apart as far as that goes without keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Knock<'a> {
    /// Number by which the answer shall find whoever asks.
    pub sender: u32,
    /// The first bytes of the token's hash.
    pub token: [u8; TOKEN_ID_BYTES],
    /// The cluster that is meant.
    pub cluster: [u8; 16],
    /// The handshake message.
    pub handshake: &'a [u8],
    /// All bytes that the proof is made over.
    pub signed: &'a [u8],
    /// Code over them.
    pub proof: &'a [u8; MAC_BYTES],
}

/// Why a question cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is of another version.
    #[error("version {version}, here it is {VERSION}")]
    Version {
        /// Which.
        version: u8,
        /// Number of whoever asks.
        sender: u32,
    },
    /// It is broken.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// Is this datagram a question of somebody who wants to join? In whatever version.
pub fn is_question(datagram: &[u8]) -> bool {
    datagram.len() == JOIN_BYTES && datagram[..2] == MAGIC.to_le_bytes() && datagram[3] == Kind::Join as u8
}

impl<'a> Knock<'a> {
    /// Takes a datagram apart for which [`is_question`] holds. Never panics, whatever the bytes.
    ///
    /// # Errors
    /// Another version, or bytes that are no question.
    pub fn decode(bytes: &'a [u8]) -> Result<Knock<'a>, Unreadable> {
        let mut r = Reader::new(bytes);
        r.u16()?;
        let version = r.u8()?;
        r.u8()?;
        let sender = r.u32()?;
        if version != VERSION {
            return Err(Unreadable::Version { version, sender });
        }
        let token = r.raw(TOKEN_ID_BYTES)?.try_into().expect("as many bytes as were asked for");
        let cluster = r.raw(16)?.try_into().expect("as many bytes as were asked for");
        let handshake = r.bytes("length of a handshake message", QUESTION_BYTES_MAX)?;
        let left = r.left().checked_sub(MAC_BYTES);
        let left = left.ok_or(Malformed::Short { at: bytes.len(), wanted: MAC_BYTES, left: r.left() })?;
        r.raw(left)?;
        let proof = r.raw(MAC_BYTES)?.try_into().expect("as many bytes as were asked for");
        Ok(Knock { sender, token, cluster, handshake, signed: &bytes[..bytes.len() - MAC_BYTES], proof })
    }
}

/// A question without its proof, which is made over all of it and appended.
///
/// # Panics
/// If the handshake message is longer than [`QUESTION_BYTES_MAX`]: a question has bounded parts.
pub fn encode_question(
    sender: u32,
    token: [u8; TOKEN_ID_BYTES],
    cluster: [u8; 16],
    handshake: &[u8],
) -> Vec<u8> {
    assert!(handshake.len() <= QUESTION_BYTES_MAX, "{} bytes of a handshake", handshake.len());
    let mut bytes = start(Kind::Join).to_vec();
    let mut w = Writer::new(&mut bytes);
    w.u32(sender);
    w.raw(&token);
    w.raw(&cluster);
    w.bytes(handshake);
    bytes.resize(JOIN_BYTES - MAC_BYTES, 0);
    bytes
}

/// An answer, with `handshake` writing the handshake message.
pub fn encode_answer(receiver: u32, handshake: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = start(Kind::Welcome).to_vec();
    bytes.extend_from_slice(&receiver.to_le_bytes());
    handshake(&mut bytes);
    bytes
}

/// The receiver and the handshake message of an answer; none if it is something else.
pub fn decode_answer(datagram: &[u8]) -> Option<(u32, &[u8])> {
    let (head, handshake) = datagram.split_at_checked(8)?;
    let receiver = u32::from_le_bytes(head[4..].try_into().expect("four bytes"));
    (head[..4] == start(Kind::Welcome)).then_some((receiver, handshake))
}

/// What a question says, inside the handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// The token itself.
    pub token: [u8; TOKEN_BYTES],
    /// The name of the node that wants in.
    pub name: String,
    /// Where its circuits will listen.
    pub address: SocketAddr,
    /// From which byte on it wants the answer.
    pub offset: u32,
}

impl Wire for Request {
    fn encode(&self, out: &mut Writer<'_>) {
        out.raw(&self.token);
        out.label(&self.name);
        address(out, self.address);
        out.u32(self.offset);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Request, Malformed> {
        Ok(Request {
            token: r.raw(TOKEN_BYTES)?.try_into().expect("as many bytes as were asked for"),
            name: r.label("name of a node")?.into(),
            address: take_address(r)?,
            offset: r.u32()?,
        })
    }
}

/// Writes an address: its family, its bytes, its port.
pub fn address(out: &mut Writer<'_>, address: SocketAddr) {
    match address {
        SocketAddr::V4(v4) => {
            out.u8(4);
            out.raw(&v4.ip().octets());
        }
        SocketAddr::V6(v6) => {
            out.u8(6);
            out.raw(&v6.ip().octets());
        }
    }
    out.u16(address.port());
}

/// Reads what [`address`] writes.
///
/// # Errors
/// Bytes that are no address.
pub fn take_address(r: &mut Reader<'_>) -> Result<SocketAddr, Malformed> {
    match r.u8()? {
        4 => {
            let ip: [u8; 4] = r.raw(4)?.try_into().expect("as many bytes as were asked for");
            Ok((ip, r.u16()?).into())
        }
        6 => {
            let ip: [u8; 16] = r.raw(16)?.try_into().expect("as many bytes as were asked for");
            Ok((ip, r.u16()?).into())
        }
        other => Err(Malformed::Unknown { field: "family of an address", value: other.into() }),
    }
}

/// What an answer says, inside the handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Welcome {
    /// The node is a member. A part of what it must know.
    Part {
        /// Which member it is.
        node: NodeId,
        /// Its runs must be numbered above this.
        above: Incarnation,
        /// Hash of the whole: parts of different ones do not go together.
        hash: u64,
        /// Bytes of the whole.
        total: u32,
        /// The bytes from the offset on that was asked for.
        bytes: Vec<u8>,
    },
    /// It is not let in.
    Refused {
        /// Number of a [`Code`](crate::code::Code).
        code: u16,
        /// Why, for people.
        text: String,
    },
}

impl Wire for Welcome {
    fn encode(&self, out: &mut Writer<'_>) {
        match self {
            Welcome::Part { node, above, hash, total, bytes } => {
                out.u8(1);
                out.u16(node.0);
                out.u64(above.0);
                out.u64(*hash);
                out.u32(*total);
                out.bytes(bytes);
            }
            Welcome::Refused { code, text } => {
                out.u8(2);
                out.u16(*code);
                out.bytes(crate::codec::cut(text, REASON_BYTES_MAX).as_bytes());
            }
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Welcome, Malformed> {
        match r.u8()? {
            1 => {
                let (node, above) = (NodeId(r.u16()?), Incarnation(r.u64()?));
                let (hash, total) = (r.u64()?, r.u32()?);
                if total as usize > WELCOME_BYTES_MAX {
                    let (value, max) = (total.into(), WELCOME_BYTES_MAX as u64);
                    return Err(Malformed::TooMany { field: "size of an answer", value, max });
                }
                let bytes = r.bytes("part of an answer", PART_BYTES_MAX)?.to_vec();
                Ok(Welcome::Part { node, above, hash, total, bytes })
            }
            2 => {
                let code = r.u16()?;
                let text = r.bytes("reason of a refusal", REASON_BYTES_MAX)?;
                let text = core::str::from_utf8(text).map_err(|_| Malformed::Text("reason of a refusal"))?;
                Ok(Welcome::Refused { code, text: text.into() })
            }
            other => Err(Malformed::Unknown { field: "answer to a join", value: other.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_as_it_was_written_and_its_proof_covers_all_of_it() {
        let handshake: Vec<u8> = (0..200).map(|i| i as u8).collect();
        let mut bytes = encode_question(7, [1; 8], [2; 16], &handshake);
        bytes.extend_from_slice(&[9; MAC_BYTES]);
        assert!(is_question(&bytes) && bytes.len() == JOIN_BYTES);
        let knock = Knock::decode(&bytes).unwrap();
        assert_eq!((knock.sender, knock.token, knock.cluster), (7, [1; 8], [2; 16]));
        assert_eq!((knock.handshake, knock.signed.len()), (&handshake[..], JOIN_BYTES - MAC_BYTES));
        assert_eq!(knock.proof, &[9; MAC_BYTES]);

        let full = encode_question(7, [1; 8], [2; 16], &[6; QUESTION_BYTES_MAX]);
        let full = [full, [9; MAC_BYTES].to_vec()].concat();
        assert_eq!(Knock::decode(&full).unwrap().handshake, [6; QUESTION_BYTES_MAX]);

        let mut other = bytes.clone();
        other[2] = VERSION + 1;
        assert!(is_question(&other), "the version does not make it another kind of datagram");
        let version = Unreadable::Version { version: VERSION + 1, sender: 7 };
        assert_eq!(Knock::decode(&other), Err(version));
        // No length leads beyond the datagram.
        for length in [QUESTION_BYTES_MAX as u16 + 1, u16::MAX] {
            let mut long = bytes.clone();
            long[32..36].copy_from_slice(&u32::from(length).to_le_bytes());
            assert!(matches!(Knock::decode(&long), Err(Unreadable::Malformed(_))), "{length}");
        }
        assert!(!is_question(&bytes[1..]) && !is_question(&[0; JOIN_BYTES]));
    }

    #[test]
    fn the_largest_answer_is_no_longer_than_its_question() {
        let part = Welcome::Part {
            node: NodeId(3),
            above: Incarnation(9),
            hash: 5,
            total: WELCOME_BYTES_MAX as u32,
            bytes: [7; PART_BYTES_MAX].to_vec(),
        };
        let refused = Welcome::Refused { code: 1503, text: "x".repeat(REASON_BYTES_MAX) };
        for it in [part, refused] {
            let payload = it.to_bytes();
            assert_eq!(Welcome::from_bytes(&payload), Ok(it));
            // A handshake message has a key, two tags and a byte besides.
            let answer =
                encode_answer(4, |out| out.extend_from_slice(&[payload, [0; 100].to_vec()].concat()));
            assert!(answer.len() <= JOIN_BYTES, "{}", answer.len());
            assert_eq!(decode_answer(&answer).unwrap().0, 4);
        }
        assert!(Welcome::from_bytes(&[4]).is_err());
        let mut huge = Welcome::Part {
            node: NodeId(0),
            above: Incarnation(0),
            hash: 0,
            total: WELCOME_BYTES_MAX as u32 + 1,
            bytes: Vec::new(),
        };
        assert!(Welcome::from_bytes(&huge.to_bytes()).is_err());
        huge = Welcome::Refused { code: 1, text: "é".repeat(REASON_BYTES_MAX) };
        assert!(Welcome::from_bytes(&huge.to_bytes()).is_ok(), "a long reason is cut between characters");
    }

    #[test]
    fn a_request_keeps_both_families_of_addresses() {
        for address in ["10.0.0.14:7401", "[fd00::14]:7401"] {
            let request = Request {
                token: [3; TOKEN_BYTES],
                name: "node-d".into(),
                address: address.parse().unwrap(),
                offset: 900,
            };
            assert_eq!(Request::from_bytes(&request.to_bytes()), Ok(request));
        }
    }
}
