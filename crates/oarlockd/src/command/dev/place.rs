//! Where a `dev` cluster lives: its directory, keys, ports and configuration files.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use oarlock_layout::code::Code;
use rustix::fs::FlockOperation;

use super::super::cli;
use crate::config::Config;
use crate::host::door;
use crate::host::file;
use crate::host::key::{Secret, print, print_hex};
use crate::host::random;
use crate::problem::{Problem, Result};

/// Marks a directory as ours, so that what a killed `dev` left can be told from somebody's files.
const MARKER: &str = ".oarlock-dev";
/// Line in the marker: the directory itself is ours as well.
const MADE_DIR: &str = "and so is the directory";
const SECRET: &str = "cluster.secret";

/// A directory that is removed when this is dropped.
pub(super) struct Place {
    pub(super) dir: PathBuf,
    pub(super) names: Vec<String>,
    made_dir: bool,
    api: Mutex<BTreeMap<usize, SocketAddr>>,
    // Held while the cluster runs: a marker alone does not tell what a killed `dev` left from what a living one
    // still uses. On the directory itself, so that it leaves nothing behind.
    _lock: fs::File,
}

impl Place {
    /// Makes the directory with keys in it.
    pub(super) fn make(args: &cli::Dev) -> Result<Place> {
        let names: Vec<String> = (0..args.nodes).map(|i| format!("node-{}", char::from(b'a' + i))).collect();
        let dir = match &args.dir {
            Some(dir) => std::path::absolute(dir)
                .map_err(|e| Problem::io(Code::Failed, format!("cannot use {}", dir.display()), &e))?,
            None => {
                let unique: String = print_hex(&random::bytes()).chars().take(8).collect();
                std::env::temp_dir().join(format!("oarlock-dev-{unique}"))
            }
        };
        let shown = dir.display().to_string();
        let fail = |e: &io::Error| Problem::io(Code::Failed, format!("cannot make {shown}"), e);
        for name in &names {
            door::check_path(&dir.join(name).join("oarlock.sock"))
                .map_err(|p| p.try_next("a shorter directory with --dir, for instance under /tmp"))?;
        }
        let made_dir = !dir.exists();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|e| fail(&e))?;
        let lock = fs::File::open(&dir).map_err(|e| fail(&e))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|e| {
            fail(&e.into())
                .because("another `oarlock dev` runs there")
                .try_next("another directory with --dir, or none")
        })?;
        let mut place = Place { dir, names, made_dir, api: Mutex::default(), _lock: lock };
        place.claim()?;
        for name in &place.names {
            fs::DirBuilder::new().mode(0o750).create(place.dir.join(name)).map_err(|e| fail(&e))?;
            Secret::generate().write_new(&place.key(name))?;
        }
        Secret::generate().write_new(&place.dir.join(SECRET))?;
        Ok(place)
    }

    /// Makes sure that nothing here belongs to somebody else, and removes what a killed `dev` left.
    fn claim(&mut self) -> Result<()> {
        let marker = self.dir.join(MARKER);
        if let Ok(text) = fs::read_to_string(&marker) {
            self.made_dir |= text.lines().any(|l| l == MADE_DIR);
            self.remove_contents();
        }
        let taken = self.contents().find(|p| p.exists());
        if let Some(path) = taken {
            return Err(Problem::new(Code::Failed, format!("{} is in the way", path.display()))
                .because("oarlock dev removes everything it makes, so it will not mix with other files")
                .try_next("another directory, or none"));
        }
        let dir = if self.made_dir { MADE_DIR } else { "the directory was here before" };
        let text = format!("made by oarlock dev, removed when it ends\n{dir}\n");
        file::replace(&marker, text.as_bytes(), 0o600)
            .map_err(|e| Problem::io(Code::Failed, format!("cannot write in {}", self.dir.display()), &e))
    }

    /// Writes every node's configuration, with ports that are free now.
    pub(super) fn configure(&self, args: &cli::Dev) -> Result<()> {
        let fail = |e: io::Error| Problem::io(Code::Failed, "cannot choose a free port", &e);
        // All held at once, or the same port would be given twice.
        let any = || (Ipv4Addr::LOCALHOST, 0);
        let udp: Vec<UdpSocket> =
            self.names.iter().map(|_| UdpSocket::bind(any())).collect::<io::Result<_>>().map_err(fail)?;
        let tcp: Vec<TcpListener> =
            self.names.iter().map(|_| TcpListener::bind(any())).collect::<io::Result<_>>().map_err(fail)?;
        let mut members = String::new();
        for (name, socket) in self.names.iter().zip(&udp) {
            let key = print(&Secret::read(&self.key(name))?.public());
            let address = socket.local_addr().map_err(fail)?;
            members += &format!(
                "\n[[member]]\nname = \"{name}\"\naddress = \"{address}\"\npublic_key = \"{key}\"\n"
            );
        }
        let retain = !args.no_retain;
        let mut spaces = format!("\n[[space]]\nname = \"default\"\nretain = {retain}\n");
        for text in &args.space {
            let (name, order) = text.split_once(':').unwrap_or((text, "passover"));
            spaces += &format!("\n[[space]]\nname = {name:?}\norder = {order:?}\nretain = {retain}\n");
        }
        let mut chosen = BTreeMap::new();
        for (i, (name, socket)) in self.names.iter().zip(&tcp).enumerate() {
            let api = socket.local_addr().map_err(fail)?;
            chosen.insert(i, api);
            let text = format!(
                "# made by oarlock dev\n[node]\nname = \"{name}\"\napi = \"{api}\"\nsocket = \"oarlock.sock\"\n\
                 data_dir = \"data\"\nkey_file = \"node.key\"\n\n[cluster]\nname = \"dev\"\n\
                 secret_file = \"../{SECRET}\"\n\n[circuit]\noffload = {}\n{members}{spaces}",
                !args.no_offload
            );
            let path = self.config(name);
            // What a node would refuse is better said before it starts.
            Config::parse(&path, &text)?;
            file::replace(&path, text.as_bytes(), 0o600)
                .map_err(|e| Problem::io(Code::Failed, format!("cannot write {}", path.display()), &e))?;
        }
        *self.api.lock().expect("nobody panics with it") = chosen;
        Ok(())
    }

    pub(super) fn config(&self, name: &str) -> PathBuf {
        self.dir.join(name).join("node.toml")
    }

    pub(super) fn socket(&self, name: &str) -> PathBuf {
        self.dir.join(name).join("oarlock.sock")
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.dir.join(name).join("log")
    }

    /// Where a node serves its metrics.
    pub(super) fn api(&self, node: usize) -> Option<SocketAddr> {
        self.api.lock().expect("nobody panics with it").get(&node).copied()
    }

    fn key(&self, name: &str) -> PathBuf {
        self.dir.join(name).join("node.key")
    }

    /// All that is ours, in the directory. Every name `dev` could ever use: an earlier run may have had more.
    fn contents(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let nodes = (b'a'..=b'z').map(|c| self.dir.join(format!("node-{}", char::from(c))));
        nodes.chain([self.dir.join(SECRET)])
    }

    fn remove_contents(&self) {
        for path in self.contents() {
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
        let _ = fs::remove_file(self.dir.join(MARKER));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Without the marker the directory was never ours: `claim` refused it.
        if self.dir.join(MARKER).exists() {
            self.remove_contents();
        }
        if self.made_dir {
            // Only if it is empty: whatever somebody else put there stays.
            let _ = fs::remove_dir(&self.dir);
        }
    }
}

/// How this program must be typed: its bare name if the shell would find this very file.
pub(super) fn own_name() -> String {
    let Ok(exe) = std::env::current_exe() else { return "oarlock".into() };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|d| d.join("oarlock")).find(|p| p.is_file());
    let same = found.and_then(|p| p.canonicalize().ok()).is_some_and(|p| Some(p) == exe.canonicalize().ok());
    if same { "oarlock".into() } else { shorter(&exe) }
}

/// Relative to where we are, if that is below us: `target/release/oarlock`.
fn shorter(exe: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    match exe.strip_prefix(&here) {
        Ok(relative) => format!("./{}", relative.display()),
        Err(_) => exe.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(dir: &Path, nodes: u8) -> cli::Dev {
        cli::Dev {
            dir: Some(dir.into()),
            keep: false,
            nodes,
            quiet: true,
            space: vec!["orders:strict".into()],
            no_retain: false,
            no_offload: false,
        }
    }

    #[test]
    fn what_is_made_makes_sense_and_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("cluster");
        let place = Place::make(&args(&dir, 3)).unwrap();
        place.configure(&args(&dir, 3)).unwrap();
        let configs: Vec<_> = place.names.iter().map(|n| Config::load(&place.config(n)).unwrap()).collect();
        for (i, config) in configs.iter().enumerate() {
            assert_eq!((config.me, config.shared()), (i, configs[0].shared()));
            super::super::super::config::check_files(config).unwrap();
        }
        assert_eq!(configs[0].spaces[1].name, "orders");
        drop(place);
        assert!(!dir.exists());
    }

    #[test]
    fn files_of_others_are_neither_touched_nor_removed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("node-a")).unwrap();
        fs::write(dir.path().join("node-a/precious"), b"x").unwrap();
        assert!(Place::make(&args(dir.path(), 3)).is_err());
        assert!(dir.path().join("node-a/precious").exists());
    }

    #[test]
    fn what_a_killed_run_left_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let killed = std::mem::ManuallyDrop::new(Place::make(&args(dir.path(), 3)).unwrap());
        // What the kernel does for a process that is gone.
        rustix::fs::flock(&killed._lock, FlockOperation::Unlock).unwrap();
        let place = Place::make(&args(dir.path(), 2)).unwrap();
        assert!(!dir.path().join("node-c").exists());
        drop(place);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(dir.path().exists(), "it was there before us");
    }

    /// Its marker looks like that of a killed one.
    #[test]
    fn a_directory_in_which_another_dev_runs_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let first = Place::make(&args(dir.path(), 3)).unwrap();
        let key = fs::read(first.key("node-a")).unwrap();
        let problem = Place::make(&args(dir.path(), 3)).err().unwrap();
        assert!(problem.why.contains("runs there"), "{problem}");
        assert_eq!(fs::read(first.key("node-a")).unwrap(), key);
        drop(first);
        assert!(Place::make(&args(dir.path(), 3)).is_ok());
    }

    #[test]
    fn a_directory_too_deep_for_a_socket_is_refused_first() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("x".repeat(100));
        assert_eq!(Place::make(&args(&dir, 1)).err().unwrap().code, Code::SocketPathTooLong);
        assert!(!dir.exists());
    }
}
