//! Where a `dev` cluster lives: its directory, keys, ports and configuration files.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use oarlock_layout::code::Code;
use rustix::fs::{FlockOperation, OFlags};

use super::super::{cli, output};
use super::{etcd, harm};
use crate::config::Config;
use crate::host::door;
use crate::host::file;
use crate::host::key::{Secret, print, print_hex};
use crate::host::random;
use crate::problem::{Problem, Result};

/// Marks a directory as ours, so that what a killed `dev` left can be told from somebody's files. Locked by
/// `dev` and by each of its nodes, so that nobody takes a directory that a node still uses.
const MARKER: &str = ".oarlock-dev";
/// What the names of directories begin with that nobody chose.
const PREFIX: &str = "oarlock-dev-";
/// Nodes whose `dev` was killed stop by themselves, but wait a little for those that hold locks.
const STOPPING_MAX: Duration = Duration::from_secs(5);
/// Line in the marker: the directory itself is ours as well.
const MADE_DIR: &str = "and so is the directory";
const SECRET: &str = "cluster.secret";
/// What to try when a directory cannot be used.
const ANOTHER_DIR: &str = "another directory with --dir, or none";

/// A directory that is removed when this is dropped.
pub(super) struct Place {
    pub(super) dir: PathBuf,
    pub(super) names: Vec<String>,
    /// The locked marker; nodes inherit it. `None` until the directory is ours.
    pub(super) marker: Option<File>,
    made_dir: bool,
    api: Mutex<BTreeMap<usize, SocketAddr>>,
}

impl Place {
    /// Makes the directory with keys in it.
    pub(super) fn make(args: &cli::Dev) -> Result<Place> {
        let names: Vec<String> = (0..args.nodes).map(|i| format!("node-{}", char::from(b'a' + i))).collect();
        let dir = match &args.dir {
            Some(dir) => std::path::absolute(dir)
                .map_err(|e| Problem::io(Code::Failed, format!("cannot use {}", dir.display()), &e))?,
            None => {
                clear_leftovers(&std::env::temp_dir());
                let unique: String = print_hex(&random::bytes()).chars().take(8).collect();
                std::env::temp_dir().join(format!("{PREFIX}{unique}"))
            }
        };
        for name in &names {
            door::check_path(&dir.join(name).join("oarlock.sock"))
                .map_err(|p| p.try_next("a shorter directory with --dir, for instance under /tmp"))?;
        }
        let mut place = Place { dir, names, marker: None, made_dir: false, api: Mutex::default() };
        place.claim()?;
        let fail = |e: &io::Error| place.cannot_make(e);
        for name in &place.names {
            fs::DirBuilder::new().mode(0o750).create(place.dir.join(name)).map_err(|e| fail(&e))?;
            Secret::generate().write_new(&place.key(name))?;
        }
        Secret::generate().write_new(&place.dir.join(SECRET))?;
        Ok(place)
    }

    fn cannot_make(&self, e: &io::Error) -> Problem {
        Problem::io(Code::Failed, format!("cannot make {}", self.dir.display()), e).try_next(ANOTHER_DIR)
    }

    /// Makes the directory if need be, makes sure that nothing in it belongs to somebody else, and removes what
    /// a killed `dev` left.
    fn claim(&mut self) -> Result<()> {
        let fail = |dir: &Path, e: &io::Error| {
            Problem::io(Code::Failed, format!("cannot write in {}", dir.display()), e).try_next(ANOTHER_DIR)
        };
        let began = Instant::now();
        let mut told = false;
        // A `dev` that ends takes marker and directory with it, also while this one waits for the marker.
        let (mut marker, ours) = loop {
            let made = !self.dir.exists();
            let make = || fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
            make().map_err(|e| self.cannot_make(&e))?;
            self.made_dir |= made;
            let ours = self.dir.join(MARKER).exists();
            if !ours {
                self.refuse_strangers()?;
            }
            let marker = match open_marker(&self.dir, true) {
                Err(e) if e.kind() == io::ErrorKind::NotFound && began.elapsed() <= STOPPING_MAX => continue,
                opened => opened.map_err(|e| fail(&self.dir, &e))?,
            };
            while !lock(&marker) {
                if !told {
                    told = true;
                    output::say(format_args!(
                        "oarlock: {} is in use; waiting {} s at most for nodes of another run to stop",
                        self.dir.display(),
                        STOPPING_MAX.as_secs()
                    ));
                }
                if began.elapsed() > STOPPING_MAX {
                    return Err(Problem::new(
                        Code::Failed,
                        format!("another `oarlock dev` runs in {}", self.dir.display()),
                    )
                    .because("two clusters in one directory would take each other's sockets and keys")
                    .try_next("another directory, or stop the other one first"));
                }
                thread::sleep(Duration::from_millis(50));
            }
            if is_in(&marker, &self.dir) {
                break (marker, ours);
            }
        };
        let fail = |e: io::Error| fail(&self.dir, &e);
        if ours {
            let mut text = String::new();
            marker.read_to_string(&mut text).map_err(fail)?;
            self.made_dir |= text.lines().any(|l| l == MADE_DIR);
            self.remove_contents();
            self.refuse_strangers()?;
        }
        let dir = if self.made_dir { MADE_DIR } else { "the directory was here before" };
        // Written in place: a new file of the same name would not be the one that is locked.
        marker.set_len(0).and_then(|()| marker.rewind()).map_err(fail)?;
        marker
            .write_all(format!("made by oarlock dev, removed when it ends\n{dir}\n").as_bytes())
            .map_err(fail)?;
        self.marker = Some(marker);
        Ok(())
    }

    fn refuse_strangers(&self) -> Result<()> {
        match self.contents().find(|p| p.exists()) {
            None => Ok(()),
            Some(path) => Err(Problem::new(Code::Failed, format!("{} is in the way", path.display()))
                .because("oarlock dev removes everything it makes, so it will not mix with other files")
                .try_next(ANOTHER_DIR)),
        }
    }

    /// Writes every node's configuration, with ports that are free now.
    pub(super) fn configure(&self, args: &cli::Dev, etcd: Option<&str>) -> Result<()> {
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
        // For programs that were written for libdlm; whoever wants it otherwise says so.
        let dlm = cli::DLM_SPACE;
        if !args.space.iter().any(|text| text.split(':').next() == Some(dlm)) {
            spaces += &format!("\n[[space]]\nname = {dlm:?}\norder = \"strict\"\nretain = {retain}\n");
        }
        let (engine, etcd) = match etcd {
            None => ("raft", String::new()),
            Some(endpoint) => ("etcd", format!("\n[coordinator.etcd]\nendpoints = [\"{endpoint}\"]\n")),
        };
        let mut chosen = BTreeMap::new();
        for (i, (name, socket)) in self.names.iter().zip(&tcp).enumerate() {
            let api = socket.local_addr().map_err(fail)?;
            chosen.insert(i, api);
            let text = format!(
                "# made by oarlock dev\n[node]\nname = \"{name}\"\napi = \"{api}\"\nsocket = \"oarlock.sock\"\n\
                 data_dir = \"data\"\nkey_file = \"node.key\"\n\n[cluster]\nname = \"dev\"\n\
                 secret_file = \"../{SECRET}\"\ncoordinator = \"{engine}\"\n\n[circuit]\noffload = {}\n{etcd}{members}{spaces}",
                !args.no_offload
            );
            let path = self.config(name);
            // What a node would refuse is better said before it starts. All but the lockspaces is our own, and
            // the file goes with us, so its line means nothing to anybody.
            Config::parse(&path, &text).map_err(|p| {
                let what = p.what.split_once(": ").map_or(p.what.as_str(), |(_, what)| what);
                Problem { code: Code::Usage, what: format!("--space: {what}"), ..p }
                    .try_next("--space NAME, --space NAME:passover or --space NAME:strict")
            })?;
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
    fn contents(&self) -> impl Iterator<Item = PathBuf> + use<> {
        contents(&self.dir)
    }

    fn remove_contents(&self) {
        remove_contents(&self.dir);
    }
}

fn contents(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let dir = dir.to_owned();
    let names = (b'a'..=b'z').map(|c| format!("node-{}", char::from(c)));
    names.chain([SECRET, harm::DOOR, etcd::DIR].map(String::from)).map(move |name| dir.join(name))
}

/// Everything but the marker, which goes last: what has no marker is nobody's.
fn remove_contents(dir: &Path) {
    for path in contents(dir) {
        let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
    }
}

/// Opens the marker, without following a link that somebody may have put there.
fn open_marker(dir: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(dir.join(MARKER))
}

fn lock(marker: &File) -> bool {
    rustix::fs::flock(marker, FlockOperation::NonBlockingLockExclusive).is_ok()
}

/// Whether the marker is still the one that others will find. Whoever held it may have removed it.
fn is_in(marker: &File, dir: &Path) -> bool {
    let (ours, there) = (marker.metadata(), fs::symlink_metadata(dir.join(MARKER)));
    matches!((ours, there), (Ok(ours), Ok(there)) if (ours.dev(), ours.ino()) == (there.dev(), there.ino()))
}

/// Removes what killed runs of this user left in a directory of temporary files: those that nobody chose a
/// directory for would never be cleared by a next run in the same one.
fn clear_leftovers(temp: &Path) {
    let me = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(temp).into_iter().flatten().flatten() {
        let named = entry.file_name().to_str().is_some_and(|n| n.starts_with(PREFIX));
        // Of the entry itself: a link is no directory.
        let mine = entry.metadata().is_ok_and(|m| m.is_dir() && m.uid() == me);
        if named
            && mine
            && let Ok(marker) = open_marker(&entry.path(), false)
            && lock(&marker)
            && is_in(&marker, &entry.path())
        {
            remove_contents(&entry.path());
            let _ = fs::remove_file(entry.path().join(MARKER));
            let _ = fs::remove_dir(entry.path());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Without it the directory was never ours: `claim` refused it.
        if self.marker.is_some() {
            self.remove_contents();
            let _ = fs::remove_file(self.dir.join(MARKER));
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
            coordinator: cli::Engine::Raft,
            harm: None,
        }
    }

    #[test]
    fn what_is_made_makes_sense_and_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("cluster");
        let place = Place::make(&args(&dir, 3)).unwrap();
        place.configure(&args(&dir, 3), None).unwrap();
        let configs: Vec<_> = place.names.iter().map(|n| Config::load(&place.config(n)).unwrap()).collect();
        for (i, config) in configs.iter().enumerate() {
            assert_eq!((usize::from(config.me.0), config.shared()), (i, configs[0].shared()));
            super::super::super::config::check_files(config).unwrap();
        }
        let spaces: Vec<&str> = configs[0].spaces.iter().map(|space| &*space.name).collect();
        assert_eq!(spaces, ["default", "orders", cli::DLM_SPACE]);
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

    /// What a run leaves that is killed: its files, and no lock.
    fn killed(dir: &Path) {
        let mut place = Place::make(&args(dir, 3)).unwrap();
        drop(place.marker.take());
        std::mem::forget(place);
    }

    #[test]
    fn the_directory_of_a_running_cluster_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::make(&args(dir.path(), 1)).unwrap();
        let problem = Place::make(&args(dir.path(), 1)).err().unwrap();
        assert!(problem.what.contains("another `oarlock dev` runs in"), "{problem}");
        assert!(place.key("node-a").exists() && dir.path().join(MARKER).exists());
        drop(place);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    /// Ended in one terminal and started in another: its nodes may still stop.
    #[test]
    fn a_directory_is_made_anew_if_the_run_that_is_waited_for_takes_it_away() {
        let parent = tempfile::tempdir().unwrap();
        let kept = tempfile::tempdir().unwrap();
        for dir in [&parent.path().join("cluster"), kept.path()] {
            let first = Place::make(&args(dir, 1)).unwrap();
            let ends = thread::spawn({
                let dir = dir.to_owned();
                move || {
                    thread::sleep(Duration::from_millis(200));
                    assert!(dir.join(MARKER).exists());
                    drop(first);
                }
            });
            let second = Place::make(&args(dir, 1)).unwrap();
            ends.join().unwrap();
            assert!(is_in(second.marker.as_ref().unwrap(), dir), "others see that it is locked");
            drop(second);
        }
        assert!(!parent.path().join("cluster").exists());
        assert_eq!(fs::read_dir(kept.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_killed_runs_left_among_temporary_files_is_cleared() {
        let temp = tempfile::tempdir().unwrap();
        let [left, used, other] =
            ["oarlock-dev-1", "oarlock-dev-2", "oarlock-dev-3"].map(|n| temp.path().join(n));
        killed(&left);
        let _running = Place::make(&args(&used, 1)).unwrap();
        fs::create_dir(&other).unwrap();
        clear_leftovers(temp.path());
        assert!(!left.exists());
        assert!(used.join("node-a").exists(), "it runs");
        assert!(other.exists(), "it has no marker, so it is not ours");
    }

    #[test]
    fn what_a_killed_run_left_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        killed(dir.path());
        let place = Place::make(&args(dir.path(), 2)).unwrap();
        assert!(!dir.path().join("node-c").exists());
        drop(place);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(dir.path().exists(), "it was there before us");
    }

    #[test]
    fn a_directory_too_deep_for_a_socket_is_refused_first() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("x".repeat(100));
        assert_eq!(Place::make(&args(&dir, 1)).err().unwrap().code, Code::SocketPathTooLong);
        assert!(!dir.exists());
    }
}
