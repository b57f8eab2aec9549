//! A daemon with one node and a lock table small enough to be seen to be right: one list of locks per
//! resource, scanned after every change. A request is granted if it fits all that is granted and nothing
//! stands before it; conversions stand before newcomers.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use oarlock::{Code, Fence, Mode, Token, Value};
use oarlock_layout::codec::Wire;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, SessionId, SpaceId};
use oarlock_layout::limit::SESSION_PACKET_BYTES_MAX;
use oarlock_layout::message::session::{Failure, Granted, Reply, Request, VERSION};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags, accept_with, recv, send, shutdown};
use tempfile::TempDir;

use super::script::listener;

/// A resource: its space and name.
type Key = (SpaceId, Vec<u8>);
/// A session's socket and the session's number for the lock.
type Who = (u32, u32);

struct Lock {
    who: Who,
    mode: Option<Mode>,
    wants: Option<Want>,
    /// What it was told of since its last grant: bit i is mode i.
    told: u8,
    quiet: bool,
}

struct Want {
    mode: Mode,
    value: Option<[u8; 64]>,
    flags: Flags,
    until: Option<Instant>,
}

#[derive(Default)]
struct World {
    resources: HashMap<Key, Vec<Lock>>,
    values: HashMap<Key, Value>,
    /// Where each lock is.
    places: HashMap<Who, Key>,
    sockets: HashMap<u32, Arc<OwnedFd>>,
    serial: u64,
    /// Grants, checked against each other as they were given.
    grants: u64,
}

pub struct Honest {
    dir: TempDir,
    world: Arc<Mutex<World>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Names from here on are "not owned", however the lock is.
    pub foreign: &'static str,
}

impl Honest {
    pub fn new() -> Honest {
        let dir = tempfile::tempdir().unwrap();
        let listener = listener(&dir.path().join("oarlock.sock"));
        let world = Arc::new(Mutex::new(World::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (world, stop) = (Arc::clone(&world), Arc::clone(&stop));
            std::thread::spawn(move || serve(&listener, &world, &stop))
        };
        Honest { dir, world, stop, thread: Some(thread), foreign: "foreign" }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("oarlock.sock")
    }

    /// How many locks there are, held and waiting.
    pub fn locks(&self) -> usize {
        self.world.lock().unwrap().places.len()
    }

    pub fn grants(&self) -> u64 {
        self.world.lock().unwrap().grants
    }

    pub fn sessions(&self) -> usize {
        self.world.lock().unwrap().sockets.len()
    }

    /// Waits until the number of locks is this.
    pub fn until_locks(&self, expected: usize) {
        let start = Instant::now();
        while self.locks() != expected {
            assert!(start.elapsed() < Duration::from_secs(10), "{} locks, not {expected}", self.locks());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Hangs up on every session, without a word or with one.
    pub fn hang_up(&self, why: Option<Failure>) {
        let world = self.world.lock().unwrap();
        for fd in world.sockets.values() {
            if let Some(why) = &why {
                say(fd, &Reply::Lost { why: why.clone() });
            }
            let _ = shutdown(fd, Shutdown::Both);
        }
    }
}

impl Drop for Honest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.hang_up(None);
        let thread = self.thread.take().unwrap();
        if thread.join().is_err() && !std::thread::panicking() {
            panic!("the honest daemon found a fault");
        }
    }
}

fn say(fd: &OwnedFd, reply: &Reply) {
    // A program that hung up does not hear it.
    let _ = send(fd, &reply.to_bytes(), SendFlags::NOSIGNAL);
}

/// One thread for all: sockets in turn, then what is due by time.
fn serve(listener: &OwnedFd, world: &Mutex<World>, stop: &AtomicBool) {
    let mut next = 1;
    let mut greeted: HashMap<u32, bool> = HashMap::new();
    let mut buffer = vec![0; SESSION_PACKET_BYTES_MAX];
    while !stop.load(Ordering::SeqCst) {
        let sockets: Vec<(u32, Arc<OwnedFd>)> =
            world.lock().unwrap().sockets.iter().map(|(id, fd)| (*id, Arc::clone(fd))).collect();
        let mut polled = vec![PollFd::new(listener, PollFlags::IN)];
        polled.extend(sockets.iter().map(|(_, fd)| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)));
        poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 2_000_000 })).unwrap();
        let ready: Vec<bool> = polled.iter().map(|p| !p.revents().is_empty()).collect();
        if ready[0] {
            let fd = Arc::new(accept_with(listener, SocketFlags::CLOEXEC).unwrap());
            world.lock().unwrap().sockets.insert(next, fd);
            greeted.insert(next, false);
            next += 1;
        }
        for ((id, fd), _) in sockets.iter().zip(&ready[1..]).filter(|(_, ready)| **ready) {
            let length = match recv(fd, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((_, length)) => length,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::CONNRESET) => continue,
                Err(_) => 0,
            };
            let mut world = world.lock().unwrap();
            if length == 0 {
                world.hang_up(*id);
                continue;
            }
            let request = Request::from_bytes(&buffer[..length]).unwrap();
            let first = std::mem::replace(greeted.get_mut(id).unwrap(), true);
            assert_eq!(!first, matches!(request, Request::Hello { .. }), "hello first, and once");
            world.handle(*id, fd, request);
        }
        world.lock().unwrap().time_out(Instant::now());
    }
}

impl World {
    fn say(&self, who: Who, reply: &Reply) {
        if let Some(fd) = self.sockets.get(&who.0) {
            say(fd, reply);
        }
    }

    fn fail(&self, who: Who, code: Code) {
        let why = Failure { code, text: "says the honest daemon".into() };
        self.say(who, &Reply::Failed { handle: who.1, why });
    }

    fn handle(&mut self, session: u32, fd: &OwnedFd, request: Request) {
        match request {
            Request::Hello { version, .. } => {
                assert_eq!(version, VERSION);
                let (node, cluster) = ("honest".into(), "test".into());
                let session = SessionId(session);
                let (epoch, now) = (Epoch(1), oarlock_layout::time::Instant(0));
                say(fd, &Reply::Welcome { version, session, node, cluster, epoch, now });
            }
            Request::Open { request, space } if space == "other" => {
                say(fd, &Reply::Opened { request, space: SpaceId(1) });
            }
            Request::Open { request, space } => {
                let why = Failure { code: Code::UnknownSpace, text: format!("no {space} here") };
                say(fd, &Reply::Denied { request, why });
            }
            Request::Attach { request, .. } => {
                let why = Failure { code: Code::NoSegment, text: "none here".into() };
                say(fd, &Reply::Denied { request, why });
            }
            // It had not heard yet that there is none.
            Request::Detach => {}
            Request::Knock => panic!("{request:?} without a segment"),
            Request::Ask { request, question } => {
                for (i, byte) in question.bytes().enumerate() {
                    let more = i + 1 < question.len();
                    say(fd, &Reply::Answer { request, more, bytes: vec![byte] });
                }
            }
            Request::Lock(r) => {
                let (who, key) = ((session, r.handle), (r.space, r.name.as_bytes().to_vec()));
                assert!(!self.places.contains_key(&who), "number {} is in use", r.handle);
                if r.flags.contains(Flags::LOCAL) && key.1.starts_with(b"foreign") {
                    return self.fail(who, Code::NotOwned);
                }
                let want = Want { mode: r.mode, value: None, flags: r.flags, until: until(r.timeout_ms) };
                let quiet = r.flags.contains(Flags::NOBAST);
                self.places.insert(who, key.clone());
                let lock = Lock { who, mode: None, wants: Some(want), told: 0, quiet };
                self.resources.entry(key.clone()).or_default().push(lock);
                self.scan(&key);
                self.refuse_tries(&key, who);
            }
            Request::Convert(r) => {
                let who = (session, r.handle);
                let Some(key) = self.places.get(&who).cloned() else {
                    return self.fail(who, Code::NoSuchLock);
                };
                let lock = self.lock_mut(&key, who);
                assert!(lock.wants.is_none() && lock.mode.is_some(), "one operation at a time");
                let until = until(r.timeout_ms);
                lock.wants = Some(Want { mode: r.mode, value: r.value, flags: r.flags, until });
                self.scan(&key);
                self.refuse_tries(&key, who);
            }
            Request::Cancel { handle } => self.withdraw((session, handle), Code::Cancelled),
            Request::Unlock { handle, value, invalidate } => {
                let who = (session, handle);
                let Some(key) = self.places.remove(&who) else {
                    return self.fail(who, Code::NoSuchLock);
                };
                let lock = self.lock_mut(&key, who);
                assert!(lock.wants.is_none(), "an unlock while something is in flight");
                assert!(value.is_none() || lock.mode.unwrap().writes_value());
                self.write(&key, value, invalidate);
                self.remove(&key, who);
                self.say(who, &Reply::Released { handle });
                self.scan(&key);
            }
        }
    }

    fn lock_mut(&mut self, key: &Key, who: Who) -> &mut Lock {
        self.resources.get_mut(key).unwrap().iter_mut().find(|lock| lock.who == who).unwrap()
    }

    fn remove(&mut self, key: &Key, who: Who) {
        let locks = self.resources.get_mut(key).unwrap();
        locks.retain(|lock| lock.who != who);
        if locks.is_empty() {
            self.resources.remove(key);
            self.values.remove(key);
        }
    }

    fn write(&mut self, key: &Key, value: Option<[u8; 64]>, invalidate: bool) {
        let old = self.values.get(key).copied().unwrap_or_default();
        match value {
            _ if invalidate => drop(self.values.insert(key.clone(), old.invalidated())),
            Some(bytes) => drop(self.values.insert(key.clone(), old.written(bytes))),
            None => {}
        }
    }

    /// Grants what can be granted, conversions first, then tells holders who they block.
    fn scan(&mut self, key: &Key) {
        loop {
            let Some(locks) = self.resources.get(key) else { return };
            let waits = |l: &&Lock, converts: bool| l.wants.is_some() && l.mode.is_some() == converts;
            let first = locks.iter().find(|l| waits(l, true)).or(locks.iter().find(|l| waits(l, false)));
            let Some(first) = first else { return };
            let (who, wanted) = (first.who, first.wants.as_ref().unwrap().mode);
            let fits =
                locks.iter().filter(|l| l.who != who).filter_map(|l| l.mode).all(|m| m.compatible(wanted));
            if !fits {
                break;
            }
            self.grant(key, who);
        }
        let locks = self.resources.get_mut(key).unwrap();
        let wanted: Vec<(Who, Mode)> =
            locks.iter().filter_map(|l| Some((l.who, l.wants.as_ref()?.mode))).collect();
        let mut notices = Vec::new();
        for lock in locks.iter_mut().filter(|l| !l.quiet) {
            for (who, wanted) in &wanted {
                let told = 1 << *wanted as u8;
                let blocks = lock.mode.is_some_and(|m| !m.compatible(*wanted)) && *who != lock.who;
                if blocks && lock.told & told == 0 {
                    lock.told |= told;
                    notices.push((lock.who, *wanted));
                }
            }
        }
        for (who, wanted) in notices {
            self.say(who, &Reply::Blocking { handle: who.1, wanted });
        }
    }

    fn grant(&mut self, key: &Key, who: Who) {
        self.serial += 1;
        self.grants += 1;
        let lock = self.lock_mut(key, who);
        let want = lock.wants.take().unwrap();
        let leaves = lock.mode.is_some_and(Mode::writes_value);
        lock.mode = Some(want.mode);
        lock.told = 0;
        assert!(leaves || want.value.is_none(), "only PW and EX write");
        self.write(key, want.value, leaves && want.flags.contains(Flags::IVVALBLK));
        let value = self.values.get(key).copied().unwrap_or_default();
        let locks = &self.resources[key];
        for (i, a) in locks.iter().enumerate() {
            for b in &locks[i + 1..] {
                let (Some(x), Some(y)) = (a.mode, b.mode) else { continue };
                assert!(x.compatible(y), "{x} beside {y}");
            }
        }
        self.say(
            who,
            &Reply::Granted(Granted {
                handle: who.1,
                mode: want.mode,
                token: Token { fence: Fence::new(Epoch(1), self.serial), local: 0 },
                value: want.flags.contains(Flags::VALBLK).then_some(value),
                alternate: false,
            }),
        );
    }

    /// A request that does not want to wait and was not granted.
    fn refuse_tries(&mut self, key: &Key, who: Who) {
        let Some(locks) = self.resources.get(key) else { return };
        let Some(lock) = locks.iter().find(|lock| lock.who == who) else { return };
        if lock.wants.as_ref().is_some_and(|want| want.flags.contains(Flags::NOQUEUE)) {
            self.withdraw(who, Code::Busy);
        }
    }

    /// Takes back what a lock waits for.
    fn withdraw(&mut self, who: Who, code: Code) {
        let Some(key) = self.places.get(&who).cloned() else { return };
        let lock = self.lock_mut(&key, who);
        if lock.wants.take().is_none() {
            return;
        }
        if lock.mode.is_none() {
            self.places.remove(&who);
            self.remove(&key, who);
        }
        self.fail(who, code);
        self.scan(&key);
    }

    fn time_out(&mut self, now: Instant) {
        let due: Vec<Who> = self
            .resources
            .values()
            .flatten()
            .filter(|lock| lock.wants.as_ref().and_then(|w| w.until).is_some_and(|until| until <= now))
            .map(|lock| lock.who)
            .collect();
        for who in due {
            self.withdraw(who, Code::TimedOut);
        }
    }

    /// The locks of a session that hung up go, and written blocks with them (scenario 35).
    fn hang_up(&mut self, session: u32) {
        self.sockets.remove(&session);
        let gone: Vec<(Who, Key)> = self
            .places
            .iter()
            .filter(|(who, _)| who.0 == session)
            .map(|(who, key)| (*who, key.clone()))
            .collect();
        for (who, key) in gone {
            self.places.remove(&who);
            let wrote = self.lock_mut(&key, who).mode.is_some_and(Mode::writes_value);
            self.write(&key, None, wrote);
            self.remove(&key, who);
            self.scan(&key);
        }
    }
}

fn until(ms: u32) -> Option<Instant> {
    (ms > 0).then(|| Instant::now() + Duration::from_millis(ms.into()))
}
