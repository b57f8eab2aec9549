//! The keys of a cluster, and how this node changes its own.
//!
//! ```text
//!   rotate ─► next key on the disk ─► NextKey ─► KeySeen of each member ─► this node uses it ─► circuits have
//!                                                (of the view: use it)     new keys ─► TakeKey ─► the old file goes
//! ```
//!
//! Each step is taken by looking at two things that outlive everybody: the files of the [`Keychain`](crate::host::keychain) and
//! the registry. So whoever starts after a crash, at any step, goes on from there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use oarlock_cluster::registry::{Command, MemberRecord, Outcome, Registry};
use oarlock_layout::code::Code;
use oarlock_layout::id::NodeId;
use oarlock_layout::seal::PublicKey;
use oarlock_layout::time::Instant;
use tokio::sync::{oneshot, watch};
use tracing::{error, info, warn};

use super::change::{Answer, decidable};
use super::joining::registry_of;
use super::{Console, doc, wait};
use crate::engine::Control;
use crate::host::clock;
use crate::host::key::{KEY_BYTES, fingerprint, print, print_hex};
use crate::host::keychain::Standing;
use crate::problem::Problem;

/// How often a change under way is looked at, beside whenever the registry changes.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The same while there is none: somebody else's is seen by what the registry says.
const LOOK_SELDOM: Duration = Duration::from_secs(60);
/// After a command came to nothing.
const PAUSE: Duration = Duration::from_secs(1);

/// What to do about [`Step::Lost`].
const LOST: &str = "the cluster does not know the key of this node: it was restored from a backup of before that key; \
    restore it from a later one, or have this node join anew (`oarlock node remove` and `oarlock token create` at a member, \
    `oarlock join` here with an empty data directory)";

/// What is known of the change of this node's key beside files and registry.
#[derive(Default)]
pub(super) struct Rotating {
    /// When this process began to prove itself with the newer of two keys.
    switched: Option<Instant>,
    /// Why it does not go on, if it is known.
    problem: Option<String>,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing: no key is being changed.
    Rest,
    /// This is waited for.
    Wait(String),
    Announce,
    Switch,
    Take,
    Finish,
    /// The cluster knows no key of this node's any more.
    Lost,
}

/// Looks at files and registry.
fn step(
    st: &Standing,
    record: &MemberRecord,
    registry: &Registry,
    names: &dyn Fn(&[NodeId]) -> String,
) -> Step {
    let announced = |key: &[u8; KEY_BYTES]| record.next.as_ref().is_some_and(|next| next.key.0 == *key);
    let mut unaware: Vec<NodeId> = registry.unaware(record.node).collect();
    match (&st.old, &st.next) {
        (Some(_), _) if record.key.0 == st.current => Step::Finish,
        (Some(_), _) if announced(&st.current) => match unaware.is_empty() {
            true => Step::Take,
            false => Step::Wait(format!("until {} know it, in the view or not", names(&unaware))),
        },
        (Some(_), _) => Step::Lost,
        (None, _) if record.key.0 != st.current && !announced(&st.current) => Step::Lost,
        (None, Some(next)) if announced(next) => {
            unaware.retain(|node| registry.run(*node).is_some());
            match unaware.is_empty() {
                true => Step::Switch,
                false => Step::Wait(format!("until {} know it", names(&unaware))),
            }
        }
        (None, Some(_)) => Step::Announce,
        (None, None) => Step::Rest,
    }
}

/// A problem of the files, for whoever prefixes its code.
fn told(problem: Problem) -> (Code, String) {
    (problem.code, format!("{}: {}", problem.what, problem.why))
}

/// Tells one secret from another.
fn secret_fingerprint(secret: &[u8; KEY_BYTES]) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), b"oarlock secret fingerprint");
    let tag: &[u8; KEY_BYTES] = tag.as_ref().try_into().expect("as many bytes as a key");
    print_hex(tag)[..16].to_owned()
}

impl Console {
    /// Follows the registry for as long as the engine runs.
    pub(super) async fn keep_keys(&self, mut applied: watch::Receiver<Arc<Registry>>) {
        loop {
            let registry = applied.borrow_and_update().clone();
            let every = match self.attend(&registry).await {
                Ok(true) => LOOK_EVERY,
                Ok(false) => LOOK_SELDOM,
                Err((code, text)) => {
                    self.rotating().problem = Some(format!("{code} {text}"));
                    tokio::time::sleep(PAUSE).await;
                    LOOK_EVERY
                }
            };
            tokio::select! {
                changed = applied.changed() => if changed.is_err() { return },
                () = self.asked_to_rotate.notified() => {}
                () = tokio::time::sleep(every) => {}
            }
        }
    }

    /// Does what is due. True if this node's key is being changed.
    async fn attend(&self, registry: &Arc<Registry>) -> Answer<bool> {
        let me = self.config.me;
        // Not by what was before this node joined, when another one may have had its number.
        let Some(record) = registry.members().find(|it| it.node == me && it.name == self.config.name())
        else {
            return Ok(false);
        };
        let unseen = |it: &MemberRecord| {
            let next = it.next.as_ref().filter(|next| it.node != me && !next.seen.contains(&me));
            next.map(|next| (it.node, it.name.clone(), next.key))
        };
        // What is shown here the engine has taken over before: its circuits let that key in already, and so they do after a
        // restart, for what is applied is durable.
        for (node, name, key) in registry.members().filter_map(unseen) {
            let text = format!("{name} changes its key: this node lets it in by the next one as well");
            self.command(Command::KeySeen { node, key, by: me }, &text).await?;
        }
        let standing = self.chain.standing();
        let next = match step(&standing, record, registry, &|nodes| self.named(registry, nodes)) {
            Step::Rest => {
                *self.rotating() = Rotating::default();
                return Ok(false);
            }
            next => next,
        };
        if standing.old.is_some() && self.rotating().switched.is_none() {
            self.rotating().switched = Some(clock::now());
            self.link.send(Control::RenewKeys);
        }
        match next {
            Step::Rest | Step::Wait(_) => {}
            Step::Announce => {
                let (node, seen) = (me, record.revision);
                let key = standing.next.expect("there is one to announce");
                let text = format!("this node changes its key: {} comes next", fingerprint(&key));
                let command =
                    Command::NextKey { node, seen, key: PublicKey(key), made: clock::wall_seconds() };
                self.command(command, &text).await?;
            }
            Step::Switch => {
                self.chain.switch().map_err(told)?;
                info!("this node proves itself with its next key; its circuits agree on new keys, and go on");
            }
            Step::Take if self.unready().await?.is_some() => {}
            Step::Take => {
                let text =
                    "this node changes its key: everybody knows the next one, the one before is retired";
                let key = PublicKey(standing.current);
                self.command(Command::TakeKey { node: me, key }, text).await?;
            }
            Step::Finish => {
                if self.chain.finish().map_err(told)? {
                    warn!(
                        "{} holds the key before, which opens nothing: remove it",
                        self.config.key_file.display()
                    );
                }
                info!("this node has changed its key; the one before is gone");
            }
            Step::Lost => {
                if self.rotating().problem.is_none() {
                    error!("{LOST}");
                }
                return Err((Code::ChangeRefused, LOST.into()));
            }
        }
        self.rotating().problem = None;
        Ok(true)
    }

    /// Why the key before must stay for a moment, if it must. The run may have asked to be let in by it, and circuits may still use
    /// what was agreed on by it.
    async fn unready(&self) -> Answer<Option<&'static str>> {
        let (sender, receiver) = oneshot::channel();
        self.link.send(Control::OldestKeys(sender));
        let ((entered, oldest), switched) = (wait(receiver).await?, self.rotating().switched);
        let renewed = oldest.is_none_or(|oldest| switched.is_some_and(|switched| oldest > switched));
        Ok(match (entered, renewed) {
            (false, _) => Some("until this node is in the view"),
            (true, false) => Some("until all circuits have agreed on new keys"),
            (true, true) => None,
        })
    }

    /// A command that is asked for until it is so.
    async fn command(&self, command: Command, text: &str) -> Answer<()> {
        match self.propose(&command, text).await? {
            // The registry has gone on meanwhile, and what is due is decided anew.
            (Outcome::Refused(why), ..) => Err((Code::ChangeRefused, why.to_string())),
            _ => Ok(()),
        }
    }

    fn named(&self, registry: &Registry, nodes: &[NodeId]) -> String {
        let name =
            |node: &NodeId| registry.member(*node).map_or_else(|| format!("node {node}"), |m| m.name.clone());
        nodes.iter().map(name).collect::<Vec<_>>().join(", ")
    }

    fn rotating(&self) -> MutexGuard<'_, Rotating> {
        self.rotating.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to change this node's key, unless that is under way.
    pub(super) async fn rotate_key(&self) -> Answer<doc::Keys> {
        let snapshot = self.snapshot().await?;
        decidable(&snapshot)?;
        let registry = registry_of(&snapshot)?;
        let me = self.config.me;
        if registry.run(me) != Some(oarlock_layout::id::Incarnation(snapshot.status.incarnation.0)) {
            return Err((Code::NotServing, format!("{} is not in the view", self.config.name())));
        }
        if self.chain.standing().old.is_none() {
            self.chain.make_next().map_err(told)?;
            self.asked_to_rotate.notify_one();
        }
        self.keys().await
    }

    /// What there is of keys.
    pub(super) async fn keys(&self) -> Answer<doc::Keys> {
        let registry = registry_of(&self.snapshot().await?)?;
        let standing = self.chain.standing();
        let record = registry.members().find(|it| it.node == self.config.me);
        let rotation = match record {
            Some(record) => self.rotation(&standing, record, &registry).await?,
            None => None,
        };
        let member = |it: &MemberRecord| doc::MemberKey {
            node: it.name.clone(),
            public_key: print(&it.key.0),
            made: it.made,
            next: it.next.as_ref().map(|next| print(&next.key.0)),
            unaware: registry.unaware(it.node).map(|node| self.named(&registry, &[node])).collect(),
        };
        let made = record.and_then(|it| match it.key.0 == standing.current {
            true => it.made,
            false => it.next.as_ref().map(|next| next.made),
        });
        Ok(doc::Keys {
            v: doc::VERSION,
            node: self.config.name().into(),
            public_key: print(&standing.current),
            made,
            secret: secret_fingerprint(&self.greeter.secret().bytes()),
            rotation,
            members: registry.members().map(member).collect(),
            tokens: registry.tokens().filter(|it| it.expires > clock::wall_seconds()).count(),
        })
    }

    async fn rotation(
        &self,
        standing: &Standing,
        record: &MemberRecord,
        registry: &Registry,
    ) -> Answer<Option<doc::Rotation>> {
        let (phase, waits) = match step(standing, record, registry, &|nodes| self.named(registry, nodes)) {
            Step::Rest => return Ok(None),
            Step::Announce => ("made", "until the cluster has decided it".into()),
            Step::Switch => ("announced", String::new()),
            Step::Wait(waits) if standing.old.is_none() => ("announced", waits),
            Step::Wait(waits) => ("used", waits),
            Step::Take => {
                ("used", self.unready().await?.unwrap_or("until the cluster has decided it").into())
            }
            Step::Finish => ("taken", String::new()),
            Step::Lost => ("lost", "for somebody who looks at it".into()),
        };
        let key = standing.next.filter(|_| standing.old.is_none()).unwrap_or(standing.current);
        let problem = self.rotating().problem.clone();
        Ok(Some(doc::Rotation { phase: phase.into(), public_key: print(&key), waits, problem }))
    }
}

/// For [`Console`].
pub(super) type State = Mutex<Rotating>;

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_cluster::registry::{FirstSpace, Founder, Order, SpaceSettings};
    use oarlock_layout::id::{Epoch, Incarnation};

    const KEYS: [[u8; KEY_BYTES]; 4] = [[1; 32], [2; 32], [3; 32], [9; 32]];

    /// Three members, two of which are in the view.
    fn registry() -> Registry {
        let founder = |n: usize| {
            let address = ([127, 0, 0, 1], 7000 + n as u16).into();
            Founder { name: format!("n{n}"), address, key: PublicKey(KEYS[n]) }
        };
        let settings = SpaceSettings {
            order: Order::Passover,
            value: 64,
            retain: true,
            resources_max: 9,
            owner: 0,
            group: 0,
            mode: 0o660,
        };
        let space = FirstSpace { name: "default".into(), settings };
        let members = (0..3).map(founder).collect();
        let mut registry = Registry::new();
        registry.apply(&Command::Init { cluster: [7; 16], members, spaces: vec![space], above: Epoch(0) });
        for (node, key) in (0..).map(NodeId).zip(&KEYS[..2]) {
            let (key, incarnation) = (PublicKey(*key), Incarnation(1));
            let start = Command::Start { node, key, incarnation, nonce: 1, fences: vec![] };
            assert_eq!(registry.apply(&start), Outcome::Done);
        }
        registry
    }

    fn next_step(st: &Standing, registry: &Registry) -> Step {
        let names = |nodes: &[NodeId]| nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ");
        step(st, registry.member(NodeId(0)).unwrap(), registry, &names)
    }

    /// Files and registry say what is due, in whatever state a crash has left them.
    #[test]
    fn what_is_due_follows_from_files_and_registry() {
        let (old, new) = (KEYS[0], KEYS[3]);
        let before = Standing { current: old, next: None, old: None };
        let made = Standing { current: old, next: Some(new), old: None };
        let used = Standing { current: new, next: None, old: Some(old) };
        let after = Standing { current: new, next: None, old: None };
        let mut registry = registry();
        assert_eq!(next_step(&before, &registry), Step::Rest);
        assert_eq!(next_step(&made, &registry), Step::Announce);
        assert_eq!(next_step(&used, &registry), Step::Lost);
        // Of a backup from before a change that was finished.
        assert_eq!(next_step(&after, &registry), Step::Lost);
        let again = Standing { next: Some(KEYS[1]), ..after };
        assert_eq!(next_step(&again, &registry), Step::Lost);
        let (node, key) = (NodeId(0), PublicKey(new));
        let seen = registry.member(node).unwrap().revision;
        assert_eq!(registry.apply(&Command::NextKey { node, seen, key, made: 5 }), Outcome::Done);
        assert_eq!(next_step(&made, &registry), Step::Wait("until 1 know it".into()));
        registry.apply(&Command::KeySeen { node, key, by: NodeId(1) });
        assert_eq!(next_step(&made, &registry), Step::Switch, "who is not in the view is not waited for yet");
        let waits = Step::Wait("until 2 know it, in the view or not".into());
        assert_eq!(next_step(&used, &registry), waits, "but before the key before is retired");
        registry.apply(&Command::KeySeen { node, key, by: NodeId(2) });
        assert_eq!(next_step(&used, &registry), Step::Take);
        assert_eq!(registry.apply(&Command::TakeKey { node, key }), Outcome::Done);
        assert_eq!(next_step(&used, &registry), Step::Finish);
        assert_eq!(next_step(&after, &registry), Step::Rest);
    }

    #[test]
    fn a_fingerprint_of_a_secret_tells_two_apart_and_holds_nothing_of_them() {
        let (a, b) = (secret_fingerprint(&KEYS[0]), secret_fingerprint(&KEYS[1]));
        assert_ne!(a, b);
        assert_eq!((a.len(), &a), (16, &secret_fingerprint(&KEYS[0])));
        assert!(!print_hex(&KEYS[0]).contains(&a));
    }
}
