//! A program of its own beside this one: for what must happen between processes.
//!
//! It is this program again, told by [`Role`] what to do. Parent and child talk in lines: the child says that it is
//! ready, the parent how long a round lasts, the child what it counted; the end of its input ends the child.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use oarlock::blocking::{Client, Space};
use rustix::fs::{FlockOperation, flock};
use rustix::time::{ClockId, clock_gettime};

use crate::anchor::bare::Bare;
use crate::anchor::wake::Cells;
use crate::cluster::RETAINING;
use crate::machine::pin;
use crate::rounds::Failure;

/// What a child does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Role {
    /// Threads take and give back locks of their own. It counts pairs.
    Own,
    /// The same with flock(2) on files of their own.
    Flock,
    /// The same with the exchanges of a pair and nothing else.
    Bare,
    /// Takes one lock again and again, and holds it for a moment. It tells when it got it and when it began to give it
    /// back, by the clock that all processes share.
    Turns,
    /// Wakes another such program and is woken by it, on a word of a file.
    Woken,
    /// Holds locks until it dies.
    Holds,
    /// Takes and gives back one lock, between two lines on its standard error.
    Marked,
    /// The same where the kernel kills whoever calls it for anything but reading and writing.
    Sealed,
    /// Pairs by name all over a table, for valgrind to count.
    Counted,
}

/// How a child is told.
#[derive(Clone, PartialEq, Eq, Debug, clap::Args)]
pub(crate) struct Told {
    /// What to do.
    #[arg(long, hide = true)]
    role: Option<Role>,
    /// The node's socket; for flock a directory, for wake-ups a file.
    #[arg(long, hide = true, default_value = ".")]
    at: PathBuf,
    /// What its names begin with.
    #[arg(long, hide = true, default_value = "")]
    key: String,
    /// Threads, locks or pairs; of two who wake each other, which one.
    #[arg(long, hide = true, default_value_t = 1)]
    count: u32,
    /// How long a lock is held.
    #[arg(long, hide = true, default_value_t = 0)]
    hold_us: u64,
    /// Where it runs.
    #[arg(long, hide = true)]
    cpu: Option<usize>,
}

/// A child that runs.
pub(crate) struct Program {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

const READY: &str = "ready";

impl Role {
    /// The same for a child, to be started.
    pub(crate) fn told(self, at: &Path, key: &str, count: u32) -> Told {
        Told { role: Some(self), at: at.into(), key: key.into(), count, hold_us: 0, cpu: None }
    }
}

impl Told {
    pub(crate) fn hold(mut self, time: Duration) -> Told {
        self.hold_us = time.as_micros() as u64;
        self
    }

    pub(crate) fn on(mut self, cpu: usize) -> Told {
        self.cpu = Some(cpu);
        self
    }

    /// What the command line says of it, behind the program's name.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let role = self.role.and_then(|role| role.to_possible_value()).expect("a child has a role");
        let mut all = vec!["program".into(), "--role".into(), role.get_name().into()];
        let mut say = |name: &str, value: String| all.extend([format!("--{name}"), value]);
        say("at", self.at.display().to_string());
        say("key", self.key.clone());
        say("count", self.count.to_string());
        say("hold-us", self.hold_us.to_string());
        self.cpu.into_iter().for_each(|cpu| say("cpu", cpu.to_string()));
        all
    }

    /// Starts it and waits until it is ready.
    pub(crate) fn start(&self) -> Result<Program, Failure> {
        let io = |e: std::io::Error| format!("a program beside this one: {e}");
        let me = std::env::current_exe().map_err(io)?;
        let mut child = Command::new(me)
            .args(self.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(io)?;
        let input = child.stdin.take().expect("piped above");
        let output = BufReader::new(child.stdout.take().expect("piped above"));
        let mut program = Program { child, input, output };
        match program.line()?.as_str() {
            READY => Ok(program),
            other => Err(format!("a program beside this one said {other:?}")),
        }
    }
}

impl Program {
    fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        self.output.read_line(&mut line).map_err(|e| format!("a program beside this one: {e}"))?;
        Ok(line.trim_end().to_owned())
    }

    /// Begins a round.
    pub(crate) fn go(&mut self, window: Duration) -> Result<(), Failure> {
        writeln!(self.input, "{}", window.as_nanos()).map_err(|e| format!("a program beside this one: {e}"))
    }

    /// What it counted in the round.
    pub(crate) fn counted(&mut self) -> Result<Vec<u64>, Failure> {
        let line = self.line()?;
        let number =
            |text: &str| text.parse().map_err(|_| format!("a program beside this one said {line:?}"));
        line.split_whitespace().map(number).collect()
    }

    /// Kills it; returns when its descriptors are closed, and so its session.
    pub(crate) fn kill(mut self) -> Result<(), Failure> {
        self.child.kill().map_err(|e| format!("killing a program: {e}"))?;
        let mut rest = Vec::new();
        self.output.read_to_end(&mut rest).map_err(|e| format!("a killed program: {e}"))?;
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The end of its input would end it too, but it may be waiting for a lock.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// ----- the child ----------------------------------------------------------------------------------------

/// What a child does until its input ends.
pub(crate) fn child(told: &Told) -> Result<(), Failure> {
    told.cpu.into_iter().for_each(pin);
    match told.role.ok_or("a child needs a role")? {
        Role::Own => own(told),
        Role::Flock => flocks(told),
        Role::Bare => bare(told),
        Role::Turns => turns(told),
        Role::Woken => woken(told),
        Role::Holds => holds(told),
        Role::Marked => marked(told),
        Role::Sealed => sealed(told),
        Role::Counted => counted(told),
    }
}

fn space(told: &Told) -> Result<Space, Failure> {
    Client::connect(&told.at).and_then(|client| client.space(RETAINING)).map_err(|e| e.to_string())
}

/// Says that it is ready, and then does a round for each line.
fn rounds(mut round: impl FnMut(Duration) -> Result<Vec<u64>, Failure>) -> Result<(), Failure> {
    println!("{READY}");
    for line in std::io::stdin().lines() {
        let line = line.map_err(|e| e.to_string())?;
        let window = Duration::from_nanos(line.parse().map_err(|_| format!("not a window: {line:?}"))?);
        let said: Vec<String> = round(window)?.iter().map(u64::to_string).collect();
        println!("{}", said.join(" "));
    }
    Ok(())
}

/// Runs a pair in each thread until the time is up; how many there were together.
fn together(
    pairs: Vec<Box<dyn FnMut() -> Result<(), Failure> + Send + '_>>,
    window: Duration,
) -> Result<u64, Failure> {
    /// Looks at the clock that seldom would not show.
    const BETWEEN_LOOKS: u64 = 64;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let threads: Vec<_> = (pairs.into_iter())
            .map(|mut pair| {
                let stop = &stop;
                scope.spawn(move || {
                    let mut done = 0;
                    while !stop.load(Ordering::Relaxed) {
                        for _ in 0..BETWEEN_LOOKS {
                            pair()?;
                        }
                        done += BETWEEN_LOOKS;
                    }
                    Ok::<u64, Failure>(done)
                })
            })
            .collect();
        thread::sleep(window);
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    })
}

fn own(told: &Told) -> Result<(), Failure> {
    let space = space(told)?;
    let handles: Vec<_> =
        (0..told.count).map(|thread| space.handle(format!("{}/{thread}", told.key))).collect();
    for handle in &handles {
        // The first grant is the node's.
        drop(handle.acquire().map_err(|e| e.to_string())?);
    }
    rounds(|window| {
        let pairs = handles.iter().map(|handle| {
            let pair = move || handle.acquire().map(drop).map_err(|e| e.to_string());
            Box::new(pair) as Box<dyn FnMut() -> _ + Send>
        });
        Ok(vec![together(pairs.collect(), window)?])
    })
}

fn bare(told: &Told) -> Result<(), Failure> {
    let all: Vec<Bare> = (0..told.count).map(|_| Bare::default()).collect();
    rounds(|window| {
        let pairs = all.iter().map(|bare| {
            let pair = || if bare.pair() { Ok(()) } else { Err("another wrote here".to_owned()) };
            Box::new(pair) as Box<dyn FnMut() -> _ + Send>
        });
        Ok(vec![together(pairs.collect(), window)?])
    })
}

fn flocks(told: &Told) -> Result<(), Failure> {
    let open = |thread| File::create(told.at.join(format!("{}-{thread}", told.key)));
    let files: Vec<Arc<File>> = (0..told.count)
        .map(|thread| open(thread).map(Arc::new))
        .collect::<Result<_, _>>()
        .map_err(|e| format!("a file to lock: {e}"))?;
    rounds(|window| {
        let pairs = files.iter().map(|file| {
            let pair = move || {
                let change = |to| flock(file, to).map_err(|e| format!("flock: {e}"));
                change(FlockOperation::LockExclusive)?;
                change(FlockOperation::Unlock)
            };
            Box::new(pair) as Box<dyn FnMut() -> _ + Send>
        });
        Ok(vec![together(pairs.collect(), window)?])
    })
}

/// The clock that all processes of a machine share, in nanoseconds.
pub(crate) fn monotonic() -> u64 {
    let at = clock_gettime(ClockId::Monotonic);
    at.tv_sec as u64 * 1_000_000_000 + at.tv_nsec as u64
}

/// How long a program does something else before it wants the lock again.
const REST: Duration = Duration::from_micros(50);

fn turns(told: &Told) -> Result<(), Failure> {
    let space = space(told)?;
    let handle = space.handle(&told.key);
    let hold = Duration::from_micros(told.hold_us);
    rounds(|window| {
        let end = Instant::now() + window;
        let mut times = Vec::new();
        while Instant::now() < end {
            let guard = handle.acquire().map_err(|e| e.to_string())?;
            times.push(monotonic());
            thread::sleep(hold);
            times.push(monotonic());
            drop(guard);
            // What a releaser does next is no part of a hand-over; on one CPU the next holder would wait for it.
            thread::sleep(REST);
        }
        Ok(times)
    })
}

fn woken(told: &Told) -> Result<(), Failure> {
    let cells = Cells::of(&told.at)?;
    rounds(|window| cells.play(told.count, Duration::from_micros(told.hold_us), window))
}

fn holds(told: &Told) -> Result<(), Failure> {
    let space = space(told)?;
    let handles: Vec<_> = (0..told.count).map(|n| space.handle(format!("{}/{n}", told.key))).collect();
    let guards: Vec<_> =
        handles.iter().map(|h| h.acquire()).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    println!("{READY}");
    let mut end = String::new();
    std::io::stdin().read_to_string(&mut end).map_err(|e| e.to_string())?;
    drop(guards);
    Ok(())
}

/// First and last line of a child that is watched. Each is one write.
const MARKS: [&str; 2] = ["inner loop begins\n", "inner loop ends\n"];

fn say(what: &str) -> Result<(), Failure> {
    std::io::stderr().write_all(what.as_bytes()).map_err(|e| e.to_string())
}

/// The loop of goals 1 and 3, and by name that of goal 2.
fn inner_loop(space: &Space, told: &Told) -> oarlock::Result<impl FnMut() -> oarlock::Result<()>> {
    let handle = space.handle(&told.key);
    drop(handle.acquire()?);
    let (space, key, count) = (space.clone(), told.key.clone(), told.count);
    let work = move || {
        for _ in 0..count {
            drop(handle.acquire()?);
            drop(space.lock(&key).acquire()?);
        }
        Ok(())
    };
    // Whatever a thread or an allocator sets up at first use is set up.
    work()?;
    Ok(work)
}

fn marked(told: &Told) -> Result<(), Failure> {
    let space = space(told)?;
    let mut work = inner_loop(&space, told).map_err(|e| e.to_string())?;
    say(MARKS[0])?;
    let done = work();
    say(MARKS[1])?;
    done.map_err(|e| e.to_string())
}

fn sealed(told: &Told) -> Result<(), Failure> {
    use rustix::thread::{SecureComputingMode, set_secure_computing_mode};
    let space = space(told)?;
    let mut work = inner_loop(&space, told).map_err(|e| e.to_string())?;
    let seal = set_secure_computing_mode(SecureComputingMode::Strict);
    seal.map_err(|e| format!("{UNSEALED}: {e}"))?;
    let done = work();
    // To write is allowed; what follows is the end of this process by the kernel's hand.
    say(if done.is_ok() { MARKS[1] } else { "the loop failed\n" })
}

/// What a sealed child says where that is not possible.
const UNSEALED: &str = "the kernel does not seal";

fn counted(told: &Told) -> Result<(), Failure> {
    let space = space(told)?;
    let names: Vec<String> = crate::goal::million::spread_over(told.count, PAIRS_COUNTED).collect();
    let mut all = names.iter().cycle();
    let mut pairs = |count: u32| -> oarlock::Result<()> {
        for name in all.by_ref().take(count as usize) {
            drop(space.lock(name).acquire()?);
        }
        Ok(())
    };
    // Once over all: that a session uses a slot is noted there the first time.
    pairs(PAIRS_COUNTED).map_err(|e| e.to_string())?;
    println!("{READY}");
    let mut go = String::new();
    std::io::stdin().read_line(&mut go).map_err(|e| e.to_string())?;
    pairs(PAIRS_COUNTED).map_err(|e| e.to_string())?;
    // What taking things down costs is not what is counted.
    std::process::exit(0)
}

/// Pairs of a counted child.
pub(crate) const PAIRS_COUNTED: u32 = 2_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Cluster;
    use crate::machine::Cpus;

    const PAIRS: u32 = 100_000;
    /// Says to this test program that it is a child, and what its node's socket is.
    const CHILD: &str = "OARLOCK_BENCH_CHILD";

    /// Not a test of its own: the child of the two below.
    #[test]
    fn child_of_a_test() {
        let Some(told) = std::env::var_os(CHILD) else { return };
        let told = told.into_string().unwrap();
        let (role, at) = told.split_once(' ').unwrap();
        let role = Role::from_str(role, false).unwrap();
        child(&role.told(Path::new(at), "bench/inner", PAIRS)).unwrap();
    }

    /// This test program as a child that does nothing but `role`.
    fn as_child<'a>(command: &'a mut Command, role: &str, cluster: &Cluster) -> &'a mut Command {
        command
            .args(["--exact", "program::tests::child_of_a_test", "--nocapture", "--test-threads=1"])
            .env(CHILD, format!("{role} {}", cluster.socket(0).display()))
            .stdin(Stdio::null())
    }

    /// The kernel itself is the judge: in its strict mode any call but read, write and exit is the end of the thread that
    /// makes it. What remains of the child waits for that thread for ever, so it is not waited for.
    #[test]
    fn the_inner_loop_makes_no_system_call_or_the_kernel_would_kill_it() {
        use std::io::BufRead;
        let cluster = Cluster::lone(Cpus::find().unwrap(), 1000).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        let mut child = as_child(&mut command, "sealed", &cluster)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
        let (said, heard) = std::sync::mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| said.send(line)));
        let mut all = String::new();
        let done = loop {
            match heard.recv_timeout(std::time::Duration::from_secs(30)) {
                Ok(line) if line.contains(MARKS[1].trim_end()) => break true,
                Ok(line) if line.contains(UNSEALED) => {
                    eprintln!("not tested here: {line}");
                    break true;
                }
                Ok(line) => all += &line,
                Err(_) => break false,
            }
        };
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(done, "the loop did not come to its end: {all}");
    }

    /// M14: what is claimed of the fast path beside its time.
    #[test]
    fn strace_sees_no_system_call_in_the_inner_loop() {
        let directory = tempfile::tempdir().unwrap();
        let trace = directory.path().join("trace");
        let probe = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).output();
        let probe = probe.expect("strace: apt-get install strace");
        assert!(
            probe.status.success(),
            "strace may not trace here: {}",
            String::from_utf8_lossy(&probe.stderr)
        );
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o"]).arg(&trace).arg(std::env::current_exe().unwrap());
        let cluster = Cluster::lone(Cpus::find().unwrap(), 1000).unwrap();
        let output = as_child(&mut command, "marked", &cluster).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = std::fs::read_to_string(&trace).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let mark = |mark: &str| {
            let found =
                lines.iter().position(|line| line.contains("write(2") && line.contains(mark.trim_end()));
            found.unwrap_or_else(|| panic!("no {mark:?} in {text}"))
        };
        let between = &lines[mark(MARKS[0]) + 1..mark(MARKS[1])];
        assert!(between.is_empty(), "{} system calls in {PAIRS} pairs: {between:#?}", between.len());
    }
}
