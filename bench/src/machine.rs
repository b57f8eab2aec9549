//! The machine under the measurements: which CPUs, how much of them strangers use, and a little priority.

use std::fs;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use crate::rounds::Failure;

/// Ticks of `/proc` in a second. The kernel's interface has had this number on every architecture for decades.
const TICKS_PER_SECOND: f64 = 100.0;

/// Two CPUs we may use: one plays one machine, the other the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpus(pub(crate) usize, pub(crate) usize);

impl Cpus {
    /// The first two we may use; both the same where there is only one.
    pub(crate) fn find() -> Result<Cpus, Failure> {
        let allowed = sched_getaffinity(None).map_err(|e| format!("which CPUs may be used: {e}"))?;
        let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
        let first = cpus.next().ok_or("no CPU may be used")?;
        Ok(Cpus(first, cpus.next().unwrap_or(first)))
    }
}

/// Ties the calling thread to one CPU. Where that is not allowed the numbers are only noisier.
pub(crate) fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    let _ = sched_setaffinity(None, &set);
}

/// A session of its own and a high priority in it, where allowed: the scheduler groups by session, and a plain
/// priority counts only inside one.
pub(crate) fn take_priority() {
    let _ = rustix::process::setsid();
    // A leader of a process group cannot leave its session; then the group gets the priority.
    let _ = fs::write("/proc/self/autogroup", "-10");
    let _ = rustix::process::nice(-10);
}

/// CPU time the calling thread has used.
pub(crate) fn thread_cpu() -> Duration {
    let at = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(at.tv_sec as u64, at.tv_nsec as u32)
}

/// Measures which share of the machine strangers use, from [`Noise::begin`] to [`Noise::end`].
pub(crate) struct Noise {
    at: Instant,
    all: f64,
    ours: f64,
}

impl Noise {
    pub(crate) fn begin() -> Noise {
        Noise { at: Instant::now(), all: busy_seconds(), ours: tree_seconds(std::process::id()) }
    }

    /// The share, from 0 to 1, of all CPUs together. Processes count as ours if they descend from this one.
    pub(crate) fn end(&self) -> f64 {
        let all = busy_seconds() - self.all;
        let ours = tree_seconds(std::process::id()) - self.ours;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let time = self.at.elapsed().as_secs_f64().max(1e-3);
        ((all - ours) / (time * cpus)).clamp(0.0, 1.0)
    }
}

/// Waits for a quarter of a second in which strangers use less than `max`, at most for `patience`.
pub(crate) fn wait_for_quiet(patience: Duration, max: f64) {
    let end = Instant::now() + patience;
    while Instant::now() < end {
        let noise = Noise::begin();
        std::thread::sleep(Duration::from_millis(250));
        if noise.end() <= max {
            return;
        }
    }
}

/// Seconds all CPUs were busy since the machine started.
fn busy_seconds() -> f64 {
    busy_ticks(&fs::read_to_string("/proc/stat").unwrap_or_default()) / TICKS_PER_SECOND
}

/// user, nice, system, irq, softirq, steal: all but idle and waiting for a disk, and the guests' time, which is
/// in user already.
fn busy_ticks(stat: &str) -> f64 {
    let line = stat.lines().next().unwrap_or_default();
    let fields: Vec<f64> = line.split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    [0, 1, 2, 5, 6, 7].iter().filter_map(|at| fields.get(*at)).sum()
}

/// CPU seconds of a process with everything that descends from it, children that were waited for included.
pub(crate) fn tree_seconds(root: u32) -> f64 {
    let mut processes: Vec<Process> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| Process::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?))
        .collect();
    let mut inside = vec![root];
    let mut ticks = 0.0;
    while let Some(pid) = inside.pop() {
        processes.retain(|process| {
            if process.pid == pid {
                ticks += process.ticks + process.ticks_of_children;
            }
            if process.parent == pid && process.pid != pid {
                inside.push(process.pid);
            }
            true
        });
        processes.retain(|process| process.pid != pid);
    }
    ticks / TICKS_PER_SECOND
}

/// CPU seconds of one process, all threads.
pub(crate) fn process_seconds(pid: u32) -> Result<f64, Failure> {
    // Nanoseconds of each thread, where the kernel keeps them; ticks are too coarse for short windows.
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_err(|e| format!("process {pid}: {e}"))?;
    let nanoseconds = |task: std::io::Result<fs::DirEntry>| {
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    };
    Ok(threads.filter_map(nanoseconds).sum::<f64>() / 1e9)
}

struct Process {
    pid: u32,
    parent: u32,
    ticks: f64,
    ticks_of_children: f64,
}

impl Process {
    /// Reads a line of `/proc/PID/stat`. The name in the middle may contain anything, brackets too.
    fn parse(stat: &str) -> Option<Process> {
        let (head, tail) = (stat.split_once(' ')?.0, stat.rsplit_once(')')?.1);
        let fields: Vec<&str> = tail.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
        Some(Process {
            pid: head.parse().ok()?,
            parent: fields.get(1)?.parse().ok()?,
            ticks: ticks(11)? + ticks(12)?,
            ticks_of_children: ticks(13)? + ticks(14)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_brackets_in_its_name_is_read() {
        let p = Process::parse("12 (a) b) (c) S 7 1 1 0 -1 0 1 2 3 4 100 20 3 4 20 0").unwrap();
        assert_eq!((p.pid, p.parent), (12, 7));
        assert_eq!((p.ticks, p.ticks_of_children), (120.0, 7.0));
    }

    #[test]
    fn idle_time_is_not_busy_time() {
        assert_eq!(busy_ticks("cpu  1 2 4 1000 2000 8 16 32 64 128\ncpu0 9"), 63.0);
    }

    #[test]
    fn our_own_work_counts_as_ours() {
        let before = (tree_seconds(std::process::id()), process_seconds(std::process::id()).unwrap());
        let end = Instant::now() + Duration::from_millis(300);
        let mut n = 0u64;
        while thread_cpu() < Duration::from_millis(60) || Instant::now() < end {
            n = std::hint::black_box(n + 1);
        }
        assert!(tree_seconds(std::process::id()) - before.0 >= 0.04);
        // Threads of other tests end meanwhile and take their time out of the sum: we work until ours outweighs it.
        while process_seconds(std::process::id()).unwrap() - before.1 < 0.04 {
            assert!(end.elapsed() < Duration::from_secs(10), "this thread's work is not in the sum");
        }
    }
}
