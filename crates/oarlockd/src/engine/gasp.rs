//! The last word of this run: what its keeper says to the other members when the engine has died and nobody acts under its locks.

use oarlock_layout::time::Instant;

use super::Engine;
use crate::problem::Result;

impl Engine {
    /// Lays the last word down when this run is in a view, and again whenever the members are others than before: each view with a
    /// newcomer in it comes by here.
    pub(super) fn lay_down(&mut self, now: Instant) -> Result<()> {
        let members = self.p.node.status(now).members;
        let others: Vec<_> = members.iter().filter(|it| !it.is_me).map(|it| it.address).collect();
        let before = self.laid.replace(others.clone());
        if before.as_ref() == Some(&others) {
            return Ok(());
        }
        self.p.last_word.to = others;
        self.p.keeper.last_word(&self.p.last_word, &self.p.datagrams)
    }
}
