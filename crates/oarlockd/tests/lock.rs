//! `oarlock lock` on real daemons: exclusion between nodes, exit statuses, signals, loss.

mod support;

use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::solo::Solo;
use support::{Dev, Said, lives, pid_in, run, signal, until};

/// Holds a lock until told otherwise: killed when dropped.
struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn hold(dev: &Dev, node: char, args: &[&str]) -> Held {
    let ready = dev.dir.path().join(format!("ready-{}", args.join("-").replace('/', "_")));
    let script = format!("touch '{}'; exec sleep 60", ready.display());
    let child =
        dev.at(node).arg("lock").args(args).args(["-c", &script]).stderr(Stdio::null()).spawn().unwrap();
    until("the lock is held", || ready.exists());
    Held(child)
}

#[test]
fn a_lock_held_on_one_node_excludes_another_and_says_so() {
    let dev = Dev::start();
    let held = hold(&dev, 'a', &["jobs/x"]);
    dev.run('b', &["lock", "-n", "jobs/x", "--", "true"])
        .expect(75, &["OAR-2101", "jobs/x EX", "why:", "locks why jobs/x"]);
    dev.run('c', &["lock", "-n", "-E", "9", "-s", "jobs/x", "--", "true"]).expect(9, &[]);
    let began = Instant::now();
    dev.run('b', &["lock", "-w", "300ms", "jobs/x", "--", "true"]).expect(75, &["OAR-2102"]);
    assert!(began.elapsed() >= Duration::from_millis(300));
    // Another resource is another matter, and NL stands beside EX.
    dev.run('b', &["lock", "-n", "jobs/y", "--", "true"]).expect(0, &[]);
    dev.run('b', &["lock", "-n", "-m", "nl", "jobs/x", "--", "true"]).expect(0, &[]);
    drop(held);
    // It was killed: its hang-up releases.
    dev.run('b', &["lock", "-w", "5s", "jobs/x", "--", "true"]).expect(0, &[]);
}

#[test]
fn readers_share_and_a_writer_waits_for_them_all() {
    let dev = Dev::start();
    let readers = [hold(&dev, 'a', &["-s", "r"]), hold(&dev, 'b', &["-s", "r", "--label", "second"])];
    dev.run('c', &["lock", "-n", "-s", "r", "--", "true"]).expect(0, &[]);
    dev.run('c', &["lock", "-n", "r", "--", "true"]).expect(75, &[]);
    drop(readers);
    dev.run('c', &["lock", "-w", "5s", "r", "--", "true"]).expect(0, &[]);
}

#[test]
fn the_childs_status_passes_through() {
    let dev = Dev::start_with(&["-n", "1"]);
    for (script, status) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)] {
        dev.run('a', &["lock", "s", "-c", script]).expect(status, &[]);
    }
    dev.run('a', &["lock", "s", "--", "/no/such/command"]).expect(127, &["OAR-1002", "/no/such/command"]);
    dev.run('a', &["lock", "s", "--", "/etc/passwd"]).expect(126, &[]);
    // The lock is free again after each of them.
    dev.run('a', &["lock", "-n", "s", "--", "true"]).expect(0, &[]);
}

#[test]
fn tokens_grow_with_every_grant_from_whatever_node() {
    let dev = Dev::start();
    let mut last = 0u64;
    for node in ['a', 'b', 'a', 'a', 'c', 'b'] {
        let said = dev.run(node, &["lock", "t", "-c", "echo $OARLOCK_TOKEN $OARLOCK_MODE $OARLOCK_RESOURCE"]);
        let said = said.expect(0, &["EX t"]);
        let token: u64 = said.out.split_whitespace().next().unwrap().parse().unwrap();
        assert!(token > last, "{token} after {last}");
        last = token;
    }
}

#[test]
fn a_waiter_is_told_who_holds_it_since_when_and_its_place() {
    let dev = Dev::start();
    let _held = hold(&dev, 'a', &["slow", "--label", "backup.sh"]);
    let said = dev.run('b', &["lock", "-w", "3s", "slow", "--", "true"]);
    said.expect(75, &["waiting for slow EX: held EX by node-a pid", "(backup.sh) for", "you are next"]);
    let said = dev.run('b', &["lock", "-q", "-w", "1200ms", "slow", "--", "true"]).expect(75, &[]);
    assert_eq!(said.err, "", "--quiet says nothing");
    // Nobody waits a second: nobody is told anything.
    let said = dev.run('b', &["lock", "free", "--", "true"]).expect(0, &[]);
    assert_eq!(said.err, "");
}

#[test]
fn signals_are_passed_on_to_the_command() {
    let dev = Dev::start_with(&["-n", "1"]);
    for name in ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"] {
        let ready = dev.dir.path().join(format!("ready-{name}"));
        let script = format!(
            "trap 'echo got {name}; exit 33' {name}; touch '{}'; while :; do sleep 0.02; done",
            ready.display()
        );
        let mut command = dev.at('a');
        let child = command.args(["lock", "sig", "-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
        until("the command runs", || ready.exists());
        signal(child.id() as i32, name);
        Said::of(child.wait_with_output().unwrap()).expect(33, &[&format!("got {name}")]);
    }
}

#[test]
fn a_stopped_command_hears_a_signal_that_asks_it_to_end() {
    let dev = Dev::start_with(&["-n", "1"]);
    let mut command = dev.at('a');
    let mut child = command.args(["lock", "r", "-c", "kill -STOP $$; sleep 60"]).spawn().unwrap();
    let stopped = || {
        let held = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id()));
        held.unwrap_or_default().split_whitespace().any(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        })
    };
    until("it is stopped", stopped);
    signal(child.id() as i32, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn an_interrupted_waiter_withdraws_and_leaves_with_the_signal() {
    let dev = Dev::start();
    let held = hold(&dev, 'a', &["w"]);
    let child = dev.at('b').args(["lock", "w", "--", "true"]).stderr(Stdio::null()).spawn().unwrap();
    let waiting = || dev.run('a', &["locks", "why", "w"]).out.contains("1 waits for w");
    until("it waits", waiting);
    signal(child.id() as i32, "INT");
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    until("it waits no more", || !waiting());
    drop(held);
}

/// A4: a death is noticed beside the path of grants, and what the dead held is free again.
#[test]
fn killing_the_wrapper_kills_the_command_and_frees_the_lock() {
    let dev = Dev::start();
    let file = dev.dir.path().join("pid");
    // Not an `exec`: the shell stays, and has a child of its own.
    let script = format!("echo $$ > '{}'; sleep 61; true", file.display());
    let mut child = dev.at('a').args(["lock", "k", "-c", &script]).spawn().unwrap();
    let shell = pid_in(&file);
    let mut sleeper = 0;
    until("the shell has started sleep", || {
        let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap_or_default();
        sleeper = children.trim().parse().unwrap_or(0);
        sleeper != 0
    });
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    until("the command is dead", || !lives(shell));
    until("and what it started is too", || !lives(sleeper));
    dev.run('b', &["lock", "-w", "5s", "k", "--", "true"]).expect(0, &[]);
}

#[test]
fn a_lost_daemon_ends_the_command_with_76() {
    let dev = Dev::start_with(&["--keep"]);
    let file = dev.dir.path().join("pid");
    // Polite: it is deaf to SIGTERM, but ends when it hears of the loss through its descriptor. With `sh`,
    // whose redirections know single digits only.
    let told = dev.dir.path().join("told");
    let script = format!(
        "trap '' TERM; echo $$ > '{}'; read x <&$OARLOCK_LOST_FD; echo told > '{}'",
        file.display(),
        told.display()
    );
    let polite = dev.at('a').args(["lock", "p", "-c", &script]).stderr(Stdio::piped()).spawn().unwrap();
    // Stubborn: it ignores SIGTERM, and so does a child that left its group.
    let other = dev.dir.path().join("pid2");
    let script = format!(
        "trap '' TERM; setsid sleep 62 & echo $! > '{}'; while :; do sleep 0.02; done",
        other.display()
    );
    let stubborn = dev.at('a').args(["lock", "q", "-c", &script]).stderr(Stdio::null()).spawn().unwrap();
    let (shell, sleeper) = (pid_in(&file), pid_in(&other));
    let began = Instant::now();
    signal(dev.pid('a'), "KILL");
    Said::of(polite.wait_with_output().unwrap()).expect(76, &["lock on p lost", "SIGTERM"]);
    assert!(began.elapsed() < Duration::from_millis(1900), "it did not wait for the whole grace");
    assert_eq!(stubborn.wait_with_output().unwrap().status.code(), Some(76));
    let took = began.elapsed();
    // Two seconds, or less if the lease ends before; it lasted for at least so long when the node was killed.
    assert!(took >= Duration::from_millis(1_500) && took < Duration::from_secs(6), "{took:?}");
    assert!(!lives(shell) && !lives(sleeper), "nothing lives on under a lost lock");
    assert!(told.exists(), "OARLOCK_LOST_FD became readable");
    // Silent at first, and out of the view once its lease is over.
    let noticed = || dev.run('b', &["status"]).out.contains("OAR-3101 node-a");
    until("the others notice", noticed);
    dev.run('b', &["lock", "-w", "10s", "p", "--", "true"]).expect(0, &[]);
}

#[test]
fn a_command_that_ends_by_itself_after_the_loss_still_counts_as_lost() {
    let mut dev = Dev::start_with(&["-n", "1"]);
    let script = "trap 'exit 0' TERM; while :; do sleep 0.02; done";
    let child = dev.at('a').args(["lock", "z", "-c", script]).stderr(Stdio::piped()).spawn().unwrap();
    until("it holds", || dev.run('a', &["locks", "ls"]).out.contains("in use"));
    assert_eq!(dev.stop(), Some(0));
    Said::of(child.wait_with_output().unwrap()).expect(76, &["stopped"]);
}

/// The wrapper stood still (as on a busy machine) while the node died and the command went on without the lock.
#[test]
fn a_loss_that_is_noticed_only_after_the_command_ended_still_counts() {
    let mut solo = Solo::new("");
    solo.start();
    let (file, go) = (solo.path("pid"), solo.path("go"));
    let script =
        format!("echo $$ > '{}'; while [ ! -e '{}' ]; do sleep 0.02; done", file.display(), go.display());
    let child = solo.at().args(["lock", "late", "-c", &script]).stderr(Stdio::piped()).spawn().unwrap();
    let shell = pid_in(&file);
    signal(child.id() as i32, "STOP");
    let engine = solo.engine();
    solo.end("KILL");
    until("nothing of the node is left", || !lives(engine));
    fs::write(&go, "").unwrap();
    until("the command has ended", || !lives(shell));
    signal(child.id() as i32, "CONT");
    Said::of(child.wait_with_output().unwrap()).expect(76, &["lock on late lost"]);
}

/// At a terminal, with standard input from elsewhere: the command may still ask the terminal.
#[test]
fn a_command_with_other_input_can_still_open_its_terminal() {
    let dev = Dev::start_with(&["-n", "1"]);
    let probe = Command::new("script").arg("--version").stdout(Stdio::null()).status();
    probe.expect("script(1), which gives the command a terminal: apt-get install bsdutils");
    let asks = format!(
        "'{}' lock tty -c 'read answer </dev/tty; echo got-$answer' </dev/null",
        env!("CARGO_BIN_EXE_oarlock")
    );
    let mut terminal = Command::new("script");
    terminal.args(["-qec", &asks, "/dev/null"]).env("OARLOCK_SOCKET", dev.socket('a'));
    let mut terminal =
        terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    terminal.stdin.as_mut().unwrap().write_all(b"yes\n").unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while terminal.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            terminal.kill().unwrap();
            panic!("the command was stopped for reading its terminal");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Said::of(terminal.wait_with_output().unwrap()).expect(0, &["got-yes"]);
}

#[test]
fn nohup_still_means_nohup() {
    let dev = Dev::start_with(&["-n", "1"]);
    let ready = dev.dir.path().join("ready");
    let socket = dev.socket('a');
    let script = format!(
        "trap '' HUP; exec '{}' lock n -c 'touch {}; sleep 0.5; exit 5'",
        env!("CARGO_BIN_EXE_oarlock"),
        ready.display()
    );
    let mut command = Command::new("sh");
    let child = command.args(["-c", &script]).env("OARLOCK_SOCKET", &socket).spawn().unwrap();
    until("it runs", || ready.exists());
    signal(child.id() as i32, "HUP");
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(5));
}

#[test]
fn bad_input_is_named_with_its_code_and_status() {
    let dev = Dev::start_with(&["-n", "1", "--space", "orders:strict"]);
    let a = |args: &[&str]| dev.run('a', args);
    a(&["lock", "", "--", "true"]).expect(2, &["OAR-2109", "1 to 255 bytes", "empty"]);
    a(&["lock", &"x".repeat(256), "--", "true"]).expect(2, &["OAR-2109", "256"]);
    a(&["lock", &"x".repeat(255), "--", "true"]).expect(0, &[]);
    a(&["lock", "-m", "EXX", "r", "--", "true"]).expect(2, &["OAR-2110", "did you mean EX?"]);
    a(&["lock", "-w", "soon", "r", "--", "true"]).expect(2, &["OAR-2111", "soon"]);
    a(&["lock", "-w", "-1", "r", "--", "true"]).expect(2, &["OAR-2111", "backwards"]);
    a(&["lock", "--space", "order", "r", "--", "true"]).expect(2, &["OAR-2202", "did you mean `orders`?"]);
    a(&["lock", "r"]).expect(2, &["OAR-1001", "no command"]);
    a(&["lock", "--nonsense", "r", "--", "true"]).expect(2, &["OAR-1001", "--nonsense"]);
    a(&["locks", "ls", "--space", "ordes"]).expect(2, &["OAR-2202", "did you mean \"orders\"?"]);
    a(&["node", "show", "node-q"]).expect(2, &["there is no member", "node-a"]);
    a(&["lock", "--space", "orders", r"any\x00byte", "-c", "exit 3"]).expect(3, &[]);
    run(["status", "--socket", "/tmp/no-such-oarlock.sock"])
        .expect(69, &["OAR-1101", "no such socket", "oarlock dev"]);
    run(["status"]).expect(69, &["OAR-1101", "OARLOCK_SOCKET"]);
    run(["status", "--socket", &"x".repeat(108)]).expect(78, &["OAR-1104", "108 bytes"]);
    run(["stauts"]).expect(2, &["OAR-1001", "try: tip: a similar subcommand exists: 'status'"]);
    run(["status", "--socket", env!("CARGO_BIN_EXE_oarlock")])
        .expect(69, &["OAR-1101", "it is not a socket"]);
    let said = run(["status", "-o", "json", "--socket", "/tmp/no-such-oarlock.sock"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&said.err).unwrap()["error"]["code"], "OAR-1101");
}

#[test]
fn many_short_commands_on_three_nodes_never_meet() {
    let dev = Dev::start();
    let file = dev.dir.path().join("count");
    fs::write(&file, "0").unwrap();
    // Read, wait, write: without exclusion this loses counts at once.
    let script = format!("n=$(cat '{0}'); sleep 0.002; echo $((n+1)) > '{0}'", file.display());
    let workers: Vec<_> = ['a', 'b', 'c']
        .map(|node| {
            let mut command = dev.at(node);
            command.args(["lock", "count", "-c", &script]);
            thread::spawn(move || (0..25).all(|_| command.status().unwrap().success()))
        })
        .into();
    assert!(workers.into_iter().all(|w| w.join().unwrap()));
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), "75");
}
