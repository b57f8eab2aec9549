//! A worker: takes locks, holds them, changes their modes, gives them back; answers notices; survives daemons.

use std::time::{Duration, Instant};

use oarlock::blocking::Guard;
use oarlock::{Error, Kind};
use oarlock_layout::flags::Flags;
use oarlock_layout::mode::{Mode, join_option};
use oarlock_sim::history::{Ask, Block, Told};

use super::draw::{Change, Draw, Wish};
use super::{Ended, Options, Phase, Phases, Session, resource};
use crate::clock;
use crate::diary::Diary;

/// How long a worker looks at one thing before it looks at the phase again.
const LOOK: Duration = Duration::from_millis(30);
/// A node that refuses so many requests in a row gets a new session: it may have told this one its end.
const REFUSALS_MAX: u32 = 20;

/// A lock in hand.
struct Held {
    guard: Guard,
    handle: u32,
    rank: u64,
    values: bool,
    /// What the diary says others want, since the last grant.
    told: Option<Mode>,
    /// What goes into the value block when the lock is given back, and whether that is marked instead.
    staged: (Option<Box<Block>>, bool),
}

struct Worker<'a> {
    phases: &'a Phases,
    diary: &'a mut Diary,
    draw: &'a mut Draw,
    session: &'a Session,
    /// Its locks are entries of memory that it shares with its node.
    attached: bool,
    refusals: u32,
}

pub(super) fn run(options: &Options, worker: u32, phases: &Phases) {
    let mut diary = options.diary(worker);
    let number = options.number * 8 + worker;
    let mut draw = Draw::new(options.seed.wrapping_add(worker.into()), number);
    let label = format!("chaos {}.{worker}", options.number);
    while let Some(session) = Session::open(options, phases, &mut diary, &label) {
        let (diary, draw) = (&mut diary, &mut draw);
        let attached = options.attached;
        let mut worker = Worker { phases, diary, draw, session: &session, attached, refusals: 0 };
        match worker.work() {
            Ok(()) => return,
            Err(Ended) => worker.diary.lost(),
        }
    }
}

/// What a grant told.
pub(super) fn granted(guard: &Guard) -> Told {
    Told::Granted {
        mode: guard.mode(),
        token: Some(guard.token()),
        value: guard.value().map(Box::new),
        alternate: guard.is_alternate(),
    }
}

/// Whether a change to this mode shows the block (scenario 26). Another one that does not write shows it only if it is not
/// to be believed (32); a guard then still has what it saw before, and which of the two it is cannot be told from it.
/// So the diary leaves such changes out, and the simulator judges them.
fn reads(from: Mode, to: Mode) -> bool {
    // From CW to PR is upwards by the numbers of the modes (28).
    to.covers(from) || (from, to) == (Mode::CW, Mode::PR)
}

/// Looks whether these locks of a session are held still. Returns since when that is known: a moment before the look.
pub(super) fn sure<'g>(diary: &mut Diary, guards: impl IntoIterator<Item = &'g Guard>) -> Result<u64, Ended> {
    let at = clock::now();
    for guard in guards {
        if guard.lost_now().is_some() {
            return Err(Ended);
        }
        diary.looked(at);
    }
    Ok(at)
}

/// Writes a refusal down; an end of the session is none. `kept`: what is held all the same.
pub(super) fn refused(
    diary: &mut Diary,
    kept: Option<&Guard>,
    handle: u32,
    error: &Error,
) -> Result<(), Ended> {
    match error.kind() {
        Kind::Lost | Kind::NoDaemon => return Err(Ended),
        Kind::Malformed => panic!("{error}"),
        _ => {
            let at = sure(diary, kept)?;
            diary.failed(at, handle, error.code());
        }
    }
    Ok(())
}

impl Worker<'_> {
    /// Works until the end; waits out the polite phase.
    fn work(&mut self) -> Result<(), Ended> {
        while self.phases.now() == Phase::Work {
            self.episode()?;
            let pause = self.draw.micros(200, 25_000);
            self.phases.sleep(pause);
            if self.refusals >= REFUSALS_MAX {
                return Err(Ended);
            }
        }
        while self.phases.now() != Phase::Drain {
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// One lock from its request to its release, perhaps with another one inside.
    fn episode(&mut self) -> Result<(), Ended> {
        let wish = self.draw.wish(None);
        let Some(mut held) = self.acquire(wish, None)? else { return Ok(()) };
        match self.use_it(&mut held) {
            Ok(()) => self.release(held),
            Err(Ended) => Err(self.leave(held)),
        }
    }

    fn use_it(&mut self, held: &mut Held) -> Result<(), Ended> {
        self.hold(held, None)?;
        if self.working(250) {
            let wish = self.draw.wish(Some(held.rank));
            if let Some(mut inner) = self.acquire(wish, Some(&held.guard))? {
                self.hear(held);
                match self.hold(&mut inner, Some(held)) {
                    Ok(()) => self.release(inner)?,
                    Err(Ended) => return Err(self.leave(inner)),
                }
            }
            self.hear(held);
        }
        for permille in [400, 300] {
            if self.working(permille) {
                let change = self.draw.change(held.guard.mode());
                self.convert(held, change)?;
                self.hold(held, None)?;
            }
        }
        // In the polite phase a lock is given back only to whoever wants it.
        self.hold(held, None)
    }

    /// The session is over. What is in an entry is given back there all the same.
    fn leave(&mut self, held: Held) -> Ended {
        if self.attached {
            let (value, invalidate) = held.staged;
            self.diary.gave_back(held.handle, value, invalidate);
        }
        drop(held.guard);
        Ended
    }

    fn working(&mut self, permille: u64) -> bool {
        self.phases.now() == Phase::Work && self.draw.chance(permille)
    }

    fn acquire(&mut self, wish: Wish, outer: Option<&Guard>) -> Result<Option<Held>, Ended> {
        let Wish { rank, mode, flags, timeout_ms } = wish;
        let (space, name) = resource(rank);
        let mut request = self.session.spaces[usize::from(space)].lock(name.as_bytes()).mode(mode);
        if timeout_ms > 0 {
            request = request.timeout(Duration::from_millis(timeout_ms.into()));
        }
        let has = |flag: Flags| flags.contains(flag);
        if has(Flags::NOQUEUE) {
            request = if has(Flags::NOQUEUEBAST) { request.no_queue_notify() } else { request.no_queue() };
        }
        if has(Flags::VALBLK) {
            request = request.value_block();
        }
        if has(Flags::FRESH) {
            request = request.fresh();
        }
        if has(Flags::NOBAST) {
            request = request.no_notices();
        }
        if has(Flags::HEADQUE) {
            request = request.head_queue();
        }
        if has(Flags::NOORDER) {
            request = request.no_order();
        }
        if has(Flags::EXPEDITE) {
            request = request.expedite();
        }
        if has(Flags::ALTPR) {
            request = request.alternate(Mode::PR);
        }
        if has(Flags::ALTCW) {
            request = request.alternate(Mode::CW);
        }
        let at = sure(self.diary, outer)?;
        let handle = self.diary.new_lock(at, Ask::Lock { space, name, mode, flags, timeout_ms });
        let answer = if has(Flags::LOCAL) { request.try_acquire() } else { request.acquire() };
        match answer {
            Ok(guard) => {
                self.refusals = 0;
                let told = granted(&guard);
                let at = sure(self.diary, [&guard])?;
                self.diary.told(at, handle, told);
                let (values, told, staged) = (has(Flags::VALBLK), None, (None, false));
                Ok(Some(Held { guard, handle, rank, values, told, staged }))
            }
            Err(error) => {
                self.refused(outer, handle, &error)?;
                Ok(None)
            }
        }
    }

    fn refused(&mut self, kept: Option<&Guard>, handle: u32, error: &Error) -> Result<(), Ended> {
        self.refusals =
            if matches!(error.kind(), Kind::NotServing | Kind::Fenced) { self.refusals + 1 } else { 0 };
        refused(self.diary, kept, handle, error)?;
        if self.refusals > 0 {
            self.phases.sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Keeps the lock for a while, and hears notices about it and about the one around it.
    fn hold(&mut self, held: &mut Held, mut outer: Option<&mut Held>) -> Result<(), Ended> {
        let time = if self.draw.chance(30) {
            self.draw.micros(50_000, 400_000)
        } else {
            self.draw.micros(50, 15_000)
        };
        let mut until = Instant::now() + time;
        loop {
            match self.phases.now() {
                Phase::Work => {}
                Phase::Polite => {
                    if let Some(outer) = outer.as_mut() {
                        self.hear(outer);
                    }
                    let told = held.told.is_some() || outer.as_ref().is_some_and(|o| o.told.is_some());
                    until = if told { Instant::now() } else { Instant::now() + LOOK };
                }
                Phase::Drain => until = Instant::now(),
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let news = held.guard.wait_blocking(left.min(LOOK));
            sure(self.diary, [&held.guard])?;
            match news {
                Ok(Some(wanted)) => {
                    self.note(held, wanted);
                    if self.phases.now() == Phase::Work && self.draw.chance(600) {
                        until = until.min(Instant::now() + self.draw.micros(20, 5_000));
                    }
                }
                Ok(None) => {}
                Err(_) => return Err(Ended),
            }
        }
    }

    /// Takes up a notice that may have come.
    fn hear(&mut self, held: &mut Held) {
        if let Some(wanted) = held.guard.blocking_now() {
            self.note(held, wanted);
        }
    }

    /// The library joins notices, and one may have been sent before the last change of mode and be taken up
    /// after it; so only what is news goes into the diary.
    fn note(&mut self, held: &mut Held, wanted: Mode) {
        if !held.told.is_some_and(|told| told.covers(wanted)) {
            held.told = join_option(held.told, Some(wanted));
            self.diary.blocking(held.handle, wanted);
        }
    }

    fn convert(&mut self, held: &mut Held, change: Change) -> Result<(), Ended> {
        let Change { mode, mut flags, timeout_ms } = change;
        let from = held.guard.mode();
        let leaves = from.writes_value() && from.covers(mode);
        let (value, invalidate) = if leaves { self.write(held) } else { (None, false) };
        let mut conversion = held.guard.conversion(mode);
        if timeout_ms > 0 {
            conversion = conversion.timeout(Duration::from_millis(timeout_ms.into()));
        }
        if flags.contains(Flags::NOQUEUE) {
            conversion = match flags.contains(Flags::NOQUEUEBAST) {
                true => conversion.no_queue_notify(),
                false => conversion.no_queue(),
            };
        }
        if flags.contains(Flags::QUECVT) {
            conversion = conversion.queue_convert();
        }
        if flags.contains(Flags::HEADQUE) {
            conversion = conversion.head_queue();
        }
        if flags.contains(Flags::FRESH) {
            conversion = conversion.fresh();
        }
        let silent = !leaves && !reads(from, mode);
        // What the library adds by itself.
        if held.values && (value.is_some() || !leaves) && !silent {
            flags |= Flags::VALBLK;
        }
        if invalidate {
            flags |= Flags::IVVALBLK;
        }
        let at = sure(self.diary, [&held.guard])?;
        self.diary.asked(at, held.handle, Ask::Convert { mode, flags, timeout_ms, value });
        match conversion.convert() {
            Ok(()) => {
                held.told = None;
                if leaves {
                    held.staged = (None, false);
                }
                let mut told = granted(&held.guard);
                if let (Told::Granted { value, .. }, true) = (&mut told, silent) {
                    *value = None;
                }
                let at = sure(self.diary, [&held.guard])?;
                self.diary.told(at, held.handle, told);
            }
            Err(error) => self.refused(Some(&held.guard), held.handle, &error)?,
        }
        self.hear(held);
        Ok(())
    }

    /// Prepares a new value block, or an invalidation, for what comes next.
    fn write(&mut self, held: &mut Held) -> (Option<Box<Block>>, bool) {
        if !held.values || !held.guard.mode().writes_value() {
            return (None, false);
        }
        if held.staged != (None, false) {
            // It was put aside for a way down that was refused, and is so still.
            return held.staged.clone();
        }
        held.staged = match () {
            () if self.draw.chance(600) => {
                let block = self.draw.block();
                held.guard.set_value(&block[..]).expect("held in PW or EX, with a value block");
                (Some(block), false)
            }
            () if self.draw.chance(60) => {
                held.guard.invalidate_value().expect("held in PW or EX, with a value block");
                (None, true)
            }
            () => (None, false),
        };
        held.staged.clone()
    }

    fn release(&mut self, mut held: Held) -> Result<(), Ended> {
        let (value, invalidate) = self.write(&mut held);
        let at = match sure(self.diary, [&held.guard]) {
            Ok(at) => at,
            // What was put aside is written if there is an entry to give back.
            Err(Ended) if self.attached => self.diary.sure(),
            Err(Ended) => return Err(Ended),
        };
        self.diary.asked(at, held.handle, Ask::Unlock { value, invalidate });
        match held.guard.release() {
            Ok(()) => self.diary.told(clock::now(), held.handle, Told::Released),
            Err(error) => self.refused(None, held.handle, &error)?,
        }
        Ok(())
    }
}
