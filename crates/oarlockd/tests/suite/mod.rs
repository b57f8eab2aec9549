//! What a claim is, and how it is put to a world.

pub(crate) mod chance;
pub(crate) mod child;
pub(crate) mod clock;
pub(crate) mod datagrams;
pub(crate) mod disk;
pub(crate) mod seal;
pub(crate) mod sessions;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Something that must be true of every world `W`: a function that panics if it is not.
pub(crate) struct Claim<W> {
    pub(crate) name: &'static str,
    pub(crate) check: fn(&mut W),
}

/// Claims by the names of their functions.
macro_rules! claims {
    ($($name:ident)*) => {
        vec![$(crate::suite::Claim { name: stringify!($name), check: $name }),*]
    };
}
pub(crate) use claims;

/// Every claim holds, each in a world of its own.
pub(crate) fn hold<W>(world: &str, claims: &[Claim<W>], mut make: impl FnMut() -> W) {
    for claim in claims {
        // The harness shows it only if the claim does not hold.
        eprintln!("{world}: {}", claim.name);
        (claim.check)(&mut make());
    }
}

/// Whether one of the claims holds.
pub(crate) fn holds<W>(claims: &[Claim<W>], name: &str, world: &mut W) -> bool {
    let claim = claims.iter().find(|claim| claim.name == name);
    let check = claim.unwrap_or_else(|| panic!("no claim {name}")).check;
    catch_unwind(AssertUnwindSafe(|| check(world))).is_ok()
}

/// A claim that never fails claims nothing. Each fault is noticed by the claim beside it, and there is no claim
/// without a fault.
pub(crate) fn each_fault_is_noticed<F: Copy + Debug, W>(
    faults: &[(F, &'static str)],
    claims: &[Claim<W>],
    make: impl Fn(F) -> W,
) {
    for (fault, name) in faults {
        eprintln!("{fault:?} is put to {name}");
        assert!(!holds(claims, name, &mut make(*fault)), "{name} does not notice {fault:?}");
    }
    let seen: BTreeSet<_> = faults.iter().map(|(_, name)| *name).collect();
    for claim in claims {
        assert!(seen.contains(claim.name), "{} was never seen to fail", claim.name);
    }
}
