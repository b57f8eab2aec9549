//! The libraries for programs that were written for libdlm, as such programs have them: compiled against the header of
//! libdlm by the machine's compilers, linked with `-ldlm` and `-ldlm_lt`, and run against real daemons. What the programs check
//! is written in them, in `crates/oarlock-libdlm/tests/c`.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use support::solo::Solo;
use support::{Dev, Said, signal};

/// A library: its name for the linker, what it was built as, and how its programs are compiled.
struct Library {
    name: &'static str,
    built: &'static str,
    define: &'static str,
}

const THREADED: Library = Library { name: "dlm", built: "liboarlock_libdlm.so", define: "-D_REENTRANT" };
const LIGHT: Library = Library { name: "dlm_lt", built: "liboarlock_libdlm_lt.so", define: "-DLIGHT" };
const BOTH: [&Library; 2] = [&THREADED, &LIGHT];

const C: &[&str] = &["cc", "-Wall", "-Wextra", "-Werror"];
const C99: &[&str] =
    &["cc", "-std=c99", "-D_DEFAULT_SOURCE", "-D_GNU_SOURCE", "-pedantic", "-Wall", "-Wextra", "-Werror"];
const CPP: &[&str] = &["c++", "-x", "c++", "-std=c++11", "-Wall", "-Wextra", "-Werror"];
/// The library itself is not instrumented; what it writes into the program's memory, allocates and leaks is seen all the same.
const ASAN: &[&str] =
    &["cc", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g"];

const PROGRAMS: [&str; 5] = ["scenarios", "calls", "threads", "pairs", "ends"];

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../oarlock-libdlm/tests/c")
}

/// A header for machines that have none; where libdlm-dev is, programs are compiled with its.
fn spare_header() -> PathBuf {
    sources().join("header")
}

fn run(command: &mut Command) -> Said {
    Said::of(command.output().unwrap_or_else(|error| {
        panic!("cannot run {:?}: {error}; these tests need gcc, g++ and binutils", command.get_program())
    }))
}

/// The libraries under the names that programs know them by.
fn libraries() -> &'static Path {
    static LIBRARIES: OnceLock<PathBuf> = OnceLock::new();
    LIBRARIES.get_or_init(|| {
        // One place for all runs, which come one after the other.
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dlm");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        for library in BOTH {
            let built = std::env::current_exe().unwrap().with_file_name(library.built);
            let (real, link) = (format!("lib{}.so.3", library.name), format!("lib{}.so", library.name));
            fs::copy(&built, dir.join(&real)).unwrap_or_else(|error| {
                panic!("{}: {error}; it is built with this test, as a dependency of it", built.display())
            });
            symlink(real, dir.join(link)).unwrap();
        }
        dir
    })
}

/// Compiles a program for a library, and says where it is. `spare`: with the spare header.
#[track_caller]
fn compile(source: &str, compiler: &[&str], way: &str, library: &Library, spare: bool) -> PathBuf {
    let program = libraries().join(format!("{source}-{way}-{}", library.name));
    let mut command = Command::new(compiler[0]);
    command.args(&compiler[1..]).arg(library.define);
    if spare || !Path::new("/usr/include/libdlm.h").exists() {
        command.arg("-I").arg(spare_header());
    }
    command.arg(sources().join(format!("{source}.c"))).arg("-o").arg(&program);
    // What follows is no source.
    if compiler.contains(&"-x") {
        command.args(["-x", "none"]);
    }
    command.arg("-L").arg(libraries()).arg(format!("-l{}", library.name)).arg("-lpthread");
    run(&mut command).expect(0, &[]);
    program
}

/// A program that finds our libraries, and a node.
fn program(path: &Path, socket: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.arg("120").arg(path).env("LD_LIBRARY_PATH", libraries()).env("OARLOCK_SOCKET", socket);
    command.env_remove("OARLOCK_DLM_DEBUG").env("ASAN_OPTIONS", "detect_leaks=1:exitcode=97");
    command.stdin(Stdio::null());
    command
}

/// Runs a program with both libraries, each at two nodes, once under the sanitizers.
fn tried(source: &str, says: &str) -> Dev {
    let dev = Dev::start();
    for (library, nodes) in [(&THREADED, ['a', 'b']), (&LIGHT, ['b', 'c'])] {
        let plain = compile(source, C, "plain", library, false);
        let checked = compile(source, ASAN, "asan", library, false);
        for (path, node, other) in [(plain, nodes[0], nodes[1]), (checked, nodes[1], nodes[0])] {
            run(program(&path, &dev.socket(node)).env("OTHER_SOCKET", dev.socket(other))).expect(0, &[says]);
        }
    }
    dev
}

/// The same, of a program that gives up what it has opened, except for the lockspace that it never named.
fn tried_and_left(source: &str, says: &str) {
    let dev = tried(source, says);
    for node in ['a', 'b', 'c'] {
        let said = dev.run(node, &["dlm", "ls", "-o", "json"]).expect(0, &[]).json();
        let names = said["branches"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap());
        assert!(names.clone().all(|name| name == "default"), "at {node}: {:?}", names.collect::<Vec<_>>());
    }
}

/// Scenarios 1 to 34, 50 to 54, 57 to 64 and 67, each with the outcome of `docs/scenarios.md`.
#[test]
fn scenarios_have_their_outcomes() {
    tried_and_left("scenarios", "49 scenarios");
}

/// Scenarios 35, 37 to 40, 65, 66 and 68, returns of both libraries, errno, and what makes no sense.
#[test]
fn calls_do_what_the_manual_says() {
    tried_and_left("calls", "all calls");
}

#[test]
fn threads_share_a_lockspace() {
    tried_and_left("threads", "all threads");
}

/// Scenarios 35, 36, 37, 40 and 55 between processes, at one node and at two.
#[test]
fn processes_wait_for_each_other_and_die() {
    let _ = tried("pairs", "all pairs");
}

#[test]
fn everything_under_way_ends_with_the_node() {
    let dev = Dev::start();
    for (library, node) in [(&THREADED, 'a'), (&LIGHT, 'b')] {
        let path = compile("ends", ASAN, "asan", library, false);
        let mut child = program(&path, &dev.socket(node)).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        for pid in [dev.pid(node), dev.engine(node)] {
            signal(pid, "KILL");
        }
        assert_eq!(lines.map(Result::unwrap).collect::<Vec<_>>(), ["all ends"]);
        assert!(child.wait().unwrap().success());
    }
}

/// Without a daemon, and without the lockspace in which all of them live, the number says which, and words come on request.
#[test]
fn what_is_missing_is_told_apart() {
    let asks = libraries().join("asks.c");
    let text = "#include <errno.h>\n#include <stdio.h>\n#include <string.h>\n#include <sys/types.h>\n#include <libdlm.h>\n\
                int main(void) { if (!dlm_create_lockspace(\"x\", 0600)) puts(strerror(errno)); return 0; }\n";
    fs::write(&asks, text).unwrap();
    let path = compile(asks.with_extension("").to_str().unwrap(), C, "plain", &LIGHT, false);
    let mut solo = Solo::new("");
    let said = run(&mut program(&path, &solo.socket())).expect(0, &["Protocol driver not attached"]);
    assert_eq!(said.err, "");
    solo.start();
    let said = run(&mut program(&path, &solo.socket())).expect(0, &["Transport endpoint is not connected"]);
    assert_eq!(said.err, "");
    run(program(&path, &solo.socket()).env("OARLOCK_DLM_DEBUG", "1"))
        .expect(0, &["OAR-2202", "add the lockspace to the configuration of every node"]);
}

#[test]
fn everything_compiles_as_c99_and_as_cpp_without_a_warning() {
    for source in PROGRAMS {
        for library in BOTH {
            compile(source, C99, "c99", library, true);
            compile(source, CPP, "cpp", library, false);
        }
    }
    // The spare header gives no name another meaning than the real one does.
    let real = Path::new("/usr/include/libdlm.h");
    if real.exists() {
        let both = libraries().join("both.c");
        let headers =
            [real, &spare_header().join("libdlm.h")].map(|it| format!("#include \"{}\"\n", it.display()));
        fs::write(&both, headers.concat()).unwrap();
        run(Command::new("cc").args(["-Werror", "-E", "-o", "/dev/null"]).arg(&both)).expect(0, &[]);
    }
}

fn symbols(library: &Path) -> BTreeSet<String> {
    let said = run(Command::new("nm").args(["-D", "--defined-only"]).arg(library)).expect(0, &[]).out;
    said.lines().filter_map(|line| line.split_whitespace().nth(2)).map(str::to_owned).collect()
}

const LIGHT_SYMBOLS: [&str; 21] = [
    "dlm_close_lockspace",
    "dlm_create_lockspace",
    "dlm_dispatch",
    "dlm_get_fd",
    "dlm_kernel_version",
    "dlm_library_version",
    "dlm_lock",
    "dlm_lock_wait",
    "dlm_ls_deadlock_cancel",
    "dlm_ls_get_fd",
    "dlm_ls_lock",
    "dlm_ls_lock_wait",
    "dlm_ls_lockx",
    "dlm_ls_purge",
    "dlm_ls_unlock",
    "dlm_ls_unlock_wait",
    "dlm_new_lockspace",
    "dlm_open_lockspace",
    "dlm_release_lockspace",
    "dlm_unlock",
    "dlm_unlock_wait",
];
const THREADED_SYMBOLS: [&str; 5] =
    ["dlm_ls_pthread_init", "dlm_pthread_cleanup", "dlm_pthread_init", "lock_resource", "unlock_resource"];

/// Exactly the names of libdlm, without versions, in libraries that programs find by its names and that stay once they are
/// loaded.
#[test]
fn the_symbols_are_those_of_libdlm() {
    for library in BOTH {
        let file = libraries().join(format!("lib{}.so.3", library.name));
        let more = if library.name == THREADED.name { &THREADED_SYMBOLS[..] } else { &[] };
        let listed: BTreeSet<String> =
            LIGHT_SYMBOLS.iter().chain(more).map(|name| (*name).to_owned()).collect();
        assert_eq!(symbols(&file), listed, "{}", library.name);
        let soname = format!("Library soname: [lib{}.so.3]", library.name);
        run(Command::new("readelf").arg("-d").arg(&file)).expect(0, &[&soname, "NODELETE"]);
        let said = run(Command::new("readelf").args(["--version-info", "--wide"]).arg(&file)).expect(0, &[]);
        assert!(!said.out.contains("Version definition section"), "{}", said.out);
        // A program that was linked against it gets ours and no other.
        let path = compile("calls", C, "plain", library, false);
        let said = run(Command::new("ldd").arg(&path).env("LD_LIBRARY_PATH", libraries())).expect(0, &[]);
        assert!(said.out.contains(file.to_str().unwrap()), "{}", said.out);
    }
}
