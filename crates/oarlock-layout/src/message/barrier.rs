//! How far a member has come in a new view (L11).
//!
//! Lock messages of a view begin only once all of its members have said that they are in it, and masters grant only once
//! all have stated anew. These two messages go the way of lock messages, in order with them: whoever hears `Restated` has
//! heard all that was restated to it.

use crate::codec::{Malformed, Reader, Wire, Writer};
use crate::id::Epoch;

/// A step of one member.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Barrier {
    /// Of which view.
    pub epoch: Epoch,
    /// Which step.
    pub step: Step,
}

/// What a member has done.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// It is in the view, and listens to nothing of an earlier one.
    Arrived,
    /// It has said all that its shadows and masters have to say.
    Restated {
        /// A run that was in the last view this member was in is not in this one.
        departed: bool,
    },
}

/// Whom the circuits of a member do not hear (L7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Report {
    /// One bit for each node, the lowest for node 0.
    pub silent: u64,
}

impl Wire for Report {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u64(self.silent);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Report, Malformed> {
        Ok(Report { silent: r.u64()? })
    }
}

impl Wire for Barrier {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u32(self.epoch.0);
        match self.step {
            Step::Arrived => out.u8(1),
            Step::Restated { departed } => {
                out.u8(2);
                out.bool(departed);
            }
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Barrier, Malformed> {
        let epoch = Epoch(r.u32()?);
        let step = match r.u8()? {
            1 => Step::Arrived,
            2 => Step::Restated { departed: r.bool("departed")? },
            n => return Err(Malformed::Unknown { field: "step", value: n.into() }),
        };
        Ok(Barrier { epoch, step })
    }
}
