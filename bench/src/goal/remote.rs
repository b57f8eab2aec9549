//! Goals 5, 7 and 13: a remote acquire from hub to hub, and what sealing takes of it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::Setting;
use crate::anchor::rtt::{self, Wait};
use crate::anchor::{flood, seal};
use crate::hub::{self, Hub};
use crate::machine::{Cpus, pin, thread_cpu};
use crate::report::{Bound, Line};
use crate::rounds::{Contender, Failure, Times, alternate};

/// Names used in turn: so many that one is forgotten by nobody and granted from no memory of the last time.
const NAMES: usize = 4096;

/// Goal 5: both hubs sleep while they wait.
pub(crate) fn sleeping(setting: &Setting) -> Result<Vec<Line>, Failure> {
    let line = acquire(setting, Wait::Sleep, "UDP round trip, sleeping")?;
    Ok(vec![line.goal(5).must(Bound::AtMost(1.3)).stretch(Bound::AtMost(1.15))])
}

/// Goal 7: both hubs spin, each on its own CPU.
pub(crate) fn spinning(setting: &Setting) -> Result<Vec<Line>, Failure> {
    let line = acquire(setting, Wait::Spin, "UDP round trip, spinning")?;
    Ok(vec![line.goal(7).must(Bound::AtMost(3.0)).stretch(Bound::AtMost(2.0))])
}

fn acquire(setting: &Setting, wait: Wait, against: &'static str) -> Result<Line, Failure> {
    let (cpus, window) = (setting.cpus, setting.plan.window);
    let table = alternate(
        &setting.plan,
        &mut [
            Contender::new("remote acquire, hub to hub", || {
                run(cpus, wait, 1, window)?.times.percentiles().map(Vec::from)
            }),
            Contender::new(against, || rtt::udp(cpus, wait, window)),
        ],
    )?;
    let ours = table.metric(0, 0).median;
    Ok(Line::new("remote acquire, hub to hub", "us", ours, &table)
        .mode(wait.name())
        .against(against, Some(table.metric(1, 0).median), Some(table.ratio((0, 0), (1, 0))))
        .also("p99_us", table.metric(0, 1).median))
}

/// Goal 13: one seal for each datagram, and what all of them take of the hubs' CPU time under eight clients.
pub(crate) fn sealing(setting: &Setting) -> Result<Vec<Line>, Failure> {
    let (cpus, window) = (setting.cpus, setting.plan.window);
    let table = alternate(
        &setting.plan,
        &mut [
            Contender::new("eight flows, hub to hub", || {
                let run = run(cpus, Wait::Sleep, 8, window)?;
                let Work { cpu, seals, opens, bytes, datagrams } = run.work;
                if seals != datagrams {
                    return Err(format!("{seals} seals for {datagrams} datagrams"));
                }
                let size = bytes as f64 / (seals + opens) as f64;
                let [sealing, opening] = seal::seal_and_open(size as usize, window / 10)?;
                let sealed = seals as f64 * sealing + opens as f64 * opening;
                let each = datagrams as f64;
                Ok(vec![sealed / each, cpu.as_nanos() as f64 / each, size, each / run.times.count() as f64])
            }),
            Contender::new("seal and open", || {
                let [sealing, opening] = seal::seal_and_open(flood::DATAGRAM_BYTES, window / 10)?;
                Ok(vec![sealing + opening])
            }),
        ],
    )?;
    let line = Line::new("sealing, for each datagram", "ns", table.metric(0, 0).median, &table)
        .goal(13)
        .against(
            "CPU time of both hubs, for each datagram",
            Some(table.metric(0, 1).median),
            Some(table.ratio((0, 0), (0, 1))),
        )
        .must(Bound::AtMost(0.1))
        .also("seals_per_datagram", 1.0)
        .also("datagrams_per_pair", table.metric(0, 3).median)
        .also("body_bytes", table.metric(0, 2).median)
        .also("seal_and_open_1400_bytes_ns", table.metric(1, 0).median);
    Ok(vec![line])
}

/// What one run of two hubs has shown.
struct Run {
    times: Times,
    work: Work,
}

/// What both hubs did in the window.
#[derive(Clone, Copy, Default)]
struct Work {
    cpu: Duration,
    seals: u64,
    opens: u64,
    bytes: u64,
    datagrams: u64,
}

impl Work {
    fn of(hub: &Hub) -> Work {
        let [seals, opens, bytes] = hub.tally.read();
        Work { cpu: thread_cpu(), seals, opens, bytes, datagrams: hub.sent()[0] }
    }

    fn since(self, before: Work) -> Work {
        Work {
            cpu: self.cpu - before.cpu,
            seals: self.seals - before.seals,
            opens: self.opens - before.opens,
            bytes: self.bytes - before.bytes,
            datagrams: self.datagrams - before.datagrams,
        }
    }

    fn and(self, other: Work) -> Work {
        Work {
            cpu: self.cpu + other.cpu,
            seals: self.seals + other.seals,
            opens: self.opens + other.opens,
            bytes: self.bytes + other.bytes,
            datagrams: self.datagrams + other.datagrams,
        }
    }
}

/// Acquires and releases names mastered by the other hub, `flows` of them at once.
fn run(cpus: Cpus, wait: Wait, flows: usize, window: Duration) -> Result<Run, Failure> {
    let [mut a, mut b] = hub::pair()?;
    let names = hub::remote_names(NAMES);
    let (counting, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let theirs = Mutex::new(Work::default());
    thread::scope(|scope| {
        let master = scope.spawn(|| {
            pin(cpus.1);
            let mut waiter = b.waiter(wait)?;
            let mut before = None;
            while !stop.load(Ordering::Relaxed) {
                waiter.wait(b.timeout())?;
                b.turn();
                if before.is_none() && counting.load(Ordering::Relaxed) {
                    before = Some(Work::of(&b));
                }
            }
            if let Some(before) = before {
                *theirs.lock().expect("no panic") = Work::of(&b).since(before);
            }
            b.check()
        });
        let client = scope.spawn(|| {
            pin(cpus.0);
            let result = acquire_for(&mut a, &names, flows, wait, window, &counting);
            stop.store(true, Ordering::Relaxed);
            result
        });
        let client = client.join().expect("no panic");
        master.join().expect("no panic")?;
        let Run { times, work } = client?;
        let work = work.and(*theirs.lock().expect("no panic"));
        Ok(Run { times, work })
    })
}

fn acquire_for(
    hub: &mut Hub,
    names: &[oarlock_layout::name::Name],
    flows: usize,
    wait: Wait,
    window: Duration,
    counting: &AtomicBool,
) -> Result<Run, Failure> {
    let mut waiter = hub.waiter(wait)?;
    let mut next = 0u32;
    let mut began = vec![Instant::now(); flows];
    let mut granted = Vec::new();
    // Warm until a tenth of the window has passed, then count.
    let warm_until = Instant::now() + window / 10;
    let mut counted: Option<(Instant, Work)> = None;
    let mut times = Times::default();
    // A lock's number tells its flow: numbers of one flow differ by the number of flows.
    while (next as usize) < flows {
        began[next as usize] = Instant::now();
        hub.lock(next, &names[next as usize]);
        next += 1;
    }
    let mut last_progress = Instant::now();
    let mut numbers: Vec<u32> = (0..flows as u32).collect();
    loop {
        hub.send();
        granted.append(&mut hub.granted);
        if granted.is_empty() {
            waiter.wait(hub.timeout())?;
            hub.turn();
            granted.append(&mut hub.granted);
        }
        hub.check()?;
        let now = Instant::now();
        if granted.is_empty() {
            if now - last_progress > Duration::from_secs(5) {
                return Err("nothing was granted for five seconds".into());
            }
            continue;
        }
        last_progress = now;
        if counted.is_none() && now >= warm_until {
            counting.store(true, Ordering::Relaxed);
            counted = Some((now, Work::of(hub)));
        }
        for handle in granted.drain(..) {
            let flow = numbers.iter().position(|n| *n == handle).ok_or("a grant nobody waits for")?;
            if counted.is_some() {
                times.push(now - began[flow]);
            }
            // The release goes with the next request, as when a program does one thing after the other.
            began[flow] = Instant::now();
            hub.unlock(handle);
            hub.lock(next, &names[next as usize % names.len()]);
            numbers[flow] = next;
            next += 1;
        }
        if let Some((since, before)) = counted
            && now - since >= window
        {
            let work = Work::of(hub).since(before);
            return Ok(Run { times, work });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_granted_again_and_again_with_one_seal_a_datagram() {
        let cpus = Cpus::find().unwrap();
        for (wait, flows) in [(Wait::Sleep, 1), (Wait::Spin, 1), (Wait::Sleep, 8)] {
            let run = run(cpus, wait, flows, Duration::from_millis(200)).unwrap();
            assert!(run.times.count() > 2, "{} acquires", run.times.count());
            assert_eq!(run.work.seals, run.work.datagrams);
            assert!(run.work.opens > 0 && run.work.cpu > Duration::ZERO);
        }
    }
}
