//! The data directory: a lock, so that one node uses it at a time, and the few numbers that outlive a run.
//!
//! ```text
//!   oarlock-state 1            format
//!   incarnation 7              which run this is; raised and made durable before any socket opens (L3)
//!   epoch 3                    the highest view ever accepted here (R6: tokens grow with it)
//!   clean 0                    1 only if the last run ended with nobody holding a lock, of it or of one before
//!   check 5f2c…                xxh3 of the lines above: a damaged file is refused, never believed
//! ```

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use oarlock_layout::code::Code;
use oarlock_layout::id::{Epoch, Incarnation};
use rustix::fs::FlockOperation;

use crate::host::file;
use crate::problem::{Problem, Result};

const FILE: &str = "state";
const LOCK: &str = "lock";

/// What a node remembers between runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct State {
    /// The run that wrote it.
    pub incarnation: Incarnation,
    /// The highest epoch accepted.
    pub epoch: Epoch,
    /// The run ended with nobody holding a lock of it or of a run before.
    pub clean: bool,
}

impl State {
    /// Before the first run. Clean: a node that never ran has granted nothing.
    pub const FIRST: State = State { incarnation: Incarnation(0), epoch: Epoch(0), clean: true };

    fn print(&self) -> String {
        let body = format!(
            "oarlock-state 1\nincarnation {}\nepoch {}\nclean {}\n",
            self.incarnation.0,
            self.epoch.0,
            u8::from(self.clean)
        );
        let check = xxhash_rust::xxh3::xxh3_64(body.as_bytes());
        format!("{body}check {check:016x}\n")
    }

    fn parse(text: &str) -> Option<State> {
        let mut lines = text.lines();
        if lines.next()? != "oarlock-state 1" {
            return None;
        }
        let incarnation = Incarnation(lines.next()?.strip_prefix("incarnation ")?.parse().ok()?);
        let epoch = Epoch(lines.next()?.strip_prefix("epoch ")?.parse().ok()?);
        let clean = match lines.next()?.strip_prefix("clean ")? {
            "0" => false,
            "1" => true,
            _ => return None,
        };
        let state = State { incarnation, epoch, clean };
        // Printing again compares the check line and everything a lax parser would let pass.
        (state.print() == text).then_some(state)
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
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|e| {
            fail("cannot lock the data directory", &e.into()).because("another node is using it")
        })?;
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

    /// Begins a run: raises the incarnation durably and takes the clean mark away. Returns what the last run
    /// left and what this one is.
    pub fn begin(&mut self) -> Result<(State, State)> {
        let before = self.state;
        let now = State { incarnation: Incarnation(before.incarnation.0 + 1), clean: false, ..before };
        self.store(now)?;
        Ok((before, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_is_a_new_incarnation_and_starts_unclean() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let (before, now) = DataDir::open(&path).unwrap().begin().unwrap();
        assert_eq!((before, now.incarnation, now.clean), (State::FIRST, Incarnation(1), false));

        let mut data = DataDir::open(&path).unwrap();
        data.store(State { epoch: Epoch(4), clean: true, ..data.state() }).unwrap();
        drop(data);
        let (before, now) = DataDir::open(&path).unwrap().begin().unwrap();
        assert_eq!((before.clean, now.clean), (true, false));
        assert_eq!((now.incarnation, now.epoch), (Incarnation(2), Epoch(4)));
    }

    /// A crash in the middle of a write leaves half a file beside the whole one.
    #[test]
    fn half_a_write_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut data = DataDir::open(dir.path()).unwrap();
        data.store(State { epoch: Epoch(4), ..State::FIRST }).unwrap();
        drop(data);
        fs::write(dir.path().join("state.new"), "oarlock-state 1\nincarn").unwrap();
        let (before, _) = DataDir::open(dir.path()).unwrap().begin().unwrap();
        assert_eq!(before.epoch, Epoch(4));
    }

    #[test]
    fn two_nodes_never_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let _first = DataDir::open(dir.path()).unwrap();
        assert_eq!(DataDir::open(dir.path()).err().unwrap().code, Code::DataDir);
    }

    #[test]
    fn a_damaged_state_is_refused_wherever_the_damage_is() {
        let good = State { incarnation: Incarnation(7), epoch: Epoch(3), clean: true }.print();
        assert!(State::parse(&good).is_some());
        for i in 0..good.len() {
            let mut bytes = good.clone().into_bytes();
            bytes[i] ^= 1;
            if let Ok(text) = String::from_utf8(bytes) {
                assert_eq!(State::parse(&text), None, "byte {i}");
            }
        }
        assert_eq!(State::parse(&good[..good.len() - 1]), None);
        assert_eq!(State::parse(""), None);
    }
}
