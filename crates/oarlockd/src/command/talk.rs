//! Talk that keeps nobody waiting: what `oarlock lock` says while a command runs under its lock.
//!
//! Whoever reads it may have stopped reading: a terminal after Ctrl-S, a pipe that is full. To write there takes as long as it
//! likes, and the lease does not wait. So another thread writes, made when there is something to say for the first time; if it
//! hangs, the process ends with it.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

use super::output;

/// How long the end of the process waits for its last lines to be written.
const LAST_LINES_MAX: Duration = Duration::from_millis(200);

/// Lines on their way to standard error, in order.
#[derive(Default)]
pub(super) struct Talk {
    writer: Option<Writer>,
}

struct Writer {
    lines: Sender<String>,
    /// Nothing comes of it but its end, when all is written.
    ended: Receiver<()>,
}

impl Talk {
    /// Says something to people, soon, and returns at once. Without a thread for it nothing is said.
    pub(super) fn say(&mut self, text: String) {
        if self.writer.is_none() {
            self.writer = start();
        }
        if let Some(writer) = &self.writer {
            // Its end comes only after ours.
            let _ = writer.lines.send(text);
        }
    }

    /// Gives what was said a moment to be written.
    pub(super) fn finish(self) {
        if let Some(Writer { lines, ended }) = self.writer {
            drop(lines);
            let _ = ended.recv_timeout(LAST_LINES_MAX);
        }
    }
}

fn start() -> Option<Writer> {
    let (lines, said) = channel::<String>();
    let (ends, ended) = channel();
    let write = move || {
        // Otherwise a terminal that wants no output from the background stops the whole process for it.
        let mut stops = SigSet::empty();
        stops.add(Signal::SIGTTOU);
        let _ = stops.thread_block();
        for line in said {
            output::say(format_args!("{line}"));
        }
        drop(ends);
    };
    thread::Builder::new().name("talk".into()).spawn(write).ok()?;
    Some(Writer { lines, ended })
}
