//! The run: three daemons, twelve clients, a storm, restarts of everything, another storm, a calm, the end; then one
//! node after the other goes and comes back, timed; then the judgement.
//!
//! ```text
//!   storm ─► kill -9 all, start, again and again ─► storm ─► calm: kills, timed ─► polite ─► drain ─► takeovers, timed
//!   ──────────────────────────────── the load, --seconds ────────────────────────────────────                └─► judge
//! ```

mod crew;
mod probe;
mod report;
mod storm;
mod takeover;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use oarlock_sim::Random;
use oarlock_sim::check::judge;
use oarlock_sim::history::{Mark, Rules};

pub use probe::hold;
pub use report::{Check, Report};

use crate::client::Phase;
use crate::clock;
use crate::cluster::files::{STRICT, STRICT_SPACE};
use crate::cluster::{Chronicle, Cluster, Footprint, NAMES, NODES};
use crate::story::{Facts, Story, Sum};
use crew::{Crew, PLACES};
use storm::{Faults, Storm};

/// Grants by a node for another that a full run must reach.
const REMOTE_GRANTS_MIN: u64 = 10_000;
/// Kills of clients that a full run must reach.
const KILLS_MIN: u64 = 50;
/// The length of load for which these are asked; shorter runs owe as much less.
const FULL_SECONDS: u64 = 120;
/// How fast the locks of a dead program must be free.
const FREED_MAX: Duration = Duration::from_secs(1);
/// How often that is tried.
const PROBES: usize = 10;
/// How long clients sit on what they have until somebody wants it. Notices travel in milliseconds.
const POLITE: Duration = Duration::from_secs(5);
/// How long they may take to give everything back.
const DRAIN_MAX: Duration = Duration::from_secs(20);
/// How long a cluster may take to serve; after an unclean stop the leases of all must run out first.
const SERVE_MAX: Duration = Duration::from_secs(30);
/// How long after the end of all faults until every node serves, as promised: detection, fences and five seconds (I23).
const HEAL_MAX: Duration = Duration::from_secs(9);
/// So many seconds of load are worth one more restart of all.
const RESTART_SECONDS: u64 = 40;
/// How often all are killed and started again, at most.
const RESTARTS_MAX: u64 = 20;
/// Takeovers that are timed in a full run; each takes some seconds. Longer runs have more of them.
const TAKEOVERS: u64 = 9;
/// By how much the memory of a daemon may have grown in the end, in KiB: a leak of a kilobyte per grant would
/// be more in a full run.
const MEMORY_GROWTH_KIB_MAX: u64 = 12 * 1024;
/// How long daemons may take to notice that the last programs have hung up.
const REST_MAX: Duration = Duration::from_secs(3);
/// By how many its descriptors may have.
const DESCRIPTORS_GROWTH_MAX: usize = 2;

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The daemon's binary.
    pub oarlock: PathBuf,
    /// How long the load lasts.
    pub seconds: u64,
    /// What happens when follows from it.
    pub seed: u64,
    /// Leave everything in its directory.
    pub keep: bool,
}

/// Counters of all daemons together.
type Counters = BTreeMap<String, u64>;

fn add(sum: &mut Counters, other: Counters) {
    for (name, value) in other {
        *sum.entry(name).or_default() += value;
    }
}

/// Runs it all. An error is one of the harness or of the machine, or a daemon that died.
pub fn run(options: &Options) -> Result<Report, String> {
    let mut random = Random::new(options.seed);
    let io = |e: std::io::Error| e.to_string();
    let mut cluster = Cluster::new(&options.oarlock, random.below(u64::MAX)).map_err(io)?;
    if options.keep {
        cluster.keep();
        eprintln!("everything is in {}", cluster.dir().display());
    }
    let outcome = load(options, &mut cluster, &mut random);
    if outcome.as_ref().map_or(true, |report| !report.is_clean()) && !options.keep {
        cluster.keep();
        eprintln!("everything is left in {}", cluster.dir().display());
    }
    outcome
}

fn load(options: &Options, cluster: &mut Cluster, random: &mut Random) -> Result<Report, String> {
    let io = |e: std::io::Error| e.to_string();
    let mut report = Report { seed: options.seed, seconds: options.seconds, ..Report::default() };
    let mut facts = Facts { marks: vec![(clock::now(), Mark::Storm)], ..Facts::default() };

    cluster.start_all().map_err(io)?;
    let first_epoch = cluster.wait_until_serving(SERVE_MAX)?;
    let idle = footprints(cluster);
    let mut crew = Crew::start(cluster, random.fork()).map_err(io)?;
    let start = (first_epoch, idle);
    if let Err(why) = course(options, cluster, random, &mut crew, &mut facts, &start, &mut report) {
        // What the clients saw until then often says why.
        report.check("the run comes to its end", false, why);
        crew.abandon();
        facts.chronicle = Chronicle::read(&cluster.places);
        judged(cluster, &mut crew, &mut facts, &mut report)?;
    }
    Ok(report)
}

/// Reads what all clients saw, and judges it.
fn judged(
    cluster: &Cluster,
    crew: &mut Crew,
    facts: &mut Facts,
    report: &mut Report,
) -> Result<Story, String> {
    progress("judging");
    facts.deaths = std::mem::take(&mut crew.deaths);
    facts.socket_only = std::mem::take(&mut crew.socket_only);
    let story = Story::read(&crew.diaries, facts)?;
    // Goes with the directory if all is well.
    let lines = story.events.iter().map(|e| oarlock_sim::history::write_line(e) + "\n");
    std::fs::write(cluster.dir().join("history.jsonl"), lines.collect::<String>())
        .map_err(|e| e.to_string())?;
    let findings = judge(&Rules::real(NODES as u16, STRICT.to_vec()), &story.events);
    let findings: Vec<String> = findings.iter().map(ToString::to_string).collect();
    let judged = format!("{} events", story.events.len());
    report.check(
        "exclusion, values, tokens, order, answers, liveness",
        findings.is_empty(),
        said(&findings, &judged),
    );
    Ok(story)
}

/// All that happens once clients are at work. `start`: the first epoch, and what idle daemons take.
fn course(
    options: &Options,
    cluster: &mut Cluster,
    random: &mut Random,
    crew: &mut Crew,
    facts: &mut Facts,
    (first_epoch, idle): &(u64, Vec<Footprint>),
    report: &mut Report,
) -> Result<(), String> {
    let io = |e: std::io::Error| e.to_string();
    let part = |percent: u64| Duration::from_millis(options.seconds * percent * 10);
    progress("storm");
    let mut faults = Storm::new(cluster, crew, random.fork()).rage(part(40)).map_err(io)?;
    facts.stalls.append(&mut faults.stalls);
    let mut healed = vec![heal(cluster)?];
    add(&mut faults.counted, counters(cluster)?);

    let rounds = (options.seconds / RESTART_SECONDS).clamp(2, RESTARTS_MAX);
    progress("kill -9 of all daemons, again and again");
    let second_epoch = restart_all(cluster, random, rounds, report)?;

    progress("storm");
    faults.add(Storm::new(cluster, crew, random.fork()).rage(part(35)).map_err(io)?);
    facts.stalls.append(&mut faults.stalls);
    healed.push(heal(cluster)?);

    progress("calm");
    facts.marks.push((clock::now(), Mark::Calm));
    let (freed, probes) = calm(cluster, crew, random, part(25))?;
    facts.marks.push((clock::now(), Mark::Polite));
    crew.enter(Phase::Polite);
    sleep(POLITE);
    facts.marks.push((clock::now(), Mark::PoliteEnd));
    crew.enter(Phase::Drain);
    let stuck = crew.wait(DRAIN_MAX);
    facts.marks.push((clock::now(), Mark::Drained));
    report.check("clients end in peace", stuck.is_empty(), said(&stuck, "all gave back what they had"));
    let fallen = cluster.fallen();
    report.check("no daemon died", fallen.is_empty(), said(&fallen, "all three run"));
    at_rest(cluster, report)?;
    let at_the_end = counters(cluster)?;
    add(&mut faults.counted, at_the_end.clone());
    compare_footprints(cluster, idle, report);
    facts.chronicle = Chronicle::read(&cluster.places);

    progress("one node after the other goes");
    let rounds = (TAKEOVERS * options.seconds).div_ceil(FULL_SECONDS).max(3) as usize;
    taken_over(takeover::play(cluster, rounds), report);

    let story = judged(cluster, crew, facts, report)?;
    let sum = story.sum();
    report.check(
        "every session of a run that ended hears of it",
        story.heard_lost >= PLACES as u64 && story.unheard.is_empty(),
        format!("{} heard it, these did not: {:?}", story.heard_lost, story.unheard),
    );
    let grows = *first_epoch < second_epoch;
    report.check(
        "views go on after all were killed",
        grows,
        format!("epoch {first_epoch}, then {second_epoch}"),
    );
    report.check("daemons that are asked to stop do", faults.stuck == 0, format!("{} did not", faults.stuck));
    let slowest = healed.iter().max().copied().unwrap_or_default();
    report.check(
        "all nodes serve soon after a storm",
        slowest <= HEAL_MAX,
        format!("{:?} ms after it", healed.iter().map(Duration::as_millis).collect::<Vec<_>>()),
    );
    agree(&sum, &at_the_end, probes, report);
    freed_in_time(&freed, report);
    let counts = std::mem::take(&mut faults.counted);
    felt(cluster, &counts, report);
    met(&sum, report);
    volume(options, &sum, &counts, report);
    numbers(&story, &sum, &faults, &counts, cluster, report);
    report.number("views", facts.chronicle.views.len() as u64);
    report.number("runs of daemons", facts.chronicle.runs.iter().map(Vec::len).sum::<usize>() as u64);
    report.number(
        "runs that lost their lease",
        facts.chronicle.lost.iter().map(Vec::len).sum::<usize>() as u64,
    );
    Ok(())
}

/// Waits until all serve; they have nothing to fear any more.
fn heal(cluster: &mut Cluster) -> Result<Duration, String> {
    let began = Instant::now();
    cluster.wait_until_serving(SERVE_MAX)?;
    Ok(began.elapsed())
}

/// A restart storm (FT15): whatever a round leaves half done, the next kills. Returns the epoch that comes of it.
fn restart_all(
    cluster: &mut Cluster,
    random: &mut Random,
    rounds: u64,
    report: &mut Report,
) -> Result<u64, String> {
    let mut down = Instant::now();
    for round in 0..rounds {
        down = Instant::now();
        (0..NODES).for_each(|node| cluster.kill(node));
        let first = random.below(NODES as u64) as usize;
        for node in 0..NODES {
            sleep(Duration::from_millis(random.below(100)));
            cluster.start((first + node) % NODES).map_err(|e| e.to_string())?;
        }
        if round + 1 < rounds {
            sleep(Duration::from_millis(random.spread(20, 5_000)));
        }
    }
    let epoch = cluster.wait_until_serving(SERVE_MAX)?;
    report.number("times all daemons were killed", rounds);
    report.number("ms from the last kill of all daemons until all serve", down.elapsed().as_millis() as u64);
    Ok(epoch)
}

/// How fast the locks of a node that went were usable elsewhere (L10).
fn taken_over(outcome: Result<takeover::Times, String>, report: &mut Report) {
    let times = match outcome {
        Ok(times) => times,
        Err(why) => return report.check("a node that goes is replaced, and comes back alone", false, why),
    };
    report.check("a node that goes is replaced, and comes back alone", true, "each time");
    for (name, sample, longest) in [
        ("silent death until its lock is usable elsewhere, within 5 s", &times.silent, takeover::SILENT_MAX),
        (
            "stop in order until its lock is usable elsewhere, within 1 s",
            &times.stopped,
            takeover::STOPPED_MAX,
        ),
        (
            "death of an engine until its lock is usable elsewhere, within 1 s",
            &times.engine,
            takeover::STOPPED_MAX,
        ),
    ] {
        report.check(name, sample.is_within(longest), sample.to_string());
    }
    for (name, us) in [
        ("us from a silent death until its lock is usable elsewhere, median", times.silent.median()),
        ("us from a silent death until its lock is usable elsewhere, longest", times.silent.longest()),
        ("us from a stop in order until its lock is usable elsewhere, median", times.stopped.median()),
        ("us from a stop in order until its lock is usable elsewhere, longest", times.stopped.longest()),
        ("us from the death of an engine until its lock is usable elsewhere, median", times.engine.median()),
        (
            "us from the death of an engine until its lock is usable elsewhere, longest",
            times.engine.longest(),
        ),
    ] {
        report.number(name, us);
    }
}

fn progress(what: &str) {
    eprintln!("chaos: {what}");
}

fn said(list: &[impl AsRef<str>], otherwise: &str) -> String {
    let list: Vec<&str> = list.iter().map(AsRef::as_ref).collect();
    if list.is_empty() { otherwise.into() } else { list.join("\n          ") }
}

/// Good times: only clients die, and it is measured how fast their locks are free. Returns the times and how
/// many grants the measuring took.
fn calm(
    cluster: &mut Cluster,
    crew: &mut Crew,
    random: &mut Random,
    time: Duration,
) -> Result<(Vec<Duration>, u64), String> {
    let end = Instant::now() + time;
    let mut freed = Vec::new();
    // Retransmission timers that grew in the storm must run down first.
    sleep(time / 5);
    while Instant::now() < end || freed.len() < PROBES {
        crew.kill_one().map_err(|e| e.to_string())?;
        if freed.len() < PROBES {
            freed.push(probe::freed_after(cluster, random, freed.len())?);
        }
        sleep(Duration::from_millis(random.between(300, 1_000)));
        let fallen = crew.fallen();
        if !fallen.is_empty() {
            return Err(format!("clients {fallen:?} ended by themselves"));
        }
    }
    let grants = 2 * freed.len() as u64;
    Ok((freed, grants))
}

fn counters(cluster: &Cluster) -> Result<Counters, String> {
    let mut sum = Counters::new();
    for node in 0..NODES {
        for (name, value) in cluster.counters(node).map_err(|e| e.to_string())? {
            *sum.entry(name).or_default() += value;
        }
    }
    Ok(sum)
}

fn footprints(cluster: &mut Cluster) -> Vec<Footprint> {
    (0..NODES).map(|node| cluster.daemon(node).footprint()).collect()
}

/// Memory and descriptors of daemons to which nobody is attached: before any load, and after it.
fn compare_footprints(cluster: &mut Cluster, start: &[Footprint], report: &mut Report) {
    let end = footprints(cluster);
    let fits = |(s, e): (&Footprint, &Footprint)| {
        e.memory_kib <= s.memory_kib + MEMORY_GROWTH_KIB_MAX
            && e.descriptors <= s.descriptors + DESCRIPTORS_GROWTH_MAX
            && e.memory_kib > 0
    };
    let lines: Vec<String> = NAMES
        .iter()
        .zip(start.iter().zip(&end))
        .map(|(name, (s, e))| {
            format!(
                "{name}: {} -> {} KiB, {} -> {} descriptors",
                s.memory_kib, e.memory_kib, s.descriptors, e.descriptors
            )
        })
        .collect();
    let ok = start.iter().zip(&end).all(fits);
    report.check("daemons do not grow", ok, lines.join("; "));
}

/// Nothing waits, nothing is held, nobody is attached.
fn at_rest(cluster: &Cluster, report: &mut Report) -> Result<(), String> {
    let end = Instant::now() + REST_MAX;
    let wrong = loop {
        let wrong = unrest(cluster)?;
        if wrong.is_empty() || Instant::now() >= end {
            break wrong;
        }
        sleep(Duration::from_millis(50));
    };
    report.check("nothing waits and nothing is held in the end", wrong.is_empty(), said(&wrong, "at rest"));
    Ok(())
}

/// Everything that waits, is held, or is attached.
fn unrest(cluster: &Cluster) -> Result<Vec<String>, String> {
    let mut wrong = Vec::new();
    for (node, name) in NAMES.iter().enumerate() {
        let status = cluster.status(node).map_err(|e| e.to_string())?;
        // The session that asks is one.
        if status["sessions"].as_u64() > Some(1) {
            wrong.push(format!("{name} still has {} sessions", status["sessions"]));
        }
        for space in status["spaces"].as_array().into_iter().flatten() {
            if space["waiting"] != 0 {
                wrong.push(format!("{name}: {} locks wait in {}", space["waiting"], space["name"]));
            }
        }
    }
    for space in ["default", STRICT_SPACE] {
        let question = serde_json::json!({"ask": "locks", "space": space});
        let locks = cluster.ask(0, &question).map_err(|e| e.to_string())?;
        if locks["unanswered"].as_array().is_none_or(|nodes| !nodes.is_empty()) {
            wrong.push(format!("not every node said what it holds in {space}: {}", locks["unanswered"]));
        }
        for resource in locks["resources"].as_array().into_iter().flatten() {
            let left = |key: &str| resource[key].as_array().map_or(0, Vec::len);
            if left("holders") + left("waiters") > 0 || !resource["head"].is_null() {
                wrong.push(format!("{space}: {resource}"));
            }
        }
    }
    Ok(wrong)
}

/// What the last run of each daemon counted is what its clients heard, but for requests whose client died before it could
/// hear the answer.
fn agree(sum: &Sum, counters: &Counters, probes: u64, report: &mut Report) {
    let heard = sum.last_runs;
    for (name, counted, least) in [
        (
            "grants counted by daemons and by clients agree",
            counters["local_grants"] + counters["fast_grants"],
            heard.grants + probes,
        ),
        (
            "deadlock victims counted by daemons and by clients agree",
            counters["deadlock_victims"],
            heard.victims,
        ),
    ] {
        let ok = (least..=least + heard.unanswered).contains(&counted);
        let text =
            format!("{counted} counted, {least} heard, {} requests of the dead are open", heard.unanswered);
        report.check(name, ok, text);
    }
}

fn freed_in_time(freed: &[Duration], report: &mut Report) {
    let mut us: Vec<u128> = freed.iter().map(Duration::as_micros).collect();
    us.sort_unstable();
    let worst = freed.iter().max().copied().unwrap_or(Duration::MAX);
    report.check(
        "locks of a killed program are free within 1 s",
        worst <= FREED_MAX,
        format!("{us:?} us from the kill to the grant at another node"),
    );
}

/// A fault that nobody noticed was no fault.
fn felt(cluster: &Cluster, counters: &Counters, report: &mut Report) {
    let proxy = cluster.proxy.counts();
    let mut wrong = Vec::new();
    let mut at_least = |what: &str, made: u64, noticed: u64| {
        if made == 0 || noticed == 0 {
            wrong.push(format!("{what}: {made} made, {noticed} noticed"));
        }
    };
    let counter = |name: &str| counters.get(name).copied().unwrap_or(0);
    at_least("lost datagrams", proxy.dropped + proxy.cut, counter("resent"));
    at_least("datagrams sent twice", proxy.duplicated, counter("replayed"));
    at_least("flipped bits", proxy.flipped, counter("bad_tag") + counter("foreign"));
    at_least("silences", proxy.cut, counter("silences"));
    report.check("daemons noticed every kind of fault", wrong.is_empty(), said(&wrong, "each was counted"));
    let violations: Vec<String> = ["lock_violations", "violations", "absurd_stamps"]
        .iter()
        .filter(|name| counter(name) > 0)
        .map(|name| format!("{name} is {}", counter(name)))
        .collect();
    report.check("nobody was accused of a violation", violations.is_empty(), said(&violations, "none"));
}

/// A case that no client met was not tried. That there are victims of deadlocks, for one, is seen by nothing
/// else: without them conversions would only time out.
fn met(sum: &Sum, report: &mut Report) {
    use oarlock::Code;
    let answers = |code: Code| sum.failed.get(&code).copied().unwrap_or(0);
    let cases = [
        ("busy", answers(Code::Busy)),
        ("not owned", answers(Code::NotOwned)),
        ("timed out", answers(Code::TimedOut)),
        ("deadlock", answers(Code::Deadlock)),
        ("a notice", sum.notices),
        ("a value written", sum.values_written),
        ("a value read", sum.values_read),
        ("killed while holding", sum.killed_holding),
        ("killed while waiting", sum.killed_waiting),
        ("lost while holding", sum.lost_holding),
    ];
    let missing: Vec<&str> = cases.iter().filter(|(_, times)| *times == 0).map(|(case, _)| *case).collect();
    report.check("clients met every case", missing.is_empty(), said(&missing, "each occurred"));
}

fn volume(options: &Options, sum: &Sum, counters: &Counters, report: &mut Report) {
    let due = |full: u64| full * options.seconds.min(FULL_SECONDS) / FULL_SECONDS;
    let (grants, kills) = (counters["grant_sent"], sum.killed);
    let ok = grants >= due(REMOTE_GRANTS_MIN) && kills >= due(KILLS_MIN);
    let text = format!(
        "{grants} grants from node to node of {}, {kills} kills of {}{}",
        due(REMOTE_GRANTS_MIN),
        due(KILLS_MIN),
        if ok { "" } else { ": the volume was not reached" }
    );
    report.check("volume", ok, text);
}

fn numbers(
    story: &Story,
    sum: &Sum,
    faults: &Faults,
    counters: &Counters,
    cluster: &Cluster,
    report: &mut Report,
) {
    let proxy = cluster.proxy.counts();
    for (name, value) in [
        ("requests for locks", sum.locks),
        ("conversions", sum.converts),
        ("grants to programs", sum.grants),
        ("value blocks written at a release", sum.values_written),
        ("value blocks read", sum.values_read),
        ("blocking notices", sum.notices),
        ("sessions", sum.sessions),
        ("sessions lost with their run", story.heard_lost),
        ("sessions lost with a lock in hand", sum.lost_holding),
        ("sessions that nobody could tell of the end of their lease", story.untold),
        ("grants from node to node", counters["grant_sent"]),
        ("grants received, those inside a node included", counters["grant_received"]),
        ("client kills", sum.killed),
        ("client kills while holding", sum.killed_holding),
        ("client kills while waiting", sum.killed_waiting),
        ("client pauses", faults.client_pauses),
        ("daemon kills", faults.daemon_kills),
        ("daemon kills soon after a start", faults.daemon_kills_after_start),
        ("engines killed under their keepers", faults.engine_kills),
        ("daemon stops", faults.daemon_stops),
        ("daemon pauses", faults.daemon_pauses),
        ("daemon pauses longer than the silent time", faults.daemon_pauses_past_silence),
        ("daemon pauses longer than the lease", faults.daemon_pauses_past_lease),
        ("daemon pauses by the kernel's freezer", faults.daemon_freezes),
        ("daemons cut off from all others", faults.daemon_isolations),
        ("changes of weather", faults.weathers),
        ("links cut one way", faults.cuts_one_way),
        ("links cut both ways", faults.cuts_both_ways),
        ("datagrams", proxy.taken),
        ("datagrams dropped", proxy.dropped),
        ("datagrams cut off", proxy.cut),
        ("datagrams sent twice", proxy.duplicated),
        ("datagrams with flipped bits", proxy.flipped),
        ("datagrams overtaken", proxy.overtaken),
        ("lines after the end of their session", story.beyond),
        ("lines torn by a kill", story.torn),
    ] {
        report.number(name, value);
    }
    for (code, times) in &sum.failed {
        report.number(code_name(*code), *times);
    }
}

fn code_name(code: oarlock::Code) -> &'static str {
    use oarlock::Code;
    match code {
        Code::Busy => "answers: busy",
        Code::TimedOut => "answers: timed out",
        Code::NotOwned => "answers: not owned",
        Code::Deadlock => "answers: deadlock",
        Code::NotServing | Code::Refused => "answers: not serving",
        _ => "answers: other refusals",
    }
}
