//! The threads that the library starts by itself.

use std::io;

use nix::sys::signal::SigSet;

/// Starts a thread that takes no signals: a program's handlers run in the program's threads.
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let begin = move || {
        // It can only fail for want of a mask, and there is one.
        let _ = SigSet::all().thread_block();
        body();
    };
    std::thread::Builder::new().name(name.into()).spawn(begin).map(drop)
}
