//! What programs of libdlm get: through our stand-in for it, beside the Rust library.

use std::sync::Arc;
use std::time::Instant;

use oarlock::Mode;
use oarlock::blocking::Client;
use oarlock_dlm::server::How;
use oarlock_dlm::{Call, Event, Lockspace, Order, Turn, What};

use super::Setting;
use crate::cluster::{Cluster, DLM};
use crate::report::{Bound, Line};
use crate::rounds::{Contender, Failure, alternate};

type Space = Arc<Lockspace<()>>;

/// Names that are asked for before the first is given back: as many calls are under way at once.
const OUTSTANDING: usize = 1_000;
/// Pairs between two looks at the clock.
const BETWEEN_LOOKS: u32 = 16;

fn call(name: &[u8], flags: u32) -> Call<'_, ()> {
    let mode = Mode::EX as u32;
    Call { mode, flags, name, lkid: 0, value: None, notices: false, transaction: 0, timeout: None, user: () }
}

fn order(lkid: u32) -> Order<impl FnOnce(&mut ())> {
    Order { lkid, flags: 0, value: None, change: |_: &mut ()| () }
}

/// `dlm_ls_lock_wait` and `dlm_ls_unlock_wait`, as a C program calls them.
fn pair(space: &Space, name: &[u8]) -> bool {
    let turn = Turn::Call(&|_| ());
    let mut lkid = 0;
    let locked = space.lock_wait(call(name, 0), |id| lkid = id, turn);
    locked.is_ok_and(|report| report.status == 0) && space.unlock_wait(order(lkid), || (), turn).is_ok()
}

/// Nanoseconds that pass for each, as long as a window lasts: here one waits for a node.
fn passing(setting: &Setting, mut one: impl FnMut() -> bool) -> Result<Vec<f64>, Failure> {
    let (began, mut done) = (Instant::now(), 0u32);
    while began.elapsed() < setting.plan.window {
        if !(0..BETWEEN_LOOKS).all(|_| one()) {
            return Err("one of many failed".into());
        }
        done += BETWEEN_LOOKS;
    }
    Ok(vec![began.elapsed().as_nanos() as f64 / f64::from(done)])
}

/// A pair that the node owns, beside one that a program grants itself, and beside one by message.
pub(crate) fn pairs(setting: &Setting) -> Result<Vec<Line>, Failure> {
    let cluster = Cluster::lone(setting.cpus, 4 << 10)?;
    let space = enter(&cluster)?;
    let native = |shared| {
        let client = Client::builder().shared_memory(shared).connect(cluster.socket(0));
        client.and_then(|client| client.space(DLM)).map_err(|e| e.to_string())
    };
    let (shared, by_message) = (native(true)?, native(false)?);
    let rust = |space: &oarlock::blocking::Space| {
        space.lock("vg/owned").acquire().is_ok_and(|it| it.release().is_ok())
    };
    if !pair(&space, b"owned") || !rust(&shared) {
        return Err("the first pair failed".into());
    }
    let table = alternate(
        &setting.plan,
        &mut [
            Contender::new("libdlm", || passing(setting, || pair(&space, b"owned"))),
            Contender::new("shared memory", || passing(setting, || rust(&shared))),
            Contender::new("by message", || passing(setting, || rust(&by_message))),
        ],
    )?;
    let line =
        Line::new("covered dlm_ls_lock_wait and dlm_ls_unlock_wait", "ns", table.metric(0, 0).median, &table)
            .mode("uncontended")
            .against(
                "the same pair by the Rust library in shared memory",
                Some(table.metric(1, 0).median),
                Some(table.ratio((0, 0), (1, 0))),
            )
            .must(Bound::AtMost(3.0))
            .also("times_rust_by_message", table.ratio((0, 0), (2, 0)).median);
    Ok(vec![line])
}

fn enter(cluster: &Cluster) -> Result<Space, Failure> {
    let socket = cluster.socket(0);
    Lockspace::open_at(Some(&socket), b"vg", How::Create { exclusive: true })
        .map_err(|e| format!("a lockspace of libdlm: {e}"))
}

/// Names that nobody has locked before, many at once: locked, all answers heard, and given back.
pub(crate) fn fresh(setting: &Setting) -> Result<Vec<Line>, Failure> {
    let cluster = Cluster::lone(setting.cpus, 512 << 10)?;
    let space = enter(&cluster)?;
    let mut next = 0u64;
    let mut batch = || -> Result<(), Failure> {
        let mut ids = Vec::with_capacity(OUTSTANDING);
        for _ in 0..OUTSTANDING {
            next += 1;
            let name = format!("fresh/{next:013}");
            space.lock(call(name.as_bytes(), 0), |id| ids.push(id)).map_err(|e| e.to_string())?;
        }
        drain(&space)?;
        for id in ids {
            space.unlock(order(id), || ()).map_err(|e| e.to_string())?;
        }
        drain(&space)
    };
    let mut window = || -> Result<Vec<f64>, Failure> {
        let (began, mut done) = (Instant::now(), 0);
        while began.elapsed() < setting.plan.window {
            batch()?;
            done += OUTSTANDING;
        }
        Ok(vec![done as f64 / began.elapsed().as_secs_f64()])
    };
    let table = alternate(&setting.plan, &mut [Contender::new("fresh names", &mut window)])?;
    let rate = table.metric(0, 0).median;
    Ok(vec![Line::new("fresh names locked and given back by libdlm at one node", "names/s", rate, &table)])
}

/// Hears as many completions as there are calls under way.
fn drain(space: &Space) -> Result<(), Failure> {
    for _ in 0..OUTSTANDING {
        match space.wait_next(|| false) {
            Some(Event { what: What::Completed(report), .. }) if [0, EUNLOCK].contains(&report.status) => {}
            other => return Err(format!("{other:?} was told")),
        }
    }
    Ok(())
}

const EUNLOCK: i32 = oarlock_dlm::status::UNLOCKED;
