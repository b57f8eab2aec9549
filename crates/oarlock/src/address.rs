//! Where the daemon's socket is, if the caller does not say.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use oarlock_layout::code::Code;
use rustix::process::{Pid, geteuid, test_kill_process};

use crate::error::{Error, Kind, Result};
use crate::json;

/// Names the socket; wins over everything else.
pub const SOCKET_VARIABLE: &str = "OARLOCK_SOCKET";
/// Where the daemon of a machine listens.
pub const SYSTEM_SOCKET: &str = "/run/oarlock/oarlock.sock";
/// A development cluster has a handful of nodes; a file longer than this is not its description.
const DEV_FILE_BYTES_MAX: u64 = 64 << 10;

/// Tries the places where a daemon may listen, in this order: the one that `OARLOCK_SOCKET` names, the
/// system's, the first node of this user's running development cluster.
pub(crate) fn connect_default<T>(mut connect: impl FnMut(&Path) -> Result<T>) -> Result<T> {
    if let Some(path) = std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty()) {
        return connect(Path::new(&path));
    }
    match connect(Path::new(SYSTEM_SOCKET)) {
        Err(error) if error.kind() == Kind::NoDaemon => {}
        result => return result,
    }
    match dev_sockets().into_iter().next() {
        Some((_, socket)) => connect(&socket),
        None => Err(Error::new(
            Code::NoDaemon,
            "cannot find a daemon",
            format!(
                "{SOCKET_VARIABLE} is not set, nothing listens at {SYSTEM_SOCKET}, \
                 and this user runs no development cluster"
            ),
        )),
    }
}

/// Where this user's development cluster leaves word of itself.
pub fn dev_file() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => Path::new(&dir).join("oarlock"),
        None => PathBuf::from(format!("/tmp/oarlock-{}", geteuid().as_raw())),
    }
    .join("dev.json")
}

/// The nodes of this user's development cluster, if one runs: names and sockets, in the order of the names.
pub fn dev_sockets() -> Vec<(String, PathBuf)> {
    read_dev_file(&dev_file()).unwrap_or_default()
}

fn read_dev_file(path: &Path) -> Option<Vec<(String, PathBuf)>> {
    let file = File::open(path).ok()?;
    let about = file.metadata().ok()?;
    // Everybody may write to /tmp, so a stranger could lay this file there first. Believe only one's own.
    if about.uid() != geteuid().as_raw() || !about.is_file() || about.len() > DEV_FILE_BYTES_MAX {
        return None;
    }
    let mut text = String::new();
    file.take(DEV_FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    let document = json::parse(&text)?;
    let number = |key| document.get(key).and_then(json::Value::number);
    // What a killed cluster left behind is no cluster.
    let pid = Pid::from_raw(number("pid")?.parse().ok()?)?;
    if number("v") != Some("1") || test_kill_process(pid).is_err() {
        return None;
    }
    let sockets = document.get("sockets")?.members()?;
    let mut sockets: Vec<(String, PathBuf)> = sockets
        .iter()
        .filter_map(|(name, socket)| Some((name.clone(), PathBuf::from(socket.text()?))))
        .collect();
    sockets.sort();
    Some(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&[(&str, &str)]>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dev.json");
        std::fs::write(&path, text).unwrap();
        let expected = expected.map(|pairs| {
            pairs.iter().map(|(name, socket)| (name.to_string(), PathBuf::from(socket))).collect::<Vec<_>>()
        });
        assert_eq!(read_dev_file(&path), expected, "{text}");
    }

    #[test]
    fn the_nodes_of_a_running_cluster_are_found_in_order() {
        let pid = std::process::id();
        check(
            &format!(r#"{{"v":1,"pid":{pid},"sockets":{{"node-b":"/b","node-a":"/a\u0020x"}}}}"#),
            Some(&[("node-a", "/a x"), ("node-b", "/b")]),
        );
    }

    /// Only root can give a file away, so only root can see this.
    #[test]
    fn the_file_of_another_user_is_not_believed() {
        if !geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dev.json");
        std::fs::write(&path, format!(r#"{{"v":1,"pid":{},"sockets":{{"a":"/a"}}}}"#, std::process::id()))
            .unwrap();
        assert!(read_dev_file(&path).is_some());
        std::os::unix::fs::chown(&path, Some(1), None).unwrap();
        assert_eq!(read_dev_file(&path), None);
    }

    #[test]
    fn what_is_stale_or_strange_is_no_cluster() {
        let pid = std::process::id();
        // The highest pid the kernel gives is below 2^22.
        check(r#"{"v":1,"pid":4194303,"sockets":{"node-a":"/a"}}"#, None);
        check(&format!(r#"{{"v":2,"pid":{pid},"sockets":{{"node-a":"/a"}}}}"#), None);
        check(&format!(r#"{{"v":1,"pid":{pid}}}"#), None);
        check(r#"{"v":1,"pid":0,"sockets":{}}"#, None);
        check("", None);
        assert_eq!(read_dev_file(Path::new("/nonexistent/dev.json")), None);
    }
}
