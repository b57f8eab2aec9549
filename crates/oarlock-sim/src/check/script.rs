//! Small histories as text, for the tests of checkers.
//!
//! Steps are separated by `;`, each takes a millisecond (`@N` jumps to N milliseconds). A step begins with the
//! client (`7`, or `7.2` for its second lock); clients 1-9 sit at node 0, 11-19 at node 1, and so on. Names
//! beginning with `strict/` are in a strict lockspace.

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::Epoch;
use oarlock_layout::limit::VALUE_BYTES;
use oarlock_layout::mode::Mode;
use oarlock_layout::name::Name;
use oarlock_layout::token::{Fence, Token};
use oarlock_layout::value::Value;

use super::{Finding, judge};
use crate::history::{Ask, Block, End, Event, Mark, Rules, Told, What};

pub(crate) fn rules() -> Rules {
    Rules::simulated(3, vec![false, true])
}

/// The whole history is as promised, to every checker.
#[track_caller]
pub(crate) fn passes(claim: &str, story: &str) {
    let found = judge(&rules(), &parse(story));
    assert!(found.is_empty(), "{claim}: {}", found[0]);
}

/// This checker rejects the history for a reason that contains `why`, or any reason for an invariant's id.
#[track_caller]
pub(crate) fn finds(checker: &str, why: &str, story: &str) {
    let found: Vec<Finding> =
        judge(&rules(), &parse(story)).into_iter().filter(|f| f.checker == checker).collect();
    assert!(!found.is_empty(), "{checker} finds nothing in: {story}");
    let id = why.len() <= 3 && why.starts_with(['I', 'R']);
    assert!(id || found.iter().any(|f| f.text.contains(why)), "not {why:?}, but {}", found[0]);
}

/// The history that a story tells.
pub(crate) fn parse(story: &str) -> Vec<Event> {
    let mut events = Vec::new();
    let mut opened = std::collections::BTreeSet::new();
    let mut ms = 0u64;
    for step in story.split(';').map(str::trim).filter(|s| !s.is_empty()) {
        if let Some(time) = step.strip_prefix('@') {
            ms = time.parse().expect("milliseconds");
            continue;
        }
        ms += 1;
        let at = ms * 1_000_000;
        let words: Vec<&str> = step.split_whitespace().collect();
        let what = match mark(&words) {
            Some(mark) => What::Mark(mark),
            None => {
                let (client, handle) = words[0].split_once('.').unwrap_or((words[0], "1"));
                let (client, handle): (u32, u32) = (client.parse().unwrap(), handle.parse().unwrap());
                if opened.insert(client) {
                    let node = (client / 10) as u16;
                    events.push(Event { at: at - 500_000, what: What::Opened { client, node } });
                }
                parse_step(client, handle, &words[1..])
            }
        };
        events.push(Event { at, what });
    }
    events
}

fn mark(words: &[&str]) -> Option<Mark> {
    Some(match words[0] {
        "storm" => Mark::Storm,
        "calm" => Mark::Calm,
        "polite" => Mark::Polite,
        "polite-end" => Mark::PoliteEnd,
        "drained" => Mark::Drained,
        "node-gone" => Mark::NodeGone(words.get(1).map(|node| node.parse().expect("a node"))),
        "new-cluster" => Mark::NewCluster,
        _ => return None,
    })
}

fn parse_step(client: u32, handle: u32, words: &[&str]) -> What {
    let mode = |n: usize| words[n].parse::<Mode>().unwrap();
    let flags = words.iter().filter_map(|w| Flags::from_name(w)).fold(Flags::empty(), Flags::union);
    let after = |key: &str| words.iter().find_map(|w| w.strip_prefix(key));
    let timeout_ms = after("timeout=").map_or(0, |n| n.parse().unwrap());
    let value = after("write=").map(|n| Box::new(block(n)));
    let asked = |ask| What::Asked { client, handle, ask };
    let told = |told| What::Told { client, handle, told };
    match words[0] {
        "lock" => {
            let (space, name) = match words[1].strip_prefix("strict/") {
                Some(name) => (1, name),
                None => (0, words[1]),
            };
            let name = Name::new(name.as_bytes()).unwrap();
            asked(Ask::Lock { space, name, mode: mode(2), flags, timeout_ms })
        }
        "convert" => {
            let flags = if value.is_some() { flags | Flags::VALBLK } else { flags };
            asked(Ask::Convert { mode: mode(1), flags, timeout_ms, value })
        }
        "unlock" => asked(Ask::Unlock { value, invalidate: words.contains(&"invalidate") }),
        "cancel" => asked(Ask::Cancel),
        "granted" => told(Told::Granted {
            mode: mode(1),
            token: (words.get(2) != Some(&"-")).then(|| token(words[2])),
            value: after("read=").map(|text| Box::new(read(text))),
            alternate: words.contains(&"alternate"),
        }),
        "token" => told(Told::Token { token: token(words[1]) }),
        "released" => told(Told::Released),
        "failed" => {
            let named = |c: &&Code| format!("{c:?}") == words[1];
            told(Told::Failed { code: *Code::ALL.iter().find(named).expect("a code") })
        }
        "blocking" => told(Told::Blocking { wanted: mode(1) }),
        "died" => What::Ended { client, how: End::Died },
        "lost" => What::Ended { client, how: End::Lost },
        "opened" => What::Opened { client, node: (client / 10) as u16 },
        other => panic!("no step is called {other:?}"),
    }
}

/// `epoch.serial.local`
fn token(text: &str) -> Token {
    let n: Vec<u64> = text.split('.').map(|n| n.parse().unwrap()).collect();
    Token { fence: Fence::new(Epoch(n[0] as u32), n[1]), local: n[2] }
}

/// A block recognisable by its name; `0` is all zeros, `a|b` is torn between two.
fn block(name: &str) -> Block {
    if let Some((a, b)) = name.split_once('|') {
        let (mut block, b) = (block(a), self::block(b));
        block[VALUE_BYTES / 2..].copy_from_slice(&b[VALUE_BYTES / 2..]);
        return block;
    }
    if name == "0" {
        return [0; VALUE_BYTES];
    }
    let mut block = [name.as_bytes()[0]; VALUE_BYTES];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block
}

/// `sequence:name`, with `!` behind it if it is not to be believed.
fn read(text: &str) -> Value {
    let (sequence, name) = text.split_once(':').unwrap();
    let (name, valid) = match name.strip_suffix('!') {
        Some(name) => (name, false),
        None => (name, true),
    };
    Value { sequence: sequence.parse().unwrap(), valid, bytes: block(name) }
}
