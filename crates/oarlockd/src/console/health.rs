//! How well a node is, matter by matter. The worst of them decides; a node that serves may still have a warning.

use std::time::Duration;

use oarlock_circuit::State;
use oarlock_layout::code::Code;
use oarlock_layout::id::SpaceId;
use oarlock_layout::limit::LEASE;
use oarlock_layout::message::form::Phase;
use oarlock_node::rights::Permit;
use rustix::process::{Resource, getrlimit};

use super::doc::{self, Grade, Matter};
use super::{Console, change};
use crate::coordinator::raft::Standing;
use crate::engine::Snapshot;

/// With less room than this the files of a node may not be written for much longer.
const ROOM_WARN: u64 = 512 << 20;
/// With less than this the next snapshot of the coordinator may not find room, and the node ends.
const ROOM_BAD: u64 = 32 << 20;
/// Of every hundred descriptors; each program that attaches takes two.
const DESCRIPTORS_WARN: u64 = 80;

/// For so long after a start nobody need have been heard yet, or lead: circuits are opened and a leader is elected in that time.
const STARTING: Duration = Duration::from_secs(5);
/// What the coordinator has kept is looked through when it is opened, all of it.
const OPENING: Duration = Duration::from_secs(60);

impl Console {
    /// The document; a wait counts as stuck after `stuck`, in the lockspaces that whoever asks may see.
    pub(super) async fn health(
        &self,
        stuck: Duration,
        permit: &Permit,
    ) -> Result<doc::Health, (Code, String)> {
        let snapshot = self.snapshot().await?;
        let mut matters = vec![
            serving(&snapshot),
            quorum(&snapshot),
            members(&snapshot),
            lease(&snapshot),
            circuits(&snapshot),
            fences(&snapshot),
            clock(&snapshot),
            disk(&self.config.data_dir),
            descriptors(),
        ];
        matters.push(self.waiting(stuck, permit).await);
        for (code, text) in &snapshot.status.problems {
            // What has a matter of its own is told there.
            let told = [Code::NotServing, Code::Refused, Code::Fenced, Code::Recovering, Code::MemberSilent];
            if !told.contains(code) {
                matters.push(Matter::new("others", Grade::Warn, *code, text.clone()));
            }
        }
        let worst = matters.iter().map(|it| it.grade).max().unwrap_or(Grade::Ok);
        Ok(doc::Health {
            v: doc::VERSION,
            node: snapshot.status.node.clone(),
            cluster: snapshot.status.cluster.clone(),
            grade: worst,
            matters,
        })
    }

    /// Who waits for very long.
    async fn waiting(&self, stuck: Duration, permit: &Permit) -> Matter {
        const WHAT: &str = "waits";
        let (mut waiting, mut old, mut oldest) = (0, 0, None::<(u64, String)>);
        let seen = (0..).map(SpaceId).zip(&self.config.spaces).filter(|(id, _)| permit.sees(*id));
        for (_, space) in seen {
            let locks = match self.locks(&space.name, true, None, permit).await {
                Ok(locks) => locks,
                Err((code, text)) => return Matter::new(WHAT, Grade::Warn, code, text),
            };
            for resource in &locks.resources {
                for waiter in &resource.waiters {
                    waiting += 1;
                    let age = waiter.age_us;
                    old += u64::from(Duration::from_micros(age) >= stuck);
                    if oldest.as_ref().is_none_or(|(before, _)| *before < age) {
                        oldest = Some((age, format!("{}/{}", space.name, resource.name)));
                    }
                }
            }
        }
        let longest = oldest.map_or(String::new(), |(age, name)| {
            format!(", for {} s at {name}", Duration::from_micros(age).as_secs())
        });
        match old {
            0 => Matter::fine(WHAT, format!("{waiting} waiting{longest}")),
            _ => {
                let text = format!("{old} wait for more than {} s{longest}", stuck.as_secs());
                Matter::new(WHAT, Grade::Warn, Code::WaitsStuck, text)
            }
        }
    }
}

impl Matter {
    fn new(matter: &str, grade: Grade, code: Code, found: impl Into<String>) -> Matter {
        Matter { matter: matter.into(), grade, code: Some(code.to_string()), found: found.into() }
    }

    fn fine(matter: &str, found: impl Into<String>) -> Matter {
        Matter { matter: matter.into(), grade: Grade::Ok, code: None, found: found.into() }
    }
}

fn serving(snapshot: &Snapshot) -> Matter {
    const WHAT: &str = "serving";
    let status = &snapshot.status;
    let reason = |codes: &[Code]| status.problems.iter().find(|(code, _)| codes.contains(code)).cloned();
    if status.phase != Phase::Serving {
        let none = || (Code::NotServing, format!("it is {}", status.phase.name()));
        let (code, text) = reason(&[Code::NotServing, Code::Refused, Code::Fenced]).unwrap_or_else(none);
        return Matter::new(WHAT, Grade::Bad, code, text);
    }
    if !status.open {
        let none = || (Code::Recovering, "locks are being recovered".into());
        let (code, text) = reason(&[Code::NotServing, Code::Recovering]).unwrap_or_else(none);
        return Matter::new(WHAT, Grade::Bad, code, text);
    }
    Matter::fine(WHAT, format!("locks are granted in view {}", status.epoch))
}

fn quorum(snapshot: &Snapshot) -> Matter {
    const WHAT: &str = "quorum";
    let standing = &snapshot.standing;
    let up = snapshot.now.since(snapshot.began);
    if *standing == Standing::default() && up < OPENING {
        return Matter::new(WHAT, Grade::Warn, Code::NotServing, "starting: the coordinator is not open yet");
    }
    let starts = |why: String| match up < STARTING {
        true => Matter::new(WHAT, Grade::Warn, Code::NotServing, format!("starting: {why}")),
        false => Matter::new(WHAT, Grade::Bad, Code::NoMajority, why),
    };
    if let Some(why) = change::undecidable(snapshot) {
        return starts(why);
    }
    if let Some(outside) = &standing.outside {
        return Matter::fine(WHAT, format!("etcd by {} answers", outside.endpoint));
    }
    let (heard, voters) = change::heard(snapshot);
    let text = format!("{heard} of {voters} voters heard");
    match standing.leader {
        None => starts(format!("nobody leads; {text}")),
        Some(_) if heard < voters => Matter::new(WHAT, Grade::Warn, Code::MemberSilent, text),
        Some(_) => Matter::fine(WHAT, text),
    }
}

fn members(snapshot: &Snapshot) -> Matter {
    let all = &snapshot.status.members;
    let out: Vec<&str> = all.iter().filter(|m| !m.in_view).map(|m| m.name.as_str()).collect();
    if out.is_empty() {
        return Matter::fine("members", format!("all {} are in the view", all.len()));
    }
    let text = format!("not in the view: {}", out.join(", "));
    Matter::new("members", Grade::Warn, Code::MemberSilent, text)
}

fn lease(snapshot: &Snapshot) -> Matter {
    const WHAT: &str = "lease";
    match snapshot.status.lease_left {
        None => Matter::new(WHAT, Grade::Bad, Code::NotServing, "this run has none"),
        // It is renewed when a quarter of it is over.
        Some(left) if left < LEASE / 2 => {
            let text = format!("{} ms are left; it is not renewed as it should be", left.as_millis());
            Matter::new(WHAT, Grade::Warn, Code::NoMajority, text)
        }
        Some(left) => Matter::fine(WHAT, format!("{} ms are left", left.as_millis())),
    }
}

fn circuits(snapshot: &Snapshot) -> Matter {
    const WHAT: &str = "circuits";
    let others = || snapshot.status.members.iter().filter(|m| !m.is_me);
    let refused = others().find_map(|m| match m.circuit.as_ref()?.state {
        State::Refused(code) => Some((code, format!("no circuit to {}", m.name))),
        _ => None,
    });
    if let Some((code, text)) = refused {
        return Matter::new(WHAT, Grade::Warn, code, text);
    }
    let silent: Vec<&str> = others().filter(|m| !m.heard).map(|m| m.name.as_str()).collect();
    match silent.is_empty() {
        true => Matter::fine(WHAT, format!("{} heard", others().count())),
        false => {
            let text = format!("not heard: {}", silent.join(", "));
            Matter::new(WHAT, Grade::Warn, Code::MemberSilent, text)
        }
    }
}

fn fences(snapshot: &Snapshot) -> Matter {
    let pending = snapshot.registry.as_ref().map_or(0, |registry| registry.fences().count());
    match pending {
        0 => Matter::fine("fences", "none is waited for"),
        n => Matter::new(
            "fences",
            Grade::Warn,
            Code::Recovering,
            format!("{n} runs that left are not fenced yet"),
        ),
    }
}

/// Stamps need room below what the members have acknowledged.
fn clock(snapshot: &Snapshot) -> Matter {
    let clock = &snapshot.status.clock;
    match clock.watermark {
        Some(high) => Matter::fine("clock", format!("stamp {}, watermark {}", clock.stamp, high.0)),
        None if snapshot.status.phase != Phase::Serving => {
            Matter::new("clock", Grade::Warn, Code::NotServing, "there is no watermark outside of a view")
        }
        None => Matter::new(
            "clock",
            Grade::Warn,
            Code::MemberSilent,
            "there is no watermark: not every member has told its own",
        ),
    }
}

fn disk(directory: &std::path::Path) -> Matter {
    const WHAT: &str = "disk";
    let shown = directory.display();
    let room = match rustix::fs::statvfs(directory) {
        Ok(it) => it.f_bavail.saturating_mul(it.f_frsize),
        Err(e) => return Matter::new(WHAT, Grade::Bad, Code::DataDir, format!("{shown}: {e}")),
    };
    let text = format!("{} MiB are free for {shown}", room >> 20);
    match room {
        0..ROOM_BAD => Matter::new(WHAT, Grade::Bad, Code::RoomLow, text),
        ROOM_BAD..ROOM_WARN => Matter::new(WHAT, Grade::Warn, Code::RoomLow, text),
        _ => Matter::fine(WHAT, text),
    }
}

fn descriptors() -> Matter {
    const WHAT: &str = "descriptors";
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let used = match std::fs::read_dir("/proc/self/fd") {
        Ok(all) => all.count() as u64,
        Err(e) => return Matter::new(WHAT, Grade::Bad, Code::OutOfDescriptors, e.to_string()),
    };
    let text = format!("{used} of {limit} are open");
    match used.saturating_mul(100) / limit.max(1) {
        DESCRIPTORS_WARN.. => Matter::new(WHAT, Grade::Warn, Code::OutOfDescriptors, text),
        _ => Matter::fine(WHAT, text),
    }
}
