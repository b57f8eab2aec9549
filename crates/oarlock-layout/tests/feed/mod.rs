//! What every decoder must stand: one function per fuzz target, also used to replay the corpus.
//!
//! A decoder may refuse bytes; it may not panic, loop, or accept two encodings of one message.

// Each program that includes this file uses a part of it.
#![allow(dead_code)]

use oarlock_layout::codec::Wire;
use oarlock_layout::message::frame::{Chunk, Chunks, Datagram, Greeting};
use oarlock_layout::message::join;
use oarlock_layout::message::look::Seen;
use oarlock_layout::message::peer::PeerMessage;
use oarlock_layout::message::raft::{Answer, Call};
use oarlock_layout::message::session::{Reply, Request};

/// A decoder under test.
pub(crate) type Feed = fn(&[u8]);

/// Name of the fuzz target and of its corpus, and what it does with an input.
pub(crate) const TARGETS: &[(&str, Feed)] = &[
    ("peer", message::<PeerMessage>),
    ("seen", message::<Seen>),
    ("request", message::<Request>),
    ("reply", message::<Reply>),
    ("call", message::<Call>),
    ("answer", message::<Answer>),
    ("greeting", message::<Greeting>),
    ("datagram", datagram),
    ("body", body),
];

/// Decodes; what decodes must encode to the same bytes.
pub(crate) fn message<T: Wire>(bytes: &[u8]) {
    if let Ok(message) = T::from_bytes(bytes) {
        assert_eq!(message.to_bytes(), bytes, "two encodings of one message");
    }
}

/// A datagram as it comes from the network, before any key was tried.
pub(crate) fn datagram(bytes: &[u8]) {
    if let Ok(Datagram::Sealed(header)) = Datagram::decode(bytes) {
        let array = header.to_array();
        assert_eq!(array, bytes[..array.len()], "two encodings of one header");
    }
    if join::is_question(bytes)
        && let Ok(knock) = join::Knock::decode(bytes)
    {
        assert!(knock.handshake.len() <= join::QUESTION_BYTES_MAX && knock.signed.len() < bytes.len());
    }
    // What stands in the handshakes of those who are no members yet.
    message::<join::Request>(bytes);
    message::<join::Welcome>(bytes);
}

/// A body after the seal was opened: every chunk, segment and range of it.
pub(crate) fn body(bytes: &[u8]) {
    let mut chunks = Chunks::new(bytes);
    while let Ok(Some(chunk)) = chunks.next_chunk() {
        match chunk {
            Chunk::Run { mut segments, .. } => {
                let mut sum = 0;
                while let Ok(Some(segment)) = segments.next_segment() {
                    sum += segment.bytes.len();
                }
                assert!(sum <= bytes.len(), "segments overlap");
            }
            Chunk::Ack { next, mut ranges, .. } => {
                let mut end = next;
                while let Ok(Some((first, after))) = ranges.next_range() {
                    assert!(end < first && first < after, "ranges do not ascend");
                    end = after;
                }
            }
            Chunk::Keepalive { .. } | Chunk::Alive { .. } | Chunk::Other(_) => {}
        }
    }
}
