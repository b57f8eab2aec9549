//! Keeps some resources alive by an NL lock, which is in nobody's way.

use std::time::Duration;

use oarlock::blocking::Guard;
use oarlock_layout::flags::Flags;
use oarlock_layout::mode::Mode;
use oarlock_sim::history::{Ask, Told};

use super::{Ended, Options, Phase, Phases, Session, resource, worker};
use crate::clock;
use crate::diary::Diary;

/// How many resources are kept.
const KEPT: u64 = 8;

pub(super) fn run(options: &Options, worker: u32, phases: &Phases) {
    let mut diary = options.diary(worker);
    while let Some(session) = Session::open(options, phases, &mut diary, "chaos anchor") {
        match keep(&session, phases, &mut diary) {
            Ok(()) => return,
            Err(Ended) => diary.lost(),
        }
    }
}

fn keep(session: &Session, phases: &Phases, diary: &mut Diary) -> Result<(), Ended> {
    let mut kept: Vec<(u32, Guard)> = Vec::new();
    while phases.now() != Phase::Drain {
        let rank = kept.len() as u64;
        if phases.now() == Phase::Work && rank < KEPT {
            let (space, name) = resource(rank);
            let ask =
                Ask::Lock { space, name: name.clone(), mode: Mode::NL, flags: Flags::VALBLK, timeout_ms: 0 };
            let at = worker::sure(diary, kept.iter().map(|(_, guard)| guard))?;
            let handle = diary.new_lock(at, ask);
            let request =
                session.spaces[usize::from(space)].lock(name.as_bytes()).mode(Mode::NL).value_block();
            match request.acquire() {
                Ok(guard) => {
                    let told = worker::granted(&guard);
                    let at = worker::sure(diary, [&guard])?;
                    diary.told(at, handle, told);
                    kept.push((handle, guard));
                }
                Err(error) => worker::refused(diary, None, handle, &error)?,
            }
        } else {
            worker::sure(diary, kept.iter().map(|(_, guard)| guard))?;
        }
        phases.sleep(Duration::from_millis(50));
    }
    for (handle, guard) in kept {
        let at = worker::sure(diary, [&guard])?;
        diary.asked(at, handle, Ask::Unlock { value: None, invalidate: false });
        match guard.release() {
            Ok(()) => diary.told(clock::now(), handle, Told::Released),
            Err(error) => worker::refused(diary, None, handle, &error)?,
        }
    }
    Ok(())
}
