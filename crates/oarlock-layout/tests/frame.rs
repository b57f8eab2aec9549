//! Datagrams byte by byte: golden bytes of version 2, and what no bytes can do to a decoder.

use oarlock_layout::code::Code;
use oarlock_layout::codec::Wire;
use oarlock_layout::id::{Epoch, Incarnation, NodeId};
use oarlock_layout::message::frame::{self, Chunk, Chunks, Class, Datagram, Foreign, Greeting, SealedHeader};
use oarlock_layout::stamp::{Reading, Stamp};
use proptest::prelude::*;

const READING: Reading = Reading {
    stamp: Stamp(0x0f0e_0d0c),
    ceiling: Stamp(0x1312_1110),
    acked: Stamp(0x1716_1514),
    epoch: Epoch(0x0b0a_0908),
};

/// What each name in `testdata/frame.v2.txt` stands for.
fn examples() -> Vec<(&'static str, Vec<u8>)> {
    let with = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        write(&mut bytes);
        bytes
    };
    let header = SealedHeader { receiver: 0x0403_0201, number: 0x0a09_0807, reading: READING };
    let greeting = Greeting {
        node: NodeId(3),
        incarnation: Incarnation(17),
        run: 0x1111_2222_3333_4444,
        shared: 0x5555_6666_7777_8888,
        number: 0x1234_5678,
        stamp: Stamp(1000),
        status: Code::PeerConfig.number(),
    };
    vec![
        ("hello", with(&|out| frame::encode_hello(out, 0x0403_0201, |out| out.extend([0xee; 32])))),
        ("reply", with(&|out| frame::encode_reply(out, 0x0403_0201, 5, |out| out.extend([0xee; 32])))),
        ("cookie", with(&|out| frame::encode_cookie(out, 0x0403_0201, &[0xcc; 16]))),
        ("refusal", with(&|out| frame::encode_refusal(out, 0x0403_0201, Code::PeerVersion, NodeId(3)))),
        ("sealed", header.to_array().to_vec()),
        ("gasp", frame::encode_gasp(NodeId(3), Incarnation(17), &[0xdd; 16]).to_vec()),
        ("greeting", greeting.to_bytes()),
        ("run", with(&|out| run(out, Class::Bulk, 258, &[(b"one", true), (b"", false)]))),
        (
            "ack",
            with(&|out| frame::encode_ack(out, Class::Lock, 10, 500, [(12, 15), (20, 21)].into_iter(), 99)),
        ),
        ("keepalive", with(&|out| frame::encode_keepalive(out, 7, false))),
        ("alive", with(&|out| frame::encode_alive(out, 7, true))),
    ]
}

fn run(out: &mut Vec<u8>, class: Class, first: u64, segments: &[(&[u8], bool)]) {
    let at = frame::begin_run(out, class, first);
    for (bytes, more) in segments {
        frame::begin_segment(out, bytes.len(), *more);
        out.extend_from_slice(bytes);
    }
    frame::end_run(out, at);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Nodes of version 2 exist somewhere: whatever changes here needs another version number.
#[test]
fn bytes_of_version_2_are_what_they_were() {
    assert_eq!(frame::VERSION, 2);
    let written: String = examples().iter().map(|(name, bytes)| format!("{name} {}\n", hex(bytes))).collect();
    assert_eq!(written, include_str!("../testdata/frame.v2.txt"));
}

#[test]
fn datagrams_are_taken_apart_into_what_they_were_made_of() {
    let examples = examples();
    let find = |name| examples.iter().find(|(n, _)| *n == name).unwrap().1.clone();
    let hello = [find("hello"), vec![0xaa; 16], vec![0xbb; 16]].concat();
    assert_eq!(
        Datagram::decode(&hello),
        Ok(Datagram::Hello {
            sender: 0x0403_0201,
            handshake: &[0xee; 32],
            proof: &[0xaa; 16],
            cookie_proof: &[0xbb; 16]
        })
    );
    let reply = find("reply");
    let receiver = 0x0403_0201;
    assert_eq!(Datagram::decode(&reply), Ok(Datagram::Reply { receiver, sender: 5, handshake: &[0xee; 32] }));
    let cookie = [find("cookie"), vec![0xaa; 16]].concat();
    assert_eq!(cookie.len(), frame::COOKIE_BYTES);
    assert_eq!(
        Datagram::decode(&cookie),
        Ok(Datagram::Cookie { receiver, cookie: &[0xcc; 16], proof: &[0xaa; 16] })
    );
    let sealed = [find("sealed"), vec![0; 16]].concat();
    let header = SealedHeader { receiver, number: 0x0a09_0807, reading: READING };
    assert_eq!(Datagram::decode(&sealed), Ok(Datagram::Sealed(header)));
    assert!(Datagram::decode(&sealed[..59]).is_err(), "no room for a tag");
    let gasp = find("gasp");
    let (node, incarnation, secret) = (NodeId(3), Incarnation(17), &[0xdd; 16]);
    assert_eq!(Datagram::decode(&gasp), Ok(Datagram::Gasp { node, incarnation, secret }));
    assert!(Datagram::decode(&gasp[..29]).is_err() && Datagram::decode(&[&gasp[..], &[0]].concat()).is_err());
    assert_eq!(Greeting::from_bytes(&find("greeting")).unwrap().incarnation, Incarnation(17));
}

/// Versions can always name each other: a hello of any version says where to answer, a refusal of any version
/// is read.
#[test]
fn another_version_is_named_and_its_refusal_is_read() {
    let mut hello = examples()[0].1.clone();
    hello.extend([0; 32]);
    hello[2] = 9;
    assert_eq!(Datagram::decode(&hello), Err(Foreign::Version { version: 9, hello: Some(0x0403_0201) }));
    assert_eq!(Datagram::decode(&hello[..20]), Err(Foreign::Version { version: 9, hello: None }));
    let mut refusal = [examples()[3].1.clone(), vec![0xaa; 16]].concat();
    assert_eq!(refusal.len(), frame::REFUSAL_BYTES);
    refusal[2] = 9;
    let (receiver, code, node) = (0x0403_0201, Code::PeerVersion.number(), NodeId(3));
    assert_eq!(
        Datagram::decode(&refusal),
        Ok(Datagram::Refusal { version: 9, receiver, code, node, proof: &[0xaa; 16] })
    );
    refusal[0] ^= 1;
    assert_eq!(Datagram::decode(&refusal), Err(Foreign::Magic));
}

/// Everything a body holds, or what is wrong with it.
fn read_all(body: &[u8]) -> Result<usize, oarlock_layout::codec::Malformed> {
    let (mut chunks, mut things) = (Chunks::new(body), 0);
    while let Some(chunk) = chunks.next_chunk()? {
        things += 1;
        match chunk {
            Chunk::Run { mut segments, .. } => {
                while let Some(segment) = segments.next_segment()? {
                    things += 1 + segment.bytes.len();
                }
            }
            Chunk::Ack { next, mut ranges, .. } => {
                let mut end = next;
                while let Some((first, after)) = ranges.next_range()? {
                    assert!(first > end && after > first, "ranges ascend");
                    end = after;
                    things += 1;
                }
            }
            Chunk::Keepalive { .. } | Chunk::Alive { .. } | Chunk::Other(_) => {}
        }
    }
    Ok(things)
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic_or_read_more_than_there_is(
        kind in 0u8..8,
        bytes in prop::collection::vec(any::<u8>(), 0..700),
        keep in any::<bool>(),
    ) {
        let mut bytes = bytes;
        if keep && bytes.len() > 4 {
            bytes[..4].copy_from_slice(&frame::start(frame::Kind::Hello));
            bytes[3] = kind;
        }
        let _ = Datagram::decode(&bytes);
        if let Ok(things) = read_all(&bytes) {
            prop_assert!(things <= bytes.len());
        }
    }

    #[test]
    fn a_body_is_read_as_it_was_written_and_cut_short_anywhere_it_is_an_error_or_a_shorter_body(
        runs in prop::collection::vec((0u8..2, any::<u32>(), prop::collection::vec((0usize..40, any::<bool>()), 1..5)), 0..4),
        gaps in prop::collection::vec((1u64..1000, 1u64..1000), 0..20),
        padding in 0usize..20,
    ) {
        let mut body = Vec::new();
        let (mut ranges, mut at) = (Vec::new(), 5);
        for (gap, length) in gaps {
            ranges.push((at + gap, at + gap + length));
            at += gap + length;
        }
        frame::encode_ack(&mut body, Class::Bulk, 5, 1, ranges.iter().copied(), usize::MAX);
        let bytes = [9u8; 40];
        for (class, first, segments) in &runs {
            let segments: Vec<_> = segments.iter().map(|(n, more)| (&bytes[..*n], *more)).collect();
            run(&mut body, Class::from_number(*class).unwrap(), (*first).into(), &segments);
        }
        body.resize(body.len() + padding, 0);
        let mut chunks = Chunks::new(&body);
        let Ok(Some(Chunk::Ack { class: Class::Bulk, next: 5, delay_us: 1, ranges: mut read })) =
            chunks.next_chunk() else { panic!("the acknowledgement comes first") };
        let mut got = Vec::new();
        while let Some(range) = read.next_range().unwrap() {
            got.push(range);
        }
        prop_assert_eq!(got, ranges);
        for (class, first, segments) in &runs {
            let Ok(Some(Chunk::Run { class: c, first: f, segments: mut read })) = chunks.next_chunk()
                else { panic!("then the runs") };
            prop_assert_eq!((c as u8, f), (*class, u64::from(*first)));
            for (n, more) in segments {
                let segment = read.next_segment().unwrap().unwrap();
                prop_assert_eq!((segment.bytes, segment.more), (&bytes[..*n], *more));
            }
            prop_assert_eq!(read.next_segment(), Ok(None));
        }
        prop_assert_eq!(chunks.next_chunk(), Ok(None));
        for cut in 0..body.len() {
            let _ = read_all(&body[..cut]);
        }
    }

    /// What does not fit is left off, never written wrongly.
    #[test]
    fn an_acknowledgement_never_takes_more_room_than_it_is_given(
        room in 16usize..200,
        ranges in 0u64..60,
    ) {
        let mut body = Vec::new();
        frame::encode_ack(&mut body, Class::Lock, 0, 0, (0..ranges).map(|n| (n * 3 + 1, n * 3 + 2)), room);
        prop_assert!(body.len() <= room);
        prop_assert_eq!(read_all(&body), Ok(1 + (ranges as usize).min((room - 16) / 4).min(32)));
    }
}

/// Ranges too far apart for sixteen bits end the list.
#[test]
fn a_gap_beyond_sixteen_bits_ends_the_ranges() {
    let mut body = Vec::new();
    let ranges = [(2, 3), (100_000, 100_001)];
    frame::encode_ack(&mut body, Class::Lock, 0, 0, ranges.into_iter(), usize::MAX);
    assert_eq!(read_all(&body), Ok(2));
}
