//! What the node knows of a segment beside what lies in it, as bytes, for whoever takes the run over on the same machine.
//!
//! Callers go on in the segment while nobody stands behind it. Whatever they do and ring for meanwhile is found by the next one,
//! who knows what the last one knew: nothing is counted anew, no slot is shut, and no turn changes.

use std::num::NonZeroU32;
use std::sync::Arc;

use oarlock_layout::codec::{Malformed, Reader, Wire, Writer};
use oarlock_layout::id::LockId;
use oarlock_layout::segment::geometry::header;
use oarlock_layout::segment::{Entry, State, Wake};
use oarlock_layout::token::Fence;

use super::areas::Areas;
use super::directory::Directory;
use super::{Hub, Place, Rare};
use crate::bells::Ears;
use crate::memory::Memory;
use crate::sync::FIELD;

/// There can be no more of anything than bytes that are left; what fits the segment is looked at where it is known.
const MANY: usize = u32::MAX as usize;

/// A list of numbers.
pub(crate) fn numbers(out: &mut Writer<'_>, numbers: impl ExactSizeIterator<Item = u32>) {
    out.u32(numbers.len() as u32);
    numbers.for_each(|number| out.u32(number));
}

/// The same, each below `end`.
pub(crate) fn read_numbers<T: FromIterator<u32>>(
    r: &mut Reader<'_>,
    field: &'static str,
    end: u32,
) -> Result<T, Malformed> {
    (0..r.count(field, MANY)?).map(|_| below(r, field, end)).collect()
}

/// A number below `end`.
pub(crate) fn below(r: &mut Reader<'_>, field: &'static str, end: u32) -> Result<u32, Malformed> {
    match r.u32()? {
        number if number < end => Ok(number),
        number => Err(Malformed::TooMany { field, value: number.into(), max: end.into() }),
    }
}

impl Place {
    fn encode(&self, out: &mut Writer<'_>) {
        out.name(&self.name);
        out.u64(self.generation);
        out.u64(self.fence.number());
        out.u16(self.turn);
        out.mode_option(self.owned);
        out.bool(self.gate);
        out.bool(self.keep);
        out.u8(self.told);
        out.bool(self.value_ready);
        out.u32(self.granule.map_or(0, NonZeroU32::get));
        out.option(self.rare.as_deref(), |out, rare| {
            rare.kept.iter().for_each(|kept| out.u32(*kept));
            out.option(rare.offered.as_ref(), |out, (lock, state)| {
                out.u64(lock.0);
                out.u64(state.0);
            });
            out.option(rare.told_but.as_ref(), |out, (mode, lock)| {
                out.mode(*mode);
                out.u64(lock.0);
            });
        });
    }

    fn decode(r: &mut Reader<'_>) -> Result<Place, Malformed> {
        Ok(Place {
            name: r.name()?,
            generation: r.u64()?,
            fence: Fence::from_number(r.u64()?),
            turn: r.u16()?,
            owned: r.mode_option()?,
            gate: r.bool("gate")?,
            keep: r.bool("policy")?,
            told: r.u8()?,
            value_ready: r.bool("value block")?,
            granule: NonZeroU32::new(r.u32()?),
            rare: r.option("rare knowledge", Rare::decode)?.map(Box::new),
        })
    }
}

impl Rare {
    fn decode(r: &mut Reader<'_>) -> Result<Rare, Malformed> {
        let mut rare = Rare::default();
        for kept in &mut rare.kept {
            *kept = r.u32()?;
        }
        rare.offered = r.option("offer", |r| Ok((LockId(r.u64()?), State(r.u64()?))))?;
        rare.told_but = r.option("exception", |r| Ok((r.mode()?, LockId(r.u64()?))))?;
        Ok(rare)
    }
}

impl Hub {
    pub(super) fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + 64 * self.places.len());
        let mut out = Writer::new(&mut bytes);
        out.u64(self.seed);
        out.u32(self.places.len() as u32);
        self.places.iter().for_each(|place| out.option(place.as_ref(), |out, place| place.encode(out)));
        numbers(&mut out, self.free.iter().copied());
        self.directory.encode(&mut out);
        out.u32(self.kept.len() as u32);
        self.kept.all().for_each(|entry| entry.encode(&mut out));
        self.areas.encode(&mut out);
        self.ears.encode(&mut out);
        numbers(&mut out, self.rung.iter().copied());
        out.u32(self.wakes.len() as u32);
        for Wake { area, entry } in &self.wakes {
            out.u32(*area);
            out.u32(*entry);
        }
        numbers(&mut out, self.spoilt.iter().copied());
        bytes
    }

    /// The hub of a segment that the one before it in the same run has left as it was when it wrote itself down
    /// ([`Words::written`](oarlock_layout::segment::Words::written)).
    ///
    /// # Errors
    /// If it was another segment, or these are no such bytes.
    pub fn resume(memory: Arc<Memory>, bytes: &[u8]) -> Result<Hub, Malformed> {
        let geometry = memory.geometry();
        let mut r = Reader::new(bytes);
        let seed = r.u64()?;
        if seed != memory[header::SEED].load(FIELD) {
            return Err(Malformed::Unknown { field: "segment", value: seed });
        }
        let mut hub = Hub::new(memory);
        let slots = r.count("slots", geometry.slots as usize)?;
        for _ in 0..slots {
            let place = r.option("slot", Place::decode)?;
            hub.places.push(place);
        }
        let bound =
            |hub: &Hub| (0..).zip(&hub.places).filter(|(_, place)| place.is_some()).map(|(n, _)| n).collect();
        let bound: Vec<u32> = bound(&hub);
        bound.into_iter().for_each(|number| hub.index(number));
        hub.free = read_numbers(&mut r, "free slots", slots as u32)?;
        hub.directory = Directory::decode(&mut r, geometry)?;
        for _ in 0..r.count("locks", MANY)? {
            let entry = Entry::decode(&mut r)?;
            if hub.kept.get(entry.claim.lock).is_some() {
                return Err(Malformed::Unknown { field: "lock", value: entry.claim.lock.0 });
            }
            hub.kept.insert(entry);
        }
        hub.areas = Areas::decode(&mut r, geometry.areas)?;
        hub.ears = Ears::decode(&mut r, &hub.memory)?;
        hub.rung = read_numbers(&mut r, "rung slots", slots as u32)?;
        for _ in 0..r.count("sleepers", MANY)? {
            let (area, entry) =
                (below(&mut r, "area", geometry.areas)?, below(&mut r, "entry", geometry.entries)?);
            hub.wakes.push_back(Wake { area, entry });
        }
        hub.spoilt = read_numbers(&mut r, "spoilt slots", u32::MAX)?;
        r.end()?;
        Ok(hub)
    }
}
