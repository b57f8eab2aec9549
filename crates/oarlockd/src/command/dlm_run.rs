//! `oarlock dlm run`: an unmodified program of libdlm's, over a node of Oarlock.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use oarlock_layout::code::Code;

use super::cli::{Connect, DLM_SPACE};
use super::{connect, output};
use crate::command::session::Session;
use crate::console::doc::{Question, Status};
use crate::problem::{Problem, Result};

/// What is put before a program: the name by which it is found, and what Cargo calls it where it builds it.
const LIBRARIES: [(&str, &str); 3] = [
    ("libdlm.so.3", "liboarlock_libdlm.so"),
    ("libdlm_lt.so.3", "liboarlock_libdlm_lt.so"),
    (PATHS, "liboarlock_dlm_paths.so"),
];
/// The one that is preloaded.
const PATHS: &str = "liboarlock-dlm-paths.so";
/// Where the answers to what the program opens are written.
const TREE: &str = "OARLOCK_DLM_TREE";

/// Becomes the program.
pub(super) fn run(libraries: Option<&Path>, to: &Connect, program: &[OsString]) -> Result<()> {
    let (socket, _) = connect::find(to.socket.as_deref())?;
    let socket = std::path::absolute(&socket)
        .map_err(|e| Problem::io(Code::Failed, "the directory in which this runs has no name", &e))?;
    has_space(&Session::open(&socket, "oarlock")?.document(&Question::Status)?)?;
    let mine = own_dir(&socket)?;
    let libraries = find(libraries, &mine)?;
    let preload = libraries.join(PATHS);
    if preload.as_os_str().as_bytes().iter().any(|b| b" :".contains(b)) {
        return Err(Problem::new(Code::Usage, format!("the libraries cannot be in {}", libraries.display()))
            .because("a list of libraries to preload is separated by spaces and colons")
            .try_next("--libraries with a directory that has neither in its name"));
    }
    let (name, arguments) = program.split_first().expect("clap asks for one");
    let error = Command::new(name)
        .args(arguments)
        .env(connect::VARIABLE, &socket)
        .env(TREE, mine.join("tree"))
        .env("LD_LIBRARY_PATH", before("LD_LIBRARY_PATH", libraries.as_os_str()))
        .env("LD_PRELOAD", before("LD_PRELOAD", preload.as_os_str()))
        .exec();
    let problem = Problem::io(Code::Failed, format!("cannot run {}", name.display()), &error);
    output::print_problem(&problem, super::cli::Output::Table);
    std::process::exit(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 });
}

/// A variable's list with something before what is there.
fn before(variable: &str, first: &OsStr) -> OsString {
    let mut list = first.to_owned();
    if let Some(rest) = env::var_os(variable).filter(|it| !it.is_empty()) {
        list.push(":");
        list.push(rest);
    }
    list
}

fn has_space(status: &Status) -> Result<()> {
    let found = status.spaces.iter().find(|space| space.name == DLM_SPACE);
    let next = format!(
        "[[space]] name = \"{DLM_SPACE}\" order = \"strict\" in every node's configuration, or `oarlock dev --space {DLM_SPACE}:strict`"
    );
    match found {
        None => Err(Problem::new(
            Code::UnknownSpace,
            format!("node {} has no lockspace {DLM_SPACE:?}", status.node),
        )
        .because("what programs of libdlm call lockspaces are parts of it")
        .try_next(next)),
        Some(space) if space.order != "strict" => {
            output::say(format_args!(
                "oarlock: lockspace {DLM_SPACE:?} grants in {} order, where libdlm's is strict; {next}",
                space.order
            ));
            Ok(())
        }
        Some(_) => Ok(()),
    }
}

/// A directory of this user's own for what its programs read of this node. They may be many, and outlive whoever starts them: it stays.
fn own_dir(socket: &Path) -> Result<PathBuf> {
    let mut hash = DefaultHasher::new();
    socket.hash(&mut hash);
    let top = connect::user_dir();
    let dirs = [top.clone(), top.join("dlm"), top.join(format!("dlm/{:016x}", hash.finish()))];
    for dir in &dirs {
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Problem::io(Code::Failed, format!("cannot make {}", dir.display()), &e));
            }
            _ if !connect::is_own(dir) => {
                return Err(Problem::new(Code::Failed, format!("{} is not this user's own", dir.display()))
                    .because("what programs read there is believed by them")
                    .try_next("set XDG_RUNTIME_DIR to a directory of yours"));
            }
            _ => {}
        }
    }
    let [.., mine] = dirs;
    Ok(mine)
}

fn find(given: Option<&Path>, mine: &Path) -> Result<PathBuf> {
    let has = |dir: &Path, name: fn(&(&'static str, &'static str)) -> &'static str| {
        LIBRARIES.iter().all(|it| dir.join(name(it)).is_file())
    };
    let here = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned()));
    let installed = here.as_ref().map(|here| here.join("../lib/oarlock/dlm"));
    let places = match given {
        Some(dir) => vec![dir.to_owned()],
        None => [installed, here].into_iter().flatten().collect(),
    };
    for dir in &places {
        let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.clone());
        if has(&dir, |it| it.0) {
            return Ok(dir);
        }
        if has(&dir, |it| it.1) {
            return linked(&dir, &mine.join("lib"));
        }
    }
    let names: Vec<&str> = LIBRARIES.iter().map(|it| it.0).collect();
    let shown: Vec<String> = places.iter().map(|dir| dir.display().to_string()).collect();
    Err(Problem::new(Code::Failed, "the libraries that stand in for libdlm are not found")
        .because(format!("{} are not all in {}", names.join(", "), shown.join(" or ")))
        .try_next(
            "`cargo build --profile clib -p oarlock-libdlm -p oarlock-libdlm-lt -p oarlock-dlm-paths`, and --libraries target/clib",
        ))
}

/// Where Cargo has built them they have other names.
fn linked(built: &Path, links: &Path) -> Result<PathBuf> {
    let link = |(name, cargo): (&str, &str)| {
        fs::create_dir_all(links)?;
        let (target, link) = (built.join(cargo), links.join(name));
        if fs::read_link(&link).is_ok_and(|there| there == target) {
            return Ok(());
        }
        let part = links.join(format!(".{name}-{}", std::process::id()));
        symlink(target, &part)?;
        fs::rename(part, link)
    };
    let made: io::Result<()> = LIBRARIES.into_iter().try_for_each(link);
    made.map_err(|e| Problem::io(Code::Failed, format!("cannot make links in {}", links.display()), &e))?;
    Ok(links.to_owned())
}
