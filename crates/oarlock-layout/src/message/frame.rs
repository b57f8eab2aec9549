//! What a datagram between two nodes looks like.
//!
//! Every datagram begins with four bytes in clear: magic, version, kind. There are eight kinds. Two are for machines that
//! are no members yet ([`join`](super::join)), four belong to the handshake of circuits, one is the last word of a dead
//! node; they are rare. All else is [`Datagram::Sealed`]: a header that is authenticated, a body that
//! is encrypted as well, a tag.
//!
//! ```text
//!  0        2      3      4             8               16
//!  +--------+------+------+-------------+---------------+
//!  | magic  | ver  | kind | receiver    | number        |
//!  +--------+------+------+-------------+---------------+---------------+-------+
//!  | stamp         | ceiling            | acked         | epoch                 |   what the sender's clock reads
//!  +---------------+--------------------+---------------+-----------------------+
//!  16              24                   32              40                      44
//!  | body: chunks                                                         | tag |
//!  +----------------------------------------------------------------------+-----+
//!  44                                                                    -16
//! ```
//!
//! The first 44 bytes are authenticated, the body is encrypted as well.
//!
//! A body is a row of chunks: acknowledgements, keepalives, and runs of consecutive segments of one class. A
//! segment is a message or a piece of one. All numbers are little-endian. What never changes from version to
//! version: the first eight bytes of every hello and the whole of a refusal, so that any two versions can tell
//! each other that they do not fit.

use alloc::vec::Vec;

use crate::code::Code;
use crate::codec::{Malformed, Reader, Wire, Writer};
use crate::id::{Epoch, Incarnation, NodeId};
use crate::seal::{MAC_BYTES, TAG_BYTES};
use crate::stamp::{Reading, Stamp};

/// The first two bytes of every datagram ("OR"): most accidents on a port end here.
pub const MAGIC: u16 = 0x524f;
/// Version of everything in this module and of the messages in it.
pub const VERSION: u8 = 2;

/// Bytes before the body of a sealed datagram.
pub const SEALED_HEADER_BYTES: usize = 44;
/// What a sealed datagram has besides its body.
pub const SEALED_OVERHEAD_BYTES: usize = SEALED_HEADER_BYTES + TAG_BYTES;
/// A whole cookie.
pub const COOKIE_BYTES: usize = 8 + 2 * MAC_BYTES;
/// A whole last gasp.
pub const GASP_BYTES: usize = 14 + MAC_BYTES;
/// A whole refusal.
pub const REFUSAL_BYTES: usize = 12 + MAC_BYTES;
/// Fixed part of a hello: everything but the handshake message.
pub const HELLO_OVERHEAD_BYTES: usize = 8 + 2 * MAC_BYTES;
/// Fixed part of a reply.
pub const REPLY_OVERHEAD_BYTES: usize = 12;
/// Longest handshake message that is looked at; real ones have 77 to 140 bytes.
pub const HANDSHAKE_BYTES_MAX: usize = 512;
/// Shortest handshake message: no honest one is below, and so no answer is longer than its question.
pub const HANDSHAKE_BYTES_MIN: usize = 32;

/// A chunk's kind and length.
pub const CHUNK_HEADER_BYTES: usize = 3;
/// A run's class and first sequence number.
pub const RUN_HEADER_BYTES: usize = 9;
/// A segment's length, with the bit that says that its message goes on.
pub const SEGMENT_HEADER_BYTES: usize = 2;
/// Longest segment: fifteen bits.
pub const SEGMENT_BYTES_MAX: usize = (1 << 15) - 1;
/// An acknowledgement without ranges.
pub const ACK_FIXED_BYTES: usize = 13;
/// One range of an acknowledgement.
pub const ACK_RANGE_BYTES: usize = 4;
/// Ranges in one acknowledgement; what does not fit is told by the next.
pub const ACK_RANGES_MAX: usize = 32;
/// A keepalive or the answer to one.
pub const KEEPALIVE_BYTES: usize = 5;

const _: () =
    assert!(COOKIE_BYTES <= HELLO_OVERHEAD_BYTES + HANDSHAKE_BYTES_MIN, "a cookie amplifies nothing");
const _: () = assert!(REFUSAL_BYTES <= HELLO_OVERHEAD_BYTES + HANDSHAKE_BYTES_MIN, "nor does a refusal");

/// Messages of different classes never wait for each other: each class has its own sequence numbers, window
/// and acknowledgements.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[repr(u8)]
pub enum Class {
    /// Locks and everything that locks wait for. Goes before everything large.
    Lock = 0,
    /// Everything large. Gets the room that the others leave.
    Bulk = 1,
    /// What the coordinators of two nodes say: little, and late it is worth nothing. Goes first in every datagram.
    Control = 2,
}

impl Class {
    /// How many there are. Their numbers count from 0.
    pub const COUNT: usize = 3;

    /// All, the urgent ones first.
    pub const ALL: [Class; Class::COUNT] = [Class::Control, Class::Lock, Class::Bulk];

    /// The class with this number.
    pub const fn from_number(n: u8) -> Option<Class> {
        match n {
            0 => Some(Class::Lock),
            1 => Some(Class::Bulk),
            2 => Some(Class::Control),
            _ => None,
        }
    }

    /// One word for people.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Lock => "lock",
            Class::Bulk => "bulk",
            Class::Control => "control",
        }
    }
}

/// What a datagram is for: its fourth byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// First message of a handshake.
    Hello = 1,
    /// Second message of a handshake.
    Reply = 2,
    /// "I am busy: prove that you are where you say".
    Cookie = 3,
    /// Everything after the handshake.
    Sealed = 4,
    /// "We two do not fit", where no handshake can say it.
    Refusal = 5,
    /// "This run has ended, and nobody acts under its locks", said by who outlived it (L5).
    Gasp = 6,
    /// Somebody who is no member asks to become one; see [`join`](super::join). No circuit reads it.
    Join = 7,
    /// What he is told.
    Welcome = 8,
}

/// A datagram, taken apart as far as that goes without keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Datagram<'a> {
    /// First message of a handshake.
    Hello {
        /// Number by which the answer shall find the sender.
        sender: u32,
        /// The handshake message.
        handshake: &'a [u8],
        /// Code over all bytes before it, made with the cluster secret.
        proof: &'a [u8; MAC_BYTES],
        /// Code over all bytes before it, made with a cookie; zero without one.
        cookie_proof: &'a [u8; MAC_BYTES],
    },
    /// Second message of a handshake.
    Reply {
        /// The `sender` of the hello.
        receiver: u32,
        /// Number by which sealed datagrams shall find the responder.
        sender: u32,
        /// The handshake message.
        handshake: &'a [u8],
    },
    /// A cookie instead of an answer.
    Cookie {
        /// The `sender` of the hello.
        receiver: u32,
        /// What the next hello's `cookie_proof` is to be made with.
        cookie: &'a [u8; MAC_BYTES],
        /// Code over all bytes before it, made with the cluster secret.
        proof: &'a [u8; MAC_BYTES],
    },
    /// Messages.
    Sealed(SealedHeader),
    /// No handshake is possible.
    Refusal {
        /// The version of who refuses.
        version: u8,
        /// The `sender` of the hello.
        receiver: u32,
        /// Number of a [`Code`].
        code: u16,
        /// Who refuses.
        node: NodeId,
        /// Code over all bytes before it, made with the cluster secret.
        proof: &'a [u8; MAC_BYTES],
    },
    /// The last gasp of a run whose process has died (L5).
    Gasp {
        /// Whose.
        node: NodeId,
        /// Which run has ended.
        incarnation: Incarnation,
        /// What that run has pledged, by a code made with it; said once, and worth nothing after that.
        secret: &'a [u8; MAC_BYTES],
    },
}

/// The header of a sealed datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SealedHeader {
    /// By which the receiver finds circuit and keys: it chose the number in the handshake.
    pub receiver: u32,
    /// The packet's number under its key: nonce, and protection against replay.
    pub number: u64,
    /// The sender's clock when it sealed, and its ceilings (E2, E5). In the header, so that it is heard before the body
    /// is looked at.
    pub reading: Reading,
}

/// Why a datagram cannot be taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Foreign {
    /// Not ours at all.
    #[error("not a datagram of Oarlock")]
    Magic,
    /// Ours, of another version. A hello says where its sender wants to be answered.
    #[error("version {version}, here it is {VERSION}")]
    Version {
        /// The version that came.
        version: u8,
        /// The sender's number, if the datagram is a hello and long enough to be answered.
        hello: Option<u32>,
    },
    /// Ours, and broken.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl SealedHeader {
    /// The bytes, which are also what the tag covers besides the body.
    pub fn to_array(self) -> [u8; SEALED_HEADER_BYTES] {
        let mut bytes = [0; SEALED_HEADER_BYTES];
        bytes[..4].copy_from_slice(&start(Kind::Sealed));
        bytes[4..8].copy_from_slice(&self.receiver.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.number.to_le_bytes());
        let Reading { stamp, ceiling, acked, epoch } = self.reading;
        bytes[16..24].copy_from_slice(&stamp.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&ceiling.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&acked.0.to_le_bytes());
        bytes[40..].copy_from_slice(&epoch.0.to_le_bytes());
        bytes
    }
}

/// The first four bytes of a datagram.
pub const fn start(kind: Kind) -> [u8; 4] {
    let magic = MAGIC.to_le_bytes();
    [magic[0], magic[1], VERSION, kind as u8]
}

/// Appends a hello up to its first proof, with `handshake` writing the handshake message. The caller appends
/// the two proofs, each over everything before it.
pub fn encode_hello<T>(out: &mut Vec<u8>, sender: u32, handshake: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    out.extend_from_slice(&start(Kind::Hello));
    out.extend_from_slice(&sender.to_le_bytes());
    handshake(out)
}

/// Appends a reply, with `handshake` writing the handshake message.
pub fn encode_reply<T>(
    out: &mut Vec<u8>,
    receiver: u32,
    sender: u32,
    handshake: impl FnOnce(&mut Vec<u8>) -> T,
) -> T {
    out.extend_from_slice(&start(Kind::Reply));
    out.extend_from_slice(&receiver.to_le_bytes());
    out.extend_from_slice(&sender.to_le_bytes());
    handshake(out)
}

/// Appends a cookie up to its proof.
pub fn encode_cookie(out: &mut Vec<u8>, receiver: u32, cookie: &[u8; MAC_BYTES]) {
    out.extend_from_slice(&start(Kind::Cookie));
    out.extend_from_slice(&receiver.to_le_bytes());
    out.extend_from_slice(cookie);
}

/// Appends a refusal up to its proof.
pub fn encode_refusal(out: &mut Vec<u8>, receiver: u32, code: Code, node: NodeId) {
    out.extend_from_slice(&start(Kind::Refusal));
    out.extend_from_slice(&receiver.to_le_bytes());
    out.extend_from_slice(&code.number().to_le_bytes());
    out.extend_from_slice(&node.0.to_le_bytes());
}

/// A whole last gasp: whoever outlived a run says that it has ended (L5). Not encrypted, for there is no circuit any more; it
/// proves itself by a secret of which every peer has heard a code ([`Pledge`](super::peer::PeerMessage::Pledge)).
pub fn encode_gasp(node: NodeId, incarnation: Incarnation, secret: &[u8; MAC_BYTES]) -> [u8; GASP_BYTES] {
    let mut bytes = [0; GASP_BYTES];
    bytes[..4].copy_from_slice(&start(Kind::Gasp));
    bytes[4..6].copy_from_slice(&node.0.to_le_bytes());
    bytes[6..14].copy_from_slice(&incarnation.0.to_le_bytes());
    bytes[14..].copy_from_slice(secret);
    bytes
}

impl<'a> Datagram<'a> {
    /// Takes a datagram apart. Never panics, whatever the bytes; looks at nothing that is encrypted.
    pub fn decode(bytes: &'a [u8]) -> Result<Datagram<'a>, Foreign> {
        let mut r = Reader::new(bytes);
        if r.u16()? != MAGIC {
            return Err(Foreign::Magic);
        }
        let version = r.u8()?;
        let kind = r.u8()?;
        // Refusals are read whatever their version: they are how versions name each other.
        if kind == Kind::Refusal as u8 {
            let refusal = Datagram::Refusal {
                version,
                receiver: r.u32()?,
                code: r.u16()?,
                node: NodeId(r.u16()?),
                proof: code_at_end(&mut r)?,
            };
            r.end()?;
            return Ok(refusal);
        }
        if version != VERSION {
            let answerable = kind == Kind::Hello as u8 && bytes.len() >= REFUSAL_BYTES;
            let hello = if answerable { Some(r.u32()?) } else { None };
            return Err(Foreign::Version { version, hello });
        }
        match kind {
            k if k == Kind::Hello as u8 => {
                let sender = r.u32()?;
                let handshake = handshake(&mut r, 2 * MAC_BYTES)?;
                let proof = code_at_end(&mut r)?;
                let cookie_proof = code_at_end(&mut r)?;
                Ok(Datagram::Hello { sender, handshake, proof, cookie_proof })
            }
            k if k == Kind::Reply as u8 => {
                let receiver = r.u32()?;
                let sender = r.u32()?;
                Ok(Datagram::Reply { receiver, sender, handshake: handshake(&mut r, 0)? })
            }
            k if k == Kind::Cookie as u8 => {
                let receiver = r.u32()?;
                let cookie = code_at_end(&mut r)?;
                let proof = code_at_end(&mut r)?;
                r.end()?;
                Ok(Datagram::Cookie { receiver, cookie, proof })
            }
            k if k == Kind::Sealed as u8 => {
                let (receiver, number) = (r.u32()?, r.u64()?);
                let (stamp, ceiling, acked) = (Stamp(r.u64()?), Stamp(r.u64()?), Stamp(r.u64()?));
                let reading = Reading { stamp, ceiling, acked, epoch: Epoch(r.u32()?) };
                let header = SealedHeader { receiver, number, reading };
                r.raw(TAG_BYTES)?;
                Ok(Datagram::Sealed(header))
            }
            k if k == Kind::Gasp as u8 => {
                let (node, incarnation) = (NodeId(r.u16()?), Incarnation(r.u64()?));
                let secret = code_at_end(&mut r)?;
                r.end()?;
                Ok(Datagram::Gasp { node, incarnation, secret })
            }
            k => Err(Malformed::Unknown { field: "kind of datagram", value: k.into() }.into()),
        }
    }
}

fn code_at_end<'a>(r: &mut Reader<'a>) -> Result<&'a [u8; MAC_BYTES], Malformed> {
    Ok(r.raw(MAC_BYTES)?.try_into().expect("raw returned that many bytes"))
}

fn handshake<'a>(r: &mut Reader<'a>, after: usize) -> Result<&'a [u8], Malformed> {
    let n = r.left().saturating_sub(after);
    if n > HANDSHAKE_BYTES_MAX {
        let (field, value, max) = ("handshake length", n as u64, HANDSHAKE_BYTES_MAX as u64);
        return Err(Malformed::TooMany { field, value, max });
    }
    r.raw(n.max(HANDSHAKE_BYTES_MIN))
}

/// What both handshake messages carry, encrypted: who speaks, and whether we two fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Greeting {
    /// Who the sender says it is; its key must be the one pinned for that node.
    pub node: NodeId,
    /// Which run of it.
    pub incarnation: Incarnation,
    /// Drawn at the start of the run: tells two runs apart even if a restored disk made their incarnations
    /// equal, for then sequence numbers would begin again unnoticed.
    pub run: u64,
    /// Hash of the configuration that all members must share.
    pub shared: u64,
    /// Counts what the sender says in handshakes. With the incarnation it orders all hellos of a node, and one that is
    /// not newer than the last is a replay. The stamp cannot do that: a clock may have to stand still.
    pub number: u64,
    /// The sender's clock (E2).
    pub stamp: Stamp,
    /// In a reply: 0 if the handshake succeeded, else the number of the [`Code`] that says why not.
    pub status: u16,
}

impl Wire for Greeting {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u16(self.node.0);
        out.u64(self.incarnation.0);
        out.u64(self.run);
        out.u64(self.shared);
        out.u64(self.number);
        out.u64(self.stamp.0);
        out.u16(self.status);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Greeting, Malformed> {
        Ok(Greeting {
            node: NodeId(r.u16()?),
            incarnation: Incarnation(r.u64()?),
            run: r.u64()?,
            shared: r.u64()?,
            number: r.u64()?,
            stamp: Stamp(r.u64()?),
            status: r.u16()?,
        })
    }
}

/// One chunk of a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chunk<'a> {
    /// Consecutive segments of one class.
    Run {
        /// The class.
        class: Class,
        /// Sequence number of the first.
        first: u64,
        /// The segments.
        segments: Segments<'a>,
    },
    /// What arrived of one class.
    Ack {
        /// The class.
        class: Class,
        /// Everything below arrived.
        next: u64,
        /// How long the newest of it waited for this acknowledgement, in microseconds.
        delay_us: u32,
        /// What arrived above `next`.
        ranges: Ranges<'a>,
    },
    /// A question that must be answered.
    Keepalive {
        /// Counts keepalives of the sender.
        number: u32,
        /// The sender has not heard the receiver for the silent time.
        deaf: bool,
    },
    /// The answer.
    Alive {
        /// The keepalive's number.
        number: u32,
        /// The sender has not heard the receiver for the silent time (until this keepalive).
        deaf: bool,
    },
    /// A chunk of a later minor version: its length is known, so it is skipped and counted.
    Other(u8),
}

const PADDING: u8 = 0;
const RUN: u8 = 1;
const ACK: u8 = 2;
const KEEPALIVE: u8 = 3;
const ALIVE: u8 = 4;
const MORE: u16 = 1 << 15;

/// Reads a body chunk by chunk.
pub struct Chunks<'a> {
    r: Reader<'a>,
}

impl<'a> Chunks<'a> {
    /// Reads from the start of `body`.
    pub fn new(body: &'a [u8]) -> Chunks<'a> {
        Chunks { r: Reader::new(body) }
    }

    /// The next chunk; `None` at the end or where padding begins.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk<'a>>, Malformed> {
        if self.r.left() == 0 {
            return Ok(None);
        }
        let kind = self.r.u8()?;
        if kind == PADDING {
            return Ok(None);
        }
        let length = self.r.u16()?;
        let mut r = Reader::new(self.r.raw(length.into())?);
        let chunk = match kind {
            RUN => {
                let (class, first) = (class(&mut r)?, r.u64()?);
                Chunk::Run { class, first, segments: Segments { r } }
            }
            ACK => {
                let (class, next, delay_us) = (class(&mut r)?, r.u64()?, r.u32()?);
                let ranges = r.left() / ACK_RANGE_BYTES;
                if ranges > ACK_RANGES_MAX {
                    let (field, value, max) = ("ranges", ranges as u64, ACK_RANGES_MAX as u64);
                    return Err(Malformed::TooMany { field, value, max });
                }
                Chunk::Ack { class, next, delay_us, ranges: Ranges { r, at: next } }
            }
            KEEPALIVE => Chunk::Keepalive { number: r.u32()?, deaf: r.bool("deaf")? },
            ALIVE => Chunk::Alive { number: r.u32()?, deaf: r.bool("deaf")? },
            other => Chunk::Other(other),
        };
        Ok(Some(chunk))
    }
}

fn class(r: &mut Reader<'_>) -> Result<Class, Malformed> {
    let n = r.u8()?;
    Class::from_number(n).ok_or(Malformed::Unknown { field: "class", value: n.into() })
}

/// The segments of a run.
#[derive(Clone, Copy, Debug)]
pub struct Segments<'a> {
    r: Reader<'a>,
}

/// A message or a piece of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// The message goes on in the next segment.
    pub more: bool,
}

impl<'a> Segments<'a> {
    /// The next segment.
    pub fn next_segment(&mut self) -> Result<Option<Segment<'a>>, Malformed> {
        if self.r.left() == 0 {
            return Ok(None);
        }
        let length = self.r.u16()?;
        Ok(Some(Segment { bytes: self.r.raw((length & !MORE).into())?, more: length & MORE != 0 }))
    }
}

/// The ranges of an acknowledgement, ascending.
#[derive(Clone, Copy, Debug)]
pub struct Ranges<'a> {
    r: Reader<'a>,
    at: u64,
}

impl Ranges<'_> {
    /// The next range: first sequence number that arrived, first after it that did not.
    pub fn next_range(&mut self) -> Result<Option<(u64, u64)>, Malformed> {
        if self.r.left() == 0 {
            return Ok(None);
        }
        let (gap, length) = (self.r.u16()?, self.r.u16()?);
        if gap == 0 || length == 0 {
            // Such a range would touch its neighbour; an honest sender would have joined them.
            return Err(Malformed::Unknown { field: "empty range", value: 0 });
        }
        let past = Malformed::Unknown { field: "sequence number", value: u64::MAX };
        let first = self.at.checked_add(gap.into()).ok_or(past)?;
        let end = first.checked_add(length.into()).ok_or(past)?;
        self.at = end;
        Ok(Some((first, end)))
    }
}

// Equality by what is still to be read: what tests compare.
impl PartialEq for Segments<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.r.rest() == other.r.rest()
    }
}
impl Eq for Segments<'_> {}
impl PartialEq for Ranges<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at && self.r.rest() == other.r.rest()
    }
}
impl Eq for Ranges<'_> {}

/// Appends the header of a run and returns where it stands, for [`end_run`] to close it.
pub fn begin_run(out: &mut Vec<u8>, class: Class, first: u64) -> usize {
    let at = out.len();
    out.extend_from_slice(&[RUN, 0, 0, class as u8]);
    out.extend_from_slice(&first.to_le_bytes());
    at
}

/// Appends the header of a segment of `length` bytes; the caller appends the bytes.
///
/// # Panics
/// If `length` is above [`SEGMENT_BYTES_MAX`].
pub fn begin_segment(out: &mut Vec<u8>, length: usize, more: bool) {
    assert!(length <= SEGMENT_BYTES_MAX, "a segment of {length} bytes");
    let word = length as u16 | if more { MORE } else { 0 };
    out.extend_from_slice(&word.to_le_bytes());
}

/// Closes the run that began at `at`.
pub fn end_run(out: &mut [u8], at: usize) {
    let length = u16::try_from(out.len() - at - CHUNK_HEADER_BYTES).expect("a run fits its datagram");
    out[at + 1..at + 3].copy_from_slice(&length.to_le_bytes());
}

/// Appends an acknowledgement. `ranges` are (first, end), ascending, not touching, all above `next`; those
/// that do not fit `room` bytes or 16 bits are left off.
pub fn encode_ack(
    out: &mut Vec<u8>,
    class: Class,
    next: u64,
    delay_us: u32,
    ranges: impl Iterator<Item = (u64, u64)>,
    room: usize,
) {
    let at = out.len();
    out.extend_from_slice(&[ACK, 0, 0, class as u8]);
    out.extend_from_slice(&next.to_le_bytes());
    out.extend_from_slice(&delay_us.to_le_bytes());
    let mut end = next;
    let fitting = room.saturating_sub(CHUNK_HEADER_BYTES + ACK_FIXED_BYTES) / ACK_RANGE_BYTES;
    for (first, last) in ranges.take(fitting.min(ACK_RANGES_MAX)) {
        assert!(first > end && last > first, "ranges ascend and do not touch");
        let (Ok(gap), Ok(length)) = (u16::try_from(first - end), u16::try_from(last - first)) else {
            break;
        };
        out.extend_from_slice(&gap.to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        end = last;
    }
    end_run(out, at);
}

/// Appends a keepalive.
pub fn encode_keepalive(out: &mut Vec<u8>, number: u32, deaf: bool) {
    question(out, KEEPALIVE, number, deaf);
}

/// Appends the answer to a keepalive.
pub fn encode_alive(out: &mut Vec<u8>, number: u32, deaf: bool) {
    question(out, ALIVE, number, deaf);
}

/// Appends a chunk of a kind that this version does not know, as a later one might.
///
/// # Panics
/// If it knows the kind, or the chunk is longer than any datagram.
pub fn encode_other(out: &mut Vec<u8>, kind: u8, chunk: &[u8]) {
    assert!(kind > ALIVE, "kind {kind} has a meaning");
    let length = u16::try_from(chunk.len()).expect("a chunk fits a datagram");
    out.push(kind);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(chunk);
}

fn question(out: &mut Vec<u8>, kind: u8, number: u32, deaf: bool) {
    out.extend_from_slice(&[kind, KEEPALIVE_BYTES as u8, 0]);
    out.extend_from_slice(&number.to_le_bytes());
    out.push(deaf.into());
}
