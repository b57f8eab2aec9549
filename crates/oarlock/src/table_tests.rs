//! The rules of the table, one by one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use oarlock_layout::id::SpaceId;

use super::*;

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn granted(handle: u32, mode: Mode) -> Reply {
    Reply::Granted(Granted { handle, mode, token: Token::default(), value: None, alternate: false })
}

fn refused(handle: u32, code: Code) -> Reply {
    Reply::Failed { handle, why: Failure { code, text: String::new() } }
}

fn blocking(handle: u32, wanted: Mode) -> Reply {
    Reply::Blocking { handle, wanted }
}

/// A table and what it sent.
#[derive(Default)]
struct Bench {
    table: Table,
    effects: Effects,
}

impl Bench {
    fn hear(&mut self, reply: Reply) {
        self.table.handle_reply(reply, &mut self.effects).unwrap();
    }

    fn misdeed(&mut self, reply: Reply) {
        assert!(self.table.handle_reply(reply.clone(), &mut self.effects).is_err(), "{reply:?}");
    }

    fn sent(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.effects.send)
    }

    fn collect(&mut self, handle: u32) -> Option<Result<Mode, Code>> {
        let answer = self.table.collect(handle, &mut self.effects)?;
        Some(answer.map(|grant| grant.mode).map_err(|failure| failure.code))
    }

    /// A lock that is held in `mode`.
    fn held(&mut self, mode: Mode) -> u32 {
        let handle = self.table.begin_lock().unwrap();
        self.hear(granted(handle, mode));
        assert_eq!(self.collect(handle), Some(Ok(mode)));
        handle
    }

    fn end(&mut self) {
        let ended = Ended { code: Code::NoDaemon, text: "gone".into() };
        self.table.end(ended, &mut self.effects);
    }
}

fn unlock(handle: u32) -> Request {
    Request::Unlock { handle, value: None, invalidate: false }
}

/// Scenario 23: not before the answer came.
#[test]
fn a_deserted_request_is_cancelled_and_its_number_is_free_after_the_answer() {
    let mut bench = Bench::default();
    let handle = bench.table.begin_lock().unwrap();
    bench.table.desert_lock(handle, &mut bench.effects);
    assert_eq!(bench.sent(), [Request::Cancel { handle }]);
    assert_ne!(bench.table.begin_lock().unwrap(), handle, "in use until the answer came");
    bench.hear(refused(handle, Code::Cancelled));
    assert_eq!(bench.table.begin_lock().unwrap(), handle);
}

/// R9: the cancel was too late, and nobody wants the lock any more.
#[test]
fn a_grant_that_beats_the_cancel_is_given_back() {
    let mut bench = Bench::default();
    let handle = bench.table.begin_lock().unwrap();
    bench.table.desert_lock(handle, &mut bench.effects);
    bench.sent();
    bench.hear(granted(handle, Mode::EX));
    assert_eq!(bench.sent(), [unlock(handle)]);
    assert_ne!(bench.table.begin_lock().unwrap(), handle);
    bench.hear(Reply::Released { handle });
    assert_eq!(bench.table.begin_lock().unwrap(), handle);
}

#[test]
fn a_grant_that_was_not_collected_is_given_back() {
    let mut bench = Bench::default();
    let handle = bench.table.begin_lock().unwrap();
    bench.hear(granted(handle, Mode::EX));
    bench.table.desert_lock(handle, &mut bench.effects);
    assert_eq!(bench.sent(), [unlock(handle)]);
}

#[test]
fn a_refusal_that_was_not_collected_frees_the_number() {
    let mut bench = Bench::default();
    let handle = bench.table.begin_lock().unwrap();
    bench.hear(refused(handle, Code::Busy));
    bench.table.desert_lock(handle, &mut bench.effects);
    assert_eq!(bench.sent(), []);
    assert_eq!(bench.table.begin_lock().unwrap(), handle);
}

#[test]
fn an_unlock_waits_for_the_answer_to_a_deserted_conversion() {
    for answer in [granted(1, Mode::EX), refused(1, Code::Cancelled)] {
        let mut bench = Bench::default();
        let handle = bench.held(Mode::PR);
        bench.table.begin_convert(handle, Mode::EX).unwrap();
        bench.table.desert_convert(handle, &mut bench.effects);
        assert_eq!(bench.sent(), [Request::Cancel { handle }]);
        assert!(bench.table.settling(handle));
        bench.table.begin_unlock(handle, true, &mut bench.effects);
        assert_eq!(bench.sent(), []);
        bench.hear(answer);
        assert_eq!(bench.sent(), [unlock(handle)]);
        assert_eq!(bench.collect(handle), None, "that answer was the conversion's");
        bench.hear(Reply::Released { handle });
        assert!(bench.collect(handle).unwrap().is_ok());
    }
}

#[test]
fn a_deserted_conversion_that_was_granted_stands() {
    let mut bench = Bench::default();
    let handle = bench.held(Mode::PR);
    bench.table.begin_convert(handle, Mode::EX).unwrap();
    bench.table.desert_convert(handle, &mut bench.effects);
    bench.sent();
    bench.hear(granted(handle, Mode::EX));
    assert_eq!((bench.table.grant(handle).mode, bench.sent()), (Mode::EX, vec![]));
    assert!(!bench.table.settling(handle));
}

#[test]
fn a_second_operation_is_refused_while_one_is_under_way() {
    let mut bench = Bench::default();
    let handle = bench.held(Mode::PR);
    bench.table.begin_convert(handle, Mode::EX).unwrap();
    assert_eq!(bench.table.begin_convert(handle, Mode::NL).unwrap_err().code, Code::InFlight);
    bench.hear(refused(handle, Code::Deadlock));
    assert_eq!(bench.collect(handle), Some(Err(Code::Deadlock)));
    assert_eq!(bench.table.grant(handle).mode, Mode::PR);
    bench.table.begin_convert(handle, Mode::NL).unwrap();
}

/// Scenario 62: not before the grant was delivered.
#[test]
fn a_notice_waits_for_its_grant_to_be_delivered() {
    let mut bench = Bench::default();
    let handle = bench.table.begin_lock().unwrap();
    bench.hear(blocking(handle, Mode::EX));
    assert_eq!(bench.table.take_wanted(handle), None);
    bench.hear(granted(handle, Mode::PR));
    bench.hear(blocking(handle, Mode::PW));
    assert_eq!(bench.table.take_wanted(handle), None, "the grant is there, but nobody saw it");
    assert_eq!(bench.collect(handle), Some(Ok(Mode::PR)));
    assert_eq!(bench.table.take_wanted(handle), Some(Mode::EX));
    assert_eq!(bench.table.take_wanted(handle), None, "told once (57)");
}

/// The same for the grant of a conversion, delivered or deserted.
#[test]
fn a_notice_waits_for_its_conversion_to_be_delivered() {
    for deserted in [false, true] {
        let mut bench = Bench::default();
        let handle = bench.held(Mode::NL);
        bench.table.begin_convert(handle, Mode::PR).unwrap();
        bench.hear(granted(handle, Mode::PR));
        bench.hear(blocking(handle, Mode::EX));
        assert_eq!(bench.table.take_wanted(handle), None);
        if deserted {
            bench.table.desert_convert(handle, &mut bench.effects);
        } else {
            bench.collect(handle).unwrap().unwrap();
        }
        assert_eq!(bench.table.take_wanted(handle), Some(Mode::EX));
    }
}

/// Scenario 60: queued for PW; dropping to CR makes it moot, dropping to PR does not.
#[test]
fn a_notice_is_dropped_if_the_mode_no_longer_conflicts() {
    for (to, expected) in [(Mode::CR, None), (Mode::PR, Some(Mode::PW))] {
        let mut bench = Bench::default();
        let handle = bench.held(Mode::EX);
        bench.hear(blocking(handle, Mode::PW));
        bench.table.begin_convert(handle, to).unwrap();
        bench.hear(granted(handle, to));
        bench.collect(handle).unwrap().unwrap();
        assert_eq!(bench.table.take_wanted(handle), expected, "{to}");
    }
}

/// Scenarios 58 and 59: several wishes are told as the mode that covers those that still conflict.
#[test]
fn several_notices_become_the_mode_that_covers_them() {
    let cases: [(Mode, &[Mode], Option<Mode>); 5] = [
        (Mode::PR, &[Mode::PW, Mode::EX], Some(Mode::EX)),
        (Mode::PR, &[Mode::CW], Some(Mode::CW)),
        (Mode::EX, &[Mode::CW, Mode::PR], Some(Mode::PW)),
        (Mode::PR, &[Mode::CW, Mode::PR], Some(Mode::CW)),
        (Mode::NL, &[Mode::CW, Mode::EX], None),
    ];
    for (held, wanted, expected) in cases {
        let mut bench = Bench::default();
        let handle = bench.held(held);
        for mode in wanted {
            bench.hear(blocking(handle, *mode));
        }
        assert_eq!(bench.table.take_wanted(handle), expected, "{held} {wanted:?}");
    }
}

#[test]
fn a_notice_for_a_lock_that_is_gone_is_no_misdeed() {
    let mut bench = Bench::default();
    let handle = bench.held(Mode::EX);
    bench.table.begin_unlock(handle, false, &mut bench.effects);
    bench.hear(blocking(handle, Mode::EX));
    bench.hear(Reply::Released { handle });
    bench.hear(blocking(handle, Mode::EX));
    bench.hear(blocking(0, Mode::EX));
    bench.hear(blocking(u32::MAX, Mode::EX));
}

/// Scenarios 27 to 29 and 31: which of a staged block goes out when.
#[test]
fn a_staged_block_goes_out_when_the_lock_leaves_pw_or_ex() {
    let block = [7; VALUE_BYTES];
    let mut bench = Bench::default();
    let handle = bench.held(Mode::PW);
    bench.table.stage(handle, Some(block));
    let up = bench.table.begin_convert(handle, Mode::EX).unwrap();
    assert_eq!((up.value, up.invalidate), (None, false), "upward it stays");
    bench.hear(granted(handle, Mode::EX));
    bench.collect(handle).unwrap().unwrap();
    let down = bench.table.begin_convert(handle, Mode::PR).unwrap();
    assert_eq!(down.value, Some(block));
    bench.hear(refused(handle, Code::TimedOut));
    bench.collect(handle).unwrap().unwrap_err();
    let again = bench.table.begin_convert(handle, Mode::NL).unwrap();
    assert_eq!(again.value, Some(block), "a failed conversion wrote nothing");
    bench.hear(granted(handle, Mode::NL));
    bench.collect(handle).unwrap().unwrap();
    assert_eq!(bench.table.grant(handle).value.unwrap().bytes, block);
    bench.table.begin_unlock(handle, false, &mut bench.effects);
    assert_eq!(bench.sent(), [unlock(handle)], "written already, and NL writes nothing");
}

#[test]
fn an_invalidation_goes_out_with_the_unlock_and_replaces_staged_bytes() {
    let mut bench = Bench::default();
    let handle = bench.held(Mode::EX);
    bench.table.stage(handle, Some([7; VALUE_BYTES]));
    bench.table.stage(handle, None);
    bench.table.begin_unlock(handle, false, &mut bench.effects);
    assert_eq!(bench.sent(), [Request::Unlock { handle, value: None, invalidate: true }]);
}

#[test]
fn the_end_tells_holders_lost_and_others_the_reason() {
    let mut bench = Bench::default();
    let asked = bench.table.begin_lock().unwrap();
    let held = bench.held(Mode::EX);
    let converting = bench.held(Mode::PR);
    bench.table.begin_convert(converting, Mode::EX).unwrap();
    let releasing = bench.held(Mode::EX);
    bench.table.begin_unlock(releasing, true, &mut bench.effects);
    let deserted = bench.table.begin_lock().unwrap();
    bench.table.desert_lock(deserted, &mut bench.effects);
    let call = bench.table.begin_call().unwrap();
    bench.sent();
    bench.end();
    assert_eq!(bench.collect(asked), Some(Err(Code::NoDaemon)));
    assert_eq!(bench.collect(converting), Some(Err(Code::Lost)));
    assert_eq!(bench.collect(releasing), Some(Err(Code::Lost)));
    assert_eq!(bench.table.collect_call(call, &mut bench.effects).unwrap().unwrap_err().code, Code::NoDaemon);
    assert_eq!(bench.table.begin_convert(held, Mode::NL).unwrap_err().code, Code::Lost);
    assert_eq!(bench.table.begin_lock().unwrap_err().code, Code::NoDaemon);
    assert_eq!(bench.table.begin_call().unwrap_err().code, Code::NoDaemon);
    bench.table.begin_unlock(held, false, &mut bench.effects);
    bench.table.begin_unlock(converting, false, &mut bench.effects);
    assert_eq!(bench.sent(), [], "nobody is there to hear it");
    assert!(bench.table.entries.iter().all(Option::is_none), "nothing stays behind");
}

#[test]
fn deserting_after_the_end_leaves_nothing_behind() {
    let mut bench = Bench::default();
    let (asked, call) = (bench.table.begin_lock().unwrap(), bench.table.begin_call().unwrap());
    let (converting, releasing) = (bench.held(Mode::PR), bench.held(Mode::EX));
    bench.table.begin_convert(converting, Mode::EX).unwrap();
    bench.table.begin_unlock(releasing, true, &mut bench.effects);
    bench.end();
    bench.sent();
    bench.table.desert_lock(asked, &mut bench.effects);
    bench.table.desert_call(call, &mut bench.effects);
    bench.table.desert_convert(converting, &mut bench.effects);
    bench.table.begin_unlock(converting, false, &mut bench.effects);
    bench.table.desert_unlock(releasing, &mut bench.effects);
    assert_eq!(bench.sent(), []);
    assert!(bench.table.entries.iter().all(Option::is_none));
    assert_eq!(bench.table.collect_call(call, &mut bench.effects), None);
}

#[test]
fn answers_that_nobody_asked_for_are_misdeeds() {
    let mut bench = Bench::default();
    let held = bench.held(Mode::EX);
    for handle in [0, held, held + 1, u32::MAX] {
        bench.misdeed(granted(handle, Mode::EX));
        bench.misdeed(refused(handle, Code::Busy));
        bench.misdeed(Reply::Released { handle });
        bench.misdeed(Reply::Opened { request: handle, space: SpaceId(0) });
        bench.misdeed(Reply::Answer { request: handle, more: false, bytes: vec![] });
    }
    bench.table.begin_unlock(held, true, &mut bench.effects);
    bench.misdeed(granted(held, Mode::EX));
    bench.misdeed(Reply::Refused { version: 1, why: Failure { code: Code::Failed, text: String::new() } });
}

#[test]
fn the_locks_of_a_session_are_bounded() {
    let mut table = Table::default();
    for _ in 0..SESSION_LOCKS_MAX {
        table.begin_lock().unwrap();
    }
    assert_eq!(table.begin_lock().unwrap_err().code, Code::TooManyLocks);
    table.desert_lock(5, &mut Effects::default());
    table.handle_reply(refused(5, Code::Cancelled), &mut Effects::default()).unwrap();
    assert_eq!(table.begin_lock(), Ok(5));
}

#[test]
fn everybody_who_waits_is_woken_and_whoever_left_is_not() {
    let mut bench = Bench::default();
    let handle = bench.table.begin_lock().unwrap();
    let place = Place::Lock(handle);
    let counts = [(); 3].map(|()| Arc::new(Count(AtomicUsize::new(0))));
    for (key, count) in counts.iter().enumerate() {
        assert!(bench.table.set_waker(place, key as u64, Arc::clone(count).into()).is_none());
    }
    assert!(bench.table.set_waker(place, 0, Arc::clone(&counts[0]).into()).is_some(), "replaced");
    assert!(bench.table.remove_waker(place, 1).is_some());
    bench.hear(granted(handle, Mode::EX));
    bench.effects.wake.drain(..).for_each(Waker::wake);
    assert_eq!(counts.each_ref().map(|count| count.0.load(Ordering::Relaxed)), [1, 0, 1]);
}

#[test]
fn a_release_that_was_answered_but_not_collected_frees_the_number() {
    let mut bench = Bench::default();
    let handle = bench.held(Mode::EX);
    bench.table.begin_unlock(handle, true, &mut bench.effects);
    bench.hear(Reply::Released { handle });
    bench.table.desert_unlock(handle, &mut bench.effects);
    assert_eq!(bench.table.begin_lock().unwrap(), handle);
}

#[test]
fn the_end_wakes_everybody() {
    let mut bench = Bench::default();
    let (held, call) = (bench.held(Mode::EX), bench.table.begin_call().unwrap());
    let count = Arc::new(Count(AtomicUsize::new(0)));
    for (place, key) in [(Place::Lock(held), 0), (Place::Lock(held), 1), (Place::Call(call), 2)] {
        bench.table.set_waker(place, key, Arc::clone(&count).into());
    }
    bench.end();
    bench.effects.wake.drain(..).for_each(Waker::wake);
    assert_eq!(count.0.load(Ordering::Relaxed), 3);
}

#[test]
fn a_grant_shows_what_the_daemon_said() {
    let mut bench = Bench::default();
    let handle = bench.table.begin_lock().unwrap();
    let token = Token { fence: Fence::from_number(9), local: 4 };
    let value = Some(Value::NEVER.written([1; VALUE_BYTES]));
    bench.hear(Reply::Granted(Granted { handle, mode: Mode::PR, token, value, alternate: true }));
    let grant = bench.table.collect(handle, &mut bench.effects).unwrap().unwrap();
    assert_eq!(grant, Grant { mode: Mode::PR, token, value, shown: true, alternate: true });
    assert_eq!(bench.table.grant(handle), grant);
}

/// M12: the node keeps a place until it hears that nothing touches it, also one whose segment came too late to be mapped.
#[test]
fn a_place_that_was_asked_for_is_given_back_though_its_segment_has_not_come() {
    let mut table = Table::default();
    assert!(!table.detach());
    let (cell, request) = table.segment(SpaceId(0), 7);
    let Some(Request::Attach { request, .. }) = request else { panic!("{request:?}") };
    assert!(table.detach());
    table.attached(request, |_| panic!("it is not to be mapped any more"));
    assert!(cell.get().is_none());
}

/// Scenarios 19 and 20: what waits is withdrawn by a cancel, and whoever waits for it hears what came of that.
#[test]
fn a_withdrawn_request_keeps_its_caller_and_its_answer() {
    let mut bench = Bench::default();
    let handle = bench.table.begin_lock().unwrap();
    bench.table.withdraw(handle, &mut bench.effects);
    assert_eq!(bench.sent(), [Request::Cancel { handle }]);
    bench.hear(granted(handle, Mode::PR));
    // The grant was quicker; a cancel that comes now would be for what is asked next.
    bench.table.withdraw(handle, &mut bench.effects);
    assert_eq!((bench.sent(), bench.collect(handle)), (vec![], Some(Ok(Mode::PR))));
    bench.table.begin_convert(handle, Mode::EX).unwrap();
    bench.table.withdraw(handle, &mut bench.effects);
    assert_eq!(bench.sent(), [Request::Cancel { handle }]);
    bench.hear(refused(handle, Code::Cancelled));
    assert_eq!(bench.collect(handle), Some(Err(Code::Cancelled)));
    assert_eq!(bench.table.grant(handle).mode, Mode::PR);
}
