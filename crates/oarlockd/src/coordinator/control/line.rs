//! The line to other coordinators: through the engine, which has the circuits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oarlock_layout::id::NodeId;
use oarlock_layout::message::peer::PeerMessage;
use oarlock_layout::message::raft::{Answer, Call};
use tokio::sync::oneshot;

use super::{FromControl, ToEngine};
use crate::coordinator::raft::{Answering, Line};

/// Questions that wait for an answer.
#[derive(Clone, Default)]
pub(super) struct Questions(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    /// The number of the last one.
    last: u64,
    /// By number: who was asked, and who waits.
    open: BTreeMap<u64, (NodeId, oneshot::Sender<Answer>)>,
}

impl Questions {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, whom: NodeId) -> Open {
        let (sender, answer) = oneshot::channel();
        let mut waiting = self.waiting();
        waiting.last += 1;
        let number = waiting.last;
        waiting.open.insert(number, (whom, sender));
        Open { number, answer, questions: self.clone() }
    }

    /// An answer came. One to a question that nobody waits for any more, or that somebody else was asked, is dropped.
    pub(super) fn answer(&self, from: NodeId, number: u64, answer: Answer) {
        let mut waiting = self.waiting();
        if waiting.open.get(&number).is_some_and(|(whom, _)| *whom == from)
            && let Some((_, sender)) = waiting.open.remove(&number)
        {
            // Whoever asked may have given up this moment.
            let _ = sender.send(answer);
        }
    }

    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.waiting().open.len()
    }
}

/// A question until it is answered or nobody waits for it.
struct Open {
    number: u64,
    answer: oneshot::Receiver<Answer>,
    questions: Questions,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.questions.waiting().open.remove(&self.number);
    }
}

/// The line of the control thread. What the engine cannot send is lost, and so is what arrives nowhere: in both cases the
/// patience of whoever asked ends.
pub(super) struct Through {
    pub(super) engine: ToEngine,
    pub(super) questions: Questions,
}

impl Line for Through {
    fn call(&self, to: NodeId, call: Call, patience: Duration) -> Answering {
        let mut open = self.questions.ask(to);
        let message = PeerMessage::Call { question: open.number, call };
        self.engine.send(FromControl::Carry { to, message });
        Box::pin(async move {
            let answer = tokio::time::timeout(patience, &mut open.answer).await;
            answer.ok().and_then(Result::ok)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    #[test]
    fn an_answer_is_taken_once_and_only_from_whoever_was_asked() {
        let questions = Questions::default();
        let (mut first, mut second) = (questions.ask(A), questions.ask(B));
        assert_ne!(first.number, second.number);
        questions.answer(B, first.number, Answer::Stored);
        questions.answer(A, second.number, Answer::Stored);
        questions.answer(A, 99, Answer::Stored);
        assert!(first.answer.try_recv().is_err() && second.answer.try_recv().is_err());
        questions.answer(A, first.number, Answer::Conflict);
        questions.answer(A, first.number, Answer::Unable);
        assert_eq!(first.answer.try_recv(), Ok(Answer::Conflict));
        assert_eq!(questions.open(), 1);
        drop((first, second));
        assert_eq!(questions.open(), 0, "who gives up leaves nothing behind");
    }
}
