//! `oarlock serve`: run a node until a signal comes.

use super::cli::Serve;
use crate::problem::Result;

/// Runs the node.
pub fn run(_args: &Serve) -> Result<()> {
    Ok(())
}
