//! A copy of the registry, for whoever keeps it.

use std::fmt::Write;
use std::sync::Arc;

use oarlock_cluster::registry::{Command, Outcome};
use oarlock_layout::code::Code;

use super::change::{Answer, decidable};
use super::{Console, doc, registry};
use crate::coordinator::backup::{Backup, ClusterName};

/// There is none with this number, so to revoke it changes nothing: what comes of it is known when everything was applied here
/// that was decided before.
const NOTHING: Command = Command::RevokeToken { serial: 0 };

impl Console {
    /// A copy with everything that was decided before it was asked for; or, with `here`, of what this node has, whatever the others
    /// know.
    pub(super) async fn backup(&self, here: bool) -> Answer<doc::Backup> {
        let snapshot = self.snapshot().await?;
        let mut copied = Arc::clone(registry::known(&snapshot)?);
        if !here {
            decidable(&snapshot)?;
            let (outcome, after, _) =
                self.propose(&NOTHING, "somebody takes a backup of the registry").await?;
            if let Outcome::Refused(why) = outcome {
                return Err((Code::NotServing, why.to_string()));
            }
            copied = after;
        }
        let bytes = Backup::write(&copied);
        let hex = bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("writing to a string");
            hex
        });
        Ok(doc::Backup {
            v: doc::VERSION,
            node: snapshot.status.node,
            cluster_id: ClusterName(&copied).to_string(),
            revision: copied.revision(),
            epoch: copied.view().epoch.0,
            confirmed: !here,
            hex,
        })
    }
}
