//! What must be true of a segment, read from its bytes; and what must come of it once its node has put it right.

use std::collections::BTreeSet;

use oarlock_layout::id::{Epoch, SessionId, Slot};
use oarlock_layout::mode::Mode::{self, EX};
use oarlock_layout::segment::geometry::{entry, header, slot};
use oarlock_layout::segment::{Counts, Stage, State, Words};
use oarlock_layout::token::Fence;
use oarlock_shm::{Answer, Caller, First, Hub, Memory, Spot, Taken};

use crate::slate::{Slate, Watch};
use crate::stage::{BESIDE, Cast, NAME, SURVIVOR, THIRD, claim, lock, whole, word};

/// What an entry says of a slot as it is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Line {
    pub(crate) area: u32,
    pub(crate) entry: u32,
    pub(crate) state: State,
}

/// Every entry that names the slot in its present generation.
pub(crate) fn lines(memory: &Memory, number: u32) -> Vec<Line> {
    let geometry = memory.geometry();
    let generation = memory.peek(geometry.slot(number) + slot::GENERATION);
    let all = (0..geometry.areas).flat_map(|area| (0..geometry.entries).map(move |entry| (area, entry)));
    let line = |(area, number_of): (u32, u32)| {
        let cell = geometry.entry(area, number_of);
        let state = State(memory.peek(cell + entry::STATE));
        let names = memory.peek(cell + entry::SLOT) as u32 == number
            && memory.peek(cell + entry::SLOT_GENERATION) == generation;
        (names && state.stage() != Some(Stage::Free)).then_some(Line { area, entry: number_of, state })
    };
    all.filter_map(line).collect()
}

/// What the word may count for an entry: more than one thing while its owner is between two exchanges.
fn choices(state: State, gate: bool) -> Vec<Option<Mode>> {
    let (mode, target) = (state.mode(), state.target());
    match state.stage() {
        // It may have counted a waiter that has gone since, and gives that back then.
        Some(Stage::Lowering) if gate && target.is_none() => {
            Mode::ALL.into_iter().map(Some).chain([None]).collect()
        }
        Some(Stage::Held | Stage::Ending | Stage::Handed) => vec![mode],
        Some(Stage::Trying | Stage::Waiting | Stage::Cancelled) => vec![None, mode],
        Some(Stage::Raising | Stage::Lowering | Stage::Asking) => vec![mode, target],
        _ => vec![None],
    }
}

/// Do two who act stand beside each other? At any instant, whoever stands still where. Where programs run meanwhile,
/// only what still reads the same after both were read was so at one time: a state is never the same twice.
pub(crate) fn exclusion(memory: &Memory) -> Result<(), String> {
    for number in 0..memory.geometry().slots {
        let lines = lines(memory, number);
        let claims = |line: &Line| match line.state.stage() {
            Some(Stage::Ending) => line.state.mode(),
            _ => line.state.claims(),
        };
        let still = |line: &Line| {
            let cell = memory.geometry().entry(line.area, line.entry) + entry::STATE;
            memory.peek(cell) == line.state.0
        };
        for (place, one) in lines.iter().enumerate() {
            for two in &lines[..place] {
                if let (Some(a), Some(b)) = (claims(one), claims(two))
                    && !a.compatible(b)
                    && [one, two].into_iter().all(still)
                {
                    return Err(format!("two at once in slot {number}: {two:?} and {one:?}"));
                }
            }
        }
    }
    Ok(())
}

/// Does every count stand for an entry, and every entry for a count? Somebody may be between two exchanges.
pub(crate) fn explained(memory: &Memory) -> Result<(), String> {
    exclusion(memory)?;
    for number in 0..memory.geometry().slots {
        let (lines, word) = (lines(memory, number), word(memory, number));
        let mut sums = BTreeSet::from([[0; 6]]);
        for line in &lines {
            let with = |sum: &[u32; 6]| {
                let sum = Counts(*sum);
                choices(line.state, word.gate())
                    .into_iter()
                    .map(|mode| mode.map_or(sum, |mode| sum.with(mode)).0)
                    .collect::<Vec<_>>()
            };
            sums = sums.iter().flat_map(with).collect();
        }
        if !sums.contains(&word.counts().0) {
            return Err(format!("nobody explains slot {number}: {word:?} with {lines:?}"));
        }
    }
    Ok(())
}

/// The same when nobody is between two exchanges. What is owned covers what is held.
pub(crate) fn at_rest(memory: &Memory) -> Result<(), String> {
    exclusion(memory)?;
    for number in 0..memory.geometry().slots {
        let lines = lines(memory, number);
        let mut counts = Counts::default();
        for line in &lines {
            match line.state.stage() {
                Some(Stage::Held | Stage::Ending | Stage::Asking) => {
                    counts = counts.with(line.state.mode().ok_or("a lock without a mode")?);
                }
                Some(Stage::Waiting | Stage::Revoked | Stage::Refused | Stage::Cancelled) => {}
                _ => return Err(format!("somebody is not at rest: {line:?}")),
            }
        }
        let word = word(memory, number);
        let bound = memory.peek(memory.geometry().slot(number) + slot::GENERATION) & 1 == 1;
        if (word.shut() && bound) || word.counts() != counts {
            return Err(format!("slot {number} does not agree: {word:?} with {lines:?}"));
        }
        if word.need().is_some_and(|need| !word.owned().is_some_and(|owned| owned.covers(need))) {
            return Err(format!("slot {number} owns less than is held: {word:?}"));
        }
    }
    Ok(())
}

/// The node answers its bells; which slots were rung for.
pub(crate) fn answer(hub: &mut Hub) -> Vec<Slot> {
    std::iter::from_fn(|| hub.poll_bell()).collect()
}

/// What a dead session held goes, and its program is gone.
pub(crate) fn bury(hub: &mut Hub, dead: SessionId) -> Result<(), String> {
    drop_all(hub, dead)?;
    hub.bury(dead);
    Ok(())
}

/// What an ended session held goes.
pub(crate) fn drop_all(hub: &mut Hub, dead: SessionId) -> Result<(), String> {
    for lock in hub.of_session(dead) {
        hub.drop(lock).ok_or_else(|| format!("{lock} of a dead session cannot be dropped"))?;
    }
    let left = hub.of_session(dead);
    if !left.is_empty() {
        return Err(format!("a dead session still has {left:?}"));
    }
    Ok(())
}

/// The value block is one that somebody wrote, or is not to be believed.
pub(crate) fn value(hub: &Hub, slot: Slot) -> Result<(), String> {
    let value = hub.value(slot);
    if whole(&value) { Ok(()) } else { Err(format!("a torn value block: {:?}", value.bytes)) }
}

/// Callers find the names, or if the index may lack them, at least nothing else.
pub(crate) fn names(hub: &Hub, caller: &Caller<Watch>, names: &[&[u8]], all: bool) -> Result<(), String> {
    for name in names {
        let truth = hub.find(&crate::stage::name(name));
        let found: Option<Spot> = caller.find(name);
        let right = match (truth, found) {
            (Some(slot), Some(spot)) => slot.0 == spot.slot,
            (None, None) => true,
            (Some(_), None) => !all,
            (None, Some(_)) => false,
        };
        if !right {
            let name = String::from_utf8_lossy(name);
            return Err(format!("{name} is in {truth:?} and found in {found:?}"));
        }
    }
    Ok(())
}

/// Gives back what the survivor has, or has got, or waits for; the node grants what waits.
pub(crate) fn survivor_goes(hub: &mut Hub, cast: &Cast, slate: &Slate) -> Result<(), String> {
    let survivor = cast.caller(hub.memory(), slate, SURVIVOR, false);
    if let Some(kept) = cast.kept {
        if !survivor.holds(kept) {
            return Err("the survivor has lost its lock".into());
        }
        let _ = survivor.release(kept);
    }
    answer(hub);
    let Some(ticket) = cast.behind else { return Ok(()) };
    let _ = hub.taken(cast.slot);
    hub.raise(cast.slot, EX, Fence::new(Epoch(2), 8));
    if matches!(survivor.look(ticket), Answer::Waiting(_)) {
        let mode = cast.scene.behind.expect("a mode");
        if hub.admit(cast.slot, mode, claim(SURVIVOR, ticket.entry)).is_none() {
            let word = word(hub.memory(), cast.slot.0);
            return Err(format!("the survivor still waits, and cannot be granted: {word:?}"));
        }
    }
    match survivor.look(ticket) {
        Answer::Held(hold) => {
            let mode = hub.entry(lock(SURVIVOR, ticket.entry)).map(|entry| entry.mode);
            if mode != cast.scene.behind {
                return Err(format!("the survivor waited for {:?} and has {mode:?}", cast.scene.behind));
            }
            explained(hub.memory())?;
            let _ = survivor.release(hold);
            Ok(())
        }
        other => Err(format!("the survivor waited, and is {other:?}")),
    }
}

/// Now that all have gone, the resource is free: a lock that stands alone is granted, shown and given back.
pub(crate) fn free_for_all(
    hub: &mut Hub,
    caller: &Caller<Watch>,
    slot: Slot,
    spot: Spot,
) -> Result<u64, String> {
    answer(hub);
    hub.raise(slot, EX, Fence::new(Epoch(2), 9));
    hub.offer(slot, None);
    hub.clear_gate(slot);
    let before = word(hub.memory(), slot.0);
    let hold = match caller.acquire(spot, EX, &oarlock_shm::Party::default(), false, First::seat(0)) {
        Taken::Held { hold, .. } => hold,
        other => return Err(format!("it should be free, and is {other:?}: {before:?}")),
    };
    let token = caller.draw_token(hold).ok_or("a lock without a token")?.local;
    at_rest(hub.memory())?;
    caller.release(hold).map_err(|_| "a lock was lost while it was held")?;
    let after = word(hub.memory(), slot.0);
    if !after.unheld() {
        return Err(format!("something is counted that nobody has: {after:?}"));
    }
    at_rest(hub.memory())?;
    Ok(token)
}

/// Every entry of the living is free.
pub(crate) fn nothing_left(memory: &Memory) -> Result<(), String> {
    for number in 0..memory.geometry().slots {
        if let Some(line) = lines(memory, number).first() {
            return Err(format!("an entry is left over: {line:?}"));
        }
    }
    Ok(())
}

/// After the death of the subject and its repair, by whichever node: everything is as if it had never been, and what
/// the survivor had it has.
pub(crate) fn recovered(hub: &mut Hub, cast: &Cast, slate: &Slate, dead: SessionId) -> Result<(), String> {
    at_rest(hub.memory())?;
    value(hub, cast.slot)?;
    if let Some(kept) = cast.kept {
        let entry = hub.entry(lock(SURVIVOR, kept.entry)).map(|entry| entry.mode);
        if entry != Some(kept.mode) {
            return Err(format!("the survivor has {:?}, and its node says {entry:?}", kept.mode));
        }
    }
    bury(hub, dead)?;
    answer(hub);
    at_rest(hub.memory())?;
    let third = cast.caller(hub.memory(), slate, THIRD, false);
    names(hub, &third, &[NAME, BESIDE], true)?;
    survivor_goes(hub, cast, slate)?;
    free_for_all(hub, &third, cast.slot, cast.spot)?;
    nothing_left(hub.memory())?;
    // The area of the dead is free for others: all but those of the living can be had.
    let memory = hub.memory().clone();
    let used = |area: &u32| memory.peek(memory.geometry().area(*area)) & 1 != 0;
    let living = (0..memory.geometry().areas).filter(used).count() as u32;
    for more in living..memory.geometry().areas {
        hub.attach(SessionId(200 + more), 0).ok_or("an area is not free although its session is buried")?;
    }
    Ok(())
}

/// The bytes of a segment.
pub(crate) fn image(memory: &Memory) -> Vec<u64> {
    (0..memory.geometry().cells()).map(|cell| memory.peek(cell)).collect()
}

/// Puts bytes into a segment.
pub(crate) fn put(memory: &Memory, image: &[u64]) {
    for (cell, bits) in image.iter().enumerate() {
        if memory.peek(cell) != *bits {
            memory.scribble(cell, *bits);
        }
    }
}

/// Nothing of the header is touched by programs but the doorbell.
pub(crate) fn header(before: &[u64], memory: &Memory) -> Result<(), String> {
    let changed = (0..header::SLEEPING).find(|cell| before[*cell] != memory.peek(*cell));
    changed.map_or(Ok(()), |cell| Err(format!("cell {cell} of the header was changed")))
}
