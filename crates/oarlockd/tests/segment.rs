//! Real daemons and programs that grant themselves in a segment, speaking the session protocol by hand: how descriptors
//! reach them, what the lease, the end of a node and the end of a process mean for them.

mod support;

use std::io::{BufRead, BufReader, Read, Write, stdin, stdout};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use oarlock_layout::code::Code;
use oarlock_layout::codec::Wire;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{OwnerId, SharedHandle, SpaceId, TransactionId};
use oarlock_layout::message::session::{Attached, Failure, LockRequest, Reply, Request, VERSION};
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_shm::{Answer, Caller, Clock, First, Hold, Loss, Memory, Party, Taken, Ticket};
use oarlockd::host::{clock, door};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::time::{ClockId, clock_gettime};
use support::solo::Solo;
use support::{Held, lives, signal, until};

/// What no wait of these tests needs.
const LONG: Duration = Duration::from_secs(10);
const SPACE: SpaceId = SpaceId(0);

struct Coarse;

impl Clock for Coarse {
    fn coarse(&self) -> u64 {
        let at = clock_gettime(ClockId::MonotonicCoarse);
        at.tv_sec as u64 * 1_000_000_000 + at.tv_nsec as u64
    }
}

/// The socket of a session.
struct Line(OwnedFd);

impl Line {
    fn open(socket: &Path) -> Line {
        let line = Line(door::connect(socket).unwrap());
        line.say(&Request::Hello { version: VERSION, label: "by hand".into() });
        assert!(matches!(line.hear(), Reply::Welcome { .. }));
        line
    }

    fn say(&self, request: &Request) {
        assert!(door::send(&self.0, &request.to_bytes()).unwrap(), "there is room");
    }

    /// The next reply, or none at the end, with the descriptor that came along.
    fn next(&self) -> Option<(Reply, Option<OwnedFd>)> {
        let end = Instant::now() + LONG;
        let mut bytes = vec![0; 64 << 10];
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut into = [std::io::IoSliceMut::new(&mut bytes)];
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            match recvmsg(&self.0, &mut into, &mut control, flags) {
                Ok(message) if message.bytes == 0 => return None,
                Ok(message) => {
                    let fd = control.drain().find_map(|message| match message {
                        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                        _ => None,
                    });
                    return Some((Reply::from_bytes(&bytes[..message.bytes]).unwrap(), fd));
                }
                Err(rustix::io::Errno::AGAIN) => assert!(Instant::now() < end, "no answer"),
                Err(e) => panic!("{e}"),
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn hear(&self) -> Reply {
        self.next().expect("the session is open").0
    }

    /// Asks for a lock by its own number, or for one that waits in an entry.
    fn ask(&self, handle: u32, name: &str, flags: Flags) {
        self.say(&Request::Lock(LockRequest {
            handle,
            space: SPACE,
            name: Name::new(name.as_bytes()).unwrap(),
            mode: Mode::EX,
            flags,
            timeout_ms: 0,
            owner: OwnerId(0),
            transaction: TransactionId(0),
        }));
    }

    /// Takes a lock and gives it back, after which the node owns the resource.
    fn own(&self, name: &str) {
        self.ask(1, name, Flags::empty());
        assert!(matches!(self.hear(), Reply::Granted(_)));
        self.say(&Request::Unlock { handle: 1, value: None, invalidate: false });
        assert!(matches!(self.hear(), Reply::Released { handle: 1 }));
    }

    fn attach(&self) -> Result<(Attached, OwnedFd), Failure> {
        self.say(&Request::Attach { request: 9, space: SPACE });
        match self.next().expect("the session is open") {
            (Reply::Attached(attached), Some(fd)) => Ok((attached, fd)),
            (Reply::Denied { request: 9, why }, None) => Err(why),
            (reply, fd) => panic!("{reply:?} with {fd:?}"),
        }
    }
}

/// A session that grants itself.
struct Program {
    line: Line,
    caller: Caller<Coarse>,
    area: u32,
}

impl Program {
    fn attach(socket: &Path) -> Program {
        let line = Line::open(socket);
        let before = clock::monotonic();
        let (attached, fd) = line.attach().unwrap();
        assert!((before..=clock::monotonic()).contains(&attached.now), "its clock is ours");
        assert_eq!((attached.request, attached.segment), (9, 0));
        let area = attached.place.area;
        let memory = Memory::open(fd).unwrap();
        Program { line, caller: Caller::new(memory, attached.place, Coarse), area }
    }

    fn take(&self, name: &str, wait: bool) -> Taken {
        let spot = self.caller.find(name.as_bytes()).expect("the node has a slot for it");
        self.caller.acquire(spot, Mode::EX, &Party::default(), wait, First::seat(0))
    }

    #[track_caller]
    fn held(&self, name: &str) -> Hold {
        match self.take(name, false) {
            Taken::Held { hold, .. } => hold,
            other => panic!("{other:?}"),
        }
    }

    fn give_back(&self, hold: Hold) {
        if self.caller.release(hold).unwrap() {
            self.line.say(&Request::Knock);
        }
    }

    /// Begins to wait in an entry.
    #[track_caller]
    fn queue(&self, name: &str) -> Ticket {
        let Taken::Wait(ticket) = self.take(name, true) else { panic!("it is free") };
        let handle = SharedHandle { segment: 0, entry: ticket.entry }.number();
        self.line.ask(handle, name, Flags::QUIET);
        ticket
    }

    /// Sleeps until its turn has come; nothing but a wake by the node or by who gives back ends the sleep early.
    #[track_caller]
    fn turn(&self, ticket: Ticket) -> Hold {
        let end = Instant::now() + LONG;
        loop {
            match self.caller.look(ticket) {
                Answer::Held(hold) => return hold,
                Answer::Waiting(seen) => self.caller.sleep(ticket, seen, LONG),
                other => panic!("{other:?}"),
            }
            assert!(Instant::now() < end, "nobody woke it");
        }
    }

    /// Leaves in order.
    fn leave(self) {
        self.line.say(&Request::Detach);
    }
}

fn solo(extra: &str) -> Solo {
    let mut solo = Solo::new(extra);
    solo.start();
    solo
}

/// A2, M10, M11.
#[test]
fn a_lock_is_taken_without_the_node_and_passes_to_who_sleeps_on_it() {
    let solo = solo("");
    let (one, two) = (Program::attach(&solo.socket()), Program::attach(&solo.socket()));
    assert_ne!(one.area, two.area);
    one.line.own("x");
    let began = Instant::now();
    for _ in 0..100 {
        let hold = one.held("x");
        assert!(matches!(two.take("x", false), Taken::Busy));
        let ticket = two.queue("x");
        // A hint, and what it hints at.
        let Reply::Blocking { handle, wanted: Mode::EX } = one.line.hear() else { panic!("no hint") };
        assert_eq!(SharedHandle::of(handle).map(|it| it.entry), Some(hold.entry));
        assert_ne!(one.caller.told(hold), 0);
        one.give_back(hold);
        let hold = two.turn(ticket);
        assert!(matches!(two.caller.wake(hold), Taken::Held { .. }));
        two.give_back(hold);
        until("nobody is in the way", || match one.take("x", false) {
            Taken::Held { hold, .. } => {
                one.give_back(hold);
                true
            }
            _ => false,
        });
    }
    assert!(began.elapsed() < LONG, "a knock wakes the node, not its next renewal: {:?}", began.elapsed());
}

/// L1: the node stands still, and nobody tells its programs but the clock.
#[test]
fn a_lease_goes_on_while_the_node_does_and_no_longer() {
    let solo = solo("");
    let program = Program::attach(&solo.socket());
    program.line.own("x");
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(3_500) {
        program.give_back(program.held("x"));
        std::thread::sleep(Duration::from_millis(10));
    }
    signal(solo.engine(), "STOP");
    let stopped = Instant::now();
    let mut frozen = None;
    let loss = loop {
        match program.take("x", false) {
            Taken::Held { hold, .. } => {
                assert!(frozen.is_none(), "it grants itself while the lease is at risk");
                assert!(!program.caller.release(hold).unwrap());
            }
            // L6: nothing new from some time before the end, and that is not the end of what is held.
            Taken::NotOwned => {
                assert!(program.caller.frozen());
                frozen.get_or_insert(stopped.elapsed());
            }
            Taken::Lost(loss) => break loss,
            other => panic!("{other:?}"),
        }
        assert!(stopped.elapsed() < Duration::from_secs(3), "it grants itself behind the end of the lease");
        std::thread::sleep(Duration::from_millis(1));
    };
    assert_eq!(loss, Loss::Lease);
    let frozen = frozen.expect("it is at risk for more than a second");
    assert!(stopped.elapsed() - frozen > Duration::from_secs(1), "frozen after {frozen:?}");
    assert!(
        stopped.elapsed() > Duration::from_millis(1_500),
        "renewed every 750 ms: {:?}",
        stopped.elapsed()
    );
    signal(solo.engine(), "CONT");
    let Reply::Lost { why } = program.line.hear() else { panic!("not told") };
    assert!(why.code == Code::Lost && why.text.contains("not in the cluster any more"), "{why:?}");
    assert!(program.line.next().is_none(), "the session is over");
    assert_eq!(program.caller.living(), Err(Loss::Epoch));
    assert!(matches!(program.take("x", false), Taken::Lost(_)));
    // The same process begins another run. What the program had is free, and whoever comes now may grant itself again.
    until("another run serves", || solo.run(&["ok"]).status == Some(0));
    assert!(solo.log().contains("this run has ended; another begins"), "{}", solo.log());
    let next = Program::attach(&solo.socket());
    next.line.own("x");
    next.give_back(next.held("x"));
}

/// M13, L1.
#[test]
fn what_was_held_when_the_lease_was_lost_is_given_to_others() {
    let solo = solo("");
    let (program, other) = (Program::attach(&solo.socket()), Line::open(&solo.socket()));
    program.line.own("x");
    let hold = program.held("x");
    signal(solo.engine(), "STOP");
    std::thread::sleep(Duration::from_millis(3_100));
    assert_eq!(program.caller.living(), Err(Loss::Lease));
    signal(solo.engine(), "CONT");
    // A session that maps no segment is over as well: the run is.
    for line in [&program.line, &other] {
        assert!(matches!(line.hear(), Reply::Lost { .. }));
        assert!(line.next().is_none());
    }
    assert!(!program.caller.holds(hold));
    assert!(program.caller.release(hold).is_err());
    until("another run serves", || solo.run(&["ok"]).status == Some(0));
    let other = Line::open(&solo.socket());
    other.ask(1, "x", Flags::empty());
    assert!(matches!(other.hear(), Reply::Granted(_)));
}

/// Only the segment says that this program has a lock: the node must ask it before it says that nobody has one.
#[test]
fn a_node_that_stops_waits_for_who_holds_a_lock_that_it_granted_itself() {
    let mut solo = solo("");
    let program = Program::attach(&solo.socket());
    program.line.own("x");
    let hold = program.held("x");
    signal(solo.pid(), "TERM");
    assert!(matches!(program.line.hear(), Reply::Lost { .. }));
    assert_eq!(program.caller.living(), Err(Loss::Epoch));
    assert!(!program.caller.holds(hold));
    std::thread::sleep(Duration::from_millis(300));
    assert!(lives(solo.pid()), "it waits");
    drop(program);
    until("it stops", || !lives(solo.pid()));
    assert!(solo.log().contains("nobody can still hold a lock"), "{}", solo.log());
    assert_eq!(solo.end("TERM"), Some(0));
}

#[test]
fn a_program_that_is_killed_leaves_its_lock_to_the_next_at_once() {
    let solo = solo("");
    let (line, sleeper) = (Line::open(&solo.socket()), Program::attach(&solo.socket()));
    line.own("x");
    let mut other = Player::start(&solo.socket());
    other.tell("hold x");
    let ticket = sleeper.queue("x");
    line.ask(1, "x", Flags::empty());
    std::thread::scope(|scope| {
        let slept = scope.spawn(|| {
            let hold = sleeper.turn(ticket);
            let now = Instant::now();
            sleeper.give_back(hold);
            now
        });
        std::thread::sleep(Duration::from_millis(200));
        assert!(!slept.is_finished(), "it sleeps");
        let killed = Instant::now();
        other.kill();
        let woken = slept.join().unwrap() - killed;
        assert!(woken < Duration::from_secs(1), "{woken:?}");
    });
    assert!(matches!(line.hear(), Reply::Granted(_)));
}

/// M12: a store that was prepared in time may come late, as long as there is a process that could make it.
#[test]
fn a_place_is_given_to_another_once_nobody_can_store_in_it() {
    let solo = solo("");
    let area = || {
        let program = Program::attach(&solo.socket());
        let area = program.area;
        program.leave();
        area
    };
    // Who leaves in order leaves its place, though its process goes on.
    let first = area();
    until("its place is free", || area() == first);
    // Who hangs up and lives on does not, until its process has ended.
    let mut other = Player::start(&solo.socket());
    other.tell("hang up");
    let theirs = other.area;
    for _ in 0..50 {
        assert_ne!(area(), theirs);
    }
    other.kill();
    until("its place is free", || {
        let all: Vec<Program> = (0..3).map(|_| Program::attach(&solo.socket())).collect();
        let found = all.iter().any(|program| program.area == theirs);
        all.into_iter().for_each(Program::leave);
        found
    });
}

/// M11: what the session has is its first place, and no second one was used up by asking for it.
#[test]
fn a_session_has_one_place_in_a_segment() {
    let solo = solo("");
    let program = Program::attach(&solo.socket());
    program.line.own("x");
    let hold = program.held("x");
    for _ in 0..3 {
        let why = program.line.attach().unwrap_err();
        assert!(why.code == Code::InFlight && why.text.contains("already"), "{why:?}");
    }
    assert!(program.caller.holds(hold));
    program.give_back(hold);
    let next = Program::attach(&solo.socket());
    assert_eq!(next.area, program.area + 1);
}

/// A node that stands still finds all that a short session had to say at once.
#[test]
fn who_hangs_up_before_it_is_answered_keeps_no_place() {
    let solo = solo("");
    let area = || {
        let program = Program::attach(&solo.socket());
        let area = program.area;
        program.leave();
        area
    };
    let first = area();
    until("its place is free", || {
        let status = solo.run(&["status", "-o", "json"]).json();
        status["spaces"][0]["attached_sessions"] == 0
    });
    signal(solo.engine(), "STOP");
    const HASTY: u32 = 3;
    for _ in 0..HASTY {
        let line = Line(door::connect(&solo.socket()).unwrap());
        line.say(&Request::Hello { version: VERSION, label: "in a hurry".into() });
        line.say(&Request::Attach { request: 9, space: SPACE });
    }
    signal(solo.engine(), "CONT");
    // Any of their places is as good as the first, but one behind them means that they are lost.
    let next = area();
    assert!(next < first + HASTY, "place {next}");
}

#[test]
fn where_no_segments_are_wanted_every_lock_is_asked_for() {
    let mut solo = Solo::new("");
    solo.write(&solo.read().replace("[cluster]", "segments = false\n[cluster]"));
    solo.start();
    let line = Line::open(&solo.socket());
    assert_eq!(line.attach().unwrap_err().code, Code::NoSegment);
    line.own("x");
    solo.run(&["lock", "x", "--", "true"]).expect(0, &[]);
}

#[test]
fn people_can_tell_what_programs_granted_themselves() {
    let solo = solo("");
    solo.run(&["status"]).expect(0, &["grants   0 so far"]);
    let program = Program::attach(&solo.socket());
    program.line.own("x");
    for _ in 0..10 {
        program.give_back(program.held("x"));
    }
    let hold = program.held("x");
    program.line.ask(1, "y", Flags::empty());
    assert!(matches!(program.line.hear(), Reply::Granted(_)));

    let shown = |name: &str| solo.run(&["locks", "show", name, "-o", "json"]).expect(0, &[]).json();
    assert_eq!(shown("x")["resources"][0]["holders"][0]["fast"], true);
    assert_eq!(shown("y")["resources"][0]["holders"][0]["fast"], false);
    solo.run(&["locks", "show", "x"]).expect(0, &["held EX by solo pid", "(by hand) for", ", fast"]);
    assert!(!solo.run(&["locks", "show", "y"]).expect(0, &["held EX by solo pid"]).out.contains("fast"));

    let status = solo.run(&["status", "-o", "json"]).expect(0, &[]).json();
    let space = &status["spaces"][0];
    let of = |key: &str| space[key].as_u64().unwrap_or_else(|| panic!("{key} in {space}"));
    assert_eq!((of("grants"), of("fast_grants"), of("attached_sessions")), (2, 11, 1));
    assert_eq!(space["segment"], true);
    solo.run(&["status"])
        .expect(0, &["grants   2 so far", "fast     11 more by programs themselves (1 attached)"]);
    let counter = |name: &str| {
        let said = solo.run(&["metrics", "-o", "json", "--where", &format!("counter={name}")]).expect(0, &[]);
        said.json()["counters"][0]["value"].as_u64().unwrap_or_else(|| panic!("no counter {name}"))
    };
    assert_eq!((counter("local_grants"), counter("fast_grants"), counter("fast_handed_over")), (2, 11, 0));
    assert_eq!(counter("fast_considered"), of("fast_considered"));
    program.give_back(hold);
    // What has been counted stays so when the session is over and its place is another's.
    program.leave();
    Program::attach(&solo.socket()).leave();
    until("both have left", || {
        let status = solo.run(&["status", "-o", "json"]).json();
        status["spaces"][0]["attached_sessions"] == 0
    });
    assert_eq!(counter("fast_grants"), 11);
}

#[test]
fn monitors_can_tell_too() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut solo = Solo::new("");
    solo.write(&solo.read().replace("[cluster]", &format!("api = \"127.0.0.1:{port}\"\n[cluster]")));
    solo.start();
    let program = Program::attach(&solo.socket());
    program.line.own("x");
    program.give_back(program.held("x"));
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    for line in [
        "\noarlock_lock_grants_total{space=\"default\",how=\"fast\"} 1\n",
        "\noarlock_fast_grants_total 1\n",
        "\noarlock_attached_sessions{space=\"default\"} 1.0\n",
    ] {
        assert!(text.contains(line), "`{line}` is not in\n{text}");
    }
}

/// M11: a mapping is larger than anything that such a limit allows, although it costs next to no memory.
#[test]
fn without_address_space_a_node_serves_all_the_same_and_says_what_is_wrong() {
    let mut solo = Solo::new("");
    let limited = |args: &[&str]| {
        let mut command = Command::new("sh");
        command.arg("-c").arg("ulimit -v 4000000; exec \"$0\" \"$@\"");
        command.arg(env!("CARGO_BIN_EXE_oarlock")).args(args);
        command
    };
    solo.start_as(limited(&["serve", "--config", solo.config().to_str().unwrap()]));
    let said = solo.run(&["status"]).expect(0, &["healthy", "OAR-2206", "programs must ask the node"]);
    assert!(!said.out.contains("fast "), "{}", said.out);
    let line = Line::open(&solo.socket());
    assert_eq!(line.attach().unwrap_err().code, Code::NoSegment);
    line.own("x");
    let socket = solo.socket();
    let doctor = ["doctor", "-o", "wide", "--socket", socket.to_str().unwrap()];
    let said = support::Said::of(limited(&doctor).output().unwrap());
    said.expect(0, &["GiB of address space", "LimitAS=infinity", "OAR-2206"]);
}

#[test]
fn a_doctor_tries_segments_and_compares_clocks() {
    let solo = solo("");
    let socket = solo.socket();
    let doctor = |more: &[&str]| {
        let args = ["doctor", "-o", "json", "--socket", socket.to_str().unwrap()];
        solo.run(&[&args[..], more].concat()).expect(0, &[]).json()["checks"].clone()
    };
    let verdict = |checks: &serde_json::Value, name: &str| {
        let check =
            checks.as_array().unwrap().iter().find(|c| c["check"] == name).expect("the check").clone();
        (check["verdict"].as_str().unwrap().to_owned(), check["found"].as_str().unwrap().to_owned())
    };
    let checks = doctor(&[]);
    assert_eq!(verdict(&checks, "shared segments").0, "ok", "{checks}");
    assert_eq!(verdict(&checks, "attachment").0, "ok", "{checks}");
    solo.write(&solo.read().replace("[cluster]", "segments = false\n[cluster]"));
    let checks = doctor(&["-c", solo.config().to_str().unwrap()]);
    let (verdict, found) = verdict(&checks, "shared segments");
    assert!(verdict == "ok" && found.contains("not wanted"), "{found}");
}

// ----- another process --------------------------------------------------------------------------------------

/// The socket at which the player attaches.
const PLAYER: &str = "OARLOCK_SEGMENT_PLAYER";
const MARK: &str = "player says: ";

/// A process of this program that attaches and does as it is told.
struct Player {
    process: Held,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    area: u32,
}

impl Player {
    fn start(socket: &Path) -> Player {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "another_process_does_as_it_is_told", "--nocapture", "--test-threads", "1"]);
        command.env(PLAYER, socket).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let (to, from) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        let mut player = Player { process: Held(process), to, from, area: 0 };
        player.area = player.hear().parse().unwrap();
        player
    }

    fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.from.read_line(&mut line).unwrap(), 0, "it has ended");
            if let Some((_, said)) = line.trim_end().split_once(MARK) {
                return said.into();
            }
        }
    }

    /// Returns once it is done.
    fn tell(&mut self, what: &str) {
        writeln!(self.to, "{what}").unwrap();
        assert_eq!(self.hear(), what);
    }

    fn kill(mut self) {
        self.process.0.kill().unwrap();
        self.process.0.wait().unwrap();
    }
}

/// No test of its own: the others start this program again for what needs another process.
#[test]
fn another_process_does_as_it_is_told() {
    let Some(socket) = std::env::var_os(PLAYER) else { return };
    let say = |what: &str| {
        let mut out = stdout().lock();
        writeln!(out, "{MARK}{what}").and_then(|()| out.flush()).expect("a parent listens");
    };
    let mut program = Some(Program::attach(Path::new(&socket)));
    say(&program.as_ref().unwrap().area.to_string());
    for line in stdin().lines() {
        let line = line.unwrap();
        match line.split_once(' ').unwrap() {
            ("hold", name) => {
                let _ = program.as_ref().unwrap().held(name);
            }
            ("hang", "up") => program = None,
            _ => panic!("it cannot {line}"),
        }
        say(&line);
    }
}
