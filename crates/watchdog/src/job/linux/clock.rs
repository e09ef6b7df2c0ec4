//! The kernel's clocks.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// What `clock` shows.
pub fn read(clock: ClockId) -> Duration {
    // None of those that count from a beginning is before it.
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

/// Processor time of the calling thread.
pub fn own_cpu() -> Duration {
    read(ClockId::ThreadCPUTime)
}
