//! Real daemons, each in a network namespace of its own, under locks that programs take all the while: networks that are
//! cut in part, one way, or lose a fifth of everything; nodes that stand still, die, and begin again all at once. What the
//! programs believed is judged by a checker that knows only what is promised.
//!
//! Needs root, `ip`, `nft` and `etcd`; says so and does nothing where they are not to be had.

mod net;
mod support;

use std::time::{Duration, Instant};

use net::cluster::{Cluster, Coordinator};
use net::load::{Load, judge};
use net::{ETCDS, Net, Weather};

/// Silent for a second, the rest of a lease, the fences, and as much again for a machine that is busy with other things.
const VERDICT_MAX: Duration = Duration::from_secs(20);
/// How long a lease can be away without being missed, and more.
const PAUSE: Duration = Duration::from_secs(4);

/// A cluster under load, and what happened to it.
struct Play<'a> {
    cluster: Cluster<'a>,
    weather: Weather<'a>,
    load: Load,
}

impl<'a> Play<'a> {
    fn begin(net: &'a Net, coordinator: Coordinator) -> Play<'a> {
        let mut cluster = Cluster::new(net, coordinator);
        (0..net.nodes).for_each(|node| cluster.start(node));
        cluster.until_all_well();
        let load = Load::start(&cluster.sockets());
        Play { cluster, weather: Weather::new(net), load }
    }

    /// Something is done; then these are the view, at each of them, within the times.
    fn stays(&mut self, what: &str, members: &[usize]) {
        let begin = Instant::now();
        for node in members {
            self.cluster.until_view(*node, members, VERDICT_MAX, what);
        }
        println!("{what}: {members:?} stay, after {:.1?}", begin.elapsed());
        self.load.until_granted(members, what);
    }

    /// The first of two sets stays. The other one may only where the machine was so busy that all leases were over: then
    /// whoever comes first is in. Node 2 is in both.
    fn one_stays(&mut self, what: &str, first: &[usize], other: &[usize]) {
        let end = Instant::now() + VERDICT_MAX;
        let came = loop {
            match self.cluster.view(2) {
                Some(view) if view == first => break first,
                Some(view) if view == other => break other,
                _ => assert!(Instant::now() < end, "{what}: neither {first:?} nor {other:?}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let gone = first.iter().find(|node| !other.contains(node)).expect("the sets differ");
        // One that is cut off from whoever leads the coordinator cannot renew, and goes by its lease.
        let by_lease = self.cluster.has_lost_leases(2) || self.cluster.could_not_renew(*gone);
        assert!(came == first || by_lease, "{what}: {other:?} stay, not {first:?}\n{}", self.cluster.logs());
        self.stays(what, came);
    }

    /// Everything is undone; then all are in.
    fn heals(&mut self) {
        let begin = Instant::now();
        self.weather.calm();
        self.cluster.until_all_well();
        let all: Vec<usize> = (0..self.cluster.count()).collect();
        self.load.until_granted(&all, "healed");
        println!("  all well again after {:.1?}", begin.elapsed());
    }

    /// FT7, L7: two do not hear each other, and all others hear both. The largest set that hears each other stays; of two
    /// as large that with the lower ids.
    fn partial(&mut self) {
        let all = self.cluster.count();
        self.weather.cut(0, 1);
        let [first, other] = [1, 0].map(|goes| (0..all).filter(|n| *n != goes).collect::<Vec<_>>());
        self.one_stays("0 and 1 cut off from each other", &first, &other);
        self.heals();
    }

    /// FT6: the last hears nobody, and everybody hears it.
    fn one_way(&mut self) {
        let last = self.cluster.count() - 1;
        (0..last).for_each(|node| self.weather.deafen(last, node));
        self.stays("the last hears nobody", &(0..last).collect::<Vec<_>>());
        self.heals();
    }

    /// FT5: the last is cut off from all others, and from etcd.
    fn minority(&mut self, lost: usize) {
        let all = self.cluster.count();
        for a in all - lost..all {
            (0..all - lost).for_each(|b| self.weather.cut(a, b));
            self.weather.cut_off_from_etcd(a);
        }
        self.stays("the last ones cut off", &(0..all - lost).collect::<Vec<_>>());
        self.heals();
    }

    /// FT4, L1: one stands still for longer than its lease, by a signal or by the freezer.
    fn pause(&mut self, frozen: bool) {
        let others: Vec<usize> = (0..self.cluster.count()).filter(|n| *n != 1).collect();
        self.load.keep_at(1);
        let begin = Instant::now();
        if !self.cluster.pause(1, frozen) {
            self.load.keep_nowhere();
            println!("skipped: this machine lets nobody freeze processes");
            return;
        }
        self.stays(if frozen { "1 frozen" } else { "1 stopped" }, &others);
        std::thread::sleep(PAUSE.saturating_sub(begin.elapsed()));
        self.cluster.resume(1);
        self.load.keep_nowhere();
        self.heals();
    }

    /// FT1, FT9: one is killed while a part of all datagrams is lost.
    fn kill_in_loss(&mut self, percent: u8) {
        let last = self.cluster.count() - 1;
        (0..=last).for_each(|node| self.weather.lose(node, percent));
        self.load.keep_at(last);
        self.cluster.kill(last);
        self.load.keep_nowhere();
        self.stays("the last killed, datagrams lost", &(0..last).collect::<Vec<_>>());
        self.cluster.start(last);
        self.cluster.until_all_well();
        self.heals();
    }

    /// FT15: all are killed within a moment and started again.
    fn restart_all(&mut self) {
        (0..self.cluster.count()).for_each(|node| self.cluster.kill(node));
        (0..self.cluster.count()).for_each(|node| self.cluster.start(node));
        println!("all killed and started again");
        self.heals();
    }

    /// FT8, L2: whichever member of etcd leads is cut off from the other members, or from everybody. All nodes reach a quorum, and
    /// nobody is put out. False if the machine was so busy that leases were over all the same.
    fn etcd_leader_is_cut_off(&mut self, from_nodes: bool) -> bool {
        let all: Vec<usize> = (0..self.cluster.count()).collect();
        let views = |play: &Play<'_>| all.iter().map(|n| play.cluster.epoch(*n)).collect::<Vec<_>>();
        let (before, leader) = (views(self), self.cluster.etcd_leader());
        let place = self.weather.net.etcd(leader);
        match from_nodes {
            true => self.weather.part(&[place]),
            false => (0..ETCDS).filter(|n| *n != leader).for_each(|n| {
                let other = self.weather.net.etcd(n);
                self.weather.cut(place, other);
            }),
        }
        // Longer than a lease that nobody renews lasts, and the verdict after that.
        let end = Instant::now() + PAUSE + PAUSE;
        while Instant::now() < end {
            self.load.until_granted(&all, "the leader of etcd is cut off");
        }
        assert_ne!(self.cluster.etcd_leader(), leader, "nobody else leads");
        let after = views(self);
        println!("the leader of etcd, {leader}, cut off: views {before:?}, then {after:?}");
        let quiet = before == after;
        let by_lease = all.iter().any(|n| self.cluster.could_not_renew(*n));
        assert!(quiet || by_lease, "somebody was put out who could renew{}", self.cluster.logs());
        self.heals();
        quiet
    }

    /// L2: node 0 and the leader of etcd hear each other, and nobody else does. What it renews there counts nowhere, and the others
    /// go on.
    fn alone_with_etcd_leader(&mut self) {
        let all = self.cluster.count();
        let place = self.weather.net.etcd(self.cluster.etcd_leader());
        self.weather.part(&[0, place]);
        self.stays("0 alone with the leader of etcd", &(1..all).collect::<Vec<_>>());
        self.heals();
    }

    fn end(self) {
        let history = self.load.stop();
        let findings = judge(&history);
        let exclusive = history.iter().filter(|held| held.is_exclusive()).count();
        println!("{} grants, {exclusive} of them exclusive, {} findings", history.len(), findings.len());
        if !findings.is_empty() {
            eprintln!("{}", self.cluster.logs());
        }
        assert!(findings.is_empty(), "{findings:#?}");
        assert!(exclusive > 100, "hardly anything was granted");
    }
}

/// L1, L7: each kind of trouble once, on three nodes that decide by themselves.
#[test]
fn what_is_promised_holds_in_namespaces_that_are_cut() {
    let Some(net) = Net::or_say_why(3) else { return };
    let mut play = Play::begin(&net, Coordinator::Raft);
    play.partial();
    play.one_way();
    play.pause(false);
    play.kill_in_loss(10);
    play.restart_all();
    play.end();
}

/// L2, I20: the same of three nodes beside three members of etcd, of which the one that leads is cut off.
#[test]
fn what_is_promised_holds_while_the_leader_of_etcd_is_cut_off() {
    let Some(net) = Net::or_say_why(3) else { return };
    let mut play = Play::begin(&net, Coordinator::Etcd);
    for from_nodes in [false, true] {
        let quiet = (0..3).any(|_| play.etcd_leader_is_cut_off(from_nodes));
        assert!(quiet, "nodes lost their leases each time, though a quorum was there{}", play.cluster.logs());
    }
    play.alone_with_etcd_leader();
    play.end();
}

/// More of it, with both coordinators, on five nodes.
#[test]
#[ignore = "takes minutes: `cargo xtask night` runs it"]
fn a_night_in_namespaces() {
    for coordinator in [Coordinator::Etcd, Coordinator::Raft] {
        println!("five nodes, {coordinator:?}");
        let Some(net) = Net::or_say_why(5) else { return };
        let mut play = Play::begin(&net, coordinator);
        for round in 0..3 {
            play.partial();
            play.one_way();
            play.minority(1 + round % 2);
            // The one in the middle hears all: with the lower ids it stays.
            for (a, b) in [(0, 3), (0, 4), (1, 3), (1, 4)] {
                play.weather.cut(a, b);
            }
            play.one_stays("a bridge", &[0, 1, 2], &[2, 3, 4]);
            play.heals();
            play.pause(false);
            play.pause(true);
            play.kill_in_loss(20);
            (0..4).for_each(|_| play.restart_all());
            if coordinator == Coordinator::Etcd {
                play.etcd_leader_is_cut_off(round % 2 == 0);
                play.alone_with_etcd_leader();
            }
        }
        play.end();
    }
}
