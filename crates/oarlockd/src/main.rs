//! The binary `oarlock`.
fn main() {}
