//! What travels on a circuit between two nodes: one byte for the room, then that room's message.

use crate::codec::{Malformed, Reader, Wire, Writer};
use crate::message::{barrier, lock, look};

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
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<PeerMessage, Malformed> {
        Ok(match r.u8()? {
            1 => PeerMessage::Lock(lock::Packet::decode(r)?),
            3 => PeerMessage::Look(look::Look::decode(r)?),
            4 => PeerMessage::Seen(look::Seen::decode(r)?),
            7 => PeerMessage::Barrier(barrier::Barrier::decode(r)?),
            8 => PeerMessage::Report(barrier::Report::decode(r)?),
            n => return Err(Malformed::Unknown { field: "peer message", value: n.into() }),
        })
    }
}
