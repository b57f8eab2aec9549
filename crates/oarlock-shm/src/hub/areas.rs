//! Which area belongs to which session, and when it may belong to another.

use std::collections::BTreeMap;

use oarlock_layout::codec::{Malformed, Reader, Writer};
use oarlock_layout::id::SessionId;

use super::written::{numbers, read_numbers};

/// The areas of a segment.
#[derive(Clone, Debug)]
pub(super) struct Areas {
    /// By number; none for one that was never used or may be used again.
    areas: Vec<Option<Area>>,
    free: Vec<u32>,
    of: BTreeMap<SessionId, u32>,
    /// Areas in use, by their bit in a slot's users.
    by_bit: [Vec<u32>; 64],
    max: u32,
}

/// An area in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Area {
    pub(super) session: SessionId,
    /// Which of the session's segments.
    pub(super) segment: u8,
    pub(super) live: bool,
    /// Its program is certainly gone.
    buried: bool,
    /// Locks of the ended session that are counted still.
    pub(super) ending: u32,
}

impl Areas {
    pub(super) fn new(max: u32) -> Areas {
        Areas {
            areas: Vec::new(),
            free: Vec::new(),
            of: BTreeMap::new(),
            by_bit: [const { Vec::new() }; 64],
            max,
        }
    }

    /// An area for a session; none if all are in use or the session has one.
    pub(super) fn take(&mut self, session: SessionId, segment: u8) -> Option<u32> {
        if self.of.contains_key(&session) {
            return None;
        }
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.areas.len() < self.max as usize => {
                self.areas.push(None);
                self.areas.len() as u32 - 1
            }
            None => return None,
        };
        let area = Area { session, segment, live: true, buried: false, ending: 0 };
        self.areas[number as usize] = Some(area);
        self.of.insert(session, number);
        self.by_bit[number as usize % 64].push(number);
        Some(number)
    }

    /// An area that is in use already, as another run of the node left it.
    pub(super) fn adopt(&mut self, number: u32, session: SessionId, segment: u8) {
        while self.areas.len() as u32 <= number {
            self.areas.push(None);
        }
        self.areas[number as usize] = Some(Area { session, segment, live: true, buried: false, ending: 0 });
        self.of.insert(session, number);
        self.by_bit[number as usize % 64].push(number);
    }

    pub(super) fn encode(&self, out: &mut Writer<'_>) {
        out.u32(self.areas.len() as u32);
        for area in &self.areas {
            out.option(area.as_ref(), |out, area| {
                out.u32(area.session.0);
                out.u8(area.segment);
                out.bool(area.live);
                out.bool(area.buried);
                out.u32(area.ending);
            });
        }
        numbers(out, self.free.iter().copied());
    }

    pub(super) fn decode(r: &mut Reader<'_>, max: u32) -> Result<Areas, Malformed> {
        let area = |r: &mut Reader<'_>| {
            Ok(Area {
                session: SessionId(r.u32()?),
                segment: r.u8()?,
                live: r.bool("life of a session")?,
                buried: r.bool("end of a program")?,
                ending: r.u32()?,
            })
        };
        let mut areas = Areas::new(max);
        for number in 0..r.count("areas", max as usize)? as u32 {
            let area = r.option("area", area)?;
            if let Some(Area { session, .. }) = area {
                if areas.of.insert(session, number).is_some() {
                    return Err(Malformed::Unknown { field: "area of a session", value: number.into() });
                }
                areas.by_bit[number as usize % 64].push(number);
            }
            areas.areas.push(area);
        }
        areas.free = read_numbers(r, "free areas", areas.areas.len() as u32)?;
        Ok(areas)
    }

    pub(super) fn number(&self, session: SessionId) -> Option<u32> {
        self.of.get(&session).copied()
    }

    pub(super) fn get(&self, number: u32) -> Option<&Area> {
        self.areas.get(number as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut Area> {
        self.areas.get_mut(number as usize)?.as_mut()
    }

    /// Areas in use whose bit is among `users`.
    pub(super) fn of_users(&self, users: u64) -> impl Iterator<Item = u32> + '_ {
        (0..64).filter(move |bit| users >> bit & 1 != 0).flat_map(|bit| self.by_bit[bit].iter().copied())
    }

    /// Areas that were ever used.
    pub(super) fn ever(&self) -> u32 {
        self.areas.len() as u32
    }

    pub(super) fn live(&self) -> u32 {
        self.areas.iter().flatten().filter(|area| area.live).count() as u32
    }

    /// An area that nobody can store in, and that is still said to have locks of its last session.
    pub(super) fn lingering(&self) -> Option<(u32, SessionId)> {
        let numbered = (0..).zip(&self.areas);
        numbered.filter_map(|(number, area)| Some((number, area.as_ref()?))).find_map(|(number, area)| {
            (!area.live && area.buried && area.ending > 0).then_some((number, area.session))
        })
    }

    /// The program of a session is gone. Its area.
    pub(super) fn bury(&mut self, session: SessionId) -> Option<u32> {
        let number = self.number(session)?;
        self.areas[number as usize].as_mut().expect("a session's area is in use").buried = true;
        Some(number)
    }

    /// Gives an area free if nothing of its last session is left. True: it is.
    pub(super) fn settle(&mut self, number: u32) -> bool {
        let Some(area) = self.areas[number as usize].as_ref() else { return false };
        if area.live || !area.buried || area.ending > 0 {
            return false;
        }
        self.of.remove(&area.session);
        self.by_bit[number as usize % 64].retain(|n| *n != number);
        self.areas[number as usize] = None;
        self.free.push(number);
        true
    }
}
