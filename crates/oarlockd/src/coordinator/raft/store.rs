//! What must outlive this process: log, ballot, snapshot, in one file.
//!
//! Each write is one transaction that is on disk before it counts. A record carries a checksum of its own: what the file
//! says about itself is believed only as far as it can be checked.

use std::fmt;
use std::io;
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oarlock_layout::codec::{Reader, Wire, Writer};
use oarlock_layout::message::raft::{Ballot, LogEntry, LogId, VotersAt};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    WriteTransaction,
};
use xxhash_rust::xxh3::xxh3_64;

use super::types::{self, Entry, Id, Snapshot, SnapshotMeta, Types, Vote};

mod anew;
mod newest;
mod watched;

use watched::Watched;

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const MARKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("marks");

/// What the file calls itself; another layout gets another word.
const FORMAT: &[u8] = b"oarlock coordinator 1";
const CHECKSUM_BYTES: usize = 8;

/// The file. Clones are the same file.
#[derive(Clone)]
pub(super) struct Store {
    file: Arc<File>,
}

struct File {
    database: Database,
    path: PathBuf,
}

/// A snapshot as it is kept.
struct Kept {
    last: Option<LogId>,
    voters: VotersAt,
    bytes: Vec<u8>,
}

impl Store {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// With the name of the file, and what of it cannot be read.
    pub(super) fn open(path: &Path) -> io::Result<Store> {
        let failed = |what: &dyn fmt::Display| io::Error::other(format!("{}: {what}", path.display()));
        if !path.exists() {
            Store::make(path).map_err(|e| failed(&e))?;
        }
        let file = std::fs::File::options().read(true).write(true).open(path).map_err(|e| failed(&e))?;
        Store::look_through(FileBackend::new(file).map_err(|e| failed(&e))?, path)
    }

    /// Opens what is there already. All of it is looked at, so damage is found now.
    pub(super) fn look_through(file: impl StorageBackend, path: &Path) -> io::Result<Store> {
        let failed = |e: io::Error| io::Error::other(format!("{}: {e}", path.display()));
        newest::put_in_force(&file, path).map_err(failed)?;
        Store::look_through_all(file, path)
    }

    fn look_through_all(file: impl StorageBackend, path: &Path) -> io::Result<Store> {
        let failed = |what: &dyn fmt::Display| io::Error::other(format!("{}: {what}", path.display()));
        let file = Watched::new(file);
        if file.len().map_err(|e| failed(&e))? == 0 {
            return Err(failed(&"it is empty"));
        }
        let place = file.place();
        let database = Database::builder().set_check_integrity_on_open(true).create_with_backend(file);
        let database = database.map_err(|e| match &e {
            DatabaseError::Storage(_) => {
                let place = place.lock().map_or_else(|it| *it.into_inner(), |it| *it);
                failed(&format_args!("{e}; {place} of the file were looked at last"))
            }
            DatabaseError::UpgradeRequired(version) => failed(&format_args!(
                "by byte 64 or 192 its database is of format {version}, and this version does not know what that is"
            )),
            _ => failed(&e),
        })?;
        Store::on(database, path)
    }

    /// A new file: whole, or not there.
    fn make(path: &Path) -> io::Result<()> {
        let beside = path.with_extension("new");
        let done = match std::fs::remove_file(&beside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => Store::on(Database::create(&beside).map_err(io::Error::other)?, &beside),
        };
        drop(done?);
        std::fs::rename(&beside, path)?;
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
        std::fs::File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }

    /// The same in a database that is open; `path` is what errors call it.
    pub(super) fn on(database: Database, path: &Path) -> io::Result<Store> {
        let store = Store { file: Arc::new(File { database, path: path.to_owned() }) };
        let format = store.mark("format")?;
        match format.as_deref() {
            None if store.used()? => return Err(store.failed("it does not say what it is")),
            None => store.write(|txn| {
                txn.open_table(LOG)?;
                txn.open_table(MARKS)?.insert("format", sealed(FORMAT).as_slice())?;
                Ok(())
            })?,
            Some(FORMAT) => {}
            Some(other) => {
                let other = String::from_utf8_lossy(other);
                return Err(store.failed(format_args!(
                    "it calls itself \"{other}\", and this version does not know what that is"
                )));
            }
        }
        // What is damaged is found now, and not in the middle of an election.
        store.entries(..)?;
        store.ballot()?;
        store.snapshot()?;
        store.record::<LogId>("purged")?;
        store.record::<LogId>("committed")?;
        store.fits_together()?;
        Ok(store)
    }

    /// Has anything ever been kept here?
    fn used(&self) -> io::Result<bool> {
        let look = || -> Result<bool, redb::Error> {
            let txn = self.file.database.begin_read()?;
            Ok(txn.list_tables()?.next().is_some())
        };
        look().map_err(|e| self.failed(e))
    }

    /// What one record says of another.
    fn fits_together(&self) -> io::Result<()> {
        let purged = self.record::<LogId>("purged")?.map(|id| id.index);
        let first = self.entries(..)?.first().map(|entry| entry.id.index);
        let want = purged.map_or(0, |purged| purged + 1);
        if let Some(first) = first.filter(|first| *first != want) {
            return Err(self.failed(format_args!("the log begins with entry {first}, and {want} is next")));
        }
        let covered = self.snapshot()?.and_then(|kept| kept.last).map(|id| id.index);
        if purged > covered {
            return Err(self.failed("entries were dropped that no snapshot covers"));
        }
        // Nothing but the first entry of a cluster is stored without a leader.
        if first.is_some_and(|first| first > 0) && self.ballot()?.is_none() {
            return Err(self.failed("it has a log, and whom it follows is missing"));
        }
        Ok(())
    }

    fn failed(&self, what: impl fmt::Display) -> io::Error {
        io::Error::other(format!("{}: {what}", self.file.path.display()))
    }

    /// One that is forced before the header leads to it: so what the header leads to was there, and if it is not as it was, that is
    /// damage, not a write that a crash cut short. The database goes back to the write before otherwise, and a vote is forgotten.
    fn begin(&self) -> Result<WriteTransaction, redb::Error> {
        let mut txn = self.file.database.begin_write()?;
        txn.set_two_phase_commit(true);
        Ok(txn)
    }

    fn write<T>(&self, change: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>) -> io::Result<T> {
        let all = || -> Result<T, redb::Error> {
            let txn = self.begin()?;
            let done = change(&txn)?;
            txn.commit()?;
            Ok(done)
        };
        all().map_err(|e| self.failed(e))
    }

    /// The same beside other tasks: a disk takes its time.
    async fn write_apart<T: Send + 'static>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error> + Send + 'static,
    ) -> io::Result<T> {
        let store = self.clone();
        tokio::task::spawn_blocking(move || store.write(change)).await.map_err(io::Error::other)?
    }

    fn opened(&self, what: impl fmt::Display, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let (body, sum) =
            bytes.split_at_checked(bytes.len().wrapping_sub(CHECKSUM_BYTES)).ok_or_else(|| {
                self.failed(format_args!("{what} has {} bytes{}", bytes.len(), self.place_of(bytes)))
            })?;
        if xxh3_64(body).to_le_bytes() != sum {
            let place = self.place_of(bytes);
            return Err(self.failed(format_args!("{what} is damaged{place}: its checksum is another")));
        }
        Ok(body.to_vec())
    }

    /// Where in the file these bytes are, if that is certain: older ones may be there as well, that were let go.
    fn place_of(&self, bytes: &[u8]) -> String {
        let all = std::fs::read(&self.file.path).unwrap_or_default();
        let mut places = all.windows(bytes.len().max(1)).enumerate().filter(|(_, it)| *it == bytes);
        match (places.next(), places.next()) {
            (Some((at, _)), None) => format!(", {} bytes at byte {at} of the file", bytes.len()),
            _ => String::new(),
        }
    }

    fn mark(&self, name: &'static str) -> io::Result<Option<Vec<u8>>> {
        let read = || -> Result<Option<Vec<u8>>, redb::Error> {
            let txn = self.file.database.begin_read()?;
            let table = match txn.open_table(MARKS) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                table => table?,
            };
            Ok(table.get(name)?.map(|value| value.value().to_vec()))
        };
        let bytes = read().map_err(|e| self.failed(e))?;
        bytes.map(|bytes| self.opened(name, &bytes)).transpose()
    }

    fn record<T: Wire>(&self, name: &'static str) -> io::Result<Option<T>> {
        let bytes = self.mark(name)?;
        let read =
            |bytes: Vec<u8>| T::from_bytes(&bytes).map_err(|e| self.failed(format_args!("{name}: {e}")));
        bytes.map(read).transpose()
    }

    fn ballot(&self) -> io::Result<Option<Ballot>> {
        self.record("ballot")
    }

    fn entries(&self, range: impl RangeBounds<u64>) -> io::Result<Vec<LogEntry>> {
        let read = || -> Result<Vec<(u64, Vec<u8>)>, redb::Error> {
            let txn = self.file.database.begin_read()?;
            let table = txn.open_table(LOG)?;
            table
                .range(range)?
                .map(|entry| entry.map(|(k, v)| (k.value(), v.value().to_vec())))
                .map(|e| Ok(e?))
                .collect()
        };
        let mut next = None;
        let mut entries = Vec::new();
        for (index, bytes) in read().map_err(|e| self.failed(e))? {
            let what = format!("entry {index} of the log");
            let body = self.opened(&what, &bytes)?;
            let entry = LogEntry::from_bytes(&body).map_err(|e| self.failed(format_args!("{what}: {e}")))?;
            if entry.id.index != index {
                return Err(self.failed(format_args!("{what} says that it is entry {}", entry.id.index)));
            }
            if let Some(missing) = next.filter(|next| *next != index) {
                return Err(self.failed(format_args!("entry {missing} of the log is missing")));
            }
            next = Some(index + 1);
            entries.push(entry);
        }
        Ok(entries)
    }

    fn last(&self) -> io::Result<Option<LogId>> {
        let read = || -> Result<Option<u64>, redb::Error> {
            let txn = self.file.database.begin_read()?;
            let table = txn.open_table(LOG)?;
            Ok(table.last()?.map(|(index, _)| index.value()))
        };
        let Some(index) = read().map_err(|e| self.failed(e))? else { return Ok(None) };
        Ok(self.entries(index..=index)?.first().map(|entry| entry.id))
    }

    fn snapshot(&self) -> io::Result<Option<Kept>> {
        let Some(bytes) = self.mark("snapshot")? else { return Ok(None) };
        let mut r = Reader::new(&bytes);
        let mut head = || -> Result<(Option<LogId>, VotersAt), oarlock_layout::codec::Malformed> {
            Ok((r.option("place in the log", LogId::decode)?, VotersAt::decode(&mut r)?))
        };
        let (last, voters) = head().map_err(|e| self.failed(format_args!("snapshot: {e}")))?;
        Ok(Some(Kept { last, voters, bytes: r.rest().to_vec() }))
    }

    /// The last snapshot kept.
    pub(super) fn current_snapshot(&self) -> io::Result<Option<Snapshot>> {
        let kept = self.snapshot()?;
        Ok(kept.map(|kept| Snapshot {
            meta: SnapshotMeta {
                last_log_id: kept.last.map(types::id),
                last_membership: types::members(&kept.voters),
            },
            snapshot: kept.bytes,
        }))
    }

    /// Keeps a snapshot in place of an earlier one. One that was being written while a later one arrived is not kept.
    pub(super) async fn keep_snapshot(&self, meta: &SnapshotMeta, bytes: &[u8]) -> io::Result<()> {
        let last = meta.last_log_id.map(types::log_id);
        let mut all = Vec::with_capacity(bytes.len() + 256);
        let mut out = Writer::new(&mut all);
        out.option(last.as_ref(), |out, id| id.encode(out));
        types::voters_at(&meta.last_membership).encode(&mut out);
        out.raw(bytes);
        let store = self.clone();
        let keep = move || {
            // One writer at a time: nobody comes in between.
            let txn = store.begin().map_err(|e| store.failed(e))?;
            let kept = store.snapshot()?.and_then(|kept| kept.last);
            if kept >= last && kept.is_some() {
                return Ok(());
            }
            let put = || -> Result<(), redb::Error> {
                txn.open_table(MARKS)?.insert("snapshot", sealed(&all).as_slice())?;
                Ok(())
            };
            put().map_err(|e| store.failed(e))?;
            txn.commit().map_err(|e| store.failed(e))
        };
        tokio::task::spawn_blocking(keep).await.map_err(io::Error::other)?
    }

    async fn put(&self, name: &'static str, bytes: Vec<u8>) -> io::Result<()> {
        self.write_apart(move |txn| {
            txn.open_table(MARKS)?.insert(name, sealed(&bytes).as_slice())?;
            Ok(())
        })
        .await
    }
}

/// A record with its checksum.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    [bytes, &xxh3_64(bytes).to_le_bytes()].concat()
}

impl RaftLogReader<Types> for Store {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + fmt::Debug + OptionalSend,
    {
        Ok(self.entries(range)?.into_iter().map(types::entry).collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.ballot()?.map(types::vote))
    }
}

impl RaftLogStorage<Types> for Store {
    type LogReader = Store;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let purged = self.record::<LogId>("purged")?;
        let last = self.last()?.or(purged);
        Ok(LogState { last_purged_log_id: purged.map(types::id), last_log_id: last.map(types::id) })
    }

    async fn get_log_reader(&mut self) -> Store {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.put("ballot", types::ballot(vote).to_bytes()).await
    }

    async fn save_committed(&mut self, committed: Option<Id>) -> io::Result<()> {
        let Some(committed) = committed else { return Ok(()) };
        self.put("committed", types::log_id(committed).to_bytes()).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<Id>> {
        Ok(self.record::<LogId>("committed")?.map(types::id))
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records: Vec<(u64, Vec<u8>)> =
            entries.into_iter().map(|e| (e.log_id.index, sealed(&types::record(&e).to_bytes()))).collect();
        let done = self.write_apart(move |txn| {
            let mut table = txn.open_table(LOG)?;
            for (index, bytes) in &records {
                table.insert(index, bytes.as_slice())?;
            }
            Ok(())
        });
        done.await?;
        flushed.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<Id>) -> io::Result<()> {
        let from = last.map_or(0, |last| last.index + 1);
        self.write_apart(move |txn| {
            txn.open_table(LOG)?.retain_in(from.., |_, _| false)?;
            Ok(())
        })
        .await
    }

    async fn purge(&mut self, upto: Id) -> io::Result<()> {
        let mark = sealed(&types::log_id(upto).to_bytes());
        self.write_apart(move |txn| {
            txn.open_table(MARKS)?.insert("purged", mark.as_slice())?;
            txn.open_table(LOG)?.retain_in(..=upto.index, |_, _| false)?;
            Ok(())
        })
        .await
    }
}
