//! Goals 6, 8, 9 and 11: what programs see that talk to real daemons.

use super::Setting;
use crate::anchor::rtt::{self, Wait};
use crate::cluster::{Cluster, FORGETFUL, NODES, RETAINING, cpu_of, keys};
use crate::machine::Cpus;
use crate::peer::{Peer, Peers};
use crate::report::{Bound, Line};
use crate::rounds::{Contender, Failure, alternate};
use crate::service::{Locker, Seat, handoffs, pairs};

/// Synchronous clients, half of them at each of two nodes.
pub(crate) const CLIENTS: usize = 8;
/// Keys of one client, taken in turn.
pub(crate) const KEYS: usize = 16;
/// The key all want.
const ONE_KEY: &str = "bench/everybody";

/// A program of ours: one session.
struct Program {
    space: oarlock::blocking::Space,
    guard: Option<oarlock::blocking::Guard>,
}

impl Locker for Program {
    fn acquire(&mut self, key: &str) -> Result<(), Failure> {
        self.guard = Some(self.space.lock(key).acquire().map_err(|e| e.to_string())?);
        Ok(())
    }

    fn release(&mut self) -> Result<(), Failure> {
        // Nobody waits for a release.
        self.guard = None;
        Ok(())
    }
}

/// A client at a node.
fn seat(cluster: &Cluster, space: &str, node: usize, cpu: usize, keys: Vec<String>) -> Result<Seat, Failure> {
    let space = cluster.space(node, space)?;
    Ok(Seat { locker: Box::new(Program { space, guard: None }), cpu: Some(cpu), node, keys })
}

/// Eight clients at the first two nodes, with keys of their own whose master `master` chooses by node.
fn eight(
    cluster: &Cluster,
    cpus: Cpus,
    space: (u16, &str),
    master: impl Fn(usize) -> usize,
) -> Result<Vec<Seat>, Failure> {
    (0..CLIENTS)
        .map(|client| {
            let node = client % 2;
            let keys = keys(space.0, master(node), client, KEYS);
            seat(cluster, space.1, node, cpu_of(cpus, node), keys)
        })
        .collect()
}

/// Goal 6: from the call in a program to its return, through its node and another one and back.
pub(crate) fn acquire(setting: &Setting) -> Result<Vec<Line>, Failure> {
    let (cpus, window) = (setting.cpus, setting.plan.window);
    let (sleeping, adaptive) = (Cluster::start(cpus, false)?, Cluster::start(cpus, true)?);
    let one = |cluster: &Cluster, cpu| -> Result<Vec<Seat>, Failure> {
        Ok(vec![seat(cluster, FORGETFUL, 0, cpu, keys(1, 1, 0, 1024))?])
    };
    let mut beside = one(&sleeping, cpus.0)?;
    let mut across = one(&sleeping, cpus.1)?;
    let mut adaptive_seats = one(&adaptive, cpus.0)?;
    let table = alternate(
        &setting.plan,
        &mut [
            Contender::new("a program on its node's CPU", || pairs(&mut beside, window)),
            Contender::new("a program on the other CPU", || pairs(&mut across, window)),
            Contender::new("a program of a node that spins", || pairs(&mut adaptive_seats, window)),
            Contender::new("UDP round trip", || rtt::udp(cpus, Wait::Sleep, window)),
            Contender::new("futex round trip", || rtt::futex(cpus, window)),
        ],
    )?;
    let anchor = |n: &[Vec<f64>]| n[3][0] + n[4][0];
    let line = |name, ours: usize| {
        Line::new(name, "us", table.metric(ours, 1).median, &table)
            .goal(6)
            .against(
                "UDP and futex round trips together",
                Some(table.each(anchor).median),
                Some(table.each(|n| n[ours][1] / anchor(n))),
            )
            .must(Bound::AtMost(1.25))
            .also("p99_us", table.metric(ours, 2).median)
            .also("times_udp", table.ratio((ours, 1), (3, 0)).median)
    };
    Ok(vec![
        line("remote acquire, application on its hub's CPU", 0),
        line("remote acquire, application on the other CPU", 1),
        line("remote acquire, application on its hub's CPU, hubs spin", 2).mode("adaptive"),
    ])
}

/// Goal 8: eight synchronous clients, every pair remote. Redis is the anchor, where it was asked for.
pub(crate) fn remote_pairs(setting: &Setting) -> Result<Vec<Line>, Failure> {
    let (cpus, window) = (setting.cpus, setting.plan.window);
    let (sleeping, adaptive) = (Cluster::start(cpus, false)?, Cluster::start(cpus, true)?);
    let other = |node| 1 - node;
    let mut asleep = eight(&sleeping, cpus, (1, FORGETFUL), other)?;
    let mut awake = eight(&adaptive, cpus, (1, FORGETFUL), other)?;
    let mut peers = Peers::start(setting, &[Peer::Redis, Peer::Postgres, Peer::Etcd])?;
    let mut work = 0.0;
    let mut contenders = vec![
        Contender::new("eight clients, hubs sleep", || {
            let before = (sleeping.counter("messages_sent")?, sleeping.cpu_seconds()?);
            let mut numbers = pairs(&mut asleep, window)?;
            let done = numbers[0] * window.as_secs_f64();
            let messages = (sleeping.counter("messages_sent")? - before.0) / done;
            if messages < 1.9 {
                return Err(format!("{messages:.2} messages a pair: not every pair was remote"));
            }
            work = (sleeping.cpu_seconds()? - before.1) * 1e6 / done;
            numbers.extend([messages, work]);
            Ok(numbers)
        }),
        Contender::new("eight clients, hubs spin", || pairs(&mut awake, window)),
    ];
    contenders.extend(peers.contenders(|seats| pairs(seats, window)));
    let table = alternate(&setting.plan, &mut contenders)?;
    drop(contenders);
    let line = |name, ours: usize| {
        let mut line = Line::new(name, "pairs/s", table.metric(ours, 0).median, &table)
            .goal(8)
            .against("Redis", None, None)
            .must(Bound::AtLeast(1.0))
            .stretch(Bound::AtLeast(2.0))
            .also("acquire_p50_us", table.metric(ours, 1).median)
            .also("acquire_p99_us", table.metric(ours, 2).median);
        for (at, peer) in peers.list().iter().enumerate() {
            let at = at + 2;
            if *peer == Peer::Redis {
                let anchor = table.metric(at, 0).median;
                line = line.against("Redis", Some(anchor), Some(table.ratio((ours, 0), (at, 0))));
            } else {
                line = line.also(peer.times(), table.ratio((ours, 0), (at, 0)).median);
            }
        }
        line
    };
    Ok(vec![
        line("remote pairs, 8 clients, retention off", 0)
            .also("messages_per_pair", table.metric(0, 3).median)
            .also("daemon_cpu_us_per_pair", table.metric(0, 4).median),
        line("remote pairs, 8 clients, retention off, hubs spin", 1).mode("adaptive"),
    ])
}

/// Goal 9: the same keys again and again, owned by the node: no message between nodes, and none to the node.
pub(crate) fn covered_pairs(setting: &Setting) -> Result<Vec<Line>, Failure> {
    let (cpus, window) = (setting.cpus, setting.plan.window);
    let cluster = Cluster::start(cpus, true)?;
    let mut seats = eight(&cluster, cpus, (0, RETAINING), |node| 1 - node)?;
    let mut peers = Peers::start(setting, &[Peer::Etcd, Peer::Redis])?;
    let mut contenders = vec![Contender::new("eight clients, covered", || {
        let before = cluster.counter("messages_sent")?;
        let mut numbers = pairs(&mut seats, window)?;
        let done = numbers[0] * window.as_secs_f64();
        numbers.push((cluster.counter("messages_sent")? - before) / done);
        Ok(numbers)
    })];
    contenders.extend(peers.contenders(|seats| pairs(seats, window)));
    let table = alternate(&setting.plan, &mut contenders)?;
    drop(contenders);
    let line = |name, against, must| {
        Line::new(name, "pairs/s", table.metric(0, 0).median, &table)
            .goal(9)
            .mode("uncontended")
            .against(against, None, None)
            .must(Bound::AtLeast(must))
            .also("acquire_p50_us", table.metric(0, 1).median)
            .also("messages_per_pair", table.metric(0, 3).median)
    };
    let mut lines = [
        line("covered pairs by name, 8 clients, against etcd", "etcd", 1000.0),
        line("covered pairs by name, 8 clients, against Redis", "Redis", 75.0),
    ];
    for (at, peer) in peers.list().iter().enumerate() {
        let at = at + 1;
        let line = &mut lines[usize::from(*peer == Peer::Redis)];
        (line.anchor, line.ratio) = (Some(table.metric(at, 0).median), Some(table.ratio((0, 0), (at, 0))));
    }
    Ok(lines.into())
}

/// Goal 11: one key that eight clients want, half of them at each of two nodes. If a third node decides, every
/// handoff crosses two wires; if one of the two does, one.
pub(crate) fn contended(setting: &Setting) -> Result<Vec<Line>, Failure> {
    let (cpus, window) = (setting.cpus, setting.plan.window);
    let (sleeping, adaptive) = (Cluster::start(cpus, false)?, Cluster::start(cpus, true)?);
    let mut asleep = eight(&sleeping, cpus, (0, RETAINING), |node| 1 - node)?;
    let mut awake = eight(&adaptive, cpus, (0, RETAINING), |node| 1 - node)?;
    let mut beside = eight(&sleeping, cpus, (0, RETAINING), |node| 1 - node)?;
    let mut peers = Peers::start(setting, &[Peer::Postgres, Peer::Redis])?;
    let far = keys(0, NODES - 1, 99, 1).remove(0);
    let near = keys(0, 0, 99, 1).remove(0);
    let mut contenders = vec![
        Contender::new("one key, master elsewhere, hubs sleep", || handoffs(&mut asleep, &far, window)),
        Contender::new("one key, master elsewhere, hubs spin", || handoffs(&mut awake, &far, window)),
        Contender::new("one key, master at one of them, hubs sleep", || handoffs(&mut beside, &near, window)),
    ];
    let own = contenders.len();
    contenders.extend(peers.contenders(|seats| handoffs(seats, ONE_KEY, window)));
    let table = alternate(&setting.plan, &mut contenders)?;
    drop(contenders);
    let line = |name, ours: usize| {
        let mut line = Line::new(name, "us", table.metric(ours, 0).median, &table)
            .goal(11)
            .against("PostgreSQL", None, None)
            .must(Bound::AtMost(1.5))
            .stretch(Bound::AtMost(1.0))
            .also("p99_us", table.metric(ours, 1).median)
            .also("between_nodes_per_second", table.metric(ours, 2).median)
            .also("pairs_per_second", table.metric(ours, 3).median);
        for (at, peer) in peers.list().iter().enumerate() {
            let at = at + own;
            if *peer == Peer::Postgres {
                let anchor = table.metric(at, 0).median;
                line = line.against("PostgreSQL", Some(anchor), Some(table.ratio((ours, 0), (at, 0))));
            } else {
                line = line.also(peer.times(), table.ratio((ours, 0), (at, 0)).median);
            }
        }
        line
    };
    let tail = |name, ours: usize| {
        Line::new(name, "us", table.metric(ours, 1).median, &table)
            .goal(11)
            .against("own p50", Some(table.metric(ours, 0).median), Some(table.ratio((ours, 1), (ours, 0))))
            .must(Bound::AtMost(3.0))
    };
    Ok(vec![
        line("remote handoff p50, one key, master at a third node", 0),
        tail("remote handoff p99, master at a third node", 0),
        line("remote handoff p50, one key, master at one of the two", 2),
        tail("remote handoff p99, master at one of the two", 2),
        line("remote handoff p50, master at a third node, hubs spin", 1).mode("adaptive"),
        tail("remote handoff p99, master at a third node, hubs spin", 1).mode("adaptive"),
    ])
}
