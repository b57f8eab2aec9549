//! Fences that are outside programs: a power switch, a hypervisor, a port of a switch (L4).
//!
//! ```text
//!   a charge ──► thread ──► power NODE RUN EPOCH ── exit 0 ──────────────────────────► proven
//!                              └─ anything else, or too late ──► cut NODE RUN EPOCH ──► …, or failed
//! ```
//!
//! A program is told what it needs in its arguments and in its environment. It is killed with everything in its process group when its
//! time is over or nothing need be proven any more, and by the kernel when this process dies; whichever member is next begins anew.

use std::collections::VecDeque;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use oarlock_cluster::fencing::{Charge, Fence};
use oarlock_cluster::registry::Need;
use oarlock_layout::id::{Incarnation, NodeId};
use oarlock_layout::time::Instant;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use tracing::{info, warn};

use super::child::{Family, spawn_bound, watch};
use super::wake::Wake;
use crate::config::fencing::Method;

/// How long a program that was killed may take to be gone.
const KILLED_MAX: Duration = Duration::from_secs(2);

type Answer = (Charge, Result<(), String>);

/// Fences that are outside programs, in the order in which they are tried.
pub struct Programs {
    methods: Vec<Method>,
    cluster: String,
    wake: Wake,
    sender: Sender<Answer>,
    answers: Receiver<Answer>,
    /// Charges that could not even be begun.
    refused: VecDeque<Answer>,
    /// What is being done, and what ends it.
    running: Vec<(Charge, Wake)>,
}

impl Programs {
    /// None has run yet. The bell is rung when one has ended.
    ///
    /// # Panics
    /// If there are none: that is [`LeaseOnly`](oarlock_cluster::fencing::LeaseOnly).
    pub fn new(methods: Vec<Method>, cluster: &str, wake: Wake) -> Programs {
        assert!(!methods.is_empty(), "no programs are no fence");
        let (sender, answers) = channel();
        Programs {
            methods,
            cluster: cluster.into(),
            wake,
            sender,
            answers,
            refused: VecDeque::new(),
            running: Vec::new(),
        }
    }
}

impl Fence for Programs {
    fn needs(&self) -> Vec<Need> {
        vec![Need::Program]
    }

    fn begin(&mut self, _: Instant, charge: Charge, name: &str) {
        let (methods, sender, wake) = (self.methods.clone(), self.sender.clone(), self.wake.clone());
        let end = match Wake::new() {
            Ok(end) => end,
            Err(e) => return self.refuse(charge, format!("no descriptor: {e}")),
        };
        let told = Told { charge, name: name.into(), cluster: self.cluster.clone(), end: end.clone() };
        let begun = thread::Builder::new().name("fence".into()).spawn(move || {
            // Nobody hears it if the engine has ended; then it is another's turn.
            let _ = sender.send((told.charge, first(&methods, &told)));
            wake.ring();
        });
        match begun {
            Ok(_) => self.running.push((charge, end)),
            Err(e) => self.refuse(charge, format!("no thread: {e}")),
        }
    }

    fn poll(&mut self, _: Instant) -> Option<Answer> {
        if let Some(refused) = self.refused.pop_front() {
            return Some(refused);
        }
        let answer = self.answers.try_recv().ok()?;
        if let Some(at) = self.running.iter().position(|(charge, _)| *charge == answer.0) {
            self.running.swap_remove(at);
        }
        Some(answer)
    }

    fn withdraw(&mut self, node: NodeId, incarnation: Incarnation) -> bool {
        let its = |charge: &Charge| (charge.node, charge.incarnation) == (node, incarnation);
        let ends = self.running.iter().filter(|(charge, _)| its(charge)).map(|(_, end)| end.ring());
        ends.count() > 0
    }
}

impl Programs {
    fn refuse(&mut self, charge: Charge, why: String) {
        self.refused.push_back((charge, Err(why)));
        self.wake.ring();
    }
}

/// What a program is told.
#[derive(Clone)]
struct Told {
    charge: Charge,
    name: String,
    cluster: String,
    /// Rung once nothing need be proven any more.
    end: Wake,
}

/// How a program came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    ByItself,
    Late,
    Withdrawn,
}

const WITHDRAWN: &str = "it need not be proven any more";

/// The first that exits with 0 is enough.
fn first(methods: &[Method], told: &Told) -> Result<(), String> {
    let run = told.charge.incarnation;
    let mut last = String::new();
    for method in methods {
        if rung(&told.end) {
            return Err(WITHDRAWN.into());
        }
        info!("fencing {} (run {run}) by {}: {}", told.name, method.name, method.command.display());
        let (its, of) = (method.clone(), told.clone());
        match in_time(method, move || ran(&its, &of)) {
            Ok(()) => {
                info!("{} (run {run}) is fenced by {}", told.name, method.name);
                return Ok(());
            }
            Err(_) if rung(&told.end) => {
                info!("no need to fence {} (run {run}) any more: {} is ended", told.name, method.name);
                return Err(WITHDRAWN.into());
            }
            Err(why) => {
                warn!("fencing {} (run {run}) by {} failed: {why}", told.name, method.name);
                last = format!("{}: {why}", method.name);
            }
        }
    }
    Err(last)
}

/// What came of a method, in time whatever it does: a program on a disk that is gone hangs before it begins, and one that waits
/// for such a disk dies of no signal. Its thread is left to it then, and reaps it if it ever ends.
fn in_time(method: &Method, ran: impl FnOnce() -> Result<(), String> + Send + 'static) -> Result<(), String> {
    let (sender, answer) = channel();
    // The thread is what the kernel watches: it lives as long as the program may.
    let begun = thread::Builder::new().name("fence program".into()).spawn(move || {
        // Nobody hears it who has given it up.
        let _ = sender.send(ran());
    });
    begun.map_err(|e| format!("no thread: {e}"))?;
    answer.recv_timeout(method.timeout + KILLED_MAX).unwrap_or_else(|_| Err(late(method)))
}

fn late(method: &Method) -> String {
    format!("not done in {}", humantime::format_duration(method.timeout))
}

fn ran(method: &Method, told: &Told) -> Result<(), String> {
    let Charge { incarnation, epoch, tries, .. } = told.charge;
    let (run, epoch) = (incarnation.to_string(), epoch.to_string());
    let mut command = Command::new(&method.command);
    command
        .args([&told.name, &run, &epoch])
        .env("OARLOCK_CLUSTER", &told.cluster)
        .env("OARLOCK_FENCE", &method.name)
        .env("OARLOCK_FENCE_NODE", &told.name)
        .env("OARLOCK_FENCE_RUN", &run)
        .env("OARLOCK_FENCE_EPOCH", &epoch)
        .env("OARLOCK_FENCE_TRY", (tries + 1).to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        // With the lines of the daemon: whoever looks for the reason looks there.
        .stderr(Stdio::inherit())
        .process_group(0);
    let mut child = spawn_bound(&mut command, Signal::KILL).map_err(|e| format!("cannot run it: {e}"))?;
    let ended = ends(&child, method.timeout, &told.end);
    if !matches!(ended, Ok(End::ByItself)) {
        Family::group(child.id()).signal(Signal::KILL);
    }
    let status = child.wait().map_err(|e| format!("cannot wait for it: {e}"))?;
    match ended {
        Ok(End::ByItself) if status.success() => Ok(()),
        Ok(End::ByItself) => Err(exit(status)),
        Ok(End::Late) => Err(late(method)),
        Ok(End::Withdrawn) => Err(WITHDRAWN.into()),
        Err(e) => Err(format!("cannot watch it: {e}")),
    }
}

/// How it ends, in time.
fn ends(child: &Child, within: Duration, end: &Wake) -> std::io::Result<End> {
    let watched = watch(child.id())?;
    let until = super::clock::now() + within;
    loop {
        let left = until.since(super::clock::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut fds = [PollFd::new(&watched, PollFlags::IN), PollFd::new(end, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) if left.is_zero() => return Ok(End::Late),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) if fds[0].revents().is_empty() => return Ok(End::Withdrawn),
            Ok(_) => return Ok(End::ByItself),
            Err(e) => return Err(e.into()),
        }
    }
}

fn rung(end: &Wake) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(end, PollFlags::IN)], Some(&now)).is_ok_and(|n| n > 0)
}

fn exit(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("ended by signal {}", signal.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use oarlock_layout::id::Epoch;

    use super::*;

    fn method(dir: &Path, name: &str, script: &str, timeout_ms: u64) -> Method {
        let command = dir.join(name);
        fs::write(&command, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&command, fs::Permissions::from_mode(0o755)).unwrap();
        Method { name: name.into(), command, timeout: Duration::from_millis(timeout_ms) }
    }

    fn charge() -> Charge {
        Charge { node: NodeId(2), incarnation: Incarnation(7), epoch: Epoch(9), tries: 3 }
    }

    fn fence(methods: Vec<Method>) -> Result<(), String> {
        let wake = Wake::new().unwrap();
        let mut programs = Programs::new(methods, "harbour", wake.clone());
        assert_eq!(programs.needs(), [Need::Program]);
        programs.begin(Instant(0), charge(), "node-c");
        poll(&mut [PollFd::new(&wake, PollFlags::IN)], None).unwrap();
        let (of, outcome) = programs.poll(Instant(0)).unwrap();
        assert_eq!((of, programs.poll(Instant(0))), (charge(), None), "each charge is answered once");
        outcome
    }

    /// L4: a program hears whom to fence, twice over, and only its exit with 0 proves anything.
    #[test]
    fn a_program_that_exits_with_0_has_fenced_the_node_it_was_told() {
        let dir = tempfile::tempdir().unwrap();
        let said = dir.path().join("said");
        let script = format!(
            "echo \"$@ $OARLOCK_CLUSTER $OARLOCK_FENCE $OARLOCK_FENCE_NODE $OARLOCK_FENCE_RUN \
             $OARLOCK_FENCE_EPOCH $OARLOCK_FENCE_TRY\" > {}",
            said.display()
        );
        assert_eq!(fence(vec![method(dir.path(), "power", &script, 60_000)]), Ok(()));
        assert_eq!(fs::read_to_string(&said).unwrap(), "node-c 7 9 harbour power node-c 7 9 4\n");
        let failed = |script: &str| fence(vec![method(dir.path(), "power", script, 60_000)]).unwrap_err();
        assert_eq!(failed("exit 3"), "power: exit status 3");
        assert_eq!(failed("kill -9 $$"), "power: ended by signal 9");
        let gone = Method { command: dir.path().join("gone"), ..method(dir.path(), "x", "", 1_000) };
        assert!(fence(vec![gone]).unwrap_err().starts_with("x: cannot run it"));
    }

    /// L4: a fence that cannot even be killed, or hangs before it begins, keeps nobody's turn.
    #[test]
    fn a_program_that_no_signal_ends_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let method = method(dir.path(), "power", "exit 0", 10);
        let (goes_on, stuck) = channel::<()>();
        let answer = in_time(&method, move || stuck.recv().map_err(|_| "only when the test ends".into()));
        assert_eq!(answer, Err("not done in 10ms".into()));
        drop(goes_on);
        assert_eq!(in_time(&method, || Ok(())), Ok(()));
    }

    fn gone(pid: &str) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    }

    fn until(what: &str, met: impl Fn() -> bool) {
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while !met() {
            assert!(std::time::Instant::now() < until, "not in time: {what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// L4: once nothing need be proven of a run, its node may be back: nothing that is still on its way may hit it.
    #[test]
    fn a_program_whose_charge_is_gone_is_ended_with_its_group_and_no_other_is_tried() {
        let dir = tempfile::tempdir().unwrap();
        let (pid, next) = (dir.path().join("pid"), dir.path().join("next"));
        let hangs = format!("sleep 600 & echo $! > {}; wait", pid.display());
        let methods = vec![
            method(dir.path(), "power", &hangs, 600_000),
            method(dir.path(), "cut", &format!("touch {}", next.display()), 60_000),
        ];
        let wake = Wake::new().unwrap();
        let mut programs = Programs::new(methods, "harbour", wake.clone());
        let Charge { node, incarnation, .. } = charge();
        assert!(!programs.withdraw(node, incarnation), "nothing runs yet");
        programs.begin(Instant(0), charge(), "node-c");
        let read = || fs::read_to_string(&pid).unwrap_or_default();
        until("it runs", || read().ends_with('\n'));
        assert!(!programs.withdraw(node, Incarnation(8)) && !gone(&read()), "another run's");
        assert!(programs.withdraw(node, incarnation));
        poll(&mut [PollFd::new(&wake, PollFlags::IN)], None).unwrap();
        assert_eq!(programs.poll(Instant(0)), Some((charge(), Err(WITHDRAWN.into()))));
        until("what it started is gone", || gone(&read()));
        assert!(!next.exists() && !programs.withdraw(node, incarnation));
    }

    /// L4: a fence that hangs has failed, and nothing of it is left behind; the next in the order has its turn.
    #[test]
    fn a_program_that_hangs_is_killed_with_its_group_and_the_next_is_tried() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let hangs = format!("sleep 600 & echo $! > {}; wait", pid.display());
        let hangs = method(dir.path(), "power", &hangs, 500);
        assert_eq!(fence(vec![hangs.clone()]), Err("power: not done in 500ms".into()));
        let pid = fs::read_to_string(&pid).unwrap();
        until("what it started is gone", || gone(&pid));
        assert_eq!(fence(vec![hangs, method(dir.path(), "cut", "exit 0", 60_000)]), Ok(()));
    }
}
