//! How far a member has come in a new view (L11).
//!
//! Lock messages of a view begin only once all of its members have said that they are in it, and masters grant only once
//! all have stated anew. These messages go the way of lock messages, in order with them: whoever hears `Restated` has
//! heard all that was restated to it.

use crate::codec::{Malformed, Reader, Wire, Writer};
use crate::departed::Lost;
use crate::id::{Epoch, Incarnation, NodeId};
use crate::view::Member;

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
        /// Masters of this member were not open in the view before: what they knew of departed runs was not all (L4).
        unsettled: bool,
    },
    /// Said before [`Step::Restated`]: what nobody can tell of a departed run ([`Departed::lost`](crate::departed::Departed::lost)).
    Lost(Lost),
    /// Likewise: nobody can tell anything of this one.
    Unknown(Member),
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
            Step::Restated { departed, unsettled } => {
                out.u8(2);
                out.bool(departed);
                out.bool(unsettled);
            }
            Step::Lost(lost) => {
                out.u8(3);
                lost.encode(out);
            }
            Step::Unknown(run) => {
                out.u8(4);
                run.encode(out);
            }
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Barrier, Malformed> {
        let epoch = Epoch(r.u32()?);
        let step = match r.u8()? {
            1 => Step::Arrived,
            2 => Step::Restated { departed: r.bool("departed")?, unsettled: r.bool("unsettled")? },
            3 => Step::Lost(Lost::decode(r)?),
            4 => Step::Unknown(Member::decode(r)?),
            n => return Err(Malformed::Unknown { field: "step", value: n.into() }),
        };
        Ok(Barrier { epoch, step })
    }
}

impl Wire for Lost {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u64(self.members);
        out.u64(self.masters);
        self.run.encode(out);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Lost, Malformed> {
        Ok(Lost { members: r.u64()?, masters: r.u64()?, run: Member::decode(r)? })
    }
}

impl Wire for Member {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u16(self.node.0);
        out.u64(self.incarnation.0);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Member, Malformed> {
        Ok(Member { node: NodeId(r.u16()?), incarnation: Incarnation(r.u64()?) })
    }
}
