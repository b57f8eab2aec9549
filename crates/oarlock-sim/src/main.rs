//! `oarlock-sim`: runs seeds, replays one, judges a history.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use oarlock_sim::check::judge;
use oarlock_sim::coverage::Coverage;
use oarlock_sim::history::{Rules, read_lines, write_line};
use oarlock_sim::{Load, Options, Report, run, run_with_history};

const HELP: &str = "\
oarlock-sim [--seeds N] [--from S] [--seconds T] [--jobs J] [--verbose]   run seeds
oarlock-sim --seed S [--seconds T] [--history FILE]                       run one seed, keep what clients saw
oarlock-sim --check FILE [--nodes N] [--strict]                           judge a history of real processes
oarlock-sim --planted [--bug NAME] [--seeds N]                            plant each bug and see who notices
oarlock-sim --rebuild N                                                   what a death costs with N resources
  --seeds N     how many seeds must count (default 20); a seed with too little load is replaced
  --from S      the first seed (default 1)
  --seconds T   simulated seconds of each (default 60)
  --nodes N     machines (default 5)
  --fences      all seeds with fenced registers (default: as each seed draws)
  --segments    all seeds with segments (--sockets: none; default: as each seed draws)
  --stay        no engine is handed over (default: as each seed draws)
  --rewrite N   after so many events each, a node is written down and read again, which nobody may notice
  --jobs J      threads (default: one per core)
  --liveness    all seeds end with a majority that is whole and the rest broken (--safety: none; default: three in ten)
  --torn        all seeds end with one node that two others do not hear
  --coverage    print which fault met which phase of the protocol; fail if one of the cells that are sure is empty
  --thorough    fail if less than 95 % of the cells that can be met were met ten times
  --replay      run every seed twice and compare the hashes (else one in fifty)";

#[derive(Default)]
struct Arguments {
    seeds: u64,
    from: u64,
    seed: Option<u64>,
    options: Options,
    jobs: usize,
    verbose: bool,
    replay: bool,
    strict: bool,
    planted: bool,
    coverage: bool,
    rebuild: Option<u32>,
    thorough: bool,
    bug: Option<String>,
    history: Option<String>,
    check: Option<String>,
}

fn arguments() -> Result<Arguments, String> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut arguments = Arguments { seeds: 20, from: 1, jobs, ..Arguments::default() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|e| format!("{text:?}: {e}"));
        match word.as_str() {
            "--seeds" => arguments.seeds = number(value()?)?,
            "--from" => arguments.from = number(value()?)?,
            "--seed" => arguments.seed = Some(number(value()?)?),
            "--seconds" => arguments.options.seconds = number(value()?)?.max(15),
            "--nodes" => arguments.options.nodes = number(value()?)?.clamp(2, 16) as u16,
            "--jobs" => arguments.jobs = number(value()?)?.clamp(1, 256) as usize,
            "--history" => arguments.history = Some(value()?),
            "--check" => arguments.check = Some(value()?),
            "--verbose" => arguments.verbose = true,
            "--replay" => arguments.replay = true,
            "--strict" => arguments.strict = true,
            "--segments" => arguments.options.segments = Some(true),
            "--stay" => arguments.options.handovers = Some(false),
            "--rewrite" => arguments.options.rewrite = Some(number(value()?)?),
            "--sockets" => arguments.options.segments = Some(false),
            "--fences" => arguments.options.fences = Some(true),
            "--liveness" => arguments.options.liveness = Some(true),
            "--torn" => (arguments.options.liveness, arguments.options.torn) = (Some(true), true),
            "--safety" => arguments.options.liveness = Some(false),
            "--coverage" => arguments.coverage = true,
            "--thorough" => (arguments.coverage, arguments.thorough) = (true, true),
            "--rebuild" => arguments.rebuild = Some(number(value()?)?.clamp(3, 4_000_000) as u32),
            "--planted" => arguments.planted = true,
            "--bug" => arguments.bug = Some(value()?),
            "--help" | "-h" => return Err(HELP.into()),
            other => return Err(format!("unknown argument {other:?}\n\n{HELP}")),
        }
    }
    Ok(arguments)
}

fn main() -> ExitCode {
    // A panic inside a simulated node is a finding; its place belongs into the report, not a backtrace each.
    std::panic::set_hook(Box::new(|info| eprintln!("  ({info})")));
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    if let Some(resources) = arguments.rebuild {
        println!("{}", oarlock_sim::rebuild::rebuild(resources, core_time));
        return ExitCode::SUCCESS;
    }
    let good = match (&arguments.check, arguments.seed, arguments.planted) {
        (Some(file), ..) => check_file(file, &arguments),
        (None, Some(seed), _) => one_seed(seed, &arguments),
        (None, None, true) => planted::table(&arguments),
        (None, None, false) => many_seeds(&arguments),
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Time this thread has spent on a core. Wall time would blame a run for what else the machine does.
fn core_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = text.split_whitespace().next().and_then(|n| n.parse().ok());
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    ns.map_or_else(|| START.get_or_init(Instant::now).elapsed(), Duration::from_nanos)
}

fn check_file(file: &str, arguments: &Arguments) -> bool {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{file}: {error}");
            return false;
        }
    };
    let events = match read_lines(&text) {
        Ok(events) => events,
        Err(error) => {
            eprintln!("{file}: {error}");
            return false;
        }
    };
    let rules = Rules::real(arguments.options.nodes, vec![arguments.strict; 64]);
    let findings = judge(&rules, &events);
    for finding in &findings {
        println!("{finding}");
    }
    println!("{} events, {} findings", events.len(), findings.len());
    findings.is_empty()
}

fn one_seed(seed: u64, arguments: &Arguments) -> bool {
    let options = Options { keep_history: arguments.history.is_some(), ..arguments.options.clone() };
    let started = core_time();
    let (report, history) = run_with_history(seed, &options);
    println!("{report}");
    for finding in &report.findings {
        println!("  {finding}");
    }
    println!("  {:?}; faults {:?}", report.load, report.faults);
    if arguments.coverage {
        println!("{}", report.coverage.table());
    }
    if let Some(missed) = report.missed_load() {
        println!("  does not count: {missed}");
    }
    println!("  {:.1} simulated s per core-s", report.seconds as f64 / (core_time() - started).as_secs_f64());
    if let (Some(file), Some(events)) = (&arguments.history, history) {
        let text: String = events.iter().map(|e| write_line(e) + "\n").collect();
        if let Err(error) = std::fs::write(file, text) {
            eprintln!("{file}: {error}");
            return false;
        }
    }
    report.findings.is_empty()
}

#[derive(Default)]
struct Totals {
    counted: u64,
    failed: u64,
    thin: u64,
    replayed: u64,
    seconds: u64,
    load: Load,
    core: Duration,
    coverage: Coverage,
}

fn many_seeds(arguments: &Arguments) -> bool {
    let next = AtomicU64::new(arguments.from);
    let totals = Mutex::new(Totals::default());
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let enough = totals.lock().expect("no thread panics with it").counted >= arguments.seeds;
                    // Thin seeds are replaced, but not without end.
                    if enough || seed >= arguments.from + 2 * arguments.seeds {
                        return;
                    }
                    let started = core_time();
                    let report = run(seed, &arguments.options);
                    let core = core_time() - started;
                    let twice = arguments.replay || seed.is_multiple_of(50);
                    let again = twice.then(|| run(seed, &arguments.options).trace);
                    let mut totals = totals.lock().expect("no thread panics with it");
                    account(&mut totals, &report, core, again.map(|trace| trace == report.trace));
                    if arguments.verbose {
                        println!("{report}; {:.2} s; {:?}", core.as_secs_f64(), report.load);
                    }
                }
            });
        }
    });
    let t = totals.into_inner().expect("all threads have ended");
    let covered = !arguments.coverage || cover(&t, arguments.thorough);
    let core = t.core.as_secs_f64().max(1e-9);
    println!(
        "{} seeds, {} failed, {} with too little load, {} run twice: {} simulated s, {:.0} per core-s; \
         {:.0} events and {:.1} faults per core-s; {} locks, {} grants, {} deaths, {} faults; \
         {} reads, {} of them outside of doubt; \
         {} verdicts, {} of them beside sound members, {} by whoever was locked out; {} stops, {} of them given up; {} engines died, {} last words; {} members left, {} joined, {} joins refused by a clock; \
         {} upgrades: {} chunks and fields skipped, {} commands not understood, {} versions refused; \
         {} grants to programs that may not do all, {} refusals to them; {} waits that could close a circle, {} that did",
        t.counted,
        t.failed,
        t.thin,
        t.replayed,
        t.seconds,
        t.seconds as f64 / core,
        t.load.events as f64 / core,
        (t.load.faults + t.load.deaths) as f64 / core,
        t.load.locks,
        t.load.grants,
        t.load.deaths,
        t.load.faults,
        t.load.reads,
        t.load.reads_certain,
        t.load.verdicts,
        t.load.verdicts_judged,
        t.load.outvoted,
        t.load.stops,
        t.load.surrendered,
        t.load.engines,
        t.load.gasps,
        t.load.left,
        t.load.joined,
        t.load.tokens_refused,
        t.load.upgrades,
        t.load.skipped,
        t.load.unread,
        t.load.refused_versions,
        t.load.granted_to_few,
        t.load.denied,
        t.load.daring,
        t.load.circles,
    );
    t.failed == 0 && t.counted >= arguments.seeds && covered
}

/// Prints the matrix of faults and phases; false if too much of it is empty.
fn cover(totals: &Totals, thorough: bool) -> bool {
    let coverage = &totals.coverage;
    println!("{}", coverage.table());
    let ((once, all), (often, _)) = (coverage.met(1), coverage.met(10));
    println!("of {all} cells that can be met {once} were, {often} at least ten times");
    for (kind, stage) in coverage.missed() {
        println!("not covered: {kind:?} in {stage:?}, which is sure in other runs");
    }
    let enough = !thorough || often * 100 >= all * 95;
    if !enough {
        println!("not covered: less than 95 % of the cells were met ten times");
    }
    if totals.load.outvoted == 0 {
        println!("not covered: nobody who was locked out has outvoted whoever was in");
    }
    coverage.missed().is_empty() && enough && totals.load.outvoted > 0
}

fn account(totals: &mut Totals, report: &Report, core: Duration, same: Option<bool>) {
    totals.core += core;
    totals.seconds += report.seconds;
    totals.load.add(&report.load);
    totals.coverage.add(&report.coverage);
    totals.replayed += u64::from(same.is_some());
    if same == Some(false) {
        println!("seed {}: two runs of it differ", report.seed);
    }
    if !report.findings.is_empty() || same == Some(false) {
        totals.failed += 1;
        totals.counted += 1;
        println!("{report}");
        return;
    }
    match report.missed_load() {
        Some(missed) => {
            totals.thin += 1;
            println!("seed {} does not count: {missed}", report.seed);
        }
        None => totals.counted += 1,
    }
}

#[cfg(not(feature = "planted"))]
mod planted {
    pub(crate) fn table(_: &super::Arguments) -> bool {
        eprintln!("bugs can be planted only in a build with `--features planted`");
        false
    }
}

#[cfg(feature = "planted")]
mod planted {
    use std::collections::BTreeSet;
    use std::process::{Command, Stdio};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use oarlock_node::Bug::{self, Member, Room};
    use oarlock_node::{Lost, MemberBug, RoomBug, SearchBug};
    use oarlock_sim::{Options, RegisterBug, run};

    /// Bugs that no client of a simulated cluster can see. The explorer, which looks into the room, catches them, or a test.
    const UNSEEN: &[(Bug, &str)] = &[
        (
            Room(RoomBug::ForgetHeadGone),
            "a request behind a head that has gone is stated, and granted by the master a message later",
        ),
        (Room(RoomBug::ForgetUncounted), "it needs callers that take locks without asking their node"),
        (Room(RoomBug::LikelyUnchecked), "nobody here hints at what is wanted next"),
        (
            Room(RoomBug::MarkAlways),
            "which modes the lost node owned no client sees, so each block may be marked until somebody writes it",
        ),
        (
            Bug::Search(SearchBug::OnePass),
            "what ends between two passes has only just ended, and may have been there; a test of the search",
        ),
        (Bug::Search(SearchBug::CutCounted), "where so few wait no answer is cut; a test of the search"),
        (
            Bug::Search(SearchBug::NoPlaces),
            "hardly any circle here is closed by a place in a queue alone; a storyboard",
        ),
        (Bug::Search(SearchBug::AnyWait), "where so many wait most of them are stuck; a storyboard"),
        (Bug::WholeCircle, "where so many wait who is left over is in another circle too; a storyboard"),
        (
            Bug::Lose(Lost::Deadlines),
            "to wait longer than one would breaks no promise; a test of the hall waits for the end",
        ),
        (
            Member(MemberBug::RenewalFromAnswer),
            "a node must be cut off just before an answer and just after it; the storms of leases see it",
        ),
    ];

    /// Bugs that must be noticed here within the seeds that are given, and the checkers that know the rule: what others say
    /// first is a crossing of something else. The rest need a rare crossing: they are looked for, and if none of the seeds
    /// has it, the explorer, which makes every crossing, has the word.
    const SURE: &[(Bug, &[&str])] = &[
        (Room(RoomBug::NoSequenceCheck), &["exclusion", "tokens", "value", "liveness", "answers", "honesty"]),
        (Room(RoomBug::StaleLowers), &["exclusion", "tokens", "value", "liveness", "answers", "honesty"]),
        (Room(RoomBug::DropUnwantedGrant), &["value", "liveness", "honesty"]),
        (Room(RoomBug::OwnHeldBlocks), &["liveness", "answers"]),
        (Room(RoomBug::KeepRetained), &["answers", "liveness"]),
        (Room(RoomBug::ReadUnderCr), &["value"]),
        (Room(RoomBug::SerialPerResource), &["tokens", "liveness", "assertion"]),
        (Room(RoomBug::CancelAndGrant), &["answers"]),
        (Room(RoomBug::NlWithoutRecord), &["honesty"]),
        (Room(RoomBug::HeadFirst), &["traffic", "assertion"]),
        (Room(RoomBug::KeepIncomparable), &["assertion"]),
        (Room(RoomBug::TryByRetention), &["answers"]),
        (
            Room(RoomBug::StaleForget),
            &["exclusion", "tokens", "value", "order", "liveness", "answers", "honesty"],
        ),
        (Room(RoomBug::OldBlock), &["value"]),
        (Room(RoomBug::AnswerAlone), &["assertion"]),
        (Room(RoomBug::KeepDeadWritersBlock), &["value"]),
        (Room(RoomBug::SilentUse), &["value"]),
        (Room(RoomBug::StaleEpoch), &["honesty", "assertion"]),
        (Room(RoomBug::ToldAlready), &["assertion"]),
        (Room(RoomBug::TokenReset), &["tokens"]),
        (Bug::Search(SearchBug::ExcusedCounted), &["answers"]),
        (Bug::Search(SearchBug::Silent), &["deadlock"]),
        (Bug::OpenEarly, &["answers", "exclusion", "honesty", "liveness", "tokens", "value", "words"]),
        (Bug::AnyRight, &["rights", "honesty"]),
        (Bug::IgnoreFences, &["exclusion", "value", "tokens", "fence"]),
        (Bug::LongLease, &["evidence", "exclusion", "value", "tokens"]),
        (Bug::Lose(Lost::Waiters), &["answers", "liveness", "words", "assertion"]),
        (Bug::Lose(Lost::Records), &["answers", "assertion", "exclusion", "honesty", "liveness"]),
        (Bug::Lose(Lost::Statements), &["answers", "assertion", "honesty", "liveness"]),
        (
            Bug::Lose(Lost::Unacknowledged),
            &["answers", "assertion", "forming", "honesty", "liveness", "words"],
        ),
        (Bug::StopUnheard, &["exclusion", "value", "tokens"]),
        (Bug::GiveBackAtEnd, &["exclusion", "value", "tokens", "fence"]),
        (Bug::GaspUnheard, &["exclusion", "value", "tokens"]),
        (Bug::OldMember, &["forming", "members"]),
        (Bug::FencesOfThisView, &["exclusion", "fence", "tokens", "value"]),
        (Bug::GaspOfAnyRun, &["evidence", "exclusion", "tokens", "value"]),
        (Bug::OneAboveCeiling, &["stamp"]),
        (Room(RoomBug::SameNode), &["value"]),
        (Member(MemberBug::RenewalUnconfirmed), &["evidence", "exclusion", "value", "tokens"]),
        (Member(MemberBug::RenewalAtLeast), &["evidence", "exclusion", "value", "tokens"]),
        (Member(MemberBug::EvictEarly), &["evidence", "exclusion", "value", "tokens", "removal"]),
        (Member(MemberBug::KeepFewer), &["removal"]),
    ];

    /// A bug that need not be noticed here is looked for in this part of the seeds.
    const RARE: u64 = 20;

    fn seeds_for(sure: bool, arguments: &super::Arguments) -> std::ops::Range<u64> {
        let count = if sure { arguments.seeds } else { arguments.seeds.div_ceil(RARE) };
        arguments.from..arguments.from + count
    }

    /// All that can be planted.
    fn names() -> Vec<String> {
        let nodes = Bug::all().map(Bug::name);
        let registers = RegisterBug::ALL.iter().map(|bug| format!("{bug:?}"));
        let segments = oarlock_shm::planted::Bug::NAMED.iter().map(|(name, _)| (*name).to_string());
        nodes.chain(registers).chain(segments).collect()
    }

    /// Plants each bug and runs seeds until a checker notices. A bug that nobody notices fails. Each row is a process of
    /// its own, because a bug of the segment is planted in the whole process.
    pub(crate) fn table(arguments: &super::Arguments) -> bool {
        if let Some(wanted) = &arguments.bug {
            if !names().contains(wanted) {
                eprintln!("no bug {wanted:?}; there are {}", names().join(", "));
                return false;
            }
            return nodes(arguments) & registers(arguments) & segments(arguments);
        }
        println!("{:<20} {:>6}  {:<30} first finding", "planted", "seeds", "caught by");
        let queue = Mutex::new(names().into_iter());
        let next = || queue.lock().unwrap_or_else(|e| e.into_inner()).next();
        let good = AtomicBool::new(true);
        thread::scope(|scope| {
            for _ in 0..arguments.jobs {
                scope.spawn(|| {
                    while let Some(name) = next() {
                        match row(&name) {
                            // In one piece: the others print too.
                            Ok((text, true)) => print!("{text}"),
                            Ok((text, false)) => {
                                print!("{text}");
                                good.store(false, Ordering::Relaxed);
                            }
                            Err(why) => {
                                println!("{name}: {why}");
                                good.store(false, Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
        });
        good.into_inner()
    }

    /// What this program says when it is asked for one bug alone, and whether that is as it should be.
    fn row(name: &str) -> std::io::Result<(String, bool)> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(std::env::args_os().skip(1)).args(["--bug", name]).stderr(Stdio::inherit());
        let output = command.output()?;
        Ok((String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success()))
    }

    /// The rows of bugs of nodes.
    fn nodes(arguments: &super::Arguments) -> bool {
        let mut all = true;
        for bug in Bug::all() {
            let name = bug.name();
            if arguments.bug.as_ref().is_some_and(|wanted| *wanted != name) {
                continue;
            }
            if let Some((_, why)) = UNSEEN.iter().find(|(unseen, _)| *unseen == bug) {
                println!("{name:<20}      -  others: {why}");
                continue;
            }
            let mut options = Options { bug: Some(bug), ..arguments.options.clone() };
            match bug {
                Bug::IgnoreFences | Bug::FencesOfThisView => options.fences = Some(true),
                // In storms most are cut off from too many to be more than late with their lease, and no cut lasts.
                Member(MemberBug::KeepFewer) => (options.liveness, options.torn) = (Some(true), true),
                // Whoever asks its node for every lock hears from that when a lease is over.
                Bug::LongLease => options.segments = Some(true),
                Bug::Search(_) | Bug::WholeCircle => options.circles = true,
                _ => {}
            }
            let sure = SURE.iter().find(|(sure, _)| *sure == bug).map(|(_, by)| *by);
            let seeds = seeds_for(sure.is_some(), arguments);
            let mut others = BTreeSet::new();
            let caught = seeds.clone().find_map(|seed| {
                let first = run(seed, &options).findings.into_iter().next()?;
                if sure.is_none_or(|by| by.contains(&first.checker)) {
                    return Some((seed, first));
                }
                others.insert(first.checker);
                None
            });
            let Some((seed, first)) = caught else {
                let seeds = seeds.count();
                let Some(by) = sure else {
                    println!("{name:<20}      -  the explorer: too rare for {seeds} seeds");
                    continue;
                };
                all = false;
                println!("{name:<20} {seeds:>6}  by {others:?}, which should be by {by:?}: not caught");
                continue;
            };
            // The first finding ends a run; without that end others notice too. A node that answers a
            // withdrawn request again and again would fill the memory first: that run is not repeated.
            let whole = Options { stop_at_first: false, ..options };
            let by: BTreeSet<&str> = match bug {
                Room(RoomBug::CancelAndGrant) => BTreeSet::new(),
                _ => run(seed, &whole).findings.iter().map(|f| f.checker).collect(),
            };
            let by = if by.is_empty() { first.checker.into() } else { Vec::from_iter(by).join(" ") };
            let text: String = first.text.chars().take(120).collect();
            println!("{name:<20} {:>6}  {by:<30} {}: {text}", seed + 1 - arguments.from, first.checker);
        }
        all
    }

    /// The same for bugs of fenced registers. Each must be noticed here.
    fn registers(arguments: &super::Arguments) -> bool {
        let mut all = true;
        for bug in RegisterBug::ALL {
            let name = format!("{bug:?}");
            if arguments.bug.as_ref().is_some_and(|wanted| *wanted != name) {
                continue;
            }
            let options =
                Options { fences: Some(true), register_bug: Some(bug), ..arguments.options.clone() };
            let mut seeds = arguments.from..arguments.from + arguments.seeds;
            let caught =
                seeds.find_map(|seed| Some((seed, run(seed, &options).findings.into_iter().next()?)));
            let Some((seed, first)) = caught else {
                all = false;
                println!("{name:<20} {:>6}  not caught", arguments.seeds);
                continue;
            };
            let text: String = first.text.chars().take(120).collect();
            let (seeds, by) = (seed + 1 - arguments.from, first.checker);
            println!("{name:<20} {seeds:>6}  {by:<30} {by}: {text}");
        }
        all
    }

    /// Bugs of the segment that must be noticed here. All others need something between two steps of one call, which
    /// here is one step: the stepper and the model have the word.
    const SURE_IN_SEGMENTS: &[(&str, &[&str])] = &[
        ("no-slot-generation", &["tokens"]),
        ("token-before-commit", &["tokens"]),
        ("no-lease", &["exclusion", "tokens", "value", "frozen"]),
        ("no-freeze", &["frozen"]),
    ];

    /// The same for bugs of the segment, which are planted in the whole process.
    fn segments(arguments: &super::Arguments) -> bool {
        let options = Options { segments: Some(true), ..arguments.options.clone() };
        let mut all = true;
        for (name, bug) in oarlock_shm::planted::Bug::NAMED {
            if arguments.bug.as_deref().is_some_and(|wanted| wanted != name) {
                continue;
            }
            oarlock_shm::planted::plant(Some(bug));
            let sure = SURE_IN_SEGMENTS.iter().find(|(sure, _)| *sure == name).map(|(_, by)| *by);
            let seeds = seeds_for(sure.is_some(), arguments);
            let caught = seeds.clone().find_map(|seed| {
                let first = run(seed, &options).findings.into_iter().next()?;
                sure.is_none_or(|by| by.contains(&first.checker)).then_some((seed, first))
            });
            oarlock_shm::planted::plant(None);
            match caught {
                Some((seed, first)) => {
                    let text: String = first.text.chars().take(120).collect();
                    let (seeds, by) = (seed + 1 - arguments.from, first.checker);
                    println!("{name:<20} {seeds:>6}  {by:<30} {by}: {text}");
                }
                None if sure.is_some() => {
                    all = false;
                    println!("{name:<20} {:>6}  not caught", seeds.count());
                }
                None => {
                    println!("{name:<20}      -  the stepper: not between calls in {} seeds", seeds.count())
                }
            }
        }
        all
    }
}
