//! Where a node stands, as people are told.

/// Where a node stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Phase {
    /// In no view yet.
    Forming,
    /// In a view: requests of programs are taken.
    Serving,
    /// Not let in, or out of the cluster.
    Refused,
}

impl Phase {
    /// One word for people.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Forming => "forming",
            Phase::Serving => "serving",
            Phase::Refused => "refused",
        }
    }
}
