//! How members with a static configuration agree on a view (protocol T "Forming", L3).
//!
//! Every member tells every other where it stands. When the member with the lowest id sees that all are
//! forming or refused and none serves, it proposes a view; each member makes the epoch durable, accepts, and
//! serves when the proposer says that all have accepted.

use alloc::vec::Vec;

use crate::codec::{Malformed, Reader, Wire, Writer};
use crate::id::{Epoch, Incarnation, NodeId};
use crate::limit::NODES_MAX;
use crate::view::{Member, View};

/// Where a node stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Phase {
    /// Waiting for a view.
    Forming,
    /// In a view, granting.
    Serving,
    /// Came back while others still serve a view that names an earlier run of it.
    Refused,
}

/// One step of forming.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Form {
    /// To everybody, at each change and when a circuit comes up.
    Standing {
        /// Where the sender stands.
        phase: Phase,
        /// The highest epoch it has stored.
        stored: Epoch,
        /// It stopped cleanly last time, so nobody can still hold a lock granted by it.
        clean: bool,
    },
    /// Proposer to all: this is the view, if you make it durable.
    Propose {
        /// The view.
        view: View,
        /// Nothing may be granted for one lease time: somebody did not stop cleanly.
        wait: bool,
    },
    /// Answer to the proposer: durable here.
    Accept {
        /// Which view.
        epoch: Epoch,
    },
    /// Proposer to all: everybody has accepted; serve.
    Commit {
        /// Which view.
        epoch: Epoch,
    },
}

impl Phase {
    /// One word for people.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Forming => "forming",
            Phase::Serving => "serving",
            Phase::Refused => "refused",
        }
    }
}

impl Wire for Phase {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u8(match self {
            Phase::Forming => 0,
            Phase::Serving => 1,
            Phase::Refused => 2,
        });
    }

    fn decode(r: &mut Reader<'_>) -> Result<Phase, Malformed> {
        match r.u8()? {
            0 => Ok(Phase::Forming),
            1 => Ok(Phase::Serving),
            2 => Ok(Phase::Refused),
            n => Err(Malformed::Unknown { field: "phase", value: n.into() }),
        }
    }
}

impl Wire for View {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u32(self.epoch.0);
        out.u32(self.members.len() as u32);
        for member in &self.members {
            out.u16(member.node.0);
            out.u64(member.incarnation.0);
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<View, Malformed> {
        let epoch = Epoch(r.u32()?);
        let n = r.count("members", NODES_MAX)?;
        let mut members = Vec::with_capacity(n);
        for _ in 0..n {
            members.push(Member { node: NodeId(r.u16()?), incarnation: Incarnation(r.u64()?) });
        }
        if !members.is_sorted_by(|a, b| a.node < b.node) {
            return Err(Malformed::Unknown { field: "order of members", value: 0 });
        }
        Ok(View { epoch, members })
    }
}

impl Wire for Form {
    fn encode(&self, out: &mut Writer<'_>) {
        match self {
            Form::Standing { phase, stored, clean } => {
                out.u8(1);
                phase.encode(out);
                out.u32(stored.0);
                out.bool(*clean);
            }
            Form::Propose { view, wait } => {
                out.u8(2);
                view.encode(out);
                out.bool(*wait);
            }
            Form::Accept { epoch } => {
                out.u8(3);
                out.u32(epoch.0);
            }
            Form::Commit { epoch } => {
                out.u8(4);
                out.u32(epoch.0);
            }
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Form, Malformed> {
        Ok(match r.u8()? {
            1 => {
                Form::Standing { phase: Phase::decode(r)?, stored: Epoch(r.u32()?), clean: r.bool("clean")? }
            }
            2 => Form::Propose { view: View::decode(r)?, wait: r.bool("wait")? },
            3 => Form::Accept { epoch: Epoch(r.u32()?) },
            4 => Form::Commit { epoch: Epoch(r.u32()?) },
            n => return Err(Malformed::Unknown { field: "forming message", value: n.into() }),
        })
    }
}
