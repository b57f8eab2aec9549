//! A planned restart: what is done before anything is touched.
//!
//! The program that is to take the engine's place runs once as a child and reads what it would get. One of another version, with a
//! configuration that a run cannot change to, or one that is no Oarlock at all is found here.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use oarlock_layout::code::Code;
use oarlock_layout::id::SessionId;
use rustix::process::Signal;
use tokio::sync::oneshot;

use super::{Console, doc, wait};
use crate::engine::{Control, Next};
use crate::host::{child, exec};

/// What the program says that can take over, before its version.
pub(crate) const CAN: &str = "can take over: oarlock ";
/// How long it may take to say so. It reads a few megabytes.
const REHEARSAL_MAX: Duration = Duration::from_secs(10);
/// Of what it says if it cannot, this much is passed on.
const SAID_BYTES_MAX: u64 = 4 << 10;

impl Console {
    /// Asks for a restart once it has been rehearsed; then the engine answers.
    pub(super) async fn restart(&self, session: SessionId, request: u32) -> Result<(), (Code, String)> {
        let refused = |why: String| (Code::RestartRefused, why);
        let Ok(next) = self.next.try_lock() else {
            return Err(refused("another restart of this node is being rehearsed".into()));
        };
        let (sender, receiver) = oneshot::channel();
        self.link.send(Control::Rehearse(sender));
        let parcel = wait(receiver).await?.map_err(|why| refused(format!("not now: {why}")))?;
        let (sender, receiver) = oneshot::channel();
        let (this, sight) = (next.clone(), next.look());
        let begun = std::thread::Builder::new().name("rehearsal".into()).spawn(move || {
            // Whoever asked may have left meanwhile.
            let _ = sender.send(rehearse(&this, parcel));
        });
        begun.map_err(|e| refused(format!("no thread: {e}")))?;
        let rehearsed = receiver.await.unwrap_or_else(|_| Err("its rehearsal was cut short".into()));
        rehearsed.map_err(|why| refused(format!("{} cannot take over: {why}", next.program.display())))?;
        self.link.send(Control::Restart { asked_by: (session, request), sight });
        Ok(())
    }
}

/// The answer to whoever asked for a restart, when it has come about.
pub(crate) fn restarted(done: &doc::Restarted) -> String {
    serde_json::to_string(done).expect("a document is plain data")
}

/// Whether the program can go on from this, and else what it says.
fn rehearse(next: &Next, parcel: OwnedFd) -> Result<(), String> {
    let mut command = Command::new(&next.program);
    command.arg("engine").arg("--config").arg(&next.config);
    if next.dev {
        command.arg("--dev");
    }
    command.args(["--take-over", "0", "--rehearse"]);
    // No pipes: a program that says much would wait for a reader, and one that leaves another behind would not come to an end.
    let pad = || exec::notepad().map_err(|e| format!("nothing to write on: {e}"));
    let (out, err) = (pad()?, pad()?);
    let copy = |pad: &OwnedFd| pad.try_clone().map(Stdio::from).map_err(|e| e.to_string());
    command.stdin(Stdio::from(parcel)).stdout(copy(&out)?).stderr(copy(&err)?);
    let mut child =
        child::spawn_bound(&mut command, Signal::KILL).map_err(|e| format!("it cannot be run: {e}"))?;
    let ended = ended(&mut child);
    let said = |pad: OwnedFd| {
        let (mut file, mut text) = (File::from(pad), Vec::new());
        // The child wrote by the same position.
        let _ = file.rewind().and_then(|()| file.take(SAID_BYTES_MAX).read_to_end(&mut text));
        String::from_utf8_lossy(&text).trim().to_owned()
    };
    match ended {
        Err(e) => Err(format!("it cannot be waited for: {e}")),
        Ok(false) => Err(format!("it has not come to an end for {} s", REHEARSAL_MAX.as_secs())),
        Ok(true) => {
            let status = child.wait().map_err(|e| e.to_string())?;
            let out = said(out);
            if status.success() && out.starts_with(CAN) {
                return Ok(());
            }
            let err = said(err);
            match err.is_empty() {
                true => Err(format!("it ended with {status} and did not say that it can")),
                false => Err(err),
            }
        }
    }
}

/// Whether it ends in time; if not, it is ended.
fn ended(child: &mut Child) -> std::io::Result<bool> {
    let end = Instant::now() + REHEARSAL_MAX;
    while child.try_wait()?.is_none() {
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(true)
}
