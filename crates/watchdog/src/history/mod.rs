//! Which processes were in a job: each from its start to its end, with what it was called, used and answered.
//!
//! A [`Tracker`] follows jobs in one thread of whoever starts or adopts them, not in their guardians: the kernel tells of every
//! process of the host, and a hundred guardians would each be woken by all of it. Where it may not be told
//! ([`Source::Sampled`]), jobs are looked at again and again, and what lived between two looks is not seen: such a history
//! never claims to be complete.
//!
//! What is kept is bounded, in memory and on disk: see [`ENDED_LIMIT`], [`LIVE_LIMIT`] and [`Store`]. What is beyond that is
//! counted.

mod book;
#[cfg_attr(windows, allow(dead_code, reason = "nobody tells of processes there"))]
mod lineage;
#[cfg(target_os = "linux")]
mod linux;
mod pace;
mod store;
mod tracker;
#[cfg(windows)]
mod windows;
mod words;

#[cfg(target_os = "linux")]
use linux as platform;
#[cfg(windows)]
use windows as platform;

pub use platform::owner_of;
pub use store::Store;
pub use tracker::Tracker;
pub use words::{ARGUMENTS_LIMIT, Redact, shorten};

use jiff::Timestamp;
use lineage::Seen;
use serde::{Deserialize, Serialize};

use crate::job::{Exit, Isolation, ProcessId, Tier};
use crate::registry::{Entry, JobDir};

/// How many processes that have ended are listed for a job: the latest.
pub const ENDED_LIMIT: usize = 10_000;
/// How many processes that are there are listed for a job. Those beyond are followed and counted.
pub const LIVE_LIMIT: usize = 10_000;
/// How much the processes that have ended may take of memory, in bytes.
const ENDED_BYTES: usize = 4 << 20;
/// How many gaps are listed; beyond that the last one is made longer.
const GAPS_LIMIT: usize = 100;

/// How the processes of a job were found out about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The kernel told of each start and end.
    Events,
    /// By looking again and again.
    Sampled,
}

/// A time in which a history may have missed processes, or how they ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Its beginning.
    pub from: Timestamp,
    /// Its end; `None` if nothing was seen any more after it began.
    pub to: Option<Timestamp>,
    /// Why.
    pub reason: String,
}

/// A process that is or was in a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Which process. Of one that the kernel told of and that ended before it was looked at, the start time may be off by a few
    /// hundredths of a second.
    pub id: ProcessId,
    /// The process that started it, as far as that was seen.
    pub parent: Option<ProcessId>,
    /// The number of its user, where users have numbers.
    pub user: Option<u32>,
    /// Its command name; empty if it ended before that could be read.
    pub command: String,
    /// Its arguments, secrets masked, separated by spaces, shortened. `None` if it ended before they could be read, or what is
    /// to be masked could not be told.
    pub arguments: Option<String>,
    /// When it was started.
    pub started: Timestamp,
    /// When it ended; `None` if it had not.
    pub ended: Option<Timestamp>,
    /// How it ended, as far as that was seen.
    pub exit: Option<Exit>,
    /// Processor time of its own, in seconds, as last seen.
    pub cpu_seconds: Option<f64>,
    /// The most memory that it had resident, in bytes, as last seen.
    pub memory_peak_bytes: Option<u64>,
}

/// The history of one job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The job's name.
    pub name: String,
    /// The job's identifier.
    pub job: String,
    /// How strong its containment is.
    pub tier: Tier,
    /// What a hostile workload could reach.
    pub isolation: Isolation,
    /// How its processes were found out about.
    pub source: Source,
    /// When it was written.
    pub as_of: Timestamp,
    /// When the job ended, as far as it was followed to its end.
    pub closed: Option<Timestamp>,
    /// When it may have missed something.
    pub gaps: Vec<Gap>,
    /// How many processes were seen and are not listed.
    pub omitted: u64,
    /// The processes: those that have ended in the order of their end, then those that had not.
    pub processes: Vec<Member>,
}

impl History {
    /// Whether every process that was in the job by [`History::as_of`] was seen, from its start on, and how it ended.
    pub fn is_complete(&self) -> bool {
        self.source == Source::Events && self.gaps.is_empty()
    }
}

/// A process that is in a job now.
#[derive(Clone, Debug)]
pub struct Present {
    /// The process, as far as a look shows it: without its arguments.
    pub member: Member,
    /// Its parent's process ID.
    pub parent: u32,
    /// Its state, as `/proc` names it.
    pub state: char,
    /// Resident memory in bytes.
    pub memory_bytes: u64,
}

/// The processes that are in the job in `dir`, of this record. `None` if they cannot be looked at.
pub fn present(dir: &JobDir, entry: &Entry) -> Option<Vec<Present>> {
    let seen = platform::look(dir, entry)?.into_iter().filter(|seen| !seen.dead);
    Some(seen.map(Seen::present).collect())
}

/// What the process `id` is called with, separated by spaces, with all that is secret in it; `None` if it has ended. They are
/// read from the process's own memory, which it can keep its reader waiting for.
pub fn arguments(id: ProcessId) -> Option<Vec<u8>> {
    platform::words(id).map(|raw| raw.line())
}
