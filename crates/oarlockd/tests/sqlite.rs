//! The main job on real input: six programs on six nodes write one SQLite file whose own locking is switched
//! off. Under Oarlock's lock every transaction is there afterwards, whether the stock shell wrote it or a
//! program on the library; without, updates are lost. See docs/sqlite.md.
//!
//! Not an ordinary test, because its workers are processes: they are this program again, with other arguments.

#[path = "../../oarlock/examples/shared_sqlite/ledger.rs"]
mod ledger;
mod support;
#[path = "../../oarlock/examples/shared_sqlite/worker.rs"]
mod worker;

use std::panic::catch_unwind;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use ledger::Findings;
use support::{Dev, Said};
use worker::Orders;

const NODES: [char; 6] = ['a', 'b', 'c', 'd', 'e', 'f'];
/// Hundreds for each worker: a process each, so they are not cheap.
const SHELL_TRANSACTIONS: u32 = 200;
const LIBRARY_TRANSACTIONS: u32 = 20_000;
/// Enough for updates to be lost by the dozen, with a pause between reading and writing.
const UNLOCKED_TRANSACTIONS: u32 = 300;

fn main() -> ExitCode {
    if let Some(orders) = Orders::from_args(std::env::args_os().skip(1)) {
        println!("{}", worker::work(&orders).expect("the work is done"));
        return ExitCode::SUCCESS;
    }
    let tests: [(&str, fn()); 3] = [
        ("the_shell_under_oarlock_lock_loses_nothing", the_shell_under_oarlock_lock_loses_nothing),
        ("programs_on_the_library_lose_nothing", programs_on_the_library_lose_nothing),
        ("without_the_lock_updates_are_lost", without_the_lock_updates_are_lost),
    ];
    // Enough of the usual harness for `cargo test NAME` and for whoever counts results.
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let (mut passed, mut failed, mut filtered) = (0, 0, 0);
    println!("\nrunning {} tests", tests.iter().filter(|(name, _)| name.contains(&filter)).count());
    for (name, test) in tests {
        if !name.contains(&filter) {
            filtered += 1;
        } else if catch_unwind(test).is_ok() {
            passed += 1;
            println!("test {name} ... ok");
        } else {
            failed += 1;
            println!("test {name} ... FAILED");
        }
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; \
         {filtered} filtered out\n"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(101) }
}

/// Each worker runs the stock shell again and again, under `oarlock lock` on a node of its own. The number is
/// read by one shell and written by the next, so the lock must hold over both.
fn the_shell_under_oarlock_lock_loses_nothing() {
    let shell = Command::new("sqlite3").arg("--version").stdout(Stdio::null()).status();
    assert!(shell.is_ok_and(|status| status.success()), "sqlite3 is needed: apt-get install sqlite3");
    let dev = six_nodes();
    let file = dev.dir.path().join("shell.db");
    ledger::create(&file).unwrap();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for (worker, node) in NODES.into_iter().enumerate() {
            let (dev, file) = (&dev, &file);
            scope.spawn(move || {
                for n in 0..SHELL_TRANSACTIONS {
                    run_shell(dev, node, file, worker, n);
                }
            });
        }
    });
    let total = SHELL_TRANSACTIONS * NODES.len() as u32;
    check(&dev, &file, total, began.elapsed());
}

fn run_shell(dev: &Dev, node: char, file: &Path, worker: usize, n: u32) {
    // $0 is the file's URI. A bail-out of the shell is a failed command.
    let script = format!(
        "value=$(sqlite3 -bail \"$0\" 'SELECT value FROM counter') && \
         sqlite3 -bail \"$0\" \"BEGIN IMMEDIATE; UPDATE counter SET value = $value + 1; \
         INSERT INTO entry VALUES ({worker}, {n}); COMMIT\""
    );
    let mut command = dev.at(node);
    command.args(["lock", worker::LOCK, "--", "sh", "-c", &script]).arg(ledger::uri(file));
    Said::of(command.output().unwrap()).expect(0, &[]);
}

/// 20,000 transactions by six processes, each with a session with a node of its own.
fn programs_on_the_library_lose_nothing() {
    let dev = six_nodes();
    let file = dev.dir.path().join("library.db");
    ledger::create(&file).unwrap();
    let began = Instant::now();
    let workers = (0..NODES.len() as u32)
        .map(|worker| {
            let share = LIBRARY_TRANSACTIONS / 6 + u32::from(worker < LIBRARY_TRANSACTIONS % 6);
            let socket = Some(dev.socket(NODES[worker as usize]));
            spawn(&file, worker, share, Duration::ZERO, socket)
        })
        .collect();
    assert_eq!(confirmed(workers), LIBRARY_TRANSACTIONS);
    check(&dev, &file, LIBRARY_TRANSACTIONS, began.elapsed());
}

/// The control: the same programs, the same file, nobody in between.
fn without_the_lock_updates_are_lost() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("unlocked.db");
    ledger::create(&file).unwrap();
    let workers = (0..NODES.len() as u32)
        .map(|worker| spawn(&file, worker, UNLOCKED_TRANSACTIONS / 6, Duration::from_millis(2), None))
        .collect();
    let confirmed = confirmed(workers);
    assert!(confirmed > 10, "only {confirmed} transactions were confirmed: nothing is shown");
    match ledger::inspect(&file) {
        Ok(found) => {
            let lost = i64::from(confirmed) - found.counted;
            println!("without locks: {confirmed} confirmed, {lost} lost, integrity: {}", found.integrity);
            assert!(lost > 0, "nothing was lost: {found:?}");
        }
        // Worse than lost: two rollback journals in one file.
        Err(error) => println!("without locks: {confirmed} confirmed, and the file is broken: {error}"),
    }
}

fn six_nodes() -> Dev {
    Dev::start_with(&["--nodes", "6"])
}

fn spawn(
    file: &Path,
    worker: u32,
    transactions: u32,
    widen: Duration,
    socket: Option<std::path::PathBuf>,
) -> Child {
    let synchronous = "OFF".into();
    let orders = Orders { file: file.into(), worker, transactions, widen, synchronous, socket };
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(orders.to_args()).stdout(Stdio::piped()).spawn().unwrap()
}

/// How many transactions the workers saw confirmed, all together.
fn confirmed(workers: Vec<Child>) -> u32 {
    let outputs = workers.into_iter().map(|worker| worker.wait_with_output().unwrap());
    outputs
        .map(|output| {
            assert!(output.status.success(), "a worker failed: {}", output.status);
            String::from_utf8(output.stdout).unwrap().trim().parse::<u32>().unwrap()
        })
        .sum()
}

/// Every transaction is there once, the file is sound, and the nodes had to talk for it.
fn check(dev: &Dev, file: &Path, total: u32, took: Duration) {
    let expected = Findings { counted: total.into(), rows: total.into(), doubled: 0, integrity: "ok".into() };
    assert_eq!(ledger::inspect(file).unwrap(), expected);
    let sum = |name: &str| NODES.iter().map(|node| dev.counter(*node, name)).sum::<u64>();
    let (messages, grants) = (sum("messages_sent"), sum("grant_sent"));
    assert!(messages > 0 && grants > 0, "the nodes never talked");
    println!(
        "{total} transactions in {:.1} s, {messages} messages between nodes, {grants} of them grants",
        took.as_secs_f64()
    );
}
