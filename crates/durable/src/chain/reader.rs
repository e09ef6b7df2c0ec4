//! Reading a chain from the front, verifying it on the way.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::segment::{Anchor, Found, RECORDS_AT, read_record};
use super::{Head, Lsn, Record, list, open_following};
use crate::error::{Context as _, damaged};
use crate::{Error, Kind, Result};

/// An iterator over the records of a chain. Each is checked against its hash and the one before it; after the first
/// error it ends.
#[derive(Debug)]
pub struct Reader {
    kind: Kind,
    dir: PathBuf,
    waiting: VecDeque<(Lsn, PathBuf)>,
    current: Option<Current>,
    position: Head,
    first_lsn: Lsn,
    /// Records before this one are checked, but not handed out.
    from: Lsn,
    /// Where to end; `None`: at the end of what is there.
    until: Option<Lsn>,
    failed: bool,
}

#[derive(Debug)]
struct Current {
    file: File,
    path: PathBuf,
    length: u64,
    at: u64,
}

impl Reader {
    /// Reads the chain in `dir` from its first record, without its lock: a record that is being appended meanwhile
    /// may be met or not. A directory that is missing or empty reads as an empty chain.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be listed; [`Error::Damaged`], [`Error::WrongKind`] or [`Error::WrongVersion`] if the
    /// first segment's header cannot be used.
    pub fn open(dir: &Path, kind: Kind) -> Result<Self> {
        if !dir.exists() {
            return Self::start(dir, kind, VecDeque::new(), 0, None);
        }
        Self::start(dir, kind, list(dir)?.into(), 0, None)
    }

    /// As [`Reader::open`], handing out the records from `lsn` on only, and reading no segment that ends before it.
    ///
    /// # Errors
    /// As for [`Reader::open`], and [`Error::NoSuchRecord`] if the chain no longer holds `lsn`.
    pub fn open_at(dir: &Path, kind: Kind, lsn: Lsn) -> Result<Self> {
        let segments = if dir.exists() { list(dir)?.into() } else { VecDeque::new() };
        Self::start(dir, kind, segments, lsn, None)
    }

    pub(super) fn start(
        dir: &Path,
        kind: Kind,
        mut waiting: VecDeque<(Lsn, PathBuf)>,
        from: Lsn,
        until: Option<Lsn>,
    ) -> Result<Self> {
        let oldest = waiting.front().map_or(1, |(first, _)| *first);
        if from != 0 && from < oldest {
            let last = until.unwrap_or(oldest);
            return Err(Error::NoSuchRecord { path: dir.to_owned(), lsn: from, first: oldest, last });
        }
        while waiting.get(1).is_some_and(|(first, _)| *first <= from) {
            waiting.pop_front();
        }
        let mut reader = Self {
            kind,
            dir: dir.to_owned(),
            waiting,
            current: None,
            position: Head::EMPTY,
            first_lsn: oldest.max(from),
            from,
            until,
            failed: false,
        };
        if let Some((first, path)) = reader.waiting.pop_front() {
            reader.enter(first, path, None)?;
        }
        Ok(reader)
    }

    /// Position of the first record that is handed out, if there is one.
    pub fn first_lsn(&self) -> Lsn {
        self.first_lsn
    }

    /// The record read last.
    pub fn position(&self) -> Head {
        self.position
    }

    fn enter(&mut self, first: Lsn, path: PathBuf, before: Option<Head>) -> Result<()> {
        let (file, segment) = open_following(&path, self.kind, first, before)?;
        let length = file.metadata().context("look at", &path)?.len();
        self.position = segment.before();
        self.current = Some(Current { file, path, length, at: RECORDS_AT });
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<Record>> {
        loop {
            if self.until.is_some_and(|until| self.position.lsn >= until) {
                return Ok(None);
            }
            let Some(current) = &mut self.current else { return Ok(None) };
            match read_record(&current.file, &current.path, current.at, current.length, self.position)? {
                Found::Record { payload, head, end } => {
                    current.at = end;
                    self.position = head;
                    if head.lsn >= self.from {
                        return Ok(Some(Record { lsn: head.lsn, payload }));
                    }
                }
                Found::End => {
                    if !self.next_segment()? {
                        return Ok(None);
                    }
                }
                Found::Invalid(detail) => {
                    self.refuse_unless_torn(&detail)?;
                    return Ok(None);
                }
            }
        }
    }

    /// Goes on to the next segment; false at the end of the chain.
    fn next_segment(&mut self) -> Result<bool> {
        let Some(current) = self.current.take() else { return Ok(false) };
        let anchor = Anchor::read(&current.file, &current.path)?;
        if let Some(anchor) = anchor
            && anchor.head.lsn > self.position.lsn
        {
            return Err(damaged(&current.path, format!("record {} is missing at its end", self.position.lsn + 1)));
        }
        if let Some((first, path)) = self.waiting.pop_front() {
            self.enter(first, path, Some(self.position))?;
            return Ok(true);
        }
        if anchor.is_some_and(|anchor| anchor.continued) {
            // The chain may have grown by a segment since it was listed.
            let later: VecDeque<_> =
                list(&self.dir)?.into_iter().filter(|(first, _)| *first > self.position.lsn).collect();
            self.waiting = later;
            return match self.waiting.pop_front() {
                Some((first, path)) => self.enter(first, path, Some(self.position)).map(|()| true),
                None => Err(damaged(&current.path, "the segment after it is missing")),
            };
        }
        self.current = Some(current);
        Ok(false)
    }

    fn refuse_unless_torn(&self, detail: &str) -> Result<()> {
        let Some(current) = &self.current else { return Ok(()) };
        let acknowledged = Anchor::read(&current.file, &current.path)?
            .is_some_and(|anchor| anchor.head.lsn > self.position.lsn || anchor.continued);
        if acknowledged || !self.waiting.is_empty() { Err(damaged(&current.path, detail)) } else { Ok(()) }
    }
}

impl Iterator for Reader {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.advance().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}
