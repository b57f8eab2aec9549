//! What a caller does while the node's lease is at risk: it grants itself nothing new, and asks the node (L6).

use oarlock_layout::mode::Mode;
use oarlock_layout::segment::geometry::{entry, slot};

use super::{Caller, Clock, Vital};
use crate::cells::{exchange_grant, grant, state};
use crate::names::Spot;
use crate::outcome::{Hold, How, Loss, Party, Taken};
use crate::search::First;
use crate::sync::{LOOK, TAKE};

impl<C: Clock> Caller<C> {
    /// Is the lease at risk, or over? Nothing new is granted then.
    pub fn frozen(&self) -> bool {
        self.grants_at(self.vital(), self.clock.coarse()).is_err()
    }

    /// Why nothing is granted: the lease is at risk, or over.
    #[cold]
    pub(super) fn at_risk(&self, vital: Vital<'_>, now: u64) -> How {
        self.living_at(vital, now).map_or_else(How::Lost, |()| How::Frozen)
    }

    /// What came while the lease is at risk was given back. It is left to the node, which grants it once the lease is
    /// renewed. The gate is set first: nobody who comes by then is to overtake (M10).
    #[cold]
    #[inline(never)]
    pub(super) fn wait_for_renewal(&self, spot: Spot, mode: Mode, party: &Party, first: First) -> Taken {
        let line = self.memory.slot(spot.slot);
        let Some((own, number, trying)) = self.claim(spot, mode, party, first) else { return Taken::NoRoom };
        let word = &line[slot::WORD];
        loop {
            let now = grant(word);
            if line[slot::USERS].load(LOOK) & self.users == 0 {
                line[slot::USERS].fetch_or(self.users, TAKE);
                continue;
            }
            if state(&own[entry::STATE]) != trying {
                return self.turned_down(own, number, trying, mode, true);
            }
            if line[slot::GENERATION].load(LOOK) != spot.generation {
                self.free(own, trying);
                return Taken::Moved;
            }
            if self.vital().session.load(LOOK) != self.place.session_word {
                self.free(own, trying);
                return Taken::Lost(Loss::Session);
            }
            if now.gate() || now.shut() || exchange_grant(word, now, now.with_gate(true)).is_ok() {
                return self.wait(own, number, trying, mode);
            }
        }
    }

    /// A way up that came while the lease is at risk.
    #[cold]
    pub(super) fn lower_again(&self, hold: Hold, from: Mode, told: u64) -> Taken {
        match self.lower(hold, from) {
            Taken::Held { hold, knock } => {
                self.memory.own(self.area_line, hold.entry)[entry::TOLD].fetch_or(told, TAKE);
                Taken::Frozen { hold, knock }
            }
            Taken::Busy => Taken::Frozen { hold, knock: false },
            other => other,
        }
    }
}
