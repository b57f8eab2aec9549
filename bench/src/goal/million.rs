//! A million resources on a node: what they cost in memory, in instructions and at attaching; and the death of a program
//! that held ten thousand of them.

use std::fs;
use std::time::{Duration, Instant};

use super::Setting;
use super::instructions::count_of;
use crate::anchor::table::shuffled;
use crate::cluster::{Cluster, RETAINING};
use crate::program::{PAIRS_COUNTED, Role};
use crate::report::{Bound, Line};
use crate::rounds::{Contender, Failure, Plan, alternate, spread};

/// Bytes of every name: as long as those whose cost is promised.
const NAME_BYTES: usize = 64;
/// Threads that fill a node, each in a session of its own.
const FILLERS: u32 = 8;
/// Locks of the program that dies.
const HELD: u32 = 10_000;
/// Times that something is measured which is over in milliseconds.
const TIMES: usize = 7;

fn name(n: u64) -> String {
    let number = format!("bench/{n:09}/");
    format!(
        "{number}{}",
        &"abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[..NAME_BYTES - number.len()]
    )
}

/// So many names out of the first `all`.
pub(crate) fn spread_over(all: u32, count: u32) -> impl Iterator<Item = String> {
    let order = shuffled(all.into(), 4);
    (0..count as usize).map(move |at| name(order[at % order.len()]))
}

/// A node that has granted every one of so many resources once, and keeps them.
fn filled(setting: &Setting, resources: u32) -> Result<Cluster, Failure> {
    let cluster = Cluster::lone(setting.cpus, resources)?;
    let fill = |filler| -> Result<(), Failure> {
        let space = cluster.space(0, RETAINING)?;
        for n in (filler..resources).step_by(FILLERS as usize) {
            space.lock(name(n.into())).acquire().map(drop).map_err(|e| e.to_string())?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let fillers: Vec<_> = (0..FILLERS).map(|filler| scope.spawn(move || fill(filler))).collect();
        fillers.into_iter().try_for_each(|filler| filler.join().expect("no panic"))
    })?;
    Ok(cluster)
}

/// What the kernel says of a process' memory, in bytes: all of it that is real, the segment included, once.
fn real_memory(process: u32) -> Result<f64, Failure> {
    let read = || fs::read_to_string(format!("/proc/{process}/status"));
    let text = read().map_err(|e| format!("memory of process {process}: {e}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    number.map(|kib| kib * 1024.0).ok_or_else(|| format!("process {process} has no memory"))
}

/// All of it.
pub(crate) fn run(setting: &Setting) -> Result<Vec<Line>, Failure> {
    let many = if setting.quick { 20_000 } else { 1_000_000 };
    let (small, large) = (filled(setting, 1_000)?, filled(setting, many)?);
    // The same sizes of everything but what resources cost.
    let empty = Cluster::lone(setting.cpus, many)?;
    let bytes = real_memory(large.process(0))? - real_memory(empty.process(0))?;
    drop(empty);
    let once = Plan { rounds: 1, patience: Duration::ZERO, noise_max: 1.0, ..setting.plan };
    let line = |name, unit, values: Vec<f64>, against, bound: f64| -> Result<Line, Failure> {
        let table = alternate(&once, &mut [Contender::new(name, || Ok(values.clone()))])?;
        let (all, ratios) = (spread(values.clone()), spread(values.iter().map(|v| v / bound).collect()));
        Ok(Line::new(name, unit, all.median, &table)
            .mode("counted")
            .against(against, Some(bound), Some(ratios))
            .must(Bound::AtMost(1.0))
            .also("resources", f64::from(many)))
    };
    let mut lines = vec![line(
        "memory of a retained resource, segment and daemon, names of 64 bytes",
        "bytes",
        vec![bytes / f64::from(many)],
        "what was promised",
        512.0,
    )?];
    let attached = (0..TIMES).map(|_| attach(&large)).collect::<Result<_, _>>()?;
    lines.push(line(
        "attach to the segment, until the first lock is granted in it",
        "ms",
        attached,
        "what was promised",
        10.0,
    )?);
    let repaired: Vec<[f64; 2]> = (0..TIMES).map(|_| repair(&large)).collect::<Result<_, _>>()?;
    let since_kill = spread(repaired.iter().map(|times| times[1]).collect()).median;
    lines.push(
        line(
            "repair after a death with 10 000 locks, until another has had them all",
            "ms",
            repaired.iter().map(|times| times[0]).collect(),
            "what was promised",
            50.0,
        )?
        .also("since_the_kill_ms", since_kill),
    );
    let counted = |cluster: &Cluster, resources| {
        let told = Role::Counted.told(&cluster.socket(0), "", resources);
        count_of(&told.arguments(), PAIRS_COUNTED as usize, "ready")
    };
    if super::instructions::possible() {
        let few = counted(&small, 1_000)?;
        let grown = counted(&large, many)?;
        lines.push(
            line(
                "covered pair by name, in the program",
                "instructions",
                vec![grown],
                "a thousand resources",
                few,
            )?
            .must(Bound::AtMost(1.02)),
        );
    }
    Ok(lines)
}

/// From connecting to a lock that is granted in the segment.
fn attach(cluster: &Cluster) -> Result<f64, Failure> {
    let began = Instant::now();
    let space = cluster.space(0, RETAINING)?;
    // The node may be asked for the first, while the segment is on its way; the second needs it no more.
    for _ in 0..2 {
        space.lock(name(7)).acquire().map(drop).map_err(|e| e.to_string())?;
    }
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

/// From the end of a killed program's session, and from its killing, until all its locks were taken by another.
fn repair(cluster: &Cluster) -> Result<[f64; 2], Failure> {
    let space = cluster.space(0, RETAINING)?;
    let handles: Vec<_> = (0..HELD).map(|n| space.handle(format!("bench/dead/{n}"))).collect();
    let program = Role::Holds.told(&cluster.socket(0), "bench/dead", HELD).start()?;
    let killed = Instant::now();
    program.kill()?;
    let hung_up = Instant::now();
    for handle in &handles {
        drop(handle.acquire().map_err(|e| e.to_string())?);
    }
    Ok([hung_up, killed].map(|since| since.elapsed().as_secs_f64() * 1e3))
}
