//! The bytes of version 1 do not change: a node and a program of different ages must understand each other.
//!
//! `testdata/*.v1.txt` holds the bytes of one message of every kind. Where a message changes on purpose, run
//! `OARLOCK_REWRITE=1 cargo test -p oarlock-layout --test golden` and read the difference before it is
//! committed; once a version was released, the change needs a new version and a new file instead.

mod samples;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use oarlock_layout::message::barrier::Step;
use oarlock_layout::message::lock::Body;
use oarlock_layout::message::look::What;
use oarlock_layout::message::peer::PeerMessage;
use oarlock_layout::message::raft::{Answer, Call};
use oarlock_layout::message::session::{Reply, Request};

fn path(conversation: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata").join(format!("{conversation}.v1.txt"))
}

/// A message as its file shows it: the name, then sixteen bytes a line.
fn drawn(name: &str, bytes: &[u8]) -> String {
    let mut text = format!("{name}\n");
    for line in bytes.chunks(16) {
        text += "   ";
        for byte in line {
            write!(text, " {byte:02x}").expect("writing to a String");
        }
        text += "\n";
    }
    text + "\n"
}

/// The messages of 3.3 and their companions.
#[test]
fn every_message_has_the_bytes_it_always_had() {
    for conversation in samples::conversations() {
        let path = path(conversation.name);
        let text: String = conversation.messages.iter().map(|(name, bytes)| drawn(name, bytes)).collect();
        if std::env::var_os("OARLOCK_REWRITE").is_some() {
            fs::write(&path, &text).expect("testdata can be written");
        }
        let golden = fs::read_to_string(&path).expect("the golden file is there");
        for (name, bytes) in &conversation.messages {
            let now = drawn(name, bytes);
            assert!(golden.contains(&now), "{}: other bytes than in {}; now\n{now}", name, path.display());
        }
        assert_eq!(golden, text, "{} holds messages that no sample makes", path.display());
    }
}

#[test]
fn every_sample_decodes_to_itself() {
    for conversation in samples::conversations() {
        for (name, bytes) in &conversation.messages {
            assert_eq!((conversation.again)(bytes).as_ref(), Ok(bytes), "{}: {name}", conversation.name);
        }
    }
}

/// R0: one table of messages, and none that these files do not show.
#[test]
fn every_kind_of_message_has_a_sample() {
    // The matches name every kind: a new one does not compile here until it has a number, and the last line
    // fails until it has a sample.
    let peer: BTreeSet<u8> = samples::peer()
        .iter()
        .map(|(_, message)| match message {
            PeerMessage::Lock(packet) => match packet.body {
                Body::Info(_) => 0,
                Body::Grant(_) => 1,
                Body::Deny(_) => 2,
                Body::Head(_) => 3,
                Body::Forget(_) => 4,
                Body::ForgetAck(_) => 5,
                Body::Handover(_) => 6,
            },
            PeerMessage::Barrier(barrier) => match barrier.step {
                Step::Arrived => 7,
                Step::Restated { .. } => 8,
                Step::Lost(_) => 19,
                Step::Unknown(_) => 20,
            },
            PeerMessage::Report(_) => 9,
            PeerMessage::Pledge(_) => 18,
            PeerMessage::Look(_) => 10,
            PeerMessage::Seen(seen) => match seen.rows[0].what {
                What::Holder(_) => 11,
                What::Waiter(_) => 12,
                What::Shadow(_) => 13,
                What::Master(_) => 14,
                What::Record(_) => 15,
                What::Branch(_) => 25,
            },
            // Calls and answers have files of their own.
            PeerMessage::Call { .. } => 16,
            PeerMessage::Answer { .. } => 17,
            PeerMessage::Trace(_) => 21,
            PeerMessage::Traced(_) => 22,
            PeerMessage::Verdict(_) => 23,
            PeerMessage::Broken(_) => 24,
        })
        .collect();
    let requests: BTreeSet<u8> = samples::requests()
        .iter()
        .map(|(_, message)| match message {
            Request::Hello { .. } => 0,
            Request::Open { .. } => 1,
            Request::Lock(_) => 2,
            Request::Convert(_) => 3,
            Request::Unlock { .. } => 4,
            Request::Cancel { .. } => 5,
            Request::Ask { .. } => 6,
            Request::Attach { .. } => 7,
            Request::Knock => 8,
            Request::Detach => 9,
        })
        .collect();
    let replies: BTreeSet<u8> = samples::replies()
        .iter()
        .map(|(_, message)| match message {
            Reply::Welcome { .. } => 0,
            Reply::Refused { .. } => 1,
            Reply::Opened { .. } => 2,
            Reply::Granted(_) => 3,
            Reply::Released { .. } => 4,
            Reply::Failed { .. } => 5,
            Reply::Denied { .. } => 6,
            Reply::Blocking { .. } => 7,
            Reply::Lost { .. } => 8,
            Reply::Answer { .. } => 9,
            Reply::Attached(_) => 10,
        })
        .collect();
    let calls: BTreeSet<u8> = samples::calls()
        .iter()
        .map(|(_, call)| match call {
            Call::Append { .. } => 0,
            Call::Vote { .. } => 1,
            Call::Install { .. } => 2,
            Call::Transfer { .. } => 3,
            Call::Propose { .. } => 4,
            Call::Confirm => 5,
        })
        .collect();
    let answers: BTreeSet<u8> = samples::answers()
        .iter()
        .map(|(_, answer)| match answer {
            Answer::Stored => 0,
            Answer::StoredUpTo(_) => 1,
            Answer::Conflict => 2,
            Answer::Higher(_) => 3,
            Answer::Voted { .. } => 4,
            Answer::Installed(_) => 5,
            Answer::Trying => 6,
            Answer::At(_) => 7,
            Answer::NotLeader(_) => 8,
            Answer::Unable => 9,
            Answer::Unsure => 10,
        })
        .collect();
    assert_eq!((peer.len(), requests.len(), replies.len()), (26, 10, 11));
    assert_eq!((calls.len(), answers.len()), (6, 11));
}
