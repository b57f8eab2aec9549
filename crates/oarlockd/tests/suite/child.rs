//! Other processes: the test program starts itself again and plays another part.

use std::env;
use std::io::{BufRead, BufReader, Write, stdout};
use std::process::{Child as Process, ChildStdout, Command, Stdio};

/// Which part to play.
const PART: &str = "OARLOCK_HOST_SUITE_PART";
/// The test that plays it. It does nothing in a program that was started by people.
const PLAYER: &str = "another_process_plays_its_part";
/// What the harness prints is not for us.
const MARK: &str = "child says: ";

/// A process of this program that plays a part.
pub(crate) struct Child {
    process: Process,
    lines: BufReader<ChildStdout>,
}

impl Child {
    /// Starts it; `part` is its name and its arguments, without line ends.
    pub(crate) fn start(part: &[&str]) -> Child {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", PLAYER, "--nocapture", "--test-threads", "1"]).env(PART, part.join("\n"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        Child { process, lines }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The next thing it says; none when it has ended.
    pub(crate) fn hear(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // The harness may have begun the line.
            if let Some((_, said)) = line.trim_end().split_once(MARK) {
                return Some(said.into());
            }
        }
    }

    /// SIGKILL, and all that it had said before.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        std::iter::from_fn(|| self.hear()).collect()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// In the child: says something to the parent.
pub(crate) fn say(what: &str) {
    let mut out = stdout().lock();
    // A parent that is gone ends us by SIGPIPE or by this.
    writeln!(out, "{MARK}{what}").and_then(|()| out.flush()).expect("a parent listens");
}

/// Plays the part this process was started for, if there is one.
pub(crate) fn play() {
    let Ok(part) = env::var(PART) else { return };
    match part.lines().collect::<Vec<_>>()[..] {
        ["store", dir, first] => super::disk::child(dir, first),
        ["attach", socket, count] => super::sessions::child(socket, count),
        ["draw"] => super::chance::child(),
        _ => panic!("no such part: {part}"),
    }
}
