//! Who has a file of a store open.

use serde::{Deserialize, Serialize};

/// A process that can write to a file of the store which it has open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenBy {
    /// Its process id; 0 where the system does not tell who it is.
    pub pid: u32,
    /// When it started, in clock ticks since the machine did (Linux) or in 100 ns since 1601 (Windows): tells it from a later process
    /// with the same id.
    pub start_time: u64,
    /// Its name.
    pub command: String,
    /// One of the files it has open, relative to the store.
    pub path: String,
}
