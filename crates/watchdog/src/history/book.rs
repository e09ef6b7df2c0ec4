//! The bounded record of what has ended in one job, and of when it may have missed something.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;

use super::words::Words;
use super::{ENDED_BYTES, ENDED_LIMIT, GAPS_LIMIT, Gap, Member};
use crate::job::{Exit, ProcessId};

/// A process, with its words as they may still be on their way.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) member: Member,
    /// What it is called with; `None` if that stands in `member`.
    pub(super) words: Option<Arc<Words>>,
}

impl Line {
    /// What it takes of memory, at most.
    fn weight(&self) -> usize {
        let kept = self.member.command.len() + self.member.arguments.as_ref().map_or(0, String::len);
        size_of::<Self>()
            + kept
            + self.words.as_ref().map_or(0, |words| words.raw().map_or(0, |raw| raw.arguments.len()))
    }

    /// As it is kept.
    pub(super) fn member(&self) -> Member {
        let mut member = self.member.clone();
        if let Some(words) = &self.words {
            member.arguments = words.shown();
            if member.command.is_empty()
                && let Some(raw) = words.raw()
            {
                member.command.clone_from(&raw.command);
            }
        }
        member
    }
}

/// What has ended, and the gaps.
#[derive(Debug, Default)]
pub(super) struct Book {
    ended: VecDeque<Line>,
    bytes: usize,
    omitted: u64,
    gaps: Vec<Gap>,
}

impl Book {
    /// As it was written before.
    pub(super) fn resumed(ended: impl Iterator<Item = Member>, omitted: u64, gaps: Vec<Gap>) -> Self {
        let mut book = Self { omitted, gaps, ..Self::default() };
        ended.for_each(|member| book.end(Line { member, words: None }));
        book
    }

    pub(super) fn end(&mut self, line: Line) {
        self.bytes += line.weight();
        self.ended.push_back(line);
        while self.ended.len() > ENDED_LIMIT || self.bytes > ENDED_BYTES {
            self.drop_first();
        }
    }

    /// How `id` ended, if that is not known otherwise.
    pub(super) fn answer(&mut self, id: ProcessId, exit: Exit) {
        if let Some(line) = self.ended.iter_mut().rev().find(|line| line.member.id == id) {
            line.member.exit.get_or_insert(exit);
        }
    }

    /// One that was only counted has ended.
    pub(super) fn omit(&mut self) {
        self.omitted += 1;
    }

    pub(super) fn gap(&mut self, from: Timestamp, to: Option<Timestamp>, reason: &str) {
        let full = self.gaps.len() >= GAPS_LIMIT;
        match self.gaps.last_mut() {
            // One that goes on, or no room for more: it is made longer.
            Some(last) if last.reason == reason && last.to.is_none_or(|to| to >= from) => last.to = to,
            Some(last) if full => last.to = to,
            _ => self.gaps.push(Gap { from, to, reason: reason.to_owned() }),
        }
    }

    pub(super) fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    pub(super) fn omitted(&self) -> u64 {
        self.omitted
    }

    pub(super) fn lines(&self) -> impl ExactSizeIterator<Item = &Line> {
        self.ended.iter()
    }

    /// After masking, which makes what was read short: counts again what is held.
    pub(super) fn settle(&mut self) {
        for line in self.ended.iter_mut().filter(|line| line.words.as_ref().is_some_and(|words| words.is_decided())) {
            line.member = line.member();
            line.words = None;
        }
        self.bytes = self.ended.iter().map(Line::weight).sum();
        while self.bytes > ENDED_BYTES {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        match self.ended.pop_front() {
            Some(line) => {
                self.bytes = self.bytes.saturating_sub(line.weight());
                self.omitted += 1;
            }
            None => self.bytes = 0,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn line(pid: u32, arguments: usize) -> Line {
        let member = Member {
            id: ProcessId { pid, start_time: 1 },
            parent: None,
            user: None,
            command: "sh".to_owned(),
            arguments: Some("x".repeat(arguments)),
            started: Timestamp::UNIX_EPOCH,
            ended: Some(Timestamp::UNIX_EPOCH),
            exit: None,
            cpu_seconds: None,
            memory_peak_bytes: None,
        };
        Line { member, words: None }
    }

    #[test]
    fn what_is_beyond_the_bound_is_counted() {
        let mut book = Book::default();
        let more = u32::try_from(ENDED_LIMIT).unwrap() + 500;
        (0..more).for_each(|pid| book.end(line(pid, 0)));
        assert_eq!((book.lines().len(), book.omitted()), (ENDED_LIMIT, 500));
        assert_eq!(book.lines().next().unwrap().member.id.pid, 500, "the oldest goes first");
    }

    #[test]
    fn long_arguments_leave_room_for_fewer() {
        let mut book = Book::default();
        (0..5000).for_each(|pid| book.end(line(pid, 2000)));
        assert!(book.bytes <= ENDED_BYTES && book.lines().len() < 2200, "{} {}", book.bytes, book.lines().len());
        assert_eq!(book.lines().len() as u64 + book.omitted(), 5000);
    }

    #[test]
    fn gaps_for_the_same_reason_that_touch_are_one() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let mut book = Book::default();
        book.gap(at(1), Some(at(3)), "a");
        book.gap(at(2), Some(at(5)), "a");
        book.gap(at(7), Some(at(8)), "a");
        assert_eq!(book.gaps().iter().map(|gap| gap.to).collect::<Vec<_>>(), [Some(at(5)), Some(at(8))]);
        (0..1000).for_each(|n| book.gap(at(10 + 2 * n), Some(at(11 + 2 * n)), "a"));
        assert_eq!((book.gaps().len(), book.gaps().last().unwrap().to), (GAPS_LIMIT, Some(at(2009))));
    }
}
