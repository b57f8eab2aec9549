//! A node with a configuration written by the test: everything `dev` would choose, chosen here.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{Said, oarlock, run, signal, until};

/// A free UDP port, as far as anybody can know.
pub fn free_port() -> u16 {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// A directory with a configuration for one node.
pub struct Solo {
    pub dir: tempfile::TempDir,
    pub port: u16,
    child: Option<Child>,
}

impl Solo {
    /// Writes keys and a configuration with `extra` at its end.
    pub fn new(extra: &str) -> Solo {
        let dir = tempfile::Builder::new().prefix("oar").tempdir().unwrap();
        let key = dir.path().join("node.key");
        let made = run(["key", "new", "--out", key.to_str().unwrap()]).expect(0, &["node.key"]);
        run(["key", "secret", "--out", dir.path().join("secret").to_str().unwrap()]).expect(0, &[]);
        let solo = Solo { dir, port: free_port(), child: None };
        solo.write(&solo.text(made.out.trim(), extra));
        solo
    }

    /// The usual configuration.
    pub fn text(&self, public_key: &str, extra: &str) -> String {
        format!(
            "[node]\nname = \"solo\"\nsocket = \"run/oarlock.sock\"\ndata_dir = \"data\"\nkey_file = \"node.key\"\n\
             [cluster]\nname = \"alone\"\nsecret_file = \"secret\"\n\
             [[member]]\nname = \"solo\"\naddress = \"127.0.0.1:{}\"\npublic_key = \"{public_key}\"\n{extra}",
            self.port
        )
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn config(&self) -> PathBuf {
        self.path("node.toml")
    }

    pub fn read(&self) -> String {
        fs::read_to_string(self.config()).unwrap()
    }

    pub fn write(&self, text: &str) {
        fs::write(self.config(), text).unwrap();
    }

    pub fn socket(&self) -> PathBuf {
        self.path("run/oarlock.sock")
    }

    /// Runs `serve` where it is expected to fail.
    pub fn serve(&self) -> Said {
        serve(&self.config())
    }

    /// Starts it and waits until it serves.
    pub fn start(&mut self) {
        self.launch();
        until("the node serves", || self.run(&["ok"]).status == Some(0));
    }

    /// Starts it.
    pub fn launch(&mut self) {
        let mut command = oarlock();
        command.args(["serve", "--config"]).arg(self.config());
        self.launch_as(command);
    }

    /// Starts it by this command and waits until it serves.
    pub fn start_as(&mut self, command: Command) {
        self.launch_as(command);
        until("the node serves", || self.run(&["ok"]).status == Some(0));
    }

    fn launch_as(&mut self, mut command: Command) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        self.child = Some(command.stdin(Stdio::null()).stderr(log).spawn().unwrap());
    }

    pub fn at(&self) -> Command {
        let mut command = oarlock();
        command.env("OARLOCK_SOCKET", self.socket());
        command
    }

    pub fn run(&self, args: &[&str]) -> Said {
        Said::of(self.at().args(args).output().unwrap())
    }

    pub fn pid(&self) -> i32 {
        self.child.as_ref().expect("it runs").id() as i32
    }

    /// The other process: what `pid` keeps.
    pub fn engine(&self) -> i32 {
        super::engine_of(self.pid())
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Ends it by a signal; returns its status.
    pub fn end(&mut self, name: &str) -> Option<i32> {
        let mut child = self.child.take().expect("it runs");
        signal(child.id() as i32, name);
        child.wait().unwrap().code()
    }
}

/// Runs `serve` to its end.
pub fn serve(config: &Path) -> Said {
    Said::of(oarlock().args(["serve", "--config"]).arg(config).output().unwrap())
}

impl Drop for Solo {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            if std::thread::panicking() {
                eprintln!("solo logged:\n{}", self.log());
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
