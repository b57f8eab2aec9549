//! What a shadow has told its master, and when that must be said again (C4 record 3, C5, R10).

use oarlock_layout::message::lock::{Conv, Want};
use oarlock_layout::mode::Mode;

/// Master knowledge: what the master believes of this shadow, as far as the shadow can know.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Told {
    #[serde(default, skip_serializing_if = "oarlock_layout::written::is_default")]
    pub(crate) held: Option<Mode>,
    #[serde(default, skip_serializing_if = "oarlock_layout::written::is_default")]
    pub(crate) want: Want,
    /// A statement is known to be discarded: whatever is true must be said again.
    #[serde(default, skip_serializing_if = "oarlock_layout::written::is_default")]
    pub(crate) unsure: bool,
}

/// What was told of those who wait, here and elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wish {
    pub(crate) conv: Option<Conv>,
    pub(crate) busy: u64,
}

impl Told {
    /// Must (held, conv, busy, want) be said?
    ///
    /// That something is no longer busy or wanted is not news: the first follows from `held` or from the head
    /// having gone, the second costs an answer that nobody needs.
    pub(crate) fn differs(&self, held: Option<Mode>, want: Want, told: Wish, wish: Wish) -> bool {
        self.unsure
            || self.held != held
            || told.conv != wish.conv
            || (wish.busy != 0 && wish.busy != told.busy)
            || (want.value && !self.want.value)
            || (want.serial && !self.want.serial)
    }
}

/// Something that a statement carried and that counts only once the statement was applied.
///
/// The master applies statements in order until it makes a change of its own; those it hears after that are
/// discarded. So when the change arrives, saying "last statement heard: a", what was carried by a statement
/// up to `a` has been applied and what was carried later has been lost.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Carried<T> {
    sure: T,
    flying: Option<(u64, T)>,
}

impl<T> Carried<T> {
    /// The master knows this much.
    pub(crate) const fn new(sure: T) -> Carried<T> {
        Carried { sure, flying: None }
    }
}

impl<T: Copy + Default> Carried<T> {
    /// What the master will know once everything sent so far has arrived, if nothing is discarded.
    pub(crate) fn expected(&self) -> T {
        self.flying.map_or(self.sure, |(_, what)| what)
    }

    /// What the master knows for sure.
    pub(crate) fn sure(&self) -> T {
        self.sure
    }

    /// Statement `n` carries it.
    pub(crate) fn carry(&mut self, n: u64, what: T) {
        self.flying = Some((n, what));
    }

    /// A change of the master's own arrived: statements up to `a` were applied, later ones are lost.
    pub(crate) fn settle(&mut self, a: u64) {
        if let Some((n, what)) = self.flying.take()
            && n <= a
        {
            self.sure = what;
        }
    }

    /// The master said so itself.
    pub(crate) fn learn(&mut self, what: T) {
        self.sure = what;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_discarded_statement_carried_is_not_known() {
        let mut seq = Carried::<u64>::default();
        seq.carry(3, 9);
        assert_eq!((seq.sure(), seq.expected()), (0, 9));
        let mut lost = seq;
        lost.settle(2);
        assert_eq!((lost.sure(), lost.expected()), (0, 0));
        seq.settle(3);
        assert_eq!((seq.sure(), seq.expected()), (9, 9));
    }

    #[test]
    fn only_news_is_said() {
        let told = Told { held: Some(Mode::PR), ..Told::default() };
        let wish = |busy| Wish { conv: None, busy };
        let same = |busy, want| told.differs(Some(Mode::PR), want, wish(4), wish(busy));
        assert!(!same(4, Want::default()));
        assert!(!same(0, Want::default()), "no longer busy is not news");
        assert!(same(5, Want::default()));
        assert!(same(4, Want { serial: true, value: false }));
        assert!(told.differs(Some(Mode::CR), Want::default(), wish(4), wish(4)));
    }
}
