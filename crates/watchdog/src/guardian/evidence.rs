//! What is kept of an emergency: what tripped, the history, the tree, what it had open, what it said last, what the kernel says.
//!
//! Looking at processes can block, and so can a disk, so a disposable helper does it. The guardian waits for the look at the
//! processes for a bounded time, in which what matters most comes first, and never for the disk. What can still be had after the
//! kill is looked at after it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::platform::KernelLog;
use crate::JobObjectManager;
use crate::job::{Exit, Isolation, Limits, Process, Tier};
use crate::ladder::Breach;
use crate::monitor::{Peak, Sample};
use crate::stop::StopReport;

/// How many processes are listed.
const TREE_LIMIT: usize = 200;
/// How many samples are kept.
const HISTORY_LIMIT: usize = 100;
/// How much of the last output is kept, in bytes and lines.
const OUTPUT_BYTES: u64 = 16 << 10;
const OUTPUT_LINES: usize = 100;

/// What is kept of an emergency.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// `breach` before a kill, and when a limit or an order has it asked to end or frozen; `warning` at a rung that only warns;
    /// `stop-not-proven` when something outlived the kill; `stop` after the end.
    pub event: String,
    /// Which piece of evidence of its job this is, from 1.
    pub number: u32,
    /// The number of the piece of the same job that this one completes.
    pub completes: Option<u32>,
    /// The job's name.
    pub workload: String,
    /// The job's identifier.
    pub job: String,
    /// The incident that it belongs to.
    pub incident: Option<String>,
    /// Why.
    pub reason: String,
    /// What tripped.
    pub breach: Option<Breach>,
    /// How strong the containment is.
    pub tier: Tier,
    /// What a hostile workload could reach.
    pub isolation: Isolation,
    /// The limits in force.
    pub limits: Limits,
    /// The last samples, oldest first; after the end with the last counters.
    pub history: Vec<Sample>,
    /// The highest values seen.
    pub peak: Peak,
    /// The processes; before a kill, while they were frozen.
    pub tree: Vec<Looked>,
    /// How many more there were.
    pub tree_omitted: u64,
    /// What of the processes there was no time to look at.
    pub unfinished: Vec<String>,
    /// The last of its output, where the guardian knows where that goes: since the piece that this one completes.
    pub output: Option<LastOutput>,
    /// What the kernel has logged about it since the last piece that says so; `None` where this piece does not.
    pub kernel: Option<KernelLines>,
    /// How the main process ended, if it did.
    pub exit: Option<Exit>,
    /// The stop's answer, after it.
    pub report: Option<StopReport>,
    /// What whoever started the guardian has to say to its recorder ([`super::GuardianSpec::note`]).
    #[serde(default)]
    pub note: String,
}

/// A process with what it had.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Looked {
    /// The process.
    #[serde(flatten)]
    pub process: Process,
    /// How many more files it had open than are listed.
    pub open_omitted: u64,
    /// Its user's number.
    pub uid: Option<u32>,
    /// What its memory is made of.
    pub memory: Option<MemoryMap>,
    /// The sockets among what it had open.
    pub sockets: Vec<Socket>,
}

/// The sizes of a process's memory map, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryMap {
    /// Resident and its own.
    pub anonymous_bytes: u64,
    /// Resident and a file's.
    pub file_bytes: u64,
    /// Resident and shared, of no file.
    pub shared_bytes: u64,
    /// Swapped out.
    pub swap_bytes: u64,
    /// The most that was ever resident.
    pub peak_bytes: u64,
    /// Mapped, whether resident or not.
    pub virtual_bytes: u64,
}

/// A socket that a process had open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// `tcp`, `tcp6`, `udp`, `udp6` or `unix`.
    pub protocol: String,
    /// Its own address and port, or path.
    pub local: String,
    /// The other end's, if it has one that is known.
    pub remote: Option<String>,
    /// `listen`, `established`, …
    pub state: String,
}

/// The last of a workload's output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastOutput {
    /// As it was written, from the beginning of a line on.
    pub text: Vec<u8>,
    /// How much stood before it, since the piece of evidence that this one completes, or since the job's start.
    pub omitted_bytes: u64,
}

/// What the kernel has logged about a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelLines {
    /// Oldest first.
    pub lines: Vec<String>,
    /// How many older ones there were.
    pub omitted: u64,
    /// Why there may be more: its log was overrun, or may not be read.
    pub incomplete: Option<String>,
}

/// Writes evidence down. Called in a process or thread of its own, which may block and fail as it likes.
pub trait Recorder: Sync {
    /// Keeps one piece of evidence in the state directory. Arguments, output and what else the workload has chosen are as they
    /// were, with any secret that it was given.
    fn record(&self, state_dir: &Path, evidence: &Evidence);
}

/// At which occasion evidence is gathered.
#[derive(Clone, Debug)]
pub(super) struct Occasion {
    pub(super) event: &'static str,
    pub(super) number: u32,
    pub(super) completes: Option<u32>,
    pub(super) incident: Option<String>,
    pub(super) reason: String,
    pub(super) breach: Option<Breach>,
    pub(super) exit: Option<Exit>,
    pub(super) report: Option<StopReport>,
    pub(super) note: String,
}

impl Evidence {
    /// What there is to say about the job now, and first of all.
    pub(super) fn gather(job: &JobObjectManager, occasion: Occasion) -> Self {
        let monitor = job.monitor();
        let history: Vec<Sample> = monitor.history().copied().collect();
        let recent = history.len().saturating_sub(HISTORY_LIMIT);
        let (tree, tree_omitted) = job.job().census(TREE_LIMIT);
        let Occasion { event, number, completes, incident, reason, breach, exit, report, note } = occasion;
        Self {
            event: event.to_owned(),
            number,
            completes,
            workload: job.spec().name.clone(),
            job: job.spec().id.clone(),
            incident,
            reason,
            breach,
            tier: job.job().tier(),
            isolation: job.isolation(),
            limits: job.spec().limits,
            history: history[recent..].to_vec(),
            peak: monitor.peak(),
            tree: tree.into_iter().map(Looked::from).collect(),
            tree_omitted,
            unfinished: Vec::new(),
            output: None,
            kernel: None,
            exit,
            report,
            note,
        }
    }
}

impl std::fmt::Debug for Writing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writing").field("state_dir", &self.state_dir).finish_non_exhaustive()
    }
}

impl From<Process> for Looked {
    fn from(process: Process) -> Self {
        Self { process, open_omitted: 0, uid: None, memory: None, sockets: Vec::new() }
    }
}

/// Where evidence is written, and by whom; and what is known without the processes.
pub(super) struct Writing {
    pub(super) recorder: &'static dyn Recorder,
    pub(super) state_dir: PathBuf,
    pub(super) output: Option<Part>,
    /// The kernel's log, if this piece of evidence says what is in it.
    pub(super) kernel: Option<Arc<KernelLog>>,
    /// Processes that the job is known to have had.
    pub(super) pids: Vec<u32>,
}

/// A part of a log.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) path: PathBuf,
    pub(super) from: u64,
    pub(super) to: u64,
}

impl Part {
    /// The last of it. `None` if it cannot be read.
    pub(super) fn read(&self) -> Option<LastOutput> {
        use std::io::{Read as _, Seek as _, SeekFrom};
        let mut file = super::platform::open_log(&self.path).ok()?;
        // What was given back reads as zeroes.
        let from = self.from.max(super::platform::first_data(&file)).min(self.to);
        // One more, which says whether a line begins there.
        let begin = from.max(self.to.saturating_sub(OUTPUT_BYTES + 1));
        file.seek(SeekFrom::Start(begin)).ok()?;
        let mut text = Vec::new();
        file.take(self.to - begin).read_to_end(&mut text).ok()?;
        let read = text.len();
        // Of a block that was given back in part zeroes are left.
        if begin > self.from || text.first() == Some(&0) {
            let line = text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |end| end + 1);
            // A line that is longer than all that is kept is better than nothing.
            text.drain(..if line == text.len() { text.iter().take_while(|byte| **byte == 0).count() } else { line });
        }
        let ends = text.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
        // The last of them ends the last line.
        let last = text.len().saturating_sub(1);
        if let Some(end) = ends.filter(|at| *at != last).nth(OUTPUT_LINES - 1) {
            text.drain(..=end);
        }
        Some(LastOutput { omitted_bytes: (begin - self.from) + (read - text.len()) as u64, text })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn last(text: &[u8], from: u64) -> (String, u64) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, text).unwrap();
        let part = Part { path, from, to: text.len() as u64 };
        let LastOutput { text, omitted_bytes } = part.read().unwrap();
        (String::from_utf8(text).unwrap(), omitted_bytes)
    }

    #[test]
    fn the_last_output_is_whole_lines_and_bounded_in_both_ways() {
        assert_eq!(last(b"", 0), (String::new(), 0));
        assert_eq!(last(b"one\ntwo", 0), ("one\ntwo".to_owned(), 0));
        assert_eq!(last(b"one\ntwo\n", 4), ("two\n".to_owned(), 0));
        assert_eq!(last(b"\0\0\0\ntwo\n", 0), ("two\n".to_owned(), 4));
        assert_eq!(last(b"one\n", 4), (String::new(), 0));
        let many = (0..1000).map(|number| number.to_string() + "\n").collect::<Vec<_>>().concat();
        let (text, omitted) = last(many.as_bytes(), 0);
        assert_eq!((text.lines().count(), text.lines().next()), (OUTPUT_LINES, Some("900")));
        assert_eq!(text.len() as u64 + omitted, many.len() as u64);
        let long = format!("{}\n{}\nend\n", "a".repeat(9000), "b".repeat(9000));
        let (text, omitted) = last(long.as_bytes(), 0);
        assert!(text.starts_with("bbb") && text.ends_with("b\nend\n") && omitted == 9001, "{omitted}");
        let (text, omitted) = last("x".repeat(40_000).as_bytes(), 0);
        assert_eq!(text.len() as u64 + omitted, 40_000);
        assert!(text.len() as u64 > OUTPUT_BYTES - 1);
    }
}
