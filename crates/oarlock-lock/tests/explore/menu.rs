//! What is explored: how many nodes and programs, and what programs may do.

use oarlock_layout::flags::Flags;
use oarlock_layout::mode::Mode;
use oarlock_lock::Order;
use oarlock_lock::planted::Bug;

use super::views::Plan;

/// One space to be explored in full.
#[derive(Clone, Debug)]
pub(crate) struct Menu {
    /// What it shows, in a few words.
    pub(crate) name: String,
    /// Nodes; the last of them masters the resource.
    pub(crate) nodes: u16,
    /// Where each program lives, by node.
    pub(crate) homes: Vec<usize>,
    pub(crate) order: Order,
    pub(crate) retain: bool,
    /// How many things programs do, counting every request, cancel, end, passing of time and fast-path step.
    pub(crate) actions: u8,
    pub(crate) new: Vec<(Mode, Flags)>,
    pub(crate) convert: Vec<(Mode, Flags)>,
    /// Programs may write the value block when they leave PW or EX.
    pub(crate) write: bool,
    pub(crate) cancel: bool,
    pub(crate) end: bool,
    /// Time passes: unused records are given up.
    pub(crate) forget: bool,
    /// The table of resources is full: whoever wants another one takes what is only retained.
    pub(crate) pressure: bool,
    /// Messages of one channel may overtake each other: a circuit that breaks its promise.
    pub(crate) reorder: bool,
    /// Programs change counts by themselves where the word allows it.
    pub(crate) fast: bool,
    /// ... also in the middle of a step of the room.
    pub(crate) intrude: bool,
    pub(crate) bug: Option<Bug>,
    /// Views that change, if they do.
    pub(crate) plan: Option<Plan>,
}

const NONE: Flags = Flags::empty();

impl Menu {
    /// `shadows` nodes with `each` programs, and one node more that is the master and nothing else.
    pub(crate) fn new(name: &str, shadows: u16, each: usize, actions: u8) -> Menu {
        Menu {
            name: name.to_string(),
            nodes: shadows + 1,
            homes: (0..usize::from(shadows)).flat_map(|node| vec![node; each]).collect(),
            order: Order::Passover,
            retain: true,
            actions,
            new: vec![(Mode::NL, NONE), (Mode::PR, NONE), (Mode::EX, NONE)],
            convert: vec![(Mode::NL, NONE), (Mode::PR, NONE), (Mode::EX, NONE)],
            write: false,
            cancel: true,
            end: false,
            forget: false,
            pressure: false,
            reorder: false,
            fast: false,
            intrude: false,
            bug: None,
            plan: None,
        }
    }

    pub(crate) fn strict(mut self) -> Menu {
        self.order = Order::Strict;
        self.name.push_str(", strict");
        self
    }

    /// Only these modes, new and converted to.
    pub(crate) fn modes(mut self, modes: &[Mode]) -> Menu {
        self.new = modes.iter().map(|m| (*m, NONE)).collect();
        self.convert = self.new.clone();
        self
    }

    /// Requests with flags besides the plain ones.
    pub(crate) fn and(mut self, new: &[(Mode, Flags)], convert: &[(Mode, Flags)]) -> Menu {
        self.new.extend_from_slice(new);
        self.convert.extend_from_slice(convert);
        self
    }

    /// Exactly these requests.
    pub(crate) fn only(mut self, new: &[(Mode, Flags)], convert: &[(Mode, Flags)]) -> Menu {
        self.new = new.to_vec();
        self.convert = convert.to_vec();
        self
    }

    pub(crate) fn tries(self) -> Menu {
        let tries = [(Mode::PR, Flags::NOQUEUE), (Mode::EX, Flags::NOQUEUE)];
        self.and(&tries, &tries[1..])
    }

    pub(crate) fn writes(mut self) -> Menu {
        self.write = true;
        self
    }

    pub(crate) fn ends(mut self) -> Menu {
        self.end = true;
        self
    }

    pub(crate) fn forgets(mut self) -> Menu {
        self.forget = true;
        self
    }

    pub(crate) fn pressed(mut self) -> Menu {
        self.pressure = true;
        self
    }

    pub(crate) fn unretained(mut self) -> Menu {
        self.retain = false;
        self
    }

    pub(crate) fn fast(mut self) -> Menu {
        self.fast = true;
        self
    }

    pub(crate) fn intruded(mut self) -> Menu {
        self.fast = true;
        self.intrude = true;
        self
    }

    /// Programs at these nodes.
    pub(crate) fn at(mut self, homes: &[usize]) -> Menu {
        self.homes = homes.to_vec();
        self
    }

    /// The master has programs of its own.
    pub(crate) fn master_at_last_shadow(mut self) -> Menu {
        self.nodes -= 1;
        self
    }

    /// The view changes as planned, each time at any moment.
    pub(crate) fn through(mut self, plan: Plan) -> Menu {
        self.plan = Some(plan);
        self
    }

    pub(crate) fn cancelled(mut self) -> Menu {
        self.cancel = true;
        self
    }

    pub(crate) fn uncancelled(mut self) -> Menu {
        self.cancel = false;
        self
    }

    pub(crate) fn reordered(mut self) -> Menu {
        self.reorder = true;
        self
    }

    pub(crate) fn with(mut self, bug: Bug) -> Menu {
        self.bug = Some(bug);
        self
    }
}
