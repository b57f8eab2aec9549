//! What must hold: in every state, and when nobody can make a step any more.

use oarlock_layout::mode::Mode;
use oarlock_layout::segment::{Counts, Stage};

use crate::spaces::{Op, Space};
use crate::state::{At, World};

pub const UNDERFLOW: u8 = 1;
pub const LOST: u8 = 2;
pub const OVERTAKEN: u8 = 3;
pub const IN_FLIGHT: u8 = 4;

/// What is wrong in any state.
pub fn always(space: &Space, world: &World) -> Result<(), &'static str> {
    match world.broken {
        0 => {}
        UNDERFLOW => return Err("a count fell below zero"),
        LOST => return Err("a lock was lost though nothing had ended"),
        IN_FLIGHT => return Err("a request met an earlier one of its lock"),
        _ => return Err("somebody overtook one who had found a conflict before"),
    }
    let mut beliefs = [None; crate::state::MAX];
    for (number, program) in space.programs.iter().enumerate() {
        let gone = world.dead | world.ended;
        let caller = &world.callers[number];
        if !World::bit(gone, program.session) {
            beliefs[number] = caller.belief;
            if caller.belief.is_some() && caller.spot != world.generation {
                return Err("a lock is held on a slot that was given away");
            }
            let told = World::bit(world.node.seen, program.session);
            if caller.belief.is_some() && told && !World::bit(world.node.claiming, program.session) {
                return Err("a lock is believed that the end of the epoch did not see");
            }
        }
    }
    for (one, mode) in beliefs.iter().enumerate() {
        let Some(mode) = mode else { continue };
        let beside = beliefs[..one].iter().flatten();
        if beside.chain(world.node.remote.iter()).any(|other| !other.compatible(*mode)) {
            return Err("two believe what excludes each other");
        }
        if !world.word.owned().is_some_and(|owned| owned.covers(*mode)) {
            return Err("more is believed than is owned");
        }
    }
    if !counted(&beliefs, world.word.counts()) {
        return Err("more is believed than is counted");
    }
    Ok(())
}

/// Is there a count of its own for each belief, that covers it?
fn counted(beliefs: &[Option<Mode>], counts: Counts) -> bool {
    let Some((first, rest)) = beliefs.split_first() else { return true };
    let Some(mode) = first else { return counted(rest, counts) };
    Mode::ALL
        .into_iter()
        .any(|count| counts.of(count) > 0 && count.covers(*mode) && counted(rest, counts.without(count)))
}

/// What is wrong where nobody can make a step, the node has heard everything, and nobody has lost patience.
pub fn at_rest(space: &Space, world: &World) -> Result<(), &'static str> {
    if world.epoch != 0 {
        return Ok(());
    }
    let node = &world.node;
    let mut counts = Counts::default();
    for (number, program) in space.programs.iter().enumerate() {
        let caller = &world.callers[number];
        let session = program.session;
        let entry = &world.entries[session];
        let state = entry.state.get();
        let stage = state.stage();
        let queue = &node.queue[..node.queued as usize];
        let queued = queue.contains(&(session as u8));
        let first_of_session = space.programs[..number].iter().all(|other| other.session != session);
        if World::bit(world.over, session) {
            if stage != Some(Stage::Free) {
                return Err("an entry of an ended session is not free");
            }
            if queued {
                return Err("an ended session is queued");
            }
            continue;
        }
        if first_of_session {
            let here = node.bound && entry.generation == world.generation && entry.slot == 0;
            if let Some(mode) = state.claims() {
                if !here {
                    return Err("a lock is held on a slot that was given away");
                }
                counts = counts.with(mode);
            }
            let waits = matches!(stage, Some(Stage::Waiting | Stage::Asking));
            if queued && !waits {
                return Err("an entry is queued that does not wait");
            }
            if waits && !queued {
                return Err("an entry waits that is not queued");
            }
        }
        match caller.at {
            At::End => {
                let alone = space.programs.iter().filter(|other| other.session == session).count() == 1;
                let holds = caller.belief.is_some();
                if alone && stage != Some(if holds { Stage::Held } else { Stage::Free }) {
                    return Err("a program is done and its entry is not");
                }
            }
            At::Look | At::LookConvert => {}
            At::Told => {
                let op = space.programs[number].ops.get(caller.op as usize);
                debug_assert_eq!(op, Some(&Op::ReleaseTold));
                let mode = caller.belief.expect("it holds what it is to release");
                let wanted = |e: &u8| node.wants[*e as usize].expect("it waits for something");
                if queue.first().is_some_and(|e| !wanted(e).compatible(mode)) {
                    return Err("somebody waits for a holder who was told nothing");
                }
            }
            At::Hear => return Err("a program waits for an answer that never comes"),
            _ => return Err("a program stands still"),
        }
    }
    if !node.bound {
        return Ok(());
    }
    if world.word.counts() != counts {
        return Err("the word counts what no entry holds");
    }
    let word = world.word;
    // Its turn may be behind: the next exchange of the node brings it up.
    if word.shut() || word.owned() != node.owned {
        return Err("the word says something else than the node");
    }
    let wanted = node.queued > 0 || node.head.is_some();
    if word.gate() != wanted && node.owned.is_some() {
        return Err(if wanted { "somebody waits behind an open gate" } else { "the gate is set for nobody" });
    }
    if node.queued > 0 {
        let first = node.queue[0] as usize;
        let mode = node.wants[first].expect("it waits for something");
        let others = node.from[first].map_or(word, |from| word.without(from));
        if node.head.is_none() && others.admits(mode) {
            return Err("somebody waits for what nobody has");
        }
    }
    if let (Some(head), Some(owned)) = (node.head, node.owned)
        && !owned.compatible(head)
        && owned != word.target(None)
        && node.queued == 0
    {
        return Err("more is kept from another node than is needed");
    }
    Ok(())
}
