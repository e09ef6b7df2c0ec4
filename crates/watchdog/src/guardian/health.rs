//! What a workload says of itself: that it is ready, that it is alive, how it is.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::platform::Notify;
use crate::Result;
use crate::job::Job;

/// How many messages are read at one look: one that says the same without a pause must not keep the guardian from its work.
const AT_ONCE: usize = 16;
/// The longest message; what is longer is cut.
const LONGEST: usize = 2048;
/// How much of a status is kept, in bytes.
const STATUS_LIMIT: usize = 200;

/// How a workload says that it is ready and alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotifySpec {
    /// The abstract name of its socket, as `NOTIFY_SOCKET` gives it after an `@`.
    pub socket: String,
    /// How long it may be silent once it is ready; for ever without.
    pub watchdog: Option<Duration>,
}

/// What a workload has said.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) socket: Notify,
    watchdog: Option<Duration>,
    pub(super) ready: bool,
    pub(super) status: String,
    /// When it last gave a sign of life.
    alive: Instant,
    /// Whether it says itself that it has failed.
    failed: bool,
}

impl Said {
    /// Listens for it.
    ///
    /// # Errors
    /// If the socket cannot be had.
    pub(super) fn open(spec: &NotifySpec) -> Result<Self> {
        Ok(Self {
            socket: Notify::bind(&spec.socket)?,
            watchdog: spec.watchdog,
            ready: false,
            status: String::new(),
            alive: Instant::now(),
            failed: false,
        })
    }

    /// Takes note of what was said since the last look, by anybody in the job.
    pub(super) fn hear(&mut self, job: &dyn Job) {
        let mut buffer = [0; LONGEST];
        for _ in 0..AT_ONCE {
            let Some((pid, length)) = self.socket.receive(&mut buffer) else { return };
            if job.main().is_some_and(|main| main.pid == pid) || job.holds(pid) {
                self.take(&String::from_utf8_lossy(&buffer[..length]));
            }
        }
    }

    fn take(&mut self, message: &str) {
        for line in message.lines() {
            match line.split_once('=') {
                Some(("READY", "1")) => {
                    self.ready = true;
                    self.alive = Instant::now();
                }
                Some(("WATCHDOG", "1")) => self.alive = Instant::now(),
                Some(("WATCHDOG", "trigger")) => self.failed = true,
                Some(("STATUS", status)) => {
                    status[..status.floor_char_boundary(STATUS_LIMIT)].clone_into(&mut self.status);
                }
                _ => {}
            }
        }
    }

    /// The time in which it stood still does not count.
    pub(super) fn stood_still(&mut self) {
        self.alive = Instant::now();
    }

    /// Why it has to be taken for dead, if it has.
    pub(super) fn fault(&self) -> Option<String> {
        if self.failed {
            return Some("it said itself that it has failed (WATCHDOG=trigger)".to_owned());
        }
        let limit = self.watchdog.filter(|limit| self.ready && self.alive.elapsed() >= *limit)?;
        Some(format!("no sign of life (WATCHDOG=1) for {} s", limit.as_secs_f64()))
    }
}
