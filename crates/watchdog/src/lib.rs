//! estop's watchdog pillar: whatever a program does, it is contained, watched, limited and stopped, and the stop is proven.
//!
//! * [`job`]: what contains a workload's whole process tree: [`JobObjectManager`] and the platform behind it.
//! * [`monitor`]: [`ResourceMonitor`], which samples a job, and its thresholds.
//! * [`ladder`]: from a threshold to what is done: warn, throttle, freeze, stop.
//! * [`throttle`]: when a job that was slowed down is let run on.
//! * [`stop`]: the stop protocol's words and its answer.
//! * [`guardian`]: the small process that holds one job, and how it is spoken to.
//! * [`emergency`]: stopping all jobs, with or without their guardians.
//! * [`latch`]: what keeps everything stopped until a person says otherwise.
//! * [`history`]: which processes were in a job.
//! * [`registry`]: the run directory, in which jobs are found.

pub mod emergency;
mod error;
pub mod guardian;
pub mod history;
pub mod job;
pub mod ladder;
pub mod latch;
pub mod monitor;
pub mod registry;
pub mod stop;
pub mod throttle;

pub use error::{Error, Result};
pub use job::JobObjectManager;
pub use monitor::ResourceMonitor;
