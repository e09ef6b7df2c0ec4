//! What following processes may cost.

use std::time::{Duration, Instant};

use super::platform;

/// The share of a core that the tracker may take for long.
const SHARE: f64 = 0.2;
/// How much it may take at once beyond that.
const BURST: Duration = Duration::from_millis(400);

/// Holds the tracker back where a storm of processes would have it eat the host. What the kernel has no room to tell meanwhile
/// becomes a gap, and is said so.
#[derive(Debug)]
pub(super) struct Pace {
    spent: Duration,
    at: Instant,
    left: f64,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { spent: platform::own_cpu(), at: Instant::now(), left: BURST.as_secs_f64() }
    }

    /// How long the calling thread, which took the time since the last call, has to rest.
    pub(super) fn rest(&mut self) -> Duration {
        let (spent, now) = (platform::own_cpu(), Instant::now());
        let earned = (now - self.at).as_secs_f64() * SHARE;
        self.left = (self.left + earned).min(BURST.as_secs_f64()) - (spent.saturating_sub(self.spent)).as_secs_f64();
        (self.spent, self.at) = (spent, now);
        if self.left >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64((-self.left / SHARE).min(1.0)) }
    }
}
