//! A cluster that begins anew from a copy of its registry, because the registry itself was lost.
//!
//! ```text
//!   copy taken              lost          begun anew
//!   ───┬──────────────────────┬──────────────┬───────────────►
//!    view 7   8, 9, …  run 12 │           view 7 + 1,024: every member is in, by a run that nobody has
//! ```
//!
//! What happened after the copy was taken nobody knows any more. So everything that only grows is set above whatever it may have
//! come to meanwhile: epochs, and with them tokens (R6); the numbers of runs; the cluster clock.

use alloc::format;

use oarlock_layout::id::{Epoch, Incarnation};
use oarlock_layout::limit::STAMPS_PER_VIEW;
use oarlock_layout::stamp::Stamp;
use oarlock_layout::view::{Member, View};

use super::command::Refusal;
use super::record::{Change, HISTORY_MAX};
use super::{Registry, fits};

/// Views that a cluster may have had since the copy was taken (R6). Of 2^20 epochs there are, a thousand beginnings use up
/// all; a cluster whose views change every hour has that many in six weeks.
pub const VIEWS_SKIPPED: u32 = 1 << 10;
/// Runs that a member may have begun since.
pub const RUNS_SKIPPED: u64 = 1 << 20;

impl Registry {
    /// The registry with which the cluster begins anew from this one, a copy. `above` is the highest epoch that anybody still
    /// knows of; `restoration` tells this beginning from every other one.
    ///
    /// Every member is in the view, by a run that is above all that it can have begun. Nobody has that run, so it is put out when
    /// its lease is over, as of any node that died; nobody is let in before that. So whoever still believes in a lease that he got
    /// before has lost it by then, and what must be proven of evicted runs (L4) is proven of those.
    ///
    /// Join tokens are void: they may have been used since.
    ///
    /// # Errors
    /// [`Refusal::NoCluster`], [`Refusal::EpochsExhausted`].
    pub fn anew(&self, above: Epoch, restoration: u64) -> Result<Registry, Refusal> {
        self.cluster.ok_or(Refusal::NoCluster)?;
        let before = self.view.epoch.max(above);
        let epoch = Epoch(before.0.saturating_add(VIEWS_SKIPPED));
        if !fits(epoch) {
            return Err(Refusal::EpochsExhausted);
        }
        let mut anew = self.clone();
        anew.revision = self.next_revision();
        anew.restoration = Some(restoration);
        anew.tokens.clear();
        // Also of those who have left: their ids may be given to others.
        for member in anew.members.values_mut() {
            member.entered = Incarnation(member.entered.0.saturating_add(RUNS_SKIPPED));
            (member.nonce, member.renewal, member.surrendered) = (None, 0, false);
            member.cut_off = None;
        }
        let members = anew.members().map(|m| Member { node: m.node, incarnation: m.entered }).collect();
        anew.view = View { epoch, members };
        let skipped = STAMPS_PER_VIEW.saturating_mul(VIEWS_SKIPPED.into());
        anew.floor = Stamp(self.watermark.0.saturating_add(skipped).min(Stamp::MAX.0));
        anew.watermark = Stamp((anew.floor.0 + STAMPS_PER_VIEW).min(Stamp::MAX.0));
        let note = Some(format!("begun anew from a backup of view {}", self.view.epoch));
        let entered = anew.view.members.clone();
        anew.history.push(Change { view: anew.view.clone(), out: alloc::vec![], entered, note });
        if anew.history.len() > HISTORY_MAX {
            anew.history.remove(0);
        }
        Ok(anew)
    }
}
