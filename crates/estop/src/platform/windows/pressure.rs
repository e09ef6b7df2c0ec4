//! What the system says of a job's pressure: nothing.

use std::time::{Duration, SystemTime};

use estop_watchdog::registry::Handle;

/// There is none here.
pub(crate) enum Question {}

/// What waiting for the answer has brought.
#[expect(dead_code, reason = "elsewhere there are answers")]
pub(crate) enum Heard {
    /// Nothing yet.
    Nothing,
    /// It was reached at this moment.
    Reached(SystemTime),
    /// There is nothing more to be told of.
    Gone,
}

impl Question {
    /// Never here.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn of_processors(_job: &Handle, _share: f64) -> Result<Self, String> {
        Err("the system does not tell of pressure".to_owned())
    }

    /// Never here.
    pub(crate) fn wait(&self, _wait: Duration) -> Heard {
        match *self {}
    }
}
