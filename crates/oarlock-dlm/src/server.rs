//! Where a lockspace of libdlm lives: all of them are branches of one lockspace of Oarlock, which every node has
//! configured under the name `dlm`, with order `strict`. Resource `r` of `vg0` is there the resource `vg0/r`.

use std::path::Path;

use oarlock::{Client, Code, Error, Space};
use oarlock_handle::client::wait;
use rustix::io::Errno;

use crate::status;

/// The lockspace of Oarlock.
pub const SPACE: &str = "dlm";

/// If it is set, what goes wrong is said on the standard error as well, in more words than a number has.
pub const DEBUG_VARIABLE: &str = "OARLOCK_DLM_DEBUG";

/// So often a question is asked again whose answer was lost.
const ASKED_AGAIN: u32 = 3;

/// How a lockspace is entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// It is made, or counted once more. `exclusive`: not if it is there.
    Create {
        /// It must not be there.
        exclusive: bool,
    },
    /// It is there already.
    Attach,
}

/// A session of its own, in a lockspace.
pub(crate) fn enter(at: Option<&Path>, name: &str, how: How) -> Result<(Client, Space), Errno> {
    let entered = wait(async {
        // What another process could grant itself in shared memory would not be in the queues that libdlm's flags speak of.
        let builder = Client::builder().shared_memory(false);
        let client = match at {
            Some(socket) => builder.connect(socket).await?,
            None => builder.connect_default().await?,
        };
        let space = client.space(SPACE).await?;
        match how {
            How::Create { exclusive } => client.open_branch(SPACE, name, exclusive).await?,
            How::Attach => {
                // Nothing comes of asking again, if another engine came just then.
                let unknown = |error: &Error| error.code() == Code::OutcomeUnknown;
                let mut found = client.find_branch(SPACE, name).await;
                for _ in 0..ASKED_AGAIN {
                    if !found.as_ref().is_err_and(unknown) {
                        break;
                    }
                    found = client.find_branch(SPACE, name).await;
                }
                found?;
            }
        }
        Ok((client, space))
    });
    entered.map_err(|error| refused(&error))
}

/// Counts a lockspace once less, and ends it if nobody has it any more.
pub(crate) fn leave(name: &str, force: bool) -> Result<(), Errno> {
    let left = wait(async {
        let client = Client::builder().shared_memory(false).connect_default().await?;
        client.close_branch(SPACE, name, force).await
    });
    left.map(drop).map_err(|error| refused(&error))
}

/// Gives back what programs of this node have left behind in a lockspace.
pub(crate) fn purge(client: &Client, name: &str, pid: Option<u32>) -> Result<(), Errno> {
    let prefix = native_name(name, b"");
    wait(client.purge(SPACE, &prefix, pid)).map(drop).map_err(|error| refused(&error))
}

/// The number of this node, from 1.
pub(crate) fn own_number(client: &Client) -> Result<u32, Errno> {
    wait(client.member_id()).map(|id| u32::from(id) + 1).map_err(|error| refused(&error))
}

/// What a resource is called in the lockspace of Oarlock.
pub(crate) fn native_name(space: &str, resource: &[u8]) -> Vec<u8> {
    [space.as_bytes(), b"/", resource].concat()
}

/// The number for an error, which is also put into words if somebody wants them.
pub(crate) fn refused(error: &Error) -> Errno {
    if std::env::var_os(DEBUG_VARIABLE).is_some() {
        eprintln!("libdlm (oarlock): {error}");
    }
    match error.code() {
        Code::BranchExists => Errno::EXIST,
        Code::BranchInUse => Errno::BUSY,
        Code::UnknownBranch | Code::NoOrphan => Errno::NOENT,
        // Another engine came meanwhile, and whether it was done is not known.
        Code::OrphanMode | Code::OutcomeUnknown => Errno::AGAIN,
        _ => status::errno_of(error),
    }
}
