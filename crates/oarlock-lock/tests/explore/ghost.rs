//! What a watcher remembers who sees only requests and answers: each request gets one answer, answers are true,
//! blocks are the newest, tokens grow.

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::limit::VALUE_BYTES;
use oarlock_layout::message::lock::Conv;
use oarlock_layout::mode::Mode;
use oarlock_layout::token::Token;
use oarlock_layout::value::Value;
use oarlock_lock::Granted;

use super::world::{Checked, Doing, Fault, Program, block, ensure};

#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Ghost {
    /// Number of the last write, and whether it is to be believed. Write 0 is "never". After the death of a node that may
    /// have written it is one of several, until somebody is shown which.
    newest: Vec<(u8, bool)>,
    /// A node has died that may have written: until everybody has recovered the block may be marked, unless one of these
    /// programs keeps what no writer stands beside. With which write is the least that may be served then (44).
    witnesses: Option<(Vec<usize>, u8)>,
    /// Views are changing.
    unsettled: bool,
    /// The resource was gone at some moment since, and the block with it (33, R12).
    vanished: bool,
    written: u8,
    watches: Vec<Watch>,
    /// Largest token given, by mode.
    tokens: [Token; 6],
}

/// What is remembered of a program's request.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
struct Watch {
    /// Blocks that were the newest at some moment since the request was made.
    blocks: Vec<(u8, bool)>,
    /// At some moment since the request a try had a reason to fail (R2).
    busy: bool,
    /// At some moment since the request it was part of a conversion deadlock (D9).
    deadlocked: bool,
    cancelled: bool,
    releasing: bool,
}

impl Ghost {
    pub(crate) fn new(programs: usize) -> Ghost {
        Ghost {
            newest: vec![(0, true)],
            witnesses: None,
            unsettled: false,
            vanished: false,
            written: 0,
            watches: vec![Watch::default(); programs],
            tokens: [Token::default(); 6],
        }
    }

    // ----- requests -------------------------------------------------------------------------------------

    /// Bytes for the next write, which counts from now on.
    pub(crate) fn write(&mut self) -> [u8; VALUE_BYTES] {
        self.written += 1;
        self.vanished = false;
        self.begin(self.written);
        block(self.written)
    }

    /// This write is the newest, whatever was before. While a death is not settled it may come to be marked: whoever knows of
    /// it may give way before its node has restated, and nobody is left to tell.
    fn begin(&mut self, write: u8) {
        let mut newest = vec![(write, true)];
        if let Some((witnesses, known)) = &mut self.witnesses {
            *known = write;
            if witnesses.is_empty() {
                // Of a resource that came back the bytes of an earlier life may be all that is left to be marked.
                newest.extend((write..=self.written).map(|write| (write, false)));
                newest.sort_unstable();
            }
        }
        self.renew(newest);
    }

    /// A holder of PW or EX died (35).
    pub(crate) fn invalidate(&mut self) {
        // What was marked without ever having been written stays marked.
        let mut marked: Vec<(u8, bool)> =
            self.newest.iter().map(|(write, valid)| (*write, *valid && *write == 0)).collect();
        marked.sort_unstable();
        marked.dedup();
        if marked != self.newest {
            self.renew(marked);
        }
    }

    fn renew(&mut self, newest: Vec<(u8, bool)>) {
        self.newest = newest;
        for watch in &mut self.watches {
            watch.blocks.extend(&self.newest);
        }
    }

    // ----- views ----------------------------------------------------------------------------------------

    /// A node is dead. `owned`: it owned PW or EX; `unclear`: others may think so, or not know. `known`: the newest write
    /// that a survivor has.
    pub(crate) fn departed(
        &mut self,
        programs: &[Program],
        survivors: &[bool],
        owned: bool,
        unclear: bool,
        known: u8,
    ) {
        self.unsettled = true;
        let newest = self.newest.iter().map(|(write, _)| *write).max().unwrap_or(0);
        let written = newest > 0;
        let alive = || programs.iter().enumerate().filter(|(p, _)| survivors[*p]);
        if owned && written {
            self.witnesses = Some((Vec::new(), known));
            self.renew((known..=newest).map(|write| (write, false)).collect());
        } else if owned || unclear {
            let above = |p: &Program| p.doing.held().is_some_and(|held| !matches!(held, Mode::NL | Mode::CR));
            let witnesses: Vec<usize> = alive().filter(|(_, p)| above(p)).map(|(p, _)| p).collect();
            let known = self.witnesses.take().map_or(known, |(_, before)| before.min(known));
            self.witnesses = Some((witnesses, known));
            self.excuse_mark(programs, true);
        }
        let uses = |p: &Program| match p.doing {
            Doing::Holds { flags, .. } | Doing::Converts { held: flags, .. } => flags.contains(Flags::VALBLK),
            _ => false,
        };
        if unclear && !alive().any(|(_, p)| uses(p)) {
            // With the master and everybody who used it the block is gone as well (44).
            self.vanished |= written;
        }
    }

    /// Whoever kept the block from being in doubt keeps it no more.
    fn excuse_mark(&mut self, programs: &[Program], anew: bool) {
        let Some((witnesses, known)) = &mut self.witnesses else { return };
        if witnesses.is_empty() && !anew {
            return;
        }
        witnesses
            .retain(|p| programs[*p].doing.held().is_some_and(|held| !matches!(held, Mode::NL | Mode::CR)));
        if !witnesses.is_empty() {
            return;
        }
        let mut all = self.newest.clone();
        all.extend((*known..=self.written).map(|write| (write, false)));
        all.sort_unstable();
        all.dedup();
        if all != self.newest {
            self.renew(all);
        }
    }

    /// Programs whose node has entered a view are granted nothing by a master of an earlier one.
    pub(crate) fn entered(&mut self, there: &[bool]) {
        self.unsettled = true;
        for (watch, _) in self.watches.iter_mut().zip(there).filter(|(_, there)| **there) {
            if !watch.blocks.is_empty() {
                watch.blocks = self.newest.clone();
            }
        }
    }

    /// Everybody is in the newest view, and it is open: what is to be marked is marked.
    pub(crate) fn settled(&mut self) {
        self.unsettled = false;
        self.witnesses = None;
    }

    /// A program asks. `queued` are the wishes in the master's queue: one that was withdrawn counts until the
    /// master has heard of it, for a refusal can be as old as the slowest message.
    pub(crate) fn asked(&mut self, program: usize, programs: &[Program], queued: &[(usize, Conv)]) {
        self.watches[program] = Watch { blocks: self.newest.clone(), ..Watch::default() };
        self.excuse(program, programs, queued);
    }

    pub(crate) fn cancelled(&mut self, program: usize) {
        self.watches[program].cancelled = true;
    }

    pub(crate) fn ended(&mut self, program: usize) {
        self.watches[program] = Watch::default();
    }

    pub(crate) fn expect_release(&mut self, program: usize) {
        self.watches[program].releasing = true;
    }

    /// After each step: has a try met a reason to fail, a convert a deadlock? `gone`: the master has no record
    /// of the resource, which may happen only when nobody holds or wants a lock.
    pub(crate) fn after(&mut self, programs: &[Program], queued: &[(usize, Conv)], gone: bool) -> Checked {
        for program in 0..programs.len() {
            ensure!(!self.watches[program].releasing, "program {} unlocked and was not told", program + 1);
            self.excuse(program, programs, queued);
        }
        self.excuse_mark(programs, false);
        self.vanished |= gone && self.newest != [(0, true)];
        Ok(())
    }

    fn excuse(&mut self, program: usize, programs: &[Program], queued: &[(usize, Conv)]) {
        let Some((mode, _)) = programs[program].doing.asks() else { return };
        let from = programs[program].doing.held();
        let watch = &mut self.watches[program];
        for (_, p) in programs.iter().enumerate().filter(|(other, _)| *other != program) {
            watch.busy |=
                p.doing.held().is_some_and(|held| !held.compatible(mode)) || p.doing.asks().is_some();
            if let (Some(from), Doing::Converts { from: held, to, .. }) = (from, p.doing) {
                watch.deadlocked |= !to.compatible(from) || !held.compatible(mode);
            }
        }
        for (_, conv) in queued.iter().filter(|(node, _)| *node != programs[program].home) {
            watch.busy = true;
            watch.deadlocked |= from.is_some_and(|held| !conv.mode.compatible(held));
        }
    }

    // ----- answers --------------------------------------------------------------------------------------

    pub(crate) fn granted(&mut self, programs: &mut [Program], program: usize, granted: &Granted) -> Checked {
        let Some((wanted, flags)) = programs[program].doing.asks() else {
            return Err(Fault(format!(
                "program {} is granted {} and asks nothing",
                program + 1,
                granted.mode
            )));
        };
        let from = programs[program].doing.held();
        let alternate = [(Flags::ALTPR, Mode::PR), (Flags::ALTCW, Mode::CW)];
        let fits = if granted.alternate {
            alternate.iter().any(|(f, m)| flags.contains(*f) && *m == granted.mode)
        } else {
            granted.mode == wanted
        };
        ensure!(fits, "program {} asked {wanted} and is granted {}", program + 1, granted.mode);
        self.block(program, from, granted, flags)?;
        if from.is_none_or(|from| !from.covers(granted.mode)) {
            self.token(granted.mode, granted.token, flags.contains(Flags::FRESH))?;
        }
        let kept = match programs[program].doing {
            Doing::Converts { held, .. } => held,
            _ => flags,
        };
        programs[program].doing = Doing::Holds { mode: granted.mode, flags: kept };
        self.watches[program] = Watch::default();
        // The same step may refuse somebody because of this very grant.
        for other in 0..programs.len() {
            self.excuse(other, programs, &[]);
        }
        Ok(())
    }

    /// A block shown is one that was the newest at some moment of the request (26, 30, 32-35).
    fn block(&mut self, program: usize, from: Option<Mode>, granted: &Granted, flags: Flags) -> Checked {
        let reads = match from {
            None | Some(Mode::NL) => true,
            Some(Mode::PW) => granted.mode == Mode::EX,
            Some(Mode::EX) => false,
            Some(from) => granted.mode as u8 >= from as u8,
        };
        if !flags.contains(Flags::VALBLK) {
            return Ok(());
        }
        let known = &self.watches[program].blocks;
        let Some(Value { valid, bytes, .. }) = granted.value else {
            ensure!(!reads, "program {} reads the block and is shown none", program + 1);
            // On the way down from PR, CW or CR silence says that the block is to be believed (32).
            let believable = from.is_some_and(Mode::writes_value) || known.iter().any(|(_, valid)| *valid);
            ensure!(
                believable || self.vanished,
                "program {} goes down and is not told that the block is not to be believed",
                program + 1
            );
            return Ok(());
        };
        let shown = (bytes[0], valid);
        if self.vanished && shown == (0, true) && !known.contains(&shown) {
            self.vanished = false;
            self.begin(0);
            return Ok(());
        }
        ensure!(
            known.contains(&shown),
            "program {} is shown write {} ({}), but the newest was one of {known:?}",
            program + 1,
            shown.0,
            if valid { "valid" } else { "not valid" },
        );
        // Whoever holds a lock keeps what it has seen alive.
        if self.newest.contains(&shown) {
            self.vanished = false;
            if !self.unsettled && self.newest.len() > 1 {
                self.newest = vec![shown];
            }
        }
        Ok(())
    }

    /// What the next reader will be shown.
    pub(crate) fn may_be(&self, Value { valid, bytes, .. }: Value) -> Checked {
        let next = (bytes[0], valid);
        ensure!(
            self.newest.contains(&next) || (self.vanished && next == (0, true)),
            "the next to read is shown write {} ({}), but the newest is one of {:?}",
            next.0,
            if valid { "valid" } else { "not valid" },
            self.newest
        );
        Ok(())
    }

    /// Tokens of grants that exclude each other grow with every exclusive one (R6).
    pub(crate) fn token(&mut self, mode: Mode, token: Token, fresh: bool) -> Checked {
        for other in Mode::ALL.into_iter().filter(|other| !other.compatible(mode)) {
            let last = self.tokens[other as usize];
            let grows = if mode.exclusive() {
                token > last && (!fresh || token.fence > last.fence)
            } else {
                !other.exclusive() || token >= last
            };
            ensure!(grows, "{mode} is granted with token {token:?} after {other} with {last:?}");
        }
        let last = &mut self.tokens[mode as usize];
        *last = token.max(*last);
        Ok(())
    }

    pub(crate) fn failed(&mut self, programs: &mut [Program], program: usize, code: Code) -> Checked {
        let doing = programs[program].doing;
        let Some((mode, flags)) = doing.asks() else {
            return Err(Fault(format!("program {} is told {code:?} and asks nothing", program + 1)));
        };
        let watch = &self.watches[program];
        let convert = matches!(doing, Doing::Converts { .. });
        let local = flags.contains(Flags::LOCAL);
        let true_ = match code {
            Code::Cancelled => watch.cancelled,
            Code::Busy => (flags.contains(Flags::NOQUEUE) && watch.busy) || local,
            Code::NotOwned => local,
            Code::Deadlock => {
                convert && watch.deadlocked && !flags.intersects(Flags::NOQUEUE | Flags::NODLCKWT)
            }
            _ => false,
        };
        ensure!(true_, "program {} asked {mode} and is told {code:?}, which is not so", program + 1);
        programs[program].doing = match doing {
            Doing::Converts { from, held, .. } => Doing::Holds { mode: from, flags: held },
            _ => Doing::Nothing,
        };
        self.watches[program] = Watch::default();
        Ok(())
    }

    pub(crate) fn released(&mut self, program: usize) -> Checked {
        ensure!(self.watches[program].releasing, "program {} is told of a release", program + 1);
        self.watches[program] = Watch::default();
        Ok(())
    }
}
