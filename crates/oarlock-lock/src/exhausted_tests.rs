//! All serials of a view are given out: whatever needs one is refused, and nothing waits for it.

use alloc::vec::Vec;

use oarlock_layout::code::Code;
use oarlock_layout::directory;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::{Epoch, Incarnation, LockId, NodeId, OwnerId, SessionId, SpaceId, TransactionId};
use oarlock_layout::limit::SERIAL_MAX;
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::segment::PlainWords;
use oarlock_layout::time::Instant;
use oarlock_layout::view::{Member, View};

use crate::{Config, Lock, Lockspace, Output, Request, Unlock};

const NOW: Instant = Instant(0);
const SPACE: SpaceId = SpaceId(0);
/// The node of the programs, and the master.
const NODES: [NodeId; 2] = [NodeId(0), NodeId(1)];

struct Pair {
    name: Name,
    spaces: [(Lockspace, PlainWords); 2],
}

impl Pair {
    fn new() -> Pair {
        let mastered = |name: &Name| directory::master(SPACE, name.as_bytes(), NODES) == Some(NODES[1]);
        let name = (0u32..).map(|i| Name::new(&i.to_le_bytes()).unwrap()).find(mastered).unwrap();
        let members = NODES.map(|node| Member { node, incarnation: Incarnation(1) }).to_vec();
        let spaces = NODES.map(|node| {
            let (mut space, mut words) = (Lockspace::new(Config::native(SPACE, node)), PlainWords::new(4));
            space.found(NOW, &mut words, &View { epoch: Epoch(1), members: members.clone() });
            (space, words)
        });
        Pair { name, spaces }
    }

    fn ask(&mut self, lock: u32, mode: Mode, flags: Flags) {
        let request = Lock {
            lock: LockId::new(SessionId(1), lock),
            name: self.name.clone(),
            mode,
            flags,
            timeout: None,
            owner: OwnerId(0),
            transaction: TransactionId(0),
        };
        let (space, words) = &mut self.spaces[0];
        space.handle_request(NOW, words, Request::Lock(request));
    }

    fn unlock(&mut self, lock: u32) {
        let (space, words) = &mut self.spaces[0];
        let unlock = Unlock { lock: LockId::new(SessionId(1), lock), value: None, invalidate: false };
        space.handle_request(NOW, words, Request::Unlock(unlock));
    }

    /// Carries messages until there are none; what programs were told of their requests.
    fn answers(&mut self) -> Vec<(u32, Result<Mode, Code>)> {
        let mut answers = Vec::new();
        for carried in 0.. {
            assert!(carried < 100, "it is asked and refused without end");
            let mut any = false;
            for (me, node) in NODES.into_iter().enumerate() {
                while let Some(output) = self.spaces[me].0.poll_output() {
                    match output {
                        Output::Send { to, packet } => {
                            any = true;
                            let (space, words) = &mut self.spaces[usize::from(to.0)];
                            space.handle_message(NOW, words, node, packet).expect("honest");
                        }
                        Output::Granted(it) => answers.push((it.lock.handle(), Ok(it.mode))),
                        Output::Failed { lock, code } => answers.push((lock.handle(), Err(code))),
                        Output::Released { .. } | Output::Blocking { .. } => {}
                    }
                }
            }
            if !any {
                break;
            }
        }
        answers
    }
}

/// R6: a request that is covered by what its node owns, but wants a serial of its own, is refused as any other that needs one;
/// what needs none is granted as ever.
#[test]
fn whoever_needs_a_serial_is_refused_and_nobody_waits_for_one() {
    let no = Err(Code::TokensExhausted);
    let mut pair = Pair::new();
    pair.ask(1, Mode::PR, Flags::empty());
    assert_eq!(pair.answers(), [(1, Ok(Mode::PR))]);
    pair.spaces[1].0.serial = SERIAL_MAX - 1;
    pair.ask(2, Mode::PR, Flags::FRESH);
    assert_eq!(pair.answers(), [(2, Ok(Mode::PR))], "the last one");
    for lock in 3..6 {
        pair.ask(lock, Mode::PR, Flags::FRESH);
    }
    assert_eq!(pair.answers(), [(3, no), (4, no), (5, no)]);
    pair.ask(6, Mode::PR, Flags::empty());
    assert_eq!(pair.answers(), [(6, Ok(Mode::PR))]);
    // One that waits for those who hold asks only then.
    pair.ask(7, Mode::EX, Flags::FRESH);
    for lock in [1, 2, 6] {
        pair.unlock(lock);
    }
    assert_eq!(pair.answers(), [(7, no)]);
    pair.ask(8, Mode::PR, Flags::FRESH);
    assert_eq!(pair.answers(), [(8, no)], "and what was refused is not remembered");
}
