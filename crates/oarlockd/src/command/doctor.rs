//! `oarlock doctor`: looks at this machine and says what would get in the way.

use std::cell::OnceCell;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oarlock_layout::code::Code;
use oarlock_layout::id::SpaceId;
use oarlock_layout::limit::{RESOURCES_MAX_DEFAULT, SESSIONS_MAX};
use oarlock_layout::message::session::{Reply, Request};
use oarlock_layout::segment::Geometry;
use oarlock_shm::{MapError, Memory};
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use super::cli::Doctor;
use super::condition::{Cell, Kind};
use super::listing::{Columns, column};
use super::session::Session;
use super::{config, connect, serve, status};
use crate::config::Config;
use crate::console::doc::{Question, Status};
use crate::host::datagrams::Datagrams;
use crate::host::{child, clock as host_clock, door, poll};
use crate::problem::{Problem, Result};

/// The oldest kernel Oarlock is tested on.
const KERNEL_MIN: (u32, u32) = (6, 1);
/// Below this a burst of datagrams is lost before the engine has read it.
const SOCKET_BUFFER_MIN: usize = 1 << 20;

const GIB: f64 = (1u64 << 30) as f64;
/// A node that takes longer for an attachment has other worries.
const ATTACH_MAX: Duration = Duration::from_secs(2);

/// How a check ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but could be better.
    Warn,
    /// Will not work.
    Bad,
}

#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    verdict: Verdict,
    found: String,
    try_next: String,
}

impl Check {
    fn new(
        check: &'static str,
        verdict: Verdict,
        found: impl Into<String>,
        try_next: impl Into<String>,
    ) -> Check {
        let try_next = if verdict == Verdict::Ok { String::new() } else { try_next.into() };
        Check { check, verdict, found: found.into(), try_next }
    }

    fn of(check: &'static str, fine: bool, found: impl Into<String>, try_next: &str) -> Check {
        Check::new(check, if fine { Verdict::Ok } else { Verdict::Warn }, found, try_next)
    }
}

#[derive(Serialize)]
struct Report {
    v: u32,
    healthy: bool,
    checks: Vec<Check>,
}

/// What it tells of a check.
pub static CHECKS: Columns = Columns {
    all: &[
        column("CHECK", Kind::Name),
        column("VERDICT", Kind::Word),
        column("FOUND", Kind::Name),
        column("TRY", Kind::Name),
    ],
    narrow: 4,
};

fn row(c: &Check) -> Vec<Cell> {
    let verdict = match c.verdict {
        Verdict::Ok => "ok",
        Verdict::Warn => "warn",
        Verdict::Bad => "BAD",
    };
    vec![Cell::name(c.check), Cell::word(verdict), Cell::name(&c.found), Cell::name(&c.try_next)]
}

/// Runs all checks, whichever are shown; fails if one of them is bad.
pub fn run(command: &Doctor) -> Result<()> {
    let plan = CHECKS.plan(&command.ask.list)?;
    let mut checks = vec![kernel(), clock(), descriptors(), pidfd(), epoll()];
    checks.extend(datagrams());
    let mut configured = None;
    let mut sizes = Some(vec![RESOURCES_MAX_DEFAULT]);
    if let Some(file) = &command.config {
        let config = Config::load(file);
        let mut places = Vec::new();
        if let Ok(config) = &config {
            configured = Some(config.socket.clone());
            sizes = config.segments.then(|| config.spaces.iter().map(|s| s.resources_max).collect());
            places = addresses(config);
        }
        checks.push(configuration(config));
        checks.extend(places);
    }
    checks.push(segments(sizes.as_deref()));
    let (socket, configured) = (command.ask.connect.socket.as_deref(), configured.as_deref());
    checks.push(daemon(socket, configured));
    checks.extend(attachment(socket, configured));
    let bad: Vec<_> = checks.iter().filter(|c| c.verdict == Verdict::Bad).map(|c| c.check).collect();
    let problem = (!bad.is_empty()).then(|| {
        Problem::new(Code::Failed, format!("bad: {}", bad.join(", ")))
            .because("see the lines above")
            .try_next("what stands in the last column")
    });
    plan.arrange(&mut checks, row);
    let report = Report { v: 1, healthy: problem.is_none(), checks };
    plan.print(&report.checks, row, &report)?;
    problem.map_or(Ok(()), Err)
}

fn kernel() -> Check {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok());
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Check::of("kernel", found >= KERNEL_MIN, release, "Linux 6.1 or newer is what Oarlock is tested on")
}

fn clock() -> Check {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source = fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    match source.as_str() {
        "" => {
            Check::of("clock source", false, "not readable", "nothing, in a container; timing may cost more")
        }
        // The others need a system call or a slow device for each look at the clock.
        s => Check::of(
            "clock source",
            matches!(s, "tsc" | "kvm-clock" | "hyperv_clocksource_tsc_page" | "arch_sys_counter"),
            s,
            "a fast clock source makes every grant cheaper: tsc or kvm-clock",
        ),
    }
}

fn descriptors() -> Check {
    // The hard limit: a node raises its own soft one as far as it may.
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let needed = 2 * SESSIONS_MAX as u64 + 64;
    Check::of(
        "open files",
        limit >= needed,
        format!("{limit} allowed"),
        &format!("ulimit -Hn {needed}, or LimitNOFILE={needed} in the unit: each program takes two"),
    )
}

/// Could a node make segments for lockspaces of these sizes, and a program map them?
fn segments(sizes: Option<&[u32]>) -> Check {
    let check = "shared segments";
    let Some(sizes) = sizes else {
        return Check::new(check, Verdict::Ok, "not wanted: segments = false in [node]", "");
    };
    let geometry = |size: &u32| Geometry::of_space(*size);
    let bytes: usize = sizes.iter().map(|size| geometry(size).cells() * 8).sum();
    let room = format!("{:.1} GiB of address space, in memory only where it is used", bytes as f64 / GIB);
    // All at once, as a node keeps them.
    let made = |size| Memory::create("oarlock-doctor", geometry(size), 0);
    let tried = sizes
        .iter()
        .map(made)
        .collect::<std::result::Result<Vec<_>, _>>()
        .and_then(|all| all.iter().try_for_each(|(_, fd)| Memory::open(fd).map(|_| ())));
    match tried {
        Ok(()) => Check::new(check, Verdict::Ok, format!("work; {room}"), ""),
        Err(e @ MapError::Kernel { what: "mapped", .. }) => {
            let allowed = getrlimit(Resource::As).current;
            let limit = allowed.map_or("no limit".into(), |bytes| format!("a limit of {} MiB", bytes >> 20));
            let next = "ulimit -v unlimited, or LimitAS=infinity in the unit; else programs ask the node for every lock";
            Check::new(check, Verdict::Warn, format!("{e}: they need {room}, and there is {limit}"), next)
        }
        Err(e) => {
            let next = "a seccomp profile may forbid memfd_create or its seals; else programs ask the node for every lock";
            Check::new(check, Verdict::Warn, e.to_string(), next)
        }
    }
}

/// Would the running node let a program of this place grant itself? Nothing is said of a node that does not answer:
/// another line does that.
fn attachment(socket: Option<&Path>, configured: Option<&Path>) -> Option<Check> {
    let check = "attachment";
    let path = place(socket, configured).ok()?.0;
    let mut session = Session::open(&path, "oarlock").ok()?;
    let before = host_clock::monotonic();
    session.send(&Request::Attach { request: 0, space: SpaceId(0) }).ok()?;
    let reply = session.receive(Some(Instant::now() + ATTACH_MAX)).ok()??;
    let after = host_clock::monotonic();
    Some(match reply {
        Reply::Attached(attached) => {
            session.send(&Request::Detach).ok()?;
            attached_at(check, attached.now, before, after)
        }
        Reply::Denied { why, .. } => {
            let next = match why.code {
                Code::SpaceDenied => "oarlock space show; whoever may only read asks the node for every lock",
                _ => "`shared segments` above, `segments` in [node], and the node's log",
            };
            Check::new(check, Verdict::Warn, format!("{} {}", why.code, why.text), next)
        }
        _ => return None,
    })
}

/// A lease that one clock ends and another judges is none.
fn attached_at(check: &'static str, theirs: u64, before: u64, after: u64) -> Check {
    if (before..=after).contains(&theirs) {
        return Check::new(
            check,
            Verdict::Ok,
            "programs may grant themselves, and the node's clock is ours",
            "",
        );
    }
    let off = theirs.abs_diff(before.midpoint(after)) as f64 / 1e9;
    let next =
        "one time namespace for the node and its programs; in another they ask the node for every lock";
    Check::new(check, Verdict::Warn, format!("the node's clock is {off:.3} s from ours"), next)
}

fn pidfd() -> Check {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let made = child::watch(std::process::id());
    let verdict = if made.is_ok() { Verdict::Ok } else { Verdict::Bad };
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let by = match pair.map(|(ours, _theirs)| door::peer_pidfd(&ours).is_ok()) {
        Ok(true) => "the process that connected is known by SO_PEERPIDFD",
        _ => "the process that connected is known by its number (SO_PEERPIDFD needs Linux 6.5)",
    };
    Check::new(
        "pidfd",
        verdict,
        format!("{}; {by}", answer(&made)),
        "`oarlock lock` needs pidfd_open; a seccomp profile may forbid it",
    )
}

fn epoll() -> Check {
    use poll::Poll as _;
    let made = poll::Epoll::new()
        .and_then(|mut p| p.wait(Some(std::time::Duration::from_micros(10)), &mut Vec::new()));
    let verdict = if made.is_ok() { Verdict::Ok } else { Verdict::Bad };
    Check::new(
        "epoll",
        verdict,
        answer(&made),
        "the daemon needs epoll_pwait2; a seccomp profile may forbid it",
    )
}

fn answer<T, E: std::fmt::Display>(result: &Result<T, E>) -> String {
    match result {
        Ok(_) => "works".into(),
        Err(e) => e.to_string(),
    }
}

fn datagrams() -> Vec<Check> {
    let local: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let socket = match Datagrams::bind(local, true) {
        Ok(socket) => socket,
        Err(e) => return vec![Check::new("udp", Verdict::Bad, e.to_string(), "UDP on loopback must work")],
    };
    let buffer = rustix::net::sockopt::socket_recv_buffer_size(&socket).unwrap_or(0);
    vec![
        Check::of(
            "udp segmentation (GSO)",
            socket.segments_max() > 1,
            format!("trains of {}", socket.segments_max()),
            "nothing: datagrams go one by one, which costs more CPU",
        ),
        Check::of(
            "udp joining (GRO)",
            socket.joins(),
            if socket.joins() { "works" } else { "not there" },
            "nothing: datagrams come one by one, which costs more CPU",
        ),
        Check::of(
            "udp receive buffer",
            buffer >= SOCKET_BUFFER_MIN,
            format!("{} KiB", buffer >> 10),
            "sysctl net.core.rmem_max=4194304; small buffers lose bursts, which are then sent again",
        ),
    ]
}

fn configuration(config: Result<Config>) -> Check {
    match config.and_then(|c| config::check_files(&c).map(|_| c)) {
        Ok(c) => Check::new("configuration", Verdict::Ok, format!("node {} of {}", c.name(), c.cluster), ""),
        Err(p) => Check::new("configuration", Verdict::Bad, format!("{} {}", p.code, p.what), p.try_next),
    }
}

/// Could a node listen where this configuration says? Its own running node is no hindrance.
fn addresses(config: &Config) -> Vec<Check> {
    let asked = OnceCell::new();
    let running = || asked.get_or_init(|| ask(&config.socket)).as_ref();
    let circuits = Datagrams::bind(config.listen, false).map(|_| ());
    let listens = |s: &Status| s.listen == config.listen.to_string();
    let mut checks = vec![address("udp address", config, config.listen, circuits, running, listens)];
    if let Some(api) = config.api {
        let served = |s: &Status| s.api.as_deref() == Some(&*api.to_string());
        checks.push(address("api address", config, api, serve::listen(api).map(|_| ()), running, served));
    }
    checks
}

fn address<'a>(
    check: &'static str,
    config: &Config,
    at: SocketAddr,
    tried: Result<()>,
    running: impl FnOnce() -> std::result::Result<&'a Status, &'a Problem>,
    has_it: impl Fn(&Status) -> bool,
) -> Check {
    let problem = match tried {
        Ok(()) => return Check::new(check, Verdict::Ok, format!("{at} is free"), ""),
        Err(problem) => problem,
    };
    let bad = |p: Problem| {
        let found = format!("{} {}: {}", p.code, p.what, p.why);
        Check::new(check, Verdict::Bad, found, p.try_next)
    };
    if problem.code != Code::AddressInUse {
        return bad(problem);
    }
    match running() {
        Ok(s) if s.cluster == config.cluster && s.node == config.name() && has_it(s) => {
            Check::new(check, Verdict::Ok, format!("{at} is where {} listens", s.node), "")
        }
        // Somebody is there who may not be asked, or does not answer: it can be the node itself.
        Err(p) if !is_deserted(&config.socket) => {
            let found = format!("{at} is in use, perhaps by the node itself: {} {}", p.code, p.what);
            Check::new(check, Verdict::Warn, found, p.try_next.as_str())
        }
        _ => bad(problem),
    }
}

/// There is no such socket, or whoever made it is gone.
fn is_deserted(socket: &Path) -> bool {
    use std::io::ErrorKind;
    let gone = |e: std::io::Error| matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused);
    door::connect(socket).is_err_and(gone)
}

fn ask(socket: &Path) -> Result<Status> {
    Session::open(socket, "oarlock")?.document(&Question::Status)
}

fn place<'a>(socket: Option<&Path>, configured: Option<&Path>) -> Result<(PathBuf, &'a str)> {
    match (socket, configured) {
        // Whoever names a configuration asks about its node, not about some other one.
        (None, Some(path)) => Ok((path.into(), "its configuration")),
        _ => connect::find(socket),
    }
}

fn daemon(socket: Option<&Path>, configured: Option<&Path>) -> Check {
    let asked = place(socket, configured).and_then(|(path, how)| Ok((ask(&path)?, how)));
    match asked {
        Ok((s, how)) if s.healthy => {
            Check::new("daemon", Verdict::Ok, format!("{} serves ({how})", s.node), "")
        }
        Ok((s, _)) => {
            let p = status::unhealthy(&s);
            Check::new("daemon", Verdict::Warn, format!("{} {}: {}", p.code, p.what, p.why), p.try_next)
        }
        // No daemon is no fault of the machine, unless one was named.
        Err(p) => {
            let verdict = if socket.is_some() { Verdict::Bad } else { Verdict::Warn };
            Check::new("daemon", verdict, format!("{} {}", p.code, p.what), p.try_next)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The node looks at its clock between our question and its answer.
    #[test]
    fn a_clock_of_another_namespace_is_noticed() {
        for (theirs, verdict) in
            [(9, Verdict::Warn), (10, Verdict::Ok), (20, Verdict::Ok), (21, Verdict::Warn)]
        {
            assert_eq!(attached_at("attachment", theirs, 10, 20).verdict, verdict, "{theirs}");
        }
        let check = attached_at("attachment", 7_000_000_000, 1_000_000_000, 3_000_000_000);
        assert!(check.found.contains("5.000 s") && check.try_next.contains("time namespace"), "{check:?}");
    }
}
