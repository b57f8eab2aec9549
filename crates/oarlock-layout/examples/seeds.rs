//! Writes the first inputs of the fuzz targets: one real message of every kind per file.
//!
//! `cargo run -p oarlock-layout --example seeds -- fuzz/corpus`

#[path = "../tests/samples/mod.rs"]
mod samples;

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use oarlock_layout::codec::Wire;
use oarlock_layout::id::{Incarnation, NodeId};
use oarlock_layout::message::frame::{
    Class, Greeting, SealedHeader, begin_run, begin_segment, encode_ack, encode_alive, encode_cookie,
    encode_hello, encode_keepalive, encode_refusal, encode_reply, end_run,
};
use oarlock_layout::message::peer::PeerMessage;
use oarlock_layout::stamp::{Reading, Stamp};

fn main() -> io::Result<()> {
    let corpus = PathBuf::from(env::args().nth(1).unwrap_or_else(|| "fuzz/corpus".into()));
    for conversation in samples::conversations() {
        for (name, bytes) in conversation.messages {
            put(&corpus, conversation.name, name, &bytes)?;
        }
    }
    // What is seen has a decoder of its own below the byte that names the room.
    for (name, message) in samples::peer() {
        if let PeerMessage::Seen(seen) = &message {
            put(&corpus, "seen", name, &seen.to_bytes())?;
        }
    }
    for (name, bytes) in datagrams() {
        put(&corpus, "datagram", name, &bytes)?;
    }
    put(&corpus, "body", "everything", &body())?;
    let greeting = Greeting {
        node: NodeId(1),
        incarnation: Incarnation(2),
        run: 3,
        shared: 4,
        number: 6,
        stamp: Stamp(5),
        status: 0,
    };
    put(&corpus, "greeting", "accepted", &greeting.to_bytes())
}

fn put(corpus: &Path, target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let dir = corpus.join(target);
    fs::create_dir_all(&dir)?;
    let name = name.replace([',', ':'], "").replace(' ', "-");
    fs::write(dir.join(format!("seed-{name}")), bytes)
}

/// One of each kind.
fn datagrams() -> Vec<(&'static str, Vec<u8>)> {
    let made = |make: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        make(&mut bytes);
        bytes
    };
    let handshake = |out: &mut Vec<u8>| out.extend([0x5a; 96]);
    let code = oarlock_layout::code::Code::PeerVersion;
    vec![
        (
            "hello",
            made(&|out| {
                encode_hello(out, 7, handshake);
                out.extend([1; 32]);
            }),
        ),
        (
            "reply",
            made(&|out| {
                encode_reply(out, 7, 8, handshake);
            }),
        ),
        (
            "cookie",
            made(&|out| {
                encode_cookie(out, 7, &[2; 16]);
                out.extend([1; 16]);
            }),
        ),
        (
            "refusal",
            made(&|out| {
                encode_refusal(out, 7, code, NodeId(3));
                out.extend([1; 16]);
            }),
        ),
        (
            "sealed",
            made(&|out| {
                out.extend(
                    SealedHeader { receiver: 7, number: 8, reading: Reading::bare(Stamp(9)) }.to_array(),
                );
                out.extend([3; 40]);
            }),
        ),
    ]
}

/// A body with chunks of every kind.
fn body() -> Vec<u8> {
    let mut out = Vec::new();
    let run = begin_run(&mut out, Class::Lock, 17);
    begin_segment(&mut out, 3, true);
    out.extend(b"abc");
    begin_segment(&mut out, 2, false);
    out.extend(b"de");
    end_run(&mut out, run);
    encode_ack(&mut out, Class::Bulk, 5, 1000, [(7, 9), (12, 13)].into_iter(), 100);
    encode_keepalive(&mut out, 1, false);
    encode_alive(&mut out, 2, true);
    out
}
