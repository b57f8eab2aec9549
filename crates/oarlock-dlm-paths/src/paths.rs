//! Which paths are answered, and what is written for them.
//!
//! ```text
//!   /sys/kernel/config/dlm/cluster/cluster_name                 the cluster's name
//!                                  comms/ID/nodeid, local       the members, counted from 1
//!                                  spaces/NAME/nodes/ID/nodeid  lockspaces that are open here, and where else
//!   /sys/kernel/debug/dlm/NAME_locks                            locks of this node's programs there
//! ```

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use oarlock::blocking::Client;
use serde_json::{Value, json};

const CONFIG: &[u8] = b"/sys/kernel/config/dlm";
const DEBUG: &[u8] = b"/sys/kernel/debug/dlm";
/// Where the answers are written.
const TREE: &str = "OARLOCK_DLM_TREE";
/// The lockspace of Oarlock in which those of libdlm live.
const SPACE: &str = "dlm";
const LOCKS: &str = "_locks";

/// Is this a path that a node answers? Nothing is allocated here: whatever else the program opens comes by.
pub(crate) fn is_ours(path: &[u8]) -> bool {
    let below = |base: &[u8]| path.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
    below(CONFIG) || below(DEBUG)
}

/// The file or directory with the answer; none if there is no such file, or nobody to ask.
pub(crate) fn answer(path: &[u8]) -> Option<PathBuf> {
    let tree = PathBuf::from(std::env::var_os(TREE)?);
    let (base, rest) = match (path.strip_prefix(CONFIG), path.strip_prefix(DEBUG)) {
        (Some(rest), _) => ("config", rest),
        (_, Some(rest)) => ("debug", rest),
        (None, None) => return None,
    };
    let parts: Vec<&str> =
        std::str::from_utf8(rest).ok()?.split('/').filter(|part| !part.is_empty()).collect();
    if parts.iter().any(|part| matches!(*part, "." | "..")) {
        return None;
    }
    // One at a time: what an older answer has not got must not be taken away behind a newer one.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let node = Node::new().ok()?;
    let root = own(&tree).ok()?.join(base);
    match base {
        "config" => node.config(&root, &parts),
        _ => node.debug(&root, &parts),
    }
    .ok()?;
    Some(root.join(OsStr::from_bytes(rest.strip_prefix(b"/").unwrap_or(rest))))
}

/// This process's part of the tree. What processes left that are no more is taken away.
fn own(tree: &Path) -> io::Result<PathBuf> {
    let mine = tree.join(std::process::id().to_string());
    if !mine.exists() {
        fs::create_dir_all(&mine)?;
        for entry in fs::read_dir(tree)?.flatten() {
            if !Path::new("/proc").join(entry.file_name()).exists() {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
    Ok(mine)
}

/// The node that is asked.
struct Node {
    client: Client,
}

impl Node {
    fn new() -> oarlock::Result<Node> {
        let builder = Client::builder().label("libdlm paths").shared_memory(false);
        Ok(Node { client: builder.connect_default()? })
    }

    fn ask(&self, question: &Value) -> io::Result<Value> {
        let answer = self.client.ask(&question.to_string()).map_err(io::Error::other)?;
        serde_json::from_str(&answer).map_err(io::Error::other)
    }

    fn config(&self, root: &Path, parts: &[&str]) -> io::Result<()> {
        let status = self.ask(&json!({"ask": "status"}))?;
        let cluster = root.join("cluster");
        write(&cluster.join("cluster_name"), &line(&status["cluster"]))?;
        let members = list(&status["members"]);
        let comms = cluster.join("comms");
        keep_only(&comms, &members.iter().map(|it| number(&it["id"])).collect::<Vec<_>>())?;
        for member in members {
            let dir = comms.join(number(&member["id"]));
            write(&dir.join("nodeid"), &format!("{}\n", number(&member["id"])))?;
            write(&dir.join("local"), if member["this"] == true { "1\n" } else { "0\n" })?;
        }
        let spaces = cluster.join("spaces");
        if parts.get(..2) != Some(&["cluster", "spaces"]) {
            return fs::create_dir_all(spaces);
        }
        let here = self.ask(&json!({"ask": "branch", "space": SPACE, "step": "list"}))?;
        let here: Vec<String> =
            list(&here["branches"]).iter().map(|it| text(&it["name"]).to_owned()).collect();
        keep_only(&spaces, &here)?;
        let Some(name) = parts.get(2).filter(|name| here.iter().any(|it| it == *name)) else {
            return Ok(());
        };
        let all = self.ask(&json!({"ask": "branches", "space": SPACE, "branch": name}))?;
        if !list(&all["unanswered"]).is_empty() {
            // Whoever counts the nodes must not count too few.
            return Err(io::Error::other("not all members have said whether it is open there"));
        }
        let nodes = spaces.join(name).join("nodes");
        let ids = list(&all["branches"]).iter().flat_map(|it| list(&it["nodes"])).map(|it| number(&it["id"]));
        let ids: Vec<String> = ids.collect();
        keep_only(&nodes, &ids)?;
        ids.iter().try_for_each(|id| write(&nodes.join(id).join("nodeid"), &format!("{id}\n")))
    }

    fn debug(&self, root: &Path, parts: &[&str]) -> io::Result<()> {
        fs::create_dir_all(root)?;
        let [file] = parts else { return Ok(()) };
        let Some(name) = file.strip_suffix(LOCKS) else {
            return Err(io::Error::other("nothing is known of such a file"));
        };
        let find = json!({"ask": "branch", "space": SPACE, "step": {"find": {"branch": name}}});
        self.ask(&find)?;
        let status = self.ask(&json!({"ask": "status"}))?;
        let locks = self.ask(&json!({"ask": "locks", "space": SPACE}))?;
        if !list(&locks["cut"]).is_empty() || !list(&locks["unanswered"]).is_empty() {
            return Err(io::Error::other("not all that is locked was told"));
        }
        write(&root.join(file), &locks_file(&status, &locks, &format!("{name}/")))
    }
}

const MODES: [&str; 6] = ["NL", "CR", "CW", "PR", "PW", "EX"];

/// The locks of this node's programs, as the kernel's file has them.
fn locks_file(status: &Value, locks: &Value, prefix: &str) -> String {
    let mut out = String::from(
        "id nodeid remid pid xid exflags flags sts grmode rqmode time_ms r_nodeid r_len r_name\n",
    );
    let mode = |value: &Value| MODES.iter().position(|it| value == it).map_or(-1, |at| at as i32);
    let node_of = |name: &Value| {
        let member = list(&status["members"]).iter().find(|it| it["node"] == *name && it["this"] != true);
        member.map_or("0".to_owned(), |it| number(&it["id"]))
    };
    for resource in list(&locks["resources"]) {
        let Some(name) = text(&resource["name"]).strip_prefix(prefix) else { continue };
        let master = node_of(&resource["master"]);
        let waiters = list(&resource["waiters"]);
        let mut row = |lock: &Value, state: u32, granted: i32, requested: i32| {
            if lock["node"] == status["node"] {
                let (pid, transaction) = (&lock["pid"], &lock["transaction"]);
                let waited_ms = lock["age_us"].as_u64().filter(|_| state != 2).unwrap_or(0) / 1000;
                let _ = writeln!(
                    out,
                    "{:x} {master} 0 {pid} {transaction} 0 0 {state} {granted} {requested} {waited_ms} {master} {} \"{name}\"",
                    id(text(&lock["lock"])),
                    name.len(),
                );
            }
        };
        for holder in list(&resource["holders"]) {
            if !waiters.iter().any(|it| it["lock"] == holder["lock"] && it["node"] == holder["node"]) {
                row(holder, 2, mode(&holder["mode"]), -1);
            }
        }
        for waiter in waiters {
            let held = mode(&waiter["held"]);
            row(waiter, if held < 0 { 1 } else { 3 }, held, mode(&waiter["wanted"]));
        }
    }
    out
}

/// A lock's id, `session.number`, in 32 bits.
fn id(lock: &str) -> u32 {
    let (session, number) = lock.split_once('.').unwrap_or(("0", lock));
    let part = |text: &str| text.parse::<u32>().unwrap_or(0);
    part(session).wrapping_mul(1 << 20).wrapping_add(part(number))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn line(value: &Value) -> String {
    format!("{}\n", text(value))
}

/// A node's number as such programs count them: from 1.
fn number(id: &Value) -> String {
    (id.as_u64().unwrap_or(0) + 1).to_string()
}

/// Directories of these names, and nothing else.
fn keep_only(dir: &Path, names: &[String]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for entry in fs::read_dir(dir)?.flatten() {
        if !names.iter().any(|name| entry.file_name() == name.as_str()) {
            // Another process may be at the same.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    names.iter().try_for_each(|name| fs::create_dir_all(dir.join(name)))
}

/// Writes a file whole, whoever reads it meanwhile.
fn write(path: &Path, text: &str) -> io::Result<()> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    if fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    let dir = path.parent().expect("a file in the tree");
    fs::create_dir_all(dir)?;
    let unique = format!(".{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    // Not in the directory itself: somebody may list that.
    let part = dir.with_file_name(unique);
    fs::write(&part, text)?;
    fs::rename(&part, path).inspect_err(|_| _ = fs::remove_file(&part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernels_two_directories_are_answered() {
        for path in
            ["/sys/kernel/config/dlm", "/sys/kernel/config/dlm/cluster", "/sys/kernel/debug/dlm/x_locks"]
        {
            assert!(is_ours(path.as_bytes()), "{path}");
        }
        for path in
            ["", "/", "/sys/kernel/config", "/sys/kernel/config/dlmx", "/etc/passwd", "sys/kernel/config/dlm"]
        {
            assert!(!is_ours(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn a_dump_has_the_locks_of_this_node_as_the_kernel_writes_them() {
        let status =
            json!({"node": "a", "members": [{"node": "a", "id": 0, "this": true}, {"node": "b", "id": 1}]});
        let lock = |node: &str, lock: &str, extra: Value| {
            let mut it = json!({"node": node, "lock": lock, "pid": 9, "transaction": 0, "age_us": 5_000});
            it.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            it
        };
        let locks = json!({"resources": [
            {"name": "vg/r", "master": "b", "holders": [lock("a", "1.2", json!({"mode": "PR"})), lock("b", "1.2", json!({"mode": "PR"}))],
             "waiters": [lock("a", "1.2", json!({"held": "PR", "wanted": "EX"})), lock("a", "1.3", json!({"held": null, "wanted": "EX"}))]},
            {"name": "vg/s", "master": "a", "holders": [lock("a", "2.1", json!({"mode": "EX"}))], "waiters": []},
            {"name": "vgx/r", "master": "a", "holders": [lock("a", "1.9", json!({"mode": "EX"}))], "waiters": []},
        ]});
        let file = locks_file(&status, &locks, "vg/");
        let rows: Vec<&str> = file.lines().skip(1).collect();
        assert_eq!(
            rows,
            [
                "100002 2 0 9 0 0 0 3 3 5 5 2 1 \"r\"",
                "100003 2 0 9 0 0 0 1 -1 5 5 2 1 \"r\"",
                "200001 0 0 9 0 0 0 2 5 -1 0 0 1 \"s\"",
            ]
        );
    }

    #[test]
    fn a_directory_has_just_what_it_is_to_have() {
        let dir = tempfile::tempdir().unwrap();
        let names = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        keep_only(dir.path(), &names(&["a", "b"])).unwrap();
        write(&dir.path().join("a/x/nodeid"), "1\n").unwrap();
        keep_only(dir.path(), &names(&["b", "c"])).unwrap();
        let mut found: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|it| it.unwrap().file_name().into_string().unwrap())
            .collect();
        found.sort();
        assert_eq!(found, ["b", "c"]);
        write(&dir.path().join("b/x"), "1\n").unwrap();
        write(&dir.path().join("b/x"), "2\n").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("b/x")).unwrap(), "2\n");
        assert_eq!(fs::read_dir(dir.path().join("b")).unwrap().count(), 1, "nothing else is left there");
    }
}
