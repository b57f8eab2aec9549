//! The client process: workers that use the library as programs do, and write down what they saw.
//!
//! The harness starts it, tells it phases on its standard input, and kills it. A client whose input ends has
//! lost its harness and ends too, so nothing is left running.

mod anchor;
mod draw;
mod worker;

use std::io::{self, BufRead};
use std::path::PathBuf;
use std::process::{Command, Stdio, exit};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use oarlock::blocking::{Client, Space};
use oarlock_layout::name::Name;
use oarlock_sim::history;

use crate::cluster::files::STRICT_SPACE;
use crate::diary::Diary;

/// Resources that clients quarrel about. Few, so that every queue is used.
const RESOURCES: u64 = 24;
/// Workers of a client, each with a session of its own.
pub const WORKERS: u32 = 2;
/// Sessions of one worker that its client numbers have room for.
const SESSIONS_MAX: u32 = 1_000;
/// Client numbers of a process; the anchor is one more worker.
const CLIENTS_PER_PROCESS: u32 = SESSIONS_MAX * (WORKERS + 1);
/// Time between two attempts to reach a daemon.
const RETRY: Duration = Duration::from_millis(30);

/// What a client must know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Number of the process; no two of a run have the same.
    pub number: u32,
    /// Which node it talks to.
    pub node: u16,
    /// The node's socket.
    pub socket: PathBuf,
    /// Where diaries are kept.
    pub diaries: PathBuf,
    /// What it does follows from this, and from the answers it gets.
    pub seed: u64,
    /// It also keeps NL locks on some resources, so that their value blocks outlive their users.
    pub anchor: bool,
    /// It grants itself in memory that it shares with its node; otherwise it asks for every lock.
    pub attached: bool,
}

impl Options {
    /// The command that runs it: this program in another role.
    pub fn command(&self) -> io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("client").arg(self.number.to_string()).arg(self.node.to_string());
        command.arg(&self.socket).arg(&self.diaries).arg(self.seed.to_string()).arg(self.anchor.to_string());
        command.arg(self.attached.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        Ok(command)
    }

    /// Reads what [`command`](Options::command) wrote.
    pub fn parse(args: &[String]) -> Option<Options> {
        let [number, node, socket, diaries, seed, anchor, attached] = args else { return None };
        Some(Options {
            number: number.parse().ok()?,
            node: node.parse().ok()?,
            socket: socket.into(),
            diaries: diaries.into(),
            seed: seed.parse().ok()?,
            anchor: anchor.parse().ok()?,
            attached: attached.parse().ok()?,
        })
    }

    /// Which process a client of the history belongs to.
    pub fn process_of(client: history::Client) -> u32 {
        client / CLIENTS_PER_PROCESS
    }

    fn diary(&self, worker: u32) -> Diary {
        let path = self.diaries.join(format!("{:04}-{worker}.jsonl", self.number));
        let first = self.number * CLIENTS_PER_PROCESS + worker * SESSIONS_MAX;
        Diary::create(&path, first).expect("nobody else has this number")
    }
}

/// What all clients are at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Phase {
    /// They work.
    Work = 0,
    /// They ask for nothing new, and give back what blocks somebody once they are told, and only then.
    Polite = 1,
    /// They give everything back and end.
    Drain = 2,
}

impl Phase {
    /// The word by which the harness announces it.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Work => "work",
            Phase::Polite => "polite",
            Phase::Drain => "drain",
        }
    }
}

/// The phase, as the threads of a client share it.
#[derive(Clone, Default)]
struct Phases(Arc<AtomicU8>);

impl Phases {
    fn now(&self) -> Phase {
        match self.0.load(Ordering::Relaxed) {
            0 => Phase::Work,
            1 => Phase::Polite,
            _ => Phase::Drain,
        }
    }

    fn enter(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Relaxed);
    }

    /// Sleeps, but not into the end.
    fn sleep(&self, time: Duration) {
        let end = Instant::now() + time;
        while self.now() != Phase::Drain && Instant::now() < end {
            std::thread::sleep((end - Instant::now()).min(Duration::from_millis(20)));
        }
    }
}

/// A session is over: its locks are lost.
#[derive(Debug)]
struct Ended;

/// A worker's session.
struct Session {
    // Ends when the last of client and spaces goes.
    _client: Client,
    spaces: [Space; 2],
}

impl Session {
    /// Connects, as often as it takes; none once all is over.
    fn open(options: &Options, phases: &Phases, diary: &mut Diary, label: &str) -> Option<Session> {
        while phases.now() != Phase::Drain {
            let builder = Client::builder().label(label).shared_memory(options.attached);
            let Ok(client) = builder.connect(&options.socket) else {
                std::thread::sleep(RETRY);
                continue;
            };
            diary.opened(options.node);
            if let (Ok(first), Ok(second)) = (client.space("default"), client.space(STRICT_SPACE)) {
                return Some(Session { _client: client, spaces: [first, second] });
            }
            diary.lost();
            std::thread::sleep(RETRY);
        }
        None
    }
}

/// Every second resource lives in the strict lockspace.
fn resource(rank: u64) -> (u16, Name) {
    ((rank % 2) as u16, Name::new(format!("chaos/{rank}").as_bytes()).expect("a short name"))
}

/// Runs a client until it is told to drain, or killed.
pub fn run(options: &Options) {
    let phases = Phases::default();
    let mut threads = Vec::new();
    for worker in 0..WORKERS {
        let (options, phases) = (options.clone(), phases.clone());
        threads.push(std::thread::spawn(move || worker::run(&options, worker, &phases)));
    }
    if options.anchor {
        let (options, phases) = (options.clone(), phases.clone());
        threads.push(std::thread::spawn(move || anchor::run(&options, WORKERS, &phases)));
    }
    let listener = phases.clone();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            match line.as_str() {
                "polite" => listener.enter(Phase::Polite),
                "drain" => listener.enter(Phase::Drain),
                other => panic!("the harness says {other:?}"),
            }
        }
        // The harness is gone.
        exit(3);
    });
    for thread in threads {
        if thread.join().is_err() {
            // It said why.
            exit(4);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_says_all_and_numbers_never_meet() {
        let options = Options {
            number: 12,
            node: 2,
            socket: "/s".into(),
            diaries: "/d".into(),
            seed: u64::MAX,
            anchor: true,
            attached: false,
        };
        let command = options.command().unwrap();
        let args: Vec<String> = command.get_args().map(|a| a.to_str().unwrap().to_owned()).collect();
        assert_eq!(args[0], "client");
        assert_eq!(Options::parse(&args[1..]), Some(options));
        assert_eq!(Options::parse(&args[..5]), None);

        let last_of_11 = 12 * CLIENTS_PER_PROCESS - 1;
        assert_eq!(Options::process_of(last_of_11), 11);
        assert_eq!(Options::process_of(last_of_11 + 1), 12);
    }
}
