//! Goals 1 to 4: locks that the node owns, granted in the program's own process.

use std::hint::black_box;
use std::thread;
use std::time::Duration;

use super::Setting;
use crate::anchor::robust::{self, timed};
use crate::anchor::table::{Table, shuffled};
use crate::anchor::wake::{self, Cells};
use crate::cluster::{Cluster, RETAINING};
use crate::machine::{Cpus, pin};
use crate::program::{Program, Role};
use crate::report::{Bound, Line};
use crate::rounds::{Contender, Failure, Times, alternate};

/// Names of goal 2.
const NAMES: u32 = 64 << 10;
/// Bytes of each.
const NAME_BYTES: usize = 21;
/// What a lookup among so many names can touch: four bytes an index entry, half of them used, and a line a slot.
const TABLE_BYTES: usize = NAMES as usize * (2 * 4 + 64);
/// Threads of goal 3, in two processes.
const THREADS: u32 = 8;
/// How long a lock is held before it is handed over: longer than a waiter spins, so that it is asleep.
const HOLD: Duration = Duration::from_micros(400);
/// Held for no longer than a waiter needs to ask and to begin to wait, so that it is awake.
const HOLD_SHORT: Duration = Duration::from_micros(1);

/// Runs something in a thread that is tied to a CPU.
fn on<T: Send>(cpu: usize, work: impl FnOnce() -> T + Send) -> T {
    let pinned = || {
        pin(cpu);
        work()
    };
    thread::scope(|scope| scope.spawn(pinned).join().expect("no panic"))
}

/// Goal 1: an open handle, beside what a lock costs that survives its holder, with a look at the coarse clock.
pub(crate) fn handle(setting: &Setting) -> Result<Vec<Line>, Failure> {
    let (cpu, window) = (setting.cpus.1, setting.plan.window);
    let cluster = Cluster::lone(setting.cpus, NAMES)?;
    let space = cluster.space(0, RETAINING)?;
    let handle = space.handle("bench/goal-1");
    drop(handle.acquire().map_err(|e| e.to_string())?);
    let shared = space.handle("bench/goal-1").mode(oarlock::Mode::PR);
    let pair = |handle: &oarlock::blocking::Handle| {
        on(cpu, || Ok(vec![timed(window, || handle.acquire().is_ok())?]))
    };
    let table = alternate(
        &setting.plan,
        &mut [
            Contender::new("open handle", || pair(&handle)),
            Contender::new("robust mutex", || on(cpu, || robust::pairs(window))),
            Contender::new("open handle, PR", || pair(&shared)),
        ],
    )?;
    let line = |name, ours| {
        Line::new(name, "ns", table.metric(ours, 0).median, &table)
            .goal(1)
            .mode("uncontended")
            .against(
                "robust process-shared mutex and a coarse clock",
                Some(table.metric(1, 0).median),
                Some(table.ratio((ours, 0), (1, 0))),
            )
            .must(Bound::AtMost(2.0))
            .stretch(Bound::AtMost(1.0))
            .also("times_robust_alone", table.ratio((ours, 0), (1, 1)).median)
    };
    Ok(vec![line("covered grant and release, open handle, EX", 0), line("the same in PR", 2)])
}

/// Goal 2: by name, all over a table.
pub(crate) fn by_name(setting: &Setting) -> Result<Vec<Line>, Failure> {
    let (cpu, window) = (setting.cpus.1, setting.plan.window);
    let cluster = Cluster::lone(setting.cpus, NAMES)?;
    let space = cluster.space(0, RETAINING)?;
    let name = |n: u64| format!("bench/2/{n:013}");
    let pair = |name: &str| space.lock(name).acquire().map(drop);
    for n in 0..u64::from(NAMES) {
        pair(&name(n)).map_err(|e| e.to_string())?;
    }
    // The names themselves lie in the order in which they are asked for: to fetch them is no part of a lookup.
    let names: String = shuffled(NAMES.into(), 3).into_iter().map(name).collect();
    let mut at = 0;
    let mut next = || {
        at = if at + NAME_BYTES < names.len() { at + NAME_BYTES } else { 0 };
        &names[at..][..NAME_BYTES]
    };
    let loads = Table::new(TABLE_BYTES);
    let hot = name(5);
    let table = alternate(
        &setting.plan,
        &mut [
            Contender::new("by name", || on(cpu, || Ok(vec![timed(window, || pair(next()).is_ok())?]))),
            Contender::new("two loads", || on(cpu, || loads.pairs(window))),
            Contender::new("one name", || {
                on(cpu, || Ok(vec![timed(window / 2, || pair(black_box(&hot)).is_ok())?]))
            }),
        ],
    )?;
    Ok(vec![
        Line::new(
            "covered grant and release by name, 64 Ki names at random",
            "ns",
            table.metric(0, 0).median,
            &table,
        )
        .goal(2)
        .mode("uncontended")
        .against(
            "two dependent loads from a table of the same size",
            Some(table.metric(1, 0).median),
            Some(table.ratio((0, 0), (1, 0))),
        )
        .must(Bound::AtMost(3.0))
        .stretch(Bound::AtMost(1.8))
        .also("always_the_same_name_ns", table.metric(2, 0).median),
    ])
}

/// Goal 3: eight threads in two processes, each with a lock of its own.
pub(crate) fn processes(setting: &Setting) -> Result<Vec<Line>, Failure> {
    let window = setting.plan.window;
    let cluster = Cluster::lone(setting.cpus, NAMES)?;
    let directory = tempfile::tempdir().map_err(|e| format!("a directory: {e}"))?;
    let half = THREADS / 2;
    let two = |role: Role, at: &std::path::Path| -> Result<[Program; 2], Failure> {
        Ok([role.told(at, "bench/3/a", half).start()?, role.told(at, "bench/3/b", half).start()?])
    };
    std::fs::create_dir_all(directory.path().join("bench/3")).map_err(|e| format!("a directory: {e}"))?;
    let mut ours = two(Role::Own, &cluster.socket(0))?;
    let mut theirs = two(Role::Flock, directory.path())?;
    let mut nobodys = two(Role::Bare, directory.path())?;
    let run = |programs: &mut [Program; 2]| {
        programs.iter_mut().try_for_each(|program| program.go(window))?;
        let mut all = 0;
        for program in programs {
            all += program.counted()?.iter().sum::<u64>();
        }
        Ok(vec![all as f64 / window.as_secs_f64()])
    };
    let table = alternate(
        &setting.plan,
        &mut [
            Contender::new("eight threads", || run(&mut ours)),
            Contender::new("flock", || run(&mut theirs)),
            Contender::new("exchanges", || run(&mut nobodys)),
        ],
    )?;
    Ok(vec![
        Line::new(
            "covered pairs, 8 threads in 2 processes, own keys",
            "pairs/s",
            table.metric(0, 0).median,
            &table,
        )
        .goal(3)
        .mode("uncontended")
        .against("flock(2)", Some(table.metric(1, 0).median), Some(table.ratio((0, 0), (1, 0))))
        .must(Bound::AtLeast(10.0))
        .stretch(Bound::AtLeast(25.0))
        .also("its_exchanges_alone_x_flock", table.ratio((2, 0), (1, 0)).median),
    ])
}

/// Goal 4: one lock that two processes want, from the start of a release to the return of the other's acquire.
pub(crate) fn hand_over(setting: &Setting) -> Result<Vec<Line>, Failure> {
    let window = setting.plan.window;
    let cluster = Cluster::lone(setting.cpus, NAMES)?;
    let (across, beside) = (setting.cpus, Cpus(setting.cpus.1, setting.cpus.1));
    let two = |key: &str, places: Cpus, hold| -> Result<[Program; 2], Failure> {
        let told = |cpu| Role::Turns.told(&cluster.socket(0), key, 1).hold(hold).on(cpu).start();
        Ok([told(places.0)?, told(places.1)?])
    };
    let mut apart = two("bench/4/across", across, HOLD)?;
    let mut together = two("bench/4/beside", beside, HOLD)?;
    let mut awake = two("bench/4/awake", across, HOLD_SHORT)?;
    let directory = tempfile::tempdir().map_err(|e| format!("a directory: {e}"))?;
    let words = |file: &str, places: Cpus| -> Result<(Cells, [Program; 2]), Failure> {
        let file = directory.path().join(file);
        let told = |me, cpu| Role::Woken.told(&file, "", me).hold(HOLD).on(cpu).start();
        Ok((Cells::of(&file)?, [told(0, places.0)?, told(1, places.1)?]))
    };
    let mut words_apart = words("apart", across)?;
    let mut words_together = words("together", beside)?;
    let woken = |(cells, programs): &mut (Cells, [Program; 2])| {
        cells.begin();
        programs.iter_mut().try_for_each(|program| program.go(window))?;
        let [a, b] = programs;
        wake::percentiles(&[a.counted()?, b.counted()?])
    };
    let run = |programs: &mut [Program; 2]| {
        programs.iter_mut().try_for_each(|program| program.go(window))?;
        let [a, b] = programs;
        let (times, pairs) = handed_over(&[a.counted()?, b.counted()?])?;
        let share = times.count() as f64 / pairs as f64;
        let [p50, p99] = times.percentiles()?;
        Ok(vec![p50, p99, share])
    };
    let table = alternate(
        &setting.plan,
        &mut [
            Contender::new("two CPUs", || run(&mut apart)),
            Contender::new("a wake-up between two CPUs", || woken(&mut words_apart)),
            Contender::new("one CPU", || run(&mut together)),
            Contender::new("a wake-up on one CPU", || woken(&mut words_together)),
            Contender::new("two CPUs, short holds", || run(&mut awake)),
        ],
    )?;
    let line = |name, ours: usize, anchor: usize| {
        Line::new(name, "us", table.metric(ours, 0).median, &table)
            .goal(4)
            .against(
                "one futex wake-up of another process",
                Some(table.metric(anchor, 0).median),
                Some(table.ratio((ours, 0), (anchor, 0))),
            )
            .also("p99_us", table.metric(ours, 1).median)
            .also("share_that_changed_hands", table.metric(ours, 2).median)
    };
    let must = |line: Line| line.must(Bound::AtMost(1.5));
    Ok(vec![
        must(line("hand-over between two processes, other CPU", 0, 1)),
        must(line("hand-over between two processes, same CPU", 2, 3)),
        line("hand-over between two processes, other CPU, hardly held", 4, 1).mode("adaptive"),
    ])
}

/// From what two holders noted, got and gave back in turn, the times of those grants that followed a release of the
/// other; and how many grants there were.
fn handed_over(noted: &[Vec<u64>; 2]) -> Result<(Times, usize), Failure> {
    let mut held: Vec<(u64, u64, usize)> = Vec::new();
    for (who, times) in noted.iter().enumerate() {
        held.extend(times.chunks_exact(2).map(|pair| (pair[0], pair[1], who)));
    }
    held.sort_unstable();
    let mut times = Times::default();
    for pair in held.windows(2) {
        let ((_, gave, one), (got, _, other)) = (pair[0], pair[1]);
        if got < gave {
            return Err("two processes held an exclusive lock".into());
        }
        if one != other {
            times.push(Duration::from_nanos(got - gave));
        }
    }
    Ok((times, held.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_hands_is_a_hand_over() {
        let (times, all) = handed_over(&[vec![10, 20, 25, 30], vec![33, 50]]).unwrap();
        assert_eq!((times.count(), all), (1, 3));
        assert_eq!(times.percentiles().unwrap()[0], 0.003);
        assert!(handed_over(&[vec![10, 20], vec![19, 30]]).is_err());
    }
}
