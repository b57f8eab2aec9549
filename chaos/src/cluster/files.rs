//! Keys and configuration files of a cluster whose nodes only know each other through a proxy.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

/// The lockspaces of every test cluster: `default`, which passes over, and this one, which does not.
pub const STRICT_SPACE: &str = "strict";
/// How they are ordered, as the judge wants to know it.
pub const STRICT: [bool; 2] = [false, true];

/// A member as all others know it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Where the others send to: a door of the proxy.
    pub address: SocketAddr,
    /// Its public key, printed.
    pub public_key: String,
}

/// What a node needs to run.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its directory.
    pub dir: PathBuf,
    /// Where it really listens.
    pub listen: SocketAddr,
    /// Its private key.
    pub key_file: PathBuf,
    /// The cluster's secret, or what it believes to be that.
    pub secret_file: PathBuf,
}

impl Place {
    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.join("node.toml")
    }

    /// Its socket for programs.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("sock")
    }

    /// What it logs.
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Writes the configuration of a node that calls itself `name`.
    pub fn write_config(&self, name: &str, members: &[Member]) -> io::Result<()> {
        let mut text = format!(
            "[node]\nname = {name:?}\nlisten = \"{}\"\nsocket = {:?}\ndata_dir = {:?}\nkey_file = {:?}\n\n\
             [cluster]\nname = \"chaos\"\nsecret_file = {:?}\n\n\
             [[space]]\nname = \"{STRICT_SPACE}\"\norder = \"strict\"\n",
            self.listen,
            self.socket(),
            self.dir.join("data"),
            self.key_file,
            self.secret_file,
        );
        for m in members {
            text += &format!(
                "\n[[member]]\nname = {:?}\naddress = \"{}\"\npublic_key = {:?}\n",
                m.name, m.address, m.public_key
            );
        }
        fs::write(self.config(), text)
    }
}

/// Makes a node's key. Returns the public half.
pub fn new_key(oarlock: &Path, file: &Path) -> io::Result<String> {
    let mut command = Command::new(oarlock);
    command.args(["key", "new", "-o", "json", "--out"]).arg(file);
    let said: serde_json::Value = serde_json::from_slice(&output(&mut command)?)?;
    Ok(said["public_key"].as_str().ok_or_else(|| io::Error::other("no public key was printed"))?.to_owned())
}

/// Makes a cluster secret.
pub fn new_secret(oarlock: &Path, file: &Path) -> io::Result<()> {
    let mut command = Command::new(oarlock);
    command.args(["key", "secret", "--out"]).arg(file);
    output(&mut command).map(drop)
}

/// An address on the loopback network on which nobody listens now. The loopback network has 16 million hosts:
/// each call takes one that no other call and hardly another process uses, and a port below those that the system
/// gives to whoever asks for any, so that a port that is free now is still free when a daemon takes it, and whenever
/// it is started again.
pub fn free_address() -> io::Result<SocketAddr> {
    static CALLS: AtomicU8 = AtomicU8::new(0);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let host = Ipv4Addr::new(127, 1 + CALLS.fetch_add(1, Ordering::Relaxed) % 254, high, low);
    let mut taken = io::ErrorKind::AddrInUse.into();
    for port in 20_000..20_016 {
        match UdpSocket::bind((host, port)) {
            Ok(socket) => return socket.local_addr(),
            Err(e) => taken = e,
        }
    }
    Err(taken)
}

fn output(command: &mut Command) -> io::Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(io::Error::other(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))))
}
