//! Bad times: what happens to links, daemons and clients, and when.

use std::collections::BTreeMap;
use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use oarlock_sim::Random;

use super::crew::Crew;
use super::{Counters, add};
use crate::clock;
use crate::cluster::{Cluster, NODES};
use crate::proxy::Weather;
use crate::story::Stall;

/// How often everything of a kind happens, as the bounds of the time between two of them in milliseconds.
const WEATHER: (u64, u64) = (300, 1_500);
const CUT: (u64, u64) = (2_000, 6_000);
const KILL: (u64, u64) = (250, 1_100);
const PAUSE_CLIENT: (u64, u64) = (1_500, 4_000);
const PAUSE_DAEMON: (u64, u64) = (3_000, 8_000);
const NODE: (u64, u64) = (1_200, 4_000);
/// How often it is looked whether a node that was asked to stop has ended.
const LOOK_MS: u64 = 20;
/// How long that may take: programs have some seconds to hang up.
const STOP_MAX: Duration = Duration::from_secs(8);
/// Of a thousand faults of nodes, so many strike while another node is away: without a majority all leases run out.
const TOGETHER_PERMILLE: u64 = 120;
/// From a death to where others recover from it: lease and drift after its last renewal.
const RECOVERY_MS: (u64, u64) = (2_500, 4_000);

/// What was done.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub(super) weathers: u64,
    pub(super) cuts_one_way: u64,
    pub(super) cuts_both_ways: u64,
    pub(super) client_pauses: u64,
    pub(super) daemon_pauses: u64,
    pub(super) daemon_pauses_past_silence: u64,
    pub(super) daemon_pauses_past_lease: u64,
    pub(super) daemon_freezes: u64,
    pub(super) daemon_kills: u64,
    pub(super) daemon_kills_after_start: u64,
    pub(super) engine_kills: u64,
    pub(super) daemon_stops: u64,
    pub(super) daemon_isolations: u64,
    /// Stops that did not come to an end.
    pub(super) stuck: u64,
    /// When which daemon stood still.
    pub(super) stalls: Vec<Stall>,
    /// What daemons that were ended had counted.
    pub(super) counted: Counters,
}

impl Faults {
    /// Those of another storm too.
    pub(super) fn add(&mut self, other: Faults) {
        self.weathers += other.weathers;
        self.cuts_one_way += other.cuts_one_way;
        self.cuts_both_ways += other.cuts_both_ways;
        self.client_pauses += other.client_pauses;
        self.daemon_pauses += other.daemon_pauses;
        self.daemon_pauses_past_silence += other.daemon_pauses_past_silence;
        self.daemon_pauses_past_lease += other.daemon_pauses_past_lease;
        self.daemon_freezes += other.daemon_freezes;
        self.daemon_kills += other.daemon_kills;
        self.daemon_kills_after_start += other.daemon_kills_after_start;
        self.engine_kills += other.engine_kills;
        self.daemon_stops += other.daemon_stops;
        self.daemon_isolations += other.daemon_isolations;
        self.stuck += other.stuck;
        self.stalls.extend(other.stalls);
        add(&mut self.counted, other.counted);
    }
}

/// Something that shall happen.
#[derive(Clone, Copy, Debug)]
enum Due {
    Weather,
    Cut,
    Mend(usize, usize),
    Kill,
    PauseClient,
    ResumeClient(u32),
    PauseDaemon,
    ResumeDaemon(usize),
    /// Something happens to a whole node.
    Node,
    KillDaemon(usize),
    LookAtDaemon(usize, Instant),
    StartDaemon(usize),
    /// It is reached by the others again.
    Rejoin(usize),
}

/// What a node is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    Runs,
    /// Since when.
    StandsStill(u64),
    CutOff,
    Stops,
    Away,
}

/// The one who makes it.
pub(super) struct Storm<'a> {
    cluster: &'a mut Cluster,
    crew: &'a mut Crew,
    random: Random,
    agenda: BTreeMap<(Instant, u64), Due>,
    entries: u64,
    /// What the weather would be without cuts.
    weather: [[Weather; NODES]; NODES],
    /// Which links are cut, and how often.
    cuts: [[u32; NODES]; NODES],
    lives: [Life; NODES],
    faults: Faults,
}

impl<'a> Storm<'a> {
    /// A storm that has not begun.
    pub(super) fn new(cluster: &'a mut Cluster, crew: &'a mut Crew, random: Random) -> Storm<'a> {
        Storm {
            cluster,
            crew,
            random,
            agenda: BTreeMap::new(),
            entries: 0,
            weather: Default::default(),
            cuts: Default::default(),
            lives: [Life::Runs; NODES],
            faults: Faults::default(),
        }
    }

    /// Rages for some time, then mends everything.
    pub(super) fn rage(mut self, time: Duration) -> io::Result<Faults> {
        let end = Instant::now() + time;
        for due in [
            Due::Weather,
            Due::Weather,
            Due::Weather,
            Due::Cut,
            Due::Kill,
            Due::PauseClient,
            Due::PauseDaemon,
            Due::Node,
        ] {
            self.again(due);
        }
        while let Some((&(at, entry), &due)) = self.agenda.first_key_value() {
            if at >= end {
                break;
            }
            self.agenda.remove(&(at, entry));
            sleep(at.saturating_duration_since(Instant::now()));
            self.happen(due)?;
            let fallen = self.cluster.fallen();
            if !fallen.is_empty() {
                return Err(io::Error::other(format!(
                    "node {} died: {}",
                    fallen.join(", "),
                    self.cluster.logs()
                )));
            }
        }
        sleep(end.saturating_duration_since(Instant::now()));
        for due in std::mem::take(&mut self.agenda).into_values() {
            match due {
                Due::Mend(..) | Due::ResumeClient(_) | Due::ResumeDaemon(_) | Due::Rejoin(_) => {
                    self.happen(due)?;
                }
                _ => {}
            }
        }
        self.cluster.proxy.set_all(Weather::default());
        for node in 0..NODES {
            let end = Instant::now() + STOP_MAX;
            while self.lives[node] == Life::Stops {
                self.look_at_daemon(node, end)?;
                sleep(Duration::from_millis(LOOK_MS));
            }
            if self.lives[node] == Life::Away {
                self.cluster.start(node)?;
            }
        }
        Ok(self.faults)
    }

    /// Enters something into the agenda.
    fn plan(&mut self, after_ms: u64, due: Due) {
        self.entries += 1;
        self.agenda.insert((Instant::now() + Duration::from_millis(after_ms), self.entries), due);
    }

    /// Enters the next thing of a kind that goes on for ever.
    fn again(&mut self, due: Due) {
        let (low, high) = match due {
            Due::Weather => WEATHER,
            Due::Cut => CUT,
            Due::Kill => KILL,
            Due::PauseClient => PAUSE_CLIENT,
            Due::PauseDaemon => PAUSE_DAEMON,
            Due::Node => NODE,
            _ => return,
        };
        let after = self.random.between(low, high);
        self.plan(after, due);
    }

    fn happen(&mut self, due: Due) -> io::Result<()> {
        match due {
            Due::Weather => {
                let (from, to) = self.link();
                self.weather[from][to] = Weather::draw(&mut self.random);
                self.faults.weathers += 1;
                self.show(from, to);
            }
            Due::Cut => self.cut(),
            Due::Mend(from, to) => {
                self.cuts[from][to] -= 1;
                self.show(from, to);
            }
            Due::Kill => self.crew.kill_one()?,
            Due::PauseClient => {
                let number = self.crew.pause_one();
                self.faults.client_pauses += 1;
                let time = self.random.spread(30, 3_000);
                self.plan(time, Due::ResumeClient(number));
            }
            Due::ResumeClient(number) => self.crew.resume(number),
            Due::PauseDaemon => {
                if let Some(node) = self.victim() {
                    let long = self.faults.daemon_pauses % 2 == 1;
                    let time =
                        if long { self.random.between(1_300, 2_500) } else { self.random.between(20, 800) };
                    self.faults.daemon_pauses_past_silence += u64::from(long);
                    self.pause_daemon(node, time, false);
                }
            }
            Due::ResumeDaemon(node) => {
                self.cluster.resume(node);
                if let Life::StandsStill(from) = self.lives[node] {
                    self.faults.stalls.push(Stall { node: node as u16, from, to: clock::now() });
                }
                self.lives[node] = Life::Runs;
            }
            Due::Node => self.strike()?,
            Due::KillDaemon(node) => self.kill_daemon(node)?,
            Due::LookAtDaemon(node, end) => self.look_at_daemon(node, end)?,
            Due::StartDaemon(node) => self.start_daemon(node)?,
            Due::Rejoin(node) => {
                self.isolate(node, false);
                self.lives[node] = Life::Runs;
            }
        }
        self.again(due);
        Ok(())
    }

    /// One direction of a link between two different nodes.
    fn link(&mut self) -> (usize, usize) {
        let from = self.random.below(NODES as u64) as usize;
        (from, (from + 1 + self.random.below(NODES as u64 - 1) as usize) % NODES)
    }

    fn cut(&mut self) {
        let (from, to) = self.link();
        let both = self.random.chance(500);
        let time = self.random.spread(100, 3_500);
        let ways = if both { vec![(from, to), (to, from)] } else { vec![(from, to)] };
        match both {
            true => self.faults.cuts_both_ways += 1,
            false => self.faults.cuts_one_way += 1,
        }
        for (from, to) in ways {
            self.cuts[from][to] += 1;
            self.show(from, to);
            self.plan(time, Due::Mend(from, to));
        }
    }

    fn show(&self, from: usize, to: usize) {
        let weather = if self.cuts[from][to] > 0 { Weather::CUT } else { self.weather[from][to] };
        self.cluster.proxy.set(from, to, weather);
    }

    /// A node that runs; as a rule only while all others do.
    fn victim(&mut self) -> Option<usize> {
        let node = self.random.below(NODES as u64) as usize;
        let together = self.random.chance(TOGETHER_PERMILLE);
        let others_run = (0..NODES).all(|other| other == node || self.lives[other] == Life::Runs);
        (self.lives[node] == Life::Runs && (others_run || together)).then_some(node)
    }

    fn strike(&mut self) -> io::Result<()> {
        let Some(node) = self.victim() else { return Ok(()) };
        match self.random.below(100) {
            0..22 => self.kill_daemon(node)?,
            22..35 => {
                self.count(node);
                // It is back by itself, and may be struck again before that.
                self.faults.engine_kills += u64::from(self.cluster.kill_engine(node));
            }
            35..55 => {
                self.count(node);
                self.faults.daemon_stops += 1;
                self.lives[node] = Life::Stops;
                self.cluster.ask_to_stop(node);
                self.plan(LOOK_MS, Due::LookAtDaemon(node, Instant::now() + STOP_MAX));
            }
            percent @ 55..80 => {
                self.faults.daemon_pauses_past_lease += 1;
                let time = self.random.between(3_300, 6_000);
                self.pause_daemon(node, time, percent < 68);
            }
            _ => {
                self.faults.daemon_isolations += 1;
                self.lives[node] = Life::CutOff;
                self.isolate(node, true);
                let time = self.random.between(1_000, 6_000);
                self.plan(time, Due::Rejoin(node));
            }
        }
        Ok(())
    }

    fn pause_daemon(&mut self, node: usize, time_ms: u64, frozen: bool) {
        self.faults.daemon_pauses += 1;
        self.lives[node] = Life::StandsStill(clock::now());
        if frozen && self.cluster.freeze(node) {
            self.faults.daemon_freezes += 1;
        } else {
            self.cluster.daemon(node).pause();
        }
        self.plan(time_ms, Due::ResumeDaemon(node));
    }

    fn kill_daemon(&mut self, node: usize) -> io::Result<()> {
        if self.lives[node] != Life::Runs {
            return Ok(());
        }
        self.count(node);
        self.faults.daemon_kills += 1;
        self.lives[node] = Life::Away;
        self.cluster.kill(node);
        self.stay_away(node);
        if self.random.chance(200) {
            // Another one, while they recover from this.
            let other = (node + 1 + self.random.below(NODES as u64 - 1) as usize) % NODES;
            let after = self.random.between(RECOVERY_MS.0, RECOVERY_MS.1);
            self.plan(after, Due::KillDaemon(other));
        }
        Ok(())
    }

    /// Back before anybody has noticed, or long after.
    fn stay_away(&mut self, node: usize) {
        let soon = self.random.chance(500);
        let after = if soon { self.random.between(20, 1_000) } else { self.random.between(1_000, 7_000) };
        self.plan(after, Due::StartDaemon(node));
    }

    fn start_daemon(&mut self, node: usize) -> io::Result<()> {
        self.cluster.start(node)?;
        self.lives[node] = Life::Runs;
        if self.random.chance(200) {
            self.faults.daemon_kills_after_start += 1;
            let after = self.random.between(5, 1_500);
            self.plan(after, Due::KillDaemon(node));
        }
        Ok(())
    }

    fn look_at_daemon(&mut self, node: usize, end: Instant) -> io::Result<()> {
        if self.cluster.has_left(node) {
            self.lives[node] = Life::Away;
            self.stay_away(node);
        } else if Instant::now() < end {
            self.plan(LOOK_MS, Due::LookAtDaemon(node, end));
        } else {
            self.faults.stuck += 1;
            self.lives[node] = Life::Runs;
            self.kill_daemon(node)?;
        }
        Ok(())
    }

    fn isolate(&mut self, node: usize, cut: bool) {
        for other in (0..NODES).filter(|other| *other != node) {
            for (from, to) in [(node, other), (other, node)] {
                if cut {
                    self.cuts[from][to] += 1;
                } else {
                    self.cuts[from][to] -= 1;
                }
                self.show(from, to);
            }
        }
    }

    /// Keeps what a daemon has counted that is about to end. One that cannot be asked any more has counted in vain.
    fn count(&mut self, node: usize) {
        if let Ok(counters) = self.cluster.counters(node) {
            add(&mut self.faults.counted, counters);
        }
    }
}
