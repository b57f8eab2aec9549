//! One worker: a process with a connection to the file and, if it is to be safe, a session with a node.

use std::path::{Path, PathBuf};
use std::time::Duration;

use oarlock::blocking::Client;

use crate::ledger;

/// The lock that stands for the file. Whoever uses the file must agree on the name.
pub(crate) const LOCK: &str = "ledger.db";

/// What a worker is to do, as it travels on a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Orders {
    /// Which file.
    pub(crate) file: PathBuf,
    /// The worker's number.
    pub(crate) worker: u32,
    /// How many transactions.
    pub(crate) transactions: u32,
    /// How long each thinks between reading and writing.
    pub(crate) widen: Duration,
    /// How often SQLite waits for the disk: OFF, NORMAL or FULL.
    pub(crate) synchronous: String,
    /// The node to ask for the lock; none: do without a lock.
    pub(crate) socket: Option<PathBuf>,
}

impl Orders {
    /// The arguments that make [`Orders::from_args`] give these orders.
    pub(crate) fn to_args(&self) -> Vec<std::ffi::OsString> {
        let mut args: Vec<std::ffi::OsString> = vec![
            "work".into(),
            self.file.clone().into(),
            self.worker.to_string().into(),
            self.transactions.to_string().into(),
            self.widen.as_micros().to_string().into(),
            self.synchronous.clone().into(),
        ];
        args.extend(self.socket.clone().map(Into::into));
        args
    }

    /// Reads orders from a command line; none if it is not a worker's.
    pub(crate) fn from_args(mut args: impl Iterator<Item = std::ffi::OsString>) -> Option<Orders> {
        if args.next()? != "work" {
            return None;
        }
        let file = args.next()?.into();
        let mut number = || args.next()?.to_str()?.parse::<u32>().ok();
        let (worker, transactions, widen) = (number()?, number()?, number()?);
        let widen = Duration::from_micros(widen.into());
        let synchronous = args.next()?.into_string().ok()?;
        let socket = args.next().map(Into::into);
        Some(Orders { file, worker, transactions, widen, synchronous, socket })
    }
}

/// Does the work; gives how many transactions SQLite confirmed.
pub(crate) fn work(orders: &Orders) -> Result<u32, Box<dyn std::error::Error>> {
    match &orders.socket {
        Some(socket) => work_locked(orders, socket),
        None => Ok(work_unlocked(orders)),
    }
}

fn work_locked(orders: &Orders, socket: &Path) -> Result<u32, Box<dyn std::error::Error>> {
    let client = Client::builder().label(format!("worker {}", orders.worker)).connect(socket)?;
    let space = client.space("default")?;
    // To open it is to read it: the journal of another's transaction would be taken for that of a dead writer.
    let guard = space.lock(LOCK).acquire()?;
    let mut connection = ledger::open(&orders.file, &orders.synchronous)?;
    guard.release()?;
    for n in 0..orders.transactions {
        let guard = space.lock(LOCK).acquire()?;
        ledger::transact(&mut connection, orders.worker, n, orders.widen)?;
        // Until here the file was ours alone. An error means that it may not have been.
        guard.release()?;
    }
    Ok(orders.transactions)
}

/// Without a lock SQLite trips over the other writers; what it confirms nevertheless is counted.
fn work_unlocked(orders: &Orders) -> u32 {
    let mut confirmed = 0;
    let mut connection = None;
    for n in 0..orders.transactions {
        if connection.is_none() {
            connection = ledger::open(&orders.file, &orders.synchronous).ok();
        }
        let result = connection.as_mut().map(|c| ledger::transact(c, orders.worker, n, orders.widen));
        match result {
            Some(Ok(())) => confirmed += 1,
            // The connection may be in the middle of something; begin afresh.
            _ => connection = None,
        }
    }
    confirmed
}
