//! The file of the embedded coordinator on a disk that forgets what was not forced, is full, or lies.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oarlock_cluster::registry::Command;
use oarlock_layout::id::NodeId;
use oarlock_layout::message::raft::{Ballot, Call, Leadership, LogEntry, LogId, Payload};
use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, RaftLogStorage};
use redb::{Database, StorageBackend, TableDefinition};
use tempfile::TempDir;

use super::line::Answering;
use super::store::Store;
use super::types::{self, SnapshotMeta};
use super::{Embedded, Line, Tuning};
use crate::coordinator::{Coordinator, Trouble};

/// What a disk writes wholly or not at all.
const SECTOR_BYTES: usize = 512;

/// What is done to a disk.
#[derive(Clone, Debug)]
enum Op {
    Write(u64, Vec<u8>),
    Length(u64),
    Force,
}

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    done: Vec<Op>,
    /// No byte beyond this.
    room: Option<u64>,
    /// After so many things more it does nothing more.
    works_for: Option<usize>,
}

impl Content {
    fn apply(bytes: &mut Vec<u8>, op: &Op) {
        match op {
            Op::Write(at, data) => {
                let end = *at as usize + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*at as usize..end].copy_from_slice(data);
            }
            Op::Length(length) => bytes.resize(*length as usize, 0),
            Op::Force => {}
        }
    }
}

/// A disk in memory that remembers what was done to it.
#[derive(Clone, Debug, Default)]
pub(in crate::coordinator) struct Disk(Arc<Mutex<Content>>);

impl Disk {
    /// A coordinator on this disk.
    pub(in crate::coordinator) async fn start(
        &self,
        me: NodeId,
        line: Arc<dyn Line>,
        tuning: Tuning,
    ) -> Result<Embedded, String> {
        let store = self.store().map_err(|e| e.to_string())?;
        Embedded::start_on(me, store, line, tuning).await
    }

    /// There is no room left.
    pub(in crate::coordinator) fn fill(&self) {
        let mut content = self.0.lock().unwrap();
        content.room = Some(content.bytes.len() as u64);
    }

    fn act(&self, op: Op) -> io::Result<()> {
        let mut content = self.0.lock().unwrap();
        let end = match &op {
            Op::Write(at, data) => at + data.len() as u64,
            Op::Length(length) => *length,
            Op::Force => 0,
        };
        if content.room.is_some_and(|room| end > room) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        if let Some(left) = &mut content.works_for {
            *left = left.checked_sub(1).ok_or_else(|| io::Error::other("the disk is broken"))?;
        }
        Content::apply(&mut content.bytes, &op);
        content.done.push(op);
        Ok(())
    }

    /// A disk with these bytes.
    fn of(bytes: Vec<u8>) -> Disk {
        Disk(Arc::new(Mutex::new(Content { bytes, ..Content::default() })))
    }

    fn steps(&self) -> usize {
        self.0.lock().unwrap().done.len()
    }

    fn database(&self) -> Result<Database, redb::DatabaseError> {
        redb::Builder::new().create_with_backend(self.clone())
    }

    fn store(&self) -> io::Result<Store> {
        let path = Path::new("a disk in memory");
        let new = self.0.lock().unwrap().bytes.is_empty();
        if !new {
            return Store::look_through(self.clone(), path);
        }
        Store::on(self.database().map_err(io::Error::other)?, path)
    }

    /// The disk after a crash when `steps` things had been done: what was forced is there; of each write that came after, as many
    /// bytes as `there` says of its length.
    fn crashed(&self, steps: usize, mut there: impl FnMut(usize) -> usize) -> Disk {
        let content = self.0.lock().unwrap();
        let done = &content.done[..steps];
        let forced = done.iter().rposition(|op| matches!(op, Op::Force)).unwrap_or(0);
        let mut bytes = Vec::new();
        for (n, op) in done.iter().enumerate() {
            match op {
                Op::Write(at, data) if n > forced => {
                    let some = data[..there(data.len())].to_vec();
                    if !some.is_empty() {
                        Content::apply(&mut bytes, &Op::Write(*at, some));
                    }
                }
                // The length of a file is kept in order with what is written behind it.
                _ => Content::apply(&mut bytes, op),
            }
        }
        Disk(Arc::new(Mutex::new(Content { bytes, ..Content::default() })))
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let content = self.0.lock().unwrap();
        let there = content.bytes.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(there.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.act(Op::Length(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.act(Op::Force)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.act(Op::Write(offset, data.to_vec()))
    }
}

/// What the file must say.
#[derive(Clone, PartialEq, Default)]
struct Truth {
    ballot: Option<Ballot>,
    purged: Option<u64>,
    entries: Vec<LogEntry>,
    snapshot: Option<Vec<u8>>,
    /// The last entry in that.
    covered: Option<LogId>,
    committed: Option<LogId>,
}

impl fmt::Debug for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries: Vec<_> = self.entries.iter().map(|entry| entry.id.index).collect();
        let (ballot, snapshot) = (&self.ballot, self.snapshot.as_ref().map(Vec::len));
        let (purged, committed) = (self.purged, self.committed);
        write!(f, "{ballot:?}, purged {purged:?}, entries {entries:?}, ")?;
        write!(f, "snapshot of {snapshot:?} bytes to {:?}, committed {committed:?}", self.covered)
    }
}

impl Truth {
    async fn of(store: &Store) -> io::Result<Truth> {
        let mut store = store.clone();
        let state = store.get_log_state().await?;
        let entries = store.try_get_log_entries(..).await?;
        let snapshot = store.current_snapshot()?;
        Ok(Truth {
            ballot: store.read_vote().await?.map(|vote| types::ballot(&vote)),
            purged: state.last_purged_log_id.map(|id| id.index),
            entries: entries.iter().map(types::record).collect(),
            covered: snapshot.as_ref().and_then(|kept| kept.meta.last_log_id).map(types::log_id),
            snapshot: snapshot.map(|kept| kept.snapshot),
            committed: store.read_committed().await?.map(types::log_id),
        })
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

fn at(term: u64, index: u64) -> LogId {
    LogId { leadership: Leadership { term, node: NodeId(1) }, index }
}

async fn step_ballot(store: &mut Store, truth: &mut Truth, term: u64) -> io::Result<()> {
    let ballot = Ballot { leadership: at(term, 0).leadership, committed: true };
    store.save_vote(&types::vote(ballot)).await?;
    truth.ballot = Some(ballot);
    Ok(())
}

/// One thing that the library wants kept, done to the file and to the truth.
async fn step(store: &mut Store, truth: &mut Truth, chance: &mut Chance, term: &mut u64) -> io::Result<()> {
    let next = truth.entries.last().map_or(truth.purged.map_or(0, |purged| purged + 1), |e| e.id.index + 1);
    match chance.below(10) {
        0 => {
            *term += 1;
            let ballot = Ballot { leadership: at(*term, 0).leadership, committed: chance.below(2) == 0 };
            store.save_vote(&types::vote(ballot)).await?;
            truth.ballot = Some(ballot);
        }
        1 if truth.entries.len() > 2 => {
            let keep = truth.entries.len() - 1 - chance.below(2) as usize;
            store.truncate_after(Some(types::id(truth.entries[keep - 1].id))).await?;
            truth.entries.truncate(keep);
        }
        // Only what a snapshot covers is ever dropped.
        2 if truth.entries.len() > 3 && truth.covered >= Some(truth.entries[2].id) => {
            let upto = truth.entries[chance.below(3) as usize].id;
            store.purge(types::id(upto)).await?;
            truth.purged = Some(upto.index);
            truth.entries.retain(|entry| entry.id.index > upto.index);
        }
        3 | 4 if !truth.entries.is_empty() => {
            let bytes = vec![chance.below(256) as u8; 1 + chance.below(9_000) as usize];
            // Sometimes one of an earlier time is written late.
            let last = truth.entries[chance.below(truth.entries.len() as u64) as usize].id;
            let meta = SnapshotMeta { last_log_id: Some(types::id(last)), ..SnapshotMeta::default() };
            store.keep_snapshot(&meta, &bytes).await?;
            if Some(last) > truth.covered {
                (truth.snapshot, truth.covered) = (Some(bytes), Some(last));
            }
        }
        5 if !truth.entries.is_empty() => {
            let upto = truth.entries[chance.below(truth.entries.len() as u64) as usize].id;
            store.save_committed(Some(types::id(upto))).await?;
            truth.committed = Some(upto);
        }
        _ => {
            let entries: Vec<LogEntry> = (next..next + 1 + chance.below(4))
                .map(|index| {
                    let bytes = vec![index as u8; chance.below(700) as usize];
                    LogEntry { id: at(*term, index), payload: Payload::Command(bytes) }
                })
                .collect();
            store.append(entries.iter().cloned().map(types::entry), IOFlushed::noop()).await?;
            truth.entries.extend(entries);
        }
    }
    Ok(())
}

/// After each thing that is done to the disk it may stop, with any part of what was not forced there or not: what the
/// library was told is kept is kept, and what it was not told of is there wholly or not at all.
#[test]
fn whatever_was_answered_outlives_a_crash_after_any_write() {
    run(async {
        for seed in [88_172_645_463_325_252, 7, 1_234_567] {
            crashes(seed).await;
        }
    });
}

async fn crashes(seed: u64) {
    let mut chance = Chance(seed);
    let disk = Disk::default();
    let mut store = disk.store().unwrap();
    let (mut truth, mut term) = (Truth::default(), 1);
    step_ballot(&mut store, &mut truth, term).await.unwrap();
    // The truth, and what had been done to the disk when it became so.
    let mut past = vec![(disk.steps(), truth.clone())];
    for _ in 0..40 {
        step(&mut store, &mut truth, &mut chance, &mut term).await.unwrap();
        past.push((disk.steps(), truth.clone()));
    }
    drop(store);
    let mut tried = 0;
    for steps in past[0].0..=past.last().unwrap().0 {
        let before = past.iter().rposition(|(at, _)| *at <= steps).unwrap();
        let allowed: Vec<&Truth> = past[before..].iter().take(2).map(|(_, truth)| truth).collect();
        for kind in 0..4 {
            let there = |length: usize| match kind {
                0 => 0,
                1 => length,
                2 => length * chance.below(2) as usize,
                // A disk writes whole sectors.
                _ => {
                    length.min(SECTOR_BYTES * chance.below(length.div_ceil(SECTOR_BYTES) as u64 + 1) as usize)
                }
            };
            let crashed = disk.crashed(steps, there);
            let store = crashed.store().unwrap_or_else(|e| panic!("after {steps} steps, kind {kind}: {e}"));
            let found = Truth::of(&store).await.unwrap();
            assert!(allowed.contains(&&found), "after {steps} steps, kind {kind}: {found:?}\n{allowed:?}");
            tried += 1;
        }
    }
    assert!(tried > 300, "{tried} crashes");
}

/// A disk that breaks at any write, at any change of the file's length and at any forcing: whoever wanted something kept hears of
/// it, and when the disk is well again, what was answered before is there, and what failed is there wholly or not at all.
#[test]
fn a_disk_that_breaks_at_any_write_keeps_what_was_answered() {
    run(async {
        // What is there after each step on a disk that works.
        let mut past = vec![Truth::default()];
        assert_eq!(steps_on(&Disk::default(), &mut past).await, None);
        let mut broke = 0;
        for works_for in 0.. {
            let disk = Disk::default();
            drop(disk.store().unwrap());
            disk.0.lock().unwrap().works_for = Some(works_for);
            let mut done = vec![Truth::default()];
            let Some(why) = steps_on(&disk, &mut done).await else { break };
            assert!(why.contains("the disk is broken"), "{why}");
            disk.0.lock().unwrap().works_for = None;
            let found = Truth::of(&disk.store().unwrap()).await.unwrap();
            let allowed = &past[done.len() - 1..=done.len()];
            assert!(allowed.contains(&found), "{works_for}: {found:?}\n{allowed:?}");
            broke += 1;
        }
        println!("broken at {broke} places");
        assert!(broke > 100, "{broke} places");
    });
}

/// The same steps as ever, until one fails; adds the truth after each.
async fn steps_on(disk: &Disk, truths: &mut Vec<Truth>) -> Option<String> {
    let mut chance = Chance(88_172_645_463_325_252);
    let (mut truth, mut term) = (Truth::default(), 1);
    let mut store = match disk.store() {
        Ok(store) => store,
        Err(why) => return Some(why.to_string()),
    };
    for n in 0..25 {
        let done = match n {
            0 => step_ballot(&mut store, &mut truth, term).await,
            _ => step(&mut store, &mut truth, &mut chance, &mut term).await,
        };
        if let Err(why) = done {
            return Some(why.to_string());
        }
        truths.push(truth.clone());
    }
    None
}

/// What does not fit is refused, and what was there before stays.
#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    run(async {
        let mut chance = Chance(42);
        let disk = Disk::default();
        let mut store = disk.store().unwrap();
        let (mut truth, mut term) = (Truth::default(), 1);
        step_ballot(&mut store, &mut truth, term).await.unwrap();
        for _ in 0..10 {
            step(&mut store, &mut truth, &mut chance, &mut term).await.unwrap();
        }
        let room = disk.0.lock().unwrap().bytes.len() as u64;
        disk.0.lock().unwrap().room = Some(room);
        let refused = loop {
            let before = truth.clone();
            match step(&mut store, &mut truth, &mut chance, &mut term).await {
                Ok(()) => {}
                Err(why) => {
                    truth = before;
                    break why;
                }
            }
        };
        assert!(refused.to_string().starts_with("a disk in memory: "), "{refused}");
        drop(store);
        disk.0.lock().unwrap().room = None;
        assert_eq!(Truth::of(&disk.store().unwrap()).await.unwrap(), truth);
    });
}

/// A node whose disk is full takes no part any more, and says why; the process goes on.
#[test]
fn a_node_with_a_full_disk_stops_taking_part() {
    struct Nobody;
    impl Line for Nobody {
        fn call(&self, _: NodeId, _: Call, _: Duration) -> Answering {
            Box::pin(std::future::ready(None))
        }
    }
    run(async {
        let disk = Disk::default();
        let store = disk.store().unwrap();
        let node = Embedded::start_on(NodeId(1), store, Arc::new(Nobody), Tuning::default()).await.unwrap();
        node.begin(&BTreeSet::from([NodeId(1)])).await.unwrap();
        let revoke = |serial| Command::RevokeToken { serial };
        while node.propose(&revoke(0)).await.is_err() {}
        let room = disk.0.lock().unwrap().bytes.len() as u64;
        disk.0.lock().unwrap().room = Some(room);
        let mut said = None;
        for serial in 1..2_000 {
            match node.propose(&revoke(serial)).await {
                Err(trouble @ Trouble::Stopped(_)) => {
                    said = Some(trouble.to_string());
                    break;
                }
                Ok(_) | Err(Trouble::Unknown | Trouble::NoQuorum) => {}
                Err(other) => panic!("{other}"),
            }
        }
        let said = said.expect("the disk was never full");
        assert!(said.contains("a disk in memory"), "{said}");
        assert!(node.confirmed().await.is_err());
    });
}

/// A damaged record is found when the file is opened, and named.
#[test]
fn damage_is_found_at_the_start_and_named() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("coordinator.redb");
    let fill = || async {
        let mut store = Store::open(&path).unwrap();
        let entries = (0..5).map(|index| LogEntry { id: at(1, index), payload: Payload::Blank });
        store.append(entries.map(types::entry), IOFlushed::noop()).await.unwrap();
        let ballot = Ballot { leadership: at(1, 0).leadership, committed: true };
        store.save_vote(&types::vote(ballot)).await.unwrap();
    };
    let log: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
    let marks: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("marks");
    let damage = |table: &str, change: &dyn Fn(&redb::WriteTransaction)| {
        std::fs::remove_file(&path).ok();
        run(fill());
        let database = Database::create(&path).unwrap();
        let txn = database.begin_write().unwrap();
        change(&txn);
        txn.commit().unwrap();
        drop(database);
        let why = Store::open(&path).err().unwrap_or_else(|| panic!("{table}: opened")).to_string();
        assert!(why.starts_with(&path.display().to_string()), "{why}");
        why
    };
    let put = |index: u64, bytes: &'static [u8]| {
        move |txn: &redb::WriteTransaction| {
            txn.open_table(log).unwrap().insert(index, bytes).unwrap();
        }
    };
    let why = damage("log", &put(3, b"something that is no record"));
    let place = why.split_once("entry 3 of the log is damaged, 27 bytes at byte ").expect(&why).1;
    let place: usize = place.split_once(" of the file: its checksum").expect(&why).0.parse().unwrap();
    assert!(std::fs::read(&path).unwrap()[place..].starts_with(b"something that is no record"));
    let why = damage("log", &put(3, b"short"));
    assert!(why.contains("entry 3 of the log has 5 bytes"), "{why}");
    let hole = |txn: &redb::WriteTransaction| {
        txn.open_table(log).unwrap().remove(2).unwrap();
    };
    let why = damage("log", &hole);
    assert!(why.contains("entry 2 of the log is missing"), "{why}");
    let mark = |name: &'static str| {
        move |txn: &redb::WriteTransaction| {
            txn.open_table(marks).unwrap().insert(name, b"0123456789abcdef".as_slice()).unwrap();
        }
    };
    for name in ["ballot", "snapshot", "format", "purged", "committed"] {
        let why = damage(name, &mark(name));
        assert!(why.contains(&format!("{name} is damaged")), "{why}");
    }
    // Bytes of the file itself, wherever: refused, or they were nobody's.
    run(async {
        let mut refused = 0;
        for at in (0..60).map(|n| n * 997 + 64) {
            std::fs::remove_file(&path).ok();
            fill().await;
            let mut bytes = std::fs::read(&path).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 0x10;
            std::fs::write(&path, &bytes).unwrap();
            match Store::open(&path) {
                Err(why) => {
                    assert!(why.to_string().starts_with(&path.display().to_string()), "{why}");
                    refused += 1;
                }
                Ok(store) => {
                    let found = Truth::of(&store).await.unwrap();
                    assert_eq!((found.entries.len(), found.ballot.is_some()), (5, true), "byte {at}");
                }
            }
        }
        assert!(refused > 0, "no byte mattered");
    });
    // Not a file of ours at all.
    std::fs::write(&path, b"this is no database, it is a letter to a friend".repeat(200)).unwrap();
    let why = Store::open(&path).err().expect("refused").to_string();
    assert!(why.starts_with(&path.display().to_string()), "{why}");
}

mod damage;
