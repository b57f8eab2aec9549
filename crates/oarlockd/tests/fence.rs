//! A fence that is a program, on real nodes: nothing of a killed node is granted before it has said 0, or a person has.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use oarlock_chaos::cluster::Cluster;
use support::{Said, lives, oarlock, pid_in, until};

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const PATIENCE: Duration = Duration::from_secs(30);

/// Three nodes whose fence fails until a file is there, and notes whom it was told to fence.
struct Fenced {
    cluster: Cluster,
}

impl Fenced {
    fn start() -> Fenced {
        Fenced::start_with("test -e allowed || exit 3")
    }

    /// The same with a fence that ends like this.
    fn start_with(end: &str) -> Fenced {
        let mut cluster = Cluster::new(Path::new(env!("CARGO_BIN_EXE_oarlock")), 1).unwrap();
        let fence = cluster.dir().join("fence");
        let script = format!(
            "#!/bin/sh\ncd {}\necho \"$1 $2 $3 $OARLOCK_FENCE_TRY\" >> calls\n{end}\n",
            cluster.dir().display()
        );
        fs::write(&fence, script).unwrap();
        fs::set_permissions(&fence, fs::Permissions::from_mode(0o755)).unwrap();
        for place in &cluster.places {
            let section = "\n[fencing]\norder = [\"test\"]\n[fencing.test]\ncommand = \"../fence\"\ntimeout = \"600s\"\n";
            let text = fs::read_to_string(place.config()).unwrap() + section;
            fs::write(place.config(), text).unwrap();
        }
        cluster.start_all().unwrap();
        cluster.wait_until_serving(PATIENCE).unwrap();
        Fenced { cluster }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.cluster.dir().join(name)
    }

    /// What the script was told: node, run, epoch and try, each time.
    fn calls(&self) -> Vec<String> {
        fs::read_to_string(self.file("calls")).unwrap_or_default().lines().map(Into::into).collect()
    }

    fn run(&self, node: usize, args: &[&str]) -> Said {
        let socket = self.cluster.places[node].socket();
        Said::of(oarlock().env("OARLOCK_SOCKET", socket).args(args).output().unwrap())
    }

    /// Takes `x` at the last node, kills that node, and wants `x` at another. It leaves a file when it has it.
    fn take_kill_and_want(&mut self) -> Child {
        let holder = self.cluster.client(C, "holder").unwrap();
        let guard = holder.space("default").unwrap().lock("x").acquire().unwrap();
        self.cluster.kill(C);
        guard.wait_lost(PATIENCE).expect("its node is gone");
        let socket = self.cluster.places[A].socket();
        let mut command = oarlock();
        command.env("OARLOCK_SOCKET", socket).args(["lock", "-q", "-w", "120", "x", "--", "touch"]);
        command.arg(self.file("granted")).stdout(Stdio::null()).stderr(Stdio::null());
        let waiter = command.spawn().unwrap();
        until("the fence is waited for", || {
            self.run(A, &["status"]).out.contains("waiting for the fence of c")
        });
        waiter
    }

    /// What the killed node did not have, and did not decide about, is granted at both others.
    fn others_go_on(&self) {
        for node in [A, B] {
            let (mut granted, mut kept, mut names) = (0, 0, 0..60);
            while granted < 3 || kept < 1 {
                let Some(i) = names.next() else {
                    panic!("{granted} granted and {kept} kept at node {node}")
                };
                let name = format!("other-{node}-{i}");
                match self.run(node, &["lock", "-q", "-w", "1", &name, "--", "true"]).status {
                    Some(0) => granted += 1,
                    // One that the node that left decided about, unless this machine is too busy.
                    _ => {
                        let why = self.run(node, &["locks", "why", &name]).out;
                        kept += i32::from(why.contains("waiting for the fence of c (run 1)"));
                    }
                }
            }
        }
    }

    fn granted(&self, mut waiter: Child) {
        assert!(waiter.wait().unwrap().success());
        assert!(self.file("granted").exists());
    }
}

/// L4: until the program exits with 0, wherever it is run, what the killed node may have had waits and says for what, and everything else
/// goes on; the killed node comes back after that.
#[test]
fn nothing_of_a_killed_node_is_granted_before_its_fence_has_succeeded() {
    let mut fenced = Fenced::start();
    fenced.run(A, &["status"]).expect(0, &["fencing  command (test)"]);
    let waiter = fenced.take_kill_and_want();
    until("both others have tried", || fenced.calls().len() >= 3);
    fenced.run(B, &["status"]).expect(
        0,
        &[
            "waiting for the fence of c (run 1)",
            "it failed",
            "test: exit status 3",
            "node fence c --confirmed",
        ],
    );
    fenced.run(A, &["locks", "why", "x"]).expect(0, &["waiting for the fence of c"]);
    fenced.run(B, &["locks", "tree"]).expect(0, &["waits"]);
    fenced.run(A, &["failover", "show"]).expect(0, &["not fenced yet", "waiting for the fence of c (run 1)"]);
    fenced.run(A, &["node", "fence", "c"]).expect(0, &["waiting for the fence of c (run 1)"]);
    until("the node grants", || fenced.run(A, &["ok"]).status == Some(0));
    let health = fenced.run(A, &["health"]).out;
    assert!(health.contains("not fenced yet"), "{health}");
    let calls = fenced.calls();
    for (i, call) in calls.iter().enumerate() {
        let words: Vec<_> = call.split(' ').collect();
        let number = (i + 1).to_string();
        assert_eq!((words[0], words[1], words[3]), ("c", "1", number.as_str()), "{calls:?}");
    }
    fenced.others_go_on();
    // It wants to be back, and waits like everybody.
    fenced.cluster.start(C).unwrap();
    until("it says what it waits for", || {
        fenced.run(C, &["status"]).out.contains("let in again once its run 1 is fenced")
    });
    for words in [&["ok"][..], &["health"], &["lock", "-w", "1", "x", "--", "true"]] {
        fenced.run(C, words).expect(79, &["OAR-2407"]);
    }
    fenced.run(C, &["ok"]).expect(79, &["let in again once its run 1 is fenced"]);
    assert!(!fenced.file("granted").exists(), "nothing is granted meanwhile");

    fs::write(fenced.file("allowed"), "").unwrap();
    fenced.granted(waiter);
    fenced.run(A, &["coord", "show"]).expect(0, &["fenced by "]);
    fenced.run(B, &["events"]).expect(0, &["to fence c (run 1), at ", "c (run 1) is fenced, by "]);
    until("it is back, as another run", || {
        fenced.run(A, &["node", "show", "c"]).out.contains("in it as run 2")
    });
    let last = fenced.calls().last().unwrap().clone();
    assert!(last.starts_with("c 1 "), "no run but the first was to be fenced: {last}");
}

/// L4: a person who has seen to it frees what waits, and it is told who; a stop in order asks for no fence at all.
#[test]
fn what_a_person_confirms_is_as_good_as_the_fence() {
    let mut fenced = Fenced::start();
    let waiter = fenced.take_kill_and_want();
    let said = fenced.run(B, &["node", "fence", "c", "--confirmed"]);
    said.expect(2, &["DANGER", "nothing was changed"]);
    assert!(!fenced.file("granted").exists());
    fenced.run(B, &["node", "fence", "c", "--confirmed", "--yes"]).expect(0, &["DANGER", "view "]);
    fenced.granted(waiter);
    let uid = format!("uid {}", rustix::process::getuid().as_raw());
    for node in [A, B] {
        let confirmed = format!("{uid} confirmed by hand at b, of c (run 1)");
        until("it is remembered at every node", || fenced.run(node, &["events"]).out.contains(&confirmed));
    }
    fenced.run(A, &["coord", "show"]).expect(0, &["confirmed by hand at b by uid "]);

    let before = fenced.calls();
    fenced.cluster.ask_to_stop(B);
    until("it has left", || fenced.cluster.has_left(B));
    assert_eq!(fenced.calls(), before, "whoever gives himself up is not fenced");
}

/// L4: a person confirms what a program is still at. The node may be switched on again after that, so the program is ended with what it
/// started, and the node that ran it remembers that.
#[test]
fn a_program_ends_once_a_person_has_confirmed_what_it_was_to_prove() {
    let mut fenced = Fenced::start_with("sleep 600 & echo $! > hangs.new; mv hangs.new hangs; wait");
    let waiter = fenced.take_kill_and_want();
    let hangs = pid_in(&fenced.file("hangs"));
    assert!(lives(hangs));
    fenced.run(B, &["node", "fence", "c", "--confirmed", "--yes"]).expect(0, &["DANGER", "view "]);
    fenced.granted(waiter);
    until("the program is gone", || !lives(hangs));
    let ended = "the program at this node that was fencing c (run 1) is ended";
    let remembers = |node: &usize| fenced.run(*node, &["events"]).out.contains(ended);
    until("it is remembered", || [A, B].iter().filter(|node| remembers(node)).count() == 1);
}
