//! A program dies after each instruction of each operation, and its node puts the segment right; the node dies after
//! each instruction of that, and another one does; and the node dies after each instruction of what else it does.
//!
//! What a node makes of a segment depends on its bytes only. So a copy is put right for each state of the bytes that is
//! new, and not again for instructions that leave them as they are.

use std::collections::BTreeSet;
use std::sync::Arc;

use oarlock_layout::id::{Epoch, SessionId};
use oarlock_layout::mode::Mode::*;
use oarlock_layout::name::Name;
use oarlock_layout::segment::geometry::slot;
use oarlock_layout::segment::{Stage, State, Words};
use oarlock_layout::token::Fence;
use oarlock_layout::value::Value;
use oarlock_shm::{Hub, Memory};

use crate::judge::{self, image, put};
use crate::slate::Slate;
use crate::stage::*;
use crate::tracee::{Touch, Tracee, mark};

/// What was done.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Tally {
    pub(crate) operations: usize,
    pub(crate) instructions: usize,
    pub(crate) states: usize,
    pub(crate) recoveries: usize,
    pub(crate) nodes: usize,
    pub(crate) node_instructions: usize,
    pub(crate) node_states: usize,
}

/// Steps a program from mark to mark. Its segment after each instruction that changed it, the start included.
///
/// The bytes are compared after each instruction that touches the segment; `all`: after each whatsoever.
fn states(
    tracee: &mut Tracee,
    memory: &Memory,
    all: bool,
    steps: &mut usize,
) -> Result<Vec<Vec<u64>>, String> {
    let mut states = vec![image(memory)];
    loop {
        let writes = matches!(tracee.touch()?, Touch::Cell { writes: true, .. });
        let done = tracee.step()?;
        *steps += 1;
        if writes || all || done {
            let now = image(memory);
            if states.last() != Some(&now) {
                if !writes {
                    return Err("the segment changed by an instruction that does not write to it".into());
                }
                states.push(now);
            }
        }
        if done {
            return Ok(states);
        }
    }
}

/// What a slot bears, as far as its generation says.
pub(crate) fn name_of(memory: &Arc<Memory>) -> impl Fn(u32) -> Option<Name> + use<> {
    let memory = Arc::clone(memory);
    move |number| {
        let generation = memory.peek(memory.geometry().slot(number) + slot::GENERATION);
        match (number, generation) {
            (0, 1) => Some(name(NAME)),
            (0, 3) => Some(name(AFTER)),
            (1, 1) => Some(name(BESIDE)),
            (2, 1) => Some(name(AFTER)),
            _ => None,
        }
    }
}

/// The node of a segment that another run left.
pub(crate) fn adopt(memory: Arc<Memory>, alive: &[u32]) -> Hub {
    let alive: Vec<(u32, SessionId, u8)> =
        alive.iter().map(|session| (session - 1, SessionId(*session), 0)).collect();
    let names = name_of(&memory);
    let mut hub = Hub::adopt(memory, &alive, |area| SessionId(101 + area), names);
    hub.renew(LEASE);
    hub
}

fn copy(bytes: &[u64]) -> Arc<Memory> {
    let memory = private();
    put(&memory, bytes);
    memory
}

/// One scene: every death in it. Gives the states in which the subject can leave the segment.
fn scene(slate: &Slate, scene: Scene, all: bool, tally: &mut Tally) -> Result<Vec<Vec<u64>>, String> {
    let (memory, fd) = shared();
    let world = World::new(memory, slate, scene);
    let before = image(world.memory());
    let cast = world.cast;
    let mut tracee = Tracee::start(slate, || cast.act(&fd, slate))?;
    let states = states(&mut tracee, world.memory(), all, &mut tally.instructions)?;
    drop(tracee);
    tally.operations += 1;
    for (number, bytes) in states.iter().enumerate() {
        let at = |what: &str| {
            let what = what.to_owned();
            move |error: String| format!("{}, state {number}, {what}: {error}", scene.name)
        };
        let memory = copy(bytes);
        judge::header(&before, &memory).map_err(at("as it stands"))?;
        judge::explained(&memory).map_err(at("as it stands"))?;
        living(slate, scene, bytes).map_err(at("its node lives"))?;
        let mut hub = adopt(copy(bytes), &[SURVIVOR, THIRD, VICTIM]);
        judge::recovered(&mut hub, &cast, slate, SessionId(100 + SUBJECT))
            .map_err(at("its node died too"))?;
        tally.states += 1;
        tally.recoveries += 2;
    }
    Ok(states)
}

/// The node that was there when the subject died ends its session.
fn living(slate: &Slate, scene: Scene, bytes: &[u64]) -> Result<(), String> {
    let mut world = World::new(private(), slate, scene);
    put(world.memory(), bytes);
    world.hub.end(SessionId(SUBJECT));
    let cast = world.cast;
    judge::recovered(&mut world.hub, &cast, slate, SessionId(SUBJECT))
}

/// Every operation of a program, and a death after each of its instructions.
pub(crate) fn of_programs(slate: &Slate, all: bool, scenes: &[Scene]) -> Result<Tally, String> {
    let mut tally = Tally::default();
    for of in scenes {
        scene(slate, *of, all, &mut tally)?;
    }
    Ok(tally)
}

/// What a node does when it dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Duty {
    /// Ends the subject's session.
    End,
    /// Ends the session of one that died in the middle of something.
    Death(Victim),
    /// Takes the segment over.
    Adopt,
    Attach,
    /// Another name gets a slot, a long one.
    Bind,
    /// A slot goes to another name.
    Reuse,
    Lower,
    Raise,
    Epoch,
    Gate,
    /// Tells holders that somebody wants what stands alone.
    Notice,
    Users,
    /// Grants what the survivor waits for.
    Admit,
    Offer,
    Refuse,
    /// Answers the subject's wish for another mode.
    Convert,
    /// Takes the subject's lock away.
    Drop,
    Value,
}

/// Duties, and the scenes before which they come.
pub(crate) const DUTIES: [(Duty, &str); 20] = [
    (Duty::Attach, "find"),
    (Duty::Bind, "find"),
    (Duty::Reuse, "find"),
    (Duty::Lower, "release-pr-beside-pr"),
    (Duty::Lower, "find"),
    (Duty::Raise, "acquire-what-is-not-owned"),
    (Duty::Epoch, "release-ex"),
    (Duty::Gate, "release-pr-beside-pr"),
    (Duty::Users, "find"),
    (Duty::Admit, "release-with-somebody-behind"),
    (Duty::Offer, "release-with-somebody-behind"),
    (Duty::Refuse, "release-with-somebody-behind"),
    (Duty::Refuse, "hand-over-ex"),
    (Duty::Convert, "ask-for-a-mode"),
    (Duty::Convert, "lower-ex-to-pr"),
    (Duty::Convert, "raise-pr-to-ex"),
    (Duty::Drop, "release-pr-beside-pr"),
    (Duty::Drop, "release-ex"),
    (Duty::Value, "write-a-value"),
    (Duty::Adopt, "hand-over-ex"),
];

impl Duty {
    /// What comes before, while nobody is looking.
    pub(crate) fn prepare(self, world: &mut World) {
        let cast = world.cast;
        let subject = world.caller(SUBJECT);
        match self {
            Duty::Convert => {
                let to = match cast.scene.op {
                    Op::Ask(to) | Op::Raise(to) | Op::Lower(to) => to,
                    _ => PR,
                };
                subject.ask_convert(cast.hold.expect("a lock"), to).expect("it is held");
            }
            Duty::Admit => {
                subject.release(cast.hold.expect("a lock")).expect("it is held");
            }
            Duty::Death(victim) => world.strand(victim),
            _ => {}
        }
    }

    /// The duty itself.
    pub(crate) fn perform(self, hub: &mut Hub, cast: &Cast) {
        let slot = cast.slot;
        match self {
            Duty::End => hub.end(SessionId(SUBJECT)),
            Duty::Death(_) => hub.end(SessionId(VICTIM)),
            Duty::Adopt => *hub = adopt(Arc::clone(hub.memory()), &[SUBJECT, SURVIVOR, THIRD, VICTIM]),
            Duty::Attach => drop(hub.attach(SessionId(NEW), 0)),
            Duty::Bind => drop(hub.bind(&name(AFTER))),
            Duty::Reuse => {
                if hub.evict(slot) {
                    let slot = hub.bind(&name(AFTER)).expect("a slot");
                    hub.raise(slot, EX, Fence::new(Epoch(1), 1));
                    hub.clear_gate(slot);
                }
            }
            Duty::Lower => drop(hub.lower(slot, None)),
            Duty::Raise => hub.raise(slot, EX, Fence::new(Epoch(1), 7)),
            Duty::Epoch => hub.turn_epoch(),
            Duty::Gate => {
                hub.set_gate(slot);
                hub.notice(slot, EX, None);
                hub.clear_gate(slot);
            }
            Duty::Notice => {
                hub.set_gate(slot);
                hub.notice(slot, EX, None);
            }
            Duty::Users => drop(hub.used(slot)),
            Duty::Admit => {
                let entry = cast.behind.expect("somebody waits").entry;
                let mode = cast.scene.behind.expect("a mode");
                hub.admit(slot, mode, claim(SURVIVOR, entry));
            }
            Duty::Offer => {
                let entry = cast.behind.expect("somebody waits").entry;
                hub.offer(slot, cast.scene.behind.map(|mode| (lock(SURVIVOR, entry), mode)));
                hub.offer(slot, None);
            }
            Duty::Refuse => {
                hub.refuse(lock(SURVIVOR, cast.behind.expect("somebody waits").entry));
            }
            Duty::Convert => {
                let lock = lock(SUBJECT, cast.hold.expect("a lock").entry);
                if let Some(to) = asked(hub.memory(), cast) {
                    hub.convert(lock, to);
                }
            }
            Duty::Drop => drop(hub.drop(lock(SUBJECT, cast.hold.expect("a lock").entry))),
            Duty::Value => hub.set_value(slot, Value::NEVER.written(OLD).written(NEWER)),
        }
    }
}

/// The mode that the subject asks for.
pub(crate) fn asked(memory: &Memory, cast: &Cast) -> Option<oarlock_layout::mode::Mode> {
    let entry = cast.hold?.entry;
    let state = State(memory.peek(memory.geometry().entry(0, entry)));
    if state.stage() == Some(Stage::Asking) { state.target() } else { None }
}

/// A node in a program of its own, stopped before and after one duty.
pub(crate) fn node(
    fd: &std::os::fd::OwnedFd,
    slate: &Slate,
    scene: Scene,
    duty: Duty,
    bytes: Option<&[u64]>,
    then: impl FnOnce(&mut World),
) {
    let (memory, slate) = (Memory::open(fd).expect("the segment"), slate.open());
    slate.say_ranges(&memory);
    let mut world = World::new(memory, &slate, scene);
    if let Some(bytes) = bytes {
        put(world.memory(), bytes);
    }
    duty.prepare(&mut world);
    let cast = world.cast;
    mark();
    duty.perform(&mut world.hub, &cast);
    mark();
    then(&mut world);
}

/// Steps a node through a duty and lets another take over in every state it leaves.
fn node_dies(
    slate: &Slate,
    scene: Scene,
    duty: Duty,
    bytes: Option<&[u64]>,
    all: bool,
    tally: &mut Tally,
) -> Result<Vec<Vec<u64>>, String> {
    let (memory, fd) = shared();
    let mut tracee = Tracee::start(slate, || node(&fd, slate, scene, duty, bytes, |_| ()))?;
    let states = states(&mut tracee, &memory, all, &mut tally.node_instructions)?;
    drop(tracee);
    tally.nodes += 1;
    let cast = World::new(private(), slate, scene).cast;
    for (number, bytes) in states.iter().enumerate() {
        let at = |error: String| format!("{duty:?} before {}, state {number}: {error}", scene.name);
        taken_over(slate, &cast, duty, bytes).map_err(at)?;
        tally.node_states += 1;
    }
    Ok(states)
}

/// Another node takes over what one left in the middle of a duty.
fn taken_over(slate: &Slate, cast: &Cast, duty: Duty, bytes: &[u64]) -> Result<(), String> {
    judge::exclusion(&copy(bytes))?;
    let dead = [Duty::End, Duty::Adopt].contains(&duty);
    if dead {
        let mut hub = adopt(copy(bytes), &[SURVIVOR, THIRD, VICTIM]);
        return judge::recovered(&mut hub, cast, slate, SessionId(100 + SUBJECT));
    }
    // The subject lives, and goes on with what it has.
    let mut hub = adopt(copy(bytes), &[SUBJECT, SURVIVOR, THIRD, VICTIM]);
    judge::bury(&mut hub, SessionId(100 + NEW))?;
    judge::at_rest(hub.memory())?;
    judge::value(&hub, cast.slot)?;
    let place = |session: u32| oarlock_layout::segment::Place {
        epoch: hub.memory().peek(oarlock_layout::segment::geometry::header::EPOCH),
        ..cast.seats[session as usize - 1]
    };
    let seats = [SUBJECT, SURVIVOR, THIRD, VICTIM].map(place);
    let cast = &Cast { seats, ..*cast };
    let third = cast.caller(hub.memory(), slate, THIRD, false);
    judge::names(&hub, &third, &[NAME, BESIDE, AFTER], false)?;
    let subject = cast.caller(hub.memory(), slate, SUBJECT, false);
    if let Some(hold) = cast.hold {
        // It may have been converted, taken away by the node, or asked about.
        let ticket = subject.ask_convert(hold, hold.mode).ok();
        let entry = hub.memory().geometry().entry(0, hold.entry);
        let state = State(hub.memory().peek(entry));
        if ticket.is_some() || state.stage() == Some(Stage::Asking) {
            hub.refuse(lock(SUBJECT, hold.entry));
        }
        if hub.entry(lock(SUBJECT, hold.entry)).is_some() {
            hub.drop(lock(SUBJECT, hold.entry)).ok_or("the subject's lock cannot be dropped")?;
        }
        // Its program lets go of the entry when it hears that the node took the lock away.
        subject.close(hold.entry);
        judge::at_rest(hub.memory())?;
    }
    let refused = cast.behind.is_some_and(|ticket| {
        let refused = cast.caller(hub.memory(), slate, SURVIVOR, false).look(ticket);
        refused == oarlock_shm::Answer::Refused
    });
    if refused {
        cast.caller(hub.memory(), slate, SURVIVOR, false).close(cast.behind.expect("it was looked at").entry);
    } else {
        judge::survivor_goes(&mut hub, cast, slate)?;
    }
    for bytes in [NAME, BESIDE, AFTER] {
        let Some(slot) = hub.find(&name(bytes)) else { continue };
        let generation = hub.memory().peek(hub.memory().geometry().slot(slot.0) + slot::GENERATION);
        let spot = oarlock_shm::Spot { slot: slot.0, generation };
        judge::free_for_all(&mut hub, &third, slot, spot)?;
    }
    judge::nothing_left(hub.memory())
}

/// The node dies while it puts right what the death of a program left: in every state of its own, and in every nth of
/// the program.
pub(crate) fn in_recovery(slate: &Slate, scenes: &[Scene], every: usize) -> Result<Tally, String> {
    let mut tally = Tally::default();
    let mut seen = BTreeSet::new();
    for of in scenes {
        for (number, bytes) in scene(slate, *of, false, &mut tally)?.into_iter().enumerate() {
            // The first state is one in which nobody is in the middle of anything.
            if number % every != every - 1 || !seen.insert(bytes.clone()) {
                continue;
            }
            let at = |error: String| format!("{}, dead in state {number}: {error}", of.name);
            node_dies(slate, *of, Duty::End, Some(&bytes), false, &mut tally).map_err(at)?;
        }
    }
    Ok(tally)
}

/// The node dies while it does what else a node does. `all`: and the next one dies while it takes over.
pub(crate) fn of_nodes(slate: &Slate, all: bool, duties: &[(Duty, &str)]) -> Result<Tally, String> {
    let mut tally = Tally::default();
    for (duty, before) in duties {
        let states = node_dies(slate, named(before), *duty, None, false, &mut tally)?;
        if !all || *duty == Duty::Adopt {
            continue;
        }
        for (number, bytes) in states.into_iter().enumerate() {
            let at = |error: String| format!("{duty:?} before {before}, state {number}, then: {error}");
            adopt_dies(slate, named(before), *duty, &bytes, &mut tally).map_err(at)?;
        }
    }
    Ok(tally)
}

/// A node dies while it takes over what another left in the middle of a duty.
fn adopt_dies(
    slate: &Slate,
    scene: Scene,
    duty: Duty,
    bytes: &[u64],
    tally: &mut Tally,
) -> Result<(), String> {
    let (memory, fd) = shared();
    let mut tracee = Tracee::start(slate, || {
        let (memory, slate) = (Memory::open(&fd).expect("the segment"), slate.open());
        slate.say_ranges(&memory);
        put(&memory, bytes);
        mark();
        drop(adopt(memory, &[SUBJECT, SURVIVOR, THIRD, VICTIM]));
        mark();
    })?;
    let states = states(&mut tracee, &memory, false, &mut tally.node_instructions)?;
    tally.nodes += 1;
    let cast = World::new(private(), slate, scene).cast;
    for bytes in &states {
        taken_over(slate, &cast, duty, bytes)?;
        tally.node_states += 1;
    }
    Ok(())
}
