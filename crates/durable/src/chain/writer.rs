//! Appending to a chain.

use std::fs::{File, OpenOptions};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::segment::{Anchor, Found, LIMIT, Name, OVERHEAD, RECORDS_AT, Segment, encode_record, read_record};
use super::{Head, Lsn, Options, Reader, list, open_following};
use crate::error::{Context as _, damaged};
use crate::file::{At as _, created_with, rename};
use crate::lock::Lock;
use crate::{Error, Result, replace};

/// How much is zeroed at once when a segment is made.
const ZEROS: usize = 64 * 1024;

/// A chain opened for appending. It can be shared between threads.
#[derive(Debug)]
pub struct Chain {
    dir: PathBuf,
    options: Options,
    queue: Mutex<Queue>,
    written: Condvar,
    /// How often a batch was synchronised.
    synchronisations: AtomicU64,
    _lock: Lock,
}

#[derive(Debug)]
struct Queue {
    /// Encoded records that no writer has taken yet.
    pending: Vec<u8>,
    /// The head after all that was queued.
    queued: Head,
    /// The head after all that is durable.
    durable: Head,
    /// The file being written; `None` while a writer has it.
    tail: Option<Tail>,
    /// The first failure, after which nothing is written any more.
    failure: Option<String>,
}

#[derive(Debug)]
struct Tail {
    file: File,
    path: PathBuf,
    end: u64,
    length: u64,
    anchors: u64,
}

impl Chain {
    /// Opens the chain in `dir`, creating the directory (mode 0700) and the chain if they are absent.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process or another [`Chain`] has it open; [`Error::Damaged`] and its kin if the last
    /// segment is not what was written; [`Error::Io`].
    pub fn open(dir: &Path, options: Options) -> Result<Self> {
        replace::create_dir(dir, 0o700)?;
        let lock_path = dir.join("lock");
        let lock = Lock::try_acquire(&lock_path)?.ok_or(Error::Locked { path: lock_path })?;
        remove_unfinished(dir)?;
        let (tail, head) = match list(dir)?.pop() {
            Some((first, path)) => open_tail(&path, options, first)?,
            None => (create_segment(dir, options, Head::EMPTY, 0)?, Head::EMPTY),
        };
        let queue = Queue { pending: Vec::new(), queued: head, durable: head, tail: Some(tail), failure: None };
        let (queue, written, synchronisations) = (Mutex::new(queue), Condvar::new(), AtomicU64::new(0));
        Ok(Self { dir: dir.to_owned(), options, queue, written, synchronisations, _lock: lock })
    }

    /// Appends one record. It is durable when this returns.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::Io`] if writing failed; [`Error::Poisoned`] if it failed before. After a failure it
    /// is not known whether the record was kept: open the chain again to see.
    pub fn append(&self, payload: &[u8]) -> Result<Lsn> {
        self.append_all(&[payload]).map(|range| *range.end())
    }

    /// Appends records under consecutive positions, with one synchronisation, all or none of them. An empty list
    /// returns an empty range.
    ///
    /// # Errors
    /// As for [`Chain::append`].
    pub fn append_all(&self, payloads: &[&[u8]]) -> Result<RangeInclusive<Lsn>> {
        if let Some(large) = payloads.iter().find(|payload| payload.len() > LIMIT) {
            return Err(Error::TooLarge { path: self.dir.clone(), size: large.len(), limit: LIMIT });
        }
        let mut queue = self.queue();
        self.refuse_if_failed(&queue)?;
        let first = queue.queued.lsn + 1;
        let mut head = queue.queued;
        for payload in payloads {
            head = encode_record(&mut queue.pending, head, payload);
        }
        queue.queued = head;
        self.commit(queue, head.lsn)?;
        Ok(first..=head.lsn)
    }

    /// The last durable record.
    pub fn head(&self) -> Head {
        self.queue().durable
    }

    /// How often records were synchronised since the chain was opened: once for all that came together.
    pub fn synchronisations(&self) -> u64 {
        self.synchronisations.load(Ordering::Relaxed)
    }

    /// The records from `lsn` to the present head. `lsn` may be one past the head: then there are none.
    ///
    /// # Errors
    /// [`Error::NoSuchRecord`] if `lsn` was dropped; [`Error::Io`]; [`Error::Damaged`].
    pub fn read_from(&self, lsn: Lsn) -> Result<Reader> {
        let head = self.head();
        Reader::start(&self.dir, self.options.kind, list(&self.dir)?.into(), lsn, Some(head.lsn))
    }

    /// Removes the segments that hold only records before `lsn`. The last segment stays.
    ///
    /// # Errors
    /// [`Error::Io`] if one cannot be removed.
    pub fn drop_before(&self, lsn: Lsn) -> Result<()> {
        // The queue is held so that no segment is added meanwhile.
        let _queue = self.queue();
        let segments = list(&self.dir)?;
        for pair in segments.windows(2) {
            if pair[1].0 <= lsn {
                std::fs::remove_file(&pair[0].1).context("remove", &pair[0].1)?;
            }
        }
        replace::sync_dir(&self.dir)
    }

    /// Waits until record `lsn` is durable, writing what is queued if nobody else does.
    fn commit<'q>(&'q self, mut queue: MutexGuard<'q, Queue>, lsn: Lsn) -> Result<()> {
        loop {
            if queue.durable.lsn >= lsn {
                return Ok(());
            }
            self.refuse_if_failed(&queue)?;
            let Some(tail) = queue.tail.take() else {
                queue = self.written.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let batch = std::mem::take(&mut queue.pending);
            let (before, after) = (queue.durable, queue.queued);
            drop(queue);
            let result = self.write(tail, &batch, before, after);
            queue = self.queue();
            match result {
                Ok(tail) => {
                    queue.tail = Some(tail);
                    queue.durable = after;
                    self.written.notify_all();
                }
                Err(error) => {
                    queue.failure = Some(error.to_string());
                    self.written.notify_all();
                    return Err(error);
                }
            }
        }
    }

    fn write(&self, mut tail: Tail, batch: &[u8], before: Head, after: Head) -> Result<Tail> {
        if tail.end + batch.len() as u64 > tail.length {
            let next = || create_segment(&self.dir, self.options, before, batch.len() as u64);
            tail = if tail.end == RECORDS_AT {
                // An empty one is replaced under its own name, which not every system does while it is open.
                drop(tail);
                next()?
            } else {
                let next = next()?;
                tail.note(before, true)?;
                tail.file.sync_data().context("synchronise", &tail.path)?;
                next
            };
        }
        tail.file.write_all_at(batch, tail.end).context("write", &tail.path)?;
        tail.file.sync_data().context("synchronise", &tail.path)?;
        self.synchronisations.fetch_add(1, Ordering::Relaxed);
        tail.end += batch.len() as u64;
        tail.note(after, false)?;
        Ok(tail)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // The queue is only changed by whole assignments, so a panic elsewhere left it usable.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse_if_failed(&self, queue: &Queue) -> Result<()> {
        match &queue.failure {
            None => Ok(()),
            Some(detail) => Err(Error::Poisoned { path: self.dir.clone(), detail: detail.clone() }),
        }
    }
}

impl Tail {
    /// Notes what was acknowledged. Not synchronised: the next batch's synchronisation takes it along.
    fn note(&mut self, head: Head, continued: bool) -> Result<()> {
        self.anchors += 1;
        Anchor { sequence: self.anchors, head, end: self.end, continued }
            .write(&self.file)
            .context("write the anchor of", &self.path)
    }
}

/// Removes segments that a crash left before they got their name.
fn remove_unfinished(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir).context("list", dir)? {
        let path = entry.context("list", dir)?.path();
        if path.extension().is_some_and(|extension| extension == "new") {
            std::fs::remove_file(&path).context("remove", &path)?;
        }
    }
    Ok(())
}

/// Makes a segment for the records after `before`, its blocks written so that a full disk cannot stop an append to it.
fn create_segment(dir: &Path, options: Options, before: Head, batch: u64) -> Result<Tail> {
    let first_lsn = before.lsn + 1;
    let length = options.segment_bytes.max(RECORDS_AT + batch + OVERHEAD as u64);
    let path = dir.join(Name(first_lsn).to_string());
    let unfinished = path.with_extension("new");
    let file = created_with(OpenOptions::new().read(true).write(true).create(true).truncate(true), 0o600)
        .open(&unfinished)
        .context("create", &unfinished)?;
    let header = Segment { kind: options.kind, first_lsn, previous: before.hash }.encode();
    file.write_all_at(&header, 0).context("write", &unfinished)?;
    let zeros = vec![0; ZEROS];
    let mut at = RECORDS_AT;
    while at < length {
        let step = usize::try_from(length - at).unwrap_or(ZEROS).min(ZEROS);
        file.write_all_at(&zeros[..step], at).context("write", &unfinished)?;
        at += step as u64;
    }
    file.sync_all().context("synchronise", &unfinished)?;
    rename(&unfinished, &path).context("rename into place", &path)?;
    replace::sync_dir(dir)?;
    Ok(Tail { file, path, end: RECORDS_AT, length, anchors: 0 })
}

/// Opens the last segment, checks it and cuts a torn end that was never acknowledged.
fn open_tail(path: &Path, options: Options, first: Lsn) -> Result<(Tail, Head)> {
    let (_, segment) = open_following(path, options.kind, first, None)?;
    let file = OpenOptions::new().read(true).write(true).open(path).context("open", path)?;
    let length = file.metadata().context("look at", path)?.len();
    let anchor = Anchor::read(&file, path)?;
    let (mut head, mut at) = (segment.before(), RECORDS_AT);
    let torn = loop {
        match read_record(&file, path, at, length, head)? {
            Found::Record { head: next, end, .. } => (head, at) = (next, end),
            Found::End => break None,
            Found::Invalid(detail) => break Some(detail),
        }
    };
    if let Some(anchor) = anchor {
        if anchor.head.lsn > head.lsn {
            let detail = torn.unwrap_or_else(|| format!("record {} is missing at its end", head.lsn + 1));
            return Err(damaged(path, detail));
        }
        if anchor.continued {
            return Err(damaged(path, "the segment after it is missing"));
        }
    }
    // Zeros may hide a torn batch behind them: blocks reach the device in any order.
    clear_behind(&file, path, at, length)?;
    let anchors = anchor.map_or(0, |anchor| anchor.sequence);
    let mut tail = Tail { file, path: path.to_owned(), end: at, length, anchors };
    if anchor.is_none_or(|anchor| anchor.head != head) && head != segment.before() {
        tail.note(head, false)?;
        tail.file.sync_data().context("synchronise", path)?;
    }
    Ok((tail, head))
}

/// Zeroes what stands behind the last record, so that a later reader does not take it for one.
fn clear_behind(file: &File, path: &Path, from: u64, length: u64) -> Result<()> {
    let mut buffer = vec![0; ZEROS];
    let mut at = from;
    let mut changed = false;
    while at < length {
        let step = usize::try_from(length - at).unwrap_or(ZEROS).min(ZEROS);
        file.read_exact_at(&mut buffer[..step], at).context("read", path)?;
        if buffer[..step].iter().any(|&byte| byte != 0) {
            buffer[..step].fill(0);
            file.write_all_at(&buffer[..step], at).context("clear the torn end of", path)?;
            changed = true;
        }
        at += step as u64;
    }
    if changed { file.sync_data().context("synchronise", path) } else { Ok(()) }
}
