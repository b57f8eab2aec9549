//! Programs and nodes that are stopped after each of their instructions, die there or go on, and that are really killed
//! (M1, M3, M12).
//!
//! | module | what |
//! | --- | --- |
//! | `tracee` | a fork, stopped by ptrace after each instruction |
//! | `slate` | what it tells its tracer |
//! | `stage` | what stands in the segment before, and the operation |
//! | `judge` | what must be true then |
//! | `death` | dies after each instruction, and so does the node that puts it right |
//! | `twin` | a program stands still after each instruction, something happens, and it goes on |
//! | `nodes` | a node stands still, a program does something, and the node goes on |
//! | `both` | a program stands still, the node dies in the middle of a repair, another takes over |
//! | `kills` | really killed, at any time |
//! | `plants` | rules left out, and who notices; with the feature `planted` |
//!
//! Only on Linux and x86-64: what an instruction touches is read from its code. Elsewhere nothing is tried.
//!
//! Not an ordinary test: a harness has threads, and forks of such a process would not be alike. The long runs are
//! ignored: `cargo test -p oarlock-shm --test stepper -- --ignored`. `OARLOCK_KILLS` and `OARLOCK_SEED` say how many
//! are killed and when. `OARLOCK_PART=0/8` plays the first eighth of every stop of a program: a part takes some 90 s, and
//! all parts together are the whole.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod both;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod death;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod judge;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod kills;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod nodes;
#[cfg(all(target_os = "linux", target_arch = "x86_64", feature = "planted"))]
mod plants;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod slate;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod stage;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod tests;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod tracee;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod twin;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() -> std::process::ExitCode {
    tests::main()
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() {
    println!("\nrunning 0 tests: only on Linux and x86-64\n");
}
