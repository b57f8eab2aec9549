//! One SQLite file, opened with SQLite's own locking switched off, and transactions that can be counted.
//!
//! Each transaction reads a number, perhaps waits a little, writes the number plus one, and enters its own
//! name in a table. So afterwards every transaction is counted twice: once by the number, which loses a step
//! whenever two of them overlap, and once by the rows.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

/// What the file looks like afterwards.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Findings {
    /// The number that each transaction raised by one.
    pub(crate) counted: i64,
    /// Rows that transactions left.
    pub(crate) rows: i64,
    /// Rows of which there are two: a worker and its transaction.
    pub(crate) doubled: i64,
    /// What `PRAGMA integrity_check` says; "ok" if all is well.
    pub(crate) integrity: String,
}

/// Makes an empty ledger. The rollback journal is SQLite's default; a write-ahead log would need shared memory.
pub(crate) fn create(file: &Path) -> rusqlite::Result<()> {
    let connection = Connection::open(file)?;
    connection.execute_batch(
        "PRAGMA journal_mode = DELETE;
         CREATE TABLE counter(value INTEGER NOT NULL);
         INSERT INTO counter VALUES (0);
         CREATE TABLE entry(worker INTEGER NOT NULL, n INTEGER NOT NULL);",
    )
}

/// The file as a URI with SQLite's locking switched off.
pub(crate) fn uri(file: &Path) -> String {
    let mut uri = String::from("file:");
    for byte in file.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            byte => uri.push_str(&format!("%{byte:02x}")),
        }
    }
    uri + "?nolock=1"
}

/// Opens the ledger without SQLite's locking. `synchronous` is SQLite's word for how often it waits for the
/// disk: that guards against loss of power, and writers against nothing.
pub(crate) fn open(file: &Path, synchronous: &str) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(uri(file), flags)?;
    connection.pragma_update(None, "synchronous", synchronous)?;
    Ok(connection)
}

/// One transaction; `widen` is how long it thinks between reading and writing.
pub(crate) fn transact(
    connection: &mut Connection,
    worker: u32,
    n: u32,
    widen: Duration,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let value: i64 = transaction.query_row("SELECT value FROM counter", [], |row| row.get(0))?;
    if !widen.is_zero() {
        std::thread::sleep(widen);
    }
    transaction.prepare_cached("UPDATE counter SET value = ?1")?.execute([value + 1])?;
    transaction.prepare_cached("INSERT INTO entry(worker, n) VALUES (?1, ?2)")?.execute([worker, n])?;
    transaction.commit()
}

/// Looks at the file after all workers have ended.
pub(crate) fn inspect(file: &Path) -> rusqlite::Result<Findings> {
    let connection = open(file, "FULL")?;
    let number = |query: &str| connection.query_row(query, [], |row| row.get(0));
    Ok(Findings {
        counted: number("SELECT value FROM counter")?,
        rows: number("SELECT count(*) FROM entry")?,
        doubled: number("SELECT count(*) - count(DISTINCT worker * 1000000 + n) FROM entry")?,
        integrity: connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?,
    })
}
