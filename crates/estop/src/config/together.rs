//! `[together]`: what all workloads of one estop may have together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::{CpuPercent, Size};

/// What all workloads may have together, so that many small ones cannot take the host. The kernel keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Together {
    /// The most memory.
    #[serde(default)]
    pub memory_max: Option<Size>,
    /// The largest share of the processors, in percent of one core.
    #[serde(default)]
    pub cpu_max: Option<CpuPercent>,
    /// The most processes and threads.
    #[serde(default)]
    pub pids_max: Option<u64>,
}
