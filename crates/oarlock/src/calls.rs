//! Lookups of lockspaces and questions of people: numbered calls with one answer each, which may come in
//! pieces.

use std::collections::BTreeMap;

use oarlock_layout::code::Code;
use oarlock_layout::id::SpaceId;
use oarlock_layout::message::session::Failure;

use crate::table::{Ended, Misdeed, strange};
use crate::wakers::{Effects, Wakers};

/// Calls under way at once. They are made one by one, by people or at start-up.
const CALLS_MAX: usize = 1024;
/// Longest answer. A row of a lock takes some 200 bytes, and a session has at most a million locks.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// What a call gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Space(SpaceId),
    Bytes(Vec<u8>),
}

struct Call {
    bytes: Vec<u8>,
    answer: Option<Result<Answer, Failure>>,
    awaited: bool,
    wakers: Wakers,
}

/// The calls of one session.
#[derive(Default)]
pub(crate) struct Calls {
    calls: BTreeMap<u32, Call>,
    next: u32,
}

impl Calls {
    /// A number for a new call.
    pub(crate) fn begin(&mut self) -> Result<u32, Failure> {
        if self.calls.len() >= CALLS_MAX {
            let text = format!("a session has at most {CALLS_MAX} questions under way");
            return Err(Failure { code: Code::Failed, text });
        }
        while self.calls.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let number = self.next;
        self.next = number.wrapping_add(1);
        let call = Call { bytes: Vec::new(), answer: None, awaited: true, wakers: Wakers::default() };
        self.calls.insert(number, call);
        Ok(number)
    }

    /// The answer, if it came.
    pub(crate) fn collect(
        &mut self,
        number: u32,
        ended: Option<&Ended>,
        effects: &mut Effects,
    ) -> Option<Result<Answer, Failure>> {
        let call = self.calls.get_mut(&number)?;
        let answer = match (call.answer.take(), ended) {
            (Some(answer), _) => answer,
            (None, Some(ended)) => Err(Failure { code: ended.code, text: ended.text.clone() }),
            (None, None) => return None,
        };
        call.wakers.take(effects);
        self.calls.remove(&number);
        Some(answer)
    }

    /// Nobody will collect the answer. The number stays taken until the answer came, or the session is `over`.
    pub(crate) fn desert(&mut self, number: u32, over: bool, effects: &mut Effects) {
        let Some(call) = self.calls.get_mut(&number) else { return };
        call.awaited = false;
        call.bytes = Vec::new();
        call.wakers.take(effects);
        if call.answer.is_some() || over {
            self.calls.remove(&number);
        }
    }

    /// The session is over.
    pub(crate) fn end(&mut self, effects: &mut Effects) {
        self.calls.retain(|_, call| {
            call.wakers.take(effects);
            call.awaited
        });
    }

    /// Who waits for a call.
    pub(crate) fn wakers(&mut self, number: u32) -> Option<&mut Wakers> {
        self.calls.get_mut(&number).map(|call| &mut call.wakers)
    }

    /// A piece of an answer.
    pub(crate) fn piece(
        &mut self,
        number: u32,
        more: bool,
        bytes: &[u8],
        effects: &mut Effects,
    ) -> Result<(), Misdeed> {
        let call = self.calls.get_mut(&number).ok_or_else(|| strange("a piece of an answer", number))?;
        if call.awaited && call.answer.is_none() {
            if call.bytes.len() + bytes.len() <= ANSWER_BYTES_MAX {
                call.bytes.extend_from_slice(bytes);
            } else {
                // The caller is told now; the rest of the answer still comes and must find its call.
                let text = format!("the answer is longer than {ANSWER_BYTES_MAX} bytes");
                call.bytes = Vec::new();
                call.answer = Some(Err(Failure { code: Code::Failed, text }));
            }
        }
        if more {
            return Ok(());
        }
        let answer = match call.answer.take() {
            Some(refused) => refused,
            None => Ok(Answer::Bytes(std::mem::take(&mut call.bytes))),
        };
        self.answer(number, answer, effects)
    }

    /// The answer, or its last piece.
    pub(crate) fn answer(
        &mut self,
        number: u32,
        answer: Result<Answer, Failure>,
        effects: &mut Effects,
    ) -> Result<(), Misdeed> {
        let call = self.calls.get_mut(&number).ok_or_else(|| strange("an answer", number))?;
        call.wakers.take(effects);
        if call.awaited {
            call.answer = Some(answer);
        } else {
            self.calls.remove(&number);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(answer: Option<Result<Answer, Failure>>) -> Option<Vec<u8>> {
        match answer?.unwrap() {
            Answer::Bytes(bytes) => Some(bytes),
            Answer::Space(space) => panic!("{space}"),
        }
    }

    #[test]
    fn an_answer_in_pieces_is_put_together() {
        let (mut calls, mut effects) = (Calls::default(), Effects::default());
        let call = calls.begin().unwrap();
        calls.piece(call, true, b"{\"a\"", &mut effects).unwrap();
        assert_eq!(calls.collect(call, None, &mut effects), None);
        calls.piece(call, false, b":1}", &mut effects).unwrap();
        assert_eq!(bytes(calls.collect(call, None, &mut effects)).unwrap(), b"{\"a\":1}");
        assert!(calls.piece(call, false, b"", &mut effects).is_err(), "nobody waits for more");
    }

    #[test]
    fn an_answer_without_end_is_refused_and_a_deserted_one_kept_nowhere() {
        let (mut calls, mut effects) = (Calls::default(), Effects::default());
        let (call, left) = (calls.begin().unwrap(), calls.begin().unwrap());
        calls.desert(left, false, &mut effects);
        let big = vec![b' '; 32 << 20];
        for _ in 0..=ANSWER_BYTES_MAX / big.len() {
            for number in [call, left] {
                calls.piece(number, true, &big, &mut effects).unwrap();
            }
        }
        assert!(calls.calls.values().all(|call| call.bytes.is_empty()));
        for number in [call, left] {
            calls.piece(number, false, &[], &mut effects).unwrap();
        }
        assert_eq!(calls.collect(call, None, &mut effects).unwrap().unwrap_err().code, Code::Failed);
        assert!(calls.calls.is_empty());
    }

    #[test]
    fn calls_under_way_are_bounded_and_their_numbers_differ() {
        let mut calls = Calls { next: u32::MAX - 3, ..Calls::default() };
        let numbers: std::collections::BTreeSet<u32> =
            (0..CALLS_MAX).map(|_| calls.begin().unwrap()).collect();
        assert_eq!(numbers.len(), CALLS_MAX);
        assert_eq!(calls.begin().unwrap_err().code, Code::Failed);
    }
}
