//! The cluster that a configuration describes, as its founders propose it.

use oarlock_cluster::registry::{self, Command, FirstSpace, Founder, SpaceSettings};
use oarlock_layout::id::Epoch;
use oarlock_layout::limit::VALUE_BYTES;
use oarlock_layout::seal::PublicKey;

use super::{Config, Member, Order, Space};

/// To whom a lockspace is given stands in the configuration, as names that each machine reads for itself ([`super::Given`]). The
/// record wants numbers that are the same everywhere; nobody looks at these.
const MODE: u16 = 0o660;

impl Config {
    /// The founding of this cluster; views begin above `above`, the highest that this node has stored. Members with
    /// the same configuration found the same cluster.
    pub fn founding(&self, above: Epoch) -> Command {
        let members = self.members.iter().map(founder).collect();
        let spaces = self.spaces.iter().map(first_space).collect();
        Command::found(&self.cluster, members, spaces, above)
    }
}

fn founder(member: &Member) -> Founder {
    Founder { name: member.name.clone(), address: member.address, key: PublicKey(member.key) }
}

fn first_space(space: &Space) -> FirstSpace {
    let order = match space.order {
        Order::Passover => registry::Order::Passover,
        Order::Strict => registry::Order::Strict,
    };
    let settings = SpaceSettings {
        order,
        value: VALUE_BYTES as u16,
        retain: space.retain,
        resources_max: space.resources_max,
        owner: 0,
        group: 0,
        mode: MODE,
    };
    FirstSpace { name: space.name.clone(), settings }
}
