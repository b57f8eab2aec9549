//! Fence before grant (I2): nothing of a node that left is granted to another run before every register has the fence on its
//! disk, and no write of a run that a register has promised to refuse changes it.
//!
//! It counts a lock as one that a departed run had if its client held it for certain at the moment when its session was lost. A run that
//! gave itself up, or that is in the view still, has not departed: what it had it has given back itself.

use std::collections::{BTreeMap, BTreeSet};

use oarlock_layout::mode::Mode;

use super::Findings;
use crate::history::{Client, Ledger, LockKey};

/// A lock that somebody had when its session was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Left {
    node: u16,
    run: u64,
    mode: Mode,
}

/// What registers have said and stored.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Highest run of each node that it has told somebody it refuses.
    promised: BTreeMap<u16, u64>,
    /// The same on its disk.
    stored: BTreeMap<u16, u64>,
}

/// What must have been fenced before which grant.
#[derive(Debug, Default)]
pub struct Fences {
    registers: Vec<Known>,
    left: BTreeMap<usize, Vec<Left>>,
    surrendered: BTreeSet<(u16, u64)>,
}

impl Fences {
    /// For so many registers, all of which protect every lockspace. With none there is nothing to check.
    pub fn new(registers: usize) -> Fences {
        Fences { registers: vec![Known::default(); registers], ..Fences::default() }
    }

    /// The session of a client is about to be lost with the run of its node.
    pub fn lost(&mut self, ledger: &Ledger, client: Client, run: u64) {
        for lock in ledger.locks_of(client).filter(|_| !self.registers.is_empty()) {
            if let Some(mode) = lock.certain() {
                self.left.entry(lock.resource).or_default().push(Left { node: lock.node, run, mode });
            }
        }
    }

    /// A run has given itself up: it needs no fence.
    pub fn surrendered(&mut self, node: u16, run: u64) {
        self.surrendered.insert((node, run));
    }

    /// A register says that it refuses a run, and all earlier ones of its node.
    pub fn promised(&mut self, register: usize, node: u16, run: u64) {
        raise(&mut self.registers[register].promised, node, run);
    }

    /// The same is on its disk.
    pub fn stored(&mut self, register: usize, node: u16, run: u64) {
        raise(&mut self.registers[register].stored, node, run);
    }

    /// A register has taken a write of a run.
    pub fn wrote(&self, at: u64, register: usize, node: u16, run: u64, findings: &mut Findings) {
        if covers(&self.registers[register].promised, node, run) {
            let text =
                format!("register {register} took a write of run {run} of node {node}, which it had fenced");
            findings.add("fence", at, text);
        }
    }

    /// A client has been granted something, and the ledger has it; it is at `run` of its node. `is_in` says which runs are in
    /// the newest view.
    pub fn granted(
        &mut self,
        at: u64,
        ledger: &Ledger,
        (key, run): (LockKey, u64),
        is_in: impl Fn(u16, u64) -> bool,
        findings: &mut Findings,
    ) {
        let Some((lock, mode)) = ledger.lock(key).and_then(|lock| Some((lock, lock.certain()?))) else {
            return;
        };
        let Some(left) = self.left.get_mut(&lock.resource) else { return };
        let unfenced =
            |it: &Left| self.registers.iter().position(|register| !covers(&register.stored, it.node, it.run));
        left.retain(|it| !self.surrendered.contains(&(it.node, it.run)) && unfenced(it).is_some());
        for it in left.iter().filter(|it| (it.node, it.run) != (lock.node, run) && !mode.compatible(it.mode))
        {
            if is_in(it.node, it.run) {
                continue;
            }
            let Left { node, run, mode: had } = *it;
            let register = unfenced(it).expect("the others are gone");
            let name = &ledger.resource(lock.resource).name;
            let text = format!(
                "{name:?} was granted in {mode} to client {} at node {} while run {run} of node {node}, which left \
                 with {had}, was not fenced on the disk of register {register}",
                key.0, lock.node
            );
            findings.add("fence", at, text);
        }
    }
}

fn covers(fences: &BTreeMap<u16, u64>, node: u16, run: u64) -> bool {
    fences.get(&node).is_some_and(|fenced| run <= *fenced)
}

fn raise(fences: &mut BTreeMap<u16, u64>, node: u16, run: u64) {
    let known = fences.entry(node).or_default();
    *known = (*known).max(run);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::script::parse as events;
    use crate::history::{Event, What};

    /// Plays `had`, loses client 11 (run 4 of node 1), and grants `then` to client 21 of node 2.
    fn finds(had: &str, then: &str, prove: impl Fn(&mut Fences), is_in: bool) -> Vec<String> {
        let (mut ledger, mut fences, mut findings) = (Ledger::default(), Fences::new(2), Findings::default());
        events(had).iter().for_each(|event| ledger.enter(event));
        fences.lost(&ledger, 11, 4);
        let how = crate::history::End::Lost;
        ledger.enter(&Event { at: 50, what: What::Ended { client: 11, how } });
        prove(&mut fences);
        for event in events(then) {
            ledger.enter(&event);
        }
        fences.granted(99, &ledger, ((21, 1), 9), |_, _| is_in, &mut findings);
        findings.into_vec().into_iter().map(|it| it.text).collect()
    }

    const HAD: &str = "11 lock x PR; 11 granted PR 1.1.0";
    const EX: &str = "21 lock x EX; 21 granted EX 2.1.1";

    #[test]
    fn rejects_a_grant_before_every_register_has_the_fence() {
        let nothing = |_: &mut Fences| {};
        let one = |fences: &mut Fences| fences.stored(0, 1, 4);
        let earlier = |fences: &mut Fences| (0..2).for_each(|register| fences.stored(register, 1, 3));
        let promised = |fences: &mut Fences| (0..2).for_each(|register| fences.promised(register, 1, 4));
        let found = finds(HAD, EX, nothing, false);
        assert!(found.len() == 1 && found[0].contains("run 4 of node 1, which left with PR"), "{found:?}");
        assert!(finds(HAD, EX, one, false)[0].contains("register 1"), "one of two is not enough");
        assert_eq!(finds(HAD, EX, earlier, false).len(), 1, "it was another run");
        assert_eq!(finds(HAD, EX, promised, false).len(), 1, "what is only said may be lost");
    }

    #[test]
    fn accepts_what_waits_for_the_fence_or_needs_none() {
        let nothing = |_: &mut Fences| {};
        let both = |fences: &mut Fences| (0..2).for_each(|register| fences.stored(register, 1, 5));
        assert_eq!(finds(HAD, EX, both, false), [""; 0]);
        assert_eq!(finds(HAD, EX, |fences| fences.surrendered(1, 4), false), [""; 0]);
        assert_eq!(finds(HAD, EX, nothing, true), [""; 0], "it is in, so it has given it back itself");
        assert_eq!(finds(HAD, "21 lock x CR; 21 granted CR 2.1.0", nothing, false), [""; 0], "compatible");
        assert_eq!(finds("11 lock x PR", EX, nothing, false), [""; 0], "it never had it");
        assert_eq!(finds(&format!("{HAD}; 11 unlock"), EX, nothing, false), [""; 0], "it had given it back");
    }

    #[test]
    fn rejects_a_write_that_was_promised_to_be_refused() {
        let (mut fences, mut findings) = (Fences::new(2), Findings::default());
        fences.promised(1, 2, 4);
        fences.wrote(1, 0, 2, 4, &mut findings);
        fences.wrote(2, 1, 2, 5, &mut findings);
        assert!(findings.is_empty());
        fences.wrote(3, 1, 2, 4, &mut findings);
        fences.wrote(4, 1, 2, 3, &mut findings);
        assert_eq!(findings.as_slice().len(), 2);
    }
}
