//! written next
pub struct Honest;
