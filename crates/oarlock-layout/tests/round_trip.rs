//! What is written is read back, and what can be read was written so: there is one encoding of each message.

mod any;

use std::fmt::Debug;

use oarlock_layout::codec::Wire;
use oarlock_layout::message::peer::PeerMessage;
use oarlock_layout::message::session::{Reply, Request};
use proptest::prelude::*;

/// There and back; cut short anywhere it is refused, and so is a byte too many.
fn check<T: Wire + PartialEq + Debug>(message: &T) -> Result<(), TestCaseError> {
    let mut bytes = message.to_bytes();
    let back = T::from_bytes(&bytes);
    prop_assert_eq!(back.as_ref(), Ok(message));
    for cut in [0, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1] {
        prop_assert!(T::from_bytes(&bytes[..cut]).is_err(), "cut at {} of {}", cut, bytes.len());
    }
    bytes.push(0);
    prop_assert!(T::from_bytes(&bytes).is_err(), "a byte too many");
    Ok(())
}

/// Changed bytes are refused, or they are the encoding of what they decode to.
fn check_changed<T: Wire>(message: &T, changes: &[(usize, u8)]) -> Result<(), TestCaseError> {
    let mut bytes = message.to_bytes();
    for (at, byte) in changes {
        let len = bytes.len();
        bytes[at % len] = *byte;
    }
    if let Ok(other) = T::from_bytes(&bytes) {
        prop_assert_eq!(other.to_bytes(), bytes, "two encodings of one message");
    }
    Ok(())
}

fn changes() -> impl Strategy<Value = Vec<(usize, u8)>> {
    proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4)
}

proptest! {
    #[test]
    fn lock_messages_round_trip(m in any::packet()) { check(&m)?; }

    #[test]
    fn barriers_round_trip(m in any::barrier()) { check(&m)?; }

    #[test]
    fn reports_round_trip(m in any::report()) { check(&m)?; }

    #[test]
    fn calls_of_coordinators_round_trip(m in any::call(), changes in changes()) {
        check(&m)?;
        check_changed(&m, &changes)?;
    }

    #[test]
    fn answers_of_coordinators_round_trip(m in any::answer(), changes in changes()) {
        check(&m)?;
        check_changed(&m, &changes)?;
    }

    #[test]
    fn questions_round_trip(m in any::look()) { check(&m)?; }

    #[test]
    fn answers_round_trip(m in any::seen()) { check(&m)?; }

    #[test]
    fn searches_round_trip(asked in any::trace(), answer in any::traced(), found in any::verdict(), done in any::broken()) {
        check(&asked)?;
        check(&answer)?;
        check(&found)?;
        check(&done)?;
    }

    #[test]
    fn tokens_round_trip(m in any::token()) { check(&m)?; }

    #[test]
    fn heads_round_trip(m in any::head()) { check(&m)?; }

    #[test]
    fn peer_messages_round_trip(m in any::peer()) { check(&m)?; }

    #[test]
    fn session_requests_round_trip(m in any::request()) { check(&m)?; }

    #[test]
    fn session_replies_round_trip(m in any::reply()) { check(&m)?; }

    #[test]
    fn changed_peer_messages_have_one_encoding(m in any::peer(), c in changes()) {
        check_changed::<PeerMessage>(&m, &c)?;
    }

    #[test]
    fn changed_requests_have_one_encoding(m in any::request(), c in changes()) {
        check_changed::<Request>(&m, &c)?;
    }

    #[test]
    fn changed_replies_have_one_encoding(m in any::reply(), c in changes()) {
        check_changed::<Reply>(&m, &c)?;
    }
}
