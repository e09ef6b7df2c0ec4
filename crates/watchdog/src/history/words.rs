//! What a process is called with: read by a thread of its own, and masked before it is kept.
//!
//! Arguments are read from the process's own memory, which it can keep its reader waiting for. Whoever follows processes must
//! not wait: the reader does, and where one hangs, another takes its place.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::platform;
use crate::job::ProcessId;

/// How many characters of a process's arguments are kept.
pub const ARGUMENTS_LIMIT: usize = 500;
/// How many processes may wait to be read. Those beyond are not.
const QUEUE: usize = 256;
/// A reader that takes longer hangs.
const HANGS: Duration = Duration::from_secs(2);
/// How long the last ones are waited for.
const CATCH_UP: Duration = Duration::from_millis(50);
/// How many readers there may be that hang.
const READERS: usize = 4;

/// Takes secrets out of texts.
pub trait Redact: Send {
    /// The `texts` without the secrets that the workload `name` was ever given; `None` if it cannot be told which those are.
    fn redact(&mut self, name: &str, texts: Vec<Vec<u8>>) -> Option<Vec<Vec<u8>>>;
}

/// As it was read.
#[derive(Debug)]
pub(super) struct Raw {
    /// Its command name.
    pub(super) command: String,
    /// Its arguments, separated by zeros.
    pub(super) arguments: Vec<u8>,
    /// There are more, which were not read.
    pub(super) cut: bool,
}

impl Raw {
    /// The arguments as a line. One that was cut may end within a secret, and goes as a whole.
    pub(super) fn line(&self) -> Vec<u8> {
        let Self { arguments, cut, .. } = self;
        let whole = if *cut { arguments.iter().rposition(|&byte| byte == 0).unwrap_or(0) } else { arguments.len() };
        let mut line: Vec<u8> = arguments[..whole].iter().map(|&byte| if byte == 0 { b' ' } else { byte }).collect();
        line.truncate(line.trim_ascii_end().len());
        line
    }
}

/// What one or more processes are called with, since a fork shares it with its parent.
#[derive(Debug, Default)]
pub(super) struct Words {
    raw: OnceLock<Raw>,
    /// What may be shown of the arguments, once that is decided.
    shown: OnceLock<Option<String>>,
}

impl Words {
    pub(super) fn raw(&self) -> Option<&Raw> {
        self.raw.get()
    }

    pub(super) fn shown(&self) -> Option<String> {
        self.shown.get().cloned().flatten()
    }

    /// Whether it is decided what may be shown: what has been read since the last masking is not.
    pub(super) fn is_decided(&self) -> bool {
        self.shown.get().is_some()
    }

    /// Whether they were read and nobody has decided yet what may be shown.
    fn is_undecided(&self) -> bool {
        self.raw.get().is_some() && self.shown.get().is_none()
    }

    /// Masks what was read of `all` and is not masked yet. Whether there was any.
    pub(super) fn redact(name: &str, all: impl Iterator<Item = Arc<Self>>, redact: &mut dyn Redact) -> bool {
        let undecided: Vec<Arc<Self>> = all.filter(|words| words.is_undecided()).collect();
        if undecided.is_empty() {
            return false;
        }
        let texts = undecided.iter().filter_map(|words| words.raw()).map(Raw::line).collect();
        let masked = redact.redact(name, texts).filter(|masked| masked.len() == undecided.len());
        for (index, words) in undecided.iter().enumerate() {
            let shown = masked.as_ref().map(|masked| shorten(&masked[index]));
            let _ = words.shown.set(shown);
        }
        true
    }
}

/// The beginning of a masked line that is kept and shown.
pub fn shorten(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().take(ARGUMENTS_LIMIT).collect()
}

/// Reads what processes are called with.
#[derive(Debug)]
pub(super) struct Reader {
    queue: Option<SyncSender<(ProcessId, Arc<Words>)>>,
    /// How many wait to be read, by the present reader.
    waiting: Arc<AtomicUsize>,
    /// Since when the present reader is at its work; `None` while it has none.
    busy: Arc<Mutex<Option<Instant>>>,
    started: usize,
}

impl Reader {
    pub(super) fn new() -> Self {
        let mut reader = Self { queue: None, waiting: Arc::default(), busy: Arc::default(), started: 0 };
        reader.start();
        reader
    }

    /// Has the process `id` read. What it is called with is filled in soon, if it lives for so long.
    pub(super) fn read(&mut self, id: ProcessId) -> Arc<Words> {
        let words = Arc::<Words>::default();
        let hangs = |since: &Option<Instant>| since.is_some_and(|since| since.elapsed() > HANGS);
        if hangs(&self.busy.lock().unwrap_or_else(PoisonError::into_inner)) && self.started < READERS {
            self.start();
        }
        if let Some(queue) = &self.queue {
            self.waiting.fetch_add(1, Ordering::AcqRel);
            if queue.try_send((id, Arc::clone(&words))).is_err() {
                self.waiting.fetch_sub(1, Ordering::AcqRel);
            }
        }
        words
    }

    /// Waits until all were read that wait for it, and not for long.
    pub(super) fn catch_up(&self) {
        let started = Instant::now();
        while self.waiting.load(Ordering::Acquire) > 0 && started.elapsed() < CATCH_UP {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Starts a reader, in place of one that hangs: that one ends when it is let go.
    fn start(&mut self) {
        let (queue, given) = sync_channel::<(ProcessId, Arc<Words>)>(QUEUE);
        let (busy, waiting) = (Arc::new(Mutex::new(None)), Arc::<AtomicUsize>::default());
        self.started += 1;
        let (at_work, still) = (Arc::clone(&busy), Arc::clone(&waiting));
        // Without a thread nothing is read, which the history shows.
        let started = std::thread::Builder::new().name("words".to_owned()).spawn(move || {
            for (id, words) in given {
                *at_work.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                if let Some(raw) = platform::words(id) {
                    let _ = words.raw.set(raw);
                }
                *at_work.lock().unwrap_or_else(PoisonError::into_inner) = None;
                still.fetch_sub(1, Ordering::AcqRel);
            }
        });
        self.queue = started.is_ok().then_some(queue);
        (self.busy, self.waiting) = (busy, waiting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_that_was_cut_is_left_out() {
        let line = |arguments: &[u8], cut| Raw { command: String::new(), arguments: arguments.to_vec(), cut }.line();
        assert_eq!(line(b"cp\0a b\0", false), b"cp a b");
        assert_eq!(line(b"curl\0-u\0sec", true), b"curl -u");
        assert_eq!(line(b"a title without end", true), b"");
    }
}
