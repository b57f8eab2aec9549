//! The control thread: it owns the coordinator of this node, beside the engine that owns everything else.
//!
//! ```text
//!   engine thread                             control thread (one tokio runtime)
//!   ┌─────────────────────┐  Propose, Carried  ┌──────────────────────────────┐
//!   │ Node ── Link ───────┼──────────────────► │ a task for each proposal      │
//!   │   ▲       ▲         │                    │ a task for each call of others│
//!   │   │       │ Wake    │  Carry, Answered,  │ the founding, once            │
//!   │ circuits  └─────────┼─ Failed, Misdeed, ─│ Embedded ── raft.redb, or     │
//!   └─────────────────────┘  Applied, Down     │ External ── etcd              │
//!                                              └──────────────────────────────┘
//! ```
//!
//! Nothing of it ever waits for the engine, and the engine never waits for it: both have a channel, and the engine a bell.
//! Every proposal and every call of another node is a task of its own, so that none waits behind a slow one.
//!
//! # Order
//!
//! [`Link::poll`] shows a registry before the answers that rest on it: whoever hears that a command was applied has seen the
//! registry to which it was applied, or a later one.
//!
//! # The end
//!
//! When the library cannot go on (the disk is full, a command of a newer version), or the thread panics, there is one
//! [`FromControl::Down`] and nothing after it. The node must end its run then: it cannot know any more who is in.

use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use oarlock_cluster::registry::{Command, Outcome, Registry};
use oarlock_layout::code::Code;
use oarlock_layout::id::{Epoch, NodeId};
use oarlock_layout::message::peer::PeerMessage;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Semaphore, TryAcquireError};

use self::engine::Either;
use self::line::{Questions, Through};
use super::etcd::{External, Settings};
use super::raft::{Embedded, Line, Misdeed, Standing, Tuning};
use super::{Coordinator, Trouble};
use crate::host::wake::Wake;
use crate::problem::{Problem, Result};

mod engine;
mod founding;
mod line;
#[cfg(test)]
mod socket_tests;
#[cfg(test)]
mod tests;

/// The coordinator's file in the data directory.
pub const FILE: &str = "raft.redb";

/// Calls of other nodes that are answered at a time; more are lost, as any call may be. Honest nodes have a few under way
/// each: the entries, a vote, and what they propose.
const CALLS_MAX: usize = 1024;
/// Whatever is being written is given this time at the end.
const STOP_MAX: Duration = Duration::from_secs(5);
/// Voters and followers are compared with the registry this often, beside each change of it.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// What the engine tells the control thread.
#[derive(Debug)]
pub enum ToControl {
    /// Put this into the order. Answered with [`FromControl::Answered`] or [`FromControl::Failed`], in any order.
    Propose(Command),
    /// The same for a start, which [`Link::send`] makes of it: whoever proposes it hears everybody in this view.
    Enter {
        /// What.
        start: Command,
        /// The newest view that the engine had seen.
        view: Epoch,
    },
    /// Node `from`, which has proven that it is, sent this.
    Carried {
        /// Who.
        from: NodeId,
        /// What.
        message: PeerMessage,
    },
    /// This node is about to end or to stand still: if it leads, another is to lead. Answered with [`FromControl::SteppedDown`].
    StepDown,
    /// The run ends.
    Stop,
}

/// What the control thread tells the engine.
#[derive(Debug)]
pub enum FromControl {
    /// Send this; if that cannot be, it is lost.
    Carry {
        /// To whom.
        to: NodeId,
        /// What.
        message: PeerMessage,
    },
    /// Another node leads or votes than before, or nobody leads.
    Standing(Standing),
    /// This is the registry here now. Of several changes in a row only the last may be shown.
    Applied(Arc<Registry>),
    /// A command was applied here.
    Answered {
        /// As it was proposed.
        command: Command,
        /// What came of it.
        outcome: Outcome,
    },
    /// A command was not decided, as far as this node knows.
    Failed {
        /// As it was proposed.
        command: Command,
        /// Why.
        trouble: Trouble,
    },
    /// Another leads, or none came to it in time; or this node did not lead.
    SteppedDown,
    /// A member sent what no honest one sends.
    Misdeed {
        /// Who.
        from: NodeId,
        /// What.
        misdeed: Misdeed,
    },
    /// The coordinator cannot go on: the node must end its run. Nothing comes after it.
    Down(Problem),
}

/// What a control thread is made of.
pub struct Parts {
    /// This node.
    pub me: NodeId,
    /// Its file; see [`prepare`].
    pub file: PathBuf,
    /// The cluster that this node founds, if it is a founder: [`Command::found`].
    pub founding: Option<Command>,
    /// The revision of the registry with which this node became a member, if it joined: before that, another node may have had its
    /// number.
    pub joined: Option<u64>,
    /// How long things take.
    pub tuning: Tuning,
    /// Rung when there is something for the engine.
    pub wake: Wake,
}

/// The engine's end.
pub struct Link {
    to: UnboundedSender<ToControl>,
    from: Receiver<FromControl>,
    shown: Shown,
    /// Taken from the channel, and kept back until the registry has been shown.
    held: Option<FromControl>,
    /// The view of the registry that was shown last.
    seen: Epoch,
    /// A view below this one is not believed.
    least: Epoch,
    /// What the engine knows already is not shown to it again, nor anything before that: it goes on with a run in which it was shown.
    known: Option<u64>,
    thread: Option<JoinHandle<()>>,
    /// Closed when the thread has let go of its file.
    done: Receiver<()>,
}

/// The newest registry that the engine has not seen.
type Shown = Arc<Mutex<Option<Arc<Registry>>>>;

/// The thread's way to the engine. Clones lead to the same one.
#[derive(Clone)]
struct ToEngine {
    sender: Sender<FromControl>,
    shown: Shown,
    wake: Wake,
}

impl ToEngine {
    /// An engine that has ended hears nothing, and needs nothing.
    fn send(&self, message: FromControl) {
        if self.sender.send(message).is_ok() {
            self.wake.ring();
        }
    }

    fn show(&self, registry: Arc<Registry>) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(registry);
        self.wake.ring();
    }
}

/// Makes the file of a node that has never run, and refuses one that has run without it: what it has promised and stored is
/// forgotten, and it would promise anew. The file must be of the same beginning of the cluster as the data directory. To be called
/// before a run is noted.
///
/// # Errors
/// [`Code::CoordinatorFile`], with the name of the file.
pub fn prepare(file: &std::path::Path, first_run: bool, restoration: Option<u64>) -> Result<()> {
    match file.try_exists() {
        Ok(false) if !first_run => {
            Err(unusable(&format!("{}: it is missing, and this node has run before", file.display())))
        }
        Ok(_) => super::raft::prepare(file, restoration).map_err(|why| unusable(&why)),
        Err(e) => Err(unusable(&format!("{}: {e}", file.display()))),
    }
}

/// Makes the file of a node that joins a cluster: an empty log, of the same beginning as the others'.
///
/// # Errors
/// [`Code::CoordinatorFile`], with the name of the file and what of it cannot be used.
pub fn prepare_newcomer(file: &std::path::Path, restoration: Option<u64>) -> Result<()> {
    super::raft::prepare_newcomer(file, restoration).map_err(|why| unusable(&why))
}

fn unusable(why: &str) -> Problem {
    Problem::new(Code::CoordinatorFile, "the coordinator's file cannot be used").because(why)
}

/// Refuses a node whose cluster was decided about by its members before: with etcd it would be another cluster, in which
/// nobody knows of the locks of this one.
///
/// # Errors
/// [`Code::CoordinatorFile`], with the name of the file.
pub fn prepare_outside(file: &std::path::Path) -> Result<()> {
    if !file.exists() {
        return Ok(());
    }
    Err(unusable(&format!(
        "{} is of a cluster that decides by itself, and this one is to rely on etcd",
        file.display()
    ))
    .try_next("the coordinator that it had, or an empty data directory at every member"))
}

/// Starts the thread for a node that relies on etcd, which need not answer yet. An etcd whose view is below `least` is not
/// believed: the link says so, and shows nothing of it.
///
/// # Errors
/// [`Code::CoordinatorStopped`], with what cannot be used of the settings.
pub fn start_outside(
    settings: Settings,
    founding: Option<Command>,
    least: Epoch,
    wake: Wake,
) -> Result<Link> {
    let started =
        start_thread(founding, None, wake, |_| async move { External::start(&settings).map(Either::Etcd) });
    started?.map(|link| Link { least, ..link }).map_err(|why| down(&why))
}

/// Starts the thread, and returns when it has read its file.
///
/// # Errors
/// [`Code::CoordinatorFile`], with the name of the file and what of it cannot be used.
pub fn start(parts: Parts) -> Result<Link> {
    start_with(parts, |me, file: PathBuf, line, tuning| async move {
        Embedded::start(me, &file, line, tuning).await
    })
}

/// Starts the thread of a run that goes on, and does not wait: programs need the engine before it needs a coordinator. What of the
/// file cannot be used is the coordinator's end.
///
/// # Errors
/// If there is no thread.
pub fn resume(parts: Parts) -> Result<Link> {
    let Parts { me, file, founding, joined, mut tuning, wake } = parts;
    tuning.campaigns = joined.is_none();
    let open = move |line| async move { Embedded::start(me, &file, line, tuning).await.map(Either::Raft) };
    Ok(begin_thread(founding, joined.map(|since| (me, since)), wake, open)?.0)
}

/// The same on whatever `open` opens.
fn start_with<F, C>(parts: Parts, open: F) -> Result<Link>
where
    F: FnOnce(NodeId, PathBuf, Arc<dyn Line>, Tuning) -> C + Send + 'static,
    C: Future<Output = std::result::Result<Embedded, String>>,
{
    let Parts { me, file, founding, joined, mut tuning, wake } = parts;
    tuning.campaigns = joined.is_none();
    let open = move |line| async move { open(me, file, line, tuning).await.map(Either::Raft) };
    start_thread(founding, joined.map(|since| (me, since)), wake, open)?.map_err(|why| unusable(&why))
}

/// The thread, with the engine that `open` opens; or why that could not be opened.
fn start_thread<F, C>(
    founding: Option<Command>,
    joined: Option<(NodeId, u64)>,
    wake: Wake,
    open: F,
) -> Result<std::result::Result<Link, String>>
where
    F: FnOnce(Arc<dyn Line>) -> C + Send + 'static,
    C: Future<Output = std::result::Result<Either, String>>,
{
    let (mut link, outcome) = begin_thread(founding, joined, wake, open)?;
    Ok(match outcome.recv() {
        Ok(Ok(())) => Ok(link),
        Ok(Err(why)) => {
            // It lets go of the file before anybody tries again.
            let _ = link.thread.take().expect("it was begun").join();
            Err(why)
        }
        Err(_) => Err("the thread ended while it began".into()),
    })
}

/// What is opened, or why it could not be.
type Opened = std::result::Result<(), String>;

/// The same without waiting: who drops the receiver hears of a failure as of every other end.
fn begin_thread<F, C>(
    founding: Option<Command>,
    joined: Option<(NodeId, u64)>,
    wake: Wake,
    open: F,
) -> Result<(Link, Receiver<Opened>)>
where
    F: FnOnce(Arc<dyn Line>) -> C + Send + 'static,
    C: Future<Output = std::result::Result<Either, String>>,
{
    let fail = |e: std::io::Error| Problem::io(Code::Failed, "cannot start the coordinator", &e);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fail)?;
    let (to, wishes) = unbounded_channel();
    let (sender, from) = mpsc::channel();
    let (started, outcome) = mpsc::channel();
    let (end, done) = mpsc::channel();
    let shown = Shown::default();
    let engine = ToEngine { sender, shown: Arc::clone(&shown), wake };
    let thread = std::thread::Builder::new().name("control".into()).spawn(move || {
        // The last to go: then the file is free.
        let _end = end;
        let watch = Watchman(engine.clone());
        runtime.block_on(async move {
            let questions = Questions::default();
            let line = Arc::new(Through { engine: engine.clone(), questions: questions.clone() });
            let coordinator = match open(line).await {
                Ok(coordinator) => coordinator,
                Err(why) => {
                    // Whoever started the thread waits for this, or is told as of every other end.
                    if let Err(mpsc::SendError(Err(why))) = started.send(Err(why)) {
                        engine.send(FromControl::Down(unusable(&why)));
                    }
                    return;
                }
            };
            // Who the members are is known before the first datagram is read.
            engine.show(Arc::clone(&coordinator.applied().borrow().registry));
            let _ = started.send(Ok(()));
            let calls = Arc::new(Semaphore::new(CALLS_MAX));
            Control { coordinator, engine, questions, calls, joined }.run(founding, wishes).await;
        });
        drop(watch);
        runtime.shutdown_timeout(STOP_MAX);
    });
    let thread = thread.map_err(fail)?;
    let link = Link {
        to,
        from,
        shown,
        held: None,
        seen: Epoch(0),
        least: Epoch(0),
        known: None,
        thread: Some(thread),
        done,
    };
    Ok((link, outcome))
}

/// Tells the engine if the thread panics.
struct Watchman(ToEngine);

impl Drop for Watchman {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.send(FromControl::Down(down("it panicked; the log has the place")));
        }
    }
}

/// What etcd says is older than what this directory has seen (R6).
fn went_back(says: Epoch, seen: Epoch) -> Problem {
    Problem::new(Code::DataDir, format!("etcd is at view {says}, and this node was in view {seen}"))
        .because("etcd was put back to an older snapshot, or prefix or endpoints are others: tokens would be issued a second time")
        .try_next("the etcd that it had; if that is lost, with every node stopped: an empty prefix and empty data directories, and no token of before believed")
}

fn down(why: &str) -> Problem {
    Problem::new(Code::CoordinatorStopped, "the coordinator of this node cannot go on").because(why)
}

impl Link {
    /// Tells the thread something. One that has ended has said so ([`FromControl::Down`]).
    pub fn send(&self, message: ToControl) {
        let message = match message {
            ToControl::Propose(start @ Command::Start { .. }) => ToControl::Enter { start, view: self.seen },
            other => other,
        };
        let _ = self.to.send(message);
    }

    /// The engine has been shown this registry, by the program that was in this one's place.
    pub fn shown(&mut self, registry: &Registry) {
        (self.known, self.seen) = (Some(registry.revision()), registry.view().epoch);
    }

    /// What the thread has to say, until it is `None`; then wait for the bell.
    pub fn poll(&mut self) -> Option<FromControl> {
        if self.held.is_none() {
            self.held = self.from.try_recv().ok();
        }
        // What is shown was shown before what is held was sent, or is newer.
        let registry = self.shown.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(registry) = &registry {
            // Before the founding there is no view yet.
            if registry.cluster().is_some() && registry.view().epoch < self.least {
                return Some(FromControl::Down(went_back(registry.view().epoch, self.least)));
            }
        }
        let known = self.known;
        let registry = registry.filter(|it| known.is_none_or(|known| it.revision() > known));
        if let Some(registry) = &registry {
            self.known = None;
            self.seen = registry.view().epoch;
        }
        registry.map(FromControl::Applied).or_else(|| self.held.take())
    }

    /// Ends the thread, and waits until its file is closed. False if a disk does not let it go in time.
    pub fn stop(mut self) -> bool {
        self.send(ToControl::Stop);
        let thread = self.thread.take().expect("it is stopped once");
        match self.done.recv_timeout(2 * STOP_MAX) {
            Err(RecvTimeoutError::Timeout) => false,
            Ok(()) | Err(RecvTimeoutError::Disconnected) => thread.join().is_ok(),
        }
    }
}

// ----- the thread ---------------------------------------------------------------------------------------------

struct Control {
    coordinator: Either,
    engine: ToEngine,
    questions: Questions,
    calls: Arc<Semaphore>,
    /// This node, and since when it is a member, if it joined.
    joined: Option<(NodeId, u64)>,
}

impl Control {
    /// Until it is to stop, or cannot go on.
    async fn run(self, founding: Option<Command>, mut wishes: UnboundedReceiver<ToControl>) {
        let why = tokio::select! {
            () = self.listen(&mut wishes) => None,
            () = self.show() => None,
            () = self.watch() => None,
            () = self.follow() => None,
            why = self.found(founding) => Some(why),
            why = self.coordinator.failed() => Some(why),
        };
        // What others see of this node's end comes after it.
        self.coordinator.stop().await;
        if let Some(why) = why {
            self.engine.send(FromControl::Down(down(&why)));
        }
    }

    /// Until the engine ends, or says so.
    async fn listen(&self, wishes: &mut UnboundedReceiver<ToControl>) {
        while let Some(wish) = wishes.recv().await {
            match wish {
                ToControl::Propose(command) => self.propose(command, None),
                ToControl::Enter { start, view } => self.propose(start, Some(view)),
                ToControl::Carried { from, message: PeerMessage::Call { question, call } } => {
                    self.answer(from, question, call);
                }
                ToControl::Carried { from, message: PeerMessage::Answer { question, answer } } => {
                    self.questions.answer(from, question, answer);
                }
                ToControl::StepDown => {
                    let (coordinator, engine) = (self.coordinator.clone(), self.engine.clone());
                    tokio::spawn(async move {
                        coordinator.step_down().await;
                        engine.send(FromControl::SteppedDown);
                    });
                }
                // The hall carries nothing else here.
                ToControl::Carried { .. } => {}
                ToControl::Stop => return,
            }
        }
    }

    /// Only if `view` is the newest, if there is one: a node that is behind, because it was away or reads the order from its
    /// beginning, may hear everybody in an old view, and not those who are in now (L7). Who comes in between this look and the start
    /// itself, a round of the coordinator later, is not seen: if they do not hear each other, a verdict puts one out again.
    fn propose(&self, command: Command, view: Option<Epoch>) {
        let (coordinator, engine) = (self.coordinator.clone(), self.engine.clone());
        tokio::spawn(async move {
            let newest = match view {
                None => Ok(true),
                Some(view) => coordinator.confirmed().await.map(|it| it.view().epoch == view),
            };
            let decided = match newest {
                Ok(true) => coordinator.propose(&command).await,
                Ok(false) => Err(Trouble::Behind),
                Err(trouble) => Err(trouble),
            };
            // Before the answer, so that it is seen before it.
            engine.show(Arc::clone(&coordinator.applied().borrow().registry));
            engine.send(match decided {
                Ok(outcome) => FromControl::Answered { command, outcome },
                Err(trouble) => FromControl::Failed { command, trouble },
            });
        });
    }

    fn answer(&self, from: NodeId, question: u64, call: oarlock_layout::message::raft::Call) {
        let permit = match Arc::clone(&self.calls).try_acquire_owned() {
            Ok(permit) => permit,
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => return,
        };
        let (coordinator, engine) = (self.coordinator.clone(), self.engine.clone());
        tokio::spawn(async move {
            let _permit = permit;
            engine.send(match coordinator.handle(from, call).await {
                Ok(answer) => {
                    FromControl::Carry { to: from, message: PeerMessage::Answer { question, answer } }
                }
                Err(misdeed) => FromControl::Misdeed { from, misdeed },
            });
        });
    }

    /// Shows each registry that is applied, the one that came from the disk first.
    async fn show(&self) {
        // What an order that is read from its beginning comes by on the way is long over.
        self.coordinator.caught_up().await;
        let mut applied = self.coordinator.applied();
        loop {
            let registry = Arc::clone(&applied.borrow_and_update().registry);
            self.engine.show(registry);
            if applied.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Says who leads and who votes.
    async fn watch(&self) {
        let mut standing = Standing::default();
        loop {
            standing = self.coordinator.standing_after(&standing).await;
            self.engine.send(FromControl::Standing(standing.clone()));
        }
    }

    /// Returns only if the cluster cannot be founded, with the reason.
    async fn found(&self, founding: Option<Command>) -> String {
        match founding {
            None => std::future::pending().await,
            Some(founding) => match self.coordinator.found(&founding).await {
                Ok(()) => std::future::pending().await,
                Err(why) => format!("the cluster cannot be founded: {why}"),
            },
        }
    }

    /// Keeps voters and followers as the registry says.
    async fn follow(&self) {
        // Beside each change of the registry: the leader may be another one than when it changed.
        let mut applied = self.coordinator.applied();
        loop {
            let registry = Arc::clone(&applied.borrow_and_update().registry);
            if self.joined.is_some_and(|(me, since)| founding::votes(&registry, me, since)) {
                self.coordinator.campaign();
            }
            // What did not come about is tried again.
            let _ = self.coordinator.follow(&registry).await;
            tokio::select! {
                changed = applied.changed() => if changed.is_err() {
                    return std::future::pending().await;
                },
                () = tokio::time::sleep(FOLLOW_EVERY) => {}
            }
        }
    }
}
