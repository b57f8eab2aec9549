//! What must be true while views change: the same as always, of whoever lives, and of masters that know only half.

use oarlock_layout::flags::Flags;

use oarlock_layout::mode::Mode;
use oarlock_layout::segment::Words;

use super::show::letter;
use super::views::{Remains, Views};
use super::world::{Checked, Doing, Node, World, ensure};

impl World {
    /// Whoever grants has no record, or nobody grants and nobody who lives owns anything: block and all may go (33).
    pub(crate) fn is_gone(&self, views: &Views) -> bool {
        let grants = (0..self.nodes.len()).find(|at| {
            self.nodes[*at].space.is_open()
                && views.view_of(*at).is_some_and(|view| views.master_in(view.epoch) == *at)
        });
        if let Some(at) = grants {
            return self.nodes[at].space.probe_master(&self.resource).is_none();
        }
        let owns = |node| self.probe(node).is_some_and(|s| s.owned().is_some() && !s.forgetting());
        !(0..self.nodes.len()).any(owns)
    }

    /// What any master believes of a living run covers what that owns, from the moment it has heard of it; once it grants
    /// it has heard of all. What it believes stands side by side at every moment (rule 9, L11).
    pub(crate) fn check_believed_in(&self, views: &Views) -> Checked {
        for at in 0..self.nodes.len() {
            let Some(view) = views.view_of(at).filter(|_| views.serves(at)) else { continue };
            let space = &self.nodes[at].space;
            let master = space.probe_master(&self.resource);
            ensure!(
                master.is_none() || views.master_in(view.epoch) == at,
                "{} masters what another is master of",
                letter(at)
            );
            if views.master_in(view.epoch) != at {
                continue;
            }
            for member in &view.members {
                let node = usize::from(member.node.0);
                if views.run(node) != Some(member.incarnation) {
                    continue;
                }
                let record = master.and_then(|m| m.record(member.node));
                let held = record.and_then(|r| r.held());
                let shadow = self.probe(node);
                let owned = shadow.and_then(|s| s.owned());
                let forgetting = shadow.is_some_and(|s| s.forgetting()) && owned == Some(Mode::NL);
                if let Some(owned) = owned.filter(|_| !forgetting && (space.is_open() || record.is_some())) {
                    ensure!(
                        held.is_some_and(|held| held.covers(owned)),
                        "{} owns {owned}, its master believes {held:?}",
                        letter(node)
                    );
                }
                self.check_use(node, record.is_some_and(|r| r.uses_value()) || !space.is_open())?;
            }
            for (node, rec) in master.into_iter().flat_map(|m| m.records()) {
                for (other, beside) in master.into_iter().flat_map(|m| m.records()) {
                    let fits = match (rec.held(), beside.held()) {
                        (Some(a), Some(b)) => node >= other || a.compatible(b),
                        _ => true,
                    };
                    ensure!(fits, "the master believes {:?} beside {:?}", rec.held(), beside.held());
                }
            }
        }
        self.check_departed(views)?;
        self.check_local(views)
    }

    /// Nobody owns what does not go beside all that a run that left may still act under (L4).
    fn check_departed(&self, views: &Views) -> Checked {
        for Remains { run, modes, .. } in views.remains.iter().filter(|it| !it.fenced) {
            for node in (0..self.nodes.len()).filter(|node| views.serves(*node)) {
                let Some(owned) = self.probe(node).and_then(|shadow| shadow.owned()) else { continue };
                let beside = modes.iter().all(|mode| mode.compatible(owned));
                ensure!(
                    beside,
                    "{} owns {owned}, and run {} of {}, which left, may act under {modes:?}",
                    letter(node),
                    run.incarnation,
                    letter(run.node.0.into())
                );
            }
        }
        Ok(())
    }

    fn probe(&self, node: usize) -> Option<oarlock_lock::probe::ShadowProbe<'_>> {
        let Node { space, words, .. } = &self.nodes[node];
        space.probe_shadow(words, &self.resource)
    }

    /// Whoever uses the block was told of to the master (R5).
    fn check_use(&self, node: usize, known: bool) -> Checked {
        for (index, program) in self.programs.iter().enumerate().filter(|(_, p)| p.home == node) {
            if let Doing::Holds { flags, .. } = program.doing {
                ensure!(
                    known || !flags.contains(Flags::VALBLK),
                    "{} uses the value block and the master does not know",
                    self.name(index)
                );
            }
        }
        Ok(())
    }

    /// A recovery keeps nobody from what its node owns already (L11).
    fn check_local(&self, views: &Views) -> Checked {
        for node in (0..self.nodes.len()).filter(|node| views.serves(*node) && !self.nodes[*node].rung) {
            let Some(shadow) = self.probe(node) else { continue };
            let Some(first) = shadow.waiting().next() else { continue };
            let slow = first.flags().intersects(Flags::VALBLK | Flags::FRESH | Flags::QUECVT);
            if slow || shadow.forgetting() || shadow.head().is_some() {
                continue;
            }
            let word = self.nodes[node].words.look(self.slot(node).expect("a shadow has a slot"));
            let others = first.from().map_or(word.counts, |from| word.counts.without(from));
            let covered = shadow.owned().is_some_and(|owned| owned.covers(first.mode()));
            ensure!(
                !covered || !others.admits(first.mode()),
                "{} waits for {}, which {} owns and nobody there holds",
                self.name(first.lock().session().0 as usize - 1),
                first.mode(),
                letter(node)
            );
        }
        Ok(())
    }
}
