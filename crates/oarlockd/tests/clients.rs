//! Programs that Debian ships for the kernel's lock manager, unmodified, over nodes of Oarlock: `dlm_tool`, and `lvmlockd` on two hosts that
//! share a volume group. `oarlock dlm run` is all that is done to them.
//!
//! They come with the packages `dlm-controld` and `lvm2-lockd`; where they are missing, or this is not root, what needs them is left out, and that
//! is said.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use support::solo::Solo;
use support::{Dev, Held, Said, until};

/// Where Cargo has put the libraries of the crates that this one is tested with.
fn libraries() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_owned()
}

fn there(program: &str) -> bool {
    let found = ["/usr/sbin", "/sbin", "/usr/bin"].iter().any(|dir| Path::new(dir).join(program).exists());
    if !found {
        eprintln!("left out: there is no {program} here");
    }
    found
}

/// `oarlock dlm run` at a node.
fn over(dev: &Dev, node: char) -> Command {
    let mut command = dev.at(node);
    command.env("XDG_RUNTIME_DIR", dev.dir.path()).env("OARLOCK_DLM_DEBUG", "1");
    command.args(["dlm", "run", "--libraries"]).arg(libraries()).arg("--");
    command
}

fn said(mut command: Command) -> Said {
    Said::of(command.output().unwrap())
}

/// Programs of any kind read the few files of the kernel that there are.
#[test]
fn the_kernels_files_are_answered_by_the_node() {
    let dev = Dev::start();
    let cat = |path: &str| {
        let mut command = over(&dev, 'b');
        command.args(["cat", path]);
        said(command)
    };
    let config = "/sys/kernel/config/dlm/cluster";
    assert_eq!(cat(&format!("{config}/cluster_name")).expect(0, &[]).out, "dev\n");
    let locals = [1, 2, 3].map(|id| cat(&format!("{config}/comms/{id}/local")).expect(0, &[]).out);
    assert_eq!(locals, ["0\n", "1\n", "0\n"], "node-b is the second");
    let nodes = |id: u32| cat(&format!("{config}/spaces/vg0/nodes/{id}/nodeid"));
    nodes(2).expect(1, &["No such file"]);
    for node in ['b', 'c'] {
        dev.run(node, &["dlm", "join", "vg0"]).expect(0, &[]);
    }
    assert_eq!(nodes(2).expect(0, &[]).out + &nodes(3).expect(0, &[]).out, "2\n3\n");
    nodes(1).expect(1, &["No such file"]);
    dev.run('c', &["dlm", "leave", "vg0"]).expect(0, &[]);
    nodes(3).expect(1, &["No such file"]);
    // Whoever counts nodes must not count too few: while one is silent there is no answer.
    support::signal(dev.pid('c'), "STOP");
    support::signal(dev.engine('c'), "STOP");
    nodes(2).expect(1, &["No such file"]);
    support::signal(dev.engine('c'), "CONT");
    support::signal(dev.pid('c'), "CONT");
    // Everything else is as it was.
    assert_eq!(cat("/etc/hostname").out, fs::read_to_string("/etc/hostname").unwrap_or_default());
    cat("/sys/kernel/config/dlmx").expect(1, &["No such file"]);
}

#[test]
fn what_cannot_be_run_is_said() {
    let mut other = Solo::new("");
    other.start();
    let mut command = other.at();
    command.args(["dlm", "run", "--libraries"]).arg(libraries()).args(["--", "true"]);
    said(command).expect(2, &["OAR-2202", "order = \"strict\""]);
    let dev = Dev::start();
    for (program, status) in [("/no/such/program", 127), ("/etc", 126)] {
        let mut command = over(&dev, 'a');
        command.arg(program);
        said(command).expect(status, &[program]);
    }
    let mut command = dev.at('a');
    command.args(["dlm", "run", "--libraries"]).arg(dev.dir.path()).args(["--", "true"]);
    command.env("XDG_RUNTIME_DIR", dev.dir.path());
    said(command).expect(1, &["libdlm_lt.so.3", "cargo build"]);
    let mut command = over(&dev, 'a');
    command.args(["sh", "-c", "exit 7"]);
    said(command).expect(7, &[]);
}

/// Scenario 65: `dlm_tool join`, `leave`, `joinleave` and `lockdump`.
#[test]
fn dlm_tool_joins_leaves_and_dumps() {
    if !there("dlm_tool") {
        return;
    }
    let dev = Dev::start();
    let tool = |words: &[&str]| {
        let mut command = over(&dev, 'a');
        command.arg("dlm_tool").args(words);
        said(command)
    };
    tool(&["join", "vg1"]).expect(0, &["Joining lockspace \"vg1\"", "done"]);
    dev.run('b', &["dlm", "ls"]).expect(0, &["vg1", "node-a"]);
    tool(&["joinleave", "vg2"]).expect(0, &["Leaving lockspace \"vg2\"", "done"]);
    let held = support::ask(&dev, 'a', "held", &["--space", "dlm", "vg1/x"]);
    until("it is in the dump", || tool(&["lockdump", "vg1"]).out.contains("gr EX rq IV"));
    let dump = tool(&["lockdump", "vg1"]).expect(0, &["\"x\""]).out;
    assert!(dump.contains(&format!("pid {} ", held.0.id())), "{dump}");
    drop(held);
    tool(&["leave", "vg1"]).expect(0, &["done"]);
    let said = dev.run('b', &["dlm", "ls", "-o", "json"]).expect(0, &[]).json();
    assert_eq!(said["branches"].as_array().unwrap().len(), 0);
}

/// A host of a storage cluster: a mount namespace of its own with its own `/run`, and a node of ours.
struct Host<'a> {
    dev: &'a Dev,
    node: char,
    keeper: Held,
}

/// A file as a disk that both have.
struct Disk(String);

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

impl Disk {
    fn new(dir: &Path) -> Option<Disk> {
        let image = dir.join("disk");
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let said = Said::of(Command::new("losetup").args(["--show", "-f"]).arg(image).output().ok()?);
        (said.status == Some(0)).then(|| Disk(said.out.trim().to_owned()))
    }
}

impl<'a> Host<'a> {
    fn new(dev: &'a Dev, node: char) -> Host<'a> {
        let mut command = Command::new("unshare");
        let make =
            "mount -t tmpfs none /run && mkdir -p /run/lvm /run/lock/lvm && echo ready && exec sleep 600";
        command.args(["-m", "--propagation", "private", "sh", "-c", make]).stdout(Stdio::piped());
        let mut keeper = Held(command.spawn().unwrap());
        let mut ready = [0; 6];
        keeper.0.stdout.as_mut().unwrap().read_exact(&mut ready).expect("root may make a mount namespace");
        Host { dev, node, keeper }
    }

    /// A command of this host.
    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-m", "-t", &self.keeper.0.id().to_string(), "env"]);
        command.arg(format!("OARLOCK_SOCKET={}", self.dev.socket(self.node).display()));
        command.arg("XDG_RUNTIME_DIR=/run").env("LVM_SYSTEM_DIR", self.dev.dir.path().join("lvm"));
        command.env("LVM_SUPPRESS_FD_WARNINGS", "1").stdin(Stdio::null());
        command
    }

    /// Starts `lvmlockd`, by its own name and nothing else.
    fn lvmlockd(&self) -> Held {
        let mut command = self.enter();
        command.arg(env!("CARGO_BIN_EXE_oarlock")).args(["dlm", "run", "--libraries"]).arg(libraries());
        command.args(["--", "lvmlockd", "-g", "dlm", "-A", "1", "-f", "-D"]);
        let log = fs::File::create(self.dev.dir.path().join(format!("lvmlockd-{}", self.node))).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let daemon = Held(command.spawn().unwrap());
        until("lvmlockd listens", || UnixStream::connect(self.socket()).is_ok());
        daemon
    }

    fn socket(&self) -> String {
        format!("/proc/{}/root/run/lvm/lvmlockd.socket", self.keeper.0.id())
    }

    fn run(&self, words: &[&str]) -> Said {
        let mut command = self.enter();
        command.args(["timeout", "60"]).args(words);
        said(command)
    }

    /// Asks `lvmlockd` for the lock of a logical volume, as `lvchange` would. Gives its result: 0, or -11 if somebody has it.
    fn volume(&self, mode: &str) -> i32 {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut ask = |text: &str| {
            stream.write_all(format!("{text}\n##\n").as_bytes()).unwrap();
            let mut answer = Vec::new();
            let mut byte = [0];
            while !answer.ends_with(b"\n##\n") {
                stream.read_exact(&mut byte).unwrap();
                answer.push(byte[0]);
            }
            String::from_utf8(answer).unwrap()
        };
        ask("request = \"hello\"\n");
        let answer = ask(&format!(
            "request = \"lock_lv\"\ncmd = \"test\"\npid = 1\nmode = \"{mode}\"\nopts = \"persistent\"\nvg_name = \"vg0\"\nlv_name = \"lv0\"\n\
             lv_uuid = \"{VOLUME}\"\nvg_lock_type = \"dlm\"\nvg_lock_args = \"1.0.0:dev\"\nlv_lock_args = \"dlm\"\n"
        ));
        let result = answer.lines().find_map(|line| line.strip_prefix("op_result = "));
        result.unwrap_or_else(|| panic!("{answer}")).parse().unwrap()
    }
}

const VOLUME: &str = "AAAAAA-AAAA-AAAA-AAAA-AAAA-AAAA-AAAAAA";

/// Two hosts share a volume group: each one's changes of its metadata wait for the other's, the lock of a volume outlives the daemon that took it and
/// excludes the other host, and a group that another host uses is not removed.
///
/// `lvcreate`, and the part of lvmlockd's adoption that looks which volumes are active, need the kernel's device mapper.
#[test]
fn lvmlockd_shares_a_volume_group_between_two_hosts() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("left out: only root may make disks and mount namespaces");
    }
    if !there("lvmlockd") {
        return;
    }
    let dev = Dev::start();
    let Some(disk) = Disk::new(dev.dir.path()) else { return eprintln!("left out: no loop devices here") };
    let lvm = dev.dir.path().join("lvm");
    fs::create_dir(&lvm).unwrap();
    let only = format!("[\"a|^{}$|\", \"r|.*|\"]", disk.0);
    let config = format!(
        "devices {{ scan = [\"/dev\"] use_devicesfile = 0 filter = {only} global_filter = {only} obtain_device_list_from_udev = 0 \
         external_device_info_source = \"none\" }}\nglobal {{ use_lvmlockd = 1 system_id_source = \"none\" use_lvmpolld = 0 }}\n\
         activation {{ udev_sync = 0 udev_rules = 0 monitoring = 0 }}\nbackup {{ backup = 0 archive = 0 }}\n"
    );
    fs::write(lvm.join("lvm.conf"), config).unwrap();
    let (a, b) = (Host::new(&dev, 'a'), Host::new(&dev, 'b'));
    let (daemon, _other) = (a.lvmlockd(), b.lvmlockd());
    a.run(&["pvcreate", &disk.0]).expect(0, &[]);
    a.run(&["vgcreate", "--shared", "vg0", &disk.0]).expect(0, &["vg0"]);
    b.run(&["vgchange", "--lock-start", "vg0"]).expect(0, &[]);
    until("both have joined", || dev.run('c', &["dlm", "ls"]).out.contains("node-a,node-b"));
    b.run(&["lvmlockctl", "-i"]).expect(0, &["LS dlm lvm_vg0", "LK VG un"]);

    // Both change the metadata, all the time. Without the lock one's change undoes the other's.
    std::thread::scope(|scope| {
        for host in [&a, &b] {
            scope.spawn(move || {
                for n in 0..6 {
                    host.run(&["vgchange", "--addtag", &format!("{}{n}", host.node), "vg0"]).expect(0, &[]);
                }
            });
        }
    });
    let tags = b.run(&["vgs", "--noheadings", "-o", "tags", "vg0"]).expect(0, &[]).out;
    let mut tags: Vec<&str> = tags.trim().split(',').collect();
    tags.sort_unstable();
    assert_eq!(tags, ["a0", "a1", "a2", "a3", "a4", "a5", "b0", "b1", "b2", "b3", "b4", "b5"]);

    // The lock of a volume stays when lvmlockd is killed: the volume is in use all the same.
    assert_eq!((a.volume("ex"), b.volume("sh")), (0, -11));
    a.run(&["lvmlockctl", "-i"]).expect(0, &["LK LV ex", VOLUME]);
    dev.run('c', &["locks", "ls", "--space", "dlm", "lvm_vg0/AAAAAA"]).expect(0, &["EX", "lvmlockd"]);
    drop(daemon);
    until("it is an orphan", || {
        dev.run('c', &["locks", "ls", "--space", "dlm", "lvm_vg0/AAAAAA"]).out.contains("orphan of lvmlockd")
    });
    assert_eq!(b.volume("sh"), -11);
    dev.run('a', &["locks", "purge", "--space", "dlm", "lvm_vg0/"]).expect(0, &["1 orphan given back"]);
    assert_eq!((b.volume("sh"), b.volume("un")), (0, 0));
    for space in ["lvm_vg0", "lvm_global"] {
        dev.run('a', &["dlm", "leave", space, "--force"]).expect(0, &[]);
    }
    a.run(&["rm", "-f", "/run/lvm/lvmlockd.adopt", "/run/lvm/lvmlockd.socket"]).expect(0, &[]);
    let _daemon = a.lvmlockd();
    a.run(&["vgchange", "--lock-start", "vg0"]).expect(0, &[]);
    until("both have joined again", || dev.run('c', &["dlm", "ls"]).out.contains("node-a,node-b"));

    // Whoever removes the group asks who else has it.
    a.run(&["vgremove", "-y", "vg0"]).expect(5, &["not stopped on other hosts"]);
    b.run(&["vgchange", "--lock-stop", "vg0"]).expect(0, &[]);
    a.run(&["vgremove", "-y", "vg0"]).expect(0, &["successfully removed"]);
    for host in [&a, &b] {
        host.run(&["lvmlockctl", "--stop-lockspaces"]).expect(0, &[]);
    }
    until("all is left", || !dev.run('c', &["dlm", "ls"]).out.contains("lvm_"));
}
