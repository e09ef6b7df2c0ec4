//! When a workload is started again: the pauses, how often is too often, and who calls it off meanwhile.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use estop_watchdog::guardian;
use estop_watchdog::latch::{Entry, Latch};
use estop_watchdog::registry::RunDir;

use crate::site::Site;

/// The first pause before a restart; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause before a restart.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// How often a workload that waits for its next start looks whether the file `now` calls.
const CALL_LOOK: Duration = Duration::from_millis(100);

/// The restarts of one workload.
pub(super) struct Restarts {
    pauses: ExponentialBackoff,
    /// When it was started again.
    made: VecDeque<Instant>,
}

impl Restarts {
    /// None so far.
    pub(super) fn new() -> Self {
        Self { pauses: pauses(), made: VecDeque::new() }
    }

    /// The next pause is the first again.
    pub(super) fn begin_afresh(&mut self) {
        self.pauses = pauses();
    }

    /// How long to wait before the next one.
    pub(super) fn next_pause(&mut self) -> Duration {
        self.pauses.next().unwrap_or(LONGEST_PAUSE)
    }

    /// Whether another one is allowed now, of at most `most` within `window`; it then counts. One that is not begins the count anew.
    pub(super) fn is_allowed(&mut self, most: u32, window: Duration) -> bool {
        while self.made.front().is_some_and(|at| at.elapsed() >= window) {
            self.made.pop_front();
        }
        let allowed = self.made.len() < most as usize;
        if allowed {
            self.made.push_back(Instant::now());
        } else {
            self.made.clear();
        }
        allowed
    }
}

/// Each twice as long as the one before, and none quite like that of others.
fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .with_jitter()
        .without_max_times()
        .build()
}

/// Waits for `pause`, unless the file `now` calls for an end meanwhile: no guardian of this workload is there to hear it.
pub(super) async fn called_within(site: &Site, done: Option<guardian::Writing>, pause: Duration) -> bool {
    let run_dir = RunDir::at(&site.run_dir);
    let until = tokio::time::Instant::now() + pause;
    loop {
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        if left.is_zero() {
            return false;
        }
        tokio::time::sleep(left.min(CALL_LOOK)).await;
        let order = guardian::order(&run_dir);
        if order.is_some() && order != done {
            latch_by(&site.latch(), None, "file", "written to the run directory's file `now`");
            return true;
        }
    }
}

/// Sets the latch of `name`, or of all workloads.
pub(super) fn latch_by(latch: &Latch, name: Option<&str>, by: &str, reason: &str) {
    let entry = Entry::now(by, reason, "");
    if let Err(error) = latch.handle(name).and_then(|handle| handle.set(&entry)) {
        tracing::error!(%error, "the latch cannot be set; what waited for its next start is not started");
    }
}
