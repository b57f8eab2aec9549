//! The data directory: a lock, so that one node uses it at a time, and the few numbers that outlive a run.
//!
//! ```text
//!   oarlock-state 3            format
//!   incarnation 7              which run this is; raised and made durable before any socket opens (L3)
//!   epoch 3                    the highest view ever accepted here (R6: tokens grow with it)
//!   ceiling 18432              what this node has announced or acknowledged of the cluster clock; the next run is above (E8)
//!   restored 0000000000000000  which beginning of the cluster it is of; zeros: the founding
//!   check 5f2c…                xxh3 of the lines above: a damaged file is refused, never believed
//! ```
//!
//! Format 1 had no ceiling, because no clock had one; it is read as if it said zero. Formats 1 and 2 said of the last run whether it
//! had ended cleanly. Nothing rests on that since the coordinator knows which runs gave themselves up.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oarlock_layout::code::Code;
use oarlock_layout::id::{Epoch, Incarnation};
use oarlock_layout::stamp::Stamp;
use rustix::fs::FlockOperation;

use crate::host::file;
use crate::problem::{Problem, Result};

const FILE: &str = "state";
const LOCK: &str = "lock";
/// Between two looks whether a directory is free.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// There once it is known that the directory is not the one that the node had; says why.
const DISOWNED: &str = "disowned";
/// There once etcd has decided about a cluster for this node: which one, in hexadecimal digits.
const OUTSIDE: &str = "etcd-cluster";
/// There once the node has left its cluster.
const LEFT: &str = "left";

/// What a node remembers between runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct State {
    /// The run that wrote it.
    pub incarnation: Incarnation,
    /// The highest epoch accepted.
    pub epoch: Epoch,
    /// The highest number of the cluster clock that was announced or acknowledged.
    pub ceiling: Stamp,
    /// Which beginning of the cluster it is of, if not the founding.
    pub restored: Option<u64>,
}

impl State {
    /// Before the first run.
    pub const FIRST: State =
        State { incarnation: Incarnation(0), epoch: Epoch(0), ceiling: Stamp(0), restored: None };

    /// The same with a view accepted: the epoch never falls (R6).
    pub fn accepting(self, epoch: Epoch) -> State {
        State { epoch: self.epoch.max(epoch), ..self }
    }

    /// As the latest format has it.
    fn print(&self) -> String {
        self.print_as(3, &format!("restored {:016x}\n", self.restored.unwrap_or(0)))
    }

    /// As an earlier one had it, with what it said at the end.
    fn print_as(&self, format: u8, end: &str) -> String {
        let ceiling = if format == 1 { String::new() } else { format!("ceiling {}\n", self.ceiling.0) };
        let body = format!(
            "oarlock-state {format}\nincarnation {}\nepoch {}\n{ceiling}{end}",
            self.incarnation.0, self.epoch.0,
        );
        let check = xxhash_rust::xxh3::xxh3_64(body.as_bytes());
        format!("{body}check {check:016x}\n")
    }

    fn parse(text: &str) -> Option<State> {
        let mut lines = text.lines();
        let format = match lines.next()? {
            "oarlock-state 1" => 1,
            "oarlock-state 2" => 2,
            "oarlock-state 3" => 3,
            _ => return None,
        };
        let incarnation = Incarnation(lines.next()?.strip_prefix("incarnation ")?.parse().ok()?);
        let epoch = Epoch(lines.next()?.strip_prefix("epoch ")?.parse().ok()?);
        let ceiling = match format {
            1 => Stamp(0),
            _ => Stamp(lines.next()?.strip_prefix("ceiling ")?.parse().ok()?),
        };
        let end = lines.next()?;
        let restored = match (format, end) {
            (3, _) => u64::from_str_radix(end.strip_prefix("restored ")?, 16).ok().filter(|it| *it != 0),
            (_, "clean 0" | "clean 1") => None,
            _ => return None,
        };
        let state = State { incarnation, epoch, ceiling, restored };
        // Printing again compares the check line and everything a lax parser would let pass.
        (ceiling <= Stamp::MAX && state.print_as(format, &format!("{end}\n")) == text).then_some(state)
    }
}

/// A data directory that belongs to this process until it ends.
pub struct DataDir {
    path: PathBuf,
    state: State,
    _lock: File,
}

impl DataDir {
    /// Takes the directory (made if it is missing) and reads what the last run left.
    pub fn open(path: &Path) -> Result<DataDir> {
        DataDir::open_within(Duration::ZERO, path)
    }

    /// The same, but gives whoever has the directory some time to let it go: a process that was killed a moment ago.
    pub fn open_within(most: Duration, path: &Path) -> Result<DataDir> {
        let shown = path.display();
        let fail = |what: &str, e: &io::Error| Problem::io(Code::DataDir, format!("{what} {shown}"), e);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|e| fail("cannot make the data directory", &e))?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK))
            .map_err(|e| fail("cannot lock the data directory", &e))?;
        let end = Instant::now() + most;
        while let Err(e) = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if Instant::now() >= end {
                return Err(
                    fail("cannot lock the data directory", &e.into()).because("another node is using it")
                );
            }
            std::thread::sleep(LOOK_EVERY);
        }
        DataDir::locked(path, lock)
    }

    /// What passes into the program that takes this one's place.
    pub fn lock(&self) -> BorrowedFd<'_> {
        self._lock.as_fd()
    }

    /// The directory of the run that goes on, with its [`lock`](DataDir::lock).
    pub fn resume(path: &Path, lock: OwnedFd) -> Result<DataDir> {
        DataDir::locked(path, lock.into())
    }

    fn locked(path: &Path, lock: File) -> Result<DataDir> {
        let shown = path.display();
        let fail = |what: &str, e: &io::Error| Problem::io(Code::DataDir, format!("{what} {shown}"), e);
        let state = match fs::read_to_string(path.join(FILE)) {
            Ok(text) => State::parse(&text).ok_or_else(|| {
                Problem::new(Code::DataDir, format!("{shown}/{FILE} is damaged"))
                    .because("its check line does not fit its contents")
                    .try_next(
                        "stop every node, restore the file from a backup or remove the data directories of all \
                         nodes; never reuse old tokens after that",
                    )
            })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => State::FIRST,
            Err(e) => return Err(fail("cannot read the state in", &e)),
        };
        Ok(DataDir { path: path.into(), state, _lock: lock })
    }

    /// The node has left its cluster: nothing in here is of use any more.
    pub fn mark_left(&self) -> Result<()> {
        file::replace(&self.path.join(LEFT), b"this node has left its cluster\n", 0o600)
            .map_err(|e| Problem::io(Code::DataDir, format!("cannot write to {}", self.path.display()), &e))
    }

    /// Refuses the directory of a node that has left its cluster.
    pub fn refuse_left(&self) -> Result<()> {
        match self.path.join(LEFT).exists() {
            true => {
                let what = format!("the node of {} has left its cluster", self.path.display());
                Err(Problem::new(Code::HasLeft, what))
            }
            false => Ok(()),
        }
    }

    /// Refuses a directory in which no run may begin.
    pub fn refuse_disowned(&self) -> Result<()> {
        match fs::read_to_string(self.path.join(DISOWNED)) {
            Ok(why) => Err(self.disowned(why.trim_end())),
            Err(_) => Ok(()),
        }
    }

    /// The cluster that etcd decides about for this node, if it has heard of one.
    ///
    /// # Errors
    /// A file that cannot be read, or says something else.
    pub fn outside(&self) -> Result<Option<u128>> {
        let file = self.path.join(OUTSIDE);
        match fs::read_to_string(&file) {
            Ok(text) => match u128::from_str_radix(text.trim_end(), 16) {
                Ok(id) => Ok(Some(id)),
                Err(_) => Err(Problem::new(Code::DataDir, format!("{} is damaged", file.display()))
                    .because("it names the cluster that etcd keeps for this node, in hexadecimal digits")
                    .try_next("remove that file once endpoints and prefix are known to be right")),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Problem::io(Code::DataDir, format!("cannot read {}", file.display()), &e)),
        }
    }

    /// Remembers it.
    pub fn keep_outside(&self, cluster: u128) -> Result<()> {
        file::replace(&self.path.join(OUTSIDE), format!("{cluster:032x}\n").as_bytes(), 0o600)
            .map_err(|e| Problem::io(Code::DataDir, format!("cannot write in {}", self.path.display()), &e))
    }

    /// What is stored now.
    pub fn state(&self) -> State {
        self.state
    }

    /// Makes a new state durable.
    pub fn store(&mut self, state: State) -> Result<()> {
        file::replace(&self.path.join(FILE), state.print().as_bytes(), 0o600).map_err(|e| {
            Problem::io(Code::DataDir, format!("cannot write the state in {}", self.path.display()), &e)
        })?;
        self.state = state;
        Ok(())
    }

    /// Refuses a view with a new run in it that is older than one that was accepted here: the coordinator was put back (R6).
    pub fn refuse_older(&self, epoch: Epoch) -> Result<()> {
        if epoch >= self.state.epoch {
            return Ok(());
        }
        let (shown, seen) = (self.path.display(), self.state.epoch);
        Err(Problem::new(Code::DataDir, format!("{shown} has seen view {seen}, and the coordinator is at {epoch}"))
            .because("the coordinator was put back to something older: tokens would be issued a second time")
            .try_next("the coordinator that it had; with every node stopped: oarlock coord restore --above, at every member"))
    }

    /// No run begins here any more: the node has run before, in a directory that it had before this one.
    pub fn disown(&self, why: &str) -> Result<()> {
        let why = format!("{why}\n");
        file::replace(&self.path.join(DISOWNED), why.as_bytes(), 0o600)
            .map_err(|e| Problem::io(Code::DataDir, format!("cannot write in {}", self.path.display()), &e))
    }

    /// The problem that a node has with such a directory.
    pub fn disowned(&self, why: &str) -> Problem {
        Problem::new(Code::DirectoryForgot, format!("{} is new, and its node is not", self.path.display()))
            .because(why)
    }

    /// It has been made what the node needs.
    pub fn own(&self) -> Result<()> {
        match fs::remove_file(self.path.join(DISOWNED)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Problem::io(Code::DataDir, format!("cannot write in {}", self.path.display()), &e))
            }
            _ => Ok(()),
        }
    }

    /// Begins a run: raises the incarnation durably. Returns what is stored now.
    pub fn begin(&mut self) -> Result<State> {
        self.refuse_disowned()?;
        let before = self.state;
        self.store(State { incarnation: Incarnation(before.incarnation.0 + 1), ..before })?;
        Ok(self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_is_a_new_incarnation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let now = DataDir::open(&path).unwrap().begin().unwrap();
        assert_eq!(now, State { incarnation: Incarnation(1), ..State::FIRST });

        let mut data = DataDir::open(&path).unwrap();
        data.store(State { epoch: Epoch(4), ceiling: Stamp(70), ..data.state() }).unwrap();
        drop(data);
        let now = DataDir::open(&path).unwrap().begin().unwrap();
        assert_eq!((now.incarnation, now.epoch, now.ceiling), (Incarnation(2), Epoch(4), Stamp(70)));
    }

    /// A node that ran before there were ceilings has issued nothing above one.
    #[test]
    fn earlier_formats_are_read_and_the_latest_one_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let old = State { incarnation: Incarnation(7), epoch: Epoch(3), ..State::FIRST };
        for (format, end) in [(1, "clean 1\n"), (2, "clean 0\n"), (2, "clean 1\n")] {
            fs::write(dir.path().join("state"), old.print_as(format, end)).unwrap();
            let mut data = DataDir::open(dir.path()).unwrap();
            assert_eq!(data.state(), old, "format {format}");
            data.begin().unwrap();
            drop(data);
            let text = fs::read_to_string(dir.path().join("state")).unwrap();
            let expected =
                "oarlock-state 3\nincarnation 8\nepoch 3\nceiling 0\nrestored 0000000000000000\ncheck ";
            assert!(text.starts_with(expected), "{text}");
        }
    }

    /// A crash in the middle of a write leaves half a file beside the whole one.
    #[test]
    fn half_a_write_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut data = DataDir::open(dir.path()).unwrap();
        data.store(State { epoch: Epoch(4), ..State::FIRST }).unwrap();
        drop(data);
        fs::write(dir.path().join("state.new"), "oarlock-state 1\nincarn").unwrap();
        assert_eq!(DataDir::open(dir.path()).unwrap().begin().unwrap().epoch, Epoch(4));
    }

    /// R6: the epoch that is kept never falls, and an older view is refused.
    #[test]
    fn what_was_put_back_to_something_older_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut data = DataDir::open(dir.path()).unwrap();
        data.store(data.state().accepting(Epoch(4))).unwrap();
        assert!(data.refuse_older(Epoch(4)).is_ok() && data.refuse_older(Epoch(5)).is_ok());
        let problem = data.refuse_older(Epoch(3)).unwrap_err();
        assert_eq!((problem.code, problem.exit()), (Code::DataDir, 78), "no restart makes it better");
        assert_eq!(data.state().accepting(Epoch(3)).epoch, Epoch(4));
    }

    #[test]
    fn no_run_begins_in_a_directory_that_was_disowned() {
        let dir = tempfile::tempdir().unwrap();
        let mut data = DataDir::open(dir.path()).unwrap();
        let first = data.begin().unwrap();
        data.disown("node-b knows better").unwrap();
        for _ in 0..2 {
            let problem = data.begin().unwrap_err();
            assert_eq!((problem.code, problem.why.as_str()), (Code::DirectoryForgot, "node-b knows better"));
            assert_eq!(data.state(), first);
        }
        data.own().unwrap();
        data.own().unwrap();
        data.begin().unwrap();
    }

    #[test]
    fn a_directory_remembers_which_cluster_etcd_keeps_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        assert_eq!(data.outside().unwrap(), None);
        data.keep_outside(0xbeef).unwrap();
        assert_eq!(data.outside().unwrap(), Some(0xbeef));
        fs::write(dir.path().join(OUTSIDE), "harbour\n").unwrap();
        assert_eq!(data.outside().unwrap_err().code, Code::DataDir);
    }

    #[test]
    fn two_nodes_never_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let _first = DataDir::open(dir.path()).unwrap();
        assert_eq!(DataDir::open(dir.path()).err().unwrap().code, Code::DataDir);
    }

    #[test]
    fn a_damaged_state_is_refused_wherever_the_damage_is() {
        let restored = Some(0xdead_beef_0123);
        let state = State { incarnation: Incarnation(7), epoch: Epoch(3), ceiling: Stamp(9), restored };
        assert_eq!(State::parse(&state.print()), Some(state));
        let before = [state.print_as(1, "clean 1\n"), state.print_as(2, "clean 0\n")];
        for good in [state.print()].into_iter().chain(before) {
            assert!(State::parse(&good).is_some());
            for i in 0..good.len() {
                let mut bytes = good.clone().into_bytes();
                bytes[i] ^= 1;
                if let Ok(text) = String::from_utf8(bytes) {
                    assert_eq!(State::parse(&text), None, "byte {i}");
                }
            }
            assert_eq!(State::parse(&good[..good.len() - 1]), None);
        }
        assert_eq!(State::parse(""), None);
    }
}
