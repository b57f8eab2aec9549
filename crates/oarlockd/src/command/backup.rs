//! `oarlock coord backup` and `coord restore`: a copy of what the coordinator keeps, and a cluster that begins anew from one.
//!
//! ```text
//!   backup    a node ──► its registry, as a file
//!   restore   the file, this member's configuration ──► raft.redb and state of its data directory, both of a new beginning
//! ```
//!
//! Restoring is done by every member for itself, without a word between them: from the same file all make the same beginning.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use oarlock_cluster::registry::{MemberRecord, Registry, VIEWS_SKIPPED};
use oarlock_layout::code::Code;
use oarlock_layout::id::{Epoch, NodeId};
use oarlock_layout::seal::PublicKey;
use xxhash_rust::xxh3::xxh3_64;

use super::cli::{Ask, Output, Restore};
use super::config::check_files;
use super::status::session;
use super::{hand, output};
use crate::config::Config;
use crate::console::doc::{self, Question};
use crate::coordinator::backup::{Backup, ClusterName, FILE_BYTES_MAX};
use crate::coordinator::{control, raft};
use crate::host::file;
use crate::host::state::{DataDir, State};
use crate::problem::{Problem, Result};

/// `oarlock coord backup`
pub fn take(path: &Path, here: bool, ask: &Ask) -> Result<()> {
    let taken = session(&ask.connect)?.document(&Question::Backup { here });
    let taken: doc::Backup = taken.map_err(|problem| match problem.code {
        Code::NoMajority => problem.try_next(
            "the same when a majority of the members runs; or with --here: what this node has, the newest there is if the others \
             are lost",
        ),
        _ => problem,
    })?;
    // An older backup is replaced by nothing that cannot be used.
    let bytes = unhex(&taken.hex).ok_or("it is not in hexadecimal digits".to_owned());
    let bytes = bytes.and_then(|bytes| Backup::read(&bytes).map(|_| bytes).map_err(|why| why.to_string()));
    let bytes = bytes.map_err(|why| {
        Problem::new(Code::SessionMalformed, "the node sent a backup that cannot be used").because(why)
    })?;
    if path == Path::new("-") {
        let mut out = io::stdout().lock();
        return out.write_all(&bytes).and_then(|()| out.flush()).map_err(|e| cannot_write(path, &e));
    }
    file::replace(path, &bytes, 0o600).map_err(|e| cannot_write(path, &e))?;
    if let form @ (Output::Json | Output::Yaml) = ask.format.output {
        let document = serde_json::json!({
            "v": doc::VERSION, "node": taken.node, "cluster_id": taken.cluster_id, "revision": taken.revision,
            "epoch": taken.epoch, "confirmed": taken.confirmed, "file": path, "bytes": bytes.len(),
        });
        return output::print_document(form, &document);
    }
    let doubt = match taken.confirmed {
        true => "",
        false => "; nobody else was asked, so something newer may have been decided",
    };
    output::say(format_args!(
        "{}: {} bytes, view {} of cluster {}, change {}, as {} has it{doubt}",
        path.display(),
        bytes.len(),
        taken.epoch,
        taken.cluster_id,
        taken.revision,
        taken.node,
    ));
    Ok(())
}

fn cannot_write(path: &Path, e: &io::Error) -> Problem {
    Problem::io(Code::Failed, format!("cannot write the backup to {}", path.display()), e)
        .try_next("a place with room; an older file there is as it was")
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// An engine whose keeper was killed a moment ago ends a moment later, and then lets its directory go.
const LET_GO_MAX: Duration = Duration::from_secs(2);

/// `oarlock coord restore`
pub fn restore(args: &Restore) -> Result<()> {
    let shown = args.file.display();
    let unusable =
        |why: String| Problem::new(Code::BackupUnusable, format!("{shown} cannot be used")).because(why);
    let backup = Backup::read(&read(&args.file)?).map_err(|why| unusable(why.to_string()))?;
    let config = Config::load(&args.config)?;
    if config.etcd.is_some() {
        return Err(Problem::new(
            Code::RestoreRefused,
            format!("the registry of {} is kept by etcd", config.name()),
        )
        .because("its members have nothing to put back; etcd has snapshots and a restore of its own")
        .try_next("keep etcd's own members and backups; nodes refuse one that was put back to something older than they have seen (OAR-1206)"));
    }
    let (chain, _) = check_files(&config)?;
    let me = member(&config, &PublicKey(chain.standing().current), &backup.registry).map_err(|why| unusable(why).try_next(
        "the backup of this cluster, and the configuration and key that the member had; a member that has lost its key \
         leaves the cluster and joins it anew",
    ))?;
    if !config.data_dir.exists() && args.sure.dry_run {
        let anew = anew(&backup, State::FIRST, args.above, &config)?;
        return output::print_text(&plan(&config, &backup, &anew, State::FIRST));
    }
    let mut data = DataDir::open_within(LET_GO_MAX, &config.data_dir).map_err(|problem| {
        match problem.why.starts_with("another node") {
            true => problem.try_next("stop every node of the cluster, then say it again"),
            false => problem,
        }
    })?;
    let state = data.state();
    let anew = anew(&backup, state, args.above, &config)?;
    let entered = anew.member(me).expect("it was found in the backup").entered;
    let after = State {
        incarnation: state.incarnation.max(entered),
        epoch: anew.view().epoch,
        ceiling: state.ceiling,
        restored: anew.restoration(),
    };
    let path = config.data_dir.join(control::FILE);
    if state == after {
        control::prepare(&path, false, state.restored)?;
        // It may have been cut short just before this.
        data.own()?;
        output::say(format_args!(
            "{} is restored from this file already: nothing is to be done",
            config.name()
        ));
        return Ok(());
    }
    refuse_what_goes_back(&config, state, &anew)?;
    let question = format!("begin anew at {}?", config.name());
    if !hand::agreed(&plan(&config, &backup, &anew, state), &question, &args.sure)? {
        return Ok(());
    }
    // In this order: the file of another beginning than `state` is refused, so a restore that was cut short is noticed.
    let kept = raft::begin_anew(&path, &anew).map_err(|why| {
        Problem::new(Code::CoordinatorFile, "the coordinator's file cannot be made; nothing was changed")
            .because(why)
    })?;
    data.store(after)?;
    data.own()?;
    if let Some(kept) = kept {
        output::say(format_args!("what it had before is kept as {}", kept.display()));
    }
    output::say(format_args!(
        "{} is restored. When the others are as well ({}), start them all; then take a new backup: this file is used up",
        config.name(),
        others(&config, &anew)
    ));
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let source: io::Result<Box<dyn Read>> = match path == Path::new("-") {
        true => Ok(Box::new(io::stdin())),
        false => std::fs::File::open(path).map(|file| Box::new(file) as Box<dyn Read>),
    };
    let mut bytes = Vec::new();
    let read = source.and_then(|source| source.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|e| {
        Problem::io(Code::BackupUnusable, format!("{} cannot be read", path.display()), &e)
            .try_next("the name of a file that `oarlock coord backup` has written")
    })
}

/// Which member of the backup this node is.
fn member(config: &Config, key: &PublicKey, registry: &Registry) -> std::result::Result<NodeId, String> {
    let name = config.name();
    let record = |holds: &dyn Fn(&&MemberRecord) -> bool| registry.members().find(holds);
    let Some(found) = record(&|m| m.is_known_by(key)) else {
        let cluster = ClusterName(registry);
        return Err(match record(&|m| m.name == name) {
            Some(_) => format!(
                "in it, {name} has another key: it is of another cluster ({cluster}), or of before this key"
            ),
            None => format!("it is of another cluster ({cluster}): {name} is no member of it"),
        });
    };
    if (found.node, found.name.as_str()) != (config.me, name) {
        return Err(format!(
            "in it, this node is {}, member {}; in {} it is {name}, member {}",
            found.name,
            found.node,
            config.path.display(),
            config.me
        ));
    }
    Ok(found.node)
}

/// The registry to begin with: the same at every member, whatever its directory remembers.
fn anew(backup: &Backup, state: State, above: u32, config: &Config) -> Result<Registry> {
    let before = backup.registry.view().epoch.0.max(above);
    let mut which = backup.sum.to_le_bytes().to_vec();
    which.extend(before.to_le_bytes());
    // Zero stands for the founding where it is kept.
    let restoration = xxh3_64(&which).max(1);
    backup.registry.anew(Epoch(above), restoration).map_err(|why| {
        let what = format!("{} cannot begin anew above view {}", config.name(), before.max(state.epoch.0));
        Problem::new(Code::RestoreRefused, what).because(why)
    })
}

/// Tokens never fall (R6): what begins must be above whatever this directory has seen.
fn refuse_what_goes_back(config: &Config, state: State, anew: &Registry) -> Result<()> {
    let dir = config.data_dir.display();
    if state.restored == anew.restoration() {
        return Err(Problem::new(Code::RestoreRefused, format!("{dir} was restored from this file before"))
            .because("it has been in use since: to begin with the same file again would repeat tokens")
            .try_next(format!(
                "a backup that was taken since; or, at every member: oarlock coord restore --above {} …; a member that only \
                 lost its disk while the others run is none to restore",
                state.epoch
            )));
    }
    if state.epoch >= anew.view().epoch {
        return Err(Problem::new(Code::RestoreRefused, format!("{dir} has seen view {}", state.epoch))
            .because(format!(
                "from this backup, views would begin above {}: tokens would be issued a second time",
                anew.view().epoch
            ))
            .try_next(format!("at every member: oarlock coord restore --above {} …", state.epoch)));
    }
    Ok(())
}

fn plan(config: &Config, backup: &Backup, anew: &Registry, state: State) -> String {
    let (name, from) = (config.name(), &backup.registry);
    let seen = match state {
        State::FIRST => format!("{} is new", config.data_dir.display()),
        _ => format!("{} has seen view {}", config.data_dir.display(), state.epoch),
    };
    format!(
        "backup of cluster {}: change {}, view {}, {} members\n\
         {seen}; views begin above {} ({VIEWS_SKIPPED} are left out, for what came after the backup)\n\
         What was decided after the backup is forgotten: members, marks, lockspaces. Join tokens are void.\n\
         Every member must be restored with this same file, or it is refused by the others: {name}, {}.\n\
         DANGER: start none of them before all nodes of before are stopped.",
        ClusterName(from),
        from.revision(),
        from.view().epoch,
        from.members().count(),
        anew.view().epoch,
        others(config, anew),
    )
}

fn others(config: &Config, registry: &Registry) -> String {
    let names: Vec<_> =
        registry.members().map(|m| m.name.as_str()).filter(|name| *name != config.name()).collect();
    if names.is_empty() { "there are no others".into() } else { names.join(", ") }
}
