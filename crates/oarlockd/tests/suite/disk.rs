//! What outlives a run: the daemon's data directory and the disks of simulated machines.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use oarlock_layout::id::Epoch;
use oarlock_sim::Random;
use oarlock_sim::conformance::{Arrival, Machines};
use oarlockd::host::state::{DataDir, State};

use super::child::{self, Child};
use super::{Claim, claims};

/// What a run finds when it begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Begun {
    /// Its number.
    pub(crate) run: u64,
    /// The epoch stored last.
    pub(crate) stored: Epoch,
}

/// A disk on which one run after another begins and ends.
pub(crate) trait Disk {
    fn begin(&mut self) -> Begun;
    /// Stores an epoch and waits until that is done.
    fn store(&mut self, epoch: Epoch);
    /// The run ends.
    fn crash(&mut self);
    /// A whole run that stores `first` and every epoch after it, and dies after `patience` of storing. Returns
    /// the last epoch of which it was told that it is stored; one below `first` if there was none.
    fn die_storing(&mut self, first: Epoch, patience: Duration) -> Epoch;
}

pub(crate) fn claims<W: Disk>() -> Vec<Claim<W>> {
    claims![
        what_was_stored_is_found_after_a_crash
        each_run_has_a_higher_number
        an_unfinished_store_leaves_the_old_epoch_or_the_new_one
    ]
}

fn what_was_stored_is_found_after_a_crash<W: Disk>(w: &mut W) {
    let mut last = Epoch(0);
    for epochs in [&[1][..], &[], &[2, 3], &[1000], &[u32::MAX - 1, u32::MAX]] {
        assert_eq!(w.begin().stored, last);
        for epoch in epochs {
            last = Epoch(*epoch);
            w.store(last);
        }
        w.crash();
    }
    assert_eq!(w.begin().stored, last);
    w.crash();
}

/// Also of runs that died before they did anything: nobody may ever hear two runs under one number (L3).
fn each_run_has_a_higher_number<W: Disk>(w: &mut W) {
    let mut last = 0;
    for n in 0..6 {
        let run = w.begin().run;
        assert!(run > last, "run {run} after run {last}");
        last = run;
        if n % 2 == 1 {
            w.store(Epoch(n));
        }
        w.crash();
    }
}

fn an_unfinished_store_leaves_the_old_epoch_or_the_new_one<W: Disk>(w: &mut W) {
    let mut random = Random::new(4);
    let mut last = 0;
    let mut first = 1;
    for _ in 0..6 {
        let patience = Duration::from_micros(random.spread(10, 20_000));
        let told = w.die_storing(Epoch(first), patience);
        let begun = w.begin();
        // Nothing that was acknowledged is lost, and nothing is there but that and what came next.
        let possible = [told, Epoch(told.0 + 1)];
        assert!(possible.contains(&begun.stored), "{:?} of {possible:?}", begun.stored);
        assert!(begun.run > last);
        // What was under way when a run died does not come about behind the back of the next one.
        w.crash();
        let again = w.begin();
        assert_eq!(again.stored, begun.stored);
        w.crash();
        (first, last) = (begun.stored.0 + 1, again.run);
    }
}

// ----- the kernel ---------------------------------------------------------------------------------------

/// A data directory. A crash closes its files, as the end of a process does; the power stays on.
pub(crate) struct Kernel {
    dir: tempfile::TempDir,
    data: Option<DataDir>,
}

impl Kernel {
    pub(crate) fn new() -> Kernel {
        Kernel { dir: tempfile::tempdir().unwrap(), data: None }
    }

    /// Half of a store at every possible place: what a crash leaves beside the file is never read.
    pub(crate) fn check_half_written() {
        let mut disk = Kernel::new();
        disk.begin();
        disk.store(Epoch(4));
        let whole = fs::read(disk.dir.path().join("state")).unwrap();
        let newer = String::from_utf8(whole).unwrap().replace("epoch 4", "epoch 5");
        for length in 0..=newer.len() {
            disk.crash();
            fs::write(disk.dir.path().join("state.new"), &newer[..length]).unwrap();
            let data = open(disk.dir.path());
            assert_eq!(data.state().epoch, Epoch(4), "{length} bytes were written");
            disk.data = Some(data);
        }
        // And the next store is not disturbed by it.
        disk.store(Epoch(5));
        disk.crash();
        assert_eq!(disk.begin().stored, Epoch(5));
    }

    /// Whoever looks while another process stores finds what a crash at that moment would leave: a whole state.
    pub(crate) fn check_every_moment() {
        let (disk, copy) = (Kernel::new(), tempfile::tempdir().unwrap());
        let mut child = Child::start(&["store", disk.dir.path().to_str().unwrap(), "1"]);
        assert_eq!(child.hear().as_deref(), Some("begun"));
        let mut last = Epoch(0);
        let end = Instant::now() + Duration::from_millis(300);
        let (mut looks, mut changes) = (0, 0);
        while Instant::now() < end || looks < 300 || changes < 3 {
            assert!(Instant::now() < end + Duration::from_secs(10), "{looks} looks, {changes} changes");
            let found = fs::read(disk.dir.path().join("state")).unwrap();
            fs::write(copy.path().join("state"), found).unwrap();
            let epoch = open(copy.path()).state().epoch;
            assert!(epoch >= last, "{epoch} after {last}");
            changes += u32::from(epoch > last);
            last = epoch;
            looks += 1;
        }
        child.kill();
    }
}

/// A process that another test is just starting has all our files open for a moment, and with them the lock of a
/// directory that we have given up.
fn open(path: &Path) -> DataDir {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match DataDir::open(path) {
            Ok(data) => return data,
            Err(e) if e.why.contains("another node") && Instant::now() < end => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(e) => panic!("{e:?}"),
        }
    }
}

fn begin(path: &Path) -> (DataDir, Begun) {
    let mut data = open(path);
    let now = data.begin().unwrap();
    (data, Begun { run: now.incarnation.0, stored: now.epoch })
}

/// As the engine does when the node asks for it.
fn store(data: &mut DataDir, epoch: Epoch) {
    data.store(State { epoch, ..data.state() }).unwrap();
}

impl Disk for Kernel {
    fn begin(&mut self) -> Begun {
        assert!(self.data.is_none(), "one run at a time");
        let (data, begun) = begin(self.dir.path());
        self.data = Some(data);
        begun
    }

    fn store(&mut self, epoch: Epoch) {
        store(self.data.as_mut().expect("a run goes on"), epoch);
    }

    fn crash(&mut self) {
        self.data = None;
    }

    fn die_storing(&mut self, first: Epoch, patience: Duration) -> Epoch {
        let path = self.dir.path().to_str().unwrap();
        let mut child = Child::start(&["store", path, &first.to_string()]);
        assert_eq!(child.hear().as_deref(), Some("begun"));
        thread::sleep(patience);
        let said = child.kill();
        said.last().map_or(Epoch(first.0 - 1), |epoch| Epoch(epoch.parse().unwrap()))
    }
}

/// In another process: stores epochs until it is killed.
pub(crate) fn child(dir: &str, first: &str) {
    let (mut data, _) = begin(Path::new(dir));
    child::say("begun");
    for epoch in first.parse().unwrap()..=u32::MAX {
        store(&mut data, Epoch(epoch));
        child::say(&epoch.to_string());
    }
}

// ----- the stand-in -------------------------------------------------------------------------------------

/// A simulated machine.
pub(crate) struct Simulated(Machines);

impl Simulated {
    pub(crate) fn new(seed: u64) -> Simulated {
        Simulated(Machines::new(seed, 1))
    }

    fn stored_by(&mut self, until: oarlock_layout::time::Instant) -> Option<Epoch> {
        self.0.wait(0, until);
        let mut stored = self.0.arrived(0).into_iter().map(|arrival| match arrival {
            Arrival::Stored { epoch } => epoch,
            other => panic!("{other:?} from a disk"),
        });
        stored.next_back()
    }
}

impl Disk for Simulated {
    fn begin(&mut self) -> Begun {
        let (run, stored) = self.0.begin(0);
        Begun { run, stored }
    }

    fn store(&mut self, epoch: Epoch) {
        self.0.store(0, epoch);
        let until = self.0.clock(0) + Duration::from_secs(1);
        assert_eq!(self.stored_by(until), Some(epoch));
    }

    /// Not at once: what could still happen by then has happened.
    fn crash(&mut self) {
        self.0.pass(1_000_000_000);
        self.0.end(0);
    }

    fn die_storing(&mut self, first: Epoch, patience: Duration) -> Epoch {
        self.begin();
        let until = self.0.clock(0) + patience;
        let mut told = Epoch(first.0 - 1);
        loop {
            let next = Epoch(told.0 + 1);
            self.0.store(0, next);
            if self.stored_by(until) != Some(next) {
                break;
            }
            told = next;
        }
        self.0.end(0);
        told
    }
}

// ----- faults -------------------------------------------------------------------------------------------

/// What a world could do wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    OnlyTheFirst,
    LostAtACrash,
    SameNumber,
    Torn,
    AcknowledgesTooEarly,
    StoredByTheDead,
}

pub(crate) const FAULTS: &[(Fault, &str)] = &[
    (Fault::OnlyTheFirst, "what_was_stored_is_found_after_a_crash"),
    (Fault::LostAtACrash, "what_was_stored_is_found_after_a_crash"),
    (Fault::SameNumber, "each_run_has_a_higher_number"),
    (Fault::Torn, "an_unfinished_store_leaves_the_old_epoch_or_the_new_one"),
    (Fault::AcknowledgesTooEarly, "an_unfinished_store_leaves_the_old_epoch_or_the_new_one"),
    (Fault::StoredByTheDead, "an_unfinished_store_leaves_the_old_epoch_or_the_new_one"),
];

/// A world with a fault.
pub(crate) struct Faulty {
    inner: Simulated,
    fault: Fault,
    /// What is found next, if it is not what was stored.
    found: Option<Epoch>,
    /// What is found by the run after the next.
    late: Option<Epoch>,
    stored: bool,
}

impl Faulty {
    pub(crate) fn new(fault: Fault) -> Faulty {
        Faulty { inner: Simulated::new(1), fault, found: None, late: None, stored: false }
    }
}

impl Disk for Faulty {
    fn begin(&mut self) -> Begun {
        let mut begun = self.inner.begin();
        begun.stored = self.found.take().unwrap_or(begun.stored);
        self.found = self.late.take();
        if self.fault == Fault::SameNumber {
            begun.run = 1;
        }
        self.stored = false;
        begun
    }

    fn store(&mut self, epoch: Epoch) {
        if self.fault == Fault::OnlyTheFirst && self.stored {
            return;
        }
        self.stored = true;
        self.inner.store(epoch);
    }

    fn crash(&mut self) {
        self.inner.crash();
        if self.fault == Fault::LostAtACrash {
            self.found = Some(Epoch(0));
        }
    }

    fn die_storing(&mut self, first: Epoch, patience: Duration) -> Epoch {
        let told = self.inner.die_storing(first, patience);
        match self.fault {
            Fault::Torn => self.found = Some(Epoch(told.0 + 256)),
            Fault::AcknowledgesTooEarly => return Epoch(told.0 + 1),
            Fault::StoredByTheDead => self.late = Some(Epoch(told.0 + 1)),
            _ => {}
        }
        told
    }
}
