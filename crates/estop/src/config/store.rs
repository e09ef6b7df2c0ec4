//! `[store.NAME]`: a directory that can be put back.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::Period;

/// A protected directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// The directory.
    pub path: PathBuf,
    /// Where its contents and log are kept: outside of it, on the same filesystem, out of the workloads' reach. Default: chosen by estop.
    #[serde(default)]
    pub vault: Option<PathBuf>,
    /// Which snapshots are kept when they are rotated.
    #[serde(default)]
    pub keep: Keep,
    /// How often a snapshot is made by itself. Default: only when asked for.
    #[serde(default)]
    pub snapshot_every: Option<Period>,
}

/// Which snapshots are kept: each that one of the rules keeps. Without a rule, all are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// The newest ones, this many.
    #[serde(default)]
    pub last: Option<u32>,
    /// The newest of each of this many hours.
    #[serde(default)]
    pub hourly: Option<u32>,
    /// The newest of each of this many days.
    #[serde(default)]
    pub daily: Option<u32>,
    /// The newest of each of this many weeks.
    #[serde(default)]
    pub weekly: Option<u32>,
    /// The newest of each of this many months.
    #[serde(default)]
    pub monthly: Option<u32>,
    /// All that are younger than this.
    #[serde(default)]
    pub within: Option<Period>,
}

impl Keep {
    /// Whether there is no rule, so that every snapshot is kept.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }
}
