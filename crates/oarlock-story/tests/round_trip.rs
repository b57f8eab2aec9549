//! Whatever a storyboard says: printed and read again it says the same (S1).

use core::time::Duration;

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::mode::Mode;
use oarlock_story::table::{
    Command, Comparison, Condition, Fact, Flow, Handle, Link, Next, On, Place, Promise, Read, Resource, Row,
    Sum, Term,
};
use oarlock_story::{Story, parse};
use proptest::prelude::*;
use proptest::sample::select;

fn word() -> impl Strategy<Value = String> {
    // The prefix keeps words with a meaning of their own away.
    "x[a-zA-Z0-9_-]{0,6}"
}

fn text() -> impl Strategy<Value = String> {
    r"[ a-z;|<>.0-9äß-]{0,20}"
}

fn place() -> impl Strategy<Value = Place> {
    (0u16..26).prop_map(Place)
}

fn time() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (0u64..5_000).prop_map(Duration::from_micros),
        (0u64..5_000).prop_map(Duration::from_millis),
        (0u64..3600).prop_map(Duration::from_secs),
    ]
}

fn within() -> impl Strategy<Value = Option<Duration>> {
    proptest::option::of((1u64..5_000).prop_map(Duration::from_millis))
}

fn mode() -> impl Strategy<Value = Mode> {
    select(&Mode::ALL[..])
}

fn flags() -> impl Strategy<Value = Flags> {
    any::<u32>().prop_map(Flags::from_bits_truncate)
}

fn why() -> impl Strategy<Value = Code> {
    select(vec![Code::Busy, Code::Deadlock, Code::TimedOut, Code::NotServing, Code::InFlight])
}

fn handle() -> impl Strategy<Value = Handle> {
    (proptest::option::of(word()), word()).prop_map(|(flow, name)| Handle { flow, name })
}

fn link() -> impl Strategy<Value = Link> {
    let ends = (place(), place()).prop_filter("two nodes", |(a, b)| a != b);
    (ends, any::<bool>()).prop_map(|((from, to), one_way)| Link { from, to, one_way })
}

fn sum() -> impl Strategy<Value = Sum> {
    let term = prop_oneof![
        any::<u64>().prop_map(Term::Number),
        word().prop_map(Term::Variable),
        handle().prop_map(Term::Token),
        (word(), place()).prop_map(|(name, node)| Term::Counter(name, node)),
    ];
    (term, any::<u64>()).prop_map(|(term, plus)| Sum { term, plus })
}

fn fact() -> impl Strategy<Value = Fact> {
    let read =
        prop_oneof![text().prop_map(Read::Text), select(vec![Read::Invalid, Read::Never, Read::Nothing]),];
    let signs = vec![
        Comparison::Equal,
        Comparison::Unequal,
        Comparison::Less,
        Comparison::AtMost,
        Comparison::More,
        Comparison::AtLeast,
    ];
    prop_oneof![
        (handle(), proptest::option::of(mode())).prop_map(|(h, mode)| Fact::Granted(h, mode)),
        handle().prop_map(Fact::Waiting),
        (why(), handle()).prop_map(|(code, h)| Fact::Why(code, h)),
        handle().prop_map(Fact::Failed),
        handle().prop_map(Fact::Released),
        handle().prop_map(Fact::Blocking),
        proptest::option::of(word()).prop_map(Fact::Lost),
        (handle(), read).prop_map(|(h, read)| Fact::Value(h, read)),
        word().prop_map(Fact::Raised),
        (sum(), select(signs), sum()).prop_map(|(a, sign, b)| Fact::Compare(a, sign, b)),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    (any::<bool>(), fact()).prop_map(|(not, fact)| Condition { not, fact })
}

fn resource() -> impl Strategy<Value = Resource> {
    (any::<bool>(), "x[a-z/.|é-]{0,8}").prop_map(|(strict, name)| Resource { strict, name })
}

fn command() -> impl Strategy<Value = Command> {
    let promises = vec![Promise::All, Promise::Value, Promise::Order, Promise::Tokens, Promise::Exclusion];
    let value = || proptest::option::of(text());
    prop_oneof![
        (resource(), mode(), flags(), within(), word()).prop_map(
            |(resource, mode, flags, within, handle)| {
                Command::Lock { resource, mode, flags, within, handle }
            }
        ),
        (word(), mode(), flags(), within(), value()).prop_map(|(handle, mode, flags, within, value)| {
            Command::Convert { handle, mode, flags, within, value }
        }),
        (word(), value(), any::<bool>()).prop_map(|(handle, value, invalidate)| Command::Unlock {
            handle,
            value,
            invalidate
        }),
        word().prop_map(Command::Read),
        word().prop_map(Command::Cancel),
        word().prop_map(Command::Wait),
        time().prop_map(Command::Pass),
        word().prop_map(Command::Raise),
        (word(), sum()).prop_map(|(name, sum)| Command::Let(name, sum)),
        text().prop_map(Command::Say),
        word().prop_map(Command::Kill),
        place().prop_map(Command::Pause),
        place().prop_map(Command::Continue),
        link().prop_map(Command::Cut),
        link().prop_map(Command::Heal),
        Just(Command::Attach),
        place().prop_map(Command::KillNode),
        place().prop_map(Command::KillEngine),
        place().prop_map(Command::StopNode),
        place().prop_map(Command::LeaveNode),
        place().prop_map(Command::JoinNode),
        place().prop_map(Command::StartNode),
        condition().prop_map(Command::Expect),
        select(promises).prop_map(Command::History),
    ]
}

fn on() -> impl Strategy<Value = On> {
    prop_oneof![
        Just(On::Now),
        Just(On::Lost),
        Just(On::Attached),
        word().prop_map(On::Granted),
        (why(), word()).prop_map(|(code, h)| On::Why(code, h)),
        word().prop_map(On::Failed),
        word().prop_map(On::Answered),
        word().prop_map(On::Released),
        word().prop_map(On::Blocking),
        time().prop_map(On::After),
        word().prop_map(On::Meet),
        word().prop_map(On::Event),
    ]
}

fn next() -> impl Strategy<Value = Next> {
    let branches = proptest::collection::vec((word(), condition()), 0..3);
    (branches, word()).prop_map(|(branches, last)| {
        let fold = |other, (state, condition)| Next::If(state, condition, Box::new(other));
        branches.into_iter().fold(Next::State(last), fold)
    })
}

fn row() -> impl Strategy<Value = Row> {
    (word(), on(), proptest::collection::vec(command(), 0..4), next())
        .prop_map(|(state, on, commands, next)| Row { line: 0, state, on, commands, next })
}

fn flow() -> impl Strategy<Value = Flow> {
    (word(), proptest::option::of(place()), proptest::collection::vec(row(), 1..5))
        .prop_map(|(name, node, rows)| Flow { name, node, line: 0, rows })
}

fn story() -> impl Strategy<Value = Story> {
    ("[A-Z][a-z]{0,9}", proptest::collection::vec(flow(), 1..4))
        .prop_map(|(title, flows)| Story { title, flows })
}

/// Where a thing stands in the file is no part of what it says.
fn placeless(mut story: Story) -> Story {
    for flow in &mut story.flows {
        flow.line = 0;
        flow.rows.iter_mut().for_each(|row| row.line = 0);
    }
    story
}

proptest! {
    /// S1: parse and print back gives the same table.
    #[test]
    fn what_is_printed_reads_back_as_the_same_storyboard(story in story()) {
        let printed = story.to_string();
        let again = parse(&printed).map_err(|faults| TestCaseError::fail(format!("{}\n{printed}", faults[0])))?;
        prop_assert_eq!(placeless(again), story, "{}", printed);
    }

    /// Whatever is read, nothing panics, and faults have lines of the file.
    #[test]
    fn no_text_is_too_strange_to_be_read(text in r"([#|`a-z ;<>.\n-]|flow |at node-a|\| state \| on \| do \| next \|\n|äß){0,60}") {
        let lines = text.lines().count() as u32;
        if let Err(faults) = oarlock_story::read(&text) {
            prop_assert!(!faults.is_empty());
            prop_assert!(faults.iter().all(|fault| fault.line <= lines.max(1)));
        }
    }
}
