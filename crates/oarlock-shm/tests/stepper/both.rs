//! A program stands still after each instruction of an operation, and meanwhile its node dies after each instruction of
//! what it does about somebody's end. Another node takes over, somebody is granted the lock, and the program goes on.

use oarlock_layout::id::SessionId;
use oarlock_layout::mode::Mode::{CR, EX};

use crate::death::{Duty, adopt};
use crate::judge;
use crate::nodes;
use crate::slate::Slate;
use crate::stage::*;
use crate::tracee::{Stop, Tracee};
use crate::twin::{self, Event, Facts, Part, Tally, Third, goes_on, happens, reached};

/// Once.
fn run(
    slate: &Slate,
    scene: Scene,
    event: Event,
    stop: Stop,
    node_stop: Stop,
    third: Third,
) -> Result<(), String> {
    let duty = duty(event);
    let (memory, fd) = shared();
    // The node sets the scene.
    let mut node = Tracee::start(slate, || nodes::program(&fd, slate, scene, duty))?;
    let cast = World::new(private(), slate, scene).cast;
    let mut subject = Tracee::start(slate, || cast.act(&fd, slate))?;
    reached(subject.run_to(stop)?)?;
    // Where the subject stands may spare the node some steps: then it dies after all of them.
    node.run_to(node_stop)?;
    drop(node);
    judge::exclusion(&memory)?;
    let (alive, dead, number): (&[u32], _, _) = match event {
        Event::End => (&[SURVIVOR, THIRD, VICTIM], 100 + SUBJECT, 100 + SUBJECT),
        _ => (&[SUBJECT, SURVIVOR, THIRD], 100 + VICTIM, SUBJECT),
    };
    let hub = adopt(memory, alive);
    let mut world = World { hub, slate: slate.clone(), cast };
    if event == Event::End {
        judge::drop_all(&mut world.hub, SessionId(dead))?;
    } else {
        judge::bury(&mut world.hub, SessionId(dead))?;
    }
    let facts = Facts::new(&world, event, SessionId(number));
    goes_on(world, subject, facts, third)
}

fn duty(event: Event) -> Duty {
    match event {
        Event::End => Duty::End,
        Event::Death(victim) => Duty::Death(victim),
        other => panic!("{other:?} is nobody's end"),
    }
}

/// Every stop of these scenes, with every nth stop of the node.
pub(crate) fn all(slate: &Slate, scenes: &[Scene], every: usize, part: Part) -> Result<Tally, String> {
    let events = [
        (Event::Death(Victim::Trying(EX, false)), Some((EX, false, THIRD))),
        (Event::Death(Victim::Trying(CR, true)), Some((EX, true, THIRD))),
        (Event::Death(Victim::Lowering(CR, None, false)), Some((EX, true, THIRD))),
        (Event::End, Some((EX, true, THIRD))),
    ];
    let mut tally = Tally::default();
    for scene in scenes {
        for (event, third) in events.into_iter().filter(|(event, _)| happens(*scene, *event)) {
            let stops = twin::stops(slate, *scene, event, false)?;
            let node_stops = nodes::stops(slate, *scene, duty(event))?;
            tally.stops += stops.len() + node_stops.len();
            for (number, stop) in stops.iter().enumerate() {
                // Others for each stop, so that all are had over a scene.
                let some = node_stops.iter().enumerate().skip(number % every).step_by(every);
                for (of_node, node_stop) in some {
                    if !part.takes(&mut tally) {
                        continue;
                    }
                    run(slate, *scene, event, *stop, *node_stop, third).map_err(|error| {
                        format!("{}, {event:?}, stop {number}, of the node {of_node}: {error}", scene.name)
                    })?;
                }
            }
        }
    }
    Ok(tally)
}
