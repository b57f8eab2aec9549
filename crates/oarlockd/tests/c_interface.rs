//! The C interface as C programs have it: the header, the shared library and its examples, compiled by the machine's
//! compilers with every warning an error, and run against real daemons.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use support::{Dev, Said, signal};

const C99: &[&str] =
    &["cc", "-std=c99", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Werror", "-pedantic"];
const CPP: &[&str] = &["c++", "-x", "c++", "-std=c++11", "-Wall", "-Werror"];
/// The library itself is not instrumented; what it allocates and leaks is seen all the same.
const ASAN: &[&str] = &["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g"];

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../oarlock-c")
}

fn run(command: &mut Command) -> Said {
    Said::of(command.output().unwrap_or_else(|error| {
        panic!(
            "cannot run {:?}: {error}; these tests need gcc, g++, binutils and pkg-config",
            command.get_program()
        )
    }))
}

/// The library under the names that programs know it by.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let built = std::env::current_exe().unwrap().with_file_name("liboarlock_c.so");
        // One place for all runs, which come one after the other.
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c-interface");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        fs::copy(&built, dir.join("liboarlock.so.0")).unwrap_or_else(|error| {
            panic!("{}: {error}; it is built with this test, as a dependency of it", built.display())
        });
        std::os::unix::fs::symlink("liboarlock.so.0", dir.join("liboarlock.so")).unwrap();
        dir
    })
}

/// Compiles a program of the C crate, and says where it is.
#[track_caller]
fn compile(source: &str, compiler: &[&str], more: &[&str], name: &str) -> PathBuf {
    let program = library().join(name);
    let mut command = Command::new(compiler[0]);
    command.args(&compiler[1..]).args(more).arg(home().join(source));
    command.arg("-I").arg(home().join("include")).arg("-o").arg(&program);
    command.arg("-L").arg(library()).args(["-loarlock", "-lpthread"]);
    run(&mut command).expect(0, &[]);
    program
}

/// A program that finds the library, and a node of the cluster.
fn program(path: &Path, dev: &Dev, node: char) -> Command {
    let mut command = Command::new("timeout");
    command.arg("100").arg(path).env("LD_LIBRARY_PATH", library()).env("OARLOCK_SOCKET", dev.socket(node));
    command.env("ASAN_OPTIONS", "detect_leaks=1:exitcode=97").stdin(Stdio::null());
    command
}

const EXAMPLES: [&str; 4] = ["first_lock", "with_poll", "counter", "lost"];
const TESTS: [&str; 4] = ["calls", "ends", "forks", "threads"];

#[test]
fn everything_compiles_as_c99_and_as_cpp_without_a_warning() {
    let sources = EXAMPLES.map(|name| format!("examples/{name}.c")).into_iter();
    for source in sources.chain(TESTS.map(|name| format!("tests/c/{name}.c"))) {
        for (way, compiler) in [("c", C99), ("cpp", CPP)] {
            let name = format!("{way}-{}", source.replace('/', "-"));
            compile(&source, compiler, &[], &name);
        }
    }
    // Nothing but the header.
    let alone = library().join("alone.c");
    fs::write(&alone, "#include <oarlock.h>\nint main(void) { return oar_fd(0) == OAR_E_USAGE ? 0 : 1; }\n")
        .unwrap();
    for compiler in [C99, CPP] {
        compile(alone.to_str().unwrap(), compiler, &[], "alone");
        run(Command::new(library().join("alone")).env("LD_LIBRARY_PATH", library())).expect(0, &[]);
    }
}

/// The examples that end by themselves, and the one that waits for the end of its node.
#[test]
fn the_examples_do_what_they_say() {
    let dev = Dev::start();
    let [first, poll, counter, lost] =
        EXAMPLES.map(|name| compile(&format!("examples/{name}.c"), C99, &[], &format!("example-{name}")));
    run(&mut program(&first, &dev, 'a')).expect(0, &["node-a holds \"greeting\" with fence "]);
    run(&mut program(&poll, &dev, 'b')).expect(0, &["lock 0 is granted", "lock 9 is granted"]);
    for (node, sum) in [('a', "1\n"), ('b', "2\n"), ('c', "3\n"), ('a', "4\n")] {
        assert_eq!(run(&mut program(&counter, &dev, node)).expect(0, &[]).out, sum);
    }
    let mut child = program(&lost, &dev, 'c').stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "working");
    let begin = Instant::now();
    for pid in [dev.pid('c'), dev.engine('c')] {
        signal(pid, "KILL");
    }
    let said: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(said.last().unwrap(), "the lock is lost", "{said:?}");
    assert!(child.wait().unwrap().success());
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    // A program without a daemon says which one it looked for.
    run(&mut program(&first, &dev, 'x')).expect(1, &["node-x/oarlock.sock", "OAR-1101"]);
}

fn instrumented(name: &str, says: &str) {
    let dev = Dev::start();
    let plain = compile(&format!("tests/c/{name}.c"), C99, &[], &format!("test-{name}"));
    run(&mut program(&plain, &dev, 'a')).expect(0, &[says]);
    // Under the sanitizer, at a node that does not own what the first one has used.
    let checked = compile(&format!("tests/c/{name}.c"), C99, ASAN, &format!("asan-{name}"));
    run(&mut program(&checked, &dev, 'b')).expect(0, &[says]);
    // And where the node is asked for every lock.
    run(program(&checked, &dev, 'c').env("NO_SHARED_MEMORY", "1")).expect(0, &[says]);
}

#[test]
fn every_call_does_what_the_header_says_and_leaks_nothing() {
    instrumented("calls", "all calls");
}

/// A node that is killed is heard of at once; one whose engine stands still when its lease is over, after a warning.
#[test]
fn everything_under_way_ends_with_the_node() {
    let dev = Dev::start();
    let program = compile("tests/c/ends.c", C99, ASAN, "asan-ends");
    for (node, how, says) in [('a', "KILL", "lost"), ('b', "STOP", "lost after a warning")] {
        let mut child = self::program(&program, &dev, node).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        let pids = [dev.pid(node), dev.engine(node)];
        pids.iter().for_each(|pid| signal(*pid, how));
        let said: Vec<String> = lines.map(Result::unwrap).collect();
        if how == "STOP" {
            pids.iter().for_each(|pid| signal(*pid, "CONT"));
        }
        assert_eq!(said, [says], "after SIG{how}");
        assert!(child.wait().unwrap().success());
    }
}

/// M12: the session stays with the process that opened it.
#[test]
fn handles_do_not_pass_through_fork_in_c_either() {
    instrumented("forks", "all forks");
}

#[test]
fn threads_share_a_client() {
    instrumented("threads", "all threads");
}

/// A program that asks pkg-config is built as the page says.
#[test]
fn pkg_config_knows_how_to_link() {
    let pc = home().join("packaging/oarlock.pc");
    let text = fs::read_to_string(&pc).unwrap();
    assert!(text.contains(&format!("\nVersion: {}\n", env!("CARGO_PKG_VERSION"))), "{text}");
    let mut ask = Command::new("pkg-config");
    ask.env("PKG_CONFIG_PATH", home().join("packaging"));
    ask.arg(format!("--define-variable=includedir={}", home().join("include").display()));
    ask.arg(format!("--define-variable=libdir={}", library().display()));
    let flags = run(ask.args(["--cflags", "--libs", "oarlock"])).expect(0, &["-loarlock"]).out;
    let program = library().join("by-pkg-config");
    let mut compiler = Command::new("cc");
    compiler.arg(home().join("examples/first_lock.c")).args(flags.split_whitespace());
    run(compiler.arg("-o").arg(&program)).expect(0, &[]);
    let dev = Dev::start();
    run(&mut self::program(&program, &dev, 'a')).expect(0, &["with fence"]);
}

/// What the library exports is exactly what the map lists, each with its version, and its name is the one that
/// programs ask for.
#[test]
fn the_symbols_are_those_of_the_map() {
    let library = library().join("liboarlock.so.0");
    let said = run(Command::new("nm").args(["-D", "--defined-only", "--with-symbol-versions"]).arg(&library));
    let said = said.expect(0, &[]).out;
    let exported: BTreeSet<&str> = said
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        // The version itself, where the linker makes a symbol of it.
        .filter(|name| *name != "OARLOCK_0")
        .collect();
    let map = fs::read_to_string(home().join("oarlock.map")).unwrap();
    let listed: BTreeSet<String> = map
        .lines()
        .filter_map(|line| line.trim().strip_suffix(';').filter(|name| name.starts_with("oar_")))
        .map(|name| format!("{name}@@OARLOCK_0"))
        .collect();
    assert!(listed.len() > 20);
    assert_eq!(exported, listed.iter().map(String::as_str).collect());
    run(Command::new("readelf").arg("-d").arg(&library))
        .expect(0, &["Library soname: [liboarlock.so.0]", "NODELETE"]);
}
