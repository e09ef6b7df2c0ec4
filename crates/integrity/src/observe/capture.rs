//! Reading what changed, noticing if it changes meanwhile.

use std::io::{self, Read as _};
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::walk::Walked;
use crate::content::{ContentId, Sink};
use crate::error::Context as _;
use crate::platform::{
    AsNative, CLOCK_STEP_NANOSECONDS, NodeKind, Refusal, Stat, Tree, clock, read_attributes, refusal, streams,
};
use crate::progress::{Phase, Progress};
use crate::state::{Attribute, FileTime};
use crate::{Error, Result};

/// How often a file that changes while it is read is read again.
const TRIES: usize = 3;
/// Below this many files a second thread costs more than it gives.
const WORTH_THREADS: usize = 32;
/// The most threads that read at once.
const MOST_THREADS: usize = 4;
/// Filesystems that keep whole seconds only (or even ones) show it by a ctime without nanoseconds.
const COARSE_NANOSECONDS: i128 = 2_000_000_000;

/// What reading a name gave.
#[derive(Debug)]
pub(super) enum Captured {
    /// It was read.
    Read {
        stat: Stat,
        attributes: Vec<Attribute>,
        content: Option<ContentId>,
        size: u64,
        /// A change just after it was read might not show in its ctime.
        unsure: bool,
        /// It changed each time it was read.
        torn: bool,
    },
    /// It is not there any more.
    Gone,
    /// Something else is mounted on it.
    Mount,
    /// It can't be read; this is how it looks.
    Unreadable(Stat),
}

/// A name to be read, with the content that it is known to have had.
#[derive(Clone, Copy)]
pub(super) struct ToRead<'a> {
    pub(super) walked: &'a Walked,
    pub(super) before: Option<ContentId>,
}

/// Reads all of `walked`, several at once; gives the results in the same order.
pub(super) fn capture_all(
    tree: &Tree,
    walked: &[ToRead<'_>],
    sink: &dyn Sink,
    progress: &dyn Progress,
) -> Result<Vec<Captured>> {
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<Result<Captured>>>> = walked.iter().map(|_| Mutex::new(None)).collect();
    let work = || {
        while let Some(at) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|at| *at < walked.len()) {
            let captured = capture(tree, walked[at], sink);
            let failed = captured.is_err();
            if let Ok(mut slot) = results[at].lock() {
                *slot = Some(captured);
            }
            progress.report(Phase::Reading, at as u64 + 1, walked.len() as u64);
            if failed {
                next.store(walked.len(), Ordering::Relaxed);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(MOST_THREADS);
    if walked.len() < WORTH_THREADS || threads == 1 {
        work();
    } else {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
    }
    let unlocked = results.into_iter().filter_map(|slot| slot.into_inner().ok().flatten());
    unlocked.collect()
}

pub(super) fn capture(tree: &Tree, ToRead { walked, before }: ToRead<'_>, sink: &dyn Sink) -> Result<Captured> {
    match walked.stat.kind {
        NodeKind::File => capture_file(tree, walked, before, sink),
        NodeKind::Directory => capture_directory(tree, walked, sink),
        NodeKind::Symlink | NodeKind::Special => {
            let (stat, unsure) = (walked.stat, is_recent(walked.stat.ctime, clock()));
            Ok(Captured::Read { stat, attributes: Vec::new(), content: None, size: 0, unsure, torn: false })
        }
    }
}

fn capture_directory(tree: &Tree, walked: &Walked, sink: &dyn Sink) -> Result<Captured> {
    let started = clock();
    let opened = tree.open_dir(walked.path.as_bytes());
    let read = opened.context("read", tree.path()).and_then(|dir| {
        let attributes = beside(&dir, tree, sink)?;
        Ok((Stat::of(&dir).context("read", tree.path())?, attributes))
    });
    match read {
        Ok((stat, attributes)) => {
            let unsure = is_recent(stat.ctime, started);
            Ok(Captured::Read { stat, attributes, content: None, size: 0, unsure, torn: false })
        }
        Err(error) => unless_unreadable(error, walked),
    }
}

/// What stands beside the content of an open file or directory.
fn beside(file: &impl AsNative, tree: &Tree, sink: &dyn Sink) -> Result<Vec<Attribute>> {
    let mut attributes = read_attributes(file).context("read", tree.path())?;
    attributes.extend(streams::take(file, sink, tree.path())?);
    Ok(attributes)
}

/// What could not be read is told so; that what was read could not be stored is another matter.
fn unless_unreadable(error: Error, walked: &Walked) -> Result<Captured> {
    match error {
        Error::Io { action: "read", source, .. } => Ok(absent_or_unreadable(&source, walked)),
        error => Err(error),
    }
}

fn capture_file(tree: &Tree, walked: &Walked, mut known: Option<ContentId>, sink: &dyn Sink) -> Result<Captured> {
    let mut tries = 1;
    loop {
        let started = clock();
        let opened = tree.open_file(&walked.path).and_then(|file| Ok((Stat::of(&file)?, file)));
        let (before, mut file) = match opened {
            Ok((stat, _)) if stat.kind != NodeKind::File => return Ok(Captured::Gone),
            Ok(opened) => opened,
            Err(error) => return Ok(absent_or_unreadable(&error, walked)),
        };
        // No more than it has now: a file that grows as fast as it is read would never end.
        let mut bounded = (&mut file).take(before.size);
        let taken = sink.take(&mut bounded, tree.path(), known);
        let taken = taken.and_then(|taken| Ok((beside(&file, tree, sink)?, taken)));
        let (attributes, (content, size)) = match taken {
            Ok(taken) => taken,
            Err(error) => return unless_unreadable(error, walked),
        };
        let after = Stat::of(&file).context("look at a file in", tree.path())?;
        let torn = before != after || after.size != size;
        if !torn || tries == TRIES {
            let unsure = torn || is_recent(after.ctime, started);
            return Ok(Captured::Read { stat: after, attributes, content: Some(content), size, unsure, torn });
        }
        tries += 1;
        known = Some(content);
    }
}

fn absent_or_unreadable(error: &io::Error, walked: &Walked) -> Captured {
    match refusal(error) {
        Refusal::Gone => Captured::Gone,
        Refusal::Mount => Captured::Mount,
        Refusal::TooLong | Refusal::Other => Captured::Unreadable(walked.stat),
    }
}

/// Whether a change after `now` could leave a ctime of `ctime`.
fn is_recent(ctime: FileTime, now: FileTime) -> bool {
    let nanoseconds = |time: FileTime| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
    let step = if ctime.nanoseconds == 0 { COARSE_NANOSECONDS } else { CLOCK_STEP_NANOSECONDS };
    nanoseconds(ctime) + step > nanoseconds(now)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_change_is_recent_for_a_step_of_the_clock_that_stamped_it() {
        let time = |seconds, nanoseconds| FileTime { seconds, nanoseconds };
        assert!(is_recent(time(10, 500), time(10, 500)));
        let step = u32::try_from(CLOCK_STEP_NANOSECONDS).unwrap();
        assert!(is_recent(time(10, 500), time(10, step + 499)));
        assert!(!is_recent(time(10, 500), time(10, step + 500)));
        assert!(is_recent(time(10, 0), time(11, 999_999_999)), "a filesystem that keeps two seconds");
        assert!(!is_recent(time(10, 0), time(12, 0)));
        assert!(is_recent(time(99, 500), time(10, 0)), "the clock was set back");
    }
}
