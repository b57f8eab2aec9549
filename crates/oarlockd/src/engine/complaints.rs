//! What members do wrong goes into the log, but not as often as they do it.

use std::collections::BTreeMap;

use oarlock_layout::time::{Duration, Instant};

/// A member is complained of at most this often.
const PAUSE: Duration = Duration::from_secs(1);

/// When each member was complained of last, and how often it gave cause since. Members are few.
#[derive(Debug, Default)]
pub(super) struct Complaints(BTreeMap<String, (Instant, u64)>);

impl Complaints {
    /// A member gives cause. Says how many causes were passed over in silence before this one, or nothing if this one
    /// is to be passed over too.
    pub(super) fn note(&mut self, now: Instant, member: &str) -> Option<u64> {
        match self.0.get_mut(member) {
            Some((last, silent)) if now < *last + PAUSE => {
                *silent += 1;
                None
            }
            Some((last, silent)) => {
                *last = now;
                Some(std::mem::take(silent))
            }
            None => {
                self.0.insert(member.into(), (now, 0));
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_complained_of_once_a_second_and_what_was_not_said_is_counted() {
        let mut complaints = Complaints::default();
        let at = |ms: u64| Instant::from_millis(10_000 + ms);
        assert_eq!(complaints.note(at(0), "b"), Some(0));
        assert_eq!([1, 999].map(|ms| complaints.note(at(ms), "b")), [None, None]);
        assert_eq!(complaints.note(at(999), "c"), Some(0));
        assert_eq!([1000, 1001, 2000].map(|ms| complaints.note(at(ms), "b")), [Some(2), None, Some(1)]);
    }
}
