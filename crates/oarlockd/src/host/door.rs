//! The local door: a Unix socket of type SOCK_SEQPACKET, one message a packet, at which programs become
//! sessions.
//!
//! Who may enter is decided twice: by the file system (directory 0750, socket 0660, wider only if a lockspace is given to
//! others) and by the credentials the kernel attests for the caller at the moment it connected. What they lead to is decided in
//! [`Rights`](crate::config::Rights); nothing is asked of `/proc`, where another process may have the number by then.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oarlock_layout::code::Code;
use rustix::fs::FlockOperation;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::problem::{Problem, Result};

/// Longest path of a Unix socket: the kernel's field has 108 bytes, one of which ends it.
pub const PATH_BYTES_MAX: usize = 107;

/// Refuses a path the kernel would refuse, before anything else is tried with it.
pub fn check_path(path: &Path) -> Result<()> {
    let bytes = path.as_os_str().len();
    if bytes > PATH_BYTES_MAX {
        return Err(Problem::new(
            Code::SocketPathTooLong,
            format!("the socket path {} has {bytes} bytes", path.display()),
        ));
    }
    Ok(())
}

/// Who is at the other end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// Process, 0 if it is not visible from here (another PID namespace).
    pub pid: u32,
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Its other groups.
    pub groups: Vec<u32>,
}

/// The listening socket. Its file goes when it is dropped.
pub struct Door {
    socket: OwnedFd,
    path: PathBuf,
    gid: u32,
    /// The directory was not there before.
    made_directory: bool,
    // Held while the door is open, so that two daemons never take each other's socket file for a leftover.
    _lock: fs::File,
}

impl Door {
    /// Opens the door at `path`, making its directory if it is missing.
    pub fn open(path: &Path) -> Result<Door> {
        check_path(path)?;
        let shown = path.display();
        let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let fail = |e: io::Error| {
            let problem = Problem::io(Code::Failed, format!("cannot open the socket {shown}"), &e);
            match e.kind() {
                io::ErrorKind::PermissionDenied => problem.try_next(format!(
                    "make {} for this user (RuntimeDirectory= does so in a unit), or name another [node] socket",
                    directory.display()
                )),
                _ => problem,
            }
        };
        let made_directory = !directory.exists();
        fs::DirBuilder::new().recursive(true).mode(0o750).create(directory).map_err(fail)?;
        let in_use = || Problem::new(Code::SocketInUse, format!("another daemon listens on {shown}"));
        let lock_path = beside(path);
        // Nobody else may open it: whoever can, can lock it, and this node would not start.
        let mut options = fs::OpenOptions::new();
        let lock =
            options.write(true).create(true).truncate(false).mode(0o600).open(&lock_path).map_err(fail)?;
        lock.set_permissions(fs::Permissions::from_mode(0o600)).map_err(fail)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| in_use())?;
        // Nobody holds the lock, so a socket file that is there was left by a daemon that was killed, or
        // belongs to a stranger that does not know our lock: that one would answer.
        if let Ok(meta) = fs::symlink_metadata(path) {
            if !meta.file_type().is_socket() {
                return Err(Problem::new(Code::BadConfig, format!("{shown} is there and is no socket"))
                    .because("only a socket that a killed daemon left is replaced")
                    .try_next("another path for `socket` in [node]"));
            }
            if connect(path).is_ok() {
                return Err(in_use());
            }
            fs::remove_file(path).map_err(fail)?;
        }
        let address = SocketAddrUnix::new(path).map_err(|e| fail(e.into()))?;
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(|e| fail(e.into()))?;
        rustix::net::bind(&socket, &address).map_err(|e| fail(e.into()))?;
        // Nobody can connect before `listen`, so there is no moment with the wrong mode.
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(fail)?;
        rustix::net::listen(&socket, 256).map_err(|e| fail(e.into()))?;
        let gid = fs::metadata(path).map_err(fail)?.gid();
        Ok(Door { socket, path: path.into(), gid, made_directory, _lock: lock })
    }

    /// What passes into the program that takes this one's place: the socket, and the lock.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.socket.as_fd(), self._lock.as_fd()]
    }

    /// The door whose [`descriptors`](Door::descriptors) these are. Whoever knocked meanwhile waits before it.
    pub fn resume(path: &Path, [socket, lock]: [OwnedFd; 2]) -> Result<Door> {
        let fail =
            |e: io::Error| Problem::io(Code::Failed, format!("the socket {} is lost", path.display()), &e);
        let gid = fs::metadata(path).map_err(fail)?.gid();
        Ok(Door { socket, path: path.into(), gid, made_directory: false, _lock: lock.into() })
    }

    /// Lets knock whom user and group of the socket's file let, and nobody else.
    pub fn let_the_group_knock(&self) -> io::Result<()> {
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o660))
    }

    /// The next caller, if one waits.
    pub fn accept(&self) -> io::Result<Option<(OwnedFd, Caller)>> {
        let socket =
            match rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => socket,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {
                    return Ok(None);
                }
                Err(e) => return Err(e.into()),
            };
        let caller = caller(&socket)?;
        Ok(Some((socket, caller)))
    }

    /// The group of its socket.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// Lets everybody of this machine knock: who enters, the credentials of whoever does decide, which the kernel attests.
    /// A directory that was there before keeps its mode; what is wrong with it then is returned.
    pub fn let_everybody_knock(&self) -> io::Result<Option<String>> {
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o666))?;
        let directory = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mode = fs::metadata(directory)?.permissions().mode();
        if mode & 0o001 != 0 {
            return Ok(None);
        }
        if self.made_directory {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o751))?;
            return Ok(None);
        }
        Ok(Some(format!(
            "{} has mode {:04o}: users outside of its group, to whom a lockspace is given, cannot reach the socket; chmod o+x, or \
             RuntimeDirectoryMode=0751 in the unit",
            directory.display(),
            mode & 0o7777
        )))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // The lock file stays: whoever waits for it must not lock a file that no longer has a name.
        let _ = fs::remove_file(&self.path);
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// The supplementary groups of whoever connected, as they were then.
fn groups(socket: &OwnedFd) -> io::Result<Vec<u32>> {
    // The kernel allows 65,536; few have more than a handful.
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut length = size_of_val(&*groups) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes at the address given, which is that of a vector of group numbers of
        // exactly that size, alive and not borrowed elsewhere; any bytes are valid for its integers. The descriptor is open,
        // because `socket` owns it.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// What the kernel attests of whoever connected. Not by rustix, whose process ids cannot be 0: that is what a
/// caller from another PID namespace has, a container that shares our socket for instance.
fn caller(socket: &OwnedFd) -> io::Result<Caller> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes at the address given, which is that of a `ucred` of
    // exactly that size, alive and not borrowed elsewhere; any bytes are valid for its three integers. The
    // descriptor is open, because `socket` owns it.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let groups = groups(socket)?;
    Ok(Caller { pid: credentials.pid.unsigned_abs(), uid: credentials.uid, gid: credentials.gid, groups })
}

/// The process that connected, as far as it can be watched.
#[derive(Debug)]
pub enum Opener {
    /// Readable when it ends.
    Watched(OwnedFd),
    /// It has ended already.
    Gone,
    /// It cannot be seen from here, so only the hang-up tells of its end.
    Unseen,
}

/// Finds the process behind a session's socket. Since Linux 6.5 the kernel names the very process that connected;
/// before, it is found by its number, which another process may have by then.
pub fn opener(socket: &OwnedFd, caller: &Caller) -> io::Result<Opener> {
    match peer_pidfd(socket) {
        Ok(fd) => Ok(Opener::Watched(fd)),
        Err(e) if e.raw_os_error() == Some(libc::ENOPROTOOPT) => opener_by_number(caller),
        other => gone_or(other),
    }
}

/// The way of kernels without `SO_PEERPIDFD`.
pub fn opener_by_number(caller: &Caller) -> io::Result<Opener> {
    match caller.pid {
        0 => Ok(Opener::Unseen),
        pid => gone_or(super::child::watch(pid)),
    }
}

fn gone_or(watched: io::Result<OwnedFd>) -> io::Result<Opener> {
    match watched {
        Ok(fd) => Ok(Opener::Watched(fd)),
        Err(e) => match e.raw_os_error() {
            Some(libc::ESRCH) => Ok(Opener::Gone),
            Some(libc::EMFILE | libc::ENFILE) => Err(e),
            _ => Ok(Opener::Unseen),
        },
    }
}

/// A descriptor of the process that connected.
pub fn peer_pidfd(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let mut fd: libc::c_int = -1;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes at the address given, which is that of an integer of exactly
    // that size, alive and not borrowed elsewhere. The descriptor is open, because `socket` owns it.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut length,
        )
    };
    match result {
        // SAFETY: the call succeeded, so the kernel has opened `fd` for this process, and nobody else knows it yet.
        0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How long to knock. A daemon takes a connection up within a turn; one that stands still does not, and once enough
/// others knock at it, the kernel lets nobody wait in the row any more.
const KNOCK_MAX: Duration = Duration::from_secs(2);

/// Knocks at a door. The descriptor blocks. Fails with `WouldBlock` if nobody opens in time.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = unconnected()?;
    knock(&socket, path)?;
    Ok(socket)
}

/// A socket with which somebody will knock: the process that does is the one whose session it is.
pub fn unconnected() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Knocks with such a socket.
pub fn knock(socket: impl AsFd, path: &Path) -> io::Result<()> {
    // The send timeout is also that of connect.
    set_socket_timeout(&socket, Timeout::Send, Some(KNOCK_MAX))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    set_socket_timeout(&socket, Timeout::Send, None)?;
    Ok(())
}

/// Sends one packet; `false` if the buffer of the socket is full.
pub fn send(fd: impl AsFd, packet: &[u8]) -> io::Result<bool> {
    match rustix::net::send(fd, packet, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(_) => Ok(true),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// The same with a descriptor, of which the other side gets a copy of its own.
pub fn send_with(fd: impl AsFd, packet: &[u8], what: BorrowedFd<'_>) -> io::Result<bool> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let what = [what];
    assert!(control.push(SendAncillaryMessage::ScmRights(&what)), "there is room for one descriptor");
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match rustix::net::sendmsg(fd, &[io::IoSlice::new(packet)], &mut control, flags) {
        Ok(_) => Ok(true),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// What a receive call found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// A packet of so many bytes.
    Packet(usize),
    /// Nothing yet.
    Nothing,
    /// The other side hung up.
    End,
}

/// Receives one packet without waiting. A packet larger than `buffer` is an error. Descriptors that come along are closed.
pub fn receive(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
    let length = |buffer: &mut [u8]| rustix::net::recv(&fd, buffer, flags).map(|(_, n)| n);
    receive_by(buffer, length)
}

/// The same, with a descriptor that comes along put into `with`.
pub fn receive_with(fd: impl AsFd, buffer: &mut [u8], with: &mut Option<OwnedFd>) -> io::Result<Received> {
    let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC | RecvFlags::CMSG_CLOEXEC;
    receive_by(buffer, |buffer| {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let parts = &mut [io::IoSliceMut::new(buffer)];
        let length = rustix::net::recvmsg(&fd, parts, &mut control, flags)?.bytes;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                *with = descriptors.last();
            }
        }
        Ok(length)
    })
}

fn receive_by(
    buffer: &mut [u8],
    mut receive: impl FnMut(&mut [u8]) -> Result<usize, rustix::io::Errno>,
) -> io::Result<Received> {
    let mut reset = false;
    loop {
        return match receive(&mut *buffer) {
            Ok(0) => Ok(Received::End),
            Ok(n) if n > buffer.len() => Err(io::Error::new(io::ErrorKind::InvalidData, "packet too long")),
            Ok(n) => Ok(Received::Packet(n)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(Received::Nothing),
            // The other side closed before it had read all of ours. The kernel reports that first, and once;
            // what the other side had said before is still there.
            Err(rustix::io::Errno::CONNRESET) if !reset => {
                reset = true;
                continue;
            }
            Err(rustix::io::Errno::CONNRESET | rustix::io::Errno::PIPE) => Ok(Received::End),
            Err(e) => Err(e.into()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a stopped daemon is to those who come when many have knocked already.
    #[test]
    fn knocking_at_a_door_that_nobody_opens_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let mut waiting = Vec::new();
        let error = loop {
            assert!(waiting.len() < 8, "the row never gets full");
            match connect(&path) {
                Ok(fd) => waiting.push(fd),
                Err(e) => break e,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_caller_is_known_and_packets_keep_their_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/oarlock.sock");
        let door = Door::open(&path).unwrap();
        assert!(door.accept().unwrap().is_none());
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o660, 0o750));
        assert_eq!(mode(&beside(&path)), 0o600, "nobody else can lock it");

        let caller = connect(&path).unwrap();
        let (session, who) = door.accept().unwrap().unwrap();
        let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        assert_eq!((who.pid, (who.uid, who.gid)), (std::process::id(), me));
        let mine: Vec<u32> = rustix::process::getgroups().unwrap().iter().map(|g| g.as_raw()).collect();
        assert_eq!((who.groups, door.gid()), (mine, me.1));

        assert!(send(&caller, b"one").unwrap() && send(&caller, b"three").unwrap());
        let mut buffer = [0; 8];
        assert_eq!(receive(&session, &mut buffer).unwrap(), Received::Packet(3));
        assert_eq!(receive(&session, &mut buffer).unwrap(), Received::Packet(5));
        assert_eq!(receive(&session, &mut buffer).unwrap(), Received::Nothing);
        assert!(send(&caller, b"too long for it").unwrap());
        assert!(receive(&session, &mut buffer).is_err());
        drop(caller);
        assert_eq!(receive(&session, &mut buffer).unwrap(), Received::End);
        drop(door);
        assert!(!path.exists());
    }

    #[test]
    fn last_words_are_heard_although_ours_were_not() {
        let dir = tempfile::tempdir().unwrap();
        let door = Door::open(&dir.path().join("s")).unwrap();
        let caller = connect(door.path()).unwrap();
        let (session, _) = door.accept().unwrap().unwrap();
        send(&caller, b"never read").unwrap();
        send(&session, b"refused").unwrap();
        drop(session);
        let mut buffer = [0; 64];
        assert_eq!(receive(&caller, &mut buffer).unwrap(), Received::Packet(7));
        assert_eq!(receive(&caller, &mut buffer).unwrap(), Received::End);
    }

    #[test]
    fn a_socket_in_use_is_refused_and_a_leftover_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("oarlock.sock");
        let first = Door::open(&path).unwrap();
        assert_eq!(Door::open(&path).err().unwrap().code, Code::SocketInUse);
        drop(first);
        // As earlier versions left it.
        fs::set_permissions(beside(&path), fs::Permissions::from_mode(0o644)).unwrap();
        // A daemon that is killed leaves its socket file behind, and its lock goes with it.
        let left = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        rustix::net::bind(&left, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        drop(left);
        assert!(path.exists() && connect(&path).is_err());
        let second = Door::open(&path).unwrap();
        assert_eq!(fs::metadata(beside(&path)).unwrap().mode() & 0o777, 0o600);
        assert!(connect(second.path()).is_ok());
    }

    /// M12: by either way. What a helper of the caller keeps open is no life of the caller.
    #[test]
    fn the_end_of_who_connected_is_seen_though_the_socket_stays_open() {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};

        let dir = tempfile::tempdir().unwrap();
        let door = Door::open(&dir.path().join("s")).unwrap();
        // The same program of ours that connects and lends its socket to a child would need a program of ours: it
        // is in `tests/daemon.rs`. Here the watched process is this one, and one that has ended.
        let _ours = connect(door.path()).unwrap();
        let (session, caller) = door.accept().unwrap().unwrap();
        for opener in [opener(&session, &caller).unwrap(), opener_by_number(&caller).unwrap()] {
            let Opener::Watched(fd) = opener else { panic!("{opener:?}") };
            let none = Timespec { tv_sec: 0, tv_nsec: 0 };
            assert_eq!(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&none)).unwrap(), 0, "it lives");
        }
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let ended = Caller { pid: child.id(), ..caller.clone() };
        child.wait().unwrap();
        assert!(matches!(opener_by_number(&ended).unwrap(), Opener::Gone));
        assert!(matches!(opener_by_number(&Caller { pid: 0, ..caller }).unwrap(), Opener::Unseen));
    }

    /// A mistyped path must not cost a key file.
    #[test]
    fn what_is_no_socket_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        fs::write(&path, "precious").unwrap();
        assert_eq!(Door::open(&path).err().unwrap().code, Code::BadConfig);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_stranger_without_our_lock_keeps_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("oarlock.sock");
        let stranger = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        rustix::net::bind(&stranger, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&stranger, 8).unwrap();
        assert_eq!(Door::open(&path).err().unwrap().code, Code::SocketInUse);
        assert!(path.exists());
    }

    #[test]
    fn a_path_of_108_bytes_is_refused() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(103)));
        assert_eq!(check_path(&path).unwrap_err().code, Code::SocketPathTooLong);
        assert!(check_path(Path::new(&format!("/tmp/{}", "x".repeat(102)))).is_ok());
    }
}
