//! `oarlock node restart`: the engine begins anew, and all locks are kept.

use std::time::{Duration, Instant};

use oarlock_layout::code::Code;
use oarlock_layout::message::session::Reply;

use super::cli::{Ask, Output};
use super::output;
use super::session::parse;
use super::status::session;
use crate::console::doc::{Question, Restarted};
use crate::problem::{Problem, Result};

/// A rehearsal, then a renewal that is waited for: each has a bound of its own, both far below this.
const RESTART_MAX: Duration = Duration::from_secs(30);

/// Asks for it, and waits until the next engine answers over the same session.
pub(super) fn run(ask: &Ask) -> Result<()> {
    let mut session = session(&ask.connect)?;
    let request = session.ask_later(&Question::Restart)?;
    let end = Instant::now() + RESTART_MAX;
    let mut text = Vec::new();
    let done: Restarted = loop {
        let reply = session.receive(Some(end)).map_err(|p| match p.code {
            Code::Lost | Code::NoDaemon => lost(&p.why),
            _ => p,
        })?;
        match reply {
            Some(Reply::Answer { request: r, more, bytes }) if r == request => {
                text.extend_from_slice(&bytes);
                if !more {
                    break parse(&String::from_utf8_lossy(&text))?;
                }
            }
            Some(Reply::Denied { request: r, why }) if r == request => {
                let problem = Problem::from_failure(&why);
                return Err(match why.code {
                    Code::RestartRefused => {
                        problem.because("nothing has changed: all locks are as they were")
                    }
                    // By somebody else's restart, for instance.
                    _ => problem,
                });
            }
            Some(Reply::Lost { why }) => return Err(lost(&why.text)),
            Some(_) => {}
            None => return Err(lost("the node has not answered for half a minute")),
        }
    };
    match ask.format.output {
        form @ (Output::Json | Output::Yaml) => output::print_document(form, &done),
        Output::Name => output::print_text(&done.node),
        Output::Table | Output::Wide => output::print_text(&format!(
            "{} goes on as run {} with {}: oarlock {} -> {}, nobody served for {:.1} ms",
            done.node,
            done.incarnation,
            super::status::counted(done.sessions, "session"),
            done.before,
            done.now,
            done.stood_still_us as f64 / 1_000.0
        )),
    }
}

fn lost(why: &str) -> Problem {
    Problem::new(Code::Lost, "the restart did not come about, and the locks of this node may be lost")
        .because(why)
        .try_next("oarlock status; and the log of the node says what became of its engine")
}
