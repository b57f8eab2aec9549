//! Bad times: what happens to links, daemons and clients, and when.

use std::collections::BTreeMap;
use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use oarlock_sim::Random;

use super::crew::Crew;
use crate::cluster::{Cluster, NODES};
use crate::proxy::Weather;

/// How often everything of a kind happens, as the bounds of the time between two of them in milliseconds.
const WEATHER: (u64, u64) = (300, 1_500);
const CUT: (u64, u64) = (2_000, 6_000);
const KILL: (u64, u64) = (250, 1_100);
const PAUSE_CLIENT: (u64, u64) = (1_500, 4_000);
const PAUSE_DAEMON: (u64, u64) = (3_000, 8_000);

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    pub(super) weathers: u64,
    pub(super) cuts_one_way: u64,
    pub(super) cuts_both_ways: u64,
    pub(super) client_pauses: u64,
    pub(super) daemon_pauses: u64,
    pub(super) daemon_pauses_past_silence: u64,
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
    paused: [bool; NODES],
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
            paused: Default::default(),
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
                Due::Mend(..) | Due::ResumeClient(_) | Due::ResumeDaemon(_) => self.happen(due)?,
                _ => {}
            }
        }
        self.cluster.proxy.set_all(Weather::default());
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
            Due::Mend(..) | Due::ResumeClient(_) | Due::ResumeDaemon(_) => return,
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
            Due::PauseDaemon => self.pause_daemon(),
            Due::ResumeDaemon(node) => {
                self.paused[node] = false;
                self.cluster.daemon(node).resume();
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

    /// Every other pause is shorter than the second after which a peer counts as silent, every other longer.
    fn pause_daemon(&mut self) {
        let node = self.random.below(NODES as u64) as usize;
        if std::mem::replace(&mut self.paused[node], true) {
            return;
        }
        let long = self.faults.daemon_pauses % 2 == 1;
        let time = if long { self.random.between(1_300, 3_000) } else { self.random.between(20, 800) };
        self.faults.daemon_pauses += 1;
        self.faults.daemon_pauses_past_silence += u64::from(long);
        self.cluster.daemon(node).pause();
        self.plan(time, Due::ResumeDaemon(node));
    }
}
