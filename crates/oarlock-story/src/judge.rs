//! Whether something is so, and what is so instead.

use alloc::format;
use alloc::string::{String, ToString};

use oarlock_layout::limit::VALUE_BYTES;
use oarlock_layout::value::Value;

use crate::book::{Answer, Lock, Pending};
use crate::play::{Play, block};
use crate::stage::Stage;
use crate::table::{Condition, Fact, Handle, Read};

impl Play<'_> {
    /// A lock, if it was ever asked for.
    pub(crate) fn lock(&self, index: usize, handle: &Handle) -> Option<&Lock> {
        let owner = handle.flow.as_deref().map_or(index, |flow| self.index(flow));
        self.flows[owner].book.get(&handle.name)
    }

    pub(crate) fn holds(
        &self,
        index: usize,
        condition: &Condition,
        stage: &mut dyn Stage,
    ) -> Result<bool, String> {
        let lock = |handle| self.lock(index, handle);
        let answer = |handle| lock(handle).and_then(|lock| lock.answer);
        let is = match &condition.fact {
            Fact::Granted(h, mode) => lock(h).is_some_and(|lock| {
                lock.pending.is_none() && lock.held.is_some_and(|held| mode.is_none_or(|mode| mode == held))
            }),
            Fact::Waiting(h) => {
                let pending = lock(h).and_then(|lock| lock.pending);
                matches!(pending, Some(Pending::New(_) | Pending::Convert(_)))
            }
            Fact::Why(code, h) => answer(h) == Some(Answer::Failed(*code)),
            Fact::Failed(h) => matches!(answer(h), Some(Answer::Failed(_))),
            Fact::Released(h) => answer(h) == Some(Answer::Released),
            Fact::Blocking(h) => lock(h).is_some_and(|lock| lock.told.is_some()),
            Fact::Lost(flow) => self.flows[flow.as_deref().map_or(index, |flow| self.index(flow))].lost,
            Fact::Value(h, read) => lock(h).is_some_and(|lock| is_read(lock.value.as_deref(), read)),
            Fact::Raised(event) => self.raised.contains_key(event.as_str()),
            Fact::Compare(a, comparison, b) => {
                let (a, b) = (self.value(index, a, stage)?, self.value(index, b, stage)?);
                comparison.holds(a, b)
            }
        };
        Ok(is != condition.not)
    }

    /// What is so instead of what was expected.
    pub(crate) fn instead(&self, index: usize, condition: &Condition, stage: &mut dyn Stage) -> String {
        match &condition.fact {
            Fact::Granted(h, _)
            | Fact::Waiting(h)
            | Fact::Why(_, h)
            | Fact::Failed(h)
            | Fact::Released(h) => self.tell(index, h),
            Fact::Blocking(h) => match self.lock(index, h).map(|lock| lock.told) {
                Some(Some(wanted)) => format!("{h} was told that somebody wants {wanted}"),
                _ => format!("{h} was told nothing; {}", self.tell(index, h)),
            },
            Fact::Lost(flow) => {
                let whose = flow.as_deref().unwrap_or("this flow");
                format!("the session of {whose} is {}", if condition.not { "lost" } else { "not lost" })
            }
            Fact::Value(h, _) => match self.lock(index, h).map(|lock| &lock.value) {
                Some(Some(value)) => format!("{h} read {}", told_value(value)),
                Some(None) => format!("the last grant of {h} read nothing; {}", self.tell(index, h)),
                None => format!("{h} was never asked for"),
            },
            Fact::Raised(event) if condition.not => format!("{event} was raised"),
            Fact::Raised(event) => format!("nobody has raised {event}"),
            Fact::Compare(a, _, b) => {
                let mut number = |sum| match self.value(index, sum, stage) {
                    Ok(value) if value >> 64 == 0 => value.to_string(),
                    Ok(value) => format!("{}+{}", value >> 64, value & u128::from(u64::MAX)),
                    Err(why) => why,
                };
                format!("they are {} and {}", number(a), number(b))
            }
        }
    }

    fn tell(&self, index: usize, handle: &Handle) -> String {
        match self.lock(index, handle) {
            Some(lock) => format!("{handle} {}", lock.tell()),
            None => format!("{handle} was never asked for"),
        }
    }
}

fn is_read(value: Option<&Value>, read: &Read) -> bool {
    match (value, read) {
        (None, Read::Nothing) => true,
        (Some(value), Read::Invalid) => !value.valid,
        (Some(value), Read::Never) => *value == Value::NEVER,
        (Some(value), Read::Text(text)) => value.valid && value.bytes == *block(text),
        _ => false,
    }
}

/// A value block in words.
pub(crate) fn told_value(value: &Value) -> String {
    let end = value.bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    let text = String::from_utf8_lossy(&value.bytes[..end.min(VALUE_BYTES)]);
    match (value.valid, value.sequence) {
        (true, 0) => "a block that nobody ever wrote".into(),
        (true, _) => format!("\"{}\"", text.escape_debug()),
        (false, _) => format!("\"{}\", not to be believed", text.escape_debug()),
    }
}
