//! One node goes, in every way that a node can go, while a program of it holds a lock that somebody elsewhere waits for:
//! how long until that one has it (L10), what the others keep, and how the node comes back.

use std::fmt;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use oarlock::Mode;
use oarlock::blocking::Guard;
use oarlock_layout::directory::master;
use oarlock_layout::id::{NodeId, SpaceId};

use super::probe::{Holder, Waiter};
use crate::cluster::{Cluster, NODES};
use crate::proxy::Weather;

/// Nobody said a word: its lease must be over, and others must have recovered.
pub(super) const SILENT_MAX: Duration = Duration::from_secs(5);
/// It gave its run up.
pub(super) const STOPPED_MAX: Duration = Duration::from_secs(1);
/// Long enough for anything that is due.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a node goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// SIGKILL.
    Killed,
    /// SIGSTOP.
    Paused,
    /// The kernel's freezer; SIGSTOP where there is none.
    Frozen,
    /// Nothing passes between it and the others.
    CutOff,
    /// SIGTERM.
    Stopped,
    /// SIGKILL to its engine: the keeper gives the run up.
    EngineKilled,
}

/// In this order, again and again. Most are deaths: those are what a lease is for.
const WAYS: [Way; 9] = [
    Way::Killed,
    Way::EngineKilled,
    Way::Stopped,
    Way::Paused,
    Way::Stopped,
    Way::CutOff,
    Way::EngineKilled,
    Way::Stopped,
    Way::Frozen,
];

/// From the fault to the grant elsewhere.
#[derive(Clone, Debug, Default)]
pub(super) struct Times {
    pub(super) silent: Sample,
    pub(super) stopped: Sample,
    pub(super) engine: Sample,
}

/// Some measured times.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample(Vec<Duration>);

impl Sample {
    fn sorted(&self) -> Vec<u64> {
        let mut us: Vec<u64> = self.0.iter().map(|time| time.as_micros() as u64).collect();
        us.sort_unstable();
        us
    }

    /// The one in the middle, in microseconds; of two the later.
    pub(super) fn median(&self) -> u64 {
        let us = self.sorted();
        us.get(us.len() / 2).copied().unwrap_or(0)
    }

    /// The longest, in microseconds.
    pub(super) fn longest(&self) -> u64 {
        self.sorted().last().copied().unwrap_or(0)
    }

    /// Is there any, and none above?
    pub(super) fn is_within(&self, longest: Duration) -> bool {
        !self.0.is_empty() && self.0.iter().all(|time| *time <= longest)
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "median {} us, longest {} us of {:?}", self.median(), self.longest(), self.sorted())
    }
}

/// Plays `rounds` of them. The cluster serves before and after it.
pub(super) fn play(cluster: &mut Cluster, rounds: usize) -> Result<Times, String> {
    let mut times = Times::default();
    for round in 0..rounds {
        let way = WAYS[round % WAYS.len()];
        let took = one(cluster, round, way).map_err(|why| format!("round {round}, {way:?}: {why}"))?;
        let sample = match way {
            Way::Stopped => &mut times.stopped,
            Way::EngineKilled => &mut times.engine,
            Way::Killed | Way::Paused | Way::Frozen | Way::CutOff => &mut times.silent,
        };
        sample.0.push(took);
    }
    Ok(times)
}

fn one(cluster: &mut Cluster, round: usize, way: Way) -> Result<Duration, String> {
    let epoch = cluster.wait_until_serving(PATIENCE)?;
    let [goes, waits, keeps] = [0, 1, 2].map(|n| (round + n) % NODES);
    // Who decides about it goes, too, or stays.
    let decides = if (round / 2).is_multiple_of(2) { goes } else { keeps };
    let name = named(&format!("takeover/{round}"), decides);
    let kept = take(cluster, keeps, &named(&format!("kept/{round}"), goes))?;
    let mut holder = Holder::start(cluster, goes, &name)?;
    let request = Waiter::start(cluster, waits, &name)?;
    let incarnation = |cluster: &Cluster| {
        cluster.status(goes).map(|status| status["incarnation"].clone()).map_err(|e| e.to_string())
    };
    let before = incarnation(cluster)?;

    let began = Instant::now();
    match way {
        Way::Killed => cluster.kill(goes),
        Way::Stopped => cluster.ask_to_stop(goes),
        Way::EngineKilled if cluster.kill_engine(goes) => {}
        Way::EngineKilled => return Err("the node that goes has no engine".into()),
        Way::Frozen if cluster.freeze(goes) => {}
        Way::Paused | Way::Frozen => cluster.daemon(goes).pause(),
        Way::CutOff => weather(cluster, goes, Weather::CUT),
    }
    let (at, guard) = request.granted()?;
    // Whoever held it has been told by then: in shared memory, by its node, or by the end of its socket.
    let heard = holder.says()?;
    if heard != "lost\n" {
        return Err(format!("the program of the node that went said {heard:?}"));
    }
    if let Some(why) = kept.lost_now() {
        return Err(format!("the lock of another node was lost: {why}"));
    }
    for _ in 0..5 {
        let common = named(&format!("common/{round}"), waits);
        take(cluster, waits, &common)?.release().map_err(|e| e.to_string())?;
        take(cluster, keeps, &common)?.release().map_err(|e| e.to_string())?;
    }

    // It comes back alone, as another run, and has nothing of what it had.
    match way {
        Way::Killed | Way::EngineKilled => {}
        Way::Stopped => {
            let end = Instant::now() + PATIENCE;
            while !cluster.has_left(goes) {
                if Instant::now() > end {
                    return Err("a node that was asked to stop does not end".into());
                }
                sleep(Duration::from_millis(5));
            }
        }
        Way::Paused | Way::Frozen => cluster.resume(goes),
        Way::CutOff => weather(cluster, goes, Weather::default()),
    }
    if matches!(way, Way::Killed | Way::Stopped) {
        cluster.start(goes).map_err(|e| e.to_string())?;
    }
    let end = Instant::now() + PATIENCE;
    while incarnation(cluster).is_ok_and(|now| now == before) {
        if Instant::now() > end {
            return Err("the run that was put out goes on".into());
        }
        sleep(Duration::from_millis(5));
    }
    let healed = cluster.wait_until_serving(PATIENCE)?;
    if healed <= epoch {
        return Err(format!("epoch {healed} after {epoch}, though a run went and another came"));
    }
    let ok = Command::new(&cluster.oarlock)
        .arg("ok")
        .env("OARLOCK_SOCKET", cluster.places[goes].socket())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|e| e.to_string())?;
    if !ok.success() {
        return Err(format!("`oarlock ok` at the node that came back ends with {ok}"));
    }
    let back = Waiter::start(cluster, goes, &name)?;
    let fence = guard.fence();
    guard.release().map_err(|e| e.to_string())?;
    let (_, again) = back.granted()?;
    if again.fence() <= fence {
        return Err(format!("fence {} after {fence}", again.fence()));
    }
    if let Some(why) = kept.lost_now() {
        return Err(format!("the lock of another node was lost: {why}"));
    }
    Ok(at - began)
}

fn weather(cluster: &Cluster, node: usize, weather: Weather) {
    for other in (0..NODES).filter(|other| *other != node) {
        cluster.proxy.set(node, other, weather);
        cluster.proxy.set(other, node, weather);
    }
}

/// A resource with this in its name that a certain node decides about while all are in the view.
fn named(what: &str, node: usize) -> String {
    let members = || (0..NODES as u16).map(NodeId);
    let names = (0..).map(|n| format!("{what}/{n}"));
    let mut fits =
        names.filter(|name| master(SpaceId(0), name.as_bytes(), members()) == Some(NodeId(node as u16)));
    fits.next().expect("names without end")
}

fn take(cluster: &Cluster, node: usize, name: &str) -> Result<Guard, String> {
    let client = cluster.client(node, "chaos scene").map_err(|e| e.to_string())?;
    let space = client.space("default").map_err(|e| e.to_string())?;
    space.lock(name).mode(Mode::EX).timeout(PATIENCE).acquire().map_err(|e| e.to_string())
}
