//! Stamps of the cluster clock for whoever asks (E5 to E7).
//!
//! They are issued where the node says what is to be done: after it has looked whether its lease is over, and before it is
//! asked again, because a stamp that must wait makes it raise its ceiling.

use std::collections::VecDeque;

use oarlock_layout::stamp::Stamp;
use oarlock_layout::time::Instant;
use oarlock_node::{NoStamp, Node};
use tokio::sync::oneshot;

use super::control::Issued;

/// Who waits for stamps, first come first served.
#[derive(Default)]
pub(super) struct Stamping(VecDeque<Asked>);

struct Asked {
    count: u32,
    got: Vec<Stamp>,
    tried: bool,
    reply: oneshot::Sender<Issued>,
}

impl Stamping {
    pub(super) fn ask(&mut self, count: u32, reply: oneshot::Sender<Issued>) {
        self.0.push_back(Asked { count, got: Vec::new(), tried: false, reply });
    }

    /// Issues what may be issued. True: the node may have something to say because of it.
    pub(super) fn issue(&mut self, node: &mut Node, now: Instant) -> bool {
        let mut moved = false;
        while let Some(mut asked) = self.0.pop_front() {
            if asked.reply.is_closed() {
                continue;
            }
            if node.has_ended() {
                let _ = asked.reply.send(None);
                continue;
            }
            moved |= !asked.tried;
            asked.tried = true;
            while (asked.got.len() as u32) < asked.count {
                match node.issue(now) {
                    Ok(stamp) => {
                        moved = true;
                        asked.got.push(stamp);
                    }
                    Err(NoStamp::Wait) => {
                        self.0.push_front(asked);
                        return moved;
                    }
                    Err(NoStamp::End) => break,
                }
            }
            let whole = asked.got.len() as u32 == asked.count;
            let _ = asked.reply.send(whole.then_some(asked.got));
        }
        moved
    }
}
