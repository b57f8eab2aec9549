//! Planned restarts: the engine of a node is replaced by the program that is at its place by then, and nobody loses a lock. Times are
//! printed; what is asserted leaves room for a busy machine.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use oarlock::blocking::{Client, Space};
use oarlock::{Mode, Token};
use support::solo::Solo;
use support::{Dev, Held, Said, ask, lives, oarlock, pid_in, signal, until};

const NODES: [char; 3] = ['a', 'b', 'c'];

fn space(dev: &Dev, node: char) -> Space {
    Client::connect(dev.socket(node)).unwrap().space("default").unwrap()
}

fn status(dev: &Dev, node: char) -> (u64, u64) {
    let status = dev.run(node, &["status", "-o", "json"]).json();
    (status["incarnation"].as_u64().unwrap(), status["epoch"].as_u64().unwrap())
}

/// What a node has to tell, but for who leads the coordinator: that may change with any restart.
fn told(dev: &Dev, node: char) -> Vec<String> {
    let events = dev.run(node, &["events"]).out;
    events.lines().filter(|line| !line.contains("coordinator")).map(Into::into).collect()
}

fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn waits(dev: &Dev, at: char, name: &str) -> bool {
    dev.run(at, &["locks", "why", name]).out.contains("1 wait")
}

/// A program that counts under a lock: whoever reads before it has written would lose its increment.
fn count(space: &Space, stop: &AtomicBool, counter: &AtomicU64, last: &Mutex<Token>) -> u64 {
    let mut counted = 0;
    while !stop.load(Relaxed) {
        let guard = space.lock("counter").acquire().unwrap();
        let mut last = last.try_lock().expect("nobody else is here");
        assert!(guard.token() > *last, "{:?} after {:?}", guard.token(), *last);
        *last = guard.token();
        let before = counter.load(Relaxed);
        thread::yield_now();
        counter.store(before + 1, Relaxed);
        assert!(guard.lost_now().is_none());
        drop(last);
        guard.release().unwrap();
        counted += 1;
    }
    counted
}

/// L5: programs with locks and in queues, here and elsewhere, see nothing of twenty restarts in a row; peers see the same run.
#[test]
fn twenty_restarts_under_load_lose_nothing() {
    let dev = Dev::start();
    until("all is well", || dev.all_well());
    let (engine, runs) = (dev.engine('a'), NODES.map(|node| status(&dev, node)));
    // Held on the node: by a command, and by programs in their own process and through the node.
    let file = dev.dir.path().join("pid");
    let script = format!("echo $$ > '{}'; exec sleep 600", file.display());
    let mut job = dev.at('a');
    job.args(["lock", "-q", "job", "-c", &script]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut job = Held(job.spawn().unwrap());
    let sleeper = pid_in(&file);
    let (here, there) = (space(&dev, 'a'), space(&dev, 'b'));
    let shared = here.lock("shared").mode(Mode::PR).acquire().unwrap();
    let also = there.lock("shared").mode(Mode::PR).acquire().unwrap();
    let own = here.handle("own");
    let own = own.acquire().unwrap();
    let asking = Client::builder().shared_memory(false).connect(dev.socket('a')).unwrap();
    let through = asking.space("default").unwrap().lock("through").acquire().unwrap();
    // One of which the node decides, held and waited for by others.
    let decided = (0..64).map(|n| format!("decided-{n}")).find(|name| {
        there.lock(name).acquire().unwrap().release().unwrap();
        let seen = dev.run('a', &["locks", "show", name, "-o", "json"]).json();
        seen.to_string().contains("\"master\":\"node-a\"")
    });
    let decided = decided.expect("it decides of some");
    let held = there.lock(&decided).acquire().unwrap();
    let elsewhere = there.lock("elsewhere").acquire().unwrap();
    // They wait: elsewhere for what is held here, here for what is held elsewhere, and elsewhere for what is decided here.
    let waiter = |node, name: &str| ask(&dev, node, "waits", &[name]);
    let queue = [("job", 'b'), ("own", 'c'), ("elsewhere", 'a'), (decided.as_str(), 'c')];
    let _waiters: Vec<Held> = queue.iter().map(|(name, node)| waiter(*node, name)).collect();
    until("all wait", || queue.iter().all(|(name, _)| waits(&dev, 'c', name)));
    let before = NODES.map(|node| told(&dev, node));
    let (stop, counter, last) = (AtomicBool::new(false), AtomicU64::new(0), Mutex::new(Token::default()));
    let mut descriptors_after = Vec::new();
    let counted: Vec<u64> = thread::scope(|scope| {
        let programs = ['a', 'a', 'b'].map(|node| {
            let (dev, stop, counter, last) = (&dev, &stop, &counter, &last);
            scope.spawn(move || count(&space(dev, node), stop, counter, last))
        });
        let mut stood_still = Vec::new();
        for _ in 0..20 {
            let seen = counter.load(Relaxed);
            let done = dev.run('a', &["node", "restart", "-o", "json"]).expect(0, &[]).json();
            stood_still.push(done["stood_still_us"].as_u64().unwrap() / 1_000);
            assert_eq!(done["incarnation"].as_u64(), Some(runs[0].0));
            until("the count goes on", || counter.load(Relaxed) > seen + 3);
            descriptors_after.push(descriptors(engine));
        }
        stood_still.sort_unstable();
        println!("20 restarts: nobody served for {stood_still:?} ms");
        assert!(stood_still[10] < 500, "half of the restarts took longer: {stood_still:?}");
        stop.store(true, Relaxed);
        programs.map(|program| program.join().unwrap()).into()
    });
    println!("counted {counted:?}");
    assert_eq!(counter.load(Relaxed), counted.iter().sum::<u64>(), "increments are lost");
    assert!(counted.iter().all(|it| *it > 0), "{counted:?}");
    // Sessions of commands come and go; one that is left behind by each restart would be twenty.
    let [first, last] = [descriptors_after[0], descriptors_after[19]];
    assert!(last <= first + 8, "descriptors pile up: {descriptors_after:?}");
    assert_eq!(dev.engine('a'), engine, "the same process");
    assert_eq!(NODES.map(|node| status(&dev, node)), runs, "the same runs in the same view");
    for (node, before) in NODES.iter().zip(&before) {
        let after = told(&dev, *node);
        let new: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
        match node {
            // So many restarts in a row may delay a renewal on a busy machine until grants freeze; nothing is lost by that.
            'a' => {
                let known =
                    ["restarted with all locks kept", "nothing new is granted", "locks are granted again"];
                assert!(new.iter().all(|line| known.iter().any(|it| line.contains(it))), "{new:?}");
            }
            _ => assert!(new.is_empty(), "{node} noticed: {new:?}"),
        }
    }
    // What was held is held, and what waited is granted when that ends.
    assert!(lives(sleeper) && job.0.try_wait().unwrap().is_none());
    assert!(shared.lost_now().is_none() && also.lost_now().is_none() && through.lost_now().is_none());
    assert!(!own.is_lost());
    until("all wait still", || queue.iter().all(|(name, _)| waits(&dev, 'c', name)));
    drop((own, elsewhere, held));
    signal(sleeper, "TERM");
    let granted = |(name, node): &(&str, char)| {
        let seen = dev.run('b', &["locks", "show", name, "-o", "json"]).json().to_string();
        seen.contains("\"label\":\"waits\"")
            && seen.contains(&format!("node-{node}"))
            && !waits(&dev, 'b', name)
    };
    until("all are granted", || queue.iter().all(granted));
    // Both in the segment and through the node, what the first image granted the last one takes back.
    drop((through, shared));
    let free = |name: &str| dev.run('b', &["lock", "-w", "10s", name, "--", "true"]).expect(0, &[]);
    free("through");
    drop(also);
    free("shared");
}

/// L5: every node in turn, the one that leads the coordinator among them, while programs of all work.
#[test]
fn a_cluster_is_upgraded_node_by_node() {
    let dev = Dev::start();
    until("all is well", || dev.all_well());
    let runs = NODES.map(|node| status(&dev, node));
    let (stop, counter, last) = (AtomicBool::new(false), AtomicU64::new(0), Mutex::new(Token::default()));
    thread::scope(|scope| {
        let programs = NODES.map(|node| {
            let (dev, stop, counter, last) = (&dev, &stop, &counter, &last);
            scope.spawn(move || count(&space(dev, node), stop, counter, last))
        });
        for node in NODES.into_iter().cycle().take(6) {
            dev.run(node, &["node", "restart", "--self"]).expect(0, &["goes on as run", "nobody served for"]);
            until("it is well", || dev.all_well());
        }
        stop.store(true, Relaxed);
        let counted: u64 = programs.map(|program| program.join().unwrap()).iter().sum();
        assert_eq!(counter.load(Relaxed), counted, "increments are lost");
    });
    assert_eq!(NODES.map(|node| status(&dev, node)), runs, "the same runs in the same view");
    // No engine goes on without a keeper, whichever program it is by then.
    let engine = dev.engine('c');
    signal(dev.pid('c'), "KILL");
    until("it dies with its keeper", || !lives(engine));
}

/// A node that runs from a file that a test can replace.
struct Replaceable {
    solo: Solo,
    program: PathBuf,
}

impl Replaceable {
    fn start() -> Replaceable {
        Replaceable::start_as(false)
    }

    fn start_by_link() -> Replaceable {
        Replaceable::start_as(true)
    }

    fn start_as(by_link: bool) -> Replaceable {
        let mut solo = Solo::new("");
        let program = solo.path("oarlock");
        let named = if by_link { solo.path("link") } else { program.clone() };
        if by_link {
            std::os::unix::fs::symlink(&program, &named).unwrap();
        }
        put(&program, |at| _ = fs::copy(env!("CARGO_BIN_EXE_oarlock"), at).unwrap());
        let mut command = oarlock();
        // `env` runs it, as it does the usual one.
        let words: Vec<_> = command.get_args().take(1).map(Into::into).collect::<Vec<std::ffi::OsString>>();
        let mut run = Command::new("env");
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => run.env(name, value),
                None => run.env_remove(name),
            };
        }
        run.args(words).arg(&named).args(["serve", "--config"]).arg(solo.config());
        command = run;
        solo.start_as(command);
        Replaceable { solo, program }
    }

    /// Puts a shell script in the place of the program. `$real` is the program that was there.
    fn script(&self, text: &str) {
        self.script_of(Path::new("/bin/sh"), text);
    }

    fn script_of(&self, shell: &Path, text: &str) {
        let (real, shell) = (env!("CARGO_BIN_EXE_oarlock"), shell.display());
        put(&self.program, |at| fs::write(at, format!("#!{shell}\nreal='{real}'\n{text}\n")).unwrap());
    }

    fn real(&self) {
        put(&self.program, |at| _ = fs::copy(env!("CARGO_BIN_EXE_oarlock"), at).unwrap());
    }

    fn run_number(&self) -> u64 {
        self.solo.run(&["status", "-o", "json"]).json()["incarnation"].as_u64().unwrap()
    }

    fn restart(&self) -> Said {
        self.solo.run(&["node", "restart"])
    }

    /// A command under a lock, and the process that it is.
    fn job(&self) -> (Held, i32) {
        let file = self.solo.path("pid");
        let _ = fs::remove_file(&file);
        let mut job = self.solo.at();
        let script = format!("echo $$ > '{}'; exec sleep 600", file.display());
        job.args(["lock", "-q", "job", "-c", &script]).stdout(Stdio::null()).stderr(Stdio::null());
        (Held(job.spawn().unwrap()), pid_in(&file))
    }
}

/// A program is replaced as a package manager does it: beside, then by its name.
fn put(at: &Path, write: impl FnOnce(&Path)) {
    let beside = at.with_extension("new");
    write(&beside);
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(beside, at).unwrap();
}

/// L5: whatever cannot take over is found before anything is touched, or changes nothing.
#[test]
fn a_restart_that_cannot_be_leaves_everything_as_it_was() {
    let node = Replaceable::start();
    let (engine, run) = (node.solo.engine(), node.run_number());
    let (mut job, sleeper) = node.job();
    let client = Client::connect(node.solo.socket()).unwrap();
    let space = client.space("default").unwrap();
    let guard = space.lock("held").acquire().unwrap();
    let mut as_it_was = |what: &str| {
        assert_eq!((node.solo.engine(), node.run_number()), (engine, run), "{what}");
        assert!(lives(sleeper) && job.0.try_wait().unwrap().is_none(), "{what}");
        assert!(guard.lost_now().is_none(), "{what}");
        space.lock("other").acquire().unwrap().release().unwrap();
        node.solo.run(&["ok"]).expect(0, &[]);
    };
    let descriptors_before = descriptors(engine);
    // Of another format, as it says: the tail of what a program says that does not know of this.
    node.script("echo \"error: unexpected argument '--take-over' found\" >&2; exit 2");
    node.restart().expect(1, &["OAR-3204", "cannot take over", "--take-over"]);
    as_it_was("an older program");
    node.script("exit 0");
    node.restart().expect(1, &["OAR-3204", "did not say that it can"]);
    as_it_was("another program altogether");
    node.script("head -c 300000 /dev/zero | tr '\\0' x; head -c 300000 /dev/zero | tr '\\0' y >&2; exit 3");
    node.restart().expect(1, &["OAR-3204", "yyyy"]);
    as_it_was("a program that says a lot");
    let since = Instant::now();
    node.script("sleep 30 & echo no >&2; exit 3");
    node.restart().expect(1, &["OAR-3204", "no"]);
    assert!(since.elapsed() < Duration::from_secs(20), "it waited for what was left behind");
    as_it_was("a program that leaves another behind");
    node.real();
    fs::set_permissions(&node.program, fs::Permissions::from_mode(0o644)).unwrap();
    node.restart().expect(1, &["OAR-3204", "cannot be run"]);
    as_it_was("a program that nobody may run");
    fs::remove_file(&node.program).unwrap();
    node.restart().expect(1, &["OAR-3204", "cannot be run"]);
    as_it_was("no program");
    // It passes the rehearsal, and then is another.
    node.script("chmod 644 \"$0\"; exec \"$real\" \"$@\"");
    node.restart().expect(1, &["OAR-3204", "goes on as it was", "were written since"]);
    as_it_was("a program that nobody may run any more");
    // The same file, and what reads it has gone: found when all is written down already.
    let shell = node.program.with_file_name("shell");
    std::os::unix::fs::symlink("/bin/sh", &shell).unwrap();
    node.script_of(&shell, &format!("rm '{}'; exec \"$real\" \"$@\"", shell.display()));
    node.restart().expect(1, &["OAR-3204", "goes on as it was", "cannot be run"]);
    as_it_was("a program that nothing can read any more");
    // A configuration to which no run can change.
    node.real();
    let before = node.solo.read();
    node.solo.write(&format!("{before}\n[[space]]\nname = \"new\"\n"));
    node.restart().expect(1, &["OAR-3204", "has changed", "[[space]]"]);
    as_it_was("another lockspace");
    node.solo.write("what is this");
    node.restart().expect(1, &["OAR-3204", "cannot take over"]);
    as_it_was("no configuration");
    // Sessions of commands end a moment after them.
    until("no descriptor is left behind", || descriptors(engine) <= descriptors_before);
    // And one to which it can.
    node.solo.write(&before.replace("[cluster]", "spin = false\n[cluster]"));
    node.restart().expect(0, &["goes on as run 1"]);
    as_it_was("what can be changed");
    let log = node.solo.log();
    assert!(log.contains("not restarted: ") && !log.contains("panicked"), "{log}");
}

/// L5: what takes the engine's place and does not come to serve, however it ends, is an engine that has died: everybody is told, and
/// another run begins.
#[test]
fn an_engine_that_dies_in_a_restart_has_died() {
    for how in ["kill -9 $$", "exit 0", "exit 3"] {
        let node = Replaceable::start();
        let run = node.run_number();
        let (mut job, sleeper) = node.job();
        let client = Client::connect(node.solo.socket()).unwrap();
        let guard = client.space("default").unwrap().lock("held").acquire().unwrap();
        node.script(&format!(
            "case \"$*\" in *--rehearse*) ;; *--take-over*) {how} ;; esac\nexec \"$real\" \"$@\""
        ));
        node.restart().expect(76, &["did not come about"]);
        assert!(guard.wait_lost(Duration::from_secs(10)).is_some(), "{how}");
        until("the job is ended", || job.0.try_wait().unwrap().is_some());
        assert_eq!(job.0.try_wait().unwrap().unwrap().code(), Some(76), "{how}");
        assert!(!lives(sleeper), "{how}");
        until("another run serves", || node.solo.run(&["ok"]).status == Some(0));
        assert_eq!(node.run_number(), run + 1, "{how}");
        assert!(node.solo.log().contains("in the middle of a restart"), "{}", node.solo.log());
        node.real();
        node.restart().expect(0, &["goes on as run 2"]);
    }
}

/// An upgrade may be a link that leads elsewhere from then on.
#[test]
fn a_program_that_was_named_by_a_link_is_looked_up_anew() {
    let node = Replaceable::start_by_link();
    let (run, leads) = (node.run_number(), |it: &Replaceable| {
        fs::read_link(format!("/proc/{}/exe", it.solo.engine())).unwrap()
    });
    let first = leads(&node);
    let next = node.solo.path("oarlock-of-tomorrow");
    fs::copy(env!("CARGO_BIN_EXE_oarlock"), &next).unwrap();
    let link = node.solo.path("link.new");
    std::os::unix::fs::symlink(&next, &link).unwrap();
    fs::rename(link, node.solo.path("link")).unwrap();
    let engine = node.solo.engine();
    node.restart().expect(0, &[]);
    assert_eq!((node.solo.engine(), node.run_number()), (engine, run));
    assert_eq!((first, leads(&node)), (node.program.clone(), next));
}

/// What was tried is what is executed: with files that were written since, the locks would be gone.
#[test]
fn a_configuration_that_is_written_after_the_rehearsal_is_not_taken() {
    let node = Replaceable::start();
    let (engine, run, right) = (node.solo.engine(), node.run_number(), node.solo.read());
    let client = Client::connect(node.solo.socket()).unwrap();
    let guard = client.space("default").unwrap().lock("held").acquire().unwrap();
    let secret = node.solo.path("secret");
    for spoils in [node.solo.config(), secret.clone()] {
        let before = fs::read(&spoils).unwrap();
        let file = spoils.display();
        node.script(&format!(
            "case \"$*\" in *--rehearse*) \"$real\" \"$@\"; echo 'what is this' > '{file}'; exit 0;; esac\nexec \"$real\" \"$@\""
        ));
        node.restart().expect(1, &["OAR-3204", "were written since", "nothing has changed"]);
        assert_eq!((node.solo.engine(), node.run_number()), (engine, run));
        fs::write(&spoils, before).unwrap();
    }
    assert!(guard.lost_now().is_none());
    node.real();
    node.solo.write(&right);
    node.restart().expect(0, &["goes on as run 1"]);
    assert!(guard.lost_now().is_none());
}

/// Who only looks asks again, and sees nothing of a restart.
#[test]
fn whoever_looks_on_does_not_notice() {
    let mut solo = Solo::new("");
    solo.start();
    let watch = |words: &[&str]| {
        let mut command = solo.at();
        command.args(words).stdout(Stdio::null()).stderr(Stdio::piped());
        Held(command.spawn().unwrap())
    };
    let mut watching: Vec<Held> = (0..4).map(|_| watch(&["locks", "watch", "--every", "10ms"])).collect();
    watching.push(watch(&["events", "-f"]));
    thread::sleep(Duration::from_millis(300));
    for _ in 0..30 {
        solo.run(&["node", "restart"]).expect(0, &[]);
    }
    for mut it in watching {
        if it.0.try_wait().unwrap().is_some() {
            let mut said = String::new();
            std::io::Read::read_to_string(it.0.stderr.as_mut().unwrap(), &mut said).unwrap();
            panic!("it has ended: {said}");
        }
    }
}

/// L5: whose lease was not renewed lately may have lost a renewal to the restart of another: it is to have the next one first.
#[test]
fn no_member_loses_its_lease_by_the_restarts_of_others() {
    let dev = Dev::start();
    until("all is well", || dev.all_well());
    let third = space(&dev, 'c');
    let guard = third.lock("held").acquire().unwrap();
    let engine = dev.engine('c');
    signal(engine, "STOP");
    thread::sleep(Duration::from_millis(1_200));
    let mut restart = dev.at('a');
    restart.args(["node", "restart"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut restart = Held(restart.spawn().unwrap());
    thread::sleep(Duration::from_millis(400));
    let waited = restart.0.try_wait().unwrap().is_none();
    signal(engine, "CONT");
    assert!(waited, "it did not wait for the renewal of another");
    assert!(restart.0.wait().unwrap().success());
    assert!(guard.lost_now().is_none());
}

/// A limit for files is one for files in memory as well, and ends a process that does not know of it.
#[test]
fn a_limit_of_files_costs_the_segment_and_nothing_else() {
    let mut solo = Solo::new("");
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -f 20000; exec \"$@\"", "sh", "env", "--default-signal"]);
    command.arg(env!("CARGO_BIN_EXE_oarlock")).args(["serve", "--config"]).arg(solo.config());
    solo.start_as(command);
    solo.run(&["status"]).expect(0, &["OAR-2206"]);
    let client = Client::connect(solo.socket()).unwrap();
    let space = client.space("default").unwrap();
    let guard = space.lock("held").acquire().unwrap();
    for _ in 0..3 {
        solo.run(&["node", "restart"]).expect(0, &["goes on as run 1"]);
    }
    assert!(guard.lost_now().is_none());
}
