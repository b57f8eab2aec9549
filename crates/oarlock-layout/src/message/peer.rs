//! What travels on a circuit between two nodes: one byte for the room, then that room's message.

use crate::codec::{Malformed, Reader, Wire, Writer};
use crate::message::{barrier, lock, look, raft, trace};
use crate::seal::MAC_BYTES;

/// A message from one node to another.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum PeerMessage {
    /// Masters and shadows.
    Lock(lock::Packet),
    /// A question of a person.
    Look(look::Look),
    /// Its answer.
    Seen(look::Seen),
    /// How far a member has come in a new view.
    Barrier(barrier::Barrier),
    /// Whom a member does not hear.
    Report(barrier::Report),
    /// Who names the secret from which this code was made speaks for the end of the sender's run (L5).
    Pledge([u8; MAC_BYTES]),
    /// What a coordinator asks another.
    Call {
        /// Of the asker; no other call of the same run has it.
        question: u64,
        /// What it asks.
        call: raft::Call,
    },
    /// What the other coordinator answers.
    Answer {
        /// Of the call.
        question: u64,
        /// The answer.
        answer: raft::Answer,
    },
    /// A question of a search for deadlocks.
    Trace(trace::Trace),
    /// Its answer.
    Traced(trace::Traced),
    /// What a search found.
    Verdict(trace::Verdict),
    /// What was done about it.
    Broken(trace::Broken),
}

impl Wire for PeerMessage {
    fn encode(&self, out: &mut Writer<'_>) {
        match self {
            PeerMessage::Lock(m) => {
                out.u8(1);
                m.encode(out);
            }
            PeerMessage::Look(m) => {
                out.u8(3);
                m.encode(out);
            }
            PeerMessage::Seen(m) => {
                out.u8(4);
                m.encode(out);
            }
            PeerMessage::Barrier(m) => {
                out.u8(7);
                m.encode(out);
            }
            PeerMessage::Report(m) => {
                out.u8(8);
                m.encode(out);
            }
            PeerMessage::Pledge(code) => {
                out.u8(9);
                out.raw(code);
            }
            PeerMessage::Call { question, call } => {
                out.u8(5);
                out.u64(*question);
                call.encode(out);
            }
            PeerMessage::Answer { question, answer } => {
                out.u8(6);
                out.u64(*question);
                answer.encode(out);
            }
            PeerMessage::Trace(m) => {
                out.u8(10);
                m.encode(out);
            }
            PeerMessage::Traced(m) => {
                out.u8(11);
                m.encode(out);
            }
            PeerMessage::Verdict(m) => {
                out.u8(12);
                m.encode(out);
            }
            PeerMessage::Broken(m) => {
                out.u8(13);
                m.encode(out);
            }
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<PeerMessage, Malformed> {
        Ok(match r.u8()? {
            1 => PeerMessage::Lock(lock::Packet::decode(r)?),
            3 => PeerMessage::Look(look::Look::decode(r)?),
            4 => PeerMessage::Seen(look::Seen::decode(r)?),
            7 => PeerMessage::Barrier(barrier::Barrier::decode(r)?),
            8 => PeerMessage::Report(barrier::Report::decode(r)?),
            9 => PeerMessage::Pledge(r.raw(MAC_BYTES)?.try_into().expect("raw returned that many bytes")),
            5 => PeerMessage::Call { question: r.u64()?, call: raft::Call::decode(r)? },
            6 => PeerMessage::Answer { question: r.u64()?, answer: raft::Answer::decode(r)? },
            10 => PeerMessage::Trace(trace::Trace::decode(r)?),
            11 => PeerMessage::Traced(trace::Traced::decode(r)?),
            12 => PeerMessage::Verdict(trace::Verdict::decode(r)?),
            13 => PeerMessage::Broken(trace::Broken::decode(r)?),
            n => return Err(Malformed::Unknown { field: "peer message", value: n.into() }),
        })
    }
}
