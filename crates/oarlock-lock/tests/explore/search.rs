//! Depth-first over every order of steps, each state once; a broken rule is cut down to a short story.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::menu::Menu;
use super::world::{Checked, Fault, Step, World};

/// What a search found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) states: usize,
    pub(crate) steps: u64,
    pub(crate) at_rest: u64,
    pub(crate) took: Duration,
    /// Every state was seen; false only if a limit was given and reached.
    pub(crate) whole: bool,
    pub(crate) broken: Option<Broken>,
}

/// A broken rule and the shortest story found that leads to it.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    pub(crate) fault: Fault,
    pub(crate) steps: Vec<Step>,
}

/// The hash is one already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only u128 keys");
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }
}

struct Frame {
    world: World,
    steps: Vec<Step>,
    next: usize,
}

/// Explores a menu, at most `limit` states of it.
pub(crate) fn explore(menu: &Menu, limit: usize) -> Found {
    let start = Instant::now();
    let mut seen: HashSet<u128, BuildHasherDefault<AsIs>> = HashSet::default();
    let mut found =
        Found { states: 0, steps: 0, at_rest: 0, took: Duration::ZERO, whole: true, broken: None };
    let root = World::new(menu);
    seen.insert(root.hash());
    let mut path: Vec<Step> = Vec::new();
    let mut stack = vec![frame(root, menu, Vec::new())];
    let mut spare: Vec<Vec<Step>> = Vec::new();
    while let Some(top) = stack.last_mut() {
        let Some(&step) = top.steps.get(top.next) else {
            let done = stack.pop().expect("the top");
            spare.push(done.steps);
            path.pop();
            continue;
        };
        top.next += 1;
        let mut world = top.world.clone();
        let result = guarded(menu, &mut world, step);
        match result {
            Ok(false) => continue,
            Ok(true) => {}
            Err(fault) => {
                path.push(step);
                found.broken = Some(shorten(menu, Broken { fault, steps: path }));
                break;
            }
        }
        found.steps += 1;
        if !seen.insert(world.hash()) {
            continue;
        }
        found.at_rest += u64::from(world.at_rest());
        if seen.len() >= limit {
            found.whole = false;
            break;
        }
        path.push(step);
        stack.push(frame(world, menu, spare.pop().unwrap_or_default()));
    }
    found.states = seen.len();
    found.took = start.elapsed();
    found
}

fn frame(world: World, menu: &Menu, mut steps: Vec<Step>) -> Frame {
    world.steps(menu, &mut steps);
    Frame { world, steps, next: 0 }
}

/// One step and all checks; a panic of the room is a broken rule like any other.
fn guarded(menu: &Menu, world: &mut World, step: Step) -> Result<bool, Fault> {
    let run = AssertUnwindSafe(|| {
        if !world.apply(step)? {
            return Ok(false);
        }
        checks(menu, world)?;
        Ok(true)
    });
    catch_unwind(run).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_string()));
        Err(Fault(format!("panic: {}", text.unwrap_or_default())))
    })
}

fn checks(menu: &Menu, world: &World) -> Checked {
    world.check_always()?;
    if world.at_rest() { world.check_rest(menu.order) } else { Ok(()) }
}

/// Leaves out steps as long as some rule is still broken.
fn shorten(menu: &Menu, mut broken: Broken) -> Broken {
    let mut budget = 20_000;
    let mut chunk = broken.steps.len() / 2;
    while chunk > 0 {
        let mut at = 0;
        let mut shorter = false;
        while at < broken.steps.len() && budget > 0 {
            budget -= 1;
            let mut steps = broken.steps.clone();
            steps.drain(at..(at + chunk).min(broken.steps.len()));
            match replay(menu, &steps) {
                Some(less) if less.steps.len() < broken.steps.len() => {
                    broken = less;
                    shorter = true;
                }
                _ => at += chunk,
            }
        }
        if !shorter || chunk > 1 {
            chunk /= 2;
        }
    }
    broken
}

/// Makes those of the steps that apply, then lets everything come to rest.
fn replay(menu: &Menu, steps: &[Step]) -> Option<Broken> {
    let mut world = World::new(menu);
    let mut made = Vec::new();
    let mut rest = Vec::new();
    let mut planned = steps.iter().copied();
    loop {
        let step = match planned.next() {
            Some(step) => step,
            None => {
                world.left = 0;
                world.steps(menu, &mut rest);
                *rest.first()?
            }
        };
        let mut next = world.clone();
        match guarded(menu, &mut next, step) {
            Ok(false) => {}
            Ok(true) => {
                made.push(step);
                world = next;
            }
            Err(fault) => {
                made.push(step);
                return Some(Broken { fault, steps: made });
            }
        }
    }
}

/// Lines of a story that are printed.
const LINES_MAX: usize = 90;

/// A story in the words of the transcripts.
pub(crate) fn tell(menu: &Menu, broken: &Broken) -> String {
    let mut world = World::new(menu);
    let mut text = String::new();
    world.said = Some(Default::default());
    for step in &broken.steps {
        text.push_str(&format!("{}\n", world.describe_step(*step)));
        let last = guarded(menu, &mut world, *step);
        for line in world.said.take().expect("what was said").into_inner() {
            if !line.starts_with('>') {
                text.push_str(&format!("      {line}\n"));
            }
        }
        world.said = Some(Default::default());
        if let Err(fault) = last {
            text.push_str(&format!("   => {fault}\n"));
        }
    }
    // Stories without end repeat themselves.
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() <= LINES_MAX {
        return text;
    }
    format!("{}\n ... and {} lines more\n", lines[..LINES_MAX].join("\n"), lines.len() - LINES_MAX)
}
