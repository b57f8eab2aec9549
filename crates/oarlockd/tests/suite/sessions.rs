//! Sessions: the daemon's Unix socket and the sockets of simulated programs.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use oarlock_layout::limit::SESSION_PACKET_BYTES_MAX;
use oarlock_sim::conformance::{Arrival, Machines};
use oarlockd::host::door::{self, Door, Received};
use oarlockd::host::poll::{Epoll, Poll};

use super::child::{self, Child};
use super::{Claim, claims};

/// What a node hears of a program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    /// It is there, as this process.
    Opened(u32),
    Packet(Vec<u8>),
    HungUp,
}

/// What a program hears of its node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Said {
    Packet(Vec<u8>),
    /// Nothing more comes.
    End,
}

/// A node and the programs at its door. Programs are numbered as they attach.
pub(crate) trait Sessions {
    /// Whether a socket can be full.
    const BOUNDED: bool;
    fn attach(&mut self) -> usize;
    /// The process that a program is.
    fn pid(&self, program: usize) -> u32;
    fn ask(&mut self, program: usize, packet: &[u8]);
    fn die(&mut self, program: usize);
    /// A process of its own attaches, says [`last_word`] so many times and is killed. Returns its number and
    /// which process it was.
    fn live_and_die(&mut self, words: usize) -> (usize, u32);
    /// What the node hears: `n` things if they come, and all that comes besides.
    fn node_hears(&mut self, n: usize) -> Vec<(usize, Heard)>;
    /// Says something to a program; `false` if its socket has no room for it.
    fn reply(&mut self, program: usize, packet: &[u8]) -> bool;
    /// What a program hears, in the same way.
    fn program_hears(&mut self, program: usize, n: usize) -> Vec<Said>;
    /// The node ends.
    fn end(&mut self);
}

pub(crate) fn claims<W: Sessions>() -> Vec<Claim<W>> {
    claims![
        packets_keep_their_bounds_and_their_order
        programs_are_not_mixed_up
        last_words_are_heard_and_then_one_hang_up
        a_killed_process_is_known_and_heard_to_the_end
        who_does_not_read_disturbs_nobody_else
        the_end_of_a_node_is_heard_once
    ]
}

fn last_word(n: usize) -> Vec<u8> {
    format!("last word {n}").into_bytes()
}

/// Attaches programs; the node has heard of them.
fn attached<W: Sessions>(w: &mut W, count: usize) -> Vec<usize> {
    let programs: Vec<usize> = (0..count).map(|_| w.attach()).collect();
    let expected: Vec<_> = programs.iter().map(|p| (*p, Heard::Opened(w.pid(*p)))).collect();
    assert_eq!(w.node_hears(count), expected);
    programs
}

fn said(packets: Vec<Vec<u8>>) -> Vec<Said> {
    packets.into_iter().map(Said::Packet).collect()
}

#[track_caller]
fn exchange<W: Sessions>(w: &mut W, program: usize) {
    w.ask(program, b"how are you?");
    assert_eq!(w.node_hears(1), [(program, Heard::Packet(b"how are you?".to_vec()))]);
    assert!(w.reply(program, b"well"));
    assert_eq!(w.program_hears(program, 1), [Said::Packet(b"well".to_vec())]);
}

fn packets_keep_their_bounds_and_their_order<W: Sessions>(w: &mut W) {
    let program = attached(w, 1)[0];
    for sizes in [&[1, 1, 2, 300, 1, 5000, 4999][..], &[SESSION_PACKET_BYTES_MAX], &[7; 60]] {
        let packets: Vec<Vec<u8>> = sizes.iter().zip(1..).map(|(size, n)| vec![n; *size]).collect();
        packets.iter().for_each(|packet| w.ask(program, packet));
        let expected: Vec<_> = packets.iter().map(|p| (program, Heard::Packet(p.clone()))).collect();
        assert!(w.node_hears(packets.len()) == expected, "the node heard {sizes:?} as something else");
        packets.iter().for_each(|packet| assert!(w.reply(program, packet)));
        let heard = w.program_hears(program, packets.len());
        assert!(heard == said(packets), "the program heard {sizes:?} as something else");
    }
}

fn programs_are_not_mixed_up<W: Sessions>(w: &mut W) {
    let programs = attached(w, 3);
    let packet = |program: usize, n: u8| vec![program as u8, n, 9];
    for n in 0..40 {
        programs.iter().for_each(|program| w.ask(*program, &packet(*program, n)));
    }
    let heard = w.node_hears(120);
    for program in programs.iter().copied() {
        let of_it = heard.iter().filter(|(p, _)| *p == program).map(|(_, heard)| heard.clone());
        let expected = (0..40).map(|n| Heard::Packet(packet(program, n)));
        assert_eq!(of_it.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }
    for n in 0..40 {
        programs.iter().for_each(|program| assert!(w.reply(*program, &packet(*program, n))));
    }
    for program in programs {
        let expected = (0..40).map(|n| packet(program, n)).collect();
        assert_eq!(w.program_hears(program, 40), said(expected));
    }
}

/// Also of a program that had not read everything: the kernel speaks of a reset connection then.
fn last_words_are_heard_and_then_one_hang_up<W: Sessions>(w: &mut W) {
    let [other, reads, does_not] = attached(w, 3)[..] else { unreachable!("three were asked for") };
    for program in [reads, does_not] {
        assert!(w.reply(program, b"something"));
        if program == reads {
            assert_eq!(w.program_hears(program, 1), [Said::Packet(b"something".to_vec())]);
        }
        let mut expected: Vec<_> = (0..5).map(|n| (program, Heard::Packet(last_word(n)))).collect();
        expected.push((program, Heard::HungUp));
        (0..5).for_each(|n| w.ask(program, &last_word(n)));
        w.die(program);
        assert_eq!(w.node_hears(6), expected);
        // A reply may have been on its way; it is nobody's now, whoever comes next.
        w.reply(program, b"too late");
        let next = attached(w, 1)[0];
        assert!(next != program);
        exchange(w, next);
        exchange(w, other);
    }
    assert_eq!(w.node_hears(0), []);
}

fn a_killed_process_is_known_and_heard_to_the_end<W: Sessions>(w: &mut W) {
    let other = attached(w, 1)[0];
    for words in [0, 3] {
        let (program, pid) = w.live_and_die(words);
        let mut expected = vec![(program, Heard::Opened(pid))];
        expected.extend((0..words).map(|n| (program, Heard::Packet(last_word(n)))));
        expected.push((program, Heard::HungUp));
        assert_eq!(w.node_hears(words + 2), expected);
        exchange(w, other);
    }
}

fn who_does_not_read_disturbs_nobody_else<W: Sessions>(w: &mut W) {
    let [idle, other] = attached(w, 2)[..] else { unreachable!("two were asked for") };
    let packet = |n: u32| [&n.to_le_bytes()[..], &[0; 3000]].concat();
    let most = 4000;
    let taken = (0..most).find(|n| !w.reply(idle, &packet(*n))).unwrap_or(most);
    assert!(taken > 10, "only {taken} were taken");
    assert!(!W::BOUNDED || taken < most, "a socket without an end");
    exchange(w, other);
    w.ask(idle, b"still here");
    assert_eq!(w.node_hears(1), [(idle, Heard::Packet(b"still here".to_vec()))]);
    // What was taken is heard, what was not is not.
    let heard = w.program_hears(idle, taken as usize);
    assert!(heard == said((0..taken).map(packet).collect()), "{} of {taken} were heard", heard.len());
    exchange(w, idle);
}

fn the_end_of_a_node_is_heard_once<W: Sessions>(w: &mut W) {
    let programs = attached(w, 2);
    assert!(w.reply(programs[0], b"before"));
    assert_eq!(w.program_hears(programs[0], 1), [Said::Packet(b"before".to_vec())]);
    w.ask(programs[1], b"nobody will read this");
    w.end();
    for program in programs {
        assert_eq!(w.program_hears(program, 1), [Said::End]);
        w.ask(program, b"is anybody there?");
        assert_eq!(w.program_hears(program, 0), []);
    }
}

// ----- the kernel ---------------------------------------------------------------------------------------

/// A door, and an engine that only listens.
pub(crate) struct Kernel {
    dir: tempfile::TempDir,
    poll: Epoll,
    door: Option<Door>,
    /// By number; none where the node has hung up or heard that the program did.
    sessions: Vec<Option<OwnedFd>>,
    /// The other ends, as far as they are in this process.
    programs: Vec<Option<OwnedFd>>,
    buffer: Vec<u8>,
}

const DOOR: u64 = 0;
const FIRST_SESSION: u64 = 1;
const PATIENCE: Duration = Duration::from_secs(10);

impl Kernel {
    pub(crate) fn new() -> Kernel {
        let dir = tempfile::Builder::new().prefix("oar").tempdir().unwrap();
        let mut poll = Epoll::new().unwrap();
        let door = Door::open(&dir.path().join("s")).unwrap();
        poll.add(&door, DOOR).unwrap();
        let (sessions, programs) = (Vec::new(), Vec::new());
        let buffer = vec![0; SESSION_PACKET_BYTES_MAX];
        Kernel { dir, poll, door: Some(door), sessions, programs, buffer }
    }

    /// What a process does not read when it ends is still there for the program: it hears all, then the end.
    pub(crate) fn check_last_replies() {
        let mut w = Kernel::new();
        let program = attached(&mut w, 1)[0];
        w.ask(program, b"never read");
        assert!(w.reply(program, b"one") && w.reply(program, b"two"));
        w.end();
        let mut expected = said(vec![b"one".to_vec(), b"two".to_vec()]);
        expected.push(Said::End);
        assert_eq!(w.program_hears(program, 3), expected);
    }

    fn listen(&mut self, token: u64, heard: &mut Vec<(usize, Heard)>) {
        if token == DOOR {
            let door = self.door.as_ref().expect("it is watched");
            while let Some((fd, caller)) = door.accept().unwrap() {
                let number = self.sessions.len();
                self.poll.add(&fd, FIRST_SESSION + number as u64).unwrap();
                self.sessions.push(Some(fd));
                heard.push((number, Heard::Opened(caller.pid)));
            }
            return;
        }
        let number = (token - FIRST_SESSION) as usize;
        while let Some(fd) = &self.sessions[number] {
            match door::receive(fd, &mut self.buffer).unwrap() {
                Received::Packet(n) => heard.push((number, Heard::Packet(self.buffer[..n].to_vec()))),
                Received::Nothing => return,
                Received::End => {
                    heard.push((number, Heard::HungUp));
                    self.poll.remove(fd).unwrap();
                    self.sessions[number] = None;
                }
            }
        }
    }
}

impl Sessions for Kernel {
    const BOUNDED: bool = true;

    fn attach(&mut self) -> usize {
        let program = door::connect(&self.dir.path().join("s")).unwrap();
        self.programs.push(Some(program));
        self.programs.len() - 1
    }

    fn pid(&self, _program: usize) -> u32 {
        std::process::id()
    }

    fn ask(&mut self, program: usize, packet: &[u8]) {
        // A node that is gone is no error of the program.
        if let Some(fd) = &self.programs[program] {
            assert!(door::send(fd, packet).unwrap(), "claims do not fill the way to the node");
        }
    }

    fn die(&mut self, program: usize) {
        self.programs[program] = None;
    }

    fn live_and_die(&mut self, words: usize) -> (usize, u32) {
        let path = self.dir.path().join("s");
        let mut child = Child::start(&["attach", path.to_str().unwrap(), &words.to_string()]);
        assert_eq!(child.hear().as_deref(), Some("said"));
        let pid = child.pid();
        child.kill();
        self.programs.push(None);
        (self.programs.len() - 1, pid)
    }

    fn node_hears(&mut self, n: usize) -> Vec<(usize, Heard)> {
        let (mut heard, mut ready) = (Vec::new(), Vec::new());
        let end = Instant::now() + PATIENCE;
        loop {
            let (enough, late) = (heard.len() >= n, Instant::now() > end);
            let timeout = if enough { Duration::ZERO } else { Duration::from_millis(20) };
            self.poll.wait(Some(timeout), &mut ready).unwrap();
            // Late: something is reported ready again and again, or what is to come does not.
            if ready.is_empty() && enough || late {
                return heard;
            }
            for r in &ready {
                self.listen(r.token, &mut heard);
            }
        }
    }

    fn reply(&mut self, program: usize, packet: &[u8]) -> bool {
        // To a program that is gone everything can be said.
        self.sessions[program].as_ref().is_none_or(|fd| door::send(fd, packet).unwrap_or(true))
    }

    fn program_hears(&mut self, program: usize, n: usize) -> Vec<Said> {
        let mut said = Vec::new();
        let end = Instant::now() + PATIENCE;
        while let Some(fd) = &self.programs[program] {
            match door::receive(fd, &mut self.buffer).unwrap() {
                Received::Packet(n) => said.push(Said::Packet(self.buffer[..n].to_vec())),
                Received::Nothing if said.len() >= n || Instant::now() > end => break,
                Received::Nothing => thread::sleep(Duration::from_micros(100)),
                Received::End => {
                    said.push(Said::End);
                    self.programs[program] = None;
                }
            }
        }
        said
    }

    fn end(&mut self) {
        self.sessions.clear();
        self.door = None;
    }
}

/// In another process: attaches, says its last words and waits for the end.
pub(crate) fn child(socket: &str, words: &str) {
    let node = door::connect(Path::new(socket)).unwrap();
    for n in 0..words.parse().unwrap() {
        assert!(door::send(&node, &last_word(n)).unwrap());
    }
    child::say("said");
    // Not for ever: should the parent be gone, nobody else would end this.
    thread::sleep(Duration::from_secs(60));
}

// ----- the stand-in -------------------------------------------------------------------------------------

/// A simulated machine and its programs.
pub(crate) struct Simulated {
    machines: Machines,
    /// By number, what the simulator calls it, and whether it has heard the end.
    programs: Vec<(u32, bool)>,
}

/// Longer than anything between a program and its node takes.
const SETTLED: u64 = 50_000_000;

impl Simulated {
    pub(crate) fn new(seed: u64) -> Simulated {
        let mut machines = Machines::new(seed, 1);
        machines.begin(0);
        Simulated { machines, programs: Vec::new() }
    }
}

impl Sessions for Simulated {
    const BOUNDED: bool = false;

    fn attach(&mut self) -> usize {
        self.programs.push((self.machines.attach(0), false));
        // Programs that attach at one moment may be heard of in any order; a kernel keeps them in a queue.
        self.machines.pass(SETTLED);
        self.programs.len() - 1
    }

    fn pid(&self, program: usize) -> u32 {
        self.machines.pid(self.programs[program].0)
    }

    fn ask(&mut self, program: usize, packet: &[u8]) {
        self.machines.ask(self.programs[program].0, packet);
    }

    fn die(&mut self, program: usize) {
        self.machines.die(self.programs[program].0);
    }

    fn live_and_die(&mut self, words: usize) -> (usize, u32) {
        let program = self.attach();
        (0..words).for_each(|n| self.ask(program, &last_word(n)));
        self.die(program);
        (program, self.pid(program))
    }

    fn node_hears(&mut self, _n: usize) -> Vec<(usize, Heard)> {
        self.machines.pass(SETTLED);
        let programs = &self.programs;
        let number = |client| programs.iter().position(|(c, _)| *c == client).expect("it attached");
        let heard = |arrival| match arrival {
            Arrival::Opened { client, pid } => (number(client), Heard::Opened(pid)),
            Arrival::Packet { client, bytes } => (number(client), Heard::Packet(bytes)),
            Arrival::HungUp { client } => (number(client), Heard::HungUp),
            other => panic!("{other:?} at a door"),
        };
        self.machines.arrived(0).into_iter().map(heard).collect()
    }

    fn reply(&mut self, program: usize, packet: &[u8]) -> bool {
        self.machines.reply(self.programs[program].0, packet);
        true
    }

    fn program_hears(&mut self, program: usize, _n: usize) -> Vec<Said> {
        self.machines.pass(SETTLED);
        let (client, ended) = &mut self.programs[program];
        let (packets, gone) = self.machines.heard(*client);
        let mut said = said(packets);
        if gone && !std::mem::replace(ended, true) {
            said.push(Said::End);
        }
        said
    }

    fn end(&mut self) {
        self.machines.end(0);
    }
}

// ----- faults -------------------------------------------------------------------------------------------

/// What a world could do wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    JoinsPackets,
    Reorders,
    MixesUp,
    SwallowsLastWords,
    HangsUpTwice,
    ForgetsToHangUp,
    WrongProcess,
    FullForAll,
    LosesWhatItTook,
    EndsTwice,
    EndsSilently,
}

pub(crate) const FAULTS: &[(Fault, &str)] = &[
    (Fault::JoinsPackets, "packets_keep_their_bounds_and_their_order"),
    (Fault::Reorders, "packets_keep_their_bounds_and_their_order"),
    (Fault::MixesUp, "programs_are_not_mixed_up"),
    (Fault::SwallowsLastWords, "last_words_are_heard_and_then_one_hang_up"),
    (Fault::HangsUpTwice, "last_words_are_heard_and_then_one_hang_up"),
    (Fault::ForgetsToHangUp, "last_words_are_heard_and_then_one_hang_up"),
    (Fault::WrongProcess, "a_killed_process_is_known_and_heard_to_the_end"),
    (Fault::ForgetsToHangUp, "a_killed_process_is_known_and_heard_to_the_end"),
    (Fault::FullForAll, "who_does_not_read_disturbs_nobody_else"),
    (Fault::LosesWhatItTook, "who_does_not_read_disturbs_nobody_else"),
    (Fault::EndsTwice, "the_end_of_a_node_is_heard_once"),
    (Fault::EndsSilently, "the_end_of_a_node_is_heard_once"),
];

/// A world with a fault.
pub(crate) struct Faulty {
    inner: Simulated,
    fault: Fault,
    replies: usize,
}

impl Faulty {
    pub(crate) fn new(fault: Fault) -> Faulty {
        Faulty { inner: Simulated::new(1), fault, replies: 0 }
    }
}

impl Sessions for Faulty {
    const BOUNDED: bool = Simulated::BOUNDED;

    fn attach(&mut self) -> usize {
        self.inner.attach()
    }

    fn pid(&self, program: usize) -> u32 {
        self.inner.pid(program)
    }

    fn ask(&mut self, program: usize, packet: &[u8]) {
        self.inner.ask(program, packet);
    }

    fn die(&mut self, program: usize) {
        self.inner.die(program);
    }

    fn live_and_die(&mut self, words: usize) -> (usize, u32) {
        let (program, pid) = self.inner.live_and_die(words);
        (program, if self.fault == Fault::WrongProcess { pid + 1 } else { pid })
    }

    fn node_hears(&mut self, n: usize) -> Vec<(usize, Heard)> {
        let mut heard = self.inner.node_hears(n);
        let packets: Vec<usize> = heard
            .iter()
            .enumerate()
            .filter(|(_, (_, heard))| matches!(heard, Heard::Packet(_)))
            .map(|(i, _)| i)
            .collect();
        match (self.fault, &packets[..]) {
            (Fault::JoinsPackets, [first, second, ..]) => {
                let (_, Heard::Packet(more)) = heard.remove(*second) else { unreachable!("a packet") };
                let Heard::Packet(bytes) = &mut heard[*first].1 else { unreachable!("a packet") };
                bytes.extend(more);
            }
            (Fault::Reorders, [.., first, second]) => heard.swap(*first, *second),
            (Fault::SwallowsLastWords, [.., last]) if heard.iter().any(|(_, h)| *h == Heard::HungUp) => {
                heard.remove(*last);
            }
            (Fault::HangsUpTwice, _) => {
                heard.extend(heard.clone().into_iter().filter(|(_, heard)| *heard == Heard::HungUp));
            }
            (Fault::ForgetsToHangUp, _) => heard.retain(|(_, heard)| *heard != Heard::HungUp),
            _ => {}
        }
        heard
    }

    fn reply(&mut self, program: usize, packet: &[u8]) -> bool {
        self.replies += 1;
        match self.fault {
            Fault::MixesUp if self.replies == 7 => self.inner.reply((program + 1) % 3, packet),
            Fault::FullForAll if self.replies > 100 => false,
            Fault::LosesWhatItTook if self.replies == 50 => true,
            _ => self.inner.reply(program, packet),
        }
    }

    fn program_hears(&mut self, program: usize, n: usize) -> Vec<Said> {
        if self.fault == Fault::EndsTwice {
            self.inner.programs[program].1 = false;
        }
        let mut said = self.inner.program_hears(program, n);
        if self.fault == Fault::EndsSilently {
            said.retain(|said| *said != Said::End);
        }
        said
    }

    fn end(&mut self) {
        self.inner.end();
    }
}
