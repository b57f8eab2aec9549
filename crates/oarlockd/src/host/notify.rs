//! What a service manager is told: lines to a Unix datagram socket that it names in the environment, as systemd has it
//! (sd_notify). Not by a crate: it is one call, and the usual ones take the watchdog to be this very process's affair, while
//! the manager names the keeper.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The manager, if one asked to be told.
#[derive(Debug, Default)]
pub struct Notify {
    socket: Option<UnixDatagram>,
    every: Option<Duration>,
}

impl Notify {
    /// As the environment has it. A watchdog counts if it is set for this process or for the one that started it.
    pub fn from_environment() -> Notify {
        let Some(address) = env::var_os("NOTIFY_SOCKET") else { return Notify::default() };
        let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get() as u64);
        let ours = [u64::from(std::process::id()), parent];
        let watched = number("WATCHDOG_PID").is_none_or(|pid| ours.contains(&pid));
        let most = number("WATCHDOG_USEC").filter(|us| watched && *us > 0).map(Duration::from_micros);
        // Twice as often as it must hear, as it advises.
        Notify { socket: connect(&address).ok(), every: most.map(|most| most / 2) }
    }

    /// How often it wants a sign of life, if at all.
    pub fn every(&self) -> Option<Duration> {
        self.every
    }

    /// Tells it. One that does not read misses it: nothing here waits for it.
    pub fn tell(&self, lines: &str) {
        if let Some(socket) = &self.socket {
            let _ = socket.send(lines.as_bytes());
        }
    }
}

/// A path, or a name in the abstract namespace, which is written with `@` in front.
fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_is_found_by_path_and_by_name_and_one_that_does_not_read_holds_nothing_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("oarlock-notify-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_path = (UnixDatagram::bind(&path).unwrap(), path.into_os_string());
        let by_name = (UnixDatagram::bind_addr(&abstract_address).unwrap(), format!("@{name}").into());
        for (manager, address) in [by_path, by_name] {
            let notify = Notify { socket: Some(connect(&address).unwrap()), every: None };
            notify.tell("READY=1\nSTATUS=serving");
            let mut buffer = [0; 64];
            let n = manager.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..n], b"READY=1\nSTATUS=serving");
            (0..1_000).for_each(|_| notify.tell("WATCHDOG=1"));
            drop(manager);
            notify.tell("WATCHDOG=1");
        }
        assert!(connect(OsStr::new("/nonexistent/notify")).is_err());
        Notify::default().tell("nobody asked");
    }
}
