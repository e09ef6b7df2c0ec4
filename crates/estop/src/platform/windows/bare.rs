//! Processes ended by nothing but the system, for comparison.

use std::path::Path;
use std::time::Duration;

/// There are none here.
pub(crate) enum Bare {}

impl Bare {
    /// Never here.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(crate) fn start(_command: &[String], _most: u64) -> Result<Self, String> {
        Err("a job object is ended in one way only, which is estop's own".to_owned())
    }

    /// Never here.
    ///
    /// # Errors
    /// Never here.
    pub(crate) fn wait_for(&mut self, _sign: &Path, _go_on: impl Fn() -> bool) -> Result<(), String> {
        match *self {}
    }

    /// Never here.
    ///
    /// # Errors
    /// Never here.
    pub(crate) fn end(self, _frozen: bool) -> Result<Duration, String> {
        match self {}
    }
}
