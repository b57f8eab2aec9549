//! What a master or shadow may touch besides itself during one step.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};

use oarlock_layout::code::Code;
use oarlock_layout::departed::Departed;
use oarlock_layout::id::{Epoch, LockId, NodeId, Slot};
use oarlock_layout::message::lock::{Body, Packet};
use oarlock_layout::name::Name;
use oarlock_layout::segment::Words;
use oarlock_layout::time::Instant;

use crate::config::Config;
use crate::counters::{Counters, How};
use crate::index::Index;
use crate::output::Output;
use crate::planted::Planted;

pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) words: &'a mut dyn Words,
    pub(crate) config: &'a Config,
    pub(crate) planted: Planted,
    pub(crate) epoch: Epoch,
    /// Masters grant: all members have restated under this view (L11).
    pub(crate) open: bool,
    /// Shadows say nothing: not all members are in this view.
    pub(crate) quiet: bool,
    /// No program is granted anything new.
    pub(crate) frozen: bool,
    pub(crate) departed: &'a Departed,
    pub(crate) serial: &'a mut u64,
    pub(crate) counters: &'a mut Counters,
    pub(crate) outputs: &'a mut VecDeque<Output>,
    /// Messages between the master and the shadow of this node.
    pub(crate) inside: &'a mut VecDeque<Packet>,
    /// Where each waiting or converting lock stands.
    pub(crate) waiting: &'a mut BTreeMap<LockId, Slot>,
    /// Who stands behind those of them that wait for others.
    pub(crate) index: &'a mut Index,
    pub(crate) deadlines: &'a mut BTreeSet<(Instant, LockId)>,
    /// Shadows that may be forgotten, by the time since when.
    pub(crate) idle: &'a mut BTreeSet<(Instant, Slot)>,
    /// What a waiting request would owe its grant to in this step.
    pub(crate) how: How,
}

impl Context<'_> {
    pub(crate) fn send(&mut self, to: NodeId, name: &Name, body: Body) {
        let packet = Packet { space: self.config.space, epoch: self.epoch, name: name.clone(), body };
        if to == self.config.me {
            self.counters.messages_inside += 1;
            self.inside.push_back(packet);
            return;
        }
        match &packet.body {
            Body::Info(info) => {
                self.counters.info_sent += 1;
                self.counters.upgrade_sent += u64::from(info.conv.is_some());
            }
            Body::Grant(_) => self.counters.grant_sent += 1,
            Body::Deny(_) => self.counters.deny_sent += 1,
            Body::Head(_) => self.counters.head_sent += 1,
            Body::Forget(_) | Body::ForgetAck(_) => self.counters.forget_sent += 1,
            Body::Handover(_) => self.counters.handover_sent += 1,
        }
        self.outputs.push_back(Output::Send { to, packet });
    }

    /// A request failed that nobody can have granted meanwhile: it did not wait, or its entry has been asked.
    pub(crate) fn failed(&mut self, lock: LockId, code: Code) {
        self.words.refuse(lock);
        self.outputs.push_back(Output::Failed { lock, code });
    }
}
