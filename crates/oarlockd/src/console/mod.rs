//! Questions of people and machines, answered as documents: JSON on the session socket, text over HTTP.
//!
//! ```text
//!   session ─ Ask ─► engine ─ Asked ─► console ─ Snapshot, Look ─► engine
//!                                         │ ◄──── what is asked ─────┘
//!   session ◄ Answer ─ engine ◄──────────┘          http ─► the same way
//! ```
//!
//! A thread of its own: making documents out of thousands of rows never delays a grant.

mod backup;
mod change;
mod deadlocks;
pub mod doc;
mod events;
mod failover;
mod fences;
mod health;
mod http;
mod joining;
mod kept;
mod keys;
mod members;
mod merge;
mod metrics;
mod registry;
mod restart;
pub(crate) mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use oarlock_cluster::registry::{Need, Registry};
use oarlock_layout::code::Code;
use oarlock_layout::id::{Epoch, Incarnation, NodeId, SpaceId};
use oarlock_layout::message::look::{At, Seen};
use oarlock_layout::name::Name;
use oarlock_node::rights::Permit;
use oarlock_node::text;
use tokio::sync::{Mutex, Notify, Semaphore, mpsc, oneshot, watch};

pub use merge::merge;
pub(crate) use restart::{CAN, restarted};

use crate::config::Config;
use crate::engine::{Answer, Asked, Control, Knock, Link, Next, Snapshot};
use crate::host::clock;
use crate::host::key::Secret;
use crate::host::keychain::Keychain;
use crate::problem::{Problem, Result};
use change::Wish;
use doc::Question;
use joining::Greeter;

/// An engine that says nothing for so long is stuck. Members are asked for at most a second.
const ENGINE_MAX: Duration = Duration::from_secs(5);

/// Whoever wants a stamp waits for it no longer than this: a raise is one round, and a member that is silent for longer is put out.
const STAMP_PATIENCE: Duration = Duration::from_secs(4);

/// Looks through whole lockspaces that are under way at a time; more wait here. Such a look takes every engine of the
/// cluster tens of milliseconds, in which it grants nothing.
const LOOKS_MAX: usize = 4;
/// The same for looks at one resource. They cost little, and do not stand in line with the others: while a member is
/// silent each look takes a second, and every `oarlock lock` that waits asks for one.
const LOOKS_AT_ONE_MAX: usize = 64;

/// The names of the members, and what they saw.
type Sights = (BTreeMap<NodeId, String>, Vec<(NodeId, Option<Seen>)>);

/// What every answer needs.
pub(crate) struct Console {
    link: Link,
    config: Config,
    looks: Semaphore,
    looks_at_one: Semaphore,
    /// What owner and group of each lockspace are called. Looked up once: a directory service may take its time.
    called: OnceLock<Vec<(String, String)>>,
    greeter: Greeter,
    /// This node's own keys.
    chain: Arc<Keychain>,
    rotating: keys::State,
    asked_to_rotate: Notify,
    /// Which program takes this one's place in a restart; who has it rehearses one.
    next: Mutex<Next>,
}

impl Console {
    fn new(link: Link, config: Config, chain: Arc<Keychain>, secret: Secret, next: Next) -> Console {
        Console {
            greeter: Greeter::new(chain.own(), secret),
            chain,
            rotating: keys::State::default(),
            asked_to_rotate: Notify::new(),
            next: Mutex::new(next),
            link,
            config,
            looks: Semaphore::new(LOOKS_MAX),
            looks_at_one: Semaphore::new(LOOKS_AT_ONE_MAX),
            called: OnceLock::new(),
        }
    }
}

/// What the console has of keys: this node's own, the cluster's secret, and the questions of machines that want to join, which
/// are answered with both.
pub type Secrets = (Arc<Keychain>, Secret, mpsc::Receiver<Knock>);

/// Starts the console's thread. It ends with the process. It follows what is `applied` to the registry.
pub fn start(
    config: Config,
    link: Link,
    mut asked: mpsc::UnboundedReceiver<Asked>,
    (chain, secret, mut knocks): Secrets,
    applied: watch::Receiver<Arc<Registry>>,
    api: Option<TcpListener>,
    next: Next,
) -> Result<()> {
    let fail = |e: std::io::Error| Problem::io(Code::Failed, "cannot start the console", &e);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fail)?;
    let console = Arc::new(Console::new(link, config, chain, secret, next));
    std::thread::Builder::new()
        .name("console".into())
        .spawn(move || {
            runtime.block_on(async move {
                if let Some(listener) = api {
                    tokio::spawn(http::serve(listener, console.clone()));
                }
                let greeting = console.clone();
                tokio::spawn(async move {
                    while let Some((from, datagram)) = knocks.recv().await {
                        let console = greeting.clone();
                        tokio::spawn(async move { console.knock(from, &datagram).await });
                    }
                });
                let keeping = console.clone();
                tokio::spawn(async move { keeping.keep_keys(applied).await });
                while let Some(asked) = asked.recv().await {
                    let console = console.clone();
                    tokio::spawn(async move { console.answer(asked).await });
                }
            });
        })
        .map_err(fail)?;
    Ok(())
}

impl Console {
    async fn answer(&self, asked: Asked) {
        let answer = match serde_json::from_str::<Question>(&asked.question) {
            Ok(question) => match self.allowed(&question, &asked.permit) {
                Ok(()) if question == Question::Leave => match self.leave(asked.session, asked.request).await
                {
                    // The engine answers, as the last thing that it does.
                    Ok(()) => return,
                    Err(denied) => Err(denied),
                },
                Ok(()) if question == Question::Restart => {
                    match self.restart(asked.session, asked.request).await {
                        // The engine answers, which is another one if all goes well.
                        Ok(()) => return,
                        Err(denied) => Err(denied),
                    }
                }
                Ok(()) => self.document(question, &asked.permit).await,
                Err(denied) => Err(denied),
            },
            Err(e) => Err((Code::Usage, format!("not a question this node understands: {e}"))),
        };
        let answer = match answer {
            Ok(text) => Answer::Document(text),
            Err((code, text)) => Answer::Denied(code, text),
        };
        self.link.send(Control::Answer { session: asked.session, request: asked.request, answer });
    }

    /// Has somebody the right to this? The one place where that is asked.
    fn allowed(&self, question: &Question, permit: &Permit) -> std::result::Result<(), (Code, String)> {
        let space = match question {
            Question::Locks { space, .. }
            | Question::Purge { space, .. }
            | Question::Branch { space, .. }
            | Question::Branches { space, .. } => self.space(space),
            _ => None,
        };
        let name = |space: SpaceId| format!("{:?}", self.config.spaces[usize::from(space.0)].name);
        permit.check(question.kind(), space).map_err(|denied| text::denial(permit, denied, name))
    }

    fn space(&self, name: &str) -> Option<SpaceId> {
        self.config.spaces.iter().position(|s| s.name == name).map(|index| SpaceId(index as u16))
    }

    async fn document(
        &self,
        question: Question,
        permit: &Permit,
    ) -> std::result::Result<String, (Code, String)> {
        let text = match question {
            Question::Status => {
                let called = self.called.get_or_init(|| status::called(&self.config, permit));
                serde_json::to_string(&status::document(
                    &self.config,
                    &self.snapshot().await?,
                    permit,
                    called,
                ))
            }
            Question::Counters => {
                let snapshot = self.snapshot().await?;
                serde_json::to_string(&metrics::document(&snapshot))
            }
            Question::Health { stuck_ms } => {
                serde_json::to_string(&self.health(Duration::from_millis(stuck_ms), permit).await?)
            }
            Question::Deafen { from } => serde_json::to_string(&self.deafen(from).await?),
            Question::Failovers => {
                let snapshot = self.snapshot().await?;
                let name = names(&self.config, &snapshot);
                serde_json::to_string(&failover::document(&name, &snapshot, clock::wall_millis()))
            }
            Question::Deadlocks => {
                let snapshot = self.snapshot().await?;
                let name = names(&self.config, &snapshot);
                let spaces: Vec<&str> = self.config.spaces.iter().map(|it| it.name.as_str()).collect();
                let document = deadlocks::document(&name, &spaces, &snapshot, permit, clock::wall_millis());
                serde_json::to_string(&document)
            }
            Question::Registry => {
                let snapshot = self.snapshot().await?;
                let name = names(&self.config, &snapshot);
                serde_json::to_string(&registry::document(&name, &snapshot)?)
            }
            Question::Backup { here } => serde_json::to_string(&self.backup(here).await?),
            Question::Evict { node, incarnation, epoch } => {
                let run = Incarnation(incarnation);
                let fences = if self.config.fencing.is_empty() { vec![] } else { vec![Need::Program] };
                let wish = Wish::Evict { node, run, epoch: Epoch(epoch), fences };
                serde_json::to_string(&self.change(wish).await?)
            }
            Question::Drain { node, drained } => {
                serde_json::to_string(&self.change(Wish::Drain { node, drained }).await?)
            }
            Question::Unfence { node, incarnation } => {
                let run = Incarnation(incarnation);
                let who = format!("uid {}", permit.who.uid);
                serde_json::to_string(&self.change(Wish::Unfence { node, run, who }).await?)
            }
            Question::CreateToken { node, seconds } => {
                serde_json::to_string(&self.create_token(&node, seconds).await?)
            }
            Question::Tokens => serde_json::to_string(&self.tokens().await?),
            Question::RevokeToken { serial } => serde_json::to_string(&self.revoke_token(serial).await?),
            Question::Leave | Question::Restart => unreachable!("answered by the engine"),
            Question::Remove { node } => serde_json::to_string(&self.remove(&node).await?),
            Question::Stamp { count } => serde_json::to_string(&self.stamps(count).await?),
            Question::Keys => serde_json::to_string(&self.keys().await?),
            Question::RotateKey => serde_json::to_string(&self.rotate_key().await?),
            Question::Events { after } => {
                let (sender, receiver) = oneshot::channel();
                self.link.send(Control::Events { after, reply: sender });
                let (first, noted) = wait(receiver).await?;
                let me = self.config.name().to_owned();
                serde_json::to_string(&events::document(me, first, &noted))
            }
            Question::Purge { space, prefix, pid } => {
                serde_json::to_string(&self.purge(&space, prefix.as_deref(), pid, permit).await?)
            }
            Question::Branches { space, branch } => {
                serde_json::to_string(&self.members_of_branches(&space, branch.as_deref(), permit).await?)
            }
            Question::Branch { space, step } => {
                serde_json::to_string(&self.branch(&space, step, permit).await?)
            }
            Question::Locks { space, waiting, name } => {
                let locks = self.locks(&space, waiting, name.as_deref(), permit).await?;
                serde_json::to_string(&doc::Locks { waits: self.waits(&locks).await?, ..locks })
            }
        };
        Ok(text.expect("a document is plain data"))
    }

    async fn deafen(&self, from: Vec<String>) -> std::result::Result<doc::Deafened, (Code, String)> {
        if !self.config.dev {
            let text = "only a node of `oarlock dev` can be told not to hear others".into();
            return Err((Code::ChangeRefused, text));
        }
        let addresses = self
            .config
            .addresses(&from)
            .map_err(|name| (Code::Usage, format!("there is no member {name:?}")))?;
        let (sender, receiver) = oneshot::channel();
        self.link.send(Control::Deafen { from: addresses, reply: sender });
        wait(receiver).await?;
        Ok(doc::Deafened { v: doc::VERSION, node: self.config.name().into(), from })
    }

    /// Stamps of the cluster clock, once all members have acknowledged that they may be issued (E5 to E7).
    async fn stamps(&self, count: u32) -> std::result::Result<doc::Stamps, (Code, String)> {
        if !(1..=doc::STAMPS_MAX).contains(&count) {
            let text =
                format!("{count} stamps at once; at least 1 and at most {} are given", doc::STAMPS_MAX);
            return Err((Code::Usage, text));
        }
        let (sender, receiver) = oneshot::channel();
        self.link.send(Control::Stamp { count, reply: sender });
        let issued = tokio::time::timeout(STAMP_PATIENCE, wait(receiver)).await.map_err(|_| {
            let text =
                "no stamp may be issued: not all members of the view have acknowledged a higher ceiling";
            (Code::NotServing, text.into())
        })?;
        let stamps = issued?.ok_or((Code::NotServing, "this run issues no stamps any more".into()))?;
        let id = self.config.me.0;
        let stamps = stamps.into_iter().map(|stamp| format!("{stamp}.{id}")).collect();
        Ok(doc::Stamps { v: doc::VERSION, node: self.config.name().into(), id, stamps })
    }

    pub(crate) async fn snapshot(&self) -> std::result::Result<Snapshot, (Code, String)> {
        let (sender, receiver) = oneshot::channel();
        self.link.send(Control::Snapshot(sender));
        wait(receiver).await
    }

    /// What is still to be proven of the nodes that some of these locks wait for.
    async fn waits(&self, locks: &doc::Locks) -> std::result::Result<Vec<String>, (Code, String)> {
        let departed: BTreeSet<&String> = locks.resources.iter().flat_map(|it| &it.departed).collect();
        if departed.is_empty() {
            return Ok(Vec::new());
        }
        let snapshot = self.snapshot().await?;
        let Some(registry) = &snapshot.registry else { return Ok(Vec::new()) };
        let pending = fences::pending(&names(&self.config, &snapshot), registry);
        let theirs = pending.into_iter().filter(|fence| departed.contains(&fence.run.node));
        Ok(theirs.map(|fence| fence.text).collect())
    }

    async fn locks(
        &self,
        space: &str,
        waiting: bool,
        name: Option<&str>,
        permit: &Permit,
    ) -> std::result::Result<doc::Locks, (Code, String)> {
        let id = self.asked_space(space, permit)?;
        let at = match name {
            Some(name) => At::Resource(
                Name::new(&Name::unescape(name))
                    .map_err(|e| (Code::BadName, format!("not a resource name: {e}")))?,
            ),
            None if waiting => At::Waiting,
            None => At::All,
        };
        let (names, seen) = self.look(id, at).await?;
        let name_of = |node| names.get(&node).cloned().unwrap_or_else(|| format!("node {node}"));
        Ok(merge(space, &name_of, &seen))
    }

    /// What all members see, and what they are called.
    async fn look(&self, space: SpaceId, at: At) -> std::result::Result<Sights, (Code, String)> {
        let places = match at {
            At::Resource(_) | At::Branches(_) => &self.looks_at_one,
            At::Waiting | At::All => &self.looks,
        };
        let _place = places.acquire().await.expect("nobody closes it");
        let (sender, receiver) = oneshot::channel();
        let reply = Box::new(move |names, seen| {
            // Whoever asked may have left meanwhile.
            let _ = sender.send((names, seen));
        });
        self.link.send(Control::Look { space, at, reply });
        wait(receiver).await
    }
}

/// Names of nodes, also of those that have left.
fn names<'a>(config: &'a Config, snapshot: &'a Snapshot) -> impl Fn(NodeId) -> String + 'a {
    move |node| {
        let record = snapshot.registry.as_ref().and_then(|registry| registry.member(node));
        let configured = || config.member(node).map(|m| m.name.clone());
        record.map(|m| m.name.clone()).or_else(configured).unwrap_or_else(|| format!("node {node}"))
    }
}

async fn wait<T>(receiver: oneshot::Receiver<T>) -> std::result::Result<T, (Code, String)> {
    match tokio::time::timeout(ENGINE_MAX, receiver).await {
        Ok(Ok(it)) => Ok(it),
        Ok(Err(_)) => Err((Code::NotServing, "the node is stopping".into())),
        Err(_) => Err((Code::Failed, format!("the engine says nothing for {} s", ENGINE_MAX.as_secs()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::wake::Wake;
    use oarlock_layout::id::SessionId;
    use oarlock_node::branch::Step;
    use oarlock_node::rights::{Access, Kind, Right, Role, Who};

    const CONFIG: &str = "[node]\nname = \"a\"\n[cluster]\nname = \"c\"\nsecret_file = \"secret\"\n\
                          [[member]]\nname = \"a\"\naddress = \"127.0.0.1:7401\"\n\
                          public_key = \"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\"\n";

    fn root() -> Permit {
        Permit { who: Who::root(), accesses: vec![Default::default()].into(), node: NodeId(0) }
    }

    /// A question of each kind.
    fn questions() -> Vec<Question> {
        let node = || "a".to_owned();
        let questions = vec![
            Question::Status,
            Question::Counters,
            Question::Locks { space: "default".into(), waiting: false, name: None },
            Question::Locks { space: "default".into(), waiting: true, name: None },
            Question::Locks { space: "default".into(), waiting: false, name: Some("job".into()) },
            Question::Purge { space: "default".into(), prefix: None, pid: Some(7) },
            Question::Branches { space: "default".into(), branch: None },
            Question::Branch { space: "default".into(), step: Step::List },
            Question::Branch { space: "default".into(), step: Step::Find { branch: node() } },
            Question::Branch {
                space: "default".into(),
                step: Step::Open { branch: node(), exclusive: true },
            },
            Question::Branch { space: "default".into(), step: Step::Close { branch: node(), force: false } },
            Question::Health { stuck_ms: 1 },
            Question::Deafen { from: Vec::new() },
            Question::Backup { here: true },
            Question::Failovers,
            Question::Deadlocks,
            Question::Registry,
            Question::Stamp { count: 1 },
            Question::Keys,
            Question::RotateKey,
            Question::Evict { node: node(), incarnation: 1, epoch: 1 },
            Question::Drain { node: node(), drained: true },
            Question::Drain { node: node(), drained: false },
            Question::Unfence { node: node(), incarnation: 1 },
            Question::CreateToken { node: "b".into(), seconds: 60 },
            Question::Tokens,
            Question::RevokeToken { serial: 1 },
            Question::Leave,
            Question::Restart,
            Question::Remove { node: node() },
            Question::Events { after: 0 },
        ];
        let missing = |kind: &&Kind| questions.iter().all(|question| question.kind() != **kind);
        let asked = Kind::ALL.iter().skip_while(|kind| **kind != Kind::Status);
        let asked: Vec<_> = asked.take_while(|kind| **kind != Kind::Metrics).filter(missing).collect();
        assert!(asked.is_empty(), "no question of these kinds: {asked:?}");
        questions
    }

    /// No restart is asked for here.
    fn nobody() -> Next {
        let nowhere = std::path::PathBuf::from("/nonexistent");
        let secrets = [nowhere.clone(), nowhere.clone()];
        Next { program: nowhere.clone(), config: nowhere, dev: false, fixed: Vec::new(), secrets }
    }

    /// I22: who may not ask gets a refusal, and the engine hears nothing of it; who may is answered by way of the engine.
    #[test]
    fn every_cell_of_the_questions_holds() {
        let owner = Who { uid: 10, ..Who::default() };
        let grouped = Who { uid: 11, groups: vec![5, 20].into(), ..Who::default() };
        let other = Who { uid: 11, groups: vec![5].into(), ..Who::default() };
        let operator = Who { operator: true, ..other.clone() };
        let callers = [
            (Who::root(), Role::Root, false),
            (owner, Role::Owner, false),
            (grouped, Role::Group, false),
            (other, Role::Other, false),
            (operator, Role::Other, true),
        ];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut cells = 0;
        for mode in [0, 0o400, 0o040, 0o004, 0o600, 0o660, 0o666] {
            for (who, role, operator) in &callers {
                for question in questions() {
                    cells += 1;
                    let what = format!("{role:?} (operator: {operator}), mode {mode:04o}: {question:?}");
                    let right = question.kind().right();
                    let allowed = role.has(right, mode) || *operator && Role::Operator.has(right, mode);
                    let (to_engine, engine) = std::sync::mpsc::channel();
                    let mut config = Config::parse(std::path::Path::new("/x.toml"), CONFIG).unwrap();
                    // Whom it hears only a node of `oarlock dev` can be told.
                    config.dev = true;
                    let chain = Arc::new(Keychain::held());
                    let link = Link::new(to_engine, Wake::new().unwrap());
                    let secret = Secret::generate();
                    let console = Arc::new(Console::new(link, config, chain, secret, nobody()));
                    let access = Access { owner: 10, group: 20, mode, nodes: None };
                    let permit = Permit { who: who.clone(), accesses: vec![access].into(), node: NodeId(0) };
                    let asked = Asked {
                        session: SessionId(1),
                        request: 7,
                        question: serde_json::to_string(&question).unwrap(),
                        permit,
                    };
                    runtime.block_on(async {
                        let task = tokio::spawn(async move { console.answer(asked).await });
                        for _ in 0..10 {
                            tokio::task::yield_now().await;
                        }
                        let heard: Vec<Control> = engine.try_iter().collect();
                        let denied = match &heard[..] {
                            [Control::Answer { answer: Answer::Denied(code, _), request: 7, .. }] => {
                                Some(*code)
                            }
                            [
                                Control::Snapshot(_)
                                | Control::Look { .. }
                                | Control::Events { .. }
                                | Control::Rehearse(_)
                                | Control::Stamp { .. }
                                | Control::Purge { .. }
                                | Control::Branch { .. }
                                | Control::Deafen { .. },
                            ] => None,
                            _ => panic!("{what}: the engine hears {}", heard.len()),
                        };
                        let expected = match right {
                            Right::Operate => Code::NotOperator,
                            _ => Code::SpaceDenied,
                        };
                        assert_eq!(denied, (!allowed).then_some(expected), "{what}");
                        task.abort();
                    });
                }
            }
        }
        assert_eq!(cells, 7 * 5 * questions().len());
    }

    /// However many people and programs ask at once, engines have time for locks between the looks.
    #[test]
    fn looks_take_turns() {
        let (to_engine, engine) = std::sync::mpsc::channel();
        let config = Config::parse(std::path::Path::new("/x.toml"), CONFIG).unwrap();
        let console = Arc::new(Console::new(
            Link::new(to_engine, Wake::new().unwrap()),
            config,
            Arc::new(Keychain::held()),
            Secret::generate(),
            nobody(),
        ));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let asked: Vec<_> = (0..20)
                .map(|_| {
                    let console = console.clone();
                    tokio::spawn(
                        async move { console.locks("default", true, None, &root()).await.map(|_| ()) },
                    )
                })
                .collect();
            let mut answered = 0;
            while answered < 20 {
                tokio::task::yield_now().await;
                let looks: Vec<Control> = engine.try_iter().collect();
                assert!(looks.len() <= LOOKS_MAX, "{} at a time", looks.len());
                for look in looks {
                    let Control::Look { reply, .. } = look else { panic!("only looks were asked for") };
                    reply(Default::default(), Vec::new());
                    answered += 1;
                }
            }
            for it in asked {
                it.await.unwrap().unwrap();
            }
        });
    }

    /// A member that is silent makes looks last a second each. Who waits for one lock must not stand in that line.
    #[test]
    fn looks_at_one_resource_do_not_stand_in_line_with_large_ones() {
        let (to_engine, engine) = std::sync::mpsc::channel();
        let config = Config::parse(std::path::Path::new("/x.toml"), CONFIG).unwrap();
        let console = Arc::new(Console::new(
            Link::new(to_engine, Wake::new().unwrap()),
            config,
            Arc::new(Keychain::held()),
            Secret::generate(),
            nobody(),
        ));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for name in (0..200).map(|i| (i >= 100).then_some("job")) {
                let console = console.clone();
                tokio::spawn(async move { console.locks("default", true, name, &root()).await.map(|_| ()) });
            }
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            // None of them is answered.
            let looks: Vec<Control> = engine.try_iter().collect();
            let one = |c: &&Control| matches!(c, Control::Look { at: At::Resource(_), .. });
            assert_eq!(
                (looks.iter().filter(one).count(), looks.len()),
                (LOOKS_AT_ONE_MAX, LOOKS_AT_ONE_MAX + LOOKS_MAX)
            );
        });
    }
}
