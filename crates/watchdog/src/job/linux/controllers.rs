//! The controllers of a cgroup: each in the v2 group itself, or in a group of its own where its hierarchy is v1.
//!
//! See `Documentation/admin-guide/cgroup-v2.rst` and `…/cgroup-v1/` of the Linux sources for the files.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::counters::{Lines, io_bytes, number};
use super::kmsg;
use crate::Result;
use crate::error::Context as _;
use crate::job::{CPU_WEIGHT_DEFAULT, Limits};
use crate::ladder::Steps;
use crate::monitor::Reading;

/// The period of `cpu.max`, in microseconds.
const CPU_PERIOD: u64 = 100_000;
/// What cgroup v1 calls the weight of a group that is given none.
const CPU_SHARES_DEFAULT: u64 = 1024;
/// The most processes that the kernel can have (`PID_MAX_LIMIT`).
const PIDS_EVER: u64 = 4 << 20;
/// How old the exact figure of memory may become.
const EXACT_EVERY: Duration = Duration::from_secs(1);
/// By how much of itself the rough figure may have changed until the exact one is read again: one part in so many.
const EXACT_MOVE: u64 = 16;

/// Which of the two kinds of hierarchy a group is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// A bound as a file of v2 takes it.
fn bound(to: Option<f64>) -> String {
    to.map_or("max".to_owned(), |to| format!("{:.0}", to.max(1.0)))
}

/// The controller `memory`.
#[derive(Debug)]
pub(super) struct Memory {
    bounds: MemoryBounds,
    /// All that is charged, that of files too: cheap to read, and never less than what cannot be dropped.
    current: File,
    stat: File,
    swap: Option<File>,
    events: Option<File>,
    /// What the kernel of a v1 hierarchy says it by that it has ended a process.
    told: Option<OwnedFd>,
    exact: Option<Exact>,
}

/// The exact figures, as they were read last.
#[derive(Clone, Copy, Debug)]
struct Exact {
    at: Instant,
    current: u64,
    memory: u64,
    swap: Option<u64>,
}

/// Where its limits are set.
#[derive(Debug)]
pub(super) struct MemoryBounds {
    group: PathBuf,
    version: Version,
}

impl Memory {
    pub(super) fn open(group: &Path, version: Version) -> Result<Self> {
        let read = |name: &str| File::open(group.join(name)).on("open", &group.join(name));
        let (current, events) = match version {
            Version::V1 => ("memory.usage_in_bytes", "memory.oom_control"),
            Version::V2 => ("memory.current", "memory.events"),
        };
        let events = File::open(group.join(events)).ok();
        let told = events.as_ref().filter(|_| version == Version::V1).and_then(|events| tell(group, events));
        Ok(Self {
            current: read(current)?,
            stat: read("memory.stat")?,
            swap: File::open(group.join("memory.swap.current")).ok(),
            events,
            told,
            exact: None,
            bounds: MemoryBounds { group: group.to_owned(), version },
        })
    }

    /// The limits of the group above.
    pub(super) fn above(&self) -> MemoryBounds {
        MemoryBounds { group: above(&self.bounds.group), version: self.bounds.version }
    }

    pub(super) fn set_max(&self, max: Option<u64>) -> io::Result<()> {
        self.bounds.set_max(max)
    }

    /// Whether what asks for more can be kept waiting.
    pub(super) fn slows(&self) -> bool {
        self.bounds.version == Version::V2
    }

    /// Keeps what has more than `to` bytes waiting for more. May itself wait for that to be taken back.
    pub(super) fn slow(&self, to: Option<f64>) -> io::Result<()> {
        match (self.bounds.version, to) {
            (Version::V2, to) => fs::write(self.bounds.group.join("memory.high"), bound(to)),
            (Version::V1, None) => Ok(()),
            (Version::V1, Some(_)) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// What signals that the kernel has ended a process, and whether by priority data.
    pub(super) fn refusals(&self) -> Option<(BorrowedFd<'_>, bool)> {
        match &self.told {
            Some(told) => Some((told.as_fd(), false)),
            None if self.bounds.version == Version::V2 => self.events.as_ref().map(|events| (events.as_fd(), true)),
            None => None,
        }
    }

    /// Hears what was signalled, so that it is not said again.
    pub(super) fn hear(&self) {
        if let Some(told) = &self.told {
            let _ = rustix::io::read(told, &mut [0_u8; 8]);
        }
    }

    /// Reads what there is. What cannot be dropped is dear to read: the kernel sums it up over all processors. It is read when it
    /// matters: when it may have reached the next of `steps`, has changed much, or is old.
    pub(super) fn read(&mut self, reading: &mut Reading, steps: &Steps) {
        let current = number(&self.current).unwrap_or(0);
        let exact = self.exact.filter(|exact| !exact.is_past(current, steps));
        let exact = exact.unwrap_or_else(|| self.sum_up(current));
        self.exact = Some(exact);
        (reading.memory_bytes, reading.swap_bytes) = (exact.memory.min(current), exact.swap);
        reading.memory_charged_bytes = current;
        if let Some(events) = self.events.as_ref().map(Lines::of) {
            reading.oom_kills = events.get(b"oom_kill").unwrap_or(0);
            reading.memory_slowed = events.get(b"high").unwrap_or(0);
        }
    }

    /// Whether it counts what was swapped out.
    pub(super) fn counts_swap(&self) -> bool {
        self.sum_up(0).swap.is_some()
    }

    fn sum_up(&self, current: u64) -> Exact {
        let keys: [&[u8]; 2] = match self.bounds.version {
            Version::V1 => [b"total_rss", b"total_shmem"],
            Version::V2 => [b"anon", b"shmem"],
        };
        let stat = Lines::of(&self.stat);
        let swap = match self.bounds.version {
            Version::V1 => stat.get(b"total_swap"),
            Version::V2 => self.swap.as_ref().and_then(number),
        };
        Exact { at: Instant::now(), current, memory: keys.iter().filter_map(|key| stat.get(key)).sum(), swap }
    }
}

impl Exact {
    fn is_past(&self, current: u64, steps: &Steps) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "thresholds are compared as floats; 2^53 bytes is enough")]
        let reaches = |memory: f64| steps.next_above(memory).is_some_and(|next| current as f64 >= next);
        #[expect(clippy::cast_precision_loss, reason = "as above")]
        let next = reaches(self.memory as f64);
        next || current.abs_diff(self.current) > self.current / EXACT_MOVE || self.at.elapsed() >= EXACT_EVERY
    }
}

impl MemoryBounds {
    pub(super) fn set_max(&self, max: Option<u64>) -> io::Result<()> {
        match self.version {
            Version::V2 => {
                fs::write(self.group.join("memory.max"), max.map_or("max".to_owned(), |max| max.to_string()))?;
                // Swap would only delay the limit. Absent where there is no swap accounting.
                let _ = fs::write(self.group.join("memory.swap.max"), if max.is_some() { "0" } else { "max" });
                Ok(())
            }
            Version::V1 => {
                fs::write(self.group.join("memory.limit_in_bytes"), max.map_or("-1".to_owned(), |max| max.to_string()))
            }
        }
    }
}

/// Has the kernel signal by a descriptor that it is out of memory in the v1 group. `None` where it does not.
fn tell(group: &Path, oom_control: &File) -> Option<OwnedFd> {
    use rustix::event::{EventfdFlags, eventfd};
    use std::os::fd::AsRawFd as _;
    let told = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?;
    let order = format!("{} {}", told.as_raw_fd(), oom_control.as_raw_fd());
    fs::write(group.join("cgroup.event_control"), order).ok()?;
    Some(told)
}

/// The group above `group`.
fn above(group: &Path) -> PathBuf {
    group.parent().unwrap_or(group).to_owned()
}

/// The controller `cpu`.
#[derive(Debug)]
pub(super) struct Cpu {
    group: PathBuf,
    version: Version,
    /// That of v1; that of v2 is the cgroup's own.
    stat: Option<File>,
}

impl Cpu {
    pub(super) fn open(group: PathBuf, version: Version) -> Self {
        let stat = if version == Version::V1 { File::open(group.join("cpu.stat")).ok() } else { None };
        Self { group, version, stat }
    }

    /// That of the group above, to set its limits.
    pub(super) fn above(&self) -> Self {
        Self { group: above(&self.group), version: self.version, stat: None }
    }

    /// For how long its share was used up; `own` is the cgroup's `cpu.stat`.
    pub(super) fn throttled(&self, own: &Lines) -> Option<Duration> {
        match self.version {
            Version::V1 => Lines::of(self.stat.as_ref()?).get(b"throttled_time").map(Duration::from_nanos),
            Version::V2 => own.get(b"throttled_usec").map(Duration::from_micros),
        }
    }

    pub(super) fn set(&self, limits: &Limits) -> io::Result<()> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a number of cores times the period"
        )]
        let quota = limits.cpu_max.map(|cores| ((cores * CPU_PERIOD as f64) as u64).max(1000));
        let weight = limits.cpu_weight.unwrap_or(CPU_WEIGHT_DEFAULT);
        let write = |file: &str, text: String| fs::write(self.group.join(file), text);
        match self.version {
            Version::V2 => {
                let quota = quota.map_or("max".to_owned(), |quota| quota.to_string());
                write("cpu.max", format!("{quota} {CPU_PERIOD}"))?;
                write("cpu.weight", weight.to_string())
            }
            Version::V1 => {
                write("cpu.cfs_period_us", CPU_PERIOD.to_string())?;
                write("cpu.cfs_quota_us", quota.map_or("-1".to_owned(), |quota| quota.to_string()))?;
                write("cpu.shares", shares_of(weight).to_string())
            }
        }
    }
}

/// A weight as cgroup v1 counts it, whose least is 2.
fn shares_of(weight: u32) -> u64 {
    (u64::from(weight) * CPU_SHARES_DEFAULT / u64::from(CPU_WEIGHT_DEFAULT)).max(2)
}

/// The controller `pids`. Its files are the same in both versions.
#[derive(Debug)]
pub(super) struct Pids {
    bounds: PidsBounds,
    version: Version,
    current: File,
    events: Option<File>,
    /// The kernel's log, until it says that a process was refused: of a v1 group the kernel says that once, and newer ones (seen on
    /// 6.18) in no other way: `pids_event` in `kernel/cgroup/pids.c` signals by `pids.events.local`, which v1 does not have.
    log: Option<OwnedFd>,
}

/// Where its limit is set.
#[derive(Debug)]
pub(super) struct PidsBounds {
    group: PathBuf,
}

impl Pids {
    pub(super) fn open(group: &Path, version: Version) -> Result<Self> {
        let current = group.join("pids.current");
        Ok(Self {
            bounds: PidsBounds { group: group.to_owned() },
            version,
            log: None,
            current: File::open(&current).on("open", &current)?,
            events: File::open(group.join("pids.events")).ok(),
        })
    }

    /// The limit of the group above.
    pub(super) fn above(&self) -> PidsBounds {
        PidsBounds { group: above(&self.bounds.group) }
    }

    pub(super) fn set_max(&mut self, max: Option<u64>) -> io::Result<()> {
        if max.is_some() && self.version == Version::V1 && self.log.is_none() && self.refused() == 0 {
            // Where it may not be read, the samples show it.
            self.log = kmsg::from_now_on().ok();
        }
        self.bounds.set_max(max)
    }

    /// The log that may say that the kernel has refused a process.
    pub(super) fn log(&self) -> Option<BorrowedFd<'_>> {
        self.log.as_ref().map(AsFd::as_fd)
    }

    /// Passes over what the log says. Whether the kernel has refused a process: it counts that before it says so.
    pub(super) fn hear_log(&mut self) -> bool {
        let passed = self.log.as_ref().is_some_and(|log| kmsg::skip(log).is_ok());
        let refused = self.refused() > 0;
        if refused || !passed {
            self.log = None;
        }
        refused
    }

    /// What signals that the kernel has refused a process, and whether by priority data.
    pub(super) fn refusals(&self) -> Option<(BorrowedFd<'_>, bool)> {
        self.events.as_ref().map(|events| (events.as_fd(), true))
    }

    /// How many processes and threads there are.
    pub(super) fn count(&self) -> u64 {
        number(&self.current).unwrap_or(0)
    }

    pub(super) fn read(&self, reading: &mut Reading) {
        reading.pids = self.count();
        reading.pids_refused = self.refused();
    }

    /// How often the kernel has refused a process.
    fn refused(&self) -> u64 {
        self.events.as_ref().and_then(|events| Lines::of(events).get(b"max")).unwrap_or(0)
    }
}

impl PidsBounds {
    pub(super) fn set_max(&self, max: Option<u64>) -> io::Result<()> {
        // More than there can be is no limit, and no number that the kernel takes.
        let max = max.filter(|max| *max < PIDS_EVER);
        fs::write(self.group.join("pids.max"), max.map_or("max".to_owned(), |max| max.to_string()))
    }
}

/// The controller `io`, of v2 alone: that of v1 leaves out what is written later than its process asked for it, which is most.
#[derive(Debug)]
pub(super) struct Io {
    group: PathBuf,
    stat: File,
    slowed: bool,
}

impl Io {
    pub(super) fn open(group: &Path) -> Option<Self> {
        let stat = File::open(group.join("io.stat")).ok()?;
        Some(Self { group: group.to_owned(), stat, slowed: false })
    }

    /// What was read and written.
    pub(super) fn bytes(&self) -> Option<u64> {
        io_bytes(&self.stat)
    }

    /// Whether it is kept from reading and writing as much as it wants.
    pub(super) fn slowed(&self) -> bool {
        self.slowed
    }

    /// Lets it read and write so many bytes a second each, on each device that it has used; or as many as it wants.
    pub(super) fn slow(&mut self, to: Option<f64>) -> io::Result<()> {
        self.slowed = to.is_some();
        let text = fs::read_to_string(self.group.join("io.stat"))?;
        let devices = text.lines().filter_map(|line| line.split_ascii_whitespace().next());
        let rate = bound(to);
        // A device that takes no limit, as one that stands on others, leaves it to those.
        let set = |device| fs::write(self.group.join("io.max"), format!("{device} rbps={rate} wbps={rate}"));
        let answers: Vec<io::Result<()>> = devices.map(set).collect();
        if to.is_none() || answers.iter().any(io::Result::is_ok) {
            return Ok(());
        }
        answers.into_iter().next().unwrap_or_else(|| Err(io::ErrorKind::Unsupported.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_keeps_its_proportion_in_v1() {
        assert_eq!([1, 10, 50, 100, 200, 10_000].map(shares_of), [10, 102, 512, 1024, 2048, 102_400]);
    }

    #[test]
    fn the_exact_figure_is_read_where_it_matters() {
        let exact = Exact { at: Instant::now(), current: 1600, memory: 800, swap: None };
        let steps = Steps { warn: Some(500.0.into()), stop: Some(2000.0.into()), ..Steps::default() };
        assert!(!exact.is_past(1650, &steps), "all that is charged has not reached the next rung");
        assert!(exact.is_past(1800, &steps), "it has changed much");
        let near = Steps { stop: Some(1640.0.into()), ..steps };
        assert!(exact.is_past(1650, &near), "it may have reached the next rung");
    }
}
