//! A storyboard as data, and how each part of it is written.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::mode::Mode;

/// The state in which a flow ends. It has no rows.
pub const DONE: &str = "done";

/// A storyboard (S1): parallel flows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Story {
    /// Its first heading.
    pub title: String,
    /// In the order of the file.
    pub flows: Vec<Flow>,
}

/// One independent cursor over a table of its own (S5). A flow with a node is a program there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flow {
    /// What others call it.
    pub name: String,
    /// Where its program runs. Without one it takes no locks.
    pub node: Option<Place>,
    /// Line of its heading.
    pub line: u32,
    /// The first row's state is the one in which the flow begins.
    pub rows: Vec<Row>,
}

/// One row: if the flow is in this state and this happens, do this and go there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Where it stands in the file.
    pub line: u32,
    /// It applies only here (S2).
    pub state: String,
    /// It applies only when this has happened.
    pub on: On,
    /// One after the other.
    pub commands: Vec<Command>,
    /// Worked out when the commands are done (S3).
    pub next: Next,
}

/// A node of the cluster: 0 is `node-a`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place(pub u16);

/// A resource in one of the two lockspaces that every stage has.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Resource {
    /// In the lockspace `strict` instead of `default`.
    pub strict: bool,
    /// Its name.
    pub name: String,
}

/// What a row waits for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum On {
    /// Nothing: the row applies as soon as its state is entered.
    Now,
    /// A request of this handle was granted.
    Granted(String),
    /// It failed in this way.
    Why(Code, String),
    /// It failed in whatever way.
    Failed(String),
    /// It was granted, failed, or the lock was given back.
    Answered(String),
    /// The lock was given back.
    Released(String),
    /// Somebody waits behind the lock.
    Blocking(String),
    /// The program's session is over, and all its locks with it.
    Lost,
    /// Another session of the program has begun.
    Attached,
    /// So long after the state was entered.
    After(Duration),
    /// All flows that name this barrier have come to it.
    Meet(String),
    /// Some flow raised this, perhaps long ago (S6).
    Event(String),
}

/// Something to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Asks for a new lock, and does not wait for the answer.
    Lock {
        /// On what.
        resource: Resource,
        /// In which mode.
        mode: Mode,
        /// How.
        flags: Flags,
        /// Give up after so long.
        within: Option<Duration>,
        /// What the flow calls the lock.
        handle: String,
    },
    /// Asks for another mode.
    Convert {
        /// Which lock.
        handle: String,
        /// The mode.
        mode: Mode,
        /// How.
        flags: Flags,
        /// Give up after so long.
        within: Option<Duration>,
        /// A new value block.
        value: Option<String>,
    },
    /// Reads the value block under a lock that may not write it.
    Read(String),
    /// Gives a lock back.
    Unlock {
        /// Which lock.
        handle: String,
        /// A new value block.
        value: Option<String>,
        /// Mark the block as not to be believed.
        invalidate: bool,
    },
    /// Withdraws what a lock waits for.
    Cancel(String),
    /// Waits until a lock has its answer.
    Wait(String),
    /// Lets time pass.
    Pass(Duration),
    /// Raises a named event.
    Raise(String),
    /// Keeps a number in a private variable of the flow.
    Let(String, Sum),
    /// Says something to whoever watches.
    Say(String),
    /// Kills the program of a flow.
    Kill(String),
    /// Stops a node without ending it.
    Pause(Place),
    /// Lets it go on.
    Continue(Place),
    /// Cuts the network from one node to another; both ways if so marked.
    Cut(Link),
    /// Takes such a cut away.
    Heal(Link),
    /// Opens another session, after the one before was lost.
    Attach,
    /// Kills a node.
    KillNode(Place),
    /// Kills the engine of a node. Its keeper lives.
    KillEngine(Place),
    /// Stops a node in order.
    StopNode(Place),
    /// Starts a node that was killed or stopped.
    StartNode(Place),
    /// The member at a node leaves the cluster in order and for good.
    LeaveNode(Place),
    /// Another machine joins in the place of a member that left.
    JoinNode(Place),
    /// This must be so now.
    Expect(Condition),
    /// The checker of this promise must have found nothing so far.
    History(Promise),
}

/// A way between two nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Link {
    /// One end.
    pub from: Place,
    /// The other end.
    pub to: Place,
    /// Only from the one to the other.
    pub one_way: bool,
}

/// What is promised of a whole history. Each has a checker that knows nothing of how it is kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Promise {
    /// All of them.
    All,
    /// No two locks in conflicting modes at once.
    Exclusion,
    /// Each read sees the newest block, or is told that it cannot be believed.
    Value,
    /// Tokens of exclusive grants rise.
    Tokens,
    /// Nobody is overtaken more often than the lockspace allows.
    Order,
    /// Each request has one answer, of a kind that was possible.
    Answers,
    /// Nobody waits without somebody real in the way.
    Liveness,
}

/// A fact, or its opposite.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    /// The opposite of the fact.
    pub not: bool,
    /// The fact.
    pub fact: Fact,
}

/// A lock of this flow or, in an expectation, of another.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Handle {
    /// Whose; this flow's own if none is named.
    pub flow: Option<String>,
    /// What that flow calls it.
    pub name: String,
}

/// What can be so or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fact {
    /// The lock is held, in this mode if one is named, and nothing is asked of it.
    Granted(Handle, Option<Mode>),
    /// A request of it has no answer yet.
    Waiting(Handle),
    /// Its last request failed in this way.
    Why(Code, Handle),
    /// Its last request failed.
    Failed(Handle),
    /// It was given back.
    Released(Handle),
    /// Somebody waits behind it, and its program was told.
    Blocking(Handle),
    /// The session of this flow is over, or of another.
    Lost(Option<String>),
    /// What its last grant read.
    Value(Handle, Read),
    /// This event was raised.
    Raised(String),
    /// Two numbers compare so.
    Compare(Sum, Comparison, Sum),
}

/// What is read of a value block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Read {
    /// Valid, and begins with this text; zeros follow.
    Text(String),
    /// It cannot be believed.
    Invalid,
    /// Valid, and nobody ever wrote it.
    Never,
    /// The last grant read none.
    Nothing,
}

/// How two numbers compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Comparison {
    /// `==`
    Equal,
    /// `!=`
    Unequal,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    More,
    /// `>=`
    AtLeast,
}

/// A term and a number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sum {
    /// The term.
    pub term: Term,
    /// What is added to it.
    pub plus: u64,
}

/// Where a number comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Term {
    /// It stands there.
    Number(u64),
    /// A variable of the flow.
    Variable(String),
    /// The token of a lock's last grant.
    Token(Handle),
    /// A counter of a node.
    Counter(String, Place),
}

/// The state to go to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// Always this one.
    State(String),
    /// This one if the condition holds, else another.
    If(String, Condition, Box<Next>),
}

impl Next {
    /// Every state it may lead to.
    pub fn states(&self) -> Vec<&str> {
        let mut states = Vec::new();
        let mut next = self;
        while let Next::If(state, _, other) = next {
            states.push(state.as_str());
            next = other;
        }
        if let Next::State(state) = next {
            states.push(state);
        }
        states
    }

    /// Every condition it asks.
    pub fn conditions(&self) -> Vec<&Condition> {
        let mut conditions = Vec::new();
        let mut next = self;
        while let Next::If(_, condition, other) = next {
            conditions.push(condition);
            next = other;
        }
        conditions
    }
}

/// The words for ways to fail.
pub(crate) const WHYS: &[(&str, Code)] = &[
    ("busy", Code::Busy),
    ("timed-out", Code::TimedOut),
    ("cancelled", Code::Cancelled),
    ("not-owned", Code::NotOwned),
    ("no-such-lock", Code::NoSuchLock),
    ("in-flight", Code::InFlight),
    ("bad-conversion", Code::BadConversion),
    ("bad-flags", Code::BadFlags),
    ("deadlock", Code::Deadlock),
    ("not-serving", Code::NotServing),
    ("fenced", Code::Fenced),
];

/// The word for a code. Codes without a word do not come out of a file.
pub(crate) fn why(code: Code) -> &'static str {
    WHYS.iter().find(|(_, c)| *c == code).map_or("failed", |(word, _)| word)
}

/// The words for promises, which are also the names of their checkers.
pub(crate) const PROMISES: &[(&str, Promise)] = &[
    ("all", Promise::All),
    ("exclusion", Promise::Exclusion),
    ("value", Promise::Value),
    ("tokens", Promise::Tokens),
    ("order", Promise::Order),
    ("answers", Promise::Answers),
    ("liveness", Promise::Liveness),
];

impl Promise {
    /// Its word, and the name of its checker.
    pub fn name(self) -> &'static str {
        PROMISES.iter().find(|(_, p)| *p == self).map_or("", |(word, _)| word)
    }
}

pub(crate) const COMPARISONS: &[(&str, Comparison)] = &[
    ("==", Comparison::Equal),
    ("!=", Comparison::Unequal),
    ("<", Comparison::Less),
    ("<=", Comparison::AtMost),
    (">", Comparison::More),
    (">=", Comparison::AtLeast),
];

impl Comparison {
    /// Is it so?
    pub fn holds(self, a: u128, b: u128) -> bool {
        match self {
            Comparison::Equal => a == b,
            Comparison::Unequal => a != b,
            Comparison::Less => a < b,
            Comparison::AtMost => a <= b,
            Comparison::More => a > b,
            Comparison::AtLeast => a >= b,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node-{}", char::from(b'a' + (self.0 % 26) as u8))
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.strict { "strict:" } else { "" }, self.name)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.from, if self.one_way { "-> " } else { "" }, self.to)
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.flow {
            Some(flow) => write!(f, "{flow}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// As people write it: in the largest unit that leaves no rest.
pub(crate) struct Span(pub(crate) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = self.0.as_micros();
        match us {
            us if us > 0 && us.is_multiple_of(1_000_000) => write!(f, "{}s", us / 1_000_000),
            us if us.is_multiple_of(1_000) => write!(f, "{}ms", us / 1_000),
            us => write!(f, "{us}us"),
        }
    }
}

impl fmt::Display for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            On::Now => f.write_str("-"),
            On::Granted(h) => write!(f, "granted {h}"),
            On::Why(code, h) => write!(f, "{} {h}", why(*code)),
            On::Failed(h) => write!(f, "failed {h}"),
            On::Answered(h) => write!(f, "answered {h}"),
            On::Released(h) => write!(f, "released {h}"),
            On::Blocking(h) => write!(f, "blocking {h}"),
            On::Lost => f.write_str("lost"),
            On::Attached => f.write_str("attached"),
            On::After(time) => write!(f, "after {}", Span(*time)),
            On::Meet(barrier) => write!(f, "meet {barrier}"),
            On::Event(event) => f.write_str(event),
        }
    }
}

fn flag_words(f: &mut fmt::Formatter<'_>, flags: Flags) -> fmt::Result {
    flags.iter_names().try_for_each(|(name, _)| write!(f, " {name}"))
}

fn within_words(f: &mut fmt::Formatter<'_>, within: Option<Duration>) -> fmt::Result {
    within.map_or(Ok(()), |time| write!(f, " within {}", Span(time)))
}

fn value_words(f: &mut fmt::Formatter<'_>, value: Option<&str>) -> fmt::Result {
    value.map_or(Ok(()), |text| write!(f, " value \"{text}\""))
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Lock { resource, mode, flags, within, handle } => {
                write!(f, "lock {resource} {mode}")?;
                flag_words(f, *flags)?;
                within_words(f, *within)?;
                if *handle == resource.name { Ok(()) } else { write!(f, " as {handle}") }
            }
            Command::Convert { handle, mode, flags, within, value } => {
                write!(f, "convert {handle} {mode}")?;
                flag_words(f, *flags)?;
                within_words(f, *within)?;
                value_words(f, value.as_deref())
            }
            Command::Read(handle) => write!(f, "read {handle}"),
            Command::Unlock { handle, value, invalidate } => {
                write!(f, "unlock {handle}")?;
                value_words(f, value.as_deref())?;
                f.write_str(if *invalidate { " invalidate" } else { "" })
            }
            Command::Cancel(handle) => write!(f, "cancel {handle}"),
            Command::Wait(handle) => write!(f, "wait {handle}"),
            Command::Pass(time) => write!(f, "wait {}", Span(*time)),
            Command::Raise(event) => write!(f, "raise {event}"),
            Command::Let(name, sum) => write!(f, "let {name} = {sum}"),
            Command::Say(text) => write!(f, "say \"{text}\""),
            Command::Kill(flow) => write!(f, "kill {flow}"),
            Command::Pause(node) => write!(f, "pause {node}"),
            Command::Continue(node) => write!(f, "continue {node}"),
            Command::Cut(link) => write!(f, "cut {link}"),
            Command::Heal(link) => write!(f, "heal {link}"),
            Command::Attach => f.write_str("attach"),
            Command::KillNode(node) => write!(f, "kill node {node}"),
            Command::KillEngine(node) => write!(f, "kill engine {node}"),
            Command::StopNode(node) => write!(f, "stop node {node}"),
            Command::LeaveNode(node) => write!(f, "leave node {node}"),
            Command::JoinNode(node) => write!(f, "join node {node}"),
            Command::StartNode(node) => write!(f, "start node {node}"),
            Command::Expect(condition) => write!(f, "expect {condition}"),
            Command::History(promise) => write!(f, "expect history {}", promise.name()),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.not { "not " } else { "" }, self.fact)
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fact::Granted(h, None) => write!(f, "granted {h}"),
            Fact::Granted(h, Some(mode)) => write!(f, "granted {h} {mode}"),
            Fact::Waiting(h) => write!(f, "waiting {h}"),
            Fact::Why(code, h) => write!(f, "{} {h}", why(*code)),
            Fact::Failed(h) => write!(f, "failed {h}"),
            Fact::Released(h) => write!(f, "released {h}"),
            Fact::Blocking(h) => write!(f, "blocking {h}"),
            Fact::Lost(None) => f.write_str("lost"),
            Fact::Lost(Some(flow)) => write!(f, "lost {flow}"),
            Fact::Value(h, read) => write!(f, "value {h} {read}"),
            Fact::Raised(event) => write!(f, "raised {event}"),
            Fact::Compare(a, comparison, b) => {
                let word = COMPARISONS.iter().find(|(_, c)| c == comparison).map_or("", |(word, _)| word);
                write!(f, "{a} {word} {b}")
            }
        }
    }
}

impl fmt::Display for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Read::Text(text) => write!(f, "\"{text}\""),
            Read::Invalid => f.write_str("invalid"),
            Read::Never => f.write_str("never-written"),
            Read::Nothing => f.write_str("not-read"),
        }
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.term {
            Term::Number(n) => write!(f, "{n}")?,
            Term::Variable(name) => f.write_str(name)?,
            Term::Token(h) => write!(f, "token {h}")?,
            Term::Counter(name, node) => write!(f, "counter {name} at {node}")?,
        }
        if self.plus == 0 { Ok(()) } else { write!(f, " + {}", self.plus) }
    }
}

impl fmt::Display for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Next::State(state) => f.write_str(state),
            Next::If(state, condition, other) => write!(f, "{state} if {condition} else {other}"),
        }
    }
}

impl Command {
    /// The nodes it names.
    pub(crate) fn places(&self) -> Vec<Place> {
        let counted = |sum: &Sum| match sum.term {
            Term::Counter(_, node) => Some(node),
            _ => None,
        };
        match self {
            Command::Pause(node) | Command::Continue(node) => [*node].into(),
            Command::KillNode(node) | Command::KillEngine(node) => [*node].into(),
            Command::StopNode(node) | Command::StartNode(node) => [*node].into(),
            Command::LeaveNode(node) | Command::JoinNode(node) => [*node].into(),
            Command::Cut(link) | Command::Heal(link) => [link.from, link.to].into(),
            Command::Let(_, sum) => counted(sum).into_iter().collect(),
            Command::Expect(Condition { fact: Fact::Compare(a, _, b), .. }) => {
                [a, b].into_iter().filter_map(counted).collect()
            }
            _ => Vec::new(),
        }
    }
}
