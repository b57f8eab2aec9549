//! What must be true in every state, and what must be true when nothing is under way.

use oarlock_layout::flags::Flags;
use oarlock_layout::id::NodeId;
use oarlock_layout::message::lock::Want;
use oarlock_layout::mode::Mode;
use oarlock_layout::segment::Words;
use oarlock_lock::Order;
use oarlock_lock::probe::{MasterProbe, ShadowProbe, WaitingProbe};

use super::show::letter;
use super::world::{Checked, Doing, Node, World, ensure};

impl World {
    fn master_node(&self) -> usize {
        self.views.as_ref().map_or(self.nodes.len() - 1, |views| views.master())
    }

    fn master(&self) -> Option<MasterProbe<'_>> {
        self.nodes[self.master_node()].space.probe_master(&self.resource)
    }

    fn shadow(&self, node: usize) -> Option<ShadowProbe<'_>> {
        let Node { space, words, .. } = &self.nodes[node];
        space.probe_shadow(words, &self.resource)
    }

    fn entry_of(&self, program: usize) -> Option<oarlock_layout::segment::Entry> {
        self.nodes[self.programs[program].home].words.entry(World::lock_of(program))
    }

    /// True in every state: exclusion, at three levels, each resting on the one below.
    pub(crate) fn check_always(&self) -> Checked {
        self.check_programs()?;
        self.check_owned()?;
        match &self.views {
            None => self.check_believed(),
            Some(views) => self.check_believed_in(views),
        }
    }

    /// What programs were told they hold is what is counted, and stands side by side.
    fn check_programs(&self) -> Checked {
        for (index, program) in self.programs.iter().enumerate() {
            let entry = self.entry_of(index).map(|e| e.mode);
            let held = program.doing.held();
            ensure!(entry == held, "{} was told it holds {held:?}, counted is {entry:?}", self.name(index));
            for (other, p) in self.programs.iter().enumerate().skip(index + 1) {
                let beside = match (held, p.doing.held()) {
                    (Some(a), Some(b)) => a.compatible(b),
                    _ => true,
                };
                ensure!(
                    beside,
                    "{} holds {held:?} beside {} with {:?}",
                    self.name(index),
                    self.name(other),
                    p.doing.held()
                );
            }
        }
        Ok(())
    }

    /// No two nodes own incompatible modes, and each owns what its programs hold.
    fn check_owned(&self) -> Checked {
        for node in 0..self.nodes.len() {
            let Some(slot) = self.slot(node) else { continue };
            let word = self.nodes[node].words.look(slot);
            let shadow = self.shadow(node).expect("a bound slot has a shadow");
            let owned = shadow.owned();
            ensure!(
                word.owned.is_none() || (owned.is_some() && owned.unwrap().covers(word.owned.unwrap())),
                "callers of {} may take up to {:?}, its shadow believes {owned:?}",
                letter(node),
                word.owned
            );
            if let Some(need) = word.counts.need() {
                ensure!(
                    owned.is_some_and(|owned| owned.covers(need)),
                    "programs of {} hold {need}, it owns {owned:?}",
                    letter(node)
                );
            }
            for other in node + 1..self.nodes.len() {
                let others = self.shadow(other).and_then(|s| s.owned());
                let beside = match (owned, others) {
                    (Some(a), Some(b)) => a.compatible(b),
                    _ => true,
                };
                ensure!(beside, "{} owns {owned:?} beside {} with {others:?}", letter(node), letter(other));
            }
        }
        Ok(())
    }

    /// What the master believes covers what is owned (rule 9), and stands side by side.
    fn check_believed(&self) -> Checked {
        let master = self.master();
        for node in 0..self.nodes.len() {
            let owned = self.shadow(node).and_then(|s| s.owned());
            let record = master.and_then(|m| m.record(NodeId(node as u16)));
            let held = record.and_then(|r| r.held());
            // While a record is being forgotten nobody is granted anything, and NL stands beside all.
            let forgetting = self.shadow(node).is_some_and(|s| s.forgetting()) && owned == Some(Mode::NL);
            if let Some(owned) = owned.filter(|_| !forgetting) {
                ensure!(
                    held.is_some_and(|held| held.covers(owned)),
                    "{} owns {owned}, its master believes {held:?}",
                    letter(node)
                );
            }
            for (other, rec) in master.into_iter().flat_map(MasterProbe::records) {
                let beside = match (held, rec.held()) {
                    (Some(a), Some(b)) => usize::from(other.0) <= node || a.compatible(b),
                    _ => true,
                };
                ensure!(beside, "the master believes {held:?} at {} beside {:?}", letter(node), rec.held());
            }
        }
        // The first use of the block is told before the grant completes (R5).
        for (index, program) in self.programs.iter().enumerate() {
            if let Doing::Holds { flags, .. } = program.doing
                && flags.contains(Flags::VALBLK)
            {
                let record = master.and_then(|m| m.record(NodeId(program.home as u16)));
                ensure!(
                    record.is_some_and(|r| r.uses_value()),
                    "{} uses the value block and the master does not know",
                    self.name(index)
                );
            }
        }
        Ok(())
    }

    /// True when nothing is under way.
    pub(crate) fn check_rest(&self, order: Order) -> Checked {
        self.check_agreement(order)?;
        self.check_waiting()?;
        self.check_notices()?;
        self.check_cycles()?;
        self.check_block()
    }

    /// The newest block is at whoever owns PW or EX, else at the master (R5): the next reader is shown that.
    fn check_block(&self) -> Checked {
        let writes = |node| self.shadow(node).and_then(|s| s.owned()).is_some_and(Mode::writes_value);
        match self.master() {
            Some(master) if !(0..self.nodes.len()).any(writes) => self.ghost.may_be(master.value()),
            _ => Ok(()),
        }
    }

    /// Master and shadow believe the same of each other (C4-C7, X5).
    fn check_agreement(&self, order: Order) -> Checked {
        let master = self.master();
        for node in 0..self.nodes.len() {
            let who = letter(node);
            let record = master.and_then(|m| m.record(NodeId(node as u16)));
            let Some(shadow) = self.shadow(node) else {
                ensure!(record.is_none(), "{who} has nothing and the master a record of it");
                continue;
            };
            ensure!(!shadow.forgetting(), "{who} waits for ever for its record to be forgotten");
            let (n, g, _) = shadow.numbers();
            let Some(record) = record else {
                ensure!(n == 0, "{who} has made {n} statements and the master has no record");
                continue;
            };
            let told = (shadow.told_held(), shadow.told_conv());
            let believed = (record.held(), record.conv());
            ensure!(told == believed, "{who} has told {told:?}, the master believes {believed:?}");
            ensure!(shadow.owned() == shadow.told_held(), "{who} owns {:?}", shadow.owned());
            ensure!(
                (g, n) == record.numbers(),
                "{who} counts {:?}, the master {:?}",
                (g, n),
                record.numbers()
            );
            ensure!(!shadow.unsure(), "{who} knows of a lost statement and does not repeat it");
            let quiet = shadow.told_want() == Want::default() && record.want() == Want::default();
            ensure!(quiet || record.conv().is_some(), "{who} has asked a question that is not answered");
            let head = master.and_then(|m| m.head()).filter(|(owner, _)| usize::from(owner.0) != node);
            let due = head.map(|(_, head)| head).filter(|head| match (order, record.held()) {
                (_, None) => false,
                (Order::Strict, Some(held)) => held != Mode::NL,
                (Order::Passover, Some(held)) => !held.compatible(head.mode),
            });
            ensure!(
                shadow.head() == due,
                "{who} knows of the head {:?}, it should of {due:?}",
                shadow.head()
            );
            ensure!(record.told() == due, "the master has told {who} of {:?}", record.told());
            let word = self.nodes[node].words.look(self.slot(node).expect("a shadow has a slot"));
            let open =
                shadow.head().is_none() && shadow.waiting().next().is_none() && shadow.owned().is_some();
            ensure!(word.gate != open, "the gate of {who} is {}", if word.gate { "set" } else { "open" });
            ensure!(word.owned == shadow.owned(), "callers of {who} may take up to {:?}", word.owned);
        }
        ensure!(!master.is_some_and(MasterProbe::recalling), "the master waits for ever for a block");
        Ok(())
    }

    /// Does some other program hold what conflicts with every mode that this one would take?
    fn really_blocked(&self, entry: WaitingProbe<'_>) -> bool {
        let program = entry.lock().session().0 as usize - 1;
        let blocked = |mode: Mode| {
            let holders = self.programs.iter().enumerate().filter(|(other, _)| *other != program);
            holders.filter_map(|(_, p)| p.doing.held()).any(|held| !held.compatible(mode))
        };
        blocked(entry.mode()) && entry.alternate().is_none_or(blocked)
    }

    /// Whoever waits has a real reason: a holder that conflicts, or a place behind somebody who has.
    fn check_waiting(&self) -> Checked {
        let master = self.master();
        for node in 0..self.nodes.len() {
            let Some(shadow) = self.shadow(node) else { continue };
            for (index, entry) in shadow.waiting().enumerate() {
                let program = entry.lock().session().0 as usize - 1;
                let asks = self.programs[program].doing.asks();
                ensure!(asks.is_some(), "{} is queued and asks nothing", self.name(program));
                ensure!(
                    !entry.flags().contains(Flags::NOQUEUE),
                    "the try of {} has no answer",
                    self.name(program)
                );
                if index > 0 {
                    continue;
                }
                let real = self.really_blocked(entry);
                let first = master.and_then(|m| m.head()).map(|(owner, _)| usize::from(owner.0));
                let behind = first.is_some_and(|first| first != node)
                    && master.is_some_and(|m| m.queue().any(|n| usize::from(n.0) == node));
                // A shadow keeps what a local convert waits for, or an entry that the master has granted: the head
                // stands behind it. But only while a program is really in the way of that one: two who keep for
                // each other's sake would wait for ever.
                let kept = (0..self.nodes.len()).filter(|other| *other != node).any(|other| {
                    self.shadow(other).is_some_and(|s| {
                        s.owned().is_some_and(|owned| !owned.compatible(entry.mode()))
                            && s.waiting().any(|e| self.really_blocked(e))
                    })
                });
                let waits = self.views.as_ref().is_some_and(|views| views.departed_may_use(entry.mode()));
                ensure!(
                    real || behind || kept || waits,
                    "{} waits for {} and nobody is in its way",
                    self.name(program),
                    entry.mode()
                );
            }
        }
        for (index, program) in self.programs.iter().enumerate() {
            if program.doing.asks().is_some() {
                let queued = self
                    .shadow(program.home)
                    .is_some_and(|s| s.waiting().any(|e| e.lock() == World::lock_of(index)));
                ensure!(queued, "{} has no answer and is not queued", self.name(index));
            }
        }
        Ok(())
    }

    /// Whoever blocks the first waiter of its own node, or the first of all, has been told so (57-59, I5).
    fn check_notices(&self) -> Checked {
        for node in 0..self.nodes.len() {
            let Some(first) = self.shadow(node).and_then(|s| s.waiting().next()) else { continue };
            for index in (0..self.programs.len()).filter(|index| self.programs[*index].home == node) {
                let Some(entry) = self.entry_of(index) else { continue };
                ensure!(
                    entry.claim.lock == first.lock()
                        || entry.mode.compatible(first.mode())
                        || entry.told.is_some_and(|told| told.covers(first.mode())),
                    "{} blocks {} of its own node and was told of {:?}",
                    self.name(index),
                    first.mode(),
                    entry.told
                );
            }
        }
        let Some((owner, head)) = self.master().and_then(MasterProbe::head) else { return Ok(()) };
        let Some(shadow) = self.shadow(usize::from(owner.0)) else { return Ok(()) };
        let Some(first) = shadow.waiting().next() else { return Ok(()) };
        let wanted = first.mode();
        for index in 0..self.programs.len() {
            let Some(entry) = self.entry_of(index) else { continue };
            if entry.claim.lock != first.lock() && !entry.mode.compatible(wanted) {
                ensure!(
                    entry.told.is_some_and(|told| told.covers(wanted)),
                    "{} blocks {} and was told of {:?}; the head wants {}",
                    self.name(index),
                    wanted,
                    entry.told,
                    head.mode
                );
            }
        }
        Ok(())
    }

    /// Nobody waits for himself: a cycle over converts has been broken (D9).
    fn check_cycles(&self) -> Checked {
        let count = self.programs.len();
        // `waits[p]`: programs that must move before p can.
        let mut waits = vec![vec![false; count]; count];
        for (p, asking) in self.programs.iter().enumerate() {
            let Some((mode, flags)) = asking.doing.asks() else { continue };
            if flags.contains(Flags::NODLCKWT) {
                continue;
            }
            for (other, holder) in self.programs.iter().enumerate().filter(|(other, _)| *other != p) {
                waits[p][other] |= holder.doing.held().is_some_and(|held| !held.compatible(mode));
            }
            let home = asking.home;
            let Some(shadow) = self.shadow(home) else { continue };
            // Behind those of its own node, and behind the firsts of the nodes ahead of its own.
            let mut ahead = shadow.waiting().take_while(|e| e.lock() != World::lock_of(p)).peekable();
            let is_first = ahead.peek().is_none();
            ahead.for_each(|e| waits[p][e.lock().session().0 as usize - 1] = true);
            if let Some(master) = self.master().filter(|_| is_first) {
                let queue: Vec<usize> = master.queue().map(|n| usize::from(n.0)).collect();
                let place = queue.iter().position(|n| *n == home).unwrap_or(0);
                for node in &queue[..place] {
                    if let Some(first) = self.shadow(*node).and_then(|s| s.waiting().next()) {
                        waits[p][first.lock().session().0 as usize - 1] = true;
                    }
                }
            }
        }
        for k in 0..count {
            for i in 0..count {
                for j in 0..count {
                    waits[i][j] |= waits[i][k] && waits[k][j];
                }
            }
        }
        let stuck = (0..count).find(|p| waits[*p][*p]);
        ensure!(stuck.is_none(), "{} waits for itself", self.name(stuck.unwrap()));
        Ok(())
    }
}
