//! M3: A program stands still after each instruction of an operation. Meanwhile something else happens, somebody else is
//! granted the lock, and then it goes on to the end.
//!
//! What it does after it stood still depends on what it has read until then, so a stop counts once for all instructions
//! between two that touch the segment or the clock: it is made before each of those.

use oarlock_layout::id::{Epoch, SessionId};
use oarlock_layout::limit::LEASE_FROZEN;
use oarlock_layout::mode::Mode::{self, *};
use oarlock_layout::segment::geometry::{BUFFER_CELLS, header, slot, tail};
use oarlock_layout::segment::{Place, Stage, State, Words};
use oarlock_layout::token::Fence;
use oarlock_shm::{Answer, First, Hold, Party, Spot, Taken};

use crate::death::{adopt, asked};
use crate::judge;
use crate::slate::{self, Belief, Slate};
use crate::stage::*;
use crate::tracee::{Stop, Touch, Tracee};

/// What happens while the subject stands still.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    Nothing,
    /// Another program dies on the same resource.
    Death(Victim),
    /// The slot goes to another name, if nothing is counted in it.
    Reuse,
    /// What is owned is lowered to what is needed.
    Lower,
    Epoch,
    /// The subject's own session ends.
    End,
    Lease,
    /// The lease is at risk, and not over.
    Frozen,
    /// Somebody comes who wants what stands alone.
    Gate,
    /// The node asks who has used the slot.
    Users,
    /// The node decides what the subject waits for.
    Decide,
    /// The survivor gives back what it has.
    Release,
    /// The survivor withdraws what it waits for.
    Withdraw,
    /// The node refuses it.
    Refuse,
    /// The survivor does not survive.
    Loss,
    /// The survivor writes the value block so often, and is in the middle of the next.
    Write(u32),
    /// Another node takes the segment over.
    Adopt,
}

impl Event {
    fn victim(self) -> Option<Victim> {
        if let Event::Death(victim) = self { Some(victim) } else { None }
    }

    fn prepare(self, world: &World) {
        if let Some(victim) = self.victim() {
            world.strand(victim);
        }
    }
}

/// What somebody gets then, whether it keeps it until the subject has gone on, and who: another session, or another
/// thread of the subject.
pub(crate) type Third = Option<(Mode, bool, u32)>;

const KEEPS: bool = true;
const GOES: bool = false;

/// All that happens, with who comes then.
pub(crate) fn events(all: bool) -> Vec<(Event, Third)> {
    let mut victims = vec![Victim::Trying(EX, false), Victim::Trying(CR, true)];
    if all {
        victims.extend([
            Victim::Lowering(CR, None, true),
            Victim::Lowering(CR, None, false),
            Victim::Lowering(PR, Some(CR), true),
            Victim::Lowering(PR, Some(CR), false),
            Victim::Raising(CR, PR, true),
            Victim::Raising(CR, PW, false),
            Victim::Held(CR),
        ]);
    }
    let mut events = Vec::new();
    for victim in victims {
        for third in [Some((EX, KEEPS, THIRD)), Some((EX, GOES, THIRD))] {
            events.push((Event::Death(victim), third));
        }
        events.push((Event::Death(victim), Some((CR, KEEPS, SUBJECT))));
        if all {
            events.push((Event::Death(victim), Some((PR, KEEPS, THIRD))));
            events.push((Event::Death(victim), Some((EX, GOES, SUBJECT))));
            events.push((Event::Death(victim), None));
        }
    }
    events.extend([
        (Event::Nothing, None),
        (Event::Nothing, Some((EX, KEEPS, THIRD))),
        (Event::Reuse, Some((EX, KEEPS, THIRD))),
        (Event::Reuse, None),
        (Event::Lower, Some((CR, KEEPS, THIRD))),
        (Event::Epoch, None),
        (Event::End, Some((EX, KEEPS, THIRD))),
        (Event::Lease, None),
        (Event::Frozen, None),
        (Event::Gate, None),
        (Event::Users, Some((EX, GOES, THIRD))),
        (Event::Decide, None),
        (Event::Release, None),
        (Event::Withdraw, Some((EX, KEEPS, THIRD))),
        (Event::Refuse, None),
        (Event::Loss, Some((EX, KEEPS, THIRD))),
        (Event::Write(0), None),
        (Event::Write(1), None),
        (Event::Write(2), None),
        (Event::Adopt, Some((EX, KEEPS, THIRD))),
    ]);
    if all {
        events.extend([
            (Event::Nothing, Some((EX, GOES, THIRD))),
            (Event::Nothing, Some((PR, KEEPS, THIRD))),
            (Event::Reuse, Some((EX, GOES, THIRD))),
            (Event::Lower, None),
            (Event::Write(3), None),
            (Event::Withdraw, None),
            (Event::Withdraw, Some((EX, GOES, THIRD))),
            (Event::Refuse, Some((EX, KEEPS, THIRD))),
            (Event::Loss, None),
            (Event::Loss, Some((EX, GOES, THIRD))),
            (Event::Nothing, Some((CR, KEEPS, SUBJECT))),
            (Event::Adopt, Some((CR, KEEPS, SUBJECT))),
            (Event::Users, Some((CR, KEEPS, SUBJECT))),
            (Event::End, None),
            (Event::End, Some((EX, GOES, THIRD))),
            (Event::Users, Some((EX, KEEPS, THIRD))),
            (Event::Adopt, Some((EX, GOES, THIRD))),
            (Event::Adopt, Some((PR, KEEPS, THIRD))),
        ]);
    }
    events
}

/// Can this happen in this scene at all?
pub(crate) fn happens(scene: Scene, event: Event) -> bool {
    let waits = scene.behind.is_some() || scene.waits.is_some();
    match event {
        Event::Death(victim) => {
            let counted = [scene.holds, scene.beside].into_iter().flatten();
            let beside = |mode: Mode| counted.clone().all(|other| other.compatible(mode));
            victim.counts().is_none_or(|mode| beside(mode) && scene.owned.covers(mode))
        }
        Event::Reuse => scene.holds.is_none() && scene.beside.is_none() && !waits,
        Event::Decide => scene.waits.is_some() || scene.holds.is_some(),
        Event::Release => scene.beside.is_some(),
        Event::Withdraw | Event::Refuse => scene.behind.is_some(),
        Event::Loss => scene.behind.is_some() || scene.beside.is_some(),
        Event::Write(_) => scene.values && scene.beside.is_some_and(Mode::writes_value),
        _ => true,
    }
}

/// Where the subject is stopped in a scene: before each instruction that touches the segment or the clock, and at the
/// end; `all`: before each whatsoever.
pub(crate) fn stops(slate: &Slate, scene: Scene, event: Event, all: bool) -> Result<Vec<Stop>, String> {
    let (memory, fd) = shared();
    let world = World::new(memory, slate, scene);
    event.prepare(&world);
    let mut tracee = Tracee::start(slate, || world.cast.act(&fd, slate))?;
    let trace = tracee.trace()?;
    let last = trace.iter().rposition(|(_, touch)| matches!(touch, Touch::Cell { .. })).unwrap_or(0);
    let meant = |(number, (_, touch)): &(usize, (Stop, Touch))| {
        // After the last touch of the segment there is what the subject says; once is enough for that.
        *number <= last + 1 && (all || *touch != Touch::None || *number == last + 1)
    };
    Ok(trace.into_iter().enumerate().filter(meant).map(|(_, (stop, _))| stop).collect())
}

/// What has happened.
pub(crate) struct Facts {
    event: Event,
    /// By which number the node knows the subject's session.
    subject: SessionId,
    /// The subject had not looked at its clock yet.
    early: bool,
    /// The subject was told that somebody waits.
    told: bool,
    /// What the word counted then.
    counts: [u32; 6],
    /// The survivor has given its lock back.
    released: bool,
    /// The survivor waits no more.
    withdrawn: bool,
    spot: Spot,
    tokens: Vec<u64>,
}

impl Facts {
    /// Nothing has happened yet.
    pub(crate) fn new(world: &World, event: Event, subject: SessionId) -> Facts {
        Facts {
            event,
            subject,
            early: world.slate.get(slate::LOOKS) == 0,
            told: false,
            counts: [0; 6],
            released: false,
            withdrawn: false,
            spot: world.cast.spot,
            tokens: Vec::new(),
        }
    }
}

fn happen(world: &mut World, event: Event) -> Result<Facts, String> {
    let cast = world.cast;
    let slot = cast.slot;
    let mut facts = Facts::new(world, event, SessionId(SUBJECT));
    match event {
        Event::Nothing => {}
        Event::Death(_) => {
            world.hub.end(SessionId(VICTIM));
            judge::bury(&mut world.hub, SessionId(VICTIM))?;
        }
        Event::Reuse => {
            if world.hub.evict(slot) {
                let again = world.hub.bind(&name(AFTER)).map_err(|_| "no slot")?;
                world.hub.raise(again, EX, Fence::new(Epoch(1), 1));
                world.hub.clear_gate(again);
                facts.spot = world.caller(THIRD).find(AFTER).ok_or("a name is not found")?;
                if again != slot {
                    return Err("another slot than was to be used again".into());
                }
            }
        }
        Event::Lower => {
            let word = world.hub.lower(slot, None);
            if word.owned != Some(word.counts.need().unwrap_or(NL)) {
                return Err(format!("lowered to {word:?}"));
            }
        }
        Event::Epoch => world.hub.turn_epoch(),
        Event::End => {
            world.hub.end(SessionId(SUBJECT));
            judge::drop_all(&mut world.hub, SessionId(SUBJECT))?;
        }
        Event::Lease => world.slate.set(slate::TIME, LEASE),
        Event::Frozen => world.slate.set(slate::TIME, LEASE - LEASE_FROZEN.as_nanos() as u64),
        Event::Gate => {
            judge::answer(&mut world.hub);
            world.hub.set_gate(slot);
            let notices = world.hub.notice(slot, EX, None);
            facts.told = notices.iter().any(|notice| notice.lock.session() == SessionId(SUBJECT));
        }
        Event::Users => drop(world.hub.used(slot)),
        Event::Decide => decide(world),
        Event::Release => {
            let _ = world.caller(SURVIVOR).release(cast.kept.ok_or("it holds nothing")?);
            facts.released = true;
        }
        Event::Withdraw => {
            let (survivor, ticket) = (world.caller(SURVIVOR), cast.behind.ok_or("it does not wait")?);
            match survivor.withdraw(ticket) {
                Some(hold) => drop(survivor.release(hold)),
                None => survivor.close(ticket.entry),
            }
            facts.withdrawn = true;
        }
        Event::Refuse => {
            let (survivor, ticket) = (world.caller(SURVIVOR), cast.behind.ok_or("it does not wait")?);
            let refused = world.hub.refuse(lock(SURVIVOR, ticket.entry));
            match survivor.look(ticket) {
                Answer::Held(hold) if !refused => drop(survivor.release(hold)),
                Answer::Refused if refused => survivor.close(ticket.entry),
                other => return Err(format!("refused: {refused}, and it is {other:?}")),
            }
            facts.withdrawn = true;
        }
        Event::Loss => {
            world.hub.end(SessionId(SURVIVOR));
            judge::bury(&mut world.hub, SessionId(SURVIVOR))?;
            (facts.released, facts.withdrawn) = (true, true);
        }
        Event::Write(times) => {
            for time in 0..times {
                let bytes = if time % 2 == 0 { NEWER } else { OLD };
                if !world.caller(SURVIVOR).write_value(cast.kept.ok_or("it holds nothing")?, Some(bytes)) {
                    return Err("the survivor may not write".into());
                }
            }
            let geometry = world.memory().geometry();
            let version = world.memory().peek(geometry.tail(slot.0) + tail::VERSION);
            let buffer = geometry.value(slot.0) + (version.wrapping_add(1) & 1) as usize * BUFFER_CELLS;
            (buffer..buffer + BUFFER_CELLS / 2).for_each(|cell| world.memory().scribble(cell, 0x0505));
        }
        Event::Adopt => {
            let memory = world.memory().clone();
            world.hub = adopt(memory, &[SUBJECT, SURVIVOR, THIRD, VICTIM]);
            world.hub.clear_gate(slot);
        }
    }
    facts.counts = world.word().counts().0;
    Ok(facts)
}

/// The node answers what the subject waits for: yes if it can, else no.
pub(crate) fn decide(world: &mut World) {
    let cast = world.cast;
    let geometry = world.memory().geometry();
    for entry in 0..geometry.entries {
        let cell = geometry.entry(0, entry);
        let state = State(world.memory().peek(cell));
        let lock = lock(SUBJECT, entry);
        let granted = match state.stage() {
            Some(Stage::Waiting) => {
                let generation = oarlock_layout::segment::geometry::entry::SLOT_GENERATION;
                let current = world.memory().peek(cell + generation) == cast.spot.generation
                    && world.memory().peek(geometry.slot(cast.slot.0) + slot::GENERATION)
                        == cast.spot.generation;
                let mode = state.mode().expect("a mode");
                current && world.hub.admit(cast.slot, mode, claim(SUBJECT, entry)).is_some()
            }
            Some(Stage::Asking) => {
                let to = asked(world.memory(), &cast);
                to.is_some_and(|to| world.hub.convert(lock, to).is_some())
            }
            _ => continue,
        };
        if !granted {
            world.hub.refuse(lock);
        }
    }
}

/// The third is granted the lock, if it can be: by itself, or if the gate is set, by the node.
fn third_gets(world: &mut World, facts: &mut Facts, mode: Mode, who: u32) -> Option<Hold> {
    let caller = world.caller(who);
    let party = Party::default();
    // Another thread of the subject has another seat, or none.
    let first = if who == SUBJECT { AMONG_THREADS } else { First::seat(0) };
    let hold = match caller.acquire(facts.spot, mode, &party, false, first) {
        Taken::Held { hold, .. } => Some(hold),
        _ if world.word().gate() => match caller.acquire(facts.spot, mode, &party, true, first) {
            Taken::Wait(ticket) => {
                world.hub.admit(world.cast.slot, mode, claim(who, ticket.entry));
                match caller.look(ticket) {
                    Answer::Held(hold) => Some(hold),
                    _ => {
                        world.hub.refuse(lock(who, ticket.entry));
                        caller.close(ticket.entry);
                        None
                    }
                }
            }
            _ => None,
        },
        _ => None,
    }?;
    if mode == EX {
        facts.tokens.extend(caller.draw_token(hold).map(|token| token.local));
    }
    Some(hold)
}

/// What the subject believes must be so.
fn believed(world: &mut World, facts: &mut Facts, belief: Belief) -> Result<(), String> {
    let cast = world.cast;
    let scene = cast.scene;
    let ended = matches!(facts.event, Event::Epoch | Event::End | Event::Lease | Event::Frozen);
    let memory = world.memory().clone();
    let generation = memory.peek(memory.geometry().slot(cast.slot.0) + slot::GENERATION);
    if let Some((entry, mode, spot)) = belief.held {
        let new = scene.holds != Some(mode) && !matches!(scene.op, Op::Lower(_));
        if ended && facts.early && new {
            return Err(format!("{mode:?} was granted after the end of all belief"));
        }
        if generation != spot.generation {
            return Err(format!("{mode:?} is believed of a slot that has another name"));
        }
        let state = State(memory.peek(memory.geometry().entry(0, entry)));
        let says = state.claims();
        if facts.event != Event::End && says != Some(mode) && !(facts.event == Event::Decide) {
            return Err(format!("{mode:?} is believed, and the entry says {state:?}"));
        }
    }
    judge::explained(&memory)?;
    if belief.torn {
        return Err("a value block was read that nobody wrote".into());
    }
    if let Some(found) = belief.found
        && found != cast.spot
    {
        return Err(format!("the name was found in {found:?}, which is another's"));
    }
    if facts.event == Event::Nothing {
        if scene.op == Op::Find && belief.found.is_none() {
            return Err("the name was not found".into());
        }
        if belief.waits.is_some() && !world.word().gate() && matches!(scene.op, Op::Acquire(..)) {
            return Err("somebody waits, and the gate is open".into());
        }
    }
    if facts.event == Event::Gate {
        let rang = judge::answer(&mut world.hub).contains(&cast.slot);
        let lets = matches!(scene.op, Op::Release | Op::Lower(_) | Op::SpoilAndRelease);
        if lets && world.word().counts().0 != facts.counts && !rang {
            return Err("a lock was given back behind a gate, and nobody rang".into());
        }
        if belief.held.is_some() && !facts.told && !rang && !lets {
            return Err(
                "a lock is in the way of somebody, and its holder was not told, nor did it ring".into()
            );
        }
    }
    if let Some(token) = belief.token {
        if facts.tokens.contains(&token) {
            return Err(format!("token {token} was given twice"));
        }
        facts.tokens.push(token);
    }
    Ok(())
}

/// The harder twin, once.
pub(crate) fn run(slate: &Slate, scene: Scene, stop: Stop, event: Event, third: Third) -> Result<(), String> {
    let (memory, fd) = shared();
    let mut world = World::new(memory, slate, scene);
    event.prepare(&world);
    let cast = world.cast;
    let mut tracee = Tracee::start(slate, || cast.act(&fd, slate))?;
    reached(tracee.run_to(stop)?)?;
    judge::explained(world.memory()).map_err(|error| format!("as it stands: {error}"))?;
    let facts = happen(&mut world, event)?;
    goes_on(world, tracee, facts, third)
}

/// The subject is where it was to be stopped: it does the same each time.
pub(crate) fn reached(reached: bool) -> Result<(), String> {
    if reached { Ok(()) } else { Err("it did not come to where it was to be stopped".into()) }
}

/// After it has happened: somebody else is granted the lock, the subject goes on, and all go.
pub(crate) fn goes_on(
    mut world: World,
    mut tracee: Tracee,
    mut facts: Facts,
    third: Third,
) -> Result<(), String> {
    let (mut cast, slate, event) = (world.cast, &world.slate.clone(), facts.event);
    judge::explained(world.memory()).map_err(|error| format!("after it: {error}"))?;
    judge::value(&world.hub, cast.slot)?;
    let mut kept = None;
    let who = third.map_or(THIRD, |(.., who)| who);
    if let Some((mode, keeps, _)) = third {
        // Twice, so that a token count that is turned back by one is seen.
        for _ in 0..if keeps { 1 } else { 2 } {
            let hold = third_gets(&mut world, &mut facts, mode, who);
            judge::explained(world.memory()).map_err(|error| format!("with the third: {error}"))?;
            match hold {
                Some(hold) if !keeps => drop(world.caller(who).release(hold)),
                _ => kept = hold,
            }
        }
    }
    tracee.go_on()?;
    let belief = slate.belief();
    believed(&mut world, &mut facts, belief).map_err(|error| format!("{belief:?}: {error}"))?;
    if let Some(hold) = kept {
        if !world.caller(who).holds(hold) {
            return Err("the third has lost its lock".into());
        }
        let _ = world.caller(who).release(hold);
    }
    // All go, one after the other.
    slate.set(slate::TIME, 0);
    if let (Some(kept), false) = (cast.kept, facts.released) {
        let _ = world.caller(SURVIVOR).release(kept);
    }
    judge::answer(&mut world.hub);
    decide(&mut world);
    tracee.go_on()?;
    slate.complaint()?;
    judge::answer(&mut world.hub);
    // A change of mode that found all belief ended leaves its entry to the end of its session.
    let left = belief.lost && matches!(cast.scene.op, Op::Raise(_)) && event != Event::End;
    if left {
        world.hub.end(SessionId(SUBJECT));
    }
    if event == Event::End || left {
        judge::bury(&mut world.hub, facts.subject)?;
    }
    cast.kept = None;
    if facts.withdrawn {
        cast.behind = None;
    }
    judge::survivor_goes(&mut world.hub, &cast, slate)?;
    if event == Event::Epoch {
        let epoch = world.memory().peek(header::EPOCH);
        cast.seats = cast.seats.map(|seat| Place { epoch, ..seat });
    }
    let third = cast.caller(world.memory(), slate, THIRD, false);
    let token = judge::free_for_all(&mut world.hub, &third, cast.slot, facts.spot)?;
    if facts.tokens.iter().any(|earlier| *earlier >= token) {
        return Err(format!("token {token} comes after {:?}", facts.tokens));
    }
    judge::nothing_left(world.memory())
}

/// What was done.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Tally {
    pub(crate) stops: usize,
    pub(crate) twins: usize,
    /// Of so many, of which this was a part.
    pub(crate) of: usize,
}

/// Which of all twins are meant: one out of `of`, beginning with this number. All parts together are all twins, and each
/// has some of every scene.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) number: usize,
    pub(crate) of: usize,
}

impl Part {
    pub(crate) const WHOLE: Part = Part { number: 0, of: 1 };

    /// Is the next one meant? Counted either way.
    pub(crate) fn takes(self, tally: &mut Tally) -> bool {
        let takes = tally.of % self.of == self.number;
        tally.of += 1;
        tally.twins += usize::from(takes);
        takes
    }
}

/// Every stop of every scene, with all that happens.
pub(crate) fn all(slate: &Slate, scenes: &[Scene], all: bool, part: Part) -> Result<Tally, String> {
    let mut tally = Tally::default();
    for scene in scenes {
        // What the subject meets, and so where it can stand still, depends on what the victim left.
        let mut known: Vec<(Option<Victim>, Vec<Stop>)> = Vec::new();
        for (event, third) in events(all).into_iter().filter(|(event, _)| happens(*scene, *event)) {
            let victim = event.victim();
            if !known.iter().any(|(other, _)| *other == victim) {
                let stops = stops(slate, *scene, event, all)?;
                tally.stops += stops.len();
                known.push((victim, stops));
            }
            let stops = &known.iter().find(|(other, _)| *other == victim).expect("just made").1;
            for (number, stop) in stops.iter().enumerate() {
                if !part.takes(&mut tally) {
                    continue;
                }
                run(slate, *scene, *stop, event, third).map_err(|error| {
                    format!("{}, stop {number} of {}, {event:?}, {third:?}: {error}", scene.name, stops.len())
                })?;
            }
        }
    }
    Ok(tally)
}
