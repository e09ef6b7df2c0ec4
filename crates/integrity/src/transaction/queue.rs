//! Commits of several threads that come together are done together: whoever finds nobody at work does it for all that wait.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::Draft;
use super::commit::Done;
use crate::Result;

/// Commits that wait, and answers that were not fetched yet.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    waiting: Vec<(u64, Draft)>,
    answers: HashMap<u64, Result<Done>>,
    /// Somebody is at work.
    busy: bool,
}

/// Answers all that were taken, also if the work on them breaks off.
struct Taken<'q> {
    queue: &'q Queue,
    numbers: Vec<u64>,
    answers: Vec<Result<Done>>,
    otherwise: &'q dyn Fn() -> Result<Done>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut inner = self.queue.inner();
        let answers = self.answers.drain(..).map(Some).chain(std::iter::repeat_with(|| None));
        for (number, answer) in self.numbers.iter().zip(answers) {
            inner.answers.insert(*number, answer.unwrap_or_else(self.otherwise));
        }
        inner.busy = false;
        self.queue.answered.notify_all();
    }
}

impl Queue {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change below is whole before it can panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `draft` done, together with whatever else waits; `work` answers each in turn, `otherwise` where it broke off.
    pub(crate) fn join(
        &self,
        draft: Draft,
        work: impl FnOnce(Vec<Draft>) -> Vec<Result<Done>>,
        otherwise: &dyn Fn() -> Result<Done>,
    ) -> Result<Done> {
        let mut inner = self.inner();
        let number = inner.next;
        inner.next += 1;
        inner.waiting.push((number, draft));
        while inner.busy && !inner.answers.contains_key(&number) {
            inner = self.answered.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(answer) = inner.answers.remove(&number) {
            return answer;
        }
        inner.busy = true;
        let (numbers, drafts) = std::mem::take(&mut inner.waiting).into_iter().unzip();
        drop(inner);
        let mut taken = Taken { queue: self, numbers, answers: Vec::new(), otherwise };
        taken.answers = work(drafts);
        drop(taken);
        self.inner().answers.remove(&number).unwrap_or_else(otherwise)
    }

    /// How many wait for somebody else's work to end.
    pub(super) fn waiting(&self) -> usize {
        self.inner().waiting.len()
    }
}
