//! The other way round: the node stands still after each instruction of a duty, a program does a whole operation, and
//! the node goes on to the end.
//!
//! A stop is made before each instruction that touches a cell which anybody uses. What lies in entries that nobody ever
//! used reads the same before and after.

use oarlock_layout::id::SessionId;
use oarlock_layout::mode::Mode::{CR, EX, PR};
use oarlock_layout::segment::geometry::{AREA_HEAD_CELLS, ENTRY_CELLS, slot};
use oarlock_layout::segment::{Stage, State, Words};
use oarlock_shm::{First, Memory, Spot, Taken};

use crate::death::{Duty, node};
use crate::judge;
use crate::slate::{Belief, Slate};
use crate::stage::*;
use crate::tracee::{Stop, Touch, Tracee, mark};
use crate::twin::{Tally, decide, reached};

/// Entries of an area that anybody here uses.
const USED: usize = 2;

/// What a program does while the node stands still.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Act {
    /// The subject does its operation.
    Subject,
    /// The survivor withdraws what it waits for.
    Withdraw,
    /// The third takes a lock if it can.
    Third,
}

/// Duties, the scenes before which they come, and what programs do meanwhile.
pub(crate) fn duties(all: bool) -> Vec<(Duty, &'static str, Act)> {
    use Act::*;
    let trying = Duty::Death(Victim::Trying(EX, false));
    let tried = Duty::Death(Victim::Trying(CR, true));
    let mut duties = vec![
        (trying, "release-ex", Subject),
        (trying, "lower-ex-to-pr", Subject),
        (tried, "release-pr-beside-pr", Subject),
        (Duty::Lower, "acquire-ex", Subject),
        (Duty::Lower, "raise-cr-to-pw", Subject),
        (Duty::Lower, "release-ex", Subject),
        (Duty::Reuse, "find", Subject),
        (Duty::Reuse, "acquire-ex", Subject),
        (Duty::Notice, "acquire-pr-beside-pr", Subject),
        (Duty::Notice, "release-pr-beside-pr", Subject),
        (Duty::Users, "acquire-ex", Subject),
        (Duty::Admit, "release-with-somebody-behind", Withdraw),
        (Duty::Offer, "release-with-somebody-behind", Subject),
        (Duty::Refuse, "hand-over-ex", Subject),
        (Duty::Refuse, "hand-over-ex", Withdraw),
        (Duty::Convert, "ask-for-a-mode", Third),
        (Duty::Convert, "lower-ex-to-pr", Third),
        (Duty::Drop, "release-ex", Third),
        (Duty::Drop, "release-ex", Subject),
        (Duty::Epoch, "acquire-ex", Subject),
        (Duty::Bind, "find", Subject),
        (Duty::Value, "find", Third),
    ];
    if all {
        for scene in SCENES {
            let deaths = [
                Victim::Trying(EX, false),
                Victim::Trying(CR, true),
                Victim::Lowering(CR, None, true),
                Victim::Lowering(CR, None, false),
                Victim::Raising(CR, PR, false),
            ];
            let beside = |victim: &Victim| {
                let mut held = [scene.holds, scene.beside].into_iter().flatten();
                victim
                    .counts()
                    .is_none_or(|mode| scene.owned.covers(mode) && held.all(|other| other.compatible(mode)))
            };
            duties.extend(
                deaths.into_iter().filter(beside).map(|victim| (Duty::Death(victim), scene.name, Subject)),
            );
            duties.push((Duty::End, scene.name, Subject));
            duties.push((Duty::Adopt, scene.name, Subject));
            duties.push((Duty::Lower, scene.name, Subject));
        }
    }
    duties
}

/// A node in a program of its own, that puts everything right after its duty, and looks whether that worked.
pub(crate) fn program(fd: &std::os::fd::OwnedFd, slate: &Slate, scene: Scene, duty: Duty) {
    node(fd, slate, scene, duty, None, |world| {
        if let Err(complaint) = answers(world, duty) {
            world.slate.complain(&complaint);
        }
        mark();
        if let Err(complaint) = winds_up(world) {
            world.slate.complain(&complaint);
        }
        mark();
    });
}

/// After its duty a node answers what was asked meanwhile.
fn answers(world: &mut World, duty: Duty) -> Result<(), String> {
    match duty {
        Duty::End => judge::drop_all(&mut world.hub, SessionId(SUBJECT))?,
        Duty::Death(_) => judge::bury(&mut world.hub, SessionId(VICTIM))?,
        _ => {}
    }
    judge::answer(&mut world.hub);
    if let Some(kept) = world.cast.kept {
        let _ = world.caller(SURVIVOR).release(kept);
    }
    judge::answer(&mut world.hub);
    decide(world);
    Ok(())
}

/// All have gone.
fn winds_up(world: &mut World) -> Result<(), String> {
    judge::answer(&mut world.hub);
    for session in [SUBJECT, SURVIVOR, THIRD] {
        world.hub.end(SessionId(session));
        judge::bury(&mut world.hub, SessionId(session))?;
    }
    judge::answer(&mut world.hub);
    judge::at_rest(world.memory())?;
    judge::nothing_left(world.memory())?;
    let seat = world.hub.attach(SessionId(NEW), 0).ok_or("no area")?;
    let watch = crate::slate::Watch { slate: world.slate.clone(), counts: false };
    let caller = oarlock_shm::Caller::new(world.memory().clone(), seat, watch);
    let names: [&[u8]; 3] = [NAME, BESIDE, AFTER];
    judge::names(&world.hub, &caller, &names, true)?;
    for bytes in names {
        let Some(slot) = world.hub.find(&name(bytes)) else { continue };
        let spot = caller.find(bytes).ok_or("a name is not found")?;
        judge::free_for_all(&mut world.hub, &caller, slot, spot)?;
    }
    Ok(())
}

/// Where a node is stopped in a duty.
pub(crate) fn stops(slate: &Slate, scene: Scene, duty: Duty) -> Result<Vec<Stop>, String> {
    let (memory, fd) = shared();
    let mut tracee = Tracee::start(slate, || program(&fd, slate, scene, duty))?;
    let trace = tracee.trace()?;
    let used = |touch: &Touch| matches!(touch, Touch::Cell { cell, .. } if is_used(&memory, *cell));
    Ok(trace.into_iter().filter(|(_, touch)| used(touch)).map(|(stop, _)| stop).collect())
}

/// Does anybody use this cell?
fn is_used(memory: &Memory, cell: usize) -> bool {
    let geometry = memory.geometry();
    let Some(in_areas) = cell.checked_sub(geometry.area(0)) else { return true };
    let in_area = in_areas % (geometry.area(1) - geometry.area(0));
    in_area < AREA_HEAD_CELLS + USED * ENTRY_CELLS
}

/// What one program did meanwhile.
fn act(act: Act, cast: &Cast, memory: &std::sync::Arc<Memory>, slate: &Slate) -> (Have, Belief) {
    match act {
        Act::Subject => cast.perform(&cast.caller(memory, slate, SUBJECT, false)),
        Act::Withdraw => {
            let survivor = cast.caller(memory, slate, SURVIVOR, false);
            let ticket = cast.behind.expect("somebody waits");
            match survivor.withdraw(ticket) {
                Some(hold) => (Have::Hold(hold), Belief::default()),
                None => (Have::Withdrawn(ticket.entry), Belief::default()),
            }
        }
        Act::Third => {
            let third = cast.caller(memory, slate, THIRD, false);
            match third.acquire(cast.spot, CR, &oarlock_shm::Party::default(), false, First::seat(0)) {
                Taken::Held { hold, .. } => (Have::Hold(hold), Belief::default()),
                _ => (Have::Nothing, Belief::default()),
            }
        }
    }
}

/// The twin of a node, once.
fn run(slate: &Slate, scene: Scene, stop: Stop, duty: Duty, does: Act) -> Result<(), String> {
    let (memory, fd) = shared();
    let mut tracee = Tracee::start(slate, || program(&fd, slate, scene, duty))?;
    let cast = World::new(private(), slate, scene).cast;
    reached(tracee.run_to(stop)?)?;
    judge::exclusion(&memory)?;
    let (have, belief) = act(does, &cast, &memory, slate);
    judge::exclusion(&memory).map_err(|error| format!("{belief:?}: {error}"))?;
    tracee.go_on()?;
    judge::explained(&memory).map_err(|error| format!("{belief:?}: {error}"))?;
    let here =
        |slot: u32| Spot { slot, generation: memory.peek(memory.geometry().slot(slot) + slot::GENERATION) };
    let bell = memory.peek(memory.geometry().bells()) & 1 != 0;
    if let Have::Hold(hold) = have {
        let caller = match does {
            Act::Subject => SUBJECT,
            Act::Withdraw => SURVIVOR,
            Act::Third => THIRD,
        };
        let caller = cast.caller(&memory, slate, caller, false);
        let ended = matches!(duty, Duty::End | Duty::Epoch);
        if !ended && (!caller.holds(hold) || here(hold.spot.slot) != hold.spot) {
            return Err(format!("{hold:?} is believed, and is not so"));
        }
        if duty == Duty::Notice && does == Act::Subject && caller.told(hold) == 0 && !bell {
            return Err(
                "a lock is in the way of somebody, and its holder was not told, nor did it ring".into()
            );
        }
    }
    if let (Have::Withdrawn(entry), Act::Withdraw) = (&have, does) {
        let state = State(memory.peek(memory.geometry().entry(1, *entry)));
        if !matches!(state.stage(), Some(Stage::Cancelled | Stage::Refused)) {
            return Err(format!("it was withdrawn, and the entry says {state:?}"));
        }
    }
    let holds = matches!(have, Have::Hold(_));
    if belief.found.is_some_and(|found| found != cast.spot) {
        return Err("the name was found in another's slot".into());
    }
    tracee.go_on()?;
    slate.complaint()?;
    judge::explained(&memory)?;
    if duty == Duty::Lower && holds {
        judge::at_rest(&memory)?;
    }
    match does {
        Act::Subject if duty == Duty::End => {}
        Act::Subject => cast.let_go(&cast.caller(&memory, slate, SUBJECT, false), have)?,
        Act::Withdraw => cast.let_go(&cast.caller(&memory, slate, SURVIVOR, false), have)?,
        Act::Third => cast.let_go(&cast.caller(&memory, slate, THIRD, false), have)?,
    }
    tracee.go_on()?;
    slate.complaint()
}

/// Every stop of every duty.
pub(crate) fn all(slate: &Slate, duties: &[(Duty, &str, Act)]) -> Result<Tally, String> {
    let mut tally = Tally::default();
    // What a node does depends on what it finds, not on what comes then.
    let mut known: Vec<((Duty, Scene), Vec<Stop>)> = Vec::new();
    for (duty, before, act) in duties {
        let scene = named(before);
        let key = (*duty, Scene { name: "", op: Op::Find, ..scene });
        if *duty == Duty::Convert || !known.iter().any(|(other, _)| *other == key) {
            let stops = stops(slate, scene, *duty)?;
            tally.stops += stops.len();
            known.insert(0, (key, stops));
        }
        let stops = &known.iter().find(|(other, _)| *other == key).expect("just made").1;
        for (number, stop) in stops.iter().enumerate() {
            run(slate, scene, *stop, *duty, *act).map_err(|error| {
                format!("{duty:?}, stop {number} of {}, {before} by {act:?}: {error}", stops.len())
            })?;
            tally.twins += 1;
        }
    }
    Ok(tally)
}
