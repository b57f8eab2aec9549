//! A program that is stopped after each of its instructions.
//!
//! It is a fork of this process, so that its code lies where ours does and every run of it is the same. It maps the
//! segment anew (mappings do not pass through a fork), stops at a *mark*, and from there on goes as far as it is let.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use fork::Fork;
use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory, OpAccess, Register, UsedMemory};
use nix::libc::user_regs_struct;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use oarlock_shm::Memory;
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

use crate::slate;

/// Longest run between two marks.
const STEPS_MAX: usize = 1_000_000;

/// Stops this program, for whoever traces it to look.
pub(crate) fn mark() {
    raise(Signal::SIGSTOP).expect("a signal to ourselves");
}

/// A traced program.
pub(crate) struct Tracee {
    pid: Pid,
    /// Where the segment and the slate lie in the program.
    segment: (u64, u64),
    slate: (u64, u64),
}

/// What the next instruction does with the segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Touch {
    /// It looks at a cell, or writes it too.
    Cell {
        /// Which.
        cell: usize,
        /// It may write.
        writes: bool,
    },
    /// It looks at the clock.
    Clock,
    /// Nothing.
    None,
}

impl Tracee {
    /// Starts a program that does `what`, up to its first mark.
    pub(crate) fn start(slate: &slate::Slate, what: impl FnOnce()) -> Result<Tracee, String> {
        slate.clear();
        match fork::fork().map_err(|error| error.to_string())? {
            Fork::Child => {
                let _ = catch_unwind(AssertUnwindSafe(|| {
                    ptrace::traceme().expect("to be traced");
                    what();
                }));
                // It is expected to be killed at its last mark.
                std::process::abort()
            }
            Fork::Parent(pid) => {
                let mut tracee = Tracee { pid: Pid::from_raw(pid), segment: (0, 0), slate: (0, 0) };
                tracee.stopped()?.ok_or("it fell before its mark")?;
                ptrace::setoptions(tracee.pid, ptrace::Options::PTRACE_O_EXITKILL).map_err(text)?;
                tracee.segment = slate.range(slate::SEGMENT);
                tracee.slate = slate.range(slate::OWN);
                Ok(tracee)
            }
        }
    }

    /// Waits for its next stop: true at a mark. None if it fell.
    fn stopped(&mut self) -> Result<Option<bool>, String> {
        match waitpid(self.pid, None).map_err(text)? {
            WaitStatus::Stopped(_, Signal::SIGSTOP) => Ok(Some(true)),
            WaitStatus::Stopped(_, Signal::SIGTRAP) => Ok(Some(false)),
            _ => Ok(None),
        }
    }

    /// One instruction further. True if that was the mark.
    pub(crate) fn step(&mut self) -> Result<bool, String> {
        ptrace::step(self.pid, None).map_err(text)?;
        self.stopped()?.ok_or_else(|| "the stepped program fell".to_owned())
    }

    /// On until a stop. False if it came to its mark before.
    pub(crate) fn run_to(&mut self, stop: Stop) -> Result<bool, String> {
        for again in 0..=stop.nth {
            let there = stop.address as ptrace::AddressType;
            let code = ptrace::read(self.pid, there).map_err(text)?;
            ptrace::write(self.pid, there, code & !0xff | 0xcc).map_err(text)?;
            ptrace::cont(self.pid, None).map_err(text)?;
            if self.stopped()?.ok_or("the program fell on its way to a stop")? {
                return Ok(false);
            }
            ptrace::write(self.pid, there, code).map_err(text)?;
            let mut regs = ptrace::getregs(self.pid).map_err(text)?;
            regs.rip -= 1;
            ptrace::setregs(self.pid, regs).map_err(text)?;
            if again < stop.nth && self.step()? {
                return Ok(false);
            }
        }
        for _ in 0..stop.then {
            if self.step()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// On to the next mark.
    pub(crate) fn go_on(&mut self) -> Result<(), String> {
        ptrace::cont(self.pid, None).map_err(text)?;
        match self.stopped()? {
            Some(true) => Ok(()),
            _ => Err("the program fell on its way to its mark".into()),
        }
    }

    /// What its next instruction will do.
    pub(crate) fn touch(&self) -> Result<Touch, String> {
        self.next().map(|(_, touch)| touch)
    }

    /// Where its next instruction is, and what it will do.
    fn next(&self) -> Result<(u64, Touch), String> {
        let regs = ptrace::getregs(self.pid).map_err(text)?;
        let used = self.decoded(regs.rip)?;
        let mut touch = Touch::None;
        for used in used.iter() {
            let value = |register, _, _| Some(value(&regs, register));
            let Some(address) = used.try_virtual_address(0, value) else { continue };
            let reads = matches!(used.access(), OpAccess::Read | OpAccess::CondRead);
            if (self.segment.0..self.segment.1).contains(&address) {
                touch = Touch::Cell { cell: ((address - self.segment.0) / 8) as usize, writes: !reads };
            } else if (self.slate.0..self.slate.1).contains(&address) && touch == Touch::None {
                touch = Touch::Clock;
            }
        }
        Ok((regs.rip, touch))
    }

    /// What the instruction at an address uses. It is the same in every fork.
    fn decoded(&self, address: u64) -> Result<Rc<[UsedMemory]>, String> {
        thread_local! {
            static SEEN: RefCell<BTreeMap<u64, Rc<[UsedMemory]>>> = const { RefCell::new(BTreeMap::new()) };
        }
        if let Some(used) = SEEN.with_borrow(|seen| seen.get(&address).cloned()) {
            return Ok(used);
        }
        let mut code = Vec::with_capacity(16);
        for word in 0..2 {
            let bits = ptrace::read(self.pid, (address + 8 * word) as ptrace::AddressType).map_err(text)?;
            code.extend_from_slice(&bits.to_ne_bytes());
        }
        let instruction = Decoder::with_ip(64, &code, address, DecoderOptions::NONE).decode();
        let used: Rc<[UsedMemory]> = InstructionInfoFactory::new().info(&instruction).used_memory().into();
        SEEN.with_borrow_mut(|seen| seen.insert(address, Rc::clone(&used)));
        Ok(used)
    }

    /// Every instruction up to the next mark, and what it touched.
    pub(crate) fn trace(&mut self) -> Result<Vec<(Stop, Touch)>, String> {
        let mut times = BTreeMap::new();
        let mut trace: Vec<(Stop, Touch)> = Vec::new();
        for _ in 0..STEPS_MAX {
            let (address, touch) = self.next()?;
            let nth: &mut u32 = times.entry(address).or_default();
            let straight = Stop { address, nth: *nth, then: 0 };
            *nth += 1;
            // In a loop it is cheaper to stop before it and to go on by steps.
            let after = trace.last().map(|(last, _)| Stop { then: last.then + 1, ..*last });
            let stop = match after {
                Some(after) if after.cost() < straight.cost() => after,
                _ => straight,
            };
            trace.push((stop, touch));
            if self.step()? {
                return Ok(trace);
            }
        }
        Err("it does not come to its mark".into())
    }
}

/// Where to stop a program: before the instruction at an address when it comes for the nth time (from 0), and then so
/// many instructions further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stop {
    address: u64,
    nth: u32,
    then: u32,
}

impl Stop {
    /// In steps.
    fn cost(self) -> u32 {
        3 * self.nth + self.then
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(self.pid, Signal::SIGKILL);
        while let Ok(WaitStatus::Stopped(..)) = waitpid(self.pid, None) {}
    }
}

fn text(error: nix::Error) -> String {
    format!("ptrace: {error}")
}

fn value(regs: &user_regs_struct, register: Register) -> u64 {
    match register.full_register() {
        Register::RAX => regs.rax,
        Register::RBX => regs.rbx,
        Register::RCX => regs.rcx,
        Register::RDX => regs.rdx,
        Register::RSI => regs.rsi,
        Register::RDI => regs.rdi,
        Register::RBP => regs.rbp,
        Register::RSP => regs.rsp,
        Register::R8 => regs.r8,
        Register::R9 => regs.r9,
        Register::R10 => regs.r10,
        Register::R11 => regs.r11,
        Register::R12 => regs.r12,
        Register::R13 => regs.r13,
        Register::R14 => regs.r14,
        Register::R15 => regs.r15,
        Register::RIP => regs.rip,
        Register::FS => regs.fs_base,
        Register::GS => regs.gs_base,
        _ => 0,
    }
}

/// Says where the memory of this process lies.
pub(crate) fn range(memory: &Arc<Memory>) -> (u64, u64) {
    let range = memory.as_ptr_range();
    (range.start.addr() as u64, range.end.addr() as u64)
}

/// Stays on one processor, with every fork: tracer and traced take turns, and to change processors at each instruction
/// costs many times the instruction. Ends when dropped.
pub(crate) struct Stay(CpuSet);

pub(crate) fn stay() -> Stay {
    let before = sched_getaffinity(None).expect("the processors of this process");
    let mut one = CpuSet::new();
    one.set(sched_getcpu());
    sched_setaffinity(None, &one).expect("one of them");
    Stay(before)
}

impl Drop for Stay {
    fn drop(&mut self) {
        let _ = sched_setaffinity(None, &self.0);
    }
}
