//! Keeping a workload's output from filling the disk: the oldest of it is given back to the filesystem.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::platform;

/// Where a workload's output goes, which it writes itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpec {
    /// The file.
    pub path: PathBuf,
    /// What it may hold at most, in bytes, but for what is written between two samples.
    pub max_bytes: u64,
    /// How old what it holds may be at most, but for a thirtieth; `None`: as old as it likes.
    #[serde(default)]
    pub max_age: Option<Duration>,
}

/// Into so many parts the time is divided for which output is kept: each goes as a whole.
const PARTS: u32 = 32;

/// An open log.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    max_bytes: u64,
    max_age: Option<Duration>,
    /// How long it was, and when: at most [`PARTS`] and one, oldest first.
    marks: VecDeque<(Instant, u64)>,
    /// Up to where it was given back.
    begin: u64,
    /// How much stood before what is at the file's beginning now, if it was moved there.
    moved: u64,
}

impl Log {
    /// `None` if there is no such file: then there is nothing to bound.
    pub(super) fn open(spec: &LogSpec) -> Option<Self> {
        let file = platform::open_log(&spec.path).ok()?;
        let begin = platform::first_data(&file);
        let mut log = Self {
            file,
            max_bytes: spec.max_bytes,
            max_age: spec.max_age,
            marks: VecDeque::with_capacity(PARTS as usize + 2),
            begin,
            moved: 0,
        };
        log.remember_earlier();
        Some(log)
    }

    /// What it holds from an earlier run is as old as its newest.
    fn remember_earlier(&mut self) {
        let Some(max_age) = self.max_age else { return };
        let Ok(found) = self.file.metadata() else { return };
        let age = found.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
        if age >= max_age && found.len() > 0 {
            self.give_back(before(found.len()));
        } else {
            let now = Instant::now();
            self.marks.push_back((now.checked_sub(age).unwrap_or(now), found.len()));
        }
    }

    /// From what place to what place in the file that is which was written after the first `written` bytes ([`Log::written`]).
    pub(super) fn part(&self, written: u64) -> Option<(u64, u64)> {
        let to = self.file.metadata().ok()?.len();
        Some((written.saturating_sub(self.moved).min(to), to))
    }

    /// How many bytes were written to it since it was opened here, and what it held then.
    pub(super) fn written(&self) -> Option<u64> {
        self.file.metadata().ok().map(|found| found.len() + self.moved)
    }

    /// Gives the older half back if there is too much, and what is too old. What is written meanwhile goes on where it was: the
    /// file's length stays, and its beginning becomes a hole.
    pub(super) fn bound(&mut self) {
        let Ok(length) = self.file.metadata().map(|found| found.len()) else { return };
        // Somebody has cut it.
        self.begin = self.begin.min(length);
        let too_much = (length - self.begin > self.max_bytes).then(|| length - self.max_bytes / 2);
        let begin = too_much.max(self.too_old(length));
        if let Some(begin) = begin.filter(|begin| *begin > self.begin) {
            self.give_back(begin);
        }
    }

    /// Up to where it is too old; notes how long it is now.
    fn too_old(&mut self, length: u64) -> Option<u64> {
        let max_age = self.max_age?;
        if self.marks.back().is_none_or(|(at, marked)| *marked < length && at.elapsed() >= max_age / PARTS) {
            self.marks.push_back((Instant::now(), length));
        }
        let mut old = None;
        while let Some((_, marked)) = self.marks.pop_front_if(|(at, _)| at.elapsed() >= max_age) {
            old = Some(before(marked.min(length)));
        }
        old
    }

    fn give_back(&mut self, begin: u64) {
        match platform::give_back(&self.file, begin) {
            Ok(()) => self.begin = begin,
            // A filesystem without holes.
            Err(_) => {
                if move_to_front(&self.file, begin, self.max_bytes).is_ok() {
                    (self.begin, self.moved) = (0, self.moved + begin);
                    self.marks.iter_mut().for_each(|(_, marked)| *marked = marked.saturating_sub(begin));
                }
            }
        }
    }
}

/// With the character before it. What is left is read from its first end of a line on: where that is this character, nothing that
/// is young enough is lost.
fn before(length: u64) -> u64 {
    length.saturating_sub(1)
}

/// Puts what stands behind `begin` at the file's beginning, and cuts the file behind it. Whoever appends goes on there; lost is
/// only what is written between the last look and the cut, and what is more than `most` bytes: somebody who writes faster than
/// this reads does not keep the guardian here.
fn move_to_front(mut file: &File, begin: u64, most: u64) -> io::Result<()> {
    let (mut from, mut to) = (begin, 0);
    let mut buffer = [0; 16 << 10];
    loop {
        file.seek(SeekFrom::Start(from))?;
        let read = file.read(&mut buffer)?;
        if read == 0 || to >= most {
            return file.set_len(to);
        }
        file.seek(SeekFrom::Start(to))?;
        file.write_all(&buffer[..read])?;
        from += read as u64;
        to += read as u64;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn without_holes_the_newest_moves_to_the_front() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut writer = OpenOptions::new().append(true).create(true).open(&path).unwrap();
        let file = platform::open_log(&path).unwrap();
        let mut written = Vec::new();
        for round in 0..20_000_u32 {
            writeln!(written, "round {round}").unwrap();
        }
        writer.write_all(&written).unwrap();
        let begin = written.len() / 2;
        move_to_front(&file, begin as u64, u64::MAX).unwrap();
        writer.write_all(b"more\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [&written[begin..], b"more\n"].concat());
        move_to_front(&file, 0, 1).unwrap();
        assert!(file.metadata().unwrap().len() < 20_000, "it goes on without an end");
    }

    #[cfg(unix)]
    #[test]
    fn the_newest_stays_and_the_writer_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut writer = OpenOptions::new().append(true).create(true).open(&path).unwrap();
        let mut log = Log::open(&LogSpec { path: path.clone(), max_bytes: 1 << 20, max_age: None }).unwrap();
        for round in 0..100_u32 {
            writer.write_all(&vec![b'x'; 100_000]).unwrap();
            writeln!(writer, "round {round}").unwrap();
            log.bound();
            let found = std::fs::metadata(&path).unwrap();
            let blocks = std::os::unix::fs::MetadataExt::blocks(&found) * 512;
            assert!(blocks <= (1 << 20) + 200_000, "{blocks} bytes in round {round}");
        }
        let text = std::fs::read(&path).unwrap();
        assert!(text.ends_with(b"round 99\n"));
        assert!(text.len() as u64 - log.begin >= 1 << 19, "more was given back than had to be");
    }
}
