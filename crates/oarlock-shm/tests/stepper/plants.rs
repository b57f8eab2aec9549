//! Rules left out, one at a time: somebody must notice, and for the reason that is meant.

use std::panic::{AssertUnwindSafe, catch_unwind};

use oarlock_layout::mode::Mode::EX;
use oarlock_shm::planted::{Bug, plant};

use crate::death::{self, Duty};
use crate::nodes::{self, Act};
use crate::slate::{self, Slate};
use crate::stage::{Victim, named};
use crate::twin;

/// Who notices.
#[derive(Clone, Copy, Debug)]
enum Who {
    /// A program that dies in this scene.
    Death(&'static str),
    /// A program that stands still in this scene.
    Twin(&'static str),
    /// A node that stands still before this scene.
    Node(Duty, &'static str, Act),
}

/// Each rule, who notices that it is left out, and what they say.
const PLANTS: [(Bug, Who, &str); 15] = [
    (Bug::CommitByStore, Who::Twin("acquire-ex"), "two at once"),
    (Bug::NoCheckAfterLoad, Who::Twin("acquire-pr-beside-pr"), "it should be free"),
    (Bug::KeepTurn, Who::Twin("hand-over-ex"), "two at once"),
    (Bug::CountByOldMode, Who::Twin("lower-ex-to-pr"), "nobody explains"),
    (
        Bug::NoShut,
        Who::Node(Duty::Death(Victim::Trying(EX, false)), "release-ex", Act::Subject),
        "nobody explains",
    ),
    (Bug::NoGateReread, Who::Twin("acquire-ex"), "was not told"),
    (Bug::NoSlotGeneration, Who::Twin("acquire-ex"), "a slot that has another name"),
    (Bug::StaleNeed, Who::Node(Duty::Lower, "acquire-ex", Act::Subject), "owns less than is held"),
    (Bug::NoGateByFinder, Who::Twin("acquire-ex-and-wait"), "the gate is open"),
    (Bug::NoRestamp, Who::Twin("hand-over-ex"), "two at once"),
    (Bug::EndKeepsTurn, Who::Death("release-ex"), "does not agree"),
    (Bug::TokenBeforeCommit, Who::Twin("draw-a-token"), "token"),
    (
        Bug::GrantByStore,
        Who::Node(Duty::Admit, "release-with-somebody-behind", Act::Withdraw),
        "it was withdrawn",
    ),
    (Bug::NoLease, Who::Twin("acquire-ex"), "after the end of all belief"),
    (Bug::NoFreeze, Who::Twin("acquire-ex"), "after the end of all belief"),
];

/// What shows only in the node's queue, which stands elsewhere: the model has one.
const BY_THE_MODEL: [Bug; 1] = [Bug::NoRecall];

fn notices(slate: &Slate, who: Who) -> Result<(), String> {
    match who {
        Who::Death(scene) => death::of_programs(slate, false, &[named(scene)]).map(drop),
        Who::Twin(scene) => twin::all(slate, &[named(scene)], false, twin::Part::WHOLE).map(drop),
        Who::Node(duty, scene, act) => nodes::all(slate, &[(duty, scene, act)]).map(drop),
    }
}

/// Leaves each rule out, and sees who notices.
pub(crate) fn all(slate: &Slate) -> Result<String, String> {
    for (name, bug) in Bug::NAMED.into_iter().filter(|(_, bug)| !BY_THE_MODEL.contains(bug)) {
        let (_, who, says) =
            PLANTS.iter().find(|(of, ..)| *of == bug).ok_or(format!("{name} is not tried"))?;
        // What was noticed last may have left the clock behind the end of the lease.
        slate.set(slate::TIME, 0);
        notices(slate, *who).map_err(|error| format!("{who:?} says without any bug: {error}"))?;
        plant(Some(bug));
        // A node may also fall over what it finds; that is not what is meant here.
        let noticed = catch_unwind(AssertUnwindSafe(|| notices(slate, *who)));
        plant(None);
        match noticed {
            Ok(Err(error)) if error.contains(says) => {}
            Ok(Err(error)) => return Err(format!("{name}: {who:?} says {error}")),
            Ok(Ok(())) => return Err(format!("{name}: {who:?} does not notice")),
            Err(_) => return Err(format!("{name}: {who:?} falls over it")),
        }
    }
    Ok(format!("{} rules", PLANTS.len()))
}
