//! A session belongs to the process that opened it (M12): in a fork every call fails, dropping a guard there
//! gives nothing back, and the parent's session goes on undisturbed.
//!
//! Not an ordinary test: a harness has threads, and forking a process with threads would test something else.

mod support;

use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use fork::Fork;
use oarlock::blocking::{Client, Guard};
use oarlock::{Kind, Mode};
use support::Honest;

fn main() -> ExitCode {
    // Under `cargo test NAME` only the tests of that name are meant.
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let name = "handles_do_not_pass_through_fork";
    if filter.is_some_and(|filter| !name.contains(&filter)) {
        println!(
            "\nrunning 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out\n"
        );
        return ExitCode::SUCCESS;
    }
    println!("\nrunning 1 test");
    handles_do_not_pass_through_fork();
    println!("test {name} ... ok");
    println!("\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n");
    ExitCode::SUCCESS
}

/// M12: the session stays with the process that opened it.
fn handles_do_not_pass_through_fork() {
    let daemon = Honest::new();
    let client = Client::connect(daemon.path()).unwrap();
    let space = client.space("default").unwrap();
    let guard = space.lock("x").value_block().acquire().unwrap();
    let dropped = space.lock("y").acquire().unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    match fork::fork().expect("fork") {
        Fork::Child => {
            drop(reader);
            let faults = faults_in_child(&client, guard, dropped);
            std::io::Write::write_all(&mut &writer, faults.join("\n").as_bytes()).unwrap();
            // Without destructors of the parent's stand-in daemon, whose thread is not here.
            std::process::exit(0);
        }
        Fork::Parent(child) => {
            drop(writer);
            let mut faults = String::new();
            reader.read_to_string(&mut faults).unwrap();
            fork::waitpid(child).unwrap();
            assert_eq!(faults, "", "what the child saw");
            assert_eq!(daemon.locks(), 2, "the child gave nothing back");
            guard.convert(Mode::PR).unwrap();
            guard.release().unwrap();
            drop(dropped);
            daemon.until_locks(0);
        }
    }
}

fn faults_in_child(client: &Client, guard: Guard, dropped: Guard) -> Vec<String> {
    let holds = guard.mode() != Mode::NL || guard.fence() != 0 || guard.value().is_some();
    let alive = holds || guard.blocking_now().is_some() || !guard.is_lost();
    let tried = [
        ("space", client.space("default").err()),
        ("other space", client.space("other").err()),
        ("ask", client.ask("{}").err()),
        ("convert", guard.convert(Mode::NL).err()),
        ("set_value", guard.set_value(b"child").err()),
        ("wait_blocking", guard.wait_blocking(Duration::from_millis(10)).err()),
        ("wait_lost", guard.wait_lost(Duration::from_millis(10))),
        ("lost_now", guard.lost_now()),
        ("alive", if alive { None } else { guard.lost_now() }),
        ("release", guard.release().err()),
    ];
    drop(dropped);
    tried
        .into_iter()
        .map(|(what, error)| (what, error.map(|error| error.kind())))
        .filter(|(_, kind)| *kind != Some(Kind::Forked))
        .map(|(what, kind)| format!("{what}: {kind:?}"))
        .collect()
}
