//! The blocking client against a daemon that the test plays itself.

mod support;

use std::thread;

use oarlock::blocking::Client;
use oarlock::{Kind, Mode};
use support::Script;

#[test]
fn a_lock_is_taken_converted_and_given_back() {
    let script = Script::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            let peer = script.welcome();
            let request = peer.next_lock();
            assert_eq!((request.name.as_bytes(), request.mode, request.timeout_ms), (&b"x"[..], Mode::EX, 0));
            peer.grant(request.handle, Mode::EX);
            match peer.next() {
                oarlock_layout::message::session::Request::Convert(c) => {
                    assert_eq!((c.handle, c.mode, c.value), (request.handle, Mode::PR, None));
                    peer.grant(c.handle, Mode::PR);
                }
                other => panic!("{other:?}"),
            }
            peer.next_unlock(request.handle, None);
            let request = peer.next_lock();
            peer.fail(request.handle, oarlock::Code::Busy);
            peer.next_is_end();
        });
        let client = Client::connect(script.path()).unwrap();
        assert_eq!((client.node(), client.cluster()), ("node-a", "test"));
        let space = client.space("default").unwrap();
        let guard = space.lock("x").acquire().unwrap();
        assert_eq!(guard.mode(), Mode::EX);
        guard.convert(Mode::PR).unwrap();
        assert_eq!(guard.mode(), Mode::PR);
        guard.release().unwrap();
        let error = space.lock("x").no_queue().acquire().map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy);
    });
}
