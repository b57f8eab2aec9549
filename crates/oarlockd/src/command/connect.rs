//! Which daemon a command talks to: `--socket`, then OARLOCK_SOCKET, then the system's node, then this
//! user's running `oarlock dev`.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oarlock_layout::code::Code;
use serde::{Deserialize, Serialize};

use crate::config::SYSTEM_SOCKET;
use crate::problem::{Problem, Result};

/// The variable that names a socket.
pub const VARIABLE: &str = "OARLOCK_SOCKET";

/// What a running `oarlock dev` leaves for other commands of its user to find.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Running {
    /// Version of this file.
    pub v: u32,
    /// Process of the running `dev`.
    pub pid: u32,
    /// Its directory.
    pub dir: PathBuf,
    /// Each node's socket.
    pub sockets: BTreeMap<String, PathBuf>,
}

/// Directory of a user's own short-lived files: `$XDG_RUNTIME_DIR/oarlock`, or `/tmp/oarlock-UID`.
pub fn user_dir() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|d| Path::new(d).is_absolute()) {
        Some(dir) => Path::new(&dir).join("oarlock"),
        None => PathBuf::from(format!("/tmp/oarlock-{}", rustix::process::getuid().as_raw())),
    }
}

/// The file in [`user_dir`] in which a running `dev` is described.
pub fn dev_file() -> PathBuf {
    user_dir().join("dev.json")
}

/// Whether a path belongs to this user and nobody else may write there.
pub fn is_own(path: &Path) -> bool {
    let me = rustix::process::getuid().as_raw();
    std::fs::symlink_metadata(path)
        .is_ok_and(|m| m.uid() == me && !m.file_type().is_symlink() && m.mode() & 0o022 == 0)
}

/// This user's running `dev`, if there is one. A file or directory of another user is not believed: in a
/// directory that everybody can write, it could lead to anybody's socket.
pub fn running_dev() -> Option<Running> {
    let file = dev_file();
    if ![file.parent()?, &file].into_iter().all(is_own) {
        return None;
    }
    let running: Running = serde_json::from_slice(&std::fs::read(&file).ok()?).ok()?;
    // One that was killed could not take its note away.
    let pid = rustix::process::Pid::from_raw(running.pid as i32)?;
    rustix::process::test_kill_process(pid).ok()?;
    Some(running)
}

/// The socket to use, and how it was chosen.
pub fn find(option: Option<&Path>) -> Result<(PathBuf, &'static str)> {
    if let Some(path) = option {
        return Ok((path.into(), "--socket"));
    }
    if let Some(path) = std::env::var_os(VARIABLE).filter(|p| !p.is_empty()) {
        return Ok((path.into(), VARIABLE));
    }
    if Path::new(SYSTEM_SOCKET).exists() {
        return Ok((SYSTEM_SOCKET.into(), "the system's node"));
    }
    if let Some(dev) = running_dev()
        && let Some(path) = dev.sockets.into_values().next()
    {
        return Ok((path, "this user's oarlock dev"));
    }
    Err(Problem::new(Code::NoDaemon, "no daemon is running here")
        .because(format!(
            "--socket and {VARIABLE} are not set, {SYSTEM_SOCKET} does not exist, and this user runs no `oarlock dev`"
        ))
        .try_next("oarlock dev"))
}

/// Says what a failed connection means.
pub fn failed(path: &Path, error: &io::Error) -> Problem {
    let shown = path.display();
    let what = format!("no daemon answers on {shown}");
    match error.kind() {
        io::ErrorKind::NotFound => {
            Problem::io(Code::NoDaemon, what, error).because("there is no such socket")
        }
        io::ErrorKind::ConnectionRefused => {
            let socket = std::fs::metadata(path).is_ok_and(|m| m.file_type().is_socket());
            Problem::io(Code::NoDaemon, what, error).because(match socket {
                true => "the socket is a leftover: the daemon that made it was killed",
                false => "it is not a socket",
            })
        }
        io::ErrorKind::PermissionDenied => {
            Problem::io(Code::SocketDenied, format!("the socket {shown} may not be opened"), error)
        }
        io::ErrorKind::WouldBlock => Problem::io(Code::NoDaemon, what, error)
            .because("the daemon does not take up the connection; it may be stopped"),
        _ => Problem::io(Code::NoDaemon, what, error),
    }
}
