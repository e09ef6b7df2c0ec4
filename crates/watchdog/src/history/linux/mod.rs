//! What following processes has from Linux: the proc connector, taskstats, and looks into `/proc`.

mod connector;
mod look;
mod netlink;
mod taskstats;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use rustix::time::ClockId;

pub use look::owner_of;
pub(super) use look::{look, words};

use super::lineage::{Event, Taken, Used};
use crate::error::Context as _;
pub(super) use crate::job::linux::clock::own_cpu;
use crate::job::linux::{clock, ready};
use connector::Connector;
use taskstats::Taskstats;

/// Ticks of a second in which `/proc` counts (`USER_HZ`, the same on every Linux).
const TICKS: u64 = 100;
/// How many messages are taken at once, before anything else is done.
const BATCH: usize = 4096;

/// Wakes the tracker up.
#[derive(Clone, Debug)]
pub(super) struct Waker(Arc<OwnedFd>);

impl Waker {
    pub(super) fn new() -> crate::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).doing("make an event descriptor")?;
        Ok(Self(Arc::new(fd)))
    }

    pub(super) fn wake(&self) {
        // One that cannot be added to is full of wake-ups.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }
}

/// Where the word of processes comes from, if the kernel tells this process.
#[derive(Debug)]
pub(super) struct Stream {
    told: Option<(Connector, Option<Taskstats>)>,
}

impl Stream {
    /// Asks the kernel to tell of processes. It tells the privileged of the initial namespaces.
    pub(super) fn open() -> Self {
        // Without what they used processes are known all the same.
        Self { told: Connector::open().map(|connector| (connector, Taskstats::open().ok())).ok() }
    }

    pub(super) fn is_told(&self) -> bool {
        self.told.is_some()
    }

    /// Gives the kernel's telling up: it is looked instead.
    pub(super) fn close(&mut self) {
        self.told = None;
    }

    /// Waits at most `limit` to be told of something or to be woken up.
    pub(super) fn wait(&self, waker: &Waker, limit: Duration) {
        let mut fds = vec![PollFd::new(&*waker.0, PollFlags::IN)];
        // What was used is told together with an end, and read after it.
        fds.extend(self.told.iter().map(|(connector, _)| PollFd::new(connector.socket(), PollFlags::IN)));
        // An interruption only means that the look comes earlier.
        ready::any(&mut fds, limit);
        let mut count = [0; 8];
        let _ = rustix::io::read(&*waker.0, &mut count);
    }

    /// Waits at most `limit` to be woken up, whatever is told meanwhile.
    pub(super) fn rest(waker: &Waker, limit: Duration) {
        ready::readable(&*waker.0, limit);
    }

    /// Takes what the kernel has told since the last time, in order, at most a batch of it: `more` if there may be more. `lost`: the
    /// kernel had no room for some of it.
    pub(super) fn take(&mut self, mut each: impl FnMut(Event)) -> Taken {
        self.told.as_mut().map_or_else(Taken::default, |(connector, _)| connector.take(BATCH, &mut each))
    }

    /// Takes what those used who have ended since the last time. The kernel tells it before it tells of the end.
    pub(super) fn take_used(&mut self, each: impl FnMut(u32, Used)) {
        if let Some((_, Some(taskstats))) = &mut self.told {
            taskstats.take(each);
        }
    }
}

/// This host's clocks, side by side.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    now: Timestamp,
    monotonic: Duration,
    boot: Duration,
}

impl Clocks {
    fn read() -> Self {
        Self { now: Timestamp::now(), monotonic: clock::read(ClockId::Monotonic), boot: clock::read(ClockId::Boottime) }
    }

    /// The moment of an event, by its stamp.
    fn at(&self, monotonic: Duration) -> Timestamp {
        self.before(self.monotonic.saturating_sub(monotonic))
    }

    /// When a process was started, by the start time that `/proc` shows.
    fn started(&self, ticks: u64) -> Timestamp {
        let since_boot = Duration::from_millis(ticks.saturating_mul(1000 / TICKS));
        self.before(self.boot.saturating_sub(since_boot))
    }

    /// The start time that `/proc` would show of a process that was started at this moment.
    fn ticks(&self, monotonic: Duration) -> u64 {
        let boot = self.boot.saturating_sub(self.monotonic.saturating_sub(monotonic));
        u64::try_from(boot.as_millis()).unwrap_or(u64::MAX) / (1000 / TICKS)
    }

    fn before(&self, ago: Duration) -> Timestamp {
        self.now.checked_sub(ago).unwrap_or(self.now)
    }
}
