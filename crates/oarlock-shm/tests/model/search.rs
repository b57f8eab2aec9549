//! Goes through a space, nearest states first, so that what it finds is reached by as few steps as can be.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use crate::check;
use crate::daemon::{self, Event};
use crate::spaces::Space;
use crate::state::{At, Small, World};
use crate::step;

/// One thing that may happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    First,
    Step(u8),
    Withdraws(u8),
    Dies(u8),
    Node(Event),
}

/// What was found in a space.
pub struct Found {
    pub states: usize,
    pub transitions: u64,
    pub depth: u32,
    pub time: Duration,
    /// Not every state was looked at.
    pub cut: bool,
    pub broken: Option<Broken>,
}

/// A rule that was broken, and how.
pub struct Broken {
    pub rule: &'static str,
    pub acts: Vec<Act>,
}

/// Fingerprints are mixed already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("fingerprints only")
    }

    fn write_u128(&mut self, bits: u128) {
        self.0 = bits as u64;
    }
}

struct Search<'a> {
    space: &'a Space,
    seen: HashSet<u128, BuildHasherDefault<AsIs>>,
    /// By which act from which state.
    from: Vec<(u32, Act)>,
    next: Vec<(u32, World)>,
    transitions: u64,
}

/// Looks through a space, until something is broken or `states_max` states are known.
pub fn search(space: &Space, states_max: usize) -> Found {
    let begun = Instant::now();
    let mut search =
        Search { space, seen: HashSet::default(), from: Vec::new(), next: Vec::new(), transitions: 0 };
    let mut depth = 0;
    let mut cut = false;
    let mut broken = search.enter(0, Act::First, World::first(space)).err().map(|rule| (rule, 0));
    while broken.is_none() && !search.next.is_empty() {
        if search.from.len() > states_max {
            cut = true;
            break;
        }
        let now = std::mem::take(&mut search.next);
        broken = now.iter().find_map(|(index, world)| search.look(*index, world).err());
        depth += u32::from(broken.is_some() || !search.next.is_empty());
    }
    let broken = broken.map(|(rule, index)| Broken { rule, acts: search.acts(index) });
    Found {
        states: search.from.len(),
        transitions: search.transitions,
        depth: broken.as_ref().map_or(depth, |broken| broken.acts.len() as u32),
        time: begun.elapsed(),
        cut,
        broken,
    }
}

impl Search<'_> {
    /// A state: is it new, and as it must be?
    fn enter(&mut self, from: u32, act: Act, mut world: World) -> Result<(), &'static str> {
        self.transitions += u64::from(act != Act::First);
        world.settle(self.space);
        if !self.seen.insert(world.fingerprint(self.space)) {
            return Ok(());
        }
        let index = self.from.len() as u32;
        self.from.push((from, act));
        check::always(self.space, &world)?;
        self.next.push((index, world));
        Ok(())
    }

    /// All that may follow a state.
    fn look(&mut self, index: u32, world: &World) -> Result<(), (&'static str, u32)> {
        let mut acts = Vec::with_capacity(16);
        let rests = !self::acts(self.space, world, &mut |act| acts.push(act));
        if rests {
            check::at_rest(self.space, world).map_err(|rule| (rule, index))?;
        }
        for act in acts {
            let mut next = *world;
            apply(self.space, &mut next, act);
            self.enter(index, act, next).map_err(|rule| (rule, self.from.len() as u32 - 1))?;
        }
        Ok(())
    }

    /// How a state was reached.
    fn acts(&self, mut index: u32) -> Vec<Act> {
        let mut acts = Vec::new();
        while self.from[index as usize].1 != Act::First {
            let (from, act) = self.from[index as usize];
            acts.push(act);
            index = from;
        }
        acts.reverse();
        acts
    }
}

/// All that may happen. True if something must.
fn acts(space: &Space, world: &World, see: &mut dyn FnMut(Act)) -> bool {
    let mut must = false;
    for number in 0..space.programs.len() {
        if step::may(space, world, number) {
            see(Act::Step(number as u8));
            must = true;
        }
        if step::may_withdraw(space, world, number) {
            see(Act::Withdraws(number as u8));
        }
    }
    for session in 0..space.sessions() {
        let threads = || (0..space.programs.len()).filter(|n| space.programs[*n].session == session);
        let mortal = threads().any(|n| space.programs[n].mortal);
        let busy = threads().any(|n| world.callers[n].at != At::End || world.callers[n].belief.is_some());
        if world.deaths > 0 && mortal && busy && !World::bit(world.dead, session) {
            see(Act::Dies(session as u8));
        }
    }
    daemon::events(space, world, &mut |event, musts| {
        see(Act::Node(event));
        must |= musts;
    });
    must
}

/// Lets something happen.
pub fn apply(space: &Space, world: &mut World, act: Act) {
    match act {
        Act::First => {}
        Act::Step(number) => step::step(space, world, number.into()),
        Act::Withdraws(number) => step::withdraw(space, world, number.into()),
        Act::Dies(session) => {
            world.deaths -= 1;
            world.dead |= 1 << session;
            for (number, program) in space.programs.iter().enumerate() {
                if program.session == session as usize {
                    // What a dead program had in mind is nothing to anybody.
                    let caller = &mut world.callers[number];
                    caller.op = program.ops.len() as u8;
                    step::begin(space, world, number);
                    let caller = &mut world.callers[number];
                    (caller.hold, caller.belief, caller.placed) = (Small::default(), None, false);
                }
            }
        }
        Act::Node(event) => daemon::step(space, world, event),
    }
}

/// A run as people read it: what happened, and what the segment said then.
pub fn tell(space: &Space, acts: &[Act]) -> String {
    let mut world = World::first(space);
    world.settle(space);
    let mut text = format!("in {:?}\n", space.name);
    for (number, act) in acts.iter().enumerate() {
        let who = match act {
            Act::Step(n) => format!("{n} {:?}", world.callers[*n as usize].at),
            Act::Node(Event::Goes(_)) => {
                let task = world.node.todo[world.node.left as usize - 1];
                format!("node {:?} {:?} {}", task.what, task.change, task.entry as i8)
            }
            other => format!("{other:?}"),
        };
        apply(space, &mut world, *act);
        world.settle(space);
        let entries: Vec<String> = world.entries[..space.sessions()]
            .iter()
            .map(|entry| format!("{:?}", entry.state.get()))
            .collect();
        let beliefs = world.callers[..space.programs.len()].iter().map(|caller| caller.belief);
        text += &format!(
            "{:3} {who:32} {:?} {} {:?} queue {:?}\n",
            number + 1,
            world.word,
            entries.join(" "),
            beliefs.collect::<Vec<_>>(),
            &world.node.queue[..world.node.queued as usize]
        );
    }
    text
}
